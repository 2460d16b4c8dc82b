package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Rehearsal says how a copy of a sale differs from it. Zero fields are as in the sale.
type Rehearsal struct {
	Units     int64
	PerBuyer  int32
	StartsIn  time.Duration
	Lasts     time.Duration
	PayWithin time.Duration
}

// RehearseTx copies a sale for a rehearsal and schedules it: the same terms through the same engine, but it takes no stock from
// the catalog and sells to invented buyers only.
func (s *Service) RehearseTx(ctx context.Context, tx *db.Tx, of *Sale, r Rehearsal, actor levee.Actor) (*Sale, error) {
	t := Terms{Title: levee.Shorten("Rehearsal: "+of.Title, maxTitle-4), SKU: of.SKU, Price: of.Price, Units: of.Units, PerBuyer: of.PerBuyer,
		PayWithin: of.PayWithin, Admission: of.Admission, Rehearsal: true}
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
	v, err := s.CreateTx(ctx, tx, t, actor)
	if err != nil {
		return nil, err
	}
	return s.DoTx(ctx, tx, v.ID, Command{Act: "schedule", Reason: "a rehearsal of " + s.ref(of.ID)}, actor)
}
