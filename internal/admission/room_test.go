package admission

import (
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
)

func TestPaceOverAMinute(t *testing.T) {
	for _, pace := range []int32{1, 7, 100, 500} {
		inBubble(t, func(t *testing.T) {
			h := hallOf(t, Policy{PerSecond: pace})
			for n := range int(pace)*61 + 50 {
				h.enter(n, "")
			}
			h.toOpening()
			start, last, most := h.s.Numbers(theSale).Admitted, int64(0), int64(0)
			if start > 1 {
				t.Errorf("%d were admitted at the opening itself", start)
			}
			for range 60 * 5 { // in fifths of a second
				time.Sleep(200 * time.Millisecond)
				now := h.s.Numbers(theSale).Admitted
				most, last = max(most, now-last), now
			}
			want := float64(pace) * 60
			if got := float64(last); math.Abs(got-want) > max(want*.02, 1) {
				t.Errorf("%g were admitted in a minute, want %g", got, want)
			}
			if float64(most) > float64(pace)*.2*1.3+1 {
				t.Errorf("%d of %d a second came in one fifth of a second", most, pace)
			}
			if n := h.s.Numbers(theSale); math.Abs(n.PerSecond-float64(pace)) > float64(pace)*.1 {
				t.Errorf("measured %g a second, want %d", n.PerSecond, pace)
			}
		})
	}
}

// A step of the wall clock, forward or back, moves nobody up and holds nobody up.
func TestPaceSeesNoClockSteps(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 50})
		for n := range 5000 {
			h.enter(n, "")
		}
		h.toOpening()
		time.Sleep(4 * time.Hour / 3600) // 4 s in
		for _, step := range []time.Duration{2 * time.Hour, -4 * time.Hour / 2, 30 * time.Minute, -10 * time.Minute} {
			before := h.s.Numbers(theSale).Admitted
			h.step.Add(int64(step))
			time.Sleep(10 * time.Second)
			if got := h.s.Numbers(theSale).Admitted - before; got < 490 || got > 515 {
				t.Errorf("after a step by %v %d were admitted in 10 s, want 500", step, got)
			}
		}
	})
}

func TestPlaceSurvivesReloadsAndAbsence(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1})
		for n := range 300 {
			h.enter(n, "")
		}
		first := h.mine(200)
		if first.Number != 201 || first.Position != 201 || first.Waiting != 300 || first.Status != Waiting {
			t.Fatalf("%+v", first)
		}
		for range 3 { // reloads, also with the ticket, also a stranger's
			for _, p := range []Place{h.enter(200, ""), h.enter(200, first.Ticket), h.enter(200, h.mine(3).Ticket), h.mine(200)} {
				if p.Number != 201 || p.Position != 201 || p.Waiting != 300 {
					t.Fatalf("after a reload %+v", p)
				}
			}
		}
		for n := 100; n < 150; n++ { // fifty ahead leave
			if err := h.s.Leave(h.w.Public, person(n)); err != nil {
				t.Fatal(err)
			}
		}
		if p := h.mine(200); p.Position != 151 || p.Waiting != 250 || p.Number != 201 {
			t.Fatalf("when fifty had left: %+v", p)
		}
		h.wantCode(h.s.Leave(h.w.Public, person(100)), levee.CodeNotFound)
		if p := h.enter(100, first.Ticket); p.Number != 301 {
			t.Fatalf("who left comes back as %+v", p)
		}
		h.toOpening()
		time.Sleep(120 * time.Second) // nobody asks for two minutes
		if p := h.mine(200); p.Status != Waiting || p.Position > 151-118 || p.Position < 151-122 {
			t.Fatalf("after two minutes %+v", p)
		}
	})
}

func TestMissedTurnAndReturn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1})
		for n := range 2000 {
			h.enter(n, "")
		}
		h.toOpening()
		time.Sleep(10*time.Second + 20*time.Millisecond)
		if got := h.status(9); got != "admitted" {
			t.Fatalf("the tenth is %s after ten seconds", got)
		}
		if p := h.mine(9); p.Token == "" || p.ExpiresAt.Sub(time.Now()) < 14*time.Minute {
			t.Fatalf("picked up: %+v", p)
		}
		slotsBefore := h.s.Numbers(theSale).Admitted
		time.Sleep(115 * time.Second) // the turn of the first is over in two minutes
		if p := h.mine(0); p.Status != Missed || p.Position != 0 || p.TurnUntil.IsZero() || p.Token != "" {
			t.Fatalf("the first missed his turn: %+v", p)
		}
		if n := h.s.Numbers(theSale); n.Admitted-slotsBefore > 115-4+1 {
			t.Errorf("%d slots are taken: those who missed hold theirs", n.Admitted)
		}
		ahead := h.mine(1500).Position
		p := h.enter(0, "") // he is next, before 1,800 who never had a turn
		if p.Status == Waiting {
			if p.Position != 1 || p.Number != 1 {
				t.Fatalf("back from a missed turn: %+v", p)
			}
			if got := h.mine(1500).Position; got != ahead+1 {
				t.Errorf("the position of another was %d and is %d with one more ahead", ahead, got)
			}
			time.Sleep(1100 * time.Millisecond)
			p = h.mine(0)
		}
		if p.Status != Admitted || p.Token == "" {
			t.Fatalf("back from a missed turn, a second later: %+v", p)
		}
		if err := h.s.Verify(p.Token, theSale, person(0).User, time.Now()); err != nil {
			t.Fatal(err)
		}
		// Kept for fifteen minutes, no longer.
		if got := h.status(1); got != "missed" {
			t.Fatalf("the second is %s", got)
		}
		time.Sleep(14*time.Minute + 30*time.Second)
		if got := h.status(1); got != "missed" {
			t.Fatalf("after 14 minutes the second is %s", got)
		}
		time.Sleep(time.Minute)
		if got := h.status(1); got != "not_found" {
			t.Fatalf("after 16 minutes the second is %s", got)
		}
		if p := h.enter(1, ""); p.Number <= 2000 {
			t.Fatalf("he got the number %d", p.Number)
		}
	})
}

// A slot cannot be held for ever by somebody who lets turns lapse and comes back.
func TestTurnsCannotBeMissedForEver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 10})
		h.units.Store(1)
		h.w.Policy.Multiple = 1
		h.s.Follow(h.w)
		first := h.enter(0, "")
		other := h.enter(1, "")
		h.toOpening()
		for range missesMost {
			time.Sleep(2*time.Minute + time.Second) // called, and not there
			if got := h.status(0); got == "not_found" {
				break
			}
			// He is back at once, but the slot has gone to the next, who does not come either.
			if p, err := h.s.Enter(t.Context(), h.w.Public, person(0), Visit{Ticket: first.Ticket}); err != nil || p.Status == Admitted {
				t.Fatalf("%+v, %v", p, err)
			}
			time.Sleep(2*time.Minute + time.Second)
			if p, err := h.s.Enter(t.Context(), h.w.Public, person(1), Visit{Ticket: other.Ticket}); err != nil {
				t.Fatalf("%+v %v", p, err)
			}
		}
		if p := h.enter(0, first.Ticket); p.Number == 1 {
			t.Fatalf("after %d missed turns he still has the number 1", missesMost)
		}
	})
}

func TestCapAndSoldOutAndReturn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1000, Multiple: 3})
		h.units.Store(10)
		for n := range 500 {
			h.enter(n, "")
		}
		h.toOpening()
		time.Sleep(5 * time.Second)
		if n := h.s.Numbers(theSale); n.Admitted != 30 || n.Served != 30 {
			t.Fatalf("of 10 units at 3 each: %+v", n)
		}
		for n := range 30 {
			if p := h.mine(n); p.Token == "" {
				t.Fatalf("person %d: %+v", n, p)
			}
		}
		for n := range 4 { // four buy one each
			h.units.Add(-1)
			h.s.Spent(theSale, person(n).User)
			h.s.Spent(theSale, person(n).User) // told twice
		}
		h.s.Spent(theSale, 99999)
		time.Sleep(time.Second)
		if n := h.s.Numbers(theSale); n.Admitted != 26 || n.Served != 30 {
			t.Fatalf("6 units are worth 18 slots and 26 are out, but %+v", n)
		}
		if p := h.mine(0); p.Status != Admitted || p.Token == "" {
			t.Fatalf("his token is shown while it lives: %+v", p)
		}
		h.units.Store(0) // sold out
		for n := 4; n < 30; n++ {
			h.s.Spent(theSale, person(n).User)
		}
		time.Sleep(time.Minute)
		if n := h.s.Numbers(theSale); n.Admitted != 0 || n.Served != 30 {
			t.Fatalf("sold out: %+v", n)
		}
		if p := h.mine(100); p.High != 0 || p.Status != Waiting {
			t.Fatalf("nobody is admitted and the estimate is %v to %v", p.Low, p.High)
		}
		h.units.Store(2) // some come back
		time.Sleep(time.Second)
		if n := h.s.Numbers(theSale); n.Admitted != 6 || n.Served != 36 {
			t.Fatalf("two units came back: %+v", n)
		}
		// Tokens that nobody uses run out and free their slots.
		for n := 30; n < 36; n++ {
			h.mine(n)
		}
		time.Sleep(14 * time.Minute)
		if n := h.s.Numbers(theSale); n.Served != 36 {
			t.Fatalf("%+v", n)
		}
		time.Sleep(70 * time.Second)
		if n := h.s.Numbers(theSale); n.Admitted != 6 || n.Served != 42 {
			t.Fatalf("after the tokens ran out: %+v", n)
		}
		if got := h.status(30); got != "not_found" {
			t.Errorf("who did not use his token is %s", got)
		}
	})
}

// Who leaves with a token in hand keeps his slot taken: else he could come again and have two.
func TestLeavingWithATokenFreesNoSlot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1000, Multiple: 1})
		h.units.Store(1)
		token := h.enter(0, "").Token
		h.toOpening()
		time.Sleep(time.Second)
		token = h.mine(0).Token
		h.enter(1, "")
		if err := h.s.Leave(h.w.Public, person(0)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if h.status(0) != "not_found" || h.status(1) != "waiting" {
			t.Fatalf("%s, %s", h.status(0), h.status(1))
		}
		if again := h.enter(0, ""); again.Token != token {
			t.Fatal("he got a second token")
		}
	})
}

func TestPauseKeepsPlaces(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 10})
		for n := range 200 {
			h.enter(n, "")
		}
		h.toOpening()
		time.Sleep(5 * time.Second)
		h.w.Open = false
		h.s.Follow(h.w)
		time.Sleep(100 * time.Millisecond)
		served := h.s.Numbers(theSale).Served
		time.Sleep(10 * time.Minute)
		if n := h.s.Numbers(theSale); n.Served != served {
			t.Fatalf("while paused served went from %d to %d", served, n.Served)
		}
		if p := h.mine(150); p.Number != 151 || p.High != 0 {
			t.Fatalf("%+v", p)
		}
		if p := h.enter(500, ""); p.Number != 201 {
			t.Fatalf("who comes while it is paused: %+v", p)
		}
		h.w.Open = true
		h.s.Follow(h.w)
		time.Sleep(100 * time.Millisecond)
		if n := h.s.Numbers(theSale); n.Served > served+3 {
			t.Fatalf("a pause of ten minutes made a burst: %d to %d", served, n.Served)
		}
		time.Sleep(5 * time.Second)
		if n := h.s.Numbers(theSale); n.Served < served+45 || n.Served > served+55 {
			t.Fatalf("after the pause served went from %d to %d", served, n.Served)
		}
	})
}

// A thousand people, a hundred of them served, and then the process is gone. They come back in any order, within the time of a
// poll, and stand as they stood.
func TestRestartKeepsTheOrder(t *testing.T) {
	for _, kill := range []bool{false, true} {
		for _, order := range []string{OrderArrival, OrderRandom} {
			inBubble(t, func(t *testing.T) {
				h := hallOf(t, Policy{PerSecond: 20, Order: order})
				r := rand.New(rand.NewPCG(1, 2))
				for n := range 1000 {
					h.enter(n, "")
				}
				h.toOpening()
				time.Sleep(5 * time.Second)
				for n := 1000; n < 1100; n++ { // late ones, behind them
					h.enter(n, "")
				}
				tickets, numbers, tokens := map[int]string{}, map[int]uint32{}, map[int]string{}
				look := func() {
					for n := range 1100 {
						p := h.mine(n)
						tickets[n], numbers[n] = p.Ticket, p.Number
						if p.Token != "" {
							tokens[n] = p.Token
						}
					}
				}
				look()
				if len(tokens) < 95 || len(tokens) > 105 {
					t.Fatalf("%d were served", len(tokens))
				}
				oldTickets := map[int]string{}
				for n := range tokens {
					oldTickets[n] = h.s.ticket(theSale, person(n).User, numbers[n], 0) // as it was before his turn
				}
				time.Sleep(1100 * time.Millisecond) // the keeper has written
				synctest.Wait()
				stood := h.s.Numbers(theSale)
				if kill {
					h.kill()
				} else {
					h.restart()
				}
				if _, err := h.s.Mine(h.w.Public, person(500)); levee.CodeOf(err) != levee.CodeNotFound {
					t.Fatalf("a place is there before its holder is back: %v", err)
				}
				newcomer := h.enter(5000, "")
				if newcomer.Number <= 1100 || newcomer.Position < 900 {
					t.Fatalf("a newcomer got %+v", newcomer)
				}
				back := r.Perm(1100)
				for i, n := range back {
					if i%37 == 0 {
						time.Sleep(time.Second) // over half a minute
					}
					ticket := tickets[n]
					if order == OrderRandom && n < 1000 && n%3 == 0 && tokens[n] == "" {
						ticket = "" // drawn lots are found by the account alone
					}
					p := h.enter(n, ticket)
					if p.Number != numbers[n] {
						t.Fatalf("person %d had the number %d and has %d", n, numbers[n], p.Number)
					}
					if tokens[n] != "" && p.Token != tokens[n] {
						t.Fatalf("person %d had a token and has another: %+v", n, p)
					}
				}
				if now := h.s.Numbers(theSale); now.Served < stood.Served-1 {
					t.Errorf("served was %d and is %d", stood.Served, now.Served)
				}
				// From here on in the order of the numbers: nobody waits with a lesser one than somebody who is admitted.
				for range 80 {
					time.Sleep(time.Second)
					highest := uint32(0)
					least := uint32(math.MaxUint32)
					for n := range 1100 {
						switch p := h.mine(n); p.Status {
						case Admitted:
							highest = max(highest, p.Number)
						case Waiting:
							least = min(least, p.Number)
						default:
							t.Fatalf("person %d is %s", n, p.Status)
						}
					}
					if least < highest {
						t.Fatalf("number %d waits and %d is admitted", least, highest)
					}
				}
				if n := h.s.Numbers(theSale); n.Served < 1100 || h.mine(5000).Status != Admitted {
					t.Fatalf("in the end %+v", n)
				}
				if kill {
					return
				}
				// A ticket of before the turn, kept by somebody who had his turn: no second one before others.
				h.restart()
				for n, ticket := range oldTickets {
					if p := h.enter(n, ticket); p.Number == numbers[n] {
						t.Fatalf("person %d had his turn with the number %d and has it again: %+v", n, numbers[n], p)
					}
				}
			})
		}
	}
}

// While some are not back, nobody behind them is admitted; when the time to gather is over, the line moves, and who comes then
// is next.
func TestGatheringHoldsTheLine(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 10})
		tickets := map[int]string{}
		for n := range 400 {
			tickets[n] = h.enter(n, "").Ticket
		}
		h.toOpening()
		time.Sleep(2 * time.Second)
		served := int(h.s.Numbers(theSale).Served)
		h.restart()
		quick := served + 200 // who polls first stands far behind
		p := h.enter(quick, tickets[quick])
		if p.Position != 201 {
			t.Fatalf("with those ahead not back: %+v", p)
		}
		time.Sleep(40 * time.Second)
		if p := h.mine(quick); p.Status != Waiting || p.High != 0 {
			t.Fatalf("he overtook those who are not back: %+v", p)
		}
		if p := h.enter(served+1, tickets[served+1]); p.Status != Waiting || p.Position != 2 { // one is still missing
			t.Fatalf("%+v", p)
		}
		if p := h.enter(served, tickets[served]); p.Status != Admitted {
			t.Fatalf("the head of the line is back: %+v", p)
		}
		time.Sleep(6 * time.Second)
		if p := h.mine(quick); p.Status != Admitted {
			t.Fatalf("when the time to gather is over: %+v", p)
		}
		h.enter(399, tickets[399])
		time.Sleep(time.Second)
		h.mine(399)
		for n := 1000; n < 1100; n++ {
			h.enter(n, "")
		}
		if p := h.enter(served+50, tickets[served+50]); p.Status != Admitted && p.Position != 1 {
			t.Fatalf("who was passed and comes back is next: %+v", p)
		}
		time.Sleep(16 * time.Minute)
		if p := h.enter(served+51, tickets[served+51]); p.Number <= 400 {
			t.Fatalf("after the keep time: %+v", p)
		}
	})
}

// Numbers given after a kill never meet earlier ones, and the cap counts the tokens of the life before.
func TestKillNeverReusesNumbersAndKeepsTheCap(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1000, Multiple: 2})
		h.units.Store(50)
		seen, tickets := map[uint32]int{}, map[int]string{}
		next := 0
		come := func(n int) {
			for range n {
				p := h.enter(next, "")
				for i := 0; p.Number == 0; i++ { // until the horizon has moved
					if i > 100 {
						t.Fatal("no number after 100 ms")
					}
					time.Sleep(time.Millisecond)
					p = h.mine(next)
				}
				if other, twice := seen[p.Number]; twice {
					t.Fatalf("person %d and %d got the number %d", other, next, p.Number)
				}
				seen[p.Number] = next
				next++
			}
		}
		come(700)
		h.toOpening()
		time.Sleep(2 * time.Second)
		for n := range 100 {
			p := h.mine(n)
			if tickets[n] = p.Ticket; p.Token == "" {
				t.Fatalf("person %d has no token", n)
			}
		}
		time.Sleep(2 * time.Second)
		for range 5 {
			come(900)
			h.kill()
			come(10)
		}
		for n := 10_000; n < 10_200; n++ {
			h.enter(n, "")
		}
		time.Sleep(time.Minute)
		if n := h.s.Numbers(theSale); n.Admitted != 100 || n.Waiting < 200 {
			t.Fatalf("100 tokens were out before, the cap is 100, and %+v", n)
		}
		for n := 20; n < 60; n++ { // some of those who hold them are back
			if p := h.enter(n, tickets[n]); p.Token == "" {
				t.Fatalf("person %d is back without his token: %+v", n, p)
			}
		}
		if n := h.s.Numbers(theSale); n.Admitted != 100 {
			t.Fatalf("with some of them back: %+v", n)
		}
		for n := range 20 { // spent tokens of the life before free slots
			h.s.Spent(theSale, person(n).User)
		}
		time.Sleep(time.Second)
		if n := h.s.Numbers(theSale); n.Admitted != 100 {
			t.Fatalf("%+v", n)
		}
		time.Sleep(16 * time.Minute)
		if n := h.s.Numbers(theSale); n.Admitted > 100 {
			t.Fatalf("%+v", n)
		}
	})
}

// With lots an early arrival gains nothing. The key is fixed, so the statistics are too.
func TestLotsAreFair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const people = 4000
		h := hallOf(t, Policy{Order: OrderRandom, PerSecond: 100})
		for n := range people {
			if p := h.enter(n, ""); p.Number != 0 || p.Position != 0 {
				t.Fatalf("a number before the opening: %+v", p)
			}
		}
		h.toOpening()
		time.Sleep(100 * time.Millisecond)
		numbers := make([]float64, people)
		for n := range people {
			numbers[n] = float64(h.mine(n).Number)
		}
		sorted := slices.Clone(numbers)
		slices.Sort(sorted)
		for i, v := range sorted {
			if v != float64(i+1) {
				t.Fatalf("the %dth number is %g", i+1, v)
			}
		}
		// Rank correlation of arrival and number: 0 with a standard deviation of 1/sqrt(n-1).
		var d2 float64
		for n, v := range numbers {
			d2 += (float64(n+1) - v) * (float64(n+1) - v)
		}
		rho := 1 - 6*d2/(people*(people*people-1.0))
		if math.Abs(rho) > 3.3/math.Sqrt(people-1) {
			t.Errorf("arrival and number correlate with %.4f", rho)
		}
		// The share of the first tenth of the arrivals among the first tenth of the numbers: 40 of 400, standard deviation 5.7.
		early := 0
		for n := range people / 10 {
			if numbers[n] <= people/10 {
				early++
			}
		}
		if early < 20 || early > 60 {
			t.Errorf("%d of the first 400 arrivals are among the first 400 numbers", early)
		}
		if p := h.enter(people, ""); p.Number != people+1 {
			t.Errorf("who comes after the draw gets %d", p.Number)
		}
	})
}

// Killed while the lots are told nowhere yet: the draw is made again, from the same lots.
func TestKillBeforeTheDraw(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{Order: OrderRandom, PerSecond: 1})
		for n := range 100 {
			h.enter(n, "")
		}
		time.Sleep(2 * time.Second)
		h.kill()
		for n := 99; n >= 0; n-- {
			if p := h.enter(n, ""); p.Number != 0 {
				t.Fatalf("%+v", p)
			}
		}
		h.toOpening()
		time.Sleep(100 * time.Millisecond)
		for a := range 100 {
			for b := range a {
				if (h.s.lotOf(theSale, person(a).User) < h.s.lotOf(theSale, person(b).User)) != (h.mine(a).Number < h.mine(b).Number) {
					t.Fatalf("persons %d and %d do not stand as their lots say", a, b)
				}
			}
		}
	})
}

// What people are told of their wait is what they wait.
func TestEstimateIsHonest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 25})
		h.config.TurnFor = time.Hour
		for n := range 5000 {
			h.enter(n, "")
		}
		if p := h.mine(3000); p.High != 0 {
			t.Errorf("an estimate before the opening: %v to %v", p.Low, p.High)
		}
		h.toOpening()
		time.Sleep(200 * time.Millisecond)
		type promise struct {
			at time.Time
			Place
		}
		told := map[int]promise{}
		for _, n := range []int{50, 200, 1000, 3000, 4999} {
			told[n] = promise{time.Now(), h.mine(n)}
		}
		for tick := 0; len(told) > 0; tick++ {
			time.Sleep(50 * time.Millisecond)
			if tick == 300 {
				told[4000] = promise{time.Now(), h.mine(4000)}
			}
			for n, p := range told {
				took := time.Since(p.at)
				if h.mine(n).Status == Waiting {
					continue
				}
				delete(told, n)
				if p.High == 0 || took < p.Low || took > p.High || p.High > 2*p.Low+10*time.Second {
					t.Errorf("person %d was told %v to %v and waited %v", n, p.Low, p.High, took)
				}
			}
		}
	})
}

// However long the line, those who wait in it ask less than 3,000 times a second in all, at 50,000.
func TestPollsAreBounded(t *testing.T) {
	for _, pace := range []float64{0, 1, 10, 100, 1000, 20_000} {
		var rate float64
		for position := 1; position <= 50_000; position++ {
			high := time.Duration(0)
			if pace > 0 {
				high = time.Duration(float64(position)/pace*1.15*float64(time.Second)) + 5*time.Second
			}
			d := pollAfter(position, 50_000, -time.Minute, high)
			if d < 2*time.Second || d > pollFar {
				t.Fatalf("ask again after %v", d)
			}
			if position < 10 && d > 4*time.Second && pace > 1 {
				t.Fatalf("position %d asks again after %v", position, d)
			}
			rate += 1 / d.Seconds()
		}
		if rate > 3000 {
			t.Errorf("at %g a second 50,000 who wait ask %.0f times a second", pace, rate)
		}
	}
	soon, rate := 0, 0.0
	for range 50_000 { // in the last seconds before the opening
		d := pollAfter(0, 50_000, 10*time.Second, 0)
		rate += 1 / d.Seconds()
		if d < 12*time.Second {
			soon++
		}
	}
	if rate > 3000 || soon > 10_000 {
		t.Errorf("before the opening they ask %.0f times a second, %d at once after it", rate, soon)
	}
}

func TestLineIsToldOnceASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 100})
		for n := range 1500 {
			h.enter(n, "")
		}
		h.toOpening()
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		go h.Push.ServeSSE(w, r, topicOf(h.w.Public))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		h.stop()
		if err := h.Push.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		events := strings.Count(w.Body.String(), "event: line")
		if events < 9 || events > 11 {
			t.Errorf("%d events in ten seconds: %s", events, w.Body)
		}
		for _, want := range []string{`"served":`, `"waiting":`, `"per_second":`, `"open":true`} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("no %s in %s", want, w.Body)
			}
		}
	})
}

// While nobody waits the pacer does nothing, and Free is not asked.
func TestIdleIsCheap(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var asked atomic.Int64
		h := hallOf(t, Policy{PerSecond: 100}, func(h *hall) { h.w.Free = func() int64 { asked.Add(1); return 1 << 40 } })
		time.Sleep(time.Hour)
		if n := asked.Load(); n != 0 {
			t.Errorf("Free was asked %d times for an empty room", n)
		}
		p := h.enter(1, "") // and nobody waits where there is no line
		if p.Status != Admitted || p.Token == "" || asked.Load() == 0 {
			t.Errorf("%+v, asked %d times", p, asked.Load())
		}
	})
}

func TestWindowsRefusals(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{})
		h.enter(1, "")
		robot := person(2)
		robot.Rehearsal = true
		_, err := h.s.Enter(t.Context(), h.w.Public, robot, Visit{})
		h.wantCode(err, levee.CodeForbidden)
		_, err = h.s.Enter(t.Context(), "sal_nothing", person(1), Visit{})
		h.wantCode(err, levee.CodeNotFound)
		_, err = h.s.Mine(h.w.Public, person(7))
		h.wantCode(err, levee.CodeNotFound)

		h.w.Draw = true
		h.s.Follow(h.w)
		h.wantCode(h.enterErr(1, Visit{}), levee.CodeDrawOnly)
		h.w.Draw = false
		h.s.Follow(h.w)
		h.enter(1, "")
		time.Sleep(25 * time.Hour)
		h.wantCode(h.enterErr(1, Visit{}), levee.CodeEnded)
		_, err = h.s.Mine(h.w.Public, person(1))
		h.wantCode(err, levee.CodeEnded)

		h.s.Forget(theSale)
		h.wantCode(h.enterErr(1, Visit{}), levee.CodeNotFound)
		time.Sleep(time.Second)
		if m, found, err := h.s.remembered(t.Context(), theSale, time.Now()); err != nil || found {
			t.Errorf("of a forgotten sale %+v is kept, %v", m, err)
		}
	})
}

// Opening the room to all in mid-queue: whoever asks has his token.
func TestRoomSwitchedOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1})
		for n := range 10 {
			h.enter(n, "")
		}
		h.w.Policy.Room = false
		h.s.Follow(h.w)
		if got := h.status(9); got != "not_found" {
			t.Errorf("status %s", got)
		}
		if p := h.enter(9, ""); p.Token == "" || h.s.Verify(p.Token, theSale, person(9).User, time.Now()) != nil {
			t.Errorf("%+v", p)
		}
	})
}

func TestBounds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerAddress: 3}, func(h *hall) { h.config.PlacesMax = 10 })
		at := func(n int) error { return h.enterErr(n, Visit{Address: home}) }
		for n := range 3 {
			if err := at(n); err != nil {
				t.Fatal(err)
			}
		}
		h.wantCode(at(3), levee.CodeTooManyRequests)
		if err := at(2); err != nil {
			t.Errorf("who has his place is refused: %v", err)
		}
		if err := h.s.Leave(h.w.Public, person(0)); err != nil {
			t.Fatal(err)
		}
		if err := at(3); err != nil {
			t.Errorf("one left, and the next is refused: %v", err)
		}
		for n := 10; n < 17; n++ {
			h.enter(n, "")
		}
		err := h.enterErr(17, Visit{})
		h.wantCode(err, levee.CodeUnavailable)
		if n := h.s.Numbers(theSale); n.Refused["full"] != 1 || n.Refused["per_address"] != 1 || n.Waiting != 10 {
			t.Errorf("%+v", n)
		}
	})
}
