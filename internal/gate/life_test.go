package gate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"levee"
)

// life is one random life of a sale over some nodes, from a seed.
type life struct {
	t       testing.TB
	r       *rand.Rand
	h       *shop
	sql     *ledger
	m       *model
	lineMax int
	buyers  int
	line    []int       // takings in each node's line
	inHand  [][]*Taking // picked up and not settled
	doubt   [][][]gone  // what each node may have taken for nobody, by bucket
	saved   *State      // a snapshot of SQL that is loaded later
	past    []string    // a snapshot of Redis
	then    *model
	epoch   uint64                             // the highest that was seen
	out     map[levee.ReservationID]*wandering // takings that SQL has not judged
	next    levee.ReservationID
	did     map[string]int
	problem string
	log     []string
	// onlyMoves: what is armed is for halves of moves.
	onlyMoves bool
}

// wandering is a taking in some node's hands. excused says that the gate may not know it: an injected fault made it forget.
type wandering struct {
	quantity int64
	excused  bool
}

// lifeOptions choose what a life may have.
type lifeOptions struct{ calm bool }

const lineMax = 9 // calm: nothing is lost, late or out of order

func newLife(t testing.TB, h *shop, seed uint64) *life {
	r := rand.New(rand.NewPCG(seed, 11))
	n, count := len(h.nodes), 1
	if h.store != nil {
		count = len(h.observer.buckets.all())
	}
	doubt := make([][][]gone, n)
	for i := range doubt {
		doubt[i] = make([][]gone, count)
	}
	return &life{t: t, r: r, h: h, lineMax: lineMax, m: newModel(count, 3), buyers: 1 + r.IntN(40), line: make([]int, n), inHand: make([][]*Taking, n),
		doubt: doubt, out: map[levee.ReservationID]*wandering{}, did: map[string]int{},
		// Ids of 63 bits that differ in the last ones: whoever counts in doubles takes one for the other.
		next: 1<<62 + 1,
		sql:  &ledger{reservations: map[levee.ReservationID]sold{}, held: map[levee.UserID]int32{}, known: map[levee.UserID]bool{}}}
}

func (l *life) buyer() levee.UserID { return levee.UserID(1<<62 + 4096 + l.r.IntN(l.buyers)) }

func (l *life) fail(format string, args ...any) {
	if l.problem == "" {
		l.problem = fmt.Sprintf(format, args...)
	}
}

func (l *life) note(format string, args ...any) { l.log = append(l.log, fmt.Sprintf(format, args...)) }

// run lives a life and returns what was wrong, or "".
func (l *life) run(steps int, o lifeOptions) string {
	ctx := context.Background()
	if _, v, _ := l.h.nodes[0].Take(ctx, Attempt{ID: 1, Buyer: 1, Quantity: 1}); v != Cold {
		l.fail("a gate that was never loaded said %d", v)
	}
	if err := l.h.observer.Apply(ctx, Movement{Seq: 1, Free: 5}); levee.CodeOf(err) != levee.CodeNotWarmed {
		l.fail("a cold gate followed a movement: %v", err)
	}
	l.sql.commit(Movement{Free: int64(5 + l.r.IntN(50))})
	l.load(l.sql.state(3))
	for step := 0; step < steps && l.problem == ""; step++ {
		l.step(o)
		l.compare()
		if l.problem != "" {
			l.problem = fmt.Sprintf("step %d: %s", step, l.problem)
		}
	}
	if l.problem == "" {
		l.end()
	}
	return l.problem
}

func (l *life) step(o lifeOptions) {
	n := l.r.IntN(len(l.h.nodes))
	if l.h.faults != nil && !o.calm && l.r.IntN(12) == 0 {
		kind, skip := 1+l.r.Int32N(4), 0
		if len(l.m.k) > 1 {
			skip = l.r.IntN(4)
			if l.onlyMoves = l.r.IntN(2) == 0; l.onlyMoves {
				skip = 0
			}
		}
		l.h.faults[n].arm(kind, skip)
		l.did[fmt.Sprintf("fault %d", kind)]++
	}
	switch k := l.r.IntN(100); {
	case k < 50:
		l.take(n)
	case k < 60:
		l.pick(n)
	case k < 74:
		l.settle(n, o)
	case k < 82:
		l.move(n, o)
	case k < 88:
		l.m.perBuyer = int32(1 + l.r.IntN(4))
		l.limit()
	case o.calm:
	case k < 92:
		l.follow(n)
	case k < 95:
		l.resolve(n)
	case k < 96:
		if s := l.sql.state(l.m.perBuyer); l.saved == nil || l.r.IntN(3) == 0 {
			l.saved = &s
		}
	case k < 97:
		s := l.sql.state(l.m.perBuyer)
		if l.saved != nil && l.r.IntN(2) == 0 {
			s, l.saved = *l.saved, nil
			s.PerBuyer = l.m.perBuyer
			l.did["stale load"]++
		}
		l.load(s)
	case l.h.store == nil:
	case k < 98:
		l.past, l.then = l.h.store.snapshot(l.t), l.m.clone()
		l.note("snapshot of Redis")
	case k < 99:
		if l.past != nil {
			if place := l.r.IntN(2 * len(l.m.k)); len(l.m.k) > 1 && place < len(l.m.k) {
				l.oneBack(place)
				break
			}
			limit := l.m.perBuyer
			l.h.store.restore(l.t, l.past)
			l.m, l.past = l.then, nil
			l.m.perBuyer = limit // each node's own
			l.forgot()
			l.did["back in time"]++
			l.note("Redis went back in time")
		}
	default:
		what, place := "emptied", l.r.IntN(2*len(l.m.k))
		if len(l.m.k) > 1 && place < len(l.m.k) {
			what = "one emptied"
			l.h.store.emptyPart(4*place, 4*place+4)
			l.m.k[place] = newBooks(l.m.perBuyer)
		} else {
			l.h.store.empty()
			loads := l.m.loads
			l.m = newModel(len(l.m.k), l.m.perBuyer)
			l.m.loads = loads
			l.past = nil
		}
		l.forgot()
		l.did[what]++
		l.note("Redis was %s", what)
		l.comparePlain()
		a := l.attempt()
		for tries := 0; l.m.of(a.Buyer).warm && tries < 100; tries++ {
			a = l.attempt()
		}
		if l.m.of(a.Buyer).warm {
			l.load(l.sql.state(l.m.perBuyer))
			break
		}
		if l.h.faults != nil {
			l.h.faults[n].of(takeKeys)
		}
		if _, v, _ := l.h.nodes[n].Take(context.Background(), a); v != Cold && v != Away {
			l.fail("an empty gate said %d", v)
		} else if v == Cold {
			l.cleared(n, l.m.place(a.Buyer))
		} else {
			place := l.m.place(a.Buyer)
			l.doubt[n][place] = append(l.doubt[n][place], gone{id: l.next})
		}
		l.load(l.sql.state(l.m.perBuyer))
	}
	if l.h.faults != nil {
		for _, f := range l.h.faults {
			f.arm(faultNone, 0)
		}
	}
}

// forgot excuses every taking that the gate does not know any more: an injected fault lost it.
func (l *life) forgot() {
	for id, w := range l.out {
		if _, ok := l.m.pending(id); !ok {
			w.excused = true
		}
	}
}

func (l *life) attempt() Attempt {
	l.next += levee.ReservationID(1 + l.r.IntN(2))
	return Attempt{ID: l.next, Buyer: l.buyer(), Quantity: int32(1 + l.r.IntN(3)), Key: int64(l.r.IntN(6)) - 3, Checked: l.r.IntN(2) == 0}
}

// met tells what an armed fault did to a node's call; a fault that hit half a move is no other call's.
func (l *life) met(n int) hit {
	if l.h.faults == nil {
		return hit{place: -1}
	}
	h := l.h.faults[n].was()
	if h.script == moveKeys {
		l.did[fmt.Sprintf("a move's fault %d", h.kind)]++
		h.kind = faultNone
	}
	if h.kind == faultNone {
		h.place = -1
	}
	return h
}

func (l *life) armedFor(n, script int) {
	if l.onlyMoves {
		script = moveKeys
	}
	if l.h.faults != nil {
		l.h.faults[n].of(script)
	}
}

// lost is the bucket that a call did not reach, or -1.
func (h hit) lost() int {
	if h.kind == faultBefore || h.kind == faultDial {
		return h.place
	}
	return -1
}

// unheard says that a call failed, carried out or not.
func (h hit) unheard() bool {
	return h.kind == faultBefore || h.kind == faultDial || h.kind == faultAfter
}

// oneBack: one bucket's server went back in time, and the others did not.
func (l *life) oneBack(place int) {
	l.h.store.restorePart(l.t, l.past, 4*place, 4*place+4)
	l.m.k[place] = l.then.k[place].clone()
	l.forgot()
	l.note("bucket %d went back in time", place)
	if l.m.warm() {
		l.did["one back in time"]++
		return
	}
	l.did["one back before its load"]++
	l.comparePlain()
	l.load(l.sql.state(l.m.perBuyer))
}

// cleared: a node that reached a bucket gives back what it took there for nobody.
func (l *life) cleared(n, place int) {
	if l.m.k[place].warm {
		for _, d := range l.doubt[n][place] {
			l.m.k[place].giveBack(d.id, d.keep)
		}
	}
	l.doubt[n][place] = nil
}

func (l *life) take(n int) {
	l.armedFor(n, takeKeys)
	a := l.attempt()
	b := l.m.of(a.Buyer)
	want := b.verdict(a, l.m.remaining(), l.line[n], l.lineMax)
	if place := l.m.place(a.Buyer); len(l.m.k) > 1 && want == SoldOut && len(l.doubt[n][place]) > 0 {
		// As soon as the bucket has answered once, it is given back what was taken for nobody, before units are brought from others.
		l.h.faults[n].arm(faultNone, 0)
		l.cleared(n, place)
		want = b.verdict(a, l.m.remaining(), l.line[n], l.lineMax)
	}
	taking, got, epoch := l.h.nodes[n].Take(context.Background(), a)
	h := l.met(n)
	l.note("node %d takes %+v: %d (%+v)", n, a, got, h)
	if h.unheard() {
		if got != Away {
			l.fail("a take whose call failed said %d", got)
		}
		if h.kind == faultAfter && want == Taken && l.waits(a.ID) {
			b.take(a)
			l.did["taken, reply lost"]++
		}
		if place := l.m.place(a.Buyer); h.kind != faultDial {
			l.doubt[n][place] = append(l.doubt[n][place], gone{id: a.ID})
		}
		return
	}
	if got != want {
		l.fail("%+v: verdict %d, the books say %d", a, got, want)
		return
	}
	l.did[fmt.Sprintf("verdict %d", got)]++
	if got == Taken {
		b.take(a)
		l.line[n]++
		if taking.ID != a.ID || taking.Buyer != a.Buyer || taking.Quantity != a.Quantity {
			l.fail("%+v was taken as %+v", a, taking.Attempt)
		}
		l.out[a.ID] = &wandering{quantity: int64(a.Quantity)}
		l.oversold()
	}
	l.seen(epoch, false)
	l.cleared(n, l.m.place(a.Buyer))
}

// waits tells whether the gate took it, where that depends on which of several calls was lost. One bucket has one call.
func (l *life) waits(id levee.ReservationID) bool {
	if len(l.m.k) == 1 {
		return true
	}
	list, err := l.h.observer.Pending(context.Background())
	if err != nil {
		l.fail("pending: %v", err)
	}
	return slices.ContainsFunc(list, func(a Attempt) bool { return a.ID == id })
}

// oversold: what was let through and is not judged yet is never more than SQL has, but for what an injected fault explains: takings that
// the gate was made to forget, and movements that it was not told.
func (l *life) oversold() {
	var out, excused int64
	for _, w := range l.out {
		out += w.quantity
		if w.excused {
			excused += w.quantity
		}
	}
	for _, m := range l.sql.movements {
		if !l.m.has(m.Seq) {
			excused += max(0, -m.Free)
			for _, w := range m.Won {
				if _, ok := l.m.pending(w.ID); !ok {
					excused += int64(w.Quantity)
				}
			}
		}
	}
	if out > l.sql.remaining+excused {
		l.fail("%d units are out, SQL has %d, faults explain %d", out, l.sql.remaining, excused)
	}
}

// seen notes an epoch. rises says that stock came back: then it is above every one before, so that no switch takes it for an old one.
func (l *life) seen(epoch uint64, rises bool) {
	if rises && epoch <= l.epoch {
		l.fail("stock came back at epoch %d, and %d was seen before", epoch, l.epoch)
	}
	l.epoch = max(l.epoch, epoch)
}

func (l *life) pick(n int) {
	if l.inHand[n] != nil {
		return
	}
	l.inHand[n] = l.h.nodes[n].Next(1 + l.r.IntN(8))
	l.line[n] -= len(l.inHand[n])
	for i := 1; i < len(l.inHand[n]); i++ {
		if l.inHand[n][i].ID < l.inHand[n][i-1].ID {
			l.fail("%d is picked up after %d", l.inHand[n][i].ID, l.inHand[n][i-1].ID)
		}
	}
}

// settle lets SQL judge what a node has in its hands, and tells the gate: in time, without the movement's number, after the movement
// came on another way, or not at all.
func (l *life) settle(n int, o lifeOptions) {
	batch := l.inHand[n]
	if batch == nil {
		return
	}
	l.inHand[n] = nil
	g, ctx := l.h.nodes[n], context.Background()
	refusals := l.sql.noStock
	m := l.sql.settle(l.r, batch, l.m.perBuyer)
	if o.calm && l.sql.noStock != refusals {
		l.fail("SQL had to refuse for lack of stock, though nothing was lost")
	}
	seq := m.Seq
	if !o.calm {
		switch l.r.IntN(6) {
		case 0: // the commit's answer was lost, and nobody asked for the number
			seq = 0
			l.did["number not known"]++
		case 1: // the follower was faster
			if seq > 0 {
				l.apply(l.r.IntN(len(l.h.nodes)), m)
			}
		}
	}
	l.armedFor(n, followKeys)
	got := g.Settle(ctx, batch, seq)
	h := l.met(n)
	l.note("node %d settles %d takings by movement %d (%+v): %d freed (%+v)", n, len(batch), seq, m, got, h)
	var freed int64
	for _, t := range batch {
		delete(l.out, t.ID)
		if t.Result.Refused() {
			freed += l.m.giveBack(t.ID, t.Result.Existing != 0, h.lost())
			if place := l.m.place(t.Buyer); place == h.place && h.unheard() {
				l.doubt[n][place] = append(l.doubt[n][place], gone{t.ID, t.Result.Existing != 0})
			}
		}
	}
	if seq > 0 {
		freed += l.m.apply(m, h.lost())
	}
	switch {
	case h.kind == faultNone && got != freed:
		l.fail("%d came back, the books say %d", got, freed)
	case h.lost() >= 0 && len(l.m.k) == 1 && got != 0:
		l.fail("%d came back by a call that failed", got)
	}
	if freed > 0 {
		l.rose()
	}
	all := slices.Clone(batch)
	g.Signal(batch)
	for _, t := range all {
		<-t.Settled
		t.Free()
	}
}

// rose: stock came back just now.
func (l *life) rose() {
	n, err := l.h.observer.Numbers(context.Background())
	if err != nil {
		l.fail("%v", err)
		return
	}
	l.seen(n.Epoch, true)
}

// move commits a movement that is no settlement, and tells the gate at once or leaves it to the follower.
func (l *life) move(n int, o lifeOptions) {
	var m Movement
	b := l.buyer()
	switch l.r.IntN(5) {
	case 0:
		m.Free = int64(1 + l.r.IntN(3))
	case 1:
		m.Free = -int64(l.r.IntN(4))
		if o.calm || l.sql.remaining+m.Free < 0 { // what is withdrawn while it is taken is refused by SQL
			return
		}
	case 2, 3:
		for id, s := range l.sql.reservations {
			if !s.released && (m.Holdings == nil || id < m.Won[0].ID) {
				m = Movement{Free: int64(s.Quantity), Holdings: []Change{{s.Buyer, -s.Quantity}}, Won: []Win{s.Win}}
			}
		}
		if m.Holdings == nil {
			return
		}
		s := l.sql.reservations[m.Won[0].ID]
		s.released = true
		l.sql.reservations[s.ID], m.Won = s, nil
	case 4: // a grant
		q := int32(1 + l.r.IntN(2))
		if o.calm || l.sql.remaining < int64(q) || l.sql.held[b]+q > l.m.perBuyer {
			return
		}
		l.next += 3
		w := Win{ID: l.next, Buyer: b, Quantity: q, Seq: int64(len(l.sql.movements) + 1)}
		l.sql.reservations[w.ID] = sold{Win: w, key: int64(w.ID)}
		m.Won = []Win{w}
	}
	m = l.sql.commit(m)
	if o.calm || l.r.IntN(3) > 0 {
		l.apply(n, m)
	}
}

func (l *life) apply(n int, list ...Movement) {
	l.armedFor(n, followKeys)
	err := l.h.nodes[n].Apply(context.Background(), list...)
	h := l.met(n)
	l.note("node %d applies %+v: %v (%+v)", n, list, err, h)
	if !l.m.warm() && !h.unheard() && levee.CodeOf(err) != levee.CodeNotWarmed {
		l.fail("a cold gate applied a movement: %v", err)
	}
	if l.m.warm() && (err != nil) != h.unheard() {
		l.fail("applying %+v: %v", list, err)
	}
	if err != nil && l.m.warm() && levee.CodeOf(err) != levee.CodeUnavailable {
		l.fail("applying %+v: %v", list, err)
	}
	if h.lost() >= 0 && len(l.m.k) > 1 {
		l.did["some told"]++
	}
	var freed int64
	for _, m := range list {
		freed += l.m.apply(m, h.lost())
	}
	if freed > 0 {
		l.rose()
	}
}

// follow applies movements of the ledger: what is missing in any order, and now and then what is in already.
func (l *life) follow(n int) {
	var list []Movement
	for range 1 + l.r.IntN(4) {
		if len(l.sql.movements) > 0 {
			list = append(list, l.sql.movements[l.r.IntN(len(l.sql.movements))])
		}
	}
	l.did["follow"]++
	l.apply(n, list...)
}

// resolve looks what is pending up in SQL, as if every lease had passed: those who took it sleep.
func (l *life) resolve(n int) {
	ctx := context.Background()
	list, err := l.h.nodes[n].Overdue(ctx, 0, 1+l.r.IntN(20))
	if err != nil {
		l.fail("overdue: %v", err)
		return
	}
	l.tell(n, list)
}

// tell tells the gate what SQL says of takings.
func (l *life) tell(n int, list []Attempt) {
	var won []Win
	var lost []levee.ReservationID
	for _, a := range list {
		p, ok := l.m.pending(a.ID)
		if !ok || p.Buyer != a.Buyer || p.Quantity != a.Quantity || p.Key != a.Key || p.Checked != a.Checked {
			l.fail("overdue is %+v, the books have %+v (%v)", a, p, ok)
		}
		if s, ok := l.sql.reservations[a.ID]; ok {
			w := s.Win
			if l.r.IntN(4) == 0 {
				w.Seq = 0
			}
			won = append(won, w)
		} else {
			lost = append(lost, a.ID)
		}
	}
	l.armedFor(n, followKeys)
	err := l.h.nodes[n].Resolve(context.Background(), won, lost)
	h := l.met(n)
	l.note("node %d resolves %+v, lost %v: %v (%+v)", n, won, lost, err, h)
	if l.m.warm() && (err != nil) != h.unheard() {
		l.fail("resolve: %v", err)
	}
	var freed int64
	for _, id := range lost {
		freed += l.m.giveBack(id, false, h.lost())
		if _, still := l.m.pending(id); !still && l.out[id] != nil {
			l.out[id].excused = true
			l.did["given up, and its node goes on"]++
		}
	}
	for _, w := range won {
		if w.Seq > 0 && l.m.of(w.Buyer).has(w.Seq) && l.m.place(w.Buyer) != h.lost() {
			back := l.m.giveBack(w.ID, true, -1)
			freed += back
			if back > 0 {
				l.did["pending twice over"]++
			}
		}
	}
	if freed > 0 {
		l.rose()
	}
}

func (l *life) load(s State) {
	l.note("load %+v", s)
	if err := l.h.observer.Load(context.Background(), s); err != nil {
		l.fail("load: %v", err)
		return
	}
	l.m.load(s)
	l.did["load"]++
	l.limit()
	l.rose()
	l.forgot()
}

func (l *life) limit() {
	for _, g := range l.h.nodes {
		g.SetLimit(l.m.perBuyer)
	}
}

func (l *life) comparePlain() {
	n, err := l.h.observer.Numbers(context.Background())
	if err != nil || n.Warm != l.m.warm() {
		l.fail("warm is %v (%v), the books say %v", n.Warm, err, l.m.warm())
	}
}

// compare sets the gate beside the books.
func (l *life) compare() {
	ctx := context.Background()
	n, err := l.h.observer.Numbers(ctx)
	if err != nil {
		l.fail("numbers: %v", err)
		return
	}
	if n.Remaining != l.m.remaining() || n.Unsettled != l.m.unsettled() || int64(n.Buyers) != l.m.buyers() || n.Applied != l.m.applied() ||
		!slices.Equal(n.Missing, l.m.missing()) {
		l.fail("%+v, the books have %d free, %d unsettled, %d buyers, applied %d, missing %v", n, l.m.remaining(), l.m.unsettled(), l.m.buyers(),
			l.m.applied(), l.m.missing())
		return
	}
	for range 3 {
		l.compareBuyer(l.buyer())
	}
	l.seen(n.Epoch, false)
}

func (l *life) compareBuyer(b levee.UserID) {
	held, known, err := l.h.observer.Held(context.Background(), b)
	if m := l.m.of(b); err != nil || held != m.held[b] || known != m.known[b] {
		l.fail("buyer %d holds %d (known %v, %v), the books say %d (%v)", b, held, known, err, m.held[b], m.known[b])
	}
}

// end lets everything come to rest: what is in hands is settled, the ledger is followed, what is overdue is resolved. Then the gate holds
// what SQL holds.
func (l *life) end() {
	ctx := context.Background()
	for n := range l.h.nodes {
		for l.inHand[n] != nil || l.line[n] > 0 {
			l.pick(n)
			l.settle(n, lifeOptions{})
		}
	}
	for seq := l.m.applied() + 1; seq <= int64(len(l.sql.movements)) && l.problem == ""; seq++ {
		l.apply(0, l.sql.movements[seq-1])
	}
	for round := 0; l.m.waiting() > 0 && l.problem == ""; round++ {
		if round == 20 {
			l.fail("%d takings stay pending for ever", l.m.waiting())
			return
		}
		list, err := l.h.observer.Overdue(ctx, 0, 1000)
		if err != nil || len(list) != l.m.waiting() {
			l.fail("overdue: %d takings (%v), the books have %d", len(list), err, l.m.waiting())
			return
		}
		l.tell(0, list)
	}
	l.compare()
	n, err := l.h.observer.Numbers(ctx)
	if err != nil || n.Remaining != l.sql.remaining || n.Unsettled != 0 || n.Applied != int64(len(l.sql.movements)) || len(n.Missing) > 0 {
		l.fail("at the end %+v (%v), SQL has %d after %d movements", n, err, l.sql.remaining, len(l.sql.movements))
	}
	for b := range l.buyers {
		b := levee.UserID(1<<62 + 4096 + b)
		l.compareBuyer(b)
		if held, known, _ := l.h.observer.Held(ctx, b); held != l.sql.held[b] || l.sql.known[b] && !known {
			l.fail("at the end buyer %d holds %d (known %v), SQL says %d (%v)", b, held, known, l.sql.held[b], l.sql.known[b])
		}
	}
	if pending, err := l.h.observer.Pending(ctx); err != nil || len(pending) != 0 {
		l.fail("at the end %d are pending (%v)", len(pending), err)
	}
}
