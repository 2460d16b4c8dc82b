package job

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
		many := make([]args, min(1000, n-done))
		for i := range many {
			many[i].N = done + i
		}
		if _, err := k.EnqueueMany(b.Context(), many, at...); err != nil {
			b.Fatal(err)
		}
		done += len(many)
	}
}

// BenchmarkEndToEnd enqueues, claims, runs and completes jobs that do nothing, durably: by 64 callers who each wait for their commit, and
// by one who adds a hundred or a thousand per transaction.
func BenchmarkEndToEnd(b *testing.B) {
	for _, each := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint("by ", each), func(b *testing.B) {
			h := openDir(b, b.TempDir(), quiet(b))
			over := make(chan struct{})
			var done atomic.Int64
			k := Define("nothing", Options{}, func(context.Context, args) error {
				if done.Add(1) == int64(b.N) {
					close(over)
				}
				return nil
			})
			j := h.jobs(Config{}, k)
			stop := h.run(j)
			b.ResetTimer()
			var next atomic.Int64
			var wg sync.WaitGroup
			callers := 64
			if each > 1 {
				callers = 2
			}
			for range callers {
				wg.Go(func() {
					for {
						from := next.Add(int64(each)) - int64(each)
						n := min(int64(each), int64(b.N)-from)
						var err error
						switch {
						case n <= 0:
							return
						case each == 1:
							_, err = k.Enqueue(context.Background(), args{int(from)})
						default:
							_, err = k.EnqueueMany(context.Background(), make([]args, n))
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			<-over
			for h.count(`SELECT COUNT(*) FROM job_task`) > 0 {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			stop()
		})
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

// BenchmarkIdle is one job on an idle house: from the call that enqueues it until it runs. The next one comes when this one's end is written.
func BenchmarkIdle(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	runs := make(chan time.Time, 1)
	k := Define("note", Options{}, func(context.Context, args) error { runs <- time.Now(); return nil })
	stop := h.run(h.jobs(Config{}, k))
	defer stop()
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := k.Enqueue(b.Context(), args{}); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-runs).Sub(began))
		for h.count(`SELECT COUNT(*) FROM job_task`) > 0 {
			runtime.Gosched()
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// future makes a house with a million jobs of tomorrow and the next days.
func future(b *testing.B, n int) (*house, *Jobs, *Kind[args], time.Duration) {
	h := openDir(b, b.TempDir(), quiet(b))
	k := Define("nothing", Options{}, func(context.Context, args) error { return nil })
	j := h.jobs(Config{}, k)
	began := time.Now()
	for done := 0; done < n; done += 1000 {
		many := make([]args, 1000)
		if _, err := k.EnqueueMany(b.Context(), many, After(24*time.Hour+time.Duration(done)*time.Millisecond)); err != nil {
			b.Fatal(err)
		}
	}
	return h, j, k, time.Since(began)
}

// BenchmarkFuture inserts a million jobs of later, a thousand to a transaction.
func BenchmarkFuture(b *testing.B) {
	for b.Loop() {
		_, _, _, took := future(b, 1_000_000)
		b.ReportMetric(1e6/took.Seconds(), "jobs/s")
	}
}

// BenchmarkEmptyPoll is the look for due jobs beside a million of later.
func BenchmarkEmptyPoll(b *testing.B) {
	_, j, _, _ := future(b, 1_000_000)
	if err := j.prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, _, later, err := j.look(b.Context(), j.lanes["default"], 1, group{}, j.clock()); err != nil || !later {
			b.Fatal(later, err)
		}
	}
}
