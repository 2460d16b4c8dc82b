package flow_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/db"
	"levee/internal/platform/flow"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
)

// house is what app opens: a database, jobs and flows.
type house struct {
	db    *db.DB
	jobs  *job.Jobs
	flows *flow.Flows
	close func()
}

func open() *house {
	h := &house{}
	ctx, o := context.Background(), &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "levee-flow-")
	must(err)
	h.db, err = db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, o)
	must(err)
	_, err = h.db.Migrate(ctx, []db.Schema{job.Schema(), flow.Schema()})
	must(err)
	ids, err := id.Open(ctx, id.Config{Dir: dir}, o)
	must(err)
	h.jobs = job.Open(h.db, ids, o)
	h.flows, err = flow.Open(flow.Config{}, h.db, ids, h.jobs, o)
	must(err)
	h.close = func() { _, _, _ = ids.Close(), h.db.Close(), os.RemoveAll(dir) }
	return h
}

// A report is made of parts that are counted at the same time; what puts them together runs once, when all are done.
func ExampleChain() {
	h := open()
	defer h.close()
	count := job.Define("count", job.Options{}, func(ctx context.Context, text string) error {
		return job.SetResult(ctx, len(strings.Fields(text)))
	})
	sum := job.Define("sum", job.Options{}, func(ctx context.Context, title string) error {
		counts, err := flow.Results[int](ctx) // of the group, in its order
		if err != nil {
			return err
		}
		return job.SetResult(ctx, fmt.Sprint(title, ": ", counts))
	})
	show := job.Define("show", job.Options{}, func(ctx context.Context, _ struct{}) error {
		text, err := flow.Before[string](ctx) // of the step before
		fmt.Println(text)
		return err
	})
	if err := h.jobs.Register(count, sum, show); err != nil {
		panic(err)
	}
	ctx := context.Background()
	var id int64
	err := h.db.Tx(ctx, "report", func(ctx context.Context, tx *db.Tx) (err error) { // with what the report is about
		id, err = h.flows.StartTx(ctx, tx, "weekly report", flow.Chain(
			flow.Group(flow.Step(count, "one two three"), flow.Step(count, "four"), flow.Step(count, "five six")),
			flow.Step(sum, "words"),
			flow.Step(show, struct{}{})))
		return err
	})
	if err != nil {
		panic(err)
	}
	if err := h.jobs.Drain(ctx); err != nil { // app runs them
		panic(err)
	}
	info, err := h.flows.Get(ctx, id)
	fmt.Println(info.State, info.By, err)
	// Output:
	// words: [3 1 2]
	// done map[done:5] <nil>
}

// Whatever becomes of the mails, the campaign is closed, and knows which of them failed.
func ExamplePart_Regardless() {
	h := open()
	defer h.close()
	mail := job.Define("mail", job.Options{}, func(ctx context.Context, to string) error {
		if to == "nobody" {
			return job.Discard(fmt.Errorf("no such address"))
		}
		return nil
	})
	over := job.Define("close", job.Options{}, func(ctx context.Context, _ struct{}) error {
		return flow.Each(ctx, func(o flow.Outcome) error {
			fmt.Printf("%d %s %q\n", o.Step, o.State, o.Error)
			return nil
		})
	})
	if err := h.jobs.Register(mail, over); err != nil {
		panic(err)
	}
	ctx := context.Background()
	var mails []flow.Part
	for _, to := range []string{"ann", "nobody", "eve"} {
		mails = append(mails, flow.Step(mail, to))
	}
	if _, err := h.flows.Start(ctx, "campaign", flow.Chain(flow.Group(mails...).Regardless(), flow.Step(over, struct{}{}))); err != nil {
		panic(err)
	}
	if err := h.jobs.Drain(ctx); err != nil {
		panic(err)
	}
	// Output:
	// 1 done ""
	// 2 failed "no such address"
	// 3 done ""
}
