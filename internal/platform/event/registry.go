package event

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Who listens, over all programs. A relay knows the listeners of its own program only: during an upgrade that may be the older one. So every
// program writes its listeners into event_listener before any event of it is committed, and counts up event_relay.registry, which each
// delivering transaction reads together with its fence. A relay that meets a listener that it does not know puts it behind: its events
// go into the log, and whoever relays next and knows it goes on from there. Nothing is decided in memory: each change of a
// listener's state is made under a lock on event_relay, so no delivery is under way then.

// The states of a listener for one event.
const (
	live   = 0
	behind = 1
	gone   = 2
)

// pair is one listener and one event that it hears: a row of event_listener.
type pair struct {
	listener, event string
	state           int
	since, cursor   int64
	away            bool
	first, seen     int64 // microseconds
}

// errAgain ends a term whose memory no longer fits event_listener; the same process goes on with a new one.
var errAgain = errors.New("the listeners have changed")

const selectPairs = `SELECT listener, event, state, since, cursor_at, away, first_seen, seen_at FROM event_listener`

func scanPairs(rows *db.Rows, err error) ([]*pair, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []*pair
	for rows.Next() {
		p, away := &pair{}, 0
		if err := rows.Scan(&p.listener, &p.event, &p.state, &p.since, &p.cursor, &away, &p.first, &p.seen); err != nil {
			return nil, err
		}
		p.away = away != 0
		all = append(all, p)
	}
	return all, rows.Err()
}

// here returns the pairs of this program: by listener, the events that it hears.
func (b *Bus) here() map[string]Listener {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]Listener{}
	for _, of := range b.listeners {
		for _, l := range of {
			all[l.name] = l
		}
	}
	return all
}

func hears(here map[string]Listener, p *pair) bool {
	_, ok := here[p.listener].hears[p.event]
	return ok
}

// missing compares the pairs of this program with those that are written down, and returns what has to be.
func (b *Bus) missing(written []*pair) (add []*pair) {
	now := b.clock().UnixMicro()
	old := map[string]bool{}
	have := map[[2]string]*pair{}
	for _, p := range written {
		old[p.listener] = true
		have[[2]string{p.listener, p.event}] = p
	}
	for name, l := range b.here() {
		for event := range l.hears {
			p := have[[2]string{name, event}]
			switch {
			case p == nil:
				p = &pair{listener: name, event: event, first: now, seen: now}
				if l.kept && !old[name] {
					p.state = behind
				}
				add = append(add, p)
			case p.state == gone || p.seen < now-time.Hour.Microseconds():
				add = append(add, p)
			}
		}
	}
	slices.SortFunc(add, func(x, y *pair) int {
		return strings.Compare(x.listener+" "+x.event, y.listener+" "+y.event)
	})
	return add
}

// Announce writes the listeners of this program down, for whatever program relays. Every program calls it at its start, after the migrations and
// Register, also one that emits only. Without it the first transactions that emit do so, and if there is something new they keep deliveries
// and each other waiting until their commits.
func (b *Bus) Announce(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "event.Announce")
	if b.known.Load() {
		return nil
	}
	return b.db.Tx(ctx, "event.announce", b.announceTx)
}

// announceTx is Announce within a transaction that emits: whoever relays must know the listeners before the events.
func (b *Bus) announceTx(ctx context.Context, tx *db.Tx) error {
	written, err := scanPairs(b.db.Query(db.Primary(ctx), selectPairs)) // not in the transaction: it would lock them
	if err != nil {
		return err
	}
	if add := b.missing(written); len(add) > 0 {
		if err := b.lockTx(ctx, tx); err != nil {
			return err
		}
		if err := b.writePairsTx(ctx, tx, add); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() { b.known.Store(true) })
	return nil
}

// lockTx keeps all deliveries from beginning until the commit, and has the relay read event_listener before the next one.
func (b *Bus) lockTx(ctx context.Context, tx *db.Tx) error {
	const count = `UPDATE event_relay SET registry = registry + 1 WHERE id = 1`
	res, err := tx.Exec(ctx, count)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	if _, err := tx.Exec(ctx, b.db.Dialect().InsertIgnore("event_relay", "id", "fence", "lease_until", "registry"), 1, 1, 0, 1); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, count)
	return err
}

func (b *Bus) writePairsTx(ctx context.Context, tx *db.Tx, add []*pair) error {
	now := b.clock().UnixMicro()
	for _, p := range add {
		if p.state == gone {
			b.log.ErrorContext(ctx, "a listener comes back after its events were thrown away; it begins with those that come now", "listener", p.listener,
				"event", p.event, "away_since", time.UnixMicro(p.seen))
		}
		if _, err := tx.Exec(ctx, b.db.Dialect().InsertIgnore("event_listener", "listener", "event", "state", "since", "cursor_at", "away",
			"first_seen", "seen_at"), p.listener, p.event, p.state, 0, 0, 0, now, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE event_listener SET seen_at = ?, state = CASE WHEN state = 2 THEN 0 ELSE state END `+
			`WHERE listener = ? AND event = ?`, now, p.listener, p.event); err != nil {
			return err
		}
	}
	return nil
}

// begin reads what the tables say about listeners and log, at the start of a term, when no delivery of an earlier one is under way any more.
func (t *term) begin(ctx context.Context) error {
	b := t.b
	var first, head db.NullInt64
	var behindMost int64
	here := b.here()
	err := b.db.Tx(ctx, "event.begin", func(ctx context.Context, tx *db.Tx) error {
		t.pairs, behindMost = nil, 0
		if err := t.lockedTx(ctx, tx, &t.registry); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT MAX(seq) FROM event_log`).Scan(&head); err != nil {
			return err
		}
		written, err := scanPairs(tx.Query(ctx, selectPairs))
		if err != nil {
			return err
		}
		if add := b.missing(written); len(add) > 0 {
			if err := b.writePairsTx(ctx, tx, add); err != nil {
				return err
			}
			if written, err = scanPairs(tx.Query(ctx, selectPairs)); err != nil {
				return err
			}
		}
		for _, p := range written {
			behindMost = max(behindMost, p.since, p.cursor)
		}
		for _, p := range written {
			known := hears(here, p)
			switch {
			case p.state == gone || known && !p.away || !known && p.state == behind && p.away:
				continue
			case !known && p.state == live:
				p.state, p.since = behind, max(head.Int64, behindMost)
				p.cursor = p.since
				b.log.InfoContext(ctx, "a listener that this program does not know gets its events from the log, once a program relays that does",
					"listener", p.listener, "event", p.event)
			}
			p.away = !known
			if err := p.writeTx(ctx, tx); err != nil {
				return err
			}
		}
		t.pairs = written
		return nil
	})
	if err != nil {
		return err
	}
	b.known.Store(true)
	t.looked = time.Now()
	if err := b.db.QueryRow(ctx, `SELECT MIN(seq) FROM event_log`).Scan(&first); err != nil {
		return err
	}
	t.book.next = max(head.Int64, behindMost) + 1
	t.makePumps(here, first.Int64)
	for _, p := range t.pumps {
		if err := t.catchUp(ctx, p); err != nil {
			return err
		}
	}
	t.pumps = slices.DeleteFunc(t.pumps, func(p *pump) bool { return p.joined })
	t.pumping.Store(len(t.pumps) > 0)
	t.makeRoutes()
	return nil
}

func (p *pair) writeTx(ctx context.Context, tx *db.Tx) error {
	away := 0
	if p.away {
		away = 1
	}
	_, err := tx.Exec(ctx, `UPDATE event_listener SET state = ?, since = ?, cursor_at = ?, away = ? WHERE listener = ? AND event = ?`,
		p.state, p.since, p.cursor, away, p.listener, p.event)
	return err
}

// lockedTx waits for the deliveries under way, also those of a transaction whose answer was lost, and fails with errLost when the term is over.
func (t *term) lockedTx(ctx context.Context, tx *db.Tx, registry *int64) error {
	var fence int64
	err := tx.QueryRow(ctx, `SELECT fence, registry FROM event_relay WHERE id = 1`+t.b.db.Dialect().ForUpdate()).Scan(&fence, registry)
	if err == nil && fence != t.fence && !t.b.seam.unfenced {
		return errLost
	}
	return err
}

// same asks whether the term still has what the tables say.
func (t *term) same(ctx context.Context) error {
	var fence, registry int64
	err := t.b.db.QueryRow(ctx, `SELECT fence, registry FROM event_relay WHERE id = 1`).Scan(&fence, &registry)
	switch {
	case err != nil || t.b.seam.unfenced:
		return err
	case fence != t.fence:
		return errLost
	case registry != t.registry:
		return errAgain
	}
	return nil
}

// leftBehind says whether a listener of this program has something to get from the log, and whether the one that relays does not know it.
func (b *Bus) leftBehind(ctx context.Context) (work, left bool, err error) {
	pairs, err := scanPairs(b.db.Query(ctx, selectPairs+` WHERE state = 1`))
	if err != nil {
		return false, false, err
	}
	here := b.here()
	for _, p := range pairs {
		if hears(here, p) {
			work, left = true, left || p.away
		}
	}
	return work, left, nil
}

// group is a set of events that have listeners in common, so that their order counts together. A listener is known by its index, as a bit.
type group struct {
	listeners []Listener
}

// groupsOf returns the group of each event.
func groupsOf(by map[string][]Listener) map[string]*group {
	names := make([]string, 0, len(by))
	for name := range by {
		names = append(names, name)
	}
	slices.Sort(names)
	of, groups := map[string]string{}, map[string]*group{} // of: from a listener to the first event of its group
	root := map[string]string{}
	find := func(name string) string {
		for root[name] != name {
			name = root[name]
		}
		return name
	}
	for _, name := range names {
		root[name] = name
		for _, l := range by[name] {
			if at, ok := of[l.name]; ok {
				root[find(name)] = find(at)
			} else {
				of[l.name] = name
			}
		}
	}
	at := map[string]*group{}
	for _, name := range names {
		g := at[find(name)]
		if g == nil {
			g = &group{}
			at[find(name)] = g
		}
		for _, l := range by[name] {
			if !slices.ContainsFunc(g.listeners, func(x Listener) bool { return x.name == l.name }) {
				g.listeners = append(g.listeners, l)
			}
		}
		groups[name] = g
	}
	return groups
}

// route is an event and what is to be done with it.
type route struct {
	name   string
	of     *group
	live   uint64 // listeners that hear it live
	logged bool   // it goes into the log: it is kept, or somebody is behind
	behind []reader
}

// reader is a listener that gets a route's events from the log, but those that were written there up to since.
type reader struct {
	*pair
	bit uint64 // awayBit when this program does not know it
}

// makeRoutes puts the listeners of the program and what the tables say about them together.
func (t *term) makeRoutes() {
	t.b.mu.Lock()
	by := t.b.listeners
	t.b.mu.Unlock()
	for name, g := range groupsOf(by) {
		t.routes[name] = &route{name: name, of: g, logged: t.b.keeps(name)}
	}
	t.copies = maps.Clone(t.routes)
	for _, p := range t.pairs {
		if p.state == gone {
			continue
		}
		r := t.route(p.event)
		bit := uint64(awayBit)
		for i, l := range r.of.listeners {
			if _, ok := l.hears[p.event]; ok && l.name == p.listener {
				bit = 1 << i
			}
		}
		if p.state == live {
			r.live |= bit
		} else {
			r.logged = true
			r.behind = append(r.behind, reader{p, bit})
		}
	}
}

func (t *term) route(name string) *route {
	r := t.routes[name]
	if r == nil {
		r = &route{name: name, of: &group{}, logged: t.b.keeps(name)}
		t.routes[name] = r
	}
	return r
}

// open returns who has to handle an event of the route, given what is written down about it.
func (r *route) open(marks []mark) (open uint64, number int64) {
	for _, m := range marks {
		if m.listener == "" {
			number = m.number()
		}
	}
	if open = r.live; r.logged && number == 0 {
		open |= logBit
	}
	for _, p := range r.behind {
		if number == 0 || number > p.since {
			continue
		}
		done := func(m mark) bool { return m.done && m.listener == p.listener }
		if p.bit != awayBit || !slices.ContainsFunc(marks, done) {
			open |= p.bit
		}
	}
	return open, number
}

// Forget strikes a listener that no program has any more, with all that lies ready for it; what is parked of it stays. It fails with
// CodeConflict for one of this program, and with CodeNotFound for one that the bus does not know. A program that still has it must be stopped
// before: it would be taken for a new one when it starts next.
func (b *Bus) Forget(ctx context.Context, listener string) (err error) {
	defer levee.Wrap(&err, "event.Forget(%q)", listener)
	if _, ok := b.here()[listener]; ok {
		return levee.E(levee.CodeConflict, "the listener is one of this program")
	}
	err = b.db.Tx(ctx, "event.forget", func(ctx context.Context, tx *db.Tx) error {
		if err := b.lockTx(ctx, tx); err != nil {
			return err
		}
		res, err := tx.Exec(ctx, `DELETE FROM event_listener WHERE listener = ?`, listener)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return levee.E(levee.CodeNotFound, "no such listener")
		}
		if _, err := tx.Exec(ctx, `DELETE FROM event_inbox WHERE listener = ? AND event_id IN (SELECT id FROM event_replay WHERE listener = ?)`,
			listener, listener); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM event_replay WHERE listener = ?`, listener)
		return err
	})
	if err == nil {
		b.given()
	}
	return err
}
