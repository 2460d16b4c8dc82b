package flow

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/job"
)

const (
	inMost      = 512 // ids of one statement
	forgetFlows = 20  // looked at by one step of forgetting
)

// row is a step as its ends need it.
type row struct {
	id, flow int64
	counts   int
	soft     bool
	state    State
}

type jointRow struct {
	waits, failed, next int
	stops, cancelled    bool
	leads               bool // steps begin there
}

// hint keeps a server from reading a small table as a whole, and locking it.
func (f *Flows) hint() string {
	if f.crowd {
		return " FORCE INDEX (PRIMARY)"
	}
	return ""
}

// each calls fn with "(?, ?)" and up to inMost ids at a time, filled up with repetitions to a power of two so that few different statements are
// prepared, behind first.
func each(ids []int64, first []any, fn func(in string, args []any) error) error {
	for len(ids) > 0 {
		some := ids[:min(inMost, len(ids))]
		ids = ids[len(some):]
		n := 1
		for n < len(some) {
			n *= 2
		}
		args := slices.Clone(first)
		for i := range n {
			args = append(args, some[min(i, len(some)-1)])
		}
		if err := fn("(?"+strings.Repeat(", ?", n-1)+")", args); err != nil {
			return err
		}
	}
	return nil
}

// scan calls fn for each row.
func scan(rows *db.Rows, err error, fn func() error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (f *Flows) insert(ctx context.Context, tx *db.Tx, flow int64, name string, l *plan) error {
	var joints, steps [][]any
	var first []job.Ready
	for _, j := range l.joints[1:] {
		next := 0
		if j.next != nil {
			next = j.next.n
		}
		joints = append(joints, []any{flow, j.n, j.waits, 0, next, j.fed, flag(j.stops), 0, writeIDs(j.begins)})
	}
	for _, s := range l.steps {
		state, args := Waiting, s.ready.Args
		if s.from.n == 0 {
			state, args = Running, "" // its job has them
			first = append(first, s.ready)
		}
		steps = append(steps, []any{s.ready.ID, flow, s.n, s.ready.Kind, s.ready.Lane, args, s.ready.After.Microseconds(), s.from.n, s.to.n, flag(s.soft), string(state)})
	}
	if _, err := tx.Exec(ctx, `INSERT INTO flow_run (id, name, state, steps, dead, begun_at) VALUES (?, ?, ?, ?, 0, ?)`,
		flow, name, string(Running), len(l.steps), f.clock().UnixMicro()); err != nil {
		return err
	}
	if err := tx.InsertRows(ctx, "flow_joint", []string{"flow", "n", "waits", "failed", "next", "fed", "stops", "cancelled", "begins"}, joints); err != nil {
		return err
	}
	if err := tx.InsertRows(ctx, "flow_step",
		[]string{"id", "flow", "n", "kind", "lane", "args", "after_us", "begins", "counts", "soft", "state"}, steps); err != nil {
		return err
	}
	tx.AfterCommit(f.m.started.Inc)
	return f.jobs.PlaceTx(ctx, tx, sourceOf(flow), first)
}

func (f *Flows) lockSteps(ctx context.Context, tx *db.Tx, ends []job.End) (map[int64]row, error) {
	ids := make([]int64, len(ends))
	for i, e := range ends {
		ids[i] = e.ID
	}
	slices.Sort(ids)
	steps := make(map[int64]row, len(ids))
	err := each(ids, nil, func(in string, args []any) error {
		var r row
		rows, err := tx.Query(ctx, `SELECT id, flow, counts, soft, state FROM flow_step`+f.hint()+` WHERE id IN `+in+f.db.Dialect().ForUpdate(), args...)
		return scan(rows, err, func() error {
			err := rows.Scan(&r.id, &r.flow, &r.counts, &r.soft, &r.state)
			steps[r.id] = r
			return err
		})
	})
	return steps, err
}

func (f *Flows) lockJoint(ctx context.Context, tx *db.Tx, flow int64, n int) (j jointRow, err error) {
	err = tx.QueryRow(ctx, `SELECT waits, failed, next, stops, cancelled, begins <> '' FROM flow_joint WHERE flow = ? AND n = ?`+f.db.Dialect().ForUpdate(),
		flow, n).Scan(&j.waits, &j.failed, &j.next, &j.stops, &j.cancelled, &j.leads)
	return j, err
}

func (f *Flows) countJoint(ctx context.Context, tx *db.Tx, flow int64, n int, j jointRow) error {
	_, err := tx.Exec(ctx, `UPDATE flow_joint SET waits = ?, failed = ? WHERE flow = ? AND n = ?`, j.waits, j.failed, flow, n)
	return err
}

func (f *Flows) begins(ctx context.Context, tx *db.Tx, flow int64, n int) ([]int64, error) {
	var text string
	if err := tx.QueryRow(ctx, `SELECT begins FROM flow_joint WHERE flow = ? AND n = ?`, flow, n).Scan(&text); err != nil {
		return nil, err
	}
	return readIDs(text)
}

// countsOf returns the joints that steps count down, in the order of ids, which rise.
func (f *Flows) countsOf(ctx context.Context, tx *db.Tx, ids []int64) (counts []int, err error) {
	by := make(map[int64]int, len(ids))
	err = each(ids, nil, func(in string, args []any) error {
		var id int64
		var n int
		rows, err := tx.Query(ctx, `SELECT id, counts FROM flow_step`+f.hint()+` WHERE id IN `+in, args...)
		return scan(rows, err, func() error {
			err := rows.Scan(&id, &n)
			by[id] = n
			return err
		})
	})
	for _, id := range ids {
		counts = append(counts, by[id])
	}
	return counts, err
}

// ready returns the jobs of steps.
func (f *Flows) ready(ctx context.Context, tx *db.Tx, ids []int64) (all []job.Ready, err error) {
	err = each(ids, nil, func(in string, args []any) error {
		var r job.Ready
		var after int64
		rows, err := tx.Query(ctx, `SELECT id, kind, lane, args, after_us FROM flow_step`+f.hint()+` WHERE id IN `+in, args...)
		return scan(rows, err, func() error {
			err := rows.Scan(&r.ID, &r.Kind, &r.Lane, &r.Args, &after)
			r.After = time.Duration(after) * time.Microsecond
			all = append(all, r)
			return err
		})
	})
	return all, err
}

func (f *Flows) setStates(ctx context.Context, tx *db.Tx, ids []int64, s State) error {
	var at any
	if s != Running {
		at = f.clock().UnixMicro()
	}
	slices.Sort(ids)
	return each(ids, []any{string(s), at}, func(in string, args []any) error {
		_, err := tx.Exec(ctx, `UPDATE flow_step`+f.hint()+` SET state = ?, ended_at = ? WHERE id IN `+in, args...)
		return err
	})
}

func (f *Flows) setFlow(ctx context.Context, tx *db.Tx, flow int64, dead int, end State) error {
	if end == "" {
		_, err := tx.Exec(ctx, `UPDATE flow_run SET dead = dead + ? WHERE id = ?`, dead, flow)
		return err
	}
	now := f.clock()
	_, err := tx.Exec(ctx, `UPDATE flow_run SET dead = dead + ?, state = ?, ended_at = ?, keep_until = ? WHERE id = ?`,
		dead, string(end), now.UnixMicro(), now.Add(f.keep).UnixMicro(), flow)
	return err
}

// remove deletes rows of a table by their primary key.
func (f *Flows) remove(ctx context.Context, tx *db.Tx, table string, ids []int64) error {
	slices.Sort(ids)
	text := `DELETE FROM ` + table
	if f.crowd {
		text = `DELETE ` + table + ` FROM ` + table + f.hint()
	}
	return each(ids, nil, func(in string, args []any) error {
		_, err := tx.Exec(ctx, text+` WHERE id IN `+in, args...)
		return err
	})
}

func (f *Flows) forgetResults(ctx context.Context, tx *db.Tx, ids []int64) error {
	return f.remove(ctx, tx, "flow_result", ids)
}

// forget removes some of the flows that were kept for long enough: a page of steps in one transaction, the flow's own row last. more tells that there are others.
func (f *Flows) forget(ctx context.Context) (more bool, err error) {
	var flows []int64
	var id int64
	rows, err := f.db.Query(ctx, `SELECT id FROM flow_run WHERE keep_until < ? ORDER BY keep_until LIMIT ?`, f.clock().UnixMicro(), forgetFlows)
	if err := scan(rows, err, func() error { err := rows.Scan(&id); flows = append(flows, id); return err }); err != nil {
		return false, err
	}
	for _, flow := range flows {
		for {
			var ids []int64
			rows, err := f.db.Query(ctx, `SELECT id FROM flow_step WHERE flow = ? ORDER BY n LIMIT ?`, flow, stepPage)
			if err := scan(rows, err, func() error { err := rows.Scan(&id); ids = append(ids, id); return err }); err != nil {
				return false, err
			}
			if len(ids) == 0 {
				break
			}
			if err := f.db.Tx(ctx, "flow.forget", func(ctx context.Context, tx *db.Tx) error {
				if err := f.remove(ctx, tx, "flow_result", ids); err != nil {
					return err
				}
				return f.remove(ctx, tx, "flow_step", ids)
			}); err != nil {
				return false, err
			}
		}
		if err := f.db.Tx(ctx, "flow.forget", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `DELETE FROM flow_joint WHERE flow = ?`, flow); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `DELETE FROM flow_run WHERE id = ?`, flow)
			return err
		}); err != nil {
			return false, err
		}
	}
	return len(flows) == forgetFlows, nil
}
