package payment

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/web"
)

// serve puts both rooms behind a real server, which takes the notifications as well. The header X-Actor says who asks.
func serve(t *testing.T, h *house) http.Handler {
	t.Helper()
	actors := map[string]levee.Actor{"": {}, "buyer": buyer, "other": other, "operator": operator,
		"rehearsal": {User: buyer.User, Roles: levee.RoleCustomer, Rehearsal: true}}
	srv, err := web.New(web.Config{}, web.Parts{
		Obs: h.Obs, DB: h.DB, Title: "test", Version: "0",
		Authenticate: func(r *http.Request) (levee.Actor, error) { return actors[r.Header.Get("X-Actor")], nil },
	})
	must(t, err)
	h.orders.Routes(srv)
	h.payments.Routes(srv)
	h.shop.Config.Handler = srv.Handler()
	return srv.Handler()
}

type answer struct {
	status int
	header http.Header
	body   string
}

func ask(handler http.Handler, method, path, actor, key, contentType, body string) answer {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != "" {
		r.Header.Set("Content-Type", contentType)
	}
	r.Header.Set("X-Actor", actor)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

const inJSON = "application/json"

func TestHTTP(t *testing.T) {
	h := open(t)
	handler := serve(t, h)
	sku := h.sku(3, 4200)
	o := h.buy(sku)
	path := "/v1/orders/" + h.Sealer.Seal(levee.KindOrder, int64(o.ID))
	const test = `{"provider":"test"}`
	made := ask(handler, "POST", path+"/payments", "buyer", "p1", inJSON, test)
	var p paymentView
	must(t, json.Unmarshal([]byte(made.body), &p))
	if made.status != 201 || p.State != "started" || p.Amount != (web.Money{Amount: 4200, Currency: "CNY"}) || p.RedirectURL == "" ||
		made.header.Get("Location") != p.Links.Self {
		t.Fatalf("%d %s", made.status, made.body)
	}
	cases := func(list []struct {
		method, path, actor, key, body string
		status                         int
		has, hasNot                    string
	}) {
		t.Helper()
		for _, c := range list {
			got := ask(handler, c.method, c.path, c.actor, c.key, inJSON, c.body)
			if got.status != c.status || !strings.Contains(got.body, c.has) || (c.hasNot != "" && strings.Contains(got.body, c.hasNot)) {
				t.Errorf("%s %s by %q: %d %s\nwant %d with %q and without %q", c.method, c.path, c.actor, got.status, got.body, c.status, c.has, c.hasNot)
			}
		}
	}
	type list = []struct {
		method, path, actor, key, body string
		status                         int
		has, hasNot                    string
	}
	cases(list{
		{"POST", path + "/payments", "buyer", "p1", test, 201, strings.TrimSpace(made.body), ""},
		{"POST", path + "/payments", "buyer", "p1", `{"provider":"gold"}`, 422, "idempotency_mismatch", ""},
		{"POST", path + "/payments", "buyer", "", `{"provider":"gold"}`, 422, "body.provider", "free"},
		{"POST", path + "/payments", "other", "p1", test, 404, "not_found", ""},
		{"POST", path + "/payments", "", "", test, 401, "unauthenticated", ""},
		{"POST", path + "/payments", "rehearsal", "", `{"provider":"gold"}`, 403, "forbidden", ""},
		{"GET", path + "/payments", "buyer", "", "", 200, p.ID, "redirect_url"},
		{"GET", path + "/payments", "other", "", "", 404, "not_found", p.ID},
		{"GET", p.Links.Self, "buyer", "", "", 200, `"state":"started"`, ""},
		{"GET", p.Links.Self, "other", "", "", 404, "not_found", "4200"},
		{"GET", p.Links.Self, "", "", "", 401, "", "4200"},
		{"GET", "/v1/payments/" + h.Sealer.Seal(levee.KindOrder, int64(o.ID)), "operator", "", "", 404, "not_found", ""},
		{"POST", path + "/refund", "buyer", "", `{"reason":"x"}`, 403, "forbidden", ""},
		{"POST", path + "/refund", "operator", "", `{"reason":"x"}`, 409, `"state":"created"`, ""},
		{"POST", path + "/refund", "operator", "", `{"reason":""}`, 422, "reason", ""},
	})
	notify := "/v1/payment-notifications/test"
	for name, c := range map[string]struct {
		path, contentType, body string
		status                  int
	}{
		"empty":    {notify, formType, "", 403},
		"unsigned": {notify, formType, "a=b", 403},
		"json":     {notify, inJSON, `{"a":1}`, 403},
		"too long": {notify, formType, strings.Repeat("a", maxForm+1), 413},
		"nobody":   {"/v1/payment-notifications/nobody", formType, "a=b", 404},
		"free":     {"/v1/payment-notifications/free", formType, "a=b", 404},
	} {
		got := ask(handler, "POST", c.path, "", "", c.contentType, c.body)
		if got.status != c.status || strings.Contains(got.body, "success") {
			t.Errorf("notification %s: %d %s", name, got.status, got.body)
		}
	}
	h.press(p.RedirectURL, "pay")
	h.deliver() // through the real server
	cases(list{
		{"GET", p.Links.Self, "buyer", "", "", 200, `"state":"paid"`, "provider_ref"},
		{"GET", p.Links.Self, "operator", "", "", 200, "provider_ref", ""},
		{"POST", path + "/payments", "buyer", "p1", test, 201, strings.TrimSpace(made.body), ""}, // the first answer, still
		{"POST", path + "/payments", "buyer", "p2", test, 409, "already_paid", ""},
		{"POST", path + "/refund", "operator", "r1", `{"reason":"broken"}`, 202, `"state":"pending"`, ""},
		{"POST", path + "/refund", "operator", "r1", `{"reason":"broken"}`, 202, `"state":"pending"`, ""},
		{"POST", path + "/refund", "operator", "r1", `{"reason":"other"}`, 422, "idempotency_mismatch", ""},
		{"POST", path + "/refund", "operator", "r2", `{"reason":"broken"}`, 409, `"state":"refunding"`, ""},
		{"POST", p.Links.Self + "/refund", "operator", "", `{"reason":"broken"}`, 409, `"state":"refunding"`, ""},
		{"POST", p.Links.Self + "/refund", "buyer", "", `{"reason":"broken"}`, 403, "forbidden", ""},
		{"GET", path, "buyer", "", "", 200, `"state":"refunding"`, ""},
	})
	h.settle()
	cases(list{
		{"GET", path, "buyer", "", "", 200, `"state":"refunded"`, ""},
		{"GET", p.Links.Self, "buyer", "", "", 200, `"state":"done"`, "last_error"},
	})
	h.audited()
}

// TestStartOnce begins to pay one order a hundred times at once, half with one key and half without: there is one attempt, and
// everybody is sent to the same page.
func TestStartOnce(t *testing.T) {
	h := open(t)
	handler := serve(t, h)
	o := h.buy(h.sku(1, 5))
	path := "/v1/orders/" + h.Sealer.Seal(levee.KindOrder, int64(o.ID)) + "/payments"
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			key := ""
			if i%2 == 0 {
				key = "one"
			}
			got := ask(handler, "POST", path, "buyer", key, inJSON, `{"provider":"test"}`)
			mu.Lock()
			defer mu.Unlock()
			seen[fmt.Sprint(got.status, " ", got.header.Get("Location"), " ", got.body)]++
		})
	}
	wg.Wait()
	list, err := h.payments.ByOrder(t.Context(), buyer, o.ID)
	if err != nil || len(list) != 1 || len(seen) != 1 {
		t.Errorf("%d attempts, %d different answers, %v", len(list), len(seen), err)
	}
	if h.order(o.ID) != order.StateCreated {
		t.Errorf("order is %v", h.order(o.ID))
	}
}
