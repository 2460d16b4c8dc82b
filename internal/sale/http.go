package sale

import (
	"context"
	"errors"
	"net/http"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

const (
	operators = levee.RoleOperator | levee.RoleAdministrator
	buyers    = levee.RoleCustomer | operators
	tag       = "sales"
)

// Routes adds the room's operations to the server.
func (s *Service) Routes(srv *web.Server) {
	srv.Fast(s.refuseFast)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/sales", ID: "listSales", Tag: tag, Limit: limit.Read, Errors: []int{403},
		Summary: "List sales, newest first; operators see drafts and rehearsals too"}, s.lists.sales, s.getSales)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}", ID: "getSale", Tag: tag, Limit: limit.Read, Summary: "Read a sale"}, s.getSale)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/sales/{sale}/events", ID: "watchSale", Tag: tag, Timeout: -1, Quiet: true,
		Summary: "Watch the phases of a sale (server-sent events)"}, http.HandlerFunc(s.watchSale),
		web.RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: nil}})
	srv.Raw(web.Route{Method: "POST", Path: "/v1/sales/{sale}/purchases", ID: "buyInSale", Tag: tag, Roles: buyers, Status: 201, Limit: limit.Purchase,
		BodyMax: maxWishBody, Idempotent: true, Errors: []int{400, 403, 404, 409, 410, 422, 503}, Summary: "Take units of a sale",
		Description: "201: the order is on disk. 202: a place in the line, ask for it at Location; it becomes an order or a refusal. " +
			"409 sold_out, limit_reached, paused, not_open or draw_only; 410 ended. A refusal takes nothing and may be tried again with the same key."},
		http.HandlerFunc(s.purchase), web.RawDoc{Request: wishBody{}, Responses: map[int]any{201: ticketView{}, 202: ticketView{}},
			Headers: map[string]string{"Levee-Admission": "The admission token", "Prefer": "respond-async: answer 202 at once"}})
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/reservations/{reservation}", ID: "getReservation", Others: levee.OrdersOfOthers, Tag: tag, Roles: buyers, Limit: limit.Poll,
		Summary: "Ask what became of a reservation"}, s.getReservation)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/reservations/{reservation}/events", ID: "watchReservation", Others: levee.OrdersOfOthers, Tag: tag, Roles: buyers, Timeout: -1, Quiet: true,
		Summary: "Wait for a reservation's result (server-sent events)"}, http.HandlerFunc(s.watchReservation),
		web.RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: nil}})
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/reservations/{reservation}", ID: "giveUpReservation", Others: levee.OrdersOfOthers, Tag: tag, Roles: buyers, Status: 204,
		Limit: limit.Write, Errors: []int{404, 409}, Summary: "Give an unpaid reservation up"}, s.deleteReservation)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/reservations/{reservation}/voids", ID: "voidReservation", Tag: tag, Roles: operators, Status: 204,
		Limit: limit.Write, Errors: []int{404, 409}, Summary: "Void a buyer's unpaid reservation, with a reason"}, s.postVoid)
	s.operatorRoutes(srv)
}

func (s *Service) operatorRoutes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales", ID: "createSale", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write, Idempotent: true,
		Errors: []int{404, 422}, Summary: "Draft a sale"}, s.postSale)
	web.Add(srv, web.Route{Method: "PUT", Path: "/v1/sales/{sale}", ID: "changeSale", Tag: tag, Roles: operators, Limit: limit.Write,
		Errors: []int{404, 409, 422}, Summary: "Change the terms of a sale"}, s.putSale)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/acts", ID: "actOnSale", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write, Idempotent: true,
		Errors: []int{404, 409, 422}, Summary: "Schedule, pause, resume, stop, top up, withdraw, force sold out or end a sale"}, s.postAct)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/acts", ID: "listActs", Tag: tag, Roles: operators, Limit: limit.Read,
		Summary: "What operators did to a sale, who and why"}, s.lists.acts, s.getActs)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/ledger", ID: "listLedger", Tag: tag, Roles: operators, Limit: limit.Read, Replica: true,
		Summary: "Every movement of a sale's stock, newest first"}, s.lists.ledger, s.getLedger)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/account", ID: "getAccount", Tag: tag, Roles: operators, Limit: limit.Read,
		Summary: "Prove a sale's books and show them"}, s.getAccount)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/reconciliations", ID: "reconcileSale", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write,
		Summary: "Load a sale's gate anew from SQL and prove its books"}, s.postReconciliation)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/readiness", ID: "getReadiness", Tag: tag, Roles: operators, Limit: limit.Read,
		Summary: "The warm-up check: could this node start the sale now?"}, s.getReadiness)
}

type salePath struct {
	Sale string `path:"sale" doc:"The sale's id"`
}

// SaleView is a sale as the world sees it.
type SaleView struct {
	ID          string       `json:"id"`
	Title       string       `json:"title"`
	Product     string       `json:"product"`
	SKU         string       `json:"sku"`
	Price       web.Money    `json:"price"`
	PerBuyer    int32        `json:"per_buyer"`
	StartsAt    time.Time    `json:"starts_at"`
	EndsAt      time.Time    `json:"ends_at"`
	PayWithin   int64        `json:"pay_within_seconds"`
	Phase       string       `json:"phase" enum:"draft,upcoming,open,sold_out,entry,drawn,paused,ended"`
	Mode        string       `json:"mode" enum:"race,draw" doc:"race: first come, first served. draw: by lot among those who entered until draw_at"`
	DrawAt      *time.Time   `json:"draw_at,omitempty" doc:"Of a draw: entries are taken from starts_at until then"`
	WaitingList bool         `json:"waiting_list" doc:"Once no unit is free, buyers may wait for those that come back"`
	Admission   policyView   `json:"admission" doc:"What stands before the sale"`
	TokenNeeded bool         `json:"token_needed" doc:"A purchase needs an admission token"`
	Rehearsal   bool         `json:"rehearsal,omitempty"`
	ServerTime  time.Time    `json:"server_time" doc:"Count down on this clock"`
	Operator    *saleDetails `json:"operator,omitempty"`
	Links       saleLinks    `json:"links"`
}

type policyView struct {
	Room       bool   `json:"room" doc:"A waiting room stands before the sale"`
	Order      string `json:"order" enum:"arrival,random" doc:"random: lots are drawn among all who wait when the sale opens"`
	PerSecond  int32  `json:"per_second" doc:"Admissions a second"`
	Multiple   int32  `json:"multiple" doc:"Admissions out and unspent at once, for each free unit"`
	Brake      string `json:"brake" enum:"none,work,picture" doc:"What a buyer must do for a place"`
	WorkBits   int32  `json:"work_bits" doc:"Leading zero bits that a proof of work must have"`
	PerAddress int32  `json:"per_address" doc:"Places from one visitor address; 0: no limit"`
}

type saleDetails struct {
	State         string `json:"state"`
	Units         int64  `json:"units"`
	ForcedSoldOut bool   `json:"forced_sold_out"`
	Version       int64  `json:"version"`
}

type saleLinks struct {
	Self       string `json:"self"`
	Admissions string `json:"admissions"`
	Purchases  string `json:"purchases"`
	Events     string `json:"events"`
	Line       string `json:"line"`
	Draw       string `json:"draw,omitempty"`
	Queue      string `json:"queue,omitempty"`
}

// View shows a sale to whoever asks: operators see more.
func (s *Service) View(ctx context.Context, v *Sale) SaleView {
	public := s.Sealer.Seal(levee.KindSale, int64(v.ID))
	now := s.Obs.Clock().UTC()
	phase := v.PhaseAt(now)
	if l := (*s.live.Load())[public]; l != nil {
		phase = l.phase(v, now)
	}
	self := "/v1/sales/" + public
	out := SaleView{
		ID: public, Title: v.Title, Product: s.Sealer.Seal(levee.KindProduct, int64(v.Product)), SKU: s.Sealer.Seal(levee.KindSKU, int64(v.SKU)),
		Price: web.MoneyOf(v.Price), PerBuyer: v.PerBuyer, StartsAt: v.StartsAt, EndsAt: v.EndsAt, PayWithin: int64(v.PayWithin / time.Second),
		Phase: string(phase), Mode: string(v.Mode), WaitingList: v.WaitingList, Admission: policyView(v.Admission), TokenNeeded: v.TokenNeeded,
		Rehearsal: v.Rehearsal, ServerTime: now,
		Links: saleLinks{Self: self, Admissions: self + "/admissions", Purchases: self + "/purchases", Events: self + "/events", Line: self + "/line"},
	}
	if v.Mode == ModeDraw {
		out.DrawAt, out.Links.Draw = &v.DrawAt, self+"/draw"
	}
	if v.Admission.Room {
		out.Links.Queue = self + "/admissions/events"
	}
	if levee.ActorFrom(ctx).May(levee.SalesHidden) {
		out.Operator = &saleDetails{State: string(v.State), Units: v.Units, ForcedSoldOut: v.ForcedSoldOut, Version: v.Version}
	}
	return out
}

type saleOut struct {
	ETag string `header:"ETag"`
	Body SaleView
}

// shown is the answer that shows a sale; to those who may change it with the tag of its version.
func (s *Service) shown(ctx context.Context, v *Sale) *saleOut {
	out := &saleOut{Body: s.View(ctx, v)}
	if out.Body.Operator != nil {
		out.ETag = web.Tag(v.Version)
	}
	return out
}

func (s *Service) getSale(ctx context.Context, in *salePath) (*saleOut, error) {
	if l := (*s.live.Load())[in.Sale]; l != nil {
		return s.shown(ctx, l.view.Load()), nil
	}
	v, err := s.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	return s.shown(ctx, v), nil
}

func (s *Service) getSales(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[SaleView], error) {
	found, err := readSales(ctx, s.DB.Query, q, levee.ActorFrom(ctx).May(levee.SalesHidden))
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, func(v *Sale) SaleView { return s.View(ctx, v) }), nil
}

func (s *Service) watchSale(w http.ResponseWriter, r *http.Request) {
	l, err := s.liveFor(r.Context(), r.PathValue("sale"))
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	s.Push.ServeSSE(w, r, "sale:"+l.public)
}

// ticketView documents what a purchase and a reservation look like.
type ticketView struct {
	Reservation string      `json:"reservation"`
	Sale        string      `json:"sale,omitempty"`
	Quantity    int32       `json:"quantity,omitempty"`
	Place       string      `json:"place" enum:"queued,ordered,released,refused"`
	Repeated    bool        `json:"repeated,omitempty" doc:"This is the first answer again"`
	Order       string      `json:"order,omitempty"`
	Total       *web.Money  `json:"total,omitempty"`
	Error       string      `json:"error,omitempty" doc:"Why it was refused"`
	Message     string      `json:"message,omitempty"`
	PollAfter   int64       `json:"poll_after_ms,omitempty" doc:"Ask again after this time; absent where the answer is final"`
	Links       ticketLinks `json:"links"`
}

type ticketLinks struct {
	Self  string `json:"self,omitempty"`
	Order string `json:"order,omitempty"`
	Pay   string `json:"pay,omitempty"`
}

type reservationPath struct {
	Reservation string `path:"reservation" doc:"The reservation's id"`
}

func (s *Service) getReservation(ctx context.Context, in *reservationPath) (*struct{ Body ticketView }, error) {
	n, err := s.Sealer.Open(levee.KindReservation, in.Reservation)
	if err != nil {
		return nil, err
	}
	st, err := s.Reservation(ctx, levee.ReservationID(n), levee.ActorFrom(ctx))
	if err != nil {
		return nil, err
	}
	out := ticketView{Reservation: in.Reservation, Place: st.Place, Quantity: st.Quantity, Links: ticketLinks{Self: "/v1/reservations/" + in.Reservation}}
	if st.Sale != 0 {
		out.Sale = s.ref(st.Sale)
	}
	switch st.Place {
	case "queued":
		out.PollAfter = 3000
	case "refused":
		out.Error, out.Message = string(levee.CodeOf(st.Refusal)), messageOf(st.Refusal)
	default:
		out.Order = s.Sealer.Seal(levee.KindOrder, n)
		out.Links.Order = "/v1/orders/" + out.Order
		if st.State == Reserved {
			out.Links.Pay = out.Links.Order + "/payments"
		}
	}
	return &struct{ Body ticketView }{out}, nil
}

func (s *Service) watchReservation(w http.ResponseWriter, r *http.Request) {
	public := r.PathValue("reservation")
	n, err := s.Sealer.Open(levee.KindReservation, public)
	if err == nil {
		_, err = s.Reservation(r.Context(), levee.ReservationID(n), levee.ActorFrom(r.Context()))
	}
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	s.Push.ServeSSE(w, r, "reservation:"+public)
}

func (s *Service) deleteReservation(ctx context.Context, in *reservationPath) (*struct{}, error) {
	n, err := s.Sealer.Open(levee.KindReservation, in.Reservation)
	if err != nil {
		return nil, err
	}
	return nil, s.GiveUp(ctx, levee.ReservationID(n), levee.ActorFrom(ctx))
}

func (s *Service) postVoid(ctx context.Context, in *struct {
	Reservation string `path:"reservation" doc:"The reservation's id"`
	Body        struct {
		Reason string `json:"reason" minLength:"1" maxLength:"180"`
	}
}) (*struct{}, error) {
	n, err := s.Sealer.Open(levee.KindReservation, in.Reservation)
	if err != nil {
		return nil, err
	}
	return nil, s.Void(ctx, levee.ReservationID(n), levee.ActorFrom(ctx), in.Body.Reason)
}

type termsBody struct {
	Title       string      `json:"title" minLength:"1" maxLength:"120"`
	SKU         string      `json:"sku" doc:"The id of the SKU that is sold"`
	Price       web.Money   `json:"price" doc:"Of one unit"`
	Units       int64       `json:"units" minimum:"1" maximum:"100000000"`
	PerBuyer    int32       `json:"per_buyer" minimum:"1" maximum:"1000"`
	StartsAt    time.Time   `json:"starts_at"`
	EndsAt      time.Time   `json:"ends_at"`
	PayWithin   int64       `json:"pay_within_seconds,omitempty" minimum:"10" maximum:"604800" doc:"1800 if left out"`
	Mode        string      `json:"mode,omitempty" enum:"race,draw" doc:"race if left out"`
	DrawAt      *time.Time  `json:"draw_at,omitempty" doc:"Of a draw: after starts_at and before ends_at"`
	WaitingList *bool       `json:"waiting_list,omitempty" doc:"Once no unit is free, buyers may wait for those that come back; true if left out"`
	Admission   *policyBody `json:"admission,omitempty" doc:"What stands before the sale; nothing if left out"`
	TokenNeeded *bool       `json:"token_needed,omitempty" doc:"A purchase needs an admission token; true if left out, and with a room or a brake"`
	Version     int64       `json:"version,omitempty" doc:"For a change: the version that was read"`
}

type policyBody struct {
	Room       bool   `json:"room,omitempty"`
	Order      string `json:"order,omitempty" enum:"arrival,random" doc:"arrival if left out"`
	PerSecond  int32  `json:"per_second,omitempty" minimum:"1" maximum:"100000" doc:"100 if left out"`
	Multiple   int32  `json:"multiple,omitempty" minimum:"1" maximum:"1000" doc:"3 if left out"`
	Brake      string `json:"brake,omitempty" enum:"none,work,picture" doc:"none if left out"`
	WorkBits   int32  `json:"work_bits,omitempty" minimum:"8" maximum:"24" doc:"16 if left out"`
	PerAddress int32  `json:"per_address,omitempty" minimum:"0" maximum:"100000" doc:"0, no limit, if left out"`
}

func (s *Service) terms(b termsBody) (Terms, error) {
	sku, err := s.Sealer.Open(levee.KindSKU, b.SKU)
	if err != nil {
		return Terms{}, levee.Invalid("body.sku", "the id of a SKU", b.SKU)
	}
	t := Terms{
		Title: b.Title, SKU: levee.SKUID(sku), Price: levee.Money{Minor: b.Price.Amount, Currency: b.Price.Currency}, Units: b.Units,
		PerBuyer: b.PerBuyer, StartsAt: b.StartsAt, EndsAt: b.EndsAt, PayWithin: time.Duration(b.PayWithin) * time.Second,
		Mode: Mode(b.Mode), WaitingList: b.WaitingList == nil || *b.WaitingList, TokenNeeded: b.TokenNeeded == nil || *b.TokenNeeded,
	}
	if b.DrawAt != nil {
		t.DrawAt = *b.DrawAt
	}
	if b.Admission != nil {
		t.Admission = admission.Policy(*b.Admission)
	}
	return t, nil
}

func (s *Service) postSale(ctx context.Context, in *struct{ Body termsBody }) (*saleOut, error) {
	t, err := s.terms(in.Body)
	if err != nil {
		return nil, err
	}
	return web.Once(ctx, s.DB, "createSale", web.KeyFrom(ctx), in.Body, func(ctx context.Context, tx *db.Tx) (*saleOut, error) {
		v, err := s.CreateTx(ctx, tx, t, levee.ActorFrom(ctx))
		if err != nil {
			return nil, err
		}
		return s.shown(ctx, v), nil
	})
}

func (s *Service) putSale(ctx context.Context, in *struct {
	Sale string `path:"sale" doc:"The sale's id"`
	web.Precondition
	Body termsBody
}) (*saleOut, error) {
	old, err := s.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	t, err := s.terms(in.Body)
	if err != nil {
		return nil, err
	}
	t.Rehearsal = old.Rehearsal
	version, seen := in.Body.Version, in.Seen(in.Body.Version != 0)
	if err := seen(old.Version); err != nil {
		return nil, err
	}
	if version == 0 {
		version = old.Version
	}
	v, err := s.Change(ctx, old.ID, version, t, levee.ActorFrom(ctx))
	if levee.CodeOf(err) == levee.CodeConflict { // somebody was faster
		if now, e := s.ByPublicID(ctx, in.Sale); e == nil && seen(now.Version) != nil {
			err = seen(now.Version)
		}
	}
	if err != nil {
		return nil, err
	}
	return s.shown(ctx, v), nil
}

func messageOf(err error) string {
	var e *levee.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return ""
}
