package factor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238's default, and all that most applications know; HMAC does not lean on collisions
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/url"
	"time"

	"levee"
)

// The parameters of codes. Applications take others from the URI or, many of them, do not: these are what all know.
const (
	period      = 30 * time.Second
	digits      = 6
	skewSteps   = 1
	secretBytes = 20 // as many as SHA-1 gives, as RFC 4226 section 4 recommends
)

// stepOf is the number of the period that a moment lies in (RFC 6238 section 4.2).
func stepOf(now time.Time) int64 { return now.Unix() / int64(period/time.Second) }

// codeAt is the code of a step: HOTP (RFC 4226 section 5.3) with the step as its counter.
func codeAt(secret []byte, step int64) string { return truncated(secret, step, digits) }

func truncated(secret []byte, step int64, digits int) string {
	mac := hmac.New(sha1.New, secret)
	_ = binary.Write(mac, binary.BigEndian, step) // a hash takes everything
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	number, modulus := binary.BigEndian.Uint32(sum[at:])&0x7fffffff, uint32(1)
	for range digits {
		modulus *= 10
	}
	return fmt.Sprintf("%0*d", digits, number%modulus)
}

// match returns the step whose code it is: the one of now or a neighbour, and later than the last that was taken.
func match(secret []byte, code string, now time.Time, last int64) (step int64, ok bool) {
	for at := stepOf(now) - skewSteps; at <= stepOf(now)+skewSteps; at++ {
		if at > last && subtle.ConstantTimeCompare([]byte(codeAt(secret, at)), []byte(code)) == 1 {
			step, ok = at, true
		}
	}
	return step, ok
}

var inBase32 = base32.StdEncoding.WithPadding(base32.NoPadding)

// uri is what applications read from a QR code (the otpauth scheme of Google Authenticator, which all follow).
func uri(issuer, account string, secret []byte) string {
	q := url.Values{"secret": {inBase32.EncodeToString(secret)}, "issuer": {issuer}, "algorithm": {"SHA1"}, "digits": {fmt.Sprint(digits)},
		"period": {fmt.Sprint(int64(period / time.Second))}}
	return "otpauth://totp/" + url.PathEscape(issuer) + ":" + url.PathEscape(account) + "?" + q.Encode()
}

// sealing closes secrets with AES-256-GCM, each bound to its account.
type sealing struct{ aead cipher.AEAD }

func newSealing(key []byte) (sealing, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealing{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealing{aead}, err
}

func about(user levee.UserID) []byte { return fmt.Appendf(nil, "totp %d", user) }

func (s sealing) close(user levee.UserID, secret []byte) string {
	return base64.StdEncoding.EncodeToString(s.aead.Seal(nil, nil, secret, about(user)))
}

func (s sealing) open(user levee.UserID, text string) ([]byte, error) {
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	return s.aead.Open(nil, nil, sealed, about(user))
}

func newSecret() []byte {
	secret := make([]byte, secretBytes)
	rand.Read(secret) // never fails
	return secret
}
