package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

var background = context.Background()

// constant returns a load that returns v and counts its calls.
func constant[V any](v V, calls *atomic.Int64) func(context.Context, int) (V, error) {
	return func(context.Context, int) (V, error) {
		calls.Add(1)
		return v, nil
	}
}

func TestValidate(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero config: %v", err)
	}
	for field, cfg := range map[string]Config{
		"cache.entries":      {Entries: -1},
		"cache.ttl":          {TTL: -time.Second},
		"cache.negative_ttl": {TTL: time.Second, NegativeTTL: 2 * time.Second},
		"cache.spread":       {Spread: math.NaN()},
	} {
		var e *levee.Error
		if err := cfg.Validate(); !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != field {
			t.Errorf("%+v: %v, want %s", cfg, err, field)
		}
		var n atomic.Int64
		c := New[int, int](cfg, obs.Test(t)) // and works all the same
		if v, err := c.Get(background, 1, constant(7, &n)); v != 7 || err != nil {
			t.Errorf("%+v: %d, %v", cfg, v, err)
		}
	}
}

func TestOneLoadPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New[int, int](Config{}, obs.Test(t))
		var calls atomic.Int64
		release := make(chan struct{})
		load := func(_ context.Context, k int) (int, error) {
			calls.Add(1)
			<-release
			return k * 10, nil
		}
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				if v, err := c.Get(t.Context(), i%3, load); v != i%3*10 || err != nil {
					t.Errorf("%d: %d, %v", i%3, v, err)
				}
			})
		}
		synctest.Wait() // all wait: three for release, the others for them
		if n := calls.Load(); n != 3 {
			t.Errorf("%d loads under way for 3 keys", n)
		}
		close(release)
		wg.Wait()
		for k := range 3 {
			if v, err := c.Get(t.Context(), k, load); v != k*10 || err != nil {
				t.Errorf("%d: %d, %v", k, v, err)
			}
		}
		if n := calls.Load(); n != 3 {
			t.Errorf("%d loads, want 3", n)
		}
	})
}

func TestAbsenceIsKeptForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New[int, string](Config{TTL: time.Hour, NegativeTTL: 10 * time.Second}, obs.Test(t))
		var calls int
		absent := func(context.Context, int) (_ string, err error) {
			calls++
			defer levee.Wrap(&err, "catalog.ByID")
			return "half a value", levee.E(levee.CodeNotFound, "no such product").With("seen", "1")
		}
		for i := range 3 {
			v, err := c.Get(t.Context(), 1, absent)
			var e *levee.Error
			if v != "" || !errors.As(err, &e) || e.Code != levee.CodeNotFound || e.Message != "no such product" || e.Data["seen"] != "1" {
				t.Fatalf("%d: %q, %v", i, v, err)
			}
			_ = e.With("seen", "2").After(time.Second) // one caller's change must not reach the others
			e.Message = "changed"
		}
		if calls != 1 {
			t.Errorf("%d loads, want 1", calls)
		}
		time.Sleep(10 * time.Second)
		if _, err := c.Get(t.Context(), 1, absent); levee.CodeOf(err) != levee.CodeNotFound || calls != 2 {
			t.Errorf("after its time: %v, %d loads", err, calls)
		}
		// What is created and invalidated is seen at once.
		c.Invalidate(1)
		var n atomic.Int64
		if v, err := c.Get(t.Context(), 1, constant("made", &n)); v != "made" || err != nil {
			t.Errorf("after its creation: %q, %v", v, err)
		}
	})
}

func TestErrorsAreNotKept(t *testing.T) {
	c := New[int, int](Config{}, obs.Test(t))
	for _, want := range []error{
		io.ErrUnexpectedEOF, levee.E(levee.CodeUnavailable, "away").After(time.Second), context.DeadlineExceeded,
	} {
		var n atomic.Int64
		_, err := c.Get(background, 1, func(context.Context, int) (int, error) { return 5, want })
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if v, err := c.Get(background, 1, constant(6, &n)); v != 6 || err != nil || n.Load() != 1 {
			t.Errorf("after %v: %d, %v", want, v, err)
		}
		c.Invalidate(1)
	}
}

func TestContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New[int, int](Config{}, obs.Test(t))
		stuck := func(ctx context.Context, _ int) (int, error) {
			<-ctx.Done()
			return 0, fmt.Errorf("query: %w", ctx.Err())
		}
		first, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Get(first, 1, stuck); !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		var n atomic.Int64
		wg.Go(func() { // waits for the first's load, and must not inherit its end
			if v, err := c.Get(t.Context(), 1, constant(8, &n)); v != 8 || err != nil {
				t.Errorf("the second: %d, %v", v, err)
			}
		})
		wg.Go(func() { // waits no longer than it wants to
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := c.Get(ctx, 1, constant(8, &n)); levee.CodeOf(err) != levee.CodeTimeout {
				t.Errorf("the third: %v", err)
			}
		})
		synctest.Wait()
		time.Sleep(2 * time.Second)
		giveUp()
		wg.Wait()
		if n.Load() != 1 {
			t.Errorf("%d loads, want 1", n.Load())
		}
		if v, err := c.Get(first, 1, stuck); v != 8 || err != nil {
			t.Errorf("a copy for a caller whose time is up: %d, %v", v, err)
		}
	})
}

func TestPanicDoesNotBlockTheKey(t *testing.T) {
	c := New[int, int](Config{}, obs.Test(t))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not reach the caller")
			}
		}()
		_, _ = c.Get(background, 1, func(context.Context, int) (int, error) { panic("bug") })
	}()
	var n atomic.Int64
	if v, err := c.Get(background, 1, constant(3, &n)); v != 3 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
}

// Copies made together end apart, none later than its TTL and none earlier than Spread allows.
func TestLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, ttl = 1000, 100 * time.Second
		c := New[int, time.Time](Config{TTL: ttl, Spread: 0.2, Entries: 10 * keys}, obs.Test(t))
		load := func(context.Context, int) (time.Time, error) { return time.Now(), nil }
		begin := time.Now()
		for k := range keys {
			_, _ = c.Get(t.Context(), k, load)
		}
		var ended []int // keys reloaded by second
		for s := range 101 {
			n := 0
			for k := range keys {
				if at, _ := c.Get(t.Context(), k, load); at.Equal(time.Now()) && s > 0 {
					n++
				}
			}
			ended = append(ended, n)
			time.Sleep(time.Second)
		}
		for s, n := range ended {
			if d := time.Duration(s) * time.Second; n > 0 && d < 80*time.Second {
				t.Errorf("%d copies ended after %v", n, d)
			}
			if n > keys/8 { // evenly it is a twentieth
				t.Errorf("%d copies ended in one second", n)
			}
		}
		for k := range keys {
			if at, _ := c.Get(t.Context(), k, load); at.Equal(begin) {
				t.Fatalf("copy %d is used after its TTL", k)
			}
		}
	})
}

func TestBound(t *testing.T) {
	c := New[int, int](Config{Entries: 500}, obs.Test(t))
	for k := range 20_000 {
		v, err := c.Get(background, k, func(_ context.Context, k int) (int, error) { return k, nil })
		if v != k || err != nil {
			t.Fatal(v, err)
		}
	}
	c.entries.CleanUp()
	if n := c.entries.EstimatedSize(); n > 500 || n < 400 {
		t.Errorf("%d copies, want about 500", n)
	}
}

// cacher is what the tests of freshness ask of a cache.
type cacher interface {
	Get(ctx context.Context, k int, load func(context.Context, int) (int64, error)) (int64, error)
	Invalidate(keys ...int)
}

// aside is the usual cache-aside, with one loader per key: the negative control. It loses to a load that began before the
// change and ends after the deletion, and to callers who join such a load.
type aside struct {
	mu    sync.Mutex // guards both maps
	kept  map[int]int64
	loads map[int]*asideLoad
}

type asideLoad struct {
	done chan struct{}
	v    int64
	err  error
}

func newAside() *aside { return &aside{kept: map[int]int64{}, loads: map[int]*asideLoad{}} }

func (a *aside) Get(ctx context.Context, k int, load func(context.Context, int) (int64, error)) (int64, error) {
	a.mu.Lock()
	if v, ok := a.kept[k]; ok {
		a.mu.Unlock()
		return v, nil
	}
	f, ok := a.loads[k]
	if ok {
		a.mu.Unlock()
		<-f.done
		return f.v, f.err
	}
	f = &asideLoad{done: make(chan struct{})}
	a.loads[k] = f
	a.mu.Unlock()
	f.v, f.err = load(ctx, k)
	a.mu.Lock()
	delete(a.loads, k)
	if f.err == nil {
		a.kept[k] = f.v
	}
	a.mu.Unlock()
	close(f.done)
	return f.v, f.err
}

func (a *aside) Invalidate(keys ...int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range keys {
		delete(a.kept, k)
	}
}

// all makes every invalidation one of everything.
type all struct{ *Cache[int, int64] }

func (a all) Invalidate(...int) { a.InvalidateAll() }

// The history that breaks cache-aside, step by step: a load reads 1, the truth becomes 2, the key is invalidated, and only then
// the load ends.
func TestSlowReaderCannotPutTheOldValueBack(t *testing.T) {
	script := func(t *testing.T, c cacher) (joined, later int64) {
		var truth atomic.Int64
		truth.Store(1)
		release := make(chan struct{})
		var slow atomic.Bool
		slow.Store(true)
		load := func(context.Context, int) (int64, error) {
			v := truth.Load()
			if slow.CompareAndSwap(true, false) {
				<-release
			}
			return v, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.Get(t.Context(), 1, load) })
		synctest.Wait() // it has read 1
		truth.Store(2)
		c.Invalidate(1)
		// One more begins after the change and its invalidation, while the old load still runs.
		wg.Go(func() { joined, _ = c.Get(t.Context(), 1, load) })
		synctest.Wait()
		close(release)
		wg.Wait()
		later, _ = c.Get(t.Context(), 1, load)
		return joined, later
	}
	for _, tc := range []struct {
		name string
		make func(t *testing.T) cacher
		want int64
	}{
		{"Invalidate", func(t *testing.T) cacher { return New[int, int64](Config{}, obs.Test(t)) }, 2},
		{"InvalidateAll", func(t *testing.T) cacher { return all{New[int, int64](Config{}, obs.Test(t))} }, 2},
		{"control: cache-aside", func(*testing.T) cacher { return newAside() }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				joined, later := script(t, tc.make(t))
				if joined != tc.want || later != tc.want {
					t.Errorf("a reader after the change got %d, a later one %d, want %d", joined, later, tc.want)
				}
			})
		})
	}
}

// Many readers and one writer per key, judged by a rule that every linearizable cache obeys: a Get that begins after an
// Invalidate has returned sees that change or a later one, and a Get that begins after another has returned sees nothing older
// than that one saw. The control must break it, else the test proves nothing.
func TestFreshUnderStress(t *testing.T) {
	const keys, readers, writes = 4, 8, 800
	run := func(c cacher) (reads, stale int64) {
		var truth, floor [keys]atomic.Int64
		var readCount, staleCount atomic.Int64
		load := func(_ context.Context, k int) (int64, error) {
			v := truth[k].Load()
			runtime.Gosched() // the time between the database's answer and its arrival
			return v, nil
		}
		var writers, all sync.WaitGroup
		var stop atomic.Bool
		for k := range keys {
			writers.Go(func() {
				for range writes {
					v := truth[k].Add(1)
					c.Invalidate(k)
					raise(&floor[k], v)
					runtime.Gosched()
				}
			})
		}
		for r := range readers {
			all.Go(func() {
				for i := r; !stop.Load(); i++ {
					k := i % keys
					least := floor[k].Load()
					v, err := c.Get(background, k, load)
					if err != nil {
						panic(err)
					}
					readCount.Add(1)
					if v < least {
						staleCount.Add(1)
					}
					raise(&floor[k], v)
				}
			})
		}
		writers.Wait()
		stop.Store(true)
		all.Wait()
		return readCount.Load(), staleCount.Load()
	}
	for name, c := range map[string]cacher{
		"Invalidate":    New[int, int64](Config{}, obs.Test(t)),
		"small":         New[int, int64](Config{Entries: 2}, obs.Test(t)),
		"InvalidateAll": all{New[int, int64](Config{}, obs.Test(t))},
	} {
		reads, stale := run(c)
		t.Logf("%s: %d stale of %d reads", name, stale, reads)
		if stale != 0 {
			t.Errorf("%s: %d of %d reads were stale", name, stale, reads)
		}
	}
	for range 20 {
		if reads, stale := run(newAside()); stale > 0 {
			t.Logf("control: %d stale of %d reads", stale, reads)
			return
		}
	}
	t.Error("the control was never stale: this test cannot see what it looks for")
}

// raise sets a to v if that is more.
func raise(a *atomic.Int64, v int64) {
	for {
		old := a.Load()
		if old >= v || a.CompareAndSwap(old, v) {
			return
		}
	}
}

// Another key's copies and loads are none of an invalidation's business.
func TestInvalidateIsNarrow(t *testing.T) {
	c := New[int, int](Config{}, obs.Test(t))
	var n atomic.Int64
	for k := range 4 {
		_, _ = c.Get(background, k, constant(k, &n))
	}
	c.Invalidate(1, 2)
	c.Invalidate()
	c.Invalidate(99)
	for k := range 4 {
		_, _ = c.Get(background, k, constant(k, &n))
	}
	if n.Load() != 6 {
		t.Errorf("%d loads, want 6", n.Load())
	}
	c.InvalidateAll()
	for k := range 4 {
		_, _ = c.Get(background, k, constant(k, &n))
	}
	if n.Load() != 10 {
		t.Errorf("%d loads, want 10", n.Load())
	}
}

func TestMetrics(t *testing.T) {
	o := obs.Test(t)
	_ = New[int, int](Config{Name: "product"}, o) // an older one of the same name
	c := New[int, int](Config{Name: "product"}, o)
	_ = New[int, int](Config{Name: "sku"}, o)
	var n atomic.Int64
	for range 5 {
		_, _ = c.Get(background, 1, constant(1, &n)) // a miss, four hits
		_, _ = c.Get(background, 2, func(context.Context, int) (int, error) { return 0, levee.E(levee.CodeNotFound, "no") })
	}
	_, _ = c.Get(background, 3, func(context.Context, int) (int, error) { return 0, io.EOF })
	rec := httptest.NewRecorder()
	o.MetricsHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	lines := strings.Split(rec.Body.String(), "\n")
	for _, want := range []string{
		`levee_cache_hits_total{cache="product"} 8`, `levee_cache_misses_total{cache="product"} 3`,
		`levee_cache_absent_total{cache="product"} 5`, `levee_cache_entries_count{cache="product"} 2`,
		`levee_cache_evictions_total{cache="product"} 0`, `levee_cache_hits_total{cache="sku"} 0`,
		`levee_cache_load_seconds_count{cache="product",result="ok"} 2`,
		`levee_cache_load_seconds_count{cache="product",result="error"} 1`,
	} {
		if !slices.Contains(lines, want) {
			name, _, _ := strings.Cut(want, "{")
			t.Errorf("no line %s among %v", want, slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, name) }))
		}
	}
}

func TestHitDoesNotAllocate(t *testing.T) {
	c := New[int, string](Config{}, obs.Test(t))
	load := func(context.Context, int) (string, error) { return "v", nil }
	_, _ = c.Get(background, 1, load)
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Get(background, 1, load) }); n != 0 {
		t.Errorf("a hit allocates %v times", n)
	}
}

func BenchmarkGetHit(b *testing.B) {
	c := New[int, string](Config{}, obs.Test(b))
	load := func(context.Context, int) (string, error) { return "v", nil }
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			_, _ = c.Get(background, i&4095, load)
		}
	})
}
