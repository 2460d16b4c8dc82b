// Package platformtest gives a test a whole platform of real parts: SQLite in a folder of its own, ids, events, jobs, limits.
//
// It owns nothing else: there are no doubles here, because the embedded tier starts in milliseconds.
package platformtest

import (
	"bytes"
	"path/filepath"
	"testing"

	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/platform/web"
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
	p.DB, err = db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, p.Obs)
	must(err)
	t.Cleanup(func() { must(p.DB.Close()) })
	_, err = p.DB.Migrate(ctx, append([]db.Schema{event.Schema(), job.Schema(), web.Schema()}, schemas...))
	must(err)
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

// Key returns 32 bytes for a test's secret, another for each n.
func Key(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }
