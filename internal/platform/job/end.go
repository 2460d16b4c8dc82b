package job

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// ending is how a run ended.
type ending struct {
	outcome string
	pause   time.Duration
	err     error
}

// ended is a run that is over.
type ended struct {
	c *claim
	ending
	took time.Duration
}

const endsMost = 1024 // ends of one transaction

// finish decides how a run ended and has it written down.
func (r *runner) finish(c *claim, err error, took time.Duration) {
	j := r.j
	j.mu.Lock()
	cause := c.cause // why it was cut off, if it was; its timeout does not show here
	if cause == nil && c.ctx != nil {
		cause = context.Cause(c.ctx)
	}
	j.mu.Unlock()
	e := &ended{c, ending{err: err}, took}
	var again snooze
	var gone discard
	switch {
	case c.done.Load():
		e.outcome = outcomeDone
		if err != nil {
			j.log.WarnContext(r.base, "a job failed after it had completed itself", "job", c.name, "id", c.id, "err", err)
		}
	case cause == errLost:
		e.outcome = outcomeLost
	case err == nil:
		e.outcome = outcomeDone
	case cause == ErrCancelled:
		e.outcome = outcomeCancelled
	case cause == errStop:
		e.outcome = outcomeInterrupted
	case errors.Is(err, errStranger):
		e.outcome, e.pause = outcomeSnoozed, strangers
	case errors.As(err, &again):
		e.outcome, e.pause = outcomeSnoozed, again.after
	case errors.As(err, &gone), errors.Is(err, errUnread), c.kind.o.MaxAttempts != Unlimited && c.attempts >= c.kind.o.MaxAttempts:
		e.outcome = outcomeDead
	default:
		e.outcome, e.pause = outcomeRetry, min(max(c.kind.o.Backoff(c.attempts), 0), maxWait)
	}
	if e.outcome == outcomeLost || c.done.Load() {
		r.settle(e)
		return
	}
	r.endsMu.Lock()
	r.ends = append(r.ends, e)
	r.endsMu.Unlock()
	select {
	case r.ended <- struct{}{}:
	default:
	}
}

// settle reports runs whose ends are written, or are another's to write, and forgets them.
func (r *runner) settle(ends ...*ended) {
	claims := make([]*claim, len(ends))
	for i, e := range ends {
		r.j.report(r.base, e)
		claims[i] = e.c
	}
	r.leave(claims...)
}

// complete writes the ends of runs, many in one transaction: those that have gathered while the ones before were written. A lone one waits for nobody.
func (r *runner) complete(over <-chan struct{}) {
	for {
		select {
		case <-r.ended:
		case <-over:
			return
		}
		runtime.Gosched() // lets those who are about to end come along
		r.endsMu.Lock()
		ends := r.ends
		r.ends = nil
		r.endsMu.Unlock()
		for len(ends) > 0 {
			n := min(len(ends), endsMost)
			r.writeTogether(ends[:n])
			ends = ends[n:]
		}
	}
}

// writeTogether tries once. What one of them may have spoilt is then tried for each alone.
func (r *runner) writeTogether(ends []*ended) {
	j := r.j
	j.seam.sleep()
	lost, err := j.endAll(context.WithoutCancel(r.base), ends)
	if err != nil {
		for _, e := range ends {
			r.wg.Go(func() { r.writeAlone(e) })
		}
		return
	}
	for _, e := range ends {
		if lost[e.c] {
			e.outcome = outcomeLost
		}
	}
	r.settle(ends...)
}

// writeAlone tries until the lease is over: to run a job again that has succeeded is worse than to wait for the database.
func (r *runner) writeAlone(e *ended) {
	j, c := r.j, e.c
	ctx := context.WithoutCancel(r.base)
	j.seam.sleep()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := j.end(ctx, c, e.ending)
		if errors.Is(err, errLost) {
			e.outcome = outcomeLost
		} else if err != nil {
			j.mu.Lock()
			left := time.Until(c.until)
			j.mu.Unlock()
			if left >= pause {
				t := time.NewTimer(pause)
				<-t.C
				continue
			}
			j.log.ErrorContext(ctx, "the end of a job could not be written; it runs again after its lease", "job", c.name, "id", c.id,
				"outcome", e.outcome, "err", err)
			e.outcome = outcomeLost
		}
		r.settle(e)
		return
	}
}

// end writes one ending; errLost when the lease is no longer c's.
func (j *Jobs) end(ctx context.Context, c *claim, e ending) error {
	lost, err := j.endAll(ctx, []*ended{{c: c, ending: e}})
	if err == nil && lost[c] {
		return errLost
	}
	return err
}

var errSome = errors.New("some leases were lost")

// endAll writes endings in one transaction and returns those whose lease is another's. What is done is deleted by few statements; when
// these find less than they should, all is undone and each is deleted by its own.
func (j *Jobs) endAll(ctx context.Context, ends []*ended) (lost map[*claim]bool, err error) {
	slices.SortFunc(ends, func(a, b *ended) int { return cmp.Compare(a.c.id, b.c.id) }) // everybody locks in this order
	for together := len(ends) > 1; ; together = false {
		err = j.db.Tx(ctx, "job.end", func(ctx context.Context, tx *db.Tx) error {
			lost = nil
			var done []*ended
			var kept [][]any
			var told []End
			for _, e := range ends {
				if e.outcome == outcomeDone && together {
					done = append(done, e)
				} else if err := j.endTx(ctx, tx, e); errors.Is(err, errLost) {
					if lost == nil {
						lost = map[*claim]bool{}
					}
					lost[e.c] = true
					continue
				} else if err != nil {
					return err
				}
				if e.outcome == outcomeDone || e.outcome == outcomeCancelled {
					if row := j.history(e.c, e.outcome); row != nil {
						kept = append(kept, row)
					}
				}
				if j.followed(e.c.source) {
					told = append(told, e.c.became(e.outcome, e.err))
				}
			}
			if err := j.doneTx(ctx, tx, done); err != nil {
				return err
			}
			if err := tx.InsertRows(ctx, "job_done", doneColumns, kept); err != nil {
				return err
			}
			return j.tellTx(ctx, tx, told...)
		})
		if !errors.Is(err, errSome) {
			return lost, err
		}
	}
}

// doneTx deletes what is done, by one statement for all of one fence: mostly 1.
func (j *Jobs) doneTx(ctx context.Context, tx *db.Tx, done []*ended) error {
	for len(done) > 0 {
		fence := done[0].c.fence
		var rest []*ended
		ids := make([]int64, 0, len(done))
		for _, e := range done {
			if e.c.fence == fence {
				ids = append(ids, e.c.id)
			} else {
				rest = append(rest, e)
			}
		}
		in, args := listIDs(ids, fence)
		res, err := tx.Exec(ctx, j.sql.deleteMany+in, args...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n != int64(len(ids)) {
			return errSome
		}
		done = rest
	}
	return nil
}

// endTx writes one ending.
func (j *Jobs) endTx(ctx context.Context, tx *db.Tx, e *ended) error {
	c, due := e.c, j.clock().Add(e.pause).UnixMicro()
	switch e.outcome {
	case outcomeDone:
		return j.deleteTx(ctx, tx, c)
	case outcomeCancelled:
		if err := j.deleteTx(ctx, tx, c); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM job_control WHERE name = ?`, cancelName(c.id))
		return err
	case outcomeDead:
		text := short(e.err)
		return j.buryTx(ctx, tx, c.id, c.fence, text, j.failed(c.failures, c.attempts, text))
	case outcomeRetry:
		text := short(e.err)
		return held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, crashes = 0, error = ?, failures = ? `+
			`WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, due, text, j.failed(c.failures, c.attempts, text), c.id, c.fence))
	case outcomeSnoozed:
		return held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, attempts = attempts - 1, crashes = 0 `+
			`WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, due, c.id, c.fence))
	default: // interrupted: as if it had not been, so it waits where it stood
		return held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, attempts = attempts - 1 `+
			`WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, c.dueAt.UnixMicro(), c.id, c.fence))
	}
}

// short is an error's text as it is kept: not long, and text in every database.
func short(err error) string {
	return levee.Shorten(strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "?"), "\x00", "?"), errorMax)
}

func (j *Jobs) deleteTx(ctx context.Context, tx *db.Tx, c *claim) error {
	if j.seam.unfenced {
		_, err := tx.Exec(ctx, `DELETE FROM job_task WHERE id = ?`, c.id)
		return err
	}
	return held(tx.Exec(ctx, `DELETE FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, c.id, c.fence))
}

// buryTx moves a running job to job_dead.
func (j *Jobs) buryTx(ctx context.Context, tx *db.Tx, id, fence int64, text, failures string) error {
	if _, err := tx.Exec(ctx, `INSERT INTO job_dead (id, kind, pool, args, unique_key, attempts, error, dead_at, source, failures) `+
		`SELECT id, kind, pool, args, unique_key, attempts, ?, ?, source, ? FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`,
		text, j.clock().UnixMicro(), failures, id, fence); err != nil {
		return err
	}
	return held(tx.Exec(ctx, `DELETE FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, id, fence))
}

func (j *Jobs) report(ctx context.Context, e *ended) {
	c := e.c
	m := j.m.kind(c.name)
	m.finished(e.outcome).Inc()
	m.seconds.Observe(e.took.Seconds())
	level, text := slog.LevelDebug, "a job is done"
	switch e.outcome {
	case outcomeCancelled:
		level, text = slog.LevelInfo, "a job was cancelled"
	case outcomeSnoozed, outcomeInterrupted:
		level, text = slog.LevelInfo, "a job was put off"
	case outcomeRetry:
		level, text = slog.LevelWarn, "a job failed and is tried again"
	case outcomeLost:
		level, text = slog.LevelWarn, "a job was taken over while it ran; what it did in DoneTx's transaction is not kept"
	case outcomeDead:
		level, text = slog.LevelError, "a job is dead"
	}
	j.tell(Event{What: e.outcome, ID: c.id, Job: c.name, Source: c.source, Attempt: c.attempts, Took: e.took, Err: e.err})
	if j.log.Enabled(ctx, level) {
		j.log.Log(ctx, level, text, "job", c.name, "id", c.id, "attempt", c.attempts, "took", e.took, "outcome", e.outcome,
			"pause", e.pause, "err", e.err)
	}
}

// keepTx writes down an end that stands alone.
func (j *Jobs) keepTx(ctx context.Context, tx *db.Tx, c *claim, outcome string) error {
	if row := j.history(c, outcome); row != nil {
		if err := tx.InsertRows(ctx, "job_done", doneColumns, [][]any{row}); err != nil {
			return err
		}
	}
	return j.tellTx(ctx, tx, c.became(outcome, nil))
}

// End is what has become of a job: What is done, dead or cancelled, or of a dead one that it was retried or pruned. Result is that of SetResult,
// as JSON or empty; Error that of the last attempt of a dead one, at most 1,000 bytes.
type End struct {
	ID                          int64
	Source, What, Result, Error string
}

// Follower is told of every job whose source (From) begins with Prefix when it leaves the table of those that wait or run, in the transaction in
// which it does: Ended's writes commit with the end or not at all, are those of the run whose lease counted, and an error of it undoes the ends. It must
// bear to be run again. Enter gives each run its context. Unique is refused for such jobs, so that CancelTx cannot take one away.
type Follower struct {
	Prefix string
	Ended  func(ctx context.Context, tx *db.Tx, ends []End) error // in the order of ids
	Enter  func(ctx context.Context, id int64) context.Context
}

// Follow sets the follower, before Run and on every node. It fails with CodeInvalid when there is one, or it is not whole.
func (j *Jobs) Follow(f Follower) error {
	if f.Prefix == "" || f.Ended == nil || f.Enter == nil || j.follows.Prefix != "" {
		return levee.Invalid("follower", "one, with all its fields", f.Prefix)
	}
	j.follows = f
	return nil
}

func (j *Jobs) followed(source string) bool {
	return j.follows.Prefix != "" && strings.HasPrefix(source, j.follows.Prefix)
}

// became is what the follower is told of c. Outcomes after which it goes on waiting are left out by tellTx.
func (c *claim) became(outcome string, err error) End {
	e := End{ID: c.id, Source: c.source, What: outcome}
	if r := c.result.Load(); r != nil {
		e.Result = *r
	}
	if outcome == outcomeDead {
		e.Error = short(err)
	}
	return e
}

func (j *Jobs) tellTx(ctx context.Context, tx *db.Tx, ends ...End) error {
	ends = slices.DeleteFunc(ends, func(e End) bool {
		return !j.followed(e.Source) || e.What == outcomeRetry || e.What == outcomeSnoozed || e.What == outcomeInterrupted
	})
	if len(ends) == 0 {
		return nil
	}
	slices.SortFunc(ends, func(a, b End) int { return cmp.Compare(a.ID, b.ID) })
	return j.follows.Ended(ctx, tx, ends)
}
