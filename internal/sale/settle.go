package sale

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
)

// settleLoop settles the sale's takings in batches: while one batch commits, the next gathers. When ctx ends it settles what
// is left, because the gate admits nobody after the server has drained.
func (s *Service) settleLoop(ctx context.Context, l *live) {
	deliveries := make(chan []*gate.Taking, 2)
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
		batch := l.gate.Next(s.Config.BatchMax)
		if batch != nil {
			s.settleBatch(work, l, batch)
			deliveries <- batch
			continue
		}
		select {
		case <-l.gate.Wake():
		case <-ctx.Done():
			if batch := l.gate.Next(s.Config.BatchMax); batch != nil {
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
func (s *Service) deliver(l *live, batch []*gate.Taking) {
	s.spend(l, batch)
	l.late.Lock()
	defer l.late.Unlock()
	if len(l.waited) > 0 {
		for _, t := range batch {
			if _, ok := l.waited[t.ID]; ok {
				delete(l.waited, t.ID)
				s.settledLate(l, t)
				l.tally.End(outcomeOf(t.Result))
			}
		}
	}
	l.gate.Signal(batch)
}

// spend tells the waiting room who is done with his admission: he won, or may not take more.
func (s *Service) spend(l *live, batch []*gate.Taking) {
	v := l.view.Load()
	if !v.Admission.Room {
		return
	}
	for _, t := range batch {
		if t.Result.Err == nil || levee.CodeOf(t.Result.Err) == levee.CodeLimitReached {
			s.Admission.Spent(v.ID, t.Buyer)
		}
	}
}

// settleBatch asks SQL for its word on a batch and sets each taking's result. An error whose outcome is not known is looked
// up by reservation id until SQL answers: nothing is undone blindly, and no buyer is told a guess.
func (s *Service) settleBatch(ctx context.Context, l *live, batch []*gate.Taking) {
	started := time.Now()
	s.pass("settle.begin")
	seq, err := s.settleOnce(ctx, l, batch)
	for wait := 10 * time.Millisecond; err != nil; wait = min(2*wait, time.Second) {
		s.log.Warn("a settlement has no known outcome; its reservations are looked up", "sale", l.public, "purchases", len(batch), "err", err)
		s.pass("settle.unknown")
		found, lookErr := s.settledAmong(ctx, l.view.Load().ID, idsOf(batch))
		if lookErr == nil {
			s.resolveUnknown(ctx, l, batch, found, seq, err)
			break
		}
		time.Sleep(wait)
	}
	s.metrics.settled(batch, time.Since(started))
}

func idsOf(batch []*gate.Taking) []levee.ReservationID {
	ids := make([]levee.ReservationID, len(batch))
	for i, t := range batch {
		ids[i] = t.ID
	}
	return ids
}

// resolveUnknown ends a batch whose commit was not answered: what SQL holds is won, the rest took nothing. seq is the movement that the
// transaction wrote if it was committed.
func (s *Service) resolveUnknown(ctx context.Context, l *live, batch []*gate.Taking, found map[levee.ReservationID]bool, seq int64, cause error) {
	refused := levee.E(levee.CodeUnavailable, "the purchase could not be written; nothing was taken").After(time.Second).Because(cause)
	for _, t := range batch {
		t.Result = gate.Outcome{}
		if !found[t.ID] {
			t.Result.Err = refused
		}
	}
	s.accountFor(ctx, l, batch, seq)
}

// accountFor gives what was refused back to the gate, counts what was won, and tells the gate the movement of the winners.
func (s *Service) accountFor(ctx context.Context, l *live, batch []*gate.Taking, seq int64) {
	won := 0
	for _, t := range batch {
		if !t.Result.Refused() {
			won++
		}
	}
	l.tally.Settled(won)
	if l.gate.Settle(ctx, batch, seq) > 0 {
		l.cameBack()
	}
}

// settleOnce is one transaction: stock by condition, reservations, orders, ledger and event, all or nothing; it returns the number of
// its movement, 0 if nobody won. A gate of this process follows in the commit's own order (AtCommit), so what is loaded meanwhile
// counts nothing twice; a shared one is told after the commit, and counts nothing twice by the movement's number.
func (s *Service) settleOnce(ctx context.Context, l *live, batch []*gate.Taking) (seq int64, err error) {
	var lost error
	err = s.DB.Tx(ctx, "sale.settle", func(ctx context.Context, tx *db.Tx) (err error) {
		if seq, err = s.settleTx(ctx, tx, l.view.Load().ID, batch); err != nil {
			return err
		}
		follow := func() {
			if lost = s.step("settle.answer"); lost == nil {
				s.accountFor(ctx, l, batch, seq)
			}
		}
		if l.gate.Local() {
			tx.AtCommit(follow)
		} else {
			tx.AfterCommit(follow)
		}
		return s.step("settle.before_commit")
	})
	return seq, errors.Join(err, lost)
}

// settleTx takes stock for a batch in the order of arrival and writes what was won. The results of all takings are set, anew each time
// that the transaction is run. It returns the number of its movement.
func (s *Service) settleTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, batch []*gate.Taking) (int64, error) {
	v, stock, err := s.lockSale(ctx, tx, sale)
	if err != nil {
		return 0, err
	}
	held, err := s.heldBy(ctx, tx, sale, batch)
	if err != nil {
		return 0, err
	}
	if err := s.step("settle.after_read"); err != nil {
		return 0, err
	}
	j := judgement{v: v, stock: stock, held: held, refused: v.noSettlement()}
	if s.Gates != nil {
		j.lease = s.Config.GateLease
	}
	won, units := s.judge(j, batch)
	if len(won) == 0 {
		return 0, nil
	}
	m, err := s.writeWonTx(ctx, tx, v, &stock, winners{won: won, units: units, at: s.Obs.Clock()})
	return m.Seq, err
}

// winners are takings that a judgement let have their units, and how their orders are written.
type winners struct {
	won    []*gate.Taking
	units  int64 // of all
	at     time.Time
	within map[levee.ReservationID]time.Duration // times to pay that are not the sale's
	reason string                                // for the ledger
}

// writeWonTx writes what was won: stock by condition with one row of the ledger, reservations, orders and the event.
func (s *Service) writeWonTx(ctx context.Context, tx *db.Tx, v *Sale, stock *Stock, w winners) (gate.Movement, error) {
	first, last := span(w.won)
	m, err := s.moveTx(ctx, tx, stock, movement{sale: v.ID, kind: books.Reserved, units: w.units, reservation: first, last: last, reason: w.reason})
	if err != nil {
		return m, err
	}
	if err := s.step("settle.after_stock"); err != nil {
		return m, err
	}
	if err := s.insertReservationsTx(ctx, tx, v.ID, w.won, w.at, m.Seq); err != nil {
		return m, err
	}
	if err := s.step("settle.after_reservations"); err != nil {
		return m, err
	}
	if err := s.Orders.CreateManyTx(ctx, tx, s.newOrders(v, w)); err != nil {
		return m, err
	}
	return m, s.step("settle.after_orders")
}

// span is the first and the last reservation of several, by number; 0 for the last of one.
func span(won []*gate.Taking) (first, last levee.ReservationID) {
	first = won[0].ID
	for _, t := range won[1:] {
		first, last = min(first, t.ID), max(first, last, t.ID)
	}
	return first, last
}

// noSettlement tells why nothing that the gate has taken can be settled, or nil.
func (s *Sale) noSettlement() error {
	switch {
	case s.State == StateStopped:
		return refusalPaused.err
	case s.State == StateEnded || s.State == StateDraft:
		return refusalEnded.err
	case s.ForcedSoldOut:
		return refusalSoldOut.err
	}
	return nil
}

// judgement is what takings are judged by: what SQL holds.
type judgement struct {
	v       *Sale
	stock   Stock
	held    map[levee.UserID][]Reservation
	refused error // for everybody who is not owed his first answer
	// lease is how old a taking may be, 0 for any age: another node has given up an older one, and may have told its buyer.
	lease time.Duration
	cut   bool // whoever cannot have all gets what he can have; his key answers for any quantity
}

// judge decides each taking: SQL has the last word on state, stock, limit and key.
func (s *Service) judge(j judgement, batch []*gate.Taking) (won []*gate.Taking, units int64) {
	won = make([]*gate.Taking, 0, len(batch))
	now := s.Obs.Clock()
	for _, t := range batch {
		t.Result = gate.Outcome{Err: j.refused}
		if j.lease > 0 && now.Sub(t.At) > j.lease {
			t.Result.Err = errPlaceLost
		}
		mine := j.held[t.Buyer]
		var sum int32
		for _, r := range mine {
			if r.key == t.Key {
				t.Result = gate.Outcome{Existing: r.ID}
				if r.Quantity != t.Quantity && !j.cut {
					t.Result = gate.Outcome{Err: levee.E(levee.CodeIdempotencyMismatch,
						"this idempotency key was used for a quantity of %d, not %d", r.Quantity, t.Quantity)}
				}
			}
			if r.State != Released {
				sum += r.Quantity
			}
		}
		if t.Result.Err != nil || t.Result.Existing != 0 {
			continue
		}
		if j.cut {
			t.Quantity = cut(cut(t.Quantity, int64(j.v.PerBuyer-sum)), j.stock.Remaining-units)
		}
		switch {
		case sum+t.Quantity > j.v.PerBuyer:
			t.Result.Err = levee.E(levee.CodeLimitReached, "a buyer may hold %d of this sale", j.v.PerBuyer)
		case units+int64(t.Quantity) > j.stock.Remaining:
			t.Result.Err = refusalSoldOut.err
		default:
			units += int64(t.Quantity)
			won = append(won, t)
			j.held[t.Buyer] = append(mine, Reservation{ID: t.ID, Quantity: t.Quantity, State: Reserved, key: t.Key})
		}
	}
	return won, units
}

// cut is the quantity, or what there is of it; nothing at all cuts nothing, so that the refusal tells why.
func cut(quantity int32, most int64) int32 {
	if most > 0 && int64(quantity) > most {
		return int32(most)
	}
	return quantity
}

// payBy is until when an order of this moment must be paid; within 0 is the sale's time.
func payBy(v *Sale, now time.Time, within time.Duration) time.Time {
	if within == 0 {
		within = v.PayWithin
	}
	return now.Add(within).UTC().Truncate(time.Microsecond)
}

func (s *Service) newOrders(v *Sale, w winners) []order.New {
	orders := make([]order.New, len(w.won))
	lines := make([]order.Line, len(w.won))
	due := payBy(v, w.at, 0)
	source := v.source()
	for i, t := range w.won {
		lines[i] = order.Line{SKU: v.SKU, Product: v.Product, Title: v.Title, Quantity: t.Quantity, Price: v.Price}
		orders[i] = order.New{
			ID: levee.OrderID(t.ID), Buyer: t.Buyer, Source: source, SourceRef: int64(v.ID),
			Lines: lines[i : i+1 : i+1], CreatedAt: w.at, PayBy: due,
		}
		if d := w.within[t.ID]; d != 0 {
			orders[i].PayBy = payBy(v, w.at, d)
		}
	}
	return orders
}
