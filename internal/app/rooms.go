package app

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/access"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/factor"
	"levee/internal/federation"
	"levee/internal/identity"
	"levee/internal/lend"
	"levee/internal/line"
	"levee/internal/notify"
	"levee/internal/ops"
	"levee/internal/order"
	"levee/internal/payment"
	"levee/internal/phone"
	"levee/internal/plan"
	"levee/internal/platform/bridge"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/flow"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/lock"
	"levee/internal/platform/node"
	"levee/internal/platform/once"
	"levee/internal/platform/schedule"
	"levee/internal/platform/web"
	"levee/internal/sale"
	"levee/internal/tally"
	"levee/internal/throttle"
	"levee/internal/token"
	"levee/internal/trail"
	"levee/ui"
)

// Schemas of the parts and the rooms, in the order in which they are migrated. For tests.
func Schemas() []db.Schema { return schemas() }

func schemas() []db.Schema {
	return []db.Schema{id.Schema(), event.Schema(), bridge.Schema(), job.Schema(), flow.Schema(), schedule.Schema(), once.Schema(), node.Schema(), trail.Schema(), token.Schema(), identity.Schema(), factor.Schema(), phone.Schema(), catalog.Schema(), order.Schema(), payment.Schema(), admission.Schema(), sale.Schema(), line.Schema(),
		notify.Schema(), throttle.Schema(), access.Schema(), federation.Schema(), lock.Schema()}
}

// Rooms of the house. Commands and tests reach them here.
type Rooms struct {
	Token      *token.Service
	Trail      *trail.Service
	Identity   *identity.Service
	Factor     *factor.Service
	Phone      *phone.Service
	Catalog    *catalog.Service
	Order      *order.Service
	Payment    *payment.Service
	Admission  *admission.Service
	Tally      *tally.Service
	Sale       *sale.Service
	Plan       *plan.Service
	Line       *line.Service
	Notify     *notify.Service
	Throttle   *throttle.Service
	Access     *access.Service
	Federation *federation.Service
	Lend       *lend.Service
	Ops        *ops.Service
	// Sandbox is the test provider, where it is enabled and runs inside this house.
	Sandbox *payment.Sandbox
}

// room is what every room gives to the house. A room without one of these returns nothing.
type room struct {
	routes    func(*web.Server)
	jobs      func() []job.Registration
	work      func() []schedule.Work
	listeners func() []event.Listener
}

// buildRooms is the one list: each room in the order of the arrows, with all that it needs.
func buildRooms(cfg *Config, b *backends, publicURL string) (r *Rooms, list []room, err error) {
	r = &Rooms{}
	if err := cfg.Trail.Validate(); err != nil {
		return nil, nil, err
	}
	r.Trail = trail.New(trail.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Config: cfg.Trail, Key: b.trailKey})
	if err := cfg.Token.Validate(); err != nil {
		return nil, nil, err
	}
	r.Token = token.New(token.Deps{DB: b.db, Sealer: b.sealer, Obs: b.obs, Config: cfg.Token, Audit: r.Trail.Tell, Seal: b.tokenSeal,
		Key: b.tokenKey, Shared: cfg.distributed()})
	if err := cfg.Identity.Validate(); err != nil {
		return nil, nil, err
	}
	if cfg.Identity.ForeignIssuer == r.Token.Issuer() {
		return nil, nil, levee.Invalid("identity.foreign_issuer", "another than token.issuer", cfg.Identity.ForeignIssuer)
	}
	r.Identity = identity.New(identity.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Limits: b.limits, Events: b.events,
		Trail: r.Trail, Config: cfg.Identity, Tokens: r.Token, PublicURL: publicURL, Shared: cfg.distributed(), Permits: b.permits,
		Second: func(ctx context.Context, p identity.Proven) error { return r.Factor.Second(ctx, p) }})
	if r.Factor, err = factor.New(factor.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Limits: b.limits, Trail: r.Trail, Identity: r.Identity,
		Permits: b.permits, Config: cfg.Factor, Key: b.factorKey, PublicURL: publicURL}); err != nil {
		return nil, nil, err
	}
	if r.Phone, err = phone.New(phone.Deps{DB: b.db, Obs: b.obs, Limits: b.limits, Jobs: b.jobs, Identity: r.Identity, Trail: r.Trail, Config: cfg.Phone,
		Key: b.phoneKey, PublicURL: publicURL, Shared: cfg.distributed()}); err != nil {
		return nil, nil, err
	}
	if err := cfg.Federation.Validate(); err != nil {
		return nil, nil, err
	}
	r.Federation = federation.New(federation.Deps{DB: b.db, Obs: b.obs, Identity: r.Identity, Trail: r.Trail, Config: cfg.Federation,
		PublicURL: publicURL, OtherWayTx: func(ctx context.Context, tx *db.Tx, user levee.UserID) (bool, error) {
			if has, err := r.Identity.HasPasswordTx(ctx, tx, user); has || err != nil {
				return has, err
			}
			return r.Phone.SignsInTx(ctx, tx, user)
		}})
	r.Catalog = catalog.New(catalog.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Config: cfg.Catalog,
		Audit: r.Trail.Tell, Bus: b.bus()})
	if r.Order, err = order.Open(order.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Jobs: b.jobs,
		Catalog: r.Catalog, Audit: r.Trail.Tell, Config: cfg.Order}); err != nil {
		return nil, nil, err
	}
	pay := payment.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Orders: r.Order, Audit: r.Trail.Tell, Config: cfg.Payment}
	pay.Config.PublicURL = publicURL
	if r.Payment, err = payment.New(pay); err != nil {
		return nil, nil, err
	}
	if cfg.Payment.Sandbox.Enabled && cfg.Payment.Sandbox.URL == "" {
		if r.Sandbox, err = payment.NewSandbox(pay); err != nil {
			return nil, nil, err
		}
	}
	if r.Admission, err = admission.New(admission.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Push: b.push, Limits: b.limits,
		Spread: b.spread(cfg, "admission"), Key: b.admitKey, Config: cfg.Admission}); err != nil {
		return nil, nil, err
	}
	r.Tally = tally.New(tally.Deps{Obs: b.obs, Push: b.push, Node: b.nodes.Self().Name})
	if r.Sale, err = sale.New(sale.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Push: b.push, Catalog: r.Catalog,
		Orders: r.Order, Admission: r.Admission, Tally: r.Tally, Authenticate: r.signedIn,
		Gates: b.gates(cfg), Bell: b.bell(cfg), Audit: r.Trail.Tell, Config: cfg.Sale}); err != nil {
		return nil, nil, err
	}
	r.Plan = plan.New(plan.Deps{DB: b.db, Sealer: b.sealer, Obs: b.obs, Catalog: r.Catalog, Sales: r.Sale, Admission: r.Admission,
		Invent: r.Identity.IssueRehearsalTokens})
	if r.Line, err = line.New(line.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Jobs: b.jobs, Push: b.push,
		Sales: r.Sale, Key: b.drawKey}); err != nil {
		return nil, nil, err
	}
	if r.Notify, err = notify.New(notify.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Push: b.push, Identity: r.Identity, Trail: r.Trail,
		Orders: r.Order, Sales: r.Sale, Key: b.hookKey, Config: cfg.Notify, Bell: b.bell(cfg)}); err != nil {
		return nil, nil, err
	}
	r.Throttle = throttle.New(throttle.Deps{DB: b.db, Sealer: b.sealer, Obs: b.obs, Limits: b.limits, Audit: r.Trail.Tell, Bell: b.bell(cfg)})
	r.Access = access.New(access.Deps{DB: b.db, Sealer: b.sealer, Obs: b.obs, Permits: b.permits, Identity: r.Identity, Audit: r.Trail.Tell, Bell: b.bell(cfg)})
	if r.Lend, err = lend.New(lend.Deps{Obs: b.obs, IDs: b.lent.ids, Small: b.lent.small, Numbers: b.lent.numbers, Locks: b.lent.locks, LeaseKey: b.leaseKey, Config: cfg.Lend}); err != nil {
		return nil, nil, err
	}
	r.Ops = ops.New(ops.Deps{DB: b.db, Sealer: b.sealer, Obs: b.obs, Jobs: b.jobs, Schedules: b.schedules, Events: b.events, Audit: r.Trail.Tell})
	return r, []room{
		{r.Trail.Routes, nil, r.Trail.Work, nil},
		{r.Token.Routes, nil, r.Token.Work, nil},
		{r.Identity.Routes, nil, r.Identity.Work, nil},
		{r.Factor.Routes, nil, r.Factor.Work, nil},
		{r.Phone.Routes, r.Phone.Jobs, r.Phone.Work, nil},
		{r.Federation.Routes, nil, r.Federation.Work, nil},
		{r.Catalog.Routes, nil, r.Catalog.Work, r.Catalog.Listeners},
		{r.Order.Routes, nil, r.Order.Work, nil},
		{r.Payment.Routes, nil, r.Payment.Work, nil},
		{r.Admission.Routes, nil, nil, nil},
		{r.Tally.Routes, nil, nil, nil},
		{r.Sale.Routes, nil, nil, nil},
		{r.Plan.Routes, nil, nil, nil},
		{r.Line.Routes, r.Line.Jobs, r.Line.Work, r.Line.Listeners},
		{r.Notify.Routes, nil, r.Notify.Work, r.Notify.Listeners},
		{r.Throttle.Routes, nil, nil, nil},
		{r.Access.Routes, nil, nil, nil},
		{fileRoutes(cfg, b.files), nil, func() []schedule.Work { return []schedule.Work{sweepFiles(b.files)} }, nil},
		{r.Lend.Routes, nil, nil, nil},
		{r.Ops.Routes, nil, nil, nil},
		{r.mount, nil, func() []schedule.Work { return []schedule.Work{prune(b)} }, nil},
	}, nil
}

// mount adds what belongs to no room.
func (r *Rooms) mount(srv *web.Server) {
	if r.Sandbox != nil {
		srv.Handle("/test-provider/", http.StripPrefix("/test-provider", r.Sandbox))
	}
	srv.Handle("/", ui.Handler())
}

// prune deletes what has served its time: answers to idempotency keys after two days, finished events and jobs after a week.
func prune(b *backends) schedule.Work {
	return schedule.Every("house.prune", time.Hour, job.Options{}, func(ctx context.Context) error {
		now := b.obs.Clock()
		if _, err := once.Prune(ctx, b.db, now.Add(-48*time.Hour)); err != nil {
			return err
		}
		_, err := b.jobs.Prune(ctx, now.Add(-7*24*time.Hour))
		return err
	})
}

// authenticate is web's window on identity. What is for lend it judges itself: programs, not people, ask there.
func (r *Rooms) authenticate(req *http.Request) (levee.Actor, error) {
	if lend.Takes(req) {
		return levee.Actor{}, nil
	}
	return r.Identity.Authenticate(req)
}

// signedIn is the sale's quick window on identity, beside web's pipeline. A personal access token, whose scopes the pipeline judges, goes the whole way.
func (r *Rooms) signedIn(text string) (levee.Actor, error) {
	a, err := r.Identity.AuthenticateToken(text)
	if err == nil && a.Scope != nil {
		return levee.Actor{}, nil
	}
	return a, err
}

// exported tells the trail that a list goes out of the house, before its first row does.
func (b *backends) exported(ctx context.Context, r *Rooms, list, query string) error {
	return b.db.Tx(ctx, "house.exported", func(ctx context.Context, tx *db.Tx) error {
		return r.Trail.Tell(ctx, tx, "list.export", "", nil, map[string]string{"list": list, "query": levee.Shorten(query, 1000)})
	})
}
