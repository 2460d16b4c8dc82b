package limit

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"levee/internal/platform/obs"
)

// Both drivers give the same decisions for any sequence of steps over several limits, refunds, pauses and changes of rates. The two were written
// twice, in Go and in Lua: what one of them gets wrong alone shows here.
func TestDriversAgree(t *testing.T) {
	again := remotes(t)
	o := obs.Test(t)
	rapid.Check(t, func(rt *rapid.T) {
		shared, clock := again("off")
		own, err := Open(Config{Rates: map[string]string{"write": "off"}, Keys: keysMin}, o)
		if err != nil {
			rt.Fatal(err)
		}
		m := own.driver.(*memory)
		m.clock, m.epoch = clock.Now, clock.Now()
		for n := range m.groups { // a sweep forgets for good what a shorter span does not see; Redis looks only at keys that are asked for
			for i := range m.groups[n].shards {
				m.groups[n].shards[i].sweepAt = 1 << 62
			}
		}
		drawn := []Name{Write, SignIn, SignInAccount, SMSHouse} // one of each part, and one more
		rate := func(of string) Rate {
			r := Rate{Count: rapid.SampledFrom([]int{1, 2, 4, 5, 125}).Draw(rt, of+" count"), Per: time.Duration(rapid.IntRange(1, 9).Draw(rt, of+" per")) * time.Second}
			if rapid.Bool().Draw(rt, of+" bucket") {
				r.Burst = rapid.IntRange(1, 8).Draw(rt, of+" burst")
			}
			if rapid.IntRange(0, 9).Draw(rt, of+" off") == 0 {
				return Rate{}
			}
			return r // its interval is a whole number of microseconds, so that neither driver rounds
		}
		rates := map[Name]Rate{}
		for _, n := range drawn {
			rates[n] = rate(n.String())
		}
		change := func() {
			if err := own.Set(rates); err != nil {
				rt.Fatal(err)
			}
			if err := shared.Set(rates); err != nil {
				rt.Fatal(err)
			}
		}
		change()
		ask := func(label string) Ask {
			return Ask{rapid.SampledFrom(drawn).Draw(rt, label+" name"), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, label+" key")}
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				n := rapid.SampledFrom(drawn).Draw(rt, "changed")
				rates[n] = rate("next")
				change()
			case 1:
				a := ask("refund")
				own.Refund(context.Background(), a.Name, a.Key)
				shared.Refund(context.Background(), a.Name, a.Key)
			case 2, 3:
				clock.Step(time.Duration(rapid.IntRange(0, 3000).Draw(rt, "pause")) * time.Millisecond)
			default:
				asks := make([]Ask, rapid.IntRange(1, 4).Draw(rt, "asks"))
				for i := range asks {
					asks[i] = ask("ask")
				}
				a, b := own.AllowAll(context.Background(), asks...), shared.AllowAll(context.Background(), asks...)
				if d := cmp.Diff(a, b); d != "" {
					rt.Fatalf("%v at %v: memory (-) and Redis (+) differ:\n%s", asks, rates, d)
				}
			}
		}
	})
}
