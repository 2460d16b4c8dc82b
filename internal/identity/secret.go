package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"

	"levee"
	"levee/internal/platform/id"
)

// A session secret is what a client shows to go on with a session: a refresh token or the value of the session cookie.
//
//	lvr.<sealed session id>.<generation>.<secret>.<mac>
//
// The first word is the purpose (lvr: refresh, lvc: cookie). The mac says that we made it, so a made-up secret is refused
// without a look into the database and can never end somebody's session as "reused". SQL holds only the hash of the whole.
type secret struct {
	purpose    string
	session    int64
	generation int64
	random     [32]byte
}

const (
	purposeRefresh = "lvr"
	purposeCookie  = "lvc"
	// maxSecretBytes bounds what is looked at; ours have at most 130 bytes.
	maxSecretBytes = 256
	macBytes       = 16
)

// secretKeys are derived from one Ed25519 key's seed.
type secretKeys struct{ mac, next []byte }

// secrets makes and reads session secrets. The first key makes new ones, all keys are tried on old ones.
type secrets struct {
	sealer *id.Sealer
	keys   []secretKeys
}

func newSecrets(sealer *id.Sealer, key ed25519.PrivateKey, old []ed25519.PrivateKey) *secrets {
	s := &secrets{sealer: sealer}
	derive := func(seed []byte, info string) []byte {
		k, err := hkdf.Key(sha256.New, seed, nil, info, 32)
		if err != nil {
			panic("identity.New: " + err.Error()) // only for lengths over 8,160 bytes
		}
		return k
	}
	for _, k := range append([]ed25519.PrivateKey{key}, old...) {
		s.keys = append(s.keys, secretKeys{
			mac:  derive(k.Seed(), "levee identity session secret mac v1"),
			next: derive(k.Seed(), "levee identity refresh successor v1"),
		})
	}
	return s
}

// fresh makes the first secret of a session.
func (s *secrets) fresh(purpose string, session int64) string {
	sec := secret{purpose: purpose, session: session}
	rand.Read(sec.random[:]) // never fails
	return s.encode(sec, s.keys[0])
}

// successors returns what the presented secret is replaced by, one candidate for each key, the signing key's first. It is
// a function of the secret, the key and the salt in the session's row, so within the grace time the same successor can be
// given again although only its hash is stored, and neither the database nor the key alone leads to it.
func (s *secrets) successors(presented secret, salt []byte) []string {
	list := make([]string, len(s.keys))
	for i, key := range s.keys {
		mac := hmac.New(sha256.New, key.next)
		mac.Write(presented.random[:])
		mac.Write(salt)
		next := secret{purpose: presented.purpose, session: presented.session, generation: presented.generation + 1}
		mac.Sum(next.random[:0])
		list[i] = s.encode(next, key)
	}
	return list
}

func (s *secrets) encode(sec secret, key secretKeys) string {
	body := sec.purpose + "." + s.sealer.Seal(levee.KindSession, sec.session) + "." +
		strconv.FormatInt(sec.generation, 36) + "." + base64.RawURLEncoding.EncodeToString(sec.random[:])
	return body + "." + base64.RawURLEncoding.EncodeToString(macOf(key, body))
}

func macOf(key secretKeys, body string) []byte {
	mac := hmac.New(sha256.New, key.mac)
	mac.Write([]byte(body))
	return mac.Sum(nil)[:macBytes]
}

// decode reads a secret of the given purpose. It returns false for anything that we did not make, byte for byte.
func (s *secrets) decode(purpose, text string) (secret, bool) {
	if len(text) > maxSecretBytes {
		return secret{}, false
	}
	cut := strings.LastIndexByte(text, '.')
	if cut < 0 {
		return secret{}, false
	}
	body := text[:cut]
	given, err := base64.RawURLEncoding.Strict().DecodeString(text[cut+1:])
	if err != nil || len(given) != macBytes {
		return secret{}, false
	}
	ours := 0
	for _, key := range s.keys {
		ours |= subtle.ConstantTimeCompare(given, macOf(key, body))
	}
	if ours != 1 {
		return secret{}, false
	}
	// From here on the text is ours; the rest can fail only for another purpose.
	parts := strings.Split(body, ".")
	if len(parts) != 4 || parts[0] != purpose {
		return secret{}, false
	}
	sec := secret{purpose: purpose}
	if sec.session, err = s.sealer.Open(levee.KindSession, parts[1]); err != nil {
		return secret{}, false
	}
	if sec.generation, err = strconv.ParseInt(parts[2], 36, 64); err != nil {
		return secret{}, false
	}
	random, err := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err != nil || copy(sec.random[:], random) != len(sec.random) {
		return secret{}, false
	}
	return sec, true
}

// hashOf is how a secret stands in SQL. The secret has 256 random bits, so a plain hash is enough.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
