package sale

import (
	"sync"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/tally"
)

// refusal is a no that is the same for everybody, made once so that a loser costs nothing to answer.
type refusal struct {
	err     *levee.Error
	answer  *answer
	outcome tally.Outcome
}

func newRefusal(err *levee.Error) *refusal {
	return &refusal{err: err, answer: newAnswer(err), outcome: tally.Of(err)}
}

var (
	refusalSoldOut = newRefusal(levee.E(levee.CodeSoldOut, "every unit is taken; one may come back until the sale ends"))
	refusalForced  = newRefusal(levee.E(levee.CodeSoldOut, "every unit is taken"))
	refusalPaused  = newRefusal(levee.E(levee.CodePaused, "the sale is paused; it goes on shortly").After(3 * time.Second))
	refusalEnded   = newRefusal(levee.E(levee.CodeEnded, "the sale is over"))
	refusalDraw    = newRefusal(levee.E(levee.CodeDrawOnly, "the units of this sale are given by a draw; enter it instead"))
	refusalDraft   = newRefusal(levee.E(levee.CodeNotFound, "there is no such sale"))
	refusalCold    = newRefusal(levee.E(levee.CodeNotWarmed, "the sale is being loaded; ask again in a second").After(time.Second))
)

// notOpen refuses before the start and tells when it is.
func (v *Sale) notOpen() *refusal {
	return newRefusal(levee.E(levee.CodeNotOpen, "the sale starts at %s", v.StartsAt.Format(time.RFC3339)).
		With("starts_at", v.StartsAt.Format(time.RFC3339Nano)))
}

// refusals keeps for ten minutes why a reservation that was answered 202 became nothing, or which one its idempotency key had
// before, so that its buyer learns it when he asks. It is bounded; who falls out is told that his place was lost, which is true.
type refusals struct {
	mu  sync.Mutex // guards all below
	why map[levee.ReservationID]refused
}

type refused struct {
	err      error
	existing levee.ReservationID // instead of err: the key's first answer
	until    time.Time
}

const (
	refusalKept    = 10 * time.Minute
	refusalsAtMost = 100_000
)

func newRefusals() *refusals { return &refusals{why: map[levee.ReservationID]refused{}} }

func (r *refusals) keep(id levee.ReservationID, o gate.Outcome, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.why) < refusalsAtMost {
		r.why[id] = refused{err: o.Err, existing: o.Existing, until: now.Add(refusalKept)}
	}
}

func (r *refusals) of(id levee.ReservationID) refused {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why[id]
}

func (r *refusals) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.why {
		if now.After(e.until) {
			delete(r.why, id)
		}
	}
}

// settledLate keeps a refusal for a buyer who was answered 202, and tells his page.
func (s *Service) settledLate(l *live, t *gate.Taking) {
	place := "ordered"
	if t.Result.Err != nil {
		place = "refused"
	}
	if t.Result != (gate.Outcome{}) {
		s.refuse.keep(t.ID, t.Result, s.Obs.Clock())
	}
	public := s.Sealer.Seal(levee.KindReservation, int64(t.ID))
	s.Push.Publish("reservation:"+public, "reservation", []byte(`{"reservation":"`+public+`","place":"`+place+`"}`))
}

// publish tells the pages of a sale when its phase changes.
func (s *Service) publish(l *live, now time.Time) {
	v := l.view.Load()
	phase := string(l.phase(v, now))
	if last := l.lastPublished.Load(); last != nil && *last == phase {
		return
	}
	l.lastPublished.Store(&phase)
	s.Push.Publish("sale:"+l.public, "phase", []byte(`{"sale":"`+l.public+`","phase":"`+phase+`","at":"`+now.UTC().Format(time.RFC3339Nano)+`"}`))
}
