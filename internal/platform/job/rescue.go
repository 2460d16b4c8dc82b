package job

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"levee/internal/platform/db"
)

// sighting is a lease as it was seen, and since when it has not changed; monotonic.
type sighting struct {
	fence, until int64
	since        time.Time
}

// rescue takes back jobs of processes that died or were paused, and single ones whose lease has run out: a function that ignores the end of its
// time, and what a program of the version before ran. A lease is over when its row has stood still for so long as watched from here; what time
// is written there is another machine's and only has to change. It costs no attempt, but a job that does it to maxCrashes processes in a
// row is dead. next is when to look again.
func (j *Jobs) rescue(ctx context.Context) (next time.Time, err error) {
	if next, err = j.bury(ctx); err != nil {
		return next, err
	}
	found, over, err := j.expired(ctx)
	if err != nil || len(found) == 0 {
		return sooner(next, over), err
	}
	return sooner(next, over), j.db.Tx(ctx, "job.rescue", func(ctx context.Context, tx *db.Tx) error { return j.takeBackTx(ctx, tx, found) })
}

// expired is a job whose lease has stood still for its length, or whose process has.
type expired struct {
	id, fence, until int64
	source           string
	kind, failures   string
	attempts         int
	crashes          int
}

const expiredColumns = `id, fence, lease_until, kind, crashes, attempts, COALESCE(failures, ''), COALESCE(source, '')`

func scanExpired(rows *db.Rows) (e expired, err error) {
	return e, rows.Scan(&e.id, &e.fence, &e.until, &e.kind, &e.crashes, &e.attempts, &e.failures, &e.source)
}

// runningOf returns what runs under the row of a process; 0: of any, or of none.
func (j *Jobs) runningOf(ctx context.Context, tx *db.Tx, runner int64) (all []expired, err error) {
	rows, err := tx.Query(ctx, `SELECT `+expiredColumns+` FROM job_task WHERE lease_until >= 0 AND (runner = ? OR ? = 0) ORDER BY id`, runner, runner)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanExpired(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, errors.Join(rows.Err(), rows.Close())
}

// expired watches the leases of others and returns those that are over.
func (j *Jobs) expired(ctx context.Context) (found []expired, next time.Time, err error) {
	rows, err := j.db.Query(ctx, `SELECT `+expiredColumns+` FROM job_task WHERE lease_until >= 0 ORDER BY lease_until LIMIT ?`, watchMax)
	if err != nil {
		return nil, next, err
	}
	defer rows.Close()
	mine, mono := j.alive(), time.Now()
	next = mono.Add(j.cfg.Poll)
	seen := make(map[int64]sighting, len(j.seen))
	for rows.Next() {
		e, err := scanExpired(rows)
		if err != nil {
			return nil, next, err
		}
		s, ok := j.seen[e.id]
		if !ok || s.fence != e.fence || s.until != e.until {
			s = sighting{e.fence, e.until, mono}
		}
		seen[e.id] = s
		if mine[e.id] == e.fence && e.fence != 0 {
			continue // alive, as far as this process can tell
		}
		if over := s.since.Add(j.cfg.Lease); over.After(mono) {
			next = sooner(next, over)
		} else if len(found) < rescueMax {
			found = append(found, e)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, next, err
	}
	j.seen = seen
	slices.SortFunc(found, func(a, b expired) int { return cmp.Compare(a.id, b.id) })
	return found, next, nil
}

// takeBackTx lets what has expired wait again, before all others of its lane, unless it was extended, ended or taken since it was read.
func (j *Jobs) takeBackTx(ctx context.Context, tx *db.Tx, found []expired) error {
	const text = "its lease ran out again and again while it ran: does it take the process down?"
	var again, dead []expired
	var ends []End
	for _, e := range found {
		err := held(tx.Exec(ctx, `UPDATE job_task SET due_at = 0, lease_until = NULL, fence = fence + 1, attempts = attempts - 1, `+
			`crashes = crashes + 1 WHERE id = ? AND fence = ? AND lease_until = ?`, e.id, e.fence, e.until))
		if errors.Is(err, errLost) {
			continue // it was extended or taken meanwhile
		}
		if err != nil {
			return err
		}
		if again = append(again, e); e.crashes+1 < maxCrashes {
			continue
		}
		dead, ends = append(dead, e), append(ends, End{e.id, e.source, outcomeDead, "", text})
		if err := held(tx.Exec(ctx, `UPDATE job_task SET due_at = NULL, lease_until = 0 WHERE id = ? AND fence = ?`, e.id, e.fence+1)); err != nil {
			return err
		}
		if err := j.buryTx(ctx, tx, e.id, e.fence+1, text, j.failed(e.failures, e.attempts, text)); err != nil {
			return err
		}
	}
	if len(again) == 0 {
		return nil
	}
	tx.AfterCommit(func() {
		j.m.rescued.Add(float64(len(again)))
		j.log.WarnContext(ctx, "the leases of jobs ran out: their process has died, or was paused; they run again", "jobs", len(again)-len(dead), "first", again[0].id)
		for _, e := range again {
			j.tell(Event{What: whatRescued, ID: e.id, Job: e.kind, Attempt: e.attempts})
		}
		for _, e := range dead {
			j.log.ErrorContext(ctx, "a job is dead: its lease ran out again and again", "job", e.kind, "id", e.id, "crashes", e.crashes+1)
		}
		j.wake()
	})
	return j.tellTx(ctx, tx, ends...)
}

// alive returns the jobs that run here under a lease that is kept, with their fences.
func (j *Jobs) alive() map[int64]int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := make(map[int64]int64, len(j.running))
	for c := range j.running {
		if !c.lost && !c.stuck {
			ids[c.id] = c.fence
		}
	}
	return ids
}
