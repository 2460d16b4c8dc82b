package flow

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/job"
)

// What package job tells besides done, dead and cancelled.
const (
	whatRetried = "retried" // a dead job waits again
	whatPruned  = "pruned"  // a dead job was removed
)

// change is what an end does to its step.
type change struct {
	end  job.End
	step row
}

// count is what is to be counted down of a joint.
type count struct {
	over, failed int
	dead         []*change // which count only where nobody shall be waited for
}

// ended writes what ends of jobs set going, in the transaction that writes the ends. Everybody takes the rows in this order: steps by id, then flow by
// flow the joints by number and the flow's own row. A joint leads to higher ones only, and the ends of one step come once, because
// the state of the step says so. So batches of ends on many nodes wait for each other, but never in a circle.
func (f *Flows) ended(ctx context.Context, tx *db.Tx, ends []job.End) error {
	if f.seam.outside {
		tx.AfterCommit(func() {
			time.Sleep(5 * time.Millisecond)
			_ = f.db.Tx(context.WithoutCancel(ctx), "flow.outside", func(ctx context.Context, tx *db.Tx) error { return f.advance(ctx, tx, ends) })
		})
		return nil
	}
	return f.advance(ctx, tx, ends)
}

func (f *Flows) advance(ctx context.Context, tx *db.Tx, ends []job.End) error {
	steps, err := f.lockSteps(ctx, tx, ends)
	if err != nil {
		return err
	}
	flows := map[int64][]*change{}
	var order []int64
	for _, e := range ends {
		s, ok := steps[e.ID]
		if !ok || !follows(s.state, e.What) {
			continue // not a step of ours, or one that the flow has gone on without
		}
		if flows[s.flow] == nil {
			order = append(order, s.flow)
		}
		flows[s.flow] = append(flows[s.flow], &change{e, s})
	}
	slices.Sort(order)
	if f.seam.disorder {
		rand.Shuffle(len(order), func(a, b int) { order[a], order[b] = order[b], order[a] })
	}
	for _, flow := range order {
		if err := f.advanceFlow(ctx, tx, flow, flows[flow]); err != nil {
			return err
		}
	}
	return nil
}

// follows tells whether a step in this state can come to this end.
func follows(s State, what string) bool {
	if what == whatRetried || what == whatPruned {
		return s == Dead
	}
	return s == Running
}

func (f *Flows) advanceFlow(ctx context.Context, tx *db.Tx, flow int64, changes []*change) error {
	w := &walk{f: f, flow: flow, counts: map[int]*count{}, states: map[State][]int64{}}
	for _, c := range changes {
		at := w.at(c.step.counts)
		switch c.end.What {
		case whatRetried:
			w.dead--
			w.states[Running] = append(w.states[Running], c.step.id)
			w.forget = append(w.forget, c.step.id)
		case whatPruned:
			w.dead--
			w.over(at, c.step.id, Failed)
		case string(Cancelled):
			w.over(at, c.step.id, Cancelled)
		case string(Dead):
			w.results = append(w.results, []any{c.step.id, nil, c.end.Error})
			if c.step.soft {
				w.over(at, c.step.id, Failed)
			} else {
				at.dead = append(at.dead, c)
			}
		default:
			if c.end.Result != "" {
				w.results = append(w.results, []any{c.step.id, c.end.Result, nil})
			}
			w.over(at, c.step.id, Done)
		}
	}
	for len(w.queue) > 0 {
		n := w.queue[0]
		w.queue = w.queue[1:]
		if err := w.joint(ctx, tx, n, w.counts[n]); err != nil {
			return err
		}
	}
	return w.write(ctx, tx)
}

// walk is what a batch of ends does to one flow.
type walk struct {
	f       *Flows
	flow    int64
	queue   []int // joints still to be counted down, rising
	counts  map[int]*count
	states  map[State][]int64 // what steps become
	results [][]any
	forget  []int64 // results that hold no longer
	dead    int     // more that wait for a person
	end     State   // of the flow; empty: it goes on
}

func (w *walk) at(n int) *count {
	c := w.counts[n]
	if c == nil {
		c = &count{}
		w.counts[n] = c
		at, _ := slices.BinarySearch(w.queue, n)
		w.queue = slices.Insert(w.queue, at, n)
	}
	return c
}

// over notes that a step is over for its flow.
func (w *walk) over(at *count, id int64, s State) {
	at.over++
	if s != Done {
		at.failed++
	}
	w.states[s] = append(w.states[s], id)
}

// joint counts one joint down and, when it is reached, lets begin what begins there.
func (w *walk) joint(ctx context.Context, tx *db.Tx, n int, c *count) error {
	if c.over == 0 && len(c.dead) == 0 {
		return nil // a dead one was retried
	}
	j, err := w.f.lockJoint(ctx, tx, w.flow, n)
	if err != nil {
		return err
	}
	for _, d := range c.dead {
		if j.cancelled {
			w.over(c, d.step.id, Failed)
		} else {
			w.dead++
			w.states[Dead] = append(w.states[Dead], d.step.id)
		}
	}
	if c.over == 0 {
		return nil
	}
	j.waits -= c.over
	j.failed += c.failed
	if err := w.f.countJoint(ctx, tx, w.flow, n, j); err != nil || j.waits > 0 {
		return err
	}
	bad := j.failed > 0 && (!j.stops || j.cancelled)
	if err := w.begin(ctx, tx, j, n, bad || j.cancelled); err != nil {
		return err
	}
	switch {
	case j.next > 0:
		next := w.at(j.next)
		next.over++
		if bad {
			next.failed++
		}
	case !j.leads: // the last one
		w.end = Done
		if bad && j.cancelled {
			w.end = Cancelled
		} else if bad {
			w.end = Failed
		}
	}
	return nil
}

// begin enqueues the steps that begin at a joint, or skips them and counts down what they would have.
func (w *walk) begin(ctx context.Context, tx *db.Tx, j jointRow, n int, skip bool) error {
	if !j.leads {
		return nil
	}
	ids, err := w.f.begins(ctx, tx, w.flow, n)
	if err != nil {
		return err
	}
	if skip {
		counts, err := w.f.countsOf(ctx, tx, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			w.over(w.at(counts[i]), id, Skipped)
		}
		return nil
	}
	ready, err := w.f.ready(ctx, tx, ids)
	if err != nil {
		return err
	}
	w.states[Running] = append(w.states[Running], ids...)
	return w.f.jobs.PlaceTx(ctx, tx, sourceOf(w.flow), ready)
}

// write sets the states of steps and of the flow.
func (w *walk) write(ctx context.Context, tx *db.Tx) error {
	f := w.f
	if err := f.forgetResults(ctx, tx, w.forget); err != nil {
		return err
	}
	if err := tx.InsertRows(ctx, "flow_result", []string{"id", "result", "error"}, w.results); err != nil {
		return err
	}
	for _, s := range []State{Running, Done, Failed, Cancelled, Skipped, Dead} {
		if err := f.setStates(ctx, tx, w.states[s], s); err != nil {
			return err
		}
	}
	if w.dead != 0 || w.end != "" {
		if err := f.setFlow(ctx, tx, w.flow, w.dead, w.end); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() {
		for s, ids := range w.states {
			if s != Running {
				f.m.steps.WithLabelValues(string(s)).Add(float64(len(ids)))
			}
		}
		if w.end != "" {
			f.m.ended.WithLabelValues(string(w.end)).Inc()
		}
		for _, id := range w.states[Dead] {
			f.log.WarnContext(ctx, "a step is dead; its flow waits until it is retried, cancelled or pruned", "flow", w.flow, "job", id)
		}
	})
	return nil
}
