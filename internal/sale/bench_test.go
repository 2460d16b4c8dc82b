package sale

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/db"
)

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
			won := make([]*gate.Taking, n)
			for i := range won {
				won[i] = &gate.Taking{Attempt: gate.Attempt{ID: levee.ReservationID(1<<50 + done + i), Buyer: levee.UserID(1<<40 + done + i), Quantity: 1}}
			}
			orders := s.sales.newOrders(v, winners{won: won, at: started})
			err := s.DB.Tx(context.Background(), "bench", func(ctx context.Context, tx *db.Tx) error {
				if err := looseTake(ctx, tx, s.sales, v.ID, int64(n)); err != nil {
					return err
				}
				if err := s.sales.insertReservationsTx(ctx, tx, v.ID, won, started, 1); err != nil {
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

// BenchmarkRefused measures what a loser costs behind the network: path, switch, who he is, whether he holds anything, the answer, and
// being counted.
func BenchmarkRefused(b *testing.B) {
	s := newShop(b, Config{})
	l := s.open(b, 1, 1)
	s.sales.Authenticate = func(string) (levee.Actor, error) { return buyer(1), nil }
	l.sw.Set(refusalSoldOut)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := httptest.NewRequest("POST", pathSales+l.public+pathPurchases, nil)
		r.Header.Set("Authorization", "Bearer token")
		w := nowhere{}
		for pb.Next() {
			if !s.sales.refuseFast(w, r) {
				b.Error("a loser was not refused")
				return
			}
		}
	})
}

// nowhere is a response that nobody reads.
type nowhere http.Header

func (w nowhere) Header() http.Header         { return http.Header(w) }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

// BenchmarkLoadGate measures how long a restart takes to know a million buyers.
func BenchmarkLoadGate(b *testing.B) {
	s := newShop(b, Config{})
	s.stock(b, 100_000_000)
	l := s.open(b, 2_000_000, 1)
	v := l.view.Load()
	base := int64(v.ID)
	for i := 0; i < 1_000_000; {
		won := make([]*gate.Taking, 1000)
		for j := range won {
			won[j] = &gate.Taking{Attempt: gate.Attempt{ID: levee.ReservationID(base + int64(i+j) + 1), Buyer: levee.UserID(1<<40 + (i+j)*4099), Quantity: 1}}
		}
		orders := s.sales.newOrders(v, winners{won: won, at: time.Now()})
		err := s.DB.Tx(context.Background(), "bench", func(ctx context.Context, tx *db.Tx) error {
			if err := looseTake(ctx, tx, s.sales, v.ID, 1000); err != nil {
				return err
			}
			if err := s.sales.insertReservationsTx(ctx, tx, v.ID, won, time.Now(), 1); err != nil {
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

func looseTake(ctx context.Context, tx *db.Tx, s *Service, sale levee.SaleID, units int64) error {
	_, err := tx.Exec(ctx, "UPDATE sale_stock SET remaining=remaining-?, reserved=reserved+? WHERE sale_id=? AND remaining>=?", units, units, sale, units)
	return err
}
