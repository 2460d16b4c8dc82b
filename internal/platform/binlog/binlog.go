// Package binlog follows the binary log of MySQL or MariaDB and tells what was committed, in its order: the repair path for copies of rows,
// such as the cache's, whose own invalidation was lost with the process that should have sent it.
//
// It owns the position up to which changes were applied (table binlog_position), and the connection as a replica. It does not own what is
// done with a change, nor who follows: one process at a time should, as node's keeper does (see Follower.Run).
//
// The promise: every committed change of the tables followed is given at least once, in the order of the commits, or Lost is called. A position is
// stored after what is before it was applied, so what a killed process had applied since is given again.
package binlog

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"embed"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the part's table.
func Schema() db.Schema { return db.Schema{Owner: "binlog", FS: schemaFS} }

// Config says which server is followed and what of it. Name, URL, Tables, Apply and Lost are needed.
type Config struct {
	// Name is what the position is kept by, up to 190 bytes. Two followers of one name would skip what the other one applied.
	Name string
	// URL is mysql://USER@HOST:PORT/DATABASE, as db.Config's: the primary, or the address that leads to it. The user needs the
	// privilege REPLICATION SLAVE.
	URL      string
	Password obs.Secret
	// TLS, if set, is how the connection is encrypted. Nil: it is not; a URL that asks for it (tls=on) is then refused.
	TLS *tls.Config
	// Dial, if set, connects through a bastion.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Tables are the tables of the URL's database that are followed, 1 to 1,000, each with the columns that are wanted.
	Tables []Table
	// Apply is called with what was committed, in order: 1 to 1,000 changes, of one transaction or several, or of a part of one. What it returns
	// an error for is given again later, with what followed. It may get a change more than once and must bear it.
	Apply func(ctx context.Context, changes []Change) error
	// Lost is called when changes may be missing: at the very first start, when the server has thrown away what follows the position, after
	// statements that the log has no rows of (TRUNCATE, DROP, changes logged as statements) and rows over RowMost. Whoever keeps copies drops all of
	// them. It is called again until it returns nil; what follows it comes after.
	Lost func(ctx context.Context, why string) error
	// RowMost is the largest group of rows that is read, in bytes as they are in the log, from 1 KiB to 1 GiB. Default 64 MiB. One transaction is
	// never kept whole: its rows come in groups of about the server's binlog_row_event_max_size, or one row.
	RowMost int
	// StoreEvery is how long what was applied may be without a stored position, from 10 ms to 1 minute. Default 1 s: so much is given again after a
	// kill. A shorter one costs a transaction each time.
	StoreEvery time.Duration
}

// Table is a table and the columns of it that are wanted, 1 to 100, in the order in which Change has their values.
type Table struct {
	Name    string
	Columns []string
}

// Kind is what happened to a row.
type Kind uint8

// The kinds.
const (
	Insert Kind = iota + 1
	Update
	Delete
)

// String returns insert, update or delete.
func (k Kind) String() string { return [...]string{"", "insert", "update", "delete"}[k] }

// Change is what a committed transaction did to a row. Before is nil for an insert, After for a delete. A value is nil, int64 (all integers),
// float64, string (texts, binaries, decimals, times as MySQL writes them, JSON) or uint64 for unsigned numbers over the largest int64.
type Change struct {
	Table  string
	Kind   Kind
	Before []any
	After  []any
	// At is when the server began the statement, by its clock, in whole seconds.
	At time.Time
}

// What is wrong with a server, besides levee's codes, in errors of Check and Run.
var (
	// ErrOff: the server writes no binary log that can be followed. The message says what to set.
	ErrOff = fmt.Errorf("binlog: off")
	// ErrPrivilege: the user may not read the binary log.
	ErrPrivilege = fmt.Errorf("binlog: privilege")
	// ErrPurged: the server does not have what follows the position: it was thrown away, or the server took another one's place that had more.
	ErrPurged = fmt.Errorf("binlog: purged")
)

// Follower follows one server. Made by Open.
type Follower struct {
	cfg     Config
	at      address
	db      *db.DB
	log     *slog.Logger
	metrics *metrics
	tables  map[string]*table // by name
	id      uint32            // as a replica
	// fault, in tests, is called between applying and storing.
	fault func()
}

type address struct {
	host, user, database string
	port                 uint16
}

// table is a table that is followed.
type table struct {
	Table
	columns []string // of the table now; nil: not known
	places  []int    // of the wanted columns
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_$]{1,64}$`)

// Open makes a follower, whose position is kept in d. Nothing is connected to yet. Faults of cfg are CodeInvalid.
func Open(d *db.DB, cfg Config, o *obs.Obs) (_ *Follower, err error) {
	defer levee.Wrap(&err, "binlog.Open")
	f := &Follower{cfg: cfg, db: d, log: o.Named("binlog"), tables: map[string]*table{}}
	if f.at, err = parse(cfg); err != nil {
		return nil, err
	}
	if cfg.Name == "" || len(cfg.Name) > 190 {
		return nil, levee.Invalid("binlog.name", "1 to 190 bytes", cfg.Name)
	}
	if cfg.Apply == nil || cfg.Lost == nil {
		return nil, levee.Invalid("binlog.apply and lost", "functions", "nil")
	}
	if f.cfg.RowMost == 0 {
		f.cfg.RowMost = 64 << 20
	}
	if f.cfg.RowMost < 1<<10 || f.cfg.RowMost > 1<<30 {
		return nil, levee.Invalid("binlog.row_most", "from 1 KiB to 1 GiB", cfg.RowMost)
	}
	if f.cfg.StoreEvery == 0 {
		f.cfg.StoreEvery = time.Second
	}
	if f.cfg.StoreEvery < 10*time.Millisecond || f.cfg.StoreEvery > time.Minute {
		return nil, levee.Invalid("binlog.store_every", "from 10ms to 1m", cfg.StoreEvery)
	}
	if len(cfg.Tables) < 1 || len(cfg.Tables) > 1000 {
		return nil, levee.Invalid("binlog.tables", "1 to 1000", len(cfg.Tables))
	}
	for _, t := range cfg.Tables {
		if !nameForm.MatchString(t.Name) || f.tables[t.Name] != nil || len(t.Columns) < 1 || len(t.Columns) > 100 {
			return nil, levee.Invalid("binlog.tables", "names of tables, each once, with 1 to 100 columns", t.Name)
		}
		f.tables[t.Name] = &table{Table: t}
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	f.id = binary.BigEndian.Uint32(b[:]) | 1<<31
	f.metrics = newMetrics(o.Metrics, cfg.Name)
	return f, nil
}

func parse(cfg Config) (a address, err error) {
	const form = "mysql://USER@HOST:PORT/DATABASE"
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "mysql" || u.User.Username() == "" || u.Hostname() == "" {
		return a, levee.Invalid("binlog.url", form, "another form")
	}
	if _, has := u.User.Password(); has {
		return a, levee.Invalid("binlog.url", form+" without a password", "one with a password")
	}
	a = address{host: u.Hostname(), user: u.User.Username(), database: strings.Trim(u.Path, "/"), port: 3306}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return a, levee.Invalid("binlog.url", form, "another port")
		}
		a.port = uint16(n)
	}
	if !nameForm.MatchString(a.database) {
		return a, levee.Invalid("binlog.url", form, "no database")
	}
	if t := u.Query().Get("tls"); t != "" && t != "off" && cfg.TLS == nil {
		return a, levee.Invalid("binlog.tls", "the settings of the connection that the URL asks for", "none")
	}
	return a, nil
}

type metrics struct {
	changes, lost, failures prometheus.Counter
	following, behind       prometheus.Gauge
}

func newMetrics(r *prometheus.Registry, name string) *metrics {
	labels := prometheus.Labels{"name": name}
	counter := func(name, help string) prometheus.Counter {
		return obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}))
	}
	return &metrics{
		changes:   counter("levee_binlog_changes_total", "Changes that were applied."),
		lost:      counter("levee_binlog_lost_total", "Times that changes may have been missed and everything had to be dropped."),
		failures:  counter("levee_binlog_failures_total", "Times that following ended by a failure and was begun again."),
		following: gauge("levee_binlog_following_count", "1 while this process follows the server."),
		behind:    gauge("levee_binlog_behind_seconds", "How long before it was applied the last change was begun, in whole seconds of the server's clock."),
	}
}

// load returns the stored position; "" when there is none.
func (f *Follower) load(ctx context.Context) (flavor, position string, err error) {
	err = f.db.QueryRow(db.Primary(ctx), `SELECT flavor, position FROM binlog_position WHERE name = ?`, f.cfg.Name).Scan(&flavor, &position)
	if err == db.ErrNoRows {
		err = nil
	}
	return flavor, position, err
}

// store keeps a position, if this process still is the one that follows.
func (f *Follower) store(ctx context.Context, check Check, flavor, position string) error {
	q := f.db.Dialect().Upsert("binlog_position", []string{"name"}, []string{"flavor", "position", "at"}, "name", "flavor", "position", "at")
	return f.db.Tx(ctx, "binlog.store", func(ctx context.Context, tx *db.Tx) error {
		if check != nil {
			if err := check(ctx, tx); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, q, f.cfg.Name, flavor, position, time.Now().UnixMicro())
		return err
	})
}
