package notify

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"levee"
)

// secretPrefix is what a webhook's secret begins with, as Standard Webhooks (standardwebhooks.com) has it; the rest is base64.
const secretPrefix = "whsec_"

// secretBytes is the size of a secret; the scheme allows 24 to 64.
const secretBytes = 32

// vault seals webhooks' secrets for SQL: AES-256-GCM, bound to the webhook, so that a sealed secret cannot be moved to another.
type vault struct{ aead cipher.AEAD }

func newVault(key []byte) (*vault, error) {
	if len(key) != 32 {
		return nil, levee.E(levee.CodeInvalid, "the key of the webhook secrets must have 32 bytes, it has %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &vault{aead}, nil
}

func boundTo(w levee.WebhookID) []byte {
	return binary.BigEndian.AppendUint64([]byte("webhook"), uint64(w))
}

func (v *vault) seal(w levee.WebhookID, secret []byte) string {
	nonce := make([]byte, v.aead.NonceSize())
	rand.Read(nonce) // never fails
	return base64.RawStdEncoding.EncodeToString(v.aead.Seal(nonce, nonce, secret, boundTo(w)))
}

// open returns the secret; the error holds nothing of it.
func (v *vault) open(w levee.WebhookID, sealed string) ([]byte, error) {
	raw, err := base64.RawStdEncoding.DecodeString(sealed)
	if n := v.aead.NonceSize(); err == nil && len(raw) > n {
		if secret, err := v.aead.Open(nil, raw[:n], raw[n:], boundTo(w)); err == nil {
			return secret, nil
		}
	}
	return nil, levee.E(levee.CodeInternal, "the secret of the webhook cannot be opened: was the house's secret changed? rotate it")
}

func newSecret() []byte {
	secret := make([]byte, secretBytes)
	rand.Read(secret) // never fails
	return secret
}

func showSecret(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// sign returns the header webhook-signature: for each secret "v1," and the HMAC-SHA256 of "id.timestamp.body".
func sign(secrets [][]byte, id string, at time.Time, body []byte) string {
	parts := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		parts[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(parts, " ")
}
