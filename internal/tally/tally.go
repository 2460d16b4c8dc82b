// Package tally counts what happens in each sale, second by second, for the page on which its operators watch it.
//
// It owns counters of attempts, outcomes and orders, the latency of purchases and ten minutes of history, all in this process's
// memory and since it started, and adds what the other nodes of the house tell of theirs. It owns no truth: stock and gate are read from
// the sale, the waiting room and the line are asked.
package tally

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
)

// Outcome is how an attempt to buy ended.
type Outcome uint8

// The outcomes.
const (
	Won          Outcome = iota // the order is on disk
	Repeated                    // the first answer to a key, again
	SoldOut                     // no unit was free
	LimitReached                // the buyer may not hold more
	NotOpen                     // before the start or after the end
	Paused                      // paused or stopped
	Admission                   // without a good admission token
	Unavailable                 // not loaded, the line was full, or the disk refused
	Other                       // anything else: a draw, a key under way, a wish that makes no sense
	outcomes
)

// Of tells the outcome of an attempt that was answered with this error; nil is Won.
func Of(err error) Outcome {
	switch levee.CodeOf(err) {
	case "":
		return Won
	case levee.CodeSoldOut:
		return SoldOut
	case levee.CodeLimitReached:
		return LimitReached
	case levee.CodeNotOpen, levee.CodeEnded:
		return NotOpen
	case levee.CodePaused:
		return Paused
	case levee.CodeAdmissionMissing, levee.CodeAdmissionInvalid, levee.CodeAdmissionExpired:
		return Admission
	case levee.CodeUnavailable, levee.CodeNotWarmed, levee.CodeTimeout, levee.CodeInternal:
		return Unavailable
	}
	return Other
}

// padded keeps counters on cache lines of their own, so that a crowd of losers does not slow the winners down.
type padded struct {
	atomic.Int64
	_ [56]byte
}

// Sale holds the counters of one sale. All its methods may be called at any time from any goroutine. The zero value is ready.
type Sale struct {
	fast     [outcomes]padded // attempts that the switch refused, and their outcome
	begun    padded           // attempts that went the whole way
	ended    [outcomes]padded // and how they ended
	latency  latency
	settled  atomic.Int64
	paid     atomic.Int64
	canceled atomic.Int64
}

// Refused counts an attempt that was refused before everything else: one atomic addition, and nothing else, because a million
// losers pass here.
func (t *Sale) Refused(o Outcome) { t.fast[o].Add(1) }

// RefusedFast tells how many attempts were refused before everything else.
func (t *Sale) RefusedFast() (n int64) {
	for i := range t.fast {
		n += t.fast[i].Load()
	}
	return n
}

// Begin counts an attempt that goes the whole way, and returns when it began.
func (t *Sale) Begin() time.Time {
	t.begun.Add(1)
	return time.Now()
}

// Answered notes that an attempt was answered, for the latency.
func (t *Sale) Answered(began time.Time) { t.latency.add(time.Since(began)) }

// End counts an attempt's outcome, once for each Begin. An attempt that was answered with a place in the line ends when that place
// became an order or a refusal.
func (t *Sale) End(o Outcome) { t.ended[o].Add(1) }

// Settled counts orders that were written, Paid those that were paid, Cancelled those that were cancelled before.
func (t *Sale) Settled(orders int) { t.settled.Add(int64(orders)) }

// Paid counts a paid order.
func (t *Sale) Paid() { t.paid.Add(1) }

// Cancelled counts an order that was cancelled before it was paid.
func (t *Sale) Cancelled() { t.canceled.Add(1) }

// Stock is a sale's account by SQL.
type Stock struct{ Offered, Remaining, Reserved, Sold, Withdrawn int64 }

// Gate is the gate's account.
type Gate struct {
	Warm                 bool
	Remaining, Unsettled int64
	Waiting              int64
}

// State is what the sale itself knows at one moment.
type State struct {
	Phase string
	Stock Stock
	Gate  Gate
}

// Queue are the numbers of a waiting room, Line those of a waiting list or a draw.
type (
	Queue struct {
		Waiting, Admitted, Served int64
		PerSecond                 float64
		// Kept tells that this node keeps the room, so that these are its numbers; the others have none.
		Kept bool
	}
	Line struct{ Waiting, Offered int64 }
)

// Source is a sale that is watched.
type Source struct {
	Public string // the sale's sealed id, as it stands in paths and topics
	Tally  *Sale
	// State reads what the sale knows. Queue and Line may be nil.
	State func(ctx context.Context) (State, error)
	Queue func() Queue
	Line  func() Line
	// Awake tells whether numbers are to be kept at this moment: a sale that begins next month has none.
	Awake func(now time.Time) bool
}

// Point is all numbers of a sale at one moment, of all nodes. Counters only rise; they begin when each process first knew the sale, and
// hold what this one has heard of the others.
type Point struct {
	At       time.Time
	State    State
	Attempts int64
	Outcomes [outcomes]int64
	Settled  int64
	Paid     int64
	Canceled int64
	Latency  Latency
	Queue    Queue
	Line     Line
	// AttemptsRate and OrdersRate are per second, over the time since the point before of each node.
	AttemptsRate, OrdersRate float64
}

// Deps is what the room is built from. Node names this process, for people.
type Deps struct {
	Obs  *obs.Obs
	Push *push.Hub
	Node string
	// Spread connects the house's nodes: hear is given what another node published, which may be lost. Nil: there are no others.
	Spread func(hear func([]byte)) (publish func([]byte))
}

// Service is the room.
type Service struct {
	Deps
	number  uint64       // of this process, among the house's
	say     func([]byte) // to the other nodes, or nil
	ignored *prometheus.CounterVec

	mu    sync.Mutex // serialises changes of the map, and guards peers
	sales atomic.Pointer[map[string]*watched]
	peers map[uint64]*peer
}

// historyPoints is how many seconds of history are kept for each sale.
const historyPoints = 600

type watched struct {
	source   Source
	watchers atomic.Int32 // who listens to the live events

	mu      sync.Mutex // guards below
	history []Point    // a ring once it is full
	next    int
	before  moment // this node's counters at its last point
	others  map[uint64]*heard
	past    report // what nodes counted that are no longer told apart
}

// moment is where a node's counters stood.
type moment struct {
	at                       time.Time
	attempts, settled        int64
	attemptsRate, ordersRate float64
}

// New builds the room.
func New(d Deps) *Service {
	s := &Service{Deps: d, number: newNumber(), peers: map[uint64]*peer{}}
	s.sales.Store(&map[string]*watched{})
	s.ignored = obs.Register(d.Obs.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_tally_ignored_total", Help: "What other nodes told of their numbers and could not be used, by why."}, []string{"why"}))
	if d.Spread != nil {
		s.say = d.Spread(s.hear)
	}
	return s
}

// Follow makes a sale known. A sale that is known already is left as it is. It waits for nothing.
func (s *Service) Follow(src Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.sales.Load()
	if old[src.Public] != nil {
		return
	}
	next := make(map[string]*watched, len(old)+1)
	for public, w := range old {
		next[public] = w
	}
	next[src.Public] = &watched{source: src}
	s.sales.Store(&next)
}

// Run takes each sale's numbers once a second until ctx ends, and tells whoever watches and the other nodes.
func (s *Service) Run(ctx context.Context) error {
	log := s.Obs.Named("tally")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if s.say != nil {
				s.say(s.words(true))
			}
			return nil
		case <-tick.C:
			var told []report
			for _, w := range *s.sales.Load() {
				own, err := s.sample(ctx, w)
				if err != nil && ctx.Err() == nil {
					log.Warn("a sale's numbers could not be taken", "sale", w.source.Public, "err", err)
				}
				if own != nil {
					told = append(told, *own)
				}
			}
			if s.say != nil {
				s.spread(told)
			}
		}
	}
}

// sample takes one point into the history of a sale that is awake or watched, or whose waiting room has people while other nodes may be
// asked for it. It returns what this node counts itself.
func (s *Service) sample(ctx context.Context, w *watched) (*report, error) {
	now, watching := s.Obs.Clock().UTC(), w.watchers.Load() > 0
	if !watching && !w.source.Awake(now) {
		if s.say == nil || w.source.Queue == nil {
			return nil, nil
		}
		if q := w.source.Queue(); q.Waiting+q.Admitted == 0 {
			return nil, nil
		}
	}
	w.source.Tally.latency.turn()
	own, p, err := s.point(ctx, w, now)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.before = moment{now, own.attempts, own.settled, own.attemptsRate, own.ordersRate}
	if len(w.history) < historyPoints {
		w.history = append(w.history, p)
	} else {
		w.history[w.next] = p
	}
	w.next = (w.next + 1) % historyPoints
	w.mu.Unlock()
	if watching {
		s.publish(w, p)
	}
	return &own, nil
}

// series returns the history, oldest first.
func (w *watched) series() []Point {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.history) < historyPoints {
		return append([]Point(nil), w.history...)
	}
	return append(append(make([]Point, 0, historyPoints), w.history[w.next:]...), w.history[:w.next]...)
}

// rateOver is the shortest time over which a rate is told: below it, one order more or less would make it jump.
const rateOver = 500 * time.Millisecond

// point takes all numbers of a sale now: those of this node, and with the others'.
func (s *Service) point(ctx context.Context, w *watched, now time.Time) (own report, p Point, err error) {
	state, err := w.source.State(ctx)
	if err != nil {
		return own, p, err
	}
	own = w.own(state, now)
	sum := w.house(own, time.Now())
	state.Gate.Waiting = sum.gateWaiting
	p = Point{At: now, State: state, Attempts: sum.attempts, Outcomes: sum.outcomes, Settled: sum.settled, Paid: sum.paid, Canceled: sum.canceled,
		Latency: latencyOf(&sum.counts, sum.most), Queue: sum.queue, AttemptsRate: sum.attemptsRate, OrdersRate: sum.ordersRate}
	if w.source.Line != nil {
		p.Line = w.source.Line()
	}
	return own, p, nil
}

// own is what this node counts.
func (w *watched) own(state State, now time.Time) report {
	t := w.source.Tally
	r := report{sale: w.source.Public, attempts: t.begun.Load(), settled: t.settled.Load(), paid: t.paid.Load(), canceled: t.canceled.Load(),
		gateWaiting: state.Gate.Waiting}
	for o := range outcomes {
		fast := t.fast[o].Load()
		r.attempts += fast
		r.outcomes[o] = fast + t.ended[o].Load()
	}
	r.counts, r.most = t.latency.window()
	if w.source.Queue != nil {
		r.queue = w.source.Queue()
	}
	w.mu.Lock()
	before := w.before
	w.mu.Unlock()
	if before.at.IsZero() {
		return r
	}
	if d := now.Sub(before.at); d >= rateOver {
		r.attemptsRate = float64(r.attempts-before.attempts) / d.Seconds()
		r.ordersRate = float64(r.settled-before.settled) / d.Seconds()
	} else {
		r.attemptsRate, r.ordersRate = before.attemptsRate, before.ordersRate
	}
	return r
}
