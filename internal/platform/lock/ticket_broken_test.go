package lock

import (
	"context"
	"testing"
	"time"

	"levee/internal/platform/obs"
)

// yes is the etcd driver, but says yes to each renewal, or each release, and does nothing.
type yes struct {
	*cluster
	renews bool
}

func (y yes) renew(ctx context.Context, r *request, ttl time.Duration) error {
	if y.renews {
		return nil
	}
	return y.cluster.renew(ctx, r, ttl)
}

func (y yes) release(ctx context.Context, r *request) error {
	if !y.renews {
		return nil
	}
	return y.cluster.release(ctx, r)
}

// The negative controls of the check of tickets.
func TestBrokenTicketsAreCaught(t *testing.T) {
	addr, prefix := etcdShared(t)
	for name, renews := range map[string]bool{"renewal": true, "release": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := open(Config{}, obs.Test(t), "etcd", func(l *Locks) (driver, error) {
				return yes{newCluster(etcdClient(t, addr), prefix, l.log), renews}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := checkTickets(ctx, &house{nodes: []*Locks{l}, ttl: 300 * time.Millisecond, slack: 50 * time.Millisecond}); err == nil {
				t.Error("it was not noticed")
			} else {
				t.Log(err)
			}
		})
	}
}
