package cache

import (
	"sync/atomic"
	"time"
)

const (
	// worthWindow is how long a cache is looked at, worthLeast how many reads of the second level say something about it, and worthRest
	// how long one that was found useless is left unfilled.
	worthWindow = 5 * time.Minute
	worthLeast  = 1000
	worthRest   = 10 * time.Minute
	// worthShare is the least share of the second level's reads that must find something: one in so many.
	worthShare = 5
)

// worth says whether it is worth while to fill the second level: what is hardly ever found there costs Redis memory and this node a round
// trip for nothing. Versions and tombstones are kept and heeded all the same.
type worth struct {
	window, rest time.Duration
	least        int64
	idle         atomic.Bool // it is not filled
	asks, hits   atomic.Int64

	// The rest is the keeper's alone.
	began     int64 // the clock at which the window began, or the rest ends
	was, had  int64 // asks and hits by then
	forgotten atomic.Bool
}

func newWorth() *worth { return &worth{window: worthWindow, rest: worthRest, least: worthLeast} }

// forget begins the window anew: what is stored is out of sight, and so nothing can be found for a while.
func (w *worth) forget() { w.forgotten.Store(true) }

// judge looks at the time since the last judgement, and reports whether it is another one now.
func (w *worth) judge(now int64) (changed bool) {
	asks, hits := w.asks.Load(), w.hits.Load()
	again := func() { w.began, w.was, w.had = now, asks, hits }
	switch {
	case w.idle.Load():
		if now < w.began {
			return false
		}
		w.idle.Store(false)
		again()
		return true
	case w.forgotten.Swap(false):
		again()
	case now-w.began >= int64(w.window):
		asked, found := asks-w.was, hits-w.had
		again()
		if asked >= w.least && found*worthShare < asked {
			w.began = now + int64(w.rest)
			w.idle.Store(true)
			return true
		}
	}
	return false
}
