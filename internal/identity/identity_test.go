package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/platformtest"
	"levee/internal/token"
	"levee/internal/trail"
)

// house is the little of the platform that this room stands on.
type house struct {
	*Service
	t      testing.TB
	clock  *obs.StepClock
	deps   Deps
	admin  context.Context // of an administrator
	origin Origin
}

// someKey makes the same key for the same name.
func someKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// cheap keeps password hashing from taking most of a test's time.
var cheap = Config{HashMemory: 8_192, HashTime: 1}

func newHouse(t testing.TB, cfg Config, rates map[string]string) *house {
	t.Helper()
	return newHouseOn(t, obs.Test(t), cfg, rates)
}

func newHouseOn(t testing.TB, o *obs.Obs, cfg Config, rates map[string]string) *house {
	t.Helper()
	ctx := context.Background()
	clock := &obs.StepClock{}
	o.Clock = clock.Now
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	d := platformtest.DB(t, dir, o, event.Schema(), once.Schema(), trail.Schema(), token.Schema(), Schema())
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	must(err)
	t.Cleanup(func() { must(ids.Close()) })
	sealKey := sha256.Sum256([]byte("seal"))
	sealer, err := id.NewSealer(sealKey[:])
	must(err)
	limits, err := limit.Open(limit.Config{Rates: rates}, o)
	must(err)
	h := &house{t: t, clock: clock, origin: Origin{Address: netip.MustParseAddr("192.0.2.7"), Agent: "test", RequestID: "req-1"},
		deps: Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Limits: limits, Events: event.Open(d, ids, o), Config: cfg,
			Trail: trail.New(trail.Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Key: sealKey[:]}), PublicURL: "https://shop.test"}}
	h.restart()
	must(h.EnsureAdministrator(ctx, "head", "gate-keeper-91"))
	row, err := readUserByLogin(ctx, d.QueryRow, "head", "")
	must(err)
	h.admin = levee.WithActor(ctx, levee.Actor{User: row.ID, Roles: row.Roles})
	return h
}

// restart gives the house a new Service over the same database, as after a restart of the process.
func (h *house) restart() { h.Service = h.process() }

// process makes the house once more over the same database, as another process would.
func (h *house) process() *Service {
	h.t.Helper()
	seal := sha256.Sum256([]byte("at rest"))
	h.deps.Tokens = token.New(token.Deps{DB: h.deps.DB, Sealer: h.deps.Sealer, Obs: h.deps.Obs, Config: token.Config{Algorithm: "EdDSA"}, Seal: seal[:],
		Key: someKey("key"), Shared: h.deps.Shared, Audit: func(context.Context, *db.Tx, string, string, any, any) error { return nil }})
	s := New(h.deps)
	s.scopeFault = func(word string, _ levee.Roles) string { // Routes sets the real one
		if word == "unknown" {
			return "known"
		}
		return ""
	}
	if err := s.Warm(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	return s
}

const goodPassword = obs.Secret("vines over 9 walls")

func (h *house) signUp(name string) User {
	h.t.Helper()
	u, err := h.SignUp(context.Background(), NewUser{Name: name, Password: goodPassword}, Origin{})
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

func (h *house) signIn(name string, kind SessionKind) Grant {
	h.t.Helper()
	g, err := h.SignIn(context.Background(), SignIn{Name: name, Password: goodPassword, Kind: kind}, h.origin)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

// as returns a context in which the token's owner acts.
func (h *house) as(g Grant) context.Context {
	h.t.Helper()
	a, err := h.authenticate(g)
	if err != nil {
		h.t.Fatal(err)
	}
	return levee.WithActor(context.Background(), a)
}

func (h *house) authenticate(g Grant) (levee.Actor, error) {
	if g.Cookie != "" {
		return h.AuthenticateCookie(context.Background(), g.Cookie.Reveal())
	}
	return h.AuthenticateToken(g.AccessToken.Reveal())
}

// wantCode fails unless err has the code; "" means no error.
func (h *house) wantCode(err error, code levee.Code) {
	h.t.Helper()
	if got := levee.CodeOf(err); got != code {
		h.t.Fatalf("got code %q (%v), want %q", got, err, code)
	}
}

// audited returns how many entries of an action there are.
func (h *house) audited(action string) int {
	h.t.Helper()
	list, _, err := h.trail.List(h.admin, trail.Filter{Action: action, Page: levee.Page{Limit: 100}})
	if err != nil {
		h.t.Fatal(err)
	}
	return len(list)
}

// parallel runs f n times at once and waits.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func TestConfigBounds(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Fatalf("the zero config must be good: %v", err)
	}
	for field, c := range map[string]Config{
		"identity.access_ttl":        {AccessTTL: time.Second},
		"identity.refresh_grace":     {RefreshGrace: time.Hour},
		"identity.session_ttl":       {SessionTTL: time.Minute},
		"identity.session_idle":      {SessionTTL: time.Hour, SessionIdle: 2 * time.Hour},
		"identity.sessions_per_user": {SessionsPerUser: -1},
		"identity.token_cache":       {TokenCache: 10},
		"identity.hash_memory":       {HashMemory: 1},
		"identity.hash_time":         {HashTime: 99},
		"identity.hashes_at_once":    {HashesAtOnce: 1000},
		"identity.hash_queue":        {HashQueue: -5},
		"identity.phone_country":     {PhoneCountry: "+86"},
	} {
		err := c.Validate()
		var e *levee.Error
		if !asError(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestSignUpRules(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_up": "off"})
	h.signUp("Ada.Lovelace")
	if _, err := h.SignUp(context.Background(), NewUser{Phone: "138 0013 8000", Password: goodPassword}, Origin{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		in    NewUser
		code  levee.Code
		field string
	}{
		{"nothing", NewUser{Password: goodPassword}, levee.CodeInvalid, "name"},
		{"name in other case is taken", NewUser{Name: "ADA.lovelace", Password: goodPassword}, levee.CodeConflict, "name"},
		{"phone in other spelling is taken", NewUser{Phone: "0086-13800138000", Password: goodPassword}, levee.CodeConflict, "phone"},
		{"short name", NewUser{Name: "a", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"name like a number", NewUser{Name: "13800138000", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"name with markup", NewUser{Name: "a<script>", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"name with a line break", NewUser{Name: "ada\nroot", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"name in two scripts", NewUser{Name: "аdmin", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"name in full width", NewUser{Name: "ａｄｍｉｎ", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"reserved", NewUser{Name: "Administrator", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"not UTF-8", NewUser{Name: "ab\xff", Password: goodPassword}, levee.CodeInvalid, "name"},
		{"bad phone", NewUser{Phone: "call me", Password: goodPassword}, levee.CodeInvalid, "phone"},
		{"short password", NewUser{Name: "grace", Password: "7 chars"}, levee.CodeInvalid, "password"},
		{"long password", NewUser{Name: "grace", Password: obs.Secret(fmt.Sprintf("%0129d", 7))}, levee.CodeInvalid, "password"},
		{"password is the name", NewUser{Name: "grace.hopper", Password: "Grace.Hopper"}, levee.CodeInvalid, "password"},
		{"password is the phone", NewUser{Phone: "+8613900139000", Password: "8613900139000"}, levee.CodeInvalid, "password"},
		{"roles", NewUser{Name: "grace", Password: goodPassword, Roles: levee.RoleAdministrator}, levee.CodeForbidden, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := h.SignUp(context.Background(), c.in, Origin{})
			var e *levee.Error
			if !asError(err, &e) || e.Code != c.code {
				t.Fatalf("got %v, want %s", err, c.code)
			}
			if c.field != "" && (len(e.Fields) != 1 || e.Fields[0].Field != c.field) {
				t.Fatalf("got fields %v, want %s", e.Fields, c.field)
			}
		})
	}
	for _, name := range []string{"李雷", "han-meimei_2", "Łukasz", "Иван", "김철수", "ひろし"} {
		h.signUp(name)
		h.signIn(name, SessionToken)
	}
}

func TestSignUpRace(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_up": "off"})
	var mu sync.Mutex
	codes := map[levee.Code]int{}
	parallel(10, func(int) {
		_, err := h.SignUp(context.Background(), NewUser{Name: "same", Password: goodPassword}, Origin{})
		mu.Lock()
		defer mu.Unlock()
		codes[levee.CodeOf(err)]++
	})
	if codes[""] != 1 || codes[levee.CodeConflict] != 9 {
		t.Fatalf("got %v", codes)
	}
}

func TestSignUpIsLimitedByAddress(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_up": "2/h"})
	one, other := Origin{Address: netip.MustParseAddr("2001:db8::1")}, Origin{Address: netip.MustParseAddr("2001:db8::ffff")}
	for i, from := range []Origin{one, other, one} { // the same /64
		_, err := h.SignUp(context.Background(), NewUser{Name: fmt.Sprintf("user%d", i), Password: goodPassword}, from)
		h.wantCode(err, map[bool]levee.Code{true: levee.CodeTooManyRequests}[i == 2])
	}
}

func TestAdministration(t *testing.T) {
	h := newHouse(t, cheap, nil)
	ctx := context.Background()
	u := h.signUp("mallory")
	mallory := h.as(h.signIn("mallory", SessionToken))
	for name, act := range map[string]func(ctx context.Context) error{
		"create": func(ctx context.Context) error {
			_, err := h.Create(ctx, NewUser{Name: "boss", Password: goodPassword, Roles: allRoles}, Origin{})
			return err
		},
		"list":    func(ctx context.Context) error { _, _, err := h.listed(ctx, ""); return err },
		"disable": func(ctx context.Context) error { _, err := h.Disable(ctx, u.ID, "spam", Origin{}); return err },
		"enable":  func(ctx context.Context) error { _, err := h.Enable(ctx, u.ID, Origin{}); return err },
		"roles": func(ctx context.Context) error {
			_, err := h.SetRoles(ctx, u.ID, levee.RoleAdministrator, Origin{})
			return err
		},
		"password": func(ctx context.Context) error { return h.SetPassword(ctx, u.ID, goodPassword+"!", Origin{}) },
	} {
		h.wantCode(act(ctx), levee.CodeUnauthenticated)
		h.wantCode(act(mallory), levee.CodeForbidden)
		operator := levee.WithActor(ctx, levee.Actor{User: u.ID, Roles: levee.RoleOperator})
		if code := levee.CodeOf(act(operator)); code != levee.CodeForbidden {
			t.Errorf("%s by an operator: %q", name, code)
		}
	}
	head := levee.ActorFrom(h.admin).User
	_, err := h.Disable(h.admin, head, "myself", Origin{})
	h.wantCode(err, levee.CodeConflict)
	_, err = h.SetRoles(h.admin, head, levee.RoleCustomer, Origin{})
	h.wantCode(err, levee.CodeConflict)
	_, err = h.Disable(levee.WithActor(ctx, levee.System), head, "the last one", Origin{})
	h.wantCode(err, levee.CodeConflict)
	_, err = h.SetRoles(h.admin, u.ID, 0, Origin{})
	h.wantCode(err, levee.CodeInvalid)
	_, err = h.SetRoles(h.admin, u.ID, 1<<20, Origin{})
	h.wantCode(err, levee.CodeInvalid)
	_, err = h.Disable(h.admin, 12345, "nobody", Origin{})
	h.wantCode(err, levee.CodeNotFound)
	_, err = h.ByID(mallory, head)
	h.wantCode(err, levee.CodeNotFound)

	deputy, err := h.Create(h.admin, NewUser{Name: "deputy", Password: goodPassword, Roles: levee.RoleOperator}, h.origin)
	h.wantCode(err, "")
	deputy, err = h.SetRoles(h.admin, deputy.ID, levee.RoleOperator|levee.RoleAdministrator, h.origin)
	h.wantCode(err, "")
	if deputy.Version != 2 {
		t.Errorf("version %d after one change", deputy.Version)
	}
	_, err = h.Disable(levee.WithActor(ctx, levee.Actor{User: deputy.ID, Roles: deputy.Roles}), head, "coup", h.origin)
	h.wantCode(err, "") // two administrators: one may go
	entries, _, err := h.trail.List(h.admin, trail.Filter{Kind: levee.KindUser, Subject: int64(head)})
	h.wantCode(err, "")
	if len(entries) != 2 || entries[0].Action != "user.disabled" || entries[0].Actor != deputy.ID || entries[0].RequestID != "req-1" ||
		entries[0].Before == entries[0].After || entries[0].Address != "192.0.2.7" || entries[1].Actor != levee.System.User {
		t.Errorf("trail: %+v", entries)
	}
}

// Two administrators who disable each other at the same moment must not leave the house without one.
func TestLastAdministratorRace(t *testing.T) {
	h := newHouse(t, cheap, nil)
	for range 20 {
		name := fmt.Sprint("rival", h.clock.Now().UnixNano())
		a, err := h.Create(h.admin, NewUser{Name: name, Password: goodPassword, Roles: allRoles}, Origin{})
		h.wantCode(err, "")
		head := levee.ActorFrom(h.admin)
		ctxs := []context.Context{h.admin, levee.WithActor(context.Background(), levee.Actor{User: a.ID, Roles: a.Roles})}
		targets := []levee.UserID{a.ID, head.User}
		errs := make([]error, 2)
		parallel(2, func(i int) { _, errs[i] = h.Disable(ctxs[i], targets[i], "race", Origin{}) })
		n, err := countAdministrators(context.Background(), h.db.Query)
		h.wantCode(err, "")
		if n != 1 {
			t.Fatalf("%d administrators are left (%v, %v)", n, errs[0], errs[1])
		}
		if errs[1] == nil { // the head lost: the rival brings him back and goes on as the head
			_, err := h.Enable(ctxs[1], head.User, Origin{})
			h.wantCode(err, "")
			_, err = h.Disable(h.admin, a.ID, "again", Origin{})
			h.wantCode(err, "")
		}
		h.clock.Step(time.Second)
	}
}

// listed reads one page, and the cursor of the next.
func (h *house) listed(ctx context.Context, question string) ([]User, string, error) {
	q, err := h.users.Ask(question)
	if err != nil {
		return nil, "", err
	}
	found, err := h.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	return found.Rows, found.Next(q), nil
}

func TestListUsersPages(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_up": "off"})
	for i := range 7 {
		h.signUp(fmt.Sprintf("pat_%d", i))
	}
	h.signUp("patXother") // the underscore is no wildcard
	var names []string
	for cursor := ""; ; {
		list, next, err := h.listed(h.admin, "name=PAT_&limit=3"+cursor)
		h.wantCode(err, "")
		for _, u := range list {
			names = append(names, u.Name)
		}
		if next == "" {
			break
		}
		cursor = "&cursor=" + next
	}
	if fmt.Sprint(names) != "[pat_6 pat_5 pat_4 pat_3 pat_2 pat_1 pat_0]" {
		t.Errorf("got %v", names)
	}
	for want, f := range map[int]string{1: "role=administrator", 0: "disabled=true", 9: "", 8: "q=at", 7: "role=customer&q=_"} {
		list, _, err := h.listed(h.admin, f)
		h.wantCode(err, "")
		if len(list) != want {
			t.Errorf("%+v: %d users, want %d", f, len(list), want)
		}
	}
}

func TestSetup(t *testing.T) {
	h := newHouse(t, cheap, nil)
	ctx := context.Background()
	code, err := h.SetupCode(ctx)
	h.wantCode(err, "")
	if code != "" {
		t.Fatal("a code although there is an administrator")
	}
	_, err = h.Setup(ctx, "ABCD", NewUser{Name: "thief", Password: goodPassword}, Origin{})
	h.wantCode(err, levee.CodeGone)

	// A house without an administrator.
	if err := h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM identity_user`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, err = h.Setup(ctx, "", NewUser{Name: "thief", Password: goodPassword}, Origin{})
	h.wantCode(err, levee.CodeUnauthenticated) // no code was given out: none is right
	old, err := h.SetupCode(ctx)
	h.wantCode(err, "")
	code, err = h.SetupCode(ctx)
	h.wantCode(err, "")
	for _, wrong := range []obs.Secret{"", "ABCD-EFGH-JKLM-NPQR", old, code[:18]} {
		_, err = h.Setup(ctx, wrong, NewUser{Name: "thief", Password: goodPassword}, Origin{})
		h.wantCode(err, levee.CodeUnauthenticated)
	}
	_, err = h.Setup(ctx, code, NewUser{Name: "first", Password: "12345678"}, Origin{})
	h.wantCode(err, levee.CodeInvalid) // does not use the code up
	var mu sync.Mutex
	codes := map[levee.Code]int{}
	parallel(8, func(i int) {
		_, err := h.Setup(ctx, code, NewUser{Name: fmt.Sprintf("first%d", i), Password: goodPassword}, Origin{})
		mu.Lock()
		defer mu.Unlock()
		codes[levee.CodeOf(err)]++
	})
	if codes[""] != 1 || codes[levee.CodeGone] != 7 {
		t.Fatalf("a one-time code gave %v", codes)
	}
}

func TestEnsureAdministratorPromotesNobody(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("sneaky")
	h.wantCode(h.EnsureAdministrator(context.Background(), "Sneaky", goodPassword), levee.CodeConflict)
	h.wantCode(h.EnsureAdministrator(context.Background(), "HEAD", "another pass 7"), "")
	_, err := h.SignIn(context.Background(), SignIn{Name: "head", Password: "gate-keeper-91", Kind: SessionToken}, Origin{})
	h.wantCode(err, "")
}

// TestListsUseIndexes: no page of a list that grows makes the engine sort what it chooses from.
func TestListsUseIndexes(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("pat")
	read, sorting := platformtest.Explaining(t, h.db)
	for _, question := range []string{"", "sort=id", "sort=updated_at", "sort=-updated_at", "disabled=false", "q=pat", "phone__isnull=true"} {
		q, err := h.users.Ask(question)
		h.wantCode(err, "")
		_, err = listUsers(t.Context(), read, q)
		h.wantCode(err, "")
	}
	if plans := sorting(); plans != "" {
		t.Error(plans)
	}
}
