package sale

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/gate"
	"levee/internal/tally"
)

// live is a sale that this node sells: its terms, its gate and its switch. The hot path holds nothing else.
type live struct {
	public string // the sale's public id
	view   atomic.Pointer[Sale]
	gate   *gate.Memory
	sw     *gate.Switch[refusal]
	tally  tally.Sale

	late   sync.Mutex                           // guards waited
	waited map[levee.ReservationID]levee.UserID // unsettled takings whose buyer was answered 202

	lastPublished atomic.Pointer[string]
	settling      bool // a settler runs; guarded by Service.mu
}

// refreshSwitch sets the switch to what terms, clock and gate say at this moment.
func (l *live) refreshSwitch(now time.Time) {
	v := l.view.Load()
	r := v.refusalAt(now)
	l.sw.Set(r)
	if r == nil {
		switch n := l.gate.Numbers(); {
		case n.Warm && n.Remaining > 0:
			l.sw.Lift(n.Epoch)
		case n.Warm:
			l.sw.SoldOut(n.Epoch)
		}
	}
}

// phase is what the sale is for whoever looks: an open race without a free unit is sold out.
func (l *live) phase(v *Sale, now time.Time) Phase {
	phase := v.PhaseAt(now)
	if r := l.sw.Refusal(); phase == PhaseOpen && (r == refusalSoldOut || r == refusalForced) {
		return PhaseSoldOut
	}
	return phase
}

// refusalAt tells what the sale's terms and the clock refuse with, or nil.
func (v *Sale) refusalAt(now time.Time) *refusal {
	switch phase := v.PhaseAt(now); {
	case phase == PhaseDraft:
		return refusalDraft
	case phase == PhaseEnded:
		return refusalEnded
	case v.Mode == ModeDraw:
		return refusalDraw
	case phase == PhaseUpcoming:
		return v.upcoming()
	case phase == PhasePaused:
		return refusalPaused
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
		l = &live{public: public, gate: gate.New(s.Config.WaitingMax), sw: gate.NewSwitch(refusalSoldOut), waited: map[levee.ReservationID]levee.UserID{}}
		next := make(map[string]*live, len(old)+1)
		for k, o := range old {
			next[k] = o
		}
		next[public] = l
		l.view.Store(v)
		s.live.Store(&next)
		s.watch(l)
	} else if v.Version >= l.view.Load().Version {
		l.view.Store(v)
	}
	l.refreshSwitch(s.Obs.Clock())
	s.admit(l)
	if r := s.run.Load(); r != nil {
		s.startSettler(r, l)
	}
	return l
}

// admit tells the waiting room the sale's terms as they are now.
func (s *Service) admit(l *live) {
	v := l.view.Load()
	ends := v.EndsAt
	if v.State == StateEnded && v.UpdatedAt.Before(ends) {
		ends = v.UpdatedAt
	}
	s.Admission.Follow(admission.Window{
		Sale: v.ID, Public: l.public, Opens: v.StartsAt, Ends: ends, Open: v.State == StateScheduled && !v.ForcedSoldOut,
		Draw: v.Mode == ModeDraw, Rehearsal: v.Rehearsal, Policy: v.Admission,
		Free: func() int64 { return l.gate.Numbers().Remaining },
	})
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
		if !l.gate.Numbers().Warm && l.view.Load().PhaseAt(s.Obs.Clock()) != PhaseEnded {
			return levee.E(levee.CodeUnavailable, "the sale %s is being loaded", l.public)
		}
	}
	return nil
}
