package gate

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"

	"levee"
)

// books are the gate as anybody would write it who has time, from the contract: maps and sets, one step after the other.
type books struct {
	warm      bool
	remaining int64
	perBuyer  int32
	held      map[levee.UserID]int32
	known     map[levee.UserID]bool
	kept      map[levee.UserID]bool // SQL has a row of theirs
	pending   map[levee.ReservationID]Attempt
	loaded    int64 // movements up to this one came with the load
	nth       int   // which load it was
	in        map[int64]bool
}

func newBooks(perBuyer int32) *books {
	return &books{perBuyer: perBuyer, held: map[levee.UserID]int32{}, known: map[levee.UserID]bool{}, kept: map[levee.UserID]bool{},
		pending: map[levee.ReservationID]Attempt{}, in: map[int64]bool{}}
}

func (m *books) clone() *books {
	c := *m
	c.held, c.known, c.kept, c.pending, c.in = maps.Clone(m.held), maps.Clone(m.known), maps.Clone(m.kept), maps.Clone(m.pending), maps.Clone(m.in)
	return &c
}

func (m *books) has(seq int64) bool { return seq <= m.loaded || m.in[seq] }

func (m *books) applied() int64 {
	n := m.loaded
	for m.has(n + 1) {
		n++
	}
	return n
}

func (m *books) missing() (list []int64) {
	last := m.loaded
	for seq := range m.in {
		last = max(last, seq)
	}
	for seq := m.applied() + 1; seq < last; seq++ {
		if !m.has(seq) {
			list = append(list, seq)
		}
	}
	return list
}

func (m *books) unsettled() (units int64) {
	for _, p := range m.pending {
		units += int64(p.Quantity)
	}
	return units
}

func (m *books) verdict(a Attempt, free int64, line, lineMax int) Verdict {
	if !m.warm {
		return Cold
	}
	for _, p := range m.pending {
		if p.Buyer == a.Buyer && p.Key == a.Key {
			return Running
		}
	}
	switch {
	case m.known[a.Buyer] && !a.Checked:
		return Known
	case m.held[a.Buyer]+a.Quantity > m.perBuyer:
		return OverLimit
	case free < int64(a.Quantity):
		return SoldOut
	case line >= lineMax:
		return Full
	}
	return Taken
}

func (m *books) take(a Attempt) {
	m.remaining -= int64(a.Quantity)
	m.held[a.Buyer] += a.Quantity
	m.known[a.Buyer] = true
	m.pending[a.ID] = a
}

// giveBack ends a pending taking that took nothing; one that is not pending has nothing to give.
func (m *books) giveBack(id levee.ReservationID, keep bool) int64 {
	p, ok := m.pending[id]
	if !ok || !m.warm {
		return 0
	}
	delete(m.pending, id)
	m.remaining += int64(p.Quantity)
	m.held[p.Buyer] -= p.Quantity
	others := false
	for _, o := range m.pending {
		others = others || o.Buyer == p.Buyer
	}
	if keep {
		m.kept[p.Buyer] = true
	}
	if m.held[p.Buyer] == 0 && !others && !m.kept[p.Buyer] {
		delete(m.held, p.Buyer)
		delete(m.known, p.Buyer)
	}
	return int64(p.Quantity)
}

func (m *books) apply(v Movement) (freed int64) {
	if !m.warm {
		return 0
	}
	fresh := !m.has(v.Seq)
	for _, w := range v.Won {
		_, waits := m.pending[w.ID]
		switch {
		case waits && fresh:
			delete(m.pending, w.ID)
			m.kept[w.Buyer] = true
		case waits:
			freed += m.giveBack(w.ID, true)
		case fresh:
			m.remaining -= int64(w.Quantity)
			m.held[w.Buyer] += w.Quantity
			m.known[w.Buyer], m.kept[w.Buyer] = true, true
		}
	}
	if fresh {
		m.in[v.Seq] = true
		m.remaining += v.Free
		freed += max(v.Free, 0)
		for _, c := range v.Holdings {
			m.held[c.Buyer] += c.Units
			m.known[c.Buyer], m.kept[c.Buyer] = true, true
		}
	}
	return freed
}

func (m *books) load(s State) {
	m.warm, m.loaded, m.in, m.perBuyer = true, s.Seq, map[int64]bool{}, s.PerBuyer
	m.remaining = s.Remaining - m.unsettled()
	m.held, m.known, m.kept = map[levee.UserID]int32{}, map[levee.UserID]bool{}, map[levee.UserID]bool{}
	for _, h := range s.Holdings {
		m.held[h.Buyer] += h.Quantity
		m.known[h.Buyer], m.kept[h.Buyer] = true, true
	}
	for _, p := range m.pending {
		m.held[p.Buyer] += p.Quantity
		m.known[p.Buyer] = true
	}
}

// model is the books of all buckets. What moves between them is in none of the books: all together it is nothing.
type model struct {
	k        []*books
	perBuyer int32 // each node's own
	loads    int
}

func newModel(count int, perBuyer int32) *model {
	m := &model{perBuyer: perBuyer}
	for range count {
		m.k = append(m.k, newBooks(perBuyer))
	}
	return m
}

func (m *model) clone() *model {
	c := &model{perBuyer: m.perBuyer, loads: m.loads}
	for _, b := range m.k {
		c.k = append(c.k, b.clone())
	}
	return c
}

func (m *model) place(buyer levee.UserID) int { return bucketOf(buyer, len(m.k)) }

func (m *model) of(buyer levee.UserID) *books {
	b := m.k[m.place(buyer)]
	b.perBuyer = m.perBuyer
	return b
}

// warm: all are loaded, by one load.
func (m *model) warm() bool {
	for _, b := range m.k {
		if !b.warm || b.nth != m.k[0].nth {
			return false
		}
	}
	return true
}

func (m *model) sum(f func(b *books) int64) (n int64) {
	for _, b := range m.k {
		n += f(b)
	}
	return n
}

func (m *model) remaining() int64 { return m.sum(func(b *books) int64 { return b.remaining }) }
func (m *model) unsettled() int64 { return m.sum((*books).unsettled) }
func (m *model) buyers() int64    { return m.sum(func(b *books) int64 { return int64(len(b.known)) }) }
func (m *model) waiting() int {
	return int(m.sum(func(b *books) int64 { return int64(len(b.pending)) }))
}

func (m *model) has(seq int64) bool {
	for _, b := range m.k {
		if !b.has(seq) {
			return false
		}
	}
	return true
}

func (m *model) applied() int64 {
	n := m.k[0].applied()
	for _, b := range m.k {
		n = min(n, b.applied())
	}
	return n
}

// missing are the gaps of each, and all that lies between one and another who is ahead.
func (m *model) missing() (list []int64) {
	last := int64(0)
	for _, b := range m.k {
		list = append(list, b.missing()...)
		last = max(last, b.applied())
	}
	for _, b := range m.k {
		for seq := b.applied() + 1; seq <= last; seq++ {
			list = append(list, seq)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (m *model) pending(id levee.ReservationID) (Attempt, bool) {
	for _, b := range m.k {
		if p, ok := b.pending[id]; ok {
			return p, true
		}
	}
	return Attempt{}, false
}

// giveBack goes to all but one.
func (m *model) giveBack(id levee.ReservationID, keep bool, but int) (freed int64) {
	for place, b := range m.k {
		if place != but {
			freed += b.giveBack(id, keep)
		}
	}
	return freed
}

// apply goes to all but one. Units go round, one by one.
func (m *model) apply(v Movement, but int) (freed int64) {
	n := int64(len(m.k))
	parts := make([]Movement, n)
	for i := range max(v.Free, -v.Free) {
		parts[((i-v.Seq)%n+n)%n].Free += v.Free / max(v.Free, -v.Free)
	}
	for _, w := range v.Won {
		p := &parts[m.place(w.Buyer)]
		p.Won = append(p.Won, w)
	}
	for _, c := range v.Holdings {
		p := &parts[m.place(c.Buyer)]
		p.Holdings = append(p.Holdings, c)
	}
	for place, b := range m.k {
		if place != but {
			parts[place].Seq = v.Seq
			freed += b.apply(parts[place])
		}
	}
	return freed
}

// load: the first has it all, in these books.
func (m *model) load(s State) {
	m.loads++
	parts := make([]State, len(m.k))
	for _, h := range s.Holdings {
		p := &parts[m.place(h.Buyer)]
		p.Holdings = append(p.Holdings, h)
	}
	parts[0].Remaining = s.Remaining
	for place, b := range m.k {
		parts[place].Seq, parts[place].PerBuyer = s.Seq, s.PerBuyer
		b.load(parts[place])
		b.nth = m.loads
	}
}

// ledger is SQL: it has the last word, and forgets nothing.
type ledger struct {
	remaining    int64
	movements    []Movement // movement n at n-1
	after        []int64    // what remained after it
	reservations map[levee.ReservationID]sold
	held         map[levee.UserID]int32
	known        map[levee.UserID]bool
	noStock      int // times that it refused for lack of stock
}

type sold struct {
	Win
	key      int64
	released bool
}

func (l *ledger) commit(m Movement) Movement {
	m.Seq = int64(len(l.movements) + 1)
	l.remaining += m.Free
	for i := range m.Won {
		w := &m.Won[i]
		l.remaining -= int64(w.Quantity)
		l.held[w.Buyer] += w.Quantity
		l.known[w.Buyer] = true
	}
	for _, c := range m.Holdings {
		l.held[c.Buyer] += c.Units
	}
	l.movements, l.after = append(l.movements, m), append(l.after, l.remaining)
	return m
}

// settle is the transaction: the results are set. It returns the movement, of seq 0 if nobody won.
func (l *ledger) settle(r *rand.Rand, batch []*Taking, perBuyer int32) (m Movement) {
	left := l.remaining
	held := map[levee.UserID]int32{}
	for _, t := range batch {
		t.Result = Outcome{}
		for _, s := range l.reservations {
			if s.Buyer == t.Buyer && s.key == t.Key {
				t.Result.Existing = s.ID
			}
		}
		switch {
		case t.Result.Existing != 0:
		case r.IntN(8) == 0:
			t.Result.Err = errors.New("refused")
		case l.held[t.Buyer]+held[t.Buyer]+t.Quantity > perBuyer:
			t.Result.Err = errors.New("limit")
		case left < int64(t.Quantity):
			t.Result.Err = errors.New("stock")
			l.noStock++
		default:
			left -= int64(t.Quantity)
			held[t.Buyer] += t.Quantity
			m.Won = append(m.Won, Win{ID: t.ID, Buyer: t.Buyer, Quantity: t.Quantity})
			l.reservations[t.ID] = sold{Win: Win{ID: t.ID, Buyer: t.Buyer, Quantity: t.Quantity, Seq: int64(len(l.movements) + 1)}, key: t.Key}
		}
	}
	if len(m.Won) == 0 {
		return m
	}
	return l.commit(m)
}

func (l *ledger) state(perBuyer int32) State {
	s := State{Seq: int64(len(l.movements)), Remaining: l.remaining, PerBuyer: perBuyer}
	for b := range l.known {
		s.Holdings = append(s.Holdings, Holding{Buyer: b, Quantity: l.held[b]})
	}
	return s
}
