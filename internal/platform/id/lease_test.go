package id

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
)

func (s *sqlWorld) rows(t testing.TB) []workerRow {
	t.Helper()
	rows, err := (&sqlStore{d: s.d}).rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// sqlWorld is a database with the table id_worker, and what can go wrong between it and a node.
type sqlWorld struct {
	d    *db.DB
	kept int // worker numbers that are not left out; 0: all
	away atomic.Bool

	mu   sync.Mutex // guards late
	late []func()   // transactions whose callers were told that they failed, and that the server carries out later
	odd  bool       // a store that loses answers, before or after the commit

	model   bool                                                        // the store is in memory
	prepare func(t testing.TB, base *wrongClock) (Config, leaseOptions) // an empty store of a few worker numbers; nil: in d
	lose    func(t testing.TB, rng *rand.Rand)                          // the store forgets what it has promised; nil: it cannot
}

func openWorld(t testing.TB) *sqlWorld {
	t.Helper()
	d := testDB(t)
	if _, err := d.Migrate(t.Context(), []db.Schema{Schema()}); err != nil {
		t.Fatal(err)
	}
	return &sqlWorld{d: d}
}

// begin empties the table but for the given count of worker numbers, so that few are shared by many lives.
func (s *sqlWorld) begin(t testing.TB, numbers int) {
	t.Helper()
	s.away.Store(false)
	s.late = nil
	err := s.d.Tx(t.Context(), "test.begin", func(ctx context.Context, tx *db.Tx) error {
		if s.kept == numbers {
			_, err := tx.Exec(ctx, `DELETE FROM id_worker WHERE worker < ?`, numbers)
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM id_worker`); err != nil {
			return err
		}
		var rows [][]any
		for worker := numbers; worker < maxWorkers; worker++ { // turn 0: left out
			rows = append(rows, []any{int64(worker), "nobody", "nobody", int64(0), int64(0)})
		}
		return tx.InsertRows(ctx, "id_worker", []string{"worker", "owner", "node", "horizon", "turn"}, rows)
	})
	s.kept = numbers
	if err != nil {
		t.Fatal(err)
	}
}

var errAway = levee.E(levee.CodeUnavailable, "the database is away")

// line is a store over a bad line.
type line struct {
	store
	s *sqlWorld
}

func (s *sqlWorld) wrap(inner store) store { return &line{inner, s} }

// lossy makes one call, or loses it or its answer.
func lossy[T any](ctx context.Context, s *sqlWorld, call func(ctx context.Context) (T, error)) (none T, _ error) {
	if s.away.Load() {
		return none, errAway
	}
	if s.odd {
		switch rand.IntN(8) {
		case 0: // the answer is lost
			_, err := call(ctx)
			return none, errors.Join(errAway, err)
		case 1: // the request lies somewhere and arrives later
			s.mu.Lock()
			defer s.mu.Unlock()
			s.late = append(s.late, func() { _, _ = call(context.Background()) })
			return none, errAway
		}
	}
	return call(ctx)
}

func (l *line) take(ctx context.Context, at workerRow, owner, node string) (bool, int64, error) {
	type taken struct {
		won   bool
		floor int64
	}
	got, err := lossy(ctx, l.s, func(ctx context.Context) (taken, error) {
		won, floor, err := l.store.take(ctx, at, owner, node)
		return taken{won, floor}, err
	})
	return got.won && err == nil, got.floor, err
}

func (l *line) raise(ctx context.Context, worker int, owner string, horizon int64) (grant, error) {
	return lossy(ctx, l.s, func(ctx context.Context) (grant, error) { return l.store.raise(ctx, worker, owner, horizon) })
}

func (l *line) free(ctx context.Context, worker int, owner string, first int64) error {
	_, err := lossy(ctx, l.s, func(ctx context.Context) (bool, error) { return true, l.store.free(ctx, worker, owner, first) })
	return err
}

// claimWithin is how long a claim may wait: not at all where the store's clock is the test's, which stands still meanwhile.
func (s *sqlWorld) claimWithin() time.Duration {
	if s.lose != nil {
		return 50 * time.Millisecond
	}
	return claimTime
}

// arrive lets one late transaction arrive.
func (s *sqlWorld) arrive() {
	s.mu.Lock()
	var f func()
	if n := len(s.late); n > 0 {
		i := rand.IntN(n)
		f = s.late[i]
		s.late = append(s.late[:i], s.late[i+1:]...)
	}
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// hostileSQL plays one random history of a fleet on three worker numbers: each node has a clock of its own, up to 10 s (and
// sometimes hours) wrong and stepping; nodes start, stop, die, sleep while their number is stolen, and wake; the database goes away,
// loses answers and carries out late what it was told to.
func hostileSQL(t *testing.T, s *sqlWorld, seed uint64, start func(floor, now int64) int64) (ids []int64, lives, stolen int) {
	rng := rand.New(rand.NewPCG(seed, 2))
	base := newWrongClock()
	hectic := 1 + time.Duration(seed%2)*150 // in every other history hardly any time passes
	cfg := Config{DB: s.d, Node: "test", Ahead: []time.Duration{time.Second, 5 * time.Second, time.Minute}[rng.IntN(3)]}
	opt := leaseOptions{}
	if s.prepare != nil {
		s.away.Store(false)
		s.late = nil
		var prepared Config
		prepared, opt = s.prepare(t, base)
		prepared.Node, prepared.Ahead = "test", cfg.Ahead
		if prepared.Redis != nil {
			prepared.Ahead = min(cfg.Ahead, 5*time.Second)
		}
		cfg = prepared
	} else {
		s.begin(t, 3)
	}
	opt.wrap = s.wrap
	type life struct {
		*Generator
		last int64
		off  *atomic.Int64
	}
	var alive []*life
	begin := func(steal bool) {
		off := &atomic.Int64{}
		off.Store(rng.Int64N(20_001) - 10_000)
		if hectic == 1 && rng.IntN(4) > 0 {
			off.Store(0) // the same clock as others: a later life begins in the same milliseconds
		} else if rng.IntN(10) == 0 {
			off.Store(rng.Int64N(7_200_001) - 3_600_000)
		}
		clock := func() time.Time { return base.Now().Add(time.Duration(off.Load()) * time.Millisecond) }
		opt := opt
		opt.steal = steal
		ctx, cancel := context.WithTimeout(context.Background(), s.claimWithin())
		defer cancel()
		g, err := open(ctx, cfg, quiet(clock), options{start: start, lease: opt})
		if err != nil {
			mayFail(t, seed, err)
			return
		}
		lives++
		alive = append(alive, &life{Generator: g, off: off})
	}
	end := func(i int, how func(*Generator)) {
		how(alive[i].Generator)
		alive = append(alive[:i], alive[i+1:]...)
	}
	take := func(l *life, n int) {
		got := make([]int64, n)
		var err error
		switch {
		case n == 1:
			got[0], err = l.Next()
		case n == 2: // after what another node has told
			got = got[:1]
			if len(ids) > 0 {
				floor := ids[rng.IntN(len(ids))]
				if got[0], err = l.NextAfter(floor); err == nil && got[0] <= floor {
					t.Fatalf("seed %d: %d is not after %d", seed, got[0], floor)
				}
			} else {
				got[0], err = l.Next()
			}
		default:
			err = l.NextN(got)
		}
		if err != nil {
			mayFail(t, seed, err)
			return
		}
		for _, id := range got {
			if id <= l.last {
				t.Fatalf("seed %d: %d after %d", seed, id, l.last)
			}
			l.last = id
		}
		ids = append(ids, got...)
	}
	for range 60 + rng.IntN(60) {
		if len(alive) == 0 {
			base.step(time.Duration(rng.IntN(3)) * abandonedAfter)
			begin(false)
			if len(alive) == 0 {
				s.away.Store(false)
			}
			continue
		}
		i := rng.IntN(len(alive))
		switch p := rng.IntN(100); {
		case p < 38:
			take(alive[i], 1+rng.IntN(3)/2*rng.IntN(300))
		case p < 44:
			take(alive[i], 2)
		case p < 47:
			take(alive[i], 1+rng.IntN(9000))
		case p < 56:
			base.step(time.Duration(rng.IntN(20)) * time.Millisecond * hectic)
		case p < 60:
			alive[i].off.Add(rng.Int64N(20_001) - 10_000)
		case p < 62 && hectic > 1:
			base.step(time.Duration(rng.IntN(20)) * time.Minute)
		case p < 74 && len(alive) < 4:
			begin(false)
		case p < 78 && len(alive) < 4:
			begin(true)
			stolen++
		case p < 84:
			end(i, (*Generator).crash)
		case p < 90:
			end(i, func(g *Generator) { _ = g.Close() })
		case p < 92:
			s.away.Store(true)
		case p < 94:
			s.away.Store(false)
		case p < 97:
			if s.lose != nil {
				s.lose(t, rng)
				if len(alive) < 4 {
					begin(false)
				}
			}
		default:
			s.arrive()
		}
	}
	for len(alive) > 0 {
		end(0, (*Generator).crash)
	}
	return ids, lives, stolen
}

func TestHostileFleetGivesNoDuplicates(t *testing.T) {
	s := openWorld(t)
	s.odd = true
	ids, lives, stolen := 0, 0, 0
	n := runs(t, 80)
	for seed := range n {
		got, l, st := hostileSQL(t, s, seed, nil)
		if d := duplicates(got); d != 0 {
			t.Fatalf("seed %d: %d duplicates in %d ids", seed, d, len(got))
		}
		ids, lives, stolen = ids+len(got), lives+l, stolen+st
	}
	t.Logf("%d ids of %d lives, %d thefts of a living number", ids, lives, stolen)
	if uint64(ids) < 100*n || uint64(lives) < 5*n || uint64(stolen) < n {
		t.Error("the histories hardly did anything")
	}
}

// The same histories must find a generator that trusts its clock, or they prove nothing.
func TestHostileFleetFindsAGeneratorThatTrustsTheClock(t *testing.T) {
	s := openWorld(t)
	found, ids := 0, 0
	n := max(runs(t, 60), 20)
	for seed := range n {
		got, _, _ := hostileSQL(t, s, seed, func(_, now int64) int64 { return max(now, 1) })
		ids += len(got)
		if duplicates(got) > 0 {
			found++
		}
	}
	t.Logf("duplicates in %d of %d histories (%d ids)", found, n, ids)
	if found == 0 {
		t.Error("no duplicate was found: this test could not find a real one either")
	}
}

func mustLease(t testing.TB, s *sqlWorld, cfg Config, clock func() time.Time) *Generator {
	t.Helper()
	cfg.DB = s.d
	g, err := open(context.Background(), cfg, quiet(clock), options{lease: leaseOptions{wrap: s.wrap}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// Store away: ids go on to the horizon, also where the clock has left it behind, and end there with a clear error; once it is back
// they go on above.
func TestStoreAway(t *testing.T) {
	s := openWorld(t)
	clock := newWrongClock()
	g := mustLease(t, s, Config{Ahead: time.Minute}, clock.Now)
	first := mustNext(t, g)
	s.away.Store(true)
	last := first
	for range 70 {
		clock.step(time.Second)
		if id := mustNext(t, g); id <= last {
			t.Fatalf("%d after %d", id, last)
		} else {
			last = id
		}
	}
	if ran := TimeOf(last).Sub(TimeOf(first)); ran > time.Minute {
		t.Errorf("ids reached %v past the first, the horizon is a minute", ran)
	}
	ids := make([]int64, 1<<16)
	var err error
	for range 70_000 { // a minute has 60,000 milliseconds of 4,096 ids
		if err = g.NextN(ids); err != nil {
			break
		}
	}
	if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("no end at the horizon: %v", err)
	}
	var e *levee.Error
	if errors.As(err, &e); e.RetryAfter <= 0 {
		t.Errorf("no RetryAfter in %v", err)
	}
	s.away.Store(false)
	deadline := time.Now().Add(5 * time.Second)
	for {
		if id, err := g.Next(); err == nil {
			if id <= last {
				t.Errorf("%d after %d", id, last)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the store is back and no id is given")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A paused node whose number was taken over meets its own horizon; its ids and the thief's never meet.
func TestPausedOwner(t *testing.T) {
	s := openWorld(t)
	s.begin(t, 1)
	clock := newWrongClock()
	sleeper := mustLease(t, s, Config{Ahead: time.Second}, clock.Now)
	seen := map[int64]bool{}
	for range 100 {
		seen[mustNext(t, sleeper)] = true
	}
	thief, err := open(t.Context(), Config{DB: s.d, Ahead: time.Second}, quiet(clock.Now), options{lease: leaseOptions{steal: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if thief.Worker() != sleeper.Worker() {
		t.Fatal("no theft")
	}
	ids := make([]int64, 1000)
	dead := 0
	for range 50_000 {
		if err := sleeper.NextN(ids); err != nil {
			if levee.CodeOf(err) != levee.CodeUnavailable {
				t.Fatal(err)
			}
			dead++
			break
		}
		for _, id := range ids {
			seen[id] = true
		}
	}
	if dead == 0 {
		t.Fatal("the sleeper passes its horizon")
	}
	for range 1000 {
		if id := mustNext(t, thief); seen[id] {
			t.Fatalf("%d was given twice", id)
		}
	}
	if err := sleeper.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	mustNext(t, thief) // the sleeper's Close has not given the thief's number away
	if rows := s.rows(t); rows[0].owner == "" {
		t.Error("the sleeper's Close has freed the thief's number")
	}
}

// A number that was given back comes back at once, one whose process died after its horizon is long past, and one that rests is
// preferred to one that is still ahead.
func TestNumbersComeBack(t *testing.T) {
	s := openWorld(t)
	s.begin(t, 2)
	clock := newWrongClock()
	cfg := Config{Ahead: time.Second}
	a := mustLease(t, s, cfg, clock.Now)
	b := mustLease(t, s, cfg, clock.Now)
	last := mustNext(t, a)
	if a.Worker() == b.Worker() {
		t.Fatal("two nodes share a number")
	}
	if _, err := Open(t.Context(), Config{DB: s.d}, quiet(clock.Now)); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("a third of two numbers: %v", err)
	}
	a.crash()
	if _, err := Open(t.Context(), Config{DB: s.d}, quiet(clock.Now)); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("the number of one that may be alive: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b2 := mustLease(t, s, cfg, clock.Now)
	if b2.Worker() != b.Worker() {
		t.Errorf("worker %d, want %d", b2.Worker(), b.Worker())
	}
	clock.step(abandonedAfter + 2*time.Second)
	mustNext(t, b2)
	b2.hurry()
	waitFor(t, func() bool { return s.rows(t)[b2.Worker()].horizon > b2.now() }) // alive and idle: its horizon moves on
	a2 := mustLease(t, s, cfg, clock.Now)
	if id := mustNext(t, a2); a2.Worker() != a.Worker() || id <= last {
		t.Errorf("worker %d gives %d after %d of %d", a2.Worker(), id, last, a.Worker())
	}
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("not in five seconds")
}

// An idle node in a database keeps its horizon ahead of the clock, so that its number never looks abandoned.
func TestIdleKeepsItsNumber(t *testing.T) {
	s := openWorld(t)
	g := mustLease(t, s, Config{Ahead: time.Second}, time.Now)
	before := s.rows(t)[g.Worker()].horizon
	waitFor(t, func() bool { return s.rows(t)[g.Worker()].horizon >= before+1000 })
}

func TestCandidates(t *testing.T) {
	const now = 100_000_000
	old := now - abandonedAfter.Milliseconds()
	all := candidates([]workerRow{
		{0, "alive", now + 1000, 5}, {1, "", now + 9, 2}, {2, "", now - 5, 2}, {3, "", now - 50, 2}, {4, "dead", old - 1, 9},
		{5, "slow", old + 1, 9}, {6, "", -1, 3}, {7, "", 5, 0}, {8, "deader", old - 2, 9}, {9, "", maxMillis, 3}, {-1, "", 0, 1},
	}, now, Default)
	var got []int
	for _, c := range all {
		if c.worker < 10 {
			got = append(got, c.worker)
		}
	}
	if diff := cmp.Diff([]int{3, 2, 8, 4, 1}, got); diff != "" {
		t.Error(diff)
	}
	if len(all) != 5+maxWorkers-10 || all[2].worker != 10 {
		t.Errorf("%d candidates, the third is %d", len(all), all[2].worker)
	}
}

// Many nodes that start at once get a number each, in bounded time.
func TestStampede(t *testing.T) {
	s := openWorld(t)
	const nodes = 40
	began := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	held := map[int]int{}
	var ids []int64
	for i := range nodes {
		wg.Go(func() {
			g, err := Open(context.Background(), Config{DB: s.d, Node: fmt.Sprint("node-", i)}, quiet(time.Now))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { _ = g.Close() })
			some := make([]int64, 1000)
			if err := g.NextN(some); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			held[g.Worker()]++
			ids = append(ids, some...)
		})
	}
	wg.Wait()
	if len(held) != nodes {
		t.Errorf("%d numbers for %d nodes", len(held), nodes)
	}
	if d := duplicates(ids); d != 0 {
		t.Errorf("%d duplicates", d)
	}
	if took := time.Since(began); took > claimTime {
		t.Errorf("took %v", took)
	}
}

func TestNextAfter(t *testing.T) {
	s := openWorld(t)
	slow, fast := newWrongClock(), newWrongClock()
	fast.step(7 * time.Second)
	a := mustLease(t, s, Config{}, fast.Now)
	b := mustLease(t, s, Config{}, slow.Now)
	told := mustNext(t, a)
	if id := mustNext(t, b); id > told {
		t.Fatal("the clocks do not differ")
	}
	id, err := b.NextAfter(told)
	if err != nil || id <= told {
		t.Fatalf("%d after %d, %v", id, told, err)
	}
	if later := mustNext(t, b); later <= id {
		t.Errorf("%d after %d", later, id)
	}
	for _, floor := range []int64{1<<63 - 1, told + 2*maxLead.Milliseconds()<<(workerBits+seqBits)} {
		if _, err := b.NextAfter(floor); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("after %d: %v", floor, err)
		}
	}
	if id, err := b.NextAfter(-5); err != nil || id <= 0 {
		t.Errorf("a floor below all: %d, %v", id, err)
	}
}

func TestLeaseConfig(t *testing.T) {
	s := openWorld(t)
	long := make([]byte, 191)
	for _, c := range []Config{{DB: s.d, Dir: "x"}, {Dir: t.TempDir(), Node: "n"}, {DB: s.d, Ahead: 999 * time.Millisecond},
		{DB: s.d, Ahead: 2 * time.Hour}, {DB: s.d, Node: string(long)}} {
		if _, err := Open(t.Context(), c, quiet(time.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func BenchmarkLeaseNext(b *testing.B) {
	g := mustLease(b, openWorld(b), Config{}, time.Now)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := g.Next(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
