package gate

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// nodesOn opens gates of one new sale whose calls time out as they do in the house.
func nodesOn(t *testing.T, url string, nodes int) *shop { return bucketsOn(t, url, nodes, 1) }

func bucketsOn(t *testing.T, url string, nodes, count int) *shop {
	t.Helper()
	sale := levee.SaleID(saleNumber.Add(1))
	h := &shop{}
	for n := range nodes + 1 {
		o, err := obs.Open(obs.Config{Level: "error"}, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		c, err := redis.Open(t.Context(), redis.Config{URL: url, Prefix: "gatetest:", Timeout: 500 * time.Millisecond}, o) // a busy machine is no outage
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		h.nodes = append(h.nodes, NewRedis(c, sale, "node-"+string(rune('a'+n)), 4096, count))
	}
	h.observer, h.nodes = h.nodes[nodes], h.nodes[:nodes]
	return h
}

// until tries for half a minute.
func until(t *testing.T, what string, try func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !try(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in half a minute it did not happen: %s", what)
		}
	}
}

// The primary dies in the crowd, and a replica that lags takes its place: what the gate forgot is sold by it again, SQL refuses what it has not,
// and by the ledger the gate comes back to what SQL holds without a pause.
func TestFailoverToALaggingReplica(t *testing.T) {
	needRedis(t)
	ctx := t.Context()
	primary, err := backends.StartRedis(ctx, backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close()
	replica, err := backends.StartRedis(ctx, backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	link, err := backends.StartProxy(ctx, primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	front, err := backends.StartProxy(ctx, primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	host, port, _ := net.SplitHostPort(link.Addr)
	if _, err := replica.Do(ctx, "REPLICAOF", host, port); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica follows", func() bool {
		info, err := replica.Do(ctx, "INFO", "replication")
		return err == nil && strings.Contains(info.(string), "master_link_status:up")
	})
	if err := link.Latency(40*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	h := nodesOn(t, "redis://"+front.Addr, 2)
	m := newMarket(t, h, 2200, 2)
	m.lossy = true
	until(t, "the replica has the load", func() bool {
		keys, err := replica.Do(ctx, "EXISTS", h.observer.buckets.all()[0].keys[headKey])
		return err == nil && keys == int64(1)
	})
	var before, forgot atomic.Int64
	died := make(chan time.Duration, 1)
	go func() {
		defer close(died)
		for m.took.Load() < 1200 {
			time.Sleep(time.Millisecond)
		}
		before.Store(m.took.Load())
		if err := primary.Kill(); err != nil {
			t.Error(err)
			return
		}
		link.Down()
		began := time.Now()
		if _, err := replica.Do(ctx, "REPLICAOF", "NO", "ONE"); err != nil {
			t.Error(err)
			return
		}
		applied, err := replica.Do(ctx, "HGET", h.observer.buckets.all()[0].keys[headKey], "applied")
		if err != nil {
			t.Error(err)
			return
		}
		n, _ := strconv.ParseInt(applied.(string), 10, 64)
		m.mu.Lock()
		forgot.Store(int64(len(m.sql.movements)) - n)
		m.mu.Unlock()
		if err := front.SetUpstream(replica.Addr()); err != nil {
			t.Error(err)
			return
		}
		for { // the first taking after it
			if n := m.took.Load(); n > before.Load()+300 {
				died <- time.Since(began)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	done := make(chan struct{})
	m.workers.Go(func() { // the followers of the nodes; they come late, so that the damage is seen
		for m.took.Load() < before.Load()+300 || before.Load() == 0 {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			_ = m.follow(h.nodes[0])
			_, _ = m.resolve(h.nodes[1], time.Second)
		}
	})
	end := time.Now().Add(20 * time.Second)
	m.crowd(48, 20_000, func(int) bool {
		n, err := h.observer.Numbers(ctx)
		return time.Now().After(end) || m.away.Load() > 0 && m.took.Load() > before.Load()+300 && err == nil && n.Warm && n.Remaining <= 0
	})
	close(done)
	open, ok := <-died
	if !ok {
		t.Fatal("the fail-over did not come to an end")
	}
	m.rest(h.observer)
	if forgot.Load() == 0 {
		t.Error("the fail-over lost nothing, and this test showed nothing")
	}
	t.Logf("300 taken again after %s; the replica lacked %d movements; %d attempts away, SQL refused %d takings that the gate should not have let through, "+
		"%d units left at rest", open.Round(time.Millisecond), forgot.Load(), m.away.Load(), m.sql.noStock, m.sql.remaining)
}

// Redis hangs, then dies and comes back with nothing.
func TestAwayAndCold(t *testing.T) {
	needRedis(t)
	ctx := t.Context()
	server, err := backends.StartRedis(ctx, backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	h := nodesOn(t, server.URL(), 1)
	g := h.nodes[0]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(g.Load(ctx, State{Remaining: 10, PerBuyer: 2}))
	take := func(id int) Verdict {
		_, v, _ := g.Take(ctx, Attempt{ID: levee.ReservationID(id), Buyer: levee.UserID(id), Quantity: 1})
		return v
	}
	if v := take(1); v != Taken {
		t.Fatalf("verdict %d", v)
	}

	must(server.Pause())
	began := time.Now()
	for i := range 20 {
		if v := take(100 + i); v != Away {
			t.Fatalf("a gate that hangs said %d", v)
		}
	}
	if took := time.Since(began); took > 9*time.Second { // their time alone would be ten
		t.Errorf("20 attempts waited %s for a server that hangs", took)
	}
	if _, err := g.Numbers(ctx); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("numbers of a gate that hangs: %v", err)
	}
	if _, _, err := g.Held(ctx, 1); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("a buyer of a gate that hangs: %v", err)
	}
	if err := g.Apply(ctx, Movement{Seq: 1, Free: 1}); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("a movement for a gate that hangs: %v", err)
	}
	must(server.Resume())
	// What hung was carried out when it woke: it is nobody's, and is given back.
	until(t, "what was taken for nobody is given back", func() bool {
		n, err := g.Numbers(ctx)
		return err == nil && n.Unsettled == 1 && n.Remaining == 9
	})
	until(t, "it takes again", func() bool { return take(2) == Taken })

	must(server.Kill())
	if v := take(3); v != Away {
		t.Fatalf("a gate that is gone said %d", v)
	}
	must(server.RestartEmpty(ctx))
	until(t, "it is cold", func() bool { return take(4) == Cold })
	if err := g.Apply(ctx, Movement{Seq: 1, Free: 1}); levee.CodeOf(err) != levee.CodeNotWarmed {
		t.Errorf("a cold gate: %v", err)
	}
	// One loads; who comes second is told.
	must(g.buckets.all()[0].c.UniversalClient().Set(ctx, g.buckets.all()[0].base+"loading", "another node's token", time.Minute).Err())
	until(t, "who loads at once with another is told", func() bool { // its connection died with the server, which it may find out only now
		return levee.CodeOf(g.Load(ctx, State{Remaining: 8, PerBuyer: 2})) == levee.CodeConflict
	})
	must(g.buckets.all()[0].c.UniversalClient().Del(ctx, g.buckets.all()[0].base+"loading").Err())
	must(g.Load(ctx, State{Seq: 2, Remaining: 8, PerBuyer: 2, Holdings: []Holding{{7, 1}, {8, 0}, {7, 1}}}))
	if held, known, err := g.Held(ctx, 7); held != 2 || !known || err != nil {
		t.Errorf("holdings of one buyer in two rows: %d, %v, %v", held, known, err)
	}
	if n, err := g.Numbers(ctx); err != nil || !n.Warm || n.Remaining != 8 || n.Applied != 2 || n.Buyers != 2 {
		t.Errorf("%+v, %v", n, err)
	}
	keys, err := g.buckets.all()[0].c.UniversalClient().Keys(ctx, "*").Result()
	if must(err); len(keys) != 2 {
		t.Errorf("a load left more than head and buyers: %v", keys)
	}
	for _, key := range keys {
		if d, err := g.buckets.all()[0].c.UniversalClient().TTL(ctx, key).Result(); err != nil || d != -1 {
			t.Errorf("%s lives for %s (%v) while the sale lives", key, d, err)
		}
	}
	must(g.Forget(ctx, 50*time.Millisecond))
	until(t, "all is forgotten", func() bool {
		n, err := g.buckets.all()[0].c.UniversalClient().DBSize(ctx).Result()
		return err == nil && n == 0
	})
	if v := take(5); v != Cold {
		t.Errorf("a forgotten gate said %d", v)
	}
}

// The same lives, and the same crowd, on a cluster of three and behind sentinels.
func TestEveryShapeOfRedis(t *testing.T) {
	needRedis(t)
	shapes := map[string]func() (url string, promote func() error, stop func() error){
		"cluster": func() (string, func() error, func() error) {
			c, err := backends.StartCluster(t.Context(), backends.ClusterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return c.URL(), nil, c.Close
		},
		"sentinel": func() (string, func() error, func() error) {
			s, err := backends.StartSentinel(t.Context(), backends.SentinelOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return s.URL(), func() error { _, err := s.Promote(context.Background()); return err }, s.Close
		},
	}
	for name, start := range shapes {
		t.Run(name, func(t *testing.T) {
			url, promote, stop := start()
			defer stop()
			for seed := uint64(1); seed <= 12; seed++ {
				l := newLife(t, openShared(t, url, 2, lineMax, ofTheHouse, 1+2*int(seed%2)), seed)
				if problem := l.run(300, lifeOptions{}); problem != "" {
					t.Fatalf("life %d: %s\n%s", seed, problem, strings.Join(l.log[max(0, len(l.log)-30):], "\n"))
				}
			}
			h := nodesOn(t, url, 2)
			m := newMarket(t, h, 800, 2)
			m.lossy = promote != nil
			promoted := make(chan error, 1)
			if promote != nil {
				go func() {
					for m.took.Load() < 300 {
						time.Sleep(time.Millisecond)
					}
					promoted <- promote()
				}()
			}
			m.crowd(16, 3000, func(n int) bool { return n == 300 })
			if promote != nil {
				if err := <-promoted; err != nil {
					t.Fatal(err)
				}
				m.crowd(16, 3000, func(n int) bool { return n == 300 })
			}
			m.rest(h.observer)
			t.Logf("%d taken, %d away, SQL refused %d for lack of stock", m.took.Load(), m.away.Load(), m.sql.noStock)
		})
	}
}
