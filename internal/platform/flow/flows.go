package flow

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
)

// Config measures flows. The zero value is usable.
type Config struct {
	// Keep is how long a flow that is over can still be looked up, with the results of its steps; default 7 days, 1 second to ten years.
	Keep time.Duration
}

// Flows keeps all flows of the house.
type Flows struct {
	db     *db.DB
	ids    *id.Generator
	jobs   *job.Jobs
	clock  obs.Clock
	log    *slog.Logger
	m      *metrics
	keep   time.Duration
	crowd  bool // the engine has many writers at once
	cancel *job.Kind[int64]
	seam   seam
}

// seam is what the suite takes away, to see the faults come that it prevents. Zero in production.
type seam struct {
	outside  bool // what an end sets going is committed a moment after the end
	disorder bool // flows are taken in any order
}

// Open makes Flows on d and jobs, of which it becomes the follower, before jobs run. Every node of the house does so, also one that runs no
// jobs. It fails with CodeInvalid for a config out of bounds and for jobs that have a follower.
func Open(c Config, d *db.DB, ids *id.Generator, jobs *job.Jobs, o *obs.Obs) (f *Flows, err error) {
	defer levee.Wrap(&err, "flow.Open")
	if c.Keep == 0 {
		c.Keep = 7 * 24 * time.Hour
	}
	if c.Keep < time.Second || c.Keep > maxKeep {
		return nil, levee.Invalid("flow.keep", "1s to ten years", c.Keep)
	}
	f = &Flows{db: d, ids: ids, jobs: jobs, clock: o.Clock, log: o.Named("flow"), m: newMetrics(o.Metrics), keep: c.Keep, crowd: d.Dialect().Name() != "sqlite"}
	f.cancel = job.Define("flow.cancel", job.Options{MaxAttempts: 1000, Timeout: 10 * time.Minute}, f.cancelAll)
	return f, errors.Join(jobs.Register(f.cancel), jobs.Follow(job.Follower{Prefix: source, Ended: f.ended, Enter: f.enter}))
}

// StartTx starts a flow within the caller's transaction: its first steps are enqueued with the commit. The name (at most 190 bytes) is for people.
// It fails with CodeInvalid for a flow without steps, with more than 10,000 or nested deeper than 100, and for a step with a negative time, and with
// CodeTooLarge for a step's arguments over 256 KiB or 16 MiB in all.
func (f *Flows) StartTx(ctx context.Context, tx *db.Tx, name string, p Part) (flow int64, err error) {
	defer levee.Wrap(&err, "flow.Start(%q)", levee.Shorten(name, 80))
	if len(name) > maxName {
		return 0, levee.Invalid("name of the flow", "at most 190 bytes", name)
	}
	l, err := layOut(p)
	if err != nil {
		return 0, err
	}
	ids := make([]int64, len(l.steps)+1)
	if err := f.ids.NextN(ids); err != nil {
		return 0, err
	}
	flow = ids[0]
	for i, s := range l.steps {
		s.ready.ID = ids[i+1]
	}
	return flow, f.insert(ctx, tx, flow, name, l)
}

// Start is StartTx in a transaction of its own.
func (f *Flows) Start(ctx context.Context, name string, p Part) (flow int64, err error) {
	err = f.db.Tx(ctx, "flow.start", func(ctx context.Context, tx *db.Tx) error {
		flow, err = f.StartTx(ctx, tx, name, p)
		return err
	})
	return flow, err
}

// CancelTx ends a flow: with the commit nothing of it begins any more. Then its steps that wait leave, the contexts of those that run end (see
// Jobs.Cancel), dead ones wait for nobody, and the flow is over once all are. It fails with CodeNotFound for one that is not there, and with CodeConflict for one that is over.
func (f *Flows) CancelTx(ctx context.Context, tx *db.Tx, flow int64) (err error) {
	defer levee.Wrap(&err, "flow.Cancel(%d)", flow)
	// The joints first, then the flow's row: the order of ends. Who completes a joint after this sees that it must begin nothing.
	if _, err := tx.Exec(ctx, `UPDATE flow_joint SET cancelled = 1 WHERE flow = ?`, flow); err != nil {
		return err
	}
	var state State
	err = tx.QueryRow(ctx, `SELECT state FROM flow_run WHERE id = ?`+f.db.Dialect().ForUpdate(), flow).Scan(&state)
	switch {
	case errors.Is(err, db.ErrNoRows):
		return levee.E(levee.CodeNotFound, "there is no such flow, or it was over and is not kept any more")
	case err != nil:
		return err
	case state == Cancelling:
		return nil
	case state != Running:
		return levee.E(levee.CodeConflict, "the flow is over: %s", state)
	}
	if _, err := tx.Exec(ctx, `UPDATE flow_run SET state = ? WHERE id = ?`, string(Cancelling), flow); err != nil {
		return err
	}
	_, err = f.cancel.EnqueueTx(ctx, tx, flow)
	return err
}

// Cancel is CancelTx in a transaction of its own.
func (f *Flows) Cancel(ctx context.Context, flow int64) error {
	return f.db.Tx(ctx, "flow.cancel", func(ctx context.Context, tx *db.Tx) error { return f.CancelTx(ctx, tx, flow) })
}

const (
	cancelAgain = 2 * time.Second // until what has not ended is asked again
	stepPage    = 500
)

// cancelAll is the job that cancels what a flow still has: again and again until the flow is over, since a dead step may be retried meanwhile.
func (f *Flows) cancelAll(ctx context.Context, flow int64) error {
	for after := 0; ; {
		live, next, err := f.live(db.Primary(ctx), flow, after)
		if err != nil {
			return err
		}
		for _, s := range live {
			if s.State == Dead {
				err = f.db.Tx(ctx, "flow.cancel", func(ctx context.Context, tx *db.Tx) error {
					return f.ended(ctx, tx, []job.End{{ID: s.Job, What: whatPruned}})
				})
			} else if err = f.jobs.Cancel(ctx, s.Job); levee.CodeOf(err) == levee.CodeNotFound {
				err = nil // it has ended meanwhile, or died: then the next look finds it
			}
			if err != nil {
				return err
			}
		}
		if next == 0 {
			break
		}
		after = next
	}
	i, err := f.Get(db.Primary(ctx), flow)
	if err != nil || i.State != Cancelling {
		if levee.CodeOf(err) == levee.CodeNotFound {
			return nil
		}
		return err
	}
	return job.Snooze(cancelAgain)
}

// Run lets flows leave that were kept for long enough, in small steps, until ctx ends. Several nodes may do so at once.
func (f *Flows) Run(ctx context.Context) error {
	for wait := keepEvery / 4; ; {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		wait = keepEvery
		more, err := f.forget(db.Primary(ctx))
		switch {
		case err != nil && ctx.Err() == nil:
			f.log.WarnContext(ctx, "flows that are over could not be removed", "err", err)
		case more:
			wait = 50 * time.Millisecond
		}
	}
}

const keepEvery = time.Minute

func sourceOf(flow int64) string { return source + strconv.FormatInt(flow, 10) }
