package limit

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

const (
	// shardCount spreads the lock: two callers of different keys meet in one of 64 cases.
	shardCount = 64
	// keyMax is the longest key that is kept as it is; a longer one is kept as its SHA-256.
	keyMax = 128
	// sampleMax is how many keys are looked at to find one to forget. A key at its limit is forgotten only if all of the
	// sample are.
	sampleMax = 16
	// A shard is searched for expired keys once in a rate's Per, within these bounds.
	sweepMin, sweepMax = time.Second, time.Minute
)

// memory is the driver that keeps the charges in this process.
type memory struct {
	clock  obs.Clock
	epoch  time.Time
	seed   maphash.Seed
	groups [nameCount]group
}

// group holds the keys of one limit.
type group struct {
	shards  [shardCount]shard
	next    atomic.Uint32 // the shard that is swept next on somebody else's behalf
	keys    prometheus.Gauge
	evicted prometheus.Counter
	most    int // keys in one shard
}

type shard struct {
	mu      sync.Mutex // guards all below
	entries map[string]*entry
	last    time.Duration // the clock's last reading, since the epoch
	lost    time.Duration // what the clock was stepped back since the epoch
	sweepAt time.Duration // shard time from which expired keys are searched for
}

// entry is what is remembered of one key: for an exact rate the times of the charges that still count, oldest first; for a
// bucket, which gains one in every (0: there is none), the time at which it is full again (GCRA's theoretical arrival time). Times
// are shard time.
type entry struct {
	log   []time.Duration
	full  time.Duration
	every time.Duration
}

func newMemory(keys int, o *obs.Obs) *memory {
	kept := obs.Register(o.Metrics, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "levee_limit_keys_count", Help: "Keys remembered by limit.",
	}, []string{"name"}))
	evicted := obs.Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_limit_evicted_total", Help: "Keys forgotten before their time because there were too many.",
	}, []string{"name"}))
	m := &memory{clock: o.Clock, epoch: o.Clock(), seed: maphash.MakeSeed()}
	for _, n := range Names() {
		g := &m.groups[n]
		g.keys, g.evicted = kept.WithLabelValues(n.String()), evicted.WithLabelValues(n.String())
		g.most = (keys + shardCount - 1) / shardCount
		for i := range g.shards {
			g.shards[i].entries = map[string]*entry{}
		}
	}
	return m
}

// now returns the shard's time. It never goes back: a clock that was stepped back goes on from its last reading. Readings are
// taken under the shard's lock, else two callers that pass each other would look like a step. A clock without a monotonic
// reading that is stepped forward lets that time pass, as if nobody had asked.
func (s *shard) now(m *memory) time.Duration {
	t := m.clock().Sub(m.epoch)
	if t < s.last {
		s.lost += s.last - t
	}
	s.last = t
	return t + s.lost
}

func (m *memory) take(_ context.Context, c *class, key string) Decision {
	g := &m.groups[c.name]
	key = bounded(key)
	s := m.shard(c.name, key)
	s.mu.Lock()
	now := s.now(m)
	if now >= s.sweepAt {
		s.sweep(g, c.rate, now)
		// One more, so that traffic on any one key makes all of them expire in time. Not in this critical section.
		defer m.sweepNext(c)
	}
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok {
		e = s.add(g, c, key, now)
	}
	return e.take(c.rate, now)
}

// add makes an entry, for which another may have to be forgotten.
func (s *shard) add(g *group, c *class, key string, now time.Duration) *entry {
	if len(s.entries) >= g.most {
		s.evict(g, c.rate, now)
	}
	e := &entry{}
	s.entries[strings.Clone(key)] = e // a clone, because the key may be a slice of a whole request
	g.keys.Inc()
	return e
}

func (m *memory) takeAll(_ context.Context, asks []ask, out []Decision) {
	m.decide(asks, out, outcome{})
}

// decide is takeAll beside others that have said what they say.
func (m *memory) decide(asks []ask, out []Decision, all outcome) {
	var (
		shards [AsksMax]*shard
		keys   [AsksMax]string
		now    [AsksMax]time.Duration
		locked [AsksMax]*shard
		order  [AsksMax]uint64 // of all shards of all limits, in which several are locked
	)
	n := 0
	for i, a := range asks {
		keys[i] = bounded(a.key)
		at := maphash.String(m.seed, keys[i]) % shardCount
		shards[i] = &m.groups[a.class.name].shards[at]
		place, p := uint64(a.class.name)*shardCount+at, n
		if slices.Contains(order[:n], place) {
			continue
		}
		for ; p > 0 && order[p-1] > place; p-- {
			order[p], locked[p] = order[p-1], locked[p-1]
		}
		order[p], locked[p] = place, shards[i]
		n++
	}
	for _, s := range locked[:n] {
		s.mu.Lock()
	}
	for i, a := range asks {
		s := shards[i]
		now[i] = s.now(m)
		if now[i] >= s.sweepAt {
			s.sweep(&m.groups[a.class.name], a.class.rate, now[i])
			defer m.sweepNext(a.class)
		}
		e := s.entries[keys[i]]
		if e == nil {
			e = &entry{}
		}
		out[i] = e.look(a.class.rate, now[i])
		all.add(a.class, out[i])
	}
	for i, a := range asks {
		if !out[i].OK || !all.charges(a.class) {
			continue
		}
		e := shards[i].entries[keys[i]]
		if e == nil {
			e = shards[i].add(&m.groups[a.class.name], a.class, keys[i], now[i])
		}
		out[i] = e.take(a.class.rate, now[i])
	}
	for _, s := range locked[:n] {
		s.mu.Unlock()
	}
}

func (m *memory) shard(name Name, key string) *shard {
	return &m.groups[name].shards[maphash.String(m.seed, key)%shardCount]
}

// take charges one if the rate allows it.
func (e *entry) take(r Rate, now time.Duration) Decision {
	d := e.look(r, now)
	if !d.OK {
		return d
	}
	d.Remaining--
	if e.every == 0 {
		e.log = append(e.log, now)
		d.Reset = r.Per
	} else {
		e.full = max(e.full, now) + e.every
		d.Reset = e.full - now
	}
	return d
}

// look says what take would, and charges nothing: Remaining and Reset are those without the charge.
func (e *entry) look(r Rate, now time.Duration) Decision {
	e.fit(r, now)
	if !r.Exact() { // GCRA with an emission interval of every and room for most
		most := r.Most()
		short := max(e.full-now, 0)
		d := Decision{OK: true, Limit: most, Reset: short}
		room := time.Duration(most) * e.every
		if over := short + e.every - room; over > 0 {
			d.OK, d.RetryAfter = false, over
			return d
		}
		d.Remaining = int((room - short) / e.every)
		return d
	}
	// The sliding log: a charge counts for exactly Per.
	n := len(e.log)
	d := Decision{OK: n < r.Count, Limit: r.Count, Remaining: max(r.Count-n, 0)}
	if n > 0 {
		d.Reset = e.log[n-1] + r.Per - now
	}
	if !d.OK {
		d.RetryAfter = e.log[n-r.Count] + r.Per - now
	}
	return d
}

// fit drops the charges that no longer count, and turns what another rate left into what this one would keep. Not more than a whole bucket
// is missing from it: who used up a large one waits for one of the small one.
func (e *entry) fit(r Rate, now time.Duration) {
	if r.Exact() {
		if e.every != 0 {
			for range min(missing(e.full-now, e.every), int64(r.Count)) {
				e.log = append(e.log, now)
			}
			e.full, e.every = 0, 0
			return
		}
		e.forget(r, now)
		return
	}
	every := r.every()
	switch {
	case e.every == every:
	case e.every == 0:
		for i, at := range e.log {
			if i == 0 || at > e.full {
				e.full = at
			}
			e.full += every
		}
		e.log = nil
	case e.full > now:
		e.full = now + time.Duration(min(missing(e.full-now, e.every), int64(r.Most())))*every
	}
	e.every = every
	e.full = min(e.full, now+time.Duration(r.Most())*every)
}

// forget drops the charges that no longer count.
func (e *entry) forget(r Rate, now time.Duration) {
	i := 0
	for i < len(e.log) && e.log[i]+r.Per <= now {
		i++
	}
	if i > 0 {
		e.log = slices.Delete(e.log, 0, i)
	}
}

// missing is how many a bucket is short of, when it takes it so long to fill.
func missing(short, every time.Duration) int64 {
	if short <= 0 {
		return 0
	}
	return int64((short + every - 1) / every)
}

func (m *memory) refund(_ context.Context, c *class, key string) {
	g := &m.groups[c.name]
	key = bounded(key)
	s := m.shard(c.name, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok {
		return
	}
	now := s.now(m)
	// What a changed rate left is taken back in its own kind: turning it first may have lost what is taken back.
	if e.every == 0 {
		if c.rate.Exact() {
			e.forget(c.rate, now)
		}
		if len(e.log) > 0 {
			e.log = e.log[:len(e.log)-1]
		}
	} else {
		e.full -= e.every
	}
	if e.until(c.rate) <= now {
		s.drop(g, key)
	}
}

// until returns the time from which the entry says the same as no entry.
func (e *entry) until(r Rate) time.Duration {
	if e.every != 0 {
		return e.full
	}
	if len(e.log) == 0 {
		return 0
	}
	return e.log[len(e.log)-1] + r.Per
}

// sweep drops the shard's expired keys.
func (s *shard) sweep(g *group, r Rate, now time.Duration) {
	s.sweepAt = now + min(max(r.Per, sweepMin), sweepMax)
	for k, e := range s.entries {
		if e.fit(r, now); e.until(r) <= now {
			s.drop(g, k)
		}
	}
}

// sweepNext sweeps one shard of the class, a different one each time, unless somebody is using it.
func (m *memory) sweepNext(c *class) {
	g := &m.groups[c.name]
	s := &g.shards[g.next.Add(1)%shardCount]
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if now := s.now(m); now >= s.sweepAt {
		s.sweep(g, c.rate, now)
	}
}

// evict makes room for one key: an expired one, else the one of a random sample that has used the least of its rate. So a
// flood of new keys pushes out itself rather than a key that is being held back.
func (s *shard) evict(g *group, r Rate, now time.Duration) {
	var victim string
	least, seen := 0.0, 0
	for k, e := range s.entries { // a map's order is random enough
		if e.fit(r, now); e.until(r) <= now {
			s.drop(g, k)
			return
		}
		if used := e.used(r, now); seen == 0 || used < least {
			victim, least = k, used
		}
		if seen++; seen == sampleMax {
			break
		}
	}
	s.drop(g, victim)
	g.evicted.Inc()
}

// used returns how much of its rate the key, whose entry fits it, has used, from 0 to 1; among equals the one that is free sooner has the less.
func (e *entry) used(r Rate, now time.Duration) float64 {
	if e.every != 0 {
		return float64(e.full-now) / float64(time.Duration(r.Most())*e.every)
	}
	n := float64(len(e.log)) - 1 + float64(e.until(r)-now)/float64(r.Per)
	return n / float64(r.Count)
}

func (s *shard) drop(g *group, key string) {
	delete(s.entries, key)
	g.keys.Dec()
}

// bounded returns the key, or a short one that stands for it.
func bounded(key string) string {
	if len(key) <= keyMax {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "\x00sha256:" + string(sum[:])
}
