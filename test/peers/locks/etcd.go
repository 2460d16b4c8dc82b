package main

import (
	"context"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis"
	redsyncgo "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	goredis "github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"levee/internal/platform/backends"
	"levee/internal/platform/lock"
	levee "levee/internal/platform/redis"
)

// The locks over etcd and over several Redis servers. Their servers start with the first of them, and end with the program.
func init() {
	all = append(all,
		kind{"**Levee**, etcd", func(s *servers) (contender, error) {
			c, err := etcdClient()
			if err != nil {
				return contender{}, err
			}
			l, err := lock.OpenEtcd(lock.Config{TTL: ttl}, c, "levee/", s.obs)
			return ours(l, func() {
				_ = l.Close()
				_ = c.Close()
			}), err
		}},
		kind{"etcd's own concurrency.Mutex", func(*servers) (contender, error) {
			c, err := etcdClient()
			if err != nil {
				return contender{}, err
			}
			session, err := concurrency.NewSession(c, concurrency.WithTTL(int(ttl/time.Second)))
			return contender{func(ctx context.Context, name string) (func() error, error) {
				m := concurrency.NewMutex(session, "/mutex/"+name)
				err := m.Lock(ctx)
				return func() error { return m.Unlock(ctx) }, err
			}, func() {
				_ = session.Close()
				_ = c.Close()
			}}, err
		}},
		kind{"**Levee**, quorum of 3 Redis", func(s *servers) (contender, error) { return overQuorum(s, 3) }},
		kind{"**Levee**, quorum of 5 Redis", func(s *servers) (contender, error) { return overQuorum(s, 5) }},
		kind{"redsync, 3 nodes, retry 5 ms, no fence", func(*servers) (contender, error) { return overNodes(3) }},
		kind{"redsync, 5 nodes, retry 5 ms, no fence", func(*servers) (contender, error) { return overNodes(5) }},
	)
}

var etcdServer = sync.OnceValues(func() (*backends.EtcdServer, error) {
	return backends.StartEtcd(context.Background(), backends.EtcdOptions{Durable: true})
})

func etcdClient() (*clientv3.Client, error) {
	s, err := etcdServer()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: []string{s.Addr()}, DialTimeout: 5 * time.Second, DialKeepAliveTime: 5 * time.Second, Logger: zap.NewNop()})
}

var nodes = sync.OnceValues(func() (all []*backends.RedisServer, err error) {
	for range 5 {
		s, err := backends.StartRedis(context.Background(), backends.RedisOptions{})
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
})

func overQuorum(s *servers, n int) (contender, error) {
	all, err := nodes()
	if err != nil {
		return contender{}, err
	}
	var clients []*levee.Client
	end := func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}
	for _, one := range all[:n] {
		c, err := levee.Open(context.Background(), levee.Config{URL: one.URL(), Timeout: time.Second}, s.obs)
		if err != nil {
			end()
			return contender{}, err
		}
		clients = append(clients, c)
	}
	l, err := lock.OpenQuorum(lock.Config{TTL: ttl}, clients, s.obs)
	return ours(l, func() {
		_ = l.Close()
		end()
	}), err
}

func overNodes(n int) (contender, error) {
	all, err := nodes()
	if err != nil {
		return contender{}, err
	}
	var pools []redis.Pool
	var clients []*goredis.Client
	for _, one := range all[:n] {
		c := goredis.NewClient(&goredis.Options{Addr: one.Addr(), PoolSize: 64})
		clients, pools = append(clients, c), append(pools, redsyncgo.NewPool(c))
	}
	r := redsync.New(pools...)
	return contender{func(ctx context.Context, name string) (func() error, error) {
		m := r.NewMutex("redsync:"+name, redsync.WithExpiry(ttl), redsync.WithTries(1<<20), redsync.WithRetryDelay(5*time.Millisecond))
		err := m.LockContext(ctx)
		return func() error { _, err := m.UnlockContext(ctx); return err }, err
	}, func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}}, nil
}
