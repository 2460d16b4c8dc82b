package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/platform/db"
)

// Warm loads every unfinished sale from SQL into its gate. Until a sale is loaded it answers "not warmed", which is not "sold
// out". It is called once before the server listens, and is safe to call again.
func (s *Service) Warm(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "sale.Warm")
	list, err := s.unfinished(ctx)
	if err != nil {
		return err
	}
	for _, v := range list {
		l := s.bring(v)
		if l.follower != nil {
			err = l.follower.Look(ctx) // loads it if nobody has
		} else {
			err = s.loadGate(ctx, l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// loadGate rebuilds a gate from SQL: available = remaining, buyers from reservations. Of a gate of this process it reads inside a writing
// transaction and loads at its commit, so that no settlement or release can fall between what was read and what is loaded. A gate that nodes
// share is loaded from a snapshot, and what falls in between is told by its number.
func (s *Service) loadGate(ctx context.Context, l *live) error {
	if l.follower != nil {
		return l.follower.Reload(ctx)
	}
	started := time.Now()
	var holdings []gate.Holding
	err := s.DB.Tx(ctx, "sale.load", func(ctx context.Context, tx *db.Tx) error {
		v, stock, err := s.lockSale(ctx, tx, l.view.Load().ID)
		if err != nil {
			return err
		}
		if holdings, err = s.holdings(ctx, tx.Query, v, stock.Reserved+stock.Sold); err != nil {
			return err
		}
		tx.AtCommit(func() { s.loadLocal(l, v, stock, holdings) })
		return nil
	})
	if err != nil {
		return err
	}
	s.log.Info("a sale was loaded", "sale", l.public, "buyers", len(holdings), "seconds", time.Since(started).Seconds())
	return nil
}

// loadLocal loads the gate of this process with what was read in the transaction that commits now. Books that are damaged (fewer than no
// units remain) sell nothing, and the proof of the books says so; the house serves on.
func (s *Service) loadLocal(l *live, v *Sale, stock Stock, holdings []gate.Holding) {
	err := l.gate.Load(context.Background(), gate.State{Seq: stock.Seq, Remaining: max(stock.Remaining, 0), PerBuyer: v.PerBuyer, Holdings: holdings})
	if err != nil {
		s.log.Error("a gate could not be loaded", "sale", l.public, "err", err)
	}
	if v.Version >= l.view.Load().Version {
		l.view.Store(v)
	}
	l.refreshSwitch(s.Obs.Clock())
}

// Account is what is known of a sale at one moment: SQL's stock, the sums of its reservations and of its ledger, and the gate.
type Account struct {
	Sale         *Sale
	Stock        Stock
	Reservations map[ReservationState]books.Sum
	Ledger       map[string]int64
	Gate         gate.Numbers
	// OverLimit counts buyers who hold more than they may: always 0.
	OverLimit int64
	inGate    int64 // what the gate must count: SQL's remaining at the moment of Gate
	moving    bool  // movements are on their way to a shared gate, so it cannot be compared
	// Problems names every book that does not balance; empty is what it must be.
	Problems []string
}

// Balanced reports whether every unit is accounted for in every book.
func (a *Account) Balanced() bool { return len(a.Problems) == 0 }

// GateAgrees reports whether the gate of this node counts what SQL counts. An ended sale needs no gate.
func (a *Account) GateAgrees() bool {
	return a.Sale.State == StateEnded || a.Sale.State == StateDraft || a.moving || a.Gate.Warm && a.Gate.Remaining+a.Gate.Unsettled == a.inGate
}

// Prove adds up a sale's books in one snapshot and names every difference, and sets the gate beside SQL. It reads beside the
// writer, so nobody who buys waits for it.
func (s *Service) Prove(ctx context.Context, sale levee.SaleID) (a *Account, err error) {
	defer levee.Wrap(&err, "sale.Prove(%d)", sale)
	return s.prove(ctx, sale, true)
}

// prove is Prove; deep also looks at every buyer's limit, which reads a million rows where the rest reads a few sums.
func (s *Service) prove(ctx context.Context, sale levee.SaleID, deep bool) (*Account, error) {
	a := &Account{}
	err := s.snapshot(ctx, func(read reader) (err error) {
		if a.Sale, a.Stock, err = s.readSale(ctx, read, sale); err != nil {
			return err
		}
		if a.Reservations, err = reservationSums(ctx, read, a.Sale); err != nil {
			return err
		}
		if a.Ledger, err = ledgerSums(ctx, read, sale); err != nil {
			return err
		}
		if deep {
			a.OverLimit, err = overLimit(ctx, read, a.Sale)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	a.Problems = books.Differences(a.Stock, a.Reservations[Reserved], a.Reservations[Sold], a.Ledger, a.OverLimit)
	return a, s.compareGate(ctx, a)
}

// compareGate reads the gate's numbers at a commit. Every change of stock in SQL reaches the gate in the order of the commits, so
// there remaining + unsettled is SQL's remaining, exactly, however many purchases are under way.
func (s *Service) compareGate(ctx context.Context, a *Account) error {
	l := s.liveByID(a.Sale.ID)
	if l == nil {
		return nil
	}
	if l.follower != nil {
		return s.compareShared(ctx, l, a)
	}
	return s.DB.Tx(ctx, "sale.compare", func(ctx context.Context, tx *db.Tx) error {
		stock, err := s.stockTx(ctx, tx, a.Sale.ID)
		if err != nil {
			return err
		}
		tx.AtCommit(func() { a.Gate, a.inGate = l.numbers(), stock.Remaining })
		return nil
	})
}

// reconcileAll proves every live sale and repairs the gates that differ from SQL.
func (s *Service) reconcileAll(ctx context.Context) {
	for _, l := range *s.live.Load() {
		if err := s.reconcile(ctx, l); err != nil && ctx.Err() == nil {
			s.log.Error("a sale could not be reconciled; it is tried again", "sale", l.public, "err", err)
		}
	}
}

// reconcile proves a sale's account against SQL and repairs the fast path from SQL. Books in SQL that do not balance are
// a defect: they are logged and counted, never "repaired" by guessing.
func (s *Service) reconcile(ctx context.Context, l *live) error {
	a, err := s.prove(ctx, l.view.Load().ID, false)
	if err != nil {
		return err
	}
	if !a.Balanced() {
		s.metrics.imbalances.Inc()
		s.log.Error("the books of a sale do not balance", "sale", l.public, "problems", a.Problems, "stock", a.Stock, "ledger", a.Ledger)
	}
	if a.GateAgrees() {
		return nil
	}
	if a.Gate.Warm {
		s.metrics.repairs.Inc()
		s.log.Warn("a gate differed from SQL and is loaded anew", "sale", l.public, "gate", a.Gate, "stock", a.Stock)
	}
	return s.loadGate(ctx, l)
}

// Reconcile proves a sale now, repairs its gate at once if it is off, and returns the account: an operator's act.
func (s *Service) Reconcile(ctx context.Context, sale levee.SaleID) (*Account, error) {
	if l := s.liveByID(sale); l != nil {
		if err := s.loadGate(ctx, l); err != nil {
			return nil, err
		}
	}
	return s.Prove(ctx, sale)
}

// ProveAll proves every sale in SQL and calls yield for each, newest first: levee doctor and the kill test read it.
func (s *Service) ProveAll(ctx context.Context, yield func(*Account) error) error {
	for page := (levee.Page{Limit: levee.MaxPageLimit}); ; {
		list, err := s.sales(db.Primary(ctx), page, true, false)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, v := range list {
			a, err := s.Prove(ctx, v.ID)
			if err != nil {
				return err
			}
			if err := yield(a); err != nil {
				return err
			}
			page.After = int64(v.ID)
		}
	}
}

// Readiness tells an operator whether this node could start the sale now, and what is missing.
type Readiness struct {
	Phase    Phase
	Warm     bool
	Stock    Stock
	Gate     gate.Numbers
	Problems []string
}

// CheckReady is the warm-up check: terms, stock and gate of a sale on this node.
func (s *Service) CheckReady(ctx context.Context, sale levee.SaleID) (*Readiness, error) {
	a, err := s.Prove(ctx, sale)
	if err != nil {
		return nil, err
	}
	r := &Readiness{Phase: a.Sale.PhaseAt(s.Obs.Clock()), Warm: a.Gate.Warm, Stock: a.Stock, Gate: a.Gate, Problems: a.Problems}
	switch {
	case a.Sale.State == StateDraft:
		r.Problems = append(r.Problems, "the sale is a draft; schedule it")
	case !a.Gate.Warm && r.Phase != PhaseEnded:
		r.Problems = append(r.Problems, "the sale is not loaded on this node")
	case !a.GateAgrees():
		r.Problems = append(r.Problems, "the gate's stock differs from SQL's")
	}
	if a.Stock.Remaining == 0 && (r.Phase == PhaseOpen || r.Phase == PhaseUpcoming || r.Phase == PhaseEntry) {
		r.Problems = append(r.Problems, "no unit is free")
	}
	if run := s.run.Load(); run == nil {
		r.Problems = append(r.Problems, "settlement is not running on this node")
	}
	return r, nil
}

// ReservationStatus is what a buyer is told about his place in the line.
type ReservationStatus struct {
	Reservation
	// Place is "queued" (waits for its settlement), "ordered", "released" or "refused".
	Place string
	// Refusal tells why, where Place is "refused".
	Refusal error
}

// Reservation tells a buyer (or an operator) what became of a reservation. The memory of this node is asked first, then SQL. A
// genuine id that neither knows was in the line of a process that died before its commit: it took nothing.
func (s *Service) Reservation(ctx context.Context, id levee.ReservationID, who levee.Actor) (ReservationStatus, error) {
	for _, l := range *s.live.Load() {
		l.late.Lock()
		buyer, waits := l.waited[id]
		l.late.Unlock()
		if waits && buyer == who.User {
			return ReservationStatus{Reservation: Reservation{ID: id, Sale: l.view.Load().ID, Buyer: buyer}, Place: "queued"}, nil
		}
	}
	r, found, err := s.reservationByID(ctx, id)
	if err != nil {
		return ReservationStatus{}, err
	}
	if !found {
		switch kept := s.recall.Of(id); {
		case kept.Existing != 0:
			return s.Reservation(ctx, kept.Existing, who)
		case kept.Err != nil:
			return ReservationStatus{Reservation: Reservation{ID: id}, Place: "refused", Refusal: kept.Err}, nil
		}
		if lost, err := s.lost(ctx, id); err != nil || !lost {
			return ReservationStatus{Reservation: Reservation{ID: id}, Place: "queued"}, err
		}
		return ReservationStatus{Reservation: Reservation{ID: id}, Place: "refused", Refusal: errPlaceLost}, nil
	}
	if !who.Reaches(r.Buyer, levee.OrdersOfOthers) {
		return ReservationStatus{}, levee.E(levee.CodeNotFound, "there is no such reservation")
	}
	st := ReservationStatus{Reservation: r, Place: "ordered"}
	if r.State == Released {
		st.Place = "released"
	}
	return st, nil
}

var errPlaceLost = levee.E(levee.CodeUnavailable, "the place in the line was lost before it became an order; nothing was taken, try again")
