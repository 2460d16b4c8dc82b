package sale

import (
	"context"
	"errors"
	stdflag "flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"levee"
	"levee/internal/catalog"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/push"
	"levee/internal/platform/redis"
)

// The simulation sells one sale per seed: real rooms on a real database, everything else (who acts next, the clock, the
// payers, what fails and dies where) drawn from the seed. Nothing runs by itself: the settler's steps are taken by the
// simulator, a buyer who holds the line is a goroutine that runs only while the simulator waits for it. So a seed replays
// exactly, and what a failing seed prints is all that happened.
var (
	simSeeds = stdflag.Int("sim.seeds", 300, "how many seeds TestSimulation runs")
	simTrace = stdflag.Int("sim.trace", 120, "how many lines of a failed seed are shown; 0 shows all")
	simSeed  = stdflag.Uint64("sim.seed", 1, "the first seed of TestSimulation")
)

const simWorkers = 2

func TestSimulation(t *testing.T) {
	t.Parallel()
	seeds := *simSeeds
	if testing.Short() {
		seeds = min(seeds, 40)
	}
	started := time.Now()
	next, last := new(atomic.Uint64), *simSeed+uint64(seeds)
	next.Store(*simSeed)
	total := simTally{}
	var mu sync.Mutex // guards total and failures
	var failures []*simFailure
	var wg sync.WaitGroup
	for range min(simWorkers, seeds) {
		h := openSimHouse(t)
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= last {
					return
				}
				tally, failure := h.run(seed, nil)
				mu.Lock()
				total.add(tally)
				if failure != nil {
					failures = append(failures, failure)
				}
				stop := len(failures) >= 3
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(started)
	t.Logf("%d seeds in %s, %.0f seeds a minute: %s", seeds, took.Round(time.Millisecond), float64(seeds)/took.Minutes(), total)
	for _, f := range failures {
		t.Errorf("%s\nreplay: go test ./internal/sale -run 'TestSimulation$' -sim.seed=%d -sim.seeds=1", f, f.seed)
	}
	if seeds < 300 || len(failures) > 0 {
		return
	}
	// A simulation in which something never happens proves nothing about it.
	for _, name := range simMustHappen {
		if total[name] == 0 {
			t.Errorf("in %d seeds this never happened: %s", seeds, name)
		}
	}
}

// simMustHappen names what a run of some hundred seeds has to contain.
var simMustHappen = []string{
	"won", "won by a held request", "won after 202", "repeated", "sold_out", "limit_reached", "paused", "ended", "idempotency_running",
	"idempotency_mismatch", "not_warmed", "refused by SQL", "killed", "commit without an answer", "injected error", "two in one commit",
	"meanwhile", "paid", "revived", "refunded", "paid twice", "paid before expiry asked", "expired", "given up", "voided", "gate wrong",
	"clock back", "place lost", "refunded on request", "draw_only", "joined the line", "granted on a return", "granted by a job", "granted less",
	"grant repeated", "grant: limit_reached", "grant: sold_out",
}

// simTally counts what happened.
type simTally map[string]int

func (s simTally) add(o simTally) {
	for k, n := range o {
		s[k] += n
	}
}

func (s simTally) String() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s %d, ", k, s[k])
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// simFailure is a promise that was broken.
type simFailure struct {
	seed  uint64
	what  string
	trace []string
}

func (f *simFailure) String() string {
	lines := f.trace
	cut := ""
	if most := *simTrace; most > 0 && len(lines) > most {
		cut, lines = fmt.Sprintf("… %d lines before (-sim.trace=0 shows all)\n", len(lines)-most), lines[len(lines)-most:]
	}
	return fmt.Sprintf("seed %d: %s\n%s%s", f.seed, f.what, cut, strings.Join(lines, "\n"))
}

// simHouse is one database for many seeds, because opening one costs more than a seed.
type simHouse struct {
	t      testing.TB
	obs    *obs.Obs
	db     *db.DB
	ids    *id.Generator
	sealer *id.Sealer
	events *event.Bus
	jobs   *job.Jobs
	push   *push.Hub
	sku    levee.SKUID
	seeds  int
	redis  *redis.Client // where the gate is shared
	pay    int64         // the last payment's number
	place  int64         // the last place in line
}

const simPaymentSchema = `
-- Payment in small: what the provider's notifications did, kept in the same commit as what they did.
CREATE TABLE sim_payment (
    id BIGINT NOT NULL PRIMARY KEY,
    order_id BIGINT NOT NULL,
    state SMALLINT NOT NULL
);
CREATE INDEX sim_payment_order ON sim_payment (order_id);
`

// The states of a payment in the simulation.
const (
	simStarted = 0
	simKept    = 1 // it paid its order
	simBack    = 2 // it bought nothing and goes back
)

// simObs is silent: kills write stacks, and ten thousand seeds write books.
func simObs(clock obs.Clock) *obs.Obs {
	return &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Tracer: noop.NewTracerProvider().Tracer(""), Clock: clock}
}

func openSimHouse(t testing.TB) *simHouse {
	t.Helper()
	return openSimHouseOver(t, nil)
}

// openSimHouseOver opens a house whose nodes share gates in Redis, or none.
func openSimHouseOver(t testing.TB, shared *redis.Client) *simHouse {
	t.Helper()
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "levee-sim-"); err == nil {
		dir = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	h := &simHouse{t: t, obs: simObs(time.Now), redis: shared}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	var err error
	h.db, err = db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, h.obs)
	must(err)
	t.Cleanup(func() { must(h.db.Close()) })
	sim := db.Schema{Owner: "sim", FS: fstest.MapFS{"schema/0001_sim.sql": {Data: []byte(simPaymentSchema + simLineSchema)}}}
	_, err = h.db.Migrate(ctx, []db.Schema{event.Schema(), job.Schema(), once.Schema(), catalog.Schema(), order.Schema(), Schema(), sim})
	must(err)
	h.ids, err = id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, h.obs)
	must(err)
	t.Cleanup(func() { must(h.ids.Close()) })
	h.sealer, err = id.NewSealer(platformtest.Key(1))
	must(err)
	h.events = event.Open(h.db, h.ids, h.obs)
	h.jobs = job.Open(h.db, h.ids, h.obs)
	h.push = push.Open(push.Config{}, h.obs)
	t.Cleanup(func() { must(h.push.Close(context.Background())) })
	shelf := catalog.New(catalog.Deps{DB: h.db, IDs: h.ids, Sealer: h.sealer, Obs: simObs(time.Now), Events: h.events})
	p, err := shelf.Create(ctx, catalog.NewProduct{Title: "Lamp", SKUs: []catalog.NewSKU{{Code: "LAMP-1", Name: "Lamp",
		Price: levee.Money{Minor: 9900, Currency: "CNY"}, OnHand: 1_000_000_000}}})
	must(err)
	h.sku = p.SKUs[0].ID
	return h
}

// clear empties the tables now and then, so that the ten-thousandth seed costs what the first did, and takes away what a
// failed seed left.
func (h *simHouse) clear() {
	err := h.db.Tx(context.Background(), "sim.clear", func(ctx context.Context, tx *db.Tx) error {
		for _, table := range []string{"sale_head", "sale_stock", "sale_reservation", "sale_ledger", "sale_act", "order_head", "order_item",
			"order_history", "event_outbox", "catalog_movement", "sim_payment", "sim_line"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	h.seeds = 0
}

// run plays one seed, with the engine as it is or with a flaw.
func (h *simHouse) run(seed uint64, f *flaw) (tally simTally, failure *simFailure) {
	if h.seeds++; h.seeds > 100 {
		h.clear()
	}
	w := &world{
		h: h, seed: seed, r: rand.New(rand.NewPCG(seed, 0x1e7ee)), flaw: f, tally: simTally{},
		clock:   &testClock{now: time.Date(2026, 11, 11, 10, 0, 0, 0, time.UTC)},
		answers: map[wishKey]levee.ReservationID{}, won: map[levee.ReservationID]*simBuy{}, refused: map[levee.ReservationID]bool{},
		delivered: map[levee.ReservationID]bool{}, sums: map[levee.UserID]int64{}, taken: map[levee.ReservationID]time.Time{},
	}
	defer func() {
		v := recover()
		w.dead, w.calm = false, true
		w.dismiss()
		for _, p := range w.peers {
			w.held = p.held
			w.dismiss()
		}
		if _, stopped := v.(simStop); v != nil && !stopped {
			panic(fmt.Sprintf("seed %d: %v\n%s", seed, v, strings.Join(w.trace, "\n")))
		}
		if w.failure != "" {
			failure = &simFailure{seed: seed, what: w.failure, trace: w.trace}
			h.clear()
		}
		tally = w.tally
	}()
	w.begin()
	for range 60 + w.r.IntN(240) {
		w.turn()
	}
	w.drain()
	return
}

var (
	errInjected = errors.New("injected")
	errNoAnswer = errors.New("the answer was lost")
)

// hub opens a push hub that ends with the test.
func (*simHouse) hub(t testing.TB, o *obs.Obs) *push.Hub {
	h := push.Open(push.Config{}, o)
	t.Cleanup(func() { _ = h.Close(context.Background()) })
	return h
}
