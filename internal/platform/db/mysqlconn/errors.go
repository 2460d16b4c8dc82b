package mysqlconn

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"

	"levee"
	"levee/internal/platform/db/sqltext"
)

// The numbers of a server's errors that mean something here (https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html).
const (
	myTooManyConns   = 1040
	myAccessDenied   = 1045
	myNoDatabase     = 1049
	myTableExists    = 1050
	myUnknownTable   = 1051
	myServerShutdown = 1053
	myDuplicateCol   = 1060
	myDuplicateKey   = 1061
	myDuplicateEntry = 1062
	myMultiplePK     = 1068
	myCannotDrop     = 1091
	myLockTimeout    = 1205
	myDeadlock       = 1213
	myQueryTooLong   = 1969 // MariaDB: max_statement_time
	myExecutionTime  = 3024 // MySQL: max_execution_time
)

// ServerError is an error that a MySQL server answered, without the values that its text may hold: they may be secrets.
type ServerError struct {
	number uint16
	text   string
}

// Error gives the number and what of the server's text names no values.
func (e *ServerError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("MySQL error %d", e.number)
	}
	return fmt.Sprintf("MySQL error %d: %s", e.number, e.text)
}

// namesOnly are the errors whose text names tables, columns, users and settings but no values of a statement.
var namesOnly = map[uint16]bool{
	1005: true, 1007: true, 1008: true, 1020: true, 1021: true, 1030: true, 1037: true, myTooManyConns: true, 1044: true, myAccessDenied: true,
	1046: true, 1048: true, myNoDatabase: true, myTableExists: true, myUnknownTable: true, 1052: true, myServerShutdown: true, 1054: true,
	1059: true, myDuplicateCol: true, myDuplicateKey: true, myMultiplePK: true, 1069: true, 1071: true, 1072: true, myCannotDrop: true,
	1093: true, 1101: true, 1114: true, 1118: true, 1136: true, 1142: true, 1146: true, 1153: true, 1170: true, 1193: true, 1203: true,
	myLockTimeout: true, 1206: true, myDeadlock: true, 1226: true, 1235: true, 1264: true, 1273: true, 1290: true, 1317: true, 1364: true,
	1406: true, 1792: true, 1836: true, 1927: true, myQueryTooLong: true, myExecutionTime: true, 3819: true, 4025: true, 4031: true,
}

// FromServer turns a driver's error into a serverError; other errors stay as they are.
func FromServer(err error) error {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return err
	}
	out := &ServerError{number: e.Number}
	switch {
	case namesOnly[e.Number]:
		out.text = e.Message
	case e.Number == myDuplicateEntry:
		out.text = "duplicate entry"
		if i := strings.LastIndex(e.Message, " for key "); i >= 0 {
			out.text += e.Message[i:]
		}
	case e.Number == 1064: // the text goes on with the statement as it was sent, values and all
		out.text = "syntax error"
		if i := strings.LastIndex(e.Message, " at line "); i >= 0 {
			out.text += e.Message[i:]
		}
	}
	return out
}

// Number returns the number of a server's error, or 0.
func Number(err error) uint16 {
	if e, ok := errors.AsType[*ServerError](err); ok {
		return e.number
	}
	return 0
}

// Fault is what an error means for the transaction it happened in.
type Fault int

const (
	FaultNone      Fault = iota // of the statement alone: a constraint, bad SQL
	FaultRolled                 // the server undid the transaction for the sake of others; running it again may succeed
	FaultLost                   // the connection is of no more use, and with it what was not committed
	FaultSlow                   // the server did not answer in time, or cancelled what took too long; the connection is dropped
	FaultRefused                // the server cannot do it now: read-only, full, too many connections; the connection is dropped
	FaultForbidden              // the server does not let this user in
)

// Judge says what an error of the server or of the connection means, with words for an operator. late tells that the connection's
// deadline passed: the driver says no more than that it is lost.
func Judge(err error, late bool) (Fault, string) {
	switch Number(err) {
	case 0:
	case myDeadlock, 1614:
		return FaultRolled, "other transactions held its locks crosswise (deadlock)"
	case myLockTimeout:
		return FaultRolled, "another transaction held a lock for too long"
	case 1020: // MariaDB from 11.6 on
		return FaultRolled, "what it read was changed meanwhile"
	case 1206:
		return FaultRefused, "the server's table of locks is full"
	case 1317, myServerShutdown, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013, 4031:
		return FaultLost, "the server ended the connection"
	case myQueryTooLong, myExecutionTime:
		return FaultSlow, "the server took too long over a statement"
	case myTooManyConns, 1203, 1226:
		return FaultRefused, "the server has no connection free (max_connections, or the user's limit)"
	case 1290, 1836:
		return FaultRefused, "the server is read-only (a replica, or a fail-over is under way)"
	case 1021, 1114:
		return FaultRefused, "the server's disk (or the table's allowed size) is full"
	case 1037, 1041:
		return FaultRefused, "the server is out of memory"
	case 1026, 1030, 1180, 1598:
		return FaultRefused, "the server failed to read or write its files"
	case 1044, myAccessDenied, 1129, 1130, 1227, 1698:
		return FaultForbidden, "the server does not let this user in"
	default:
		return FaultNone, ""
	}
	if err == nil {
		return FaultNone, ""
	}
	switch {
	case late:
		return FaultSlow, "the server does not answer"
	case isConnError(err):
		return FaultLost, "the connection to the server broke"
	}
	return FaultNone, ""
}

// isConnError reports whether a driver's error is one of the connection, not of a statement.
func isConnError(err error) bool {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, mysql.ErrPktSync) ||
		errors.Is(err, mysql.ErrPktSyncMul) || errors.Is(err, mysql.ErrMalformPkt) || errors.Is(err, mysql.ErrBusyBuffer) {
		return true
	}
	return isNetError(err)
}

// ConnectError turns an error of making a connection into one with a code and words for an operator.
func ConnectError(ctx context.Context, addr string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if _, ok := errors.AsType[*levee.Error](err); ok { // from what Through was given: the driver has none
		return sqltext.Unavailable("the way to the server is not open", fmt.Errorf("%s: %w", addr, err))
	}
	err = FromServer(err)
	kind, reason := Judge(err, false)
	switch number := Number(err); {
	case number == myNoDatabase:
		return levee.E(levee.CodeInternal, "the database server has no such database; create it, or change db.url").Because(err)
	case kind == FaultForbidden:
		return levee.E(levee.CodeInternal, "the database server does not let this user in; check the user in db.url, the password, "+
			"and what the server grants him").Because(err)
	case kind == FaultLost || isNetError(err):
		reason = "the server cannot be reached"
	case kind == FaultNone:
		return levee.E(levee.CodeInternal, "the database server does not take a setting that is needed").Because(err)
	}
	return sqltext.Unavailable(reason, fmt.Errorf("%s: %w", addr, err))
}

// IsDuplicate reports whether a unique key refused a row.
func IsDuplicate(err error) bool {
	switch Number(err) {
	case myDuplicateEntry, 1022, 1586:
		return true
	}
	return false
}

// IsThere reports whether a statement of a schema failed because it is done already.
func IsThere(err error) bool {
	switch Number(err) {
	case myTableExists, myUnknownTable, myDuplicateCol, myDuplicateKey, myMultiplePK, myCannotDrop:
		return true
	}
	return false
}
