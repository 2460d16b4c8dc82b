// Package platformtest gives a test a whole platform of real parts: a database, ids, events, jobs, limits.
//
// It owns nothing else: there are no doubles here. The database is SQLite in a folder of the test's own; with
// LEVEE_TEST_TIER=distributed it is MariaDB, a database of the test's own on the server that the process's tests share (package
// backends). With LEVEE_TEST_RUN_TWICE=1 the function of every transaction is run, undone and run again, on either.
package platformtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/platform/redis"
)

// Platform is what a room is built on. All of it is closed when the test ends.
type Platform struct {
	Dir    string
	Obs    *obs.Obs
	DB     *db.DB
	IDs    *id.Generator
	Sealer *id.Sealer
	Events *event.Bus
	Jobs   *job.Jobs
	Limits *limit.Limits
	Push   *push.Hub
}

// Distributed reports whether the tests run on the servers of the distributed tier.
func Distributed() bool { return os.Getenv("LEVEE_TEST_TIER") == "distributed" }

// RunTwice reports whether the function of every transaction is run twice.
func RunTwice() bool { return os.Getenv("LEVEE_TEST_RUN_TWICE") == "1" }

// New opens a platform in a temporary folder, with the schemas of the parts and those given.
func New(t testing.TB, schemas ...db.Schema) *Platform {
	t.Helper()
	return Open(t, t.TempDir(), schemas...)
}

// Open opens a platform in a folder that may hold an earlier one's data, as a process does that starts again.
func Open(t testing.TB, dir string, schemas ...db.Schema) *Platform {
	t.Helper()
	ctx := t.Context()
	p := &Platform{Dir: dir, Obs: obs.Test(t)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	p.DB = DB(t, dir, p.Obs, withParts(schemas)...)
	p.IDs, err = id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, p.Obs)
	must(err)
	t.Cleanup(func() { must(p.IDs.Close()) })
	p.Sealer, err = id.NewSealer(Key(1))
	must(err)
	p.Limits, err = limit.Open(limit.Config{}, p.Obs)
	must(err)
	p.Events = event.Open(p.DB, p.IDs, p.Obs)
	p.Jobs = job.Open(p.DB, p.IDs, p.Obs)
	p.Push = push.Open(push.Config{}, p.Obs)
	t.Cleanup(func() { must(p.Push.Close(t.Context())) })
	return p
}

// DB opens the test's database with these schemas: of a folder always the same one, so that a test may open it again. It is closed when
// the test ends.
func DB(t testing.TB, dir string, o *obs.Obs, schemas ...db.Schema) *db.DB {
	t.Helper()
	cfg := Config(t, dir, schemas...)
	d, err := db.Open(t.Context(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := d.Migrate(context.Background(), schemas); err != nil {
		t.Fatal(err)
	}
	return d
}

// Key returns 32 bytes for a test's secret, another for each n.
func Key(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

// Redis returns the Config of a Redis whose keys belong to a folder alone: the same for the same folder. It is given longer to answer than by
// default: on a machine that runs many tests at once a tenth of a second is no outage.
func Redis(t testing.TB, dir string) redis.Config {
	t.Helper()
	var server *backends.RedisServer
	if err := outside(func() (err error) {
		server, err = backends.Redis(context.Background())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	mark := sha256.Sum256([]byte(dir))
	return redis.Config{URL: server.URL(), Prefix: hex.EncodeToString(mark[:6]) + ":", Timeout: 2 * time.Second}
}
