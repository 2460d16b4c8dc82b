package admission

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// hall is a waiting room with its disk, in the bubble of a synctest.
type hall struct {
	*platformtest.Platform
	t      testing.TB
	s      *Service
	w      Window
	units  atomic.Int64
	step   atomic.Int64 // of the wall clock, nanoseconds
	config Config
	stop   func()
}

const theSale = levee.SaleID(4711)

// hallOf opens one for a sale that opens in a minute and lasts a day.
func hallOf(t testing.TB, p Policy, change ...func(*hall)) *hall {
	t.Helper()
	h := &hall{Platform: platformtest.New(t, Schema(), node.Schema()), t: t}
	h.units.Store(1 << 40)
	h.w = Window{Sale: theSale, Public: h.Sealer.Seal(levee.KindSale, int64(theSale)), Open: true, Policy: p, Free: h.units.Load,
		Opens: time.Now().Add(time.Minute), Ends: time.Now().Add(24 * time.Hour)}
	h.w.Policy.Room = true
	for _, c := range change {
		c(h)
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *hall) start() {
	h.t.Helper()
	o := obs.Test(h.t)
	o.Clock = func() time.Time { return time.Now().Add(time.Duration(h.step.Load())) }
	s, err := New(Deps{IDs: h.IDs, Sealer: h.Sealer, Obs: o, Push: h.Push, DB: h.DB, Limits: nil, Key: platformtest.Key(2), Config: h.config})
	if err != nil {
		h.t.Fatal(err)
	}
	h.s = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	h.stop = func() {
		h.stop = func() {}
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
	h.s.Follow(h.w)
	h.ready()
}

// ready waits until the room is loaded: the disk takes real time, of which the bubble knows nothing.
func (h *hall) ready() {
	h.t.Helper()
	for range 100 {
		if r := h.s.roomOf(theSale); r == nil || !r.window.Load().Policy.Room {
			return
		} else if r.mu.Lock(); r.q != nil {
			r.mu.Unlock()
			return
		} else {
			r.mu.Unlock()
		}
		time.Sleep(time.Millisecond)
	}
	h.t.Fatal("the room is not loaded")
}

// restart stops in order and starts again.
func (h *hall) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

// kill ends the process between two writes and starts again.
func (h *hall) kill() {
	h.t.Helper()
	synctest.Wait()
	h.s.DB = nil // the last words are not written
	h.stop()
	h.start()
}

func person(n int) levee.Actor {
	return levee.Actor{User: levee.UserID(1000 + n), Roles: levee.RoleCustomer}
}

func (h *hall) enter(n int, ticket string) Place {
	h.t.Helper()
	p, err := h.s.Enter(context.Background(), h.w.Public, person(n), Visit{Ticket: ticket})
	if err != nil {
		h.t.Fatalf("person %d: %v", n, err)
	}
	return p
}

func (h *hall) enterErr(n int, v Visit) error {
	_, err := h.s.Enter(context.Background(), h.w.Public, person(n), v)
	return err
}

func (h *hall) mine(n int) Place {
	h.t.Helper()
	p, err := h.s.Mine(h.w.Public, person(n))
	if err != nil {
		h.t.Fatalf("person %d: %v", n, err)
	}
	return p
}

func (h *hall) status(n int) string {
	p, err := h.s.Mine(h.w.Public, person(n))
	if err != nil {
		return string(levee.CodeOf(err))
	}
	return string(p.Status)
}

// toOpening sleeps until the sale opens.
func (h *hall) toOpening() { time.Sleep(time.Until(h.w.Opens)) }

func (h *hall) wantCode(err error, code levee.Code) {
	h.t.Helper()
	if levee.CodeOf(err) != code {
		h.t.Fatalf("got %v, want %s", err, code)
	}
}

var home = netip.MustParseAddr("192.0.2.7")

// inBubble runs a scenario in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
