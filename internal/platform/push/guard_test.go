package push

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// Who may listen no more is cut off, and nobody else; when the guard ends it has stopped asking.
func TestGuard(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{})
		var banned, asked atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- h.Guard(ctx, 20*time.Millisecond, func(r *http.Request) bool {
				asked.Add(1)
				return banned.Load() == 0 || r.URL.Query().Get("t") != "out"
			})
		}()
		stays, goes := dial(h, "", "in"), dial(h, "", "out")
		until(t, "both are asked about", func() bool { return asked.Load() >= 4 })
		if h.Conns() != 2 {
			t.Fatalf("%d connections before anybody is banned", h.Conns())
		}
		banned.Store(1)
		until(t, "one is left", func() bool { return h.Conns() == 1 })
		for {
			if _, err := goes.next(); err != nil {
				break
			}
		}
		seen := asked.Load()
		until(t, "the other is asked about again", func() bool { return asked.Load() >= seen+2 })
		h.Publish("in", "n", []byte("7"))
		for {
			m, err := stays.next()
			if err != nil {
				t.Fatal(err)
			}
			if string(m.Data) == "7" {
				break
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
