package gate

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/redis"
)

// The bounds of what is sent to Redis in one piece.
const (
	takeWidth   = 128
	takeCalls   = 3
	heldWidth   = 256
	heldCalls   = 2
	waitMost    = 1 << 14 // callers that wait to be sent
	doubtMost   = 1 << 16
	doubtWidth  = 1000
	loadWidth   = 1000
	loadLife    = 30 * time.Second
	scanWidth   = 500
	overdueMost = 64 // pages of one Overdue
)

// shared is one node's end of a gate in Redis, or of one bucket of it: keys under one hash tag, so that scripts are atomic on a cluster, too. What
// it cannot tell Redis in time, others make good from SQL: see docs/decisions/0011-the-gate-follows-the-ledger.md.
type shared struct {
	gate    *Gate
	c       *redis.Client
	scripts scripts
	node    string
	base    string // of the keys
	keys    []string
	limit   *atomic.Int32 // units per buyer by the terms that this node knows; 0: as loaded
	takes   redis.Gatherer[*asked]
	helds   redis.Gatherer[*heldAsk]

	mu     sync.Mutex // guards all below
	doubt  []gone     // may be pending in Redis, and are nobody's: to be given back
	clears bool       // a call that gives them back is under way
	cursor uint64     // where Overdue goes on
}

// The places of a sale's keys.
const (
	headKey = iota
	buyersKey
	pendingKey
	earlyKey
)

// asked is an attempt on its way.
type asked struct {
	Attempt
	taking  *Taking
	verdict Verdict
	epoch   uint64
	done    chan struct{} // holds one
}

var askeds = sync.Pool{New: func() any { return &asked{done: make(chan struct{}, 1)} }}

type heldAsk struct {
	buyer levee.UserID
	units int32
	known bool
	err   error
	done  chan struct{} // holds one
}

var heldAsks = sync.Pool{New: func() any { return &heldAsk{done: make(chan struct{}, 1)} }}

func newShared(g *Gate, c *redis.Client, texts scripts, base, node string, limit *atomic.Int32) *shared {
	s := &shared{gate: g, c: c, scripts: texts, node: node, base: base, limit: limit}
	for _, name := range []string{"head", "buyers", "pending", "early"} {
		s.keys = append(s.keys, s.base+name)
	}
	s.takes = redis.Gatherer[*asked]{Width: takeWidth, Calls: takeCalls, Most: waitMost, Send: s.sendTakes,
		Fail: func(r *asked, _ error) { r.answer(nil, Away, 0) }}
	s.helds = redis.Gatherer[*heldAsk]{Width: heldWidth, Calls: heldCalls, Most: waitMost, Send: s.sendHelds,
		Fail: func(r *heldAsk, err error) { r.err = away(err); r.done <- struct{}{} }}
	return s
}

// name writes an id as a field: 13 characters at most, which Redis keeps in half the room of 19 digits.
func name[T ~int64](id T) string { return strconv.FormatInt(int64(id), 36) }

func (r *asked) answer(t *Taking, v Verdict, epoch uint64) {
	r.taking, r.verdict, r.epoch = t, v, epoch
	r.done <- struct{}{}
}

// take hands an attempt to the next call and waits for its answer, which comes within the client's timeouts: a caller who left
// earlier would leave a taking that nobody settles.
func (s *shared) take(a Attempt) (*Taking, Verdict, uint64) {
	if a.ID <= 0 || a.Buyer <= 0 || a.Quantity < 1 || a.Quantity > maxQuantity {
		return nil, Away, 0
	}
	r := askeds.Get().(*asked)
	r.Attempt = a
	if !s.takes.Join(r) {
		askeds.Put(r)
		return nil, Away, 0
	}
	<-r.done
	t, v, epoch := r.taking, r.verdict, r.epoch
	r.taking = nil
	askeds.Put(r)
	return t, v, epoch
}

// sendTakes decides on a batch of attempts in one call.
func (s *shared) sendTakes(batch []*asked) error {
	epoch, verdicts, err := s.runTake(batch, s.gate.reserve(len(batch)))
	if err != nil {
		s.gate.unreserve(len(batch))
		if maybeSent(err) {
			s.doubted(batch)
		}
		for _, r := range batch {
			r.answer(nil, Away, 0)
		}
		return err
	}
	first := s.gate.line(batch, verdicts)
	s.clear()
	for i, r := range batch {
		r.answer(r.taking, verdicts[i], epoch)
	}
	if first {
		s.gate.ring()
	}
	return nil
}

// reserve tells for how many takings of a batch this node's line has place, so that it never gets longer than its bound.
func (g *Gate) reserve(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	room := g.waitingMax - (len(g.waiting) - g.head) - g.asking
	g.asking += n
	return max(room, 0)
}

func (g *Gate) unreserve(n int) {
	g.mu.Lock()
	g.asking -= n
	g.mu.Unlock()
}

// line puts what was taken into this node's line, where it was reserved, and reports whether it was empty.
func (g *Gate) line(batch []*asked, verdicts []Verdict) (first bool) {
	for i, r := range batch {
		if verdicts[i] == Taken {
			t := takings.Get().(*Taking)
			t.Attempt, t.slot, t.before, t.Result = r.Attempt, noSlot, noSlot, Outcome{}
			r.taking = t
		}
	}
	g.mu.Lock()
	g.asking -= len(batch)
	before := len(g.waiting)
	first = before == g.head
	for _, r := range batch {
		if r.taking != nil {
			g.waiting = append(g.waiting, r.taking)
		}
	}
	first = first && len(g.waiting) > before
	g.mu.Unlock()
	return first
}

var errAnswer = errors.New("the gate's script gave an answer that cannot be read")

// maybeSent reports whether what failed may have been carried out all the same.
func maybeSent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op != "dial"
	}
	var timeout net.Error
	return errors.As(err, &timeout) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, errAnswer)
}

// away is what a call returns that Redis did not answer.
func away(err error) error {
	if levee.CodeOf(err) == levee.CodeUnavailable {
		return err
	}
	return levee.E(levee.CodeUnavailable, "the gate cannot be reached").After(time.Second).Because(err)
}

// doubted keeps the ids of attempts whose answer was lost. Beyond its bound Overdue finds them.
func (s *shared) doubted(batch []*asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch[:min(len(batch), doubtMost-len(s.doubt))] {
		s.doubt = append(s.doubt, gone{id: r.ID})
	}
}

// clear gives back what may have been taken for attempts that were answered Away, as soon as Redis answers again.
func (s *shared) clear() {
	s.mu.Lock()
	n := min(len(s.doubt), doubtWidth)
	if n == 0 || s.clears {
		s.mu.Unlock()
		return
	}
	s.clears = true
	list := slices.Clone(s.doubt[:n])
	s.mu.Unlock()
	err := s.tell(nil, list, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clears = false
	if err == nil || errors.Is(err, errCold) { // what is loaded anew keeps pending ones, but a store that lost its head lost those, too
		s.doubt = append(s.doubt[:0], s.doubt[n:]...)
	}
}

// gone is a taking that took nothing. keep says that SQL has a row of its buyer.
type gone struct {
	id   levee.ReservationID
	keep bool
}

func refused(ids []levee.ReservationID) []gone {
	list := make([]gone, len(ids))
	for i, id := range ids {
		list[i].id = id
	}
	return list
}

// settle tells what became of takings. told says that there is a movement of this number, though none of these may be among its winners.
func (s *shared) settle(batch []*Taking, seq int64, told bool) (freed int64) {
	m := Movement{Seq: seq}
	var lost []gone
	for _, t := range batch {
		switch {
		case t.Result.Refused():
			lost = append(lost, gone{t.ID, t.Result.Existing != 0})
		case seq > 0:
			m.Won = append(m.Won, Win{ID: t.ID, Buyer: t.Buyer, Quantity: t.Quantity})
		}
	}
	var movements []Movement
	if (told || len(m.Won) > 0) && m.check() == nil {
		movements = []Movement{m}
	}
	freed, err := s.told(movements, lost, nil)
	if errors.Is(err, errTooEarly) { // the follower brings it after those that are missing
		freed, err = s.told(nil, lost, nil)
	}
	if err != nil && !errors.Is(err, errCold) {
		s.mu.Lock()
		s.doubt = append(s.doubt, lost[:min(len(lost), doubtMost-len(s.doubt))]...)
		s.mu.Unlock()
	}
	return freed
}

func (s *shared) held(buyer levee.UserID) (units int32, known bool, err error) {
	r := heldAsks.Get().(*heldAsk)
	defer heldAsks.Put(r)
	*r = heldAsk{buyer: buyer, done: r.done}
	if !s.helds.Join(r) {
		return 0, false, away(errFull)
	}
	<-r.done
	return r.units, r.known, r.err
}

var errFull = errors.New("too many wait to ask the gate")
