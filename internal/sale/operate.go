package sale

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/db"
	"levee/internal/terms"
)

// Command is what an operator tells a sale to do, and why.
type Command struct {
	Act    string // one of Acts
	Units  int64  // for top_up and withdraw
	Reason string // 1 to 180 bytes, kept for ever
}

// Acts are the names of the acts an operator may do.
var Acts = []string{"schedule", "pause", "resume", "stop", "top_up", "withdraw", "force_sold_out", "end"}

// Do carries out an operator's command. It fails with CodeInvalid for an unknown act or a missing reason, CodeConflict where
// the sale's state does not allow it, and CodeOutOfStock where units are missing.
func (s *Service) Do(ctx context.Context, sale levee.SaleID, c Command, actor levee.Actor) (v *Sale, err error) {
	err = s.DB.Tx(ctx, "sale.act", func(ctx context.Context, tx *db.Tx) error {
		v, err = s.DoTx(ctx, tx, sale, c, actor)
		return err
	})
	return v, err
}

// DoTx is Do within the caller's transaction.
func (s *Service) DoTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, c Command, actor levee.Actor) (*Sale, error) {
	c.Reason = strings.TrimSpace(c.Reason)
	if c.Reason == "" || len(c.Reason) > maxReason || !utf8.ValidString(c.Reason) {
		return nil, levee.Invalid("body.reason", "1 to 180 bytes of text", c.Reason)
	}
	if needs := c.Act == "top_up" || c.Act == "withdraw"; needs && (c.Units < 1 || c.Units > terms.MaxUnits) {
		return nil, levee.Invalid("body.units", "1 to 100000000", c.Units)
	} else if !needs && c.Units != 0 {
		return nil, levee.Invalid("body.units", "left out for "+c.Act, c.Units)
	}
	return s.act(ctx, tx, sale, func(v *Sale, stock *Stock) (Act, []gate.Movement, error) {
		done := Act{Act: c.Act, Units: c.Units, Reason: c.Reason, Actor: actor.User}
		switch c.Act {
		case "schedule":
			done.Units = v.Units
			moves, err := s.scheduleTx(ctx, tx, v, stock, done)
			return done, moves, err
		case "end":
			return s.endTx(ctx, tx, v, stock, done)
		case "top_up", "withdraw":
			moves, err := s.restockTx(ctx, tx, v, stock, done)
			return done, moves, err
		case "pause", "resume", "stop", "force_sold_out":
			return done, nil, v.steer(c.Act)
		}
		return done, nil, levee.Invalid("body.act", "one of "+strings.Join(Acts, ", "), c.Act)
	})
}

// steer changes the state as the act says.
func (v *Sale) steer(act string) error {
	if v.State == StateDraft || v.State == StateEnded {
		return levee.E(levee.CodeConflict, "a sale that is %s cannot be told to %s", v.State, act)
	}
	switch act {
	case "pause":
		if v.State == StateStopped {
			return levee.E(levee.CodeConflict, "the sale is stopped already")
		}
		v.State = StatePaused
	case "stop":
		v.State = StateStopped
	case "resume":
		v.State, v.ForcedSoldOut = StateScheduled, false
	case "force_sold_out":
		v.ForcedSoldOut = true
	}
	return nil
}

// changing changes a sale whose stock row is locked, and tells what was done and which movements of stock that wrote.
type changing func(v *Sale, stock *Stock) (Act, []gate.Movement, error)

// act runs one change of a sale: terms are read and written in one transaction with the act's record and event, and this node
// sells by the new terms from the commit on.
func (s *Service) act(ctx context.Context, tx *db.Tx, sale levee.SaleID, change changing) (*Sale, error) {
	v, stock, err := s.lockSale(ctx, tx, sale)
	if err != nil {
		return nil, err
	}
	done, moves, err := change(v, &stock)
	if err != nil {
		return nil, err
	}
	if err := s.updateSaleTx(ctx, tx, v); err != nil {
		return nil, err
	}
	if err := s.actTx(ctx, tx, sale, done); err != nil {
		return nil, err
	}
	if err := s.Events.Emit(ctx, tx, StateChanged{Sale: sale, State: v.State, Version: v.Version, At: v.UpdatedAt}); err != nil {
		return nil, err
	}
	if done.Act == "top_up" || done.Act == "resume" {
		err = s.freeTx(ctx, tx, v, moves...)
	} else if done.Act != "schedule" {
		s.tell(tx, v.ID, moves...)
	}
	if err != nil {
		return nil, err
	}
	tx.AtCommit(func() { s.follow(v) })
	tx.AfterCommit(func() {
		s.ring()
		s.log.Info("a sale was changed", "sale", s.ref(sale), "act", done.Act, "units", done.Units, "reason", done.Reason,
			"actor", s.userRef(done.Actor), "state", v.State)
	})
	return v, nil
}

// follow makes this node sell by new terms.
func (s *Service) follow(v *Sale) {
	if v.State == StateDraft {
		return
	}
	s.bring(v)
}

// scheduleTx takes the draft's units from the catalog and loads the gate at the commit: a draft has no reservations to read. A gate that
// nodes share is found cold and loaded by whoever looks first.
func (s *Service) scheduleTx(ctx context.Context, tx *db.Tx, v *Sale, stock *Stock, done Act) ([]gate.Movement, error) {
	if v.State != StateDraft {
		return nil, levee.E(levee.CodeConflict, "only a draft can be scheduled, this sale is %s", v.State)
	}
	if !v.EndsAt.After(s.Obs.Clock()) {
		return nil, levee.E(levee.CodeConflict, "the sale's end has passed; change its terms first")
	}
	v.State = StateScheduled
	m, err := s.offerTx(ctx, tx, v, stock, v.Units, done.Actor, done.Reason)
	if err == nil && s.Gates == nil {
		tx.AtCommit(func() { s.loadLocal(s.bring(v), v, *stock, nil) })
	}
	return []gate.Movement{m}, err
}

// restockTx adds units to a sale, or takes free ones out of it, while it runs.
func (s *Service) restockTx(ctx context.Context, tx *db.Tx, v *Sale, stock *Stock, done Act) ([]gate.Movement, error) {
	if v.State == StateDraft || v.State == StateEnded {
		return nil, levee.E(levee.CodeConflict, "units of a sale that is %s cannot be changed so", v.State)
	}
	units := done.Units
	var m gate.Movement
	var err error
	switch {
	case done.Act == "top_up" && stock.Offered+units > terms.MaxUnits:
		err = levee.Invalid("body.units", "at most "+strconv.FormatInt(terms.MaxUnits-stock.Offered, 10), units)
	case done.Act == "top_up":
		m, err = s.offerTx(ctx, tx, v, stock, units, done.Actor, done.Reason)
	case stock.Remaining < units:
		err = levee.E(levee.CodeOutOfStock, "%d units are free, %d cannot be withdrawn", stock.Remaining, units)
	default:
		m, err = s.withdrawTx(ctx, tx, v, stock, units, done.Actor, done.Reason)
	}
	return []gate.Movement{m}, err
}

// endTx closes a sale for good and gives what is free back to the catalog. Reservations live on until they are paid or expire;
// what expires later goes back to the catalog then.
func (s *Service) endTx(ctx context.Context, tx *db.Tx, v *Sale, stock *Stock, done Act) (Act, []gate.Movement, error) {
	if v.State == StateDraft || v.State == StateEnded {
		return done, nil, levee.E(levee.CodeConflict, "a sale that is %s cannot be ended", v.State)
	}
	v.State = StateEnded
	if done.Units = stock.Remaining; done.Units == 0 {
		return done, nil, nil
	}
	m, err := s.withdrawTx(ctx, tx, v, stock, done.Units, done.Actor, done.Reason)
	return done, []gate.Movement{m}, err
}

// Open drafts and schedules a sale in one step.
func (s *Service) Open(ctx context.Context, t Terms, actor levee.Actor) (v *Sale, err error) {
	err = s.DB.Tx(ctx, "sale.open", func(ctx context.Context, tx *db.Tx) error {
		if v, err = s.CreateTx(ctx, tx, t, actor); err != nil {
			return err
		}
		v, err = s.DoTx(ctx, tx, v.ID, Command{Act: "schedule", Reason: "drafted and scheduled in one step"}, actor)
		return err
	})
	return v, err
}

// PublicID returns the id by which the world knows a sale.
func (s *Service) PublicID(sale levee.SaleID) string { return s.ref(sale) }

// BuyFor buys in a buyer's name without admission token: for demonstrations and for operators' own tools.
func (s *Service) BuyFor(ctx context.Context, sale levee.SaleID, buyer levee.Actor, quantity int32, key string) error {
	l := s.liveByID(sale)
	if l == nil {
		return errNoSale
	}
	_, err := s.Buy(ctx, l, Wish{Buyer: buyer, Quantity: quantity, Key: key,
		Admission: s.Admission.Issue(sale, buyer.User, s.Obs.Clock().Add(time.Minute))})
	return err
}

// Phases returns for each phase (open, upcoming, sold_out, …) the public id of the newest real sale that is in it.
func (s *Service) Phases(ctx context.Context) (map[string]string, error) {
	list, err := s.sales(ctx, levee.Page{Limit: levee.MaxPageLimit}, false, true)
	if err != nil {
		return nil, err
	}
	phases := map[string]string{}
	for _, v := range list {
		view := s.View(ctx, v)
		phase := view.Phase
		if st, err := s.stockOf(ctx, v.ID); err == nil && phase == string(PhaseOpen) && st.Remaining == 0 {
			phase = "sold_out"
		}
		if phases[phase] == "" {
			phases[phase] = view.ID
		}
	}
	return phases, nil
}
