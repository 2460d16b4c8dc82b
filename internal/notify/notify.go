// Package notify owns what to tell whom: notices in the page, and signed webhooks to other systems.
//
// It does not own what happened: orders, sales and lines say so by events. It reads an order when it tells of it, and changes
// nothing but its own tables.
//
// The way of a fact: a listener notes it down in one small row (notify_heard), inside the event's delivery and so exactly once.
// A writer turns these rows into notices and deliveries in bulk, off the path of purchases. A lane for each webhook sends the
// deliveries over HTTP. All three steps stand in SQL, so a kill repeats at most the sending: receivers know repeats by webhook-id.
//
// The promises:
//
//   - A webhook is told of each step of an order once, in the order of the steps, whatever the order in which the events came: the
//     order's own history says what comes before what.
//   - The deliveries of one webhook and order go one after the other; the next waits until the one before was answered with 2xx or
//     is parked. Different orders go side by side, at most Config.Parallel at once for a webhook; webhooks do not wait for each other.
//   - A receiver that is away loses nothing for Config.GiveUpAfter: it is asked now and then by one delivery, and gets everything as
//     soon as it answers. Nothing is switched off silently.
//   - No delivery reaches an inner address (guard.go) unless the operator has listed it.
package notify

import (
	"context"
	"embed"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/listing"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/platform/schedule"
	"levee/internal/sale"
	"levee/internal/trail"
)

// Bounds of the room.
const (
	maxWebhooks    = 50
	maxURL         = 1000 // bytes
	maxDescription = 180  // bytes
	maxAnswer      = 64 << 10
	keptAnswer     = 1 << 10
	keptError      = 180
	noticesKept    = 90 * 24 * time.Hour
	noticesPerUser = 200
	logKept        = 30 * 24 * time.Hour
	overlap        = 24 * time.Hour // how long a replaced secret signs too
	replayMost     = 100_000        // deliveries that one request sends again
)

// Config of the room. The zero value is usable.
type Config struct {
	// AllowHosts are exceptions from the guard against inner addresses, for shops next door: host names, addresses, or networks
	// (10.0.7.0/24). A name that is listed may be spoken to by plain http and whatever it resolves to. Whoever may make webhooks
	// can make the house send requests to all of them.
	AllowHosts []string
	// Timeout of one attempt, from dialling to the end of the answer. Default 10 s, allowed 100 ms to 1 min.
	Timeout time.Duration
	// Parallel is how many requests may be under way to one webhook. Default 8, allowed 1 to 64.
	Parallel int
	// RetryFirst is the pause after the first failure, doubled after each further one up to RetryMost. Defaults 5 s and 15 min,
	// allowed 10 ms to 1 h and RetryFirst to 24 h.
	RetryFirst time.Duration
	RetryMost  time.Duration
	// GiveUpAfter is the age at which a delivery that still fails is parked. Default 72 h, allowed 1 min to 30 days.
	GiveUpAfter time.Duration
	// FailingAfter is how many failures in a row make a webhook count as failing: from then on one delivery at a time is tried, at
	// growing pauses of at most a minute, until one arrives. Default 10, allowed 1 to 1000.
	FailingAfter int
}

func (c Config) normal() (Config, error) {
	def(&c.Timeout, 10*time.Second)
	def(&c.Parallel, 8)
	def(&c.RetryFirst, 5*time.Second)
	def(&c.RetryMost, max(15*time.Minute, c.RetryFirst))
	def(&c.GiveUpAfter, 72*time.Hour)
	def(&c.FailingAfter, 10)
	for _, d := range []struct {
		key                string
		given, least, most time.Duration
	}{
		{"timeout", c.Timeout, 100 * time.Millisecond, time.Minute},
		{"retry_first", c.RetryFirst, 10 * time.Millisecond, time.Hour},
		{"retry_most", c.RetryMost, c.RetryFirst, 24 * time.Hour},
		{"give_up_after", c.GiveUpAfter, time.Minute, 30 * 24 * time.Hour},
	} {
		if d.given < d.least || d.given > d.most {
			return c, levee.Invalid("notify."+d.key, d.least.String()+" to "+d.most.String(), d.given)
		}
	}
	switch {
	case c.Parallel < 1 || c.Parallel > 64:
		return c, levee.Invalid("notify.parallel", "1 to 64", c.Parallel)
	case c.FailingAfter < 1 || c.FailingAfter > 1000:
		return c, levee.Invalid("notify.failing_after", "1 to 1000", c.FailingAfter)
	}
	return c, nil
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Deps is what the room stands on.
type Deps struct {
	DB       *db.DB
	IDs      *id.Generator
	Sealer   *id.Sealer
	Obs      *obs.Obs
	Push     *push.Hub
	Identity *identity.Service
	Trail    *trail.Service
	Orders   *order.Service
	Sales    *sale.Service // nil: no sale is a rehearsal
	// Key seals the webhooks' secrets: 32 bytes, secret and the same for ever.
	Key    []byte
	Config Config
	// Bell joins a bell that the nodes of a house share: ring tells the others, wake is called when another one rang. Neither waits. nil
	// where there are no others; without it the keeper finds what they left within a second, and at a failing webhook tries it within a minute.
	Bell func(name string, wake func()) (ring func())
}

// Service is the room. Safe for concurrent use.
type Service struct {
	notices    *listing.List[noticeView]
	deliveries *listing.List[deliveryView]
	db         *db.DB
	ids        *id.Generator
	sealer     *id.Sealer
	push       *push.Hub
	identity   *identity.Service
	trail      *trail.Service
	orders     *order.Service
	rehearsal  func(ctx context.Context, sale levee.SaleID) (bool, error)
	clock      obs.Clock
	log        *slog.Logger
	metrics    *metrics
	cfg        Config
	vault      *vault
	guard      *guard
	post       poster
	resolver   *net.Resolver // nil: the system's; tests resolve as they like
	// fault is called before what the keeper does is checked against its term; tests hold a node still with it.
	fault func()

	term                 atomic.Pointer[node.Term] // holds while this node keeps Duty
	tellHeard, tellAsked func()                    // ring the other nodes

	hooks   atomic.Pointer[[]*webhook] // all that are not deleted; replaced in the order of commits
	heard   chan struct{}              // capacity 1: there are rows to write out
	changed chan struct{}              // capacity 1: hooks were replaced
	mu      sync.Mutex                 // guards lanes
	lanes   map[levee.WebhookID]*lane
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables notify_*.
func Schema() db.Schema { return db.Schema{Owner: "notify", FS: schemaFS} }

// New builds the room. It fails with CodeInvalid for a config value out of bounds or a key that has not 32 bytes. Warm comes next.
func New(d Deps) (_ *Service, err error) {
	defer levee.Wrap(&err, "notify.New")
	cfg, err := d.Config.normal()
	if err != nil {
		return nil, err
	}
	s := &Service{notices: noticeList(d.Sealer), deliveries: deliveryList(d.Sealer), db: d.DB, ids: d.IDs, sealer: d.Sealer, push: d.Push, identity: d.Identity, trail: d.Trail, orders: d.Orders, clock: d.Obs.Clock,
		log: d.Obs.Named("notify"), metrics: newMetrics(d.Obs.Metrics), cfg: cfg, fault: func() {},
		tellHeard: func() {}, tellAsked: func() {}, heard: make(chan struct{}, 1), changed: make(chan struct{}, 1), lanes: map[levee.WebhookID]*lane{}}
	if s.guard, err = newGuard(cfg.AllowHosts); err != nil {
		return nil, err
	}
	if s.vault, err = newVault(d.Key); err != nil {
		return nil, err
	}
	s.rehearsal = func(ctx context.Context, id levee.SaleID) (bool, error) {
		if d.Sales == nil {
			return false, nil
		}
		v, err := d.Sales.ByID(ctx, id)
		return err == nil && v.Rehearsal, err
	}
	s.post = newPoster(s)
	s.hooks.Store(&[]*webhook{})
	s.term.Store(&node.Term{})
	if d.Bell != nil {
		s.tellHeard = d.Bell("notify.heard", func() { ring(s.heard) })
		s.tellAsked = d.Bell("notify.asked", s.asked)
	}
	return s, nil
}

// Warm reads the webhooks. It must come before Serve and before events arrive.
func (s *Service) Warm(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "notify.Warm")
	hooks, err := readWebhooks(ctx, s.db.Query)
	if err != nil {
		return err
	}
	s.hooks.Store(&hooks)
	return nil
}

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{
		schedule.Every("notify.prune", time.Hour, job.Options{Timeout: 10 * time.Minute}, s.Prune),
		schedule.Every("notify.give_up", 5*time.Minute, job.Options{Timeout: 4 * time.Minute}, s.GiveUp),
	}
}

// ring wakes whoever waits on a bell of capacity 1; a ring is remembered, never waited for.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// rest waits for a bell, at most d, and reports whether ctx goes on.
func rest(ctx context.Context, bell <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-bell:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
