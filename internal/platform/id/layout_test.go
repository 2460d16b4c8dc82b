package id

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee"
)

var today = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func TestReadyLayouts(t *testing.T) {
	for _, l := range []Layout{Default, JS53} {
		if err := l.Validate(today); err != nil {
			t.Errorf("%v: %v", l, err)
		}
	}
	if _, last, err := JS53.At(JS53.time(JS53.end() - 1)); err != nil || last != 1<<53-1 {
		t.Errorf("the last id of JS53 is %d, %v", last, err)
	}
	if float64(int64(1<<53-1)) != 1<<53-1 || JS53.time(JS53.end()).Year() != 2093 || Default.time(Default.end()).Year() != 2094 {
		t.Error("the ends are not what the comments say")
	}
}

func TestLayoutsAreRefused(t *testing.T) {
	with := func(change func(*Layout)) Layout {
		l := Default
		change(&l)
		return l
	}
	for field, list := range map[string][]Layout{
		"id.layout.time_bits": {with(func(l *Layout) { l.TimeBits = 19 }), with(func(l *Layout) { l.TimeBits = 49 }),
			with(func(l *Layout) { l.TimeBits = 37 }),                                    // ran out already
			with(func(l *Layout) { l.TimeBits, l.SeqBits, l.Unit = 48, 5, time.Second }), // ends in the year 8,921,000
			with(func(l *Layout) {
				l.TimeBits, l.Unit = 28, time.Second
				l.Epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
			})}, // 8.5 years: ends in 2028
		"id.layout.worker_bits": {with(func(l *Layout) { l.WorkerBits = 0 }), with(func(l *Layout) { l.WorkerBits = 17 })},
		"id.layout.seq_bits":    {with(func(l *Layout) { l.SeqBits = 0 }), with(func(l *Layout) { l.SeqBits = 23 })},
		"id.layout":             {with(func(l *Layout) { l.SeqBits = 13 })},
		"id.layout.unit":        {with(func(l *Layout) { l.Unit = 0 }), with(func(l *Layout) { l.Unit = -time.Second }), with(func(l *Layout) { l.Unit = 1500 * time.Microsecond }), with(func(l *Layout) { l.Unit = 2 * time.Hour })},
		"id.layout.epoch":       {with(func(l *Layout) { l.Epoch = today.Add(time.Hour) }), with(func(l *Layout) { l.Epoch = time.Time{} }), with(func(l *Layout) { l.Epoch = l.Epoch.Add(time.Microsecond) })},
	} {
		for _, l := range list {
			var e *levee.Error
			if err := l.Validate(today); !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != field || e.Fields[0].Allowed == "" {
				t.Errorf("%v (want %s): %v", l, field, err)
			}
			if _, err := Open(t.Context(), Config{Dir: t.TempDir(), Space: "x", Layout: l}, quiet(func() time.Time { return today })); levee.CodeOf(err) != levee.CodeInvalid {
				t.Errorf("Open with %v: %v", l, err)
			}
		}
	}
	// The control: a day before and after the line.
	l := with(func(l *Layout) { l.TimeBits = 38 }) // 8.7 years
	end := l.time(l.end())
	if err := l.Validate(end.AddDate(-leastYears, 0, -1)); err != nil {
		t.Errorf("a day more than five years: %v", err)
	}
	if err := l.Validate(end.AddDate(-leastYears, 0, 1)); levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), end.Format(time.DateOnly)) {
		t.Errorf("a day less than five years: %v", err)
	}
}

// Ids of any allowed layout are taken apart into what they were made of, keep their order, and never turn negative up to the last tick.
func TestAnyLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{Epoch: time.UnixMilli(rapid.Int64Range(0, today.UnixMilli()).Draw(t, "epoch")), Unit: time.Duration(rapid.Int64Range(1, 3_600_000).Draw(t, "unit")) * time.Millisecond,
			TimeBits: uint8(rapid.IntRange(20, 48).Draw(t, "time")), WorkerBits: uint8(rapid.IntRange(1, 16).Draw(t, "worker")), SeqBits: uint8(rapid.IntRange(1, 22).Draw(t, "seq"))}
		if l.Validate(today) != nil {
			t.Skip("not allowed")
		}
		tick := rapid.Int64Range(1, l.end()-1).Draw(t, "tick")
		worker, seq := rapid.IntRange(0, l.workers()-1).Draw(t, "w"), rapid.IntRange(0, 1<<l.SeqBits-1).Draw(t, "s")
		g := &Generator{layout: l, seq: l.SeqBits, shift: l.SeqBits + l.WorkerBits, worker: int64(worker) << l.SeqBits}
		id := g.id(tick<<l.SeqBits | int64(seq))
		p, err := l.Explain(id)
		if err != nil || !p.Time.Equal(l.time(tick)) || p.Worker != worker || p.Sequence != seq {
			t.Fatalf("%v: %d of tick %d, worker %d, sequence %d is %+v, %v", l, id, tick, worker, seq, p, err)
		}
		low, high, err := l.At(p.Time)
		if err != nil || id < low || id > high || high <= 0 {
			t.Fatalf("%v: %d is not from %d to %d, %v", l, id, low, high, err)
		}
		if tick < l.end()-1 {
			if next, _, err := l.At(l.time(tick + 1)); err != nil || next != high+1 {
				t.Fatalf("%v: after %d comes %d, %v", l, high, next, err)
			}
		}
	})
	for _, bad := range []int64{0, -1, math.MinInt64, 1 << 53, math.MaxInt64} {
		if _, err := JS53.Explain(bad); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("JS53 explains %d: %v", bad, err)
		}
	}
	for _, bad := range []time.Time{{}, Default.Epoch.Add(-time.Millisecond), Default.time(Default.end()), time.Unix(1<<60, 0)} {
		if _, _, err := Default.At(bad); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("At(%v): %v", bad, err)
		}
	}
}

func TestJSON(t *testing.T) {
	const big = 9007199254740993 // 2^53+1: what JavaScript's Number turns into another one
	text, err := json.Marshal(map[string]any{"id": ID(big), "list": []ID{1, math.MaxInt64}, "key": map[ID]bool{7: true}})
	if err != nil || string(text) != `{"id":"9007199254740993","key":{"7":true},"list":["1","9223372036854775807"]}` {
		t.Errorf("%s, %v", text, err)
	}
	var got struct {
		A, B ID
		M    map[ID]int
		N    *ID
	}
	if err := json.Unmarshal([]byte(`{"A":"9007199254740993","B":9007199254740993,"M":{"5":1},"N":null}`), &got); err != nil || got.A != big || got.B != big || got.M[5] != 1 || got.N != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{`""`, `"-1"`, `-1`, `1.0`, `1e3`, `"01"`, `"+1"`, `" 1"`, `"9223372036854775808"`, `9223372036854775808`, `true`, `{}`, `[]`, `"\u0031"`, `"1_0"`,
		`"` + strings.Repeat("1", 1000) + `"`} {
		var i ID
		if err := json.Unmarshal([]byte(bad), &i); err == nil {
			t.Errorf("%s is read as %d", bad, i)
		} else if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		i := ID(rapid.Int64Range(0, math.MaxInt64).Draw(t, "id"))
		if back, err := Parse(i.String()); err != nil || back != i {
			t.Fatalf("%d comes back as %d, %v", i, back, err)
		}
	})
}

// A space keeps its layout, in a folder; two spaces of one folder have worker numbers of their own.
func TestSpaces(t *testing.T) {
	clock := newWrongClock()
	dir := t.TempDir()
	js := mustOpen(t, Config{Dir: dir, Space: "js", Layout: JS53}, clock.Now)
	plain := mustOpen(t, Config{Dir: dir}, clock.Now)
	if js.Worker() != 0 || plain.Worker() != 0 || js.Layout() != JS53 {
		t.Errorf("workers %d and %d", js.Worker(), plain.Worker())
	}
	if id := mustNext(t, js); id >= 1<<53 || !JS53.TimeOf(id).Equal(clock.Now()) {
		t.Errorf("%d of %v", id, JS53.TimeOf(id))
	}
	if _, err := Open(t.Context(), Config{Dir: dir, Space: "js"}, quiet(clock.Now)); levee.CodeOf(err) != levee.CodeConflict || !strings.Contains(err.Error(), JS53.String()) {
		t.Errorf("another layout: %v", err)
	}
	for _, bad := range []string{"A", "1a", "-a", "../x", "a/b", "a b", "a\xff", "a\x00", strings.Repeat("a", 41), "ä"} {
		if _, err := Open(t.Context(), Config{Dir: dir, Space: bad}, quiet(clock.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("space %q: %v", bad, err)
		}
	}
	if _, err := Open(t.Context(), Config{Dir: dir, Layout: JS53}, quiet(clock.Now)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("another layout without a space: %v", err)
	}
	for _, bad := range []Config{{Lead: -2}, {Lead: time.Microsecond}, {Lead: 25 * time.Hour}, {Ahead: -1}, {Ahead: time.Millisecond}, {Ahead: 2 * time.Hour}} {
		bad.Dir = dir
		if _, err := Open(t.Context(), bad, quiet(clock.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Strict: no id bears a time ahead of the clock, however many are asked for; the control is the same without.
func TestStrict(t *testing.T) {
	for _, lead := range []time.Duration{Strict, 5 * time.Millisecond, 0} {
		g := mustOpen(t, Config{Dir: t.TempDir(), Lead: lead}, time.Now)
		ids := make([]int64, 3*4096)
		worst := time.Duration(math.MinInt64)
		for range 20 {
			if err := g.NextN(ids); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, TimeOf(ids[len(ids)-1]).Sub(time.Now()))
			for range 3000 {
				worst = max(worst, -time.Since(TimeOf(mustNext(t, g))))
			}
		}
		if lead == 0 { // the control, on a machine however slow
			if err := g.NextN(make([]int64, 1000*4096)); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, time.Until(TimeOf(mustNext(t, g))))
		}
		if bound := max(lead, 0); lead != 0 && worst > bound {
			t.Errorf("lead %v: an id was %v ahead of the clock", lead, worst)
		} else if lead == 0 && worst < 10*time.Millisecond {
			t.Errorf("the control ran only %v ahead", worst)
		}
	}
}

// Strict and a clock that steps back: a little is waited for, more is told, and ids go on when the clock is there again.
func TestStrictAndTheClockStepsBack(t *testing.T) {
	clock := newWrongClock()
	g := mustOpen(t, Config{Dir: t.TempDir(), Lead: Strict}, clock.Now)
	last := mustNext(t, g)
	clock.step(-10 * time.Second)
	var e *levee.Error
	if _, err := g.Next(); !errors.As(err, &e) || e.Code != levee.CodeUnavailable || e.RetryAfter < 9*time.Second || e.RetryAfter > 11*time.Second {
		t.Fatalf("ten seconds back: %v", err)
	}
	if err := g.NextN(make([]int64, 10)); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("ten seconds back: %v", err)
	}
	clock.step(10*time.Second - 50*time.Millisecond)
	began := time.Now() // before the other begins to wait, whichever of the two the machine lets go on
	go func() {
		time.Sleep(30 * time.Millisecond)
		clock.step(time.Second)
	}()
	if id := mustNext(t, g); id <= last || time.Since(began) < 20*time.Millisecond {
		t.Errorf("%d after %d, waited %v", id, last, time.Since(began))
	}
	clock.step(-50 * time.Millisecond)
	time.AfterFunc(30*time.Millisecond, func() { _ = g.Close() })
	if _, err := g.Next(); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("closed while it waits: %v", err)
	}
}

func TestNothingAllocates(t *testing.T) {
	g := mustOpen(t, Config{Dir: t.TempDir()}, time.Now)
	strict := mustOpen(t, Config{Dir: t.TempDir(), Lead: Strict}, time.Now)
	dst := make([]int64, 1000)
	for name, f := range map[string]func(){
		"Next": func() { _, _ = g.Next() }, "NextN": func() { _ = g.NextN(dst) }, "strict Next": func() { _, _ = strict.Next() },
		"strict NextN": func() { _ = strict.NextN(dst) },
	} {
		if n := testing.AllocsPerRun(300, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
