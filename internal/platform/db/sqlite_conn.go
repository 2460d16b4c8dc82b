package db

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// conn is one connection to SQLite with its own prepared statements. It stands between database/sql and the driver, so that
// every pool (readers, bun, the writer) has them, keyed by text. It is used by one goroutine at a time: database/sql sees to
// that for readers, the writer's goroutine for its own, which also calls conn directly on its hot path.
type conn struct {
	raw   rawConn
	stmts map[string]*stmt
	// oldest and newest end the list of idle statements in order of use.
	oldest, newest *stmt
	// open holds the rows that are not closed yet.
	open map[*rows]struct{}
	// own are the writer's statements for transactions.
	own []driver.Stmt
	// inserts are the texts of InsertRows by table.
	inserts map[string][]*insertPlan
	// args is reused by exec.
	args []driver.NamedValue
	// writer marks the one connection that writes; on it an error that lostReason knows sets lost: SQLite may have undone the
	// whole transaction. Until the connection is dropped every statement is refused with it: one that ran would commit on its own.
	writer bool
	lost   error
}

type rawConn interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
}

type rawStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// stmt is one prepared statement. It is busy while rows of it are open; a second use of its text gets one of its own.
type stmt struct {
	rawStmt
	query     string
	params    int
	returning bool // gives rows although it writes
	prev      *stmt
	next      *stmt
}

// stmtsMax bounds the prepared statements of one connection. The house has some 300 texts; each takes 2 to 10 KiB.
const stmtsMax = 512

// background is handed to the driver where the caller's context must not interrupt a statement.
var background = context.Background()

// newConn opens one connection and applies the pragmas.
func newConn(uri string, pragmas []string, writer bool) (*conn, error) {
	raw, err := openRaw(uri)
	if err != nil {
		return nil, err
	}
	rc, ok := raw.(rawConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("driver %s lacks ExecContext or QueryContext", driverName), raw.Close())
	}
	c := &conn{raw: rc, writer: writer, stmts: map[string]*stmt{}, open: map[*rows]struct{}{}, inserts: map[string][]*insertPlan{}}
	for _, p := range pragmas {
		if _, err := rc.ExecContext(background, "PRAGMA "+p, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("PRAGMA %s: %w", p, err), raw.Close())
		}
	}
	return c, nil
}

// refused are the verbs that belong to the part itself: transactions are run by Tx, settings by Open.
var refused = map[string]bool{
	"BEGIN": true, "COMMIT": true, "END": true, "ROLLBACK": true, "SAVEPOINT": true, "RELEASE": true,
	"ATTACH": true, "DETACH": true, "PRAGMA": true, "VACUUM": true,
}

// check refuses what would break the transaction from inside, and says how many parameters and whether rows come back.
func check(query string) (params int, returning bool, err error) {
	if strings.Contains(query, "\x00") {
		return 0, false, errors.New("a zero byte in a statement") // SQLite ends there, and one of the drivers crashes
	}
	parts := splitSQL(query)
	if len(parts) != 1 {
		return 0, false, fmt.Errorf("one SQL statement expected, got %d", len(parts))
	}
	p := parts[0]
	if refused[p.Verb] {
		return 0, false, fmt.Errorf("%s is not allowed here: transactions are run by db.Tx, settings are made by db.Open", p.Verb)
	}
	if p.OrRollback {
		return 0, false, errors.New("OR ROLLBACK is not allowed: it would undo the whole group of transactions")
	}
	return p.Params, p.Returning, nil
}

// prepared returns the statement for query, from those kept or newly prepared. It must be given back by done.
func (c *conn) prepared(query string) (*stmt, error) {
	if c.lost != nil {
		return nil, c.lost
	}
	if s := c.stmts[query]; s != nil {
		delete(c.stmts, query)
		c.unlink(s)
		return s, nil
	}
	params, returning, err := check(query)
	if err != nil {
		return nil, statementError(query, err)
	}
	raw, err := c.raw.Prepare(query)
	if err != nil {
		return nil, c.fail(background, query, err)
	}
	rs, ok := raw.(rawStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("driver %s lacks contexts on statements", driverName), raw.Close())
	}
	return &stmt{rawStmt: rs, query: query, params: params, returning: returning}, nil
}

// done gives a statement back: it is kept for the next use, and the longest unused one over the limit is closed.
func (c *conn) done(s *stmt) {
	if c.stmts[s.query] != nil {
		_ = s.Close() // a second one of the same text was needed while the first was busy
		return
	}
	c.stmts[s.query] = s
	s.prev, s.next = c.newest, nil
	if c.newest != nil {
		c.newest.next = s
	} else {
		c.oldest = s
	}
	c.newest = s
	if len(c.stmts) > stmtsMax {
		old := c.oldest
		c.unlink(old)
		delete(c.stmts, old.query)
		_ = old.Close()
	}
}

func (c *conn) unlink(s *stmt) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		c.oldest = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		c.newest = s.prev
	}
	s.prev, s.next = nil, nil
}

// fail adds the statement and a code to a driver's error, and remembers one after which the connection is of no more use.
func (c *conn) fail(ctx context.Context, query string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	out := statementError(query, err)
	if c.lost == nil && lostReason(err) != "" && (c.writer || !isBusy(err)) {
		c.lost = out
	}
	return out
}

// execStmt runs a prepared statement that was taken by prepared and gives it back.
func (c *conn) execStmt(ctx context.Context, s *stmt, args []driver.NamedValue) (driver.Result, error) {
	defer c.done(s)
	if s.params >= 0 && s.params != len(args) {
		return nil, statementError(s.query, fmt.Errorf("the statement has %d parameters, %d values were given", s.params, len(args)))
	}
	if !s.returning {
		res, err := s.ExecContext(ctx, args)
		return res, c.fail(ctx, s.query, err)
	}
	// A driver's Exec stops at the first row, which leaves the statement open and would hold up the commit.
	rs, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, c.fail(ctx, s.query, err)
	}
	row := make([]driver.Value, len(rs.Columns()))
	for err == nil {
		err = rs.Next(row)
	}
	if err == io.EOF {
		err = nil
	}
	if err = cmp.Or(err, rs.Close()); err != nil {
		return nil, c.fail(ctx, s.query, err)
	}
	n, err := c.ask(ctx, "SELECT changes()")
	if err != nil {
		return nil, c.fail(ctx, s.query, err)
	}
	changed, _ := n[0][0].(int64)
	return driver.RowsAffected(changed), nil
}

// Exec is the writer's way in, past database/sql.
func (c *conn) Exec(query string, args []any) (driver.Result, error) {
	s, err := c.prepared(query)
	if err != nil {
		return nil, err
	}
	c.args = c.args[:0]
	for i := range args {
		v, err := toValue(args[i])
		if err != nil {
			c.done(s)
			return nil, fmt.Errorf("value %d: %w", i+1, err)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.execStmt(background, s, c.args)
}

// Broken is for Tx.
func (c *conn) Broken() error { return c.lost }

// closeRows closes rows that a transaction's function left open.
func (c *conn) closeRows() {
	for r := range c.open {
		_ = r.Close()
	}
}

// Close finalizes all statements and closes the connection.
func (c *conn) Close() error {
	c.closeRows()
	for s := c.oldest; s != nil; s = s.next {
		_ = s.Close()
	}
	c.oldest, c.newest = nil, nil
	clear(c.stmts)
	for _, s := range c.own {
		_ = s.Close()
	}
	return c.raw.Close()
}

// The methods that database/sql calls.

// CheckNamedValue converts one argument.
func (c *conn) CheckNamedValue(nv *driver.NamedValue) (err error) {
	if nv.Name != "" {
		return errors.New("named SQL parameters are not portable: use ?")
	}
	nv.Value, err = toValue(nv.Value)
	return err
}

// ExecContext runs a statement; with arguments it is prepared and kept, without (bun writes values into the text) it is not.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.prepared(query)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 {
		return c.execStmt(ctx, s, args)
	}
	res, err := c.execStmt(ctx, s, args)
	c.forget(query)
	return res, err
}

// forget closes the kept statement of a text that will hardly come again.
func (c *conn) forget(query string) {
	if s := c.stmts[query]; s != nil {
		c.unlink(s)
		delete(c.stmts, query)
		_ = s.Close()
	}
}

// QueryContext is as ExecContext, for rows.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.prepared(query)
	if err != nil {
		return nil, err
	}
	if s.params >= 0 && s.params != len(args) {
		c.done(s)
		return nil, statementError(s.query, fmt.Errorf("the statement has %d parameters, %d values were given", s.params, len(args)))
	}
	raw, err := s.QueryContext(ctx, args)
	if err != nil {
		c.done(s)
		return nil, c.fail(ctx, query, err)
	}
	r := &rows{Rows: raw, ctx: ctx, c: c, s: s, once: len(args) == 0}
	c.open[r] = struct{}{}
	return r, nil
}

// Prepare is not used: statements are kept by text here.
func (c *conn) Prepare(string) (driver.Stmt, error) {
	return nil, errors.New("prepared statements are kept by db itself: call Query or Exec")
}

// Begin is not used: database/sql calls BeginTx.
func (c *conn) Begin() (driver.Tx, error) { return c.BeginTx(background, driver.TxOptions{}) }

// BeginTx starts a read transaction: all its queries see one snapshot. Writing goes through DB.Tx.
func (c *conn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if _, err := c.raw.ExecContext(ctx, "BEGIN", nil); err != nil {
		return nil, err
	}
	return readTx{c}, nil
}

type readTx struct{ c *conn }

func (t readTx) Commit() error {
	_, err := t.c.raw.ExecContext(background, "COMMIT", nil)
	return err
}

func (t readTx) Rollback() error {
	_, err := t.c.raw.ExecContext(background, "ROLLBACK", nil)
	return err
}

// IsValid tells database/sql whether the connection may go back to the pool. An error of the disk or a lock lets a reader go.
func (c *conn) IsValid() bool { return c.lost == nil }

// rows gives its statement back when closed.
type rows struct {
	driver.Rows
	ctx    context.Context // of the query: whose end is the cause of an interrupted step
	c      *conn
	s      *stmt
	once   bool
	closed bool
}

// Next steps to the next row.
func (r *rows) Next(dest []driver.Value) error {
	if r.closed {
		return errors.New("these rows are closed: their transaction is over")
	}
	err := r.Rows.Next(dest)
	if err != nil && err != io.EOF {
		return r.c.fail(r.ctx, r.s.query, err)
	}
	return err
}

// Close ends the query.
func (r *rows) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	delete(r.c.open, r)
	err := r.Rows.Close()
	r.c.done(r.s)
	if r.once {
		r.c.forget(r.s.query)
	}
	return err
}

// ColumnTypeDatabaseTypeName is asked for by scanners into maps and any.
func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	if t, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return t.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

// ColumnTypeScanType is asked for by scanners into maps and any.
func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	if t, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return t.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}
