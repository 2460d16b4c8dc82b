package identity

import (
	"context"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/token"
)

func insertPersonal(ctx context.Context, tx *db.Tx, p token.Personal) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_personal (id, user_id, name, scopes) VALUES (?, ?, ?, ?)`,
		p.ID, int64(p.User), p.Name, strings.Join(p.Scopes, " "))
	return err
}

// openPersonal returns the personal access tokens of a user that have not ended or expired, newest first.
func openPersonal(ctx context.Context, q query, user levee.UserID, now time.Time) (list []token.Personal, err error) {
	rows, err := q(ctx, `SELECT s.id, s.created_at, s.seen_at, s.expires_at, p.name, p.scopes FROM identity_session s
		JOIN identity_personal p ON p.id = s.id WHERE s.user_id = ? AND s.ended_at IS NULL AND s.expires_at > ? AND s.kind = ? ORDER BY s.id DESC`,
		int64(user), now.UnixMicro(), int(SessionPersonal))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		p := token.Personal{User: user}
		var created, seen, expires int64
		var scopes string
		if err := rows.Scan(&p.ID, &created, &seen, &expires, &p.Name, &scopes); err != nil {
			return nil, err
		}
		p.CreatedAt, p.ExpiresAt, p.Scopes = at(created), at(expires), strings.Fields(scopes)
		if seen > created {
			p.UsedAt = at(seen)
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// readScopes returns what a personal access token is for, or db.ErrNoRows.
func readScopes(ctx context.Context, q queryRow, id int64) ([]string, error) {
	var scopes string
	err := q(ctx, `SELECT scopes FROM identity_personal WHERE id = ?`, id).Scan(&scopes)
	return strings.Fields(scopes), err
}

// deletePersonal deletes what a personal access token was called.
func deletePersonal(ctx context.Context, tx *db.Tx, id int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM identity_personal WHERE id = ?`, id)
	return err
}
