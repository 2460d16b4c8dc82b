package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Parked is a delivery that was given up after its last attempt. Its row stays until RetryParked succeeds or Prune takes it.
type Parked struct {
	EventID  int64
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
		`VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, d.e.id, d.listener().name, d.e.to.name, d.e.key, d.e.payload, max(d.e.tries[d.bit], 1),
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
	rows, err := b.db.Query(ctx, selectParked+`ORDER BY parked_at, event_id, listener LIMIT ?`, limit)
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

// RetryParked runs the listener on a parked event once more, now and out of order, and removes the row together with the
// effect. It fails with CodeNotFound for what is not parked or has no listener any more, else with the listener's error.
func (b *Bus) RetryParked(ctx context.Context, eventID int64, listener string) (err error) {
	defer levee.Wrap(&err, "event.RetryParked(%d, %q)", eventID, listener)
	return b.db.Tx(ctx, "event.retry_parked", func(ctx context.Context, tx *db.Tx) error {
		p, err := scanParked(tx.QueryRow(ctx, strings.TrimSpace(selectParked+`WHERE event_id = ? AND listener = ? `+b.db.Dialect().ForUpdate()),
			eventID, listener).Scan)
		if errors.Is(err, db.ErrNoRows) {
			return levee.E(levee.CodeNotFound, "no such parked event")
		}
		if err != nil {
			return err
		}
		l, ok := b.listener(p.Event, listener)
		if !ok {
			return levee.E(levee.CodeNotFound, "nothing is registered as listener %q of %q", listener, p.Event)
		}
		run, err := l.decode(p.Payload)
		if err != nil {
			return err
		}
		if err := call(l.name, func() error { return run(ctx, tx) }); err != nil {
			return err
		}
		res, err := tx.Exec(ctx, `DELETE FROM event_parked WHERE event_id = ? AND listener = ?`, eventID, listener)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(fmt.Errorf("%d rows instead of the parked one", n), err)
		}
		return nil
	})
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
