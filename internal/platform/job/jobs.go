package job

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// Config measures the running of jobs. The zero value is usable.
type Config struct {
	// Lease is how long a job whose process died waits for another run; default 15 s, 100 ms to 10 minutes. Too short, and a
	// process that is paused by the machine loses its jobs to another run.
	Lease time.Duration
	// Poll is how often the tables are looked at for what other processes have enqueued; default 1 s, 10 ms to 1 minute. What
	// this process enqueues is seen at once.
	Poll time.Duration
	// Grace is how long running jobs may go on after Run's context has ended before theirs ends; default 5 s, at most 5
	// minutes. A job that is cut off so goes back unharmed.
	Grace time.Duration
	// Pools are the slots per pool, 1 to 1000; default 16.
	Pools map[string]int
}

const defaultSlots = 16

func (c *Config) check() error {
	for _, d := range []struct {
		name             string
		v                *time.Duration
		def, least, most time.Duration
	}{
		{"lease", &c.Lease, 15 * time.Second, 100 * time.Millisecond, 10 * time.Minute},
		{"poll", &c.Poll, time.Second, 10 * time.Millisecond, time.Minute},
		{"grace", &c.Grace, 5 * time.Second, time.Millisecond, 5 * time.Minute},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < d.least || *d.v > d.most {
			return levee.Invalid("job."+d.name, d.least.String()+" to "+d.most.String(), *d.v)
		}
	}
	for name, n := range c.Pools {
		if name == "" || len(name) > maxName || n < 1 || n > 1000 {
			return levee.Invalid("job.pools."+name, "1 to 1000 slots", n)
		}
	}
	return nil
}

// pool is a number of slots. Where its jobs are short, more are claimed than there are slots, so that the two commits of a job
// are shared by many. Its fields but the first two are guarded by Jobs.mu.
type pool struct {
	name    string
	size    int
	used    int           // slots in which a function runs
	held    int           // claims: waiting for a slot, running, or being written down
	queue   []*claim      // waiting for a slot
	average time.Duration // of the last runs; a second before the first
}

const (
	shortJob   = 20 * time.Millisecond // average up to which a pool claims ahead
	claimAhead = 240                   // claims beyond the slots; with them a kill interrupts so many
)

// room returns how many jobs may be claimed and for how many of them a slot is free.
func (p *pool) room() (free, slots int) {
	limit := p.size
	if p.average < shortJob {
		limit += claimAhead
	}
	return max(limit-p.held, 0), max(p.size-p.used-len(p.queue), 0)
}

// Jobs keeps and runs all jobs of the house.
type Jobs struct {
	db    *db.DB
	ids   *id.Generator
	clock obs.Clock
	log   *slog.Logger
	m     *metrics
	cfg   Config

	sqlClaim string        // reads the due jobs of a pool in a transaction
	wakeup   chan struct{} // capacity 1: a wake-up is remembered, never waited for
	wakeFn   func()        // j.wake, made once
	turn     chan struct{} // capacity 1: held by the one Run or Drain of this process
	waiters  atomic.Int64  // Drains under way

	// Written by Register and Configure only, before started.
	kinds   map[string]*kind
	periods map[string]*period
	pools   map[string]*pool

	mu      sync.Mutex // guards what follows
	started bool
	waiting []chan struct{}
	running map[*claim]struct{} // all claims of this process
	suspect *claim              // the one that is held of those whose last run ended in a crash
}

// Open makes Jobs on d. Nothing runs until Run.
func Open(d *db.DB, ids *id.Generator, o *obs.Obs) *Jobs {
	j := &Jobs{
		db: d, ids: ids, clock: o.Clock, log: o.Named("job"), m: newMetrics(o.Metrics),
		wakeup: make(chan struct{}, 1), turn: make(chan struct{}, 1), kinds: map[string]*kind{}, periods: map[string]*period{},
		pools: map[string]*pool{}, running: map[*claim]struct{}{},
	}
	j.wakeFn = j.wake
	j.sqlClaim = claimSQL(d.Dialect())
	if err := j.cfg.check(); err != nil {
		panic(err) // the defaults are in bounds
	}
	return j
}

// Configure sets other measures, before Register. It fails with CodeInvalid for values out of bounds.
func (j *Jobs) Configure(c Config) (err error) {
	defer levee.Wrap(&err, "job.Configure")
	if err := c.check(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.started || len(j.pools) > 0 {
		return levee.E(levee.CodeInvalid, "jobs are configured before any is registered")
	}
	j.cfg = c
	return nil
}

// Register adds kinds and periodic functions. All of a process register before Run; it fails with CodeInvalid afterwards, for
// a taken name, and for one that was made wrongly.
func (j *Jobs) Register(rs ...Registration) (err error) {
	defer levee.Wrap(&err, "job.Register")
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.started {
		return levee.E(levee.CodeInvalid, "jobs must be registered before they run")
	}
	for _, r := range rs {
		if err := r.register(j); err != nil {
			return err
		}
	}
	return nil
}

func (j *Jobs) addPool(name string) {
	if j.pools[name] != nil {
		return
	}
	size := j.cfg.Pools[name]
	if size == 0 {
		size = defaultSlots
	}
	j.pools[name] = &pool{name: name, size: size, average: time.Second}
}

// Known is a registered kind or periodic function.
type Known struct {
	Name  string
	Pool  string
	Every time.Duration // 0 for a kind
}

// Known returns everything that is registered, sorted by name.
func (j *Jobs) Known() []Known {
	j.mu.Lock()
	defer j.mu.Unlock()
	var known []Known
	for _, k := range j.kinds {
		known = append(known, Known{k.name, k.o.Pool, 0})
	}
	for _, p := range j.periods {
		known = append(known, Known{p.name, p.o.Pool, p.every})
	}
	slices.SortFunc(known, func(x, y Known) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	return known
}

func (j *Jobs) wake() {
	select {
	case j.wakeup <- struct{}{}:
	default:
	}
}

// Drain returns once no job is due or running: what was enqueued before the call and what that enqueues is done, dead or waits for
// a later time. Without a Run under way it runs the jobs itself, but no periodic function (see Fire). It returns ctx's error when
// that ends first.
func (j *Jobs) Drain(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "job.Drain")
	done := make(chan struct{})
	j.mu.Lock()
	j.waiting = append(j.waiting, done)
	j.mu.Unlock()
	j.waiters.Add(1)
	defer j.waiters.Add(-1)
	j.wake()
	run, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = j.run(run, false) }) // waits for its turn while another is under way
	defer wg.Wait()
	defer stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *Jobs) takeWaiting() []chan struct{} {
	if j.waiters.Load() == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	w := j.waiting
	j.waiting = nil
	return w
}

func (j *Jobs) answer(waiting []chan struct{}, quiet bool) {
	if quiet {
		for _, w := range waiting {
			close(w)
		}
		return
	}
	j.mu.Lock()
	j.waiting = append(j.waiting, waiting...)
	j.mu.Unlock()
}
