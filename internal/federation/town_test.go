package federation

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/token"
	"levee/internal/trail"
)

// town is a house and the providers beside it.
type town struct {
	*platformtest.Platform
	*Service
	t      *testing.T
	clock  *obs.StepClock
	people *identity.Service
	told   *trail.Service
	log    *logged
}

// logged keeps what the house logs.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

const publicURL = "https://levee.example"

func newTown(t *testing.T, providers map[string]Provider) *town {
	t.Helper()
	h := &town{t: t, clock: &obs.StepClock{}, log: &logged{},
		Platform: platformtest.New(t, trail.Schema(), token.Schema(), identity.Schema(), Schema())}
	o, err := obs.Open(obs.Config{Level: "debug", Format: "json"}, h.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close(context.Background()) })
	o.Clock = h.clock.Now
	p := h.Platform
	h.told = trail.New(trail.Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: o, Key: platformtest.Key(4)})
	tokens := token.New(token.Deps{DB: p.DB, Sealer: p.Sealer, Obs: o, Seal: platformtest.Key(3), Key: ed25519.NewKeyFromSeed(platformtest.Key(2))})
	h.people = identity.New(identity.Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: o, Limits: p.Limits, Events: p.Events,
		Config: identity.Config{HashMemory: 8192, HashTime: 1}, Tokens: tokens, Trail: h.told})
	h.Service = New(Deps{DB: p.DB, Obs: o, Identity: h.people, Trail: h.told, Config: Config{Providers: providers, Insecure: []string{"127.0.0.1"}},
		PublicURL: publicURL, OtherWayTx: h.people.HasPasswordTx})
	return h
}

func (h *town) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// want fails the test unless err has the code and the reason ("": any).
func (h *town) want(err error, code levee.Code, reason string) {
	h.t.Helper()
	var e *levee.Error
	if !errors.As(err, &e) || e.Code != code || reason != "" && e.Data["reason"] != reason {
		h.t.Errorf("got %v, want %s with the reason %q", err, code, reason)
	}
}

var origin = Origin{Address: netip.MustParseAddr("192.0.2.7"), Agent: "test", RequestID: "req-1"}

// as is the context of somebody who signed in.
func as(g identity.Grant) context.Context {
	return levee.WithActor(context.Background(), levee.Actor{User: g.User.ID, Session: g.Session.ID, Roles: g.User.Roles})
}

// member is an account with a password, signed in.
func (h *town) member(name string) identity.Grant {
	h.t.Helper()
	_, err := h.people.SignUp(context.Background(), identity.NewUser{Name: name, Password: "vines over 9 walls"}, origin)
	h.must(err)
	g, err := h.people.SignIn(context.Background(), identity.SignIn{Name: name, Password: "vines over 9 walls", Kind: identity.SessionCookie}, origin)
	h.must(err)
	return g
}

// acts counts the trail's rows of an action.
func (h *town) acts(action string) int {
	h.t.Helper()
	list, _, err := h.told.List(levee.WithActor(context.Background(), levee.System), trail.Filter{Action: action, Page: levee.Page{Limit: 100}})
	h.must(err)
	return len(list)
}

// come goes to an OpenID provider, says yes there as somebody, and returns what the browser comes back with.
func (h *town) come(ctx context.Context, p *op, name, subject string, link bool) Answer {
	h.t.Helper()
	begin := h.BeginSignIn
	if link {
		begin = h.BeginLink
	}
	b, err := begin(ctx, name, "/orders?all=1")
	h.must(err)
	a := p.consent(h.t, b.Address, subject)
	a.Provider, a.Browser = name, b.Browser
	return a
}

func (h *town) signIn(p *op, name, subject string) (SignedIn, error) {
	h.t.Helper()
	return h.Service.SignIn(context.Background(), h.come(context.Background(), p, name, subject, false), origin)
}

func (h *town) link(g identity.Grant, p *op, name, subject string) (Linked, error) {
	h.t.Helper()
	return h.FinishLink(as(g), h.come(as(g), p, name, subject, true), origin)
}

// keyring is a provider's private keys; other is one that it does not show.
type keyring struct {
	rsa, other *rsa.PrivateKey
	ec         *ecdsa.PrivateKey
	ed         ed25519.PrivateKey
}

var ring = sync.OnceValue(func() (k keyring) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.other, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

const (
	clientID     = "levee-at-op"
	clientSecret = "canary-secret: of 100% & more"
)

// op is an OpenID provider that can be made to lie. Its honest half follows the specification to the letter: a code once, PKCE, the client's secret.
type op struct {
	*httptest.Server
	now obs.Clock

	mu       sync.Mutex // guards below
	codes    map[string]*given
	metadata map[string]any // over the usual
	claims   func(c jwt.MapClaims)
	sign     func(c jwt.MapClaims) string
	token    http.HandlerFunc // instead of the usual
	keysRead int
	metaRead int
	secrets  []string // what no log may have
}

// given is what a code stands for.
type given struct{ challenge, redirect, nonce, subject string }

func newOP(t *testing.T) *op {
	t.Helper()
	p := &op{codes: map[string]*given{}, metadata: map[string]any{}, secrets: []string{clientSecret, url.QueryEscape(clientSecret)}, now: (&obs.StepClock{}).Now}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *op) provider() Provider {
	return Provider{Kind: "oidc", Issuer: p.URL, ClientID: clientID, ClientSecret: clientSecret, Label: "The Shop"}
}

func (p *op) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /.well-known/openid-configuration", "GET /elsewhere":
		p.metaRead++
		m := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize?tenant=1", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys"}
		maps.Copy(m, p.metadata)
		if to, ok := m["redirect"].(string); ok && to != r.URL.Path {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		reply(200, m)
	case "GET /keys":
		p.keysRead++
		k := ring()
		point, _ := k.ec.Bytes()
		reply(200, map[string]any{"keys": []map[string]any{
			{"kty": "RSA", "kid": "r1", "n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes())},
			{"kty": "EC", "crv": "P-256", "kid": "e1", "x": b64(k.ec.X.FillBytes(make([]byte, 32))), "y": b64(k.ec.Y.FillBytes(make([]byte, 32)))},
			{"kty": "OKP", "crv": "Ed25519", "kid": "d1", "x": b64(k.ed.Public().(ed25519.PublicKey))},
		}, "seen": len(point)})
	case "POST /token":
		if p.token != nil {
			p.token(w, r)
			return
		}
		id, secret, _ := r.BasicAuth()
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
		if m, _ := p.metadata["token_endpoint_auth_methods_supported"].([]string); len(m) == 1 && m[0] == "client_secret_post" {
			id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
		}
		if id != clientID || secret != clientSecret {
			reply(401, map[string]any{"error": "invalid_client"})
			return
		}
		g := p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		p.secrets = append(p.secrets, r.PostFormValue("code_verifier"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if g == nil || g.challenge != b64(sum[:]) || g.redirect != r.PostFormValue("redirect_uri") || r.PostFormValue("grant_type") != "authorization_code" {
			reply(400, map[string]any{"error": "invalid_grant", "error_description": "canary-description"})
			return
		}
		now, access := p.now(), rand.Text()
		c := jwt.MapClaims{"iss": p.URL, "aud": clientID, "sub": g.subject, "nonce": g.nonce, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
			"at_hash": accessHash("RS256", access), "preferred_username": "mei", "email": "mei@example.org", "phone_number": "+8613800138000"}
		if p.claims != nil {
			p.claims(c)
		}
		sign := p.sign
		if sign == nil {
			sign = func(c jwt.MapClaims) string { return signed(jwt.SigningMethodRS256, ring().rsa, "r1", c) }
		}
		text := sign(c)
		p.secrets = append(p.secrets, text, access)
		reply(200, map[string]any{"access_token": access, "token_type": "Bearer", "id_token": text})
	default:
		http.NotFound(w, r)
	}
}

func signed(m jwt.SigningMethod, key any, kid string, c jwt.MapClaims) string {
	t := jwt.NewWithClaims(m, c)
	t.Header["kid"] = kid
	text, err := t.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

// consent is the provider's page: somebody says yes, and his browser is sent back.
func (p *op) consent(t *testing.T, address, subject string) Answer {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, want := range map[string]string{"response_type": "code", "client_id": clientID, "scope": "openid profile", "code_challenge_method": "S256", "tenant": "1"} {
		if q.Get(name) != want {
			t.Errorf("the browser was sent with %s=%q, want %q", name, q.Get(name), want)
		}
	}
	if len(q.Get("nonce")) < 40 || len(q.Get("state")) < 40 || len(q.Get("code_challenge")) != 43 || strings.Contains(address, url.QueryEscape(clientSecret)) {
		t.Errorf("the browser was sent to %s", address)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	code := "code-" + rand.Text()
	p.codes[code] = &given{challenge: q.Get("code_challenge"), redirect: q.Get("redirect_uri"), nonce: q.Get("nonce"), subject: subject}
	p.secrets = append(p.secrets, code)
	return Answer{State: q.Get("state"), Code: code, Issuer: p.URL}
}

// set changes how the provider behaves.
func (p *op) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// honest makes it what it was.
func (p *op) honest() {
	p.set(func() { p.claims, p.sign, p.token, p.metadata = nil, nil, nil, map[string]any{} })
}
