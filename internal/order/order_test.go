package order

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/catalog"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

var (
	buyer    = levee.Actor{User: 1001, Roles: levee.RoleCustomer}
	other    = levee.Actor{User: 1002, Roles: levee.RoleCustomer}
	operator = levee.Actor{User: 1003, Roles: levee.RoleOperator}
)

// house is an order room with a catalog on a platform of its own.
type house struct {
	*platformtest.Platform
	t       testing.TB
	catalog *catalog.Service
	orders  *Service
	clock   *obs.StepClock
	heard   *heard
}

// heard collects the events that were delivered.
type heard struct {
	mu    sync.Mutex
	names map[string]int
	paid  []Paid
}

func (h *heard) add(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names[name]++
}

func hear[E event.Event](h *heard, also func(E)) event.Listener {
	var zero E
	return event.Listen("test."+zero.EventName(), func(_ context.Context, tx *db.Tx, e E) error {
		tx.AfterCommit(func() {
			h.add(e.EventName())
			if also != nil {
				h.mu.Lock()
				defer h.mu.Unlock()
				also(e)
			}
		})
		return nil
	})
}

func open(t testing.TB) *house {
	t.Helper()
	p := platformtest.New(t, catalog.Schema(), Schema())
	h := &house{Platform: p, t: t, clock: &obs.StepClock{}, heard: &heard{names: map[string]int{}}}
	h.catalog = catalog.New(catalog.Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: p.Obs, Events: p.Events})
	var err error
	h.orders, err = Open(Deps{
		DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: p.Obs, Events: p.Events, Jobs: p.Jobs, Catalog: h.catalog, Clock: h.clock.Now,
	})
	must(t, err)
	must(t, p.Events.Register(
		hear[CreatedBatch](h.heard, nil), hear[Cancelled](h.heard, nil), hear[Shipped](h.heard, nil), hear[Completed](h.heard, nil),
		hear[Refunded](h.heard, nil), hear(h.heard, func(e Paid) { h.heard.paid = append(h.heard.paid, e) }),
	))
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) sku(stock int64) levee.SKUID {
	return h.skuIn(stock, levee.Money{Minor: 250, Currency: "CNY"})
}

func (h *house) skuIn(stock int64, price levee.Money) levee.SKUID {
	h.t.Helper()
	p, err := h.catalog.Create(h.t.Context(), catalog.NewProduct{
		Title: "Lamp", State: catalog.OnSale,
		SKUs: []catalog.NewSKU{{Code: fmt.Sprint("lamp-", rand.Int64()), Name: "red", Price: price, OnHand: stock}},
	})
	must(h.t, err)
	return p.SKUs[0].ID
}

// buy makes an order of one unit.
func (h *house) buy(sku levee.SKUID, quantity int32) Order {
	h.t.Helper()
	var o Order
	must(h.t, h.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		o, err = h.orders.BuyTx(ctx, tx, buyer.User, []Want{{sku, quantity}})
		return err
	}))
	return o
}

func (h *house) tx(fn func(ctx context.Context, tx *db.Tx) error) error {
	return h.DB.Tx(h.t.Context(), "test", fn)
}

func (h *house) pay(id levee.OrderID) (outcome Outcome, err error) {
	err = h.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		outcome, err = h.orders.MarkPaidTx(ctx, tx, id, PaidBy{Payment: 77, At: h.clock.Now()})
		return err
	})
	return outcome, err
}

func (h *house) get(id levee.OrderID) Order {
	h.t.Helper()
	o, err := h.orders.ByID(h.t.Context(), levee.System, id)
	must(h.t, err)
	return o
}

func (h *house) stock(sku levee.SKUID) int64 {
	h.t.Helper()
	n := int64(0)
	must(h.t, h.DB.QueryRow(h.t.Context(), "SELECT on_hand FROM catalog_sku WHERE id = ?", int64(sku)).Scan(&n))
	return n
}

// balanced checks that stock and ledger agree and every order's history is a chain of steps that exist.
func (h *house) balanced() {
	h.t.Helper()
	drifts, err := h.catalog.Drifts(h.t.Context())
	must(h.t, err)
	if len(drifts) > 0 {
		h.t.Errorf("stock and ledger differ: %v", drifts)
	}
	for _, bad := range broken(h) {
		h.t.Error(bad)
	}
}

// broken returns what is wrong with the orders: a history that is no chain of allowed steps from created to the order's state.
func broken(h *house) (bad []string) {
	h.t.Helper()
	cursor := ""
	for {
		orders, next, err := h.listed(levee.System, "limit=100"+cursor)
		must(h.t, err)
		for _, o := range orders {
			steps, err := h.orders.Timeline(h.t.Context(), levee.System, o.ID)
			must(h.t, err)
			at := State(0)
			for i, e := range steps {
				if e.From != at || (i > 0 && !e.From.MayBecome(e.To) && !slices.Contains(back[e.From], e.To)) {
					bad = append(bad, fmt.Sprintf("order %d: step %d goes from %v to %v, it was %v", o.ID, i, e.From, e.To, at))
				}
				at = e.To
			}
			if at != o.State || int64(len(steps)) != o.Version {
				bad = append(bad, fmt.Sprintf("order %d is %v at version %d, its history ends at %v after %d steps", o.ID, o.State, o.Version, at, len(steps)))
			}
		}
		if next == "" {
			return bad
		}
		cursor = "&cursor=" + next
	}
}

func TestBuyTakesAllOrNothing(t *testing.T) {
	h := open(t)
	a, b := h.sku(5), h.sku(1)
	var o Order
	must(t, h.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		o, err = h.orders.BuyTx(ctx, tx, buyer.User, []Want{{b, 1}, {a, 1}, {a, 2}})
		return err
	}))
	want := []Line{
		{SKU: a, Product: o.Lines[0].Product, Title: "Lamp, red", Quantity: 3, Price: levee.Money{Minor: 250, Currency: "CNY"}},
		{SKU: b, Product: o.Lines[1].Product, Title: "Lamp, red", Quantity: 1, Price: levee.Money{Minor: 250, Currency: "CNY"}},
	}
	if diff := cmp.Diff(want, o.Lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if o.Total.Minor != 1000 || !o.PayBy.Equal(h.clock.Now().Add(30*time.Minute)) || o.State != StateCreated {
		t.Errorf("got %+v", o)
	}
	if diff := cmp.Diff(o, h.get(o.ID)); diff != "" {
		t.Errorf("the order in SQL differs (-returned +read):\n%s", diff)
	}
	err := h.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := h.orders.BuyTx(ctx, tx, buyer.User, []Want{{a, 1}, {b, 1}})
		return err
	})
	if levee.CodeOf(err) != levee.CodeOutOfStock {
		t.Errorf("got %v", err)
	}
	if h.stock(a) != 2 || h.stock(b) != 0 {
		t.Errorf("a refused order left stock at %d and %d", h.stock(a), h.stock(b))
	}
	h.balanced()
}

func TestBuyRefuses(t *testing.T) {
	h := open(t)
	a, eur := h.sku(10), h.skuIn(10, levee.Money{Minor: 1, Currency: "EUR"})
	dear := h.skuIn(2_000_000, levee.Money{Minor: catalog.MaxPrice, Currency: "CNY"})
	draft, err := h.catalog.Create(t.Context(), catalog.NewProduct{
		Title: "Secret", SKUs: []catalog.NewSKU{{Code: "s", Price: levee.Money{Minor: 1, Currency: "CNY"}, OnHand: 9}}})
	must(t, err)
	many := make([]Want, 51)
	for i := range many {
		many[i] = Want{a, 1}
	}
	for name, c := range map[string]struct {
		wants []Want
		code  levee.Code
	}{
		"nothing":            {nil, levee.CodeInvalid},
		"51 lines":           {many, levee.CodeInvalid},
		"zero":               {[]Want{{a, 0}}, levee.CodeInvalid},
		"negative":           {[]Want{{a, -1}}, levee.CodeInvalid},
		"too many":           {[]Want{{a, 1_000_001}}, levee.CodeInvalid},
		"too many in sum":    {[]Want{{a, 1_000_000}, {a, 1_000_000}}, levee.CodeInvalid},
		"no such SKU":        {[]Want{{424242, 1}}, levee.CodeNotFound},
		"no SKU at all":      {[]Want{{0, 1}}, levee.CodeInvalid},
		"a draft":            {[]Want{{draft.SKUs[0].ID, 1}}, levee.CodeNotFound},
		"two currencies":     {[]Want{{a, 1}, {eur, 1}}, levee.CodeInvalid},
		"more than on hand":  {[]Want{{a, 11}}, levee.CodeOutOfStock},
		"sum out of stock":   {[]Want{{a, 6}, {a, 6}}, levee.CodeOutOfStock},
		"largest is allowed": {[]Want{{dear, 1_000_000}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := h.tx(func(ctx context.Context, tx *db.Tx) error {
				_, err := h.orders.BuyTx(ctx, tx, buyer.User, c.wants)
				return err
			})
			if levee.CodeOf(err) != c.code {
				t.Errorf("got %v, want code %q", err, c.code)
			}
			var e *levee.Error
			if errors.As(err, &e) && e.Code == levee.CodeInvalid && len(e.Fields) == 0 {
				t.Errorf("%v names no field", err)
			}
		})
	}
	if h.stock(a) != 10 {
		t.Errorf("refused orders left stock at %d", h.stock(a))
	}
	h.balanced()
}

// TestStateMachine walks every state × every act and compares with the table of what is allowed.
func TestStateMachine(t *testing.T) {
	h := open(t)
	type act struct {
		name  string
		do    func(id levee.OrderID) error
		leads map[State]State
	}
	inTx := func(fn func(ctx context.Context, tx *db.Tx, id levee.OrderID) error) func(levee.OrderID) error {
		return func(id levee.OrderID) error {
			return h.tx(func(ctx context.Context, tx *db.Tx) error { return fn(ctx, tx, id) })
		}
	}
	ctx := t.Context()
	pay := func(id levee.OrderID) error { _, err := h.pay(id); return err }
	cancel := func(id levee.OrderID) error { return h.orders.Cancel(ctx, id, operator, "no") }
	ship := func(id levee.OrderID) error { return h.orders.Ship(ctx, id, operator, "SF", "1") }
	complete := func(id levee.OrderID) error { return h.orders.Complete(ctx, id, operator) }
	refunding := inTx(func(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
		return h.orders.RefundingTx(ctx, tx, id, operator, "back")
	})
	refunded := inTx(func(ctx context.Context, tx *db.Tx, id levee.OrderID) error { return h.orders.RefundedTx(ctx, tx, id) })
	refused := inTx(func(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
		return h.orders.RefundRefusedTx(ctx, tx, id, "no")
	})
	acts := []act{
		{"pay", pay, map[State]State{ // money for an order that is over or paid is no error: its outcome says that it must go back
			StateCreated: StatePaid, StatePaid: StatePaid, StateShipped: StateShipped, StateDone: StateDone,
			StateRefunding: StateRefunding, StateRefunded: StateRefunded, StateCancelled: StateCancelled}},
		{"cancel", cancel, map[State]State{StateCreated: StateCancelled}},
		{"ship", ship, map[State]State{StatePaid: StateShipped}},
		{"complete", complete, map[State]State{StateShipped: StateDone}},
		{"refunding", refunding, map[State]State{StatePaid: StateRefunding, StateShipped: StateRefunding}},
		{"refunded", refunded, map[State]State{StateRefunding: StateRefunded}},
		{"refund refused", refused, map[State]State{StateRefunding: StatePaid}},
	}
	way := map[State][]func(levee.OrderID) error{
		StateCreated: {}, StatePaid: {pay}, StateShipped: {pay, ship}, StateDone: {pay, ship, complete},
		StateRefunding: {pay, refunding}, StateRefunded: {pay, refunding, refunded}, StateCancelled: {cancel},
	}
	sku := h.sku(1000)
	for _, from := range States() {
		for _, a := range acts {
			t.Run(from.String()+"/"+a.name, func(t *testing.T) {
				o := h.buy(sku, 1)
				for _, step := range way[from] {
					must(t, step(o.ID))
				}
				before := h.get(o.ID)
				if before.State != from {
					t.Fatalf("the way led to %v", before.State)
				}
				err := a.do(o.ID)
				to, legal := a.leads[from]
				after := h.get(o.ID)
				if legal && (err != nil || after.State != to) {
					t.Errorf("got %v and state %v, want %v", err, after.State, to)
				}
				if !legal {
					var e *levee.Error
					if !errors.As(err, &e) || e.Code != levee.CodeConflict || e.Data["state"] != from.String() {
						t.Errorf("got %v, want a conflict that names %v", err, from)
					}
					if diff := cmp.Diff(before, after); diff != "" {
						t.Errorf("a refused act changed the order:\n%s", diff)
					}
				}
			})
		}
	}
	// A refund that is refused brings a shipped order back to shipped.
	o := h.buy(sku, 1)
	for _, step := range []func(levee.OrderID) error{pay, ship, refunding, refused} {
		must(t, step(o.ID))
	}
	if got := h.get(o.ID).State; got != StateShipped {
		t.Errorf("got %v", got)
	}
	h.balanced()
}

func TestStateNames(t *testing.T) {
	if State(0).MayBecome(StatePaid) || State(99).MayBecome(StatePaid) || State(99).String() != "state(99)" {
		t.Error("an unknown state goes somewhere")
	}
}

// TestPayAndExpireAtOnce races a payment against the expiry of the same order, hundreds of times: one of them wins, and the
// units are back on the shelf if and only if it was the expiry. The money that lost is revived or refused, never both.
func TestPayAndExpireAtOnce(t *testing.T) {
	h := open(t)
	const races = 400
	sku := h.sku(races)
	orders := make([]Order, races)
	for i := range orders {
		orders[i] = h.buy(sku, 1)
	}
	if h.stock(sku) != 0 {
		t.Fatalf("stock is %d", h.stock(sku))
	}
	h.clock.Step(31 * time.Minute)
	var paid, revived, late, cancelled atomic.Int64
	var wg sync.WaitGroup
	for i, o := range orders {
		ready := make(chan struct{})
		pay := func() {
			<-ready
			outcome, err := h.pay(o.ID)
			if err != nil {
				t.Error(err)
			}
			switch outcome {
			case OutcomePaid:
				paid.Add(1)
			case OutcomeRevived:
				revived.Add(1)
			case OutcomeTooLate:
				late.Add(1)
			default:
				t.Errorf("outcome %v", outcome)
			}
		}
		expire := func() {
			<-ready
			won, err := h.orders.expire(levee.WithActor(t.Context(), levee.System), dueOrder{o.ID, o.PayBy, o.PayBy.UnixMicro()}, h.clock.Now())
			if err != nil {
				t.Error(err)
			}
			if won {
				cancelled.Add(1)
			}
		}
		if i%2 == 0 {
			pay, expire = expire, pay // whoever starts last tends to win
		}
		wg.Go(pay)
		wg.Go(expire)
		close(ready)
	}
	wg.Wait()
	t.Logf("%d paid in time, %d cancelled, of these %d revived and %d too late", paid.Load(), cancelled.Load(), revived.Load(), late.Load())
	if paid.Load()+cancelled.Load() != races || revived.Load()+late.Load() != cancelled.Load() {
		t.Errorf("the numbers do not add up")
	}
	if got := h.stock(sku); got != late.Load() {
		t.Errorf("%d units are free, %d orders stay cancelled", got, late.Load())
	}
	h.balanced()
}

// careless expires an order as a toy system does: it looks first and acts later, without asking again in the same breath.
func careless(h *house, o Order, between func()) {
	seen := h.get(o.ID)
	between()
	if seen.State != StateCreated {
		return
	}
	must(h.t, h.tx(func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE order_head SET state = 7, version = version + 1 WHERE id = ?", int64(o.ID)); err != nil {
			return err
		}
		return (*shop)(h.orders).ReleaseTx(ctx, tx, o, "expired")
	}))
}

// TestPayAndExpireControl shows that the checks of the race do see the fault that they look for.
func TestPayAndExpireControl(t *testing.T) {
	h := open(t)
	sku := h.sku(1)
	o := h.buy(sku, 1)
	outcome := Outcome(0)
	careless(h, o, func() {
		var err error
		outcome, err = h.pay(o.ID)
		must(t, err)
	})
	if outcome != OutcomePaid || h.stock(sku) != 1 {
		t.Errorf("the careless expiry did no harm: outcome %v, stock %d", outcome, h.stock(sku))
	}
	if len(broken(h)) == 0 {
		t.Error("a paid order that was cancelled is not seen by the history check")
	}
}

func TestCancelTwice(t *testing.T) {
	h := open(t)
	const each = 8
	sku := h.sku(50)
	for range 50 {
		o := h.buy(sku, 1)
		var done atomic.Int64
		var wg sync.WaitGroup
		for range each {
			wg.Go(func() {
				switch err := h.orders.Cancel(t.Context(), o.ID, buyer, "changed my mind"); levee.CodeOf(err) {
				case "":
					done.Add(1)
				case levee.CodeConflict:
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if done.Load() != 1 {
			t.Errorf("%d of %d cancellations won", done.Load(), each)
		}
	}
	if h.stock(sku) != 50 {
		t.Errorf("stock is %d", h.stock(sku))
	}
	h.balanced()
	must(t, h.Events.Drain(t.Context()))
	if h.heard.names["order.cancelled.v1"] != 50 {
		t.Errorf("heard %v", h.heard.names)
	}
}

func TestLateMoney(t *testing.T) {
	expire := func(h *house) {
		h.clock.Step(31 * time.Minute)
		if n, err := h.orders.ExpireDue(h.t.Context()); n != 1 || err != nil {
			h.t.Fatalf("expired %d, %v", n, err)
		}
	}
	t.Run("revived while units are free", func(t *testing.T) {
		h := open(t)
		sku := h.sku(1)
		o := h.buy(sku, 1)
		expire(h)
		if h.stock(sku) != 1 {
			t.Fatalf("stock is %d", h.stock(sku))
		}
		for i, want := range []Outcome{OutcomeRevived, OutcomeAlreadyPaid, OutcomeAlreadyPaid} {
			if got, err := h.pay(o.ID); got != want || err != nil {
				t.Errorf("payment %d: %v %v, want %v", i+1, got, err, want)
			}
		}
		if h.get(o.ID).State != StatePaid || h.stock(sku) != 0 {
			t.Errorf("state %v, stock %d", h.get(o.ID).State, h.stock(sku))
		}
		h.balanced()
		must(t, h.Events.Drain(t.Context()))
		if len(h.heard.paid) != 1 || !h.heard.paid[0].Revived || h.heard.paid[0].Payment != 77 {
			t.Errorf("heard %+v", h.heard.paid)
		}
	})
	t.Run("refused when they are sold", func(t *testing.T) {
		h := open(t)
		a, b := h.sku(3), h.sku(1)
		var o Order
		must(t, h.tx(func(ctx context.Context, tx *db.Tx) (err error) {
			o, err = h.orders.BuyTx(ctx, tx, buyer.User, []Want{{a, 1}, {b, 1}})
			return err
		}))
		expire(h)
		h.buy(b, 1) // of the two SKUs the second is gone, so the first must be left alone as well
		for range 3 {
			if got, err := h.pay(o.ID); got != OutcomeTooLate || err != nil {
				t.Errorf("%v %v", got, err)
			}
		}
		if h.get(o.ID).State != StateCancelled || h.stock(a) != 3 || h.stock(b) != 0 {
			t.Errorf("state %v, stock %d and %d", h.get(o.ID).State, h.stock(a), h.stock(b))
		}
		h.balanced()
	})
	for name, who := range map[string]levee.Actor{"buyer": buyer, "operator": operator} {
		t.Run("refused when cancelled by the "+name, func(t *testing.T) {
			h := open(t)
			sku := h.sku(1)
			o := h.buy(sku, 1)
			must(t, h.orders.Cancel(t.Context(), o.ID, who, "no"))
			if got, err := h.pay(o.ID); got != OutcomeTooLate || err != nil {
				t.Errorf("%v %v", got, err)
			}
			if h.stock(sku) != 1 {
				t.Errorf("stock is %d", h.stock(sku))
			}
		})
	}
	t.Run("a hundred at once revive once", func(t *testing.T) {
		h := open(t)
		sku := h.sku(2)
		o := h.buy(sku, 1)
		expire(h)
		var revived atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				got, err := h.pay(o.ID)
				if err != nil {
					t.Error(err)
				}
				if got == OutcomeRevived {
					revived.Add(1)
				}
			})
		}
		wg.Wait()
		if revived.Load() != 1 || h.stock(sku) != 1 {
			t.Errorf("revived %d times, stock %d", revived.Load(), h.stock(sku))
		}
		h.balanced()
	})
}

// TestProviderDown: an order is not cancelled while nobody can say whether it was paid, but not kept for ever either.
func TestProviderDown(t *testing.T) {
	h := open(t)
	sku := h.sku(3)
	down := errors.New("connection refused")
	var asked atomic.Int64
	answers := map[levee.OrderID]func() (bool, error){}
	h.orders.AskProvider(func(_ context.Context, id levee.OrderID) (bool, error) {
		asked.Add(1)
		return answers[id]()
	})
	unknown, unpaid, paid := h.buy(sku, 1), h.buy(sku, 1), h.buy(sku, 1)
	answers[unknown.ID] = func() (bool, error) { return false, down }
	answers[unpaid.ID] = func() (bool, error) { return false, nil }
	answers[paid.ID] = func() (bool, error) { _, err := h.pay(paid.ID); return true, err }
	deadline := unknown.PayBy

	h.clock.Step(30*time.Minute - time.Microsecond)
	if n, err := h.orders.ExpireDue(t.Context()); n != 0 || err != nil || asked.Load() != 0 {
		t.Fatalf("before the deadline: %d cancelled, %v, asked %d times", n, err, asked.Load())
	}
	h.clock.Step(time.Microsecond)
	if n, err := h.orders.ExpireDue(t.Context()); n != 1 || err != nil {
		t.Fatalf("at the deadline: %d cancelled, %v", n, err)
	}
	for id, want := range map[levee.OrderID]State{unknown.ID: StateCreated, unpaid.ID: StateCancelled, paid.ID: StatePaid} {
		if got := h.get(id).State; got != want {
			t.Errorf("order is %v, want %v", got, want)
		}
	}
	if got := h.get(unknown.ID).PayBy; !got.Equal(deadline) {
		t.Errorf("the deadline that the buyer sees moved from %v to %v", deadline, got)
	}
	// It is asked about every half minute, not every second.
	asked.Store(0)
	for range 120 {
		h.clock.Step(time.Second)
		_, err := h.orders.ExpireDue(t.Context())
		must(t, err)
	}
	if n := asked.Load(); n < 3 || n > 5 {
		t.Errorf("asked %d times in two minutes", n)
	}
	for h.clock.Now().Before(deadline.Add(2*time.Hour - time.Second)) {
		if got := h.get(unknown.ID).State; got != StateCreated {
			t.Fatalf("cancelled %v after its deadline, within the grace", h.clock.Now().Sub(deadline))
		}
		h.clock.Step(30 * time.Second)
		_, err := h.orders.ExpireDue(t.Context())
		must(t, err)
	}
	h.clock.Step(time.Minute)
	_, err := h.orders.ExpireDue(t.Context())
	must(t, err)
	if got := h.get(unknown.ID).State; got != StateCancelled {
		t.Errorf("still %v after the grace", got)
	}
	if h.stock(sku) != 2 {
		t.Errorf("stock is %d", h.stock(sku))
	}
	h.balanced()
}

// TestOneStuckOrderStopsNobody: an order whose cancellation fails is put off; those behind it expire.
func TestOneStuckOrderStopsNobody(t *testing.T) {
	h := open(t)
	sku := h.sku(300)
	first := h.buy(sku, 1)
	for range 250 {
		h.buy(sku, 1)
	}
	h.orders.AddSource("stuck", stuck{})
	must(t, h.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE order_head SET source = 'stuck' WHERE id = ?", int64(first.ID))
		return err
	}))
	h.clock.Step(time.Hour)
	n, err := h.orders.ExpireDue(t.Context())
	if n != 250 || err != nil {
		t.Errorf("%d cancelled, %v", n, err)
	}
	if got := h.get(first.ID).State; got != StateCreated {
		t.Errorf("the stuck order is %v", got)
	}
	h.balanced()
}

type stuck struct{}

func (stuck) ReleaseTx(context.Context, *db.Tx, Order, string) error { return errors.New("stuck") }
func (stuck) SoldTx(context.Context, *db.Tx, Order) error            { return errors.New("stuck") }
func (stuck) ReviveTx(context.Context, *db.Tx, Order) (bool, error) {
	return false, errors.New("stuck")
}

// TestFailBetweenSteps fails every act between any two of its steps: nothing at all is left behind, and the same act goes
// through afterwards.
func TestFailBetweenSteps(t *testing.T) {
	h := open(t)
	sku := h.sku(100)
	inTx := func(fn func(ctx context.Context, tx *db.Tx, id levee.OrderID) error) func(levee.OrderID) error {
		return func(id levee.OrderID) error {
			return h.tx(func(ctx context.Context, tx *db.Tx) error { return fn(ctx, tx, id) })
		}
	}
	pay := func(id levee.OrderID) error { _, err := h.pay(id); return err }
	refunding := inTx(func(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
		return h.orders.RefundingTx(ctx, tx, id, operator, "back")
	})
	acts := map[string]struct {
		before []func(levee.OrderID) error
		do     func(levee.OrderID) error
	}{
		"pay":    {nil, pay},
		"cancel": {nil, func(id levee.OrderID) error { return h.orders.Cancel(t.Context(), id, buyer, "no") }},
		"revive": {[]func(levee.OrderID) error{func(id levee.OrderID) error { return h.orders.Cancel(t.Context(), id, levee.System, "expired") }}, pay},
		"ship":   {[]func(levee.OrderID) error{pay}, func(id levee.OrderID) error { return h.orders.Ship(t.Context(), id, operator, "SF", "1") }},
		"refunded": {[]func(levee.OrderID) error{pay, refunding},
			inTx(func(ctx context.Context, tx *db.Tx, id levee.OrderID) error { return h.orders.RefundedTx(ctx, tx, id) })},
		"buy": {nil, inTx(func(ctx context.Context, tx *db.Tx, _ levee.OrderID) error {
			_, err := h.orders.BuyTx(ctx, tx, buyer.User, []Want{{sku, 2}})
			return err
		})},
	}
	crash := errors.New("crash")
	total := 0
	for name, a := range acts {
		t.Run(name, func(t *testing.T) {
			for nth := 0; ; nth++ {
				h.orders.failAt = nil
				o := h.buy(sku, 1)
				for _, step := range a.before {
					must(t, step(o.ID))
				}
				before := h.dump()
				var points []string // by name, so that a function which is run again fails there again
				h.orders.failAt = func(point string) error {
					if !slices.Contains(points, point) {
						points = append(points, point)
					}
					if slices.Index(points, point) == nth {
						return crash
					}
					return nil
				}
				err := a.do(o.ID)
				h.orders.failAt = nil
				if err == nil {
					if nth == 0 {
						t.Error("there was no point to fail at")
					}
					break // past the last point
				}
				total++
				if !errors.Is(err, crash) {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, h.dump()); diff != "" {
					t.Errorf("failing at point %d left something behind:\n%s", nth+1, diff)
				}
				must(t, a.do(o.ID))
			}
		})
	}
	if total < 12 {
		t.Errorf("only %d points were tried", total)
	}
	h.balanced()
}

// dump is all that the room, the catalog's stock and the outbox hold.
func (h *house) dump() map[string][]string {
	h.t.Helper()
	all := map[string][]string{}
	for table, columns := range map[string]string{
		"order_head":       "id || ' ' || state || ' ' || version || ' ' || COALESCE(due_at, 'NULL')",
		"order_item":       "order_id || ' ' || line || ' ' || quantity",
		"order_history":    "order_id || ' ' || version || ' ' || from_state || ' ' || to_state",
		"catalog_sku":      "id || ' ' || on_hand",
		"catalog_movement": "id || ' ' || delta",
		"event_outbox":     "id || ' ' || name",
	} {
		must(h.t, each(h.t.Context(), h.DB.Query, func(rows *db.Rows) error {
			var text string
			err := rows.Scan(&text)
			all[table] = append(all[table], text)
			return err
		}, "SELECT "+columns+" FROM "+table+" ORDER BY 1"))
	}
	return all
}

func TestCreateManyTx(t *testing.T) {
	h := open(t)
	rec := &recorder{}
	h.orders.AddSource("rec", rec)
	now := h.clock.Now()
	batch := func(n int, base int64) []New {
		list := make([]New, n)
		for i := range list {
			list[i] = New{
				ID: levee.OrderID(base + int64(i)), Buyer: levee.UserID(500 + i%7), Source: "rec", SourceRef: base, CreatedAt: now, PayBy: now.Add(time.Minute),
				Lines: []Line{{SKU: levee.SKUID(i + 1), Product: 3, Title: fmt.Sprint("thing ", i%3), Quantity: int32(i%5 + 1), Price: levee.Money{Minor: int64(i % 11), Currency: "CNY"}}},
			}
			if i%4 == 0 {
				list[i].Lines = append(list[i].Lines, Line{SKU: 9, Product: 4, Title: "more", Quantity: 1, Price: levee.Money{Minor: 1, Currency: "CNY"}})
			}
		}
		return list
	}
	create := func(list []New) error {
		return h.tx(func(ctx context.Context, tx *db.Tx) error { return h.orders.CreateManyTx(ctx, tx, list) })
	}
	// The buffers are used again and again; no order may see another's values.
	for _, n := range []int{1, 2, 63, 64, 65, 200, 7, 130} {
		base := int64(n) * 1000
		list := batch(n, base)
		must(t, create(list))
		for _, o := range list {
			got := h.get(o.ID)
			var total int64
			for _, l := range o.Lines {
				total += l.Price.Minor * int64(l.Quantity)
			}
			want := Order{
				ID: o.ID, Buyer: o.Buyer, Source: "rec", SourceRef: base, State: StateCreated, Total: levee.Money{Minor: total, Currency: "CNY"},
				PayBy: o.PayBy, CreatedAt: now, UpdatedAt: now, Version: 1, Lines: o.Lines,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("batch of %d (-want +got):\n%s", n, diff)
			}
		}
	}
	must(t, h.Events.Drain(t.Context()))
	if h.heard.names["order.created.v1"] != 8 {
		t.Errorf("heard %v", h.heard.names)
	}
	must(t, create(nil))
	full := batch(4096, 10_000_000)
	must(t, create(full))
	must(t, h.Events.Drain(t.Context()))

	before := h.dump()
	for name, spoil := range map[string]func(o *New){
		"no id":          func(o *New) { o.ID = 0 },
		"no buyer":       func(o *New) { o.Buyer = 0 },
		"unknown source": func(o *New) { o.Source = "moon" },
		"no lines":       func(o *New) { o.Lines = nil },
		"no quantity":    func(o *New) { o.Lines[0].Quantity = 0 },
		"two currencies": func(o *New) {
			o.Lines = append(o.Lines, Line{Quantity: 1, Price: levee.Money{Minor: 1, Currency: "EUR"}})
		},
		"no currency":    func(o *New) { o.Lines[0].Price.Currency = "" },
		"negative price": func(o *New) { o.Lines[0].Price.Minor = -1 },
		"too much money": func(o *New) { o.Lines[0].Price.Minor, o.Lines[0].Quantity = 1<<62, 4 },
		"no time to pay": func(o *New) { o.PayBy = o.CreatedAt },
	} {
		list := batch(3, 99_000_000)
		spoil(&list[2])
		if err := create(list); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := create(batch(4097, 50_000_000)); levee.CodeOf(err) != levee.CodeTooLarge {
		t.Errorf("4,097 orders: %v", err)
	}
	twice := batch(2, 60_000_000)
	twice[1].ID = twice[0].ID
	if err := create(twice); !db.IsUnique(err) {
		t.Errorf("one id twice: %v", err)
	}
	if diff := cmp.Diff(before, h.dump()); diff != "" {
		t.Errorf("a refused batch left something behind:\n%s", diff)
	}
	must(t, create(batch(3, 70_000_000))) // the buffers are good after all of that
}

// recorder is a source that counts.
type recorder struct{ released, sold, revived, refunded atomic.Int64 }

func (r *recorder) ReleaseTx(_ context.Context, tx *db.Tx, _ Order, _ string) error {
	tx.AfterCommit(func() { r.released.Add(1) })
	return nil
}

func (r *recorder) SoldTx(_ context.Context, tx *db.Tx, _ Order) error {
	tx.AfterCommit(func() { r.sold.Add(1) })
	return nil
}

func (r *recorder) ReviveTx(_ context.Context, tx *db.Tx, _ Order) (bool, error) {
	tx.AfterCommit(func() { r.revived.Add(1) })
	return true, nil
}

func (r *recorder) RefundedTx(_ context.Context, tx *db.Tx, _ Order, _ bool) error {
	tx.AfterCommit(func() { r.refunded.Add(1) })
	return nil
}

// TestSourceHearsOnce: each call to a source happens once, for the winner.
func TestSourceHearsOnce(t *testing.T) {
	h := open(t)
	rec := &recorder{}
	h.orders.AddSource("rec", rec)
	now := h.clock.Now()
	must(t, h.tx(func(ctx context.Context, tx *db.Tx) error {
		return h.orders.CreateManyTx(ctx, tx, []New{{ID: 5, Buyer: buyer.User, Source: "rec", CreatedAt: now, PayBy: now.Add(time.Minute),
			Lines: []Line{{SKU: 1, Product: 1, Title: "x", Quantity: 1, Price: levee.Money{Minor: 1, Currency: "CNY"}}}}})
	}))
	var wg sync.WaitGroup
	twenty := func(fn func()) {
		for range 20 {
			wg.Go(fn)
		}
		wg.Wait()
	}
	ignore := func(err error) {
		if err != nil && levee.CodeOf(err) != levee.CodeConflict {
			t.Error(err)
		}
	}
	twenty(func() { ignore(h.orders.Cancel(t.Context(), 5, levee.System, "expired")) })
	twenty(func() { _, err := h.pay(5); ignore(err) })
	twenty(func() {
		ignore(h.tx(func(ctx context.Context, tx *db.Tx) error { return h.orders.RefundingTx(ctx, tx, 5, operator, "x") }))
	})
	twenty(func() {
		ignore(h.tx(func(ctx context.Context, tx *db.Tx) error { return h.orders.RefundedTx(ctx, tx, 5) }))
	})
	got := []int64{rec.released.Load(), rec.revived.Load(), rec.sold.Load(), rec.refunded.Load()}
	if diff := cmp.Diff([]int64{1, 1, 0, 1}, got); diff != "" {
		t.Errorf("released, revived, sold, refunded:\n%s", diff)
	}
	h.balanced()
}

func TestRefundReturnsUnshippedGoods(t *testing.T) {
	h := open(t)
	sku := h.sku(2)
	for i, shipped := range []bool{false, true} {
		o := h.buy(sku, 1)
		_, err := h.pay(o.ID)
		must(t, err)
		if shipped {
			must(t, h.orders.Ship(t.Context(), o.ID, operator, "SF", "1"))
		}
		must(t, h.tx(func(ctx context.Context, tx *db.Tx) error {
			if err := h.orders.RefundingTx(ctx, tx, o.ID, operator, "broken"); err != nil {
				return err
			}
			return h.orders.RefundedTx(ctx, tx, o.ID)
		}))
		if want := int64(2 - i); h.stock(sku) != want {
			t.Errorf("shipped %v: stock is %d, want %d", shipped, h.stock(sku), want)
		}
	}
	h.balanced()
}

func TestWhoMaySee(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1), 1)
	ctx := t.Context()
	for _, who := range []levee.Actor{other, {}, {User: 9}} {
		if _, err := h.orders.ByID(ctx, who, o.ID); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("%v reads it: %v", who, err)
		}
		if _, err := h.orders.Timeline(ctx, who, o.ID); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("%v reads its timeline: %v", who, err)
		}
		if err := h.orders.Cancel(ctx, o.ID, who, "ha"); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("%v cancels it: %v", who, err)
		}
		if _, _, err := h.listed(who, "buyer="+h.Sealer.Seal(levee.KindUser, int64(buyer.User))); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("%v lists it: %v", who, err)
		}
	}
	if _, _, err := h.listed(levee.Actor{}, ""); levee.CodeOf(err) != levee.CodeUnauthenticated {
		t.Errorf("a visitor lists: %v", err)
	}
	if list, _, err := h.listed(other, ""); len(list) != 0 || err != nil {
		t.Errorf("another's list: %v %v", list, err)
	}
	for _, who := range []levee.Actor{buyer, operator, levee.System} {
		if _, err := h.orders.ByID(ctx, who, o.ID); err != nil {
			t.Errorf("%v: %v", who, err)
		}
	}
	_, err := h.pay(o.ID)
	must(t, err)
	if err := h.orders.Ship(ctx, o.ID, buyer, "SF", "1"); levee.CodeOf(err) != levee.CodeForbidden {
		t.Errorf("a buyer ships: %v", err)
	}
	for _, bad := range []string{"", " ", "a\nb", string(make([]byte, 200))} {
		if err := h.orders.Ship(ctx, o.ID, operator, bad, "1"); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("carrier %q: %v", bad, err)
		}
	}
}

// listed reads one page, and the cursor of the next.
func (h *house) listed(who levee.Actor, question string) ([]Order, string, error) {
	q, err := h.orders.Ask(question)
	if err != nil {
		return nil, "", err
	}
	found, err := h.orders.List(h.t.Context(), who, q)
	if err != nil {
		return nil, "", err
	}
	return found.Rows, found.Next(q), nil
}

func TestListFiltersAndPages(t *testing.T) {
	h := open(t)
	sku := h.sku(100)
	var all []levee.OrderID
	for i := range 25 {
		h.clock.Step(time.Second)
		o := h.buy(sku, 1)
		all = append([]levee.OrderID{o.ID}, all...)
		if i%5 == 0 {
			_, err := h.pay(o.ID)
			must(t, err)
		}
	}
	ids := func(filters string, who levee.Actor) (got []levee.OrderID) {
		for cursor := ""; ; {
			list, next, err := h.listed(who, filters+cursor)
			must(t, err)
			for _, o := range list {
				if len(o.Lines) != 1 || o.Lines[0].Price.Currency != "CNY" {
					t.Errorf("lines %+v", o.Lines)
				}
				got = append(got, o.ID)
			}
			if next == "" {
				return got
			}
			cursor = "&cursor=" + next
		}
	}
	for _, who := range []levee.Actor{buyer, operator} {
		if diff := cmp.Diff(all, ids("limit=7", who)); diff != "" {
			t.Errorf("all:\n%s", diff)
		}
	}
	if got := ids("state=paid&limit=2", operator); len(got) != 5 {
		t.Errorf("%d paid", len(got))
	}
	from := h.get(all[9]).CreatedAt
	to := h.get(all[4]).CreatedAt
	if diff := cmp.Diff(all[5:10], ids("created_at__gte="+from.Format(time.RFC3339Nano)+"&created_at__lt="+to.Format(time.RFC3339Nano), operator)); diff != "" {
		t.Errorf("between two times:\n%s", diff)
	}
	if got := ids("source=sale", operator); got != nil {
		t.Errorf("orders of sales: %v", got)
	}
	if got := ids("sale="+h.Sealer.Seal(levee.KindSale, 5), operator); got != nil {
		t.Errorf("orders of sale 5: %v", got)
	}
}

// TestExpiryUsesItsIndex: the scan that runs every second must not grow with the orders that are over.
func TestExpiryUsesItsIndex(t *testing.T) {
	h := open(t)
	const scan = "SELECT id, due_at, postponed FROM order_head WHERE due_at <= ? ORDER BY due_at LIMIT ?"
	plan := ""
	if h.DB.Dialect().Name() == "mysql" {
		var kind, key db.NullString
		var drop any
		must(t, h.DB.QueryRow(t.Context(), "EXPLAIN "+scan, 1, 1).Scan(&drop, &drop, &drop, &kind, &drop, &key, &drop, &drop, &drop, &drop))
		if kind.String != "range" || key.String != "order_head_due" {
			t.Errorf("plan: %s by %s", kind.String, key.String)
		}
		return
	}
	must(t, each(t.Context(), h.DB.Query, func(rows *db.Rows) error {
		var id, parent, unused int64
		var detail string
		err := rows.Scan(&id, &parent, &unused, &detail)
		plan += detail + "\n"
		return err
	}, "EXPLAIN QUERY PLAN "+scan, 1, 1))
	if plan != "SEARCH order_head USING INDEX order_head_due (due_at<?)\n" {
		t.Errorf("plan:\n%s", plan)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{PayWithin: time.Second}, {PayWithin: 8 * 24 * time.Hour}, {Grace: 8 * 24 * time.Hour}, {PayWithin: -1}} {
		if _, err := c.normal(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if c, err := (Config{Grace: -1}).normal(); err != nil || c.Grace != 0 {
		t.Errorf("%+v %v", c, err)
	}
}

// TestListsUseIndexes: no page of a list that grows makes the engine sort what it chooses from.
func TestListsUseIndexes(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(10), 1)
	read, sorting := platformtest.Explaining(t, h.DB)
	for _, question := range []string{"", "sort=id", "state=created&source=shop", "buyer=" + h.Sealer.Seal(levee.KindUser, int64(o.Buyer)), "id=" + h.Sealer.Seal(levee.KindOrder, int64(o.ID))} {
		q, err := h.orders.Ask(question)
		must(t, err)
		found, err := listOrders(t.Context(), read, q)
		if must(t, err); len(found.Rows) != 1 {
			t.Errorf("%s: %d orders", question, len(found.Rows))
		}
	}
	if plans := sorting(); plans != "" {
		t.Error(plans)
	}
}
