package job

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/platform/db"
)

// watch lets processes that run nothing live one after the other, each for so long, until the job of a dead one has run again. It returns after how long
// that was; 0: not within a minute.
func (h *house) watch(n *notes, life time.Duration, between func()) time.Duration {
	h.t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; between() {
		stop := h.run(h.jobs(Config{}, noter("note", n, Options{})))
		for end := time.Now().Add(life); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if n.sorted() != "" {
				took := time.Since(began)
				time.Sleep(time.Second)
				stop()
				return took
			}
		}
		stop()
	}
	return 0
}

// A process dies, and of those who could see it none lives for as long as its lease: what each has seen adds up. The control takes away what
// they have written down.
func TestDeathIsSeenByMany(t *testing.T) {
	for _, life := range []time.Duration{time.Hour, 4 * time.Second, 3 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t)
				var n notes
				k := noter("note", &n, Options{})
				dead := h.jobs(Config{}, k)
				enqueue(h, k, args{1})
				take(t, dead)
				took := h.watch(&n, life, func() { time.Sleep(200 * time.Millisecond) })
				if took < dead.cfg.Lease || took > 15*time.Second {
					t.Errorf("it ran again after %v; want the lease of %v to 15s", took, dead.cfg.Lease)
				}
				if got := h.count(`SELECT COUNT(*) FROM job_runner`); got != 0 {
					t.Errorf("%d processes count as alive", got)
				}
			})
		})
	}
	t.Run("control", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := open(t)
			var n notes
			k := noter("note", &n, Options{})
			dead := h.jobs(Config{}, k)
			enqueue(h, k, args{1})
			take(t, dead)
			took := h.watch(&n, 3*time.Second, func() { h.exec(`UPDATE job_runner SET still = 0`) })
			if took != 0 {
				t.Errorf("it ran again after %v although nobody remembers: this test proves nothing", took)
			}
		})
	})
}

func (h *house) exec(query string, args ...any) {
	h.t.Helper()
	err := h.db.Tx(context.Background(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// Many who watch at once do not see more time than there was, also when one of them slept meanwhile; and a sign of life takes all back.
func TestWatchersSeeNoMoreThanThereWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := noter("note", &n, Options{})
		slow := h.jobs(Config{}, k)
		enqueue(h, k, args{1})
		claims := take(t, slow)
		began := time.Now()
		watchers := make([]*Jobs, 5)
		for i := range watchers {
			watchers[i] = h.jobs(Config{})
		}
		r := &runner{j: slow}
		alive := began
		sign := func() {
			slow.running[claims[0]] = struct{}{}
			slow.here.next = time.Time{}
			alive = time.Now()
			r.sayAlive(t.Context())
		}
		between := false // a sign of life comes between a watcher's reading and what it makes of it
		watchers[1].seam.hold = func() {
			if between {
				between = false
				sign()
			}
		}
		for round := range 400 {
			time.Sleep(170 * time.Millisecond)
			if round%7 != 0 { // each of them misses some looks, the first many
				for i, w := range watchers {
					if i == 0 && round%40 > 2 || (round+i)%5 == 0 {
						continue
					}
					if _, err := w.bury(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			still := time.Duration(h.count(`SELECT COALESCE(MAX(still), 0) FROM job_runner`)) * time.Microsecond
			if most := time.Since(alive); still > most {
				t.Fatalf("in round %d it stands still for %v, its last sign of life was %v ago", round, still, most)
			}
			gone := h.count(`SELECT COUNT(*) FROM job_runner`) == 0
			if round < 100 && round%30 == 0 {
				sign()
			}
			if round == 120 { // somebody finds it dead, but it gives a sign of life after he has read
				look := func() {
					if _, err := watchers[1].bury(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				look()
				time.Sleep(time.Until(alive.Add(slow.cfg.Lease - time.Second)))
				look()
				time.Sleep(slow.cfg.Lease - time.Duration(h.count(`SELECT MAX(still) FROM job_runner`))*time.Microsecond)
				between = true
				look()
				gone = h.count(`SELECT COUNT(*) FROM job_runner`) == 0
			}
			if round == 20 {
				between = true
			}
			if gone && time.Since(alive) < slow.cfg.Lease {
				t.Fatalf("dead %v after its last sign of life", time.Since(alive))
			}
			if gone {
				refused(t, h, slow, claims[0])
				return
			}
		}
		t.Error("nobody found it dead")
	})
}

// A process that is alone takes back at its start what was running when the one before it died, and no attempt is lost. Without that word it waits.
func TestAloneAtOnce(t *testing.T) {
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprint(alone), func(t *testing.T) {
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
				dead := h.jobs(Config{}, k)
				enqueue(h, k, args{1})
				claims := take(t, dead)
				stop := h.run(h.jobs(Config{Alone: alone}, note()))
				defer stop()
				time.Sleep(20 * time.Second)
				want := "1:1@10s"
				if alone {
					want = "1:1@0s"
				}
				same(t, want, &n)
				refused(t, h, dead, claims[0])
			})
		})
	}
}

// Whoever has slept for longer than a lease ends what it runs, and goes on under a row of its own.
func TestSleeperAppearsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		asleep := make(chan struct{})
		ended := make(chan error, 1)
		long := func() *Kind[args] {
			return Define("long", Options{Timeout: time.Hour}, func(ctx context.Context, a args) error {
				if a.N == 1 {
					<-ctx.Done()
					select {
					case ended <- context.Cause(ctx):
					default:
					}
					return ctx.Err()
				}
				n.add("%d", a.N)
				return nil
			})
		}
		k := long()
		sleeper := h.jobs(Config{}, k)
		var sleeps atomic.Bool
		sleeper.seam.hold = func() {
			if sleeps.Load() {
				<-asleep
			}
		}
		defer h.run(sleeper)()
		enqueue(h, k, args{1})
		time.Sleep(2 * time.Second)
		before := h.count(`SELECT COALESCE(MAX(id), 0) FROM job_runner`)
		sleeps.Store(true)
		time.Sleep(2 * time.Second)
		other := h.jobs(Config{}, long())
		stop := h.run(other)
		time.Sleep(30 * time.Second)
		if got := h.count(`SELECT COUNT(*) FROM job_runner WHERE id = ?`, before); got != 0 {
			t.Error("the sleeper counts as alive")
		}
		sleeps.Store(false)
		close(asleep)
		time.Sleep(time.Second)
		select {
		case err := <-ended:
			if !errors.Is(err, errLost) {
				t.Error(err)
			}
		default:
			t.Error("what the sleeper ran goes on")
		}
		stop()
		enqueue(h, k, args{2})
		time.Sleep(2 * time.Second)
		same(t, "2", &n)
		if got := h.count(`SELECT COALESCE(MAX(id), 0) FROM job_runner`); got == before {
			t.Error("it goes on under its old row")
		}
	})
}

// Who runs nothing writes nothing: it has no row.
func TestIdleIsAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := noter("note", &n, Options{})
		defer h.run(h.jobs(Config{}, k))()
		enqueue(h, k, args{1})
		time.Sleep(5 * time.Second)
		same(t, "1", &n)
		if got := h.count(`SELECT COUNT(*) FROM job_runner`); got != 0 {
			t.Errorf("%d rows", got)
		}
		commits := h.db.Stats().Commits
		time.Sleep(time.Hour)
		if got := h.db.Stats().Commits - commits; got != 0 {
			t.Errorf("%d commits in an idle hour", got)
		}
	})
}
