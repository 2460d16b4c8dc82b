package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
)

// info is Job, which must find it.
func (h *house) info(j *Jobs, id int64) Info {
	h.t.Helper()
	i, err := j.Job(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// A job can be looked up in each of its states, with what it told and how it failed.
func TestJobInEveryState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		began := time.Now()
		k := Define("work", Options{Keep: time.Hour, MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Second }},
			func(ctx context.Context, a args) error {
				at, _ := Attempt(ctx)
				if a.N == 2 || at == 1 {
					return fmt.Errorf("failure %d", at)
				}
				for i := range int64(100) {
					SetProgress(ctx, i+1, 100, strings.Repeat("x", 300))
					time.Sleep(100 * time.Millisecond) // of the bubble's clock
				}
				return SetResult(ctx, map[string]int{"sum": a.N})
			})
		j := h.jobs(Config{Node: "n1"}, k)
		id := enqueue(h, k, args{1}, After(time.Hour), Priority(7), From("schedule/x"))
		if i := h.info(j, id); i.State != Later || i.Priority != 7 || i.Pool != "default" || i.Source != "schedule/x" || i.Kind != "work" ||
			i.Args != `{"N":1}` || i.Due.Sub(began) != time.Hour {
			t.Errorf("later: %+v", i)
		}
		stop := h.run(j)
		defer stop()
		time.Sleep(time.Hour + 500*time.Millisecond)
		if i := h.info(j, id); i.State != Later || len(i.Failures) != 1 || i.Failures[0].Error != "failure 1" || i.Failures[0].Node != "n1" {
			t.Errorf("to be tried again: %+v", i)
		}
		time.Sleep(6 * time.Second)
		commits := h.db.Stats().Commits
		if i := h.info(j, id); i.State != Running || i.Node != "n1" || i.Progress == nil || i.Progress.Done < 30 || len(i.Progress.Text) > 200 {
			t.Errorf("running: %+v %+v", i, i.Progress)
		}
		time.Sleep(3 * time.Second)
		if n := h.db.Stats().Commits - commits; n > 4+3 { // and three signs of life
			t.Errorf("progress of three seconds took %d commits", n)
		}
		time.Sleep(5 * time.Second)
		i := h.info(j, id)
		if i.State != Done || string(i.Result) != `{"sum":1}` || i.Attempts != 2 || i.Ended.Sub(i.Began) < 10*time.Second || i.Source != "schedule/x" || len(i.Failures) != 1 {
			t.Errorf("done: %+v", i)
		}
		bad := enqueue(h, k, args{2}, From("y"))
		time.Sleep(10 * time.Second)
		if i := h.info(j, bad); i.State != Failed || len(i.Failures) != 3 || i.Failures[2].Error != "failure 3" || i.Failures[2].Attempt != 3 || i.Source != "y" {
			t.Errorf("dead: %+v", i)
		}
		if err := j.RetryDead(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		if i := h.info(j, bad); i.State == Failed || i.Source != "y" {
			t.Errorf("retried: %+v", i)
		}
		if _, err := j.Job(t.Context(), 12345); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("no such job: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if _, err := j.Job(t.Context(), id); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("after its time: %v", err)
		}
	})
}

// Kinds without Keep leave nothing, cannot keep a result, and say so.
func TestNotKept(t *testing.T) {
	h := open(t)
	var errs [3]error
	k := Define("hot", Options{}, func(ctx context.Context, a args) error { errs[0] = SetResult(ctx, 1); return nil })
	kept := Define("kept", Options{Keep: time.Hour}, func(ctx context.Context, a args) error {
		errs[1] = SetResult(ctx, strings.Repeat("x", resultMax))
		errs[2] = SetResult(ctx, func() {})
		return nil
	})
	j := h.jobs(Config{}, k, kept)
	enqueue(h, k, args{})
	id := enqueue(h, kept, args{})
	h.drain(j)
	var unsupported *json.UnsupportedTypeError
	if levee.CodeOf(errs[0]) != levee.CodeInvalid || levee.CodeOf(errs[1]) != levee.CodeTooLarge || !errors.As(errs[2], &unsupported) {
		t.Errorf("SetResult: %v", errs)
	}
	if n := h.count(`SELECT COUNT(*) FROM job_done`); n != 1 || h.info(j, id).Result != nil {
		t.Errorf("%d kept", n)
	}
	if err := SetResult(t.Context(), 1); err == nil {
		t.Error("SetResult outside of a job")
	}
	SetProgress(t.Context(), 1, 2, "outside of a job: nothing happens")
}

// A job that completes itself keeps its result, too.
func TestDoneTxKeeps(t *testing.T) {
	h := open(t)
	k := Define("work", Options{Keep: time.Hour}, func(ctx context.Context, a args) error {
		return h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
			return errors.Join(SetResult(ctx, a.N), DoneTx(ctx, tx))
		})
	})
	j := h.jobs(Config{}, k)
	id := enqueue(h, k, args{5})
	h.drain(j)
	if i := h.info(j, id); i.State != Done || string(i.Result) != "5" {
		t.Errorf("%+v", i)
	}
}

// Of a job that fails again and again the last failures are kept, and errors that are no text harm nothing.
func TestFailuresAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		k := Define("bad", Options{MaxAttempts: 50, Backoff: func(int) time.Duration { return 0 }}, func(ctx context.Context, a args) error {
			at, _ := Attempt(ctx)
			return fmt.Errorf("%d \xff\x00%s", at, strings.Repeat("x", 5000))
		})
		j := h.jobs(Config{}, k)
		id := enqueue(h, k, args{})
		h.drain(j)
		i := h.info(j, id)
		if len(i.Failures) != failuresMax || i.Failures[4].Attempt != 50 || len(i.Failures[0].Error) > errorMax+len("…") || i.State != Failed {
			t.Errorf("%d failures, %+v", len(i.Failures), i.State)
		}
	})
}

func TestPriority(t *testing.T) {
	h := open(t)
	var n notes
	k := noter("note", &n, Options{})
	j := h.jobs(Config{Pools: map[string]int{"default": 1}}, k)
	// A row of a version that knew no priorities.
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, insertTask, 1, "note", "default", `{"N":4}`, nil, 0, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{9, 5, 0, 3} {
		enqueue(h, k, args{p}, Priority(p))
	}
	other := h.jobs(Config{Pools: map[string]int{"default": 1}}, noter("note", &n, Options{})) // knows none of these lanes yet
	h.drain(other)
	same(t, "0 3 4 5 9", &n)
	for _, p := range []int{-1, 10} {
		if _, err := k.Enqueue(t.Context(), args{}, Priority(p)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("priority %d: %v", p, err)
		}
	}
	h.drain(j)
}

// Another node's lane is found by looking, and at once when that node rings.
func TestLaneOfAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		k := noter("note", &n, Options{})
		h.jobs(Config{}, k)
		worker := h.jobs(Config{Poll: time.Minute}, Define("note", Options{}, func(_ context.Context, a args) error {
			n.add("%d@%v", a.N, time.Since(began).Round(time.Second))
			return nil
		}))
		wake := worker.Connect(func() {})
		stop := h.run(worker)
		defer stop()
		synctest.Wait()
		enqueue(h, k, args{1}, Priority(2))
		time.Sleep(10 * time.Second)
		wake()
		time.Sleep(10 * time.Second)
		enqueue(h, k, args{2}, Priority(8))
		time.Sleep(2 * time.Minute)
		same(t, "1@10s 2@1m10s", &n)
	})
}

func TestList(t *testing.T) {
	h := open(t)
	var n notes
	k := noter("note", &n, Options{Keep: time.Hour})
	other := noter("other", &n, Options{Pool: "side", Keep: time.Hour})
	dying := Define("dying", Options{}, func(context.Context, args) error { return Discard(errors.New("no")) })
	j := h.jobs(Config{}, k, other, dying)
	var want []int64
	for i := range 25 {
		want = append([]int64{enqueue(h, k, args{i}, From("a"), After(time.Hour))}, want...)
		enqueue(h, other, args{i}, After(time.Hour), Priority(1))
	}
	pages := func(f Filter) (ids []int64) {
		t.Helper()
		for {
			page, next, err := j.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range page {
				ids = append(ids, i.ID)
			}
			if f.Before = next; next == 0 {
				return ids
			}
		}
	}
	for _, f := range []Filter{{State: Later, Kind: "note", Limit: 4}, {State: Later, Source: "a"}, {State: Later, Pool: "default", Limit: 25}} {
		if diff := cmp.Diff(want, pages(f)); diff != "" {
			t.Errorf("%+v: %s", f, diff)
		}
	}
	if ids := pages(Filter{State: Later, Limit: 7}); len(ids) != 50 {
		t.Errorf("%d of 50", len(ids))
	}
	if ids := pages(Filter{State: Waiting}); ids != nil {
		t.Errorf("waiting: %v", ids)
	}
	enqueue(h, k, args{})
	dead := enqueue(h, dying, args{})
	take(t, j)
	if ids := pages(Filter{State: Running}); len(ids) != 2 {
		t.Errorf("running: %v", ids)
	}
	for id := range j.running {
		t.Error("claimed for good:", id)
	}
	done, died := enqueue(h, k, args{}), enqueue(h, dying, args{})
	h.drain(j)
	if diff := cmp.Diff([]int64{done}, pages(Filter{State: Done, Kind: "note"})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int64{died}, pages(Filter{State: Failed, Pool: "default"})); diff != "" {
		t.Error(dead, diff)
	}
	for _, f := range []Filter{{}, {State: "x"}, {State: Done, Limit: 1001}} {
		if _, _, err := j.List(t.Context(), f); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// History leaves in small steps, each by its index.
func TestHistoryLeaves(t *testing.T) {
	h := open(t)
	k := noter("note", new(notes), Options{Keep: time.Hour})
	j := h.jobs(Config{}, k)
	rows := make([][]any, 3*keepStep/2)
	for i := range rows {
		rows[i] = []any{int64(i + 1), "note", "default", "{}", nil, "done", int64(1), "", nil, nil, int64(0), int64(0), time.Now().Add(time.Duration(i-keepStep-9) * time.Hour).UnixMicro()}
	}
	if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		return tx.InsertRows(ctx, "job_done", doneColumns, rows)
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{keepStep, 10, 0} {
		if n, err := j.forgetSome(t.Context()); n != want || err != nil {
			t.Errorf("forgot %d, want %d: %v", n, want, err)
		}
	}
	if distributed {
		return
	}
	plan := h.plan(`SELECT id FROM job_done WHERE keep_until < ? ORDER BY keep_until LIMIT ?`, 1, 1)
	if !strings.Contains(plan, "INDEX job_done_until") {
		t.Error(plan)
	}
}

// plan is SQLite's plan of a query.
func (h *house) plan(query string, args ...any) string {
	h.t.Helper()
	rows, err := h.db.Query(context.Background(), `EXPLAIN QUERY PLAN `+query, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var a, b, c int
		var text string
		if err := rows.Scan(&a, &b, &c, &text); err != nil {
			h.t.Fatal(err)
		}
		plan = append(plan, text)
	}
	return strings.Join(plan, "\n")
}

func TestManyRawLive(t *testing.T) {
	h := open(t)
	var n notes
	k := noter("note", &n, Options{})
	j := h.jobs(Config{}, k)
	many := make([]args, 200)
	want := 0
	for i := range many {
		many[i].N = i
		want += i
	}
	ids, err := k.EnqueueMany(t.Context(), many, From("many"), Priority(3))
	if err != nil || len(ids) != 200 {
		t.Fatal(len(ids), err)
	}
	live := func(source string) (n int) {
		if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) (err error) {
			n, err = j.LiveTx(ctx, tx, source)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	raw := func(kind, text string, at ...Option) (id int64, err error) {
		err = h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			id, err = j.EnqueueRawTx(ctx, tx, kind, json.RawMessage(text), at...)
			return err
		})
		return id, err
	}
	if got := live("many"); got != 200 {
		t.Errorf("%d live, want 200", got)
	}
	if _, err := raw("note", `{"N":1000}`, From("raw")); err != nil || live("raw") != 1 {
		t.Errorf("raw: %v", err)
	}
	h.drain(j)
	if live("many")+live("raw") != 0 {
		t.Error("some are live after their end")
	}
	got := 0
	for _, f := range strings.Fields(n.String()) {
		var i int
		fmt.Sscan(f, &i)
		got += i
	}
	if got != want+1000 {
		t.Errorf("the jobs' arguments sum up to %d, want %d", got, want+1000)
	}
	for _, test := range []struct {
		kind, text string
		at         Option
		code       levee.Code
	}{
		{"nothing", "{}", From(""), levee.CodeNotFound}, {"note", "{", From(""), levee.CodeInvalid}, {"note", `{"N":"x"}`, From(""), levee.CodeInvalid},
		{"note", "{}", From(strings.Repeat("x", 191)), levee.CodeInvalid}, {"note", `{"X":"` + strings.Repeat("x", maxArgs) + `"}`, From(""), levee.CodeTooLarge},
	} {
		if _, err := raw(test.kind, test.text, test.at); levee.CodeOf(err) != test.code {
			t.Errorf("%s %.20s: %v", test.kind, test.text, err)
		}
	}
	big := Define("big", Options{}, func(context.Context, string) error { return nil })
	bj := h.jobs(Config{}, big)
	texts := make([]string, 70)
	for i := range texts {
		texts[i] = strings.Repeat("x", maxArgs-2)
	}
	if ids, err := big.EnqueueMany(t.Context(), texts); err != nil || len(ids) != 70 {
		t.Error(len(ids), err)
	}
	h.drain(bj)
	if _, err := k.EnqueueMany(t.Context(), many, Unique("x")); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("many with one key: %v", err)
	}
	if _, err := k.EnqueueMany(t.Context(), make([]args, manyMax+1)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("too many: %v", err)
	}
}
