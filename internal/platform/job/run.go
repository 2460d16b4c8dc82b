package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
)

const (
	maxCrashes = 5                     // a job whose process died so often in a row is taken for the cause
	strangers  = time.Minute           // a job of a kind that this program does not know is left to others for so long
	rescueMax  = 256                   // expired leases taken back at once
	watchMax   = 8192                  // leases watched, the ones extended longest ago first
	raceWait   = 10 * time.Millisecond // until the next claim when others took all that was due; up to twice as long
	slack      = 50 * time.Millisecond // least pause between two tries to extend leases
	errorMax   = 1000                  // bytes of an error's text that are kept
)

var (
	errLost = levee.E(levee.CodeConflict, "the lease was lost: the job is or was run by another")
	errStop = errors.New("the process stops")
)

// claim is one run of a job by this process, under a lease.
type claim struct {
	id       int64
	fence    int64
	name     string
	args     string
	source   string
	failures string // of the attempts before, as JSON; empty: none
	attempts int    // including this one
	crashes  int
	dueAt    time.Time
	kind     *kind // nil for one that is not registered here
	pool     *pool
	lease    time.Duration
	done     atomic.Bool            // DoneTx has committed
	result   atomic.Pointer[string] // of SetResult

	// Guarded by Jobs.mu.
	ctx      context.Context // of the run, without its timeout; kept because a claim is one run. It does not change once the run has begun.
	cancel   context.CancelCauseFunc
	cause    error     // why it was cut off, before or after its beginning
	progress string    // of SetProgress, not written yet
	told     time.Time // when progress was written
	began    time.Time // zero while it waits for a slot
	until    time.Time // when the lease ends, by the monotonic clock
	beat     time.Time // when to extend it
	stamp    int64     // lease_until as it was written last; of the one who extends
	stuck    bool
	suspect  bool
	lost     bool
}

func (c *claim) timeout() time.Duration {
	if c.kind != nil {
		return c.kind.o.Timeout
	}
	return time.Minute
}

// Run claims and runs jobs until ctx ends: that is the shutdown. Then what waits for a slot goes back, running
// jobs have the grace time (Config.Grace) to finish before their contexts end too, with what is cut off going back unharmed, and Run returns
// nil once all have returned and every end is written. A failing database is logged and tried again.
// Only one Run or Drain works at a time; a second one waits.
func (j *Jobs) Run(ctx context.Context) error {
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return nil
	}
	j.mu.Lock()
	j.started, j.works = true, true
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		j.works = false
		j.mu.Unlock()
	}()
	j.seen, j.others = nil, nil // what stood still while nobody looked may not have
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	r := &runner{j: j, ctx: db.Primary(ctx), base: base, ended: make(chan struct{}, 1)}
	defer r.wg.Wait()
	over := make(chan struct{})
	defer close(over)
	r.wg.Go(func() { r.complete(over) })
	r.wg.Go(func() { r.forget(over) })
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
			j.here.next = time.Time{}
			r.sayAlive(rest) // nothing runs: the row goes
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
	j    *Jobs
	ctx  context.Context // ends the claiming; kept because a round belongs to exactly one Run
	base context.Context // the jobs' contexts descend from it
	wg   sync.WaitGroup

	endsMu sync.Mutex
	ends   []*ended      // runs that are over and not written down; guarded by endsMu
	ended  chan struct{} // capacity 1: there are some

	ready     bool      // prepared
	lanesAt   time.Time // when to look for new lanes
	controlAt time.Time // when to look what is asked
	rescueAt  time.Time
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
		if err := j.prepare(ctx); err != nil {
			return next, err
		}
		r.ready = true
	}
	if j.cfg.Alone && !j.swept {
		if err := j.sweep(ctx); err != nil {
			return next, err
		}
		j.swept = true
	}
	j.seam.sleep()
	if j.here.id != 0 && !j.here.until.After(time.Now()) {
		r.disappear() // this process has slept
	}
	next = time.Now().Add(j.cfg.Poll)
	heard := j.heard.Swap(false)
	if heard || !time.Now().Before(r.controlAt) {
		if err := j.obey(ctx); err != nil {
			return next, err
		}
		r.controlAt = time.Now().Add(min(j.cfg.Poll, controlEvery))
	}
	if heard || !time.Now().Before(r.lanesAt) {
		if err := j.discover(ctx); err != nil {
			return next, err
		}
		r.lanesAt = time.Now().Add(j.cfg.Poll)
	}
	if !time.Now().Before(r.rescueAt) {
		if r.rescueAt, err = j.rescue(ctx); err != nil {
			return next, err
		}
	}
	next = sooner(sooner(sooner(next, r.rescueAt), r.lanesAt), r.controlAt)
	waiting := j.takeWaiting()
	j.mu.Lock()
	idle := len(j.running) == 0
	var rooms []room
	r.fill()
	for _, p := range j.pools {
		if free, slots := p.room(); free+slots > 0 && !j.control.pools[p.name] {
			rooms = append(rooms, room{p, free, slots})
		}
	}
	j.mu.Unlock()
	started := 0
	defer func() { j.answer(waiting, err == nil && idle && started == 0) }()

	wants, next := j.wants(rooms, next)
	got, err := j.claim(ctx, wants)
	if err != nil {
		return next, err
	}
	started = len(got.claims)
	r.start(got.claims)
	j.note(got.deals)
	if next = sooner(next, got.next); started > 0 {
		next = time.Now() // there may be more
	} else if got.missed {
		next = sooner(next, time.Now().Add(raceWait+rand.N(raceWait)))
	}
	return next, nil
}

// room is a pool that may claim, and for how many there is a slot.
type room struct {
	pool        *pool
	free, slots int
}

// sooner returns the earlier of two times; the zero time stands for never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// start runs claims as soon as there are slots.
func (r *runner) start(claims []*claim) {
	j := r.j
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range claims {
		j.running[c] = struct{}{}
		c.pool.held++
		if c.kind != nil && j.control.jobs[c.id] {
			c.end(ErrCancelled)
		}
		if c.pool.used >= c.pool.size {
			if c.kind != nil && c.kind.limit != nil {
				c.pool.queue = slices.Insert(c.pool.queue, 0, c)
			} else {
				c.pool.queue = append(c.pool.queue, c)
			}
			continue
		}
		c.pool.used++
		r.begin(c)
		r.wg.Go(func() { r.work(c) })
	}
}

// fill lets begin what waits while there are slots: a pool has grown, or one has come free of what is stuck. The caller holds j.mu.
func (r *runner) fill() {
	for _, p := range r.j.pools {
		for p.used < p.size && len(p.queue) > 0 {
			c := p.pop()
			p.used++
			r.begin(c)
			r.wg.Go(func() { r.work(c) })
		}
	}
}

// begin marks the beginning of a run. The caller holds j.mu.
func (r *runner) begin(c *claim) {
	c.began = time.Now()
	c.ctx, c.cancel = context.WithCancelCause(claimContext{r.base, c})
	if c.cause != nil {
		c.cancel(c.cause)
	}
	if j := r.j; j.heeded() {
		j.tell(Event{What: whatBegun, ID: c.id, Job: c.name, Source: c.source, Attempt: c.attempts})
	}
}

// claimContext carries the claim to its function.
type claimContext struct {
	context.Context
	c *claim
}

func (c claimContext) Value(key any) any {
	if key == (claimKey{}) {
		return c.c
	}
	return c.Context.Value(key)
}

// work is one slot: it runs c, and then what waits for a slot.
func (r *runner) work(c *claim) {
	j := r.j
	normal := false
	defer func() {
		if !normal { // the function ended its goroutine, as t.FailNow does
			if next := r.after(c, time.Since(c.began)); next != nil {
				r.wg.Go(func() { r.work(next) })
			}
			r.finish(c, errGoexit, time.Since(c.began))
		}
	}()
	for c != nil {
		c.pool.running.Inc()
		var err error
		if err = context.Cause(c.ctx); err == nil {
			limited, end := context.WithTimeout(c.ctx, c.timeout())
			err = j.work(limited, c)
			end()
		}
		took := time.Since(c.began)
		next := r.after(c, took) // the slot is free before the end is written: that may take a commit
		r.finish(c, err, took)
		c = next
	}
	normal = true
}

// after gives the slot of c to the next that waits for it.
func (r *runner) after(c *claim, took time.Duration) (next *claim) {
	p := c.pool
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	if c.stuck {
		return nil // its slot was given away
	}
	p.running.Dec()
	p.average = (7*p.average + took) / 8
	if len(p.queue) == 0 || p.used > p.size {
		p.used--
		return nil
	}
	next = p.pop()
	r.begin(next)
	return next
}

// pop takes the first that waits for a slot.
func (p *pool) pop() (c *claim) {
	c, p.queue[0] = p.queue[0], nil
	p.queue = p.queue[1:]
	return c
}

// leave forgets claims.
func (r *runner) leave(claims ...*claim) {
	j := r.j
	j.mu.Lock()
	for _, c := range claims {
		c.end(nil)
		if !c.stuck {
			c.pool.held--
		}
		if c.kind != nil && c.kind.limit != nil && c.kind.limit.most > 0 {
			c.kind.limit.ready = time.Time{}
		}
		delete(j.running, c)
		j.clear(c)
	}
	j.mu.Unlock()
	j.wake()
}

// end cuts the run off. The caller holds Jobs.mu.
func (c *claim) end(cause error) {
	if c.cause == nil {
		c.cause = cause
	}
	if c.cancel != nil {
		c.cancel(cause)
	}
}

// lose ends a run whose lease is another's. The caller holds j.mu.
func (j *Jobs) lose(c *claim) {
	c.lost = true
	c.end(errLost)
	j.clear(c)
}

// clear lets the next suspects run. The caller holds j.mu.
func (j *Jobs) clear(c *claim) {
	if !c.suspect {
		return
	}
	c.suspect = false
	j.suspects--
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
		j.mu.Lock()
		c.end(errStop)
		j.mu.Unlock()
		r.finish(c, errStop, 0)
	}
}

var (
	errStranger = errors.New("a kind that is not registered here")
	errUnread   = errors.New("unreadable")
	errGoexit   = errors.New("the function ended its goroutine")
)

// work runs the function of c and turns a panic into an error.
func (j *Jobs) work(ctx context.Context, c *claim) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, levee.Shorten(string(debug.Stack()), 4<<10))
		}
	}()
	if c.kind == nil {
		return errStranger
	}
	if j.followed(c.source) {
		ctx = j.follows.Enter(ctx, c.id)
	}
	run, err := c.kind.decode(c.args)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	return run(ctx)
}

// giveUp takes the slot from a run that does not return long after its timeout: its goroutine cannot be ended, but others may go on. Once a
// minute at most the log gets to know what all goroutines do. The caller holds j.mu.
func (j *Jobs) giveUp(ctx context.Context, c *claim, now time.Time) {
	c.stuck = true
	j.clear(c)
	c.pool.used--
	c.pool.held--
	c.pool.running.Dec()
	j.m.stuck.Inc()
	log := j.log.With("job", c.name, "id", c.id, "began", c.began)
	if now.Sub(j.dumped) > time.Minute {
		j.dumped = now
		stacks := make([]byte, dumpMax)
		log = log.With("goroutines", string(stacks[:runtime.Stack(stacks, true)]))
	}
	log.ErrorContext(ctx, "a job does not return long after its timeout; its slot is given to others and its lease is no longer extended")
	j.tell(Event{What: whatStuck, ID: c.id, Job: c.name, Source: c.source, Attempt: c.attempts, Took: now.Sub(c.began)})
	j.wake()
}

const dumpMax = 256 << 10 // bytes of the goroutines' stacks in the log

// beat extends the leases that need it, ends the runs whose lease is over, and returns how long to sleep, at most wait.
func (r *runner) beat(ctx context.Context, wait time.Duration) time.Duration {
	j := r.j
	j.seam.sleep()
	wait = min(wait, time.Until(r.sayAlive(ctx)))
	now := time.Now()
	var due []*claim
	j.mu.Lock()
	for c := range j.running {
		if !c.stuck && !c.began.IsZero() && now.Sub(c.began) > c.timeout()+c.lease {
			j.giveUp(ctx, c, now)
		}
		switch {
		case c.lost:
			continue
		case !c.until.After(now):
			j.lose(c)
			continue
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
				c.until, c.beat = now.Add(c.lease), now.Add(c.lease/3)
				j.clear(c)            // it has run for a while, and nobody has died of it
				if c.progress != "" { // told while the one before was written
					c.beat = sooner(c.beat, c.told.Add(progressEvery))
				}
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
