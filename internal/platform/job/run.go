package job

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

const (
	maxCrashes = 5                     // a job whose process died so often in a row is taken for the cause
	strangers  = time.Minute           // a job of a kind that this program does not know is left to others for so long
	rescueMax  = 256                   // expired leases taken back at once
	slack      = 50 * time.Millisecond // least pause between two tries to extend leases
	errorMax   = 1000                  // bytes of an error's text that are kept
)

var (
	errLost = levee.E(levee.CodeConflict, "the lease was lost: the job is or was run by another")
	errStop = errors.New("the process stops")
)

// claim is one run of a job or of a periodic function by this process, under a lease.
type claim struct {
	id       int64 // 0 for a period
	fence    int64
	name     string
	args     string
	attempts int // including this one
	crashes  int
	dueAt    time.Time
	kind     *kind // nil for a period, and for a kind that is not registered here
	period   *period
	firedFor int64 // period: next_at as this firing has set it
	release  bool  // period: the lease has to be given back
	pool     *pool
	lease    time.Duration   // of an extension; the first lease of a short period is shorter
	ctx      context.Context // of the run, without its timeout; kept because a claim is one run
	cancel   context.CancelCauseFunc
	done     atomic.Bool // DoneTx has committed

	// Guarded by Jobs.mu.
	began    time.Time // zero while it waits for a slot
	until    time.Time // when the lease ends, by the monotonic clock
	beat     time.Time // when to extend it
	extended bool
	stuck    bool
	lost     bool
}

func (c *claim) timeout() time.Duration {
	switch {
	case c.period != nil:
		return c.period.o.Timeout
	case c.kind != nil:
		return c.kind.o.Timeout
	}
	return time.Minute
}

// Run claims and runs jobs and fires the periodic functions until ctx ends. Then running jobs have the grace time to finish
// before their contexts end too, and Run returns nil once all have returned. A failing database is logged and tried again.
// Only one Run or Drain works at a time; a second one waits.
func (j *Jobs) Run(ctx context.Context) error { return j.run(ctx, true) }

func (j *Jobs) run(ctx context.Context, periods bool) error {
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return nil
	}
	j.mu.Lock()
	j.started = true
	j.mu.Unlock()
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	r := &runner{j: j, ctx: ctx, base: base, periods: periods}
	defer r.wg.Wait()
	for ctx.Err() == nil {
		wait := j.cfg.Poll
		next, err := r.round()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			j.log.ErrorContext(ctx, "jobs could not be claimed", "err", err)
		default:
			wait = min(wait, time.Until(next))
		}
		r.sleep(ctx, r.beat(base, wait))
	}
	r.giveBack()
	cut := time.Now().Add(j.cfg.Grace)
	rest := context.WithoutCancel(ctx)
	for {
		j.mu.Lock()
		n := len(j.running)
		j.mu.Unlock()
		if n == 0 {
			return nil
		}
		if !time.Now().Before(cut) {
			stop(errStop)
		}
		wait := j.cfg.Poll
		if left := time.Until(cut); left > 0 {
			wait = min(wait, left)
		}
		r.sleep(rest, r.beat(rest, wait))
	}
}

// runner is one Run.
type runner struct {
	j       *Jobs
	ctx     context.Context // ends the claiming; kept because a round belongs to exactly one Run
	base    context.Context // the jobs' contexts descend from it
	periods bool
	wg      sync.WaitGroup

	ready      bool // prepared
	rescueAt   time.Time
	periodsAt  time.Time // when to look at job_period again
	nextPeriod time.Time // when one of them needs attention
	again      bool      // one was due but had to wait for the end of a run
}

func (r *runner) sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.j.wakeup:
	case <-t.C:
	case <-ctx.Done():
	}
}

// round claims what is due and starts it. It returns when the next thing is due, as far as it is known.
func (r *runner) round() (next time.Time, err error) {
	j, ctx := r.j, r.ctx
	if !r.ready {
		if err := j.prepare(ctx, r.periods); err != nil {
			return next, err
		}
		r.ready = true
	}
	next = time.Now().Add(j.cfg.Poll)
	if now := time.Now(); !now.Before(r.rescueAt) {
		if err := j.rescue(ctx); err != nil {
			return next, err
		}
		r.rescueAt = now.Add(j.cfg.Poll)
	}
	waiting := j.takeWaiting()
	j.mu.Lock()
	idle := len(j.running) == 0
	var rooms []room
	for _, p := range j.pools {
		if free, slots := p.room(); free > 0 {
			rooms = append(rooms, room{p, free, slots})
		}
	}
	j.mu.Unlock()
	started := 0
	defer func() { j.answer(waiting, err == nil && idle && started == 0) }()

	var fire []*firing
	if r.periods && len(j.periods) > 0 {
		if fire, err = r.duePeriods(ctx, rooms); err != nil {
			return next, err
		}
	}
	var full []room // pools with due jobs
	for _, f := range rooms {
		if f.free <= 0 {
			continue
		}
		due, ok, err := j.nextDue(ctx, f.pool.name)
		if err != nil {
			return next, err
		}
		if ok && due <= 0 {
			full = append(full, f)
		} else if ok {
			next = sooner(next, time.Now().Add(due))
		}
	}
	if len(full)+len(fire) > 0 {
		claims, err := j.claim(ctx, full, fire)
		if err != nil {
			return next, err
		}
		started = len(claims)
		fired := 0
		for _, c := range claims {
			if c.period != nil {
				fired++
				r.nextPeriod = sooner(r.nextPeriod, time.Now().Add(time.UnixMicro(c.firedFor).Sub(j.clock())))
			}
			r.start(c)
		}
		r.again = r.again || fired < len(fire) // another was faster: read what it has set
		if started > 0 || fired < len(fire) {
			next = time.Now() // there may be more
		}
	}
	if r.periods && len(j.periods) > 0 {
		next = sooner(next, r.nextPeriod)
	}
	return next, nil
}

// room is a pool that may claim, and for how many there is a slot.
type room struct {
	pool        *pool
	free, slots int
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// start runs a claim as soon as there is a slot.
func (r *runner) start(c *claim) {
	j := r.j
	c.ctx, c.cancel = context.WithCancelCause(context.WithValue(r.base, claimKey{}, c))
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running[c] = struct{}{}
	c.pool.held++
	if c.pool.used == c.pool.size {
		c.pool.queue = append(c.pool.queue, c)
		return
	}
	r.begin(c)
}

// begin runs c in a goroutine of its own. The caller holds j.mu, and there is a slot.
func (r *runner) begin(c *claim) {
	j := r.j
	c.pool.used++
	c.began = time.Now()
	j.m.running.WithLabelValues(c.pool.name).Inc()
	r.wg.Go(func() {
		var err error
		if context.Cause(c.ctx) != errLost {
			limited, end := context.WithTimeout(c.ctx, c.timeout())
			err = j.work(limited, c)
			end()
		}
		took := time.Since(c.began)
		j.m.running.WithLabelValues(c.pool.name).Dec()
		j.mu.Lock()
		p := c.pool
		p.used--
		p.average = (7*p.average + took) / 8
		if len(p.queue) > 0 { // the slot is free before the end is written: that may take a commit
			next := p.queue[0]
			p.queue[0] = nil
			p.queue = p.queue[1:]
			r.begin(next)
		}
		j.mu.Unlock()
		j.finish(c, err, took)
		r.leave(c)
	})
}

// leave forgets a claim.
func (r *runner) leave(c *claim) {
	j := r.j
	c.cancel(nil)
	j.mu.Lock()
	c.pool.held--
	delete(j.running, c)
	j.clear(c)
	j.mu.Unlock()
	j.wake()
}

// lose ends a run whose lease is another's. The caller holds j.mu.
func (j *Jobs) lose(c *claim) {
	c.lost = true
	c.cancel(errLost)
	j.clear(c)
}

// clear lets the next suspect run. The caller holds j.mu.
func (j *Jobs) clear(c *claim) {
	if j.suspect == c {
		j.suspect = nil
	}
}

// giveBack returns the claims that wait for a slot, because the process stops.
func (r *runner) giveBack() {
	j := r.j
	var back []*claim
	j.mu.Lock()
	for _, p := range j.pools {
		back = append(back, p.queue...)
		p.queue = nil
	}
	j.mu.Unlock()
	for _, c := range back {
		c.cancel(errStop)
		r.wg.Go(func() {
			j.finish(c, errStop, 0)
			r.leave(c)
		})
	}
}

var (
	errStranger = errors.New("a kind that is not registered here")
	errUnread   = errors.New("unreadable")
)

// work runs the function of c and turns a panic into an error.
func (j *Jobs) work(ctx context.Context, c *claim) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, levee.Shorten(string(debug.Stack()), 4<<10))
		}
	}()
	if c.period != nil {
		return c.period.fn(ctx)
	}
	if c.kind == nil {
		return errStranger
	}
	run, err := c.kind.decode(c.args)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	return run(ctx)
}

// finish writes down how a run ended.
func (j *Jobs) finish(c *claim, err error, took time.Duration) {
	cause := context.Cause(c.ctx) // why it was cut off, if it was; its timeout does not show here
	ctx := context.WithoutCancel(c.ctx)
	end := ending{err: err}
	var again snooze
	var gone discard
	switch {
	case c.done.Load():
		end.outcome = outcomeDone
		if err != nil {
			j.log.WarnContext(ctx, "a job failed after it had completed itself", "job", c.name, "id", c.id, "err", err)
		}
	case cause == errLost:
		end.outcome = outcomeLost
	case err == nil:
		end.outcome = outcomeDone
	case cause == errStop:
		end.outcome = outcomeInterrupted
	case errors.Is(err, errStranger):
		end.outcome, end.pause = outcomeSnoozed, strangers
	case c.period != nil:
		end.outcome, end.pause = outcomeRetry, max(c.period.o.Backoff(c.attempts), 0)
	case errors.As(err, &again):
		end.outcome, end.pause = outcomeSnoozed, again.after
	case errors.As(err, &gone), errors.Is(err, errUnread), c.attempts >= c.kind.o.MaxAttempts:
		end.outcome = outcomeDead
	default:
		end.outcome, end.pause = outcomeRetry, min(max(c.kind.o.Backoff(c.attempts), 0), maxWait)
	}
	if end.outcome != outcomeLost && !c.done.Load() {
		if werr := j.write(ctx, c, end); errors.Is(werr, errLost) {
			end.outcome = outcomeLost
		} else if werr != nil {
			j.log.ErrorContext(ctx, "the end of a job could not be written; it runs again after its lease", "job", c.name, "id", c.id,
				"outcome", end.outcome, "err", werr)
			end.outcome = outcomeLost
		}
	}
	j.report(ctx, c, end, took)
}

// write tries until the lease is over: to run a job again that has succeeded is worse than to wait for the database.
func (j *Jobs) write(ctx context.Context, c *claim, end ending) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := j.end(ctx, c, end)
		if err == nil || errors.Is(err, errLost) {
			return err
		}
		j.mu.Lock()
		left := time.Until(c.until)
		j.mu.Unlock()
		if left < pause {
			return err
		}
		t := time.NewTimer(pause)
		<-t.C
	}
}

func (j *Jobs) report(ctx context.Context, c *claim, end ending, took time.Duration) {
	m := j.m.kind(c.name)
	m.finished(end.outcome).Inc()
	m.seconds.Observe(took.Seconds())
	log := j.log.With("job", c.name, "id", c.id, "attempt", c.attempts, "took", took)
	switch end.outcome {
	case outcomeDone:
		log.DebugContext(ctx, "a job is done")
	case outcomeSnoozed, outcomeInterrupted:
		log.InfoContext(ctx, "a job was put off", "why", end.outcome, "pause", end.pause, "err", end.err)
	case outcomeRetry:
		log.WarnContext(ctx, "a job failed and is tried again", "pause", end.pause, "err", end.err)
	case outcomeLost:
		log.WarnContext(ctx, "a job was taken over while it ran; what it did in DoneTx's transaction is not kept", "err", end.err)
	case outcomeDead:
		log.ErrorContext(ctx, "a job is dead", "err", end.err)
	}
}

// beat extends the leases that need it, ends the runs whose lease is over, and returns how long to sleep, at most wait.
func (r *runner) beat(ctx context.Context, wait time.Duration) time.Duration {
	j := r.j
	now := time.Now()
	var due []*claim
	j.mu.Lock()
	for c := range j.running {
		switch {
		case c.lost:
			continue
		case !c.until.After(now):
			j.lose(c)
			continue
		case !c.stuck && !c.began.IsZero() && now.Sub(c.began) > c.timeout()+c.lease:
			c.stuck = true
			j.clear(c)
			j.log.ErrorContext(ctx, "a job does not return long after its timeout; its lease is no longer extended", "job", c.name,
				"id", c.id, "began", c.began)
		}
		if !c.stuck && !c.beat.After(now) {
			due = append(due, c)
		}
	}
	j.mu.Unlock()
	if len(due) > 0 {
		lost, err := j.extend(ctx, due)
		if err != nil {
			j.log.ErrorContext(ctx, "leases of running jobs could not be extended", "jobs", len(due), "err", err)
		}
		j.mu.Lock()
		for _, c := range due {
			switch {
			case err != nil:
				c.beat = time.Now().Add(max(c.lease/10, slack))
			case lost[c]:
				j.lose(c)
			default:
				c.until, c.beat, c.extended = now.Add(c.lease), now.Add(c.lease/3), true
			}
		}
		j.mu.Unlock()
	}
	now = time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	for c := range j.running {
		if !c.lost {
			at := c.until
			if !c.stuck {
				at = sooner(at, c.beat)
			}
			wait = min(wait, at.Sub(now))
		}
	}
	return wait
}
