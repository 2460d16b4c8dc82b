//go:build !cgo

package db

import (
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"
)

// driverName tells which of the two SQLite drivers this program was built with; it is shown at start and by doctor.
const driverName = "modernc"

// openRaw opens one connection to the file at uri (a "file:" URI without query). Settings are made by pragma, the same for
// both drivers.
func openRaw(uri string) (driver.Conn, error) {
	return (&sqlite.Driver{}).Open(uri)
}

// resultCode returns SQLite's extended result code of err.
func resultCode(err error) (code int, ok bool) {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.Code(), true
}
