package schedule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/when"
)

const countEach = 10 * time.Second // until schedules are counted again

// Config measures the schedules. The zero value is usable.
type Config struct {
	// Poll is how often the table is looked at for what other processes have changed; default 1 s, 10 ms to 1 minute. What this
	// process changes, and what others ring for (Connect), is seen at once.
	Poll time.Duration
	// Max is how many schedules there may be, 1 to 10,000,000; default 100,000. Many who add at once may exceed it a little.
	Max int
	// Keep is how long a finished schedule stays before it is removed; default 7 days, 1 minute to 10 years. One that a program
	// declares stays for ever: it would be declared anew.
	Keep time.Duration
	// OwnClock goes by this process' own clock where else the database's counts: for a test in virtual time, and for one process alone.
	OwnClock bool
}

func (c *Config) check() error {
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	if c.Max == 0 {
		c.Max = 100_000
	}
	if c.Keep == 0 {
		c.Keep = 7 * 24 * time.Hour
	}
	switch {
	case c.Poll < 10*time.Millisecond || c.Poll > time.Minute:
		return levee.Invalid("schedule.poll", "10ms to 1m", c.Poll)
	case c.Max < 1 || c.Max > 10_000_000:
		return levee.Invalid("schedule.max", "1 to 10000000", c.Max)
	case c.Keep < time.Minute || c.Keep > 87600*time.Hour:
		return levee.Invalid("schedule.keep", "1m to 87600h", c.Keep)
	}
	return nil
}

// Schedules keeps and fires all schedules of the house.
type Schedules struct {
	db    *db.DB
	jobs  *job.Jobs
	clock *clock
	log   *slog.Logger
	m     *metrics
	cfg   Config
	crowd bool                   // the engine has many writers at once
	bell  chan struct{}          // capacity 1: a wake-up is remembered, never waited for
	ring  atomic.Pointer[func()] // tells other nodes
	seam  seam
	hear  func(Notice) // set before Run

	mu        sync.Mutex // guards what follows
	declared  map[string]entry
	work      map[string]Work // by name; written before Run
	running   bool
	kinds     map[string]bool
	counted   int       // schedules there are, as of countedAt and with those added since
	countedAt time.Time // monotonic
}

// seam is what the suite takes away, to see the faults come that it prevents, and how it kills a node. Zero in production.
type seam struct {
	unfenced bool                    // fire whatever others have done meanwhile
	die      func(where string) bool // whether the process ends here, without another word
}

func (s *seam) dies(where string) bool { return s.die != nil && s.die(where) }

// Open makes Schedules on d that give jobs to j. Nothing is fired until Run. It fails with CodeInvalid for values out of bounds.
func Open(c Config, d *db.DB, j *job.Jobs, o *obs.Obs) (*Schedules, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Schedules{db: d, jobs: j, log: o.Named("schedule"), m: newMetrics(o.Metrics), cfg: c, crowd: d.Dialect().Name() != "sqlite",
		bell: make(chan struct{}, 1), declared: map[string]entry{}, work: map[string]Work{}, clock: &clock{own: o.Clock, begun: time.Now()}}
	if s.crowd && !c.OwnClock {
		s.clock.ask = s.askDatabase
	}
	return s, nil
}

// Connect joins the Schedules of several nodes, as job.Connect does: ring is called after a change that is due soon and must not block;
// the wake that it returns is for the ring of another node. Without it changes by other nodes are found by looking, every Config.Poll.
func (s *Schedules) Connect(ring func()) (wake func()) {
	s.ring.Store(&ring)
	return s.wake
}

func (s *Schedules) wake() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// Fired is the What of a Notice of a job that was given; its others are late, merged and busy.
const Fired = "fired"

// Notice tells what became of firings of one schedule.
type Notice struct {
	Schedule string
	What     string    // Fired, or why no job was given: late, merged, busy
	Firings  int64     // how many
	At       time.Time // the time of the last of these that was fired for; else the first that was due
	Job      int64     // the last job; 0 when none was given
}

// Listen has fn called for each Notice after its commit, on the node that decided, one at a time: fn must not block, and what a node did right
// before it died is not told. It is called at most once, before Run.
func (s *Schedules) Listen(fn func(Notice)) { s.hear = fn }

// changedTx has everybody look once the transaction is committed, when what it changed is due before the next look.
func (s *Schedules) changedTx(tx *db.Tx, next any, now int64) {
	if at, ok := next.(int64); !ok || at > now+2*s.cfg.Poll.Microseconds() {
		return
	}
	tx.AfterCommit(func() {
		s.wake()
		if ring := s.ring.Load(); ring != nil {
			(*ring)()
		}
	})
}

// Declare gives the schedules that the program itself brings. All are declared before Run, which writes them. A program owns all of an
// Entry it declares but Paused, which counts only the first time. What is changed at run time (Modify, Reschedule, Add with Replace)
// stays until the declaration itself is another one; then the declaration counts again. A pause stays in any case, because a deploy must
// not start what somebody has stopped. A schedule that is no longer declared stays as it is and can be removed then.
//
// It fails with CodeInvalid for values out of bounds, a name that is declared twice, and after the beginning of Run, and
// Run fails for a kind that is not registered.
func (s *Schedules) Declare(es ...Entry) (err error) {
	defer levee.Wrap(&err, "schedule.Declare")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		c, err := e.check(nil)
		if err != nil {
			return err
		}
		if _, there := s.declared[e.Name]; there || s.running {
			return levee.Invalid("schedule.name", "declared once and before Run", e.Name)
		}
		s.declared[e.Name] = c
	}
	return nil
}

// fingerprint tells one declaration from another.
func (e entry) fingerprint() string {
	text, _ := json.Marshal([]any{e.Kind, e.args, e.text, e.Grace, e.Coalesce, e.Most, e.MaxLive, e.Note}) // of such values it cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// known returns the kinds that are registered here.
func (s *Schedules) known() map[string]bool {
	kinds := map[string]bool{}
	for _, k := range s.jobs.Known() {
		kinds[k.Name] = true
	}
	return kinds
}

// OnConflict says what Add and Import do about a name that is taken.
type OnConflict int

// The ways.
const (
	Fail    OnConflict = iota // CodeConflict
	Replace                   // it takes the new values; its history stays, and its next firing too unless the trigger is another
	Keep                      // it stays as it is
)

// Add adds a schedule; its first firing is the first after now. It tells whether it was added, not kept or replaced. It fails with
// CodeInvalid for values out of bounds and a trigger that never fires again, CodeConflict for a taken name under Fail, and CodeTooLarge
// when there are as many schedules as may be.
func (s *Schedules) Add(ctx context.Context, e Entry, how OnConflict) (added bool, err error) {
	defer levee.Wrap(&err, "schedule.Add(%q)", levee.Shorten(e.Name, maxNames))
	c, err := e.check(s.known())
	if err != nil {
		return false, err
	}
	if err := s.room(ctx); err != nil {
		return false, err
	}
	now, err := s.micros(ctx)
	if err != nil {
		return false, err
	}
	err = s.db.Tx(ctx, "schedule.add", func(ctx context.Context, tx *db.Tx) (err error) {
		added, err = s.addTx(ctx, tx, c, how, now)
		return err
	})
	if err != nil {
		return false, err
	}
	if added {
		s.grew(1)
	}
	return added, nil
}

func (s *Schedules) grew(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted += n
}

// room fails when there are as many schedules as may be. They are counted now and then, and those that are added here are counted along.
func (s *Schedules) room(ctx context.Context) error {
	s.mu.Lock()
	old := s.countedAt.IsZero() || time.Since(s.countedAt) > countEach
	s.mu.Unlock()
	if old {
		n, err := s.count(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.counted, s.countedAt = n, time.Now()
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counted >= s.cfg.Max {
		return levee.E(levee.CodeTooLarge, "there are %d schedules, allowed are %d", s.counted, s.cfg.Max)
	}
	return nil
}

// micros is the time that counts, in microseconds.
func (s *Schedules) micros(ctx context.Context) (int64, error) {
	now, err := s.clock.now(ctx)
	return now.UnixMicro(), err
}

func (s *Schedules) addTx(ctx context.Context, tx *db.Tx, c entry, how OnConflict, now int64) (added bool, err error) {
	first := next(c.Trigger, now)
	if first == 0 {
		return false, levee.Invalid("schedule.trigger", "one that fires again", c.text)
	}
	// The insert comes first: to look for the name and then insert it would lock a gap, where two may wait for each other.
	err = s.insertTx(ctx, tx, c, "", first, now)
	switch {
	case err == nil:
		return true, nil
	case !db.IsUnique(err):
		return false, err
	case how == Keep:
		return false, nil
	case how == Fail:
		return false, levee.E(levee.CodeConflict, "there is a schedule %q already", c.Name).Because(err)
	}
	return false, s.changeTx(ctx, tx, c.Name, now, func(r *record) error {
		r.set(c, now)
		r.Changed = r.Declared
		if c.Paused && r.State == Active {
			r.State = Paused
		}
		return nil
	})
}

// Modify changes a schedule: change is given what there is and sets what it wants, but not the name; Paused is not looked at. Where it sets
// another trigger, the first firing is the first after now, and a finished schedule is active again. change may be called more
// than once. It fails with CodeNotFound, with CodeInvalid as Add does, and with change's error.
func (s *Schedules) Modify(ctx context.Context, name string, change func(e *Entry) error) (err error) {
	defer levee.Wrap(&err, "schedule.Modify(%q)", levee.Shorten(name, maxNames))
	kinds := s.known()
	return s.change(ctx, "schedule.modify", name, func(r *record, now int64) error {
		e := r.Entry
		if err := change(&e); err != nil {
			return err
		}
		if e.Name != name {
			return levee.Invalid("schedule.name", "as it was", e.Name)
		}
		c, err := e.check(kinds)
		if err != nil {
			return err
		}
		if c.text != r.text && next(c.Trigger, now) == 0 {
			return levee.Invalid("schedule.trigger", "one that fires again", c.text)
		}
		r.set(c, now)
		r.Changed = r.Declared
		return nil
	})
}

// Reschedule gives a schedule another trigger; see Modify.
func (s *Schedules) Reschedule(ctx context.Context, name string, t when.Trigger) error {
	return s.Modify(ctx, name, func(e *Entry) error { e.Trigger = t; return nil })
}

// Pause has a schedule fire no more until Resume. Of one that is paused nothing is changed. It fails with CodeNotFound, and with
// CodeConflict for one that is finished.
func (s *Schedules) Pause(ctx context.Context, name string) (err error) {
	defer levee.Wrap(&err, "schedule.Pause(%q)", levee.Shorten(name, maxNames))
	return s.change(ctx, "schedule.pause", name, func(r *record, _ int64) error {
		switch r.State {
		case Finished:
			return levee.E(levee.CodeConflict, "the schedule %q is finished", name)
		case Active:
			r.State = Paused
		}
		return nil
	})
}

// From says where a schedule goes on after a pause.
type From int

// The places.
const (
	Now   From = iota // what was missed is left out and not counted
	Where             // where it was: what was missed is fired, merged or skipped by grace and Coalesce
)

// Resume has a paused schedule fire again. Of one that is active nothing is changed. It fails with CodeNotFound, and with CodeConflict
// for one that is finished.
func (s *Schedules) Resume(ctx context.Context, name string, from From) (err error) {
	defer levee.Wrap(&err, "schedule.Resume(%q)", levee.Shorten(name, maxNames))
	return s.change(ctx, "schedule.resume", name, func(r *record, now int64) error {
		switch {
		case r.State == Finished:
			return levee.E(levee.CodeConflict, "the schedule %q is finished", name)
		case r.State == Paused && from == Where:
			r.activate(micros(r.Next), now)
		case r.State == Paused:
			r.activate(next(r.Trigger, max(now, micros(r.Last))), now)
		}
		return nil
	})
}

// Trigger gives a job of the schedule at once, besides its firings, in whichever state it is, and returns the job's id. It fails with
// CodeNotFound for the schedule or its kind, and with CodeConflict while as many of its jobs as may wait or run.
func (s *Schedules) Trigger(ctx context.Context, name string) (id int64, err error) {
	defer levee.Wrap(&err, "schedule.Trigger(%q)", levee.Shorten(name, maxNames))
	now, err := s.micros(ctx)
	if err != nil {
		return 0, err
	}
	err = s.db.Tx(ctx, "schedule.trigger", func(ctx context.Context, tx *db.Tx) (err error) {
		r, err := s.lockTx(ctx, tx, name)
		if err != nil {
			return err
		}
		if r.MaxLive != Unlimited {
			live, err := s.jobs.LiveTx(ctx, tx, source+name)
			if err != nil {
				return err
			}
			if live >= r.MaxLive {
				return levee.E(levee.CodeConflict, "%d jobs of the schedule %q wait or run, allowed are %d", live, name, r.MaxLive)
			}
		}
		args, err := argsAt(name, r.args, now)
		if err != nil {
			return err
		}
		if id, err = s.jobs.EnqueueRawTx(ctx, tx, r.Kind, args, job.From(source+name)); err != nil {
			return err
		}
		return s.noteJobTx(ctx, tx, name, id, now)
	})
	if err == nil {
		s.m.manual.Inc()
	}
	return id, err
}

// Remove removes a schedule; jobs that it gave stay. It fails with CodeNotFound, and with CodeConflict for one that this program declares:
// that is to be paused, because it would be there again at the next start.
func (s *Schedules) Remove(ctx context.Context, name string) (err error) {
	defer levee.Wrap(&err, "schedule.Remove(%q)", levee.Shorten(name, maxNames))
	s.mu.Lock()
	_, declared := s.declared[name]
	s.mu.Unlock()
	if declared {
		return levee.E(levee.CodeConflict, "the program declares the schedule %q: pause it instead", name)
	}
	return s.db.Tx(ctx, "schedule.remove", func(ctx context.Context, tx *db.Tx) error { return s.deleteTx(ctx, tx, name) })
}

// NextRuns returns the next n firings of a schedule, n of 1 to 1000: from where it stands, as if it were active. Fewer come when its
// trigger ends. It fails with CodeNotFound.
func (s *Schedules) NextRuns(ctx context.Context, name string, n int) (runs []time.Time, err error) {
	defer levee.Wrap(&err, "schedule.NextRuns(%q)", levee.Shorten(name, maxNames))
	if n < 1 || n > 1000 {
		return nil, levee.Invalid("n", "1 to 1000", n)
	}
	i, err := s.Get(ctx, name)
	if err != nil || i.Next.IsZero() {
		return nil, err
	}
	return append([]time.Time{i.Next}, when.NextRuns(i.Trigger, i.Next, n-1)...), nil
}
