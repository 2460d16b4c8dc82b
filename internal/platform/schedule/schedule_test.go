package schedule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
)

// bubble runs a test in virtual time.
func bubble(t *testing.T, f func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, open(t, Config{})) })
}

func TestFires(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		defer h.run()()
		h.add(Entry{Name: "tick", Trigger: on("every 10s")})
		h.add(Entry{Name: "once", Trigger: on("at " + h.began.Add(12500*time.Millisecond).UTC().Format(time.RFC3339Nano))})
		time.Sleep(35 * time.Second)
		h.same("tick@10s tick@20s tick@30s once@12.5s")
		i := h.get("tick")
		if i.Fired != 3 || i.LastJob == 0 || !i.Last.Equal(h.began.Add(30*time.Second)) || !i.LastRun.Equal(i.Last) || !i.Next.Equal(h.began.Add(40*time.Second)) {
			t.Errorf("tick is %+v", i)
		}
		if i := h.get("once"); i.State != Finished || i.Fired != 1 || !i.Next.IsZero() || i.Finished.IsZero() {
			t.Errorf("once is %+v", i)
		}
		if got := metric(t, h.s.m.fired.WithLabelValues("note")); got != 4 {
			t.Errorf("%v were counted as fired", got)
		}
	})
}

// What is due after a standstill, by grace and coalescing. The clock is at 35 s when firings of 10, 20 and 30 s are due.
func TestMissed(t *testing.T) {
	for _, c := range []struct {
		e                  Entry
		want               string
		late, merged, busy int64
	}{
		{Entry{}, "x@30s+5s", 0, 2, 0},
		{Entry{Coalesce: Earliest}, "x@10s+25s", 0, 2, 0},
		{Entry{Coalesce: Earliest, Grace: 16 * time.Second}, "x@20s+15s", 1, 1, 0},
		{Entry{Coalesce: All, MaxLive: Unlimited}, "x@10s+25s x@20s+15s x@30s+5s", 0, 0, 0},
		{Entry{Coalesce: All, MaxLive: 2}, "x@10s+25s x@20s+15s", 0, 0, 1},
		{Entry{Coalesce: All, Most: 2, MaxLive: 5}, "x@20s+15s x@30s+5s", 0, 1, 0},
		{Entry{Grace: 5 * time.Second}, "x@30s+5s", 2, 0, 0},
		{Entry{Grace: 4999 * time.Millisecond}, "", 3, 0, 0},
		{Entry{Grace: 15 * time.Second}, "x@30s+5s", 1, 1, 0},
	} {
		t.Run(fmt.Sprint(c.e.Coalesce, c.e.Grace, c.e.Most, c.e.MaxLive), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				c.e.Name, c.e.Trigger = "x", on("every 10s")
				h.add(c.e)
				heard := map[string]int64{}
				h.s.Listen(func(n Notice) { heard[n.What] += n.Firings })
				time.Sleep(35 * time.Second)
				stop := h.run()
				time.Sleep(2 * time.Second)
				h.same(c.want)
				time.Sleep(5 * time.Second)
				stop()
				h.same("x@40s")
				i := h.get("x")
				if i.Late != c.late || i.Merged != c.merged || i.Busy != c.busy {
					t.Errorf("late %d, merged %d, busy %d; want %d, %d, %d", i.Late, i.Merged, i.Busy, c.late, c.merged, c.busy)
				}
				if skips := c.late + c.merged + c.busy; (skips > 0) != (i.Reason != "") || (skips > 0) == i.Skipped.IsZero() {
					t.Errorf("of %d skips the last is %q at %v", skips, i.Reason, i.Skipped)
				}
				if fired := i.Fired; heard[Fired] != fired || heard[reasonLate] != c.late || heard[reasonMerged] != c.merged || heard[reasonBusy] != c.busy {
					t.Errorf("heard of %v", heard)
				}
				logged := h.warns.take()
				for text, n := range map[string]int64{"came later than": c.late, "were merged": c.merged, "as many jobs": c.busy} {
					if got := strings.Count(logged, text); got != int(min(n, 1)) {
						t.Errorf("%q was logged %d times for %d firings", text, got, n)
					}
				}
				for reason, want := range map[string]int64{reasonLate: c.late, reasonMerged: c.merged, reasonBusy: c.busy} {
					if got := metric(t, h.s.m.skipped.WithLabelValues(reason)); got != float64(want) {
						t.Errorf("%v were counted as %s, want %d", got, reason, want)
					}
				}
			})
		})
	}
}

func TestMaxLive(t *testing.T) {
	for _, c := range []struct {
		most int
		want string
		busy int64
	}{
		{0, "x@10s x@40s x@70s", 4},
		{2, "x@10s x@20s x@40s x@50s x@70s", 2},
		{Unlimited, "x@10s x@20s x@30s x@40s x@50s x@60s x@70s", 0},
	} {
		t.Run(fmt.Sprint(c.most), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				h.took = 25 * time.Second
				h.add(Entry{Name: "x", Trigger: on("every 10s"), MaxLive: c.most})
				stop := h.run()
				time.Sleep(75 * time.Second)
				stop()
				h.same(c.want)
				if i := h.get("x"); i.Busy != c.busy {
					t.Errorf("%d firings were busy, want %d", i.Busy, c.busy)
				}
			})
		})
	}
}

func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		defer h.run()()
		h.add(Entry{Name: "x", Trigger: on("every 10s"), Coalesce: All, MaxLive: Unlimited})
		time.Sleep(15 * time.Second)
		h.must(h.s.Pause(ctx, "x"))
		h.must(h.s.Pause(ctx, "x"))
		time.Sleep(30 * time.Second)
		h.same("x@10s")
		if i := h.get("x"); i.State != Paused || !i.Paused || !i.Next.Equal(h.began.Add(20*time.Second)) {
			t.Errorf("paused it is %+v", i)
		}
		h.must(h.s.Resume(ctx, "x", Now))
		h.must(h.s.Resume(ctx, "x", Now))
		time.Sleep(10 * time.Second)
		h.same("x@50s")
		h.must(h.s.Pause(ctx, "x"))
		time.Sleep(20 * time.Second)
		h.must(h.s.Resume(ctx, "x", Where))
		time.Sleep(10 * time.Second)
		h.same("x@60s+15s x@70s+5s x@80s")
		code(t, h.s.Pause(ctx, "y"), levee.CodeNotFound)
		code(t, h.s.Resume(ctx, "y", Now), levee.CodeNotFound)
		// Paused with a trigger that is over by the time it goes on.
		h.add(Entry{Name: "end", Trigger: on("at " + time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)), Paused: true})
		time.Sleep(5 * time.Second)
		h.must(h.s.Resume(ctx, "end", Now))
		if i := h.get("end"); i.State != Finished {
			t.Errorf("end is %+v", i)
		}
		code(t, h.s.Pause(ctx, "end"), levee.CodeConflict)
		code(t, h.s.Resume(ctx, "end", Now), levee.CodeConflict)
	})
}

func TestAddModifyRemove(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		defer h.run()()
		x := Entry{Name: "x", Kind: "note", Trigger: on("every 10s"), Note: "first"}
		if added, err := h.s.Add(ctx, x, Fail); !added || err != nil {
			t.Fatal(added, err)
		}
		_, err := h.s.Add(ctx, x, Fail)
		code(t, err, levee.CodeConflict)
		x.Note, x.Trigger = "second", on("every 7s")
		if added, err := h.s.Add(ctx, x, Keep); added || err != nil || h.get("x").Note != "first" {
			t.Error(added, err, h.get("x").Note)
		}
		time.Sleep(12 * time.Second)
		if added, err := h.s.Add(ctx, x, Replace); added || err != nil || h.get("x").Note != "second" || h.get("x").Fired != 1 {
			t.Error(added, err, h.get("x"))
		}
		time.Sleep(10 * time.Second)
		h.same("x@10s x@16s")
		before := h.get("x").Version
		h.must(h.s.Modify(ctx, "x", func(e *Entry) error { e.Note = "third"; return nil }))
		if i := h.get("x"); i.Note != "third" || i.Version != before+1 || !i.Next.Equal(h.began.Add(23*time.Second)) {
			t.Errorf("modified it is %+v", i)
		}
		h.must(h.s.Reschedule(ctx, "x", on("every 1h")))
		id, err := h.s.Trigger(ctx, "x")
		if err != nil || id == 0 {
			t.Fatal(id, err)
		}
		time.Sleep(10 * time.Second)
		h.same("x@22s")
		if i := h.get("x"); i.Fired != 3 || i.LastJob != id || !i.Next.Equal(h.began.Add(time.Hour)) {
			t.Errorf("triggered it is %+v", i)
		}
		runs, err := h.s.NextRuns(ctx, "x", 3)
		if err != nil || len(runs) != 3 || !runs[2].Equal(h.began.Add(3*time.Hour)) {
			t.Error(runs, err)
		}
		h.took = time.Minute
		if _, err := h.s.Trigger(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		_, err = h.s.Trigger(ctx, "x")
		code(t, err, levee.CodeConflict) // one of its jobs is there already
		h.must(h.s.Remove(ctx, "x"))
		code(t, h.s.Remove(ctx, "x"), levee.CodeNotFound)
		code(t, h.s.Reschedule(ctx, "x", on("every 1h")), levee.CodeNotFound)
		_, err = h.s.Trigger(ctx, "x")
		code(t, err, levee.CodeNotFound)
		_, err = h.s.NextRuns(ctx, "x", 3)
		code(t, err, levee.CodeNotFound)
		_, err = h.s.Get(ctx, "x")
		code(t, err, levee.CodeNotFound)
		time.Sleep(2 * time.Hour)
		h.same("x@32s")
	})
}

// A finished schedule is there for a time, comes back with another trigger, and goes in the end. A declared one stays.
func TestFinished(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		soon := func() string { return "at " + time.Now().Add(time.Second).UTC().Format(time.RFC3339) }
		h.renew(Config{Keep: time.Hour, Poll: time.Minute}, Entry{Name: "declared", Kind: "note", Trigger: on(soon())})
		defer h.run()()
		h.add(Entry{Name: "a", Trigger: on(soon())})
		h.add(Entry{Name: "b", Trigger: on(soon())})
		time.Sleep(time.Minute)
		h.same("a@1s b@1s declared@1s")
		h.must(h.s.Reschedule(ctx, "b", on("every 30m")))
		time.Sleep(50 * time.Minute)
		h.get("a")
		time.Sleep(80 * time.Minute)
		if _, err := h.s.Get(ctx, "a"); levee.CodeOf(err) != levee.CodeNotFound {
			t.Error("finished for long, it is still there")
		}
		if i := h.get("declared"); i.State != Finished {
			t.Errorf("declared is %v", i.State)
		}
		h.same("b@1800s b@3600s b@5400s b@7200s")
	})
}

func TestDeclare(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		d := Entry{Name: "d", Kind: "note", Trigger: on("every 10s"), Note: "one"}
		p := Entry{Name: "p", Kind: "note", Trigger: on("every 10s"), Paused: true}
		start := func(es ...Entry) func() { h.renew(Config{}, es...); return h.run() }
		stop := start(d, p)
		time.Sleep(11 * time.Second)
		h.same("d@10s")
		code(t, h.s.Remove(ctx, "d"), levee.CodeConflict)
		code(t, h.s.Declare(Entry{Name: "late", Kind: "note", Trigger: on("every 1s")}), levee.CodeInvalid)
		// What is changed at run time stays over a restart with the same declaration, and the next firing too.
		h.must(h.s.Reschedule(ctx, "d", on("every 7s")))
		stop()
		time.Sleep(2 * time.Second) // 13 s
		stop = start(d, p)
		time.Sleep(4 * time.Second)
		h.same("d@16s")
		if i := h.get("d"); !i.Declared || !i.Changed {
			t.Errorf("changed it is %+v", i)
		}
		// A pause stays too, and another declaration brings everything back but the pause.
		h.must(h.s.Pause(ctx, "d"))
		stop()
		d.Note, d.Trigger = "two", on("every 5s")
		stop = start(d)
		time.Sleep(10 * time.Second) // 27 s
		i := h.get("d")
		if i.Note != "two" || i.State != Paused || i.Changed || i.Trigger.Text() != d.Trigger.Text() {
			t.Errorf("declared anew it is %+v", i)
		}
		h.same("")
		h.must(h.s.Resume(ctx, "d", Now))
		time.Sleep(7 * time.Second)
		h.same("d@30s")
		h.must(h.s.Remove(ctx, "p")) // it is not declared any more
		stop()
		// A schedule of the same name that was added at run time is taken over.
		h.add(Entry{Name: "mine", Trigger: on("every 1h")})
		stop = start(Entry{Name: "mine", Kind: "note", Trigger: on("every 2h")})
		time.Sleep(time.Second)
		if i := h.get("mine"); i.Trigger.Text() != on("every 2h").Text() || !i.Declared {
			t.Errorf("taken over it is %+v", i)
		}
		stop()
		h.renew(Config{}, Entry{Name: "bad", Kind: "unknown", Trigger: on("every 1s")})
		code(t, h.s.Run(ctx), levee.CodeInvalid)
	})
}

func TestBadInput(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		good := Entry{Name: "x", Kind: "note", Trigger: on("every 10s")}
		for field, bad := range map[string][]func(e *Entry){
			"schedule.name": {func(e *Entry) { e.Name = "" }, func(e *Entry) { e.Name = "/" }, func(e *Entry) { e.Name = "a\nb" }, func(e *Entry) { e.Name = " a" },
				func(e *Entry) { e.Name = "\xff" }, func(e *Entry) { e.Name = strings.Repeat("n", 157) }},
			"schedule.kind":     {func(e *Entry) { e.Kind = "" }, func(e *Entry) { e.Kind = "unknown" }},
			"schedule.args":     {func(e *Entry) { e.Args = strings.Repeat("a", maxArgs) }, func(e *Entry) { e.Args = func() {} }},
			"schedule.grace":    {func(e *Entry) { e.Grace = -1 }, func(e *Entry) { e.Grace = maxGrace + 1 }},
			"schedule.coalesce": {func(e *Entry) { e.Coalesce = -1 }, func(e *Entry) { e.Coalesce = 3 }},
			"schedule.most":     {func(e *Entry) { e.Most = -1 }, func(e *Entry) { e.Most = 1001 }},
			"schedule.max_live": {func(e *Entry) { e.MaxLive = -2 }, func(e *Entry) { e.MaxLive = maxLive + 1 }},
			"schedule.note":     {func(e *Entry) { e.Note = strings.Repeat("n", 1001) }, func(e *Entry) { e.Note = "\xff" }},
			"schedule.trigger":  {func(e *Entry) { e.Trigger = on("at 1999-12-31T00:00:00Z") }, func(e *Entry) { *e = Entry{Name: "x", Kind: "note"} }},
		} {
			for i, spoil := range bad {
				e := good
				spoil(&e)
				_, err := h.s.Add(ctx, e, Fail)
				var le *levee.Error
				if !errors.As(err, &le) || le.Code != levee.CodeInvalid || len(le.Fields) != 1 || le.Fields[0].Field != field || le.Fields[0].Allowed == "" {
					t.Errorf("%s, number %d: %v", field, i, err)
				}
			}
		}
		good.Name = strings.Repeat("n", 156) // with the kind the longest that may be
		h.add(good)
		time.Sleep(11 * time.Second)
		stop := h.run()
		time.Sleep(time.Second)
		stop()
		if h.get(good.Name).Fired != 1 {
			t.Error("the longest name is not fired")
		}
		code(t, h.s.Modify(ctx, good.Name, func(e *Entry) error { e.Name = "y"; return nil }), levee.CodeInvalid)
		code(t, h.s.Modify(ctx, good.Name, func(e *Entry) error { e.MaxLive = -7; return nil }), levee.CodeInvalid)
		code(t, h.s.Reschedule(ctx, good.Name, on("at 1999-12-31T00:00:00Z")), levee.CodeInvalid)
		_, err := h.s.NextRuns(ctx, good.Name, 0)
		code(t, err, levee.CodeInvalid)
		_, _, err = h.s.List(ctx, Filter{Limit: 1001})
		code(t, err, levee.CodeInvalid)
		for _, c := range []Config{{Poll: -1}, {Poll: time.Hour}, {Max: -1}, {Keep: time.Second}} {
			_, err := Open(c, h.p.DB, h.s.jobs, h.p.Obs)
			code(t, err, levee.CodeInvalid)
		}
		h.renew(Config{Max: 3})
		h.add(Entry{Name: "2", Trigger: good.Trigger})
		h.add(Entry{Name: "3", Trigger: good.Trigger})
		_, err = h.s.Add(ctx, Entry{Name: "4", Kind: "note", Trigger: good.Trigger}, Fail)
		code(t, err, levee.CodeTooLarge)
	})
}

func TestList(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		for i := range 25 {
			h.add(Entry{Name: fmt.Sprintf("a%02d", i), Trigger: on("every 10s"), Paused: i%5 == 0})
		}
		h.add(Entry{Name: "b", Trigger: on("every 10s")})
		names := func(f Filter) (all []string) {
			for {
				page, after, err := h.s.List(ctx, f)
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range page {
					all = append(all, i.Name)
				}
				if f.After = after; after == "" {
					return all
				}
				if len(page) != f.Limit {
					t.Fatalf("a page of %d with a next one", len(page))
				}
			}
		}
		if got := names(Filter{Limit: 7}); len(got) != 26 || got[0] != "a00" || got[25] != "b" {
			t.Error(got)
		}
		if got := names(Filter{Limit: 25, Prefix: "a"}); len(got) != 25 {
			t.Error(got)
		}
		if got := names(Filter{Limit: 2, States: []State{Paused, Finished}}); !cmp.Equal(got, []string{"a00", "a05", "a10", "a15", "a20"}) {
			t.Error(got)
		}
	})
}

func TestExportImport(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		var empty bytes.Buffer
		h.must(h.s.Export(ctx, &empty))
		if empty.String() != "[]\n" {
			t.Errorf("none are %q", empty.String())
		}
		h.add(Entry{Name: "a", Trigger: on("cron 30 9 * * mon-fri in Europe/Berlin"), Grace: 90 * time.Second, Coalesce: All, Most: 3, MaxLive: Unlimited, Paused: true, Note: "„x“"})
		h.add(Entry{Name: "b", Kind: "other", Args: map[string]int{"N": 7}, Trigger: on("every 10s")})
		h.add(Entry{Name: "c", Trigger: on("at " + time.Now().Add(time.Second).UTC().Format(time.RFC3339))})
		stop := h.run()
		time.Sleep(2 * time.Second)
		stop() // c is finished
		var out, again bytes.Buffer
		h.must(h.s.Export(ctx, &out))
		for _, name := range []string{"a", "b"} {
			h.must(h.s.Remove(ctx, name))
		}
		if n, err := h.s.Import(ctx, bytes.NewReader(out.Bytes()), Fail); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		h.must(h.s.Export(ctx, &again))
		if diff := cmp.Diff(out.String(), again.String()); diff != "" {
			t.Error(diff)
		}
		if i := h.get("a"); i.State != Paused || i.Grace != 90*time.Second || i.Coalesce != All || i.Most != 3 || i.MaxLive != Unlimited || i.Note != "„x“" {
			t.Errorf("a is %+v", i)
		}
		_, err := h.s.Import(ctx, bytes.NewReader(out.Bytes()), Fail)
		code(t, err, levee.CodeConflict)
		if n, err := h.s.Import(ctx, bytes.NewReader(out.Bytes()), Replace); n != 0 || err != nil {
			t.Error(n, err)
		}
		for text, want := range map[string]levee.Code{
			"":                        levee.CodeMalformed,
			"{}":                      levee.CodeMalformed,
			`[{"name":"z"`:            levee.CodeMalformed,
			`[{"name":"z","typo":1}]`: levee.CodeMalformed,
			`[{"name":"z","kind":"note","trigger":"every now"}]`:                                                                 levee.CodeInvalid,
			`[{"name":"z","kind":"note","trigger":"every 10s","grace":"x"}]`:                                                     levee.CodeInvalid,
			`[{"name":"z","kind":"note","trigger":"every 10s","coalesce":"x"}]`:                                                  levee.CodeInvalid,
			`[{"name":"z","kind":"note","trigger":"every 10s"},{"name":"zz","kind":"note","trigger":"at 1999-12-31T00:00:00Z"}]`: levee.CodeInvalid,
			`[{"name":"z","kind":"note","trigger":"every 10s"},{"name":"a","kind":"note","trigger":"every 10s"}`:                 levee.CodeMalformed,
		} {
			n, err := h.s.Import(ctx, strings.NewReader(text), Keep)
			if levee.CodeOf(err) != want || n != 0 {
				t.Errorf("%s: %d, %v", text, n, err)
			}
		}
		if _, err := h.s.Get(ctx, "z"); err == nil {
			t.Error("an import that was refused has added something")
		}
	})
}

// Schedules that cannot be fired here harm no other one, and are fired once they can.
func TestStuck(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		for i := range 40 {
			h.add(Entry{Name: fmt.Sprint("gone", i), Kind: "other", Trigger: on("every 5s")})
			h.add(Entry{Name: fmt.Sprint("args", i), Kind: "note", Args: "no firing", Trigger: on("every 5s")})
			h.add(Entry{Name: fmt.Sprint("text", i), Trigger: on("every 5s")})
		}
		h.exec(`UPDATE schedule_entry SET kind = 'gone' WHERE kind = 'other'`)
		h.exec(`UPDATE schedule_entry SET trigger_text = 'whenever' WHERE name LIKE 'text%'`)
		h.add(Entry{Name: "x", Trigger: on("every 10s")})
		stop := h.run()
		time.Sleep(21 * time.Second)
		h.n.mu.Lock()
		got := strings.Join(h.n.all, " ")
		h.n.mu.Unlock()
		if !strings.HasSuffix(got, "x@20s") {
			t.Errorf("beside schedules that cannot be fired: %s", got)
		}
		if got := metric(t, h.s.m.stuck); got < 80 {
			t.Errorf("%v are counted as stuck", got)
		}
		if i := h.get("text1"); i.Fault == "" || i.State != Active {
			t.Errorf("text1 is %+v", i)
		}
		if i := h.get("gone1"); i.Fault == "" {
			t.Errorf("gone1 is %+v", i)
		}
		h.n.take()
		h.must(h.s.Modify(ctx, "gone1", func(e *Entry) error { e.Kind = "note"; return nil }))
		h.must(h.s.Reschedule(ctx, "text1", on("every 5s")))
		time.Sleep(9500 * time.Millisecond)
		h.same("gone1@20s+1s gone1@25s text1@25s gone1@30s text1@30s x@30s")
		stop()
	})
}

func (h *house) exec(query string) {
	h.t.Helper()
	h.must(h.p.DB.Tx(context.Background(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query)
		return err
	}))
}

// A day of each kind in Berlin: the trigger decides, and what it says is what is fired.
func TestDaylightSaving(t *testing.T) {
	for _, day := range []string{"2000-03-26", "2000-10-29"} {
		t.Run(day, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				midnight, err := time.Parse(time.DateOnly, day)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(midnight.Add(-time.Hour)))
				h := open(t, Config{Poll: time.Minute})
				trigger := on("cron 30 * * * * in Europe/Berlin")
				h.add(Entry{Name: "x", Trigger: trigger})
				runs, err := h.s.NextRuns(t.Context(), "x", 6)
				h.must(err)
				stop := h.run()
				time.Sleep(6 * time.Hour)
				stop()
				want := []string{}
				for _, at := range runs {
					want = append(want, fmt.Sprintf("x@%vs", at.Sub(h.began).Seconds()))
				}
				h.same(strings.Join(want, " "))
				if len(runs) != 6 || h.get("x").Fired != 6 {
					t.Errorf("%d firings were foretold, %d came", len(runs), h.get("x").Fired)
				}
			})
		})
	}
}
