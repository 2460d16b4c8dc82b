package admission

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"levee"
	"levee/internal/platform/limit"
)

// Status of a place as its holder sees it.
type Status string

// The statuses. Admitted: Token is there. Missed: his turn came and he did not ask for it in time; Enter puts him at the head of the
// line until TurnUntil.
const (
	Waiting  Status = "waiting"
	Admitted Status = "admitted"
	Missed   Status = "missed"
)

// Place is one account's place in the waiting room of a sale, or the token it got.
type Place struct {
	Status Status
	// Ticket restores the place after a restart. It is signed, and good for this account alone.
	Ticket string
	// Number is the place's number, 0 before it has one.
	Number uint32
	// Position is how many people are ahead, and one; 0 while there is no number and when he does not wait.
	Position int
	// Waiting is how many wait in all.
	Waiting int
	// PerSecond is the measured pace.
	PerSecond float64
	// Low and High bound the wait as it looks now; High 0: nothing can be said, as nobody is being admitted.
	Low, High time.Duration
	OpensAt   time.Time
	Token     string
	ExpiresAt time.Time
	// TurnUntil is until when a missed turn is kept.
	TurnUntil time.Time
	// PollAfter is when to ask again.
	PollAfter time.Duration
}

// Visit is what somebody brings who wants to be admitted.
type Visit struct {
	// Ticket of a place he had, or "".
	Ticket string
	// Challenge and Answer prove that a brake's challenge was solved.
	Challenge, Answer string
	// Address he comes from.
	Address netip.Addr
}

// Why somebody got no place: indexes of room.refused.
const (
	refusedChallenge = iota
	refusedAnswer
	refusedAddress
	refusedRate
	refusedFull
	refusedKinds
)

var refusedNames = [refusedKinds]string{"challenge_required", "challenge_failed", "per_address", "rate", "full"}

func (s *Service) refuse(r *room, why int) {
	r.refused[why].Add(1)
	s.metrics.refused[why].Inc()
}

// visit finds the room and checks what holds for everybody. It fails with CodeNotFound, CodeEnded, CodeDrawOnly or CodeForbidden.
func (s *Service) visit(public string, who levee.Actor) (*room, *Window, error) {
	r := (*s.rooms.Load())[public]
	if r == nil {
		return nil, nil, errNoSale
	}
	w := r.window.Load()
	switch {
	case !who.MayJoin(w.Rehearsal):
		return nil, nil, errRehearsal
	case !s.Obs.Clock().Before(w.Ends):
		return nil, nil, errEnded
	case w.Draw:
		return nil, nil, errDraw
	}
	return r, w, nil
}

var (
	errNoSale    = levee.E(levee.CodeNotFound, "there is no such sale")
	errNoPlace   = levee.E(levee.CodeNotFound, "there is no place in line for this account; ask for one, with the ticket if there is one")
	errEnded     = levee.E(levee.CodeEnded, "the sale is over")
	errDraw      = levee.E(levee.CodeDrawOnly, "the units of this sale are given by a draw; enter it instead")
	errRehearsal = levee.E(levee.CodeForbidden, "a rehearsal admits invented buyers and operators only, and a sale real accounts only")
	errLoading   = levee.E(levee.CodeUnavailable, "the waiting room is being loaded; ask again in a second").After(time.Second)
	errFull      = levee.E(levee.CodeUnavailable, "the waiting room is full; ask again later").After(30 * time.Second)
	errAddress   = levee.E(levee.CodeTooManyRequests, "too many places are held from this address").After(30 * time.Second)
)

// Enter asks for a token, or for a place in line where a waiting room stands before the sale. It may be repeated: an account has
// one place and, while it lives, one token. It picks up a token whose turn has come, brings a missed place to the head of the
// line, and gives the place back that a ticket proves.
//
// CodeNotFound: no such sale; CodeEnded; CodeDrawOnly; CodeForbidden: a rehearsal and a real buyer, or the other way round;
// CodeChallengeRequired (Data has one) and CodeChallengeFailed: the sale's brake; CodeTooManyRequests: too many requests or places
// from the address; CodeUnavailable: the room is full or being loaded.
func (s *Service) Enter(ctx context.Context, public string, who levee.Actor, v Visit) (Place, error) {
	r, w, err := s.visit(public, who)
	if err != nil {
		return Place{}, err
	}
	if w.Rehearsal {
		v.Address = netip.Addr{} // a rehearsal's crowd comes from one machine
	}
	if err := s.rate(ctx, r, v.Address); err != nil {
		return Place{}, err
	}
	wall := s.Obs.Clock()
	if !w.Policy.Room {
		if err := s.brake(ctx, r, w, who.User, v); err != nil {
			return Place{}, err
		}
		p := Place{Status: Admitted, OpensAt: w.Opens, ExpiresAt: s.expiry(wall)}
		p.Token = s.Issue(w.Sale, who.User, p.ExpiresAt)
		s.metrics.tokensGiven.Inc()
		return p, nil
	}
	address := s.addressOf(w, v.Address)
	number, expires := s.readTicket(v.Ticket, w.Sale, who.User)

	p, found, err := s.known(r, w, who.User, address, number, expires, wall)
	if found || err != nil {
		return p, err
	}
	if err := s.brake(ctx, r, w, who.User, v); err != nil {
		return Place{}, err
	}
	return s.newcomer(r, w, who.User, address, wall)
}

// known serves an account that has a place, or proves one. found is false for a newcomer for whom there is room.
func (s *Service) known(r *room, w *Window, buyer levee.UserID, address uint64, number, expires uint32, wall time.Time) (_ Place, found bool, _ error) {
	r.mu.Lock()
	q := s.queue(r)
	if q == nil {
		r.mu.Unlock()
		return Place{}, false, errLoading
	}
	now := s.now()
	q.expire(now)
	q.restore(buyer, address, number, expires, wall, now)
	if len(q.lotsDrawn) > 0 && q.of(buyer) == nil {
		q.restore(buyer, address, q.lotNumber(s.lotOf(w.Sale, buyer)), 0, wall, now)
	}
	p := s.current(q, buyer, wall)
	if p == nil {
		why := q.room(address, w.Policy.PerAddress)
		r.mu.Unlock()
		return Place{}, false, s.noRoom(r, why)
	}
	p.away = false
	q.back(p)
	return s.settle(r, w, p, wall), true, nil
}

// noRoom counts and words why no further place is given; nil where one fits.
func (s *Service) noRoom(r *room, why refusal) error {
	switch why {
	case fullRoom:
		s.refuse(r, refusedFull)
		return errFull
	case fullAddress:
		s.refuse(r, refusedAddress)
		return errAddress
	}
	return nil
}

// newcomer gives a place at the end. The room's lock is not held.
func (s *Service) newcomer(r *room, w *Window, buyer levee.UserID, address uint64, wall time.Time) (Place, error) {
	r.mu.Lock()
	q := s.queue(r)
	if q == nil {
		r.mu.Unlock()
		return Place{}, errLoading
	}
	s.openDraw(r, w, wall)
	p := q.of(buyer)
	if p == nil {
		if why := q.room(address, w.Policy.PerAddress); why != fits {
			r.mu.Unlock()
			return Place{}, s.noRoom(r, why)
		}
		p = q.enter(buyer, address)
		s.metrics.entered.Inc()
		if _, move := q.reach(r.ahead); move {
			wake(s.wakeKeeper)
		}
	}
	return s.settle(r, w, p, wall), nil
}

// settle admits at once whom nothing keeps, picks up what is ready, and shows the place. It unlocks the room.
func (s *Service) settle(r *room, w *Window, p *place, wall time.Time) Place {
	q, buyer := r.q, p.buyer
	if p.state == waits && q.position(p) == 1 && w.admitting(wall) {
		r.mu.Unlock() // Free is another room's
		free := int64(math.MaxInt64)
		if w.Free != nil {
			free = w.Free()
		}
		r.mu.Lock()
		if q == r.q {
			s.step(r, w, wall, free)
		}
		if p = q.of(buyer); p == nil {
			r.mu.Unlock()
			return Place{Status: Missed, OpensAt: w.Opens, PollAfter: pollNear} // he left in this very moment
		}
	}
	s.pickUp(q, p, wall)
	out, number, expires := s.show(r, w, p, wall)
	r.mu.Unlock()
	s.sign(&out, w, buyer, number, expires)
	wake(s.wakePacer)
	if s.resting.Load() {
		wake(s.wakeKeeper)
	}
	return out
}

// Mine shows an account's place. If its turn has come, the token is picked up by that: a page that asks is there. CodeNotFound: it
// has none (or the process was restarted: Enter with the ticket brings it back).
func (s *Service) Mine(public string, who levee.Actor) (Place, error) {
	r, w, err := s.visit(public, who)
	if err != nil {
		return Place{}, err
	}
	if !w.Policy.Room {
		return Place{}, errNoPlace
	}
	wall := s.Obs.Clock()
	r.mu.Lock()
	if s.queue(r) == nil {
		r.mu.Unlock()
		return Place{}, errLoading
	}
	p := s.current(r.q, who.User, wall)
	if p == nil || p.away {
		r.mu.Unlock()
		return Place{}, errNoPlace
	}
	s.pickUp(r.q, p, wall)
	out, number, expires := s.show(r, w, p, wall)
	r.mu.Unlock()
	s.sign(&out, w, who.User, number, expires)
	return out, nil
}

// Leave gives an account's place up; a token that was picked up stays good, and its slot taken, until it runs out. CodeNotFound:
// it has none.
func (s *Service) Leave(public string, who levee.Actor) error {
	r, w, err := s.visit(public, who)
	if err != nil {
		return err
	}
	if !w.Policy.Room {
		return errNoPlace
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.queue(r) == nil:
		return errLoading
	case !r.q.leave(who.User):
		return errNoPlace
	}
	return nil
}

// current returns the buyer's place unless the wall clock says that its token is over.
func (s *Service) current(q *queue, buyer levee.UserID, wall time.Time) *place {
	p := q.of(buyer)
	if p != nil && (p.state == holding || p.state == spent) && wall.Unix() >= int64(p.expires) {
		q.forget(p)
		return nil
	}
	return p
}

func (s *Service) pickUp(q *queue, p *place, wall time.Time) {
	if p.state == called {
		q.pickUp(p, s.now(), s.expiry(wall))
		s.metrics.tokensGiven.Inc()
	}
}

// expiry of a token that is picked up now, in whole seconds.
func (s *Service) expiry(wall time.Time) time.Time {
	return wall.Add(s.Config.AdmissionFor).UTC().Truncate(time.Second)
}

// rate charges the address; the route has charged the account.
func (s *Service) rate(ctx context.Context, r *room, from netip.Addr) error {
	if s.Limits == nil || !from.IsValid() {
		return nil
	}
	err := s.Limits.Allow(ctx, limit.AdmissionAddress, limit.AddressKey(from)).Err()
	if err != nil {
		s.refuse(r, refusedRate)
	}
	return err
}

// addressOf is what a place remembers of where it was taken from: nothing where nothing is counted.
func (s *Service) addressOf(w *Window, from netip.Addr) uint64 {
	if w.Policy.PerAddress == 0 || !from.IsValid() {
		return 0
	}
	return max(maphash.String(s.hashing, limit.AddressKey(from)), 1)
}

// show reads a place under the room's lock; the signatures are made after it.
func (s *Service) show(r *room, w *Window, p *place, wall time.Time) (out Place, number, expires uint32) {
	q, now := r.q, s.now()
	out = Place{Status: Waiting, Number: p.number, Waiting: q.size(), OpensAt: w.Opens}
	out.PerSecond = q.rate.over(now, 10)
	switch p.state {
	case waits, lotless, pending:
		out.Position = q.position(p)
		out.Low, out.High = s.estimate(r, w, out.Position, wall, now)
		out.PollAfter = pollAfter(out.Position, out.Waiting, w.Opens.Sub(wall), out.High)
	case holding, spent:
		out.Status, out.ExpiresAt = Admitted, time.Unix(int64(p.expires), 0).UTC()
		expires = p.expires
	case missed:
		out.Status, out.TurnUntil = Missed, wall.Add(p.until.duration()-now).UTC().Truncate(time.Millisecond)
		out.PollAfter = pollNear
	}
	return out, p.number, expires
}

func (s *Service) sign(out *Place, w *Window, buyer levee.UserID, number, expires uint32) {
	out.Ticket = s.ticket(w.Sale, buyer, number, expires)
	if expires != 0 {
		out.Token = s.Issue(w.Sale, buyer, out.ExpiresAt)
	}
}

// A ticket is sale (8 bytes), buyer (8), number (4), expiry of the token in unix seconds (4; 0 without a token) and the MAC.
const ticketBody = 24

func (s *Service) ticket(sale levee.SaleID, buyer levee.UserID, number, expires uint32) string {
	var raw [ticketBody]byte
	binary.BigEndian.PutUint64(raw[0:], uint64(sale))
	binary.BigEndian.PutUint64(raw[8:], uint64(buyer))
	binary.BigEndian.PutUint32(raw[16:], number)
	binary.BigEndian.PutUint32(raw[20:], expires)
	return s.tickets.seal(raw[:])
}

// readTicket returns what a ticket proves; zeros for one that is not good, which is no error: it proves nothing.
func (s *Service) readTicket(text string, sale levee.SaleID, buyer levee.UserID) (number, expires uint32) {
	var body [ticketBody]byte
	if !s.tickets.open(text, body[:]) || binary.BigEndian.Uint64(body[0:]) != uint64(sale) || binary.BigEndian.Uint64(body[8:]) != uint64(buyer) {
		return 0, 0
	}
	return binary.BigEndian.Uint32(body[16:]), binary.BigEndian.Uint32(body[20:])
}

// lotOf draws the account's lot in a sale: a pseudo-random function under a secret key, so nobody can choose an account for its
// lot, and the same lot is found again after a restart.
func (s *Service) lotOf(sale levee.SaleID, buyer levee.UserID) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[0:], uint64(sale))
	binary.BigEndian.PutUint64(b[8:], uint64(buyer))
	s.lots.Encrypt(b[:], b[:])
	return binary.BigEndian.Uint64(b[:])
}

// estimate bounds the wait of a position by the paces of the last 10 s and of the last minute: what was slow for a while may be
// again. Zeros: nobody is being admitted.
func (s *Service) estimate(r *room, w *Window, position int, wall time.Time, now time.Duration) (low, high time.Duration) {
	if position == 0 || !w.admitting(wall) || r.free <= 0 || r.q.gathering(now) {
		return 0, 0
	}
	short, of := r.q.rate.worth(now, 10)
	long, _ := r.q.rate.worth(now, 60)
	fast, slow := max(short, long), min(short, long)
	if of < 3 { // it has only begun
		fast, slow = float64(w.Policy.PerSecond), float64(w.Policy.PerSecond)
	}
	if slow <= 0 {
		return 0, 0
	}
	round := func(sec float64) time.Duration {
		if sec > 60 {
			return time.Duration(sec/5) * 5 * time.Second
		}
		return time.Duration(sec) * time.Second
	}
	low = round(float64(position) / fast * 0.9)
	high = round(math.Min(float64(position)/slow*1.15, 1e8)) + 5*time.Second
	return low, high
}

// Times between two polls.
const (
	pollNear = 3 * time.Second
	pollFar  = 30 * time.Second
	// pollSlope is at which position the time has doubled. At 1,500 a line of 50,000 asks some 2,400 times a second before the
	// jitter, whatever its pace: 1,500/3·ln 10 by the 13,500 in front, and 36,500/30 by the rest.
	pollSlope = 1500
)

// pollAfter chooses when to ask again: soon near the front, rarely far back, and not all at once.
func pollAfter(position, waiting int, toOpening, high time.Duration) time.Duration {
	d := time.Duration(float64(pollNear) * (1 + float64(position)/pollSlope))
	d = max(d, high/10) // a slow line: nothing will have changed
	if toOpening > 0 || position == 0 {
		// Before the opening nothing moves, and then everybody wants to know at once: they are spread by how many they are.
		spread := min(time.Duration(float64(waiting)/pollSlope*float64(time.Second)), pollFar)
		d = max(toOpening, 0) + time.Duration(rand.Float64()*float64(spread))
	}
	d = min(max(d, pollNear), pollFar)
	return time.Duration(float64(d) * (0.8 + 0.2*rand.Float64())).Round(time.Millisecond)
}
