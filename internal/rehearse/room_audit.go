package rehearse

import "fmt"

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
