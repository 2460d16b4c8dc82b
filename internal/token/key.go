package token

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Algorithm of a signing key. The set is the allow-list: nothing else is signed, verified or published.
type Algorithm string

// The algorithms. decision 0030 has what each costs.
const (
	RS256 Algorithm = "RS256" // RSASSA-PKCS1-v1_5 with SHA-256 and a modulus of 2,048 bits
	EdDSA Algorithm = "EdDSA" // Ed25519
)

const algorithmsAllowed = "RS256 or EdDSA"

// ParseAlgorithm returns the algorithm of a name, or CodeInvalid.
func ParseAlgorithm(name string) (Algorithm, error) {
	switch a := Algorithm(name); a {
	case RS256, EdDSA:
		return a, nil
	}
	return "", levee.Invalid("algorithm", algorithmsAllowed, levee.Shorten(name, 40))
}

const (
	rsaBits = 2048
	// MaxLife bounds the life of an access token. A key stays known that long, and keyMargin more, after it last signed.
	MaxLife   = time.Hour
	keyMargin = 5 * time.Minute
	// settle is how long a key that is to sign at once waits all the same, so that every node knows it by then (lookEvery).
	settle = 2 * time.Second
	// keysKept is how long a key that is gone still stands in the list.
	keysKept = 30 * 24 * time.Hour
	// maxKeys bounds how many keys there may be that are not gone.
	maxKeys = 16
)

// State of a key at a moment.
type State string

// A key is published before it signs and after it last signed, so that whoever caches the key set meets no unknown key.
const (
	Published State = "published" // known, does not sign yet
	Signing   State = "signing"
	Retired   State = "retired" // signs no more; what it signed is good until it expires
	Gone      State = "gone"    // what it signed is refused
)

// Key is a signing key as the house has it now. Zero times: not settled yet.
type Key struct {
	ID        string // the front of its RFC 7638 thumbprint
	Algorithm Algorithm
	State     State
	MadeAt    time.Time
	SignsAt   time.Time
	RetiresAt time.Time
	GoneAt    time.Time
	// WithdrawnAt is when it was withdrawn before its time: what it had signed was refused from then on.
	WithdrawnAt time.Time
}

// key is one key with its parts.
type key struct {
	number    int64
	kid       string
	algorithm Algorithm
	public    crypto.PublicKey
	private   crypto.Signer // nil: erased
	sealed    string
	header    string // the one header that its tokens have, as it stands in them

	made, signs, retires, gone, withdrawn time.Time
}

func newKey(a Algorithm, private crypto.Signer) *key {
	k := &key{algorithm: a, private: private, public: private.Public()}
	k.name()
	return k
}

// name gives the key its id and header.
func (k *key) name() {
	j := k.jwk()
	// RFC 7638: the required members alone, in the order of their names.
	text := `{"crv":"Ed25519","kty":"OKP","x":"` + j.X + `"}`
	if k.algorithm == RS256 {
		text = `{"e":"` + j.E + `","kty":"RSA","n":"` + j.N + `"}`
	}
	sum := sha256.Sum256([]byte(text))
	k.kid = base64.RawURLEncoding.EncodeToString(sum[:12])
	k.header = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + string(k.algorithm) + `","kid":"` + k.kid + `","typ":"` + tokenType + `"}`))
}

func (k *key) state(now time.Time) State {
	switch {
	case !k.withdrawn.IsZero(), !k.gone.IsZero() && !now.Before(k.gone):
		return Gone
	case !k.retires.IsZero() && !now.Before(k.retires):
		return Retired
	case now.Before(k.signs):
		return Published
	}
	return Signing
}

func (k *key) shown(now time.Time) Key {
	return Key{ID: k.kid, Algorithm: k.algorithm, State: k.state(now), MadeAt: k.made, SignsAt: k.signs, RetiresAt: k.retires, GoneAt: k.gone,
		WithdrawnAt: k.withdrawn}
}

// retire lets the key sign until then, and be known until the last of its tokens has expired.
func (k *key) retire(at time.Time) { k.retires, k.gone = at, at.Add(MaxLife+keyMargin) }

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Type  string `json:"kty"`
	Curve string `json:"crv,omitempty"`
	Alg   string `json:"alg"`
	Use   string `json:"use"`
	ID    string `json:"kid"`
	X     string `json:"x,omitempty"`
	N     string `json:"n,omitempty"`
	E     string `json:"e,omitempty"`
}

func (k *key) jwk() jwk {
	j := jwk{Alg: string(k.algorithm), Use: "sig", ID: k.kid}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		j.Type, j.N = "RSA", base64.RawURLEncoding.EncodeToString(public.N.Bytes())
		j.E = base64.RawURLEncoding.EncodeToString(big.NewInt(int64(public.E)).Bytes())
	case ed25519.PublicKey:
		j.Type, j.Curve, j.X = "OKP", "Ed25519", base64.RawURLEncoding.EncodeToString(public)
	}
	return j
}

// ring is all keys, the newest first, and how to find one by the header of a token. It is never changed.
type ring struct {
	keys   []*key
	header map[string]*key
	house  *key
	// From the first key's dates: until when everybody's tokens were signed with the house's key, and until when those are good.
	houseSigns, houseGone time.Time
	began                 time.Time
}

// ringOf puts rows together. A row that cannot be opened or is not understood is left out.
func (s *Service) ringOf(rows []*key) *ring {
	r := &ring{header: map[string]*key{s.house.header: s.house}, house: s.house}
	for _, k := range rows {
		if k.number == 1 && k.signs.After(k.made) {
			r.houseSigns, r.houseGone = k.signs, k.signs.Add(MaxLife+keyMargin)
		}
		if s.open(k) != nil {
			continue
		}
		r.keys = append(r.keys, k)
		r.header[k.header] = k
	}
	slices.SortFunc(r.keys, func(a, b *key) int { return b.signs.Compare(a.signs) })
	return r
}

// signer returns the key that signs now, or nil.
func (r *ring) signer(now time.Time) *key {
	for _, k := range r.keys {
		if k.state(now) == Signing && k.private != nil {
			return k
		}
	}
	if now.Before(r.houseSigns) {
		return r.house
	}
	return nil
}

// covered reports whether there is a key that signs, or one that will.
func (r *ring) covered(now time.Time) bool {
	return slices.ContainsFunc(r.keys, func(k *key) bool {
		state := k.state(now)
		return k.private != nil && (state == Signing || state == Published)
	})
}

// newest returns the key that signs last of all, or nil.
func (r *ring) newest() *key {
	if len(r.keys) == 0 {
		return nil
	}
	return r.keys[0]
}

// known returns the keys that verify at that moment, the newest first.
func (r *ring) known(now time.Time) (list []*key) {
	for _, k := range r.keys {
		if k.state(now) != Gone {
			list = append(list, k)
		}
	}
	if now.Before(r.houseGone) {
		list = append(list, r.house)
	}
	return list
}

// load reads the keys from SQL and puts them in place of those of before.
func (s *Service) load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	began := s.now()
	rows, err := readKeys(db.Primary(ctx), s.db.Query)
	if err != nil {
		return err
	}
	next := s.ringOf(rows)
	next.began = began
	odd := fmt.Sprint(len(rows) - len(next.keys))
	if odd != s.odd && odd != "0" {
		s.log.WarnContext(ctx, "keys of access tokens cannot be opened: they were sealed with another secret, or made by a newer version", "count", odd)
	}
	s.odd = odd
	before := s.ring.Swap(next)
	if before == nil {
		return nil
	}
	// Whatever was verified with a key that has been withdrawn since must be looked at again.
	for _, was := range before.keys {
		if is := next.header[was.header]; was.withdrawn.IsZero() && (is == nil || !is.withdrawn.IsZero()) {
			s.generation.Add(1)
			break
		}
	}
	return nil
}

// Generation changes whenever a key was withdrawn before its time. A cache of verified access tokens must not believe an entry that was made
// under another one.
func (s *Service) Generation() int64 { return s.generation.Load() }

// make makes a key of an algorithm, sealed for SQL. An RSA key takes some 0.1 s of one core.
func (s *Service) make(ctx context.Context, a Algorithm) (*key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var private crypto.Signer
	var err error
	switch a {
	case RS256:
		private, err = rsa.GenerateKey(rand.Reader, rsaBits)
	case EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, levee.Invalid("algorithm", algorithmsAllowed, string(a))
	}
	if err != nil {
		return nil, err
	}
	k := newKey(a, private)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	k.sealed = s.seal.close(der, k.about())
	return k, nil
}

// about is bound to a sealed private key, so that it opens for no other key and algorithm.
func (k *key) about() string { return string(k.algorithm) + " " + k.kid }

// open gives a key that was read from SQL its parts.
func (s *Service) open(k *key) error {
	if k.header != "" {
		return nil
	}
	kid := k.kid
	if k.name(); k.kid != kid {
		return levee.E(levee.CodeInternal, "the key %s is stored as %s", k.kid, levee.Shorten(kid, 40))
	}
	if k.sealed == "" {
		return nil
	}
	der, err := s.seal.open(k.sealed, k.about())
	if err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return err
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return levee.E(levee.CodeInternal, "the key %s cannot sign", kid)
	}
	k.private = private
	return nil
}

// sealing closes private keys with AES-256-GCM.
type sealing struct{ aead cipher.AEAD }

func newSealing(key []byte) (sealing, error) {
	if len(key) != 32 {
		return sealing{}, levee.E(levee.CodeInvalid, "the key that seals private keys must have 32 bytes, it has %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealing{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealing{aead}, err
}

func (s sealing) close(plain []byte, about string) string {
	return base64.StdEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(about)))
}

func (s sealing) open(text, about string) ([]byte, error) {
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	return s.aead.Open(nil, nil, sealed, []byte(about))
}

// JWKS returns the public keys that access tokens are verified with, as a JSON Web Key Set (RFC 7517): the newest first, those that do not sign
// yet among them. The tokens of invented buyers are for this house alone: the key that signs them is not in it.
func (s *Service) JWKS() []byte {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	set.Keys = []jwk{}
	for _, k := range s.ring.Load().known(s.now()) {
		set.Keys = append(set.Keys, k.jwk())
	}
	body, err := json.Marshal(set)
	if err != nil {
		panic("token.JWKS: " + err.Error()) // structs of strings always marshal
	}
	return body
}
