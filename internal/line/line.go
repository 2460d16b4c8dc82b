// Package line decides who is next for units that are given, not taken: a draw and a waiting list.
//
// It owns the entries of both, their order, the draw's seed and its published texts. It does not own units or orders: it asks
// sale to grant units to a buyer (sale.GrantTx), which makes a reservation and an order to pay by a deadline like any purchase.
//
// One idea: both are a line, a list of entries in a known order. The order is that of asking (waiting list) or of the shuffle
// (draw). Free units go to the next in line; who does not pay in time loses them to the one behind him. They are given in the
// very transaction in which they became free (sale.OnFree), so that the crowd cannot be faster than the line.
//
// The promises:
//
//   - Offers are made strictly in the order of the line, and an entry gets at most one.
//   - While a sale is open, no unit is free at a commit while somebody waits who may have it. One transaction gives to at most
//     4,096 entries, so that the writer is not held for long; should more units come back at once while more wait (a large
//     top-up), the rest follows by a job at once, and only then the crowd may be faster.
//   - Nobody stands in one line twice, and nobody gets more than the sale's limit per buyer: who holds it already when his turn
//     comes is passed over.
//   - A draw is decided once, from the frozen entries and a seed whose hash was public before the first entry (docs/draw.md).
package line

import (
	"context"
	"embed"
	"log/slog"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/listing"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/sale"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables line_*.
func Schema() db.Schema { return db.Schema{Owner: "line", FS: schemaFS} }

// Bounds of a line.
const (
	maxPlaces  = 2_000_000 // places given out in one line; a place costs 4.25 bytes of memory
	maxEntries = 1_000_000 // of a draw; they are shuffled in memory at about 300 bytes each
	maxTimes   = 20        // a buyer may join one line, leave it and join it again
	atOnce     = 4096      // entries that one transaction gives units to
	inBatch    = 256       // of them by one call of sale.GrantTx
)

// Deps is what the room stands on. Key seals the seeds of draws (32 bytes, secret).
type Deps struct {
	DB     *db.DB
	IDs    *id.Generator
	Sealer *id.Sealer
	Obs    *obs.Obs
	Events *event.Bus
	Jobs   *job.Jobs
	Push   *push.Hub
	Sales  *sale.Service
	Key    []byte
	// Bell joins a bell that the nodes of a house share: ring tells the others, wake is called when another one rang. Neither waits, and
	// rings may be lost: then it takes half a second. Nil: this process is the only one.
	Bell func(name string, wake func()) (ring func())
}

// Service is the room. Safe for concurrent use.
type Service struct {
	Deps
	entries *listing.List[listedEntry]
	log     *slog.Logger
	metrics *metrics
	seals   *seals
	book    book
	term    atomic.Pointer[node.Term]
	ring    func()        // tells the other nodes that a line was changed, or nil
	rung    chan struct{} // holds one signal while there is something to follow
	follow  *job.Kind[followArgs]
	fault   func(step string) error // set by tests only: what fails or dies at a named step
	cut     func(what string) bool  // set by tests only: looks that fail, commits that nobody hears of
}

// New builds the room and joins it to sale: from here on it is asked first when units become free. It fails with CodeInvalid
// for a key that has not 32 bytes. Call Warm before the server listens.
func New(d Deps) (_ *Service, err error) {
	defer levee.Wrap(&err, "line.New")
	s := &Service{Deps: d, entries: entryList(d.Sealer), log: d.Obs.Named("line"), metrics: newMetrics(d.Obs.Metrics), book: book{lines: map[levee.SaleID]*places{}},
		rung: make(chan struct{}, 1)}
	s.term.Store(&node.Term{})
	if s.seals, err = newSeals(d.Key); err != nil {
		return nil, err
	}
	s.follow = job.Define("line.give", job.Options{Pool: "line"}, s.giveRest)
	if d.Bell != nil {
		s.ring = d.Bell("line", s.heard)
	}
	d.Sales.OnFree(s.onFree)
	d.Sales.LineNumbers(s.Numbers)
	return s, nil
}

// step is where a test may break the room: it returns an error to inject, and may panic to simulate a kill.
func (s *Service) step(name string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(name)
}

// State of an entry.
type State int8

// The states. Entered and waiting entries hope; an offered one has an order to pay; the rest are final, except that money which
// comes after all may turn lapsed into ordered.
const (
	StateEntered State = 1 // in a draw that is not drawn yet
	StateWaiting State = 2 // in line
	StateOffered State = 3 // has a reservation and an order to pay
	StateOrdered State = 4 // paid
	StateLapsed  State = 5 // did not pay in time, or gave the order up
	StateLost    State = 6 // was passed over; Reason says why
	StateLeft    State = 7 // went away
	StateOver    State = 8 // the sale ended before his turn came
)

var stateNames = [...]string{StateEntered: "entered", StateWaiting: "waiting", StateOffered: "offered", StateOrdered: "ordered",
	StateLapsed: "lapsed", StateLost: "lost", StateLeft: "left", StateOver: "over"}

// String returns the state's name in public.
func (s State) String() string {
	if s < 1 || int(s) >= len(stateNames) {
		return "unknown"
	}
	return stateNames[s]
}

// alive reports whether the entry still holds its buyer's one place in the line.
func (s State) alive() bool { return s == StateEntered || s == StateWaiting || s == StateOffered }

// Why an entry came to its end.
const (
	ReasonUnpaid    = "unpaid"        // lapsed: the deadline passed
	ReasonCancelled = "cancelled"     // lapsed: the order was cancelled before its deadline
	ReasonLimit     = "limit_reached" // lost: the buyer held all that he may when his turn came
)

// Entry is one wish in a line.
type Entry struct {
	ID       levee.EntryID
	Sale     levee.SaleID
	Buyer    levee.UserID
	Draw     bool  // the line is a draw's
	Quantity int32 // asked for
	// Place orders the line: the first has 1. In a draw it is the rank, and 0 before the draw.
	Place  int64
	State  State
	Reason string
	// Reservation, Given and PayBy are the offer, if one was made. The order has the reservation's number.
	Reservation levee.ReservationID
	Given       int32
	PayBy       time.Time
	EnteredAt   time.Time
	UpdatedAt   time.Time

	want int32 // what the offer asks for: what a draw's winner won, else Quantity
	seq  int64 // of its last change, among those of its line
}

// Order returns the offer's order: the reservation's number.
func (e Entry) Order() levee.OrderID { return levee.OrderID(e.Reservation) }

// Numbers returns how many wait in a sale's line (before a draw: how many entered) and how many have an offer. It asks memory
// only and may be called at any rate.
func (s *Service) Numbers(of levee.SaleID) (waiting, offered int64) {
	p := s.book.of(of)
	if p == nil {
		return 0, 0
	}
	c := p.counts()
	return c.Waiting + c.Entered, c.Offered
}

// Warm loads the places of every line that is alive. It is called once before the server listens, and is safe to call again.
func (s *Service) Warm(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "line.Warm")
	return s.look(ctx)
}

// inOrderTx reports whether the line has its order: a waiting list always, a draw's once it is drawn.
func (s *Service) inOrderTx(ctx context.Context, tx *db.Tx, h head) (bool, error) {
	if !h.draw {
		return true, nil
	}
	d, found, err := drawOf(ctx, tx, h.sale)
	return found && d.state == drawDone, err
}

// termsTx returns a sale's terms and how many of its units are free, both by SQL in this transaction: another node may have changed the
// terms a moment ago. The sale is locked.
func (s *Service) termsTx(ctx context.Context, tx *db.Tx, of levee.SaleID) (v *sale.Sale, free int64, err error) {
	v, _, stock, err := s.Sales.FreeTx(ctx, tx, of)
	return v, stock.Remaining, err
}

func (s *Service) saleRef(v levee.SaleID) string { return s.Sealer.Seal(levee.KindSale, int64(v)) }

func (s *Service) entryRef(e levee.EntryID) string { return s.Sealer.Seal(levee.KindEntry, int64(e)) }
