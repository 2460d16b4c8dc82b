package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/app/apptest"
	"levee/internal/platform/contract"
	"levee/internal/platform/platformtest"
)

// Names of the checks on who may reach whose objects; object_level_authorization is schemathesis'.
const (
	objectLevel = "object_level_authorization"
	foreignData = "foreign_data"
)

// askers of the matrix, in this order: what the first of them changes, the next ones find changed.
var askers = []string{visitor, stranger, customer, operator, administrator}

// matrix says for each operation with an object in its path what visitor, stranger, owner, operator and administrator get. The owner is a
// customer. ok: the object is reached, whatever its state then allows; a number: this status. The stranger gets 404 for what he may not
// know of, 403 for what no customer may do.
var matrix = map[string]string{
	"getOrder":         "401 404 ok ok ok",
	"getOrderTimeline": "401 404 ok ok ok",
	"listPayments":     "401 404 ok ok ok",
	"startPayment":     "401 404 ok 404 404", // the buyer alone pays
	"cancelOrder":      "401 404 ok ok ok",
	"completeOrder":    "401 403 403 ok ok",
	"refundOrder":      "401 403 403 ok ok",
	"shipOrder":        "401 403 403 ok ok",
	"getPayment":       "401 404 ok ok ok",
	"refundPayment":    "401 403 403 ok ok",

	"getReservation":    "401 404 ok ok ok",
	"watchReservation":  "401 404 ok ok ok",
	"giveUpReservation": "401 404 ok 404 404", // the buyer's own act; operators void
	"voidReservation":   "401 403 403 ok ok",

	"getProduct":    "ok ok ok ok ok",
	"updateProduct": "401 403 403 ok ok",
	"createPicture": "401 403 403 ok ok",
	"createSKU":     "401 403 403 ok ok",
	"getPicture":    "ok ok ok ok ok",
	"deletePicture": "401 403 403 ok 404",
	"getSKU":        "ok ok ok ok ok",
	"updateSKU":     "401 403 403 ok ok",
	"listMovements": "401 403 403 ok ok",
	"adjustStock":   "401 403 403 ok ok",

	"getSale":            "ok ok ok ok ok",
	"watchSale":          "ok ok ok ok ok",
	"watchLine":          "ok ok ok ok ok",
	"watchSaleLine":      "ok ok ok ok ok",
	"getDraw":            "404 404 404 404 404", // the sale draws no lots
	"getDrawEntries":     "404 404 404 404 404",
	"getDrawResults":     "404 404 404 404 404",
	"changeSale":         "401 403 403 ok ok",
	"getAccount":         "401 403 403 ok ok",
	"listActs":           "401 403 403 ok ok",
	"actOnSale":          "401 403 403 ok ok",
	"listLedger":         "401 403 403 ok ok",
	"listSaleLine":       "401 403 403 ok ok",
	"getLive":            "401 403 403 ok ok",
	"watchLive":          "401 403 403 ok ok",
	"getReadiness":       "401 403 403 ok ok",
	"exportReservations": "401 403 403 ok ok",
	"duplicateSale":      "401 403 403 ok ok",
	"reconcileSale":      "401 403 403 ok ok",
	"rehearseSale":       "401 403 403 ok ok",
	"inventBuyers":       "401 403 403 ok ok",
	"buyInSale":          "401 403 403 403 403", // nobody without an admission of his own
	"admitBuyer":         "401 ok ok ok ok",
	"askChallenge":       "401 ok ok ok ok",
	"getMyAdmission":     "401 404 404 404 404", // nobody stands in line
	"leaveLine":          "401 404 404 404 404",
	"joinSaleLine":       "401 ok ok ok ok",
	"getMySaleEntry":     "401 404 404 404 404", // nobody stands in line
	"leaveSaleLine":      "401 404 404 404 404",

	"endSession":  "401 404 ok 404 404",
	"unlink":      "401 404 404 404 404", // one's own links alone, and this house has no third parties
	"getUser":     "401 403 403 403 ok",
	"disableUser": "401 403 403 403 ok",
	"enableUser":  "401 403 403 403 ok",
	"setPassword": "401 403 403 403 ok",
	"setRoles":    "401 403 403 403 ok",

	"createPasswordReset": "401 403 403 403 ok",
	"listUserSessions":    "401 403 403 403 ok",
	"endUserSessions":     "401 403 403 403 ok",
	"endUserSession":      "401 403 403 403 ok",
	"getUserPermissions":  "401 403 403 403 ok",
	"revokeMyToken":       "401 404 ok 404 404", // one's own; what an administrator wants to end, he disables
	"retireSigningKey":    "401 403 403 403 ok",
	"changeRole":          "401 403 403 403 ok",
	"removeRole":          "401 403 403 403 ok",
	"setGrants":           "401 403 403 403 ok",
	"grant":               "401 403 403 403 ok",
	"revoke":              "401 403 403 403 ok",
	"getLimit":            "401 403 403 403 ok",
	"resetFactors":        "401 403 403 403 ok",
	"removePasskey":       "401 404 404 404 404", // nobody has one

	"getWebhook":     "401 403 403 ok ok",
	"updateWebhook":  "401 403 403 ok ok",
	"deleteWebhook":  "401 403 403 ok 404",
	"listDeliveries": "401 403 403 ok ok",
	"pingWebhook":    "401 403 403 ok ok",
	"replayWebhook":  "401 403 403 ok ok",
	"rotateSecret":   "401 403 403 ok ok",
	"getDelivery":    "401 403 403 ok ok",
	"replayDelivery": "401 403 403 ok ok",

	"getJob":              "401 403 403 403 ok",
	"cancelJob":           "401 403 403 403 ok",
	"retryJob":            "401 403 403 403 404", // only what is dead can be tried again
	"pauseJobs":           "401 403 403 403 ok",
	"resumeJobs":          "401 403 403 403 ok",
	"setLimit":            "401 403 403 403 ok",
	"resetLimit":          "401 403 403 403 ok",
	"getSchedule":         "401 403 403 403 ok",
	"changeSchedule":      "401 403 403 403 ok",
	"removeSchedule":      "401 403 403 403 ok",
	"pauseSchedule":       "401 403 403 403 ok",
	"resumeSchedule":      "401 403 403 403 ok",
	"runSchedule":         "401 403 403 403 ok",
	"replayEvents":        "401 403 403 403 ok",
	"forgetEventListener": "401 403 403 403 ok",
	"discardParkedEvent":  "401 403 403 403 404", // nothing is parked in a house that is well
	"retryParkedEvent":    "401 403 403 403 404",

	"takeLock":    "401 401 401 401 401", // programs alone, by a secret of their own
	"renewLock":   "401 401 401 401 401",
	"releaseLock": "401 401 401 401 401",
	"explainId":   "401 401 401 401 401",

	"getFile":       "403 403 403 403 403", // who has the link; this one is not signed
	"putFile":       "403 403 403 403 403",
	"notifyPayment": "403 403 403 403 403", // providers alone, by their signature
}

// bodies of the matrix' requests: as small as the document allows.
var bodies = map[string]any{
	"startPayment": map[string]any{"provider": "test"}, "cancelOrder": map[string]any{"reason": "test"}, "refundOrder": map[string]any{"reason": "test"},
	"shipOrder": map[string]any{"carrier": "SF", "tracking": "1"}, "refundPayment": map[string]any{"reason": "test"}, "voidReservation": map[string]any{"reason": "test"},
	"updateProduct": map[string]any{"version": 1, "title": "Lamp 2"}, "createSKU": map[string]any{"code": "owner", "price": map[string]any{"amount": 1, "currency": "CNY"}},
	"updateSKU": map[string]any{"version": 1, "name": "Lamp 2"}, "adjustStock": map[string]any{"delta": 1}, "actOnSale": map[string]any{"act": "pause", "reason": "test"},
	"duplicateSale": map[string]any{"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-02T00:00:00Z"}, "rehearseSale": map[string]any{"starts_in_ms": 0, "lasts_seconds": 60},
	"inventBuyers": map[string]any{"buyers": 1}, "joinSaleLine": map[string]any{"quantity": 1}, "disableUser": map[string]any{"reason": "test"},
	"setPassword": map[string]any{"password": "another-quiet-night-77"}, "setRoles": map[string]any{"roles": []string{"customer"}},
	"updateWebhook": map[string]any{"description": "x"}, "replayWebhook": map[string]any{"from": "2026-01-01T00:00:00Z"}, "setLimit": map[string]any{"rate": "off"},
	"changeSchedule": map[string]any{"note": "x"}, "resumeSchedule": map[string]any{"from": "now"}, "replayEvents": map[string]any{},
	"retireSigningKey": map[string]any{}, "changeRole": map[string]any{"label": "x"}, "setGrants": map[string]any{"roles": []string{"administrator"}},
	"takeLock": map[string]any{"ttl_ms": 100}, "createPicture": onePicture,
	"changeSale": map[string]any{"title": "x", "sku": "sku_00000000000000000000000000", "price": map[string]any{"amount": 1, "currency": "CNY"}, "units": 1, "per_buyer": 1,
		"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-02T00:00:00Z"},
}

// stages makes a new object for the path of an operation, of the scene's customer where it has an owner. It returns the path's values, and
// the owner's token where that is another.
func (s *scene) stage(op *contract.Operation) (values map[string]string, owner string) {
	s.t.Helper()
	one := func(name, v string) map[string]string { return map[string]string{name: v} }
	s.mu.Lock()
	s.people++
	n := s.people
	s.mu.Unlock()
	start := strings.Split(strings.TrimPrefix(op.Path, "/v1/"), "/")[0]
	sku := func() string { return s.product(fmt.Sprintf("STAGE-%d", n)) }
	last := func(kind string) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.byKind[kind][len(s.byKind[kind])-1]
	}
	switch start {
	case "orders":
		return one("id", s.order(customer, sku())), ""
	case "payments":
		return one("id", text(s.do(customer, "POST", "/v1/orders/"+s.order(customer, sku())+"/payments", map[string]any{"provider": "test"}, 201)["id"])), ""
	case "reservations":
		return one("reservation", text(s.buy(customer, s.sale(sku(), nil))["reservation"])), ""
	case "sales":
		return one("sale", s.sale(sku(), nil)), ""
	case "products":
		sku()
		return one("id", last("prd")), ""
	case "skus":
		return one("id", sku()), ""
	case "pictures":
		sku()
		return one("id", s.picture()), ""
	case "me":
		switch op.ID {
		case "removePasskey": // which takes an authenticator to make
			return one("id", "psk_00000000000000000000000000"), ""
		case "unlink":
			return one("provider", "nobody"), ""
		}
		until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		return one("id", text(s.do(customer, "POST", "/v1/me/tokens", map[string]any{"name": fmt.Sprintf("owner-%d", n), "scopes": []string{"listOrders"}, "expires_at": until}, 201)["id"])), ""
	case "signing-keys":
		return one("kid", text(s.do(administrator, "POST", "/v1/signing-keys", map[string]any{}, 201)["kid"])), ""
	case "roles":
		name := fmt.Sprintf("owner-%d", n)
		s.do(administrator, "POST", "/v1/roles", map[string]any{"name": name}, 201)
		return one("role", name), ""
	case "resources":
		return map[string]string{"name": "pingWebhook", "role": "operator"}, "" // which nothing else of this test is about any more
	case "sessions":
		me := text(s.do(customer, "GET", "/v1/me", nil, 200)["name"])
		g := s.do(visitor, "POST", "/v1/sessions", map[string]any{"name": me, "password": apptest.Password}, 201)
		return one("id", text(g["session"].(map[string]any)["id"])), ""
	case "users":
		name := fmt.Sprintf("owner-%d", n)
		c := s.house.NewCustomer(s.t, name)
		s.mu.Lock()
		s.tokens["owner"] = c.Token
		s.mu.Unlock()
		sessions, _ := s.do("owner", "GET", "/v1/sessions", nil, 200)["items"].([]any)
		session := text(sessions[0].(map[string]any)["id"])
		return map[string]string{"id": text(s.do("owner", "GET", "/v1/me", nil, 200)["id"]), "session": session}, c.Token
	case "webhooks":
		return one("id", text(s.do(operator, "POST", "/v1/webhooks", map[string]any{"url": "https://hooks.example/o", "events": []string{"order.paid"}}, 201)["id"])), ""
	case "webhook-deliveries":
		hook := text(s.do(operator, "POST", "/v1/webhooks", map[string]any{"url": "https://hooks.example/o", "events": []string{"order.paid"}}, 201)["id"])
		return one("id", text(s.do(operator, "POST", "/v1/webhooks/"+hook+"/pings", nil, 201)["id"])), ""
	case "jobs":
		name := fmt.Sprintf("owner-%d", n)
		s.do(administrator, "POST", "/v1/schedules", map[string]any{"name": name, "kind": "identity.prune", "trigger": "cron 30 2 * * *"}, 201)
		// It must not be over before it is asked for: its kind is paused for the whole of the house.
		s.do(administrator, "PUT", "/v1/job-queue/pauses/kind/identity.prune", nil, 204)
		s.do(administrator, "POST", "/v1/schedules/"+name+"/runs", nil, 202)
		return one("id", s.newest("/v1/jobs?state=waiting&kind=identity.prune")), ""
	case "schedules":
		name := fmt.Sprintf("owner-%d", n)
		s.do(administrator, "POST", "/v1/schedules", map[string]any{"name": name, "kind": "identity.prune", "trigger": "cron 30 2 * * *"}, 201)
		if op.ID == "resumeSchedule" {
			s.do(administrator, "POST", "/v1/schedules/"+name+"/pause", nil, 200)
		}
		return one("name", name), ""
	case "limits":
		return one("name", "read"), ""
	case "event-listeners":
		return one("listener", "notify.paid"), ""
	case "parked-events":
		return map[string]string{"listener": "notify.paid", "event": "evt_00000000000000000000000000"}, ""
	case "job-queue":
		return map[string]string{"what": "kind", "name": "identity.prune"}, ""
	case "locks":
		return map[string]string{"name": "owner", "lease": "none"}, ""
	case "ids":
		return one("id", "12345"), ""
	case "files":
		return map[string]string{"use": "cover", "id": strings.Repeat("a", 26)}, ""
	case "payment-notifications":
		return one("provider", "test"), ""
	}
	s.t.Fatalf("the matrix cannot make what %s is about", op.Path)
	return nil, ""
}

func (s *scene) newest(lists ...string) string {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, list := range lists {
			items, _ := s.do(administrator, "GET", list, nil, 200)["items"].([]any)
			for _, i := range items {
				return text(i.(map[string]any)["id"])
			}
		}
	}
	s.t.Fatalf("%v are empty", lists)
	return ""
}

// matrixOf asks as everybody for a new object of an operation, and returns what is not as the row says.
func (c *campaign) matrixOf(op *contract.Operation, row string) (found []contract.Breach, got string) {
	breach := func(check, format string, args ...any) {
		found = append(found, contract.Breach{Check: check, Operation: op.ID, What: fmt.Sprintf(format, args...)})
	}
	want := strings.Fields(row)
	values, owner := c.stage(op)
	marks := c.marks()
	var all []string
	for i, who := range askers {
		r := request{op: op, actor: who, method: op.Method, path: values}
		if b := bodies[op.ID]; b != nil {
			r.hasBody, r.media, r.tree = true, "application/json", b
			if raw, ok := b.([]byte); ok {
				r.tree, r.raw, r.media = nil, raw, "image/png"
			}
		}
		for _, p := range op.Parameters {
			if p.Name == "Idempotency-Key" {
				r.headers = append(r.headers, pair{p.Name, "matrix-" + who + "-" + op.ID})
			}
		}
		token := c.token(who)
		if who == customer && owner != "" {
			token = owner
		}
		a, err := r.send(c.t.Context(), c.base, token)
		if err != nil {
			breach(contract.ServerError, "as %s: %v", who, err)
			continue
		}
		found = append(found, c.doc.Judge(a)...)
		said := fmt.Sprint(a.Status)
		if !slices.Contains([]int{401, 403, 404}, a.Status) && a.Status < 500 {
			said = "ok"
		}
		all = append(all, said)
		if i < len(want) && said != want[i] {
			breach(objectLevel, "%s got %d, the matrix says %s: %.200s", who, a.Status, want[i], a.Body)
		}
		if who == visitor || who == stranger {
			for what, mark := range marks {
				if strings.Contains(string(a.Body), mark) {
					breach(foreignData, "the answer to a %s shows the owner's %s: %.300s", who, what, a.Body)
				}
			}
		}
	}
	return found, strings.Join(all, " ")
}

// marks are what only the owner and the house's people may read.
func (c *campaign) marks() map[string]string {
	me := c.do(customer, "GET", "/v1/me", nil, 200)
	m := map[string]string{"id": text(me["id"]), "name": text(me["name"])}
	for _, i := range c.do(customer, "GET", "/v1/orders?limit=100", nil, 200)["items"].([]any) {
		id := text(i.(map[string]any)["id"])
		m["order "+id] = id
	}
	return m
}

// TestOwners tries every operation on an object as everybody, with the object of one customer.
func TestOwners(t *testing.T) {
	c := newCampaign(open(t), 1)
	rows := 0
	for _, op := range c.doc.Operations {
		row, known := matrix[op.ID]
		if strings.HasPrefix(op.Path, "/v1/files/") && platformtest.Distributed() {
			row = "404 404 404 404 404" // files lie in a store that gives and checks its own links
		}
		switch objects := strings.Contains(op.Path, "{"); {
		case objects && !known:
			_, got := c.matrixOf(op, "")
			t.Errorf("%s %s has no row in the matrix; today it would be %q: %q", op.Method, op.Path, op.ID, got)
		case objects:
			rows++
			found, got := c.matrixOf(op, row)
			if alone[op.ID] {
				c.restoreGrants()
			}
			for _, b := range found {
				t.Error(b)
			}
			if got != row {
				t.Errorf("row %q: %q is today %q", op.ID, row, got)
			}
		}
	}
	if rows != len(matrix) {
		t.Errorf("the matrix has %d rows, %d of them are operations", len(matrix), rows)
	}
	// The same question about lists: nobody's list has the orders of somebody else.
	marks := c.marks()
	for _, op := range c.doc.Operations {
		if op.Method != "GET" || strings.Contains(op.Path, "{") {
			continue
		}
		for _, who := range []string{visitor, stranger} {
			a, err := (request{op: op, actor: who, method: "GET"}).send(t.Context(), c.base, c.token(who))
			if err != nil {
				t.Fatal(err)
			}
			for what, mark := range marks {
				if strings.Contains(string(a.Body), mark) {
					t.Errorf("%s: %s: the list shows a %s another's %s: %.300s", foreignData, op.ID, who, what, a.Body)
				}
			}
		}
	}
}
