package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
)

// settleLoop settles the sale's takings in batches: while one batch commits, the next gathers. When ctx ends it settles what
// is left, because the gate admits nobody after the server has drained.
func (s *Service) settleLoop(ctx context.Context, l *live) {
	deliveries := make(chan []*taking, 2)
	delivered := make(chan struct{})
	go func() {
		// Waking hundreds of buyers takes as long as their inserts do, so it runs beside the next batch.
		defer close(delivered)
		for batch := range deliveries {
			s.deliver(l, batch)
		}
	}()
	work := context.WithoutCancel(ctx)
	for {
		batch := l.gate.next(s.Config.BatchMax)
		if batch != nil {
			s.settleBatch(work, l, batch)
			deliveries <- batch
			continue
		}
		select {
		case <-l.gate.wake:
		case <-ctx.Done():
			if batch := l.gate.next(s.Config.BatchMax); batch != nil {
				s.settleBatch(work, l, batch)
				deliveries <- batch
				continue
			}
			close(deliveries)
			<-delivered
			return
		}
	}
}

// deliver signals the batch's buyers, and keeps refusals for those who were answered 202 before. Both happen under one lock: a
// buyer at his bound marks himself either before, and is seen here, or after, and sees the signal.
func (s *Service) deliver(l *live, batch []*taking) {
	l.late.Lock()
	defer l.late.Unlock()
	if len(l.waited) > 0 {
		for _, t := range batch {
			if _, ok := l.waited[t.id]; ok {
				delete(l.waited, t.id)
				s.settledLate(l, t)
			}
		}
	}
	l.gate.signal(batch)
}

// settleBatch asks SQL for its word on a batch and sets each taking's result. An error whose outcome is not known is looked
// up by reservation id until SQL answers: nothing is undone blindly, and no buyer is told a guess.
func (s *Service) settleBatch(ctx context.Context, l *live, batch []*taking) {
	started := time.Now()
	err := s.settleOnce(ctx, l, batch)
	for wait := 10 * time.Millisecond; err != nil; wait = min(2*wait, time.Second) {
		s.log.Warn("a settlement has no known outcome; its reservations are looked up", "sale", l.public, "purchases", len(batch), "err", err)
		s.pass("settle.unknown")
		found, lookErr := s.settledAmong(ctx, batch)
		if lookErr == nil {
			s.resolveUnknown(l, batch, found, err)
			break
		}
		time.Sleep(wait)
	}
	s.metrics.settled(batch, time.Since(started))
}

// resolveUnknown ends a batch whose commit was not answered: what SQL holds is won, the rest took nothing.
func (s *Service) resolveUnknown(l *live, batch []*taking, found map[levee.ReservationID]bool, cause error) {
	refused := levee.E(levee.CodeUnavailable, "the purchase could not be written; nothing was taken").After(time.Second).Because(cause)
	for _, t := range batch {
		t.result = outcome{}
		if !found[t.id] {
			t.result.err = refused
		}
	}
	s.accountFor(l, batch)
}

// accountFor gives what was refused back to the gate.
func (s *Service) accountFor(l *live, batch []*taking) {
	if freed := l.gate.settle(batch); freed > 0 {
		l.sw.lift(l.gate.move(0, 0, 0).Epoch)
	}
}

// settleOnce is one transaction: stock by condition, reservations, orders, ledger and event, all or nothing. The gate's
// account follows in the commit's own order (AtCommit), so a gate that is loaded meanwhile counts nothing twice.
func (s *Service) settleOnce(ctx context.Context, l *live, batch []*taking) error {
	var lost error
	err := s.DB.Tx(ctx, "sale.settle", func(ctx context.Context, tx *db.Tx) error {
		if err := s.settleTx(ctx, tx, l.view.Load().ID, batch); err != nil {
			return err
		}
		tx.AtCommit(func() {
			if lost = s.step("settle.answer"); lost == nil {
				s.accountFor(l, batch)
			}
		})
		return s.step("settle.before_commit")
	})
	if err != nil {
		return err
	}
	return lost
}

// settleTx takes stock for a batch in the order of arrival and writes what was won. The results of all takings are set.
func (s *Service) settleTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, batch []*taking) error {
	v, stock, err := s.lockSale(ctx, tx, sale)
	if err != nil {
		return err
	}
	held, err := s.heldBy(ctx, tx, sale, batch)
	if err != nil {
		return err
	}
	if err := s.step("settle.after_read"); err != nil {
		return err
	}
	won, units := s.judge(v, stock, held, batch)
	if len(won) == 0 {
		return nil
	}
	if err := s.takeStockTx(ctx, tx, sale, units); err != nil {
		return err
	}
	if err := s.step("settle.after_stock"); err != nil {
		return err
	}
	now := s.Obs.Clock()
	if err := s.insertReservationsTx(ctx, tx, sale, won, now); err != nil {
		return err
	}
	if err := s.step("settle.after_reservations"); err != nil {
		return err
	}
	if err := s.Orders.CreateManyTx(ctx, tx, s.newOrders(v, won, now)); err != nil {
		return err
	}
	if err := s.step("settle.after_orders"); err != nil {
		return err
	}
	return s.ledgerTx(ctx, tx, movement{sale: sale, kind: movedReserved, units: units, reservation: won[0].id})
}

// judge decides each taking by what SQL holds: SQL has the last word on state, stock, limit and key.
func (s *Service) judge(v *Sale, stock Stock, held map[levee.UserID][]Reservation, batch []*taking) (won []*taking, units int64) {
	var refused error
	switch {
	case v.State == StateStopped:
		refused = refusalPaused.err
	case v.State == StateEnded || v.State == StateDraft:
		refused = refusalEnded.err
	case v.ForcedSoldOut:
		refused = refusalSoldOut.err
	}
	won = make([]*taking, 0, len(batch))
	for _, t := range batch {
		t.result = outcome{err: refused}
		mine := held[t.buyer]
		var sum int32
		for _, r := range mine {
			if r.key == t.key {
				t.result = outcome{existing: r.ID}
				if r.Quantity != t.quantity {
					t.result = outcome{err: levee.E(levee.CodeIdempotencyMismatch,
						"this idempotency key was used for a quantity of %d, not %d", r.Quantity, t.quantity)}
				}
			}
			if r.State != Released {
				sum += r.Quantity
			}
		}
		if t.result.err != nil || t.result.existing != 0 {
			continue
		}
		switch {
		case sum+t.quantity > v.PerBuyer:
			t.result.err = levee.E(levee.CodeLimitReached, "a buyer may hold %d of this sale", v.PerBuyer)
		case units+int64(t.quantity) > stock.Remaining:
			t.result.err = refusalSoldOut.err
		default:
			units += int64(t.quantity)
			won = append(won, t)
			held[t.buyer] = append(mine, Reservation{ID: t.id, Quantity: t.quantity, State: Reserved, key: t.key})
		}
	}
	return won, units
}

func (s *Service) newOrders(v *Sale, won []*taking, now time.Time) []order.New {
	orders := make([]order.New, len(won))
	lines := make([]order.Line, len(won))
	payBy := now.Add(v.PayWithin)
	source := v.source()
	for i, t := range won {
		lines[i] = order.Line{SKU: v.SKU, Product: v.Product, Title: v.Title, Quantity: t.quantity, Price: v.Price}
		orders[i] = order.New{
			ID: levee.OrderID(t.id), Buyer: t.buyer, Source: source, SourceRef: int64(v.ID),
			Lines: lines[i : i+1 : i+1], CreatedAt: now, PayBy: payBy,
		}
	}
	return orders
}
