package flow

import (
	"fmt"
	"strconv"
	"strings"

	"levee"
	"levee/internal/platform/job"
)

// A flow is laid out as joints, and steps that lead from one joint to another. A joint is reached when all that leads to it is over; then what leads
// from it begins. So a group behind a group of 10,000 each is 20,000 steps and no edges. Chains and groups make no others than these, and
// no circle can be said.

// joint is one while it is laid out.
type joint struct {
	n      int // higher than that of all that lead to it: 0 is the beginning
	waits  int
	fed    int
	next   *joint
	stops  bool
	begins []*step
}

type step struct {
	n     int // from 1
	ready job.Ready
	from  *joint
	to    *joint
	soft  bool
}

// plan is a flow laid out.
type plan struct {
	joints []*joint // by n
	steps  []*step
	args   int
}

// shard is how many members of a group count down one row. A larger group has a joint for each shard, which counts down the group's: members lie beside each
// other as they are claimed, so that a batch of ends needs few rows and nodes seldom the same.
const shard = 128

func layOut(p Part) (*plan, error) {
	l := &plan{}
	start, end := &joint{}, &joint{}
	l.joints = []*joint{start}
	switch {
	case p.err != nil:
		return nil, p.err
	case p.size == 0 || p.size > maxSteps:
		return nil, levee.Invalid("flow", fmt.Sprintf("1 to %d steps", maxSteps), p.size)
	case p.depth > maxDepth:
		return nil, levee.Invalid("flow", fmt.Sprintf("parts in parts up to %d deep", maxDepth), p.depth)
	}
	if err := l.lay(p, start, end, false); err != nil {
		return nil, err
	}
	l.close(end)
	return l, nil
}

// close gives a joint its number, once all that lead to it have theirs.
func (l *plan) close(j *joint) {
	j.n = len(l.joints)
	l.joints = append(l.joints, j)
}

func (j *joint) feed(next *joint) {
	j.next = next
	next.waits++
	next.fed++
}

func (l *plan) lay(p Part, from, to *joint, soft bool) error {
	switch {
	case p.ready != nil:
		return l.add(p, from, to, soft)
	case p.soft:
		inner := &joint{stops: true}
		if err := l.lay(p.members[0], from, inner, true); err != nil {
			return err
		}
		l.close(inner)
		inner.feed(to)
	case p.chain:
		for i, m := range p.members {
			next := to
			if i < len(p.members)-1 {
				next = &joint{}
			}
			if err := l.lay(m, from, next, soft); err != nil {
				return err
			}
			if next != to {
				l.close(next)
			}
			from = next
		}
	case len(p.members) > 2*shard:
		for rest := p.members; len(rest) > 0; {
			some := rest[:min(shard, len(rest))]
			rest = rest[len(some):]
			inner := &joint{}
			if err := l.lay(Part{members: some}, from, inner, soft); err != nil {
				return err
			}
			l.close(inner)
			inner.feed(to)
		}
	default:
		for _, m := range p.members {
			if err := l.lay(m, from, to, soft); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *plan) add(p Part, from, to *joint, soft bool) error {
	r, err := p.ready()
	if err != nil {
		return err
	}
	if l.args += len(r.Args); l.args > maxArgs {
		return levee.E(levee.CodeTooLarge, "the arguments of the flow's steps have more than %d bytes", maxArgs)
	}
	s := &step{n: len(l.steps) + 1, ready: r, from: from, to: to, soft: soft}
	l.steps = append(l.steps, s)
	from.begins = append(from.begins, s)
	to.waits++
	return nil
}

// writeIDs and readIDs are the form of flow_joint.begins.
func writeIDs(steps []*step) string {
	var b strings.Builder
	for i, s := range steps {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(s.ready.ID, 36))
	}
	return b.String()
}

func readIDs(text string) (ids []int64, err error) {
	if text == "" {
		return nil, nil
	}
	for _, word := range strings.Split(text, ",") {
		id, err := strconv.ParseInt(word, 36, 64)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
