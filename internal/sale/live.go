package sale

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

// live is a sale that this node sells: its terms, its gate and its switch. The hot path holds nothing else.
type live struct {
	public string // the sale's public id
	view   atomic.Pointer[Sale]
	gate   *memoryGate
	sw     sellSwitch

	late   sync.Mutex                           // guards waited
	waited map[levee.ReservationID]levee.UserID // unsettled takings whose buyer was answered 202

	lastPublished atomic.Pointer[string]
	settling      bool // a settler runs; guarded by Service.mu
}

// sellSwitch is what refuses the losers: one atomic load. nil means "go and ask the gate".
//
// It is shut by the first refusal for lack of stock (or the next tick after the last unit) and by the clock, and lifted when stock
// comes back. A refusal carries the
// epoch of the gate at which it was decided; the gate's epoch rises when stock returns, so a late "sold out" cannot shut a
// sale that has stock again.
type sellSwitch struct {
	shut  atomic.Pointer[refusal]
	mu    sync.Mutex // guards epoch and serialises changes of shut
	epoch uint64
}

// soldOut shuts the switch if no stock came back since the epoch.
func (sw *sellSwitch) soldOut(epoch uint64) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	if epoch >= sw.epoch && sw.shut.Load() == nil {
		sw.epoch = epoch
		sw.shut.Store(refusalSoldOut)
	}
}

// lift opens a switch that is shut for lack of stock, from the epoch on.
func (sw *sellSwitch) lift(epoch uint64) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	if epoch > sw.epoch {
		sw.epoch = epoch
	}
	if sw.shut.Load() == refusalSoldOut {
		sw.shut.Store(nil)
	}
}

// set puts the switch to what state and clock say; r nil leaves a "sold out" alone.
func (sw *sellSwitch) set(r *refusal) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	if now := sw.shut.Load(); r != nil || (now != nil && now != refusalSoldOut) {
		sw.shut.Store(r)
	}
}

// refreshSwitch sets the switch to what terms, clock and gate say at this moment.
func (l *live) refreshSwitch(now time.Time) {
	v := l.view.Load()
	r := v.refusalAt(now)
	l.sw.set(r)
	if r == nil {
		switch n := l.gate.move(0, 0, 0); {
		case n.Warm && n.Remaining > 0:
			l.sw.lift(n.Epoch)
		case n.Warm:
			l.sw.soldOut(n.Epoch)
		}
	}
}

// refusalAt tells what the sale's terms and the clock refuse with, or nil.
func (v *Sale) refusalAt(now time.Time) *refusal {
	switch v.PhaseAt(now) {
	case PhaseDraft:
		return refusalDraft
	case PhaseUpcoming:
		return v.upcoming()
	case PhasePaused:
		return refusalPaused
	case PhaseEnded:
		return refusalEnded
	}
	if v.ForcedSoldOut {
		return refusalForced
	}
	return nil
}

// bring makes a sale live (or renews its terms) and starts its settler. The gate stays cold until it is loaded.
func (s *Service) bring(v *Sale) *live {
	public := s.Sealer.Seal(levee.KindSale, int64(v.ID))
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.live.Load()
	l := old[public]
	if l == nil {
		l = &live{public: public, gate: newMemoryGate(s.Config.WaitingMax), waited: map[levee.ReservationID]levee.UserID{}}
		next := make(map[string]*live, len(old)+1)
		for k, o := range old {
			next[k] = o
		}
		next[public] = l
		l.view.Store(v)
		s.live.Store(&next)
	} else if v.Version >= l.view.Load().Version {
		l.view.Store(v)
	}
	l.refreshSwitch(s.Obs.Clock())
	if r := s.run.Load(); r != nil {
		s.startSettler(r, l)
	}
	return l
}

// startSettler starts the sale's settler unless it runs. The caller holds s.mu.
func (s *Service) startSettler(r *runner, l *live) {
	if l.settling {
		return
	}
	l.settling = true
	s.joined.Go(func() {
		s.settleLoop(r.ctx, l)
		s.mu.Lock()
		l.settling = false
		s.mu.Unlock()
	})
}

// liveByID returns the live sale with this id, or nil.
func (s *Service) liveByID(sale levee.SaleID) *live {
	return (*s.live.Load())[s.Sealer.Seal(levee.KindSale, int64(sale))]
}

// ready reports whether every sale that could sell now is loaded; it names the first that is not.
func (s *Service) Ready(context.Context) error {
	for _, l := range *s.live.Load() {
		if !l.gate.move(0, 0, 0).Warm && l.view.Load().PhaseAt(s.Obs.Clock()) != PhaseEnded {
			return levee.E(levee.CodeUnavailable, "the sale %s is being loaded", l.public)
		}
	}
	return nil
}
