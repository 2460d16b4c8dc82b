package job

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// testFS is the schema of what the tests' jobs write.
var testFS = fstest.MapFS{"schema/0001_effect.sql": {Data: []byte(`CREATE TABLE effect (what VARCHAR(190) NOT NULL, n BIGINT NOT NULL);`)}}

type args struct{ N int }

type house struct {
	t   testing.TB
	o   *obs.Obs
	db  *db.DB
	ids *id.Generator
	dir string
}

func open(t testing.TB) *house {
	t.Helper()
	return openDir(t, t.TempDir(), obs.Test(t))
}

func openDir(t testing.TB, dir string, o *obs.Obs) *house {
	t.Helper()
	h := &house{t: t, o: o}
	var err error
	h.dir, h.db = dir, openDB(t, dir, o)
	if h.ids, err = id.Open(t.Context(), id.Config{Dir: filepath.Join(dir, "id")}, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(h.ids.Close(), h.db.Close()); err != nil {
			t.Error(err)
		}
	})
	if _, err := h.db.Migrate(t.Context(), []db.Schema{Schema(), {Owner: "test", FS: testFS}}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) jobs(c Config, rs ...Registration) *Jobs {
	h.t.Helper()
	j := Open(h.db, h.ids, h.o)
	if err := errors.Join(j.Configure(c), j.Register(rs...)); err != nil {
		h.t.Fatal(err)
	}
	return j
}

// run starts j and returns what stops it and waits for it.
func (h *house) run(j *Jobs) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := j.Run(ctx); err != nil {
			h.t.Errorf("Run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (h *house) drain(j *Jobs) {
	h.t.Helper()
	if err := j.Drain(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) count(query string, args ...any) (n int) {
	h.t.Helper()
	if err := h.db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

func enqueue[A any](h *house, k *Kind[A], a A, at ...Option) int64 {
	h.t.Helper()
	id, err := k.Enqueue(h.t.Context(), a, at...)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// notes collects what jobs did.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, fmt.Sprintf(format, args...))
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.all, " ")
}

func (n *notes) sorted() string {
	f := strings.Fields(n.String())
	slices.Sort(f)
	return strings.Join(f, " ")
}

// noter is a kind that notes its argument.
func noter(name string, n *notes, o Options) *Kind[args] {
	return Define(name, o, func(_ context.Context, a args) error { n.add("%d", a.N); return nil })
}

func same(t *testing.T, want string, got fmt.Stringer) {
	t.Helper()
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestRollbackEnqueuesNothing(t *testing.T) {
	h := open(t)
	var n notes
	k := noter("note", &n, Options{})
	j := h.jobs(Config{}, k)
	fail := errors.New("no")
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		if _, err := k.EnqueueTx(ctx, tx, args{1}); err != nil {
			return err
		}
		return fail
	})
	if err != fail {
		t.Fatal(err)
	}
	enqueue(h, k, args{2})
	h.drain(j)
	same(t, "2", &n)
	if left := h.count(`SELECT COUNT(*) FROM job_task`); left != 0 {
		t.Errorf("%d jobs are left", left)
	}
}

func TestInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		k := Define("note", Options{}, func(_ context.Context, a args) error {
			n.add("%d@%v", a.N, time.Since(began).Truncate(time.Millisecond))
			return nil
		})
		j := h.jobs(Config{}, k)
		stop := h.run(j)
		defer stop()
		enqueue(h, k, args{1}, After(90*time.Minute))
		enqueue(h, k, args{2}, At(began.Add(1500*time.Millisecond)))
		enqueue(h, k, args{3}, At(began.Add(-time.Hour)))
		enqueue(h, k, args{4}, At(began.Add(time.Hour)), After(250*time.Millisecond))
		time.Sleep(2 * time.Hour) // of the bubble's clock
		same(t, "3@0s 2@1.5s 4@1h0m0.25s 1@1h30m0s", &n)
	})
}

// A job that is due wakes its process, and not before its commit: no time passes until it runs.
func TestWakesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := noter("note", &n, Options{})
		stop := h.run(h.jobs(Config{}, k))
		defer stop()
		for i := range 50 {
			time.Sleep(300 * time.Millisecond) // of the bubble's clock: off the beat of the poll
			enqueue(h, k, args{i})
			synctest.Wait()
			if got := len(strings.Fields(n.String())); got != i+1 {
				t.Fatalf("%d ran at once, want %d", got, i+1)
			}
		}
	})
}

func TestRetriesBackoffDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		k := Define("bad", Options{MaxAttempts: 4, Backoff: func(attempt int) time.Duration { return time.Duration(attempt) * time.Second }},
			func(ctx context.Context, a args) error {
				at, of := Attempt(ctx)
				n.add("%d/%d@%v", at, of, time.Since(began).Truncate(time.Millisecond))
				if at == 2 {
					panic("out of cheese")
				}
				return fmt.Errorf("failure %d", at)
			})
		j := h.jobs(Config{}, k)
		stop := h.run(j)
		defer stop()
		id := enqueue(h, k, args{7}, Unique("seven"))
		time.Sleep(time.Minute) // of the bubble's clock
		same(t, "1/4@0s 2/4@1s 3/4@3s 4/4@6s", &n)
		dead, err := j.Dead(t.Context(), 10)
		if err != nil || len(dead) != 1 || dead[0].ID != id || dead[0].Attempts != 4 ||
			dead[0].Error != "failure 4" || dead[0].Args != `{"N":7}` {
			t.Fatalf("dead: %+v, %v", dead, err)
		}
		other := enqueue(h, k, args{8}, Unique("seven"), After(time.Hour)) // a dead job's key is free
		if err := j.RetryDead(t.Context(), id); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("RetryDead while job %d has the key: %v", other, err)
		}
		if s, err := j.Stats(t.Context()); err != nil || s != (Stats{Later: 1, Dead: 1}) {
			t.Errorf("Stats: %+v, %v", s, err)
		}
		err = h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			was, err := k.CancelTx(ctx, tx, "seven")
			if !was {
				t.Error("CancelTx found nothing")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		began, n.all = time.Now(), nil
		if err := j.RetryDead(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		same(t, "1/4@0s 2/4@1s 3/4@3s 4/4@6s", &n)
		if err := j.RetryDead(t.Context(), 12345); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("RetryDead of nothing: %v", err)
		}
		if got, err := j.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil || got != 0 {
			t.Errorf("Prune of older ones: %d, %v", got, err)
		}
		if got, err := j.Prune(t.Context(), time.Now()); err != nil || got != 1 {
			t.Errorf("Prune: %d, %v", got, err)
		}
	})
}

func TestDefaultBackoff(t *testing.T) {
	for attempt := 1; attempt <= 1000; attempt++ {
		want := 10 * time.Minute
		if attempt <= 10 {
			want = time.Second << (attempt - 1)
		}
		if d := backoff(attempt); d < want-want/10 || d > want+want/10 {
			t.Fatalf("after attempt %d: %v, want %v ± 10 %%", attempt, d, want)
		}
	}
}

func TestSnoozeAndDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := Define("sleepy", Options{MaxAttempts: 2}, func(ctx context.Context, a args) error {
			at, _ := Attempt(ctx)
			n.add("%d:%d", a.N, at)
			if a.N == 2 {
				return fmt.Errorf("wrapped: %w", Discard(errors.New("hopeless")))
			}
			if len(strings.Fields(n.String())) < 6 {
				return Snooze(time.Minute)
			}
			return nil
		})
		j := h.jobs(Config{}, k)
		stop := h.run(j)
		defer stop()
		enqueue(h, k, args{1})
		time.Sleep(time.Hour)
		same(t, "1:1 1:1 1:1 1:1 1:1 1:1", &n)
		enqueue(h, k, args{2})
		time.Sleep(time.Hour)
		same(t, "1:1 1:1 1:1 1:1 1:1 1:1 2:1", &n)
		if dead := h.count(`SELECT COUNT(*) FROM job_dead`); dead != 1 {
			t.Errorf("%d dead jobs, want 1", dead)
		}
	})
}

func TestUnique(t *testing.T) {
	h := open(t)
	var n notes
	var inner, first int64
	var k *Kind[args]
	k = Define("note", Options{}, func(ctx context.Context, a args) error {
		n.add("%d", a.N)
		var err error
		inner, err = k.Enqueue(ctx, args{99}, Unique("k")) // it runs: nothing is added
		return err
	})
	twin := noter("twin", &n, Options{})
	j := h.jobs(Config{}, k, twin)
	first = enqueue(h, k, args{1}, Unique("k"))
	if again := enqueue(h, k, args{2}, Unique("k")); again != first {
		t.Errorf("a second job %d beside %d", again, first)
	}
	if other := enqueue(h, twin, args{3}, Unique("k")); other == first {
		t.Error("the key of another kind was taken for ours")
	}
	h.drain(j)
	if inner != first {
		t.Errorf("while it runs: %d, want %d", inner, first)
	}
	if again := enqueue(h, k, args{4}, Unique("k")); again == first {
		t.Error("the key of a finished job is not free")
	}
	h.drain(j)
	if diff := cmp.Diff("1 3 4", n.sorted()); diff != "" {
		t.Error(diff)
	}
}

func TestCancelLeavesRunningAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := Define("slow", Options{}, func(ctx context.Context, a args) error {
			time.Sleep(10 * time.Second) // of the bubble's clock
			n.add("done")
			return nil
		})
		j := h.jobs(Config{}, k)
		stop := h.run(j)
		defer stop()
		enqueue(h, k, args{1}, Unique("k"))
		synctest.Wait()
		err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			if was, err := k.CancelTx(ctx, tx, "k"); was || err != nil {
				t.Errorf("CancelTx of a running job: %v, %v", was, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		h.drain(j)
		same(t, "done", &n)
	})
}

// Being idle costs no commit.
func TestIdleCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := noter("note", &n, Options{})
		stop := h.run(h.jobs(Config{}, k))
		defer stop()
		enqueue(h, k, args{1}, After(1000*time.Hour))
		time.Sleep(time.Minute)
		before := h.db.Stats().Commits
		time.Sleep(time.Hour)
		if got := h.db.Stats().Commits - before; got != 0 {
			t.Errorf("%d commits in an idle hour", got)
		}
	})
}

func TestRefused(t *testing.T) {
	h := open(t)
	nothing := func(context.Context, args) error { return nil }
	k := Define("note", Options{}, nothing)
	j := h.jobs(Config{}, k)
	for _, test := range []struct {
		name string
		r    Registration
	}{
		{"taken", Define("note", Options{}, nothing)},
		{"again", k},
		{"no name", Define("", Options{}, nothing)},
		{"long name", Define(strings.Repeat("x", 191), Options{}, nothing)},
		{"no function", Define[args]("f", Options{}, nil)},
		{"timeout", Define("t", Options{Timeout: -1}, nothing)},
		{"attempts", Define("a", Options{MaxAttempts: 1001}, nothing)},
		{"negative attempts", Define("a", Options{MaxAttempts: -2}, nothing)},
		{"zero kind", &Kind[args]{}},
	} {
		if err := j.Register(test.r); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", test.name, err)
		}
	}
	for _, c := range []Config{{Lease: 1}, {Poll: time.Hour}, {Grace: -1}, {Pools: map[string]int{"x": 0}}} {
		if err := Open(h.db, h.ids, h.o).Configure(c); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: got %v, want invalid", c, err)
		}
	}
	for _, at := range []Option{After(11 * 365 * 24 * time.Hour), Unique(strings.Repeat("x", 190))} {
		if _, err := k.Enqueue(t.Context(), args{}, at); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("got %v, want invalid", err)
		}
	}
	long := Define("long", Options{}, func(context.Context, string) error { return nil })
	if _, err := long.Enqueue(t.Context(), "x"); err == nil {
		t.Error("a kind that is not registered enqueues")
	}
	if err := j.Register(long); err != nil {
		t.Fatal(err)
	}
	if _, err := long.Enqueue(t.Context(), strings.Repeat("x", maxArgs)); levee.CodeOf(err) != levee.CodeTooLarge {
		t.Errorf("got %v, want too_large", err)
	}
	want := []Known{{"long", "default"}, {"note", "default"}}
	if diff := cmp.Diff(want, j.Known()); diff != "" {
		t.Error(diff)
	}
	h.drain(j)
	if err := j.Register(Define("late", Options{}, nothing)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("after the start: got %v, want invalid", err)
	}
}

// Arguments that cannot be read, and kinds that another program knows, disturb nobody.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := noter("note", &n, Options{})
		j := h.jobs(Config{}, k)
		err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			for i, row := range [][]any{{"note", "default", `{"N": "x"}`}, {"unknown", "default", `{}`}, {"note", "former pool", `{"N": 5}`}} {
				if _, err := tx.Exec(ctx, insertTask, i+1, row[0], row[1], row[2], nil, 0, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := h.run(j)
		defer stop()
		enqueue(h, k, args{6})
		time.Sleep(10*time.Minute + 30*time.Second) // between two tries of the stranger
		if diff := cmp.Diff("5 6", n.sorted()); diff != "" {
			t.Error(diff)
		}
		if got := h.count(`SELECT COUNT(*) FROM job_dead WHERE id = 1`); got != 1 {
			t.Error("the unreadable job is not dead")
		}
		if got := h.count(`SELECT COUNT(*) FROM job_task WHERE id = 2 AND due_at IS NOT NULL AND attempts = 0`); got != 1 {
			t.Error("the stranger's job does not wait unharmed")
		}
	})
}

// Jobs due far ahead must not make the look for due ones slower.
func TestFutureJobsCostNothing(t *testing.T) {
	h := open(t)
	if distributed {
		k := Define("later", Options{}, func(context.Context, args) error { return nil })
		h.jobs(Config{}, k)
		for n := range 300 {
			enqueue(h, k, args{n}, After(time.Hour))
		}
		plan := h.explain(selectFirst+oldest, "default", 10)
		if !strings.Contains(plan, "key=job_task_due") || !strings.Contains(plan, "Using index") {
			t.Error(plan)
		}
		return
	}
	rows, err := h.db.Query(t.Context(), `EXPLAIN QUERY PLAN `+selectDue+oldest, "default", 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var a, b, c int
		var text string
		if err := rows.Scan(&a, &b, &c, &text); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, text)
	}
	want := []string{"SEARCH job_task USING INDEX job_task_due (pool=? AND due_at>? AND due_at<?)"}
	if diff := cmp.Diff(want, plan); diff != "" {
		t.Error(diff)
	}
}

// explain returns the first row of MySQL's plan of a statement.
func (h *house) explain(query string, args ...any) string {
	h.t.Helper()
	rows, err := h.db.Query(context.Background(), `EXPLAIN `+query, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	plan, err := firstRow(rows)
	if err != nil {
		h.t.Fatal(err)
	}
	return plan
}

// firstRow writes the first of the rows with the names of its columns.
func firstRow(rows *db.Rows) (string, error) {
	names, err := rows.Columns()
	if err != nil || !rows.Next() {
		return "", errors.Join(errors.New("no plan"), err)
	}
	values, to := make([]db.NullString, len(names)), make([]any, len(names))
	for i := range values {
		to[i] = &values[i]
	}
	if err := rows.Scan(to...); err != nil {
		return "", err
	}
	var plan []string
	for i := range values {
		plan = append(plan, names[i]+"="+values[i].String)
	}
	return strings.Join(plan, " "), nil
}

func TestPoolsAndSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var mu sync.Mutex
		now, most := map[string]int{}, map[string]int{}
		kind := func(name, pool string) *Kind[args] {
			return Define(name, Options{Pool: pool}, func(context.Context, args) error {
				mu.Lock()
				now[pool]++
				most[pool] = max(most[pool], now[pool])
				mu.Unlock()
				time.Sleep(time.Second) // of the bubble's clock
				mu.Lock()
				now[pool]--
				mu.Unlock()
				return nil
			})
		}
		narrow, wide := kind("n", "narrow"), kind("w", "wide")
		j := h.jobs(Config{Pools: map[string]int{"narrow": 2}}, narrow, wide)
		for i := range 20 {
			enqueue(h, narrow, args{i})
			enqueue(h, wide, args{i})
		}
		began := time.Now()
		h.drain(j)
		if diff := cmp.Diff(map[string]int{"narrow": 2, "wide": defaultSlots}, most); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %v, want 10 s: 20 jobs of a second in 2 slots", took)
		}
	})
}
