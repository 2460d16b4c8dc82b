package admission

import (
	"slices"
	"sort"
	"time"

	"levee"
)

// memory is what a queue leaves behind for its next life.
type memory struct {
	order   string
	horizon uint32
	given   uint32 // the first number that was not given, as last written
	served  uint32
	tokens  int64         // that were out and unspent
	left    time.Duration // until the last of them has expired
	latest  uint32        // when that is, unix seconds
	drawn   int
	lots    []uint64 // by number, from 1
	done    map[uint32][]uint64
}

// recall brings an empty queue to where the life before stood; see the comment of queue.
func (q *queue) recall(m memory, now time.Duration) {
	q.order, q.served, q.drawn, q.lotsDrawn = m.order, m.served, m.drawn, m.lots
	if m.order == OrderRandom && m.drawn < 0 {
		q.horizon = max(m.horizon, 1) // nothing was given before the draw
	} else {
		q.next, q.horizon = max(m.horizon, 1), max(m.horizon, 1)
	}
	for block, words := range m.done {
		q.done.grow(block * doneBlock)
		copy(q.done.words[block*(doneBlock/64):], words)
	}
	for n := q.served + 1; n < min(m.given, q.next); n++ {
		if !q.done.has(n) {
			q.waiting.add(n)
			q.ghosts++
		}
	}
	if q.ghosts > 0 {
		q.gatherTill = deadline(now, q.terms.gatherFor)
	}
	if q.served > 0 {
		q.passes = []pass{{q.served, tenths(now)}}
	}
	if m.tokens > 0 && m.left > 0 {
		q.phantoms, q.held, q.phantomTo = m.tokens, m.tokens, deadline(now, m.left)
		q.latest = m.latest
	}
	q.paced = now
}

// gathering reports whether the head of the line is somebody who is expected back.
func (q *queue) gathering(now time.Duration) bool {
	if q.ghosts == 0 || tenths(now) >= q.gatherTill {
		return false
	}
	n, ok := q.waiting.first()
	return ok && q.slotOf(n) == noSlot
}

// passGhosts ends the time to gather: who is not back is passed. His number stays his, as a missed turn's does.
func (q *queue) passGhosts() {
	q.waiting.each(func(n uint32) {
		if q.slotOf(n) == noSlot {
			q.waiting.remove(n)
		}
	})
	q.ghosts = 0
}

// lotNumber returns the number that was drawn for a lot in an earlier life, or 0.
func (q *queue) lotNumber(lot uint64) uint32 {
	if i, ok := slices.BinarySearch(q.lotsDrawn, lot); ok {
		return uint32(i) + 1
	}
	return 0
}

// restorable tells whether a buyer may have a number back: it was given, nobody else stands on it, it is not done, and if it
// was passed, not longer ago than the keep time. With a token that lives (expires, unix seconds) it may be done.
func (q *queue) restorable(n, expires uint32, wall time.Time, now time.Duration) bool {
	if n == 0 || n >= q.next || q.slotOf(n) != noSlot || len(q.places) >= q.terms.placesMax {
		return false
	}
	if int64(expires) > wall.Unix() {
		return true
	}
	return !q.done.has(n) && (n > q.served || q.passedAgo(n, now) <= q.terms.keepFor)
}

// restore gives a buyer his number back, and his token if it lives. It reports whether it did. A place that he took meanwhile, at
// the end, is given up for it.
func (q *queue) restore(buyer levee.UserID, address uint64, n, expires uint32, wall time.Time, now time.Duration) bool {
	if !q.restorable(n, expires, wall, now) {
		return false
	}
	slot, has := q.places[buyer]
	if has {
		switch p := q.at(slot); {
		case p.state == waits && p.number > n:
			q.unnumber(p)
		case p.state == pending:
			q.late[slices.Index(q.late, slot)] = noSlot
			q.lateGone++
		default:
			return false
		}
	} else {
		slot = q.newSlot(buyer, address)
	}
	if q.waiting.has(n) {
		q.ghosts--
	}
	q.number(slot, n)
	q.restored++
	if int64(expires) <= wall.Unix() {
		return true
	}
	p := q.at(slot)
	q.waiting.remove(n)
	q.done.add(n)
	p.state, p.expires = holding, expires
	p.until = deadline(now, time.Unix(int64(expires), 0).Sub(wall))
	q.deadlines.push(p.until, slot)
	q.latest = max(q.latest, expires)
	q.tokens++
	if q.phantoms > 0 {
		q.phantoms--
	} else {
		q.held++
	}
	return true
}

// reach tells what the horizon should be, and whether it is time to move it.
func (q *queue) reach(ahead uint32) (horizon uint32, move bool) {
	from := q.next + uint32(len(q.late))
	return from + ahead, from+ahead/2 >= q.horizon
}

// passedAgo tells how long ago served passed a number, to the second and never too long.
func (q *queue) passedAgo(number uint32, now time.Duration) time.Duration {
	i := sort.Search(len(q.passes), func(i int) bool { return q.passes[i].served >= number })
	if i == len(q.passes) {
		return 0
	}
	return now - q.passes[i].at.duration() - time.Second
}
