package job

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// What other queues got wrong, each with the test that looks for it here. The table in docs/decisions/0023-jobs.md names them all; those of
// other files: TestDefaultBackoff, TestStrangers, TestListeners, TestCancel, TestCancelOutlivesTheProcess, TestStop, TestHeartbeat,
// TestRollbackEnqueuesNothing, TestKilled, TestHistoryLeaves.

// orphans counts rows that neither wait nor run, or do both: nobody would ever look at them.
func (h *house) orphans() int {
	return h.count(`SELECT COUNT(*) FROM job_task WHERE (due_at IS NULL) = (lease_until IS NULL)`)
}

// River 0.48: the rescuer overwrote a job that had finished since it was read.
func TestRescueOverwritesNothing(t *testing.T) {
	for _, outcome := range []string{outcomeDone, outcomeRetry, outcomeDead, outcomeSnoozed, outcomeInterrupted, outcomeCancelled, "extended"} {
		t.Run(outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t)
				k := noter("note", new(notes), Options{Keep: time.Hour})
				slow, other := h.jobs(Config{}, k), h.jobs(Config{}, noter("note", new(notes), Options{}))
				id := enqueue(h, k, args{1})
				c := take(t, slow)[0]
				if _, err := other.rescue(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(other.cfg.Lease)
				found, _, err := other.expired(t.Context())
				if err != nil || len(found) != 1 {
					t.Fatal(found, err)
				}
				if outcome == "extended" {
					if _, err := slow.extend(t.Context(), []*claim{c}); err != nil {
						t.Fatal(err)
					}
				} else if err := slow.end(t.Context(), c, ending{outcome: outcome, pause: time.Minute, err: errors.New("no")}); err != nil {
					t.Fatal(err)
				}
				before := h.info(other, id)
				if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error { return other.takeBackTx(ctx, tx, found) }); err != nil {
					t.Fatal(err)
				}
				if after := h.info(other, id); after.State != before.State || after.Due != before.Due || after.Attempts != before.Attempts || h.orphans() != 0 {
					t.Errorf("before %+v\nafter %+v", before, after)
				}
			})
		})
	}
}

// River 0.48: a backoff that overflowed ran the job at once. Here the kind's own function may answer anything.
func TestBackoffOutOfBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		began := time.Now()
		far := Define("far", Options{Backoff: func(int) time.Duration { return math.MaxInt64 }}, func(context.Context, args) error { return errors.New("no") })
		near := Define("near", Options{Backoff: func(int) time.Duration { return math.MinInt64 }, MaxAttempts: 400}, func(context.Context, args) error { return errors.New("no") })
		j := h.jobs(Config{}, far, near)
		id, dead := enqueue(h, far, args{}), enqueue(h, near, args{})
		h.drain(j)
		if in := h.info(j, id).Due.Sub(began); in < maxWait-time.Minute || in > maxWait+time.Minute {
			t.Errorf("again in %v, want ten years", in)
		}
		if i := h.info(j, dead); i.State != Failed || i.Attempts != 400 {
			t.Errorf("%+v", i)
		}
	})
}

// River 0.48: one row that could not be decoded left its whole batch running for ever.
func TestBadRowHarmsNobody(t *testing.T) {
	h := open(t)
	var n notes
	k := noter("note", &n, Options{})
	j := h.jobs(Config{}, k)
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		for i, text := range []string{"", "{", `{"N":"x"}`, "\\", "null", strings.Repeat("[", 20_000)} {
			if _, err := tx.Exec(ctx, insertTask, i+1, "note", "default", text, nil, 0, nil); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, insertTask, i+100, "note", "default", `{"N":7}`, nil, 0, nil); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE job_task SET failures = 'no JSON', progress = 'neither' WHERE id < 4`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.drain(j)
	if got := strings.Count(n.String(), "7"); got != 6 || h.count(`SELECT COUNT(*) FROM job_dead`) != 5 || h.count(`SELECT COUNT(*) FROM job_task`) != 0 {
		t.Errorf("%d good ones ran, %d are dead", got, h.count(`SELECT COUNT(*) FROM job_dead`))
	}
}

// One end that cannot be written harms none of those that are written with it.
func TestBadEndHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		k := Define("job", Options{}, func(_ context.Context, a args) error {
			time.Sleep(time.Second) // all end at once
			if a.N == 5 {
				return Discard(errors.New("dead"))
			}
			return nil
		})
		j := h.jobs(Config{}, k)
		var bad int64
		for i := range 10 {
			if id := enqueue(h, k, args{i}); i == 5 {
				bad = id
			}
		}
		if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO job_dead (id, kind, pool, args, attempts, error, dead_at) VALUES (?, '', '', '', 0, '', 0)`, bad)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		stop := h.run(j)
		time.Sleep(5 * time.Second)
		if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 1 {
			t.Errorf("%d are left, want the bad one", n)
		}
		if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM job_dead`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		stop()
		if h.count(`SELECT COUNT(*) FROM job_task`) != 0 || h.count(`SELECT COUNT(*) FROM job_dead`) != 1 {
			t.Error("the bad one is not dead after its fault was removed")
		}
	})
}

// Ends that are written together: those whose lease is another's are told apart from the others, whatever the mixture.
func TestEndsTogether(t *testing.T) {
	h := open(t)
	k := noter("note", new(notes), Options{Keep: time.Hour})
	j := h.jobs(Config{}, k)
	if _, err := k.EnqueueMany(t.Context(), make([]args, 40)); err != nil {
		t.Fatal(err)
	}
	var claims []*claim
	for len(claims) < 40 { // the first look is a small one where many write
		got, err := j.claim(t.Context(), all(j, 40-len(claims)))
		if err != nil || len(got.claims) == 0 {
			t.Fatal(len(claims), err)
		}
		claims = append(claims, got.claims...)
	}
	var ends []*ended
	outcomes := []string{outcomeDone, outcomeRetry, outcomeDead, outcomeSnoozed, outcomeInterrupted, outcomeCancelled, outcomeDone, outcomeDone}
	want := map[string]int{}
	for i, c := range claims {
		e := &ended{c: c, ending: ending{outcome: outcomes[i%len(outcomes)], err: errors.New("no"), pause: time.Hour}}
		if i%5 == 0 {
			c.fence-- // as if another had taken it
		} else {
			want[e.outcome]++
		}
		ends = append(ends, e)
	}
	lost, err := j.endAll(t.Context(), ends)
	if err != nil || len(lost) != 8 {
		t.Fatalf("%d lost, %v", len(lost), err)
	}
	got := map[string]int{
		outcomeDone:      h.count(`SELECT COUNT(*) FROM job_done WHERE outcome = 'done'`),
		outcomeCancelled: h.count(`SELECT COUNT(*) FROM job_done WHERE outcome = 'cancelled'`),
		outcomeDead:      h.count(`SELECT COUNT(*) FROM job_dead`),
	}
	for outcome, n := range got {
		if n != want[outcome] {
			t.Errorf("%s: %d, want %d", outcome, n, want[outcome])
		}
	}
	waits := want[outcomeRetry] + want[outcomeSnoozed] + want[outcomeInterrupted]
	if n := h.count(`SELECT COUNT(*) FROM job_task WHERE due_at IS NOT NULL`); n != waits || h.orphans() != 0 {
		t.Errorf("%d wait, want %d", n, waits)
	}
	if n := h.count(`SELECT COUNT(*) FROM job_task WHERE lease_until IS NOT NULL`); n != 8 {
		t.Errorf("%d are another's, want 8", n)
	}
}

// River 0.48: SQLite without AUTOINCREMENT gave a new job the id of the last deleted one.
func TestIDsAreNotUsedAgain(t *testing.T) {
	h := open(t)
	k := noter("note", new(notes), Options{})
	j := h.jobs(Config{}, k)
	last := int64(0)
	for range 3 {
		id := enqueue(h, k, args{})
		if id <= last {
			t.Errorf("%d after %d", id, last)
		}
		last = id
		h.drain(j) // the table is empty again
	}
	ids, err := id.Open(t.Context(), id.Config{Dir: filepath.Join(h.dir, "id")}, h.o) // another process
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Close()
	again := noter("note", new(notes), Options{})
	if err := Open(h.db, ids, h.o).Register(again); err != nil {
		t.Fatal(err)
	}
	if id := enqueue(h, again, args{}); id == last {
		t.Errorf("%d again", id)
	}
}

// River 0.44 and 0.48: times kept as text lost their order; asynq: a delayed job ran up to a second early. Here times within one millisecond keep
// their order, and nothing begins before its time.
func TestTimesAreExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		at := time.Now().Add(time.Second)
		k := Define("job", Options{}, func(_ context.Context, a args) error {
			n.add("%d", a.N)
			if due := at.Add(time.Duration(a.N) * 1100 * time.Nanosecond); time.Now().Before(due) {
				t.Errorf("%d began %v early", a.N, time.Until(due))
			}
			return nil
		})
		j := h.jobs(Config{Pools: map[string]int{"default": 1}}, k)
		var want []string
		for i := range 20 {
			enqueue(h, k, args{19 - i}, At(at.Add(time.Duration(19-i)*1100*time.Nanosecond)))
			want = append(want, fmt.Sprint(i))
		}
		stop := h.run(j)
		defer stop()
		time.Sleep(2 * time.Second)
		same(t, strings.Join(want, " "), &n)
	})
}

// River 0.50: a negative snooze; and one that is far too long.
func TestSnoozeOutOfBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		runs := 0
		k := Define("job", Options{MaxAttempts: 1}, func(context.Context, args) error {
			if runs++; runs < 3 {
				return Snooze(-time.Hour)
			}
			return Snooze(math.MaxInt64)
		})
		j := h.jobs(Config{}, k)
		id := enqueue(h, k, args{})
		h.drain(j)
		if i := h.info(j, id); runs != 3 || i.State != Later || time.Until(i.Due) > maxWait || i.Attempts != 0 {
			t.Errorf("%d runs, %+v", runs, i)
		}
	})
}

// River 0.44: a stop was counted and logged as an error.
func TestStopIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var mu sync.Mutex
		o, err := obs.Open(obs.Config{Level: "warn"}, locked{&mu, &log})
		if err != nil {
			t.Fatal(err)
		}
		h := openDir(t, t.TempDir(), o)
		k := Define("job", Options{MaxAttempts: 1}, func(ctx context.Context, a args) error { <-ctx.Done(); return ctx.Err() })
		j := h.jobs(Config{}, k)
		mu.Lock()
		log.Reset()
		mu.Unlock()
		stop := h.run(j)
		id := enqueue(h, k, args{})
		synctest.Wait()
		stop()
		if i := h.info(j, id); i.State != Waiting || i.Attempts != 0 || len(i.Failures) != 0 {
			t.Errorf("%+v", i)
		}
		if log.Len() > 0 {
			t.Error(log.String())
		}
	})
}

// River 0.50: a context with a deadline made the loop spin when it was over.
func TestRunWithDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		j := h.jobs(Config{}, noter("note", new(notes), Options{}))
		for _, d := range []time.Duration{-time.Second, 0, 3 * time.Second} {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			began := time.Now()
			if err := j.Run(ctx); err != nil || time.Since(began) > max(d, 0)+time.Millisecond {
				t.Errorf("%v: %v after %v", d, err, time.Since(began))
			}
			cancel()
		}
	})
}

// River 0.41: the rescuer saw only one full page of jobs that were alive.
func TestRescueIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		kind := func() *Kind[args] {
			return Define("long", Options{Timeout: time.Hour}, func(ctx context.Context, a args) error {
				if a.N == 0 {
					time.Sleep(10 * time.Minute)
				}
				return nil
			})
		}
		k := kind()
		dead := h.jobs(Config{}, k)
		id := enqueue(h, k, args{1})
		take(t, dead)
		alive := kind()
		j := h.jobs(Config{Pools: map[string]int{"default": 2 * rescueMax}}, alive)
		if _, err := alive.EnqueueMany(t.Context(), make([]args, 3*rescueMax/2)); err != nil {
			t.Fatal(err)
		}
		stop := h.run(j)
		time.Sleep(time.Minute)
		if _, err := j.Job(t.Context(), id); err == nil {
			t.Error("the one of the dead process is not done")
		}
		time.Sleep(15 * time.Minute)
		stop()
	})
}

// Sidekiq 8.1.3: two pools of workers of one process ran a job twice at shutdown.
func TestStopOfTwoRunsNothingTwice(t *testing.T) {
	h := open(t)
	const jobs = 600
	var ran [jobs]atomic.Int32
	kind := func() *Kind[args] {
		return Define("job", Options{}, func(ctx context.Context, a args) error {
			ran[a.N].Add(1)
			time.Sleep(200 * time.Microsecond)
			return nil
		})
	}
	k := kind()
	a, b := h.jobs(quick, k), h.jobs(quick, kind())
	many := make([]args, jobs)
	for i := range many {
		many[i].N = i
	}
	if _, err := k.EnqueueMany(t.Context(), many); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); h.count(`SELECT COUNT(*) FROM job_task`) > 0 && time.Now().Before(end); {
		stopA, stopB := h.run(a), h.run(b)
		time.Sleep(15 * time.Millisecond)
		var wg sync.WaitGroup
		wg.Go(stopA)
		wg.Go(stopB)
		wg.Wait()
		if n := h.count(`SELECT COUNT(*) FROM job_task WHERE lease_until IS NOT NULL`); n != 0 || h.orphans() != 0 {
			t.Errorf("%d are held by nobody", n)
		}
	}
	for n := range ran {
		if got := ran[n].Load(); got != 1 {
			t.Errorf("job %d ran %d times", n, got)
		}
	}
}

// A backlog of short jobs does not hold up a limited kind, nor what has a higher priority.
func TestBacklogHoldsNobodyUp(t *testing.T) {
	h := open(t)
	var fired, few atomic.Int32
	k := Define("short", Options{}, func(context.Context, args) error { return nil })
	first := Define("first", Options{}, func(context.Context, args) error { fired.Add(1); return nil })
	limited := Define("few", Options{Rate: Rate{100, time.Second}}, func(context.Context, args) error { few.Add(1); return nil })
	j := h.jobs(Config{Pools: map[string]int{"default": 2}}, k, limited,
		first)
	if _, err := limited.EnqueueMany(t.Context(), make([]args, 1000)); err != nil {
		t.Fatal(err)
	}
	stop := h.run(j)
	defer stop()
	for end := time.Now().Add(30 * time.Second); fired.Load() < 3 || few.Load() < 3; {
		if time.Now().After(end) {
			t.Fatalf("%d first and %d limited jobs beside a backlog", fired.Load(), few.Load())
		}
		if h.count(`SELECT COUNT(*) FROM job_task WHERE kind = 'first'`) == 0 {
			enqueue(h, first, args{}, Priority(3))
		}
		if h.count(`SELECT COUNT(*) FROM job_task WHERE kind = 'short' AND due_at IS NOT NULL`) < 5000 {
			if _, err := k.EnqueueMany(t.Context(), make([]args, 5000)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Solid Queue #240: deletes that were not by primary key deadlocked on MySQL.
func TestWritesByPrimaryKey(t *testing.T) {
	h := open(t)
	k := noter("note", new(notes), Options{})
	j := h.jobs(Config{}, k)
	ids, err := k.EnqueueMany(t.Context(), make([]args, 20), After(time.Hour)) // a small table, which a server would rather read as a whole
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		text  string
		first []any
	}{{j.sql.take, []any{1, 1}}, {j.sql.deleteMany, []any{1}}, {j.sql.move, []any{"x"}}, {j.sql.forget, []any{1}}} {
		in, args := listIDs(ids[:10], q.first...)
		if distributed {
			if plan := h.explainWrite(q.text+in, args...); !strings.Contains(plan, "key=PRIMARY") || strings.Contains(plan, "type=ALL") || strings.Contains(plan, "type=index ") {
				t.Error(plan)
			}
		} else if plan := h.plan(q.text+in, args...); !strings.Contains(plan, "USING INTEGER PRIMARY KEY") {
			t.Error(plan)
		}
	}
}

// explainWrite is explain for a statement that writes.
func (h *house) explainWrite(query string, args ...any) (plan string) {
	h.t.Helper()
	err := h.db.Tx(context.Background(), "explain", func(ctx context.Context, tx *db.Tx) error {
		rows, err := tx.Query(ctx, `EXPLAIN `+query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		plan, err = firstRow(rows)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return plan
}
