package limit

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
)

func TestParseRate(t *testing.T) {
	for s, want := range map[string]Rate{
		"5/day":                 {Count: 5, Per: 24 * time.Hour},
		"20/s":                  {Count: 20, Per: time.Second},
		"5/15m":                 {Count: 5, Per: 15 * time.Minute},
		"10/s burst 20":         {Count: 10, Per: time.Second, Burst: 20},
		" 10 / 2 hours burst 1": {Count: 10, Per: 2 * time.Hour, Burst: 1},
		"1000000/31d":           {Count: 1e6, Per: 31 * 24 * time.Hour},
		"1/min":                 {Count: 1, Per: time.Minute},
		"off":                   {},
	} {
		got, err := ParseRate(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", s, d)
		}
	}
	for _, s := range []string{
		"", " ", "/", "5", "5/", "/s", "0/s", "-1/s", "+1/s", "05/s", "5.5/s", "1e3/s", "1000001/s", "5/0s", "5/32d", "5/745h",
		"5/ms", "5/S", "5/w", "5/s/s", "5/s burst", "5/s burst 0", "5/s burst -1", "5/s burst 1000001", "5/s burst 2 burst 3",
		"5/s,6/s", "off/s", "OFF", "５/s", "5/s\x00", "99999999999999999999/s", "5/99999999999999999999s",
		"1/31d burst 1000000", strings.Repeat("1", 200) + "/s",
	} {
		got, err := ParseRate(s)
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Field != "rate" {
			t.Errorf("%q: %v, %v; want invalid rate", s, got, err)
		}
		if got != (Rate{}) {
			t.Errorf("%q: a refused rate returned %v", s, got)
		}
	}
}

func TestDefaultRatesAreRates(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range Names() {
		r := table[n].rate
		if got, err := ParseRate(r.String()); err != nil || got != r {
			t.Errorf("%v: %v reads back as %v, %v", n, r, got, err)
		}
		off := n == Token || n == Route || n == Sale // brakes that an operator pulls
		if n.String() == "" || seen[n.String()] || r.off() != off {
			t.Errorf("limit %d is named %q, rate %v", n, n, r)
		}
		seen[n.String()] = true
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{
		"5/day", "20/s", "5/15m", "10/s burst 20", "off", "1000000/31d", "1/31d burst 1000000", " 5 / 2 min ", "0/s", "5/", "-1/s",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			if levee.CodeOf(err) != levee.CodeInvalid || r != (Rate{}) {
				t.Fatalf("%q: %v, %v", s, r, err)
			}
			return
		}
		back, err := ParseRate(r.String())
		if err != nil || back != r {
			t.Fatalf("%q is %+v, shown as %q, which is %+v, %v", s, r, r, back, err)
		}
		if r.off() {
			return
		}
		if r.Count < 1 || r.Count > countMax || r.Per < time.Second || r.Per > perMax || r.Burst < 0 || r.Burst > countMax {
			t.Fatalf("%q is out of bounds: %+v", s, r)
		}
		// Whatever is accepted must decide without overflow: a fresh key is allowed exactly Most times (or 1,000, if more).
		e, n := &entry{}, min(r.Most(), 1000)
		for i := range n + 1 {
			d := e.take(r, time.Hour)
			want := i < r.Most()
			if d.OK != want || d.Limit != r.Most() || d.Remaining < 0 || d.Reset <= 0 || (d.RetryAfter > 0) == want {
				t.Fatalf("%q: charge %d of %d is %+v", s, i+1, r.Most(), d)
			}
		}
	})
}
