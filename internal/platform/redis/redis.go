package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"levee"
	"levee/internal/platform/obs"
)

// Client is a node's way to Redis. It is made by Open and safe for concurrent use.
type Client struct {
	cfg     Config
	at      address
	log     *slog.Logger
	metrics *metrics
	calls   goredis.UniversalClient
	patient goredis.UniversalClient
	lines   lines // of patient
	fast    *goredis.Client
	breaker *breaker // of the one server; in a cluster each node has its own
	healthy atomic.Bool
	radio   *radio

	stop  context.CancelFunc
	tasks sync.WaitGroup
	once  sync.Once
	err   error // of the one Close
}

// Open connects and checks the server: it must answer (else CodeUnavailable), be of version 6.2 or later, be a primary, be a
// cluster if and only if the URL says so, and not be set to throw away keys that have no lifetime (else CodeInvalid, which says
// what to set). That it keeps nothing over a restart is logged as a warning. Close ends it.
func Open(ctx context.Context, cfg Config, o *obs.Obs) (_ *Client, err error) {
	defer levee.Wrap(&err, "redis.Open")
	// The library writes to standard error on its own; whatever matters comes back as an error.
	logging.Disable()
	at, err := cfg.address()
	if err != nil {
		return nil, err
	}
	cfg = cfg.filled()
	c := &Client{cfg: cfg, at: at, log: o.Named("redis")}
	if c.calls, err = cfg.client(at, cfg.Timeout, cfg.Connections); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.calls.Close()
			if c.patient != nil {
				_ = c.patient.Close()
			}
		}
	}()
	if c.patient, err = cfg.client(at, patientTimeout, patientConns); err != nil {
		return nil, err
	}
	c.patient.AddHook(plain{&c.lines})
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	c.radio = newRadio(c, id)
	c.metrics = newMetrics(o.Metrics, c)
	defer func() {
		if err != nil {
			c.metrics.close()
		}
	}()
	c.guard()
	c.fast = fast(c.calls)
	c.healthy.Store(true)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.tasks.Go(func() { c.watch(run) })
	c.tasks.Go(func() { c.radio.listen(run) })
	c.tasks.Go(func() { c.radio.speak(run) })
	return c, nil
}

// UniversalClient returns the pooled client: for scripts, pipelines and transactions. A call takes Config.Timeout at most, fails
// with CodeUnavailable when the server is away or cannot serve, and with the server's own error or goredis.Nil otherwise. It must not
// be closed. Keys must begin with Key("").
func (c *Client) UniversalClient() goredis.UniversalClient { return c.calls }

// Fast returns the same commands for hot small calls of many goroutines: calls made at the same time share a pipeline. There is no order
// between calls of different goroutines. It must not be used for calls that block or move large values.
func (c *Client) Fast() goredis.Cmdable { return c.fast }

// Patient returns a client for bulk work, such as loading a sale: up to five seconds for a call, four connections, and no breaker.
// It must not be closed.
func (c *Client) Patient() goredis.UniversalClient { return c.patient }

// Apart returns a client of the caller's own with up to conns (1 to 8) connections, for calls that block: up to five seconds, or what
// the call's own blocking takes and ten more; a deadline of ctx cuts both. The caller closes it, which ends calls under way.
func (c *Client) Apart(conns int) (goredis.UniversalClient, error) {
	if conns < 1 || conns > 8 {
		return nil, levee.Invalid("conns", "from 1 to 8", conns)
	}
	u, err := c.cfg.client(c.at, patientTimeout, conns)
	if err == nil {
		u.AddHook(plain{})
	}
	return u, err
}

// Key returns the name with the house's prefix. Names that one script uses must share a hash tag: Key("{sale:7}:stock").
func (c *Client) Key(name string) string { return c.cfg.Prefix + name }

// Cluster reports whether the keys are spread over several servers.
func (c *Client) Cluster() bool { return c.at.kind == "cluster" }

// Healthy reports whether calls are let through now: in a cluster, whether every primary answers.
func (c *Client) Healthy() bool {
	return c.healthy.Load() && (c.breaker == nil || !c.breaker.open.Load())
}

// Hearing reports whether this node gets the messages of the others now. While it does not, what it was told to keep may be stale.
func (c *Client) Hearing() bool { return c.radio.hearing.Load() }

// Nodes returns how many processes of the house are there, this one included, as last heard over the messages: at least 1.
func (c *Client) Nodes() int { return int(c.radio.nodes.Load()) }

// Ping asks the server, or all primaries of a cluster, for a sign of life past the breaker, and returns how long it took. CodeUnavailable
// when there is none.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := c.probe(ctx)
	return time.Since(began), err
}

// Close ends the messages and closes all connections. Calls under way fail. Later calls of Close return the first one's error.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.stop()
		c.lines.cut() // a subscription that waits for a server that hangs would hold us up
		c.radio.shut()
		c.err = errors.Join(c.calls.Close(), c.fast.Close())
		if err := c.patient.Close(); c.err == nil {
			c.err = err
		}
		c.tasks.Wait()
		c.metrics.close()
	})
	return c.err
}
