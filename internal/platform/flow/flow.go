// Package flow runs jobs after one another and beside one another: chains, groups, and what comes when a group is over.
//
// It owns the tables flow_*: which steps there are, what each waits for, what became of it, and the results that it left for those behind it. It does not
// run anything: each step is a job of package job, with its leases, retries and limits, and begins in the same commit in which the
// last of those that it waits for ends.
//
// The promises:
//
//   - A flow exists if and only if the transaction that started it committed.
//   - Each step is enqueued exactly once, when all that it waits for is over, however often nodes are killed or sleep: the end of a job and the beginning of
//     what waits for it are one commit, and only the run whose lease counted can write it. (The step's function runs at least once, as any job's does.)
//   - A step that is dead holds up what waits for it until a person retries it, unless its part of the flow is Regardless.
//   - Members of a group may end on many nodes at once, by the thousand: they share few rows, once per batch of ends, in one order.
package flow

import (
	"embed"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
)

const (
	maxName  = 190               // bytes of a flow's name
	maxSteps = 10_000            // of one flow
	maxArgs  = 16 << 20          // bytes of all steps' arguments
	maxDepth = 100               // of parts in parts
	maxKeep  = 87600 * time.Hour // ten years
	usual    = 4                 // priority

	source = "flow/" // of the jobs: with the flow's id
)

// Part is a step, or steps that belong together. It is made by Step, Chain and Group, and may be used in any number of flows.
type Part struct {
	members  []Part
	chain    bool
	ready    func() (job.Ready, error) // of a step
	after    time.Duration
	priority int
	soft     bool
	size     int // steps
	depth    int
	err      error // the first that is wrong
}

// join makes a part of parts; those without steps are left out.
func join(parts []Part, chain bool) Part {
	p := Part{chain: chain, depth: 1}
	for _, m := range parts {
		if p.err == nil {
			p.err = m.err
		}
		if m.size > 0 {
			p.members = append(p.members, m)
			p.size = min(p.size+m.size, 1<<30)
			p.depth = max(p.depth, m.depth+1)
		}
	}
	return p
}

// StepOption changes one step.
type StepOption func(*Part)

// After lets a step begin d later than it could, 0 to ten years.
func After(d time.Duration) StepOption { return func(p *Part) { p.after = d } }

// Priority is job.Priority for one step.
func Priority(n int) StepOption { return func(p *Part) { p.priority = n } }

// Step is one job of a kind that is registered where the flow starts.
func Step[A any](k *job.Kind[A], args A, o ...StepOption) Part {
	p := Part{priority: usual, size: 1}
	for _, set := range o {
		set(&p)
	}
	if k == nil {
		p.err = levee.Invalid("step", "a kind", "nil")
	}
	after, priority := p.after, p.priority
	if after < 0 {
		p.err = levee.Invalid("step's After", "0 to ten years", after)
	}
	p.ready = func() (job.Ready, error) { return k.Ready(args, priority, after) }
	return p
}

// Chain runs parts one after the other: each begins when the one before is over, in the commit in which it ends. An empty one is
// nothing.
func Chain(parts ...Part) Part { return join(parts, true) }

// Group runs parts at the same time; it is over when all of them are. What is to be called then stands behind it in a Chain: once, with
// all outcomes (Each, Results). An empty one is nothing: what stands behind it begins at once.
func Group(parts ...Part) Part { return join(parts, false) }

// Regardless lets the flow go on behind a part whatever becomes of it: a step in it that is dead is over and waits for nobody, what stands behind that
// step within the part is skipped, and what stands behind the part begins once all else in it is over, and reads the failures with Each. Without it a dead
// step holds up what waits for it until it is retried; once it is pruned or cancelled, what waits for it is skipped.
func (p Part) Regardless() Part {
	whole := join([]Part{p}, true)
	whole.soft = whole.size > 0
	return whole
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables flow_*.
func Schema() db.Schema { return db.Schema{Owner: "flow", FS: schemaFS} }
