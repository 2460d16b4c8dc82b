package id

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// The layout of an id, from the top: one zero sign bit, 41 bits of milliseconds since the epoch (until 2094), 10 bits of
// worker number, 12 bits of sequence. A word, used inside the package, is an id without its worker: ms<<12 | sequence. One
// worker's words only ever grow, whatever the clock does.
const (
	workerBits = 10
	seqBits    = 12
	maxWorkers = 1 << workerBits
	maxMillis  = 1 << 41 // first millisecond that no longer fits
	seqMask    = 1<<seqBits - 1

	epochMillis = 1735689600000 // 2025-01-01T00:00:00Z in Unix milliseconds

	// closedWord takes the place of the last word when the generator may never give another id. It lies above every
	// limit, so that the fast path falls through to the slow one, and a compare-and-swap under way fails.
	closedWord = 1 << 62

	// reserveMost bounds how many words NextN takes with one swap, so that a huge request moves the horizon in steps.
	reserveMost = 1 << 16

	// writePause is how long a failed write of the horizon is answered from memory before the disk is tried again.
	writePause = 100 * time.Millisecond
)

// Config says where worker numbers are claimed and how far ahead of use the horizon is written.
type Config struct {
	// Dir is the folder of the worker files, "data/id" when empty. It is made when missing. All processes that write to
	// one database must share it: two folders mean two workers with number 0, and duplicates. It must lie on a file
	// system with working locks and must not be deleted while a process runs; a restored older copy is harmless.
	Dir string
	// Ahead is how far the durable horizon runs ahead of the ids given; 3 s when 0, allowed 10 ms to 1 h. A smaller value
	// means a write and fsync more often (three per Ahead while ids are given, none while idle). A larger one means that
	// ids run up to that much ahead of the clock after a crash, and go on for that long while the disk refuses writes.
	Ahead time.Duration
}

func (c Config) normal() (Config, error) {
	if c.Dir == "" {
		c.Dir = "data/id"
	}
	if c.Ahead == 0 {
		c.Ahead = 3 * time.Second
	}
	if c.Ahead < 10*time.Millisecond || c.Ahead > time.Hour {
		return c, levee.Invalid("id.ahead", "a duration from 10ms to 1h", c.Ahead)
	}
	return c, nil
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

	ahead   int64 // milliseconds
	log     *slog.Logger
	metrics *metrics
	stop    chan struct{}
	done    chan struct{}

	mu       sync.Mutex // guards what follows
	claim    *claim
	dead     error     // why no id is ever given again; nil while alive
	failed   error     // the last horizon write's error; nil after a good one
	failedAt time.Time // monotonic
}

// Open claims the lowest worker number that no living process holds in cfg.Dir and returns a generator whose ids lie above
// every id that any earlier life of this worker number can have given, whatever the clock says now. It starts one
// goroutine, which Close ends. It fails with CodeInvalid for a bad Config and with CodeUnavailable when all 1,024 worker
// numbers are held.
func Open(ctx context.Context, cfg Config, o *obs.Obs) (g *Generator, err error) {
	defer levee.Wrap(&err, "id.Open(%q)", cfg.Dir)
	return open(ctx, cfg, o, options{})
}

// options are the seams that the suite needs to take the safety away and see the duplicates come; zero in production.
type options struct {
	claim claimOptions
	// start chooses the first millisecond of a life; nil: the later of the horizon and the clock.
	start func(floor, now int64) int64
}

func open(ctx context.Context, cfg Config, o *obs.Obs, opt options) (*Generator, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	log := o.Named("id")
	c, err := claimWorker(ctx, cfg.Dir, log, opt.claim)
	if err != nil {
		return nil, err
	}
	g := &Generator{
		clock:  o.Clock,
		worker: int64(c.worker) << seqBits,
		ahead:  cfg.Ahead.Milliseconds(),
		log:    log,
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		claim:  c,
	}
	now := g.now()
	floor := c.horizon
	if c.damaged {
		// The younger of the two records is unreadable. If it was lost after it counted, it reached at most Ahead past the
		// clock of its time.
		floor = max(floor, now) + g.ahead
	}
	start := max(floor, now, 1) // no id is 0
	if opt.start != nil {
		start = opt.start(floor, now)
	}
	g.last.Store(start<<seqBits - 1)
	g.metrics = newMetrics(o.Metrics, g)
	if err := g.extend(start << seqBits); err != nil {
		g.metrics.close()
		return nil, errors.Join(err, c.release())
	}
	if late := time.Duration(start-now) * time.Millisecond; late > time.Minute {
		log.Warn("ids start ahead of the clock: the clock was stepped back, or it was ahead in an earlier life",
			"worker", c.worker, "ahead", late)
	}
	log.Debug("worker number claimed", "worker", c.worker, "start", TimeOf(start<<(workerBits+seqBits)))
	go g.keep(cfg.Ahead / 3)
	return g, nil
}

// now is the clock in milliseconds since the epoch; 0 for a clock beyond the layout, so that such a reading is ignored.
func (g *Generator) now() int64 {
	ms := g.clock().UnixMilli() - epochMillis
	if ms >= maxMillis || ms < 0 {
		return 0
	}
	return ms
}

func (g *Generator) id(word int64) int64 {
	return word>>seqBits<<(workerBits+seqBits) | g.worker | word&seqMask
}

// Next returns the next id: above every id that this generator, and every earlier life of its worker number, has given. Ids
// of different workers are ordered by their clocks. More than 4,096 ids in one millisecond run ahead of the clock; they do
// not wait for it. It waits only when the durable horizon must be written first, for one fsync. It fails with
// CodeUnavailable after Close, when the horizon cannot be written (it tries again by itself), when another process has
// taken the worker file, and in the year 2094. It does not allocate.
func (g *Generator) Next() (int64, error) {
	now := g.now() << seqBits
	for {
		last := g.last.Load()
		word := max(last+1, now)
		if word >= g.limit.Load() {
			if err := g.extend(word); err != nil {
				return 0, err
			}
			continue
		}
		if g.last.CompareAndSwap(last, word) {
			return g.id(word), nil
		}
	}
}

// NextN fills dst with rising ids. Up to 65,536 are taken at once, and those are contiguous but for the steps from one
// millisecond to the next. Errors are those of Next; dst's contents are then undefined, and ids already taken are lost.
func (g *Generator) NextN(dst []int64) error {
	for len(dst) > 0 {
		part := dst[:min(len(dst), reserveMost)]
		first, err := g.reserve(int64(len(part)))
		if err != nil {
			return err
		}
		for i := range part {
			part[i] = g.id(first + int64(i))
		}
		dst = dst[len(part):]
	}
	return nil
}

// reserve takes n contiguous words and returns the first.
func (g *Generator) reserve(n int64) (int64, error) {
	now := g.now() << seqBits
	for {
		last := g.last.Load()
		first := max(last+1, now)
		if end := first + n - 1; end >= g.limit.Load() {
			if err := g.extend(end); err != nil {
				return 0, err
			}
			continue
		}
		if g.last.CompareAndSwap(last, first+n-1) {
			return first, nil
		}
	}
}

// extend makes the horizon durable, Ahead beyond the given word. On nil the limit lies above the word, unless the generator
// was closed meanwhile, which the caller's next look at last tells.
func (g *Generator) extend(word int64) error {
	return g.extendTo(word, word>>seqBits+1+g.ahead)
}

// extendTo moves the horizon to the given millisecond unless the limit lies above the word already.
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
	if word>>seqBits >= maxMillis {
		return unavailable("the 41 bits of time are used up", nil)
	}
	horizon = min(horizon, maxMillis)
	began := time.Now()
	err := g.claim.write(horizon)
	g.metrics.wrote(time.Since(began), err)
	switch {
	case errors.Is(err, errStolen):
		g.kill(err)
		g.log.Error("the worker file is no longer ours; no more ids are given until a restart", "error", err)
		return unavailable("no ids are given any more", err)
	case err != nil:
		if g.failed == nil {
			g.log.Error("the id horizon cannot be written; ids end at the horizon", "error", err)
		}
		g.failed, g.failedAt = err, time.Now()
		return unavailable("ids cannot be given now", err).After(time.Second)
	}
	if g.failed != nil {
		g.failed = nil
		g.log.Info("the id horizon can be written again")
	}
	g.limit.Store(horizon << seqBits)
	return nil
}

// kill ends the giving of ids for good and returns the last word given. The swap makes every compare-and-swap under way
// fail: no id is given after it. Called with mu held.
func (g *Generator) kill(why error) int64 {
	g.dead = why
	return g.last.Swap(closedWord)
}

// keep moves the horizon on before callers reach it. A generator that gives no ids writes nothing.
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
		}
		last := g.last.Load()
		if last == closedWord || last == seen {
			continue
		}
		seen = last
		now := g.now()
		// Two thirds of Ahead are kept in hand. An error is logged there, and told to the callers that meet it.
		at := max(last>>seqBits, now)
		if least := at + g.ahead*2/3; least < maxMillis {
			_ = g.extendTo(least<<seqBits, at+1+g.ahead)
		}
		if behind := last>>seqBits - now; behind > time.Minute.Milliseconds() && !back {
			back = true
			g.log.Warn("the clock is behind the ids given; they go on above it", "behind", time.Duration(behind)*time.Millisecond)
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
		err = c.write(last>>seqBits + 1)
	}
	return errors.Join(err, c.release())
}

// Worker returns the worker number in use, 0 to 1023.
func (g *Generator) Worker() int { return int(g.worker >> seqBits) }

// aheadOfClock is how far the last id lies before the clock, in seconds; negative when none was given for a while.
func (g *Generator) aheadOfClock() float64 {
	last := g.last.Load()
	if last == closedWord {
		return 0
	}
	return float64(last>>seqBits-g.now()) / 1000
}

// TimeOf returns the time inside an id, with a resolution of 1 ms. It is the clock's time when the id was given, or later:
// see Next on ids that run ahead.
func TimeOf(id int64) time.Time {
	return time.UnixMilli(id>>(workerBits+seqBits) + epochMillis).UTC()
}

var errClosed = errors.New("the generator is closed")

func unavailable(what string, err error) *levee.Error {
	e := levee.E(levee.CodeUnavailable, "the service cannot number new things at the moment")
	if err == nil {
		return e.Because(errors.New(what))
	}
	return e.Because(fmt.Errorf("%s: %w", what, err))
}
