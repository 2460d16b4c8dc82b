package limit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// Rates change under traffic: from the next decision on the new one holds, and what was charged stays charged.
func TestRatesChangeAndRemember(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		const all = -1
		for _, c := range []struct {
			from string
			used int
			to   string
			left int
		}{
			{"5/d", 5, "10/d", 5},
			{"10/d", 7, "5/d", 0},
			{"10/d", 7, "8/d", 1},
			{"5/d", 5, "5/h", 0}, // charged just now: within the hour, too
			{"5/h", 5, "5/d", 0},
			{"5/d", 5, "off", all},
			{"10/h", 4, "1000/h burst 10", 6},           // a log becomes a bucket
			{"10/h", 9, "1000/h burst 3", 0},            // of which no more than all is missing
			{"100/h", 60, "200/h", 140},                 // over the bound between the two
			{"200/h", 60, "100/h", 40},                  // and back
			{"100/h burst 10", 4, "5/d", 1},             // a bucket becomes a log
			{"100/h burst 10", 9, "5/d", 0},             // and is charged no more than all
			{"10/s burst 20", 10, "100/d burst 15", 5},  // a slower bucket is short of as many
			{"100/d burst 15", 10, "10/s burst 20", 10}, // a faster one too
			{"1000/d burst 100", 100, "1000/s burst 10", 0},
			{"10/s burst 20", 20, "10/s burst 400", 380}, // only more room
			{"10/s burst 400", 300, "10/s burst 20", 0},  // only less
		} {
			t.Run(fmt.Sprintf("%s, %d used, then %s", c.from, c.used, c.to), func(t *testing.T) {
				l, _ := d.open(t, c.from)
				if got := allowed(l, "k", c.used); got != c.used {
					t.Fatalf("%d of %d allowed", got, c.used)
				}
				set(t, l, map[Name]string{Write: c.to})
				times := max(100, c.left+5)
				if c.left == all {
					c.left = times
				}
				if got := allowed(l, "k", times); got != c.left {
					t.Errorf("%d allowed, want %d", got, c.left)
				}
				if got, want := l.Rate(Write).String(), c.to; got != want {
					t.Errorf("the rate is %s", got)
				}
			})
		}
	})
}

// Who used up a large bucket waits for one of the small one, not for all that he once had.
func TestSmallerBucketIsNotADebt(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		l, clock := d.open(t, "1/s burst 1000")
		allowed(l, "k", 1000)
		set(t, l, map[Name]string{Write: "1/s burst 10"})
		got := l.Allow(context.Background(), Write, "k")
		if got.OK || got.RetryAfter != time.Second || got.Reset != 10*time.Second {
			t.Errorf("%+v, want one in a second and all ten in ten", got)
		}
		clock.Step(time.Second)
		if got := allowed(l, "k", 3); got != 1 {
			t.Errorf("%d allowed after a second", got)
		}
	})
}

// There and back again does not give anything away, whatever lies between.
func TestNoFreshAllowanceByChanging(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		for _, via := range []string{"off", "100/d", "1000/d", "5/d burst 5", "100/d burst 50", "5/h"} {
			l, _ := d.open(t, "5/d")
			allowed(l, "k", 5)
			set(t, l, map[Name]string{Write: via})
			if l.Allow(context.Background(), Write, "k").OK {
				l.Refund(context.Background(), Write, "k")
			}
			set(t, l, map[Name]string{Write: "5/d"})
			if got := allowed(l, "k", 9); got != 0 {
				t.Errorf("5/d, %s and 5/d again allowed %d more", via, got)
			}
		}
	})
}

func TestSetRefuses(t *testing.T) {
	l, _ := open(t, "5/d")
	for _, c := range []struct {
		n Name
		r Rate
	}{
		{None, Rate{Count: 1, Per: time.Second}},
		{nameCount, Rate{Count: 1, Per: time.Second}},
		{Write, Rate{Count: -1, Per: time.Second}},
		{Write, Rate{Count: 0, Per: time.Second}},
		{Write, Rate{Count: 5}},
		{Write, Rate{Count: 5, Per: -time.Second}},
		{Write, Rate{Count: 5, Per: time.Millisecond}},
		{Write, Rate{Count: 5, Per: 1500 * time.Millisecond}},
		{Write, Rate{Count: 5, Per: perMax + time.Second}},
		{Write, Rate{Count: countMax + 1, Per: time.Second}},
		{Write, Rate{Count: 5, Per: time.Second, Burst: -1}},
		{Write, Rate{Burst: 5}},
		{Write, Rate{Count: 1, Per: perMax, Burst: countMax}},
	} {
		err := l.Set(map[Name]Rate{Poll: {Count: 1, Per: time.Hour}, c.n: c.r})
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid {
			t.Errorf("%v %+v: %v", c.n, c.r, err)
		}
	}
	if l.Rate(Write).String() != "5/d" || l.Rate(Poll) != table[Poll].rate {
		t.Error("a refused Set changed something")
	}
	set(t, l, map[Name]string{Write: "1/h"})
	set(t, l, nil)
	if l.Rate(Write).String() != "5/d" || l.Configured(Write).String() != "5/d" {
		t.Errorf("a limit that is not set any more has %v, want the configuration's", l.Rate(Write))
	}
}

// An operator changes the rate to and fro while a crowd asks: never more than the widest allows, and at the end what the last one says.
func TestRatesChangeUnderAStorm(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		l, _ := d.open(t, "20/d")
		var ok atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 300 {
					if l.AllowAll(context.Background(), Ask{Write, "k"}, Ask{Poll, "k"}).OK() {
						ok.Add(1)
					}
					if l.Allow(context.Background(), Write, "k").OK {
						ok.Add(1)
					}
				}
			})
		}
		wg.Go(func() {
			for i := range 100 {
				set(t, l, map[Name]string{Write: []string{"40/d", "10/d", "25/2d", "1/31d"}[i%4], Poll: []string{"off", "1000/s"}[i%2]})
			}
		})
		wg.Wait()
		if n := ok.Load(); n < 1 || n > 40 {
			t.Errorf("%d allowed, and the widest rate was 40 a day", n)
		}
		set(t, l, map[Name]string{Write: "50/d", Poll: "off"})
		if got, want := int64(allowed(l, "k", 100)), 50-ok.Load(); got != want {
			t.Errorf("%d more allowed at 50/d, want %d: what was charged is forgotten", got, want)
		}
	})
}

// Keys that a wider rate left are forgotten in time, also those of the other kind.
func TestKeysExpireAfterAChange(t *testing.T) {
	l, clock := open(t, "1000/d")
	for i := range 5000 {
		l.Allow(context.Background(), Write, fmt.Sprint("visitor-", i))
	}
	set(t, l, map[Name]string{Write: "5/s"})
	for range 2 * shardCount * 3 {
		clock.Step(time.Minute)
		l.Allow(context.Background(), Write, "regular")
	}
	if got := keys(l); got != 1 {
		t.Errorf("%d keys are still remembered, want the regular's alone", got)
	}
}

// Asks of several limits are bounded in memory as those of one are, and an eviction within a step does not break it.
func TestFloodOfStepsIsBounded(t *testing.T) {
	o, clock := obs.Test(t), &obs.StepClock{}
	o.Clock = clock.Now
	l, err := Open(Config{Rates: map[string]string{"write": "5/d", "poll": "100/d burst 5"}, Keys: keysMin}, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 * keysMin {
		key := fmt.Sprint("flood-", i)
		if !l.AllowAll(context.Background(), Ask{Write, key}, Ask{Write, key + "'"}, Ask{Poll, key}).OK() {
			t.Fatal("a fresh key was refused")
		}
		clock.Step(time.Microsecond)
	}
	if n := metric(t, o, "levee_limit_keys_count"); n > 2*keysMin {
		t.Errorf("%v keys remembered, the most is %d", n, 2*keysMin)
	}
}

func BenchmarkAllowAll(b *testing.B) {
	l, err := Open(Config{Rates: map[string]string{"write": "100/s", "token": "50/s", "route": "100000/s"}}, obs.Test(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			key := fmt.Sprint("user-", i%10_000)
			l.AllowAll(context.Background(), Ask{Write, key}, Ask{Token, key}, Ask{Route, "route"})
		}
	})
}
