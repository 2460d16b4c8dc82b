package app

import (
	"context"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee/internal/platform/db/mysqlconn"
)

// clockTries is how often a clock is read: the reading with the shortest journey counts.
const clockTries = 5

// aboutSecret is under what name the nodes compare their secrets, and markOf what they compare.
const aboutSecret = "the secret (LEVEE_SECRET)"

func markOf(k keys) (string, error) {
	mark, err := k.derive("mark of the secret")
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(mark[:16]), nil
}

// mysql looks at the database server, its replicas, and the nodes that are known there.
func (d *Doctor) mysql(ctx context.Context) {
	cfg := d.Config.Database
	busy := cfg.BusyTimeout
	if busy == 0 {
		busy = 5 * time.Second
	}
	s, err := mysqlconn.Parse("db", cfg.URL, cfg.Password, busy)
	if err == nil {
		d.tunnel, err = cfg.Tunnel(slog.New(slog.DiscardHandler)) // what is wrong with it is a finding
	}
	if d.tunnel != nil {
		defer d.tunnel.Close()
		s.Through(d.tunnel.DialContext)
	}
	if err == nil {
		_, err = s.Ask(ctx)
	}
	var c *mysqlconn.Conn
	if err == nil {
		c, err = s.Open(ctx, mysqlconn.ForKeeping)
	}
	if err != nil {
		d.wrong(checkDatabase, reason(err), "start it, or correct the line db and database.password, and database.bastion if it has one; until then the house answers 503")
		return
	}
	defer c.Close()
	d.ok(checkDatabase, s.Addr+": "+s.Version)
	for _, look := range []struct {
		check string
		at    func(ctx context.Context, s *mysqlconn.Server, c *mysqlconn.Conn) error
	}{
		{"clock of the database", d.mysqlClock}, {"commits are on disk", d.durable}, {"collation", d.collation}, {"transactions", d.transactions},
		{"secret", d.secret}, {"nodes", d.members}, {"connections", d.connections},
	} {
		if err := look.at(ctx, s, c); err != nil {
			d.wrong(look.check, "it cannot be told: "+reason(err), "give the database user ALL on the database, and look into the server's log")
		}
	}
	for i, url := range cfg.Replicas {
		d.replica(ctx, c, fmt.Sprintf("replica %d", i+1), url, busy)
	}
}

func (d *Doctor) mysqlClock(ctx context.Context, _ *mysqlconn.Server, c *mysqlconn.Conn) error {
	var ahead, within time.Duration
	for i := range clockTries {
		before := d.Clock()
		rows, err := c.Ask(ctx, "SELECT UNIX_TIMESTAMP(NOW(6))")
		half := d.Clock().Sub(before) / 2
		if err != nil {
			return err
		}
		seconds, err := strconv.ParseFloat(mysqlconn.Text(rows[0][0]), 64)
		if err != nil {
			return err
		}
		if i == 0 || half < within {
			ahead, within = time.UnixMicro(int64(seconds*1e6)).Sub(before.Add(half)), half
		}
	}
	d.clock("clock of the database", ahead, within)
	return nil
}

func (d *Doctor) durable(ctx context.Context, s *mysqlconn.Server, c *mysqlconn.Conn) error {
	rows, err := c.Ask(ctx, "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog")
	if err != nil {
		return err
	}
	flush, binlog, sync := number(rows[0][0]), number(rows[0][1]), number(rows[0][2])
	var loose []string
	if flush != 1 {
		loose = append(loose, fmt.Sprintf("innodb_flush_log_at_trx_commit is %d", flush))
	}
	if binlog != 0 && sync != 1 {
		loose = append(loose, fmt.Sprintf("sync_binlog is %d", sync))
	}
	if len(loose) > 0 {
		d.wrong("commits are on disk", strings.Join(loose, ", ")+": when the machine dies, orders are lost that buyers were told of",
			"set innodb_flush_log_at_trx_commit = 1 and sync_binlog = 1")
		return nil
	}
	d.ok("commits are on disk", "each one is flushed")
	return nil
}

func (d *Doctor) collation(ctx context.Context, s *mysqlconn.Server, c *mysqlconn.Conn) error {
	rows, err := c.Ask(ctx, `SELECT table_name, collation_name FROM information_schema.columns
		WHERE table_schema = DATABASE() AND collation_name IS NOT NULL AND collation_name <> ? ORDER BY table_name, column_name LIMIT 5`, value(s.Collation))
	if err != nil {
		return err
	}
	if len(rows) > 0 {
		var tables []string
		for _, r := range rows {
			tables = append(tables, mysqlconn.Text(r[0])+" ("+mysqlconn.Text(r[1])+")")
		}
		d.wrong("collation", strings.Join(slices.Compact(tables), ", ")+": names that differ in case or in spaces at the end would count as one",
			"with all nodes stopped: ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4 COLLATE "+s.Collation)
		return nil
	}
	d.ok("collation", s.Collation+" on every table")
	return nil
}

// transactions proves on a connection as the nodes have them what something in between (a proxy, a pooler) may have changed.
func (d *Doctor) transactions(ctx context.Context, s *mysqlconn.Server, c *mysqlconn.Conn) (err error) {
	if rows, err := c.Ask(ctx, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'db_beat'"); err != nil || number(rows[0][0]) == 0 {
		if err == nil {
			d.warn("transactions", "the database is empty", "start a node, or levee migrate")
		}
		return err
	}
	w, err := s.Open(ctx, mysqlconn.ForWriting)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	rows, err := w.Ask(ctx, "SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation', 'autocommit')")
	if err != nil {
		return err
	}
	const do = "let the nodes reach the server itself: a proxy between them changes what they set"
	well := true
	for _, r := range rows {
		name, is := mysqlconn.Text(r[0]), mysqlconn.Text(r[1])
		if name == "autocommit" && is != "OFF" || name != "autocommit" && is != "SERIALIZABLE" {
			well = false
			d.wrong("transactions", fmt.Sprintf("a node sets %s as it needs it, and then it is %s: sales could be oversold", name, is), do)
		}
	}
	result, err := w.Send(ctx, "UPDATE db_beat SET n = n WHERE id = 1", nil)
	if err != nil {
		return err
	}
	matched, err := result.RowsAffected()
	if err == nil {
		err = w.Command(ctx, "ROLLBACK")
	}
	if err != nil {
		return err
	}
	if matched != 1 {
		well = false
		d.wrong("transactions", "an UPDATE tells how many rows it changed, not how many it found: writes that change nothing look like lost ones", do)
	}
	if well {
		d.ok("transactions", "SERIALIZABLE, found rows are counted")
	}
	return nil
}

func (d *Doctor) secret(ctx context.Context, _ *mysqlconn.Server, c *mysqlconn.Conn) error {
	k, err := d.Config.openSecret()
	if err != nil {
		return err
	}
	mine, err := markOf(k)
	if err != nil {
		return err
	}
	rows, err := c.Ask(ctx, "SELECT value FROM node_common WHERE name = ?", value(aboutSecret))
	switch {
	case noTable(err) || err == nil && len(rows) == 0:
		d.ok("secret", "no node has run yet: the first one's counts")
		return nil
	case err != nil:
		return err
	case mysqlconn.Text(rows[0][0]) != mine:
		d.wrong("secret", "this one is not the nodes' of this database: ids, sign-ins and webhooks would be void", "put the same LEVEE_SECRET on all machines; no node starts with another")
		return nil
	}
	d.ok("secret", "the same as the nodes'")
	return nil
}

// sighted is a node as SQL has it.
type sighted struct {
	name, address, version string
	beat                   int64
}

func sight(ctx context.Context, c *mysqlconn.Conn) (map[int64]sighted, error) {
	rows, err := c.Ask(ctx, "SELECT id, name, address, version, beat FROM node_member")
	if noTable(err) {
		return nil, nil
	}
	all := map[int64]sighted{}
	for _, r := range rows {
		all[number(r[0])] = sighted{mysqlconn.Text(r[1]), mysqlconn.Text(r[2]), mysqlconn.Text(r[3]), number(r[4])}
	}
	return all, err
}

// members watches the nodes' counters until all have risen, or for a lease.
func (d *Doctor) members(ctx context.Context, _ *mysqlconn.Server, c *mysqlconn.Conn) error {
	lease := d.Config.Node.Lease
	if lease == 0 {
		lease = 5 * time.Second
	}
	first, err := sight(ctx, c)
	if err != nil {
		return err
	}
	silent, live := maps.Clone(first), map[int64]sighted{}
	for end := time.Now().Add(lease); len(silent) > 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lease / 20):
		}
		now, err := sight(ctx, c)
		if err != nil {
			return err
		}
		for id, m := range silent {
			n, there := now[id]
			if !there { // it has stopped in order
				delete(silent, id)
			} else if n.beat != m.beat {
				delete(silent, id)
				live[id] = n
			}
		}
	}
	d.nodes = len(live)
	for _, m := range silent {
		d.warn("nodes", fmt.Sprintf("%s at %s has fallen silent", m.name, m.address), "it was killed, or cannot reach the database: look there; a node that is gone for good is forgotten after ten minutes")
	}
	versions := map[string]bool{}
	well := len(silent) == 0
	for _, m := range live {
		versions[m.version] = true
		if _, _, err := reach(ctx, m.address, "/healthz"); err != nil {
			well = false
			d.wrong("nodes", fmt.Sprintf("%s lives, but not at %s as seen from here: %v", m.name, m.address, err),
				"set its node.address to where the other nodes reach it, and open that port between them: requests about waiting rooms are handed over there")
		} else if status, _, err := reach(ctx, m.address, "/readyz"); err != nil || status != http.StatusOK {
			well = false
			d.warn("nodes", fmt.Sprintf("%s at %s is not ready", m.name, m.address), "its log says why")
		}
	}
	if len(versions) > 1 {
		well = false
		d.warn("nodes", "they run different versions: "+strings.Join(slices.Sorted(maps.Keys(versions)), ", "), "bring the upgrade to its end; beside it, nothing")
	}
	if well {
		d.ok("nodes", fmt.Sprintf("%d live, each can be reached from here", len(live)))
	}
	d.clocks(ctx, live)
	return nil
}

// clocks sets the clocks of the nodes that can be reached beside this machine's: sales open and end by them.
func (d *Doctor) clocks(ctx context.Context, live map[int64]sighted) {
	const check = "clocks of the nodes"
	read, well := 0, true
	for _, id := range slices.Sorted(maps.Keys(live)) {
		m := live[id]
		ahead, within, err := d.clockAt(ctx, m.address)
		if err != nil {
			continue // that it cannot be reached was said
		}
		read++
		if said, ok := d.judge(ahead, within); !ok {
			well = false
			d.wrong(check, fmt.Sprintf("that of %s is %s", m.name, said), setClocks)
		}
	}
	if well && read > 0 {
		d.ok(check, fmt.Sprintf("%d agree with this machine's", read))
	}
}

func (d *Doctor) connections(ctx context.Context, s *mysqlconn.Server, c *mysqlconn.Conn) error {
	each, err := d.Config.Database.Connections()
	if err != nil {
		return err
	}
	rows, err := c.Ask(ctx, "SELECT @@max_connections")
	if err != nil {
		return err
	}
	// One node more than live now: so many there are while one is replaced.
	most, nodes := number(rows[0][0]), int64(d.nodes+1)
	if need := nodes * int64(each); most < need {
		d.wrong("connections", fmt.Sprintf("max_connections is %d; %d nodes of %d connections need %d", most, nodes, each, need),
			fmt.Sprintf("set max_connections = %d, or lower database.readers and database.writers", need+20))
		return nil
	}
	d.ok("connections", fmt.Sprintf("max_connections is %d, enough for %d nodes of %d", most, nodes, each))
	return nil
}

// replica counts up the house's own row on the primary and waits until the replica shows it: what its server says of itself may be
// wrong, and its clock too.
func (d *Doctor) replica(ctx context.Context, primary *mysqlconn.Conn, check, url string, busy time.Duration) {
	lag := d.Config.Database.ReplicaLag
	if lag == 0 {
		lag = 3 * time.Second
	}
	const do = "look into its log and SHOW REPLICA STATUS; until it has caught up, reads go to the primary"
	s, err := mysqlconn.Parse("database.replicas", url, d.Config.Database.Password, busy)
	if err == nil {
		if d.tunnel != nil {
			s.Through(d.tunnel.DialContext)
		}
		_, err = s.Ask(ctx)
	}
	var c *mysqlconn.Conn
	if err == nil {
		c, err = s.Open(ctx, mysqlconn.ForKeeping)
	}
	if err != nil {
		d.wrong(check, reason(err), do)
		return
	}
	defer c.Close()
	result, err := primary.Send(ctx, "UPDATE db_beat SET n = LAST_INSERT_ID(n + 1) WHERE id = 1", nil)
	if err != nil {
		d.wrong(check, "the primary's heartbeat cannot be written: "+reason(err), "start a node, or levee migrate")
		return
	}
	sent, err := result.LastInsertId()
	begun := time.Now()
	for seen := int64(-1); err == nil && seen < sent; {
		rows, e := c.Ask(ctx, "SELECT n FROM db_beat WHERE id = 1")
		if err = e; err == nil && len(rows) == 1 {
			seen = number(rows[0][0])
		}
		if time.Since(begun) > lag && seen < sent {
			d.wrong(check, fmt.Sprintf("%s has not shown within %v (database.replica_lag) what was written", s.Addr, lag), do)
			return
		}
		if seen < sent {
			time.Sleep(20 * time.Millisecond)
		}
	}
	took := time.Since(begun)
	var rows [][]driver.Value
	if err == nil {
		rows, err = c.Ask(ctx, "SELECT @@read_only")
	}
	switch {
	case err != nil:
		d.wrong(check, s.Addr+": "+reason(err), do)
	case number(rows[0][0]) == 0:
		d.warn(check, s.Addr+" takes writes, which would part it from its primary", "set read_only = 1 there")
	default:
		d.ok(check, fmt.Sprintf("%s shows what was written after %v", s.Addr, took.Round(time.Millisecond)))
	}
}

// noTable reports whether no node has made the tables yet.
func noTable(err error) bool {
	return err != nil && mysqlconn.Number(mysqlconn.FromServer(err)) == 1146
}

func number(v driver.Value) int64 {
	if n, ok := v.(int64); ok {
		return n
	}
	n, _ := strconv.ParseInt(mysqlconn.Text(v), 10, 64)
	return n
}

func value(v any) driver.NamedValue { return driver.NamedValue{Ordinal: 1, Value: v} }
