package plan

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/sale"
)

// Report is what is known of terms before anything is made of them.
type Report struct {
	// Problems are terms that would be refused, all of them, by the names of the API.
	Problems []levee.Field
	// Warnings are terms that are allowed and that an operator would regret.
	Warnings []Warning
	Summary  Summary
}

// Warning names one thing that an operator would regret.
type Warning struct {
	Code    string
	Message string
}

// Summary puts the terms into numbers. Fields that cannot be told are zero.
type Summary struct {
	OnHand  int64         // units of the SKU that are free in the catalog
	Takings levee.Money   // if every unit is sold; of terms whose price is one
	Lasts   time.Duration // from the start to the end
	// LastPayment is until when the last buyer may pay.
	LastPayment time.Time
	// RoomLasts is how long the waiting room takes to admit as many as it may at once, Multiple for each unit; zero without a room.
	RoomLasts time.Duration
}

// The limits beyond which a warning is given.
const (
	soon     = time.Minute
	roomLong = time.Hour
	// crowdPrice: at 7/10 of the usual price or less, robots come.
	crowdPrice, crowdPriceOf = 7, 10
)

// Check tells all that is wrong with terms and all that is unwise, and changes nothing. of is the sale that would be changed, or
// nil for a new one. It fails only where the catalog or the sale cannot be read.
func (s *Service) Check(ctx context.Context, t sale.Terms, of *sale.Sale) (*Report, error) {
	now := s.Obs.Clock()
	r := &Report{Problems: t.Problems(now)}
	var stock sale.Stock
	if of != nil {
		var err error
		if stock, err = s.Sales.StockOf(ctx, of.ID); err != nil {
			return nil, err
		}
		switch of.State {
		case sale.StateDraft:
		case sale.StateEnded:
			r.Problems = append(r.Problems, levee.Field{Field: "body.sale", Allowed: "a sale that has not ended", Given: s.Sales.PublicID(of.ID)})
		default:
			r.Problems = append(r.Problems, of.Fixed(&t, now, stock)...)
		}
	}
	sku, err := s.sku(ctx, t, r)
	if err != nil {
		return nil, err
	}
	r.Summary.OnHand = sku.OnHand
	wrongPrice := slices.ContainsFunc(r.Problems, func(p levee.Field) bool { return strings.HasPrefix(p.Field, "body.price") })
	if takings, err := t.Price.Times(max(t.Units, 0)); err == nil && !wrongPrice {
		r.Summary.Takings = takings
	}
	r.Summary.Lasts, r.Summary.LastPayment = max(t.EndsAt.Sub(t.StartsAt), 0), t.EndsAt.Add(t.PayWithin)
	if t.Admission.Room && t.Admission.PerSecond > 0 {
		seconds := float64(t.Units) * float64(t.Admission.Multiple) / float64(t.Admission.PerSecond)
		r.Summary.RoomLasts = time.Duration(min(seconds, 1e9) * float64(time.Second))
	}
	s.warn(r, t, of, sku, now)
	return r, nil
}

// sku reads the SKU that is sold; where there is none that is a problem, unless the terms named none at all.
func (s *Service) sku(ctx context.Context, t sale.Terms, r *Report) (sku catalog.SKU, err error) {
	if t.SKU <= 0 {
		return sku, nil
	}
	sku, err = s.Catalog.SKUByID(ctx, t.SKU)
	if levee.CodeOf(err) == levee.CodeNotFound {
		r.Problems = append(r.Problems, levee.Field{Field: "body.sku", Allowed: "a SKU of the catalog", Given: s.Sealer.Seal(levee.KindSKU, int64(t.SKU))})
		return catalog.SKU{}, nil
	}
	return sku, err
}

func (s *Service) warn(r *Report, t sale.Terms, of *sale.Sale, sku catalog.SKU, now time.Time) {
	warn := func(doubtful bool, code, format string, args ...any) {
		if doubtful {
			r.Warnings = append(r.Warnings, Warning{Code: code, Message: fmt.Sprintf(format, args...)})
		}
	}
	scheduled := of != nil && of.State != sale.StateDraft
	if sku.ID != 0 {
		warn(!scheduled && t.Units > sku.OnHand, "units_short", "%d units are planned and %d are on hand: the sale could not be scheduled", t.Units, sku.OnHand)
		same := t.Price.Currency == sku.Price.Currency
		warn(!same, "currency_differs", "the sale's price is in %s, the SKU's in %s", t.Price.Currency, sku.Price.Currency)
		warn(same && t.Price.Minor > sku.Price.Minor, "price_above", "the price of %s is above the SKU's usual %s", t.Price, sku.Price)
		crowd := same && t.Price.Minor*crowdPriceOf <= sku.Price.Minor*crowdPrice
		warn(crowd && t.Mode == sale.ModeRace && t.Admission.Brake == admission.BrakeNone, "no_brake",
			"at so much below the usual %s a crowd and its robots will come, and there is no brake", sku.Price)
	}
	warn(t.Price.Minor == 0, "price_zero", "the units are given away for nothing")
	if !scheduled {
		warn(!t.StartsAt.After(now), "starts_in_past", "the start has passed: the sale opens the moment it is scheduled")
		warn(t.StartsAt.After(now) && t.StartsAt.Before(now.Add(soon)), "starts_soon", "the sale starts in less than a minute")
	}
	// The last moment at which whoever is served first must have paid, so that his unit still finds somebody else.
	served := t.StartsAt
	if t.Mode == sale.ModeDraw {
		served = t.DrawAt
	}
	warn(t.EndsAt.After(served) && t.PayWithin >= t.EndsAt.Sub(served), "pay_beyond_end",
		"buyers may pay for %s, which is longer than the sale lasts: what is not paid for comes back after the end, and nobody who waits gets it", t.PayWithin)
	if t.Admission.Room {
		warn(r.Summary.RoomLasts > roomLong, "room_slow", "at %d a second the waiting room takes %s to admit as many as it may", t.Admission.PerSecond,
			r.Summary.RoomLasts.Round(time.Minute))
		warn(r.Summary.RoomLasts <= roomLong && r.Summary.Lasts > 0 && r.Summary.RoomLasts > r.Summary.Lasts, "room_longer_than_sale",
			"the waiting room takes %s to admit as many as it may, the sale lasts %s", r.Summary.RoomLasts.Round(time.Second), r.Summary.Lasts)
	}
	others := s.others(t, of)
	warn(len(others) > 0, "same_sku", "the same SKU is sold at the same time by %s", strings.Join(others, ", "))
}

// others lists the real sales of the same SKU that are on at the same time.
func (s *Service) others(t sale.Terms, of *sale.Sale) (list []string) {
	if t.SKU <= 0 {
		return nil
	}
	for _, v := range s.Sales.Live() {
		if v.SKU == t.SKU && v.State != sale.StateEnded && !v.Rehearsal && (of == nil || v.ID != of.ID) && v.StartsAt.Before(t.EndsAt) && t.StartsAt.Before(v.EndsAt) {
			list = append(list, s.Sales.PublicID(v.ID))
		}
	}
	slices.Sort(list)
	return list
}
