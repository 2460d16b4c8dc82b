package line_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app/apptest"
	"levee/internal/line"
)

func makeSale(t *testing.T, h *apptest.House, units int, change map[string]any) string {
	t.Helper()
	var p struct {
		SKUs []struct{ ID string } `json:"skus"`
	}
	h.Operator.Do("POST", "/v1/products", map[string]any{"code": "LAMP", "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": "LAMP-1", "price": map[string]any{"amount": 9900, "currency": "CNY"}, "on_hand": 1000}}}).Want(201).Into(&p)
	terms := map[string]any{"title": "Lamp sale", "sku": p.SKUs[0].ID, "price": map[string]any{"amount": 4900, "currency": "CNY"}, "units": units,
		"per_buyer": 2, "starts_at": time.Now().Add(-time.Second), "ends_at": time.Now().Add(time.Hour), "token_needed": false}
	for k, v := range change {
		terms[k] = v
	}
	var s struct{ ID string }
	h.Operator.Do("POST", "/v1/sales", terms).Want(201).Into(&s)
	h.Operator.Do("POST", "/v1/sales/"+s.ID+"/acts", map[string]any{"act": "schedule", "reason": "test"}).Want(201)
	return "/v1/sales/" + s.ID
}

type entry struct {
	Entry, Status, Reason string
	Quantity              int
	Position, Rank        *int
	Waiting               int
	Offer                 *struct {
		Order    string
		Quantity int
		PayBy    time.Time `json:"pay_by"`
	}
	PollAfter int               `json:"poll_after_ms"`
	Links     map[string]string `json:"links"`
}

// watch reads a stream of server-sent events until one satisfies the wish.
func watch(t *testing.T, h *apptest.House, path string, wish func(kind, data string) bool) (wait func()) {
	t.Helper()
	res, err := http.Get(h.Base + path)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s answered %s", path, res.Status)
	}
	t.Cleanup(func() { res.Body.Close() })
	timer := time.AfterFunc(30*time.Second, func() { res.Body.Close() })
	t.Cleanup(func() { timer.Stop() })
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "id: ") { // from here on nothing is missed
	}
	return func() {
		t.Helper()
		kind := ""
		for lines.Scan() {
			if k, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				kind = k
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && wish(kind, data) {
				return
			}
		}
		t.Fatalf("%s ended before it said what was waited for", path)
	}
}

// TestWaitingListOverHTTP is a waiting list as a page and an operator see it.
func TestWaitingListOverHTTP(t *testing.T) {
	h := apptest.Start(t)
	sale := makeSale(t, h, 2, nil)
	second, third := h.NewCustomer(t, "second"), h.NewCustomer(t, "third")
	h.Customer.Do("POST", sale+"/line", map[string]any{}).WantError(409, levee.CodeUnitsFree).Contains(`"free":2`)
	var bought struct{ Order string }
	h.Customer.Do("POST", sale+"/purchases", map[string]any{"quantity": 2}).Want(201).Into(&bought)
	h.Visitor.Do("POST", sale+"/line", map[string]any{}).WantError(401, levee.CodeUnauthenticated)
	second.Do("POST", sale+"/line", map[string]any{"quantity": 3}).WantError(422, levee.CodeInvalid).Contains("body.quantity")
	second.Do("POST", sale+"/line", map[string]any{"quantity": -1}).WantError(422, levee.CodeInvalid)
	second.Do("POST", "/v1/sales/sal_00000000000000000000000000/line", map[string]any{}).WantError(404, levee.CodeNotFound)
	second.Do("GET", sale+"/line/mine", nil).WantError(404, levee.CodeNotFound)

	var mine, again entry
	second.Do("POST", sale+"/line", map[string]any{"quantity": 1}, "Idempotency-Key: k1").Want(201).Into(&mine)
	if mine.Status != "waiting" || mine.Position == nil || *mine.Position != 1 || mine.Waiting != 1 || mine.Rank != nil || mine.Offer != nil || mine.PollAfter == 0 {
		t.Fatalf("the entry is %+v", mine)
	}
	if a := second.Do("POST", sale+"/line", map[string]any{"quantity": 1}, "Idempotency-Key: k1").Want(201).Into(&again); again.Entry != mine.Entry ||
		a.Header.Get("Idempotency-Replayed") != "true" {
		t.Fatalf("the same key gives %+v", again)
	}
	second.Do("POST", sale+"/line", map[string]any{"quantity": 2}, "Idempotency-Key: k1").WantError(422, levee.CodeIdempotencyMismatch)
	second.Do("POST", sale+"/line", map[string]any{"quantity": 2}).WantError(409, levee.CodeConflict)
	third.Do("POST", sale+"/line", map[string]any{"quantity": 2}).Want(201).Contains(`"position":2`)
	h.NewCustomer(t, "fourth").Do("POST", sale+"/line", map[string]any{}).Want(201).Contains(`"position":3`)

	second.Do("GET", sale+"/line", nil).WantError(403, levee.CodeForbidden)
	var list struct {
		Items  []struct{ Entry, Buyer, Status string }
		Counts map[string]int
		Next   string
	}
	h.Operator.Do("GET", sale+"/line?limit=2", nil).Want(200).Into(&list)
	if len(list.Items) != 2 || list.Next == "" || list.Counts["waiting"] != 3 || !strings.HasPrefix(list.Items[0].Buyer, "usr_") {
		t.Fatalf("the operator sees %+v", list)
	}
	h.Operator.Do("GET", sale+"/line?limit=2&status=waiting&after="+list.Next, nil).WantError(422, levee.CodeInvalid).Contains("same filters")
	h.Operator.Do("GET", sale+"/line?limit=2&status=waiting", nil).Want(200).Into(&list)
	h.Operator.Do("GET", sale+"/line?limit=2&status=waiting&after="+list.Next, nil).Want(200).Into(&list)
	if len(list.Items) != 1 || list.Items[0].Entry != mine.Entry {
		t.Fatalf("the second page is %+v", list)
	}
	h.Operator.Do("GET", sale+"/line?status=hopeful", nil).WantError(422, levee.CodeInvalid)
	h.Operator.Do("GET", sale+"/line?after=ent_x", nil).WantError(422, levee.CodeInvalid)

	offered := watch(t, h, sale+"/line/events", func(kind, data string) bool {
		return kind == "numbers" && strings.Contains(data, `"offered":2`) && strings.Contains(data, `"waiting":1`)
	})
	h.Customer.Do("DELETE", "/v1/reservations/"+strings.Replace(reservationOf(t, h, sale, bought.Order), "ord_", "rsv_", 1), nil).Want(204)
	offered()
	second.Do("GET", sale+"/line/mine", nil).Want(200).Into(&mine)
	if mine.Status != "offered" || mine.Offer == nil || mine.Offer.Quantity != 1 || mine.Position != nil || mine.Links["pay"] == "" {
		t.Fatalf("the offer is %+v", mine)
	}
	second.Do("GET", "/v1/orders/"+mine.Offer.Order, nil).Want(200).Contains(`"state":"created"`)
	second.Do("DELETE", sale+"/line/mine", nil).WantError(409, levee.CodeConflict).Contains(mine.Offer.Order)
	var other entry
	third.Do("GET", sale+"/line/mine", nil).Want(200).Into(&other)
	if other.Offer == nil || other.Offer.Quantity != 1 || other.Quantity != 2 {
		t.Fatalf("who asked for two sees %+v", other)
	}
	h.Visitor.Do("GET", sale+"/draw", nil).WantError(404, levee.CodeNotFound)
}

// reservationOf finds the reservation of an order: it is listed for operators.
func reservationOf(t *testing.T, h *apptest.House, sale, order string) string {
	t.Helper()
	for row := range bytes.Lines(h.Operator.Do("GET", sale+"/reservations", nil).Want(200).Body) {
		var r struct{ Reservation, Order string }
		if json.Unmarshal(row, &r) == nil && r.Order == order {
			return r.Reservation
		}
	}
	t.Fatalf("no reservation has the order %s", order)
	return ""
}

// TestDrawOverHTTP enters a draw, waits for it as a page does, and verifies it from what anybody can read.
func TestDrawOverHTTP(t *testing.T) {
	h := apptest.Start(t)
	people := []*apptest.Client{h.Customer}
	for n := range 5 {
		people = append(people, h.NewCustomer(t, fmt.Sprintf("hopeful-%d", n)))
	}
	sale := makeSale(t, h, 3, map[string]any{"mode": "draw", "draw_at": time.Now().Add(3 * time.Second)})
	var before struct {
		State, Algorithm string
		SeedHash         string `json:"seed_hash"`
		Seed             *string
		Digest           *string `json:"entries_digest"`
		Entries          int
	}
	h.Visitor.Do("GET", sale+"/draw", nil).Want(200).Into(&before)
	if before.State != "open" || before.Seed != nil || before.Digest != nil || len(before.SeedHash) != 64 || before.Algorithm != line.Algorithm {
		t.Fatalf("while entries are taken the draw is %+v", before)
	}
	for _, text := range []string{"/draw/entries", "/draw/results"} {
		h.Visitor.Do("GET", sale+text, nil).WantError(404, levee.CodeNotFound)
	}
	drawn := watch(t, h, sale+"/line/events", func(kind, data string) bool { return kind == "numbers" && strings.Contains(data, `"drawn":true`) })
	for _, c := range people {
		c.Do("POST", sale+"/line", map[string]any{"quantity": 1}).Want(201).Contains(`"status":"entered"`, `"position":null`, `"rank":null`)
	}
	people[5].Do("DELETE", sale+"/line/mine", nil).Want(204)
	h.Customer.Do("POST", sale+"/purchases", map[string]any{"quantity": 1}).WantError(409, levee.CodeDrawOnly)
	h.Visitor.Do("GET", sale+"/draw", nil).Want(200).Contains(`"entries":5`)
	drawn()
	h.Customer.Do("POST", sale+"/line", map[string]any{"quantity": 1}).Want(201) // his entry again
	people[5].Do("POST", sale+"/line", map[string]any{"quantity": 1}).WantError(409, levee.CodeEntriesClosed)

	draw := h.Visitor.Do("GET", sale+"/draw", nil).Want(200)
	texts := h.Visitor.Do("GET", sale+"/draw/entries", nil).Want(200)
	results := h.Visitor.Do("GET", sale+"/draw/results", nil).Want(200)
	for _, c := range line.Verify(line.Published{Draw: draw.Body, Entries: texts.Body, Results: results.Body}, line.Expect{SeedHash: before.SeedHash}) {
		if c.Problem != "" {
			t.Errorf("%s: %s", c.What, c.Problem)
		}
	}
	for _, a := range []*apptest.Answer{texts, results} {
		tag := a.Header.Get("Etag")
		if len(tag) != 66 || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("the headers are %v", a.Header)
		}
	}
	h.Visitor.Do("GET", sale+"/draw/entries", nil, "If-None-Match: "+texts.Header.Get("Etag")).Want(304)
	won := 0
	for _, c := range people[:5] {
		var mine entry
		// Offers go out right after the results are public.
		for deadline := time.Now().Add(20 * time.Second); ; {
			c.Do("GET", sale+"/line/mine", nil).Want(200).Into(&mine)
			if mine.Rank == nil {
				t.Fatalf("after the draw there is no rank: %+v", mine)
			}
			if (*mine.Rank <= 3) == (mine.Status == "offered") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("20 s after the draw rank %d is %s", *mine.Rank, mine.Status)
			}
		}
		rank, units, found := line.ResultOf(results.Body, mine.Entry)
		if !found || int(rank) != *mine.Rank || (units > 0) != (mine.Offer != nil) {
			t.Fatalf("the entry is %+v, published is rank %d with %d units", mine, rank, units)
		}
		if mine.Offer != nil {
			won++
			c.Do("GET", "/v1/orders/"+mine.Offer.Order, nil).Want(200)
		}
	}
	if won != 3 {
		t.Fatalf("%d won 3 units", won)
	}
}
