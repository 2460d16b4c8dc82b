package app

import (
	"context"

	"levee/internal/platform/id"
	"levee/internal/platform/lock"
)

// openLocks opens the locks that lend gives to other programs.
func (b *backends) openLocks(ctx context.Context, cfg *Config) (err error) {
	if !cfg.Lend.Enabled() {
		return nil
	}
	switch {
	case cfg.Locks == "memory:":
		b.lent.locks, err = lock.Open(cfg.Lock, b.obs)
	case cfg.Locks == "sql:":
		b.lent.locks, err = lock.OpenSQL(cfg.Lock, b.db, b.redis, b.obs)
	case cfg.Locks == "redis:":
		b.lent.locks, err = lock.OpenRedis(cfg.Lock, b.redis, nil, b.obs)
	default:
		if err = b.openEtcd(ctx, cfg, cfg.Locks); err == nil {
			b.lent.locks, err = lock.OpenEtcd(cfg.Lock, b.etcd.Client(), b.etcd.Prefix(), b.obs)
		}
	}
	if err != nil {
		return err
	}
	b.use("lend locks", withoutPassword(cfg.Locks), func(context.Context) error { return b.lent.locks.Close() })
	return nil
}

// openEtcd connects to the one etcd of all parts that are in it.
func (b *backends) openEtcd(ctx context.Context, cfg *Config, url string) (err error) {
	if b.etcd != nil {
		return nil
	}
	cfg.Etcd.URL = url
	if b.etcd, err = id.OpenEtcd(ctx, cfg.Etcd); err != nil {
		return err
	}
	b.use("etcd", url, func(context.Context) error { return b.etcd.Close() })
	return nil
}
