package sale

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/platformtest"
)

func code(err error) levee.Code { return levee.CodeOf(err) }

func wantCode(t *testing.T, err error, want levee.Code) {
	t.Helper()
	if code(err) != want {
		t.Fatalf("got %v, want the code %q", err, want)
	}
}

// The promise of the product in its smallest form: far more buyers than units, everyone clicks twice with one key.
func TestCrowdBuysExactlyTheStock(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 50, 1)
	var won, soldOut, repeated, running atomic.Int64
	var wg sync.WaitGroup
	for n := range 400 {
		for range 2 {
			wg.Go(func() {
				ticket, err := s.buy(l, n, 1, "click")
				switch {
				case err == nil && ticket.Repeated:
					repeated.Add(1)
				case err == nil:
					won.Add(1)
				case code(err) == levee.CodeSoldOut:
					soldOut.Add(1)
				case code(err) == levee.CodeIdempotencyRunning:
					running.Add(1)
				default:
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	a := s.proved(t, l)
	if won.Load() != 50 || a.Stock.Reserved != 50 || a.Stock.Remaining != 0 {
		t.Fatalf("won %d (repeated %d, running %d, sold out %d), stock %+v; want 50", won.Load(), repeated.Load(), running.Load(), soldOut.Load(), a.Stock)
	}
	if n := s.ordersOf(t, l)[order.StateCreated]; n != 50 {
		t.Fatalf("%d orders, want 50", n)
	}
}

func TestRandomQuantitiesNeverOversellNorExceedTheLimit(t *testing.T) {
	s := newShop(t, Config{BatchMax: 7})
	s.run(t)
	l := s.open(t, 333, 5)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 60 {
				_, err := s.buy(l, r.IntN(90), int32(1+r.IntN(4)), fmt.Sprint("k", w, "-", i))
				switch code(err) {
				case "", levee.CodeSoldOut, levee.CodeLimitReached:
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	a := s.proved(t, l)
	if a.Stock.Reserved+a.Stock.Remaining != 333 || a.Stock.Remaining > 4 {
		t.Fatalf("stock %+v; want nearly all of 333 reserved", a.Stock)
	}
}

func TestSameKey(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 10, 3)
	first, err := s.buy(l, 1, 2, "a")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.buy(l, 1, 2, "a")
	if err != nil || !again.Repeated || again.Reservation != first.Reservation {
		t.Fatalf("the same key gave %+v, %v; want the first answer %d again", again, err, first.Reservation)
	}
	_, err = s.buy(l, 1, 1, "a")
	wantCode(t, err, levee.CodeIdempotencyMismatch)
	_, err = s.buy(l, 1, 2, "b")
	wantCode(t, err, levee.CodeLimitReached)
	var e *levee.Error
	if !errors.As(err, &e) || len(e.Data["orders"].([]string)) != 1 {
		t.Fatalf("the refusal must lead the buyer to what he holds, got %+v", e)
	}
	if second, err := s.buy(l, 1, 1, "c"); err != nil || second.Repeated {
		t.Fatalf("within the limit another purchase must work, got %+v, %v", second, err)
	}
	s.proved(t, l)
}

// A repeat may look for its key's answer just before the first request is settled, and ask the gate again just after: then neither
// has seen it, and the limit or the stock that the first request used up must not be told to the repeat.
func TestARepeatThatOverlapsItsFirstRequest(t *testing.T) {
	for name, terms := range map[string]struct {
		units    int64
		perBuyer int32
	}{"the limit": {10, 3}, "the stock": {3, 10}} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, Config{})
			s.run(t)
			l := s.open(t, terms.units, terms.perBuyer)
			if _, err := s.buy(l, 1, 1, "before"); err != nil { // so that the gate knows him
				t.Fatal(err)
			}
			var first Ticket
			s.sales.fault = func(step string) error {
				if step == "buy.known" {
					s.sales.fault = nil
					var err error
					if first, err = s.buy(l, 1, 2, "key"); err != nil {
						t.Error(err)
					}
				}
				return nil
			}
			again, err := s.buy(l, 1, 2, "key")
			if err != nil || again.Reservation != first.Reservation || !again.Repeated {
				t.Errorf("the first request got %+v, its repeat %+v, %v", first, again, err)
			}
		})
	}
}

func TestWindowAndTerms(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 10, 1, func(terms *Terms) {
		terms.StartsAt = s.clock.Now().Add(time.Minute)
		terms.EndsAt = s.clock.Now().Add(time.Hour)
	})
	_, err := s.buy(l, 1, 1, "a")
	wantCode(t, err, levee.CodeNotOpen)
	s.clock.Step(time.Minute)
	if _, err := s.buy(l, 1, 1, "a"); err != nil {
		t.Fatal(err)
	}
	_, err = s.buy(l, 2, 0, "a")
	wantCode(t, err, levee.CodeInvalid)
	_, err = s.buy(l, 2, -1, "a")
	wantCode(t, err, levee.CodeInvalid)
	_, err = s.buy(l, 2, 1<<30, "a")
	wantCode(t, err, levee.CodeInvalid)
	_, err = s.sales.Buy(t.Context(), l, Wish{Quantity: 1, Key: "a"})
	wantCode(t, err, levee.CodeUnauthenticated)
	_, err = s.sales.Buy(t.Context(), l, Wish{Buyer: levee.Actor{User: 5, Rehearsal: true}, Quantity: 1, Key: "a"})
	wantCode(t, err, levee.CodeForbidden)
	s.clock.Step(time.Hour)
	_, err = s.buy(l, 3, 1, "a")
	wantCode(t, err, levee.CodeEnded)
	if again, err := s.buy(l, 1, 1, "a"); err != nil || !again.Repeated {
		t.Fatalf("a retry after the end must get its first answer, got %+v, %v", again, err)
	}
}

func TestOperatorsActs(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 2, 1)
	do := func(act string, units int64) *Sale {
		t.Helper()
		v, err := s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: act, Units: units, Reason: "because"}, operator)
		if err != nil {
			t.Fatalf("%s: %v", act, err)
		}
		return v
	}
	buyOK := func(n int) {
		t.Helper()
		if _, err := s.buy(l, n, 1, "k"); err != nil {
			t.Fatal(err)
		}
	}
	buyRefused := func(n int, want levee.Code) {
		t.Helper()
		_, err := s.buy(l, n, 1, "k")
		wantCode(t, err, want)
	}
	buyOK(1)
	do("pause", 0)
	buyRefused(2, levee.CodePaused)
	do("resume", 0)
	buyOK(2)
	buyRefused(3, levee.CodeSoldOut)
	do("top_up", 3)
	buyOK(3)
	do("withdraw", 1)
	buyOK(4)
	buyRefused(5, levee.CodeSoldOut)
	do("top_up", 1)
	do("force_sold_out", 0)
	buyRefused(5, levee.CodeSoldOut)
	do("resume", 0)
	buyOK(5)
	do("top_up", 5)
	do("stop", 0)
	buyRefused(6, levee.CodePaused)
	if _, err := s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: "withdraw", Units: 99, Reason: "x"}, operator); code(err) != levee.CodeOutOfStock {
		t.Fatalf("withdrawing more than is free: %v", err)
	}
	onHand, _ := s.catalog.OnHand(t.Context(), s.sku)
	do("end", 0)
	buyRefused(6, levee.CodeEnded)
	left, err := s.catalog.OnHand(t.Context(), s.sku)
	if err != nil || left != onHand+5 {
		t.Fatalf("%d on hand after the end, want the 5 free units back on top of %d (%v)", left, onHand, err)
	}
	a := s.proved(t, l)
	if a.Stock.Seq = 0; a.Stock != (Stock{Offered: 11, Reserved: 5, Withdrawn: 6}) {
		t.Fatalf("stock %+v", a.Stock)
	}
	acts, err := s.sales.actsOf(l.view.Load().ID, "limit=100")
	if err != nil || len(acts) != 12 {
		t.Fatalf("%d acts are kept, want 12 (%v)", len(acts), err)
	}
	for _, act := range acts[:11] {
		if act.Actor != operator.User || act.Reason == "" {
			t.Fatalf("an act without who or why: %+v", act)
		}
	}
	_, err = s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: "pause"}, operator)
	wantCode(t, err, levee.CodeInvalid)
	_, err = s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: "explode", Reason: "x"}, operator)
	wantCode(t, err, levee.CodeInvalid)
}

func TestReleaseReopensASoldOutSale(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 1, 1)
	ticket, err := s.buy(l, 1, 1, "k")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.buy(l, 2, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)
	if l.sw.Refusal() != refusalSoldOut {
		t.Fatal("the switch is not shut after a refusal for lack of stock")
	}
	wantCode(t, s.sales.GiveUp(t.Context(), ticket.Reservation, buyer(2)), levee.CodeNotFound)
	if err := s.sales.GiveUp(t.Context(), ticket.Reservation, buyer(1)); err != nil {
		t.Fatal(err)
	}
	if l.sw.Refusal() != nil {
		t.Fatal("the switch stayed shut though a unit came back")
	}
	if _, err := s.buy(l, 2, 1, "k"); err != nil {
		t.Fatal(err)
	}
	// The epoch: a refusal decided before the unit came back must not shut the sale again.
	s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: "top_up", Units: 1, Reason: "x"}, operator)
	l.sw.SoldOut(0)
	if l.sw.Refusal() != nil {
		t.Fatal("a late 'sold out' shut a sale that has stock")
	}
	if _, err := s.buy(l, 3, 1, "k"); err != nil {
		t.Fatal(err)
	}
	if err := s.sales.Void(t.Context(), ticket.Reservation, operator, "twice"); code(err) != levee.CodeConflict {
		t.Fatalf("voiding a released reservation: %v", err)
	}
	s.proved(t, l)
}

func TestLateMoney(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	var l *live
	pay := func(id levee.ReservationID) (out order.Outcome) {
		t.Helper()
		err := s.DB.Tx(t.Context(), "pay", func(ctx context.Context, tx *db.Tx) (err error) {
			out, err = s.orders.MarkPaidTx(ctx, tx, levee.OrderID(id), order.PaidBy{Payment: 1, At: s.clock.Now()})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	expire := func() {
		t.Helper()
		s.clock.Step(time.Minute)
		if n, err := s.orders.ExpireDue(t.Context()); err != nil || n != 1 {
			t.Fatalf("%d orders expired, want 1 (%v)", n, err)
		}
	}
	soon := func(terms *Terms) { terms.PayWithin = 30 * time.Second }
	l = s.open(t, 1, 1, soon)
	first, _ := s.buy(l, 1, 1, "k")
	expire()
	if out := pay(first.Reservation); out != order.OutcomeRevived {
		t.Fatalf("late money with a free unit: %v, want it revived", out)
	}
	if a := s.proved(t, l); a.Stock.Sold != 1 || a.Gate.Remaining != 0 {
		t.Fatalf("after a revival: %+v", a)
	}
	_, err := s.buy(l, 2, 1, "k")
	wantCode(t, err, levee.CodeSoldOut)

	l2 := s.open(t, 1, 1, soon)
	second, _ := s.buy(l2, 1, 1, "k")
	expire()
	if _, err := s.buy(l2, 2, 1, "k"); err != nil {
		t.Fatal(err)
	}
	if out := pay(second.Reservation); out != order.OutcomeTooLate {
		t.Fatalf("late money for a unit that is gone: %v, want it refunded", out)
	}
	s.proved(t, l2)
}

// A refund before shipping gives the units back to the sale, once; after shipping they stay sold.
func TestRefundReturnsUnits(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 2, 1)
	refund := func(n int, shipped bool) {
		t.Helper()
		ticket, err := s.buy(l, n, 1, "k")
		if err != nil {
			t.Fatal(err)
		}
		err = s.DB.Tx(t.Context(), "refund", func(ctx context.Context, tx *db.Tx) error {
			_, err := s.orders.MarkPaidTx(ctx, tx, ticket.Order(), order.PaidBy{Payment: levee.PaymentID(n), At: s.clock.Now()})
			if err == nil && shipped {
				err = s.orders.ShipTx(ctx, tx, ticket.Order(), operator, "post", "1")
			}
			if err == nil {
				err = s.orders.RefundingTx(ctx, tx, ticket.Order(), operator, "sorry")
			}
			if err == nil {
				err = s.orders.RefundedTx(ctx, tx, ticket.Order())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	refund(1, false)
	if a := s.proved(t, l); a.Stock.Remaining != 2 || a.Ledger[books.Returned] != 1 {
		t.Fatalf("after a refund before shipping: %+v", a)
	}
	refund(2, true)
	if a := s.proved(t, l); a.Stock.Remaining != 1 || a.Stock.Sold != 1 {
		t.Fatalf("after a refund behind shipping: %+v", a)
	}
}

// A process that starts again knows every buyer, every unit and every key.
func TestRestartLoadsTheGate(t *testing.T) {
	s := newShop(t, Config{})
	l := s.open(t, 100, 2)
	func() {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { s.sales.Run(ctx); close(done) }()
		for n := range 60 {
			if _, err := s.buy(l, n, 1, "k"); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		<-done
	}()
	id := l.view.Load().ID
	s.join(t, Config{})
	if _, err := s.sales.liveFor(t.Context(), l.public); err != nil {
		t.Fatal(err)
	}
	cold := s.sales.liveByID(id)
	_, err := s.buy(cold, 99, 1, "k")
	wantCode(t, err, levee.CodeNotWarmed)
	if err := s.sales.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	again, err := s.buy(cold, 7, 1, "k")
	if err != nil || !again.Repeated {
		t.Fatalf("after the restart the same key gave %+v, %v", again, err)
	}
	for n := range 60 {
		if _, err := s.buy(cold, n, 1, "k2"); n < 40 && err != nil || n >= 40 && code(err) != levee.CodeSoldOut {
			t.Fatalf("buyer %d: %v", n, err)
		}
	}
	if a := s.proved(t, cold); a.Stock.Remaining != 0 {
		t.Fatalf("stock %+v", a.Stock)
	}
}

// A gate that counts too much lets too many through; SQL refuses them, and the gate is repaired.
func TestSQLHasTheLastWord(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 10, 1)
	drift(l.gate, 15, 0, 0) // wrong high: 25 for 10
	var won atomic.Int64
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			if _, err := s.buy(l, n, 1, "k"); err == nil {
				won.Add(1)
			} else if code(err) != levee.CodeSoldOut {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 10 {
		t.Fatalf("%d won, want 10", won.Load())
	}
	if err := s.sales.reconcile(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	s.proved(t, l)
	drift(l.gate, -3, 0, 0)
	s.sales.Do(t.Context(), l.view.Load().ID, Command{Act: "top_up", Units: 3, Reason: "x"}, operator)
	if err := s.sales.reconcile(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := s.buy(l, 100+n, 1, "k"); err != nil {
			t.Fatalf("a gate wrong low was not repaired: %v", err)
		}
	}
	s.proved(t, l)
}

// Each step of a settlement fails in turn: nothing half-done stays, the buyer is told the truth, and the unit is free again.
func TestSettlementFailsAtEachStep(t *testing.T) {
	for _, step := range []string{"settle.after_read", "settle.after_stock", "settle.after_reservations", "settle.after_orders", "settle.before_commit"} {
		t.Run(step, func(t *testing.T) {
			s := newShop(t, Config{})
			var fails atomic.Int64
			fails.Store(1)
			if platformtest.RunTwice() {
				fails.Store(2)
			}
			s.sales.fault = func(at string) error {
				if at == step && fails.Add(-1) >= 0 {
					return errors.New("injected")
				}
				return nil
			}
			s.run(t)
			l := s.open(t, 1, 1)
			_, err := s.buy(l, 1, 1, "k")
			wantCode(t, err, levee.CodeUnavailable)
			if a := s.proved(t, l); a.Stock.Remaining != 1 || a.Gate.Remaining != 1 {
				t.Fatalf("after a failed settlement: %+v", a)
			}
			if ticket, err := s.buy(l, 1, 1, "k"); err != nil || ticket.Repeated {
				t.Fatalf("the retry gave %+v, %v", ticket, err)
			}
			s.proved(t, l)
		})
	}
	t.Run("the commit's answer is lost", func(t *testing.T) {
		s := newShop(t, Config{})
		s.sales.fault = func(at string) error {
			if at == "settle.answer" {
				return errors.New("injected")
			}
			return nil
		}
		s.run(t)
		l := s.open(t, 1, 1)
		if _, err := s.buy(l, 1, 1, "k"); err != nil {
			t.Fatalf("a committed purchase must be told as won even if the commit's answer was lost: %v", err)
		}
		s.proved(t, l)
	})
}

func TestAsyncAndTheBound(t *testing.T) {
	s := newShop(t, Config{HoldFor: 50 * time.Millisecond})
	block := make(chan struct{})
	var blocked atomic.Bool
	s.sales.fault = func(at string) error {
		if at == "settle.after_read" && blocked.Load() {
			<-block
		}
		return nil
	}
	s.run(t)
	l := s.open(t, 1, 1)
	blocked.Store(true)
	slow, err := s.buy(l, 1, 1, "k")
	if err != nil || slow.Settled {
		t.Fatalf("beyond the bound: %+v, %v; want a reservation", slow, err)
	}
	st, err := s.sales.Reservation(t.Context(), slow.Reservation, buyer(1))
	if err != nil || st.Place != "queued" {
		t.Fatalf("while it is under way: %+v, %v", st, err)
	}
	_, err = s.buy(l, 1, 1, "k")
	wantCode(t, err, levee.CodeIdempotencyRunning)
	close(block)
	for st.Place == "queued" {
		if st, err = s.sales.Reservation(t.Context(), slow.Reservation, buyer(1)); err != nil {
			t.Fatal(err)
		}
	}
	if st.Place != "ordered" {
		t.Fatalf("in the end: %+v", st)
	}
	if _, err := s.sales.Reservation(t.Context(), slow.Reservation, buyer(2)); code(err) != levee.CodeNotFound {
		t.Fatalf("somebody else's reservation: %v", err)
	}
	blocked.Store(false)
	// The gate is wrong high: the place in the line becomes a refusal, and its buyer learns why.
	drift(l.gate, 1, 0, 0)
	async, err := s.sales.Buy(t.Context(), l, Wish{Buyer: buyer(2), Quantity: 1, Key: "k", Async: true})
	if code(err) == levee.CodeSoldOut {
		return // settled before the answer could be given
	}
	if err != nil {
		t.Fatal(err)
	}
	if !async.Settled {
		for st.Place = "queued"; st.Place == "queued"; {
			if st, err = s.sales.Reservation(t.Context(), async.Reservation, buyer(2)); err != nil {
				t.Fatal(err)
			}
		}
		if st.Place != "refused" || code(st.Refusal) != levee.CodeSoldOut {
			t.Fatalf("a refused place in the line: %+v", st)
		}
	}
}

func TestAdmissionTokens(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 10, 1, func(terms *Terms) { terms.TokenNeeded = true })
	other := s.open(t, 10, 1, func(terms *Terms) { terms.TokenNeeded = true })
	v, now := l.view.Load(), s.clock.Now()
	good := s.admission.Issue(v.ID, buyer(1).User, now.Add(time.Minute))
	try := func(n int, token string) error {
		_, err := s.sales.Buy(t.Context(), l, Wish{Buyer: buyer(n), Quantity: 1, Key: "k", Admission: token})
		return err
	}
	wantCode(t, try(1, ""), levee.CodeAdmissionMissing)
	wantCode(t, try(2, good), levee.CodeAdmissionInvalid)
	wantCode(t, try(1, s.admission.Issue(other.view.Load().ID, buyer(1).User, now.Add(time.Minute))), levee.CodeAdmissionInvalid)
	wantCode(t, try(1, s.admission.Issue(v.ID, buyer(1).User, now.Add(-time.Second))), levee.CodeAdmissionExpired)
	for i := range good {
		forged := []byte(good)
		forged[i] ^= 1
		if err := try(1, string(forged)); err == nil {
			t.Fatalf("a token with byte %d changed was taken", i)
		}
	}
	if err := try(1, good); err != nil {
		t.Fatal(err)
	}
}

// A buyer at his bound marks himself either before the delivery looks, or after it signalled: in between the marks are locked. Else
// his place would stay "queued" for ever.
func TestNobodyMarksBetweenLookAndSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := &Service{}, &live{gate: gate.NewMemory(10), waited: map[levee.ReservationID]levee.UserID{}}
		l.view.Store(&Sale{})
		if err := l.gate.Load(context.Background(), gate.State{Remaining: 1, PerBuyer: 1}); err != nil {
			t.Fatal(err)
		}
		taken, _, _ := l.gate.Take(context.Background(), gate.Attempt{ID: 1, Buyer: 1, Quantity: 1})
		taken.Settled = make(chan struct{}, 1)
		taken.Settled <- struct{}{} // so that the delivery stands still in its signal
		batch := l.gate.Next(10)
		l.gate.Settle(context.Background(), batch, 1)
		done := make(chan struct{})
		go func() { s.deliver(l, batch); close(done) }()
		synctest.Wait()
		if l.late.TryLock() {
			l.late.Unlock()
			t.Error("a buyer can mark himself after the delivery looked and before it signals")
		}
		<-taken.Settled
		<-done
	})
}

// actsOf reads the newest acts on a sale.
func (s *Service) actsOf(sale levee.SaleID, question string) ([]Act, error) {
	q, err := s.lists.acts.Ask(question)
	if err != nil {
		return nil, err
	}
	found, err := readActs(context.Background(), s.DB.Query, sale, q)
	if err != nil {
		return nil, err
	}
	return found.Rows, nil
}
