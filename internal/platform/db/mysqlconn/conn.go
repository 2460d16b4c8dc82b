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

// rawMySQL is what the driver's connection can do.
type rawMySQL interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// Conn is one connection to MySQL. It stands between database/sql and the driver. It is used by one goroutine at a time.
//
// Values are written into the statement by the driver. Statements prepared on the server gain a point read some tenth to quarter, but
// a server has room for some 16,000 of them in all (max_prepared_stmt_count): fewer than the connections of a few nodes
// times the house's texts.
type Conn struct {
	raw    rawMySQL
	wire   *wire
	mode   Mode
	server *Server
	texts  map[string]*text // checked
	open   map[*kept]struct{}
	args   []driver.NamedValue // reused by exec

	used bool // a transaction is open
	ddl  bool // the transaction's one statement changed the schema, which ended it
	// lost is why the transaction cannot go on: the server undid it, or the connection is gone. A statement that ran would begin
	// another one, of which the commit would make half a transaction. kind says which.
	lost error
	kind Fault
}

// text is a statement that was checked.
type text struct {
	send      string // as the server gets it
	params    int
	ddl       bool
	orNothing bool
}

// OrNothing begins an INSERT on MySQL that does nothing when a key refuses the row. INSERT IGNORE would also cut texts that are too
// long and let other errors pass, and with found rows ON DUPLICATE KEY UPDATE k=k counts a row either way; so it is a plain
// INSERT, and the connection takes the error of the key, and of it alone, as "no row".
const OrNothing = "INSERT /* or nothing */"

const (
	// textsMax bounds the checked statements of one connection. The house has some 300 texts.
	textsMax = 1024
	// keptMax bounds the bytes of one result inside a transaction, which is kept whole.
	keptMax = 64 << 20
)

// What may begin a statement: the rest belongs to the part itself (transactions, settings, locks) or to the server's owner.
var background = context.Background()

var (
	readingVerbs = map[string]bool{"SELECT": true, "WITH": true, "VALUES": true, "(": true, "SHOW": true, "EXPLAIN": true}
	writingVerbs = map[string]bool{"INSERT": true, "UPDATE": true, "DELETE": true, "REPLACE": true}
	schemaVerbs  = map[string]bool{"CREATE": true, "ALTER": true, "DROP": true, "TRUNCATE": true, "RENAME": true}
)

// checked returns the text of a statement, or why it is refused.
func (c *Conn) checked(query string, keep bool) (*text, error) {
	if t := c.texts[query]; t != nil {
		return t, nil
	}
	t, err := c.check(query)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", levee.Shorten(query, 160), err)
	}
	if keep {
		if len(c.texts) >= textsMax {
			clear(c.texts)
		}
		c.texts[query] = t
	}
	return t, nil
}

func (c *Conn) check(query string) (*text, error) {
	parts := sqltext.Split(query)
	if len(parts) != 1 {
		return nil, fmt.Errorf("one SQL statement expected, got %d", len(parts))
	}
	p := parts[0]
	t := &text{send: query, params: p.Params, ddl: schemaVerbs[p.Verb], orNothing: strings.HasPrefix(query, OrNothing)}
	switch {
	case c.mode == ForReading && !readingVerbs[p.Verb]:
		return nil, fmt.Errorf("%s is not allowed here: writing is done by db.Tx", p.Verb)
	case c.mode == ForReading && p.Locking:
		return nil, errors.New("rows are locked inside db.Tx only: outside of it the lock would be gone with the answer")
	case !readingVerbs[p.Verb] && !writingVerbs[p.Verb] && !t.ddl:
		return nil, fmt.Errorf("%s is not allowed here: transactions are run by db.Tx, settings are made by db.Open", p.Verb)
	case p.Params < 0:
		return nil, errors.New("numbered parameters are not portable: use ?")
	case p.Returning:
		return nil, errors.New("RETURNING is not portable: MySQL has none")
	}
	if t.ddl {
		ddl, err := Translate(p, c.server.Collation)
		if err != nil {
			return nil, err
		}
		t.send = ddl
	}
	return t, nil
}

// fail turns a driver's error into one without values and with a code, and remembers one after which the transaction is over.
func (c *Conn) fail(ctx context.Context, query string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		if c.lost == nil {
			c.lost, c.kind = cause, FaultLost // the driver closed it
		}
		return cause
	}
	err = FromServer(err)
	kind, reason := Judge(err, c.wire.late.Load())
	if kind != FaultNone {
		err = sqltext.Unavailable(reason, err)
	}
	err = fmt.Errorf("%q: %w", levee.Shorten(query, 160), err)
	if kind != FaultNone && c.lost == nil {
		c.lost, c.kind = err, kind
	}
	return err
}

// Broken returns why the transaction cannot go on, or nil.
func (c *Conn) Broken() error { return c.lost }

// Exec is Tx's way in, past database/sql.
func (c *Conn) Exec(query string, args []any) (driver.Result, error) {
	t, err := c.checked(query, true)
	if err != nil {
		return nil, err
	}
	c.args = c.args[:0]
	for i := range args {
		v, err := sqltext.Value(args[i])
		if err != nil {
			return nil, fmt.Errorf("value %d: %w", i+1, err)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.run(background, query, t, c.args)
}

// begin is called before each statement.
func (c *Conn) begin(query string, t *text, args int) error {
	switch {
	case c.lost != nil:
		return c.lost
	case t.params != args:
		return fmt.Errorf("%q: the statement has %d parameters, %d values were given", levee.Shorten(query, 160), t.params, args)
	case c.mode != ForWriting:
	case t.ddl && c.used, c.ddl:
		return fmt.Errorf("%q: MySQL ends the transaction when the schema changes: such a statement must be a transaction's only one, "+
			"or stand in a migration", levee.Shorten(query, 160))
	}
	c.used = true
	c.ddl = t.ddl
	return nil
}

func (c *Conn) run(ctx context.Context, query string, t *text, args []driver.NamedValue) (driver.Result, error) {
	if err := c.begin(query, t, len(args)); err != nil {
		return nil, err
	}
	res, err := c.raw.ExecContext(ctx, t.send, args)
	if err == driver.ErrSkip || errors.Is(err, mysql.ErrPktTooLarge) {
		return nil, c.tooLong(query)
	}
	if err = c.fail(ctx, query, err); err != nil {
		if t.orNothing && IsDuplicate(err) {
			return driver.RowsAffected(0), nil
		}
		return nil, err
	}
	return res, nil
}

func (c *Conn) tooLong(query string) error {
	return levee.E(levee.CodeTooLarge, "the statement and its values are longer than the %d bytes that the database server takes "+
		"(max_allowed_packet)", c.server.MaxPacket).Because(fmt.Errorf("%q", levee.Shorten(query, 160)))
}

const (
	// insertMany is the most rows of one INSERT on MySQL, and insertBytes the most bytes of values it begins to have.
	insertMany  = 500
	insertBytes = 1 << 20
)

// InsertRows is for Tx.InsertRows.
func (c *Conn) InsertRows(table string, columns []string, rows [][]any) error {
	head := "INSERT INTO " + table + " (" + strings.Join(columns, ",") + ") VALUES "
	one := "(" + strings.Repeat("?,", len(columns)-1) + "?)"
	limit := min(insertBytes, c.server.MaxPacket/4)
	for done := 0; done < len(rows); {
		c.args = c.args[:0]
		n, size := 0, 0
		for ; n < insertMany && done+n < len(rows) && size < limit; n++ {
			row := rows[done+n]
			if len(row) != len(columns) {
				return fmt.Errorf("row %d has %d values for %d columns", done+n+1, len(row), len(columns))
			}
			for _, given := range row {
				v, err := sqltext.Value(given)
				if err != nil {
					return fmt.Errorf("row %d: %w", done+n+1, err)
				}
				switch x := v.(type) {
				case string:
					size += len(x)
				case []byte:
					size += len(x)
				}
				c.args = append(c.args, driver.NamedValue{Ordinal: len(c.args) + 1, Value: v})
			}
		}
		query := head + strings.Repeat(one+",", n-1) + one
		t := &text{send: query, params: n * len(columns)}
		if _, err := c.run(background, query, t, c.args); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// Command sends one of the part's own statements, past all checks.
func (c *Conn) Command(ctx context.Context, query string) error {
	_, err := c.raw.ExecContext(ctx, query, nil)
	return err
}

// Ask runs a query of the part's own and returns its rows.
func (c *Conn) Ask(ctx context.Context, query string, args ...driver.NamedValue) (out [][]driver.Value, err error) {
	rs, err := c.raw.QueryContext(ctx, query, args)
	if err != nil {
		return nil, err
	}
	k, err := keep(rs)
	if err != nil {
		return nil, err
	}
	for n := len(k.names); len(k.values) > 0; k.values = k.values[n:] {
		out = append(out, k.values[:n])
	}
	return out, nil
}

// CloseRows ends the rows that a transaction's function left open.
func (c *Conn) CloseRows() {
	for r := range c.open {
		r.over = true
	}
	clear(c.open)
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.CloseRows()
	return c.raw.Close()
}

// Send runs one statement of the part's own with its values.
func (c *Conn) Send(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.raw.ExecContext(ctx, query, args)
}

// Fault says what the error that Broken returns means.
func (c *Conn) Fault() Fault { return c.kind }

// Late reports whether a deadline of the connection passed.
func (c *Conn) Late() bool { return c.wire.late.Load() }

// Open reports whether a transaction is open that a commit would end. A change of the schema has ended it by itself.
func (c *Conn) Open() bool { return c.used && !c.ddl }

// ChangedSchema reports whether the transaction's one statement changed the schema.
func (c *Conn) ChangedSchema() bool { return c.ddl }

// Undone says that the transaction was rolled back: what broke it does so no more.
func (c *Conn) Undone() { c.lost = nil }

// Ready makes the connection ready for the next transaction and reports whether it is fit for one.
func (c *Conn) Ready() bool {
	c.used, c.ddl = false, false
	c.CloseRows()
	return c.lost == nil && c.raw.IsValid()
}

// ChangesSchema reports whether a statement that begins with verb changes the schema.
func ChangesSchema(verb string) bool { return schemaVerbs[verb] }

// Writes reports whether a statement that begins with verb changes rows.
func Writes(verb string) bool { return writingVerbs[verb] }

// The methods that database/sql calls.

// CheckNamedValue converts one argument.
func (c *Conn) CheckNamedValue(nv *driver.NamedValue) (err error) {
	if nv.Name != "" {
		return errors.New("named SQL parameters are not portable: use ?")
	}
	nv.Value, err = sqltext.Value(nv.Value)
	return err
}

// ExecContext runs a statement.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	t, err := c.checked(query, len(args) > 0)
	if err != nil {
		return nil, err
	}
	return c.run(ctx, query, t, args)
}

// QueryContext runs a query. Inside a transaction the rows are read at once and kept, because a MySQL connection does nothing else
// until the last row is read, and functions run statements between the rows of another.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	t, err := c.checked(query, len(args) > 0)
	if err != nil {
		return nil, err
	}
	if err := c.begin(query, t, len(args)); err != nil {
		return nil, err
	}
	rs, err := c.raw.QueryContext(ctx, t.send, args)
	if err == driver.ErrSkip || errors.Is(err, mysql.ErrPktTooLarge) {
		return nil, c.tooLong(query)
	}
	if c.mode != ForWriting {
		if err != nil {
			return nil, c.failReading(ctx, query, err)
		}
		return &streamed{Rows: rs, ctx: ctx, c: c, query: query, kinds: kindsOf(rs)}, nil
	}
	if err != nil {
		return nil, c.fail(ctx, query, err)
	}
	k, err := keep(rs)
	if err != nil {
		return nil, c.fail(ctx, query, err)
	}
	k.c = c
	c.open[k] = struct{}{}
	return k, nil
}

// failReading has database/sql try another connection when this one turns out to be gone: a query may be repeated.
func (c *Conn) failReading(ctx context.Context, query string, err error) error {
	err = c.fail(ctx, query, err)
	if c.lost != nil && c.kind == FaultLost && ctx.Err() == nil {
		return driver.ErrBadConn
	}
	return err
}

// Prepare is not used: values are written into statements.
func (c *Conn) Prepare(string) (driver.Stmt, error) {
	return nil, errors.New("statements are not prepared on MySQL: call Query or Exec")
}

// Begin is not used: database/sql calls BeginTx.
func (c *Conn) Begin() (driver.Tx, error) { return c.BeginTx(background, driver.TxOptions{}) }

// BeginTx starts a read transaction: all its queries see one snapshot. Writing goes through DB.Tx.
func (c *Conn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	for _, q := range []string{"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"} {
		if err := c.Command(ctx, q); err != nil {
			return nil, c.failReading(ctx, q, err)
		}
	}
	return mySnapshot{c}, nil
}

type mySnapshot struct{ c *Conn }

// Commit ends the snapshot.
func (s mySnapshot) Commit() error { return s.end("COMMIT") }

// Rollback ends the snapshot.
func (s mySnapshot) Rollback() error { return s.end("ROLLBACK") }

func (s mySnapshot) end(q string) error {
	if s.c.lost != nil {
		return nil // the snapshot went with the connection
	}
	return s.c.fail(background, q, s.c.Command(background, q))
}

// ResetSession looks whether the server has closed the connection while it lay idle.
func (c *Conn) ResetSession(ctx context.Context) error {
	if c.lost != nil {
		return driver.ErrBadConn
	}
	return c.raw.ResetSession(ctx)
}

// IsValid tells database/sql whether the connection may go back to the pool.
func (c *Conn) IsValid() bool { return c.lost == nil && c.raw.IsValid() }
