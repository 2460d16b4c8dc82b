// Package terms holds what an operator says about a sale: its units, price, limit, window and what stands before it.
//
// It owns which terms are allowed, which of them a sale that has begun does not let go of, and how a change of them is told. It owns no sale
// and stores nothing.
package terms

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/admission"
)

// Mode is how a sale's units are given.
type Mode string

// The modes. In a race units are taken, first come, first served; in a draw they are given by lot to those who entered.
const (
	ModeRace Mode = "race"
	ModeDraw Mode = "draw"
)

// The limits of terms: the title in bytes, units and the limit per buyer in units.
const (
	MaxTitle     = 120
	MaxUnits     = 100_000_000
	MaxPerBuyer  = 1000
	MaxPayWithin = 7 * 24 * time.Hour
	MinPayWithin = 10 * time.Second
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

// Check fills in defaults and refuses terms that are not allowed: one CodeInvalid that names every field. now is the moment after
// which a sale must end.
func (t *Terms) Check(now time.Time) error {
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
	refuse(t.Title == "" || len(t.Title) > MaxTitle || !utf8.ValidString(t.Title), "body.title", "1 to 120 bytes of text", t.Title)
	refuse(t.SKU <= 0, "body.sku", "the id of a SKU", "")
	refuse(t.Price.Minor < 0 || t.Price.Minor > 1e15, "body.price.amount", "0 to 1000000000000000 minor units", t.Price.Minor)
	refuse(!isCurrency(t.Price.Currency), "body.price.currency", "an ISO 4217 code such as CNY", t.Price.Currency)
	refuse(t.Units < 1 || t.Units > MaxUnits, "body.units", "1 to 100000000", t.Units)
	refuse(t.PerBuyer < 1 || t.PerBuyer > MaxPerBuyer, "body.per_buyer", "1 to 1000", t.PerBuyer)
	refuse(t.StartsAt.Year() < 2000 || t.StartsAt.Year() > 2200, "body.starts_at", "a time between the years 2000 and 2200", starts)
	switch {
	case !t.EndsAt.After(t.StartsAt):
		refuse(true, "body.ends_at", "later than starts_at", ends)
	case !t.EndsAt.After(now):
		refuse(true, "body.ends_at", "in the future", ends)
	case t.EndsAt.Sub(t.StartsAt) > 366*24*time.Hour:
		refuse(true, "body.ends_at", "at most 366 days after starts_at", ends)
	}
	refuse(t.PayWithin < MinPayWithin || t.PayWithin > MaxPayWithin, "body.pay_within_seconds", "10 to 604800 seconds", int64(t.PayWithin/time.Second))
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

// Fixed lists the terms that a scheduled sale of the terms old does not let go of and that t changes; Allowed says why. begun says that the sale
// has started or sold.
func (t *Terms) Fixed(old *Terms, begun bool) (list []levee.Field) {
	keep := func(changed bool, field, why string) {
		if changed {
			list = append(list, levee.Field{Field: field, Allowed: why})
		}
	}
	const scheduled = "sku, units, mode and rehearsal are fixed once a sale is scheduled; top up or withdraw units instead"
	keep(t.SKU != old.SKU, "body.sku", scheduled)
	keep(t.Units != old.Units, "body.units", scheduled)
	keep(t.Mode != old.Mode, "body.mode", scheduled)
	keep(t.Rehearsal != old.Rehearsal, "body.rehearsal", scheduled)
	if !begun {
		return list
	}
	const open = "price, starts_at, draw_at and the waiting room with its order are fixed once a sale has started"
	keep(t.Price != old.Price, "body.price", open)
	keep(!t.StartsAt.Equal(old.StartsAt), "body.starts_at", open)
	keep(!t.DrawAt.Equal(old.DrawAt), "body.draw_at", open)
	keep(t.Admission.Room != old.Admission.Room, "body.admission.room", open)
	keep(t.Admission.Order != old.Admission.Order, "body.admission.order", open)
	keep(old.TokenNeeded && !t.TokenNeeded, "body.token_needed", "an admission token stays needed once a sale has started")
	keep(old.WaitingList && !t.WaitingList, "body.waiting_list", "a waiting list stays once a sale has started: buyers may stand in it")
	// Who holds more already would be over a limit that he never broke.
	keep(t.PerBuyer < old.PerBuyer, "body.per_buyer", fmt.Sprintf("per_buyer can only be raised once a sale has started, it is %d", old.PerBuyer))
	return list
}

// Changes tells what differs between two terms, for the record of the act: "per_second 100 -> 50; brake none -> work". sku seals a SKU's number.
func Changes(old, now Terms, sku func(levee.SKUID) string) string {
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
	tell("sku", sku(old.SKU), sku(now.SKU))
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

// Names lists the names of fields.
func Names(list []levee.Field) []string {
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = f.Field
	}
	return names
}
