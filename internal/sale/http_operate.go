package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
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
	v, err := s.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	c := Command{Act: in.Body.Act, Units: in.Body.Units, Reason: in.Body.Reason}
	return web.Once(ctx, s.DB, "actOnSale", web.KeyFrom(ctx), in, func(ctx context.Context, tx *db.Tx) (*saleOut, error) {
		v, err := s.DoTx(ctx, tx, v.ID, c, levee.ActorFrom(ctx))
		if err != nil {
			return nil, err
		}
		return s.shown(ctx, v), nil
	})
}

func (s *Service) getActs(ctx context.Context, in *salePath, q *listing.Query) (*listing.Page[actView], error) {
	v, err := s.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	found, err := readActs(ctx, s.DB.Query, v.ID, q)
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, func(a Act) actView {
		return actView{Act: a.Act, Units: a.Units, Reason: a.Reason, Detail: a.Detail, Actor: s.userRef(a.Actor), At: a.At}
	}), nil
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

func (s *Service) getLedger(ctx context.Context, in *salePath, q *listing.Query) (*listing.Page[movementView], error) {
	v, err := s.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	found, err := readLedger(ctx, s.DB.Query, v.ID, q)
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, func(m Movement) movementView {
		row := movementView{Kind: m.Kind, Quantity: m.Quantity, Actor: s.userRef(m.Actor), Reason: m.Reason, At: m.At}
		if m.Reservation != 0 {
			row.Reservation = s.Sealer.Seal(levee.KindReservation, int64(m.Reservation))
		}
		return row
	}), nil
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
	v, err := s.ByPublicID(ctx, in.Sale)
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
	v, err := s.ByPublicID(ctx, in.Sale)
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
