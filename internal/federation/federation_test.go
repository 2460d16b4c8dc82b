package federation

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

func TestSignIn(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	h.member("mei") // the name that the provider tells is taken, and its e-mail address and phone number join nothing
	first, err := h.signIn(p, "shop", "s-1")
	h.must(err)
	if !first.New || first.ReturnTo != "/orders?all=1" || first.Cookie == "" || first.AccessToken != "" || !strings.HasPrefix(first.User.Name, "buyer-") ||
		first.User.Phone != "" || first.User.Roles != levee.RoleCustomer {
		t.Errorf("%+v", first)
	}
	again, err := h.signIn(p, "shop", "s-1")
	h.must(err)
	if again.New || again.User.ID != first.User.ID || again.Session.ID == first.Session.ID {
		t.Errorf("the second time: %+v", again)
	}
	// Subjects are told apart byte by byte, on either engine.
	seen := map[levee.UserID]string{first.User.ID: "s-1"}
	for _, subject := range []string{"S-1", "s-1 ", "ś-1", "s-2"} {
		g, err := h.signIn(p, "shop", subject)
		h.must(err)
		if other, ok := seen[g.User.ID]; ok || !g.New {
			t.Errorf("%q and %q are one account", subject, other)
		}
		seen[g.User.ID] = subject
	}
	if n := h.acts("user.federated"); n != 5 {
		t.Errorf("%d first sign-ins stand in the trail, want 5", n)
	}
	// A free name is taken as it is; a name that imitates the house's staff is not.
	for said, want := range map[string]string{"orchard": "orchard", "admin": "", "not a name!": "", "梅": ""} {
		p.set(func() { p.claims = func(c jwt.MapClaims) { c["preferred_username"] = said } })
		g, err := h.signIn(p, "shop", "named "+said)
		h.must(err)
		if want == "" && !strings.HasPrefix(g.User.Name, "buyer-") || want != "" && g.User.Name != want {
			t.Errorf("who is called %q there is called %q here", said, g.User.Name)
		}
	}
}

func TestEveryAlgorithm(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	for alg, sign := range map[string]func(c jwt.MapClaims) string{
		"RS256": func(c jwt.MapClaims) string { return signed(jwt.SigningMethodRS256, ring().rsa, "r1", c) },
		"ES256": func(c jwt.MapClaims) string { return signed(jwt.SigningMethodES256, ring().ec, "e1", c) },
		"EdDSA": func(c jwt.MapClaims) string { return signed(jwt.SigningMethodEdDSA, ring().ed, "d1", c) },
	} {
		// The access token is not known here: leave its hash out, TestAccessHash has it.
		p.set(func() { p.claims, p.sign = func(c jwt.MapClaims) { delete(c, "at_hash") }, sign })
		if _, err := h.signIn(p, "shop", "s"); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	p.honest()
	p.set(func() { p.metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"} })
	h = newTown(t, map[string]Provider{"shop": p.provider()})
	if _, err := h.signIn(p, "shop", "s"); err != nil {
		t.Errorf("client_secret_post: %v", err)
	}
}

// The example of OpenID Connect Core 1.0, appendix A.4, and one made with another program (openssl dgst -sha512) for Ed25519.
func TestAccessHash(t *testing.T) {
	if got := accessHash("RS256", "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"); got != "77QmUPtjPfzWtF2AnpK9RQ" {
		t.Errorf("RS256: %s", got)
	}
	if got := accessHash("EdDSA", "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"); got != edHash {
		t.Errorf("EdDSA: %s", got)
	}
}

// A provider, or who speaks for it, gives tokens that are no good: each is refused, and makes no account.
func TestHostileTokens(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: func() []byte { b, _ := x509.MarshalPKIXPublicKey(&ring().rsa.PublicKey); return b }()})
	claim := func(name string, value any) func() {
		return func() {
			p.claims = func(c jwt.MapClaims) {
				if c[name] = value; value == nil {
					delete(c, name)
				}
			}
		}
	}
	past := h.clock.Now().Add(-time.Second).Unix()
	for name, change := range map[string]func(){
		"another audience":        claim("aud", "another-client"),
		"no audience":             claim("aud", nil),
		"several, no party":       claim("aud", []string{clientID, "another-client"}),
		"another party":           claim("azp", "another-client"),
		"party is no text":        claim("azp", []string{clientID}),
		"another nonce":           claim("nonce", "another"),
		"no nonce":                claim("nonce", nil),
		"an empty nonce":          claim("nonce", ""),
		"another issuer":          claim("iss", "https://evil.example"),
		"issuer with a slash":     claim("iss", p.URL+"/"),
		"no issuer":               claim("iss", nil),
		"expired":                 claim("exp", past),
		"no expiry":               claim("exp", nil),
		"from the future":         claim("iat", h.clock.Now().Add(time.Hour).Unix()),
		"no time of issue":        claim("iat", nil),
		"not yet":                 claim("nbf", h.clock.Now().Add(time.Hour).Unix()),
		"no subject":              claim("sub", nil),
		"an empty subject":        claim("sub", ""),
		"a subject that is a sum": claim("sub", 7),
		"a huge subject":          claim("sub", strings.Repeat("s", 191)),
		"another access token":    claim("at_hash", accessHash("RS256", "another")),
		"at_hash is no text":      claim("at_hash", 7),
		"alg none": func() {
			p.sign = func(c jwt.MapClaims) string {
				return signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "r1", c)
			}
		},
		"no signature": func() {
			p.sign = func(c jwt.MapClaims) string {
				text := signed(jwt.SigningMethodRS256, ring().rsa, "r1", c)
				return text[:strings.LastIndexByte(text, '.')+1]
			}
		},
		"HS256 with the public key": func() {
			p.sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodHS256, public, "r1", c) }
		},
		"HS256 with the client secret": func() {
			p.sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodHS256, []byte(clientSecret), "r1", c) }
		},
		"RS512": func() {
			p.sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodRS512, ring().rsa, "r1", c) }
		},
		"a key that it does not show": func() {
			p.sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodRS256, ring().other, "r1", c) }
		},
		"an unknown kid": func() {
			p.sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodRS256, ring().rsa, "r2", c) }
		},
		"no JWT":      func() { p.sign = func(jwt.MapClaims) string { return "hello" } },
		"no ID token": func() { p.sign = func(jwt.MapClaims) string { return "" } },
	} {
		p.honest()
		p.set(change)
		_, err := h.signIn(p, "shop", "victim")
		if err == nil {
			t.Errorf("%s: signed in", name)
			continue
		}
		h.want(err, levee.CodeForbidden, ReasonAnswer)
	}
	if n := h.acts("user.federated"); n != 0 {
		t.Errorf("%d accounts were made", n)
	}
	p.honest() // the control: the same person gets in when the provider is honest
	_, err := h.signIn(p, "shop", "victim")
	h.must(err)
	p.set(func() {
		p.claims = func(c jwt.MapClaims) { c["aud"], c["azp"] = []string{"another-client", clientID}, clientID }
	})
	_, err = h.signIn(p, "shop", "victim")
	h.must(err)
}

// A provider that answers for another one gets no code of that one (RFC 9207; RFC 9700, section 4.4).
func TestMixUp(t *testing.T) {
	honest, evil := newOP(t), newOP(t)
	h := newTown(t, map[string]Provider{"shop": honest.provider(), "evil": evil.provider()})
	ctx := context.Background()
	var seen atomic.Int64
	evil.set(func() {
		evil.token = func(w http.ResponseWriter, _ *http.Request) { seen.Add(1); http.Error(w, "{}", 400) }
	})
	for name, c := range map[string]struct {
		change func(a *Answer)
		code   levee.Code
		reason string
	}{
		"iss of the other":          {func(a *Answer) { a.Issuer = honest.URL }, levee.CodeForbidden, ReasonAnswer},
		"the other's callback":      {func(a *Answer) { a.Provider = "shop" }, levee.CodeGone, ReasonOver},
		"the other's, and its name": {func(a *Answer) { a.Provider, a.Issuer = "shop", honest.URL }, levee.CodeGone, ReasonOver},
	} {
		// The victim chose evil, which sent him on to the honest provider with its own state: the honest code comes back at evil's address.
		a := h.come(ctx, evil, "evil", "s", false)
		a.Code = h.come(ctx, honest, "shop", "victim", false).Code
		c.change(&a)
		_, err := h.Service.SignIn(ctx, a, origin)
		if err == nil {
			t.Errorf("%s: signed in", name)
		}
		h.want(err, c.code, c.reason)
	}
	if seen.Load() != 0 {
		t.Error("the other provider was shown a code that is not its own")
	}
	honest.set(func() { honest.metadata["authorization_response_iss_parameter_supported"] = true })
	h = newTown(t, map[string]Provider{"shop": honest.provider()})
	a := h.come(ctx, honest, "shop", "s", false)
	a.Issuer = ""
	_, err := h.Service.SignIn(ctx, a, origin)
	h.want(err, levee.CodeForbidden, ReasonAnswer)
	_, err = h.signIn(honest, "shop", "s")
	h.must(err)
}

// Of fifty who bring the same answer at once, one signs in.
func TestAnAnswerIsUsedOnce(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	a := h.come(context.Background(), p, "shop", "s", false)
	var in, out atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := h.Service.SignIn(context.Background(), a, origin)
			if err == nil {
				in.Add(1)
				return
			}
			out.Add(1)
			h.want(err, levee.CodeGone, ReasonOver)
		})
	}
	wg.Wait()
	if in.Load() != 1 || out.Load() != 49 {
		t.Errorf("%d signed in, %d did not", in.Load(), out.Load())
	}
	// Also where the provider would take the code again, and after a failure.
	p.set(func() { p.token = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "{}", 500) } })
	a = h.come(context.Background(), p, "shop", "s", false)
	_, err := h.Service.SignIn(context.Background(), a, origin)
	h.want(err, levee.CodeUnavailable, ReasonAway)
	p.honest()
	_, err = h.Service.SignIn(context.Background(), a, origin)
	h.want(err, levee.CodeGone, ReasonOver)
}

func TestAnAttemptBelongsToItsBrowser(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	ctx := context.Background()
	mei, bo := h.member("mei"), h.member("bo")
	victims := h.come(ctx, p, "shop", "attacker", false)
	for name, change := range map[string]func(a *Answer){
		"another browser":    func(a *Answer) { a.Browser = h.come(ctx, p, "shop", "victim", false).Browser },
		"no cookie":          func(a *Answer) { a.Browser = "" },
		"the hash as cookie": func(a *Answer) { a.Browser = obs.Secret(hash(a.Browser.Reveal())) },
		"another state":      func(a *Answer) { a.State = "sign" + strings.Repeat("0", 64) },
		"no state":           func(a *Answer) { a.State = "" },
	} {
		a := victims
		change(&a)
		_, err := h.Service.SignIn(ctx, a, origin)
		if err == nil {
			t.Errorf("%s: signed in", name)
		}
		h.want(err, levee.CodeGone, ReasonOver)
	}
	_, err := h.FinishLink(as(mei), victims, origin) // a sign-in's answer links nothing
	h.want(err, levee.CodeGone, ReasonOver)
	_, err = h.Service.SignIn(ctx, victims, origin) // and none of them took the attempt from its browser
	h.must(err)

	link := h.come(as(mei), p, "shop", "mei-there", true)
	_, err = h.Service.SignIn(ctx, link, origin) // a linking's answer signs nobody in
	h.want(err, levee.CodeGone, ReasonOver)
	_, err = h.FinishLink(as(bo), link, origin)
	h.want(err, levee.CodeGone, ReasonOver)
	other, err := h.people.SignIn(ctx, identity.SignIn{Name: "mei", Password: "vines over 9 walls", Kind: identity.SessionCookie}, origin)
	h.must(err)
	_, err = h.FinishLink(as(other), link, origin) // the same person in another session
	h.want(err, levee.CodeGone, ReasonOver)
	_, err = h.FinishLink(as(mei), link, origin)
	h.must(err)
}

func TestAnAttemptEnds(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	ctx := context.Background()
	kept := h.come(ctx, p, "shop", "s", false)
	h.clock.Step(attemptTTL - time.Second)
	p.set(func() { p.now = h.clock.Now })
	late := h.come(ctx, p, "shop", "s", false)
	_, err := h.Service.SignIn(ctx, kept, origin)
	h.must(err)
	h.clock.Step(attemptTTL)
	_, err = h.Service.SignIn(ctx, late, origin)
	h.want(err, levee.CodeGone, ReasonOver)
	for range pruneBatch + 3 {
		_, err := h.BeginSignIn(ctx, "shop", "")
		h.must(err)
	}
	h.clock.Step(attemptTTL / 2)
	fresh := h.come(ctx, p, "shop", "s", false)
	h.clock.Step(attemptTTL/2 + time.Second)
	h.must(h.Prune(ctx))
	var left int
	h.must(h.Platform.DB.QueryRow(ctx, `SELECT COUNT(*) FROM federation_attempt`).Scan(&left))
	if left != 1 {
		t.Errorf("%d attempts are left, want the one that is not over", left)
	}
	_, err = h.Service.SignIn(ctx, fresh, origin)
	h.must(err)
}

func TestReturnTo(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	for _, to := range []string{"//evil.example", "/\\evil.example", "\\/evil.example", "\\\\evil.example", "https:", "https://evil.example", "javascript:alert(1)", "evil.example",
		"/\t/evil.example", "/\n/evil.example", "\t//evil.example", " /orders", "/orders\x00", "/a//evil.example", "/a\\b", "/\u2028x", "/\u00a0", "/" + strings.Repeat("a", 500), "/%zz", "?a", "/\xff"} {
		if _, err := h.BeginSignIn(context.Background(), "shop", to); err == nil {
			t.Errorf("%q is taken for a path of this house", to)
		} else {
			h.want(err, levee.CodeInvalid, "")
		}
	}
	for _, to := range []string{"", "/", "/orders", "/sales/sal_1?next=//x&a=https://b#part", "/%2f%2fevil.example", "/商品"} {
		if _, err := h.BeginSignIn(context.Background(), "shop", to); err != nil {
			t.Errorf("%q: %v", to, err)
		}
	}
	_, err := h.BeginSignIn(context.Background(), "none", "/")
	h.want(err, levee.CodeInvalid, "")
}

// What goes wrong at the provider is told in words, and nothing of it that is secret stands in an error or a log.
func TestTroublesOfAProvider(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	h.providers["shop"].driver.(*oidc).caller.client.Timeout = 200 * time.Millisecond
	over := make(chan struct{})
	t.Cleanup(func() { close(over) }) // before the server is closed
	ctx := context.Background()
	status := func(n int, body string) func(a *Answer) {
		return func(*Answer) {
			p.set(func() {
				p.token = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n); _, _ = w.Write([]byte(body)) }
			})
		}
	}
	for name, c := range map[string]struct {
		change func(a *Answer)
		code   levee.Code
		reason string
	}{
		"he said no":          {func(a *Answer) { a.Code, a.Error = "", "access_denied" }, levee.CodeForbidden, ReasonDenied},
		"busy":                {func(a *Answer) { a.Code, a.Error = "", "temporarily_unavailable" }, levee.CodeUnavailable, ReasonAway},
		"a wrong request":     {func(a *Answer) { a.Code, a.Error = "", "invalid_scope\nforged line" }, levee.CodeUnavailable, ReasonRefused},
		"error and code":      {func(a *Answer) { a.Error = "server_error" }, levee.CodeUnavailable, ReasonAway},
		"no code":             {func(a *Answer) { a.Code = "" }, levee.CodeInvalid, ""},
		"a code of its own":   {func(a *Answer) { a.Code = "canary-guess" }, levee.CodeGone, ReasonCode},
		"a huge code":         {func(a *Answer) { a.Code = strings.Repeat("c", 2049) }, levee.CodeInvalid, ""},
		"500":                 {status(500, "canary-body"), levee.CodeUnavailable, ReasonAway},
		"429":                 {status(429, `{"error":"slow_down"}`), levee.CodeUnavailable, ReasonAway},
		"no JSON":             {status(200, "<html>canary-body"), levee.CodeUnavailable, ReasonAway},
		"too large":           {status(200, `{"id_token":"`+strings.Repeat("x", maxReply)+`"}`), levee.CodeUnavailable, ReasonAway},
		"our secret is wrong": {status(401, `{"error":"invalid_client","error_description":"canary-description"}`), levee.CodeUnavailable, ReasonRefused},
		"sent elsewhere":      {status(302, `{"error":"x"}`), levee.CodeUnavailable, ReasonRefused},
		"an error with 200":   {status(200, `{"error":"invalid_grant"}`), levee.CodeGone, ReasonCode},
		"no end": {func(*Answer) {
			p.set(func() {
				p.token = func(w http.ResponseWriter, r *http.Request) {
					p.mu.Unlock()
					defer p.mu.Lock()
					select {
					case <-over:
					case <-r.Context().Done():
					}
				}
			})
		}, levee.CodeUnavailable, ReasonAway},
		"cut off": {func(*Answer) {
			p.set(func() {
				p.token = func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
			})
		}, levee.CodeUnavailable, ReasonAway},
	} {
		p.honest()
		a := h.come(ctx, p, "shop", "s", false)
		c.change(&a)
		_, err := h.Service.SignIn(ctx, a, origin)
		if err == nil {
			t.Errorf("%s: signed in", name)
			continue
		}
		h.want(err, c.code, c.reason)
		h.log.Write([]byte(fmt.Sprintf("%v %+v", err, err))) //nolint:errcheck // what a handler would log
		for _, s := range []string{a.State, a.Browser.Reveal(), a.Code} {
			if s != "" {
				p.set(func() { p.secrets = append(p.secrets, s) })
			}
		}
	}
	for _, s := range append(p.secrets, "canary", "forged line") {
		if strings.Contains(h.log.String(), s) {
			t.Errorf("%q stands in the log", levee.Shorten(s, 40))
		}
	}
	if !strings.Contains(h.log.String(), "the token endpoint: answered 500") {
		t.Error("the log does not tell what happened: the test looked at the wrong one")
	}
}

func TestMetadata(t *testing.T) {
	p := newOP(t)
	ctx := context.Background()
	for name, m := range map[string]map[string]any{
		"another issuer":      {"issuer": "https://evil.example"},
		"a slash more":        {"issuer": p.URL + "/"},
		"no token endpoint":   {"token_endpoint": ""},
		"token by plain http": {"token_endpoint": "http://10.0.0.1/token"},
		"keys from a file":    {"jwks_uri": "file:///etc/passwd"},
		"keys from a path":    {"jwks_uri": "/etc/passwd"},
		"a script":            {"authorization_endpoint": "javascript:alert(1)"},
		"too large":           {"more": strings.Repeat("x", maxReply)},
		"sent elsewhere":      {"redirect": "/elsewhere"},
		"no text":             {"issuer": 7},
	} {
		p.honest()
		p.set(func() { p.metadata = m })
		h := newTown(t, map[string]Provider{"shop": p.provider()})
		if _, err := h.BeginSignIn(ctx, "shop", "/"); err == nil {
			t.Errorf("%s: is taken", name)
		} else {
			h.want(err, levee.CodeUnavailable, ReasonAway)
		}
	}
	// Read once, for an hour; what cannot be read anew is kept, and not asked for at each sign-in.
	p.honest()
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	p.set(func() { p.metaRead, p.now = 0, h.clock.Now })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.BeginSignIn(ctx, "shop", "/"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	reads := func(want int) {
		t.Helper()
		p.set(func() {
			if p.metaRead != want {
				t.Errorf("the metadata were read %d times, want %d", p.metaRead, want)
			}
		})
	}
	reads(1)
	h.clock.Step(metadataTTL)
	p.set(func() { p.metadata["issuer"] = "https://evil.example" })
	for range 5 {
		_, err := h.signIn(p, "shop", "s")
		h.must(err)
	}
	reads(2)
	p.honest()
	h.clock.Step(metadataPause)
	_, err := h.signIn(p, "shop", "s")
	h.must(err)
	reads(3)
	// While they were never read, a second between tries.
	p.set(func() { p.metadata["issuer"], p.metaRead = "https://evil.example", 0 })
	h = newTown(t, map[string]Provider{"shop": p.provider()})
	for range 5 {
		_, err := h.BeginSignIn(ctx, "shop", "/")
		h.want(err, levee.CodeUnavailable, ReasonAway)
	}
	reads(1)
	h.clock.Step(metadataRetry)
	p.honest()
	_, err = h.BeginSignIn(ctx, "shop", "/")
	h.must(err)
}

// Tokens of unknown keys make the house read the key set, but not as often as they come; a key that is new is found.
func TestKeysAreReadAtABoundedRate(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	p.set(func() {
		p.now = h.clock.Now
		p.sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodRS256, ring().rsa, rand.Text(), c) }
	})
	for range 20 {
		_, err := h.signIn(p, "shop", "s")
		h.want(err, levee.CodeForbidden, ReasonAnswer)
	}
	p.set(func() {
		if p.keysRead < 1 || p.keysRead > 2 {
			t.Errorf("twenty tokens of unknown keys had the keys read %d times", p.keysRead)
		}
	})
	h.clock.Step(time.Minute)
	_, err := h.signIn(p, "shop", "s")
	h.want(err, levee.CodeForbidden, ReasonAnswer)
	p.set(func() {
		if p.keysRead < 2 || p.keysRead > 3 {
			t.Errorf("a minute later: read %d times", p.keysRead)
		}
	})
}

func TestOneAccountForWhoComesTwiceAtOnce(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	ctx := context.Background()
	const many = 8
	answers := make([]Answer, many)
	for i := range answers {
		answers[i] = h.come(ctx, p, "shop", "twins", false)
	}
	var wg sync.WaitGroup
	ids := make([]levee.UserID, many)
	var fresh atomic.Int64
	for i := range answers {
		wg.Go(func() {
			g, err := h.Service.SignIn(ctx, answers[i], origin)
			if err != nil {
				t.Error(err)
				return
			}
			if ids[i] = g.User.ID; g.New {
				fresh.Add(1)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("several accounts: %v", ids)
		}
	}
	if fresh.Load() != 1 {
		t.Errorf("%d were told that theirs is new", fresh.Load())
	}
}

func TestLinks(t *testing.T) {
	p, q := newOP(t), newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider(), "club": q.provider()})
	ctx := context.Background()
	mei, bo := h.member("mei"), h.member("bo")
	got, err := h.link(mei, p, "shop", "mei-there")
	h.must(err)
	if got.Provider != "shop" || got.Label != "The Shop" || got.Called != "mei" || !got.Usable || got.ReturnTo != "/orders?all=1" {
		t.Errorf("%+v", got)
	}
	_, err = h.link(mei, p, "shop", "mei-there") // again: nothing happens
	h.must(err)
	if n := h.acts("user.linked"); n != 1 {
		t.Errorf("the trail has %d links, want 1", n)
	}
	in, err := h.signIn(p, "shop", "mei-there")
	h.must(err)
	if in.User.ID != mei.User.ID || in.New {
		t.Errorf("the link leads to %+v", in.User)
	}
	_, err = h.link(bo, p, "shop", "mei-there")
	h.want(err, levee.CodeConflict, ReasonLinked)
	_, err = h.link(mei, p, "shop", "mei-elsewhere")
	h.want(err, levee.CodeConflict, ReasonOther)
	// Who came by the provider first has an account of his own; it is not joined to another behind his back.
	first, err := h.signIn(q, "club", "guest")
	h.must(err)
	_, err = h.link(bo, q, "club", "guest")
	h.want(err, levee.CodeConflict, ReasonLinked)
	list, err := h.Links(as(mei))
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	// Visitors, invented buyers, foreign and personal tokens link nothing.
	scope := levee.NewScope([]string{"accounts:all"})
	for name, a := range map[string]levee.Actor{"visitor": {}, "invented": {User: mei.User.ID, Session: 1, Rehearsal: true}, "foreign": {User: mei.User.ID},
		"personal": {User: mei.User.ID, Session: 1, Scope: scope}} {
		ctx := levee.WithActor(ctx, a)
		_, err1 := h.BeginLink(ctx, "shop", "/")
		_, err2 := h.FinishLink(ctx, Answer{Provider: "shop"}, origin)
		_, err3 := h.Links(ctx)
		err4 := h.Unlink(ctx, "shop", origin)
		for i, err := range []error{err1, err2, err3, err4} {
			if c := levee.CodeOf(err); c != levee.CodeUnauthenticated && c != levee.CodeForbidden {
				t.Errorf("%s, call %d: %v", name, i, err)
			}
		}
	}
	h.must(h.Unlink(as(mei), "shop", origin)) // she has a password
	h.want(h.Unlink(as(mei), "shop", origin), levee.CodeNotFound, "")
	if n := h.acts("user.unlinked"); n != 1 {
		t.Errorf("the trail has %d unlinks, want 1", n)
	}
	again, err := h.signIn(p, "shop", "mei-there")
	h.must(err)
	if again.User.ID == mei.User.ID || !again.New {
		t.Error("an unlinked subject still leads to the account")
	}
	h.want(h.Unlink(as(first.Grant), "club", origin), levee.CodeConflict, ReasonLast)
}

// Of two links that are all that somebody has, one stays: also when both are taken away at once, and when the other's provider is gone.
func TestTheLastWayInStays(t *testing.T) {
	p, q := newOP(t), newOP(t)
	both := map[string]Provider{"shop": p.provider(), "club": q.provider()}
	h := newTown(t, both)
	for round := range 5 {
		in, err := h.signIn(p, "shop", fmt.Sprint("guest-", round))
		h.must(err)
		_, err = h.link(in.Grant, q, "club", fmt.Sprint("guest-", round))
		h.must(err)
		var wg sync.WaitGroup
		var done atomic.Int64
		for _, name := range []string{"shop", "club"} {
			wg.Go(func() {
				if err := h.Unlink(as(in.Grant), name, origin); err == nil {
					done.Add(1)
				} else {
					h.want(err, levee.CodeConflict, ReasonLast)
				}
			})
		}
		wg.Wait()
		if list, err := h.Links(as(in.Grant)); err != nil || len(list) != 1 || done.Load() != 1 {
			t.Errorf("%d were taken away, left are %+v, %v", done.Load(), list, err)
		}
	}
	in, err := h.signIn(p, "shop", "last")
	h.must(err)
	_, err = h.link(in.Grant, q, "club", "last")
	h.must(err)
	one := *h.Service
	one.providers = map[string]*provider{"shop": h.providers["shop"]}
	h.want(one.Unlink(as(in.Grant), "shop", origin), levee.CodeConflict, ReasonLast)
	list, err := one.Links(as(in.Grant))
	if err != nil || len(list) != 2 || list[0].Provider != "club" || list[0].Usable || !list[1].Usable {
		t.Errorf("%+v, %v", list, err)
	}
	h.must(one.Unlink(as(in.Grant), "club", origin)) // what is no way in can go
	// A provider that got another name keeps its people; another provider under the old name does not get them.
	renamed := *h.Service
	other := *h.providers["club"]
	other.name = "shop"
	moved := *h.providers["shop"]
	moved.name = "store"
	renamed.providers = map[string]*provider{"shop": &other, "store": &moved}
	stranger, err := renamed.signInAt(h, q, "shop", "last")
	h.must(err)
	if stranger.User.ID == in.User.ID {
		t.Error("a subject of another provider under the same name leads to the account")
	}
	same, err := renamed.signInAt(h, p, "store", "last")
	h.must(err)
	if same.User.ID != in.User.ID {
		t.Error("a provider with another name lost its people")
	}
}

func (s *Service) signInAt(h *town, p *op, name, subject string) (SignedIn, error) {
	b, err := s.BeginSignIn(context.Background(), name, "/")
	h.must(err)
	a := p.consent(h.t, b.Address, subject)
	a.Provider, a.Browser = name, b.Browser
	return s.SignIn(context.Background(), a, origin)
}

// A disabled account stays shut.
func TestDisabledAccounts(t *testing.T) {
	p := newOP(t)
	h := newTown(t, map[string]Provider{"shop": p.provider()})
	in, err := h.signIn(p, "shop", "s")
	h.must(err)
	_, err = h.people.Disable(levee.WithActor(context.Background(), levee.System), in.User.ID, "test", origin)
	h.must(err)
	_, err = h.signIn(p, "shop", "s")
	h.want(err, levee.CodeForbidden, "")
}

func TestConfig(t *testing.T) {
	good := Provider{Kind: "oidc", Issuer: "https://op.example", ClientID: "c"}
	with := func(f func(p *Provider)) Config {
		p := good
		f(&p)
		return Config{Providers: map[string]Provider{"shop": p}}
	}
	for field, cfg := range map[string]Config{
		"federation.providers":                    {Providers: map[string]Provider{"No Name": good}},
		"federation.providers.shop.kind":          with(func(p *Provider) { p.Kind = "saml" }),
		"federation.providers.shop.issuer":        with(func(p *Provider) { p.Issuer = "http://op.example" }),
		"federation.providers.shop.client_id":     with(func(p *Provider) { p.ClientID = "" }),
		"federation.providers.shop.scopes":        with(func(p *Provider) { p.Scopes = []string{"profile"} }),
		"federation.providers.shop.label":         with(func(p *Provider) { p.Label = "a\nb" }),
		"federation.providers.shop.pages":         with(func(p *Provider) { p.Pages = "https://x.example" }),
		"federation.providers.shop.client_secret": with(func(p *Provider) { p.Kind, p.Issuer = "wechat", "" }),
		"federation.providers.shop.api":           with(func(p *Provider) { p.Kind, p.Issuer, p.ClientSecret, p.API = "wechat", "", "s", "http://x.example" }),
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), field+" must be") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, issuer := range []string{"https://user:pass@op.example", "https://op.example?x", "https://op.example#x", "op.example", "https://", ""} {
		if err := with(func(p *Provider) { p.Issuer = issuer }).Validate(); err == nil {
			t.Errorf("%q is taken for an issuer", issuer)
		}
	}
	text, err := json.Marshal(Config{Providers: map[string]Provider{"shop": {ClientSecret: "canary"}}})
	if err != nil || strings.Contains(string(text), "canary") {
		t.Errorf("%s, %v", text, err)
	}
	if err := with(func(*Provider) {}).Validate(); err != nil {
		t.Error(err)
	}
}

const edHash = "q7nS86GgvvFaZkzALLWqJYaJIKw2wCDAVfCAsm5CrBM"
