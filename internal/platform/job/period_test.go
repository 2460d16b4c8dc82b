package job

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee"
)

// ticker is a periodic function that notes the second of the bubble it is fired in.
func ticker(name string, d time.Duration, n *notes, began time.Time) Periodic {
	return Every(name, d, Options{}, func(context.Context) error {
		n.add("%v", time.Since(began).Truncate(time.Millisecond))
		return nil
	})
}

func TestPeriodic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at a full hour
		h := open(t)
		var n notes
		began := time.Now()
		j := h.jobs(Config{}, ticker("tick", 10*time.Second, &n, began))
		stop := h.run(j)
		time.Sleep(35 * time.Second)
		stop()
		same(t, "10s 20s 30s", &n)
		time.Sleep(60 * time.Second) // a standstill over several periods: one firing, then in step again
		stop = h.run(h.jobs(Config{}, ticker("tick", 10*time.Second, &n, began)))
		time.Sleep(20 * time.Second)
		stop()
		same(t, "10s 20s 30s 1m35s 1m40s 1m50s", &n)
	})
}

// However many instances look at one table, each period has one firing.
func TestPeriodicOncePerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var fast, slow, long notes
		began := time.Now()
		start := func() func() {
			return h.run(h.jobs(Config{}, ticker("fast", 500*time.Millisecond, &fast, began), ticker("slow", 7*time.Second, &slow, began),
				ticker("long", time.Minute, &long, began)))
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		stops := []func(){start(), start(), start()}
		for range 100 {
			time.Sleep(time.Duration(rnd.IntN(6000)) * time.Millisecond)
			i := rnd.IntN(len(stops)) // one of them restarts: another takes the next firing
			stops[i]()
			stops[i] = start()
		}
		for _, stop := range stops {
			stop()
		}
		took := time.Since(began)
		for _, p := range []struct {
			d time.Duration
			n *notes
		}{{500 * time.Millisecond, &fast}, {7 * time.Second, &slow}, {time.Minute, &long}} {
			// The bubble begins within a period, whose end is the first firing.
			first := p.d - time.Duration(began.UnixNano())%p.d
			var want []string
			for at := first; at <= took; at += p.d {
				want = append(want, at.Truncate(time.Millisecond).String())
			}
			if got := p.n.String(); got != strings.Join(want, " ") {
				t.Errorf("every %v: got %s\nwant %s", p.d, got, want)
			}
		}
	})
}

// A firing never overlaps the one before, in this instance or another, even when it takes longer than its period and lease.
func TestPeriodicNeverOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		running, fired := 0, 0
		p := func() Periodic {
			return Every("slow", time.Second, Options{}, func(context.Context) error {
				if running++; running > 1 {
					t.Error("two at once")
				}
				fired++
				time.Sleep(40 * time.Second) // of the bubble's clock
				running--
				return nil
			})
		}
		stop1, stop2 := h.run(h.jobs(Config{}, p())), h.run(h.jobs(Config{}, p()))
		time.Sleep(5 * time.Minute)
		stop1()
		stop2()
		if fired < 6 || fired > 8 {
			t.Errorf("%d firings of 40 s in 5 minutes", fired)
		}
	})
}

func TestPeriodicFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began, left := time.Now(), 5
		j := h.jobs(Config{}, Every("bad", time.Hour, Options{MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Minute }},
			func(context.Context) error {
				n.add("%v", time.Since(began).Truncate(time.Second))
				if left--; left >= 0 {
					return errors.New("no")
				}
				return nil
			}))
		stop := h.run(j)
		defer stop()
		time.Sleep(5*time.Hour + 30*time.Minute)
		// Three attempts, then one at each usual time until it succeeds; then all as before.
		same(t, "1h0m0s 1h1m0s 1h2m0s 2h0m0s 3h0m0s 4h0m0s 5h0m0s", &n)
		if h.count(`SELECT attempts FROM job_period`) != 0 {
			t.Error("the failures are not forgotten after a success")
		}
	})
}

// A process that dies within a firing: the period's work is done by another after the lease, in the same period.
func TestPeriodicInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		p := ticker("daily", 24*time.Hour, &n, began)
		dying := h.jobs(Config{}, p)
		if err := dying.prepare(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		rows, err := dying.readPeriods(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		claims, err := dying.claim(t.Context(), nil, []*firing{{p: p.p, row: rows["daily"], pool: dying.pools["default"]}})
		if err != nil || len(claims) != 1 {
			t.Fatal(claims, err)
		}
		again, err := dying.claim(t.Context(), nil, []*firing{{p: p.p, row: rows["daily"], pool: dying.pools["default"]}})
		if err != nil || len(again) != 0 {
			t.Fatal("a firing was taken twice", again, err)
		}
		stop := h.run(h.jobs(Config{Poll: 10 * time.Second}, ticker("daily", 24*time.Hour, &n, began)))
		defer stop()
		time.Sleep(25 * time.Hour)
		same(t, "24h0m15s 48h0m0s", &n)
		if err := dying.end(t.Context(), claims[0], ending{outcome: outcomeRetry, err: errors.New("woke up")}); !errors.Is(err, errLost) {
			t.Errorf("the paused one writes its end: %v", err)
		}
	})
}

func TestPeriodMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		stop := h.run(h.jobs(Config{}, ticker("p", 24*time.Hour, &n, began)))
		time.Sleep(time.Minute)
		stop()
		stop = h.run(h.jobs(Config{}, ticker("p", time.Hour, &n, began))) // a new version fires it every hour
		time.Sleep(2 * time.Hour)
		stop()
		same(t, "1h0m0s 2h0m0s", &n)
	})
}

// A clock that is set back must not silence a period until it has caught up.
func TestClockSetBack(t *testing.T) {
	p := &period{every: time.Minute}
	now := time.Date(2026, 1, 1, 12, 0, 30, 0, time.UTC)
	for _, test := range []struct {
		next time.Duration
		due  bool
	}{
		{-time.Hour, true}, {0, true}, {time.Second, false}, {30 * time.Second, false}, {2 * time.Minute, false}, {3 * time.Minute, true},
		{time.Hour, true},
	} {
		if due, _ := p.due(periodRow{next: now.Add(test.next).UnixMicro()}, now); due != test.due {
			t.Errorf("next firing in %v: due %v, want %v", test.next, due, test.due)
		}
	}
	soon := now.Add(time.Second).UnixMicro()
	if due, at := p.due(periodRow{next: now.UnixMicro(), lease: soon}, now); due || at != soon {
		t.Error("a running period is due")
	}
}

func TestFire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		fired, fail := 0, errors.New("no")
		var err error
		j := h.jobs(Config{}, Every("p", time.Hour, Options{}, func(context.Context) error {
			fired++
			time.Sleep(20 * time.Second) // of the bubble's clock
			return err
		}))
		if err := j.Fire(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second)
			if err := j.Fire(t.Context(), "p"); levee.CodeOf(err) != levee.CodeConflict {
				t.Errorf("while it runs: %v", err)
			}
		}()
		err = fail
		if err := j.Fire(t.Context(), "p"); !errors.Is(err, fail) {
			t.Errorf("got %v, want its error", err)
		}
		if err := j.Fire(t.Context(), "q"); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("unknown: %v", err)
		}
		if fired != 2 {
			t.Errorf("fired %d times, want 2", fired)
		}
	})
}

// The price of being idle: a short period costs one commit per firing, nothing else costs any.
func TestIdleCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		began := time.Now()
		k := noter("note", &n, Options{})
		stop := h.run(h.jobs(Config{}, k, ticker("tick", 5*time.Second, &n, began), ticker("hourly", time.Hour, &n, began)))
		defer stop()
		enqueue(h, k, args{1}, After(1000*time.Hour))
		time.Sleep(time.Minute)
		before := h.db.Stats()
		time.Sleep(time.Hour)
		got := h.db.Stats().Commits - before.Commits
		if want := int64(720 + 2); got > want {
			t.Errorf("%d commits in an hour, want at most %d", got, want)
		}
	})
}
