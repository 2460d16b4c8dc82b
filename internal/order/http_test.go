package order

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/web"
)

// serve puts the room behind a real server. The header X-Actor says who asks.
func serve(t *testing.T, h *house) http.Handler {
	t.Helper()
	actors := map[string]levee.Actor{"": {}, "buyer": buyer, "other": other, "operator": operator,
		"rehearsal": {User: 1004, Roles: levee.RoleCustomer, Rehearsal: true}}
	srv, err := web.New(web.Config{}, web.Parts{
		Obs: h.Obs, DB: h.DB, Title: "test", Version: "0",
		Authenticate: func(r *http.Request) (levee.Actor, error) { return actors[r.Header.Get("X-Actor")], nil },
	})
	must(t, err)
	h.orders.Routes(srv)
	return srv.Handler()
}

type answer struct {
	status int
	header http.Header
	body   string
}

func ask(handler http.Handler, method, path, actor, key, body string) answer {
	var r *http.Request
	if body == "" {
		r = httptest.NewRequest(method, path, nil)
	} else {
		r = httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Actor", actor)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

func TestHTTP(t *testing.T) {
	h := open(t)
	handler := serve(t, h)
	sku := h.Sealer.Seal(levee.KindSKU, int64(h.sku(10)))
	buy := func(quantity int) string { return fmt.Sprintf(`{"lines":[{"sku":%q,"quantity":%d}]}`, sku, quantity) }
	made := ask(handler, "POST", "/v1/orders", "buyer", "k1", buy(2))
	if made.status != 201 {
		t.Fatalf("%d %s", made.status, made.body)
	}
	self := made.header.Get("Location")
	var o orderView
	must(t, json.Unmarshal([]byte(made.body), &o))
	if o.Links.Self != self || o.Total != (web.Money{Amount: 500, Currency: "CNY"}) || o.State != "created" || o.PayBy == nil {
		t.Errorf("made %s", made.body)
	}
	second := ask(handler, "POST", "/v1/orders", "buyer", "", buy(1)).header.Get("Location")
	for _, c := range []struct {
		method, path, actor, key, body string
		status                         int
		has, hasNot                    string
	}{
		{"POST", "/v1/orders", "buyer", "k1", buy(2), 201, o.ID, ""},
		{"POST", "/v1/orders", "buyer", "k1", buy(3), 422, "idempotency_mismatch", ""},
		{"POST", "/v1/orders", "other", "k1", buy(1), 201, "created", o.ID}, // keys are one's own
		{"POST", "/v1/orders", "", "", buy(1), 401, "unauthenticated", ""},
		{"POST", "/v1/orders", "rehearsal", "", buy(1), 403, "forbidden", ""},
		{"POST", "/v1/orders", "buyer", "", buy(100), 409, "out_of_stock", ""},
		{"POST", "/v1/orders", "buyer", "", buy(0), 422, "quantity", ""},
		{"POST", "/v1/orders", "buyer", "", `{"lines":[]}`, 422, "lines", ""},
		{"POST", "/v1/orders", "buyer", "", `{"lines":[{"sku":"sku_x","quantity":1}]}`, 404, "not_found", ""},
		{"POST", "/v1/orders", "buyer", "", `{"lines":[{"sku":"` + o.ID + `","quantity":1}]}`, 404, "not_found", ""},
		{"POST", "/v1/orders", "buyer", "", `{"lines":[`, 400, "malformed", ""},
		{"POST", "/v1/orders", "buyer", "", `{"lines":[],"price":1}`, 422, "price", ""},
		{"GET", self, "buyer", "", "", 200, `"actions":["pay","cancel"]`, "ship"},
		{"GET", self, "operator", "", "", 200, `"actions":["cancel"]`, ""},
		{"GET", self, "other", "", "", 404, "not_found", "Lamp"},
		{"GET", self, "", "", "", 401, "unauthenticated", "Lamp"},
		{"GET", "/v1/orders/ord_00000000000000000000000000", "buyer", "", "", 404, "not_found", ""},
		{"GET", "/v1/orders/1", "operator", "", "", 404, "not_found", ""},
		{"GET", "/v1/orders", "buyer", "", "", 200, o.ID, ""},
		{"GET", "/v1/orders?limit=1", "buyer", "", "", 200, `"next"`, o.ID},
		{"GET", "/v1/orders?limit=101", "buyer", "", "", 422, "limit", ""},
		{"GET", "/v1/orders?state=lost", "buyer", "", "", 422, "state", ""},
		{"GET", "/v1/orders?after=xyz", "buyer", "", "", 422, "query.after", ""},
		{"GET", "/v1/orders?cursor=xyz", "buyer", "", "", 422, "query.cursor", ""},
		{"GET", "/v1/orders?include=timeline&fields=id,timeline", "buyer", "", "", 200, `"timeline":[{"to":"created","by":"buyer"`, "total"},
		{"GET", "/v1/orders?export=csv", "buyer", "", "", 403, "forbidden", o.ID},
		{"GET", "/v1/orders?colour=red", "buyer", "", "", 422, "colour", ""},
		{"GET", "/v1/orders?state=created&source=shop&buyer=" + o.Buyer, "operator", "", "", 200, o.ID, ""},
		{"GET", "/v1/orders?state=paid", "operator", "", "", 200, `"items":[]`, ""},
		{"GET", "/v1/orders?created_at__gte=2027-01-01T00:00:00Z", "operator", "", "", 200, `"items":[]`, ""},
		{"GET", "/v1/orders?created_at__lt=2027-01-01T00:00:00Z", "operator", "", "", 200, o.ID, ""},
		{"GET", "/v1/orders?buyer=" + o.Buyer, "other", "", "", 404, "not_found", o.ID},
		{"POST", self + "/shipment", "buyer", "", `{"carrier":"SF","tracking":"1"}`, 403, "forbidden", ""},
		{"POST", self + "/shipment", "operator", "", `{"carrier":"SF","tracking":"1"}`, 409, `"state":"created"`, ""},
		{"POST", self + "/completion", "buyer", "", "", 403, "forbidden", ""},
		{"POST", self + "/completion", "operator", "", "", 409, `"state":"created"`, ""},
		{"POST", self + "/cancellation", "other", "", `{}`, 404, "not_found", ""},
		{"POST", second + "/cancellation", "buyer", "c1", `{"reason":"<b>wrong</b> size"}`, 200, `"state":"cancelled"`, "pay_by"},
		{"POST", second + "/cancellation", "buyer", "c1", `{"reason":"<b>wrong</b> size"}`, 200, `"state":"cancelled"`, ""},
		{"POST", second + "/cancellation", "buyer", "c1", `{"reason":"other"}`, 422, "idempotency_mismatch", ""},
		{"POST", self + "/cancellation", "buyer", "c1", `{"reason":"<b>wrong</b> size"}`, 422, "idempotency_mismatch", ""},
		{"POST", second + "/cancellation", "buyer", "", "", 409, `"state":"cancelled"`, ""},
		{"GET", second + "/timeline", "buyer", "", "", 200, `"by":"buyer"`, "operator"},
		{"GET", second + "/timeline", "other", "", "", 404, "not_found", ""},
		{"DELETE", self, "operator", "", "", 405, "method_not_allowed", ""},
	} {
		t.Run(fmt.Sprint(c.method, " ", strings.NewReplacer(self, "/o1", second, "/o2").Replace(c.path), " ", c.actor, " ", c.status), func(t *testing.T) {
			got := ask(handler, c.method, c.path, c.actor, c.key, c.body)
			if got.status != c.status || !strings.Contains(got.body, c.has) || (c.hasNot != "" && strings.Contains(got.body, c.hasNot)) {
				t.Errorf("%d %s\nwant %d with %q and without %q", got.status, got.body, c.status, c.has, c.hasNot)
			}
		})
	}
	number, err := h.orders.open(o.ID)
	must(t, err)
	_, err = h.pay(number)
	must(t, err)
	for _, c := range []struct{ path, body, has string }{
		{self + "/shipment", `{"carrier":"SF","tracking":"42"}`, `"state":"shipped"`},
		{self + "/completion", "", `"state":"done"`},
	} {
		if got := ask(handler, "POST", c.path, "operator", "", c.body); got.status != 200 || !strings.Contains(got.body, c.has) {
			t.Errorf("%s: %d %s", c.path, got.status, got.body)
		}
	}
	var line struct{ Items []entryView }
	must(t, json.Unmarshal([]byte(ask(handler, "GET", self+"/timeline", "buyer", "", "").body), &line))
	at := h.clock.Now()
	want := []entryView{
		{To: "created", By: "buyer", Reason: "shop", At: at}, {From: "created", To: "paid", By: "system", Payment: h.Sealer.Seal(levee.KindPayment, 77), At: at},
		{From: "paid", To: "shipped", By: "shop", Reason: "SF 42", At: at}, {From: "shipped", To: "done", By: "shop", At: at},
	}
	if diff := cmp.Diff(want, line.Items, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
	h.balanced()
}

// TestBuyOnce sends one purchase a hundred times at once: there is one order, and everybody is told of the same.
func TestBuyOnce(t *testing.T) {
	h := open(t)
	handler := serve(t, h)
	id := h.sku(200)
	body := fmt.Sprintf(`{"lines":[{"sku":%q,"quantity":1}]}`, h.Sealer.Seal(levee.KindSKU, int64(id)))
	shoot := func(key string) map[string]int {
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				got := ask(handler, "POST", "/v1/orders", "buyer", key, body)
				mu.Lock()
				defer mu.Unlock()
				seen[fmt.Sprint(got.status, " ", got.header.Get("Location"), " ", got.body)]++
			})
		}
		wg.Wait()
		return seen
	}
	if seen := shoot("one"); len(seen) != 1 || h.stock(id) != 199 {
		t.Errorf("%d different answers, stock %d", len(seen), h.stock(id))
	}
	if seen := shoot(""); len(seen) != 100 || h.stock(id) != 99 { // the control: without a key each is an order
		t.Errorf("%d different answers, stock %d", len(seen), h.stock(id))
	}
	h.balanced()
}
