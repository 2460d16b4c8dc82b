package cache

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	goredis "github.com/redis/go-redis/v9"

	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// server is a Redis of the test's own, to be killed and stopped at will.
type server struct {
	t testing.TB
	*backends.RedisServer
}

func startServer(t testing.TB) *server {
	t.Helper()
	r, err := backends.StartRedis(context.Background(), backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return &server{t, r}
}

func (s *server) addr() string { return s.Addr() }

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}

// kill is SIGKILL; start begins anew, with nothing kept.
func (s *server) kill()   { s.t.Helper(); s.must(s.Kill()) }
func (s *server) start()  { s.t.Helper(); s.must(s.RestartEmpty(context.Background())) }
func (s *server) pause()  { s.t.Helper(); s.must(s.Pause()) }
func (s *server) resume() { s.t.Helper(); s.must(s.Resume()) }

// do runs a command on the server itself.
func (s *server) do(args ...any) any {
	s.t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: s.addr()})
	defer func() { _ = c.Close() }()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// calm is how long a server may take to answer where no outage is tested: a busy machine must not look like one.
const calm = 2 * time.Second

// connect opens a node's way to the server.
func connect(t testing.TB, addr string) *redis.Client {
	return connectFor(t, addr, calm)
}

func connectFor(t testing.TB, addr string, timeout time.Duration) *redis.Client {
	t.Helper()
	c, err := redis.Open(context.Background(), redis.Config{URL: "redis://" + addr, Timeout: timeout}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// node makes a cache of two levels with a connection of its own, as another process would have.
func node[V any](t testing.TB, addr string, cfg SharedConfig) *Shared[int, V] {
	t.Helper()
	return nodeFor[V](t, addr, cfg, calm)
}

func nodeFor[V any](t testing.TB, addr string, cfg SharedConfig, timeout time.Duration) *Shared[int, V] {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	var c *redis.Client
	if addr != "" {
		c = connectFor(t, addr, timeout)
	}
	s := NewShared[int, V](cfg, c, quiet(t))
	t.Cleanup(s.Close)
	if c != nil {
		eventually(t, "the messages arrive", func() bool { return s.heard.Load() != 0 })
	}
	return s
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within half a minute: %s", what)
		}
	}
}

// table is the database: one version per key, whose value it is too.
type table struct {
	version [64]atomic.Int64
	loads   atomic.Int64
}

func (d *table) load(_ context.Context, k int) (int64, int64, error) {
	d.loads.Add(1)
	v := d.version[k].Load()
	return v, v, nil
}

// counter reads a metric.
func counter(t testing.TB, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// quiet is an Obs whose log says only what is wrong: a test starts many nodes.
func quiet(t testing.TB) *obs.Obs {
	t.Helper()
	o := obs.Test(t)
	if err := o.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
	return o
}
