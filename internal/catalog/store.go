package catalog

import (
	"context"
	"errors"
	"math"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
)

// query is DB.Query or Tx.Query: what a store function reads through.
type query func(ctx context.Context, text string, args ...any) (*db.Rows, error)

// each calls fn for every row of a query.
func each(ctx context.Context, q query, fn func(rows *db.Rows) error, text string, args ...any) (err error) {
	rows, err := q(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func micro(t time.Time) int64     { return t.UnixMicro() }
func fromMicro(n int64) time.Time { return time.UnixMicro(n).UTC() }

const productColumns = "id, code, title, description, state, version, created_at, updated_at"

func scanProduct(rows *db.Rows) (p Product, err error) {
	var created, updated int64
	err = rows.Scan(&p.ID, &p.Code, &p.Title, &p.Description, &p.State, &p.Version, &created, &updated)
	p.CreatedAt, p.UpdatedAt = fromMicro(created), fromMicro(updated)
	return p, err
}

// productByID reads a product with its SKUs, their stock and the list of its pictures.
func productByID(ctx context.Context, q query, id levee.ProductID) (p Product, err error) {
	err = each(ctx, q, func(rows *db.Rows) (err error) {
		p, err = scanProduct(rows)
		return err
	}, "SELECT "+productColumns+" FROM catalog_product WHERE id = ?", id)
	if err != nil {
		return p, err
	}
	if p.ID == 0 {
		return p, levee.E(levee.CodeNotFound, "there is no such product")
	}
	err = each(ctx, q, func(rows *db.Rows) error {
		k := SKU{Product: p.ID, Title: p.Title, State: p.State}
		err := rows.Scan(&k.ID, &k.Code, &k.Name, &k.Price.Minor, &k.Price.Currency, &k.OnHand, &k.Version)
		p.SKUs = append(p.SKUs, k)
		return err
	}, "SELECT id, code, name, price_minor, currency, on_hand, version FROM catalog_sku WHERE product_id = ? ORDER BY id", id)
	if err != nil {
		return p, err
	}
	err = each(ctx, q, func(rows *db.Rows) error {
		c := Picture{Product: p.ID}
		var created int64
		err := rows.Scan(&c.ID, &c.Alt, &c.MediaType, &c.Width, &c.Height, &c.Size, &c.SHA256, &created)
		c.CreatedAt = fromMicro(created)
		p.Pictures = append(p.Pictures, c)
		return err
	}, "SELECT id, alt, media_type, width, height, size, sha256, created_at FROM catalog_picture WHERE product_id = ? ORDER BY id", id)
	return p, err
}

func skuByID(ctx context.Context, q query, id levee.SKUID) (k SKU, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		return rows.Scan(&k.ID, &k.Product, &k.Title, &k.State, &k.Code, &k.Name, &k.Price.Minor, &k.Price.Currency, &k.OnHand, &k.Version)
	}, "SELECT s.id, s.product_id, p.title, p.state, s.code, s.name, s.price_minor, s.currency, s.on_hand, s.version"+
		" FROM catalog_sku s JOIN catalog_product p ON p.id = s.product_id WHERE s.id = ?", id)
	if err == nil && k.ID == 0 {
		err = errNoSKU()
	}
	return k, err
}

// lockSKU keeps others from changing a SKU's row before this transaction ends, where transactions run side by side. Who reads a
// row, decides, and then changes it must have locked it before: two who only read it would wait for each other.
func lockSKU(ctx context.Context, tx *db.Tx, d db.Dialect, id levee.SKUID) error {
	lock := d.ForUpdate()
	if lock == "" {
		return nil
	}
	return each(ctx, tx.Query, func(rows *db.Rows) error { return rows.Scan(&id) }, "SELECT id FROM catalog_sku WHERE id = ?"+lock, id)
}

func errNoSKU() *levee.Error { return levee.E(levee.CodeNotFound, "there is no such SKU") }

// onHand reads a SKU's stock; CodeNotFound when there is no such SKU.
func onHand(ctx context.Context, q query, id levee.SKUID) (n int64, err error) {
	n = -1
	err = each(ctx, q, func(rows *db.Rows) error { return rows.Scan(&n) }, "SELECT on_hand FROM catalog_sku WHERE id = ?", id)
	if err == nil && n < 0 {
		err = errNoSKU()
	}
	return n, err
}

// skuIDByCode returns the SKU that has this code, and its product; zeros when none has.
func skuIDByCode(ctx context.Context, q query, code string) (id levee.SKUID, product levee.ProductID, err error) {
	err = each(ctx, q, func(rows *db.Rows) error { return rows.Scan(&id, &product) },
		"SELECT id, product_id FROM catalog_sku WHERE code = ?", code)
	return id, product, err
}

// productIDByCode returns the product that has this code; 0 when none has.
func productIDByCode(ctx context.Context, q query, code string) (id levee.ProductID, err error) {
	err = each(ctx, q, func(rows *db.Rows) error { return rows.Scan(&id) }, "SELECT id FROM catalog_product WHERE code = ?", code)
	return id, err
}

// scanMost bounds how many products one page looks at for what no index serves: visitors may search, too.
const scanMost = 20_000

func productList(sealer *id.Sealer) *listing.List[productView] {
	return listing.New[productView](listing.Spec{Name: "products", Open: sealer.Open, ScanMost: scanMost, Export: true,
		Fields: []listing.Field{
			{Name: "id", Type: listing.ID, Kind: levee.KindProduct, Column: "id", Doc: "The product's id"},
			{Name: "code", Column: "code", Doc: "The shop's own name of it"},
			{Name: "title", Column: "title_key", Fold: titleKey, Contains: true, Doc: "The whole title; letter case does not matter"},
			{Name: "prefix", Order: byTitle, Is: titleBegins, Fold: titleKey, Doc: "What the title begins with; letter case does not matter. The list goes by title then"},
			{Name: "state", Type: listing.Choice, Column: "state", Choices: []string{string(Draft), string(OnSale), string(Withdrawn)}, Doc: "Visitors see what is on sale, and no more"},
			{Name: "created_at", Type: listing.Time, Column: "created_at", Scans: true, Doc: "When it was made"},
			{Name: "updated_at", Type: listing.Time, Column: "updated_at", Scans: true, Doc: "When title, description or state last changed"},
		},
		Search: []string{"title_key"}, Fold: titleKey,
		Keys:  []listing.Key{{Name: "id", Column: "id"}, {Name: "title", Column: "title_key", Text: true}, {Name: "code", Column: "code", Text: true}},
		Order: "-id", Unique: "id"})
}

func byTitle(string) string { return "title" }

// titleBegins is a range, which the index serves on every engine. No title holds a character above the last, so it ends the range.
func titleBegins(prefix any) (string, []any) {
	return "title_key >= ? AND title_key < ?", []any{prefix, prefix.(string) + "\U0010FFFF"} //nolint:errcheck // a text field
}

func listProducts(ctx context.Context, q query, asked *listing.Query) (*listing.Found[levee.ProductID], error) {
	return listing.Rows(ctx, listing.Reader(q), asked, "id", "catalog_product", func(row listing.Row) (id levee.ProductID, err error) {
		return id, row.Scan(&id)
	})
}

func insertProduct(ctx context.Context, tx *db.Tx, p Product) error {
	_, err := tx.Exec(ctx, "INSERT INTO catalog_product (id, code, title, title_key, description, state, version, created_at, updated_at)"+
		" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		p.ID, p.Code, p.Title, titleKey(p.Title), p.Description, p.State, p.Version, micro(p.CreatedAt), micro(p.UpdatedAt))
	return err
}

// updateProduct writes a product that was read at version p.Version-1; false when it is not at that version any more.
func updateProduct(ctx context.Context, tx *db.Tx, p Product) (bool, error) {
	return changed(tx.Exec(ctx, "UPDATE catalog_product SET code = ?, title = ?, title_key = ?, description = ?, state = ?, version = ?,"+
		" updated_at = ? WHERE id = ? AND version = ?",
		p.Code, p.Title, titleKey(p.Title), p.Description, p.State, p.Version, micro(p.UpdatedAt), p.ID, p.Version-1))
}

func insertSKU(ctx context.Context, tx *db.Tx, k SKU, now time.Time) error {
	_, err := tx.Exec(ctx, "INSERT INTO catalog_sku (id, product_id, code, name, price_minor, currency, on_hand, version, created_at,"+
		" updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		k.ID, k.Product, k.Code, k.Name, k.Price.Minor, k.Price.Currency, k.OnHand, k.Version, micro(now), micro(now))
	return err
}

// updateSKU writes a SKU that was read at version k.Version-1; false when it is not at that version any more. Stock is left.
func updateSKU(ctx context.Context, tx *db.Tx, k SKU, now time.Time) (bool, error) {
	return changed(tx.Exec(ctx, "UPDATE catalog_sku SET code = ?, name = ?, price_minor = ?, currency = ?, version = ?, updated_at = ?"+
		" WHERE id = ? AND version = ?",
		k.Code, k.Name, k.Price.Minor, k.Price.Currency, k.Version, micro(now), k.ID, k.Version-1))
}

// moveStock changes a SKU's stock by delta if it stays at or above zero, and at or below most. The condition and the change
// are one statement: this is the line that cannot oversell. False: the condition did not hold, or there is no such SKU.
func moveStock(ctx context.Context, tx *db.Tx, id levee.SKUID, delta, most int64) (bool, error) {
	if delta < 0 {
		return changed(tx.Exec(ctx, "UPDATE catalog_sku SET on_hand = on_hand - ? WHERE id = ? AND on_hand >= ?", -delta, id, -delta))
	}
	return changed(tx.Exec(ctx, "UPDATE catalog_sku SET on_hand = on_hand + ? WHERE id = ? AND on_hand <= ?", delta, id, most-delta))
}

// noMost lets a return always go through: the units are there, whatever an operator may type at the most.
const noMost = math.MaxInt64

func insertMovement(ctx context.Context, tx *db.Tx, m Movement) error {
	_, err := tx.Exec(ctx, "INSERT INTO catalog_movement (id, sku_id, delta, reason, ref, actor_id, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
		m.ID, m.SKU, m.Delta, m.Reason, m.Ref, m.Actor, micro(m.At))
	return err
}

func movementList(sealer *id.Sealer) *listing.List[movementView] {
	return listing.New[movementView](listing.Spec{Name: "movements", Open: sealer.Open, ScanMost: scanMost, Export: true,
		Fields: []listing.Field{
			{Name: "reason", Column: "reason", Scans: true, Doc: "create, adjust, import, order, cancel, …"},
			{Name: "ref", Column: "ref", Scans: true, Doc: "What it was done for"},
			{Name: "by", Type: listing.ID, Kind: levee.KindUser, Column: "actor_id", Scans: true, Doc: "The account that did it"},
			{Name: "delta", Type: listing.Number, Column: "delta", Scans: true, Doc: "Units; below zero they left the shelf"},
			{Name: "at", Type: listing.Time, Column: "at", Scans: true, Doc: "When it was"},
		},
		Keys: []listing.Key{{Name: "id", Column: "id"}}, Order: "-id", Unique: "id"})
}

// movements returns a page of a SKU's ledger, newest first.
func movements(ctx context.Context, q query, sku levee.SKUID, asked *listing.Query) (*listing.Found[Movement], error) {
	asked.Where("sku_id = ?", sku)
	return listing.Rows(ctx, listing.Reader(q), asked, "id, delta, reason, ref, actor_id, at", "catalog_movement", func(row listing.Row) (Movement, error) {
		m := Movement{SKU: sku}
		var at int64
		err := row.Scan(&m.ID, &m.Delta, &m.Reason, &m.Ref, &m.Actor, &at)
		m.At = fromMicro(at)
		return m, err
	})
}

// drifts compares stock and ledger of every SKU in one statement, hence in one snapshot, and returns at most limit that differ.
func drifts(ctx context.Context, q query, limit int) (list []Drift, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var d Drift
		err := rows.Scan(&d.SKU, &d.OnHand, &d.Ledger)
		list = append(list, d)
		return err
	}, "SELECT s.id, s.on_hand, COALESCE(m.total, 0) FROM catalog_sku s"+
		" LEFT JOIN (SELECT sku_id, SUM(delta) AS total FROM catalog_movement GROUP BY sku_id) m ON m.sku_id = s.id"+
		" WHERE s.on_hand <> COALESCE(m.total, 0) OR s.on_hand < 0 ORDER BY s.id LIMIT ?", limit)
	return list, err
}

func insertPicture(ctx context.Context, tx *db.Tx, c Picture, data []byte) error {
	_, err := tx.Exec(ctx, "INSERT INTO catalog_picture (id, product_id, alt, media_type, width, height, size, sha256, created_at, data)"+
		" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		c.ID, c.Product, c.Alt, c.MediaType, c.Width, c.Height, c.Size, c.SHA256, micro(c.CreatedAt), data)
	return err
}

// pictureByID reads one picture with its bytes.
func pictureByID(ctx context.Context, q query, id levee.PictureID) (c pictureBytes, err error) {
	var created int64
	err = each(ctx, q, func(rows *db.Rows) error {
		return rows.Scan(&c.ID, &c.Product, &c.Alt, &c.MediaType, &c.Width, &c.Height, &c.Size, &c.SHA256, &created, &c.data)
	}, "SELECT id, product_id, alt, media_type, width, height, size, sha256, created_at, data FROM catalog_picture WHERE id = ?", id)
	c.CreatedAt = fromMicro(created)
	if err == nil && c.ID == 0 {
		err = errNoPicture()
	}
	return c, err
}

func errNoPicture() *levee.Error { return levee.E(levee.CodeNotFound, "there is no such picture") }

func deletePicture(ctx context.Context, tx *db.Tx, id levee.PictureID) error {
	_, err := tx.Exec(ctx, "DELETE FROM catalog_picture WHERE id = ?", id)
	return err
}

func changed(r db.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}
