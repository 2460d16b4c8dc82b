package identity

import (
	"context"
	"testing"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/trail"
)

// writeOldTrail is how the version before the room writes its trail.
func writeOldTrail(ctx context.Context, tx *db.Tx, id int64, action string) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_audit (id, at, actor_id, action, subject_kind, subject_id, before_state, after_state, address, request_id)
		VALUES (?, ?, 7, ?, 1, 9, '{"a":1}', '', '192.0.2.1', 'req')`, id, id*1000, action)
	return err
}

// Every line of the old table comes over once, also one that is written while the copying goes on and commits late; what it says stays,
// and the readers of the version before keep their table.
func TestTheOldTrailMovesOver(t *testing.T) {
	h := newHouse(t, cheap, nil)
	ctx := t.Context()
	write := func(from, n int64) {
		t.Helper()
		h.wantCode(h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
			for id := from; id < from+n; id++ {
				if err := writeOldTrail(ctx, tx, id, "old.act"); err != nil {
					return err
				}
			}
			return nil
		}), "")
	}
	const many = moveBatch + 17
	write(1000, many)
	for want := range []int{moveBatch, 17, 0} {
		if n, err := h.moveSome(ctx); err != nil || n != []int{moveBatch, 17, 0}[want] {
			t.Fatalf("copied %d, %v", n, err)
		}
	}
	write(500, 3) // a node of the version before, with ids that are older than those that were copied
	if n, err := h.moveSome(ctx); err != nil || n != 3 {
		t.Fatalf("copied %d late lines, %v", n, err)
	}
	if n, err := h.moveSome(ctx); err != nil || n != 0 {
		t.Fatalf("copied %d again, %v", n, err)
	}
	seen := map[int64]bool{}
	for after := int64(0); ; {
		list, more, err := h.trail.List(h.admin, trail.Filter{Action: "old.act", Page: levee.Page{Limit: 100, After: after}})
		h.wantCode(err, "")
		for _, e := range list {
			if seen[e.ID] || e.Actor != 7 || e.Kind != levee.KindUser || e.Subject != 9 || e.Before != `{"a":1}` || e.After != "" ||
				e.Address != "192.0.2.1" || e.RequestID != "req" || e.At.UnixMicro() != e.ID*1000 {
				t.Fatalf("seen %v: %+v", seen[e.ID], e)
			}
			seen[e.ID], after = true, e.ID
		}
		if !more {
			break
		}
	}
	if len(seen) != many+3 {
		t.Errorf("%d lines came over, want %d", len(seen), many+3)
	}
	var left int
	if err := h.db.QueryRow(ctx, `SELECT COUNT(*) FROM identity_audit`).Scan(&left); err != nil || left != many+3 {
		t.Errorf("%d lines stand in the old table, %v", left, err)
	}
}
