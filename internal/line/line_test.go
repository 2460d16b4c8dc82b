package line

import (
	"context"
	"testing"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/sale"
)

// TestWaitingList is the life of a waiting list: join, offers in order, pay, lapse, leave, over.
func TestWaitingList(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 2, 2)
	_, err := h.join(v, 1, 1)
	wantCode(t, err, levee.CodeUnitsFree)
	h.buys(t, v, 1, 1, "a")
	h.buys(t, v, 2, 1, "a")
	_, err = h.join(v, 9, 3)
	wantCode(t, err, levee.CodeInvalid)
	_, err = h.join(v, 9, 0)
	wantCode(t, err, levee.CodeInvalid)
	for n := 10; n < 15; n++ {
		h.joins(t, v, n, 1)
	}
	again := h.joins(t, v, 11, 1)
	if again.ID != h.mine(t, v, 11).ID || again.Place != 2 {
		t.Fatalf("joining again gives another entry: %+v", again)
	}
	_, err = h.join(v, 11, 2)
	wantCode(t, err, levee.CodeConflict)
	if w, o := h.lines.Numbers(v.ID); w != 5 || o != 0 {
		t.Fatalf("%d wait and %d have offers", w, o)
	}
	view := h.lines.view(h.mine(t, v, 12), false)
	if view.Position == nil || *view.Position != 3 || view.Waiting != 5 || view.Rank != nil || view.Offer != nil {
		t.Fatalf("the third in line sees %+v", view)
	}
	// The second leaves; the unit that comes back goes to the first.
	if err := h.lines.Leave(t.Context(), v.ID, buyer(11).User); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.lines.Leave(t.Context(), v.ID, buyer(11).User), levee.CodeNotFound)
	h.cancel(t, h.ordersOf(t, 1, order.StateCreated)[0], buyer(1))
	first := h.is(t, v, 10, StateOffered)
	if first.Given != 1 || !first.PayBy.Equal(h.clock.Now().Add(30*time.Minute).UTC().Truncate(time.Microsecond)) {
		t.Fatalf("the offer is %+v", first)
	}
	wantCode(t, h.lines.Leave(t.Context(), v.ID, buyer(10).User), levee.CodeConflict)
	h.holds(t, v)
	h.pay(t, first.Order())
	h.settled(t)
	h.is(t, v, 10, StateOrdered)
	// The next unit goes to the third, who does not pay; then to the fourth.
	h.cancel(t, h.ordersOf(t, 2, order.StateCreated)[0], operator)
	third := h.is(t, v, 12, StateOffered)
	h.clock.Step(31 * time.Minute)
	if n, err := h.orders.ExpireDue(t.Context()); err != nil || n != 1 {
		t.Fatalf("%d orders expired: %v", n, err)
	}
	h.is(t, v, 13, StateOffered)
	h.settled(t)
	if e := h.is(t, v, 12, StateLapsed); e.Reason != ReasonUnpaid {
		t.Fatalf("it lapsed because of %q", e.Reason)
	}
	h.holds(t, v)
	// Its money comes after all, but the unit is gone.
	if got := h.pay(t, third.Order()); got != order.OutcomeTooLate {
		t.Fatalf("late money is %v", got)
	}
	// Who lapsed may join again, at the end.
	if e := h.joins(t, v, 12, 1); e.Place != 6 {
		t.Fatalf("who joins again gets place %d", e.Place)
	}
	h.act(t, v, "end", 0)
	if err := h.lines.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.is(t, v, 14, StateOver)
	h.is(t, v, 12, StateOver)
	h.is(t, v, 13, StateOffered) // he can still pay
	h.pay(t, h.mine(t, v, 13).Order())
	h.settled(t)
	h.is(t, v, 13, StateOrdered)
	_, err = h.join(v, 20, 1)
	wantCode(t, err, levee.CodeEnded)
	h.holds(t, v)
}

// TestRevived: money that comes late brings a lapsed offer back where the unit is still free.
func TestRevived(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 1, 1)
	h.buys(t, v, 1, 1, "a")
	h.joins(t, v, 10, 1)
	h.cancel(t, h.ordersOf(t, 1, order.StateCreated)[0], buyer(1))
	e := h.is(t, v, 10, StateOffered)
	h.clock.Step(31 * time.Minute)
	if _, err := h.orders.ExpireDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.settled(t)
	h.is(t, v, 10, StateLapsed)
	if got := h.pay(t, e.Order()); got != order.OutcomeRevived {
		t.Fatalf("late money is %v", got)
	}
	h.settled(t)
	if e := h.is(t, v, 10, StateOrdered); e.Reason != "" {
		t.Fatalf("a paid entry has the reason %q", e.Reason)
	}
	h.holds(t, v)
}

// TestFewerUnits: an offer may be for fewer units than were asked for, and whoever holds his limit is passed over.
func TestFewerUnits(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 4, 2)
	for n := 1; n <= 4; n++ {
		h.buys(t, v, n, 1, "a")
	}
	h.joins(t, v, 10, 2)
	h.joins(t, v, 1, 2) // holds one of two
	h.joins(t, v, 11, 1)
	h.cancel(t, h.ordersOf(t, 2, order.StateCreated)[0], buyer(2))
	if e := h.is(t, v, 10, StateOffered); e.Given != 1 || e.Quantity != 2 {
		t.Fatalf("the offer is %+v", e)
	}
	h.act(t, v, "top_up", 2)
	if e := h.is(t, v, 1, StateOffered); e.Given != 1 {
		t.Fatalf("who holds one of two gets %d", e.Given)
	}
	h.is(t, v, 11, StateOffered)
	h.holds(t, v)

	// Buyer 3 fills his limit as the next in line, while he holds one already, and joins again: then he is passed over.
	w := h.open(t, 2, 1)
	h.buys(t, w, 1, 1, "a")
	h.buys(t, w, 2, 1, "a")
	h.joins(t, w, 1, 1)
	h.joins(t, w, 5, 1)
	h.cancel(t, h.ordersOf(t, 2, order.StateCreated)[0], operator)
	if e := h.is(t, w, 1, StateLost); e.Reason != ReasonLimit {
		t.Fatalf("passed over because of %q", e.Reason)
	}
	h.is(t, w, 5, StateOffered)
	h.settled(t)
	h.holds(t, w)

	// Two units come back; the first in line takes both, and the second keeps his place.
	x := h.open(t, 2, 2)
	h.buys(t, x, 1, 2, "a")
	h.joins(t, x, 10, 2)
	h.joins(t, x, 11, 1)
	h.cancel(t, h.ordersOf(t, 1, order.StateCreated)[0], operator)
	if e := h.is(t, x, 10, StateOffered); e.Given != 2 {
		t.Fatalf("the first gets %d of 2", e.Given)
	}
	h.is(t, x, 11, StateWaiting)
	h.holds(t, x)
}

// TestHeldLine: a pause holds the line, too; what came back meanwhile goes to it when the sale goes on.
func TestHeldLine(t *testing.T) {
	for _, act := range []string{"pause", "stop", "force_sold_out"} {
		h := newHouse(t)
		v := h.open(t, 2, 1)
		h.buys(t, v, 1, 1, "a")
		h.buys(t, v, 2, 1, "a")
		h.joins(t, v, 10, 1)
		h.joins(t, v, 11, 1)
		h.act(t, v, act, 0)
		h.cancel(t, h.ordersOf(t, 1, order.StateCreated)[0], buyer(1))
		h.cancel(t, h.ordersOf(t, 2, order.StateCreated)[0], buyer(2))
		h.is(t, v, 10, StateWaiting)
		if err := h.lines.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.is(t, v, 10, StateWaiting)
		_, err := h.join(v, 12, 1)
		if act != "force_sold_out" {
			wantCode(t, err, levee.CodePaused)
		} else if err != nil {
			t.Fatal(err)
		}
		h.act(t, v, "resume", 0)
		h.is(t, v, 10, StateOffered)
		h.is(t, v, 11, StateOffered)
		h.holds(t, v)
	}
}

// TestJoinOrBuy: of a unit that comes back and somebody who joins in the same moment one is first, and the unit is not stranded.
func TestJoinOrBuy(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 40, 1)
	for n := range 40 {
		h.buys(t, v, n, 1, "a")
	}
	for n := range 40 {
		o := h.ordersOf(t, n, order.StateCreated)[0]
		done := make(chan error)
		go func() {
			done <- h.orders.Cancel(context.Background(), o, buyer(n), "test")
		}()
		_, err := h.join(v, 100+n, 1)
		if err2 := <-done; err2 != nil {
			t.Fatal(err2)
		}
		switch {
		case err == nil:
			h.is(t, v, 100+n, StateOffered)
		case levee.CodeOf(err) == levee.CodeUnitsFree:
			h.buys(t, v, 100+n, 1, "b")
		default:
			t.Fatal(err)
		}
	}
	h.settled(t)
	h.holds(t, v)
}

// TestNoLine: who cannot join, and why.
func TestNoLine(t *testing.T) {
	h := newHouse(t)
	none := h.open(t, 1, 1, func(s *sale.Terms) { s.WaitingList = false })
	h.buys(t, none, 1, 1, "a")
	_, err := h.join(none, 2, 1)
	wantCode(t, err, levee.CodeConflict)
	later := h.open(t, 1, 1, func(s *sale.Terms) { s.StartsAt = h.clock.Now().Add(time.Minute) })
	_, err = h.join(later, 2, 1)
	wantCode(t, err, levee.CodeNotOpen)
	join := func(v *sale.Sale, who levee.Actor) error {
		return h.DB.Tx(t.Context(), "test.join", func(ctx context.Context, tx *db.Tx) error {
			_, err := h.lines.JoinTx(ctx, tx, v.ID, who, 1)
			return err
		})
	}
	full := h.open(t, 1, 1)
	h.buys(t, full, 1, 1, "a")
	wantCode(t, join(full, levee.Actor{}), levee.CodeUnauthenticated)
	wantCode(t, join(full, levee.Actor{User: 5, Rehearsal: true, Roles: levee.RoleCustomer}), levee.CodeForbidden)
	wantCode(t, h.lines.Leave(t.Context(), full.ID, 5), levee.CodeNotFound)
	if _, err := h.lines.Mine(t.Context(), full.ID, 5); levee.CodeOf(err) != levee.CodeNotFound {
		t.Fatal(err)
	}
	for range maxTimes {
		h.joins(t, full, 2, 1)
		if err := h.lines.Leave(t.Context(), full.ID, buyer(2).User); err != nil {
			t.Fatal(err)
		}
	}
	_, err = h.join(full, 2, 1)
	wantCode(t, err, levee.CodeConflict)
	h.settled(t)
	h.holds(t, full)
}

// TestRestart: places and offers are the same in the next process.
func TestRestart(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 3, 1)
	for n := range 3 {
		h.buys(t, v, n, 1, "a")
	}
	for n := 10; n < 20; n++ {
		h.joins(t, v, n, 1)
	}
	if err := h.lines.Leave(t.Context(), v.ID, buyer(13).User); err != nil {
		t.Fatal(err)
	}
	h.cancel(t, h.ordersOf(t, 0, order.StateCreated)[0], buyer(0))
	before := h.lines.view(h.mine(t, v, 16), false)
	h.start(t)
	h.holds(t, v)
	after := h.lines.view(h.mine(t, v, 16), false)
	if *before.Position != 5 || *after.Position != 5 || after.Waiting != before.Waiting {
		t.Fatalf("before the restart %+v, after it %+v", before, after)
	}
	// An offer that was made before the restart lapses after it, and its unit goes on.
	h.cancel(t, h.mine(t, v, 10).Order(), buyer(10))
	h.settled(t)
	if e := h.is(t, v, 10, StateLapsed); e.Reason != ReasonCancelled {
		t.Fatalf("lapsed because of %q", e.Reason)
	}
	h.is(t, v, 11, StateOffered)
	h.holds(t, v)
}
