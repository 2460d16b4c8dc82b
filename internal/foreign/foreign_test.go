package foreign

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/platform/obs"
)

// keyring is a shop's private keys.
type keyring struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

var ring = sync.OnceValue(func() keyring {
	var k keyring
	var err [3]error
	k.rsa, err[0] = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, err[1] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, err[2] = ed25519.GenerateKey(rand.Reader)
	for _, e := range err {
		if e != nil {
			panic(e)
		}
	}
	return k
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

type jwk map[string]any

func rsaKey(kid string, k *rsa.PublicKey) jwk {
	return jwk{"kty": "RSA", "kid": kid, "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
}

func ecKey(t testing.TB, kid string, k *ecdsa.PublicKey) jwk {
	point, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return jwk{"kty": "EC", "crv": "P-256", "kid": kid, "x": b64(point[1:33]), "y": b64(point[33:])}
}

func edKey(kid string, k ed25519.PublicKey) jwk {
	return jwk{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(k)}
}

func set(keys ...jwk) string {
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return string(text)
}

func whole(t testing.TB) string {
	k := ring()
	return set(rsaKey("r1", &k.rsa.PublicKey), ecKey(t, "e1", &k.ec.PublicKey), edKey("d1", k.ed.Public().(ed25519.PublicKey)))
}

type shop struct {
	*Issuer
	clock *obs.StepClock
	file  string
}

func open(t testing.TB, keys string) *shop {
	t.Helper()
	s := &shop{clock: &obs.StepClock{}, file: filepath.Join(t.TempDir(), "keys.json")}
	s.write(t, keys)
	cfg := Config{Issuer: "https://shop.example", Audience: "levee", Keys: s.file, Name: "preferred_username"}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	s.Issuer = New(cfg, s.clock.Now, obs.Test(t).Log)
	return s
}

func (s *shop) write(t testing.TB, keys string) {
	t.Helper()
	if err := os.WriteFile(s.file, []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
}

type forge struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
}

func (s *shop) token(t testing.TB, change func(f *forge)) string {
	t.Helper()
	now := s.clock.Now()
	f := forge{method: jwt.SigningMethodEdDSA, key: ring().ed, header: map[string]any{"kid": "d1"}, claims: jwt.MapClaims{"iss": "https://shop.example", "aud": "levee",
		"sub": "customer-7", "preferred_username": "mei", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}}
	if change != nil {
		change(&f)
	}
	tok := jwt.NewWithClaims(f.method, f.claims)
	for k, v := range f.header {
		if tok.Header[k] = v; v == nil {
			delete(tok.Header, k)
		}
	}
	text, err := tok.SignedString(f.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGoodTokens(t *testing.T) {
	s := open(t, whole(t))
	for name, change := range map[string]func(f *forge){
		"EdDSA":           nil,
		"RS256":           func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodRS256, ring().rsa, "r1" },
		"ES256":           func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodES256, ring().ec, "e1" },
		"several aud":     func(f *forge) { f.claims["aud"] = []string{"other", "levee"} },
		"typ at+jwt":      func(f *forge) { f.header["typ"] = "at+jwt" },
		"no typ":          func(f *forge) { f.header["typ"] = nil },
		"no nbf, no iat":  func(f *forge) { delete(f.claims, "nbf"); delete(f.claims, "iat") },
		"their clock ran": func(f *forge) { f.claims["iat"] = s.clock.Now().Add(30 * time.Second).Unix() },
	} {
		got, err := s.Verify(s.token(t, change))
		if err != nil || got.Subject != "customer-7" || got.Name != "mei" || !got.Expires.Equal(s.clock.Now().Add(time.Hour)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	one := open(t, set(edKey("", ring().ed.Public().(ed25519.PublicKey))))
	if _, err := one.Verify(one.token(t, func(f *forge) { f.header["kid"] = nil })); err != nil {
		t.Errorf("without a kid, and one key in the set: %v", err)
	}
}

func TestForgedTokens(t *testing.T) {
	s := open(t, whole(t))
	now := s.clock.Now()
	_, thief, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := ring().ed.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(&ring().rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	good := s.token(t, nil)
	parts := strings.Split(good, ".")
	forged := map[string]string{
		"empty": "", "dots": "..", "rubbish": "a.b.c", "five parts": good + ".a.b", "no signature": parts[0] + "." + parts[1] + ".",
		"alg none":                          s.token(t, func(f *forge) { f.method, f.key = jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType }),
		"alg None":                          b64([]byte(`{"alg":"None","kid":"d1"}`)) + "." + parts[1] + ".",
		"HS256 with the Ed25519 public key": s.token(t, func(f *forge) { f.method, f.key = jwt.SigningMethodHS256, []byte(public) }),
		"HS256 with the RSA public key as PEM": s.token(t, func(f *forge) {
			f.method, f.key, f.header["kid"] = jwt.SigningMethodHS256, rsaPEM, "r1"
		}),
		"HS256 with the JWK's n":   s.token(t, func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodHS256, ring().rsa.N.Bytes(), "r1" }),
		"PS256 with the RS256 key": s.token(t, func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodPS256, ring().rsa, "r1" }),
		"RS512":                    s.token(t, func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodRS512, ring().rsa, "r1" }),
		"RS256 under the EC kid":   s.token(t, func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodRS256, ring().rsa, "e1" }),
		"another key, their kid":   s.token(t, func(f *forge) { f.key = thief }),
		"unknown kid":              s.token(t, func(f *forge) { f.header["kid"] = "d2" }),
		"kid is a path":            s.token(t, func(f *forge) { f.header["kid"] = "../../../../dev/null" }),
		"kid is SQL":               s.token(t, func(f *forge) { f.header["kid"] = "d1' OR '1'='1" }),
		"kid is a number":          s.token(t, func(f *forge) { f.header["kid"] = 1 }),
		"kid is empty":             s.token(t, func(f *forge) { f.header["kid"] = "" }),
		"no kid among several":     s.token(t, func(f *forge) { f.header["kid"] = nil }),
		"jwk": s.token(t, func(f *forge) {
			f.header["jwk"], f.key = edKey("d1", thief.Public().(ed25519.PublicKey)), thief
		}),
		"jku":                  s.token(t, func(f *forge) { f.header["jku"], f.key = "https://thief.example/keys", thief }),
		"x5u":                  s.token(t, func(f *forge) { f.header["x5u"], f.key = "https://thief.example/cert", thief }),
		"crit":                 s.token(t, func(f *forge) { f.header["crit"] = []string{"exp"} }),
		"typ logout+jwt":       s.token(t, func(f *forge) { f.header["typ"] = "logout+jwt" }),
		"typ is a number":      s.token(t, func(f *forge) { f.header["typ"] = 7 }),
		"wrong issuer":         s.token(t, func(f *forge) { f.claims["iss"] = "https://shop.example/" }),
		"no issuer":            s.token(t, func(f *forge) { delete(f.claims, "iss") }),
		"wrong audience":       s.token(t, func(f *forge) { f.claims["aud"] = "other" }),
		"no audience":          s.token(t, func(f *forge) { delete(f.claims, "aud") }),
		"no expiry":            s.token(t, func(f *forge) { delete(f.claims, "exp") }),
		"expires now":          s.token(t, func(f *forge) { f.claims["exp"] = now.Unix() }),
		"expired within skew":  s.token(t, func(f *forge) { f.claims["exp"] = now.Add(-time.Second).Unix() }),
		"expired":              s.token(t, func(f *forge) { f.claims["exp"] = now.Add(-time.Hour).Unix() }),
		"expiry is a text":     s.token(t, func(f *forge) { f.claims["exp"] = "tomorrow" }),
		"not yet":              s.token(t, func(f *forge) { f.claims["nbf"] = now.Add(2 * time.Minute).Unix() }),
		"issued in the future": s.token(t, func(f *forge) { f.claims["iat"] = now.Add(2 * time.Minute).Unix() }),
		"no subject":           s.token(t, func(f *forge) { delete(f.claims, "sub") }),
		"subject is a number":  s.token(t, func(f *forge) { f.claims["sub"] = 7 }),
		"subject is long":      s.token(t, func(f *forge) { f.claims["sub"] = strings.Repeat("x", maxText+1) }),
		"altered claims":       parts[0] + "." + b64([]byte(`{"iss":"https://shop.example","aud":"levee","sub":"customer-8","exp":4000000000}`)) + "." + parts[2],
		"padded":               good + "=",
	}
	for name, token := range forged {
		if got, err := s.Verify(token); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
	if _, err := s.Verify(good); err != nil {
		t.Errorf("after all that the good one must still be good: %v", err)
	}
	if s.Issued(good+strings.Repeat("x", MaxToken)) || s.Issued(forged["wrong issuer"]) || !s.Issued(good) {
		t.Error("Issued does not tell whose token it is")
	}
}

// Weak and foreign keys in a set are passed over, and a document that is no key set takes nothing away.
func TestKeySets(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skipf("this build makes no weak keys: %v", err)
	}
	k := ring()
	for name, keys := range map[string]string{
		"a 1024 bit key":         set(rsaKey("x", &weak.PublicKey)),
		"exponent 1":             set(jwk{"kty": "RSA", "kid": "x", "n": b64(k.rsa.N.Bytes()), "e": "AQ"}),
		"a point off the curve":  set(jwk{"kty": "EC", "crv": "P-256", "kid": "x", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}),
		"a key for encryption":   set(jwk{"kty": "OKP", "crv": "Ed25519", "kid": "x", "use": "enc", "x": b64(k.ed.Public().(ed25519.PublicKey))}),
		"a key for another alg":  set(jwk{"kty": "RSA", "kid": "x", "alg": "RS512", "n": b64(k.rsa.N.Bytes()), "e": "AQAB"}),
		"a symmetric key":        set(jwk{"kty": "oct", "kid": "x", "k": "c2VjcmV0"}),
		"no keys":                `{"keys":[]}`,
		"no set":                 `{"error":"not found"}`,
		"no JSON":                `<html>`,
		"too many keys":          set(make([]jwk, maxKeys+1)...),
		"short Ed25519 material": set(jwk{"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": "AAAA"}),
	} {
		if got, err := parseKeySet([]byte(keys)); err == nil {
			t.Errorf("%s: %d keys accepted", name, len(got))
		}
	}
	twice, err := parseKeySet([]byte(set(edKey("x", k.ed.Public().(ed25519.PublicKey)), rsaKey("x", &k.rsa.PublicKey))))
	if err != nil || len(twice) != 1 || twice["x"].alg != "EdDSA" {
		t.Errorf("of two keys with one kid the first must count: %v, %v", twice, err)
	}
}

// keyServer counts what it is asked, and can be away.
type keyServer struct {
	*httptest.Server
	asked atomic.Int64
	away  atomic.Bool
	set   atomic.Pointer[string]
}

func serve(t *testing.T, keys string) *keyServer {
	k := &keyServer{}
	k.set.Store(&keys)
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		k.asked.Add(1)
		if k.away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, *k.set.Load())
	}))
	t.Cleanup(k.Close)
	return k
}

func openAt(t *testing.T, k *keyServer) *shop {
	s := &shop{clock: &obs.StepClock{}}
	cfg := Config{Issuer: "https://shop.example", Audience: "levee", Keys: k.URL, Insecure: []string{"127.0.0.1"}}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	s.Issuer = New(cfg, s.clock.Now, obs.Test(t).Log)
	return s
}

func TestKeysAreRefreshed(t *testing.T) {
	first, second := edKey("d1", ring().ed.Public().(ed25519.PublicKey)), rsaKey("r1", &ring().rsa.PublicKey)
	k := serve(t, set(first))
	s := openAt(t, k)
	byRSA := func(f *forge) { f.method, f.key, f.header["kid"] = jwt.SigningMethodRS256, ring().rsa, "r1" }
	verify := func(change func(*forge), good bool, asked int64) {
		t.Helper()
		_, err := s.Verify(s.token(t, change))
		if (err == nil) != good || k.asked.Load() != asked {
			t.Fatalf("good %v (%v), asked %d times; want %v and %d", err == nil, err, k.asked.Load(), good, asked)
		}
	}
	verify(nil, true, 1)
	both := set(first, second)
	k.set.Store(&both)
	verify(byRSA, false, 1) // within 30 s of the last read nobody makes us ask again
	s.clock.Step(refresh)
	for range 5 {
		verify(func(f *forge) { f.header["kid"] = "nobody" }, false, 2)
	}
	verify(byRSA, true, 2)
	k.away.Store(true)
	s.clock.Step(Recheck + time.Second)
	verify(byRSA, true, 3) // old, tried again, away: kept
	verify(nil, true, 3)
	page := `{"error":"maintenance"}`
	k.set.Store(&page)
	k.away.Store(false)
	s.clock.Step(refresh)
	verify(byRSA, true, 4) // no key set: kept
	only := set(second)
	k.set.Store(&only)
	s.clock.Step(Recheck + time.Second)
	verify(byRSA, true, 5)
	verify(nil, false, 5) // taken out of the set
}

// A set that is away at first is not a bad token, and a flood asks for it once.
func TestKeysAwayAtFirst(t *testing.T) {
	k := serve(t, whole(t))
	k.away.Store(true)
	s := openAt(t, k)
	token := s.token(t, nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := s.Verify(token); levee.CodeOf(err) != levee.CodeUnavailable {
				t.Errorf("got %v, want unavailable", err)
			}
		})
	}
	wg.Wait()
	if n := k.asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	k.away.Store(false)
	s.clock.Step(firstRetry)
	if _, err := s.Verify(token); err != nil {
		t.Error(err)
	}
}

func TestKeySetBounds(t *testing.T) {
	big := whole(t) + strings.Repeat(" ", maxKeySet)
	k := serve(t, big)
	s := openAt(t, k)
	if _, err := s.Verify(s.token(t, nil)); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("a key set over its bound: %v", err)
	}
	elsewhere := serve(t, whole(t))
	hop := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	t.Cleanup(hop.Close)
	s = openAt(t, &keyServer{Server: hop})
	if _, err := s.Verify(s.token(t, nil)); err == nil || elsewhere.asked.Load() != 0 {
		t.Errorf("a redirect was followed: %v", err)
	}
}

func TestConfigCheck(t *testing.T) {
	base := Config{Issuer: "i", Audience: "a", Keys: "keys.json"}
	for name, c := range map[string]struct {
		change func(*Config)
		good   bool
	}{
		"a file":           {func(*Config) {}, true},
		"https":            {func(c *Config) { c.Keys = "https://shop.example/keys" }, true},
		"listed http":      {func(c *Config) { c.Keys, c.Insecure = "http://127.0.0.1:9/keys", []string{"127.0.0.1"} }, true},
		"http":             {func(c *Config) { c.Keys = "http://127.0.0.1:9/keys" }, false},
		"file address":     {func(c *Config) { c.Keys = "file:///etc/passwd" }, false},
		"with a password":  {func(c *Config) { c.Keys = "https://a:b@shop.example/keys" }, false},
		"no keys":          {func(c *Config) { c.Keys = "" }, false},
		"no issuer":        {func(c *Config) { c.Issuer = "" }, false},
		"no audience":      {func(c *Config) { c.Audience = "" }, false},
		"issuer too long":  {func(c *Config) { c.Issuer = strings.Repeat("i", 191) }, false},
		"nothing at all":   {func(c *Config) { *c = Config{} }, true},
		"audience by self": {func(c *Config) { *c = Config{Audience: "a"} }, false},
	} {
		cfg := base
		c.change(&cfg)
		if err := cfg.Check(); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
