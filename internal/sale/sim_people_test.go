package sale

import (
	"context"
	"errors"
	"slices"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/recall"
)

// finish takes a request's answer and compares it with what is true.
func (w *world) finish(b *simBuy) {
	if b.killed || b.life != w.life {
		w.retries = append(w.retries, b)
		return
	}
	if b.lost {
		w.note("the answer to %s is lost on its way", b)
		w.retries = append(w.retries, b)
		return
	}
	if b.err != nil {
		w.refusedTo(b)
		return
	}
	if !b.ticket.Settled {
		b.id, b.asked = b.ticket.Reservation, w.clock.Now()
		w.note("202 for %s: place %d", b, b.id)
		w.queued = append(w.queued, b)
		return
	}
	how := "won"
	switch {
	case b.ticket.Repeated:
		how = "repeated"
	case !b.async:
		w.count("won by a held request")
	}
	w.count(how)
	w.note("201 for %s: %d, %s", b, b.ticket.Reservation, how)
	w.toldWon(b, b.ticket.Reservation)
}

// toldWon checks an answer that says won: the row is there, it is his, and it is the key's only answer ever.
func (w *world) toldWon(b *simBuy, id levee.ReservationID) {
	row, found := w.reservation(id)
	key := wishKey{b.buyer, b.key}
	switch first := w.answers[key]; {
	case !found:
		w.fail("%s was told that %d is won, and SQL does not hold it", b, id)
	case row.Buyer != buyer(b.buyer).User || row.Quantity != b.quantity || row.key != hashKey(b.key):
		w.fail("%s was told that %d is his, but SQL holds %+v", b, id, row)
	case first != 0 && first != id:
		w.fail("%s got %d, the same key got %d before", b, id, first)
	case w.refused[id]:
		w.fail("%s was told that %d is won after it was told as refused", b, id)
	case first == 0:
		w.answers[key] = id
		w.won[id] = b
		w.wonList = append(w.wonList, id)
	}
}

// refusedTo checks a refusal: nothing was taken, and a key that was answered before is not refused.
func (w *world) refusedTo(b *simBuy) {
	c := code(b.err)
	w.count(string(c))
	w.note("refused to %s: %v", b, b.err)
	switch c {
	case levee.CodeSoldOut, levee.CodeLimitReached, levee.CodePaused, levee.CodeEnded, levee.CodeNotOpen, levee.CodeIdempotencyMismatch,
		levee.CodeDrawOnly:
		if b.before && c != levee.CodeIdempotencyMismatch {
			w.fail("%s was refused (%s), and the key was answered before", b, c)
		}
	case levee.CodeIdempotencyRunning, levee.CodeUnavailable, levee.CodeNotWarmed:
	default:
		w.fail("%s: an answer that is none: %v", b, b.err)
	}
	if b.id == 0 {
		return
	}
	if _, found := w.reservation(b.id); found {
		w.fail("%s was refused (%s), and SQL holds its reservation %d", b, c, b.id)
	}
	w.refused[b.id] = true
}

// poll asks what became of a place in the line.
func (w *world) poll() {
	i := w.r.IntN(len(w.queued))
	if b := w.queued[i]; w.ask(b) {
		w.queued = append(w.queued[:i:i], w.queued[i+1:]...)
	}
}

// ask reports whether a place in the line has come to its end.
func (w *world) ask(b *simBuy) bool {
	st, err := w.sales.Reservation(context.Background(), b.id, buyer(b.buyer))
	if err != nil {
		w.fail("%s asks for %d: %v", b, b.id, err)
	}
	w.note("%s asks for %d: %s %v", b, b.id, st.Place, st.Refusal)
	switch st.Place {
	case "queued":
		if b.life != w.life && w.h.redis == nil { // another node may have it, or it is found overdue
			w.fail("%s is told to wait for a place that died with its process", b)
		}
		return false
	case "ordered", "released":
		w.count("won after 202")
		w.toldWon(b, st.ID)
	case "refused":
		if errors.Is(st.Refusal, errPlaceLost) {
			w.count("place lost")
			if w.h.redis == nil && b.life == w.life && w.latest.Sub(b.asked)+w.back < recall.Kept {
				w.fail("%s was told that his place %d was lost, and no process was killed", b, b.id)
			}
		}
		if _, found := w.reservation(b.id); found {
			w.fail("%s was told that his place %d was refused, and SQL holds it", b, b.id)
		}
		w.refused[b.id] = true
	default:
		w.fail("a place %q", st.Place)
	}
	return true
}

// someReservation draws any reservation of the sale.
func (w *world) someReservation(where string, args ...any) levee.ReservationID {
	var ids []levee.ReservationID
	w.rows(func(rows *db.Rows) error {
		var id levee.ReservationID
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT id FROM order_head WHERE source_ref=? AND "+where+" ORDER BY id", append([]any{w.sale}, args...)...)
	if len(ids) == 0 {
		return 0
	}
	return ids[w.r.IntN(len(ids))]
}

func (w *world) giveUp() {
	id := w.wonList[w.r.IntN(len(w.wonList))]
	who := buyer(w.won[id].buyer)
	w.note("buyer %d gives %d up", w.won[id].buyer, id)
	if w.flaw != nil && w.flaw.giveUp != nil {
		w.flaw.giveUp(w, id)
		return
	}
	if w.chance(0.3) {
		err := w.sales.GiveUp(context.Background(), id, who)
		if err == nil {
			w.count("given up")
		}
		w.lawful("give up", err)
		return
	}
	if w.tx("order.cancel", func(ctx context.Context, tx *db.Tx) error {
		return w.orders.CancelTx(ctx, tx, levee.OrderID(id), who, "given up by the buyer")
	}) == nil {
		w.count("given up")
	}
}

func (w *world) void() {
	id := w.someReservation("1=1")
	if id == 0 {
		return
	}
	w.note("an operator voids %d", id)
	err := w.sales.Void(context.Background(), id, operator, "voided")
	w.lawful("void", err)
	if err == nil {
		w.count("voided")
	}
}

// pay begins a payment. The money reaches the provider now, later, exactly at the order's deadline, after it, or never.
func (w *world) pay() {
	id := w.wonList[max(0, len(w.wonList)-1-w.r.IntN(8))]
	if w.paying(id) && w.chance(0.8) { // a second payment is the exception
		id = w.wonList[w.r.IntN(len(w.wonList))]
	}
	now := w.clock.Now()
	var due db.NullInt64
	w.row(&due, "SELECT due_at-postponed FROM order_head WHERE id=?", id)
	deadline := now
	if due.Valid {
		deadline = time.UnixMicro(due.Int64).UTC()
	}
	var paidAt time.Time
	switch w.r.IntN(6) {
	case 0, 1:
		paidAt = now
	case 2:
		paidAt = deadline
	case 3:
		paidAt = deadline.Add(time.Duration(w.r.IntN(30)) * time.Second)
	case 4:
		paidAt = now.Add(time.Duration(w.r.IntN(30)) * time.Second)
	}
	w.begins(id, paidAt)
	w.note("payment %d for %d begins: paid at %s (deadline %s)", len(w.money), id, paidAt.Format(time.TimeOnly), deadline.Format(time.TimeOnly))
}

// payNow begins a payment whose money and notification come at once.
func (w *world) payNow(id levee.ReservationID) {
	w.begins(id, w.clock.Now())
	w.notified(len(w.money) - 1)
}

// begins writes down a payment that was begun.
func (w *world) begins(id levee.ReservationID, paidAt time.Time) {
	w.h.pay++
	p := &simPayment{id: w.h.pay, order: levee.OrderID(id), paidAt: paidAt}
	err := w.h.db.Tx(context.Background(), "sim.pay", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO sim_payment (id, order_id, state) VALUES (?,?,?)", p.id, id, simStarted)
		return err
	})
	if err != nil {
		w.fail("%v", err)
	}
	w.money = append(w.money, p)
}

// notify brings one of the provider's notifications, first or repeated, in any order.
func (w *world) notify() {
	if i := max(0, len(w.money)-1-w.r.IntN(10)); w.paid(w.money[i]) {
		w.notified(i)
	}
}

func (w *world) notified(i int) {
	p := w.money[i]
	w.note("a notification of payment %d for %d", i+1, p.order)
	var out order.Outcome
	err := w.tx("payment.notify", func(ctx context.Context, tx *db.Tx) (err error) {
		out, err = w.bookTx(ctx, tx, p)
		return err
	})
	if err == nil && out != 0 {
		w.note("  %s", out)
		w.count(map[order.Outcome]string{order.OutcomePaid: "paid", order.OutcomeRevived: "revived", order.OutcomeTooLate: "refunded",
			order.OutcomeAlreadyPaid: "paid twice"}[out])
	}
}

func (w *world) paying(id levee.ReservationID) bool {
	return slices.ContainsFunc(w.money, func(p *simPayment) bool { return p.order == levee.OrderID(id) })
}

func (w *world) paid(p *simPayment) bool { return !p.paidAt.IsZero() && !p.paidAt.After(w.clock.Now()) }

// bookTx is what the payment room does with money that came: once, in one transaction with what the order makes of it.
func (w *world) bookTx(ctx context.Context, tx *db.Tx, p *simPayment) (order.Outcome, error) {
	var state int
	if err := tx.QueryRow(ctx, "SELECT state FROM sim_payment WHERE id=?", p.id).Scan(&state); err != nil || state != simStarted {
		return 0, err
	}
	ctx = levee.WithActor(ctx, levee.System)
	out, err := w.orders.MarkPaidTx(ctx, tx, p.order, order.PaidBy{Payment: levee.PaymentID(p.id), At: w.clock.Now()})
	if err != nil {
		return 0, err
	}
	state = simBack
	if out == order.OutcomePaid || out == order.OutcomeRevived && (w.flaw == nil || !w.flaw.refundsRevived) {
		state = simKept
	}
	_, err = tx.Exec(ctx, "UPDATE sim_payment SET state=? WHERE id=?", state, p.id)
	return out, err
}

// askProvider answers expiry's question: the money that is there is booked before the answer.
func (w *world) askProvider(ctx context.Context, id levee.OrderID) (bool, error) {
	if w.down {
		return false, errors.New("the provider does not answer")
	}
	paid := false
	for _, p := range w.money {
		if p.order == id && w.paid(p) {
			paid = true
			err := w.h.db.Tx(ctx, "payment.asked", func(ctx context.Context, tx *db.Tx) error {
				_, err := w.bookTx(ctx, tx, p)
				return err
			})
			if err != nil {
				return false, err
			}
		}
	}
	return paid, nil
}

// expireOne expires one overdue order step by step, so that a payment can come between the question and the cancellation.
func (w *world) expireOne() {
	id := w.someReservation("due_at<=?", w.clock.Now().UnixMicro())
	if id == 0 {
		return
	}
	w.note("the deadline of %d is over", id)
	if w.flaw == nil || !w.flaw.neverAsks {
		paid, err := w.askProvider(context.Background(), levee.OrderID(id))
		w.lawful("payment.asked", err)
		if paid {
			w.count("paid before expiry asked")
			w.note("  the provider says it is paid")
			return
		}
	}
	if w.mate == nil {
		if !w.calm && w.chance(0.3) {
			w.note("  and is paid in this instant:")
			w.payNow(id)
		}
		w.between("expire.asked")
	}
	cancel := func(ctx context.Context, tx *db.Tx) error {
		return w.orders.CancelTx(ctx, tx, levee.OrderID(id), levee.System, "not paid in time")
	}
	if w.flaw != nil && w.flaw.expire != nil {
		cancel = func(ctx context.Context, tx *db.Tx) error { return w.flaw.expire(w, ctx, tx, id) }
	}
	if w.tx("order.expire", cancel) == nil {
		w.count("expired")
	}
}

// expireDue is the room's own scan. Its orders are cancelled side by side, in an order that the seed does not fix and that
// makes no difference; so no fault is drawn meanwhile.
func (w *world) expireDue() {
	if w.someoneWaits() { // who gets what comes back then depends on the order
		for {
			var id db.NullInt64
			w.row(&id, "SELECT MIN(id) FROM order_head WHERE source_ref=? AND due_at<=?", w.sale, w.clock.Now().UnixMicro())
			if !id.Valid {
				return
			}
			if paid, err := w.askProvider(context.Background(), levee.OrderID(id.Int64)); err != nil || paid {
				w.lawful("payment.asked", err)
				continue
			}
			w.lawful("expiry", w.h.db.Tx(context.Background(), "order.expire", func(ctx context.Context, tx *db.Tx) error {
				return w.orders.CancelTx(ctx, tx, levee.OrderID(id.Int64), levee.System, "not paid in time")
			}))
			w.unwind()
			w.count("expired")
		}
	}
	calm := w.calm
	w.calm, w.down = true, !w.calm && w.chance(0.15)
	n, err := w.orders.ExpireDue(context.Background())
	w.calm, w.down = calm, false
	w.note("expiry cancels %d", n)
	w.tally["expired"] += n
	w.lawful("expiry", err)
}

// refund takes one paid order a step on: it is shipped, or its money is sent back, or the provider confirms or refuses that.
func (w *world) refund() {
	id := levee.OrderID(w.someReservation("state IN (2,3,5)"))
	if id == 0 {
		return
	}
	var state order.State
	w.row(&state, "SELECT state FROM order_head WHERE id=?", id)
	act := map[bool]string{true: "refund", false: "ship"}[w.chance(0.7)]
	switch {
	case state == order.StateRefunding:
		act = map[bool]string{true: "confirm", false: "refuse"}[w.chance(0.7)]
	case state == order.StateShipped:
		act = "refund"
	}
	w.note("%s %d", act, id)
	err := w.tx("payment."+act, func(ctx context.Context, tx *db.Tx) error {
		switch act {
		case "ship":
			return w.orders.ShipTx(ctx, tx, id, operator, "SF", "1")
		case "refund":
			return w.orders.RefundingTx(ctx, tx, id, operator, "refund")
		case "refuse":
			return w.orders.RefundRefusedTx(ctx, tx, id, "refused")
		}
		if err := w.orders.RefundedTx(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE sim_payment SET state=? WHERE order_id=? AND state=?", simBack, id, simKept)
		return err
	})
	if err == nil && act == "confirm" {
		w.count("refunded on request")
	}
}

// operate is an operator's act.
func (w *world) operate() {
	act := []string{"pause", "resume", "resume", "stop", "top_up", "top_up", "withdraw", "force_sold_out"}[w.r.IntN(8)]
	v := w.l.view.Load()
	if (v.State != StateScheduled || v.ForcedSoldOut) && w.chance(0.8) {
		act = "resume"
	}
	if w.chance(0.01) {
		act = "end"
	}
	c := Command{Act: act, Reason: "because"}
	if act == "top_up" || act == "withdraw" {
		c.Units = int64(1 + w.r.IntN(4))
	}
	w.note("operator: %s %d", act, c.Units)
	err := w.tx("sale.act", func(ctx context.Context, tx *db.Tx) error {
		_, err := w.sales.DoTx(ctx, tx, w.sale, c, operator)
		return err
	})
	if err != nil {
		w.note("  %v", err)
	} else {
		w.count("operator: " + act)
	}
}

// changeLimit sets another limit per buyer.
func (w *world) changeLimit() {
	v := w.l.view.Load()
	t := v.Terms()
	t.PerBuyer = int32(1 + w.r.IntN(4))
	w.note("operator: the limit is %d", t.PerBuyer)
	err := w.tx("sale.change", func(ctx context.Context, tx *db.Tx) error {
		_, err := w.sales.changeTx(ctx, tx, w.sale, v.Version, t, operator)
		return err
	})
	if err != nil {
		w.note("  %v", err)
		return
	}
	w.count("operator: limit")
}
