package platformtest

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"levee/internal/platform/db"
)

// Explaining returns a stand-in for d.Query that has the engine explain each query before it runs it, and a function that returns the plans of those
// so far in which rows are sorted instead of read in the order of an index. MySQL and MariaDB sort what they take for fewer than a hundred rows,
// whatever indexes there are: such plans say nothing and are left out.
func Explaining(t testing.TB, d *db.DB) (query func(ctx context.Context, text string, args ...any) (*db.Rows, error), sorting func() string) {
	t.Helper()
	how := "EXPLAIN QUERY PLAN "
	if d.Dialect().Name() == "mysql" {
		how = "EXPLAIN "
	}
	var bad strings.Builder
	explain := func(ctx context.Context, text string, args []any) (plan string, few bool, err error) {
		rows, err := d.Query(ctx, how+text, args...)
		if err != nil {
			return "", false, err
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			return "", false, err
		}
		into := make([]any, len(columns))
		for i := range into {
			into[i] = new(db.NullString)
		}
		for rows.Next() {
			if err := rows.Scan(into...); err != nil {
				return "", false, err
			}
			for i, v := range into {
				value := v.(*db.NullString).String //nolint:errcheck // made above
				plan += value + " "
				if n, err := strconv.Atoi(value); columns[i] == "rows" && err == nil && n < 100 {
					few = true
				}
			}
		}
		return plan, few, rows.Err()
	}
	return func(ctx context.Context, text string, args ...any) (*db.Rows, error) {
		plan, few, err := explain(ctx, text, args)
		if err != nil {
			return nil, err
		}
		if !few && strings.Contains(plan, "filesort") || strings.Contains(plan, "TEMP B-TREE") {
			bad.WriteString(text + "\n\t" + plan + "\n")
		}
		return d.Query(ctx, text, args...)
	}, bad.String
}
