package schedule

import (
	"time"

	"levee/internal/platform/when"
)

// manyDue is up to how many firings that are due at once are looked at one by one. Of more their number is not known.
const manyDue = 1000

// plan is what is to be done about a row that is due.
type plan struct {
	r            *row
	fire         []int64 // the times to fire for, rising
	late, merged int64   // firings that are not
	more         bool    // these are not all
	idle         int64   // the time at which there was nothing to do; 0: it was not so
	next         int64   // where the row goes; 0: no firing is left
}

// planned decides about a row whose next firing is due at now. cutoff is the earliest time that is not too late.
func (r *row) planned(now, cutoff int64) plan {
	p := plan{r: r}
	due := []int64{r.next}
	for p.next = next(r.trigger, r.next); p.next != 0 && p.next <= now; p.next = next(r.trigger, p.next) {
		if len(due) == manyDue {
			p.more = true
			p.next = next(r.trigger, now)
			break
		}
		due = append(due, p.next)
	}
	for len(due) > 0 && due[0] < cutoff {
		p.late++
		due = due[1:]
	}
	most := 1
	if r.how == All {
		most = r.most
	}
	switch {
	case p.more && r.how == Earliest:
		first := r.next
		if first < cutoff {
			first = next(r.trigger, cutoff-1)
		}
		if first != 0 && first <= now {
			p.fire = []int64{first}
		}
	case p.more:
		for at := now; len(p.fire) < most; at = p.fire[0] - 1 {
			t, ok := before(r.trigger, max(r.next, cutoff), at)
			if !ok {
				break
			}
			p.fire = append([]int64{t}, p.fire...)
		}
	case r.how == Earliest:
		p.fire = due[:min(1, len(due))]
	default:
		p.fire = due[max(len(due)-most, 0):]
	}
	p.merged = int64(max(len(due)-len(p.fire), 0))
	return p
}

// before returns the latest firing from one time to another, both included. Of a trigger only the next can be asked, so the time in
// between is halved until nothing comes any more; that takes some fifty questions, however many firings there are.
func before(t when.Trigger, from, to int64) (int64, bool) {
	found := next(t, from-1)
	if found == 0 || found > to {
		return 0, false
	}
	for n := next(t, found); n != 0 && n <= to; n = next(t, found) {
		found = n
		middle := found + (to-found)/2
		if n := next(t, middle); n != 0 && n <= to {
			found = n
		} else {
			to = middle
		}
	}
	return found, true
}

// leap is up to which a sudden difference between the clock that counts and the time that passed is taken for a clock that was put
// right, and beyond for a process that was suspended with its monotonic clock.
const leap = 2 * time.Minute

// look is a moment at which nothing was left that was due.
type look struct {
	now  int64     // by the clock that counts
	mono time.Time // monotonic; zero: there was none yet
}

// cutoff returns the earliest time that is not too late for a grace. What was not yet due at the last look is no later than the time
// that passed since, whatever the clock says: a clock that is put right must not cost a firing.
func (l look) cutoff(grace int64, now int64, mono time.Time) int64 {
	if grace == 0 {
		return 0
	}
	passed := mono.Sub(l.mono).Microseconds()
	if !l.mono.IsZero() && passed <= grace && now-l.now-passed <= leap.Microseconds() {
		return min(l.now+1, now-grace)
	}
	return now - grace
}
