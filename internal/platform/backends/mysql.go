package backends

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"levee"
)

const (
	maxReplicas  = 5
	startTimeout = 60 * time.Second // a loaded machine; a start takes a quarter of a second
	stopTimeout  = 30 * time.Second
	sqlTimeout   = 10 * time.Second // of one statement of this package
	maxSocket    = 103              // bytes of a unix socket's path that every system takes
)

// MySQLOptions says what [StartMySQL] starts. The zero value is one server whose data is in memory where that is possible.
type MySQLOptions struct {
	// Replicas is how many replicas follow the primary: 0 to 5.
	Replicas int
	// Durable puts the data on disk and waits for the disk at each commit (innodb_flush_log_at_trx_commit and sync_binlog 1): for benches.
	// Without it a commit still survives Kill, because it has reached the kernel, but not the machine's own end.
	Durable bool
	// Settings are given to the server after its defaults, by their names without dashes in front: {"max_connections": "50"}.
	Settings map[string]string
}

// MySQLServer is one MariaDB server: a primary with its replicas, a replica, or a server that somebody else runs (LEVEE_TEST_MYSQL).
// Its methods may be called by several goroutines.
type MySQLServer struct {
	// Replicas follow this server. Promote changes the list, and must not be called while another goroutine reads it.
	Replicas []*MySQLServer

	addr, user, password string
	admin                *sql.DB

	// The rest is empty for a server that somebody else runs.
	k        *keeper
	dir      string
	durable  bool
	settings map[string]string
	id       int
	port     *port

	mu      sync.Mutex // start, stop and promotion; guards what follows
	process *process
	master  *MySQLServer // whom it follows
	closed  bool
}

var settingName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)

func (o MySQLOptions) check() error {
	if o.Replicas < 0 || o.Replicas > maxReplicas {
		return levee.Invalid("Replicas", fmt.Sprintf("from 0 to %d", maxReplicas), o.Replicas)
	}
	for name, value := range o.Settings {
		if !settingName.MatchString(name) {
			return levee.Invalid("Settings", "names of settings without dashes in front, such as max_connections", name)
		}
		if strings.ContainsAny(value, "\n\x00") {
			return levee.Invalid("Settings."+name, "one line", value)
		}
	}
	return nil
}

// StartMySQL starts a private primary and its replicas, which have caught up when it returns. ctx bounds the start only; the servers run
// until Close or the end of this process.
func StartMySQL(ctx context.Context, o MySQLOptions) (*MySQLServer, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	k, err := theKeeper()
	if err != nil {
		return nil, err
	}
	all := make([]*MySQLServer, 1+o.Replicas)
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i := range all {
		s := &MySQLServer{k: k, durable: o.Durable, settings: maps.Clone(o.Settings), id: i + 1, user: "root"}
		all[i] = s
		wg.Go(func() { errs[i] = s.create(ctx) })
	}
	wg.Wait()
	err = errors.Join(errs...)
	primary := all[0]
	primary.Replicas = all[1:]
	for _, r := range primary.Replicas {
		if err == nil {
			err = r.follow(ctx, primary)
		}
	}
	for _, r := range primary.Replicas {
		if err == nil {
			err = r.CatchUp(ctx)
		}
	}
	if err != nil {
		_ = primary.Close()
		return nil, fmt.Errorf("starting MariaDB: %w", err)
	}
	return primary, nil
}

// create makes folder and port, and starts the server for the first time.
func (s *MySQLServer) create(ctx context.Context) (err error) {
	server, err := mariadbTool.find(ctx)
	if err != nil {
		return err
	}
	installer, err := installTool.find(ctx)
	if err != nil {
		return err
	}
	if s.dir, err = s.k.folder(s.durable); err != nil {
		return err
	}
	if n := len(s.socket()); n > maxSocket {
		return fmt.Errorf("the path of a socket would have %d bytes, the limit is %d: set TMPDIR to a shorter folder", n, maxSocket)
	}
	for _, sub := range []string{"tmp", "files"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	if err := s.k.newData(ctx, server, installer, filepath.Join(s.dir, "data")); err != nil {
		return err
	}
	// Somebody who keeps to no lock may still take the port before the server does.
	for range 3 {
		if s.port, err = takePort(); err != nil {
			return err
		}
		s.addr = s.port.addr()
		if err = s.start(ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "Address already in use") {
			return err
		}
		s.port.free()
	}
	return err
}

func (s *MySQLServer) socket() string { return filepath.Join(s.dir, "sock") }

func (s *MySQLServer) arguments(server string) []string {
	args := []string{server, "--no-defaults"}
	args = append(args, asUser()...)
	given := append(slices.Clone(shape),
		"datadir="+filepath.Join(s.dir, "data"),
		"tmpdir="+filepath.Join(s.dir, "tmp"),
		"secure-file-priv="+filepath.Join(s.dir, "files"),
		"socket="+s.socket(),
		"pid-file="+filepath.Join(s.dir, "pid"),
		"bind-address=127.0.0.1",
		fmt.Sprintf("port=%d", s.port.number),
		"skip-name-resolve",
		"performance-schema=0",
		"max-connections=500",
		"innodb-buffer-pool-size=64M",
		"innodb-buffer-pool-dump-at-shutdown=0",
		"innodb-buffer-pool-load-at-startup=0",
		// What replication in production has.
		fmt.Sprintf("server-id=%d", s.id),
		"log-bin=binlog", "binlog-format=ROW", "log-slave-updates=1", "gtid-strict-mode=1", "relay-log=relay",
		"slave-net-timeout=10",
		"collation-server="+serverCollation(),
	)
	if s.durable {
		given = append(given, "innodb-flush-log-at-trx-commit=1", "sync-binlog=1")
	} else {
		given = append(given, "innodb-flush-log-at-trx-commit=2", "sync-binlog=0")
	}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		given = append(given, name+"="+s.settings[name])
	}
	for _, g := range given {
		args = append(args, "--"+g)
	}
	return args
}

// serverCollation is not what a product may rely on: a server in the field has the one its distribution chose. LEVEE_TEST_MYSQL_COLLATION
// sets such a one, utf8mb4_general_ci for instance, which takes A for a.
func serverCollation() string {
	if c := os.Getenv("LEVEE_TEST_MYSQL_COLLATION"); c != "" {
		return c
	}
	return "utf8mb4_bin"
}

// start starts the server on its folder and port and waits until it answers. The caller holds mu, or is the only one who knows the server.
func (s *MySQLServer) start(ctx context.Context) error {
	path, err := mariadbTool.find(ctx)
	if err != nil {
		return err
	}
	p, err := s.k.start("mariadbd", path, s.arguments(path), s.dir, filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	if s.admin == nil { // it is kept over restarts: other goroutines may be using it
		if s.admin, err = openSQL("unix", s.socket(), "root", ""); err != nil {
			p.kill()
			return err
		}
	}
	// At the socket first, which is there before the port is; then at the port, which is what clients use.
	if err := p.ready(ctx, startTimeout, s.admin.PingContext); err != nil {
		p.kill()
		return err
	}
	s.process = p
	return nil
}

func openSQL(network, addr, user, password string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd = network, addr, user, password
	c.Timeout, c.ReadTimeout = sqlTimeout, 6*sqlTimeout
	c.Logger = &mysql.NopLogger{} // servers are killed here on purpose
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(2)
	return db, nil
}

// URL is how the product is told of this server, without a database: mysql://root@127.0.0.1:PORT/.
func (s *MySQLServer) URL() string { return s.url("") }

func (s *MySQLServer) url(database string) string {
	u := url.URL{Scheme: "mysql", User: url.User(s.user), Host: s.addr, Path: "/" + database}
	return u.String()
}

// Addr is the server's HOST:PORT.
func (s *MySQLServer) Addr() string { return s.addr }

// Password of the user in the URL; empty for servers that were started here.
func (s *MySQLServer) Password() string { return s.password }

// NewDatabase makes an empty database and returns its URL. drop removes it again; it does what it can within ten seconds and reports
// nothing, because the server may have been killed by then.
func (s *MySQLServer) NewDatabase(ctx context.Context) (databaseURL string, drop func(), err error) {
	name := "levee_test_" + strings.ToLower(rand.Text()[:12])
	if err := s.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, fmt.Errorf("making a database for a test: %w", err)
	}
	drop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), sqlTimeout)
		defer cancel()
		conn, err := s.admin.Conn(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		// Somebody may still hold a transaction open there.
		_, _ = conn.ExecContext(ctx, "SET SESSION lock_wait_timeout = 2")
		_, _ = conn.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name)
	}
	return s.url(name), drop, nil
}

// Exec runs one statement as root.
func (s *MySQLServer) Exec(ctx context.Context, statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 6*sqlTimeout)
	defer cancel()
	_, err := s.admin.ExecContext(ctx, statement, args...)
	return err
}

// QueryString runs a query as root and returns the first column of its first row, "" for NULL. The error is sql.ErrNoRows when there is none.
func (s *MySQLServer) QueryString(ctx context.Context, query string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 6*sqlTimeout)
	defer cancel()
	var value sql.NullString
	err := s.admin.QueryRowContext(ctx, query, args...).Scan(&value)
	return value.String, err
}

var errForeign = errors.New("this server was named in the environment and not started here: it cannot be stopped, killed or paused")

// own locks the server for a change of its process.
func (s *MySQLServer) own() error {
	if s.k == nil {
		return errForeign
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("the server is closed")
	}
	return nil
}

// Kill ends the server as a crash does (SIGKILL) and returns when it is gone. Its data and its port stay for Restart.
func (s *MySQLServer) Kill() error {
	if err := s.own(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.process.kill()
	return nil
}

// Restart starts the server again on its data and its port, after an orderly stop when it still runs. A replica goes on following.
func (s *MySQLServer) Restart(ctx context.Context) error {
	if err := s.own(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.process.stop(ctx, stopTimeout)
	return s.start(ctx)
}

// Pause stops the server in its tracks (SIGSTOP): connections stay open, nobody answers.
func (s *MySQLServer) Pause() error { return s.signal(true) }

// Resume lets a paused server go on.
func (s *MySQLServer) Resume() error { return s.signal(false) }

func (s *MySQLServer) signal(pause bool) error {
	if err := s.own(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	return s.process.pause(pause)
}

// Close ends the server and its replicas and removes their data. It does nothing to a server that somebody else runs.
func (s *MySQLServer) Close() error {
	if s.k == nil {
		return nil
	}
	var err error
	for _, r := range s.Replicas {
		err = errors.Join(err, r.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return err
	}
	s.closed = true
	if s.admin != nil {
		_ = s.admin.Close()
	}
	s.process.kill() // its data goes: nothing to write back
	s.port.free()
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
