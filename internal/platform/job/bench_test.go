package job

import (
	"context"
	"io"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

func quiet(b *testing.B) *obs.Obs {
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	return o
}

// fill enqueues n jobs in few transactions.
func fill(b *testing.B, h *house, k *Kind[args], n int, at ...Option) {
	for done := 0; done < n; {
		err := h.db.Tx(b.Context(), "fill", func(ctx context.Context, tx *db.Tx) error {
			for i := 0; done < n && i < 500; i++ {
				if _, err := k.EnqueueTx(ctx, tx, args{done}, at...); err != nil {
					return err
				}
				done++
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRun claims, runs and completes jobs that do nothing, beside 20 000 jobs of tomorrow.
func BenchmarkRun(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	k := Define("nothing", Options{}, func(context.Context, args) error { return nil })
	j := h.jobs(Config{}, k)
	fill(b, h, k, 20_000, After(24*time.Hour))
	fill(b, h, k, b.N)
	b.ResetTimer()
	h.drain(j)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkEnqueue adds jobs, 500 to a transaction.
func BenchmarkEnqueue(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	k := Define("nothing", Options{}, func(context.Context, args) error { return nil })
	h.jobs(Config{}, k)
	b.ResetTimer()
	fill(b, h, k, b.N, After(24*time.Hour))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkIdle is one job on an idle house: from the call that enqueues it until it runs.
func BenchmarkIdle(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	runs := make(chan struct{}, 1)
	k := Define("note", Options{}, func(context.Context, args) error { runs <- struct{}{}; return nil })
	stop := h.run(h.jobs(Config{}, k))
	defer stop()
	for b.Loop() {
		if _, err := k.Enqueue(b.Context(), args{}); err != nil {
			b.Fatal(err)
		}
		<-runs
	}
}

// BenchmarkLook is the look for due jobs beside 20 000 jobs of tomorrow.
func BenchmarkLook(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	k := Define("nothing", Options{}, func(context.Context, args) error { return nil })
	j := h.jobs(Config{}, k)
	fill(b, h, k, 20_000, After(24*time.Hour))
	for b.Loop() {
		if _, _, err := j.nextDue(b.Context(), "default"); err != nil {
			b.Fatal(err)
		}
	}
}
