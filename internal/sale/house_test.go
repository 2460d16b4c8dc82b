package sale_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app/apptest"
)

// product makes a product of one SKU and returns the SKU.
func product(h *apptest.House, units int) string {
	var p struct {
		SKUs []struct{ ID string } `json:"skus"`
	}
	h.Operator.Do("POST", "/v1/products", map[string]any{"code": "LAMP", "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": "LAMP-1", "price": map[string]any{"amount": 9900, "currency": "CNY"}, "on_hand": units}}}).Want(201).Into(&p)
	return p.SKUs[0].ID
}

// open drafts and schedules a sale that is on now.
func open(h *apptest.House, sku string, units int, change map[string]any) string {
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

// A draw over HTTP: how it looks, and that nobody buys in it.
func TestADrawOverHTTP(t *testing.T) {
	h := apptest.Start(t)
	at := time.Now().Add(30 * time.Minute).UTC().Truncate(time.Millisecond)
	sale := open(h, product(h, 100), 5, map[string]any{"mode": "draw", "draw_at": at, "waiting_list": false})
	var v struct {
		Phase, Mode string
		DrawAt      time.Time `json:"draw_at"`
		WaitingList bool      `json:"waiting_list"`
		TokenNeeded bool      `json:"token_needed"`
		Admission   map[string]any
		Links       map[string]string
	}
	h.Visitor.Do("GET", "/v1/sales/"+sale, nil).Want(200).Into(&v)
	if v.Phase != "entry" || v.Mode != "draw" || !v.DrawAt.Equal(at) || !v.WaitingList || !v.TokenNeeded || v.Admission["brake"] != "none" ||
		v.Links["draw"] != "/v1/sales/"+sale+"/draw" || v.Links["line"] != "/v1/sales/"+sale+"/line" || v.Links["queue"] != "" {
		t.Fatalf("the sale shows as %+v", v)
	}
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", nil).WantError(409, levee.CodeDrawOnly)
	h.Customer.Do("POST", "/v1/sales/"+sale+"/admissions", nil).WantError(409, levee.CodeDrawOnly)
}

// Numbers of a sale as the live page shows them.
type numbers struct {
	Phase, Node string
	Nodes       int
	Attempts    int64
	Outcomes    map[string]int64
	Stock       struct{ Offered, Remaining, Reserved, Sold, Withdrawn int64 }
	Gate        struct {
		Warm                          bool
		Remaining, Unsettled, Waiting int64
	}
	Orders  struct{ Settled, Paid, Cancelled int64 }
	Latency struct{ P50, P90, P99, Max float64 } `json:"latency_ms"`
	Queue   struct{ Waiting, Admitted, Served int64 }
	Series  []numbers
}

func TestTheLivePage(t *testing.T) {
	h := apptest.Start(t)
	sale := open(h, product(h, 100), 2, map[string]any{"token_needed": false})
	path := "/v1/sales/" + sale
	h.Customer.Do("GET", path+"/live", nil).WantError(403, levee.CodeForbidden)
	h.Customer.Do("GET", path+"/live/events", nil).WantError(403, levee.CodeForbidden)
	h.Operator.Do("GET", "/v1/sales/"+strings.Repeat("x", 30)+"/live", nil).WantError(404, levee.CodeNotFound)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", h.Base+path+"/live/events", nil)
	req.Header.Set("Authorization", "Bearer "+h.Operator.Token)
	stream, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()

	buyers := []*apptest.Client{h.Customer, h.NewCustomer(t, "second"), h.NewCustomer(t, "third"), h.NewCustomer(t, "fourth")}
	h.Operator.Do("POST", path+"/acts", map[string]any{"act": "pause", "reason": "test"}).Want(201)
	buyers[0].Do("POST", path+"/purchases", nil).WantError(409, levee.CodePaused)
	h.Operator.Do("POST", path+"/acts", map[string]any{"act": "resume", "reason": "test"}).Want(201)
	var first struct{ Order, Reservation string }
	buyers[0].Do("POST", path+"/purchases", map[string]any{"quantity": nil}).WantError(422, levee.CodeInvalid).Contains("body.quantity")
	buyers[0].Do("POST", path+"/purchases", nil, "Idempotency-Key: mine").Want(201).Into(&first)
	buyers[0].Do("POST", path+"/purchases", nil, "Idempotency-Key: mine").Want(201)
	buyers[0].Do("POST", path+"/purchases", nil).WantError(409, levee.CodeLimitReached)
	buyers[1].Do("POST", path+"/purchases", nil).Want(201)
	buyers[2].Do("POST", path+"/purchases", nil).WantError(409, levee.CodeSoldOut) // by the gate
	buyers[3].Do("POST", path+"/purchases", nil).WantError(409, levee.CodeSoldOut) // by the switch
	buyers[0].Do("DELETE", "/v1/reservations/"+first.Reservation, nil).Want(204)

	check := func(n numbers) string {
		want := map[string]int64{"won": 2, "repeated": 1, "sold_out": 2, "limit_reached": 1, "not_open": 0, "paused": 1, "admission": 0, "unavailable": 0, "other": 0}
		switch {
		case fmt.Sprint(n.Outcomes) != fmt.Sprint(want) || n.Attempts != 7:
			return fmt.Sprintf("%d attempts, outcomes %v, want 7 and %v", n.Attempts, n.Outcomes, want)
		case n.Orders.Settled != 2 || n.Orders.Paid != 0 || n.Orders.Cancelled != 1:
			return fmt.Sprintf("orders %+v", n.Orders)
		case n.Stock.Offered != 2 || n.Stock.Remaining != 1 || n.Stock.Reserved != 1:
			return fmt.Sprintf("stock %+v", n.Stock)
		case !n.Gate.Warm || n.Gate.Remaining != 1 || n.Gate.Unsettled != 0 || n.Phase != "open" || n.Nodes != 1 || n.Node == "":
			return fmt.Sprintf("%+v", n)
		case n.Latency.Max <= 0 || n.Latency.P50 > n.Latency.P99 || n.Latency.P99 > n.Latency.Max:
			return fmt.Sprintf("latency %+v", n.Latency)
		}
		return ""
	}
	var now numbers
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) { // a gate that nodes share follows the ledger a moment later
		now = numbers{}
		h.Operator.Do("GET", path+"/live", nil).Want(200).Into(&now)
		if wrong := check(now); wrong == "" && now.Series == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the live page: %s, %d points", wrong, len(now.Series))
		}
	}
	// The same, pushed, within a few seconds.
	lines := bufio.NewScanner(stream.Body)
	wrong := "nothing came"
	for kind := ""; wrong != "" && lines.Scan(); {
		if after, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			kind = after
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && kind == "numbers" {
			var pushed numbers
			if err := json.Unmarshal([]byte(data), &pushed); err != nil {
				t.Fatal(err)
			}
			wrong = check(pushed)
		}
	}
	if wrong != "" {
		t.Fatalf("the events end with: %s (%v)", wrong, lines.Err())
	}
	h.Operator.Do("GET", path+"/live?history=true", nil).Want(200).Into(&now)
	if len(now.Series) == 0 {
		t.Fatal("there is no history")
	}
	if wrong := check(now.Series[len(now.Series)-1]); wrong != "" {
		t.Fatalf("the history ends with: %s", wrong)
	}
	h.Operator.Do("GET", path+"/acts", nil).Want(200)
}

// Who has bought frees his slot in the waiting room for the next. Two units and one slot for each: two are in and the third waits.
// One of them buys and gives it back; if his slot were still his, the third would wait on.
func TestABuyerFreesHisSlot(t *testing.T) {
	h := apptest.Start(t)
	sale := open(h, product(h, 100), 2, map[string]any{"admission": map[string]any{"room": true, "multiple": 1, "per_second": 1000}})
	path := "/v1/sales/" + sale
	people := []*apptest.Client{h.Customer, h.NewCustomer(t, "second"), h.NewCustomer(t, "third")}
	enter := func(c *apptest.Client) (token string) {
		t.Helper()
		for range 200 {
			var p struct{ Status, Token string }
			a := c.Do("POST", path+"/admissions", nil).Want(201, 202, 503).Into(&p)
			if a.Status == 201 {
				return "Levee-Admission: " + p.Token
			}
			if a.Status == 202 && c == people[2] {
				return ""
			}
			time.Sleep(50 * time.Millisecond) // the pacer's way to admit somebody: there is nothing to wait for but the answer
		}
		t.Fatal("was not admitted in ten seconds")
		return ""
	}
	first := enter(people[0])
	enter(people[1])
	if enter(people[2]) != "" {
		t.Fatal("three were admitted for two units with one slot each")
	}
	var bought struct{ Reservation string }
	people[0].Do("POST", path+"/purchases", nil, first).Want(201).Into(&bought)
	people[0].Do("DELETE", "/v1/reservations/"+bought.Reservation, nil).Want(204)
	for deadline := time.Now().Add(10 * time.Second); ; {
		if a := people[2].Do("POST", path+"/admissions", nil).Want(201, 202); a.Status == 201 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the third waits though a buyer is done")
		}
		time.Sleep(50 * time.Millisecond)
	}
	var now numbers
	h.Operator.Do("GET", path+"/live", nil).Want(200).Into(&now)
	if now.Queue.Admitted != 2 || now.Queue.Served == 0 {
		t.Fatalf("the live page shows the queue as %+v", now.Queue)
	}
}
