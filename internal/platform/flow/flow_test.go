package flow

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

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// effects is the table of what the tests' steps do.
var effects = db.Schema{Owner: "test", FS: fstest.MapFS{"schema/0001_effect.sql": {Data: []byte(
	`CREATE TABLE effect (what VARCHAR(190) NOT NULL, n BIGINT NOT NULL);`)}}}

// house is one node with a kind whose steps do what they are told.
type house struct {
	t     testing.TB
	db    *db.DB
	ids   *id.Generator
	jobs  *job.Jobs
	flows *Flows
	say   *job.Kind[act]
	began time.Time

	mu   sync.Mutex
	said []string
	fail map[string]bool // names of acts that fail; guarded by mu
}

// act is what a step does: it says its name, after a time, with what it reads of those before it.
type act struct {
	Name   string
	Sleep  time.Duration
	Result string
	Reads  bool
}

func (h *house) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, fmt.Sprintf(format, args...))
}

func (h *house) fails(name string, fail bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail[name] = fail
}

func (h *house) do(ctx context.Context, a act) error {
	if a.Sleep > 0 {
		select {
		case <-time.After(a.Sleep):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.mu.Lock()
	fail := h.fail[a.Name]
	h.mu.Unlock()
	if fail {
		return job.Discard(errors.New("no " + a.Name))
	}
	name := a.Name
	if a.Reads {
		var before []string
		if err := Each(ctx, func(o Outcome) error {
			before = append(before, fmt.Sprintf("%s%s%s", o.State, o.Result, o.Error))
			return nil
		}); err != nil {
			return err
		}
		name += "(" + strings.Join(before, " ") + ")"
	}
	h.note("%s@%v", name, time.Since(h.began).Round(100*time.Millisecond))
	if a.Result != "" {
		return job.SetResult(ctx, a.Result)
	}
	return nil
}

func open(t testing.TB, c job.Config) *house {
	t.Helper()
	return openDir(t, t.TempDir(), c)
}

func openDir(t testing.TB, dir string, c job.Config) *house {
	t.Helper()
	o := obs.Test(t)
	d := platformtest.DB(t, dir, o, job.Schema(), Schema(), effects)
	return node(t, dir, d, o, c)
}

// node is one more process on a database.
func node(t testing.TB, dir string, d *db.DB, o *obs.Obs, c job.Config) *house {
	t.Helper()
	h := &house{t: t, db: d, fail: map[string]bool{}, began: time.Now()}
	o = &obs.Obs{Log: o.Log, Metrics: prometheus.NewRegistry(), Clock: o.Clock}
	var err error
	if h.ids, err = id.Open(t.Context(), id.Config{Dir: filepath.Join(dir, "id")}, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.ids.Close() })
	h.jobs = job.Open(h.db, h.ids, o)
	h.say = job.Define("say", job.Options{Backoff: func(int) time.Duration { return time.Second }}, h.do)
	if err := h.jobs.Configure(c); err != nil {
		t.Fatal(err)
	}
	if h.flows, err = Open(Config{}, h.db, h.ids, h.jobs, o); err != nil {
		t.Fatal(err)
	}
	if err := h.jobs.Register(h.say); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.jobs.Run(ctx); err != nil {
			h.t.Errorf("Run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (h *house) start(p Part) int64 {
	h.t.Helper()
	flow, err := h.flows.Start(h.t.Context(), "test", p)
	if err != nil {
		h.t.Fatal(err)
	}
	return flow
}

func (h *house) get(flow int64) Info {
	h.t.Helper()
	i, err := h.flows.Get(h.t.Context(), flow)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// is compares the state of a flow and of its steps.
func (h *house) is(flow int64, want State, by string) {
	h.t.Helper()
	i := h.get(flow)
	var parts []string
	for _, s := range []State{Waiting, Running, Done, Dead, Failed, Cancelled, Skipped} {
		if i.By[s] > 0 {
			parts = append(parts, fmt.Sprint(i.By[s], " ", s))
		}
	}
	if got := strings.Join(parts, ", "); i.State != want || got != by || i.Dead != i.By[Dead] || (i.State == Running || i.State == Cancelling) != i.Ended.IsZero() {
		h.t.Errorf("the flow is %s with %s; want %s with %s (%+v)", i.State, got, want, by, i)
	}
}

// same compares what was said, sorted where several speak at once.
func (h *house) same(want string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortStableFunc(h.said, func(a, b string) int {
		_, x, _ := strings.Cut(a, "@")
		_, y, _ := strings.Cut(b, "@")
		if x != y {
			return 0
		}
		return strings.Compare(a, b)
	})
	if got := strings.Join(h.said, " "); got != want {
		h.t.Errorf("got  %s\nwant %s", got, want)
	}
	h.said = nil
}

func (h *house) count(query string, args ...any) (n int) {
	h.t.Helper()
	if err := h.db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

func (h *house) step(name string, sleep time.Duration, o ...StepOption) Part {
	return Step(h.say, act{Name: name, Sleep: sleep, Result: strings.ToUpper(name)}, o...)
}

func (h *house) reads(name string) Part { return Step(h.say, act{Name: name, Reads: true}) }

func bubble(t *testing.T, f func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, open(t, job.Config{})) })
}

func TestShapes(t *testing.T) {
	s := time.Second
	for name, c := range map[string]struct {
		p    func(h *house) Part
		want string
		by   string
	}{
		"one": {func(h *house) Part { return h.reads("a") }, "a()@0s", "1 done"},
		"chain": {func(h *house) Part { return Chain(h.step("a", s), h.step("b", s), h.reads("c")) },
			`a@1s b@2s c(done"B")@2s`, "3 done"},
		"group and callback": {func(h *house) Part {
			return Chain(Group(h.step("a", 3*s), h.step("b", s), h.step("c", 2*s)), h.reads("z"))
		}, `b@1s c@2s a@3s z(done"A" done"B" done"C")@3s`, "4 done"},
		"group of chains": {func(h *house) Part {
			return Chain(h.step("a", s), Group(Chain(h.step("b", s), h.step("c", s)), h.step("d", s), Chain(h.step("e", 2*s), Group(h.step("f", 2*s), h.step("g", s)))), h.reads("z"))
		}, `a@1s b@2s d@2s c@3s e@3s g@4s f@5s z(done"C" done"D" done"F" done"G")@5s`, "8 done"},
		"group after group": {func(h *house) Part {
			return Chain(Group(h.step("a", s), h.step("b", 2*s)), Group(h.reads("c"), h.reads("d")))
		}, `a@1s b@2s c(done"A" done"B")@2s d(done"A" done"B")@2s`, "4 done"},
		"empty parts":   {func(h *house) Part { return Chain(Group(), Chain(), Group(Chain()).Regardless(), h.reads("a")) }, "a()@0s", "1 done"},
		"later":         {func(h *house) Part { return Chain(h.step("a", s), h.step("b", s, After(time.Hour))) }, "a@1s b@1h0m2s", "2 done"},
		"first, later":  {func(h *house) Part { return h.step("a", s, After(time.Minute)) }, "a@1m1s", "1 done"},
		"by priorities": {func(h *house) Part { return Chain(h.step("a", s, Priority(9)), h.step("b", s, Priority(0))) }, "a@1s b@2s", "2 done"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				defer h.run()()
				flow := h.start(c.p(h))
				time.Sleep(2 * time.Hour)
				h.same(c.want)
				h.is(flow, Done, c.by)
			})
		})
	}
}

// A member that dies holds the callback up until a person retries it; one that is pruned or cancelled lets the rest be skipped.
func TestDead(t *testing.T) {
	for _, c := range []struct{ act, want, by string }{
		{"retry", `z(done"A" done"B")@1m0s`, "3 done"},
		{"retry, dies again", "", "1 waiting, 1 done, 1 dead"},
		{"prune", "", "1 done, 1 failed, 1 skipped"},
		{"cancel the flow", "", "1 done, 1 failed, 1 skipped"},
		{"pause", "", "1 waiting, 1 done, 1 dead"},
	} {
		t.Run(c.act, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				defer h.run()()
				h.fails("b", true)
				flow := h.start(Chain(Group(h.step("a", time.Second), h.step("b", time.Second)), h.reads("z")))
				time.Sleep(time.Minute)
				h.same("a@1s")
				h.is(flow, Running, "1 waiting, 1 done, 1 dead")
				if page, err := h.flows.List(t.Context(), Filter{State: Running, Dead: true}); err != nil || len(page) != 1 || page[0].ID != flow {
					t.Errorf("those that wait for a person: %+v, %v", page, err)
				}
				steps, err := h.flows.Steps(t.Context(), flow, 0, 10)
				if err != nil || len(steps) != 3 || steps[1].State != Dead || steps[1].Error != "no b" || string(steps[0].Result) != `"A"` {
					t.Fatalf("steps: %+v, %v", steps, err)
				}
				end := Running
				switch c.act {
				case "retry":
					h.fails("b", false)
					err, end = h.jobs.RetryDead(t.Context(), steps[1].Job), Done
					c.want = `b@1m1s z(done"A" done"B")@1m1s`
				case "retry, dies again":
					err = h.jobs.RetryDead(t.Context(), steps[1].Job)
				case "prune":
					_, err = h.jobs.Prune(t.Context(), time.Now())
					end = Failed
				case "cancel the flow":
					err, end = h.flows.Cancel(t.Context(), flow), Cancelled
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				h.same(c.want)
				h.is(flow, end, c.by)
				if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 0 {
					t.Errorf("%d jobs are left", n)
				}
			})
		})
	}
}

// One member is cancelled by itself: nobody can try it again, so the rest is skipped.
func TestCancelOfAStep(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprint("running ", running), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				defer h.run()()
				later := After(0)
				if !running {
					later = After(time.Hour)
				}
				flow := h.start(Chain(Group(h.step("a", time.Second), h.step("b", time.Minute, later)), h.reads("y"), h.reads("z")))
				time.Sleep(10 * time.Second)
				steps, err := h.flows.Steps(t.Context(), flow, 1, 1)
				if err != nil || len(steps) != 1 {
					t.Fatal(steps, err)
				}
				if err := h.jobs.Cancel(t.Context(), steps[0].Job); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				h.same("a@1s")
				h.is(flow, Failed, "1 done, 1 cancelled, 2 skipped")
			})
		})
	}
}

// With Regardless the callback is called with the failures, once all else is over; what is retried later does not count any more.
func TestRegardless(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		defer h.run()()
		h.fails("b", true)
		flow := h.start(Chain(
			Group(h.step("a", 5*time.Second), Chain(h.step("b", time.Second), h.step("c", time.Second), h.step("d", time.Second)), h.step("e", time.Second)).Regardless(),
			h.reads("z")))
		time.Sleep(time.Minute)
		h.same(`e@1s a@5s z(done"A" skipped done"E")@5s`)
		h.is(flow, Done, "3 done, 1 failed, 2 skipped")
		h.fails("b", false)
		dead, err := h.jobs.Dead(t.Context(), 10)
		if err != nil || len(dead) != 1 {
			t.Fatal(dead, err)
		}
		if err := h.jobs.RetryDead(t.Context(), dead[0].ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		h.same("b@1m1s")
		h.is(flow, Done, "3 done, 1 failed, 2 skipped")
	})
	// A step alone, and a flow as a whole.
	bubble(t, func(t *testing.T, h *house) {
		defer h.run()()
		h.fails("a", true)
		flow := h.start(Chain(h.step("a", time.Second).Regardless(), h.reads("z")).Regardless())
		time.Sleep(time.Minute)
		h.same(`z(failedno a)@1s`)
		h.is(flow, Done, "1 done, 1 failed")
	})
}

// A flow is cancelled while steps run, wait for their time, wait for others and lie dead.
func TestCancel(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		defer h.run()()
		h.fails("c", true)
		flow := h.start(Chain(Group(h.step("a", time.Hour), h.step("b", time.Second, After(time.Hour)), h.step("c", time.Second), h.step("d", time.Second),
			Chain(h.step("e", time.Second).Regardless(), h.step("f", 10*time.Minute), h.step("g", time.Second))).Regardless(), h.step("y", time.Second), h.step("z", time.Second)))
		time.Sleep(10 * time.Second)
		if err := h.flows.Cancel(t.Context(), flow); err != nil {
			t.Fatal(err)
		}
		if err := h.flows.Cancel(t.Context(), flow); err != nil {
			t.Errorf("cancelled again: %v", err)
		}
		time.Sleep(10 * time.Second)
		h.same("d@1s e@1s")
		h.is(flow, Cancelled, "2 done, 1 failed, 3 cancelled, 3 skipped")
		time.Sleep(2 * time.Hour)
		h.same("")
		if err := h.flows.Cancel(t.Context(), flow); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("Cancel of what is over: %v", err)
		}
		if n := h.count(`SELECT COUNT(*) FROM job_task`) + h.count(`SELECT COUNT(*) FROM job_control`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
	// A step that does not look at its context ends well; the next does not begin.
	bubble(t, func(t *testing.T, h *house) {
		deaf := job.Define("deaf", job.Options{}, func(context.Context, int) error { time.Sleep(30 * time.Second); h.note("deaf@"); return nil })
		if err := h.jobs.Register(deaf); err != nil {
			t.Fatal(err)
		}
		defer h.run()()
		flow, only := h.start(Chain(Step(deaf, 1), h.step("z", time.Second))), h.start(Step(deaf, 1))
		time.Sleep(10 * time.Second)
		if err := errors.Join(h.flows.Cancel(t.Context(), flow), h.flows.Cancel(t.Context(), only)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		h.is(flow, Cancelling, "1 waiting, 1 running")
		time.Sleep(time.Minute)
		h.same("deaf@ deaf@")
		h.is(flow, Cancelled, "1 done, 1 skipped")
		h.is(only, Done, "1 done") // there was nothing left to cancel
		if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 0 {
			t.Errorf("%d jobs are left", n)
		}
	})
}

// The caller's transaction decides, and DoneTx advances the flow in its own.
func TestTransactions(t *testing.T) {
	h := open(t, job.Config{Poll: 20 * time.Millisecond})
	undo := errors.New("undone")
	if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		if _, err := h.flows.StartTx(ctx, tx, "x", Chain(h.step("a", 0), h.step("b", 0))); err != nil {
			return err
		}
		return undo
	}); err != undo {
		t.Fatal(err)
	}
	for _, table := range []string{"job_task", "flow_run", "flow_step", "flow_joint"} {
		if n := h.count(`SELECT COUNT(*) FROM ` + table); n != 0 {
			t.Errorf("%s has %d rows after a rollback", table, n)
		}
	}
	once := job.Define("once", job.Options{MaxAttempts: 5, Backoff: func(int) time.Duration { return 0 }}, func(ctx context.Context, n int) error {
		attempt, _ := job.Attempt(ctx)
		if err := job.SetResult(ctx, attempt); err != nil {
			return err
		}
		return h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('once', ?)`, n); err != nil {
				return err
			}
			if err := job.DoneTx(ctx, tx); err != nil {
				return err
			}
			if attempt < 3 {
				return undo // with all that the end has set going
			}
			return nil
		})
	})
	next := job.Define("next", job.Options{}, func(ctx context.Context, _ int) error {
		n, err := Before[int](ctx)
		if err != nil {
			return err
		}
		flow, step, err := Of(ctx)
		h.note("after %d, step %d of %v", n, step, flow > 0)
		return err
	})
	if err := h.jobs.Register(once, next); err != nil {
		t.Fatal(err)
	}
	flow := h.start(Chain(Step(once, 1), Step(next, 2)))
	if err := h.jobs.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.same("after 3, step 2 of true")
	h.is(flow, Done, "2 done")
	if n := h.count(`SELECT COUNT(*) FROM effect`); n != 1 {
		t.Errorf("%d effects", n)
	}
}

func TestReading(t *testing.T) {
	h := open(t, job.Config{})
	if _, _, err := Of(t.Context()); err == nil {
		t.Error("Of outside of a flow")
	}
	if err := Each(t.Context(), func(Outcome) error { return nil }); err == nil {
		t.Error("Each outside of a flow")
	}
	sum := job.Define("sum", job.Options{}, func(ctx context.Context, _ int) error {
		all, err := Results[int](ctx)
		total := 0
		for _, n := range all {
			total += n
		}
		h.note("%d of %d, %v", total, len(all), err)
		_, err = Before[int](ctx)
		h.note("%v", levee.CodeOf(err))
		_, err = Results[[]string](ctx)
		h.note("%v", err != nil)
		return nil
	})
	give := job.Define("give", job.Options{}, func(ctx context.Context, n int) error { return job.SetResult(ctx, n) })
	if err := h.jobs.Register(sum, give); err != nil {
		t.Fatal(err)
	}
	var members []Part
	for n := range 1000 {
		members = append(members, Step(give, n))
	}
	flow := h.start(Chain(Group(members...), Step(sum, 0)))
	if err := h.jobs.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.same(fmt.Sprintf("%d of 1000, <nil> %v true", 999*1000/2, levee.CodeConflict))
	h.is(flow, Done, "1001 done")
	// A job that someone gives the source of a flow by hand is nobody's step; one with a unique key could be taken away unseen.
	if _, err := give.Enqueue(t.Context(), 7, job.From("flow/1")); err != nil {
		t.Fatal(err)
	}
	if err := h.jobs.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := give.Enqueue(t.Context(), 7, job.From("flow/1"), job.Unique("x")); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a unique key in a flow: %v", err)
	}
	if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
}

func TestLimits(t *testing.T) {
	h := open(t, job.Config{})
	other := job.Define("other", job.Options{}, func(context.Context, int) error { return nil })
	many := func(n int) []Part { return slices.Repeat([]Part{h.step("a", 0)}, n) }
	deep := h.step("a", 0)
	for range maxDepth {
		deep = Group(deep, h.step("a", 0))
	}
	wide := h.step("a", 0)
	for range 60 { // 2^60 steps, of few parts
		wide = Group(wide, wide)
	}
	empty := Group()
	for range 90 {
		empty = Group(empty, empty)
	}
	big := Step(h.say, act{Name: strings.Repeat("x", 250<<10)})
	for name, c := range map[string]struct {
		p    Part
		code levee.Code
	}{
		"nothing":         {Part{}, levee.CodeInvalid},
		"empty":           {Chain(empty), levee.CodeInvalid},
		"too many":        {Chain(many(maxSteps + 1)...), levee.CodeInvalid},
		"too deep":        {Group(deep, deep), levee.CodeInvalid},
		"too wide":        {wide, levee.CodeInvalid},
		"no kind":         {Chain(h.step("a", 0), Step[int](nil, 1)), levee.CodeInvalid},
		"negative time":   {h.step("a", 0, After(-1)), levee.CodeInvalid},
		"far away":        {h.step("a", 0, After(maxKeep+time.Hour)), levee.CodeInvalid},
		"priority":        {Chain(h.step("a", 0), h.step("b", 0, Priority(10))), levee.CodeInvalid},
		"one too large":   {Step(h.say, act{Name: strings.Repeat("x", 300<<10)}), levee.CodeTooLarge},
		"all too large":   {Group(slices.Repeat([]Part{big}, 80)...), levee.CodeTooLarge},
		"not registered":  {Step(other, 1), levee.CodeInternal},
		"cannot be JSON":  {Step(job.Define("x", job.Options{}, func(context.Context, chan int) error { return nil }), nil), levee.CodeInternal},
		"in a chain of 1": {Chain(Chain(Chain())), levee.CodeInvalid},
	} {
		if _, err := h.flows.Start(t.Context(), "x", c.p); levee.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.flows.Start(t.Context(), strings.Repeat("x", 191), h.step("a", 0)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a long name: %v", err)
	}
	if n := h.count(`SELECT COUNT(*) FROM flow_run`) + h.count(`SELECT COUNT(*) FROM flow_step`) + h.count(`SELECT COUNT(*) FROM job_task`); n != 0 {
		t.Errorf("%d rows are left of what was refused", n)
	}
	for _, f := range []Filter{{}, {State: Dead}, {State: Running, Limit: 1001}} {
		if _, err := h.flows.List(t.Context(), f); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("List(%+v): %v", f, err)
		}
	}
	if _, err := h.flows.Get(t.Context(), 1); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("Get: %v", err)
	}
	if err := h.flows.Cancel(t.Context(), 1); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("Cancel: %v", err)
	}
	if _, err := Open(Config{}, h.db, h.ids, h.jobs, obs.Test(t)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a second Flows on the same jobs: %v", err)
	}
}

// The largest flows: a chain, a group, groups behind groups, in which each step waits for all of the group before.
func TestLargest(t *testing.T) {
	most := maxSteps
	if testing.Short() {
		most = 1200
	}
	h := open(t, job.Config{Poll: 20 * time.Millisecond})
	quiet := job.Define("quiet", job.Options{}, func(context.Context, int) error { return nil })
	last := job.Define("last", job.Options{}, func(ctx context.Context, want int) error {
		n := 0
		err := Each(ctx, func(o Outcome) error {
			if n++; o.State == Done {
				return nil
			}
			return fmt.Errorf("step %d is %s", o.Step, o.State)
		})
		h.note("%d", n-want)
		return err
	})
	if err := h.jobs.Register(quiet, last); err != nil {
		t.Fatal(err)
	}
	steps := func(n int) []Part { return slices.Repeat([]Part{Step(quiet, 1)}, n) }
	chain, group := most/10, most-1
	flows := []int64{
		h.start(Chain(append(steps(chain-1), Step(last, 1))...)),
		h.start(Chain(Group(steps(group)...), Step(last, group))),
		h.start(Chain(Group(steps(group/3)...), Group(steps(group/3)...), Group(steps(group/3)...).Regardless(), Step(last, group/3))),
	}
	began := time.Now()
	if err := h.jobs.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps in %v", chain+2*most, time.Since(began).Round(time.Millisecond))
	h.same("0 0 0")
	for i, n := range []int{chain, most, group/3*3 + 1} {
		h.is(flows[i], Done, fmt.Sprint(n, " done"))
	}
}

// What is over leaves when its time has come, all of it, and nothing else.
func TestForget(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		rest := h.run()
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = h.flows.Run(ctx) })
		defer wg.Wait()
		defer stop()
		for range 50 {
			h.start(Chain(Group(h.step("a", time.Second), h.step("b", time.Second)), h.step("c", time.Second)))
		}
		long := h.start(Chain(h.step("a", time.Second), h.step("b", 0, After(30*24*time.Hour))))
		time.Sleep(time.Hour)
		rest() // a week of looking for jobs takes its time
		time.Sleep(7*24*time.Hour - time.Hour - time.Minute)
		if n := h.count(`SELECT COUNT(*) FROM flow_run`); n != 51 {
			t.Errorf("%d flows before their time", n)
		}
		time.Sleep(10 * time.Minute)
		for table, want := range map[string]int{"flow_run": 1, "flow_step": 2, "flow_joint": 2, "flow_result": 1} {
			if n := h.count(`SELECT COUNT(*) FROM ` + table); n != want {
				t.Errorf("%s has %d rows, want %d", table, n, want)
			}
		}
		h.is(long, Running, "1 running, 1 done")
	})
}
