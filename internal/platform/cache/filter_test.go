package cache

import (
	"context"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
)

// ids is a database that knows which ids exist.
type ids struct {
	mu    sync.Mutex // guards the rest
	there map[int]int64
	loads int
	walks int
	fail  error
}

func (d *ids) set(k int, version int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.there[k] = version
}

func (d *ids) load(_ context.Context, k int) (int64, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loads++
	v, ok := d.there[k]
	if !ok {
		return 0, 0, levee.E(levee.CodeNotFound, "none")
	}
	return v, v, nil
}

func (d *ids) walk(_ context.Context, found func(int)) error {
	d.mu.Lock()
	list := make([]int, 0, len(d.there))
	for k := range d.there {
		list = append(list, k)
	}
	d.walks++
	err := d.fail
	d.mu.Unlock()
	for i, k := range list {
		if i%100 == 0 {
			time.Sleep(100 * time.Microsecond) // a walk takes its time, and what is made meanwhile is not seen by it
		}
		found(k)
	}
	return err
}

func (d *ids) counted() int { d.mu.Lock(); defer d.mu.Unlock(); return d.loads }

func (d *ids) walked() int { d.mu.Lock(); defer d.mu.Unlock(); return d.walks }

func filled(s *Shared[int, int64]) func() bool {
	return func() bool { return s.filter.now.Load() != nil }
}

func TestFilterValidate(t *testing.T) {
	if err := (FilterConfig{}).Validate(); err != nil {
		t.Error(err)
	}
	for field, cfg := range map[string]FilterConfig{"cache.filter.every": {Every: time.Millisecond}, "cache.filter.max_commit": {MaxCommit: time.Hour}} {
		var e *levee.Error
		if err := cfg.Validate(); !errors.As(err, &e) || e.Fields[0].Field != field {
			t.Errorf("%+v: %v", cfg, err)
		}
		if err := cfg.clamped().Validate(); err != nil {
			t.Errorf("%+v, clamped: %v", cfg, err)
		}
	}
}

// No key is forgotten however much the filter grows, and few strangers are taken for known.
func TestBloom(t *testing.T) {
	b := newBloom(1000)
	seed := maphash.MakeSeed()
	const keys = 200_000
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for k := g; k < keys; k += 4 {
				b.add(maphash.Comparable(seed, k))
				if !b.has(maphash.Comparable(seed, k)) {
					t.Errorf("%d is forgotten at once", k)
				}
			}
		})
	}
	all.Wait()
	wrong := 0
	for k := range keys {
		if !b.has(maphash.Comparable(seed, k)) {
			t.Fatalf("%d is forgotten", k)
		}
		if b.has(maphash.Comparable(seed, keys+k)) {
			wrong++
		}
	}
	if layers := len(*b.layers.Load()); wrong > keys/100 || layers < 4 {
		t.Errorf("%d of %d strangers are taken for known, %d layers", wrong, keys, layers)
	}
	if n := b.count.Load(); n > keys || n < keys*99/100 {
		t.Errorf("%d counted of %d", n, keys)
	}
}

// Ids that were never given away reach neither Redis' values nor SQL; what exists, is made or comes back does.
func TestFilter(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		d := &ids{there: map[int]int64{}}
		for k := range 500 {
			d.there[k] = 1
		}
		s := node[int64](t, addr, SharedConfig{Guessable: true})
		if _, err := s.Get(background, 9999, d.load); levee.CodeOf(err) != levee.CodeNotFound || d.counted() != 1 {
			t.Fatalf("before it is filled: %v, %d loads", err, d.counted())
		}
		s.Filter(FilterConfig{MaxCommit: 20 * time.Millisecond, Every: time.Hour}, d.walk)
		eventually(t, "it is filled", filled(s))
		was := d.counted()
		for k := range 5000 {
			if _, err := s.Get(background, 1_000_000+k, d.load); levee.CodeOf(err) != levee.CodeNotFound {
				t.Fatal(err)
			}
		}
		if n := d.counted() - was; n > 50 {
			t.Errorf("%d of 5000 guessed ids were loaded", n)
		}
		many := func(_ context.Context, keys []int) (map[int]Many[int64], error) {
			got := map[int]Many[int64]{}
			for _, k := range keys {
				if v, ver, err := d.load(background, k); err == nil {
					got[k] = Many[int64]{v, ver}
				}
			}
			return got, nil
		}
		was = d.counted()
		got, err := s.GetMany(background, []int{1, 2, 2_000_001, 2_000_002}, many)
		if err != nil || len(got) != 2 || d.counted()-was > 3 {
			t.Errorf("many: %v, %v, %d loads", got, err, d.counted()-was)
		}
		for k := range 500 {
			if v, err := s.Get(background, k, d.load); v != 1 || err != nil {
				t.Fatalf("%d: %d, %v", k, v, err)
			}
		}
		// Made: announced, committed, told. Then also what comes back after a walk did not find it.
		for k := 700; k < 720; k++ {
			if err := s.Announce(background, k); err != nil {
				t.Fatal(err)
			}
			d.set(k, 1)
			if v, err := s.Get(Strict(background), k, d.load); v != 1 || err != nil {
				t.Fatalf("made: %d, %v", v, err)
			}
		}
		d.set(800, 5)
		if err := s.Invalidate(background, Change[int]{800, 5}); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Get(background, 800, d.load); v != 5 || err != nil {
			t.Errorf("came back: %d, %v", v, err)
		}
	})
}

func TestFilterIsAskedForRightly(t *testing.T) {
	s := node[int64](t, "", SharedConfig{})
	if err := s.Announce(background, 1); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Filter without Guessable is taken")
		}
	}()
	s.Filter(FilterConfig{}, func(context.Context, func(int)) error { return nil })
}

// A walk that fails leaves everything through.
func TestFilterThatCannotBeFilled(t *testing.T) {
	d := &ids{there: map[int]int64{1: 1}, fail: errors.New("down")}
	s := node[int64](t, "", SharedConfig{Guessable: true})
	s.Filter(FilterConfig{MaxCommit: 10 * time.Millisecond, Every: time.Second}, d.walk)
	eventually(t, "it was tried twice", func() bool { return d.walked() >= 2 })
	if filled(s)() {
		t.Error("a walk that failed filled it")
	}
	if v, err := s.Get(background, 1, d.load); v != 1 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
}

// What a node makes and never tells, because it dies after its commit, is found on the others, whatever they missed: the announcement came
// before the commit. The control is the other node's filter as it is: it does not know the id.
func TestFilterKnowsWhatOthersMade(t *testing.T) {
	addr := startServer(t).addr()
	d := &ids{there: map[int]int64{1: 1}}
	a, b := node[int64](t, addr, SharedConfig{Guessable: true}), node[int64](t, addr, SharedConfig{Guessable: true})
	b.Filter(FilterConfig{MaxCommit: 20 * time.Millisecond, Every: time.Hour}, d.walk)
	eventually(t, "it is filled", filled(b))
	unknown := 0
	for k := 10; k < 110; k++ {
		if err := a.Announce(background, k); err != nil {
			t.Fatal(err)
		}
		d.set(k, 1)
		if !b.filter.may(k) {
			unknown++
		}
		for _, ctx := range []context.Context{background, Strict(background)} {
			if v, err := b.Get(ctx, k, d.load); v != 1 || err != nil {
				t.Fatalf("%d: %d, %v", k, v, err)
			}
		}
	}
	if unknown < 50 {
		t.Errorf("the control: %d of 100 ids were unknown to the other node's filter; this test sees nothing", unknown)
	}
}

// Ids are made on two nodes while filters are filled again and again, Redis is emptied, announcements overflow and messages are lost. No
// reader is ever told that an id does not exist whose making was acknowledged before he asked.
func TestFilterNeverDenies(t *testing.T) {
	srv := startServer(t)
	w := startWire(t, srv.addr())
	cfg := SharedConfig{Guessable: true, MaxLoad: time.Minute, Config: Config{NegativeTTL: time.Millisecond}}
	nodes := []*Shared[int, int64]{node[int64](t, srv.addr(), cfg), node[int64](t, w.addr(), cfg)}
	d := &ids{there: map[int]int64{}}
	for _, s := range nodes {
		// Every is less than what a config may have: many walks.
		s.filter.walking.Store(true)
		s.tasks.Go(func() {
			s.fillFilter(s.ctx, FilterConfig{Every: 20 * time.Millisecond, MaxCommit: 60 * time.Millisecond}, d.walk)
		})
	}
	length := 4 * time.Second
	if testing.Short() {
		length = 1500 * time.Millisecond
	}
	var made atomic.Int64 // ids below are all there
	var denied, unknown, reads, answered atomic.Int64
	var stop atomic.Bool
	var all sync.WaitGroup
	var acked sync.Map
	for g := range 2 {
		all.Go(func() {
			for !stop.Load() {
				k := int(made.Add(1))
				s := nodes[g]
				if s.Announce(background, k) != nil {
					time.Sleep(time.Millisecond)
					continue // such a transaction is undone here
				}
				time.Sleep(rand.N(5 * time.Millisecond))
				d.set(k, 1)
				if rand.N(2) == 0 { // the others die here
					_ = s.Invalidate(background, Change[int]{k, 1})
				}
				for _, s := range nodes {
					if !s.filter.may(k) {
						unknown.Add(1)
					}
				}
				acked.Store(k, true)
			}
		})
	}
	for g := range 6 {
		all.Go(func() {
			for !stop.Load() {
				s, n := nodes[g%2], int(made.Load())
				k := max(n-rand.N(30), 1)
				_, there := acked.Load(k)
				ctx := background
				if g >= 4 {
					ctx = Strict(ctx)
				}
				reads.Add(1)
				_, err := s.Get(ctx, k, d.load)
				// An absence that was loaded before the commit, and that nobody told of, is another matter: SQL said so then, in other words.
				var e *levee.Error
				if errors.As(err, &e) && e.Message == errGone.Message && there {
					denied.Add(1)
				}
				if _, err := s.Get(ctx, 10_000_000+rand.N(1_000_000), d.load); levee.CodeOf(err) == levee.CodeNotFound {
					answered.Add(1)
				}
				time.Sleep(rand.N(time.Millisecond))
			}
		})
	}
	all.Go(func() {
		for i := 0; !stop.Load(); i++ {
			time.Sleep(300 * time.Millisecond)
			switch i % 3 {
			case 0:
				srv.do("FLUSHALL")
			case 1:
				w.cut()
			case 2:
				e, err := nodes[0].remote.settled(background)
				if err != nil {
					continue
				}
				list := make([]string, announcedMost+10)
				for i := range list {
					list[i] = "-1"
				}
				_ = nodes[0].remote.noteMade(background, e, list)
			}
		}
	})
	filter := func() float64 { return counter(t, nodes[0].m.filtered) + counter(t, nodes[1].m.filtered) }
	began := time.Now()
	for time.Since(began) < length || (filter() == 0 || unknown.Load() == 0 || d.walked() < 5) && time.Since(began) < time.Minute {
		time.Sleep(10 * time.Millisecond) // on a busy machine it goes on until it has seen enough to say something
	}
	stop.Store(true)
	all.Wait()
	filtered := filter()
	t.Logf("%d ids made, %d reads, %d guesses of which the filters answered %.0f; %d times a filter did not know an acknowledged id; %d denied, %d walks",
		made.Load(), reads.Load(), answered.Load(), filtered, unknown.Load(), denied.Load(), d.walked())
	if denied.Load() > 0 {
		t.Errorf("%d reads were told that an acknowledged id does not exist", denied.Load())
	}
	if filtered == 0 || unknown.Load() == 0 || d.walked() < 5 {
		t.Errorf("the filters answered %.0f, did not know %d ids, %d walks: this test sees nothing", filtered, unknown.Load(), d.walked())
	}
}

// Redis away: nothing is denied, and Announce says that it was not taken.
func TestFilterWithoutRedis(t *testing.T) {
	srv := startServer(t)
	s := node[int64](t, srv.addr(), SharedConfig{Guessable: true})
	d := &ids{there: map[int]int64{1: 1}}
	s.Filter(FilterConfig{MaxCommit: 10 * time.Millisecond, Every: time.Hour}, d.walk)
	eventually(t, "it is filled", filled(s))
	srv.kill()
	was := d.counted()
	if _, err := s.Get(background, 77, d.load); levee.CodeOf(err) != levee.CodeNotFound || d.counted() != was+1 {
		t.Errorf("%v, %d loads", err, d.counted()-was)
	}
	var e *levee.Error
	if err := s.Announce(background, 78); !errors.As(err, &e) || e.Code != levee.CodeUnavailable || e.RetryAfter <= 0 {
		t.Errorf("announced: %v", err)
	}
	// It is back, empty: another epoch, so the filter lets everything through until it has been filled again.
	srv.start()
	eventually(t, "it is filled again", func() bool { return d.walked() >= 2 })
	eventually(t, "it is used again", filled(s))
}

func TestAnnounceOddKeys(t *testing.T) {
	c := connect(t, startServer(t).addr())
	s := NewShared[string, int64](SharedConfig{Config: Config{Name: "odd"}, Guessable: true}, c, quiet(t))
	t.Cleanup(s.Close)
	if err := s.Announce(background, strings.Repeat("x", keyMost)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a huge key: %v", err)
	}
	if err := s.Announce(background, "", "\xff", "\x00\n", "é"); err != nil {
		t.Error(err)
	}
}
