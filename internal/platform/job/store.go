package job

import (
	"context"
	"errors"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

func claimSQL(d db.Dialect) string {
	return strings.TrimSpace(`SELECT id, kind, args, attempts, crashes, fence, due_at FROM job_task ` +
		`WHERE pool = ? AND due_at >= 0 AND due_at <= ? ORDER BY due_at, id LIMIT ? ` + d.ForUpdate() + ` ` + d.SkipLocked())
}

// prepare brings the tables and this program together: rows for new periods, and pools whose kinds have moved elsewhere but
// whose jobs still wait.
func (j *Jobs) prepare(ctx context.Context, periods bool) error {
	for last := ""; ; {
		var name string
		err := j.db.QueryRow(ctx, `SELECT pool FROM job_task WHERE pool > ? ORDER BY pool LIMIT 1`, last).Scan(&name)
		if errors.Is(err, db.ErrNoRows) {
			break
		}
		if err != nil {
			return err
		}
		j.mu.Lock()
		j.addPool(name)
		j.mu.Unlock()
		last = name
	}
	if !periods {
		return nil
	}
	return j.preparePeriods(ctx)
}

// nextDue returns how long it is until the first waiting job of a pool is due; zero or less means now.
func (j *Jobs) nextDue(ctx context.Context, pool string) (in time.Duration, ok bool, err error) {
	var at int64
	err = j.db.QueryRow(ctx, `SELECT due_at FROM job_task WHERE pool = ? AND due_at >= 0 ORDER BY due_at LIMIT 1`, pool).Scan(&at)
	if errors.Is(err, db.ErrNoRows) {
		return 0, false, nil
	}
	return time.UnixMicro(at).Sub(j.clock()), err == nil, err
}

// claim takes due jobs for the free slots of the pools, and the firings that nobody else has taken, in one transaction.
func (j *Jobs) claim(ctx context.Context, rooms []room, fire []*firing) (claims []*claim, err error) {
	began, now := time.Now(), j.clock()
	j.mu.Lock()
	wasSuspect := j.suspect
	j.mu.Unlock()
	suspect := wasSuspect
	err = j.db.Tx(ctx, "job.claim", func(ctx context.Context, tx *db.Tx) error {
		claims = claims[:0]
		suspect = wasSuspect
		for _, f := range fire {
			c, err := j.fireTx(ctx, tx, f, now)
			if err != nil {
				return err
			}
			if c != nil {
				claims = append(claims, c)
			}
		}
		for _, r := range rooms {
			cs, err := j.claimPoolTx(ctx, tx, r, now, &suspect)
			if err != nil {
				return err
			}
			claims = append(claims, cs...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if suspect != wasSuspect {
		j.mu.Lock()
		j.suspect = suspect
		j.mu.Unlock()
	}
	for _, c := range claims {
		left := c.until.Sub(now)
		c.until = began.Add(left) // from here on by the monotonic clock
		c.beat = began.Add(left / 3)
		j.m.late.WithLabelValues(c.pool.name).Observe(max(now.Sub(c.dueAt).Seconds(), 0))
	}
	return claims, nil
}

// claimPoolTx takes due jobs of one pool. Of those that were interrupted by a crash it takes one at a time: should it be the
// one that takes processes down, the others are not interrupted with it again and again until they count as dead.
func (j *Jobs) claimPoolTx(ctx context.Context, tx *db.Tx, r room, now time.Time, suspect **claim) ([]*claim, error) {
	rows, err := tx.Query(ctx, j.sqlClaim, r.pool.name, now.UnixMicro(), r.free)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var claims []*claim
	until := now.Add(j.cfg.Lease)
	for rows.Next() {
		c := &claim{pool: r.pool, lease: j.cfg.Lease, until: until}
		var due int64
		if err := rows.Scan(&c.id, &c.name, &c.args, &c.attempts, &c.crashes, &c.fence, &due); err != nil {
			return nil, err
		}
		if c.crashes > 0 && *suspect != nil {
			continue // the end of the other comes with a wake-up
		}
		if c.crashes > 0 {
			*suspect = c
		}
		c.attempts++
		c.fence++
		c.kind = j.kinds[c.name]
		c.dueAt = time.UnixMicro(due)
		claims = append(claims, c)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(claims) == 0 {
		return nil, err
	}
	in, args := list(claims, until.UnixMicro())
	_, err = tx.Exec(ctx, `UPDATE job_task SET due_at = NULL, lease_until = ?, fence = fence + 1, attempts = attempts + 1 `+
		`WHERE id IN `+in, args...)
	return claims, err
}

// list writes the claims' ids as "(?, ?)" filled up with repetitions to a power of two, so that few different statements are
// prepared. first is put before them.
func list(claims []*claim, first any) (string, []any) {
	n := 1
	for n < len(claims) {
		n *= 2
	}
	args := make([]any, 1, n+1)
	args[0] = first
	for i := range n {
		args = append(args, claims[min(i, len(claims)-1)].id)
	}
	return "(?" + strings.Repeat(", ?", n-1) + ")", args
}

// held reports errLost unless a fenced statement has changed exactly one row.
func held(res db.Result, err error) error {
	if err != nil {
		return err
	}
	switch n, err := res.RowsAffected(); {
	case err != nil:
		return err
	case n != 1:
		return errLost
	}
	return nil
}

func deleteTx(ctx context.Context, tx *db.Tx, c *claim) error {
	return held(tx.Exec(ctx, `DELETE FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, c.id, c.fence))
}

// ending is how a run ended.
type ending struct {
	outcome string
	pause   time.Duration
	err     error
}

// end writes an ending; errLost when the lease is no longer c's.
func (j *Jobs) end(ctx context.Context, c *claim, e ending) error {
	if c.period != nil {
		return j.endPeriod(ctx, c, e)
	}
	return j.db.Tx(ctx, "job.end", func(ctx context.Context, tx *db.Tx) error {
		due := j.clock().Add(e.pause).UnixMicro()
		switch e.outcome {
		case outcomeDone:
			return deleteTx(ctx, tx, c)
		case outcomeDead:
			return j.buryTx(ctx, tx, c.id, c.fence, e.err.Error())
		case outcomeRetry:
			return held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, crashes = 0, error = ? `+
				`WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, due, levee.Shorten(e.err.Error(), errorMax), c.id, c.fence))
		case outcomeSnoozed:
			return held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, attempts = attempts - 1, crashes = 0 `+
				`WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, due, c.id, c.fence))
		default: // interrupted: as if it had not been
			return held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, attempts = attempts - 1 `+
				`WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, due, c.id, c.fence))
		}
	})
}

// buryTx moves a running job to job_dead.
func (j *Jobs) buryTx(ctx context.Context, tx *db.Tx, id, fence int64, text string) error {
	if _, err := tx.Exec(ctx, `INSERT INTO job_dead (id, kind, pool, args, unique_key, attempts, error, dead_at) `+
		`SELECT id, kind, pool, args, unique_key, attempts, ?, ? FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`,
		levee.Shorten(text, errorMax), j.clock().UnixMicro(), id, fence); err != nil {
		return err
	}
	return held(tx.Exec(ctx, `DELETE FROM job_task WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`, id, fence))
}

// extend gives the claims another lease; lost are those that are no longer ours.
func (j *Jobs) extend(ctx context.Context, claims []*claim) (lost map[*claim]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.cfg.Lease/3)
	defer cancel()
	now := j.clock()
	err = j.db.Tx(ctx, "job.extend", func(ctx context.Context, tx *db.Tx) error {
		lost = map[*claim]bool{}
		for _, c := range claims {
			until := now.Add(c.lease).UnixMicro()
			var err error
			if c.period != nil {
				err = held(tx.Exec(ctx, `UPDATE job_period SET lease_until = ? WHERE name = ? AND fence = ? AND lease_until > 0`,
					until, c.name, c.fence))
			} else {
				err = held(tx.Exec(ctx, `UPDATE job_task SET lease_until = ? WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`,
					until, c.id, c.fence))
			}
			if errors.Is(err, errLost) {
				lost[c] = true
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return lost, err
}

// rescue takes back jobs whose lease has run out: their process died or was paused. It costs no attempt, but a job that does it
// to maxCrashes processes in a row is dead.
func (j *Jobs) rescue(ctx context.Context) error {
	now := j.clock().UnixMicro()
	type expired struct {
		id, fence int64
		kind      string
		crashes   int
	}
	var found []expired
	rows, err := j.db.Query(ctx, `SELECT id, fence, kind, crashes FROM job_task WHERE lease_until >= 0 AND lease_until <= ? `+
		`ORDER BY lease_until LIMIT ?`, now, rescueMax)
	if err != nil {
		return err
	}
	defer rows.Close()
	mine := j.alive()
	for rows.Next() {
		var e expired
		if err := rows.Scan(&e.id, &e.fence, &e.kind, &e.crashes); err != nil {
			return err
		}
		if mine[e.id] != e.fence || e.fence == 0 { // ours is alive, however the wall clock has jumped
			found = append(found, e)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(found) == 0 {
		return err
	}
	return j.db.Tx(ctx, "job.rescue", func(ctx context.Context, tx *db.Tx) error {
		for _, e := range found {
			err := held(tx.Exec(ctx, `UPDATE job_task SET due_at = ?, lease_until = NULL, fence = fence + 1, attempts = attempts - 1, `+
				`crashes = crashes + 1 WHERE id = ? AND fence = ? AND lease_until <= ?`, now, e.id, e.fence, now))
			if errors.Is(err, errLost) {
				continue // it was extended or taken meanwhile
			}
			if err != nil {
				return err
			}
			tx.AfterCommit(j.m.rescued.Inc)
			if e.crashes+1 < maxCrashes {
				tx.AfterCommit(func() {
					j.log.WarnContext(ctx, "the lease of a job ran out; it runs again", "job", e.kind, "id", e.id, "crashes", e.crashes+1)
				})
				continue
			}
			if err := held(tx.Exec(ctx, `UPDATE job_task SET due_at = NULL, lease_until = 0 WHERE id = ? AND fence = ?`,
				e.id, e.fence+1)); err != nil {
				return err
			}
			if err := j.buryTx(ctx, tx, e.id, e.fence+1,
				"its lease ran out again and again while it ran: does it take the process down?"); err != nil {
				return err
			}
			tx.AfterCommit(func() {
				j.log.ErrorContext(ctx, "a job is dead: its lease ran out again and again", "job", e.kind, "id", e.id, "crashes", e.crashes+1)
			})
		}
		return nil
	})
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
