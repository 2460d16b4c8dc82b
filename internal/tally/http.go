package tally

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/web"
)

const operators = levee.RoleOperator | levee.RoleAdministrator

// Routes adds the room's operations to the server.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/live", ID: "getLive", Tag: "sales", Roles: operators, Limit: limit.Read, Errors: []int{404},
		Summary: "The numbers of a sale at this moment, of all nodes", Description: "With history, series holds the last ten minutes, one point a second."}, s.getLive)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/sales/{sale}/live/events", ID: "watchLive", Tag: "sales", Roles: operators, Timeout: -1, Quiet: true,
		Summary: "Watch the numbers of a sale (server-sent events)", Description: "Event numbers, once a second: what GET …/live answers."},
		http.HandlerFunc(s.watchLive), web.RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: nil}})
}

// NumbersView is what the live page is told at one moment.
type NumbersView struct {
	At        time.Time    `json:"at"`
	Phase     string       `json:"phase"`
	Node      string       `json:"node" doc:"The node that answers"`
	Nodes     int          `json:"nodes" doc:"How many nodes are heard, this one among them"`
	House     []nodeView   `json:"house,omitempty" doc:"The nodes; absent in series"`
	Attempts  int64        `json:"attempts" doc:"Since each node started the sale, as all counters here, and as far as this node has heard of the others"`
	Outcomes  outcomesView `json:"outcomes"`
	Stock     stockView    `json:"stock"`
	Gate      gateView     `json:"gate"`
	Orders    ordersView   `json:"orders"`
	Latency   latencyView  `json:"latency_ms" doc:"Of purchases answered in the last 10 s, without those that the switch refused at once"`
	Queue     queueView    `json:"queue"`
	Line      lineView     `json:"line"`
	PerSecond ratesView    `json:"per_second"`
}

type nodeView struct {
	Name   string `json:"name"`
	State  string `json:"state" enum:"up,silent" doc:"silent: nothing was heard of it for seconds; what it counts now is missing here. It is dropped after ten minutes"`
	Self   bool   `json:"self" doc:"The node that answers"`
	Silent int64  `json:"silent_s,omitempty" doc:"For how many seconds"`
}

type outcomesView struct {
	Won          int64 `json:"won" doc:"The order is on disk"`
	Repeated     int64 `json:"repeated" doc:"The first answer to a key, again"`
	SoldOut      int64 `json:"sold_out"`
	LimitReached int64 `json:"limit_reached"`
	NotOpen      int64 `json:"not_open" doc:"Before the start or after the end"`
	Paused       int64 `json:"paused"`
	Admission    int64 `json:"admission" doc:"Without a good admission token"`
	Unavailable  int64 `json:"unavailable" doc:"Not loaded, the line was full, or the disk refused"`
	Other        int64 `json:"other" doc:"Anything else: a draw, a key under way, a wish that makes no sense"`
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
	Unsettled int64 `json:"unsettled"`
	Waiting   int64 `json:"waiting"`
}

type ordersView struct {
	Settled   int64 `json:"settled"`
	Paid      int64 `json:"paid"`
	Cancelled int64 `json:"cancelled"`
}

type latencyView struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

type queueView struct {
	Waiting   int64   `json:"waiting"`
	Admitted  int64   `json:"admitted" doc:"Admissions out and unspent"`
	Served    int64   `json:"served"`
	PerSecond float64 `json:"per_second"`
}

type lineView struct {
	Waiting int64 `json:"waiting"`
	Offered int64 `json:"offered"`
}

type ratesView struct {
	Attempts float64 `json:"attempts"`
	Orders   float64 `json:"orders"`
}

func (s *Service) view(p Point) NumbersView {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return NumbersView{
		At: p.At, Phase: p.State.Phase, Node: s.Node, Attempts: p.Attempts,
		Outcomes: outcomesView{p.Outcomes[Won], p.Outcomes[Repeated], p.Outcomes[SoldOut], p.Outcomes[LimitReached], p.Outcomes[NotOpen],
			p.Outcomes[Paused], p.Outcomes[Admission], p.Outcomes[Unavailable], p.Outcomes[Other]},
		Stock: stockView(p.State.Stock), Gate: gateView(p.State.Gate), Orders: ordersView{p.Settled, p.Paid, p.Canceled},
		Latency: latencyView{ms(p.Latency.P50), ms(p.Latency.P90), ms(p.Latency.P99), ms(p.Latency.Max)},
		Queue:   queueView{p.Queue.Waiting, p.Queue.Admitted, p.Queue.Served, p.Queue.PerSecond}, Line: lineView(p.Line), PerSecond: ratesView{p.AttemptsRate, p.OrdersRate},
	}
}

// now is view with the nodes as they are heard now.
func (s *Service) now(p Point) NumbersView {
	v := s.view(p)
	for _, n := range s.House() {
		one := nodeView{Name: n.Name, State: "up", Self: n.Self, Silent: int64(n.Silent / time.Second)}
		if n.Silent > 0 {
			one.State = "silent"
		} else {
			v.Nodes++
		}
		v.House = append(v.House, one)
	}
	return v
}

type liveOut struct {
	Body struct {
		NumbersView
		Series []NumbersView `json:"series,omitempty" doc:"The last ten minutes, oldest first, one point a second while the sale was on"`
	}
}

func (s *Service) getLive(ctx context.Context, in *struct {
	Sale    string `path:"sale" doc:"The sale's id"`
	History bool   `query:"history" doc:"With the last ten minutes"`
}) (*liveOut, error) {
	w := (*s.sales.Load())[in.Sale]
	if w == nil {
		return nil, errNoSale
	}
	_, p, err := s.point(ctx, w, s.Obs.Clock().UTC())
	if err != nil {
		return nil, err
	}
	out := &liveOut{}
	out.Body.NumbersView = s.now(p)
	if in.History {
		series := w.series()
		out.Body.Series = make([]NumbersView, len(series))
		for i, p := range series {
			out.Body.Series[i] = s.view(p)
			out.Body.Series[i].Nodes = out.Body.Nodes
		}
	}
	return out, nil
}

var errNoSale = levee.E(levee.CodeNotFound, "this node counts nothing for such a sale: it is a draft, or was over before the start")

// topicOf is what this node tells its own watchers under: each node tells those who are connected to it, so that nobody is told twice
// where live connections are shared.
func (s *Service) topicOf(public string) string {
	if s.say == nil {
		return "live:" + public
	}
	return "live:" + public + ":" + strconv.FormatUint(s.number, 36)
}

// publish tells whoever watches. Numbers that no JSON can hold would be a defect; they are not sent.
func (s *Service) publish(w *watched, p Point) {
	if text, err := json.Marshal(s.now(p)); err == nil {
		s.Push.Publish(s.topicOf(w.source.Public), "numbers", text)
	}
}

func (s *Service) watchLive(w http.ResponseWriter, r *http.Request) {
	public := r.PathValue("sale")
	live := (*s.sales.Load())[public]
	if live == nil {
		web.WriteError(w, r, errNoSale)
		return
	}
	live.watchers.Add(1)
	defer live.watchers.Add(-1)
	s.Push.ServeSSE(w, r, s.topicOf(public))
}
