package id

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// A word, used inside the package, is an id without its worker: tick<<SeqBits | sequence. One worker's words only ever grow, whatever the
// clock does.
const (
	// closedWord takes the place of the last word when the generator may never give another id. It lies above every
	// limit, so that the fast path falls through to the slow one, and a compare-and-swap under way fails.
	closedWord = 1 << 62

	// reserveMost bounds how many words NextN takes with one swap, so that a huge request moves the horizon in steps.
	reserveMost = 1 << 16

	// maxLead is how far NextAfter may lead the clock, or what was given: a year, far beyond what two clocks differ by, and far below the
	// time that is left.
	maxLead = 366 * 24 * time.Hour

	// writePause is how long a failed write of the horizon is answered from memory before the store is tried again.
	writePause = 100 * time.Millisecond

	// patience is how long a caller waits, a Unit apart, for the clock to reach an id that may not run ahead of it any further.
	patience = 100 * time.Millisecond

	// noLead is a lead that no id reaches.
	noLead = 1 << 50
)

// grant is what a store has made durable.
type grant struct {
	horizon int64 // the first tick that may not be given; what was asked for, or less
	from    int64 // no further id may lie below it; 0: no such bound
}

// driver is one life's hold on one worker number. It is used by one goroutine at a time.
type driver interface {
	// write makes a horizon durable; errStolen when the number is no longer ours.
	write(horizon int64) (grant, error)
	// free writes down that no id at or above first was given, and gives the number back.
	free(first int64) error
	// release lets go without writing.
	release() error
}

// Generator gives ids. All methods may be called by many goroutines at once.
type Generator struct {
	_ [64]byte // keeps the hot words off their neighbours' cache lines
	// last is the highest word given, or closedWord. Only a compare-and-swap raises it.
	last atomic.Int64
	_    [56]byte
	// limit is the first word that may not be given yet: the durable horizon as a word. It only grows.
	limit  atomic.Int64
	clock  obs.Clock
	worker int64 // shifted into its place

	layout  Layout
	seq     uint8 // layout.SeqBits
	shift   uint8 // WorkerBits + SeqBits
	epoch   int64 // in Unix milliseconds
	unit    int64 // in milliseconds
	end     int64 // first tick that no longer fits
	ahead   int64 // ticks
	lead    int64 // ticks
	eager   bool  // the horizon is kept ahead by keep even while idle, and callers wait for it only at the last word
	log     *slog.Logger
	metrics *metrics
	kick    chan struct{} // capacity 1: the clock is past the horizon
	stop    chan struct{}
	done    chan struct{}

	mu       sync.Mutex // guards what follows
	claim    driver
	dead     error     // why no id is ever given again; nil while alive
	failed   error     // the last horizon write's error; nil after a good one
	failedAt time.Time // monotonic
}

// Open claims a worker number that no living process holds (in a folder the lowest, elsewhere the one that has rested for longest) and
// returns a generator whose ids lie above every id that any earlier life of this worker number can have given, whatever the clock says
// now. It starts one goroutine, which Close ends. It fails with CodeInvalid for a bad Config, with CodeConflict for a space of another
// layout, and with CodeUnavailable when all worker numbers are held or the store is away; outside of a folder it takes at most 20 s.
func Open(ctx context.Context, cfg Config, o *obs.Obs) (g *Generator, err error) {
	defer levee.Wrap(&err, "id.Open(%q)", cfg.Dir+cfg.Node)
	return open(ctx, cfg, o, options{})
}

// options are the seams that the suite needs to take the safety away and see the duplicates come; zero in production.
type options struct {
	claim claimOptions
	lease leaseOptions
	// start chooses the first tick of a life; nil: the later of the horizon and the clock.
	start func(floor, now int64) int64
}

func open(ctx context.Context, cfg Config, o *obs.Obs, opt options) (*Generator, error) {
	cfg, err := cfg.normal(o.Clock())
	if err != nil {
		return nil, err
	}
	l := cfg.Layout
	log := o.Named("id")
	g := &Generator{
		clock:  o.Clock,
		layout: l,
		seq:    l.SeqBits,
		shift:  l.WorkerBits + l.SeqBits,
		epoch:  l.Epoch.UnixMilli(),
		unit:   l.Unit.Milliseconds(),
		end:    l.end(),
		ahead:  l.span(cfg.Ahead),
		lead:   noLead,
		eager:  cfg.shared() || opt.lease.store != nil,
		log:    log,
		kick:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	switch {
	case cfg.Lead == Strict:
		g.lead = 0
	case cfg.Lead > 0:
		g.lead = l.span(cfg.Lead)
	}
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	now := g.now()
	var worker int
	var floor int64
	if g.eager {
		s, err := opt.lease.store, error(nil)
		if s == nil {
			s, err = cfg.store(ctx)
		}
		if err != nil {
			return nil, err
		}
		if opt.lease.wrap != nil {
			s = opt.lease.wrap(s)
		}
		h, err := claimLease(ctx, s, cfg, now, log, opt.lease)
		if err != nil {
			return nil, err
		}
		g.claim, worker, floor = h, h.worker, h.floor
	} else {
		c, err := claimWorker(ctx, cfg, log, opt.claim)
		if err != nil {
			return nil, err
		}
		g.claim, worker, floor = c, c.worker, c.horizon
		if c.damaged {
			// The younger of the two records is unreadable. If it was lost after it counted, it reached at most Ahead past the
			// clock of its time.
			floor = max(floor, now) + g.ahead
		}
	}
	g.worker = int64(worker) << g.seq
	start := max(floor, now, 1) // no id is 0
	if opt.start != nil {
		start = opt.start(floor, now)
	}
	g.last.Store(start<<g.seq - 1)
	g.metrics = newMetrics(o.Metrics, g, cfg.Space)
	if err := g.begin(ctx, start); err != nil {
		g.metrics.close()
		if g.eager { // nothing was given: the number need not look as if its process had died
			return nil, errors.Join(err, g.claim.free(start))
		}
		return nil, errors.Join(err, g.claim.release())
	}
	if late := time.Duration(start-now) * l.Unit; late > time.Minute {
		log.Warn("ids start ahead of the clock: the clock was stepped back, or it was ahead in an earlier life",
			"worker", worker, "ahead", late)
	}
	log.Debug("worker number claimed", "space", cfg.Space, "worker", worker, "start", l.time(start))
	go g.keep(cfg.Ahead / 3)
	return g, nil
}

// begin makes the first horizon durable. A store that grants by a clock of its own may make a new life wait for it.
func (g *Generator) begin(ctx context.Context, start int64) error {
	for {
		err := g.extend(start << g.seq)
		if err == nil || !errors.Is(err, errNotYet) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(writePause + 10*time.Millisecond):
		}
	}
}

// now is the clock in ticks; 0 for a clock beyond the layout, so that such a reading is ignored.
func (g *Generator) now() int64 {
	tick := g.clock().UnixMilli() - g.epoch
	if tick < 0 {
		return 0
	}
	if g.unit != 1 {
		tick /= g.unit
	}
	if tick >= g.end {
		return 0
	}
	return tick
}

func (g *Generator) id(word int64) int64 {
	seq := g.seq & 63
	return word>>seq<<(g.shift&63) | g.worker | word&(1<<seq-1)
}

// Next returns the next id: above every id that this generator, and every earlier life of its worker number, has given. Ids
// of different workers are ordered by their clocks. Without Config.Lead, more ids than the layout has in one Unit (4,096 in a millisecond)
// run ahead of the clock; they do not wait for it. It waits when the durable horizon must be written first, for one fsync or one
// transaction of at most 2 s, and for the clock where Lead says so. It fails with CodeUnavailable after Close, when the horizon is reached
// and cannot be written (it tries again by itself), when another process has taken the worker number, when the clock is further behind
// than Lead allows, and when the layout's time is used up. It does not allocate.
func (g *Generator) Next() (int64, error) { return g.NextAfter(0) }

// NextAfter is Next for an id that is also above floor, an id of any generator of this space: what is told by it comes later than what
// floor tells, even where the other node's clock was ahead. All later ids of this generator are above it too. Other errors than Next's:
// CodeInvalid for a floor more than a year beyond both the clock and the ids given here, so that no single wrong number can use up
// the years to come.
func (g *Generator) NextAfter(floor int64) (int64, error) {
	tick := g.now()
	least := int64(0)
	if floor > 0 {
		var err error
		if least, err = g.above(floor, tick); err != nil {
			return 0, err
		}
	}
	seq := g.seq & 63
	from := max(tick<<seq, least)
	for {
		last := g.last.Load()
		word := max(last+1, from)
		if limit := g.limit.Load(); word >= limit {
			if g.eager && floor == 0 && last+1 < limit {
				from = 0 // the clock leapt, or the store is away: on to the horizon, while keep sees to it
				g.hurry()
				continue
			}
			if err := g.extend(word); err != nil {
				return 0, err
			}
			continue
		}
		if word>>seq > tick+g.lead {
			var err error
			if tick, err = g.await(word >> seq); err != nil {
				return 0, err
			}
			from = max(tick<<seq, least)
			continue
		}
		if g.last.CompareAndSwap(last, word) {
			return g.id(word), nil
		}
	}
}

// above returns the least word whose id lies above floor.
func (g *Generator) above(floor, now int64) (int64, error) {
	tick := floor >> g.shift
	if tick-g.layout.span(maxLead) > max(g.last.Load()>>g.seq, now) {
		return 0, levee.Invalid("floor of an id", "at most a year ahead of the clock", g.layout.TimeOf(floor))
	}
	least := tick << g.seq // within a tick the worker comes before the sequence
	switch theirs := floor & (1<<g.shift - 1) >> g.seq << g.seq; {
	case theirs == g.worker:
		least += floor&(1<<g.seq-1) + 1
	case theirs > g.worker:
		least += 1 << g.seq
	}
	return least, nil
}

// NextN fills dst with rising ids. Up to 65,536 are taken at once, and those are contiguous but for the steps from one Unit to the next;
// where Config.Lead bounds how far ids run ahead, those of one Unit. Errors are those of Next; dst's contents are then undefined, and ids
// already taken are lost. It does not allocate.
func (g *Generator) NextN(dst []int64) error {
	for len(dst) > 0 {
		word, n, err := g.reserve(int64(min(len(dst), reserveMost)))
		if err != nil {
			return err
		}
		g.fill(dst[:n], word)
		dst = dst[n:]
	}
	return nil
}

// fill writes the ids of contiguous words.
func (g *Generator) fill(dst []int64, word int64) {
	mask := int64(1)<<(g.seq&63) - 1
	for len(dst) > 0 {
		of := dst[:min(int64(len(dst)), mask+1-word&mask)] // of one tick
		first := g.id(word)
		for i := range of {
			of[i] = first + int64(i)
		}
		word += int64(len(of))
		dst = dst[len(of):]
	}
}

// atOnce takes up to n contiguous words that need no waiting at the clock's tick, neither for the clock nor for a horizon; got is 0 where there
// are none.
func (g *Generator) atOnce(tick, n int64) (first, got int64) {
	seq := g.seq & 63
	for {
		last := g.last.Load()
		first := max(last+1, tick<<seq)
		end := g.limit.Load()
		if g.lead < noLead {
			end = min(end, (tick+g.lead+1)<<seq)
		}
		got := min(n, end-first)
		if got <= 0 {
			return 0, 0
		}
		if g.last.CompareAndSwap(last, first+got-1) {
			return first, got
		}
	}
}

// reserve takes up to n contiguous words, at least one, and returns the first and how many.
func (g *Generator) reserve(n int64) (first, got int64, err error) {
	tick := g.now()
	seq := g.seq & 63
	from := tick << seq
	for {
		last := g.last.Load()
		first, got := max(last+1, from), n
		if g.lead < noLead {
			if first>>seq > tick+g.lead && first < g.limit.Load() {
				if tick, err = g.await(first >> seq); err != nil {
					return 0, 0, err
				}
				from = tick << seq
				continue
			}
			got = min(n, max((tick+g.lead+1)<<seq-first, 1))
		}
		limit := g.limit.Load()
		if end := first + got - 1; end >= limit {
			if g.eager && last+got < limit {
				from = 0
				g.hurry()
				continue
			}
			if err := g.extend(end); err != nil {
				return 0, 0, err
			}
			continue
		}
		if g.last.CompareAndSwap(last, first+got-1) {
			return first, got, nil
		}
	}
}

// await returns the clock once it is no further behind the tick than ids may run ahead.
func (g *Generator) await(tick int64) (now int64, err error) {
	var begun time.Time
	for {
		now = g.now()
		short := tick - g.lead - now
		if short <= 0 {
			return now, nil
		}
		if short > 1+int64(patience/time.Millisecond)/g.unit {
			e := unavailable("the clock is behind the ids given, further than they may run ahead of it", nil)
			return 0, e.After(time.Duration(min(short, int64(time.Minute)/int64(g.layout.Unit))) * g.layout.Unit)
		}
		if g.last.Load() == closedWord {
			return 0, g.extend(closedWord - 1) // says why
		}
		switch {
		case begun.IsZero():
			begun = time.Now()
		case time.Since(begun) > 10*(patience+g.layout.Unit):
			return 0, unavailable("the clock stands still", nil).After(time.Second)
		}
		if g.unit == 1 && short <= 1 {
			runtime.Gosched() // a timer is as coarse as what there is to wait for
		} else {
			time.Sleep(min(time.Duration(short)*g.layout.Unit/4, 10*time.Millisecond))
		}
	}
}

// hurry asks keep to move the horizon now.
func (g *Generator) hurry() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// extend makes the horizon durable, Ahead beyond the given word. On nil the limit lies above the word, unless the generator
// was closed meanwhile, which the caller's next look at last tells.
func (g *Generator) extend(word int64) error {
	return g.extendTo(word, word>>g.seq+1+g.ahead)
}

// errNotYet is in the error for a horizon that the store grants by its own clock, a little later.
var errNotYet = errors.New("the store's clock does not allow ids so far ahead yet")

// extendTo moves the horizon to the given tick unless the limit lies above the word already.
func (g *Generator) extendTo(word, horizon int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead != nil {
		return unavailable("no ids are given any more", g.dead)
	}
	if word < g.limit.Load() {
		return nil
	}
	if g.failed != nil && time.Since(g.failedAt) < writePause {
		return unavailable("ids cannot be given now", g.failed).After(time.Second)
	}
	if word>>g.seq >= g.end {
		return unavailable("the bits of time are used up", nil)
	}
	horizon = min(horizon, g.end)
	began := time.Now()
	got, err := g.claim.write(horizon)
	if err == nil && got.horizon > got.from {
		for least := got.from<<g.seq - 1; ; { // before the limit: what lies below is left out from now on
			last := g.last.Load()
			if last >= least || g.last.CompareAndSwap(last, least) {
				break
			}
		}
		g.limit.Store(max(g.limit.Load(), got.horizon<<g.seq))
	}
	g.metrics.wrote(time.Since(began), err)
	if err == nil && (got.horizon <= got.from || word >= g.limit.Load()) {
		err = errNotYet
	}
	switch {
	case errors.Is(err, errStolen):
		g.kill(err)
		g.log.Error("the worker number is no longer ours; no more ids are given until a restart", "error", err)
		return unavailable("no ids are given any more", err)
	case err != nil:
		if g.failed == nil && !errors.Is(err, errNotYet) {
			g.log.Error("the id horizon cannot be written; ids end at the horizon", "error", err)
		}
		g.failed, g.failedAt = err, time.Now()
		return unavailable("ids cannot be given now", err).After(time.Second)
	}
	if g.failed != nil {
		if !errors.Is(g.failed, errNotYet) {
			g.log.Info("the id horizon can be written again")
		}
		g.failed = nil
	}
	return nil
}

// kill ends the giving of ids for good and returns the last word given. The swap makes every compare-and-swap under way
// fail: no id is given after it. Called with mu held.
func (g *Generator) kill(why error) int64 {
	g.dead = why
	return g.last.Swap(closedWord)
}

// keep moves the horizon on before callers reach it. A generator that gives no ids writes nothing to its file; in a database it goes
// on, because a horizon long past tells that its process died.
func (g *Generator) keep(every time.Duration) {
	defer close(g.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	seen, back := g.last.Load(), false
	for {
		select {
		case <-g.stop:
			return
		case <-tick.C:
		case <-g.kick:
		}
		last := g.last.Load()
		if last == closedWord || last == seen && !g.eager {
			continue
		}
		seen = last
		now := g.now()
		// Two thirds of Ahead are kept in hand. An error is logged there, and told to the callers that meet it.
		at := max(last>>g.seq, now)
		if least := at + g.ahead*2/3; least < g.end {
			_ = g.extendTo(least<<g.seq, at+1+g.ahead)
		}
		if behind := last>>g.seq - now; behind > g.layout.span(time.Minute) && !back {
			back = true
			g.log.Warn("the clock is behind the ids given; they go on above it", "behind", time.Duration(behind)*g.layout.Unit)
		} else if behind <= 0 {
			back = false
		}
	}
}

// Close ends the giving of ids, writes down how far they went, so that the next life need not skip to the horizon, and
// frees the worker number. Calls after the first return nil. An error means that only the skipping could not be spared.
func (g *Generator) Close() (err error) {
	defer levee.Wrap(&err, "id.Close")
	g.mu.Lock()
	if g.claim == nil {
		g.mu.Unlock()
		return nil
	}
	alive := g.dead == nil
	last := g.last.Load()
	if alive {
		last = g.kill(errClosed)
	}
	c := g.claim
	g.claim = nil
	g.mu.Unlock()

	close(g.stop)
	<-g.done
	g.metrics.close()
	if alive {
		return c.free(last>>g.seq + 1)
	}
	return c.release()
}

// Worker returns the worker number in use, with the layout Default 0 to 1023.
func (g *Generator) Worker() int { return int(g.worker >> g.seq) }

// Layout returns the layout of the ids.
func (g *Generator) Layout() Layout { return g.layout }

// aheadOfClock is how far the last id lies before the clock, in seconds; negative when none was given for a while.
func (g *Generator) aheadOfClock() float64 {
	last := g.last.Load()
	if last == closedWord {
		return 0
	}
	return float64(last>>g.seq-g.now()) * g.layout.Unit.Seconds()
}

var errClosed = errors.New("the generator is closed")

func unavailable(what string, err error) *levee.Error {
	e := levee.E(levee.CodeUnavailable, "the service cannot number new things at the moment")
	if err == nil {
		return e.Because(errors.New(what))
	}
	return e.Because(fmt.Errorf("%s: %w", what, err))
}
