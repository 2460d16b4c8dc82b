package event

import (
	"container/heap"
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
)

func stack() string { return levee.Shorten(string(debug.Stack()), 4<<10) }

// strand names one order: the events of one key that have listeners in common.
type strand struct {
	of  *group
	key int64
}

// thread is what is held of one strand, by rising id.
type thread struct {
	of      strand
	events  []*held
	next    int    // events before it were passed: delivered, or waiting behind blocked listeners
	done    int    // finished events that still stand in events
	blocked uint64 // listeners whose first open event waits for its next attempt
	ready   bool   // it stands in the lane's ready list
}

// wait is a blocked listener of a thread and when its next attempt is due.
type wait struct {
	th  *thread
	bit int
	at  time.Time
}

type waits []wait

func (w waits) Len() int           { return len(w) }
func (w waits) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w waits) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waits) Push(x any)        { *w = append(*w, x.(wait)) }
func (w *waits) Pop() any {
	old := *w
	x := old[len(old)-1]
	old[len(old)-1] = wait{}
	*w = old[:len(old)-1]
	return x
}

// delivery is one event for one listener. With err it is not run but written down as failed, or, with park, given up.
type delivery struct {
	e    *held
	th   *thread
	bit  int   // -1: nobody listens, the event is only removed; logAs: it goes into the log
	seq  int64 // its number there
	run  deliver
	err  error
	park bool
	read bool
	// payload is there once read is set; the event's own may be gone by then, as it waits behind another one.
	payload string
}

func (d *delivery) listener() *Listener { return &d.e.to.of.listeners[d.bit] }

// plain says that no listener of this program is called.
func (d *delivery) plain() bool { return d.bit < 0 || d.bit == logAs }

// lane delivers the events of its keys, one batch after the other.
type lane struct {
	t     *term
	n     int           // which one it is
	bell  chan struct{} // capacity 1
	now   []*thread     // ready: have events that may be delivered
	all   map[strand]*thread
	later waits
	batch []delivery // reused

	touched []*thread            // reused
	warned  map[string]time.Time // when a failure of a listener was last logged as a warning

	mu     sync.Mutex
	inbox  []*handed // from the loader; guarded by mu
	active bool      // counted in term.busy; guarded by mu
}

func newLane(t *term, n int) *lane {
	return &lane{t: t, n: n, bell: make(chan struct{}, 1), all: map[strand]*thread{}, warned: map[string]time.Time{}}
}

// give is called by the loader.
func (l *lane) give(hs []*handed) {
	l.mu.Lock()
	l.inbox = append(l.inbox, hs...)
	if !l.active {
		l.active = true
		l.t.busy.Add(1)
	}
	l.mu.Unlock()
	select {
	case l.bell <- struct{}{}:
	default:
	}
}

// take moves what was given into the threads and reports whether the lane may rest (it is then no longer counted as busy).
func (l *lane) take(idle bool) (rested bool) {
	l.mu.Lock()
	hs := l.inbox
	l.inbox = nil
	switch {
	case len(hs) == 0 && idle && l.active:
		l.active, rested = false, true
	case !idle && !l.active:
		l.active = true
		l.t.busy.Add(1)
	}
	l.mu.Unlock()
	if rested {
		l.t.rest()
	}
	for _, h := range hs {
		l.add(h)
	}
	return rested
}

func (l *lane) add(h *handed) {
	of := strand{h.to.of, h.key}
	th := l.all[of]
	if th == nil {
		th = &thread{of: of}
		l.all[of] = th
	}
	at := len(th.events)
	for at > 0 && th.events[at-1].id > h.id { // a late one: before what has not been delivered yet
		at--
	}
	th.events = append(th.events, nil)
	copy(th.events[at+1:], th.events[at:])
	th.events[at] = h.held
	th.next = min(th.next, at)
	for _, m := range h.retries {
		// The time was written by another node's clock, maybe: it can be wrong, but no pause is longer than its kind.
		wait := min(max(m.retryAt.Sub(l.t.b.clock()), 0), backoff(m.attempts))
		l.block(th, m.bit, time.Now().Add(wait))
	}
	if h.open&awayBit != 0 {
		th.blocked |= awayBit // as long as this term lasts
	}
	if th.blocked != 0 {
		l.t.unload(h.held)
	}
	l.enlist(th)
}

func (l *lane) enlist(th *thread) {
	if !th.ready && th.next < len(th.events) {
		th.ready = true
		l.now = append(l.now, th)
	}
}

// block holds a listener back on a thread until at.
func (l *lane) block(th *thread, bit int, at time.Time) {
	if th.blocked&(1<<bit) != 0 {
		return // an earlier event of the thread blocks it already
	}
	th.blocked |= 1 << bit
	heap.Push(&l.later, wait{th, bit, at})
}

func (l *lane) run(ctx context.Context) error {
	for ctx.Err() == nil {
		for now := time.Now(); len(l.later) > 0 && !l.later[0].at.After(now); {
			w := heap.Pop(&l.later).(wait)
			w.th.blocked &^= 1 << w.bit
			w.th.next = 0
			l.enlist(w.th)
		}
		l.take(len(l.now) == 0)
		ds := l.collect()
		if len(ds) == 0 {
			if len(l.now) == 0 {
				l.sleep(ctx)
			}
			continue
		}
		for i := range ds {
			if i == 0 || ds[i].th != ds[i-1].th {
				l.touched = append(l.touched, ds[i].th)
			}
		}
		if err := l.process(ctx, ds); err != nil && ctx.Err() == nil {
			return err
		}
		for _, th := range l.touched {
			l.tidy(th)
		}
		clear(l.touched)
		l.touched = l.touched[:0]
		clear(ds)
	}
	return nil
}

func (l *lane) sleep(ctx context.Context) {
	if !l.take(true) && len(l.now) > 0 {
		return
	}
	var due <-chan time.Time
	if len(l.later) > 0 {
		t := time.NewTimer(time.Until(l.later[0].at))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-l.bell:
	case <-due:
	case <-ctx.Done():
	}
}

// collect fills a batch from the ready threads in turn. An event that failed before goes alone: its neighbours would be
// rolled back with it.
func (l *lane) collect() []delivery {
	ds := l.batch[:0]
	logs := 0 // do not count: they are written together
	for len(l.now) > 0 && len(ds)-logs < batchMax && logs < batchMax {
		th := l.now[0]
		for from := len(ds) - logs; th.next < len(th.events) && len(ds)-logs < batchMax && len(ds)-logs-from < threadMax && logs < batchMax; th.next++ {
			e := th.events[th.next]
			if e.open == 0 && !e.out {
				ds = append(ds, delivery{e: e, th: th, bit: -1})
			}
			if e.open&logBit != 0 {
				ds = append(ds, delivery{e: e, th: th, bit: logAs})
				logs++
			}
			for bit := range e.to.of.listeners {
				if e.open&^th.blocked&(1<<bit) == 0 {
					continue
				}
				if e.tries[bit] > 0 {
					if len(ds) == 0 {
						ds = append(ds, delivery{e: e, th: th, bit: bit})
					}
					l.batch = ds
					return ds
				}
				ds = append(ds, delivery{e: e, th: th, bit: bit})
			}
		}
		l.now[0] = nil
		l.now = l.now[1:]
		th.ready = false
		l.enlist(th)
		l.tidy(th)
	}
	l.batch = ds
	return ds
}

// tidy takes finished events out of a thread, and the thread out of the lane when it is empty.
func (l *lane) tidy(th *thread) {
	switch {
	case th.done == len(th.events) && th.blocked == 0:
		th.events, th.next, th.done = nil, 0, 0
		if !th.ready && l.all[th.of] == th {
			delete(l.all, th.of)
		}
	case 2*th.done > len(th.events):
		kept, next := th.events[:0], 0
		for i, e := range th.events {
			if i == th.next {
				next = len(kept)
			}
			if !e.out {
				kept = append(kept, e)
			}
		}
		if th.next >= len(th.events) {
			next = len(kept)
		}
		clear(th.events[len(kept):])
		th.events, th.next, th.done = kept, next, 0
	}
}

// process delivers ds: together in one transaction, or, where one fails, those before it, then the note of its failure, then
// those behind it.
func (l *lane) process(ctx context.Context, ds []delivery) error {
	ds, err := l.prepare(ctx, ds)
	if err != nil {
		return err
	}
	for len(ds) > 0 {
		n, bad, err := l.attempt(ctx, ds)
		switch {
		case err == nil:
			l.settle(ctx, ds[:n])
			ds = ds[n:]
		case bad < 0 || ctx.Err() != nil:
			return err
		default:
			if err := l.process(ctx, ds[:bad]); err != nil {
				return err
			}
			// A listener that was content the first time may have failed the second time, so ask the thread who waits now.
			waits := func(d *delivery) bool { return d.bit >= 0 && d.th.blocked&(1<<d.bit) != 0 }
			rest := ds[bad:bad]
			if !waits(&ds[bad]) {
				l.fault(ctx, &ds[bad], err)
				rest = ds[bad : bad+1]
			}
			for _, d := range ds[bad+1:] {
				if !waits(&d) {
					rest = append(rest, d)
				}
			}
			ds = rest
		}
	}
	return nil
}

// prepare reads missing payloads and decodes, outside the transaction.
func (l *lane) prepare(ctx context.Context, ds []delivery) ([]delivery, error) {
	var missing, copies []int64
	for i := range ds {
		switch e := ds[i].e; {
		case ds[i].read || e.loaded || i > 0 && ds[i-1].e == e:
		case e.again != nil:
			copies = append(copies, e.id)
		default:
			missing = append(missing, e.id)
		}
	}
	if len(missing)+len(copies) > 0 {
		payloads := make(map[int64]string, len(missing)+len(copies))
		if err := l.t.b.readPayloads(ctx, "event_outbox", missing, payloads); err != nil {
			return nil, err
		}
		if err := l.t.b.readPayloads(ctx, "event_replay", copies, payloads); err != nil {
			return nil, err
		}
		for i := range ds {
			e := ds[i].e
			p, ok := payloads[e.id]
			switch {
			case ds[i].read || e.loaded:
			case !ok:
				return nil, fmt.Errorf("event %d: %w", e.id, errGone)
			default:
				e.payload, e.loaded = p, true
				l.t.count(e, 1)
			}
		}
	}
	for i := range ds {
		d := &ds[i]
		if !d.read {
			d.payload, d.read = d.e.payload, true
		}
		if d.plain() || d.run != nil || d.err != nil {
			continue
		}
		if d.run, d.err = d.listener().hears[d.e.to.name](d.payload); d.err != nil {
			d.park = true // no later attempt can read it either
			l.logParked(ctx, d, 1)
		}
	}
	return ds, nil
}

// attempt runs as many of ds as fit into the time of one transaction and returns their number. On an error nothing was done;
// bad is then the delivery whose listener failed, or -1.
func (l *lane) attempt(ctx context.Context, ds []delivery) (n, bad int, err error) {
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	b := l.t.b
	first, end := l.number(ds)
	b.seam.sleep()
	bad = -1
	var spent [2*batchMax + maxListeners]time.Duration
	err = b.db.Tx(ctx, "event.deliver", func(ctx context.Context, tx *db.Tx) error {
		n, bad = 0, -1
		if err := l.t.holdTx(ctx, tx); err != nil {
			return err
		}
		began := time.Now()
		last := began
		for i := range ds {
			if i > 0 && last.Sub(began) > batchTime {
				break
			}
			if d := &ds[i]; d.run != nil && d.err == nil {
				if err := call(d.listener().name, func() error { return d.run(ctx, tx) }); err != nil {
					bad = i
					return err
				}
				now := time.Now()
				spent[i] = now.Sub(last)
				last = now
			}
			n++
		}
		return l.markAllTx(ctx, tx, ds[:n])
	})
	if first < end && (err == nil || bad >= 0) { // else it may have committed all the same
		if err == nil {
			for _, d := range ds[:n] {
				first = max(first, d.seq+1)
			}
		}
		l.t.book.done(l.n, first, end)
	}
	if err != nil {
		return 0, bad, err
	}
	for i, d := range ds[:n] {
		if d.run != nil && d.err == nil {
			b.m.of(d.listener().name).spent.Observe(spent[i].Seconds())
			if spent[i] > slowListener {
				b.log.WarnContext(ctx, "a listener held the database's writer for long; slow work belongs into a job",
					"listener", d.listener().name, "took", spent[i])
			}
		}
	}
	return n, -1, nil
}

// number gives what goes into the log its numbers, from first up to below end.
func (l *lane) number(ds []delivery) (first, end int64) {
	n := 0
	for i := range ds {
		if ds[i].bit == logAs {
			n++
		}
	}
	if n == 0 {
		return 0, 0
	}
	first = l.t.book.take(l.n, n)
	end = first
	for i := range ds {
		if ds[i].bit == logAs {
			ds[i].seq = end
			end++
		}
	}
	return first, end
}

// markAllTx writes down what was done. An event whose last listener is through leaves the tables; otherwise the inbox
// remembers who is.
func (l *lane) markAllTx(ctx context.Context, tx *db.Tx, ds []delivery) error {
	var out, copies []int64
	var log [][]any
	now := l.t.b.clock()
	for i := 0; i < len(ds); {
		e, done := ds[i].e, uint64(0)
		first := i
		for ; i < len(ds) && ds[i].e == e; i++ {
			if ds[i].bit >= 0 && (ds[i].err == nil || ds[i].park) {
				done |= 1 << ds[i].bit
			}
		}
		rows := e.rows
		for _, d := range ds[first:i] {
			if d.park {
				if err := parkTx(ctx, tx, &d, now); err != nil {
					return err
				}
			}
			if d.bit == logAs {
				log = append(log, []any{d.seq, e.id, e.to.name, e.key, d.payload, now.UnixMicro()})
			}
			if d.bit < 0 || (d.err == nil || d.park) && e.open&^done == 0 {
				continue
			}
			m := mark{done: d.err == nil || d.park, attempts: e.tries[d.bit]}
			if d.bit == logAs {
				m.retryAt = time.UnixMicro(d.seq)
			} else {
				m.listener = d.listener().name
			}
			text := ""
			if d.err != nil {
				text = levee.Shorten(d.err.Error(), errorMax)
				if !d.park {
					m.retryAt = now.Add(backoff(m.attempts))
				}
			}
			if err := markTx(ctx, tx, e.id, m, rows&(1<<d.bit) != 0, text); err != nil {
				return err
			}
		}
		if e.open&^done == 0 {
			if e.again == nil {
				out = append(out, e.id)
			} else {
				copies = append(copies, e.id)
			}
			if e.rows != 0 {
				if err := forgetTx(ctx, tx, e.id); err != nil {
					return err
				}
			}
		}
	}
	if len(log) > 0 {
		if err := tx.InsertRows(ctx, "event_log", logColumns, log); err != nil {
			return err
		}
	}
	if err := deleteTx(ctx, tx, "event_replay", copies); err != nil {
		return err
	}
	return deleteTx(ctx, tx, "event_outbox", out)
}

// settle brings the memory to what attempt has committed.
func (l *lane) settle(ctx context.Context, ds []delivery) {
	var out []int64
	now := l.t.b.clock()
	read := time.Now()
	fed := false
	for i := range ds {
		d := &ds[i]
		e := d.e
		if d.bit >= 0 {
			e.rows |= 1 << d.bit
			if d.err != nil && !d.park {
				continue
			}
			e.open &^= 1 << d.bit
			if d.bit == logAs {
				fed = true
			} else if d.err == nil {
				m := l.t.b.m.of(d.listener().name)
				m.delivered.Inc()
				m.rate.add(1, read)
				m.lag.Observe(max(now.Sub(id.TimeOf(e.id)).Seconds(), 0))
			}
		}
		if e.open == 0 && (i+1 == len(ds) || ds[i+1].e != e) {
			e.out = true
			d.th.done++
			l.t.unload(e)
			if e.again == nil {
				out = append(out, e.id)
			} else {
				e.again.out.Add(-1)
				fed = true
			}
		}
	}
	l.t.finish(out)
	if fed && len(l.t.pumps) > 0 {
		select {
		case l.t.fed <- struct{}{}:
		default:
		}
	}
}
