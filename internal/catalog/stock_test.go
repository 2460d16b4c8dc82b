package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"levee"
	"levee/internal/platform/db"
)

func (h *shop) tx(ctx context.Context, fn func(ctx context.Context, tx *db.Tx) error) error {
	return h.DB.Tx(ctx, "test", fn)
}

// balanced says what is wrong with the books: a SKU below zero, a ledger that does not sum up, or units that came from nowhere.
func (h *shop) balanced(ctx context.Context, sku levee.SKUID, want int64) error {
	found, err := h.Drifts(ctx)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("stock and ledger differ: %+v", found)
	}
	n, err := onHand(ctx, h.DB.Query, sku)
	if err != nil {
		return err
	}
	if n < 0 || n != want {
		return fmt.Errorf("%d on hand, want %d", n, want)
	}
	return nil
}

// TestCrowd lets hundreds take, give back, count and fail at once, and checks the books while they do and after.
func TestCrowd(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	const people, steps, stock = 300, 12, 500
	var skus []levee.SKUID
	for i := range 3 {
		skus = append(skus, h.lamp(t, "lamp"+decimal(i), stock).SKUs[0].ID)
	}
	var want [3]atomic.Int64 // what should be on hand
	for i := range want {
		want[i].Store(stock)
	}
	undo := errors.New("the buyer's card was refused")
	var refused, out atomic.Int64
	ctx2, stop := context.WithCancel(ctx)
	var watch, crowd sync.WaitGroup
	watch.Go(func() {
		for ctx2.Err() == nil {
			found, err := h.Drifts(ctx2)
			if ctx2.Err() == nil && (err != nil || len(found) > 0) {
				t.Errorf("in the midst of it: %+v, %v", found, err)
				return
			}
		}
	})
	for n := range people {
		crowd.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			var held [3]int64
			for range steps {
				i, q := r.IntN(3), int64(1+r.IntN(5))
				switch what := r.IntN(10); {
				case what < 5:
					err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error {
						return h.TakeTx(ctx, tx, skus[i], q, "order", "o"+decimal(n))
					})
					switch {
					case err == nil:
						held[i] += q
						want[i].Add(-q)
					case levee.CodeOf(err) == levee.CodeOutOfStock:
						out.Add(1)
					default:
						t.Error(err)
					}
				case what < 7 && held[i] > 0:
					back := min(q, held[i])
					err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error {
						return h.ReturnTx(ctx, tx, skus[i], back, "cancel", "o"+decimal(n))
					})
					if err != nil {
						t.Error(err)
					}
					held[i] -= back
					want[i].Add(back)
				case what == 7:
					delta := q - 3
					if delta == 0 {
						delta = 1
					}
					err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error {
						return h.AdjustTx(ctx, tx, skus[i], delta, "adjust", "count")
					})
					if err == nil {
						want[i].Add(delta)
					} else if levee.CodeOf(err) != levee.CodeOutOfStock {
						t.Error(err)
					}
				default: // takes of two SKUs and gives up: neither may stay
					err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error {
						if err := h.TakeTx(ctx, tx, skus[i], q, "order", "x"); err != nil {
							return err
						}
						if err := h.TakeTx(ctx, tx, skus[(i+1)%3], q, "order", "x"); err != nil {
							return err
						}
						return undo
					})
					if err == nil {
						t.Error("a refused transaction was committed")
					}
					refused.Add(1)
				}
			}
		})
	}
	crowd.Wait()
	stop()
	watch.Wait()
	for i, sku := range skus {
		if err := h.balanced(ctx, sku, want[i].Load()); err != nil {
			t.Errorf("SKU %d: %v", i, err)
		}
	}
	if out.Load() == 0 || refused.Load() == 0 {
		t.Errorf("the crowd was too tame: %d times out of stock, %d given up", out.Load(), refused.Load())
	}
}

// rush sends buyers for one unit each, twice, with the given way to take, and returns what is wrong afterwards.
func (h *shop) rush(ctx context.Context, sku levee.SKUID, stock int64, buyers int, take func() error) error {
	var sold atomic.Int64
	var wg sync.WaitGroup
	for range buyers {
		wg.Go(func() {
			for range 2 {
				if take() == nil {
					sold.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(h.balanced(ctx, sku, stock-sold.Load()), func() error {
		if sold.Load() != stock {
			return fmt.Errorf("%d sold of %d", sold.Load(), stock)
		}
		return nil
	}())
}

// TestNeverOversold sells exactly what there is, and shows that the same test finds the two classic mistakes.
func TestNeverOversold(t *testing.T) {
	const stock, buyers = 50, 400
	h := open(t, Config{})
	ctx := operator(t.Context())
	t.Run("TakeTx", func(t *testing.T) {
		k := h.lamp(t, "good", stock).SKUs[0].ID
		err := h.rush(ctx, k, stock, buyers, func() error {
			return h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 1, "order", "") })
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("control: read, then write", func(t *testing.T) {
		h := open(t, Config{}) // its books will be wrong
		k := h.lamp(t, "bad", stock).SKUs[0].ID
		var all sync.WaitGroup // everybody has read before anybody writes, at the first of the two
		all.Add(buyers)
		var first atomic.Int64
		err := h.rush(ctx, k, stock, buyers, func() error {
			n, err := onHand(ctx, h.DB.Query, k)
			if first.Add(1) <= buyers {
				all.Done()
			}
			all.Wait()
			if err != nil || n < 1 {
				return errors.New("none left")
			}
			return h.tx(ctx, func(ctx context.Context, tx *db.Tx) error {
				if err := setStock(ctx, tx, k, n-1); err != nil {
					return err
				}
				return h.record(ctx, tx, k, -1, "order", "")
			})
		})
		if err == nil {
			t.Error("the mistake went unseen: this test proves nothing")
		}
	})
	t.Run("control: no condition", func(t *testing.T) {
		k := h.lamp(t, "worse", 1).SKUs[0].ID
		err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return addStock(ctx, tx, k, -2) })
		if err == nil {
			t.Error("the table took a stock below zero")
		}
		if err := h.balanced(ctx, k, 1); err != nil {
			t.Error(err)
		}
	})
	t.Run("control: no movement", func(t *testing.T) {
		h := open(t, Config{})
		k := h.lamp(t, "silent", 5).SKUs[0].ID
		if err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return addStock(ctx, tx, k, 1) }); err != nil {
			t.Fatal(err)
		}
		found, err := h.Drifts(ctx)
		if err != nil || len(found) != 1 || found[0] != (Drift{k, 6, 5}) {
			t.Errorf("found %+v, %v", found, err)
		}
		if err := h.checkStock(ctx); err == nil {
			t.Error("the daily check found nothing")
		}
	})
}

func TestStockRefuses(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	k := h.lamp(t, "lamp", 10).SKUs[0].ID
	long := string(make([]byte, MaxRef+1))
	for name, c := range map[string]struct {
		do   func(ctx context.Context, tx *db.Tx) error
		code levee.Code
		word string
	}{
		"take none":        {func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 0, "r", "") }, levee.CodeInvalid, "1 to 1000000"},
		"take minus one":   {func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, -1, "r", "") }, levee.CodeInvalid, "quantity"},
		"take too many":    {func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 11, "r", "") }, levee.CodeOutOfStock, "10 units"},
		"take of nothing":  {func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, 1, 1, "r", "") }, levee.CodeNotFound, ""},
		"return to none":   {func(ctx context.Context, tx *db.Tx) error { return h.ReturnTx(ctx, tx, 1, 1, "r", "") }, levee.CodeNotFound, ""},
		"return minus one": {func(ctx context.Context, tx *db.Tx) error { return h.ReturnTx(ctx, tx, k, -1, "r", "") }, levee.CodeInvalid, "quantity"},
		"adjust by none":   {func(ctx context.Context, tx *db.Tx) error { return h.AdjustTx(ctx, tx, k, 0, "r", "") }, levee.CodeInvalid, "delta"},
		"adjust below":     {func(ctx context.Context, tx *db.Tx) error { return h.AdjustTx(ctx, tx, k, -11, "r", "") }, levee.CodeOutOfStock, ""},
		"adjust beyond":    {func(ctx context.Context, tx *db.Tx) error { return h.AdjustTx(ctx, tx, k, MaxOnHand, "r", "") }, levee.CodeConflict, "exceed"},
		"no reason":        {func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 1, "", "") }, levee.CodeInvalid, "reason"},
		"long ref":         {func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 1, "r", long) }, levee.CodeInvalid, "ref"},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, h.tx(ctx, c.do), c.code, c.word) })
	}
	if err := h.balanced(ctx, k, 10); err != nil {
		t.Error(err)
	}
	if n, err := h.Adjust(ctx, k, -4, "broken in transit"); err != nil || n != 6 {
		t.Errorf("%d, %v", n, err)
	}
	list, err := h.moved(ctx, k)
	if err != nil || len(list) != 2 || list[0].Delta != -4 || list[0].Ref != "broken in transit" || list[0].Actor != 7 || list[1].Reason != ReasonCreate {
		t.Errorf("ledger %+v, %v", list, err)
	}
	_, err = h.moved(ctx, 1)
	wantCode(t, err, levee.CodeNotFound)
	// A return goes through even where an operator could not add any more.
	full := h.lamp(t, "full", MaxOnHand).SKUs[0].ID
	if err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return h.ReturnTx(ctx, tx, full, 3, "cancel", "") }); err != nil {
		t.Error(err)
	}
}

// TestStockModel compares random histories with a number.
func TestStockModel(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		have := rapid.Int64Range(0, 20).Draw(r, "stock")
		k := h.lamp(t, fmt.Sprintf("m%d", n), have).SKUs[0].ID
		r.Repeat(map[string]func(*rapid.T){
			"take": func(r *rapid.T) {
				q := rapid.Int64Range(1, 12).Draw(r, "q")
				err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, q, "order", "") })
				if (err == nil) != (q <= have) {
					r.Fatalf("taking %d of %d: %v", q, have, err)
				}
				if err == nil {
					have -= q
				}
			},
			"return": func(r *rapid.T) {
				q := rapid.Int64Range(1, 12).Draw(r, "q")
				if err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return h.ReturnTx(ctx, tx, k, q, "cancel", "") }); err != nil {
					r.Fatal(err)
				}
				have += q
			},
			"adjust": func(r *rapid.T) {
				d := rapid.Int64Range(-12, 12).Filter(func(d int64) bool { return d != 0 }).Draw(r, "d")
				left, err := h.Adjust(ctx, k, d, "")
				if (err == nil) != (have+d >= 0) {
					r.Fatalf("adjusting %d by %d: %v", have, d, err)
				}
				if err == nil {
					if have += d; left != have {
						r.Fatalf("%d left, want %d", left, have)
					}
				}
			},
			"": func(r *rapid.T) {
				if got, err := h.OnHand(ctx, k); err != nil || got != have {
					r.Fatalf("%d on hand, %v; want %d", got, err, have)
				}
			},
		})
	})
	if found, err := h.Drifts(ctx); err != nil || len(found) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

// BenchmarkTake measures takings of one SKU by many, each committed by itself.
func BenchmarkTake(b *testing.B) {
	h := open(b, Config{})
	ctx := operator(b.Context())
	k := h.lamp(b, "lamp", MaxOnHand).SKUs[0].ID
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error {
				return h.TakeTx(ctx, tx, k, 1, "order", "ord_3gk0q8v2m5x7c9b1n4d6f8h0j2")
			})
			if err != nil {
				b.Error(err)
			}
		}
	})
}

// moved reads the newest movements of a SKU.
func (h *shop) moved(ctx context.Context, k levee.SKUID) ([]Movement, error) {
	q, err := h.ledger.Ask("limit=100")
	if err != nil {
		return nil, err
	}
	found, err := h.Movements(ctx, k, q)
	if err != nil {
		return nil, err
	}
	return found.Rows, nil
}
