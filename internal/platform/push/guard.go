package push

import (
	"context"
	"net/http"
	"time"
)

// Guard asks again and again, with this time between, whether who began a connection may still listen, and cuts those that may not, until
// ctx ends. stays gets the request that began it; it is called by one goroutine, for one connection after another, also for some that have
// just ended. It must be quick: with 50,000 connections and a second between, a microsecond each is a twentieth of a processor. Without
// Guard, who may listen no more is noticed when he comes back after MaxAge.
func (h *Hub) Guard(ctx context.Context, every time.Duration, stays func(r *http.Request) bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var all []*conn
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		all = all[:0]
		h.connMu.Lock()
		for c := range h.conns {
			all = append(all, c)
		}
		h.connMu.Unlock()
		for _, c := range all {
			if !stays(c.request) {
				c.cancel()
			}
		}
		clear(all)
	}
}
