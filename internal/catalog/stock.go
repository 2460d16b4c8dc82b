package catalog

import (
	"context"
	"fmt"
	"strconv"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
)

// The reasons that the catalog itself writes into the ledger. Other rooms bring their own words.
const (
	ReasonCreate = "create" // the first stock of a new SKU
	ReasonAdjust = "adjust" // an operator counted, received or lost units
	ReasonImport = "import" // an import set the stock
)

// TakeTx takes quantity units of a SKU off the shelf, in the caller's transaction, and writes the movement. Reason (a word of at
// most MaxReason bytes) and ref (at most MaxRef bytes: an order, a sale) say what for. CodeOutOfStock when fewer are on hand;
// CodeNotFound when there is no such SKU; CodeInvalid for a quantity outside 1 to MaxQuantity. Whether the product is on sale is
// the caller's question: a sale takes its units from a draft.
func (s *Service) TakeTx(ctx context.Context, tx *db.Tx, sku levee.SKUID, quantity int64, reason, ref string) error {
	if err := checkQuantity(quantity); err != nil {
		return err
	}
	return s.move(ctx, tx, sku, -quantity, noMost, reason, ref)
}

// ReturnTx puts quantity units back on the shelf, in the caller's transaction, and writes the movement. The caller makes sure that
// he does so once. CodeNotFound when there is no such SKU; CodeInvalid for a quantity outside 1 to MaxQuantity.
func (s *Service) ReturnTx(ctx context.Context, tx *db.Tx, sku levee.SKUID, quantity int64, reason, ref string) error {
	if err := checkQuantity(quantity); err != nil {
		return err
	}
	return s.move(ctx, tx, sku, quantity, noMost, reason, ref)
}

// AdjustTx changes a SKU's stock by delta units, up or down, in the caller's transaction, and writes the movement. CodeOutOfStock
// when it would fall below zero; CodeConflict when it would exceed MaxOnHand; CodeInvalid for a delta of zero or beyond MaxOnHand.
func (s *Service) AdjustTx(ctx context.Context, tx *db.Tx, sku levee.SKUID, delta int64, reason, ref string) error {
	if delta == 0 || delta < -MaxOnHand || delta > MaxOnHand {
		return levee.Invalid("delta", fmt.Sprintf("a whole number of units other than 0, -%d to %d", MaxOnHand, MaxOnHand), delta)
	}
	return s.move(ctx, tx, sku, delta, MaxOnHand, reason, ref)
}

// Adjust is AdjustTx in a transaction of its own, for operators, with a note for the ledger. It returns the stock after it.
func (s *Service) Adjust(ctx context.Context, sku levee.SKUID, delta int64, note string) (left int64, err error) {
	err = s.DB.Tx(ctx, "catalog.adjust", func(ctx context.Context, tx *db.Tx) (err error) {
		left, err = s.adjustTx(ctx, tx, sku, delta, note)
		return err
	})
	return left, err
}

func (s *Service) adjustTx(ctx context.Context, tx *db.Tx, sku levee.SKUID, delta int64, note string) (left int64, err error) {
	defer levee.Wrap(&err, "catalog.Adjust(%d, %d)", sku, delta)
	kept, allowed := checkLine(note, 0, MaxName)
	if err := refuse("note", allowed, note); err != nil {
		return 0, err
	}
	if len(kept) > MaxRef { // it is the movement's reference
		return 0, levee.Invalid("note", fmt.Sprintf("at most %d bytes", MaxRef), shown(kept))
	}
	if err := s.AdjustTx(ctx, tx, sku, delta, ReasonAdjust, kept); err != nil {
		return 0, err
	}
	left, err = onHand(ctx, tx.Query, sku)
	if err != nil {
		return 0, err
	}
	return left, s.audit(ctx, tx, "sku.adjust", s.skuName(sku), map[string]int64{"on_hand": left - delta}, map[string]int64{"on_hand": left})
}

func checkQuantity(n int64) error {
	if n < 1 || n > MaxQuantity {
		return levee.Invalid("quantity", fmt.Sprintf("a whole number of units, 1 to %d", MaxQuantity), n)
	}
	return nil
}

// move is the one door through which stock changes, but for the first stock of a new SKU and the counting of an import.
func (s *Service) move(ctx context.Context, tx *db.Tx, sku levee.SKUID, delta, most int64, reason, ref string) error {
	if reason == "" || len(reason) > MaxReason {
		return levee.Invalid("reason", fmt.Sprintf("a word of 1 to %d bytes", MaxReason), reason)
	}
	if len(ref) > MaxRef {
		return levee.Invalid("ref", fmt.Sprintf("at most %d bytes", MaxRef), shown(ref))
	}
	ok, err := moveStock(ctx, tx, sku, delta, most)
	if err != nil {
		return fmt.Errorf("catalog: moving %d of SKU %d: %w", delta, sku, err)
	}
	if !ok {
		n, err := onHand(ctx, tx.Query, sku)
		if err != nil {
			return err
		}
		if delta < 0 {
			return levee.E(levee.CodeOutOfStock, "%d units are on hand, %d are wanted", n, -delta).With("on_hand", n)
		}
		return levee.E(levee.CodeConflict, "%d units are on hand, %d more would exceed %d", n, delta, most).With("on_hand", n)
	}
	if err := s.record(ctx, tx, sku, delta, reason, ref); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.stock.Invalidate(sku) })
	return nil
}

func (s *Service) record(ctx context.Context, tx *db.Tx, sku levee.SKUID, delta int64, reason, ref string) error {
	id, err := s.IDs.Next()
	if err != nil {
		return err
	}
	return insertMovement(ctx, tx, Movement{ID: id, SKU: sku, Delta: delta, Reason: reason, Ref: ref,
		Actor: levee.ActorFrom(ctx).User, At: s.now()})
}

// OnHand returns a SKU's stock in units: exact as of this node's last commit, at most a second late for another node's.
// CodeNotFound when there is no such SKU. Never decide a taking on it: TakeTx does that.
func (s *Service) OnHand(ctx context.Context, sku levee.SKUID) (int64, error) {
	return s.stock.Get(ctx, sku, func(ctx context.Context, sku levee.SKUID) (int64, error) {
		return onHand(db.Primary(ctx), s.DB.Query, sku)
	})
}

// Movements returns a page of a SKU's ledger, newest first. For operators. CodeNotFound when there is no such SKU.
func (s *Service) Movements(ctx context.Context, sku levee.SKUID, q *listing.Query) (_ *listing.Found[Movement], err error) {
	defer levee.Wrap(&err, "catalog.Movements(%d)", sku)
	if _, err := onHand(ctx, s.DB.Query, sku); err != nil {
		return nil, err
	}
	return movements(ctx, s.DB.Query, sku, q)
}

// Drift is a SKU whose stock is not the sum of its movements. There must never be one.
type Drift struct {
	SKU    levee.SKUID
	OnHand int64
	Ledger int64
}

// Drifts compares stock and ledger of all SKUs in one snapshot and returns at most 100 that differ. It reads the whole ledger: it is for
// the doctor, not for a page.
func (s *Service) Drifts(ctx context.Context) (list []Drift, err error) {
	defer levee.Wrap(&err, "catalog.Drifts()")
	return drifts(ctx, s.DB.Query, 100)
}

func decimal[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }
