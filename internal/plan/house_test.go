package plan_test

import (
	"encoding/json"
	"slices"
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

func terms(sku string, change map[string]any) map[string]any {
	t := map[string]any{"title": "Lamp sale", "sku": sku, "price": map[string]any{"amount": 9500, "currency": "CNY"}, "units": 10, "per_buyer": 1,
		"starts_at": time.Now().Add(time.Hour).UTC().Truncate(time.Second), "ends_at": time.Now().Add(3 * time.Hour).UTC().Truncate(time.Second)}
	for k, v := range change {
		t[k] = v
	}
	return t
}

type report struct {
	Problems []struct{ Field, Allowed, Given string }
	Warnings []struct{ Code, Message string }
	Summary  struct {
		OnHand    int64 `json:"on_hand"`
		Takings   struct{ Amount int64 }
		Lasts     int64 `json:"lasts_seconds"`
		RoomLasts int64 `json:"room_lasts_seconds"`
	}
}

func (r report) fields() (list []string) {
	for _, p := range r.Problems {
		list = append(list, strings.TrimPrefix(p.Field, "body."))
	}
	return list
}

func (r report) codes() (list []string) {
	for _, w := range r.Warnings {
		list = append(list, w.Code)
	}
	return list
}

func check(h *apptest.House, body any) (r report) {
	h.Operator.Do("POST", "/v1/sale-checks", body).Want(200).Into(&r)
	return r
}

func sales(t *testing.T, h *apptest.House) int {
	t.Helper()
	var out struct{ Items []json.RawMessage }
	h.Operator.Do("GET", "/v1/sales?limit=100", nil).Want(200).Into(&out)
	return len(out.Items)
}

func TestCheck(t *testing.T) {
	h := apptest.Start(t)
	sku := product(h, 50)
	h.Customer.Do("POST", "/v1/sale-checks", map[string]any{}).WantError(403, levee.CodeForbidden)

	if r := check(h, terms(sku, nil)); len(r.Problems) != 0 || len(r.Warnings) != 0 || r.Summary.OnHand != 50 || r.Summary.Takings.Amount != 95_000 || r.Summary.Lasts != 7200 {
		t.Fatalf("good terms: %+v", r)
	}
	// Everything at once, also what the body's own schema would have refused one by one.
	r := check(h, map[string]any{"title": "", "sku": "nonsense", "price": map[string]any{"amount": -5, "currency": "yuan"}, "units": -1, "per_buyer": 5000,
		"starts_at": time.Now().Add(time.Hour), "ends_at": time.Now(), "pay_within_seconds": 1, "mode": "auction",
		"admission": map[string]any{"order": "loudest", "per_second": 1 << 30, "multiple": -1, "brake": "magic", "work_bits": 99, "per_address": -1}})
	want := []string{"title", "sku", "price.amount", "price.currency", "units", "per_buyer", "ends_at", "pay_within_seconds", "admission.order", "admission.brake",
		"admission.per_second", "admission.multiple", "admission.work_bits", "admission.per_address", "mode"}
	if !slices.Equal(r.fields(), want) {
		t.Fatalf("the problems are\n%v, want\n%v", r.fields(), want)
	}
	if r.Problems[1].Given != "nonsense" {
		t.Fatalf("the SKU that was given is told as %q", r.Problems[1].Given)
	}
	// Takings in what is no currency are not told; the answer would be none that the document knows.
	if r := check(h, terms(sku, map[string]any{"price": map[string]any{"amount": 9500, "currency": "yu"}})); !slices.Equal(r.fields(), []string{"price.currency"}) || r.Summary.Takings.Amount != 0 {
		t.Fatalf("of a price in yu: %+v", r)
	}
	if got := check(h, map[string]any{}).fields(); !slices.Contains(got, "starts_at") || !slices.Contains(got, "sku") {
		t.Fatalf("of nothing: %v", got)
	}
	for _, c := range []struct {
		change map[string]any
		want   []string
	}{
		{map[string]any{"units": 51}, []string{"units_short"}},
		{map[string]any{"price": map[string]any{"amount": 9901, "currency": "CNY"}}, []string{"price_above"}},
		{map[string]any{"price": map[string]any{"amount": 100, "currency": "EUR"}}, []string{"currency_differs"}},
		{map[string]any{"price": map[string]any{"amount": 0, "currency": "CNY"}, "admission": map[string]any{"brake": "work"}}, []string{"price_zero"}},
		{map[string]any{"price": map[string]any{"amount": 6930, "currency": "CNY"}}, []string{"no_brake"}},
		{map[string]any{"price": map[string]any{"amount": 6930, "currency": "CNY"}, "admission": map[string]any{"brake": "picture"}}, nil},
		{map[string]any{"price": map[string]any{"amount": 6930, "currency": "CNY"}, "mode": "draw", "draw_at": time.Now().Add(2 * time.Hour)}, nil},
		{map[string]any{"starts_at": time.Now().Add(-time.Minute)}, []string{"starts_in_past"}},
		{map[string]any{"starts_at": time.Now().Add(30 * time.Second)}, []string{"starts_soon"}},
		{map[string]any{"pay_within_seconds": 7200}, []string{"pay_beyond_end"}},
		{map[string]any{"pay_within_seconds": 3700, "mode": "draw", "draw_at": time.Now().Add(2 * time.Hour)}, []string{"pay_beyond_end"}},
		{map[string]any{"units": 50, "admission": map[string]any{"room": true, "per_second": 1, "multiple": 100}}, []string{"room_slow"}},
		{map[string]any{"units": 50, "pay_within_seconds": 10, "starts_at": time.Now().Add(time.Hour), "ends_at": time.Now().Add(time.Hour + 20*time.Second),
			"admission": map[string]any{"room": true, "per_second": 2, "multiple": 1}}, []string{"room_longer_than_sale"}},
	} {
		if r := check(h, terms(sku, c.change)); !slices.Equal(r.codes(), c.want) || len(r.Problems) != 0 {
			t.Errorf("%v: warnings %v, want %v (problems %v)", c.change, r.codes(), c.want, r.fields())
		}
	}
	if n := sales(t, h); n != 0 {
		t.Fatalf("the checks made %d sales", n)
	}
	// A change is checked by what is fixed, and the sale itself is not in its own way.
	var v struct{ ID string }
	was := terms(sku, map[string]any{"starts_at": time.Now().Add(-time.Minute)})
	h.Operator.Do("POST", "/v1/sales", was).Want(201).Into(&v)
	h.Operator.Do("POST", "/v1/sales/"+v.ID+"/acts", map[string]any{"act": "schedule", "reason": "test"}).Want(201)
	was["sale"] = v.ID
	if r := check(h, was); len(r.Problems) != 0 || len(r.Warnings) != 0 {
		t.Fatalf("a change that changes nothing: %+v", r)
	}
	was["units"], was["per_buyer"], was["price"] = 11, 0, map[string]any{"amount": 1, "currency": "CNY"}
	if got := check(h, was).fields(); !slices.Equal(got, []string{"per_buyer", "units", "price", "per_buyer"}) {
		t.Fatalf("a change of what is fixed: %v", got)
	}
	if r := check(h, terms(sku, nil)); !slices.Equal(r.codes(), []string{"same_sku"}) || !strings.Contains(r.Warnings[0].Message, v.ID) {
		t.Fatalf("another sale of the same SKU: %+v", r)
	}
	if r := check(h, terms(sku, map[string]any{"starts_at": time.Now().Add(4 * time.Hour), "ends_at": time.Now().Add(6 * time.Hour)})); len(r.Warnings) != 0 {
		t.Fatalf("a sale of the same SKU afterwards: %+v", r)
	}
	h.Operator.Do("POST", "/v1/sales/"+v.ID+"/acts", map[string]any{"act": "end", "reason": "test"}).Want(201)
	if got := check(h, was).fields(); !slices.Contains(got, "sale") {
		t.Fatalf("a change of an ended sale: %v", got)
	}
	h.Operator.Do("POST", "/v1/sale-checks", map[string]any{"sale": "sal_none"}).WantError(404, levee.CodeNotFound)
}

type view struct {
	ID, Title, Phase, Mode string
	StartsAt               time.Time  `json:"starts_at"`
	DrawAt                 *time.Time `json:"draw_at"`
	PerBuyer               int        `json:"per_buyer"`
	TokenNeeded            bool       `json:"token_needed"`
	Rehearsal              bool
	Admission              map[string]any
	Operator               struct{ Units int }
}

func TestDuplicate(t *testing.T) {
	h := apptest.Start(t)
	sku := product(h, 50)
	var of, copied view
	starts := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	h.Operator.Do("POST", "/v1/sales", terms(sku, map[string]any{"mode": "draw", "draw_at": starts.Add(10 * time.Minute), "starts_at": starts, "token_needed": false})).Want(201).Into(&of)
	next := map[string]any{"starts_at": starts.Add(24 * time.Hour), "ends_at": starts.Add(26 * time.Hour)}
	h.Customer.Do("POST", "/v1/sales/"+of.ID+"/duplicates", next).WantError(403, levee.CodeForbidden)
	once := h.Operator.Do("POST", "/v1/sales/"+of.ID+"/duplicates", next, "Idempotency-Key: again").Want(201).Into(&copied)
	twice := h.Operator.Do("POST", "/v1/sales/"+of.ID+"/duplicates", next, "Idempotency-Key: again").Want(201)
	if string(once.Body) != string(twice.Body) || sales(t, h) != 2 {
		t.Fatal("the same key made two duplicates")
	}
	if copied.ID == of.ID || copied.Phase != "draft" || copied.Title != of.Title || copied.Mode != "draw" || copied.TokenNeeded || copied.Operator.Units != 10 ||
		!copied.DrawAt.Equal(starts.Add(24*time.Hour+10*time.Minute)) {
		t.Fatalf("the duplicate is %+v", copied)
	}
	next["draw_at"], next["title"] = starts.Add(25*time.Hour), "Another"
	h.Operator.Do("POST", "/v1/sales/"+of.ID+"/duplicates", next).Want(201).Into(&copied)
	if !copied.DrawAt.Equal(starts.Add(25*time.Hour)) || copied.Title != "Another" {
		t.Fatalf("the duplicate is %+v", copied)
	}
	next["ends_at"] = starts
	h.Operator.Do("POST", "/v1/sales/"+of.ID+"/duplicates", next).WantError(422, levee.CodeInvalid)
	delete(next, "draw_at")
	next["ends_at"] = starts.Add(24*time.Hour + time.Minute)
	h.Operator.Do("POST", "/v1/sales/"+of.ID+"/duplicates", next).WantError(422, levee.CodeInvalid).Contains("draw_at")
	h.Operator.Do("POST", "/v1/sales/sal_none/duplicates", next).WantError(404, levee.CodeNotFound)
}

// A rehearsal is its sale in all that decides how it goes, and its buyers go through what stands before it.
func TestRehearsalsKeepThePolicy(t *testing.T) {
	h := apptest.Start(t)
	sku := product(h, 50)
	for _, c := range []struct {
		change map[string]any
		tokens bool
	}{
		{nil, true},
		{map[string]any{"admission": map[string]any{"room": true, "order": "random", "per_second": 7, "multiple": 9, "per_address": 4}}, false},
		{map[string]any{"admission": map[string]any{"brake": "work", "work_bits": 12}}, false},
	} {
		var of, copied view
		h.Operator.Do("POST", "/v1/sales", terms(sku, c.change)).Want(201).Into(&of)
		h.Operator.Do("POST", "/v1/sales/"+of.ID+"/rehearsals", map[string]any{"starts_in_ms": 0, "lasts_seconds": 600}).Want(201).Into(&copied)
		a, _ := json.Marshal(of.Admission)
		b, _ := json.Marshal(copied.Admission)
		if string(a) != string(b) || !copied.Rehearsal || !copied.TokenNeeded {
			t.Fatalf("the sale has the policy %s, the rehearsal %s: %+v", a, b, copied)
		}
		lines := h.Operator.Do("POST", "/v1/sales/"+copied.ID+"/rehearsal-buyers", map[string]any{"buyers": 2}).Want(200)
		if got := strings.Contains(string(lines.Body), `"admission"`); got != c.tokens {
			t.Fatalf("%v: the invented buyers are %s", c.change, lines.Body)
		}
		h.Operator.Do("POST", "/v1/sales/"+copied.ID+"/duplicates", map[string]any{"starts_at": time.Now(), "ends_at": time.Now().Add(time.Hour)}).
			WantError(409, levee.CodeConflict)
		h.Operator.Do("GET", "/v1/sales/"+copied.ID+"/reservations", nil).Want(200)
	}
	var of, copied view
	starts := time.Now().Add(time.Hour)
	h.Operator.Do("POST", "/v1/sales", terms(sku, map[string]any{"mode": "draw", "starts_at": starts, "draw_at": starts.Add(30 * time.Minute), "ends_at": starts.Add(2 * time.Hour)})).
		Want(201).Into(&of)
	h.Operator.Do("POST", "/v1/sales/"+of.ID+"/rehearsals", map[string]any{"starts_in_ms": 0, "lasts_seconds": 400}).Want(201).Into(&copied)
	if d := copied.DrawAt.Sub(copied.StartsAt); copied.Mode != "draw" || d < 99*time.Second || d > 101*time.Second {
		t.Fatalf("the rehearsal of a draw is drawn after %s: %+v", d, copied)
	}
}
