package backends

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"levee"
)

// connect opens the URL as the product does: over TCP.
func connect(t *testing.T, url string) *sql.DB {
	t.Helper()
	c := mysql.NewConfig()
	rest, ok := strings.CutPrefix(url, "mysql://root@")
	if !ok {
		t.Fatalf("the URL is %s", url)
	}
	c.Net, c.User = "tcp", "root"
	c.Addr, c.DBName, _ = strings.Cut(rest, "/")
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	must(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func startMySQL(t *testing.T, o MySQLOptions) *MySQLServer {
	t.Helper()
	s, err := StartMySQL(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func value(t *testing.T, s *MySQLServer, query string) string {
	t.Helper()
	v, err := s.QueryString(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func run(t *testing.T, s *MySQLServer, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if err := s.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func TestMySQLIsSharedAndGivesEachTestADatabase(t *testing.T) {
	s, err := MySQL(t.Context())
	must(t, err)
	again, err := MySQL(t.Context())
	must(t, err)
	if s != again {
		t.Error("the second call gave another server")
	}
	one, dropOne, err := s.NewDatabase(t.Context())
	must(t, err)
	two, dropTwo, err := s.NewDatabase(t.Context())
	must(t, err)
	defer dropTwo()
	if one == two || !strings.HasPrefix(one, s.URL()) {
		t.Fatalf("the databases are %s and %s of the server %s", one, two, s.URL())
	}
	db := connect(t, one)
	_, err = db.Exec("CREATE TABLE t (a INT)")
	must(t, err)
	if _, err := connect(t, two).Exec("SELECT * FROM t"); err == nil {
		t.Error("a database shows the table of another one")
	}
	// drop must not wait for somebody who forgot a transaction.
	tx, err := db.Begin()
	must(t, err)
	_, err = tx.Exec("INSERT INTO t VALUES (1)")
	must(t, err)
	begin := time.Now()
	dropOne()
	if took := time.Since(begin); took > 11*time.Second {
		t.Errorf("drop waited %v", took)
	}
	must(t, tx.Rollback())
	dropOne()
	if err := connect(t, one).Ping(); err == nil {
		t.Error("a dropped database is still there")
	}
}

func TestMySQLHasTheSettingsPromised(t *testing.T) {
	s := startMySQL(t, MySQLOptions{Settings: map[string]string{"lock_wait_timeout": "77"}})
	for name, want := range map[string]string{
		"max_connections": "500", "binlog_format": "ROW", "character_set_server": "utf8mb4", "bind_address": "127.0.0.1", "log_bin": "1",
		"sql_mode": "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION", "lock_wait_timeout": "77",
		"transaction_isolation": "REPEATABLE-READ", "read_only": "0",
	} {
		query := "SELECT @@GLOBAL." + name
		if name == "transaction_isolation" {
			query = "SELECT @@GLOBAL.tx_isolation"
		}
		if got := value(t, s, query); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := value(t, s, "SELECT @@GLOBAL.collation_server"); got != serverCollation() {
		t.Errorf("the server's collation is %s, want %s", got, serverCollation())
	}
	run(t, s, "CREATE DATABASE c")
	if got := value(t, s, "SELECT default_collation_name FROM information_schema.schemata WHERE schema_name='c'"); got != serverCollation() {
		t.Errorf("a new database has the collation %s, want %s", got, serverCollation())
	}
	// Nobody comes in but over this machine's own address.
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	_, port, err := net.SplitHostPort(s.Addr())
	must(t, err)
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			if c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), port), time.Second); err == nil {
				_ = c.Close()
				t.Errorf("the server answers at %s", ip.IP)
			}
		}
	}
}

func TestMySQLServesTheCollationTrapOnDemand(t *testing.T) {
	t.Setenv("LEVEE_TEST_MYSQL_COLLATION", "utf8mb4_general_ci")
	s := startMySQL(t, MySQLOptions{})
	run(t, s, "CREATE DATABASE d", "CREATE TABLE d.t (k VARCHAR(190) PRIMARY KEY)", "INSERT INTO d.t VALUES ('a')")
	if err := s.Exec(t.Context(), "INSERT INTO d.t VALUES ('A')"); err == nil {
		t.Error("the trap is not set: a and A are two keys")
	}
	t.Setenv("LEVEE_TEST_MYSQL_COLLATION", "")
	s = startMySQL(t, MySQLOptions{})
	run(t, s, "CREATE DATABASE d", "CREATE TABLE d.t (k VARCHAR(190) PRIMARY KEY)", "INSERT INTO d.t VALUES ('a'), ('A')")
}

func TestReplicasReplicateAndLagOnDemand(t *testing.T) {
	s := startMySQL(t, MySQLOptions{Replicas: 2})
	ctx := t.Context()
	a, b := s.Replicas[0], s.Replicas[1]
	count := func(r *MySQLServer) string { t.Helper(); return value(t, r, "SELECT COUNT(*) FROM d.t") }
	run(t, s, "CREATE DATABASE d", "CREATE TABLE d.t (n INT PRIMARY KEY)", "INSERT INTO d.t VALUES (1)")
	for _, r := range s.Replicas {
		must(t, r.CatchUp(ctx))
		if got := count(r); got != "1" {
			t.Fatalf("a replica that has caught up has %s rows, want 1", got)
		}
	}

	// One lags without a limit, the other does not.
	must(t, a.StopReplication(ctx))
	run(t, s, "INSERT INTO d.t VALUES (2)")
	must(t, b.CatchUp(ctx))
	if count(a) != "1" || count(b) != "2" {
		t.Errorf("the stopped replica has %s rows and the other %s, want 1 and 2", count(a), count(b))
	}
	if err := a.CatchUp(ctx); err == nil || !strings.Contains(err.Error(), "SQL thread is stopped") {
		t.Errorf("catching up with a stopped replica gave %v", err)
	}
	must(t, a.StartReplication(ctx))
	must(t, a.CatchUp(ctx))
	if got := count(a); got != "2" {
		t.Errorf("the replica that goes on has %s rows, want 2", got)
	}

	// A lag of some seconds (the server counts whole seconds of the clock).
	must(t, b.Lag(ctx, 4*time.Second)) // far longer than a busy machine needs for the other one
	begin := time.Now()
	run(t, s, "INSERT INTO d.t VALUES (3)")
	must(t, a.CatchUp(ctx))
	if got := count(b); got != "2" {
		t.Errorf("the lagging replica has %s rows at once, want 2", got)
	}
	must(t, b.CatchUp(ctx))
	if took := time.Since(begin); took < 2900*time.Millisecond || took > time.Minute {
		t.Errorf("a lag of four seconds took %v", took)
	}
	must(t, b.Lag(ctx, 0))

	// A client's user is held to read_only there; on the primary it is not.
	if _, err := connect(t, a.URL()).Exec("INSERT INTO d.t VALUES (9)"); err == nil {
		t.Error("a replica takes writes over TCP")
	}
	if _, err := connect(t, s.URL()).Exec("INSERT INTO d.t VALUES (4)"); err != nil {
		t.Errorf("the primary takes no writes: %v", err)
	}

	// A replica that was killed goes on where it was.
	must(t, a.Kill())
	run(t, s, "INSERT INTO d.t VALUES (5)")
	must(t, a.Restart(ctx))
	must(t, a.CatchUp(ctx))
	if got := count(a); got != "5" {
		t.Errorf("the restarted replica has %s rows, want 5", got)
	}

	// Promotion of one that lags: what it had not applied is lost; the other, which was not ahead, follows it.
	must(t, b.CatchUp(ctx))
	for _, r := range s.Replicas {
		must(t, r.Cut(ctx))
	}
	run(t, s, "INSERT INTO d.t VALUES (6)")
	must(t, s.Kill())
	next, err := s.Promote(ctx, 0)
	must(t, err)
	if next != a || len(next.Replicas) != 1 || len(s.Replicas) != 0 {
		t.Fatalf("the promoted server has %d replicas and the old one %d, want 1 and 0", len(next.Replicas), len(s.Replicas))
	}
	t.Cleanup(func() { must(t, next.Close()) })
	if _, err := connect(t, next.URL()).Exec("INSERT INTO d.t VALUES (7)"); err != nil {
		t.Errorf("the promoted server takes no writes: %v", err)
	}
	must(t, b.CatchUp(ctx))
	if got := value(t, b, "SELECT GROUP_CONCAT(n ORDER BY n) FROM d.t"); got != "1,2,3,4,5,7" {
		t.Errorf("behind the promoted server there are %s, want 1,2,3,4,5,7 without the lost 6", got)
	}
	if err := s.StopReplication(ctx); !errors.Is(err, errNoReplica) {
		t.Errorf("stopping the replication of a primary gave %v", err)
	}
}

func TestMySQLKillRestartPause(t *testing.T) {
	s := startMySQL(t, MySQLOptions{})
	ctx := t.Context()
	run(t, s, "CREATE DATABASE d", "CREATE TABLE d.t (n INT PRIMARY KEY)", "INSERT INTO d.t VALUES (1)")
	db := connect(t, s.URL())
	tx, err := db.Begin()
	must(t, err)
	_, err = tx.Exec("INSERT INTO d.t VALUES (2)")
	must(t, err)
	before := s.URL()
	must(t, s.Kill())
	if c, err := net.DialTimeout("tcp", s.Addr(), time.Second); err == nil {
		_ = c.Close()
		t.Error("a killed server takes connections")
	}
	if err := tx.Commit(); err == nil {
		t.Error("a transaction outlived its server")
	}
	must(t, s.Restart(ctx))
	if s.URL() != before {
		t.Errorf("the restarted server is at %s, was at %s", s.URL(), before)
	}
	if got := value(t, s, "SELECT GROUP_CONCAT(n) FROM d.t"); got != "1" {
		t.Errorf("after a kill there are %s, want 1: the committed row alone", got)
	}
	must(t, s.Restart(ctx)) // of one that runs
	must(t, db.Ping())

	must(t, s.Pause())
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := db.PingContext(short); err == nil {
		t.Error("a paused server answers")
	}
	must(t, s.Resume())
	must(t, db.Ping())

	must(t, s.Pause())
	must(t, s.Close()) // of a paused one
	if err := s.Restart(ctx); err == nil {
		t.Error("a closed server can be restarted")
	}
	if exists(s.dir) {
		t.Errorf("%s is left after Close", s.dir)
	}
}

func TestMySQLDurableIsOnDiskAndWaitsForIt(t *testing.T) {
	quick, durable := startMySQL(t, MySQLOptions{}), startMySQL(t, MySQLOptions{Durable: true})
	const query = "SELECT CONCAT(@@innodb_flush_log_at_trx_commit, @@sync_binlog, @@innodb_doublewrite)"
	if got := value(t, durable, query); got != "11ON" {
		t.Errorf("durable: %s, want 11ON", got)
	}
	if got := value(t, quick, query); got != "20ON" {
		t.Errorf("not durable: %s, want 20ON", got)
	}
	if memoryFolder != "" && strings.HasPrefix(durable.dir, memoryFolder) {
		t.Errorf("durable data is in memory: %s", durable.dir)
	}
	k, err := theKeeper()
	must(t, err)
	if k.memory != k.disk && !strings.HasPrefix(quick.dir, memoryFolder) {
		t.Errorf("data of ordinary tests is not in memory: %s", quick.dir)
	}
}

func TestMySQLRefusesBadOptions(t *testing.T) {
	for name, o := range map[string]MySQLOptions{
		"too many": {Replicas: 6}, "negative": {Replicas: -1},
		"option": {Settings: map[string]string{"--port": "1"}}, "lines": {Settings: map[string]string{"port": "1\n2"}},
	} {
		_, err := StartMySQL(t.Context(), o)
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A setting the server does not know: the error shows what the server said.
	_, err := StartMySQL(t.Context(), MySQLOptions{Settings: map[string]string{"no-such-setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "unknown variable 'no-such-setting=1'") {
		t.Errorf("an unknown setting gave %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := StartMySQL(ctx, MySQLOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled start gave %v", err)
	}
	s := startMySQL(t, MySQLOptions{Replicas: 1})
	if err := s.Replicas[0].Lag(t.Context(), 1500*time.Millisecond); err == nil {
		t.Error("a lag of one and a half seconds is taken, which the server cannot do")
	}
	if _, err := s.Promote(t.Context(), 1); err == nil {
		t.Error("a replica that is not there is promoted")
	}
}

func TestMySQLNamedInTheEnvironment(t *testing.T) {
	own := startMySQL(t, MySQLOptions{})
	ctx := t.Context()
	s, err := namedMySQL(ctx, own.URL(), "")
	must(t, err)
	url, drop, err := s.NewDatabase(ctx)
	must(t, err)
	must(t, connect(t, url).Ping())
	drop()
	for what, f := range map[string]func() error{"Kill": s.Kill, "Pause": s.Pause, "Restart": func() error { return s.Restart(ctx) }} {
		if err := f(); !errors.Is(err, errForeign) {
			t.Errorf("%s of somebody else's server gave %v", what, err)
		}
	}
	must(t, s.Close())
	must(t, connect(t, own.URL()).Ping())

	for _, bad := range []string{"", "127.0.0.1:3306", "mysql://127.0.0.1:1/", "mysql://root@127.0.0.1/", "mysql://root:verysecret@127.0.0.1:1/",
		"mysql://root@127.0.0.1:1/some", "mysql://root:verysecret@127.0.0.1:x/", "redis://root@127.0.0.1:1"} {
		_, err := namedMySQL(ctx, bad, "")
		if err == nil || !strings.Contains(err.Error(), mysqlForm) || strings.Contains(err.Error(), "verysecret") {
			t.Errorf("%q gave %v", bad, err)
		}
	}
	must(t, own.Kill())
	if _, err := namedMySQL(ctx, own.URL(), ""); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a server that is down gave %v", err)
	}
	exit := fmt.Errorf("%w: x", ErrMissing)
	t.Setenv("CI", "")
	t.Setenv("LEVEE_TEST_TIER", "")
	if !MaySkip(exit) || MaySkip(errors.New("does not start")) || MaySkip(nil) {
		t.Error("MaySkip is wrong on a machine of a person")
	}
	t.Setenv("LEVEE_TEST_TIER", "distributed")
	if MaySkip(exit) {
		t.Error("the distributed tier was asked for and may be skipped")
	}
	t.Setenv("LEVEE_TEST_TIER", "")
	t.Setenv("CI", "true")
	if MaySkip(exit) {
		t.Error("CI may skip")
	}
}
