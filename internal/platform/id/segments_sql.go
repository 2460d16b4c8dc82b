package id

import (
	"context"

	"levee/internal/platform/db"
)

// sqlSource counts in id_segment, one row a tag.
type sqlSource struct{ d *db.DB }

func (s sqlSource) take(ctx context.Context, tag string, n int64) (first int64, err error) {
	err = s.d.Tx(ctx, "id.segment", func(ctx context.Context, tx *db.Tx) error {
		if s.d.Dialect().Name() == "mysql" {
			// One statement, whose value comes back with its answer: less than half of the time of UPDATE and SELECT.
			res, err := tx.Exec(ctx, `UPDATE id_segment SET next = LAST_INSERT_ID(next + ?) WHERE tag = ?`, n, tag)
			if err != nil {
				return err
			}
			rows, err := res.RowsAffected()
			if err != nil {
				return err
			}
			if rows == 1 {
				end, err := res.LastInsertId()
				first = end - n
				return err
			}
			// A new tag. Who loses the race for it is run again: the row of the winner is not his to see.
			if _, err := tx.Exec(ctx, s.d.Dialect().InsertIgnore("id_segment", "tag", "next"), tag, int64(1)); err != nil {
				return err
			}
			if res, err = tx.Exec(ctx, `UPDATE id_segment SET next = LAST_INSERT_ID(next + ?) WHERE tag = ?`, n, tag); err != nil {
				return err
			}
			end, err := res.LastInsertId()
			first = end - n
			return err
		}
		return tx.QueryRow(ctx, `INSERT INTO id_segment (tag, next) VALUES (?, 1 + ?) ON CONFLICT (tag) DO UPDATE SET next = next + ? RETURNING next - ?`,
			tag, n, n, n).Scan(&first)
	})
	return first, err
}

func (s sqlSource) giveBack(ctx context.Context, tag string, first, end int64) error {
	return s.d.Tx(ctx, "id.segment_back", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE id_segment SET next = ? WHERE tag = ? AND next = ?`, first, tag, end)
		return err
	})
}
