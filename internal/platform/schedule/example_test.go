package schedule_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/schedule"
	"levee/internal/platform/when"
)

// house is what app opens: a database, jobs of two kinds, and schedules.
type house struct {
	jobs      *job.Jobs
	schedules *schedule.Schedules
	reports   chan schedule.Firing
	dir       string
}

func open() *house {
	h := &house{reports: make(chan schedule.Firing, 100)}
	ctx, o := context.Background(), &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	h.dir, err = os.MkdirTemp("", "levee-schedule-")
	must(err)
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(h.dir, "levee.db")}, o)
	must(err)
	_, err = d.Migrate(ctx, []db.Schema{job.Schema(), schedule.Schema()})
	must(err)
	ids, err := id.Open(ctx, id.Config{Dir: h.dir}, o)
	must(err)
	h.jobs = job.Open(d, ids, o)
	must(h.jobs.Register(
		// Without arguments of its own a schedule gives each job the time that it is for.
		job.Define("report", job.Options{}, func(ctx context.Context, f schedule.Firing) error { h.reports <- f; return nil }),
		job.Define("mail", job.Options{}, func(ctx context.Context, to struct{ Address string }) error { return nil })))
	h.schedules, err = schedule.Open(schedule.Config{}, d, h.jobs, o)
	must(err)
	return h
}

// run runs jobs and schedules until the function that it returns is called.
func (h *house) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.jobs.Run(ctx) })
	wg.Go(func() { _ = h.schedules.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

// A schedule that is added at run time fires on whichever node is there.
func Example() {
	h := open()
	defer os.RemoveAll(h.dir)
	defer h.run()()
	_, err := h.schedules.Add(context.Background(), schedule.Entry{Name: "often", Kind: "report", Trigger: when.Must(when.Parse("every 100ms"))}, schedule.Fail)
	fmt.Println(err)
	first, second := <-h.reports, <-h.reports
	fmt.Println(first.Schedule, second.At.After(first.At))
	// Output:
	// <nil>
	// often true
}

// What the program itself brings is declared before Run; an operator may change it at run time.
func ExampleSchedules_Declare() {
	h := open()
	defer os.RemoveAll(h.dir)
	err := h.schedules.Declare(schedule.Entry{
		Name: "nightly report", Kind: "report", Trigger: when.Must(when.Parse("cron 30 2 * * * in Europe/Berlin")),
		Grace:   6 * time.Hour, // by morning it is of no use any more
		MaxLive: 1,
	})
	fmt.Println(err)
	// Output: <nil>
}

// All that an operator does, by name.
func ExampleSchedules_Modify() {
	h := open()
	defer os.RemoveAll(h.dir)
	ctx, s := context.Background(), h.schedules
	_, err := s.Add(ctx, schedule.Entry{Name: "digest", Kind: "mail", Args: map[string]string{"Address": "a@example.org"},
		Trigger: when.Must(when.Parse("cron 0 9 * * mon-fri in Asia/Shanghai")), Coalesce: schedule.Earliest}, schedule.Fail)
	fmt.Println(err)
	fmt.Println(s.Pause(ctx, "digest"))
	fmt.Println(s.Modify(ctx, "digest", func(e *schedule.Entry) error { e.Grace = time.Hour; return nil }))
	fmt.Println(s.Reschedule(ctx, "digest", when.Must(when.Parse("at 2030-01-01T09:00:00Z"))))
	fmt.Println(s.Resume(ctx, "digest", schedule.Now))
	runs, err := s.NextRuns(ctx, "digest", 3)
	fmt.Println(runs, err)
	i, err := s.Get(ctx, "digest")
	fmt.Println(i.State, i.Grace, i.Fired, err)
	job, err := s.Trigger(ctx, "digest") // now, besides
	fmt.Println(job != 0, err)
	fmt.Println(s.Remove(ctx, "digest"))
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// <nil>
	// <nil>
	// [2030-01-01 09:00:00 +0000 UTC] <nil>
	// active 1h0m0s 0 <nil>
	// true <nil>
	// <nil>
}

// A list comes in pages, in the order of names.
func ExampleSchedules_List() {
	h := open()
	defer os.RemoveAll(h.dir)
	ctx, s := context.Background(), h.schedules
	for _, name := range []string{"a", "b", "c"} {
		_, _ = s.Add(ctx, schedule.Entry{Name: name, Kind: "report", Trigger: when.Must(when.Parse("every 1h")), Paused: name == "b"}, schedule.Keep)
	}
	for f := (schedule.Filter{Limit: 2}); ; {
		page, after, err := s.List(ctx, f)
		for _, i := range page {
			fmt.Println(i.Name, i.State, err)
		}
		if f.After = after; after == "" {
			break
		}
	}
	// Output:
	// a active <nil>
	// b paused <nil>
	// c active <nil>
}

// Schedules go from one house to another as JSON.
func ExampleSchedules_Export() {
	h, other := open(), open()
	defer os.RemoveAll(h.dir)
	defer os.RemoveAll(other.dir)
	ctx := context.Background()
	_, _ = h.schedules.Add(ctx, schedule.Entry{Name: "a", Kind: "report", Trigger: when.Must(when.Parse("every 1h"))}, schedule.Fail)
	var text bytes.Buffer
	fmt.Println(h.schedules.Export(ctx, &text))
	fmt.Print(text.String())
	fmt.Println(other.schedules.Import(ctx, &text, schedule.Replace))
	// Output:
	// <nil>
	// [
	// {"name":"a","kind":"report","args":null,"trigger":"every 1h","coalesce":"latest","most":10,"max_live":1}
	// ]
	// 1 <nil>
}
