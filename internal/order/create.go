package order

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"levee"
	"levee/internal/platform/db"
)

var (
	headColumns = []string{"id", "buyer_id", "source", "source_ref", "total_minor", "currency", "due_at", "created_at"}
	itemColumns = []string{"order_id", "line", "sku_id", "product_id", "title", "quantity", "price_minor"}
)

// CreateManyTx makes orders in StateCreated within the caller's transaction and says so in one event. The hot path of a
// sale's settlement: two multi-row inserts and one event for the whole batch. It fails with CodeInvalid for an order that
// cannot be (no lines, two currencies, an amount beyond 63 bits, an unknown source) and CodeTooLarge for more than 4,096
// orders, in both cases before anything was written.
func (s *Service) CreateManyTx(ctx context.Context, tx *db.Tx, orders []New) error {
	if len(orders) == 0 {
		return nil
	}
	if len(orders) > maxBatch {
		return levee.E(levee.CodeTooLarge, "%d orders in one batch, allowed are %d", len(orders), maxBatch)
	}
	b := s.batches.get()
	defer s.batches.put(b)
	for i := range orders {
		if err := b.add(s, &orders[i]); err != nil {
			return err
		}
	}
	if err := tx.InsertRows(ctx, "order_head", headColumns, b.heads.rows()); err != nil {
		return err
	}
	if err := tx.InsertRows(ctx, "order_item", itemColumns, b.items.rows()); err != nil {
		return err
	}
	if err := s.events.Emit(ctx, tx, CreatedBatch{Orders: b.ids, At: orders[0].CreatedAt}); err != nil {
		return err
	}
	n := float64(len(orders))
	tx.AfterCommit(func() { s.metrics.created.Add(n) })
	return nil
}

// batchPool keeps the buffers of CreateManyTx between batches.
type batchPool struct{ pool sync.Pool }

func (p *batchPool) get() *batch {
	if b, ok := p.pool.Get().(*batch); ok {
		return b
	}
	return &batch{heads: table{width: len(headColumns)}, items: table{width: len(itemColumns)}}
}

func (p *batchPool) put(b *batch) {
	b.heads.reset()
	b.items.reset()
	b.ids = b.ids[:0]
	p.pool.Put(b)
}

// batch is the rows of one CreateManyTx. Orders of a batch resemble each other: the values that repeat from row to row are
// put into their interface once, which is most of what a row would allocate.
type batch struct {
	heads, items table
	ids          []levee.OrderID

	source, currency, title    lastString
	ref, total, due, created   lastInt
	sku, product, count, price lastInt
}

func (b *batch) add(s *Service, o *New) error {
	switch {
	case o.ID <= 0 || o.Buyer <= 0:
		return levee.E(levee.CodeInvalid, "an order needs a number and a buyer")
	case s.sources[o.Source] == nil:
		return levee.Invalid("source", "a source that has joined", o.Source)
	case len(o.Lines) == 0 || len(o.Lines) > maxLines:
		return levee.Invalid("lines", "1 to 50", len(o.Lines))
	case !o.PayBy.After(o.CreatedAt):
		return levee.Invalid("pay_by", "after the order's creation", o.PayBy)
	}
	total := levee.Money{Currency: o.Lines[0].Price.Currency}
	id := any(int64(o.ID))
	for i := range o.Lines {
		l := &o.Lines[i]
		if l.Quantity < 1 || l.Quantity > maxQuantity {
			return levee.Invalid("quantity", "1 to 1000000", l.Quantity)
		}
		sum, err := l.Price.Times(int64(l.Quantity))
		if err != nil {
			return err
		}
		if total, err = total.Plus(sum); err != nil {
			return err
		}
		title := l.Title
		if len(title) > maxTitle {
			title = levee.Shorten(title, maxTitle-len("…"))
		}
		b.items.add(id, smallInts[i], b.sku.box(int64(l.SKU)), b.product.box(int64(l.Product)), b.title.box(title),
			b.count.box(int64(l.Quantity)), b.price.box(l.Price.Minor))
	}
	if len(total.Currency) != 3 {
		return levee.Invalid("currency", "three letters", total.Currency)
	}
	b.heads.add(id, int64(o.Buyer), b.source.box(o.Source), b.ref.box(o.SourceRef), b.total.box(total.Minor),
		b.currency.box(total.Currency), b.due.box(o.PayBy.UnixMicro()), b.created.box(o.CreatedAt.UnixMicro()))
	b.ids = append(b.ids, o.ID)
	return nil
}

var smallInts = func() (t [maxLines]any) {
	for i := range t {
		t[i] = int64(i)
	}
	return t
}()

// lastInt and lastString remember the value they boxed last.
type lastInt struct {
	value int64
	boxed any
}

func (l *lastInt) box(v int64) any {
	if l.boxed == nil || l.value != v {
		l.value, l.boxed = v, v
	}
	return l.boxed
}

type lastString struct {
	value string
	boxed any
}

func (l *lastString) box(v string) any {
	if l.boxed == nil || l.value != v {
		l.value, l.boxed = v, v
	}
	return l.boxed
}

// table collects rows of one width in one slice, cut into rows at the end.
type table struct {
	width int
	cells []any
	cut   [][]any
}

func (t *table) add(cells ...any) { t.cells = append(t.cells, cells...) }

func (t *table) rows() [][]any {
	t.cut = t.cut[:0]
	for i := 0; i < len(t.cells); i += t.width {
		t.cut = append(t.cut, t.cells[i:i+t.width:i+t.width])
	}
	return t.cut
}

func (t *table) reset() {
	clear(t.cells)
	clear(t.cut)
	t.cells, t.cut = t.cells[:0], t.cut[:0]
}

// Want is what a buyer asks for.
type Want struct {
	SKU      levee.SKUID
	Quantity int32
}

// merge adds up equal SKUs and sorts by SKU: stock is always taken in this order, so two orders never wait for each other.
func merge(wants []Want) ([]Want, error) {
	if len(wants) == 0 || len(wants) > maxLines {
		return nil, levee.Invalid("body.lines", "1 to 50 lines", len(wants))
	}
	sorted := slices.Clone(wants)
	slices.SortFunc(sorted, func(a, b Want) int { return cmp.Compare(a.SKU, b.SKU) })
	merged := sorted[:0]
	for _, w := range sorted {
		if w.SKU <= 0 {
			return nil, levee.Invalid("body.lines.sku", "a SKU of the catalog", w.SKU)
		}
		if w.Quantity < 1 || w.Quantity > maxQuantity {
			return nil, levee.Invalid("body.lines.quantity", "1 to 1000000", w.Quantity)
		}
		if n := len(merged); n > 0 && merged[n-1].SKU == w.SKU {
			if merged[n-1].Quantity += w.Quantity; merged[n-1].Quantity > maxQuantity {
				return nil, levee.Invalid("body.lines.quantity", "1 to 1000000 of one SKU", merged[n-1].Quantity)
			}
			continue
		}
		merged = append(merged, w)
	}
	return merged, nil
}
