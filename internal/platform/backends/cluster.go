package backends

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"levee"
)

// ClusterOptions says what [StartCluster] starts. The zero value is usable.
type ClusterOptions struct {
	// Redis is for every node.
	Redis RedisOptions
	// NodeTimeout is how long a node may be silent before it is taken for dead: 200 ms to 1 min, 1 s when zero.
	NodeTimeout time.Duration
}

// RedisCluster is three masters that share the 16,384 slots, with a replica each.
type RedisCluster struct {
	// Nodes are six: at the start the first three are masters, and number i+3 is the replica of number i.
	Nodes []*RedisServer
}

const (
	clusterMasters     = 3
	clusterSlots       = 16384
	defaultNodeTimeout = time.Second
	askAgain           = 6 * time.Second // a node gives up a fail-over by order after five
)

// StartCluster starts the six processes and returns when every node says that all slots are served and every replica follows: after about
// three seconds, two of which a new node waits by itself before it takes writes. ctx bounds the start only; they run until Close or the
// end of this process.
func StartCluster(ctx context.Context, o ClusterOptions) (_ *RedisCluster, err error) {
	if err := o.Redis.check(); err != nil {
		return nil, err
	}
	if o.NodeTimeout == 0 {
		o.NodeTimeout = defaultNodeTimeout
	}
	if o.NodeTimeout < 200*time.Millisecond || o.NodeTimeout > time.Minute {
		return nil, levee.Invalid("NodeTimeout", "from 200ms to 1m, or 0 for "+defaultNodeTimeout.String(), o.NodeTimeout)
	}
	c := &RedisCluster{}
	defer func() {
		if err != nil {
			_ = c.Close()
			err = fmt.Errorf("starting a Redis cluster: %w", err)
		}
	}()
	for range 2 * clusterMasters {
		s, err := prepareRedis(o.Redis)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, s)
		if s.bus, err = takePort(); err != nil {
			return nil, err
		}
		if err := s.configure("cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-replica-validity-factor 0",
			"cluster-allow-replica-migration no", fmt.Sprintf("cluster-node-timeout %d", o.NodeTimeout.Milliseconds())); err != nil {
			return nil, err
		}
	}
	if err := startAll(ctx, c.Nodes); err != nil {
		return nil, err
	}
	for i, s := range c.Nodes {
		if err := s.give(ctx, i); err != nil {
			return nil, err
		}
	}
	for i, s := range c.Nodes {
		for _, other := range c.Nodes[i+1:] {
			if _, err := s.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", other.port.number, other.bus.number); err != nil {
				return nil, err
			}
		}
	}
	for i := range clusterMasters {
		master, replica := c.Nodes[i], c.Nodes[i+clusterMasters]
		id, err := master.Do(ctx, "CLUSTER", "MYID")
		if err != nil {
			return nil, err
		}
		// A node follows only one it knows already.
		if err := until(ctx, "a replica knows its master", func(ctx context.Context) error {
			_, err := replica.Do(ctx, "CLUSTER", "REPLICATE", id)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return c, c.Settled(ctx)
}

// give gives node i its epoch, which it takes only while it knows nobody, and its slots.
func (s *RedisServer) give(ctx context.Context, i int) error {
	if _, err := s.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1); err != nil {
		return err
	}
	if i >= clusterMasters {
		return nil
	}
	slots := []any{"CLUSTER", "ADDSLOTS"}
	for slot := i * clusterSlots / clusterMasters; slot < (i+1)*clusterSlots/clusterMasters; slot++ {
		slots = append(slots, slot)
	}
	_, err := s.Do(ctx, slots...)
	return err
}

// Settled waits until every node that runs says that all slots are served, and every replica of a node that runs follows its master.
func (c *RedisCluster) Settled(ctx context.Context) error {
	return until(ctx, "the cluster serves all slots", func(ctx context.Context) error {
		for _, s := range c.running() {
			text, err := s.Do(ctx, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			state := fmt.Sprint(text)
			for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes)), "cluster_size:3"} {
				if !strings.Contains(state, want+"\r\n") {
					return fmt.Errorf("a node is not at %s but at %q", want, state)
				}
			}
			if s.info(ctx, "role:master") != nil {
				if err := linked(ctx, s); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c *RedisCluster) running() (list []*RedisServer) {
	for _, s := range c.Nodes {
		s.mu.Lock()
		if !s.closed && s.process != nil && s.process.running() {
			list = append(list, s)
		}
		s.mu.Unlock()
	}
	return list
}

// URL is how the product is told of the cluster: redis+cluster://H:P,… with all six nodes.
func (c *RedisCluster) URL() string {
	var hosts []string
	for _, s := range c.Nodes {
		hosts = append(hosts, s.addr)
	}
	return "redis+cluster://" + strings.Join(hosts, ",")
}

// Masters returns the nodes that run and take themselves for masters.
func (c *RedisCluster) Masters(ctx context.Context) (list []*RedisServer, err error) {
	for _, s := range c.running() {
		text, err := s.Do(ctx, "ROLE")
		if err != nil {
			return nil, err
		}
		if role, _ := text.([]any); len(role) > 0 && role[0] == "master" {
			list = append(list, s)
		}
	}
	return list, nil
}

// Promote makes the node, a replica, the master of its slots. With its master alive nothing is lost; with its master gone it takes over
// without asking the others (TAKEOVER), and what it had not received is lost. Soon after another change of the same slots it takes some
// seconds, because the masters vote for a replica of one master only once in a while.
func (c *RedisCluster) Promote(ctx context.Context, node *RedisServer) error {
	var asked time.Time
	err := until(ctx, "the node is a master", func(ctx context.Context) error {
		if node.info(ctx, "role:master") == nil {
			return nil
		}
		if time.Since(asked) > askAgain {
			command := []any{"CLUSTER", "FAILOVER"}
			if linked(ctx, node) != nil {
				command = append(command, "TAKEOVER")
			}
			// A vote that fails is told to nobody: the node gives up in silence, so it is asked again.
			if _, err := node.Do(ctx, command...); err != nil {
				return err
			}
			asked = time.Now()
		}
		return errors.New("it is a replica still")
	})
	if err != nil {
		return fmt.Errorf("promoting a node of the cluster: %w", err)
	}
	return nil
}

// Promoted waits until the node is a master, as after a Kill of its own.
func (c *RedisCluster) Promoted(ctx context.Context, node *RedisServer) error {
	return until(ctx, "the node is a master", func(ctx context.Context) error { return node.info(ctx, "role:master") })
}

// Close ends all processes of the cluster and removes their data.
func (c *RedisCluster) Close() error {
	var err error
	for _, s := range c.Nodes {
		err = errors.Join(err, s.Close())
	}
	return err
}
