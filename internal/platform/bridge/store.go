package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
)

// countMax is up to where waiting events are counted.
const countMax = 100_000

type outRow struct {
	id, key int64
	data    []byte
}

// readOut reads the oldest waiting events of a name: always from the first on, so none is ever passed over.
func (b *Bridge) readOut(ctx context.Context, name string) ([]*outRow, error) {
	rows, err := b.d.DB.Query(ctx, `SELECT id, event_key, data FROM bridge_out WHERE name = ? ORDER BY id LIMIT ?`, name, broker.PublishMax)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []*outRow
	for size := 0; size < pageBytes && rows.Next(); {
		r := &outRow{}
		if err := rows.Scan(&r.id, &r.key, &r.data); err != nil {
			return nil, err
		}
		size += len(r.data)
		out = append(out, r)
	}
	return out, rows.Err()
}

// markOut takes out what the broker has.
func (b *Bridge) markOut(ctx context.Context, name string, rows []*outRow) error {
	return b.d.DB.Tx(ctx, "bridge.published", func(ctx context.Context, tx *db.Tx) error { return deleteOutTx(ctx, tx, name, rows) })
}

func deleteOutTx(ctx context.Context, tx *db.Tx, name string, rows []*outRow) error {
	for len(rows) > 0 {
		part := rows[:min(len(rows), 128)]
		rows = rows[len(part):]
		args := make([]any, 0, 129)
		args = append(args, name)
		for _, r := range part {
			args = append(args, r.id)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM bridge_out WHERE name = ? AND id IN `+marks(&args, 1), args...); err != nil {
			return err
		}
	}
	return nil
}

// marks writes "(?, …)" for the args from the first-th on, which it fills up by repetition to a power of two, so that few statements are prepared.
func marks(args *[]any, first int) string {
	n := 1
	for n < len(*args)-first {
		n *= 2
	}
	for len(*args)-first < n {
		*args = append(*args, (*args)[len(*args)-1])
	}
	return "(?" + strings.Repeat(", ?", n-1) + ")"
}

// waiting counts the events of a name that wait, up to countMax, and returns the oldest one's row id.
func (b *Bridge) waiting(ctx context.Context, name string) (n int, oldest int64, err error) {
	var first db.NullInt64
	if err := b.d.DB.QueryRow(ctx, `SELECT MIN(id) FROM bridge_out WHERE name = ?`, name).Scan(&first); err != nil || !first.Valid {
		return 0, 0, err
	}
	err = b.d.DB.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT id FROM bridge_out WHERE name = ? LIMIT ?) some_rows`, name, countMax).Scan(&n)
	return n, first.Int64, err
}

// waitingNames are the names of which events wait.
func (b *Bridge) waitingNames(ctx context.Context) (names []string, err error) {
	for last := ""; ; {
		var next db.NullString
		if err := b.d.DB.QueryRow(ctx, `SELECT MIN(name) FROM bridge_out WHERE name > ?`, last).Scan(&next); err != nil || !next.Valid {
			return names, err
		}
		last = next.String
		names = append(names, last)
	}
}

// seenTx notes which of the messages were taken in before.
func seenTx(ctx context.Context, tx *db.Tx, as []*arrival, seen map[string]bool) error {
	args := make([]any, len(as))
	for i, a := range as {
		args[i] = a.digest
	}
	in := marks(&args, 0)
	rows, err := tx.Query(ctx, `SELECT digest FROM bridge_seen WHERE digest IN `+in, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var d string
		if err := rows.Scan(&d); err != nil {
			return err
		}
		seen[d] = true
	}
	return rows.Err()
}

// forgetSome removes notes from before a time, at most forgetRows.
func (b *Bridge) forgetSome(ctx context.Context, before time.Time) (n int, err error) {
	rows, err := b.d.DB.Query(ctx, `SELECT digest FROM bridge_seen WHERE seen_at < ? ORDER BY seen_at LIMIT ?`, before.UnixMicro(), forgetRows)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var args []any
	for rows.Next() {
		var d string
		if err := rows.Scan(&d); err != nil {
			return 0, err
		}
		args = append(args, d)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(args) == 0 {
		return 0, err
	}
	n = len(args)
	in := marks(&args, 0)
	return n, b.d.DB.Tx(ctx, "bridge.forget", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM bridge_seen WHERE digest IN `+in, args...)
		return err
	})
}

// Parked is a message that waits for a person.
type Parked struct {
	ID        int64
	Out       bool   // it was to go out; else it came in
	Topic     string // of the broker
	MessageID string // as the sender gave it; of an outgoing one ID itself
	Event     string // its name, as far as it is known
	Key       int64  // of an outgoing event
	Data      string // of an outgoing event its JSON, of an incoming message its body
	Cut       bool   // Data is not whole (over 256 KiB, or no UTF-8): Retry cannot take it
	Reason    string
	ParkedAt  time.Time
}

func (b *Bridge) parkTx(ctx context.Context, tx *db.Tx, p Parked) error {
	direction, cut := 0, 0
	if p.Out {
		direction = 1
	}
	if p.Cut {
		cut = 1
	}
	_, err := tx.Exec(ctx, `INSERT INTO bridge_parked (id, direction, topic, message_id, name, event_key, data, cut, reason, parked_at) `+
		`VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, p.ID, direction, p.Topic, toUTF8(p.MessageID), toUTF8(p.Event), p.Key, p.Data, cut,
		toUTF8(levee.Shorten(p.Reason, 1000)), b.clock().UnixMicro())
	return err
}

func toUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// boundParkedTx forgets the oldest incoming messages beyond the limit.
func (b *Bridge) boundParkedTx(ctx context.Context, tx *db.Tx) error {
	var n int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM bridge_parked WHERE direction = 0`).Scan(&n); err != nil || n <= b.cfg.ParkedMax {
		return err
	}
	var last int64
	if err := tx.QueryRow(ctx, `SELECT id FROM bridge_parked WHERE direction = 0 ORDER BY id LIMIT 1 OFFSET ?`, n-b.cfg.ParkedMax-1).Scan(&last); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM bridge_parked WHERE direction = 0 AND id <= ?`, last)
	b.m.forgotten.Add(float64(n - b.cfg.ParkedMax))
	return err
}

const parkedColumns = `SELECT id, direction, topic, message_id, name, event_key, data, cut, reason, parked_at FROM bridge_parked `

func scanParked(scan func(...any) error) (p Parked, err error) {
	var at int64
	err = scan(&p.ID, &p.Out, &p.Topic, &p.MessageID, &p.Event, &p.Key, &p.Data, &p.Cut, &p.Reason, &at)
	p.ParkedAt = time.UnixMicro(at)
	return p, err
}

// Parked returns the parked messages with ids above after, oldest first, at most limit of 1 to 1000. Data is shortened to 1 KiB.
func (b *Bridge) Parked(ctx context.Context, after int64, limit int) (ps []Parked, err error) {
	defer levee.Wrap(&err, "bridge.Parked")
	if limit < 1 || limit > 1000 {
		return nil, levee.Invalid("limit", "1 to 1000", limit)
	}
	rows, err := b.d.DB.Query(ctx, parkedColumns+`WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanParked(rows.Scan)
		if err != nil {
			return nil, err
		}
		p.Data = levee.Shorten(p.Data, 1<<10)
		ps = append(ps, p)
	}
	return ps, rows.Err()
}

// Retry takes a parked message once more, now and out of order: an incoming one is read again and becomes an event, an outgoing one goes back to the
// events that wait, with its id. It then leaves the parked ones. CodeNotFound: it is not parked. CodeConflict: its data are cut, or the bridge
// carries its topic or event no more. CodeInvalid: it still cannot be read, with the reason.
func (b *Bridge) Retry(ctx context.Context, parkedID int64) (err error) {
	defer levee.Wrap(&err, "bridge.Retry(%d)", parkedID)
	var woken *lane
	err = b.d.DB.Tx(ctx, "bridge.retry", func(ctx context.Context, tx *db.Tx) error {
		woken = nil
		p, err := scanParked(tx.QueryRow(ctx, strings.TrimSpace(parkedColumns+`WHERE id = ? `+b.d.DB.Dialect().ForUpdate()), parkedID).Scan)
		switch {
		case errors.Is(err, db.ErrNoRows):
			return levee.E(levee.CodeNotFound, "no such parked message")
		case err != nil:
			return err
		case p.Cut:
			return levee.E(levee.CodeConflict, "the message was not kept whole")
		case p.Out:
			if woken = b.laneOf(p.Event); woken == nil {
				return levee.E(levee.CodeConflict, "events %q do not go out here", p.Event)
			}
			_, err = tx.Exec(ctx, `INSERT INTO bridge_out (name, id, event_key, data) VALUES (?, ?, ?, ?)`, p.Event, p.ID, p.Key, p.Data)
		default:
			var e event.Event
			if e, err = b.again(p); err == nil {
				err = b.d.Bus.Emit(ctx, tx, e)
			}
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM bridge_parked WHERE id = ?`, parkedID)
		return err
	})
	if err == nil && woken != nil {
		woken.ring()
	}
	return err
}

// again reads a parked incoming message. The headers it came with are gone: what they said is kept as the event's name.
func (b *Bridge) again(p Parked) (event.Event, error) {
	for _, in := range b.in {
		if in.topic != p.Topic {
			continue
		}
		a := in.read(&broker.Message{Topic: p.Topic, ID: p.MessageID, Body: []byte(p.Data)}, b.cfg.MaxMessage)
		if a.ev == nil && p.Event != "" {
			named := *in
			named.event = p.Event
			a = named.read(&broker.Message{Topic: p.Topic, ID: p.MessageID, Body: []byte(p.Data)}, b.cfg.MaxMessage)
		}
		if a.ev == nil {
			return nil, levee.E(levee.CodeInvalid, "%s", a.reason)
		}
		return a.ev, nil
	}
	return nil, levee.E(levee.CodeConflict, "messages of topic %q do not come in here", p.Topic)
}

// Discard forgets a parked message for ever. CodeNotFound: it is not parked.
func (b *Bridge) Discard(ctx context.Context, parkedID int64) (err error) {
	defer levee.Wrap(&err, "bridge.Discard(%d)", parkedID)
	return b.d.DB.Tx(ctx, "bridge.discard", func(ctx context.Context, tx *db.Tx) error {
		res, err := tx.Exec(ctx, `DELETE FROM bridge_parked WHERE id = ?`, parkedID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(levee.E(levee.CodeNotFound, "no such parked message"), err)
		}
		return nil
	})
}

// Lag is how far the events of one name are behind.
type Lag struct {
	Event, Topic string
	Waiting      int           // counted up to 100,000
	Oldest       time.Duration // how long the first of them has waited
	Error        string        // why, as this node knows it; "" on a node that does not carry
}

// Lags returns how far each event name is behind, by name, from SQL: the same on every node.
func (b *Bridge) Lags(ctx context.Context) (ls []Lag, err error) {
	defer levee.Wrap(&err, "bridge.Lags")
	for _, l := range b.out {
		n, oldest, err := b.waiting(ctx, l.name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		lag := Lag{Event: l.name, Topic: l.topic, Waiting: n}
		if n > 0 {
			lag.Oldest = b.ageOf(oldest)
		}
		lag.Error = b.status.why("broker", "out "+l.name)
		ls = append(ls, lag)
	}
	return ls, nil
}
