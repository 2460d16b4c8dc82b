package limit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"levee"
	"levee/internal/platform/obs"
)

// opener opens limits with the given rate for Write, on a clock that the test steps. tick is the least time that the driver knows.
type opener struct {
	tick time.Duration
	open func(t testing.TB, rate string) (*Limits, *obs.StepClock)
}

// drivers runs a test on each driver.
func drivers(t *testing.T, test func(t *testing.T, d opener)) {
	t.Run("memory", func(t *testing.T) { test(t, opener{1, open}) })
	t.Run("redis", func(t *testing.T) { test(t, opener{time.Microsecond, openRemote}) })
}

func open(t testing.TB, rate string) (*Limits, *obs.StepClock) {
	t.Helper()
	o, clock := obs.Test(t), &obs.StepClock{}
	o.Clock = clock.Now
	l, err := Open(Config{Rates: map[string]string{"write": rate}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return l, clock
}

// allowed asks n times and returns how often the answer was yes.
func allowed(l *Limits, key string, n int) (ok int) {
	for range n {
		if l.Allow(context.Background(), Write, key).OK {
			ok++
		}
	}
	return ok
}

func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		cfg   Config
		field string
	}{
		{Config{Keys: 1}, "limit.keys"},
		{Config{Keys: 1e9}, "limit.keys"},
		{Config{Rates: map[string]string{"sign_out": "5/s"}}, "limit.rates"},
		{Config{Rates: map[string]string{"none": "5/s"}}, "limit.rates"},
		{Config{Rates: map[string]string{"read": "often"}}, "limit.rates.read"},
	} {
		_, err := Open(tc.cfg, obs.Test(t))
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != tc.field {
			t.Errorf("%+v: %v, want %s", tc.cfg, err, tc.field)
		}
	}
}

func TestDecision(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		ctx := context.Background()
		t.Run("exact", func(t *testing.T) {
			l, clock := d.open(t, "2/m")
			want := []Decision{
				{OK: true, Limit: 2, Remaining: 1, Reset: time.Minute},
				{OK: true, Limit: 2, Remaining: 0, Reset: time.Minute},
				{OK: false, Limit: 2, Reset: 50 * time.Second, RetryAfter: 40 * time.Second},
				{OK: true, Limit: 2, Remaining: 0, Reset: time.Minute}, // the first charge has left, the second has not
			}
			var got []Decision
			for _, wait := range []time.Duration{10 * time.Second, 10 * time.Second, 40 * time.Second, 0} {
				got = append(got, l.Allow(ctx, Write, "k"))
				clock.Step(wait)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
		t.Run("bucket", func(t *testing.T) {
			l, clock := d.open(t, "10/s burst 2")
			want := []Decision{
				{OK: true, Limit: 2, Remaining: 1, Reset: 100 * time.Millisecond},
				{OK: true, Limit: 2, Remaining: 0, Reset: 200 * time.Millisecond},
				{OK: false, Limit: 2, Reset: 200 * time.Millisecond, RetryAfter: 100 * time.Millisecond},
				{OK: true, Limit: 2, Remaining: 0, Reset: 200 * time.Millisecond},
			}
			var got []Decision
			for _, wait := range []time.Duration{0, 0, 100 * time.Millisecond, 0} {
				got = append(got, l.Allow(ctx, Write, "k"))
				clock.Step(wait)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
		t.Run("off", func(t *testing.T) {
			l, _ := d.open(t, "off")
			for _, n := range []Name{Write, None} {
				if got := l.Allow(ctx, n, "k"); got != (Decision{OK: true}) {
					t.Errorf("%v: %+v", n, got)
				}
				l.Refund(ctx, n, "k")
			}
		})
	})
}

func TestDecisionErr(t *testing.T) {
	if err := (Decision{OK: true}).Err(); err != nil {
		t.Error(err)
	}
	err := Decision{RetryAfter: 1100 * time.Millisecond}.Err()
	var e *levee.Error
	if !errors.As(err, &e) || e.Code != levee.CodeTooManyRequests || e.RetryAfter != 1100*time.Millisecond {
		t.Fatal(err)
	}
	if want := "too many requests, ask again in 2s"; e.Message != want {
		t.Errorf("%q, want %q", e.Message, want)
	}
}

// Waiting for RetryAfter is enough, and anything less is not, whatever the rate.
func TestRetryAfterIsTrue(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		for _, rate := range []string{"1/s", "5/15m", "3/s burst 1", "7/m burst 3", "1000/s", "999/d"} {
			t.Run(rate, func(t *testing.T) {
				l, clock := d.open(t, rate)
				allowed(l, "k", l.Rate(Write).Most())
				got := l.Allow(context.Background(), Write, "k")
				if got.OK {
					t.Fatal("more than the most were allowed")
				}
				clock.Step(got.RetryAfter - d.tick)
				if l.Allow(context.Background(), Write, "k").OK {
					t.Error("allowed a tick early")
				}
				clock.Step(d.tick)
				if !l.Allow(context.Background(), Write, "k").OK {
					t.Error("refused after RetryAfter")
				}
				got = l.Allow(context.Background(), Write, "k")
				clock.Step(got.Reset)
				if got, most := allowed(l, "k", 1200), l.Rate(Write).Most(); got != most {
					t.Errorf("%d of %d allowed after Reset", got, most)
				}
			})
		}
	})
}

// A bucket whose Per does not divide evenly must round against the caller, not for him.
func TestBucketRoundsUp(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		l, clock := d.open(t, "7/s burst 1")
		allowed(l, "k", 1)
		clock.Step((time.Second / 7).Truncate(d.tick)) // rounded down
		if l.Allow(context.Background(), Write, "k").OK {
			t.Error("eight charges would fit into a second")
		}
		clock.Step(d.tick)
		if !l.Allow(context.Background(), Write, "k").OK {
			t.Error("refused after a seventh of a second")
		}
	})
}

// The case that read-edit-write throttles fail: many at once on one key.
func TestExactUnderConcurrency(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		for _, rate := range []string{"5/d", "100/h", "101/h", "10/d burst 20"} {
			t.Run(rate, func(t *testing.T) {
				l, _ := d.open(t, rate)
				const keys, callers, each = 3, 32, 60
				var ok [keys]atomic.Int64
				var start, wg sync.WaitGroup
				start.Add(1)
				for range callers {
					wg.Go(func() {
						start.Wait()
						for i := range each * keys {
							k := i % keys
							if l.Allow(context.Background(), Write, fmt.Sprint("user-", k)).OK {
								ok[k].Add(1)
							}
						}
					})
				}
				start.Done()
				wg.Wait()
				for k := range ok {
					if got, want := ok[k].Load(), int64(l.Rate(Write).Most()); got != want {
						t.Errorf("key %d: %d of %d requests allowed, want %d", k, got, callers*each, want)
					}
				}
			})
		}
	})
}

// The same on the real clock's kind of readings, with time passing: in no window are there more than the rate says.
func TestExactWhileTimePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(Config{Rates: map[string]string{"write": "5/s"}}, obs.Test(t))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var times []time.Time
		var wg sync.WaitGroup
		for c := range 20 {
			wg.Go(func() {
				for range 100 {
					now := time.Now()
					if l.Allow(t.Context(), Write, "k").OK {
						mu.Lock()
						times = append(times, now)
						mu.Unlock()
					}
					time.Sleep(time.Duration(31+c) * time.Millisecond)
				}
			})
		}
		wg.Wait()
		for i := 5; i < len(times); i++ {
			if d := times[i].Sub(times[i-5]); d < time.Second {
				t.Fatalf("six charges within %v", d)
			}
		}
		if len(times) < 15 {
			t.Errorf("only %d charges in over 3 s at 5/s", len(times))
		}
	})
}

func TestKeysAndNamesAreApart(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		l, _ := d.open(t, "2/d")
		long := strings.Repeat("x", 1<<20)
		for _, k := range []string{"", "a", "A", "a ", "á", "a\x00", "\xff", long, long + "y"} {
			if got := allowed(l, k, 5); got != 2 {
				t.Errorf("key %.10q: %d allowed", k, got)
			}
		}
		if !l.Allow(context.Background(), Poll, "a").OK {
			t.Error("a charge on write counts on poll")
		}
	})
}

func TestRefund(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		ctx := context.Background()
		for _, rate := range []string{"3/d", "10/s burst 3"} {
			t.Run(rate, func(t *testing.T) {
				l, clock := d.open(t, rate)
				l.Refund(ctx, Write, "k") // nothing to give back must not become credit
				if got := allowed(l, "k", 5); got != 3 {
					t.Fatalf("%d allowed", got)
				}
				l.Refund(ctx, Write, "k")
				if got := allowed(l, "k", 5); got != 1 {
					t.Errorf("%d allowed after one refund", got)
				}
				for range 10 {
					l.Refund(ctx, Write, "k")
				}
				if n := keys(l); n != 0 {
					t.Errorf("%d keys remembered after all was refunded", n)
				}
				if got := allowed(l, "k", 9); got != 3 {
					t.Errorf("%d allowed after ten refunds of three", got)
				}
				clock.Step(48 * time.Hour)
				l.Refund(ctx, Write, "k")
				if got := allowed(l, "k", 9); got != 3 {
					t.Errorf("%d allowed after a late refund", got)
				}
			})
		}
	})
}

// keys counts what the driver remembers for Write.
func keys(l *Limits) (n int) {
	if r, ok := l.driver.(*remote); ok {
		all, err := r.client.UniversalClient().Keys(context.Background(), r.client.Key("limit:{write:*")).Result()
		if err != nil {
			panic(err)
		}
		return len(all)
	}
	g := &l.driver.(*memory).groups[Write]
	for i := range g.shards {
		g.shards[i].mu.Lock()
		n += len(g.shards[i].entries)
		g.shards[i].mu.Unlock()
	}
	return n
}

// A wall clock without monotonic readings, stepped either way, neither opens the limit twice nor closes it for ever.
func TestClockSteps(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		for _, rate := range []string{"5/m", "300/m burst 5"} {
			for _, step := range []time.Duration{-d.tick, -time.Second, -time.Hour, -10 * 365 * 24 * time.Hour} {
				t.Run(fmt.Sprint(rate, step), func(t *testing.T) {
					l, clock := d.open(t, rate)
					if got := allowed(l, "k", 9); got != 5 {
						t.Fatalf("%d allowed", got)
					}
					clock.Step(step)
					if got := allowed(l, "k", 9); got != 0 {
						t.Errorf("a step back allowed %d more", got)
					}
					clock.Step(time.Minute)
					if got := allowed(l, "k", 9); got != 5 {
						t.Errorf("%d allowed a minute after the step back, want 5: closed by it", got)
					}
					for range 100 { // a clock that is torn to and fro: no time passes
						clock.Step(-time.Hour)
						if got := allowed(l, "k", 1); got != 0 {
							t.Fatal("allowed without time passing")
						}
					}
				})
			}
			t.Run(rate+" forward", func(t *testing.T) {
				l, clock := d.open(t, rate)
				allowed(l, "k", 9)
				clock.Step(10 * 365 * 24 * time.Hour)
				if got := allowed(l, "k", 9); got != 5 {
					t.Errorf("%d allowed after a step forward, want 5 as after any long time", got)
				}
				clock.Step(-10 * 365 * 24 * time.Hour) // corrected again
				if got := allowed(l, "k", 9); got != 0 {
					t.Errorf("%d allowed by the correction", got)
				}
				clock.Step(time.Minute)
				if got := allowed(l, "k", 9); got != 5 {
					t.Errorf("%d allowed a minute after the correction", got)
				}
			})
		}
	})
}

func TestKeysExpire(t *testing.T) {
	for _, rate := range []string{"5/m", "10/s burst 20"} {
		t.Run(rate, func(t *testing.T) {
			l, clock := open(t, rate)
			const n = 20_000
			for i := range n {
				l.Allow(context.Background(), Write, fmt.Sprint("visitor-", i))
			}
			if got := keys(l); got != n {
				t.Fatalf("%d keys, want %d", got, n)
			}
			// Traffic on one key is enough to make all others go within two sweeps of each shard.
			for range 2 * shardCount * 3 {
				clock.Step(time.Minute)
				l.Allow(context.Background(), Write, "regular")
			}
			if got := keys(l); got != 1 {
				t.Errorf("%d keys are still remembered, want the regular's alone", got)
			}
		})
	}
}

// A flood of keys stays within the bound, and does not make a key forgotten that is at its limit.
func TestFloodIsBoundedAndDoesNotOpen(t *testing.T) {
	for _, rate := range []string{"5/d", "100/d burst 5"} {
		t.Run(rate, func(t *testing.T) {
			o, clock := obs.Test(t), &obs.StepClock{}
			o.Clock = clock.Now
			l, err := Open(Config{Rates: map[string]string{"write": rate}, Keys: keysMin}, o)
			if err != nil {
				t.Fatal(err)
			}
			if got := allowed(l, "guesser", 9); got != 5 {
				t.Fatalf("%d allowed", got)
			}
			for i := range 50 * keysMin {
				if !l.Allow(context.Background(), Write, fmt.Sprint("flood-", i)).OK {
					t.Fatal("a fresh key was refused")
				}
				clock.Step(time.Microsecond)
			}
			if got := keys(l); got > keysMin {
				t.Errorf("%d keys remembered, the most is %d", got, keysMin)
			}
			if got := allowed(l, "guesser", 9); got != 0 {
				t.Errorf("the flood let the guesser in %d times", got)
			}
			if n := metric(t, o, "levee_limit_evicted_total"); n < 48*keysMin {
				t.Errorf("%v evictions counted", n)
			}
			if n := metric(t, o, "levee_limit_keys_count"); n != float64(keys(l)) {
				t.Errorf("%v keys shown, %d remembered", n, keys(l))
			}
		})
	}
}

// metric sums a metric over its labels.
func metric(t *testing.T, o *obs.Obs, name string) (sum float64) {
	t.Helper()
	families, err := o.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A model that keeps every charge for ever must give the same decisions as the driver, for random rates, keys, pauses, steps
// back and refunds; and by the model no window is ever overfull.
func TestAgainstModel(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		o := obs.Test(t)
		againstModel(t, func(rt *rapid.T, rate string) (*Limits, *obs.StepClock) {
			clock := &obs.StepClock{}
			o.Clock = clock.Now
			l, err := Open(Config{Rates: map[string]string{"write": rate}, Keys: keysMin}, o)
			if err != nil {
				rt.Fatal(err)
			}
			return l, clock
		})
	})
	t.Run("redis", func(t *testing.T) {
		again := remotes(t)
		againstModel(t, func(_ *rapid.T, rate string) (*Limits, *obs.StepClock) { return again(rate) })
	})
}

func againstModel(t *testing.T, open func(*rapid.T, string) (*Limits, *obs.StepClock)) {
	rapid.Check(t, func(rt *rapid.T) {
		r := Rate{Count: rapid.IntRange(1, 6).Draw(rt, "count"), Per: time.Duration(rapid.IntRange(1, 20).Draw(rt, "per")) * time.Second}
		if rapid.Bool().Draw(rt, "bucket") {
			r.Burst = rapid.IntRange(1, 8).Draw(rt, "burst")
		}
		l, clock := open(rt, r.String())
		read := func() { // both keys' shards read the clock: a time between two steps that nobody has read has not passed
			for _, k := range []string{"a", "b"} {
				if _, ok := l.driver.(*remote); ok {
					look(rt, l, k)
					continue
				}
				s := shardOf(l, k)
				s.mu.Lock()
				s.now(l.driver.(*memory))
				s.mu.Unlock()
			}
		}
		type charge struct{ at time.Duration }
		var now time.Duration // time that has passed, without steps back
		log := map[string][]charge{}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key")
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				clock.Step(-time.Duration(rapid.IntRange(0, 100).Draw(rt, "back")) * time.Second)
				read()
			case 1:
				if !r.Exact() {
					continue // what a refund gives a bucket is less than a charge; TestRefund has it
				}
				l.Refund(context.Background(), Write, key)
				if c := log[key]; len(c) > 0 && c[len(c)-1].at+r.Per > now {
					log[key] = c[:len(c)-1]
				}
			case 2, 3, 4:
				d := time.Duration(rapid.IntRange(0, 3000).Draw(rt, "pause")) * time.Millisecond
				now += d
				clock.Step(d)
				read()
			default:
				got := l.Allow(context.Background(), Write, key)
				within := 0
				for _, c := range log[key] {
					if c.at+r.Per > now {
						within++
					}
				}
				if r.Exact() && got.OK != (within < r.Count) {
					rt.Fatalf("%v: %d charges within %v, and the decision is %+v", r, within, r.Per, got)
				}
				if !r.Exact() && got.OK && within >= r.Burst+r.Count {
					rt.Fatalf("%v: %d charges within %v, and one more allowed", r, within, r.Per)
				}
				if got.OK {
					log[key] = append(log[key], charge{now})
				}
			}
		}
	})
}

func shardOf(l *Limits, key string) *shard { return l.driver.(*memory).shard(Write, key) }

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"::ffff:192.0.2.7":     "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::1": "2001:db8:1:2::/64",
		"2001:db8:1:3::1":      "2001:db8:1:3::/64",
		"fe80::1%eth0":         "fe80::/64",
		"::1":                  "::/64",
	} {
		if got := AddressKey(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	if got := AddressKey(netip.Addr{}); got != "" {
		t.Errorf("invalid address: %q", got)
	}
}

func TestOpenTwiceOverOneObs(t *testing.T) {
	o := obs.Test(t)
	for range 2 {
		if _, err := Open(Config{}, o); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAllowDoesNotAllocate(t *testing.T) {
	for _, rate := range []string{"100/s", "1000/s"} {
		l, _ := open(t, rate)
		allowed(l, "user-1", 200) // the log's room is made
		if n := testing.AllocsPerRun(100, func() { l.Allow(context.Background(), Write, "user-1") }); n != 0 {
			t.Errorf("%s: %v allocations", rate, n)
		}
	}
}

func BenchmarkAllow(b *testing.B) {
	for _, rate := range []string{"100/s", "10/s burst 20"} {
		b.Run(rate, func(b *testing.B) {
			l, err := Open(Config{Rates: map[string]string{"write": rate}}, obs.Test(b))
			if err != nil {
				b.Fatal(err)
			}
			names := make([]string, 10_000)
			for i := range names {
				names[i] = fmt.Sprint("user-", i)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					l.Allow(context.Background(), Write, names[i%len(names)])
				}
			})
		})
	}
}
