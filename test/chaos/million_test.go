package chaos

import (
	"context"
	"flag"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

var million = flag.Int("chaos.million", 0, "how many reservations TestReadyWithAMillionReservations seeds; 0: skip it")

// readyWithin is what the house promises for a million reservations of one open sale, from exec to ready after a kill.
const readyWithin = 2 * time.Second

// seedReservations writes n reservations of one unit with their orders, as settlements would have written them: buyers come in
// no order, a batch of 256 is one transaction and one line of the ledger.
func seedReservations(t *testing.T, dir string, n int) {
	t.Helper()
	d, err := db.Open(t.Context(), db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	var sale, sku, product int64
	err = d.QueryRow(t.Context(), "SELECT id, sku_id, product_id FROM sale_head WHERE rehearsal=1 ORDER BY planned_units DESC LIMIT 1").Scan(&sale, &sku, &product)
	if err != nil {
		t.Fatal(err)
	}
	buyers := rand.New(rand.NewPCG(1, 2)).Perm(n)
	now := time.Now()
	due := now.Add(24 * time.Hour).UnixMicro()
	const batch = 4096
	for from := 0; from < n; from += batch {
		size := min(batch, n-from)
		reservations, orders, items := make([][]any, size), make([][]any, size), make([][]any, size)
		for i := range size {
			id := sale + int64(from+i) + 1
			reservations[i] = []any{id, sale, sale + int64(buyers[from+i]), int64(1), int64(1), id * 0x5851F42D4C957F2D, now.UnixMicro()}
			orders[i] = []any{id, sale + int64(buyers[from+i]), "rehearsal", sale, int64(4900), "CNY", due, now.UnixMicro()}
			items[i] = []any{id, int64(1), sku, product, "Lamp", int64(1), int64(4900)}
		}
		err := d.Tx(t.Context(), "test.seed", func(ctx context.Context, tx *db.Tx) error {
			if err := tx.InsertRows(ctx, "sale_reservation", []string{"id", "sale_id", "buyer_id", "quantity", "state", "key_hash", "updated_at"}, reservations); err != nil {
				return err
			}
			if err := tx.InsertRows(ctx, "order_head", []string{"id", "buyer_id", "source", "source_ref", "total_minor", "currency", "due_at", "created_at"}, orders); err != nil {
				return err
			}
			if err := tx.InsertRows(ctx, "order_item", []string{"order_id", "line", "sku_id", "product_id", "title", "quantity", "price_minor"}, items); err != nil {
				return err
			}
			for at := 0; at < size; at += 256 {
				units := min(256, size-at)
				if _, err := tx.Exec(ctx, "INSERT INTO sale_ledger (id, sale_id, kind, quantity, reservation_id, actor_id, reason, at) VALUES (?,?,'reserved',?,?,0,'',?)",
					sale+int64(from+at)+1, sale, int64(units), sale+int64(from+at)+1, now.UnixMicro()); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, "UPDATE sale_stock SET remaining=remaining-?, reserved=reserved+? WHERE sale_id=?", int64(size), int64(size), sale)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A house with a million reservations of one open sale is ready soon after a kill, and its gate knows every one of them.
func TestReadyWithAMillionReservations(t *testing.T) {
	n := *million
	if n == 0 {
		t.Skip("needs -chaos.million=1000000")
	}
	h := newHouse(t, built(t), filepath.Join(t.TempDir(), "data"), "LEVEE_SALE__RECONCILE_EVERY=1h")
	h.up(t)
	s := open(t, h, 1, 10*time.Millisecond)
	v := s.rehearsal(t, 2*n, 1, 3600, 200)
	s.crowd.sales = []*sold{v}
	s.stop(t)
	began := time.Now()
	seedReservations(t, h.dir, n)
	t.Logf("%d reservations were seeded in %v", n, time.Since(began).Round(time.Millisecond))

	h.up(t)
	dice := rand.New(rand.NewPCG(1, 1))
	var slowest time.Duration
	for range 3 {
		s.crowd.start(4)
		time.Sleep(300 * time.Millisecond)
		h.kill()
		s.crowd.halt()
		took := h.up(t)
		slowest = max(slowest, took)
		t.Logf("from exec to ready after a kill: %v", took.Round(time.Millisecond))
		for _, b := range v.buyers {
			if b.open != nil {
				if _, err := s.crowd.send(t.Context(), v, b, b.open); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.again(dice, 50)
	var a account
	if err := s.get("/v1/sales/"+v.id+"/account", &a); err != nil {
		t.Fatal(err)
	}
	told := int64(0)
	for _, w := range s.crowd.wishes {
		if len(w.told) > 0 && w.giveUp == "" {
			told += int64(w.quantity)
		}
	}
	if a.Stock.Reserved+a.Stock.Remaining != int64(2*n) || a.Stock.Reserved < int64(n)+told || !a.Balanced || a.Gate.Remaining != a.Stock.Remaining {
		t.Errorf("the account is %+v; %d were told", a, told)
	}
	if len(s.crowd.wrong) > 0 {
		t.Errorf("wrong:%s", few(s.crowd.wrong))
	}
	if slowest > readyWithin {
		t.Errorf("ready after %v, promised within %v", slowest, readyWithin)
	}
}
