package job

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// The statements of the version before, which its nodes go on using while others have migrated already.
const (
	oldInsert = `INSERT INTO job_task (id, kind, pool, args, unique_key, due_at, lease_until, fence, attempts, crashes, error) VALUES (?, ?, ?, ?, ?, ?, NULL, 0, 0, 0, '')`
	oldTake   = `UPDATE job_task SET due_at = NULL, lease_until = ?, fence = fence + 1, attempts = attempts + 1 WHERE id IN (?)`
	oldDone   = `DELETE FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`
	oldRetry  = `UPDATE job_task SET due_at = ?, lease_until = NULL, crashes = 0, error = ? WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`
	oldBury   = `INSERT INTO job_dead (id, kind, pool, args, unique_key, attempts, error, dead_at) ` +
		`SELECT id, kind, pool, args, unique_key, attempts, ?, ? FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`
)

// A database of the version before is migrated with all that is in it, and its nodes and ours work on it together.
func TestVersionBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := obs.Test(t)
		h := &house{t: t, o: o, dir: t.TempDir()}
		h.db = openDB(t, h.dir, o)
		defer func() {
			if err := errors.Join(h.ids.Close(), h.db.Close()); err != nil {
				t.Error(err)
			}
		}()
		first, err := schemaFS.ReadFile("schema/0001_job.sql")
		if err != nil {
			t.Fatal(err)
		}
		if h.ids, err = id.Open(t.Context(), id.Config{Dir: filepath.Join(h.dir, "id")}, o); err != nil {
			t.Fatal(err)
		}
		before := db.Schema{Owner: "job", FS: fstest.MapFS{"schema/0001_job.sql": {Data: first}}}
		if _, err := h.db.Migrate(t.Context(), []db.Schema{before}); err != nil {
			t.Fatal(err)
		}
		do := func(query string, args ...any) {
			t.Helper()
			err := h.db.Tx(t.Context(), "old", func(ctx context.Context, tx *db.Tx) error {
				return held(tx.Exec(ctx, query, args...))
			})
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		old := func(id int, kind, pool string, key any) {
			do(oldInsert, id, kind, pool, `{"N":`+string(rune('0'+id))+`}`, key, 0)
		}
		old(1, "note", "default", "note/k")
		old(2, "note", "default", nil)
		old(3, "note", "side", nil)
		old(4, "few", "default", nil)
		do(oldTake, time.Now().Add(15*time.Second).UnixMicro(), 2)
		if _, err := h.db.Migrate(t.Context(), []db.Schema{Schema(), {Owner: "test", FS: testFS}}); err != nil {
			t.Fatal(err)
		}
		if err := h.db.CheckMigrations(t.Context(), []db.Schema{Schema(), {Owner: "test", FS: testFS}}); err != nil {
			t.Fatal(err)
		}

		var n notes
		k := noter("note", &n, Options{Keep: time.Hour})
		few := noter("few", &n, Options{MaxRunning: 1})
		j := h.jobs(Config{}, k, few)
		if again := enqueue(h, k, args{9}, Unique("k")); again != 1 {
			t.Errorf("the key of the version before was not found: %d", again)
		}
		// An old node adds and ends jobs beside us, also ones that we have given a lane or a limit.
		old(5, "note", "default", nil)
		do(oldTake, time.Now().UnixMicro(), 5)
		do(oldRetry, time.Now().Add(time.Second).UnixMicro(), "no", 5, 1)
		mine := enqueue(h, k, args{6}, Priority(2), From("x"))
		do(oldTake, time.Now().UnixMicro(), mine)
		do(oldBury, "dead", time.Now().UnixMicro(), mine, 1)
		do(oldDone, mine, 1)
		if i := h.info(j, mine); i.State != Failed || i.Pool != "default" || i.Priority != 2 || len(i.Failures) != 1 || i.Failures[0].Error != "dead" {
			t.Errorf("%+v", i)
		}
		stop := h.run(j)
		time.Sleep(time.Minute) // the old node that took 2 is gone
		stop()
		if got := n.sorted(); got != "1 2 3 4 5" {
			t.Error(got)
		}
		if h.count(`SELECT COUNT(*) FROM job_task`) != 0 || h.orphans() != 0 {
			t.Error("some are left")
		}
		if err := j.RetryDead(t.Context(), mine); err != nil {
			t.Fatal(err)
		}
		h.drain(j)
		if got := n.sorted(); got != "1 2 3 4 5 6" {
			t.Error(got)
		}
	})
}
