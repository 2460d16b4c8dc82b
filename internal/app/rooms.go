package app

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/identity"
	"levee/internal/line"
	"levee/internal/notify"
	"levee/internal/order"
	"levee/internal/payment"
	"levee/internal/plan"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/platform/web"
	"levee/internal/sale"
	"levee/internal/tally"
	"levee/ui"
)

// schemas of the parts and the rooms, in the order in which they are migrated.
func schemas() []db.Schema {
	return []db.Schema{event.Schema(), job.Schema(), web.Schema(), identity.Schema(), catalog.Schema(), order.Schema(), payment.Schema(), admission.Schema(), sale.Schema(), line.Schema(),
		notify.Schema()}
}

// Rooms of the house. Commands and tests reach them here.
type Rooms struct {
	Identity  *identity.Service
	Catalog   *catalog.Service
	Order     *order.Service
	Payment   *payment.Service
	Admission *admission.Service
	Tally     *tally.Service
	Sale      *sale.Service
	Plan      *plan.Service
	Line      *line.Service
	Notify    *notify.Service
	// Sandbox is the test provider, where it is enabled and runs inside this house.
	Sandbox *payment.Sandbox
}

// room is what every room gives to the house. A room without one of these returns nothing.
type room struct {
	routes    func(*web.Server)
	jobs      func() []job.Registration
	listeners func() []event.Listener
}

// buildRooms is the one list: each room in the order of the arrows, with all that it needs.
func buildRooms(cfg *Config, b *backends, publicURL string) (r *Rooms, list []room, err error) {
	r = &Rooms{}
	if err := cfg.Identity.Validate(); err != nil {
		return nil, nil, err
	}
	r.Identity = identity.New(identity.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Limits: b.limits, Events: b.events,
		Config: cfg.Identity, Key: b.tokenKey})
	r.Catalog = catalog.New(catalog.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Config: cfg.Catalog,
		Audit: b.audit(r)})
	if r.Order, err = order.Open(order.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Jobs: b.jobs,
		Catalog: r.Catalog, Config: cfg.Order}); err != nil {
		return nil, nil, err
	}
	pay := payment.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Orders: r.Order, Config: cfg.Payment}
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
		Key: b.admitKey, Config: cfg.Admission}); err != nil {
		return nil, nil, err
	}
	r.Tally = tally.New(tally.Deps{Obs: b.obs, Push: b.push, Node: "node " + strconv.Itoa(b.ids.Worker()), Nodes: cfg.Nodes})
	if r.Sale, err = sale.New(sale.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Push: b.push, Catalog: r.Catalog,
		Orders: r.Order, Admission: r.Admission, Tally: r.Tally, Authenticate: r.Identity.AuthenticateToken, Config: cfg.Sale}); err != nil {
		return nil, nil, err
	}
	r.Plan = plan.New(plan.Deps{DB: b.db, Sealer: b.sealer, Obs: b.obs, Catalog: r.Catalog, Sales: r.Sale, Admission: r.Admission,
		Invent: r.Identity.IssueRehearsalTokens})
	if r.Line, err = line.New(line.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Events: b.events, Jobs: b.jobs, Push: b.push,
		Sales: r.Sale, Key: b.drawKey}); err != nil {
		return nil, nil, err
	}
	if r.Notify, err = notify.New(notify.Deps{DB: b.db, IDs: b.ids, Sealer: b.sealer, Obs: b.obs, Push: b.push, Identity: r.Identity,
		Orders: r.Order, Sales: r.Sale, Key: b.hookKey, Config: cfg.Notify}); err != nil {
		return nil, nil, err
	}
	return r, []room{
		{r.Identity.Routes, r.Identity.Jobs, r.Identity.Listeners},
		{r.Catalog.Routes, r.Catalog.Jobs, r.Catalog.Listeners},
		{r.Order.Routes, r.Order.Jobs, nil},
		{r.Payment.Routes, r.Payment.Jobs, nil},
		{r.Admission.Routes, nil, nil},
		{r.Tally.Routes, nil, nil},
		{r.Sale.Routes, nil, nil},
		{r.Plan.Routes, nil, nil},
		{r.Line.Routes, r.Line.Jobs, r.Line.Listeners},
		{r.Notify.Routes, r.Notify.Jobs, r.Notify.Listeners},
		{r.mount, func() []job.Registration { return []job.Registration{prune(b)} }, nil},
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
func prune(b *backends) job.Registration {
	return job.Every("house.prune", time.Hour, job.Options{}, func(ctx context.Context) error {
		now := b.obs.Clock()
		if _, err := web.Prune(ctx, b.db, now.Add(-48*time.Hour)); err != nil {
			return err
		}
		_, err := b.jobs.Prune(ctx, now.Add(-7*24*time.Hour))
		return err
	})
}

// authenticate is web's window on identity.
func (r *Rooms) authenticate(req *http.Request) (levee.Actor, error) {
	return r.Identity.Authenticate(req)
}

// audit writes the catalog's acts into identity's trail: catalog may not know identity, so the house joins them.
func (b *backends) audit(r *Rooms) catalog.Audit {
	return func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error {
		a := identity.Act{Action: act, Before: before, After: after}
		for kind := levee.KindUser; kind.Prefix() != ""; kind++ {
			if n, err := b.sealer.Open(kind, subject); err == nil {
				a.Kind, a.Subject = kind, n
				break
			}
		}
		return r.Identity.RecordTx(ctx, tx, a, identity.Origin{Address: web.ClientIP(ctx), RequestID: web.RequestID(ctx)})
	}
}
