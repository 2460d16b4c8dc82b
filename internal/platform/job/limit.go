package job

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Rate is at most Count beginnings in any span of Per. The zero value is no limit.
type Rate struct {
	Count int           // 1 to 1,000,000
	Per   time.Duration // 10 ms to 24 hours
}

// rateStep is the least step in which a rate is dealt out; shorter ones would be lost in the time that a claim takes.
const rateStep = 10 * time.Millisecond

// limiter deals out the beginnings of a limited kind. The row of job_limit, locked by whoever claims one, counts the beginnings of all
// nodes. What has begun within a step is the difference between the count now and what it was when this node saw it a step ago or longer, by
// its own monotonic clock: no two clocks are compared, and the sum over any step is never more than its share, nor then over Per.
// The other limit, jobs that run at once, is counted under the same lock.
type limiter struct {
	kind  string
	step  time.Duration // Per divided so that share is whole
	share int           // beginnings in any step; 0: no rate
	most  int           // running at once; 0: no limit
	seen  []sight       // the first is the newest that is older than a step; of the one who claims
	ready time.Time     // before that there is nothing to deal out; guarded by Jobs.mu
}

type sight struct {
	at time.Time
	n  int64
}

func (o *Options) limited() bool { return o.Rate.Count > 0 || o.MaxRunning > 0 }

func newLimiter(kind string, o Options) *limiter {
	l := &limiter{kind: kind, most: o.MaxRunning}
	if n := o.Rate.Count; n > 0 {
		l.share = 1
		for n%l.share != 0 || o.Rate.Per*time.Duration(l.share)/time.Duration(n) < rateStep && l.share < n {
			l.share++
		}
		l.step = (o.Rate.Per*time.Duration(l.share) + time.Duration(n) - 1) / time.Duration(n)
	}
	return l
}

// deal returns how many may begin now, when the count is n, and since when that is known when it is none.
func (l *limiter) deal(now time.Time, n int64) (most int, ready time.Time) {
	for len(l.seen) > 1 && now.Sub(l.seen[1].at) >= l.step {
		l.seen = l.seen[1:]
	}
	if len(l.seen) == 0 {
		return 0, now.Add(l.step)
	}
	if now.Sub(l.seen[0].at) >= l.step {
		most = l.share - int(min(n-l.seen[0].n, int64(l.share)))
	}
	if most > 0 {
		return most, now
	}
	for _, s := range l.seen {
		if at := s.at.Add(l.step); at.After(now) && n-s.n < int64(l.share) {
			return 0, at
		}
	}
	return 0, now.Add(l.step)
}

// prepareLimits makes the rows of limited kinds.
func (j *Jobs) prepareLimits(ctx context.Context) error {
	for name, k := range j.kinds {
		if k.limit == nil {
			continue
		}
		var one int
		err := j.db.QueryRow(ctx, `SELECT 1 FROM job_limit WHERE kind = ?`, name).Scan(&one)
		if errors.Is(err, db.ErrNoRows) {
			err = j.db.Tx(ctx, "job.limit", func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, j.db.Dialect().InsertIgnore("job_limit", "kind", "n", "at"), name, 0, 0)
				return err
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dealt is what one claim has done to a limiter, to be noted once it is committed.
type dealt struct {
	l     *limiter
	n     int64
	ready time.Time
}

// limitTx locks the kind's row and returns how many of it may begin now, and what deal was based on.
func (j *Jobs) limitTx(ctx context.Context, tx *db.Tx, l *limiter, now time.Time) (most int, d dealt, err error) {
	d.l, most = l, claimMost
	var at int64
	err = tx.QueryRow(ctx, `SELECT n, at FROM job_limit WHERE kind = ?`+j.db.Dialect().ForUpdate(), l.kind).Scan(&d.n, &at)
	if errors.Is(err, db.ErrNoRows) {
		if _, err := tx.Exec(ctx, j.db.Dialect().InsertIgnore("job_limit", "kind", "n", "at"), l.kind, 0, 0); err != nil {
			return 0, d, err
		}
		err = nil
	}
	if err != nil {
		return 0, d, err
	}
	mono := time.Now()
	if l.share > 0 {
		if len(l.seen) == 0 && now.Sub(time.UnixMicro(at)) >= l.step { // the first look of this node, and nothing has begun lately
			l.seen = []sight{{mono.Add(-l.step), d.n}}
		}
		most, d.ready = l.deal(mono, d.n)
	}
	if l.most > 0 && most > 0 {
		// Where many write at once a locking read of all leases would make everybody wait: what is committed is enough, as
		// whoever adds to it holds the row above.
		query := tx.QueryRow
		if j.crowd {
			query = j.db.QueryRow
		}
		var running int
		if err := query(ctx, `SELECT COUNT(*) FROM job_task WHERE kind = ? AND lease_until >= 0`, l.kind).Scan(&running); err != nil {
			return 0, d, err
		}
		if most = min(most, l.most-running); most <= 0 {
			d.ready = mono.Add(min(j.cfg.Poll, fullWait))
		}
	}
	return max(most, 0), d, nil
}

// fullWait is after which a kind that has as many running as it may is looked at again; ends of this node come with a wake-up.
const fullWait = 200 * time.Millisecond

// countTx counts k beginnings.
func (j *Jobs) countTx(ctx context.Context, tx *db.Tx, d *dealt, k int, now time.Time) error {
	if k == 0 || d.l.share == 0 {
		return nil
	}
	d.n += int64(k)
	return held(tx.Exec(ctx, `UPDATE job_limit SET n = ?, at = ? WHERE kind = ?`, d.n, now.UnixMicro(), d.l.kind))
}

// note remembers what was seen and done. It is called once the claim is committed and its runs have begun.
func (j *Jobs) note(ds []dealt) {
	now := time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, d := range ds {
		d.l.ready = d.ready
		if d.l.share == 0 {
			continue
		}
		if k := len(d.l.seen); k > 0 && d.l.seen[k-1].n == d.n {
			continue // what counts is since when
		}
		d.l.seen = append(d.l.seen, sight{now, d.n})
	}
}

func (o *Options) checkLimits(name string) error {
	r := o.Rate
	switch {
	case r != (Rate{}) && (r.Count < 1 || r.Count > 1_000_000 || r.Per < 10*time.Millisecond || r.Per > 24*time.Hour):
		return levee.Invalid(name+".rate", "1 to 1000000 per 10ms to 24h", r)
	case o.MaxRunning < 0 || o.MaxRunning > 100_000:
		return levee.Invalid(name+".max_running", "0 to 100000", o.MaxRunning)
	}
	return nil
}
