package sale

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

// admissions signs and verifies admission tokens: who may try to buy in which sale, until when. A token is sale (8 bytes),
// buyer (8), expiry in unix seconds (8) and the first 16 bytes of HMAC-SHA256 (RFC 2104) over them, in base64url: 54
// characters. It is verified without any look-up, so a crowd of forged ones costs one hash each.
type admissions struct {
	macs sync.Pool // of hash.Hash with the key set up
}

const (
	admissionBody = 24
	admissionMAC  = 16
)

var admissionEncoding = base64.RawURLEncoding

func newAdmissions(key []byte) (*admissions, error) {
	if len(key) != 32 {
		return nil, levee.E(levee.CodeInvalid, "the admission key must be 32 bytes, got %d", len(key))
	}
	key = append([]byte(nil), key...)
	return &admissions{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}, nil
}

func (a *admissions) mac(body []byte, into []byte) []byte {
	h := a.macs.Get().(hash.Hash)
	h.Reset()
	h.Write(body)
	into = h.Sum(into)
	a.macs.Put(h)
	return into
}

// issue makes a token. The expiry is cut to whole seconds.
func (a *admissions) issue(sale levee.SaleID, buyer levee.UserID, expires time.Time) string {
	var raw [admissionBody + sha256.Size]byte
	binary.BigEndian.PutUint64(raw[0:], uint64(sale))
	binary.BigEndian.PutUint64(raw[8:], uint64(buyer))
	binary.BigEndian.PutUint64(raw[16:], uint64(expires.Unix()))
	a.mac(raw[:admissionBody], raw[:admissionBody])
	return admissionEncoding.EncodeToString(raw[:admissionBody+admissionMAC])
}

// verify checks a token against sale, buyer and clock. It fails with CodeAdmissionMissing, CodeAdmissionInvalid (forged,
// another sale's, another buyer's: not told apart) or CodeAdmissionExpired.
func (a *admissions) verify(token string, sale levee.SaleID, buyer levee.UserID, now time.Time) error {
	if token == "" {
		return levee.E(levee.CodeAdmissionMissing, "this sale needs an admission token in the header Levee-Admission")
	}
	var raw [admissionBody + admissionMAC + 3]byte
	if len(token) != admissionEncoding.EncodedLen(admissionBody+admissionMAC) {
		return errAdmissionInvalid
	}
	n, err := admissionEncoding.Decode(raw[:], []byte(token))
	if err != nil || n != admissionBody+admissionMAC {
		return errAdmissionInvalid
	}
	var sum [sha256.Size]byte
	mac := a.mac(raw[:admissionBody], sum[:0])
	if !hmac.Equal(mac[:admissionMAC], raw[admissionBody:n]) ||
		binary.BigEndian.Uint64(raw[0:]) != uint64(sale) || binary.BigEndian.Uint64(raw[8:]) != uint64(buyer) {
		return errAdmissionInvalid
	}
	if now.Unix() >= int64(binary.BigEndian.Uint64(raw[16:])) {
		return errAdmissionExpired
	}
	return nil
}

var (
	errAdmissionInvalid = levee.E(levee.CodeAdmissionInvalid, "the admission token is not for this sale and this buyer")
	errAdmissionExpired = levee.E(levee.CodeAdmissionExpired, "the admission token has expired; ask for a new one")
)
