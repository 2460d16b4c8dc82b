package event

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/db"
)

// BenchmarkDelay is the time from the end of an emitting transaction to the end of the transaction with the effect, one event after the other: on a bus
// that rests, and beside 8 callers who emit one event per transaction all the time.
func BenchmarkDelay(b *testing.B) {
	for _, load := range []bool{false, true} {
		b.Run(map[bool]string{false: "idle", true: "beside load"}[load], func(b *testing.B) {
			h := openDir(b, b.TempDir(), quiet(b))
			heard := make(chan time.Time, 1)
			bus := h.bus(writer("a"), Listen("probe", func(_ context.Context, tx *db.Tx, e other) error {
				tx.AfterCommit(func() { heard <- time.Now() })
				return nil
			}))
			stop := h.run(bus)
			defer stop()
			ctx, end := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			for w := range 8 {
				wg.Go(func() {
					for n := 0; load && ctx.Err() == nil; n++ {
						h.emit(bus, noted{Key: int64(w*100 + n%100), N: n})
					}
				})
			}
			defer wg.Wait()
			defer end()
			var all []time.Duration
			for b.Loop() {
				h.emit(bus, other{Key: -1})
				began := time.Now()
				all = append(all, max((<-heard).Sub(began), 0))
				if !load {
					time.Sleep(time.Millisecond) // so that it rests
				}
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
