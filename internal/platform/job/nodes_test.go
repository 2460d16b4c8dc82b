package job

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// node is one process of a fleet: Jobs with a clock of its own over the shared database.
type node struct {
	i     int
	jobs  *Jobs
	kind  *Kind[args]
	off   atomic.Int64 // its clock's error, microseconds
	held  atomic.Bool  // it sleeps
	stop  func()
	alive bool
}

type fleet struct {
	*house
	nodes []*node
}

// rescued counts the jobs that nodes have taken over.
func (f *fleet) rescued() (n float64) {
	for _, nd := range f.nodes {
		n += metric(f.t, nd.jobs.m.rescued)
	}
	return n
}

// fleetOf makes n nodes whose clocks are seconds apart. do is the job of node i. Nodes that are connected ring each other.
func fleetOf(t testing.TB, n int, connected bool, c Config, do func(f *fleet, nd *node, ctx context.Context, a args) error, more func(nd *node) []Registration) *fleet {
	t.Helper()
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{house: openDir(t, t.TempDir(), o)}
	wakes := make([]func(), n)
	for i := range n {
		nd := &node{i: i}
		nd.off.Store((int64(i) - 1) * 10_000_000)
		clock := func() time.Time { return time.Now().Add(time.Duration(nd.off.Load()) * time.Microsecond) }
		own := &obs.Obs{Log: o.Log, Metrics: prometheus.NewRegistry(), Clock: clock}
		ids, err := id.Open(t.Context(), id.Config{Dir: filepath.Join(f.dir, "id")}, own)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ids.Close() })
		nd.jobs = Open(f.db, ids, own)
		nd.jobs.seam.hold = func() {
			for nd.held.Load() {
				time.Sleep(time.Millisecond)
			}
		}
		nd.kind = Define("job", Options{MaxAttempts: 1000, Backoff: func(int) time.Duration { return 20 * time.Millisecond }}, func(ctx context.Context, a args) error { return do(f, nd, ctx, a) })
		rs := []Registration{nd.kind}
		if more != nil {
			rs = append(rs, more(nd)...)
		}
		if err := nd.jobs.Configure(c); err != nil {
			t.Fatal(err)
		}
		if err := nd.jobs.Register(rs...); err != nil {
			t.Fatal(err)
		}
		f.nodes = append(f.nodes, nd)
	}
	if connected {
		for i, nd := range f.nodes {
			wakes[i] = nd.jobs.Connect(func() {
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
			nd.end()
		}
	})
	return f
}

func (f *fleet) start(nd *node) { nd.stop, nd.alive = f.run(nd.jobs), true }

func (nd *node) end() {
	if nd.alive {
		nd.held.Store(false)
		nd.stop()
		nd.alive = false
	}
}

// once is a job whose effect commits with its completion.
func once(f *fleet, nd *node, ctx context.Context, a args) error {
	time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
	nd.jobs.seam.sleep()
	return f.db.Tx(context.WithoutCancel(ctx), "effect", func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('done', ?)`, a.N); err != nil {
			return err
		}
		return DoneTx(ctx, tx)
	})
}

// storm lets all nodes enqueue and work while some are put to sleep for longer than their leases, stopped without a drain, and started
// again, and clocks step, until some were taken over, too. It returns how many jobs there were.
func (f *fleet) storm(d time.Duration, harms func(rng *rand.Rand, nd *node)) (jobs int) {
	f.t.Helper()
	for _, nd := range f.nodes {
		f.start(nd)
	}
	end := time.Now().Add(d)
	goesOn := func() bool {
		return time.Now().Before(end) || f.rescued() == 0 && time.Now().Before(end.Add(time.Minute))
	}
	var said atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 3))
			for goesOn() {
				nd := f.nodes[rng.IntN(len(f.nodes))]
				err := f.db.Tx(context.Background(), "say", func(ctx context.Context, tx *db.Tx) error {
					for range 1 + rng.IntN(5) {
						// Soon by this node's clock is any time within the skew for others.
						if _, err := nd.kind.EnqueueTx(ctx, tx, args{int(said.Add(1))}, At(time.Now().Add(-time.Minute))); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					f.t.Errorf("enqueue: %v", err)
					return
				}
				time.Sleep(time.Duration(rng.IntN(8)) * time.Millisecond)
			}
		})
	}
	rng := rand.New(rand.NewPCG(8, 8))
	for goesOn() {
		time.Sleep(time.Duration(30+rng.IntN(100)) * time.Millisecond)
		harms(rng, f.nodes[rng.IntN(len(f.nodes))])
	}
	wg.Wait()
	for _, nd := range f.nodes {
		nd.held.Store(false)
		nd.off.Store(0)
		if !nd.alive {
			f.start(nd)
		}
	}
	for end := time.Now().Add(60 * time.Second); f.count(`SELECT COUNT(*) FROM job_task`) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("%d jobs are left", f.count(`SELECT COUNT(*) FROM job_task`))
		}
	}
	return int(said.Load())
}

func metric(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// effects counts how often each job had its effect.
func (f *fleet) effects() map[int]int {
	f.t.Helper()
	rows, err := f.db.Query(context.Background(), `SELECT n FROM effect WHERE what = 'done'`)
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	all := map[int]int{}
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			f.t.Fatal(err)
		}
		all[n]++
	}
	return all
}

var quick = Config{Lease: 300 * time.Millisecond, Poll: 20 * time.Millisecond, Grace: 100 * time.Millisecond, Pools: map[string]int{"default": 8}}

// harm puts nodes to sleep, stops and starts them, and moves their clocks by up to ten seconds either way.
func (f *fleet) harm(slept *int) func(rng *rand.Rand, nd *node) {
	return func(rng *rand.Rand, nd *node) {
		switch rng.IntN(5) {
		case 0, 1:
			nd.held.Store(true)
			*slept++
		case 2:
			nd.end()
		case 3:
			nd.off.Store(rng.Int64N(20_000_001) - 10_000_000)
		}
		for _, nd := range f.nodes {
			if rng.IntN(5) == 0 {
				nd.held.Store(false)
			}
			if rng.IntN(4) == 0 && !nd.alive {
				f.start(nd)
			}
		}
	}
}

// Whatever happens to nodes and clocks, each job has its effect exactly once.
func TestFleet(t *testing.T) {
	d := 8 * time.Second
	if testing.Short() {
		d = 2 * time.Second
	}
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprintf("connected %v", connected), func(t *testing.T) {
			f := fleetOf(t, 3, connected, quick, once, nil)
			slept := 0
			total := f.storm(d, f.harm(&slept))
			bad := 0
			for n, times := range f.effects() {
				if times != 1 {
					bad++
					t.Errorf("job %d has its effect %d times", n, times)
				}
			}
			got := len(f.effects())
			rescued := f.rescued()
			t.Logf("%d jobs, %d nodes put to sleep, %.0f jobs taken over", got, slept, rescued)
			// An enqueuing transaction that was run again counts twice in total, never in the effects.
			if got == 0 || got > total || rescued == 0 {
				t.Errorf("%d effects of at most %d jobs, %.0f taken over: the test has tried nothing", got, total, rescued)
			}
			if n := f.count(`SELECT COUNT(*) FROM job_dead`); n != 0 {
				t.Errorf("%d jobs are dead", n)
			}
		})
	}
}

// A node sleeps in a job for longer than its lease; another does the job; the sleeper wakes and tries to complete it. Without the fence
// the effect is there twice.
func TestSleeperWakes(t *testing.T) {
	for _, unfenced := range []bool{false, true} {
		t.Run(fmt.Sprintf("unfenced %v", unfenced), func(t *testing.T) {
			began, woke := make(chan struct{}), make(chan struct{})
			result := make(chan error, 1)
			var first atomic.Bool
			f := fleetOf(t, 2, true, quick, func(f *fleet, nd *node, ctx context.Context, a args) error {
				sleeps := first.CompareAndSwap(false, true)
				if sleeps {
					close(began)
					<-woke
				}
				err := once(f, nd, ctx, a)
				if sleeps {
					result <- err
				}
				return err
			}, nil)
			sleeper, other := f.nodes[0], f.nodes[1]
			sleeper.jobs.seam.unfenced = unfenced
			f.start(sleeper)
			if _, err := sleeper.kind.Enqueue(t.Context(), args{1}); err != nil {
				t.Fatal(err)
			}
			<-began
			sleeper.held.Store(true)
			f.start(other)
			for end := time.Now().Add(10 * time.Second); f.count(`SELECT COUNT(*) FROM effect`) == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("nobody took over")
				}
			}
			sleeper.held.Store(false)
			close(woke)
			err := <-result
			got := f.count(`SELECT COUNT(*) FROM effect`)
			if !unfenced && (err == nil || got != 1) {
				t.Errorf("the sleeper completes with %v, the effect is there %d times", err, got)
			}
			if unfenced && got != 2 {
				t.Errorf("the effect is there %d times without the fence: this test proves nothing", got)
			}
		})
	}
}

// Clocks of a fleet that differ by twenty seconds and step, for far longer than the lease: nothing that runs is taken over, and nothing
// runs twice.
func TestSkewTakesNothingOver(t *testing.T) {
	var running, twice atomic.Int32
	f := fleetOf(t, 3, true, quick, func(f *fleet, nd *node, ctx context.Context, a args) error {
		if running.Add(1) > 1 {
			twice.Add(1)
		}
		defer running.Add(-1)
		for end := time.Now().Add(5 * quick.Lease); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if rand.IntN(10) == 0 {
				f.nodes[rand.IntN(3)].off.Store(rand.Int64N(40_000_001) - 20_000_000)
			}
		}
		return once(f, nd, ctx, a)
	}, nil)
	for _, nd := range f.nodes {
		f.start(nd)
	}
	if _, err := f.nodes[0].kind.Enqueue(t.Context(), args{1}, At(time.Now().Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); f.count(`SELECT COUNT(*) FROM job_task`) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not done")
		}
	}
	if twice.Load() != 0 || f.count(`SELECT COUNT(*) FROM effect`) != 1 {
		t.Errorf("it ran %d times more", twice.Load())
	}
}

// Two enqueue with neighbouring unique keys at once, again and again: each key has one job, and nobody gives up.
func TestUniqueFromManyNodes(t *testing.T) {
	h := open(t)
	k := Define("unique", Options{}, func(context.Context, args) error { return nil })
	h.jobs(Config{}, k)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 100 {
				err := h.db.Tx(context.Background(), "test", func(ctx context.Context, tx *db.Tx) error {
					_, err := k.EnqueueTx(ctx, tx, args{n}, Unique(fmt.Sprint("order:", n)), After(time.Hour))
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 100 {
		t.Errorf("%d jobs, want 100", n)
	}
}

// A ring is heard at once by a node that has slots, when the one that enqueues runs no jobs itself.
func TestConnect(t *testing.T) {
	slow := quick
	slow.Poll = 30 * time.Second
	f := fleetOf(t, 2, true, slow, once, nil)
	f.nodes[1].off.Store(0)
	f.nodes[0].off.Store(-1_000_000)
	f.start(f.nodes[1])
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	if _, err := f.nodes[0].kind.Enqueue(t.Context(), args{1}); err != nil {
		t.Fatal(err)
	}
	for f.count(`SELECT COUNT(*) FROM effect`) == 0 {
		if time.Since(began) > 5*time.Second {
			t.Fatal("the ring was not heard")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
