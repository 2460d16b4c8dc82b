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
	id, key, previous int64
	name              string
	payload           string
	loaded            bool
}

// mark is a row of event_inbox.
type mark struct {
	listener string
	done     bool
	attempts int
	retryAt  time.Time
	bit      int
}

// number is where the log has the event, in the log's own mark.
func (m mark) number() int64 { return m.retryAt.UnixMicro() }

// watch is what a relay that stands by has seen of the one that works.
type watch struct {
	fence, until int64
	since        time.Time // from when on the row has not changed although there was work; monotonic
	term         time.Time // from when on the fence has not changed
}

// acquire makes this process the relay and returns its fence; 0 when another one relays and steal is not set, or there is nothing to do.
// mine is the fence it had before, if any. Another one counts as silent when its row has stood still for a lease while there
// was work, as seen from here: the time that is written there is another machine's, and only says that it changed.
func (b *Bus) acquire(ctx context.Context, mine int64, steal bool, w *watch) (fence int64, err error) {
	relieve := false
	if !steal {
		var have, until int64
		err := b.db.QueryRow(ctx, `SELECT fence, lease_until FROM event_relay WHERE id = 1`).Scan(&have, &until)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return 0, err
		}
		if err == nil && have == mine && mine != 0 {
			return mine, nil
		}
		if w.fence != have || w.term.IsZero() {
			*w = watch{fence: have, until: until, term: time.Now()}
		}
		behind, left, behindErr := b.leftBehind(ctx)
		if behindErr != nil {
			return 0, behindErr
		}
		// A silent relay is left alone until there is work for it.
		var one int
		work := b.db.QueryRow(ctx, `SELECT 1 FROM event_outbox LIMIT 1`).Scan(&one)
		switch {
		case errors.Is(work, db.ErrNoRows) && !behind:
			w.since = time.Time{}
			return 0, nil
		case work != nil && !errors.Is(work, db.ErrNoRows):
			return 0, work
		}
		if err == nil && until != 0 {
			now := time.Now()
			// One that works, but does not know listeners of this program which have something to get, had its time after a lease.
			relieve = left && now.Sub(w.term) >= b.lease
			if w.since.IsZero() || w.until != until {
				w.until, w.since = until, now
			}
			if now.Sub(w.since) < b.lease && !relieve {
				return 0, nil
			}
		}
	}
	seen := *w
	now := b.clock().UnixMicro()
	err = b.db.Tx(ctx, "event.acquire", func(ctx context.Context, tx *db.Tx) error {
		fence = 0
		var have, until int64
		err := tx.QueryRow(ctx, b.sqlLease).Scan(&have, &until)
		switch {
		case errors.Is(err, db.ErrNoRows):
			fence = 1
			_, err = tx.Exec(ctx, `INSERT INTO event_relay (id, fence, lease_until) VALUES (1, 1, ?)`, now+b.lease.Microseconds())
			return err
		case err != nil:
			return err
		case !steal && until != 0 && (have != seen.fence || until != seen.until && !relieve):
			return nil
		}
		fence = have + 1
		_, err = tx.Exec(ctx, `UPDATE event_relay SET fence = ?, lease_until = ? WHERE id = 1`, fence, now+b.lease.Microseconds())
		return err
	})
	*w = watch{}
	if err != nil {
		return 0, err
	}
	return fence, nil
}

// release ends the lease at once, so that a process that stands by need not wait for it.
func (b *Bus) release(ctx context.Context, fence int64) {
	if fence == 0 || b.seam.dead {
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

// holdTx fails with errLost unless this term still relays, and keeps it so until the commit.
func (t *term) holdTx(ctx context.Context, tx *db.Tx) error {
	if t.b.seam.unfenced {
		return nil
	}
	var have, registry int64
	if err := tx.QueryRow(ctx, t.b.sqlFence).Scan(&have, &registry); err != nil {
		return err
	}
	switch {
	case have != t.fence:
		return errLost
	case registry != t.registry:
		return errAgain
	}
	return nil
}

// beat shows those who stand by that this term is alive, three times a lease, as long as there is work.
func (t *term) beat(ctx context.Context) error {
	last := int64(0)
	for ctx.Err() == nil {
		t.b.pause(ctx, t.b.lease/3)
		if ctx.Err() != nil || !t.worked.Swap(false) {
			continue
		}
		t.b.seam.sleep()
		until := max(t.b.clock().Add(t.b.lease).UnixMicro(), last+1) // it has to change, also when the clock stands still
		last = until
		limited, cancel := context.WithTimeout(ctx, t.b.lease)
		err := t.b.db.Tx(limited, "event.beat", func(ctx context.Context, tx *db.Tx) error {
			res, err := tx.Exec(ctx, `UPDATE event_relay SET lease_until = ? WHERE id = 1 AND fence = ?`, until, t.fence)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 && !t.b.seam.unfenced {
				return errors.Join(errLost, err)
			}
			return nil
		})
		cancel()
		switch {
		case errors.Is(err, errLost):
			return errLost
		case err != nil && ctx.Err() == nil:
			t.worked.Store(true)
			t.b.log.WarnContext(ctx, "the relay could not extend its lease", "err", err)
		}
	}
	return nil
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

// anyBehind says whether a listener of this program has something to get from the log that it has not failed on.
func (b *Bus) anyBehind(ctx context.Context) (bool, error) {
	_, last, err := b.logEnds(ctx)
	if err != nil {
		return false, err
	}
	pairs, err := scanPairs(b.db.Query(ctx, selectPairs+` WHERE state = 1`))
	if err != nil {
		return false, err
	}
	here := b.here()
	for _, p := range pairs {
		if !hears(here, p) {
			continue
		}
		if p.cursor < last {
			return true, nil
		}
		var one int
		err := b.db.QueryRow(ctx, `SELECT 1 FROM event_replay o WHERE o.listener = ? AND NOT EXISTS `+
			`(SELECT 1 FROM event_inbox i WHERE i.event_id = o.id AND i.done = 0 AND i.retry_at > ?) LIMIT 1`, p.listener, b.clock().UnixMicro()).Scan(&one)
		if !errors.Is(err, db.ErrNoRows) {
			return err == nil, err
		}
	}
	return false, nil
}

// lastMarked returns the highest event id that has a row in the inbox, or 0.
func (b *Bus) lastMarked(ctx context.Context) (int64, error) {
	var last db.NullInt64
	err := b.db.QueryRow(ctx, `SELECT MAX(event_id) FROM event_inbox`).Scan(&last)
	return last.Int64, err
}

// readPage reads the events behind id.
func (b *Bus) readPage(ctx context.Context, id int64) ([]*row, error) {
	return b.readEvents(ctx, `WHERE id > ? ORDER BY id LIMIT ?`, id, pageSize)
}

// readByID reads those of the events that are in the outbox.
func (b *Bus) readByID(ctx context.Context, ids []int64) ([]*row, error) {
	in, args := list(ids)
	return b.readEvents(ctx, `WHERE id IN `+in, args...)
}

func (b *Bus) readEvents(ctx context.Context, where string, args ...any) ([]*row, error) {
	rows, err := b.db.Query(ctx, `SELECT id, name, event_key, payload, previous FROM event_outbox `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []*row
	for rows.Next() {
		r := &row{loaded: true}
		if err := rows.Scan(&r.id, &r.name, &r.key, &r.payload, &r.previous); err != nil {
			return nil, err
		}
		events = append(events, r)
	}
	return events, rows.Err()
}

// readBelow reads the events up to id that are not known, without their payloads.
func (b *Bus) readBelow(ctx context.Context, id int64, known map[int64]struct{}) ([]*row, error) {
	rows, err := b.db.Query(ctx, `SELECT id, name, event_key, previous FROM event_outbox WHERE id <= ? ORDER BY id LIMIT ?`, id, 2*heldMax)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []*row
	for rows.Next() {
		r := &row{}
		if err := rows.Scan(&r.id, &r.name, &r.key, &r.previous); err != nil {
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

// readPayloads reads the payloads of events of a table into payloads, by id.
func (b *Bus) readPayloads(ctx context.Context, table string, ids []int64, payloads map[int64]string) error {
	if len(ids) == 0 {
		return nil
	}
	in, args := list(ids)
	rows, err := b.db.Query(ctx, `SELECT id, payload FROM `+table+` WHERE id IN `+in, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var p string
		if err := rows.Scan(&id, &p); err != nil {
			return err
		}
		payloads[id] = p
	}
	return rows.Err()
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

// deleteTx takes finished events out of their table; errGone when one is not there.
func deleteTx(ctx context.Context, tx *db.Tx, table string, ids []int64) error {
	for len(ids) > 0 {
		n := min(len(ids), batchMax)
		in, args := list(ids[:n])
		res, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE id IN `+in, args...)
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
