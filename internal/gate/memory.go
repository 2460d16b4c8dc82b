package gate

import (
	"context"
	"strconv"
	"sync"
	"time"

	"levee"
)

// Gate is the gate of one sale: in this process's memory (a mutex, a number and a flat table), or this node's end of one in Redis. All
// its methods may be called at any time from any goroutine.
type Gate struct {
	buckets    *buckets // nil in memory
	waitingMax int
	wake       chan struct{} // holds one signal while takings wait

	mu      sync.Mutex // guards all below
	waiting []*Taking  // in the order of arrival, from head on
	head    int
	spare   []*Taking // the other of two arrays, so that picking up a batch allocates nothing
	asking  int       // attempts that are on their way to Redis

	// The rest is the memory driver's.
	warm      bool
	epoch     uint64 // rises whenever stock comes back, so that an old "sold out" is known as old
	remaining int64  // SQL's at the movements of seqs, less unsettled
	unsettled int64  // units
	perBuyer  int32
	seqs      seqs
	buyers    buyerTable
	slots     []*Taking // unsettled takings by slot, for "is this key under way?"
	freeSlots []uint32
}

// NewMemory makes a gate in this process's memory; it takes nothing until it is loaded. waitingMax bounds the takings that wait for
// their settlement.
func NewMemory(waitingMax int) *Gate {
	return &Gate{waitingMax: waitingMax, wake: make(chan struct{}, 1)}
}

// Local reports that the gate is this process's alone. Then every movement is applied in the order of the commits (AtCommit), there is
// nothing to follow, and nothing is ever overdue that this process does not settle itself.
func (g *Gate) Local() bool { return g.buckets == nil }

// Take decides on an attempt in one atomic step. The epoch of a SoldOut is that of the decision, for the sold-out switch.
func (g *Gate) Take(_ context.Context, a Attempt) (*Taking, Verdict, uint64) {
	if g.buckets != nil {
		return g.buckets.take(a)
	}
	g.mu.Lock()
	if !g.warm {
		g.mu.Unlock()
		return nil, Cold, 0
	}
	entry := g.buyers.find(a.Buyer)
	last := noSlot
	if entry != nil {
		last = entry.last()
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
	entry.setLast(t.slot)
	g.waiting = append(g.waiting, t)
	first := len(g.waiting)-g.head == 1
	epoch := g.epoch
	g.mu.Unlock()
	if first {
		g.ring()
	}
	return t, Taken, epoch
}

// knownBuyer decides on an attempt of a buyer who holds or held units or has a taking under way. stop is false if he may go on.
func (g *Gate) knownBuyer(e *buyerEntry, a Attempt) (v Verdict, stop bool) {
	for s := e.last(); s != noSlot; s = g.slots[s].before {
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

func (g *Gate) newSlot(t *Taking) uint32 {
	if n := len(g.freeSlots); n > 0 {
		s := g.freeSlots[n-1]
		g.freeSlots = g.freeSlots[:n-1]
		g.slots[s] = t
		return s
	}
	g.slots = append(g.slots, t)
	return uint32(len(g.slots) - 1)
}

// ring wakes whoever waits for Next.
func (g *Gate) ring() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Wake returns the channel that holds one signal while takings wait for Next.
func (g *Gate) Wake() <-chan struct{} { return g.wake }

// Next returns up to max of this node's takings in their order of arrival and makes them the caller's to settle.
func (g *Gate) Next(max int) []*Taking {
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

// Settle ends takings whose Result is set, in one atomic step. The refused give their units and their place back. The winners are those
// of the movement seq, which counts as applied by this. Where somebody won and seq is 0 (the movement's number is not known), the
// winners stay pending until their movement is applied. It tells how many units came back. Movements and takings that were dealt with
// before, by Apply or Resolve, are left alone. It never fails: what it could not tell a shared gate is told by whoever follows the ledger.
func (g *Gate) Settle(_ context.Context, batch []*Taking, seq int64) (freed int64) {
	if g.buckets != nil {
		return g.buckets.settle(batch, seq)
	}
	g.mu.Lock()
	known := seq > 0 && g.warm && seq <= g.seqs.applied+maxEarly
	fresh := known && !g.seqs.has(seq)
	won := false
	for _, t := range batch {
		switch {
		case t.Result.Refused():
			if t.slot != noSlot {
				freed += g.giveBack(t, t.Result.Existing != 0)
			}
		case known:
			won = true
			freed += g.win(g.buyers.find(t.Buyer), t.slotted(), Win{ID: t.ID, Buyer: t.Buyer, Quantity: t.Quantity}, fresh)
		default:
			g.keep(t)
		}
	}
	if won && fresh {
		g.seqs.add(seq)
	}
	g.freed(freed)
	g.mu.Unlock()
	return freed
}

// slotted is the taking if it is still pending, or nil.
func (t *Taking) slotted() *Taking {
	if t.slot == noSlot {
		return nil
	}
	return t
}

// keep leaves a taking pending after its Taking went back to whoever waits for it.
func (g *Gate) keep(t *Taking) {
	if t.slot != noSlot {
		g.slots[t.slot] = &Taking{Attempt: t.Attempt, slot: t.slot, before: t.before}
		t.slot = noSlot
	}
}

// end takes t out of the pending ones and counts its units as not pending.
func (g *Gate) end(e *buyerEntry, t *Taking) {
	g.unsettled -= int64(t.Quantity)
	g.unlink(e, t)
	g.slots[t.slot] = nil
	g.freeSlots = append(g.freeSlots, t.slot)
	t.slot = noSlot
}

// giveBack ends a pending taking that took nothing. keep says that SQL has a row of its buyer. Who never held anything is forgotten.
func (g *Gate) giveBack(t *Taking, keep bool) int64 {
	e := g.buyers.find(t.Buyer)
	g.end(e, t)
	g.remaining += int64(t.Quantity)
	e.held -= t.Quantity
	if keep {
		e.slot |= keptBit
	} else if e.held == 0 && e.slot == noSlot {
		g.buyers.remove(e.buyer)
	}
	return int64(t.Quantity)
}

// win follows SQL's word that w has its units. t is its pending taking, nil if there is none; fresh says that the win's movement is
// not in yet. It tells how many units came back.
func (g *Gate) win(e *buyerEntry, t *Taking, w Win, fresh bool) (freed int64) {
	switch {
	case t != nil && fresh:
		// What it took stays taken; had it taken another quantity than SQL gave, the difference moves.
		if d := w.Quantity - t.Quantity; d != 0 {
			g.remaining -= int64(d)
			e.held += d
			freed = max(int64(-d), 0)
		}
		g.end(e, t)
		e.slot |= keptBit
	case t != nil:
		// The books that the gate was loaded from hold it already: pending, it counts twice.
		freed = g.giveBack(t, true)
	case fresh:
		// Its taking was lost, or was given up as overdue, or there was none: the units go now, below zero if need be.
		g.remaining -= int64(w.Quantity)
		if e == nil {
			e = g.buyers.add(w.Buyer)
		}
		e.held += w.Quantity
		e.slot |= keptBit
	}
	return freed
}

// freed notes that stock came back.
func (g *Gate) freed(units int64) {
	if units > 0 {
		g.epoch++
	}
}

// Signal wakes whoever waits for these takings; they are no longer the caller's.
func (g *Gate) Signal(batch []*Taking) {
	for _, t := range batch {
		t.Settled <- struct{}{}
	}
	g.recycle(batch)
}

// recycle keeps a batch's array for the next one.
func (g *Gate) recycle(batch []*Taking) {
	clear(batch)
	g.mu.Lock()
	if g.spare == nil {
		g.spare = batch[:0]
	}
	g.mu.Unlock()
}

// unlink takes t out of its buyer's chain of unsettled takings.
func (g *Gate) unlink(e *buyerEntry, t *Taking) {
	if e.last() == t.slot {
		e.setLast(t.before)
		return
	}
	for s := e.last(); s != noSlot; s = g.slots[s].before {
		if g.slots[s].before == t.slot {
			g.slots[s].before = t.before
			return
		}
	}
}

// Apply follows committed movements, each once by its number, however often and in whatever order they come; all of one call are one
// atomic step. It fails with CodeInvalid (nothing was applied), CodeNotWarmed if the gate is not loaded, CodeConflict for a movement more
// than 65,536 ahead of the first that is missing, and CodeUnavailable where a shared gate is away; it may be called again then.
func (g *Gate) Apply(_ context.Context, movements ...Movement) error {
	items := 0
	for i := range movements {
		if err := movements[i].check(); err != nil {
			return err
		}
		items += movements[i].items()
	}
	if items > maxItems || len(movements) > maxMovements {
		return levee.Invalid("movements", "at most 1000 with 8192 wins and changes", strconv.Itoa(len(movements))+" with "+strconv.Itoa(items))
	}
	if g.buckets != nil {
		return g.buckets.apply(movements)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.warm {
		return errCold
	}
	for i := range movements {
		if movements[i].Seq > g.seqs.applied+maxEarly {
			return errTooEarly
		}
	}
	var freed int64
	for i := range movements {
		m := &movements[i]
		fresh := !g.seqs.has(m.Seq)
		for _, w := range m.Won {
			e := g.buyers.find(w.Buyer)
			freed += g.win(e, g.pendingOf(e, w.ID), w, fresh)
		}
		if !fresh {
			continue
		}
		g.seqs.add(m.Seq)
		g.remaining += m.Free
		freed += max(m.Free, 0)
		for _, c := range m.Holdings {
			e := g.buyers.find(c.Buyer)
			if e == nil {
				e = g.buyers.add(c.Buyer)
			}
			e.slot |= keptBit
			e.held += c.Units // who gave all back stays known, because his keys still count
		}
	}
	g.freed(freed)
	return nil
}

// pendingOf is a buyer's pending taking with this id, or nil.
func (g *Gate) pendingOf(e *buyerEntry, id levee.ReservationID) *Taking {
	if e == nil {
		return nil
	}
	for s := e.last(); s != noSlot; s = g.slots[s].before {
		if g.slots[s].ID == id {
			return g.slots[s]
		}
	}
	return nil
}

// Load replaces stock, movements and buyers by what SQL holds, keeping what was taken and is not yet settled. It fails with CodeInvalid,
// CodeConflict while another node loads the same shared gate, and CodeUnavailable where that is away.
func (g *Gate) Load(ctx context.Context, s State) error {
	if err := s.check(); err != nil {
		return err
	}
	if g.buckets != nil {
		return g.buckets.load(ctx, s)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.buyers = newBuyerTable(len(s.Holdings))
	g.perBuyer = s.PerBuyer
	g.remaining = s.Remaining - g.unsettled
	g.seqs = seqs{applied: s.Seq}
	g.epoch++
	for _, h := range s.Holdings {
		e := g.buyers.find(h.Buyer)
		if e == nil {
			e = g.buyers.add(h.Buyer)
		}
		e.held += h.Quantity
		e.slot |= keptBit
	}
	// What is taken and not yet settled is in no row yet: it stays held.
	for _, t := range g.slots {
		if t == nil {
			continue
		}
		e := g.buyers.find(t.Buyer)
		if e == nil {
			e = g.buyers.add(t.Buyer)
		}
		e.held += t.Quantity
		t.before = e.last()
		e.setLast(t.slot)
	}
	g.warm = true
	return nil
}

// Numbers returns the account. It fails with CodeUnavailable where a shared gate is away.
func (g *Gate) Numbers(ctx context.Context) (Numbers, error) {
	if g.buckets != nil {
		n, err := g.buckets.numbers(ctx)
		g.mu.Lock()
		defer g.mu.Unlock()
		n.Waiting = len(g.waiting) - g.head
		return n, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return Numbers{
		Warm: g.warm, Remaining: g.remaining, Unsettled: g.unsettled, Waiting: len(g.waiting) - g.head, Buyers: g.buyers.count, Epoch: g.epoch,
		Applied: g.seqs.applied, Missing: g.seqs.missing(),
	}, nil
}

// Held tells how many units the buyer holds, settled or not. known is true for whoever holds or held units: he must not be told
// "sold out" without a look at his keys. It fails with CodeUnavailable where a shared gate is away.
func (g *Gate) Held(_ context.Context, buyer levee.UserID) (units int32, known bool, err error) {
	if g.buckets != nil {
		return g.buckets.held(buyer)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.buyers.find(buyer); e != nil {
		return e.held, true, nil
	}
	return 0, false, nil
}

// SetLimit sets how many units a buyer may hold from now on, for the takings of this node; what is held already stays held. Each node of
// a shared gate sets it for itself, by the terms that it knows; until then the limit of the last Load counts.
func (g *Gate) SetLimit(perBuyer int32) {
	if g.buckets != nil {
		g.buckets.limit.Store(perBuyer)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.perBuyer = perBuyer
}

// Pending lists the attempts whose settlement is under way, in no order: for proofs, not for the hot path. It fails with CodeUnavailable
// where a shared gate is away.
func (g *Gate) Pending(ctx context.Context) ([]Attempt, error) {
	if g.buckets != nil {
		return g.buckets.pending(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Attempt
	for _, t := range g.slots {
		if t != nil {
			list = append(list, t.Attempt)
		}
	}
	return list, nil
}

// Overdue lists up to max takings of any node that have been pending for longer than lease. Whoever asks looks them up in SQL by their
// reservation and tells Resolve. It fails with CodeUnavailable where a shared gate is away.
func (g *Gate) Overdue(ctx context.Context, lease time.Duration, max int) ([]Attempt, error) {
	if g.buckets != nil {
		return g.buckets.overdue(ctx, lease, max)
	}
	before := time.Now().Add(-lease)
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Attempt
	for _, t := range g.slots {
		if t != nil && len(list) < max && !t.At.After(before) {
			list = append(list, t.Attempt)
		}
	}
	return list, nil
}

// Resolve follows what SQL says became of takings that were overdue. The lost give their units back if they are still pending; should
// their sleeping node commit them after all, their movement takes the units again. The won stay as they are until their movement (Seq) is
// applied; if it is in already, they are pending twice over and stop being so. It is idempotent. It fails as Apply does.
func (g *Gate) Resolve(_ context.Context, won []Win, lost []levee.ReservationID) error {
	for i := range won {
		if err := won[i].check(); err != nil {
			return err
		}
	}
	if len(won)+len(lost) > maxItems {
		return levee.Invalid("won and lost", "at most 8192 together", len(won)+len(lost))
	}
	if g.buckets != nil {
		return g.buckets.resolve(won, lost)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.warm {
		return errCold
	}
	var freed int64
	for _, w := range won {
		if w.Seq > 0 && g.seqs.has(w.Seq) {
			e := g.buyers.find(w.Buyer)
			freed += g.win(e, g.pendingOf(e, w.ID), w, false)
		}
	}
	if len(lost) > 0 {
		gone := make(map[levee.ReservationID]bool, len(lost))
		for _, id := range lost {
			gone[id] = true
		}
		for _, t := range g.slots {
			if t != nil && gone[t.ID] {
				freed += g.giveBack(t, false)
			}
		}
	}
	g.freed(freed)
	return nil
}

// Forget lets a shared gate's keys go after a time: the sale is over, and nothing of it is taken or followed any more. In memory it does
// nothing. It fails with CodeUnavailable where the gate is away.
func (g *Gate) Forget(ctx context.Context, after time.Duration) error {
	if g.buckets != nil {
		return g.buckets.forget(ctx, after)
	}
	return nil
}
