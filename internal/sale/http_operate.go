package sale

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/web"
)

type actView struct {
	Act    string    `json:"act"`
	Units  int64     `json:"units,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Actor  string    `json:"actor"`
	At     time.Time `json:"at"`
}

func (s *Service) postAct(ctx context.Context, in *struct {
	Sale string `path:"sale" doc:"The sale's id"`
	Body struct {
		Act    string `json:"act" enum:"schedule,pause,resume,stop,top_up,withdraw,force_sold_out,end"`
		Units  int64  `json:"units,omitempty" minimum:"0" maximum:"100000000" doc:"For top_up and withdraw"`
		Reason string `json:"reason" minLength:"1" maxLength:"180" doc:"Kept with who did it"`
	}
}) (*saleOut, error) {
	v, err := s.saleOf(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	c := Command{Act: in.Body.Act, Units: in.Body.Units, Reason: in.Body.Reason}
	return web.Once(ctx, s.DB, "actOnSale", web.KeyFrom(ctx), in, func(ctx context.Context, tx *db.Tx) (*saleOut, error) {
		v, err := s.DoTx(ctx, tx, v.ID, c, levee.ActorFrom(ctx))
		if err != nil {
			return nil, err
		}
		return &saleOut{s.view(ctx, v)}, nil
	})
}

type actsInput struct {
	Sale  string `path:"sale" doc:"The sale's id"`
	After int64  `query:"after" minimum:"0" doc:"The number of the last row of the page before"`
	Limit int    `query:"limit" minimum:"0" maximum:"100" doc:"20 if left out"`
}

type actsOut struct {
	Body struct {
		Acts []actView `json:"acts"`
		Next int64     `json:"next,omitempty"`
	}
}

func (s *Service) getActs(ctx context.Context, in *actsInput) (*actsOut, error) {
	v, err := s.saleOf(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	p := levee.Page{After: in.After, Limit: in.Limit}.Normal()
	list, err := s.acts(ctx, v.ID, p)
	if err != nil {
		return nil, err
	}
	out := &actsOut{}
	out.Body.Acts = make([]actView, len(list))
	for i, a := range list {
		out.Body.Acts[i] = actView{Act: a.Act, Units: a.Units, Reason: a.Reason, Detail: a.Detail, Actor: s.userRef(a.Actor), At: a.At}
		if i == p.Limit-1 {
			out.Body.Next = a.ID
		}
	}
	return out, nil
}

func (s *Service) userRef(u levee.UserID) string {
	if u == 0 {
		return ""
	}
	return s.Sealer.Seal(levee.KindUser, int64(u))
}

type movementView struct {
	Kind        string    `json:"kind" enum:"offered,reserved,sold,released,returned,withdrawn"`
	Quantity    int64     `json:"quantity"`
	Reservation string    `json:"reservation,omitempty" doc:"The reservation, or the first of a batch"`
	Actor       string    `json:"actor,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	At          time.Time `json:"at"`
}

type ledgerOut struct {
	Body struct {
		Movements []movementView `json:"movements"`
		Next      int64          `json:"next,omitempty"`
	}
}

func (s *Service) getLedger(ctx context.Context, in *actsInput) (*ledgerOut, error) {
	v, err := s.saleOf(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	p := levee.Page{After: in.After, Limit: in.Limit}.Normal()
	list, err := s.ledger(ctx, v.ID, p)
	if err != nil {
		return nil, err
	}
	out := &ledgerOut{}
	out.Body.Movements = make([]movementView, len(list))
	for i, m := range list {
		row := movementView{Kind: m.Kind, Quantity: m.Quantity, Actor: s.userRef(m.Actor), Reason: m.Reason, At: m.At}
		if m.Reservation != 0 {
			row.Reservation = s.Sealer.Seal(levee.KindReservation, int64(m.Reservation))
		}
		out.Body.Movements[i] = row
		if i == p.Limit-1 {
			out.Body.Next = m.ID
		}
	}
	return out, nil
}

type stockView struct {
	Offered   int64 `json:"offered"`
	Remaining int64 `json:"remaining"`
	Reserved  int64 `json:"reserved"`
	Sold      int64 `json:"sold"`
	Withdrawn int64 `json:"withdrawn"`
}

type gateView struct {
	Warm      bool  `json:"warm"`
	Remaining int64 `json:"remaining"`
	Unsettled int64 `json:"unsettled" doc:"Units whose settlement is under way"`
	Waiting   int   `json:"waiting" doc:"Purchases that wait for settlement"`
	Buyers    int   `json:"buyers"`
}

type accountView struct {
	Phase        string           `json:"phase"`
	Balanced     bool             `json:"balanced"`
	Problems     []string         `json:"problems"`
	Stock        stockView        `json:"stock"`
	Reservations map[string]int64 `json:"reservations" doc:"Units by state"`
	Ledger       map[string]int64 `json:"ledger" doc:"Units by kind"`
	Gate         gateView         `json:"gate"`
}

func accountOf(a *Account, now time.Time) accountView {
	st, g := a.Stock, a.Gate
	out := accountView{
		Phase: string(a.Sale.PhaseAt(now)), Balanced: a.Balanced(), Problems: append([]string{}, a.Problems...),
		Stock:        stockView{st.Offered, st.Remaining, st.Reserved, st.Sold, st.Withdrawn},
		Reservations: map[string]int64{}, Ledger: a.Ledger,
		Gate: gateView{g.Warm, g.Remaining, g.Unsettled, g.Waiting, g.Buyers},
	}
	for state, sum := range a.Reservations {
		out.Reservations[state.String()] = sum.Units
	}
	return out
}

type accountOut struct{ Body accountView }

func (s *Service) getAccount(ctx context.Context, in *salePath) (*accountOut, error) {
	return s.proved(ctx, in, s.Prove)
}

func (s *Service) postReconciliation(ctx context.Context, in *salePath) (*accountOut, error) {
	return s.proved(ctx, in, s.Reconcile)
}

func (s *Service) proved(ctx context.Context, in *salePath, prove func(context.Context, levee.SaleID) (*Account, error)) (*accountOut, error) {
	v, err := s.saleOf(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	a, err := prove(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	return &accountOut{accountOf(a, s.Obs.Clock())}, nil
}

type readinessOut struct {
	Body struct {
		Ready    bool     `json:"ready"`
		Problems []string `json:"problems"`
		Phase    string   `json:"phase"`
		Gate     gateView `json:"gate"`
	}
}

func (s *Service) getReadiness(ctx context.Context, in *salePath) (*readinessOut, error) {
	v, err := s.saleOf(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	r, err := s.CheckReady(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	out := &readinessOut{}
	out.Body.Problems = append([]string{}, r.Problems...)
	out.Body.Ready, out.Body.Phase = len(r.Problems) == 0, string(r.Phase)
	out.Body.Gate = gateView{r.Gate.Warm, r.Gate.Remaining, r.Gate.Unsettled, r.Gate.Waiting, r.Gate.Buyers}
	return out, nil
}

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
	v, err := s.saleOf(ctx, in.Sale)
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
		return &saleOut{s.view(ctx, copied)}, nil
	})
}

// maxInvented bounds one call, so that one answer stays below a gigabyte.
const maxInvented = 1_000_000

type inventRequest struct {
	Buyers int   `json:"buyers" minimum:"1" maximum:"1000000"`
	TTL    int64 `json:"ttl_seconds,omitempty" minimum:"10" maximum:"86400" doc:"3600 if left out"`
}

type inventedBuyer struct {
	Buyer     string `json:"buyer"`
	Token     string `json:"token" doc:"Access token"`
	Admission string `json:"admission"`
}

func (s *Service) postRehearsalBuyers(w http.ResponseWriter, r *http.Request) {
	var in inventRequest
	v, err := s.saleOf(r.Context(), r.PathValue("sale"))
	if err == nil {
		err = web.ReadJSON(r, maxWishBody, &in)
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
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	err = s.RehearsalTokens(r.Context(), in.Buyers, ttl, func(buyer levee.UserID, token string) error {
		return enc.Encode(inventedBuyer{Buyer: s.userRef(buyer), Token: token, Admission: s.tokens.issue(v.ID, buyer, expires)})
	})
	if err != nil {
		// The status line is gone; a cut answer is how the reader learns of it.
		s.log.Warn("inventing buyers ended early", "sale", s.ref(v.ID), "err", err)
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
	v, err := s.saleOf(ctx, r.PathValue("sale"))
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	enc := json.NewEncoder(w)
	for after := levee.ReservationID(0); ; {
		list, err := s.outcomes(ctx, v, after, 5000)
		if err != nil {
			s.log.Warn("an export of reservations ended early", "sale", s.ref(v.ID), "err", err)
			panic(http.ErrAbortHandler)
		}
		if len(list) == 0 {
			return
		}
		for _, res := range list {
			line := reservationLine{Reservation: s.Sealer.Seal(levee.KindReservation, int64(res.ID)), Order: s.Sealer.Seal(levee.KindOrder, int64(res.ID)),
				Buyer: s.userRef(res.Buyer), Quantity: res.Quantity, State: res.State.String()}
			if err := enc.Encode(line); err != nil {
				return // the reader left
			}
		}
		after = list[len(list)-1].ID
	}
}
