//go:build unix

package lock

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

func init() {
	workers["quorum"] = func(cfg Config, o order, seen *obs.Obs) (*Locks, error) {
		var clients []*redis.Client
		for _, url := range strings.Split(o.URL, " ") {
			var c *redis.Client
			for c == nil { // a worker may be born while a server is away
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				c, _ = redis.Open(ctx, redis.Config{URL: url, Prefix: o.Prefix, Timeout: 200 * time.Millisecond}, seen)
				cancel()
			}
			clients = append(clients, c)
		}
		return OpenQuorum(cfg, clients, seen)
	}
}

func TestProofQuorum(t *testing.T) {
	servers := redisServers(t, 3)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	o := order{Kind: "quorum", URL: strings.Join(urls, " "), Prefix: "proof:", TTL: 400 * time.Millisecond}
	t.Run("pauses", func(t *testing.T) { play(t, o, fencedAll, 4, 0.1, 0.02, *proofTime, nil).legal() })
	t.Run("control: without a fence", func(t *testing.T) { play(t, o, unfenced, 4, 0.2, 0, *proofTime, nil).illegal() })
	// One server after the other is killed and comes back without its memory, or stands still.
	t.Run("faults", func(t *testing.T) {
		play(t, o, fencedAll, 4, 0.04, 0.01, 3**proofTime, func(ctx context.Context) {
			for i := 0; ctx.Err() == nil; i++ {
				time.Sleep(2*o.TTL + rand.N(o.TTL))
				s := servers[i%len(servers)]
				var err error
				if i%2 == 0 {
					err = errors.Join(s.Kill(), s.Restart(context.Background()))
				} else {
					err = s.Pause()
					time.Sleep(rand.N(2 * o.TTL))
					err = errors.Join(err, s.Resume())
				}
				if err != nil {
					t.Error(err)
				}
			}
		}).legal()
	})
}
