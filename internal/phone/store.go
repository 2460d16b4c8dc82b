package phone

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// record is a code as SQL has it.
type record struct {
	phone   string
	purpose Purpose
	user    levee.UserID // whose account it is bound to; 0: none
	request string       // of the request token, its hash
	hash    string
	sealed  string // the code itself, until it is handed to the provider
	expires time.Time
}

// The states of a code's message.
const (
	messageWaits = 0 // the provider does not have it
	messageGiven = 1 // the provider has it, or may have it
)

// putCode stores a code in place of the one that its number had for its purpose.
func putCode(ctx context.Context, tx *db.Tx, q db.Dialect, c record) error {
	_, err := tx.Exec(ctx, q.Upsert("phone_code", []string{"phone", "purpose"},
		[]string{"request", "user_id", "hash", "sealed", "sending", "tries", "expires_at"},
		"phone", "purpose", "request", "user_id", "hash", "sealed", "sending", "tries", "expires_at"),
		c.phone, string(c.purpose), c.request, int64(c.user), c.hash, c.sealed, messageWaits, 0, c.expires.UnixMicro())
	return err
}

// ofCode finds a code by all that it is bound to but itself.
const ofCode = ` WHERE phone = ? AND purpose = ? AND request = ? AND user_id = ?`

func (c record) key(before ...any) []any {
	return append(before, c.phone, string(c.purpose), c.request, int64(c.user))
}

// countTry counts a try on a code that has tries and time left, and reports whether there is one. It holds the code's row until the commit.
func countTry(ctx context.Context, tx *db.Tx, c record, now time.Time) (bool, error) {
	return one(tx.Exec(ctx, `UPDATE phone_code SET tries = tries + 1`+ofCode+` AND tries < ? AND expires_at > ?`, append(c.key(), triesMost, now.UnixMicro())...))
}

// one reports whether a statement changed a row.
func one(r db.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

func readHash(ctx context.Context, tx *db.Tx, c record) (hash string, err error) {
	err = tx.QueryRow(ctx, `SELECT hash FROM phone_code`+ofCode, c.key()...).Scan(&hash)
	return hash, err
}

func dropCode(ctx context.Context, tx *db.Tx, c record) error {
	_, err := tx.Exec(ctx, `DELETE FROM phone_code`+ofCode, c.key()...)
	return err
}

// deleteCodes deletes the codes that have expired.
func deleteCodes(ctx context.Context, tx *db.Tx, now time.Time) error {
	_, err := tx.Exec(ctx, `DELETE FROM phone_code WHERE expires_at <= ?`, now.UnixMicro())
	return err
}

// takeMessage marks a code's message as given to the provider and returns the code. found is false when it was used, replaced or deleted, and
// waiting when it was marked already.
func takeMessage(ctx context.Context, tx *db.Tx, q db.Dialect, request string) (c record, found, waiting bool, err error) {
	var sending int
	var expires int64
	c.request = request
	err = tx.QueryRow(ctx, `SELECT phone, sealed, sending, expires_at FROM phone_code WHERE request = ?`+q.ForUpdate(), request).
		Scan(&c.phone, &c.sealed, &sending, &expires)
	if errors.Is(err, db.ErrNoRows) {
		return c, false, false, nil
	}
	if err != nil {
		return c, false, false, err
	}
	c.expires = time.UnixMicro(expires).UTC()
	_, err = tx.Exec(ctx, `UPDATE phone_code SET sending = ? WHERE request = ?`, messageGiven, request)
	return c, true, sending == messageWaits, err
}

// putMessageBack says that the provider does not have a code's message after all.
func putMessageBack(ctx context.Context, tx *db.Tx, request string) error {
	_, err := tx.Exec(ctx, `UPDATE phone_code SET sending = ? WHERE request = ?`, messageWaits, request)
	return err
}

// eraseMessage deletes the code itself, which nobody needs to send any more; its hash stays.
func eraseMessage(ctx context.Context, tx *db.Tx, request string) error {
	_, err := tx.Exec(ctx, `UPDATE phone_code SET sealed = '' WHERE request = ?`, request)
	return err
}

// readProver returns the account that has proven a number, or 0, and keeps others from proving it until the commit.
func readProver(ctx context.Context, tx *db.Tx, q db.Dialect, phone string) (user levee.UserID, err error) {
	err = tx.QueryRow(ctx, `SELECT user_id FROM phone_proof WHERE phone = ?`+q.ForUpdate(), phone).Scan(&user)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	return user, err
}

// putProof notes that an account has proven a number, which takes the place of the one it had proven before.
func putProof(ctx context.Context, tx *db.Tx, phone string, user levee.UserID, now time.Time) error {
	if _, err := tx.Exec(ctx, `DELETE FROM phone_proof WHERE user_id = ?`, int64(user)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO phone_proof (phone, user_id, proven_at) VALUES (?, ?, ?)`, phone, int64(user), now.UnixMicro())
	return err
}

// hasProof reports whether an account has proven a number.
func hasProof(ctx context.Context, tx *db.Tx, user levee.UserID) (bool, error) {
	var n int
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM phone_proof WHERE user_id = ?`, int64(user)).Scan(&n)
	return n > 0, err
}
