package throttle

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// rateRow is a rate as SQL has it.
type rateRow struct {
	name, rate string
	by         levee.UserID
	at         time.Time
}

const selectRates = `SELECT name, rate, changed_by, changed_at FROM throttle_rate`

type query func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// readRates returns all rates that were set.
func readRates(ctx context.Context, q query) (all []rateRow, err error) {
	rows, err := q(ctx, selectRates)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r rateRow
		var at int64
		if err := rows.Scan(&r.name, &r.rate, &r.by, &at); err != nil {
			return nil, err
		}
		r.at = time.UnixMicro(at).UTC()
		all = append(all, r)
	}
	return all, rows.Err()
}

func putRate(ctx context.Context, tx *db.Tx, q db.Dialect, r rateRow) error {
	_, err := tx.Exec(ctx, q.Upsert("throttle_rate", []string{"name"}, []string{"rate", "changed_by", "changed_at"},
		"name", "rate", "changed_by", "changed_at"), r.name, r.rate, int64(r.by), r.at.UnixMicro())
	return err
}

func deleteRate(ctx context.Context, tx *db.Tx, name string) error {
	_, err := tx.Exec(ctx, `DELETE FROM throttle_rate WHERE name = ?`, name)
	return err
}
