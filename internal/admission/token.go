package admission

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"sync"
	"time"

	"levee"
)

// macs signs texts and opens them: a body and its HMAC-SHA256 (RFC 2104) under one key, in base64url. Hashes with the key set up
// are kept, so that a MAC costs its message alone and opening allocates nothing. Safe for concurrent use.
type macs struct{ pool sync.Pool }

type scratch struct {
	h    hash.Hash
	text [sealedMost]byte
	raw  [sealedMost]byte
	sum  [sha256.Size]byte
}

const (
	// macSize is how much of a MAC is kept: 128 bits, which nobody guesses.
	macSize = 16
	// sealedMost is more than the longest text that is sealed here has characters.
	sealedMost = 96
)

func newMACs(key []byte) *macs {
	key = append([]byte(nil), key...)
	return &macs{pool: sync.Pool{New: func() any { return &scratch{h: hmac.New(sha256.New, key)} }}}
}

// mac returns the MAC of body, in the scratch.
func (s *scratch) mac(body []byte) []byte {
	s.h.Reset()
	s.h.Write(body)
	return s.h.Sum(s.sum[:0])[:macSize]
}

// seal returns body with its MAC.
func (m *macs) seal(body []byte) string {
	s := m.pool.Get().(*scratch)
	raw := append(s.raw[:0], body...)
	raw = append(raw, s.mac(raw)...)
	text := string(encoding.AppendEncode(s.text[:0], raw))
	m.pool.Put(s)
	return text
}

// open checks what seal made of a body of so many bytes and copies the body out. It is false for anything else.
func (m *macs) open(text string, body []byte) bool {
	size := len(body)
	if len(text) != encoding.EncodedLen(size+macSize) {
		return false
	}
	s := m.pool.Get().(*scratch)
	n, err := encoding.Decode(s.raw[:], s.text[:copy(s.text[:], text)])
	ok := err == nil && n == size+macSize && hmac.Equal(s.mac(s.raw[:size]), s.raw[size:n])
	if ok {
		copy(body, s.raw[:size])
	}
	m.pool.Put(s)
	return ok
}

// encoding is strict: of two texts that differ in bits which mean nothing, one is refused. Else a thing that may be used once
// could be used again in another spelling.
var encoding = base64.RawURLEncoding.Strict()

// An admission token is sale (8 bytes), buyer (8), expiry in unix seconds (8) and the MAC over them, in base64url: 54
// characters. It is verified without any look-up, so a crowd of forged ones costs one hash each.
const tokenBody = 24

// Issue makes the token with which a buyer may try to buy in a sale until expires, which is cut to whole seconds. It asks no
// rule: the caller decides who gets one.
func (s *Service) Issue(sale levee.SaleID, buyer levee.UserID, expires time.Time) string {
	var raw [tokenBody]byte
	binary.BigEndian.PutUint64(raw[0:], uint64(sale))
	binary.BigEndian.PutUint64(raw[8:], uint64(buyer))
	binary.BigEndian.PutUint64(raw[16:], uint64(expires.Unix()))
	return s.tokens.seal(raw[:])
}

// Verify checks a token against sale, buyer and clock. It fails with CodeAdmissionMissing, CodeAdmissionInvalid (forged,
// another sale's, another buyer's: not told apart) or CodeAdmissionExpired. It takes no lock and looks nothing up.
func (s *Service) Verify(token string, sale levee.SaleID, buyer levee.UserID, now time.Time) error {
	if token == "" {
		return errMissing
	}
	var body [tokenBody]byte
	if !s.tokens.open(token, body[:]) || binary.BigEndian.Uint64(body[0:]) != uint64(sale) || binary.BigEndian.Uint64(body[8:]) != uint64(buyer) {
		return errInvalid
	}
	if now.Unix() >= int64(binary.BigEndian.Uint64(body[16:])) {
		return errExpired
	}
	return nil
}

// Made once: a crowd without tokens is refused without an allocation.
var (
	errMissing = levee.E(levee.CodeAdmissionMissing, "this sale needs an admission token in the header Levee-Admission")
	errInvalid = levee.E(levee.CodeAdmissionInvalid, "the admission token is not for this sale and this buyer")
	errExpired = levee.E(levee.CodeAdmissionExpired, "the admission token has expired; ask for a new one")
)
