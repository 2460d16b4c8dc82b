package order

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"levee"
	"levee/internal/catalog"
	"levee/internal/platform/db"
	"levee/internal/platform/web"
)

// sourceShop is the source of ordinary purchases: the catalog's own stock on hand.
const sourceShop = "shop"

// Buy makes an ordinary order: every SKU's units are taken from the catalog in the same transaction, all or none. Equal SKUs
// are merged. The same key with the same wants answers with the first order again, as it was; with other wants it is
// CodeIdempotencyMismatch; an empty key is no protection. CodeOutOfStock, CodeNotFound or CodeGone name what cannot be had.
func (s *Service) Buy(ctx context.Context, buyer levee.Actor, wants []Want, key string) (_ Order, err error) {
	defer levee.Wrap(&err, "order.Buy(%d)", buyer.User)
	switch {
	case !buyer.SignedIn():
		return Order{}, levee.E(levee.CodeUnauthenticated, "sign in to buy")
	case buyer.Rehearsal:
		return Order{}, levee.E(levee.CodeForbidden, "a buyer of a rehearsal can only buy in it")
	case s.catalog == nil:
		return Order{}, levee.E(levee.CodeUnavailable, "this shop sells nothing but sales")
	}
	merged, err := merge(wants)
	if err != nil {
		return Order{}, err
	}
	o, err := web.Once(levee.WithActor(ctx, buyer), s.db, "order.buy", key, merged, func(ctx context.Context, tx *db.Tx) (*Order, error) {
		o, err := s.BuyTx(ctx, tx, buyer.User, merged)
		return &o, err
	})
	if err != nil {
		return Order{}, err
	}
	return *o, nil
}

// BuyTx is Buy within the caller's transaction, without the protection of a key.
func (s *Service) BuyTx(ctx context.Context, tx *db.Tx, buyer levee.UserID, wants []Want) (Order, error) {
	merged, err := merge(wants)
	if err != nil {
		return Order{}, err
	}
	number, err := s.ids.Next()
	if err != nil {
		return Order{}, err
	}
	lines := make([]Line, len(merged))
	for i, w := range merged {
		if lines[i], err = s.takeTx(ctx, tx, number, w); err != nil {
			return Order{}, s.named(err, w.SKU)
		}
	}
	for _, l := range lines {
		if l.Price.Currency != lines[0].Price.Currency {
			return Order{}, levee.Invalid("body.lines", "SKUs that are priced in one currency", lines[0].Price.Currency+" and "+l.Price.Currency)
		}
	}
	if err := s.fault("buy.after_stock"); err != nil {
		return Order{}, err
	}
	now := s.clock()
	err = s.CreateManyTx(ctx, tx, []New{{
		ID: levee.OrderID(number), Buyer: buyer, Source: sourceShop, Lines: lines, CreatedAt: now, PayBy: now.Add(s.cfg.PayWithin),
	}})
	if err != nil {
		return Order{}, err
	}
	return s.ByIDTx(ctx, tx, levee.OrderID(number))
}

func (s *Service) takeTx(ctx context.Context, tx *db.Tx, order int64, w Want) (Line, error) {
	sku, err := s.catalog.SKUTx(ctx, tx, w.SKU)
	if err != nil {
		return Line{}, err
	}
	switch sku.State {
	case catalog.OnSale:
	case catalog.Withdrawn:
		return Line{}, levee.E(levee.CodeGone, "%s is no longer sold", sku.Title)
	default: // a draft is not known outside
		return Line{}, levee.E(levee.CodeNotFound, "there is no such SKU")
	}
	if err := s.catalog.TakeTx(ctx, tx, w.SKU, int64(w.Quantity), "order", s.sealer.Seal(levee.KindOrder, order)); err != nil {
		return Line{}, err
	}
	title := sku.Title
	if sku.Name != "" {
		title += ", " + sku.Name
	}
	if len(title) > maxTitle {
		title = levee.Shorten(title, maxTitle-len("…"))
	}
	return Line{SKU: w.SKU, Product: sku.Product, Title: title, Quantity: w.Quantity, Price: sku.Price}, nil
}

// named adds to a refusal which SKU it is about.
func (s *Service) named(err error, sku levee.SKUID) error {
	var e *levee.Error
	if errors.As(err, &e) {
		e.With("sku", s.sealer.Seal(levee.KindSKU, int64(sku)))
	}
	return err
}

// shop is the room as its own source: units of ordinary orders come from the catalog and go back there.
type shop Service

// ReleaseTx puts the units back on the shelf.
func (p *shop) ReleaseTx(ctx context.Context, tx *db.Tx, o Order, _ string) error {
	return p.returnTx(ctx, tx, o, "cancel")
}

// SoldTx has nothing to do: the units left the shelf when the order was made.
func (p *shop) SoldTx(context.Context, *db.Tx, Order) error { return nil }

// ReviveTx takes the units off the shelf once more, all or none.
func (p *shop) ReviveTx(ctx context.Context, tx *db.Tx, o Order) (bool, error) {
	for i, l := range o.Lines {
		err := p.catalog.TakeTx(ctx, tx, l.SKU, int64(l.Quantity), "revive", p.sealer.Seal(levee.KindOrder, int64(o.ID)))
		if levee.CodeOf(err) == levee.CodeOutOfStock {
			for _, l := range o.Lines[:i] {
				if err := p.catalog.ReturnTx(ctx, tx, l.SKU, int64(l.Quantity), "revive", p.sealer.Seal(levee.KindOrder, int64(o.ID))); err != nil {
					return false, err
				}
			}
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// RefundedTx puts the units back on the shelf unless they had left the house; goods that come back are counted in by hand.
func (p *shop) RefundedTx(ctx context.Context, tx *db.Tx, o Order, shipped bool) error {
	if shipped {
		return nil
	}
	return p.returnTx(ctx, tx, o, "refund")
}

func (p *shop) returnTx(ctx context.Context, tx *db.Tx, o Order, reason string) error {
	for _, l := range o.Lines {
		if err := p.catalog.ReturnTx(ctx, tx, l.SKU, int64(l.Quantity), reason, p.sealer.Seal(levee.KindOrder, int64(o.ID))); err != nil {
			return err
		}
	}
	return nil
}

// checkReason accepts one line of text that people wrote, 1 to 180 bytes.
func checkReason(field, text string) (string, error) { return checkText(field, text, maxReason) }

// checkWord accepts a carrier's name or a tracking number.
func checkWord(field, text string) (string, error) { return checkText(field, text, maxReason/2-1) }

func checkText(field, text string, most int) (string, error) {
	kept := strings.TrimSpace(text)
	if kept == "" || len(kept) > most || !utf8.ValidString(kept) || strings.ContainsFunc(kept, unicode.IsControl) {
		return "", levee.Invalid(field, "one line of 1 to "+strconv.Itoa(most)+" bytes", text)
	}
	return kept, nil
}
