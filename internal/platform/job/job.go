// Package job runs work later, and again: kept in SQL, so that it survives the process.
//
// It owns the tables job_*, the leases, retries, limits and history. It does not know what a job does; a job's function opens its own
// transactions. Work at times, and every so often, is schedule's; chains and groups of jobs are flow's, which Follow tells of ends.
//
// The promises:
//
//   - A job exists if and only if the transaction that enqueued it committed.
//   - It runs at least once. Whoever claims it holds a lease with a fence number and keeps extending it; after a kill the
//     lease stands still, which any other process sees without comparing clocks, and the job runs again, without using up an attempt (a job that takes its process down five times in a
//     row is dead). A worker that was paused for longer than its lease cannot complete what another has taken over. A function that calls DoneTx in its own transaction has its effect exactly once.
//   - A function that fails is tried again with growing, spread pauses, and after MaxAttempts lies in job_dead with its last error.
//   - A job can be cancelled, a kind or a pool paused, wherever it runs, within a second. Of a kind with a Rate or MaxRunning never more begin
//     or run on all nodes together.
package job

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
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

// Unlimited, as Options.MaxAttempts, has a job tried until it succeeds: only a job that takes its process down again and again is dead then.
const Unlimited = -1

// Options say how a kind of job runs. The zero value is usable.
type Options struct {
	// Pool names the pool of slots it runs in; default "default", at most 190 bytes without |. The name is kept with each job.
	Pool string
	// Timeout is when the function's context ends; default 1 minute, 1 ms to 24 hours. A function that goes on for longer than
	// one more lease is run again elsewhere and loses its slot to others, but not its goroutine or its memory: these nobody can take from it.
	Timeout time.Duration
	// MaxAttempts is how often it may fail before it is dead; default 10, 1 to 1000, or Unlimited: it is tried until it succeeds.
	MaxAttempts int
	// Backoff is the pause after the attempt-th failure (from 1); default 1 s doubled each time up to 10 minutes, spread by a
	// fifth. A negative pause counts as none.
	Backoff func(attempt int) time.Duration
	// Rate is how many may begin in any span of time, on all nodes together; default: as many as there are slots for. It is counted when a
	// job is claimed; its function begins within milliseconds.
	Rate Rate
	// MaxRunning is how many may run at once, on all nodes together; default 0: as many as there are slots for, at most 100,000. (For a
	// number per node give the kind a pool of its own.) Nodes of different settings keep each to its own.
	MaxRunning int
	// Keep is how long a job that is done or cancelled can still be looked up (Jobs.Job, Jobs.List), with its result (SetResult); default
	// 0: not at all, which is cheapest, at most ten years. Dead jobs stay until RetryDead or Prune takes them.
	Keep time.Duration
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
	case len(o.Pool) > maxName || strings.Contains(o.Pool, "|"):
		return levee.Invalid(name+".pool", "at most 190 bytes without |", o.Pool)
	case o.Timeout < time.Millisecond || o.Timeout > 24*time.Hour:
		return levee.Invalid(name+".timeout", "1ms to 24h", o.Timeout)
	case o.Keep < 0 || o.Keep > maxWait:
		return levee.Invalid(name+".keep", "0 to ten years", o.Keep)
	case o.MaxAttempts != Unlimited && (o.MaxAttempts < 1 || o.MaxAttempts > 1000):
		return levee.Invalid(name+".max_attempts", "1 to 1000, or -1 for any number", o.MaxAttempts)
	}
	return o.checkLimits(name)
}

// backoff doubles from a second to ten minutes; the spread keeps what failed together from coming back together.
func backoff(attempt int) time.Duration {
	d := 10 * time.Minute
	if n := attempt - 1; n < 10 {
		d = min(time.Second<<n, d)
	}
	return d - d/10 + rand.N(d/5)
}

// Registration is a *Kind.
type Registration interface{ register(j *Jobs) error }

// kind is a Kind without its type parameter.
type kind struct {
	name   string
	o      Options
	decode func(args string) (func(ctx context.Context) error, error)
	err    error
	m      *kindMetrics
	jobs   atomic.Pointer[Jobs]
	limit  *limiter                   // nil: not limited
	lanes  [10]atomic.Pointer[string] // of new jobs, by priority
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
	j.addLane(laneKey(k.o.Pool, usual, ""))
	if k.o.limited() {
		k.limit = newLimiter(k.name, k.o)
		j.addLane(laneKey(k.o.Pool, usual, k.name))
	}
	return nil
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables job_*.
func Schema() db.Schema { return db.Schema{Owner: "job", FS: schemaFS} }
