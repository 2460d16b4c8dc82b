package token

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

// Secret is what a client shows to go on with a session: a refresh token or the value of the session cookie.
//
//	lvr.<sealed session id>.<generation>.<secret>.<mac>
//
// The first word is the purpose (lvr: refresh, lvc: cookie). The mac says that we made it, so a made-up secret is refused
// without a look into the database and can never end somebody's session as "reused". SQL holds only the hash of the whole.
type Secret struct {
	Session int64
	// Generation counts how often a refresh token was replaced before this one.
	Generation int64
	purpose    string
	random     [32]byte
}

// The purposes of session secrets. A secret is good for its own alone.
const (
	ForRefresh = "lvr"
	ForCookie  = "lvc"
	// maxSecretBytes bounds what is looked at; ours have at most 130 bytes.
	maxSecretBytes = 256
	macBytes       = 16
)

// Secrets makes and reads session secrets.
type Secrets struct {
	sealer    *id.Sealer
	mac, next []byte // keys, derived from one Ed25519 key's seed
}

// NewSecrets makes them of a key that is the same on all nodes.
func NewSecrets(sealer *id.Sealer, key ed25519.PrivateKey) *Secrets {
	derive := func(info string) []byte {
		k, err := hkdf.Key(sha256.New, key.Seed(), nil, info, 32)
		if err != nil {
			panic("token.New: " + err.Error()) // only for lengths over 8,160 bytes
		}
		return k
	}
	return &Secrets{sealer: sealer, mac: derive("levee identity session secret mac v1"), next: derive("levee identity refresh successor v1")}
}

// Fresh makes the first secret of a session.
func (s *Secrets) Fresh(purpose string, session int64) string {
	sec := Secret{purpose: purpose, Session: session}
	rand.Read(sec.random[:]) // never fails
	return s.encode(sec)
}

// Successor returns what the presented secret is replaced by. It is a function of the secret, the key and the salt in the session's row, so within the
// grace time the same successor can be given again although only its hash is stored, and neither the database nor the key alone leads to it.
func (s *Secrets) Successor(presented Secret, salt []byte) string {
	mac := hmac.New(sha256.New, s.next)
	mac.Write(presented.random[:])
	mac.Write(salt)
	next := Secret{purpose: presented.purpose, Session: presented.Session, Generation: presented.Generation + 1}
	mac.Sum(next.random[:0])
	return s.encode(next)
}

func (s *Secrets) encode(sec Secret) string {
	body := sec.purpose + "." + s.sealer.Seal(levee.KindSession, sec.Session) + "." +
		strconv.FormatInt(sec.Generation, 36) + "." + base64.RawURLEncoding.EncodeToString(sec.random[:])
	return body + "." + base64.RawURLEncoding.EncodeToString(s.macOf(body))
}

func (s *Secrets) macOf(body string) []byte {
	mac := hmac.New(sha256.New, s.mac)
	mac.Write([]byte(body))
	return mac.Sum(nil)[:macBytes]
}

// Read reads a secret of the given purpose. It returns false for anything that we did not make, byte for byte.
func (s *Secrets) Read(purpose, text string) (Secret, bool) {
	if len(text) > maxSecretBytes {
		return Secret{}, false
	}
	cut := strings.LastIndexByte(text, '.')
	if cut < 0 {
		return Secret{}, false
	}
	body := text[:cut]
	given, err := base64.RawURLEncoding.Strict().DecodeString(text[cut+1:])
	if err != nil || len(given) != macBytes {
		return Secret{}, false
	}
	if subtle.ConstantTimeCompare(given, s.macOf(body)) != 1 {
		return Secret{}, false
	}
	// From here on the text is ours; the rest can fail only for another purpose.
	parts := strings.Split(body, ".")
	if len(parts) != 4 || parts[0] != purpose {
		return Secret{}, false
	}
	sec := Secret{purpose: purpose}
	if sec.Session, err = s.sealer.Open(levee.KindSession, parts[1]); err != nil {
		return Secret{}, false
	}
	if sec.Generation, err = strconv.ParseInt(parts[2], 36, 64); err != nil {
		return Secret{}, false
	}
	random, err := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err != nil || copy(sec.random[:], random) != len(sec.random) {
		return Secret{}, false
	}
	return sec, true
}

// Hash is how a credential stands in SQL. Ours have 160 random bits at least, so a plain hash is enough.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
