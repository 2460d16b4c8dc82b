package sale

import (
	"context"
	"testing"
	"testing/fstest"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// Rows of a ledger from before it was numbered get their numbers in its order, sale by sale without gaps, and the stock knows the last.
func TestOldLedgersAreNumbered(t *testing.T) {
	before := fstest.MapFS{}
	for _, name := range []string{"schema/0001_sale.sql", "schema/0002_draw_and_room.sql"} {
		text, err := schemaFS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = &fstest.MapFile{Data: text}
	}
	d := platformtest.DB(t, t.TempDir(), obs.Test(t), db.Schema{Owner: "sale", FS: before})
	err := d.Tx(t.Context(), "test.old", func(ctx context.Context, tx *db.Tx) error {
		for _, sale := range []int64{7, 8, 9} {
			if _, err := tx.Exec(ctx, "INSERT INTO sale_stock (sale_id, offered, remaining, reserved, sold, withdrawn) VALUES (?,0,0,0,0,0)", sale); err != nil {
				return err
			}
		}
		for id, sale := range []int64{7, 7, 8, 7, 8, 7} { // none of sale 9
			_, err := tx.Exec(ctx, "INSERT INTO sale_ledger (id, sale_id, kind, quantity, reservation_id, actor_id, reason, at) VALUES (?,?,'offered',1,0,0,'',0)", 100+id, sale)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Migrate(context.Background(), []db.Schema{Schema()}); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string][]int64{
		"SELECT seq FROM sale_ledger ORDER BY id":     {1, 2, 1, 3, 2, 4},
		"SELECT seq FROM sale_stock ORDER BY sale_id": {4, 2, 0},
	} {
		rows, err := d.Query(t.Context(), query)
		var got []int64
		err = each(rows, err, func() error {
			var n int64
			err := rows.Scan(&n)
			got = append(got, n)
			return err
		})
		if err != nil || len(got) != len(want) {
			t.Fatalf("%s: %v, %v; want %v", query, got, err, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: %v, want %v", query, got, want)
				break
			}
		}
	}
}
