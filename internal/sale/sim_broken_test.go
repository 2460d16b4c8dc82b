package sale

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
)

// A simulation is worth what it catches: each of these engines breaks one promise in one place, as a program that is nearly
// right does, and must be caught within simPatience seeds.
const simPatience = 500

func TestSimulationCatchesBrokenEngines(t *testing.T) {
	t.Parallel()
	h := openSimHouse(t)
	for _, f := range flaws() {
		if f.onlyShared {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			started := time.Now()
			for seed := uint64(1); seed <= simPatience; seed++ {
				if _, failure := h.run(seed, f); failure != nil {
					t.Logf("caught after %d seeds, %s: %s", seed, time.Since(started).Round(time.Millisecond), failure.what)
					return
				}
			}
			t.Errorf("not caught in %d seeds", simPatience)
		})
	}
}

// flaw is what a broken engine does otherwise. The fields that are nil or false leave the engine as it is.
type flaw struct {
	name           string
	settle         func(w *world, batch []*gate.Taking)
	source         func(w *world, s *Service) order.Source
	load           func(w *world)
	lateSoldOut    func(w *world)
	giveUp         func(w *world, id levee.ReservationID)
	expire         func(w *world, ctx context.Context, tx *db.Tx, id levee.ReservationID) error
	neverAsks      bool
	refundsRevived bool
	untoldGrant    bool
	sleeper        bool // settles what others have given up
	shared         bool // it is looked for where nodes share the gate, too
	onlyShared     bool // it is looked for only where nodes share the gate
	trueGate       bool // the gate does not drift, so that the flaw alone is to be found
}

func flaws() []*flaw {
	broken := func(f func(*brokenSource)) func(*world, *Service) order.Source {
		return func(_ *world, s *Service) order.Source {
			b := &brokenSource{source: (*source)(s)}
			f(b)
			return b
		}
	}
	return []*flaw{
		{name: "stock is not asked for again in SQL", settle: looseness{stock: true}.settle, shared: true},
		{name: "the limit is the gate's alone", settle: looseness{limit: true}.settle, shared: true},
		{name: "the key is the gate's alone", settle: looseness{key: true}.settle, shared: true},
		{name: "stock and reservation in two transactions", settle: looseness{split: true}.settle},
		{name: "the answer before the commit", settle: tellFirst},
		{name: "an unknown outcome is undone blindly", settle: looseness{blind: true}.settle, trueGate: true, shared: true},
		{name: "a release loses the unit in SQL", source: broken(func(b *brokenSource) { b.release = &releasing{lost: true} })},
		{name: "a release does not reach the gate", source: broken(func(b *brokenSource) { b.release = &releasing{untold: true} }), trueGate: true},
		{name: "a release comes twice and nothing compares", giveUp: giveUpTwice,
			source: broken(func(b *brokenSource) { b.release = &releasing{unchecked: true} })},
		{name: "a revival takes a unit that is not free", source: broken(func(b *brokenSource) { b.reviveBlindly = true })},
		{name: "revived and refunded both", refundsRevived: true},
		{name: "expiry ignores the payment", neverAsks: true, expire: expireBlindly},
		{name: "a load forgets what is unsettled", load: loadForgetfully, trueGate: true},
		{name: "a load reads outside of the writer's order", load: loadStale, trueGate: true},
		{name: "a late sold out shuts the switch", lateSoldOut: func(w *world) { w.l.sw.Set(refusalSoldOut) }, trueGate: true},
		{name: "the gate has what comes back before the line is asked", source: broken(func(b *brokenSource) { b.release = &releasing{early: true} }), trueGate: true},
		{name: "the line is asked after the commit", source: broken(func(b *brokenSource) { b.release = &releasing{later: true} }), trueGate: true},
		{name: "a grant does not reach the gate", untoldGrant: true, trueGate: true},
		{name: "a sleeper settles what others have given up", sleeper: true, shared: true, onlyShared: true},
		{name: "a key is forgotten with its units", source: broken(func(b *brokenSource) { b.release = &releasing{forgets: true} }), trueGate: true},
	}
}

// looseness is a settlement that leaves one thing out.
type looseness struct{ stock, limit, key, split, blind bool }

func (x looseness) settle(w *world, batch []*gate.Taking) {
	seq, err := x.once(w, batch)
	if err == nil {
		return
	}
	found, lookErr := map[levee.ReservationID]bool{}, error(nil)
	if !x.blind {
		found, lookErr = w.sales.settledAmong(context.Background(), w.sale, idsOf(batch))
	}
	if lookErr != nil {
		w.fail("%v", lookErr)
	}
	w.sales.resolveUnknown(context.Background(), w.l, batch, found, seq, err)
}

func (x looseness) once(w *world, batch []*gate.Taking) (seq int64, err error) {
	s, l := w.sales, w.l
	var lost error
	var v *Sale
	var won []*gate.Taking
	var units int64
	insert := func(ctx context.Context, tx *db.Tx) error {
		now := s.Obs.Clock()
		if err := s.insertReservationsTx(ctx, tx, v.ID, won, now, seq); err != nil {
			return err
		}
		return s.Orders.CreateManyTx(ctx, tx, s.newOrders(v, winners{won: won, at: now}))
	}
	err = s.DB.Tx(context.Background(), "sale.settle", func(ctx context.Context, tx *db.Tx) (err error) {
		var stock Stock
		if v, stock, err = s.lockSale(ctx, tx, w.sale); err != nil {
			return err
		}
		held, err := s.heldBy(ctx, tx, w.sale, batch)
		if err != nil {
			return err
		}
		judged := *v
		if x.limit {
			judged.PerBuyer = 1 << 20
		}
		if x.stock {
			stock.Remaining = 1 << 40
		}
		for _, list := range held {
			for i := range list {
				if x.key {
					list[i].key = 0
				}
			}
		}
		follow := func() {
			if lost = s.step("settle.answer"); lost == nil && (!x.split || len(won) == 0) {
				s.accountFor(ctx, l, batch, seq)
			}
		}
		if l.gate.Local() {
			tx.AtCommit(follow)
		} else {
			tx.AfterCommit(follow)
		}
		if won, units = s.judge(judgement{v: &judged, stock: stock, held: held, refused: judged.noSettlement()}, batch); len(won) == 0 {
			return nil
		}
		condition := " AND remaining>=?"
		if x.stock {
			condition = " AND ?>0"
		}
		first, last := span(won)
		m, err := looseMove(ctx, tx, s, "remaining=remaining-?, reserved=reserved+?", "sale_id=?"+condition, []any{units, units, w.sale, units},
			movement{sale: v.ID, kind: books.Reserved, units: units, reservation: first, last: last})
		if err != nil {
			return err
		}
		seq = m.Seq
		if err := s.step("settle.after_stock"); err != nil || x.split {
			return err
		}
		if err := insert(ctx, tx); err != nil {
			return err
		}
		return s.step("settle.before_commit")
	})
	if err == nil && lost == nil && x.split && len(won) > 0 {
		if err = s.step("settle.after_first_commit"); err == nil {
			err = s.DB.Tx(context.Background(), "sale.settle", insert)
		}
		if err == nil {
			s.accountFor(context.Background(), l, batch, seq)
		}
	}
	return seq, errors.Join(err, lost)
}

// tellFirst answers the buyers and writes afterwards.
func tellFirst(w *world, batch []*gate.Taking) {
	written := make([]*gate.Taking, len(batch))
	for i, t := range batch {
		t.Result = gate.Outcome{}
		c := *t
		written[i] = &c
	}
	w.inHand = nil
	w.hand(batch, w.sales.deliver)
	w.sales.settleBatch(context.Background(), w.l, written)
}

// brokenSource is the sale as order sees it, with a flaw in one of its methods.
type brokenSource struct {
	*source
	release       *releasing
	reviveBlindly bool
}

// releasing is a release that leaves one thing out.
type releasing struct{ lost, untold, unchecked, forgets, early, later bool }

func (b *brokenSource) ReleaseTx(ctx context.Context, tx *db.Tx, o order.Order, reason string) error {
	switch {
	case b.release == nil:
		return b.source.ReleaseTx(ctx, tx, o, reason)
	case b.release.forgets:
		return releaseForgetfully(ctx, tx, (*Service)(b.source), o, reason)
	}
	return b.release.tx(ctx, tx, (*Service)(b.source), levee.ReservationID(o.ID))
}

// releaseForgetfully leaves nobody in the gate who holds nothing.
func releaseForgetfully(ctx context.Context, tx *db.Tx, s *Service, o order.Order, reason string) error {
	if err := (*source)(s).ReleaseTx(ctx, tx, o, reason); err != nil {
		return err
	}
	v, stock, err := s.lockSale(ctx, tx, levee.SaleID(o.SourceRef))
	if err != nil {
		return err
	}
	holdings, err := s.holdings(ctx, tx.Query, v, 0)
	if err != nil {
		return err
	}
	holdings = slices.DeleteFunc(holdings, func(h gate.Holding) bool { return h.Quantity == 0 })
	tx.AtCommit(func() {
		if l := s.liveByID(v.ID); l != nil {
			s.loadLocal(l, v, stock, holdings)
		}
	})
	return nil
}

func (x *releasing) tx(ctx context.Context, tx *db.Tx, s *Service, id levee.ReservationID) error {
	r, err := s.reservationTx(ctx, tx, id)
	if err != nil {
		return err
	}
	v, _, err := s.lockSale(ctx, tx, r.Sale)
	if err != nil {
		return err
	}
	won, err := s.moveReservationTx(ctx, tx, id, Reserved, Released)
	if err != nil || !won && !x.unchecked {
		return err
	}
	units := int64(r.Quantity)
	back := units
	if x.lost {
		back = 0
	}
	m, err := looseMove(ctx, tx, s, "remaining=remaining+?, reserved=reserved-?", "sale_id=?", []any{back, units, r.Sale},
		movement{sale: r.Sale, kind: books.Released, units: units, reservation: id})
	if err != nil {
		return err
	}
	m.Holdings = []gate.Change{{Buyer: r.Buyer, Units: -r.Quantity}}
	if v.State == StateEnded && back > 0 {
		return withdrawLate(ctx, tx, s, v, m)
	}
	switch {
	case x.untold:
		return nil
	case x.early: // the crowd may have them at once, and the line is asked then
		s.tell(tx, r.Sale, m)
		if v.noGrants(s.Obs.Clock()) == nil {
			return s.onFree(ctx, tx, v)
		}
		return nil
	case x.later: // the line is asked in a transaction of its own
		s.tell(tx, r.Sale, m)
		return nil
	}
	return s.freeTx(ctx, tx, v, m)
}

// withdrawLate takes what came back after a sale's end out of it.
func withdrawLate(ctx context.Context, tx *db.Tx, s *Service, v *Sale, back gate.Movement) error {
	stock, err := s.stockTx(ctx, tx, v.ID)
	if err != nil {
		return err
	}
	gone, err := s.withdrawTx(ctx, tx, v, &stock, back.Free, 1, "given back after the sale's end")
	s.tell(tx, v.ID, gone, back)
	return err
}

func (b *brokenSource) ReviveTx(ctx context.Context, tx *db.Tx, o order.Order) (bool, error) {
	if !b.reviveBlindly {
		return b.source.ReviveTx(ctx, tx, o)
	}
	s, id := (*Service)(b.source), levee.ReservationID(o.ID)
	r, err := s.reservationTx(ctx, tx, id)
	if err != nil {
		return false, err
	}
	if won, err := s.moveReservationTx(ctx, tx, id, Released, Sold); err != nil || !won {
		return false, err
	}
	units := int64(r.Quantity)
	taken, err := looseMove(ctx, tx, s, "remaining=remaining-?, reserved=reserved+?", "sale_id=?", []any{units, units, r.Sale},
		movement{sale: r.Sale, kind: books.Reserved, units: units, reservation: id})
	if err != nil {
		return false, err
	}
	taken.Holdings = []gate.Change{{Buyer: r.Buyer, Units: r.Quantity}}
	sold, err := looseMove(ctx, tx, s, "reserved=reserved-?, sold=sold+?", "sale_id=?", []any{units, units, r.Sale},
		movement{sale: r.Sale, kind: books.Sold, units: units, reservation: id})
	s.tell(tx, r.Sale, taken, sold)
	return true, err
}

// giveUpTwice sends the release as a message that comes at least once.
func giveUpTwice(w *world, id levee.ReservationID) {
	err := w.tx("order.cancel", func(ctx context.Context, tx *db.Tx) error {
		return w.orders.CancelTx(ctx, tx, levee.OrderID(id), buyer(w.won[id].buyer), "given up by the buyer")
	})
	if err == nil && w.chance(0.3) {
		w.note("  the message comes once more")
		w.tx("sale.release", func(ctx context.Context, tx *db.Tx) error {
			return (&releasing{unchecked: true}).tx(ctx, tx, w.sales, id)
		})
	}
}

// expireBlindly cancels the order that was overdue when it was looked at, whatever it is now.
func expireBlindly(w *world, ctx context.Context, tx *db.Tx, id levee.ReservationID) error {
	s := w.sales
	r, err := s.reservationTx(ctx, tx, id)
	if err != nil || r.State == Released {
		return err
	}
	v, _, err := s.lockSale(ctx, tx, r.Sale)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "UPDATE order_head SET state=?, due_at=NULL, version=version+1 WHERE id=?", int64(order.StateCancelled), id); err != nil {
		return err
	}
	if _, err := s.moveReservationTx(ctx, tx, id, r.State, Released); err != nil {
		return err
	}
	from := map[ReservationState]string{Reserved: "reserved", Sold: "sold"}[r.State]
	units := int64(r.Quantity)
	kind := map[ReservationState]string{Reserved: books.Released, Sold: books.Returned}[r.State]
	m, err := looseMove(ctx, tx, s, "remaining=remaining+?, "+from+"="+from+"-?", "sale_id=?", []any{units, units, r.Sale},
		movement{sale: r.Sale, kind: kind, units: units, reservation: id})
	if err != nil {
		return err
	}
	m.Holdings = []gate.Change{{Buyer: r.Buyer, Units: -r.Quantity}}
	if v.State == StateEnded {
		return withdrawLate(ctx, tx, s, v, m)
	}
	return s.freeTx(ctx, tx, v, m)
}

// loadForgetfully loads the gate as if nothing were under way.
func loadForgetfully(w *world) {
	if err := w.sales.loadGate(context.Background(), w.l); err != nil {
		w.fail("%v", err)
	}
	if n := numbersOf(w.l.gate).Unsettled; n != 0 {
		drift(w.l.gate, n, 0, 0)
	}
}

// loadStale reads beside the writer and loads whenever it gets to it.
func loadStale(w *world) {
	s := w.sales
	stock, err := s.stockOf(context.Background(), w.sale)
	if err != nil {
		w.fail("%v", err)
	}
	var list []gate.Holding
	w.rows(func(rows *db.Rows) error {
		var h gate.Holding
		err := rows.Scan(&h.Buyer, &h.Quantity)
		list = append(list, h)
		return err
	}, "SELECT buyer_id, CASE WHEN state=3 THEN 0 ELSE quantity END FROM sale_reservation WHERE sale_id=?", w.sale)
	if w.mate == nil {
		w.between("load.read")
	}
	s.loadLocal(w.l, w.l.view.Load(), stock, list)
}
