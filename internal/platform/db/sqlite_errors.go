package db

import (
	"database/sql/driver"
	"fmt"

	"levee"
)

// SQLite's primary result codes (https://www.sqlite.org/rescode.html), the same in both drivers.
const (
	codePerm       = 3
	codeBusy       = 5
	codeLocked     = 6
	codeNoMem      = 7
	codeReadOnly   = 8
	codeIOErr      = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeProtocol   = 15
	codeNotADB     = 26
	codeUnique     = 19 | 8<<8
	codePrimaryKey = 19 | 6<<8
	codeRowID      = 19 | 10<<8
)

// lostReason says, for an error after which SQLite may have undone the whole transaction or the file cannot be trusted, what
// is wrong in words for an operator, and "" for any other error (a constraint, bad SQL).
func lostReason(err error) string {
	code, ok := resultCode(err)
	if !ok {
		return ""
	}
	switch code & 0xff {
	case codeBusy, codeLocked, codeProtocol:
		return "the database file is locked by another process"
	case codeFull:
		return "the disk (or the database's allowed size) is full"
	case codeIOErr:
		return "the disk failed to read or write the database file"
	case codeNoMem:
		return "the process is out of memory"
	case codeReadOnly, codePerm:
		return "the database file or its folder may not be written"
	case codeCantOpen:
		return "the database file or one beside it (-wal, -shm) cannot be opened"
	case codeCorrupt:
		return "the database file is damaged"
	case codeNotADB:
		return "the file is not a database"
	}
	return ""
}

// isBusy reports whether err only says that somebody else holds a lock.
func isBusy(err error) bool {
	code, ok := resultCode(err)
	return ok && (code&0xff == codeBusy || code&0xff == codeLocked)
}

// statementError adds the statement to an error and gives it a code where the cause lies outside of it. Values are never
// part of it: they may be secrets.
func statementError(query string, err error) error {
	if err == nil || err == driver.ErrBadConn {
		return err
	}
	if reason := lostReason(err); reason != "" {
		err = unavailable(reason, err)
	}
	return fmt.Errorf("%q: %w", levee.Shorten(query, 160), err)
}
