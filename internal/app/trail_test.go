package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/trail"
)

// entries returns what the trail says of one request, or of all with an action.
func entries(t *testing.T, h *apptest.House, request, action string) (found []trail.Entry) {
	t.Helper()
	list, _, err := h.App.Rooms.Trail.List(levee.WithActor(t.Context(), levee.System), trail.Filter{Action: action, Page: levee.Page{Limit: 100}})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if request == "" || e.RequestID == request {
			found = append(found, e)
		}
	}
	return found
}

// awaited asks until the trail has something to say; a row that its room did not write comes after the answer.
func awaited(t *testing.T, h *apptest.House, request, action string) []trail.Entry {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if found := entries(t, h, request, action); len(found) > 0 || time.Now().After(end) {
			return found
		}
	}
}

// notWalked are writes of operators and administrators that the walk below does not make, and why. What their rooms do not tell is told by the
// same witness of the web part that TestTheWitness proves.
var notWalked = map[string]string{
	"checkSale":           "it changes nothing",
	"createPicture":       "internal/catalog proves picture.create",
	"deletePicture":       "internal/catalog proves picture.remove",
	"importProducts":      "internal/catalog proves catalog.import",
	"cancelJob":           "internal/ops proves it; it needs a job that waits",
	"retryJob":            "internal/ops proves it; it needs a job that died",
	"replayEvents":        "internal/ops proves it",
	"retryParkedEvent":    "internal/ops proves it",
	"discardParkedEvent":  "internal/ops proves it",
	"forgetEventListener": "internal/ops proves it",
	"replayDelivery":      "told by the witness; it needs a delivery that is over",
	"voidReservation":     "told with the order that it cancels and as the sale's act void",
}

// Every operation that operators or administrators alone may use and that may change something leaves a row of its request.
func TestEveryWriteOfStaffIsTold(t *testing.T) {
	h := apptest.Start(t, func(c *app.Config) { c.Notify.AllowHosts = []string{"127.0.0.1"} })
	boss := administrator(t, h)
	walked := map[string]bool{}
	do := func(c *apptest.Client, route, method, path string, body any, action string, headers ...string) *apptest.Answer {
		t.Helper()
		walked[route] = true
		a := c.Do(method, path, body, headers...)
		if a.Status >= 300 {
			t.Fatalf("%s: %s %s answered %d: %s", route, method, path, a.Status, a.Body)
		}
		found := awaited(t, h, a.Header.Get("X-Request-Id"), "")
		if !slices.ContainsFunc(found, func(e trail.Entry) bool { return e.Action == action }) {
			t.Errorf("%s: the trail tells %+v of the request, want %s", route, found, action)
		}
		for _, e := range found {
			if e.Actor <= levee.System.User || e.Address == "" {
				t.Errorf("%s: by whom, or from where, is not told: %+v", route, e)
			}
		}
		return a
	}
	op := h.Operator
	// Products.
	var p struct {
		ID      string
		Version int
		SKUs    []struct {
			ID      string
			Version int
		} `json:"skus"`
	}
	price := map[string]any{"amount": 900, "currency": "CNY"}
	do(op, "createProduct", "POST", "/v1/products", map[string]any{"code": "T", "title": "T", "state": "on_sale",
		"skus": []any{map[string]any{"code": "T-1", "price": price, "on_hand": 100}}}, "product.create").Into(&p)
	do(op, "updateProduct", "PATCH", "/v1/products/"+p.ID, map[string]any{"version": p.Version, "title": "Tea"}, "product.update")
	do(op, "createSKU", "POST", "/v1/products/"+p.ID+"/skus", map[string]any{"code": "T-2", "name": "two", "price": price}, "sku.create")
	sku := p.SKUs[0]
	do(op, "adjustStock", "POST", "/v1/skus/"+sku.ID+"/movements", map[string]any{"delta": 5, "note": "found"}, "sku.adjust")
	h.Visitor.Do("GET", "/v1/skus/"+sku.ID, nil).Want(200).Into(&sku)
	do(op, "updateSKU", "PATCH", "/v1/skus/"+sku.ID, map[string]any{"version": sku.Version, "name": "one"}, "sku.update")
	// Orders.
	buy := func() (order string) {
		t.Helper()
		var o struct{ ID string }
		h.Customer.Do("POST", "/v1/orders", map[string]any{"lines": []any{map[string]any{"sku": sku.ID, "quantity": 1}}}).Want(201).Into(&o)
		pay(t, h, h.Customer, o.ID)
		return o.ID
	}
	order := buy()
	do(op, "shipOrder", "POST", "/v1/orders/"+order+"/shipment", map[string]any{"carrier": "c", "tracking": "t"}, "order.shipped")
	do(op, "completeOrder", "POST", "/v1/orders/"+order+"/completion", nil, "order.done")
	do(op, "refundOrder", "POST", "/v1/orders/"+buy()+"/refund", map[string]any{"reason": "r"}, "payment.refunding")
	var paid struct{ Items []struct{ ID string } }
	h.Customer.Do("GET", "/v1/orders/"+buy()+"/payments", nil).Want(200).Into(&paid)
	if len(paid.Items) == 0 {
		t.Fatal("an order that is paid has no payment")
	}
	do(op, "refundPayment", "POST", "/v1/payments/"+paid.Items[0].ID+"/refund", map[string]any{"reason": "r"}, "payment.refunding")
	// Sales.
	var s struct{ ID string }
	now := time.Now()
	terms := map[string]any{"title": "S", "sku": sku.ID, "price": price, "units": 3, "per_buyer": 1, "starts_at": now.Add(-time.Second), "ends_at": now.Add(time.Hour)}
	do(op, "createSale", "POST", "/v1/sales", terms, "sale.create").Into(&s)
	terms["version"], terms["title"] = 1, "S2"
	do(op, "changeSale", "PUT", "/v1/sales/"+s.ID, terms, "sale.change")
	do(op, "actOnSale", "POST", "/v1/sales/"+s.ID+"/acts", map[string]any{"act": "schedule", "reason": "r"}, "sale.schedule")
	delete(terms, "version")
	do(op, "reconcileSale", "POST", "/v1/sales/"+s.ID+"/reconciliations", nil, "route.reconcileSale")
	do(op, "duplicateSale", "POST", "/v1/sales/"+s.ID+"/duplicates", map[string]any{"starts_at": now.Add(2 * time.Hour), "ends_at": now.Add(3 * time.Hour)}, "sale.create")
	var rehearsal struct{ ID string }
	do(op, "rehearseSale", "POST", "/v1/sales/"+s.ID+"/rehearsals", map[string]any{"starts_in_ms": 0, "lasts_seconds": 600}, "sale.create").Into(&rehearsal)
	do(op, "inventBuyers", "POST", "/v1/sales/"+rehearsal.ID+"/rehearsal-buyers", map[string]any{"buyers": 2}, "route.inventBuyers")
	// Webhooks.
	var hook struct{ ID string }
	do(op, "createWebhook", "POST", "/v1/webhooks", map[string]any{"url": "http://127.0.0.1:9/", "events": []string{"order.paid"}}, "webhook.created").Into(&hook)
	do(op, "updateWebhook", "PATCH", "/v1/webhooks/"+hook.ID, map[string]any{"description": "d"}, "webhook.changed", "If-Match: *")
	do(op, "rotateSecret", "POST", "/v1/webhooks/"+hook.ID+"/secrets", nil, "webhook.secret_rotated")
	do(op, "pingWebhook", "POST", "/v1/webhooks/"+hook.ID+"/pings", nil, "route.pingWebhook")
	do(op, "replayWebhook", "POST", "/v1/webhooks/"+hook.ID+"/replays", map[string]any{"from": now.Add(-time.Hour)}, "route.replayWebhook")
	do(op, "deleteWebhook", "DELETE", "/v1/webhooks/"+hook.ID, nil, "webhook.deleted")
	// Machinery.
	do(boss, "setLimit", "PUT", "/v1/limits/import", map[string]any{"rate": "5/d"}, "limit.set", "If-Match: *")
	do(boss, "resetLimit", "DELETE", "/v1/limits/import", nil, "limit.reset", "If-Match: *")
	do(boss, "createSchedule", "POST", "/v1/schedules", map[string]any{"name": "dawn", "kind": "line.give", "trigger": "cron 0 9 * * mon-fri in Asia/Shanghai"}, "schedule.create")
	do(boss, "changeSchedule", "PATCH", "/v1/schedules/dawn", map[string]any{"note": "n"}, "schedule.change", "If-Match: *")
	do(boss, "pauseSchedule", "POST", "/v1/schedules/dawn/pause", nil, "schedule.pause")
	do(boss, "resumeSchedule", "POST", "/v1/schedules/dawn/resume", map[string]any{}, "schedule.resume")
	do(boss, "runSchedule", "POST", "/v1/schedules/dawn/runs", nil, "schedule.run")
	do(boss, "removeSchedule", "DELETE", "/v1/schedules/dawn", nil, "schedule.remove")
	do(boss, "pauseJobs", "PUT", "/v1/job-queue/pauses/kind/line.give", nil, "jobs.pause")
	do(boss, "resumeJobs", "DELETE", "/v1/job-queue/pauses/kind/line.give", nil, "jobs.resume")
	// People.
	var who struct{ ID string }
	h.Visitor.Do("POST", "/v1/users", map[string]any{"name": "somebody", "password": apptest.Password}).Want(201).Into(&who)
	do(boss, "setRoles", "PUT", "/v1/users/"+who.ID+"/roles", map[string]any{"roles": []string{"operator"}}, "user.roles_changed")
	do(boss, "setPassword", "PUT", "/v1/users/"+who.ID+"/password", map[string]any{"password": "another-quiet-levee-42"}, "user.password_set")
	do(boss, "createPasswordReset", "POST", "/v1/users/"+who.ID+"/password-resets", nil, "user.reset_created")
	signIn := func() {
		h.Visitor.Do("POST", "/v1/sessions", map[string]any{"name": "somebody", "password": "another-quiet-levee-42"}).Want(201)
	}
	signIn()
	var open struct{ Items []struct{ ID string } }
	boss.Do("GET", "/v1/users/"+who.ID+"/sessions", nil).Want(200).Into(&open)
	if len(open.Items) == 0 {
		t.Fatal("who has signed in has no session")
	}
	do(boss, "endUserSession", "DELETE", "/v1/users/"+who.ID+"/sessions/"+open.Items[0].ID, nil, "session.ended")
	signIn()
	do(boss, "endUserSessions", "DELETE", "/v1/users/"+who.ID+"/sessions", nil, "user.sessions_ended")
	// What roles may, and the keys that sign.
	do(boss, "createRole", "POST", "/v1/roles", map[string]any{"name": "packer"}, "access.role_created")
	do(boss, "changeRole", "PATCH", "/v1/roles/packer", map[string]any{"label": "Packer"}, "access.role_changed")
	do(boss, "grant", "PUT", "/v1/resources/shipOrder/roles/packer", nil, "access.granted")
	do(boss, "revoke", "DELETE", "/v1/resources/shipOrder/roles/packer", nil, "access.granted")
	do(boss, "setGrants", "PUT", "/v1/resources/shipOrder/roles", map[string]any{"roles": []string{"administrator"}}, "access.granted")
	do(boss, "removeRole", "DELETE", "/v1/roles/packer", nil, "access.role_removed")
	do(boss, "importPolicy", "POST", "/v1/access/policy-imports", map[string]any{"policy": "p, sorter, /v1/orders/:id, GET"}, "access.role_created")
	var key struct{ Kid string }
	do(boss, "rollSigningKey", "POST", "/v1/signing-keys", map[string]any{}, "key.rolled").Into(&key)
	do(boss, "retireSigningKey", "POST", "/v1/signing-keys/"+key.Kid+"/retire", map[string]any{}, "key.retired")
	do(boss, "resetFactors", "DELETE", "/v1/users/"+who.ID+"/factors", nil, "factor.reset")
	do(boss, "disableUser", "POST", "/v1/users/"+who.ID+"/disable", map[string]any{"reason": "r"}, "user.disabled")
	do(boss, "enableUser", "POST", "/v1/users/"+who.ID+"/enable", nil, "user.enabled")

	for _, line := range h.App.Web.Routes() {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] == http.MethodGet || f[3] == "anybody" || strings.Contains(f[3], "customer") {
			continue
		}
		if _, excused := notWalked[f[2]]; walked[f[2]] == excused {
			t.Errorf("%s is walked: %v, and excused: %v", f[2], walked[f[2]], excused)
		}
	}
	// What is read leaves nothing, and neither does what is refused for its content.
	for _, a := range []*apptest.Answer{op.Do("GET", "/v1/products", nil).Want(200), op.Do("POST", "/v1/products", map[string]any{}).Want(422),
		op.Do("POST", "/v1/sale-checks", terms)} {
		if found := entries(t, h, a.Header.Get("X-Request-Id"), ""); len(found) != 0 {
			t.Errorf("%d: %+v", a.Status, found)
		}
	}
}

// Sign-ins, refusals and their like are told, with counts.
func TestWhatTouchesSafetyIsTold(t *testing.T) {
	h := apptest.Start(t)
	boss := administrator(t, h)
	const many = 30
	for range many {
		h.Visitor.Do("POST", "/v1/sessions", map[string]any{"name": "operator", "password": "wrong-wrong-wrong-1"}).Want(401)
		h.Customer.Do("PUT", "/v1/limits/read", map[string]any{"rate": "off"}).Want(403)
	}
	c := h.NewCustomer(t, "leaver")
	c.Do("DELETE", "/v1/sessions/current", nil).Want(204)
	boss.Do("GET", "/v1/audit/export", nil).Want(200)
	for _, action := range []string{"session.begun", "session.ended", "audit.exported", "user.signed_up", "user.created"} {
		if len(awaited(t, h, "", action)) == 0 {
			t.Errorf("%s is not told", action)
		}
	}
	// One row with the first, within a second, and the count of the others at the end of the minute: far fewer rows than refusals.
	for action, why := range map[string]string{"session.refused": `{"by":"password","why":"refused"}`, "access.refused": `{"route":"setLimit"}`} {
		found := awaited(t, h, "", action)
		if len(found) == 0 || len(found) > 4 || found[0].After != why || found[0].Address == "" {
			t.Errorf("%s: %d rows: %+v", action, len(found), found)
		}
	}
	if text := fmt.Sprintf("%+v", entries(t, h, "", "")); strings.Contains(text, "wrong-wrong") || strings.Contains(text, apptest.Password) {
		t.Error("a password stands in the trail")
	}
}
