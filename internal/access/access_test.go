package access

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/permit"
	"levee/internal/platform/platformtest"
	"levee/internal/token"
	"levee/internal/trail"
)

// line is what the trail was told.
type line struct{ act, before, after string }

// town is a house whose nodes are in this process, on one database.
type town struct {
	*platformtest.Platform
	people *identity.Service
	boss   context.Context
	mu     sync.Mutex // guards below
	trail  []line
	fail   error // what the trail says
	bells  []func()
	deaf   bool // no ring arrives
	later  time.Duration
}

func newTown(t *testing.T) *town {
	h := &town{Platform: platformtest.New(t, trail.Schema(), token.Schema(), identity.Schema(), Schema())}
	clock := h.Obs.Clock
	h.Obs.Clock = func() time.Time {
		h.mu.Lock()
		defer h.mu.Unlock()
		return clock().Add(h.later)
	}
	told := trail.New(trail.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Key: platformtest.Key(4)})
	tokens := token.New(token.Deps{DB: h.DB, Sealer: h.Sealer, Obs: h.Obs, Seal: platformtest.Key(3), Key: ed25519.NewKeyFromSeed(platformtest.Key(2))})
	h.people = identity.New(identity.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Limits: h.Limits, Events: h.Events,
		Config: identity.Config{HashMemory: 8192, HashTime: 1}, Tokens: tokens, Trail: told})
	h.boss = levee.WithActor(t.Context(), levee.Actor{User: 7, Roles: levee.RoleAdministrator})
	return h
}

func (h *town) user(t *testing.T, name string, roles levee.Roles) identity.User {
	t.Helper()
	u, err := h.people.Create(levee.WithActor(t.Context(), levee.System), identity.NewUser{Name: name, Password: "vines over 9 walls", Roles: roles}, identity.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// operations are what the program of a test has.
func operations() []permit.Resource {
	const op, admin = levee.RoleOperator | levee.RoleAdministrator, levee.RoleAdministrator
	return []permit.Resource{
		permit.Operation("listOrders", "orders", "GET", "/v1/orders", "", levee.RoleCustomer|op, levee.NoAbility),
		permit.Operation("getOrder", "orders", "GET", "/v1/orders/{id}", "", levee.RoleCustomer|op, levee.OrdersOfOthers),
		permit.Operation("shipOrder", "orders", "POST", "/v1/orders/{id}/shipment", "", op, levee.OrdersOfOthers),
		permit.Operation("listProducts", "products", "GET", "/v1/products", "", 0, levee.NoAbility),
		permit.Operation("createProduct", "products", "POST", "/v1/products", "", op, levee.NoAbility),
		permit.Operation("exportProducts", "products", "GET", "/v1/products/export", "", op, levee.NoAbility),
		permit.Operation("listUsers", "administration", "GET", "/v1/users", "", admin, levee.NoAbility),
	}
}

// node starts a node whose program has these operations. follow says whether it has others beside it.
func (h *town) node(t *testing.T, follow bool, ops ...permit.Resource) *Service {
	t.Helper()
	table := permit.New()
	for _, o := range ops {
		table.Add(o)
	}
	d := Deps{DB: h.DB, Sealer: h.Sealer, Obs: h.Obs, Permits: table, Identity: h.people, Audit: h.audit}
	if follow {
		d.Bell = func(_ string, wake func()) func() {
			h.bells = append(h.bells, wake)
			return func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				for _, w := range h.bells {
					if !h.deaf {
						w()
					}
				}
			}
		}
	}
	s := New(d)
	if err := s.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (h *town) audit(_ context.Context, _ *db.Tx, act, _ string, before, after any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, _ := json.Marshal(before)
	a, _ := json.Marshal(after)
	if l := (line{act, string(b), string(a)}); h.fail == nil && !slices.Contains(h.trail, l) { // the database may run it twice
		h.trail = append(h.trail, l)
	}
	return h.fail
}

func (s *Service) may(t *testing.T, role, resource string) bool {
	t.Helper()
	r, ok := s.Permits.Role(role)
	_, i, there := s.Permits.Find(resource)
	if !ok || !there {
		t.Fatalf("role %s %v, resource %s %v", role, ok, resource, there)
	}
	return s.Permits.May(i, r)
}

func wantCode(t *testing.T, err error, want levee.Code) {
	t.Helper()
	if levee.CodeOf(err) != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestRolesAndGrants(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false, operations()...)
	_, err := s.CreateRole(h.boss, "packer", " 打包员 ")
	wantCode(t, err, "")
	for name, code := range map[string]levee.Code{"PACKER": levee.CodeConflict, "operator": levee.CodeConflict, "": levee.CodeInvalid, "_x": levee.CodeInvalid,
		"role_7": levee.CodeInvalid, "a b": levee.CodeInvalid, strings.Repeat("a", 41): levee.CodeInvalid, "a/b": levee.CodeInvalid} {
		_, err := s.CreateRole(h.boss, name, "")
		wantCode(t, err, code)
	}
	_, err = s.CreateRole(h.boss, "tall", strings.Repeat("字", 61))
	wantCode(t, err, levee.CodeInvalid)
	_, err = s.CreateRole(t.Context(), "ghost", "")
	wantCode(t, err, levee.CodeUnauthenticated)
	if s.may(t, "packer", "shipOrder") {
		t.Error("a new role may something")
	}
	r, err := s.Grant(h.boss, "shipOrder", "packer", true)
	wantCode(t, err, "")
	if !slices.Contains(r.Roles, "packer") || slices.Contains(r.DefaultRoles, "packer") || r.By != 7 || !s.may(t, "packer", "shipOrder") {
		t.Errorf("%+v", r)
	}
	_, err = s.Grant(h.boss, "shipOrder", "packer", true) // changes nothing that a trail is read for
	wantCode(t, err, "")
	_, err = s.Grant(h.boss, "orders.of_others", "packer", true)
	wantCode(t, err, "")
	bit, _ := s.Permits.Role("packer")
	if a := (levee.Actor{User: 9, Roles: bit, Abilities: s.Permits.Abilities(bit)}); !a.Reaches(1, levee.OrdersOfOthers) || a.May(levee.ProductsUnsold) {
		t.Error("the ability was not given")
	}
	_, err = s.Allow(h.boss, "shipOrder", []string{"administrator"})
	wantCode(t, err, "")
	if s.may(t, "packer", "shipOrder") || s.may(t, "operator", "shipOrder") || !s.may(t, "administrator", "shipOrder") {
		t.Error("others may still")
	}
	for _, c := range []struct {
		resource string
		roles    []string
		code     levee.Code
	}{{"shipOrder", nil, levee.CodeConflict}, {"shipOrder", []string{"packer"}, levee.CodeConflict}, {"shipOrder", []string{"administrator", "nobody"}, levee.CodeInvalid},
		{"teleport", []string{"administrator"}, levee.CodeNotFound}, {"listProducts", []string{"administrator"}, levee.CodeConflict}} {
		_, err := s.Allow(h.boss, c.resource, c.roles)
		wantCode(t, err, c.code)
	}
	_, err = s.Grant(h.boss, "shipOrder", "nobody", true)
	wantCode(t, err, levee.CodeNotFound)
	_, err = s.Grant(h.boss, "shipOrder", "administrator", false)
	wantCode(t, err, levee.CodeConflict)
	// An operator who may grant gives what he has, and nothing else.
	op := levee.WithActor(t.Context(), levee.Actor{User: 8, Roles: levee.RoleOperator})
	_, err = s.Grant(op, "listUsers", "packer", true)
	wantCode(t, err, levee.CodeForbidden)
	_, err = s.Grant(op, "createProduct", "packer", true)
	wantCode(t, err, "")
	_, err = s.LabelRole(h.boss, "packer", "Packer")
	wantCode(t, err, "")
	_, err = s.LabelRole(h.boss, "operator", "Boss")
	wantCode(t, err, levee.CodeConflict)

	u := h.user(t, "alice", levee.RoleCustomer)
	if _, err := h.people.SetRoles(levee.WithActor(t.Context(), levee.System), u.ID, levee.RoleCustomer|bit, identity.Origin{}); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("identity's own table does not know the role: %v", err) // its Permits are not the node's here
	}
	err = h.DB.Tx(levee.WithActor(t.Context(), levee.System), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := h.people.SetRolesTx(ctx, tx, u.ID, levee.RoleCustomer|bit, identity.Origin{})
		return err
	})
	wantCode(t, err, "")
	wantCode(t, s.RemoveRole(h.boss, "packer"), levee.CodeConflict)
	wantCode(t, s.RemoveRole(h.boss, "operator"), levee.CodeConflict)
	wantCode(t, s.RemoveRole(h.boss, "nobody"), levee.CodeNotFound)
	_, err = h.people.SetRoles(levee.WithActor(t.Context(), levee.System), u.ID, levee.RoleCustomer, identity.Origin{})
	wantCode(t, err, "")
	wantCode(t, s.RemoveRole(h.boss, "packer"), "")
	if _, ok := s.Permits.Role("packer"); ok {
		t.Error("the role is still there")
	}
	all, err := s.Resources(t.Context())
	if err != nil || len(all) != len(operations())+len(levee.AllAbilities()) {
		t.Fatalf("%d resources, %v", len(all), err)
	}
	want := []line{
		{"access.role_created", `null`, `{"role":"packer","label":"打包员"}`},
		{"access.granted", `{"resource":"shipOrder","roles":["operator","administrator","order_administrator"]}`, `{"resource":"shipOrder","roles":["operator","administrator","order_administrator","packer"]}`},
		{"access.granted", `{"resource":"orders.of_others","roles":["operator","administrator","order_administrator"]}`, `{"resource":"orders.of_others","roles":["operator","administrator","order_administrator","packer"]}`},
		{"access.granted", `{"resource":"shipOrder","roles":["operator","administrator","order_administrator","packer"]}`, `{"resource":"shipOrder","roles":["administrator"]}`},
		{"access.granted", `{"resource":"createProduct","roles":["operator","administrator","product_administrator"]}`, `{"resource":"createProduct","roles":["operator","administrator","product_administrator","packer"]}`},
		{"access.role_changed", `{"role":"packer","label":"打包员"}`, `{"role":"packer","label":"Packer"}`},
		{"access.role_removed", `{"role":"packer","label":"Packer"}`, `null`},
	}
	if fmt.Sprint(h.trail) != fmt.Sprint(want) {
		t.Errorf("trail\n%v, want\n%v", h.trail, want)
	}
	// What cannot be recorded is not done.
	h.fail = levee.E(levee.CodeUnavailable, "no ink")
	_, err = s.Grant(h.boss, "listUsers", "operator", true)
	wantCode(t, err, levee.CodeUnavailable)
	if s.may(t, "operator", "listUsers") {
		t.Error("done without a trace")
	}
}

// A removed role's place is not given to another before every node has forgotten who had it, nor while an account has it.
func TestPlacesOfRoles(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false, operations()...)
	for i := range permit.MaxRoles - 5 {
		if _, err := s.CreateRole(h.boss, fmt.Sprint("r", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	create := func(want levee.Code) {
		t.Helper()
		_, err := s.CreateRole(h.boss, "late", "")
		wantCode(t, err, want)
	}
	create(levee.CodeConflict)
	old, _ := s.Permits.Role("r3")
	_, err := s.Grant(h.boss, "listUsers", "r3", true)
	wantCode(t, err, "")
	u := h.user(t, "alice", levee.RoleCustomer)
	wantCode(t, s.RemoveRole(h.boss, "r3"), "")
	create(levee.CodeConflict) // a moment ago somebody had it
	later := func(d time.Duration) {
		h.mu.Lock()
		h.later += d
		h.mu.Unlock()
	}
	later(forgetAfter + time.Second)
	hold := func(roles levee.Roles) { // as who was made at the moment of the removal
		t.Helper()
		err := h.DB.Tx(levee.WithActor(t.Context(), levee.System), "test", func(ctx context.Context, tx *db.Tx) error {
			_, err := h.people.SetRolesTx(ctx, tx, u.ID, roles, identity.Origin{})
			return err
		})
		wantCode(t, err, "")
	}
	hold(levee.RoleCustomer | old)
	create(levee.CodeConflict)
	hold(levee.RoleCustomer)
	create("")
	if now, _ := s.Permits.Role("late"); now != old || s.may(t, "late", "listUsers") {
		t.Errorf("the place %v of %v, and it may list users: %v", now, old, s.may(t, "late", "listUsers"))
	}
}

// The table follows the program: what is new appears with the roles that the code names, what the code names anew follows, what an administrator
// changed stays, and what is gone is flagged and comes back as it was.
func TestTheProgramChanges(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false, operations()...)
	for _, g := range []struct {
		resource, role string
		allowed        bool
	}{{"shipOrder", "customer", true}, {"shipOrder", "operator", false}, {"exportProducts", "customer", true}} {
		_, err := s.Grant(h.boss, g.resource, g.role, g.allowed)
		wantCode(t, err, "")
	}
	var next []permit.Resource
	for _, o := range operations() {
		switch o.Name {
		case "exportProducts":
			continue
		case "shipOrder": // the code takes it from the order administrators and gives it to those of products
			o.Default = levee.RoleOperator | levee.RoleAdministrator | levee.RoleProductAdministrator
		case "listUsers":
			o.Default |= levee.RoleOperator
		}
		next = append(next, o)
	}
	next = append(next, permit.Operation("teleport", "orders", "POST", "/v1/teleports", "", levee.RoleOperator|levee.RoleAdministrator, levee.NoAbility))
	n := h.node(t, false, next...)
	got := map[string]Resource{}
	all, err := n.Resources(t.Context())
	wantCode(t, err, "")
	for _, r := range all {
		got[r.Name] = r
	}
	for name, want := range map[string]string{
		"shipOrder":      "[customer administrator product_administrator] gone false",
		"listUsers":      "[operator administrator] gone false",
		"teleport":       "[operator administrator order_administrator] gone false",
		"exportProducts": "[customer operator administrator product_administrator] gone true",
	} {
		if r := got[name]; fmt.Sprintf("%v gone %v", r.Roles, r.Gone) != want {
			t.Errorf("%s: %v gone %v, want %s", name, r.Roles, r.Gone, want)
		}
	}
	_, err = n.Grant(h.boss, "exportProducts", "operator", false)
	wantCode(t, err, levee.CodeNotFound)
	before, err := readVersion(t.Context(), h.DB)
	wantCode(t, err, "")
	h.node(t, false, next...) // nothing changed: nothing is written
	if after, err := readVersion(t.Context(), h.DB); err != nil || after != before {
		t.Errorf("version %d after %d, %v", after, before, err)
	}
	back := h.node(t, false, operations()...)
	if !back.may(t, "customer", "exportProducts") || !back.may(t, "customer", "shipOrder") || back.may(t, "operator", "shipOrder") {
		t.Error("what came back is not as it was")
	}
}

// Every node follows within a second: at once by the bell, and by itself when no ring arrives.
func TestNodesFollow(t *testing.T) {
	h := newTown(t)
	a, b, c := h.node(t, true, operations()...), h.node(t, true, operations()...), h.node(t, true, operations()...)
	if lookEvery > time.Second/2 { // how late a look is beside that is the machine's matter
		t.Errorf("a node looks every %v, want within a second with the time that a look takes", lookEvery)
	}
	alone := h.node(t, false, operations()...) // the control: a node that does not look knows nothing
	for i, deaf := range []bool{false, true, false, true} {
		h.mu.Lock()
		h.deaf = deaf
		h.mu.Unlock()
		began := time.Now()
		role := fmt.Sprint("r", i)
		if _, err := a.CreateRole(h.boss, role, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Grant(h.boss, "listUsers", role, true); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Service{a, b, c} {
			for {
				_, at, _ := s.Permits.Find("listUsers")
				if r, ok := s.Permits.Role(role); ok && s.Permits.May(at, r) {
					break
				}
				if time.Since(began) > 30*time.Second {
					t.Fatalf("deaf %v: a node never followed", deaf)
				}
				time.Sleep(time.Millisecond)
			}
		}
		t.Logf("deaf %v: the nodes followed after %v", deaf, time.Since(began))
	}
	if _, ok := alone.Permits.Role("r0"); ok {
		t.Error("a node that neither looks nor listens followed: this test could not find a fault")
	}
}

// Changes of many at once are all kept, and the last state on every node is the one in SQL.
func TestChangesAtOnce(t *testing.T) {
	h := newTown(t)
	a, b := h.node(t, true, operations()...), h.node(t, true, operations()...)
	var work sync.WaitGroup
	for i := range 16 {
		work.Go(func() {
			s := []*Service{a, b}[i%2]
			role := fmt.Sprint("r", i)
			if _, err := s.CreateRole(h.boss, role, ""); err != nil {
				t.Error(err)
			}
			if _, err := s.Grant(h.boss, "shipOrder", role, true); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	all, err := a.Resources(t.Context())
	wantCode(t, err, "")
	for _, r := range all {
		if r.Name == "shipOrder" && len(r.Roles) != 3+16 {
			t.Errorf("%d roles, want %d: %v", len(r.Roles), 3+16, r.Roles)
		}
	}
}

func TestExplain(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false, operations()...)
	alice := h.user(t, "alice", levee.RoleCustomer)
	both := h.user(t, "bob", levee.RoleCustomer|levee.RoleOrderAdministrator)
	gone := h.user(t, "carol", levee.RoleOperator)
	if _, err := h.people.Disable(levee.WithActor(t.Context(), levee.System), gone.ID, "left", identity.Origin{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user     levee.UserID
		resource string
		want     string // allowed, missing, roles, others, who would do
	}{
		{0, "listProducts", "true  [] false [] []"},
		{0, "listOrders", "false account [] false [] [customer operator administrator product_administrator order_administrator]"},
		{alice.ID, "listUsers", "false role [{customer false}] false [] [administrator]"},
		{alice.ID, "getOrder", "true  [{customer true}] false [operator administrator order_administrator] [customer operator administrator product_administrator order_administrator]"},
		{both.ID, "shipOrder", "true  [{customer false} {order_administrator true}] true [operator administrator order_administrator] [operator administrator order_administrator]"},
		{gone.ID, "listOrders", "false enabled [{operator true}] false [] [customer operator administrator product_administrator order_administrator]"},
		{gone.ID, "shipOrder", "false enabled [{operator true}] false [operator administrator order_administrator] [operator administrator order_administrator]"},
	} {
		e, err := s.Explain(h.boss, c.user, c.resource)
		if got := fmt.Sprint(e.Allowed, " ", e.Missing, " ", e.Roles, " ", e.Others, " ", e.OthersBy, " ", e.Enough); err != nil || got != c.want {
			t.Errorf("%d, %s: %s, %v, want %s", c.user, c.resource, got, err, c.want)
		}
	}
	_, err := s.Explain(h.boss, alice.ID, "teleport")
	wantCode(t, err, levee.CodeNotFound)
	_, err = s.Explain(h.boss, 12345, "getOrder")
	wantCode(t, err, levee.CodeNotFound)
	_, err = s.Explain(levee.WithActor(t.Context(), levee.Actor{User: both.ID, Roles: both.Roles}), alice.ID, "getOrder")
	wantCode(t, err, levee.CodeNotFound) // he does not reach other people's accounts
	_, names, err := s.Permissions(h.boss, both.ID)
	if fmt.Sprint(names, err) != "[getOrder listOrders lists.export orders.of_others shipOrder] <nil>" {
		t.Error(names, err)
	}
	if _, names, err = s.Permissions(h.boss, gone.ID); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
}

// keyMatch2's own table (casbin, util/builtin_operators_test.go), as far as its patterns are ones that are taken; a path stands for a route
// without parameters.
func TestPathsAreReadAsCasbinDoes(t *testing.T) {
	for _, c := range []struct {
		path, pattern string
		want          bool
	}{
		{"/foo", "/foo", true}, {"/foo", "/foo/*", false}, {"/foo/bar", "/foo", false}, {"/foo/bar", "/foo/*", true},
		{"/", "/:resource", false}, {"/resource1", "/:resource", true}, {"/myid", "/:id/using/:resId", false},
		{"/myid/using/myresid", "/:id/using/:resId", true}, {"/proxy/myid", "/proxy/:id/*", false}, {"/proxy/myid/", "/proxy/:id/*", true},
		{"/proxy/myid/res", "/proxy/:id/*", true}, {"/proxy/myid/res/res2", "/proxy/:id/*", true}, {"/proxy/", "/proxy/:id/*", false},
		{"/alice", "/:id", true}, {"/alice/all", "/:id/all", true}, {"/alice", "/:id/all", false}, {"/alice/all", "/:id", false},
		{"/alice/all", "/:/all", false}, {"/a.b", "/aXb", false}, {"/aXb", "/a.b", false}, {"/x/y", "*", true},
	} {
		re, err := pathPattern(c.pattern)
		if got := err == nil && re.MatchString(c.path); got != c.want {
			t.Errorf("%s by %s: %v, %v", c.path, c.pattern, got, err)
		}
	}
}

func TestImportPolicy(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false, operations()...)
	alice := h.user(t, "Alice", levee.RoleCustomer)
	bob := h.user(t, "bob", levee.RoleCustomer)
	bobID := h.Sealer.Seal(levee.KindUser, int64(bob.ID))
	policy := strings.Join([]string{
		"# a shop's policy", "",
		"p, packer, /v1/orders/:id/*, POST",
		"p, packer, /v1/orders/:id, (GET)|(POST), allow",
		"p, reader, /v1/*, GET",
		"p, operator, /v1/products, *",
		"g, foreman, packer", "g, boss_of_packers, foreman", "g, foreman, boss_of_packers", // a ring
		"g, alice, packer", "g, ALICE, packer", "g, alice, reader", "g, " + bobID + ", boss_of_packers",
	}, "\r\n")
	p, err := s.ImportPolicy(h.boss, policy, true, identity.Origin{})
	if err != nil || p.FaultCount != 0 {
		t.Fatalf("%+v, %v", p.Faults, err)
	}
	wantGrants := "[{boss_of_packers getOrder} {boss_of_packers shipOrder} {foreman getOrder} {foreman shipOrder} {packer getOrder} {packer shipOrder}" +
		" {reader exportProducts} {reader getOrder} {reader listOrders} {reader listUsers}]"
	if got := fmt.Sprint(p.Grants); got != wantGrants || fmt.Sprint(p.Roles) != "[boss_of_packers foreman packer reader]" || p.Known != 1 || len(p.Given) != 3 {
		t.Errorf("grants %s\nwant   %s\nroles %v, known %d, given %v", got, wantGrants, p.Roles, p.Known, p.Given)
	}
	if _, ok := s.Permits.Role("packer"); ok || len(h.trail) != 0 {
		t.Error("a dry run changed something")
	}
	if all, err := s.Roles(t.Context()); err != nil || len(all) != 5 {
		t.Errorf("%d roles after a dry run, %v", len(all), err)
	}
	if p, err = s.ImportPolicy(h.boss, policy, false, identity.Origin{}); err != nil || p.FaultCount != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if !s.may(t, "packer", "shipOrder") || !s.may(t, "boss_of_packers", "shipOrder") || s.may(t, "packer", "listOrders") || !s.may(t, "reader", "listUsers") || s.may(t, "reader", "shipOrder") {
		t.Error("the grants are not those of the policy")
	}
	role := func(names ...string) (set levee.Roles) {
		for _, n := range names {
			r, _ := s.Permits.Role(n)
			set |= r
		}
		return set
	}
	for id, want := range map[levee.UserID]levee.Roles{alice.ID: role("customer", "packer", "reader"), bob.ID: role("customer", "boss_of_packers")} {
		if u, err := h.people.ByID(h.boss, id); err != nil || u.Roles != want {
			t.Errorf("%s has %v, want %v, %v", u.Name, s.Permits.Names(u.Roles), s.Permits.Names(want), err)
		}
	}
	p, err = s.ImportPolicy(h.boss, policy, false, identity.Origin{}) // again: nothing is left to do
	if err != nil || len(p.Roles)+len(p.Grants)+len(p.Given) != 0 || p.Known != 11 {
		t.Errorf("%+v, %v", p, err)
	}
	faulty := []struct{ line, says string }{
		{"p, packer, /v1/orders", "must be p, role, path, method"}, {"p2, packer, /v1/orders, GET", "must be p"}, {`p, "packer, /v1/orders, GET`, "comma-separated"},
		{"p, pack er, /v1/orders, GET", "name must be"}, {"p, packer, /v1/orders, GET, deny", "nothing to deny"}, {"p, packer, orders, GET", "slash"},
		{"p, packer, /v1/ord*, GET", "each piece"}, {"p, packer, /v1/(a|b), GET", "each piece"}, {"p, packer, /v1/orders, read", "method must be one of"},
		{"p, packer, /v1/orders/7, GET", "no operation is"}, {"p, packer, /api/orders, GET", "no operation is"}, {"g, mallory, packer", "no account and no role"},
		{"g, alice, nobody", "there is no role nobody"}, {"g, alice, packer, domain", "must be p"},
	}
	var text []string
	for _, f := range faulty {
		text = append(text, f.line)
	}
	text = append(text, "p, newcomer, /v1/orders, GET")
	p, err = s.ImportPolicy(h.boss, strings.Join(text, "\n"), false, identity.Origin{})
	if err != nil || p.FaultCount != len(faulty) || len(p.Faults) != len(faulty) {
		t.Fatalf("%d faults, %v", p.FaultCount, err)
	}
	slices.SortStableFunc(p.Faults, func(a, b Fault) int { return a.Line - b.Line })
	for i, f := range faulty {
		if p.Faults[i].Line != i+1 || !strings.Contains(p.Faults[i].Message, f.says) {
			t.Errorf("%s: line %d, %s", f.line, p.Faults[i].Line, p.Faults[i].Message)
		}
	}
	if _, ok := s.Permits.Role("newcomer"); ok {
		t.Error("a policy with faults was carried out in part")
	}
	// A refusal in the middle undoes the whole.
	op := levee.WithActor(t.Context(), levee.Actor{User: 8, Roles: levee.RoleOperator})
	_, err = s.ImportPolicy(op, "p, newcomer, /v1/orders, GET\np, newcomer, /v1/users, GET", false, identity.Origin{})
	wantCode(t, err, levee.CodeForbidden)
	if all, err := s.Roles(t.Context()); err != nil || len(all) != 9 {
		t.Errorf("%d roles, %v", len(all), err)
	}
	_, err = s.ImportPolicy(h.boss, strings.Repeat("#\n", maxPolicyLines), true, identity.Origin{})
	wantCode(t, err, levee.CodeInvalid)
	_, err = s.ImportPolicy(h.boss, strings.Repeat("#", MaxPolicyBytes+1), true, identity.Origin{})
	wantCode(t, err, levee.CodeTooLarge)
	var many []string
	for i := range permit.MaxRoles {
		many = append(many, fmt.Sprintf("p, m%d, /v1/orders, GET", i))
	}
	p, err = s.ImportPolicy(h.boss, strings.Join(many, "\n"), true, identity.Origin{})
	if err != nil || p.FaultCount != 1 || p.Faults[0].Line != 0 {
		t.Errorf("%+v, %v", p.Faults, err)
	}
	var e *levee.Error
	if _, err := s.ImportPolicy(t.Context(), "", true, identity.Origin{}); !errors.As(err, &e) || e.Code != levee.CodeUnauthenticated {
		t.Error(err)
	}
}
