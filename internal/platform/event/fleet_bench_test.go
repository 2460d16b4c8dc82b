package event

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/db"
)

// BenchmarkFleet is the whole way over nodes: 32 callers on all nodes emit one event per transaction while one of the nodes relays.
func BenchmarkFleet(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			f := fleetOf(b, nodes, true, func(int) []Listener { return []Listener{writer("a")} }, func(bus *Bus) { bus.lease = lease })
			f.start(f.nodes[0])
			time.Sleep(300 * time.Millisecond)
			for _, nd := range f.nodes[1:] {
				if nd.bus.crowd { // on an engine with one writer the newest takes over
					f.start(nd)
				}
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for w := range 32 {
				wg.Go(func() {
					bus := f.nodes[w%nodes].bus
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						err := f.db.Tx(context.Background(), "test.emit", func(ctx context.Context, tx *db.Tx) error {
							return bus.Emit(ctx, tx, noted{Key: n % 1000, N: int(n)})
						})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "emitted/s")
			f.quietly(time.Minute)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
