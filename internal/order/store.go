package order

import (
	"context"
	"errors"
	"strings"
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

func fromMicro(n int64) time.Time { return time.UnixMicro(n).UTC() }

const (
	shownColumns = `id, buyer_id, source, source_ref, state, total_minor, currency, due_at, postponed, created_at, updated_at, version`
	selectHead   = `SELECT ` + shownColumns + ` FROM order_head`
	selectItem   = `SELECT order_id, sku_id, product_id, title, quantity, price_minor FROM order_item`
	selectStep   = `SELECT from_state, to_state, actor_id, ref, reason, at FROM order_history WHERE order_id = ?`
)

func scanHead(rows listing.Row) (o Order, err error) {
	var due db.NullInt64
	var postponed, created, updated int64
	err = rows.Scan(&o.ID, &o.Buyer, &o.Source, &o.SourceRef, &o.State, &o.Total.Minor, &o.Total.Currency, &due, &postponed,
		&created, &updated, &o.Version)
	if due.Valid {
		o.PayBy = fromMicro(due.Int64 - postponed)
	}
	o.CreatedAt, o.UpdatedAt = fromMicro(created), fromMicro(max(created, updated))
	return o, err
}

func loadOrder(ctx context.Context, q query, id levee.OrderID) (Order, error) {
	return readOrder(ctx, q, selectHead+` WHERE id = ?`, id)
}

// lockHead locks an order's row without reading it.
func lockHead(ctx context.Context, tx *db.Tx, lock string, id levee.OrderID) error {
	return each(ctx, tx.Query, func(rows *db.Rows) error { return rows.Scan(&id) }, `SELECT id FROM order_head WHERE id = ?`+lock, int64(id))
}

// lockOrder reads an order so that nobody else changes it before this transaction ends.
func lockOrder(ctx context.Context, tx *db.Tx, d db.Dialect, id levee.OrderID) (Order, error) {
	return readOrder(ctx, tx.Query, selectHead+` WHERE id = ?`+d.ForUpdate(), id)
}

func readOrder(ctx context.Context, q query, text string, id levee.OrderID) (o Order, err error) {
	err = each(ctx, q, func(rows *db.Rows) (err error) {
		o, err = scanHead(rows)
		return err
	}, text, int64(id))
	if err != nil {
		return o, err
	}
	if o.ID == 0 {
		return o, notFound()
	}
	err = each(ctx, q, func(rows *db.Rows) error {
		_, l, err := scanItem(rows, o.Total.Currency)
		o.Lines = append(o.Lines, l)
		return err
	}, selectItem+` WHERE order_id = ? ORDER BY line`, int64(id))
	return o, err
}

func scanItem(rows *db.Rows, currency string) (order levee.OrderID, l Line, err error) {
	l.Price.Currency = currency
	err = rows.Scan(&order, &l.SKU, &l.Product, &l.Title, &l.Quantity, &l.Price.Minor)
	return order, l, err
}

// updateState moves an order on if it is still in the state and version it was read in.
func updateState(ctx context.Context, tx *db.Tx, o *Order, to State, at time.Time) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE order_head SET state = ?, due_at = NULL, postponed = 0, updated_at = ?, version = version + 1`+
		` WHERE id = ? AND state = ? AND version = ?`, int64(to), at.UnixMicro(), int64(o.ID), int64(o.State), o.Version)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// insertStep writes the step that has just led to the order's version.
func insertStep(ctx context.Context, tx *db.Tx, o *Order, e Entry) error {
	_, err := tx.Exec(ctx, `INSERT INTO order_history (order_id, version, from_state, to_state, actor_id, ref, reason, at)`+
		` VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		int64(o.ID), o.Version, int64(e.From), int64(e.To), int64(e.Actor), e.Ref, e.Reason, e.At.UnixMicro())
	return err
}

func scanStep(rows *db.Rows) (e Entry, err error) {
	var at int64
	err = rows.Scan(&e.From, &e.To, &e.Actor, &e.Ref, &e.Reason, &at)
	e.At = fromMicro(at)
	return e, err
}

func loadHistory(ctx context.Context, q query, id levee.OrderID) (steps []Entry, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		e, err := scanStep(rows)
		steps = append(steps, e)
		return err
	}, selectStep+` ORDER BY version`, int64(id))
	return steps, err
}

// lastStep returns the step that led to the order's version.
func lastStep(ctx context.Context, q query, o Order) (e Entry, err error) {
	err = each(ctx, q, func(rows *db.Rows) (err error) {
		e, err = scanStep(rows)
		return err
	}, selectStep+` AND version = ?`, int64(o.ID), o.Version)
	return e, err
}

// dueOrder is an unpaid order whose time has come: its deadline, and the moment the index has it under.
type dueOrder struct {
	id    levee.OrderID
	payBy time.Time
	due   int64
}

func dueOrders(ctx context.Context, q query, now time.Time, limit int) (due []dueOrder, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var d dueOrder
		var postponed int64
		err := rows.Scan(&d.id, &d.due, &postponed)
		d.payBy = fromMicro(d.due - postponed)
		due = append(due, d)
		return err
	}, `SELECT id, due_at, postponed FROM order_head WHERE due_at <= ? ORDER BY due_at LIMIT ?`, now.UnixMicro(), limit)
	return due, err
}

func updateDue(ctx context.Context, tx *db.Tx, d dueOrder, to time.Time) error {
	by := to.UnixMicro() - d.due
	_, err := tx.Exec(ctx, `UPDATE order_head SET due_at = due_at + ?, postponed = postponed + ? WHERE id = ? AND due_at = ?`,
		by, by, int64(d.id), d.due)
	return err
}

// scanMost bounds how many orders an operator's filter looks at for one page. There is no index on state, source or time: each
// would be paid for by every order of a sale.
const scanMost = 20_000

func orderList(sealer *id.Sealer) *listing.List[orderView] {
	stored := map[string]any{}
	for _, state := range States() {
		stored[state.String()] = int64(state)
	}
	return listing.New[orderView](listing.Spec{Name: "orders", Open: sealer.Open, ScanMost: scanMost, Export: true, Includes: []string{"timeline"},
		Fields: []listing.Field{
			{Name: "id", Type: listing.ID, Kind: levee.KindOrder, Column: "id", Doc: "The order's id"},
			{Name: "state", Type: listing.Choice, Column: "state", Choices: stateNames[1:], Stored: stored, Scans: true, Doc: "Where it stands"},
			{Name: "buyer", Type: listing.ID, Kind: levee.KindUser, Column: "buyer_id", Doc: "For operators: one buyer's orders"},
			{Name: "source", Column: "source", Scans: true, Doc: "shop, sale or rehearsal"},
			{Name: "sale", Type: listing.ID, Kind: levee.KindSale, Column: "source_ref", Scans: true, Doc: "The sale it was bought in"},
			{Name: "total", Type: listing.Number, Column: "total_minor", Scans: true, Doc: "Its amount in the currency's minor unit"},
			{Name: "created_at", Type: listing.Time, Column: "created_at", Scans: true, Doc: "When it was made"},
		},
		Keys: []listing.Key{{Name: "id", Column: "id"}}, Order: "-id", Unique: "id"})
}

func listOrders(ctx context.Context, q query, asked *listing.Query) (*listing.Found[Order], error) {
	found, err := listing.Rows(ctx, listing.Reader(q), asked, shownColumns, "order_head", scanHead)
	if err != nil {
		return nil, err
	}
	return found, loadItems(ctx, q, found.Rows)
}

// loadHistories reads the steps of several orders, each order's oldest first.
func loadHistories(ctx context.Context, q query, orders []Order) (map[levee.OrderID][]Entry, error) {
	steps := map[levee.OrderID][]Entry{}
	if len(orders) == 0 {
		return steps, nil
	}
	ids := make([]any, len(orders))
	for i, o := range orders {
		ids[i], steps[o.ID] = int64(o.ID), []Entry{creation(o)}
	}
	return steps, each(ctx, q, func(rows *db.Rows) error {
		var of levee.OrderID
		var e Entry
		var at int64
		err := rows.Scan(&of, &e.From, &e.To, &e.Actor, &e.Ref, &e.Reason, &at)
		e.At = fromMicro(at)
		steps[of] = append(steps[of], e)
		return err
	}, `SELECT order_id, from_state, to_state, actor_id, ref, reason, at FROM order_history WHERE order_id IN (?`+strings.Repeat(", ?", len(ids)-1)+
		`) ORDER BY order_id, version`, ids...)
}

func loadItems(ctx context.Context, q query, orders []Order) error {
	if len(orders) == 0 {
		return nil
	}
	at := make(map[levee.OrderID]*Order, len(orders))
	n := 1
	for n < len(orders) {
		n *= 2 // few different texts, so that each stays prepared
	}
	ids := make([]any, n)
	for i := range ids {
		o := &orders[min(i, len(orders)-1)]
		at[o.ID], ids[i] = o, int64(o.ID)
	}
	return each(ctx, q, func(rows *db.Rows) error {
		id, l, err := scanItem(rows, "")
		if err != nil {
			return err
		}
		o := at[id]
		l.Price.Currency = o.Total.Currency
		o.Lines = append(o.Lines, l)
		return nil
	}, selectItem+` WHERE order_id IN (?`+strings.Repeat(", ?", len(ids)-1)+`) ORDER BY order_id, line`, ids...)
}
