package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/db"
	"levee/internal/terms"
)

// Terms are what an operator says about a sale. Times are cut to milliseconds.
type Terms = terms.Terms

// Terms are the terms of the sale as it stands.
func (s *Sale) Terms() Terms {
	return Terms{Title: s.Title, SKU: s.SKU, Price: s.Price, Units: s.Units, PerBuyer: s.PerBuyer, StartsAt: s.StartsAt, EndsAt: s.EndsAt,
		PayWithin: s.PayWithin, Mode: s.Mode, DrawAt: s.DrawAt, WaitingList: s.WaitingList, Admission: s.Admission, TokenNeeded: s.TokenNeeded,
		Rehearsal: s.Rehearsal}
}

// setTerms gives a sale other terms. The SKU's product, and what no operator says, stay.
func (v *Sale) setTerms(t *Terms) {
	v.Title, v.SKU, v.Price, v.Units, v.PerBuyer, v.StartsAt, v.EndsAt, v.PayWithin = t.Title, t.SKU, t.Price, t.Units, t.PerBuyer, t.StartsAt, t.EndsAt, t.PayWithin
	v.Mode, v.DrawAt, v.WaitingList, v.Admission, v.TokenNeeded = t.Mode, t.DrawAt, t.WaitingList, t.Admission, t.TokenNeeded
}

// CreateTx makes a draft. It fails with CodeInvalid on terms that are not allowed and CodeNotFound for an unknown SKU.
func (s *Service) CreateTx(ctx context.Context, tx *db.Tx, t Terms, actor levee.Actor) (*Sale, error) {
	now := s.Obs.Clock().UTC().Truncate(time.Microsecond)
	if err := t.Check(now); err != nil {
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
	v.setTerms(&t)
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
	return s.act(ctx, tx, sale, func(v *Sale, stock *Stock) (Act, []gate.Movement, error) {
		now := s.Obs.Clock()
		done := Act{Act: "change", Actor: actor.User}
		if v.Version != version {
			return done, nil, levee.E(levee.CodeConflict, "the sale was changed by somebody else: it is at version %d, not %d", v.Version, version)
		}
		if v.State == StateEnded {
			return done, nil, levee.E(levee.CodeConflict, "an ended sale cannot be changed")
		}
		if err := t.Check(now); err != nil {
			return done, nil, err
		}
		if v.State == StateDraft {
			sku, err := s.Catalog.SKUByID(ctx, t.SKU)
			if err != nil {
				return done, nil, err
			}
			v.Product = sku.Product
		} else if fixed := v.Fixed(&t, now, *stock); len(fixed) > 0 {
			return done, nil, levee.E(levee.CodeConflict, "%s", fixed[0].Allowed).With("fields", terms.Names(fixed))
		}
		done.Detail = terms.Changes(v.Terms(), t, func(id levee.SKUID) string { return s.Sealer.Seal(levee.KindSKU, int64(id)) })
		v.setTerms(&t)
		return done, nil, nil
	})
}

// Fixed lists the terms that a scheduled sale does not let go of and that t changes; Allowed says why.
func (s *Sale) Fixed(t *Terms, now time.Time, stock Stock) []levee.Field {
	old := s.Terms()
	return t.Fixed(&old, !now.Before(s.StartsAt) || stock.Reserved+stock.Sold > 0) // a clock that stepped back does not undo what was sold
}
