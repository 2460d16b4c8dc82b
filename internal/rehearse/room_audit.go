package rehearse

import (
	"fmt"
	"html/template"
	"strings"

	"levee/internal/plot"
)

// Room is what a rehearsal with a waiting room came to.
type Room struct {
	Order     string `json:"order"`
	PerSecond int64  `json:"per_second"`
	Multiple  int64  `json:"multiple"`
	Brake     string `json:"brake"`
	// Places is how many people got one, Admitted how many had their turn, Waiting how many still stood there at the end.
	Places   int64 `json:"places"`
	Admitted int64 `json:"admitted"`
	Waiting  int64 `json:"waiting"`
	// Reloads is how often somebody asked for his place anew, as a page does that is loaded again.
	Reloads int64 `json:"reloads"`
	// Calls about places, and how many a second.
	Calls          int64   `json:"calls"`
	CallsPerSecond float64 `json:"calls_per_second"`
	// MostOut is the most tokens that people knew of and had not begun to spend; Cap is what the sale allows at its start.
	MostOut int64 `json:"most_out"`
	Cap     int64 `json:"cap"`
	// EstimatesInTime, Early, Late: who was admitted when he had been told at first, with 5 s of grace.
	EstimatesInTime int `json:"estimates_in_time"`
	EstimatesEarly  int `json:"estimates_early"`
	EstimatesLate   int `json:"estimates_late"`
	// Solved challenges, how many hashes they took and how much processor time in all.
	Solved         int64   `json:"solved"`
	Hashes         int64   `json:"hashes"`
	SolvingSeconds float64 `json:"solving_s"`
	// Listeners heard the public counter; Deaf did not.
	Listeners int     `json:"listeners"`
	Deaf      int     `json:"deaf"`
	Board     []Board `json:"board"`
}

// figures of the room. Nobody asks any more while it runs.
func (s *stage) figures() *Room {
	r := s.room
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := &Room{Order: r.policy.Order, PerSecond: r.policy.PerSecond, Multiple: r.policy.Multiple, Brake: r.policy.Brake,
		Places: r.entered.Load(), Admitted: r.admitted.Load(), Waiting: int64(s.told.counts[finalWaiting].Load()), Reloads: r.reloads.Load(),
		MostOut: r.most.Load(), Cap: r.policy.Multiple * s.copy.Operator.Units,
		EstimatesInTime: r.inTime, EstimatesEarly: r.early, EstimatesLate: r.late,
		Solved: r.solved.Load(), Hashes: r.tries.Load(), SolvingSeconds: float64(r.solving.Load()) / 1e9,
		Listeners: r.listeners, Deaf: r.deaf, Board: r.board}
	v.Calls = s.rec.count(ofPlaces)
	v.CallsPerSecond = float64(v.Calls) / max(s.settled.Seconds(), 0.001)
	return v
}

// paceSlack is for how many seconds the counter may run ahead of its pace: it is told once a second, and may be told late.
const paceSlack = 3

// judgeRoom holds the waiting room against its promises.
func (s *stage) judgeRoom(v *Room) []Check {
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	check := func(l roomLie, name, promise, facts string) Check {
		c := Check{Name: name, Promise: promise, Facts: facts, Count: r.lies[l].count, Findings: r.lies[l].first, Verdict: Holds}
		if c.Count > 0 {
			c.Verdict = Broken
		}
		return c
	}
	r.judgeBoard(v)
	if v.MostOut > v.Cap && r.policy.Room {
		r.lied(lieCap, "%d tokens were out at once, %d × %d units are allowed", v.MostOut, r.policy.Multiple, s.copy.Operator.Units)
	}
	list := []Check{
		check(lieTwice, "nobody is served twice", "each number and each token was given to one buyer, once",
			fmt.Sprintf("%d numbers, %d tokens", len(r.numbers), len(r.tokens)))}
	if !r.policy.Room {
		return list
	}
	list = append(list,
		check(lieKept, "a place is kept", "nobody's number changes or is lost, also when his page is loaded again",
			fmt.Sprintf("%d places, asked for %d times, %d times anew", v.Places, v.Calls, v.Reloads)),
		check(lieFalls, "positions only fall", "nobody is told a position behind the one he was told before", fmt.Sprintf("%d calls", v.Calls)),
		check(lieOvertaken, "nobody is overtaken", "who waits has a higher number than all who were admitted",
			fmt.Sprintf("%d admitted, the highest number is %d", v.Admitted, r.highest.Load())),
		check(lieCap, "tokens under the cap", "no more tokens are out and unspent than the multiple of the units that are free",
			fmt.Sprintf("at most %d known to buyers at once, %d × %d units at the start", v.MostOut, r.policy.Multiple, s.copy.Operator.Units)),
		check(liePace, "the pace is kept", fmt.Sprintf("the counter never goes back and moves by at most %d a second", r.policy.PerSecond),
			fmt.Sprintf("%d readings of the counter, %d listeners", len(v.Board), v.Listeners)))
	honest := Check{Name: "the estimate is honest", Promise: "most people are admitted when they were told at first", Verdict: Holds,
		Facts: fmt.Sprintf("%d in time, %d earlier, %d later", v.EstimatesInTime, v.EstimatesEarly, v.EstimatesLate)}
	if wrong := v.EstimatesEarly + v.EstimatesLate; wrong > v.EstimatesInTime/4 {
		honest.Verdict, honest.Count = Note, wrong
		honest.Findings = []string{fmt.Sprintf("%d of %d were admitted at another time than they were told when they came", wrong, wrong+v.EstimatesInTime)}
	}
	return append(list, honest)
}

// judgeBoard reads what the server showed against pace and cap. The caller holds mu.
func (r *room) judgeBoard(v *Room) {
	ahead, at, served := 0.0, -1.0, int64(0)
	out, free := int64(-1), int64(-1)
	for _, b := range v.Board {
		if at >= 0 {
			if b.Served < served {
				r.lied(liePace, "the counter went back from %d to %d after %.1f s", served, b.Served, b.At)
			}
			ahead = max(0, ahead+float64(b.Served-served)-float64(r.policy.PerSecond)*(b.At-at))
			if most := paceSlack * float64(r.policy.PerSecond); ahead > most+1 {
				r.lied(liePace, "after %.1f s the counter is %.0f ahead of its pace", b.At, ahead)
				ahead = 0
			}
		}
		at, served = b.At, b.Served
		if b.Out < 0 {
			continue
		}
		// A token was given since the last reading: at that moment no more units were free than at the better of the two.
		if out >= 0 && b.Out > out && b.Out > r.policy.Multiple*max(free, b.Free) {
			r.lied(lieCap, "after %.1f s the server says that %d tokens are out, with %d units free", b.At, b.Out, max(free, b.Free))
		}
		out, free = b.Out, b.Free
	}
}

// summary prints the room for a terminal.
func (v *Room) summary(b *strings.Builder) {
	if v == nil {
		return
	}
	fmt.Fprintf(b, "\n  waiting room   %s places, %s had their turn, %s still wait\n", thousands(uint64(v.Places)), thousands(uint64(v.Admitted)),
		thousands(uint64(v.Waiting)))
	fmt.Fprintf(b, "  place calls    %s: %s a second, %s by pages loaded again\n", thousands(uint64(v.Calls)), thousands(uint64(v.CallsPerSecond)),
		thousands(uint64(v.Reloads)))
	fmt.Fprintf(b, "  tokens out     at most %s of %s\n", thousands(uint64(v.MostOut)), thousands(uint64(v.Cap)))
	if v.Solved > 0 {
		fmt.Fprintf(b, "  challenges     %s solved, %s hashes and %.1f ms each\n", thousands(uint64(v.Solved)),
			thousands(uint64(v.Hashes/v.Solved)), 1000*v.SolvingSeconds/float64(v.Solved))
	}
}

// tiles of the room for the page.
func (v *Room) tiles() []tile {
	list := []tile{
		{"places", thousands(uint64(v.Places)), thousands(uint64(v.Waiting)) + " still waiting at the end"},
		{"had their turn", thousands(uint64(v.Admitted)), fmt.Sprintf("%d a second were allowed", v.PerSecond)},
		{"calls a second", thousands(uint64(v.CallsPerSecond)), thousands(uint64(v.Calls)) + " calls about places"},
		{"tokens out", thousands(uint64(v.MostOut)), "at most, of " + thousands(uint64(v.Cap)) + " allowed"},
	}
	if v.Solved > 0 {
		list = append(list, tile{"challenges solved", thousands(uint64(v.Solved)), fmt.Sprintf("%s hashes and %.1f ms each",
			thousands(uint64(v.Hashes/v.Solved)), 1000*v.SolvingSeconds/float64(v.Solved))})
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
