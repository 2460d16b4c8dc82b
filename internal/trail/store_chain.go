package trail

import (
	"context"

	"levee"
	"levee/internal/platform/db"
)

// unsealed returns committed entries that have no place in the chain yet, by id, those after the given one, at most n.
func unsealed(ctx context.Context, q query, after int64, n int) ([]Entry, error) {
	return scanEntries(q(db.Primary(ctx), `SELECT `+entryColumns+` FROM trail_entry WHERE seq IS NULL AND id > ? ORDER BY id LIMIT ?`, after, n))
}

// placed returns entries by their place, those after one and to another, at most n.
func placed(ctx context.Context, q query, after, to int64, n int) ([]Entry, error) {
	return scanEntries(q(db.Primary(ctx), `SELECT `+entryColumns+` FROM trail_entry WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?`, after, to, n))
}

// highest returns the highest place of any entry, 0 for none; and the lowest.
func bounds(ctx context.Context, d *db.DB) (lowest, highest int64, err error) {
	err = d.QueryRow(db.Primary(ctx), `SELECT COALESCE(MIN(seq), 0), COALESCE(MAX(seq), 0) FROM trail_entry WHERE seq IS NOT NULL`).Scan(&lowest, &highest)
	return lowest, highest, err
}

const blockColumns = `first_seq, last_seq, head, sealed_at, dropped, mark`

// lastBlock returns the end of the chain; the zero Block when nothing was sealed yet.
func lastBlock(ctx context.Context, q query) (Block, error) {
	return oneBlock(scanBlocks(q(db.Primary(ctx), `SELECT `+blockColumns+` FROM trail_block ORDER BY first_seq DESC LIMIT 1`)))
}

// blockAt returns the block in which a place is, or the last one before it; the zero Block for none.
func blockAt(ctx context.Context, q query, seq int64) (Block, error) {
	return oneBlock(scanBlocks(q(db.Primary(ctx), `SELECT `+blockColumns+` FROM trail_block WHERE first_seq <= ? ORDER BY first_seq DESC LIMIT 1`, seq)))
}

// blocksFrom returns blocks in their order, from the one that begins at the given place or next after it, at most n.
func blocksFrom(ctx context.Context, q query, first int64, n int) ([]Block, error) {
	return scanBlocks(q(db.Primary(ctx), `SELECT `+blockColumns+` FROM trail_block WHERE first_seq >= ? ORDER BY first_seq LIMIT ?`, first, n))
}

func oneBlock(list []Block, err error) (b Block, _ error) {
	if len(list) > 0 {
		b = list[0]
	}
	return b, err
}

func scanBlocks(rows *db.Rows, err error) ([]Block, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var list []Block
	for rows.Next() {
		var b Block
		var head string
		var sealed int64
		var dropped int
		if err := rows.Scan(&b.First, &b.Last, &head, &sealed, &dropped, &b.Mark); err != nil {
			return nil, err
		}
		b.Head, _ = parseHead(head) // what is none stays zero, and its mark is wrong
		b.At, b.Dropped = at(sealed), dropped != 0
		list = append(list, b)
	}
	return list, rows.Err()
}

// insertBlock appends a block. Where another begins at the same place the error is one of IsUnique.
func insertBlock(ctx context.Context, tx *db.Tx, b *Block) error {
	_, err := tx.Exec(ctx, `INSERT INTO trail_block (first_seq, last_seq, head, sealed_at, dropped, mark) VALUES (?, ?, ?, ?, ?, ?)`,
		b.First, b.Last, b.Head.String(), b.At.UnixMicro(), flag(b.Dropped), b.Mark)
	return err
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// placeEntries gives entries the places that they carry. CodeConflict when one has a place already.
func placeEntries(ctx context.Context, tx *db.Tx, list []Entry) error {
	for _, e := range list {
		r, err := tx.Exec(ctx, `UPDATE trail_entry SET seq = ? WHERE id = ? AND seq IS NULL`, e.Seq, e.ID)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n != 1 {
			return levee.E(levee.CodeConflict, "another node seals the trail").Because(err)
		}
	}
	return nil
}

// dropBlocks deletes the entries up to the end of a block and the blocks before it, and keeps the block as where the chain begins, if it is
// still as it was.
func dropBlocks(ctx context.Context, tx *db.Tx, last *Block, was string) error {
	r, err := tx.Exec(ctx, `UPDATE trail_block SET dropped = 1, mark = ? WHERE first_seq = ? AND mark = ?`, last.Mark, last.First, was)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return levee.E(levee.CodeConflict, "another node drops the same entries").Because(err)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM trail_block WHERE first_seq < ?`, last.First); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM trail_entry WHERE seq <= ?`, last.Last)
	return err
}
