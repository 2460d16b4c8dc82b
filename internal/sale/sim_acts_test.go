package sale

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/db"
)

// Where an act may take place.
const (
	atTop  = 1 << iota
	inside // between two steps of another act
	beside // in a transaction that shares another's commit
)

type action struct {
	name   string
	weight float64
	where  int
	ready  func() bool
	run    func()
}

// setActions draws how often each act happens in this seed: some seeds have no pause, others little else.
func (w *world) setActions() {
	always := func() bool { return true }
	w.actions = []action{
		{"buy", 30, atTop | inside, always, w.buy},
		{"pick", 14, atTop | inside, func() bool { return w.inHand == nil && len(w.toDeliver) < 3 }, w.pick},
		{"settle", 14, atTop | inside, func() bool { return w.inHand != nil && !w.settling }, w.settle},
		{"deliver", 14, atTop | inside, func() bool { return len(w.toDeliver) > 0 }, w.deliver},
		{"all three", 20, atTop | inside, func() bool { return w.inHand == nil && len(w.toDeliver) == 0 && !w.settling }, w.allThree},
		{"bound", 5, atTop | inside, func() bool { return len(w.held) > 0 }, w.bound},
		{"poll", 6, atTop | inside, func() bool { return len(w.queued) > 0 }, w.poll},
		{"give up", 4, atTop | inside | beside, func() bool { return len(w.wonList) > 0 }, w.giveUp},
		{"void", 1.5, atTop | inside | beside, always, w.void},
		{"pay", 12, atTop, func() bool { return len(w.wonList) > 0 }, w.pay},
		{"notify", 16, atTop | inside | beside, func() bool { return len(w.money) > 0 }, w.notify},
		{"refund", 2.5, atTop | inside | beside, always, w.refund},
		{"expire one", 5, atTop | inside | beside, always, w.expireOne},
		{"expire due", 4, atTop, always, w.expireDue},
		{"advance", 14, atTop | inside, always, w.advance},
		{"clock back", 1, atTop, always, w.clockBack},
		{"operate", 4, atTop | inside | beside, always, w.operate},
		{"limit", 2, atTop | inside | beside, always, w.changeLimit},
		{"join", 5, atTop | inside | beside, always, w.joinLine},
		{"give", 4, atTop | inside | beside, w.someoneWaits, w.giveLine},
		{"grant again", 2, atTop | inside | beside, always, w.repeatGrant},
		{"tick", 5, atTop | inside, always, w.tick},
		{"reconcile", 3, atTop | inside | beside, always, w.reconcile},
		{"gate wrong", 0.7, atTop, func() bool { return w.flaw == nil || !w.flaw.trueGate }, w.drift},
		{"kill", 0.7, atTop, always, func() { w.kill("an idle moment") }},
	}
	if w.h.redis != nil {
		w.actions = append(slices.DeleteFunc(w.actions, func(a action) bool { return a.name == "gate wrong" || a.name == "clock back" }), w.sharedActions()...)
	}
	w.weights = make([]float64, len(w.actions))
	for i, a := range w.actions {
		w.weights[i] = a.weight * []float64{0.2, 0.5, 1, 1, 1, 3}[w.r.IntN(6)]
	}
}

// draw picks an act that may take place here; one always can.
func (w *world) draw(where int) *action {
	var sum float64
	ready := make([]bool, len(w.actions))
	for i := range w.actions {
		if w.actions[i].where&where != 0 && w.actions[i].ready() {
			ready[i] = true
			sum += w.weights[i]
		}
	}
	at := w.r.Float64() * sum
	for i := range w.actions {
		if ready[i] {
			if at -= w.weights[i]; at < 0 {
				return &w.actions[i]
			}
		}
	}
	panic("nobody can act")
}

// buy sends one request, often the double of an earlier one.
func (w *world) buy() {
	b := &simBuy{buyer: w.r.IntN(w.buyers), quantity: 1 + w.r.Int32N(w.mostTaken), async: w.chance(0.25), lost: w.chance(0.08)}
	w.keys++
	b.key = fmt.Sprint("k", w.keys)
	switch n := len(w.retries); {
	case n > 0 && w.chance(0.6):
		again := w.retries[n-1]
		w.retries = w.retries[:n-1]
		b.buyer, b.quantity, b.key = again.buyer, again.quantity, again.key
	case len(w.past) > 0 && w.chance(0.3):
		again := w.past[max(0, len(w.past)-1-w.r.IntN(12))]
		b.buyer, b.key = again.buyer, again.key
		if w.chance(0.85) {
			b.quantity = again.quantity
		}
	}
	w.send(b)
}

// double sends the request that runs now once more, and has it settled if the settler is free.
func (w *world) double() {
	b := w.current
	w.send(&simBuy{buyer: b.buyer, quantity: b.quantity, key: b.key, async: true})
	w.unwind()
	if w.inHand == nil && len(w.toDeliver) < 3 && !w.settling {
		w.pick()
		w.settle()
	}
}

// send runs a request until it is answered or holds the line.
func (w *world) send(b *simBuy) {
	w.past = append(w.past, b)
	b.life, b.parked, b.done = w.life, make(chan struct{}), make(chan struct{})
	if row, ok := w.byKey(b.buyer, b.key); ok && row.Quantity == b.quantity {
		b.before = true
	}
	wish := Wish{Buyer: buyer(b.buyer), Quantity: b.quantity, Key: b.key, Async: b.async}
	wish.Admission = w.sales.Admission.Issue(w.sale, wish.Buyer.User, w.clock.Now().Add(time.Minute))
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	outer := w.current
	w.current = b
	w.note("buy: %s%s", b, map[bool]string{true: ", async"}[b.async])
	s, l := w.sales, w.l
	go func() {
		defer close(b.done)
		defer w.recovered()
		b.killed = true // until it comes back
		b.ticket, b.err = s.Buy(ctx, l, wish)
		b.killed = false
	}()
	w.wait("an answer or a place in the line", b.parked, b.done)
	w.current = outer
	w.unwind()
	select {
	case <-b.parked:
		if !w.delivered[b.id] {
			w.held = append(w.held, b)
			return
		}
		w.wait("an answer that was settled in between", b.done)
	default:
	}
	w.finish(b)
}

// bound ends a request's holding of the line: the bound has passed, or the buyer has left.
func (w *world) bound() {
	i := w.r.IntN(len(w.held))
	b := w.held[i]
	w.held = slices.Delete(w.held, i, i+1)
	w.note("the bound passes for %s", b)
	outer := w.current
	w.current = b
	b.cancel()
	w.wait("an answer at the bound", b.done)
	w.current = outer
	w.unwind()
	w.finish(b)
}

// pick is the settler's taking of a batch.
func (w *world) pick() {
	if w.inHand = w.l.gate.Next(w.cfg.BatchMax); w.inHand != nil {
		w.note("the settler picks up %d", len(w.inHand))
	}
}

func (w *world) allThree() {
	w.pick()
	w.settle()
	w.deliver()
}

// settle is the settler's transaction for the batch in hand, with whatever a lost answer makes of it.
func (w *world) settle() {
	if w.inHand == nil {
		return
	}
	w.settling = true
	w.note("the settler settles %d", len(w.inHand))
	if w.flaw != nil && w.flaw.settle != nil {
		w.flaw.settle(w, w.inHand)
	} else {
		w.sales.settleBatch(context.Background(), w.l, w.inHand)
	}
	if w.mate != nil {
		w.wait("the other transaction of the commit", w.mate)
		w.mate = nil
		w.depth--
	}
	w.settling, w.lost = false, false
	w.unwind()
	if w.inHand == nil { // a flaw has told them already
		return
	}
	for _, t := range w.inHand {
		switch {
		case t.Result.Err != nil:
			w.note("  %d of buyer %d: %v", t.ID, int(t.Buyer)-1_000_000, t.Result.Err)
			w.count("refused by SQL")
		case t.Result.Existing != 0:
			w.note("  %d of buyer %d: answered before by %d", t.ID, int(t.Buyer)-1_000_000, t.Result.Existing)
		default:
			w.note("  %d of buyer %d: won", t.ID, int(t.Buyer)-1_000_000)
		}
	}
	w.toDeliver = append(w.toDeliver, w.inHand)
	w.inHand = nil
}

// deliver tells the buyers of a settled batch.
func (w *world) deliver() {
	if len(w.toDeliver) == 0 {
		return
	}
	batch := w.toDeliver[0]
	w.toDeliver = w.toDeliver[1:]
	w.hand(batch, w.sales.deliver)
}

// hand delivers a batch and waits for the requests that it ends.
func (w *world) hand(batch []*gate.Taking, deliver func(*live, []*gate.Taking)) {
	w.note("the settler tells %d", len(batch))
	var told []*simBuy
	for _, t := range batch {
		w.delivered[t.ID] = true
		for i, b := range w.held {
			if b.id == t.ID {
				told = append(told, b)
				w.held = slices.Delete(w.held, i, i+1)
				break
			}
		}
	}
	deliver(w.l, batch)
	for _, b := range told {
		w.wait("a told buyer", b.done)
	}
	for _, b := range told {
		w.finish(b)
	}
}

// advance moves the clock: a little, to the next moment at which something is due, or exactly onto it.
func (w *world) advance() {
	var d time.Duration
	switch w.r.IntN(7) {
	case 0, 1, 2:
		d = time.Duration(w.r.IntN(1000)) * time.Millisecond
	case 3:
		d = time.Duration(w.r.IntN(60)) * time.Second
	default:
		now := w.clock.Now()
		at := int64(math.MaxInt64)
		var due db.NullInt64
		w.row(&due, "SELECT MIN(due_at) FROM order_head WHERE due_at > ?", now.UnixMicro())
		if due.Valid {
			at = due.Int64
		}
		for _, p := range w.money {
			if p.paidAt.After(now) {
				at = min(at, p.paidAt.UnixMicro())
			}
		}
		if at == math.MaxInt64 {
			return
		}
		d = time.UnixMicro(at).Sub(now) + time.Duration(w.r.IntN(2))*time.Microsecond
	}
	w.clock.Step(d)
	if now := w.clock.Now(); now.After(w.latest) {
		w.latest = now
	}
	w.note("the clock goes on by %s", d)
}

func (w *world) clockBack() {
	d := time.Duration(1+w.r.IntN(120_000)) * time.Millisecond
	w.clock.Step(-d)
	w.back += d
	w.count("clock back")
	w.note("the clock steps back by %s", d)
}

// drift makes the gate wrong, as a lost message or a failed-over store does.
func (w *world) drift() {
	units := int64(w.r.IntN(9) - 3)
	w.count("gate wrong")
	w.note("the gate is wrong by %d", units)
	w.tainted = true
	n := levee.UserID(1_000_000 + w.r.IntN(w.buyers))
	held := int32(0)
	if has, _ := heldIn(w.l.gate, n); has > 0 && w.chance(0.5) {
		held = -1
	}
	drift(w.l.gate, units, n, held)
}

// tick is the engine's housekeeping.
func (w *world) tick() {
	w.note("tick")
	w.sales.housekeep(context.Background())
}

// reconcile proves the sale and repairs the gate.
func (w *world) reconcile() {
	before := numbersOf(w.l.gate).Epoch
	var err error
	loaded := false
	if w.flaw != nil && w.flaw.load != nil {
		w.note("load")
		w.flaw.load(w)
	} else if w.chance(0.6) {
		w.note("reconcile")
		err = w.sales.reconcile(context.Background(), w.l)
	} else {
		w.note("reconcile, by an operator")
		_, err = w.sales.Reconcile(context.Background(), w.sale)
		loaded = err == nil
	}
	w.lawful("reconcile", err)
	if w.lost {
		w.tainted = true // loaded between a commit and its answer: low until the next time
	} else if loaded || w.mate == nil && numbersOf(w.l.gate).Epoch != before { // in a shared commit others raise it, too
		w.tainted = false
	}
}
