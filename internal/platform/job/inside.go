package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// What a job's function calls and returns.

type snooze struct{ after time.Duration }

func (s snooze) Error() string { return fmt.Sprintf("again in %v", s.after) }

// Snooze, returned by a job's function, runs it again after d (0 to ten years) without using up an attempt.
func Snooze(d time.Duration) error { return snooze{min(max(d, 0), maxWait)} }

type discard struct{ error }

func (d discard) Unwrap() error { return d.error }

// Discard, returned by a job's function, makes the job dead at once: no later attempt can succeed.
func Discard(err error) error { return discard{err} }

type claimKey struct{}

var errOutside = errors.New("the context is not that of a job")

// Attempt tells a job's function which attempt it is, from 1, and how many it has, which may be Unlimited. Elsewhere both are 0.
func Attempt(ctx context.Context) (n, of int) {
	c, _ := ctx.Value(claimKey{}).(*claim)
	if c == nil || c.kind == nil {
		return 0, 0
	}
	return c.attempts, c.kind.o.MaxAttempts
}

// SetResult keeps v, as JSON of at most 64 KiB, as the result of the running job: readable by Jobs.Job once it is done, for
// Options.Keep. The last call counts. It fails with CodeInvalid where the kind keeps nothing, and with CodeTooLarge.
func SetResult(ctx context.Context, v any) (err error) {
	defer levee.Wrap(&err, "job.SetResult")
	c, _ := ctx.Value(claimKey{}).(*claim)
	if c == nil || c.kind == nil {
		return errOutside
	}
	if c.kind.o.Keep == 0 && !c.kind.jobs.Load().followed(c.source) {
		return levee.Invalid("result of "+c.name, "of a kind with Options.Keep", "one without")
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > resultMax {
		return levee.E(levee.CodeTooLarge, "the result has %d bytes, allowed are %d", len(text), resultMax)
	}
	s := string(text)
	c.result.Store(&s)
	return nil
}

// SetProgress tells how far the running job is, for Jobs.Job and Jobs.List: done of total, in whatever unit, and a text of which 200 bytes are kept. It
// may be called as often as one likes: it is written at most once a second, and not after the job's end. Outside of a job it does nothing.
func SetProgress(ctx context.Context, done, total int64, text string) {
	c, _ := ctx.Value(claimKey{}).(*claim)
	if c == nil || c.kind == nil {
		return
	}
	j := c.kind.jobs.Load()
	out, err := json.Marshal(Progress{done, total, levee.Shorten(text, 197)})
	if err != nil {
		return
	}
	j.mu.Lock()
	first := c.progress == ""
	c.progress = string(out)
	if at := c.told.Add(progressEvery); first && at.Before(c.beat) {
		c.beat = at
	}
	j.mu.Unlock()
	if first {
		j.wake()
	}
}

const progressEvery = time.Second // least time between two writes of one job's progress

// DoneTx completes the running job within a transaction of its function (ctx must descend from the one it was given): effect and
// completion commit together. It fails with CodeConflict when the lease was lost; the transaction must then be rolled back.
func DoneTx(ctx context.Context, tx *db.Tx) (err error) {
	defer levee.Wrap(&err, "job.DoneTx")
	c, _ := ctx.Value(claimKey{}).(*claim)
	if c == nil || c.kind == nil {
		return errOutside
	}
	j := c.kind.jobs.Load()
	if err := j.deleteTx(ctx, tx, c); err != nil {
		return err
	}
	tx.AfterCommit(func() { c.done.Store(true) })
	return j.keepTx(ctx, tx, c, outcomeDone)
}
