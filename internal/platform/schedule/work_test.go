package schedule

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/job"
)

// noted is work that notes the second in which it runs, and then does something.
func (h *house) noted(name string, every time.Duration, o job.Options, then func() error) Work {
	return Every(name, every, o, func(context.Context) error {
		h.n.add("%v", time.Since(h.began).Truncate(time.Millisecond))
		return then()
	})
}

func nothing() error { return nil }

// begin is the start of a process that brings work.
func (h *house) begin(ws ...Work) (stop func()) {
	h.t.Helper()
	h.must(h.renew(Config{}).Register(ws...))
	return h.run()
}

// Work runs once per interval at its end; after a standstill over several there is one run, then it is in step again.
func TestWork(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) { // begins at a full hour
		stop := h.begin(h.noted("tick", 10*time.Second, job.Options{}, nothing))
		time.Sleep(35 * time.Second)
		stop()
		h.same("10s 20s 30s")
		time.Sleep(60 * time.Second)
		stop = h.begin(h.noted("tick", 10*time.Second, job.Options{}, nothing))
		time.Sleep(20 * time.Second)
		stop()
		h.same("1m35s 1m40s 1m50s")
		if got := h.warns.take(); got != "" {
			t.Errorf("a standstill is no fault of work that makes up for it: %s", got)
		}
		stop = h.begin(h.noted("tick", 15*time.Second, job.Options{}, nothing)) // a new version does it less often
		time.Sleep(25 * time.Second)                                            // from 115 s to 140 s
		stop()
		h.same("2m0s 2m15s")
	})
}

// A run never overlaps the one before, on this node or another, even when it takes longer than its interval and a lease.
func TestWorkNeverOverlaps(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		running, ran := 0, 0
		slow := func() Work {
			return Every("slow", time.Second, job.Options{}, func(context.Context) error {
				if running++; running > 1 {
					t.Error("two at once")
				}
				ran++
				time.Sleep(40 * time.Second)
				running--
				return nil
			})
		}
		stop1 := h.begin(slow())
		stop2 := h.begin(slow())
		time.Sleep(5 * time.Minute)
		stop1()
		stop2()
		if ran < 6 || ran > 8 {
			t.Errorf("%d runs of 40 s in 5 minutes", ran)
		}
		if got := h.warns.take(); got != "" {
			t.Errorf("to be busy is no fault: %s", got)
		}
	})
}

// A run that fails is tried again after the backoff, at the latest with the next firing, for as long as it takes. It is never dead.
func TestWorkFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		backoff time.Duration
		fails   int
		want    string
	}{
		{"soon", 4 * time.Second, 3, "10s 14s 18s 20s 30s"},
		{"late", time.Hour, 12, "10s 20s 30s 40s 50s 1m0s 1m10s 1m20s 1m30s 1m40s 1m50s 2m0s 2m10s 2m20s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				left := c.fails
				bad := h.noted("bad", 10*time.Second, job.Options{Backoff: func(int) time.Duration { return c.backoff }}, func() error {
					if left--; left >= 0 {
						return errors.New("no")
					}
					return nil
				})
				stop := h.begin(bad)
				time.Sleep(35 * time.Second)
				if c.fails > 3 {
					time.Sleep(110 * time.Second)
				}
				stop()
				h.same(c.want)
				stats, err := h.s.jobs.Stats(t.Context())
				if err != nil || stats.Dead+stats.Due+stats.Later+stats.Running != 0 {
					t.Errorf("%+v %v", stats, err)
				}
			})
		})
	}
}

// A node of the version before does not know the kind, and puts off for a minute what it claims. The next firing brings it back. The
// control is a schedule that is not work.
func TestWorkIsNotPutOff(t *testing.T) {
	for _, c := range []struct{ kind, want string }{{"tick", "20s 30s"}, {"note", "plain@10s+61s"}} {
		t.Run(c.kind, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *house) {
				h.must(h.renew(Config{}).Register(h.noted("tick", 10*time.Second, job.Options{}, nothing)))
				if c.kind == "note" {
					h.add(Entry{Name: "plain", Trigger: on("every 10s")})
					h.must(h.s.writeDeclared(t.Context()))
					h.must(h.s.Pause(t.Context(), "tick"))
				}
				us := h.s
				run := func(f func(context.Context) error) func() {
					ctx, cancel := context.WithCancel(context.Background())
					done := make(chan error, 1)
					go func() { done <- f(ctx) }()
					return func() { cancel(); h.must(<-done) }
				}
				defer run(us.Run)()
				time.Sleep(9 * time.Second)
				stop := run(job.Open(h.p.DB, h.p.IDs, h.p.Obs).Run)
				time.Sleep(3 * time.Second)
				stop()
				defer run(us.jobs.Run)()
				time.Sleep(23 * time.Second) // to 35 s
				if c.kind == "note" {
					h.same("")
					time.Sleep(36*time.Second + 500*time.Millisecond) // to 71.5 s
				}
				got := h.n.take()
				if c.kind == "tick" && got != c.want || c.kind == "note" && got != c.want && got != "plain@10s+60s" {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

// While there is nothing to do, work gives no job, and all that is done each second costs one commit a second. The control is the same
// work without the question.
func TestWorkIdle(t *testing.T) {
	idle := func(t *testing.T, ask bool) (commits int64) {
		bubble(t, func(t *testing.T, h *house) {
			var some, fault atomic.Bool
			var ws []Work
			for _, name := range []string{"a", "b", "c", "d"} {
				w := h.noted(name, time.Second, job.Options{}, nothing)
				if ask {
					w = w.If(func(context.Context) (bool, error) {
						if fault.Load() {
							return false, errors.New("away")
						}
						return some.Load(), nil
					})
				}
				ws = append(ws, w)
			}
			defer h.begin(ws...)()
			time.Sleep(10*time.Second + time.Second/2)
			h.n.take()
			before := h.p.DB.Stats().Commits
			time.Sleep(time.Minute)
			commits = h.p.DB.Stats().Commits - before
			if !ask {
				return
			}
			h.same("")
			if i := h.get("a"); i.Fired+i.Busy+i.Merged+i.Late != 0 || !i.Last.IsZero() || i.Next != h.began.Add(71*time.Second).UTC() {
				t.Errorf("idle it is %+v", i)
			}
			some.Store(true)
			time.Sleep(time.Second)
			h.same("1m11s 1m11s 1m11s 1m11s")
			if i := h.get("a"); i.Fired != 1 {
				t.Errorf("it is %+v", i)
			}
			some.Store(false)
			fault.Store(true)
			time.Sleep(time.Second)
			h.same("1m12s 1m12s 1m12s 1m12s")
			fault.Store(false)
			if _, err := h.s.Trigger(t.Context(), "b"); err != nil { // an operator is not asked whether there is anything to do
				t.Error(err)
			}
			time.Sleep(400 * time.Millisecond)
			h.same("1m12.5s")
		})
		return commits
	}
	asked, control := idle(t, true), idle(t, false)
	t.Logf("%d commits in an idle minute, %d without the question", asked, control)
	if asked > 60 || control < 180 {
		t.Errorf("%d commits in an idle minute, %d without the question", asked, control)
	}
}

func TestWorkRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *house) {
		fn := func(context.Context) error { return nil }
		h.must(h.s.Register(Every("taken", time.Hour, job.Options{}, fn)))
		for name, w := range map[string]Work{
			"taken": Every("taken", time.Hour, job.Options{}, fn), "taken by a kind": Every("note", time.Hour, job.Options{}, fn),
			"no interval": Every("x", 0, job.Options{}, fn), "no function": Every("y", time.Hour, job.Options{}, nil), "zero": {},
			"no name": Every("", time.Hour, job.Options{}, fn), "attempts": Every("z", time.Hour, job.Options{MaxAttempts: 1001}, fn),
		} {
			if err := h.s.Register(w); levee.CodeOf(err) != levee.CodeInvalid {
				t.Errorf("%s: got %v, want invalid", name, err)
			}
		}
	})
}
