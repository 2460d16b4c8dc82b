package event

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// A listener that is behind gets its events from the log: in pages they are copied into event_replay, for it alone, under new ids, and from
// there on they are events as any: lanes, order per key, attempts, parking and the inbox are the same. The cursor moves with the copy. Near the
// end of the log the term ends, and the next one, before it hands out anything, delivers the rest and lets the listener hear live. So
// every event reaches it on one way: what the log has between since and that moment from there, all else live.

const (
	replayPage = 256   // events copied in one transaction
	replayScan = 16384 // numbers of the log looked at by one query
	replayHave = 1024  // copies under way to one listener; beyond, one page a second, for those that wait for their next attempt
	replayMost = 20000 // copies under way to one listener at all
	joinNear   = 256   // numbers from the end at which a term ends for the sake of a listener
	joinMost   = 4096  // numbers that the next term may have to go
	joinTime   = time.Second
)

// pump feeds one listener that is behind.
type pump struct {
	l      Listener
	pairs  []*pair // behind, and of this program
	names  []string
	at     atomic.Int64 // the log was copied up to here
	out    atomic.Int64 // copies not yet delivered or parked
	fed    time.Time
	near   time.Time // from when on it has been near the end
	joined bool
}

// joinTry is when to try next to let a listener hear live that did not get so far before.
type joinTry struct {
	next  time.Time
	pause time.Duration
}

// makePumps makes a pump for each listener of this program that is behind. first is the first number of the log.
func (t *term) makePumps(here map[string]Listener, first int64) {
	by := map[string]*pump{}
	for _, p := range t.pairs {
		if p.state != behind || !hears(here, p) {
			continue
		}
		m := by[p.listener]
		if m == nil {
			m = &pump{l: here[p.listener]}
			m.at.Store(1 << 62)
			by[p.listener] = m
			t.pumps = append(t.pumps, m)
		}
		m.pairs, m.names = append(m.pairs, p), append(m.names, p.event)
		m.at.Store(min(m.at.Load(), max(p.cursor, first-1)))
	}
}

// nextPage reads what a pump has to copy next, and up to where the log is read then.
func (t *term) nextPage(ctx context.Context, p *pump, upTo int64, limit int) (page []logged, end int64, err error) {
	at := p.at.Load()
	if !t.b.seam.byID {
		upTo = min(upTo, at+replayScan)
	} else {
		upTo = 1<<63 - 1
	}
	page, err = t.b.readLog(ctx, at, upTo, p.names, limit)
	if len(page) == limit {
		upTo = page[len(page)-1].seq
	}
	if t.b.seam.byID {
		if upTo = at; len(page) > 0 {
			upTo = page[len(page)-1].seq
		}
	}
	return slices.DeleteFunc(page, func(e logged) bool {
		i := slices.IndexFunc(p.pairs, func(x *pair) bool { return x.event == e.name })
		return e.seq <= p.pairs[i].cursor
	}), upTo, err
}

// moveTx notes that a pump has copied up to a number.
func (p *pump) moveTx(ctx context.Context, tx *db.Tx, at int64) error {
	for _, x := range p.pairs {
		if _, err := tx.Exec(ctx, `UPDATE event_listener SET cursor_at = ? WHERE listener = ? AND event = ? AND cursor_at < ?`,
			at, x.listener, x.event, at); err != nil {
			return err
		}
	}
	return nil
}

func (p *pump) moved(at int64) {
	p.at.Store(at)
	for _, x := range p.pairs {
		x.cursor = max(x.cursor, at)
	}
}

// catchUp delivers what a listener has still to get from the log, if that is little, and lets it hear live. Nothing else is delivered meanwhile.
// What it does not manage goes the long way, with attempts and parking, before the next try.
func (t *term) catchUp(ctx context.Context, p *pump) error {
	head := t.book.upTo()
	try := t.b.joins[p.l.name]
	if t.b.seam.stay || head-p.at.Load() > t.b.most || time.Now().Before(try.next) {
		return nil
	}
	done, err := t.catchUpTo(ctx, p, head)
	switch {
	case errors.Is(err, errLost) || errors.Is(err, errAgain):
		return err
	case done:
		delete(t.b.joins, p.l.name)
	case ctx.Err() == nil:
		try.pause = min(max(2*try.pause, time.Second), time.Minute)
		try.next = time.Now().Add(try.pause)
		t.b.joins[p.l.name] = try
	}
	return nil
}

func (t *term) catchUpTo(ctx context.Context, p *pump, head int64) (done bool, err error) {
	if open, err := t.onTheWay(ctx, p); err != nil || open {
		return false, err
	}
	for end := time.Now().Add(joinTime); p.at.Load() < head; {
		page, upTo, err := t.nextPage(ctx, p, head, batchMax)
		if err != nil || time.Now().After(end) {
			return false, err
		}
		runs := make([]deliver, len(page))
		for i, e := range page {
			if runs[i], err = p.l.hears[e.name](e.payload); err != nil {
				return false, err
			}
		}
		err = t.b.db.Tx(ctx, "event.catch_up", func(ctx context.Context, tx *db.Tx) error {
			if err := t.holdTx(ctx, tx); err != nil {
				return err
			}
			for _, run := range runs {
				if err := call(p.l.name, func() error { return run(ctx, tx) }); err != nil {
					return err
				}
			}
			return p.moveTx(ctx, tx, upTo)
		})
		if err != nil {
			return false, err
		}
		p.moved(upTo)
		t.b.m.of(p.l.name).delivered.Add(float64(len(page)))
	}
	return true, t.join(ctx, p, head)
}

// onTheWay says whether there are events that the listener must handle before the rest of the log: copies, and such as it heard live before it
// was behind.
func (t *term) onTheWay(ctx context.Context, p *pump) (bool, error) {
	var one int
	err := t.b.db.QueryRow(ctx, `SELECT 1 FROM event_replay WHERE listener = ? LIMIT 1`, p.l.name).Scan(&one)
	for _, x := range p.pairs {
		if !errors.Is(err, db.ErrNoRows) {
			break
		}
		err = t.b.db.QueryRow(ctx, `SELECT 1 FROM event_inbox i JOIN event_outbox o ON o.id = i.event_id WHERE i.listener = '' AND i.retry_at <= ? `+
			`AND o.name = ? AND NOT EXISTS (SELECT 1 FROM event_inbox d WHERE d.event_id = i.event_id AND d.listener = ? AND d.done = 1) LIMIT 1`,
			x.since, x.event, x.listener).Scan(&one)
	}
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// join lets a listener hear live that has got all of the log.
func (t *term) join(ctx context.Context, p *pump, head int64) error {
	err := t.b.db.Tx(ctx, "event.join", func(ctx context.Context, tx *db.Tx) error {
		if err := t.holdTx(ctx, tx); err != nil {
			return err
		}
		for _, x := range p.pairs {
			if err := closeTx(ctx, tx, x); err != nil {
				return err
			}
			now := *x
			now.state, now.cursor = live, head
			if err := now.writeTx(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, x := range p.pairs {
		x.state = live
	}
	p.joined = true
	t.b.log.InfoContext(ctx, "a listener has got all of the log and hears live from now on", "listener", p.l.name, "number", head)
	return nil
}

// closeTx marks what a listener gets or has got from the log as done where it still lies in the outbox, for the sake of other listeners.
func closeTx(ctx context.Context, tx *db.Tx, x *pair) error {
	rows, err := tx.Query(ctx, `SELECT i.event_id FROM event_inbox i JOIN event_outbox o ON o.id = i.event_id WHERE i.listener = '' AND i.retry_at > ? AND o.name = ?`,
		x.since, x.event)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, id := range ids {
		res, err := tx.Exec(ctx, `UPDATE event_inbox SET done = 1 WHERE event_id = ? AND listener = ?`, id, x.listener)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			if err := markTx(ctx, tx, id, mark{listener: x.listener, done: true}, false, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// replays feeds the listeners that are behind until the term ends.
func (t *term) replays(ctx context.Context) error {
	select {
	case <-t.handed: // what a listener has yet to handle of before comes before the copies of its key
	case <-ctx.Done():
		return nil
	}
	if err := t.handCopies(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		more, resting := false, true
		for _, p := range t.pumps {
			again, err := t.pump(ctx, p)
			if err != nil && ctx.Err() == nil {
				return err
			}
			more = more || again
			waits := p.out.Load() > 0 || t.b.seam.stay || time.Now().Before(t.b.joins[p.l.name].next)
			resting = resting && waits && p.at.Load() >= t.book.highest() && t.busy.Load() == 0
		}
		t.pumping.Store(!resting)
		if resting {
			t.b.wake() // a Drain may be waiting for it
		} else {
			t.worked.Store(true)
		}
		if more {
			continue
		}
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.fed:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	return nil
}

// pump does the next step for one listener; again says that there is another one right now.
func (t *term) pump(ctx context.Context, p *pump) (again bool, err error) {
	upTo := t.book.upTo()
	if t.b.seam.rash {
		upTo = t.book.highest()
	}
	now := time.Now()
	out, left := p.out.Load(), upTo-p.at.Load()
	if t.b.seam.byID {
		left = 1
	}
	near := left <= min(joinNear, t.b.most) && !t.b.seam.stay && !now.Before(t.b.joins[p.l.name].next)
	if !near {
		p.near = time.Time{}
	} else if p.near.IsZero() {
		p.near = now
	}
	switch {
	case near && out == 0:
		return false, errAgain
	case left == 0, out >= replayMost, out >= replayHave && now.Sub(p.fed) < time.Second:
		return false, nil
	case near && now.Sub(p.near) < time.Second:
		return false, nil // those on their way first, and then let it hear live
	}
	page, end, err := t.nextPage(ctx, p, upTo, replayPage)
	if err != nil || end <= p.at.Load() {
		return false, err
	}
	var floor, floorToo db.NullInt64
	if err := errors.Join(t.b.db.QueryRow(ctx, `SELECT MAX(id) FROM event_outbox`).Scan(&floor),
		t.b.db.QueryRow(ctx, `SELECT MAX(id) FROM event_replay`).Scan(&floorToo)); err != nil {
		return false, err
	}
	last := max(floor.Int64, floorToo.Int64)
	rows, hs := make([][]any, len(page)), make([]*handed, len(page))
	for i, e := range page {
		if last, err = t.b.ids.NextAfter(last); err != nil {
			return false, err
		}
		rows[i] = []any{last, p.l.name, e.name, e.key, e.payload}
		hs[i] = t.copied(last, e.key, e.name, p)
		hs[i].payload, hs[i].loaded = e.payload, true
	}
	err = t.b.db.Tx(ctx, "event.replay", func(ctx context.Context, tx *db.Tx) error {
		if err := t.holdTx(ctx, tx); err != nil {
			return err
		}
		if err := tx.InsertRows(ctx, "event_replay", copyColumns, rows); err != nil {
			return err
		}
		if t.b.seam.apart {
			return nil
		}
		return p.moveTx(ctx, tx, end)
	})
	if err == nil && t.b.seam.apart {
		t.b.seam.sleep()
		err = t.b.db.Tx(ctx, "event.apart", func(ctx context.Context, tx *db.Tx) error { return p.moveTx(ctx, tx, end) })
	}
	if err != nil {
		return false, err
	}
	p.moved(end)
	p.out.Add(int64(len(hs)))
	if len(hs) > 0 {
		p.fed = now
	}
	t.share(hs)
	return true, nil
}

var copyColumns = []string{"id", "listener", "name", "event_key", "payload"}

// copied is an event of event_replay in memory.
func (t *term) copied(id, key int64, name string, p *pump) *handed {
	r := t.copies[name]
	h := &handed{held: &held{id: id, key: key, to: r, again: p}}
	for i, l := range r.of.listeners {
		if l.name == p.l.name {
			h.open = 1 << i
		}
	}
	return h
}

// handCopies hands out what earlier terms have copied.
func (t *term) handCopies(ctx context.Context) error {
	by := map[string]*pump{}
	for _, p := range t.pumps {
		by[p.l.name] = p
	}
	for after := int64(0); ; {
		rows, err := t.b.db.Query(ctx, `SELECT id, listener, name, event_key FROM event_replay WHERE id > ? ORDER BY id LIMIT ?`, after, pageSize)
		if err != nil {
			return err
		}
		defer rows.Close()
		var hs []*handed
		n := 0
		for ; rows.Next(); n++ {
			var key int64
			var listener, name string
			if err := rows.Scan(&after, &listener, &name, &key); err != nil {
				return err
			}
			p := by[listener]
			if p == nil || p.l.hears[name] == nil {
				continue // it waits for a program that knows it
			}
			hs = append(hs, t.copied(after, key, name, p))
			p.out.Add(1)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || n == 0 {
			return err
		}
		if len(hs) > 0 {
			marks, err := t.b.readMarks(ctx, hs[0].id, hs[len(hs)-1].id)
			if err != nil {
				return err
			}
			for _, h := range hs {
				for _, m := range marks[h.id] {
					h.apply(m)
				}
			}
			t.share(hs)
		}
		if n < pageSize {
			return nil
		}
	}
}

// Point is a place in the log, for Replay.
type Point struct {
	number int64
	since  time.Time
}

// Start is the oldest event that is kept.
func Start() Point { return Point{number: 1} }

// Since is the first event that was delivered at a time or later, by the clocks of the nodes that relayed: give a margin of what these differ by.
func Since(at time.Time) Point { return Point{since: at} }

// Number is the event with this number in the log, or the next one behind it. ReplayState and LogState show numbers.
func Number(n int64) Point { return Point{number: max(n, 1)} }

// ReplayState is how far a listener that is behind has come: From is the first number that it gets or has got, At the last one that was copied
// on its way, Head the last one of the log.
type ReplayState struct{ From, At, Head int64 }

// Replay sends a listener of this program back: it gets all that is kept of its events from a point on once more, per key in the order in
// which they came, and live events only after that; events that it has yet to handle are among them. Everything that holds for live events
// holds: exactly one effect for each, attempts, parking. It goes on over restarts of any kind. Effects of the first time are
// not undone: that the listener bears to see an event again is the caller's to know. During a replay, Replay begins again from the new
// point; from behind the head it gives up the rest. It fails with CodeNotFound for a listener that is not registered here, and with
// CodeInvalid when one of its events is not kept.
func (b *Bus) Replay(ctx context.Context, listener string, from Point) (state ReplayState, err error) {
	defer levee.Wrap(&err, "event.Replay(%q)", listener)
	ctx = db.Primary(ctx)
	l, ok := b.here()[listener]
	if !ok {
		return state, levee.E(levee.CodeNotFound, "no such listener is registered here")
	}
	for name := range l.hears {
		if !b.keeps(name) {
			return state, levee.Invalid("listener", "one whose events are kept (event.kept)", name)
		}
	}
	if err := b.Announce(ctx); err != nil {
		return state, err
	}
	if !from.since.IsZero() {
		if from.number, err = b.logSince(ctx, from.since); err != nil {
			return state, err
		}
	}
	err = b.db.Tx(ctx, "event.send_back", func(ctx context.Context, tx *db.Tx) error {
		if err := b.lockTx(ctx, tx); err != nil { // from here on nothing is delivered
			return err
		}
		var first, last db.NullInt64
		if err := errors.Join(tx.QueryRow(ctx, `SELECT MIN(seq) FROM event_log`).Scan(&first),
			tx.QueryRow(ctx, `SELECT MAX(seq) FROM event_log`).Scan(&last)); err != nil {
			return err
		}
		state = ReplayState{From: min(max(from.number, first.Int64), last.Int64+1), Head: last.Int64}
		state.At = state.From - 1
		pairs, err := scanPairs(tx.Query(ctx, selectPairs+` WHERE listener = ?`, listener))
		if err != nil {
			return err
		}
		for _, x := range pairs {
			if _, ok := l.hears[x.event]; !ok {
				continue
			}
			if x.state == behind {
				if err := closeTx(ctx, tx, x); err != nil {
					return err
				}
			}
			x.state, x.since, x.cursor = behind, state.At, state.At
			if err := x.writeTx(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return ReplayState{}, err
	}
	b.given()
	return state, nil
}
