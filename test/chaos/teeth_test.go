package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// alter runs statements on a copy of a house's database.
func alter(t *testing.T, dir string, statements ...string) {
	t.Helper()
	d, err := db.Open(t.Context(), db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	err = d.Tx(t.Context(), "test.alter", func(ctx context.Context, tx *db.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// The audit has teeth: it is shown true books and finds nothing, then lies, and finds each. Most lies are told so that every
// sum still balances: only what the buyers were told gives them away.
func TestTheAuditSeesLies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "true")
	h := newHouse(t, built(t), dir, "LEVEE_SALE__RECONCILE_EVERY=1h")
	h.up(t)
	s := open(t, h, 1, 10*time.Millisecond)
	s.crowd.start(8)
	time.Sleep(700 * time.Millisecond)
	s.crowd.halt()
	s.crowd.resolve(t)
	s.stop(t)

	// One wide sale's reservation that is held, and its sale.
	const one = "(SELECT id FROM sale_reservation WHERE state=1 AND quantity=1 ORDER BY id LIMIT 1)"
	const its = "(SELECT sale_id FROM sale_reservation WHERE state=1 AND quantity=1 ORDER BY id LIMIT 1)"
	row := func(kind string) string {
		return "INSERT INTO sale_ledger (id, sale_id, kind, quantity, reservation_id, actor_id, reason, at, seq, last_id) " +
			"SELECT 7, r.sale_id, '" + kind + "', 1, r.id, 0, '', 0, s.seq, 0 FROM sale_reservation r JOIN sale_stock s ON s.sale_id=r.sale_id WHERE r.id=" + one
	}
	release := []string{"UPDATE sale_stock SET remaining=remaining+1, reserved=reserved-1, seq=seq+1 WHERE sale_id=" + its,
		row("released")}
	for _, lie := range []struct {
		name, want string
		every      bool
		sql        []string
	}{
		{"the truth", "", true, nil},
		{"a told reservation is gone, the sums balance", "SQL does not hold it", false, append(release, "DELETE FROM sale_reservation WHERE id="+one)},
		{"a reservation stands there twice, the sums balance", "of his keys can have one", false, []string{
			"UPDATE sale_stock SET remaining=remaining-1, reserved=reserved+1, seq=seq+1 WHERE sale_id=" + its,
			row("reserved"),
			"INSERT INTO sale_reservation SELECT id+4000003, sale_id, buyer_id, quantity, state, key_hash+1, updated_at, seq FROM sale_reservation WHERE id=" + one}},
		{"a reservation is another buyer's", "was told", false, []string{
			"UPDATE sale_reservation SET buyer_id=buyer_id+1 WHERE id=" + one}},
		{"a reservation was released before its time, the sums balance", "before its time", false,
			append(release, "UPDATE sale_reservation SET state=3 WHERE id="+one)},
		{"a reservation is sold and nobody paid, the sums balance", "nobody paid", false, []string{
			"UPDATE sale_stock SET sold=sold+1, reserved=reserved-1, seq=seq+1 WHERE sale_id=" + its,
			row("sold"),
			"UPDATE sale_reservation SET state=2 WHERE id=" + one}},
		{"an order is gone", "there is no order", false, []string{"DELETE FROM order_head WHERE id=" + one}},
		{"an order is cancelled and its reservation held", "its order", true, []string{
			"UPDATE order_head SET state=7, due_at=NULL WHERE id=" + one}},
		{"stock is off by one", "do not balance", false, []string{"UPDATE sale_stock SET remaining=remaining+1 WHERE sale_id=" + its}},
		{"a unit was offered that nobody offered, the sums balance", "operators were told", false, []string{
			"UPDATE sale_stock SET offered=offered+1, remaining=remaining+1 WHERE sale_id=" + its,
			"UPDATE sale_ledger SET quantity=quantity+1 WHERE kind='offered' AND sale_id=" + its}},
		{"a movement is gone", "do not balance", false, []string{"DELETE FROM sale_ledger WHERE kind='reserved' AND sale_id=" + its}},
	} {
		t.Run(lie.name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			// Nothing expires while the lie is looked at.
			alter(t, copied, append(lie.sql, "UPDATE order_head SET due_at=due_at+3600000000 WHERE due_at IS NOT NULL")...)
			h := newHouse(t, s.bin, copied)
			h.up(t)
			twin := *s
			twin.house, twin.call, twin.checked = h, newCaller(h.base), 0
			wishes := s.crowd.snapshot()
			books, err := twin.books(wishes, lie.every, false, rand.New(rand.NewPCG(1, 1)))
			twin.call.http.CloseIdleConnections()
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range books {
				b.payWithin = time.Hour
			}
			found := problems(wishes, books)
			switch {
			case lie.want == "" && len(found) > 0:
				t.Errorf("the truth was not believed:%s", few(found))
			case lie.want != "" && !strings.Contains(strings.Join(found, "\n"), lie.want):
				t.Errorf("not seen as %q:%s", lie.want, few(found))
			}
		})
	}
}
