package token

import (
	"hash/maphash"
	"sync"
)

// Entry is a credential whose signature, claims and session were verified once. What may change later (ended, roles) must not be in Value but
// behind it, so that a revocation acts on the next call and never races with the cache.
type Entry[V any] struct {
	Credential string
	Expires    int64 // microseconds; from then on the entry counts for nothing
	Value      V
}

// cacheShards spreads the lock. A power of two.
const cacheShards = 256

// minSweep is the size under which a shard is not worth a sweep.
const minSweep = 64

// Cache remembers verified credentials, at most about capacity of them. A lookup compares the whole credential,
// so the hash needs no cryptographic strength; it is seeded per process, so nobody can aim at one shard.
type Cache[V any] struct {
	seed   maphash.Seed
	most   int // entries per shard
	shards [cacheShards]cacheShard[V]
}

type cacheShard[V any] struct {
	mu      sync.RWMutex // guards m and sweepAt
	m       map[uint64]*Entry[V]
	sweepAt int      // size at which expired entries are dropped
	_       [24]byte // keeps the locks of neighbours on different cache lines
}

// NewCache makes a cache of about that many entries.
func NewCache[V any](capacity int) *Cache[V] {
	c := &Cache[V]{seed: maphash.MakeSeed(), most: max(1, capacity/cacheShards)}
	for i := range c.shards {
		c.shards[i].m, c.shards[i].sweepAt = map[uint64]*Entry[V]{}, minSweep
	}
	return c
}

// Get returns the entry of the credential, or nil. It allocates nothing.
func (c *Cache[V]) Get(credential string) *Entry[V] {
	h := maphash.String(c.seed, credential)
	shard := &c.shards[h%cacheShards]
	shard.mu.RLock()
	v := shard.m[h]
	shard.mu.RUnlock()
	if v == nil || v.Credential != credential {
		return nil
	}
	return v
}

// Put remembers v, whose credential must be a string of its own. What has expired is dropped whenever a shard has doubled, so
// that the cost is amortised and a quiet night gives the memory back to the day's entries. In a full shard it drops, of a few
// entries taken at random, the one that expires first: nearly the oldest, without a list to keep.
func (c *Cache[V]) Put(v *Entry[V], now int64) {
	h := maphash.String(c.seed, v.Credential)
	shard := &c.shards[h%cacheShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if len(shard.m) >= shard.sweepAt {
		for k, old := range shard.m {
			if old.Expires <= now {
				delete(shard.m, k)
			}
		}
		shard.sweepAt = max(minSweep, 2*len(shard.m))
	}
	if _, there := shard.m[h]; !there && len(shard.m) >= c.most {
		const sample = 8
		var drop uint64
		var first *Entry[V]
		seen := 0
		for k, old := range shard.m {
			if first == nil || old.Expires < first.Expires {
				drop, first = k, old
			}
			if seen++; seen == sample {
				break
			}
		}
		delete(shard.m, drop)
	}
	shard.m[h] = v
}

// Remove forgets the entry.
func (c *Cache[V]) Remove(v *Entry[V]) {
	h := maphash.String(c.seed, v.Credential)
	shard := &c.shards[h%cacheShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.m[h] == v {
		delete(shard.m, h)
	}
}

// Len returns how many entries there are.
func (c *Cache[V]) Len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.RLock()
		n += len(c.shards[i].m)
		c.shards[i].mu.RUnlock()
	}
	return n
}
