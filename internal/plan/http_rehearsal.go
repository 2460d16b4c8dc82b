package plan

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/platform/db"
	"levee/internal/platform/web"
)

func (s *Service) postRehearsal(ctx context.Context, in *struct {
	Sale string `path:"sale" doc:"The sale's id"`
	Body struct {
		Units     int64 `json:"units,omitempty" minimum:"1" maximum:"100000000" doc:"As the sale offers if left out"`
		PerBuyer  int32 `json:"per_buyer,omitempty" minimum:"1" maximum:"1000" doc:"As the sale allows if left out"`
		StartsIn  int64 `json:"starts_in_ms" minimum:"0" maximum:"3600000"`
		Lasts     int64 `json:"lasts_seconds" minimum:"1" maximum:"86400"`
		PayWithin int64 `json:"pay_within_seconds,omitempty" minimum:"10" maximum:"604800" doc:"As the sale's if left out"`
	}
}) (*saleOut, error) {
	v, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	r := Rehearsal{Units: in.Body.Units, PerBuyer: in.Body.PerBuyer, StartsIn: time.Duration(in.Body.StartsIn) * time.Millisecond,
		Lasts: time.Duration(in.Body.Lasts) * time.Second, PayWithin: time.Duration(in.Body.PayWithin) * time.Second}
	return web.Once(ctx, s.DB, "rehearseSale", web.KeyFrom(ctx), in, func(ctx context.Context, tx *db.Tx) (*saleOut, error) {
		copied, err := s.RehearseTx(ctx, tx, v, r, levee.ActorFrom(ctx))
		if err != nil {
			return nil, err
		}
		return &saleOut{s.Sales.View(ctx, copied)}, nil
	})
}

// maxInvented bounds one call, so that one answer stays below a gigabyte.
const (
	maxInvented   = 1_000_000
	maxInventBody = 4096
)

type inventRequest struct {
	Buyers int   `json:"buyers" minimum:"1" maximum:"1000000"`
	TTL    int64 `json:"ttl_seconds,omitempty" minimum:"10" maximum:"86400" doc:"3600 if left out"`
}

type inventedBuyer struct {
	Buyer     string `json:"buyer"`
	Token     string `json:"token" doc:"Access token"`
	Admission string `json:"admission,omitempty" doc:"Left out where the sale has a waiting room or a brake: who rehearses it goes through them"`
}

func (s *Service) postRehearsalBuyers(w http.ResponseWriter, r *http.Request) {
	var in inventRequest
	v, err := s.Sales.ByPublicID(r.Context(), r.PathValue("sale"))
	if err == nil {
		err = web.ReadJSON(r, maxInventBody, &in)
	}
	switch {
	case err != nil:
	case !v.Rehearsal:
		err = levee.E(levee.CodeConflict, "buyers are invented for a rehearsal only; make one with POST /v1/sales/{sale}/rehearsals")
	case in.Buyers < 1 || in.Buyers > maxInvented:
		err = levee.Invalid("body.buyers", "1 to 1000000", in.Buyers)
	case in.TTL != 0 && (in.TTL < 10 || in.TTL > 86400):
		err = levee.Invalid("body.ttl_seconds", "10 to 86400", in.TTL)
	}
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	ttl := time.Hour
	if in.TTL > 0 {
		ttl = time.Duration(in.TTL) * time.Second
	}
	expires := s.Obs.Clock().Add(ttl)
	through := v.Admission.Room || v.Admission.Brake != admission.BrakeNone
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	err = s.Invent(r.Context(), in.Buyers, ttl, func(buyer levee.UserID, token string) error {
		b := inventedBuyer{Buyer: s.Sealer.Seal(levee.KindUser, int64(buyer)), Token: token}
		if !through {
			b.Admission = s.Admission.Issue(v.ID, buyer, expires)
		}
		return enc.Encode(b)
	})
	if err != nil {
		// The status line is gone; a cut answer is how the reader learns of it.
		s.log.Warn("inventing buyers ended early", "sale", s.Sales.PublicID(v.ID), "err", err)
		panic(http.ErrAbortHandler)
	}
}

type reservationLine struct {
	Reservation string `json:"reservation"`
	Order       string `json:"order"`
	Buyer       string `json:"buyer"`
	Quantity    int32  `json:"quantity"`
	State       string `json:"state"`
}

// exportReservations streams what SQL holds, for the audit of a rehearsal: it is compared with what clients were told.
func (s *Service) exportReservations(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	v, err := s.Sales.ByPublicID(ctx, r.PathValue("sale"))
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	enc := json.NewEncoder(w)
	for after := levee.ReservationID(0); ; {
		list, err := s.Sales.Reservations(ctx, v, after, 5000)
		if err != nil {
			s.log.Warn("an export of reservations ended early", "sale", s.Sales.PublicID(v.ID), "err", err)
			panic(http.ErrAbortHandler)
		}
		if len(list) == 0 {
			return
		}
		for _, res := range list {
			line := reservationLine{Reservation: s.Sealer.Seal(levee.KindReservation, int64(res.ID)), Order: s.Sealer.Seal(levee.KindOrder, int64(res.ID)),
				Buyer: s.Sealer.Seal(levee.KindUser, int64(res.Buyer)), Quantity: res.Quantity, State: res.State.String()}
			if err := enc.Encode(line); err != nil {
				return // the reader left
			}
		}
		after = list[len(list)-1].ID
	}
}
