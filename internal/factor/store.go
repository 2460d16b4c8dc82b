package factor

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

type queryRow func(ctx context.Context, query string, args ...any) *db.Row

type query func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// account is an account's row; there is false when it has none.
type account struct {
	user             levee.UserID
	there            bool
	totp             string
	totpAt, totpStep int64
}

// readAccount reads a row; lock is "" or what the dialect locks rows with.
func readAccount(ctx context.Context, q queryRow, user levee.UserID, lock string) (account, error) {
	a := account{user: user, there: true}
	err := q(ctx, `SELECT totp, totp_at, totp_step FROM factor_account WHERE user_id = ?`+lock, int64(user)).Scan(&a.totp, &a.totpAt, &a.totpStep)
	if errors.Is(err, db.ErrNoRows) {
		return account{user: user}, nil
	}
	return a, err
}

// lockAccount keeps others from changing an account's factors until the transaction ends.
func lockAccount(ctx context.Context, tx *db.Tx, d db.Dialect, user levee.UserID) (account, error) {
	return readAccount(ctx, tx.QueryRow, user, d.ForUpdate())
}

func insertAccount(ctx context.Context, tx *db.Tx, user levee.UserID) error {
	_, err := tx.Exec(ctx, `INSERT INTO factor_account (user_id, totp, totp_at, totp_step) VALUES (?, '', 0, 0)`, int64(user))
	return err
}

// putTOTP gives an account that the caller has locked a secret.
func putTOTP(ctx context.Context, tx *db.Tx, user levee.UserID, sealed string, step int64, now time.Time) error {
	a, err := readAccount(ctx, tx.QueryRow, user, "")
	if err != nil {
		return err
	}
	if !a.there {
		if err := insertAccount(ctx, tx, user); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `UPDATE factor_account SET totp = ?, totp_at = ?, totp_step = ? WHERE user_id = ?`, sealed, now.UnixMicro(), step, int64(user))
	return err
}

// raiseStep takes a step of a secret as used, and reports whether nobody did before, nor a later one.
func raiseStep(ctx context.Context, tx *db.Tx, user levee.UserID, sealed string, step int64) (bool, error) {
	return one(tx.Exec(ctx, `UPDATE factor_account SET totp_step = ? WHERE user_id = ? AND totp = ? AND totp_step < ?`, step, int64(user), sealed, step))
}

// one reports whether exactly one row was changed.
func one(r db.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

func dropTOTP(ctx context.Context, tx *db.Tx, user levee.UserID) error {
	_, err := tx.Exec(ctx, `UPDATE factor_account SET totp = '', totp_at = 0, totp_step = 0 WHERE user_id = ?`, int64(user))
	return err
}

// dropAccount forgets all factors of an account, and what it was asked.
func dropAccount(ctx context.Context, tx *db.Tx, user levee.UserID) error {
	for _, text := range []string{`DELETE FROM factor_account WHERE user_id = ?`, `DELETE FROM factor_recovery WHERE user_id = ?`,
		`DELETE FROM factor_passkey WHERE user_id = ?`, `DELETE FROM factor_challenge WHERE user_id = ?`} {
		if _, err := tx.Exec(ctx, text, int64(user)); err != nil {
			return err
		}
	}
	return nil
}

// putRecovery replaces an account's recovery codes.
func putRecovery(ctx context.Context, tx *db.Tx, user levee.UserID, hashes []string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM factor_recovery WHERE user_id = ?`, int64(user)); err != nil {
		return err
	}
	for _, h := range hashes {
		if _, err := tx.Exec(ctx, `INSERT INTO factor_recovery (user_id, hash) VALUES (?, ?)`, int64(user), h); err != nil {
			return err
		}
	}
	return nil
}

// takeRecovery uses a code up, and reports whether there was one: of any number who do so at once, one.
func takeRecovery(ctx context.Context, tx *db.Tx, user levee.UserID, hash string) (bool, error) {
	return one(tx.Exec(ctx, `DELETE FROM factor_recovery WHERE user_id = ? AND hash = ?`, int64(user), hash))
}

func countRecovery(ctx context.Context, q queryRow, user levee.UserID) (n int, err error) {
	err = q(ctx, `SELECT COUNT(*) FROM factor_recovery WHERE user_id = ?`, int64(user)).Scan(&n)
	return n, err
}

func readPasskeys(ctx context.Context, q query, user levee.UserID) (list []Passkey, err error) {
	rows, err := q(ctx, `SELECT id, name, credential, sign_count, cloned_at, created_at, used_at FROM factor_passkey WHERE user_id = ? ORDER BY id`, int64(user))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p Passkey
		var text string
		var count, cloned, created, used int64
		if err := rows.Scan(&p.ID, &p.Name, &text, &count, &cloned, &created, &used); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), &p.credential); err != nil {
			return nil, err
		}
		p.credential.Authenticator.SignCount = uint32(count)
		p.ClonedAt, p.CreatedAt, p.UsedAt = at(cloned), at(created), at(used)
		list = append(list, p)
	}
	return list, rows.Err()
}

func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// insertPasskey stores a passkey; CodeConflict for one that any account has.
func insertPasskey(ctx context.Context, tx *db.Tx, user levee.UserID, p Passkey) error {
	text, err := json.Marshal(p.credential)
	if err != nil {
		return err
	}
	if len(text) > maxCredential {
		return levee.Invalid("credential", "at most 16 KiB", len(text))
	}
	_, err = tx.Exec(ctx, `INSERT INTO factor_passkey (id, user_id, hash, name, credential, sign_count, cloned_at, created_at, used_at)
		VALUES (?, ?, ?, ?, ?, ?, 0, ?, 0)`, p.ID, int64(user), hashOf(string(p.credential.ID)), p.Name, string(text),
		int64(p.credential.Authenticator.SignCount), p.CreatedAt.UnixMicro())
	if db.IsUnique(err) {
		return levee.E(levee.CodeConflict, "this passkey is known already")
	}
	return err
}

// usePasskey stores what an assertion said, and reports whether its count is still above the stored one. Authenticators that do not count say 0 always.
func usePasskey(ctx context.Context, tx *db.Tx, p Passkey, before uint32) (bool, error) {
	text, err := json.Marshal(p.credential)
	if err != nil {
		return false, err
	}
	return one(tx.Exec(ctx, `UPDATE factor_passkey SET credential = ?, sign_count = ?, used_at = ? WHERE id = ? AND sign_count = ?`, string(text),
		int64(p.credential.Authenticator.SignCount), p.UsedAt.UnixMicro(), p.ID, int64(before)))
}

func markCloned(ctx context.Context, tx *db.Tx, id int64, now time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE factor_passkey SET cloned_at = ? WHERE id = ?`, now.UnixMicro(), id)
	return err
}

func dropPasskey(ctx context.Context, tx *db.Tx, user levee.UserID, id int64) (bool, error) {
	return one(tx.Exec(ctx, `DELETE FROM factor_passkey WHERE id = ? AND user_id = ?`, id, int64(user)))
}

// insertChallenge stores a challenge and keeps the account's newest ones alone.
func insertChallenge(ctx context.Context, tx *db.Tx, c challenge, most int) error {
	_, err := tx.Exec(ctx, `INSERT INTO factor_challenge (hash, purpose, user_id, session_id, how, mark, data, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		c.hash, c.purpose, int64(c.user), c.session, c.how, c.mark, c.data, c.expires.UnixMicro())
	if err != nil {
		return err
	}
	var last int64
	err = tx.QueryRow(ctx, `SELECT expires_at FROM factor_challenge WHERE user_id = ? ORDER BY expires_at DESC LIMIT 1 OFFSET ?`, int64(c.user), most).Scan(&last)
	if errors.Is(err, db.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = tx.Exec(ctx, `DELETE FROM factor_challenge WHERE user_id = ? AND expires_at <= ?`, int64(c.user), last)
	}
	return err
}

// readChallenge returns a challenge that is good; CodeGone when there is none.
func readChallenge(ctx context.Context, q queryRow, hash string, now time.Time) (c challenge, err error) {
	var expires int64
	err = q(ctx, `SELECT hash, purpose, user_id, session_id, how, mark, data, expires_at FROM factor_challenge WHERE hash = ? AND expires_at > ?`, hash, now.UnixMicro()).
		Scan(&c.hash, &c.purpose, &c.user, &c.session, &c.how, &c.mark, &c.data, &expires)
	if errors.Is(err, db.ErrNoRows) {
		return challenge{}, spent()
	}
	c.expires = at(expires)
	return c, err
}

func setChallenge(ctx context.Context, tx *db.Tx, hash, data string) (bool, error) {
	return one(tx.Exec(ctx, `UPDATE factor_challenge SET data = ? WHERE hash = ?`, data, hash))
}

// takeChallenge deletes a challenge that is good, and reports whether there was one: of any number who do so at once, one.
func takeChallenge(ctx context.Context, tx *db.Tx, hash string, now time.Time) (bool, error) {
	return one(tx.Exec(ctx, `DELETE FROM factor_challenge WHERE hash = ? AND expires_at > ?`, hash, now.UnixMicro()))
}

// readFresh returns when a session's holder last proved himself again; the zero time when he did not.
func readFresh(ctx context.Context, q queryRow, session int64) (time.Time, error) {
	var proven int64
	err := q(ctx, `SELECT proven_at FROM factor_fresh WHERE session_id = ?`, session).Scan(&proven)
	if errors.Is(err, db.ErrNoRows) {
		return time.Time{}, nil
	}
	return at(proven), err
}

func putFresh(ctx context.Context, tx *db.Tx, d db.Dialect, session int64, now time.Time) error {
	_, err := tx.Exec(ctx, d.Upsert("factor_fresh", []string{"session_id"}, []string{"proven_at"}, "session_id", "proven_at"), session, now.UnixMicro())
	return err
}

func sweep(ctx context.Context, tx *db.Tx, now, proven time.Time) error {
	if _, err := tx.Exec(ctx, `DELETE FROM factor_challenge WHERE expires_at <= ?`, now.UnixMicro()); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM factor_fresh WHERE proven_at < ?`, proven.UnixMicro())
	return err
}
