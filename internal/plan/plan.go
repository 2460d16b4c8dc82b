// Package plan is what an operator does with a sale before it is real: checks terms without making anything, duplicates a sale, and
// rehearses one with invented buyers.
//
// It owns no rows: drafts and copies are the sale's, and terms are judged by the sale's own rules.
package plan

import (
	"context"
	"log/slog"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/sale"
)

// Deps is what the room is built from.
type Deps struct {
	DB        *db.DB
	Sealer    *id.Sealer
	Obs       *obs.Obs
	Catalog   *catalog.Service
	Sales     *sale.Service
	Admission *admission.Service
	// Invent issues access tokens for invented buyers.
	Invent func(ctx context.Context, n int, ttl time.Duration, yield func(levee.UserID, string) error) error
}

// Service is the room.
type Service struct {
	Deps
	log *slog.Logger
}

// New builds the room.
func New(d Deps) *Service { return &Service{Deps: d, log: d.Obs.Named("plan")} }

// DuplicateTx makes a draft with the terms of a sale and a window of its own. A zero drawAt keeps the draw's distance from the
// start; an empty title is the sale's. It fails with CodeInvalid on a window that is not allowed and CodeConflict for a rehearsal.
func (s *Service) DuplicateTx(ctx context.Context, tx *db.Tx, of *sale.Sale, starts, ends, drawAt time.Time, title string, actor levee.Actor) (*sale.Sale, error) {
	if of.Rehearsal {
		return nil, levee.E(levee.CodeConflict, "a rehearsal is not duplicated; duplicate the sale that it rehearses")
	}
	t := of.Terms()
	if title != "" {
		t.Title = title
	}
	if of.Mode == sale.ModeDraw && drawAt.IsZero() {
		drawAt = starts.Add(of.DrawAt.Sub(of.StartsAt))
	}
	t.StartsAt, t.EndsAt, t.DrawAt = starts, ends, drawAt
	return s.Sales.CreateTx(ctx, tx, t, actor)
}

// Rehearsal says how a copy of a sale differs from it. Zero fields are as in the sale.
type Rehearsal struct {
	Units     int64
	PerBuyer  int32
	StartsIn  time.Duration
	Lasts     time.Duration
	PayWithin time.Duration
}

// RehearseTx copies a sale for a rehearsal and schedules it: the same terms, mode and admission policy through the same engine, but
// it takes no stock from the catalog and sells to invented buyers and operators only. A draw is drawn at the same share of the copy's window.
func (s *Service) RehearseTx(ctx context.Context, tx *db.Tx, of *sale.Sale, r Rehearsal, actor levee.Actor) (*sale.Sale, error) {
	t := of.Terms()
	t.Title, t.Rehearsal = levee.Shorten("Rehearsal: "+of.Title, titleMost-len("…")), true
	if r.Units > 0 {
		t.Units = r.Units
	}
	if r.PerBuyer > 0 {
		t.PerBuyer = r.PerBuyer
	}
	if r.PayWithin > 0 {
		t.PayWithin = r.PayWithin
	}
	t.StartsAt = s.Obs.Clock().Add(r.StartsIn)
	t.EndsAt = t.StartsAt.Add(r.Lasts)
	if of.Mode == sale.ModeDraw {
		share := float64(of.DrawAt.Sub(of.StartsAt)) / float64(of.EndsAt.Sub(of.StartsAt))
		t.DrawAt = t.StartsAt.Add(time.Duration(share * float64(r.Lasts)))
	}
	v, err := s.Sales.CreateTx(ctx, tx, t, actor)
	if err != nil {
		return nil, err
	}
	return s.Sales.DoTx(ctx, tx, v.ID, sale.Command{Act: "schedule", Reason: "a rehearsal of " + s.Sales.PublicID(of.ID)}, actor)
}

// titleMost is the most bytes of a sale's title.
const titleMost = 120
