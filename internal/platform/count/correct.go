package count

import (
	"context"
	"slices"
	"time"

	"levee"
)

// Truth is how the owner of what is counted counts it.
type Truth struct {
	// Keys returns the keys that should have a total, some at a time: those that follow after in an order of the owner's own, "" for the
	// first. None ends the walk. A key may come more than once.
	Keys func(ctx context.Context, after string) ([]string, error)
	// Count counts the keys given, up to 500, from what is committed now (a read from the primary). What it leaves out is zero.
	Count func(ctx context.Context, keys []string) (map[string]int64, error)
}

// Drift is what a correction found.
type Drift struct {
	Keys   int   // that were looked at
	Differ int   // that were wrong, and are right now
	Sum    int64 // of the differences, without their signs
	Unsure int   // that changed each time they were counted, and were left as they were
}

const (
	countAgain = 5    // tries with a key that changes while it is counted
	gather     = 2000 // differences that are looked at a second time together
)

// Correct compares all totals with the truth and mends those that differ. It changes nothing until all are compared: any error, of Truth's
// functions, of SQL or of Redis, leaves every total as it was. While it runs, totals are changed and read as ever: what is added is the difference, so
// nothing that others add meanwhile is lost or counted twice.
//
// A key is compared between two looks at its total that must be the same; one that differs is compared once more two seconds later, so that a
// change whose row is committed and that is not added yet is no difference. The caller sees to it that one process runs it at a time
// (job.Every); where two do, the later one goes on and the earlier ends with CodeConflict and changes nothing more.
func (c *Counter) Correct(ctx context.Context, t Truth) (d Drift, err error) {
	defer levee.Wrap(&err, "count.Correct(%s)", c.kind)
	began := time.Now()
	fence, err := c.c.store.beginRun(ctx, c.kind)
	if err != nil {
		return d, err
	}
	d, err = c.correct(ctx, t, fence)
	if err != nil {
		c.c.log.ErrorContext(ctx, "a correction of counts was given up; no total was changed by what it had not finished", "kind", c.kind, "err", err)
		return d, err
	}
	c.tell(ctx, d, began)
	return d, nil
}

func (c *Counter) tell(ctx context.Context, d Drift, began time.Time) {
	tell(ctx, c.c, c.kind, d, began)
}

func tell(ctx context.Context, c *Counts, kind string, d Drift, began time.Time) {
	c.metrics.differ.WithLabelValues(kind).Set(float64(d.Differ))
	c.metrics.drift.WithLabelValues(kind).Set(float64(d.Sum))
	c.metrics.unsure.WithLabelValues(kind).Set(float64(d.Unsure))
	level := c.log.InfoContext
	if d.Differ > 0 || d.Unsure > 0 {
		level = c.log.WarnContext
	}
	level(ctx, "counts were compared with the truth", "kind", kind, "keys", d.Keys, "differed", d.Differ, "sum", d.Sum, "unsure", d.Unsure,
		"took", time.Since(began).Round(time.Millisecond))
}

func (c *Counter) correct(ctx context.Context, t Truth, fence int64) (d Drift, err error) {
	var wrong []change
	look := func(names []string) error {
		d.Keys += len(names)
		found, unsure, err := c.differences(ctx, t, names)
		d.Unsure += unsure
		wrong = append(wrong, found...)
		if err != nil || len(wrong) < gather {
			return err
		}
		err = c.confirm(ctx, t, fence, wrong, &d)
		wrong = nil
		return err
	}
	// First what the owner has and SQL has not, then what SQL has, whether the owner has it or not: so each key comes once.
	for after := ""; ; {
		keys, err := t.Keys(ctx, after)
		if err != nil {
			return d, err
		}
		if len(keys) == 0 {
			break
		}
		last := keys[len(keys)-1]
		if last == after {
			return d, levee.E(levee.CodeInternal, "the walk over the keys of %s stands still at %q", c.kind, levee.Shorten(after, 80))
		}
		after = last
		slices.Sort(keys)
		for part := range slices.Chunk(slices.Compact(keys), 500) {
			for _, k := range part {
				if err := checkKey("key", k); err != nil {
					return d, err
				}
			}
			there, err := c.c.store.rows(ctx, c.kind, part)
			if err != nil {
				return d, err
			}
			fresh := slices.DeleteFunc(slices.Clone(part), func(k string) bool { _, ok := there[k]; return ok })
			if len(fresh) > 0 {
				if err := look(fresh); err != nil {
					return d, err
				}
			}
		}
	}
	for after := ""; ; {
		names, err := c.c.store.names(ctx, c.kind, after)
		if err != nil {
			return d, err
		}
		if len(names) == 0 {
			break
		}
		after = names[len(names)-1]
		if err := look(names); err != nil {
			return d, err
		}
	}
	if err := c.confirm(ctx, t, fence, wrong, &d); err != nil {
		return d, err
	}
	for {
		n, err := c.c.store.apply(ctx, c.kind, fence, c.c.driver.joinTx)
		if err != nil || n == 0 {
			return d, err
		}
	}
}

// differences returns truth less total for the keys that differ, and how many could not be told.
func (c *Counter) differences(ctx context.Context, t Truth, names []string) (found []change, unsure int, err error) {
	for try := 0; len(names) > 0 && try < countAgain; try++ {
		var again []string
		step := 500
		if try > 0 {
			step = 1 // alone, a key is counted in an instant
		}
		for part := range slices.Chunk(names, step) {
			before, err := c.c.driver.exact(ctx, c.kind, part)
			if err != nil {
				return nil, 0, err
			}
			truth, err := t.Count(ctx, part)
			if err != nil {
				return nil, 0, err
			}
			after, err := c.c.driver.exact(ctx, c.kind, part)
			if err != nil {
				return nil, 0, err
			}
			for _, n := range part {
				switch {
				case before[n] != after[n]:
					again = append(again, n)
				case truth[n] != after[n].total:
					found = append(found, change{key{c.kind, n}, truth[n] - after[n].total})
				}
			}
		}
		names = again
	}
	return found, len(names), nil
}

// confirm looks a second time, and notes what still differs by as much.
func (c *Counter) confirm(ctx context.Context, t Truth, fence int64, wrong []change, d *Drift) error {
	if len(wrong) == 0 {
		return nil
	}
	pause := time.NewTimer(c.c.settle)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	first := map[string]int64{}
	var names []string
	for _, w := range wrong {
		first[w.name] = w.n
		names = append(names, w.name)
	}
	second, unsure, err := c.differences(ctx, t, names)
	if err != nil {
		return err
	}
	d.Unsure += unsure
	second = slices.DeleteFunc(second, func(w change) bool {
		if first[w.name] == w.n {
			d.Differ++
			d.Sum += max(w.n, -w.n)
			return false
		}
		d.Unsure++
		return true
	})
	return c.c.store.note(ctx, c.kind, fence, second)
}

// Walk gives the members that a board should have with their scores, to put, as many as it likes; the highest stay. A member that comes twice
// has the score that came last.
type Walk func(ctx context.Context, put func(member string, score int64) error) error

// Rebuild makes a board anew from the truth. Readers see the old board until the new one is whole, then the new one with what was changed
// while walk ran. An error leaves the old one. CodeConflict while another rebuild of the board runs, on any node; CodeUnavailable while Redis is away.
func (b *Board) Rebuild(ctx context.Context, name string, walk Walk) (d Drift, err error) {
	defer levee.Wrap(&err, "count.Rebuild(%s)", b.kind)
	if err := checkKey("key", name); err != nil {
		return d, err
	}
	began := time.Now()
	if d, err = b.c.boards.rebuild(ctx, b, name, walk); err != nil {
		b.c.log.ErrorContext(ctx, "the rebuild of a board was given up; the old one stays", "kind", b.kind, "err", err)
		return d, err
	}
	tell(ctx, b.c, b.kind, d, began)
	return d, nil
}
