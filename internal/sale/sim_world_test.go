package sale

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"levee"
	"levee/internal/catalog"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/platformtest"
)

// world is one seed's house: a process that may be killed and started again over its database, and all who act on it.
type world struct {
	h     *simHouse
	seed  uint64
	r     *rand.Rand
	flaw  *flaw
	clock *testClock
	tally simTally

	// of the living process
	sales  *Service
	orders *order.Service
	l      *live
	life   int
	warm   bool

	sale      levee.SaleID
	cfg       Config
	buyers    int
	mostTaken int32 // the largest quantity that is wished for
	payWithin time.Duration
	onHand    int64 // on the shelf before the sale
	actions   []action
	weights   []float64
	weightSum float64
	faults    float64 // how likely a fault is at a step

	// the settler, step by step
	inHand    []*taking
	toDeliver [][]*taking
	settling  bool
	delivered map[levee.ReservationID]bool

	held    []*simBuy // requests that hold the line
	current *simBuy   // whose request runs now
	queued  []*simBuy // answered 202 and not yet told the end
	retries []*simBuy // whose answer was lost
	keys    int
	past    []*simBuy // every wish, for its key to be used again

	answers map[wishKey]levee.ReservationID // the first answer to a key
	won     map[levee.ReservationID]*simBuy // told as won
	wonList []levee.ReservationID           // in order
	refused map[levee.ReservationID]bool    // told as refused, by number
	sums    map[levee.UserID]int64          // what each buyer held at the last look
	limit   int32                           // the limit at the last look
	money   []*simPayment

	latest      time.Time // the latest time that the clock ever showed
	dead, calm  bool
	lost        bool // a commit has no answer yet
	tainted     bool // the gate is known to be off until it is loaded
	down        bool // the provider does not answer
	depth       int
	mate        chan struct{}
	soldOut     uint64 // the gate's epoch at the latest "sold out"
	loadedEpoch uint64
	trace       []string
	failure     string
}

type wishKey struct {
	buyer int
	key   string
}

// simBuy is one request to buy.
type simBuy struct {
	buyer    int
	quantity int32
	key      string
	async    bool
	lost     bool // its answer will not arrive
	life     int
	before   bool // its key was answered before it began, with the same quantity
	started  int  // the turn

	id      levee.ReservationID // of its taking, if it took one
	asked   time.Time           // when it was answered 202
	bounded bool
	cancel  context.CancelFunc
	parked  chan struct{}
	done    chan struct{}
	waits   bool
	killed  bool
	ticket  Ticket
	err     error
}

func (b *simBuy) String() string {
	return fmt.Sprintf("buyer %d, %d units, key %s", b.buyer, b.quantity, b.key)
}

type simPayment struct {
	id     int64
	order  levee.OrderID
	paidAt time.Time // when the provider has the money; zero: never
}

// The ways in which the simulator leaves whatever it is in.
type (
	simKill struct{} // the process was killed
	simStop struct{} // a promise was broken
)

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%12s %*s", w.clock.Now().Format("15:04:05.000000")[0:], 2*w.depth, "")+fmt.Sprintf(format, args...))
}

func (w *world) count(what string) { w.tally[what]++ }

// fail ends the seed: a promise was broken.
func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf(format, args...)
		w.note("BROKEN: %s", w.failure)
	}
	panic(simStop{})
}

// kill ends the process here and now: whoever is under way unwinds, and nothing of its memory is used again.
func (w *world) kill(where string) {
	w.note("KILLED at %s", where)
	w.count("killed")
	w.dead = true
	panic(simKill{})
}

// unwind goes on with a kill or a failure that another goroutine met.
func (w *world) unwind() {
	if w.failure != "" {
		panic(simStop{})
	}
	if w.dead {
		panic(simKill{})
	}
}

func (w *world) chance(p float64) bool { return w.r.Float64() < p }

func (w *world) wait(what string, chans ...chan struct{}) {
	if len(chans) == 1 {
		chans = append(chans, nil)
	}
	select {
	case <-chans[0]:
	case <-chans[1]:
	case <-time.After(25 * time.Second):
		w.fail("waited in vain for %s", what)
	}
}

// begin draws the seed's terms, starts the first process and opens the sale.
func (w *world) begin() {
	w.buyers = 1 + w.r.IntN(12)
	w.mostTaken = int32(1 + w.r.IntN(3))
	w.cfg = Config{HoldFor: 30 * time.Second, BatchMax: 1 + w.r.IntN(6), WaitingMax: 2 + w.r.IntN(30)}
	w.payWithin = []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute}[w.r.IntN(3)]
	w.faults = []float64{0, 0, 0.02, 0.06, 0.15}[w.r.IntN(5)]
	w.limit = int32(1 + w.r.IntN(4))
	w.setActions()
	w.onHand = w.shelf()
	w.join()
	now := w.clock.Now()
	terms := Terms{Title: "Lamp sale", SKU: w.h.sku, Price: levee.Money{Minor: 4900, Currency: "CNY"}, Units: int64(1 + w.r.IntN([]int{4, 12, 40}[w.r.IntN(3)])),
		PerBuyer: w.limit, StartsAt: now.Add(-time.Hour), EndsAt: now.Add(12 * time.Hour), PayWithin: w.payWithin, Admission: w.chance(0.2)}
	if w.chance(0.2) {
		terms.EndsAt = now.Add(time.Duration(1+w.r.IntN(600)) * time.Second)
	}
	if w.chance(0.2) {
		terms.StartsAt = now.Add(time.Duration(1+w.r.IntN(10)) * time.Second)
	}
	v, err := w.sales.Open(context.Background(), terms, operator)
	if err != nil {
		w.fail("the sale could not be opened: %v", err)
	}
	w.sale, w.l, w.warm = v.ID, w.sales.liveByID(v.ID), true
	w.note("open: %d units, %d per buyer, %d buyers, pay within %s, ends %s, batches of %d, %d may wait, faults %.2f", terms.Units, w.limit, w.buyers,
		w.payWithin, terms.EndsAt.Format(time.TimeOnly), w.cfg.BatchMax, w.cfg.WaitingMax, w.faults)
}

// join builds the rooms of a new process over the database.
func (w *world) join() {
	h, o := w.h, simObs(w.clock.Now)
	shelf := catalog.New(catalog.Deps{DB: h.db, IDs: h.ids, Sealer: h.sealer, Obs: o, Events: h.events})
	openOrders := func(clock *testClock) *order.Service {
		s, err := order.Open(order.Deps{DB: h.db, IDs: h.ids, Sealer: h.sealer, Obs: simObs(clock.Now), Events: h.events, Jobs: h.jobs, Catalog: shelf})
		if err != nil {
			w.fail("%v", err)
		}
		return s
	}
	w.orders = openOrders(w.clock)
	deps := Deps{DB: h.db, IDs: h.ids, Sealer: h.sealer, Obs: o, Events: h.events, Push: h.push, Catalog: shelf, Orders: w.orders,
		AdmissionKey: platformtest.Key(2), Config: w.cfg}
	if w.flaw != nil && w.flaw.source != nil {
		deps.Orders = openOrders(w.clock) // joined to the engine's own source and then left alone
	}
	s, err := New(deps)
	if err != nil {
		w.fail("%v", err)
	}
	if w.flaw != nil && w.flaw.source != nil {
		w.orders.AddSource(sourceSale, w.flaw.source(w, s))
		s.Orders = w.orders
	}
	w.orders.AskProvider(w.askProvider)
	life := w.life
	s.fault = func(step string) error { return w.hook(life, step) }
	w.sales = s
}

// dismiss ends the requests of a process that is no more: their connections are gone.
func (w *world) dismiss() {
	for _, b := range w.held {
		b.cancel()
		<-b.done
	}
	w.held = nil
}

// restart starts a new process after a kill.
func (w *world) restart() {
	w.life++
	w.dismiss()
	w.dead, w.settling, w.lost, w.tainted, w.depth, w.mate, w.warm, w.current = false, false, false, false, 0, nil, false, nil
	w.inHand, w.toDeliver, w.soldOut = nil, nil, 0
	w.join()
	var err error
	if w.l, err = w.sales.liveFor(context.Background(), w.h.sealer.Seal(levee.KindSale, int64(w.sale))); err != nil {
		w.fail("after a restart the sale is unknown: %v", err)
	}
	if w.chance(0.3) {
		w.buy()
	}
	if err := w.sales.Warm(context.Background()); err != nil {
		w.fail("after a restart the sale cannot be loaded: %v", err)
	}
	w.warm = true
	w.note("started again, life %d", w.life)
}

// turn is one top-level act, from its draw to the look at what it left.
func (w *world) turn() {
	w.do(w.draw(atTop))
	w.check()
}

func (w *world) do(a *action) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case simKill:
		default:
			panic(v)
		}
		if w.dead {
			w.restart()
		}
	}()
	a.run()
	w.unwind()
}

// hook is called by the engine at its named steps.
func (w *world) hook(life int, step string) error {
	if life != w.life || w.failure != "" || w.dead {
		return nil
	}
	switch step {
	case "buy.taken":
		b := w.current
		g := w.l.gate
		g.mu.Lock()
		b.id = g.waiting[len(g.waiting)-1].id
		g.mu.Unlock()
		w.between(step)
		if !b.async {
			b.waits = true
			close(b.parked)
		}
		return nil
	case "buy.sold_out":
		w.soldOut = max(w.soldOut, w.l.gate.move(0, 0, 0).Epoch)
		w.between(step)
		if w.flaw != nil && w.flaw.lateSoldOut != nil {
			w.flaw.lateSoldOut(w)
		}
		return nil
	case "buy.known", "buy.bound":
		w.between(step)
		return nil
	case "settle.unknown":
		w.between(step)
		return nil
	case "settle.answer":
		if !w.calm && w.mate == nil && w.chance(w.faults) {
			w.note("the commit's answer is lost")
			w.count("commit without an answer")
			w.lost = true
			return errInjected
		}
		return nil
	case "settle.before_commit":
		if !w.calm && w.mate == nil && w.depth == 0 && w.chance(0.1) {
			w.pair()
			return nil
		}
	}
	switch {
	case w.calm || w.mate != nil:
	case w.chance(w.faults):
		w.note("injected error at %s", step)
		w.count("injected error")
		return errInjected
	case w.chance(w.faults / 2):
		w.kill(step)
	}
	return nil
}

// between lets somebody else act between two steps outside of a transaction, or kills the process there.
func (w *world) between(step string) {
	if w.calm || w.depth >= 2 {
		return
	}
	if w.chance(w.faults / 3) {
		w.kill(step)
	}
	if w.depth == 0 && w.chance(0.3) || w.chance(0.05) {
		w.depth++
		w.note("meanwhile, at %s:", step)
		w.count("meanwhile")
		if step == "buy.known" && w.chance(0.3) {
			w.double()
		}
		for range 1 + w.r.IntN(4) {
			w.draw(inside).run()
			w.unwind()
		}
		w.depth--
	}
}

// pair sends another transaction into the queue while this one runs, so that both share one commit.
func (w *world) pair() {
	a := w.draw(beside)
	w.depth++
	w.note("in the same commit:")
	w.count("two in one commit")
	mate := make(chan struct{})
	w.mate = mate
	go func() {
		defer close(mate)
		defer w.recovered()
		a.run()
	}()
	for w.h.db.Stats().Queue == 0 {
		select {
		case <-mate:
			return
		default:
			runtime.Gosched()
		}
	}
}

// recovered swallows the two ways out, in a goroutine of the simulator; who waits for it goes on with them.
func (w *world) recovered() {
	switch v := recover().(type) {
	case nil, simKill, simStop:
	default:
		panic(v)
	}
}

// tx is a transaction as its caller sees it: it may fail or die before its commit, or commit without an answer.
func (w *world) tx(name string, fn func(ctx context.Context, tx *db.Tx) error) error {
	fate := 1.0
	if !w.calm {
		fate = w.r.Float64() / max(w.faults, 1e-9)
	}
	err := w.h.db.Tx(context.Background(), name, func(ctx context.Context, tx *db.Tx) error {
		if err := fn(ctx, tx); err != nil {
			return err
		}
		switch {
		case fate < 0.25:
			w.note("%s fails before its commit", name)
			return errInjected
		case fate < 0.5:
			w.kill(name + ", before its commit")
		}
		return nil
	})
	if err == nil {
		switch {
		case fate < 0.5:
		case fate < 0.75:
			w.kill(name + ", after its commit")
		case fate < 1:
			w.note("%s commits without an answer", name)
			return errNoAnswer
		}
	}
	w.lawful(name, err)
	return err
}

// lawful fails the seed if an error is none that the engine may give.
func (w *world) lawful(what string, err error) {
	if err == nil || errors.Is(err, errInjected) || errors.Is(err, errNoAnswer) {
		return
	}
	switch code(err) {
	case levee.CodeConflict, levee.CodeOutOfStock, levee.CodeNotFound, levee.CodeInvalid:
		return
	}
	w.fail("%s: %v", what, err)
}

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
		{"all three", 20, atTop | inside, func() bool { return w.inHand == nil && len(w.toDeliver) == 0 && !w.settling }, func() { w.pick(); w.settle(); w.deliver() }},
		{"bound", 5, atTop | inside, func() bool { return len(w.waiters()) > 0 }, w.bound},
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
		{"tick", 5, atTop | inside, always, w.tick},
		{"reconcile", 3, atTop | inside | beside, always, w.reconcile},
		{"gate wrong", 0.7, atTop, func() bool { return w.flaw == nil || !w.flaw.trueGate }, w.drift},
		{"kill", 0.7, atTop, always, func() { w.kill("an idle moment") }},
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
	b.life, b.parked, b.done, b.started = w.life, make(chan struct{}), make(chan struct{}), len(w.trace)
	if row, ok := w.byKey(b.buyer, b.key); ok && row.Quantity == b.quantity {
		b.before = true
	}
	wish := Wish{Buyer: buyer(b.buyer), Quantity: b.quantity, Key: b.key, Async: b.async}
	wish.Admission = w.sales.tokens.issue(w.sale, wish.Buyer.User, w.clock.Now().Add(time.Minute))
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
	default:
	}
	w.finish(b)
}

// waiters are the requests that hold the line now.
func (w *world) waiters() []*simBuy { return w.held }

// bound ends a request's holding of the line: the bound has passed, or the buyer has left.
func (w *world) bound() {
	i := w.r.IntN(len(w.held))
	b := w.held[i]
	w.held = slices.Delete(w.held, i, i+1)
	b.bounded = true
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
	if w.inHand = w.l.gate.next(w.cfg.BatchMax); w.inHand != nil {
		w.note("the settler picks up %d", len(w.inHand))
	}
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
		case t.result.err != nil:
			w.note("  %d of buyer %d: %v", t.id, int(t.buyer)-1_000_000, t.result.err)
			w.count("refused by SQL")
		case t.result.existing != 0:
			w.note("  %d of buyer %d: answered before by %d", t.id, int(t.buyer)-1_000_000, t.result.existing)
		default:
			w.note("  %d of buyer %d: won", t.id, int(t.buyer)-1_000_000)
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
func (w *world) hand(batch []*taking, deliver func(*live, []*taking)) {
	w.note("the settler tells %d", len(batch))
	var told []*simBuy
	for _, t := range batch {
		w.delivered[t.id] = true
		for i, b := range w.held {
			if b.id == t.id {
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
	if e := w.l.gate.buyers.find(n); e != nil && e.held > 0 && w.chance(0.5) {
		held = -1
	}
	w.l.gate.move(units, n, held)
}

// tick is the engine's housekeeping.
func (w *world) tick() {
	w.note("tick")
	w.sales.housekeep(context.Background())
}

// reconcile proves the sale and repairs the gate.
func (w *world) reconcile() {
	before := w.l.gate.move(0, 0, 0).Epoch
	var err error
	if w.flaw != nil && w.flaw.load != nil {
		w.note("load")
		w.flaw.load(w)
	} else if w.chance(0.6) {
		w.note("reconcile")
		err = w.sales.reconcile(context.Background(), w.l)
	} else {
		w.note("reconcile, by an operator")
		_, err = w.sales.Reconcile(context.Background(), w.sale)
	}
	w.lawful("reconcile", err)
	if w.lost {
		w.tainted = true // loaded between a commit and its answer: low until the next time
	} else if w.l.gate.move(0, 0, 0).Epoch != before {
		w.tainted = false
	}
}
