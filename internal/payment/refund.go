package payment

import (
	"context"
	"math/rand/v2"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
)

const (
	refundLease = time.Minute // a try that has not ended by then was killed, and another begins
	refundFirst = 2 * time.Second
	refundMost  = 10 * time.Minute
	maxReason   = 180
)

// RefundOrder gives an order's money back, for an operator (CodeForbidden): of a paid or shipped order the payment that paid it,
// and the order is refunding until the provider confirms; of a cancelled order money whose return was refused before. The same
// transaction moves the order and writes the refund. CodeConflict when there is no money to give back.
func (s *Service) RefundOrder(ctx context.Context, actor levee.Actor, id levee.OrderID, reason string) (r Refund, err error) {
	err = s.db.Tx(ctx, "payment.refund", func(ctx context.Context, tx *db.Tx) error {
		r, err = s.RefundOrderTx(ctx, tx, actor, id, reason)
		return err
	})
	return r, err
}

// RefundOrderTx is RefundOrder within the caller's transaction.
func (s *Service) RefundOrderTx(ctx context.Context, tx *db.Tx, actor levee.Actor, id levee.OrderID, reason string) (_ Refund, err error) {
	defer levee.Wrap(&err, "payment.RefundOrder(%d)", id)
	if !isOperator(actor) {
		return Refund{}, levee.E(levee.CodeForbidden, "only an operator may give money back")
	}
	if err := s.orders.LockTx(ctx, tx, id); err != nil {
		return Refund{}, err
	}
	o, err := s.orders.ByIDTx(ctx, tx, id)
	if err != nil {
		return Refund{}, err
	}
	attempts, err := attemptsOf(ctx, tx.Query, id)
	if err != nil {
		return Refund{}, err
	}
	waiting := o.State == order.StatePaid || o.State == order.StateShipped
	for _, a := range attempts {
		if a.State == StatePaid && a.PaidOrder == waiting {
			return s.refundTx(ctx, tx, actor, a, reason, waiting)
		}
	}
	return Refund{}, levee.E(levee.CodeConflict, "the order is %s, there is no money to give back", o.State).With("state", o.State.String())
}

// RefundPaymentTx gives one payment's money back, for an operator (CodeForbidden). If it paid its order, it is RefundOrderTx.
// CodeConflict when the provider does not hold its money or it is on its way back already.
func (s *Service) RefundPaymentTx(ctx context.Context, tx *db.Tx, actor levee.Actor, id levee.PaymentID, reason string) (_ Refund, err error) {
	defer levee.Wrap(&err, "payment.RefundPayment(%d)", id)
	if !isOperator(actor) {
		return Refund{}, levee.E(levee.CodeForbidden, "only an operator may give money back")
	}
	a, err := s.lockTx(ctx, tx, id)
	if err != nil {
		return Refund{}, err
	}
	if a.State != StatePaid {
		return Refund{}, levee.E(levee.CodeConflict, "the payment is %s, there is no money to give back", a.State).With("state", a.State.String())
	}
	return s.refundTx(ctx, tx, actor, a, reason, a.PaidOrder)
}

func (s *Service) refundTx(ctx context.Context, tx *db.Tx, actor levee.Actor, a Attempt, reason string, forOrder bool) (Refund, error) {
	if forOrder {
		if err := s.orders.RefundingTx(ctx, tx, a.Order, actor, reason); err != nil {
			return Refund{}, err
		}
	}
	if err := s.returnTx(ctx, tx, &a, actor, reason, forOrder); err != nil {
		return Refund{}, err
	}
	list, err := refundsOf(ctx, tx.Query, a.ID)
	if err != nil {
		return Refund{}, err
	}
	return list[len(list)-1], nil
}

// returnTx sends a paid attempt's money back: from its commit on, the refund is tried until the provider confirms or refuses it.
func (s *Service) returnTx(ctx context.Context, tx *db.Tx, a *Attempt, actor levee.Actor, reason string, forOrder bool) error {
	number, err := s.ids.Next()
	if err != nil {
		return err
	}
	now := s.clock()
	moved, err := moveAttempt(ctx, tx, a, StateRefunding, now)
	if err == nil && !moved {
		err = errMoved
	}
	if err != nil {
		return err
	}
	if err := s.fault("return.after_attempt"); err != nil {
		return err
	}
	if by := levee.ActorFrom(ctx); s.audit != nil && by.User == actor.User && by != levee.System && by.SignedIn() {
		after := map[string]any{"refund": s.sealer.Seal(levee.KindRefund, number), "amount": a.Amount, "reason": levee.Shorten(reason, 500)}
		if err := s.audit(ctx, tx, "payment.refunding", s.sealer.Seal(levee.KindPayment, int64(a.ID)), nil, after); err != nil {
			return err
		}
	}
	at := fromMicro(now.UnixMicro())
	return insertRefund(ctx, tx, Refund{
		ID: levee.RefundID(number), Payment: a.ID, Order: a.Order, State: RefundPending, ForOrder: forOrder, Amount: a.Amount,
		Reason: levee.Shorten(reason, maxReason), Actor: actor.User, CreatedAt: at, UpdatedAt: at, dueAt: at.UnixMicro(),
	})
}

// tryRefund tells the provider to give the money back, or asks it what became of an earlier try. Whoever claims a refund is the
// only one who talks about it until his lease is over.
func (s *Service) tryRefund(ctx context.Context, r Refund) error {
	a, err := loadAttempt(db.Primary(ctx), s.db.Query, r.Payment, "")
	if err != nil {
		return err
	}
	var claimed bool
	err = s.db.Tx(ctx, "payment.refund_claim", func(ctx context.Context, tx *db.Tx) (err error) {
		claimed, err = claimRefund(ctx, tx, r, s.clock().Add(refundLease))
		return err
	})
	if err != nil || !claimed {
		return err
	}
	r.Tries++
	if err := s.fault("refund.after_claim"); err != nil {
		return err
	}
	status, err := s.tellProvider(ctx, a, r)
	if err == nil {
		err = s.fault("refund.after_answer")
	}
	switch {
	case err != nil:
		s.metrics.refunds.WithLabelValues(a.Provider, "failed").Inc()
		s.log.WarnContext(ctx, "a refund is not confirmed yet, it is tried again", "refund", int64(r.ID), "try", r.Tries, "err", err)
		return s.db.Tx(ctx, "payment.refund_delay", func(ctx context.Context, tx *db.Tx) error {
			now := s.clock()
			return delayRefund(ctx, tx, r.ID, levee.Shorten(err.Error(), maxReason), now.Add(backoff(r.Tries, refundFirst, refundMost)), now)
		})
	case status == refundDone:
		return s.endRefund(ctx, r, RefundDone, "")
	default:
		return s.endRefund(ctx, r, RefundRefused, "refused by the provider")
	}
}

// tellProvider returns refundDone or refundRefused, or an error while nobody knows.
func (s *Service) tellProvider(ctx context.Context, a Attempt, r Refund) (status refundStatus, err error) {
	number := s.sealer.Seal(levee.KindRefund, int64(r.ID))
	if r.Tries > 1 {
		// An earlier try may have reached the provider although its answer never came back.
		if _, status, err = s.query(ctx, a, number); err != nil || status != refundUnknown {
			return status, err
		}
	}
	g := s.gateways[a.Provider]
	if g == nil {
		return 0, levee.E(levee.CodeUnavailable, "the payment provider %q is not set up any more", a.Provider)
	}
	err = s.called(g, "refund", func() (err error) {
		status, err = g.Refund(ctx, refundCall{
			payment: s.sealer.Seal(levee.KindPayment, int64(a.ID)), refund: number, amount: r.Amount, reason: r.Reason,
		})
		return err
	})
	if err == nil && status == refundUnknown {
		err = levee.E(levee.CodeUnavailable, "the payment provider gave no clear answer")
	}
	return status, err
}

// endRefund books how a refund ended: refund, attempt and order in one transaction.
func (s *Service) endRefund(ctx context.Context, r Refund, to RefundState, why string) error {
	ctx = levee.WithActor(ctx, levee.System)
	return s.db.Tx(ctx, "payment.refund_end", func(ctx context.Context, tx *db.Tx) error {
		now := s.clock()
		if err := s.orders.LockTx(ctx, tx, r.Order); err != nil {
			return err
		}
		ended, err := endRefund(ctx, tx, r.ID, to, why, now)
		if err != nil || !ended {
			return err // ended by somebody else
		}
		if err := s.fault("refund.after_end"); err != nil {
			return err
		}
		a, err := s.lockTx(ctx, tx, r.Payment)
		if err != nil {
			return err
		}
		next, result := StateRefunded, "done"
		if to == RefundRefused {
			next, result = StatePaid, "refused"
		}
		moved, err := moveAttempt(ctx, tx, &a, next, now)
		if err == nil && !moved {
			err = errMoved
		}
		if err != nil {
			return err
		}
		if err := s.fault("refund.after_attempt"); err != nil {
			return err
		}
		if r.ForOrder && to == RefundDone {
			err = s.orders.RefundedTx(ctx, tx, r.Order)
		} else if r.ForOrder {
			err = s.orders.RefundRefusedTx(ctx, tx, r.Order, why)
		}
		if err != nil {
			return err
		}
		tx.AfterCommit(func() {
			s.metrics.refunds.WithLabelValues(a.Provider, result).Inc()
			if to == RefundRefused {
				s.log.ErrorContext(ctx, "a provider refused a refund for good, an operator has to see to it", "refund", int64(r.ID), "order", int64(r.Order))
			}
		})
		if to == RefundRefused {
			return s.events.Emit(ctx, tx, ReturnRefused{
				Refund: r.ID, Payment: r.Payment, Order: r.Order, Amount: r.Amount, Reason: why, At: now.UTC(),
			})
		}
		return s.events.Emit(ctx, tx, Returned{Refund: r.ID, Payment: r.Payment, Order: r.Order, Amount: r.Amount, At: now.UTC()})
	})
}

// backoff is the pause after the n-th try (from 1): first, doubled each time up to most, spread by a fifth.
func backoff(n int, first, most time.Duration) time.Duration {
	d := most
	if n < 20 && first<<(n-1) < most {
		d = first << (n - 1)
	}
	return d - d/10 + rand.N(d/5)
}
