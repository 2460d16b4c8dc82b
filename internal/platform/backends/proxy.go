package backends

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

// Proxy stands between clients and one server and puts faults in between. Faults hold for open and for new connections, until they are
// set anew, set to zero or ended by Heal. Its methods may be called by several goroutines.
type Proxy struct {
	// Addr is the HOST:PORT that clients connect to. It stays the same while the proxy is down and when the upstream changes.
	Addr string

	port   *port
	faults atomic.Pointer[faults]
	wg     sync.WaitGroup // the accept loop and the connections

	mu       sync.Mutex // guards what follows, and changes of faults
	listener net.Listener
	upstream string
	conns    map[*proxied]struct{}
	limits   int64 // calls of LimitAnswers
	closed   bool
}

const (
	dialTimeout  = 2 * time.Second // to the upstream
	maxFaultTime = 10 * time.Minute
	maxConns     = 10_000
)

// StartProxy starts a proxy in front of the upstream: HOST:PORT, or a URL with one host. It runs until Close.
func StartProxy(ctx context.Context, upstream string) (*Proxy, error) {
	addr, err := hostPort(upstream)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &Proxy{upstream: addr, conns: map[*proxied]struct{}{}}
	if p.port, err = takePort(); err != nil {
		return nil, err
	}
	p.Addr = p.port.addr()
	p.faults.Store(&faults{changed: make(chan struct{})})
	if err := p.Up(); err != nil {
		p.port.free()
		return nil, err
	}
	return p, nil
}

func hostPort(upstream string) (string, error) {
	addr := upstream
	if strings.Contains(upstream, "://") {
		u, err := url.Parse(upstream)
		if err != nil {
			return "", levee.Invalid("upstream", "HOST:PORT or a URL with one host and a port", "an unreadable URL")
		}
		addr = u.Host
	}
	if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" || strings.Contains(addr, ",") {
		return "", levee.Invalid("upstream", "HOST:PORT or a URL with one host and a port", addr)
	}
	return addr, nil
}

// URL returns the URL of a server with the proxy in the place of its host: what a client is given to come through the proxy.
func (p *Proxy) URL(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return "", levee.Invalid("server", "a URL with a host", "another form")
	}
	u.Host = p.Addr
	return u.String(), nil
}

// SetUpstream sends new connections to another server, as when an address moves at a fail-over. Open ones stay; ResetPeer ends them.
func (p *Proxy) SetUpstream(upstream string) error {
	addr, err := hostPort(upstream)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = addr
	return nil
}

// Up lets clients connect; it does nothing when they already can.
func (p *Proxy) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the proxy is closed")
	}
	if p.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp4", p.Addr)
	if err != nil {
		return fmt.Errorf("listening as a proxy: %w", err)
	}
	p.listener = l
	p.wg.Go(func() { p.accept(l) })
	return nil
}

// Down refuses new connections and resets the open ones, as when the machine of the server is gone and its address answers for it.
func (p *Proxy) Down() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	p.ResetPeer()
}

// ResetPeer resets (RST) every open connection now, on both sides. New ones work.
func (p *Proxy) ResetPeer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close(true)
		delete(p.conns, c)
	}
}

// change replaces the faults. Streams that lost something are reset once nothing is dropped any more.
func (p *Proxy) change(f func(*faults)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the proxy is closed")
	}
	old := p.faults.Load()
	next := *old
	f(&next)
	next.changed = make(chan struct{})
	p.faults.Store(&next)
	close(old.changed)
	for c := range p.conns {
		if !next.dropAnswers && !next.dropRequests && c.holed.Load() {
			c.close(true)
			delete(p.conns, c)
		}
	}
	return nil
}

// Connections is how many clients are connected.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Latency delays the answers by d, give or take jitter; both up to ten minutes.
func (p *Proxy) Latency(d, jitter time.Duration) error {
	if err := faultTime("latency", d); err != nil {
		return err
	}
	if jitter < 0 || jitter > d {
		return levee.Invalid("jitter", "from 0 to the latency", jitter)
	}
	return p.change(func(f *faults) { f.latency, f.jitter = d, jitter })
}

// Bandwidth limits each direction of each connection to so many kilobytes a second.
func (p *Proxy) Bandwidth(kilobytes int) error {
	if kilobytes < 0 || kilobytes > 1<<30 {
		return levee.Invalid("kilobytes", "from 0 (no limit) to 1073741824", kilobytes)
	}
	return p.change(func(f *faults) { f.rate = 1000 * int64(kilobytes) })
}

// SlowClose keeps the client's connection open for d after the server has closed it.
func (p *Proxy) SlowClose(d time.Duration) error {
	if err := faultTime("delay", d); err != nil {
		return err
	}
	return p.change(func(f *faults) { f.slowClose = d })
}

// LimitAnswers closes each connection after so many bytes of answers, counted from now for open ones: the answer is cut in its middle.
func (p *Proxy) LimitAnswers(bytes int64) error {
	if bytes < 0 || bytes > 1<<40 {
		return levee.Invalid("bytes", "from 0 (no limit) to 1099511627776", bytes)
	}
	return p.change(func(f *faults) {
		p.limits++
		f.limit, f.limitNumber = bytes, p.limits
	})
}

// DropAnswers lets what the clients send reach the server, and none of its answers come back; connections stay open. This is how the
// answer to a COMMIT is lost. Ending it resets the connections that lost something, because their streams have holes.
func (p *Proxy) DropAnswers(on bool) error {
	return p.change(func(f *faults) { f.dropAnswers = on })
}

// Silence lets nothing through in either direction, not even the end of a connection; connections stay open, and new ones are accepted: a
// network that swallows packets. Ending it resets the connections that lost something.
func (p *Proxy) Silence(on bool) error {
	return p.change(func(f *faults) { f.dropAnswers, f.dropRequests = on, on })
}

// Heal ends every fault and lets clients connect.
func (p *Proxy) Heal() error {
	return errors.Join(p.change(func(f *faults) { *f = faults{} }), p.Up())
}

func faultTime(field string, d time.Duration) error {
	if d < 0 || d > maxFaultTime || d > 0 && d < time.Millisecond {
		return levee.Invalid(field, "0, or from 1ms to "+maxFaultTime.String(), d)
	}
	return nil
}

// Close ends the proxy and its connections and waits for its goroutines.
func (p *Proxy) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed {
		return nil
	}
	p.Down()
	p.wg.Wait()
	p.port.free()
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed by Down
		}
		p.wg.Go(func() { p.connect(c.(*net.TCPConn)) })
	}
}

// connect joins a client with the upstream. The dial has a limit: a machine that is gone does not answer at all.
func (p *Proxy) connect(client *net.TCPConn) {
	p.mu.Lock()
	upstream, full := p.upstream, p.closed || p.listener == nil || len(p.conns) >= maxConns
	p.mu.Unlock()
	if full {
		reset(client)
		return
	}
	server, err := net.DialTimeout("tcp", upstream, dialTimeout)
	if err != nil {
		reset(client)
		return
	}
	c := &proxied{proxy: p, client: client, server: server.(*net.TCPConn), done: make(chan struct{})}
	p.mu.Lock()
	if p.closed || p.listener == nil {
		p.mu.Unlock()
		c.close(true)
		return
	}
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	c.run()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// reset makes the close of a connection an RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
