package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// openRemote makes locks over Redis with their driver.
func openRemote(t testing.TB, cfg redis.Config) (*Locks, *remote) {
	t.Helper()
	l, err := OpenRedis(Config{}, openClient(t, cfg), nil, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, l.driver.(*remote)
}

// proxied is a server of the test's own behind a proxy.
func proxied(t testing.TB) (*backends.RedisServer, *backends.Proxy, redis.Config) {
	t.Helper()
	s, err := backends.StartRedis(context.Background(), backends.RedisOptions{})
	had(t, err)
	t.Cleanup(func() { _ = s.Close() })
	p, err := backends.StartProxy(context.Background(), s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return s, p, redis.Config{URL: "redis://" + p.Addr, Prefix: "p:"}
}

func acquire(t testing.TB, l *Locks, name string, opts ...Option) *Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := l.Acquire(ctx, name, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func release(t testing.TB, s *Lease) {
	t.Helper()
	if err := s.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSameTokenIsSameGrant(t *testing.T) {
	_, r := openRemote(t, redisConfig(t))
	for _, limit := range []int{1, 3} {
		q := request{name: newName(), token: newToken(), limit: limit, ttl: time.Second}
		first, _, err := r.look(t.Context(), &q, true, "0", 0)
		if err != nil || first == 0 {
			t.Fatal(first, err)
		}
		second, _, err := r.look(t.Context(), &q, true, "0", 0)
		if err != nil || second < first || limit == 1 && second != first {
			t.Errorf("limit %d: fence %d, and on the same token %d, %v", limit, first, second, err)
		}
		for i := 1; i < limit; i++ { // the places that are left are left
			other := q
			other.token = newToken()
			if f, _, err := r.look(t.Context(), &other, true, "0", 0); err != nil || f == 0 {
				t.Errorf("place %d of %d: %d, %v", i+1, limit, f, err)
			}
		}
		other := q
		other.token = newToken()
		if f, _, err := r.look(t.Context(), &other, true, "0", 0); err != nil || f != 0 {
			t.Errorf("one place too many: %d, %v", f, err)
		}
	}
}

// The short way takes what is free, whose state is known and that nobody waits for; anything else it leaves to acquire.lua.
func TestShortWay(t *testing.T) {
	_, r := openRemote(t, redisConfig(t))
	u := r.client.UniversalClient()
	ask := func(name string) uint64 {
		t.Helper()
		fence, err := quickScript.Run(t.Context(), r.client, []string{r.key(name)}, newToken(), time.Second.Microseconds()).Uint64()
		if err != nil {
			t.Fatal(err)
		}
		return fence
	}
	place := func(limit int) *request {
		return &request{name: newName(), token: newToken(), limit: limit, ttl: 200 * time.Millisecond}
	}
	taken := func(q *request) {
		t.Helper()
		if f, _, err := r.look(t.Context(), q, false, "1", time.Minute); err != nil {
			t.Fatal(f, err)
		}
	}
	free := place(1)
	if ask(free.name) != 0 {
		t.Error("it takes what it knows nothing of")
	}
	taken(free)
	if ask(free.name) != 0 {
		t.Error("it takes what is held")
	}
	if err := r.release(t.Context(), free); err != nil {
		t.Fatal(err)
	}
	first := ask(free.name)
	if first == 0 {
		t.Error("it does not take what is free")
	}
	u.HDel(t.Context(), r.key(free.name), "o", "x")
	if again := ask(free.name); again <= first {
		t.Errorf("fence %d after %d", again, first)
	}

	shared := place(3)
	taken(shared)
	if ask(shared.name) != 0 {
		t.Error("it takes what is shared")
	}
	waited := place(1)
	taken(waited)
	behind := *waited
	behind.token = newToken()
	taken(&behind) // queues
	if err := r.release(t.Context(), waited); err != nil {
		t.Fatal(err)
	}
	if ask(waited.name) != 0 {
		t.Error("it goes past those who wait")
	}
	old := place(1)
	taken(old)
	if err := r.release(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	u.HSet(t.Context(), r.key(old.name), "p", time.Now().Add(-11*time.Minute).UnixMicro())
	if ask(old.name) != 0 {
		t.Error("it lets the state be forgotten while it is used")
	}
	if f, _, err := r.look(t.Context(), old, true, "0", 0); err != nil || f == 0 {
		t.Errorf("the long way after it: %d, %v", f, err)
	}
}

// The answer to the grant is lost: the caller is told that the store is away, and the name is not taken by nobody for longer than needs be.
func TestLostAnswers(t *testing.T) {
	_, p, cfg := proxied(t)
	l, _ := openRemote(t, cfg)
	release(t, acquire(t, l, "warm"))
	if err := p.DropAnswers(true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := l.TryAcquire(t.Context(), "a"); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("without answers: %v", err)
		}
	}
	if err := p.Heal(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for {
		s, err := l.TryAcquire(t.Context(), "a")
		if err == nil {
			release(t, s)
			break
		}
		if code := levee.CodeOf(err); code != levee.CodeUnavailable && code != levee.CodeConflict || time.Since(began) > 15*time.Second {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if d := time.Since(began); d > 9*time.Second {
		t.Errorf("a grant whose answer was lost kept the name for %v, its TTL is 10s", d)
	}
}

func TestStoreAway(t *testing.T) {
	s, _, cfg := proxied(t)
	l, _ := openRemote(t, cfg)
	held := acquire(t, l, "held", TTL(time.Second))
	fence := held.Fence()
	waits := make(chan *Lease, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		next, err := l.Acquire(ctx, "held")
		if err != nil {
			t.Error(err)
		}
		waits <- next
	}()
	time.Sleep(200 * time.Millisecond)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := l.Acquire(t.Context(), "other"); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("the store is away: %v", err)
	}
	if d := time.Since(began); d > late {
		t.Errorf("it took %v to say so", d)
	}
	// The holder is told no later than its lease ends.
	select {
	case <-held.Context().Done():
	case <-time.After(1200 * time.Millisecond):
		if held.Context().Err() == nil { // who asks is told by the clock, however late timers fire
			t.Error("the context outlived the lease that could not be renewed")
		}
	}
	if err := held.Release(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("given back after its end: %v", err)
	}
	// Who stood in the queue waits on, and gets it from a server that has forgotten everything; the fence rises.
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if next := <-waits; next == nil || next.Fence() <= fence {
		t.Errorf("after the restart without data: %v", next)
	} else {
		release(t, next)
	}
}

// A renewal is under way while the lease is given back, its answer late: nothing is renewed by it, here or there.
func TestNoRenewalAfterRelease(t *testing.T) {
	_, p, cfg := proxied(t)
	cfg.Timeout = 2 * time.Second
	l, r := openRemote(t, cfg)
	for range 3 {
		s := acquire(t, l, "a", TTL(600*time.Millisecond))
		time.Sleep(100 * time.Millisecond)
		if err := p.Latency(250*time.Millisecond, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond) // the renewal at 180 to 200 ms was sent, its answer is on the way
		err := s.Release(t.Context())
		if err != nil && !errors.Is(err, ErrLost) {
			t.Fatal(err)
		}
		if err := p.Heal(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		if s.Held() || s.h.until.Load() != 0 {
			t.Error("held again by a renewal")
		}
		if n, err := r.client.UniversalClient().HExists(t.Context(), r.keys("a")[0], "o").Result(); err != nil || n {
			t.Errorf("a holder is there after the release: %v %v", n, err)
		}
		if s.h.renewing.Stop() {
			t.Error("a further renewal was planned")
		}
	}
}

// With answers that take most of the TTL, the context still ends before the server gives the name to another.
func TestContextEndsBeforeTheLeaseWithSlowAnswers(t *testing.T) {
	_, p, cfg := proxied(t)
	cfg.Timeout = 2 * time.Second
	l, r := openRemote(t, cfg)
	for range 3 {
		s := acquire(t, l, "a", TTL(500*time.Millisecond))
		if err := p.Latency(400*time.Millisecond, 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		ended := <-lastAlive(s)
		if err := p.Heal(); err != nil {
			t.Fatal(err)
		}
		for { // when it ends there, asked past the latency
			ask, err := r.client.UniversalClient().HGet(t.Context(), r.keys("a")[0], "x").Int64()
			if err != nil {
				continue
			}
			now, err := r.client.UniversalClient().Time(t.Context()).Result()
			if err != nil {
				continue
			}
			// The server's end, on our clock: its reading now is ours, give or take the way of one call.
			if there := time.Now().Add(time.UnixMicro(ask).Sub(now)); ended.After(there) {
				t.Errorf("the context ended %v after the lease", ended.Sub(there))
			}
			break
		}
		_ = s.Release(t.Context())
	}
}

// A waiter that died stands at the head of the queue: it holds up nobody for longer than its heartbeat lasts.
func TestDeadWaiterIsPassedOver(t *testing.T) {
	l, r := openRemote(t, redisConfig(t))
	s := acquire(t, l, "a")
	dead := request{name: "a", token: newToken(), limit: 1, ttl: time.Second}
	if f, _, err := r.look(t.Context(), &dead, true, "1", beatsAlive*beatEvery); f != 0 || err != nil {
		t.Fatal(f, err)
	}
	got := make(chan time.Time, 1)
	go func() {
		next, err := l.Acquire(t.Context(), "a")
		if err != nil {
			t.Error(err)
			return
		}
		got <- time.Now()
		_ = next.Release(t.Context())
	}()
	time.Sleep(100 * time.Millisecond)
	freed := time.Now()
	release(t, s)
	select {
	case at := <-got:
		if d := at.Sub(freed); d > (beatsAlive+1)*beatEvery+late {
			t.Errorf("a dead waiter held up the next one for %v", d)
		}
	case <-time.After(time.Minute):
		t.Error("a dead waiter blocks the queue")
	}
}

// A clock that was put back: the fence goes on from the last one.
func TestFenceRisesOverAClockPutBack(t *testing.T) {
	l, r := openRemote(t, redisConfig(t))
	release(t, acquire(t, l, "a"))
	ahead := time.Now().Add(time.Hour).UnixMicro()
	if err := r.client.UniversalClient().HSet(t.Context(), r.keys("a")[0], "f", ahead).Err(); err != nil {
		t.Fatal(err)
	}
	for i, limit := range []int{1, 2, 1} {
		s := acquire(t, l, "a", Permits(limit))
		if s.Fence() != uint64(ahead)+uint64(i)+1 {
			t.Errorf("fence %d after %d", s.Fence(), ahead+int64(i))
		}
		release(t, s)
	}
	// Nothing of a name that is not in use is left but one key, and that has a lifetime.
	keys, err := r.client.UniversalClient().Keys(t.Context(), r.client.Key("lock:*")).Result()
	if err != nil || len(keys) != 1 {
		t.Errorf("keys %v, %v", keys, err)
	}
	if ttl, err := r.client.UniversalClient().PTTL(t.Context(), r.keys("a")[0]).Result(); err != nil || ttl < time.Hour || ttl > 2*time.Hour {
		t.Errorf("lifetime %v, %v", ttl, err)
	}
}

// Ten thousand wait for ten thousand names over one subscription.
func TestManyWaiters(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	cfg := redisConfig(t)
	cfg.Timeout = 5 * time.Second
	holder, _ := openRemote(t, cfg)
	l, r := openRemote(t, cfg)
	held := make([]*Lease, n)
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	must(crowd(32, func(i int) (err error) {
		for ; i < n && err == nil; i += 32 {
			held[i], err = holder.Acquire(t.Context(), fmt.Sprintf("many/%d", i), TTL(5*time.Minute))
		}
		return err
	}))
	if t.Failed() {
		return
	}
	var got atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := l.Acquire(t.Context(), fmt.Sprintf("many/%d", i))
			if err != nil {
				t.Error(err)
				return
			}
			got.Add(1)
			must(s.Release(t.Context()))
		})
	}
	for r.ear.count() < n || !r.ear.hears.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(2 * time.Second)
	channels, err := r.client.UniversalClient().PubSubChannels(t.Context(), r.client.Key("lock:*")).Result()
	must(err)
	subscribed, err := r.client.UniversalClient().PubSubNumSub(t.Context(), r.channel).Result()
	must(err)
	if len(channels) != 1 || subscribed[r.channel] != 1 {
		t.Errorf("%d channels, %v connections", len(channels), subscribed)
	}
	began := time.Now()
	must(crowd(32, func(i int) (err error) {
		for ; i < n && err == nil; i += 32 {
			err = held[i].Release(t.Context())
		}
		return err
	}))
	wg.Wait()
	t.Logf("%d got their names within %v of the first release", got.Load(), time.Since(began))
	if got.Load() != int64(n) {
		t.Errorf("%d of %d got their names", got.Load(), n)
	}
}

func TestClusterAndSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster and sentinels")
	}
	for name, start := range map[string]func(ctx context.Context) (string, error){
		"cluster": func(ctx context.Context) (string, error) {
			c, err := backends.StartCluster(ctx, backends.ClusterOptions{})
			if err != nil {
				return "", err
			}
			t.Cleanup(func() { _ = c.Close() })
			return c.URL(), nil
		},
		"sentinel": func(ctx context.Context) (string, error) {
			c, err := backends.StartSentinel(ctx, backends.SentinelOptions{})
			if err != nil {
				return "", err
			}
			t.Cleanup(func() { _ = c.Close() })
			return c.URL(), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, err := start(t.Context())
			had(t, err)
			h := &house{ttl: calmTTL, slack: 300 * time.Millisecond}
			for range 3 {
				l, _ := openRemote(t, redis.Config{URL: url, Timeout: time.Second})
				h.nodes = append(h.nodes, l)
			}
			for _, c := range checks {
				if err := c.check(t.Context(), h); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		})
	}
}
