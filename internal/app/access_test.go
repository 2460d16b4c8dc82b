package app_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/obs"
	"levee/internal/platform/permit"
)

// withRoles signs in somebody who has exactly these roles.
func withRoles(t *testing.T, h *apptest.House, name string, roles levee.Roles) (c *apptest.Client, id levee.UserID) {
	t.Helper()
	u, err := h.App.Rooms.Identity.Create(levee.WithActor(t.Context(), levee.System),
		identity.NewUser{Name: name, Password: obs.Secret(apptest.Password), Roles: roles}, identity.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	return h.SignIn(t, name), u.ID
}

var pathParameter = regexp.MustCompile(`\{[^}]*\}`)

// judged asks for an operation and returns the status and, of a refusal, the text; it does not wait for the end of a stream.
func judged(t *testing.T, h *apptest.House, token, method, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var body io.Reader
	if method != "GET" {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, h.Base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", fmt.Sprintf("judged-%d", time.Now().UnixNano()))
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 {
		return resp.StatusCode, ""
	}
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

type resourceSeen struct {
	Name, Category, Kind, Method, Route, Others string
	Open, Gone                                  bool
	Roles                                       []string
	Default                                     []string `json:"default_roles"`
}

func resources(c *apptest.Client) []resourceSeen {
	var list struct{ Items []resourceSeen }
	c.Do("GET", "/v1/resources", nil).Want(200).Into(&list)
	return list.Items
}

// Every operation of the house has a permission, and for every role each of them is answered as the table of permissions says: before anything
// was changed, when it is what the code says, and after.
func TestPermissionsOfEveryRoute(t *testing.T) {
	h := apptest.Start(t)
	boss := administrator(t, h)
	listed := map[string]resourceSeen{}
	for _, r := range resources(boss) {
		if listed[r.Name] = r; r.Gone || !slices.Contains(permit.Categories, r.Category) || fmt.Sprint(r.Roles) != fmt.Sprint(r.Default) {
			t.Errorf("at the start: %+v", r)
		}
	}
	routes := h.App.Web.Routes()
	if len(routes) < 120 || len(routes)+len(levee.AllAbilities()) != len(listed) {
		t.Fatalf("%d routes and %d abilities, but %d resources", len(routes), len(levee.AllAbilities()), len(listed))
	}
	for _, line := range routes { // "POST /v1/orders createOrder customer,operator": what the code says
		f := strings.Fields(line)
		if r := listed[f[2]]; r.Method != f[0] || r.Route != f[1] || r.Open != (f[3] == "anybody") || (!r.Open && strings.Join(r.Roles, ",") != f[3]) {
			t.Errorf("%s: %+v", line, r)
		}
	}

	type somebody struct{ role, token string }
	people := []somebody{{"", ""}}
	for i, role := range levee.ReadyRoles.Names() {
		c, _ := withRoles(t, h, "only-"+strings.ReplaceAll(role, "_", "-"), 1<<i)
		people = append(people, somebody{role, c.Token})
	}
	boss.Do("POST", "/v1/roles", map[string]any{"name": "packer", "label": "打包员"}).Want(201)
	packers, ok := h.App.Rooms.Access.Permits.Role("packer")
	if !ok {
		t.Fatal("the role that was made is not there")
	}
	packer, _ := withRoles(t, h, "packer", packers)
	people = append(people, somebody{"packer", packer.Token})

	walk := func(what string) (allowed, refused int) {
		all := resources(boss)
		for _, r := range all {
			if r.Kind != "operation" {
				continue
			}
			path := pathParameter.ReplaceAllString(r.Route, "x")
			asVisitor := 0
			for _, p := range people {
				status, text := judged(t, h, p.token, r.Method, path)
				barred := status == http.StatusForbidden && strings.Contains(text, "this is for ")
				switch {
				case r.Open && p.role == "":
					asVisitor = status
				case r.Open && status != asVisitor && !(r.Name == "createUser" && status == 422):
					t.Errorf("%s: %s is for anybody, but %q gets %d and a visitor %d", what, r.Name, p.role, status, asVisitor)
				case r.Open:
				case p.role == "":
					if status != http.StatusUnauthorized {
						t.Errorf("%s: %s answers a visitor %d", what, r.Name, status)
					}
				case slices.Contains(r.Roles, p.role):
					if allowed++; barred || status == http.StatusUnauthorized {
						t.Errorf("%s: %s refuses %s, who may: %d %s", what, r.Name, p.role, status, text)
					}
				default:
					if refused++; !barred {
						t.Errorf("%s: %s lets %s in, who may not: %d %s", what, r.Name, p.role, status, text)
					}
				}
			}
		}
		return allowed, refused
	}
	if allowed, refused := walk("as it comes"); allowed < 200 || refused < 200 {
		t.Fatalf("allowed %d, refused %d: the matrix is too empty to find a fault", allowed, refused)
	}
	n := 0
	for _, r := range resources(boss) {
		if r.Open {
			continue
		}
		if n++; n%3 == 0 {
			boss.Do("PUT", "/v1/resources/"+r.Name+"/roles/packer", nil).Want(200).Contains(`"packer"`)
		}
		if n%4 == 0 {
			boss.Do("PUT", "/v1/resources/"+r.Name+"/roles", map[string]any{"roles": []string{"administrator", "product_administrator"}}).Want(200)
		}
	}
	if allowed, refused := walk("after changes"); allowed < 150 || refused < 200 {
		t.Fatalf("allowed %d, refused %d: the matrix is too empty to find a fault", allowed, refused)
	}
	var me struct{ Permissions []string }
	packer.Do("GET", "/v1/sessions", nil)
	for _, r := range resources(boss) {
		if r.Name == "getMe" && !slices.Contains(r.Roles, "packer") {
			boss.Do("PUT", "/v1/resources/getMe/roles/packer", nil).Want(200)
		}
	}
	packer.Do("GET", "/v1/me", nil).Want(200).Into(&me)
	var want []string
	for _, r := range resources(boss) {
		if slices.Contains(r.Roles, "packer") {
			want = append(want, r.Name)
		}
	}
	slices.Sort(want)
	if fmt.Sprint(me.Permissions) != fmt.Sprint(want) {
		t.Errorf("one is told %v, the table has %v", me.Permissions, want)
	}
}

// The rules of things that belong to somebody. Each route with an id has a row; a route without one fails.
func TestObjectRules(t *testing.T) {
	const (
		nobodys = "nobody's" // the thing belongs to the house: the permission alone counts
		own     = "own"      // the id is one of the asker's own things, or stands beside "mine": others have no way to it
		order   = "order"
		payment = "payment"
		place   = "reservation"
		account = "account"
	)
	rows := map[string]string{}
	for kind, names := range map[string]string{
		nobodys: `forgetEventListener resumeJobs resetLimit releaseLock discardParkedEvent deletePicture removeSchedule deleteWebhook getFile explainId getJob
			getPicture getProduct getSale getAccount listActs watchLine getDraw getDrawEntries getDrawResults watchSale listLedger listSaleLine
			watchSaleLine getLive watchLive getReadiness exportReservations getSchedule getSKU listMovements getDelivery getWebhook listDeliveries
			updateProduct changeSchedule updateSKU updateWebhook replayEvents cancelJob retryJob takeLock renewLock retryParkedEvent notifyPayment
			createPicture createSKU actOnSale duplicateSale reconcileSale inventBuyers rehearseSale pauseSchedule resumeSchedule runSchedule
			adjustStock replayDelivery pingWebhook replayWebhook rotateSecret putFile pauseJobs setLimit changeSale voidReservation
			changeRole removeRole setGrants grant revoke retireSigningKey getLimit`,
		own:     `endSession revokeMyToken removePasskey unlink leaveLine leaveSaleLine getMyAdmission getMySaleEntry admitBuyer askChallenge joinSaleLine buyInSale`,
		order:   `getOrder getOrderTimeline cancelOrder shipOrder completeOrder listPayments startPayment refundOrder`,
		payment: `getPayment refundPayment`,
		place:   `getReservation watchReservation giveUpReservation`,
		account: `getUser disableUser enableUser setRoles setPassword getUserPermissions listUserSessions endUserSessions endUserSession createPasswordReset resetFactors`,
	} {
		for name := range strings.FieldsSeq(names) {
			rows[name] = kind
		}
	}
	h := apptest.Start(t)
	boss := administrator(t, h)
	sku := makeProduct(h, "LAMP", 10)
	sale := makeSale(h, sku, 5, nil)
	var won ticket
	h.Customer.Do("POST", "/v1/sales/"+sale+"/purchases", nil, admit(h.Customer, sale)).Want(201).Into(&won)
	var attempt, mine struct{ ID string }
	h.Customer.Do("POST", "/v1/orders/"+won.Order+"/payments", map[string]any{"provider": "test"}).Want(201).Into(&attempt)
	h.NewCustomer(t, "subject").Do("GET", "/v1/me", nil).Want(200).Into(&mine)
	ids := map[string]string{order: won.Order, payment: attempt.ID, place: won.Reservation, account: mine.ID}

	// Everybody gets every operation, so that only the rules of objects are left to refuse.
	all := resources(boss)
	for _, r := range all {
		if r.Kind == "operation" && !r.Open {
			boss.Do("PUT", "/v1/resources/"+r.Name+"/roles", map[string]any{"roles": levee.ReadyRoles.Names()}).Want(200)
		}
	}
	people := []struct {
		who  string
		c    *apptest.Client
		role string
	}{{"visitor", h.Visitor, ""}, {"stranger", h.NewCustomer(t, "stranger"), "customer"}}
	for i, role := range levee.ReadyRoles.Names() {
		if role != "customer" && role != "administrator" {
			c, _ := withRoles(t, h, "only-"+strings.ReplaceAll(role, "_", "-"), 1<<i)
			people = append(people, struct {
				who  string
				c    *apptest.Client
				role string
			}{role, c, role})
		}
	}
	people = append(people, struct {
		who  string
		c    *apptest.Client
		role string
	}{"administrator", boss, "administrator"}, struct {
		who  string
		c    *apptest.Client
		role string
	}{"owner", h.Customer, "customer"})
	has := map[string][]string{}
	for _, r := range all {
		has[r.Name] = r.Roles
	}
	hides := []string{"startPayment", "giveUpReservation", // nobody pays or gives up for another
		"endUserSession"} // the account's id is no session's
	looked, others := 0, 0
	for _, r := range all {
		if r.Kind != "operation" || !strings.Contains(r.Route, "{") {
			continue
		}
		kind, ok := rows[r.Name]
		id, owned := ids[kind]
		switch {
		case !ok:
			t.Errorf("%s %s has no row: say whose thing it is about", r.Name, r.Route)
			continue
		case owned != (r.Others != ""):
			t.Errorf("%s is about %s, but its route names the ability %q", r.Name, kind, r.Others)
			continue
		case !owned:
			continue
		}
		for _, p := range people {
			looked++
			token := p.c.Token
			status, text := judged(t, h, token, r.Method, pathParameter.ReplaceAllString(r.Route, id))
			hidden := status == http.StatusNotFound || status == http.StatusForbidden
			switch {
			case p.who == "visitor":
				if status != http.StatusUnauthorized {
					t.Errorf("%s: a visitor gets %d %s", r.Name, status, text)
				}
			case p.who == "owner" && kind != account:
				if hidden && !slices.Contains([]string{"shipOrder", "completeOrder", "refundOrder", "refundPayment"}, r.Name) { // what sellers do to an order
					t.Errorf("%s: the owner gets %d %s", r.Name, status, text)
				}
			case p.who == "owner":
			case slices.Contains(has[r.Others], p.role):
				if others++; hidden && !slices.Contains(hides, r.Name) {
					t.Errorf("%s: %s has %s and gets %d %s", r.Name, p.who, r.Others, status, text)
				}
			default:
				if !hidden && status != http.StatusUnprocessableEntity { // a body that is wrong is told before the thing is looked for
					t.Errorf("%s: %s has no %s and gets %d %s", r.Name, p.who, r.Others, status, text)
				}
			}
		}
	}
	if looked < 100 || others < 20 {
		t.Errorf("%d looks, %d of them by somebody who reaches other people's: too few to find a fault", looked, others)
	}
	// The rule follows the table: who loses the ability loses the thing, at once.
	h.Operator.Do("GET", "/v1/orders/"+won.Order, nil).Want(200)
	boss.Do("DELETE", "/v1/resources/orders.of_others/roles/operator", nil).Want(200)
	h.Operator.Do("GET", "/v1/orders/"+won.Order, nil).WantError(404, levee.CodeNotFound)
	h.Customer.Do("GET", "/v1/orders/"+won.Order, nil).Want(200)
	boss.Do("PUT", "/v1/resources/orders.of_others/roles/customer", nil).Want(200)
	people[1].c.Do("GET", "/v1/orders/"+won.Order, nil).Want(200)
}

// Nobody gives more than he has, or takes hold of an account that may more than his.
func TestNobodyGivesMoreThanHeHas(t *testing.T) {
	h := apptest.Start(t)
	boss := administrator(t, h)
	var bossSelf, customer struct{ ID string }
	boss.Do("GET", "/v1/me", nil).Want(200).Into(&bossSelf)
	h.Customer.Do("GET", "/v1/me", nil).Want(200).Into(&customer)
	boss.Do("POST", "/v1/roles", map[string]any{"name": "warden"}).Want(201)
	for _, r := range []string{"listRoles", "createRole", "setGrants", "grant", "revoke", "importPolicy", "listUsers", "getUser", "setRoles", "setPassword", "disableUser",
		"accounts.of_others", "accounts.create"} {
		boss.Do("PUT", "/v1/resources/"+r+"/roles/warden", nil).Want(200)
	}
	bit, _ := h.App.Rooms.Access.Permits.Role("warden")
	warden, id := withRoles(t, h, "warden", levee.RoleCustomer|bit)
	self := h.App.Rooms.Access.Sealer.Seal(levee.KindUser, int64(id))

	warden.Do("PUT", "/v1/resources/setLimit/roles/warden", nil).WantError(403, levee.CodeForbidden)
	warden.Do("PUT", "/v1/resources/setLimit/roles", map[string]any{"roles": []string{"administrator", "warden"}}).WantError(403, levee.CodeForbidden)
	warden.Do("PUT", "/v1/users/"+self+"/roles", map[string]any{"roles": []string{"warden", "administrator"}}).WantError(403, levee.CodeForbidden)
	warden.Do("PUT", "/v1/users/"+customer.ID+"/roles", map[string]any{"roles": []string{"operator"}}).WantError(403, levee.CodeForbidden)
	warden.Do("PUT", "/v1/users/"+bossSelf.ID+"/password", map[string]any{"password": "quiet-takeover-77"}).WantError(403, levee.CodeForbidden)
	warden.Do("POST", "/v1/users/"+bossSelf.ID+"/disable", map[string]any{"reason": "coup"}).WantError(403, levee.CodeForbidden)
	warden.Do("POST", "/v1/users", map[string]any{"name": "puppet", "password": apptest.Password, "roles": []string{"administrator"}}).WantError(403, levee.CodeForbidden)
	for _, policy := range []string{"p, warden, /v1/limits/:name, PUT", "g, warden, administrator", "g, " + self + ", administrator", "g, customer, operator",
		"p, puppet, /v1/sales, GET\ng, puppet, administrator"} {
		warden.Do("POST", "/v1/access/policy-imports", map[string]any{"policy": policy, "dry_run": false}).WantError(403, levee.CodeForbidden)
	}
	// What he has he may give, and he may take away.
	warden.Do("PUT", "/v1/resources/getUser/roles/operator", nil).Want(200)
	warden.Do("DELETE", "/v1/resources/getUser/roles/operator", nil).Want(200)
	warden.Do("PUT", "/v1/users/"+customer.ID+"/roles", map[string]any{"roles": []string{"customer", "warden"}}).Want(200).Contains(`"warden"`)
	warden.Do("DELETE", "/v1/resources/setLimit/roles/administrator", nil).WantError(409, levee.CodeConflict)
	boss.Do("DELETE", "/v1/resources/setRoles/roles/administrator", nil).WantError(409, levee.CodeConflict)
	boss.Do("PUT", "/v1/resources/getTime/roles", map[string]any{"roles": []string{"administrator"}}).WantError(409, levee.CodeConflict)
	trail := string(boss.Do("GET", "/v1/audit?limit=100&action=access.granted", nil).Want(200).Body)
	if !strings.Contains(trail, `"resource":"getUser","roles":["administrator","operator","warden"]`) && !strings.Contains(trail, `"resource":"getUser","roles":["operator","administrator","warden"]`) {
		t.Error(trail)
	}
	if strings.Contains(trail, "setLimit") {
		t.Error("a refusal stands in the trail as if it had been done")
	}
}

// However many demote each other at once, somebody is left who can administrate.
func TestTheLastAdministrator(t *testing.T) {
	h := apptest.Start(t)
	boss := administrator(t, h)
	type admin struct {
		c  *apptest.Client
		id string
	}
	var all []admin
	for i := range 50 {
		c, id := withRoles(t, h, fmt.Sprintf("admin-%02d", i), levee.RoleAdministrator)
		all = append(all, admin{c, h.App.Rooms.Access.Sealer.Seal(levee.KindUser, int64(id))})
	}
	var me struct{ ID string }
	boss.Do("GET", "/v1/me", nil).Want(200).Into(&me)
	all[0].c.Do("POST", "/v1/users/"+me.ID+"/disable", map[string]any{"reason": "leaves"}).Want(200)
	var work sync.WaitGroup
	for i := range all {
		work.Go(func() { // each takes it from his neighbour, by one of the two ways
			next := all[(i+1)%len(all)]
			for {
				a := all[i].c.Do("PUT", "/v1/users/"+next.id+"/roles", map[string]any{"roles": []string{"customer"}})
				if i%2 == 0 {
					a = all[i].c.Do("POST", "/v1/users/"+next.id+"/disable", map[string]any{"reason": "neighbour"})
				}
				if a.Status != http.StatusServiceUnavailable && a.Status != http.StatusConflict {
					return // done, or he is an administrator no more
				}
				if a.Status == http.StatusConflict && !strings.Contains(string(a.Body), "at the same time") {
					return
				}
			}
		})
	}
	work.Wait()
	left := 0
	for _, a := range all {
		if s := a.c.Do("GET", "/v1/users?limit=1", nil).Status; s == http.StatusOK {
			left++
		} else if s != http.StatusForbidden && s != http.StatusUnauthorized {
			t.Error(s)
		}
	}
	if left == 0 || left == len(all) {
		t.Errorf("%d of %d administrators are left", left, len(all))
	}
	if needed, err := h.App.Rooms.Identity.SetupNeeded(t.Context()); err != nil || needed {
		t.Errorf("the house asks to be set up anew: %v, %v", needed, err)
	}
}

// Three nodes on one database: what is changed on one acts on the others soon, for tokens that they have seen already.
func TestPermissionsOnThreeNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	dir := t.TempDir()
	nodes := make([]*apptest.House, 3)
	for i := range nodes {
		nodes[i] = apptest.StartNode(t, dir)
	}
	boss := administrator(t, nodes[0])
	status := func(h *apptest.House, path string) int {
		return nodes[0].Operator.At(h.Base).Do("GET", path, nil).Status
	}
	all := func(path string, want int) {
		t.Helper()
		began := time.Now()
		for i, h := range nodes {
			for status(h, path) != want {
				if time.Since(began) > 30*time.Second {
					t.Fatalf("node %d still answers %d on %s, want %d", i, status(h, path), path, want)
				}
				time.Sleep(time.Millisecond)
			}
		}
		t.Logf("%s is %d on all nodes after %v", path, want, time.Since(began)) // how often a node looks is access's to test
	}
	all("/v1/limits", 403)
	boss.Do("POST", "/v1/roles", map[string]any{"name": "night-shift"}).Want(201)
	boss.Do("PUT", "/v1/resources/listLimits/roles/night-shift", nil).Want(200)
	var me struct{ ID string }
	nodes[0].Operator.Do("GET", "/v1/me", nil).Want(200).Into(&me)
	if status(nodes[1], "/v1/limits") != 403 {
		t.Error("the control: nobody has the role yet")
	}
	boss.Do("PUT", "/v1/users/"+me.ID+"/roles", map[string]any{"roles": []string{"operator", "night-shift"}}).Want(200)
	all("/v1/limits", 200)
	boss.Do("DELETE", "/v1/resources/listLimits/roles/night-shift", nil).Want(200)
	all("/v1/limits", 403)
	boss.At(nodes[2].Base).Do("PUT", "/v1/resources/listLimits/roles/operator", nil).Want(200)
	all("/v1/limits", 200)
	boss.At(nodes[1].Base).Do("DELETE", "/v1/roles/night-shift", nil).WantError(409, levee.CodeConflict)
}
