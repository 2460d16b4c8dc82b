package job

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// all wants n jobs of the pool "default".
func all(j *Jobs, n int) []want {
	return []want{{j.lanes["default"], &room{j.pools["default"], n, n}}}
}

// take claims what is due as a process would that is then killed or paused: nobody extends these leases.
func take(t *testing.T, j *Jobs) []*claim {
	t.Helper()
	got, err := j.claim(t.Context(), all(j, 10))
	if err != nil || len(got.claims) == 0 {
		t.Fatalf("claimed %d jobs, %v", len(got.claims), err)
	}
	return got.claims
}

// rescue watches the leases of others for one lease and takes back those that stood still.
func rescue(t *testing.T, j *Jobs) {
	t.Helper()
	for range 2 {
		if _, err := j.rescue(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(j.cfg.Lease)
	}
}

func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		note := func() *Kind[args] {
			return Define("note", Options{}, func(ctx context.Context, a args) error {
				at, _ := Attempt(ctx)
				n.add("%d:%d@%v", a.N, at, time.Since(began).Round(time.Second))
				return nil
			})
		}
		k := note()
		paused := h.jobs(Config{}, k)
		enqueue(h, k, args{1})
		claims := take(t, paused)
		stop := h.run(h.jobs(Config{}, note()))
		defer stop()
		time.Sleep(10 * time.Second)
		same(t, "", &n) // not before the lease is over
		time.Sleep(10 * time.Second)
		same(t, "1:1@10s", &n) // the interruption has cost no attempt
		refused(t, h, paused, claims[0])
	})
}

// refused tries all that a run can write, after its job was taken over.
func refused(t *testing.T, h *house, j *Jobs, c *claim) {
	t.Helper()
	before := h.count(`SELECT COUNT(*) FROM job_task`) + h.count(`SELECT COUNT(*) FROM job_dead`)
	for _, outcome := range []string{outcomeDone, outcomeRetry, outcomeDead, outcomeSnoozed, outcomeInterrupted} {
		if err := j.end(t.Context(), c, ending{outcome: outcome, err: errors.New("late")}); !errors.Is(err, errLost) {
			t.Errorf("%s after the takeover: %v", outcome, err)
		}
	}
	err := h.db.Tx(context.WithValue(t.Context(), claimKey{}, c), "test", func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('late', 1)`); err != nil {
			return err
		}
		return DoneTx(ctx, tx)
	})
	if levee.CodeOf(err) != levee.CodeConflict {
		t.Errorf("DoneTx after the takeover: %v", err)
	}
	if h.count(`SELECT COUNT(*) FROM effect WHERE what = 'late'`) != 0 {
		t.Error("the effect of the overtaken run is kept")
	}
	if lost, err := j.extend(t.Context(), []*claim{c}); err != nil || !lost[c] {
		t.Errorf("extended after the takeover: %v, %v", lost, err)
	}
	if after := h.count(`SELECT COUNT(*) FROM job_task`) + h.count(`SELECT COUNT(*) FROM job_dead`); after != before {
		t.Errorf("%d jobs before, %d after", before, after)
	}
}

// The same while the new run is still under way: nothing of it may be touched.
func TestTakeoverUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		slow := func() *Kind[args] {
			return Define("slow", Options{}, func(ctx context.Context, a args) error {
				time.Sleep(30 * time.Second)
				n.add("done %v", ctx.Err())
				return nil
			})
		}
		k := slow()
		paused := h.jobs(Config{}, k)
		enqueue(h, k, args{1})
		claims := take(t, paused)
		stop := h.run(h.jobs(Config{}, slow()))
		defer stop()
		time.Sleep(20 * time.Second)
		refused(t, h, paused, claims[0])
		time.Sleep(time.Minute)
		same(t, "done <nil>", &n)
		if left := h.count(`SELECT COUNT(*) FROM job_task`); left != 0 {
			t.Errorf("%d jobs are left", left)
		}
	})
}

// A long job keeps its lease as long as it runs, and is not run twice.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		long := func() *Kind[args] {
			return Define("long", Options{Timeout: time.Hour}, func(ctx context.Context, a args) error {
				n.add("begun")
				time.Sleep(30 * time.Minute)
				n.add("%v", ctx.Err())
				return nil
			})
		}
		k := long()
		stop1, stop2 := h.run(h.jobs(Config{}, k)), h.run(h.jobs(Config{}, long()))
		enqueue(h, k, args{1})
		time.Sleep(40 * time.Minute)
		stop1()
		stop2()
		same(t, "begun <nil>", &n)
		if left := h.count(`SELECT COUNT(*) FROM job_task`); left != 0 {
			t.Errorf("%d jobs are left", left)
		}
	})
}

// A function that ignores its timeout does not keep the job for ever: another run gets it, and its own end is not written.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		free := make(chan struct{})
		k := Define("stuck", Options{Timeout: time.Minute}, func(ctx context.Context, a args) error {
			n.add("%v", time.Since(began).Round(time.Second))
			if n.String() == "0s" {
				<-free
			}
			return nil
		})
		stop := h.run(h.jobs(Config{}, k))
		enqueue(h, k, args{1})
		time.Sleep(5 * time.Minute)
		if got := n.String(); got < "0s 1m15s" || got > "0s 1m31s" {
			t.Errorf("runs at %s, want a second one between 1m15s and 1m31s", got)
		}
		close(free)
		stop()
		if left := h.count(`SELECT COUNT(*) FROM job_task`); left != 0 {
			t.Errorf("%d jobs are left", left)
		}
	})
}

// What was interrupted begins again before what has waited for longer: its turn had come already.
func TestInterruptedComeFirst(t *testing.T) {
	for _, how := range []string{"given back", "taken back"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t)
				kind := func() *Kind[args] {
					return Define("job", Options{}, func(context.Context, args) error { return nil })
				}
				k := kind()
				j := h.jobs(Config{}, k)
				first := enqueue(h, k, args{1})
				time.Sleep(time.Second)
				claims := take(t, j)
				for n := range 20 {
					enqueue(h, k, args{n})
				}
				time.Sleep(time.Second)
				other := h.jobs(Config{}, kind())
				if how == "taken back" {
					rescue(t, other)
				} else if err := j.end(t.Context(), claims[0], ending{outcome: outcomeInterrupted}); err != nil {
					t.Fatal(err)
				}
				if i := h.info(other, first); i.State != Waiting || how == "taken back" && !i.Due.IsZero() {
					t.Errorf("while it waits: %+v", i)
				}
				again, err := other.claim(t.Context(), all(other, 1))
				if err != nil || len(again.claims) != 1 || again.claims[0].id != first {
					t.Errorf("the next is %v, %v; want job %d", again.claims, err, first)
				}
			})
		})
	}
}

// A job that takes its process down again and again is given up.
func TestPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		life := func() (*Jobs, *Kind[args]) {
			k := Define("poison", Options{}, func(context.Context, args) error { return nil })
			return h.jobs(Config{}, k), k
		}
		j, k := life()
		id := enqueue(h, k, args{1})
		for crash := 1; crash <= maxCrashes; crash++ {
			take(t, j)
			j, _ = life()
			rescue(t, j)
			want := Stats{Due: 1}
			if crash == maxCrashes {
				want = Stats{Dead: 1}
			}
			if s, err := j.Stats(t.Context()); err != nil || s != want {
				t.Fatalf("after crash %d: %+v, %v", crash, s, err)
			}
		}
		if dead, err := j.Dead(t.Context(), 10); err != nil || len(dead) != 1 || dead[0].ID != id {
			t.Errorf("dead: %+v, %v", dead, err)
		}
	})
}

// What ran beside a job that takes its process down is not given up with it.
func TestPoisonAndNeighbours(t *testing.T) {
	for _, n := range [][2]int{{0, 9}, {4, 9}, {9, 9}, {6, 40}, {13, 40}, {14, 40}, {22, 40}, {40, 40}} {
		t.Run(fmt.Sprint(n), func(t *testing.T) { poisonAndNeighbours(t, n[0], n[1]) })
	}
}

func poisonAndNeighbours(t *testing.T, at, others int) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		k := Define("job", Options{}, func(context.Context, args) error { return nil })
		h.jobs(Config{}, k)
		var victim int64
		for i := range others + 1 {
			if id := enqueue(h, k, args{i}); i == at {
				victim = id
			}
		}
		for life := 1; h.count(`SELECT COUNT(*) FROM job_task`) > 0; life++ {
			if life > 50 {
				t.Fatal("no end in fifty lives")
			}
			// One life: it claims, runs and completes until it has claimed the poison, which ends it in mid-work.
			k := Define("job", Options{}, func(context.Context, args) error { return nil })
			j := h.jobs(Config{}, k)
			for dead := false; !dead; {
				got, err := j.claim(t.Context(), all(j, 64))
				if err != nil {
					t.Fatal(err)
				}
				claims := got.claims
				for _, c := range claims {
					dead = dead || c.id == victim
				}
				for _, c := range claims {
					if !dead {
						j.mu.Lock()
						j.clear(c)
						j.mu.Unlock()
						if err := j.end(t.Context(), c, ending{outcome: outcomeDone}); err != nil {
							t.Fatal(err)
						}
					}
				}
				if len(claims) == 0 {
					break
				}
			}
			rescue(t, h.jobs(Config{}))
		}
		dead, err := h.jobs(Config{}).Dead(t.Context(), 10)
		if err != nil || len(dead) != 1 || dead[0].ID != victim {
			t.Errorf("dead: %+v, %v; want job %d alone", dead, err, victim)
		}
	})
}

// A stop lets running jobs finish within the grace time; those that do not are interrupted and go back unharmed.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := Define("job", Options{}, func(ctx context.Context, a args) error {
			select {
			case <-time.After(time.Duration(a.N) * time.Second):
				n.add("%d", a.N)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		j := h.jobs(Config{Grace: 5 * time.Second}, k)
		stop := h.run(j)
		enqueue(h, k, args{3})
		enqueue(h, k, args{10})
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("stopping took %v, want the grace time", took)
		}
		same(t, "3", &n)
		if got := h.count(`SELECT COUNT(*) FROM job_task WHERE due_at IS NOT NULL AND attempts = 0 AND crashes = 0`); got != 1 {
			t.Error("the interrupted job does not wait unharmed")
		}
		h.drain(j)
		same(t, "3 10", &n)
	})
}

// Short jobs are claimed ahead of their slots; what has not begun when the process stops goes back without being run.
func TestStopGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		begun := make(chan int, 1000)
		k := Define("job", Options{}, func(ctx context.Context, a args) error {
			if a.N > 0 {
				begun <- a.N
				<-ctx.Done()
			}
			return ctx.Err()
		})
		j := h.jobs(Config{Pools: map[string]int{"default": 2}}, k)
		for range 100 {
			enqueue(h, k, args{0})
		}
		h.drain(j) // it learns that these jobs are short
		for n := range 100 {
			enqueue(h, k, args{n + 1})
		}
		stop := h.run(j)
		synctest.Wait()
		if n := h.count(`SELECT COUNT(*) FROM job_task WHERE lease_until IS NOT NULL`); n != 100 {
			t.Errorf("%d jobs are claimed, want all 100", n)
		}
		time.Sleep(50 * time.Second) // of the bubble's clock: those that wait keep their leases
		if n := h.count(`SELECT COUNT(*) FROM job_task WHERE fence = 1 AND lease_until > ?`, time.Now().UnixMicro()); n != 100 {
			t.Errorf("%d jobs have kept their leases, want 100", n)
		}
		before := len(begun)
		stop()
		if n := len(begun) - before; n > 0 {
			t.Errorf("%d jobs were begun while the process stopped", n)
		}
		if n := h.count(`SELECT COUNT(*) FROM job_task WHERE due_at IS NOT NULL AND crashes = 0`); n != 100 {
			t.Errorf("%d jobs wait unharmed, want 100", n)
		}
	})
}

// The wall clock jumps ahead: leases seem to be over, but what runs here is alive and must not be run twice.
func TestClockJumpsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := obs.Test(t)
		clock := obs.NewStepClock(time.Now())
		o.Clock = clock.Now
		h := openDir(t, t.TempDir(), o)
		var n notes
		k := Define("job", Options{}, func(ctx context.Context, a args) error {
			n.add("begun")
			time.Sleep(20 * time.Second) // of the bubble's clock
			n.add("%v", ctx.Err())
			return nil
		})
		stop := h.run(h.jobs(Config{}, k))
		enqueue(h, k, args{1})
		synctest.Wait()
		clock.Step(time.Hour)
		time.Sleep(30 * time.Second)
		stop()
		same(t, "begun <nil>", &n)
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		k := Define("job", Options{Timeout: 2 * time.Second, MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }},
			func(ctx context.Context, a args) error {
				<-ctx.Done()
				n.add("%v", time.Since(began).Round(time.Second))
				return ctx.Err()
			})
		j := h.jobs(Config{}, k)
		enqueue(h, k, args{})
		h.drain(j)
		same(t, "2s 4s", &n)
		if dead, err := j.Dead(t.Context(), 1); err != nil || len(dead) != 1 || dead[0].Error != "context deadline exceeded" {
			t.Errorf("dead: %+v, %v", dead, err)
		}
	})
}

func TestDoneTx(t *testing.T) {
	h := open(t)
	var n notes
	fail := errors.New("after the effect")
	k := Define("job", Options{Backoff: func(int) time.Duration { return 0 }}, func(ctx context.Context, a args) error {
		at, _ := Attempt(ctx)
		n.add("%d", at)
		err := h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('done', ?)`, at); err != nil {
				return err
			}
			if err := DoneTx(ctx, tx); err != nil {
				return err
			}
			if at == 1 {
				return fail // rolls both back
			}
			return nil
		})
		if err != nil {
			return err
		}
		return errors.New("what fails after DoneTx has committed is only logged")
	})
	j := h.jobs(Config{}, k)
	enqueue(h, k, args{1})
	h.drain(j)
	same(t, "1 2", &n)
	if diff := cmp.Diff(1, h.count(`SELECT COUNT(*) FROM effect`)); diff != "" {
		t.Error(diff)
	}
	if s, err := j.Stats(t.Context()); err != nil || s != (Stats{}) {
		t.Errorf("Stats: %+v, %v", s, err)
	}
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error { return DoneTx(ctx, tx) })
	if err == nil {
		t.Error("DoneTx outside of a job")
	}
}
