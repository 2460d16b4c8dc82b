package line

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/sale"
)

// onFree is asked by sale in the transaction in which units became free, before the crowd can have them.
func (s *Service) onFree(ctx context.Context, tx *db.Tx, v *sale.Sale) error {
	more, err := s.giveTx(ctx, tx, v, atOnce)
	if err != nil || !more {
		return err
	}
	_, err = s.follow.EnqueueTx(ctx, tx, followArgs{v.ID}, job.Unique(s.saleRef(v.ID)))
	return err
}

// giveTx gives what is free to the next in line, to at most n entries, and reports whether it stopped there although more units
// are free and more wait.
func (s *Service) giveTx(ctx context.Context, tx *db.Tx, v *sale.Sale, n int64) (more bool, err error) {
	if !gives(v, s.Obs.Clock()) {
		return false, nil
	}
	h, found, err := s.headTx(ctx, tx, v.ID)
	if err != nil || !found || h.state == headOver {
		return false, err
	}
	if ordered, err := s.inOrderTx(ctx, tx, h); err != nil || !ordered {
		return false, err
	}
	if waits, err := someWaitTx(ctx, tx, v.ID); err != nil || !waits {
		return false, err
	}
	_, free, _, err := s.Sales.FreeTx(ctx, tx, v.ID)
	if err != nil {
		return false, err
	}
	for free > 0 {
		if n == 0 {
			return true, nil
		}
		// Everybody who gets something gets at least one unit, so there are never more offers than units.
		next, err := nextTx(ctx, tx, v.ID, min(free, n, inBatch))
		if err != nil || len(next) == 0 {
			return false, err
		}
		n -= int64(len(next))
		if free, err = s.offerTx(ctx, tx, v, &h, next, free); err != nil {
			return false, err
		}
	}
	return false, nil
}

// gives reports whether the sale gives units to its line now: a pause, a stop or a forced "sold out" holds the line, too.
func gives(v *sale.Sale, now time.Time) bool {
	return v.State == sale.StateScheduled && !v.ForcedSoldOut && !now.Before(v.StartsAt) && now.Before(v.EndsAt)
}

// offerTx asks sale for units for entries in their order, writes what came of each, and returns how many units are still free.
func (s *Service) offerTx(ctx context.Context, tx *db.Tx, v *sale.Sale, h *head, next []Entry, free int64) (int64, error) {
	grants := make([]sale.Grant, len(next))
	for i, e := range next {
		grants[i] = sale.Grant{Buyer: e.Buyer, Quantity: e.want, Key: "line " + s.entryRef(e.ID)}
	}
	granted, err := s.Sales.GrantTx(ctx, tx, v.ID, grants)
	if err != nil {
		return free, err
	}
	if len(granted) != len(next) {
		return free, errors.New("sale.GrantTx answered another number of grants than it was asked for")
	}
	if err := s.step("give.granted"); err != nil {
		return free, err
	}
	var events []event.Event
	for i := range next {
		e, g := &next[i], granted[i]
		switch {
		case g.Quantity > 0:
			e.State, e.Reservation, e.Given, e.PayBy = StateOffered, g.Reservation, g.Quantity, g.PayBy.UTC().Truncate(time.Microsecond)
			free -= int64(g.Quantity)
			events = append(events, Offered{Entry: e.ID, Sale: e.Sale, Buyer: e.Buyer, Order: e.Order(), Quantity: g.Quantity, PayBy: e.PayBy})
		case stays(g.Why):
			continue
		default:
			// It is about him, not about the units: whoever is behind him must not wait for it.
			e.State, e.Reason = StateLost, string(levee.CodeOf(g.Why))
			events = append(events, Lost{Entry: e.ID, Sale: e.Sale, Buyer: e.Buyer, Reason: e.Reason, At: s.Obs.Clock().UTC()})
		}
		if err := s.moveTx(ctx, tx, h, e, StateWaiting); err != nil {
			return free, err
		}
		tx.AfterCommit(func() { s.tell(*e) })
	}
	if err := s.step("give.written"); err != nil {
		return free, err
	}
	if len(events) == 0 {
		return 0, nil // nobody moved: asking again would give the same answer
	}
	return free, s.Events.EmitMany(ctx, tx, events...)
}

// stays reports whether an entry that got nothing keeps its place: the units ran out before it, or the sale gives none now.
func stays(why error) bool {
	switch levee.CodeOf(why) {
	case levee.CodeSoldOut, levee.CodePaused, levee.CodeNotOpen, levee.CodeEnded, levee.CodeNotWarmed, levee.CodeUnavailable:
		return true
	}
	return false
}

type followArgs struct {
	Sale levee.SaleID `json:"sale"`
}

// giveRest goes on where one transaction had to stop.
func (s *Service) giveRest(ctx context.Context, a followArgs) error {
	for more := true; more; {
		err := s.DB.Tx(ctx, "line.give", func(ctx context.Context, tx *db.Tx) error {
			v, _, err := s.termsTx(ctx, tx, a.Sale)
			if err != nil {
				return err
			}
			more, err = s.giveTx(ctx, tx, v, inBatch)
			return err
		})
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Listeners returns what the room wants to hear: what becomes of its offers' orders, and of sales.
func (s *Service) Listeners() []event.Listener {
	return []event.Listener{
		event.Listen("line.sale_changed", s.saleChanged),
		event.Listen("line.order_paid", s.orderPaid),
		event.Listen("line.order_cancelled", s.orderCancelled),
	}
}

// saleChanged gives a draw its seed as soon as it is scheduled.
func (s *Service) saleChanged(ctx context.Context, tx *db.Tx, e sale.StateChanged) error {
	v, err := s.Sales.ByID(ctx, e.Sale)
	if err != nil {
		return err
	}
	if v.Mode == sale.ModeDraw && v.State != sale.StateEnded {
		_, err = s.ensureTx(ctx, tx, v)
	}
	return err
}

// orderPaid ends an offer well. An order whose money came after its cancellation, and that lives again, does so, too.
func (s *Service) orderPaid(ctx context.Context, tx *db.Tx, p order.Paid) error {
	h, e, found, err := s.offerOfTx(ctx, tx, p.Order)
	if err != nil || !found || e.State != StateOffered && e.State != StateLapsed {
		return err
	}
	was := e.State
	e.State, e.Reason = StateOrdered, ""
	return s.toldTx(ctx, tx, &h, &e, was)
}

// orderCancelled ends an offer badly. Its units went to the next in line when the order was cancelled.
func (s *Service) orderCancelled(ctx context.Context, tx *db.Tx, c order.Cancelled) error {
	h, e, found, err := s.offerOfTx(ctx, tx, c.Order)
	if err != nil || !found || e.State != StateOffered {
		return err
	}
	e.State, e.Reason = StateLapsed, ReasonCancelled
	if !c.At.Before(e.PayBy) {
		e.Reason = ReasonUnpaid
	}
	if err := s.toldTx(ctx, tx, &h, &e, StateOffered); err != nil {
		return err
	}
	return s.Events.Emit(ctx, tx, Lost{Entry: e.ID, Sale: e.Sale, Buyer: e.Buyer, Reason: e.Reason, At: c.At})
}

// offerOfTx finds the entry whose offer an order is, and locks its line and then the entry, as everybody does.
func (s *Service) offerOfTx(ctx context.Context, tx *db.Tx, o levee.OrderID) (h head, e Entry, found bool, err error) {
	r := levee.ReservationID(o)
	// Outside of the transaction, which would lock it first. It was committed with its order, and its line never changes.
	if e, found, err = entryByReservation(ctx, s.DB, r); err != nil || !found {
		return h, e, found, err
	}
	if h, _, err = s.headTx(ctx, tx, e.Sale); err == nil {
		e, found, err = entryByReservation(ctx, tx, r)
	}
	return h, e, found, err
}

func (s *Service) toldTx(ctx context.Context, tx *db.Tx, h *head, e *Entry, from State) error {
	if err := s.moveTx(ctx, tx, h, e, from); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.tell(*e) })
	return nil
}
