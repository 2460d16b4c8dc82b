// Package db owns the house's SQL database. It is one type over two engines: SQLite in one file, with one writer and a pool of
// readers, and MySQL or MariaDB over the network, with many writers on many nodes.
//
// All writing goes through DB.Tx, which promises the same on both: what the function read is still true when its writes are
// committed, and an answer is given only after what it says is durable. On SQLite the writer's goroutine runs the transactions
// of all callers who wait, each inside its own savepoint, and commits them together (group commit, synchronous=FULL), so one
// flush of the disk serves many callers. On MySQL each caller has a connection, the isolation is SERIALIZABLE, and a
// transaction that another one's locks undid is run again. Reading goes through a pool of connections that see what is committed
// and never wait for a writer. The package also owns the schema's migrations and the differences between SQL engines (Dialect).
// It owns no table but db_migration (and on MySQL db_step), and does not know what its users store.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"levee"
	"levee/internal/platform/db/bastion"
	"levee/internal/platform/db/mysqlconn"
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
	// URL is sqlite:<path of the file>, relative to the working folder or absolute; the folder is made, and must lie on a local
	// disk: file locks and shared memory do not work on network shares. Or mysql://USER@HOST:PORT/DATABASE for MySQL from 8.0.17
	// or MariaDB from 10.6 on; the port is 3306 if left out, and the database must exist. It may go on with ?tls=on (the server's
	// certificate is checked against the system's authorities), tls_ca=<file of another authority>, connect_timeout=<1s to 1m,
	// default 5s> and answer_timeout=<1s to 10m, default 10s>, after which a server that does not answer counts as lost.
	URL string
	// Password is for MySQL. It never stands in the URL.
	Password obs.Secret
	// Readers is the size of the reader pool: on SQLite from 1× to 4× the number of CPUs, default 2×; too few make readers wait for
	// each other, too many take the CPU from the writer. On MySQL from 1 to 1024 connections, default 16.
	Readers int
	// Writers is the most transactions under way at once on MySQL, each with its connection, from 1 to 1024. Default 24. The sum of
	// Readers and Writers of all nodes must stay under the server's max_connections. SQLite has one writer and takes no other value
	// than 0.
	Writers int
	// GroupMax is the most transactions in one commit of SQLite, from 1 to 4096. Default 256. At 1 every transaction pays its own
	// flush of the disk; at the top the first member of a group waits for all others to run.
	GroupMax int
	// QueueMax is the most callers that may wait for a writer, from 1 to 1,048,576. Default 16384. Beyond it Tx returns
	// CodeUnavailable at once. Too high a limit turns an overload into long waits.
	QueueMax int
	// BusyTimeout is how long to wait for a lock, from 1 ms to 1 minute. Default 5 s. On SQLite another process's lock on the file; on
	// MySQL another transaction's lock on a row, in whole seconds, rounded up.
	BusyTimeout time.Duration
	// Bastion is an SSH server through which MySQL and its replicas are reached, user@host or user@host:port; their names and addresses are
	// then those that the bastion knows. One SSH connection per node carries all; it is made again when it breaks. Default: none.
	Bastion string
	// BastionKeyFile is the file of the user's private key, without a passphrase, which not everybody may read. Needed with Bastion. It is
	// read at each SSH connection.
	BastionKeyFile string
	// BastionKnownHosts is a file with the bastion's host keys in the form of known_hosts (ssh-keyscan prints it), which not everybody may
	// write. Needed with Bastion: the key that the bastion shows must be in it, and there is no way to leave the check out. It is read at each
	// SSH connection.
	BastionKnownHosts string
	// Replicas are up to 8 URLs of MySQL replicas of URL, with the same user, password and form. A read goes to one only when its
	// context asks for it (Using), and never to one that may lack what is older than ReplicaLag. The replicas must commit in the
	// primary's order (as MariaDB does, and MySQL from 8.0.27 on).
	Replicas []string
	// ReplicaLag is how far behind a replica may be and still be read, from 2 s to 1 minute. Default 3 s.
	ReplicaLag time.Duration
	// StickyFor is how long after a write a session that carries a Marker reads the primary, from ReplicaLag to 10 minutes. Default 5 s,
	// or ReplicaLag if that is more.
	StickyFor time.Duration
	// RunTwice has the function of every Tx run, undone, and run again, as MySQL does after a deadlock. For tests: what goes wrong
	// then is a function that must not be run twice.
	RunTwice bool
	// ReadReplicas is for tests. "unmarked" has every read go to a replica whose context does not say Primary: what goes wrong then is a
	// read that decides something and does not say so. "all" does not listen to Primary either, and shows what it is good for.
	ReadReplicas string
}

// groupTime bounds how long a group goes on taking members, so that the first is not kept from its commit by slow followers.
const groupTime = 10 * time.Millisecond

// poolMax bounds the connections to a MySQL server, per kind.
const poolMax = 1024

// normal fills in defaults and checks the bounds.
func (c Config) normal() (Config, error) {
	cores := runtime.GOMAXPROCS(0)
	if c.Bastion == "" && c.BastionKeyFile+c.BastionKnownHosts != "" {
		return c, levee.Invalid("db.bastion", "given with db.bastion_key_file and db.bastion_known_hosts", "")
	}
	readersMin, readersMax, readersAllowed := cores, 4*cores, fmt.Sprintf("from %d to %d (1 to 4 times the CPUs)", cores, 4*cores)
	switch {
	case c.isMySQL():
		readersMin, readersMax, readersAllowed = 1, poolMax, fmt.Sprintf("from 1 to %d", poolMax)
		if c.Readers == 0 {
			c.Readers = 16
		}
		if c.Writers == 0 {
			c.Writers = 24
		}
		if c.Writers < 1 || c.Writers > poolMax {
			return c, levee.Invalid("db.writers", fmt.Sprintf("from 1 to %d", poolMax), c.Writers)
		}
	case len(c.Replicas) > 0:
		return c, levee.Invalid("db.replicas", "empty with sqlite:", len(c.Replicas))
	case c.Writers != 0:
		return c, levee.Invalid("db.writers", "0 with sqlite:, which has one writer", c.Writers)
	case c.Bastion != "":
		return c, levee.Invalid("db.bastion", "empty with sqlite:", c.Bastion)
	case c.Password != "":
		return c, levee.Invalid("db.password", "empty with sqlite:", c.Password)
	}
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
	if c.ReplicaLag == 0 {
		c.ReplicaLag = 3 * time.Second
	}
	if c.StickyFor == 0 {
		c.StickyFor = max(5*time.Second, c.ReplicaLag)
	}
	switch {
	case len(c.Replicas) > replicasMax:
		return c, levee.Invalid("db.replicas", fmt.Sprintf("at most %d", replicasMax), len(c.Replicas))
	case c.ReplicaLag < 2*time.Second || c.ReplicaLag > time.Minute:
		return c, levee.Invalid("db.replica_lag", "from 2s to 1m", c.ReplicaLag)
	case c.StickyFor < c.ReplicaLag || c.StickyFor > 10*time.Minute:
		return c, levee.Invalid("db.sticky_for", "from db.replica_lag to 10m", c.StickyFor)
	case c.Readers < readersMin || c.Readers > readersMax:
		return c, levee.Invalid("db.readers", readersAllowed, c.Readers)
	case c.GroupMax < 1 || c.GroupMax > 4096:
		return c, levee.Invalid("db.group_max", "from 1 to 4096", c.GroupMax)
	case c.QueueMax < 1 || c.QueueMax > 1<<20:
		return c, levee.Invalid("db.queue_max", "from 1 to 1048576", c.QueueMax)
	case c.BusyTimeout < time.Millisecond || c.BusyTimeout > time.Minute:
		return c, levee.Invalid("db.busy_timeout", "from 1ms to 1m", c.BusyTimeout)
	}
	return c, nil
}

// Connections is the most that one process opens to a MySQL server: both pools, and some for migrations and heartbeats.
func (c Config) Connections() (int, error) {
	c, err := c.normal()
	return c.Readers + c.Writers + 4, err
}

// Tunnel is the way through the bastion for who connects without Open, and closes it himself; nil without a Bastion. It connects to nothing
// yet. Faults of the three fields are CodeInvalid.
func (c Config) Tunnel(log *slog.Logger) (*bastion.Tunnel, error) {
	if c.Bastion == "" {
		return nil, nil
	}
	return bastion.Open(bastion.Config{Address: c.Bastion, KeyFile: c.BastionKeyFile, KnownHosts: c.BastionKnownHosts}, log)
}

func (c Config) isMySQL() bool { return strings.HasPrefix(c.URL, "mysql:") }

// engine is what SQLite and MySQL do each in its own way.
type engine interface {
	// transact runs the transaction and leaves its outcome in t: err, panicked or goexit, and the functions to call after it. The
	// error it returns is that of a transaction that has not begun.
	transact(ctx context.Context, t *Tx) error
	// apply runs one migration, unless another process was faster.
	apply(ctx context.Context, d *DB, m migration) (ran bool, err error)
	// check verifies what is stored.
	check(ctx context.Context, d *DB) error
	stats(out *Stats)
	// close lets the transactions under way end and closes all connections, the readers' too.
	close(readers *sql.DB) error
}

// DB is the database. It is safe for use by many goroutines.
type DB struct {
	cfg     Config
	log     *slog.Logger
	clock   obs.Clock
	metrics *metrics
	dialect Dialect

	engine  engine
	readers *sql.DB
	bun     *bun.DB // over readers
	// replicas and tunnel are nil when there are none.
	replicas *replicas
	tunnel   *bastion.Tunnel

	closeOnce sync.Once
	closeErr  error
}

// Open opens the database and proves that it can be written. It refuses, with an error that says what to do, a file that
// another process keeps locked (CodeUnavailable), that is damaged or no database, that belongs to another program, that a
// newer version wrote, or that may not be written; a server that cannot be reached or is read-only (CodeUnavailable), that
// refuses the user, is too old, or has no such database.
func Open(ctx context.Context, cfg Config, o *obs.Obs) (_ *DB, err error) {
	defer levee.Wrap(&err, "db.Open(%q)", mysqlconn.WithoutPassword(cfg.URL))
	if cfg, err = cfg.normal(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d := &DB{cfg: cfg, log: o.Named("db"), clock: o.Clock, metrics: newMetrics(o.Metrics), dialect: Dialect{mysql: cfg.isMySQL()}}
	if d.dialect.mysql {
		if d.tunnel, err = cfg.Tunnel(d.log); err != nil {
			return nil, err
		}
		if d.tunnel != nil {
			defer func() {
				if err != nil {
					d.tunnel.Close()
				}
			}()
		}
		m, readers, err := openMySQL(ctx, cfg, d)
		if err != nil {
			return nil, err
		}
		d.engine, d.readers = m, readers
		d.bun = bun.NewDB(d.readers, newMySQLDialect(), bun.WithDiscardUnknownColumns())
		if d.replicas, err = openReplicas(cfg, m.server, d.tunnel); err != nil {
			return nil, errors.Join(err, m.close(readers))
		}
		if d.replicas != nil {
			d.replicas.start(d)
		}
		return d, nil
	}
	s, readers, err := openSQLite(cfg, d)
	if err != nil {
		return nil, err
	}
	d.engine, d.readers = s, readers
	d.bun = bun.NewDB(d.readers, sqlitedialect.New(), bun.WithDiscardUnknownColumns())
	return d, nil
}

// Close waits until the transactions that are queued have run and closes the database. Tx and reads called later fail. It may
// be called more than once.
func (d *DB) Close() (err error) {
	d.closeOnce.Do(func() {
		if d.replicas != nil {
			d.closeErr = d.replicas.stop()
		}
		d.closeErr = errors.Join(d.closeErr, d.engine.close(d.readers))
		if d.tunnel != nil {
			d.tunnel.Close()
		}
		levee.Wrap(&d.closeErr, "db.Close")
	})
	return d.closeErr
}

// Read returns the reader pool for bun's builder. Each query sees what is committed, also when it is called inside Tx; BeginTx
// gives several queries one snapshot. Writing through it is refused. A context that asks for a replica (Using) gets one; a query
// that a replica fails is not repeated on the primary by itself, as it is with Query.
func (d *DB) Read(ctx context.Context) bun.IDB {
	if r := d.replicaFor(ctx); r != nil {
		return r.bun
	}
	return d.bun
}

// Query runs a query on the reader pool, on SQLite prepared. It sees what is committed. The rows must be closed.
func (d *DB) Query(ctx context.Context, query string, args ...any) (*Rows, error) {
	if r := d.replicaFor(ctx); r != nil {
		rows, err := r.readers.QueryContext(ctx, query, args...)
		if !r.failed(ctx, err) {
			return rows, err
		}
	}
	return d.readers.QueryContext(ctx, query, args...)
}

// QueryRow is Query for at most one row; Scan returns ErrNoRows when there is none. Scan must be called.
func (d *DB) QueryRow(ctx context.Context, query string, args ...any) *Row {
	if r := d.replicaFor(ctx); r != nil {
		row := r.readers.QueryRowContext(ctx, query, args...)
		if !r.failed(ctx, row.Err()) {
			return row
		}
	}
	return d.readers.QueryRowContext(ctx, query, args...)
}

// Dialect returns what differs between SQL engines.
func (d *DB) Dialect() Dialect { return d.dialect }

// Ping runs an empty transaction and a read: it fails when the writers are stuck or the database is out of reach.
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

// CheckIntegrity verifies what is stored: on SQLite it reads the whole file and verifies its structure (PRAGMA quick_check), on MySQL
// it has the server check each table, and that each has the engine and the collation of a migration. It takes seconds per gigabyte
// and disturbs nobody but the disk. Damage is CodeInternal and names the first places.
func (d *DB) CheckIntegrity(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "db.CheckIntegrity")
	return d.engine.check(ctx, d)
}

// Stats is a view of the database's work since it was opened.
type Stats struct {
	Driver       string // mattn or modernc (SQLite), mysql
	Server       string // MySQL: its version
	File         string // SQLite
	FileBytes    int64  // SQLite
	WALBytes     int64  // SQLite
	Transactions int64  // transactions that were committed
	Commits      int64  // commits; on SQLite one for a whole group
	RolledBack   int64  // transactions whose function failed
	Failed       int64  // SQLite: groups that could not be committed; MySQL: transactions that could not
	Reruns       int64  // MySQL: functions run again after a deadlock, a lock's timeout or a lost connection
	Unknown      int64  // MySQL: commits whose answer was lost
	Queue        int    // callers waiting for a writer now
	Writers      int    // connections that may write
	WritersBusy  int    // MySQL: those in a transaction now
	ReadersBusy  int
	Readers      int
	Replicas     int // replicas that may be read now
}

// Stats returns the numbers.
func (d *DB) Stats() Stats {
	s := Stats{Readers: d.cfg.Readers, ReadersBusy: d.readers.Stats().InUse, Writers: max(d.cfg.Writers, 1)}
	d.engine.stats(&s)
	s.Replicas = d.replicas.usable()
	return s
}
