package gate

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/redis"
)

// A move of units between two buckets is two halves, at two servers. What bucket a sent to b in all (a's out) and what b got from a in all (b's in)
// are sums that only rise: units are under way while out is above in, and whoever sees it may deliver them, once or often. After a
// fail-over turned one of them back, the higher one counts. It is the transfer matrix of the bounded counter (Balegas et al., Extending
// Eventually Consistent Cloud Databases for Enforcing Numeric Invariants, SRDS 2015).

// state is what a bucket said of itself, in one step.
type state struct {
	err        error
	warm       bool
	generation string // of its load: units move within one only
	remaining  int64
	epoch      uint64
	in, out    [BucketsMax]int64
}

// view is what all buckets together have.
type view struct {
	free       int64 // of those of the generation
	epoch      uint64
	away, cold bool // some bucket did not answer, or is of another load
}

func viewOf(states []state, generation string) (v view) {
	for i := range states {
		switch s := &states[i]; {
		case s.err != nil:
			v.away = true
		case !s.warm || s.generation != generation:
			v.cold = true
		default:
			v.free += s.remaining
			// By the servers' clocks: the highest rises with any of them, but for as much as the clocks differ.
			v.epoch = max(v.epoch, s.epoch)
		}
	}
	return v
}

// drawing is a caller's wish for units from other buckets.
type drawing struct {
	place   int // of his bucket
	units   int64
	verdict Verdict // Taken: try again; SoldOut, Cold, Away: answer this
	epoch   uint64
	done    chan struct{} // holds one
}

var drawings = sync.Pool{New: func() any { return &drawing{done: make(chan struct{}, 1)} }}

func (d *drawing) answer(v Verdict, epoch uint64) {
	d.verdict, d.epoch = v, epoch
	d.done <- struct{}{}
}

// drawer is what draws for all callers of a node: one at a time, so that they ask the buckets together.
type drawer struct {
	k      *buckets
	list   []*bucket
	asked  redis.Gatherer[*drawing]
	before []state // as the buckets were at the last look; only what runs for asked touches it
}

func newDrawer(k *buckets, list []*bucket) *drawer {
	d := &drawer{k: k, list: list}
	d.asked = redis.Gatherer[*drawing]{Width: drawWidth, Calls: 1, Most: waitMost, Send: d.draw, Fail: func(w *drawing, _ error) { w.answer(Away, 0) }}
	return d
}

// bring has units brought to a bucket from others, by a draw that begins after this call. Taken says that it may have them now.
func (d *drawer) bring(place int, units int32) (Verdict, uint64) {
	w := drawings.Get().(*drawing)
	defer drawings.Put(w)
	w.place, w.units = place, int64(units)
	if !d.asked.Join(w) {
		return Away, 0
	}
	<-w.done
	return w.verdict, w.epoch
}

// draw brings what a batch of callers wants to their buckets. A caller is told "sold out" if all buckets together had fewer units than he wants
// at one moment: no units were under way between any two of them as their states were read, so these fit together (a consistent cut with
// empty channels: Mattern 1989), and what comes back later raises the epoch.
func (d *drawer) draw(batch []*drawing) error {
	ctx := context.Background() // each call ends by the client's timeout
	wishes := make([][]*drawing, len(d.list))
	for _, w := range batch {
		wishes[w.place] = append(wishes[w.place], w)
	}
	for range lookRounds {
		states := d.k.survey(ctx, d.list)
		open := d.k.deliver(ctx, d.list, states)
		give := settled(states, d.before)
		waiting := false
		for place := range wishes {
			wishes[place] = d.serve(ctx, states, place, wishes[place], open, give)
			waiting = waiting || len(wishes[place]) > 0
		}
		d.before = states
		if !waiting {
			return nil
		}
		time.Sleep(time.Millisecond/2 + rand.N(time.Millisecond/2))
	}
	for _, list := range wishes {
		for _, w := range list {
			w.answer(Taken, 0)
		}
	}
	return nil
}

// serve answers the wishes for one bucket, and returns those that have to be looked at again.
func (d *drawer) serve(ctx context.Context, states []state, place int, wishes []*drawing, open bool, give []bool) (later []*drawing) {
	own := &states[place]
	silent, cold := own.err != nil, own.err == nil && !own.warm // as it was asked; what fails from here on is looked at again
	v := viewOf(states, own.generation)
	var want int64
	least := v.free // of what anybody wants who may have it
	for _, w := range wishes {
		if w.units <= v.free {
			want, least = want+w.units, min(least, w.units)
		}
	}
	if want > 0 && v.free >= scarce*int64(len(d.list)) {
		give = nil
	}
	// Of the last units, what was just brought to a bucket is left to those for whom it was brought, or it would go round for ever.
	d.k.fetch(ctx, d.list, states, place, min(want, v.free), give)
	if give != nil && want > 0 {
		give[place] = false
	}
	for _, w := range wishes {
		switch {
		case silent:
			w.answer(Away, 0)
		case cold:
			w.answer(Cold, 0)
		case w.units <= v.free && own.remaining >= least:
			w.answer(Taken, 0)
		case w.units <= v.free:
			later = append(later, w)
		case v.away:
			w.answer(Away, 0)
		case v.cold:
			w.answer(Cold, 0)
		case open:
			later = append(later, w)
		default:
			w.answer(SoldOut, v.epoch)
		}
	}
	return later
}

// settled tells of each bucket whether nothing was brought to it since it was looked at before.
func settled(states, before []state) []bool {
	list := make([]bool, len(states))
	for i := range list {
		list[i] = before != nil && states[i].in == before[i].in
	}
	return list
}

// deliver ends the moves that are open between buckets of one load, as far as they can be reached. It reports whether there were any; then
// states are no picture of one moment.
func (k *buckets) deliver(ctx context.Context, list []*bucket, states []state) (open bool) {
	for from := range states {
		for to := range states {
			a, b := &states[from], &states[to]
			if a.err != nil || b.err != nil || !a.warm || !b.warm || a.generation != b.generation {
				continue
			}
			switch out, in := a.out[to], b.in[from]; {
			case out > in:
				open = true
				b.in[from], b.remaining = k.half(ctx, list[to], b, from, "receive", out)
			case in > out: // its server forgot what it sent; or it was read before it sent it, and this is idle
				open = true
				a.out[to], a.remaining = k.half(ctx, list[from], a, to, "owe", in)
			}
		}
	}
	return open
}

// half does one half of a move, and notes in s if the bucket did not answer. It returns the sum and the units of the bucket after it.
func (k *buckets) half(ctx context.Context, b *bucket, s *state, other int, step string, number int64) (sum, remaining int64) {
	sum, remaining, err := b.move(ctx, s.generation, other, step, number)
	switch {
	case errors.Is(err, errCold), errors.Is(err, errOther):
		s.warm = false
	case err != nil:
		s.err = err
	}
	return sum, remaining
}

// fetch brings free units to the bucket at place until it has want: from the richest (of those that give, where they are named), and at once
// half of what that has more, so that the next buyers find some, too.
func (k *buckets) fetch(ctx context.Context, list []*bucket, states []state, place int, want int64, give []bool) {
	own := &states[place]
	for own.err == nil && own.warm && own.remaining < want {
		from := -1
		for i := range states {
			s := &states[i]
			if i != place && (give == nil || give[i]) && s.err == nil && s.warm && s.generation == own.generation && s.remaining > 0 && (from < 0 || s.remaining > states[from].remaining) {
				from = i
			}
		}
		if from < 0 {
			return
		}
		rich := &states[from]
		most := max(want-own.remaining, (rich.remaining-own.remaining)/2)
		if rich.out[place], rich.remaining = k.half(ctx, list[from], rich, place, "send", min(most, rich.remaining)); rich.err != nil || !rich.warm {
			continue // the next one; if it did send, that is under way and found
		}
		if sum := rich.out[place]; sum > own.in[from] {
			own.in[from], own.remaining = k.half(ctx, list[place], own, from, "receive", sum)
		}
	}
}

// level makes good what is open between the buckets: units under way, and units that a bucket is short of while others have some. It fails
// where a bucket is away.
func (k *buckets) level(ctx context.Context, list []*bucket) ([]state, error) {
	states := k.survey(ctx, list)
	k.deliver(ctx, list, states)
	for place := range states {
		k.fetch(ctx, list, states, place, 0, nil)
	}
	for i := range states {
		if states[i].err != nil {
			return nil, away(states[i].err)
		}
	}
	return states, nil
}

// errOther: the bucket is of another load.
var errOther = levee.E(levee.CodeConflict, "the bucket was loaded anew")
