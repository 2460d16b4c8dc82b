package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/when"
)

// effects is the schema of what the tests' jobs write.
var effects = db.Schema{Owner: "test", FS: fstest.MapFS{"schema/0001_effect.sql": {
	Data: []byte(`CREATE TABLE effect (what VARCHAR(190) NOT NULL, fired_at BIGINT NOT NULL);`)}}}

// on makes a trigger of its text.
func on(text string) when.Trigger { return when.Must(when.Parse(text)) }

// notes collects what jobs did.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, fmt.Sprintf(format, args...))
}

// take returns and forgets the notes in order.
func (n *notes) take() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.all
	n.all = nil
	slices.Sort(all)
	return strings.Join(all, " ")
}

// lines are the warnings of a house's log.
type lines struct {
	slog.Handler
	n *notes
}

func (l lines) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		l.n.add("%s", r.Message)
	}
	return l.Handler.Handle(ctx, r)
}

func (l lines) WithAttrs(as []slog.Attr) slog.Handler { return lines{l.Handler.WithAttrs(as), l.n} }

// house is one process over a database of its own. In a bubble its clock is the bubble's on either engine.
type house struct {
	t     testing.TB
	p     *platformtest.Platform
	began time.Time
	n     notes
	warns notes         // what was logged as a warning or worse
	took  time.Duration // a job's run
	s     *Schedules
	stops []func()
}

// open opens a house whose kind "note" notes the seconds after the beginning that a firing was for and, when they differ, at which it ran.
func open(t testing.TB, c Config) *house {
	t.Helper()
	h := &house{t: t, p: platformtest.New(t, Schema(), effects), began: time.Now()}
	h.renew(c)
	return h
}

// renew makes other Jobs and Schedules, as a process does that starts again.
func (h *house) renew(c Config, es ...Entry) *Schedules {
	h.t.Helper()
	jobs := job.Open(h.p.DB, h.p.IDs, h.p.Obs)
	err := jobs.Configure(job.Config{Poll: c.Poll})
	if err == nil {
		err = jobs.Register(h.kind("note"), job.Define("other", job.Options{}, func(context.Context, struct{ N int }) error { return nil }))
	}
	if err == nil {
		c.OwnClock = true
		h.s, err = Open(c, h.p.DB, jobs, &obs.Obs{Log: slog.New(lines{h.p.Obs.Log.Handler(), &h.warns}), Metrics: prometheus.NewRegistry(), Clock: h.p.Obs.Clock})
	}
	if err == nil {
		err = h.s.Declare(es...)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return h.s
}

func (h *house) kind(name string) *job.Kind[Firing] {
	return job.Define(name, job.Options{}, func(ctx context.Context, f Firing) error {
		at, ran := f.At.Sub(h.began), time.Since(h.began)
		if late := (ran - at).Round(10 * time.Millisecond); late == 0 {
			h.n.add("%s@%vs", f.Schedule, at.Seconds())
		} else {
			h.n.add("%s@%vs+%vs", f.Schedule, at.Seconds(), late.Seconds())
		}
		time.Sleep(h.took)
		return nil
	})
}

// run runs the house until the function that it returns is called.
func (h *house) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s, jobs := h.s, h.s.jobs
	for _, run := range []func(context.Context) error{s.Run, jobs.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				h.t.Errorf("Run: %v", err)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func (h *house) add(e Entry) {
	h.t.Helper()
	if e.Kind == "" {
		e.Kind = "note"
	}
	if _, err := h.s.Add(h.t.Context(), e, Fail); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) get(name string) Info {
	h.t.Helper()
	i, err := h.s.Get(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// same compares the notes, by order of their texts.
func (h *house) same(want string) {
	h.t.Helper()
	w := strings.Fields(want)
	slices.Sort(w)
	if got := h.n.take(); got != strings.Join(w, " ") {
		h.t.Errorf("jobs:\n got %s\nwant %s", got, strings.Join(w, " "))
	}
}

// code checks an error's code.
func code(t testing.TB, err error, want levee.Code) {
	t.Helper()
	if got := levee.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func metric(t testing.TB, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return float64(m.Histogram.GetSampleCount())
}
