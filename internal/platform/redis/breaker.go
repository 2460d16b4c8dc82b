package redis

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
)

const (
	// tripAfter failures in a row open the breaker: one is a broken connection, five are a broken server.
	tripAfter = 5
	// An open breaker's server is probed this often, a closed one's to notice its death also when nobody calls.
	probeOpen, probeClosed = 100 * time.Millisecond, time.Second
	// awayRetry is what callers are told to wait. The server may be back any moment, and all must not come in the same one.
	awayRetry = time.Second
)

// breaker lets calls to one server fail at once while it is away.
type breaker struct {
	open  atomic.Bool
	fails atomic.Int32 // in a row
	turn  func(open bool)
}

// heard notes the outcome of a call that reached for the server.
func (b *breaker) heard(alive bool) {
	if alive {
		if b.fails.Load() != 0 {
			b.fails.Store(0)
		}
		if b.open.CompareAndSwap(true, false) {
			b.turn(false)
		}
		return
	}
	if b.fails.Add(1) >= tripAfter && b.open.CompareAndSwap(false, true) {
		b.turn(true)
	}
}

// probing marks the context of a call that passes an open breaker.
type probing struct{}

// hook is the breaker in front of one server's calls, or (with breaker nil) only their measure and the translation of errors.
type hook struct {
	c *Client
	b *breaker
}

func (h hook) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (h hook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if h.blocked(ctx) {
			err := h.c.away(nil)
			cmd.SetErr(err)
			return err
		}
		began := time.Now()
		err := h.after(ctx, next(ctx, cmd), began, h.c.metrics.command)
		cmd.SetErr(err)
		return err
	}
}

func (h hook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		if h.blocked(ctx) {
			err := h.c.away(nil)
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		began := time.Now()
		err := h.after(ctx, next(ctx, cmds), began, h.c.metrics.pipeline)
		for _, cmd := range cmds {
			if e := cmd.Err(); e != nil {
				cmd.SetErr(h.c.translate(ctx, e))
			}
		}
		return err
	}
}

func (h hook) blocked(ctx context.Context) bool {
	return h.b != nil && h.b.open.Load() && ctx.Value(probing{}) == nil
}

func (h hook) after(ctx context.Context, err error, began time.Time, m observer) error {
	m.Observe(time.Since(began).Seconds())
	if h.b != nil {
		switch verdict(ctx, err) {
		case verdictAlive:
			h.b.heard(true)
		case verdictDead:
			h.b.heard(false)
		}
	}
	return h.c.translate(ctx, err)
}

type observer interface{ Observe(float64) }

// What a call's outcome says about the server.
const (
	verdictNone  = iota // the caller gave up
	verdictAlive        // it answered
	verdictDead         // it did not, or not as a server that can serve
)

func verdict(ctx context.Context, err error) int {
	if err == nil || errors.Is(err, goredis.Nil) {
		return verdictAlive
	}
	var answered goredis.Error
	if errors.As(err, &answered) {
		switch {
		case goredis.IsLoadingError(err), goredis.IsReadOnlyError(err), goredis.IsClusterDownError(err), goredis.IsMasterDownError(err),
			goredis.IsMaxClientsError(err), goredis.HasErrorPrefix(err, "BUSY "):
			return verdictDead
		}
		return verdictAlive
	}
	if ctx.Err() != nil {
		return verdictNone
	}
	var known *levee.Error // of a breaker further in
	if errors.As(err, &known) {
		return verdictNone
	}
	return verdictDead
}

// translate gives errors of a server that is away, or answers that it cannot serve, CodeUnavailable. What the server says about the call
// itself, goredis.Nil and the end of ctx stay as they are.
func (c *Client) translate(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, goredis.Nil) {
		return err
	}
	var known *levee.Error
	if errors.As(err, &known) {
		return err
	}
	var answered goredis.Error
	if errors.As(err, &answered) {
		switch {
		case verdict(ctx, err) == verdictDead:
		case goredis.IsOOMError(err), goredis.IsAuthError(err), goredis.IsPermissionError(err), goredis.IsTryAgainError(err),
			goredis.IsNoReplicasError(err), goredis.HasErrorPrefix(err, "MISCONF"):
		default:
			return err
		}
		c.count("server")
		return c.away(err)
	}
	if e := ctx.Err(); e != nil {
		return context.Cause(ctx)
	}
	var t net.Error
	if errors.As(err, &t) && t.Timeout() || errors.Is(err, goredis.ErrPoolTimeout) {
		c.count("timeout")
	} else {
		c.count("network")
	}
	return c.away(err)
}

func (c *Client) count(reason string) {
	if c.metrics != nil {
		c.metrics.errors.WithLabelValues(reason).Inc()
	}
}

// away makes the error of a call that got no use of Redis. A nil cause says that the breaker did not let it through.
func (c *Client) away(cause error) error {
	if cause == nil {
		c.metrics.errors.WithLabelValues("breaker").Inc()
		cause = errOpen
	}
	return levee.E(levee.CodeUnavailable, "a part of the service cannot be reached").After(awayRetry).Because(cause)
}

var errOpen = errors.New("redis: away, not asked again yet")

// plain is the hook of clients without a breaker: it translates errors, and knows the connections.
type plain struct{ lines *lines }

// DialHook notes each connection, so that Close can end what waits on one.
func (p plain) DialHook(next goredis.DialHook) goredis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil || p.lines == nil {
			return conn, err
		}
		return p.lines.add(conn)
	}
}

// lines are open connections. A read that waits for a server that hangs ends with its connection, and by nothing else.
type lines struct {
	mu     sync.Mutex
	open   map[*line]struct{} // guarded by mu
	closed bool               // guarded by mu
}

type line struct {
	net.Conn
	of *lines
}

func (l *lines) add(conn net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	if l.open == nil {
		l.open = map[*line]struct{}{}
	}
	c := &line{conn, l}
	l.open[c] = struct{}{}
	return c, nil
}

// Close ends the connection. That cut has ended it before is no failure.
func (c *line) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	if err := c.Conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// cut ends all connections, and those that are still being made.
func (l *lines) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.open {
		_ = c.Conn.Close()
	}
}

func (plain) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := (&Client{}).translate(ctx, next(ctx, cmd))
		cmd.SetErr(err)
		return err
	}
}

func (plain) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		err := (&Client{}).translate(ctx, next(ctx, cmds))
		for _, cmd := range cmds {
			if e := cmd.Err(); e != nil {
				cmd.SetErr((&Client{}).translate(ctx, e))
			}
		}
		return err
	}
}

// guard puts the breakers in: one for one server, one for each node of a cluster, so that the death of a node fails only its own keys.
func (c *Client) guard() {
	turn := func(what string) func(bool) {
		return func(open bool) {
			if open {
				c.metrics.trips.Inc()
				c.log.Error("redis is away: calls fail at once until it answers again", "server", what)
			} else {
				c.log.Info("redis answers again", "server", what)
			}
		}
	}
	if cluster, ok := c.calls.(*goredis.ClusterClient); ok {
		cluster.AddHook(hook{c, nil})
		var once sync.Map // a node is told of more than once when the cluster's shape changes
		cluster.OnNewNode(func(n *goredis.Client) {
			if _, there := once.LoadOrStore(n, nil); !there {
				n.AddHook(nodeHook{hook{c, &breaker{turn: turn(n.Options().Addr)}}})
			}
		})
		return
	}
	c.breaker = &breaker{turn: turn(c.at.hosts[0])}
	c.calls.AddHook(hook{c, c.breaker})
}

// nodeHook is a cluster node's breaker. It leaves the server's words as they are, by which the library finds the way, and turns
// only silence into an error that is not tried again.
type nodeHook struct{ hook }

func (h nodeHook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if h.blocked(ctx) {
			err := h.c.away(nil)
			cmd.SetErr(err)
			return err
		}
		err := h.silence(ctx, next(ctx, cmd))
		cmd.SetErr(err)
		return err
	}
}

func (h nodeHook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		if h.blocked(ctx) {
			err := h.c.away(nil)
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		err := next(ctx, cmds)
		var answered goredis.Error
		if err = h.silence(ctx, err); err != nil && !errors.As(err, &answered) {
			for _, cmd := range cmds {
				if cmd.Err() != nil {
					cmd.SetErr(err)
				}
			}
		}
		return err
	}
}

func (h nodeHook) silence(ctx context.Context, err error) error {
	v := verdict(ctx, err)
	if goredis.IsClusterDownError(err) || goredis.IsReadOnlyError(err) || goredis.IsMasterDownError(err) {
		v = verdictAlive // it answers at once; what is wrong is the cluster or our view of it
	}
	if v != verdictNone {
		h.b.heard(v == verdictAlive)
	}
	var answered goredis.Error
	if v == verdictDead && !errors.As(err, &answered) {
		return h.c.translate(ctx, err)
	}
	return err
}

// probe asks for a sign of life, past the breakers; its outcome closes or opens them.
func (c *Client) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, probing{}, true), 2*c.cfg.Timeout)
	defer cancel()
	cluster, ok := c.calls.(*goredis.ClusterClient)
	if !ok {
		// ROLE rather than PING: a server that loads its data or was made a replica is alive and of no use.
		role, err := c.calls.Do(ctx, "ROLE").Slice()
		if err == nil && len(role) > 0 && role[0] == "slave" {
			err = levee.E(levee.CodeUnavailable, "a part of the service cannot be reached").Because(errReplica)
			c.breaker.heard(false)
		}
		return err
	}
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, n *goredis.Client) error { return n.Ping(ctx).Err() })
	if err != nil {
		cluster.ReloadState(ctx) // who is primary may have changed
	}
	return err
}

var errReplica = errors.New("redis: the server has become a replica")

// watch probes the server until ctx ends.
func (c *Client) watch(ctx context.Context) {
	for {
		wait := probeClosed
		if !c.Healthy() {
			wait = probeOpen
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := c.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		c.healthy.Store(err == nil)
	}
}
