package push

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkPublishShared is the cost of a frame through Redis, from Publish until both of two nodes have passed it on.
func BenchmarkPublishShared(b *testing.B) {
	name := newName()
	x, y := openNode(b, Config{}, connect(b, sharedRedis(b), name)), openNode(b, Config{}, connect(b, sharedRedis(b), name))
	defer func() { _, _ = x.Close(context.Background()), y.Close(context.Background()) }()
	data := []byte(`{"sale":"sal_01","free":1234,"at":"2026-01-01T12:00:00Z"}`)
	for _, publishers := range []int{1, 64} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			b.SetParallelism((publishers + 1) / 2)
			begin := x.head().offset
			var topics atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				topic := fmt.Sprint("sale:", topics.Add(1))
				for pb.Next() {
					x.Publish(topic, "numbers", data)
				}
			})
			for x.head().offset < begin+int64(b.N) || y.head().offset < begin+int64(b.N) {
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	b.Run("latency", func(b *testing.B) {
		var times []time.Duration
		for range b.N {
			want := y.head().offset + 1
			began := time.Now()
			x.Publish("sale:1", "numbers", data)
			for y.head().offset < want {
				time.Sleep(10 * time.Microsecond)
			}
			times = append(times, time.Since(began))
		}
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
	})
}
