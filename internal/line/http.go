package line

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
	"levee/internal/sale"
)

const (
	operators = levee.RoleOperator | levee.RoleAdministrator
	buyers    = levee.RoleCustomer | operators
	tag       = "line"
)

// Routes adds the room's operations to the server.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/sales/{sale}/line", ID: "joinSaleLine", Tag: tag, Roles: buyers, Status: 201, Limit: limit.Write, Idempotent: true,
		Errors: []int{403, 404, 409, 410, 422}, Summary: "Enter a sale's draw, or join its waiting list while no unit is free",
		Description: "409 units_free: buy instead. 409 not_open or entries_closed: outside of a draw's entry window. Who is in the line already with the " +
			"same quantity gets his entry again."}, s.postEntry)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/line/mine", ID: "getMySaleEntry", Tag: tag, Roles: buyers, Limit: limit.Poll, Quiet: true,
		Summary: "Where the caller stands in a sale's line"}, s.getMine)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/sales/{sale}/line/mine", ID: "leaveSaleLine", Tag: tag, Roles: buyers, Status: 204, Limit: limit.Write,
		Errors: []int{404, 409}, Summary: "Leave a sale's line"}, s.deleteMine)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/line", ID: "listSaleLine", Tag: tag, Roles: operators, Limit: limit.Read,
		Errors: []int{404}, Summary: "The entries of a sale's line, newest first, and how many are in each state"}, s.entries, s.getLine)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/sales/{sale}/line/events", ID: "watchSaleLine", Tag: tag, Timeout: -1, Quiet: true,
		Summary: "Watch how long a sale's line is (server-sent events, at most one a second)"}, http.HandlerFunc(s.watchLine),
		web.RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: nil}})
	s.drawRoutes(srv)
}

type salePath struct {
	Sale string `path:"sale" doc:"The sale's id"`
}

// entryView is an entry as its buyer sees it.
type entryView struct {
	Entry     string     `json:"entry"`
	Sale      string     `json:"sale"`
	Quantity  int32      `json:"quantity" doc:"Units asked for"`
	Status    string     `json:"status" enum:"entered,waiting,offered,ordered,lapsed,lost,left,over" doc:"lapsed: not paid in time or given up; lost: passed over; over: the sale ended first"`
	Reason    string     `json:"reason,omitempty" doc:"Why it lapsed or was lost: unpaid, cancelled, limit_reached"`
	Position  *int64     `json:"position" nullable:"true" doc:"Who waits ahead, and one; while waiting"`
	Waiting   int64      `json:"waiting" doc:"How many wait in all; before a draw, how many entered"`
	Rank      *int64     `json:"rank" nullable:"true" doc:"By the draw, once drawn"`
	Offer     *offerView `json:"offer,omitempty" doc:"Absent before there is one"`
	EnteredAt time.Time  `json:"entered_at"`
	PollAfter int64      `json:"poll_after_ms,omitempty" doc:"Ask again after this time; absent where the answer is final"`
	Links     entryLinks `json:"links"`
}

type offerView struct {
	Order       string    `json:"order"`
	Reservation string    `json:"reservation"`
	Quantity    int32     `json:"quantity" doc:"May be fewer than asked for"`
	PayBy       time.Time `json:"pay_by"`
}

type entryLinks struct {
	Self   string `json:"self"`
	Sale   string `json:"sale"`
	Events string `json:"events"`
	Draw   string `json:"draw,omitempty"`
	Order  string `json:"order,omitempty"`
	Pay    string `json:"pay,omitempty"`
}

// view shows an entry; over says that its sale has ended, which is true for all who wait before each row says so.
func (s *Service) view(e Entry, over bool) entryView {
	public := s.saleRef(e.Sale)
	self := "/v1/sales/" + public
	v := entryView{Entry: s.entryRef(e.ID), Sale: public, Quantity: e.Quantity, Status: e.State.String(), Reason: e.Reason, EnteredAt: e.EnteredAt,
		Links: entryLinks{Self: self + "/line/mine", Sale: self, Events: self + "/line/events"}}
	if e.Draw {
		v.Links.Draw = self + "/draw"
	}
	p := s.book.of(e.Sale)
	// Between the first rank that is written and the results that are published, nobody has a place yet.
	secret := e.Draw && (e.State == StateEntered || p == nil && e.State == StateWaiting || p != nil && !p.inOrder)
	if p != nil {
		before, waiting := p.ahead(e.Place)
		if e.seq > p.at() { // another node changed it a moment ago
			s.heard()
		}
		switch {
		case secret:
			v.Waiting = p.counts().Entered
		default:
			v.Waiting = waiting
			if e.State == StateWaiting {
				v.Position, v.Waiting = new(before+1), max(waiting, before+1)
			}
		}
	}
	switch {
	case over && (e.State == StateEntered || e.State == StateWaiting):
		v.Status, v.Position = StateOver.String(), nil
	case secret && e.State == StateWaiting:
		v.Status = StateEntered.String()
	}
	if e.Draw && e.Place > 0 && !secret {
		v.Rank = new(e.Place)
	}
	if e.Reservation != 0 {
		v.Offer = &offerView{Order: s.Sealer.Seal(levee.KindOrder, int64(e.Order())), Quantity: e.Given, PayBy: e.PayBy,
			Reservation: s.Sealer.Seal(levee.KindReservation, int64(e.Reservation))}
		v.Links.Order = "/v1/orders/" + v.Offer.Order
		if e.State == StateOffered {
			v.Links.Pay = v.Links.Order + "/payments"
		}
	}
	// The longer the line, the slower it moves; what matters comes over the live connection.
	switch v.Status {
	case "entered":
		v.PollAfter = 15_000
	case "waiting":
		v.PollAfter = max(5000, v.Waiting/5)
	case "offered":
		v.PollAfter = 5000
	}
	return v
}

type entryOut struct{ Body entryView }

func (s *Service) postEntry(ctx context.Context, in *struct {
	Sale string `path:"sale" doc:"The sale's id"`
	Body struct {
		Quantity int32 `json:"quantity,omitempty" minimum:"1" maximum:"1000" doc:"1 if left out; at most the sale's limit per buyer"`
	}
}) (*entryOut, error) {
	v, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	quantity := max(in.Body.Quantity, 1)
	type joined struct{ Entry levee.EntryID }
	// The answer that is kept is the entry's number alone: what it looks like is told as it is at each request.
	done, err := web.Once(ctx, s.DB, "joinSaleLine", web.KeyFrom(ctx), in, func(ctx context.Context, tx *db.Tx) (*joined, error) {
		e, err := s.JoinTx(ctx, tx, v.ID, levee.ActorFrom(ctx), quantity)
		if err != nil {
			return nil, err
		}
		return &joined{e.ID}, nil
	})
	if err != nil {
		return nil, err
	}
	e, found, err := entryByID(ctx, s.DB, done.Entry)
	if err == nil && !found {
		err = errNoEntry
	}
	if err != nil {
		return nil, err
	}
	return &entryOut{s.view(e, v.State == sale.StateEnded)}, nil
}

func (s *Service) getMine(ctx context.Context, in *salePath) (*entryOut, error) {
	v, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	e, err := s.Mine(ctx, v.ID, levee.ActorFrom(ctx).User)
	if err != nil {
		return nil, err
	}
	return &entryOut{s.view(e, v.State == sale.StateEnded)}, nil
}

func (s *Service) deleteMine(ctx context.Context, in *salePath) (*struct{}, error) {
	v, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	return nil, s.Leave(ctx, v.ID, levee.ActorFrom(ctx).User)
}

// EntryView is exported because the document knows the fields of what is embedded by an exported name only.
type EntryView = entryView

type listedEntry struct {
	EntryView
	Buyer string `json:"buyer"`
}

type lineView struct {
	listing.Page[listedEntry]
	Counts map[string]int64 `json:"counts" doc:"Entries by status"`
}

func (s *Service) getLine(ctx context.Context, in *salePath, q *listing.Query) (*lineView, error) {
	v, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	found, err := readLine(ctx, s.DB.Query, v.ID, q)
	if err != nil {
		return nil, err
	}
	tally, err := s.tally(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	out := &lineView{Counts: map[string]int64{}, Page: *listing.Show(q, found, func(e Entry) listedEntry {
		return listedEntry{s.view(e, false), s.Sealer.Seal(levee.KindUser, int64(e.Buyer))}
	})}
	for state, n := range tally {
		out.Counts[state.String()] = n
	}
	return out, nil
}

func (s *Service) watchLine(w http.ResponseWriter, r *http.Request) {
	v, err := s.Sales.ByPublicID(r.Context(), r.PathValue("sale"))
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	s.Push.ServeSSE(w, r, "line:"+s.saleRef(v.ID))
}
