package token

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
)

const (
	// tokenType is the typ of an access token (RFC 9068), so that no other JWT of ours can ever pass for one.
	tokenType = "at+jwt"
	// maxTokenBytes bounds what is looked at; ours have about 400 bytes, and 650 with RS256.
	maxTokenBytes = 2048
	// skew is how far the clocks of two nodes may be apart before a fresh token is refused as not yet valid.
	skew = 5 * time.Second
)

// Claims is what an access token says.
type Claims struct {
	// Subject and Session are public ids.
	Subject string
	Session string // empty exactly for Rehearsal
	// Rehearsal marks an invented buyer.
	Rehearsal bool
	Expires   time.Time // in whole seconds
}

// claims is the body of an access token.
type claims struct {
	jwt.RegisteredClaims
	Session   string `json:"sid,omitempty"`
	Rehearsal bool   `json:"reh,omitempty"`
}

// Sign makes an access token, good at most MaxLife. An invented buyer's is signed with the house's own key, which no other service knows; the others with
// the newest key that signs. CodeUnavailable when too many callers wait for a signature or no key signs: a key that leaked was withdrawn a moment ago.
func (s *Service) Sign(ctx context.Context, c Claims, now time.Time) (string, error) {
	k := s.house
	if !c.Rehearsal {
		if k = s.ring.Load().signer(now); k == nil {
			return "", levee.E(levee.CodeUnavailable, "the keys of access tokens are being changed").After(settle)
		}
	}
	if k.algorithm == RS256 { // it takes 30 times what another request takes: they must not have all cores
		if s.waiting.Add(1) > maxWaiting {
			s.waiting.Add(-1)
			s.metrics.shed.Inc()
			return "", levee.E(levee.CodeUnavailable, "too many tokens are being signed").After(time.Second)
		}
		defer s.waiting.Add(-1)
		select {
		case s.signing <- struct{}{}:
			defer func() { <-s.signing }()
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	body := claims{Session: c.Session, Rehearsal: c.Rehearsal}
	var jti [12]byte
	rand.Read(jti[:]) // never fails
	body.Issuer, body.Audience, body.Subject = s.cfg.Issuer, jwt.ClaimStrings{s.cfg.Audience}, c.Subject
	body.IssuedAt, body.NotBefore, body.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(now), jwt.NewNumericDate(c.Expires)
	body.ID = base64.RawURLEncoding.EncodeToString(jti[:])
	return k.sign(body)
}

// sign makes a token of a body.
func (k *key) sign(body any) (string, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	signed := k.header + "." + base64.RawURLEncoding.EncodeToString(text)
	signature, err := jwt.GetSigningMethod(string(k.algorithm)).Sign(signed, k.private)
	if err != nil {
		return "", err
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// Verify returns what a token says that is ours, signed with a key that is known, and valid now; else CodeUnauthenticated, which says whether
// it has merely expired.
//
// A token's header must be, byte for byte, the one that its key's tokens have: so nothing in it chooses how it is checked, and jku, jwk, x5u, x5c,
// crit, another alg, typ or kid never get as far as being read.
func (s *Service) Verify(token string) (Claims, error) {
	header, _, _ := strings.Cut(token, ".")
	now, r := s.now(), s.ring.Load()
	k := r.header[header]
	if len(token) > maxTokenBytes || k == nil || k != s.house && k.state(now) == Gone {
		return Claims{}, Bad(nil)
	}
	var c claims
	_, err := s.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return k.public, nil })
	switch {
	case err != nil:
		return Claims{}, Refused(err)
	case !now.Before(c.ExpiresAt.Time): // the skew allowed above is for clocks that are behind, not for late tokens
		return Claims{}, Expired()
	case c.Subject == "" || c.ID == "" || c.IssuedAt == nil || (c.Session == "") != c.Rehearsal || c.Rehearsal && k != s.house:
		return Claims{}, Bad(errors.New("a claim is missing"))
	case k == s.house && !c.Rehearsal && !now.Before(r.houseGone):
		return Claims{}, Bad(errors.New("signed with a key that signs no sessions any more"))
	case twice(token):
		return Claims{}, Bad(errors.New("a claim stands twice"))
	}
	return Claims{Subject: c.Subject, Session: c.Session, Rehearsal: c.Rehearsal, Expires: c.ExpiresAt.Time}, nil
}

// twice reports whether the body of a token names a claim twice: readers differ in which one they believe.
func twice(token string) bool {
	body, err := base64.RawURLEncoding.DecodeString(strings.SplitN(token, ".", 3)[1])
	if err != nil {
		return true
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	seen, depth, name := map[string]bool{}, 0, true
	for {
		t, err := d.Token()
		if err != nil {
			return !errors.Is(err, io.EOF)
		}
		switch v := t.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				depth++
			} else {
				depth--
			}
			name = true
			continue
		case string:
			if depth == 1 && name {
				// Package json reads a name in any case.
				if folded := strings.ToLower(v); seen[folded] {
					return true
				} else {
					seen[folded] = true
				}
				name = false
				continue
			}
		}
		name = true
	}
}

// Refused tells an expired token, which a client may refresh, from one that was never good. err is of a jwt.Parser.
func Refused(err error) error {
	for _, other := range []error{jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid,
		jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued,
		jwt.ErrTokenRequiredClaimMissing} {
		if errors.Is(err, other) {
			return Bad(err)
		}
	}
	if errors.Is(err, jwt.ErrTokenExpired) {
		return Expired()
	}
	return Bad(err)
}

// Bad is the error of a token that was never good.
func Bad(err error) error {
	return levee.E(levee.CodeUnauthenticated, "the access token is not valid").Because(err)
}

// Expired is the error of a token that was good.
func Expired() error {
	return levee.E(levee.CodeUnauthenticated, "the access token has expired").With("reason", "expired")
}
