package cache

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/platform/obs"
)

// However many values are past their soft end, as many loads run in the background as Refreshes says, and nobody waits.
func TestRefreshesAreBounded(t *testing.T) {
	for _, how := range []string{"one by one", "many"} {
		t.Run(how, func(t *testing.T) {
			addr := startServer(t).addr()
			const keys = 60
			s := node[int64](t, addr, SharedConfig{Soft: time.Millisecond, Refreshes: 2, MaxLoad: time.Minute, Config: Config{TTL: time.Millisecond}})
			fresh := func(context.Context, int) (int64, int64, error) { return 1, 1, nil }
			for k := range keys {
				if _, err := s.Get(background, k, fresh); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Millisecond)
			gate := make(chan struct{})
			open := sync.OnceFunc(func() { close(gate) })
			defer open() // or a test that fails would not end
			var under, most atomic.Int64
			slow := func(context.Context, int) (int64, int64, error) {
				raise(&most, under.Add(1))
				defer under.Add(-1)
				<-gate
				return 2, 2, nil
			}
			slowMany := func(ctx context.Context, keys []int) (map[int]Many[int64], error) {
				v, ver, err := slow(ctx, 0)
				got := map[int]Many[int64]{}
				for _, k := range keys {
					got[k] = Many[int64]{v, ver}
				}
				return got, err
			}
			read := func(k int) (v int64, err error) {
				if how == "many" {
					got, err := s.GetMany(background, []int{k}, slowMany)
					return got[k], err
				}
				return s.Get(background, k, slow)
			}
			for k := range keys {
				if v, err := read(k); v != 1 || err != nil {
					t.Fatalf("%d, %v", v, err)
				}
			}
			eventually(t, "two are loaded", func() bool { return under.Load() == 2 })
			open()
			if most.Load() > 2 {
				t.Errorf("%d loads at a time in the background, want 2", most.Load())
			}
			eventually(t, "all are renewed", func() bool {
				done := 0
				for k := range keys {
					if v, _ := read(k); v == 2 {
						done++
					}
				}
				return done == keys
			})
		})
	}
}

// One process loads a value past its soft end for all, also when that takes longer than others would wait for a value that is not there.
func TestOneRefreshOverProcesses(t *testing.T) {
	addr := startServer(t).addr()
	cfg := SharedConfig{Soft: 20 * time.Millisecond, MaxLoad: time.Minute, Config: Config{TTL: time.Millisecond}}
	nodes := []*Shared[int, int64]{node[int64](t, addr, cfg), node[int64](t, addr, cfg), node[int64](t, addr, cfg)}
	var version, begun atomic.Int64
	version.Store(1)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	load := func(context.Context, int) (int64, int64, error) {
		if begun.Add(1) > 1 {
			<-gate
		}
		return version.Load(), version.Load(), nil
	}
	if _, err := nodes[0].Get(background, 1, load); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond)
	version.Store(2)
	for end := time.Now().Add(3 * leaseMost); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for i, s := range nodes {
			if v, err := s.Get(background, 1, load); v != 1 || err != nil {
				t.Fatalf("node %d: %d, %v", i, v, err)
			}
		}
	}
	if n := begun.Load(); n != 2 {
		t.Errorf("%d loads of one value by three processes while one is under way, want 1 beside the first", n-1)
	}
	open()
	for _, s := range nodes {
		eventually(t, "it is renewed", func() bool { v, err := s.Get(background, 1, load); return v == 2 && err == nil })
	}
}

// Of many keys those past their soft end are loaded with one call, and no others.
func TestManyAreRefreshedTogether(t *testing.T) {
	addr := startServer(t).addr()
	cfg := SharedConfig{Soft: 50 * time.Millisecond, MaxLoad: time.Minute, Config: Config{TTL: time.Millisecond}}
	a, b := node[int64](t, addr, cfg), node[int64](t, addr, cfg)
	asked := make(chan []int, 100)
	load := func(_ context.Context, keys []int) (map[int]Many[int64], error) {
		slices.Sort(keys)
		asked <- keys
		got := map[int]Many[int64]{}
		for _, k := range keys {
			got[k] = Many[int64]{int64(k), 1}
		}
		return got, nil
	}
	read := func(s *Shared[int, int64], keys ...int) {
		t.Helper()
		if got, err := s.GetMany(background, keys, load); len(got) != len(keys) || err != nil {
			t.Fatal(got, err)
		}
	}
	read(a, 1, 2, 3)
	<-asked
	time.Sleep(70 * time.Millisecond)
	read(a, 4)
	<-asked
	read(b, 1, 2, 3, 4)
	if got := fmt.Sprint(<-asked); got != "[1 2 3]" {
		t.Errorf("renewed are %v", got)
	}
}

// With one level a copy is loaded anew before its end, once, and never used after it.
func TestOneLevelLoadsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShared[int, int](SharedConfig{Config: Config{TTL: 10 * time.Second}}, nil, obs.Test(t))
		defer s.Close()
		var calls atomic.Int64
		var slow atomic.Bool
		load := func(ctx context.Context, _ int) (int, int64, error) {
			n := calls.Add(1)
			if slow.Load() {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return 0, 0, ctx.Err()
				}
			}
			return int(n), 1, nil
		}
		get := func(want int, loads int64) {
			t.Helper()
			v, err := s.Get(t.Context(), 1, load)
			synctest.Wait()
			if v != want || err != nil || calls.Load() != loads {
				t.Errorf("%d, %v after %d loads; want %d after %d", v, err, calls.Load(), want, loads)
			}
		}
		time.Sleep(time.Second)
		get(1, 1)
		time.Sleep(7 * time.Second) // a copy lives from 9 to 10 s, and is loaded ahead from 7.2 to 8 s on
		get(1, 1)
		time.Sleep(1100 * time.Millisecond)
		slow.Store(true)
		for range 5 {
			get(1, 2) // served, and loaded once
		}
		time.Sleep(1010 * time.Millisecond)
		slow.Store(false)
		get(2, 2)
		time.Sleep(11 * time.Second)
		get(3, 3) // past its end it is not used
	})
}

// Copies that were made together end apart, none later than its TTL.
func TestLifetimesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShared[int, int](SharedConfig{Config: Config{TTL: time.Minute}}, nil, obs.Test(t))
		defer s.Close()
		const keys = 1000
		least, most := time.Hour, time.Duration(0)
		now := s.clock.NowNano()
		for k := range keys {
			if _, err := s.Get(t.Context(), k, func(context.Context, int) (int, int64, error) { return 1, 1, nil }); err != nil {
				t.Fatal(err)
			}
			e, _ := s.first.GetEntryQuietly(k)
			life := time.Duration(e.Value.until - now)
			least, most = min(least, life), max(most, life)
		}
		if least < 54*time.Second || most > time.Minute || most-least < 5*time.Second {
			t.Errorf("lifetimes from %v to %v, want them spread from 54 s to 1 m", least, most)
		}
	})
}

// A load in the background that panics costs one load, not the process.
func TestPanicInTheBackground(t *testing.T) {
	s := node[int64](t, startServer(t).addr(), SharedConfig{Soft: time.Millisecond, Sample: 1, Config: Config{TTL: time.Millisecond}})
	s.sampleAfter = time.Millisecond
	load := func(context.Context, int) (int64, int64, error) { return 1, 1, nil }
	if _, err := s.Get(background, 1, load); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	var calls atomic.Int64
	if v, err := s.Get(background, 1, func(context.Context, int) (int64, int64, error) { calls.Add(1); panic("bug") }); v != 1 || err != nil {
		t.Fatal(v, err)
	}
	eventually(t, "it was called to renew and to look", func() bool { return calls.Load() == 2 })
	if v, err := s.Get(background, 1, load); v != 1 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
}
