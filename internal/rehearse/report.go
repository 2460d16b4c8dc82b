package rehearse

import (
	"fmt"
	"runtime"
	"time"

	"levee/internal/report"
)

// What a rehearsal comes to; package report shows it.
type (
	Report  = report.Report
	Check   = report.Check
	Account = report.Account
	Latency = report.Latency
	Point   = report.Point
	Slot    = report.Slot
	Room    = report.Room
	Board   = report.Board
)

// Verdicts of a check.
const (
	Holds  = report.Holds
	Broken = report.Broken
	Note   = report.Note
)

const (
	lateAt = 20 * time.Millisecond // the generator's own p99 lateness from which the report warns
)

func (s *stage) report(checks []Check, account Account, notes []string) Report {
	reading := s.rec.read()
	r := Report{Title: s.of.Title, Server: s.cfg.Server, Sale: s.of.ID, Rehearsal: s.copy.ID, StartedAt: s.begun.UTC().Truncate(time.Millisecond),
		Closed: s.cfg.Max, Command: s.cfg.Command(), Units: s.copy.Operator.Units, PerBuyer: s.copy.PerBuyer,
		Arrivals: reading.arrivals, Answers: map[string]uint64{}, Outcomes: map[string]uint64{}, CameFor: s.ended.Seconds(),
		SettledAfter: s.settled.Seconds(), OpenedAfter: s.opened.Seconds(), GeneratorCPU: s.cpu.Seconds(), SlotSeconds: s.rec.width.Seconds(),
		Timeline: s.rec.timeline(), Latencies: s.rec.latencies(), Account: account, Room: s.figures(), Audit: checks, Notes: notes}
	during := uint64(0)
	for c, n := range reading.answers {
		if n > 0 {
			r.Answers[classNames[c]] = n
		}
		if class(c) != classLost {
			during += n
		}
	}
	for f := range s.told.counts {
		if n := s.told.counts[f].Load(); n > 0 {
			r.Outcomes[finalNames[f]] = n
		}
	}
	r.ArrivalsPerSecond = float64(r.Arrivals) / r.CameFor
	r.AnswersPerSecond = float64(during) / r.CameFor
	if !s.cfg.Max {
		r.AnswersPerSecond = float64(during) / r.SettledAfter
	}
	if reading.soldOut >= 0 {
		r.SoldOutAfter = new(reading.soldOut.Seconds())
	}
	if reading.ordered >= 0 {
		r.LastOrderAfter = new(reading.ordered.Seconds())
	}
	r.Passed, r.Settings = r.OK(), s.settings(&r)
	r.Notes = append(r.Notes, cautions(&r)...)
	return r
}

// cautions tell where the figures show the generator or the machine instead of the server.
func cautions(r *Report) (list []string) {
	if l, ok := r.Latency(measureNames[ofLateness]); ok && l.P99 > float64(lateAt.Milliseconds()) {
		list = append(list, fmt.Sprintf("The generator itself was late (p99 %s): this machine is too busy for the rate, and part of the latencies is its own.",
			report.Duration(l.P99)))
	}
	all, ok := r.Latency(measureNames[ofAnswers])
	sent, ok2 := r.Latency(measureNames[ofSent])
	if ok && ok2 && !r.Closed && all.P99 > 2*sent.P99 && all.P99-sent.P99 > float64(lateAt.Milliseconds()) {
		list = append(list, fmt.Sprintf("Presses waited for a free connection: p99 is %s from the intended moment and %s from the real sending. "+
			"A closed loop would have shown only the second. More --connections tell whether it is the server that keeps them busy.",
			report.Duration(all.P99), report.Duration(sent.P99)))
	}
	if n := r.Outcomes[finalNames[finalNeverWas]]; n > 0 {
		list = append(list, fmt.Sprintf("%d presses could not be sent before the time was over.", n))
	}
	if r.GeneratorCPU > 0 && r.SettledAfter > 0 {
		list = append(list, fmt.Sprintf("The generator used %.1f s of processor time in %.1f s; this machine has %d cores.",
			r.GeneratorCPU, r.SettledAfter, runtime.NumCPU()))
	}
	return list
}

// settings are what the rehearsal was told, for people.
func (s *stage) settings(r *Report) (list []report.Setting) {
	c := s.cfg
	tell := func(label, value string) { list = append(list, report.Setting{Label: label, Value: value}) }
	tell("server", c.Server)
	tell("sale", r.Sale)
	tell("rehearsal copy", r.Rehearsal)
	tell("units, per buyer", fmt.Sprintf("%d, %d", r.Units, r.PerBuyer))
	tell("buyers", report.Thousands(uint64(c.Buyers)))
	switch {
	case c.Max:
		tell("mode", fmt.Sprintf("as much as the server takes, %d under way on each connection", c.Depth))
	case s.room != nil:
		tell("come to the waiting room", report.Number(c.Rate)+" a second, Poisson")
		tell("follow its counter", report.Share(c.Listen))
	default:
		tell("rate", report.Number(c.Rate)+" a second, Poisson")
		tell("press twice", report.Share(c.Double))
	}
	if !c.Max {
		tell("come before the opening", c.Early.String())
	}
	tell("pay", report.Share(c.Pay))
	tell("for", c.Duration.String())
	tell("connections", report.Thousands(uint64(c.Connections)))
	tell("units a press", fmt.Sprint(c.Quantity))
	if c.Poll {
		tell("people", "ask for a reservation and poll it")
	} else {
		tell("people", "hold the line for the commit")
	}
	tell("patience, time to settle, time-out", fmt.Sprintf("%v, %v, %v", c.Patience, c.Settle, c.Timeout))
	tell("seed", fmt.Sprint(c.Seed))
	tell("started", r.StartedAt.Format(time.RFC3339))
	return list
}
