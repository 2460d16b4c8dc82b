package federation

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

func at(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

func insertAttempt(ctx context.Context, tx *db.Tx, a *attempt) error {
	_, err := tx.Exec(ctx, `INSERT INTO federation_attempt (state_hash, browser_hash, provider, verifier, nonce, return_to, link_session, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, a.stateHash, a.browserHash, a.provider, a.verifier, a.nonce, a.returnTo, a.session,
		a.expires.UnixMicro())
	return err
}

// lockAttempt returns an attempt, locked until the commit, or nil.
func lockAttempt(ctx context.Context, tx *db.Tx, d db.Dialect, stateHash string) (*attempt, error) {
	a := &attempt{stateHash: stateHash}
	var expires int64
	err := tx.QueryRow(ctx, `SELECT browser_hash, provider, verifier, nonce, return_to, link_session, expires_at
		FROM federation_attempt WHERE state_hash = ?`+d.ForUpdate(), stateHash).
		Scan(&a.browserHash, &a.provider, &a.verifier, &a.nonce, &a.returnTo, &a.session, &expires)
	if errors.Is(err, db.ErrNoRows) {
		return nil, nil
	}
	a.expires = at(expires)
	return a, err
}

// deleteAttempt reports whether it was there.
func deleteAttempt(ctx context.Context, tx *db.Tx, stateHash string) (bool, error) {
	r, err := tx.Exec(ctx, `DELETE FROM federation_attempt WHERE state_hash = ?`, stateHash)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// deleteAttempts deletes at most n attempts that were over before a time, and returns how many.
func deleteAttempts(ctx context.Context, tx *db.Tx, before time.Time, n int) (int, error) {
	rows, err := tx.Query(ctx, `SELECT state_hash FROM federation_attempt WHERE expires_at < ? ORDER BY expires_at LIMIT ?`, before.UnixMicro(), n)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	var old []string
	for rows.Next() {
		var state string
		if err := rows.Scan(&state); err != nil {
			return 0, err
		}
		old = append(old, state)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, err
	}
	for _, state := range old {
		if _, err := deleteAttempt(ctx, tx, state); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}

// readOwner returns whose a subject is, or 0.
func readOwner(ctx context.Context, tx *db.Tx, k key) (user levee.UserID, err error) {
	err = tx.QueryRow(ctx, `SELECT user_id FROM federation_link WHERE issuer = ? AND subject = ?`, k.issuer, k.subject).Scan(&user)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	return user, err
}

func insertLink(ctx context.Context, tx *db.Tx, l link) error {
	_, err := tx.Exec(ctx, `INSERT INTO federation_link (issuer, subject, user_id, provider, called, linked_at) VALUES (?, ?, ?, ?, ?, ?)`,
		l.issuer, l.subject, int64(l.user), l.provider, l.called, l.at.UnixMicro())
	return err
}

func deleteLink(ctx context.Context, tx *db.Tx, k key) error {
	_, err := tx.Exec(ctx, `DELETE FROM federation_link WHERE issuer = ? AND subject = ?`, k.issuer, k.subject)
	return err
}

const selectLinks = `SELECT issuer, subject, provider, called, linked_at FROM federation_link WHERE user_id = ? ORDER BY issuer`

// linksOf returns a user's links, locked until the commit: of two that unlink at once, the second sees what the first left.
func linksOf(ctx context.Context, tx *db.Tx, d db.Dialect, user levee.UserID) ([]link, error) {
	return scanLinks(user)(tx.Query(ctx, selectLinks+d.ForUpdate(), int64(user)))
}

func readLinks(ctx context.Context, d *db.DB, user levee.UserID) ([]link, error) {
	return scanLinks(user)(d.Query(ctx, selectLinks, int64(user)))
}

func scanLinks(user levee.UserID) func(*db.Rows, error) ([]link, error) {
	return func(rows *db.Rows, err error) (all []link, _ error) {
		if err != nil {
			return nil, err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			l := link{user: user}
			var linked int64
			if err := rows.Scan(&l.issuer, &l.subject, &l.provider, &l.called, &linked); err != nil {
				return nil, err
			}
			l.at = at(linked)
			all = append(all, l)
		}
		return all, rows.Err()
	}
}
