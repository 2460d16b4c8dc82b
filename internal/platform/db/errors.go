package db

import (
	"levee/internal/platform/db/mysqlconn"
	"levee/internal/platform/db/sqltext"
)

// IsUnique reports whether err says that a unique constraint or a primary key refused the row.
func IsUnique(err error) bool {
	if mysqlconn.IsDuplicate(err) {
		return true
	}
	code, ok := resultCode(err)
	return ok && (code == codeUnique || code == codePrimaryKey || code == codeRowID)
}

// What both engines share with the packages below this one.
type statement = sqltext.Statement

var (
	splitSQL    = sqltext.Split
	toValue     = sqltext.Value
	unavailable = sqltext.Unavailable
)

const retryAfter = sqltext.RetryAfter
