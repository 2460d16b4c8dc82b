package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"levee"
)

// The states of a transaction. A caller may withdraw it only while it is queued.
const (
	txQueued = iota
	txRunning
	txWithdrawn
	txOver
)

// session is one connection while a transaction has it.
type session interface {
	Exec(query string, args []any) (driver.Result, error)
	InsertRows(table string, columns []string, rows [][]any) error
	// Broken returns the error after which nothing more can be done in this transaction, or nil.
	Broken() error
}

// Tx is one transaction while its function runs. It belongs to the goroutine that runs the function and refuses everything
// after it. Rows that the function leaves open are closed when it returns.
type Tx struct {
	session session
	sql     *sql.Conn // over session, for builders and rows

	d    *DB
	name string
	fn   func(ctx context.Context, tx *Tx) error
	ctx  txContext
	done chan struct{} // one token: the outcome is known

	state    atomic.Int32
	after    []func()
	inOrder  []func() // of AtCommit
	err      error
	panicked any
	goexit   bool
	house    func(c *conn) error // instead of fn: the part's own work, outside of groups
}

// finish tells the caller that the outcome is known.
func (t *Tx) finish() {
	t.state.Store(txOver)
	t.done <- struct{}{}
}

// txContext is the context of a transaction's function: the caller's values without its end, because a transaction that has
// begun runs to its end, and with a mark by which a transaction inside a transaction is refused.
type txContext struct {
	parent context.Context
	tx     *Tx
}

type txKey struct{}

// Deadline: a begun transaction has none.
func (*txContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done never fires: a begun transaction is not cancelled.
func (*txContext) Done() <-chan struct{} { return nil }

// Err is always nil, as Done never fires.
func (*txContext) Err() error { return nil }

// Value returns the caller's values.
func (c *txContext) Value(key any) any {
	if key == (txKey{}) {
		return c.tx
	}
	return c.parent.Value(key)
}

// Tx runs fn as one transaction and returns after its commit is durable. name appears in logs and metrics
// ("order.cancel"); it must come from a small fixed set.
//
// What fn reads stays true until the commit: it may read, decide and write as if nobody else wrote meanwhile (SQLite: one
// transaction at a time; MySQL: isolation SERIALIZABLE). fn may be run more than once: on MySQL a deadlock, a lock that was waited
// for too long or a connection that broke before the commit undoes what it did and runs it again. So it must be repeatable: it
// sets what it hands out rather than adding to it, and does nothing outside of the database but through AfterCommit and AtCommit,
// of which only those of the last run are called. It runs on the caller's goroutine or on another, and must not wait for
// anything but the database, because others wait for its locks (SQLite: all writers).
//
// An error of fn undoes what fn did and is returned as it is. A panic of fn undoes it too and is raised again in the caller. When
// ctx ends before fn has begun, it is not run and ctx's error is returned; once begun it runs to its end and the caller gets the
// true outcome.
//
// CodeUnavailable: too many wait, the database is out of reach, it was undone again and again by others, or the commit failed;
// nothing was changed and the caller may try again. One case is different: when the connection breaks after the commit was sent
// and before its answer came, nobody knows whether it is committed; the error says so and OutcomeUnknown reports it. (On SQLite,
// if the machine itself dies in the instant of a failed flush, the group may be found committed afterwards.) Whoever repeats
// work needs an idempotency key anyway. Calling Tx inside fn is a bug and CodeInternal.
func (d *DB) Tx(ctx context.Context, name string, fn func(ctx context.Context, tx *Tx) error) error {
	if outer, _ := ctx.Value(txKey{}).(*Tx); outer != nil && outer.state.Load() != txOver {
		return levee.E(levee.CodeInternal, "db.Tx %q was called inside db.Tx %q: use the Tx that is there (a method ending in Tx)",
			name, outer.name)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t := &Tx{d: d, name: name, fn: fn, done: make(chan struct{}, 1)}
	t.ctx = txContext{parent: ctx, tx: t}
	if err := d.engine.transact(ctx, t); err != nil {
		if OutcomeUnknown(err) {
			NoteWrite(ctx)
		}
		return err
	}
	switch {
	case t.panicked != nil:
		panic(t.panicked)
	case t.goexit:
		runtime.Goexit()
	case t.err != nil:
		return t.err
	}
	NoteWrite(ctx)
	for _, f := range t.after {
		f()
	}
	return nil
}

// call runs the function and turns a panic into an error; the value is raised again in the caller.
func (t *Tx) call() (err error) {
	defer func() {
		if v := recover(); v != nil {
			t.panicked = v
			t.d.log.Error("panic inside a transaction", "tx", t.name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = errors.New("panic inside a transaction")
		}
	}()
	t.after, t.inOrder = nil, nil
	begun := time.Now()
	err = t.fn(&t.ctx, t)
	slow := slowTx
	if t.d.dialect.mysql {
		slow = slowMySQLTx
	}
	if took := time.Since(begun); took > slow {
		t.d.log.Warn("slow transaction: others waited for it", "tx", t.name, "took", took)
	}
	return err
}

const (
	// slowTx is from when a transaction is logged on SQLite: at this length it is what all other writers wait for.
	slowTx = 100 * time.Millisecond
	// slowMySQLTx is the same on MySQL, where only those wait who want the same rows, and where it may itself have waited.
	slowMySQLTx = time.Second
)

// usable refuses statements after the function's end: they would run inside somebody else's transaction.
func (t *Tx) usable() error {
	if t.state.Load() != txRunning {
		return levee.E(levee.CodeInternal, "the transaction %q is over: its Tx must not be kept", t.name)
	}
	return t.session.Broken()
}

// InsertRows inserts rows in statements of many rows each. Each row has one value per column, of the types Exec takes. It is
// all or nothing only together with the transaction: after an error the function should return it.
func (t *Tx) InsertRows(_ context.Context, table string, columns []string, rows [][]any) error {
	if err := t.usable(); err != nil {
		return err
	}
	if len(rows) == 0 {
		return nil
	}
	if len(columns) == 0 || len(columns) > insertParamsMax {
		return levee.Invalid("columns", fmt.Sprintf("1 to %d names", insertParamsMax), len(columns))
	}
	return t.session.InsertRows(table, columns, rows)
}

// Exec runs a statement, prepared and kept by its text. An UPDATE reports the rows it matched, also where nothing changed.
// A row that a unique key refuses is told by IsUnique; the transaction may go on after it.
func (t *Tx) Exec(_ context.Context, query string, args ...any) (Result, error) {
	if err := t.usable(); err != nil {
		return nil, err
	}
	return t.session.Exec(query, args)
}

// Query runs a prepared query inside the transaction: it sees what the transaction wrote. ctx does not end it.
func (t *Tx) Query(_ context.Context, query string, args ...any) (*Rows, error) {
	if err := t.usable(); err != nil {
		return nil, err
	}
	return t.sql.QueryContext(background, query, args...)
}

// QueryRow is Query for at most one row; Scan returns ErrNoRows when there is none.
func (t *Tx) QueryRow(_ context.Context, query string, args ...any) *Row {
	if err := t.usable(); err != nil {
		return rowOf(err)
	}
	return t.sql.QueryRowContext(background, query, args...)
}

// rowOf makes a Row whose Scan returns err; database/sql has no other way to one.
func rowOf(err error) *Row {
	pool := sql.OpenDB(failingConnector{err})
	defer pool.Close()
	return pool.QueryRowContext(background, "")
}

// AfterCommit has fn run after the commit is on disk, in the caller's goroutine, before Tx returns. It does not run when the
// transaction fails. It may call Tx with a context from outside.
func (t *Tx) AfterCommit(fn func()) { t.after = append(t.after, fn) }

// AtCommit has fn run in the order of the commits: when the commit is durable, before any later transaction of this process that
// has such functions too commits, and before the caller learns of it (SQLite: before any later transaction begins). What must
// follow SQL step by step in memory goes here. All who have such functions wait for it, so it must be short, must not touch the
// database and must not panic. It orders the commits of one process only: other processes' commits come in between.
func (t *Tx) AtCommit(fn func()) { t.inOrder = append(t.inOrder, fn) }

// Bun returns the transaction for bun's builder. Its texts hold their values, so they are not kept prepared: hot paths use
// Exec and InsertRows.
func (t *Tx) Bun() bun.IDB { return txBun{t} }

type txBun struct{ t *Tx }

var _ bun.IDB = txBun{}

func (b txBun) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	if err := b.t.usable(); err != nil {
		return nil, err
	}
	return b.t.sql.ExecContext(background, b.format(query, args))
}

func (b txBun) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := b.t.usable(); err != nil {
		return nil, err
	}
	return b.t.sql.QueryContext(background, b.format(query, args))
}

func (b txBun) QueryRowContext(_ context.Context, query string, args ...any) *sql.Row {
	if err := b.t.usable(); err != nil {
		return rowOf(err)
	}
	return b.t.sql.QueryRowContext(background, b.format(query, args))
}

func (b txBun) Dialect() schema.Dialect { return b.t.d.bun.Dialect() }

func (b txBun) db() *bun.DB { return b.t.d.bun }

func (b txBun) format(query string, args []any) string {
	return b.db().QueryGen().FormatQuery(query, args...)
}

func (b txBun) NewValues(model any) *bun.ValuesQuery {
	return bun.NewValuesQuery(b.db(), model).Conn(b)
}
func (b txBun) NewSelect() *bun.SelectQuery { return bun.NewSelectQuery(b.db()).Conn(b) }
func (b txBun) NewInsert() *bun.InsertQuery { return bun.NewInsertQuery(b.db()).Conn(b) }
func (b txBun) NewUpdate() *bun.UpdateQuery { return bun.NewUpdateQuery(b.db()).Conn(b) }
func (b txBun) NewDelete() *bun.DeleteQuery { return bun.NewDeleteQuery(b.db()).Conn(b) }
func (b txBun) NewMerge() *bun.MergeQuery   { return bun.NewMergeQuery(b.db()).Conn(b) }
func (b txBun) NewRaw(q string, args ...any) *bun.RawQuery {
	return bun.NewRawQuery(b.db(), q, args...).Conn(b)
}
func (b txBun) NewCreateTable() *bun.CreateTableQuery { return bun.NewCreateTableQuery(b.db()).Conn(b) }
func (b txBun) NewDropTable() *bun.DropTableQuery     { return bun.NewDropTableQuery(b.db()).Conn(b) }
func (b txBun) NewCreateIndex() *bun.CreateIndexQuery { return bun.NewCreateIndexQuery(b.db()).Conn(b) }
func (b txBun) NewDropIndex() *bun.DropIndexQuery     { return bun.NewDropIndexQuery(b.db()).Conn(b) }
func (b txBun) NewTruncateTable() *bun.TruncateTableQuery {
	return bun.NewTruncateTableQuery(b.db()).Conn(b)
}
func (b txBun) NewAddColumn() *bun.AddColumnQuery   { return bun.NewAddColumnQuery(b.db()).Conn(b) }
func (b txBun) NewDropColumn() *bun.DropColumnQuery { return bun.NewDropColumnQuery(b.db()).Conn(b) }

func (b txBun) BeginTx(context.Context, *sql.TxOptions) (bun.Tx, error) {
	return bun.Tx{}, errNested
}

func (b txBun) RunInTx(context.Context, *sql.TxOptions, func(context.Context, bun.Tx) error) error {
	return errNested
}

var errNested = levee.E(levee.CodeInternal, "a transaction inside db.Tx is refused: use the one that is there")
