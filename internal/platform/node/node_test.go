package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

func openDB(t *testing.T) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "levee.db")}, obs.Test(t))
	if err == nil {
		_, err = d.Migrate(t.Context(), []db.Schema{Schema()})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// witness watches that nobody keeps a thing while another does, and that fences rise.
type witness struct {
	mu    sync.Mutex
	acts  map[string][]act
	wrong []string
}

type act struct {
	node  string
	fence int64
	at    time.Time
}

// keep acts every few milliseconds as long as its term says that it holds, also when its context has ended: a function that is slow to
// stop must not act any more either.
func (w *witness) keep(node, name string, alive func() bool) func(ctx context.Context, t Term) error {
	return func(ctx context.Context, t Term) error {
		// In this order: that a process sleeps between the look and the act is beyond any lease, and what fences are for.
		for alive() && t.Held() {
			w.mu.Lock()
			list := w.acts[name]
			if n := len(list); n > 0 {
				switch last := list[n-1]; {
				case t.Fence < last.fence:
					w.wrong = append(w.wrong, fmt.Sprintf("%s acts for %s in term %d after %s did in %d", node, name, t.Fence, last.node, last.fence))
				case t.Fence == last.fence && last.node != node:
					w.wrong = append(w.wrong, fmt.Sprintf("%s and %s keep %s in term %d", node, last.node, name, t.Fence))
				}
			}
			w.acts[name] = append(list, act{node, t.Fence, time.Now()})
			w.mu.Unlock()
			time.Sleep(7 * time.Millisecond)
		}
		<-ctx.Done()
		return nil
	}
}

// crew is nodes of one house in virtual time.
type crew struct {
	t       *testing.T
	db      *db.DB
	witness *witness
	lease   func() time.Duration
}

type one struct {
	*Nodes
	kill  func()              // without a word, as kill -9
	stop  func()              // in order
	sleep func(time.Duration) // the whole process stands still
}

var names = []string{"hall", "gate", "tower"}

func (c *crew) start(name string) *one {
	c.t.Helper()
	n, err := Open(c.db, Config{Name: name, Address: name + ":8080", Version: "1", Lease: c.lease()}, obs.Test(c.t))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	dead, wakeAt := false, time.Time{}
	still := func() { // returns when the process runs
		for {
			mu.Lock()
			d := time.Until(wakeAt)
			mu.Unlock()
			if d <= 0 {
				return
			}
			time.Sleep(d)
		}
	}
	alive := func() bool {
		still()
		mu.Lock()
		defer mu.Unlock()
		return !dead
	}
	n.fault = func() {
		if !alive() {
			<-ctx.Done() // a dead process does nothing more
		}
	}
	for _, what := range names {
		n.Keep(what, c.witness.keep(name, what, alive))
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.Run(ctx) })
	o := &one{Nodes: n}
	o.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	o.kill = func() {
		mu.Lock()
		dead = true
		mu.Unlock()
	}
	o.sleep = func(d time.Duration) {
		mu.Lock()
		wakeAt = time.Now().Add(d)
		mu.Unlock()
	}
	c.t.Cleanup(o.stop)
	return o
}

func (c *crew) keeper(name string) string {
	c.witness.mu.Lock()
	defer c.witness.mu.Unlock()
	list := c.witness.acts[name]
	if len(list) == 0 || time.Since(list[len(list)-1].at) > 50*time.Millisecond {
		return ""
	}
	return list[len(list)-1].node
}

func (c *crew) until(what string, most time.Duration, ok func() bool) time.Duration {
	c.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > most {
			c.t.Fatalf("not within %v: %s", most, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func newCrew(t *testing.T) *crew {
	return &crew{t: t, db: openDB(t), witness: &witness{acts: map[string][]act{}}, lease: func() time.Duration { return 5 * time.Second }}
}

func TestOneKeepsAndAnotherTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		a := c.start("a")
		c.until("a keeps all", time.Second, func() bool { return c.keeper("hall") == "a" && c.keeper("tower") == "a" })
		b := c.start("b")
		c.until("both see both", 3*time.Second, func() bool { return len(a.List()) == 2 && len(b.List()) == 2 })
		if m, ok := b.Keeper("hall"); !ok || m.Name != "a" || m.Address != "a:8080" || m.Self {
			t.Errorf("b says that %+v, %v keeps the hall", m, ok)
		}
		if m, ok := a.Keeper("hall"); !ok || !m.Self {
			t.Errorf("a says that %+v, %v keeps the hall", m, ok)
		}
		time.Sleep(time.Minute)
		if c.keeper("hall") != "a" {
			t.Error("it changed hands for no reason")
		}
		a.stop() // in order: no lease is waited for
		if took := c.until("b keeps all", 2*time.Second, func() bool { return c.keeper("hall") == "b" && c.keeper("gate") == "b" }); took > 1100*time.Millisecond {
			t.Errorf("after a stop in order it took %v", took)
		}
		d := c.start("d")
		time.Sleep(3 * time.Second)
		b.kill()
		c.until("d keeps all", 5*time.Second+2*time.Second+100*time.Millisecond, func() bool { return c.keeper("hall") == "d" && c.keeper("gate") == "d" && c.keeper("tower") == "d" })
		c.until("b is off the list", 5*time.Second, func() bool { return len(d.List()) == 1 })
	})
}

// A node that slept through its lease does nothing more as the keeper when it wakes, and takes part again.
func TestASleeperActsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		a := c.start("a")
		time.Sleep(time.Second)
		b := c.start("b")
		time.Sleep(2 * time.Second)
		a.sleep(30 * time.Second)
		c.until("b keeps all", 8*time.Second, func() bool { return c.keeper("hall") == "b" })
		time.Sleep(40 * time.Second)
		if got := c.keeper("hall"); got != "b" || len(b.List()) != 2 || len(a.List()) != 2 {
			t.Errorf("%q keeps the hall; %v, %v live", got, a.List(), b.List())
		}
		for _, w := range c.witness.wrong {
			t.Error(w)
		}
	})
}

// With a database that is away nobody keeps anything for longer than a lease, and all is well again when it is back.
func TestNobodyKeepsWithoutADatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		c.start("a")
		time.Sleep(time.Second)
		hold, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			_ = c.db.Tx(context.Background(), "test.hold", func(context.Context, *db.Tx) error { <-hold; return nil })
		}()
		time.Sleep(6 * time.Second)
		if got := c.keeper("hall"); got != "" {
			t.Errorf("%s keeps the hall while nobody can write", got)
		}
		close(hold)
		<-ended
		c.until("a keeps it again", 8*time.Second, func() bool { return c.keeper("hall") == "a" })
		for _, w := range c.witness.wrong {
			t.Error(w)
		}
	})
}

// Random lives: nodes come, stop, are killed and sleep. Never do two keep the same, and when it is calm somebody keeps everything.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(20) {
		if wrong := randomLives(t, seed, func(*rand.Rand) time.Duration { return 5 * time.Second }); len(wrong) > 0 {
			t.Fatalf("seed %d: %v", seed, wrong[0])
		}
	}
}

// The control: nodes that disagree about how long a lease is do overlap, and the witness sees it.
func TestRandomLivesCatchesLeasesThatOverlap(t *testing.T) {
	for seed := range uint64(40) {
		if wrong := randomLives(t, seed, func(r *rand.Rand) time.Duration { return time.Duration(2+10*r.IntN(2)) * time.Second }); len(wrong) > 0 {
			t.Logf("seed %d: %s", seed, wrong[0])
			return
		}
	}
	t.Error("nothing was seen")
}

func randomLives(t *testing.T, seed uint64, lease func(*rand.Rand) time.Duration) (wrong []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newCrew(t)
		c.lease = func() time.Duration { return lease(r) }
		var nodes []*one
		for step := range 60 {
			if len(nodes) < 3 {
				nodes = append(nodes, c.start(fmt.Sprintf("n%d", step)))
			}
			i := r.IntN(len(nodes))
			switch r.IntN(4) {
			case 0:
				nodes[i].sleep(time.Duration(r.IntN(15_000)) * time.Millisecond)
			case 1:
				nodes[i].kill()
				nodes = append(nodes[:i], nodes[i+1:]...)
			case 2:
				go nodes[i].stop() // it may be asleep
				nodes = append(nodes[:i], nodes[i+1:]...)
			}
			time.Sleep(time.Duration(r.IntN(6000)) * time.Millisecond)
		}
		if len(nodes) == 0 {
			c.start("last")
		}
		time.Sleep(30 * time.Second)
		for _, name := range names {
			if c.keeper(name) == "" {
				c.witness.wrong = append(c.witness.wrong, "nobody keeps "+name+" although all is calm")
			}
		}
		wrong = c.witness.wrong
	})
	return wrong
}

// Alone a node keeps everything at once and writes nothing.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openDB(t)
		n, err := Open(d, Config{Name: "only"}, obs.Test(t))
		if err != nil {
			t.Fatal(err)
		}
		var held atomic.Int32
		n.Keep("hall", func(ctx context.Context, term Term) error {
			if !term.Held() || term.Fence != 1 {
				t.Errorf("%+v", term)
			}
			if held.Add(1) < 3 {
				return errors.New("it is begun again")
			}
			<-ctx.Done()
			return nil
		})
		before := d.Stats().Transactions
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx) }()
		time.Sleep(time.Minute)
		if m, ok := n.Keeper("hall"); !ok || !m.Self || len(n.List()) != 1 || held.Load() != 3 {
			t.Errorf("%+v, %v, %v, begun %d times", m, ok, n.List(), held.Load())
		}
		cancel()
		if err := <-done; err != nil || d.Stats().Transactions != before {
			t.Errorf("%v; %d transactions", err, d.Stats().Transactions-before)
		}
	})
}

// What a sleeper writes after another has taken over is refused by SQL, whatever the sleeper believes.
func TestTheFenceKeepsASleeperOut(t *testing.T) {
	d := openDB(t)
	old := Term{Fence: 4, name: "hall", until: new(atomic.Int64), began: time.Now()}
	old.until.Store(1 << 62) // it believes that it holds
	write := func(term Term) error {
		return d.Tx(t.Context(), "test.write", func(ctx context.Context, tx *db.Tx) error { return term.CheckTx(ctx, tx) })
	}
	set := func(fence int) {
		t.Helper()
		err := d.Tx(t.Context(), "test.set", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, d.Dialect().Upsert("node_keep", []string{"name"}, []string{"fence"}, "name", "member", "fence", "beat"), "hall", 1, fence, 0)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set(4)
	if err := write(old); err != nil || !old.Held() {
		t.Errorf("its own term: %v", err)
	}
	set(5)
	if err := write(old); levee.CodeOf(err) != levee.CodeConflict {
		t.Errorf("after the next began: %v", err)
	}
	if err := write(Forever()); err != nil || !Forever().Held() {
		t.Errorf("a process alone: %v", err)
	}
	if (Term{}).Held() {
		t.Error("no term at all is held")
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Lease: time.Millisecond}, {Lease: time.Hour}, {Name: string(make([]byte, 191))}, {Address: string(make([]byte, 191))}} {
		if _, err := Open(nil, c, obs.Test(t)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
