package sale

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/books"
	"levee/internal/catalog"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/tally"
)

// shop is a whole small house for the engine: catalog, orders and sales on a real database, on a clock that a test moves.
type shop struct {
	*platformtest.Platform
	catalog   *catalog.Service
	orders    *order.Service
	admission *admission.Service
	sales     *Service
	sku       levee.SKUID
	clock     *testClock
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

func newShop(t testing.TB, c Config) *shop {
	t.Helper()
	return openShop(t, t.TempDir(), c)
}

// openShop starts a house in a folder; a second call on the same folder is a process that starts again.
func openShop(t testing.TB, dir string, c Config) *shop {
	t.Helper()
	s := &shop{Platform: platformtest.Open(t, dir, catalog.Schema(), order.Schema(), Schema()), clock: &testClock{now: time.Now()}}
	s.join(t, c)
	return s
}

// join builds the rooms anew over the same platform, as after a restart.
func (s *shop) join(t testing.TB, c Config) {
	t.Helper()
	var err error
	s.Obs = obs.Test(t) // metrics of the process before are gone with it
	s.Obs.Clock = s.clock.Now
	s.catalog = catalog.New(catalog.Deps{DB: s.DB, IDs: s.IDs, Sealer: s.Sealer, Obs: s.Obs, Events: s.Events})
	s.orders, err = order.Open(order.Deps{DB: s.DB, IDs: s.IDs, Sealer: s.Sealer, Obs: s.Obs, Events: s.Events, Jobs: s.Jobs, Catalog: s.catalog})
	if err != nil {
		t.Fatal(err)
	}
	s.admission, err = admission.New(admission.Deps{IDs: s.IDs, Sealer: s.Sealer, Obs: s.Obs, Push: s.Push, Key: platformtest.Key(2)})
	if err != nil {
		t.Fatal(err)
	}
	s.sales, err = New(Deps{DB: s.DB, IDs: s.IDs, Sealer: s.Sealer, Obs: s.Obs, Events: s.Events, Push: s.Push, Catalog: s.catalog,
		Orders: s.orders, Admission: s.admission,
		Tally: tally.New(tally.Deps{Obs: s.Obs, Push: s.Push, Node: "test"}), Config: c})
	if err != nil {
		t.Fatal(err)
	}
}

// run starts the engine's loop until the test ends.
func (s *shop) run(t testing.TB) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.sales.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// stock makes a product of one SKU with units on hand.
func (s *shop) stock(t testing.TB, units int64) {
	t.Helper()
	p, err := s.catalog.Create(t.Context(), catalog.NewProduct{Title: "Lamp", SKUs: []catalog.NewSKU{{Code: "LAMP-1", Name: "Lamp",
		Price: levee.Money{Minor: 9900, Currency: "CNY"}, OnHand: units}}})
	if err != nil {
		t.Fatal(err)
	}
	s.sku = p.SKUs[0].ID
}

// open schedules a sale that is open now.
func (s *shop) open(t testing.TB, units int64, perBuyer int32, change ...func(*Terms)) *live {
	t.Helper()
	if s.sku == 0 {
		s.stock(t, 1_000_000)
	}
	terms := Terms{Title: "Lamp sale", SKU: s.sku, Price: levee.Money{Minor: 4900, Currency: "CNY"}, Units: units, PerBuyer: perBuyer,
		StartsAt: s.clock.Now().Add(-time.Second), EndsAt: s.clock.Now().Add(time.Hour)}
	for _, c := range change {
		c(&terms)
	}
	var v *Sale
	err := s.DB.Tx(t.Context(), "test.open", func(ctx context.Context, tx *db.Tx) (err error) {
		if v, err = s.sales.CreateTx(ctx, tx, terms, operator); err != nil {
			return err
		}
		v, err = s.sales.DoTx(ctx, tx, v.ID, Command{Act: "schedule", Reason: "test"}, operator)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.sales.liveByID(v.ID)
}

func buyer(n int) levee.Actor {
	return levee.Actor{User: levee.UserID(1_000_000 + n), Roles: levee.RoleCustomer}
}

func (s *shop) buy(l *live, n int, quantity int32, key string) (Ticket, error) {
	return s.sales.Buy(context.Background(), l, Wish{Buyer: buyer(n), Quantity: quantity, Key: key})
}

// proved fails the test unless every book of the sale balances and the gate counts what SQL counts.
func (s *shop) proved(t testing.TB, l *live) *Account {
	t.Helper()
	a, err := s.sales.Prove(t.Context(), l.view.Load().ID)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Balanced() {
		t.Fatalf("the books do not balance: %v\nstock %+v ledger %v reservations %v", a.Problems, a.Stock, a.Ledger, a.Reservations)
	}
	if !a.GateAgrees() {
		t.Fatalf("the gate differs from SQL: gate %+v, stock %+v", a.Gate, a.Stock)
	}
	return a
}

// ordersOf counts the orders of a sale by state.
func (s *shop) ordersOf(t testing.TB, l *live) map[order.State]int {
	t.Helper()
	rows, err := s.DB.Query(t.Context(), "SELECT state, COUNT(*) FROM order_head WHERE source_ref=? GROUP BY state", int64(l.view.Load().ID))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	counts := map[order.State]int{}
	for rows.Next() {
		var st order.State
		var n int
		if err := rows.Scan(&st, &n); err != nil {
			t.Fatal(err)
		}
		counts[st] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return counts
}

// numbersOf, heldIn and pendingIn ask a gate that must answer.
func numbersOf(g *gate.Gate) gate.Numbers {
	n, err := g.Numbers(context.Background())
	if err != nil {
		panic(err)
	}
	return n
}

func heldIn(g *gate.Gate, who levee.UserID) (int32, bool) {
	held, known, err := g.Held(context.Background(), who)
	if err != nil {
		panic(err)
	}
	return held, known
}

func pendingIn(g *gate.Gate) []gate.Attempt {
	list, err := g.Pending(context.Background())
	if err != nil {
		panic(err)
	}
	return list
}

var drifts atomic.Int64

// drift makes a gate wrong: it follows a movement that is in no ledger.
func drift(g *gate.Gate, units int64, who levee.UserID, held int32) {
	m := gate.Movement{Seq: numbersOf(g).Applied + 30_000 + drifts.Add(1)%30_000, Free: units}
	if held != 0 {
		m.Holdings = []gate.Change{{Buyer: who, Units: held}}
	}
	if err := g.Apply(context.Background(), m); err != nil && levee.CodeOf(err) != levee.CodeNotWarmed {
		panic(err)
	}
}

// looseMove changes a sale's stock without its conditions, and numbers the movement as the engine does.
func looseMove(ctx context.Context, tx *db.Tx, s *Service, set, where string, args []any, m movement) (gate.Movement, error) {
	r, err := tx.Exec(ctx, "UPDATE sale_stock SET "+set+", seq=seq+1 WHERE "+where, args...)
	if err != nil {
		return gate.Movement{}, err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return gate.Movement{}, errors.Join(errStockMoved, err)
	}
	st, err := s.stockTx(ctx, tx, m.sale)
	if err != nil {
		return gate.Movement{}, err
	}
	return gate.Movement{Seq: st.Seq, Free: books.Change(m.kind, m.units).Remaining}, s.ledgerTx(ctx, tx, st.Seq, m)
}
