package line

import (
	"sync"

	"levee"
)

// places counts, for one sale, who waits before whom: a tree of sums over the places in line (P. Fenwick, "A New Data Structure
// for Cumulative Frequency Tables", 1994). A position in a line of 100,000 is read in 17 steps, where an index would have to
// count through half of the line for each of the thousands who ask every second. It follows SQL in the order of the commits and
// is loaded from SQL at the start.
type places struct {
	inOrder bool // false before the draw: nobody has a place then

	mu      sync.Mutex // guards all below
	tree    []int32    // tree[i] is the sum of the places from i-lowbit(i)+1 to i; tree[0] is not used; its length is a power of two + 1
	waiting int64
	offered int64
	entered int64
	changed bool // since the numbers were last published
}

func newPlaces(inOrder bool) *places { return &places{inOrder: inOrder, tree: make([]int32, 2)} }

// fullPlaces is a line in which everybody from place 1 to n waits.
func fullPlaces(n int64) *places {
	p := newPlaces(true)
	p.grow(n)
	for i := int64(1); i < int64(len(p.tree)); i++ {
		low := i & -i
		p.tree[i] = int32(max(0, min(i, n)-(i-low)))
	}
	p.waiting, p.changed = n, true
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

// move notes that the number of those who wait at a place, who entered, or who hold an offer, has changed.
func (p *places) move(place int64, waiting, offered, entered int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offered += offered
	p.entered += entered
	p.changed = true
	if waiting == 0 {
		return
	}
	p.waiting += waiting
	p.grow(place)
	for i := place; i < int64(len(p.tree)); i += i & -i {
		p.tree[i] += int32(waiting)
	}
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

func (b *book) set(sale levee.SaleID, p *places) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p == nil {
		delete(b.lines, sale)
	} else {
		b.lines[sale] = p
	}
}

func (b *book) all() map[levee.SaleID]*places {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make(map[levee.SaleID]*places, len(b.lines))
	for sale, p := range b.lines {
		all[sale] = p
	}
	return all
}

// move is places.move of a line that is loaded; one that is not will be read from SQL as it is then.
func (b *book) move(sale levee.SaleID, place int64, waiting, offered, entered int64) {
	if p := b.of(sale); p != nil {
		p.move(place, waiting, offered, entered)
	}
}
