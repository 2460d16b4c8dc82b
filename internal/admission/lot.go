package admission

import (
	"cmp"
	"slices"

	"levee"
)

// lot is one account's lot in a draw.
type lot struct {
	lot   uint64
	buyer levee.UserID
	slot  uint32
}

// freeze ends the time of those who get lots, and returns them. Until finish, whoever comes waits for a number behind them.
func (q *queue) freeze() []lot {
	q.drawing = true
	list := make([]lot, 0, q.lots)
	for slot := range q.used { // in the order of memory: a million take some ten milliseconds
		if p := q.at(slot); p.state == lotless {
			list = append(list, lot{buyer: p.buyer, slot: slot})
		}
	}
	return list
}

// sortLots puts them in the order of their numbers. Two lots alike (2^-64 for each pair) go by account.
func sortLots(list []lot) {
	slices.SortFunc(list, func(a, b lot) int { return cmp.Or(cmp.Compare(a.lot, b.lot), cmp.Compare(a.buyer, b.buyer)) })
}

// finish numbers the drawn places from 1 on. Who left meanwhile leaves his number empty. The horizon must reach over them.
func (q *queue) finish(sorted []lot) {
	q.drawing, q.drawn = false, len(sorted)
	q.byNumber = append(q.byNumber, make([]uint32, max(0, len(sorted)+1-len(q.byNumber)))...)
	for i, l := range sorted {
		n := uint32(i + 1)
		if p := q.at(l.slot); p.state == lotless && p.buyer == l.buyer {
			p.number, p.state = n, waits
			q.byNumber[n] = l.slot + 1
			q.lots--
		} else {
			q.done.add(n)
		}
	}
	q.waiting.fill(uint32(len(sorted))+1, func(n uint32) bool { return q.byNumber[n] != 0 })
	q.next = uint32(len(sorted)) + 1
	q.admitLate()
}
