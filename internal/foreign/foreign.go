// Package foreign checks the JWTs of one other issuer, a shop that keeps its own sign-in and lets its customers buy here. It owns the
// issuer's key set and what a good token is. It knows no accounts: identity makes one of a token's subject.
//
// A key of the set is good for one algorithm only, so no token chooses how it is checked; where the keys are is configured, so no
// token says where they are either (jku, x5u and jwk are not looked at).
package foreign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/platform/obs"
)

const (
	// MaxToken is the most bytes of a token; RSA signatures and chatty claims make them larger than ours.
	MaxToken   = 4096
	maxText    = 190              // bytes of issuer, audience, subject and kid
	maxKeys    = 50               // of one set
	maxKeySet  = 64 << 10         // bytes; 50 large RSA keys take about half of it
	skew       = time.Minute      // how far the other clock may be ahead; late tokens get nothing
	refresh    = 30 * time.Second // the least time between two reads of the key set, once it was read
	firstRetry = time.Second      // the same until then
	readLimit  = 5 * time.Second  // for one read
	// Recheck is how long a verified token and the key set are believed before they are looked at again.
	Recheck = 10 * time.Minute
)

// Config says whose tokens are accepted. The zero value: nobody's.
type Config struct {
	Issuer   string   // the iss, exactly; at most 190 bytes
	Audience string   // one of the aud; at most 190 bytes
	Keys     string   // file or https address of the JWK set
	Insecure []string // hosts whose key set may be fetched by http
	Name     string   // the claim that says what the subject is called; "": none
}

// Check names the first field that is not allowed, with CodeInvalid, as the key of section identity that it comes from.
func (c Config) Check() error {
	if c.Issuer == "" && c.Keys == "" && c.Audience == "" {
		return nil
	}
	for _, f := range []struct{ field, given string }{{"foreign_issuer", c.Issuer}, {"foreign_audience", c.Audience}} {
		if f.given == "" || len(f.given) > maxText {
			return levee.Invalid("identity."+f.field, "1 to 190 bytes: foreign issuer, audience and keys belong together", f.given)
		}
	}
	u, err := url.Parse(c.Keys)
	switch {
	case c.Keys == "":
	case !isURL(c.Keys):
		return nil
	case err == nil && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http" && slices.Contains(c.Insecure, u.Hostname())):
		return nil
	}
	return levee.Invalid("identity.foreign_keys", "a file, an https address, or an http address of a host in identity.foreign_keys_insecure",
		levee.Shorten(c.Keys, 80))
}

// isURL tells a key set's address from a file's path.
func isURL(keys string) bool { return strings.Contains(keys, "://") }

// Issuer checks tokens. Safe for concurrent use.
type Issuer struct {
	cfg    Config
	now    obs.Clock
	log    *slog.Logger
	parser *jwt.Parser
	keys   atomic.Pointer[map[string]key] // by kid; nil until the set was read once

	mu            sync.Mutex // guards what follows; held while the set is read, so that one reads it for all
	tried, loaded time.Time
}

// key is a public key and the one algorithm it is used with.
type key struct {
	alg string
	key crypto.PublicKey
}

// New returns the issuer of a Config that Check accepts, or nil when none is configured. The key set is read when the first token
// comes, so a shop that is away does not keep the house from starting.
func New(cfg Config, now obs.Clock, log *slog.Logger) *Issuer {
	if cfg.Issuer == "" {
		return nil
	}
	return &Issuer{cfg: cfg, now: now, log: log, parser: jwt.NewParser(jwt.WithValidMethods([]string{"RS256", "ES256", "EdDSA"}),
		jwt.WithIssuer(cfg.Issuer), jwt.WithAudience(cfg.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(skew), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now))}
}

// Issued reports whether the token says that it is of this issuer. Nothing is believed yet.
func (f *Issuer) Issued(token string) bool {
	if f == nil || len(token) > MaxToken {
		return false
	}
	_, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	var c struct {
		Issuer string `json:"iss"`
	}
	text, err := base64.RawURLEncoding.DecodeString(body)
	return err == nil && json.Unmarshal(text, &c) == nil && c.Issuer == f.cfg.Issuer
}

// Token is what a good token says.
type Token struct {
	Subject string // 1 to 190 bytes
	Name    string // as the claim has it, unchecked; "" without one
	Expires time.Time
	// Claims are all that it says, and Algorithm is the one that it is signed by: for who must check more than what is checked of every token.
	Claims    map[string]any
	Algorithm string
}

// Verify checks signature, issuer, audience and times. The error is one of package jwt (jwt.ErrTokenExpired for a token that was
// good), or CodeUnavailable when the key set could not be read yet.
func (f *Issuer) Verify(token string) (t Token, err error) {
	c := jwt.MapClaims{}
	parsed, err := f.parser.ParseWithClaims(token, c, f.keyOf)
	if err != nil {
		return t, err
	}
	t.Claims, t.Algorithm = c, parsed.Method.Alg()
	t.Subject, _ = c["sub"].(string)
	t.Name, _ = c[f.cfg.Name].(string)
	exp, err := c.GetExpirationTime()
	switch {
	case err != nil:
		return t, err
	case t.Subject == "" || len(t.Subject) > maxText:
		return t, fmt.Errorf("%w: the subject must have 1 to %d bytes", jwt.ErrTokenMalformed, maxText)
	case !f.now().Before(exp.Time):
		return t, jwt.ErrTokenExpired
	}
	t.Expires = exp.Time
	return t, nil
}

// keyOf finds the key that the token's header names.
func (f *Issuer) keyOf(t *jwt.Token) (any, error) {
	if typ, there := t.Header["typ"]; there {
		if s, _ := typ.(string); !strings.EqualFold(s, "JWT") && !strings.EqualFold(s, "at+jwt") {
			return nil, errors.New("not an access token")
		}
	}
	kid, named := t.Header["kid"].(string)
	if _, there := t.Header["kid"]; there != named || t.Header["crit"] != nil {
		return nil, errors.New("a header that is not understood")
	}
	k, err := f.find(kid, named)
	if err != nil {
		return nil, err
	}
	if k.alg != t.Method.Alg() {
		return nil, fmt.Errorf("the key is for %s", k.alg)
	}
	return k.key, nil
}

// look finds a key among those that are known. A token without a kid is checked with the only key of a set that has one.
func (f *Issuer) look(kid string, named bool) (k key, ok bool) {
	set := f.keys.Load()
	if set == nil {
		return k, false
	}
	if k, ok = (*set)[kid]; !ok && !named && len(*set) == 1 {
		for _, k = range *set {
			return k, true
		}
	}
	return k, ok
}

// find is look, after the set was read again if it is old or does not know the kid. A set that cannot be read leaves the keys as
// they were.
func (f *Issuer) find(kid string, named bool) (key, error) {
	k, known := f.look(kid, named)
	if known {
		if !f.mu.TryLock() { // another reads an old set anew: what is known serves on
			return k, nil
		}
	} else {
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	now := f.now()
	if known && now.Sub(f.loaded).Abs() < Recheck {
		return k, nil
	}
	pause := refresh
	if f.keys.Load() == nil {
		pause = firstRetry
	}
	if f.tried.IsZero() || now.Sub(f.tried).Abs() >= pause {
		f.tried = now
		if err := f.read(); err != nil {
			f.log.Warn("the foreign issuer's keys cannot be read; those known are kept", "err", err)
		} else {
			f.loaded = now
		}
	}
	k, known = f.look(kid, named)
	switch {
	case known:
		return k, nil
	case f.keys.Load() == nil:
		return k, levee.E(levee.CodeUnavailable, "the keys of the token's issuer cannot be read").After(firstRetry)
	}
	return k, errors.New("the key is not known")
}

func (f *Issuer) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), readLimit)
	defer cancel()
	text, err := readKeySet(ctx, f.cfg.Keys)
	if err != nil {
		return err
	}
	keys, err := parseKeySet(text)
	if err == nil {
		f.keys.Store(&keys)
	}
	return err
}

// parseKeySet reads a JWK set (RFC 7517): RSA of 2,048 to 8,192 bits for RS256, P-256 for ES256, Ed25519 for EdDSA. Other keys
// are passed over, as sets may hold some for other uses; of two with one kid the first counts. A set without a usable key is an
// error, so that a page that is no key set does not take the keys away.
func parseKeySet(text []byte) (map[string]key, error) {
	var set struct {
		Keys []struct{ Kty, Crv, Alg, Use, Kid, N, E, X, Y string }
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys, at most %d are allowed", len(set.Keys), maxKeys)
	}
	keys := map[string]key{}
	for _, j := range set.Keys {
		n, e, x, y := unbase(j.N), unbase(j.E), unbase(j.X), unbase(j.Y)
		var k key
		switch {
		case j.Kty == "RSA" && len(e) > 0 && len(e) <= 4:
			p := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
			if bits := p.N.BitLen(); bits >= 2048 && bits <= 8192 && p.E >= 3 && p.E%2 == 1 && p.E < 1<<31 {
				k = key{"RS256", p}
			}
		case j.Kty == "EC" && j.Crv == "P-256" && len(x) == 32 && len(y) == 32:
			if p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...)); err == nil {
				k = key{"ES256", p}
			}
		case j.Kty == "OKP" && j.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize:
			k = key{"EdDSA", ed25519.PublicKey(x)}
		}
		_, twice := keys[j.Kid]
		if k.key != nil && !twice && len(j.Kid) <= maxText && (j.Alg == "" || j.Alg == k.alg) && (j.Use == "" || j.Use == "sig") {
			keys[j.Kid] = k
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set has no key that can be used")
	}
	return keys, nil
}

// unbase decodes base64url, and gives nothing for what is none.
func unbase(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
