package identity

import (
	"context"

	"levee/internal/platform/db"
)

// setupRow is a set-up code that was given out.
type setupRow struct {
	id, wrong, expires int64
	hash               string
}

func listSetups(ctx context.Context, q query) (list []setupRow, err error) {
	rows, err := q(ctx, `SELECT id, hash, wrong, expires_at FROM identity_setup ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r setupRow
		if err := rows.Scan(&r.id, &r.hash, &r.wrong, &r.expires); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

func insertSetup(ctx context.Context, tx *db.Tx, r setupRow) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_setup (id, hash, wrong, expires_at) VALUES (?, ?, 0, ?)`, r.id, r.hash, r.expires)
	return err
}

// wrongSetup counts a wrong code against all that it might have been meant for.
func wrongSetup(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE identity_setup SET wrong = wrong + 1`)
	return err
}

// deleteSetups removes the codes from an id to another and returns how many there were.
func deleteSetups(ctx context.Context, tx *db.Tx, from, to int64) (n int64, err error) {
	res, err := tx.Exec(ctx, `DELETE FROM identity_setup WHERE id BETWEEN ? AND ?`, from, to)
	if err == nil {
		n, err = res.RowsAffected()
	}
	return n, err
}
