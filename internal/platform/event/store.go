package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"levee/internal/platform/db"
)

// row is an event as it lies in the outbox; without loaded the payload was not read.
type row struct {
	id, key int64
	name    string
	payload string
	loaded  bool
}

// mark is a row of event_inbox.
type mark struct {
	listener string
	done     bool
	attempts int
	retryAt  time.Time
	bit      int
}

// acquire makes this process the relay and returns its fence; 0 when another one has an unexpired lease and steal is not
// set, or there is nothing to do. mine is the fence it had before, if any.
func (b *Bus) acquire(ctx context.Context, mine int64, steal bool) (fence int64, err error) {
	now := b.clock().UnixMicro()
	if !steal {
		var have, until int64
		err := b.db.QueryRow(ctx, `SELECT fence, lease_until FROM event_relay WHERE id = 1`).Scan(&have, &until)
		if err == nil && have != mine && until > now {
			return 0, nil
		}
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return 0, err
		}
		if err == nil && have == mine {
			return mine, nil
		}
		// A silent relay is left alone until there is work for it.
		var one int
		switch err := b.db.QueryRow(ctx, `SELECT 1 FROM event_outbox LIMIT 1`).Scan(&one); {
		case errors.Is(err, db.ErrNoRows):
			return 0, nil
		case err != nil:
			return 0, err
		}
	}
	err = b.db.Tx(ctx, "event.acquire", func(ctx context.Context, tx *db.Tx) error {
		var have, until int64
		err := tx.QueryRow(ctx, b.sqlLease).Scan(&have, &until)
		switch {
		case errors.Is(err, db.ErrNoRows):
			fence = 1
			_, err = tx.Exec(ctx, `INSERT INTO event_relay (id, fence, lease_until) VALUES (1, 1, ?)`, now+lease.Microseconds())
			return err
		case err != nil:
			return err
		case !steal && until > now:
			fence = 0
			return nil
		}
		fence = have + 1
		_, err = tx.Exec(ctx, `UPDATE event_relay SET fence = ?, lease_until = ? WHERE id = 1`, fence, now+lease.Microseconds())
		return err
	})
	return fence, err
}

// release ends the lease at once, so that a process that stands by need not wait for it.
func (b *Bus) release(ctx context.Context, fence int64) {
	if fence == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := b.db.Tx(ctx, "event.release", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE event_relay SET lease_until = 0 WHERE id = 1 AND fence = ?`, fence)
		return err
	})
	if err != nil {
		b.log.WarnContext(ctx, "the relay's lease could not be given back and runs out by itself", "err", err)
	}
}

// holdTx fails with errLost unless this term still relays, and extends its lease when a third of it has passed.
func (t *term) holdTx(ctx context.Context, tx *db.Tx) error {
	var have, until int64
	if err := tx.QueryRow(ctx, t.b.sqlLease).Scan(&have, &until); err != nil {
		return err
	}
	if have != t.fence {
		return errLost
	}
	now := t.b.clock().UnixMicro()
	if until-now > lease.Microseconds()*2/3 {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE event_relay SET lease_until = ? WHERE id = 1`, now+lease.Microseconds())
	return err
}

// anyDue says whether an event waits that no listener has failed on.
func (b *Bus) anyDue(ctx context.Context) (bool, error) {
	var one int
	err := b.db.QueryRow(ctx, `SELECT 1 FROM event_outbox o WHERE NOT EXISTS `+
		`(SELECT 1 FROM event_inbox i WHERE i.event_id = o.id AND i.done = 0 AND i.retry_at > ?) LIMIT 1`, b.clock().UnixMicro()).Scan(&one)
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// lastMarked returns the highest event id that has a row in the inbox, or 0.
func (b *Bus) lastMarked(ctx context.Context) (int64, error) {
	var last db.NullInt64
	err := b.db.QueryRow(ctx, `SELECT MAX(event_id) FROM event_inbox`).Scan(&last)
	return last.Int64, err
}

// readPage reads the events behind id.
func (b *Bus) readPage(ctx context.Context, id int64) ([]*row, error) {
	rows, err := b.db.Query(ctx, `SELECT id, name, event_key, payload FROM event_outbox WHERE id > ? ORDER BY id LIMIT ?`, id, pageSize)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []*row
	for rows.Next() {
		r := &row{loaded: true}
		if err := rows.Scan(&r.id, &r.name, &r.key, &r.payload); err != nil {
			return nil, err
		}
		events = append(events, r)
	}
	return events, rows.Err()
}

// readBelow reads the events up to id that are not known, without their payloads.
func (b *Bus) readBelow(ctx context.Context, id int64, known map[int64]struct{}) ([]*row, error) {
	rows, err := b.db.Query(ctx, `SELECT id, name, event_key FROM event_outbox WHERE id <= ? ORDER BY id LIMIT ?`, id, 2*heldMax)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []*row
	for rows.Next() {
		r := &row{}
		if err := rows.Scan(&r.id, &r.name, &r.key); err != nil {
			return nil, err
		}
		if _, ok := known[r.id]; !ok {
			events = append(events, r)
		}
	}
	return events, rows.Err()
}

// readMarks reads what is written down about the events first to last.
func (b *Bus) readMarks(ctx context.Context, first, last int64) (map[int64][]mark, error) {
	rows, err := b.db.Query(ctx, `SELECT event_id, listener, done, attempts, retry_at FROM event_inbox `+
		`WHERE event_id BETWEEN ? AND ?`, first, last)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	marks := map[int64][]mark{}
	for rows.Next() {
		var id, retryAt int64
		var m mark
		if err := rows.Scan(&id, &m.listener, &m.done, &m.attempts, &retryAt); err != nil {
			return nil, err
		}
		m.retryAt = time.UnixMicro(retryAt)
		marks[id] = append(marks[id], m)
	}
	return marks, rows.Err()
}

// readPayloads reads the payloads of events, by id.
func (b *Bus) readPayloads(ctx context.Context, ids []int64) (map[int64]string, error) {
	in, args := list(ids)
	rows, err := b.db.Query(ctx, `SELECT id, payload FROM event_outbox WHERE id IN `+in, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	payloads := make(map[int64]string, len(ids))
	for rows.Next() {
		var id int64
		var p string
		if err := rows.Scan(&id, &p); err != nil {
			return nil, err
		}
		payloads[id] = p
	}
	return payloads, rows.Err()
}

// list writes ids as "(?, ?)" filled up with repetitions to a power of two, so that few different statements are prepared.
func list(ids []int64) (string, []any) {
	n := 1
	for n < len(ids) {
		n *= 2
	}
	args := make([]any, n)
	for i := range args {
		args[i] = ids[min(i, len(ids)-1)]
	}
	return "(?" + strings.Repeat(", ?", n-1) + ")", args
}

// deleteTx takes finished events out of the outbox; errGone when one is not there.
func deleteTx(ctx context.Context, tx *db.Tx, ids []int64) error {
	for len(ids) > 0 {
		n := min(len(ids), batchMax)
		in, args := list(ids[:n])
		res, err := tx.Exec(ctx, `DELETE FROM event_outbox WHERE id IN `+in, args...)
		if err != nil {
			return err
		}
		switch got, err := res.RowsAffected(); {
		case err != nil:
			return err
		case got != int64(n):
			return errGone
		}
		ids = ids[n:]
	}
	return nil
}

// forgetTx removes all that is written down about a finished event.
func forgetTx(ctx context.Context, tx *db.Tx, id int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM event_inbox WHERE event_id = ?`, id)
	return err
}

// markTx writes m for an event; had says that there is a row already.
func markTx(ctx context.Context, tx *db.Tx, id int64, m mark, had bool, text string) error {
	done := 0
	if m.done {
		done = 1
	}
	var retryAt int64
	if !m.retryAt.IsZero() {
		retryAt = m.retryAt.UnixMicro()
	}
	if !had {
		_, err := tx.Exec(ctx, `INSERT INTO event_inbox (event_id, listener, done, attempts, retry_at, error) VALUES (?, ?, ?, ?, ?, ?)`,
			id, m.listener, done, m.attempts, retryAt, text)
		return err
	}
	res, err := tx.Exec(ctx, `UPDATE event_inbox SET done = ?, attempts = ?, retry_at = ?, error = ? `+
		`WHERE event_id = ? AND listener = ? AND done = 0`, done, m.attempts, retryAt, text, id, m.listener)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("event %d, listener %s: %w", id, m.listener, errGone), err)
	}
	return nil
}
