package phone

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"levee"
	"levee/internal/identity"
	"levee/internal/phone/smstest"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/redis"
	"levee/internal/token"
	"levee/internal/trail"
)

// house is the room with what it stands on, and an SMS service that speaks the real protocol.
type house struct {
	*Service
	t      testing.TB
	clock  *obs.StepClock
	sms    *smstest.Server
	ids    *identity.Service
	logs   *lockedBuffer
	origin identity.Origin
	heard  int // messages that were looked at
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// free are rates under which a test may ask as often as it likes.
var free = map[string]string{"sms": "off", "sms_day": "off", "sms_address": "off", "sms_house": "off"}

func newHouse(t testing.TB, rates map[string]string, change ...func(*Deps)) *house {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	logs := &lockedBuffer{}
	o, err := obs.Open(obs.Config{Level: "debug", Format: "json"}, logs)
	must(err)
	clock := &obs.StepClock{}
	o.Clock = clock.Now
	sms, err := smstest.Start()
	must(err)
	t.Cleanup(func() { _ = sms.Close() })
	sms.Now = clock.Now
	ctx, dir := context.Background(), t.TempDir()
	d := platformtest.DB(t, dir, o, event.Schema(), job.Schema(), once.Schema(), trail.Schema(), token.Schema(), identity.Schema(), Schema())
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	must(err)
	t.Cleanup(func() { must(ids.Close()) })
	sealer, err := id.NewSealer(platformtest.Key(1))
	must(err)
	limits, err := limit.Open(limit.Config{Rates: rates}, o)
	must(err)
	tr := trail.New(trail.Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Key: platformtest.Key(2)})
	keys := token.New(token.Deps{DB: d, Sealer: sealer, Obs: o, Config: token.Config{Algorithm: "EdDSA"}, Seal: platformtest.Key(3),
		Key: ed25519.NewKeyFromSeed(platformtest.Key(4)), Audit: func(context.Context, *db.Tx, string, string, any, any) error { return nil }})
	who := identity.New(identity.Deps{DB: d, IDs: ids, Sealer: sealer, Obs: o, Limits: limits, Events: event.Open(d, ids, o), Trail: tr, Tokens: keys,
		Config: identity.Config{HashMemory: 8_192, HashTime: 1}, PublicURL: "https://shop.test"})
	must(who.Warm(ctx))
	deps := Deps{DB: d, Obs: o, Limits: limits, Jobs: job.Open(d, ids, o), Identity: who, Trail: tr, Key: platformtest.Key(5), PublicURL: "https://shop.test",
		Config: Config{Sender: senderAliyun, Countries: []string{"86", "1"}, Aliyun: AliyunConfig{Endpoint: sms.URL, KeyID: sms.KeyID,
			KeySecret: obs.Secret(sms.KeySecret), SignName: sms.SignName, Template: sms.Template}}}
	for _, c := range change {
		c(&deps)
	}
	s, err := New(deps)
	must(err)
	must(deps.Jobs.Register(s.Jobs()...))
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = io.WriteString(t.Output(), logs.String())
		}
	})
	return &house{Service: s, t: t, clock: clock, sms: sms, ids: who, logs: logs,
		origin: identity.Origin{Address: netip.MustParseAddr("192.0.2.7"), Agent: "test", RequestID: "req-1"}}
}

// drain runs the jobs that are due.
func (h *house) drain() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Deps.Jobs.Drain(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// ask asks for a code and returns what came by SMS.
func (h *house) ask(ctx context.Context, p Purpose, phone string) (Asked, string) {
	h.t.Helper()
	a, err := h.Ask(ctx, p, phone, h.origin)
	if err != nil {
		h.t.Fatal(err)
	}
	h.drain()
	h.heard++
	went := h.sms.Sent()
	if len(went) != h.heard || "+"+went[h.heard-1].Phone != phone || len(went[h.heard-1].Code) != 6 {
		h.t.Fatalf("%d messages went out, want %d, the last one to %s: %v", len(went), h.heard, phone, went)
	}
	return a, went[h.heard-1].Code
}

// enter signs in with a code.
func (h *house) enter(phone, code string, request obs.Secret) (identity.Grant, error) {
	return h.SignIn(context.Background(), SignIn{Phone: phone, Code: code, Request: request, Kind: identity.SessionToken}, h.origin)
}

// byPhone signs a number in from the beginning.
func (h *house) byPhone(phone string) identity.Grant {
	h.t.Helper()
	a, code := h.ask(context.Background(), ForSignIn, phone)
	g, err := h.enter(phone, code, a.Request)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

const password = obs.Secret("vines over 9 walls")

// account makes an account in the old way.
func (h *house) account(name, phone string) identity.User {
	h.t.Helper()
	u, err := h.ids.SignUp(context.Background(), identity.NewUser{Name: name, Phone: phone, Password: password}, h.origin)
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

func as(u identity.User) context.Context {
	return levee.WithActor(context.Background(), levee.Actor{User: u.ID, Roles: levee.RoleCustomer})
}

// user returns an account as it stands.
func (h *house) user(id levee.UserID) identity.User {
	h.t.Helper()
	u, err := h.ids.ByID(levee.WithActor(db.Primary(context.Background()), levee.System), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

// prover returns who has proven a number, 0 for nobody.
func (h *house) prover(phone string) (user levee.UserID) {
	h.t.Helper()
	if err := h.DB.Tx(context.Background(), "test", func(ctx context.Context, tx *db.Tx) (err error) {
		user, err = readProver(ctx, tx, h.DB.Dialect(), phone)
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	return user
}

func (h *house) want(err error, code levee.Code) {
	h.t.Helper()
	if got := levee.CodeOf(err); got != code {
		h.t.Fatalf("got code %q (%v), want %q", got, err, code)
	}
}

// told returns the trail's entries of an action about an account.
func (h *house) told(action string, about levee.UserID) []trail.Entry {
	h.t.Helper()
	list, _, err := h.Trail.List(context.Background(), trail.Filter{Action: action, Kind: levee.KindUser, Subject: int64(about), Page: levee.Page{Limit: 100}})
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// messages returns how often a message ended so.
func (h *house) messages(result string) float64 {
	h.t.Helper()
	var m dto.Metric
	if err := h.metrics.messages.WithLabelValues(result).Write(&m); err != nil {
		h.t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// other is a code that is not this one.
func other(code string) string {
	last := (code[5]-'0'+1)%10 + '0'
	return code[:5] + string(last)
}

const (
	ann = "+8613800138000"
	bob = "+8613800138001"
)

// A code is good for its purpose, number, device and account alone, once, and for five minutes.
func TestCodesAreBound(t *testing.T) {
	h := newHouse(t, free)
	ctx := context.Background()
	a, code := h.ask(ctx, ForSignIn, ann)
	b, codeOfBob := h.ask(ctx, ForSignIn, bob)
	me, you := h.account("marie", ""), h.account("pierre", "")
	refused := func(what string, err error, want levee.Code) {
		t.Helper()
		if levee.CodeOf(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	_, err := h.Bind(as(me), ann, code, a.Request, h.origin)
	refused("another purpose", err, levee.CodeInvalid)
	_, err = h.enter(ann, code, "")
	refused("no device", err, levee.CodeUnauthenticated)
	_, err = h.enter(ann, code, b.Request)
	refused("another device", err, levee.CodeUnauthenticated)
	_, err = h.enter(bob, code, a.Request)
	refused("another number", err, levee.CodeUnauthenticated)
	_, err = h.enter(bob, code, b.Request)
	if code != codeOfBob {
		refused("another number's code", err, levee.CodeUnauthenticated)
	}
	bind, codeToBind := h.ask(as(me), ForBind, ann)
	_, err = h.enter(ann, codeToBind, bind.Request)
	refused("the other purpose", err, levee.CodeUnauthenticated)
	_, err = h.Bind(as(you), ann, codeToBind, bind.Request, h.origin)
	refused("another account", err, levee.CodeInvalid)
	for _, text := range []string{"", "12345", "1234567", "12345x", "１２３４５６", " 123456"} {
		_, err = h.enter(ann, text, a.Request)
		refused(fmt.Sprintf("%q", text), err, levee.CodeUnauthenticated)
	}
	if h.prover(ann) != 0 {
		t.Fatal("one of these was taken for a proof")
	}
	// All of that was nobody's try: the code is as good as before, until its last moment.
	h.clock.Step(codeLife - time.Microsecond)
	g, err := h.enter(ann, code, a.Request)
	h.want(err, "")
	_, err = h.enter(ann, code, a.Request)
	refused("a second time", err, levee.CodeUnauthenticated)
	h.clock.Step(time.Microsecond)
	_, err = h.enter(bob, codeOfBob, b.Request)
	refused("too old", err, levee.CodeUnauthenticated)
	if g.User.Phone != ann || h.prover(ann) != g.User.ID || h.prover(bob) != 0 {
		t.Errorf("%+v", g.User)
	}

	old, oldCode := h.ask(ctx, ForSignIn, ann)
	next, nextCode := h.ask(ctx, ForSignIn, ann)
	_, err = h.enter(ann, oldCode, old.Request)
	refused("a code that was replaced", err, levee.CodeUnauthenticated)
	if oldCode != nextCode {
		_, err = h.enter(ann, oldCode, next.Request)
		refused("the replaced code with the new request", err, levee.CodeUnauthenticated)
	}
	_, err = h.enter(ann, nextCode, next.Request)
	h.want(err, "")
}

// Guessing stops at the fifth try, however many guess at once; who has not got the request token cannot use up the tries of who has.
func TestTriesAreBounded(t *testing.T) {
	h := newHouse(t, free)
	ctx := context.Background()
	a, code := h.ask(ctx, ForSignIn, ann)
	for range 20 {
		_, err := h.enter(ann, other(code), "AAAAAAAAAAAAAAAAAAAAAAAAAA")
		h.want(err, levee.CodeUnauthenticated)
	}
	for range triesMost - 1 {
		_, err := h.enter(ann, other(code), a.Request)
		h.want(err, levee.CodeUnauthenticated)
	}
	_, err := h.enter(ann, code, a.Request) // the fifth
	h.want(err, "")

	a, code = h.ask(ctx, ForSignIn, ann)
	for range triesMost {
		_, err = h.enter(ann, other(code), a.Request)
		h.want(err, levee.CodeUnauthenticated)
	}
	_, err = h.enter(ann, code, a.Request)
	h.want(err, levee.CodeUnauthenticated)

	a, code = h.ask(ctx, ForSignIn, ann)
	parallel(50, func(int) {
		if _, err := h.enter(ann, other(code), a.Request); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("a wrong code: %v", err)
		}
	})
	var tries int
	if err := h.DB.QueryRow(db.Primary(ctx), `SELECT tries FROM phone_code WHERE phone = ?`, ann).Scan(&tries); err != nil || tries != triesMost {
		t.Errorf("%d tries were counted (%v)", tries, err)
	}
	_, err = h.enter(ann, code, a.Request)
	h.want(err, levee.CodeUnauthenticated)
}

func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// Of fifty who use one code at once, one gets in, and there is one account.
func TestCodeIsUsedOnce(t *testing.T) {
	h := newHouse(t, free)
	a, code := h.ask(context.Background(), ForSignIn, ann)
	var mu sync.Mutex
	in := 0
	parallel(50, func(int) {
		_, err := h.enter(ann, code, a.Request)
		mu.Lock()
		defer mu.Unlock()
		switch levee.CodeOf(err) {
		case "":
			in++
		case levee.CodeUnauthenticated:
		default:
			t.Error(err)
		}
	})
	var accounts int
	if err := h.DB.QueryRow(db.Primary(context.Background()), `SELECT COUNT(*) FROM identity_user`).Scan(&accounts); err != nil {
		t.Fatal(err)
	}
	if in != 1 || accounts != 1 {
		t.Fatalf("%d got in, %d accounts", in, accounts)
	}
}

// SQL holds no code that could be read, and what it holds of one differs with all that the code is bound to.
func TestCodesAtRest(t *testing.T) {
	h := newHouse(t, free)
	ctx := context.Background()
	a, err := h.Ask(ctx, ForSignIn, ann, h.origin)
	h.want(err, "")
	read := func() (c record) {
		t.Helper()
		if err := h.DB.QueryRow(db.Primary(ctx), `SELECT request, hash, sealed FROM phone_code WHERE phone = ?`, ann).Scan(&c.request, &c.hash, &c.sealed); err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := read()
	var args string
	if err := h.DB.QueryRow(db.Primary(ctx), `SELECT args FROM job_task WHERE kind = 'phone.send'`).Scan(&args); err != nil {
		t.Fatal(err)
	}
	h.drain()
	after, code := read(), h.sms.Sent()[0].Code
	if before.sealed == "" || strings.Contains(before.sealed, code) || after.sealed != "" {
		t.Errorf("the code is kept as %q before it is sent and as %q afterwards", before.sealed, after.sealed)
	}
	if strings.Contains(args, ann[1:]) || strings.Contains(args, a.Request.Reveal()) || strings.Contains(before.request, a.Request.Reveal()) {
		t.Errorf("the job tells %s, the row %s", args, before.request)
	}
	c := record{phone: ann, purpose: ForSignIn, request: before.request}
	if h.hash(c, code) != before.hash {
		t.Fatal("the hash is of something else")
	}
	seen := map[string]string{before.hash: "itself"}
	for what, change := range map[string]func(*record, *string){
		"number": func(c *record, _ *string) { c.phone = bob }, "purpose": func(c *record, _ *string) { c.purpose = ForBind },
		"device": func(c *record, _ *string) { c.request += "0" }, "account": func(c *record, _ *string) { c.user = 1 },
		"code": func(_ *record, code *string) { *code = other(*code) },
	} {
		d, digits := c, code
		change(&d, &digits)
		if twin := seen[h.hash(d, digits)]; twin != "" {
			t.Errorf("another %s has the hash of %s", what, twin)
		}
		seen[h.hash(d, digits)] = what
	}
	keyed := *h.Service
	keyed.mark = platformtest.Key(9)
	if keyed.hash(c, code) == before.hash {
		t.Error("the hash needs no key")
	}
}

// All codes are six digits, zeros at the front too, and no digit of them is rarer than others.
func TestCodesAreDrawnEvenly(t *testing.T) {
	var counts [codeDigits][10]int
	const drawn = 20_000
	for range drawn {
		c := newCode()
		if len(c) != codeDigits {
			t.Fatal(c)
		}
		for i := range c {
			counts[i][c[i]-'0']++
		}
	}
	for place, digits := range counts {
		for digit, n := range digits {
			if n < drawn/10-600 || n > drawn/10+600 { // fourteen standard deviations
				t.Errorf("the digit %d stands %d times at place %d", digit, n, place)
			}
		}
	}
}

// The answer is the same for a number that nobody has, one that was typed and one that was proven, and so is the refusal of a wrong code.
func TestNothingIsToldOfNumbers(t *testing.T) {
	h := newHouse(t, free)
	ctx := context.Background()
	h.byPhone(ann)
	h.account("typed", bob)
	const nobody = "+8613800138002"
	var answers, refusals []string
	for _, phone := range []string{ann, bob, nobody} {
		for _, p := range []Purpose{ForSignIn, ForBind} {
			a, code := h.ask(as(identity.User{ID: 7}), p, phone)
			answers = append(answers, fmt.Sprint(len(a.Request), a.ExpiresAt, a.RetryAfter))
			if p == ForSignIn {
				_, err := h.enter(phone, other(code), a.Request)
				refusals = append(refusals, fmt.Sprint(err))
			}
		}
		_, err := h.enter(phone, "123456", "nothing was asked")
		refusals = append(refusals, fmt.Sprint(err))
	}
	for _, list := range [][]string{answers, refusals} {
		for _, one := range list {
			if one != list[0] || one == "<nil>" {
				t.Errorf("%q and %q", one, list[0])
			}
		}
	}
	_, err := h.Ask(ctx, ForBind, ann, h.origin)
	h.want(err, levee.CodeUnauthenticated)
	_, err = h.Ask(levee.WithActor(ctx, levee.Actor{User: 5, Rehearsal: true}), ForBind, ann, h.origin)
	h.want(err, levee.CodeForbidden)
	_, err = h.Ask(ctx, "other", ann, h.origin)
	h.want(err, levee.CodeInvalid)
	for _, text := range []string{"", "ann", "+999", "+4915112345678", "+4413800138000"} { // no numbers, and countries that are not listed
		_, err = h.Ask(ctx, ForSignIn, text, h.origin)
		h.want(err, levee.CodeInvalid)
	}
}

// One message in a minute and five in a day to a number, twenty in an hour for an address, and no more than the house pays for; what is refused costs
// nothing. While nobody can tell, nothing goes out.
func TestAskingIsLimited(t *testing.T) {
	number := func(n int) string { return fmt.Sprintf("+861380013%04d", n) }
	only := func(names ...string) map[string]string {
		rates := map[string]string{}
		for name, rate := range free {
			rates[name] = rate
		}
		for _, name := range names {
			delete(rates, name)
		}
		return rates
	}
	ctx := context.Background()
	t.Run("minute", func(t *testing.T) {
		h := newHouse(t, nil)
		a, err := h.Ask(ctx, ForSignIn, ann, h.origin)
		h.want(err, "")
		if a.RetryAfter <= 50*time.Second || a.RetryAfter > time.Minute {
			t.Errorf("the next one can be asked for after %v", a.RetryAfter)
		}
		for _, p := range []Purpose{ForSignIn, ForBind} { // another purpose is another message to the same telephone
			for _, text := range []string{ann, "138 0013 8000", "0086 13800138000"} {
				_, err = h.Ask(as(identity.User{ID: 7}), p, text, h.origin)
				h.want(err, levee.CodeTooManyRequests)
			}
		}
		_, err = h.Ask(ctx, ForSignIn, bob, h.origin)
		h.want(err, "")
		h.drain()
		if n := len(h.sms.Sent()); n != 2 {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("day", func(t *testing.T) {
		h := newHouse(t, only("sms_day"))
		for i := range 6 {
			h.origin.Address = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			_, err := h.Ask(ctx, ForSignIn, ann, h.origin)
			h.want(err, map[bool]levee.Code{true: levee.CodeTooManyRequests}[i == 5])
		}
	})
	t.Run("address", func(t *testing.T) {
		h := newHouse(t, only("sms_address"))
		for i := range 21 {
			_, err := h.Ask(ctx, ForSignIn, number(i), h.origin)
			h.want(err, map[bool]levee.Code{true: levee.CodeTooManyRequests}[i == 20])
		}
		h.origin.Address = netip.MustParseAddr("192.0.2.8")
		_, err := h.Ask(ctx, ForSignIn, number(20), h.origin)
		h.want(err, "")
	})
	t.Run("house", func(t *testing.T) {
		rates := only("sms_house")
		rates["sms_house"] = "3/d"
		h := newHouse(t, rates)
		for i := range 4 {
			h.origin.Address = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			_, err := h.Ask(ctx, ForSignIn, number(i), h.origin)
			h.want(err, map[bool]levee.Code{true: levee.CodeTooManyRequests}[i == 3])
		}
		h.drain()
		if n := len(h.sms.Sent()); n != 3 {
			t.Errorf("%d messages", n)
		}
	})
	t.Run("most of a day", func(t *testing.T) {
		r := limit.SMSHouse
		h := newHouse(t, nil)
		if rate := h.Limits.Rate(r); rate.Per != 24*time.Hour || rate.Count+rate.Most() > 6000 {
			t.Errorf("the house pays for more than 6000 messages in a day: %v", rate)
		}
	})
}

// While Redis is away, no message goes out on anybody's account.
func TestNothingIsSentWhileRedisIsAway(t *testing.T) {
	server, err := backends.StartRedis(t.Context(), backends.RedisOptions{})
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer server.Close()
	o := obs.Test(t)
	c, err := redis.Open(t.Context(), redis.Config{URL: server.URL(), Timeout: 2 * time.Second}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	limits, err := limit.OpenShared(limit.Config{}, c, o)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, nil, func(d *Deps) { d.Limits = limits })
	for _, n := range []limit.Name{limit.SMS, limit.SMSDay, limit.SMSAddress, limit.SMSHouse} { // each by itself: any of them would refuse the step
		if limits.WhenAway(n) != limit.AwayClosed {
			t.Errorf("%v is %v while Redis is away", n, limits.WhenAway(n))
		}
	}
	_, err = h.Ask(context.Background(), ForSignIn, ann, h.origin)
	h.want(err, "")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err = h.Ask(context.Background(), ForSignIn, bob, h.origin)
		h.want(err, levee.CodeUnavailable)
	}
	h.drain()
	if went := h.sms.Sent(); len(went) != 1 || "+"+went[0].Phone != ann {
		t.Errorf("%v", went)
	}
}

func TestPrune(t *testing.T) {
	h := newHouse(t, free)
	h.ask(context.Background(), ForSignIn, ann)
	h.clock.Step(codeLife / 2)
	a, code := h.ask(context.Background(), ForSignIn, bob)
	h.clock.Step(codeLife / 2)
	if err := h.Prune(context.Background()); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := h.DB.QueryRow(db.Primary(context.Background()), `SELECT COUNT(*) FROM phone_code`).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows (%v)", rows, err)
	}
	_, err := h.enter(bob, code, a.Request)
	h.want(err, "")
}

func TestConfigBounds(t *testing.T) {
	good := Config{Sender: senderAliyun, Aliyun: AliyunConfig{KeyID: "id", KeySecret: "canary-secret", SignName: "levee", Template: "SMS_1"}}
	for _, c := range []Config{{}, good, {Sender: senderConsole}, {Countries: []string{"86", "852", "1"}}} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
	for field, spoil := range map[string]func(*Config){
		"phone.sender":            func(c *Config) { c.Sender = "pigeon" },
		"phone.countries":         func(c *Config) { c.Countries = []string{"+86"} },
		"phone.aliyun.endpoint":   func(c *Config) { c.Aliyun.Endpoint = "http://dysmsapi.aliyuncs.com" },
		"phone.aliyun.key_id":     func(c *Config) { c.Aliyun.KeyID = "" },
		"phone.aliyun.key_secret": func(c *Config) { c.Aliyun.KeySecret = obs.Secret(strings.Repeat("canary-secret", 30)) },
		"phone.aliyun.sign_name":  func(c *Config) { c.Aliyun.SignName = strings.Repeat("x", 129) },
		"phone.aliyun.template":   func(c *Config) { c.Aliyun.Template = "" },
	} {
		c := good
		spoil(&c)
		err := c.Validate()
		if levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
