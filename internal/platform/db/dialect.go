package db

import "strings"

// Dialect is what differs between SQL engines; its zero value speaks SQLite's.
type Dialect struct{}

// Name returns the engine: sqlite.
func (Dialect) Name() string { return "sqlite" }

// InsertIgnore returns an INSERT with one ? per column that does nothing when the row exists; Result.RowsAffected tells.
func (Dialect) InsertIgnore(table string, cols ...string) string {
	return "INSERT OR IGNORE" + values(table, cols)
}

// Upsert returns an INSERT with one ? per column that, when a row with the same key exists, sets the columns named in set to
// the new values instead. key must be the primary key or a unique one. With no set it leaves the row as it is.
func (Dialect) Upsert(table string, key, set []string, cols ...string) string {
	var b strings.Builder
	b.WriteString("INSERT" + values(table, cols) + " ON CONFLICT (" + strings.Join(key, ",") + ") DO ")
	if len(set) == 0 {
		return b.String() + "NOTHING"
	}
	b.WriteString("UPDATE SET ")
	for i, s := range set {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(s + "=excluded." + s)
	}
	return b.String()
}

// ForUpdate returns what a SELECT ends with to lock its rows: nothing here, as there is one writer.
func (Dialect) ForUpdate() string { return "" }

// SkipLocked returns what a SELECT ends with to lock its rows and pass over those locked by others: nothing here.
func (Dialect) SkipLocked() string { return "" }

// LimitOne returns what a SELECT ends with to give one row.
func (Dialect) LimitOne() string { return " LIMIT 1" }

func values(table string, cols []string) string {
	return " INTO " + table + " (" + strings.Join(cols, ",") + ") VALUES (" + strings.Repeat("?,", len(cols)-1) + "?)"
}
