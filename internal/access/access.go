// Package access owns what roles are allowed: it keeps the roles that administrators make and who may use which operation and have which
// ability in SQL, gives them to this node's table of permissions and tells the other nodes. It does not judge requests: platform/web and the
// rooms ask platform/permit. It does not know which account has which role: identity does.
package access

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/platform/permit"
	"levee/internal/platform/web"
)

// Audit writes an act of the context's actor into the trail, in the caller's transaction. Before and after are values that encode to JSON.
type Audit func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error

// Deps are what the room is built from.
type Deps struct {
	DB       *db.DB
	Sealer   *id.Sealer
	Obs      *obs.Obs
	Permits  *permit.Table
	Identity *identity.Service
	Audit    Audit
	// Bell rings on the other nodes of the house; nil where there are none.
	Bell func(name string, wake func()) (ring func())
}

// lookEvery is how often a node that has others beside it looks at SQL by itself: the bell is rung at once, but a ring may be lost, and there is
// none while Redis is away.
const lookEvery = 500 * time.Millisecond

// Service is the room. It is made by New; Routes come before Warm, which brings the tables up to date with the program; Run follows what other
// nodes change.
type Service struct {
	Deps
	log  *slog.Logger
	ring func()
	wake chan struct{}
	srv  *web.Server

	mu      sync.Mutex // guards below: a load that began later must not be overtaken
	version int64      // of what the table has
	failed  bool       // the last load failed, and was logged
}

// New makes the room.
func New(d Deps) *Service {
	s := &Service{Deps: d, log: d.Obs.Named("access"), ring: func() {}, wake: make(chan struct{}, 1)}
	if d.Bell != nil {
		s.ring = d.Bell("access", s.nudge)
	}
	return s
}

// Warm writes down what the program's routes and abilities are and loads who may what. It is called before the first request, after all routes
// were added. A resource that is new gets the roles that the program names; where the program names others than before, those follow and what an
// administrator changed stays; one that the program has no more is flagged and keeps its roles. CodeUnavailable when SQL is away.
func (s *Service) Warm(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "access.Warm")
	if s.srv != nil {
		s.srv.Handler() // it adds its own operations when it is sealed
	}
	if changed, err := s.seed(ctx); err != nil {
		return err
	} else if changed {
		s.ring()
	}
	return s.load(ctx)
}

func (s *Service) seed(ctx context.Context) (changed bool, err error) {
	err = s.DB.Tx(ctx, "access.seed", func(ctx context.Context, tx *db.Tx) error {
		if err := lockHead(ctx, tx, s.DB.Dialect()); err != nil {
			return err
		}
		rows, err := readResources(ctx, tx.Query)
		if err != nil {
			return err
		}
		there := map[string]resourceRow{}
		for _, r := range rows {
			there[r.name] = r
		}
		changed = false
		put := func(r resourceRow) error {
			changed = true
			return putResource(ctx, tx, s.DB.Dialect(), r)
		}
		for _, p := range s.Permits.Resources() {
			r, old := there[p.Name]
			delete(there, p.Name)
			is := resourceRow{name: p.Name, category: p.Category, method: p.Method, route: p.Route, defaults: p.Default, allowed: p.Default, by: r.by, at: r.at}
			if old {
				is.allowed = r.allowed&^(r.defaults&^p.Default) | p.Default&^r.defaults
			}
			if !old || is != r {
				if err := put(is); err != nil {
					return err
				}
			}
		}
		for _, r := range there {
			if r.gone {
				continue
			}
			r.gone = true
			if err := put(r); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return raiseVersion(ctx, tx)
	})
	return changed, err
}

// Run follows what other nodes change until ctx ends, within a second. While SQL is away everything stays as it is.
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
			s.log.WarnContext(ctx, "who may what cannot be read; what was read before goes on", "error", err)
		}
		s.failed = err != nil
		s.mu.Unlock()
	}
}

// load gives the table what SQL says, when that is something new.
func (s *Service) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx = db.Primary(ctx)
	version, err := readVersion(ctx, s.DB) // first: what is changed meanwhile is read again
	if err != nil || version == s.version {
		return err
	}
	roles, err := readRoles(ctx, s.DB.Query)
	if err != nil {
		return err
	}
	resources, err := readResources(ctx, s.DB.Query)
	if err != nil {
		return err
	}
	made, granted := map[levee.Roles]string{}, map[string]levee.Roles{}
	for _, r := range roles {
		if r.retired.IsZero() {
			made[1<<r.bit] = r.name
		}
	}
	for _, r := range resources {
		granted[r.name] = r.allowed
	}
	s.Permits.Set(made, granted)
	s.version = version
	return nil
}

// nudge makes Run look again.
func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// world is roles and grants within a transaction that changes them: nobody else does meanwhile.
type world struct {
	s         *Service
	ctx       context.Context
	tx        *db.Tx
	actor     levee.Actor
	now       time.Time
	roles     []roleRow
	resources map[string]resourceRow
}

// change runs do on the whole as SQL has it, and makes what it did act: on this node when change returns, on the others within a second.
// CodeUnauthenticated for visitors; who else may is the routes' matter.
func (s *Service) change(ctx context.Context, do func(w *world) error) error {
	actor := levee.ActorFrom(ctx)
	if !actor.SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	err := s.DB.Tx(ctx, "access.change", func(ctx context.Context, tx *db.Tx) error {
		w := &world{s: s, ctx: ctx, tx: tx, actor: actor, now: s.Obs.Clock(), resources: map[string]resourceRow{}}
		if err := lockHead(ctx, tx, s.DB.Dialect()); err != nil {
			return err
		}
		var err error
		if w.roles, err = readRoles(ctx, tx.Query); err != nil {
			return err
		}
		rows, err := readResources(ctx, tx.Query)
		if err != nil {
			return err
		}
		for _, r := range rows {
			w.resources[r.name] = r
		}
		if err := do(w); err != nil {
			return err
		}
		return raiseVersion(ctx, tx)
	})
	if err != nil {
		return err
	}
	if err := s.load(ctx); err != nil { // it stands in SQL; Run will find it
		s.log.WarnContext(ctx, "who may what was changed and cannot be read back; it will count within a second of SQL's return", "error", err)
		s.nudge()
	}
	s.ring()
	return nil
}

// role returns the set of one role by its name.
func (w *world) role(name string) (levee.Roles, bool) {
	for i, n := range levee.ReadyRoles.Names() {
		if n == name {
			return 1 << i, true
		}
	}
	for _, r := range w.roles {
		if r.retired.IsZero() && r.name == name {
			return 1 << r.bit, true
		}
	}
	return 0, false
}

// names returns the names of roles as they are in this transaction.
func (w *world) names(roles levee.Roles) []string {
	names := (roles & levee.ReadyRoles).Names()
	for _, r := range w.roles {
		if r.retired.IsZero() && roles.Has(1<<r.bit) {
			names = append(names, r.name)
		}
	}
	return names
}

// auditedGrants is what the trail says of a resource.
type auditedGrants struct {
	Resource string   `json:"resource"`
	Roles    []string `json:"roles"`
}

// allow gives a resource to exactly these roles. CodeNotFound without such a resource; CodeConflict for one that is for anybody, and where the
// administrators would lose it; CodeForbidden where it would give somebody what the actor does not have.
func (w *world) allow(name string, roles levee.Roles) error {
	p, _, known := w.s.Permits.Find(name)
	r, stored := w.resources[name]
	switch {
	case !known || !stored:
		return levee.E(levee.CodeNotFound, "there is no resource %q", levee.Shorten(name, 60))
	case p.Open:
		return levee.E(levee.CodeConflict, "%s is for anybody, also for visitors: there is nothing to allow", name)
	case !roles.Has(levee.RoleAdministrator):
		return levee.E(levee.CodeConflict, "administrators may everything, so that every mistake can be undone")
	case roles&^r.allowed != 0 && !w.actor.Roles.Has(r.allowed|levee.RoleAdministrator):
		return levee.E(levee.CodeForbidden, "you cannot give %s: you do not have it yourself", name)
	case roles == r.allowed:
		return nil // nothing that a trail is read for
	}
	before := r.allowed
	r.allowed, r.by, r.at = roles, w.actor.User, w.now
	if err := putResource(w.ctx, w.tx, w.s.DB.Dialect(), r); err != nil {
		return err
	}
	w.resources[name] = r
	return w.s.Audit(w.ctx, w.tx, "access.granted", "", auditedGrants{name, w.names(before)}, auditedGrants{name, w.names(roles)})
}
