package cache

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	sampleDefault, sampleMax = 10_000, 1_000_000_000
	// sampleAfter is how long after a read it is looked into, sampleApart the least time between two such looks, and sampleQueue how many
	// may wait for theirs.
	sampleAfter = time.Second
	sampleApart = 100 * time.Millisecond
	sampleQueue = 16
)

// sample is a read to be looked into.
type sample[K comparable, V any] struct {
	ctx     context.Context //nolint:containedctx // of the read, whose values its load needs
	key     K
	version int64
	absent  bool
	load    Load[K, V]
	due     time.Time
}

// sampled is called for one in hotEvery of the first level's hits (n of them), and for each read of the second level (n is 1).
func (s *Shared[K, V]) sampled(ctx context.Context, k K, e *versioned[V], n uint32, load Load[K, V]) {
	s.hot.add(k, int64(n), s.clock.NowNano())
	if s.cfg.Sample > 0 && rand.Uint32N(max(uint32(s.cfg.Sample)/n, 1)) == 0 { //nolint:gosec // chance, not secrecy
		select {
		case s.samples <- sample[K, V]{context.WithoutCancel(ctx), k, e.version, e.absent != nil, load, time.Now().Add(s.sampleAfter)}:
		default: // there are enough
		}
	}
}

// inspect looks into samples, one at a time and no more than ten a second.
func (s *Shared[K, V]) inspect(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-s.samples:
			if !pause(ctx, time.Until(x.due)) {
				return
			}
			result := s.verify(ctx, x)
			if ctx.Err() != nil {
				return
			}
			s.m.samples.WithLabelValues(s.cfg.Name, result).Inc()
			if !pause(ctx, sampleApart) {
				return
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// verify compares what was read with the primary. A difference may be a change that came after the read, so it looks a second time at
// what a read would be given: what is still as old as before, so much later, is stale.
func (s *Shared[K, V]) verify(ctx context.Context, x sample[K, V]) (result string) {
	defer func() {
		if bug := recover(); bug != nil {
			s.caught(bug)
			result = "error"
		}
	}()
	with, cancel := context.WithCancel(x.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	truth, err := s.read(with, x.key, true, x.load)
	gone := truth.absent != nil
	switch {
	case err != nil:
		return "error"
	case x.absent && gone, !x.absent && !gone && truth.version == x.version:
		return "ok"
	case !x.absent && !gone && truth.version < x.version:
		return "ahead" // versions do not count up: a backup was restored, or a change did not count
	}
	if !pause(ctx, s.sampleAfter) {
		return "error"
	}
	e, ok := s.peek(with, x.key)
	switch {
	case !ok || e.version != x.version || (e.absent != nil) != x.absent:
		return "ok" // what was read then is not what is read now
	case x.absent && e.version >= truth.version:
		return "ok" // it is gone again
	}
	return "stale"
}

// peek returns what a Get would be given without a load.
func (s *Shared[K, V]) peek(ctx context.Context, k K) (e versioned[V], ok bool) {
	if there, ok := s.first.GetEntryQuietly(k); ok {
		if e := there.Value; !e.buried && e.age == s.age.Load() && s.clock.NowNano() < e.until {
			return *e, true
		}
	}
	if s.remote == nil {
		return e, false
	}
	key, err := s.codec.key(k)
	if err != nil {
		return e, false
	}
	found, _, err := s.remote.get(ctx, key)
	if err != nil {
		return e, false
	}
	return s.codec.read(found)
}
