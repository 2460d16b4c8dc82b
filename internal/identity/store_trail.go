package identity

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/schedule"
	"levee/internal/trail"
)

// moveBatch is how many lines of the old trail are copied in one transaction.
const moveBatch = 200

// moveTrail is the work that copies the trail of versions before it had a room: every ten seconds, as nodes of such a version may still write
// it. Lines stay where they were, for those nodes' readers; those that were copied are marked.
func (s *Service) moveTrail() schedule.Work {
	return schedule.Every("identity.move_trail", 10*time.Second, job.Options{Timeout: 10 * time.Minute}, func(ctx context.Context) error {
		for {
			if n, err := s.moveSome(ctx); err != nil || n < moveBatch {
				return err
			}
		}
	}).If(func(ctx context.Context) (bool, error) {
		lines, err := oldTrail(ctx, s.db.Query, 1)
		return len(lines) > 0, err
	})
}

// moveSome copies the next lines and returns how many.
func (s *Service) moveSome(ctx context.Context) (n int, err error) {
	defer levee.Wrap(&err, "identity.moveTrail")
	// Read outside of the transaction: there it would wait for those who write now.
	lines, err := oldTrail(ctx, s.db.Query, moveBatch)
	if err != nil || len(lines) == 0 {
		return 0, err
	}
	return len(lines), s.db.Tx(ctx, "identity.move_trail", func(ctx context.Context, tx *db.Tx) error {
		for _, e := range lines {
			r, err := tx.Exec(ctx, `UPDATE identity_audit SET moved = 1 WHERE id = ? AND moved IS NULL`, e.ID)
			if err != nil {
				return err
			}
			if n, err := r.RowsAffected(); err != nil || n != 1 {
				return levee.E(levee.CodeConflict, "another node copies the trail").Because(err)
			}
		}
		return s.trail.AdoptTx(ctx, tx, lines)
	})
}

// oldTrail returns lines that were not copied, oldest first, at most n.
func oldTrail(ctx context.Context, q query, n int) (list []trail.Entry, err error) {
	rows, err := q(db.Primary(ctx), `SELECT id, at, actor_id, action, subject_kind, subject_id, before_state, after_state, address, request_id
		FROM identity_audit WHERE moved IS NULL ORDER BY id LIMIT ?`, n)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e trail.Entry
		var when int64
		if err := rows.Scan(&e.ID, &when, &e.Actor, &e.Action, &e.Kind, &e.Subject, &e.Before, &e.After, &e.Address, &e.RequestID); err != nil {
			return nil, err
		}
		e.At = at(when)
		list = append(list, e)
	}
	return list, rows.Err()
}
