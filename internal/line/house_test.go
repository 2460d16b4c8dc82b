package line

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/platformtest"
	"levee/internal/sale"
)

// house is the rooms that a line lives on, on a real database and on a clock that a test moves.
type house struct {
	*platformtest.Platform
	clock   *testClock
	catalog *catalog.Service
	orders  *order.Service
	sales   *sale.Service
	lines   *Service
	sku     levee.SKUID
	stop    func()
	// Of one node among several; else nil.
	gates func(levee.SaleID, int) *gate.Gate
	bell  func(string, func()) func()
}

type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var operator = levee.Actor{User: 77, Roles: levee.RoleOperator}

func buyer(n int) levee.Actor {
	return levee.Actor{User: levee.UserID(1_000_000 + n), Roles: levee.RoleCustomer}
}

func newHouse(t testing.TB) *house {
	t.Helper()
	return openHouse(t, t.TempDir(), time.Now())
}

func houseSchemas() []db.Schema {
	return []db.Schema{catalog.Schema(), order.Schema(), sale.Schema(), Schema()}
}

// withParts puts the schemas of the parts before those of the rooms.
func withParts() []db.Schema {
	return append([]db.Schema{event.Schema(), job.Schema(), once.Schema()}, houseSchemas()...)
}

// openHouse starts a house in a folder that may hold another's data.
func openHouse(t testing.TB, dir string, now time.Time) *house {
	t.Helper()
	h := &house{Platform: platformtest.Open(t, dir, houseSchemas()...), clock: &testClock{now: now}, stop: func() {}}
	h.start(t)
	t.Cleanup(func() { h.stop() })
	return h
}

// start builds the rooms anew over the same database, as after a restart, and sells.
func (h *house) start(t testing.TB) {
	t.Helper()
	h.stop()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Obs = obs.Test(t)
	h.Obs.Clock = h.clock.Now
	h.Events, h.Jobs = event.Open(h.DB, h.IDs, h.Obs), job.Open(h.DB, h.IDs, h.Obs)
	h.catalog = catalog.New(catalog.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Events: h.Events})
	var err error
	h.orders, err = order.Open(order.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Events: h.Events, Jobs: h.Jobs, Catalog: h.catalog})
	must(err)
	door, err := admission.New(admission.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Push: h.Push, Limits: h.Limits, Key: platformtest.Key(2)})
	must(err)
	h.sales, err = sale.New(sale.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Events: h.Events, Push: h.Push, Catalog: h.catalog,
		Orders: h.orders, Admission: door, Gates: h.gates})
	must(err)
	h.lines, err = New(Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Events: h.Events, Jobs: h.Jobs, Push: h.Push, Sales: h.sales, Key: platformtest.Key(3),
		Bell: h.bell})
	must(err)
	must(h.Events.Register(h.lines.Listeners()...))
	must(h.Jobs.Register(h.lines.Jobs()...))
	must(h.sales.Warm(t.Context()))
	must(h.lines.Warm(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	sales := h.sales
	go func() { done <- sales.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		must(<-done)
	})
}

// settled waits until every event is delivered and every job is done.
func (h *house) settled(t testing.TB) {
	t.Helper()
	h.clock.Step(time.Millisecond) // a job is due a microsecond later
	if err := errors.Join(h.Events.Drain(t.Context()), h.Jobs.Drain(t.Context()), h.Events.Drain(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// open schedules a sale that is open now.
func (h *house) open(t testing.TB, units int64, perBuyer int32, change ...func(*sale.Terms)) *sale.Sale {
	t.Helper()
	if h.sku == 0 {
		p, err := h.catalog.Create(t.Context(), catalog.NewProduct{Title: "Lamp", SKUs: []catalog.NewSKU{{Code: "LAMP-1", Name: "Lamp",
			Price: levee.Money{Minor: 9900, Currency: "CNY"}, OnHand: 1_000_000}}})
		if err != nil {
			t.Fatal(err)
		}
		h.sku = p.SKUs[0].ID
	}
	terms := sale.Terms{Title: "Lamp sale", SKU: h.sku, Price: levee.Money{Minor: 4900, Currency: "CNY"}, Units: units, PerBuyer: perBuyer,
		StartsAt: h.clock.Now().Add(-time.Second), EndsAt: h.clock.Now().Add(10 * time.Hour), PayWithin: 30 * time.Minute, WaitingList: true}
	for _, c := range change {
		c(&terms)
	}
	v, err := h.sales.Open(t.Context(), terms, operator)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func draws(h *house, in time.Duration) func(*sale.Terms) {
	return func(t *sale.Terms) { t.Mode, t.DrawAt = sale.ModeDraw, h.clock.Now().Add(in) }
}

func (h *house) join(v *sale.Sale, n int, quantity int32) (e Entry, err error) {
	err = h.DB.Tx(context.Background(), "test.join", func(ctx context.Context, tx *db.Tx) error {
		e, err = h.lines.JoinTx(ctx, tx, v.ID, buyer(n), quantity)
		return err
	})
	return e, err
}

// joins is join that must succeed.
func (h *house) joins(t testing.TB, v *sale.Sale, n int, quantity int32) Entry {
	t.Helper()
	e, err := h.join(v, n, quantity)
	if err != nil {
		t.Fatalf("buyer %d cannot join: %v", n, err)
	}
	return e
}

func (h *house) mine(t testing.TB, v *sale.Sale, n int) Entry {
	t.Helper()
	e, err := h.lines.Mine(t.Context(), v.ID, buyer(n).User)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// is fails unless the buyer's entry is in the state.
func (h *house) is(t testing.TB, v *sale.Sale, n int, want State) Entry {
	t.Helper()
	e := h.mine(t, v, n)
	if e.State != want {
		t.Fatalf("the entry of buyer %d is %s, want %s", n, e.State, want)
	}
	return e
}

func (h *house) buys(t testing.TB, v *sale.Sale, n int, quantity int32, key string) {
	t.Helper()
	if err := h.sales.BuyFor(t.Context(), v.ID, buyer(n), quantity, key); err != nil {
		t.Fatalf("buyer %d cannot buy: %v", n, err)
	}
}

func (h *house) act(t testing.TB, v *sale.Sale, act string, units int64) {
	t.Helper()
	if _, err := h.sales.Do(t.Context(), v.ID, sale.Command{Act: act, Units: units, Reason: "test"}, operator); err != nil {
		t.Fatalf("%s: %v", act, err)
	}
}

func (h *house) pay(t testing.TB, o levee.OrderID) order.Outcome {
	t.Helper()
	var outcome order.Outcome
	err := h.DB.Tx(t.Context(), "test.pay", func(ctx context.Context, tx *db.Tx) (err error) {
		outcome, err = h.orders.MarkPaidTx(ctx, tx, o, order.PaidBy{Payment: levee.PaymentID(o), At: h.clock.Now()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

func (h *house) cancel(t testing.TB, o levee.OrderID, who levee.Actor) {
	t.Helper()
	if err := h.orders.Cancel(t.Context(), o, who, "test"); err != nil {
		t.Fatal(err)
	}
}

// listOrders reads up to a hundred orders.
func listOrders(orders *order.Service, question string) ([]order.Order, error) {
	q, err := orders.Ask(question + "&limit=100")
	if err != nil {
		return nil, err
	}
	found, err := orders.List(context.Background(), operator, q)
	if err != nil {
		return nil, err
	}
	return found.Rows, nil
}

// ordersOf lists a buyer's orders in a state.
func (h *house) ordersOf(t testing.TB, n int, state order.State) (list []levee.OrderID) {
	t.Helper()
	orders, err := listOrders(h.orders, "state="+state.String()+"&buyer="+h.Sealer.Seal(levee.KindUser, int64(buyer(n).User)))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range orders {
		list = append(list, o.ID)
	}
	return list
}

// holds checks every promise of the room and the books of the sale.
func (h *house) holds(t testing.TB, v *sale.Sale) {
	t.Helper()
	all, waiting, offered, entered := h.holdsBooks(t, v)
	if p := h.lines.book.of(v.ID); p != nil && p.inOrder {
		if c := p.counts(); c != (counts{waiting, offered, entered}) {
			t.Fatalf("memory counts %+v, SQL %d waiting, %d offered, %d entered", c, waiting, offered, entered)
		}
		before := int64(0)
		for _, e := range all {
			if e.State != StateWaiting {
				continue
			}
			if ahead, _ := p.ahead(e.Place); ahead != before { // all is sorted by place where there is no reservation
				t.Fatalf("%d wait before place %d, memory says %d", before, e.Place, ahead)
			}
			before++
		}
	}
}

// holdsBooks checks what is in SQL, and tells what is.
func (h *house) holdsBooks(t testing.TB, v *sale.Sale) (all []Entry, waiting, offered, entered int64) {
	t.Helper()
	a, err := h.sales.Prove(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Balanced() || !a.GateAgrees() {
		t.Fatalf("the books do not balance: %v; stock %+v, gate %+v", a.Problems, a.Stock, a.Gate)
	}
	all, err = entries(t.Context(), h.DB, "sale_id=? ORDER BY reservation_id, place", v.ID)
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	alive, orders := map[levee.UserID]bool{}, map[levee.ReservationID]bool{}
	for _, e := range all {
		if e.State.alive() {
			if alive[e.Buyer] {
				t.Fatalf("buyer %d stands in the line twice", e.Buyer)
			}
			alive[e.Buyer] = true
		}
		switch e.State {
		case StateLost:
			if e.Reason != ReasonLimit {
				t.Fatalf("an entry was lost because of %q", e.Reason)
			}
		case StateWaiting:
			waiting++
		case StateOffered:
			offered++
		case StateEntered:
			entered++
		}
		if (e.Reservation != 0) != (e.State == StateOffered || e.State == StateOrdered || e.State == StateLapsed) {
			t.Fatalf("an entry is %s with the reservation %d", e.State, e.Reservation)
		}
		if e.Reservation == 0 {
			continue
		}
		// Reservations are numbered in the order in which they were made.
		if e.Place <= last {
			t.Fatalf("the entry at place %d was offered units after the one at place %d", e.Place, last)
		}
		last = e.Place
		if orders[e.Reservation] {
			t.Fatalf("two entries share the reservation %d", e.Reservation)
		}
		orders[e.Reservation] = true
		if e.Given < 1 || e.Given > e.want || e.want > e.Quantity {
			t.Fatalf("an entry asked for %d, was to get %d and got %d", e.Quantity, e.want, e.Given)
		}
	}
	for _, e := range all { // whoever still waits comes behind everybody who was offered units
		if e.State == StateWaiting && e.Place < last {
			t.Fatalf("the entry at place %d waits although the one at place %d was offered units", e.Place, last)
		}
	}
	now := h.clock.Now()
	cur := a.Sale // as SQL has it: this node may not have seen yet what another one changed
	if waiting > 0 && a.Stock.Remaining > 0 && gives(cur, now) && (cur.Mode != sale.ModeDraw || !now.Before(cur.DrawAt)) {
		t.Fatalf("%d units are free while %d wait and the sale is open", a.Stock.Remaining, waiting)
	}
	return all, waiting, offered, entered
}

func wantCode(t testing.TB, err error, want levee.Code) {
	t.Helper()
	if levee.CodeOf(err) != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// TestListsUseIndexes: no page of a list that grows makes the engine sort what it chooses from.
func TestListsUseIndexes(t *testing.T) {
	h := newHouse(t)
	read, sorting := platformtest.Explaining(t, h.DB)
	for _, question := range []string{"", "sort=id", "status=waiting", "buyer=" + h.Sealer.Seal(levee.KindUser, 7)} {
		q, err := h.lines.entries.Ask(question)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readLine(t.Context(), read, 1, q); err != nil {
			t.Fatal(err)
		}
	}
	if plans := sorting(); plans != "" {
		t.Error(plans)
	}
}
