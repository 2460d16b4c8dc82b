package report

import (
	"fmt"
	"io"
	"strings"
)

// Summary prints the result for a terminal.
func (r *Report) Summary(out io.Writer) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nRehearsal of %q: %d units, %d per buyer, copy %s\n\n", r.Title, r.Units, r.PerBuyer, r.Rehearsal)
	if r.Closed {
		fmt.Fprintf(&b, "  answers        %s in %.1f s: %s a second\n", Thousands(Total(r.Answers)), r.CameFor, Thousands(uint64(r.AnswersPerSecond)))
	} else {
		fmt.Fprintf(&b, "  presses        %s in %.1f s: %s a second\n", Thousands(r.Arrivals), r.CameFor, Thousands(uint64(r.ArrivalsPerSecond)))
	}
	for _, k := range Outcomes {
		if n := r.Outcomes[k.Name]; n > 0 {
			fmt.Fprintf(&b, "  %-14s %s\n", k.Label, Thousands(n))
		}
	}
	if r.SoldOutAfter != nil {
		fmt.Fprintf(&b, "  sold out       %.2f s after the opening\n", max(0, *r.SoldOutAfter-r.OpenedAfter))
	}
	r.Room.summary(&b)
	b.WriteString("\n  latency                                     count       p50       p99     p99.9       max\n")
	for _, l := range r.Latencies {
		fmt.Fprintf(&b, "  %-38s %10s %9s %9s %9s %9s\n", l.Label, Thousands(uint64(l.Count)), Duration(l.P50), Duration(l.P99), Duration(l.P999), Duration(l.Max))
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
