package order

import (
	"context"
	"fmt"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// BenchmarkCreateMany compares the settlement's orders with the same rows given to the same inserts by a bare loop.
func BenchmarkCreateMany(b *testing.B) {
	const each = 100
	now := time.Now()
	fill := func(base int64) []New {
		list := make([]New, each)
		for i := range list {
			list[i] = New{
				ID: levee.OrderID(base + int64(i)), Buyer: levee.UserID(base*2654435761%1_000_003 + int64(i)), Source: "shop", SourceRef: 7,
				CreatedAt: now, PayBy: now.Add(time.Hour),
				Lines: []Line{{SKU: 8, Product: 9, Title: "Phone 12, black", Quantity: 1, Price: levee.Money{Minor: 999900, Currency: "CNY"}}},
			}
		}
		return list
	}
	run := func(b *testing.B, create func(h *house, ctx context.Context, tx *db.Tx, list []New) error) {
		h := open(b)
		base := int64(1 << 40)
		b.ReportAllocs()
		for b.Loop() {
			base += each
			list := fill(base)
			must(b, h.DB.Tx(b.Context(), "bench", func(ctx context.Context, tx *db.Tx) error { return create(h, ctx, tx, list) }))
		}
		b.ReportMetric(float64(b.N)*each/b.Elapsed().Seconds(), "orders/s")
	}
	b.Run("orders", func(b *testing.B) {
		run(b, func(h *house, ctx context.Context, tx *db.Tx, list []New) error {
			return h.orders.CreateManyTx(ctx, tx, list)
		})
	})
	b.Run("bare", func(b *testing.B) {
		heads, items := make([][]any, each), make([][]any, each)
		run(b, func(_ *house, ctx context.Context, tx *db.Tx, list []New) error {
			for i, o := range list {
				l := o.Lines[0]
				heads[i] = []any{int64(o.ID), int64(o.Buyer), o.Source, o.SourceRef, l.Price.Minor, l.Price.Currency, o.PayBy.UnixMicro(), o.CreatedAt.UnixMicro()}
				items[i] = []any{int64(o.ID), int64(0), int64(l.SKU), int64(l.Product), l.Title, int64(l.Quantity), l.Price.Minor}
			}
			if err := tx.InsertRows(ctx, "order_head", headColumns, heads); err != nil {
				return err
			}
			return tx.InsertRows(ctx, "order_item", itemColumns, items)
		})
	})
	b.Run("heads only", func(b *testing.B) { // what the head costs, its two indexes with it
		heads := make([][]any, each)
		run(b, func(_ *house, ctx context.Context, tx *db.Tx, list []New) error {
			for i, o := range list {
				heads[i] = []any{int64(o.ID), int64(o.Buyer), o.Source, o.SourceRef, int64(1), "CNY", o.PayBy.UnixMicro(), o.CreatedAt.UnixMicro()}
			}
			return tx.InsertRows(ctx, "order_head", headColumns, heads)
		})
	})
}

// BenchmarkMarkPaid is one payment per transaction, many at once.
func BenchmarkMarkPaid(b *testing.B) {
	for _, width := range []int{1, 64} {
		b.Run(fmt.Sprint(width, " at once"), func(b *testing.B) {
			h := open(b)
			now := h.clock.Now()
			var list []New
			h.orders.AddSource("rec", &recorder{})
			for i := range b.N {
				list = append(list, New{ID: levee.OrderID(i + 1), Buyer: 5, Source: "rec", CreatedAt: now, PayBy: now.Add(time.Hour),
					Lines: []Line{{SKU: 8, Product: 9, Title: "Phone", Quantity: 1, Price: levee.Money{Minor: 1, Currency: "CNY"}}}})
			}
			for len(list) > 0 {
				n := min(len(list), maxBatch)
				must(b, h.DB.Tx(b.Context(), "b", func(ctx context.Context, tx *db.Tx) error { return h.orders.CreateManyTx(ctx, tx, list[:n]) }))
				list = list[n:]
			}
			ids := make(chan levee.OrderID, b.N)
			for i := range b.N {
				ids <- levee.OrderID(i + 1)
			}
			close(ids)
			b.ResetTimer()
			done := make(chan error, width)
			for range width {
				go func() {
					for id := range ids {
						if outcome, err := h.pay(id); err != nil || outcome != OutcomePaid {
							done <- fmt.Errorf("%v %w", outcome, err)
							return
						}
					}
					done <- nil
				}()
			}
			for range width {
				must(b, <-done)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "payments/s")
		})
	}
}
