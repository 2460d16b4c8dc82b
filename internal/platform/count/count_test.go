package count

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/redis"
)

var background = context.Background()

// quiet is an Obs whose log says only what is wrong.
func quiet(t testing.TB) *obs.Obs {
	t.Helper()
	o := obs.Test(t)
	if err := o.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
	return o
}

// house is a database, and a Redis if the driver is that, on which nodes are opened.
type house struct {
	t      testing.TB
	dir    string
	db     *db.DB
	shared bool
	redis  redis.Config
	cfg    Config
}

func newHouse(t testing.TB, shared bool) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), shared: shared, cfg: Config{Every: time.Minute}}
	h.db = platformtest.DB(t, h.dir, quiet(t), Schema())
	if shared {
		h.redis = platformtest.Redis(t, h.dir)
		h.redis.Timeout = 2 * time.Second // a busy machine is no outage
	}
	return h
}

// node opens another process' counts: nothing is written but by Flush.
func (h *house) node() *Counts {
	h.t.Helper()
	if !h.shared {
		c, err := Open(h.db, h.cfg, quiet(h.t))
		if err != nil {
			h.t.Fatal(err)
		}
		c.settle = 0
		return c
	}
	o := quiet(h.t)
	client, err := redis.Open(background, h.redis, o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = client.Close() })
	c, err := OpenShared(h.db, h.cfg, client, o)
	if err != nil {
		h.t.Fatal(err)
	}
	c.settle = 0
	return c
}

func (h *house) tx(fn func(ctx context.Context, tx *db.Tx) error) error {
	return h.db.Tx(background, "test", fn)
}

// inSQL reads what lasts.
func (h *house) inSQL(kind string) map[string]int64 {
	h.t.Helper()
	m := map[string]int64{}
	rows, err := h.db.Query(background, `SELECT name, n FROM count_value WHERE kind = ?`, kind)
	if err == nil {
		err = drain(rows, func(scan func(...any) error) error {
			var k string
			var n int64
			err := scan(&k, &n)
			m[k] = n
			return err
		})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, c *Counter, name string, n int64) {
	t.Helper()
	if got, err := c.Get(background, name); err != nil || got != n {
		t.Errorf("%s is %d (%v), want %d", name, got, err, n)
	}
}

// both runs a test with totals in memory and in Redis. The engine of SQL is the tier's.
func both(t *testing.T, fn func(t *testing.T, h *house)) {
	for _, shared := range []bool{false, true} {
		t.Run(map[bool]string{false: "memory", true: "redis"}[shared], func(t *testing.T) { fn(t, newHouse(t, shared)) })
	}
}

func TestCounters(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		c := h.node()
		likes, reads := c.Counter("article.likes"), c.Counter("article.reads")
		want(t, likes, "1", 0)
		must(t, likes.Add(background, "1", 3))
		must(t, likes.Add(background, "1", -5))
		must(t, reads.Add(background, "1", 100))
		must(t, likes.Add(background, "ä/漢 {x}:y", 1))
		want(t, likes, "1", -2)
		must(t, likes.Set(background, "1", 40))
		must(t, likes.Add(background, "1", 2))
		must(t, likes.Set(background, "new", 7))
		m, err := likes.GetMany(background, []string{"1", "new", "none", "ä/漢 {x}:y"})
		if err != nil || m["1"] != 42 || m["new"] != 7 || m["none"] != 0 || m["ä/漢 {x}:y"] != 1 {
			t.Errorf("%v %v", m, err)
		}
		must(t, c.Flush(background))
		must(t, c.Flush(background)) // nothing twice
		if got := h.inSQL("article.likes"); got["1"] != 42 || got["new"] != 7 || got["ä/漢 {x}:y"] != 1 {
			t.Errorf("SQL has %v", got)
		}
		must(t, likes.Add(background, "1", Most))
		must(t, likes.Add(background, "1", -Most))
		must(t, likes.Set(background, "1", -9))
		must(t, c.Flush(background))
		again := h.node()
		want(t, again.Counter("article.likes"), "1", -9)
		want(t, again.Counter("article.reads"), "1", 100)
		for name, err := range map[string]error{
			"empty key": likes.Add(background, "", 1), "long key": likes.Add(background, fmt.Sprintf("%0191d", 1), 1), "too much": likes.Add(background, "1", Most+1),
			"control": likes.Add(background, "a\x00b", 1), "too little": likes.Set(background, "1", -Most-1), "no text": likes.Add(background, "\xff", 1),
		} {
			if levee.CodeOf(err) != levee.CodeInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := likes.GetMany(background, make([]string, 1001)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Error(err)
		}
		many := make([]string, 1000)
		for i := range many {
			many[i] = strconv.Itoa(i)
			must(t, reads.Add(background, many[i], int64(i)))
		}
		must(t, c.Flush(background))
		m, err = h.node().Counter("article.reads").GetMany(background, many)
		for i, n := range many {
			if w := int64(i) + map[bool]int64{true: 100}[i == 1]; err != nil || m[n] != w {
				t.Fatalf("%s is %d, want %d: %v", n, m[n], w, err)
			}
		}
	})
}

// What is added in a transaction is counted if and only if that commits, whoever looks.
func TestAddTx(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		a := h.node()
		b := a
		if h.shared {
			b = h.node()
		}
		ca, cb := a.Counter("k"), b.Counter("k")
		want(t, cb, "x", 0)
		must(t, ca.Add(background, "x", 1))
		must(t, h.tx(func(ctx context.Context, tx *db.Tx) error { return ca.AddTx(ctx, tx, "x", 10) }))
		want(t, ca, "x", 11)
		want(t, cb, "x", 11)
		undone := errors.New("undone")
		if err := h.tx(func(ctx context.Context, tx *db.Tx) error { return cmp.Or(ca.AddTx(ctx, tx, "x", 100), undone) }); !errors.Is(err, undone) {
			t.Fatal(err)
		}
		want(t, cb, "x", 11)
		if got := h.inSQL("k")["x"]; got != 10 {
			t.Errorf("SQL has %d before the flush, want 10", got)
		}
		must(t, b.Flush(background))
		must(t, h.tx(func(ctx context.Context, tx *db.Tx) error { return cb.AddTx(ctx, tx, "x", 1000) }))
		want(t, ca, "x", 1011)
		// Everything at once: readers, writers, flushes.
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := []*Counter{ca, cb}[i%2]
				for range 10 {
					must(t, c.Add(background, "x", 1))
					must(t, h.tx(func(ctx context.Context, tx *db.Tx) error { return c.AddTx(ctx, tx, "x", 1) }))
					if _, err := c.Get(background, "x"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() {
			for range 5 {
				must(t, a.Flush(background))
			}
		})
		wg.Wait()
		want(t, ca, "x", 1171)
		want(t, cb, "x", 1171)
		must(t, a.Flush(background))
		must(t, b.Flush(background))
		want(t, cb, "x", 1171)
		if got := h.inSQL("k")["x"]; got != 1171 {
			t.Errorf("SQL has %d", got)
		}
	})
}

// Many add on several nodes while all write: it adds up, also where answers of SQL are lost.
func TestAddsAddUp(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		nodes := []*Counts{h.node()}
		if h.shared {
			nodes = append(nodes, h.node(), h.node())
		}
		lost := errors.New("the answer was lost")
		var losses atomic.Int64
		for _, n := range nodes {
			n.store.fault = func() error {
				if rand.N(3) == 0 {
					losses.Add(1)
					return lost
				}
				return nil
			}
		}
		var wg, writers sync.WaitGroup
		stop := make(chan struct{})
		for _, n := range nodes {
			writers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if err := n.Flush(background); err != nil && !errors.Is(err, lost) {
							t.Error(err)
						}
					}
				}
			})
		}
		const each = 200
		for i := range 16 {
			wg.Go(func() {
				c := nodes[i%len(nodes)].Counter("k")
				for j := range each {
					time.Sleep(rand.N(300 * time.Microsecond))
					must(t, c.Add(background, strconv.Itoa(j%7), 1))
				}
			})
		}
		wg.Wait()
		close(stop)
		writers.Wait()
		for _, n := range nodes {
			n.store.fault = nil
			must(t, n.Flush(background))
		}
		var sum int64
		for _, n := range h.inSQL("k") {
			sum += n
		}
		if sum != 16*each {
			t.Errorf("SQL has %d, %d were added, %d answers were lost", sum, 16*each, losses.Load())
		}
		if losses.Load() == 0 {
			t.Error("no answer was lost")
		}
	})
}

func TestBoards(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		c := h.node()
		b := c.Board("hot", 5)
		if es, err := b.Top(background, "all", 0, 10); err != nil || len(es) != 0 {
			t.Fatal(es, err)
		}
		for i, m := range []string{"a", "b", "c", "d"} {
			must(t, b.Incr(background, "all", m, int64(10*(i/2))))
		}
		must(t, b.Set(background, "all", "top", Most))
		must(t, b.Set(background, "other", "x", -1))
		show := func(b *Board, key string, offset, n int) string {
			es, err := b.Top(background, key, offset, n)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(es)
		}
		first := "[{top 9007199254740992} {d 10} {c 10} {b 0} {a 0}]"
		if got := show(b, "all", 0, 10); got != first {
			t.Errorf("%s", got)
		}
		if got := show(b, "all", 1, 2); got != "[{d 10} {c 10}]" {
			t.Errorf("%s", got)
		}
		if r, s, ok, err := b.Rank(background, "all", "c"); r != 2 || s != 10 || !ok || err != nil {
			t.Error(r, s, ok, err)
		}
		if _, _, ok, err := b.Rank(background, "all", "nobody"); ok || err != nil {
			t.Error(ok, err)
		}
		must(t, c.Flush(background))
		if got := show(h.node().Board("hot", 5), "all", 0, 10); got != first {
			t.Errorf("SQL and another node have %s", got)
		}
		// A sixth pushes the lowest out, which is forgotten: back again it begins at zero.
		must(t, b.Incr(background, "all", "e", 3))
		must(t, b.Incr(background, "all", "b", -4))
		if got := show(b, "all", 0, 10); got != "[{top 9007199254740992} {d 10} {c 10} {e 3} {b -4}]" {
			t.Errorf("%s", got)
		}
		must(t, b.Incr(background, "all", "a", 7))
		must(t, c.Flush(background))
		last := "[{top 9007199254740992} {d 10} {c 10} {a 7} {e 3}]"
		if got := show(b, "all", 0, 10); got != last {
			t.Errorf("%s", got)
		}
		es, err := c.store.board(background, key{"hot", "all"}, 0, 100)
		if err != nil || fmt.Sprint(es) != last {
			t.Errorf("SQL has %v %v", es, err)
		}
		if err := b.Set(background, "all", "", 1); levee.CodeOf(err) != levee.CodeInvalid {
			t.Error(err)
		}
	})
}

// A board that is counted anew has what was changed meanwhile; an error leaves the old one; two at once are one.
func TestRebuild(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		c := h.node()
		other := c
		if h.shared {
			other = h.node()
		}
		b, ob := c.Board("hot", 3), other.Board("hot", 3)
		for m, s := range map[string]int64{"a": 1, "b": 2, "c": 3} {
			must(t, b.Set(background, "k", m, s))
		}
		must(t, c.Flush(background))
		wrong := errors.New("the walk failed")
		if _, err := b.Rebuild(background, "k", func(ctx context.Context, put func(string, int64) error) error {
			return cmp.Or(put("z", 100), wrong)
		}); !errors.Is(err, wrong) {
			t.Error(err)
		}
		want := func(when, list string) {
			t.Helper()
			for _, b := range []*Board{b, ob} {
				if es, err := b.Top(background, "k", 0, 10); err != nil || fmt.Sprint(es) != list {
					t.Errorf("%s: %v %v, want %s", when, es, err, list)
				}
			}
		}
		want("after an error", "[{c 3} {b 2} {a 1}]")
		d, err := b.Rebuild(background, "k", func(ctx context.Context, put func(string, int64) error) error {
			must(t, put("a", 10)) // the snapshot; SCAN and pages of a table that changes give a member twice
			must(t, put("b", 999))
			must(t, put("b", 20))
			must(t, ob.Incr(background, "k", "a", 5)) // since then
			must(t, ob.Incr(background, "k", "n", 12))
			must(t, ob.Set(background, "k", "b", 21))
			must(t, ob.Incr(background, "k", "b", 1))
			want("while it runs", "[{b 22} {n 12} {a 6}]") // c was pushed out
			must(t, other.Flush(background))
			if _, err := ob.Rebuild(background, "k", nil); levee.CodeOf(err) != levee.CodeConflict {
				t.Errorf("a second rebuild at once: %v", err)
			}
			return nil
		})
		must(t, err)
		want("after it", "[{b 22} {a 15} {n 12}]")
		if d.Differ != 1 || d.Sum != 9 || d.Keys != 3 {
			t.Errorf("drift %+v", d)
		}
		must(t, c.Flush(background))
		es, err := c.store.board(background, key{"hot", "k"}, 0, 100)
		if err != nil || fmt.Sprint(es) != "[{b 22} {a 15} {n 12}]" {
			t.Errorf("SQL has %v %v", es, err)
		}
	})
}

// likes is the truth: a row for each like, and its changes as a room makes them.
type likes struct {
	mu   sync.RWMutex
	rows map[string]int64
}

func (l *likes) keys(_ context.Context, after string) ([]string, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var ks []string
	for k := range l.rows {
		if k > after {
			ks = append(ks, k)
		}
	}
	slices.Sort(ks)
	ks = ks[:min(len(ks), 50)]
	return append(slices.Clone(ks), ks...), nil // each twice
}

func (l *likes) count(_ context.Context, keys []string) (map[string]int64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	m := map[string]int64{}
	for _, k := range keys {
		m[k] = l.rows[k]
	}
	return m, nil
}

func (l *likes) truth() Truth { return Truth{l.keys, l.count} }

func (l *likes) add(k string, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows[k] += n
}

func TestCorrect(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		c := h.node()
		k := c.Counter("likes")
		l := &likes{rows: map[string]int64{}}
		for i := range 300 {
			name := strconv.Itoa(i)
			l.add(name, int64(i))
			if i%3 > 0 {
				must(t, k.Add(background, name, int64(i)))
			}
		}
		must(t, k.Add(background, "5", 7))
		must(t, k.Add(background, "deleted", 9)) // the owner has it no more
		must(t, c.Flush(background))
		must(t, k.Add(background, "7", -3)) // wrong, and not in SQL yet
		must(t, k.Add(background, "fresh", 1))
		l.add("fresh", 1)
		// An error anywhere changes nothing.
		before := h.inSQL("likes")
		calls := 0
		wrong := errors.New("the walk failed")
		_, err := k.Correct(background, Truth{l.keys, func(ctx context.Context, keys []string) (map[string]int64, error) {
			if calls++; calls == 4 {
				return nil, wrong
			}
			return l.count(ctx, keys)
		}})
		if !errors.Is(err, wrong) || fmt.Sprint(h.inSQL("likes")) != fmt.Sprint(before) {
			t.Errorf("after an error %v SQL was changed", err)
		}
		d, err := k.Correct(background, l.truth())
		must(t, err)
		// of 0, 3, 6, …, 297 all but 0 lacked; and 5, deleted, 7
		if d.Differ != 99+3 || d.Sum != 3*99*100/2+7+9+3 || d.Unsure != 0 {
			t.Errorf("%+v", d)
		}
		for i := range 300 {
			want(t, k, strconv.Itoa(i), int64(i))
		}
		want(t, k, "deleted", 0)
		want(t, k, "fresh", 1)
		must(t, c.Flush(background))
		if d, err := k.Correct(background, l.truth()); err != nil || d.Differ != 0 || d.Keys != 302 {
			t.Errorf("a second time: %+v %v", d, err)
		}
	})
}

// crowd changes truth and totals on all nodes until stop.
func crowd(t *testing.T, cs []*Counter, l *likes, keys int, stop chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			c := cs[i%len(cs)]
			for {
				select {
				case <-stop:
					return
				case <-time.After(rand.N(2 * time.Millisecond)):
				}
				name, n := strconv.Itoa(rand.N(keys)), int64(1-2*rand.N(2))
				l.add(name, n)
				if err := c.Add(background, name, n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	return &wg
}

func differences(t *testing.T, c *Counter, l *likes) (wrong int) {
	for name, n := range l.rows {
		got, err := c.Get(background, name)
		if err != nil {
			t.Fatal(err)
		}
		if got != n {
			wrong++
		}
	}
	return wrong
}

// A correction in the midst of a crowd mends what is wrong and loses nothing of what is added meanwhile.
func TestCorrectInACrowd(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		c, cs, l, nodes := crowded(t, h)
		c.settle = 20 * time.Millisecond
		stop := make(chan struct{})
		wg := crowd(t, cs, l, 40, stop)
		for range 5 {
			must(t, nodes[0].Flush(background))
			if _, err := cs[0].Correct(background, l.truth()); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		wg.Wait()
		// What changed each time it was looked at is mended when it is quiet.
		d, err := cs[0].Correct(background, l.truth())
		must(t, err)
		for _, n := range nodes {
			must(t, n.Flush(background))
		}
		if n := differences(t, cs[0], l); n > 0 || d.Unsure > 0 {
			t.Errorf("%d of %d totals are wrong, %+v", n, len(l.rows), d)
		}
		// Without the crowd nothing is left to mend: the corrections in it have lost nothing.
		if d.Differ > 3 {
			t.Errorf("the last correction still found %+v", d)
		}
	})
}

func crowded(t *testing.T, h *house) (*Counts, []*Counter, *likes, []*Counts) {
	nodes := []*Counts{h.node()}
	if h.shared {
		nodes = append(nodes, h.node())
	}
	l := &likes{rows: map[string]int64{}}
	var cs []*Counter
	for _, n := range nodes {
		cs = append(cs, n.Counter("likes"))
	}
	for i := range 200 { // wrong from the beginning
		l.add(strconv.Itoa(i), 5)
	}
	return nodes[0], cs, l, nodes
}

// The same crowd must find a correction that sets what it has counted, and leaves out what was added since.
func TestCorrectionThatForgetsAddsIsFound(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		_, cs, l, nodes := crowded(t, h)
		stop := make(chan struct{})
		wg := crowd(t, cs, l, 40, stop)
		for range 10 {
			truth, err := l.count(background, keysOf(l))
			must(t, err)
			l.add("0", 1000) // added since for certain, whatever the crowd comes to
			must(t, cs[0].Add(background, "0", 1000))
			time.Sleep(5 * time.Millisecond)
			for name, n := range truth {
				must(t, cs[0].Set(background, name, n))
			}
		}
		close(stop)
		wg.Wait()
		for _, n := range nodes {
			must(t, n.Flush(background))
		}
		if differences(t, cs[0], l) == 0 {
			t.Error("no total is wrong: this test cannot see what it looks for")
		}
	})
}

func keysOf(l *likes) (ks []string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for k := range l.rows {
		ks = append(ks, k)
	}
	return ks
}

// Two corrections at once mend once; without the fence the difference is added twice.
func TestTwoCorrections(t *testing.T) {
	both(t, func(t *testing.T, h *house) {
		for _, fenced := range []bool{true, false} {
			c := h.node()
			kind := fmt.Sprintf("likes.%v", fenced)
			k := c.Counter(kind)
			l := &likes{rows: map[string]int64{"a": 5, "b": 6}}
			// The first finds its differences and sleeps; the second does all its work; the first wakes.
			fence, err := c.store.beginRun(background, kind)
			must(t, err)
			found, _, err := k.differences(background, l.truth(), []string{"a", "b"})
			must(t, err)
			_, err = k.Correct(background, l.truth())
			must(t, err)
			if !fenced {
				fence = unfenced
			}
			err = c.store.note(background, kind, fence, found)
			if err == nil {
				_, err = c.store.apply(background, kind, fence, c.driver.joinTx)
			}
			a, e := k.Get(background, "a")
			must(t, e)
			switch {
			case fenced && (levee.CodeOf(err) != levee.CodeConflict || a != 5):
				t.Errorf("the sleeper: %v, a is %d", err, a)
			case !fenced && a != 10:
				t.Errorf("without the fence a is %d: this test cannot see what it looks for", a)
			}
		}
	})
}
