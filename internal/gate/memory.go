package gate

import (
	"sync"

	"levee"
)

const noSlot = ^uint32(0)

// Memory is the gate of one sale in this process: a mutex, a number and a flat table. All its methods may be called at any time
// from any goroutine.
type Memory struct {
	waitingMax int

	mu        sync.Mutex // guards all below
	warm      bool
	epoch     uint64 // rises whenever stock comes back, so that an old "sold out" is known as old
	remaining int64
	unsettled int64 // units
	perBuyer  int32
	buyers    buyerTable
	waiting   []*Taking // in the order of arrival, from head on
	head      int
	spare     []*Taking // the other of two arrays, so that picking up a batch allocates nothing
	slots     []*Taking // unsettled takings by slot, for "is this key under way?"
	freeSlots []uint32

	wake chan struct{} // holds one signal while takings wait
}

// New makes a gate that takes nothing until it is loaded. waitingMax bounds the takings that wait for their settlement.
func New(waitingMax int) *Memory {
	return &Memory{waitingMax: waitingMax, wake: make(chan struct{}, 1)}
}

// Take decides on an attempt in one atomic step. The epoch is that of the decision, for the sold-out switch.
func (g *Memory) Take(a Attempt) (*Taking, Verdict, uint64) {
	g.mu.Lock()
	if !g.warm {
		g.mu.Unlock()
		return nil, Cold, 0
	}
	entry := g.buyers.find(a.Buyer)
	last := noSlot
	if entry != nil {
		last = entry.slot
		if v, stop := g.knownBuyer(entry, a); stop {
			epoch := g.epoch
			g.mu.Unlock()
			return nil, v, epoch
		}
	} else if a.Quantity > g.perBuyer {
		g.mu.Unlock()
		return nil, OverLimit, 0
	}
	if g.remaining < int64(a.Quantity) {
		epoch := g.epoch
		g.mu.Unlock()
		return nil, SoldOut, epoch
	}
	if len(g.waiting)-g.head >= g.waitingMax {
		g.mu.Unlock()
		return nil, Full, 0
	}
	t := takings.Get().(*Taking)
	t.Attempt, t.before, t.Result = a, last, Outcome{}
	g.remaining -= int64(a.Quantity)
	g.unsettled += int64(a.Quantity)
	t.slot = g.newSlot(t)
	if entry == nil {
		entry = g.buyers.add(a.Buyer)
	}
	entry.held += a.Quantity
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
	return t, Taken, epoch
}

// knownBuyer decides on an attempt of a buyer who holds or held units or has a taking under way. stop is false if he may go on.
func (g *Memory) knownBuyer(e *buyerEntry, a Attempt) (v Verdict, stop bool) {
	for s := e.slot; s != noSlot; s = g.slots[s].before {
		if g.slots[s].Key == a.Key {
			return Running, true
		}
	}
	switch {
	case !a.Checked:
		return Known, true
	case e.held+a.Quantity > g.perBuyer:
		return OverLimit, true
	}
	return Taken, false
}

func (g *Memory) newSlot(t *Taking) uint32 {
	if n := len(g.freeSlots); n > 0 {
		s := g.freeSlots[n-1]
		g.freeSlots = g.freeSlots[:n-1]
		g.slots[s] = t
		return s
	}
	g.slots = append(g.slots, t)
	return uint32(len(g.slots) - 1)
}

// Next returns up to max takings in their order of arrival and makes them the caller's to settle.
func (g *Memory) Next(max int) []*Taking {
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
	batch := make([]*Taking, min(n, max))
	g.head += copy(batch, g.waiting[g.head:])
	// A long line is moved up only when half of it is gone, so that each taking is moved about once however long the line is.
	if g.head > len(g.waiting)/2 {
		left := copy(g.waiting, g.waiting[g.head:])
		clear(g.waiting[left:])
		g.waiting, g.head = g.waiting[:left], 0
	}
	return batch
}

// Settle ends takings whose Result is set: the refused give their units and their place back. It tells how many came back.
func (g *Memory) Settle(batch []*Taking) (freed int64) {
	g.mu.Lock()
	for _, t := range batch {
		g.unsettled -= int64(t.Quantity)
		e := g.buyers.find(t.Buyer)
		g.unlink(e, t)
		g.slots[t.slot] = nil
		g.freeSlots = append(g.freeSlots, t.slot)
		if t.Result.Refused() {
			g.remaining += int64(t.Quantity)
			freed += int64(t.Quantity)
			e.held -= t.Quantity
			if !t.Checked && t.Result.Existing == 0 {
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

// Signal wakes whoever waits for these takings; they are no longer the caller's.
func (g *Memory) Signal(batch []*Taking) {
	for _, t := range batch {
		t.Settled <- struct{}{}
	}
	g.recycle(batch)
}

// recycle keeps a batch's array for the next one.
func (g *Memory) recycle(batch []*Taking) {
	clear(batch)
	g.mu.Lock()
	if g.spare == nil {
		g.spare = batch[:0]
	}
	g.mu.Unlock()
}

// unlink takes t out of its buyer's chain of unsettled takings.
func (g *Memory) unlink(e *buyerEntry, t *Taking) {
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
func (g *Memory) dropIfEmpty(e *buyerEntry) {
	if e.held <= 0 && e.slot == noSlot {
		g.buyers.remove(e.buyer)
	}
}

// Numbers returns the account.
func (g *Memory) Numbers() Numbers {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.numbers()
}

func (g *Memory) numbers() Numbers {
	return Numbers{
		Warm: g.warm, Remaining: g.remaining, Unsettled: g.unsettled, Waiting: len(g.waiting) - g.head, Buyers: g.buyers.count, Epoch: g.epoch,
	}
}

// Move changes free stock by units and what a buyer holds by held: releases, top-ups, revivals. A cold gate takes no notice.
func (g *Memory) Move(units int64, buyer levee.UserID, held int32) Numbers {
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
	return g.numbers()
}

// Load replaces stock and buyers by what SQL holds, keeping what was taken and is not yet settled.
func (g *Memory) Load(remaining int64, perBuyer int32, holdings []Holding) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.buyers = newBuyerTable(len(holdings))
	g.perBuyer = perBuyer
	g.remaining = remaining - g.unsettled
	g.epoch++
	for _, h := range holdings {
		e := g.buyers.find(h.Buyer)
		if e == nil {
			e = g.buyers.add(h.Buyer)
		}
		e.held += h.Quantity
	}
	// What is taken and not yet settled is in no row yet: it stays held, in its old order.
	for _, t := range g.slots {
		if t == nil {
			continue
		}
		e := g.buyers.find(t.Buyer)
		if e == nil {
			e = g.buyers.add(t.Buyer)
		}
		e.held += t.Quantity
		t.before, e.slot = e.slot, t.slot
	}
	g.warm = true
}

// Held tells how many units the buyer holds, settled or not. known is true for whoever holds or held units: he must not be told
// "sold out" without a look at his keys.
func (g *Memory) Held(buyer levee.UserID) (units int32, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.buyers.find(buyer); e != nil {
		return e.held, true
	}
	return 0, false
}

// Pending lists the attempts whose settlement is under way, in no order: for proofs, not for the hot path.
func (g *Memory) Pending() []Attempt {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Attempt
	for _, t := range g.slots {
		if t != nil {
			list = append(list, t.Attempt)
		}
	}
	return list
}

// Wake returns the channel that holds one signal while takings wait for Next.
func (g *Memory) Wake() <-chan struct{} { return g.wake }

// SetLimit sets how many units a buyer may hold from now on; what is held already stays held.
func (g *Memory) SetLimit(perBuyer int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.perBuyer = perBuyer
}
