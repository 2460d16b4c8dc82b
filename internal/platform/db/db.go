// Package db owns the house's SQL database: SQLite in one file, as one type with one writer and a pool of readers.
//
// All writing goes through DB.Tx. The writer's goroutine runs the transactions of all callers who wait, each inside its own
// savepoint, and commits them together (group commit, synchronous=FULL), so one flush of the disk serves many callers and an
// answer is given only after what it says is on disk. Reading goes through a pool of connections that see committed
// snapshots and never wait for the writer. The package also owns the schema's migrations and the differences between SQL
// engines (Dialect). It owns no table but db_migration, and does not know what its users store.
package db

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"levee"
	"levee/internal/platform/obs"
)

// The types of database/sql that callers hold, so that they need not import it.
type (
	Rows       = sql.Rows
	Row        = sql.Row
	Result     = sql.Result
	NullInt64  = sql.NullInt64
	NullString = sql.NullString
)

// ErrNoRows is returned by Row.Scan when the query found nothing.
var ErrNoRows = sql.ErrNoRows

// Config says where the database is and how it is used. Only URL is required.
type Config struct {
	// URL is sqlite:<path of the file>, relative to the working folder or absolute. The folder is made. The file must lie on a
	// local disk: file locks and shared memory do not work on network shares.
	URL string
	// Readers is the size of the reader pool, from 1× to 4× the number of CPUs. Default 2×. Too few make readers wait for each
	// other; too many take the CPU from the writer.
	Readers int
	// GroupMax is the most transactions in one commit, from 1 to 4096. Default 256. At 1 every transaction pays its own flush of
	// the disk; at the top the first member of a group waits for all others to run.
	GroupMax int
	// QueueMax is the most callers that may wait for the writer, from 1 to 1,048,576. Default 16384. Beyond it Tx returns
	// CodeUnavailable at once. Too high a limit turns an overload into long waits.
	QueueMax int
	// BusyTimeout is how long to wait for another process's lock on the file, from 1 ms to 1 minute. Default 5 s.
	BusyTimeout time.Duration
}

// groupTime bounds how long a group goes on taking members, so that the first is not kept from its commit by slow followers.
const groupTime = 10 * time.Millisecond

// normal fills in defaults and checks the bounds.
func (c Config) normal() (Config, error) {
	cores := runtime.GOMAXPROCS(0)
	if c.Readers == 0 {
		c.Readers = 2 * cores
	}
	if c.GroupMax == 0 {
		c.GroupMax = 256
	}
	if c.QueueMax == 0 {
		c.QueueMax = 16384
	}
	if c.BusyTimeout == 0 {
		c.BusyTimeout = 5 * time.Second
	}
	switch {
	case c.Readers < cores || c.Readers > 4*cores:
		return c, levee.Invalid("db.readers", fmt.Sprintf("from %d to %d (1 to 4 times the CPUs)", cores, 4*cores), c.Readers)
	case c.GroupMax < 1 || c.GroupMax > 4096:
		return c, levee.Invalid("db.group_max", "from 1 to 4096", c.GroupMax)
	case c.QueueMax < 1 || c.QueueMax > 1<<20:
		return c, levee.Invalid("db.queue_max", "from 1 to 1048576", c.QueueMax)
	case c.BusyTimeout < time.Millisecond || c.BusyTimeout > time.Minute:
		return c, levee.Invalid("db.busy_timeout", "from 1ms to 1m", c.BusyTimeout)
	}
	return c, nil
}

// DB is the database. It is safe for use by many goroutines.
type DB struct {
	cfg     Config
	file    file
	log     *slog.Logger
	clock   obs.Clock
	metrics *metrics

	readers *sql.DB
	bun     *bun.DB // over readers
	writer  *writer
	keeper  *keeper // checkpoints
	handle  *handle

	closeOnce sync.Once
	closeErr  error
}

// Open opens the database and proves that it can be written. It refuses, with an error that says what to do, a file that
// another process keeps locked (CodeUnavailable), that is damaged or no database, that belongs to another program, that a
// newer version wrote, or that may not be written.
func Open(ctx context.Context, cfg Config, o *obs.Obs) (_ *DB, err error) {
	defer levee.Wrap(&err, "db.Open(%q)", cfg.URL)
	if cfg, err = cfg.normal(); err != nil {
		return nil, err
	}
	f, err := parseURL(cfg.URL, cfg.BusyTimeout)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := f.prepare(); err != nil {
		return nil, err
	}
	h, err := openHandle(f.path)
	if err != nil {
		return nil, err
	}
	d := &DB{cfg: cfg, handle: h, file: f, log: o.Named("db"), clock: o.Clock, metrics: newMetrics(o.Metrics)}
	d.readers = sql.OpenDB(readerConnector{f})
	d.readers.SetMaxOpenConns(cfg.Readers)
	d.readers.SetMaxIdleConns(cfg.Readers)
	d.bun = bun.NewDB(d.readers, sqlitedialect.New(), bun.WithDiscardUnknownColumns())
	d.writer = newWriter(d)
	d.keeper = newKeeper(d)
	go d.writer.run(false)
	go d.keeper.run()
	return d, nil
}

// Close waits until the transactions that are queued have run and closes the file. Tx and reads called later fail. It may be
// called more than once.
func (d *DB) Close() (err error) {
	d.closeOnce.Do(func() {
		d.closeErr = d.close()
	})
	return d.closeErr
}

func (d *DB) close() (err error) {
	defer levee.Wrap(&err, "db.Close")
	d.keeper.stop()
	d.writer.stop()
	err = d.readers.Close()
	// The last connection moves the log into the file and removes it.
	if e := d.writer.drop(); err == nil {
		err = e
	}
	if e := d.handle.close(); err == nil {
		err = e
	}
	return err
}

// Read returns the reader pool for bun's builder. Each query sees a snapshot of what is committed, also when it is called
// inside Tx; BeginTx gives several queries one snapshot. Writing through it is refused.
func (d *DB) Read(context.Context) bun.IDB { return d.bun }

// Query runs a prepared query on the reader pool. It sees what is committed. The rows must be closed.
func (d *DB) Query(ctx context.Context, query string, args ...any) (*Rows, error) {
	return d.readers.QueryContext(ctx, query, args...)
}

// QueryRow is Query for at most one row; Scan returns ErrNoRows when there is none. Scan must be called.
func (d *DB) QueryRow(ctx context.Context, query string, args ...any) *Row {
	return d.readers.QueryRowContext(ctx, query, args...)
}

// Dialect returns what differs between SQL engines.
func (d *DB) Dialect() Dialect { return Dialect{} }

// Ping runs an empty transaction and a read: it fails when the writer is stuck or the file is out of reach.
func (d *DB) Ping(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "db.Ping")
	var one int
	if err := d.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return err
	}
	return d.Tx(ctx, "db.ping", func(ctx context.Context, tx *Tx) error {
		return tx.QueryRow(ctx, "SELECT 1").Scan(&one)
	})
}

// CheckIntegrity reads the whole file and verifies its structure (PRAGMA quick_check). It takes seconds per gigabyte and
// disturbs nobody but the disk. Damage is CodeInternal and names the first places.
func (d *DB) CheckIntegrity(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "db.CheckIntegrity")
	c, err := d.file.open(false)
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Close(); err == nil {
			err = e
		}
	}()
	found, err := c.ask(ctx, "PRAGMA quick_check(10)")
	if err != nil {
		return err
	}
	if len(found) != 1 || fmt.Sprint(found[0][0]) != "ok" {
		return levee.E(levee.CodeInternal, "the database file %s is damaged: %v; restore it from a backup", d.file.path, found)
	}
	return nil
}

// Stats is a view of the database's work since it was opened.
type Stats struct {
	Driver       string // mattn or modernc
	File         string
	FileBytes    int64
	WALBytes     int64
	Transactions int64 // members of groups that were committed
	Commits      int64 // groups that were committed
	RolledBack   int64 // transactions whose function failed
	Failed       int64 // groups that could not be committed
	Queue        int   // callers waiting for the writer now
	ReadersBusy  int
	Readers      int
}

// Stats returns the numbers.
func (d *DB) Stats() Stats {
	s := Stats{
		Driver: driverName, File: d.file.path, Readers: d.cfg.Readers, ReadersBusy: d.readers.Stats().InUse,
		Queue:        d.writer.queue.len(),
		Transactions: d.writer.committed.Load(), Commits: d.writer.commits.Load(),
		RolledBack: d.writer.rolledBack.Load(), Failed: d.writer.failed.Load(),
	}
	if st, err := os.Stat(d.file.path); err == nil {
		s.FileBytes = st.Size()
	}
	if st, err := os.Stat(d.file.path + "-wal"); err == nil {
		s.WALBytes = st.Size()
	}
	return s
}
