package cache

import (
	"context"
	crand "crypto/rand"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// SharedConfig of one cache of two levels. The zero value is usable, but every cache must have a name of its own, the same on all
// nodes.
type SharedConfig struct {
	// Config is the first level, in this process. TTL is how long a copy is used before the second level is asked again; default
	// here 10 seconds. It is the bound for what a node has missed although nobody noticed. NegativeTTL is how long both levels
	// remember that there is nothing. Bus is not used: the second level tells the nodes itself.
	Config
	// Hard is how long a value is kept in Redis after it was stored, from 1 s to 30 days. Default 1 hour. It is the bound for
	// changes that were never buried (see Invalidate). What took a tombstone's place stays at least as long as that would have.
	Hard time.Duration
	// Soft is how long a value is used before a reader has it loaded anew in the background, from 1 ms to Hard. Default half of Hard. One
	// process does so for all. With one level there is no Soft: copies are loaded anew in the last fifth of their TTL.
	// It is compared with this node's clock; a clock that is wrong makes loads sooner or later, never an old value.
	Soft time.Duration
	// Stale is how long past its TTL a copy of the first level may still be used while Redis, or the database, does not answer, up
	// to 1 day. Default 1 minute. Negative: not at all.
	Stale time.Duration
	// MaxLoad is the longest that a load may take, from 10 ms to 1 minute. Default 2 seconds: its context ends then.
	MaxLoad time.Duration
	// MaxLag is the longest that a replica which loads may read from can be behind, up to 10 minutes. Default 5 seconds. A tombstone
	// stays MaxLoad + MaxLag + 10 s; after that, nothing would notice that a replica is still behind it.
	MaxLag time.Duration
	// Loads is how many loads may run at a time on this node, from 1 to 1000. Default 16. Others wait for a second at most.
	Loads int
	// Refreshes is how many of the loads may be such as nobody waits for (Soft), from 1 to Loads. Default half of Loads. Beyond that a value
	// past its soft end is used as it is, until a later reader has it loaded, or Hard.
	Refreshes int
	// AwayLoads is how many loads a second this node may begin while Redis is away, from 1 to 1,000,000. Default 0: a quarter more
	// than there were before, 100 at least.
	AwayLoads int
	// HotTTL is TTL for the copies of hot keys (see Hot), from TTL to 30 days. Default three times TTL. Such copies are also not pushed out of the
	// first level by others.
	HotTTL time.Duration
	// Sample says that one of so many reads is looked into a second later, up to 1,000,000,000: is what was read still served although the
	// database's primary has something newer? Default 10,000, at most ten a second. Negative: none. Each costs a load, or two.
	Sample int
	// Guessable says that somebody may ask for ids that were never given away, so that a Filter is worth while: what Announce and
	// Invalidate are told is kept in Redis for it. It must be the same on all nodes.
	Guessable bool
	// Primary returns a context whose reads go to the database's primary (db.Primary). Nil: all reads do.
	Primary func(context.Context) context.Context
	// Replica returns a context whose reads go to a replica, for those who AllowStale while the primary does not answer (db.Using with
	// db.OnReplica; a db.DB reads a replica for Config.ReplicaLag after it last heard of the primary). Nil: they get the error.
	Replica func(context.Context) context.Context
}

// The defaults and bounds of SharedConfig.
const (
	sharedTTL                    = 10 * time.Second
	hardDefault, hardMin         = time.Hour, time.Second
	staleDefault, staleMax       = time.Minute, 24 * time.Hour
	loadDefault, loadMin, maxMax = 2 * time.Second, 10 * time.Millisecond, time.Minute
	lagDefault, lagMax           = 5 * time.Second, 10 * time.Minute
	loadsDefault, loadsMax       = 16, 1000
	awayMax                      = 1_000_000
	// graveMargin is how much longer than load and lag a tombstone stays: for what is late on its way, pauses included.
	graveMargin = 10 * time.Second
	// leaseMost bounds how long the other processes wait for the one that loads a key; after it each loads for itself.
	leaseMost = 250 * time.Millisecond
	// loadWait is how long a load waits for its turn.
	loadWait = time.Second
	// bodyMost is the largest text that is kept in Redis: a larger one would hold up the small ones behind it.
	bodyMost = 1 << 20
	// soonest is the part of a copy's life, from its end, in which a cache of one level loads it anew: one in so many.
	soonest = 5
	// tick is how far the first level's clock may be behind: reading the real one would cost as much as the hit.
	tick = 5 * time.Millisecond
)

// Validate returns CodeInvalid, which names field, allowed and given, when a value is neither zero nor within its bounds.
func (c SharedConfig) Validate() error {
	c = c.filled()
	if err := c.Config.Validate(); err != nil {
		return err
	}
	switch {
	case c.Hard < hardMin || c.Hard > ttlMax:
		return levee.Invalid("cache.hard", "from 1s to 720h", c.Hard)
	case c.Soft < ttlMin || c.Soft > c.Hard:
		return levee.Invalid("cache.soft", "from 1ms to hard", c.Soft)
	case c.Stale > staleMax:
		return levee.Invalid("cache.stale", "up to 24h", c.Stale)
	case c.MaxLoad < loadMin || c.MaxLoad > maxMax:
		return levee.Invalid("cache.max_load", "from 10ms to 1m", c.MaxLoad)
	case c.MaxLag < 0 || c.MaxLag > lagMax:
		return levee.Invalid("cache.max_lag", "up to 10m", c.MaxLag)
	case c.Loads < 1 || c.Loads > loadsMax:
		return levee.Invalid("cache.loads", "from 1 to 1000", c.Loads)
	case c.Refreshes < 1 || c.Refreshes > c.Loads:
		return levee.Invalid("cache.refreshes", "from 1 to loads", c.Refreshes)
	case c.HotTTL < c.TTL || c.HotTTL > ttlMax:
		return levee.Invalid("cache.hot_ttl", "from the ttl to 720h", c.HotTTL)
	case c.Sample > sampleMax:
		return levee.Invalid("cache.sample", "up to 1000000000", c.Sample)
	case c.AwayLoads < 0 || c.AwayLoads > awayMax:
		return levee.Invalid("cache.away_loads", "from 1 to 1000000", c.AwayLoads)
	}
	return nil
}

func (c SharedConfig) filled() SharedConfig {
	if c.TTL == 0 {
		c.TTL = sharedTTL
	}
	c.Config = c.Config.filled()
	if c.Hard == 0 {
		c.Hard = hardDefault
	}
	if c.Soft == 0 {
		c.Soft = c.Hard / 2
	}
	if c.Stale == 0 {
		c.Stale = staleDefault
	}
	if c.MaxLoad == 0 {
		c.MaxLoad = loadDefault
	}
	if c.MaxLag == 0 {
		c.MaxLag = lagDefault
	}
	if c.Loads == 0 {
		c.Loads = loadsDefault
	}
	if c.Refreshes == 0 {
		c.Refreshes = max(c.Loads/2, 1)
	}
	if c.HotTTL == 0 {
		c.HotTTL = min(3*c.TTL, max(c.TTL, ttlMax))
	}
	if c.Sample == 0 {
		c.Sample = sampleDefault
	}
	return c
}

// clamped returns the config with each value at its nearest bound.
func (c SharedConfig) clamped() SharedConfig {
	c = c.filled()
	c.Config = c.Config.clamped()
	c.Hard = min(max(c.Hard, hardMin), ttlMax)
	c.Soft = min(max(c.Soft, ttlMin), c.Hard)
	c.Stale = min(max(c.Stale, 0), staleMax)
	c.MaxLoad = min(max(c.MaxLoad, loadMin), maxMax)
	c.MaxLag = min(max(c.MaxLag, 0), lagMax)
	c.Loads = min(max(c.Loads, 1), loadsMax)
	c.Refreshes = min(max(c.Refreshes, 1), c.Loads)
	c.HotTTL = min(max(c.HotTTL, c.TTL), ttlMax)
	c.Sample = min(c.Sample, sampleMax)
	c.AwayLoads = min(max(c.AwayLoads, 0), awayMax)
	return c
}

// Shared keeps copies of values V by key K in two levels: this process, and Redis for all nodes. Every value has a version, which its
// row in SQL counts up with each change; nothing older takes the place of something newer in either level (the version fence,
// docs/cache.md). Without Redis it has one level and otherwise works the same. A value is shared by all who get it and must not be
// changed. Safe for concurrent use.
type Shared[K comparable, V any] struct {
	cfg    SharedConfig
	codec  codec[K, V]
	first  *otter.Cache[K, *versioned[V]] // what they point to is not changed
	clock  *coarse
	remote *remote // nil: there is one level only
	// age counts the moments in which messages of other nodes may have been lost. A copy of an earlier age is not used any more,
	// unless Redis is away.
	age    atomic.Uint64
	seed   maphash.Seed
	shards [shardCount]shard[K, V]
	budget *budget
	sender sender[K]
	me     string // names this process' leases

	hot         *hot[K]
	worth       *worth
	filter      *filter[K] // nil: keys are not guessable
	renewals    chan struct{}
	samples     chan sample[K, V]
	sampleAfter time.Duration
	mask        uint32 // of the first level's hits those are counted whose number, drawn by chance, has none of these bits

	log    *slog.Logger
	counts *stats.Counter
	m      sharedMetrics
	heard  atomic.Int64 // nanoseconds of clock.begin at which the other nodes' messages were last known to arrive

	ctx    context.Context // of what runs in the background
	stop   context.CancelFunc
	tasks  sync.WaitGroup
	closed sync.Once
}

// versioned is a copy of the first level.
type versioned[V any] struct {
	value   V
	absent  *levee.Error // instead of a value: there is none
	buried  bool         // instead of both: this node made a change of this version, and a replica may not show it yet
	pinned  bool         // it is not pushed out by others
	version int64
	fresh   int64 // the clock until which it is used without asking
	until   int64 // the clock until which it is used while it is loaded anew: with one level later than fresh
	age     uint64
}

const shardCount = 256

// shard is what belongs to a part of the keys.
type shard[K comparable, V any] struct {
	mu      sync.Mutex // guards the rest, and is held while a copy of these keys is put or dropped
	buried  uint64     // changes heard of; a copy whose making began before one is not put
	flights map[K]*flight[V]
	// renewing are the keys that are loaded in the background.
	renewing map[K]struct{}
}

// NewShared makes a cache. A nil client means one level: copies in this process alone. A value of cfg that is out of its bounds is
// taken as the nearest bound. It panics when K or V is of a type that JSON does not bring back whole: unexported fields,
// interfaces. Close ends it.
func NewShared[K comparable, V any](cfg SharedConfig, c *redis.Client, o *obs.Obs) *Shared[K, V] {
	cfg = cfg.clamped()
	s := &Shared[K, V]{cfg: cfg, codec: newCodec[K, V](), clock: newCoarse(), seed: maphash.MakeSeed(), counts: stats.NewCounter(), me: crand.Text()}
	for i := range s.shards {
		s.shards[i].flights, s.shards[i].renewing = map[K]*flight[V]{}, map[K]struct{}{}
	}
	s.log = o.Named("cache").With("cache", cfg.Name)
	s.budget = newBudget(cfg.Loads, cfg.AwayLoads, s.clock)
	s.hot, s.worth, s.renewals = newHot[K](), newWorth(), make(chan struct{}, cfg.Refreshes)
	s.samples, s.sampleAfter, s.mask = make(chan sample[K, V], sampleQueue), sampleAfter, hotEvery-1
	for cfg.Sample > 0 && int(s.mask) >= cfg.Sample {
		s.mask >>= 1
	}
	if cfg.Guessable {
		s.filter = newFilter[K]()
	}
	s.first = otter.Must(&otter.Options[K, *versioned[V]]{
		MaximumWeight: uint64(cfg.Entries), //nolint:gosec // at least 1
		Weigher: func(_ K, e *versioned[V]) uint32 {
			if e.pinned {
				return 0
			}
			return 1
		},
		StatsRecorder: s.counts,
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[K, *versioned[V]]) time.Duration {
			return max(time.Duration(e.Value.until-s.clock.NowNano())+cfg.Stale, time.Nanosecond)
		}),
		Clock:  s.clock,
		Logger: logger{s.log},
	})
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.tasks.Go(func() { s.clock.run(s.ctx) })
	s.sender.list = map[K]int64{}
	if c != nil {
		s.remote = newRemote(c, cfg.Name, func() { s.lost(); s.worth.forget() })
		s.sender.owed = map[K]int64{}
	}
	s.register(o.Metrics)
	s.tasks.Go(func() { s.inspect(s.ctx) })
	if c != nil {
		s.tasks.Go(func() { s.listen(s.ctx) })
		s.tasks.Go(func() { s.keep(s.ctx) })
	}
	return s
}

// Close ends what runs in the background and waits for it. Changes that Redis has not taken by then are lost to this cache: the
// listener that repeats Invalidate (docs/cache.md) brings them.
func (s *Shared[K, V]) Close() {
	s.closed.Do(func() {
		s.stop()
		s.tasks.Wait()
	})
}

type strictKey struct{}

// Strict returns a context whose Gets never return what is older than a change whose Invalidate had returned nil, on whatever node,
// before the Get began. They do not look into this process' copies, and load from the primary. While Redis is away they ask
// the database each time, within the bounds of Loads and AwayLoads.
func Strict(ctx context.Context) context.Context { return context.WithValue(ctx, strictKey{}, true) }

func isStrict(ctx context.Context) bool { return ctx.Value(strictKey{}) != nil }

type staleKey struct{}

// AllowStale returns a context whose Gets, when there is no copy and the database's primary does not answer, may read a replica
// (SharedConfig.Replica), however far behind. What it answers is kept nowhere. Strict Gets do not.
func AllowStale(ctx context.Context) context.Context { return context.WithValue(ctx, staleKey{}, true) }

// Load reads a value and its version, at least 1, from SQL. CodeNotFound means that there is none, which is remembered too. Versions of a key
// never go back: a key that can be deleted and come back has to go on counting. It must not call the cache that calls it.
type Load[K comparable, V any] func(ctx context.Context, k K) (v V, version int64, err error)

// Get returns the copy of the key's value, or what load returns, of which it keeps a copy. One load of a key runs at a time in this
// process and, for a quarter of a second, in all.
//
// A Get on the node that made a change never returns what was before it, one on another node may for as long as a message
// takes (see Strict), and where a message was lost until this is noticed, TTL at most. While Redis is away, copies are used up to
// Stale past their TTL. Errors of code CodeNotFound are kept and returned as new errors; CodeUnavailable with RetryAfter when
// more loads are asked for than Loads or AwayLoads allow; CodeInvalid for a key that is longer than 8 KiB as JSON, or that JSON does not
// bring back whole; all other errors are the load's.
func (s *Shared[K, V]) Get(ctx context.Context, k K, load Load[K, V]) (V, error) {
	if s.remote != nil && isStrict(ctx) {
		e, err := s.strictly(ctx, k, load)
		return s.result(e, err)
	}
	e, ok := s.first.GetIfPresent(k)
	if ok && !e.buried && e.age == s.age.Load() && s.clock.NowNano() < e.fresh {
		if rand.Uint32()&s.mask == 0 { //nolint:gosec // chance, not secrecy
			s.sampled(ctx, k, e, s.mask+1, load)
		}
		if e.absent == nil {
			return e.value, nil
		}
		return s.result(*e, nil)
	}
	if ok && e.buried {
		e = nil
	}
	return s.getSlowly(ctx, k, e, load)
}

// getSlowly is the rest of Get. e is a copy past its time, if there is one.
func (s *Shared[K, V]) getSlowly(ctx context.Context, k K, e *versioned[V], load Load[K, V]) (V, error) {
	old := e != nil
	away := s.remote != nil && s.remote.away.Load()
	switch {
	case old && away:
		s.m.stale.Inc()
		return s.result(*e, nil)
	case old && s.remote == nil && e.age == s.age.Load() && s.clock.NowNano() < e.until:
		s.renew(ctx, k, load)
		return s.result(*e, nil)
	case !old && !away && s.gone(ctx, k):
		return s.result(versioned[V]{absent: errGone}, nil)
	}
	fresh, err := s.join(ctx, k, load)
	if code := levee.CodeOf(err); code != levee.CodeUnavailable && code != levee.CodeTimeout || ctx.Err() != nil {
		return s.result(fresh, err)
	}
	// The database does not answer either.
	if old {
		s.m.stale.Inc()
		return s.result(*e, nil)
	}
	if s.cfg.Replica != nil && ctx.Value(staleKey{}) != nil {
		end, busy := s.budget.begin(ctx, away)
		if busy != nil {
			return s.result(fresh, err)
		}
		defer end()
		if late, failed := s.read(s.cfg.Replica(ctx), k, false, load); failed == nil {
			s.m.stale.Inc()
			return s.result(late, nil)
		}
	}
	return s.result(fresh, err)
}

// errGone is what the filter answers with.
var errGone = levee.E(levee.CodeNotFound, "not found")

func (s *Shared[K, V]) result(e versioned[V], err error) (V, error) {
	var none V
	if err != nil {
		return none, err
	}
	if e.absent != nil {
		s.m.absent.Inc()
		return none, clone(e.absent)
	}
	return e.value, nil
}

// spread shortens a lifetime by chance.
func (s *Shared[K, V]) spread(d time.Duration) time.Duration {
	return d - time.Duration(rand.Float64()*s.cfg.Spread*float64(d)) //nolint:gosec // chance, not secrecy
}

func (s *Shared[K, V]) shard(k K) *shard[K, V] {
	return &s.shards[maphash.Comparable(s.seed, k)%shardCount]
}

// grave is how long a tombstone stays.
func (s *Shared[K, V]) grave() time.Duration { return s.cfg.MaxLoad + s.cfg.MaxLag + graveMargin }

// put keeps a copy in the first level, unless a change of its part of the keys, or a loss of messages, has been heard of since its
// making began.
func (s *Shared[K, V]) put(k K, e versioned[V], since uint64) {
	sh := s.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.buried != since || e.age != s.age.Load() {
		return
	}
	if there, ok := s.first.GetEntryQuietly(k); ok && there.Value.version > e.version {
		return
	}
	ttl, now := s.cfg.TTL, s.clock.NowNano()
	if e.absent != nil {
		ttl = s.cfg.NegativeTTL
	} else if e.pinned = s.hot.is(k, now); e.pinned {
		ttl = s.cfg.HotTTL
	}
	life := int64(s.spread(ttl))
	e.fresh, e.until = now+life, now+life
	if s.remote == nil && e.absent == nil {
		e.fresh -= life / soonest // with one level this is where it is loaded ahead
	}
	s.first.Set(k, &e)
}

// coarse is a clock that is read for nothing. It is the monotonic time since it was made.
type coarse struct {
	begin time.Time
	now   atomic.Int64
}

func newCoarse() *coarse { return &coarse{begin: time.Now()} }

func (c *coarse) NowNano() int64                      { return c.now.Load() }
func (c *coarse) Tick(time.Duration) <-chan time.Time { return nil }

func (c *coarse) run(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			c.now.Store(int64(time.Since(c.begin)))
		}
	}
}
