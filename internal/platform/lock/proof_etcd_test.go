//go:build unix

package lock

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

func init() {
	workers["etcd"] = func(cfg Config, o order, seen *obs.Obs) (*Locks, error) {
		c, err := newEtcdClient(o.URL)
		if err != nil {
			return nil, err
		}
		return OpenEtcd(cfg, c, o.Prefix, seen)
	}
}

func TestProofEtcd(t *testing.T) {
	server, err := backends.StartEtcd(t.Context(), backends.EtcdOptions{})
	had(t, err)
	defer server.Close()
	proxy, err := backends.StartProxy(t.Context(), server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	o := order{Kind: "etcd", URL: proxy.Addr, Prefix: "proof/"}
	const ttl = 300 * time.Millisecond
	strict := o
	strict.Strict = true
	t.Run("pauses", func(t *testing.T) {
		s := play(t, strict, fencedAll, 4, 0.1, 0.02, *proofTime, nil)
		s.legal()
		s.early()
	})
	t.Run("control: without a fence", func(t *testing.T) { play(t, o, unfenced, 4, 0.2, 0, *proofTime, nil).illegal() })
	crash := func() error { return errors.Join(server.Kill(), server.Restart(context.Background())) }
	stop := func() error {
		err := server.Pause()
		time.Sleep(rand.N(3 * ttl))
		return errors.Join(err, server.Resume())
	}
	t.Run("faults", func(t *testing.T) {
		s := play(t, strict, fencedAll, 4, 0.04, 0.01, 2**proofTime, shake(t, proxy, ttl, crash, stop))
		s.legal()
		s.early()
	})
	t.Run("set up anew", func(t *testing.T) {
		s := play(t, o, fencedAll, 4, 0.04, 0.01, 3**proofTime, shake(t, proxy, ttl, crash, stop,
			func() error { // it has forgotten all holders, and its revisions begin at 1
				return server.RestartEmpty(context.Background())
			}))
		s.legal()
		s.early()
	})
}
