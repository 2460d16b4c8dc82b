package identity

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/foreign"
	"levee/internal/platform/obs"
)

// forge makes a token as a foreign shop, a thief or a broken client might.
type forge struct {
	header map[string]any
	claims map[string]any
	method jwt.SigningMethod
	key    any
}

func (f forge) token(t testing.TB) string {
	t.Helper()
	tok := jwt.NewWithClaims(f.method, jwt.MapClaims(f.claims))
	for k, v := range f.header {
		tok.Header[k] = v
	}
	s, err := tok.SignedString(f.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const theirs = "https://shop.example"

// newForeignHouse accepts the tokens of a shop whose key is someKey("shop").
func newForeignHouse(t testing.TB) *house {
	t.Helper()
	public := someKey("shop").Public().(ed25519.PublicKey)
	file := filepath.Join(t.TempDir(), "keys.json")
	set := `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"shop","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}]}`
	if err := os.WriteFile(file, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := cheap
	cfg.ForeignIssuer, cfg.ForeignAudience, cfg.ForeignKeys, cfg.ForeignNameClaim = theirs, "levee", file, "name"
	return newHouse(t, cfg, nil)
}

// foreignToken is the shop's token of one of its customers, good for an hour.
func (h *house) foreignToken(subject, name string, more ...map[string]any) string {
	now := h.clock.Now()
	f := forge{method: jwt.SigningMethodEdDSA, key: someKey("shop"), header: map[string]any{"kid": "shop"}, claims: map[string]any{
		"iss": theirs, "aud": "levee", "sub": subject, "name": name, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}}
	for _, m := range more {
		for k, v := range m {
			f.claims[k] = v
		}
	}
	return f.token(h.t)
}

func (h *house) foreignUser(token string) User {
	h.t.Helper()
	a, err := h.AuthenticateToken(token)
	if err != nil {
		h.t.Fatal(err)
	}
	u, err := h.ByID(levee.WithActor(context.Background(), a), a.User)
	if err != nil {
		h.t.Fatal(err)
	}
	return u
}

func TestForeignAccounts(t *testing.T) {
	h := newForeignHouse(t)
	h.signUp("taken")
	mei := h.foreignUser(h.foreignToken("c-1", "mei"))
	if mei.Name != "mei" || mei.Roles != levee.RoleCustomer {
		t.Errorf("the account is %+v", mei)
	}
	h.clock.Step(time.Second)
	if again := h.foreignUser(h.foreignToken("c-1", "mei-by-another-name")); again.ID != mei.ID || again.Name != "mei" {
		t.Errorf("the second token of a subject gave %+v", again)
	}
	if other := h.foreignUser(h.foreignToken("C-1", "")); other.ID == mei.ID {
		t.Error("subjects that differ in case are two")
	}
	// None of these may be called what the token says.
	for _, name := range []string{"", "taken", "TAKEN", "admin", "<script>", "Mei Li", "x", strings.Repeat("n", 41), "a\x00b"} {
		if u := h.foreignUser(h.foreignToken("named "+name, name)); !strings.HasPrefix(u.Name, "buyer-") {
			t.Errorf("a token that says %q made an account called %q", name, u.Name)
		}
	}
	subject, err := h.ForeignSubject(t.Context(), mei.ID)
	if err != nil || subject != "c-1" {
		t.Errorf("the subject is %q, %v", subject, err)
	}
	if subject, err = h.ForeignSubject(t.Context(), h.signUp("own").ID); err != nil || subject != "" {
		t.Errorf("an account of our own has the foreign subject %q, %v", subject, err)
	}
	// Nobody signs in with a password as a foreign customer, whatever he sends.
	for _, password := range []string{"", "mei", string(goodPassword)} {
		if _, err := h.SignIn(t.Context(), SignIn{Name: "mei", Password: obs.Secret(password), Kind: SessionToken}, h.origin); err == nil {
			t.Errorf("signed in with the password %q", password)
		}
	}
}

// What the token says of roles, sessions and rehearsals counts for nothing, and neither does what the account was given besides.
func TestForeignTokenGivesNoRole(t *testing.T) {
	h := newForeignHouse(t)
	bossy := map[string]any{"roles": []string{"administrator"}, "role": "operator", "scope": "administrator", "reh": true, "sid": "ses_x"}
	token := h.foreignToken("c-1", "", bossy)
	a, err := h.AuthenticateToken(token)
	if err != nil || a.Roles != levee.RoleCustomer || a.Rehearsal || a.Session != 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := h.SetRoles(h.admin, a.User, levee.RoleCustomer|levee.RoleAdministrator, Origin{}); err != nil {
		t.Fatal(err)
	}
	h.clock.Step(time.Second)
	for _, token := range []string{token, h.foreignToken("c-1", "")} {
		if a, err := h.AuthenticateToken(token); err != nil || a.Roles != levee.RoleCustomer {
			t.Errorf("an administrator by another shop's token: %+v, %v", a, err)
		}
	}
	if _, err := h.SetRoles(h.admin, a.User, levee.RoleOperator, Origin{}); err != nil {
		t.Fatal(err)
	}
	if a, err := h.AuthenticateToken(token); err != nil || a.Roles != 0 {
		t.Errorf("a customer no more: %+v, %v", a, err)
	}
}

func TestForeignAccountDisabled(t *testing.T) {
	h := newForeignHouse(t)
	token := h.foreignToken("c-1", "")
	a, err := h.AuthenticateToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Disable(h.admin, a.User, "fraud", Origin{}); err != nil {
		t.Fatal(err)
	}
	h.clock.Step(time.Second)
	for what, token := range map[string]string{"cached": token, "new": h.foreignToken("c-1", "")} {
		if _, err := h.AuthenticateToken(token); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("the %s token of a disabled account: %v", what, err)
		}
	}
	h.restart()
	if _, err := h.AuthenticateToken(token); levee.CodeOf(err) != levee.CodeUnauthenticated {
		t.Errorf("after a restart: %v", err)
	}
	if _, err := h.Enable(h.admin, a.User, Origin{}); err != nil {
		t.Fatal(err)
	}
	if again, err := h.AuthenticateToken(token); err != nil || again.User != a.User {
		t.Errorf("enabled again: %+v, %v", again, err)
	}
}

// A disabling that races with first uses leaves nobody in.
func TestForeignDisableRace(t *testing.T) {
	h := newForeignHouse(t)
	for range 30 {
		h.clock.Step(time.Second)
		token := h.foreignToken("c-1", "")
		a, err := h.AuthenticateToken(h.foreignToken("c-1", "", map[string]any{"n": 0}))
		if err != nil {
			t.Fatal(err)
		}
		parallel(8, func(i int) {
			if i == 0 {
				if _, err := h.Disable(h.admin, a.User, "fraud", Origin{}); err != nil {
					t.Error(err)
				}
				return
			}
			_, _ = h.AuthenticateToken(token)
		})
		if _, err := h.AuthenticateToken(token); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Fatalf("still in: %v", err)
		}
		if _, err := h.Enable(h.admin, a.User, Origin{}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.AuthenticateToken(token); err != nil {
			t.Fatalf("still out: %v", err)
		}
	}
}

func TestForeignFirstSightRace(t *testing.T) {
	h := newForeignHouse(t)
	var users [32]atomic.Int64
	tokens := make([]string, len(users))
	for i := range tokens {
		tokens[i] = h.foreignToken("c-1", "mei", map[string]any{"n": i})
	}
	parallel(len(users), func(i int) {
		a, err := h.AuthenticateToken(tokens[i])
		if err != nil {
			t.Error(err)
		}
		users[i].Store(int64(a.User))
	})
	for i := range users {
		if users[i].Load() != users[0].Load() || users[i].Load() == 0 {
			t.Fatalf("one subject became the users %d and %d", users[0].Load(), users[i].Load())
		}
	}
	if n := h.audited("user.foreign_seen"); n != 1 {
		t.Errorf("%d accounts were made", n)
	}
}

// A cached foreign token is looked at again from time to time, expires on time, and is no good once its key is gone.
func TestForeignTokenTimes(t *testing.T) {
	h := newForeignHouse(t)
	token := h.foreignToken("c-1", "")
	if _, err := h.AuthenticateToken(token); err != nil {
		t.Fatal(err)
	}
	h.clock.Step(foreign.Recheck + time.Second)
	if _, err := h.AuthenticateToken(token); err != nil {
		t.Errorf("looked at again: %v", err)
	}
	h.clock.Step(time.Hour - foreign.Recheck - time.Second)
	if _, err := h.AuthenticateToken(token); levee.CodeOf(err) != levee.CodeUnauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	token = h.foreignToken("c-1", "")
	if _, err := h.AuthenticateToken(token); err != nil {
		t.Fatal(err)
	}
	other := base64.RawURLEncoding.EncodeToString(someKey("new").Public().(ed25519.PublicKey))
	if err := os.WriteFile(h.deps.Config.ForeignKeys, []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"new","x":"`+other+`"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.clock.Step(foreign.Recheck + time.Second)
	if _, err := h.AuthenticateToken(token); levee.CodeOf(err) != levee.CodeUnauthenticated {
		t.Errorf("its key is gone: %v", err)
	}
}

// A house that accepts another issuer's tokens takes none of them for its own, and the other way round.
func TestForeignAndOwn(t *testing.T) {
	h := newForeignHouse(t)
	h.signUp("alice")
	own := h.signIn("alice", SessionToken).AccessToken.Reveal()
	if n := testing.AllocsPerRun(500, func() {
		if _, err := h.AuthenticateToken(own); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations on a hit of an own token", n)
	}
	now := h.clock.Now()
	claims := map[string]any{"aud": "levee", "sub": "c-1", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": "x"}
	for what, f := range map[string]forge{
		"our key, their issuer": {method: jwt.SigningMethodEdDSA, key: someKey("key"), header: map[string]any{"kid": "ours", "typ": "at+jwt"},
			claims: map[string]any{"iss": theirs}},
		"our key under their kid": {method: jwt.SigningMethodEdDSA, key: someKey("key"), header: map[string]any{"kid": "shop"},
			claims: map[string]any{"iss": theirs}},
		"their key, our issuer": {method: jwt.SigningMethodEdDSA, key: someKey("shop"), header: map[string]any{"kid": "ours", "typ": "at+jwt"},
			claims: map[string]any{"iss": "levee"}},
		"their key and kid, our issuer": {method: jwt.SigningMethodEdDSA, key: someKey("shop"), header: map[string]any{"kid": "shop", "typ": "at+jwt"},
			claims: map[string]any{"iss": "levee"}},
		"two issuers": {method: jwt.SigningMethodEdDSA, key: someKey("shop"), header: map[string]any{"kid": "shop"},
			claims: map[string]any{"iss": []string{theirs, "levee"}}},
	} {
		for k, v := range claims {
			f.claims[k] = v
		}
		if a, err := h.AuthenticateToken(f.token(t)); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("%s: %+v, %v", what, a, err)
		}
	}
	plain := newHouse(t, cheap, nil)
	if _, err := plain.AuthenticateToken(h.foreignToken("c-1", "")); levee.CodeOf(err) != levee.CodeUnauthenticated {
		t.Errorf("a house that accepts nobody else's tokens: %v", err)
	}
}
