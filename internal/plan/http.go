package plan

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/web"
	"levee/internal/sale"
)

const (
	operators = levee.RoleOperator | levee.RoleAdministrator
	tag       = "sales"
)

// Routes adds the room's operations to the server.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sale-checks", ID: "checkSale", Tag: tag, Reads: true, Roles: operators, Limit: limit.Write, Errors: []int{404, 422},
		Summary: "Check the terms of a sale without making anything", Description: "Lists every problem, not only the first, and what is allowed and unwise."}, s.postCheck)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/duplicates", ID: "duplicateSale", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write,
		Idempotent: true, Errors: []int{404, 409, 422}, Summary: "Draft a sale with the terms of another one"}, s.postDuplicate)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/rehearsals", ID: "rehearseSale", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write,
		Idempotent: true, Errors: []int{404, 422}, Summary: "Copy a sale for a rehearsal: no stock of the catalog, invented buyers only"}, s.postRehearsal)
	srv.Raw(web.Route{Method: "POST", Path: "/v1/sales/{sale}/rehearsal-buyers", ID: "inventBuyers", Tag: tag, Roles: operators, Limit: limit.Write, Timeout: -1,
		BodyMax: maxInventBody, Errors: []int{404, 409, 422}, Summary: "Invent buyers for a rehearsal: one JSON line each, with their tokens"},
		http.HandlerFunc(s.postRehearsalBuyers), web.RawDoc{Request: inventRequest{}, Needed: true, Responses: map[int]any{200: nil}, Produces: []string{"application/jsonl"}})
	srv.Raw(web.Route{Method: "GET", Path: "/v1/sales/{sale}/reservations", ID: "exportReservations", Tag: tag, Roles: operators, Timeout: -1,
		Summary: "Every reservation of a sale, one JSON line each"}, http.HandlerFunc(s.exportReservations),
		web.RawDoc{Responses: map[int]any{200: nil}, Produces: []string{"application/jsonl"}})
}

// checkBody is the terms of a sale, with nothing required and nothing bounded: what is wrong with them is the answer.
type checkBody struct {
	Sale        string       `json:"sale,omitempty" doc:"The sale that would be changed; a new one if left out"`
	Title       string       `json:"title,omitempty"`
	SKU         string       `json:"sku,omitempty"`
	Price       checkPrice   `json:"price,omitempty"`
	Units       int64        `json:"units,omitempty"`
	PerBuyer    int32        `json:"per_buyer,omitempty"`
	StartsAt    *time.Time   `json:"starts_at,omitempty"`
	EndsAt      *time.Time   `json:"ends_at,omitempty"`
	PayWithin   int64        `json:"pay_within_seconds,omitempty"`
	Mode        string       `json:"mode,omitempty"`
	DrawAt      *time.Time   `json:"draw_at,omitempty"`
	WaitingList *bool        `json:"waiting_list,omitempty"`
	Admission   *checkPolicy `json:"admission,omitempty"`
	TokenNeeded *bool        `json:"token_needed,omitempty"`
	Version     int64        `json:"version,omitempty" doc:"Not looked at: the body may be that of a change"`
}

type checkPrice struct {
	Amount   int64  `json:"amount,omitempty"`
	Currency string `json:"currency,omitempty"`
}

type checkPolicy struct {
	Room       bool   `json:"room,omitempty"`
	Order      string `json:"order,omitempty"`
	PerSecond  int32  `json:"per_second,omitempty"`
	Multiple   int32  `json:"multiple,omitempty"`
	Brake      string `json:"brake,omitempty"`
	WorkBits   int32  `json:"work_bits,omitempty"`
	PerAddress int32  `json:"per_address,omitempty"`
}

// terms reads the body as far as it can be read. A SKU whose id is none is SKU 0.
func (s *Service) terms(b checkBody) sale.Terms {
	t := sale.Terms{
		Title: b.Title, Price: levee.Money{Minor: b.Price.Amount, Currency: b.Price.Currency}, Units: b.Units, PerBuyer: b.PerBuyer,
		PayWithin: seconds(b.PayWithin), Mode: sale.Mode(b.Mode), WaitingList: b.WaitingList == nil || *b.WaitingList,
		TokenNeeded: b.TokenNeeded == nil || *b.TokenNeeded,
	}
	if n, err := s.Sealer.Open(levee.KindSKU, b.SKU); err == nil {
		t.SKU = levee.SKUID(n)
	}
	for _, at := range []struct{ from, into *time.Time }{{b.StartsAt, &t.StartsAt}, {b.EndsAt, &t.EndsAt}, {b.DrawAt, &t.DrawAt}} {
		if at.from != nil {
			*at.into = *at.from
		}
	}
	if b.Admission != nil {
		t.Admission = admission.Policy(*b.Admission)
	}
	return t
}

// seconds is so many seconds as a duration, as far as one reaches.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(max(n, -most), most)) * time.Second
}

type problemView struct {
	Field   string `json:"field"`
	Allowed string `json:"allowed"`
	Given   string `json:"given"`
}

type warningView struct {
	Code    string `json:"code" enum:"units_short,currency_differs,price_above,price_zero,no_brake,starts_in_past,starts_soon,pay_beyond_end,room_slow,room_longer_than_sale,same_sku"`
	Message string `json:"message"`
}

type checkOut struct {
	Body struct {
		Problems []problemView `json:"problems" doc:"Terms that would be refused"`
		Warnings []warningView `json:"warnings" doc:"Terms that are allowed and that an operator would regret"`
		Summary  struct {
			OnHand      int64      `json:"on_hand" doc:"Units of the SKU that are free in the catalog"`
			Takings     *web.Money `json:"takings,omitempty" doc:"If every unit is sold"`
			Lasts       int64      `json:"lasts_seconds"`
			LastPayment *time.Time `json:"last_payment_by,omitempty" doc:"Until when the last buyer may pay"`
			RoomLasts   int64      `json:"room_lasts_seconds,omitempty" doc:"How long the waiting room takes to admit as many as it may"`
		} `json:"summary"`
	}
}

func (s *Service) postCheck(ctx context.Context, in *struct{ Body checkBody }) (*checkOut, error) {
	var of *sale.Sale
	t := s.terms(in.Body)
	if in.Body.Sale != "" {
		v, err := s.Sales.ByPublicID(ctx, in.Body.Sale)
		if err != nil {
			return nil, err
		}
		of, t.Rehearsal = v, v.Rehearsal
	}
	r, err := s.Check(ctx, t, of)
	if err != nil {
		return nil, err
	}
	out := &checkOut{}
	b := &out.Body
	b.Problems, b.Warnings = make([]problemView, len(r.Problems)), make([]warningView, len(r.Warnings))
	for i, p := range r.Problems {
		b.Problems[i] = problemView(p)
		if p.Field == "body.sku" && p.Given == "" {
			b.Problems[i].Given = levee.Shorten(in.Body.SKU, 80)
		}
	}
	for i, w := range r.Warnings {
		b.Warnings[i] = warningView(w)
	}
	b.Summary.OnHand, b.Summary.Lasts, b.Summary.RoomLasts = r.Summary.OnHand, int64(r.Summary.Lasts/time.Second), int64(r.Summary.RoomLasts/time.Second)
	if r.Summary.Takings.Currency != "" {
		takings := web.MoneyOf(r.Summary.Takings)
		b.Summary.Takings = &takings
	}
	if in.Body.EndsAt != nil {
		b.Summary.LastPayment = &r.Summary.LastPayment
	}
	return out, nil
}

type saleOut struct{ Body sale.SaleView }

func (s *Service) postDuplicate(ctx context.Context, in *struct {
	Sale string `path:"sale" doc:"The sale's id"`
	Body struct {
		StartsAt time.Time  `json:"starts_at"`
		EndsAt   time.Time  `json:"ends_at"`
		DrawAt   *time.Time `json:"draw_at,omitempty" doc:"Of a draw; as far from the start as in the sale if left out"`
		Title    string     `json:"title,omitempty" maxLength:"120" doc:"The sale's if left out"`
	}
}) (*saleOut, error) {
	of, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	var drawAt time.Time
	if in.Body.DrawAt != nil {
		drawAt = *in.Body.DrawAt
	}
	return web.Once(ctx, s.DB, "duplicateSale", web.KeyFrom(ctx), in, func(ctx context.Context, tx *db.Tx) (*saleOut, error) {
		v, err := s.DuplicateTx(ctx, tx, of, in.Body.StartsAt, in.Body.EndsAt, drawAt, in.Body.Title, levee.ActorFrom(ctx))
		if err != nil {
			return nil, err
		}
		return &saleOut{s.Sales.View(ctx, v)}, nil
	})
}
