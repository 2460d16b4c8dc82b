package app

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/lock"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// lent is what the room lend gives away: nil where nobody may borrow.
type lent struct {
	ids, small *id.Set
	numbers    *id.Segments
	locks      *lock.Locks
}

// openIDs claims the house's worker number where the line ids says, and what lend needs.
func (b *backends) openIDs(ctx context.Context, cfg *Config) (err error) {
	where, driver, err := b.idStore(ctx, cfg)
	if err != nil {
		return err
	}
	if b.ids, err = id.Open(ctx, where, b.obs); err != nil {
		return err
	}
	b.use("id", driver, func(context.Context) error { return b.ids.Close() })
	if !cfg.Lend.Enabled() {
		return nil
	}
	// Others may ask for as many as they like: their ids do not run ahead of the clock, and the house's own have a worker apart.
	where.Lead = id.Strict
	if b.lent.ids, err = id.OpenSet(ctx, where, cfg.Lend.WorkersWanted(), b.obs); err != nil {
		return err
	}
	b.use("lend", driver, func(context.Context) error { return b.lent.ids.Close() })
	if b.lent.small, err = id.OpenSet(ctx, small(where), 1, b.obs); err != nil {
		return err
	}
	b.use("lend js53", driver, func(context.Context) error { return b.lent.small.Close() })
	if b.lent.numbers, err = id.OpenSegments(id.SegmentsConfig{DB: b.db}, b.obs); err != nil {
		return err
	}
	b.use("lend numbers", "sql", b.lent.numbers.Close)
	return nil
}

// small are the ids for JavaScript. Their Unit is long, so a burst may run a minute ahead.
func small(where id.Config) id.Config {
	where.Space, where.Layout, where.Lead = "js53", id.JS53, time.Minute
	return where
}

// idStore is where worker numbers are: in the data folder where one process serves the house, in the database where several may, or where
// the line ids says.
func (b *backends) idStore(ctx context.Context, cfg *Config) (where id.Config, driver string, err error) {
	switch {
	case cfg.IDs == "redis:":
		return id.Config{Redis: b.redis, Node: hostName()}, cfg.IDs, nil
	case isEtcd(cfg.IDs):
		if err := b.openEtcd(ctx, cfg, cfg.IDs); err != nil {
			return where, "", err
		}
		return id.Config{Etcd: b.etcd, Node: hostName()}, cfg.IDs, nil
	case cfg.IDs == "sql:":
		if _, err := b.db.Migrate(ctx, []db.Schema{id.Schema()}); err != nil { // before the others: it is used first
			return where, "", err
		}
		return id.Config{DB: b.db, Node: hostName()}, cfg.IDs, nil
	}
	dir := filepath.Join(cfg.Data, "id")
	return id.Config{Dir: dir}, "file:" + dir, nil
}

// IDs are the house's ids without the house: for commands. Each opens what it needs.
type IDs struct {
	cfg Config
	b   *backends
}

// OpenIDs opens what the configuration says about ids: the folder, or the database, Redis or etcd. A house that runs goes on beside it. Close
// ends it.
func OpenIDs(cfg Config, stderr io.Writer) (*IDs, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	o, err := obs.Open(cfg.Log, stderr)
	if err != nil {
		return nil, err
	}
	return &IDs{cfg, &backends{obs: o}}, nil
}

// Generator claims a worker number for n ids, of the layout default or js53.
func (i *IDs) Generator(ctx context.Context, layout string) (*id.Set, error) {
	if layout != "default" && layout != "js53" {
		return nil, levee.Invalid("--layout", `"default" or "js53"`, layout)
	}
	if err := os.MkdirAll(i.cfg.Data, 0o750); err != nil {
		return nil, levee.E(levee.CodeUnavailable, "the data folder cannot be made").Because(err)
	}
	var err error
	switch i.cfg.IDs {
	case "redis:":
		if i.b.redis, err = redis.Open(ctx, i.cfg.RedisServer, i.b.obs); err != nil {
			return nil, err
		}
		i.b.use("redis", "", func(context.Context) error { return i.b.redis.Close() })
	case "sql:":
		if err := i.database(ctx); err != nil {
			return nil, err
		}
	}
	where, _, err := i.b.idStore(ctx, &i.cfg)
	if err != nil {
		return nil, err
	}
	where.Lead = id.Strict
	if layout == "js53" {
		where = small(where)
	}
	s, err := id.OpenSet(ctx, where, 1, i.b.obs)
	if err == nil {
		i.b.use("id", "", func(context.Context) error { return s.Close() })
	}
	return s, err
}

// Numbers opens the dense numbers by tag.
func (i *IDs) Numbers(ctx context.Context) (*id.Segments, error) {
	if err := i.database(ctx); err != nil {
		return nil, err
	}
	s, err := id.OpenSegments(id.SegmentsConfig{DB: i.b.db}, i.b.obs)
	if err == nil {
		i.b.use("numbers", "", s.Close)
	}
	return s, err
}

func (i *IDs) database(ctx context.Context) (err error) {
	if err := os.MkdirAll(i.cfg.Data, 0o750); err != nil {
		return levee.E(levee.CodeUnavailable, "the data folder cannot be made").Because(err)
	}
	if i.b.db, err = db.Open(ctx, i.cfg.Database, i.b.obs); err != nil {
		return err
	}
	i.b.use("db", "", func(context.Context) error { return i.b.db.Close() })
	_, err = i.b.db.Migrate(ctx, []db.Schema{id.Schema()})
	return err
}

// Close gives back what was claimed and closes what was opened.
func (i *IDs) Close(ctx context.Context) error {
	return errors.Join(i.b.shut(ctx), i.b.obs.Close(ctx))
}
