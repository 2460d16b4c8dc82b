package admission

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee"
)

// machine drives a queue through random lives, and holds every promise against it after each step.
type machine struct {
	q     *queue
	order string
	now   time.Duration
	wall  time.Time

	pool      []levee.UserID
	perSecond int32
	multiple  int32
	unitsFree int64
	open      bool

	tickets map[levee.UserID]machineTicket // what each was shown last
	owner   map[uint32]levee.UserID        // of every number ever given, over all lives
	picked  map[uint32]int                 // numbers whose token was picked up, and in which life
	calls   map[uint32]int                 // of each number, in this life
	life    int
	saved   memory // what is on disk
	budget  float64
	undrawn []lot
	late    map[uint32]bool // numbers restored or returned behind served
}

type machineTicket struct{ number, expires uint32 }

const (
	machineTurn, machineToken, machineKeep, machineGather = 10 * time.Second, 40 * time.Second, 30 * time.Second, 5 * time.Second
)

func (m *machine) terms() queueTerms {
	return queueTerms{turnFor: machineTurn, tokenFor: machineToken, keepFor: machineKeep, gatherFor: machineGather, placesMax: 1000}
}

func lotFor(b levee.UserID) uint64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.BigEndian, int64(b))
	return h.Sum64() * 0x9E3779B97F4A7C15
}

// remember is what the keeper writes: the state and the bits in one.
func (m *machine) remember() {
	q := m.q
	m.saved = memory{order: q.order, horizon: q.horizon, given: q.next, served: q.served, tokens: q.tokens + q.phantoms, latest: q.latest,
		drawn: q.drawn, lots: m.saved.lots, done: map[uint32][]uint64{}}
	for b := 0; b*doneBlock < len(q.done.words)*64; b++ {
		m.saved.done[uint32(b)] = slices.Clone(q.done.words[b*doneBlock/64 : (b+1)*doneBlock/64])
	}
}

// extend moves the horizon, on disk first.
func (m *machine) extend(by uint32) {
	to, _ := m.q.reach(by)
	m.saved.horizon = max(m.saved.horizon, to)
	m.q.horizon = max(m.q.horizon, to)
	m.q.admitLate()
}

func (m *machine) look(b levee.UserID) {
	if p := m.q.of(b); p != nil {
		m.tickets[b] = machineTicket{p.number, 0}
		if p.state == holding || p.state == spent {
			m.tickets[b] = machineTicket{p.number, p.expires}
		}
	}
}

// come is Enter, as the service does it.
func (m *machine) come(t *rapid.T, b levee.UserID, withTicket bool) {
	q := m.q
	q.expire(m.now)
	if withTicket {
		tk := m.tickets[b]
		q.restore(b, 0, tk.number, tk.expires, m.wall, m.now)
	}
	if len(q.lotsDrawn) > 0 && q.of(b) == nil {
		q.restore(b, 0, q.lotNumber(lotFor(b)), 0, m.wall, m.now)
	}
	if p := q.of(b); p != nil {
		if (p.state == holding || p.state == spent) && m.wall.Unix() >= int64(p.expires) {
			q.forget(p)
		} else {
			p.away = false
			if p.state == missed {
				m.late[p.number] = true
			}
			q.back(p)
		}
	}
	if q.of(b) == nil {
		if q.room(0, 0) != fits {
			t.Fatalf("the room is full with %d places", len(q.places))
		}
		q.enter(b, 0)
	}
	if p := q.of(b); p.number != 0 && p.number <= q.served {
		m.late[p.number] = true
	}
	m.take(t, b)
	m.look(b)
}

// take picks a token up where the turn has come.
func (m *machine) take(t *rapid.T, b levee.UserID) {
	p := m.q.of(b)
	if p == nil || p.state != called {
		return
	}
	m.q.pickUp(p, m.now, m.wall.Add(machineToken).Truncate(time.Second))
	if life, again := m.picked[p.number]; again && life == m.life {
		t.Fatalf("the number %d was served twice", p.number)
	}
	m.picked[p.number] = m.life
}

func (m *machine) pass(d time.Duration) {
	m.now += d
	m.wall = m.wall.Add(d)
}

// pace moves the line up and checks that exactly the least numbers went.
func (m *machine) pace(t *rapid.T) {
	q := m.q
	q.expire(m.now)
	q.admitLate()
	var before []uint32
	q.waiting.each(func(n uint32) { before = append(before, n) })
	gathering, since, most := tenths(m.now) < q.gatherTill, m.now-q.paced, slots(m.multiple, m.unitsFree)
	open := m.open && m.unitsFree > 0
	m.budget = min(m.budget+since.Seconds()*float64(m.perSecond), max(1, float64(m.perSecond)/4))
	if !open {
		m.budget = 0
	}
	n := q.pace(m.now, open, m.perSecond, most)
	if m.budget -= float64(n); m.budget < -1e-6 {
		t.Fatalf("%d were admitted, %g more than the pace allows", n, -m.budget)
	}
	if n > 0 && q.held > most {
		t.Fatalf("%d slots are taken after an admission, the cap is %d", q.held, most)
	}
	left := 0
	var went []uint32
	for _, number := range before {
		if q.waiting.has(number) {
			left++
			continue
		}
		if slot := q.slotOf(number); slot != noSlot {
			if left > 0 {
				t.Fatalf("%d went before a lesser number that waits; before %v", number, before)
			}
			went = append(went, number)
			if m.calls[number]++; m.calls[number] > missesMost {
				t.Fatalf("the number %d was called %d times", number, m.calls[number])
			}
			if life, again := m.picked[number]; again && life == m.life {
				t.Fatalf("the number %d was called after its token was picked up", number)
			}
		} else if gathering {
			t.Fatalf("the number %d was passed while its holder was expected", number)
		}
	}
	if len(went) != n {
		t.Fatalf("%d admitted, %v went", n, went)
	}
}

// restart ends the life. A kill leaves what was last written; an orderly stop writes everything.
func (m *machine) restart(kill bool) {
	if !kill {
		if !m.q.drawing {
			m.q.horizon = m.q.next
		}
		m.remember()
	}
	old := m.saved
	old.left = time.Unix(int64(old.latest), 0).Sub(m.wall)
	m.life++
	m.q = newQueue(m.terms(), m.order)
	m.q.recall(old, m.now)
	m.calls, m.late, m.undrawn = map[uint32]int{}, map[uint32]bool{}, nil
	m.budget = 0
	for n, life := range m.picked {
		// What the kill lost of the bits may be called again; what was written may not.
		if m.q.done.has(n) {
			m.picked[n] = m.life
		} else if life < m.life {
			delete(m.picked, n)
		}
	}
	m.extend(4)
	m.remember()
}

func (m *machine) check(t *rapid.T) {
	q := m.q
	var counted [missed + 1]int
	numbers := map[uint32]levee.UserID{}
	ghosts := 0
	q.waiting.each(func(n uint32) {
		if q.slotOf(n) == noSlot {
			ghosts++
		}
	})
	var waiting []uint32
	q.waiting.each(func(n uint32) { waiting = append(waiting, n) })
	for b, slot := range q.places {
		p := q.at(slot)
		if p.buyer != b {
			t.Fatalf("the place of %d says %d", b, p.buyer)
		}
		counted[p.state]++
		if p.state == lotless || p.state == pending {
			if p.number != 0 {
				t.Fatalf("%d has the number %d too early", b, p.number)
			}
			continue
		}
		if p.number == 0 || p.number >= q.next || p.number >= q.horizon {
			t.Fatalf("%d has the number %d of %d, horizon %d", b, p.number, q.next, q.horizon)
		}
		if other, twice := numbers[p.number]; twice {
			t.Fatalf("%d and %d have the number %d", b, other, p.number)
		}
		numbers[p.number] = b
		if other, given := m.owner[p.number]; given && other != b {
			t.Fatalf("the number %d was %d's and is %d's", p.number, other, b)
		}
		m.owner[p.number] = b
		if q.waiting.has(p.number) != (p.state == waits) {
			t.Fatalf("%d in state %d has its bit at %v", b, p.state, q.waiting.has(p.number))
		}
		if q.slotOf(p.number) != slot {
			t.Fatalf("the number %d leads to slot %d, not %d", p.number, q.slotOf(p.number), slot)
		}
		if p.state == waits {
			ahead, _ := slices.BinarySearch(waiting, p.number)
			if q.position(p) != ahead+1 {
				t.Fatalf("position %d, want %d", q.position(p), ahead+1)
			}
			if p.number <= q.served && !m.late[p.number] {
				t.Fatalf("%d waits with the number %d behind served %d and never missed a turn", b, p.number, q.served)
			}
		}
		if q.done.has(p.number) != (p.state == holding || p.state == spent) {
			t.Fatalf("%d in state %d has its number done: %v", b, p.state, q.done.has(p.number))
		}
	}
	if counted[nobody] > 0 || counted[lotless] != q.lots || counted[pending] != len(q.late)-q.lateGone {
		t.Fatalf("counted %v; lots %d, late %d-%d", counted, q.lots, len(q.late), q.lateGone)
	}
	if q.held != int64(counted[called]+counted[holding])+q.phantoms || q.tokens != int64(counted[holding]) || q.phantoms < 0 {
		t.Fatalf("counted %v; held %d, tokens %d, phantoms %d", counted, q.held, q.tokens, q.phantoms)
	}
	if ghosts != q.ghosts || q.waiting.count != counted[waits]+ghosts || q.size() != counted[waits]+ghosts+counted[lotless]+counted[pending] {
		t.Fatalf("counted %v, %d ghosts; said %d ghosts, %d waiting, size %d", counted, ghosts, q.ghosts, q.waiting.count, q.size())
	}
	if int(q.used) != len(q.places)+len(q.unused) {
		t.Fatalf("%d slots, %d places, %d unused", q.used, len(q.places), len(q.unused))
	}
}

func TestQueueModel(t *testing.T) {
	for range 20 { // two thousand lives
		rapid.Check(t, liveLives)
	}
}

func liveLives(t *rapid.T) {
	m := &machine{
		order:     rapid.SampledFrom([]string{OrderArrival, OrderRandom}).Draw(t, "order"),
		perSecond: rapid.SampledFrom([]int32{1, 3, 10, 1000}).Draw(t, "pace"), multiple: rapid.Int32Range(1, 3).Draw(t, "multiple"),
		wall: time.Unix(1_800_000_000, 0), tickets: map[levee.UserID]machineTicket{}, owner: map[uint32]levee.UserID{},
		picked: map[uint32]int{}, calls: map[uint32]int{}, late: map[uint32]bool{}, open: true, unitsFree: 5,
	}
	for i := range rapid.IntRange(3, 40).Draw(t, "people") {
		m.pool = append(m.pool, levee.UserID(100+i))
	}
	m.q = newQueue(m.terms(), m.order)
	m.extend(4)
	m.remember()
	who := rapid.SampledFrom(m.pool)
	t.Repeat(map[string]func(*rapid.T){
		"come":       func(t *rapid.T) { m.come(t, who.Draw(t, "who"), rapid.Bool().Draw(t, "ticket")) },
		"come again": func(t *rapid.T) { m.come(t, who.Draw(t, "who"), true) },
		"all come": func(t *rapid.T) {
			for _, b := range rapid.Permutation(m.pool).Draw(t, "order") {
				m.come(t, b, true)
			}
		},
		"leave": func(t *rapid.T) { m.q.leave(who.Draw(t, "who")) },
		"spend": func(t *rapid.T) { m.q.use(who.Draw(t, "who")) },
		"look":  func(t *rapid.T) { b := who.Draw(t, "who"); m.take(t, b); m.look(b) },
		"pace":  func(t *rapid.T) { m.pass(50 * time.Millisecond); m.pace(t) },
		"pace a while": func(t *rapid.T) {
			for range 40 {
				m.pass(50 * time.Millisecond)
				m.pace(t)
			}
		},
		"wait": func(t *rapid.T) {
			m.pass(time.Duration(rapid.IntRange(1, 45).Draw(t, "seconds")) * time.Second)
			m.pace(t)
		},
		"extend": func(t *rapid.T) { m.extend(uint32(rapid.IntRange(1, 20).Draw(t, "by"))) },
		"save":   func(*rapid.T) { m.remember() },
		"units":  func(t *rapid.T) { m.unitsFree = int64(rapid.IntRange(0, 6).Draw(t, "free")) },
		"pause":  func(*rapid.T) { m.open = !m.open },
		"stop":   func(*rapid.T) { m.restart(false) },
		"kill":   func(*rapid.T) { m.restart(true) },
		"freeze": func(t *rapid.T) {
			if m.q.order != OrderRandom || m.q.drawn >= 0 || m.q.drawing {
				t.Skip()
			}
			m.undrawn = m.q.freeze()
		},
		"finish": func(t *rapid.T) {
			if !m.q.drawing {
				t.Skip()
			}
			for i := range m.undrawn {
				m.undrawn[i].lot = lotFor(m.undrawn[i].buyer)
			}
			sortLots(m.undrawn)
			lots := make([]uint64, len(m.undrawn))
			for i, l := range m.undrawn {
				lots[i] = l.lot
			}
			// On disk before anybody is told.
			horizon := max(m.q.horizon, uint32(len(lots))+5)
			m.saved.lots, m.saved.drawn, m.saved.given, m.saved.horizon = lots, len(lots), uint32(len(lots))+1, horizon
			m.q.horizon = horizon
			m.q.finish(m.undrawn)
		},
		"": m.check,
	})
}

// In the order of the lots, whatever the order of arrival; and those who were there before are found again by their account.
func TestLotsSurviveWithoutTickets(t *testing.T) {
	terms := queueTerms{turnFor: time.Minute, tokenFor: time.Minute, keepFor: time.Minute, gatherFor: time.Minute, placesMax: 1000}
	q := newQueue(terms, OrderRandom)
	for b := range levee.UserID(500) {
		q.enter(b+1, 0)
	}
	list := q.freeze()
	for i := range list {
		list[i].lot = lotFor(list[i].buyer)
	}
	sortLots(list)
	q.horizon = 1000
	q.finish(list)
	told := map[levee.UserID]uint32{}
	var lots []uint64
	for i, l := range list {
		told[l.buyer] = q.of(l.buyer).number
		lots = append(lots, l.lot)
		if told[l.buyer] != uint32(i+1) {
			t.Fatalf("lot %d got the number %d", i, told[l.buyer])
		}
	}
	again := newQueue(terms, OrderRandom)
	again.recall(memory{order: OrderRandom, horizon: 1000, given: 501, drawn: 500, lots: lots}, 0)
	for b := levee.UserID(500); b > 0; b-- {
		if !again.restore(b, 0, again.lotNumber(lotFor(b)), 0, time.Unix(1, 0), 0) || again.of(b).number != told[b] {
			t.Fatalf("%d does not get the number %d back", b, told[b])
		}
	}
	if again.ghosts != 0 || again.size() != 500 {
		t.Fatalf("%d ghosts, %d waiting", again.ghosts, again.size())
	}
}

// The marks by which the keep time of a passed number is known stay few, and are never too kind.
func TestPassesAreBounded(t *testing.T) {
	q := newQueue(queueTerms{turnFor: time.Second, tokenFor: time.Second, keepFor: time.Minute, gatherFor: time.Second, placesMax: 1 << 20}, OrderArrival)
	q.horizon = 1 << 20
	when := map[uint32]time.Duration{}
	for now := time.Duration(0); now < time.Hour; now += 50 * time.Millisecond {
		p := q.enter(levee.UserID(q.next), 0)
		number := p.number
		if q.pace(now, true, 1000, 1<<30); q.served == number {
			when[number] = now
		}
	}
	if len(q.passes) > 3*60 {
		t.Errorf("%d marks are kept for a minute", len(q.passes))
	}
	end := time.Hour
	for number, at := range when {
		ago := q.passedAgo(number, end)
		if ago <= time.Minute && end-at > time.Minute+2*time.Second || ago > end-at {
			t.Fatalf("passed %v ago, said %v", end-at, ago)
		}
	}
}
