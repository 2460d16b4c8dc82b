package schedule

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However long the way to the server takes and however unevenly, now is never ahead of the server's clock, and soon behind by no more than
// its quickest answers leave open.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 17 * time.Hour
		server := func() time.Time { return time.Now().Add(ahead) }
		rng := rand.New(rand.NewPCG(1, 1))
		c := &clock{begun: time.Now(), own: time.Now, ask: func(context.Context) (time.Time, error) {
			time.Sleep(time.Duration(100+rng.IntN(50_000)) * time.Microsecond)
			now := server().Truncate(time.Microsecond)
			time.Sleep(time.Duration(100+rng.IntN(50_000)) * time.Microsecond)
			return now, nil
		}}
		worst := time.Duration(0)
		for i := range 2000 {
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
			if c.age() > askEvery {
				if err := c.sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			now, err := c.now(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			behind := server().Sub(now)
			if behind < 0 {
				t.Fatalf("it is ahead of the server by %v", -behind)
			}
			if i > 100 {
				worst = max(worst, behind)
			}
		}
		t.Logf("at most %v behind", worst)
		if worst > 30*time.Millisecond {
			t.Errorf("%v behind", worst)
		}
	})
}

// A server's clock that is set, or another server, is followed with the next answer, both ways; one that does not answer is an error only
// when nothing is known.
func TestClockSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off time.Duration
		var down bool
		asked := 0
		c := &clock{begun: time.Now(), own: time.Now, ask: func(context.Context) (time.Time, error) {
			asked++
			time.Sleep(2 * time.Millisecond)
			if down {
				return time.Time{}, errors.New("away")
			}
			return time.Now().Add(off), nil
		}}
		down = true
		if _, err := c.now(t.Context()); err == nil {
			t.Error("it tells the time without an answer")
		}
		down = false
		for _, off = range []time.Duration{0, time.Hour, -time.Hour, -time.Hour + 10*time.Millisecond} {
			if err := c.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			now, err := c.now(t.Context())
			if d := time.Now().Add(off).Sub(now); err != nil || d < 0 || d > 4*time.Millisecond {
				t.Errorf("%v: %v behind, %v", off, d, err)
			}
			time.Sleep(time.Second)
		}
		down, asked = true, 0
		time.Sleep(8 * time.Second)
		if _, err := c.now(t.Context()); err != nil || asked != 0 {
			t.Errorf("it asked %d times, %v", asked, err)
		}
		time.Sleep(2 * time.Second)
		if _, err := c.now(t.Context()); err == nil {
			t.Error("it goes on from an answer that is too old")
		}
	})
}

// The clock that counts is stepped by up to a minute either way while a process runs: each time is fired for once, none is left out, and
// what was due meanwhile does not count as late.
func TestStepsOfTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Config{})
		var off atomic.Int64
		h.s.clock.own = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
		h.add(Entry{Name: "x", Trigger: on("every 1s"), Grace: 5 * time.Second, Coalesce: All, Most: 1000, MaxLive: Unlimited})
		stop := h.run()
		for _, d := range []time.Duration{0, time.Minute, -time.Minute, 0, 59 * time.Second, 3 * time.Second, -30 * time.Second, 0} {
			off.Store(int64(d))
			time.Sleep(100*time.Second + 300*time.Millisecond)
		}
		stop()
		i := h.get("x")
		fired := int64(h.s.clock.own().Sub(h.began) / time.Second)
		if i.Late != 0 || i.Merged != 0 || i.Fired != fired {
			t.Errorf("fired %d of %d, late %d, merged %d", i.Fired, fired, i.Late, i.Merged)
		}
		times := map[string]bool{}
		for _, n := range h.n.all {
			name, _, _ := cut(n)
			if times[name] {
				t.Errorf("%s is double", name)
			}
			times[name] = true
		}
		if len(times) != int(fired) {
			t.Errorf("%d times have run, want %d", len(times), fired)
		}
	})
}
