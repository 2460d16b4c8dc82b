package id

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// slowSource is a source in memory that takes its time, and fails when told.
type slowSource struct {
	mu    sync.Mutex
	next  map[string]int64
	took  time.Duration
	away  atomic.Bool
	calls atomic.Int64
}

func (s *slowSource) take(ctx context.Context, tag string, n int64) (int64, error) {
	s.calls.Add(1)
	select {
	case <-time.After(s.took):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if s.away.Load() {
		return 0, errAway
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.next[tag] + 1
	s.next[tag] += n
	return first, nil
}

// taken is the last number taken of a tag.
func (s *slowSource) taken(tag string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next[tag]
}

func (s *slowSource) giveBack(_ context.Context, tag string, first, end int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next[tag] == end-1 {
		s.next[tag] = first - 1
	}
	return nil
}

func newSegments(t testing.TB, cfg SegmentsConfig, from source) *Segments {
	t.Helper()
	cfg.DB = new(db.DB) // not used
	s, err := OpenSegments(cfg, quiet(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	s.source = from
	return s
}

// Leaf issue 143: a thousand callers, steps of 100, a source that takes 5 ms. Nobody is told that the segments are not ready; every number
// from 1 on is given once; and the source is hardly asked more often than there are segments.
func TestSegmentsUnderACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &slowSource{next: map[string]int64{}, took: 5 * time.Millisecond}
		s := newSegments(t, SegmentsConfig{StepMin: 100, StepMax: 100}, from)
		const callers, each = 1000, 50
		got := make([][]int64, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for range each {
					n, err := s.Next(t.Context(), "coupon")
					if err != nil {
						t.Error(err)
						return
					}
					got[i] = append(got[i], n)
				}
			})
		}
		wg.Wait()
		var all []int64
		for _, list := range got {
			if !slices.IsSorted(list) {
				t.Error("the numbers of one caller do not rise")
			}
			all = append(all, list...)
		}
		slices.Sort(all)
		for i, n := range all {
			if n != int64(i+1) {
				t.Fatalf("the %dth number is %d", i+1, n)
			}
		}
		if calls := from.calls.Load(); len(all) != callers*each || calls > callers*each/100+2 {
			t.Errorf("%d numbers with %d calls", len(all), calls)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if left := from.taken("coupon"); left != callers*each {
			t.Errorf("after a clean stop %d numbers are taken, %d were given", left, callers*each)
		}
		if _, err := s.Next(t.Context(), "coupon"); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("after Close: %v", err)
		}
	})
}

// The step follows the use, within its bounds; the next segment is there before the one in use ends; a crash wastes two segments at most.
func TestSegmentsAdapt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &slowSource{next: map[string]int64{}, took: time.Millisecond}
		s := newSegments(t, SegmentsConfig{StepMin: 10, StepMax: 1000, Aim: time.Second}, from)
		step := func() int64 {
			v, _ := s.tags.Load("x")
			tag := v.(*tagged)
			tag.mu.Lock()
			defer tag.mu.Unlock()
			return tag.step
		}
		last := int64(0)
		run := func(n int, pause time.Duration) (longest time.Duration) {
			for range n {
				began := time.Now()
				id, err := s.Next(t.Context(), "x")
				if err != nil || id != last+1 {
					t.Fatalf("%d after %d, %v", id, last, err)
				}
				last = id
				longest = max(longest, time.Since(began))
				time.Sleep(pause)
			}
			return longest
		}
		run(20_000, 100*time.Microsecond)
		if got := step(); got != 1000 {
			t.Errorf("10,000 a second: the step is %d, want the most", got)
		}
		if waited := run(5000, 100*time.Microsecond); waited != 0 {
			t.Errorf("a caller waited %v although the next segment was fetched ahead", waited)
		}
		if waste := from.taken("x") - last; waste > 2*1000 {
			t.Errorf("a crash would waste %d numbers", waste)
		}
		run(3000, 100*time.Millisecond)
		if got := step(); got >= 1000 || got < 10 {
			t.Errorf("10 a second: the step is %d", got)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		// The control: without looking ahead, somebody waits at each end of a segment.
		s = newSegments(t, SegmentsConfig{StepMin: 1, StepMax: 1}, from)
		last = from.taken("x")
		if waited := run(10, 0); waited == 0 {
			t.Error("with steps of one nobody waited: the clock of this test does not tell")
		}
		_ = s.Close(t.Context())
	})
}

// The source is away: numbers go on to the end of what is in hand, callers wait as long as their context says, and all is well again after.
func TestSegmentsAndASourceThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &slowSource{next: map[string]int64{}, took: time.Millisecond}
		s := newSegments(t, SegmentsConfig{StepMin: 100, StepMax: 100}, from)
		if _, err := s.Next(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		from.away.Store(true)
		given := 1
		var err error
		for range 1000 {
			if _, err = s.Next(t.Context(), "x"); err != nil {
				break
			}
			given++
		}
		var e *levee.Error
		if given != 100 || !errors.As(err, &e) || e.Code != levee.CodeUnavailable || e.RetryAfter <= 0 || !errors.Is(err, errAway) {
			t.Errorf("%d numbers, then %v", given, err)
		}
		from.away.Store(false)
		time.Sleep(writePause)
		if n, err := s.Next(t.Context(), "x"); err != nil || n != 101 {
			t.Errorf("%d, %v", n, err)
		}
		from.took = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := s.Next(ctx, "y"); levee.CodeOf(err) != levee.CodeUnavailable || time.Since(began) != 50*time.Millisecond {
			t.Errorf("a source that hangs: %v after %v", err, time.Since(began))
		}
		began = time.Now()
		if _, err := s.Next(t.Context(), "y"); levee.CodeOf(err) != levee.CodeUnavailable || time.Since(began) > 11*time.Second {
			t.Errorf("a source that hangs, and no deadline: %v after %v", err, time.Since(began))
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
}

func TestSegmentsRefuse(t *testing.T) {
	s := newSegments(t, SegmentsConfig{Tags: 3}, &slowSource{next: map[string]int64{}})
	defer s.Close(t.Context())
	for _, tag := range []string{"", " ", "a b", "ä", "a\x00", "\xff", "-a", "a\n", "a'", "a{b}", strings.Repeat("a", 101), strings.Repeat("a", 1<<20)} {
		var e *levee.Error
		if _, err := s.Next(t.Context(), tag); !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != "tag" || len(err.Error()) > 500 {
			t.Errorf("tag %.20q: %v", tag, err)
		}
		if err := s.NextN(t.Context(), tag, make([]int64, 2)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("tag %.20q: %v", tag, err)
		}
	}
	for i := range 3 {
		if _, err := s.Next(t.Context(), fmt.Sprint("tag-", i)); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Next(t.Context(), "one-too-many"); levee.CodeOf(err) != levee.CodeTooLarge {
		t.Errorf("one tag too many: %v", err)
	}
	for _, c := range []SegmentsConfig{{}, {DB: new(db.DB), StepMin: -1}, {DB: new(db.DB), StepMin: 10, StepMax: 5}, {DB: new(db.DB), StepMax: math.MaxInt64}, {DB: new(db.DB), Aim: -1},
		{DB: new(db.DB), Aim: time.Nanosecond}, {DB: new(db.DB), Tags: -1}} {
		if _, err := OpenSegments(c, quiet(time.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Over the real stores: several processes share a tag, each number is given once and none is left out but what a process that died had in
// hand; a clean stop gives back.
func TestSegmentsOfStores(t *testing.T) {
	stores := map[string]func(t *testing.T) SegmentsConfig{
		"sql":   func(t *testing.T) SegmentsConfig { return SegmentsConfig{DB: openWorld(t).d} },
		"redis": func(t *testing.T) SegmentsConfig { return SegmentsConfig{Redis: testRedis(t)} },
	}
	for name, config := range stores {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.StepMin, cfg.StepMax = 7, 100
			var mu sync.Mutex
			var all []int64
			var wg sync.WaitGroup
			open := make([]*Segments, 3)
			for i := range open {
				var err error
				if open[i], err = OpenSegments(cfg, quiet(time.Now)); err != nil {
					t.Fatal(err)
				}
				for range 4 {
					wg.Go(func() {
						var got []int64
						for k := range 100 {
							dst := make([]int64, 1+k%5)
							if err := open[i].NextN(t.Context(), "invoice/2026", dst); err != nil {
								t.Error(err)
								return
							}
							got = append(got, dst...)
						}
						mu.Lock()
						defer mu.Unlock()
						all = append(all, got...)
					})
				}
			}
			wg.Wait()
			slices.Sort(all)
			if n := len(all); n != 3*4*300 || duplicates(all) != 0 || all[0] != 1 || all[n-1] > int64(n)+3*200 {
				t.Errorf("%d numbers from %d to %d, %d twice", n, all[0], all[n-1], duplicates(all))
			}
			for _, s := range open {
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			// One process alone leaves no gap over a clean stop, and one of at most two segments over a crash.
			last := int64(0)
			for life := range 4 {
				s, err := OpenSegments(cfg, quiet(time.Now))
				if err != nil {
					t.Fatal(err)
				}
				for range 30 {
					n, err := s.Next(t.Context(), "alone")
					if err != nil || n <= last || life != 2 && n != last+1 || n > last+200 {
						t.Fatalf("life %d: %d after %d, %v", life, n, last, err)
					}
					last = n
				}
				if life == 1 {
					s.tasks.Wait() // a crash: nothing is given back
				} else if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func BenchmarkSegments(b *testing.B) {
	s := newSegments(b, SegmentsConfig{StepMin: 10_000, StepMax: 1_000_000}, &slowSource{next: map[string]int64{}})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Next(context.Background(), "x"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
