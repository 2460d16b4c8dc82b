package event

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"levee"
	"levee/internal/platform/db"
)

// The relay's measures. The poll is a net under the wake-ups, for events of other processes.
const (
	maxListeners = 62                   // of one event, over its versions: they are bits of a word
	lanes        = 4                    // deliveries under way at once; a key always belongs to the same lane
	batchMax     = 64                   // deliveries in one transaction
	threadMax    = 32                   // of them for one key, so that a busy key does not keep the others waiting
	batchTime    = 5 * time.Millisecond // after which a transaction takes no further delivery: it holds the writer
	slowListener = 250 * time.Millisecond
	queueTime    = 30 * time.Second // for the writer to begin a delivering transaction
	pageSize     = 512              // events read by one query
	aheadMax     = 2048             // events in memory with their payload, and not yet delivered
	aheadBytes   = 32 << 20         // bytes of these payloads
	heldMax      = 250_000          // events in memory at all, about 100 bytes each; beyond, nothing more is read
	poll         = time.Second
	lease        = 15 * time.Second      // how long a relay that fell silent keeps others waiting
	hurry        = 5 * time.Millisecond  // least pause between two sweeps
	idleWait     = 50 * time.Millisecond // least pause between two looks of a relay that stands by
	maxAttempts  = 12                    // about seven minutes with the pauses below
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 2 * time.Minute
	errorMax     = 1000 // bytes of an error's text that are kept

	lookAgain = 250 * time.Millisecond // least time between two looks whether the listeners have changed; deliveries look each time
)

// The bits that no listener of this program has.
const (
	logAs   = 63 // the log, which is a listener as any, named "": the first to hear an event, and it never fails
	logBit  = 1 << logAs
	awayBit = 1 << 62 // a listener that this program does not know: the event stays in the outbox for it
)

var (
	errLost = errors.New("another process relays now")
	errGone = errors.New("an event left the outbox from outside")
)

// Run relays until ctx ends; then it finishes the transaction under way and returns nil. A failing database is logged and
// tried again. Only one Run or Drain relays at a time; a second one waits.
func (b *Bus) Run(ctx context.Context) error {
	ctx = db.Primary(ctx) // a replica that lags shows events that are delivered, and a lease that stands still
	if b.badConf != nil {
		return b.badConf
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil
	}
	b.mu.Lock()
	b.started = true
	b.mu.Unlock()
	var fence int64
	var w watch
	// Between nodes a newcomer waits for its turn: one that starts and dies again and again must not keep the others from working.
	steal, pause := !b.crowd, poll
	for ctx.Err() == nil {
		got, err := int64(0), b.Announce(ctx)
		if err == nil {
			got, err = b.acquire(ctx, fence, steal, &w)
		}
		if err == nil && got == 0 {
			steal = false
			err = b.standBy(ctx)
			b.pause(ctx, idleWait) // its own node's events wake it, too
			b.sleep(ctx, min(poll, b.lease/4))
		}
		if got != 0 {
			fence, steal = got, false
			began := time.Now()
			err = b.relay(ctx, fence)
			if time.Since(began) > time.Minute {
				pause = poll
			}
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, errAgain):
		case errors.Is(err, errLost):
			b.log.InfoContext(ctx, "another process relays the events now; this one stands by")
		case err != nil:
			b.log.ErrorContext(ctx, "the relay of events stopped and starts again", "err", err, "pause", pause)
			b.pause(ctx, pause)
			pause = min(2*pause, 15*time.Second)
		}
	}
	b.release(ctx, fence)
	return nil
}

// Drain returns once no delivery is due: everything emitted before the call, and what its listeners emit, is delivered, parked or
// waits for its next attempt. Without a Run under way it relays itself. It returns ctx's error when that ends first.
func (b *Bus) Drain(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "event.Drain")
	done := make(chan struct{})
	b.mu.Lock()
	b.waiting = append(b.waiting, done)
	b.mu.Unlock()
	b.waiters.Add(1)
	defer b.waiters.Add(-1)
	b.wake()
	run, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(run) }) // waits for its turn while another Run is under way
	defer wg.Wait()
	defer stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sleep waits for a wake-up, at most d, and tells whether it came.
func (b *Bus) sleep(ctx context.Context, d time.Duration) (woken bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-b.wakeup:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// pause waits d, whatever is emitted meanwhile.
func (b *Bus) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// standBy serves Drain while another process relays: it asks the tables instead of the memory.
func (b *Bus) standBy(ctx context.Context) error {
	waiting := b.takeWaiting()
	if len(waiting) == 0 {
		return nil
	}
	due, err := b.anyDue(ctx)
	if err == nil && !due {
		due, err = b.anyBehind(ctx)
	}
	b.answer(waiting, err == nil && !due)
	return err
}

func (b *Bus) takeWaiting() []chan struct{} {
	if b.waiters.Load() == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiting
	b.waiting = nil
	return w
}

// answer ends the Drains when nothing is due, or lets them wait on.
func (b *Bus) answer(waiting []chan struct{}, quiet bool) {
	if quiet {
		for _, w := range waiting {
			close(w)
		}
		return
	}
	b.mu.Lock()
	b.waiting = append(b.waiting, waiting...)
	b.mu.Unlock()
}

// held is an event in memory. The loader makes it, from then on its lane alone changes it.
type held struct {
	id, key int64
	to      *route
	payload string
	loaded  bool   // payload is there (and counted)
	out     bool   // gone from the tables
	open    uint64 // listeners that have not handled it
	rows    uint64 // listeners that have a row in event_inbox
	tries   map[int]int
	again   *pump // it is a copy from the log, and lies in event_replay
}

// term is one unbroken time as the relay, with all that is remembered about the outbox.
type term struct {
	b      *Bus
	fence  int64
	routes map[string]*route
	lanes  [lanes]*lane

	registry int64             // of event_relay, when the term began
	pairs    []*pair           // all listeners
	pumps    []*pump           // of those of this program that are behind
	copies   map[string]*route // routes of the events that this program hears
	book     book
	pumping  atomic.Bool   // a pump has something to do
	fed      chan struct{} // capacity 1: the log grew, or a copy was delivered

	// Only the loader touches these.
	known  map[int64]struct{} // events in memory, and those done since the last scan began
	cursor int64              // events up to here were read; those that were committed later are found by sweep
	stale  int64              // up to here events may have rows in event_inbox from before this term
	swept  time.Time          // when to sweep next
	soon   time.Time          // the same if there may be late ones: somebody has just committed
	looked time.Time          // when the tables were last asked whether this term still holds
	full   bool               // heldMax was reached and logged
	first  func()             // closes handed
	handed chan struct{}      // closed once all that lay in the outbox when the term began is with the lanes

	mu   sync.Mutex
	gone []int64 // done; guarded by mu

	ahead, bytes atomic.Int64 // payloads in memory
	starved      atomic.Bool  // the loader waits for ahead to shrink
	busy         atomic.Int64 // lanes that have work or are given some
	worked       atomic.Bool  // there was work since the last beat
}

func (b *Bus) relay(ctx context.Context, fence int64) (err error) {
	t := &term{b: b, fence: fence, routes: map[string]*route{}, known: map[int64]struct{}{}, fed: make(chan struct{}, 1), handed: make(chan struct{})}
	t.first = sync.OnceFunc(func() { close(t.handed) })
	if err := t.begin(ctx); err != nil {
		return err
	}
	if t.stale, err = b.lastMarked(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range t.lanes {
		t.lanes[i] = newLane(t, i)
		g.Go(func() error { return t.lanes[i].run(ctx) })
	}
	g.Go(func() error { return t.load(ctx) })
	g.Go(func() error { return t.beat(ctx) })
	g.Go(func() error { return t.retain(ctx) })
	g.Go(func() error { return t.gauges(ctx) })
	if len(t.pumps) > 0 {
		g.Go(func() error { return t.replays(ctx) })
	}
	if b.crowd {
		g.Go(func() error { return t.chains(ctx) })
	}
	b.relaying.Store(true)
	defer b.relaying.Store(false)
	defer b.m.held.Set(0)
	return g.Wait()
}

// load reads the outbox and hands the events to the lanes.
func (t *term) load(ctx context.Context) error {
	if t.b.seam.slow != nil {
		t.b.seam.slow()
	}
	late := false // there may be events below the cursor that were just committed
	for {
		t.forget()
		waiting := t.b.takeWaiting()
		idle := t.busy.Load() == 0
		n, more, err := t.page(ctx)
		now := time.Now()
		if err == nil && (!now.Before(t.swept) || late && !now.Before(t.soon) || len(waiting) > 0 && t.b.crowd) {
			var found int
			found, err = t.sweep(ctx)
			n += found
			late = found > 0
		}
		if len(t.known) > 0 {
			t.worked.Store(true)
		}
		t.b.answer(waiting, err == nil && idle && n == 0 && t.busy.Load() == 0 && !t.pumping.Load())
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && now.Sub(t.looked) >= lookAgain {
			t.looked = now
			err = t.same(ctx)
		}
		if err != nil {
			return err
		}
		t.b.m.held.Set(float64(len(t.known)))
		if more {
			continue
		}
		wait := poll
		if late {
			wait = max(min(poll, time.Until(t.soon)), 0)
		}
		// Where many write at once, whoever wakes the relay may have committed an id that the cursor has passed.
		if t.b.sleep(ctx, wait) && t.b.crowd {
			late = true
		}
	}
}

// forget drops what was done before the scan that follows: its rows were deleted before, so the scan cannot bring them back.
func (t *term) forget() {
	t.mu.Lock()
	gone := t.gone
	t.gone = nil
	t.mu.Unlock()
	for _, id := range gone {
		delete(t.known, id)
	}
}

// page reads the next events behind the cursor. more says that there may be others right now.
func (t *term) page(ctx context.Context) (n int, more bool, err error) {
	t.starved.Store(true) // before the check: whoever makes room afterwards wakes the loader
	if t.ahead.Load() >= aheadMax || t.bytes.Load() >= aheadBytes {
		return 0, false, nil
	}
	t.starved.Store(false)
	if len(t.known) >= heldMax {
		if !t.full {
			t.full = true
			t.b.log.ErrorContext(ctx, "too many events wait for their next attempt; no others are read until some are parked", "held", len(t.known))
		}
		return 1, false, nil // 1: there may be others, so nothing is drained
	}
	t.full = false
	events, err := t.b.readPage(ctx, t.cursor)
	if err != nil {
		return 0, false, err
	}
	if n = len(events); n > 0 {
		last := events[n-1].id
		if err := t.hand(ctx, events); err != nil {
			return 0, false, err
		}
		t.cursor = last
	}
	if n < pageSize {
		t.first()
	}
	return n, n == pageSize, nil
}

// sweep looks for events below the cursor that were committed after it had passed. Its cost grows with what is held, so it
// comes the more seldom the longer it takes.
func (t *term) sweep(ctx context.Context) (int, error) {
	began := time.Now()
	defer func() {
		now := time.Now()
		t.swept, t.soon = now.Add(max(poll, 20*now.Sub(began))), now.Add(max(hurry, 20*now.Sub(began)))
	}()
	if t.cursor == 0 {
		return 0, nil
	}
	events, err := t.b.readBelow(ctx, t.cursor, t.known)
	if err != nil || len(events) == 0 {
		return 0, err
	}
	return len(events), t.hand(ctx, events)
}

// hand gives new events, sorted by id, to their lanes, and before them those that come before them.
func (t *term) hand(ctx context.Context, events []*row) error {
	events, err := t.withPrevious(ctx, events)
	if err != nil {
		return err
	}
	t.worked.Store(true)
	var marks map[int64][]mark
	if first, last := events[0].id, events[len(events)-1].id; first <= t.stale {
		var err error
		if marks, err = t.b.readMarks(ctx, first, last); err != nil {
			return err
		}
	}
	hs := make([]*handed, 0, len(events))
	for _, r := range events {
		if _, ok := t.known[r.id]; ok {
			continue
		}
		h := &handed{held: &held{id: r.id, key: r.key, to: t.route(r.name), payload: r.payload, loaded: r.loaded}}
		h.open, _ = h.to.open(marks[r.id])
		for _, m := range marks[r.id] {
			h.apply(m)
		}
		t.known[r.id] = struct{}{}
		hs = append(hs, h)
	}
	t.share(hs)
	return nil
}

// share gives events to their lanes.
func (t *term) share(hs []*handed) {
	var parts [lanes][]*handed
	for _, h := range hs {
		if h.loaded {
			t.count(h.held, 1)
		}
		i := uint64(h.key) * 0x9E3779B97F4A7C15 >> 32 % lanes
		parts[i] = append(parts[i], h)
	}
	for i, part := range parts {
		if len(part) > 0 {
			t.lanes[i].give(part)
		}
	}
}

// handed is an event on its way to its lane, with the attempts that an earlier term has written down.
type handed struct {
	*held
	retries []mark
}

func (h *handed) apply(m mark) {
	h.rows |= awayBit // whoever it is, there is a row
	for i, l := range h.to.of.listeners {
		if l.name != m.listener {
			continue
		}
		h.rows |= 1 << i
		if m.done {
			h.open &^= 1 << i
			return
		}
		if h.open&(1<<i) == 0 {
			return
		}
		if h.tries == nil {
			h.tries = map[int]int{}
		}
		h.tries[i] = m.attempts
		m.bit = i
		h.retries = append(h.retries, m)
	}
}

// count adds or takes away the payload of e.
func (t *term) count(e *held, by int64) {
	t.bytes.Add(by * int64(len(e.payload)))
	if n := t.ahead.Add(by); by < 0 && n < aheadMax/2 && t.starved.CompareAndSwap(true, false) {
		t.b.wake()
	}
}

// unload frees the payload of an event that has to wait; it is read again when its turn comes.
func (t *term) unload(e *held) {
	if e.loaded {
		t.count(e, -1)
		e.payload, e.loaded = "", false
	}
}

// finish remembers that events are out of the tables.
func (t *term) finish(ids []int64) {
	if len(ids) > 0 {
		t.mu.Lock()
		t.gone = append(t.gone, ids...)
		t.mu.Unlock()
	}
}

// rest is called by a lane that has nothing more to do now.
func (t *term) rest() {
	if t.busy.Add(-1) == 0 && t.b.waiters.Load() > 0 {
		t.b.wake()
	}
}

// call runs a listener and turns its panic into an error.
func call(name string, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("listener %s panicked: %v\n%s", name, p, stack())
		}
	}()
	return run()
}
