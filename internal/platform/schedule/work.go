package schedule

import (
	"context"
	"encoding/json"
	"time"

	"levee"
	"levee/internal/platform/job"
	"levee/internal/platform/when"
)

// Work is what a program does by itself every so often: a kind of job and the declared schedule that gives it, both of one name.
type Work struct {
	kind  *job.Kind[json.RawMessage]
	entry Entry
	due   func(ctx context.Context) (bool, error)
	err   error
}

// Every makes work that is done once per interval d, as when.Every counts it: from 1970-01-01 UTC, so every hour means at the full hours. On all nodes
// together one runs at a time. A firing that finds the run before still under way is left out, and one that finds it waiting for its next
// attempt has that begin at once: a run that failed is tried again after the backoff of o, at the latest with the next firing. Unless o
// says otherwise it is never given up (job.Unlimited). After a standstill there is one firing, not one for each that was missed. fn must
// bear to be run twice, as that of any job.
func Every(name string, d time.Duration, o job.Options, fn func(ctx context.Context) error) Work {
	if o.MaxAttempts == 0 {
		o.MaxAttempts = job.Unlimited
	}
	var run func(context.Context, json.RawMessage) error // arguments that an operator may have set are not looked at
	if fn != nil {
		run = func(ctx context.Context, _ json.RawMessage) error { return fn(ctx) }
	}
	trigger, err := when.Every(d)
	return Work{kind: job.Define(name, o, run), entry: Entry{Name: name, Kind: name, Trigger: trigger}, err: err}
}

// If has a firing give a job only if due says that there is something to do: what is done each second and mostly finds nothing then costs
// one small commit per firing and not three. Such a firing counts as neither fired nor skipped. due is asked by each node at each firing. It must be quick and
// change nothing; after a second its context ends. When it fails, the job is given.
func (w Work) If(due func(ctx context.Context) (bool, error)) Work {
	w.due = due
	return w
}

// Register registers the kinds of the program's own work with the jobs, and declares its schedules. It fails as job's Register and Declare do.
func (s *Schedules) Register(ws ...Work) (err error) {
	defer levee.Wrap(&err, "schedule.Register")
	for _, w := range ws {
		switch {
		case w.err != nil:
			return w.err
		case w.kind == nil:
			return levee.Invalid("work", "made by schedule.Every", "a zero value")
		}
		if err := s.jobs.Register(w.kind); err != nil {
			return err
		}
		if err := s.Declare(w.entry); err != nil {
			return err
		}
		s.work[w.entry.Name] = w
	}
	return nil
}

// mostAsked is how long all the work that is due at once may take to say whether there is something to do.
const mostAsked = time.Second

// ask takes the jobs out of plans for which there is nothing to do.
func (s *Schedules) ask(ctx context.Context, plans []plan) {
	ctx, cancel := context.WithTimeout(ctx, mostAsked)
	defer cancel()
	for i := range plans {
		p := &plans[i]
		w := s.work[p.r.kind]
		if w.due == nil || len(p.fire) == 0 {
			continue
		}
		if some, err := w.due(ctx); err != nil {
			s.log.WarnContext(ctx, "whether there is something to do is not known: it is tried", "schedule", p.r.name, "err", err)
		} else if !some {
			p.idle, p.fire, p.merged = p.fire[len(p.fire)-1], nil, 0
		}
	}
}
