package event

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// node is one process of a fleet: a bus with ids and a clock of its own over the shared database.
type node struct {
	bus   *Bus
	ids   *id.Generator
	off   atomic.Int64 // its clock's error, microseconds
	held  atomic.Bool  // it sleeps
	wg    sync.WaitGroup
	end   context.CancelFunc
	alive bool
}

// fleet is several nodes over one database.
type fleet struct {
	*house
	t     testing.TB
	nodes []*node
}

const testLease = 400 * time.Millisecond

// fleetOf makes n nodes whose clocks are seconds apart. With connected they ring each other.
func fleetOf(t testing.TB, n int, connected bool, listeners func(i int) []Listener, tweak func(*Bus)) *fleet {
	t.Helper()
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{house: openDir(t, t.TempDir(), o), t: t}
	wakes := make([]func(), n)
	for i := range n {
		nd := &node{}
		nd.off.Store((int64(i) - 1) * 10_000_000)
		clock := func() time.Time { return time.Now().Add(time.Duration(nd.off.Load()) * time.Microsecond) }
		own := &obs.Obs{Log: o.Log, Metrics: prometheus.NewRegistry(), Clock: clock}
		ids, err := id.Open(t.Context(), id.Config{Dir: filepath.Join(f.dir, "id")}, own)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ids.Close() })
		nd.ids = ids
		nd.bus = Open(f.db, ids, own)
		nd.bus.lease = testLease
		nd.bus.seam.hold = func() {
			for nd.held.Load() {
				time.Sleep(time.Millisecond)
			}
		}
		if tweak != nil {
			tweak(nd.bus)
		}
		if err := nd.bus.Register(listeners(i)...); err != nil {
			t.Fatal(err)
		}
		f.nodes = append(f.nodes, nd)
	}
	if connected {
		for i, nd := range f.nodes {
			wakes[i] = nd.bus.Connect(func() {
				for j, wake := range wakes {
					if j != i {
						wake()
					}
				}
			})
		}
	}
	t.Cleanup(func() {
		for _, nd := range f.nodes {
			f.stop(nd, false)
		}
	})
	return f
}

func (f *fleet) start(nd *node) {
	ctx, cancel := context.WithCancel(context.Background())
	nd.end, nd.alive = cancel, true
	nd.bus.seam.dead = false
	nd.wg.Go(func() {
		if err := nd.bus.Run(ctx); err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
}

// stop ends a node; killed, it gives nothing back.
func (f *fleet) stop(nd *node, killed bool) {
	if !nd.alive {
		return
	}
	nd.bus.seam.dead = killed // read after the relay has ended
	nd.end()
	nd.held.Store(false)
	nd.wg.Wait()
	nd.alive = false
}

// told emits for a key what comes next for it, as rooms do: it locks the key's own row, reads, emits and commits after a while.
func (f *fleet) told(nd *node, rng *rand.Rand, key int64) error {
	return f.db.Tx(context.Background(), "test.told", func(ctx context.Context, tx *db.Tx) error {
		var n int
		lock := `SELECT n FROM effect WHERE listener = 'counter' AND event_key = ?` + f.db.Dialect().ForUpdate()
		if err := tx.QueryRow(ctx, lock, key).Scan(&n); err != nil {
			return err
		}
		n++
		if _, err := tx.Exec(ctx, `UPDATE effect SET n = ? WHERE listener = 'counter' AND event_key = ?`, n, key); err != nil {
			return err
		}
		es := []Event{noted{Key: key, N: n}}
		if rng.IntN(3) == 0 { // others of its own transaction, of keys that nobody looks at
			es = append(es, other{Key: 1000 + rng.Int64N(50)}, other{Key: 1000 + rng.Int64N(50)})
		}
		if err := nd.bus.EmitMany(ctx, tx, es...); err != nil {
			return err
		}
		if nd.bus.crowd && rng.IntN(2) == 0 {
			time.Sleep(time.Duration(rng.IntN(15)) * time.Millisecond) // it commits late
		}
		return nil
	})
}

func (f *fleet) counters(keys int64) {
	f.t.Helper()
	err := f.db.Tx(context.Background(), "test.counters", func(ctx context.Context, tx *db.Tx) error {
		for key := range keys {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (listener, event_key, n, at) VALUES ('counter', ?, 0, ?)`, key, written.Add(1)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// quietly waits until the outbox is empty.
func (f *fleet) quietly(most time.Duration) {
	f.t.Helper()
	for end := time.Now().Add(most); ; time.Sleep(10 * time.Millisecond) {
		if f.count(`SELECT COUNT(*) FROM event_outbox`) == 0 {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%d events are left after %v", f.count(`SELECT COUNT(*) FROM event_outbox`), most)
		}
	}
}

// faults compares what was told with what a listener did.
func (f *fleet) faults(listener string) (total, lost, twice, disorder int) {
	f.t.Helper()
	rows, err := f.db.Query(context.Background(), `SELECT event_key, n FROM effect WHERE listener = ? ORDER BY at`, listener)
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	seen, last := map[noted]int{}, map[int64]int{}
	for rows.Next() {
		var e noted
		if err := rows.Scan(&e.Key, &e.N); err != nil {
			f.t.Fatal(err)
		}
		if seen[e]++; seen[e] > 1 {
			twice++
		}
		if e.N < last[e.Key] {
			disorder++
		}
		last[e.Key] = e.N
	}
	counters, _, err := (&Bus{db: f.db}).readPairs(context.Background(), `SELECT event_key, n FROM effect WHERE listener = 'counter'`)
	if err != nil {
		f.t.Fatal(err)
	}
	for key, n := range counters {
		for i := 1; i <= int(n); i++ {
			total++
			if seen[noted{Key: key, N: i}] == 0 {
				lost++
			}
		}
	}
	return total, lost, twice, disorder
}

// storm lets writers on all nodes emit for a while, while relays are killed, put to sleep for longer than the lease, woken and started
// again, and clocks step.
func (f *fleet) storm(d time.Duration, writers int, harm bool) (steps int) {
	f.t.Helper()
	const keys = 6
	f.counters(keys)
	for _, nd := range f.nodes {
		f.start(nd)
	}
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			for time.Now().Before(end) {
				if err := f.told(f.nodes[rng.IntN(len(f.nodes))], rng, rng.Int64N(keys)); err != nil {
					f.t.Errorf("told: %v", err)
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for harm && time.Now().Before(end) {
		time.Sleep(time.Duration(50+rng.IntN(150)) * time.Millisecond)
		nd := f.nodes[rng.IntN(len(f.nodes))]
		steps++
		switch rng.IntN(5) {
		case 0:
			f.stop(nd, true)
		case 1:
			f.stop(nd, false)
		case 2:
			nd.held.Store(true)
		case 3:
			nd.off.Add(rng.Int64N(20_000_001) - 10_000_000)
		}
		for _, nd := range f.nodes { // in the end somebody works
			if rng.IntN(4) == 0 && !nd.alive {
				f.start(nd)
			}
			if rng.IntN(4) == 0 {
				nd.held.Store(false)
			}
		}
	}
	wg.Wait()
	for _, nd := range f.nodes {
		nd.held.Store(false)
		if !nd.alive {
			f.start(nd)
		}
	}
	f.quietly(30 * time.Second)
	return steps
}

func stormTime() time.Duration {
	if testing.Short() {
		return 2 * time.Second
	}
	return 10 * time.Second
}

// The promise over nodes: everything once, in the order of the commits per key, whatever happens to relays and clocks.
func TestFleet(t *testing.T) {
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprintf("connected %v", connected), func(t *testing.T) {
			f := fleetOf(t, 3, connected, func(int) []Listener { return []Listener{writer("a"), writer("b")} }, nil)
			steps := f.storm(stormTime(), 8, true)
			for _, l := range []string{"a", "b"} {
				total, lost, twice, disorder := f.faults(l)
				t.Logf("%s: %d events, %d harms: %d lost, %d twice, %d out of order", l, total, steps, lost, twice, disorder)
				if lost+twice+disorder != 0 {
					t.Errorf("%s: %d lost, %d twice, %d out of order", l, lost, twice, disorder)
				}
				if total < 100 || steps < 5 {
					t.Error("hardly anything happened")
				}
			}
			if n := f.count(`SELECT COUNT(*) FROM event_inbox`); n != 0 {
				t.Errorf("%d rows are left in the inbox", n)
			}
		})
	}
}

// The control: a relay that does not look for the event before delivers what was committed late out of order, and the check sees it.
func TestFleetControl(t *testing.T) {
	if !distributed {
		t.Skip("with one writer nothing is committed late; TestPreviousFirst is the control there")
	}
	for range 8 { // a race: it need not show every time
		f := fleetOf(t, 3, true, func(int) []Listener { return []Listener{writer("a")} }, func(b *Bus) { b.seam.blind = true })
		f.storm(stormTime(), 12, false)
		total, lost, twice, disorder := f.faults("a")
		t.Logf("%d events, %d lost, %d twice, %d out of order", total, lost, twice, disorder)
		if disorder > 0 {
			return
		}
		for _, nd := range f.nodes {
			f.stop(nd, false)
		}
	}
	t.Error("nothing came out of order: the check cannot see what it is there for")
}

// The outbox is empty, so a node whose clock is behind numbers its event below what was delivered: the next one of the key comes after it
// all the same. The control does not look for the event before.
func TestAClockBehindAnEmptyOutbox(t *testing.T) {
	for _, blind := range []bool{false, true} {
		if blind && distributed {
			continue // the key's own row stays for a second, and numbers the event above the last one
		}
		t.Run(fmt.Sprintf("blind %v", blind), func(t *testing.T) {
			f := fleetOf(t, 3, false, func(int) []Listener { return []Listener{writer("a")} }, func(b *Bus) { b.seam.blind = blind })
			f.counters(1)
			slow, fast := f.nodes[0], f.nodes[2] // 20 s apart
			f.start(fast)
			rng := rand.New(rand.NewPCG(1, 1))
			disorder := 0
			for range 20 { // a poll of the relay in between would find the late one by itself
				for _, nd := range []*node{fast, slow, fast} {
					if err := f.told(nd, rng, 0); err != nil {
						t.Fatal(err)
					}
					if nd == fast {
						f.quietly(5 * time.Second)
					}
				}
				if _, lost, twice, wrong := f.faults("a"); lost+twice > 0 {
					t.Fatalf("%d lost, %d twice", lost, twice)
				} else if disorder = wrong; disorder > 0 {
					break
				}
			}
			if blind != (disorder > 0) {
				t.Errorf("%d out of order", disorder)
			}
		})
	}
}

// An event whose predecessor was committed below the cursor waits for it.
func TestPreviousFirst(t *testing.T) {
	const want = "2:1 1:1 1:2 1:3 1:4 1:5"
	// On virtual time the relay's own look behind its cursor, which comes by the clock, is never due first.
	synctest.Test(t, func(t *testing.T) {
		if diff := cmp.Diff(want, committedLate(t, false)); diff != "" {
			t.Error(diff)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if committedLate(t, true) == want {
			t.Error("in order without looking: this test proves nothing")
		}
	})
}

// committedLate has events of one key committed below the cursor, the last one above it, and returns what the listener did.
func committedLate(t *testing.T, blind bool) string {
	t.Helper()
	h := open(t)
	b := h.bus(writer("a"))
	b.seam.blind = blind
	stop := h.run(b)
	defer stop()
	var ids [4]int64
	for i := range ids {
		var err error
		if ids[i], err = h.ids.Next(); err != nil {
			t.Fatal(err)
		}
	}
	h.emit(b, noted{Key: 2, N: 1})
	h.drain(b) // the cursor is behind all of ids
	high, err := h.ids.Next()
	if err != nil {
		t.Fatal(err)
	}
	err = h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		before := int64(0)
		for i, id := range append(ids[:], high) {
			if _, err := tx.Exec(ctx, insertEvent, id, noted{}.EventName(), 1, fmt.Sprintf(`{"Key": 1, "N": %d}`, i+1), before); err != nil {
				return err
			}
			before = id
		}
		tx.AfterCommit(b.wakeFn)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if h.count(`SELECT COUNT(*) FROM event_outbox`) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return h.effects("a")
}

// A relay sleeps with an event in memory, another takes over and delivers it to one of two listeners, the sleeper wakes: without the
// fence it would repeat that effect.
func TestSleeperWakes(t *testing.T) {
	for _, unfenced := range []bool{false, true} {
		t.Run(fmt.Sprintf("unfenced %v", unfenced), func(t *testing.T) {
			f := fleetOf(t, 2, true, func(i int) []Listener {
				return []Listener{writer("a"), Listen("b", func(ctx context.Context, tx *db.Tx, e noted) error {
					if i == 1 {
						return errors.New("not on this node")
					}
					return write(ctx, tx, "b", e)
				})}
			}, func(b *Bus) { b.seam.unfenced = unfenced })
			sleeper, other := f.nodes[0], f.nodes[1]
			f.start(sleeper)
			f.emit(sleeper.bus, noted{Key: 1, N: 1})
			f.quietly(5 * time.Second)
			sleeper.held.Store(true)
			f.emit(sleeper.bus, noted{Key: 1, N: 2})
			time.Sleep(50 * time.Millisecond) // it is in the sleeper's memory
			f.start(other)
			for end := time.Now().Add(10 * time.Second); f.count(`SELECT COUNT(*) FROM effect WHERE listener = 'a'`) < 2; {
				if time.Now().After(end) {
					t.Fatal("nobody took over")
				}
				time.Sleep(5 * time.Millisecond)
			}
			sleeper.held.Store(false)
			time.Sleep(2 * testLease)
			f.stop(other, false)
			f.quietly(10 * time.Second)
			got := f.effects("a")
			if !unfenced {
				if diff := cmp.Diff("1:1 1:2", got); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff("1:1 1:2", f.effects("b")); diff != "" {
					t.Error(diff)
				}
			} else if got == "1:1 1:2" {
				t.Error("nothing is repeated without the fence: this test proves nothing")
			}
		})
	}
}

// A ring of another node is heard at once, and a node that relays itself does not ring.
func TestConnect(t *testing.T) {
	f := fleetOf(t, 2, false, func(int) []Listener { return []Listener{writer("a")} }, func(b *Bus) { b.lease = 15 * time.Second })
	var rung [2]atomic.Int32
	var wake [2]func()
	for i, nd := range f.nodes {
		wake[i] = nd.bus.Connect(func() { rung[i].Add(1); wake[1-i]() })
	}
	f.start(f.nodes[0])
	f.emit(f.nodes[0].bus, noted{Key: 1, N: 1})
	f.quietly(5 * time.Second)
	before := rung[0].Load()
	f.emit(f.nodes[0].bus, noted{Key: 1, N: 2})
	f.quietly(5 * time.Second)
	if rung[0].Load() != before {
		t.Error("the node that relays has rung")
	}
	// Without rings each of them would wait for a poll, as it comes right after one.
	const times = 8
	began := time.Now()
	for i := range times {
		f.emit(f.nodes[1].bus, noted{Key: 1, N: 3 + i})
		f.quietly(20 * time.Second)
	}
	if took := time.Since(began); took > times*poll/2 || rung[1].Load() == 0 {
		t.Errorf("%d were delivered in %v with %d rings", times, took, rung[1].Load())
	}
}

// What is through leaves event_chain, what is not stays, also when its page is looked at again and again.
func TestChainsAreTidied(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"))
	if !b.crowd {
		t.Skip("with one writer the table stays empty")
	}
	var es []Event
	for n := range 1500 {
		es = append(es, noted{Key: int64(n), N: 1}, noted{Key: int64(n), N: 2})
	}
	h.emit(b, es...)
	if n := h.count(`SELECT COUNT(*) FROM event_chain`); n != 1500 {
		t.Fatalf("%d keys, want 1500", n)
	}
	for after, first := int64(0), true; first || after != 0; first = false {
		gone, next, err := b.chainsPage(t.Context(), after, first)
		if err != nil || gone != 0 {
			t.Fatalf("%d went before their delivery, %v", gone, err)
		}
		after = next
	}
	stop := h.run(b)
	defer stop()
	h.drain(b)
	h.emit(b, noted{Key: 7, N: 3})
	for range 500 {
		if h.count(`SELECT COUNT(*) FROM event_chain`) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := h.count(`SELECT COUNT(*) FROM event_chain`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	h.drain(b)
	h.empty()
}
