package job

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"levee/internal/platform/db"
)

// The statements of a claim. With one writer a claim reads what is due and takes it. Where many write at once, a locking read over a
// range would lock its gaps, too: claims would wait for enqueuing transactions and undo each other. So there it reads ids without
// any lock, and then locks those rows alone, by primary key (the hint keeps the server from reading a small table as a whole),
// passing over what another node is taking. No statement of this package locks a range.
const (
	selectDue   = `SELECT id, kind, args, attempts, crashes, fence, due_at, COALESCE(source, ''), COALESCE(failures, '') FROM job_task WHERE pool = ? AND due_at >= 0 AND due_at <= ?`
	selectFirst = `SELECT id, due_at FROM job_task WHERE pool = ? AND due_at >= 0`
	innocent    = ` AND crashes = 0`
	oldest      = ` ORDER BY due_at, id LIMIT ?`
	lockDue     = `SELECT id, kind, args, attempts, crashes, fence, due_at, COALESCE(source, ''), COALESCE(failures, '') FROM job_task FORCE INDEX (PRIMARY) WHERE due_at <= ? AND id IN `
	lockDueEnd  = ` FOR UPDATE SKIP LOCKED`
	deleteOne   = `DELETE FROM job_task WHERE fence = ? AND lease_until IS NOT NULL AND id IN `
	deleteCrowd = `DELETE job_task FROM job_task FORCE INDEX (PRIMARY) WHERE fence = ? AND lease_until IS NOT NULL AND id IN `
	forgetOne   = `DELETE FROM job_done WHERE keep_until < ? AND id IN `
	forgetCrowd = `DELETE job_done FROM job_done FORCE INDEX (PRIMARY) WHERE keep_until < ? AND id IN `
	moveOne     = `UPDATE job_task SET pool = ? WHERE id IN `
	moveCrowd   = `UPDATE job_task FORCE INDEX (PRIMARY) SET pool = ? WHERE id IN `
	takeOne     = `UPDATE job_task SET due_at = NULL, lease_until = ?, runner = ?, fence = fence + 1, attempts = attempts + 1 WHERE id IN `
	takeCrowd   = `UPDATE job_task FORCE INDEX (PRIMARY) SET due_at = NULL, lease_until = ?, runner = ?, fence = fence + 1, attempts = attempts + 1 WHERE id IN `
)

// texts are the statements that differ between engines.
type texts struct{ take, deleteMany, forget, move string }

func textsOf(crowd bool) texts {
	if crowd {
		return texts{takeCrowd, deleteCrowd, forgetCrowd, moveCrowd}
	}
	return texts{takeOne, deleteOne, forgetOne, moveOne}
}

// prepare brings the tables and this program together: rows for limits, and the lanes in which jobs wait.
func (j *Jobs) prepare(ctx context.Context) error {
	if err := j.discover(ctx); err != nil {
		return err
	}
	return j.prepareLimits(ctx)
}

// batch is what a claim came to.
type batch struct {
	claims []*claim
	missed bool      // others were faster with some of what was due
	deals  []dealt   // of limited kinds
	next   time.Time // when the first waiting job of a lane with nothing due will be; zero: there is none
}

// claim takes due jobs of the lanes for the free slots of their pools, in one transaction.
func (j *Jobs) claim(ctx context.Context, wants []want) (got batch, err error) {
	began, now := time.Now(), j.clock()
	j.mu.Lock()
	few := group{closed: j.suspects > 0}
	j.mu.Unlock()
	ids, found := make([][]int64, len(wants)), false
	for i, w := range wants {
		b := j.budget(w)
		if *b <= 0 {
			continue
		}
		var in time.Duration
		var later bool
		if ids[i], in, later, err = j.look(ctx, w.lane, *b, few, now); err != nil {
			return got, err
		}
		if later {
			got.next = sooner(got.next, began.Add(in))
		}
		if found = found || len(ids[i]) > 0; j.crowd {
			*b -= len(ids[i])
		}
	}
	if !found {
		return got, nil
	}
	var moved []string
	var runner int64
	err = j.db.Tx(ctx, "job.claim", func(ctx context.Context, tx *db.Tx) error {
		got.claims, got.missed, got.deals, moved = got.claims[:0], false, nil, nil
		few, runner = group{closed: few.closed}, 0
		taken := map[*int]int{} // of budgets
		for i, w := range wants {
			w.lane.raced = false
			b := j.budget(w)
			most, ids := *b-taken[b], ids[i]
			if j.crowd || len(ids) == 0 {
				most = len(ids)
			}
			var deal *dealt
			if l := j.limiterOf(w.lane); l != nil && most > 0 {
				may, d, err := j.limitTx(ctx, tx, l, now)
				if err != nil {
					return err
				}
				most = min(most, may)
				got.deals = append(got.deals, d)
				deal = &got.deals[len(got.deals)-1]
			}
			if most <= 0 {
				continue
			}
			if ids = ids[:min(most, len(ids))]; !j.crowd {
				ids = nil
			}
			cs, read, err := j.claimLaneTx(ctx, tx, w, most, ids, now, &few, &moved, &runner)
			if err != nil {
				return err
			}
			if deal != nil {
				if err := j.countTx(ctx, tx, deal, len(cs), now); err != nil {
					return err
				}
			}
			taken[b] += len(cs)
			w.lane.raced = read < len(ids)
			got.missed = got.missed || w.lane.raced
			got.claims = append(got.claims, cs...)
		}
		return nil
	})
	if err != nil {
		return batch{}, err
	}
	if runner != 0 && j.here.id == 0 {
		j.present(runner, began)
	}
	if len(moved) > 0 {
		j.mu.Lock()
		for _, key := range moved {
			j.addLane(key)
		}
		j.mu.Unlock()
		got.missed = true
	}
	for _, c := range got.claims {
		if c.crashes > 0 {
			j.mu.Lock()
			c.suspect = true
			j.suspects++
			j.mu.Unlock()
		}
		left := c.until.Sub(now)
		c.until = began.Add(left) // from here on by the monotonic clock
		c.beat = began.Add(left / 3)
		if c.dueAt.UnixMicro() > 0 { // it was not taken back
			c.pool.late.Observe(max(now.Sub(c.dueAt).Seconds(), 0))
		}
	}
	return got, nil
}

// fewDue is how many due jobs are asked for of a lane that had no more at the last look.
const fewDue = 16

// look finds what is due of a lane, or, when nothing is, how long it is until the first is. With one writer it asks for no more than whether there is
// something: the claim reads it anew. Where many write, it returns what to try to lock: the oldest, or, when the last time others were faster, any of the
// next few times as many, so that nodes do not go for the same rows again and again.
func (j *Jobs) look(ctx context.Context, l *lane, free int, few group, now time.Time) (ids []int64, in time.Duration, later bool, err error) {
	most := 1
	if j.crowd {
		switch most = free; {
		case l.raced:
			most = min(8*free+32, 2048)
		case !l.plenty: // what is not due yet is not worth being sent
			most = min(free, fewDue)
		}
	}
	rows, err := j.db.Query(ctx, few.query(selectFirst), l.key, most)
	if err != nil {
		return nil, 0, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, due int64
		if err := rows.Scan(&id, &due); err != nil {
			return nil, 0, false, err
		}
		if due > now.UnixMicro() {
			in, later = time.UnixMicro(due).Sub(now), len(ids) == 0
			break
		}
		ids = append(ids, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, 0, false, err
	}
	if l.plenty = len(ids) == most; len(ids) <= free {
		return ids, in, later, nil
	}
	from := rand.IntN(len(ids) - free + 1)
	return ids[from : from+free], 0, false, nil
}

func idsOf(rows *db.Rows, err error) (ids []int64, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, errors.Join(rows.Err(), rows.Close())
}

// group is what may run at once of jobs under which processes have died: one of them may have been the cause. They are of one number of crashes,
// and the more crashes, the fewer: so one that takes processes down soon does so alone, and what ran beside it is not interrupted with it again
// and again until it counts as dead.
type group struct {
	closed     bool // some run already
	crashes, n int
}

// query completes a statement that looks for due jobs.
func (g group) query(text string) string {
	if g.closed {
		text += innocent
	}
	return text + oldest
}

func (g *group) takes(crashes int) bool {
	size := 1
	switch crashes {
	case 1:
		size = 256
	case 2:
		size = 16
	}
	if g.closed || g.n > 0 && crashes != g.crashes || g.n == size {
		return false
	}
	g.crashes, g.n = crashes, g.n+1
	return true
}

// claimLaneTx takes due jobs of one lane, of the given ids where many write at once, and tells how many it could read.
func (j *Jobs) claimLaneTx(ctx context.Context, tx *db.Tx, w want, most int, ids []int64, now time.Time, few *group, moved *[]string, runner *int64) (claims []*claim, read int, err error) {
	query, args := few.query(selectDue), []any{w.lane.key, now.UnixMicro(), most}
	if j.crowd {
		var in string
		in, args = listIDs(ids, now.UnixMicro())
		query = lockDue + in + lockDueEnd
	}
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	until := now.Add(j.cfg.Lease)
	aside := map[string][]int64{}
	for rows.Next() {
		c := &claim{pool: w.lane.pool, lease: j.cfg.Lease, until: until, stamp: until.UnixMicro()}
		var due int64
		if err := rows.Scan(&c.id, &c.name, &c.args, &c.attempts, &c.crashes, &c.fence, &due, &c.source, &c.failures); err != nil {
			return nil, 0, err
		}
		read++
		j.mu.Lock()
		lane := j.belongs(w.lane, c.name)
		j.mu.Unlock()
		if lane != w.lane.key {
			aside[lane] = append(aside[lane], c.id)
			continue
		}
		if c.crashes > 0 && !few.takes(c.crashes) {
			continue // the end of the others comes with a wake-up
		}
		c.attempts++
		c.fence++
		c.kind = j.kinds[c.name]
		c.dueAt = time.UnixMicro(due)
		claims = append(claims, c)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, read, err
	}
	for lane, ids := range aside {
		slices.Sort(ids)
		in, args := listIDs(ids, lane)
		if _, err := tx.Exec(ctx, j.sql.move+in, args...); err != nil {
			return nil, read, err
		}
		*moved = append(*moved, lane)
	}
	if len(claims) == 0 {
		return nil, read, nil
	}
	slices.SortStableFunc(claims, func(a, b *claim) int { return a.dueAt.Compare(b.dueAt) })
	if *runner == 0 {
		if *runner, err = j.appearTx(ctx, tx); err != nil {
			return nil, read, err
		}
	}
	taken := make([]int64, len(claims))
	for i, c := range claims {
		taken[i] = c.id
	}
	in, args := listIDs(taken, until.UnixMicro(), *runner)
	_, err = tx.Exec(ctx, j.sql.take+in, args...)
	return claims, read, err
}

// listIDs writes ids as "(?, ?)" filled up with repetitions to a power of two, so that few different statements are prepared. first are put before them.
func listIDs(ids []int64, first ...any) (string, []any) {
	n := 1
	for n < len(ids) {
		n *= 2
	}
	args := append(make([]any, 0, len(first)+n), first...)
	for i := range n {
		args = append(args, ids[min(i, len(ids)-1)])
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

// extend gives the claims another lease, and writes where they run and how far they are; lost are those that are no longer ours.
func (j *Jobs) extend(ctx context.Context, claims []*claim) (lost map[*claim]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.cfg.Lease/3)
	defer cancel()
	now := j.clock()
	slices.SortFunc(claims, func(a, b *claim) int { return cmp.Compare(a.id, b.id) }) // everybody locks in this order
	told := make([]string, len(claims))
	j.mu.Lock()
	for i, c := range claims {
		told[i] = c.progress
	}
	j.mu.Unlock()
	err = j.db.Tx(ctx, "job.extend", func(ctx context.Context, tx *db.Tx) error {
		lost = map[*claim]bool{}
		for i, c := range claims {
			until := max(now.Add(c.lease).UnixMicro(), c.stamp+1) // it has to change: that is what others watch
			var err error
			if told[i] != "" {
				err = held(tx.Exec(ctx, `UPDATE job_task SET lease_until = ?, node = ?, progress = ? WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`,
					until, j.cfg.Node, told[i], c.id, c.fence))
			} else {
				err = held(tx.Exec(ctx, `UPDATE job_task SET lease_until = ?, node = ? WHERE id = ? AND fence = ? AND lease_until IS NOT NULL`,
					until, j.cfg.Node, c.id, c.fence))
			}
			if errors.Is(err, errLost) {
				lost[c] = true
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return lost, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, c := range claims {
		c.stamp = max(now.Add(c.lease).UnixMicro(), c.stamp+1)
		if told[i] != "" {
			c.told = time.Now()
			if c.progress == told[i] {
				c.progress = ""
			}
		}
	}
	return lost, nil
}
