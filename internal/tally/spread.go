package tally

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"math"
	"slices"
	"time"
)

// Each node counts for itself and tells the others once a second where its counters stand. What is told are states, not differences, so
// a message that is lost or comes twice does no harm; and each node adds up what it heard by itself, so an operator sees the whole house
// wherever he is connected, at most a second or two old, and still this node where nothing can be heard.
const (
	// freshFor is how long after a node was last heard it counts as up, and its latency, rates and queues as those of now.
	freshFor = 3 * time.Second
	// queueFor is how long the waiting room's numbers stand that its keeper told last: another node takes over within it.
	queueFor = 15 * time.Second
	// listedFor is how long a node that fell silent is listed. Its counters stay in the sums: what it counted has happened.
	listedFor = 10 * time.Minute
	nodesMax  = 64  // besides this one
	nameMax   = 190 // bytes
	publicMax = 64
	inMessage = 64 // sales; at most 50 KiB
	countMost = 1 << 48
	wordsV1   = 1
)

// report is what one node tells of one sale.
type report struct {
	sale         string
	attempts     int64
	outcomes     [outcomes]int64
	settled      int64
	paid         int64
	canceled     int64
	gateWaiting  int64
	attemptsRate float64
	ordersRate   float64
	queue        Queue
	counts       [latencyBuckets]int64 // of the last ten seconds
	most         int64                 // µs
}

// heard is what another node told last.
type heard struct {
	report
	at time.Time
}

// peer is another node, by a number of its process.
type peer struct {
	name string
	at   time.Time // when it was last heard
	left bool      // it said that it stops
}

// gone reports whether a node is listed no more.
func (p *peer) gone(now time.Time) bool { return p.left || now.Sub(p.at) > listedFor }

// newNumber makes the number of this process.
func newNumber() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

// words begins a message: who speaks, and whether it is the last time.
func (s *Service) words(leaves bool) []byte {
	b := binary.BigEndian.AppendUint64([]byte{wordsV1}, s.number)
	flag := byte(0)
	if leaves {
		flag = 1
	}
	name := s.Node[:min(len(s.Node), nameMax)]
	return append(append(append(b, flag), byte(len(name))), name...)
}

// spread tells the other nodes, also when there is nothing to tell but that this one lives.
func (s *Service) spread(all []report) {
	for first := true; first || len(all) > 0; first = false {
		n := min(len(all), inMessage)
		b := append(s.words(false), byte(n))
		for _, r := range all[:n] {
			b = r.append(b)
		}
		all = all[n:]
		s.say(b)
	}
}

// numbers of a report in their order.
func (r *report) numbers() []*int64 {
	list := []*int64{&r.attempts, &r.settled, &r.paid, &r.canceled, &r.gateWaiting, &r.queue.Waiting, &r.queue.Admitted, &r.queue.Served}
	for o := range r.outcomes {
		list = append(list, &r.outcomes[o])
	}
	return list
}

func (r *report) rates() []*float64 {
	return []*float64{&r.attemptsRate, &r.ordersRate, &r.queue.PerSecond}
}

func (r *report) append(b []byte) []byte {
	b = append(append(b, byte(len(r.sale))), r.sale...)
	flag := byte(0)
	if r.queue.Kept {
		flag = 1
	}
	b = append(b, flag)
	for _, n := range r.numbers() {
		b = binary.AppendUvarint(b, uint64(max(*n, 0)))
	}
	for _, f := range r.rates() {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(*f))
	}
	b = binary.AppendUvarint(b, uint64(r.most))
	filled := 0
	for _, n := range r.counts {
		if n > 0 {
			filled++
		}
	}
	b = append(b, byte(filled))
	for i, n := range r.counts {
		if n > 0 {
			b = binary.AppendUvarint(append(b, byte(i)), uint64(n))
		}
	}
	return b
}

// reading takes a message apart. After the first thing that is not as it must be, it is bad and yields zeros.
type reading struct {
	b   []byte
	bad bool
}

func (r *reading) bytes(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	part := r.b[:n]
	r.b = r.b[n:]
	return part
}

func (r *reading) byte(most byte) byte {
	n := r.bytes(1)[0]
	if n > most {
		r.bad = true
		return 0
	}
	return n
}

func (r *reading) text(most byte) string { return string(r.bytes(int(r.byte(most)))) }

func (r *reading) count(most int64) int64 {
	n, size := binary.Uvarint(r.b)
	if r.bad || size <= 0 || n > uint64(most) {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return int64(n)
}

func (r *reading) rate() float64 {
	f := math.Float64frombits(binary.BigEndian.Uint64(r.bytes(8)))
	if !(f >= 0 && f <= countMost) { // nor NaN
		r.bad = true
		return 0
	}
	return f
}

func (r *reading) report() (out report) {
	out.sale = r.text(publicMax)
	out.queue.Kept = r.byte(1) == 1
	for _, n := range out.numbers() {
		*n = r.count(countMost)
	}
	for _, f := range out.rates() {
		*f = r.rate()
	}
	out.most = r.count(latencyMost)
	for range r.byte(latencyBuckets) {
		out.counts[r.byte(latencyBuckets-1)] = r.count(countMost)
	}
	return out
}

// hear takes in what another node told. It must not wait.
func (s *Service) hear(message []byte) {
	r := &reading{b: message}
	version := r.bytes(1)[0]
	number := binary.BigEndian.Uint64(r.bytes(8))
	leaves := r.byte(1) == 1
	name := r.text(nameMax)
	var list []report
	if !r.bad && !leaves {
		for range r.byte(inMessage) {
			list = append(list, r.report())
		}
	}
	if r.bad || len(r.b) > 0 || version != wordsV1 {
		s.ignored.WithLabelValues("damaged").Inc()
		return
	}
	if number == s.number {
		return
	}
	now := time.Now()
	if !s.meet(number, name, leaves, now) {
		s.ignored.WithLabelValues("too many nodes").Inc()
		return
	}
	sales := *s.sales.Load()
	for _, got := range list {
		w := sales[got.sale]
		if w == nil { // this node has yet to learn of it
			s.ignored.WithLabelValues("unknown sale").Inc()
			continue
		}
		w.mu.Lock()
		if w.others == nil {
			w.others = map[uint64]*heard{}
		}
		w.others[number] = &heard{got, now}
		w.mu.Unlock()
	}
}

// meet notes that a node was heard. It reports false where there are too many.
func (s *Service) meet(number uint64, name string, leaves bool, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[number]
	if p == nil {
		if len(s.peers) >= nodesMax && !s.forgetOne(now) {
			return false
		}
		p = &peer{}
		s.peers[number] = p
	}
	p.name, p.at, p.left = name, now, leaves
	return true
}

// forgetOne makes room: the node that is gone for longest is no longer told apart. What it counted stays in the sums. s.mu is held.
func (s *Service) forgetOne(now time.Time) bool {
	var oldest uint64
	for number, p := range s.peers {
		if p.gone(now) && (s.peers[oldest] == nil || p.at.Before(s.peers[oldest].at)) {
			oldest = number
		}
	}
	if s.peers[oldest] == nil {
		return false
	}
	delete(s.peers, oldest)
	for _, w := range *s.sales.Load() {
		w.mu.Lock()
		if h := w.others[oldest]; h != nil {
			w.past.add(&h.report)
			delete(w.others, oldest)
		}
		w.mu.Unlock()
	}
	return true
}

// add sums up what stays true when a node is gone.
func (r *report) add(other *report) {
	r.attempts += other.attempts
	r.settled += other.settled
	r.paid += other.paid
	r.canceled += other.canceled
	for o, n := range other.outcomes {
		r.outcomes[o] += n
	}
}

// house adds up what all nodes told of a sale and what this one counts.
func (w *watched) house(own report, now time.Time) report {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := own
	sum.add(&w.past)
	var keeper *heard
	for _, h := range w.others {
		sum.add(&h.report)
		silent := now.Sub(h.at)
		if h.queue.Kept && silent <= queueFor && (keeper == nil || h.at.After(keeper.at)) {
			keeper = h
		}
		if silent > freshFor {
			continue
		}
		sum.gateWaiting += h.gateWaiting
		sum.attemptsRate += h.attemptsRate
		sum.ordersRate += h.ordersRate
		sum.most = max(sum.most, h.most)
		for b, n := range h.counts {
			sum.counts[b] += n
		}
	}
	if !own.queue.Kept && keeper != nil {
		sum.queue = keeper.queue
	}
	return sum
}

// Node is a node as this one hears it.
type Node struct {
	Name string
	Self bool
	// Silent is since when nothing was heard of it, in whole seconds; 0 while it is up. Its latest seconds are missing in the numbers.
	Silent time.Duration
}

// House lists the nodes that count, this one first, then by name. One that stopped in order is not among them, one that fell silent is
// for ten minutes.
func (s *Service) House() []Node {
	now := time.Now()
	list := []Node{{Name: s.Node, Self: true}}
	s.mu.Lock()
	for _, p := range s.peers {
		if p.gone(now) {
			continue
		}
		n := Node{Name: p.name}
		if silent := now.Sub(p.at); silent > freshFor {
			n.Silent = silent.Truncate(time.Second)
		}
		list = append(list, n)
	}
	s.mu.Unlock()
	slices.SortFunc(list[1:], func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Silent, b.Silent)) })
	return list
}
