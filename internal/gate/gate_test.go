package gate

import (
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"levee"
)

// model is the gate as anybody would write it who has time: maps and slices, one step after the other.
type model struct {
	remaining int64
	perBuyer  int32
	held      map[levee.UserID]int32
	known     map[levee.UserID]bool
	pending   map[*Taking]bool
}

func (m *model) verdict(a Attempt, line, lineMax int) Verdict {
	for t := range m.pending {
		if t.Buyer == a.Buyer && t.Key == a.Key {
			return Running
		}
	}
	switch {
	case m.known[a.Buyer] && !a.Checked:
		return Known
	case m.held[a.Buyer]+a.Quantity > m.perBuyer:
		return OverLimit
	case m.remaining < int64(a.Quantity):
		return SoldOut
	case line >= lineMax:
		return Full
	}
	return Taken
}

// The gate is compared with the model after each of many random steps: takings, settlements with every outcome, moves, limits,
// and loads while takings are under way.
func TestGateAgainstAModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 5))
		const lineMax = 40
		g := New(lineMax)
		if _, v, _ := g.Take(Attempt{ID: 1, Buyer: 1, Quantity: 1}); v != Cold {
			t.Fatalf("a gate that was never loaded said %d", v)
		}
		m := &model{remaining: 60, perBuyer: 3, held: map[levee.UserID]int32{}, known: map[levee.UserID]bool{}, pending: map[*Taking]bool{}}
		g.Load(m.remaining, m.perBuyer, nil)
		buyers := 1 + r.IntN(60)
		line, epoch := 0, uint64(0)
		var inHand []*Taking
		for step := range 3000 {
			switch r.IntN(12) {
			case 0, 1, 2, 3, 4, 5:
				a := Attempt{ID: levee.ReservationID(step + 1), Buyer: levee.UserID(1 + r.IntN(buyers)*4096), Quantity: int32(1 + r.IntN(3)), Key: int64(r.IntN(4)), Checked: r.IntN(2) == 0}
				want := m.verdict(a, line, lineMax)
				taken, got, _ := g.Take(a)
				if got != want {
					t.Fatalf("seed %d, step %d: %+v: verdict %d, the model says %d", seed, step, a, got, want)
				}
				if got == Taken {
					m.remaining -= int64(a.Quantity)
					m.held[a.Buyer] += a.Quantity
					m.known[a.Buyer] = true
					m.pending[taken] = true
					line++
				}
			case 6, 7:
				if inHand == nil {
					inHand = g.Next(1 + r.IntN(8))
					line -= len(inHand)
					for i := 1; i < len(inHand); i++ {
						if inHand[i].ID < inHand[i-1].ID {
							t.Fatalf("seed %d: %d is picked up after %d", seed, inHand[i].ID, inHand[i-1].ID)
						}
					}
				}
			case 8:
				var freed int64
				for _, k := range inHand {
					k.Result = []Outcome{{}, {}, {Err: errors.New("no")}, {Existing: 1}}[r.IntN(4)]
					delete(m.pending, k)
					if k.Result.Refused() {
						freed += int64(k.Quantity)
						m.remaining += int64(k.Quantity)
						m.held[k.Buyer] -= k.Quantity
						others := false
						for p := range m.pending {
							others = others || p.Buyer == k.Buyer
						}
						if m.held[k.Buyer] <= 0 && !others && !k.Checked && k.Result.Existing == 0 {
							delete(m.known, k.Buyer)
							delete(m.held, k.Buyer)
						}
					}
				}
				if got := g.Settle(inHand); got != freed {
					t.Fatalf("seed %d, step %d: %d came back, want %d", seed, step, got, freed)
				}
				told := append([]*Taking(nil), inHand...)
				if inHand != nil {
					g.Signal(inHand)
				}
				for _, k := range told {
					<-k.Settled
					k.Free()
				}
				inHand = nil
			case 9:
				units, who := int64(r.IntN(7)-2), levee.UserID(1+r.IntN(buyers)*4096)
				held := int32(r.IntN(3) - 1)
				if m.remaining+units < 0 || m.held[who]+held < 0 {
					continue
				}
				g.Move(units, who, held)
				m.remaining += units
				if held != 0 {
					m.held[who] += held
					m.known[who] = true
				}
			case 10:
				m.perBuyer = int32(1 + r.IntN(4))
				g.SetLimit(m.perBuyer)
			case 11: // SQL knows all but what is under way
				settled := maps.Clone(m.held)
				free := m.remaining
				for p := range m.pending {
					settled[p.Buyer] -= p.Quantity
					free += int64(p.Quantity)
				}
				var list []Holding
				for who := range m.known {
					list = append(list, Holding{Buyer: who, Quantity: settled[who]})
				}
				g.Load(free, m.perBuyer, list)
			}
			n := g.Numbers()
			var unsettled int64
			for p := range m.pending {
				unsettled += int64(p.Quantity)
			}
			if n.Remaining != m.remaining || n.Unsettled != unsettled || n.Waiting != line || n.Buyers != len(m.known) || n.Epoch < epoch || len(g.Pending()) != len(m.pending) {
				t.Fatalf("seed %d, step %d: %+v, the model has %d free, %d unsettled, %d in the line, %d buyers", seed, step, n, m.remaining, unsettled, line, len(m.known))
			}
			epoch = n.Epoch
			for i := range buyers {
				who := levee.UserID(1 + i*4096)
				if held, known := g.Held(who); held != m.held[who] || known != m.known[who] {
					t.Fatalf("seed %d, step %d: buyer %d holds %d (known %v), the model says %d (%v)", seed, step, who, held, known, m.held[who], m.known[who])
				}
			}
		}
	}
}

// Many goroutines at once: no more is taken than there is, whoever settles meanwhile.
func TestGateNeverGivesMoreThanItHas(t *testing.T) {
	g := New(1 << 20)
	g.Load(5000, 2, nil)
	var takers, settler sync.WaitGroup
	stop := make(chan struct{})
	var won int64
	settle := func() {
		for batch := g.Next(64); batch != nil; batch = g.Next(64) {
			for i, k := range batch {
				if i%5 == 0 {
					k.Result = Outcome{Err: errors.New("no")}
				} else {
					won += int64(k.Quantity)
				}
			}
			g.Settle(batch)
			list := append([]*Taking(nil), batch...)
			g.Signal(batch)
			for _, k := range list {
				<-k.Settled
				k.Free()
			}
		}
	}
	settler.Go(func() {
		for {
			select {
			case <-g.Wake():
				settle()
			case <-stop:
				settle()
				return
			}
		}
	})
	for w := range 8 {
		takers.Go(func() {
			for i := range 4000 {
				g.Take(Attempt{ID: levee.ReservationID(w*4000 + i + 1), Buyer: levee.UserID(w*4000 + i + 1), Quantity: 1, Key: 1})
			}
		})
	}
	takers.Wait()
	close(stop)
	settler.Wait()
	if n := g.Numbers(); n.Remaining+won != 5000 || n.Remaining < 0 || n.Unsettled != 0 {
		t.Fatalf("%d won and %+v, of 5000", won, n)
	}
}
