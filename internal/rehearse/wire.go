package rehearse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"levee"
)

const (
	dialTimeout = 5 * time.Second
	// idleMost is below the time after which servers and balancers close a silent connection, so that a reply is rarely lost to that.
	idleMost   = 45 * time.Second
	bufferSize = 4 << 10
)

// network makes connections to the server and knows all that are open, so that they can be cut at the end.
type network struct {
	host   string // for the Host header
	addr   string
	secure *tls.Config
	dialer func(ctx context.Context) (net.Conn, error)

	mu     sync.Mutex // guards all below
	open   map[net.Conn]struct{}
	closed bool
}

func newNetwork(server string, dialer func(context.Context) (net.Conn, error)) (*network, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, levee.Invalid("--server", "an address such as http://127.0.0.1:8080", server)
	}
	n := &network{host: u.Host, addr: u.Host, dialer: dialer, open: map[net.Conn]struct{}{}}
	if u.Port() == "" {
		n.addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	if u.Scheme == "https" {
		n.secure = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	}
	return n, nil
}

func (n *network) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case n.dialer != nil:
		conn, err = n.dialer(ctx)
	default:
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", n.addr)
	}
	if err != nil {
		return nil, err
	}
	if n.secure != nil {
		t := tls.Client(conn, n.secure)
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = t
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	n.open[conn] = struct{}{}
	return conn, nil
}

func (n *network) drop(conn net.Conn) {
	n.mu.Lock()
	delete(n.open, conn)
	n.mu.Unlock()
	conn.Close()
}

// cut ends every connection, now and from now on.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for conn := range n.open {
		conn.Close()
	}
}

// wire is one keep-alive connection. It belongs to one goroutine.
type wire struct {
	net     *network
	timeout time.Duration
	conn    net.Conn // nil: none now
	in      []byte   // in[r:w] is read and not parsed yet
	r, w    int
	out     []byte
	parser  parser
	armed   time.Time // when the deadline was set: doing it once a second is enough and saves a system timer per request
	lastUse time.Time
	opened  int // connections made so far
}

func newWire(n *network, timeout time.Duration) *wire {
	return &wire{net: n, timeout: timeout, in: make([]byte, bufferSize)}
}

// connect makes sure that there is a connection; fresh says that it was made just now.
func (c *wire) connect(ctx context.Context, now time.Time) (fresh bool, err error) {
	if c.conn != nil && now.Sub(c.lastUse) > idleMost {
		c.drop()
	}
	if c.conn != nil {
		return false, nil
	}
	conn, err := c.net.dial(ctx)
	if err != nil {
		return false, err
	}
	c.conn, c.r, c.w, c.armed = conn, 0, 0, time.Time{}
	c.opened++
	return true, nil
}

func (c *wire) drop() {
	if c.conn != nil {
		c.net.drop(c.conn)
		c.conn = nil
	}
}

// send writes what stands in c.out.
func (c *wire) send(now time.Time) error {
	if now.Sub(c.armed) > time.Second {
		if err := c.conn.SetDeadline(now.Add(c.timeout + time.Second)); err != nil {
			return err
		}
		c.armed = now
	}
	c.lastUse = now
	_, err := c.conn.Write(c.out)
	return err
}

// errSilent: the connection ended without a byte of an answer, as when an idle one was closed under our request.
var errSilent = errors.New("the connection ended without an answer")

// read waits for one answer.
func (c *wire) read() (answer, error) {
	ended := false
	for {
		if c.w > c.r || ended {
			a, n, err := c.parser.parse(c.in[c.r:c.w], ended)
			if err != nil {
				return answer{}, err
			}
			if n > 0 {
				c.r += n
				return a, nil
			}
		}
		if err := c.fill(); err == io.EOF {
			if c.w == c.r {
				return answer{}, errSilent
			}
			ended = true
		} else if err != nil {
			return answer{}, err
		}
	}
}

// more tells whether bytes of a further answer are here already.
func (c *wire) more() bool { return c.w > c.r }

func (c *wire) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.in) {
		if c.r > 0 {
			copy(c.in, c.in[c.r:c.w])
			c.r, c.w = 0, c.w-c.r
		} else if len(c.in) >= maxHead+2*maxBody {
			return errTooLarge
		} else {
			c.in = append(c.in, make([]byte, len(c.in))...)
		}
	}
	n, err := c.conn.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// exchange sends c.out and reads the answer. sent says that the server may have received the request.
func (c *wire) exchange(ctx context.Context, now time.Time, build func(dst []byte) []byte) (a answer, sent bool, err error) {
	fresh, err := c.connect(ctx, now)
	if err != nil {
		return a, false, fmt.Errorf("no connection: %w", err)
	}
	c.out = build(c.out[:0])
	if err = c.send(now); err == nil {
		a, err = c.read()
	}
	if err != nil {
		c.drop()
		if err == errSilent && fresh {
			err = errCut
		}
		return a, true, err
	}
	if a.close {
		c.drop()
	}
	return a, true, nil
}
