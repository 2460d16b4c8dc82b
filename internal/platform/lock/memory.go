package lock

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// memory is the driver for one process: a queue per name, in shards. A name that nobody holds takes no memory.
type memory struct {
	seed   maphash.Seed
	fence  atomic.Uint64
	done   chan struct{} // closed by close
	once   sync.Once
	shards [64]shard
}

type shard struct {
	mu    sync.Mutex        // guards the places, too
	names map[string]*place // those that are held or waited for
	spare []*place
	_     [64]byte // a cache line of its own
}

// place is a name in use.
type place struct {
	holders []*request
	min     int       // the lowest limit of the holders
	queue   []*waiter // the first came first
}

// waiter is a request in the queue.
type waiter struct {
	r     *request
	ready chan struct{} // closed when it is granted
	g     grant         // written before ready is closed
	gave  bool          // its ctx has ended
}

func newMemory() *memory {
	m := &memory{seed: maphash.MakeSeed(), done: make(chan struct{})}
	m.fence.Store(uint64(time.Now().UnixMicro()))
	for i := range m.shards {
		m.shards[i].names = map[string]*place{}
	}
	return m
}

func (m *memory) shard(name string) *shard {
	return &m.shards[maphash.String(m.seed, name)%uint64(len(m.shards))]
}

func (p *place) fits(limit int) bool {
	return len(p.holders) == 0 || len(p.holders) < limit && len(p.holders) < p.min
}

// admit grants; the caller holds the shard's mu.
func (m *memory) admit(p *place, r *request, now time.Time) grant {
	if len(p.holders) == 0 || r.limit < p.min {
		p.min = r.limit
	}
	p.holders = append(p.holders, r)
	r.place, r.until = p, now.Add(r.hold)
	return grant{fence: m.fence.Add(1), asked: now, ttl: r.hold}
}

// expel ends a holder's grant; the caller holds the shard's mu.
func (p *place) expel(i int) {
	p.holders[i].place = nil
	last := len(p.holders) - 1
	p.holders[i] = p.holders[last]
	p.holders[last] = nil
	p.holders = p.holders[:last]
	p.min = permitsMax
	for _, h := range p.holders {
		p.min = min(p.min, h.limit)
	}
}

// settle ends what has run out and hands places to those who wait. The caller holds the shard's mu.
func (m *memory) settle(p *place, now time.Time) {
	for i := len(p.holders) - 1; i >= 0; i-- {
		if !now.Before(p.holders[i].until) {
			p.expel(i)
		}
	}
	for len(p.queue) > 0 && (p.queue[0].gave || p.fits(p.queue[0].r.limit)) {
		w := p.queue[0]
		p.queue[0] = nil
		if p.queue = p.queue[1:]; w.gave {
			continue
		}
		w.g = m.admit(p, w.r, now)
		w.g.waited = true
		close(w.ready)
	}
}

// forget drops a name that nobody holds; then nobody waits for it either. The caller holds mu.
func (s *shard) forget(name string, p *place) {
	if len(p.holders) == 0 {
		delete(s.names, name)
		if p.queue = nil; len(s.spare) < 64 {
			s.spare = append(s.spare, p)
		}
	}
}

func (m *memory) acquire(ctx context.Context, r *request) (grant, error) {
	s, now := m.shard(r.name), r.began
	s.mu.Lock()
	p := s.names[r.name]
	if p == nil {
		if n := len(s.spare); n > 0 {
			p, s.spare = s.spare[n-1], s.spare[:n-1]
		} else {
			p = &place{}
		}
		s.names[r.name] = p
	} else {
		m.settle(p, now)
	}
	if len(p.queue) == 0 && p.fits(r.limit) {
		g := m.admit(p, r, now)
		s.mu.Unlock()
		return g, nil
	}
	if r.try {
		s.mu.Unlock()
		return grant{}, errHeld
	}
	w := &waiter{r: r, ready: make(chan struct{})}
	p.queue = append(p.queue, w)
	first := p.first()
	s.mu.Unlock()
	// A holder that does not come back is passed over at the end of its MaxHold.
	t := time.NewTimer(time.Until(first))
	defer t.Stop()
	var err error
	for err == nil {
		select {
		case <-w.ready:
			return w.g, nil
		case <-t.C:
			s.mu.Lock()
			if !w.granted() {
				m.settle(p, time.Now())
				if !w.granted() {
					t.Reset(time.Until(p.first()))
				}
			}
			s.mu.Unlock()
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-m.done:
			err = errClosed
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.granted() {
		return w.g, nil
	}
	w.gave = true
	m.settle(p, time.Now())
	s.forget(r.name, p)
	return grant{}, err
}

// first is when the first of the holders ends.
func (p *place) first() (t time.Time) {
	for _, h := range p.holders {
		if t.IsZero() || h.until.Before(t) {
			t = h.until
		}
	}
	return t
}

// queued reports whether somebody waits for the name.
func (m *memory) queued(name string) bool {
	s := m.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.names[name]
	return p != nil && len(p.queue) > 0
}

func (w *waiter) granted() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

func (m *memory) renew(_ context.Context, r *request, ttl time.Duration) error {
	s, now := m.shard(r.name), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.place == nil || !now.Before(r.until) {
		return errGone
	}
	if until := now.Add(ttl); until.After(r.until) { // a ticket's: a lease lasts for MaxHold from the beginning
		r.until = until
	}
	return nil
}

func (m *memory) release(_ context.Context, r *request) error {
	s := m.shard(r.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := r.place
	if p == nil {
		return errGone
	}
	for i, h := range p.holders {
		if h == r {
			p.expel(i)
			break
		}
	}
	if len(p.queue) > 0 { // else there is no need of the clock
		m.settle(p, time.Now())
	}
	s.forget(r.name, p)
	return nil
}

func (m *memory) close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}
