package platformtest

import (
	"context"
	"strings"
	"testing"

	"levee/internal/platform/db"
)

// Explaining returns a stand-in for d.Query that has the engine explain each query before it runs it, and a function that returns the plans of those
// so far in which rows are sorted instead of read in the order of an index.
func Explaining(t testing.TB, d *db.DB) (query func(ctx context.Context, text string, args ...any) (*db.Rows, error), sorting func() string) {
	t.Helper()
	how := "EXPLAIN QUERY PLAN "
	if d.Dialect().Name() == "mysql" {
		how = "EXPLAIN "
	}
	var bad strings.Builder
	explain := func(ctx context.Context, text string, args []any) (plan string, err error) {
		rows, err := d.Query(ctx, how+text, args...)
		if err != nil {
			return "", err
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			return "", err
		}
		into := make([]any, len(columns))
		for i := range into {
			into[i] = new(db.NullString)
		}
		for rows.Next() {
			if err := rows.Scan(into...); err != nil {
				return "", err
			}
			for _, v := range into {
				plan += v.(*db.NullString).String + " " //nolint:errcheck // made above
			}
		}
		return plan, rows.Err()
	}
	return func(ctx context.Context, text string, args ...any) (*db.Rows, error) {
		plan, err := explain(ctx, text, args)
		if err != nil {
			return nil, err
		}
		if strings.Contains(plan, "filesort") || strings.Contains(plan, "TEMP B-TREE") {
			bad.WriteString(text + "\n\t" + plan + "\n")
		}
		return d.Query(ctx, text, args...)
	}, bad.String
}
