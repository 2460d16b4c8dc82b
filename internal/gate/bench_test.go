package gate

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"levee"
)

// BenchmarkGate sets the gate's decisions beside the least that could do the job: a mutex, a number and a map.
func BenchmarkGate(b *testing.B) {
	b.Run("gate", func(b *testing.B) {
		g := NewMemory(1 << 30)
		if err := g.Load(b.Context(), State{Remaining: 1 << 40, PerBuyer: 1}); err != nil {
			b.Fatal(err)
		}
		var n atomic.Int64
		stop := make(chan struct{})
		var settler sync.WaitGroup
		settler.Go(func() {
			seq := int64(0)
			for {
				select {
				case <-g.wake:
					for batch := g.Next(512); batch != nil; batch = g.Next(512) {
						seq++
						g.Settle(context.Background(), batch, seq)
						for _, t := range batch {
							t.Free()
						}
						g.recycle(batch)
					}
				case <-stop:
					return
				}
			}
		})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			base := levee.UserID(n.Add(1) << 40)
			ctx := context.Background()
			for pb.Next() {
				base++
				g.Take(ctx, Attempt{ID: levee.ReservationID(base), Buyer: base, Quantity: 1, Key: 1})
			}
		})
		b.StopTimer()
		close(stop)
		settler.Wait()
	})
	b.Run("mutex and map", func(b *testing.B) {
		var mu sync.Mutex
		stock, held := int64(1<<40), map[levee.UserID]int32{}
		var n atomic.Int64
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			base := levee.UserID(n.Add(1) << 40)
			for pb.Next() {
				base++
				mu.Lock()
				if stock > 0 && held[base] < 1 {
					stock--
					held[base]++
				}
				mu.Unlock()
			}
		})
	})
	b.Run("gate, sold out", func(b *testing.B) {
		g := NewMemory(1000)
		if err := g.Load(b.Context(), State{PerBuyer: 1}); err != nil {
			b.Fatal(err)
		}
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			base := levee.UserID(n.Add(1) << 40)
			ctx := context.Background()
			for pb.Next() {
				base++
				g.Take(ctx, Attempt{Buyer: base, Quantity: 1})
			}
		})
	})
}

// BenchmarkGateMemory reports the bytes that the gate keeps per buyer who took something.
func BenchmarkGateMemory(b *testing.B) {
	for b.Loop() {
		t := newBuyerTable(0)
		for n := range 1_000_000 {
			t.add(levee.UserID(n + 1)).held = 1
		}
		b.ReportMetric(float64(len(t.entries)*16)/1e6, "bytes/buyer")
	}
}
