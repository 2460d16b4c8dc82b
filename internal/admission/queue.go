package admission

import (
	"slices"
	"sort"
	"time"

	"levee"
)

// How numbers work, and why nobody can jump.
//
// Every place has a number; people are admitted in the order of their numbers and in no other. served is the highest number that
// was admitted, so whoever has a lower one and still waits (he missed his turn and came back) is the least of all and next.
//
// After a restart the memory is gone. What makes the old order stand again:
//
//   - Numbers are never given twice. The horizon, up to which numbers may be given, is written before they are (as platform/id
//     does); the next life begins above it, so newcomers stand behind everybody who was there.
//   - A number comes back only with the ticket that was signed for this sale and this account, or by the account's lot.
//   - served and the numbers that are done (had their turn, left, forfeited) are written behind, at most a second late. served too
//     low only means that a few turns are called again; a number that is done is told by its bit, whatever served says, so a used
//     ticket gives no second turn: its holder queues at the end. What a kill can lose is the last second of bits: so many may have
//     a second turn, nobody loses the first.
//   - People come back in any order, since each asks when his page next polls. If turns were called meanwhile, those who poll
//     first would overtake. So the numbers that were given and are not done are expected ("ghosts"): each holds up the line
//     behind it until its holder is back or the time to gather (longer than the longest poll) is over. Then those who are not
//     back are passed. A passed number is worth what a missed turn is: who brings it within the keep time is next.
//   - Tokens that are out are counted over the restart (phantoms) until the last of them has expired, so the cap holds.
//
// With lots, no number is told before the lots are on disk in their order: a place that was drawn is found again by the account
// alone.
//
// The queue is plain state: no clock, no lock, no disk. Times are readings of a monotonic clock from some start.
type queue struct {
	terms queueTerms

	places map[levee.UserID]uint32 // to slot
	slots  [][]place               // in pages, so that growing copies nothing
	unused []uint32                // slots
	used   uint32                  // slots ever used

	byNumber []uint32 // slot+1 of each number; 0: nobody, or not back yet
	waiting  index    // numbers that wait, ghosts among them
	ghosts   int
	done     ledger
	next     uint32 // the next number
	horizon  uint32 // the first number that may not be given yet
	served   uint32
	passes   []pass // when served passed what, for the keep time

	order      string
	lots       int      // places that wait for their lot
	late       []uint32 // slots that wait for a number, by arrival: the lots are being drawn, or the horizon has not moved yet
	lateGone   int      // of late, those who left
	drawing    bool
	drawn      int      // how many had lots; -1: not drawn
	lotsDrawn  []uint64 // by number, after a restart only
	gatherTill ds

	held      int64 // slots: turns called, tokens unspent, phantoms
	tokens    int64 // tokens unspent
	phantoms  int64
	latest    uint32 // the latest expiry of a token, unix seconds
	phantomTo ds
	deadlines deadlines
	addresses map[uint64]int32

	credit float64
	paced  time.Duration // when credit was last added to
	rate   meter

	admitted, missed, left, restored, expired, spentN int64 // since the start of this life
}

type queueTerms struct {
	turnFor, tokenFor, keepFor, gatherFor time.Duration
	placesMax                             int
}

// ds is a monotonic time in tenths of a second, rounded up, which does for deadlines.
type ds uint32

func deadline(now, after time.Duration) ds {
	return ds((now + after + 99*time.Millisecond) / (100 * time.Millisecond))
}

func tenths(now time.Duration) ds { return ds(now / (100 * time.Millisecond)) }

func (d ds) duration() time.Duration { return time.Duration(d) * 100 * time.Millisecond }

// state of a place.
type state uint8

const (
	nobody  state = iota
	lotless       // waits for the lots to be drawn
	pending       // waits for a number
	waits         // has a number and waits
	called        // his turn: a token is ready, until
	holding       // picked it up; it is unspent until
	spent         // the token was used; it is shown again until it expires
	missed        // did not pick it up; may come back until
)

// place is one account's. 32 bytes, of which there may be millions.
type place struct {
	buyer   levee.UserID
	address uint64 // hash of the visitor's address, 0 where it is not counted
	number  uint32
	until   ds
	expires uint32 // of the token, unix seconds
	state   state
	misses  uint8
	away    bool // left with a token out: not shown, but its slot is held
}

// missesMost is how many turns one place may miss before it is forfeited: else a robot could let turns lapse for ever, each of
// them a slot that nobody else has for the time of grace.
const missesMost = 3

const slotPage = 4096

// pass tells that at some time served stood at a number.
type pass struct {
	served uint32
	at     ds
}

func newQueue(t queueTerms, order string) *queue {
	return &queue{terms: t, order: order, places: map[levee.UserID]uint32{}, addresses: map[uint64]int32{}, next: 1, horizon: 1, drawn: -1}
}

func (q *queue) at(slot uint32) *place { return &q.slots[slot/slotPage][slot%slotPage] }

// of returns the buyer's place, or nil.
func (q *queue) of(buyer levee.UserID) *place {
	if slot, ok := q.places[buyer]; ok {
		return q.at(slot)
	}
	return nil
}

// size is how many wait, those who are expected back among them.
func (q *queue) size() int { return q.waiting.count + q.lots + len(q.late) - q.lateGone }

// position is how many people are ahead, and one; 0 for a place that has no number or does not wait.
func (q *queue) position(p *place) int {
	if p.state != waits {
		return 0
	}
	return q.waiting.before(p.number) + 1
}

// Why somebody gets no place.
type refusal uint8

const (
	fits refusal = iota
	fullRoom
	fullAddress
)

// room tells whether another place may be taken from an address.
func (q *queue) room(address uint64, perAddress int32) refusal {
	switch {
	case len(q.places) >= q.terms.placesMax || int(q.next) >= 16*q.terms.placesMax+1<<20:
		return fullRoom // of places; or of numbers, by people who come and leave without end
	case address != 0 && perAddress > 0 && q.addresses[address] >= perAddress:
		return fullAddress
	}
	return fits
}

// newSlot takes a slot for a buyer who has no place.
func (q *queue) newSlot(buyer levee.UserID, address uint64) uint32 {
	var slot uint32
	if n := len(q.unused); n > 0 {
		slot, q.unused = q.unused[n-1], q.unused[:n-1]
	} else {
		slot = q.used
		q.used++
		if int(slot/slotPage) == len(q.slots) {
			size := slotPage
			if slot == 0 {
				size = 64 // most rooms are small
			}
			q.slots = append(q.slots, make([]place, 0, size))
		}
		page := &q.slots[slot/slotPage]
		*page = append(*page, place{})
	}
	*q.at(slot) = place{buyer: buyer, address: address}
	q.places[buyer] = slot
	if address != 0 {
		q.addresses[address]++
	}
	return slot
}

// drop removes a place and marks its number as done.
func (q *queue) drop(slot uint32) {
	p := q.at(slot)
	q.unnumber(p)
	delete(q.places, p.buyer)
	if p.address != 0 {
		if q.addresses[p.address]--; q.addresses[p.address] <= 0 {
			delete(q.addresses, p.address)
		}
	}
	*p = place{}
	q.unused = append(q.unused, slot)
}

// unnumber takes a place's number away for good.
func (q *queue) unnumber(p *place) {
	if p.number != 0 {
		q.waiting.remove(p.number)
		q.byNumber[p.number] = 0
		q.done.add(p.number)
		p.number = 0
	}
}

func (q *queue) number(slot, n uint32) {
	for len(q.byNumber) <= int(n) {
		q.byNumber = append(q.byNumber, 0)
	}
	q.byNumber[n] = slot + 1
	p := q.at(slot)
	p.number, p.state = n, waits
	q.waiting.add(n)
}

// enter gives a buyer who has no place one at the end. The caller has asked room.
func (q *queue) enter(buyer levee.UserID, address uint64) *place {
	slot := q.newSlot(buyer, address)
	p := q.at(slot)
	switch {
	case q.order == OrderRandom && q.drawn < 0 && !q.drawing:
		p.state = lotless
		q.lots++
	case q.drawing || len(q.late) > 0 || q.next >= q.horizon:
		p.state = pending
		q.late = append(q.late, slot)
	default:
		q.number(slot, q.next)
		q.next++
	}
	return p
}

// admitLate gives numbers to those who wait for one, as far as the horizon reaches.
func (q *queue) admitLate() {
	if q.drawing {
		return
	}
	for len(q.late) > 0 && q.next < q.horizon {
		slot := q.late[0]
		q.late = q.late[1:]
		if slot == noSlot {
			q.lateGone--
			continue
		}
		q.number(slot, q.next)
		q.next++
	}
	if len(q.late) == 0 {
		q.late = nil
	}
}

const noSlot = ^uint32(0)

// leave gives a place up. Who holds a token keeps his slot until it is spent or expires: else he could come again and again and
// have more tokens than the cap allows.
func (q *queue) leave(buyer levee.UserID) bool {
	slot, ok := q.places[buyer]
	if !ok {
		return false
	}
	p := q.at(slot)
	if p.away {
		return false
	}
	q.left++
	switch p.state {
	case holding, spent:
		p.away = true
		return true
	case called:
		q.held--
	case lotless:
		q.lots--
	case pending:
		q.late[slices.Index(q.late, slot)] = noSlot
		q.lateGone++
	}
	q.drop(slot)
	return true
}

// back makes a missed place wait again: its number is the least of all, so it is next.
func (q *queue) back(p *place) {
	if p.state == missed {
		p.state = waits
		q.waiting.add(p.number)
	}
}

// pickUp gives the token whose turn has come; expires is its end by the wall clock.
func (q *queue) pickUp(p *place, now time.Duration, expires time.Time) {
	if p.state != called {
		return
	}
	p.state, p.expires = holding, uint32(expires.Unix())
	p.until = deadline(now, q.terms.tokenFor)
	q.latest = max(q.latest, p.expires)
	q.tokens++
	q.done.add(p.number)
	q.deadlines.push(p.until, q.places[p.buyer])
}

// use tells that a buyer's token is spent and frees his slot.
func (q *queue) use(buyer levee.UserID) {
	p := q.of(buyer)
	switch {
	case p == nil:
		if q.phantoms > 0 { // a token of the life before
			q.phantoms--
			q.held--
		}
	case p.state == holding:
		p.state = spent
		q.held--
		q.tokens--
		q.spentN++
	case p.state == called:
		q.held--
		q.drop(q.places[buyer])
	}
}

// expire ends what has run out by now.
func (q *queue) expire(now time.Duration) {
	t := tenths(now)
	for len(q.deadlines) > 0 && q.deadlines[0].at <= t {
		d := q.deadlines.pop()
		p := q.at(d.slot)
		if p.until != d.at { // the place has moved on since
			continue
		}
		switch p.state {
		case called:
			q.held--
			q.missed++
			if p.misses++; p.misses >= missesMost {
				q.drop(d.slot)
				continue
			}
			p.state, p.until = missed, deadline(now, q.terms.keepFor)
			q.deadlines.push(p.until, d.slot)
		case holding:
			q.held--
			q.tokens--
			q.expired++
			q.drop(d.slot)
		case spent, missed:
			q.drop(d.slot)
		}
	}
	if q.phantoms > 0 && t >= q.phantomTo {
		q.held -= q.phantoms
		q.phantoms = 0
	}
	if n := len(q.passes); n > 1 {
		keep := sort.Search(n-1, func(i int) bool { return q.passes[i+1].at+ds(q.terms.keepFor/(100*time.Millisecond)) >= t })
		if keep > n/2 {
			q.passes = slices.Clone(q.passes[keep:])
		}
	}
}

// forget ends a token that the wall clock says is over.
func (q *queue) forget(p *place) {
	if p.state == holding {
		q.held--
		q.tokens--
		q.expired++
	}
	q.drop(q.places[p.buyer])
}

// pace admits those whose turn has come since the last call: at most perSecond, spread evenly, and no more than most slots out.
// With open false it only keeps time. It returns how many were admitted.
func (q *queue) pace(now time.Duration, open bool, perSecond int32, most int64) (n int) {
	q.expire(now)
	q.admitLate()
	since := now - q.paced
	q.paced = now
	if !open {
		q.credit = 0
		q.rate.rest(now)
		return 0
	}
	// What was not used is kept for a quarter of a second, so that a late tick costs no pace and a lull makes no burst.
	q.credit = min(q.credit+since.Seconds()*float64(perSecond), max(1, float64(perSecond)/4))
	for q.credit >= 1 && q.held < most {
		number, ok := q.waiting.first()
		if !ok {
			break
		}
		slot := q.slotOf(number)
		if slot == noSlot {
			if tenths(now) < q.gatherTill {
				break
			}
			q.passGhosts()
			continue
		}
		q.credit--
		q.call(slot, now)
		n++
	}
	if first, ok := q.waiting.first(); ok && q.ghosts == 0 && first > q.served+1 {
		q.pass(first-1, now) // over those who left
	}
	q.rate.add(now, n)
	if q.waiting.count == 0 || q.gathering(now) {
		q.rate.rest(now)
	}
	return n
}

func (q *queue) slotOf(number uint32) uint32 {
	if int(number) < len(q.byNumber) && q.byNumber[number] != 0 {
		return q.byNumber[number] - 1
	}
	return noSlot
}

func (q *queue) call(slot uint32, now time.Duration) {
	p := q.at(slot)
	q.waiting.remove(p.number)
	p.state, p.until = called, deadline(now, q.terms.turnFor)
	q.deadlines.push(p.until, slot)
	q.held++
	q.admitted++
	q.pass(p.number, now)
}

// pass moves served up to a number.
func (q *queue) pass(number uint32, now time.Duration) {
	if number <= q.served {
		return
	}
	q.served = number
	t := tenths(now)
	if n := len(q.passes); n > 0 && t < q.passes[n-1].at+10 {
		q.passes[n-1].served = number // a second's worth in one
		return
	}
	q.passes = append(q.passes, pass{number, t})
}
