package line

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/sale"
)

// player is one seed's crowd around one sale: people who buy, join, leave, pay or do not, and an operator who does what operators do.
type player struct {
	*house
	t     testing.TB
	r     *rand.Rand
	v     *sale.Sale
	n     int // people
	keys  int
	seen  map[string]int
	trace []string
}

func (p *player) note(format string, args ...any) {
	p.trace = append(p.trace, fmt.Sprintf(format, args...))
}

// count notes what came of a wish, so that the test can see that it tried everything.
func (p *player) count(what string, err error) {
	if err != nil {
		what += " " + string(levee.CodeOf(err))
	}
	p.seen[what]++
	p.note("%s", what)
}

// orders picks an order of the sale in a state, at random.
func (p *player) order(state order.State) (order.Order, bool) {
	list, err := listOrders(p.orders, "source=sale&state="+state.String()+"&sale="+p.Sealer.Seal(levee.KindSale, int64(p.v.ID)))
	if err != nil {
		p.t.Fatal(err)
	}
	if len(list) == 0 {
		return order.Order{}, false
	}
	return list[p.r.IntN(len(list))], true
}

func (p *player) act(act string, units int64) {
	_, err := p.sales.Do(p.t.Context(), p.v.ID, sale.Command{Act: act, Units: units, Reason: "test"}, operator)
	p.count(act, err)
}

// move is one thing that somebody does.
func (p *player) move() {
	ctx := p.t.Context()
	who := p.r.IntN(p.n)
	quantity := 1 + p.r.Int32N(p.v.PerBuyer)
	if p.r.IntN(20) == 0 {
		quantity++
	}
	switch k := p.r.IntN(100); {
	case k < 20:
		waiting, _ := p.lines.Numbers(p.v.ID)
		p.keys++
		err := p.sales.BuyFor(ctx, p.v.ID, buyer(who), quantity, fmt.Sprint(p.keys))
		p.count("buy", err)
		if err == nil && waiting > 0 && gives(p.now(), p.clock.Now()) {
			p.t.Fatalf("the crowd bought while %d waited", waiting)
		}
	case k < 48:
		_, err := p.join(p.v, who, quantity)
		p.count("join", err)
	case k < 54:
		p.count("leave", p.lines.Leave(ctx, p.v.ID, buyer(who).User))
	case k < 63:
		if o, ok := p.order(order.StateCreated); ok {
			p.count("pay "+p.pay(p.t, o.ID).String(), nil)
		}
	case k < 74:
		if o, ok := p.order(order.StateCreated); ok {
			p.count("cancel", p.orders.Cancel(ctx, o.ID, levee.Actor{User: o.Buyer, Roles: levee.RoleCustomer}, "test"))
		}
	case k < 76:
		if o, ok := p.order(order.StatePaid); ok {
			p.count("refund", p.DB.Tx(ctx, "test.refund", func(ctx context.Context, tx *db.Tx) error {
				if err := p.orders.RefundingTx(ctx, tx, o.ID, operator, "test"); err != nil {
					return err
				}
				return p.orders.RefundedTx(ctx, tx, o.ID)
			}))
		}
	case k < 79:
		if o, ok := p.order(order.StateCancelled); ok {
			p.count("pay late "+p.pay(p.t, o.ID).String(), nil)
		}
	case k < 85:
		p.clock.Step(time.Duration(p.r.IntN(20)) * time.Minute)
		n, err := p.orders.ExpireDue(ctx)
		p.count(fmt.Sprintf("expire %v", n > 0), err)
	case k < 87:
		p.act("top_up", 1+p.r.Int64N(2))
	case k < 89:
		p.act("withdraw", 1+p.r.Int64N(3))
	case k < 91:
		p.act([]string{"pause", "stop", "force_sold_out"}[p.r.IntN(3)], 0)
	case k < 97:
		p.act("resume", 0)
	case k < 99:
		p.count("tick", p.lines.Tick(ctx))
	default:
		p.start(p.t)
		p.count("restart", nil)
	}
}

func (p *player) now() *sale.Sale {
	v, err := p.sales.ByID(p.t.Context(), p.v.ID)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// TestRandom lets people and an operator do random things around a sale with a waiting list, and around one with a draw, and checks
// every promise after each.
func TestRandom(t *testing.T) {
	seeds, moves := 6, 220
	if testing.Short() {
		seeds = 2
	}
	all := map[string]int{}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			p := &player{house: newHouse(t), t: t, r: rand.New(rand.NewPCG(uint64(seed), 11)), n: 24, seen: map[string]int{}}
			defer func() {
				if t.Failed() {
					t.Logf("what was done: %q", p.trace[max(0, len(p.trace)-40):])
				}
				for what, n := range p.seen {
					all[what] += n
				}
			}()
			var change []func(*sale.Terms)
			if seed%2 == 1 {
				change = append(change, draws(p.house, 25*time.Minute))
			}
			p.v = p.open(t, 2+p.r.Int64N(4), 1+p.r.Int32N(3), change...)
			for range moves {
				p.move()
				p.settled(t)
				p.holds(t, p.v)
			}
			p.act("end", 0)
			for range 3 {
				p.settled(t)
				if err := p.lines.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
				p.holds(t, p.v)
			}
			tally, err := p.lines.tally(t.Context(), p.v.ID)
			if err != nil || tally[StateWaiting]+tally[StateEntered] > 0 {
				t.Fatalf("after the end the entries are %v (%v)", tally, err)
			}
			for state, n := range tally {
				p.seen["ended "+state.String()] += int(n)
			}
		})
	}
	if testing.Short() || t.Failed() {
		return
	}
	for _, what := range []string{"buy", "buy sold_out", "buy draw_only", "join", "join units_free", "join entries_closed", "join conflict", "leave", "leave not_found",
		"leave conflict", "pay paid", "pay late too_late", "cancel", "refund", "expire true", "top_up", "withdraw", "pause", "stop",
		"force_sold_out", "resume", "restart", "ended ordered", "ended lapsed", "ended lost", "ended left", "ended over"} {
		if all[what] == 0 {
			t.Errorf("it never came to %q; it came to %v", what, all)
		}
	}
}

// TestCrowdBehindTheLine: a crowd that asks without pause gets nothing of what comes back while somebody waits.
func TestCrowdBehindTheLine(t *testing.T) {
	h := newHouse(t)
	const units, people = 3, 60
	v := h.open(t, units, 1)
	for n := range units {
		h.buys(t, v, n, 1, "a")
	}
	for n := range people {
		h.joins(t, v, 100+n, 1)
	}
	stop := make(chan struct{})
	var crowd sync.WaitGroup
	var tried, won atomic.Int64
	for c := range 4 {
		crowd.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				tried.Add(1)
				if h.sales.BuyFor(context.Background(), v.ID, buyer(10_000+c*100_000+n), 1, "c") == nil {
					won.Add(1)
				}
			}
		})
	}
	// Whoever has units gives them up, until only the last three of the line are left.
	open := []levee.OrderID{}
	for n := range units {
		open = append(open, h.ordersOf(t, n, order.StateCreated)...)
	}
	for next := 0; next < people; next++ {
		h.cancel(t, open[0], operator)
		open = open[1:]
		open = append(open, h.is(t, v, 100+next, StateOffered).Order())
	}
	close(stop)
	crowd.Wait()
	h.settled(t)
	h.holds(t, v)
	if won.Load() > 0 || tried.Load() < people {
		t.Fatalf("the crowd tried %d times and got %d units from under the line", tried.Load(), won.Load())
	}
	// With nobody waiting any more it is the crowd's turn.
	h.cancel(t, open[0], operator)
	h.buys(t, v, 99_999, 1, "d")
}

// TestMuchAtOnce: more units come back than one transaction gives away; a job goes on, and in a draw nobody can be faster.
func TestMuchAtOnce(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 1, 1)
	h.buys(t, v, 1, 1, "a")
	const n = atOnce + 300
	err := h.DB.Tx(t.Context(), "test.join", func(ctx context.Context, tx *db.Tx) error {
		for i := range n {
			if _, err := h.lines.JoinTx(ctx, tx, v.ID, buyer(100+i), 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h.act(t, v, "top_up", n)
	took := time.Since(began)
	if _, offered := h.lines.Numbers(v.ID); offered != atOnce {
		t.Fatalf("%d were offered units in one transaction", offered)
	}
	t.Logf("%d offers in one transaction take %v", atOnce, took)
	h.settled(t)
	if waiting, offered := h.lines.Numbers(v.ID); offered != n || waiting != 0 {
		t.Fatalf("%d were offered units, %d wait", offered, waiting)
	}
	h.holds(t, v)
}
