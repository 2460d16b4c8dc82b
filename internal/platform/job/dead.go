package job

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Dead is a job that was given up. Its row stays until RetryDead or Prune takes it.
type Dead struct {
	ID       int64
	Kind     string
	Pool     string
	Args     string // JSON
	Attempts int
	Error    string // of the last attempt, shortened
	DeadAt   time.Time
}

// Dead returns the oldest dead jobs, at most limit of 1 to 1000.
func (j *Jobs) Dead(ctx context.Context, limit int) (ds []Dead, err error) {
	defer levee.Wrap(&err, "job.Dead(%d)", limit)
	if limit < 1 || limit > 1000 {
		return nil, levee.Invalid("limit", "1 to 1000", limit)
	}
	rows, err := j.db.Query(ctx, `SELECT id, kind, pool, args, attempts, error, dead_at FROM job_dead ORDER BY dead_at, id LIMIT ?`, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d Dead
		var at int64
		if err := rows.Scan(&d.ID, &d.Kind, &d.Pool, &d.Args, &d.Attempts, &d.Error, &at); err != nil {
			return nil, err
		}
		d.DeadAt = time.UnixMicro(at)
		d.Pool, _, _ = splitLane(d.Pool)
		ds = append(ds, d)
	}
	return ds, rows.Err()
}

// RetryDead lets a dead job run again, at once and with all its attempts. It fails with CodeNotFound when there is none, and with
// CodeConflict while another of its unique key waits or runs.
func (j *Jobs) RetryDead(ctx context.Context, id int64) (err error) {
	defer levee.Wrap(&err, "job.RetryDead(%d)", id)
	return j.db.Tx(ctx, "job.retry_dead", func(ctx context.Context, tx *db.Tx) error {
		var kind, pool, args string
		var unique, source db.NullString
		err := tx.QueryRow(ctx, `SELECT kind, pool, args, unique_key, source FROM job_dead WHERE id = ?`, id).Scan(&kind, &pool, &args, &unique, &source)
		if errors.Is(err, db.ErrNoRows) {
			return levee.E(levee.CodeNotFound, "no such dead job")
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, insertTask, id, kind, pool, args, orNull(unique.String), j.clock().UnixMicro(), orNull(source.String))
		if db.IsUnique(err) {
			return levee.E(levee.CodeConflict, "another job of the same key waits or runs").Because(err)
		}
		if err != nil {
			return err
		}
		tx.AfterCommit(j.wakeFn)
		if err := held(tx.Exec(ctx, `DELETE FROM job_dead WHERE id = ?`, id)); err != nil {
			return err
		}
		return j.tellTx(ctx, tx, End{ID: id, Source: source.String, What: "retried"})
	})
}

// Prune removes for ever what died before a time, at most 1000 rows a call, and returns their number: the caller repeats while
// it is 1000. Nothing else needs pruning: a job leaves the tables when it is done.
func (j *Jobs) Prune(ctx context.Context, before time.Time) (n int, err error) {
	defer levee.Wrap(&err, "job.Prune")
	err = j.db.Tx(ctx, "job.prune", func(ctx context.Context, tx *db.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id, COALESCE(source, '') FROM job_dead WHERE dead_at < ? ORDER BY dead_at LIMIT 1000`, before.UnixMicro())
		if err != nil {
			return err
		}
		defer rows.Close()
		var gone []End
		for rows.Next() {
			e := End{What: "pruned"}
			if err := rows.Scan(&e.ID, &e.Source); err != nil {
				return err
			}
			gone = append(gone, e)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, e := range gone {
			if _, err := tx.Exec(ctx, `DELETE FROM job_dead WHERE id = ?`, e.ID); err != nil {
				return err
			}
		}
		n = len(gone)
		return j.tellTx(ctx, tx, gone...)
	})
	return n, err
}

// Stats counts jobs. Counting reads all waiting rows: it is for a page, not for a loop.
type Stats struct {
	Due     int // could run now
	Later   int // wait for their time
	Running int // in all processes
	Dead    int
}

// Stats counts the jobs in the tables.
func (j *Jobs) Stats(ctx context.Context) (s Stats, err error) {
	defer levee.Wrap(&err, "job.Stats")
	now := j.clock().UnixMicro()
	for _, q := range []struct {
		to   *int
		text string
		args []any
	}{
		{&s.Due, `SELECT COUNT(*) FROM job_task WHERE due_at <= ?`, []any{now}},
		{&s.Later, `SELECT COUNT(*) FROM job_task WHERE due_at > ?`, []any{now}},
		{&s.Running, `SELECT COUNT(*) FROM job_task WHERE lease_until IS NOT NULL`, nil},
		{&s.Dead, `SELECT COUNT(*) FROM job_dead`, nil},
	} {
		if err := j.db.QueryRow(ctx, q.text, q.args...).Scan(q.to); err != nil {
			return s, err
		}
	}
	return s, nil
}
