package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Parked is a delivery that was given up after its last attempt: the later events of its key have gone on. Its row stays until a retry succeeds,
// or somebody discards it, or Prune takes it.
type Parked struct {
	EventID  int64 // of the event, or of its copy in a replay; the event's place in the order of its key
	Listener string
	Event    string
	Key      int64
	Payload  string // JSON
	Attempts int
	Error    string // of the last attempt, shortened
	ParkedAt time.Time
}

func parkTx(ctx context.Context, tx *db.Tx, d *delivery, now time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO event_parked (event_id, listener, name, event_key, payload, attempts, error, parked_at) `+
		`VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, d.e.id, d.listener().name, d.e.to.name, d.e.key, d.payload, max(d.e.tries[d.bit], 1),
		levee.Shorten(d.err.Error(), errorMax), now.UnixMicro())
	return err
}

const selectParked = `SELECT event_id, listener, name, event_key, payload, attempts, error, parked_at FROM event_parked `

func scanParked(scan func(...any) error) (p Parked, err error) {
	var at int64
	err = scan(&p.EventID, &p.Listener, &p.Event, &p.Key, &p.Payload, &p.Attempts, &p.Error, &at)
	p.ParkedAt = time.UnixMicro(at)
	return p, err
}

// Parked returns the oldest parked deliveries, at most limit of 1 to 1000.
func (b *Bus) Parked(ctx context.Context, limit int) (ps []Parked, err error) {
	defer levee.Wrap(&err, "event.Parked(%d)", limit)
	if limit < 1 || limit > 1000 {
		return nil, levee.Invalid("limit", "1 to 1000", limit)
	}
	return b.readParked(ctx, `ORDER BY parked_at, event_id, listener LIMIT ?`, limit)
}

func (b *Bus) readParked(ctx context.Context, where string, args ...any) (ps []Parked, err error) {
	rows, err := b.db.Query(ctx, selectParked+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanParked(rows.Scan)
		if err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, rows.Err()
}

// ParkedOf returns the parked deliveries of a listener by rising EventID, behind the one named after (0: from the first), at most limit of 1
// to 1000. A listener that no program has any more is no error.
func (b *Bus) ParkedOf(ctx context.Context, listener string, after int64, limit int) (ps []Parked, err error) {
	defer levee.Wrap(&err, "event.ParkedOf(%q)", listener)
	if limit < 1 || limit > 1000 {
		return nil, levee.Invalid("limit", "1 to 1000", limit)
	}
	return b.readParked(ctx, `WHERE listener = ? AND event_id > ? ORDER BY event_id LIMIT ?`, listener, after, limit)
}

// RetryParked runs the listener on a parked event once more, now, and removes the row together with the effect; what it returns is that
// row, for the audit trail. The event comes after those of its key that went on meanwhile, and after those that are parked before it if they
// still are: the order of a key is lost where an event of it was parked. It fails with CodeNotFound for what is not parked or has no
// listener here, else with the listener's error; nothing has changed then.
func (b *Bus) RetryParked(ctx context.Context, eventID int64, listener string) (p Parked, err error) {
	defer levee.Wrap(&err, "event.RetryParked(%d, %q)", eventID, listener)
	err = b.db.Tx(ctx, "event.retry_parked", func(ctx context.Context, tx *db.Tx) error {
		if p, err = b.parkedTx(ctx, tx, eventID, listener); err != nil {
			return err
		}
		l, ok := b.listener(p.Event, listener)
		if !ok {
			return levee.E(levee.CodeNotFound, "nothing is registered as listener %q of %q", listener, p.Event)
		}
		run, err := l.hears[p.Event](p.Payload)
		if err != nil {
			return err
		}
		if err := call(l.name, func() error { return run(ctx, tx) }); err != nil {
			return err
		}
		return unparkTx(ctx, tx, eventID, listener)
	})
	return p, err
}

// Retried is what RetryParkedOf has done.
type Retried struct {
	Done   []Parked // these succeeded and are no longer parked
	Failed []Parked // these failed again; Error is the new one
	Held   int      // these were not tried: an event of their key has failed before them
	Next   int64    // go on behind this EventID; 0: that was all
}

// RetryParkedOf retries the parked deliveries of a listener, at most limit of 1 to 1000, behind the one named after, each in its own transaction and by
// rising EventID: so those of one key come in the order that they had, and where one fails again the later ones of its key are left. It ends with
// the first error that is not a listener's, and returns what was done until then.
func (b *Bus) RetryParkedOf(ctx context.Context, listener string, after int64, limit int) (r Retried, err error) {
	defer levee.Wrap(&err, "event.RetryParkedOf(%q)", listener)
	ps, err := b.ParkedOf(ctx, listener, after, limit)
	if err != nil {
		return r, err
	}
	held := map[int64]bool{}
	for _, p := range ps {
		if _, ok := b.listener(p.Event, listener); !ok {
			return r, levee.E(levee.CodeNotFound, "nothing is registered as listener %q of %q", listener, p.Event)
		}
		if held[p.Key] {
			r.Held++
			continue
		}
		done, err := b.RetryParked(ctx, p.EventID, listener)
		switch {
		case err == nil:
			r.Done = append(r.Done, done)
		case ctx.Err() != nil:
			return r, ctx.Err()
		case levee.CodeOf(err) == levee.CodeNotFound: // somebody else was faster
		default:
			held[p.Key] = true
			p.Error = levee.Shorten(err.Error(), errorMax)
			r.Failed = append(r.Failed, p)
		}
	}
	if len(ps) == limit {
		r.Next = ps[len(ps)-1].EventID
	}
	return r, nil
}

// DiscardParked gives a parked delivery up for ever and returns it, for the audit trail. It fails with CodeNotFound for what is not parked.
func (b *Bus) DiscardParked(ctx context.Context, eventID int64, listener string) (p Parked, err error) {
	defer levee.Wrap(&err, "event.DiscardParked(%d, %q)", eventID, listener)
	err = b.db.Tx(ctx, "event.discard_parked", func(ctx context.Context, tx *db.Tx) error {
		if p, err = b.parkedTx(ctx, tx, eventID, listener); err != nil {
			return err
		}
		return unparkTx(ctx, tx, eventID, listener)
	})
	return p, err
}

// parkedTx reads a parked delivery and keeps it from others until the commit.
func (b *Bus) parkedTx(ctx context.Context, tx *db.Tx, eventID int64, listener string) (Parked, error) {
	p, err := scanParked(tx.QueryRow(ctx, strings.TrimSpace(selectParked+`WHERE event_id = ? AND listener = ? `+b.db.Dialect().ForUpdate()),
		eventID, listener).Scan)
	if errors.Is(err, db.ErrNoRows) {
		return Parked{}, levee.E(levee.CodeNotFound, "no such parked event")
	}
	return p, err
}

func unparkTx(ctx context.Context, tx *db.Tx, eventID int64, listener string) error {
	res, err := tx.Exec(ctx, `DELETE FROM event_parked WHERE event_id = ? AND listener = ?`, eventID, listener)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("%d rows instead of the parked one", n), err)
	}
	return nil
}

func (b *Bus) listener(event, name string) (Listener, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.listeners[event] {
		if l.name == name {
			return l, true
		}
	}
	return Listener{}, false
}

// Prune removes for ever what was parked before a time, at most 1000 rows a call, and returns their number: the caller repeats
// while it is 1000. Nothing else needs pruning: an event leaves the tables with its last listener.
func (b *Bus) Prune(ctx context.Context, before time.Time) (n int, err error) {
	defer levee.Wrap(&err, "event.Prune")
	type key struct {
		id       int64
		listener string
	}
	err = b.db.Tx(ctx, "event.prune", func(ctx context.Context, tx *db.Tx) error {
		rows, err := tx.Query(ctx, `SELECT event_id, listener FROM event_parked WHERE parked_at < ? ORDER BY parked_at LIMIT 1000`,
			before.UnixMicro())
		if err != nil {
			return err
		}
		defer rows.Close()
		var keys []key
		for rows.Next() {
			var k key
			if err := rows.Scan(&k.id, &k.listener); err != nil {
				return err
			}
			keys = append(keys, k)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, k := range keys {
			if _, err := tx.Exec(ctx, `DELETE FROM event_parked WHERE event_id = ? AND listener = ?`, k.id, k.listener); err != nil {
				return err
			}
		}
		n = len(keys)
		return nil
	})
	return n, err
}

// fault turns d into the note of its failure, or, after the last attempt, into its parking.
func (l *lane) fault(ctx context.Context, d *delivery, err error) {
	e := d.e
	if e.tries == nil {
		e.tries = map[int]int{}
	}
	// An unavailable backend is not the event's fault: it is tried for as long as it takes.
	if e.tries[d.bit] < maxAttempts-1 || levee.CodeOf(err) != levee.CodeUnavailable {
		e.tries[d.bit]++
	}
	d.err = err
	d.park = e.tries[d.bit] >= maxAttempts
	l.t.b.m.of(d.listener().name).failed.Inc()
	if d.park {
		l.logParked(ctx, d, e.tries[d.bit])
		return
	}
	wait := backoff(e.tries[d.bit])
	l.block(d.th, d.bit, time.Now().Add(wait))
	for _, later := range d.th.events {
		l.t.unload(later)
	}
	level := slog.LevelDebug // a listener that is broken as a whole must not flood the log
	if now := time.Now(); now.Sub(l.warned[d.listener().name]) >= time.Second {
		l.warned[d.listener().name] = now
		level = slog.LevelWarn
	}
	l.t.b.log.Log(ctx, level, "a listener failed and is tried again", "listener", d.listener().name, "event", e.to.name, "id", e.id,
		"key", e.key, "attempt", e.tries[d.bit], "pause", wait, "err", err)
}

func (l *lane) logParked(ctx context.Context, d *delivery, attempts int) {
	l.t.b.m.of(d.listener().name).parked.Inc()
	l.t.b.log.ErrorContext(ctx, "an event is parked: its listener fails on it, later events of its key go on", "listener", d.listener().name,
		"event", d.e.to.name, "id", d.e.id, "key", d.e.key, "attempts", attempts, "err", d.err)
}

// backoff is the pause after the attempt-th failure: doubled each time, spread by a fifth so that what failed together does
// not come back together.
func backoff(attempt int) time.Duration {
	d := backoffMost
	if n := attempt - 1; n < 20 {
		d = min(backoffFirst<<n, backoffMost)
	}
	return d - d/10 + rand.N(d/5)
}
