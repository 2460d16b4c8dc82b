// Package sale sells limited stock to a crowd: window, admission, gate, settlement, release and the ledger of every unit.
//
// It owns sales, their stock, reservations and ledger. It does not own products (catalog), orders (order) or money (payment):
// it takes units from catalog when a sale is scheduled, writes orders in its own settlement, and is told by order when one
// is paid or cancelled. SQL has the last word, the gate only says no, and a buyer is told "yes" after the commit.
package sale

import (
	"context"
	"embed"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/books"
	"levee/internal/catalog"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/recall"
	"levee/internal/tally"
	"levee/internal/terms"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the room's migrations.
func Schema() db.Schema { return db.Schema{Owner: "sale", FS: schemaFS} }

// Config of the sale engine. The zero value is usable.
type Config struct {
	// HoldFor is how long a buyer's request is held while his purchase commits; after it he gets 202 and a reservation to ask
	// for. Default 2 s, allowed 50 ms to 30 s. Shorter: more polling; longer: more open requests when the disk is slow.
	HoldFor time.Duration
	// BatchMax is the most purchases settled in one transaction. Default 256, allowed 1 to 4096. Larger: fewer commits, but
	// each waits longer.
	BatchMax int
	// WaitingMax is the most purchases that may wait for settlement, per sale; beyond it buyers get 503 and nothing is taken.
	// Default 20000, allowed 1 to 1000000. It bounds memory and the longest wait.
	WaitingMax int
	// GateLease is how old a taking of a gate that nodes share may become: then the node that took it has died or sleeps, any node gives its
	// units back, and its own node settles it no more. After half as much again its buyer is told that his place was lost, so clocks of
	// nodes must differ by less than that half. Default 10 s, allowed 1 s to 5 min. It must be longer than a node's longest line takes.
	GateLease time.Duration
	// ReconcileEvery is how often each live sale is proved against SQL. Default 30 s, allowed 1 s to 1 h.
	ReconcileEvery time.Duration
}

func (c *Config) fill() error {
	for _, f := range []struct {
		name     string
		v        *time.Duration
		def      time.Duration
		min, max time.Duration
	}{
		{"sale.hold_for", &c.HoldFor, 2 * time.Second, 50 * time.Millisecond, 30 * time.Second},
		{"sale.gate_lease", &c.GateLease, 10 * time.Second, time.Second, 5 * time.Minute},
		{"sale.reconcile_every", &c.ReconcileEvery, 30 * time.Second, time.Second, time.Hour},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.min || *f.v > f.max {
			return levee.Invalid(f.name, "a duration from "+f.min.String()+" to "+f.max.String(), *f.v)
		}
	}
	if c.BatchMax == 0 {
		c.BatchMax = 256
	}
	if c.BatchMax < 1 || c.BatchMax > 4096 {
		return levee.Invalid("sale.batch_max", "a number from 1 to 4096", c.BatchMax)
	}
	if c.WaitingMax == 0 {
		c.WaitingMax = 20_000
	}
	if c.WaitingMax < 1 || c.WaitingMax > 1_000_000 {
		return levee.Invalid("sale.waiting_max", "a number from 1 to 1000000", c.WaitingMax)
	}
	return nil
}

// Deps is what the room is built from.
type Deps struct {
	DB        *db.DB
	IDs       *id.Generator
	Sealer    *id.Sealer
	Obs       *obs.Obs
	Events    *event.Bus
	Push      *push.Hub
	Catalog   *catalog.Service
	Orders    *order.Service
	Admission *admission.Service
	Tally     *tally.Service // shows the numbers of sales to their operators; nil where nobody looks
	// Gates makes the gate of a sale that several nodes share; nil where this process is the only one that sells, with gates in its memory.
	Gates func(sale levee.SaleID, waitingMax int) *gate.Gate
	// Bell joins a bell that the nodes of a house share: ring tells the others, wake is called when another one rang. Neither waits. nil
	// with nil Gates; with Gates it may be nil, and other nodes' changes are seen by looking alone, within a second.
	Bell func(name string, wake func()) (ring func())
	// Authenticate verifies an access token without touching a database as a rule: the sold-out path calls it for every loser.
	Authenticate func(token string) (levee.Actor, error)
	Audit        catalog.Audit // writes acts into the trail; nil where there is none
	Config       Config
}

// Service is the room.
type Service struct {
	Deps
	lists   lists
	log     *slog.Logger
	metrics *metrics

	mu     sync.Mutex                          // serialises changes of the map of live sales
	live   atomic.Pointer[map[string]*live]    // by public id, replaced as a whole: the hot path reads it without a lock
	run    atomic.Pointer[runner]              // set while Run is under way
	joined sync.WaitGroup                      // settlers
	timeOf func(levee.ReservationID) time.Time // when a reservation's number was given; replaced by tests
	late   time.Duration                       // set by tests only: instead of Config.GateLease, for the follower alone
	fault  func(step string) error             // set by tests only: what fails or dies at a named step
	recall recall.Memory                       // what became of reservations that were answered 202

	ring func()        // tells the other nodes that a sale was changed or has units again
	rung chan struct{} // holds one signal while another node has rung

	onFree      func(ctx context.Context, tx *db.Tx, v *Sale) error // set before Warm
	lineNumbers func(levee.SaleID) (waiting, offered int64)         // set before Run
}

type runner struct{ ctx context.Context }

// step is where a test may break the engine: it returns an error to inject, and may panic to simulate a kill.
func (s *Service) step(name string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(name)
}

// pass is a step outside of a transaction, which cannot fail: a test lets others act in this moment, or panics.
func (s *Service) pass(name string) {
	if s.fault != nil {
		_ = s.fault(name)
	}
}

// State of a sale as it is stored. Whether a scheduled sale is open follows from the clock.
type State string

// The states. A paused sale lets what is in the gate settle; a stopped one refuses that too. Ended is final.
const (
	StateDraft     State = "draft"
	StateScheduled State = "scheduled"
	StatePaused    State = "paused"
	StateStopped   State = "stopped"
	StateEnded     State = "ended"
)

// Phase is what a sale is at a moment, by its state and the clock.
type Phase string

// The phases.
const (
	PhaseDraft    Phase = "draft"
	PhaseUpcoming Phase = "upcoming"
	PhaseOpen     Phase = "open"
	PhaseSoldOut  Phase = "sold_out" // of an open race, while no unit is free
	PhaseEntry    Phase = "entry"    // of a draw: entries are taken
	PhaseDrawn    Phase = "drawn"    // of a draw: its moment has passed
	PhasePaused   Phase = "paused"
	PhaseEnded    Phase = "ended"
)

// Mode is how a sale's units are given.
type Mode = terms.Mode

// The modes. In a race units are taken, first come, first served; in a draw they are given by lot to those who entered.
const (
	ModeRace = terms.ModeRace
	ModeDraw = terms.ModeDraw
)

// Sale is one sale's terms. Times are UTC, units and limits are counts. What the room hands out may be shared by all who read it and
// must not be changed.
type Sale struct {
	ID            levee.SaleID
	Title         string
	Product       levee.ProductID
	SKU           levee.SKUID
	Price         levee.Money
	Units         int64 // what a draft will offer when it is scheduled
	PerBuyer      int32
	StartsAt      time.Time
	EndsAt        time.Time
	PayWithin     time.Duration
	State         State
	ForcedSoldOut bool
	Mode          Mode
	// DrawAt is when a draw takes no more entries and is drawn; zero for a race.
	DrawAt time.Time
	// WaitingList tells whether buyers may wait for units that come back. A draw always has one.
	WaitingList bool
	// Admission is what stands before the sale.
	Admission admission.Policy
	// TokenNeeded tells whether a purchase needs an admission token.
	TokenNeeded bool
	// Rehearsal sales sell to invented buyers and operators only, take no stock from the catalog, and are left out of the public lists.
	Rehearsal bool
	Version   int64
	CreatedBy levee.UserID
	CreatedAt time.Time
	UpdatedAt time.Time

	early *atomic.Pointer[refusal] // "not open yet", made once per version of the terms
}

// upcoming returns the refusal before the start.
func (s *Sale) upcoming() *refusal {
	if r := s.early.Load(); r != nil {
		return r
	}
	r := s.notOpen()
	s.early.Store(r)
	return r
}

// PhaseAt tells what the sale is at a moment.
func (s *Sale) PhaseAt(now time.Time) Phase {
	switch {
	case s.State == StateDraft:
		return PhaseDraft
	case s.State == StateEnded || !now.Before(s.EndsAt):
		return PhaseEnded
	case s.State == StatePaused || s.State == StateStopped:
		return PhasePaused
	case now.Before(s.StartsAt):
		return PhaseUpcoming
	case s.Mode != ModeDraw:
		return PhaseOpen
	case now.Before(s.DrawAt):
		return PhaseEntry
	}
	return PhaseDrawn
}

// Stock is a sale's account by SQL: offered - withdrawn = remaining + reserved + sold.
type Stock = books.Stock

// ReservationState of a row of sale_reservation.
type ReservationState int8

// The states of a reservation in SQL.
const (
	Reserved ReservationState = 1
	Sold     ReservationState = 2
	Released ReservationState = 3
)

func (r ReservationState) String() string {
	switch r {
	case Reserved:
		return "reserved"
	case Sold:
		return "sold"
	case Released:
		return "released"
	}
	return "unknown"
}

// Reservation is what a buyer took. Its order has the same number.
type Reservation struct {
	ID       levee.ReservationID
	Sale     levee.SaleID
	Buyer    levee.UserID
	Quantity int32
	State    ReservationState
	key, seq int64
}

// maxReason is how long a reason may be, in bytes.
const maxReason = 180

// New builds the room and joins it to order as the source "sale" and "rehearsal". It fails with CodeInvalid on a config value
// out of bounds. Nothing sells before Warm.
func New(d Deps) (*Service, error) {
	if err := d.Config.fill(); err != nil {
		return nil, err
	}
	s := &Service{Deps: d, lists: newLists(d.Sealer), log: d.Obs.Named("sale"), ring: func() {}, rung: make(chan struct{}, 1),
		timeOf: func(r levee.ReservationID) time.Time { return id.TimeOf(int64(r)) }, late: d.Config.GateLease}
	s.live.Store(&map[string]*live{})
	s.metrics = newMetrics(d.Obs, s.refusedFast)
	if d.Bell != nil {
		s.ring = d.Bell("sale", s.heard)
	}
	d.Orders.AddSource(sourceSale, (*source)(s))
	d.Orders.AddSource(sourceRehearsal, (*source)(s))
	return s, nil
}

// The names under which orders of this room are kept.
const (
	sourceSale      = "sale"
	sourceRehearsal = "rehearsal"
)

func (s *Sale) source() string {
	if s.Rehearsal {
		return sourceRehearsal
	}
	return sourceSale
}

// Run settles purchases, keeps the switches true to the clock, ends sales that are over and proves the accounts, until ctx
// ends. Then no purchase is admitted any more, and those under way are settled before it returns.
func (s *Service) Run(ctx context.Context) error {
	r := &runner{ctx: ctx}
	s.mu.Lock()
	s.run.Store(r)
	for _, l := range *s.live.Load() {
		s.startSettler(r, l)
	}
	s.mu.Unlock()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	reconcile := time.NewTicker(s.Config.ReconcileEvery)
	defer reconcile.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-tick.C:
			s.housekeep(ctx)
		case <-look.C:
			s.lookAround(ctx)
		case <-s.rung:
			s.lookAround(ctx)
		case <-reconcile.C:
			s.reconcileAll(ctx)
		case <-ctx.Done():
			s.mu.Lock()
			s.run.Store(nil)
			s.mu.Unlock()
			s.joined.Wait()
			return nil
		}
	}
}

// housekeep moves every switch to what clock and gate say, ends what is over and tells the pages. It is the net under the
// switch: whatever message was missed is made good within a tick.
func (s *Service) housekeep(ctx context.Context) {
	now := s.Obs.Clock()
	for _, l := range *s.live.Load() {
		l.refreshSwitch(now)
		v := l.view.Load()
		if v.State != StateEnded && !now.Before(v.EndsAt) {
			_, err := s.Do(ctx, v.ID, Command{Act: "end", Reason: "the sale's time is over"}, levee.System)
			if err != nil && ctx.Err() == nil && levee.CodeOf(err) != levee.CodeConflict {
				s.log.Error("a sale that is over could not be ended; it is tried again", "sale", v.ID, "err", err)
			}
		}
		s.publish(l, now)
	}
	s.recall.Sweep(now)
}
