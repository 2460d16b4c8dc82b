package count

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/redis"
)

// privateHouse has a Redis of its own, which may be killed, behind a proxy that may lose answers.
func privateHouse(t testing.TB, o backends.RedisOptions) (*house, *backends.RedisServer, *backends.Proxy) {
	t.Helper()
	s, err := backends.StartRedis(background, o)
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p, err := backends.StartProxy(background, s.URL())
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	url, err := p.URL(s.URL())
	must(t, err)
	h := newHouse(t, false)
	h.shared, h.redis = true, redis.Config{URL: url, Timeout: 500 * time.Millisecond} // a busy machine is no outage
	return h, s, p
}

func healthy(t testing.TB, cs ...*Counts) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ok := true
		for _, c := range cs {
			ok = ok && c.driver.(*remote).client.Healthy()
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal("Redis does not come back")
		}
	}
}

// Redis dies and comes back with nothing: what was added since the last writing is lost, and nothing else; nothing is counted twice.
func TestRedisLosesEverything(t *testing.T) {
	h, s, _ := privateHouse(t, backends.RedisOptions{})
	a, b := h.node(), h.node()
	k, kb, hot := a.Counter("k"), b.Counter("k"), a.Board("hot", 10)
	must(t, k.Add(background, "x", 10))
	must(t, kb.Add(background, "x", 1))
	must(t, hot.Set(background, "all", "m", 5))
	must(t, a.Flush(background))
	must(t, k.Add(background, "x", 100)) // will be lost
	must(t, s.Kill())
	for range 20 { // the first finds out by itself, the rest go by the breaker
		must(t, k.Add(background, "x", 1000))
	}
	must(t, hot.Incr(background, "all", "m", 1))
	if got, err := k.Get(background, "x"); err != nil || got < 11 || got > 11+20_000 {
		t.Errorf("while Redis is away: %d %v", got, err)
	}
	if es, err := hot.Top(background, "all", 0, 3); err != nil || fmt.Sprint(es) != "[{m 5}]" {
		t.Errorf("while Redis is away: %v %v", es, err)
	}
	if err := k.Set(background, "x", 1); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("Set: %v", err)
	}
	if _, err := k.Correct(background, Truth{func(context.Context, string) ([]string, error) { return nil, nil }, nil}); err == nil {
		t.Error("a correction ran without Redis")
	}
	if err := a.Flush(background); levee.CodeOf(err) != levee.CodeUnavailable { // the node writes by itself, and says that Redis' is not written
		t.Error(err)
	}
	if got := h.inSQL("k")["x"]; got < 19_011 {
		t.Errorf("SQL has %d while Redis is away", got)
	}
	must(t, s.Restart(background))
	healthy(t, a, b)
	must(t, a.Flush(background))
	must(t, a.Flush(background))
	want(t, k, "x", 20_011)
	want(t, kb, "x", 20_011)
	if es, err := hot.Top(background, "all", 0, 3); err != nil || fmt.Sprint(es) != "[{m 6}]" {
		t.Errorf("afterwards: %v %v", es, err)
	}
	must(t, kb.Add(background, "x", 5))
	must(t, b.Flush(background))
	must(t, b.Flush(background))
	if got := h.inSQL("k")["x"]; got != 20_016 {
		t.Errorf("SQL has %d", got)
	}
}

// Redis that keeps a log loses nothing when it is killed.
func TestRedisWithALog(t *testing.T) {
	h, s, _ := privateHouse(t, backends.RedisOptions{AOF: true})
	a := h.node()
	k := a.Counter("k")
	for range 3 {
		must(t, k.Add(background, "x", 10))
		must(t, a.Flush(background))
		must(t, k.Add(background, "x", 1))
		must(t, s.Kill())
		must(t, s.Restart(background))
		healthy(t, a)
	}
	want(t, k, "x", 33)
	must(t, a.Flush(background))
	if got := h.inSQL("k")["x"]; got != 33 {
		t.Errorf("SQL has %d", got)
	}
}

// Redis goes back in time, to before a writing: nothing of what is in SQL is counted again.
func TestRedisGoesBack(t *testing.T) {
	h, _, _ := privateHouse(t, backends.RedisOptions{})
	a := h.node()
	k, r := a.Counter("k"), a.driver.(*remote)
	must(t, k.Add(background, "x", 10))
	u := r.client.UniversalClient()
	name := r.at("v", key{"k", "x"})
	old, err := u.HGetAll(background, name).Result()
	must(t, err)
	must(t, k.Add(background, "x", 5)) // SQL knows of it, the promoted replica does not
	must(t, a.Flush(background))
	must(t, u.Del(background, name).Err())
	must(t, u.HSet(background, name, old).Err())
	must(t, u.SAdd(background, r.dirty(laneOf(key{"k", "x"})), dirtyName(false, key{"k", "x"})).Err())
	must(t, a.Flush(background))
	if got := h.inSQL("k")["x"]; got != 10 && got != 15 {
		t.Errorf("SQL has %d: only the 5 that Redis forgot may be missing", got)
	}
	want(t, k, "x", h.inSQL("k")["x"])
	// The control: an older writing that simply adds again.
	must(t, h.tx(func(ctx context.Context, tx *db.Tx) error {
		return a.store.addTx(ctx, tx, []change{{key{"k", "x"}, 10}})
	}))
	if got := h.inSQL("k")["x"]; got <= 15 {
		t.Errorf("the control added nothing: %d", got)
	}
}

// What a node read before another one's writing is not written after it.
func TestWriterThatSlept(t *testing.T) {
	for _, fenced := range []bool{true, false} {
		t.Run(fmt.Sprint("fenced ", fenced), func(t *testing.T) {
			h := newHouse(t, true)
			a, b := h.node(), h.node()
			k, ra, rb := a.Counter("k"), a.driver.(*remote), b.driver.(*remote)
			kk := key{"k", "x"}
			must(t, k.Add(background, "x", 5))
			turns, err := a.store.turns(background)
			must(t, err)
			slept := &taken{lane: laneOf(kk), turn: turns[laneOf(kk)], counters: []key{kk}}
			must(t, ra.readTaken(background, slept))
			must(t, b.Flush(background))
			must(t, ra.client.UniversalClient().Del(background, ra.at("v", kk)).Err()) // it ended
			must(t, k.Add(background, "x", 1))
			must(t, rb.flush(background))
			if !fenced {
				turns, err = a.store.turns(background)
				must(t, err)
				slept.turn = turns[slept.lane]
			}
			must(t, ra.writeTaken(background, []*taken{slept}))
			if got := h.inSQL("k")["x"]; fenced && got != 6 || !fenced && got == 6 {
				t.Errorf("SQL has %d", got)
			}
		})
	}
}

// Answers of Redis are lost again and again while many add: each change is counted once.
func TestLostAnswers(t *testing.T) {
	for _, numbered := range []bool{true, false} {
		t.Run(fmt.Sprint("numbered ", numbered), func(t *testing.T) {
			h, _, p := privateHouse(t, backends.RedisOptions{})
			h.redis.Timeout = 30 * time.Millisecond
			a := h.node()
			r := a.driver.(*remote)
			if !numbered { // the control: sent again as if it were new
				r.fault = func(l *lane, b *sending) {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.number++
					b.number = l.number
				}
			}
			k := a.Counter("k")
			var added atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for i := range 8 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(rand.N(3 * time.Millisecond)):
						}
						if err := k.Add(background, strconv.Itoa(i), 1); err != nil {
							t.Error(err)
						}
						added.Add(1)
					}
				})
			}
			doubts := 0
			for range 6 {
				time.Sleep(60 * time.Millisecond)
				must(t, p.DropAnswers(true))
				time.Sleep(50 * time.Millisecond)
				must(t, p.DropAnswers(false))
				for at := range r.lanes {
					l := &r.lanes[at]
					l.mu.Lock()
					if l.doubt != nil {
						doubts++
					}
					l.mu.Unlock()
				}
				healthy(t, a)
			}
			close(stop)
			wg.Wait()
			for range 100 {
				if a.Flush(background) == nil {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			must(t, a.Flush(background))
			var sum int64
			for _, n := range h.inSQL("k") {
				sum += n
			}
			if doubts == 0 {
				t.Fatal("no batch was in doubt")
			}
			if numbered && sum != added.Load() {
				t.Errorf("%d were added, SQL has %d; %d batches were in doubt", added.Load(), sum, doubts)
			}
			if !numbered && sum <= added.Load() {
				t.Errorf("the control counted nothing twice: %d of %d, %d in doubt", sum, added.Load(), doubts)
			}
		})
	}
}

// A process that holds all it may refuses, and counts nothing of what it refused.
func TestFull(t *testing.T) {
	h := newHouse(t, false)
	h.cfg.Keys = 1000
	c := h.node()
	k := c.Counter("k")
	for i := range 1000 {
		must(t, k.Add(background, strconv.Itoa(i), 1))
	}
	if err := k.Add(background, "more", 1); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("%v", err)
	}
	must(t, c.Flush(background))
	must(t, k.Add(background, "more", 1))
	want(t, k, "more", 1)
	want(t, k, "3", 1)
}

// One node reads a key from SQL, whoever asks at once.
func TestOneLoad(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		c := h.node()
		must(t, c.Counter("k").Add(background, "x", 5))
		must(t, c.Flush(background))
		if h.shared {
			r := c.driver.(*remote)
			must(t, r.client.UniversalClient().Del(background, r.at("v", key{"k", "x"})).Err())
		} else {
			c = h.node()
		}
		k := c.Counter("k")
		before := counter(c.metrics.loads)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() { want(t, k, "x", 5) })
		}
		wg.Wait()
		if n := counter(c.metrics.loads) - before; n != 1 {
			t.Errorf("%v loads", n)
		}
	})
}

// A model: adds, transactions, sets, flushes, nodes that die and come, Redis that forgets what is in SQL, answers of SQL that are lost.
func TestModel(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			kind := fmt.Sprintf("k%d", round)
			var nodes []*Counts
			open := func() {
				n := h.node()
				nodes = append(nodes, n)
			}
			open()
			if h.shared {
				open()
			}
			defer func() {
				for _, n := range nodes {
					if r, ok := n.driver.(*remote); ok {
						_ = r.client.Close()
					}
				}
			}()
			lost := errors.New("lost")
			model := map[string]int64{}
			pick := func() *Counter { return nodes[rapid.IntRange(0, len(nodes)-1).Draw(rt, "node")].Counter(kind) }
			flush := func() {
				for _, n := range nodes {
					n.store.fault = nil
					if err := n.Flush(background); err != nil {
						rt.Fatal(err)
					}
				}
			}
			name := rapid.SampledFrom([]string{"a", "b", "c"})
			amount := rapid.Int64Range(-5, 5)
			check := func(err error) {
				if err != nil {
					rt.Fatal(err)
				}
			}
			rt.Repeat(map[string]func(*rapid.T){
				"add": func(rt *rapid.T) {
					k, n := name.Draw(rt, "key"), amount.Draw(rt, "n")
					check(pick().Add(background, k, n))
					model[k] += n
				},
				"addTx": func(rt *rapid.T) {
					k, n := name.Draw(rt, "key"), amount.Draw(rt, "n")
					c := pick()
					check(h.tx(func(ctx context.Context, tx *db.Tx) error { return c.AddTx(ctx, tx, k, n) }))
					model[k] += n
				},
				"set": func(rt *rapid.T) {
					k, n := name.Draw(rt, "key"), amount.Draw(rt, "n")
					check(pick().Set(background, k, n))
					model[k] = n
				},
				"flush": func(rt *rapid.T) { flush() },
				"flush, answer lost": func(rt *rapid.T) {
					n := nodes[rapid.IntRange(0, len(nodes)-1).Draw(rt, "node")]
					n.store.fault = func() error { return lost }
					if err := n.Flush(background); err != nil && !errors.Is(err, lost) {
						rt.Fatal(err)
					}
					n.store.fault = nil
				},
				"node dies": func(rt *rapid.T) {
					if !h.shared { // what it held is gone: only after a flush does the model know
						flush()
					}
					i := rapid.IntRange(0, len(nodes)-1).Draw(rt, "node")
					if r, ok := nodes[i].driver.(*remote); ok {
						_ = r.client.Close()
					}
					nodes = append(nodes[:i:i], nodes[i+1:]...)
					open()
				},
				"Redis forgets": func(rt *rapid.T) {
					if !h.shared {
						rt.Skip()
					}
					flush()
					r := nodes[0].driver.(*remote)
					for k := range model {
						check(r.client.UniversalClient().Del(background, r.at("v", key{kind, k})).Err())
					}
				},
				"correct": func(rt *rapid.T) {
					truth := &likes{rows: maps.Clone(model)}
					if k := name.Draw(rt, "key"); rapid.Bool().Draw(rt, "wrong") {
						truth.rows[k] += 3
						model[k] += 3
					}
					if len(truth.rows) == 0 {
						return
					}
					_, err := pick().Correct(background, truth.truth())
					check(err)
				},
				"": func(rt *rapid.T) {
					m, err := pick().GetMany(background, []string{"a", "b", "c"})
					check(err)
					for k, n := range m {
						if n != model[k] {
							rt.Fatalf("%s is %d, the model has %d", k, n, model[k])
						}
					}
				},
			})
			flush()
			for k, n := range h.inSQL(kind) {
				if n != model[k] {
					rt.Fatalf("SQL has %d for %s, the model %d", n, k, model[k])
				}
			}
		})
	})
}

// The same with a board, against a sorted slice.
func TestBoardModel(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		n := h.node()
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			k := strconv.Itoa(round)
			b := n.Board("hot", 4)
			model := map[string]int64{}
			check := func(err error) {
				if err != nil {
					rt.Fatal(err)
				}
			}
			trim := func() {
				es := highest(model, 4)
				clear(model)
				for _, e := range es {
					model[e.Member] = e.Score
				}
			}
			member, score := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "ä"}), rapid.Int64Range(-9, 9)
			rt.Repeat(map[string]func(*rapid.T){
				"incr": func(rt *rapid.T) {
					m, s := member.Draw(rt, "member"), score.Draw(rt, "score")
					check(b.Incr(background, k, m, s))
					model[m] += s
					trim()
				},
				"set": func(rt *rapid.T) {
					m, s := member.Draw(rt, "member"), score.Draw(rt, "score")
					check(b.Set(background, k, m, s))
					model[m] = s
					trim()
				},
				"flush and begin anew": func(rt *rapid.T) {
					check(n.Flush(background))
					if r, ok := n.driver.(*remote); ok {
						kk := key{"hot", k}
						check(r.client.UniversalClient().Del(background, r.at("m", kk), r.at("z", kk)).Err())
					} else {
						n = h.node()
						b = n.Board("hot", 4)
					}
				},
				"": func(rt *rapid.T) {
					es, err := b.Top(background, k, 0, 10)
					check(err)
					if w := highest(model, 10); fmt.Sprint(es) != fmt.Sprint(w) {
						rt.Fatalf("%v, the model has %v", es, w)
					}
					for i, e := range es {
						if r, s, ok, err := b.Rank(background, k, e.Member); r != i || s != e.Score || !ok || err != nil {
							rt.Fatal(r, s, ok, err)
						}
					}
				},
			})
		})
	})
}

// A cluster: keys of many lanes, on many servers.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster takes seconds to start")
	}
	s, err := backends.StartCluster(background, backends.ClusterOptions{})
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	h := newHouse(t, false)
	h.shared, h.redis = true, redis.Config{URL: s.URL(), Timeout: 2 * time.Second}
	c := h.node()
	k, b := c.Counter("k"), c.Board("hot", 10)
	var names []string
	for i := range 300 {
		names = append(names, strconv.Itoa(i))
		must(t, k.Add(background, names[i], int64(i)))
		must(t, b.Incr(background, names[i%20], names[i], int64(i)))
	}
	must(t, c.Flush(background))
	for _, n := range []*Counts{c, h.node()} {
		m, err := n.Counter("k").GetMany(background, names)
		must(t, err)
		for i, name := range names {
			if m[name] != int64(i) {
				t.Fatalf("%s is %d", name, m[name])
			}
		}
		if es, err := n.Board("hot", 10).Top(background, "7", 0, 1); err != nil || fmt.Sprint(es) != "[{287 287}]" {
			t.Error(es, err)
		}
	}
	if _, err := b.Rebuild(background, "7", func(_ context.Context, put func(string, int64) error) error { return put("only", 1) }); err != nil {
		t.Error(err)
	}
}
