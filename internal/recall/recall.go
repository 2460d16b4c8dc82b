// Package recall remembers for ten minutes what became of a place in the line that did not become an order, so that whoever had it learns why.
//
// It owns nothing that counts: it is bounded, in this process's memory, and who falls out of it is told less, not something wrong.
package recall

import (
	"sync"
	"time"

	"levee"
	"levee/internal/gate"
)

const (
	// Kept is how long an outcome is remembered.
	Kept   = 10 * time.Minute
	atMost = 100_000
)

// Memory is what is remembered. Its methods may be called at any time from any goroutine. The zero value is ready.
type Memory struct {
	mu  sync.Mutex // guards all below
	why map[levee.ReservationID]kept
}

type kept struct {
	gate.Outcome
	until time.Time
}

// Keep remembers an outcome, if there is room for it.
func (m *Memory) Keep(id levee.ReservationID, o gate.Outcome, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why == nil {
		m.why = map[levee.ReservationID]kept{}
	}
	if len(m.why) < atMost {
		m.why[id] = kept{o, now.Add(Kept)}
	}
}

// Of returns the outcome, zero if it is not remembered.
func (m *Memory) Of(id levee.ReservationID) gate.Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why[id].Outcome
}

// Sweep forgets what is older than Kept.
func (m *Memory) Sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, k := range m.why {
		if now.After(k.until) {
			delete(m.why, id)
		}
	}
}
