package tally

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// latency counts how long answers took in the last ten seconds: ten slots of one second, each a histogram whose buckets grow by
// a quarter of a power of two (the layout of G. Tene's HdrHistogram with two significant bits), from 1 µs to 2 min. An answer costs
// one atomic addition, and a second one while it is the slowest of its second. The zero value is ready.
type latency struct {
	now   atomic.Uint32
	slots [latencySlots]latencySlot
}

const (
	latencySlots   = 10
	latencyBuckets = 108
	latencyMost    = 1<<27 - 1 // µs
)

type latencySlot struct {
	counts [latencyBuckets]atomic.Uint32
	most   atomic.Int64 // µs
}

// bucketOf is the bucket of so many microseconds.
func bucketOf(us int64) int {
	if us < 4 {
		return int(us)
	}
	n := bits.Len64(uint64(us))
	return 4*(n-2) + int(us>>(n-3))&3
}

// bucketEnd is the largest number of microseconds in a bucket.
func bucketEnd(bucket int) int64 {
	if bucket < 4 {
		return int64(bucket)
	}
	n := bucket/4 + 2
	return int64(bucket%4+5)<<(n-3) - 1
}

func (l *latency) add(d time.Duration) {
	us := min(max(d.Microseconds(), 0), latencyMost)
	s := &l.slots[l.now.Load()]
	s.counts[bucketOf(us)].Add(1)
	for most := s.most.Load(); us > most; most = s.most.Load() {
		if s.most.CompareAndSwap(most, us) {
			return
		}
	}
}

// turn begins the next second in the slot of the oldest one. One goroutine calls it, once a second.
func (l *latency) turn() {
	next := (l.now.Load() + 1) % latencySlots
	s := &l.slots[next]
	for i := range s.counts {
		s.counts[i].Store(0)
	}
	s.most.Store(0)
	l.now.Store(next)
}

// Latency tells how long answers took in the last ten seconds; zeros where there were none. The quantiles are the ends of their
// buckets, so up to a quarter too high.
type Latency struct {
	Answers            int64
	P50, P90, P99, Max time.Duration
}

func (l *latency) read() Latency {
	counts, most := l.window()
	return latencyOf(&counts, most)
}

// window adds up the slots: how many answers were in each bucket, and the longest in microseconds.
func (l *latency) window() (counts [latencyBuckets]int64, most int64) {
	for i := range l.slots {
		s := &l.slots[i]
		for b := range counts {
			counts[b] += int64(s.counts[b].Load())
		}
		most = max(most, s.most.Load())
	}
	return counts, most
}

// latencyOf reads the quantiles of a histogram, which may be the sum of several nodes'.
func latencyOf(counts *[latencyBuckets]int64, most int64) (out Latency) {
	for _, n := range counts {
		out.Answers += n
	}
	out.Max = time.Duration(most) * time.Microsecond
	for _, q := range []struct {
		share float64
		into  *time.Duration
	}{{0.5, &out.P50}, {0.9, &out.P90}, {0.99, &out.P99}} {
		rank, sum := int64(q.share*float64(out.Answers)), int64(0)
		for b := range counts {
			if sum += counts[b]; sum > rank {
				*q.into = time.Duration(min(bucketEnd(b), most)) * time.Microsecond
				break
			}
		}
	}
	return out
}
