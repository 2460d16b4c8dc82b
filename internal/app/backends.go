package app

import (
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/platform/web"
)

// backends are the platform's parts, opened.
type backends struct {
	obs      *obs.Obs
	db       *db.DB
	ids      *id.Generator
	sealer   *id.Sealer
	limits   *limit.Limits
	events   *event.Bus
	jobs     *job.Jobs
	push     *push.Hub
	tokenKey ed25519.PrivateKey
	admitKey []byte
	drawKey  []byte
	hookKey  []byte

	// drivers tells which driver each part got, for the lines at start.
	drivers [][2]string
	close   []func(context.Context) error
}

// openBackends is the one switch: it alone reads the driver lines of the config. What it opened before a failure is closed.
func openBackends(ctx context.Context, cfg *Config, o *obs.Obs) (_ *backends, err error) {
	b := &backends{obs: o}
	defer func() {
		if err != nil {
			_ = b.shut(context.WithoutCancel(ctx))
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o750); err != nil {
		return nil, levee.E(levee.CodeUnavailable, "the data folder cannot be made").Because(err)
	}
	secrets, err := cfg.openSecret()
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(cfg.DB, "sqlite:"):
		if b.db, err = db.Open(ctx, cfg.Database, o); err != nil {
			return nil, err
		}
		b.use("db", cfg.DB, func(context.Context) error { return b.db.Close() })
	default:
		return nil, levee.Invalid("db", `"sqlite:PATH"`, cfg.DB)
	}
	dir := filepath.Join(cfg.Data, "id")
	if b.ids, err = id.Open(ctx, id.Config{Dir: dir}, o); err != nil {
		return nil, err
	}
	b.use("id", "file:"+dir, func(context.Context) error { return b.ids.Close() })
	switch cfg.Limit {
	case "memory:":
		if b.limits, err = limit.Open(cfg.Limits, o); err != nil {
			return nil, err
		}
		b.use("limit", cfg.Limit, nil)
	default:
		return nil, levee.Invalid("limit", `"memory:"`, cfg.Limit)
	}
	switch cfg.Push {
	case "memory:":
		cfg.Live.Fail = web.WriteError
		if err := cfg.Live.Validate(); err != nil {
			return nil, err
		}
		b.push = push.Open(cfg.Live, o)
		b.use("push", cfg.Push, b.push.Close)
	default:
		return nil, levee.Invalid("push", `"memory:"`, cfg.Push)
	}
	// The cache and the gate have one driver each and are opened by the rooms that use them.
	b.use("cache", cfg.Cache, nil)
	b.use("gate", cfg.Gate, nil)
	b.events = event.Open(b.db, b.ids, o)
	b.jobs = job.Open(b.db, b.ids, o)
	b.use("event, job", "sql", nil)
	return b, b.deriveKeys(secrets)
}

func (b *backends) use(part, driver string, shut func(context.Context) error) {
	b.drivers = append(b.drivers, [2]string{part, driver})
	if shut != nil {
		b.close = append(b.close, shut)
	}
}

func (b *backends) deriveKeys(secrets keys) error {
	seal, err := secrets.derive("public ids")
	if err != nil {
		return err
	}
	if b.sealer, err = id.NewSealer(seal); err != nil {
		return err
	}
	seed, err := secrets.derive("access tokens")
	if err != nil {
		return err
	}
	b.tokenKey = ed25519.NewKeyFromSeed(seed)
	if b.admitKey, err = secrets.derive("admission tokens"); err != nil {
		return err
	}
	if b.drawKey, err = secrets.derive("draw seeds"); err != nil {
		return err
	}
	b.hookKey, err = secrets.derive("webhook secrets")
	return err
}

// shut closes what was opened, last first, and returns the first error.
func (b *backends) shut(ctx context.Context) (first error) {
	for i := len(b.close) - 1; i >= 0; i-- {
		if err := b.close[i](ctx); err != nil && first == nil {
			first = err
		}
	}
	b.close = nil
	return first
}
