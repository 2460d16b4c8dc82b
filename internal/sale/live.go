package sale

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/follow"
	"levee/internal/gate"
	"levee/internal/tally"
)

// live is a sale that this node sells: its terms, its gate and its switch. The hot path holds nothing else.
type live struct {
	public string // the sale's public id
	view   atomic.Pointer[Sale]
	gate   *gate.Gate
	sw     *gate.Switch[refusal]
	tally  tally.Sale

	late   sync.Mutex                           // guards waited
	waited map[levee.ReservationID]levee.UserID // unsettled takings whose buyer was answered 202

	follower *follow.Follower // of a gate that nodes share, else nil

	lastPublished atomic.Pointer[string]
	settling      bool // a settler runs; guarded by Service.mu
}

// numbers is the gate's account: of a gate that nodes share, as this node saw it last.
func (l *live) numbers() gate.Numbers {
	if l.follower != nil {
		return l.follower.Numbers()
	}
	n, _ := l.gate.Numbers(context.Background()) // this process's memory cannot fail
	return n
}

// refreshSwitch sets the switch to what terms, clock and gate say at this moment.
func (l *live) refreshSwitch(now time.Time) {
	r := l.view.Load().refusalAt(now)
	l.sw.Set(r)
	if r == nil && l.follower == nil {
		l.setSwitch(l.numbers())
	}
}

// setSwitch sets the switch to what the gate has counted just now.
func (l *live) setSwitch(n gate.Numbers) {
	switch {
	case n.Warm && n.Remaining > 0:
		l.sw.Lift(n.Epoch)
	case n.Warm && l.sw.Refusal() == nil:
		l.sw.SoldOut(n.Epoch)
	}
}

// cameBack is told that units came back to the gate. What came back may have been given out of turn meanwhile: then the gate has nothing to
// sell, and the switch stays shut.
func (l *live) cameBack() {
	if l.follower != nil {
		l.follower.Came()
	} else if n := l.numbers(); n.Remaining > 0 {
		l.sw.Lift(n.Epoch)
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
		l = &live{public: public, sw: gate.NewSwitch(refusalSoldOut), waited: map[levee.ReservationID]levee.UserID{}}
		s.openGate(l, v)
		next := make(map[string]*live, len(old)+1)
		for k, o := range old {
			next[k] = o
		}
		next[public] = l
		s.live.Store(&next)
		s.watch(l)
	} else if v.Version >= l.view.Load().Version {
		l.view.Store(v)
	}
	l.gate.SetLimit(l.view.Load().PerBuyer)
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
		Free: func() int64 { return l.numbers().Remaining },
	})
}

// startSettler starts the sale's settler unless it runs. The caller holds s.mu.
func (s *Service) startSettler(r *runner, l *live) {
	if l.settling {
		return
	}
	l.settling = true
	s.joined.Go(func() {
		var following sync.WaitGroup
		if l.follower != nil {
			following.Go(func() { l.follower.Run(r.ctx) })
		}
		s.settleLoop(r.ctx, l)
		following.Wait()
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
		if !l.numbers().Warm && l.view.Load().PhaseAt(s.Obs.Clock()) != PhaseEnded {
			return levee.E(levee.CodeUnavailable, "the sale %s is being loaded", l.public)
		}
	}
	return nil
}
