package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
)

// rows and row read the database past the engine: what the simulator believes must not come from what it judges.
func (w *world) rows(scan func(*db.Rows) error, query string, args ...any) {
	rows, err := w.h.db.Query(context.Background(), query, args...)
	if err != nil {
		w.fail("%v", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			w.fail("%v", err)
		}
	}
	if err := rows.Err(); err != nil {
		w.fail("%v", err)
	}
}

func (w *world) row(into any, query string, args ...any) {
	if err := w.h.db.QueryRow(context.Background(), query, args...).Scan(into); err != nil {
		w.fail("%s: %v", query, err)
	}
}

func (w *world) shelf() (n int64) {
	w.row(&n, "SELECT on_hand FROM catalog_sku WHERE id=?", w.h.sku)
	return n
}

func (w *world) reservation(id levee.ReservationID) (r Reservation, found bool) {
	w.rows(func(rows *db.Rows) error {
		found = true
		return rows.Scan(&r.ID, &r.Buyer, &r.Quantity, &r.State, &r.key)
	}, "SELECT id, buyer_id, quantity, state, key_hash FROM sale_reservation WHERE id=?", id)
	return r, found
}

func (w *world) byKey(n int, key string) (r Reservation, found bool) {
	w.rows(func(rows *db.Rows) error {
		found = true
		return rows.Scan(&r.ID, &r.Quantity)
	}, "SELECT id, quantity FROM sale_reservation WHERE sale_id=? AND buyer_id=? AND key_hash=?", w.sale, buyer(n).User, hashKey(key))
	return r, found
}

// books is what SQL holds, read by the simulator.
type simBooks struct {
	Stock
	state    State
	forced   int
	limit    int32
	reserved int64
	sold     int64
	held     map[levee.UserID]int64
}

func (w *world) books() *simBooks {
	b := &simBooks{held: map[levee.UserID]int64{}}
	w.rows(func(rows *db.Rows) error {
		return rows.Scan(&b.Offered, &b.Remaining, &b.Reserved, &b.Sold, &b.Withdrawn, &b.state, &b.forced, &b.limit)
	}, "SELECT s.offered, s.remaining, s.reserved, s.sold, s.withdrawn, h.state, h.forced_sold_out, h.per_buyer "+
		"FROM sale_stock s JOIN sale_head h ON h.id=s.sale_id WHERE s.sale_id=?", w.sale)
	w.rows(func(rows *db.Rows) error {
		var id levee.ReservationID
		var who levee.UserID
		var n int64
		var is ReservationState
		var of order.State
		var shipped bool
		if err := rows.Scan(&id, &who, &n, &is, &of, &shipped); err != nil {
			return err
		}
		want := Reserved
		switch of {
		case order.StatePaid, order.StateShipped, order.StateRefunding:
			want = Sold
		case order.StateCancelled:
			want = Released
		case order.StateRefunded:
			if want = Released; shipped {
				want = Sold
			}
		case 0:
			w.fail("the reservation %d has no order", id)
		}
		if is != want {
			w.fail("the reservation %d is %s, its order is %s", id, is, of)
		}
		switch is {
		case Reserved:
			b.reserved += n
		case Sold:
			b.sold += n
		default:
			return nil
		}
		b.held[who] += n
		return nil
	}, "SELECT r.id, r.buyer_id, r.quantity, r.state, COALESCE(o.state, 0), "+
		"EXISTS (SELECT 1 FROM order_history y WHERE y.order_id=r.id AND y.to_state=3) FROM sale_reservation r LEFT JOIN order_head o ON o.id=r.id WHERE r.sale_id=?", w.sale)
	return b
}

// check looks at the promises that hold at every moment.
func (w *world) check() {
	b := w.books()
	offered := b.Offered - b.Withdrawn
	switch {
	case b.reserved+b.sold > offered:
		w.fail("oversold: %d reserved and %d sold of %d", b.reserved, b.sold, offered)
	case b.Remaining+b.Reserved+b.Sold != offered || b.Remaining < 0 || b.Reserved < 0 || b.Sold < 0:
		w.fail("the stock does not balance: %+v", b.Stock)
	case b.Reserved != b.reserved || b.Sold != b.sold:
		w.fail("the stock %+v is not the sum of the reservations: %d reserved, %d sold", b.Stock, b.reserved, b.sold)
	}
	if shelf := w.shelf(); shelf+offered != w.onHand {
		w.fail("%d units on the shelf and %d in the sale, there were %d: units were lost or made", shelf, offered, w.onHand)
	}
	limit := max(w.limit, b.limit)
	for who, n := range b.held {
		if n > w.sums[who] && n > int64(limit) {
			w.fail("buyer %d holds %d, the limit is %d", int(who)-1_000_000, n, limit)
		}
	}
	w.limit, w.sums = b.limit, b.held
	w.checkGate(b)
	w.checkLine()
}

// checkGate compares the gate and the switch with the books.
func (w *world) checkGate(b *simBooks) {
	if b.state == StateEnded || !w.warm || w.tainted {
		return
	}
	if w.h.redis != nil {
		w.checkShared()
		return
	}
	n := numbersOf(w.l.gate)
	if !n.Warm || n.Remaining+n.Unsettled != b.Remaining {
		w.fail("the gate counts %+v, SQL has %d free", n, b.Remaining)
	}
	if w.l.sw.Refusal() == refusalSoldOut && n.Remaining > 0 && n.Epoch > w.soldOut {
		w.fail("%d units are free and the switch says sold out: decided at epoch %d, it is %d", n.Remaining, w.soldOut, n.Epoch)
	}
	g := w.l.gate
	unsettled := map[levee.UserID]int64{}
	for _, a := range pendingIn(g) {
		unsettled[a.Buyer] += int64(a.Quantity)
	}
	for i := range w.buyers {
		who := buyer(i).User
		held, _ := heldIn(g, who)
		if int64(held) != b.held[who]+unsettled[who] {
			w.fail("the gate says that buyer %d holds %d, SQL says %d and %d are unsettled", i, held, b.held[who], unsettled[who])
		}
	}
}

// drain lets everything come to its end: settled, told, paid or expired; then adds up all books.
func (w *world) drain() {
	w.calm = true
	w.note("--- the end begins: no more faults")
	late := w.chance(0.5)
	w.drainLine()
	if w.h.redis != nil {
		w.drainNodes()
	}
	for _, b := range w.queued {
		if !w.ask(b) {
			w.fail("%s waits for a place that nobody settles", b)
		}
	}
	w.queued = nil
	for _, p := range w.money { // once clocks have stepped back, money may be far ahead
		if ahead := p.paidAt.Sub(w.clock.Now()); ahead > 0 {
			w.clock.Step(ahead)
		}
	}
	for range 40 {
		w.clock.Step(w.payWithin + 2*time.Minute)
		if late {
			w.expireDue()
		}
		for _, p := range w.money {
			if w.paid(p) {
				err := w.h.db.Tx(context.Background(), "payment.notify", func(ctx context.Context, tx *db.Tx) error {
					_, err := w.bookTx(ctx, tx, p)
					return err
				})
				w.lawful("payment.notify", err)
			}
		}
		w.expireDue()
		w.check()
		var open int
		w.row(&open, "SELECT COUNT(*) FROM order_head WHERE source_ref=? AND state=?", w.sale, int(order.StateCreated))
		if open == 0 {
			break
		}
	}
	if w.h.redis != nil {
		w.drainNodes()
	}
	w.tick()
	if err := w.sales.reconcile(context.Background(), w.l); err != nil {
		w.fail("%v", err)
	}
	if w.tainted { // who holds what may be off where the units are right again by chance
		if _, err := w.sales.Reconcile(context.Background(), w.sale); err != nil {
			w.fail("%v", err)
		}
	}
	w.tainted = false
	w.tick()
	w.check()
	w.audit()
	w.sellsAgain()
	if w.books().state != StateEnded {
		if _, err := w.sales.Do(context.Background(), w.sale, Command{Act: "end", Reason: "over"}, operator); err != nil {
			w.fail("%v", err)
		}
	}
	for range 3 { // the last buyer's order
		w.clock.Step(w.payWithin + 2*time.Minute)
		w.expireDue()
	}
	w.check()
	w.audit()
	if b := w.books(); b.Remaining != 0 || b.Reserved != 0 || w.shelf() != w.onHand-b.Sold {
		w.fail("after the end %+v, %d on the shelf of %d", b.Stock, w.shelf(), w.onHand)
	}
}

// drainLine settles and tells what waits in this process's line.
func (w *world) drainLine() {
	for i := 0; ; i++ {
		w.deliver()
		if w.inHand == nil {
			w.pick()
		}
		if w.inHand == nil && len(w.toDeliver) == 0 {
			break
		}
		w.settle()
		w.check()
		if i > 1000 {
			w.fail("the settler does not come to an end")
		}
	}
	if len(w.held) > 0 {
		w.fail("%d requests hold the line and nobody settles them", len(w.held))
	}
}

// sellsAgain: while a unit is free and the sale is open, a new buyer gets it.
func (w *world) sellsAgain() {
	b := w.books()
	v := w.l.view.Load()
	if b.Remaining == 0 || v.PhaseAt(w.clock.Now()) != PhaseOpen || v.ForcedSoldOut {
		return
	}
	if r := w.l.sw.Refusal(); r != nil {
		w.fail("%d units are free in an open sale, and the switch says %v", b.Remaining, r.err)
	}
	w.buyers++
	last := &simBuy{buyer: w.buyers - 1, quantity: 1, key: "last", async: false}
	w.send(last)
	w.pick()
	w.settle()
	w.deliver()
	if last.err != nil || !last.ticket.Settled {
		w.fail("%d units are free in an open sale, and a new buyer is told %v", b.Remaining, last.err)
	}
	w.check()
}

// audit adds up every book of the sale, when everything has come to its end.
func (w *world) audit() {
	b := w.books()
	if b.Reserved > 1 || b.Remaining+b.Sold+b.Reserved != b.Offered-b.Withdrawn {
		w.fail("units leaked: %+v", b.Stock)
	}
	a, err := w.sales.Prove(context.Background(), w.sale)
	if err != nil {
		w.fail("%v", err)
	}
	if !a.Balanced() {
		w.fail("the engine's own proof: %v, stock %+v, ledger %v, reservations %v", a.Problems, a.Stock, a.Ledger, a.Reservations)
	}
	if !a.GateAgrees() {
		w.fail("the gate differs at rest: %+v, stock %+v", a.Gate, a.Stock)
	}
	for id, by := range w.won {
		if r, found := w.reservation(id); !found || r.Buyer != buyer(by.buyer).User {
			w.fail("%s was told that %d is won, and in the end SQL holds %+v", by, id, r)
		}
	}
	for id := range w.refused {
		if _, found := w.reservation(id); found {
			w.fail("%d was told as refused, and in the end SQL holds it", id)
		}
	}
	w.rows(func(rows *db.Rows) error {
		var who, n int64
		if err := rows.Scan(&who, &n); err != nil {
			return err
		}
		w.fail("buyer %d has %d reservations with one key", who-1_000_000, n)
		return nil
	}, "SELECT buyer_id, COUNT(*) FROM sale_reservation WHERE sale_id=? GROUP BY buyer_id, key_hash HAVING COUNT(*)>1", w.sale)
	w.auditOrders()
	w.auditMoney()
}

// auditOrders: each reservation has one order of the same number and size, and no order is without one.
func (w *world) auditOrders() {
	var orders, reservations, units int64
	w.row(&orders, "SELECT COUNT(*) FROM order_head WHERE source_ref=?", w.sale)
	w.row(&reservations, "SELECT COUNT(*) FROM sale_reservation WHERE sale_id=?", w.sale)
	w.row(&units, "SELECT COUNT(*) FROM sale_reservation r JOIN order_item i ON i.order_id=r.id AND i.quantity=r.quantity WHERE r.sale_id=?", w.sale)
	if orders != reservations || units != reservations {
		w.fail("%d reservations, %d orders, %d of them with the same quantity", reservations, orders, units)
	}
	led := map[string]int64{}
	w.rows(func(rows *db.Rows) error {
		var kind string
		var n int64
		err := rows.Scan(&kind, &n)
		led[kind] = n
		return err
	}, "SELECT kind, SUM(quantity) FROM sale_ledger WHERE sale_id=? GROUP BY kind", w.sale)
	b := w.books()
	if led["offered"] != b.Offered || led["withdrawn"] != b.Withdrawn || led["sold"]-led["returned"] != b.Sold ||
		led["reserved"]-led["released"]-led["sold"] != b.Reserved {
		w.fail("the ledger %v is not the stock %+v", led, b.Stock)
	}
}

// auditMoney: a paid order was paid by exactly one payment that was kept, and no money stays that bought nothing.
func (w *world) auditMoney() {
	w.rows(func(rows *db.Rows) error {
		var id levee.OrderID
		var state order.State
		var kept int64
		if err := rows.Scan(&id, &state, &kept); err != nil {
			return err
		}
		switch {
		case kept > 1:
			w.fail("the order %d kept %d payments", id, kept)
		case (state == order.StatePaid || state == order.StateShipped || state == order.StateRefunding) && kept == 0:
			w.fail("the order %d is %s (revived?), and its money went back", id, state)
		case (state == order.StateCancelled || state == order.StateRefunded) && kept > 0:
			w.fail("the order %d is %s, and its money was kept", id, state)
		}
		return nil
	}, "SELECT o.id, o.state, (SELECT COUNT(*) FROM sim_payment p WHERE p.order_id=o.id AND p.state=1) FROM order_head o WHERE o.source_ref=?", w.sale)
	for i, p := range w.money {
		var state int
		w.row(&state, "SELECT state FROM sim_payment WHERE id=?", p.id)
		if state == simStarted && w.paid(p) {
			w.fail("the money of payment %d is neither kept nor given back", i+1)
		}
	}
}
