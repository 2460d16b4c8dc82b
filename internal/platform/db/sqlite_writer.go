package db

import (
	"cmp"
	"database/sql"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

// queue holds those who wait for the writer, in order of arrival.
type queue struct {
	mu      sync.Mutex
	waiting []*Tx // guarded by mu
	max     int
	closed  bool          // guarded by mu
	asleep  bool          // guarded by mu: the writer found nothing and waits on wake
	wake    chan struct{} // one token
	taken   atomic.Int64  // handed to the writer, not yet begun
}

// push adds t. A full or closed queue is CodeUnavailable.
func (q *queue) push(t *Tx) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return levee.E(levee.CodeUnavailable, "the database is closing").After(retryAfter)
	case len(q.waiting)+int(q.taken.Load()) >= q.max && t.house == nil:
		q.mu.Unlock()
		return levee.E(levee.CodeUnavailable, "the database has more work than it can do now, try again").After(retryAfter)
	}
	q.waiting = append(q.waiting, t)
	wake := q.asleep
	q.asleep = false
	q.mu.Unlock()
	if wake {
		q.wake <- struct{}{}
	}
	return nil
}

// take swaps what waits for the empty slice given. When nothing waits it sleeps if told to, and returns nil once closed.
func (q *queue) take(empty []*Tx, sleep bool) []*Tx {
	for {
		q.mu.Lock()
		got := q.waiting
		if len(got) > 0 || q.closed || !sleep {
			q.waiting = empty
			q.taken.Store(int64(len(got)))
			q.mu.Unlock()
			return got
		}
		q.asleep = true
		q.mu.Unlock()
		<-q.wake
	}
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	wake := q.asleep
	q.asleep = false
	q.mu.Unlock()
	if wake {
		q.wake <- struct{}{}
	}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) + int(q.taken.Load())
}

// writer is the one goroutine that writes. All fields but the queue and the counters belong to it alone.
//
// A group is BEGIN IMMEDIATE, its members one after the other, COMMIT. While the disk flushes one group the next one gathers
// in the queue: the group size follows the load by itself, and a lone caller never waits for company. A member that has a
// successful one before it runs inside a savepoint; the others need none, a plain ROLLBACK serves.
type writer struct {
	d     *sqliteEngine
	queue queue
	done  chan struct{}

	conn                                                    *conn     // nil: must be opened (again)
	pool                                                    *sql.DB   // over conn alone
	sql                                                     *sql.Conn // over conn, for builders and rows
	begin, commit, rollback, savepoint, release, rollbackTo rawStmt

	batch   []*Tx // taken from the queue
	next    int   // index of the first of batch that has not begun
	group   []*Tx // members that ran in the open transaction or were told nothing yet
	good    int   // how many of group succeeded
	last    int   // members of the group before this one
	open    bool  // a transaction is open
	current *Tx   // whose function runs now
	started time.Time
	logged  time.Time // a fault

	committed, commits, rolledBack, failed atomic.Int64
}

func newWriter(d *sqliteEngine) *writer {
	return &writer{d: d, queue: queue{max: d.cfg.QueueMax, wake: make(chan struct{}, 1)}, done: make(chan struct{})}
}

// run serves the queue until it is closed and empty. A function that ends its goroutine (runtime.Goexit, as t.FailNow does)
// ends this one; another takes over where it stood.
func (w *writer) run(takeover bool) {
	normal := false
	defer func() {
		if !normal {
			go w.run(true)
			return
		}
		close(w.done)
	}()
	if takeover {
		t := w.current
		t.goexit = true
		w.settle(t, errGoexit)
		w.fill()
		w.finish()
	}
	for {
		t := w.head()
		if t == nil {
			break
		}
		if t.house != nil {
			w.keepHouse(t)
			continue
		}
		// The lock of another process is waited for before anybody's transaction counts as begun: its caller may still leave.
		if err := w.ready(); err != nil {
			w.refuseWaiting(err)
			continue
		}
		w.started = time.Now()
		w.fill()
		w.gather()
		w.finish()
	}
	normal = true
}

var errGoexit = errors.New("the function ended its goroutine")

// head waits for something to do and returns it without taking it; nil when the queue is closed and empty.
func (w *writer) head() *Tx {
	if w.next == len(w.batch) && !w.refill(true) {
		return nil
	}
	return w.batch[w.next]
}

// refill takes what waits in the queue once the batch is used up.
func (w *writer) refill(sleep bool) bool {
	clear(w.batch)
	w.batch = w.queue.take(w.batch[:0], sleep)
	w.next = 0
	return len(w.batch) > 0
}

// pop takes the next waiting transaction that was not withdrawn; nil when there is none or when the part's own work is next,
// which is not done inside a group.
func (w *writer) pop() *Tx {
	for w.next < len(w.batch) || w.refill(false) {
		t := w.batch[w.next]
		if t.house != nil {
			return nil
		}
		w.advance()
		if t.state.CompareAndSwap(txQueued, txRunning) {
			return t
		}
	}
	return nil
}

func (w *writer) advance() {
	w.batch[w.next] = nil
	w.next++
	w.queue.taken.Add(-1)
}

// fill lets everybody who waits join the group.
func (w *writer) fill() {
	for len(w.group) < w.d.cfg.GroupMax && time.Since(w.started) < groupTime {
		t := w.pop()
		if t == nil {
			return
		}
		w.member(t)
	}
}

// gather lets the callers that the last commit woke come back before a much smaller group pays for a flush of its own: without
// it groups of 63 and of 1 alternate. It only lets goroutines run that can run now, and costs nothing when there are none.
func (w *writer) gather() {
	for range gatherTurns {
		if len(w.group) >= w.last {
			return
		}
		runtime.Gosched()
		w.fill()
	}
}

// gatherTurns is how often gather lets others run. Measured with 64 and 512 callers on 2 CPUs: more turns gain nothing.
const gatherTurns = 4

// member runs one transaction's function.
func (w *writer) member(t *Tx) {
	if err := w.ready(); err != nil {
		t.err = err
		t.finish()
		w.refuseWaiting(err)
		return
	}
	if w.good > 0 {
		if _, err := w.savepoint.ExecContext(background, nil); err != nil {
			w.group = append(w.group, t)
			w.lose(err)
			return
		}
	}
	w.current = t
	t.session, t.sql = w.conn, w.sql
	err := t.call()
	if w.d.cfg.RunTwice && t.panicked == nil && w.conn.lost == nil {
		err = w.twice(t)
	}
	w.settle(t, err)
}

// twice undoes what the member did, as an engine does that met a deadlock, and runs it again.
func (w *writer) twice(t *Tx) error {
	w.conn.closeRows()
	undo := []rawStmt{w.rollbackTo}
	if w.good == 0 {
		undo = []rawStmt{w.rollback, w.begin}
	}
	for _, s := range undo {
		if _, err := s.ExecContext(background, nil); err != nil {
			w.conn.lost = unavailable(cmp.Or(lostReason(err), "a transaction cannot be run again"), err)
			return w.conn.lost
		}
	}
	return t.call()
}

// settle keeps or undoes what a member did.
func (w *writer) settle(t *Tx, err error) {
	w.current = nil
	t.state.Store(txOver)
	if len(w.conn.open) > 0 {
		w.conn.closeRows()
	}
	w.group = append(w.group, t)
	if w.conn.lost != nil {
		w.lose(w.conn.lost)
		return
	}
	if err != nil {
		w.rolledBack.Add(1)
		w.d.metrics.rolledBack.Inc()
		t.err = err
		if w.good == 0 {
			// Nothing good stands before it, so nobody else loses anything, and what it read was committed: tell it now.
			_, rerr := w.rollback.ExecContext(background, nil)
			w.open = false
			w.tell()
			if rerr != nil {
				w.replace(rerr)
			}
			return
		}
		if _, err := w.rollbackTo.ExecContext(background, nil); err != nil {
			w.lose(err)
			return
		}
	}
	if w.good > 0 {
		if _, err := w.release.ExecContext(background, nil); err != nil {
			w.lose(err)
			return
		}
	}
	if err == nil {
		w.good++
	}
}

// ready sees to it that a connection and a transaction are open.
func (w *writer) ready() error {
	if w.open {
		return nil
	}
	if w.conn == nil {
		if err := w.connect(); err != nil {
			return err
		}
	}
	if _, err := w.begin.ExecContext(background, nil); err != nil {
		reason := lostReason(err)
		if reason == "" {
			reason = "a transaction cannot be begun"
		}
		w.failed.Add(1)
		w.d.metrics.failed.Inc()
		if !isBusy(err) {
			w.replace(err)
		}
		return unavailable(reason, err)
	}
	w.open = true
	return nil
}

// refuseWaiting gives everybody who waits the error that the transaction could not be begun with: each would only wait for
// the same lock in turn.
func (w *writer) refuseWaiting(err error) {
	for n := w.queue.len(); n > 0; n-- {
		t := w.pop()
		if t == nil {
			return
		}
		t.err = err
		t.finish()
	}
}

// finish commits the group and tells its members.
func (w *writer) finish() {
	if !w.open {
		return
	}
	if w.good == 0 { // nobody stayed to do anything
		if _, err := w.rollback.ExecContext(background, nil); err != nil {
			w.replace(err)
		}
		w.open = false
		w.tell()
		return
	}
	before := time.Now()
	if _, err := w.commit.ExecContext(background, nil); err != nil {
		w.lose(err)
		return
	}
	w.open = false
	n := w.good
	w.last = len(w.group)
	w.committed.Add(int64(n))
	w.commits.Add(1)
	for _, t := range w.group {
		if t.err == nil {
			for _, f := range t.inOrder {
				f()
			}
		}
	}
	w.tell()
	m := w.d.metrics
	m.commitSeconds.Observe(time.Since(before).Seconds())
	m.members.Observe(float64(n))
	w.d.keeper.nudge(before)
}

// lose gives every member of the group, also those whose own function failed after reading what is now undone, CodeUnavailable,
// and drops the connection: a new one is sure to have no transaction, no lock and no half-written page.
func (w *writer) lose(err error) {
	reason := lostReason(err)
	if reason == "" {
		reason = "the commit failed"
	}
	w.failed.Add(1)
	w.d.metrics.failed.Inc()
	w.logFault("a group of transactions was lost; nothing of it was kept", err)
	lost := unavailable(reason, err)
	for _, t := range w.group {
		if t.panicked == nil && !t.goexit {
			t.err = lost
		}
	}
	if w.conn != nil {
		_, _ = w.rollback.ExecContext(background, nil) // fails when SQLite did it already
	}
	w.open = false
	if err := w.drop(); err != nil {
		w.logFault("closing the writer's connection failed", err)
	}
	w.tell()
}

// tell wakes the members of the group.
func (w *writer) tell() {
	for i, t := range w.group {
		w.group[i] = nil
		t.finish()
	}
	w.group = w.group[:0]
	w.good = 0
}

// replace drops a connection that misbehaved.
func (w *writer) replace(err error) {
	w.open = false
	w.logFault("the writer's connection is replaced", err)
	if err := w.drop(); err != nil {
		w.logFault("closing the writer's connection failed", err)
	}
}

// logFault logs a fault of the database at most once a second: a full disk fails hundreds of groups in that time. Each is
// counted (levee_db_failed_groups_total), and each caller has its error.
func (w *writer) logFault(what string, err error) {
	if now := time.Now(); now.Sub(w.logged) > time.Second {
		w.logged = now
		w.d.log.Error(what, "error", err)
	}
}

// keepHouse runs the part's own work on the writer's connection, between groups.
func (w *writer) keepHouse(t *Tx) {
	w.advance()
	if w.conn == nil {
		t.err = w.connect()
	}
	if t.err == nil {
		t.err = t.house(w.conn)
	}
	t.finish()
}

// connect opens the writer's connection and prepares what every group needs.
func (w *writer) connect() error {
	c, err := w.d.file.open(true)
	if err != nil {
		reason := lostReason(err)
		if reason == "" {
			reason = "the file cannot be opened"
		}
		return unavailable(reason, err)
	}
	for _, p := range []struct {
		at   *rawStmt
		text string
	}{
		{&w.begin, "BEGIN IMMEDIATE"}, {&w.commit, "COMMIT"}, {&w.rollback, "ROLLBACK"},
		{&w.savepoint, "SAVEPOINT member"}, {&w.release, "RELEASE member"}, {&w.rollbackTo, "ROLLBACK TO member"},
	} {
		s, err := c.raw.Prepare(p.text)
		if err != nil {
			return errors.Join(unavailable("the file cannot be used", err), c.Close())
		}
		*p.at = s.(rawStmt)
		c.own = append(c.own, s)
	}
	pool := sql.OpenDB(oneConnector{c})
	pool.SetMaxOpenConns(1)
	b, err := pool.Conn(background)
	if err != nil {
		return errors.Join(err, pool.Close(), c.Close())
	}
	w.conn, w.pool, w.sql = c, pool, b
	return nil
}

// drop closes the writer's connection. What database/sql holds of it (w.sql) is not closed first: that would wait for a Row that
// was never scanned.
func (w *writer) drop() error {
	if w.conn == nil {
		return nil
	}
	err := errors.Join(w.pool.Close(), w.conn.Close())
	w.conn, w.pool, w.sql = nil, nil, nil
	w.begin, w.commit, w.rollback, w.savepoint, w.release, w.rollbackTo = nil, nil, nil, nil, nil, nil
	return err
}

// stop lets the queue run dry and waits for the goroutine. The connection is still open then: drop closes it.
func (w *writer) stop() {
	w.queue.close()
	<-w.done
}

// keep runs fn on the writer's connection between two groups.
func (w *writer) keep(fn func(c *conn) error) error {
	t := &Tx{house: fn, done: make(chan struct{}, 1)}
	if err := w.queue.push(t); err != nil {
		return err
	}
	<-t.done
	return t.err
}
