package sale

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// BenchmarkGate sets the gate's decisions beside the least that could do the job: a mutex, a number and a map.
func BenchmarkGate(b *testing.B) {
	b.Run("gate", func(b *testing.B) {
		g := newMemoryGate(1 << 30)
		g.load(1<<40, 1, nil)
		var n atomic.Int64
		stop := make(chan struct{})
		var settler sync.WaitGroup
		settler.Go(func() {
			for {
				select {
				case <-g.wake:
					for batch := g.next(512); batch != nil; batch = g.next(512) {
						g.settle(batch)
						for _, t := range batch {
							takings.Put(t)
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
			for pb.Next() {
				base++
				g.take(attempt{id: levee.ReservationID(base), buyer: base, quantity: 1, key: 1})
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
		g := newMemoryGate(1000)
		g.load(0, 1, nil)
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			base := levee.UserID(n.Add(1) << 40)
			for pb.Next() {
				base++
				g.take(attempt{buyer: base, quantity: 1})
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

// BenchmarkOrders sets committed purchases (gate, settlement, reservation, order, item, ledger, event, synchronous=FULL) beside
// the same rows written by a bare program in transactions of 100.
func BenchmarkOrders(b *testing.B) {
	for _, buyers := range []int{64, 512, 2048} {
		b.Run(fmt.Sprintf("engine, %d buyers at once", buyers), func(b *testing.B) {
			s := newShop(b, Config{})
			s.Obs.Log = slog.New(slog.DiscardHandler)
			s.run(b)
			s.stock(b, 100_000_000)
			l := s.open(b, 50_000_000, 1)
			var next atomic.Int64
			b.ResetTimer()
			started := time.Now()
			var wg sync.WaitGroup
			for range buyers {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						if _, err := s.buy(l, int(n), 1, "k"); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(started).Seconds(), "orders/s")
		})
	}
	b.Run("bare rows, 100 a transaction", func(b *testing.B) {
		s := newShop(b, Config{})
		s.stock(b, 100_000_000)
		l := s.open(b, 50_000_000, 1)
		v := l.view.Load()
		b.ResetTimer()
		started := time.Now()
		for done := 0; done < b.N; {
			n := min(100, b.N-done)
			won := make([]*taking, n)
			for i := range won {
				won[i] = &taking{attempt: attempt{id: levee.ReservationID(1<<50 + done + i), buyer: levee.UserID(1<<40 + done + i), quantity: 1}}
			}
			orders := s.sales.newOrders(v, won, started)
			err := s.DB.Tx(context.Background(), "bench", func(ctx context.Context, tx *db.Tx) error {
				if err := s.sales.takeStockTx(ctx, tx, v.ID, int64(n)); err != nil {
					return err
				}
				if err := s.sales.insertReservationsTx(ctx, tx, v.ID, won, started); err != nil {
					return err
				}
				return s.orders.CreateManyTx(ctx, tx, orders)
			})
			if err != nil {
				b.Fatal(err)
			}
			done += n
		}
		b.ReportMetric(float64(b.N)/time.Since(started).Seconds(), "orders/s")
	})
}

// BenchmarkLoadGate measures how long a restart takes to know a million buyers.
func BenchmarkLoadGate(b *testing.B) {
	s := newShop(b, Config{})
	s.stock(b, 100_000_000)
	l := s.open(b, 2_000_000, 1)
	v := l.view.Load()
	base := int64(v.ID)
	for i := 0; i < 1_000_000; {
		won := make([]*taking, 1000)
		for j := range won {
			won[j] = &taking{attempt: attempt{id: levee.ReservationID(base + int64(i+j) + 1), buyer: levee.UserID(1<<40 + (i+j)*4099), quantity: 1}}
		}
		orders := s.sales.newOrders(v, won, time.Now())
		err := s.DB.Tx(context.Background(), "bench", func(ctx context.Context, tx *db.Tx) error {
			if err := s.sales.takeStockTx(ctx, tx, v.ID, 1000); err != nil {
				return err
			}
			if err := s.sales.insertReservationsTx(ctx, tx, v.ID, won, time.Now()); err != nil {
				return err
			}
			return s.orders.CreateManyTx(ctx, tx, orders)
		})
		if err != nil {
			b.Fatal(err)
		}
		i += 1000
	}
	for b.Loop() {
		if err := s.sales.loadGate(context.Background(), l); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGrowth shows what a purchase costs as stock and crowd grow: the last purchases of a sale of so many units.
func BenchmarkGrowth(b *testing.B) {
	for _, units := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("%d units", units), func(b *testing.B) {
			s := newShop(b, Config{})
			s.run(b)
			s.stock(b, 100_000_000)
			l := s.open(b, int64(units+b.N), 1)
			buyers := func(from, n int) {
				var next atomic.Int64
				var wg sync.WaitGroup
				for range 256 {
					wg.Go(func() {
						for {
							i := int(next.Add(1))
							if i > n {
								return
							}
							if _, err := s.buy(l, from+i, 1, "k"); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			buyers(0, units)
			b.ResetTimer()
			buyers(units, b.N)
		})
	}
}
