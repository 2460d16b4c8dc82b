package order

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

const everybody = levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator
const operators = levee.RoleOperator | levee.RoleAdministrator

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/orders", ID: "createOrder", Tag: "orders",
		Summary:     "Buy from the catalog",
		Description: "Takes the units of every line, all or none, and waits for the payment until pay_by.",
		Roles:       everybody, Status: 201, Limit: limit.Purchase, Idempotent: true, Errors: []int{401, 403, 404, 409, 410, 422}}, s.postOrder)
	listing.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/orders", ID: "listOrders", Tag: "orders",
		Summary:     "My orders; for operators all orders",
		Description: "Newest first. A page may hold fewer orders than asked for and still have a next one: go on until next is missing.",
		Roles:       everybody, Status: 200, Limit: limit.Read, Errors: []int{401, 404}}, s.list, s.getOrders)
	web.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/orders/{id}", ID: "getOrder", Others: levee.OrdersOfOthers, Tag: "orders", Summary: "One order",
		Roles: everybody, Status: 200, Limit: limit.Read, Errors: []int{401, 404}}, s.getOrder)
	listing.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/orders/{id}/timeline", ID: "getOrderTimeline", Others: levee.OrdersOfOthers, Tag: "orders",
		Summary: "What happened to an order", Roles: everybody, Limit: limit.Read, Errors: []int{401, 404}},
		listing.New[entryView](listing.Spec{Name: "timeline", Whole: true}), s.getTimeline)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/orders/{id}/cancellation", ID: "cancelOrder", Others: levee.OrdersOfOthers, Tag: "orders",
		Summary: "Give an unpaid order up",
		Roles:   everybody, Status: 200, Limit: limit.Write, Idempotent: true, Errors: []int{401, 404, 409, 422}}, s.postCancellation)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/orders/{id}/shipment", ID: "shipOrder", Others: levee.OrdersOfOthers, Tag: "orders",
		Summary: "Hand a paid order to a carrier",
		Roles:   operators, Status: 200, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409, 422}}, s.postShipment)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/orders/{id}/completion", ID: "completeOrder", Others: levee.OrdersOfOthers, Tag: "orders",
		Summary: "Record that an order was delivered",
		Roles:   operators, Status: 200, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409}}, s.postCompletion)
}

type lineRequest struct {
	SKU      string `json:"sku" doc:"The SKU's id" example:"sku_3gk0q8v2m5x7c9b1n4d6f8h0j2" maxLength:"64"`
	Quantity int32  `json:"quantity" minimum:"1" maximum:"1000000"`
}

type buyRequest struct {
	Lines []lineRequest `json:"lines" minItems:"1" maxItems:"50" doc:"Equal SKUs are added up"`
}

type cancelRequest struct {
	Reason string `json:"reason,omitempty" maxLength:"180" doc:"Shown in the order's history"`
}

type shipRequest struct {
	Carrier  string `json:"carrier" minLength:"1" maxLength:"89"`
	Tracking string `json:"tracking" minLength:"1" maxLength:"89" doc:"The carrier's number of the parcel"`
}

type lineView struct {
	SKU      string    `json:"sku"`
	Product  string    `json:"product"`
	Title    string    `json:"title"`
	Quantity int32     `json:"quantity"`
	Price    web.Money `json:"price" doc:"Of one unit, when it was bought"`
}

type linksView struct {
	Self     string `json:"self"`
	Timeline string `json:"timeline"`
	Payments string `json:"payments"`
}

type orderView struct {
	ID        string      `json:"id"`
	State     string      `json:"state" enum:"created,paid,shipped,done,refunding,refunded,cancelled"`
	Buyer     string      `json:"buyer"`
	Source    string      `json:"source" doc:"shop: from the catalog; else the room that sold it"`
	Sale      string      `json:"sale,omitempty" doc:"The sale it was bought in"`
	Total     web.Money   `json:"total"`
	PayBy     *time.Time  `json:"pay_by,omitempty" doc:"Until when it waits for its payment"`
	CreatedAt time.Time   `json:"created_at"`
	UpdatedAt time.Time   `json:"updated_at"`
	Version   int64       `json:"version"`
	Lines     []lineView  `json:"lines"`
	Actions   []string    `json:"actions" doc:"What the caller may do with it now: pay, cancel, ship, complete, refund"`
	Links     linksView   `json:"links"`
	Timeline  []entryView `json:"timeline,omitempty" doc:"Only in lists that are asked with include=timeline"`
}

type entryView struct {
	From    string    `json:"from,omitempty"`
	To      string    `json:"to"`
	By      string    `json:"by" enum:"buyer,shop,system"`
	Reason  string    `json:"reason,omitempty"`
	Payment string    `json:"payment,omitempty" doc:"The payment that paid it"`
	At      time.Time `json:"at"`
}

type orderOutput struct {
	Location string `header:"Location"`
	Body     orderView
}

type idInput struct {
	ID string `path:"id" doc:"The order's id" maxLength:"64"`
}

func (s *Service) postOrder(ctx context.Context, in *struct{ Body buyRequest }) (*orderOutput, error) {
	wants := make([]Want, len(in.Body.Lines))
	for i, l := range in.Body.Lines {
		sku, err := s.sealer.Open(levee.KindSKU, l.SKU)
		if err != nil {
			return nil, levee.E(levee.CodeNotFound, "there is no such SKU").With("sku", levee.Shorten(l.SKU, 64))
		}
		wants[i] = Want{SKU: levee.SKUID(sku), Quantity: l.Quantity}
	}
	actor := levee.ActorFrom(ctx)
	o, err := s.Buy(ctx, actor, wants, web.KeyFrom(ctx))
	if err != nil {
		return nil, err
	}
	return s.output(actor, o), nil
}

func (s *Service) getOrders(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[orderView], error) {
	actor := levee.ActorFrom(ctx)
	found, err := s.List(ctx, actor, q)
	if err != nil {
		return nil, err
	}
	var steps map[levee.OrderID][]Entry
	if q.Wants("timeline") {
		if steps, err = loadHistories(ctx, s.db.Query, found.Rows); err != nil {
			return nil, err
		}
	}
	return listing.Show(q, found, func(o Order) orderView {
		v := s.view(actor, o)
		if steps != nil {
			v.Timeline = s.viewSteps(steps[o.ID])
		}
		return v
	}), nil
}

func (s *Service) getOrder(ctx context.Context, in *idInput) (*orderOutput, error) {
	number, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	return s.show(ctx, number)
}

func (s *Service) getTimeline(ctx context.Context, in *idInput, _ *listing.Query) (*listing.Page[entryView], error) {
	number, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	steps, err := s.Timeline(ctx, levee.ActorFrom(ctx), number)
	if err != nil {
		return nil, err
	}
	return listing.Whole(s.viewSteps(steps)), nil
}

func (s *Service) viewSteps(steps []Entry) (list []entryView) {
	buyer := steps[0].Actor // the creation is the buyer's
	for _, e := range steps {
		v := entryView{To: e.To.String(), By: "shop", Reason: e.Reason, At: e.At}
		switch e.Actor {
		case buyer:
			v.By = "buyer"
		case levee.System.User:
			v.By = "system"
		}
		if e.From != 0 {
			v.From = e.From.String()
		}
		if e.To == StatePaid && e.Ref != 0 {
			v.Payment = s.sealer.Seal(levee.KindPayment, e.Ref)
		}
		list = append(list, v)
	}
	return list
}

func (s *Service) postCancellation(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body *cancelRequest
}) (*orderOutput, error) {
	actor, reason := levee.ActorFrom(ctx), "given up"
	if in.Body != nil && in.Body.Reason != "" {
		reason = in.Body.Reason
	}
	return s.act(ctx, "order.cancel", in.ID, reason, func(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
		return s.CancelTx(ctx, tx, id, actor, reason)
	})
}

func (s *Service) postShipment(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body shipRequest
}) (*orderOutput, error) {
	actor := levee.ActorFrom(ctx)
	return s.act(ctx, "order.ship", in.ID, in.Body, func(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
		return s.ShipTx(ctx, tx, id, actor, in.Body.Carrier, in.Body.Tracking)
	})
}

func (s *Service) postCompletion(ctx context.Context, in *idInput) (*orderOutput, error) {
	actor := levee.ActorFrom(ctx)
	return s.act(ctx, "order.complete", in.ID, nil, func(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
		return s.CompleteTx(ctx, tx, id, actor)
	})
}

// act does one step of an order under the request's idempotency key and shows the order as it was right after it.
func (s *Service) act(ctx context.Context, route, public string, body any,
	do func(ctx context.Context, tx *db.Tx, id levee.OrderID) error) (*orderOutput, error) {
	number, err := s.open(public)
	if err != nil {
		return nil, err
	}
	request := struct {
		Order int64
		Body  any
	}{int64(number), body}
	o, err := web.Once(ctx, s.db, route, web.KeyFrom(ctx), request, func(ctx context.Context, tx *db.Tx) (*Order, error) {
		if err := do(ctx, tx, number); err != nil {
			return nil, err
		}
		o, err := s.ByIDTx(ctx, tx, number)
		return &o, err
	})
	if err != nil {
		return nil, err
	}
	return s.output(levee.ActorFrom(ctx), *o), nil
}

func (s *Service) show(ctx context.Context, id levee.OrderID) (*orderOutput, error) {
	actor := levee.ActorFrom(ctx)
	o, err := s.ByID(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	return s.output(actor, o), nil
}

func (s *Service) open(public string) (levee.OrderID, error) {
	id, err := s.sealer.Open(levee.KindOrder, public)
	if err != nil {
		return 0, notFound()
	}
	return levee.OrderID(id), nil
}

func (s *Service) output(actor levee.Actor, o Order) *orderOutput {
	v := s.view(actor, o)
	return &orderOutput{Location: v.Links.Self, Body: v}
}

func (s *Service) view(actor levee.Actor, o Order) orderView {
	id := s.sealer.Seal(levee.KindOrder, int64(o.ID))
	self := "/v1/orders/" + id
	v := orderView{
		ID: id, State: o.State.String(), Buyer: s.sealer.Seal(levee.KindUser, int64(o.Buyer)), Source: o.Source, Total: web.MoneyOf(o.Total),
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt, Version: o.Version, Lines: make([]lineView, len(o.Lines)), Actions: actions(actor, o),
		Links: linksView{Self: self, Timeline: self + "/timeline", Payments: self + "/payments"},
	}
	if o.SourceRef != 0 {
		v.Sale = s.sealer.Seal(levee.KindSale, o.SourceRef)
	}
	if !o.PayBy.IsZero() {
		v.PayBy = &o.PayBy
	}
	for i, l := range o.Lines {
		v.Lines[i] = lineView{
			SKU: s.sealer.Seal(levee.KindSKU, int64(l.SKU)), Product: s.sealer.Seal(levee.KindProduct, int64(l.Product)),
			Title: l.Title, Quantity: l.Quantity, Price: web.MoneyOf(l.Price),
		}
	}
	return v
}

func actions(actor levee.Actor, o Order) []string {
	may := []string{}
	add := func(to State, what string) {
		if o.State.MayBecome(to) {
			may = append(may, what)
		}
	}
	if o.State == StateCreated {
		if actor.User == o.Buyer {
			may = append(may, "pay")
		}
		may = append(may, "cancel")
	}
	if isOperator(actor) {
		add(StateShipped, "ship")
		add(StateDone, "complete")
		add(StateRefunding, "refund")
	}
	return may
}
