// Package order owns what was bought: the order, its lines and its history, from creation to delivery, cancellation or refund.
//
// It does not own stock (the source that gave the units takes them back), money (payment tells it when an order is paid or
// refunded), or prices (they are written into the order when it is made).
//
// Every step of an order is one compare-and-set on its row, so of a payment and an expiry in the same instant exactly one
// wins, and only the winner touches the source's stock, in the same transaction.
package order

import (
	"context"
	"embed"
	"log/slog"
	"time"

	"levee"
	"levee/internal/catalog"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
)

// Bounds of one order and one batch. A sum of 50 lines of the largest quantity and price still fits into 63 bits or is refused.
const (
	maxLines    = 50
	maxQuantity = 1_000_000
	maxTitle    = 190  // bytes; what the column holds
	maxReason   = 180  // bytes; leaves room for the mark of a shortened text
	maxBatch    = 4096 // orders in one CreateManyTx: one event names them all and must stay below the event's 256 KiB
)

// Config of the room. The zero value is usable.
type Config struct {
	// PayWithin is how long an ordinary order waits for its money. Default 30 minutes, allowed 1 minute to 7 days. Too short and
	// slow payers lose their goods; too long and unpaid orders hold stock. A sale sets its own.
	PayWithin time.Duration
	// Grace is how long past its deadline an unpaid order is kept while the payment provider cannot be asked about it. Default
	// 2 hours, allowed 0 to 7 days. After it the order is cancelled unasked, and money that turns out to have come is revived
	// into the order or refunded. Below zero means none.
	Grace time.Duration
}

func (c Config) normal() (Config, error) {
	if c.PayWithin == 0 {
		c.PayWithin = 30 * time.Minute
	}
	if c.PayWithin < time.Minute || c.PayWithin > 7*24*time.Hour {
		return c, levee.Invalid("order.pay_within", "between 1m and 168h", c.PayWithin)
	}
	switch {
	case c.Grace == 0:
		c.Grace = 2 * time.Hour
	case c.Grace < 0:
		c.Grace = 0
	case c.Grace > 7*24*time.Hour:
		return c, levee.Invalid("order.grace", "at most 168h", c.Grace)
	}
	return c, nil
}

// Deps is what the room stands on. Catalog may be nil where only sources of other rooms sell; Buy then answers CodeUnavailable.
type Deps struct {
	DB      *db.DB
	IDs     *id.Generator
	Sealer  *id.Sealer
	Obs     *obs.Obs
	Events  *event.Bus
	Jobs    *job.Jobs
	Catalog *catalog.Service
	Clock   obs.Clock // nil: Obs.Clock
	// Audit writes what operators do to orders into the trail; nil where there is none.
	Audit  catalog.Audit
	Config Config
}

// Source is who gave an order its units. All methods run inside the transaction of the order's step, and only for the winner
// of that step, so each happens once; an error undoes the step.
type Source interface {
	// ReleaseTx takes the units of a cancelled order back.
	ReleaseTx(ctx context.Context, tx *db.Tx, o Order, reason string) error
	// SoldTx hears that the order is paid: its units are sold.
	SoldTx(ctx context.Context, tx *db.Tx, o Order) error
	// ReviveTx takes the units of a cancelled order once more, as sold, because its money came after all. False: they are not
	// free any more, and nothing was written; the money goes back. SoldTx is not called after it.
	ReviveTx(ctx context.Context, tx *db.Tx, o Order) (bool, error)
}

// Refunder is a Source that wants to hear of refunds, too: once, in the transaction in which the refund is confirmed.
type Refunder interface {
	// RefundedTx hears that the order's money went back. Shipped tells whether the goods had left before.
	RefundedTx(ctx context.Context, tx *db.Tx, o Order, shipped bool) error
}

// Line is one SKU in an order, with its title and price at the time of buying.
type Line struct {
	SKU      levee.SKUID
	Product  levee.ProductID
	Title    string // at most 190 bytes; longer is shortened
	Quantity int32
	Price    levee.Money // of one unit
}

// New is an order to be made by CreateManyTx. ID comes from the caller (a sale gives its reservation's number).
type New struct {
	ID        levee.OrderID
	Buyer     levee.UserID
	Source    string // as given to AddSource
	SourceRef int64  // the source's own number for it: a sale
	Lines     []Line // 1 to 50, one currency
	CreatedAt time.Time
	PayBy     time.Time
}

// Order is one order.
type Order struct {
	ID        levee.OrderID
	Buyer     levee.UserID
	Source    string
	SourceRef int64
	State     State
	Total     levee.Money
	PayBy     time.Time // zero once the order has left StateCreated
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64 // 1, and one more with each step
	Lines     []Line
}

// Entry is one step in an order's life. The first has From 0 and is its creation.
type Entry struct {
	From, To State
	Actor    levee.UserID
	Ref      int64 // what caused it: a levee.PaymentID for paid, else 0
	Reason   string
	At       time.Time
}

// PaidBy is the payment that pays an order. Payment 0 is an order that costs nothing.
type PaidBy struct {
	Payment levee.PaymentID
	At      time.Time
}

// Outcome is what became of money that came for an order.
type Outcome uint8

// The outcomes. With OutcomeAlreadyPaid and OutcomeTooLate the money bought nothing and must go back, unless it is the very
// payment that paid the order.
const (
	OutcomePaid        Outcome = 1 + iota // this payment paid the order
	OutcomeAlreadyPaid                    // the order is or was paid already
	OutcomeRevived                        // the order had expired; its units were free and it is paid now
	OutcomeTooLate                        // the order is cancelled and stays so
)

// String names the outcome, for logs and metrics.
func (o Outcome) String() string {
	switch o {
	case OutcomePaid:
		return "paid"
	case OutcomeAlreadyPaid:
		return "already_paid"
	case OutcomeRevived:
		return "revived"
	case OutcomeTooLate:
		return "too_late"
	}
	return "none"
}

// Service is the room. Safe for concurrent use.
type Service struct {
	db      *db.DB
	ids     *id.Generator
	sealer  *id.Sealer
	events  *event.Bus
	catalog *catalog.Service
	clock   obs.Clock
	audit   catalog.Audit
	log     *slog.Logger
	metrics *metrics
	cfg     Config
	sources map[string]Source // written before start only
	list    *listing.List[orderView]
	ask     func(context.Context, levee.OrderID) (bool, error)
	batches batchPool
	failAt  func(point string) error // tests only: fails a transaction between two of its steps
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables order_*.
func Schema() db.Schema { return db.Schema{Owner: "order", FS: schemaFS} }

// Open builds the room, with the catalog joined as the source "shop". It is not called New because that is an order to be
// made. It fails with CodeInvalid for a config value out of bounds.
func Open(d Deps) (_ *Service, err error) {
	defer levee.Wrap(&err, "order.Open")
	cfg, err := d.Config.normal()
	if err != nil {
		return nil, err
	}
	if d.Clock == nil {
		d.Clock = d.Obs.Clock
	}
	m, err := newMetrics(d.Obs.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: d.DB, ids: d.IDs, sealer: d.Sealer, events: d.Events, catalog: d.Catalog, clock: d.Clock, audit: d.Audit, log: d.Obs.Named("order"),
		metrics: m, cfg: cfg, sources: map[string]Source{}, list: orderList(d.Sealer),
	}
	s.AddSource(sourceShop, (*shop)(s))
	return s, nil
}

// AddSource joins a source under the name which its orders carry, at most 32 bytes. All sources join before the first order
// is made or moved. A name that is empty, too long or taken is a defect of the program and panics.
func (s *Service) AddSource(name string, src Source) {
	if name == "" || len(name) > 32 || src == nil || s.sources[name] != nil {
		panic("order.AddSource: bad or taken source name " + name)
	}
	s.sources[name] = src
}

// AskProvider sets the function which is asked, outside of any transaction, whether an unpaid order has been paid after all
// before it is cancelled by expiry. It records the money itself (MarkPaidTx) before it answers true. On an error the order is
// kept and asked about again later, at most Config.Grace beyond its deadline. Set before Jobs run.
func (s *Service) AskProvider(fn func(context.Context, levee.OrderID) (paid bool, err error)) {
	s.ask = fn
}

// ByID returns an order to its buyer or an operator. For anybody else it does not exist: CodeNotFound.
func (s *Service) ByID(ctx context.Context, actor levee.Actor, id levee.OrderID) (_ Order, err error) {
	defer levee.Wrap(&err, "order.ByID(%d)", id)
	o, err := loadOrder(db.Primary(ctx), s.db.Query, id)
	if err != nil {
		return Order{}, err
	}
	if !maySee(actor, o) {
		return Order{}, notFound()
	}
	return o, nil
}

// LockTx keeps everybody else from changing an order before the caller's transaction ends, where transactions run side by side. Who
// changes what belongs to an order (its payments, its units) locks the order first. An order that does not exist is no error.
func (s *Service) LockTx(ctx context.Context, tx *db.Tx, id levee.OrderID) error {
	lock := s.db.Dialect().ForUpdate()
	if lock == "" {
		return nil
	}
	return lockHead(ctx, tx, lock, id)
}

// ByIDTx returns an order within a transaction, as its last writer left it. It asks for no right. CodeNotFound.
func (s *Service) ByIDTx(ctx context.Context, tx *db.Tx, id levee.OrderID) (Order, error) {
	return loadOrder(ctx, tx.Query, id)
}

// Ask reads a question about the list of orders, as GET /v1/orders takes it after its question mark. CodeInvalid names the parameter.
func (s *Service) Ask(question string) (*listing.Query, error) { return s.list.Ask(question) }

// List returns a page of orders. An actor who is no operator sees only his own. A page may hold fewer orders than asked for, even none, and still
// have a next one: an operator's filters look at a bounded number of orders per page.
func (s *Service) List(ctx context.Context, actor levee.Actor, q *listing.Query) (_ *listing.Found[Order], err error) {
	defer levee.Wrap(&err, "order.List")
	if !isOperator(actor) {
		if buyer := levee.UserID(q.Number("buyer")); buyer != 0 && buyer != actor.User {
			return nil, notFound()
		}
		if !actor.SignedIn() {
			return nil, levee.E(levee.CodeUnauthenticated, "sign in to see your orders")
		}
		q.Where("buyer_id = ?", int64(actor.User))
	}
	return listOrders(ctx, s.db.Query, q)
}

// Timeline returns an order's steps, oldest first, to its buyer or an operator; CodeNotFound for anybody else.
func (s *Service) Timeline(ctx context.Context, actor levee.Actor, id levee.OrderID) (_ []Entry, err error) {
	defer levee.Wrap(&err, "order.Timeline(%d)", id)
	o, err := s.ByID(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	steps, err := loadHistory(db.Primary(ctx), s.db.Query, id)
	if err != nil {
		return nil, err
	}
	return append([]Entry{creation(o)}, steps...), nil
}

// creation is the first step of an order, which its own row tells.
func creation(o Order) Entry {
	return Entry{To: StateCreated, Actor: o.Buyer, Reason: o.Source, At: o.CreatedAt}
}

// isOperator reports whether the actor deals with everybody's orders.
func isOperator(a levee.Actor) bool { return a.May(levee.OrdersOfOthers) }

func maySee(a levee.Actor, o Order) bool { return a.Reaches(o.Buyer, levee.OrdersOfOthers) }

func notFound() error { return levee.E(levee.CodeNotFound, "there is no such order") }
