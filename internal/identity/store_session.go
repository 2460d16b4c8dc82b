package identity

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// sessionRow is a session with what only this room may see of it, and what matters of its user.
type sessionRow struct {
	Session
	secretHash, previousHash string
	salt                     string // hex, of the last rotation
	generation               int64
	rotatedAt                time.Time
	ended                    bool
	roles                    levee.Roles
	userVersion              int64
	userDisabled             bool
}

const sessionByID = `SELECT s.id, s.user_id, s.kind, s.secret_hash, s.previous_hash, s.salt, s.generation, s.rotated_at, s.address,
	s.agent, s.created_at, s.seen_at, s.expires_at, s.ended_at, u.roles, u.version, u.disabled
	FROM identity_session s JOIN identity_user u ON u.id = s.user_id WHERE s.id = ?`

// readSession returns the session, ended or not, or db.ErrNoRows.
func readSession(ctx context.Context, q queryRow, id int64) (sessionRow, error) {
	var s sessionRow
	var rotated, created, seen, expires, roles int64
	var ended db.NullInt64
	var disabled int
	err := q(ctx, sessionByID, id).Scan(&s.ID, &s.User, &s.Kind, &s.secretHash, &s.previousHash, &s.salt, &s.generation, &rotated,
		&s.Address, &s.Agent, &created, &seen, &expires, &ended, &roles, &s.userVersion, &disabled)
	s.rotatedAt, s.CreatedAt, s.SeenAt, s.ExpiresAt = at(rotated), at(created), at(seen), at(expires)
	s.ended, s.roles, s.userDisabled = ended.Valid, levee.Roles(roles), disabled != 0
	return s, err
}

// insertSession stores a new session.
func insertSession(ctx context.Context, tx *db.Tx, s Session, secretHash string) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_session (id, user_id, kind, secret_hash, previous_hash, salt, generation, rotated_at,
		address, agent, created_at, seen_at, expires_at, ended_at, ended_why) VALUES (?, ?, ?, ?, '', '', 0, 0, ?, ?, ?, ?, ?, NULL, '')`,
		s.ID, int64(s.User), int(s.Kind), secretHash, s.Address, s.Agent, s.CreatedAt.UnixMicro(), s.SeenAt.UnixMicro(),
		s.ExpiresAt.UnixMicro())
	return err
}

// anySession reports whether a session may still be used, as far as its age goes.
func anySession(ctx context.Context, q queryRow, now time.Time) (bool, error) {
	var id int64
	err := q(ctx, `SELECT id FROM identity_session WHERE expires_at > ? LIMIT 1`, now.UnixMicro()).Scan(&id)
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// openSessions returns the sessions of a user that have not ended, expired or gone idle, without personal access tokens; the one unused for longest first.
func openSessions(ctx context.Context, q query, user levee.UserID, now time.Time, idle time.Duration) ([]Session, error) {
	rows, err := q(ctx, `SELECT id, user_id, kind, address, agent, created_at, seen_at, expires_at FROM identity_session
		WHERE user_id = ? AND ended_at IS NULL AND expires_at > ? AND seen_at > ? AND kind <> ? ORDER BY seen_at, id`,
		int64(user), now.UnixMicro(), now.Add(-idle).UnixMicro(), int(SessionPersonal))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Session
	for rows.Next() {
		var s Session
		var created, seen, expires int64
		if err := rows.Scan(&s.ID, &s.User, &s.Kind, &s.Address, &s.Agent, &created, &seen, &expires); err != nil {
			return nil, err
		}
		s.CreatedAt, s.SeenAt, s.ExpiresAt = at(created), at(seen), at(expires)
		list = append(list, s)
	}
	return list, rows.Err()
}

// unendedSessions returns the ids of all sessions of a user that were not ended, also those that are too old: for work that
// must reach whatever a process may still hold.
func unendedSessions(ctx context.Context, q query, user levee.UserID) ([]int64, error) {
	return scanIDs(q(ctx, `SELECT id FROM identity_session WHERE user_id = ? AND ended_at IS NULL`, int64(user)))
}

// endSession ends one session and reports whether it was open.
func endSession(ctx context.Context, tx *db.Tx, id int64, why string, now time.Time) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE identity_session SET ended_at = ?, ended_why = ? WHERE id = ? AND ended_at IS NULL`,
		now.UnixMicro(), why, id)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// rotateSession replaces the secret of an open session, if it is still of the given generation, and reports whether it was.
func rotateSession(ctx context.Context, tx *db.Tx, s sessionRow, secretHash, salt string, from Origin, now time.Time) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE identity_session SET secret_hash = ?, previous_hash = ?, salt = ?, generation = generation + 1,
		rotated_at = ?, seen_at = ?, address = ?, agent = ? WHERE id = ? AND generation = ? AND ended_at IS NULL`,
		secretHash, s.secretHash, salt, now.UnixMicro(), now.UnixMicro(), from.address(), from.agent(), s.ID, s.generation)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// touchSession raises the time of the last use.
func touchSession(ctx context.Context, tx *db.Tx, id, seen int64) error {
	_, err := tx.Exec(ctx, `UPDATE identity_session SET seen_at = ? WHERE id = ? AND seen_at < ?`, seen, id, seen)
	return err
}

// deleteSessions deletes up to n sessions that expired before the given time, and returns how many.
func deleteSessions(ctx context.Context, tx *db.Tx, before time.Time, n int) (int, error) {
	ids, err := scanIDs(tx.Query(ctx, `SELECT id FROM identity_session WHERE expires_at < ? ORDER BY expires_at LIMIT ?`,
		before.UnixMicro(), n))
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if _, err := tx.Exec(ctx, `DELETE FROM identity_session WHERE id = ?`, id); err != nil {
			return 0, err
		}
		if err := deletePersonal(ctx, tx, id); err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

// endedRow is a session and when it ended, in microseconds.
type endedRow struct{ session, at int64 }

// endedSessions returns sessions that ended after the given moment (or in it, with a higher id), in that order, at most n.
func endedSessions(ctx context.Context, q query, at, after int64, n int) (list []endedRow, err error) {
	rows, err := q(ctx, `SELECT id, ended_at FROM identity_session WHERE ended_at >= ? AND (ended_at > ? OR id > ?)
		ORDER BY ended_at, id LIMIT ?`, at, at, after, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e endedRow
		if err := rows.Scan(&e.session, &e.at); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, rows.Err()
}
