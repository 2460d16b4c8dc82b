package sale

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/db"
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
	if needs := c.Act == "top_up" || c.Act == "withdraw"; needs && (c.Units < 1 || c.Units > maxUnits) {
		return nil, levee.Invalid("body.units", "1 to 100000000", c.Units)
	} else if !needs && c.Units != 0 {
		return nil, levee.Invalid("body.units", "left out for "+c.Act, c.Units)
	}
	return s.act(ctx, tx, sale, func(v *Sale) (Act, error) {
		done := Act{Act: c.Act, Units: c.Units, Reason: c.Reason, Actor: actor.User}
		switch c.Act {
		case "schedule":
			done.Units = v.Units
			return done, s.scheduleTx(ctx, tx, v, done)
		case "end":
			return s.endTx(ctx, tx, v, done)
		case "top_up", "withdraw":
			return done, s.restockTx(ctx, tx, v, done)
		case "pause", "resume", "stop", "force_sold_out":
			return done, v.steer(c.Act)
		}
		return done, levee.Invalid("body.act", "one of "+strings.Join(Acts, ", "), c.Act)
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

// act runs one change of a sale: terms are read and written in one transaction with the act's record and event, and this node
// sells by the new terms from the commit on.
func (s *Service) act(ctx context.Context, tx *db.Tx, sale levee.SaleID, change func(*Sale) (Act, error)) (*Sale, error) {
	v, _, err := s.lockSale(ctx, tx, sale)
	if err != nil {
		return nil, err
	}
	done, err := change(v)
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
	switch done.Act {
	case "top_up":
		err = s.freeTx(ctx, tx, v, done.Units, 0, 0)
	case "resume":
		err = s.freeTx(ctx, tx, v, 0, 0, 0)
	}
	if err != nil {
		return nil, err
	}
	tx.AtCommit(func() { s.follow(v) })
	tx.AfterCommit(func() {
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
	l := s.bring(v)
	l.gate.SetLimit(v.PerBuyer)
	l.refreshSwitch(s.Obs.Clock())
}

// scheduleTx takes the draft's units from the catalog and loads the gate at the commit: a draft has no reservations to read.
func (s *Service) scheduleTx(ctx context.Context, tx *db.Tx, v *Sale, done Act) error {
	if v.State != StateDraft {
		return levee.E(levee.CodeConflict, "only a draft can be scheduled, this sale is %s", v.State)
	}
	if !v.EndsAt.After(s.Obs.Clock()) {
		return levee.E(levee.CodeConflict, "the sale's end has passed; change its terms first")
	}
	v.State = StateScheduled
	if err := s.offerTx(ctx, tx, v, v.Units, done.Actor, done.Reason); err != nil {
		return err
	}
	tx.AtCommit(func() { s.bring(v).gate.Load(v.Units, v.PerBuyer, nil) })
	return nil
}

// restockTx adds units to a sale, or takes free ones out of it, while it runs.
func (s *Service) restockTx(ctx context.Context, tx *db.Tx, v *Sale, done Act) error {
	if v.State == StateDraft || v.State == StateEnded {
		return levee.E(levee.CodeConflict, "units of a sale that is %s cannot be changed so", v.State)
	}
	stock, err := s.stockTx(ctx, tx, v.ID)
	if err != nil {
		return err
	}
	units := done.Units
	if done.Act == "top_up" {
		if stock.Offered+units > maxUnits {
			return levee.Invalid("body.units", "at most "+strconv.FormatInt(maxUnits-stock.Offered, 10), units)
		}
		return s.offerTx(ctx, tx, v, units, done.Actor, done.Reason)
	}
	if stock.Remaining < units {
		return levee.E(levee.CodeOutOfStock, "%d units are free, %d cannot be withdrawn", stock.Remaining, units)
	}
	tx.AtCommit(func() { s.gateMove(v.ID, -units, 0, 0) })
	return s.withdrawTx(ctx, tx, v, units, done.Actor, done.Reason)
}

// endTx closes a sale for good and gives what is free back to the catalog. Reservations live on until they are paid or expire;
// what expires later goes back to the catalog then.
func (s *Service) endTx(ctx context.Context, tx *db.Tx, v *Sale, done Act) (Act, error) {
	if v.State == StateDraft || v.State == StateEnded {
		return done, levee.E(levee.CodeConflict, "a sale that is %s cannot be ended", v.State)
	}
	v.State = StateEnded
	stock, err := s.stockTx(ctx, tx, v.ID)
	if err != nil {
		return done, err
	}
	if done.Units = stock.Remaining; stock.Remaining > 0 {
		if err := s.withdrawTx(ctx, tx, v, stock.Remaining, done.Actor, done.Reason); err != nil {
			return done, err
		}
		tx.AtCommit(func() { s.gateMove(v.ID, -stock.Remaining, 0, 0) })
	}
	return done, nil
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
