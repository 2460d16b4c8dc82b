package db

import (
	"strings"

	"levee/internal/platform/db/mysqlconn"
)

// Dialect is what differs between SQL engines; its zero value speaks SQLite's.
type Dialect struct{ mysql bool }

// Name returns the engine: sqlite or mysql (MariaDB too).
func (d Dialect) Name() string {
	if d.mysql {
		return "mysql"
	}
	return "sqlite"
}

// InsertIgnore returns an INSERT of one row with one ? per column that does nothing when the row exists, by whichever unique key;
// Result.RowsAffected tells. Every other error is still one.
func (d Dialect) InsertIgnore(table string, cols ...string) string {
	if d.mysql {
		return mysqlconn.OrNothing + values(table, cols)
	}
	return "INSERT" + values(table, cols) + " ON CONFLICT DO NOTHING"
}

// Upsert returns an INSERT with one ? per column that, when a row with the same key exists, sets the columns named in set to
// the new values instead. key must be the table's only unique key: MySQL takes a conflict with any. With no set it leaves the
// row as it is. Result.RowsAffected differs between engines and says nothing.
func (d Dialect) Upsert(table string, key, set []string, cols ...string) string {
	if len(set) == 0 {
		return d.InsertIgnore(table, cols...)
	}
	var b strings.Builder
	b.WriteString("INSERT" + values(table, cols))
	// MariaDB has no alias for the new row, and MySQL still takes VALUES().
	before, after := "=VALUES(", ")"
	if d.mysql {
		b.WriteString(" ON DUPLICATE KEY UPDATE ")
	} else {
		b.WriteString(" ON CONFLICT (" + strings.Join(key, ",") + ") DO UPDATE SET ")
		before, after = "=excluded.", ""
	}
	for i, s := range set {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(s + before + s + after)
	}
	return b.String()
}

// ForUpdate returns what a SELECT inside Tx ends with to lock its rows until the commit: nothing on SQLite, as there is one writer.
// On MySQL it keeps two transactions that read a row and then write it from a deadlock.
func (d Dialect) ForUpdate() string {
	if d.mysql {
		return " FOR UPDATE"
	}
	return ""
}

// SkipLocked returns what a SELECT inside Tx ends with, after ForUpdate, to pass over rows that others have locked: nothing on SQLite.
func (d Dialect) SkipLocked() string {
	if d.mysql {
		return " SKIP LOCKED"
	}
	return ""
}

// LimitOne returns what a SELECT ends with to give one row.
func (Dialect) LimitOne() string { return " LIMIT 1" }

func values(table string, cols []string) string {
	return " INTO " + table + " (" + strings.Join(cols, ",") + ") VALUES (" + strings.Repeat("?,", len(cols)-1) + "?)"
}
