package report

import (
	"fmt"
	"html/template"
	"strings"

	"levee/internal/plot"
)

// summary prints the room for a terminal.
func (v *Room) summary(b *strings.Builder) {
	if v == nil {
		return
	}
	fmt.Fprintf(b, "\n  waiting room   %s places, %s had their turn, %s still wait\n", Thousands(uint64(v.Places)), Thousands(uint64(v.Admitted)),
		Thousands(uint64(v.Waiting)))
	fmt.Fprintf(b, "  place calls    %s: %s a second, %s by pages loaded again\n", Thousands(uint64(v.Calls)), Thousands(uint64(v.CallsPerSecond)),
		Thousands(uint64(v.Reloads)))
	fmt.Fprintf(b, "  tokens out     at most %s of %s\n", Thousands(uint64(v.MostOut)), Thousands(uint64(v.Cap)))
	if v.Solved > 0 {
		fmt.Fprintf(b, "  challenges     %s solved, %s hashes and %.1f ms each\n", Thousands(uint64(v.Solved)),
			Thousands(uint64(v.Hashes/v.Solved)), 1000*v.SolvingSeconds/float64(v.Solved))
	}
}

// tiles of the room for the page.
func (v *Room) tiles() []tile {
	list := []tile{
		{"places", Thousands(uint64(v.Places)), Thousands(uint64(v.Waiting)) + " still waiting at the end"},
		{"had their turn", Thousands(uint64(v.Admitted)), fmt.Sprintf("%d a second were allowed", v.PerSecond)},
		{"calls a second", Thousands(uint64(v.CallsPerSecond)), Thousands(uint64(v.Calls)) + " calls about places"},
		{"tokens out", Thousands(uint64(v.MostOut)), "at most, of " + Thousands(uint64(v.Cap)) + " allowed"},
	}
	if v.Solved > 0 {
		list = append(list, tile{"challenges solved", Thousands(uint64(v.Solved)), fmt.Sprintf("%s hashes and %.1f ms each",
			Thousands(uint64(v.Hashes/v.Solved)), 1000*v.SolvingSeconds/float64(v.Solved))})
	}
	return list
}

// plot draws how many waited and up to which number people were admitted.
func (v *Room) plot() template.HTML {
	end, most := 1.0, 1.0
	var waiting, served []plot.Dot
	for _, b := range v.Board {
		end, most = max(end, b.At), max(most, float64(b.Waiting), float64(b.Served))
		waiting, served = append(waiting, plot.Dot{X: b.At, Y: float64(b.Waiting)}), append(served, plot.Dot{X: b.At, Y: float64(b.Served)})
	}
	ticks := plot.Steps(most, 5)
	p := plot.New("The waiting room over time", "How many wait, and the number up to which people were admitted.", 0, end, 0, ticks[len(ticks)-1], false)
	for _, t := range ticks {
		p.GridY(t, plot.Short(t))
	}
	p.Line("waiting", waiting)
	p.Line("served", served)
	for _, t := range plot.Steps(end, 10) {
		if t <= end+1e-9 {
			p.TickX(t, plot.Short(t))
		}
	}
	p.Axes("seconds since the first people came", "people")
	return p.End()
}
