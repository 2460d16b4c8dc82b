package binlog

import (
	"context"
	"fmt"

	"levee"
	"levee/internal/platform/cache"
)

// Invalidation says which column of a table is a cache's key and which the version of the row.
type Invalidation[K comparable] struct {
	Table, Key, Version string
	// ToKey makes the cache's key of the column's value.
	ToKey func(v any) (K, error)
}

// Int64Key is ToKey for integers.
func Int64Key(v any) (int64, error) {
	n, ok := v.(int64)
	if !ok {
		return 0, fmt.Errorf("binlog: a key is %T, not an integer", v)
	}
	return n, nil
}

// Columns returns the table as Config.Tables wants it.
func (i Invalidation[K]) Columns() Table { return Table{i.Table, []string{i.Key, i.Version}} }

// Apply returns a function for Config.Apply that tells a cache of all changes of the table: of an insert and an update the version that
// the row has, of a delete the one after its last, of an update of the key both. invalidate is cache.Shared's. Changes of other tables are left alone,
// so several caches are told one after another.
func (i Invalidation[K]) Apply(invalidate func(ctx context.Context, changes ...cache.Change[K]) error) func(ctx context.Context, changes []Change) error {
	return func(ctx context.Context, changes []Change) error {
		last := map[K]int64{} // of many changes of one key the last one says all
		var order []K
		note := func(row []any, gone bool) error {
			if row == nil {
				return nil
			}
			k, err := i.ToKey(row[0])
			if err != nil {
				return err
			}
			version, ok := row[1].(int64)
			if !ok {
				return levee.E(levee.CodeInternal, "the version of a row of %s is no integer", i.Table)
			}
			if gone {
				version++
			}
			if _, there := last[k]; !there {
				order = append(order, k)
			}
			last[k] = max(last[k], version)
			return nil
		}
		for _, c := range changes {
			if c.Table != i.Table {
				continue
			}
			moved := c.Kind == Delete || c.Kind == Update && c.Before[0] != c.After[0]
			if moved {
				if err := note(c.Before, true); err != nil {
					return err
				}
			}
			if err := note(c.After, false); err != nil {
				return err
			}
		}
		if len(order) == 0 {
			return nil
		}
		told := make([]cache.Change[K], len(order))
		for n, k := range order {
			told[n] = cache.Change[K]{Key: k, Version: last[k]}
		}
		return invalidate(ctx, told...)
	}
}
