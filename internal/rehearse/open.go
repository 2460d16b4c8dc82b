package rehearse

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"levee/internal/wire"
)

// releaseTick is the least time between two releases of presses. Shorter costs the server's processor more than it gains:
// latency counts from the intended moment all the same.
const releaseTick = 100 * time.Microsecond

// office is the open loop: it releases presses at their moments whatever the answers, hands each to a free clerk (a connection),
// and lets those wait in line for whom none is free. Their wait counts.
type office struct {
	s      *stage
	coming *arrivals
	wake   chan struct{} // capacity 1
	cut    atomic.Bool   // the end: what fails now fails because we hang up

	mu     sync.Mutex // guards all below
	later  flows      // not due yet
	ready  []*flow    // due, waiting for a clerk; from first on
	first  int
	idle   []*clerk // a stack, so that few connections stay busy and warm
	inPlay int      // flows without a last word
	closed bool     // those in the waiting room were sent home
	left   []*flow  // in flight at the end
	sleeps time.Duration
}

// flows is a heap by moment.
type flows []*flow

func (h flows) Len() int           { return len(h) }
func (h flows) Less(i, j int) bool { return h[i].due < h[j].due }
func (h flows) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *flows) Push(x any)        { *h = append(*h, x.(*flow)) }
func (h *flows) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return f
}

// clerk is one connection and the goroutine that uses it.
type clerk struct {
	wire   *wire.Conn
	shard  *shard
	reader reader
	hand   chan *flow // capacity 1
}

func (s *stage) newOffice(coming *arrivals, open []*flow) *office {
	o := &office{s: s, coming: coming, wake: make(chan struct{}, 1), later: open, inPlay: len(open)}
	heap.Init(&o.later)
	return o
}

// run serves until every press has its last word or the deadline (since the start) passes; then those without one get theirs.
func (o *office) run(ctx context.Context, deadline time.Duration) error {
	var clerks sync.WaitGroup
	for i := range o.s.cfg.Connections {
		c := &clerk{wire: wire.NewConn(o.s.net, o.s.cfg.Timeout), shard: o.s.rec.shard(i), hand: make(chan *flow, 1)}
		o.idle = append(o.idle, c)
		clerks.Go(func() { o.serve(ctx, c) })
	}
	err := o.release(ctx, deadline)
	o.cut.Store(true)
	o.s.net.Cut() // whoever waits for an answer learns it now
	o.mu.Lock()
	for _, c := range o.idle {
		close(c.hand)
	}
	o.idle = nil
	o.mu.Unlock()
	clerks.Wait()
	o.abandon()
	return err
}

// release hands out presses at their moments.
func (o *office) release(ctx context.Context, deadline time.Duration) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := o.s.now()
		next, over := o.due(now)
		if over || now >= deadline {
			return nil
		}
		timer.Reset(max(releaseTick, min(next, deadline)-now))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-o.wake:
		}
	}
}

// due releases all whose moment has come and returns the next moment; over: nobody comes any more and everybody has his last word.
func (o *office) due(now time.Duration) (next time.Duration, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, cfg := o.s, &o.s.cfg
	for o.coming != nil && !o.coming.over() && o.coming.at <= now {
		n, at := o.coming.next()
		f := &flow{press: n, buyer: int32(n % uint64(len(s.crowd))), pressed: at, due: at}
		if s.room != nil {
			f.place = s.room.newPlace(at)
		}
		s.rec.arrived(s.rec.shard(int(n)), at, now-at)
		o.inPlay++
		if cfg.Double > 0 && habit(cfg.Seed, n, askDouble) < cfg.Double {
			twin := *f
			twin.twin = true
			twin.due += doubleAfter + time.Duration(habit(cfg.Seed, n, askDoubleAfter)*float64(doubleRange))
			o.inPlay++
			heap.Push(&o.later, &twin)
		}
		o.enlist(f) // from here on it is the clerk's
	}
	if s.room != nil && !o.closed && now >= s.homeAt() {
		o.leave(now)
	}
	for len(o.later) > 0 && o.later[0].due <= now {
		o.enlist(heap.Pop(&o.later).(*flow))
	}
	o.sleeps = 1<<63 - 1
	more := o.coming != nil && !o.coming.over()
	if more {
		o.sleeps = o.coming.at
	}
	if len(o.later) > 0 {
		o.sleeps = min(o.sleeps, o.later[0].due)
	}
	if s.room != nil && !o.closed {
		o.sleeps = min(o.sleeps, s.homeAt())
	}
	return o.sleeps, !more && o.inPlay == 0
}

// enlist hands a flow to a clerk or puts it in the line. The caller holds mu.
func (o *office) enlist(f *flow) {
	if n := len(o.idle); n > 0 {
		c := o.idle[n-1]
		o.idle = o.idle[:n-1]
		c.hand <- f
		return
	}
	o.ready = append(o.ready, f)
}

// waiting is how many presses wait for a free connection.
func (o *office) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ready) - o.first
}

// rouse wakes whoever waits on a channel of capacity 1, now or when he next looks.
func rouse(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// back takes a flow that was served, and gives the clerk the next one or nil.
func (o *office) back(c *clerk, f *flow, done bool) *flow {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.cut.Load():
		if done {
			o.inPlay--
		} else {
			o.left = append(o.left, f)
		}
		close(c.hand)
		return nil
	case done:
		if o.inPlay--; o.inPlay == 0 {
			rouse(o.wake)
		}
	default:
		heap.Push(&o.later, f)
		if f.due < o.sleeps {
			rouse(o.wake)
		}
	}
	if o.first == len(o.ready) {
		o.ready, o.first = o.ready[:0], 0
		o.idle = append(o.idle, c)
		return nil
	}
	f, o.ready[o.first] = o.ready[o.first], nil
	if o.first++; o.first > 1024 && o.first > len(o.ready)/2 {
		o.ready, o.first = append(o.ready[:0], o.ready[o.first:]...), 0
	}
	return f
}

func (o *office) serve(ctx context.Context, c *clerk) {
	defer c.wire.Drop()
	for f := range c.hand {
		for f != nil {
			f = o.back(c, f, o.serveOne(ctx, c, f))
		}
	}
}

// serveOne makes one request of a flow and tells whether that was its last.
func (o *office) serveOne(ctx context.Context, c *clerk, f *flow) (done bool) {
	s, who := o.s, &o.s.crowd[f.buyer]
	start := s.now()
	asks := kindPress
	switch {
	case f.inRoom():
		asks = kindPlace
		f.place.ask(s.room)
	case f.reservation != "":
		asks = kindPoll
	case f.place != nil:
		s.room.spend(f.place)
	}
	a, sent, err := c.wire.Exchange(ctx, s.begun.Add(start), func(dst []byte) []byte {
		switch asks {
		case kindPlace:
			return s.room.request(dst, &s.phrases, who, f.place)
		case kindPoll:
			return s.phrases.ask(dst, who, f.reservation)
		}
		return s.phrases.purchase(dst, who, f.admission(who), f.press)
	})
	end := s.now()
	f.sent = f.sent || sent
	sent = sent && asks != kindPlace // a lost answer about a place leaves no purchase unknown
	var v verdict
	switch {
	case err != nil && o.cut.Load():
		f.unknown = f.unknown || sent
		return false
	case err != nil:
		v = s.lost(f, sent, err)
	case asks == kindPlace:
		v = s.hearPlace(f, &a, &c.reader)
	default:
		v = s.hear(f, &a, &c.reader)
	}
	s.rec.answered(c.shard, event{class: v.class, kind: asks, meant: f.due, sent: start, done: end})
	last, done := s.goOn(f, v, s.now()) // a challenge may have been solved since
	if done {
		s.lastWord(c.shard, f, last, end)
	} else if asks == kindPlace && !f.inRoom() {
		f.pressed = f.due // from here on he is a buyer like any other
	}
	return done
}

// lastWord notes how a press ended. The second click of a double click is the same press and not counted again, unless it left
// something unknown.
func (s *stage) lastWord(shard *shard, f *flow, last final, at time.Duration) {
	switch {
	case !f.twin:
		s.told.finish(f.buyer, last)
		if last != finalWaiting {
			s.rec.settled(shard, at-f.pressed)
		}
	case last == finalUnknown:
		s.told.counts[finalUnknown].Add(1)
	case last == finalOrdered:
		s.told.last[f.buyer].Store(uint32(finalOrdered))
	}
}

// abandon gives a last word to all who have none when the time is over. It runs after all clerks have gone.
func (o *office) abandon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.s.now()
	shard := o.s.rec.shard(0)
	all := append(append(o.left, o.ready[o.first:]...), o.later...)
	for _, f := range all {
		last := finalGaveUp
		switch {
		case f.unknown:
			last = finalUnknown
		case f.inRoom() && f.place.entered:
			last = finalWaiting
		case !f.sent && !f.twin:
			last = finalNeverWas
			o.s.rec.unsent(shard, f.pressed, now)
		}
		o.s.lastWord(shard, f, last, now)
	}
	o.left, o.ready, o.later, o.first = nil, nil, nil, 0
}
