package sale

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/platformtest"
	"levee/internal/tally"
)

// world is one seed's house: a process that may be killed and started again over its database, and all who act on it.
type world struct {
	h     *simHouse
	seed  uint64
	r     *rand.Rand
	flaw  *flaw
	clock *testClock
	tally simTally

	node  int // of them, whose process this is
	peers []process
	kept  [4]string // the keys of a shared gate as they once were
	lives int
	taken map[levee.ReservationID]time.Time

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
	inHand    []*gate.Taking
	toDeliver [][]*gate.Taking
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

	latest     time.Time     // the latest time that the clock ever showed
	back       time.Duration // how far the clock stepped back in all
	dead, calm bool
	lost       bool // a commit has no answer yet
	tainted    bool // the gate is known to be off until it is loaded
	down       bool // the provider does not answer
	depth      int
	mate       chan struct{}
	soldOut    uint64 // the gate's epoch at the latest "sold out"
	trace      []string
	failure    string
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

	id     levee.ReservationID // of its taking, if it took one
	asked  time.Time           // when it was answered 202
	cancel context.CancelFunc
	parked chan struct{}
	done   chan struct{}
	killed bool
	ticket Ticket
	err    error
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
	w.trace = append(w.trace, fmt.Sprintf("%12s %*s", w.clock.Now().Format("15:04:05.000000"), 2*w.depth, "")+fmt.Sprintf(format, args...))
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

// blame is fail where nothing may panic: the seed ends as soon as the act is over.
func (w *world) blame(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf(format, args...)
		w.note("BROKEN: %s", w.failure)
	}
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
	terms := Terms{Title: "Lamp sale", SKU: w.h.sku, Price: levee.Money{Minor: 4900, Currency: "CNY"},
		Units: int64(1 + w.r.IntN([]int{4, 12, 40}[w.r.IntN(3)])), PerBuyer: w.limit, StartsAt: now.Add(-time.Hour), EndsAt: now.Add(12 * time.Hour), PayWithin: w.payWithin, TokenNeeded: w.chance(0.2)}
	if w.chance(0.2) {
		terms.EndsAt = now.Add(time.Duration(11+w.r.IntN(600)) * time.Second)
	}
	if w.chance(0.2) {
		terms.StartsAt = now.Add(time.Duration(1+w.r.IntN(10)) * time.Second)
	}
	if w.chance(0.15) {
		at := terms.StartsAt
		if now.After(at) {
			at = now
		}
		terms.Mode, terms.DrawAt = ModeDraw, at.Add(time.Duration(1+w.r.IntN(10_000))*time.Millisecond)
		if !terms.DrawAt.Before(terms.EndsAt) {
			terms.DrawAt = terms.EndsAt.Add(-time.Millisecond)
		}
	}
	v, err := w.sales.Open(context.Background(), terms, operator)
	if err != nil {
		w.fail("the sale could not be opened: %v", err)
	}
	w.sale, w.l, w.warm = v.ID, w.sales.liveByID(v.ID), true
	if w.h.redis != nil {
		w.addNodes()
	}
	w.note("open: a %s of %d units, %d per buyer, %d buyers, pay within %s, ends %s, batches of %d, %d may wait, faults %.2f", v.Mode, terms.Units, w.limit, w.buyers,
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
	door, err := admission.New(admission.Deps{IDs: h.ids, Sealer: h.sealer, Obs: o, Push: h.push, Key: platformtest.Key(2)})
	if err != nil {
		w.fail("%v", err)
	}
	nodeName := fmt.Sprint("sim-", w.node, "-", w.life)
	deps := Deps{DB: h.db, IDs: h.ids, Sealer: h.sealer, Obs: o, Events: h.events, Push: h.push, Catalog: shelf, Orders: w.orders,
		Admission: door, Tally: tally.New(tally.Deps{Obs: o, Push: h.push, Node: nodeName}), Config: w.cfg}
	if h.redis != nil {
		deps.Gates = func(sale levee.SaleID, waitingMax int) *gate.Gate {
			return gate.NewRedis(h.redis, sale, nodeName, waitingMax, 1)
		}
	}
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
	if h.redis != nil {
		s.late = time.Nanosecond // whatever is pending when somebody looks is overdue: every node sleeps too long
		s.Config.GateLease = 2 * time.Second
		s.timeOf = func(id levee.ReservationID) time.Time { return w.taken[id] }
		if w.flaw != nil && w.flaw.sleeper {
			s.Config.GateLease = time.Hour
			s.timeOf = func(id levee.ReservationID) time.Time { return w.taken[id].Add(-2 * time.Hour) }
		}
	}
	life := w.life
	s.fault = func(step string) error { return w.hook(life, step) }
	s.OnFree(w.onFree)
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
	w.lives++
	w.life = w.lives
	w.dismiss()
	w.dead, w.settling, w.lost, w.tainted, w.depth, w.mate, w.warm, w.current = false, false, false, false, 0, nil, false, nil
	w.inHand, w.toDeliver, w.soldOut = nil, nil, 0
	w.join()
	var err error
	if w.l, err = w.sales.liveFor(context.Background(), w.h.sealer.Seal(levee.KindSale, int64(w.sale))); err != nil {
		w.fail("after a restart the sale is unknown: %v", err)
	}
	if w.chance(0.3) && w.h.redis == nil { // a shared gate is warm
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
		for _, a := range pendingIn(w.l.gate) {
			if a.Buyer == buyer(b.buyer).User && a.Key == hashKey(b.key) {
				b.id = a.ID
			}
		}
		w.taken[b.id] = w.clock.Now()
		w.between(step)
		if !b.async {
			close(b.parked)
		}
		return nil
	case "settle.begin":
		return nil
	case "tell":
		return w.telling()
	case "gate.moved", "gate.freed":
		w.gateMoved(step == "gate.freed")
		return nil
	case "buy.sold_out":
		w.soldOut = max(w.soldOut, numbersOf(w.l.gate).Epoch)
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
		if w.h.redis != nil && !w.calm && w.mate == nil && w.chance(w.faults/2) {
			w.kill("between commit and gate")
		}
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
