package cache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"

	"levee"
)

// air is a bus in memory, with what a test wants to know of it.
type air struct {
	mu       sync.Mutex // guards the rest
	nodes    []member
	messages [][]byte
	deaf     bool
}

type member struct {
	hear func([]byte)
	lost func()
}

func (a *air) join(_ string, hear func([]byte), lost func()) func([]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	me := len(a.nodes)
	a.nodes = append(a.nodes, member{hear, lost})
	return func(p []byte) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.messages = append(a.messages, p)
		for i, n := range a.nodes {
			if i != me && !a.deaf {
				n.hear(p)
			}
		}
	}
}

func (a *air) sent() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.messages)
}

func TestBus(t *testing.T) {
	test := func(t *testing.T, first, second Bus, lose func()) {
		o := quiet(t)
		cfg := Config{Name: "bus", TTL: time.Hour}
		cfg.Bus = first
		a := New[levee.ProductID, int64](cfg, o)
		cfg.Bus = second
		b := New[levee.ProductID, int64](cfg, quiet(t))
		var truth atomic.Int64
		load := func(context.Context, levee.ProductID) (int64, error) { return truth.Load(), nil }
		// want is what b shows within seconds.
		want := func(what string, v int64) {
			t.Helper()
			eventually(t, what, func() bool {
				got, err := b.Get(background, 7, load)
				return got == v && err == nil
			})
		}
		time.Sleep(50 * time.Millisecond)
		want("a copy", 0)
		truth.Store(1)
		if v, _ := b.Get(background, 7, load); v != 0 {
			t.Fatal("the copy is not used: this test cannot see what it looks for")
		}
		a.Invalidate(7)
		want("one key", 1)
		truth.Store(2)
		a.InvalidateAll()
		want("all", 2)
		truth.Store(3)
		lose()
		want("what may have been lost", 3)
	}
	t.Run("in memory", func(t *testing.T) {
		var a air
		test(t, a.join, a.join, func() {
			for _, n := range a.nodes {
				n.lost()
			}
		})
		for _, n := range a.nodes { // what cannot be read may mean anything
			n.hear([]byte("nonsense"))
		}
	})
	t.Run("Redis", func(t *testing.T) {
		w := startWire(t, startServer(t).addr())
		test(t, connect(t, w.addr()).Bus, connect(t, w.addr()).Bus, w.cut)
	})
}

// Invalidations that come together are one message, with each key once; very many are one word.
func TestBusGathers(t *testing.T) {
	var a air
	c := New[int, int](Config{Bus: a.join}, quiet(t))
	for i := range 1000 {
		c.Invalidate(i % 10)
	}
	eventually(t, "a message", func() bool { return a.sent() > 0 })
	time.Sleep(20 * time.Millisecond)
	if n := a.sent(); n > 50 {
		t.Errorf("%d messages for 1000 invalidations of ten keys", n)
	}
	a.messages = nil
	many := make([]int, 5000)
	for i := range many {
		many[i] = i
	}
	c.Invalidate(many...)
	eventually(t, "a message", func() bool { return a.sent() > 0 })
	if got := string(a.messages[0]); got != `{"all":true}` {
		t.Errorf("%.100s", got)
	}
	c.Invalidate()
	time.Sleep(20 * time.Millisecond)
	if n := a.sent(); n != 1 {
		t.Errorf("%d messages, want 1: nothing was said", n)
	}
}

func TestSharedHitDoesNotAllocate(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		s := node[int64](t, addr, SharedConfig{})
		var d table
		d.version[1].Store(1)
		load := d.load
		_, _ = s.Get(background, 1, load)
		_, _ = s.Get(background, 1, load)
		if n := testing.AllocsPerRun(1000, func() { _, _ = s.Get(background, 1, load) }); n != 0 {
			t.Errorf("a hit allocates %v times", n)
		}
	})
}

// What a hit costs, beside the library alone.
func BenchmarkHit(b *testing.B) {
	value := func(_ context.Context, k int) (int64, error) { return int64(k), nil }
	run := func(name string, get func(k int)) {
		b.Run(name, func(b *testing.B) {
			for k := range 4096 {
				get(k)
				get(k)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					get(i & 4095)
				}
			})
		})
	}
	clock := newCoarse()
	ctx, stop := context.WithCancel(background)
	defer stop()
	go clock.run(ctx)
	for name, c := range map[string]otter.Clock{"otter": monotonic{time.Now()}, "otter, coarse clock": clock} {
		bare := otter.Must(&otter.Options[int, int64]{MaximumSize: 10_000, ExpiryCalculator: otter.ExpiryWriting[int, int64](time.Hour), Clock: c})
		for k := range 4096 {
			bare.Set(k, 1)
		}
		run(name, func(k int) { _, _ = bare.GetIfPresent(k) })
	}
	c := New[int, int64](Config{TTL: time.Hour}, quiet(b))
	run("Cache", func(k int) { _, _ = c.Get(background, k, value) })
	var a air
	told := New[int, int64](Config{TTL: time.Hour, Bus: a.join}, quiet(b))
	run("Cache with a bus", func(k int) { _, _ = told.Get(background, k, value) })
	load := func(_ context.Context, k int) (int64, int64, error) { return int64(k), 1, nil }
	one := node[int64](b, "", SharedConfig{Config: Config{TTL: time.Hour}})
	run("Shared, one level", func(k int) { _, _ = one.Get(background, k, load) })
	two := node[int64](b, startServer(b).addr(), SharedConfig{Config: Config{TTL: time.Hour}, MaxLoad: time.Minute})
	run("Shared, two levels", func(k int) { _, _ = two.Get(background, k, load) })
}

// What the second level costs: through the pool, gathered into pipelines, and many keys at once.
func BenchmarkSecondLevel(b *testing.B) {
	type row struct {
		Title, Text string
		Price, ID   int64
	}
	s := node[row](b, startServer(b).addr(), SharedConfig{})
	load := func(_ context.Context, k int) (row, int64, error) {
		return row{Title: fmt.Sprint("Kettle ", k), Text: fmt.Sprintf("%0120d", k), Price: 4900, ID: int64(k)}, 1, nil
	}
	const keys = 2000
	for k := range keys {
		if _, err := s.Get(Strict(background), k, load); err != nil {
			b.Fatal(err)
		}
	}
	e, _ := s.remote.settled(background)
	for _, callers := range []int{2, 64, 512} {
		each := func(name string, get func(k int) error) {
			b.Run(fmt.Sprintf("%s/%d callers", name, callers), func(b *testing.B) {
				b.SetParallelism(callers / 2)
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						if err := get(i % keys); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
		each("pool GET", func(k int) error {
			return s.remote.c.UniversalClient().Get(background, s.remote.keys(e, fmt.Sprint(k))[0]).Err()
		})
		each("gathered GET", func(k int) error {
			return s.remote.c.Fast().Get(background, s.remote.keys(e, fmt.Sprint(k))[0]).Err()
		})
		each("Strict Get", func(k int) error { _, err := s.Get(Strict(background), k, load); return err })
	}
	var list []int
	for k := range 100 {
		list = append(list, k)
	}
	b.Run("Strict GetMany of 100, per key", func(b *testing.B) {
		for i := 0; i < b.N; i += len(list) {
			if got, err := s.GetMany(Strict(background), list, nil); err != nil || len(got) != len(list) {
				b.Fatal(len(got), err)
			}
		}
	})
}
