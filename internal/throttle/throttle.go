// Package throttle owns the rates that an administrator sets while the house runs: it keeps them in SQL, gives them to this node's limits and
// tells the other nodes. It does not count anything: platform/limit does, and knows what each limit is.
package throttle

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the room's table.
func Schema() db.Schema { return db.Schema{Owner: "throttle", FS: schemaFS} }

// Audit writes an act of the context's actor into the trail, in the caller's transaction. Before and after are values that encode to JSON.
type Audit func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error

// Deps are what the room is built from.
type Deps struct {
	DB     *db.DB
	Sealer *id.Sealer
	Obs    *obs.Obs
	Limits *limit.Limits
	Audit  Audit
	// Bell rings on the other nodes of the house; nil where there are none.
	Bell func(name string, wake func()) (ring func())
}

// lookEvery is how often a node that has others beside it looks at SQL by itself: the bell is rung at once, but a ring may be lost, and there is
// none while Redis is away.
const lookEvery = 500 * time.Millisecond

// Service is the room. It is made by New; Warm loads the rates, Run follows those of other nodes.
type Service struct {
	Deps
	log  *slog.Logger
	ring func()
	wake chan struct{}

	mu     sync.Mutex // guards loading: a load that began later must not be overtaken
	failed bool       // the last load failed, and was logged
	odd    string     // what the last load found and could not use, and logged
}

// New makes the room.
func New(d Deps) *Service {
	s := &Service{Deps: d, log: d.Obs.Named("throttle"), ring: func() {}, wake: make(chan struct{}, 1)}
	if d.Bell != nil {
		s.ring = d.Bell("throttle", func() {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		})
	}
	return s
}

// Warm gives this node's limits the rates that were set. It is called before the first request; CodeUnavailable when SQL is away.
func (s *Service) Warm(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "throttle.Warm")
	return s.load(ctx)
}

// Run follows what other nodes set until ctx ends, within a second. While SQL is away the rates stay as they are.
func (s *Service) Run(ctx context.Context) error {
	var tick <-chan time.Time
	if s.Bell != nil {
		t := time.NewTicker(lookEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick:
		}
		err := s.load(ctx)
		s.mu.Lock()
		if first := err != nil && !s.failed; first && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the rates that were set cannot be read; those of before go on", "error", err)
		}
		s.failed = err != nil
		s.mu.Unlock()
	}
}

// load reads the rates and gives them to the limits. A row that this version does not understand is left alone.
func (s *Service) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := readRates(db.Primary(ctx), s.DB.Query)
	if err != nil {
		return err
	}
	rates, odd := map[limit.Name]limit.Rate{}, ""
	for _, r := range rows {
		n, ok := limit.ParseName(r.name)
		rate, err := limit.ParseRate(r.rate)
		if !ok || err != nil {
			odd += fmt.Sprintf("%s = %q ", r.name, r.rate)
			continue
		}
		rates[n] = rate
	}
	if odd != s.odd && odd != "" {
		s.log.WarnContext(ctx, "a rate that was set is not one that this version knows; the configuration's is used", "rates", odd)
	}
	s.odd = odd
	return s.Limits.Set(rates)
}

// Limit is a limit as the house has it now.
type Limit struct {
	Name limit.Name
	// Rate counts now on this node; Configured is the one of the configuration or the default.
	Rate, Configured limit.Rate
	// By and At say who set the rate and when; zero for one that nobody set.
	By levee.UserID
	At time.Time
}

// List returns all limits; CodeUnauthenticated for visitors.
func (s *Service) List(ctx context.Context) (all []Limit, err error) {
	defer levee.Wrap(&err, "throttle.List")
	if err := somebody(ctx); err != nil {
		return nil, err
	}
	rows, err := readRates(db.Primary(ctx), s.DB.Query)
	if err != nil {
		return nil, err
	}
	for _, n := range limit.Names() {
		all = append(all, s.limit(n, rows))
	}
	return all, nil
}

// ByName returns one limit, for administrators; else CodeForbidden.
func (s *Service) ByName(ctx context.Context, n limit.Name) (l Limit, err error) {
	defer levee.Wrap(&err, "throttle.ByName(%v)", n)
	all, err := s.List(ctx)
	for _, one := range all {
		if one.Name == n {
			l = one
		}
	}
	return l, err
}

func (s *Service) limit(n limit.Name, rows []rateRow) Limit {
	l := Limit{Name: n, Rate: s.Limits.Configured(n), Configured: s.Limits.Configured(n)}
	for _, r := range rows {
		if rate, err := limit.ParseRate(r.rate); r.name == n.String() && err == nil {
			l.Rate, l.By, l.At = rate, r.by, r.at
		}
	}
	return l
}

// Set gives a limit another rate and records it in the trail. This node goes by it when Set returns,
// the others within a second; a restart does not forget it. Seen judges the limit as it stands, in the same transaction; nil: any. CodeUnauthenticated for visitors, CodeInvalid for None, an unknown name or a rate that ParseRate could not have returned, CodeUnavailable when SQL is away.
func (s *Service) Set(ctx context.Context, n limit.Name, r limit.Rate, seen func(Limit) error) (l Limit, err error) {
	defer levee.Wrap(&err, "throttle.Set(%v, %v)", n, r)
	if back, err := limit.ParseRate(r.String()); err != nil || back != r { // what cannot be read back cannot be kept
		return Limit{}, levee.Invalid("rate", "one that ParseRate returns", fmt.Sprintf("%+v", r))
	}
	return s.change(ctx, "limit.set", n, seen, func(ctx context.Context, tx *db.Tx) error {
		return putRate(ctx, tx, s.DB.Dialect(), rateRow{name: n.String(), rate: r.String(), by: levee.ActorFrom(ctx).User, at: s.Obs.Clock()})
	})
}

// Reset gives a limit the rate of the configuration again. Otherwise it is as Set; for one that nobody set it changes nothing.
func (s *Service) Reset(ctx context.Context, n limit.Name) (l Limit, err error) {
	defer levee.Wrap(&err, "throttle.Reset(%v)", n)
	return s.change(ctx, "limit.reset", n, nil, func(ctx context.Context, tx *db.Tx) error { return deleteRate(ctx, tx, n.String()) })
}

// audited is what the trail says of a limit.
type audited struct {
	Limit string `json:"limit"`
	Rate  string `json:"rate"`
}

func (s *Service) change(ctx context.Context, act string, n limit.Name, seen func(Limit) error, write func(context.Context, *db.Tx) error) (after Limit, err error) {
	if err := somebody(ctx); err != nil {
		return Limit{}, err
	}
	if known, ok := limit.ParseName(n.String()); !ok || known != n {
		return Limit{}, levee.Invalid("name", fmt.Sprintf("one of %v", limit.Names()), n)
	}
	err = s.DB.Tx(ctx, "throttle.change", func(ctx context.Context, tx *db.Tx) error {
		rows, err := readRates(ctx, tx.Query)
		if err != nil {
			return err
		}
		before := s.limit(n, rows)
		if seen != nil {
			if err := seen(before); err != nil {
				return err
			}
		}
		if err := write(ctx, tx); err != nil {
			return err
		}
		if rows, err = readRates(ctx, tx.Query); err != nil {
			return err
		}
		after = s.limit(n, rows)
		if before.Rate == after.Rate && before.At.IsZero() == after.At.IsZero() {
			return nil // nothing that a trail is read for
		}
		return s.Audit(ctx, tx, act, "", audited{n.String(), before.Rate.String()}, audited{n.String(), after.Rate.String()})
	})
	if err != nil {
		return Limit{}, err
	}
	if err := s.load(ctx); err != nil { // it stands in SQL; Run will find it
		s.log.WarnContext(ctx, "a rate was set and cannot be read back; it will count within a second of SQL's return", "limit", n.String(), "error", err)
		s.nudge()
	}
	s.ring()
	return after, nil
}

// nudge makes Run look again.
func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// somebody is nil for an actor whom the trail can name. Who of them may is the routes' matter.
func somebody(ctx context.Context) error {
	if !levee.ActorFrom(ctx).SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	return nil
}
