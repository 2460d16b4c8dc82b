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
)

// The relay's measures. The poll is a net under the wake-ups, for events of other processes.
const (
	maxListeners = 64                   // of one event name: they are bits of a word
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
	lease        = 15 * time.Second // how long a relay that fell silent keeps others waiting
	maxAttempts  = 12               // about seven minutes with the pauses below
	backoffFirst = 200 * time.Millisecond
	backoffMost  = 2 * time.Minute
	errorMax     = 1000 // bytes of an error's text that are kept
)

var (
	errLost = errors.New("another process relays now")
	errGone = errors.New("an event left the outbox from outside")
)

// Run relays until ctx ends; then it finishes the transaction under way and returns nil. A failing database is logged and
// tried again. Only one Run or Drain relays at a time; a second one waits.
func (b *Bus) Run(ctx context.Context) error {
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
	steal, pause := true, poll
	for ctx.Err() == nil {
		got, err := b.acquire(ctx, fence, steal)
		if err == nil && got == 0 {
			steal = false
			err = b.standBy(ctx)
			b.sleep(ctx, poll)
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
		case ctx.Err() != nil:
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

// sleep waits for a wake-up, at most d.
func (b *Bus) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-b.wakeup:
	case <-t.C:
	case <-ctx.Done():
	}
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

// route is an event name and its listeners; a listener is known by its index, as a bit.
type route struct {
	name      string
	listeners []Listener
	all       uint64
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
}

// term is one unbroken time as the relay, with all that is remembered about the outbox.
type term struct {
	b      *Bus
	fence  int64
	routes map[string]*route
	lanes  [lanes]*lane

	// Only the loader touches these.
	known  map[int64]struct{} // events in memory, and those done since the last scan began
	cursor int64              // events up to here were read; late ones of other processes are found by sweep
	stale  int64              // up to here events may have rows in event_inbox from before this term
	swept  time.Time          // when to sweep next
	full   bool               // heldMax was reached and logged

	mu   sync.Mutex
	gone []int64 // done; guarded by mu

	ahead, bytes atomic.Int64 // payloads in memory
	starved      atomic.Bool  // the loader waits for ahead to shrink
	busy         atomic.Int64 // lanes that have work or are given some
}

func (b *Bus) relay(ctx context.Context, fence int64) (err error) {
	t := &term{b: b, fence: fence, routes: map[string]*route{}, known: map[int64]struct{}{}}
	b.mu.Lock()
	for name, of := range b.listeners {
		t.routes[name] = &route{name: name, listeners: of, all: ^uint64(0) >> (64 - len(of))}
	}
	b.mu.Unlock()
	if t.stale, err = b.lastMarked(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range t.lanes {
		t.lanes[i] = newLane(t)
		g.Go(func() error { return t.lanes[i].run(ctx) })
	}
	g.Go(func() error { return t.load(ctx) })
	defer b.m.held.Set(0)
	return g.Wait()
}

// load reads the outbox and hands the events to the lanes.
func (t *term) load(ctx context.Context) error {
	for {
		t.forget()
		waiting := t.b.takeWaiting()
		idle := t.busy.Load() == 0
		n, more, err := t.page(ctx)
		if err == nil && !time.Now().Before(t.swept) {
			var late int
			late, err = t.sweep(ctx)
			n += late
		}
		t.b.answer(waiting, err == nil && idle && n == 0 && t.busy.Load() == 0)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		t.b.m.held.Set(float64(len(t.known)))
		if !more {
			t.b.sleep(ctx, poll)
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
	if err != nil || len(events) == 0 {
		return 0, false, err
	}
	if err := t.hand(ctx, events); err != nil {
		return 0, false, err
	}
	t.cursor = events[len(events)-1].id
	return len(events), len(events) == pageSize, nil
}

// sweep looks for events below the cursor that were committed after it had passed. Its cost grows with what is held, so it
// comes the more seldom the longer it takes.
func (t *term) sweep(ctx context.Context) (int, error) {
	began := time.Now()
	defer func() { t.swept = time.Now().Add(max(poll, 20*time.Since(began))) }()
	if t.cursor == 0 {
		return 0, nil
	}
	events, err := t.b.readBelow(ctx, t.cursor, t.known)
	if err != nil || len(events) == 0 {
		return 0, err
	}
	return len(events), t.hand(ctx, events)
}

// hand gives new events, sorted by id, to their lanes.
func (t *term) hand(ctx context.Context, events []*row) error {
	var marks map[int64][]mark
	if first, last := events[0].id, events[len(events)-1].id; first <= t.stale {
		var err error
		if marks, err = t.b.readMarks(ctx, first, last); err != nil {
			return err
		}
	}
	var parts [lanes][]*handed
	for _, r := range events {
		if _, ok := t.known[r.id]; ok {
			continue
		}
		to := t.routes[r.name]
		if to == nil {
			to = &route{name: r.name} // nobody listens: the event is only removed
			t.routes[r.name] = to
		}
		h := &handed{held: &held{id: r.id, key: r.key, to: to, payload: r.payload, loaded: r.loaded, open: to.all}}
		for _, m := range marks[r.id] {
			h.apply(m)
		}
		t.known[r.id] = struct{}{}
		if r.loaded {
			t.count(h.held, 1)
		}
		i := uint64(r.key) * 0x9E3779B97F4A7C15 >> 32 % lanes
		parts[i] = append(parts[i], h)
	}
	for i, part := range parts {
		if len(part) > 0 {
			t.lanes[i].give(part)
		}
	}
	return nil
}

// handed is an event on its way to its lane, with the attempts that an earlier term has written down.
type handed struct {
	*held
	retries []mark
}

func (h *handed) apply(m mark) {
	for i, l := range h.to.listeners {
		if l.name != m.listener {
			continue
		}
		h.rows |= 1 << i
		if m.done {
			h.open &^= 1 << i
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
