package line

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/sale"
)

var (
	errNoEntry   = levee.E(levee.CodeNotFound, "you are not in this line")
	errRehearsal = levee.E(levee.CodeForbidden, "a rehearsal is for invented buyers and operators only, and a sale for real accounts only")
	errOver      = levee.E(levee.CodeEnded, "the sale is over")
)

// JoinTx puts a buyer into a sale's line: into its draw within the entry window, or onto its waiting list while no unit is free.
// Who stands in the line already with the same quantity gets his entry again. It fails with CodeUnauthenticated, CodeForbidden
// (rehearsals), CodeInvalid, CodeNotOpen, CodeEntriesClosed, CodeUnitsFree (buy instead), CodePaused, CodeEnded, or CodeConflict
// (no waiting list, another quantity, a line that is full, joined too often).
func (s *Service) JoinTx(ctx context.Context, tx *db.Tx, of levee.SaleID, buyer levee.Actor, quantity int32) (e Entry, err error) {
	defer levee.Wrap(&err, "line.JoinTx(%d)", of)
	// The sale is read in the transaction, so that its free units and this entry cannot miss each other.
	v, free, err := s.termsTx(ctx, tx, of)
	if err != nil {
		return e, err
	}
	switch {
	case !buyer.SignedIn():
		return e, levee.E(levee.CodeUnauthenticated, "sign in to join")
	case !buyer.MayJoin(v.Rehearsal):
		return e, errRehearsal
	case quantity < 1 || quantity > v.PerBuyer:
		return e, levee.Invalid("body.quantity", "1 to the sale's limit per buyer", quantity)
	}
	h, err := s.ensureTx(ctx, tx, v)
	if err != nil {
		return e, err
	}
	if h.state == headOver {
		return e, errOver
	}
	old, found, err := standingTx(ctx, tx, of, buyer.User)
	if err != nil {
		return e, err
	}
	if found {
		if old.Quantity != quantity {
			return e, levee.E(levee.CodeConflict, "you are in this line with a quantity of %d; leave it first to ask for another", old.Quantity)
		}
		return old, nil
	}
	if err := s.mayJoinTx(ctx, tx, v, &h, free); err != nil {
		return e, err
	}
	switch times, err := timesInTx(ctx, tx, of, buyer.User); {
	case err != nil:
		return e, err
	case times >= maxTimes:
		return e, levee.E(levee.CodeConflict, "you have joined this line %d times, and may not again", times)
	}
	number, err := s.IDs.Next()
	if err != nil {
		return e, err
	}
	e = Entry{ID: levee.EntryID(number), Sale: of, Buyer: buyer.User, Draw: h.draw, Quantity: quantity, want: quantity, State: StateEntered,
		EnteredAt: s.Obs.Clock().UTC().Truncate(time.Microsecond)}
	e.UpdatedAt = e.EnteredAt
	if h.draw {
		h.entered++
		err = s.countEntryTx(ctx, tx, of, 1)
	} else {
		e.State, e.Place = StateWaiting, h.last+1
		h.last = e.Place
	}
	if err == nil {
		e.seq, err = s.numberTx(ctx, tx, &h)
	}
	if err != nil {
		return e, err
	}
	if err := s.insertEntryTx(ctx, tx, e); err != nil {
		return e, err
	}
	s.follows(tx, h, e)
	return e, nil
}

// mayJoinTx refuses by the sale's terms and the clock.
func (s *Service) mayJoinTx(ctx context.Context, tx *db.Tx, v *sale.Sale, h *head, free int64) error {
	now := s.Obs.Clock()
	switch {
	case v.State == sale.StateDraft:
		return levee.E(levee.CodeNotFound, "there is no such sale")
	case v.State == sale.StateEnded || !now.Before(v.EndsAt):
		return errOver
	case now.Before(v.StartsAt):
		return levee.E(levee.CodeNotOpen, "the sale starts at %s", v.StartsAt.Format(time.RFC3339)).With("starts_at", v.StartsAt.Format(time.RFC3339Nano))
	}
	if h.draw {
		d, _, err := drawOf(ctx, tx, v.ID)
		h.entered = d.entries
		switch {
		case err != nil:
			return err
		case d.state != drawTaking || !now.Before(v.DrawAt):
			return levee.E(levee.CodeEntriesClosed, "entries closed at %s", v.DrawAt.Format(time.RFC3339))
		case v.State == sale.StatePaused || v.State == sale.StateStopped:
			return levee.E(levee.CodePaused, "the sale is paused; it goes on shortly").After(3 * time.Second)
		case d.entries >= maxEntries:
			return levee.E(levee.CodeConflict, "the draw is full, it takes %d entries", maxEntries)
		}
		return nil
	}
	waits, err := someWaitTx(ctx, tx, v.ID)
	switch {
	case err != nil:
		return err
	case !v.WaitingList:
		return levee.E(levee.CodeConflict, "this sale has no waiting list")
	case v.State == sale.StatePaused || v.State == sale.StateStopped:
		return levee.E(levee.CodePaused, "the sale is paused; it goes on shortly").After(3 * time.Second)
	case free > 0 && !v.ForcedSoldOut && !waits: // units that are free while others wait are on their way to these
		return levee.E(levee.CodeUnitsFree, "units are free: buy them").With("free", free)
	case h.last >= maxPlaces:
		return levee.E(levee.CodeConflict, "the line is full, it takes %d entries", maxPlaces)
	}
	return nil
}

// ensureTx makes the sale's line, and its draw, if they are not there. A sale's mode is fixed once it is scheduled.
func (s *Service) ensureTx(ctx context.Context, tx *db.Tx, v *sale.Sale) (head, error) {
	h, found, err := s.headTx(ctx, tx, v.ID)
	if err != nil || found || v.State == sale.StateDraft {
		return h, err
	}
	h.draw, h.state = v.Mode == sale.ModeDraw, headAlive // its changes begin at 1
	if err := s.insertHeadTx(ctx, tx, v.ID, h.draw); err != nil {
		return h, err
	}
	tx.AtCommit(func() { s.book.put(v.ID, newPlaces(!h.draw)) })
	if !h.draw {
		return h, nil
	}
	d := draw{sale: v.ID}
	d.sealed, d.hash = s.seals.draw(v.ID)
	tx.AfterCommit(func() {
		s.log.Info("a draw has its seed; its hash is public", "sale", s.saleRef(v.ID), "seed_hash", d.hash)
	})
	return h, s.insertDrawTx(ctx, tx, d)
}

// Mine returns the buyer's entry in a sale's line, the latest if he joined several times. CodeNotFound where there is none.
func (s *Service) Mine(ctx context.Context, of levee.SaleID, buyer levee.UserID) (Entry, error) {
	e, found, err := latestOf(ctx, s.DB, of, buyer)
	if err == nil && !found {
		err = errNoEntry
	}
	return e, err
}

// Leave takes the buyer's entry out of the line. It fails with CodeNotFound where he is not in it, CodeEntriesClosed between the
// closing of a draw's entries and its result, and CodeConflict for an entry that has an offer (give the order up instead) or is
// done with.
func (s *Service) Leave(ctx context.Context, of levee.SaleID, buyer levee.UserID) (err error) {
	defer levee.Wrap(&err, "line.Leave(%d)", of)
	return s.DB.Tx(ctx, "line.leave", func(ctx context.Context, tx *db.Tx) error {
		h, found, err := s.headTx(ctx, tx, of)
		if err != nil {
			return err
		}
		e, has, err := latestOf(ctx, tx, of, buyer)
		switch {
		case err != nil:
			return err
		case !found || !has || e.State == StateLeft:
			return errNoEntry
		case e.State == StateOffered:
			return levee.E(levee.CodeConflict, "you have an offer; give its order up instead").
				With("order", s.Sealer.Seal(levee.KindOrder, int64(e.Order())))
		case !e.State.alive():
			return levee.E(levee.CodeConflict, "the entry is %s, there is nothing to leave", e.State)
		}
		if h.draw {
			switch d, _, err := drawOf(ctx, tx, of); {
			case err != nil:
				return err
			case d.state == drawFrozen || d.state == drawListed:
				return levee.E(levee.CodeEntriesClosed, "the entries are closed and the draw is under way; wait for its result").After(time.Second)
			case d.state == drawTaking:
				h.entered = d.entries - 1
				if err := s.countEntryTx(ctx, tx, of, -1); err != nil {
					return err
				}
			}
		}
		was := e.State
		e.State = StateLeft
		return s.moveTx(ctx, tx, &h, &e, was)
	})
}

// moveTx writes an entry's step, and lets memory and metrics follow it. That the entry is not in the state from is a defect: it
// was read in this transaction, after its line was locked.
func (s *Service) moveTx(ctx context.Context, tx *db.Tx, h *head, e *Entry, from State) (err error) {
	if e.seq, err = s.numberTx(ctx, tx, h); err != nil {
		return err
	}
	moved, err := s.moveEntryTx(ctx, tx, e, from)
	if err == nil && !moved {
		err = levee.E(levee.CodeInternal, "the entry %d is not %s any more", e.ID, from)
	}
	if err != nil {
		return err
	}
	s.follows(tx, *h, *e)
	return nil
}

// follows lets places and metrics follow an entry's step.
func (s *Service) follows(tx *db.Tx, h head, e Entry) {
	tx.AtCommit(func() { s.took(h.sale, change{e.Place, e.seq, e.State}, h.entered) })
	tx.AfterCommit(func() { s.metrics.steps.WithLabelValues(e.State.String()).Inc() })
}
