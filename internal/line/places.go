package line

import (
	"maps"
	"sync"

	"levee"
)

// places counts, for one sale, who waits before whom: a tree of sums over the places in line (P. Fenwick, "A New Data Structure
// for Cumulative Frequency Tables", 1994). A position in a line of 100,000 is read in 17 steps, where an index would have to
// count through half of the line for each of the thousands who ask every second.
//
// It is what SQL says as of a change's number (schema/0002). What it follows are states, not differences: a change that comes twice,
// or together with a later one, does no harm, so no count can drift or fall below zero.
type places struct {
	inOrder bool // false before the draw: nobody has a place then

	mu      sync.Mutex // guards all below
	seq     int64      // up to this change all are in
	tree    []int32    // tree[i] is the sum of the places from i-lowbit(i)+1 to i; tree[0] is not used; its length is a power of two + 1
	waits   bits       // who waits, by place
	offers  bits       // who holds an offer
	waiting int64
	offered int64
	entered int64
	changed bool // since the numbers were last published
}

// change is the state that an entry came to by a numbered change of its line.
type change struct {
	place, seq int64
	state      State
}

func newPlaces(inOrder bool) *places { return &places{inOrder: inOrder, tree: make([]int32, 2)} }

// fullPlaces is a line in which everybody from place 1 to n waits, as of a change.
func fullPlaces(n, seq int64) *places {
	p := newPlaces(true)
	p.grow(n)
	for i := int64(1); i < int64(len(p.tree)); i++ {
		low := i & -i
		p.tree[i] = int32(max(0, min(i, n)-(i-low)))
	}
	for i := int64(1); i <= n; i++ {
		p.waits.set(i, true)
	}
	p.seq, p.waiting, p.changed = seq, n, true
	return p
}

// grow makes room for a place. The new half is empty, and its last node spans everything before it.
func (p *places) grow(place int64) {
	for int64(len(p.tree)) <= place {
		size := len(p.tree) - 1
		total := p.tree[size]
		p.tree = append(p.tree, make([]int32, size)...)
		p.tree[2*size] = total
	}
}

// put notes the state of the entry at a place. The lock is held.
func (p *places) put(place int64, state State) {
	if by := p.offers.set(place, state == StateOffered); by != 0 {
		p.offered += by
		p.changed = true
	}
	by := p.waits.set(place, state == StateWaiting)
	if by == 0 {
		return
	}
	p.changed = true
	p.waiting += by
	p.grow(place)
	for i := place; i < int64(len(p.tree)); i += i & -i {
		p.tree[i] += int32(by)
	}
}

// own takes in a change that this process has committed. It reports false, and takes nothing in, where changes before it are missing:
// they are another node's, or are still on their way to here.
func (p *places) own(c change) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case c.seq < p.seq: // followed already, with what came later
		return true
	case c.seq > p.seq+1:
		return false
	}
	p.put(c.place, c.state)
	p.seq = c.seq
	return true
}

// follow takes in changes that were read from SQL: all after some change at or before p.seq, up to a last one.
func (p *places) follow(list []change, last int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range list {
		if c.seq > p.seq { // else it came in meanwhile, perhaps with what came later
			p.put(c.place, c.state)
			last = max(last, c.seq)
		}
	}
	p.seq = max(p.seq, last)
}

// enter notes how many have entered a draw, as of a change.
func (p *places) enter(entered, seq int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq > p.seq {
		p.seq = seq
		p.changed = p.changed || p.entered != entered
		p.entered = entered
	}
}

// end notes that the sale is over: nobody hopes any more.
func (p *places) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tree, p.waits, p.waiting, p.entered, p.changed = make([]int32, 2), nil, 0, 0, true
}

// at returns the change up to which all are in.
func (p *places) at() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq
}

// ahead returns how many wait at places before the given one, and how many wait in all.
func (p *places) ahead(place int64) (before, waiting int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := min(place-1, int64(len(p.tree)-1)); i > 0; i -= i & -i {
		before += int64(p.tree[i])
	}
	return before, p.waiting
}

// counts of a line at one moment.
type counts struct{ Waiting, Offered, Entered int64 }

func (p *places) counts() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return counts{p.waiting, p.offered, p.entered}
}

// takeChanged returns the counts if they changed since the last call.
func (p *places) takeChanged() (counts, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.changed
	p.changed = false
	return counts{p.waiting, p.offered, p.entered}, was
}

// bits is a set of places.
type bits []uint64

// set puts a place in or takes it out, and returns by how much the set grew: 1, 0 or -1.
func (b *bits) set(place int64, in bool) int64 {
	word, bit := int(place/64), uint64(1)<<(place%64)
	if word >= len(*b) {
		if !in {
			return 0
		}
		*b = append(*b, make([]uint64, max(word+1-len(*b), len(*b)))...)
	}
	if was := (*b)[word]&bit != 0; was == in {
		return 0
	}
	(*b)[word] ^= bit
	if in {
		return 1
	}
	return -1
}

// book holds the places of every line that is alive.
type book struct {
	mu    sync.RWMutex // guards lines
	lines map[levee.SaleID]*places
}

func (b *book) of(sale levee.SaleID) *places {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.lines[sale]
}

// put takes a line's places in, unless later ones are there.
func (b *book) put(sale levee.SaleID, p *places) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.lines[sale]; old == nil || !old.inOrder && p.inOrder || old.inOrder == p.inOrder && old.at() < p.at() {
		b.lines[sale] = p
	}
}

// drop forgets a line that is over.
func (b *book) drop(sale levee.SaleID, p *places) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lines[sale] == p {
		delete(b.lines, sale)
	}
}

func (b *book) all() map[levee.SaleID]*places {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return maps.Clone(b.lines)
}
