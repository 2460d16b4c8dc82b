package sale

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/id"
	"levee/internal/tally"
	"levee/internal/terms"
)

// Wish is a buyer's wish to take units of a sale.
type Wish struct {
	Buyer    levee.Actor
	Quantity int32
	// Key is the idempotency key: the same key and quantity give the first answer again.
	Key string
	// Admission is the admission token, where the sale needs one.
	Admission string
	// Async asks for the reservation at once, without holding the line for the commit.
	Async bool
}

// Ticket is the answer to a wish that took units. Settled means that the order is on disk; otherwise the reservation is a
// place in the line that becomes an order or a refusal.
type Ticket struct {
	Sale        *Sale
	Reservation levee.ReservationID
	Quantity    int32
	Settled     bool
	// Repeated says that this is the first answer again.
	Repeated bool
	At       time.Time
}

// Order returns the order's id: the reservation's number.
func (t Ticket) Order() levee.OrderID { return levee.OrderID(t.Reservation) }

// Buy takes units of a sale for a buyer: window, admission, gate and settlement. It returns after the commit, or at the bound
// of Config.HoldFor with Settled false. It fails with CodeUnauthenticated, CodeForbidden, CodeInvalid, the admission codes,
// CodeNotOpen, CodeEnded, CodePaused, CodeDrawOnly, CodeSoldOut, CodeLimitReached, CodeIdempotencyMismatch, CodeIdempotencyRunning,
// CodeNotWarmed or CodeUnavailable; a refusal takes nothing and may be tried again with the same key.
func (s *Service) Buy(ctx context.Context, l *live, w Wish) (Ticket, error) {
	began := l.tally.Begin()
	t, err := s.buy(ctx, l, w)
	l.tally.Answered(began)
	switch {
	case t.Repeated:
		l.tally.End(tally.Repeated)
	case err != nil || t.Settled: // else the place in the line ends when it is settled
		l.tally.End(tally.Of(err))
	}
	return t, err
}

func (s *Service) buy(ctx context.Context, l *live, w Wish) (Ticket, error) {
	v := l.view.Load()
	now := s.Obs.Clock()
	switch {
	case !w.Buyer.SignedIn():
		return Ticket{}, levee.E(levee.CodeUnauthenticated, "sign in to buy")
	case !w.Buyer.MayJoin(v.Rehearsal):
		return Ticket{}, errRehearsal
	case w.Quantity < 1:
		return Ticket{}, levee.Invalid("body.quantity", "1 or more", w.Quantity)
	case w.Quantity > terms.MaxPerBuyer:
		return Ticket{}, levee.Invalid("body.quantity", "at most 1000", w.Quantity)
	}
	if v.TokenNeeded && v.Mode != ModeDraw { // a draw has none: it is refused below
		if err := s.Admission.Verify(w.Admission, v.ID, w.Buyer.User, now); err != nil {
			return Ticket{}, err
		}
	}
	a := gate.Attempt{Buyer: w.Buyer.User, Quantity: w.Quantity, Key: hashKey(w.Key), At: now}
	if r := v.refusalAt(now); r != nil {
		return s.afterAll(ctx, v, a, r)
	}
	number, err := s.IDs.Next()
	if err != nil {
		return Ticket{}, levee.E(levee.CodeUnavailable, "no number can be given out now").After(time.Second).Because(err)
	}
	a.ID = levee.ReservationID(number)
	t, verdict, epoch := l.gate.Take(ctx, a)
	if verdict == gate.Known {
		ticket, found, err := s.repeat(ctx, v, a)
		if found || err != nil {
			return ticket, err
		}
		a.Checked = true
		s.pass("buy.known")
		t, verdict, epoch = l.gate.Take(ctx, a)
	}
	if (a.Checked || l.follower != nil) && (verdict == gate.OverLimit || verdict == gate.SoldOut) {
		// The first request with this key may have been settled between the look and the second try: the gate says "running" until
		// then, so what is not found now was in no line when it decided. A gate that nodes share may have forgotten him for a moment.
		if ticket, found, err := s.repeat(ctx, v, a); found || err != nil {
			return ticket, err
		}
	}
	s.metrics.verdicts[verdict].Inc()
	switch verdict {
	case gate.Taken:
		s.pass("buy.taken")
		return s.await(ctx, l, v, t, w.Async)
	case gate.SoldOut:
		s.pass("buy.sold_out")
		l.sw.SoldOut(epoch)
		return Ticket{}, refusalSoldOut.err
	case gate.OverLimit:
		s.Admission.Spent(v.ID, a.Buyer)
		return Ticket{}, s.limitReached(ctx, v, a.Buyer)
	case gate.Running:
		return Ticket{}, levee.E(levee.CodeIdempotencyRunning, "the first request with this idempotency key is under way").After(time.Second)
	case gate.Full:
		return Ticket{}, levee.E(levee.CodeUnavailable, "too many purchases wait for the disk; nothing was taken").After(time.Second)
	case gate.Away:
		return Ticket{}, refusalAway.err
	default:
		if l.follower != nil {
			l.follower.Wake()
		}
		return Ticket{}, refusalCold.err
	}
}

// afterAll answers an attempt that the terms refuse: the buyer's first answer again if his key has one, else the refusal.
func (s *Service) afterAll(ctx context.Context, v *Sale, a gate.Attempt, r *refusal) (Ticket, error) {
	if v.State == StateDraft {
		return Ticket{}, r.err
	}
	if ticket, found, err := s.repeat(ctx, v, a); found {
		return ticket, err
	}
	return Ticket{}, r.err
}

// await holds the line until the taking is settled, the bound passes or the buyer leaves.
func (s *Service) await(ctx context.Context, l *live, v *Sale, t *gate.Taking, async bool) (Ticket, error) {
	ticket := Ticket{Sale: v, Reservation: t.ID, Quantity: t.Quantity, At: t.At}
	if !async {
		timer := time.NewTimer(s.Config.HoldFor)
		select {
		case <-t.Settled:
			timer.Stop()
			return s.collect(t, ticket)
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	s.pass("buy.bound")
	// From here on the buyer asks for it. Whoever marks first wins: the settler that finds the mark keeps a refusal for him.
	l.late.Lock()
	l.waited[t.ID] = t.Buyer
	l.late.Unlock()
	select {
	case <-t.Settled: // between the bound and the mark
		l.late.Lock()
		delete(l.waited, t.ID)
		l.late.Unlock()
		return s.collect(t, ticket)
	default:
		return ticket, nil
	}
}

func (s *Service) collect(t *gate.Taking, ticket Ticket) (Ticket, error) {
	result := t.Result
	t.Free()
	switch {
	case result.Existing != 0:
		ticket.Reservation, ticket.Repeated, ticket.Settled = result.Existing, true, true
		return ticket, nil
	case result.Err != nil:
		return Ticket{}, result.Err
	}
	ticket.Settled = true
	return ticket, nil
}

// repeat looks for the buyer's settled reservation with this key. found with a nil error is the first answer again.
func (s *Service) repeat(ctx context.Context, v *Sale, a gate.Attempt) (Ticket, bool, error) {
	r, found, err := s.reservationByKey(ctx, v.ID, a.Buyer, a.Key)
	if err != nil || !found {
		return Ticket{}, false, err
	}
	if r.Quantity != a.Quantity {
		return Ticket{}, true, levee.E(levee.CodeIdempotencyMismatch,
			"this idempotency key was used for a quantity of %d, not %d", r.Quantity, a.Quantity)
	}
	return Ticket{Sale: v, Reservation: r.ID, Quantity: r.Quantity, Settled: true, Repeated: true, At: id.TimeOf(int64(r.ID))}, true, nil
}

// limitReached names what the buyer holds, so that his page can lead him there.
func (s *Service) limitReached(ctx context.Context, v *Sale, buyer levee.UserID) error {
	e := levee.E(levee.CodeLimitReached, "a buyer may hold %d of this sale, and with this purchase you would hold more", v.PerBuyer)
	held, err := s.reservationsOf(ctx, v.ID, buyer)
	if err != nil {
		s.log.Warn("what a buyer holds could not be looked up for his refusal", "sale", v.ID, "err", err)
		return e
	}
	links := make([]string, 0, len(held))
	for _, r := range held {
		if r.State != Released {
			links = append(links, "/v1/orders/"+s.Sealer.Seal(levee.KindOrder, int64(r.ID)))
		}
	}
	return e.With("orders", links)
}

// hashKey shortens an idempotency key to what is stored. 64 bits are enough because keys are compared within one buyer and
// one sale only; a collision there would be the buyer's own doing and give him his own earlier order.
func hashKey(key string) int64 {
	sum := sha256.Sum256([]byte(key))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

var errRehearsal = levee.E(levee.CodeForbidden, "a rehearsal sells to invented buyers and operators only, and a sale to real accounts only")
