package job

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// ErrCancelled is the cause (context.Cause) for which a cancelled job's context ends.
var ErrCancelled = errors.New("the job was cancelled")

const (
	controlEvery = time.Second // how often a node reads what people ask of it, at least
	controlMax   = 20_000      // rows of it
)

// control is what people ask of running nodes, as it was read last.
type control struct {
	pools, kinds map[string]bool // paused
	jobs         map[int64]bool  // to be cancelled
}

// Cancel ends a job. One that waits leaves at once and never runs. Of one that runs, on whichever node, the context ends within a second (Connect: at
// once) with ErrCancelled as its cause; when its function then returns an error, the job is cancelled and not tried again; when it returns nil it was done
// all the same. A function that does not look at its context goes on. It fails with CodeNotFound for a job that neither waits nor runs.
func (j *Jobs) Cancel(ctx context.Context, id int64) (err error) {
	defer levee.Wrap(&err, "job.Cancel(%d)", id)
	return j.db.Tx(ctx, "job.cancel", func(ctx context.Context, tx *db.Tx) error {
		c := &claim{id: id}
		var lane string
		var waits bool
		err := tx.QueryRow(ctx, `SELECT kind, pool, args, COALESCE(source, ''), COALESCE(failures, ''), attempts, due_at IS NOT NULL FROM job_task WHERE id = ?`+
			j.db.Dialect().ForUpdate(), id).Scan(&c.name, &lane, &c.args, &c.source, &c.failures, &c.attempts, &waits)
		if errors.Is(err, db.ErrNoRows) {
			return levee.E(levee.CodeNotFound, "no such job waits or runs")
		}
		if err != nil {
			return err
		}
		if !waits {
			if _, err := tx.Exec(ctx, j.db.Dialect().InsertIgnore("job_control", "name", "at"), cancelName(id), j.clock().UnixMicro()); err != nil {
				return err
			}
			tx.AfterCommit(j.asked)
			return nil
		}
		if _, err := tx.Exec(ctx, `DELETE FROM job_task WHERE id = ?`, id); err != nil {
			return err
		}
		j.mu.Lock()
		c.kind = j.kinds[c.name]
		name, _, _ := splitLane(lane)
		c.pool = &pool{name: name}
		j.mu.Unlock()
		tx.AfterCommit(func() {
			j.tell(Event{What: outcomeCancelled, ID: id, Job: c.name, Source: c.source, Attempt: c.attempts})
		})
		return j.keepTx(ctx, tx, c, outcomeCancelled)
	})
}

func cancelName(id int64) string { return "job:" + strconv.FormatInt(id, 10) }

// PausePool lets no job of a pool begin on any node, within a second, until it is called with false. What runs goes on, and
// what is enqueued waits. The pool need not be known here; CodeInvalid: its name is none.
func (j *Jobs) PausePool(ctx context.Context, pool string, paused bool) (err error) {
	defer levee.Wrap(&err, "job.PausePool(%q)", pool)
	return j.pause(ctx, "pool:", pool, paused)
}

// PauseKind is PausePool for one kind of job. The other kinds of its pool go on.
func (j *Jobs) PauseKind(ctx context.Context, kind string, paused bool) (err error) {
	defer levee.Wrap(&err, "job.PauseKind(%q)", kind)
	return j.pause(ctx, "kind:", kind, paused)
}

func (j *Jobs) pause(ctx context.Context, what, name string, paused bool) error {
	if name == "" || len(name) > maxName {
		return levee.Invalid("name", "1 to 190 bytes", name)
	}
	return j.db.Tx(ctx, "job.pause", func(ctx context.Context, tx *db.Tx) (err error) {
		if paused {
			_, err = tx.Exec(ctx, j.db.Dialect().InsertIgnore("job_control", "name", "at"), what+name, j.clock().UnixMicro())
		} else {
			_, err = tx.Exec(ctx, `DELETE FROM job_control WHERE name = ?`, what+name)
		}
		tx.AfterCommit(j.asked)
		return err
	})
}

// Paused returns the pools and kinds that are paused.
func (j *Jobs) Paused(ctx context.Context) (pools, kinds []string, err error) {
	defer levee.Wrap(&err, "job.Paused")
	for _, q := range []struct {
		what string
		to   *[]string
	}{{"pool:", &pools}, {"kind:", &kinds}} {
		rows, err := j.db.Query(ctx, `SELECT name FROM job_control WHERE name > ? AND name < ? ORDER BY name`, q.what, strings.TrimSuffix(q.what, ":")+";")
		if err != nil {
			return nil, nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return nil, nil, err
			}
			*q.to = append(*q.to, strings.TrimPrefix(name, q.what))
		}
		if err := rows.Err(); err != nil {
			return nil, nil, err
		}
	}
	return pools, kinds, nil
}

// asked tells all nodes that something is asked of them.
func (j *Jobs) asked() {
	j.heard.Store(true)
	j.wake()
	if ring := j.ring.Load(); ring != nil {
		(*ring)()
	}
}

// obey reads what is asked of this node, and ends the contexts of what is to be cancelled.
func (j *Jobs) obey(ctx context.Context) error {
	rows, err := j.db.Query(ctx, `SELECT name FROM job_control LIMIT ?`, controlMax)
	if err != nil {
		return err
	}
	defer rows.Close()
	now := control{map[string]bool{}, map[string]bool{}, map[int64]bool{}}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		switch what, rest, _ := strings.Cut(name, ":"); what {
		case "pool":
			now.pools[rest] = true
		case "kind":
			now.kinds[rest] = true
		case "job":
			if id, err := strconv.ParseInt(rest, 10, 64); err == nil {
				now.jobs[id] = true
			}
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.control = now
	if len(now.jobs) == 0 {
		return nil
	}
	for c := range j.running {
		if c.kind != nil && now.jobs[c.id] {
			c.end(ErrCancelled)
		}
	}
	return nil
}

// forgetControl removes what was asked of jobs that are over meanwhile.
func (j *Jobs) forgetControl(ctx context.Context) error {
	j.mu.Lock()
	ids := make([]int64, 0, len(j.control.jobs))
	for id := range j.control.jobs {
		ids = append(ids, id)
	}
	j.mu.Unlock()
	for _, id := range ids {
		var one int
		err := j.db.QueryRow(ctx, `SELECT 1 FROM job_task WHERE id = ?`, id).Scan(&one)
		if errors.Is(err, db.ErrNoRows) {
			err = j.db.Tx(ctx, "job.forget", func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `DELETE FROM job_control WHERE name = ?`, cancelName(id))
				return err
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
