package db

import (
	"context"
	"database/sql"
	"runtime"
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

// Tx is one transaction while its function runs. It belongs to the goroutine that runs the function and refuses everything
// after it. Rows that the function leaves open are closed when it returns.
type Tx struct {
	w    *writer
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

// Tx runs fn as one transaction and returns after its commit is on disk. name appears in logs and metrics
// ("order.cancel"); it must come from a small fixed set.
//
// Transactions run one at a time, on another goroutine than the caller's, so fn sees all earlier ones and nobody disturbs it;
// it must not wait for anything but the database, because all writers wait for it. An error of fn undoes what fn did and is
// returned as it is. A panic of fn undoes it too and is raised again in the caller. When ctx ends while the transaction is
// queued, it is not run and ctx's error is returned; once begun it runs to the end and the caller gets the true outcome.
//
// CodeUnavailable: the queue is full, another process holds the file's lock, or the commit failed (disk full, I/O error);
// nothing was changed and the caller may try again. (If the machine itself dies in the instant of a failed flush, the group may
// be found committed afterwards: whoever repeats work needs an idempotency key anyway.) Calling Tx inside fn is a bug and
// CodeInternal.
func (d *DB) Tx(ctx context.Context, name string, fn func(ctx context.Context, tx *Tx) error) error {
	if outer, _ := ctx.Value(txKey{}).(*Tx); outer != nil && outer.state.Load() != txOver {
		return levee.E(levee.CodeInternal, "db.Tx %q was called inside db.Tx %q: use the Tx that is there (a method ending in Tx)",
			name, outer.name)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t := &Tx{w: d.writer, name: name, fn: fn, done: make(chan struct{}, 1)}
	t.ctx = txContext{parent: ctx, tx: t}
	if err := d.writer.queue.push(t); err != nil {
		return err
	}
	if end := ctx.Done(); end == nil {
		<-t.done
	} else {
		select {
		case <-t.done:
		case <-end:
			if t.state.CompareAndSwap(txQueued, txWithdrawn) {
				return ctx.Err()
			}
			<-t.done
		}
	}
	switch {
	case t.panicked != nil:
		panic(t.panicked)
	case t.goexit:
		runtime.Goexit()
	case t.err != nil:
		return t.err
	}
	for _, f := range t.after {
		f()
	}
	return nil
}

// usable refuses statements after the function's end: they would run inside somebody else's transaction.
func (t *Tx) usable() error {
	if t.state.Load() != txRunning {
		return levee.E(levee.CodeInternal, "the transaction %q is over: its Tx must not be kept", t.name)
	}
	return t.w.conn.lost
}

// Exec runs a statement, prepared and kept by its text. An UPDATE reports the rows it matched, also where nothing changed.
// A row that a unique key refuses is told by IsUnique; the transaction may go on after it.
func (t *Tx) Exec(_ context.Context, query string, args ...any) (Result, error) {
	if err := t.usable(); err != nil {
		return nil, err
	}
	return t.w.conn.exec(query, args)
}

// Query runs a prepared query inside the transaction: it sees what the transaction wrote. ctx does not end it.
func (t *Tx) Query(_ context.Context, query string, args ...any) (*Rows, error) {
	if err := t.usable(); err != nil {
		return nil, err
	}
	return t.w.bun.Conn.QueryContext(background, query, args...)
}

// QueryRow is Query for at most one row; Scan returns ErrNoRows when there is none.
func (t *Tx) QueryRow(_ context.Context, query string, args ...any) *Row {
	if err := t.usable(); err != nil {
		return rowOf(err)
	}
	return t.w.bun.Conn.QueryRowContext(background, query, args...)
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

// AtCommit has fn run in the order of the commits: when the commit is on disk, before any later transaction begins and before
// anybody learns of it. What must follow SQL step by step in memory goes here. It runs on the writer's goroutine, so it must be
// short, must not touch the database and must not panic.
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
	return b.t.w.bun.ExecContext(background, query, args...)
}

func (b txBun) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := b.t.usable(); err != nil {
		return nil, err
	}
	return b.t.w.bun.QueryContext(background, query, args...)
}

func (b txBun) QueryRowContext(_ context.Context, query string, args ...any) *sql.Row {
	if err := b.t.usable(); err != nil {
		return rowOf(err)
	}
	return b.t.w.bun.QueryRowContext(background, query, args...)
}

func (b txBun) Dialect() schema.Dialect { return b.t.w.d.bun.Dialect() }

func (b txBun) db() *bun.DB { return b.t.w.d.bun }

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
