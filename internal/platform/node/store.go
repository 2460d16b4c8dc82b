package node

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// memberRow is a node as SQL has it.
type memberRow struct {
	Member
	beat int64
}

// keepRow is a term as SQL has it.
type keepRow struct{ member, fence, beat int64 }

// beat raises the counters of this node and of what it keeps, and extends the terms. What another node has taken is found by the
// reading that follows.
func (n *Nodes) beat(ctx context.Context, began time.Time) error {
	var kept []*duty
	err := n.db.Tx(ctx, "node.beat", func(ctx context.Context, tx *db.Tx) error {
		kept = kept[:0]
		there, err := changed(tx.Exec(ctx, `UPDATE node_member SET beat = beat + 1 WHERE id = ?`, n.self.ID))
		if err == nil && !there {
			_, err = tx.Exec(ctx, `INSERT INTO node_member (id, name, address, version, beat, started_at) VALUES (?, ?, ?, ?, 1, ?)`,
				n.self.ID, n.self.Name, n.self.Address, n.self.Version, n.self.StartedAt.UnixMicro())
		}
		if err != nil {
			return err
		}
		for _, d := range n.duty {
			if d.fence == 0 {
				continue
			}
			mine, err := changed(tx.Exec(ctx, `UPDATE node_keep SET beat = beat + 1 WHERE name = ? AND fence = ? AND member = ?`, d.name, d.fence, n.self.ID))
			if err != nil {
				return err
			}
			if mine {
				kept = append(kept, d)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range kept {
		// A term that has ended by its own clock stays ended, although nobody has taken it yet: its function was told to stop.
		if time.Since(n.began).Microseconds() < d.until.Load() {
			n.extend(d, began)
		} else {
			n.end(d, "its lease ran out")
		}
	}
	return nil
}

// take makes this node the keeper if nothing has changed since k was read. fence 0: something has.
func (n *Nodes) take(ctx context.Context, name string, k keepRow, known bool) (fence int64, err error) {
	err = n.db.Tx(ctx, "node.take", func(ctx context.Context, tx *db.Tx) error {
		fence = 0
		if !known {
			_, err := tx.Exec(ctx, `INSERT INTO node_keep (name, member, fence, beat) VALUES (?, ?, 1, 0)`, name, n.self.ID)
			if err == nil {
				fence = 1
			}
			if db.IsUnique(err) {
				return nil
			}
			return err
		}
		mine, err := changed(tx.Exec(ctx, `UPDATE node_keep SET member = ?, fence = fence + 1, beat = 0 WHERE name = ? AND fence = ? AND beat = ?`,
			n.self.ID, name, k.fence, k.beat))
		if mine {
			fence = k.fence + 1
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return fence, nil
}

// giveUp lets others take what this node kept, at once, and removes it from the list.
func (n *Nodes) giveUp(ctx context.Context, given map[string]int64) error {
	return n.db.Tx(ctx, "node.leave", func(ctx context.Context, tx *db.Tx) error {
		for name, fence := range given {
			if _, err := tx.Exec(ctx, `UPDATE node_keep SET member = 0 WHERE name = ? AND fence = ?`, name, fence); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `DELETE FROM node_member WHERE id = ?`, n.self.ID)
		return err
	})
}

// forget removes a node that has been silent for long; if it has only slept it comes back with its next beat.
func (n *Nodes) forget(ctx context.Context, m memberRow) error {
	return n.db.Tx(ctx, "node.forget", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM node_member WHERE id = ? AND beat = ?`, m.ID, m.beat)
		return err
	})
}

// CheckTx fails with CodeConflict when another term has begun: called inside the transaction that writes what is kept, it keeps out a
// node that slept through the end of its own.
func (t Term) CheckTx(ctx context.Context, tx *db.Tx) error {
	if t.name == "" {
		return nil
	}
	var fence int64
	err := tx.QueryRow(ctx, `SELECT fence FROM node_keep WHERE name = ?`, t.name).Scan(&fence)
	if err == nil && fence != t.Fence {
		err = levee.E(levee.CodeConflict, "another node keeps %s since: this one's term %d is over, %d has begun", t.name, t.Fence, fence)
	}
	return err
}

// membersMost bounds a house. More nodes than that are a mistake of whoever starts them.
const membersMost = 1000

func (n *Nodes) read(ctx context.Context) (members []memberRow, keeps map[string]keepRow, err error) {
	rows, err := n.db.Query(ctx, `SELECT id, name, address, version, beat, started_at FROM node_member ORDER BY id LIMIT ?`, membersMost)
	if err != nil {
		return nil, nil, err
	}
	for rows.Next() {
		var m memberRow
		var started int64
		if err := rows.Scan(&m.ID, &m.Name, &m.Address, &m.Version, &m.beat, &started); err != nil {
			return nil, nil, errors.Join(err, rows.Close())
		}
		m.StartedAt = time.UnixMicro(started).UTC()
		members = append(members, m)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, nil, err
	}
	rows, err = n.db.Query(ctx, `SELECT name, member, fence, beat FROM node_keep`)
	if err != nil {
		return nil, nil, err
	}
	keeps = map[string]keepRow{}
	for rows.Next() {
		var name string
		var k keepRow
		if err := rows.Scan(&name, &k.member, &k.fence, &k.beat); err != nil {
			return nil, nil, errors.Join(err, rows.Close())
		}
		keeps[name] = k
	}
	return members, keeps, errors.Join(rows.Err(), rows.Close())
}

func changed(r db.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

// Agree fails with CodeConflict when the nodes of the house disagree about something that must be the same on all of them, such as a fingerprint of
// their secret. What the first node ever said stands; value has up to 190 bytes and is shown to nobody.
func (n *Nodes) Agree(ctx context.Context, about, value string) error {
	return n.db.Tx(ctx, "node.agree", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO node_common (name, value) VALUES (?, ?)`, about, value)
		if !db.IsUnique(err) {
			return err
		}
		var said string
		if err := tx.QueryRow(ctx, `SELECT value FROM node_common WHERE name = ?`, about).Scan(&said); err != nil {
			return err
		}
		if said != value {
			return levee.E(levee.CodeConflict, "%s differs from what the other nodes of this house have; it must be the same on all", about)
		}
		return nil
	})
}
