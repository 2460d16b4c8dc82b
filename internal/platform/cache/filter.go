package cache

import (
	"context"
	"hash/maphash"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

// FilterConfig of Shared.Filter. The zero value is usable.
type FilterConfig struct {
	// Every is the time between two walks, from 1 s to 30 days. Default 24 hours. A walk forgets the ids that have gone.
	Every time.Duration
	// MaxCommit is the longest from Announce to the end of the transaction, from 10 ms to 10 minutes. Default 1 minute. A walk begins so
	// long after the filter that it fills was made. It must also cover the time in which a Redis that was replaced still answers.
	MaxCommit time.Duration
}

const (
	everyDefault, everyMin     = 24 * time.Hour, time.Second
	commitDefault, commitMin   = time.Minute, 10 * time.Millisecond
	commitMax                  = 10 * time.Minute
	filterBits, filterProbes   = 16, 7 // per id: one in 1,500 ids that do not exist is taken for one that may; a few more when it has grown
	filterLeast                = 1 << 14
	filterRetry, filterCatchUp = 10 * time.Second, time.Second
)

// Validate returns CodeInvalid, which names field, allowed and given, when a value is neither zero nor within its bounds.
func (c FilterConfig) Validate() error {
	c = c.filled()
	switch {
	case c.Every < everyMin || c.Every > ttlMax:
		return levee.Invalid("cache.filter.every", "from 1s to 720h", c.Every)
	case c.MaxCommit < commitMin || c.MaxCommit > commitMax:
		return levee.Invalid("cache.filter.max_commit", "from 10ms to 10m", c.MaxCommit)
	}
	return nil
}

func (c FilterConfig) filled() FilterConfig {
	if c.Every == 0 {
		c.Every = everyDefault
	}
	if c.MaxCommit == 0 {
		c.MaxCommit = commitDefault
	}
	return c
}

func (c FilterConfig) clamped() FilterConfig {
	c = c.filled()
	c.Every = min(max(c.Every, everyMin), ttlMax)
	c.MaxCommit = min(max(c.MaxCommit, commitMin), commitMax)
	return c
}

// Walk calls found with every key that exists in SQL at its begin. It reads from where its context leads: the primary.
type Walk[K comparable] func(ctx context.Context, found func(K)) error

// Filter keeps reads of ids that were never given away from the second level and SQL: a Bloom filter of the ids that exist, filled by a walk over
// them. It answers with CodeNotFound only what does not exist: on all nodes, every insert calls Announce before its commit, with
// SharedConfig.Guessable set, and a filter that does not know a key asks Redis for what was announced since (many askers together,
// one round trip) before it says so. While it is being filled, and while Redis is away, it lets everything through. It is called once, before
// the cache is used.
func (s *Shared[K, V]) Filter(cfg FilterConfig, walk Walk[K]) {
	f := s.filter
	if f == nil || f.walking.Swap(true) {
		panic("cache: Filter needs SharedConfig.Guessable, and is called once")
	}
	s.tasks.Go(func() { s.fillFilter(s.ctx, cfg.clamped(), walk) })
}

// Announce says that keys are about to be made: it is called in the transaction that inserts them, before its commit. What is
// announced and not made costs nothing but a look-up. Without Guessable it does nothing.
//
// CodeUnavailable when Redis did not take it. The transaction may go on all the same: the keys are then unknown to the other nodes'
// filters until Invalidate, which announces them again, has got through.
func (s *Shared[K, V]) Announce(ctx context.Context, keys ...K) error {
	if s.filter == nil || len(keys) == 0 {
		return nil
	}
	s.filter.add(keys...)
	if s.remote == nil {
		return nil
	}
	list := make([]string, len(keys))
	for i, k := range keys {
		var err error
		if list[i], err = s.codec.key(k); err != nil {
			return err
		}
	}
	if err := s.remote.announce(ctx, list); err != nil {
		return levee.E(levee.CodeUnavailable, "the cache's second level has not taken the announcement").Because(err).After(time.Second)
	}
	return nil
}

// filter is what this node knows of the keys that exist.
type filter[K comparable] struct {
	seed    maphash.Seed
	walking atomic.Bool
	now     atomic.Pointer[bloom] // nil: every key may exist

	mu      sync.Mutex // guards the rest
	next    *bloom     // is being filled, and told of all that now is told
	life    int        // counts how often what was known turned out to have a hole
	epoch   string     // of Redis, and how much of what was announced in it is known here
	seen    int64
	round   *sending // the next look at what was announced
	looking bool
	dropped chan struct{}
}

func newFilter[K comparable]() *filter[K] {
	return &filter[K]{seed: maphash.MakeSeed(), dropped: make(chan struct{}, 1)}
}

func (f *filter[K]) add(keys ...K) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addLocked(keys...)
}

func (f *filter[K]) addLocked(keys ...K) {
	now := f.now.Load()
	for _, k := range keys {
		h := maphash.Comparable(f.seed, k)
		if now != nil {
			now.add(h)
		}
		if f.next != nil {
			f.next.add(h)
		}
	}
}

// may reports whether a key may exist, as far as this node knows.
func (f *filter[K]) may(k K) bool {
	now := f.now.Load()
	return now == nil || now.has(maphash.Comparable(f.seed, k))
}

// drop lets everything through until a walk has been made anew. f.mu is held.
func (f *filter[K]) drop() {
	f.now.Store(nil)
	f.next = nil
	f.life++
	select {
	case f.dropped <- struct{}{}:
	default:
	}
}

// gone reports whether a key surely does not exist: it is not known here, and was not announced anywhere before this was asked.
func (s *Shared[K, V]) gone(ctx context.Context, k K) bool {
	f := s.filter
	if f == nil || f.may(k) || s.remote != nil && s.caughtUp(ctx) != nil || f.may(k) {
		return false
	}
	s.m.filtered.Inc()
	return true
}

// caughtUp waits for a look at what was announced that began after this was called.
func (s *Shared[K, V]) caughtUp(ctx context.Context) error {
	f := s.filter
	f.mu.Lock()
	r := f.round
	if r == nil {
		r = &sending{done: make(chan struct{})}
		f.round = r
	}
	if !f.looking {
		f.looking = true
		s.tasks.Go(s.lookForNew)
	}
	f.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lookForNew looks until nobody waits.
func (s *Shared[K, V]) lookForNew() {
	f := s.filter
	for {
		f.mu.Lock()
		r := f.round
		if f.round = nil; r == nil {
			f.looking = false
			f.mu.Unlock()
			return
		}
		epoch, seen := f.epoch, f.seen
		f.mu.Unlock()
		var got announced
		if got, r.err = s.remote.announcedSince(s.ctx, epoch, seen); r.err == nil {
			f.mu.Lock()
			// Nobody else changes epoch and seen: there is one that looks.
			if f.epoch, f.seen = got.epoch, got.total; got.hole {
				f.drop()
			}
			for _, text := range got.keys {
				if k, err := s.codec.parseKey(text); err == nil {
					f.addLocked(k)
				}
			}
			f.mu.Unlock()
		}
		close(r.done)
	}
}

// fillFilter walks, again and again. What was announced before next was made has committed, or never will, when MaxCommit is over, and is
// seen by the walk; what was announced after goes into next.
func (s *Shared[K, V]) fillFilter(ctx context.Context, cfg FilterConfig, walk Walk[K]) {
	f := s.filter
	size := filterLeast
	for ctx.Err() == nil {
		select {
		case <-f.dropped:
		default:
		}
		f.mu.Lock()
		next, life := newBloom(size), f.life
		f.next = next
		f.mu.Unlock()
		err := s.walkInto(ctx, next, cfg, walk)
		wait := filterRetry
		if wait = min(wait, cfg.Every); err == nil {
			f.mu.Lock()
			if f.life == life {
				f.now.Store(next)
				wait = s.spread(cfg.Every)
				size = max(filterLeast, int(next.count.Load()))
			} else {
				wait = 0
			}
			f.next = nil
			f.mu.Unlock()
		} else if ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the filter of ids could not be filled: it lets everything through, or what it did before", slog.Any("error", err))
		}
		for end := time.Now().Add(wait); time.Now().Before(end); {
			t := time.NewTimer(min(filterCatchUp, time.Until(end)))
			select {
			case <-ctx.Done():
				end = time.Time{}
			case <-f.dropped:
				end = time.Time{}
				s.log.LogAttrs(ctx, slog.LevelInfo, "the filter of ids may have missed some: it lets everything through until it is filled again")
			case <-t.C:
				if s.remote != nil {
					_ = s.caughtUp(ctx) // so that little is left to be read when somebody asks
				}
			}
			t.Stop()
		}
	}
}

func (s *Shared[K, V]) walkInto(ctx context.Context, next *bloom, cfg FilterConfig, walk Walk[K]) error {
	for end := time.Now().Add(cfg.MaxCommit); time.Now().Before(end); {
		if s.remote != nil {
			if err := s.caughtUp(ctx); err != nil {
				return err
			}
		}
		if !pause(ctx, min(filterCatchUp, time.Until(end))) {
			return ctx.Err()
		}
	}
	if s.cfg.Primary != nil {
		ctx = s.cfg.Primary(ctx)
	}
	if err := walk(ctx, func(k K) { next.add(maphash.Comparable(s.filter.seed, k)) }); err != nil {
		return err
	}
	if s.remote != nil {
		return s.caughtUp(ctx)
	}
	return ctx.Err()
}

// bloom is a Bloom filter that may be added to while it is read, and grows by another one of twice the size when it is full.
type bloom struct {
	layers atomic.Pointer[[]*bloomLayer]
	count  atomic.Int64
	mu     sync.Mutex // held while a layer is added
}

type bloomLayer struct {
	words []atomic.Uint64
	most  int64 // it is full when count is this
}

func newBloom(keys int) *bloom {
	b := &bloom{}
	b.layers.Store(&[]*bloomLayer{newBloomLayer(keys, 0)})
	return b
}

func newBloomLayer(keys int, before int64) *bloomLayer {
	n := 1 << bits.Len(uint(keys-1))
	return &bloomLayer{words: make([]atomic.Uint64, n*filterBits/64), most: before + int64(n)}
}

// probe calls fn with the places of a hash until it returns false.
func (l *bloomLayer) probe(h uint64, fn func(word *atomic.Uint64, bit uint64) bool) bool {
	step := bits.RotateLeft64(h, 32) | 1
	for range filterProbes {
		i := h & uint64(len(l.words)*64-1)
		if !fn(&l.words[i/64], 1<<(i%64)) {
			return false
		}
		h += step
	}
	return true
}

func (l *bloomLayer) has(h uint64) bool {
	return l.probe(h, func(w *atomic.Uint64, bit uint64) bool { return w.Load()&bit != 0 })
}

func (b *bloom) has(h uint64) bool {
	for _, l := range *b.layers.Load() {
		if l.has(h) {
			return true
		}
	}
	return false
}

func (b *bloom) add(h uint64) {
	if b.has(h) {
		return
	}
	layers := *b.layers.Load()
	last := layers[len(layers)-1]
	if b.count.Add(1) > last.most {
		b.mu.Lock()
		if layers = *b.layers.Load(); layers[len(layers)-1] == last {
			size := 2 * len(last.words) * 64 / filterBits
			grown := append(append([]*bloomLayer{}, layers...), newBloomLayer(size, last.most))
			b.layers.Store(&grown)
			layers = grown
		}
		last = layers[len(layers)-1]
		b.mu.Unlock()
	}
	last.probe(h, func(w *atomic.Uint64, bit uint64) bool { w.Or(bit); return true })
}
