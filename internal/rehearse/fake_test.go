package rehearse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// house is a server in memory that gives a sale's answers, honestly or with a planted lie.
type house struct {
	units, perBuyer int64
	// before is asked first for each purchase: true means that it has answered. n counts purchases from 1.
	before func(h *house, w http.ResponseWriter, r *http.Request, n int64) bool
	// lie is asked for each order that is about to be answered with 201.
	lie func(h *house, w http.ResponseWriter, t *fakeOrder) bool
	// export may change the rows, books the account.
	export   func(rows []row) []row
	books    func(a *Account)
	pay      bool          // orders can be paid
	openAt   time.Time     // zero: at once
	async    time.Duration // how long a Prefer: respond-async order stays queued
	pollMs   int64
	notACopy bool
	room     *fakeRoom // nil: there is none

	purchases atomic.Int64
	mux       *http.ServeMux

	mu     sync.Mutex // guards all below
	free   int64
	orders []*fakeOrder
	byKey  map[string]*fakeOrder
	byRes  map[string]*fakeOrder
	held   map[string]int64
	acts   []string
	copied map[string]int64
}

type fakeOrder struct {
	row
	key   string
	ready time.Time
}

func newHouse(units, perBuyer int64) *house {
	h := &house{units: units, perBuyer: perBuyer, free: units, byKey: map[string]*fakeOrder{}, byRes: map[string]*fakeOrder{}, held: map[string]int64{},
		pollMs: 20, mux: http.NewServeMux()}
	h.mux.HandleFunc("POST /v1/sessions", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Name, Password string }
		if json.NewDecoder(r.Body).Decode(&in); in.Password != "right" {
			refuse(w, 401, "unauthenticated", "", 0)
			return
		}
		reply(w, 201, `{"access_token":"op"}`)
	})
	h.mux.HandleFunc("DELETE /v1/sessions/current", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	h.mux.HandleFunc("GET /v1/sales/sal_1", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 200, `{"id":"sal_1","title":"Lanterns <half> price","per_buyer":2,"operator":{"units":77}`+h.admission()+`}`)
	})
	h.mux.HandleFunc("POST /v1/sales/sal_1/rehearsals", func(w http.ResponseWriter, r *http.Request) {
		json.NewDecoder(r.Body).Decode(&h.copied)
		starts := time.Now()
		if ms := h.copied["starts_in_ms"]; ms > 0 {
			h.openAt = starts.Add(time.Duration(ms) * time.Millisecond)
			starts = h.openAt
		}
		reply(w, 201, fmt.Sprintf(`{"id":"sal_2","title":"Rehearsal","per_buyer":%d,"rehearsal":%v,"starts_at":%q,"server_time":%q,"operator":{"units":%d}%s}`,
			h.perBuyer, !h.notACopy, starts.Format(time.RFC3339Nano), time.Now().Format(time.RFC3339Nano), h.units, h.admission()))
	})
	h.mux.HandleFunc("POST /v1/sales/sal_2/rehearsal-buyers", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Buyers int }
		json.NewDecoder(r.Body).Decode(&in)
		for i := range in.Buyers {
			admission := fmt.Sprintf(`,"admission":"adm%d"`, i)
			if h.room != nil {
				admission = ""
			}
			fmt.Fprintf(w, `{"buyer":"usr_%d","token":"tok.%d"%s}`+"\n", i, i, admission)
		}
	})
	h.mux.HandleFunc("POST /v1/sales/sal_2/purchases", h.purchase)
	h.roomRoutes()
	h.mux.HandleFunc("GET /v1/reservations/{id}", h.reservation)
	h.mux.HandleFunc("GET /v1/sales/sal_2/account", h.account)
	h.mux.HandleFunc("GET /v1/sales/sal_2/reservations", h.reservations)
	h.mux.HandleFunc("POST /v1/sales/sal_2/acts", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Act string }
		json.NewDecoder(r.Body).Decode(&in)
		h.mu.Lock()
		h.acts = append(h.acts, in.Act)
		h.mu.Unlock()
		reply(w, 201, `{}`)
	})
	h.mux.HandleFunc("POST /v1/orders/{id}/payments", func(w http.ResponseWriter, r *http.Request) {
		if !h.pay {
			refuse(w, 403, "forbidden", "orders of a rehearsal are not paid", 0)
			return
		}
		reply(w, 201, `{"redirect_url":"http://`+r.Host+`/provider?order=`+r.PathValue("id")+`"}`)
	})
	h.mux.HandleFunc("POST /provider", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, o := range h.orders {
			if o.Order == r.URL.Query().Get("order") && r.PostFormValue("action") == "pay" {
				o.State = "sold"
			}
		}
	})
	return h
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func refuse(w http.ResponseWriter, status int, code, detail string, retry int) {
	if retry > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(retry))
	}
	reply(w, status, fmt.Sprintf(`{"status":%d,"error":%q,"detail":%q}`, status, code, detail))
}

func (h *house) buyer(r *http.Request) string {
	return "usr_" + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer tok.")
}

func (h *house) purchase(w http.ResponseWriter, r *http.Request) {
	n := h.purchases.Add(1)
	if h.before != nil && h.before(h, w, r, n) {
		return
	}
	who, key := h.buyer(r), r.Header.Get("Idempotency-Key")
	h.spend(who)
	if "usr_"+strings.TrimPrefix(r.Header.Get("Levee-Admission"), "adm") != who || key == "" {
		refuse(w, 403, "admission_invalid", "", 0)
		return
	}
	in := struct{ Quantity int64 }{1}
	if r.ContentLength != 0 {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			refuse(w, 400, "malformed", err.Error(), 0)
			return
		}
	}
	if !h.openAt.IsZero() && time.Now().Before(h.openAt) {
		reply(w, 409, fmt.Sprintf(`{"error":"not_open","data":{"starts_at":%q}}`, h.openAt.Format(time.RFC3339Nano)))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.byKey[who+key]
	if o == nil {
		switch {
		case h.held[who]+in.Quantity > h.perBuyer:
			refuse(w, 409, "limit_reached", "", 0)
			return
		case h.free < in.Quantity:
			refuse(w, 409, "sold_out", "", 0)
			return
		}
		o = h.give(who, key, in.Quantity)
		if h.lie != nil && h.lie(h, w, o) {
			return
		}
	}
	if r.Header.Get("Prefer") == "respond-async" && h.async > 0 {
		o.ready = time.Now().Add(h.async)
		w.Header().Set("Retry-After", "3")
		reply(w, 202, fmt.Sprintf(`{"reservation":%q,"place":"queued"}`, o.Reservation))
		return
	}
	h.yes(w, o)
}

// give takes units and writes an order. The caller holds mu.
func (h *house) give(who, key string, quantity int64) *fakeOrder {
	n := len(h.orders) + 1
	o := &fakeOrder{key: key, row: row{Reservation: fmt.Sprintf("res_%d", n), Order: fmt.Sprintf("ord_%d", n), Buyer: who, Quantity: quantity, State: "reserved"}}
	h.orders = append(h.orders, o)
	h.byKey[who+key], h.byRes[o.Reservation] = o, o
	h.free -= quantity
	h.held[who] += quantity
	return o
}

func (h *house) yes(w http.ResponseWriter, o *fakeOrder) {
	reply(w, 201, fmt.Sprintf(`{"reservation":%q,"order":%q,"place":"ordered","quantity":%d}`, o.Reservation, o.Order, o.Quantity))
}

func (h *house) reservation(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.byRes[r.PathValue("id")]
	switch {
	case o == nil || o.Buyer != h.buyer(r):
		refuse(w, 404, "not_found", "", 0)
	case time.Now().Before(o.ready):
		reply(w, 200, fmt.Sprintf(`{"reservation":%q,"place":"queued","poll_after_ms":%d}`, o.Reservation, h.pollMs))
	default:
		reply(w, 200, fmt.Sprintf(`{"reservation":%q,"order":%q,"place":"ordered","quantity":%d}`, o.Reservation, o.Order, o.Quantity))
	}
}

func (h *house) rows() (rows []row) {
	for _, o := range h.orders {
		rows = append(rows, o.row)
	}
	if h.export != nil {
		rows = h.export(rows)
	}
	return rows
}

func (h *house) account(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := Account{Phase: "open", Balanced: true}
	a.Stock.Offered = h.units
	for _, o := range h.rows() {
		switch o.State {
		case "sold":
			a.Stock.Sold += o.Quantity
		case "reserved":
			a.Stock.Reserved += o.Quantity
		}
	}
	a.Stock.Remaining = h.units - a.Stock.Sold - a.Stock.Reserved
	if h.books != nil {
		h.books(&a)
	}
	json.NewEncoder(w).Encode(a)
}

func (h *house) reservations(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.rows() {
		json.NewEncoder(w).Encode(o)
	}
}

// serve gives the house a socket.
func (h *house) serve(t testing.TB) string {
	srv := httptest.NewServer(h.mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

// listen serves a handler on a socket for as long as the process lives.
func (h *house) listen(handler http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(l, handler)
	return "http://" + l.Addr().String()
}

// pipes lets the house be reached without sockets, so that a test in a synctest bubble has its own clock. The returned function
// stops it.
func (h *house) pipes() (dial func(context.Context) (net.Conn, error), stop func()) {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: h.mux}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	return l.dial, func() { srv.Close(); l.Close(); wg.Wait() }
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, errors.New("closed")
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
