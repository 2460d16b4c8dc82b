package lock

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// redisServers starts servers that know nothing of each other.
func redisServers(t testing.TB, n int) (all []*backends.RedisServer) {
	t.Helper()
	for range n {
		s, err := backends.StartRedis(t.Context(), backends.RedisOptions{})
		had(t, err)
		t.Cleanup(func() { _ = s.Close() })
		all = append(all, s)
	}
	return all
}

func openQuorum(t testing.TB, servers []*backends.RedisServer) (*Locks, error) {
	var clients []*redis.Client
	for _, s := range servers {
		clients = append(clients, openClient(t, redis.Config{URL: s.URL(), Prefix: "q:", Timeout: 300 * time.Millisecond}))
	}
	return OpenQuorum(Config{}, clients, obs.Test(t))
}

const (
	noOrder  = "there is no order between processes"
	noPlaces = "exclusive locks alone"
)

func init() {
	kinds["quorum of 3"] = func(t testing.TB, nodes int) *house {
		servers := redisServers(t, 3)
		h := &house{ttl: calmTTL, slack: 300 * time.Millisecond, alone: true, lacks: map[string]string{
			"first come, first served":         noOrder,
			"nobody waits longer than a round": noOrder,
			"try does not wait nor pass":       noOrder,
			"readers and writers":              noPlaces,
			"semaphore":                        noPlaces,
		}}
		open := func() (*Locks, error) { return openQuorum(t, servers) }
		for range nodes {
			l, err := open()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			h.nodes = append(h.nodes, l)
		}
		h.stop = func(i int) { h.nodes[i] = h.dies(t, i, open) }
		h.wipe = func(name string) error {
			for _, s := range servers[:2] { // a majority
				if _, err := s.Do(context.Background(), "DEL", "q:lock:{"+name+"}:quorum"); err != nil {
					return err
				}
			}
			return nil
		}
		return h
	}
}

// What OpenQuorum says that it does not have is refused, and what it says of order is so: this is what the skipped checks would have found.
func TestQuorumSaysNo(t *testing.T) {
	servers := redisServers(t, 3)
	l, err := openQuorum(t, servers)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, o := range []Option{Shared(), Permits(2)} {
		if _, err := l.Acquire(t.Context(), "a", o); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("not exclusive: %v", err)
		}
	}
	h := kinds["quorum of 3"](t, 3)
	for _, c := range checks {
		if h.lacks[c.name] == noPlaces {
			if err := c.check(t.Context(), h); levee.CodeOf(err) != levee.CodeInvalid {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	for _, n := range []int{0, 1, 2, 4} {
		if _, err := openQuorum(t, append(servers, servers...)[:n]); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%d servers: %v", n, err)
		}
	}
}

// With a minority away it goes on, fences rise over the change of the minority; with a majority away it says so, and is back with it.
func TestQuorumLosesServers(t *testing.T) {
	servers := redisServers(t, 3)
	l, err := openQuorum(t, servers)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	last := uint64(0)
	round := func(what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			s, err := l.Acquire(ctx, "a", TTL(2*time.Second))
			if levee.CodeOf(err) == levee.CodeUnavailable { // a connection of before, or a breaker that is still open
				time.Sleep(50 * time.Millisecond)
				continue
			}
			if err != nil || s.Fence() <= last {
				t.Fatalf("%s: fence %v after %d: %v", what, s, last, err)
			}
			last = s.Fence()
			if err := s.Release(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
	}
	round("all")
	for i, s := range servers {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		round(fmt.Sprint("without ", i))
		if err := s.Restart(t.Context()); err != nil { // it has forgotten all
			t.Fatal(err)
		}
		round(fmt.Sprint("again with ", i))
	}
	if err := errors.Join(servers[0].Kill(), servers[1].Kill()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := l.TryAcquire(t.Context(), "a"); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("without a majority: %v", err)
		}
	}
	if err := errors.Join(servers[0].Restart(t.Context()), servers[1].Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	round("all again")
}
