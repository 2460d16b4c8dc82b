package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/db"
	"levee/internal/tally"
	"levee/internal/terms"
)

// Grant is what somebody gets out of turn: a draw's winner, the next of a waiting list.
type Grant struct {
	Buyer    levee.UserID
	Quantity int32 // at most; 1 to 1000
	// Key makes the grant happen once: the same buyer and key get the first answer again. It shares nothing with the keys of
	// purchases.
	Key string
	// PayWithin is the buyer's time to pay, 10 s to 7 days; 0 is the sale's.
	PayWithin time.Duration
}

// Granted is what became of a Grant.
type Granted struct {
	// Reservation has the number of the order, too. 0 where Quantity is 0.
	Reservation levee.ReservationID
	// Quantity is what he got, which may be less than he was to get.
	Quantity int32
	// PayBy is until when; zero for a Repeated one whose order waits for no money any more.
	PayBy time.Time
	// Repeated says that this is the answer that the key got before, whatever became of its order since.
	Repeated bool
	// Why tells why he got nothing: CodeLimitReached, CodeSoldOut, CodePaused (the sale is stopped) or CodeEnded.
	Why error
}

// maxGrants is the most grants of one call: their orders are one event.
const maxGrants = 4096

// GrantTx settles grants in the caller's transaction by the same books as a purchase: stock by condition, the limit per buyer,
// reservation, order, ledger and event, in the order given; gate and switch follow at the commit. A grant gets what is free and
// within the buyer's limit if that is less than its quantity. Units that a buyer has taken from the gate, and that wait for their
// settlement, are not free. It works while the sale is scheduled or paused; else, and while it is forced sold out, every grant gets
// nothing, with the reason. It returns one Granted for each grant. It fails with CodeInvalid or CodeTooLarge (more than 4096) before
// anything was written, CodeNotFound for an unknown sale, and CodeUnavailable where no numbers can be given out.
func (s *Service) GrantTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, grants []Grant) ([]Granted, error) {
	if len(grants) == 0 {
		return nil, nil
	}
	if len(grants) > maxGrants {
		return nil, levee.E(levee.CodeTooLarge, "%d grants at once, allowed are %d", len(grants), maxGrants)
	}
	batch := make([]*gate.Taking, len(grants))
	within := make(map[levee.ReservationID]time.Duration, len(grants))
	for i, g := range grants {
		switch {
		case g.Buyer <= 0 || g.Key == "":
			return nil, levee.E(levee.CodeInvalid, "a grant needs a buyer and a key")
		case g.Quantity < 1 || g.Quantity > terms.MaxPerBuyer:
			return nil, levee.Invalid("quantity", "1 to 1000", g.Quantity)
		case g.PayWithin != 0 && (g.PayWithin < terms.MinPayWithin || g.PayWithin > terms.MaxPayWithin):
			return nil, levee.Invalid("pay_within", "10s to 168h", g.PayWithin)
		}
		number, err := s.IDs.Next()
		if err != nil {
			return nil, levee.E(levee.CodeUnavailable, "no number can be given out now").After(time.Second).Because(err)
		}
		batch[i] = &gate.Taking{Attempt: gate.Attempt{ID: levee.ReservationID(number), Buyer: g.Buyer, Quantity: g.Quantity, Key: grantKey(g.Key)}}
		within[batch[i].ID] = g.PayWithin
	}
	v, stock, err := s.lockSale(ctx, tx, sale)
	if err != nil {
		return nil, err
	}
	held, err := s.heldBy(ctx, tx, sale, batch)
	if err != nil {
		return nil, err
	}
	freed, _ := ctx.Value(freedKey{}).(*freedUnits)
	may := stock
	may.Remaining = s.grantable(v, stock, freed)
	now := s.Obs.Clock()
	won, units := s.judge(judgement{v: v, stock: may, held: held, refused: v.noGrants(now), cut: true}, batch)
	if len(won) > 0 {
		m, err := s.writeWonTx(ctx, tx, v, &stock, winners{won: won, units: units, at: now, within: within, reason: "given out of turn"})
		if err != nil {
			return nil, err
		}
		if freed != nil && freed.sale == sale {
			freed.units -= units
		}
		// Told before the move that brings units in which came back in the same transaction: so the gate never has a unit to sell that was
		// given away.
		m.Free, m.Won = 0, winsOf(won)
		s.tell(tx, sale, m)
		tx.AtCommit(func() { s.count(sale, func(t *tally.Sale) { t.Settled(len(won)) }) })
		if v.Admission.Room {
			tx.AfterCommit(func() {
				for _, t := range won {
					s.Admission.Spent(sale, t.Buyer)
				}
			})
		}
	}
	return s.answers(ctx, tx, batch, held, v, now, within)
}

// grantKey keeps the keys of grants apart from buyers' own: no header holds a zero byte.
func grantKey(key string) int64 { return hashKey("grant\x00" + key) }

// noGrants tells why nobody can be given units, or nil.
func (s *Sale) noGrants(now time.Time) error {
	switch {
	case s.State == StateDraft || s.PhaseAt(now) == PhaseEnded:
		return refusalEnded.err
	case s.State == StateStopped:
		return refusalPaused.err
	case s.ForcedSoldOut:
		return refusalForced.err
	}
	return nil
}

// grantable is how many units GrantTx may give: what SQL has, without those that the gate has given to takings which wait for their
// settlement (of a gate that nodes share: as this node saw it last, at most half a second ago). Units that the transaction itself freed are in no gate yet, so they can be given in any case.
func (s *Service) grantable(v *Sale, stock Stock, freed *freedUnits) int64 {
	free := stock.Remaining
	if l := s.liveByID(v.ID); l != nil {
		free -= l.numbers().Unsettled
	}
	if freed != nil && freed.sale == v.ID {
		free = max(free, min(freed.units, stock.Remaining))
	}
	return max(free, 0)
}

func winsOf(won []*gate.Taking) []gate.Win {
	wins := make([]gate.Win, len(won))
	for i, t := range won {
		wins[i] = gate.Win{ID: t.ID, Buyer: t.Buyer, Quantity: t.Quantity}
	}
	return wins
}

func (s *Service) answers(ctx context.Context, tx *db.Tx, batch []*gate.Taking, held map[levee.UserID][]Reservation, v *Sale, now time.Time,
	within map[levee.ReservationID]time.Duration) ([]Granted, error) {
	out := make([]Granted, len(batch))
	for i, t := range batch {
		switch {
		case t.Result.Err != nil:
			out[i].Why = t.Result.Err
		case t.Result.Existing != 0:
			out[i].Repeated, out[i].Reservation = true, t.Result.Existing
			for _, r := range held[t.Buyer] {
				if r.ID == t.Result.Existing {
					out[i].Quantity = r.Quantity
				}
			}
			o, err := s.Orders.ByIDTx(ctx, tx, levee.OrderID(t.Result.Existing))
			if err != nil {
				return nil, err
			}
			out[i].PayBy = o.PayBy
		default:
			out[i].Reservation, out[i].Quantity, out[i].PayBy = t.ID, t.Quantity, payBy(v, now, within[t.ID])
		}
	}
	return out, nil
}

// OnFree sets the function that is asked, in the transaction in which units of a sale became free (released, refunded before
// shipping, topped up, or the sale resumed), before the crowd can have them: it may give them away with GrantTx in the same
// transaction. It is not asked while nobody can be given units (drafts, stopped, ended and forced sold-out sales). An error
// undoes the transaction. Set once, before Warm.
func (s *Service) OnFree(f func(ctx context.Context, tx *db.Tx, v *Sale) error) { s.onFree = f }

// freedUnits are the units that became free in a transaction and were not given away in it.
type freedUnits struct {
	sale  levee.SaleID
	units int64
}

type freedKey struct{}

// freeTx is told that units of a sale became free in this transaction by a movement (none where a sale resumed): first it is asked who
// gets them out of turn, then, at the commit and after the moves of those grants, gate and switch follow.
func (s *Service) freeTx(ctx context.Context, tx *db.Tx, v *Sale, back ...gate.Movement) error {
	if s.onFree != nil && v.noGrants(s.Obs.Clock()) == nil {
		freed := &freedUnits{sale: v.ID}
		for _, m := range back {
			freed.units += m.Free
		}
		ctx := context.WithValue(ctx, freedKey{}, freed)
		if err := s.onFree(ctx, tx, v); err != nil {
			return err
		}
		if err := s.step("free.asked"); err != nil {
			return err
		}
	}
	s.tell(tx, v.ID, back...)
	return nil
}

// tell has the sale's gate follow movements that this transaction commits: in the order of the commits where it is this process's own,
// soon after the commit where nodes share it.
func (s *Service) tell(tx *db.Tx, sale levee.SaleID, moves ...gate.Movement) {
	if s.Gates != nil {
		tx.AfterCommit(func() {
			if l := s.liveByID(sale); l != nil && s.step("tell") == nil {
				l.follower.Tell(moves...)
			}
		})
		return
	}
	tx.AtCommit(func() {
		l := s.liveByID(sale)
		if l == nil || len(moves) == 0 {
			return
		}
		if err := l.gate.Apply(context.Background(), moves...); err != nil && levee.CodeOf(err) != levee.CodeNotWarmed {
			s.log.Error("a gate could not follow its sale; it is loaded anew when it is next proved", "sale", l.public, "err", err)
		}
		var free int64
		for _, m := range moves {
			free = max(free, m.Free)
		}
		if free > 0 {
			l.cameBack()
			s.pass("gate.freed")
		} else {
			s.pass("gate.moved")
		}
	})
}

// FreeTx locks a sale, returns it as SQL has it and tells how many units GrantTx could give now, and how many SQL has. CodeNotFound.
func (s *Service) FreeTx(ctx context.Context, tx *db.Tx, sale levee.SaleID) (v *Sale, free int64, stock Stock, err error) {
	v, stock, err = s.lockSale(ctx, tx, sale)
	if err != nil {
		return nil, 0, stock, err
	}
	freed, _ := ctx.Value(freedKey{}).(*freedUnits)
	if v.noGrants(s.Obs.Clock()) == nil {
		free = s.grantable(v, stock, freed)
	}
	return v, free, stock, nil
}

// ByID returns a sale, as this node sells it or else from SQL. It asks for no right. CodeNotFound.
func (s *Service) ByID(ctx context.Context, sale levee.SaleID) (*Sale, error) {
	if l := s.liveByID(sale); l != nil {
		return l.view.Load(), nil
	}
	return s.saleByID(ctx, sale)
}

// ByPublicID returns a sale by the id under which the world knows it. A draft exists for operators only: CodeNotFound.
func (s *Service) ByPublicID(ctx context.Context, public string) (*Sale, error) {
	if l := (*s.live.Load())[public]; l != nil {
		return l.view.Load(), nil
	}
	n, err := s.Sealer.Open(levee.KindSale, public)
	if err != nil {
		return nil, err
	}
	v, err := s.saleByID(ctx, levee.SaleID(n))
	if err != nil {
		return nil, err
	}
	if v.State == StateDraft && !levee.ActorFrom(ctx).May(levee.SalesHidden) {
		return nil, errNoSale
	}
	return v, nil
}

// Live lists the sales that this node sells or sold since it started, in no order. Ended ones are among them.
func (s *Service) Live() []*Sale {
	lives := *s.live.Load()
	list := make([]*Sale, 0, len(lives))
	for _, l := range lives {
		list = append(list, l.view.Load())
	}
	return list
}

// StockOf reads a sale's account. CodeNotFound.
func (s *Service) StockOf(ctx context.Context, sale levee.SaleID) (Stock, error) {
	return s.stockOf(ctx, sale)
}

// LineNumbers sets the function that tells how many wait in a sale's line and how many of them hold an offer, for the live page.
// It must not touch the database or wait. Set once, before Run.
func (s *Service) LineNumbers(f func(sale levee.SaleID) (waiting, offered int64)) { s.lineNumbers = f }
