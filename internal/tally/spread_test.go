package tally

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"levee/internal/platform/obs"
)

// air carries what nodes tell each other, without those who are cut off.
type air struct {
	mu   sync.Mutex // guards below, and queue, gate and cut of each desk
	all  []*desk
	lose float64 // of all messages, at random
	r    *rand.Rand
}

// desk is one node of a house.
type desk struct {
	*Service
	sale  Sale
	queue Queue
	gate  Gate
	cut   bool
	stop  func()
}

// do changes or reads what the mutex guards.
func (a *air) do(what func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what()
}

func (a *air) open(t *testing.T, name string) *desk {
	t.Helper()
	d := &desk{}
	d.Service = New(Deps{Obs: obs.Test(t), Node: name, Spread: func(hear func([]byte)) func([]byte) {
		return func(message []byte) {
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, other := range a.all {
				if other != d && !d.cut && !other.cut && a.r.Float64() >= a.lose {
					other.hear(slices.Clone(message))
				}
			}
		}
	}})
	d.Obs.Clock = time.Now
	d.Follow(Source{Public: "sal_1", Tally: &d.sale, Awake: func(time.Time) bool { return true },
		Queue: func() (q Queue) { a.do(func() { q = d.queue }); return q },
		State: func(context.Context) (s State, err error) {
			a.do(func() { s = State{Phase: "open", Gate: d.gate} })
			return s, nil
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(d.stop)
	a.mu.Lock()
	a.all = append(a.all, d)
	a.mu.Unlock()
	return d
}

// sees is what a node tells its operators now.
func (d *desk) sees(t *testing.T) Point {
	t.Helper()
	synctest.Wait()
	_, p, err := d.point(context.Background(), (*d.sales.Load())["sal_1"], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// notUsed tells how much was ignored.
func (s *Service) notUsed(t *testing.T, why string) float64 {
	t.Helper()
	var m dto.Metric
	if err := s.ignored.WithLabelValues(why).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// act does the same to a node and to the one that is fed with all.
func act(r *rand.Rand, all ...*Sale) {
	o, fast, took := Outcome(r.IntN(int(outcomes))), r.IntN(2) == 0, time.Duration(r.ExpFloat64()*float64(20*time.Millisecond))
	settled, paid, cancelled := r.IntN(3), r.IntN(3) == 0, r.IntN(4) == 0
	for _, s := range all {
		if fast {
			s.Refused(o)
		} else {
			s.Begin()
			s.latency.add(took)
			s.End(o)
		}
		s.Settled(settled)
		if paid {
			s.Paid()
		}
		if cancelled {
			s.Cancelled()
		}
	}
}

// Three nodes, of which each shows what one node would that did everything: counters, percentiles and rates.
func TestNodesAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		a, alone := &air{r: rand.New(rand.NewPCG(5, 6))}, &air{r: rand.New(rand.NewPCG(7, 8))}
		nodes := []*desk{a.open(t, "a"), a.open(t, "b"), a.open(t, "c")}
		one := alone.open(t, "one")
		for i, d := range nodes {
			a.do(func() { d.gate = Gate{Warm: true, Remaining: 5, Unsettled: 3, Waiting: int64(i + 1)} })
		}
		queue := Queue{Waiting: 40, Admitted: 3, Served: 9, PerSecond: 1.5, Kept: true}
		a.do(func() { nodes[1].queue = queue })
		alone.do(func() { one.gate, one.queue = Gate{Warm: true, Remaining: 5, Unsettled: 3, Waiting: 6}, queue })
		time.Sleep(400 * time.Millisecond) // between the seconds, and short enough that the rate is the last second's
		for second := range 30 {
			for i, d := range nodes {
				for range 20 * (i + 1) { // loads that differ: an average of percentiles would be wrong
					act(r, &d.sale, &one.sale)
				}
			}
			if second%7 == 3 {
				nodes[2].sale.latency.add(2 * time.Second) // one slow answer
				one.sale.latency.add(2 * time.Second)
			}
			time.Sleep(time.Second)
			want := one.sees(t)
			for _, d := range nodes {
				got := d.sees(t)
				got.At = want.At
				if got.Latency != want.Latency || got.Attempts != want.Attempts || got.Outcomes != want.Outcomes || !reflect.DeepEqual(got, want) {
					t.Fatalf("after %d s %s shows %+v, one node that did it all %+v", second, d.Node, got, want)
				}
			}
		}
		// The control: without what it heard, a node shows less.
		w := (*nodes[0].sales.Load())["sal_1"]
		clear(w.others)
		if got, want := nodes[0].sees(t), one.sees(t); got.Attempts >= want.Attempts || got.Latency == want.Latency || got.Queue == want.Queue {
			t.Fatalf("the test tests nothing: %+v", got)
		}
	})
}

func states(d *desk) (list []string) {
	synctest.Wait()
	for _, n := range d.House() {
		state := "up"
		if n.Silent > 0 {
			state = "silent"
		}
		list = append(list, n.Name+" "+state)
	}
	return list
}

// A node that falls silent is shown as such; what it counted stays, its latest seconds do not; it comes back, or is dropped after a time. One
// that stops in order is dropped at once. Messages that are lost leave nothing behind.
func TestSilentNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		a := &air{r: r, lose: 0.2}
		x, y, z := a.open(t, "x"), a.open(t, "y"), a.open(t, "z")
		a.do(func() { y.queue = Queue{Waiting: 40, Kept: true} })
		for range 10 {
			x.sale.Begin()
			y.sale.Begin()
			y.sale.latency.add(time.Second)
			time.Sleep(time.Second)
		}
		a.do(func() { a.lose = 0 })
		time.Sleep(1500 * time.Millisecond)
		if got := states(x); !slices.Equal(got, []string{"x up", "y up", "z up"}) {
			t.Fatalf("%v", got)
		}
		if p := x.sees(t); p.Attempts != 20 || p.Latency.Max != time.Second || p.Queue.Waiting != 40 {
			t.Fatalf("%+v", p)
		}
		a.do(func() { y.cut = true })
		time.Sleep(5 * time.Second)
		if got := states(x); !slices.Equal(got, []string{"x up", "y silent", "z up"}) {
			t.Fatalf("%v", got)
		}
		if got := states(y); !slices.Equal(got, []string{"y up", "x silent", "z silent"}) {
			t.Fatalf("%v", got)
		}
		if v := x.now(x.sees(t)); v.Nodes != 2 || len(v.House) != 3 || v.House[1].State != "silent" || v.House[1].Silent < 3 || !v.House[0].Self {
			t.Fatalf("%+v", v)
		}
		if p := x.sees(t); p.Attempts != 20 || p.Latency.Answers != 0 || p.Queue.Waiting != 40 {
			t.Fatalf("%+v", p)
		}
		a.do(func() { z.queue = Queue{Waiting: 39, Kept: true} }) // took the room over
		time.Sleep(2 * time.Second)
		if p := x.sees(t); p.Queue.Waiting != 39 {
			t.Fatalf("%+v", p)
		}
		a.do(func() { y.queue = Queue{} })
		y.sale.Begin()
		a.do(func() { y.cut = false })
		time.Sleep(2 * time.Second)
		if p := x.sees(t); p.Attempts != 21 || !slices.Equal(states(x), []string{"x up", "y up", "z up"}) {
			t.Fatalf("%+v, %v", p, states(x))
		}
		a.do(func() { y.cut = true })
		time.Sleep(listedFor + time.Minute)
		if got := states(x); !slices.Equal(got, []string{"x up", "z up"}) {
			t.Fatalf("%v", got)
		}
		if p := x.sees(t); p.Attempts != 21 {
			t.Fatalf("what a node counted is gone with it: %+v", p)
		}
		a.do(func() { y.cut = false })
		z.stop()
		time.Sleep(2 * time.Second)
		if p := x.sees(t); p.Attempts != 21 || !slices.Equal(states(x), []string{"x up", "y up"}) {
			t.Fatalf("%+v, %v", p, states(x))
		}
		w := (*z.sales.Load())["sal_1"]
		if z.sees(t).Attempts != 21 || len(w.others) != 2 {
			t.Fatal("who stopped does not hear any more; the test expects it to")
		}
	})
}

// More processes than are told apart: the newest is heard when an old one is gone, whose counters stay.
func TestManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &air{r: rand.New(rand.NewPCG(7, 8))}
		x := a.open(t, "x")
		tell := func(number int, leaves bool) {
			other := &Service{Deps: Deps{Node: fmt.Sprint("n", number)}, number: uint64(number + 1), say: x.hear}
			if leaves {
				other.say(other.words(true))
				return
			}
			other.spread([]report{{sale: "sal_1", attempts: 1}, {sale: "sal_unknown"}})
		}
		for i := range nodesMax + 5 {
			tell(i, false)
		}
		if p := x.sees(t); p.Attempts != nodesMax || len(x.House()) != nodesMax+1 {
			t.Fatalf("%+v, %d nodes", p, len(x.House()))
		}
		if n := x.notUsed(t, "too many nodes"); n != 5 {
			t.Errorf("%v were ignored", n)
		}
		if n := x.notUsed(t, "unknown sale"); n != nodesMax {
			t.Errorf("%v sales were unknown", n)
		}
		tell(3, true)
		tell(1000, false)
		w := (*x.sales.Load())["sal_1"]
		if p := x.sees(t); p.Attempts != nodesMax+1 || len(w.others) != nodesMax || w.past.attempts != 1 {
			t.Fatalf("%+v, %d heard, past %+v", p, len(w.others), w.past)
		}
	})
}

// Whatever comes over the bus: what is not a message of this kind to its last byte is ignored and counted, and no number of it taken in.
func TestDamagedMessages(t *testing.T) {
	var whole []byte
	sender := &Service{Deps: Deps{Node: "other"}, number: 77, say: func(b []byte) { whole = b }}
	full := report{sale: "sal_1", attempts: 5, settled: 2, most: 900, attemptsRate: 2.5, queue: Queue{Waiting: 4, Kept: true, PerSecond: .5}}
	full.counts[7], full.counts[latencyBuckets-1] = 3, 1
	full.outcomes[SoldOut] = 5
	sender.spread([]report{full})
	s := New(Deps{Obs: obs.Test(t), Spread: func(func([]byte)) func([]byte) { return func([]byte) {} }})
	s.Follow(Source{Public: "sal_1", Tally: new(Sale)})
	w := (*s.sales.Load())["sal_1"]
	s.hear(whole)
	if h := w.others[77]; h == nil || h.report != full {
		t.Fatalf("it told %+v, %+v was heard", full, h)
	}
	damaged := func() float64 { return s.notUsed(t, "damaged") }
	for n := range whole {
		was := damaged()
		s.hear(whole[:n])
		s.hear(append(slices.Clone(whole), make([]byte, n+1)...))
		if damaged() != was+2 {
			t.Fatalf("a message cut at %d of %d, or longer by %d, was taken", n, len(whole), n+1)
		}
	}
	r := rand.New(rand.NewPCG(9, 10))
	for range 200_000 {
		bad := slices.Clone(whole)
		for range 1 + r.IntN(4) {
			bad[9+r.IntN(len(bad)-9)] = byte(r.Uint32()) // behind the sender's number
		}
		s.hear(bad)
		h := w.others[77]
		for _, n := range h.numbers() {
			if *n < 0 || *n > countMost {
				t.Fatalf("%+v", h)
			}
		}
		for _, f := range h.rates() {
			if !(*f >= 0 && *f <= countMost) {
				t.Fatalf("%+v", h)
			}
		}
	}
	if len(s.peers) != 1 || damaged() < 1000 {
		t.Errorf("%d nodes, %v damaged", len(s.peers), damaged())
	}
	whole[0] = wordsV1 + 1
	was := damaged()
	if s.hear(whole); damaged() != was+1 {
		t.Error("words of another version were taken")
	}
}
