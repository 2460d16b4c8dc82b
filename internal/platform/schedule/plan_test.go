package schedule

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cut parts a note at its lateness.
func cut(note string) (firing, late string, found bool) { return strings.Cut(note, "+") }

// A plan is what a simple loop over all firings says, also where there are more than are looked at one by one.
func TestPlan(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	began := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	texts := []string{"every 1s", "every 7s", "every 61s from 2026-03-01T00:00:01Z", "cron 0,1,2,30 * * * *", "cron 15 2 * * * in Europe/Berlin",
		"every 3s until 2026-03-01T02:00:00Z", "any(every 13s; cron 0 0 * * *)", "every 1m jitter 30s by x"}
	many := 0
	for range 2000 {
		trigger := on(texts[rng.IntN(len(texts))])
		from := began.Add(time.Duration(rng.IntN(3600)) * time.Second).UnixMicro()
		r := &row{trigger: trigger, next: next(trigger, from), how: Coalesce(rng.IntN(3)), most: 1 + rng.IntN(5)}
		now := r.next + rng.Int64N(time.Hour.Microseconds()*int64(1+rng.IntN(3)))
		cutoff := now - rng.Int64N(2*time.Hour.Microseconds())
		if rng.IntN(3) == 0 {
			cutoff = 0
		}
		var due, fresh []int64
		after := r.next
		for ; after != 0 && after <= now; after = next(trigger, after) {
			due = append(due, after)
			if after >= cutoff {
				fresh = append(fresh, after)
			}
		}
		fire := fresh
		switch n := len(fresh); {
		case n == 0:
		case r.how == Latest:
			fire = fresh[n-1:]
		case r.how == Earliest:
			fire = fresh[:1]
		default:
			fire = fresh[max(n-r.most, 0):]
		}
		p := r.planned(now, cutoff)
		if !slices.Equal(p.fire, fire) || p.next != after || p.more != (len(due) > manyDue) {
			t.Fatalf("%s, %v, most %d, %d due, %d in time:\n got %v, next %d, more %v\nwant %v, next %d", trigger.Text(), r.how, r.most, len(due), len(fresh),
				p.fire, p.next, p.more, fire, after)
		}
		if p.more {
			many++
		} else if p.late != int64(len(due)-len(fresh)) || p.merged != int64(len(fresh)-len(fire)) {
			t.Fatalf("%d late, %d merged of %d due, %d in time, %d fired", p.late, p.merged, len(due), len(fresh), len(fire))
		}
	}
	if many < 50 {
		t.Errorf("%d plans of many firings: the test has tried little", many)
	}
}

// A century of seconds takes no time.
func TestBefore(t *testing.T) {
	from, to := time.Date(1971, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), time.Date(2071, 1, 1, 0, 0, 0, 500, time.UTC).UnixMicro()
	began := time.Now()
	for text, want := range map[string]string{"every 1s": "2071-01-01T00:00:00Z", "cron 0 0 29 2 *": "2068-02-29T00:00:00Z", "at 1999-12-31T00:00:00Z": "1999-12-31T00:00:00Z"} {
		got, ok := before(on(text), from, to)
		if diff := cmp.Diff(want, time.UnixMicro(got).UTC().Format(time.RFC3339)); diff != "" || !ok {
			t.Errorf("%s: %s", text, diff)
		}
	}
	if _, ok := before(on("at 1970-01-01T00:00:00Z"), from, to); ok {
		t.Error("found what is not there")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// What was not due at the last look is late by no more than what has passed since, unless the process was suspended.
func TestCutoff(t *testing.T) {
	mono := time.Now()
	const second = 1_000_000
	for _, c := range []struct {
		looked        bool
		passed, leapt time.Duration
		grace, want   int64 // seconds; want before now
	}{
		{false, 0, 0, 5, 5},
		{true, time.Second, 0, 5, 5},
		{true, time.Second, time.Minute, 5, 61},
		{true, 10 * time.Second, time.Minute, 5, 5}, // it was itself too slow
		{true, time.Second, time.Hour, 5, 5},        // suspended
		{true, time.Second, -time.Minute, 5, 5},
		{true, time.Second, time.Minute, 100, 100},
	} {
		var l look
		now := int64(1000 * second)
		if c.looked {
			l = look{now - (c.passed + c.leapt).Microseconds(), mono.Add(-c.passed)}
		}
		got := now - l.cutoff(c.grace*second, now, mono)
		if got != c.want*second && got != c.want*second-1 {
			t.Errorf("%s: %v seconds before now, want %d", fmt.Sprint(c), float64(got)/second, c.want)
		}
	}
	if got := (look{}).cutoff(0, 1000, mono); got != 0 {
		t.Errorf("without a grace it is %d", got)
	}
}
