package cache

import (
	"context"
	"math"
	"sync"
	"time"

	"levee"
)

// budget bounds what a cache asks of the database: how much at a time, and while Redis is away how much a second.
type budget struct {
	slots chan struct{}
	fixed int // loads a second while Redis is away; 0: by what is usual
	clock *coarse

	mu     sync.Mutex // guards the rest
	second int64      // that is being counted
	count  float64    // loads in it
	usual  float64    // loads a second while Redis is there, over about ten seconds
	credit float64    // loads that may begin now while Redis is away
	at     int64      // when credit was last raised
}

// usualLeast is what a cache may load a second that had little to load before.
const usualLeast = 100

func newBudget(slots, fixed int, clock *coarse) *budget {
	return &budget{slots: make(chan struct{}, slots), fixed: fixed, clock: clock}
}

// begin waits for a turn and returns the function that ends it. CodeUnavailable with RetryAfter when there is none to be had.
func (b *budget) begin(ctx context.Context, away bool) (end func(), err error) {
	if !b.allow(away) {
		return nil, levee.E(levee.CodeUnavailable, "too much to load while the cache is away").After(time.Second)
	}
	end = func() { <-b.slots }
	select {
	case b.slots <- struct{}{}:
		return end, nil
	default:
	}
	t := time.NewTimer(loadWait)
	defer t.Stop()
	select {
	case b.slots <- struct{}{}:
		return end, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
		return nil, levee.E(levee.CodeUnavailable, "the database is busy").After(time.Second)
	}
}

// allow counts a load, and says whether it may begin.
func (b *budget) allow(away bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.NowNano()
	if s := now / int64(time.Second); s != b.second {
		if !away {
			for range min(s-b.second, 60) {
				b.usual += (b.count - b.usual) / 10
				b.count = 0
			}
		}
		b.second, b.count = s, 0
	}
	if !away {
		b.count++
		b.at, b.credit = now, math.MaxFloat64 // as much as the bound below lets it have
		return true
	}
	rate := float64(b.fixed)
	if b.fixed == 0 {
		rate = max(1.25*b.usual, usualLeast)
	}
	b.credit = min(b.credit+rate*float64(now-b.at)/float64(time.Second), max(rate/10, 1))
	b.at = now
	if b.credit < 1 {
		return false
	}
	b.credit--
	return true
}
