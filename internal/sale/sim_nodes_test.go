package sale

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee/internal/gate"
	"levee/internal/platform/backends"
	"levee/internal/platform/redis"
)

// The simulation's second mode: the sale is sold by three nodes with a gate that they share in a real Redis. Who acts, on which node, and
// what fails is drawn from the seed as in the first mode; beside its faults, movements are not told, come late, twice and out of order, Redis
// comes back empty or as it was some time ago, and whatever is pending when somebody looks is overdue, so that every settlement may be a
// sleeper's. Time is the simulator's, but for the ages of pending takings, which do not matter then.
func TestSimulationOfNodes(t *testing.T) {
	needNodes(t)
	t.Parallel()
	seeds := *simSeeds
	if testing.Short() {
		seeds = min(seeds, 40)
	}
	h := openSimHouseOver(t, simRedis(t))
	started := time.Now()
	total := simTally{}
	for seed := *simSeed; seed < *simSeed+uint64(seeds); seed++ {
		tally, failure := h.run(seed, nil)
		total.add(tally)
		if failure != nil {
			t.Fatalf("%s\nreplay: LEVEE_TEST_TIER=distributed go test ./internal/sale -run 'TestSimulationOfNodes$' -sim.seed=%d -sim.seeds=1", failure, seed)
		}
	}
	t.Logf("%d seeds in %s: %s", seeds, time.Since(started).Round(time.Millisecond), total)
	if seeds < 300 {
		return
	}
	for _, name := range append([]string{"not told", "told again", "redis empty", "redis gone back", "another node", "lost takings", "healed", "loaded"}, simMustHappen...) {
		if name != "gate wrong" && name != "two in one commit" && name != "clock back" && total[name] == 0 {
			t.Errorf("in %d seeds this never happened: %s", seeds, name)
		}
	}
}

// Engines that nodes with a shared gate break, and what must catch them.
func TestSimulationOfNodesCatchesBrokenEngines(t *testing.T) {
	needNodes(t)
	t.Parallel()
	h := openSimHouseOver(t, simRedis(t))
	for _, f := range flaws() {
		if !f.shared {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			for seed := uint64(1); seed <= simPatience; seed++ {
				if _, failure := h.run(seed, f); failure != nil {
					t.Logf("caught after %d seeds: %s", seed, failure.what)
					return
				}
			}
			t.Errorf("not caught in %d seeds", simPatience)
		})
	}
}

var simHouses atomic.Int64

var simServer struct {
	once sync.Once
	url  string
	err  error
}

func simRedis(t testing.TB) *redis.Client {
	t.Helper()
	simServer.once.Do(func() {
		s, err := backends.Redis(context.Background())
		if simServer.err = err; err == nil {
			simServer.url = s.URL()
		}
	})
	if simServer.err != nil {
		t.Fatal(simServer.err)
	}
	prefix := fmt.Sprintf("sim-%d-%d:", os.Getpid(), simHouses.Add(1))
	c, err := redis.Open(context.Background(), redis.Config{URL: simServer.url, Prefix: prefix, Timeout: 5 * time.Second}, simObs(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// process is what a node has in its memory.
type process struct {
	node      int
	sales     *Service
	l         *live
	life      int
	warm      bool
	inHand    []*gate.Taking
	toDeliver [][]*gate.Taking
	held      []*simBuy
}

func (w *world) process() process {
	return process{w.node, w.sales, w.l, w.life, w.warm, w.inHand, w.toDeliver, w.held}
}

// swap lets another node's process act.
func (w *world) swap(i int) {
	old := w.process()
	p := w.peers[i]
	w.node, w.sales, w.l, w.life, w.warm, w.inHand, w.toDeliver, w.held = p.node, p.sales, p.l, p.life, p.warm, p.inHand, p.toDeliver, p.held
	w.orders = w.sales.Orders
	w.peers[i] = old
	w.note("node %d, life %d:", w.node, w.life)
}

const simNodes = 3

// addNodes starts the other nodes.
func (w *world) addNodes() {
	if err := w.l.follower.Look(context.Background()); err != nil {
		w.fail("the gate cannot be loaded: %v", err)
	}
	for n := 1; n < simNodes; n++ {
		w.peers = append(w.peers, w.process())
		w.node, w.held, w.inHand, w.toDeliver = n, nil, nil, nil
		w.lives++
		w.life = w.lives
		w.join()
		if err := w.sales.Warm(context.Background()); err != nil {
			w.fail("node %d cannot start: %v", n, err)
		}
		w.l = w.sales.liveByID(w.sale)
	}
}

// sharedActions are what happens where nodes share a gate.
func (w *world) sharedActions() []action {
	always := func() bool { return true }
	return []action{
		{"another node", 25, atTop, always, func() { w.count("another node"); w.swap(w.r.IntN(len(w.peers))) }},
		{"look", 6, atTop | inside, always, w.look},
		{"flush", 12, atTop | inside, always, func() { w.l.follower.Flush(context.Background()) }},
		{"look around", 6, atTop | inside, always, func() { w.lawful("look around", w.sales.look(context.Background())) }},
		{"told again", 3, atTop | inside, always, w.toldAgain},
		{"redis empty", 0.4, atTop | inside, always, func() {
			w.note("redis comes back empty")
			w.count("redis empty")
			w.restore([4]string{})
		}},
		{"redis kept", 1, atTop | inside, always, func() { w.kept = w.dump() }},
		{"redis back", 0.7, atTop | inside, func() bool { return w.kept[0] != "" }, func() {
			w.note("redis is again as it was once")
			w.count("redis gone back")
			w.restore(w.kept)
		}},
	}
}

// look is the follower's.
func (w *world) look() {
	before := w.l.follower.Counts()
	err := w.l.follower.Look(context.Background())
	after := w.l.follower.Counts()
	w.note("look: %+v, %+v", numbersOf(w.l.gate), after)
	w.tally["lost takings"] += int(after.Lost - before.Lost)
	w.tally["healed"] += int(after.Healed - before.Healed)
	w.tally["loaded"] += int(after.Loaded - before.Loaded)
	w.lawful("look", err)
}

// telling decides whether movements are told.
func (w *world) telling() error {
	if !w.calm && w.chance(0.05+w.faults) {
		w.note("movements are not told")
		w.count("not told")
		return errInjected
	}
	return nil
}

// toldAgain tells movements that were told before, or never, in any order.
func (w *world) toldAgain() {
	var last int64
	w.row(&last, "SELECT seq FROM sale_stock WHERE sale_id=?", w.sale)
	seqs := make([]int64, 1+w.r.IntN(4))
	for i := range seqs {
		seqs[i] = last - w.r.Int64N(min(last, 12))
	}
	list, err := w.sales.movements(context.Background(), w.sale, seqs)
	if err != nil {
		w.fail("%v", err)
	}
	w.r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	w.count("told again")
	w.note("told again: %v", seqs)
	w.l.follower.Tell(list...)
	w.l.follower.Flush(context.Background())
}

func (w *world) gateKeys() (keys [4]string) {
	base := w.h.redis.Key("{sale:" + strconv.FormatInt(int64(w.sale), 36) + "}:")
	return [4]string{base + "head", base + "buyers", base + "pending", base + "early"}
}

func (w *world) dump() (kept [4]string) {
	for i, key := range w.gateKeys() {
		text, err := w.h.redis.UniversalClient().Dump(context.Background(), key).Result()
		if err != nil && err != goredis.Nil {
			w.fail("%v", err)
		}
		kept[i] = text
	}
	return kept
}

func (w *world) restore(kept [4]string) {
	ctx, c := context.Background(), w.h.redis.UniversalClient()
	for i, key := range w.gateKeys() {
		err := c.Del(ctx, key).Err()
		if err == nil && kept[i] != "" {
			err = c.Restore(ctx, key, 0, kept[i]).Err()
		}
		if err != nil {
			w.fail("%v", err)
		}
	}
}

// checkShared: whatever was lost, a shared gate counts what SQL had at the movement that it has come to, less what is pending.
func (w *world) checkShared() {
	n := numbersOf(w.l.gate)
	if !n.Warm || len(n.Missing) > 0 {
		return
	}
	at, err := w.sales.remainingAt(context.Background(), w.sale, n.Applied)
	if err != nil {
		w.fail("%v", err)
	}
	if n.Remaining+n.Unsettled != at {
		w.fail("the shared gate counts %+v, SQL had %d free at that movement", n, at)
	}
}

// drainNodes lets every node come to its end, and the followers make good what was lost.
func (w *world) drainNodes() {
	for i := range w.peers {
		w.swap(i)
		w.drainLine()
		w.l.follower.Flush(context.Background())
		w.lawful("look around", w.sales.look(context.Background()))
	}
	for range simNodes {
		w.clock.Step(3 * time.Second)
		for i := range w.peers {
			w.swap(i)
			w.look()
		}
	}
	n := numbersOf(w.l.gate)
	b := w.books()
	if b.state == StateEnded && !n.Warm { // nobody loads it again
		return
	}
	var seq int64
	w.row(&seq, "SELECT seq FROM sale_stock WHERE sale_id=?", w.sale)
	if !n.Warm || n.Applied != seq || n.Unsettled != 0 || n.Remaining != b.Remaining {
		w.fail("nobody acts any more, and the shared gate counts %+v, SQL has %d free at movement %d", n, b.Remaining, seq)
	}
	for i := range w.buyers {
		who := buyer(i).User
		if held, _ := heldIn(w.l.gate, who); int64(held) != b.held[who] {
			w.fail("the shared gate says that buyer %d holds %d, SQL says %d", i, held, b.held[who])
		}
	}
}
