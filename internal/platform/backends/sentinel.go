package backends

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"levee"
)

// SentinelOptions says what [StartSentinel] starts. The zero value is usable.
type SentinelOptions struct {
	// Redis is for the primary and its replica.
	Redis RedisOptions
	// DownAfter is how long a primary may be silent before the sentinels replace it: 100 ms to 1 min, 500 ms when zero.
	DownAfter time.Duration
}

// RedisSentinel is a primary with one replica, watched by three sentinels of which two must agree.
type RedisSentinel struct {
	Nodes     []*RedisServer // two; which one is the primary changes
	Sentinels []*RedisServer // three
}

// MasterName is what the sentinels call the primary.
const MasterName = "levee"

const (
	defaultDownAfter = 500 * time.Millisecond
	groupTimeout     = 60 * time.Second
	pollEvery        = 10 * time.Millisecond
)

// StartSentinel starts the five processes and returns when the replica follows and each sentinel knows all the others. ctx bounds the
// start only; they run until Close or the end of this process.
func StartSentinel(ctx context.Context, o SentinelOptions) (_ *RedisSentinel, err error) {
	if err := o.Redis.check(); err != nil {
		return nil, err
	}
	if o.DownAfter == 0 {
		o.DownAfter = defaultDownAfter
	}
	if o.DownAfter < 100*time.Millisecond || o.DownAfter > time.Minute {
		return nil, levee.Invalid("DownAfter", "from 100ms to 1m, or 0 for "+defaultDownAfter.String(), o.DownAfter)
	}
	g := &RedisSentinel{}
	defer func() {
		if err != nil {
			_ = g.Close()
			err = fmt.Errorf("starting Redis with sentinels: %w", err)
		}
	}()
	for range 2 {
		s, err := prepareRedis(o.Redis)
		if err != nil {
			return nil, err
		}
		g.Nodes = append(g.Nodes, s)
	}
	// Each sentinel is told of the others and of the replica from the start: finding them out takes seconds.
	var ids []string
	for range 3 {
		s, err := prepareRedis(RedisOptions{Durable: o.Redis.Durable})
		if err != nil {
			return nil, err
		}
		s.sentinel = true
		g.Sentinels = append(g.Sentinels, s)
		id := make([]byte, 20)
		_, _ = rand.Read(id)
		ids = append(ids, hex.EncodeToString(id))
	}
	if err := g.Nodes[0].configure(); err != nil {
		return nil, err
	}
	if err := g.Nodes[1].configure(fmt.Sprintf("replicaof 127.0.0.1 %d", g.Nodes[0].port.number)); err != nil {
		return nil, err
	}
	for i, s := range g.Sentinels {
		lines := []string{
			"sentinel myid " + ids[i],
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", MasterName, g.Nodes[0].port.number),
			fmt.Sprintf("sentinel down-after-milliseconds %s %d", MasterName, o.DownAfter.Milliseconds()),
			fmt.Sprintf("sentinel failover-timeout %s %d", MasterName, max(5*time.Second, 4*o.DownAfter).Milliseconds()),
			fmt.Sprintf("sentinel parallel-syncs %s 1", MasterName),
			fmt.Sprintf("sentinel known-replica %s 127.0.0.1 %d", MasterName, g.Nodes[1].port.number),
		}
		for j, other := range g.Sentinels {
			if i != j {
				lines = append(lines, fmt.Sprintf("sentinel known-sentinel %s 127.0.0.1 %d %s", MasterName, other.port.number, ids[j]))
			}
		}
		if err := s.configure(lines...); err != nil {
			return nil, err
		}
	}
	if err := startAll(ctx, g.Nodes); err != nil {
		return nil, err
	}
	if err := until(ctx, "the replica follows the primary", func(ctx context.Context) error {
		return linked(ctx, g.Nodes[1])
	}); err != nil {
		return nil, err
	}
	if err := startAll(ctx, g.Sentinels); err != nil {
		return nil, err
	}
	return g, g.Settled(ctx)
}

// startAll starts the servers at once.
func startAll(ctx context.Context, all []*RedisServer) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() { errs[i] = s.start(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// until waits for a state of a group; the error says what did not come about and what was seen last.
func until(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w (last: %w)", what, ctx.Err(), err)
		case <-time.After(pollEvery):
		}
	}
}

// linked fails unless the server is a replica that is in step with its primary.
func linked(ctx context.Context, s *RedisServer) error {
	return s.info(ctx, "role:slave", "master_link_status:up", "master_sync_in_progress:0")
}

// info fails unless the server's section on replication has the lines.
func (s *RedisServer) info(ctx context.Context, lines ...string) error {
	answer, err := s.Do(ctx, "INFO", "replication")
	if err != nil {
		return err
	}
	text := fmt.Sprint(answer)
	for _, line := range lines {
		if !strings.Contains(text, line+"\r\n") {
			return fmt.Errorf("%s is not in %q", line, text)
		}
	}
	return nil
}

// Settled waits until each sentinel sees the primary, its replica and the other sentinels in good order, as after a fail-over whose loser
// was started again.
func (g *RedisSentinel) Settled(ctx context.Context) error {
	return until(ctx, "every sentinel knows the others and the replica", g.settled)
}

// settled fails unless each sentinel sees the primary, its replica and the two other sentinels in good order.
func (g *RedisSentinel) settled(ctx context.Context) error {
	for _, s := range g.Sentinels {
		if err := s.watches(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *RedisServer) watches(ctx context.Context) error {
	master, err := s.Do(ctx, "SENTINEL", "MASTER", MasterName)
	if err != nil {
		return err
	}
	if m := pairs(master); m["flags"] != "master" || m["num-slaves"] != "1" || m["num-other-sentinels"] != "2" {
		return fmt.Errorf("the sentinel sees %v", m)
	}
	for _, list := range []string{"REPLICAS", "SENTINELS"} {
		all, err := s.Do(ctx, "SENTINEL", list, MasterName)
		if err != nil {
			return err
		}
		members, _ := all.([]any)
		for _, member := range members {
			m := pairs(member)
			if m["flags"] != "slave" && m["flags"] != "sentinel" || list == "REPLICAS" && m["master-link-status"] != "ok" {
				return fmt.Errorf("the sentinel sees %v", m)
			}
		}
	}
	return nil
}

// pairs makes a map of an answer that lists names and values in turn.
func pairs(answer any) map[string]string {
	list, _ := answer.([]any)
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return m
}

// URL is how the product is told of the group: redis+sentinel://H:P,H:P,H:P/levee.
func (g *RedisSentinel) URL() string {
	var hosts []string
	for _, s := range g.Sentinels {
		hosts = append(hosts, s.addr)
	}
	return "redis+sentinel://" + strings.Join(hosts, ",") + "/" + MasterName
}

// Primary returns the node that the sentinels which answer take for the primary.
func (g *RedisSentinel) Primary(ctx context.Context) (*RedisServer, error) {
	var last error
	for _, s := range g.Sentinels {
		answer, err := s.Do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
		if err != nil {
			last = err
			continue
		}
		list, _ := answer.([]any)
		if len(list) != 2 {
			last = fmt.Errorf("the sentinel answered %v", answer)
			continue
		}
		port, _ := strconv.Atoi(fmt.Sprint(list[1]))
		addr := net.JoinHostPort(fmt.Sprint(list[0]), strconv.Itoa(port))
		for _, n := range g.Nodes {
			if n.addr == addr {
				return n, nil
			}
		}
		last = fmt.Errorf("the sentinel named %s, which is no node of the group", addr)
	}
	return nil, fmt.Errorf("no sentinel says who is the primary: %w", last)
}

// Promote has the sentinels make the replica the primary while both live, and returns the new primary once it takes writes. What the old
// one answered and had not replicated is lost, as in production.
func (g *RedisSentinel) Promote(ctx context.Context) (*RedisServer, error) {
	before, err := g.Primary(ctx)
	if err != nil {
		return nil, err
	}
	if err := until(ctx, "a sentinel begins the promotion", func(ctx context.Context) error {
		_, err := g.Sentinels[0].Do(ctx, "SENTINEL", "FAILOVER", MasterName)
		return err
	}); err != nil {
		return nil, err
	}
	return g.Promoted(ctx, before)
}

// Promoted waits until another node than the one given is the primary and takes writes, as after a Kill.
func (g *RedisSentinel) Promoted(ctx context.Context, before *RedisServer) (next *RedisServer, err error) {
	err = until(ctx, "another node is the primary", func(ctx context.Context) error {
		if next, err = g.Primary(ctx); err != nil {
			return err
		}
		if next == before {
			return errors.New("it still is the same one")
		}
		return next.info(ctx, "role:master")
	})
	return next, err
}

// Close ends all processes of the group and removes their data.
func (g *RedisSentinel) Close() error {
	var err error
	for _, s := range append(append([]*RedisServer{}, g.Sentinels...), g.Nodes...) {
		err = errors.Join(err, s.Close())
	}
	return err
}
