package job

import (
	"context"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"levee/internal/platform/db"
)

// BenchmarkBesideHistory runs jobs whose kind keeps them, in an empty house and then beside ten million that are over (LEVEE_BENCH_HISTORY), half of which
// have served their time; and takes those away in the steps that a house takes.
func BenchmarkBesideHistory(b *testing.B) {
	rows := 10_000_000
	if text := os.Getenv("LEVEE_BENCH_HISTORY"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	h := openDir(b, b.TempDir(), quiet(b))
	kind := func() *Kind[args] {
		return Define("kept", Options{Keep: 7 * 24 * time.Hour}, func(context.Context, args) error { return nil })
	}
	run := func(name string) {
		k := kind()
		j := h.jobs(Config{}, k)
		fill(b, h, k, b.N)
		began := time.Now()
		h.drain(j)
		b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), name)
	}
	b.ResetTimer()
	run("jobs/s-without")
	now := time.Now()
	for made := 0; made < rows; {
		step := min(100_000, rows-made)
		if err := h.db.Tx(b.Context(), "bench.history", func(ctx context.Context, tx *db.Tx) error {
			for at := made; at < made+step; at += 1000 {
				list := make([][]any, 1000)
				for i := range list {
					until := now.Add(time.Duration(at+i-rows/2) * 50 * time.Millisecond).UnixMicro()
					list[i] = []any{int64(at + i + 1), "kept", "default", `{"N":0}`, nil, outcomeDone, 1, "a", nil, nil, until, until, until}
				}
				if err := tx.InsertRows(ctx, "job_done", doneColumns, list); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		made += step
	}
	run("jobs/s-beside")
	j := h.jobs(Config{}, kind())
	var took []time.Duration
	for range 500 {
		began := time.Now()
		if n, err := j.forgetSome(b.Context()); err != nil || n != keepStep {
			b.Fatal(n, err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "step-p50-µs")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "step-max-µs")
}
