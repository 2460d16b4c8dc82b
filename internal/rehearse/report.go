package rehearse

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"levee"
)

// Report is what a rehearsal came to. Times are in seconds from the moment the first people came, latencies in milliseconds.
type Report struct {
	Title     string    `json:"title"`
	Server    string    `json:"server"`
	Sale      string    `json:"sale"`      // that was copied
	Rehearsal string    `json:"rehearsal"` // the copy
	StartedAt time.Time `json:"started_at"`
	Config    Config    `json:"-"`
	Settings  []Setting `json:"settings"`
	Command   string    `json:"command"`
	Units     int64     `json:"units"`
	PerBuyer  int64     `json:"per_buyer"`

	// Arrivals is how many presses there were; ArrivalsPerSecond their rate while people came. Both 0 for Max.
	Arrivals          uint64  `json:"arrivals"`
	ArrivalsPerSecond float64 `json:"arrivals_per_second"`
	// Answers counts every answer by what it meant, Outcomes every press by its last word.
	Answers          map[string]uint64 `json:"answers"`
	Outcomes         map[string]uint64 `json:"outcomes"`
	AnswersPerSecond float64           `json:"answers_per_second"`
	// CameFor is how long people kept coming, SettledAfter when everybody had his last word.
	CameFor      float64 `json:"came_for_s"`
	SettledAfter float64 `json:"settled_after_s"`
	// OpenedAfter is when the sale opened; SoldOutAfter when the first person was told sold out, LastOrderAfter when the last
	// order was told. Nil: never.
	OpenedAfter    float64  `json:"opened_after_s"`
	SoldOutAfter   *float64 `json:"sold_out_after_s"`
	LastOrderAfter *float64 `json:"last_order_after_s"`
	// GeneratorCPU is the processor time of this process, 0 if the system does not tell it.
	GeneratorCPU float64 `json:"generator_cpu_s"`
	// SlotSeconds is the width of a piece of Timeline.
	SlotSeconds float64   `json:"slot_s"`
	Timeline    []Slot    `json:"timeline"`
	Latencies   []Latency `json:"latencies"`
	// Room is nil where the sale has neither a waiting room nor a brake.
	Room    *Room    `json:"room,omitempty"`
	Account Account  `json:"account"`
	Audit   []Check  `json:"audit"`
	Passed  bool     `json:"passed"`
	Notes   []string `json:"notes"`
}

// Setting is one line of what the rehearsal was told, for people.
type Setting struct {
	Label string `json:"name"`
	Value string `json:"value"`
}

// OK tells whether every promise held.
func (r Report) OK() bool {
	for _, c := range r.Audit {
		if c.Verdict == Broken {
			return false
		}
	}
	return len(r.Audit) > 0
}

// Latency returns a distribution by its name (answers, orders, refusals, polls, outcomes, from_sending, generator_lateness).
func (r Report) Latency(name string) (Latency, bool) {
	for _, l := range r.Latencies {
		if l.Name == name {
			return l, true
		}
	}
	return Latency{}, false
}

const (
	lateAt = 20 * time.Millisecond // the generator's own p99 lateness from which the report warns
)

func (s *stage) report(checks []Check, account Account, notes []string) Report {
	reading := s.rec.read()
	r := Report{Title: s.of.Title, Server: s.cfg.Server, Sale: s.of.ID, Rehearsal: s.copy.ID, StartedAt: s.begun.UTC().Truncate(time.Millisecond),
		Config: s.cfg, Command: s.cfg.Command(), Units: s.copy.Operator.Units, PerBuyer: s.copy.PerBuyer,
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
	r.Passed, r.Settings = r.OK(), r.settings()
	r.Notes = append(r.Notes, r.cautions()...)
	return r
}

// cautions tell where the figures show the generator or the machine instead of the server.
func (r *Report) cautions() (list []string) {
	if l, ok := r.Latency(measureNames[ofLateness]); ok && l.P99 > float64(lateAt.Milliseconds()) {
		list = append(list, fmt.Sprintf("The generator itself was late (p99 %s): this machine is too busy for the rate, and part of the latencies is its own.",
			duration(l.P99)))
	}
	all, ok := r.Latency(measureNames[ofAnswers])
	sent, ok2 := r.Latency(measureNames[ofSent])
	if ok && ok2 && !r.Config.Max && all.P99 > 2*sent.P99 && all.P99-sent.P99 > float64(lateAt.Milliseconds()) {
		list = append(list, fmt.Sprintf("Presses waited for a free connection: p99 is %s from the intended moment and %s from the real sending. "+
			"A closed loop would have shown only the second. More --connections tell whether it is the server that keeps them busy.",
			duration(all.P99), duration(sent.P99)))
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

// summary prints the result for a terminal.
func (r *Report) summary(out io.Writer) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nRehearsal of %q: %d units, %d per buyer, copy %s\n\n", r.Title, r.Units, r.PerBuyer, r.Rehearsal)
	if r.Config.Max {
		fmt.Fprintf(&b, "  answers        %s in %.1f s: %s a second\n", thousands(total(r.Answers)), r.CameFor, thousands(uint64(r.AnswersPerSecond)))
	} else {
		fmt.Fprintf(&b, "  presses        %s in %.1f s: %s a second\n", thousands(r.Arrivals), r.CameFor, thousands(uint64(r.ArrivalsPerSecond)))
	}
	for f := range finals {
		if n := r.Outcomes[finalNames[f]]; n > 0 {
			fmt.Fprintf(&b, "  %-14s %s\n", finalLabels[f], thousands(n))
		}
	}
	if r.SoldOutAfter != nil {
		fmt.Fprintf(&b, "  sold out       %.2f s after the opening\n", max(0, *r.SoldOutAfter-r.OpenedAfter))
	}
	r.Room.summary(&b)
	b.WriteString("\n  latency                                     count       p50       p99     p99.9       max\n")
	for _, l := range r.Latencies {
		fmt.Fprintf(&b, "  %-38s %10s %9s %9s %9s %9s\n", l.Label, thousands(uint64(l.Count)), duration(l.P50), duration(l.P99), duration(l.P999), duration(l.Max))
	}
	b.WriteString("\n  audit\n")
	for _, c := range r.Audit {
		fmt.Fprintf(&b, "  %-6s  %s: %s\n", strings.ToUpper(c.Verdict), c.Name, c.Facts)
		if c.Verdict == Broken {
			for i, f := range c.Findings {
				if i == 5 {
					fmt.Fprintf(&b, "            and %d more\n", c.Count-i)
					break
				}
				fmt.Fprintf(&b, "            %s\n", f)
			}
		}
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "  note: %s\n", n)
		}
	}
	if r.Passed {
		b.WriteString("\nEvery promise held.\n")
	} else {
		b.WriteString("\nA PROMISE WAS BROKEN: see the audit above.\n")
	}
	// What the terminal cannot take, the files have.
	_, _ = io.WriteString(out, b.String())
}

func total(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// WriteJSON writes all figures to a file, which is replaced as a whole.
func (r Report) WriteJSON(path string) (err error) {
	defer levee.Wrap(&err, "rehearse.WriteJSON(%q)", path)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return replace(path, append(text, '\n'))
}

// WriteHTML writes the report as one page that needs nothing else, which is replaced as a whole.
func (r Report) WriteHTML(path string) (err error) {
	defer levee.Wrap(&err, "rehearse.WriteHTML(%q)", path)
	text, err := r.html()
	if err != nil {
		return err
	}
	return replace(path, text)
}

// replace writes a file beside the old one and puts it in its place, so that nobody reads half a report.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".rehearsal-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails when it was renamed, which is well
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
