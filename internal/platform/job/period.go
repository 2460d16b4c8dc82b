package job

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Bounds of a period, and the least lease of one: a shorter lease would be lost to any pause of the process.
const (
	minEvery    = 100 * time.Millisecond
	maxEvery    = 366 * 24 * time.Hour
	periodLease = time.Second
	clockLeap   = time.Minute // a next firing that is further off than this beyond a period means that the clock was set back
)

type period struct {
	name  string
	every time.Duration
	o     Options
	fn    func(ctx context.Context) error
	err   error
}

// Periodic is a function that is fired again and again, made by Every.
type Periodic struct{ p *period }

// Every makes a function that is fired once per period d, 100 ms to 366 days. Periods are counted from 1970-01-01 UTC, so that
// all processes agree: every hour means at the full hours. A firing that finds the one before still running waits for it; after a
// standstill there is one firing, not one for each that was missed. A failure is tried again after the backoff, or in the next
// period if that is sooner; an interrupted run is fired again after its lease. The name is kept in SQL.
//
// A period of up to the lease costs one small commit each, a longer one two.
func Every(name string, d time.Duration, o Options, fn func(ctx context.Context) error) Periodic {
	p := &period{name: name, every: d, o: o, fn: fn}
	p.err = p.o.check(name)
	switch {
	case d < minEvery || d > maxEvery || d%time.Microsecond != 0:
		p.err = levee.Invalid(name+".every", "100ms to 366 days in whole microseconds", d)
	case fn == nil:
		p.err = levee.Invalid(name, "a function", "nil")
	}
	return Periodic{p}
}

func (q Periodic) register(j *Jobs) error {
	switch {
	case q.p == nil:
		return levee.Invalid("periodic job", "made by job.Every", "a zero value")
	case q.p.err != nil:
		return q.p.err
	case j.periods[q.p.name] != nil:
		return levee.Invalid("periodic job", "a name that is not taken", q.p.name)
	}
	j.periods[q.p.name] = q.p
	j.addPool(q.p.o.Pool)
	return nil
}

// boundary returns the end of the period that t is in, in microseconds.
func (p *period) boundary(t time.Time) int64 {
	d := p.every.Microseconds()
	return (t.UnixMicro()/d + 1) * d
}

// periodRow is a row of job_period.
type periodRow struct {
	every, next, lease, fence int64
	attempts                  int
}

// due tells whether the row asks for a firing now, else at which time (microseconds) it has to be looked at again.
func (p *period) due(r periodRow, now time.Time) (bool, int64) {
	t := now.UnixMicro()
	switch {
	case r.lease > t && r.next > t:
		return false, min(r.lease, r.next) // somebody runs it, and may be through by then
	case r.lease > t:
		return false, r.lease
	case r.interrupted(), r.next <= t:
		return true, t
	case time.Duration(r.next-t)*time.Microsecond > p.every+max(p.every, clockLeap):
		return true, t
	}
	return false, r.next
}

// interrupted tells that a run was neither finished nor given up when its lease ended. Runs of short periods that ended well leave
// their lease behind, equal to next, to save a write.
func (r periodRow) interrupted() bool { return r.lease > 0 && r.lease < r.next }

func (j *Jobs) readPeriods(ctx context.Context) (map[string]periodRow, error) {
	rows, err := j.db.Query(ctx, `SELECT name, every_us, next_at, lease_until, fence, attempts FROM job_period`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]periodRow{}
	for rows.Next() {
		var name string
		var r periodRow
		if err := rows.Scan(&name, &r.every, &r.next, &r.lease, &r.fence, &r.attempts); err != nil {
			return nil, err
		}
		all[name] = r
	}
	return all, rows.Err()
}

// preparePeriods makes the rows of new periods and moves those whose length was changed.
func (j *Jobs) preparePeriods(ctx context.Context) error {
	have, err := j.readPeriods(ctx)
	if err != nil {
		return err
	}
	var missing, moved []*period
	for name, p := range j.periods {
		if r, ok := have[name]; !ok {
			missing = append(missing, p)
		} else if r.every != p.every.Microseconds() {
			moved = append(moved, p)
		}
	}
	if len(missing)+len(moved) == 0 {
		return nil
	}
	insert := j.db.Dialect().InsertIgnore("job_period", "name", "every_us", "next_at", "lease_until", "fence", "attempts", "error")
	return j.db.Tx(ctx, "job.periods", func(ctx context.Context, tx *db.Tx) error {
		now := j.clock()
		for _, p := range missing {
			if _, err := tx.Exec(ctx, insert, p.name, p.every.Microseconds(), p.boundary(now), 0, 0, 0, ""); err != nil {
				return err
			}
		}
		for _, p := range moved {
			if _, err := tx.Exec(ctx, `UPDATE job_period SET every_us = ?, next_at = ? WHERE name = ?`,
				p.every.Microseconds(), p.boundary(now), p.name); err != nil {
				return err
			}
		}
		return nil
	})
}

// firing is a period that is due, as it was read.
type firing struct {
	p    *period
	row  periodRow
	pool *pool
}

// duePeriods reads which periods are due and takes the slots for them out of rooms.
func (r *runner) duePeriods(ctx context.Context, rooms []room) ([]*firing, error) {
	j := r.j
	if now := time.Now(); !r.again && now.Before(r.nextPeriod) && now.Before(r.periodsAt) {
		return nil, nil
	}
	rows, err := j.readPeriods(ctx)
	if err != nil {
		return nil, err
	}
	mono, now := time.Now(), j.clock()
	r.again = false
	r.periodsAt = mono.Add(j.cfg.Poll)
	r.nextPeriod = r.periodsAt
	busy := map[*period]bool{}
	j.mu.Lock()
	for c := range j.running {
		if c.period != nil {
			busy[c.period] = true
		}
	}
	j.mu.Unlock()
	var fire []*firing
	for name, p := range j.periods {
		row, ok := rows[name]
		if !ok {
			r.ready = false // somebody has emptied the table
			continue
		}
		due, at := p.due(row, now)
		if !due {
			r.nextPeriod = sooner(r.nextPeriod, mono.Add(time.UnixMicro(at).Sub(now)))
			continue
		}
		slot := -1
		for i := range rooms {
			if rooms[i].pool.name == p.o.Pool && rooms[i].slots > 0 {
				slot = i
			}
		}
		if slot < 0 || busy[p] {
			r.again = true // the end of a run comes with a wake-up
			continue
		}
		rooms[slot].free--
		rooms[slot].slots--
		fire = append(fire, &firing{p: p, row: row, pool: rooms[slot].pool})
	}
	return fire, nil
}

// fireTx takes a firing by compare-and-set; nil when another process was faster.
func (j *Jobs) fireTx(ctx context.Context, tx *db.Tx, f *firing, now time.Time) (*claim, error) {
	p := f.p
	lease := min(max(p.every, periodLease), j.cfg.Lease)
	until, next := now.Add(lease).UnixMicro(), p.boundary(now)
	if f.row.interrupted() {
		next = f.row.next
	}
	// The lease of a short period ends with it, so that a run which is over by then need not give it back.
	if p.every <= j.cfg.Lease && next <= until && next-now.UnixMicro() >= lease.Microseconds()/2 {
		until = next
	}
	err := held(tx.Exec(ctx, `UPDATE job_period SET next_at = ?, lease_until = ?, fence = fence + 1 `+
		`WHERE name = ? AND next_at = ? AND fence = ?`,
		next, until, p.name, f.row.next, f.row.fence))
	if errors.Is(err, errLost) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &claim{name: p.name, period: p, pool: f.pool, fence: f.row.fence + 1, attempts: f.row.attempts + 1, firedFor: next,
		lease: j.cfg.Lease, until: time.UnixMicro(until), dueAt: time.UnixMicro(min(f.row.next, now.UnixMicro())), release: until != next}, nil
}

// endPeriod writes how a firing ended, where there is something to write.
func (j *Jobs) endPeriod(ctx context.Context, c *claim, e ending) error {
	j.mu.Lock()
	quiet := !c.release && !c.extended
	j.mu.Unlock()
	if e.outcome == outcomeDone && quiet && c.attempts == 1 {
		return nil
	}
	next, attempts, text := c.firedFor, 0, ""
	switch {
	case e.outcome == outcomeInterrupted:
		next, attempts = j.clock().UnixMicro(), c.attempts-1
	case e.err != nil:
		attempts = min(c.attempts, c.period.o.MaxAttempts)
		if c.attempts < c.period.o.MaxAttempts {
			next = min(next, j.clock().Add(min(e.pause, maxWait)).UnixMicro())
		}
		text = levee.Shorten(e.err.Error(), errorMax)
	}
	return j.db.Tx(ctx, "job.end_period", func(ctx context.Context, tx *db.Tx) error {
		return held(tx.Exec(ctx, `UPDATE job_period SET next_at = ?, lease_until = 0, attempts = ?, error = ? WHERE name = ? AND fence = ?`,
			next, attempts, text, c.name, c.fence))
	})
}

// Fire runs a periodic function now, in the caller's goroutine and under its lease, besides its usual times. It fails with
// CodeNotFound for an unknown name, CodeConflict while it runs already, else with the function's error.
func (j *Jobs) Fire(ctx context.Context, name string) (err error) {
	defer levee.Wrap(&err, "job.Fire(%q)", name)
	j.mu.Lock()
	p := j.periods[name]
	j.mu.Unlock()
	if p == nil {
		return levee.E(levee.CodeNotFound, "there is no periodic job %q", levee.Shorten(name, 80))
	}
	if err := j.preparePeriods(ctx); err != nil {
		return err
	}
	c := &claim{name: name, period: p}
	err = j.db.Tx(ctx, "job.fire", func(ctx context.Context, tx *db.Tx) error {
		now := j.clock()
		if err := tx.QueryRow(ctx, `SELECT fence, next_at FROM job_period WHERE name = ?`, name).Scan(&c.fence, &c.firedFor); err != nil {
			return err
		}
		// Nobody extends this lease, so it lasts for the longest run. A finished short period may have left its own, which ends at
		// next_at and does not count.
		err := held(tx.Exec(ctx, `UPDATE job_period SET lease_until = ?, fence = fence + 1 `+
			`WHERE name = ? AND fence = ? AND (lease_until <= ? OR lease_until = next_at)`,
			now.Add(p.o.Timeout+j.cfg.Lease).UnixMicro(), name, c.fence, now.UnixMicro()))
		if errors.Is(err, errLost) {
			return levee.E(levee.CodeConflict, "the periodic job %q runs already", name)
		}
		c.fence++
		return err
	})
	if err != nil {
		return err
	}
	limited, end := context.WithTimeout(context.WithValue(ctx, claimKey{}, c), p.o.Timeout)
	defer end()
	err = j.work(limited, c)
	return errors.Join(err, j.db.Tx(context.WithoutCancel(ctx), "job.end_period", func(ctx context.Context, tx *db.Tx) error {
		return held(tx.Exec(ctx, `UPDATE job_period SET lease_until = 0 WHERE name = ? AND fence = ?`, name, c.fence))
	}))
}
