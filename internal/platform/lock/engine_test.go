package lock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// distributed says that SQL is MySQL.
var distributed = os.Getenv("LEVEE_TEST_TIER") == "distributed"

var prefixes atomic.Int64

// redisConfig names the server that the tests of this process share, with keys of the test's own.
func redisConfig(t testing.TB) redis.Config {
	t.Helper()
	s, err := backends.Redis(context.Background())
	had(t, err)
	return redis.Config{URL: s.URL(), Prefix: fmt.Sprintf("t%d-%d:", os.Getpid(), prefixes.Add(1)), Timeout: time.Second}
}

func openClient(t testing.TB, cfg redis.Config) *redis.Client {
	t.Helper()
	c, err := redis.Open(context.Background(), cfg, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sqlConfig names an empty database of the tier.
func sqlConfig(t testing.TB) db.Config {
	t.Helper()
	twice := os.Getenv("LEVEE_TEST_RUN_TWICE") == "1"
	if !distributed {
		return db.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "levee.db"), RunTwice: twice}
	}
	s, err := backends.MySQL(context.Background())
	had(t, err)
	cfg := db.Config{Password: obs.Secret(s.Password()), Writers: 16, Readers: 8, RunTwice: twice}
	var drop func()
	if cfg.URL, drop, err = s.NewDatabase(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	return cfg
}

func openDB(t testing.TB, cfg db.Config, more ...db.Schema) *db.DB {
	t.Helper()
	d, err := db.Open(context.Background(), cfg, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if _, err := d.Migrate(context.Background(), append([]db.Schema{Schema()}, more...)); err != nil {
		t.Fatal(err)
	}
	return d
}

func init() {
	kinds["redis"] = func(t testing.TB, nodes int) *house { return redisHouse(t, nodes, nil) }
	kinds["redis, fences of sql"] = func(t testing.TB, nodes int) *house { return redisHouse(t, nodes, openDB(t, sqlConfig(t))) }
	kinds["sql"] = func(t testing.TB, nodes int) *house { return sqlHouse(t, nodes, false) }
	kinds["sql, bell"] = func(t testing.TB, nodes int) *house { return sqlHouse(t, nodes, true) }
}

func redisHouse(t testing.TB, nodes int, fences *db.DB) *house {
	cfg := redisConfig(t)
	h := &house{ttl: calmTTL, slack: 300 * time.Millisecond}
	for range nodes {
		l, err := OpenRedis(Config{}, openClient(t, cfg), fences, obs.Test(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		h.nodes = append(h.nodes, l)
	}
	h.stop = func(i int) {
		h.nodes[i] = h.dies(t, i, func() (*Locks, error) { return OpenRedis(Config{}, openClient(t, cfg), fences, obs.Test(t)) })
	}
	c := openClient(t, cfg)
	h.wipe = func(name string) error {
		return c.UniversalClient().Del(context.Background(), c.Key("lock:{"+name+"}")).Err()
	}
	return h
}

// dies ends a node without giving anything back, and returns its successor.
func (h *house) dies(t testing.TB, i int, open func() (*Locks, error)) *Locks {
	_ = h.nodes[i].Close()
	l, err := open()
	if err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func sqlHouse(t testing.TB, nodes int, bell bool) *house {
	cfg := sqlConfig(t)
	h := &house{ttl: calmTTL, slack: 300 * time.Millisecond}
	var d *db.DB
	var ringer redis.Config
	if bell {
		ringer = redisConfig(t)
	}
	open := func() (*Locks, error) {
		if d == nil || distributed { // SQLite has one process, which all nodes stand for
			d = openDB(t, cfg)
		}
		var c *redis.Client
		if bell {
			c = openClient(t, ringer)
		}
		return OpenSQL(Config{}, d, c, obs.Test(t))
	}
	for range nodes {
		l, err := open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		h.nodes = append(h.nodes, l)
	}
	h.stop = func(i int) { h.nodes[i] = h.dies(t, i, open) }
	h.wipe = func(name string) error {
		return d.Tx(context.Background(), "test.wipe", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE lock_name SET state = '' WHERE name = ?`, name)
			return err
		})
	}
	return h
}

// had ends a test whose server is not to be had on a person's machine, and fails it for every other error.
func had(t testing.TB, err error) {
	t.Helper()
	switch {
	case backends.MaySkip(err):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}
