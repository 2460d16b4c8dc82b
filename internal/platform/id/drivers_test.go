package id

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/redis"
)

// histories is how many random histories are played on the model of a store: go test ./internal/platform/id -run Model -args -id.histories=100000
var histories = flag.Uint64("id.histories", 0, "how many histories TestModelFleet plays; 0: few")

// few is a layout of four workers, so that few numbers are shared by many lives.
var few = Layout{Epoch: Default.Epoch, Unit: time.Millisecond, TimeBits: 41, WorkerBits: 2, SeqBits: 12}

// modelStore is what every store must do, in memory: the real ones play the same histories.
type modelStore struct {
	mu  sync.Mutex
	all map[int]workerRow
}

func (m *modelStore) rows(context.Context) (list []workerRow, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range few.workers() {
		if r, ok := m.all[i]; ok {
			list = append(list, r)
		}
	}
	return list, nil
}

func (m *modelStore) take(_ context.Context, at workerRow, owner, _ string) (bool, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.all[at.worker]; ok != (at.turn > 0) || ok && r != at {
		return false, 0, nil
	}
	m.all[at.worker] = workerRow{at.worker, owner, at.horizon, at.turn + 1}
	return true, at.horizon, nil
}

func (m *modelStore) raise(_ context.Context, worker int, owner string, horizon int64) (grant, error) {
	return grant{horizon: horizon}, m.change(worker, owner, owner, func(had int64) int64 { return max(had, horizon) })
}

func (m *modelStore) free(_ context.Context, worker int, owner string, first int64) error {
	return m.change(worker, owner, "", func(int64) int64 { return first })
}

func (m *modelStore) change(worker int, owner, next string, how func(int64) int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.all[worker]
	if r.owner != owner {
		return errStolen
	}
	m.all[worker] = workerRow{worker, next, how(r.horizon), r.turn + 1}
	return nil
}

func modelWorld() *sqlWorld {
	return &sqlWorld{odd: true, model: true, prepare: func(testing.TB, *wrongClock) (Config, leaseOptions) {
		return Config{DB: new(db.DB), Space: "few", Layout: few}, leaseOptions{store: &modelStore{all: map[int]workerRow{}}}
	}}
}

// fleet plays histories and returns in how many of them an id was given twice.
func fleet(t *testing.T, s *sqlWorld, n uint64, start func(floor, now int64) int64) (bad int) {
	t.Helper()
	ids, lives, stolen := 0, 0, 0
	for seed := range n {
		var got []int64
		var l, st int
		if play := func(t *testing.T) { got, l, st = hostileSQL(t, s, seed, start) }; s.model {
			synctest.Test(t, play) // no waiting: its store is in memory
		} else {
			play(t)
		}
		if d := duplicates(got); d != 0 {
			bad++
			if start == nil && bad == 1 {
				t.Logf("seed %d: %d duplicates in %d ids", seed, d, len(got))
			}
		}
		ids, lives, stolen = ids+len(got), lives+l, stolen+st
	}
	t.Logf("%d histories, %d with duplicates; %d ids of %d lives, %d thefts of a living number", n, bad, ids, lives, stolen)
	if uint64(ids) < 100*n || uint64(lives) < 3*n {
		t.Error("the histories hardly did anything")
	}
	return bad
}

func trustsTheClock(_, now int64) int64 { return max(now, 1) }

func TestModelFleet(t *testing.T) {
	n := max(*histories, runs(t, 4000))
	if bad := fleet(t, modelWorld(), n, nil); bad != 0 {
		t.Errorf("duplicates in %d of %d histories", bad, n)
	}
	if bad := fleet(t, modelWorld(), max(n/10, 200), trustsTheClock); bad == 0 {
		t.Error("without the floor no duplicate was found: this test could not find a real one either")
	}
}

var spaces struct {
	sync.Mutex
	n int
}

// space is a name that no other test of this run uses.
func space() string {
	spaces.Lock()
	defer spaces.Unlock()
	spaces.n++
	return fmt.Sprintf("t%d-%d", os.Getpid(), spaces.n)
}

func testEtcd(t testing.TB) *Etcd {
	t.Helper()
	s, err := backends.Etcd(context.Background())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	e, err := OpenEtcd(t.Context(), EtcdConfig{URL: s.URL(), Prefix: space() + "/"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func TestEtcdFleet(t *testing.T) {
	e := testEtcd(t)
	s := &sqlWorld{odd: true, prepare: func(testing.TB, *wrongClock) (Config, leaseOptions) {
		return Config{Etcd: e, Space: space(), Layout: few}, leaseOptions{}
	}}
	if bad := fleet(t, s, max(runs(t, 60), 10), nil); bad != 0 {
		t.Errorf("duplicates in %d histories", bad)
	}
	if bad := fleet(t, s, max(runs(t, 40), 20), trustsTheClock); bad == 0 {
		t.Error("without the floor no duplicate was found")
	}
}

func openTestRedis(t testing.TB, s *backends.RedisServer) *redis.Client {
	t.Helper()
	c, err := redis.Open(t.Context(), redis.Config{URL: s.URL(), Timeout: time.Second, Prefix: space() + ":"}, quiet(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func testRedis(t testing.TB) *redis.Client {
	t.Helper()
	s, err := backends.Redis(context.Background())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return openTestRedis(t, s)
}

// redisWorld is a Redis whose clock is the test's, and which forgets: all of it, or what was written since some moment.
func redisWorld(t testing.TB, margin time.Duration) *sqlWorld {
	c := testRedis(t)
	s := &sqlWorld{odd: true}
	var key string
	var base *wrongClock
	var old map[string]string
	s.prepare = func(t testing.TB, b *wrongClock) (Config, leaseOptions) {
		base, old = b, nil
		cfg := Config{Redis: c, Space: space(), Layout: few}
		made, err := openRedis(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := made.(*redisStore)
		r.clock, r.margin, key = base.Now, margin, r.key
		// An empty store has nothing to wait out; so that a history may begin before its clock has moved.
		info := c.UniversalClient().Info(t.Context(), "server").Val()
		_, run, _ := strings.Cut(info, "run_id:")
		if err := c.UniversalClient().HSet(t.Context(), key, "layout", few.String(), "run", run[:40], "rest", "0").Err(); err != nil {
			t.Fatal(err)
		}
		return cfg, leaseOptions{store: r}
	}
	s.lose = func(t testing.TB, rng *rand.Rand) {
		u := c.UniversalClient()
		var err error
		switch {
		case rng.IntN(3) == 0 || old == nil: // what a log or a replica has so far
			old, err = u.HGetAll(t.Context(), key).Result()
		case rng.IntN(3) == 0: // it comes back empty
			err = u.Del(t.Context(), key).Err()
		default: // it comes back as it was then, as another process
			err = u.Del(t.Context(), key).Err()
			for f, v := range old {
				if f == "run" {
					v = strconv.Itoa(rng.Int())
				}
				if e := u.HSet(t.Context(), key, f, v).Err(); e != nil {
					err = e
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if rng.IntN(2) == 0 {
			base.step(time.Duration(rng.IntN(4000)) * time.Millisecond)
		}
	}
	return s
}

func TestRedisFleet(t *testing.T) {
	n := max(runs(t, 60), 10)
	if bad := fleet(t, redisWorld(t, redisMargin), n, nil); bad != 0 {
		t.Errorf("duplicates in %d histories", bad)
	}
	steady := redisWorld(t, redisMargin)
	steady.lose = nil
	if bad := fleet(t, steady, max(n/3, 20), trustsTheClock); bad == 0 {
		t.Error("without the floor no duplicate was found")
	}
}

// A Redis that has forgotten who holds number 0 gives it away again while its owner still gives ids. Only the rest keeps the two apart: the
// control does without.
func TestRedisForgetsAnOwner(t *testing.T) {
	for _, margin := range []time.Duration{redisMargin, -redisMost} {
		s := redisWorld(t, margin)
		s.odd = false
		base := newWrongClock()
		cfg, opt := s.prepare(t, base)
		born := func() *Generator {
			done := make(chan struct{})
			go func() { // the store's clock is the test's: it moves while the new life waits for it
				for {
					select {
					case <-done:
						return
					case <-time.After(20 * time.Millisecond):
						base.step(300 * time.Millisecond)
					}
				}
			}()
			g, err := open(t.Context(), cfg, quiet(base.Now), options{lease: opt})
			close(done)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(g.crash)
			return g
		}
		owner := born()
		all := make([]int64, 2_000_000) // half a second ahead of the clock
		if err := owner.NextN(all); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Redis.UniversalClient().Del(t.Context(), opt.store.(*redisStore).key).Err(); err != nil {
			t.Fatal(err)
		}
		thief := born()
		if thief.Worker() != owner.Worker() {
			t.Fatalf("workers %d and %d: nothing was forgotten", thief.Worker(), owner.Worker())
		}
		for _, g := range []*Generator{owner, thief} {
			more := make([]int64, 2_000_000)
			if g.NextN(more) == nil {
				all = append(all, more...)
			}
		}
		switch d := duplicates(all); {
		case margin == redisMargin && d != 0:
			t.Errorf("%d duplicates", d)
		case margin != redisMargin && d == 0:
			t.Error("without the rest no duplicate was found: this test could not find a real one either")
		}
	}
}

// shared are the stores that nodes share, each empty.
func sharedStores(t *testing.T, test func(t *testing.T, cfg func() Config)) {
	t.Run("sql", func(t *testing.T) {
		s := openWorld(t)
		test(t, func() Config { return Config{DB: s.d} })
	})
	t.Run("etcd", func(t *testing.T) {
		e := testEtcd(t)
		test(t, func() Config { return Config{Etcd: e} })
	})
	t.Run("redis", func(t *testing.T) {
		c := testRedis(t)
		test(t, func() Config { return Config{Redis: c} })
	})
}

// Two nodes, and forty, that start at once on an empty store do not get the same number (Leaf issue 98); after a clean stop the numbers come
// back, and a later life goes on above.
func TestNodesOnAnEmptyStore(t *testing.T) {
	sharedStores(t, func(t *testing.T, cfg func() Config) {
		for _, nodes := range []int{2, 40} {
			cfg := cfg()
			cfg.Space, cfg.Layout = space(), Layout{Epoch: Default.Epoch, Unit: time.Millisecond, TimeBits: 41, WorkerBits: 6, SeqBits: 12}
			for range 2 { // the second time the numbers are those that were given back
				var wg sync.WaitGroup
				gens := make([]*Generator, nodes)
				ids := make([][]int64, nodes)
				for i := range nodes {
					wg.Go(func() {
						cfg := cfg
						cfg.Node = fmt.Sprint("node-", i)
						var err error
						if gens[i], err = Open(context.Background(), cfg, quiet(time.Now)); err != nil {
							t.Error(err)
							return
						}
						ids[i] = make([]int64, 500)
						if err := gens[i].NextN(ids[i]); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				held := map[int]bool{}
				var all []int64
				for i, g := range gens {
					if g == nil {
						t.FailNow()
					}
					held[g.Worker()] = true
					all = append(all, ids[i]...)
					if err := g.Close(); err != nil {
						t.Error(err)
					}
				}
				if len(held) != nodes {
					t.Errorf("%d numbers for %d nodes", len(held), nodes)
				}
				if d := duplicates(all); d != 0 {
					t.Errorf("%d duplicates", d)
				}
			}
		}
	})
}

// A space keeps its layout in every store; another one is a conflict, and two spaces have numbers of their own.
func TestSpacesOfStores(t *testing.T) {
	sharedStores(t, func(t *testing.T, cfg func() Config) {
		c := cfg()
		c.Space, c.Layout = space(), JS53
		a, err := Open(t.Context(), c, quiet(time.Now))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if id := mustNext(t, a); id >= 1<<53 {
			t.Errorf("%d is too large for JavaScript", id)
		}
		c.Layout = few
		var e *Generator
		if e, err = Open(t.Context(), c, quiet(time.Now)); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("another layout: %v, %v", e, err)
		}
		c.Space = space()
		b, err := Open(t.Context(), c, quiet(time.Now))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if a.Worker() != b.Worker() {
			t.Errorf("worker %d of one space, %d of another", a.Worker(), b.Worker())
		}
	})
}

func mustShared(t testing.TB, cfg Config) *Generator {
	t.Helper()
	g, err := Open(t.Context(), cfg, quiet(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// untilItGives asks until an id is given; every refusal must be the promised one.
func untilItGives(t testing.TB, g *Generator, within time.Duration) int64 {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		id, err := g.Next()
		if err == nil {
			return id
		}
		if levee.CodeOf(err) != levee.CodeUnavailable || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// A Redis without a log that is killed comes back empty: it has forgotten who holds which number, and up to where. Nobody may get an id
// twice, and those who were there go on by themselves.
func TestRedisForgets(t *testing.T) {
	s, err := backends.StartRedis(t.Context(), backends.RedisOptions{})
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := openTestRedis(t, s)
	began := time.Now()
	old := mustShared(t, Config{Redis: c})
	if took := time.Since(began); took < time.Second {
		t.Errorf("the first claim of an empty Redis took %v: it must wait until what a lost one may have promised is over", took)
	}
	began = time.Now()
	second := mustShared(t, Config{Redis: c})
	if took := time.Since(began); took > time.Second || second.Worker() == old.Worker() {
		t.Errorf("the second claim took %v and got worker %d", took, second.Worker())
	}
	var all []int64
	give := func(g *Generator, n int) {
		ids := make([]int64, n)
		if err := g.NextN(ids); err == nil {
			all = append(all, ids...)
		}
	}
	give(old, 5_000_000) // more than a second ahead of the clock
	give(second, 1000)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	give(old, 1000)
	second.crash()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	for !c.Healthy() && time.Since(began) < 10*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	next := mustShared(t, Config{Redis: c}) // may get any number
	give(next, 100_000)
	another := mustShared(t, Config{Redis: c})
	give(another, 100_000)
	if id, err := old.Next(); err == nil { // its number may be another's now
		all = append(all, id)
	} else if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Error(err)
	}
	time.Sleep(3 * time.Second)
	give(old, 20_000_000)
	give(next, 20_000_000)
	n := len(all)
	if d := duplicates(all); d != 0 {
		t.Errorf("%d duplicates in %d ids", d, n)
	}
	// One that nobody has robbed meanwhile goes on by itself.
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := mustNext(t, another)
	time.Sleep(4 * time.Second)
	if id := untilItGives(t, another, 10*time.Second); id <= last {
		t.Errorf("%d after %d", id, last)
	}
}

// etcd is killed and paused: ids go on to the horizon, then end with the promised error, and go on when it is back.
func TestEtcdIsAway(t *testing.T) {
	s, err := backends.StartEtcd(t.Context(), backends.EtcdOptions{})
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	e, err := OpenEtcd(t.Context(), EtcdConfig{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	g := mustShared(t, Config{Etcd: e, Ahead: time.Second})
	last := mustNext(t, g)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	mustNext(t, g) // the horizon is ahead
	time.Sleep(1200 * time.Millisecond)
	ids := make([]int64, 1<<16)
	for err = nil; err == nil; err = g.NextN(ids) {
	}
	if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("past the horizon: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	if _, err := Open(short, Config{Etcd: e}, quiet(time.Now)); levee.CodeOf(err) != levee.CodeUnavailable || time.Since(began) > 2*time.Second {
		t.Errorf("a claim of a store that is away: %v after %v", err, time.Since(began))
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id := untilItGives(t, g, 20*time.Second); id <= last {
		t.Errorf("%d after %d", id, last)
	}
}

func TestBadStores(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:1", "http://127.0.0.1:1", "etcd://", "etcd://h", "etcd://h:0", "etcd://h:99999", "etcd://a:secret@h:1", "etcd://h:1/x",
		"etcd://h\xff", "etcd://" + strings.Repeat("h:1,", 600), "etcd://" + strings.TrimSuffix(strings.Repeat("h:1,", 17), ",")} {
		_, err := OpenEtcd(t.Context(), EtcdConfig{URL: url})
		if levee.CodeOf(err) != levee.CodeInvalid || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, c := range []EtcdConfig{{URL: "etcd://h:1", CA: "x"}, {URL: "etcds://h:1", CA: "no such file"}, {URL: "etcd://h:1", Prefix: "a b"}} {
		if _, err := OpenEtcd(t.Context(), c); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := OpenEtcd(short, EtcdConfig{URL: "etcd://127.0.0.1:1"}); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("nobody there: %v", err)
	}
	c := testRedis(t)
	for _, bad := range []Config{{Redis: c, Dir: "x"}, {Redis: c, Ahead: 6 * time.Second}, {Redis: c, Ahead: 10 * time.Millisecond}, {Redis: c, Node: "a\nb"}, {Redis: c, Node: "\xff"},
		{Redis: c, Space: "x", Layout: Layout{Epoch: Default.Epoch, Unit: time.Minute, TimeBits: 40, WorkerBits: 10, SeqBits: 10}}} {
		if _, err := Open(t.Context(), bad, quiet(time.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
