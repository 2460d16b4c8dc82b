//go:build cgo

package db

import (
	"database/sql/driver"
	"errors"

	"github.com/mattn/go-sqlite3"
)

// driverName tells which of the two SQLite drivers this program was built with; it is shown at start and by doctor.
const driverName = "mattn"

// openRaw opens one connection to the file at uri (a "file:" URI without query). Settings are made by pragma, the same for
// both drivers. SQLite's own mutex is off: a connection is never used by two goroutines at once here.
func openRaw(uri string) (driver.Conn, error) {
	return (&sqlite3.SQLiteDriver{}).Open(uri + "?_mutex=no")
}

// resultCode returns SQLite's extended result code of err.
func resultCode(err error) (code int, ok bool) {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	if e.ExtendedCode != 0 {
		return int(e.ExtendedCode), true
	}
	return int(e.Code), true
}
