package token_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee/internal/app/apptest"
)

func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// workshop is where tokens are forged: it has the house's own private key, so that each forgery is wrong in one thing alone.
type workshop struct {
	t       *testing.T
	kid     string
	private *rsa.PrivateKey
	claims  map[string]any
}

// token signs a header and a body, whatever they are, with a key.
func (w *workshop) token(method jwt.SigningMethod, key any, header, body string) string {
	w.t.Helper()
	text := b64(header) + "." + b64(body)
	signature, err := method.Sign(text, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (w *workshop) header(more map[string]any) string {
	h := map[string]any{"alg": "RS256", "kid": w.kid, "typ": "at+jwt"}
	maps.Copy(h, more)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	return w.json(h)
}

func (w *workshop) body(more map[string]any) string {
	c := maps.Clone(w.claims)
	maps.Copy(c, more)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return w.json(c)
}

func (w *workshop) json(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// headed and bodied are the house's own token but for one thing in its header or its body, signed with the house's own key.
func (w *workshop) headed(more map[string]any) string {
	return w.token(jwt.SigningMethodRS256, w.private, w.header(more), w.body(nil))
}

func (w *workshop) bodied(more map[string]any) string {
	return w.token(jwt.SigningMethodRS256, w.private, w.header(nil), w.body(more))
}

// TestForgedTokens shows a real house more than twenty kinds of forged tokens, over HTTP: each is 401.
func TestForgedTokens(t *testing.T) {
	h := apptest.Start(t)
	kid, _, signer := h.App.Rooms.Token.Signer()
	w := &workshop{t: t, kid: kid, private: signer.(*rsa.PrivateKey)}
	good := h.Customer.Token
	parts := strings.Split(good, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &w.claims) != nil {
		t.Fatalf("the house's own token: %s, %v", text, err)
	}
	other := strings.Split(h.Operator.Token, ".")
	ask := func(token string) int {
		t.Helper()
		who := h.Visitor.At(h.Base)
		who.Token = token
		return who.Do("GET", "/v1/me", nil).Status
	}
	for name, token := range map[string]string{"the house's own": good, "the workshop's when it changes nothing": w.bodied(nil),
		"another jti": w.bodied(map[string]any{"jti": "mine"})} {
		if status := ask(token); status != 200 {
			t.Fatalf("%s: %d; then the table below proves nothing", name, status)
		}
	}
	thief, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, thiefEd, _ := ed25519.GenerateKey(rand.Reader)
	der, err := x509.MarshalPKIXPublicKey(w.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	jwk := map[string]any{"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(thief.N.Bytes()), "e": "AQAB"}
	now := time.Now().Unix()
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(parts[0] + "." + parts[1]))
	rs := jwt.SigningMethodRS256
	forged := map[string]string{
		"no signature":                     parts[0] + "." + parts[1] + ".",
		"alg none":                         w.token(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, w.header(map[string]any{"alg": "none"}), w.body(nil)),
		"alg None":                         b64(w.header(map[string]any{"alg": "None"})) + "." + parts[1] + ".",
		"HS256 with the public key as PEM": w.token(jwt.SigningMethodHS256, public, w.header(map[string]any{"alg": "HS256"}), w.body(nil)),
		"HS256 with the public key as DER": w.token(jwt.SigningMethodHS256, der, w.header(map[string]any{"alg": "HS256"}), w.body(nil)),
		"HS256 under a header of RS256":    parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
		"RS512 with our key":               w.token(jwt.SigningMethodRS512, w.private, w.header(map[string]any{"alg": "RS512"}), w.body(nil)),
		"PS256 with our key":               w.token(jwt.SigningMethodPS256, w.private, w.header(map[string]any{"alg": "PS256"}), w.body(nil)),
		"EdDSA under our kid":              w.token(jwt.SigningMethodEdDSA, thiefEd, w.header(map[string]any{"alg": "EdDSA"}), w.body(nil)),
		"another key, our kid":             w.token(rs, thief, w.header(nil), w.body(nil)),
		"unknown kid":                      w.headed(map[string]any{"kid": "nobody"}),
		"kid is a path":                    w.headed(map[string]any{"kid": "../../../../dev/null"}),
		"kid is SQL":                       w.headed(map[string]any{"kid": "x' OR '1'='1"}),
		"kid is a number":                  w.headed(map[string]any{"kid": 1}),
		"no kid":                           w.headed(map[string]any{"kid": nil}),
		"jwk of the thief":                 w.token(rs, thief, w.header(map[string]any{"jwk": jwk}), w.body(nil)),
		"jwk, signed by us":                w.headed(map[string]any{"jwk": jwk}),
		"jku":                              w.headed(map[string]any{"jku": "https://thief.example/keys"}),
		"x5u":                              w.headed(map[string]any{"x5u": "https://thief.example/cert"}),
		"x5c":                              w.headed(map[string]any{"x5c": []string{"MIIB"}}),
		"crit":                             w.headed(map[string]any{"crit": []string{"exp"}}),
		"zip":                              w.headed(map[string]any{"zip": "DEF"}),
		"typ JWT":                          w.headed(map[string]any{"typ": "JWT"}),
		"no typ":                           w.headed(map[string]any{"typ": nil}),
		"header with alg twice":            w.token(rs, w.private, strings.Replace(w.header(nil), `{"alg"`, `{"alg":"none","alg"`, 1), w.body(nil)),
		"wrong issuer":                     w.bodied(map[string]any{"iss": "other"}),
		"no issuer":                        w.bodied(map[string]any{"iss": nil}),
		"wrong audience":                   w.bodied(map[string]any{"aud": []string{"other"}}),
		"no audience":                      w.bodied(map[string]any{"aud": nil}),
		"expired":                          w.bodied(map[string]any{"exp": now - 3600}),
		"expired a second ago":             w.bodied(map[string]any{"exp": now - 1}),
		"no expiry":                        w.bodied(map[string]any{"exp": nil}),
		"not yet":                          w.bodied(map[string]any{"nbf": now + 60}),
		"no nbf":                           w.bodied(map[string]any{"nbf": nil}),
		"issued in the future":             w.bodied(map[string]any{"iat": now + 60}),
		"no iat":                           w.bodied(map[string]any{"iat": nil}),
		"no jti":                           w.bodied(map[string]any{"jti": nil}),
		"no subject":                       w.bodied(map[string]any{"sub": nil}),
		"no session":                       w.bodied(map[string]any{"sid": nil}),
		"an invented buyer by our key":     w.bodied(map[string]any{"sid": nil, "reh": true}),
		"session and invented buyer":       w.bodied(map[string]any{"reh": true}),
		"subject is a number":              w.bodied(map[string]any{"sub": "1"}),
		"subject is a session":             w.bodied(map[string]any{"sub": w.claims["sid"]}),
		"session that never was":           w.bodied(map[string]any{"sid": w.claims["sub"]}),
		"somebody else's session":          w.bodied(map[string]any{"sid": claim(t, h.Operator.Token, "sid")}),
		"subject twice":                    w.token(rs, w.private, w.header(nil), strings.Replace(w.body(nil), "{", `{"sub":"usr_x",`, 1)),
		"subject twice, in another case":   w.token(rs, w.private, w.header(nil), strings.Replace(w.body(nil), "{", `{"SUB":"usr_x",`, 1)),
		"audience twice":                   w.token(rs, w.private, w.header(nil), strings.Replace(w.body(nil), "{", `{"aud":["other"],`, 1)),
		"body exchanged":                   parts[0] + "." + other[1] + "." + parts[2],
		"signature exchanged":              parts[0] + "." + parts[1] + "." + other[2],
		"body is no object":                w.token(rs, w.private, w.header(nil), `[]`),
		"body is null":                     w.token(rs, w.private, w.header(nil), `null`),
		"body is broken":                   w.token(rs, w.private, w.header(nil), `{"sub":`),
		"oversized":                        w.bodied(map[string]any{"pad": strings.Repeat("A", 2048)}),
		"five parts":                       good + ".a.b",
		"padding":                          good + "=",
		"rubbish":                          "rubbish",
		"dots":                             "..",
		"a personal token that never was":  "lvp_" + strings.Repeat("0", 65),
		"a refresh token":                  "lvr.x.0.y.z",
	}
	if len(forged) < 20 {
		t.Fatalf("only %d kinds", len(forged))
	}
	for name, token := range forged {
		if status := ask(token); status != 401 {
			t.Errorf("%s: %d, want 401", name, status)
		}
	}
	// Each character of a good token counts, also while the good one is in the cache.
	for i := 0; i < len(good); i += 7 {
		for _, c := range []byte{'A', '_', '.', good[i] ^ 1} {
			bad := good[:i] + string(c) + good[i+1:]
			if c < ' ' || c > '~' || bad == good {
				continue
			}
			if _, err := h.App.Rooms.Identity.AuthenticateToken(bad); err == nil {
				t.Fatalf("changed at %d and let in", i)
			}
		}
	}
	if status := ask(good); status != 200 {
		t.Errorf("the good token afterwards: %d", status)
	}
}

// claim reads one claim of a token, unverified.
func claim(t *testing.T, token, name string) any {
	t.Helper()
	var c map[string]any
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil || json.Unmarshal(text, &c) != nil {
		t.Fatal(fmt.Errorf("%s: %w", text, err))
	}
	return c[name]
}
