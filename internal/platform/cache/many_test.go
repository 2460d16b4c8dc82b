package cache

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee/internal/platform/backends"
	"levee/internal/platform/redis"
)

// trips counts round trips: a pipeline is one.
type trips struct{ n, commands *atomic.Int64 }

func (trips) DialHook(next goredis.DialHook) goredis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c trips) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func (c trips) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		c.n.Add(1)
		c.commands.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

// nodeAt is a node of a house whose Redis is at the URL.
func nodeAt[V any](t testing.TB, url string, cfg SharedConfig) *Shared[int, V] {
	t.Helper()
	c, err := redis.Open(context.Background(), redis.Config{URL: url, Timeout: 2 * time.Second}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	s := NewShared[int, V](cfg, c, quiet(t))
	t.Cleanup(s.Close)
	eventually(t, "the messages arrive", func() bool { return s.heard.Load() != 0 })
	return s
}

// A thousand keys cost one load and a round trip or two to each server, read, stored or buried; and the promises hold.
func TestManyKeysFewRoundTrips(t *testing.T) {
	for _, kind := range []string{"single", "cluster"} {
		t.Run(kind, func(t *testing.T) {
			servers, url := 1, ""
			if kind == "single" {
				url = "redis://" + startServer(t).addr()
			} else {
				c, err := backends.StartCluster(t.Context(), backends.ClusterOptions{})
				if err != nil {
					if backends.MaySkip(err) {
						t.Skip(err)
					}
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				masters, err := c.Masters(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				servers, url = len(masters), c.URL()
			}
			a, b := nodeAt[int64](t, url, SharedConfig{Primary: primary}), nodeAt[int64](t, url, SharedConfig{Primary: primary})
			n, commands := &atomic.Int64{}, &atomic.Int64{}
			for _, s := range []*Shared[int, int64]{a, b} {
				settle(s)
				hook := trips{n, commands}
				if u, ok := s.remote.c.UniversalClient().(*goredis.ClusterClient); ok {
					_ = u.ForEachMaster(background, func(_ context.Context, c *goredis.Client) error { c.AddHook(hook); return nil })
				} else {
					s.remote.c.UniversalClient().AddHook(hook)
				}
			}
			keys := make([]int, getManyMost)
			version := make([]atomic.Int64, len(keys))
			for i := range keys {
				keys[i] = i
				version[i].Store(1)
			}
			var loads, onReplica atomic.Int64
			load := func(ctx context.Context, keys []int) (map[int]Many[int64], error) {
				loads.Add(1)
				got := map[int]Many[int64]{}
				for _, k := range keys {
					v := version[k].Load()
					if ctx.Value(onPrimary{}) == nil {
						onReplica.Add(1)
						v = 1 // which never learns anything
					}
					got[k] = Many[int64]{v, v}
				}
				return got, nil
			}
			check := func(name string, s *Shared[int, int64], ctx context.Context, want int64, loadsMost, tripsMost int) {
				t.Helper()
				loads.Store(0)
				n.Store(0)
				got, err := s.GetMany(ctx, keys, load)
				if err != nil || len(got) != len(keys) {
					t.Fatalf("%s: %d values, %v", name, len(got), err)
				}
				for k, v := range got {
					if v != want {
						t.Fatalf("%s: key %d is %d, want %d", name, k, v, want)
					}
				}
				// What the keepers of both nodes ask comes in between.
				if loads.Load() > int64(loadsMost) || n.Load() > int64(tripsMost*servers+30) {
					t.Errorf("%s: %d loads and %d round trips to %d servers", name, loads.Load(), n.Load(), servers)
				}
			}
			check("cold", a, background, 1, 1, 6) // read; stored in two halves, whose script may be unknown
			check("on the other node", b, background, 1, 0, 2)
			check("again", b, background, 1, 0, 0)
			check("strict", b, Strict(background), 1, 0, 2)
			changes := make([]Change[int], len(keys))
			for i := range keys {
				version[i].Store(2)
				changes[i] = Change[int]{i, 2}
			}
			n.Store(0)
			if err := a.Invalidate(background, changes...); err != nil {
				t.Fatal(err)
			}
			if n.Load() > int64(4*servers+30) {
				t.Errorf("%d changes took %d round trips to %d servers", len(changes), n.Load(), servers)
			}
			check("changed", b, Strict(background), 2, 2, 6)
			check("on the node that changed it", a, background, 2, 1, 6)
			onReplica.Store(0)
			for i := range keys {
				version[i].Store(3)
				changes[i] = Change[int]{i, 3}
			}
			if err := a.Invalidate(background, changes...); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the other node has heard", func() bool { return counter(t, b.m.heard) >= float64(2*len(keys)) })
			check("with a replica that is behind", b, background, 3, 2, 8)
			if onReplica.Load() == 0 {
				t.Error("the replica was not asked: this test says nothing of it")
			}
		})
	}
}
