package catalog

import (
	"context"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// lookupChunk is how many codes one statement asks for. It is always filled up, so that there is one prepared text.
const lookupChunk = 256

var lookupMarks = "(" + strings.Repeat("?,", lookupChunk-1) + "?)"

// inChunks calls fn with the values in chunks of exactly lookupChunk; the last value is repeated to fill the last chunk.
func inChunks(values []string, fn func(args []any) error) error {
	args := make([]any, lookupChunk)
	for len(values) > 0 {
		n := min(len(values), lookupChunk)
		for i := range args {
			args[i] = values[min(i, n-1)]
		}
		if err := fn(args); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}

// productsByCode reads the products that have these codes, with the number of their SKUs and without the SKUs themselves.
func productsByCode(ctx context.Context, q query, codes []string) (found map[string]Product, skus map[levee.ProductID]int, err error) {
	found, skus = make(map[string]Product, len(codes)), map[levee.ProductID]int{}
	err = inChunks(codes, func(args []any) error {
		return each(ctx, q, func(rows *db.Rows) error {
			var p Product
			var n int
			err := rows.Scan(&p.ID, &p.Code, &p.Title, &p.Description, &p.State, &p.Version, &n)
			found[p.Code], skus[p.ID] = p, n
			return err
		}, "SELECT p.id, p.code, p.title, p.description, p.state, p.version, (SELECT COUNT(*) FROM catalog_sku s WHERE s.product_id = p.id)"+
			" FROM catalog_product p WHERE p.code IN "+lookupMarks, args...)
	})
	return found, skus, err
}

// skusByCode reads the SKUs that have these codes, without their product's title and state.
func skusByCode(ctx context.Context, q query, codes []string) (found map[string]SKU, err error) {
	found = make(map[string]SKU, len(codes))
	err = inChunks(codes, func(args []any) error {
		return each(ctx, q, func(rows *db.Rows) error {
			var k SKU
			err := rows.Scan(&k.ID, &k.Product, &k.Code, &k.Name, &k.Price.Minor, &k.Price.Currency, &k.OnHand, &k.Version)
			found[k.Code] = k
			return err
		}, "SELECT id, product_id, code, name, price_minor, currency, on_hand, version FROM catalog_sku WHERE code IN "+lookupMarks, args...)
	})
	return found, err
}

// The columns of bulk inserts, in the order of the row functions beneath.
var (
	productInsert  = []string{"id", "code", "title", "title_key", "description", "state", "version", "created_at", "updated_at"}
	skuInsert      = []string{"id", "product_id", "code", "name", "price_minor", "currency", "on_hand", "version", "created_at", "updated_at"}
	movementInsert = []string{"id", "sku_id", "delta", "reason", "ref", "actor_id", "at"}
)

func productRow(p Product) []any {
	return []any{int64(p.ID), p.Code, p.Title, titleKey(p.Title), p.Description, string(p.State), p.Version,
		micro(p.CreatedAt), micro(p.UpdatedAt)}
}

func skuRow(k SKU, now time.Time) []any {
	return []any{int64(k.ID), int64(k.Product), k.Code, k.Name, k.Price.Minor, k.Price.Currency, k.OnHand, k.Version, micro(now), micro(now)}
}

func movementRow(m Movement) []any {
	return []any{m.ID, int64(m.SKU), m.Delta, m.Reason, m.Ref, int64(m.Actor), micro(m.At)}
}

// insertPlan writes everything of a plan that is new.
func insertPlan(ctx context.Context, tx *db.Tx, p *plan) error {
	if err := tx.InsertRows(ctx, "catalog_product", productInsert, p.products); err != nil {
		return err
	}
	if err := tx.InsertRows(ctx, "catalog_sku", skuInsert, p.skus); err != nil {
		return err
	}
	return tx.InsertRows(ctx, "catalog_movement", movementInsert, p.movements)
}

// allRows calls fn for every line of an export. One statement is one snapshot.
func allRows(ctx context.Context, q query, fn func(r *Row) error) error {
	return each(ctx, q, func(rows *db.Rows) error {
		var r Row
		var code, name, currency db.NullString
		var price, onHand db.NullInt64
		err := rows.Scan(&r.ProductCode, &r.Title, &r.Description, &r.State, &code, &name, &price, &currency, &onHand)
		if err != nil {
			return err
		}
		r.SKUCode, r.SKUName, r.Counted = code.String, name.String, code.Valid
		r.Price, r.OnHand = levee.Money{Minor: price.Int64, Currency: currency.String}, onHand.Int64
		return fn(&r)
	}, "SELECT p.code, p.title, p.description, p.state, s.code, s.name, s.price_minor, s.currency, s.on_hand"+
		" FROM catalog_product p LEFT JOIN catalog_sku s ON s.product_id = p.id ORDER BY p.id, s.id")
}
