package event

import (
	"context"
	"errors"
	"sync"
	"time"

	"levee/internal/platform/db"
)

// The log. An event goes into it in a delivering transaction of the relay, the first one that it is part of, not when it is emitted: so
// emitting costs nothing more, and the numbers are given by one process at a time, for one key in the order in which its lane hands the events
// out. That is what a reader may rely on, where ids (made before the commit) or numbers of the database (given before the commit,
// too) would have him pass over what commits late: he reads up to book.upTo, below which every number is committed or will never be.

const (
	logStep  = 1000 // rows that retention takes away in one transaction
	logPause = time.Minute
)

var logColumns = []string{"seq", "event_id", "name", "event_key", "payload", "logged_at"}

// book gives the numbers of a term.
type book struct {
	mu   sync.Mutex
	next int64
	open [lanes]int64 // by lane, the first number of its transaction under way; 0: none
}

// take gives a lane n numbers in a row and returns the first.
func (k *book) take(lane, n int) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.next
	k.next += int64(n)
	k.open[lane] = first
	return first
}

// done says that the lane's transaction is over and has used the numbers below one; the others are given again if nobody came behind them, else
// they stay a gap. A lane whose transaction may yet commit, as its answer was lost, does not call it: its term
// ends, and the next one begins by waiting for it.
func (k *book) done(lane int, below, end int64) {
	k.mu.Lock()
	if k.open[lane] = 0; k.next == end {
		k.next = below
	}
	k.mu.Unlock()
}

// upTo is the number up to which all that will ever be there is committed.
func (k *book) upTo() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	up := k.next - 1
	for _, first := range k.open {
		if first != 0 {
			up = min(up, first-1)
		}
	}
	return up
}

// highest is the highest number given.
func (k *book) highest() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next - 1
}

// logged is an event as it lies in the log.
type logged struct {
	seq, id, key int64
	name         string
	payload      string
}

// readLog reads at most limit events of the names, behind one number and up to another one.
func (b *Bus) readLog(ctx context.Context, after, upTo int64, names []string, limit int) ([]logged, error) {
	in, args := inNames(names)
	column := "seq"
	if b.seam.byID {
		column = "event_id"
	}
	rows, err := b.db.Query(ctx, `SELECT `+column+`, event_id, name, event_key, payload FROM event_log WHERE `+column+` > ? AND `+column+` <= ? AND name IN `+in+
		` ORDER BY `+column+` LIMIT ?`, append(append([]any{after, upTo}, args...), limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []logged
	for rows.Next() {
		var e logged
		if err := rows.Scan(&e.seq, &e.id, &e.name, &e.key, &e.payload); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// logAt returns the first row of the log at or behind a number, and when it was written; db.ErrNoRows behind the end.
func (b *Bus) logAt(ctx context.Context, number int64) (seq int64, at time.Time, err error) {
	var micros int64
	err = b.db.QueryRow(ctx, `SELECT seq, logged_at FROM event_log WHERE seq >= ? ORDER BY seq LIMIT 1`, number).Scan(&seq, &micros)
	return seq, time.UnixMicro(micros), err
}

// logEnds returns the first and the last number of the log; 0, 0 for an empty one.
func (b *Bus) logEnds(ctx context.Context) (first, last int64, err error) {
	var x, y db.NullInt64
	err = errors.Join(b.db.QueryRow(ctx, `SELECT MIN(seq) FROM event_log`).Scan(&x), b.db.QueryRow(ctx, `SELECT MAX(seq) FROM event_log`).Scan(&y))
	return x.Int64, y.Int64, err
}

// logSince returns the number of the first row written at a time or later, or the one behind the last. The times rise with the numbers, up to
// what the clocks of relays differ by.
func (b *Bus) logSince(ctx context.Context, since time.Time) (int64, error) {
	first, last, err := b.logEnds(ctx)
	if err != nil || last == 0 {
		return first, err
	}
	since = time.UnixMicro(since.UnixMicro()) // as fine as what is stored
	low, high := first, last+1
	for low < high {
		seq, at, err := b.logAt(ctx, low+(high-low)/2)
		switch {
		case errors.Is(err, db.ErrNoRows):
			high = low + (high-low)/2
		case err != nil:
			return 0, err
		case at.Before(since):
			low = seq + 1
		default:
			high = low + (high-low)/2
		}
	}
	return low, nil
}

// retain takes what has been kept for long enough out of the log, in small steps, as long as the term lasts.
func (t *term) retain(ctx context.Context) error {
	t.b.pause(ctx, time.Second) // a term that only drains need not look
	for ctx.Err() == nil {
		n, err := t.retainStep(ctx)
		if err != nil && ctx.Err() == nil {
			if errors.Is(err, errLost) || errors.Is(err, errAgain) {
				return err
			}
			t.b.log.WarnContext(ctx, "the log of events could not be shortened", "err", err)
		}
		if n < logStep {
			t.b.pause(ctx, logPause)
		}
	}
	return nil
}

// retainStep takes away the oldest rows that are old enough, but not the last one, nor what a listener of this program has yet to get.
func (t *term) retainStep(ctx context.Context) (n int, err error) {
	_, last, err := t.b.logEnds(ctx)
	if err != nil || last == 0 {
		return 0, err
	}
	bound := last - 1
	for _, p := range t.pumps {
		bound = min(bound, p.at.Load())
	}
	rows, err := t.b.db.Query(ctx, `SELECT seq, logged_at FROM event_log WHERE seq <= ? ORDER BY seq LIMIT ?`, bound, logStep)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	until, old := int64(0), t.b.clock().Add(-t.b.keep).UnixMicro()
	for rows.Next() {
		var seq, at int64
		if err := rows.Scan(&seq, &at); err != nil {
			return 0, err
		}
		if at >= old {
			break
		}
		until = seq
		n++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || n == 0 {
		return 0, err
	}
	lost := 0
	err = t.b.db.Tx(ctx, "event.retain", func(ctx context.Context, tx *db.Tx) error {
		if err := t.holdTx(ctx, tx); err != nil {
			return err
		}
		lost = 0
		for _, p := range t.pairs { // those of this program were looked at above
			if p.state != behind || !p.away || p.cursor >= until {
				continue
			}
			var one int
			err := tx.QueryRow(ctx, `SELECT 1 FROM event_log WHERE seq > ? AND seq <= ? AND name = ? LIMIT 1`, p.cursor, until, p.event).Scan(&one)
			if errors.Is(err, db.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			lost++
			t.b.log.ErrorContext(ctx, "a listener that no running program has loses its events, and none are kept for it any more", "listener", p.listener,
				"event", p.event, "kept", t.b.keep)
			if _, err := tx.Exec(ctx, `UPDATE event_listener SET state = 2 WHERE listener = ? AND event = ?`, p.listener, p.event); err != nil {
				return err
			}
		}
		if lost > 0 {
			if err := t.b.lockTx(ctx, tx); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `DELETE FROM event_log WHERE seq <= ?`, until)
		return err
	})
	if err == nil && lost > 0 {
		err = errAgain
	}
	return n, err
}

// inNames writes names as "(?, ?)".
func inNames(names []string) (string, []any) {
	args := make([]any, len(names))
	in := "("
	for i, name := range names {
		if args[i] = name; i > 0 {
			in += ", "
		}
		in += "?"
	}
	return in + ")", args
}
