package platformtest

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
)

// Explaining returns a stand-in for d.Query that has the engine explain each query before it runs it, and a function that returns the plans of those
// so far in which rows are sorted instead of read in the order of an index. MySQL and MariaDB are told that every table is large, as they sort
// small ones whatever indexes these have; where they have counted again meanwhile, and found fewer than a hundred rows, a plan says nothing and is left out.
func Explaining(t testing.TB, d *db.DB) (query func(ctx context.Context, text string, args ...any) (*db.Rows, error), sorting func() string) {
	t.Helper()
	how := "EXPLAIN QUERY PLAN "
	if d.Dialect().Name() == "mysql" {
		how = "EXPLAIN "
		pretendMillions(t, d)
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

// pretendMillions has InnoDB believe that each table of this database has a million rows, and each index a thousand of each first value. The
// statistics are meant to be written to so (the manuals' "Configuring Persistent Optimizer Statistics Parameters").
func pretendMillions(t testing.TB, d *db.DB) {
	t.Helper()
	var name string
	if err := d.QueryRow(t.Context(), "SELECT DATABASE()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	server, err := backends.MySQL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"UPDATE mysql.innodb_table_stats SET n_rows = 1000000, clustered_index_size = 20000, sum_of_other_index_sizes = 20000 WHERE database_name = ?",
		"UPDATE mysql.innodb_index_stats SET stat_value = CASE WHEN stat_name = 'n_diff_pfx01' AND index_name <> 'PRIMARY' THEN 1000 " +
			"WHEN stat_name LIKE 'n_diff_pfx%' THEN 1000000 ELSE 10000 END WHERE database_name = ?",
	} {
		if err := server.Exec(t.Context(), text, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Exec(t.Context(), "FLUSH TABLES"); err != nil { // so that they are read anew
		t.Fatal(err)
	}
}
