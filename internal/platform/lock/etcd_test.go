package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

func etcdClient(t testing.TB, addr string) *clientv3.Client {
	t.Helper()
	c, err := newEtcdClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newEtcdClient(addr string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: 5 * time.Second, DialKeepAliveTime: 5 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second, Logger: zap.NewNop()})
}

func etcdShared(t testing.TB) (addr, prefix string) {
	t.Helper()
	s, err := backends.Etcd(context.Background())
	had(t, err)
	return s.Addr(), fmt.Sprintf("t%d-%d/", os.Getpid(), prefixes.Add(1))
}

func openEtcd(t testing.TB, addr, prefix string) *Locks {
	t.Helper()
	l, err := OpenEtcd(Config{}, etcdClient(t, addr), prefix, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func init() {
	kinds["etcd"] = func(t testing.TB, nodes int) *house {
		addr, prefix := etcdShared(t)
		h := &house{ttl: calmTTL, slack: 300 * time.Millisecond}
		for range nodes {
			h.nodes = append(h.nodes, openEtcd(t, addr, prefix))
		}
		h.stop = func(i int) {
			h.nodes[i] = h.dies(t, i, func() (*Locks, error) { return OpenEtcd(Config{}, etcdClient(t, addr), prefix, obs.Test(t)) })
		}
		c := etcdClient(t, addr)
		h.wipe = func(name string) error {
			_, err := c.Delete(context.Background(), prefix+"lock/{"+name+"}/", clientv3.WithPrefix())
			return err
		}
		return h
	}
}

// How long it takes from a release until the next holder knows, and a pair of calls without any contention.
func BenchmarkEtcd(b *testing.B) {
	addr, prefix := etcdShared(b)
	one, two := openEtcd(b, addr, prefix), openEtcd(b, addr, prefix)
	b.Run("pair", func(b *testing.B) {
		for b.Loop() {
			s, err := one.Acquire(b.Context(), "pair")
			if err == nil {
				err = s.Release(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("lease of its own", func(b *testing.B) { // what a pair would cost more
		c := etcdClient(b, addr)
		for b.Loop() {
			a, err := c.Grant(b.Context(), 10)
			if err == nil {
				_, err = c.Revoke(b.Context(), a.ID)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("handover", func(b *testing.B) {
		var all []time.Duration
		held, err := one.Acquire(b.Context(), "hand")
		if err != nil {
			b.Fatal(err)
		}
		for i := 0; b.Loop(); i++ {
			next := []*Locks{two, one}[i%2]
			type result struct {
				s   *Lease
				err error
				at  time.Time
			}
			got := make(chan result, 1)
			go func() {
				s, err := next.Acquire(b.Context(), "hand")
				got <- result{s, err, time.Now()}
			}()
			time.Sleep(4 * time.Millisecond)
			gave := time.Now()
			err := held.Release(b.Context())
			r := <-got
			if err := errors.Join(err, r.err); err != nil {
				b.Fatal(err)
			}
			held = r.s
			all = append(all, r.at.Sub(gave))
		}
		_ = held.Release(b.Context())
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
	})
}
