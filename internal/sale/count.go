package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/tally"
)

// outcomeOf tells how a settled taking is counted.
func outcomeOf(o gate.Outcome) tally.Outcome {
	if o.Existing != 0 {
		return tally.Repeated
	}
	return tally.Of(o.Err)
}

// count changes the counters of a sale that this node sells.
func (s *Service) count(sale levee.SaleID, change func(*tally.Sale)) {
	if l := s.liveByID(sale); l != nil {
		change(&l.tally)
	}
}

// refusedFast tells how many attempts the switches of all sales have refused. Sales are never taken out of the map, so it only rises.
func (s *Service) refusedFast() float64 {
	var n int64
	for _, l := range *s.live.Load() {
		n += l.tally.RefusedFast()
	}
	return float64(n)
}

// tallyAround is how long before a sale's start and after its end its numbers are kept.
const tallyAround = 10 * time.Minute

// watch lets the sale's numbers be taken for its live page.
func (s *Service) watch(l *live) {
	if s.Tally == nil {
		return
	}
	sale := l.view.Load().ID
	s.Tally.Follow(tally.Source{
		Public: l.public, Tally: &l.tally,
		State: func(ctx context.Context) (tally.State, error) {
			stock, err := s.stockOf(ctx, sale)
			n := l.numbers()
			return tally.State{Phase: string(l.phase(l.view.Load(), s.Obs.Clock())),
				Stock: tally.Stock{Offered: stock.Offered, Remaining: stock.Remaining, Reserved: stock.Reserved, Sold: stock.Sold, Withdrawn: stock.Withdrawn},
				Gate:  tally.Gate{Warm: n.Warm, Remaining: n.Remaining, Unsettled: n.Unsettled, Waiting: int64(n.Waiting)}}, err
		},
		Queue: func() tally.Queue {
			n := s.Admission.Numbers(sale)
			return tally.Queue{Waiting: n.Waiting, Admitted: n.Admitted, Served: n.Served, PerSecond: n.PerSecond, Kept: n.Kept}
		},
		Line: func() (n tally.Line) {
			if s.lineNumbers != nil {
				n.Waiting, n.Offered = s.lineNumbers(sale)
			}
			return n
		},
		Awake: func(now time.Time) bool {
			v := l.view.Load()
			ends := v.EndsAt
			if v.State == StateEnded && v.UpdatedAt.Before(ends) {
				ends = v.UpdatedAt
			}
			return now.After(v.StartsAt.Add(-tallyAround)) && now.Before(ends.Add(tallyAround))
		},
	})
}
