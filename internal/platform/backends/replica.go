package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"levee"
)

var errNoReplica = errors.New("this server follows nobody: it is no replica")

// follow makes the server a replica, by global transaction ids.
func (s *MySQLServer) follow(ctx context.Context, primary *MySQLServer) error {
	for _, statement := range []string{
		"SET GLOBAL read_only = 1",
		"STOP SLAVE",
		fmt.Sprintf("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=%d, MASTER_USER='root', MASTER_CONNECT_RETRY=1, "+
			"MASTER_HEARTBEAT_PERIOD=1, MASTER_USE_GTID=slave_pos", primary.port.number),
		"START SLAVE",
	} {
		if err := s.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	s.mu.Lock()
	s.master = primary
	s.mu.Unlock()
	return nil
}

func (s *MySQLServer) primary() (*MySQLServer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return nil, errNoReplica
	}
	return s.master, nil
}

func (s *MySQLServer) replica(ctx context.Context, statement string) error {
	if _, err := s.primary(); err != nil {
		return err
	}
	return s.Exec(ctx, statement)
}

// StopReplication lets the replica lag from now on, without a limit: it receives what the primary did and does not apply it.
func (s *MySQLServer) StopReplication(ctx context.Context) error {
	return s.replica(ctx, "STOP SLAVE SQL_THREAD")
}

// StartReplication lets the replica apply again what it has received.
func (s *MySQLServer) StartReplication(ctx context.Context) error {
	return s.replica(ctx, "START SLAVE SQL_THREAD")
}

// Cut separates the replica from the primary altogether: it receives nothing either. Join ends that.
func (s *MySQLServer) Cut(ctx context.Context) error { return s.replica(ctx, "STOP SLAVE") }

// Join connects the replica to the primary again.
func (s *MySQLServer) Join(ctx context.Context) error { return s.replica(ctx, "START SLAVE") }

const maxLag = time.Hour

// Lag makes the replica apply everything the time d later than the primary, in whole seconds up to an hour; 0 ends that.
func (s *MySQLServer) Lag(ctx context.Context, d time.Duration) error {
	if d < 0 || d > maxLag || d%time.Second != 0 {
		return levee.Invalid("lag", "whole seconds up to "+maxLag.String(), d)
	}
	for _, statement := range []string{"STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=" + strconv.Itoa(int(d/time.Second)), "START SLAVE"} {
		if err := s.replica(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// CatchUp waits until the replica has applied everything that the primary had committed when it was called. It fails when the replica
// has stopped.
func (s *MySQLServer) CatchUp(ctx context.Context) error {
	primary, err := s.primary()
	if err != nil {
		return err
	}
	position, err := primary.QueryString(ctx, "SELECT @@GLOBAL.gtid_binlog_pos")
	if err != nil {
		return fmt.Errorf("asking the primary for its position: %w", err)
	}
	if position == "" {
		return nil // nothing was ever written
	}
	for {
		// In short steps: a wait inside the server would not end with the context.
		reached, err := s.QueryString(ctx, "SELECT MASTER_GTID_WAIT(?, 0.2)", position)
		if err != nil {
			return fmt.Errorf("waiting for the replica: %w", err)
		}
		if reached == "0" {
			return nil
		}
		if why, err := s.stopped(ctx); err != nil || why != "" {
			return errors.Join(err, fmt.Errorf("the replica does not replicate: %s", why))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for the replica: %w", ctx.Err())
		}
	}
}

// stopped says why the replica cannot catch up, "" when it is on its way.
func (s *MySQLServer) stopped(ctx context.Context) (string, error) {
	rows, err := s.admin.QueryContext(ctx, "SHOW SLAVE STATUS")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	if !rows.Next() {
		return "it follows nobody", rows.Err()
	}
	values := make([]*string, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		return "", err
	}
	status := map[string]string{}
	for i, c := range columns {
		if values[i] != nil {
			status[c] = *values[i]
		}
	}
	for _, thread := range []string{"SQL", "IO"} {
		if e := status["Last_"+thread+"_Error"]; e != "" {
			return e, nil
		}
		if status["Slave_"+thread+"_Running"] == "No" {
			return "its " + thread + " thread is stopped", nil
		}
	}
	return "", nil
}

// Promote makes a replica the primary at once, as it is: what it has not applied yet is lost, as with an operator in a hurry; call CatchUp
// first for a promotion that loses nothing. The server s is told nothing: it may be dead, and when it lives it goes on taking writes. The
// other replicas follow the new primary; one that was ahead of it stops, as in production. The new primary has them in its Replicas, and
// s has none any more.
func (s *MySQLServer) Promote(ctx context.Context, replica int) (*MySQLServer, error) {
	if replica < 0 || replica >= len(s.Replicas) {
		return nil, levee.Invalid("replica", fmt.Sprintf("an index of the %d replicas", len(s.Replicas)), replica)
	}
	next := s.Replicas[replica]
	for _, statement := range []string{"STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"} {
		if err := next.Exec(ctx, statement); err != nil {
			return nil, fmt.Errorf("%s: %w", statement, err)
		}
	}
	next.mu.Lock()
	next.master = nil
	next.mu.Unlock()
	rest := slices.Delete(slices.Clone(s.Replicas), replica, replica+1)
	s.Replicas = nil
	next.Replicas = rest
	for _, r := range rest {
		if err := r.follow(ctx, next); err != nil {
			return next, err
		}
	}
	return next, nil
}
