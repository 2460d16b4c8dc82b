package sale

import (
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/problem"
	"levee/internal/tally"
)

// refusal is a no that is the same for everybody, made once so that a loser costs nothing to answer.
type refusal struct {
	err     *levee.Error
	answer  *problem.Fixed
	outcome tally.Outcome
}

func newRefusal(err *levee.Error) *refusal {
	return &refusal{err: err, answer: problem.NewFixed(err), outcome: tally.Of(err)}
}

var (
	refusalSoldOut = newRefusal(levee.E(levee.CodeSoldOut, "every unit is taken; one may come back until the sale ends"))
	refusalForced  = newRefusal(levee.E(levee.CodeSoldOut, "every unit is taken"))
	refusalPaused  = newRefusal(levee.E(levee.CodePaused, "the sale is paused; it goes on shortly").After(3 * time.Second))
	refusalEnded   = newRefusal(levee.E(levee.CodeEnded, "the sale is over"))
	refusalDraw    = newRefusal(levee.E(levee.CodeDrawOnly, "the units of this sale are given by a draw; enter it instead"))
	refusalDraft   = newRefusal(levee.E(levee.CodeNotFound, "there is no such sale"))
	refusalAway    = newRefusal(levee.E(levee.CodeUnavailable, "purchases cannot be taken at this moment; nothing was taken, try again").After(2 * time.Second))
	refusalCold    = newRefusal(levee.E(levee.CodeNotWarmed, "the sale is being loaded; ask again in a second").After(time.Second))
)

// notOpen refuses before the start and tells when it is.
func (v *Sale) notOpen() *refusal {
	return newRefusal(levee.E(levee.CodeNotOpen, "the sale starts at %s", v.StartsAt.Format(time.RFC3339)).
		With("starts_at", v.StartsAt.Format(time.RFC3339Nano)))
}

// settledLate keeps a refusal for a buyer who was answered 202, and tells his page.
func (s *Service) settledLate(l *live, t *gate.Taking) {
	place := "ordered"
	if t.Result.Err != nil {
		place = "refused"
	}
	if t.Result != (gate.Outcome{}) {
		s.recall.Keep(t.ID, t.Result, s.Obs.Clock())
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
