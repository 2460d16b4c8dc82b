package job

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// Config measures the running of jobs. The zero value is usable.
type Config struct {
	// Lease is how long the jobs of a process that died wait for another run; default 10 s, 100 ms to 10 minutes. It is counted from
	// the last sign of life that another process has seen, or from the death of all, when one is there again. Too short, and a process that is
	// paused by the machine loses its jobs to another run. All nodes need the same.
	Lease time.Duration
	// Alone says that no other process runs jobs on this database: what was running when this one started is taken back at once. Whoever
	// sets it sees to it that it is so.
	Alone bool
	// Poll is how often the tables are looked at for what other processes have enqueued; default 1 s, 10 ms to 1 minute. What
	// this process enqueues is seen at once.
	Poll time.Duration
	// Grace is how long running jobs may go on after Run's context has ended before theirs ends; default 5 s, at most 5
	// minutes. A job that is cut off so goes back unharmed.
	Grace time.Duration
	// Pools are the slots per pool, 1 to 1000; default 16.
	Pools map[string]int
	// Node is how this process is called where people look at jobs, at most 190 bytes; default: the machine's name.
	Node string
}

const defaultSlots = 16

func (c *Config) check() error {
	for _, d := range []struct {
		name             string
		v                *time.Duration
		def, least, most time.Duration
	}{
		{"lease", &c.Lease, 10 * time.Second, 100 * time.Millisecond, 10 * time.Minute},
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
	if c.Node == "" {
		c.Node, _ = os.Hostname()
	}
	if len(c.Node) > maxName {
		return levee.Invalid("job.node", "at most 190 bytes", c.Node)
	}
	for name, n := range c.Pools {
		if name == "" || len(name) > maxName || n < 1 || n > 1000 {
			return levee.Invalid("job.pools."+name, "1 to 1000 slots", n)
		}
	}
	return nil
}

// pool is a number of slots. Where its jobs are short, more are claimed than there are slots, so that the two commits of a job
// are shared by many. All but its name and its meters is guarded by Jobs.mu.
type pool struct {
	name    string
	size    int
	used    int // slots in which a function runs
	held    int // claims: waiting for a slot, running, or being written down
	lanes   []*lane
	queue   []*claim      // waiting for a slot
	average time.Duration // of the last runs; a second before the first
	running prometheus.Gauge
	late    prometheus.Observer
}

const (
	shortJob   = 20 * time.Millisecond // average up to which a pool claims ahead
	claimAhead = 1024                  // most claims beyond the slots; with them a kill interrupts so many
	claimMost  = 512                   // claims of one transaction
)

// room returns how many jobs may be claimed, and for how many a slot is free or soon will be: for limited jobs, which begin before what waits.
// What is claimed ahead is about what the slots do in the time of a short job. While others wait for a slot, few are not worth a commit: the ends that make room for more come with
// a wake-up.
func (p *pool) room() (free, slots int) {
	free, slots = max(p.size-p.held, 0), max(p.size-p.used-len(p.queue), 0)
	if p.average >= shortJob {
		return free, slots
	}
	most := p.size + min(claimAhead, int(time.Duration(p.size)*shortJob/max(p.average, time.Microsecond)))
	free = max(most-p.held, 0)
	enough := slots > 0 || len(p.queue) == 0 || free >= most/4
	slots = max(slots, min(p.size, free))
	if !enough {
		free = 0
	}
	return min(free, claimMost), slots
}

// Jobs keeps and runs all jobs of the house.
type Jobs struct {
	db    *db.DB
	ids   *id.Generator
	clock obs.Clock
	log   *slog.Logger
	m     *metrics
	cfg   Config

	crowd     bool // the engine has many writers at once
	sql       texts
	wakeup    chan struct{}          // capacity 1: a wake-up is remembered, never waited for
	wakeFn    func()                 // j.given, made once
	ring      atomic.Pointer[func()] // tells other nodes
	turn      chan struct{}          // capacity 1: held by the one Run or Drain of this process
	heard     atomic.Bool            // another node has rung
	listeners atomic.Pointer[[]*listener]
	waiters   atomic.Int64       // Drains under way
	seen      map[int64]sighting // leases of others; this and the next two are of the one who holds the turn
	here      presence
	others    map[int64]standing
	swept     bool // what was running when this process started is taken back
	seam      seam

	// Written by Register and Follow only, before started.
	kinds   map[string]*kind
	follows Follower // zero: none

	mu       sync.Mutex // guards what follows
	pools    map[string]*pool
	lanes    map[string]*lane
	control  control
	dumped   time.Time // when all goroutines were written into the log
	started  bool
	waiting  []chan struct{}
	running  map[*claim]struct{} // all claims of this process
	suspects int                 // claims whose last run ended in a crash
	works    bool                // a Run is under way
}

// seam is what the suite takes away, to see the faults come that it prevents, and how it makes a node sleep. Zero in production.
type seam struct {
	unfenced bool   // complete whatever has become of the lease
	hold     func() // called before each claim, each beat and each end: a sleeping process does not return from it
}

func (s *seam) sleep() {
	if s.hold != nil {
		s.hold()
	}
}

// Open makes Jobs on d. Nothing runs until Run.
func Open(d *db.DB, ids *id.Generator, o *obs.Obs) *Jobs {
	j := &Jobs{
		db: d, ids: ids, clock: o.Clock, log: o.Named("job"), m: newMetrics(o.Metrics),
		wakeup: make(chan struct{}, 1), turn: make(chan struct{}, 1), kinds: map[string]*kind{},
		pools: map[string]*pool{}, lanes: map[string]*lane{}, running: map[*claim]struct{}{}, crowd: d.Dialect().Name() != "sqlite",
	}
	j.wakeFn, j.sql = j.given, textsOf(j.crowd)
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

// Register adds kinds. All of a process register before Run; it fails with CodeInvalid afterwards, for
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

// Known is a registered kind.
type Known struct {
	Name string
	Pool string
}

// Known returns all kinds that are registered, sorted by name.
func (j *Jobs) Known() []Known {
	j.mu.Lock()
	defer j.mu.Unlock()
	var known []Known
	for _, k := range j.kinds {
		known = append(known, Known{k.name, k.o.Pool})
	}
	slices.SortFunc(known, func(x, y Known) int { return strings.Compare(x.Name, y.Name) })
	return known
}

// Connect joins the Jobs of several nodes: ring is called after a commit that gave work which this node cannot begin at once (all slots
// of a pool are taken, or it runs no jobs), and must not block; the wake that it returns is for the ring of another node. Without
// it jobs of other nodes are found by looking, every Config.Poll. It is called at most once, before Run.
func (j *Jobs) Connect(ring func()) (wake func()) {
	j.ring.Store(&ring)
	return func() {
		j.heard.Store(true)
		j.wake()
	}
}

// given is called after a commit that gave work.
func (j *Jobs) given() {
	j.wake()
	ring := j.ring.Load()
	if ring == nil {
		return
	}
	j.mu.Lock()
	busy := !j.works
	for _, p := range j.pools {
		busy = busy || p.used+len(p.queue) >= p.size
	}
	j.mu.Unlock()
	if busy {
		(*ring)()
	}
}

func (j *Jobs) wake() {
	select {
	case j.wakeup <- struct{}{}:
	default:
	}
}

// Drain returns once no job is due or running: what was enqueued before the call and what that enqueues is done, dead or waits for
// a later time. Without a Run under way it runs the jobs itself. It returns ctx's error when that ends first.
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
	wg.Go(func() { _ = j.Run(run) }) // waits for its turn while another is under way
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
