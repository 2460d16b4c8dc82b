package job

import (
	"context"
	"errors"
	"time"

	"levee/internal/platform/db"
)

// Parts of a lease: how often a process that runs jobs says that it lives, for how long it has to see another stand still before it says so, and how
// often it looks.
const (
	beatsOfLease  = 8
	noticeOfLease = 6
	looksOfLease  = 20 // where others live; twice as often while one of them stands still
)

// presence is this process's row in job_runner. Others take back its jobs when they have together watched the row stand still for a lease;
// which of them watched does not matter, so it is found out although none of them lives for so long. No two clocks are compared:
// whoever adds to the time has measured it by its own monotonic clock, between reading the row and changing it while it was still as read.
// So no two of these times overlap, and their sum is never more than has really gone by.
type presence struct {
	id    int64     // 0: there is no row, and this process runs nothing
	until time.Time // before that nobody takes the row's jobs; monotonic
	next  time.Time // when to say so again
}

// standing is another's row as it was read, and when that was; monotonic.
type standing struct {
	beat, micros int64
	since        time.Time
}

// appearTx returns the id of this process's row, which it writes unless it is there. The caller calls present after the commit.
func (j *Jobs) appearTx(ctx context.Context, tx *db.Tx) (id int64, err error) {
	if j.here.id != 0 {
		return j.here.id, nil
	}
	if id, err = j.ids.Next(); err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO job_runner (id, node, beat, still) VALUES (?, ?, 0, 0)`, id, j.cfg.Node)
	return id, err
}

// present notes that the row was written or changed no earlier than at began.
func (j *Jobs) present(id int64, began time.Time) {
	j.here = presence{id, began.Add(j.cfg.Lease), began.Add(j.cfg.Lease / beatsOfLease)}
}

// sayAlive raises the row's beat, or removes the row when nothing runs. When the row is gone or its time is over, all that runs here is or will be
// another's. It returns when it is to be called again.
func (r *runner) sayAlive(ctx context.Context) (next time.Time) {
	j, now := r.j, time.Now()
	if j.here.id == 0 {
		return now.Add(j.cfg.Poll)
	}
	if now.Before(j.here.next) {
		return j.here.next
	}
	j.mu.Lock()
	idle := len(j.running) == 0
	j.mu.Unlock()
	query := `UPDATE job_runner SET beat = beat + 1, still = 0 WHERE id = ?`
	if idle {
		query = `DELETE FROM job_runner WHERE id = ?`
	}
	ctx, cancel := context.WithTimeout(ctx, j.cfg.Lease/3)
	defer cancel()
	err := j.db.Tx(ctx, "job.alive", func(ctx context.Context, tx *db.Tx) error { return held(tx.Exec(ctx, query, j.here.id)) })
	switch {
	case err == nil && !idle:
		j.present(j.here.id, now)
	case err == nil || errors.Is(err, errLost):
		r.disappear()
	default:
		j.log.ErrorContext(ctx, "the other nodes could not be told that this one runs jobs", "err", err)
		if j.here.next = time.Now().Add(max(j.cfg.Lease/looksOfLease, slack)); !j.here.until.After(time.Now()) {
			r.disappear()
		}
	}
	if j.here.id == 0 {
		return now.Add(j.cfg.Poll)
	}
	return j.here.next
}

// disappear ends all runs: the row that their leases hang on is gone, or counts as gone.
func (r *runner) disappear() {
	r.j.here = presence{}
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	for c := range r.j.running {
		r.j.lose(c)
	}
}

// bury looks at the rows of the others, adds the time for which they have stood still, and takes back the jobs of those for which that is a
// lease. next is when to look again.
func (j *Jobs) bury(ctx context.Context) (next time.Time, err error) {
	rows, err := j.db.Query(ctx, `SELECT id, beat, still FROM job_runner WHERE id <> ?`, j.here.id)
	if err != nil {
		return next, err
	}
	defer rows.Close()
	read := time.Now()
	seen := map[int64]standing{}
	for rows.Next() {
		var id int64
		s := standing{since: read}
		if err := rows.Scan(&id, &s.beat, &s.micros); err != nil {
			return next, err
		}
		if old, ok := j.others[id]; ok && old.beat == s.beat && old.micros == s.micros {
			s.since = old.since
		}
		seen[id] = s
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return next, err
	}
	j.others = seen
	wait := max(j.cfg.Lease/looksOfLease, 10*time.Millisecond)
	look := wait / 2
	if len(seen) == 0 {
		wait = j.cfg.Poll
	}
	j.seam.sleep()
	for id, s := range seen {
		stood := time.Since(s.since)
		total := time.Duration(s.micros)*time.Microsecond + stood
		switch {
		case total >= j.cfg.Lease:
			err = j.buryOne(ctx, id, s)
		case stood >= j.cfg.Lease/noticeOfLease || s.micros > 0 && stood >= look:
			wait = look
			err = j.db.Tx(ctx, "job.still", func(ctx context.Context, tx *db.Tx) error {
				return held(tx.Exec(ctx, `UPDATE job_runner SET still = ? WHERE id = ? AND beat = ? AND still = ?`, total.Microseconds(), id, s.beat, s.micros))
			})
			if err == nil {
				seen[id] = standing{s.beat, total.Microseconds(), time.Now()}
			} else if errors.Is(err, errLost) {
				err = nil // it lives, or another was faster
			}
		}
		if err != nil {
			return next, err
		}
	}
	return read.Add(wait), nil
}

// buryOne takes back all jobs of a process that is dead or asleep.
func (j *Jobs) buryOne(ctx context.Context, id int64, s standing) error {
	err := j.db.Tx(ctx, "job.bury", func(ctx context.Context, tx *db.Tx) error {
		if err := held(tx.Exec(ctx, `DELETE FROM job_runner WHERE id = ? AND beat = ? AND still = ?`, id, s.beat, s.micros)); err != nil {
			return err
		}
		found, err := j.runningOf(ctx, tx, id)
		if err != nil {
			return err
		}
		return j.takeBackTx(ctx, tx, found)
	})
	if errors.Is(err, errLost) {
		return nil
	}
	return err
}

// sweep takes back all that was running, of a process that knows that no other runs jobs: whoever ran them is dead.
func (j *Jobs) sweep(ctx context.Context) error {
	return j.db.Tx(ctx, "job.sweep", func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM job_runner`); err != nil {
			return err
		}
		found, err := j.runningOf(ctx, tx, 0)
		if err != nil {
			return err
		}
		return j.takeBackTx(ctx, tx, found)
	})
}
