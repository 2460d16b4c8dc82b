package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

const (
	// tokenType is the typ of an access token (RFC 9068), so that no other JWT of ours can ever pass for one.
	tokenType = "at+jwt"
	// maxTokenBytes bounds what is looked at; ours have about 420 bytes.
	maxTokenBytes = 2048
	// tokenSkew is how far the clocks of two nodes may be apart before a fresh token is refused as not yet valid.
	tokenSkew = 5 * time.Second
	// loadTimeout bounds the read of a session whose token is seen for the first time.
	loadTimeout = 5 * time.Second
)

// claims is the body of an access token.
type claims struct {
	jwt.RegisteredClaims
	Session   string `json:"sid,omitempty"`
	Rehearsal bool   `json:"reh,omitempty"`
}

// signer makes and checks access tokens. EdDSA is the only algorithm it knows: the header's alg, typ and kid must be
// exactly what it writes, and any other header (jku, jwk, x5u, crit …) is refused.
type signer struct {
	cfg    Config
	now    obs.Clock
	key    ed25519.PrivateKey
	kid    string
	public map[string]ed25519.PublicKey
	order  []string // kids, the signing one first
	parser *jwt.Parser
}

func newSigner(cfg Config, now obs.Clock, key ed25519.PrivateKey, old []ed25519.PrivateKey) *signer {
	s := &signer{cfg: cfg, now: now, key: key, public: map[string]ed25519.PublicKey{}}
	for i, k := range append([]ed25519.PrivateKey{key}, old...) {
		if len(k) != ed25519.PrivateKeySize {
			panic(fmt.Sprintf("identity.New: key %d has %d bytes, an Ed25519 private key has %d", i, len(k), ed25519.PrivateKeySize))
		}
		public := k.Public().(ed25519.PublicKey)
		kid := keyID(public)
		if i == 0 {
			s.kid = kid
		}
		if _, twice := s.public[kid]; !twice {
			s.public[kid] = public
			s.order = append(s.order, kid)
		}
	}
	s.parser = jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(cfg.Issuer),
		jwt.WithAudience(cfg.Audience), jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(tokenSkew), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now))
	return s
}

// keyID is the front of the key's RFC 7638 thumbprint: the same on every node, and it says nothing about the key.
func keyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// sign makes a token of c, whose subject, session and expiry are set by the caller.
func (s *signer) sign(c *claims, now time.Time) (string, error) {
	var jti [12]byte
	rand.Read(jti[:]) // never fails
	c.Issuer, c.Audience = s.cfg.Issuer, jwt.ClaimStrings{s.cfg.Audience}
	c.IssuedAt, c.NotBefore = jwt.NewNumericDate(now), jwt.NewNumericDate(now)
	c.ID = base64.RawURLEncoding.EncodeToString(jti[:])
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["typ"], t.Header["kid"] = tokenType, s.kid
	return t.SignedString(s.key)
}

// verify returns the claims of a token that is ours, signed, and valid now; else CodeUnauthenticated, which says whether
// it has merely expired.
func (s *signer) verify(token string) (*claims, error) {
	if len(token) > maxTokenBytes {
		return nil, badToken(nil)
	}
	var c claims
	_, err := s.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		public, known := s.public[kid]
		if !known || t.Header["typ"] != tokenType || len(t.Header) != 3 {
			return nil, errors.New("not a header of ours")
		}
		return public, nil
	})
	switch {
	case err != nil:
		return nil, tokenError(err)
	case !s.now().Before(c.ExpiresAt.Time): // the skew allowed above is for clocks that are behind, not for late tokens
		return nil, expiredToken()
	case c.Subject == "" || c.ID == "" || c.IssuedAt == nil || (c.Session == "") != c.Rehearsal:
		return nil, badToken(errors.New("a claim is missing"))
	}
	return &c, nil
}

// tokenError tells an expired token, which a client may refresh, from one that was never good.
func tokenError(err error) error {
	for _, other := range []error{jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid,
		jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued,
		jwt.ErrTokenRequiredClaimMissing} {
		if errors.Is(err, other) {
			return badToken(err)
		}
	}
	if errors.Is(err, jwt.ErrTokenExpired) {
		return expiredToken()
	}
	return badToken(err)
}

func badToken(err error) error {
	return levee.E(levee.CodeUnauthenticated, "the access token is not valid").Because(err)
}

func expiredToken() error {
	return levee.E(levee.CodeUnauthenticated, "the access token has expired").With("reason", "expired")
}

func endedSession() error {
	return levee.E(levee.CodeUnauthenticated, "the session has ended").With("reason", "session_ended")
}

// JWKS returns the public keys that access tokens are checked with, as a JSON Web Key Set: the signing one first.
func (s *Service) JWKS() []byte {
	type jwk struct {
		Type  string `json:"kty"`
		Curve string `json:"crv"`
		Alg   string `json:"alg"`
		Use   string `json:"use"`
		ID    string `json:"kid"`
		X     string `json:"x"`
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	for _, kid := range s.signer.order {
		set.Keys = append(set.Keys, jwk{Type: "OKP", Curve: "Ed25519", Alg: "EdDSA", Use: "sig", ID: kid,
			X: base64.RawURLEncoding.EncodeToString(s.signer.public[kid])})
	}
	body, err := json.Marshal(set)
	if err != nil {
		panic("identity.JWKS: " + err.Error()) // a struct of strings always marshals
	}
	return body
}

// issue makes an access token of an open session and puts it into the cache, so that its first use is a hit. state was
// held before the transaction that gave the session and the user's roles.
func (s *Service) issue(session Session, state *live, now time.Time) (token string, expires time.Time, err error) {
	expires = now.Add(s.cfg.AccessTTL).Truncate(time.Second)
	if expires.After(session.ExpiresAt) {
		expires = session.ExpiresAt.Truncate(time.Second)
	}
	c := &claims{Session: s.sealer.Seal(levee.KindSession, session.ID)}
	c.Subject, c.ExpiresAt = s.sealer.Seal(levee.KindUser, int64(session.User)), jwt.NewNumericDate(expires)
	if token, err = s.signer.sign(c, now); err != nil {
		return "", time.Time{}, err
	}
	s.tokens.put(&verified{credential: token, expires: expires.UnixMicro(), user: session.User, session: session.ID, state: state},
		now.UnixMicro())
	return token, expires, nil
}

// AuthenticateToken returns who an access token, ours or the foreign issuer's, stands for. It fails with CodeUnauthenticated for
// one that is neither, forged, expired, or whose session or account has ended; that acts on the very next call, also for tokens that
// were good a moment ago. The usual case, a token seen before, takes one hash and one map look-up and allocates nothing.
func (s *Service) AuthenticateToken(token string) (levee.Actor, error) {
	if v := s.tokens.get(token); v != nil {
		if s.now().UnixMicro() >= v.expires {
			s.tokens.remove(v)
			if v.foreign {
				return s.verifyToken(token)
			}
			return levee.Actor{}, expiredToken()
		}
		switch bits := v.state.bits.Load(); bits & stateMask {
		case stateOpen:
			return levee.Actor{User: v.user, Session: v.session, Roles: levee.Roles(bits >> rolesShift), Rehearsal: v.rehearsal}, nil
		case stateEnded:
			return levee.Actor{}, endedSession()
		}
	}
	return s.verifyToken(token)
}

// verifyToken is the long way of AuthenticateToken: signature, claims, and the session's state from SQL.
func (s *Service) verifyToken(token string) (actor levee.Actor, err error) {
	defer func() { s.metrics.checks.WithLabelValues(resultOf(err)).Inc() }()
	if s.foreign.Issued(token) {
		return s.verifyForeign(token)
	}
	c, err := s.signer.verify(token)
	if err != nil {
		return levee.Actor{}, err
	}
	user, err := s.sealer.Open(levee.KindUser, c.Subject)
	if err != nil {
		return levee.Actor{}, badToken(err)
	}
	// The caller's string may be a piece of a whole request's headers, which the cache must not keep.
	v := &verified{credential: strings.Clone(token), expires: c.ExpiresAt.UnixMicro(), user: levee.UserID(user), rehearsal: c.Rehearsal}
	if c.Rehearsal {
		v.state = rehearsalState
	} else {
		if v.session, err = s.sealer.Open(levee.KindSession, c.Session); err != nil {
			return levee.Actor{}, badToken(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
		defer cancel()
		row, state, err := s.loadSession(ctx, v.session, v.expires)
		if err != nil {
			return levee.Actor{}, err
		}
		if row.User != v.user || row.Kind != SessionToken {
			return levee.Actor{}, badToken(nil)
		}
		v.state = state
	}
	bits := v.state.bits.Load()
	if bits&stateMask != stateOpen {
		return levee.Actor{}, endedSession()
	}
	s.tokens.put(v, s.now().UnixMicro())
	return levee.Actor{User: v.user, Session: v.session, Roles: levee.Roles(bits >> rolesShift), Rehearsal: v.rehearsal}, nil
}

func resultOf(err error) string {
	if err != nil {
		return "refused"
	}
	return "ok"
}

// loadSession reads a session that must be open, and returns it with its state in this process, kept until the given time
// (microseconds) at least.
func (s *Service) loadSession(ctx context.Context, session, until int64) (sessionRow, *live, error) {
	// A second round is needed only when roles changed, or the clock jumped, between the read and learn.
	for range 3 {
		state := s.live.hold(session, until)
		row, err := readSession(db.Primary(ctx), s.db.QueryRow, session)
		if errors.Is(err, db.ErrNoRows) {
			return row, nil, endedSession()
		}
		if err != nil {
			return row, nil, err
		}
		now := s.now()
		if seen := at(state.seen.Load()); seen.After(row.SeenAt) { // not flushed yet
			row.SeenAt = seen
		}
		if !s.usable(row, now) {
			return row, nil, endedSession()
		}
		s.live.learn(session, state, row.roles, row.userVersion, row.SeenAt.UnixMicro())
		if state.bits.Load()&stateMask != 0 {
			return row, state, nil
		}
	}
	return sessionRow{}, nil, levee.E(levee.CodeUnavailable, "the session is being changed").After(time.Second)
}

// usable reports whether a session may still be used: not ended, not too old, not unused for too long, user not disabled.
func (s *Service) usable(row sessionRow, now time.Time) bool {
	return !row.ended && !row.userDisabled && now.Before(row.ExpiresAt) && now.Before(row.SeenAt.Add(s.cfg.SessionIdle))
}

// rehearsalState is the state of all invented buyers: they are customers, and their tokens end by expiry alone.
var rehearsalState = func() *live {
	l := &live{}
	l.bits.Store(stateOpen | uint64(levee.RoleCustomer)<<rolesShift)
	return l
}()

// The bounds of IssueRehearsalTokens.
const (
	maxRehearsalTokens = 1_000_000
	maxRehearsalTTL    = 24 * time.Hour
	rehearsalChunk     = 1024 // tokens signed before they are handed over
)

// IssueRehearsalTokens invents n buyers (1 to 1,000,000) who have no account and no session, and gives the token of each
// to yield, one call at a time. The tokens are good for ttl (1 s to 24 h) and are in the cache already. Only sales that
// are rehearsals sell to them. It stops at yield's first error and returns it. Signing costs about 25 µs of one core each
// and uses all cores.
func (s *Service) IssueRehearsalTokens(ctx context.Context, n int, ttl time.Duration,
	yield func(levee.UserID, string) error) (err error) {
	defer levee.Wrap(&err, "identity.IssueRehearsalTokens(%d, %v)", n, ttl)
	if n < 1 || n > maxRehearsalTokens {
		return levee.Invalid("n", fmt.Sprintf("1 to %d", maxRehearsalTokens), n)
	}
	if ttl < time.Second || ttl > maxRehearsalTTL {
		return levee.Invalid("ttl", fmt.Sprintf("1s to %v", maxRehearsalTTL), ttl)
	}
	users, tokens := make([]int64, rehearsalChunk), make([]string, rehearsalChunk)
	for done := 0; done < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := min(rehearsalChunk, n-done)
		if err := s.ids.NextN(users[:chunk]); err != nil {
			return err
		}
		if err := s.signRehearsal(users[:chunk], tokens[:chunk], ttl); err != nil {
			return err
		}
		for i := range chunk {
			if err := yield(levee.UserID(users[i]), tokens[i]); err != nil {
				return err
			}
		}
		done += chunk
	}
	return nil
}

// signRehearsal fills tokens with one for each user, on all cores.
func (s *Service) signRehearsal(users []int64, tokens []string, ttl time.Duration) error {
	now := s.now()
	expires := now.Add(ttl).Truncate(time.Second)
	workers := min(runtime.GOMAXPROCS(0), len(users))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(users) && errs[w] == nil; i += workers {
				c := &claims{Rehearsal: true}
				c.Subject, c.ExpiresAt = s.sealer.Seal(levee.KindUser, users[i]), jwt.NewNumericDate(expires)
				if tokens[i], errs[w] = s.signer.sign(c, now); errs[w] != nil {
					return
				}
				s.tokens.put(&verified{credential: tokens[i], expires: expires.UnixMicro(), user: levee.UserID(users[i]),
					rehearsal: true, state: rehearsalState}, now.UnixMicro())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
