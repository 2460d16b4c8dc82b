package redis

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

// write counts up on many keys all the time, and tells how long the longest pause was and whether calls ever took too long.
type writer struct {
	stop    chan struct{}
	done    sync.WaitGroup
	good    atomic.Int64
	slowest atomic.Int64
	badly   atomic.Pointer[error]
}

func startWriter(c *Client, keys int) *writer {
	w := &writer{stop: make(chan struct{})}
	for k := range 4 {
		w.done.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-w.stop:
					return
				default:
				}
				began := time.Now()
				err := c.UniversalClient().Incr(context.Background(), c.Key(fmt.Sprintf("{%d}", (k*1000+i)%keys))).Err()
				w.slowest.Store(max(w.slowest.Load(), int64(time.Since(began))))
				if err == nil {
					w.good.Add(1)
				} else if levee.CodeOf(err) != levee.CodeUnavailable {
					w.badly.Store(&err)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	return w
}

func (w *writer) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	if e := w.badly.Load(); e != nil {
		t.Errorf("an error without a code: %v", *e)
	}
	if d := time.Duration(w.slowest.Load()); d > 10*time.Second { // calls have a tenth of a second; the rest is left to a busy machine
		t.Errorf("a call took %v", d)
	}
}

// again waits until n more calls have gone well.
func (w *writer) again(t *testing.T, n int64) {
	t.Helper()
	before := w.good.Load()
	until(t, "calls work again", func() bool { return w.good.Load() >= before+n })
}

func TestSentinel(t *testing.T) {
	g, err := backends.StartSentinel(t.Context(), backends.SentinelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	a, b := openAt(t, g.URL(), quick), openAt(t, g.URL(), quick)
	ea, eb := join(a, "x"), join(b, "x")
	until(t, "they hear", func() bool { _, l := eb.state(); return l > 0 && a.Hearing() && b.Hearing() })
	w := startWriter(a, 1)
	w.again(t, 20)
	for name, fault := range map[string]func(before *backends.RedisServer) error{
		"promotion": func(*backends.RedisServer) error { _, err := g.Promote(t.Context()); return err },
		"death": func(before *backends.RedisServer) error {
			if err := before.Kill(); err != nil {
				return err
			}
			_, err := g.Promoted(t.Context(), before)
			return err
		},
	} {
		before, err := g.Primary(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, lost := eb.state()
		began := time.Now()
		if err := fault(before); err != nil {
			t.Fatal(name, err)
		}
		promoted := time.Since(began)
		w.again(t, 50)
		t.Logf("%s: promoted after %v, 50 writes after %v", name, promoted, time.Since(began))
		until(t, "the loss is told", func() bool { _, l := eb.state(); return l > lost })
		until(t, "messages come again", func() bool {
			ea.publish([]byte(name))
			time.Sleep(20 * time.Millisecond)
			eb.mu.Lock()
			defer eb.mu.Unlock()
			return len(eb.heard) > 0 && eb.heard[len(eb.heard)-1] == name
		})
		until(t, "healthy", func() bool { return a.Healthy() && b.Healthy() })
		if name == "death" {
			if err := before.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
	}
	w.end(t)
}

func TestCluster(t *testing.T) {
	g, err := backends.StartCluster(t.Context(), backends.ClusterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	a, b := openAt(t, g.URL(), quick), openAt(t, g.URL(), quick)
	if servers, err := a.Servers(t.Context()); err != nil || len(servers) != 3 || !a.Cluster() {
		t.Fatalf("%+v, %v", servers, err)
	}
	sum := NewScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
	for i := range 20 {
		key := a.Key(fmt.Sprintf("{s%d}:n", i))
		if n, err := sum.Run(t.Context(), a, []string{key}, 1).Int(); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if n, err := sum.RunFast(t.Context(), b, []string{key}, 1).Int(); err != nil || n != 2 {
			t.Fatal(n, err)
		}
	}
	ea, eb := join(a, "x"), join(b, "x")
	until(t, "they hear", func() bool { _, l := eb.state(); return l > 0 && a.Hearing() && b.Hearing() })
	until(t, "messages come", func() bool { ea.publish([]byte("1")); h, _ := eb.state(); return h > 0 })
	if servers, err := Open(t.Context(), Config{URL: "redis://" + g.Nodes[0].Addr()}, obs.Test(t)); levee.CodeOf(err) != levee.CodeInvalid {
		_ = servers
		t.Errorf("a cluster's node was taken for a single server: %v", err)
	}
	w := startWriter(a, 64)
	w.again(t, 100)
	// The death of one primary fails its own keys alone, and those only until its replica is promoted.
	began := time.Now()
	if err := g.Nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	var promoted time.Duration
	followed := make(chan error, 1)
	go func() {
		err := g.Promoted(t.Context(), g.Nodes[3])
		promoted = time.Since(began)
		followed <- err
	}()
	w.again(t, 20) // of the keys of the other two
	others := time.Since(began)
	if err := <-followed; err != nil {
		t.Fatal(err)
	}
	if others >= promoted {
		t.Errorf("while one of three was away, for %v, fewer than 20 calls went well", promoted)
	}
	healed := NewScript("return redis.call('INCR', KEYS[1])")
	until(t, "all keys work again", func() bool {
		for i := range 64 {
			if healed.Run(t.Context(), a, []string{a.Key(fmt.Sprintf("{%d}", i))}).Err() != nil {
				return false
			}
		}
		return true
	})
	t.Logf("promoted after %v, all keys after %v", promoted, time.Since(began))
	until(t, "healthy", a.Healthy)
	w.end(t)
	until(t, "messages come again", func() bool {
		ea.publish([]byte("end"))
		time.Sleep(20 * time.Millisecond)
		eb.mu.Lock()
		defer eb.mu.Unlock()
		return eb.heard[len(eb.heard)-1] == "end"
	})
}
