package payment

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"levee"
	"levee/internal/platform/db"
)

// Forms are signed as Alipay does it (RSA2: SHA-256 with RSA PKCS #1 v1.5, base 64, fields in order of their names), with one
// difference: names and values are percent-encoded before they are joined, so that a value which holds "&b=2" cannot pass for
// another field.
const (
	fieldSign     = "sign"
	fieldSignType = "sign_type"
	signType      = "RSA2"
	maxFields     = 64
	keyBits       = 2048
)

var errSignature = levee.E(levee.CodeForbidden, "the signature is missing or wrong")

// digest is what is signed: all fields but the signature. Each field occurs once, or two readers of one form might differ.
func digest(form url.Values) ([]byte, error) {
	if len(form) > maxFields {
		return nil, levee.E(levee.CodeMalformed, "a form of %d fields, allowed are %d", len(form), maxFields)
	}
	signed := make(url.Values, len(form))
	for name, values := range form {
		if len(values) != 1 {
			return nil, levee.E(levee.CodeMalformed, "the field %s is given %d times", levee.Shorten(name, 40), len(values))
		}
		if name != fieldSign {
			signed[name] = values
		}
	}
	sum := sha256.Sum256([]byte(signed.Encode()))
	return sum[:], nil
}

// sign puts the signature into the form.
func sign(key *rsa.PrivateKey, form url.Values) error {
	form.Set(fieldSignType, signType)
	sum, err := digest(form)
	if err != nil {
		return err
	}
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum)
	if err != nil {
		return err
	}
	form.Set(fieldSign, base64.StdEncoding.EncodeToString(signature))
	return nil
}

// verify checks a form's signature: CodeForbidden when it is missing or wrong.
func verify(key *rsa.PublicKey, form url.Values) error {
	sum, err := digest(form)
	if err != nil {
		return err
	}
	signature, err := base64.StdEncoding.DecodeString(form.Get(fieldSign))
	if err != nil || form.Get(fieldSignType) != signType {
		return errSignature
	}
	if rsa.VerifyPKCS1v15(key, crypto.SHA256, sum, signature) != nil {
		return errSignature
	}
	return nil
}

// parseSigned reads a signed form.
func parseSigned(key *rsa.PublicKey, body []byte) (url.Values, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, levee.E(levee.CodeMalformed, "the body is not a form").Because(err)
	}
	return form, verify(key, form)
}

// sandboxKeys are the key pairs of both sides of the test provider. Each side uses only its own private key.
type sandboxKeys struct{ merchant, provider *rsa.PrivateKey }

// openSandboxKeys reads the keys from dir and makes those that are missing.
func openSandboxKeys(dir string) (k sandboxKeys, err error) {
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return k, err
	}
	if k.merchant, err = openKey(filepath.Join(dir, "merchant.pem")); err != nil {
		return k, err
	}
	k.provider, err = openKey(filepath.Join(dir, "provider.pem"))
	return k, err
}

// openKey reads a private key (PEM, PKCS #8) and makes it when the file is missing. Two processes that make it at the same
// time end with the same key.
func openKey(path string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	return parseKey(path, text)
}

// parseKey reads a private key; path says where it is from.
func parseKey(path string, text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() < keyBits {
		return nil, fmt.Errorf("%s holds no RSA key of at least %d bits", path, keyBits)
	}
	return key, nil
}

// newKey makes a private key (PEM, PKCS #8).
func newKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// sandboxKeysOf returns the keys of both sides. Where the provider runs inside this house they are in its database, so that a payment which
// began on one node is taken and told of by any other; those of an earlier version come from its folder. Where it runs
// elsewhere they are in the folder that both sides were given.
func sandboxKeysOf(ctx context.Context, d Deps, dir string) (k sandboxKeys, err error) {
	if d.Config.Sandbox.URL != "" {
		return openSandboxKeys(dir)
	}
	merchant, provider, err := storedSandboxKeys(ctx, d.DB.Query)
	if err != nil {
		return k, err
	}
	if merchant == "" {
		if merchant, err = firstKey(filepath.Join(dir, "merchant.pem")); err != nil {
			return k, err
		}
		if provider, err = firstKey(filepath.Join(dir, "provider.pem")); err != nil {
			return k, err
		}
		err = d.DB.Tx(ctx, "payment.sandbox_keys", func(ctx context.Context, tx *db.Tx) (err error) {
			if err = insertSandboxKeys(ctx, tx, merchant, provider, d.Obs.Clock()); db.IsUnique(err) { // another node was first
				merchant, provider, err = storedSandboxKeys(ctx, tx.Query)
			}
			return err
		})
		if err != nil {
			return k, err
		}
	}
	if k.merchant, err = parseKey("payment_sandbox_key.merchant", []byte(merchant)); err != nil {
		return k, err
	}
	k.provider, err = parseKey("payment_sandbox_key.provider", []byte(provider))
	return k, err
}

// firstKey returns what an earlier version kept in a file, or a new key.
func firstKey(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = newKey()
	}
	return string(text), err
}

func makeKey(path string) (err error) {
	text, err := newKey()
	if err != nil {
		return err
	}
	// The whole file appears at once, and only if there is none: a link to an existing name fails.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Link(tmp.Name(), path)
}
