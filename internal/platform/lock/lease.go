package lock

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

const (
	// renewShare of the TTL passes between two renewals, so that two may fail before a lease is lost.
	renewShare = 3
	// releaseTime bounds one try to give a lease back where the store's client has no bound of its own.
	releaseTime = 2 * time.Second
	// againEvery is the pause between two tries to give back what the store did not answer to.
	againEvery = 250 * time.Millisecond
)

// drift is what a lease ends sooner here than in its store: clocks run at rates that differ, and timers fire late (as Redlock has it).
func drift(ttl time.Duration) time.Duration { return ttl/100 + 2*time.Millisecond }

// Lease is the right to work on a name for a while. Its methods may be called by several goroutines. It must be given back by Release.
type Lease struct {
	l      *Locks
	name   string
	parent context.Context // of the acquisition, for its values
	outer  *Lease          // whose context the acquisition was called with
	h      *hold           // of name
	more   []*hold         // with And: all, in the order in which they were taken; h among them
	own    hold            // what h points to without And and re-entrance

	mu       sync.Mutex // guards what follows
	ctx      *leaseContext
	cancel   context.CancelCauseFunc
	unhook   func() bool // from the outer lease's context
	released bool
	err      error // of the first Release
}

// hold is a place in one name, which one or more leases share.
type hold struct {
	l     *Locks
	r     request
	fence uint64
	last  time.Time    // the moment at which MaxHold ends
	until atomic.Int64 // the local deadline, in nanoseconds since Locks.base; 0: over

	mu        sync.Mutex // guards what follows
	refs      int
	over      bool
	early     bool // the store is yet to be told
	renewing  *time.Timer
	ending    *time.Timer // when somebody listens
	listeners []*Lease
}

// begin starts the lease's time.
func (h *hold) begin(g grant) {
	h.fence, h.last = g.fence, g.asked.Add(h.r.hold)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.extend(g.asked, g.ttl)
	switch h.early = g.early; {
	case g.early:
		go h.renew()
	case g.ttl < h.r.hold:
		h.schedule(h.r.ttl / renewShare)
	}
}

// extend sets the local deadline: it counts from before the request was sent, so the store's comes later. The caller holds mu.
func (h *hold) extend(asked time.Time, ttl time.Duration) {
	until := asked.Add(ttl - drift(ttl))
	h.until.Store(int64(until.Sub(h.l.base)))
	if h.ending != nil {
		h.ending.Reset(time.Until(until))
	}
}

func (h *hold) left() time.Duration { return time.Duration(h.until.Load()) - time.Since(h.l.base) }

// held reads the clock: a process that was stopped is told the truth at once, before any timer fires.
func (h *hold) held() bool { return h.left() > 0 }

// schedule sets the next renewal. The caller holds mu.
func (h *hold) schedule(after time.Duration) {
	after -= rand.N(after/10 + 1) // leases of one moment are not renewed in one moment
	if h.renewing == nil {
		h.renewing = time.AfterFunc(after, h.renew)
	} else {
		h.renewing.Reset(after)
	}
}

// renew is the watchdog: called by a timer until the hold is over or MaxHold has come.
func (h *hold) renew() {
	if !h.l.begin() {
		return
	}
	defer h.l.tasks.Done()
	h.mu.Lock()
	over, early := h.over, h.early
	h.mu.Unlock()
	if over {
		return
	}
	asked := time.Now()
	left := h.left()
	ttl := min(h.r.ttl, h.last.Sub(asked))
	if left <= 0 || !early && ttl-drift(ttl) <= left { // its time is over, or MaxHold allows no more of it
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watch()
		return
	}
	ctx, cancel := context.WithTimeout(h.l.run, left)
	err := h.l.driver.renew(ctx, &h.r, ttl)
	cancel()
	h.mu.Lock()
	switch {
	case h.over: // given back meanwhile: whatever the answer was, nothing is renewed any more
	case err == nil && h.held():
		h.l.m.renewals.Inc()
		h.early = false
		h.extend(asked, ttl)
		h.schedule(h.r.ttl / renewShare)
	case err == nil || errors.Is(err, errGone):
		h.finish()
		return
	default:
		h.l.m.failures.Inc()
		h.watch() // so that the end is seen also if nobody listens
		pause := h.r.ttl / (4 * renewShare)
		if early {
			pause = min(pause, againEvery)
		}
		h.schedule(pause)
	}
	h.mu.Unlock()
}

// watch sets the timer of the end. The caller holds mu.
func (h *hold) watch() {
	if h.ending == nil && !h.over {
		h.ending = time.AfterFunc(h.left(), h.expire)
	}
}

// expire is called by a timer at the local deadline.
func (h *hold) expire() {
	h.mu.Lock()
	switch left := h.left(); {
	case h.over:
	case left > 0:
		h.ending.Reset(left)
	default:
		h.finish()
		return
	}
	h.mu.Unlock()
}

// finish ends a hold that is lost and tells the leases. The caller holds mu, which is released.
func (h *hold) finish() {
	listeners := h.stop()
	h.mu.Unlock()
	h.l.m.lost.Inc()
	h.l.m.held.Dec()
	for _, s := range listeners {
		s.cancel(lost(h.r.name))
	}
}

// stop makes the hold over. The caller holds mu.
func (h *hold) stop() (listeners []*Lease) {
	h.over = true
	h.until.Store(0)
	for _, t := range []*time.Timer{h.renewing, h.ending} {
		if t != nil {
			t.Stop()
		}
	}
	listeners, h.listeners = h.listeners, nil
	return listeners
}

// again adds a lease to the hold; false: it is over.
func (h *hold) again() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || !h.held() {
		return false
	}
	h.refs++
	return true
}

// listen has the lease's context cancelled when the hold is lost; false: it is already.
func (h *hold) listen(s *Lease) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return false
	}
	h.listeners = append(h.listeners, s)
	h.watch()
	return true
}

// end gives a lease's share of the hold back, and with the last one the place.
func (h *hold) end(ctx context.Context, s *Lease) error {
	h.mu.Lock()
	if i := slices.Index(h.listeners, s); i >= 0 {
		h.listeners = slices.Delete(h.listeners, i, i+1)
	}
	if h.refs--; h.refs > 0 {
		over := h.over || !h.held()
		h.mu.Unlock()
		if over {
			return lost(h.r.name)
		}
		return nil
	}
	known, inTime := h.over, h.held()
	if !known {
		h.stop()
	}
	h.mu.Unlock()
	// The end of the caller's ctx is most often the reason why it gives back, and must not keep it from that.
	err := h.l.driver.release(context.WithoutCancel(ctx), &h.r)
	gone := errors.Is(err, errGone)
	if err != nil && !gone {
		h.tryAgain()
	}
	switch {
	case known:
		return lost(h.r.name)
	case gone || !inTime:
		h.l.m.lost.Inc()
		h.l.m.held.Dec()
		return lost(h.r.name)
	}
	h.l.m.held.Dec()
	if err != nil {
		return away(err)
	}
	return nil
}

// tryAgain gives back in the background what the store did not answer to, for as long as it would keep the place.
func (h *hold) tryAgain() {
	if !h.l.begin() {
		return
	}
	go func() {
		defer h.l.tasks.Done()
		ctx, cancel := context.WithTimeout(h.l.run, h.r.ttl)
		defer cancel()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(againEvery):
			}
			if err := h.l.driver.release(ctx, &h.r); err == nil || errors.Is(err, errGone) {
				return
			}
		}
	}()
}

// find returns the lease's hold of a name, or nil.
func (s *Lease) find(name string) *hold {
	if s.more == nil {
		if s.name == name {
			return s.h
		}
		return nil
	}
	for _, h := range s.more {
		if h.r.name == name {
			return h
		}
	}
	return nil
}

// Name returns the name that the lease was asked for, without those of And.
func (s *Lease) Name() string { return s.name }

// Fence returns the number of the grant, from 1 to 2^53: higher than that of every grant of this name before. It goes into
// what is protected, see Enter. With And it is that of the name, not of those in And. Leases of one place have the same one.
func (s *Lease) Fence() uint64 { return s.h.fence }

// FenceOf is Fence for one of the names of And; 0 when the lease does not hold it.
func (s *Lease) FenceOf(name string) uint64 {
	if h := s.find(name); h != nil {
		return h.fence
	}
	return 0
}

// Held reports whether the lease still holds, by the monotonic clock. It is exact also right after a pause of the process; but a pause may come right
// after it, too, so it saves work and proves nothing: that is for the fence.
func (s *Lease) Held() bool { return s.left() > 0 }

// left is the time until the first of the holds ends; 0 or less: one has.
func (s *Lease) left() time.Duration {
	if s.more == nil {
		return s.h.left()
	}
	left := s.more[0].left()
	for _, h := range s.more[1:] {
		left = min(left, h.left())
	}
	return left
}

// Context returns the context to work under. It ends when the lease does, at the latest at the lease's end by this process' monotonic clock, counted
// from before the store was asked, and at once when a renewal hears that the lease is lost (the cause is then ErrLost) or the lease is given back
// (ErrReleased). Its Err reads the clock, so it is right also in the first moment after a pause. It has the values of the context that
// Acquire was called with, not its end; but it ends with the lease of that context, if that was one of a lease.
func (s *Lease) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != nil {
		return s.ctx
	}
	c, cancel := context.WithCancelCause(context.WithoutCancel(s.parent))
	s.ctx, s.cancel = &leaseContext{Context: c, lease: s}, cancel
	if s.released {
		cancel(ErrReleased)
		return s.ctx
	}
	if s.outer != nil {
		outer := s.outer.Context()
		s.unhook = context.AfterFunc(outer, func() { cancel(context.Cause(outer)) })
	}
	holds := s.more
	if holds == nil {
		holds = []*hold{s.h}
	}
	for _, h := range holds {
		if !h.listen(s) {
			cancel(lost(h.r.name))
		}
	}
	return s.ctx
}

// Release gives the lease back and ends its context. CodeGone (ErrLost): it had ended before, and what was done under it may have met another
// holder's work. CodeUnavailable: the store did not answer (in Redis' Config.Timeout, in SQL 2 s); it is asked again in the background, and the place is free after the TTL at the
// latest. That ctx has ended does not keep the lease from being given back. No renewal counts after Release, also not one under way.
// Later calls return what the first did.
func (s *Lease) Release(ctx context.Context) error {
	s.mu.Lock()
	if s.released {
		defer s.mu.Unlock()
		return s.err
	}
	s.released = true
	cancel, unhook := s.cancel, s.unhook
	s.mu.Unlock()
	if unhook != nil {
		unhook()
	}
	if cancel != nil {
		if s.h != nil && !s.Held() {
			cancel(lost(s.name)) // the timer may be about to say so
		}
		cancel(ErrReleased)
	}
	var err error
	if s.more == nil && s.h != nil {
		err = s.h.end(ctx, s)
	}
	for i := len(s.more) - 1; i >= 0; i-- {
		if e := s.more[i].end(ctx, s); e != nil && (err == nil || levee.CodeOf(e) == levee.CodeGone) {
			err = e
		}
	}
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	return err
}

type leaseKey struct{}

// leaseContext knows its lease, and asks the clock where a timer may be late.
type leaseContext struct {
	context.Context
	lease *Lease
}

// Err returns context.Canceled once the lease has ended.
func (c *leaseContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if !c.lease.Held() {
		c.lease.cancel(lost(c.lease.name))
	}
	return c.Context.Err()
}

// Value returns the lease for the key of this package.
func (c *leaseContext) Value(key any) any {
	if key == (leaseKey{}) {
		return c.lease
	}
	return c.Context.Value(key)
}
