package gate

import (
	"sync"
	"sync/atomic"
)

// Switch is what refuses the losers before they come to the gate: one atomic load. A nil refusal means "go and ask the gate".
//
// It is shut by the first refusal for lack of stock (or by whoever looks after the last unit went) and by the clock, and lifted when
// stock comes back. A refusal carries the epoch of the gate at which it was decided; the gate's epoch rises when stock returns, so a
// late "sold out" cannot shut a sale that has stock again.
type Switch[R any] struct {
	soldOut *R
	shut    atomic.Pointer[R]
	mu      sync.Mutex // guards epoch and serialises changes of shut
	epoch   uint64
}

// NewSwitch makes an open switch. soldOut is what it says for lack of stock.
func NewSwitch[R any](soldOut *R) *Switch[R] { return &Switch[R]{soldOut: soldOut} }

// Refusal returns what the switch says, or nil.
func (s *Switch[R]) Refusal() *R { return s.shut.Load() }

// SoldOut shuts the switch if no stock came back since the epoch.
func (s *Switch[R]) SoldOut(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch >= s.epoch && s.shut.Load() == nil {
		s.epoch = epoch
		s.shut.Store(s.soldOut)
	}
}

// Lift opens a switch that is shut for lack of stock, from the epoch on.
func (s *Switch[R]) Lift(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch > s.epoch {
		s.epoch = epoch
	}
	if s.shut.Load() == s.soldOut {
		s.shut.Store(nil)
	}
}

// Set puts the switch to what state and clock say; nil leaves a "sold out" alone.
func (s *Switch[R]) Set(r *R) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.shut.Load(); r != nil || (now != nil && now != s.soldOut) {
		s.shut.Store(r)
	}
}
