package schedule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// node is one process of a fleet: Jobs and Schedules with a clock of their own over the shared database.
type node struct {
	f       *fleet
	i       int
	off     atomic.Int64 // its clock's error, microseconds
	jobs    *job.Jobs
	metrics *prometheus.Registry
	mu      sync.Mutex // guards s
	s       *Schedules
}

type fleet struct {
	t        testing.TB
	db       *db.DB
	o        *obs.Obs
	nodes    []*node
	unfenced bool // the controls: fire whatever others did,
	ownClock bool // and by one's own clock
	calm     atomic.Bool
	deaths   atomic.Int64
	pauses   atomic.Int64
}

// fleetOf makes n nodes whose kind "note" writes each firing down in the transaction in which its job is done.
func fleetOf(t testing.TB, n int) *fleet {
	t.Helper()
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := &fleet{t: t, o: o, db: platformtest.DB(t, dir, o, job.Schema(), Schema(), effects)}
	for i := range n {
		nd := &node{f: f, i: i, metrics: prometheus.NewRegistry()}
		own := nd.obs()
		ids, err := id.Open(t.Context(), id.Config{Dir: filepath.Join(dir, "id")}, own)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ids.Close() })
		nd.jobs = job.Open(f.db, ids, own)
		err = errors.Join(nd.jobs.Configure(job.Config{Poll: 20 * time.Millisecond, Lease: 2 * time.Second}), nd.jobs.Register(
			job.Define("note", job.Options{}, func(ctx context.Context, fi Firing) error {
				return f.db.Tx(context.WithoutCancel(ctx), "effect", func(ctx context.Context, tx *db.Tx) error {
					if _, err := tx.Exec(ctx, `INSERT INTO effect (what, fired_at) VALUES (?, ?)`, fi.Schedule, fi.At.UnixMicro()); err != nil {
						return err
					}
					return job.DoneTx(ctx, tx)
				})
			})))
		if err != nil {
			t.Fatal(err)
		}
		nd.renew(50 * time.Millisecond)
		f.nodes = append(f.nodes, nd)
	}
	return f
}

func (nd *node) obs() *obs.Obs {
	clock := func() time.Time { return time.Now().Add(time.Duration(nd.off.Load()) * time.Microsecond) }
	return &obs.Obs{Log: nd.f.o.Log, Metrics: nd.metrics, Clock: clock}
}

// renew is the start of a process.
func (nd *node) renew(poll time.Duration) *Schedules {
	s, err := Open(Config{Poll: poll, OwnClock: nd.f.ownClock}, nd.f.db, nd.jobs, nd.obs())
	if err != nil {
		panic(err)
	}
	if s.clock.ask == nil && !nd.f.ownClock { // SQLite has no clock; many nodes on it are of this test alone, and this is what they share
		s.clock.ask = func(context.Context) (time.Time, error) {
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond) // the way there
			now := time.Now()
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond) // and back
			return now, nil
		}
	}
	s.seam.unfenced = nd.f.unfenced
	s.seam.die = nd.f.die
	nd.mu.Lock()
	nd.s = s
	nd.mu.Unlock()
	return s
}

// die has a node die at any place, or, between its decision and its transaction, sleep while others go on.
func (f *fleet) die(where string) bool {
	if f.calm.Load() {
		return false
	}
	planned := where == "planned" // the first of these sleeps and dies, so that neither is left to luck
	if planned && (f.pauses.Load() == 0 || rand.IntN(40) == 0) {
		f.pauses.Add(1)
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
	}
	if planned && f.deaths.Load() == 0 || rand.IntN(40) == 0 {
		f.deaths.Add(1)
		return true
	}
	return false
}

// start runs the jobs of all nodes, and their schedules anew after each death, until the function that it returns is called.
func (f *fleet) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, nd := range f.nodes {
		wg.Go(func() {
			if err := nd.jobs.Run(ctx); err != nil {
				f.t.Errorf("jobs: %v", err)
			}
		})
		wg.Go(func() {
			for s := nd.s; ctx.Err() == nil; s = nd.renew(s.cfg.Poll) {
				if err := s.Run(ctx); err != nil && !errors.Is(err, errDead) {
					f.t.Errorf("schedules: %v", err)
					return
				}
				if ctx.Err() == nil {
					time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func (f *fleet) count(query string) (n int) {
	f.t.Helper()
	if err := f.db.QueryRow(context.Background(), query).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// storm fires schedules of every 100 ms for a time on four nodes whose clocks are up to a minute wrong and are stepped, and which sleep and
// die. It compares what ran with what the triggers say.
func (f *fleet) storm(firings int) (missed, double int) {
	t := f.t
	t.Helper()
	const names, every = 40, 100 * time.Millisecond
	rounds := firings / names
	now, err := f.nodes[0].s.micros(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.UnixMicro(now).Add(time.Second).Truncate(every)
	until := began.Add(time.Duration(rounds-1) * every)
	text := fmt.Sprintf("every %v from %s until %s", every, began.UTC().Format(time.RFC3339Nano), until.UTC().Format(time.RFC3339Nano))
	for i := range names {
		// Grace is long enough for deaths and sleeps, and shorter than what the clocks are wrong.
		e := Entry{Name: fmt.Sprint("x", i), Kind: "note", Trigger: on(text), Grace: 20 * time.Second, Coalesce: All, Most: 1000, MaxLive: Unlimited}
		if _, err := f.nodes[0].s.Add(t.Context(), e, Fail); err != nil {
			t.Fatal(err)
		}
	}
	skew := func(nd *node) { nd.off.Store(rand.Int64N(120_000_001) - 60_000_000) }
	for _, nd := range f.nodes {
		skew(nd)
	}
	if f.ownClock { // the one that is ahead comes to everything first, and to nothing in time: no luck is needed
		for i, nd := range f.nodes {
			off := int64(-60_000_000)
			if i == 1 {
				off = -off
			}
			nd.off.Store(off)
		}
		skew = func(*node) {}
	}
	stop := f.start()
	for end := time.Now().Add(time.Until(until) + 60*time.Second); f.count(`SELECT COUNT(*) FROM schedule_entry WHERE state < 2`) > 0; {
		time.Sleep(50 * time.Millisecond)
		skew(f.nodes[rand.IntN(len(f.nodes))])
		if time.Now().After(end) {
			t.Fatalf("%d schedules are not finished", f.count(`SELECT COUNT(*) FROM schedule_entry WHERE state < 2`))
		}
	}
	f.calm.Store(true)
	for _, nd := range f.nodes {
		nd.off.Store(70_000_000) // job's due times are of the nodes' own clocks: now they are all over
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := f.nodes[0].jobs.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if left.Due+left.Later+left.Running == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("jobs are left: %+v", left)
		}
	}
	stop()
	rows, err := f.db.Query(t.Context(), `SELECT what, fired_at FROM effect`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	type firing struct {
		name string
		at   int64
	}
	runs := map[firing]int{}
	for rows.Next() {
		var r firing
		if err := rows.Scan(&r.name, &r.at); err != nil {
			t.Fatal(err)
		}
		runs[r]++
	}
	for i := range names {
		for n := range rounds {
			r := firing{fmt.Sprint("x", i), began.Add(time.Duration(n) * every).UnixMicro()}
			switch k := runs[r]; {
			case k == 0:
				missed++
			case k > 1:
				double += k - 1
			}
			delete(runs, r)
		}
	}
	if len(runs) > 0 {
		t.Errorf("%d firings at times that the trigger does not know", len(runs))
	}
	t.Logf("%d firings, %d deaths, %d sleeps: %d missed, %d double; %d skipped as late", names*rounds, f.deaths.Load(), f.pauses.Load(), missed, double,
		f.count(`SELECT SUM(late) FROM schedule_entry`))
	return missed, double
}

// Exactly one run per firing on four nodes, whatever becomes of them and of their clocks.
func TestFleet(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 2000
	}
	f := fleetOf(t, 4)
	if missed, double := f.storm(n); missed != 0 || double != 0 {
		t.Errorf("%d firings are missed, %d are double", missed, double)
	}
	if f.deaths.Load() == 0 || f.pauses.Load() == 0 {
		t.Error("nobody died or slept: the test has tried nothing")
	}
}

// The control: without comparing what is set, firings are double.
func TestFleetUnfenced(t *testing.T) {
	f := fleetOf(t, 4)
	f.unfenced = true
	for _, nd := range f.nodes {
		nd.renew(50 * time.Millisecond)
	}
	if _, double := f.storm(2000); double == 0 {
		t.Error("nothing is double without the comparison: the test proves nothing")
	}
}

// The control: where each node goes by its own clock, one that is ahead takes for late what is not.
func TestFleetOwnClocks(t *testing.T) {
	f := fleetOf(t, 4)
	f.ownClock = true
	for _, nd := range f.nodes {
		nd.renew(50 * time.Millisecond)
	}
	if missed, _ := f.storm(2000); missed == 0 {
		t.Error("nothing is missed by wrong clocks: the test proves nothing")
	}
}

// What one node adds, another one that runs fires in time, long before it would look by itself.
func TestConnect(t *testing.T) {
	f := fleetOf(t, 2)
	f.calm.Store(true)
	a, b := f.nodes[0].renew(time.Minute), f.nodes[1].renew(time.Minute)
	var wakes [2]func()
	wakes[0] = a.Connect(func() { wakes[1]() })
	wakes[1] = b.Connect(func() { wakes[0]() })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{b.Run, f.nodes[1].jobs.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	defer wg.Wait()
	defer cancel()
	time.Sleep(200 * time.Millisecond)
	now, err := a.micros(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMicro(now).Add(300 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	if _, err := a.Add(t.Context(), Entry{Name: "x", Kind: "note", Trigger: on("at " + at)}, Fail); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); f.count(`SELECT COUNT(*) FROM effect`) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the ring was not heard")
		}
	}
}

// Many that are due at once are fired once each, by several nodes together.
func TestManyAtOnce(t *testing.T) {
	for _, live := range []int{Unlimited, 1} {
		t.Run(fmt.Sprint("max live ", live), func(t *testing.T) { manyAtOnce(t, live) })
	}
}

func manyAtOnce(t *testing.T, live int) {
	n := 3000
	if testing.Short() {
		n = 500
	}
	f := fleetOf(t, 3)
	f.calm.Store(true)
	now, err := f.nodes[0].s.micros(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMicro(now).Add(4 * time.Second).Truncate(time.Second)
	rows := make([][]any, n)
	for i := range rows {
		rows[i] = entryRow(fmt.Sprintf("x%05d", i), "at "+at.UTC().Format(time.RFC3339), at)
		rows[i][8] = live
	}
	f.insert(rows)
	stop := f.start()
	defer stop()
	for end := time.Now().Add(60 * time.Second); f.count(`SELECT COUNT(*) FROM effect`) < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d", f.count(`SELECT COUNT(*) FROM effect`), n)
		}
	}
	t.Logf("%d schedules of one time were run %v after it, %d transactions run again", n, time.Since(at), f.db.Stats().Reruns)
	if got := f.count(`SELECT COUNT(DISTINCT what) FROM effect`); got != n || f.count(`SELECT COUNT(*) FROM effect`) != n {
		t.Errorf("%d have run, %d times", got, f.count(`SELECT COUNT(*) FROM effect`))
	}
	if got := f.count(`SELECT COUNT(*) FROM schedule_entry WHERE state = 2 AND fired = 1`); got != n {
		t.Errorf("%d are finished", got)
	}
}

// Beside ten thousand others the table is not scanned, and firings come in time. The bound here is loose, because tests run beside
// others; the figure is in the log.
func TestLateness(t *testing.T) {
	f := fleetOf(t, 1)
	f.calm.Store(true)
	s := f.nodes[0].renew(time.Second)
	far := time.Now().Add(1000 * time.Hour).Truncate(time.Second)
	rows := make([][]any, 10_000)
	for i := range rows {
		at := far.Add(time.Duration(i) * time.Second)
		rows[i] = entryRow(fmt.Sprintf("far%05d", i), "at "+at.UTC().Format(time.RFC3339), at)
	}
	f.insert(rows)
	for query, args := range map[string][]any{selectPage: {0, 0, "", 1, 512}, selectFirst: nil} {
		explain := "EXPLAIN "
		if !s.crowd {
			explain += "QUERY PLAN "
		}
		plan := f.texts(explain+query, args...)
		if !strings.Contains(plan, "schedule_entry_next") {
			t.Errorf("%s is carried out by %s", query, plan)
		}
		began := time.Now()
		for range 50 {
			f.texts(query, args...)
		}
		t.Logf("%v for one look", time.Since(began)/50)
	}
	n := 20
	if !testing.Short() {
		n = 100
	}
	for i := range 10 {
		if _, err := s.Add(t.Context(), Entry{Name: fmt.Sprint("x", i), Kind: "note", Trigger: on(fmt.Sprintf("every %dms", 250+i)), MaxLive: Unlimited}, Fail); err != nil {
			t.Fatal(err)
		}
	}
	stop := f.start()
	time.Sleep(time.Duration(n) * 50 * time.Millisecond)
	var m dto.Metric
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // a busy machine takes longer to see enough
		m.Reset()
		if err := s.m.late.Write(&m); err != nil {
			t.Fatal(err)
		}
		if m.Histogram.GetSampleCount() >= uint64(n) || time.Now().After(end) {
			break
		}
	}
	stop()
	all, half := m.Histogram.GetSampleCount(), time.Duration(0)
	for _, b := range m.Histogram.Bucket {
		t.Logf("%6.2f%% within %v", 100*float64(b.GetCumulativeCount())/float64(all), time.Duration(b.GetUpperBound()*float64(time.Second)))
		if half == 0 && 2*b.GetCumulativeCount() >= all {
			half = time.Duration(b.GetUpperBound() * float64(time.Second))
		}
	}
	if all < uint64(n) || half > 10*time.Second {
		t.Errorf("%d firings, half of them later than %v", all, half)
	}
}

// texts returns what a query gives as one text.
func (f *fleet) texts(query string, args ...any) (all string) {
	f.t.Helper()
	rows, err := f.db.Query(context.Background(), query, args...)
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		f.t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			f.t.Fatal(err)
		}
		for _, v := range values {
			if b, ok := (*v.(*any)).([]byte); ok {
				all += string(b) + " "
			} else {
				all += fmt.Sprint(*v.(*any), " ")
			}
		}
	}
	return all
}

// entryRow is a row for insert.
func entryRow(name, trigger string, at time.Time) []any {
	return []any{name, "note", "null", trigger, "", 0, 0, 10, Unlimited, 0, at.UnixMicro(), 1, "", 0, 0, 0, 0, 0, "", 0, 0}
}

func (f *fleet) insert(rows [][]any) {
	f.t.Helper()
	for len(rows) > 0 {
		part := rows[:min(len(rows), 5000)]
		rows = rows[len(part):]
		err := f.db.Tx(f.t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			return tx.InsertRows(ctx, "schedule_entry", []string{"name", "kind", "args", "trigger_text", "note", "grace", "coalesce_how", "most", "max_live",
				"state", "next_at", "version", "declared", "changed", "fired", "late", "merged", "busy", "skipped_why", "created_at", "changed_at"}, part)
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
}
