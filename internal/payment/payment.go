// Package payment owns money on its way: attempts to pay an order at a provider, the providers' notifications, and refunds.
//
// It does not own what the money is for: it tells order that an order is paid, in one transaction with its own books, and
// takes order's word for what becomes of money that came too late. It never believes a browser that comes back from the
// provider: only a signed notification or the provider's signed answer to a question moves money here.
//
// Each promise rests on one mechanism. Money is booked once: a compare-and-set on the attempt. A notification has its effect
// once: a unique row in the same transaction. Money that bought nothing goes back: a refund row in that same transaction,
// which is tried until the provider confirms it. A lost answer is never taken for a refusal: a refund has a number of its own,
// the provider is asked about that number before it is told again.
package payment

import (
	"context"
	"embed"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// Config of the room. The zero value has no provider: nothing but orders that cost nothing can be paid.
type Config struct {
	// PublicURL is where providers and browsers reach this house: "https://shop.example". Default http://127.0.0.1:8080. When it
	// is wrong no notification arrives, and payments are found only by asking (up to half a minute later).
	PublicURL string
	// ReturnPath is the page to which the provider sends the payer back; "{order}" in it becomes the order's public id. Default
	// "/orders/{order}".
	ReturnPath string
	// Sandbox is the provider "test", which moves no money.
	Sandbox SandboxConfig
}

// SandboxConfig of the provider "test".
type SandboxConfig struct {
	// Enabled offers it to buyers. Whoever is offered it can have goods for nothing: only for trials and demonstrations.
	Enabled bool
	// URL is where the provider is; default PublicURL + "/test-provider", where it runs inside this house.
	URL string
	// Dir holds the keys of both sides where the provider runs elsewhere (URL), made when they are missing. Inside the house they are in
	// its database, and taken over from here at the first start. Default "data/sandbox".
	Dir string
	// Merchant is our number at the provider. Default "levee".
	Merchant string
}

func (c Config) normal() (Config, error) {
	if c.PublicURL == "" {
		c.PublicURL = "http://127.0.0.1:8080"
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	if c.ReturnPath == "" {
		c.ReturnPath = "/orders/{order}"
	}
	if !strings.HasPrefix(c.ReturnPath, "/") || strings.HasPrefix(c.ReturnPath, "//") {
		return c, levee.Invalid("payment.return_path", "a path that begins with one /", c.ReturnPath)
	}
	if c.Sandbox.URL == "" {
		c.Sandbox.URL = c.PublicURL + "/test-provider"
	}
	if c.Sandbox.Dir == "" {
		c.Sandbox.Dir = "data/sandbox"
	}
	if c.Sandbox.Merchant == "" {
		c.Sandbox.Merchant = "levee"
	}
	for name, text := range map[string]string{"payment.public_url": c.PublicURL, "payment.sandbox.url": c.Sandbox.URL} {
		u, err := url.Parse(text)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return c, levee.Invalid(name, "an http or https address without query", text)
		}
	}
	return c, nil
}

// Deps is what the room stands on.
type Deps struct {
	DB     *db.DB
	IDs    *id.Generator
	Sealer *id.Sealer
	Obs    *obs.Obs
	Events *event.Bus
	Orders *order.Service
	Clock  obs.Clock // nil: Obs.Clock
	// Audit writes what operators do to payments into the trail; nil where there is none.
	Audit  func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error
	Config Config
}

// State is where an attempt stands. The numbers are kept in SQL: a value is never reused.
type State uint8

// The states of an attempt. Money is money: a failed or closed attempt that turns out to be paid is booked as paid.
const (
	StateStarted   State = 1 // the payer was sent to the provider
	StatePaid      State = 2 // the provider has the money
	StateFailed    State = 3 // the provider says that the payer's try failed
	StateClosed    State = 4 // the provider takes no money for it any more
	StateRefunding State = 5 // the money is on its way back
	StateRefunded  State = 6 // the provider confirmed that it went back
)

// String returns the state's name as the world sees it.
func (s State) String() string {
	names := [...]string{"none", "started", "paid", "failed", "closed", "refunding", "refunded"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Attempt is one attempt to pay an order.
type Attempt struct {
	ID          levee.PaymentID
	Order       levee.OrderID
	Number      int
	Buyer       levee.UserID
	Provider    string
	State       State
	PaidOrder   bool // this attempt's money paid the order
	Amount      levee.Money
	ProviderRef string // the provider's own number; "" until it told
	PayBy       time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
	asked       int
	askAt       int64 // 0: not any more
}

// RefundState is where a refund stands.
type RefundState uint8

// The states of a refund.
const (
	RefundPending RefundState = 1 // not confirmed yet; tried until it is
	RefundDone    RefundState = 2 // the provider confirmed it
	RefundRefused RefundState = 3 // the provider refused it for good; an operator may try anew
)

// String returns the state's name as the world sees it.
func (s RefundState) String() string {
	names := [...]string{"none", "pending", "done", "refused"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Refund is the whole amount of one attempt on its way back.
type Refund struct {
	ID        levee.RefundID
	Payment   levee.PaymentID
	Order     levee.OrderID
	State     RefundState
	ForOrder  bool // the order waits for it; false for money that bought nothing
	Amount    levee.Money
	Reason    string
	Actor     levee.UserID
	Tries     int
	LastError string // of the last try, for operators
	CreatedAt time.Time
	UpdatedAt time.Time
	dueAt     int64 // 0: over
}

// Service is the room. Safe for concurrent use.
type Service struct {
	db       *db.DB
	ids      *id.Generator
	sealer   *id.Sealer
	events   *event.Bus
	orders   *order.Service
	clock    obs.Clock
	audit    func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error
	log      *slog.Logger
	metrics  *metrics
	cfg      Config
	gateways map[string]*guard
	failAt   func(point string) error // tests only: fails between two steps
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables payment_*.
func Schema() db.Schema { return db.Schema{Owner: "payment", FS: schemaFS} }

// New builds the room and joins it to order as the one who knows whether an unpaid order was paid after all. It makes the
// test provider's keys when that is enabled and they are missing. CodeInvalid for a config value that cannot be.
func New(d Deps) (_ *Service, err error) {
	defer levee.Wrap(&err, "payment.New")
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
		db: d.DB, ids: d.IDs, sealer: d.Sealer, events: d.Events, orders: d.Orders, clock: d.Clock, audit: d.Audit, log: d.Obs.Named("payment"),
		metrics: m, cfg: cfg, gateways: map[string]*guard{},
	}
	s.join(free{})
	if cfg.Sandbox.Enabled {
		keys, err := sandboxKeysOf(context.Background(), d, cfg.Sandbox.Dir)
		if err != nil {
			return nil, err
		}
		s.join(newSandboxGateway(cfg.Sandbox, keys))
	}
	d.Orders.AskProvider(s.ask)
	return s, nil
}

func (s *Service) join(g gateway) { s.gateways[g.Name()] = &guard{gateway: g, clock: s.clock} }

// Providers returns the names of the providers a buyer may choose from.
func (s *Service) Providers() []string {
	var names []string
	for name := range s.gateways {
		if name != providerFree {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ByID returns an attempt with its refunds, oldest first, to its buyer or an operator; CodeNotFound for anybody else.
func (s *Service) ByID(ctx context.Context, actor levee.Actor, id levee.PaymentID) (_ Attempt, _ []Refund, err error) {
	defer levee.Wrap(&err, "payment.ByID(%d)", id)
	a, err := loadAttempt(db.Primary(ctx), s.db.Query, id, "")
	if err != nil {
		return Attempt{}, nil, err
	}
	if !actor.Reaches(a.Buyer, levee.OrdersOfOthers) {
		return Attempt{}, nil, notFound()
	}
	refunds, err := refundsOf(db.Primary(ctx), s.db.Query, id)
	return a, refunds, err
}

// ByOrder returns an order's attempts, oldest first, to its buyer or an operator; CodeNotFound for anybody else.
func (s *Service) ByOrder(ctx context.Context, actor levee.Actor, id levee.OrderID) (_ []Attempt, err error) {
	defer levee.Wrap(&err, "payment.ByOrder(%d)", id)
	if _, err := s.orders.ByID(ctx, actor, id); err != nil {
		return nil, err
	}
	return attemptsOf(db.Primary(ctx), s.db.Query, id)
}

// isOperator reports whether the actor deals with everybody's payments.
func isOperator(a levee.Actor) bool { return a.May(levee.OrdersOfOthers) }

func notFound() error { return levee.E(levee.CodeNotFound, "there is no such payment") }

// fault lets a test fail between any two steps.
func (s *Service) fault(point string) error {
	if s.failAt == nil {
		return nil
	}
	return s.failAt(point)
}
