package sale

import (
	"context"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/tally"
)

// source is the room as order sees it: where an order's units came from, and where they go back to.
type source Service

// ReleaseTx gives the units of a cancelled order back, once. They are free for the next buyer after the commit; if the sale is
// over they go on to the catalog in the same transaction.
func (src *source) ReleaseTx(ctx context.Context, tx *db.Tx, o order.Order, reason string) error {
	return (*Service)(src).giveBackTx(ctx, tx, o, Reserved, books.Released, reason)
}

// giveBackTx releases what an order holds in a state; the reservation's compare-and-set decides that it happens once.
func (s *Service) giveBackTx(ctx context.Context, tx *db.Tx, o order.Order, from ReservationState, kind, reason string) error {
	r, err := s.reservationTx(ctx, tx, levee.ReservationID(o.ID))
	if err != nil {
		return err
	}
	v, stock, err := s.lockSale(ctx, tx, r.Sale)
	if err != nil {
		return err
	}
	won, err := s.moveReservationTx(ctx, tx, r.ID, from, Released)
	if err != nil || !won {
		return err
	}
	actor := levee.ActorFrom(ctx).User
	back, err := s.moveTx(ctx, tx, &stock, movement{sale: r.Sale, kind: kind, units: int64(r.Quantity), reservation: r.ID, actor: actor, reason: short(reason)})
	if err != nil {
		return err
	}
	back.Holdings = []gate.Change{{Buyer: r.Buyer, Units: -r.Quantity}}
	if err := s.step("release.after_stock"); err != nil {
		return err
	}
	if from == Reserved {
		tx.AtCommit(func() { s.count(r.Sale, (*tally.Sale).Cancelled) })
	}
	if v.State == StateEnded {
		gone, err := s.withdrawTx(ctx, tx, v, &stock, int64(r.Quantity), actor, "given back after the sale's end")
		s.tell(tx, v.ID, gone, back)
		return err
	}
	return s.freeTx(ctx, tx, v, back)
}

// SoldTx marks the units of a paid order as sold.
func (src *source) SoldTx(ctx context.Context, tx *db.Tx, o order.Order) error {
	s := (*Service)(src)
	r, err := s.reservationTx(ctx, tx, levee.ReservationID(o.ID))
	if err != nil {
		return err
	}
	stock, err := s.stockTx(ctx, tx, r.Sale)
	if err != nil {
		return err
	}
	won, err := s.moveReservationTx(ctx, tx, r.ID, Reserved, Sold)
	if err != nil || !won {
		return err
	}
	sold, err := s.moveTx(ctx, tx, &stock, movement{sale: r.Sale, kind: books.Sold, units: int64(r.Quantity), reservation: r.ID, actor: levee.ActorFrom(ctx).User})
	tx.AtCommit(func() { s.count(r.Sale, (*tally.Sale).Paid) })
	s.tell(tx, r.Sale, sold)
	return err
}

// ReviveTx takes the units of a cancelled order again because its money came after all. It reports false, and the money goes
// back, if the sale is over, the units are gone, or the buyer has taken others since and would hold more than he may.
func (src *source) ReviveTx(ctx context.Context, tx *db.Tx, o order.Order) (bool, error) {
	s := (*Service)(src)
	r, err := s.reservationTx(ctx, tx, levee.ReservationID(o.ID))
	if err != nil {
		return false, err
	}
	v, stock, err := s.lockSale(ctx, tx, r.Sale)
	if err != nil {
		return false, err
	}
	held, err := s.heldBy(ctx, tx, r.Sale, []*gate.Taking{{Attempt: gate.Attempt{Buyer: r.Buyer}}})
	if err != nil {
		return false, err
	}
	var sum int32
	for _, h := range held[r.Buyer] {
		if h.State != Released {
			sum += h.Quantity
		}
	}
	units := int64(r.Quantity)
	if v.State == StateEnded || v.State == StateStopped || v.ForcedSoldOut || stock.Remaining < units || sum+r.Quantity > v.PerBuyer {
		return false, nil
	}
	won, err := s.moveReservationTx(ctx, tx, r.ID, Released, Sold)
	if err != nil || !won {
		return false, err
	}
	moves := make([]gate.Movement, 2)
	for i, kind := range []string{books.Reserved, books.Sold} {
		moves[i], err = s.moveTx(ctx, tx, &stock, movement{sale: r.Sale, kind: kind, units: units, reservation: r.ID, actor: levee.ActorFrom(ctx).User,
			reason: "paid after its cancellation"})
		if err != nil {
			return false, err
		}
	}
	moves[0].Holdings = []gate.Change{{Buyer: r.Buyer, Units: r.Quantity}}
	s.tell(tx, r.Sale, moves...)
	tx.AtCommit(func() { s.count(r.Sale, (*tally.Sale).Paid) })
	return true, nil
}

// RefundedTx gives the units of a refunded order back to the sale if they never left the house, once. Units that were shipped
// stay sold: whether they can be sold again is for whoever unpacks them to say, in the catalog.
func (src *source) RefundedTx(ctx context.Context, tx *db.Tx, o order.Order, shipped bool) error {
	if shipped {
		return nil
	}
	return (*Service)(src).giveBackTx(ctx, tx, o, Sold, books.Returned, "refunded before it was shipped")
}

// withdrawTx takes free units out of the sale and gives them back to the catalog (a rehearsal has taken none from there).
func (s *Service) withdrawTx(ctx context.Context, tx *db.Tx, v *Sale, stock *Stock, units int64, actor levee.UserID, reason string) (gate.Movement, error) {
	m, err := s.moveTx(ctx, tx, stock, movement{sale: v.ID, kind: books.Withdrawn, units: units, actor: actor, reason: short(reason)})
	if err != nil || v.Rehearsal {
		return m, err
	}
	return m, s.Catalog.ReturnTx(ctx, tx, v.SKU, units, catalogReason, s.ref(v.ID))
}

// offerTx brings units into the sale, out of the catalog's stock on hand. It fails with CodeOutOfStock if fewer are there.
func (s *Service) offerTx(ctx context.Context, tx *db.Tx, v *Sale, stock *Stock, units int64, actor levee.UserID, reason string) (gate.Movement, error) {
	if !v.Rehearsal {
		if err := s.Catalog.TakeTx(ctx, tx, v.SKU, units, catalogReason, s.ref(v.ID)); err != nil {
			return gate.Movement{}, err
		}
	}
	return s.moveTx(ctx, tx, stock, movement{sale: v.ID, kind: books.Offered, units: units, actor: actor, reason: short(reason)})
}

// catalogReason is the word for a sale's movements in the catalog's ledger; who and why stand in the sale's own.
const catalogReason = "sale"

// ref is how the catalog's ledger names a sale.
func (s *Service) ref(sale levee.SaleID) string {
	return s.Sealer.Seal(levee.KindSale, int64(sale))
}

func short(reason string) string { return levee.Shorten(reason, maxReason) }

// GiveUp cancels a buyer's own unpaid reservation; the next in line can have the units. It fails with CodeNotFound for a
// reservation that is not his and CodeConflict for one that is paid or gone.
func (s *Service) GiveUp(ctx context.Context, id levee.ReservationID, buyer levee.Actor) error {
	r, found, err := s.reservationByID(ctx, id)
	if err != nil {
		return err
	}
	if !found || r.Buyer != buyer.User {
		return levee.E(levee.CodeNotFound, "there is no such reservation")
	}
	return s.Orders.Cancel(ctx, levee.OrderID(id), buyer, "given up by the buyer")
}

// Void cancels any buyer's unpaid reservation for a stated reason: an operator's act, kept in the order's history, the sale's
// ledger and its acts. A paid one is refunded through its order instead (CodeConflict says so).
func (s *Service) Void(ctx context.Context, id levee.ReservationID, operator levee.Actor, reason string) error {
	if reason == "" {
		return levee.Invalid("body.reason", "a reason of 1 to 180 bytes", reason)
	}
	r, found, err := s.reservationByID(ctx, id)
	if err != nil {
		return err
	}
	if !found {
		return levee.E(levee.CodeNotFound, "there is no such reservation")
	}
	return s.DB.Tx(ctx, "sale.void", func(ctx context.Context, tx *db.Tx) error {
		if err := s.Orders.CancelTx(ctx, tx, levee.OrderID(id), operator, reason); err != nil {
			return err
		}
		return s.actTx(ctx, tx, r.Sale, Act{Act: "void", Units: int64(r.Quantity), Reason: short(reason),
			Detail: s.Sealer.Seal(levee.KindReservation, int64(id)), Actor: operator.User})
	})
}
