// Package job runs work later, again, or every so often: kept in SQL, so that it survives the process.
//
// It owns the tables job_*, the leases, retries and periods. It does not know what a job does; a job's function opens its own
// transactions. Scheduling by calendar (cron expressions) is not here.
//
// The promises:
//
//   - A job exists if and only if the transaction that enqueued it committed.
//   - It runs at least once. Whoever claims it holds a lease with a fence number and keeps extending it; after a kill the
//     lease runs out and the job runs again, without using up an attempt (a job that takes its process down five times in a
//     row is dead). A worker that was paused for longer than its lease cannot complete what another has taken over. A function
//     that calls DoneTx in its own transaction has its effect exactly once.
//   - A function that fails is tried again with growing, spread pauses, and after MaxAttempts lies in job_dead with its
//     last error.
//   - A periodic function is fired once per period by one process, whatever their number, and never overlaps itself.
package job

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
)

const (
	maxName = 190               // bytes of a name; of a kind's name, "/" and a unique key together
	maxArgs = 256 << 10         // bytes of the arguments as JSON
	maxWait = 87600 * time.Hour // ten years: a job due later is a mistake in the caller's arithmetic
)

// Options say how a kind of job runs. The zero value is usable.
type Options struct {
	// Pool names the pool of slots it runs in; default "default". The name is kept with each job.
	Pool string
	// Timeout is when the function's context ends; default 1 minute, 1 ms to 24 hours. A function that goes on for longer than
	// one more lease is run again elsewhere.
	Timeout time.Duration
	// MaxAttempts is how often it may fail before it is dead; default 10, 1 to 1000. Periodic functions are never dead: after
	// that many failures in a row they are only tried at their usual times.
	MaxAttempts int
	// Backoff is the pause after the attempt-th failure (from 1); default 1 s doubled each time up to 10 minutes, spread by a
	// fifth. A negative pause counts as none.
	Backoff func(attempt int) time.Duration
}

func (o *Options) check(name string) error {
	if o.Pool == "" {
		o.Pool = "default"
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 10
	}
	if o.Backoff == nil {
		o.Backoff = backoff
	}
	switch {
	case name == "" || len(name) > maxName:
		return levee.Invalid("job name", "1 to 190 bytes", name)
	case len(o.Pool) > maxName:
		return levee.Invalid(name+".pool", "at most 190 bytes", o.Pool)
	case o.Timeout < time.Millisecond || o.Timeout > 24*time.Hour:
		return levee.Invalid(name+".timeout", "1ms to 24h", o.Timeout)
	case o.MaxAttempts < 1 || o.MaxAttempts > 1000:
		return levee.Invalid(name+".max_attempts", "1 to 1000", o.MaxAttempts)
	}
	return nil
}

// backoff doubles from a second to ten minutes; the spread keeps what failed together from coming back together.
func backoff(attempt int) time.Duration {
	d := 10 * time.Minute
	if n := attempt - 1; n < 10 {
		d = min(time.Second<<n, d)
	}
	return d - d/10 + rand.N(d/5)
}

// Registration is a *Kind or a Periodic.
type Registration interface{ register(j *Jobs) error }

// kind is a Kind without its type parameter.
type kind struct {
	name   string
	o      Options
	decode func(args string) (func(ctx context.Context) error, error)
	err    error
	m      *kindMetrics
	jobs   atomic.Pointer[Jobs]
}

// Kind is one kind of job with arguments of type A. It belongs to the Jobs it is registered with.
type Kind[A any] struct{ kind }

// Define makes a kind. The name ("payment.refund", at most 190 bytes) is kept in SQL. A is encoded as JSON, at most 256 KiB; a
// change of A must be able to read what the version before has written. fn may run more than once for one job.
func Define[A any](name string, o Options, fn func(ctx context.Context, a A) error) *Kind[A] {
	k := &Kind[A]{kind{name: name, o: o}}
	k.err = k.o.check(name)
	if fn == nil {
		k.err = levee.Invalid(name, "a function", "nil")
	}
	k.decode = func(args string) (func(context.Context) error, error) {
		var a A
		if err := json.Unmarshal([]byte(args), &a); err != nil {
			return nil, fmt.Errorf("the arguments do not decode: %w", err)
		}
		return func(ctx context.Context) error { return fn(ctx, a) }, nil
	}
	return k
}

func (k *kind) register(j *Jobs) error {
	switch {
	case k == nil || k.name == "" && k.err == nil:
		return levee.Invalid("job", "made by job.Define", "a zero value")
	case k.err != nil:
		return k.err
	case j.kinds[k.name] != nil:
		return levee.Invalid("job", "a name that is not taken", k.name)
	case !k.jobs.CompareAndSwap(nil, j):
		return levee.Invalid("job "+k.name, "registered once", "again")
	}
	k.m = j.m.kind(k.name)
	j.kinds[k.name] = k
	j.addPool(k.o.Pool)
	return nil
}

// Option says when, and whether, a job is added.
type Option func(*request)

type request struct {
	at    time.Time
	after time.Duration
	key   string
}

// At runs the job at t or soon after; a time in the past means now, one more than ten years ahead is refused.
func At(t time.Time) Option { return func(r *request) { r.at = t } }

// After runs the job d from now or soon after. With At, it counts from there.
func After(d time.Duration) Option { return func(r *request) { r.after = d } }

// Unique adds the job only when none of this kind and key waits or runs; otherwise that one's id is returned and its time and
// arguments stay as they are. Name and key have at most 189 bytes together.
func Unique(key string) Option { return func(r *request) { r.key = key } }

func (k *kind) uniqueKey(key string) (any, error) {
	if key == "" {
		return nil, nil
	}
	unique := k.name + "/" + key
	if len(unique) > maxName {
		return nil, levee.Invalid("unique key of "+k.name, fmt.Sprintf("at most %d bytes", maxName-1-len(k.name)), key)
	}
	return unique, nil
}

const (
	insertTask = `INSERT INTO job_task (id, kind, pool, args, unique_key, due_at, lease_until, fence, attempts, crashes, error) ` +
		`VALUES (?, ?, ?, ?, ?, ?, NULL, 0, 0, 0, '')`
	selectUnique = `SELECT id FROM job_task WHERE unique_key = ?`
)

// EnqueueTx adds a job within the caller's transaction and returns its id. It fails with CodeInvalid for a time or key out of
// bounds, and with CodeTooLarge for arguments over 256 KiB.
func (k *Kind[A]) EnqueueTx(ctx context.Context, tx *db.Tx, args A, at ...Option) (id int64, err error) {
	defer levee.Wrap(&err, "job.Enqueue(%s)", k.name)
	text, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	return k.enqueue(ctx, tx, string(text), at)
}

// Enqueue is EnqueueTx in a transaction of its own.
func (k *Kind[A]) Enqueue(ctx context.Context, args A, at ...Option) (id int64, err error) {
	defer levee.Wrap(&err, "job.Enqueue(%s)", k.name)
	j := k.jobs.Load()
	if j == nil {
		return 0, errors.New("the kind is not registered")
	}
	text, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	err = j.db.Tx(ctx, "job.enqueue", func(ctx context.Context, tx *db.Tx) error {
		id, err = k.enqueue(ctx, tx, string(text), at)
		return err
	})
	return id, err
}

func (k *kind) enqueue(ctx context.Context, tx *db.Tx, args string, at []Option) (int64, error) {
	j := k.jobs.Load()
	if j == nil {
		return 0, errors.New("the kind is not registered")
	}
	if len(args) > maxArgs {
		return 0, levee.E(levee.CodeTooLarge, "the arguments have %d bytes, allowed are %d", len(args), maxArgs)
	}
	var r request
	for _, o := range at {
		o(&r)
	}
	now := j.clock()
	due := r.at
	if due.IsZero() {
		due = now
	}
	due = due.Add(r.after)
	if due.Before(now) {
		due = now
	}
	if due.Sub(now) > maxWait {
		return 0, levee.Invalid("time of the job", "at most ten years ahead", due)
	}
	unique, err := k.uniqueKey(r.key)
	if err != nil {
		return 0, err
	}
	var id int64
	if unique != nil {
		switch err := tx.QueryRow(ctx, selectUnique, unique).Scan(&id); {
		case err == nil:
			return id, nil
		case !errors.Is(err, db.ErrNoRows):
			return 0, err
		}
	}
	if id, err = j.ids.Next(); err != nil {
		return 0, err
	}
	// Rounded up: a job must never run before its time.
	if _, err := tx.Exec(ctx, insertTask, id, k.name, k.o.Pool, args, unique, due.Add(time.Microsecond-1).UnixMicro()); err != nil {
		if unique != nil && db.IsUnique(err) { // another connection was faster
			return id, tx.QueryRow(ctx, selectUnique, unique).Scan(&id)
		}
		return 0, err
	}
	k.m.enqueued.Inc()
	if due.Sub(now) <= j.cfg.Poll { // a later one is found by the look before its time
		tx.AfterCommit(j.wakeFn)
	}
	return id, nil
}

// CancelTx removes the job that was enqueued with Unique(key), unless it runs already, and tells whether it did.
func (k *Kind[A]) CancelTx(ctx context.Context, tx *db.Tx, key string) (was bool, err error) {
	defer levee.Wrap(&err, "job.CancelTx(%s, %q)", k.name, key)
	unique, err := k.uniqueKey(key)
	if err != nil || unique == nil {
		return false, err
	}
	res, err := tx.Exec(ctx, `DELETE FROM job_task WHERE unique_key = ? AND due_at IS NOT NULL`, unique)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

type snooze struct{ after time.Duration }

func (s snooze) Error() string { return fmt.Sprintf("again in %v", s.after) }

// Snooze, returned by a job's function, runs it again after d (0 to ten years) without using up an attempt.
func Snooze(d time.Duration) error { return snooze{min(max(d, 0), maxWait)} }

type discard struct{ error }

func (d discard) Unwrap() error { return d.error }

// Discard, returned by a job's function, makes the job dead at once: no later attempt can succeed.
func Discard(err error) error { return discard{err} }

type claimKey struct{}

// Attempt tells a job's function which attempt it is, from 1, and how many it has. Elsewhere both are 0.
func Attempt(ctx context.Context) (n, of int) {
	c, _ := ctx.Value(claimKey{}).(*claim)
	if c == nil || c.kind == nil {
		return 0, 0
	}
	return c.attempts, c.kind.o.MaxAttempts
}

// DoneTx completes the running job within a transaction of its function (ctx must descend from the one it was given): effect and
// completion commit together. It fails with CodeConflict when the lease was lost; the transaction must then be rolled back. It
// is not for periodic functions.
func DoneTx(ctx context.Context, tx *db.Tx) (err error) {
	defer levee.Wrap(&err, "job.DoneTx")
	c, _ := ctx.Value(claimKey{}).(*claim)
	if c == nil || c.kind == nil {
		return errors.New("the context is not that of a job")
	}
	if err := deleteTx(ctx, tx, c); err != nil {
		return err
	}
	tx.AfterCommit(func() { c.done.Store(true) })
	return nil
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables job_*.
func Schema() db.Schema { return db.Schema{Owner: "job", FS: schemaFS} }
