package catalog

import (
	"context"

	"levee"
	"levee/internal/platform/db"
)

// The statements that the room must not have: tests break the books with them, to see that it is noticed.

func setStock(ctx context.Context, tx *db.Tx, id levee.SKUID, n int64) error {
	_, err := tx.Exec(ctx, "UPDATE catalog_sku SET on_hand = ? WHERE id = ?", n, id)
	return err
}

func addStock(ctx context.Context, tx *db.Tx, id levee.SKUID, delta int64) error {
	_, err := tx.Exec(ctx, "UPDATE catalog_sku SET on_hand = on_hand + ? WHERE id = ?", delta, id)
	return err
}
