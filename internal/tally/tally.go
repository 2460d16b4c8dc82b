// Package tally counts what happens in each sale, second by second, for the page on which its operators watch it.
//
// It owns counters of attempts, outcomes and orders, the latency of purchases and ten minutes of history, all in this process's
// memory and since it started. It owns no truth: stock and gate are read from the sale, the waiting room and the line are asked.
package tally

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

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

// Point is all numbers of a sale at one moment. Counters only rise; they begin when this process first knew the sale.
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
	// AttemptsRate and OrdersRate are per second, over the time since the point before.
	AttemptsRate, OrdersRate float64
}

// Deps is what the room is built from. Node names this process.
type Deps struct {
	Obs   *obs.Obs
	Push  *push.Hub
	Node  string
	Nodes int
}

// Service is the room.
type Service struct {
	Deps
	mu    sync.Mutex // serialises changes of the map
	sales atomic.Pointer[map[string]*watched]
}

// historyPoints is how many seconds of history are kept for each sale.
const historyPoints = 600

type watched struct {
	source   Source
	watchers atomic.Int32 // who listens to the live events

	mu      sync.Mutex // guards below
	history []Point    // a ring once it is full
	next    int
}

// New builds the room.
func New(d Deps) *Service {
	s := &Service{Deps: d}
	s.sales.Store(&map[string]*watched{})
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

// Run takes each sale's numbers once a second until ctx ends, and tells whoever watches.
func (s *Service) Run(ctx context.Context) error {
	log := s.Obs.Named("tally")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, w := range *s.sales.Load() {
				if err := s.sample(ctx, w); err != nil && ctx.Err() == nil {
					log.Warn("a sale's numbers could not be taken", "sale", w.source.Public, "err", err)
				}
			}
		}
	}
}

// sample takes one point into the history of a sale that is awake or watched.
func (s *Service) sample(ctx context.Context, w *watched) error {
	now, watching := s.Obs.Clock().UTC(), w.watchers.Load() > 0
	if !watching && !w.source.Awake(now) {
		return nil
	}
	w.source.Tally.latency.turn()
	p, err := s.point(ctx, w, now)
	if err != nil {
		return err
	}
	w.mu.Lock()
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
	return nil
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

// last returns the newest point of the history.
func (w *watched) last() (Point, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.history) == 0 {
		return Point{}, false
	}
	return w.history[(w.next+len(w.history)-1)%len(w.history)], true
}

// rateOver is the shortest time over which a rate is told: below it, one order more or less would make it jump.
const rateOver = 500 * time.Millisecond

// point takes all numbers of a sale now.
func (s *Service) point(ctx context.Context, w *watched, now time.Time) (Point, error) {
	state, err := w.source.State(ctx)
	if err != nil {
		return Point{}, err
	}
	t := w.source.Tally
	p := Point{At: now, State: state, Attempts: t.begun.Load(), Settled: t.settled.Load(), Paid: t.paid.Load(), Canceled: t.canceled.Load(),
		Latency: t.latency.read()}
	for o := range outcomes {
		fast := t.fast[o].Load()
		p.Attempts += fast
		p.Outcomes[o] = fast + t.ended[o].Load()
	}
	if w.source.Queue != nil {
		p.Queue = w.source.Queue()
	}
	if w.source.Line != nil {
		p.Line = w.source.Line()
	}
	if before, ok := w.last(); ok {
		if d := now.Sub(before.At); d >= rateOver {
			p.AttemptsRate = float64(p.Attempts-before.Attempts) / d.Seconds()
			p.OrdersRate = float64(p.Settled-before.Settled) / d.Seconds()
		} else {
			p.AttemptsRate, p.OrdersRate = before.AttemptsRate, before.OrdersRate
		}
	}
	return p, nil
}
