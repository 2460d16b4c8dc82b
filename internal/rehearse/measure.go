package rehearse

import (
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"levee/internal/report"
)

// class is what an answer means to the person who pressed.
type class uint8

const (
	classOrdered class = iota // 201, or a reservation that became an order
	classQueued               // 202, or a reservation that still waits
	classSoldOut
	classLimit
	classEnded
	classWait    // not open, paused, loading, the first request with this key still runs
	classBusy    // 429, 503
	classRefused // any other 4xx: none is expected
	classFailed  // any other 5xx, or an answer without sense
	classLost    // no answer: the connection broke, or none could be made
	classPlace   // in the waiting room
	classTurn    // admitted to the sale, or a turn that was missed
	classes
)

var classNames, classLabels = func() (names, labels [classes]string) {
	for c, k := range report.Answers {
		names[c], labels[c] = k.Name, k.Label
	}
	return names, labels
}()

// What is measured, in microseconds.
type measure uint8

const (
	ofAnswers  measure = iota // purchases, from the moment that was meant to the answer
	ofOrders                  // those of them that were answered 201
	ofRefusals                // those that were sold out, over the limit or over
	ofPolls                   // reservations that were asked for
	ofOutcomes                // from the press to the last word
	ofSent                    // purchases, from the real sending to the answer: what a closed loop would show
	ofPlaces                  // calls about a place in the waiting room
	ofTurns                   // from coming to the waiting room to being admitted
	ofLateness                // how long after its moment the generator released a press
	measures
)

var measureLabels = [measures]string{"purchase answered", "… with an order (201)", "… with a refusal", "reservation polled",
	"from the press to the last word", "purchase answered, from its real sending",
	"waiting room: a place asked for", "waiting room: from coming to the turn", "generator's own lateness"}

var measureNames = [measures]string{"answers", "orders", "refusals", "polls", "outcomes", "from_sending", "places", "turns", "generator_lateness"}

const (
	latencyMost   = 20 * time.Minute // longer ones count as this
	slotsMost     = 8192             // later ones count in the last
	slotsAim      = 150              // about so many for the time in which people come
	totalDigits   = 3
	slotDigits    = 2
	shardsMost    = 4
	microsPerMsec = 1e3
)

// slot is a piece of the timeline. Answers are counted when they come; latencies belong to when they were meant to begin, so
// that a stall is seen by everybody who arrived in it.
type slot struct {
	arrivals uint64
	answers  [classes]uint64
	latency  *hdrhistogram.Histogram // of purchases; nil: none
}

// recorder measures. Each goroutine uses one shard of it, so that they rarely wait for each other.
type recorder struct {
	width  time.Duration // of a slot
	shards []*shard
}

type shard struct {
	mu               sync.Mutex // guards all below
	total            [measures]*hdrhistogram.Histogram
	answers          [classes]uint64
	slots            []slot
	soldOut, ordered time.Duration // as in reading
}

var slotWidths = []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
	5 * time.Second, 10 * time.Second, 30 * time.Second}

// newRecorder measures a run of that length with n goroutines.
func newRecorder(length time.Duration, n int) *recorder {
	r := &recorder{}
	for _, r.width = range slotWidths {
		if length/r.width <= slotsAim {
			break
		}
	}
	for range min(n, shardsMost, 2*runtime.GOMAXPROCS(0)) {
		s := &shard{soldOut: -1, ordered: -1}
		for m := range s.total {
			s.total[m] = hdrhistogram.New(1, latencyMost.Microseconds(), totalDigits)
		}
		r.shards = append(r.shards, s)
	}
	return r
}

func (r *recorder) shard(i int) *shard { return r.shards[i%len(r.shards)] }

func (s *shard) record(h *hdrhistogram.Histogram, d time.Duration) {
	// The bounds make an error impossible.
	_ = h.RecordValue(min(max(d.Microseconds(), 1), latencyMost.Microseconds()))
}

func (s *shard) slot(width, at time.Duration) *slot {
	i := min(int(max(at, 0)/width), slotsMost)
	for len(s.slots) <= i {
		s.slots = append(s.slots, slot{})
	}
	return &s.slots[i]
}

func (s *shard) recordSlot(width, at, d time.Duration) {
	slot := s.slot(width, at)
	if slot.latency == nil {
		slot.latency = hdrhistogram.New(1, latencyMost.Microseconds(), slotDigits)
	}
	s.record(slot.latency, d)
}

// arrived counts a press that was released late after its moment.
func (r *recorder) arrived(s *shard, at, late time.Duration) {
	s.mu.Lock()
	s.slot(r.width, at).arrivals++
	s.record(s.total[ofLateness], late)
	s.mu.Unlock()
}

// kind is what was asked for.
type kind uint8

const (
	kindPress kind = iota
	kindPoll       // a reservation
	kindPlace      // anything in the waiting room
)

// event is one answer: when it was meant to be asked for, when it was really sent, when it came. All since the start.
type event struct {
	class             class
	kind              kind
	meant, sent, done time.Duration
}

func (r *recorder) answered(s *shard, e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[e.class]++
	s.slot(r.width, e.done).answers[e.class]++
	switch {
	case e.class == classSoldOut && (s.soldOut < 0 || e.done < s.soldOut):
		s.soldOut = e.done
	case e.class == classOrdered && e.done > s.ordered:
		s.ordered = e.done
	}
	switch {
	case e.kind == kindPoll:
		s.record(s.total[ofPolls], e.done-e.meant)
		return
	case e.class == classLost: // there is no answer to measure; the press goes on and its last word counts
		return
	case e.kind == kindPlace:
		s.record(s.total[ofPlaces], e.done-e.meant)
		return
	}
	s.record(s.total[ofAnswers], e.done-e.meant)
	s.record(s.total[ofSent], e.done-e.sent)
	switch e.class {
	case classOrdered:
		s.record(s.total[ofOrders], e.done-e.meant)
	case classSoldOut, classLimit, classEnded:
		s.record(s.total[ofRefusals], e.done-e.meant)
	}
	s.recordSlot(r.width, e.meant, e.done-e.meant)
}

// turned records how long a person was in the waiting room until it was his turn.
func (r *recorder) turned(s *shard, d time.Duration) {
	s.mu.Lock()
	s.record(s.total[ofTurns], d)
	s.mu.Unlock()
}

// settled records how long a person waited for the last word.
func (r *recorder) settled(s *shard, d time.Duration) {
	s.mu.Lock()
	s.record(s.total[ofOutcomes], d)
	s.mu.Unlock()
}

// unsent records a press that was never sent before the end: it waited for all that time.
func (r *recorder) unsent(s *shard, meant, end time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(s.total[ofAnswers], end-meant)
	s.recordSlot(r.width, meant, end-meant)
}

// reading is a look at the numbers so far.
type reading struct {
	arrivals uint64
	answers  [classes]uint64
	// soldOut is when the first person was told so, ordered when the last order was told; negative: never.
	soldOut, ordered time.Duration
}

func (g reading) total() (n uint64) {
	for _, v := range g.answers {
		n += v
	}
	return n
}

func (r *recorder) read() reading {
	g := reading{soldOut: -1, ordered: -1}
	for _, s := range r.shards {
		s.mu.Lock()
		if s.soldOut >= 0 && (g.soldOut < 0 || s.soldOut < g.soldOut) {
			g.soldOut = s.soldOut
		}
		g.ordered = max(g.ordered, s.ordered)
		for c, n := range s.answers {
			g.answers[c] += n
		}
		for i := range s.slots {
			g.arrivals += s.slots[i].arrivals
		}
		s.mu.Unlock()
	}
	return g
}

// count returns how many values a distribution has.
func (r *recorder) count(m measure) (n int64) {
	for _, s := range r.shards {
		s.mu.Lock()
		n += s.total[m].TotalCount()
		s.mu.Unlock()
	}
	return n
}

// lately returns the 99th percentile of the purchases that were meant for the second before at, 0 if there are none.
func (r *recorder) lately(at time.Duration) time.Duration {
	all := hdrhistogram.New(1, latencyMost.Microseconds(), slotDigits)
	from, to := int(max(0, at-time.Second)/r.width), int(at/r.width)
	for _, s := range r.shards {
		s.mu.Lock()
		for i := from; i <= to && i < len(s.slots); i++ {
			if s.slots[i].latency != nil {
				all.Merge(s.slots[i].latency)
			}
		}
		s.mu.Unlock()
	}
	return time.Duration(all.ValueAtQuantile(99)) * time.Microsecond
}

func msec(micros int64) float64 { return float64(micros) / microsPerMsec }

// latencies joins the shards. Distributions without values are left out.
func (r *recorder) latencies() (list []Latency) {
	for m := range measures {
		h := hdrhistogram.New(1, latencyMost.Microseconds(), totalDigits)
		for _, s := range r.shards {
			s.mu.Lock()
			h.Merge(s.total[m])
			s.mu.Unlock()
		}
		if h.TotalCount() == 0 {
			continue
		}
		l := Latency{Name: measureNames[m], Label: measureLabels[m], Count: h.TotalCount(), Mean: math.Round(h.Mean()) / microsPerMsec,
			Min: msec(h.Min()), P50: msec(h.ValueAtQuantile(50)), P90: msec(h.ValueAtQuantile(90)), P99: msec(h.ValueAtQuantile(99)),
			P999: msec(h.ValueAtQuantile(99.9)), P9999: msec(h.ValueAtQuantile(99.99)), Max: msec(h.Max())}
		if m <= ofRefusals || m == ofSent || m == ofPlaces {
			l.Curve = curve(h)
		}
		list = append(list, l)
	}
	return list
}

// curve halves the rest of the distribution in steps: ten points for each factor of ten.
func curve(h *hdrhistogram.Histogram) (list []Point) {
	for i := 0; ; i++ {
		rest := math.Pow(10, -float64(i)/10)
		if rest*float64(h.TotalCount()) < 1 {
			return append(list, Point{Quantile: 1, Value: msec(h.Max())})
		}
		list = append(list, Point{Quantile: 1 - rest, Value: msec(h.ValueAtQuantile(100 * (1 - rest)))})
	}
}

func (r *recorder) timeline() (list []Slot) {
	longest := 0
	for _, s := range r.shards {
		s.mu.Lock()
		longest = max(longest, len(s.slots))
		s.mu.Unlock()
	}
	for i := range longest {
		out := Slot{At: (time.Duration(i) * r.width).Seconds(), Answers: map[string]uint64{}}
		h := hdrhistogram.New(1, latencyMost.Microseconds(), slotDigits)
		for _, s := range r.shards {
			s.mu.Lock()
			if i < len(s.slots) {
				out.Arrivals += s.slots[i].arrivals
				for c, n := range s.slots[i].answers {
					if n > 0 {
						out.Answers[classNames[c]] += n
					}
				}
				if s.slots[i].latency != nil {
					h.Merge(s.slots[i].latency)
				}
			}
			s.mu.Unlock()
		}
		if out.Count = h.TotalCount(); out.Count > 0 {
			out.P50, out.P99, out.P999, out.Max = msec(h.ValueAtQuantile(50)), msec(h.ValueAtQuantile(99)), msec(h.ValueAtQuantile(99.9)), msec(h.Max())
		}
		list = append(list, out)
	}
	return list
}
