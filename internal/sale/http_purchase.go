package sale

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"levee"
	"levee/internal/platform/web"
)

const (
	pathSales     = "/v1/sales/"
	pathPurchases = "/purchases"
	maxWishBody   = 4096
)

// refuseFast answers a loser before everything else: path, who he is, one atomic load. Whoever might be owed another answer
// (no account, a bad token, units he holds already, a sale this node does not know) goes the whole way.
func (s *Service) refuseFast(w http.ResponseWriter, r *http.Request) bool {
	public, ok := strings.CutPrefix(r.URL.Path, pathSales)
	if !ok || r.Method != http.MethodPost || r.Header["Api-Version"] != nil || r.URL.RawQuery != "" {
		return false
	}
	public, ok = strings.CutSuffix(public, pathPurchases)
	if !ok {
		return false
	}
	l := (*s.live.Load())[public]
	if l == nil {
		return false
	}
	shut := l.sw.Refusal()
	if shut == nil {
		return false
	}
	token := bearer(r)
	if token == "" {
		return false
	}
	who, err := s.Authenticate(token)
	if err != nil || !who.SignedIn() || !who.MayJoin(l.view.Load().Rehearsal) {
		return false
	}
	if l.follower != nil && !l.follower.Level() {
		return false // the gate may have forgotten who holds units
	}
	if _, known, err := l.gate.Held(r.Context(), who.User); known || err != nil {
		return false
	}
	shut.answer.Write(w, r)
	l.tally.Refused(shut.outcome)
	return true
}

func bearer(r *http.Request) string {
	h := r.Header["Authorization"]
	if len(h) != 1 || len(h[0]) < 8 || !strings.EqualFold(h[0][:7], "bearer ") {
		return ""
	}
	return h[0][7:]
}

type wishBody struct {
	Quantity int32 `json:"quantity,omitempty" minimum:"1" maximum:"1000" doc:"Units to take; 1 if left out"`
}

// purchase takes units for the signed-in buyer.
func (s *Service) purchase(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	l, err := s.liveFor(ctx, r.PathValue("sale"))
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	wish := Wish{Buyer: levee.ActorFrom(ctx), Quantity: 1, Admission: r.Header.Get("Levee-Admission"), Async: prefersAsync(r)}
	if wish.Key, err = web.IdempotencyKey(r, true); err != nil {
		web.WriteError(w, r, err)
		return
	}
	if r.ContentLength != 0 {
		body := wishBody{Quantity: 1}
		if err := web.ReadJSON(r, maxWishBody, &body); err != nil {
			web.WriteError(w, r, err)
			return
		}
		wish.Quantity = body.Quantity
	}
	t, err := s.Buy(ctx, l, wish)
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	web.Wrote(ctx) // the settler did, for him
	s.writeTicket(w, l, t)
}

// liveFor finds a live sale by its public id; one that is over and was not loaded at start is read from SQL.
func (s *Service) liveFor(ctx context.Context, public string) (*live, error) {
	if l := (*s.live.Load())[public]; l != nil {
		return l, nil
	}
	n, err := s.Sealer.Open(levee.KindSale, public)
	if err != nil {
		return nil, err
	}
	v, err := s.saleByID(ctx, levee.SaleID(n))
	if err != nil {
		return nil, err
	}
	if v.State == StateDraft {
		return nil, errNoSale
	}
	return s.bring(v), nil
}

func prefersAsync(r *http.Request) bool {
	for _, p := range r.Header["Prefer"] {
		for part := range strings.SplitSeq(p, ",") {
			if strings.EqualFold(strings.TrimSpace(part), "respond-async") {
				return true
			}
		}
	}
	return false
}

// writeTicket answers 201 with the order, or 202 with the reservation to ask for.
func (s *Service) writeTicket(w http.ResponseWriter, l *live, t Ticket) {
	var buf [768]byte
	b := append(buf[:0], `{"reservation":"`...)
	b = s.Sealer.AppendSeal(b, levee.KindReservation, int64(t.Reservation))
	b = append(b, `","sale":"`...)
	b = append(b, l.public...)
	b = append(b, `","quantity":`...)
	b = strconv.AppendInt(b, int64(t.Quantity), 10)
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = jsonType, noStore
	if !t.Settled {
		b = append(b, `,"place":"queued","message":"you are in the line; ask again for an order number or a refusal","links":{"self":"/v1/reservations/`...)
		b = s.Sealer.AppendSeal(b, levee.KindReservation, int64(t.Reservation))
		b = append(b, `"}}`...)
		h.Set("Location", "/v1/reservations/"+s.Sealer.Seal(levee.KindReservation, int64(t.Reservation)))
		h.Set("Retry-After", "3")
		h.Set("Content-Length", strconv.Itoa(len(b)))
		w.WriteHeader(http.StatusAccepted)
		w.Write(b)
		return
	}
	location := append(make([]byte, 0, 48), "/v1/orders/"...)
	location = s.Sealer.AppendSeal(location, levee.KindOrder, int64(t.Order()))
	b = append(b, `,"place":"ordered","repeated":`...)
	b = strconv.AppendBool(b, t.Repeated)
	b = append(b, `,"order":"`...)
	b = append(b, location[len("/v1/orders/"):]...)
	b = append(b, `","total":{"amount":`...)
	b = strconv.AppendInt(b, t.Sale.Price.Minor*int64(t.Quantity), 10)
	b = append(b, `,"currency":"`...)
	b = append(b, t.Sale.Price.Currency...)
	b = append(b, `"},"links":{"order":"`...)
	b = append(b, location...)
	b = append(b, `","pay":"`...)
	b = append(b, location...)
	b = append(b, `/payments"}}`...)
	h["Location"] = []string{string(location)}
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	w.WriteHeader(http.StatusCreated)
	w.Write(b)
}

var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
)
