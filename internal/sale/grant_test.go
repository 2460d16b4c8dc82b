package sale

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
)

func draw(terms *Terms) {
	terms.Mode, terms.DrawAt = ModeDraw, terms.StartsAt.Add(time.Minute)
}

func (s *shop) grant(t testing.TB, l *live, grants ...Grant) (out []Granted) {
	t.Helper()
	err := s.DB.Tx(t.Context(), "test.grant", func(ctx context.Context, tx *db.Tx) (err error) {
		out, err = s.sales.GrantTx(ctx, tx, l.view.Load().ID, grants)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *shop) do(t testing.TB, l *live, act string, units int64) {
	t.Helper()
	if _, err := s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: act, Units: units, Reason: "because"}, operator); err != nil {
		t.Fatalf("%s: %v", act, err)
	}
}

func TestDrawSalesSellNothing(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 5, 2, func(terms *Terms) {
		terms.StartsAt = s.clock.Now().Add(time.Minute)
		draw(terms)
	})
	for _, want := range []Phase{PhaseUpcoming, PhaseEntry, PhaseDrawn} {
		s.sales.housekeep(t.Context())
		if got := l.phase(l.view.Load(), s.clock.Now()); got != want {
			t.Fatalf("the phase is %s, want %s", got, want)
		}
		if l.sw.Refusal() != refusalDraw {
			t.Fatalf("%s: the switch says %v, want the answer of draws", want, l.sw.Refusal())
		}
		_, err := s.buy(l, 1, 1, "k")
		wantCode(t, err, levee.CodeDrawOnly)
		s.clock.Step(time.Minute)
	}
	got := s.grant(t, l, Grant{Buyer: buyer(1).User, Quantity: 2, Key: "first"}, Grant{Buyer: buyer(2).User, Quantity: 1, Key: "second", PayWithin: 10 * time.Second})
	if got[0].Quantity != 2 || got[1].Quantity != 1 || got[0].Why != nil || !got[0].PayBy.After(got[1].PayBy) {
		t.Fatalf("the winners got %+v", got)
	}
	if a := s.proved(t, l); a.Stock.Reserved != 3 || a.Stock.Remaining != 2 {
		t.Fatalf("stock %+v", a.Stock)
	}
	if l.sw.Refusal() != refusalDraw {
		t.Fatal("a grant opened a draw for the crowd")
	}
	// Who holds units goes past the switch, and must not find another answer behind it.
	_, err := s.buy(l, 1, 1, "k")
	wantCode(t, err, levee.CodeDrawOnly)
	s.do(t, l, "top_up", 3)
	s.do(t, l, "pause", 0)
	s.do(t, l, "resume", 0)
	if err := s.orders.Cancel(t.Context(), levee.OrderID(got[0].Reservation), buyer(1), "no"); err != nil {
		t.Fatal(err)
	}
	_, err = s.buy(l, 3, 1, "k")
	wantCode(t, err, levee.CodeDrawOnly)
	if a := s.proved(t, l); a.Gate.Remaining != 7 {
		t.Fatalf("gate %+v", a.Gate)
	}
}

func TestGrants(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 5, 3)
	if _, err := s.buy(l, 1, 2, "k"); err != nil {
		t.Fatal(err)
	}
	out := s.grant(t, l,
		Grant{Buyer: buyer(1).User, Quantity: 3, Key: "a"}, // within his limit one more
		Grant{Buyer: buyer(1).User, Quantity: 1, Key: "b"}, // beyond it
		Grant{Buyer: buyer(2).User, Quantity: 3, Key: "c"}, // two are left
		Grant{Buyer: buyer(3).User, Quantity: 1, Key: "d"},
		Grant{Buyer: buyer(1).User, Quantity: 3, Key: "a"}) // once more in one batch
	want := []struct {
		quantity int32
		why      levee.Code
	}{{1, ""}, {0, levee.CodeLimitReached}, {2, ""}, {0, levee.CodeSoldOut}, {1, ""}}
	for i, w := range want {
		if out[i].Quantity != w.quantity || code(out[i].Why) != w.why || out[i].Repeated != (i == 4) {
			t.Fatalf("grant %d gave %+v, want %+v", i, out[i], w)
		}
	}
	if out[4].Reservation != out[0].Reservation {
		t.Fatal("the same key in one batch gave two reservations")
	}
	s.proved(t, l)
	again := s.grant(t, l, Grant{Buyer: buyer(2).User, Quantity: 1, Key: "c"})
	if again[0].Reservation != out[2].Reservation || !again[0].Repeated || again[0].Quantity != 2 || !again[0].PayBy.Equal(out[2].PayBy) {
		t.Fatalf("the same key gave %+v, want %+v again", again[0], out[2])
	}
	o, err := s.orders.ByID(t.Context(), operator, levee.OrderID(out[2].Reservation))
	if err != nil || o.Buyer != buyer(2).User || o.Lines[0].Quantity != 2 || !o.PayBy.Equal(out[2].PayBy) {
		t.Fatalf("the order of a grant is %+v, %v", o, err)
	}
	// A buyer's own idempotency key is no key of a grant, whatever it says.
	s.do(t, l, "top_up", 10)
	if ticket, err := s.buy(l, 2, 1, "c"); err != nil || ticket.Repeated {
		t.Fatalf("a purchase with a grant's key gave %+v, %v", ticket, err)
	}
	if _, err := s.buy(l, 3, 1, "mine"); err != nil {
		t.Fatal(err)
	}
	if g := s.grant(t, l, Grant{Buyer: buyer(3).User, Quantity: 1, Key: "mine"}); g[0].Repeated || g[0].Quantity != 1 {
		t.Fatalf("a grant with a purchase's key gave %+v", g[0])
	}
	n := 0
	for _, step := range []struct {
		act  string
		want levee.Code
	}{{"pause", ""}, {"force_sold_out", levee.CodeSoldOut}, {"stop", levee.CodePaused}, {"resume", ""}, {"end", levee.CodeEnded}} {
		s.do(t, l, step.act, 0)
		n++
		g := s.grant(t, l, Grant{Buyer: buyer(50 + n).User, Quantity: 1, Key: "x"}, Grant{Buyer: buyer(2).User, Quantity: 3, Key: "c"})
		if code(g[0].Why) != step.want || (g[0].Quantity == 1) != (step.want == "") {
			t.Fatalf("after %s: %+v, want %q", step.act, g[0], step.want)
		}
		if !g[1].Repeated || g[1].Reservation != out[2].Reservation {
			t.Fatalf("after %s the first answer was not given again: %+v", step.act, g[1])
		}
		s.proved(t, l)
	}
	for _, bad := range [][]Grant{{{Quantity: 1, Key: "k"}}, {{Buyer: 5, Quantity: 1}}, {{Buyer: 5, Key: "k"}}, {{Buyer: 5, Quantity: 1001, Key: "k"}},
		{{Buyer: 5, Quantity: 1, Key: "k", PayWithin: time.Second}}, make([]Grant, maxGrants+1)} {
		err := s.DB.Tx(t.Context(), "test.grant", func(ctx context.Context, tx *db.Tx) error {
			_, err := s.sales.GrantTx(ctx, tx, l.view.Load().ID, bad)
			return err
		})
		if c := code(err); c != levee.CodeInvalid && c != levee.CodeTooLarge {
			t.Fatalf("%+v: %v", bad[0], err)
		}
	}
}

// A grant of the moment when the sale's time is over but its end is not yet written gets nothing.
func TestGrantAfterTheEnd(t *testing.T) {
	s := newShop(t, Config{})
	l := s.open(t, 5, 3)
	s.clock.Step(2 * time.Hour)
	if g := s.grant(t, l, Grant{Buyer: 5, Quantity: 1, Key: "k"}); code(g[0].Why) != levee.CodeEnded {
		t.Fatalf("got %+v", g[0])
	}
}

// waitingLine gives what comes back to the given buyers, one unit each, in their order.
func waitingLine(s *shop, waiting ...int) *[]int {
	left := &waiting
	s.sales.OnFree(func(ctx context.Context, tx *db.Tx, v *Sale) error {
		var grants []Grant
		for _, n := range *left {
			grants = append(grants, Grant{Buyer: buyer(n).User, Quantity: 1, Key: fmt.Sprint("turn of ", n)})
		}
		got, err := s.sales.GrantTx(ctx, tx, v.ID, grants)
		if err != nil {
			return err
		}
		var still []int
		for i, g := range got {
			if g.Quantity == 0 {
				still = append(still, waiting[len(waiting)-len(*left)+i])
			}
		}
		tx.AfterCommit(func() { *left = still })
		return nil
	})
	return left
}

func TestWhoWaitsIsServedBeforeTheCrowd(t *testing.T) {
	s := newShop(t, Config{})
	left := waitingLine(s, 10, 11, 12, 13)
	s.run(t)
	l := s.open(t, 3, 1)
	var tickets []Ticket
	for n := range 3 {
		ticket, err := s.buy(l, n, 1, "k")
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	_, err := s.buy(l, 9, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)
	if err := s.sales.GiveUp(t.Context(), tickets[0].Reservation, buyer(0)); err != nil {
		t.Fatal(err)
	}
	// The switch must not have been lifted for anybody: not even for the moment in which the gate would say no.
	if l.sw.Refusal() != refusalSoldOut {
		t.Fatal("the switch was lifted for a unit that went to the line")
	}
	_, err = s.buy(l, 9, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)
	if held, _ := heldIn(l.gate, buyer(10).User); held != 1 || len(*left) != 3 {
		t.Fatalf("the first in line holds %d, %v still wait", held, *left)
	}
	s.proved(t, l)
	// A refund before shipping comes back to the line, too.
	refund := func(id levee.ReservationID) error {
		return s.DB.Tx(t.Context(), "refund", func(ctx context.Context, tx *db.Tx) error {
			_, err := s.orders.MarkPaidTx(ctx, tx, levee.OrderID(id), order.PaidBy{Payment: 1, At: s.clock.Now()})
			if err == nil {
				err = s.orders.RefundingTx(ctx, tx, levee.OrderID(id), operator, "sorry")
			}
			if err == nil {
				err = s.orders.RefundedTx(ctx, tx, levee.OrderID(id))
			}
			return err
		})
	}
	if err := refund(tickets[1].Reservation); err != nil || len(*left) != 2 {
		t.Fatalf("after a refund %v still wait (%v)", *left, err)
	}
	// While the sale is stopped nobody is served; when it goes on the line comes first.
	s.do(t, l, "stop", 0)
	if err := s.sales.GiveUp(t.Context(), tickets[2].Reservation, buyer(2)); err != nil || len(*left) != 2 {
		t.Fatalf("in a stopped sale %v still wait (%v)", *left, err)
	}
	s.do(t, l, "resume", 0)
	if len(*left) != 1 {
		t.Fatalf("after the sale went on %v still wait", *left)
	}
	_, err = s.buy(l, 9, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)
	// What is more than the line wants is the crowd's.
	s.do(t, l, "top_up", 2)
	if len(*left) != 0 || l.sw.Refusal() != nil {
		t.Fatalf("after a top-up of two %v still wait, the switch says %v", *left, l.sw.Refusal())
	}
	if _, err := s.buy(l, 9, 1, "k"); err != nil {
		t.Fatal(err)
	}
	_, err = s.buy(l, 8, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)
	if a := s.proved(t, l); a.Stock.Reserved != 5 {
		t.Fatalf("stock %+v", a.Stock)
	}
	// After the end nobody is asked.
	s.sales.OnFree(func(context.Context, *db.Tx, *Sale) error { return errors.New("asked after the end") })
	s.do(t, l, "end", 0)
	if err := s.sales.Void(t.Context(), s.heldBy(t, l, 9), operator, "late"); err != nil {
		t.Fatal(err)
	}
}

// heldBy returns the reservation of a buyer.
func (s *shop) heldBy(t testing.TB, l *live, n int) levee.ReservationID {
	t.Helper()
	list, err := s.sales.reservationsOf(t.Context(), l.view.Load().ID, buyer(n).User)
	if err != nil || len(list) != 1 {
		t.Fatalf("buyer %d holds %+v, %v", n, list, err)
	}
	return list[0].ID
}

// What the line cannot write undoes the release with it.
func TestAFailingLineUndoesTheRelease(t *testing.T) {
	s := newShop(t, Config{})
	fails := errors.New("injected")
	s.sales.OnFree(func(context.Context, *db.Tx, *Sale) error { return fails })
	s.run(t)
	l := s.open(t, 1, 1)
	ticket, err := s.buy(l, 1, 1, "k")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.sales.GiveUp(t.Context(), ticket.Reservation, buyer(1)); !errors.Is(err, fails) {
		t.Fatalf("got %v", err)
	}
	if a := s.proved(t, l); a.Stock.Reserved != 1 {
		t.Fatalf("stock %+v", a.Stock)
	}
}

// Units that buyers have taken from the gate are not free, though SQL still counts them; what comes back in the same transaction is.
func TestGrantsLeaveWhatTheGateHasTaken(t *testing.T) {
	s := newShop(t, Config{})
	l := s.open(t, 2, 1)
	first, _, _ := l.gate.Take(context.Background(), attemptOf(s, t, 1))
	if first == nil {
		t.Fatal("the gate took nothing")
	}
	got := s.grant(t, l, Grant{Buyer: buyer(5).User, Quantity: 1, Key: "a"}, Grant{Buyer: buyer(6).User, Quantity: 1, Key: "b"})
	if got[0].Quantity != 1 || code(got[1].Why) != levee.CodeSoldOut {
		t.Fatalf("with one unit free and one taken the line got %+v", got)
	}
	left := waitingLine(s, 7)
	if err := s.orders.Cancel(t.Context(), levee.OrderID(got[0].Reservation), buyer(5), "no"); err != nil {
		t.Fatal(err)
	}
	if len(*left) != 0 {
		t.Fatal("a unit that came back was not given")
	}
	s.run(t)
	<-first.Settled
	if first.Result.Err != nil {
		t.Fatalf("the unit that was taken from the gate was given away: %v", first.Result.Err)
	}
	s.proved(t, l)
}

// A settlement and a release share a commit: the gate still counts the settled taking as under way when the line is asked, and the
// unit that came back must be given all the same.
func TestAReturnIsGivenBesideASettlement(t *testing.T) {
	s := newShop(t, Config{})
	left := waitingLine(s, 7)
	l := s.open(t, 2, 1)
	first := s.grant(t, l, Grant{Buyer: buyer(1).User, Quantity: 1, Key: "a"})[0]
	taken, _, _ := l.gate.Take(context.Background(), attemptOf(s, t, 2))
	batch := l.gate.Next(10)
	err := s.DB.Tx(t.Context(), "test.both", func(ctx context.Context, tx *db.Tx) error {
		seq, err := s.sales.settleTx(ctx, tx, l.view.Load().ID, batch)
		if err != nil {
			return err
		}
		tx.AtCommit(func() { s.sales.accountFor(ctx, l, batch, seq) })
		return s.orders.CancelTx(ctx, tx, levee.OrderID(first.Reservation), buyer(1), "no")
	})
	if err != nil || taken.Result.Err != nil {
		t.Fatal(err, taken.Result.Err)
	}
	if len(*left) != 0 {
		t.Fatal("the unit that came back was not given")
	}
	s.proved(t, l)
}

// A taking that SQL refuses gives its unit back to a gate that owes one: there is nothing to sell, and the switch stays shut.
func TestSwitchStaysShutWhereNothingIsLeft(t *testing.T) {
	s := newShop(t, Config{})
	l := s.open(t, 1, 1)
	taken, _, _ := l.gate.Take(context.Background(), attemptOf(s, t, 1))
	_, err := s.buy(l, 2, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)
	s.do(t, l, "withdraw", 1)
	batch := l.gate.Next(10)
	s.sales.settleBatch(t.Context(), l, batch)
	if code(taken.Result.Err) != levee.CodeSoldOut || l.sw.Refusal() != refusalSoldOut {
		t.Fatalf("the taking got %v, the switch says %v", taken.Result.Err, l.sw.Refusal())
	}
	s.proved(t, l)
}

func attemptOf(s *shop, t testing.TB, n int) gate.Attempt {
	t.Helper()
	number, err := s.IDs.Next()
	if err != nil {
		t.Fatal(err)
	}
	return gate.Attempt{ID: levee.ReservationID(number), Buyer: buyer(n).User, Quantity: 1, Key: 1, At: s.clock.Now()}
}

// A crowd that buys and gives up, an operator who tops up, pauses and stops, and a line that is served all the time: every book
// balances, and nobody who took a unit from the gate loses it to the line.
func TestGrantsBesideACrowd(t *testing.T) {
	s := newShop(t, Config{BatchMax: 5})
	var turn, granted, bought atomic.Int64
	s.sales.OnFree(func(ctx context.Context, tx *db.Tx, v *Sale) error {
		grants := make([]Grant, 3)
		for i := range grants {
			n := turn.Add(1)
			grants[i] = Grant{Buyer: buyer(5000 + int(n)).User, Quantity: int32(1 + n%2), Key: "turn"}
		}
		got, err := s.sales.GrantTx(ctx, tx, v.ID, grants)
		tx.AfterCommit(func() {
			for _, g := range got {
				if g.Quantity > 0 {
					granted.Add(1)
				}
			}
		})
		return err
	})
	s.run(t)
	l := s.open(t, 40, 4)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			for i := range 60 {
				n := r.IntN(60)
				ticket, err := s.buy(l, n, int32(1+r.IntN(2)), fmt.Sprint("k", w, "-", i))
				switch code(err) {
				case "":
					bought.Add(1)
					if r.IntN(2) == 0 {
						if err := s.sales.GiveUp(context.Background(), ticket.Reservation, buyer(n)); err != nil {
							t.Error(err)
						}
					}
				case levee.CodeSoldOut, levee.CodeLimitReached, levee.CodePaused:
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			act := []string{"top_up", "pause", "resume", "top_up", "stop", "resume"}[i%6]
			c := Command{Act: act, Reason: "because"}
			if act == "top_up" {
				c.Units = 3
			}
			if _, err := s.sales.Do(context.Background(), l.view.Load().ID, c, operator); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	a := s.proved(t, l)
	if granted.Load() == 0 || bought.Load() == 0 {
		t.Fatalf("%d granted, %d bought: nothing was proved", granted.Load(), bought.Load())
	}
	if a.Gate.Remaining < 0 {
		t.Fatalf("gate %+v", a.Gate)
	}
}
