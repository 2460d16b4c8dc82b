package identity

import (
	"hash/maphash"
	"sync"

	"levee"
)

// verified is a credential whose signature, claims and session were checked once. What may change later (ended, roles) is
// not here but behind state, so that a revocation acts on the next call and never races with the cache.
type verified struct {
	credential string
	expires    int64 // microseconds; from then on the entry counts for nothing
	user       levee.UserID
	session    int64
	rehearsal  bool
	foreign    bool // expires is when it must be looked at again, not when it ends
	state      *live
}

// verifiedShards spreads the lock. A power of two.
const verifiedShards = 256

// minSweep is the size under which a shard is not worth a sweep.
const minSweep = 64

// verifiedCache remembers verified credentials, at most about capacity of them. A lookup compares the whole credential,
// so the hash needs no cryptographic strength; it is seeded per process, so nobody can aim at one shard.
type verifiedCache struct {
	seed   maphash.Seed
	most   int // entries per shard
	shards [verifiedShards]verifiedShard
}

type verifiedShard struct {
	mu      sync.RWMutex // guards m and sweepAt
	m       map[uint64]*verified
	sweepAt int      // size at which expired entries are dropped
	_       [24]byte // keeps the locks of neighbours on different cache lines
}

func newVerifiedCache(capacity int) *verifiedCache {
	c := &verifiedCache{seed: maphash.MakeSeed(), most: max(1, capacity/verifiedShards)}
	for i := range c.shards {
		c.shards[i].m, c.shards[i].sweepAt = map[uint64]*verified{}, minSweep
	}
	return c
}

// get returns the entry of the credential, or nil. It allocates nothing.
func (c *verifiedCache) get(credential string) *verified {
	h := maphash.String(c.seed, credential)
	shard := &c.shards[h%verifiedShards]
	shard.mu.RLock()
	v := shard.m[h]
	shard.mu.RUnlock()
	if v == nil || v.credential != credential {
		return nil
	}
	return v
}

// put remembers v, whose credential must be a string of its own. What has expired is dropped whenever a shard has doubled, so
// that the cost is amortised and a quiet night gives the memory back to the day's entries. In a full shard it drops, of a few
// entries taken at random, the one that expires first: nearly the oldest, without a list to keep.
func (c *verifiedCache) put(v *verified, now int64) {
	h := maphash.String(c.seed, v.credential)
	shard := &c.shards[h%verifiedShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if len(shard.m) >= shard.sweepAt {
		for k, old := range shard.m {
			if old.expires <= now {
				delete(shard.m, k)
			}
		}
		shard.sweepAt = max(minSweep, 2*len(shard.m))
	}
	if _, there := shard.m[h]; !there && len(shard.m) >= c.most {
		const sample = 8
		var drop uint64
		var first *verified
		seen := 0
		for k, old := range shard.m {
			if first == nil || old.expires < first.expires {
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

// remove forgets the entry.
func (c *verifiedCache) remove(v *verified) {
	h := maphash.String(c.seed, v.credential)
	shard := &c.shards[h%verifiedShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.m[h] == v {
		delete(shard.m, h)
	}
}

func (c *verifiedCache) len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.RLock()
		n += len(c.shards[i].m)
		c.shards[i].mu.RUnlock()
	}
	return n
}
