package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/platform/obs"
)

func asError(err error, target **levee.Error) bool { return errors.As(err, target) }

// forge makes a token of a session as a thief or a broken client might.
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
		if v == nil {
			delete(tok.Header, k)
		} else {
			tok.Header[k] = v
		}
	}
	s, err := tok.SignedString(f.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestForgedTokens(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	h.signUp("bob")
	g, other := h.signIn("alice", SessionToken), h.signIn("bob", SessionToken)
	good := g.AccessToken.Reveal()
	key := someKey("key")
	public := key.Public().(ed25519.PublicKey)
	now := h.clock.Now()
	base := func(change func(f *forge)) string {
		f := forge{method: jwt.SigningMethodEdDSA, key: key,
			header: map[string]any{"typ": "at+jwt", "kid": h.signer.kid},
			claims: map[string]any{"iss": "levee", "aud": []string{"levee"}, "sub": h.sealer.Seal(levee.KindUser, int64(g.User.ID)),
				"sid": h.sealer.Seal(levee.KindSession, g.Session.ID), "jti": "x", "iat": now.Unix(), "nbf": now.Unix(),
				"exp": now.Add(time.Minute).Unix()}}
		change(&f)
		return f.token(t)
	}
	if _, err := h.AuthenticateToken(base(func(*forge) {})); err != nil {
		t.Fatalf("the forger's workshop must make good tokens when it changes nothing: %v", err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	thiefX := base64.RawURLEncoding.EncodeToString(someKey("thief").Public().(ed25519.PublicKey))
	jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": thiefX}
	parts := strings.Split(good, ".")
	spki := "-----BEGIN PUBLIC KEY-----\n" + base64.StdEncoding.EncodeToString(public) + "\n-----END PUBLIC KEY-----\n"

	forged := map[string]string{
		"empty": "", "dots": "..", "one dot": "a.b", "rubbish": "rubbish", "five parts": good + ".a.b",
		"no signature": parts[0] + "." + parts[1] + ".",
		"alg none":     base(func(f *forge) { f.method, f.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType }),
		"alg none, our header": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"None","kid":"`+h.signer.kid+`","typ":"at+jwt"}`)) +
			"." + parts[1] + ".",
		"HS256 with the raw public key":    base(func(f *forge) { f.method, f.key = jwt.SigningMethodHS256, []byte(public) }),
		"HS256 with the public key as PEM": base(func(f *forge) { f.method, f.key = jwt.SigningMethodHS256, []byte(spki) }),
		"RS256":                            base(func(f *forge) { f.method, f.key = jwt.SigningMethodRS256, rsaKey }),
		"another key, our kid":             base(func(f *forge) { f.key = someKey("thief") }),
		"unknown kid":                      base(func(f *forge) { f.header["kid"] = "nobody" }),
		"kid is a path":                    base(func(f *forge) { f.header["kid"] = "../../dev/null" }),
		"kid is a number":                  base(func(f *forge) { f.header["kid"] = 1 }),
		"no kid":                           base(func(f *forge) { f.header["kid"] = nil }),
		"embedded jwk":                     base(func(f *forge) { f.header["jwk"], f.key = jwk, someKey("thief") }),
		"jwk, signed by us":                base(func(f *forge) { f.header["jwk"] = jwk }),
		"jku":                              base(func(f *forge) { f.header["jku"] = "https://thief.example/keys" }),
		"x5u":                              base(func(f *forge) { f.header["x5u"] = "https://thief.example/cert" }),
		"crit":                             base(func(f *forge) { f.header["crit"] = []string{"exp"} }),
		"typ JWT":                          base(func(f *forge) { f.header["typ"] = "JWT" }),
		"no typ":                           base(func(f *forge) { f.header["typ"] = nil }),
		"wrong issuer":                     base(func(f *forge) { f.claims["iss"] = "other" }),
		"no issuer":                        base(func(f *forge) { delete(f.claims, "iss") }),
		"wrong audience":                   base(func(f *forge) { f.claims["aud"] = []string{"other"} }),
		"no audience":                      base(func(f *forge) { delete(f.claims, "aud") }),
		"expired":                          base(func(f *forge) { f.claims["exp"] = now.Add(-time.Hour).Unix() }),
		"expires now":                      base(func(f *forge) { f.claims["exp"] = now.Unix() }),
		"expired within the skew":          base(func(f *forge) { f.claims["exp"] = now.Add(-time.Second).Unix() }),
		"no expiry":                        base(func(f *forge) { delete(f.claims, "exp") }),
		"not yet":                          base(func(f *forge) { f.claims["nbf"] = now.Add(time.Minute).Unix() }),
		"no nbf":                           base(func(f *forge) { delete(f.claims, "nbf") }),
		"issued in the future":             base(func(f *forge) { f.claims["iat"] = now.Add(time.Minute).Unix() }),
		"no iat":                           base(func(f *forge) { delete(f.claims, "iat") }),
		"no jti":                           base(func(f *forge) { delete(f.claims, "jti") }),
		"no subject":                       base(func(f *forge) { delete(f.claims, "sub") }),
		"no session":                       base(func(f *forge) { delete(f.claims, "sid") }),
		"session and rehearsal":            base(func(f *forge) { f.claims["reh"] = true }),
		"subject is a number":              base(func(f *forge) { f.claims["sub"] = fmt.Sprint(int64(g.User.ID)) }),
		"subject is a session":             base(func(f *forge) { f.claims["sub"] = f.claims["sid"] }),
		"somebody else's session":          base(func(f *forge) { f.claims["sid"] = h.sealer.Seal(levee.KindSession, other.Session.ID) }),
		"session that never was":           base(func(f *forge) { f.claims["sid"] = h.sealer.Seal(levee.KindSession, 4711) }),
		"refresh as access":                g.RefreshToken.Reveal(),
		"body exchanged":                   parts[0] + "." + strings.Split(other.AccessToken.Reveal(), ".")[1] + "." + parts[2],
		"signature exchanged":              parts[0] + "." + parts[1] + "." + strings.Split(other.AccessToken.Reveal(), ".")[2],
		"padding":                          good + "=",
		"space":                            " " + good,
		"too long":                         good + strings.Repeat("A", maxTokenBytes),
	}
	cookie := h.signIn("alice", SessionCookie)
	forged["cookie as access"] = cookie.Cookie.Reveal()
	if _, err := h.AuthenticateCookie(context.Background(), cookie.Cookie.Reveal()); err != nil { // warm the cookies' cache too
		t.Fatal(err)
	}
	for name, token := range forged {
		a, err := h.AuthenticateToken(token)
		if levee.CodeOf(err) != levee.CodeUnauthenticated || a != (levee.Actor{}) {
			t.Errorf("%s: got %+v, %v", name, a, err)
		}
	}
	// Every single character of a good token matters, also while the good one is in the cache.
	for i := range good {
		for _, c := range []byte{'A', '_', '.', good[i] ^ 1} {
			bad := good[:i] + string(c) + good[i+1:]
			if bad == good {
				continue
			}
			if _, err := h.AuthenticateToken(bad); levee.CodeOf(err) != levee.CodeUnauthenticated {
				t.Fatalf("changed at %d: %v", i, err)
			}
		}
	}
	if _, err := h.AuthenticateToken(good); err != nil {
		t.Errorf("the good token: %v", err)
	}
}

func TestTokenExpiresWhileCached(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	if want := h.clock.Now().Add(10 * time.Minute); !g.AccessExpires.Equal(want) {
		t.Errorf("expires %v, want %v", g.AccessExpires, want)
	}
	h.clock.Step(10*time.Minute - time.Microsecond)
	h.as(g)
	h.clock.Step(time.Microsecond)
	_, err := h.authenticate(g)
	h.wantCode(err, levee.CodeUnauthenticated)
	var e *levee.Error
	if !asError(err, &e) || e.Data["reason"] != "expired" {
		t.Errorf("a client cannot see that it should refresh: %v", e)
	}
	_, err = h.authenticate(g) // now from scratch
	h.wantCode(err, levee.CodeUnauthenticated)
	if !asError(err, &e) || e.Data["reason"] != "expired" {
		t.Errorf("a client cannot see that it should refresh: %v", e)
	}
}

// Whatever ends a session or changes what it may do acts on the next call, also while everything is cached.
func TestRevocationActsAtOnce(t *testing.T) {
	acts := map[string]func(h *house, g Grant, ctx context.Context) error{
		"disable": func(h *house, g Grant, _ context.Context) error {
			_, err := h.Disable(h.admin, g.User.ID, "test", h.origin)
			return err
		},
		"disable and enable": func(h *house, g Grant, _ context.Context) error {
			if _, err := h.Disable(h.admin, g.User.ID, "test", h.origin); err != nil {
				return err
			}
			_, err := h.Enable(h.admin, g.User.ID, h.origin)
			return err
		},
		"password set by an administrator": func(h *house, g Grant, _ context.Context) error {
			return h.SetPassword(h.admin, g.User.ID, "another one of 9", h.origin)
		},
		"sign out": func(h *house, _ Grant, ctx context.Context) error { return h.SignOut(ctx) },
		"session ended from elsewhere": func(h *house, g Grant, _ context.Context) error {
			return h.EndSession(h.as(h.signIn("alice", SessionToken)), g.Session.ID, h.origin)
		},
		"other sessions ended": func(h *house, _ Grant, _ context.Context) error {
			_, err := h.EndOtherSessions(h.as(h.signIn("alice", SessionToken)), h.origin)
			return err
		},
		"password changed elsewhere": func(h *house, _ Grant, _ context.Context) error {
			_, err := h.ChangePassword(h.as(h.signIn("alice", SessionToken)), goodPassword, "another one of 9", h.origin)
			return err
		},
	}
	for name, act := range acts {
		for _, kind := range []SessionKind{SessionToken, SessionCookie} {
			for _, warm := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/kind=%d/warm=%v", name, kind, warm), func(t *testing.T) {
					h := newHouse(t, cheap, nil)
					h.signUp("alice")
					g := h.signIn("alice", kind)
					ctx := h.as(g)
					if !warm {
						h.restart()
					}
					if err := act(h, g, ctx); err != nil {
						t.Fatal(err)
					}
					_, err := h.authenticate(g)
					h.wantCode(err, levee.CodeUnauthenticated)
					h.restart()
					_, err = h.authenticate(g)
					h.wantCode(err, levee.CodeUnauthenticated)
					if kind == SessionToken {
						_, err = h.Refresh(context.Background(), g.RefreshToken, h.origin)
						h.wantCode(err, levee.CodeUnauthenticated)
					}
				})
			}
		}
	}
}

func TestRolesActAtOnce(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	grants := []Grant{h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)}
	for _, roles := range []levee.Roles{levee.RoleCustomer | levee.RoleOperator, levee.RoleOperator, levee.RoleCustomer} {
		if _, err := h.SetRoles(h.admin, u.ID, roles, h.origin); err != nil {
			t.Fatal(err)
		}
		for _, g := range grants {
			if a, err := h.authenticate(g); err != nil || a.Roles != roles {
				t.Errorf("roles %v, want %v (%v)", a.Roles.Names(), roles.Names(), err)
			}
		}
	}
}

// Readers that load a session from SQL race with the act that ends it: once the act has returned, nobody may get through.
func TestRevocationRacesWithLoading(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_up": "off"})
	u := h.signUp("alice")
	for round := range 60 {
		g := h.signIn("alice", []SessionKind{SessionToken, SessionCookie}[round%2])
		h.restart() // all caches cold
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var err error
			if round%3 == 0 {
				_, err = h.SetRoles(h.admin, u.ID, levee.RoleOperator, Origin{})
			} else {
				_, err = h.Disable(h.admin, u.ID, "race", Origin{})
			}
			if err != nil {
				t.Error(err)
			}
		}()
		parallel(4, func(int) {
			for done := false; !done; {
				select {
				case <-ended:
					done = true
				default:
				}
				a, err := h.authenticate(g)
				if !done {
					continue
				}
				if round%3 == 0 && (err != nil || a.Roles != levee.RoleOperator) {
					t.Errorf("round %d: old roles %v after the change (%v)", round, a.Roles.Names(), err)
				}
				if round%3 != 0 && err == nil {
					t.Errorf("round %d: let in after the account was disabled", round)
				}
			}
		})
		if round%3 == 0 {
			if _, err := h.SetRoles(h.admin, u.ID, levee.RoleCustomer, Origin{}); err != nil {
				t.Fatal(err)
			}
		} else if _, err := h.Enable(h.admin, u.ID, Origin{}); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

func TestRestartKeepsSessions(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	grants := []Grant{h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)}
	h.restart()
	for _, g := range grants {
		a, err := h.authenticate(g)
		h.wantCode(err, "")
		if want := (levee.Actor{User: g.User.ID, Session: g.Session.ID, Roles: levee.RoleCustomer}); a != want {
			t.Errorf("got %+v, want %+v", a, want)
		}
	}
}

func TestKeyRoll(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	token, cookie := h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)
	rolled, err := h.Refresh(context.Background(), token.RefreshToken, h.origin)
	h.wantCode(err, "")

	h.deps.Key, h.deps.OldKeys = someKey("next"), []ed25519.PrivateKey{someKey("key")}
	h.restart()
	h.as(token)
	h.as(cookie)
	again, err := h.Refresh(context.Background(), token.RefreshToken, h.origin) // within grace, with the old key
	h.wantCode(err, "")
	if again.RefreshToken != rolled.RefreshToken {
		t.Error("another successor after the key was rolled")
	}
	next, err := h.Refresh(context.Background(), rolled.RefreshToken, h.origin)
	h.wantCode(err, "")
	checkWithJWKS(t, h.JWKS(), next.AccessToken.Reveal(), 0)
	checkWithJWKS(t, h.JWKS(), token.AccessToken.Reveal(), 1)

	h.deps.OldKeys = nil
	h.restart()
	for _, g := range []Grant{token, cookie} {
		_, err := h.authenticate(g)
		h.wantCode(err, levee.CodeUnauthenticated)
	}
	h.as(next)
}

// checkWithJWKS checks a token as another program would: with nothing but the published keys. It must match the n-th.
func checkWithJWKS(t *testing.T, set []byte, token string, n int) {
	t.Helper()
	var keys struct{ Keys []map[string]string }
	if err := json.Unmarshal(set, &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys.Keys {
		if k["d"] != "" || k["kty"] != "OKP" || k["alg"] != "EdDSA" {
			t.Fatalf("bad key %v", k)
		}
	}
	_, err := jwt.Parse(token, func(tok *jwt.Token) (any, error) {
		if tok.Header["kid"] != keys.Keys[n]["kid"] {
			return nil, errors.New("another kid")
		}
		x, err := base64.RawURLEncoding.DecodeString(keys.Keys[n]["x"])
		return ed25519.PublicKey(x), err
	}, jwt.WithoutClaimsValidation())
	if err != nil {
		t.Error(err)
	}
}

func TestRehearsalTokens(t *testing.T) {
	h := newHouse(t, cheap, nil)
	ctx := context.Background()
	seen := map[levee.UserID]string{}
	if err := h.IssueRehearsalTokens(ctx, 2500, time.Hour, func(u levee.UserID, token string) error {
		seen[u] = token
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2500 || h.tokens.len() < 2400 {
		t.Fatalf("%d buyers, %d cached", len(seen), h.tokens.len())
	}
	check := func(want levee.Code) {
		t.Helper()
		for u, token := range seen {
			a, err := h.AuthenticateToken(token)
			h.wantCode(err, want)
			if err == nil && a != (levee.Actor{User: u, Roles: levee.RoleCustomer, Rehearsal: true}) {
				t.Fatalf("got %+v", a)
			}
		}
	}
	check("")
	h.restart()
	check("")
	var invented context.Context
	for u := range seen {
		invented = levee.WithActor(ctx, levee.Actor{User: u, Roles: levee.RoleCustomer, Rehearsal: true})
	}
	_, err := h.ChangePassword(invented, "x", "y", Origin{})
	h.wantCode(err, levee.CodeForbidden)
	h.wantCode(h.SignOut(invented), levee.CodeForbidden)
	_, err = h.Sessions(invented)
	h.wantCode(err, levee.CodeForbidden)
	h.clock.Step(time.Hour)
	check(levee.CodeUnauthenticated)

	for _, c := range []struct {
		n   int
		ttl time.Duration
	}{{0, time.Hour}, {-1, time.Hour}, {1_000_001, time.Hour}, {1, 0}, {1, 25 * time.Hour}} {
		h.wantCode(h.IssueRehearsalTokens(ctx, c.n, c.ttl, func(levee.UserID, string) error { return nil }), levee.CodeInvalid)
	}
	stop := errors.New("enough")
	n := 0
	err = h.IssueRehearsalTokens(ctx, 5000, time.Hour, func(levee.UserID, string) error {
		if n++; n == 10 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 10 {
		t.Errorf("%v after %d", err, n)
	}
}

func TestVerifiedCacheIsBounded(t *testing.T) {
	c := newVerifiedCache(1000)
	for i := range 20_000 {
		c.put(&verified{credential: fmt.Sprint("token", i), expires: int64(i)}, 0)
	}
	if n := c.len(); n > 1000 {
		t.Errorf("%d entries, bound 1000", n)
	}
	late := 0
	for i := 15_000; i < 20_000; i++ {
		if c.get(fmt.Sprint("token", i)) != nil {
			late++
		}
	}
	if late < c.len()*8/10 {
		t.Errorf("only %d of %d kept entries are among the last to expire", late, c.len())
	}
}

// What has expired must not stay until the cache is full.
func TestVerifiedCacheForgets(t *testing.T) {
	c := newVerifiedCache(1_000_000)
	for i := range 200_000 {
		c.put(&verified{credential: fmt.Sprint("token", i), expires: int64(i) + 1000}, int64(i)) // 1000 are good at any time
	}
	if n := c.len(); n > verifiedShards*minSweep+2*1000 {
		t.Errorf("%d entries kept", n)
	}
}

// The registry must not grow with all sessions that ever were.
func TestRegistryForgets(t *testing.T) {
	clock := &obs.StepClock{}
	r := newRegistry(clock.Now)
	for session := range int64(100_000) {
		r.hold(session<<12, clock.Now().Add(time.Minute).UnixMicro())
		clock.Step(100 * time.Millisecond) // 600 are good at any time
	}
	if n := r.len(); n > 64*64+2*600 {
		t.Errorf("%d states kept", n)
	}
}

// A state that was dropped while the clock was ahead must not shield a credential from a later end.
func TestClockStepsBack(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	h.as(g)
	h.clock.Step(time.Hour)
	for i := range h.live.shards {
		h.live.shards[i].mu.Lock()
		h.live.shards[i].sweep(h.clock.Now().UnixMicro())
		h.live.shards[i].mu.Unlock()
	}
	h.clock.Step(-time.Hour)
	h.as(g)
	if _, err := h.Disable(h.admin, u.ID, "test", h.origin); err != nil {
		t.Fatal(err)
	}
	_, err := h.authenticate(g)
	h.wantCode(err, levee.CodeUnauthenticated)
}

func TestAuthenticateTokenAllocatesNothing(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	token := h.signIn("alice", SessionToken).AccessToken.Reveal()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := h.AuthenticateToken(token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations on a hit", n)
	}
}

func BenchmarkAuthenticateToken(b *testing.B) {
	h := newHouse(b, cheap, nil)
	h.obsClock()
	for _, n := range []int{1, 1_000, 50_000} {
		var tokens []string
		if err := h.IssueRehearsalTokens(context.Background(), n, time.Hour, func(_ levee.UserID, token string) error {
			tokens = append(tokens, strings.Clone(token)) // as from a request: another string than the cache's
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("hit/tokens=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := h.AuthenticateToken(tokens[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("hit/parallel/tokens=%d", n), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := h.AuthenticateToken(tokens[i%n]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	h.signUp("alice")
	token := h.signIn("alice", SessionToken).AccessToken.Reveal()
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.verifyToken(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("forged", func(b *testing.B) {
		bad := token[:len(token)-10] + "AAAAAAAAAA"
		for b.Loop() {
			if _, err := h.AuthenticateToken(bad); err == nil {
				b.Fatal("let in")
			}
		}
	})
	b.Run("issue", func(b *testing.B) {
		if err := h.IssueRehearsalTokens(context.Background(), min(max(1, b.N), 1_000_000), time.Hour,
			func(levee.UserID, string) error { return nil }); err != nil {
			b.Fatal(err)
		}
	})
}

// obsClock gives the house the real clock, whose cost belongs into a benchmark.
func (h *house) obsClock() {
	h.deps.Obs.Clock = time.Now
	h.restart()
}
