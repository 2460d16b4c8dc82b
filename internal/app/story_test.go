package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
)

type ticket struct {
	Reservation, Order, Place string
	Repeated                  bool
}

// makeProduct makes a product with units on hand and returns its SKU.
func makeProduct(h *apptest.House, code string, units int) string {
	var p struct {
		SKUs []struct{ ID string } `json:"skus"`
	}
	h.Operator.Do("POST", "/v1/products", map[string]any{"code": code, "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": code + "-1", "price": map[string]any{"amount": 9900, "currency": "CNY"}, "on_hand": units}}}).Want(201).Into(&p)
	return p.SKUs[0].ID
}

// makeSale drafts and schedules a sale and returns its id.
func makeSale(h *apptest.House, sku string, units int, change map[string]any) string {
	terms := map[string]any{"title": "Lamp sale", "sku": sku, "price": map[string]any{"amount": 4900, "currency": "CNY"}, "units": units, "per_buyer": 1,
		"starts_at": time.Now().Add(-time.Second), "ends_at": time.Now().Add(time.Hour)}
	for k, v := range change {
		terms[k] = v
	}
	var s struct{ ID string }
	h.Operator.Do("POST", "/v1/sales", terms).Want(201).Into(&s)
	h.Operator.Do("POST", "/v1/sales/"+s.ID+"/acts", map[string]any{"act": "schedule", "reason": "test"}).Want(201)
	return s.ID
}

func admit(c *apptest.Client, sale string) string {
	var a struct{ Token string }
	c.Do("POST", "/v1/sales/"+sale+"/admissions", nil).Want(201).Into(&a)
	return "Levee-Admission: " + a.Token
}

// One purchase from sign-up to paid, over HTTP and through the test provider's own pages.
func TestAPurchase(t *testing.T) {
	h := apptest.Start(t)
	sku := makeProduct(h, "LAMP", 10)
	sale := makeSale(h, sku, 2, nil)
	h.Visitor.Do("GET", "/v1/sales/"+sale, nil).Want(200).Contains(`"phase":"open"`)
	h.Visitor.Do("POST", "/v1/sales/"+sale+"/purchases", nil).WantError(401, levee.CodeUnauthenticated)
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", nil).WantError(403, levee.CodeAdmissionMissing)
	token := admit(h.Customer, sale)
	var first, again ticket
	got := h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", map[string]any{"quantity": 1}, token, "Idempotency-Key: mine").Want(201).Into(&first)
	if got.Header.Get("Location") != "/v1/orders/"+first.Order {
		t.Fatalf("Location is %q", got.Header.Get("Location"))
	}
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", map[string]any{"quantity": 1}, token, "Idempotency-Key: mine").Want(201).Into(&again)
	if again.Order != first.Order || !again.Repeated {
		t.Fatalf("the same key gave %+v, want %+v again", again, first)
	}
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", map[string]any{"quantity": 2}, token, "Idempotency-Key: mine").WantError(422, levee.CodeIdempotencyMismatch)
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", nil, token).WantError(409, levee.CodeLimitReached).Contains(first.Order)
	stranger := h.NewCustomer(t, "stranger")
	stranger.Do("GET", "/v1/orders/"+first.Order, nil).WantError(404, levee.CodeNotFound)
	stranger.Do("GET", "/v1/reservations/"+first.Reservation, nil).WantError(404, levee.CodeNotFound)
	stranger.Do("POST", "/v1/sales/"+sale+"/purchases", nil, token).WantError(403, levee.CodeAdmissionInvalid)

	pay(t, h, h.Customer, first.Order)
	var account struct {
		Balanced bool
		Stock    struct{ Offered, Remaining, Reserved, Sold int }
	}
	h.Operator.Do("GET", "/v1/sales/"+sale+"/account", nil).Want(200).Into(&account)
	if !account.Balanced || account.Stock.Sold != 1 || account.Stock.Remaining != 1 {
		t.Fatalf("account %+v", account)
	}
	h.Customer.Do("GET", "/v1/sales/"+sale+"/account", nil).WantError(403, levee.CodeForbidden)
	h.Customer.Do("DELETE", "/v1/reservations/"+first.Reservation, nil).WantError(409, levee.CodeConflict)
}

var formAction = regexp.MustCompile(`<form[^>]*action="([^"]*)"`)

// pay goes the payer's way: start, the provider's page, press pay, and wait for the signed notification to do its work.
func pay(t *testing.T, h *apptest.House, c *apptest.Client, order string) {
	t.Helper()
	var started struct {
		ID       string
		Redirect string `json:"redirect_url"`
	}
	c.Do("POST", "/v1/orders/"+order+"/payments", map[string]any{"provider": "test"}).Want(201).Into(&started)
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	page, err := browser.Get(started.Redirect)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 1<<16)
	n, _ := page.Body.Read(text)
	page.Body.Close()
	action := started.Redirect
	if m := formAction.FindSubmatch(text[:n]); m != nil {
		u, _ := url.Parse(started.Redirect)
		ref, err := u.Parse(strings.ReplaceAll(string(m[1]), "&amp;", "&"))
		if err != nil {
			t.Fatal(err)
		}
		action = ref.String()
	}
	pressed, err := browser.PostForm(action, url.Values{"action": {"pay"}})
	if err != nil {
		t.Fatal(err)
	}
	pressed.Body.Close()
	if pressed.StatusCode >= 400 {
		t.Fatalf("pressing pay answered %d (page %d: %s)", pressed.StatusCode, page.StatusCode, text[:n])
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		var o struct{ State string }
		c.Do("GET", "/v1/orders/"+order, nil).Want(200).Into(&o)
		if o.State == "paid" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the order is %q 20 s after it was paid", o.State)
		}
	}
}

// A crowd over HTTP: more buyers than units, everybody twice with one key.
func TestACrowdOverHTTP(t *testing.T) {
	h := apptest.Start(t)
	const units, crowd = 30, 300
	sku := makeProduct(h, "LAMP", 1000)
	sale := makeSale(h, sku, units, nil)
	var copied struct{ ID string }
	h.Operator.Do("POST", "/v1/sales/"+sale+"/rehearsals", map[string]any{"starts_in_ms": 0, "lasts_seconds": 600}).Want(201).Into(&copied)
	lines := strings.Split(strings.TrimSpace(string(h.Operator.Do("POST", "/v1/sales/"+copied.ID+"/rehearsal-buyers", map[string]any{"buyers": crowd}).Want(200).Body)), "\n")
	if len(lines) != crowd {
		t.Fatalf("%d buyers were invented, want %d", len(lines), crowd)
	}
	var mu sync.Mutex
	told := map[string]string{} // buyer to order
	var wg sync.WaitGroup
	for _, line := range lines {
		var b struct{ Buyer, Token, Admission string }
		if err := json.Unmarshal([]byte(line), &b); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			wg.Go(func() {
				c := *h.Visitor
				c.Token = b.Token
				a := c.Do("POST", "/v1/sales/"+copied.ID+"/purchases", nil, "Levee-Admission: "+b.Admission, "Idempotency-Key: once")
				switch a.Status {
				case 201:
					var got ticket
					a.Into(&got)
					mu.Lock()
					defer mu.Unlock()
					if told[b.Buyer] != "" && told[b.Buyer] != got.Order {
						t.Errorf("%s was told two orders", b.Buyer)
					}
					told[b.Buyer] = got.Order
				case 409:
				default:
					t.Errorf("answered %d: %s", a.Status, a.Body)
				}
			})
		}
	}
	wg.Wait()
	held := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(h.Operator.Do("GET", "/v1/sales/"+copied.ID+"/reservations", nil).Want(200).Body)), "\n") {
		var r struct{ Buyer, Order, State string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		held[r.Buyer] = r.Order
	}
	if len(held) != units || len(told) != units {
		t.Fatalf("%d orders, %d told, want %d", len(held), len(told), units)
	}
	for b, o := range told {
		if held[b] != o {
			t.Errorf("%s was told %s, the house holds %q", b, o, held[b])
		}
	}
	// A winner of a rehearsal pays as people do, at the test provider.
	for _, line := range lines {
		var b struct{ Buyer, Token string }
		if err := json.Unmarshal([]byte(line), &b); err != nil {
			t.Fatal(err)
		}
		if told[b.Buyer] != "" {
			c := *h.Visitor
			c.Token = b.Token
			pay(t, h, &c, told[b.Buyer])
			break
		}
	}
	h.Operator.Do("GET", "/v1/sales/"+copied.ID+"/account", nil).Want(200).Contains(`"sold":1`, `"balanced":true`)
	// A real customer may not take part in a rehearsal, and its stock did not come from the shelf.
	h.Customer.Do("POST", "/v1/sales/"+copied.ID+"/admissions", nil).WantError(403, levee.CodeForbidden)
	var stock struct {
		SKUs []struct {
			OnHand int `json:"on_hand"`
		} `json:"skus"`
	}
	var list struct{ Items []struct{ ID string } }
	h.Operator.Do("GET", "/v1/products", nil).Want(200).Into(&list)
	h.Operator.Do("GET", "/v1/products/"+list.Items[0].ID, nil).Want(200).Into(&stock)
	if stock.SKUs[0].OnHand != 1000-units {
		t.Fatalf("%d on the shelf, want %d", stock.SKUs[0].OnHand, 1000-units)
	}
}

// What an unpaid order holds goes back to the sale by itself.
func TestAnUnpaidOrderExpires(t *testing.T) {
	h := apptest.Start(t)
	sale := makeSale(h, makeProduct(h, "LAMP", 10), 1, map[string]any{"pay_within_seconds": 10})
	var first ticket
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", nil, admit(h.Customer, sale)).Want(201).Into(&first)
	other := h.NewCustomer(t, "other")
	token := admit(other, sale)
	other.Do("POST", "/v1/sales/"+sale+"/purchases", nil, token).WantError(409, levee.CodeSoldOut)
	deadline := time.Now().Add(30 * time.Second)
	for i := 0; ; i++ {
		a := other.Do("POST", "/v1/sales/"+sale+"/purchases", nil, token)
		if a.Status == 201 {
			break
		}
		a.WantError(409, levee.CodeSoldOut)
		if time.Now().After(deadline) {
			t.Fatal("the unit of an unpaid order did not come back")
		}
		<-time.After(100 * time.Millisecond)
	}
	h.Customer.Do("GET", "/v1/orders/"+first.Order, nil).Want(200).Contains(`"state":"cancelled"`)
	h.Operator.Do("GET", "/v1/sales/"+sale+"/account", nil).Want(200).Contains(`"balanced":true`)
}

// Bad input at the door of the sale: a clear error each, and nothing lost.
func TestBadInput(t *testing.T) {
	h := apptest.Start(t)
	sku := makeProduct(h, "LAMP", 100)
	sale := makeSale(h, sku, 5, nil)
	token := admit(h.Customer, sale)
	buy := "/v1/sales/" + sale + "/purchases"
	terms := func(change map[string]any) map[string]any {
		m := map[string]any{"title": "x", "sku": sku, "price": map[string]any{"amount": 1, "currency": "CNY"}, "units": 1, "per_buyer": 1,
			"starts_at": time.Now(), "ends_at": time.Now().Add(time.Hour)}
		for k, v := range change {
			m[k] = v
		}
		return m
	}
	for _, c := range []struct {
		name, method, path string
		body               any
		headers            []string
		status             int
		holds              []string
	}{
		{"broken JSON", "POST", buy, `{"quantity":`, nil, 400, nil},
		{"trailing garbage", "POST", buy, `{"quantity":1}x`, nil, 400, nil},
		{"unknown field", "POST", buy, `{"quantiti":1}`, nil, 422, []string{"quantiti"}},
		{"duplicate key", "POST", buy, `{"quantity":1,"quantity":2}`, nil, 400, []string{"quantity"}},
		{"key of another case", "POST", buy, `{"QUANTITY":1}`, nil, 422, []string{"QUANTITY"}},
		{"wrong type", "POST", buy, `{"quantity":"two"}`, nil, 422, []string{"quantity"}},
		{"fraction", "POST", buy, `{"quantity":1.5}`, nil, 422, []string{"quantity"}},
		{"negative", "POST", buy, `{"quantity":-1}`, nil, 422, []string{"quantity", "-1"}},
		{"zero", "POST", buy, `{"quantity":0}`, nil, 422, []string{"quantity"}},
		{"huge", "POST", buy, `{"quantity":99999999999999999999}`, nil, 422, []string{"quantity"}},
		{"over the limit of any sale", "POST", buy, `{"quantity":1001}`, nil, 422, []string{"quantity"}},
		{"too large a body", "POST", buy, `{"quantity":1` + strings.Repeat(" ", 1<<16) + `}`, nil, 413, nil},
		{"deep nesting", "POST", buy, `{"quantity":` + strings.Repeat("[", 2000), nil, 400, nil},
		{"another media type", "POST", buy, `quantity=1`, []string{"Content-Type: text/csv"}, 415, nil},
		{"an answer we cannot give", "GET", "/v1/sales/" + sale, nil, []string{"Accept: application/xml"}, 406, nil},
		{"no key", "POST", buy, `{"quantity":1}`, []string{"Idempotency-Key: "}, 400, []string{"Idempotency-Key"}},
		{"a key too long", "POST", buy, `{"quantity":1}`, []string{"Idempotency-Key: " + strings.Repeat("k", 300)}, 400, []string{"Idempotency-Key"}},
		{"another method", "PATCH", buy, `{}`, nil, 405, nil},
		{"no such path", "GET", "/v1/nothing", nil, nil, 404, nil},
		{"a made-up id", "POST", "/v1/sales/sal_00000000000000000000000000/purchases", `{}`, nil, 404, nil},
		{"an id of another kind", "GET", "/v1/sales/" + sku, nil, nil, 404, nil},
		{"an id that is none", "GET", "/v1/sales/1%20OR%201=1", nil, nil, 404, nil},
		{"a forged admission", "POST", buy, `{}`, []string{"Levee-Admission: " + strings.Repeat("A", 54)}, 403, nil},
		{"a forged session", "GET", "/v1/me", nil, []string{"Authorization: Bearer a.b.c"}, 401, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := append([]string{token}, c.headers...)
			a := h.Customer.Do(c.method, c.path, c.body, headers...).Want(c.status).Contains(c.holds...)
			if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
				t.Fatalf("the error is %s: %s", a.Header.Get("Content-Type"), a.Body)
			}
			a.Contains(`"error":`)
		})
	}
	for _, c := range []struct {
		name  string
		terms map[string]any
		field string
	}{
		{"an end in the past", terms(map[string]any{"starts_at": "2001-01-01T00:00:00Z", "ends_at": "2001-01-02T00:00:00Z"}), "ends_at"},
		{"an end before the start", terms(map[string]any{"starts_at": time.Now().Add(2 * time.Hour)}), "ends_at"},
		{"no units", terms(map[string]any{"units": 0}), "units"},
		{"negative units", terms(map[string]any{"units": -5}), "units"},
		{"units beyond reason", terms(map[string]any{"units": 1e18}), "units"},
		{"a negative price", terms(map[string]any{"price": map[string]any{"amount": -1, "currency": "CNY"}}), "amount"},
		{"a currency that is none", terms(map[string]any{"price": map[string]any{"amount": 1, "currency": "cny"}}), "currency"},
		{"a SKU that is none", terms(map[string]any{"sku": sale}), "sku"},
		{"a long title", terms(map[string]any{"title": strings.Repeat("x", 500)}), "title"},
		{"a field too many", terms(map[string]any{"state": "ended"}), "state"},
		{"a short time to pay", terms(map[string]any{"pay_within_seconds": 1}), "pay_within"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.Operator.Do("POST", "/v1/sales", c.terms).Want(422).Contains(c.field)
		})
	}
	h.Customer.Do("POST", "/v1/sales", terms(nil)).WantError(403, levee.CodeForbidden)
	// After all of that nothing is lost, and the sale still sells.
	h.Operator.Do("GET", "/v1/sales/"+sale+"/account", nil).Want(200).Contains(`"balanced":true`, `"remaining":5`)
	h.Customer.Do("POST", buy, `{"quantity":1}`, token).Want(201)
}

func TestConfigMistakes(t *testing.T) {
	for _, c := range []struct{ env, want string }{
		{"LEVEE_SAEL__HOLD_FOR=3s", `did you mean "sale.hold_for"`},
		{"LEVEE_SALE__HOLD_FOR=soon", "hold_for"},
		{"LEVEE_MODE=distributed", "db must be"},
		{"LEVEE_MODE=clustered", `"embedded"`},
		{"LEVEE_MODE=distributed LEVEE_DB=mysql://levee@db/levee", "redis must be"},
		{"LEVEE_MODE=distributed LEVEE_DB=mysql://levee@db/levee LEVEE_REDIS=redis://r", "secret must be given"},
		{"LEVEE_MODE=distributed LEVEE_DB=mysql://levee@db/levee LEVEE_REDIS=redis://r LEVEE_GATE=memory: LEVEE_SECRET=" + strings.Repeat("ab", 32), "gate must be"},
		{"LEVEE_DB=mysql://levee@db/levee", `mode = "distributed"`},
		{"LEVEE_DB=postgres://x", "sqlite"},
		{"LEVEE_LIMIT=redis:", "the line redis"},
		{"LEVEE_GATE=redis://x", "memory:"},
	} {
		_, err := app.ReadConfig("", strings.Fields(c.env))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", c.env, err, c.want)
		}
	}
	cfg, err := app.ReadConfig("", []string{"LEVEE_SALE__HOLD_FOR=3s", "LEVEE_LIMITS__RATES__READ=5/s", "LEVEE_SECRET=" + strings.Repeat("ab", 32)})
	if err != nil || cfg.Sale.HoldFor != 3*time.Second {
		t.Fatalf("%+v, %v", cfg.Sale, err)
	}
	if shown := cfg.Show() + fmt.Sprintf("%v %+v", cfg, cfg); strings.Contains(shown, "abab") {
		t.Fatal("the secret shows")
	}
}
