package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
)

// A job is enqueued in the transaction that makes it necessary, and completes in the one that has its effect.
func Example() {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	ctx, o := context.Background(), &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now}
	dir, err := os.MkdirTemp("", "levee-job-")
	must(err)
	defer os.RemoveAll(dir)
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, o)
	must(err)
	defer d.Close()
	_, err = d.Migrate(ctx, []db.Schema{job.Schema()})
	must(err)
	ids, err := id.Open(ctx, id.Config{Dir: dir}, o)
	must(err)
	defer ids.Close()

	type receipt struct{ Order int }
	jobs := job.Open(d, ids, o)
	send := job.Define("receipt.send", job.Options{MaxAttempts: 3, Keep: time.Hour, Backoff: func(int) time.Duration { return 0 }},
		func(ctx context.Context, r receipt) error {
			if n, of := job.Attempt(ctx); n < 2 {
				return fmt.Errorf("the post is closed (attempt %d of %d)", n, of)
			}
			if err := job.SetResult(ctx, "sent"); err != nil {
				return err
			}
			return d.Tx(ctx, "receipt", func(ctx context.Context, tx *db.Tx) error {
				// What it does to the database goes here, through tx.
				return job.DoneTx(ctx, tx)
			})
		})
	must(jobs.Register(send))

	var number, needless int64
	must(d.Tx(ctx, "order", func(ctx context.Context, tx *db.Tx) (err error) {
		if number, err = send.EnqueueTx(ctx, tx, receipt{7}, job.Unique("order/7")); err != nil {
			return err
		}
		needless, err = send.EnqueueTx(ctx, tx, receipt{8}, job.Unique("order/8"), job.After(time.Hour))
		return err
	}))
	must(jobs.Cancel(ctx, needless))
	must(jobs.Drain(ctx)) // a house calls Run

	info, err := jobs.Job(ctx, number)
	must(err)
	fmt.Println(info.State, info.Attempts, string(info.Result), info.Failures[0].Error)
	info, err = jobs.Job(ctx, needless)
	must(err)
	fmt.Println(info.State)
	err = d.Tx(ctx, "undone", func(ctx context.Context, tx *db.Tx) error {
		if _, err := send.EnqueueTx(ctx, tx, receipt{9}); err != nil {
			return err
		}
		return errors.New("the order was refused") // and so there is no job
	})
	stats, _ := jobs.Stats(ctx)
	fmt.Println(err, stats.Due)
	// Output:
	// done 2 "sent" the post is closed (attempt 1 of 3)
	// cancelled
	// the order was refused 0
}
