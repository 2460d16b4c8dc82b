package sale

import (
	"context"
	"testing"
	"time"

	"levee"
	"levee/internal/order"
)

// TestReadsThatDecideAskThePrimary: one node tells a buyer that he won, and he goes on at another one at once, while every read that does
// not say that it decides something sees what was two seconds ago. What he was told stays true. The control does not listen to what
// the reads say, and each of the promises is broken.
func TestReadsThatDecideAskThePrimary(t *testing.T) {
	for _, reads := range []string{"unmarked", "all"} {
		t.Run(reads, func(t *testing.T) {
			f := &fleet{t: t, units: 500, reads: reads}
			f.open(2, 2)
			broken := map[string]int{}
			ctx := context.Background()
			promise := func(what string, kept bool, why ...any) {
				if !kept {
					broken[what]++
					if reads != "all" {
						t.Errorf("%s: %v", what, why)
					}
				} else {
					broken[what] += 0
				}
			}
			lagging := func() { // a busy machine may leave the replica out for a moment, and then there is nothing to be seen
				f.within(20*time.Second, "the replica to be read", func() bool { return f.nodes[1].DB.Stats().Replicas == 1 })
			}
			for i := range 10 {
				lagging()
				a, b := f.nodes[0], f.nodes[1]
				who := buyer(i)
				ticket, err := a.sales.Buy(ctx, a.l, Wish{Buyer: who, Quantity: 2, Key: "k"})
				if err != nil || !ticket.Settled {
					t.Fatal(ticket, err)
				}
				again, err := b.sales.Buy(ctx, b.l, Wish{Buyer: who, Quantity: 2, Key: "k"})
				promise("the same key gets the first answer again", err == nil && again.Reservation == ticket.Reservation, again, err)
				st, err := b.sales.Reservation(ctx, ticket.Reservation, who)
				promise("who was told that he has an order has it", err == nil && st.Place == "ordered", st, err)
				o, err := b.orders.ByID(ctx, who, ticket.Order())
				promise("an order that was told of exists", err == nil && o.State == order.StateCreated, o.State, err)
				stock, err := b.sales.StockOf(ctx, f.sale)
				promise("an operator's count is of now", err == nil && stock.Reserved == 2, stock, err)
				won, err := b.sales.wins(ctx, []levee.ReservationID{ticket.Reservation})
				promise("what is on disk is not taken for lost", err == nil && len(won) == 1, won, err)
				state, err := b.sales.gateState(ctx, f.sale)
				promise("a gate is loaded from what is", err == nil && state.Seq == stock.Seq && state.Remaining == 498, state.Seq, err)
				err = b.sales.GiveUp(ctx, ticket.Reservation, who)
				promise("what was won can be given up", err == nil, err)
				if err != nil {
					_ = a.orders.Cancel(ctx, ticket.Order(), who, "")
				}
			}
			lagging()
			if _, err := f.nodes[0].sales.Do(ctx, f.sale, Command{Act: "pause", Reason: "a look"}, operator); err != nil {
				t.Fatal(err)
			}
			f.nodes[1].sales.lookAround(ctx)
			promise("a pause is seen by all nodes at their next look", f.nodes[1].l.view.Load().State == StatePaused)
			for what, times := range broken {
				if t.Logf("%d times broken: %s", times, what); reads == "all" && times == 0 {
					t.Errorf("%q is kept though nobody asks the primary: the test has lost its teeth", what)
				}
			}
		})
	}
}
