package db

import (
	"context"
	"fmt"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"sort"
	"sync"
	"testing"
	"time"
)

func hist(h prometheus.Histogram) string {
	var m dto.Metric
	h.Write(&m)
	s := fmt.Sprintf("n=%d sum=%.3fs ", m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum())
	prev := uint64(0)
	for _, b := range m.Histogram.Bucket {
		if b.GetCumulativeCount() > prev {
			s += fmt.Sprintf("<%.4g:%d ", b.GetUpperBound(), b.GetCumulativeCount()-prev)
			prev = b.GetCumulativeCount()
		}
	}
	return s
}
func BenchmarkDbg(b *testing.B) {
	for _, n := range []int{64, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := openBench(b)
			var mu sync.Mutex
			var all []time.Duration
			callers(b, n, func(i int64) error {
				t := time.Now()
				err := d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
					_, err := tx.Exec(ctx, benchInsert, i, i, i, benchText)
					return err
				})
				dt := time.Since(t)
				mu.Lock()
				all = append(all, dt)
				mu.Unlock()
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
			if b.N < 1000 {
				return
			}
			fmt.Println("\np50", all[len(all)/2], "p99", all[len(all)*99/100], "p999", all[len(all)*999/1000], "max", all[len(all)-1])
			s := d.Stats()
			fmt.Println(s.WALBytes>>20, "MiB wal", s.FileBytes>>20, "MiB")
			fmt.Println("commit", hist(d.metrics.commitSeconds))
			fmt.Println("ckpt", hist(d.metrics.checkpoint))
			fmt.Println("pause", hist(d.metrics.pause))
			fmt.Println("members", hist(d.metrics.members))
		})
	}
}
