package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/follow"
	"levee/internal/gate"
)

// A sale over several nodes: each node has its own line of takings and settles them, the gate is shared and follows the ledger, and every
// node looks at what the others did to the sales.

// lookEvery is how often a node looks whether another one changed a sale. A bell makes it look sooner.
const lookEvery = 500 * time.Millisecond

// openGate gives a sale its gate, and a follower where nodes share it.
func (s *Service) openGate(l *live, v *Sale) {
	l.view.Store(v)
	if s.Gates == nil {
		l.gate = gate.NewMemory(s.Config.WaitingMax)
		return
	}
	l.gate = s.Gates(v.ID, s.Config.WaitingMax)
	l.follower = follow.New(l.gate, follow.Books{
		Seq:       func(ctx context.Context) (int64, error) { st, err := s.stockOf(ctx, v.ID); return st.Seq, err },
		Movements: func(ctx context.Context, seqs []int64) ([]gate.Movement, error) { return s.movements(ctx, v.ID, seqs) },
		Won:       s.wins,
		State:     func(ctx context.Context) (gate.State, error) { return s.gateState(ctx, v.ID) },
	}, follow.Options{
		Sale: l.public, Log: s.log, Clock: s.Obs.Clock, Lease: s.late, Looked: l.setSwitch, Freed: func() { s.ring() },
		Over: func() bool { return l.view.Load().State == StateEnded },
	})
}

// heard is the bell: another node changed a sale, or units came back to a shared gate.
func (s *Service) heard() {
	select {
	case s.rung <- struct{}{}:
	default:
	}
	for _, l := range *s.live.Load() {
		if l.follower != nil {
			l.follower.Wake()
		}
	}
}

// lookAround sees what other nodes did to the sales: scheduled, changed, paused, ended.
func (s *Service) lookAround(ctx context.Context) {
	if s.Gates == nil {
		return
	}
	if err := s.look(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("this node could not see what other nodes did to the sales; it looks again", "err", err)
	}
}

func (s *Service) look(ctx context.Context) error {
	at, err := s.versions(ctx)
	if err != nil {
		return err
	}
	for _, l := range *s.live.Load() {
		v := l.view.Load()
		if _, alive := at[v.ID]; !alive && v.State != StateEnded {
			at[v.ID] = v.Version + 1 // ended by another node, or scheduled just now by this one
		} else if alive && at[v.ID] <= v.Version {
			delete(at, v.ID)
		}
	}
	for id := range at {
		v, err := s.saleByID(ctx, id)
		if err != nil {
			return err
		}
		s.follow(v)
	}
	return nil
}

// compareShared sets a shared gate beside what SQL had at the movement that the gate has come to.
func (s *Service) compareShared(ctx context.Context, l *live, a *Account) (err error) {
	if a.Gate, err = l.gate.Numbers(ctx); err != nil {
		a.moving = true // nothing can be said of a gate that is away
		return nil
	}
	if a.moving = len(a.Gate.Missing) > 0; a.moving || !a.Gate.Warm {
		return nil
	}
	a.inGate, err = s.remainingAt(ctx, a.Sale.ID, a.Gate.Applied)
	return err
}

// lost tells whether a reservation that neither this node nor SQL knows will never be written. In a house of one node its process has died.
// Among several it may be in another one's line until it is too old to be settled; and a settlement that is under way holds the stock row.
func (s *Service) lost(ctx context.Context, id levee.ReservationID) (bool, error) {
	if s.Gates == nil {
		return true, nil
	}
	if s.Obs.Clock().Sub(s.timeOf(id)) <= s.Config.GateLease*3/2 {
		return false, nil
	}
	for _, l := range *s.live.Load() {
		found, err := s.settledAmong(ctx, l.view.Load().ID, []levee.ReservationID{id})
		if err != nil || found[id] {
			return false, err
		}
	}
	return true, nil
}
