// Package app composes the house and does nothing else: it reads the configuration, opens the drivers (backends.go), builds the
// rooms (rooms.go), and starts and stops all of them in order.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/notify"
	"levee/internal/platform/blob"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/web"
)

// Version of the product, set at build time.
var Version = "dev"

// stopLimit is how long an orderly stop may take before the process leaves what is left.
const stopLimit = 30 * time.Second

// App is the house, built and ready to run.
type App struct {
	Config Config
	Rooms  *Rooms
	Obs    *obs.Obs
	Web    *web.Server
	// Files is where uploaded files are kept; nil with blob = "none:".
	Files *blob.Store
	// Addr is where it listens.
	Addr net.Addr

	backends *backends
}

// New opens the drivers, brings the schema up to date, builds the rooms, loads the sales and listens. Nothing is served before
// Run. It fails with a code where the configuration or a backend is at fault, and leaves nothing open then; with CodeConflict when another
// process of the embedded tier has the same database.
func New(ctx context.Context, cfg Config, stderr io.Writer) (a *App, err error) {
	return open(ctx, cfg, stderr, true)
}

// Beside is New for somebody who only looks, also beside a process that serves. Run must not be called.
func Beside(ctx context.Context, cfg Config, stderr io.Writer) (a *App, err error) {
	return open(ctx, cfg, stderr, false)
}

func open(ctx context.Context, cfg Config, stderr io.Writer, serves bool) (a *App, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	o, err := obs.Open(cfg.Log, stderr)
	if err != nil {
		return nil, err
	}
	a = &App{Config: cfg, Obs: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close(context.WithoutCancel(ctx)))
			a = nil
		}
	}()
	started := time.Now()
	if a.backends, err = openBackends(ctx, &a.Config, o); err != nil {
		return a, err
	}
	b := a.backends
	if serves && !a.Config.distributed() {
		if err = b.holdFile(&a.Config); err != nil {
			return a, err
		}
	}
	a.Files = b.files
	applied, err := b.db.Migrate(ctx, schemas())
	if err != nil {
		return a, err
	}
	parts := web.Parts{Obs: o, Limits: b.limits, DB: b.db, Title: "Levee", Version: Version,
		Permits:      b.permits,
		Authenticate: func(r *http.Request) (levee.Actor, error) { return a.Rooms.authenticate(r) },
		Witness:      func(ctx context.Context, o web.Outcome) { a.Rooms.Trail.Witness(ctx, o) },
		Fresh:        func(ctx context.Context, who levee.Actor) error { return a.Rooms.Factor.Fresh(ctx, who) },
		Nodes:        web.Nodes{Keeper: a.keeper, Key: b.nodeKey},
		ListKey:      b.listKey,
		Exported:     func(ctx context.Context, list, query string) error { return b.exported(ctx, a.Rooms, list, query) },
		Ready:        func(ctx context.Context) error { return errors.Join(b.db.Ping(ctx), a.Rooms.Sale.Ready(ctx)) }}
	if a.Web, err = web.New(a.Config.HTTP, parts); err != nil {
		return a, err
	}
	if a.Addr, err = a.Web.Listen(); err != nil {
		return a, err
	}
	if err = b.openNodes(ctx, &a.Config, a.Addr); err != nil {
		return a, err
	}
	rooms, list, err := buildRooms(&a.Config, b, publicURL(&a.Config, a.Addr))
	if err != nil {
		return a, err
	}
	a.Rooms = rooms
	if cfg.Role != "worker" {
		b.nodes.Keep(admission.Duty, rooms.Admission.Serve)
	}
	if cfg.Role != "web" {
		b.nodes.Keep(notify.Duty, rooms.Notify.Serve)
	}
	for _, r := range list {
		r.routes(a.Web)
		if r.jobs != nil {
			if err = b.jobs.Register(r.jobs()...); err != nil {
				return a, err
			}
		}
		if r.work != nil {
			if err = b.schedules.Register(r.work()...); err != nil {
				return a, err
			}
		}
		if r.listeners != nil {
			if err = b.events.Register(r.listeners()...); err != nil {
				return a, err
			}
		}
	}
	if err = b.openBridge(&a.Config); err != nil {
		return a, err
	}
	if err = b.events.Announce(ctx); err != nil { // all listeners are known: no event of the first moments may pass one by
		return a, err
	}
	if err = rooms.Identity.Warm(ctx); err != nil {
		return a, err
	}
	if err = rooms.Access.Warm(ctx); err != nil {
		return a, err
	}
	if err = rooms.Throttle.Warm(ctx); err != nil {
		return a, err
	}
	if err = rooms.Sale.Warm(ctx); err != nil {
		return a, err
	}
	if err = rooms.Line.Warm(ctx); err != nil {
		return a, err
	}
	if err = rooms.Notify.Warm(ctx); err != nil {
		return a, err
	}
	for _, d := range b.drivers {
		o.Log.Debug("part", "part", d[0], "driver", d[1])
	}
	o.Log.Info("ready", "version", Version, "address", a.Addr.String(), "db", a.Config.DB, "migrations", len(applied),
		"seconds", time.Since(started).Seconds())
	return a, nil
}

// keeper is where requests about what one node keeps are taken.
func (a *App) keeper(name string) (address string, self, known bool) {
	m, known := a.backends.nodes.Keeper(name)
	return m.Address, m.Self, known
}

// publicURL is where others reach the house: as configured, else where it really listens (port 0 in tests).
func publicURL(cfg *Config, addr net.Addr) string {
	if cfg.HTTP.PublicURL == "http://"+cfg.HTTP.Addr {
		return "http://" + addr.String()
	}
	return cfg.HTTP.PublicURL
}

// part of the house that runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
}

// Run serves until ctx ends, then stops in order: HTTP and live connections drain, sales settle what they took, consumers and
// jobs finish. It returns the first failure; a part that fails stops the house.
func (a *App) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	phases := [][]part{
		{{"http", a.Web.Run}, {"lend", a.Rooms.Lend.Run}},
		{{"token", a.Rooms.Token.Run}, {"identity", a.Rooms.Identity.Run}, {"sale", a.Rooms.Sale.Run}, {"line", a.Rooms.Line.Run}, {"tally", a.Rooms.Tally.Run},
			{"throttle", a.Rooms.Throttle.Run}, {"trail", a.Rooms.Trail.Run}, {"access", a.Rooms.Access.Run}, {"push", a.guard}},
		nil,
	}
	if a.Config.Role != "web" {
		phases[2] = []part{{"event", a.backends.events.Run}, {"job", a.backends.jobs.Run}, {"flow", a.backends.flows.Run}, {"schedule", a.backends.schedules.Run}}
	}
	if a.Rooms.Sandbox != nil {
		phases[2] = append(phases[2], part{"sandbox", a.Rooms.Sandbox.Run})
	}
	// Other nodes can keep what this one does while it drains; a node that is alone keeps it until nobody asks any more.
	keeps := part{"node", a.backends.nodes.Run}
	if a.backends.nodes.Alone() {
		phases[1] = append(phases[1], keeps)
	} else {
		phases[0] = append(phases[0], keeps)
	}
	type phase struct {
		stop context.CancelFunc
		done sync.WaitGroup
	}
	running := make([]phase, len(phases))
	for i := len(phases) - 1; i >= 0; i-- {
		phaseCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		running[i].stop = stop
		for _, p := range phases[i] {
			running[i].done.Go(func() {
				err := p.run(phaseCtx)
				if err == nil && phaseCtx.Err() == nil {
					err = errors.New("ended by itself")
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					select {
					case failed <- fmt.Errorf("%s: %w", p.name, err):
					default:
					}
				}
			})
		}
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		a.Obs.Log.Error("a part of the house failed; it stops", "error", err)
	}
	a.Obs.Log.Info("stopping")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := range running {
			running[i].stop()
			running[i].done.Wait()
		}
	}()
	select {
	case <-stopped:
	case <-time.After(stopLimit):
		err = errors.Join(err, levee.E(levee.CodeTimeout, "the house did not stop within %s; what is on disk is whole", stopLimit))
	}
	select {
	case late := <-failed:
		err = errors.Join(err, late)
	default:
	}
	return err
}

// Close closes the drivers. Run must have returned.
func (a *App) Close(ctx context.Context) error {
	var err error
	if a.backends != nil {
		err = a.backends.shut(ctx)
	}
	return errors.Join(err, a.Obs.Close(ctx))
}

// Migrate brings the schema up to date and tells which files were applied; with check it changes nothing and fails with
// CodeConflict if something is pending or unknown.
func Migrate(ctx context.Context, cfg Config, check bool, stderr io.Writer) (applied []string, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	o, err := obs.Open(cfg.Log, stderr)
	if err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, cfg.Database, o)
	if err != nil {
		return nil, errors.Join(err, o.Close(ctx))
	}
	if check {
		err = d.CheckMigrations(ctx, schemas())
	} else {
		applied, err = d.Migrate(ctx, schemas())
	}
	return applied, errors.Join(err, d.Close(), o.Close(ctx))
}

// CheckIntegrity examines the database: SQLite's file, or the server's tables.
func (a *App) CheckIntegrity(ctx context.Context) error { return a.backends.db.CheckIntegrity(ctx) }

// DumpSchema returns the whole schema as text.
func (a *App) DumpSchema(ctx context.Context) (string, error) { return a.backends.db.DumpSchema(ctx) }

// Events lists the events that listeners wait for.
func (a *App) Events() []event.Known { return a.backends.events.Events() }

// Jobs lists the kinds of background work.
func (a *App) Jobs() []job.Known { return a.backends.jobs.Known() }
