package id

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// SegmentsConfig says where the numbers of each tag are counted, in DB or in Redis, and how many a process takes at once.
type SegmentsConfig struct {
	// DB counts in the table id_segment (Schema): what was committed is not given again.
	DB *db.DB
	// Redis counts in one key per tag. A Redis that comes back without its data, or behind, gives numbers again: for numbers whose repetition
	// does harm (invoices) take DB.
	Redis *redis.Client
	// StepMin and StepMax bound how many numbers of a tag are taken at once, from 1 to 10,000,000. Default 100 and 1,000,000. A process begins
	// with StepMin; it doubles the step when a segment lasted for less than Aim and halves it when it lasted for more than four times
	// Aim. What a crash wastes of a tag is at most two segments.
	StepMin, StepMax int64
	// Aim is how long a segment should last, from 10ms to 24h. Default 10s.
	Aim time.Duration
	// Tags is the most tags that a process keeps at once, from 1 to 1,000,000. Default 10,000; each takes about 300 bytes.
	Tags int
}

func (c SegmentsConfig) normal() (SegmentsConfig, error) {
	if c.StepMin == 0 {
		c.StepMin = 100
	}
	if c.StepMax == 0 {
		c.StepMax = max(1_000_000, c.StepMin)
	}
	if c.Aim == 0 {
		c.Aim = 10 * time.Second
	}
	if c.Tags == 0 {
		c.Tags = 10_000
	}
	switch {
	case (c.DB == nil) == (c.Redis == nil):
		return c, levee.Invalid("segments.db", "one of a database and Redis", "both or neither")
	case c.StepMin < 1 || c.StepMin > 10_000_000:
		return c, levee.Invalid("segments.step_min", "from 1 to 10000000", c.StepMin)
	case c.StepMax < c.StepMin || c.StepMax > 10_000_000:
		return c, levee.Invalid("segments.step_max", "from step_min to 10000000", c.StepMax)
	case c.Aim < 10*time.Millisecond || c.Aim > 24*time.Hour:
		return c, levee.Invalid("segments.aim", "from 10ms to 24h", c.Aim)
	case c.Tags < 1 || c.Tags > 1_000_000:
		return c, levee.Invalid("segments.tags", "from 1 to 1000000", c.Tags)
	}
	return c, nil
}

// source is where segments come from.
type source interface {
	// take returns the first of n new numbers of a tag.
	take(ctx context.Context, tag string, n int64) (first int64, err error)
	// giveBack makes first the next number again if it was end until now.
	giveBack(ctx context.Context, tag string, first, end int64) error
}

// Segments gives dense rising numbers from 1 by business tag: invoice 1, 2, 3. Each process takes segments of them and gives them out without
// asking again, so its numbers rise and have no gaps but where a process died or several share a tag; those of several processes are not in
// order among themselves. All methods may be called by many goroutines at once.
type Segments struct {
	cfg    SegmentsConfig
	source source
	log    *slog.Logger
	tags   sync.Map // string to *tagged
	count  atomic.Int64
	closed atomic.Bool
	tasks  sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context
}

// segment is [first, end); next beyond end tells that it is used up.
type segment struct {
	next       atomic.Int64
	first, end int64
	since      time.Time // when it was first used
}

// tagged is one tag in this process.
type tagged struct {
	tag string
	now atomic.Pointer[segment] // never nil

	mu      sync.Mutex // guards what follows
	step    int64
	after   *segment      // taken ahead of need
	fetch   chan struct{} // closed when the fetch under way is over; nil when none is
	err     error         // of the last fetch; nil after a good one
	errAt   time.Time
	waiting int64 // numbers that those who wait now have asked for, at least
}

// OpenSegments makes a Segments. Nothing is asked of the store before the first number is. Close ends it.
func OpenSegments(cfg SegmentsConfig, o *obs.Obs) (_ *Segments, err error) {
	defer levee.Wrap(&err, "id.OpenSegments")
	if cfg, err = cfg.normal(); err != nil {
		return nil, err
	}
	s := &Segments{cfg: cfg, log: o.Named("id")}
	if cfg.DB != nil {
		s.source = sqlSource{cfg.DB}
	} else {
		s.source = redisSource{cfg.Redis}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

var tagName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$`)

const tagAllowed = "1 to 100 of A-Z, a-z, 0-9, '.', '_', ':', '/' and '-', beginning with a letter or digit"

// Next returns the next number of a tag; the first is 1. When the process has none in hand it waits for the store as long as ctx allows, at
// most 10 s. It fails with CodeInvalid for a tag of other than 1 to 100 letters, digits and ._:/-, with CodeTooLarge for more tags than
// the config allows, and with CodeUnavailable when the store is away, after Close, and when the numbers are used up (2^62). Without
// waiting it does not allocate.
func (s *Segments) Next(ctx context.Context, tag string) (int64, error) {
	t, err := s.tagged(tag)
	if err != nil {
		return 0, err
	}
	n, _, err := s.some(ctx, t, 1)
	return n, err
}

// NextN fills dst with rising numbers of a tag, which are contiguous within each segment. Errors are those of Next; dst's contents are then
// undefined, and numbers already taken are lost.
func (s *Segments) NextN(ctx context.Context, tag string, dst []int64) error {
	t, err := s.tagged(tag)
	if err != nil {
		return err
	}
	for len(dst) > 0 {
		first, n, err := s.some(ctx, t, int64(len(dst)))
		if err != nil {
			return err
		}
		for i := range n {
			dst[i] = first + i
		}
		dst = dst[n:]
	}
	return nil
}

func (s *Segments) tagged(tag string) (*tagged, error) {
	if v, ok := s.tags.Load(tag); ok {
		return v.(*tagged), nil
	}
	if len(tag) > 100 || !tagName.MatchString(tag) {
		return nil, levee.Invalid("tag", tagAllowed, levee.Shorten(strings.ToValidUTF8(tag, "?"), 80))
	}
	if s.count.Load() >= int64(s.cfg.Tags) {
		return nil, levee.E(levee.CodeTooLarge, "this process numbers %d tags already, the most that it may (segments.tags)", s.cfg.Tags)
	}
	t := &tagged{tag: strings.Clone(tag), step: s.cfg.StepMin}
	t.now.Store(&segment{})
	v, there := s.tags.LoadOrStore(t.tag, t)
	if !there {
		s.count.Add(1)
	}
	return v.(*tagged), nil
}

// some takes up to n numbers, at least one.
func (s *Segments) some(ctx context.Context, t *tagged, n int64) (first, got int64, err error) {
	var deadline context.CancelFunc
	for {
		g := t.now.Load()
		// Looking first keeps next from growing without end while many wait.
		if at := g.next.Load(); at < g.end {
			first := g.next.Add(n) - n
			if first < g.end {
				got := min(n, g.end-first)
				// Half used: the next one is fetched ahead.
				if half := g.first + (g.end-g.first)/2; first <= half && first+got > half {
					s.ahead(t, g)
				}
				if deadline != nil {
					deadline()
				}
				return first, got, nil
			}
		}
		if deadline == nil {
			ctx, deadline = context.WithTimeout(ctx, claimTime/2)
		}
		if err := s.turn(ctx, t, g, n); err != nil {
			deadline()
			return 0, 0, err
		}
	}
}

// ahead begins to fetch the segment after g.
func (s *Segments) ahead(t *tagged, g *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now.Load() == g && t.after == nil && t.fetch == nil && !s.closed.Load() {
		s.begin(t, 0)
	}
}

// turn puts the segment after g in its place, and waits for it when it is not there yet.
func (s *Segments) turn(ctx context.Context, t *tagged, g *segment, n int64) error {
	t.mu.Lock()
	switch {
	case t.now.Load() != g: // another caller was faster
		t.mu.Unlock()
		return nil
	case s.closed.Load():
		t.mu.Unlock()
		return unavailable("no numbers are given any more", errClosed)
	case t.after != nil:
		s.adapt(t, g)
		t.after.since = time.Now()
		t.now.Store(t.after)
		t.after = nil
		t.mu.Unlock()
		return nil
	case t.fetch == nil && t.err != nil && time.Since(t.errAt) < writePause:
		err := t.err
		t.mu.Unlock()
		return err
	case t.fetch == nil:
		s.begin(t, n)
	}
	fetch := t.fetch
	t.mu.Unlock()
	select {
	case <-ctx.Done():
		return levee.E(levee.CodeUnavailable, "the store of the numbers does not answer in time").Because(ctx.Err()).After(time.Second)
	case <-fetch:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.after == nil && t.now.Load() == g && t.fetch == nil {
		return t.err
	}
	return nil
}

// adapt chooses the next step by how long the segment lasted. Called with t.mu held.
func (s *Segments) adapt(t *tagged, g *segment) {
	if g.end == 0 { // the first one
		return
	}
	switch lasted := time.Since(g.since); {
	case lasted < s.cfg.Aim:
		t.step = min(2*t.step, s.cfg.StepMax)
	case lasted > 4*s.cfg.Aim:
		t.step = max(t.step/2, s.cfg.StepMin)
	}
}

// begin fetches a segment of at least n numbers, as far as the bounds allow. Called with t.mu held.
func (s *Segments) begin(t *tagged, n int64) {
	step := min(max(t.step, n), s.cfg.StepMax)
	done := make(chan struct{})
	t.fetch = done
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, claimTime/2)
		defer cancel()
		first, err := s.source.take(ctx, t.tag, step)
		if err == nil && (first < 1 || first > math.MaxInt64/2-step) {
			err = errors.New("the numbers of the tag are used up, or were set by another hand")
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		defer close(done)
		t.fetch = nil
		if err != nil {
			if t.err == nil && s.ctx.Err() == nil {
				s.log.Error("no new numbers can be had for a tag", "tag", t.tag, "error", err)
			}
			t.err, t.errAt = unavailable("no new numbers can be had now", err).After(time.Second), time.Now()
			return
		}
		t.err = nil
		t.after = &segment{first: first, end: first + step}
		t.after.next.Store(first)
	})
}

// Close ends the giving of numbers and gives what is left of each tag back to the store, where no other process has taken any meanwhile; what
// cannot be given back is lost, as after a crash. It takes as long as the store does, and no longer than ctx. Later calls return nil.
func (s *Segments) Close(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "id.Segments.Close")
	if s.closed.Swap(true) {
		return nil
	}
	defer s.stop()
	stopFetches := context.AfterFunc(ctx, s.stop)
	defer stopFetches()
	s.tags.Range(func(_, v any) bool {
		t := v.(*tagged)
		t.mu.Lock() // once: nobody begins a fetch after it
		t.mu.Unlock()
		return true
	})
	s.tasks.Wait()
	var all []error
	s.tags.Range(func(_, v any) bool {
		t := v.(*tagged)
		t.mu.Lock()
		defer t.mu.Unlock()
		g := t.now.Load()
		// Nobody takes a number after the swap: whoever adds to it finds himself beyond the end.
		first, end := min(g.next.Swap(math.MaxInt64/2), g.end), g.end
		if a := t.after; a != nil {
			switch {
			case first == end || end == 0: // nothing is left of the one before
				first, end = a.first, a.end
			case a.first == end:
				end = a.end
			default: // others took numbers between the two: only the later one can go back
				first, end = a.first, a.end
			}
			t.after = nil
		}
		if first < end {
			if err := s.source.giveBack(ctx, t.tag, first, end); err != nil {
				all = append(all, err)
			}
		}
		return ctx.Err() == nil
	})
	return errors.Join(all...)
}
