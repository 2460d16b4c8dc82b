package token

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// query is Query of a *db.DB or of a *db.Tx.
type query func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// at turns microseconds of SQL into a time; 0 is the zero time.
func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// micros is the reverse of at.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

const selectKeys = `SELECT number, kid, algorithm, public_key, private_key, made_at, signs_at, retires_at, gone_at, withdrawn_at
	FROM token_key ORDER BY number`

// readKeys returns all keys, their private parts still sealed. One whose public part is not understood has none.
func readKeys(ctx context.Context, q query) ([]*key, error) { return scanKeys(q(ctx, selectKeys)) }

// lockKeys is readKeys for who will write: it waits for others who do.
func lockKeys(ctx context.Context, tx *db.Tx, d db.Dialect) ([]*key, error) {
	return scanKeys(tx.Query(ctx, selectKeys+d.ForUpdate()))
}

func scanKeys(rows *db.Rows, err error) (keys []*key, _ error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		k := &key{}
		var public string
		var made, signs, retires, gone, withdrawn int64
		if err := rows.Scan(&k.number, &k.kid, &k.algorithm, &public, &k.sealed, &made, &signs, &retires, &gone, &withdrawn); err != nil {
			return nil, err
		}
		k.made, k.signs, k.retires, k.gone, k.withdrawn = at(made), at(signs), at(retires), at(gone), at(withdrawn)
		k.public = parsePublic(k.algorithm, public)
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// parsePublic returns the public key, or nil for one that is not of the algorithm.
func parsePublic(a Algorithm, text string) crypto.PublicKey {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil
	}
	switch p := public.(type) {
	case *rsa.PublicKey:
		if a == RS256 && p.N.BitLen() == rsaBits {
			return p
		}
	case ed25519.PublicKey:
		if a == EdDSA {
			return p
		}
	}
	return nil
}

// nextNumber is the number of the next key.
func nextNumber(keys []*key) int64 {
	n := int64(0)
	for _, k := range keys {
		n = max(n, k.number)
	}
	return n + 1
}

func insertKey(ctx context.Context, tx *db.Tx, k *key) error {
	public, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO token_key (number, kid, algorithm, public_key, private_key, made_at, signs_at, retires_at, gone_at, withdrawn_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, k.number, k.kid, string(k.algorithm), base64.StdEncoding.EncodeToString(public), k.sealed,
		micros(k.made), micros(k.signs), micros(k.retires), micros(k.gone), micros(k.withdrawn))
	return err
}

// updateKey stores the dates of a key.
func updateKey(ctx context.Context, tx *db.Tx, k *key) error {
	_, err := tx.Exec(ctx, `UPDATE token_key SET signs_at = ?, retires_at = ?, gone_at = ?, withdrawn_at = ? WHERE number = ?`,
		micros(k.signs), micros(k.retires), micros(k.gone), micros(k.withdrawn), k.number)
	return err
}

// eraseKeys erases the private parts of keys that retired before that time.
func eraseKeys(ctx context.Context, tx *db.Tx, before time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE token_key SET private_key = '' WHERE retires_at <> 0 AND retires_at < ? AND private_key <> ''`, micros(before))
	return err
}

// deleteKeys deletes keys that were gone before that time.
func deleteKeys(ctx context.Context, tx *db.Tx, before time.Time) error {
	_, err := tx.Exec(ctx, `DELETE FROM token_key WHERE gone_at <> 0 AND gone_at < ?`, micros(before))
	return err
}

func insertOnce(ctx context.Context, tx *db.Tx, hash, purpose string, subject int64, expires time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO token_once (hash, purpose, subject, expires_at) VALUES (?, ?, ?, ?)`, hash, purpose, subject, micros(expires))
	return err
}

// takeOnce deletes a token that is good, and reports whether there was one: of any number who do so at once, one.
func takeOnce(ctx context.Context, tx *db.Tx, hash, purpose string, now time.Time) (bool, error) {
	r, err := tx.Exec(ctx, `DELETE FROM token_once WHERE hash = ? AND purpose = ? AND expires_at > ?`, hash, purpose, micros(now))
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// dropOnce deletes a subject's tokens for a purpose.
func dropOnce(ctx context.Context, tx *db.Tx, purpose string, subject int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM token_once WHERE purpose = ? AND subject = ?`, purpose, subject)
	return err
}

// deleteOnce deletes the tokens that have expired.
func deleteOnce(ctx context.Context, tx *db.Tx, now time.Time) error {
	_, err := tx.Exec(ctx, `DELETE FROM token_once WHERE expires_at <= ?`, micros(now))
	return err
}

// readOnce returns the subject of a token that is good; CodeGone when there is none.
func readOnce(ctx context.Context, q func(context.Context, string, ...any) *db.Row, hash, purpose string, now time.Time) (subject int64, err error) {
	err = q(ctx, `SELECT subject FROM token_once WHERE hash = ? AND purpose = ? AND expires_at > ?`, hash, purpose, micros(now)).Scan(&subject)
	if errors.Is(err, db.ErrNoRows) {
		return 0, levee.E(levee.CodeGone, "this was used already, or is too old")
	}
	return subject, err
}
