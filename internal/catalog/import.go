package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
)

const (
	// partialRows is how many lines a partial import writes in one transaction: a few milliseconds of the writer.
	partialRows = 500
	// importTries is how often an import is planned because somebody changed the same products meanwhile.
	importTries = 4
	// forgetAll is from how many SKUs on dropping the whole caches is cheaper than dropping entries.
	forgetAll = 2000
)

// ImportOptions choose what an import does.
type ImportOptions struct {
	Format Format
	// Partial writes the good lines and reports the bad ones, in many small transactions: the choice while a sale runs. Otherwise one
	// bad line stops everything, and all lines are written in one transaction.
	Partial bool
	// SetStock makes the stock of SKUs that exist what on_hand says. Otherwise on_hand counts for new SKUs only, so that a list exported
	// yesterday and imported today does not bring back what was sold since.
	SetStock bool
}

// ImportResult tells what an import did.
type ImportResult struct {
	Lines           int // of data, the bad ones included
	Failed          int // lines that were not imported
	ProductsCreated int
	ProductsChanged int
	SKUsCreated     int
	SKUsChanged     int
	StockChanged    int        // SKUs, new ones not included
	Errors          []RowError // the first 100
}

func (r *ImportResult) add(p *plan) {
	r.ProductsCreated += len(p.products)
	r.ProductsChanged += len(p.productEdits)
	r.SKUsCreated += len(p.skus)
	r.SKUsChanged += len(p.skuEdits)
	r.StockChanged += len(p.deltas)
}

// Import makes and changes products and SKUs, which it knows by their codes; what is not in the file is left alone, and what is the same
// is not touched. Importing a file again changes nothing. For operators.
//
// The file is read to its end and held against all rules before the first row is written. CodeInvalid: lines are refused, Fields has
// the first 100 as line[17].price_minor with what is allowed and what was given, and nothing was imported (a partial import reports
// them in the result instead). CodeTooLarge: more than Config.ImportBytes or Config.ImportRows. CodeUnavailable: another import runs.
// CodeConflict: another node kept changing the same products.
func (s *Service) Import(ctx context.Context, r io.Reader, o ImportOptions) (res ImportResult, err error) {
	defer levee.Wrap(&err, "catalog.Import(%s)", shown(string(o.Format)))
	if !s.importing.CompareAndSwap(false, true) {
		return res, levee.E(levee.CodeUnavailable, "another import is under way").After(5 * time.Second)
	}
	defer s.importing.Store(false)
	src, err := readText(r, s.Config.ImportBytes)
	if err != nil {
		return res, err
	}
	p := problems{lines: map[int]bool{}}
	rows, lines, err := parse(o.Format, src, s.Config.ImportRows, &p)
	if err != nil {
		return res, err
	}
	groups := gather(rows, &p)
	res.Lines = lines
	if !o.Partial {
		if len(p.list) > 0 {
			return res, p.err(lines)
		}
		return res, s.importBatch(ctx, groups, o, &p, &res)
	}
	for len(groups) > 0 {
		n, count := 0, 0
		for n < len(groups) && (n == 0 || count+len(groups[n].rows) <= partialRows) {
			count += len(groups[n].rows)
			n++
		}
		if err := s.importBatch(ctx, groups[:n], o, &p, &res); err != nil {
			return res, levee.E(levee.CodeOf(err), "the import stopped at line %d; what came before it is imported, and importing "+
				"the file again is safe", groups[0].rows[0].Line).Because(err)
		}
		groups = groups[n:]
	}
	res.Failed, res.Errors = len(p.lines), p.list
	return res, nil
}

// readText reads at most most bytes.
func readText(r io.Reader, most int64) (string, error) {
	var b strings.Builder
	n, err := io.Copy(&b, io.LimitReader(r, most+1))
	if n > most {
		return "", levee.E(levee.CodeTooLarge, "an import has at most %d bytes, got more", most)
	}
	if err != nil {
		return "", levee.E(levee.CodeMalformed, "the import could not be read to its end; nothing was imported").Because(err)
	}
	return b.String(), nil
}

// group is a product with its lines, of which there is at least one. All lines say the same about the product.
type group struct{ rows []Row }

// gather brings the lines of each product together, in the order of the file, and reports lines that contradict an earlier one.
func gather(rows []Row, p *problems) []group {
	var groups []group
	products := make(map[string]int, len(rows)) // code → index in groups
	skus := make(map[string]int, len(rows))     // code → line
	for _, r := range rows {
		at, known := products[r.ProductCode]
		ok := true
		if known {
			first := groups[at].rows[0]
			same := func(col column, is, was string) {
				if is != was {
					p.add(r.Line, columnNames[col], fmt.Sprintf("the same as on line %d for this product (%q)", first.Line, shown(was)), is)
					ok = false
				}
			}
			same(colTitle, r.Title, first.Title)
			same(colDescription, r.Description, first.Description)
			same(colState, string(r.State), string(first.State))
		}
		if line, twice := skus[r.SKUCode]; twice && r.SKUCode != "" {
			p.add(r.Line, columnNames[colSKUCode], fmt.Sprintf("a code that is not in the file before (line %d has it)", line), r.SKUCode)
			ok = false
		}
		if !ok {
			continue
		}
		skus[r.SKUCode] = r.Line
		if !known {
			at = len(groups)
			products[r.ProductCode] = at
			groups = append(groups, group{})
		}
		groups[at].rows = append(groups[at].rows, r)
	}
	return groups
}

// plan is all that a batch of lines changes, worked out while others go on writing.
type plan struct {
	products, skus, movements [][]any // new rows
	productEdits              []Product
	skuEdits                  []SKU
	deltas                    []delta
	changed                   []levee.ProductID
	changedSKUs               []levee.SKUID
	now                       time.Time
}

// delta is a change of an existing SKU's stock, with its movement among plan.movements.
type delta struct {
	sku levee.SKUID
	n   int64
}

// errMoved says that what a plan stands on has changed since.
var errMoved = errors.New("the catalog changed while the import was planned")

// importBatch plans and writes groups in one transaction. Bad lines that the plan finds stop a whole import, and are left out of a
// partial one.
func (s *Service) importBatch(ctx context.Context, groups []group, o ImportOptions, p *problems, res *ImportResult) error {
	for try := 1; ; try++ {
		var found problems
		var pl *plan
		work := func(ctx context.Context, q query) (err error) {
			// A try that is given up takes its findings with it: the next finds them again, as does a transaction that is run again.
			found = problems{list: p.list[:len(p.list):len(p.list)], lines: map[int]bool{}}
			if pl, err = s.plan(ctx, q, groups, o, &found); err == nil && len(found.lines) > 0 && !o.Partial {
				err = found.err(res.Lines)
			}
			return err
		}
		// The last try plans where nobody else writes, so that a busy shop cannot keep an import out.
		last := try == importTries
		var err error
		if !last {
			err = work(db.Primary(ctx), s.DB.Query)
		}
		if err == nil && (last || len(pl.changed) > 0) {
			err = s.DB.Tx(ctx, "catalog.import", func(ctx context.Context, tx *db.Tx) error {
				if last {
					if err := work(ctx, tx.Query); err != nil || len(pl.changed) == 0 {
						return err
					}
				}
				return s.write(ctx, tx, pl)
			})
		}
		if err == nil {
			res.add(pl)
			maps.Copy(p.lines, found.lines)
			p.list = found.list
			return nil
		}
		if !errors.Is(err, errMoved) && !db.IsUnique(err) {
			return err
		}
		if last {
			return levee.E(levee.CodeConflict, "others changed the same products while they were imported; nothing was imported, try again").Because(err)
		}
	}
}

// idBlock hands out ids from blocks, rising.
type idBlock struct {
	next func(dst []int64) error
	left []int64
	buf  [256]int64
}

func (b *idBlock) take() (int64, error) {
	if len(b.left) == 0 {
		b.left = b.buf[:]
		if err := b.next(b.left); err != nil {
			b.left = nil
			return 0, err
		}
	}
	id := b.left[0]
	b.left = b.left[1:]
	return id, nil
}

// plan compares the lines with what is there. Through the readers' pool it does not hold the writer up.
func (s *Service) plan(ctx context.Context, q query, groups []group, o ImportOptions, p *problems) (*plan, error) {
	var codes, skuCodes []string
	for _, g := range groups {
		codes = append(codes, g.rows[0].ProductCode)
		for _, r := range g.rows {
			if r.SKUCode != "" {
				skuCodes = append(skuCodes, r.SKUCode)
			}
		}
	}
	products, counts, err := productsByCode(ctx, q, codes)
	if err != nil {
		return nil, err
	}
	skus, err := skusByCode(ctx, q, skuCodes)
	if err != nil {
		return nil, err
	}
	ids := &idBlock{next: s.IDs.NextN}
	run, err := ids.take() // names this import in the ledger
	if err != nil {
		return nil, err
	}
	pl := &plan{now: s.now()}
	ref, actor := decimal(run), levee.ActorFrom(ctx).User
	move := func(sku levee.SKUID, n int64) error {
		id, err := ids.take()
		m := Movement{ID: id, SKU: sku, Delta: n, Reason: ReasonImport, Ref: ref, Actor: actor, At: pl.now}
		pl.movements = append(pl.movements, movementRow(m))
		return err
	}
	for _, g := range groups {
		have, exists := products[g.rows[0].ProductCode]
		rows := fitting(g, have, skus, counts[have.ID], p)
		if len(rows) == 0 {
			continue
		}
		if !exists {
			if have.ID, err = newProductID(ids); err != nil {
				return nil, err
			}
		}
		touched := pl.product(have, exists, rows[0])
		for _, r := range rows {
			if r.SKUCode == "" {
				continue
			}
			k, there := skus[r.SKUCode]
			switch {
			case !there:
				id, err := ids.take()
				if err != nil {
					return nil, err
				}
				k = SKU{ID: levee.SKUID(id), Product: have.ID, Code: r.SKUCode, Name: r.SKUName, Price: r.Price, OnHand: r.OnHand, Version: 1}
				pl.skus = append(pl.skus, skuRow(k, pl.now))
				if k.OnHand > 0 {
					if err := move(k.ID, k.OnHand); err != nil {
						return nil, err
					}
				}
			default:
				edit := k.Name != r.SKUName || k.Price != r.Price
				if edit {
					k.Name, k.Price, k.Version = r.SKUName, r.Price, k.Version+1
					pl.skuEdits = append(pl.skuEdits, k)
				}
				// The difference is what is written, so that a unit sold between reading and writing stays sold.
				count := o.SetStock && r.Counted && k.OnHand != r.OnHand
				if count {
					pl.deltas = append(pl.deltas, delta{k.ID, r.OnHand - k.OnHand})
					if err := move(k.ID, r.OnHand-k.OnHand); err != nil {
						return nil, err
					}
				}
				if !edit && !count {
					continue
				}
			}
			touched = true
			pl.changedSKUs = append(pl.changedSKUs, k.ID)
		}
		if touched {
			pl.changed = append(pl.changed, have.ID)
		}
	}
	return pl, nil
}

func newProductID(ids *idBlock) (levee.ProductID, error) {
	id, err := ids.take()
	return levee.ProductID(id), err
}

// product plans the product itself and reports whether there is anything to do.
func (pl *plan) product(have Product, exists bool, r Row) bool {
	p := have
	p.Code, p.Title, p.Description, p.State, p.UpdatedAt = r.ProductCode, r.Title, r.Description, r.State, pl.now
	if !exists {
		p.Version, p.CreatedAt = 1, pl.now
		pl.products = append(pl.products, productRow(p))
		return true
	}
	if p.Title == have.Title && p.Description == have.Description && p.State == have.State {
		return false
	}
	p.Version++
	pl.productEdits = append(pl.productEdits, p)
	return true
}

// fitting returns the lines of a product that fit what is there (have is zero for a new product with count SKUs) and reports the others.
func fitting(g group, have Product, skus map[string]SKU, count int, p *problems) []Row {
	rows := make([]Row, 0, len(g.rows))
	for _, r := range g.rows {
		if r.SKUCode != "" {
			k, there := skus[r.SKUCode]
			if there && k.Product != have.ID {
				p.add(r.Line, columnNames[colSKUCode], "a code that no other product uses", r.SKUCode)
				continue
			}
			if !there {
				if count >= MaxSKUs {
					p.add(r.Line, columnNames[colSKUCode], fmt.Sprintf("one of at most %d SKUs of a product", MaxSKUs), r.SKUCode)
					continue
				}
				count++
			}
		}
		rows = append(rows, r)
	}
	allowed := ""
	switch state := g.rows[0].State; {
	case state == Draft && have.ID != 0 && have.State != Draft:
		allowed = "on_sale or withdrawn for a product that is " + string(have.State)
	case state == OnSale && count == 0:
		allowed = "draft or withdrawn for a product without a SKU"
	default:
		return rows
	}
	for _, r := range g.rows {
		if !p.lines[r.Line] { // its own fault is the better answer
			p.add(r.Line, columnNames[colState], allowed, string(r.State))
		}
	}
	return nil
}

// write carries out a plan. Each statement holds only if what the plan read is still so; else errMoved, and nothing is kept.
func (s *Service) write(ctx context.Context, tx *db.Tx, pl *plan) error {
	if err := insertPlan(ctx, tx, pl); err != nil {
		return err
	}
	for _, p := range pl.productEdits {
		if ok, err := updateProduct(ctx, tx, p); err != nil || !ok {
			return moved(err)
		}
	}
	for _, k := range pl.skuEdits {
		if ok, err := updateSKU(ctx, tx, k, pl.now); err != nil || !ok {
			return moved(err)
		}
	}
	for _, d := range pl.deltas {
		if ok, err := moveStock(ctx, tx, d.sku, d.n, noMost); err != nil || !ok {
			return moved(err)
		}
	}
	var res ImportResult
	res.add(pl)
	if err := s.audit(ctx, tx, "catalog.import", "", nil, res); err != nil {
		return err
	}
	var events []event.Event
	for ids := pl.changed; len(ids) > 0; {
		n := min(len(ids), eventProducts)
		events = append(events, ProductsChanged{Products: ids[:n]})
		ids = ids[n:]
	}
	if err := s.Events.EmitMany(ctx, tx, events...); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		s.lists.InvalidateAll()
		if len(pl.changed)+len(pl.changedSKUs) > forgetAll {
			s.products.InvalidateAll()
			s.skus.InvalidateAll()
			s.stock.InvalidateAll()
			return
		}
		s.products.Invalidate(pl.changed...)
		s.skus.Invalidate(pl.changedSKUs...)
		s.stock.Invalidate(pl.changedSKUs...)
		if len(pl.productEdits) > 0 {
			s.skus.InvalidateAll() // a SKU shows its product's title and state, also one that the file does not name
		}
	})
	return nil
}

func moved(err error) error {
	if err != nil {
		return err
	}
	return errMoved
}
