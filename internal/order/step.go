package order

import (
	"context"
	"errors"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// MarkPaidTx tells the order that its money is here, within payment's transaction. Of a payment and an expiry in the same
// instant exactly one changes the order. Money for an order that the system cancelled (expiry) brings it back to life if its
// source still has the units; money for one that a person cancelled does not, because somebody decided that.
// CodeNotFound for an unknown order.
func (s *Service) MarkPaidTx(ctx context.Context, tx *db.Tx, id levee.OrderID, by PaidBy) (_ Outcome, err error) {
	defer levee.Wrap(&err, "order.MarkPaidTx(%d)", id)
	o, err := s.lockTx(ctx, tx, id)
	if err != nil {
		return 0, err
	}
	src, err := s.source(o)
	if err != nil {
		return 0, err
	}
	outcome, reason := OutcomePaid, ""
	switch o.State {
	case StateCreated:
		if err := src.SoldTx(ctx, tx, o); err != nil {
			return 0, err
		}
	case StateCancelled:
		if outcome, err = s.reviveTx(ctx, tx, src, o); err != nil {
			return 0, err
		}
		reason = "paid after its cancellation"
	default:
		outcome = OutcomeAlreadyPaid
	}
	if outcome != OutcomePaid {
		tx.AfterCommit(func() { s.metrics.late.WithLabelValues(outcome.String()).Inc() })
	}
	if outcome == OutcomeAlreadyPaid || outcome == OutcomeTooLate {
		return outcome, nil
	}
	if err := s.fault("paid.after_source"); err != nil {
		return 0, err
	}
	entry, step := Entry{Actor: levee.System.User, Ref: int64(by.Payment), Reason: reason, At: s.clock()}, s.stepTx
	if outcome == OutcomeRevived {
		step = s.backTx
	}
	if err := step(ctx, tx, &o, StatePaid, entry); err != nil {
		return 0, err
	}
	return outcome, s.events.Emit(ctx, tx, Paid{
		Order: id, Buyer: o.Buyer, Source: o.Source, SourceRef: o.SourceRef, Payment: by.Payment, Total: o.Total,
		Revived: outcome == OutcomeRevived, At: by.At.UTC(),
	})
}

func (s *Service) reviveTx(ctx context.Context, tx *db.Tx, src Source, o Order) (Outcome, error) {
	last, err := lastStep(ctx, tx.Query, o)
	if err != nil {
		return 0, err
	}
	if last.Actor != levee.System.User {
		return OutcomeTooLate, nil
	}
	free, err := src.ReviveTx(ctx, tx, o)
	if err != nil || !free {
		return OutcomeTooLate, err
	}
	return OutcomeRevived, nil
}

// Cancel gives an unpaid order up: by its buyer, an operator or the system. Its source has the units back in the same
// transaction. CodeNotFound for somebody else's order, CodeConflict for one that is not waiting for its money.
func (s *Service) Cancel(ctx context.Context, id levee.OrderID, actor levee.Actor, reason string) error {
	return s.db.Tx(ctx, "order.cancel", func(ctx context.Context, tx *db.Tx) error {
		return s.CancelTx(ctx, tx, id, actor, reason)
	})
}

// CancelTx is Cancel within the caller's transaction.
func (s *Service) CancelTx(ctx context.Context, tx *db.Tx, id levee.OrderID, actor levee.Actor, reason string) (err error) {
	defer levee.Wrap(&err, "order.Cancel(%d)", id)
	if reason, err = checkReason("reason", reason); err != nil {
		return err
	}
	o, err := s.lockTx(ctx, tx, id)
	if err != nil {
		return err
	}
	if !maySee(actor, o) {
		return notFound()
	}
	return s.cancelTx(levee.WithActor(ctx, actor), tx, o, actor, reason)
}

func (s *Service) cancelTx(ctx context.Context, tx *db.Tx, o Order, actor levee.Actor, reason string) error {
	if o.State != StateCreated {
		return illegal(o.State, StateCancelled)
	}
	src, err := s.source(o)
	if err != nil {
		return err
	}
	at := s.clock()
	if err := s.stepTx(ctx, tx, &o, StateCancelled, Entry{Actor: actor.User, Reason: reason, At: at}); err != nil {
		return err
	}
	if err := src.ReleaseTx(ctx, tx, o, reason); err != nil {
		return err
	}
	if err := s.fault("cancel.after_source"); err != nil {
		return err
	}
	return s.events.Emit(ctx, tx, Cancelled{
		Order: o.ID, Buyer: o.Buyer, Source: o.Source, SourceRef: o.SourceRef, Reason: reason, At: at.UTC(),
	})
}

// Ship records that the goods of a paid order were handed to a carrier. For operators (CodeForbidden). CodeConflict for an
// order in another state.
func (s *Service) Ship(ctx context.Context, id levee.OrderID, actor levee.Actor, carrier, tracking string) error {
	return s.db.Tx(ctx, "order.ship", func(ctx context.Context, tx *db.Tx) error {
		return s.ShipTx(ctx, tx, id, actor, carrier, tracking)
	})
}

// ShipTx is Ship within the caller's transaction.
func (s *Service) ShipTx(ctx context.Context, tx *db.Tx, id levee.OrderID, actor levee.Actor, carrier, tracking string) (err error) {
	defer levee.Wrap(&err, "order.Ship(%d)", id)
	if carrier, err = checkWord("carrier", carrier); err != nil {
		return err
	}
	if tracking, err = checkWord("tracking", tracking); err != nil {
		return err
	}
	at := s.clock()
	o, err := s.operatorStepTx(ctx, tx, id, actor, StateShipped, Entry{Actor: actor.User, Reason: carrier + " " + tracking, At: at})
	if err != nil {
		return err
	}
	return s.events.Emit(ctx, tx, Shipped{Order: id, Buyer: o.Buyer, Carrier: carrier, Tracking: tracking, At: at.UTC()})
}

// Complete records that a shipped order was delivered. For operators (CodeForbidden). CodeConflict for an order in another state.
func (s *Service) Complete(ctx context.Context, id levee.OrderID, actor levee.Actor) error {
	return s.db.Tx(ctx, "order.complete", func(ctx context.Context, tx *db.Tx) error { return s.CompleteTx(ctx, tx, id, actor) })
}

// CompleteTx is Complete within the caller's transaction.
func (s *Service) CompleteTx(ctx context.Context, tx *db.Tx, id levee.OrderID, actor levee.Actor) (err error) {
	defer levee.Wrap(&err, "order.Complete(%d)", id)
	at := s.clock()
	o, err := s.operatorStepTx(ctx, tx, id, actor, StateDone, Entry{Actor: actor.User, At: at})
	if err != nil {
		return err
	}
	return s.events.Emit(ctx, tx, Completed{Order: id, Buyer: o.Buyer, At: at.UTC()})
}

// RefundingTx records that the money of a paid or shipped order is on its way back: from here on the order cannot be shipped.
// For payment, with the operator who decided it (CodeForbidden for others).
func (s *Service) RefundingTx(ctx context.Context, tx *db.Tx, id levee.OrderID, actor levee.Actor, reason string) (err error) {
	defer levee.Wrap(&err, "order.RefundingTx(%d)", id)
	if reason, err = checkReason("reason", reason); err != nil {
		return err
	}
	_, err = s.operatorStepTx(ctx, tx, id, actor, StateRefunding, Entry{Actor: actor.User, Reason: reason, At: s.clock()})
	return err
}

// RefundedTx records that the provider confirmed the refund. For payment. A source that is a Refunder hears of it.
func (s *Service) RefundedTx(ctx context.Context, tx *db.Tx, id levee.OrderID) (err error) {
	defer levee.Wrap(&err, "order.RefundedTx(%d)", id)
	o, before, err := s.refundingTx(ctx, tx, id, StateRefunded)
	if err != nil {
		return err
	}
	src, err := s.source(o)
	if err != nil {
		return err
	}
	at, shipped := s.clock(), before == StateShipped
	if err := s.stepTx(ctx, tx, &o, StateRefunded, Entry{Actor: levee.System.User, At: at}); err != nil {
		return err
	}
	if r, ok := src.(Refunder); ok {
		if err := r.RefundedTx(ctx, tx, o, shipped); err != nil {
			return err
		}
	}
	if err := s.fault("refunded.after_source"); err != nil {
		return err
	}
	return s.events.Emit(ctx, tx, Refunded{
		Order: id, Buyer: o.Buyer, Source: o.Source, SourceRef: o.SourceRef, Total: o.Total, Shipped: shipped, At: at.UTC(),
	})
}

// RefundRefusedTx records that the provider refused the refund for good: the order is what it was before. For payment.
func (s *Service) RefundRefusedTx(ctx context.Context, tx *db.Tx, id levee.OrderID, reason string) (err error) {
	defer levee.Wrap(&err, "order.RefundRefusedTx(%d)", id)
	o, before, err := s.refundingTx(ctx, tx, id, StatePaid)
	if err != nil {
		return err
	}
	return s.backTx(ctx, tx, &o, before, Entry{Actor: levee.System.User, Reason: levee.Shorten(reason, maxReason), At: s.clock()})
}

// refundingTx locks an order whose refund is under way and returns the state that the refund began from.
func (s *Service) refundingTx(ctx context.Context, tx *db.Tx, id levee.OrderID, to State) (Order, State, error) {
	o, err := s.lockTx(ctx, tx, id)
	if err != nil {
		return Order{}, 0, err
	}
	if o.State != StateRefunding {
		return Order{}, 0, illegal(o.State, to)
	}
	last, err := lastStep(ctx, tx.Query, o)
	return o, last.From, err
}

func (s *Service) operatorStepTx(ctx context.Context, tx *db.Tx, id levee.OrderID, actor levee.Actor, to State, e Entry) (Order, error) {
	if !isOperator(actor) {
		return Order{}, levee.E(levee.CodeForbidden, "only an operator may do this to an order")
	}
	o, err := s.lockTx(ctx, tx, id)
	if err != nil {
		return Order{}, err
	}
	err = s.stepTx(ctx, tx, &o, to, e)
	return o, err
}

// stepTx moves an order that was read in this transaction on, if it is still as it was read, and writes the step down.
func (s *Service) stepTx(ctx context.Context, tx *db.Tx, o *Order, to State, e Entry) error {
	if !o.State.MayBecome(to) {
		return illegal(o.State, to)
	}
	return s.moveTx(ctx, tx, o, to, e)
}

// backTx is stepTx for the steps against the stream.
func (s *Service) backTx(ctx context.Context, tx *db.Tx, o *Order, to State, e Entry) error {
	if !slices.Contains(back[o.State], to) {
		return illegal(o.State, to)
	}
	return s.moveTx(ctx, tx, o, to, e)
}

func (s *Service) moveTx(ctx context.Context, tx *db.Tx, o *Order, to State, e Entry) error {
	e.From, e.To, e.At = o.State, to, e.At.UTC().Truncate(time.Microsecond)
	moved, err := updateState(ctx, tx, o, to, e.At)
	if err != nil {
		return err
	}
	if !moved {
		return levee.E(levee.CodeConflict, "the order was changed by somebody else in the same moment, look at it again")
	}
	o.State, o.Version, o.UpdatedAt, o.PayBy = to, o.Version+1, e.At, time.Time{}
	if err := s.fault("step.after_state"); err != nil {
		return err
	}
	if err := insertStep(ctx, tx, o, e); err != nil {
		return err
	}
	if by := levee.ActorFrom(ctx); s.audit != nil && by.User == e.Actor && by != levee.System && by.User != o.Buyer {
		after := map[string]string{"state": to.String(), "reason": levee.Shorten(e.Reason, 500)}
		if err := s.audit(ctx, tx, "order."+to.String(), s.sealer.Seal(levee.KindOrder, int64(o.ID)), map[string]string{"state": e.From.String()}, after); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() { s.metrics.steps.WithLabelValues(to.String()).Inc() })
	return s.fault("step.after_history")
}

func (s *Service) lockTx(ctx context.Context, tx *db.Tx, id levee.OrderID) (Order, error) {
	return lockOrder(ctx, tx, s.db.Dialect(), id)
}

func (s *Service) source(o Order) (Source, error) {
	src := s.sources[o.Source]
	if src == nil {
		return nil, errors.New("no source has joined under the name " + o.Source)
	}
	return src, nil
}

// fault lets a test fail the transaction between any two steps.
func (s *Service) fault(point string) error {
	if s.failAt == nil {
		return nil
	}
	return s.failAt(point)
}
