package tally

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

func TestOutcomesOfErrors(t *testing.T) {
	for code, want := range map[levee.Code]Outcome{levee.CodeSoldOut: SoldOut, levee.CodeLimitReached: LimitReached, levee.CodeNotOpen: NotOpen,
		levee.CodeEnded: NotOpen, levee.CodePaused: Paused, levee.CodeAdmissionMissing: Admission, levee.CodeAdmissionInvalid: Admission,
		levee.CodeAdmissionExpired: Admission, levee.CodeUnavailable: Unavailable, levee.CodeNotWarmed: Unavailable, levee.CodeDrawOnly: Other,
		levee.CodeIdempotencyRunning: Other, levee.CodeInvalid: Other, levee.CodeForbidden: Other} {
		if got := Of(levee.E(code, "x")); got != want {
			t.Errorf("%s is outcome %d, want %d", code, got, want)
		}
	}
	if Of(nil) != Won {
		t.Error("no error is not won")
	}
}

// Every microsecond has a bucket that ends at or after it and at most a quarter above it.
func TestBuckets(t *testing.T) {
	last := 0
	for us := int64(0); us <= latencyMost; us += 1 + us/997 {
		b := bucketOf(us)
		if b < last || b >= latencyBuckets {
			t.Fatalf("%d µs is in bucket %d, after %d", us, b, last)
		}
		last = b
		if end := bucketEnd(b); end < us || end > us+us/4 {
			t.Fatalf("%d µs is in a bucket that ends at %d", us, end)
		}
	}
	if bucketOf(latencyMost) >= latencyBuckets {
		t.Fatal("the longest time has no bucket")
	}
}

func TestQuantiles(t *testing.T) {
	var l latency
	if got := l.read(); got != (Latency{}) {
		t.Fatalf("of nothing: %+v", got)
	}
	r := rand.New(rand.NewPCG(1, 1))
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		all = append(all, d)
		l.add(d)
	}
	slices.Sort(all)
	got := l.read()
	for _, q := range []struct {
		name  string
		exact time.Duration
		told  time.Duration
	}{{"p50", all[10_000], got.P50}, {"p90", all[18_000], got.P90}, {"p99", all[19_800], got.P99}} {
		if q.told < q.exact-time.Microsecond || q.told > q.exact*5/4+time.Microsecond {
			t.Errorf("%s is %s, told as %s", q.name, q.exact, q.told)
		}
	}
	if most := all[len(all)-1].Truncate(time.Microsecond); got.Max != most || got.Answers != 20_000 {
		t.Errorf("max %s of %d, want %s of 20000", got.Max, got.Answers, most)
	}
	l.add(-time.Second)
	l.add(24 * time.Hour)
	if got := l.read(); got.Max != latencyMost*time.Microsecond {
		t.Errorf("a time beyond the last bucket is told as %s", got.Max)
	}
}

// What is older than ten seconds is forgotten, and nothing younger.
func TestLatencyForgets(t *testing.T) {
	var l latency
	l.add(time.Second)
	for turn := range latencySlots {
		if got := l.read(); got.Answers != 1 || got.Max != time.Second {
			t.Fatalf("after %d s: %+v", turn, got)
		}
		l.turn()
	}
	if got := l.read(); got != (Latency{}) {
		t.Fatalf("after ten seconds: %+v", got)
	}
}

func TestCountersBesideEachOther(t *testing.T) {
	var s Sale
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				s.Refused(SoldOut)
				began := s.Begin()
				s.Answered(began)
				s.End(Won)
			}
		})
	}
	wg.Wait()
	svc := New(Deps{Obs: obs.Test(t)})
	_, p, err := svc.point(t.Context(), &watched{source: Source{Tally: &s, State: func(context.Context) (State, error) { return State{}, nil }}}, time.Now())
	if err != nil || p.Attempts != 16_000 || p.Outcomes[SoldOut] != 8000 || p.Outcomes[Won] != 8000 || p.Latency.Answers != 8000 || s.RefusedFast() != 8000 {
		t.Fatalf("%+v, %v", p, err)
	}
}

// An hour of a sale, second by second: the history holds the last ten minutes, rates are those of the last second, and a sale that
// sleeps costs nothing.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Deps{Obs: obs.Test(t)})
		s.Obs.Clock = time.Now
		var sale Sale
		var awake atomic.Bool
		var reads atomic.Int64
		awake.Store(true)
		s.Follow(Source{Public: "sal_1", Tally: &sale, Awake: func(time.Time) bool { return awake.Load() },
			State: func(context.Context) (State, error) { reads.Add(1); return State{Phase: "open"}, nil },
			Queue: func() Queue { return Queue{Waiting: 7} }, Line: func() Line { return Line{Offered: 2} }})
		again := Source{Public: "sal_1", Tally: new(Sale)}
		s.Follow(again)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		w := (*s.sales.Load())["sal_1"]
		for second := range 3600 {
			for range 10 {
				sale.Refused(SoldOut)
			}
			sale.Settled(3)
			time.Sleep(time.Second)
			synctest.Wait()
			if second == 99 {
				if n := len(w.series()); n != 100 {
					t.Fatalf("after 100 seconds the history has %d points", n)
				}
			}
		}
		series := w.series()
		if len(series) != historyPoints {
			t.Fatalf("the history has %d points", len(series))
		}
		for i := 1; i < len(series); i++ {
			if d := series[i].At.Sub(series[i-1].At); d != time.Second {
				t.Fatalf("point %d comes %s after the one before", i, d)
			}
		}
		last := series[len(series)-1]
		if last.Attempts != 36_000 || last.AttemptsRate != 10 || last.OrdersRate != 3 ||
			last.Queue.Waiting != 7 || last.Line.Offered != 2 {
			t.Fatalf("the newest point is %+v", last)
		}
		awake.Store(false)
		reads.Store(0)
		time.Sleep(time.Minute)
		synctest.Wait()
		if reads.Load() != 0 || len(w.series()) != historyPoints {
			t.Fatalf("a sale that sleeps was read %d times", reads.Load())
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
