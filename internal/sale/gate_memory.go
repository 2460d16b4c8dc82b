package sale

import (
	"sync"

	"levee"
)

const noSlot = ^uint32(0)

// memoryGate is the admission filter in front of the database for one sale, in this process: a mutex, a number and a flat table.
// It lets through no more than the stock and refuses the rest in nanoseconds. It only ever says no: a yes is SQL's, in the
// settlement. A new one is cold and takes nothing until it is loaded from SQL.
type memoryGate struct {
	waitingMax int

	mu        sync.Mutex // guards all below
	warm      bool
	epoch     uint64 // rises whenever stock comes back, so that an old "sold out" is known as old
	remaining int64
	unsettled int64 // units
	perBuyer  int32
	buyers    buyerTable
	waiting   []*taking // in the order of arrival, from head on
	head      int
	spare     []*taking // the other of two arrays, so that picking up a batch allocates nothing
	slots     []*taking // unsettled takings by slot, for "is this key under way?"
	freeSlots []uint32

	wake chan struct{} // holds one signal while takings wait
}

func newMemoryGate(waitingMax int) *memoryGate {
	return &memoryGate{waitingMax: waitingMax, wake: make(chan struct{}, 1)}
}

// take decides on an attempt in one atomic step. The epoch is that of the decision, for the sold-out switch.
func (g *memoryGate) take(a attempt) (*taking, verdict, uint64) {
	g.mu.Lock()
	if !g.warm {
		g.mu.Unlock()
		return nil, verdictCold, 0
	}
	entry := g.buyers.find(a.buyer)
	last := noSlot
	if entry != nil {
		last = entry.slot
		if v, stop := g.knownBuyer(entry, a); stop {
			epoch := g.epoch
			g.mu.Unlock()
			return nil, v, epoch
		}
	} else if a.quantity > g.perBuyer {
		g.mu.Unlock()
		return nil, verdictLimit, 0
	}
	if g.remaining < int64(a.quantity) {
		epoch := g.epoch
		g.mu.Unlock()
		return nil, verdictSoldOut, epoch
	}
	if len(g.waiting)-g.head >= g.waitingMax {
		g.mu.Unlock()
		return nil, verdictFull, 0
	}
	t := takings.Get().(*taking)
	t.attempt, t.before, t.result = a, last, outcome{}
	g.remaining -= int64(a.quantity)
	g.unsettled += int64(a.quantity)
	t.slot = g.newSlot(t)
	if entry == nil {
		entry = g.buyers.add(a.buyer)
	}
	entry.held += a.quantity
	entry.slot = t.slot
	g.waiting = append(g.waiting, t)
	first := len(g.waiting)-g.head == 1
	epoch := g.epoch
	g.mu.Unlock()
	if first {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
	return t, verdictTaken, epoch
}

// knownBuyer decides on an attempt of a buyer who holds or held units or has a taking under way. stop is false if he may go on.
func (g *memoryGate) knownBuyer(e *buyerEntry, a attempt) (v verdict, stop bool) {
	for s := e.slot; s != noSlot; s = g.slots[s].before {
		if g.slots[s].key == a.key {
			return verdictRunning, true
		}
	}
	switch {
	case !a.checked:
		return verdictKnown, true
	case e.held+a.quantity > g.perBuyer:
		return verdictLimit, true
	}
	return verdictTaken, false
}

func (g *memoryGate) newSlot(t *taking) uint32 {
	if n := len(g.freeSlots); n > 0 {
		s := g.freeSlots[n-1]
		g.freeSlots = g.freeSlots[:n-1]
		g.slots[s] = t
		return s
	}
	g.slots = append(g.slots, t)
	return uint32(len(g.slots) - 1)
}

// next returns up to max takings in their order of arrival and makes them the caller's to settle.
func (g *memoryGate) next(max int) []*taking {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.waiting) - g.head
	if n == 0 {
		return nil
	}
	if n <= max && g.head == 0 {
		batch := g.waiting
		g.waiting, g.spare = g.spare[:0], nil
		return batch
	}
	batch := make([]*taking, min(n, max))
	g.head += copy(batch, g.waiting[g.head:])
	// A long line is moved up only when half of it is gone, so that each taking is moved about once however long the line is.
	if g.head > len(g.waiting)/2 {
		left := copy(g.waiting, g.waiting[g.head:])
		clear(g.waiting[left:])
		g.waiting, g.head = g.waiting[:left], 0
	}
	return batch
}

// settle ends takings whose result is set: the refused give their units and their place back. It tells how many came back.
func (g *memoryGate) settle(batch []*taking) (freed int64) {
	g.mu.Lock()
	for _, t := range batch {
		g.unsettled -= int64(t.quantity)
		e := g.buyers.find(t.buyer)
		g.unlink(e, t)
		g.slots[t.slot] = nil
		g.freeSlots = append(g.freeSlots, t.slot)
		if t.result.err != nil || t.result.existing != 0 {
			g.remaining += int64(t.quantity)
			freed += int64(t.quantity)
			e.held -= t.quantity
			if !t.checked && t.result.existing == 0 {
				g.dropIfEmpty(e)
			}
		}
	}
	if freed > 0 {
		g.epoch++
	}
	g.mu.Unlock()
	return freed
}

// signal wakes whoever waits for these takings; they are no longer the caller's.
func (g *memoryGate) signal(batch []*taking) {
	for _, t := range batch {
		t.settled <- struct{}{}
	}
	g.recycle(batch)
}

// recycle keeps a batch's array for the next one.
func (g *memoryGate) recycle(batch []*taking) {
	clear(batch)
	g.mu.Lock()
	if g.spare == nil {
		g.spare = batch[:0]
	}
	g.mu.Unlock()
}

// unlink takes t out of its buyer's chain of unsettled takings.
func (g *memoryGate) unlink(e *buyerEntry, t *taking) {
	if e.slot == t.slot {
		e.slot = t.before
		return
	}
	for s := e.slot; s != noSlot; s = g.slots[s].before {
		if g.slots[s].before == t.slot {
			g.slots[s].before = t.before
			return
		}
	}
}

// dropIfEmpty forgets a buyer who never held anything.
func (g *memoryGate) dropIfEmpty(e *buyerEntry) {
	if e.held <= 0 && e.slot == noSlot {
		g.buyers.remove(e.buyer)
	}
}

// move changes free stock by units and what a buyer holds by held (0, 0, 0 only reads): releases, top-ups, revivals.
func (g *memoryGate) move(units int64, buyer levee.UserID, held int32) gateNumbers {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.warm {
		g.remaining += units
		if units > 0 {
			g.epoch++
		}
		if held != 0 {
			e := g.buyers.find(buyer)
			if e == nil {
				e = g.buyers.add(buyer)
			}
			e.held += held // who gave all back stays known, because his keys still count
		}
	}
	return gateNumbers{
		Warm: g.warm, Remaining: g.remaining, Unsettled: g.unsettled, Waiting: len(g.waiting) - g.head, Buyers: g.buyers.count, Epoch: g.epoch,
	}
}

// load replaces stock and buyers by what SQL holds, keeping what was taken and is not yet settled.
func (g *memoryGate) load(remaining int64, perBuyer int32, holdings []holding) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.buyers = newBuyerTable(len(holdings))
	g.perBuyer = perBuyer
	g.remaining = remaining - g.unsettled
	g.epoch++
	for _, h := range holdings {
		e := g.buyers.find(h.buyer)
		if e == nil {
			e = g.buyers.add(h.buyer)
		}
		e.held += h.quantity
	}
	// What is taken and not yet settled is in no row yet: it stays held, in its old order.
	for _, t := range g.slots {
		if t == nil {
			continue
		}
		e := g.buyers.find(t.buyer)
		if e == nil {
			e = g.buyers.add(t.buyer)
		}
		e.held += t.quantity
		t.before, e.slot = e.slot, t.slot
	}
	g.warm = true
}

// holds reports whether the buyer holds or held units or has a taking under way: he must not be told "sold out" without a look.
func (g *memoryGate) holds(buyer levee.UserID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.buyers.find(buyer) != nil
}

// buyerEntry is one buyer's line: 16 bytes, no pointers, so that a million of them cost the garbage collector nothing.
type buyerEntry struct {
	buyer levee.UserID // 0: empty
	held  int32        // units, settled and unsettled
	slot  uint32       // his latest unsettled taking
}

// buyerTable is an open-addressing hash table with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithms
// L and R) at a load of at most 3/4: 21 to 43 bytes a buyer. Ids are time-ordered, so they are mixed before use.
type buyerTable struct {
	entries []buyerEntry
	count   int
}

func newBuyerTable(expected int) buyerTable {
	size := 64
	for size*3/4 <= expected {
		size *= 2
	}
	return buyerTable{entries: make([]buyerEntry, size)}
}

// home is the entry where a buyer's search begins (Fibonacci hashing with a final fold).
func (b *buyerTable) home(buyer levee.UserID) int {
	h := uint64(buyer) * 0x9E3779B97F4A7C15
	h ^= h >> 32
	return int(h & uint64(len(b.entries)-1))
}

// find returns the buyer's entry, or nil. It is valid until the next add or remove.
func (b *buyerTable) find(buyer levee.UserID) *buyerEntry {
	if b.count == 0 {
		return nil
	}
	for i := b.home(buyer); ; i = (i + 1) & (len(b.entries) - 1) {
		switch b.entries[i].buyer {
		case buyer:
			return &b.entries[i]
		case 0:
			return nil
		}
	}
}

// add makes an entry for a buyer who has none.
func (b *buyerTable) add(buyer levee.UserID) *buyerEntry {
	if (b.count+1)*4 > len(b.entries)*3 {
		old := b.entries
		*b = newBuyerTable(b.count + b.count/2 + 1)
		for i := range old {
			if old[i].buyer != 0 {
				*b.add(old[i].buyer) = old[i]
			}
		}
	}
	i := b.home(buyer)
	for b.entries[i].buyer != 0 {
		i = (i + 1) & (len(b.entries) - 1)
	}
	b.entries[i] = buyerEntry{buyer: buyer, slot: noSlot}
	b.count++
	return &b.entries[i]
}

// remove takes a buyer out and closes the gap (algorithm R), so that no tombstones pile up.
func (b *buyerTable) remove(buyer levee.UserID) {
	i := b.home(buyer)
	for b.entries[i].buyer != buyer {
		if b.entries[i].buyer == 0 {
			return
		}
		i = (i + 1) & (len(b.entries) - 1)
	}
	mask := len(b.entries) - 1
	for j := (i + 1) & mask; b.entries[j].buyer != 0; j = (j + 1) & mask {
		if h := b.home(b.entries[j].buyer); (j-h)&mask >= (j-i)&mask {
			b.entries[i] = b.entries[j]
			i = j
		}
	}
	b.entries[i] = buyerEntry{}
	b.count--
}

// limit sets how many units a buyer may hold from now on; what is held already stays held.
func (g *memoryGate) limit(perBuyer int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.perBuyer = perBuyer
}
