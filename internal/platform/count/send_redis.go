package count

import (
	"context"
	"errors"
	"sync"
	"time"

	"levee"
)

// target is what a change is of: a counter, or a member of a board.
type target struct {
	key
	member string // "" for a counter
	most   int    // of a board
}

type lane struct {
	mu      sync.Mutex
	next    *sending // guarded by mu: gathers
	busy    bool     // guarded by mu: somebody sends
	doubt   *sending // guarded by mu: was sent and not answered
	number  int64    // guarded by mu
	waiting int      // guarded by mu: changes of boards that wait for Redis
	callers int      // guarded by mu: who waits for the batch that gathers
}

// sending is a batch.
type sending struct {
	number int64
	ops    map[target]replayed
	done   chan struct{}
	err    error
}

// send adds a change to the lane's next batch and waits until that was taken.
func (r *remote) send(ctx context.Context, t target, op replayed) error {
	at := laneOf(t.key)
	l := &r.lanes[at]
	healthy := r.client.Healthy()
	l.mu.Lock()
	if !healthy {
		if t.member == "" {
			l.mu.Unlock()
			return r.alone(ctx, t.key, op.n)
		}
		defer l.mu.Unlock()
		return l.wait(t, op, r.cfg.Keys/laneCount, r.metrics)
	}
	b := l.gather(t, op)
	l.callers++
	lead := !l.busy
	l.busy = true
	l.mu.Unlock()
	if lead {
		if r.round(at) { // more came meanwhile: they must not wait for this caller
			r.tasks.Go(func() {
				for r.round(at) {
				}
			})
		}
	}
	<-b.done
	return b.err
}

// alone takes a change into this node's own book.
func (r *remote) alone(ctx context.Context, k key, n int64) error {
	r.metrics.alone.Inc()
	return r.book.add(ctx, k, n)
}

// gather is called with mu held.
func (l *lane) gather(t target, op replayed) *sending {
	if l.next == nil {
		l.next = &sending{ops: map[target]replayed{}, done: make(chan struct{})}
	}
	l.next.ops[t] = l.next.ops[t].and(op.n, op.set)
	return l.next
}

// wait keeps a board's change until Redis is back. It is called with mu held.
func (l *lane) wait(t target, op replayed, most int, m *metrics) error {
	if l.waiting >= max(most, 1) {
		return levee.E(levee.CodeUnavailable, "too many changes of boards wait for Redis").After(time.Second)
	}
	l.waiting++
	m.alone.Inc()
	l.gather(t, op)
	return nil
}

// round sends one batch and reports whether there is another.
func (r *remote) round(at int) (more bool) {
	l := &r.lanes[at]
	l.mu.Lock()
	b, doubt := l.next, l.doubt
	l.next, l.waiting, l.callers = nil, 0, 0
	l.mu.Unlock()
	var err error
	if doubt != nil {
		if r.fault != nil {
			r.fault(l, doubt)
		}
		// It was taken or not. If its number was taken this one is not.
		if err = r.deliver(at, doubt); err == nil || !away(err) {
			l.mu.Lock()
			l.doubt = nil
			l.mu.Unlock()
		}
	}
	switch {
	case b == nil:
	case err != nil && away(err):
		r.keep(at, b) // it was not sent
	default:
		l.mu.Lock()
		l.number++
		b.number = l.number
		l.mu.Unlock()
		b.err = r.deliver(at, b)
		if errors.Is(b.err, errNotSent) {
			r.keep(at, b)
		} else if away(b.err) {
			l.mu.Lock()
			l.doubt, b.err = b, nil
			l.mu.Unlock()
			r.metrics.alone.Add(float64(len(b.ops)))
		}
	}
	if b != nil {
		close(b.done)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// What waits for Redis does so without anybody going round.
	more = l.next != nil && (l.callers > 0 || r.client.Healthy())
	l.busy = more
	return more
}

// keep takes a batch that was not sent into the book, and puts changes of boards before those that come next.
func (r *remote) keep(at int, b *sending) {
	b.err = nil
	l := &r.lanes[at]
	for t, op := range b.ops {
		if t.member == "" {
			if err := r.alone(context.Background(), t.key, op.n); err != nil {
				b.err = err
			}
			continue
		}
		l.mu.Lock()
		if l.next == nil {
			l.next = &sending{ops: map[target]replayed{}, done: make(chan struct{})}
		}
		if later, ok := l.next.ops[t]; ok {
			op = op.and(later.n, later.set)
		}
		l.next.ops[t] = op
		l.waiting++
		l.mu.Unlock()
	}
}

// errNotSent is in errors of batches that Redis has certainly not taken.
var errNotSent = errors.New("count: not sent")

// deliver sends a batch under its number.
func (r *remote) deliver(at int, b *sending) error {
	ctx := context.Background()
	keys := []string{r.seen(at), r.dirty(at)}
	args := []any{b.number, number()}
	starts := map[int64]target{}
	for t, op := range b.ops {
		if t.member == "" {
			keys = append(keys, r.at("v", t.key))
			args = append(args, "c", dirtyName(false, t.key), op.n)
			continue
		}
		what := "i"
		if op.set {
			what = "s"
		}
		starts[int64(len(args)+1)] = t
		keys = append(keys, r.at("z", t.key), r.at("d", t.key), r.at("m", t.key), r.at("r", t.key))
		args = append(args, what, dirtyName(true, t.key), op.n, t.member, t.most, int64(Most))
	}
	for range len(starts) + 2 {
		cold, err := addScript.RunFast(ctx, r.client, keys, args...).Int64()
		if err != nil {
			return err
		}
		if cold == 0 {
			return nil
		}
		t := starts[cold]
		if err := r.loadBoard(ctx, t.key, t.most); err != nil {
			return errors.Join(errNotSent, err)
		}
	}
	return levee.E(levee.CodeUnavailable, "boards are loaded and gone again").Because(errNotSent)
}
