// Package cache owns copies, in process memory, of what is read often and changes seldom.
//
// It does not own the truth, which is in SQL: whoever changes it calls Invalidate after the commit (db.Tx.AfterCommit).
package cache

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"
	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/obs"
)

// Config of one cache. The zero value is usable, but every cache should have a name.
type Config struct {
	// Name is the cache's name in metrics (label cache): up to 64 letters, digits, blanks and -_.:/, ; another text becomes name- and a
	// number made of it. Default "unnamed". Two caches of one name over one Obs show the
	// numbers of the younger.
	Name string
	// Entries is the most copies that are kept, from 1 to 10,000,000. Default 10,000. The cache may pass it for a moment. With
	// too few, loads rise; what is read often stays longest (W-TinyLFU). A copy takes about 200 bytes beside key and value.
	Entries int
	// TTL is the longest a copy is used, from 1 ms to 30 days. Default 1 minute. It is the bound for changes that nobody
	// invalidated (made by another process), and not needed for those that somebody did.
	TTL time.Duration
	// NegativeTTL is the longest that "there is no such thing" is remembered, from 1 ms to TTL. Default 5 seconds, or TTL when
	// that is less. It keeps guessed ids away from SQL; what is created must be invalidated too.
	NegativeTTL time.Duration
	// Spread is the share of its lifetime by which a copy may end sooner, by chance, from 0.001 to 0.5. Default 0.1. So copies
	// made together do not end together and fall on SQL in one moment.
	Spread float64
	// Bus tells the other nodes what this one invalidates, within milliseconds. Nil: the other nodes' changes show after TTL.
	// A message that is lost on a connection that holds is not repeated; what was lost with a connection makes all copies go. A
	// load that reads from a replica may read what was before the change and keep it for TTL: Shared knows versions and does not.
	Bus Bus
}

// The defaults and bounds of Config.
const (
	entriesDefault, entriesMax = 10_000, 10_000_000
	ttlDefault, negativeTTL    = time.Minute, 5 * time.Second
	ttlMin, ttlMax             = time.Millisecond, 30 * 24 * time.Hour
	spreadDefault              = 0.1
	spreadMin, spreadMax       = 0.001, 0.5
)

// Validate returns CodeInvalid, which names field, allowed and given, when a value is neither zero nor within its bounds.
func (c Config) Validate() error {
	c = c.filled()
	switch {
	case !isName(c.Name):
		return levee.Invalid("cache.name", "up to 64 letters, digits, blanks and -_.:/,", levee.Shorten(strconv.Quote(c.Name), nameMost))
	case c.Entries < 1 || c.Entries > entriesMax:
		return levee.Invalid("cache.entries", "from 1 to 10000000", c.Entries)
	case c.TTL < ttlMin || c.TTL > ttlMax:
		return levee.Invalid("cache.ttl", "from 1ms to 720h", c.TTL)
	case c.NegativeTTL < ttlMin || c.NegativeTTL > c.TTL:
		return levee.Invalid("cache.negative_ttl", "from 1ms to the ttl", c.NegativeTTL)
	case !(c.Spread >= spreadMin && c.Spread <= spreadMax):
		return levee.Invalid("cache.spread", "from 0.001 to 0.5", c.Spread)
	}
	return nil
}

// filled returns the config with defaults in place of zeros.
func (c Config) filled() Config {
	if c.Name == "" {
		c.Name = "unnamed"
	}
	if c.Entries == 0 {
		c.Entries = entriesDefault
	}
	if c.TTL == 0 {
		c.TTL = ttlDefault
	}
	if c.NegativeTTL == 0 {
		c.NegativeTTL = min(negativeTTL, c.TTL)
	}
	if c.Spread == 0 {
		c.Spread = spreadDefault
	}
	return c
}

// clamped returns the config with each value at its nearest bound.
func (c Config) clamped() Config {
	c.Name = named(c.Name)
	c.Entries = min(max(c.Entries, 1), entriesMax)
	c.TTL = min(max(c.TTL, ttlMin), ttlMax)
	c.NegativeTTL = min(max(c.NegativeTTL, ttlMin), c.TTL)
	if c.Spread = min(c.Spread, spreadMax); !(c.Spread >= spreadMin) {
		c.Spread = spreadMin
	}
	return c
}

// Cache keeps copies of values V by key K. A value is shared by all who get it and must not be changed. Made by New; safe for
// concurrent use; it starts no goroutine that outlives a call for long.
type Cache[K comparable, V any] struct {
	cfg     Config
	entries *otter.Cache[K, *entry[V]] // what they point to is not changed
	// age counts the calls of InvalidateAll. An entry is of the age in which its load began, and one of an earlier age than
	// the reader is no copy: otter's own InvalidateAll does not reach loads that are under way.
	age      atomic.Uint64
	slow     atomic.Uint64 // Gets that missed at first sight: otter counts that miss, and again what follows
	counts   *stats.Counter
	negative prometheus.Counter
	ok, fail prometheus.Observer // seconds of loads
	teller   *teller[K]          // nil without a bus
}

// entry is a copy, or the error that says that there is nothing.
type entry[V any] struct {
	value  V
	absent *levee.Error
	age    uint64
}

// New makes a cache. A value of cfg that is out of its bounds is taken as the nearest bound: what comes from a person is
// checked before, by Validate.
func New[K comparable, V any](cfg Config, o *obs.Obs) *Cache[K, V] {
	cfg = cfg.filled().clamped()
	c := &Cache[K, V]{cfg: cfg, counts: stats.NewCounter()}
	c.entries = otter.Must(&otter.Options[K, *entry[V]]{
		MaximumSize:      cfg.Entries,
		StatsRecorder:    c.counts,
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[K, *entry[V]]) time.Duration { return c.lifetime(e.Value.absent != nil) }),
		Clock:            monotonic{time.Now()},
		Logger:           logger{o.Named("cache").With("cache", cfg.Name)},
	})
	c.register(o.Metrics)
	if cfg.Bus != nil {
		c.connect(o)
	}
	return c
}

// lifetime draws how long a copy is used: at most its TTL, at least TTL less Spread.
func (c *Cache[K, V]) lifetime(absent bool) time.Duration {
	d := c.cfg.TTL
	if absent {
		d = c.cfg.NegativeTTL
	}
	return d - time.Duration(rand.Float64()*c.cfg.Spread*float64(d)) //nolint:gosec // chance, not secrecy
}

// Get returns the copy of the key's value, or what load returns, of which it keeps a copy. At most one load of a key runs at a
// time; others wait for it, each no longer than its own ctx. The load runs with the ctx of the caller that began it; when that
// one gives up, another of the waiting begins anew.
//
// Errors of code CodeNotFound are kept for NegativeTTL and returned as new errors with the same code, message, fields and data;
// all other errors are returned and not kept. A Get that begins after Invalidate has returned gets nothing that was loaded from
// before it (linearizable). load must not call this cache.
func (c *Cache[K, V]) Get(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	age := c.age.Load()
	e, ok := c.entries.GetIfPresent(k)
	if ok && e.age >= age {
		if e.absent == nil {
			return e.value, nil
		}
		return c.result(e, nil)
	}
	if !ok {
		c.slow.Add(1)
	}
	return c.getSlowly(ctx, k, age, load)
}

// getSlowly is the rest of Get: apart, because its closure would cost every hit an allocation.
func (c *Cache[K, V]) getSlowly(ctx context.Context, k K, age uint64, load func(context.Context, K) (V, error)) (V, error) {
	loader := otter.LoaderFunc[K, *entry[V]](func(ctx context.Context, k K) (*entry[V], error) { return c.load(ctx, k, load) })
	for {
		e, err := c.entries.Get(ctx, k, loader)
		if err != nil || e.age >= age {
			return c.result(e, err)
		}
		// It was loaded before an InvalidateAll that we come after. Only that entry goes: removing whatever is there now would
		// also refuse a load that has begun since.
		c.entries.ComputeIfPresent(k, func(e *entry[V]) (*entry[V], otter.ComputeOp) {
			if e.age < age {
				return e, otter.InvalidateOp
			}
			return e, otter.CancelOp
		})
	}
}

// load calls the caller's function and makes an entry of what it returns.
func (c *Cache[K, V]) load(ctx context.Context, k K, load func(context.Context, K) (V, error)) (*entry[V], error) {
	e := &entry[V]{age: c.age.Load()} // before the load, which may read what an InvalidateAll during it is about
	begin := time.Now()
	value, err := load(ctx, k)
	seconds := time.Since(begin).Seconds()
	if levee.CodeOf(err) == levee.CodeNotFound {
		c.ok.Observe(seconds)
		e.absent = clone(err)
		return e, nil
	}
	if err != nil {
		c.fail.Observe(seconds)
		return nil, err
	}
	c.ok.Observe(seconds)
	e.value = value
	return e, nil
}

// result turns an entry into what Get returns.
func (c *Cache[K, V]) result(e *entry[V], err error) (V, error) {
	var none V
	if err != nil {
		return none, err
	}
	if e.absent != nil {
		c.negative.Inc()
		return none, clone(e.absent)
	}
	return e.value, nil
}

// clone returns a copy of the first levee.Error in err's chain: With, After and Because change their receiver, and callers who
// get one error together must not see each other's changes.
func clone(err error) *levee.Error {
	var e *levee.Error
	if !errors.As(err, &e) {
		return levee.E(levee.CodeNotFound, "not found").Because(err)
	}
	c := *e
	c.Data = maps.Clone(e.Data)
	return &c
}

// Invalidate forgets the keys' copies, those of their absence included, and makes loads under way not be kept. It is called
// after the change is committed, and must be called also after creating what may have been asked for. With a Bus the other nodes do so
// a few milliseconds later.
func (c *Cache[K, V]) Invalidate(keys ...K) {
	c.forget(keys)
	if c.teller != nil {
		c.teller.tell(false, keys...)
	}
}

// InvalidateAll forgets all copies and makes loads under way not be kept for those who ask from now on; with a Bus on all nodes.
func (c *Cache[K, V]) InvalidateAll() {
	c.forgetAll()
	if c.teller != nil {
		c.teller.tell(true)
	}
}

func (c *Cache[K, V]) forget(keys []K) {
	for _, k := range keys {
		c.entries.Invalidate(k)
	}
}

func (c *Cache[K, V]) forgetAll() {
	c.age.Add(1)
	c.entries.InvalidateAll()
}

// monotonic is the time since the cache was made: steps of the wall clock neither end copies nor keep them. It does not tick,
// so no goroutine cleans up: expired copies go with the next writes, and there are never more than Entries.
type monotonic struct{ begin time.Time }

func (m monotonic) NowNano() int64                      { return int64(time.Since(m.begin)) }
func (m monotonic) Tick(time.Duration) <-chan time.Time { return nil }
