package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// State is where a flow or a step is.
type State string

const (
	Waiting    State = "waiting"    // a step: what it waits for is not over
	Running    State = "running"    // a step: its job waits or runs, or is tried again; a flow: it is not over
	Done       State = "done"       // a flow: all that counts is done; failures that a part is Regardless of do not
	Dead       State = "dead"       // a step: its job is dead, and the flow waits until it is retried, cancelled or pruned
	Failed     State = "failed"     // a step: its job died and the flow went on without it; a flow: something of it failed or was cancelled by itself
	Cancelled  State = "cancelled"  // a step: its job was cancelled; a flow: by Cancel
	Skipped    State = "skipped"    // a step: it never began, because what it waited for failed or the flow was cancelled
	Cancelling State = "cancelling" // a flow: nothing begins any more, and what runs is asked to end
)

// Info is a flow.
type Info struct {
	ID    int64
	Name  string
	State State
	Steps int
	Dead  int           // steps that wait for a person
	By    map[State]int // steps by their states; of Get alone
	Began time.Time
	Ended time.Time // zero: it is not over
}

// Outcome is a step and what became of it.
type Outcome struct {
	Step   int   // from 1, in the order in which the flow was written down
	Job    int64 // its id, in Jobs.Job
	Kind   string
	State  State
	Result json.RawMessage // of job.SetResult; nil: none
	Error  string          // of a dead or failed one, at most 1,000 bytes
	Ended  time.Time       // zero: it is not over
}

const selectFlow = `SELECT id, name, state, steps, dead, begun_at, COALESCE(ended_at, 0) FROM flow_run WHERE `

func (f *Flows) flows(ctx context.Context, query string, args ...any) (all []Info, err error) {
	rows, err := f.db.Query(ctx, query, args...)
	err = scan(rows, err, func() error {
		var i Info
		var began, ended int64
		err := rows.Scan(&i.ID, &i.Name, &i.State, &i.Steps, &i.Dead, &began, &ended)
		i.Began = time.UnixMicro(began)
		if ended != 0 {
			i.Ended = time.UnixMicro(ended)
		}
		all = append(all, i)
		return err
	})
	return all, err
}

// Get returns a flow. It counts the flow's steps: it is for a page, not for a loop. It fails with CodeNotFound for one that never was, or is
// not kept any more.
func (f *Flows) Get(ctx context.Context, flow int64) (i Info, err error) {
	defer levee.Wrap(&err, "flow.Get(%d)", flow)
	all, err := f.flows(ctx, selectFlow+`id = ?`, flow)
	if err != nil {
		return i, err
	}
	if len(all) == 0 {
		return i, levee.E(levee.CodeNotFound, "there is no such flow, or it was over and is not kept any more")
	}
	i = all[0]
	i.By = map[State]int{}
	rows, err := f.db.Query(ctx, `SELECT state, COUNT(*) FROM flow_step WHERE flow = ? GROUP BY state`, flow)
	return i, scan(rows, err, func() error {
		var s State
		var n int
		err := rows.Scan(&s, &n)
		i.By[s] = n
		return err
	})
}

// Filter says which flows List returns.
type Filter struct {
	State  State // needed: running, cancelling, done, failed or cancelled
	Dead   bool  // only those with steps that wait for a person
	Before int64 // only ids below this: where the page before ended; 0: from the newest on
	Limit  int   // 1 to 1000; default 100
}

// List returns flows of one state, the newest first, without By. It fails with CodeInvalid for another state or limit.
func (f *Flows) List(ctx context.Context, q Filter) (page []Info, err error) {
	defer levee.Wrap(&err, "flow.List")
	if q.Limit == 0 {
		q.Limit = 100
	}
	if q.Limit < 1 || q.Limit > 1000 {
		return nil, levee.Invalid("limit", "1 to 1000", q.Limit)
	}
	switch q.State {
	case Running, Cancelling, Done, Failed, Cancelled:
	default:
		return nil, levee.Invalid("state", "running, cancelling, done, failed or cancelled", q.State)
	}
	if q.Before == 0 {
		q.Before = 1<<63 - 1
	}
	return f.flows(ctx, selectFlow+`state = ? AND dead >= ? AND id < ? ORDER BY id DESC LIMIT ?`, string(q.State), flag(q.Dead), q.Before, q.Limit)
}

const (
	selectStep = `SELECT s.id, s.n, s.kind, s.state, COALESCE(r.result, ''), COALESCE(r.error, ''), COALESCE(s.ended_at, 0) ` +
		`FROM flow_step s LEFT JOIN flow_result r ON r.id = s.id WHERE `
	resultPage = 100 // steps whose results are read at once
)

func (f *Flows) outcomes(ctx context.Context, query string, args ...any) (all []Outcome, err error) {
	rows, err := f.db.Query(ctx, query, args...)
	err = scan(rows, err, func() error {
		var o Outcome
		var result string
		var ended int64
		err := rows.Scan(&o.Job, &o.Step, &o.Kind, &o.State, &result, &o.Error, &ended)
		if result != "" {
			o.Result = json.RawMessage(result)
		}
		if ended != 0 {
			o.Ended = time.UnixMicro(ended)
		}
		all = append(all, o)
		return err
	})
	return all, err
}

// Steps returns steps of a flow in their order, those behind the step after (0: from the first on), at most limit of 1 to 1000.
func (f *Flows) Steps(ctx context.Context, flow int64, after, limit int) (page []Outcome, err error) {
	defer levee.Wrap(&err, "flow.Steps(%d)", flow)
	if limit < 1 || limit > 1000 {
		return nil, levee.Invalid("limit", "1 to 1000", limit)
	}
	return f.outcomes(ctx, selectStep+`s.flow = ? AND s.n > ? ORDER BY s.n LIMIT ?`, flow, after, limit)
}

// live returns steps of a flow whose jobs are not over, and where the next page begins; 0: there is none.
func (f *Flows) live(ctx context.Context, flow int64, after int) (live []Outcome, next int, err error) {
	all, err := f.outcomes(ctx, `SELECT s.id, s.n, s.kind, s.state, '', '', 0 FROM flow_step s WHERE s.flow = ? AND s.n > ? ORDER BY s.n LIMIT ?`, flow, after, stepPage)
	for _, o := range all {
		if o.State == Running || o.State == Dead {
			live = append(live, o)
		}
	}
	if len(all) == stepPage {
		next = all[len(all)-1].Step
	}
	return live, next, err
}

// What a step's function calls.

type runKey struct{}

type run struct {
	f  *Flows
	id int64
}

func (f *Flows) enter(ctx context.Context, id int64) context.Context {
	return context.WithValue(ctx, runKey{}, run{f, id})
}

var errOutside = errors.New("the context is not that of a flow's step")

// Of tells a job's function of which flow it is a step, and of which number. It fails where it is none.
func Of(ctx context.Context) (flow int64, step int, err error) {
	flow, step, _, err = place(ctx)
	return flow, step, err
}

func place(ctx context.Context) (flow int64, step, begins int, err error) {
	r, ok := ctx.Value(runKey{}).(run)
	if !ok {
		return 0, 0, 0, errOutside
	}
	err = r.f.db.QueryRow(db.Primary(ctx), `SELECT flow, n, begins FROM flow_step WHERE id = ?`, r.id).Scan(&flow, &step, &begins)
	if errors.Is(err, db.ErrNoRows) {
		err = errOutside // given the source of a flow by hand, or its flow was forgotten
	}
	return flow, step, begins, err
}

// Each calls fn for each step directly before the running one, in their order: the step before it in a chain, the last steps of all members of a
// group before it. The first has none. They are read in pages, so that all results of a large group need not be in memory at once.
func Each(ctx context.Context, fn func(o Outcome) error) (err error) {
	defer levee.Wrap(&err, "flow.Each")
	flow, _, begins, err := place(ctx)
	if err != nil || begins == 0 {
		return err
	}
	f := ctx.Value(runKey{}).(run).f
	ctx = db.Primary(ctx)
	ids, err := f.before(ctx, flow, begins)
	if err != nil {
		return err
	}
	for len(ids) > 0 {
		some := ids[:min(resultPage, len(ids))]
		ids = ids[len(some):]
		err := each(some, nil, func(in string, args []any) error {
			page, err := f.outcomes(ctx, selectStep+`s.id IN `+in+` ORDER BY s.n`, args...)
			for i := 0; i < len(page) && err == nil; i++ {
				err = fn(page[i])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// before returns the steps that lead to a joint, also by way of joints that lead to it, by their numbers.
func (f *Flows) before(ctx context.Context, flow int64, begins int) (ids []int64, err error) {
	type link struct{ n, next int }
	into := map[int]bool{begins: true}
	var fed int
	if err := f.db.QueryRow(ctx, `SELECT fed FROM flow_joint WHERE flow = ? AND n = ?`, flow, begins).Scan(&fed); err != nil {
		return nil, err
	}
	query, args := `SELECT id, counts FROM flow_step WHERE flow = ? AND counts = ? ORDER BY n`, []any{flow, begins}
	if fed > 0 {
		var l link // higher ones first: what leads to one is known before what leads to that
		rows, err := f.db.Query(ctx, `SELECT n, next FROM flow_joint WHERE flow = ? AND n < ? AND next > 0 ORDER BY n DESC`, flow, begins)
		if err := scan(rows, err, func() error {
			err := rows.Scan(&l.n, &l.next)
			if into[l.next] {
				into[l.n] = true
			}
			return err
		}); err != nil {
			return nil, err
		}
		query, args = `SELECT id, counts FROM flow_step WHERE flow = ? ORDER BY n`, []any{flow}
	}
	rows, err := f.db.Query(ctx, query, args...)
	err = scan(rows, err, func() error {
		var id int64
		var n int
		err := rows.Scan(&id, &n)
		if into[n] {
			ids = append(ids, id)
		}
		return err
	})
	return ids, err
}

// Results returns the results (job.SetResult) of the steps directly before the running one, in their order (see Each). It fails with CodeConflict when one of them
// is not done, which can be where a part is Regardless, or has left no result.
func Results[T any](ctx context.Context) (all []T, err error) {
	err = Each(ctx, func(o Outcome) error {
		var v T
		switch {
		case o.State != Done:
			return levee.E(levee.CodeConflict, "step %d, %s, is %s: %s", o.Step, o.Kind, o.State, o.Error)
		case o.Result == nil:
			return levee.E(levee.CodeConflict, "step %d, %s, has left no result", o.Step, o.Kind)
		}
		if err := json.Unmarshal(o.Result, &v); err != nil {
			return fmt.Errorf("the result of step %d, %s: %w", o.Step, o.Kind, err)
		}
		all = append(all, v)
		return nil
	})
	return all, err
}

// Before returns the result of the one step before the running one. It fails as Results does, and with CodeConflict where not one step is before it.
func Before[T any](ctx context.Context) (v T, err error) {
	all, err := Results[T](ctx)
	if err != nil {
		return v, err
	}
	if len(all) != 1 {
		return v, levee.E(levee.CodeConflict, "there are %d steps before this one, not one", len(all))
	}
	return all[0], nil
}
