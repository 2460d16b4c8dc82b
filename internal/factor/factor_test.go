package factor

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/permit"
	"levee/internal/platform/platformtest"
	"levee/internal/token"
	"levee/internal/trail"
)

// house is the room with accounts under it.
type house struct {
	*Service
	t      *testing.T
	clock  *obs.StepClock
	tokens *token.Service
	origin identity.Origin
	users  map[string]levee.UserID
}

const password = obs.Secret("vines over 9 walls")

var ctx = context.Background()

// newHouse makes a house in which change may alter the room's config; rates are of limits.
func newHouse(t *testing.T, cfg Config, rates map[string]string) *house {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o, clock, dir := obs.Test(t), &obs.StepClock{}, t.TempDir()
	o.Clock = clock.Now
	d := platformtest.DB(t, dir, o, event.Schema(), once.Schema(), trail.Schema(), token.Schema(), identity.Schema(), Schema())
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	must(err)
	t.Cleanup(func() { must(ids.Close()) })
	sealer, err := id.NewSealer(platformtest.Key(1))
	must(err)
	limits, err := limit.Open(limit.Config{Rates: rates}, o)
	must(err)
	h := &house{t: t, clock: clock, users: map[string]levee.UserID{}, origin: identity.Origin{Address: netip.MustParseAddr("192.0.2.7"), Agent: "test", RequestID: "req-1"}}
	events, permits := event.Open(d, ids, o), permit.New()
	told := trail.New(trail.Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Key: platformtest.Key(2)})
	h.tokens = token.New(token.Deps{DB: d, Sealer: sealer, Obs: o, Config: token.Config{Algorithm: "EdDSA"}, Seal: platformtest.Key(3),
		Key: ed25519.NewKeyFromSeed(platformtest.Key(4)), Audit: told.Tell})
	people := identity.New(identity.Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Limits: limits, Events: events, Trail: told, Tokens: h.tokens, Permits: permits,
		Config: identity.Config{HashMemory: 8192, HashTime: 1}, PublicURL: "https://shop.test",
		Second: func(ctx context.Context, p identity.Proven) error { return h.Second(ctx, p) }})
	must(people.Warm(ctx))
	h.Service, err = New(Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Limits: limits, Trail: told, Identity: people, Permits: permits, Config: cfg,
		Key: platformtest.Key(5), PublicURL: "https://shop.test"})
	must(err)
	return h
}

// again is the room once more over the same database, as another process has it.
func (h *house) again() *Service {
	h.t.Helper()
	s, err := New(h.Deps)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *house) want(err error, code levee.Code) {
	h.t.Helper()
	if levee.CodeOf(err) != code {
		h.t.Fatalf("got %v, want the code %q", err, code)
	}
}

// signUp makes an account and signs it in: what its holder acts with.
func (h *house) signUp(name string, roles levee.Roles) (context.Context, levee.UserID) {
	h.t.Helper()
	u, err := h.Identity.Create(levee.WithActor(ctx, levee.System), identity.NewUser{Name: name, Password: password, Roles: roles}, h.origin)
	h.want(err, "")
	h.users[name] = u.ID
	if h.cfg.Require == "staff" && roles.Staff() {
		return nil, u.ID
	}
	g, err := h.signIn(name)
	h.want(err, "")
	return h.as(g), u.ID
}

func (h *house) signIn(name string) (identity.Grant, error) {
	return h.Identity.SignIn(ctx, identity.SignIn{Name: name, Password: password, Kind: identity.SessionToken}, h.origin)
}

func (h *house) as(g identity.Grant) context.Context {
	h.t.Helper()
	a, err := h.Identity.AuthenticateToken(g.AccessToken.Reveal())
	h.want(err, "")
	return levee.WithActor(ctx, a)
}

// halfway signs in by a proof of another room, which costs no hash, and returns the challenge of the answer.
func (h *house) halfway(name string) obs.Secret {
	h.t.Helper()
	_, err := h.Identity.SignInProven(ctx, h.users[name], "phone", identity.SessionToken, h.origin)
	return h.challenged(err)
}

func (h *house) challenged(err error) obs.Secret {
	h.t.Helper()
	h.want(err, levee.CodeSecondFactor)
	text, _ := dataOf(err)["challenge"].(string)
	if text == "" {
		h.t.Fatalf("no challenge in %v", dataOf(err))
	}
	return obs.Secret(text)
}

func dataOf(err error) map[string]any {
	for ; err != nil; err = unwrap(err) {
		if e, ok := err.(*levee.Error); ok { //nolint:errorlint // it walks the chain
			return e.Data
		}
	}
	return nil
}

func unwrap(err error) error {
	u, ok := err.(interface{ Unwrap() error }) //nolint:errorlint // it walks the chain
	if !ok {
		return nil
	}
	return u.Unwrap()
}

// enrol sets an application up and returns its secret and the recovery codes.
func (h *house) enrol(as context.Context) (secret []byte, codes []string) {
	h.t.Helper()
	e, err := h.BeginTOTP(as)
	h.want(err, "")
	secret, err = inBase32.DecodeString(e.Secret.Reveal())
	h.want(err, "")
	codes, err = h.ConfirmTOTP(as, e.Challenge, codeAt(secret, stepOf(h.clock.Now())))
	h.want(err, "")
	return secret, codes
}

func (h *house) code(secret []byte, steps int64) obs.Secret {
	return obs.Secret(codeAt(secret, stepOf(h.clock.Now())+steps))
}

func (h *house) second(s *Service, challenge obs.Secret, in Answer) (identity.Grant, error) {
	in.Challenge = challenge
	return s.SignIn(ctx, in, identity.SessionToken, h.origin)
}

// told returns how often the trail has an action about an account; notes are written first.
func (h *house) told(user levee.UserID, action string) (n int) {
	h.t.Helper()
	stopped, stop := context.WithCancel(ctx)
	stop()
	h.want(h.Trail.Run(stopped), "") // it writes what is noted and ends
	list, _, err := h.Trail.List(levee.WithActor(ctx, levee.System), trail.Filter{Action: action, Page: levee.Page{Limit: 100}})
	h.want(err, "")
	for _, e := range list {
		if e.Kind == levee.KindUser && e.Subject == int64(user) {
			n += int(e.Times)
		}
	}
	return n
}

func parallel(n int, do func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() { <-start; do(i) })
	}
	close(start)
	wg.Wait()
}

// The codes of RFC 6238, appendix B, and those of another implementation (pyotp).
func TestCodes(t *testing.T) {
	rfc := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037",
		20000000000: "65353130"} {
		if got := truncated(rfc, stepOf(time.Unix(at, 0)), 8); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
		if got := codeAt(rfc, stepOf(time.Unix(at, 0))); got != want[2:] {
			t.Errorf("at %d: %s, want %s", at, got, want[2:])
		}
	}
	other := make([]byte, secretBytes)
	for i := range other {
		other[i] = byte(i)
	}
	for at, want := range map[int64]string{0: "858575", 29: "858575", 30: "524447", 1700000000: "367345", 4102444800: "527339"} {
		if got := codeAt(other, stepOf(time.Unix(at, 0))); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
	if got, want := uri("shop.test", "ann b", other), "otpauth://totp/shop.test:ann%20b?algorithm=SHA1&digits=6&issuer=shop.test&period=30&secret=AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQT"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A sign-in by password goes on with a code of now or of a neighbour, and with no code twice.
func TestCodeAtSignIn(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off"})
	ann, user := h.signUp("ann", levee.RoleCustomer)
	secret, _ := h.enrol(ann)
	refused := func(steps int64) {
		t.Helper()
		_, err := h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(secret, steps)})
		h.want(err, levee.CodeUnauthenticated)
	}
	good := func(steps int64) {
		t.Helper()
		g, err := h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(secret, steps)})
		h.want(err, "")
		if a := levee.ActorFrom(h.as(g)); a.User != user {
			t.Fatalf("the session is of %v, want %v", a.User, user)
		}
	}
	refused(0) // the code that confirmed the application was used by that
	h.clock.Step(10 * period)
	refused(-2)
	refused(2)
	good(-1)
	refused(-1)
	good(1) // of a clock that is ahead
	refused(1)
	refused(0) // older than what was taken last
	h.clock.Step(2 * period)
	good(0)
	refused(0)
	h.clock.Step(period)
	refused(-1)
	good(0)
	// Somebody else's code is not his.
	bob, _ := h.signUp("bob", levee.RoleCustomer)
	others, _ := h.enrol(bob)
	h.clock.Step(5 * period)
	_, err := h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(others, 0)})
	h.want(err, levee.CodeUnauthenticated)
	for _, bad := range []obs.Secret{"000000", "12345", "1234567", "abcdef", " ", "０１２３４５"} {
		_, err := h.second(h.Service, h.halfway("bob"), Answer{Code: bad})
		h.want(err, levee.CodeUnauthenticated)
	}
	for _, in := range []Answer{{}, {Code: "123456", Recovery: "A"}, {Code: "123456", Assertion: []byte("{}")}} {
		_, err := h.second(h.Service, h.halfway("bob"), in)
		h.want(err, levee.CodeInvalid)
	}
	if h.told(user, "factor.totp_added") != 1 || h.told(user, "session.refused") == 0 || h.told(user, "session.second_asked") == 0 || h.told(user, "session.begun") < 4 {
		t.Error("the trail lacks something of it")
	}
}

// In SQL a secret is sealed, for its account alone, and recovery codes are hashes.
func TestSealedAtRest(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	secret, codes := h.enrol(ann)
	a, err := readAccount(ctx, h.DB.QueryRow, user, "")
	h.want(err, "")
	if strings.Contains(a.totp, string(secret)) || strings.Contains(a.totp, inBase32.EncodeToString(secret)) {
		t.Error("the secret is readable")
	}
	if got, err := h.seal.open(user, a.totp); err != nil || string(got) != string(secret) {
		t.Error("it does not open", err)
	}
	if _, err := h.seal.open(user+1, a.totp); err == nil {
		t.Error("it opens for another account")
	}
	for _, c := range codes {
		var n int
		h.want(h.DB.QueryRow(ctx, `SELECT COUNT(*) FROM factor_recovery WHERE hash = ? OR hash = ?`, c, hashOf(c)).Scan(&n), "")
		if n != 0 {
			t.Errorf("a recovery code stands there as it is, or hashed without the house's key")
		}
	}
	other := h.Deps
	other.Key = platformtest.Key(6)
	s, err := New(other)
	h.want(err, "")
	if _, err := s.seal.open(user, a.totp); err == nil || s.recoveryHash(user, codes[0]) == h.recoveryHash(user, codes[0]) {
		t.Error("another house's key does as well")
	}
}

// Fifty show one code at two processes at the same moment: one gets a session.
func TestOneCodeOnceOnTwoNodes(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off", "sign_in_account": "off"})
	ann, _ := h.signUp("ann", levee.RoleCustomer)
	secret, _ := h.enrol(ann)
	nodes := []*Service{h.Service, h.again()}
	for range 3 {
		h.clock.Step(period)
		challenges := make([]obs.Secret, 50)
		for i := range challenges {
			challenges[i] = h.halfway("ann")
			h.clock.Step(time.Microsecond)
		}
		code := h.code(secret, 0)
		var mu sync.Mutex
		got := map[levee.Code]int{}
		parallel(len(challenges), func(i int) {
			_, err := h.second(nodes[i%2], challenges[i], Answer{Code: code})
			mu.Lock()
			defer mu.Unlock()
			got[levee.CodeOf(err)]++
		})
		if got[""] != 1 || got[levee.CodeUnauthenticated] != 49 {
			t.Fatalf("%v, want one session", got)
		}
	}
}

// A challenge is good once: ten recovery codes that are all good, shown for it at the same moment at two processes, make one session and use up one code.
func TestOneChallengeOnceOnTwoNodes(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off"})
	ann, user := h.signUp("ann", levee.RoleCustomer)
	_, codes := h.enrol(ann)
	nodes := []*Service{h.Service, h.again()}
	challenge := h.halfway("ann")
	var mu sync.Mutex
	got := map[levee.Code]int{}
	parallel(len(codes), func(i int) {
		_, err := h.second(nodes[i%2], challenge, Answer{Recovery: obs.Secret(codes[i])})
		mu.Lock()
		defer mu.Unlock()
		got[levee.CodeOf(err)]++
	})
	if n, err := countRecovery(ctx, h.DB.QueryRow, user); got[""] != 1 || got[levee.CodeGone] != 9 || n != 9 || err != nil {
		t.Fatalf("%v, %d codes left (%v), want one session and nine", got, n, err)
	}
}

// Ten codes, each good once; new ones make the old ones void.
func TestRecoveryCodes(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off"})
	ann, user := h.signUp("ann", levee.RoleCustomer)
	_, err := h.RenewRecovery(ann)
	h.want(err, levee.CodeConflict) // in place of what?
	_, codes := h.enrol(ann)
	seen := map[string]bool{}
	for _, c := range codes {
		seen[c] = true
		if len(c) != 19 || strings.Count(c, "-") != 3 {
			t.Errorf("%q", c)
		}
	}
	if len(seen) != recoveryCodes {
		t.Fatalf("%d different codes", len(seen))
	}
	use := func(code string, want levee.Code) {
		t.Helper()
		_, err := h.second(h.Service, h.halfway("ann"), Answer{Recovery: obs.Secret(code)})
		h.want(err, want)
	}
	use(codes[0], "")
	use(codes[0], levee.CodeUnauthenticated)
	use(strings.ToLower(strings.ReplaceAll(codes[1], "-", " ")), "") // as people type
	use(codes[1], levee.CodeUnauthenticated)
	bob, _ := h.signUp("bob", levee.RoleCustomer)
	_, others := h.enrol(bob)
	use(others[0], levee.CodeUnauthenticated)
	fresh, err := h.RenewRecovery(ann)
	h.want(err, "")
	use(codes[2], levee.CodeUnauthenticated)
	use(fresh[0], "")
	if f, err := h.Own(ann); err != nil || f.Recovery != 9 || !f.TOTP || !f.Passworded {
		t.Errorf("%+v %v", f, err)
	}
	if h.told(user, "factor.recovery_used") != 3 || h.told(user, "factor.recovery_renewed") != 1 {
		t.Error("the trail lacks something of it")
	}
}

// After five wrong codes the right one is refused as well, whatever challenge it is shown for; recovery codes are counted apart.
func TestTriesAreLimited(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	secret, codes := h.enrol(ann)
	h.clock.Step(2 * period)
	for range 5 {
		_, err := h.second(h.Service, h.halfway("ann"), Answer{Code: "not it"})
		h.want(err, levee.CodeUnauthenticated)
	}
	_, err := h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(secret, 0)})
	h.want(err, levee.CodeTooManyRequests)
	_, err = h.StepUp(ann, "", Answer{Code: h.code(secret, 0)}, h.origin) // it is one count
	h.want(err, levee.CodeTooManyRequests)
	g, err := h.second(h.Service, h.halfway("ann"), Answer{Recovery: obs.Secret(codes[0])})
	h.want(err, "")
	for range 5 {
		_, err := h.second(h.Service, h.halfway("ann"), Answer{Recovery: "not it"})
		h.want(err, levee.CodeUnauthenticated)
	}
	_, err = h.second(h.Service, h.halfway("ann"), Answer{Recovery: obs.Secret(codes[1])})
	h.want(err, levee.CodeTooManyRequests)
	if levee.ActorFrom(h.as(g)).User != user {
		t.Error("the session that began meanwhile is gone")
	}
	// Another account is not touched, and what succeeds does not count.
	bob, _ := h.signUp("bob", levee.RoleCustomer)
	secret, _ = h.enrol(bob)
	for range 12 {
		h.clock.Step(period)
		_, err := h.second(h.Service, h.halfway("bob"), Answer{Code: h.code(secret, 0)})
		h.want(err, "")
	}
	if h.Limits.WhenAway(limit.SecondFactor) != limit.AwayClosed {
		t.Error("while Redis is away codes can be guessed")
	}
}

// Every way in asks: by password, and as other rooms sign somebody in.
func TestEveryWayInAsks(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	sessions := func() int {
		t.Helper()
		list, err := h.Identity.Sessions(ann)
		h.want(err, "")
		return len(list)
	}
	_, err := h.Identity.SignInProven(ctx, user, "phone", identity.SessionToken, h.origin)
	h.want(err, "")
	secret, _ := h.enrol(ann)
	before := sessions()
	for _, kind := range []identity.SessionKind{identity.SessionToken, identity.SessionCookie} {
		g, err := h.Identity.SignInProven(ctx, user, "phone", kind, h.origin)
		h.challenged(err)
		if g != (identity.Grant{}) {
			t.Errorf("a grant besides: %+v", g)
		}
		g, err = h.Identity.SignIn(ctx, identity.SignIn{Name: "ann", Password: password, Kind: kind}, h.origin)
		h.challenged(err)
		if g != (identity.Grant{}) {
			t.Errorf("a grant besides: %+v", g)
		}
	}
	if sessions() != before {
		t.Error("a session began without the second factor")
	}
	// A wrong password does not get as far: it does not tell that there is a second factor.
	_, err = h.Identity.SignIn(ctx, identity.SignIn{Name: "ann", Password: "another 9 walls", Kind: identity.SessionToken}, h.origin)
	h.want(err, levee.CodeUnauthenticated)
	h.clock.Step(2 * period)
	_, err = h.Identity.SignInProven(ctx, user, "phone", identity.SessionCookie, h.origin)
	g, err := h.SignIn(ctx, Answer{Challenge: h.challenged(err), Code: h.code(secret, 0)}, identity.SessionCookie, h.origin)
	h.want(err, "")
	if g.Cookie == "" || g.AccessToken != "" || sessions() != before+1 {
		t.Errorf("%+v", g)
	}
	list, _, err := h.Trail.List(levee.WithActor(ctx, levee.System), trail.Filter{Action: "session.begun", Page: levee.Page{Limit: 10}})
	h.want(err, "")
	_ = h.told(user, "session.begun")
	if list, _, err = h.Trail.List(levee.WithActor(ctx, levee.System), trail.Filter{Action: "session.begun", Page: levee.Page{Limit: 10}}); err != nil ||
		!strings.Contains(fmt.Sprint(list), "phone+totp") {
		t.Errorf("how he came in is not told: %v %v", list, err)
	}
}

// A challenge does not outlive what it stands on: the password, the account, five minutes; and is for its purpose alone.
func TestChallengesEnd(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off"})
	boss, _ := h.signUp("boss", levee.RoleAdministrator)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	secret, codes := h.enrol(ann)
	show := func(challenge obs.Secret, want levee.Code) {
		t.Helper()
		h.clock.Step(period)
		_, err := h.second(h.Service, challenge, Answer{Code: h.code(secret, 0)})
		h.want(err, want)
	}
	late := h.halfway("ann")
	h.clock.Step(askedFor)
	show(late, levee.CodeGone)
	for _, text := range []obs.Secret{"", "lvf_", "lvf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "something else"} {
		show(text, levee.CodeGone)
	}
	waiting := h.halfway("ann")
	h.want(h.Identity.SetPassword(boss, user, "vines over 10 walls", h.origin), "")
	show(waiting, levee.CodeUnauthenticated)
	h.want(h.Identity.SetPassword(boss, user, password, h.origin), "")
	waiting = h.halfway("ann")
	_, err := h.Identity.Disable(boss, user, "away", h.origin)
	h.want(err, "")
	show(waiting, levee.CodeForbidden)
	_, err = h.Identity.Enable(boss, user, h.origin)
	h.want(err, "")
	g, err := h.second(h.Service, h.halfway("ann"), Answer{Recovery: obs.Secret(codes[0])})
	h.want(err, "")
	// Of one purpose for another.
	e, err := h.BeginTOTP(h.as(g))
	h.want(err, "")
	show(e.Challenge, levee.CodeGone)
	_, err = h.Enrol(ctx, h.halfway("ann"))
	h.want(err, levee.CodeGone)
	_, err = h.ConfirmTOTP(h.as(g), h.halfway("ann"), h.code(secret, 0).Reveal())
	h.want(err, levee.CodeGone)
	// Another session of the same account does not go on with what this one began.
	h.clock.Step(period)
	other, err := h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(secret, 0)})
	h.want(err, "")
	_, err = h.ConfirmTOTP(h.as(other), e.Challenge, h.code(secret, 0).Reveal())
	h.want(err, levee.CodeGone)
	// The table is bounded, and swept.
	for range maxAsked + 20 {
		h.halfway("ann")
		h.clock.Step(time.Millisecond)
	}
	count := func() (n int) {
		t.Helper()
		h.want(h.DB.QueryRow(ctx, `SELECT COUNT(*) FROM factor_challenge`).Scan(&n), "")
		return n
	}
	if n := count(); n > maxAsked {
		t.Errorf("%d challenges are kept", n)
	}
	h.clock.Step(askedFor)
	h.want(h.Sweep(ctx), "")
	if n := count(); n != 0 {
		t.Errorf("%d challenges are left", n)
	}
}

// Where staff must have a factor, one without it gets none but the way to set one up; customers are not asked.
func TestStaffMustHaveOne(t *testing.T) {
	h := newHouse(t, Config{Require: "staff"}, map[string]string{"second_factor": "off"})
	h.signUp("customer", levee.RoleCustomer) // signs in as ever
	_, user := h.signUp("boss", levee.RoleAdministrator|levee.RoleCustomer)
	_, err := h.signIn("boss")
	challenge := h.challenged(err)
	if m := fmt.Sprint(dataOf(err)["methods"]); m != "[enrol]" {
		t.Errorf("methods %s", m)
	}
	_, err = h.second(h.Service, challenge, Answer{Code: "123456"})
	h.want(err, levee.CodeConflict) // first the secret
	for _, in := range []Answer{{Recovery: "AAAA"}, {Assertion: []byte("{}")}} {
		if _, err = h.second(h.Service, challenge, in); err == nil {
			t.Fatalf("a session for %+v", in)
		}
	}
	first, err := h.Enrol(ctx, challenge)
	h.want(err, "")
	e, err := h.Enrol(ctx, challenge)
	h.want(err, "")
	secretOf := func(e Enrolment) []byte {
		b, err := inBase32.DecodeString(e.Secret.Reveal())
		h.want(err, "")
		return b
	}
	_, err = h.second(h.Service, challenge, Answer{Code: h.code(secretOf(first), 0)}) // replaced
	h.want(err, levee.CodeUnauthenticated)
	slower := h.halfway("boss")
	late, err := h.Enrol(ctx, slower)
	h.want(err, "")
	g, err := h.second(h.Service, challenge, Answer{Code: h.code(secretOf(e), 0)})
	h.want(err, "")
	// Who was slower does not replace it.
	_, err = h.second(h.Service, slower, Answer{Code: h.code(secretOf(late), 0)})
	h.want(err, levee.CodeGone)
	boss := h.as(g)
	h.want(h.RemoveTOTP(boss), levee.CodeConflict)
	if f, err := h.Own(boss); err != nil || !f.Required || !f.TOTP {
		t.Errorf("%+v %v", f, err)
	}
	h.clock.Step(period)
	_, err = h.second(h.Service, h.halfway("boss"), Answer{Code: h.code(secretOf(e), 0)})
	h.want(err, "")
	if h.told(user, "factor.totp_added") != 1 {
		t.Error("it is not told")
	}
}

// Replaced, removed: the old secret counts until the new one is confirmed and no longer; with the last factor all goes.
func TestReplaceAndRemove(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off"})
	ann, user := h.signUp("ann", levee.RoleCustomer)
	h.want(h.RemoveTOTP(ann), levee.CodeNotFound)
	old, codes := h.enrol(ann)
	e, err := h.BeginTOTP(ann)
	h.want(err, "")
	_, err = h.ConfirmTOTP(ann, e.Challenge, "000000")
	h.want(err, levee.CodeInvalid)
	h.clock.Step(period)
	_, err = h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(old, 0)})
	h.want(err, "")
	secret, more := h.enrol(ann)
	if len(more) != 0 {
		t.Error("a second set of recovery codes, unasked")
	}
	h.clock.Step(period)
	_, err = h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(old, 0)})
	h.want(err, levee.CodeUnauthenticated)
	_, err = h.second(h.Service, h.halfway("ann"), Answer{Code: h.code(secret, 0)})
	h.want(err, "")
	_ = codes
	h.want(h.RemoveTOTP(ann), "")
	_, err = h.signIn("ann")
	h.want(err, "")
	if f, err := h.Own(ann); err != nil || f.any() || f.Recovery != 0 {
		t.Errorf("%+v %v", f, err)
	}
	if h.told(user, "factor.totp_replaced") != 1 || h.told(user, "factor.totp_removed") != 1 {
		t.Error("the trail lacks something of it")
	}
}

// An administrator takes the factors of somebody who lost them; nobody takes those of who may more, or his own that way.
func TestReset(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off"})
	boss, bossID := h.signUp("boss", levee.RoleAdministrator)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	h.enrol(ann)
	h.enrol(boss)
	_, err := h.Reset(ann, bossID)
	h.want(err, levee.CodeForbidden)
	_, err = h.Reset(ctx, user)
	h.want(err, levee.CodeUnauthenticated)
	_, err = h.Reset(boss, bossID)
	h.want(err, levee.CodeConflict)
	_, err = h.Reset(boss, user+12345)
	h.want(err, levee.CodeNotFound)
	clerk := levee.Actor{User: 77, Session: 1, Roles: 1 << 6, Abilities: levee.Abilities(1).With(levee.AccountsOfOthers)}
	_, err = h.Reset(levee.WithActor(ctx, clerk), bossID)
	h.want(err, levee.CodeForbidden)
	waiting := h.halfway("ann")
	n, err := h.Reset(boss, user)
	h.want(err, "")
	if n != 1 {
		t.Errorf("%d sessions ended", n)
	}
	sessions, err := h.Identity.SessionsOf(boss, user)
	h.want(err, "")
	if len(sessions) != 0 {
		t.Error("a session is open still")
	}
	_, err = h.second(h.Service, waiting, Answer{Code: "123456"})
	h.want(err, levee.CodeGone)
	_, err = h.signIn("ann")
	h.want(err, "")
	_, err = h.ResetNamed(boss, "ann")
	h.want(err, levee.CodeForbidden)
	system := levee.WithActor(ctx, levee.System)
	_, err = h.ResetNamed(system, "nobody")
	h.want(err, levee.CodeNotFound)
	_, err = h.ResetNamed(system, "BOSS")
	h.want(err, "")
	_, err = h.signIn("boss")
	h.want(err, "")
	if h.told(user, "factor.reset") != 1 || h.told(bossID, "factor.reset") != 1 {
		t.Error("it is not told")
	}
}

// What a session proved counts for ten minutes, on every node, for it alone.
func TestStepUp(t *testing.T) {
	h := newHouse(t, Config{}, map[string]string{"second_factor": "off", "sign_in_account": "off"})
	ann, user := h.signUp("ann", levee.RoleCustomer)
	node := h.again()
	fresh := func(as context.Context, want levee.Code) {
		t.Helper()
		for _, s := range []*Service{h.Service, node} {
			h.want(s.Fresh(as, levee.ActorFrom(as)), want)
		}
	}
	fresh(ann, "")
	h.clock.Step(10*time.Minute - time.Second)
	fresh(ann, "")
	h.clock.Step(time.Second)
	fresh(ann, levee.CodeStepUp)
	if d := dataOf(h.Fresh(ann, levee.ActorFrom(ann))); fmt.Sprint(d["methods"], d["max_age_seconds"]) != "[password] 600" {
		t.Errorf("%v", d)
	}
	g, err := h.signIn("ann")
	h.want(err, "")
	other := h.as(g)
	fresh(other, "")
	fresh(ann, levee.CodeStepUp) // the other session's proof is its own
	_, err = h.StepUp(ann, "another 9 walls", Answer{}, h.origin)
	h.want(err, levee.CodeInvalid)
	fresh(ann, levee.CodeStepUp)
	for _, in := range []Answer{{}, {Recovery: "A"}, {Code: "123456"}} {
		_, err = h.StepUp(ann, "", in, h.origin)
		h.want(err, levee.CodeInvalid)
	}
	_, err = h.StepUp(ann, password, Answer{Code: "123456"}, h.origin)
	h.want(err, levee.CodeInvalid)
	until, err := h.StepUp(ann, password, Answer{}, h.origin)
	h.want(err, "")
	if !until.Equal(h.clock.Now().Add(10 * time.Minute)) {
		t.Errorf("until %v", until)
	}
	fresh(ann, "")
	h.clock.Step(10*time.Minute - time.Second)
	fresh(ann, "")
	h.clock.Step(time.Second)
	fresh(ann, levee.CodeStepUp)
	// With a factor it takes the factor, and a code counts once in all.
	secret, codes := h.enrol(ann)
	_, err = h.StepUp(ann, password, Answer{}, h.origin)
	h.want(err, levee.CodeInvalid)
	fresh(ann, levee.CodeStepUp)
	_, err = h.StepUp(ann, "", Answer{Recovery: obs.Secret(codes[0])}, h.origin)
	h.want(err, levee.CodeInvalid)
	h.clock.Step(period)
	code := h.code(secret, 0)
	_, err = h.StepUp(ann, "", Answer{Code: code}, h.origin)
	h.want(err, "")
	fresh(ann, "")
	_, err = h.second(h.Service, h.halfway("ann"), Answer{Code: code})
	h.want(err, levee.CodeUnauthenticated)
	_, err = h.StepUp(ann, "", Answer{Code: code}, h.origin)
	h.want(err, levee.CodeInvalid)
	if h.told(user, "session.stepped_up") != 2 || h.told(user, "session.step_up_refused") < 3 {
		t.Error("the trail lacks something of it")
	}
	// What has no holder who could prove himself is never fresh.
	a := levee.ActorFrom(ann)
	personal, foreign, invented := a, a, a
	personal.Scope, foreign.Session, invented.Rehearsal = levee.NewScope([]string{"accounts:all"}), 0, true
	for _, one := range []levee.Actor{personal, foreign, invented} {
		h.want(h.Fresh(ctx, one), levee.CodeForbidden)
		_, err = h.StepUp(levee.WithActor(ctx, one), password, Answer{}, h.origin)
		h.want(err, levee.CodeForbidden)
	}
	h.want(h.Fresh(ctx, levee.Actor{}), levee.CodeUnauthenticated)
	// A proof that is too old to count is forgotten, a newer one is not.
	h.clock.Step(freshMost)
	h.clock.Step(period)
	_, err = h.StepUp(other, "", Answer{Code: h.code(secret, 0)}, h.origin)
	h.want(err, "")
	h.want(h.Sweep(ctx), "")
	var n int
	h.want(h.DB.QueryRow(ctx, `SELECT COUNT(*) FROM factor_fresh`).Scan(&n), "")
	if n != 1 {
		t.Errorf("%d proofs are kept", n)
	}
	fresh(other, "")
}

// A proof costs no read in a session's first minutes and one row after a step-up.
func TestFreshReadsLittle(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, _ := h.signUp("ann", levee.RoleCustomer)
	closed, stop := context.WithCancel(ctx)
	stop() // whoever reads with it fails
	h.want(h.Fresh(closed, levee.ActorFrom(ann)), "")
	h.clock.Step(time.Hour)
	if h.Fresh(closed, levee.ActorFrom(ann)) == nil {
		t.Error("this control must fail: nothing was read")
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		Config
		ok bool
	}{{Config{}, true}, {Config{Require: "staff", FreshFor: time.Minute}, true}, {Config{Require: "all"}, false}, {Config{FreshFor: time.Second}, false},
		{Config{FreshFor: 13 * time.Hour}, false}, {Config{Require: "off", FreshFor: 12 * time.Hour}, true}} {
		if err := c.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.Config, err)
		}
	}
}
