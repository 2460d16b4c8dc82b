package token_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

// keySet fetches the key set as another service does, with nothing but its address.
func keySet(t *testing.T, h *apptest.House) (set jose.JSONWebKeySet) {
	t.Helper()
	a := h.Visitor.Do("GET", "/.well-known/jwks.json", nil).Want(200)
	if kind := a.Header.Get("Content-Type"); kind != "application/jwk-set+json" || a.Header.Get("Cache-Control") != "public, max-age=300" {
		t.Errorf("%v", a.Header)
	}
	tag := a.Header.Get("ETag")
	if again := h.Visitor.Do("GET", "/.well-known/jwks.json", nil, "If-None-Match: "+tag); again.Status != 304 || len(again.Body) != 0 || tag == "" {
		t.Errorf("the same key set again: %d, %q", again.Status, tag)
	}
	a.Into(&set)
	for _, k := range set.Keys {
		if !k.IsPublic() || !k.Valid() || k.Use != "sig" {
			t.Errorf("a key that should not be published so: %+v", k)
		}
	}
	return set
}

// verify verifies a token by the key set as any service does, with a library that is not the one that signed it.
func verify(t *testing.T, set jose.JSONWebKeySet, token string) (alg string, subject string) {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var c jwt.Claims
	if err := parsed.Claims(set, &c); err != nil {
		t.Fatalf("not verified by the key set: %v", err)
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Issuer: "levee", AnyAudience: jwt.Audience{"levee"}, Time: time.Now()}, 0); err != nil {
		t.Fatal(err)
	}
	if typ := parsed.Headers[0].ExtraHeaders[jose.HeaderType]; typ != "at+jwt" {
		t.Errorf("typ %v", typ)
	}
	return parsed.Headers[0].Algorithm, c.Subject
}

// administrator signs an administrator in.
func administrator(t *testing.T, h *apptest.House) *apptest.Client {
	t.Helper()
	system := levee.WithActor(t.Context(), levee.System)
	_, err := h.App.Rooms.Identity.Create(system, identity.NewUser{Name: "chief", Password: obs.Secret(apptest.Password),
		Roles: levee.RoleCustomer | levee.RoleAdministrator}, identity.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	return h.SignIn(t, "chief")
}

type shownKey struct {
	KID, Algorithm, State string
	SignsAt               time.Time `json:"signs_at"`
}

func keysOf(t *testing.T, admin *apptest.Client) (list []shownKey) {
	t.Helper()
	var out struct{ Items []shownKey }
	admin.Do("GET", "/v1/signing-keys", nil).Want(200).Into(&out)
	return out.Items
}

// TestAnotherLibraryVerifies: what a service needs is the address of the key set. A roll shows the next key before it signs; a key that leaked is out of the
// set and its tokens are refused at once, and the sessions go on with a refresh.
func TestAnotherLibraryVerifies(t *testing.T) {
	h := apptest.Start(t)
	admin := administrator(t, h)
	set := keySet(t, h)
	if alg, sub := verify(t, set, h.Customer.Token); alg != "RS256" || sub != claim(t, h.Customer.Token, "sub") {
		t.Errorf("%s, %s", alg, sub)
	}
	first := keysOf(t, admin)[0]
	for _, who := range []*apptest.Client{h.Customer, h.Operator} {
		who.Do("GET", "/v1/signing-keys", nil).WantError(403, levee.CodeForbidden)
		who.Do("POST", "/v1/signing-keys", map[string]any{}).WantError(403, levee.CodeForbidden)
	}
	admin.Do("POST", "/v1/signing-keys", map[string]any{"algorithm": "HS256"}).WantError(422, levee.CodeInvalid)

	var next shownKey
	admin.Do("POST", "/v1/signing-keys", map[string]any{"algorithm": "EdDSA"}).Want(201).Into(&next)
	if next.State != "published" || next.SignsAt.Before(time.Now().Add(50*time.Minute)) {
		t.Errorf("%+v", next)
	}
	if set = keySet(t, h); len(set.Keys) != 2 || len(set.Key(next.KID)) != 1 {
		t.Errorf("the next key is not published: %+v", set)
	}
	admin.Do("POST", "/v1/signing-keys", map[string]any{}).WantError(409, levee.CodeConflict)
	cached := set // a service fetched it now
	admin.Do("POST", "/v1/signing-keys", map[string]any{"now": true}).Want(201).Into(&next)
	eventually(t, "the next key signs", func() bool {
		for _, k := range keysOf(t, admin) {
			if k.KID == next.KID {
				return k.State == "signing"
			}
		}
		return false
	})
	token := h.SignIn(t, "customer").Token
	if header(t, token) != next.KID {
		t.Error("another key signs")
	}
	if alg, _ := verify(t, cached, token); alg != "EdDSA" {
		t.Error("the new token is not by the key that was published before")
	}
	verify(t, cached, h.Customer.Token)
	h.Customer.Do("GET", "/v1/me", nil).Want(200)

	// The first key leaks. It has retired, and its tokens are in the cache.
	admin = h.SignIn(t, "chief")
	admin.Do("POST", "/v1/signing-keys/"+first.KID+"/retire", map[string]any{}).WantError(409, levee.CodeConflict)
	admin.Do("POST", "/v1/signing-keys/nobody/retire", map[string]any{"withdraw": true}).WantError(404, levee.CodeNotFound)
	admin.Do("POST", "/v1/signing-keys/"+first.KID+"/retire", map[string]any{"withdraw": true}).Want(200)
	h.Customer.Do("GET", "/v1/me", nil).WantError(401, levee.CodeUnauthenticated)
	fresh := h.Customer.At(h.Base)
	fresh.Token = token
	fresh.Do("GET", "/v1/me", nil).Want(200)
	if set = keySet(t, h); len(set.Key(first.KID)) != 0 {
		t.Error("a key that leaked is still published")
	}
	admin.Do("GET", "/v1/audit?action=key.retired", nil).Want(200).Contains(first.KID, "withdrawn_at")
}

func header(t *testing.T, token string) string {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Headers[0].KeyID
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// TestConfig: what is wrong is named with its key.
func TestConfig(t *testing.T) {
	for field, change := range map[string]func(*app.Config){
		"token.algorithm": func(c *app.Config) { c.Token.Algorithm = "HS256" },
		"token.key_lead":  func(c *app.Config) { c.Token.KeyLead = time.Second },
		"token.key_every": func(c *app.Config) { c.Token.KeyEvery = time.Hour },
		"identity.foreign_issuer": func(c *app.Config) {
			c.Identity.ForeignIssuer, c.Identity.ForeignAudience, c.Identity.ForeignKeys = "levee", "x", "keys.json"
		},
	} {
		cfg := app.Config{Data: t.TempDir()}
		cfg.HTTP.Addr = "127.0.0.1:0"
		change(&cfg)
		a, err := app.New(t.Context(), cfg, t.Output())
		if err == nil {
			_ = a.Close(t.Context())
		}
		if levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
