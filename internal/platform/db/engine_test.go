package db

import (
	"os"
	"runtime"
	"testing"

	"levee/internal/platform/backends"
)

// tested is one engine under a test of the contract.
type tested struct{ mysql bool }

// distributed tells whether this run tests MySQL too.
func distributed() bool {
	return os.Getenv("LEVEE_TEST_TIER") == "distributed" || os.Getenv("LEVEE_TEST_MYSQL") != ""
}

// onEach runs a test of the contract on each engine.
func onEach(t *testing.T, test func(t *testing.T, e tested)) {
	t.Run("sqlite", func(t *testing.T) { test(t, tested{}) })
	if distributed() {
		t.Run("mysql", func(t *testing.T) { test(t, tested{mysql: true}) })
	}
}

// config is that of a fresh database.
func (e tested) config(t testing.TB) Config {
	t.Helper()
	if !e.mysql {
		return testConfig(t)
	}
	s, err := backends.MySQL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return onServer(t, s)
}

// onServer is the Config of a fresh database on a server.
func onServer(t testing.TB, s *backends.MySQLServer) Config {
	t.Helper()
	url, drop, err := s.NewDatabase(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	return Config{URL: url, Password: secret(s.Password()), Writers: 8, Readers: 4}
}

// oneWriter is a config in which one transaction holds up all others, on MySQL as on SQLite.
func (e tested) oneWriter(t testing.TB) Config {
	cfg := e.config(t)
	if e.mysql {
		cfg.Writers = 1
	}
	return cfg
}

// opened is a fresh database with test_row.
func (e tested) opened(t testing.TB) *DB {
	t.Helper()
	return e.with(t, e.config(t))
}

// with opens a database and makes test_row.
func (e tested) with(t testing.TB, cfg Config) *DB {
	t.Helper()
	d := open(t, cfg)
	mustExec(t, d, testTable)
	return d
}

// lite is the engine of a SQLite database.
func lite(d *DB) *sqliteEngine { return d.engine.(*sqliteEngine) }

// mine is the engine of a MySQL database.
func mine(d *DB) *mysqlEngine { return d.engine.(*mysqlEngine) }

// waitClosing waits until Close has been called.
func waitClosing(d *DB) {
	for closed := false; !closed; runtime.Gosched() {
		if d.dialect.mysql {
			m := mine(d)
			m.mu.Lock()
			closed = m.closed
			m.mu.Unlock()
		} else {
			q := &lite(d).writer.queue
			q.mu.Lock()
			closed = q.closed
			q.mu.Unlock()
		}
	}
}
