package binlog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/google/uuid"

	"levee"
	"levee/internal/platform/db"
)

const (
	changesMost = 500              // of one call of Apply, before it is made; a group of rows is not cut
	queued      = 1024             // events read ahead
	idleStore   = 30 * time.Second // how often a position is stored when nothing of ours has happened
	pauseLeast  = 100 * time.Millisecond
	pauseMost   = 30 * time.Second
	pauseWrong  = time.Minute // after what a person must mend
)

// Check fails when this process is not the one that follows any more. It is node.Term's CheckTx.
type Check func(ctx context.Context, tx *db.Tx) error

// Run follows until ctx ends, or check fails with CodeConflict, whose error it returns. Every other failure is logged, counted and tried
// again: after 100 ms to 30 s, and after a minute what a person must mend (ErrOff, ErrPrivilege). One process should run it at a time:
//
//	nodes.Keep("binlog", func(ctx context.Context, t node.Term) error { return f.Run(ctx, t.CheckTx) })
//
// Two that run beside each other give changes twice and skip none. A nil check is for a process that is alone.
func (f *Follower) Run(ctx context.Context, check Check) error {
	pause, last := pauseLeast, ""
	for {
		s := &session{Follower: f, check: check}
		err := s.run(ctx)
		f.metrics.following.Set(0)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil { // it begins anew
			pause, last = pauseLeast, ""
			continue
		}
		if errors.Is(err, errOver) {
			return err
		}
		f.metrics.failures.Inc()
		if err.Error() != last {
			last = err.Error()
			f.log.ErrorContext(ctx, "the binary log is not followed; it is tried again", "err", err)
		}
		if s.followed {
			pause, last = pauseLeast, ""
		}
		wait := pause
		if errors.Is(err, ErrOff) || errors.Is(err, ErrPrivilege) {
			wait = pauseWrong
		}
		if pause *= 2; pause > pauseMost {
			pause = pauseMost
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// errOver: another process follows.
var errOver = errors.New("binlog: another process follows")

// session is one connection's life.
type session struct {
	*Follower
	check    Check
	server   server
	followed bool // an event came

	done    mysql.GTIDSet // what was applied, or is among pending
	begun   func()        // adds the transaction under way to done
	pending []Change
	advance bool // done is not stored
	ours    bool // and something of ours was in it
	stored  time.Time
}

func (s *session) run(ctx context.Context) (err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	s.server, err = s.examine(c)
	_ = c.Close()
	if err != nil {
		return err
	}
	flavor, position, err := s.load(ctx)
	if err != nil {
		return err
	}
	switch {
	case flavor == "":
		err = s.anew(ctx, "no position is stored yet")
	case flavor != s.server.flavor:
		err = s.anew(ctx, "the server was "+flavor+" and is "+s.server.flavor+" now")
	default:
		s.done, err = parseSet(flavor, position)
	}
	if err != nil {
		return err
	}
	err = s.stream(ctx)
	if errors.Is(err, ErrPurged) {
		s.log.ErrorContext(ctx, "the server does not have what follows the position: everything is dropped, and followed from now on", "err", err)
		return s.anew(ctx, "the server does not have what follows the position")
	}
	return err
}

func parseSet(flavor, position string) (mysql.GTIDSet, error) {
	return mysql.ParseGTIDSet(flavor, position)
}

// anew begins at what is committed now. Lost is called after that was read: what comes later is followed.
func (s *session) anew(ctx context.Context, why string) (err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	s.server, err = s.examine(c)
	_ = c.Close()
	if err != nil {
		return err
	}
	if s.done, err = parseSet(s.server.flavor, s.server.now); err != nil {
		return err
	}
	if err := s.lose(ctx, why); err != nil {
		return err
	}
	return s.keep(ctx)
}

func (s *session) lose(ctx context.Context, why string) error {
	s.metrics.lost.Inc()
	s.log.WarnContext(ctx, "changes may have been missed; all copies are dropped", "why", why)
	return s.cfg.Lost(ctx, why)
}

// keep stores the position.
func (s *session) keep(ctx context.Context) error {
	err := s.store(ctx, s.check, s.server.flavor, s.done.String())
	if levee.CodeOf(err) == levee.CodeConflict {
		return errors.Join(errOver, err)
	}
	if err == nil {
		s.advance, s.ours, s.stored = false, false, time.Now()
	}
	return err
}

// stream reads events until something fails.
func (s *session) stream(ctx context.Context) (err error) {
	inner, cancel := context.WithCancel(ctx)
	events := make(chan *replication.BinlogEvent, queued)
	syncer := replication.NewBinlogSyncer(replication.BinlogSyncerConfig{
		ServerID: s.id, Flavor: s.server.flavor, Host: s.at.host, Port: s.at.port, User: s.at.user, Password: s.cfg.Password.Reveal(),
		TLSConfig: s.cfg.TLS, Dialer: s.dial, Logger: slog.New(slog.DiscardHandler), // what matters comes back as an error
		HeartbeatPeriod: heartbeat, ReadTimeout: silence, DisableRetrySync: true, DiscardGTIDSet: true, FillZeroLogPos: s.server.flavor == mysql.MariaDBFlavor,
		RowsEventDecodeFunc: s.decode, SynchronousEventHandler: handler(func(e *replication.BinlogEvent) error {
			if x, ok := e.Event.(*replication.MariadbGTIDEvent); ok {
				own := *x // the library counts on in the one that it gives out
				e.Event = &own
			}
			select {
			case events <- e:
				return nil
			case <-inner.Done():
				return inner.Err()
			}
		}),
	})
	streamer, err := syncer.StartSyncGTID(s.done.Clone())
	failed := make(chan error, 1)
	ended := make(chan struct{})
	if err != nil {
		close(ended)
	} else {
		go func() {
			defer close(ended)
			_, err := streamer.GetEvent(inner) // events go to the handler: this returns when the stream fails
			failed <- err
		}()
	}
	defer func() {
		cancel()
		<-ended
		syncer.Close()
	}()
	if err != nil {
		return s.refused(err)
	}
	s.metrics.following.Set(1)
	s.log.InfoContext(ctx, "the binary log is followed", "server", s.server.flavor, "from", levee.Shorten(s.done.String(), 200))
	tick := time.NewTicker(max(s.cfg.StoreEvery/2, 5*time.Millisecond))
	defer tick.Stop()
	for {
		var e *replication.BinlogEvent
		select {
		case e = <-events:
		default:
			if err := s.deliver(ctx); err != nil {
				return err
			}
			select {
			case e = <-events:
			case err := <-failed:
				// What came before the failure is good.
				for len(events) > 0 {
					if err := s.take(ctx, <-events); err != nil {
						return err
					}
				}
				if e := s.deliver(ctx); e != nil {
					return e
				}
				return errors.Join(s.save(ctx), s.refused(err))
			case <-tick.C:
				if s.ours && time.Since(s.stored) >= s.cfg.StoreEvery || s.advance && time.Since(s.stored) >= idleStore {
					if err := s.keep(ctx); err != nil {
						return err
					}
				}
				continue
			case <-ctx.Done():
				return s.save(context.WithoutCancel(ctx))
			}
		}
		s.followed = true
		if err := s.take(ctx, e); err != nil {
			return err
		}
		if s.ours && len(s.pending) == 0 && time.Since(s.stored) >= s.cfg.StoreEvery {
			if err := s.keep(ctx); err != nil {
				return err
			}
		}
	}
}

type handler func(e *replication.BinlogEvent) error

// HandleEvent is what the library calls.
func (h handler) HandleEvent(e *replication.BinlogEvent) error { return h(e) }

// save stores the position if it is not.
func (s *session) save(ctx context.Context) error {
	if !s.advance {
		return nil
	}
	return s.keep(ctx)
}

// decode leaves rows out that nobody asked for, and those that are too large: they come without rows.
func (s *session) decode(e *replication.RowsEvent, data []byte) error {
	at, err := e.DecodeHeader(data)
	if err != nil || s.wanted(e) == nil || len(data) > s.cfg.RowMost {
		return err
	}
	return e.DecodeData(at, data)
}

func (s *session) wanted(e *replication.RowsEvent) *table {
	if e.Table == nil || string(e.Table.Schema) != s.at.database {
		return nil
	}
	return s.tables[string(e.Table.Table)]
}

var (
	schemaChange = regexp.MustCompile(`(?is)^\s*(/\*.*?\*/\s*)*(alter|rename|create|drop|truncate)\b`)
	rowsGone     = regexp.MustCompile(`(?is)^\s*(/\*.*?\*/\s*)*(truncate|drop|rename|create\s+or\s+replace|alter.*(partition|rename|exchange))\b`)
	rowsUnseen   = regexp.MustCompile(`(?is)^\s*(/\*.*?\*/\s*)*(insert|update|delete|replace|load)\b`)
)

// take handles one event.
func (s *session) take(ctx context.Context, e *replication.BinlogEvent) error {
	switch x := e.Event.(type) {
	case *replication.MariadbGTIDEvent:
		s.begun = func() { _ = s.done.(*mysql.MariadbGTIDSet).AddSet(x.GTID.Clone()) }
	case *replication.GTIDEvent:
		id, err := uuid.FromBytes(x.SID)
		if err != nil {
			return err
		}
		s.begun = func() { s.done.(*mysql.MysqlGTIDSet).AddGTID(id, x.GNO) }
	case *replication.TransactionPayloadEvent: // a compressed transaction
		for _, inner := range x.Events {
			if err := s.take(ctx, inner); err != nil {
				return err
			}
		}
	case *replication.XIDEvent:
		s.commit()
	case *replication.QueryEvent:
		return s.query(ctx, x)
	case *replication.RowsEvent:
		return s.rows(ctx, e, x)
	}
	return nil
}

func (s *session) commit() {
	if s.begun != nil {
		s.begun()
		s.begun, s.advance = nil, true
	}
}

// query handles statements: the frame of a transaction, changes of schemas, and what the log has no rows of.
func (s *session) query(ctx context.Context, x *replication.QueryEvent) error {
	q := bytes.TrimSpace(x.Query)
	switch {
	case bytes.EqualFold(q, []byte("BEGIN")), bytes.HasPrefix(bytes.ToUpper(q[:min(len(q), 9)]), []byte("SAVEPOINT")):
		return nil
	case rowsUnseen.Match(q):
		// Inside of a transaction: its end is told by an event of its own.
		return s.missed(ctx, q, "a statement was logged without its rows")
	case schemaChange.Match(q):
		for _, t := range s.tables {
			t.columns = nil
		}
		if rowsGone.Match(q) {
			if err := s.missed(ctx, q, "a table that is followed was emptied, dropped or replaced"); err != nil {
				return err
			}
		}
	}
	s.commit()
	return nil
}

// missed calls Lost if a statement names a table that is followed.
func (s *session) missed(ctx context.Context, q []byte, why string) error {
	text := strings.ToLower(string(q))
	for name := range s.tables {
		if strings.Contains(text, strings.ToLower(name)) || strings.Contains(text, "database") {
			return s.loseHere(ctx, why)
		}
	}
	return nil
}

// loseHere calls Lost between what came before and what comes after.
func (s *session) loseHere(ctx context.Context, why string) error {
	if err := s.deliver(ctx); err != nil {
		return err
	}
	s.ours = true
	return s.lose(ctx, why)
}

// rows turns a group of rows into changes.
func (s *session) rows(ctx context.Context, e *replication.BinlogEvent, x *replication.RowsEvent) error {
	t := s.wanted(x)
	if t == nil {
		return nil
	}
	if len(x.Rows) == 0 {
		return s.loseHere(ctx, "a group of rows is larger than the limit")
	}
	if names := x.Table.ColumnNameString(); len(names) > 0 { // binlog_row_metadata = FULL: exact, whatever happened to the table since
		if !slices.Equal(names, t.columns) {
			if err := t.take(names); err != nil {
				return err
			}
		}
	} else if t.columns == nil || len(t.columns) != int(x.ColumnCount) {
		if err := s.learn(ctx, t); err != nil {
			return err
		}
		if len(t.columns) != int(x.ColumnCount) {
			// The log is at an older shape of the table than the server is.
			t.columns = nil
			return s.loseHere(ctx, "a table has changed since, and the log does not name its columns (binlog_row_metadata = FULL)")
		}
	}
	for _, skipped := range x.SkippedColumns {
		for _, at := range t.places {
			if slices.Contains(skipped, at) {
				return s.loseHere(ctx, "rows were logged in parts")
			}
		}
	}
	s.ours = true
	at := time.Unix(int64(e.Header.Timestamp), 0).UTC()
	unsigned := x.Table.UnsignedMap()
	pick := func(row []any) []any {
		vs := make([]any, len(t.places))
		for i, p := range t.places {
			vs[i] = value(row[p], x.Table.ColumnType[p], unsigned[p])
		}
		return vs
	}
	switch x.Type() {
	case replication.EnumRowsEventTypeInsert:
		for _, row := range x.Rows {
			s.pending = append(s.pending, Change{Table: t.Name, Kind: Insert, After: pick(row), At: at})
		}
	case replication.EnumRowsEventTypeDelete:
		for _, row := range x.Rows {
			s.pending = append(s.pending, Change{Table: t.Name, Kind: Delete, Before: pick(row), At: at})
		}
	case replication.EnumRowsEventTypeUpdate:
		for i := 0; i+1 < len(x.Rows); i += 2 {
			s.pending = append(s.pending, Change{Table: t.Name, Kind: Update, Before: pick(x.Rows[i]), After: pick(x.Rows[i+1]), At: at})
		}
	default:
		return s.loseHere(ctx, "rows were logged in a form that is not known")
	}
	if len(s.pending) >= changesMost {
		return s.deliver(ctx)
	}
	return nil
}

// deliver applies what is pending.
func (s *session) deliver(ctx context.Context) error {
	for len(s.pending) > 0 {
		part := s.pending[:min(len(s.pending), 1000)]
		if err := s.cfg.Apply(ctx, part); err != nil {
			return err
		}
		s.metrics.changes.Add(float64(len(part)))
		s.metrics.behind.Set(max(0, time.Since(part[len(part)-1].At).Truncate(time.Second).Seconds()))
		s.pending = s.pending[len(part):]
		if s.fault != nil {
			s.fault()
		}
	}
	s.pending = nil
	return nil
}
