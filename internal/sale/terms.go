package sale

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/admission"
	"levee/internal/platform/db"
)

// Terms are what an operator says about a sale. Times are cut to milliseconds.
type Terms struct {
	Title       string
	SKU         levee.SKUID
	Price       levee.Money
	Units       int64
	PerBuyer    int32
	StartsAt    time.Time
	EndsAt      time.Time
	PayWithin   time.Duration // 0: 30 minutes
	Mode        Mode          // "": ModeRace
	DrawAt      time.Time     // of a draw: after StartsAt and before EndsAt
	WaitingList bool          // set for a draw
	Admission   admission.Policy
	TokenNeeded bool // set where there is a room or a brake
	Rehearsal   bool
}

// Terms are the terms of the sale as it stands.
func (s *Sale) Terms() Terms {
	return Terms{Title: s.Title, SKU: s.SKU, Price: s.Price, Units: s.Units, PerBuyer: s.PerBuyer, StartsAt: s.StartsAt, EndsAt: s.EndsAt,
		PayWithin: s.PayWithin, Mode: s.Mode, DrawAt: s.DrawAt, WaitingList: s.WaitingList, Admission: s.Admission, TokenNeeded: s.TokenNeeded,
		Rehearsal: s.Rehearsal}
}

// set gives a sale these terms. The SKU's product, and what no operator says, stay.
func (t *Terms) set(v *Sale) {
	v.Title, v.SKU, v.Price, v.Units, v.PerBuyer, v.StartsAt, v.EndsAt, v.PayWithin = t.Title, t.SKU, t.Price, t.Units, t.PerBuyer, t.StartsAt, t.EndsAt, t.PayWithin
	v.Mode, v.DrawAt, v.WaitingList, v.Admission, v.TokenNeeded = t.Mode, t.DrawAt, t.WaitingList, t.Admission, t.TokenNeeded
}

// check fills in defaults and refuses terms that are not allowed: one CodeInvalid that names every field. now is the moment after
// which a sale must end.
func (t *Terms) check(now time.Time) error {
	problems := t.Problems(now)
	if len(problems) == 0 {
		return nil
	}
	first := problems[0]
	e := levee.Invalid(first.Field, first.Allowed, first.Given)
	e.Fields = problems
	return e
}

// Problems fills in defaults and lists every term that is not allowed, by the names of the API. now is the moment after which a sale
// must end.
func (t *Terms) Problems(now time.Time) (list []levee.Field) {
	refuse := func(wrong bool, field, allowed string, given any) {
		if wrong {
			list = append(list, levee.Invalid(field, allowed, given).Fields...)
		}
	}
	t.Title = strings.TrimSpace(t.Title)
	for _, at := range []*time.Time{&t.StartsAt, &t.EndsAt, &t.DrawAt} {
		if !at.IsZero() {
			*at = at.UTC().Truncate(time.Millisecond)
		}
	}
	if t.PayWithin == 0 {
		t.PayWithin = 30 * time.Minute
	}
	if t.Mode == "" {
		t.Mode = ModeRace
	}
	starts, ends, draws := t.StartsAt.Format(time.RFC3339), t.EndsAt.Format(time.RFC3339), t.DrawAt.Format(time.RFC3339)
	refuse(t.Title == "" || len(t.Title) > maxTitle || !utf8.ValidString(t.Title), "body.title", "1 to 120 bytes of text", t.Title)
	refuse(t.SKU <= 0, "body.sku", "the id of a SKU", "")
	refuse(t.Price.Minor < 0 || t.Price.Minor > 1e15, "body.price.amount", "0 to 1000000000000000 minor units", t.Price.Minor)
	refuse(!isCurrency(t.Price.Currency), "body.price.currency", "an ISO 4217 code such as CNY", t.Price.Currency)
	refuse(t.Units < 1 || t.Units > maxUnits, "body.units", "1 to 100000000", t.Units)
	refuse(t.PerBuyer < 1 || t.PerBuyer > maxPerBuyer, "body.per_buyer", "1 to 1000", t.PerBuyer)
	refuse(t.StartsAt.Year() < 2000 || t.StartsAt.Year() > 2200, "body.starts_at", "a time between the years 2000 and 2200", starts)
	switch {
	case !t.EndsAt.After(t.StartsAt):
		refuse(true, "body.ends_at", "later than starts_at", ends)
	case !t.EndsAt.After(now):
		refuse(true, "body.ends_at", "in the future", ends)
	case t.EndsAt.Sub(t.StartsAt) > 366*24*time.Hour:
		refuse(true, "body.ends_at", "at most 366 days after starts_at", ends)
	}
	refuse(t.PayWithin < minPayWithin || t.PayWithin > maxPayWithin, "body.pay_within_seconds", "10 to 604800 seconds", int64(t.PayWithin/time.Second))
	list = append(list, policyProblems(&t.Admission)...)
	switch t.Mode {
	case ModeRace:
		refuse(!t.DrawAt.IsZero(), "body.draw_at", "left out in a race", draws)
	case ModeDraw:
		t.WaitingList = true
		refuse(!t.DrawAt.After(t.StartsAt) || !t.DrawAt.Before(t.EndsAt), "body.draw_at", "later than starts_at and before ends_at", draws)
		// Who enters a draw gains nothing by being early or many times there, so neither has a place in it.
		refuse(t.Admission.Room, "body.admission.room", "false in a draw", true)
		refuse(t.Admission.Brake != admission.BrakeNone, "body.admission.brake", "none in a draw", t.Admission.Brake)
	default:
		refuse(true, "body.mode", "race or draw", t.Mode)
	}
	if t.Admission.Room || t.Admission.Brake != admission.BrakeNone {
		t.TokenNeeded = true
	}
	return list
}

// isCurrency reports whether s is three capital letters.
func isCurrency(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// policyProblems fills in the policy's defaults and lists what is not allowed. Its check names one field at a time, so each refused
// one is set to its default in a copy and the rest is asked again.
func policyProblems(p *admission.Policy) (list []levee.Field) {
	err := p.Check()
	for copied := *p; err != nil; err = copied.Check() {
		var e *levee.Error
		if !errors.As(err, &e) || len(e.Fields) == 0 {
			return list
		}
		list = append(list, e.Fields...)
		switch e.Fields[0].Field {
		case "body.admission.order":
			copied.Order = ""
		case "body.admission.per_second":
			copied.PerSecond = 0
		case "body.admission.multiple":
			copied.Multiple = 0
		case "body.admission.brake":
			copied.Brake = ""
		case "body.admission.work_bits":
			copied.WorkBits = 0
		case "body.admission.per_address":
			copied.PerAddress = 0
		default:
			return list
		}
	}
	return list
}

// CreateTx makes a draft. It fails with CodeInvalid on terms that are not allowed and CodeNotFound for an unknown SKU.
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
	v := &Sale{ID: levee.SaleID(number), Product: sku.Product, State: StateDraft, Rehearsal: t.Rehearsal, Version: 1, CreatedBy: actor.User, CreatedAt: now, UpdatedAt: now}
	t.set(v)
	if err := s.insertSaleTx(ctx, tx, v); err != nil {
		return nil, err
	}
	return v, s.actTx(ctx, tx, v.ID, Act{Act: "create", Units: v.Units, Actor: actor.User})
}

// Change replaces the terms of a sale that version names. A draft takes any; a scheduled one before its start all but SKU, units
// and mode; one that has started only title, end, time to pay, a higher limit, a waiting list that was not there, and of the
// admission's policy pace, multiple, brake and places per address. It fails with CodeInvalid or CodeConflict.
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
		if v.State == StateDraft {
			sku, err := s.Catalog.SKUByID(ctx, t.SKU)
			if err != nil {
				return Act{}, err
			}
			v.Product = sku.Product
		} else {
			stock, err := s.stockTx(ctx, tx, sale)
			if err != nil {
				return Act{}, err
			}
			if fixed := v.Fixed(&t, now, stock); len(fixed) > 0 {
				return Act{}, levee.E(levee.CodeConflict, "%s", fixed[0].Allowed).With("fields", fieldNames(fixed))
			}
		}
		done := Act{Act: "change", Detail: s.changes(v.Terms(), t), Actor: actor.User}
		t.set(v)
		return done, nil
	})
}

// Fixed lists the terms that a scheduled sale does not let go of and that t changes; Allowed says why.
func (s *Sale) Fixed(t *Terms, now time.Time, stock Stock) (list []levee.Field) {
	keep := func(changed bool, field, why string) {
		if changed {
			list = append(list, levee.Field{Field: field, Allowed: why})
		}
	}
	const scheduled = "sku, units, mode and rehearsal are fixed once a sale is scheduled; top up or withdraw units instead"
	keep(t.SKU != s.SKU, "body.sku", scheduled)
	keep(t.Units != s.Units, "body.units", scheduled)
	keep(t.Mode != s.Mode, "body.mode", scheduled)
	keep(t.Rehearsal != s.Rehearsal, "body.rehearsal", scheduled)
	if now.Before(s.StartsAt) && stock.Reserved+stock.Sold == 0 { // a clock that stepped back does not undo what was sold
		return list
	}
	const open = "price, starts_at, draw_at and the waiting room with its order are fixed once a sale has started"
	keep(t.Price != s.Price, "body.price", open)
	keep(!t.StartsAt.Equal(s.StartsAt), "body.starts_at", open)
	keep(!t.DrawAt.Equal(s.DrawAt), "body.draw_at", open)
	keep(t.Admission.Room != s.Admission.Room, "body.admission.room", open)
	keep(t.Admission.Order != s.Admission.Order, "body.admission.order", open)
	keep(s.TokenNeeded && !t.TokenNeeded, "body.token_needed", "an admission token stays needed once a sale has started")
	keep(s.WaitingList && !t.WaitingList, "body.waiting_list", "a waiting list stays once a sale has started: buyers may stand in it")
	// Who holds more already would be over a limit that he never broke.
	keep(t.PerBuyer < s.PerBuyer, "body.per_buyer", fmt.Sprintf("per_buyer can only be raised once a sale has started, it is %d", s.PerBuyer))
	return list
}

func fieldNames(list []levee.Field) []string {
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = f.Field
	}
	return names
}

// changes tells what differs between two terms, for the record of the act: "per_second 100 -> 50; brake none -> work".
func (s *Service) changes(old, now Terms) string {
	var b strings.Builder
	tell := func(name string, from, to any) {
		if from != to {
			if b.Len() > 0 {
				b.WriteString("; ")
			}
			fmt.Fprintf(&b, "%s %v -> %v", name, from, to)
		}
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "none"
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	tell("title", fmt.Sprintf("%q", old.Title), fmt.Sprintf("%q", now.Title))
	tell("sku", s.Sealer.Seal(levee.KindSKU, int64(old.SKU)), s.Sealer.Seal(levee.KindSKU, int64(now.SKU)))
	tell("price", old.Price, now.Price)
	tell("units", old.Units, now.Units)
	tell("per_buyer", old.PerBuyer, now.PerBuyer)
	tell("starts_at", at(old.StartsAt), at(now.StartsAt))
	tell("ends_at", at(old.EndsAt), at(now.EndsAt))
	tell("pay_within", old.PayWithin, now.PayWithin)
	tell("mode", old.Mode, now.Mode)
	tell("draw_at", at(old.DrawAt), at(now.DrawAt))
	tell("waiting_list", old.WaitingList, now.WaitingList)
	tell("token_needed", old.TokenNeeded, now.TokenNeeded)
	a, z := old.Admission, now.Admission
	tell("room", a.Room, z.Room)
	tell("order", a.Order, z.Order)
	tell("per_second", a.PerSecond, z.PerSecond)
	tell("multiple", a.Multiple, z.Multiple)
	tell("brake", a.Brake, z.Brake)
	tell("work_bits", a.WorkBits, z.WorkBits)
	tell("per_address", a.PerAddress, z.PerAddress)
	return b.String()
}
