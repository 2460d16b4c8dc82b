package cache

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

const (
	// hotMost is how many keys are watched. A key with more than one in hotMost of the reads is among them, whatever else is read.
	hotMost = 64
	// hotWindow is the time after which what was counted is worth half.
	hotWindow = 10 * time.Second
	// hotLeast is how often a key must have been read to be hot, so that the few reads of a quiet cache make none so.
	hotLeast = 64
	// hotEvery is the most first-level hits of which one is counted, for all of them: to count each would cost as much as the hit.
	hotEvery = 256
)

// HotKey is a key that gets more than a 64th of a cache's reads on this node.
type HotKey[K comparable] struct {
	Key K
	// Reads is about how often it was read in the last ten seconds or so, and at most this often; Surely at least this often.
	Reads, Surely int64
}

// hot finds the keys that are read most: the Space-Saving algorithm (Metwally, Agrawal, El Abbadi, 2005) with 64 counters. A key that
// is not watched takes the place of the least read one and inherits its count, as what it may be wrong by.
type hot[K comparable] struct {
	mu    sync.Mutex // guards the rest
	at    map[K]int  // index in slots
	slots []hotSlot[K]
	total int64
	next  int64 // the clock at which the counts are halved
}

type hotSlot[K comparable] struct {
	key          K
	count, wrong int64
}

func newHot[K comparable]() *hot[K] { return &hot[K]{at: make(map[K]int, hotMost)} }

// add counts n reads of a key.
func (h *hot[K]) add(k K, n, now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.age(now)
	h.total += n
	if i, ok := h.at[k]; ok {
		h.slots[i].count += n
		return
	}
	if len(h.slots) < hotMost {
		h.at[k] = len(h.slots)
		h.slots = append(h.slots, hotSlot[K]{k, n, 0})
		return
	}
	least := 0
	for i := range h.slots {
		if h.slots[i].count < h.slots[least].count {
			least = i
		}
	}
	s := &h.slots[least]
	delete(h.at, s.key)
	h.at[k] = least
	*s = hotSlot[K]{k, s.count + n, s.count}
}

// age halves what was counted when its time has come. h.mu is held.
func (h *hot[K]) age(now int64) {
	if now < h.next {
		return
	}
	halvings := min(uint64(now-h.next)/uint64(hotWindow)+1, 62)
	if h.next == 0 {
		halvings = 0
	}
	h.next = now + int64(hotWindow)
	h.total >>= halvings
	for i := range h.slots {
		h.slots[i].count >>= halvings
		h.slots[i].wrong >>= halvings
	}
}

func (h *hot[K]) hot(s *hotSlot[K]) bool {
	surely := s.count - s.wrong
	return surely >= hotLeast && surely*hotMost > h.total
}

// is reports whether a key is hot.
func (h *hot[K]) is(k K, now int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.age(now)
	i, ok := h.at[k]
	return ok && h.hot(&h.slots[i])
}

// list returns the hot keys, the hottest first.
func (h *hot[K]) list(now int64) (list []HotKey[K]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.age(now)
	for i := range h.slots {
		if s := &h.slots[i]; h.hot(s) {
			list = append(list, HotKey[K]{s.key, s.count, s.count - s.wrong})
		}
	}
	slices.SortStableFunc(list, func(a, b HotKey[K]) int { return cmp.Compare(b.Reads, a.Reads) })
	return list
}

// Hot returns the keys that each get more than a 64th of this node's reads now, at most 63, the hottest first: for a page that
// operators look at. Such a key's copies live for HotTTL and are not pushed out by others.
func (s *Shared[K, V]) Hot() []HotKey[K] { return s.hot.list(s.clock.NowNano()) }
