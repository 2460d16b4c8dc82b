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

// Terms are what an operator says about a sale. Times are cut to milliseconds.
type Terms struct {
	Title     string
	SKU       levee.SKUID
	Price     levee.Money
	Units     int64
	PerBuyer  int32
	StartsAt  time.Time
	EndsAt    time.Time
	PayWithin time.Duration
	Admission bool
	Rehearsal bool
}

// check names the first term that is not allowed. now is the moment after which a sale must end.
func (t *Terms) check(now time.Time) error {
	t.Title = strings.TrimSpace(t.Title)
	t.StartsAt, t.EndsAt = t.StartsAt.UTC().Truncate(time.Millisecond), t.EndsAt.UTC().Truncate(time.Millisecond)
	if t.PayWithin == 0 {
		t.PayWithin = 30 * time.Minute
	}
	switch {
	case t.Title == "" || len(t.Title) > maxTitle || !utf8.ValidString(t.Title):
		return levee.Invalid("body.title", "1 to 120 bytes of text", t.Title)
	case t.SKU <= 0:
		return levee.Invalid("body.sku", "the id of a SKU", "")
	case t.Price.Minor < 0 || t.Price.Minor > 1e15:
		return levee.Invalid("body.price.amount", "0 to 1000000000000000 minor units", t.Price.Minor)
	case len(t.Price.Currency) != 3 || strings.ToUpper(t.Price.Currency) != t.Price.Currency:
		return levee.Invalid("body.price.currency", "an ISO 4217 code such as CNY", t.Price.Currency)
	case t.Units < 1 || t.Units > maxUnits:
		return levee.Invalid("body.units", "1 to 100000000", t.Units)
	case t.PerBuyer < 1 || t.PerBuyer > maxPerBuyer:
		return levee.Invalid("body.per_buyer", "1 to 1000", t.PerBuyer)
	case t.StartsAt.Year() < 2000 || t.StartsAt.Year() > 2200:
		return levee.Invalid("body.starts_at", "a time between the years 2000 and 2200", t.StartsAt.Format(time.RFC3339))
	case !t.EndsAt.After(t.StartsAt):
		return levee.Invalid("body.ends_at", "later than starts_at", t.EndsAt.Format(time.RFC3339))
	case !t.EndsAt.After(now):
		return levee.Invalid("body.ends_at", "in the future", t.EndsAt.Format(time.RFC3339))
	case t.EndsAt.Sub(t.StartsAt) > 366*24*time.Hour:
		return levee.Invalid("body.ends_at", "at most 366 days after starts_at", t.EndsAt.Format(time.RFC3339))
	case t.PayWithin < minPayWithin || t.PayWithin > maxPayWithin:
		return levee.Invalid("body.pay_within_seconds", "10 to 604800 seconds", int64(t.PayWithin/time.Second))
	}
	return nil
}

// CreateTx makes a draft. It fails with CodeInvalid on a term that is not allowed and CodeNotFound for an unknown SKU.
func (s *Service) CreateTx(ctx context.Context, tx *db.Tx, t Terms, actor levee.Actor) (*Sale, error) {
	now := s.Obs.Clock().UTC().Truncate(time.Microsecond)
	if err := t.check(now); err != nil {
		return nil, err
	}
	sku, err := s.Catalog.SKUByID(ctx, t.SKU)
	if err != nil {
		return nil, err
	}
	number, err := s.IDs.Next()
	if err != nil {
		return nil, err
	}
	v := &Sale{
		ID: levee.SaleID(number), Title: t.Title, Product: sku.Product, SKU: t.SKU, Price: t.Price, Units: t.Units, PerBuyer: t.PerBuyer,
		StartsAt: t.StartsAt, EndsAt: t.EndsAt, PayWithin: t.PayWithin, State: StateDraft, Admission: t.Admission, Rehearsal: t.Rehearsal,
		Version: 1, CreatedBy: actor.User, CreatedAt: now, UpdatedAt: now,
	}
	if err := s.insertSaleTx(ctx, tx, v); err != nil {
		return nil, err
	}
	return v, s.actTx(ctx, tx, v.ID, Act{Act: "create", Units: v.Units, Actor: actor.User})
}

// Change replaces the terms of a sale that version names. A draft takes any; a scheduled one before its start all but SKU and
// units; one that has started only title, end and limit. It fails with CodeInvalid or CodeConflict.
func (s *Service) Change(ctx context.Context, sale levee.SaleID, version int64, t Terms, actor levee.Actor) (v *Sale, err error) {
	err = s.DB.Tx(ctx, "sale.change", func(ctx context.Context, tx *db.Tx) error {
		v, err = s.changeTx(ctx, tx, sale, version, t, actor)
		return err
	})
	return v, err
}

func (s *Service) changeTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, version int64, t Terms, actor levee.Actor) (*Sale, error) {
	return s.act(ctx, tx, sale, func(v *Sale) (Act, error) {
		now := s.Obs.Clock()
		if v.Version != version {
			return Act{}, levee.E(levee.CodeConflict, "the sale was changed by somebody else: it is at version %d, not %d", v.Version, version)
		}
		if v.State == StateEnded {
			return Act{}, levee.E(levee.CodeConflict, "an ended sale cannot be changed")
		}
		if err := t.check(now); err != nil {
			return Act{}, err
		}
		if v.State != StateDraft {
			if t.SKU != v.SKU || t.Units != v.Units || t.Rehearsal != v.Rehearsal {
				return Act{}, levee.E(levee.CodeConflict, "sku, units and rehearsal are fixed once a sale is scheduled; top up or withdraw units instead")
			}
			stock, err := s.stockTx(ctx, tx, sale)
			if err != nil {
				return Act{}, err
			}
			// A clock that stepped back does not undo what was sold.
			started := !now.Before(v.StartsAt) || stock.Reserved+stock.Sold > 0
			if started && (t.Price != v.Price || !t.StartsAt.Equal(v.StartsAt) || t.Admission != v.Admission) {
				return Act{}, levee.E(levee.CodeConflict, "price, starts_at and admission are fixed once a sale has started")
			}
			if started && t.PerBuyer < v.PerBuyer {
				// Who holds more already would be over a limit that he never broke.
				return Act{}, levee.E(levee.CodeConflict, "per_buyer can only be raised once a sale has started, it is %d", v.PerBuyer)
			}
		} else {
			sku, err := s.Catalog.SKUByID(ctx, t.SKU)
			if err != nil {
				return Act{}, err
			}
			v.SKU, v.Product = t.SKU, sku.Product
		}
		v.Title, v.Price, v.Units, v.PerBuyer = t.Title, t.Price, t.Units, t.PerBuyer
		v.StartsAt, v.EndsAt, v.PayWithin, v.Admission = t.StartsAt, t.EndsAt, t.PayWithin, t.Admission
		return Act{Act: "change", Actor: actor.User}, nil
	})
}

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
	l.gate.limit(v.PerBuyer)
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
	tx.AtCommit(func() { s.bring(v).gate.load(v.Units, v.PerBuyer, nil) })
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
		err = s.offerTx(ctx, tx, v, units, done.Actor, done.Reason)
	} else {
		if stock.Remaining < units {
			return levee.E(levee.CodeOutOfStock, "%d units are free, %d cannot be withdrawn", stock.Remaining, units)
		}
		err = s.withdrawTx(ctx, tx, v, units, done.Actor, done.Reason)
		units = -units
	}
	tx.AtCommit(func() { s.gateMove(v.ID, units, 0, 0) })
	return err
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
		Admission: s.tokens.issue(sale, buyer.User, s.Obs.Clock().Add(time.Minute))})
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
		view := s.view(ctx, v)
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
