package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun/dialect/feature"
	"github.com/uptrace/bun/dialect/mysqldialect"

	"levee"
	"levee/internal/platform/db/mysqlconn"
)

// mysqlEngine is the engine over a MySQL server. Each transaction runs on its caller's goroutine with a connection of its own; at most
// Config.Writers at once, and those who wait for a turn get it in the order in which they came.
type mysqlEngine struct {
	cfg     Config
	server  *mysqlconn.Server
	log     *slog.Logger
	metrics *metrics

	turns   chan struct{} // one token per writer that is free
	waiting atomic.Int64  // callers without a turn
	// order is held over COMMIT and the AtCommit functions of a transaction that has such, which puts them in one order.
	order sync.Mutex

	mu     sync.Mutex
	idle   []*link                  // guarded by mu; the one used last is the first to be used again
	lanes  map[string]chan struct{} // guarded by mu; see lane
	closed bool                     // guarded by mu
	under  sync.WaitGroup           // transactions that wait or run
	logged atomic.Int64             // Unix time of the last fault that was logged

	busy, committed, commits, rolledBack, failed, reruns, unknown atomic.Int64
}

// link is one writing connection, with what database/sql needs to make rows of it.
type link struct {
	conn  *mysqlconn.Conn
	pool  *sql.DB // over conn alone
	sql   *sql.Conn
	until time.Time // when it is replaced, so that nodes follow a server that moved
	since time.Time // when it was used last
}

const (
	// linkLife is how long a connection is used, give or take a quarter.
	linkLife = 30 * time.Minute
	// idleLife is how long a connection may lie idle.
	idleLife = 5 * time.Minute
	// rolledMax is how often a transaction is run that others' locks undo, and lostMax one that loses its connection or gets none.
	rolledMax = 20
	lostMax   = 4
	// rerunTime is how long after its beginning a transaction is not begun again.
	rerunTime = 10 * time.Second
)

// openMySQL asks the server what it is, makes the part's own tables and the pools.
func openMySQL(ctx context.Context, cfg Config, d *DB) (*mysqlEngine, *sql.DB, error) {
	s, err := mysqlconn.Parse("db.url", cfg.URL, cfg.Password, cfg.BusyTimeout)
	if err != nil {
		return nil, nil, err
	}
	if d.tunnel != nil {
		s.Through(d.tunnel.DialContext)
	}
	durable, err := s.Ask(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !durable {
		d.log.Warn("the database server may lose committed transactions when its machine dies: " +
			"set innodb_flush_log_at_trx_commit = 1 and sync_binlog = 1")
	}
	m := &mysqlEngine{cfg: cfg, server: s, log: d.log, metrics: d.metrics, turns: make(chan struct{}, cfg.Writers), lanes: map[string]chan struct{}{}}
	for range cfg.Writers {
		m.turns <- struct{}{}
	}
	if err := m.prepare(ctx); err != nil {
		return nil, nil, err
	}
	return m, openReaders(mysqlconn.ReadPool{Server: s, Spare: m.spare}, cfg.Readers), nil
}

func openReaders(p mysqlconn.ReadPool, size int) *sql.DB {
	readers := sql.OpenDB(p)
	readers.SetMaxOpenConns(size)
	readers.SetMaxIdleConns(size)
	readers.SetConnMaxLifetime(linkLife)
	readers.SetConnMaxIdleTime(idleLife)
	return readers
}

// close lets those who wait and those who run come to their end.
func (m *mysqlEngine) close(readers *sql.DB) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.under.Wait()
	err := readers.Close()
	for _, l := range m.idle {
		l.drop()
	}
	m.idle = nil
	return err
}

// enter waits for a turn.
func (m *mysqlEngine) enter(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return levee.E(levee.CodeUnavailable, "the database is closing").After(retryAfter)
	}
	m.under.Add(1)
	m.mu.Unlock()
	select {
	case <-m.turns:
		m.busy.Add(1)
		return nil
	default:
	}
	n := m.waiting.Add(1)
	defer m.waiting.Add(-1)
	m.metrics.queue.Set(float64(n))
	if n > int64(m.cfg.QueueMax) {
		m.under.Done()
		return levee.E(levee.CodeUnavailable, "the database has more work than it can do now, try again").After(retryAfter)
	}
	select {
	case <-m.turns:
		m.busy.Add(1)
		return nil
	case <-ctx.Done():
		m.under.Done()
		return ctx.Err()
	}
}

func (m *mysqlEngine) leave() {
	m.busy.Add(-1)
	m.turns <- struct{}{}
	m.under.Done()
}

// transact runs the transaction until it is committed, fails for a reason of its own, or was undone too often.
func (m *mysqlEngine) transact(ctx context.Context, t *Tx) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.leave()
	begun := time.Now()
	var lane chan struct{}
	defer func() {
		if lane != nil {
			<-lane
		}
	}()
	twice := m.cfg.RunTwice
	for rolled, lost := 0, 0; ; {
		again, err := m.attempt(ctx, t, twice)
		if again == mysqlconn.FaultNone {
			return err
		}
		if twice && err == nil {
			twice = false // the first of two, undone on purpose
			continue
		}
		if again == mysqlconn.FaultRolled {
			rolled++
		} else {
			lost++
		}
		if rolled >= rolledMax || lost >= lostMax || time.Since(begun) > rerunTime {
			m.fault("a transaction was given up", t, err)
			return err
		}
		m.reruns.Add(1)
		m.metrics.reruns.Inc()
		if lane == nil && again == mysqlconn.FaultRolled {
			if lane, err = m.lane(ctx, t.name); err != nil {
				return err
			}
			continue // alone in its lane: nothing to wait for
		}
		if err := mysqlconn.Pause(ctx, rolled+4*lost); err != nil {
			return err
		}
	}
}

// lane lets the transactions of one name that others undid go on one at a time: callers who all read a row and then write it would
// otherwise undo each other again and again. Those that were not undone yet are not held up.
func (m *mysqlEngine) lane(ctx context.Context, name string) (chan struct{}, error) {
	m.mu.Lock()
	l := m.lanes[name]
	if l == nil {
		l = make(chan struct{}, 1)
		m.lanes[name] = l
	}
	m.mu.Unlock()
	select {
	case l <- struct{}{}:
		return l, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// attempt runs the function once. A result other than mysqlconn.FaultNone says that nothing was kept and that it may be run again; the error is
// what the caller gets if it is not.
func (m *mysqlEngine) attempt(ctx context.Context, t *Tx, undo bool) (again mysqlconn.Fault, err error) {
	l, err := m.link(ctx)
	if err != nil {
		if levee.CodeOf(err) == levee.CodeUnavailable && ctx.Err() == nil {
			return mysqlconn.FaultLost, err
		}
		return mysqlconn.FaultNone, err
	}
	t.session, t.sql = l.conn, l.sql
	t.state.Store(txRunning)
	settled := false
	defer func() {
		if !settled { // the function ended its goroutine
			t.state.Store(txOver)
			m.rollback(l)
		}
	}()
	t.err = t.call()
	t.state.Store(txOver)
	settled = true
	c := l.conn
	c.CloseRows()
	switch {
	case t.panicked != nil:
		m.rollback(l)
		return mysqlconn.FaultNone, nil
	case c.Broken() != nil:
		kind, err := c.Fault(), c.Broken()
		m.rollback(l)
		if kind == mysqlconn.FaultSlow || kind == mysqlconn.FaultForbidden {
			m.fault("a transaction was lost", t, err)
			return mysqlconn.FaultNone, err
		}
		if kind == mysqlconn.FaultRefused {
			m.fault("a transaction was refused", t, err)
			return mysqlconn.FaultNone, err
		}
		return kind, err
	case undo && !c.ChangedSchema(): // a change of the schema cannot be undone
		m.rollback(l)
		return mysqlconn.FaultRolled, nil
	case t.err != nil:
		m.rolledBack.Add(1)
		m.metrics.rolledBack.Inc()
		m.rollback(l)
		return mysqlconn.FaultNone, nil
	}
	if len(t.inOrder) > 0 {
		m.order.Lock()
		defer m.order.Unlock()
	}
	before := time.Now()
	if again, err = m.commit(l, t); again != mysqlconn.FaultNone || err != nil {
		return again, err
	}
	for _, f := range t.inOrder {
		f()
	}
	m.metrics.commitSeconds.Observe(time.Since(before).Seconds())
	m.metrics.members.Observe(1)
	return mysqlconn.FaultNone, nil
}

// commit ends the transaction for good and gives the connection back.
func (m *mysqlEngine) commit(l *link, t *Tx) (again mysqlconn.Fault, err error) {
	c := l.conn
	if !c.Open() { // nothing was sent, or it is committed already
		m.committed.Add(1)
		m.keep(l)
		return mysqlconn.FaultNone, nil
	}
	err = c.Command(background, "COMMIT")
	if err == nil {
		m.committed.Add(1)
		m.commits.Add(1)
		m.keep(l)
		return mysqlconn.FaultNone, nil
	}
	l.drop()
	err = mysqlconn.FromServer(err)
	kind, reason := mysqlconn.Judge(err, c.Late())
	switch {
	case err == driver.ErrBadConn: // nothing of it was sent
		return mysqlconn.FaultLost, unavailable(reason, err)
	case kind == mysqlconn.FaultRolled:
		return mysqlconn.FaultRolled, unavailable(reason, err)
	case kind == mysqlconn.FaultRefused && mysqlconn.Number(err) != 1180: // said before anything was written
		m.fault("a transaction could not be committed", t, err)
		return mysqlconn.FaultNone, unavailable(reason, err)
	}
	m.unknown.Add(1)
	m.metrics.unknown.Inc()
	m.fault("the answer to a commit was lost: whether it was done is unknown", t, err)
	return mysqlconn.FaultNone, lostCommit(err)
}

// rollback undoes what the transaction did and gives the connection back, or drops it when it cannot be trusted.
func (m *mysqlEngine) rollback(l *link) {
	c := l.conn
	if c.Open() && (c.Broken() == nil || c.Fault() == mysqlconn.FaultRolled) {
		if c.Command(background, "ROLLBACK") != nil {
			l.drop()
			return
		}
		c.Undone()
	}
	m.keep(l)
}

// keep gives a connection back.
func (m *mysqlEngine) keep(l *link) {
	if !l.conn.Ready() || time.Now().After(l.until) {
		l.drop()
		return
	}
	l.since = time.Now()
	var old *link
	m.mu.Lock()
	m.idle = append(m.idle, l)
	if l.since.Sub(m.idle[0].since) > idleLife {
		old = m.idle[0]
		m.idle = m.idle[1:]
	}
	m.mu.Unlock()
	if old != nil {
		old.drop()
	}
}

// spare closes one writing connection that lies idle, if there is one: a server that has no connection free for a reader may have
// lent them all to this node's writers.
func (m *mysqlEngine) spare() bool {
	m.mu.Lock()
	if len(m.idle) == 0 {
		m.mu.Unlock()
		return false
	}
	l := m.idle[0]
	m.idle = m.idle[1:]
	m.mu.Unlock()
	l.drop()
	return true
}

// link returns a connection that lay idle, or a new one.
func (m *mysqlEngine) link(ctx context.Context) (*link, error) {
	for {
		m.mu.Lock()
		n := len(m.idle)
		if n == 0 {
			m.mu.Unlock()
			break
		}
		l := m.idle[n-1]
		m.idle = m.idle[:n-1]
		m.mu.Unlock()
		if l.conn.ResetSession(background) == nil {
			return l, nil
		}
		l.drop()
	}
	c, err := m.server.Open(ctx, mysqlconn.ForWriting)
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(oneConnector{c})
	pool.SetMaxOpenConns(1)
	one, err := pool.Conn(background)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &link{conn: c, pool: pool, sql: one, until: time.Now().Add(linkLife*3/4 + rand.N(linkLife/2))}, nil
}

// drop closes a connection. What database/sql holds of it (sql) is not closed first: that would wait for a Row that was never scanned.
func (l *link) drop() {
	_ = l.pool.Close()
	_ = l.conn.Close() // the server undoes what was not committed
}

// fault logs and counts a transaction that failed for the database's reasons; at most once a second, as a server that is away fails all.
func (m *mysqlEngine) fault(what string, t *Tx, err error) {
	m.failed.Add(1)
	m.metrics.failed.Inc()
	if now, last := time.Now().Unix(), m.logged.Load(); now != last && m.logged.CompareAndSwap(last, now) {
		m.log.Error(what, "tx", t.name, "error", err)
	}
}

func (m *mysqlEngine) stats(out *Stats) {
	out.Driver, out.Server = "mysql", m.server.Version
	out.Queue, out.WritersBusy = int(m.waiting.Load()), int(m.busy.Load())
	out.Transactions, out.Commits, out.RolledBack = m.committed.Load(), m.commits.Load(), m.rolledBack.Load()
	out.Failed, out.Reruns, out.Unknown = m.failed.Load(), m.reruns.Load(), m.unknown.Load()
}

// mysqlDialect is bun's, but for servers whose texts have no backslash escapes (sqlMode).
type mysqlDialect struct{ *mysqldialect.Dialect }

func newMySQLDialect() mysqlDialect { return mysqlDialect{mysqldialect.New()} }

// Init asks nothing: the server was asked by Open.
func (mysqlDialect) Init(*sql.DB) {}

// Features are those of the oldest servers that Open takes.
func (d mysqlDialect) Features() feature.Feature { return d.Dialect.Features() | feature.CTE }

// AppendString writes a text as SQL.
func (mysqlDialect) AppendString(b []byte, s string) []byte {
	b = append(b, '\'')
	for i := range len(s) {
		if s[i] == '\'' {
			b = append(b, '\'')
		}
		b = append(b, s[i])
	}
	return append(b, '\'')
}

// AppendJSON writes JSON as a text.
func (d mysqlDialect) AppendJSON(b, json []byte) []byte { return d.AppendString(b, string(json)) }

// unknownOutcome is the error of a commit whose answer was lost.
type unknownOutcome struct{ err error }

// Error shows the cause.
func (e *unknownOutcome) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *unknownOutcome) Unwrap() error { return e.err }

// OutcomeUnknown reports whether err is that of a transaction whose commit was sent and never answered: it may be committed or not.
// The caller must look it up before he repeats it, by a key of his own that the transaction would have written.
func OutcomeUnknown(err error) bool {
	_, ok := errors.AsType[*unknownOutcome](err)
	return ok
}

// lostCommit makes the error of a transaction whose commit was sent and not answered.
func lostCommit(cause error) error {
	return levee.E(levee.CodeUnavailable, "the connection to the database broke while this was being committed: "+
		"whether it was done is unknown; look before you try again").After(retryAfter).Because(&unknownOutcome{cause})
}
