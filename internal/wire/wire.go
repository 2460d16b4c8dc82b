// Package wire is HTTP/1.1 as a load generator needs it: requests are bytes that the caller puts together, answers are parsed in
// place, and a connection costs a few kilobytes, so that the generator takes little of a processor that it shares with the server.
//
// It owns connections, the parsing of answers and the closed loop. It does not own what is asked or what an answer means.
package wire

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
	// DialTimeout is how long making a connection may take.
	DialTimeout = 5 * time.Second
	// IdleMost is below the time after which servers and balancers close a silent connection, so that a reply is rarely lost to that.
	IdleMost   = 45 * time.Second
	bufferSize = 4 << 10
)

// Network makes connections to the server and knows all that are open, so that they can be cut at the end.
type Network struct {
	host   string
	addr   string
	secure *tls.Config
	dialer func(ctx context.Context) (net.Conn, error)

	mu     sync.Mutex // guards all below
	open   map[net.Conn]struct{}
	closed bool
}

// NewNetwork reaches the server at an http:// or https:// address without a path; dialer, unless nil, makes the connections
// instead of the system. CodeInvalid for an address that is none.
func NewNetwork(server string, dialer func(context.Context) (net.Conn, error)) (*Network, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, levee.Invalid("--server", "an address such as http://127.0.0.1:8080", server)
	}
	n := &Network{host: u.Host, addr: u.Host, dialer: dialer, open: map[net.Conn]struct{}{}}
	if u.Port() == "" {
		n.addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	if u.Scheme == "https" {
		n.secure = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	}
	return n, nil
}

// Host is what stands in the Host header.
func (n *Network) Host() string { return n.host }

func (n *Network) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
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

func (n *Network) drop(conn net.Conn) {
	n.mu.Lock()
	delete(n.open, conn)
	n.mu.Unlock()
	conn.Close()
}

// Cut ends every connection, now and from now on.
func (n *Network) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for conn := range n.open {
		conn.Close()
	}
}

// Conn is one keep-alive connection, made when it is needed and again after it broke. It belongs to one goroutine.
type Conn struct {
	net     *Network
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

// NewConn returns a connection that is not made yet. timeout is how long one answer may take.
func NewConn(n *Network, timeout time.Duration) *Conn {
	return &Conn{net: n, timeout: timeout, in: make([]byte, bufferSize)}
}

// connect makes sure that there is a connection; fresh says that it was made just now.
func (c *Conn) connect(ctx context.Context, now time.Time) (fresh bool, err error) {
	if c.conn != nil && now.Sub(c.lastUse) > IdleMost {
		c.Drop()
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

// Drop ends the connection; the next exchange makes a new one.
func (c *Conn) Drop() {
	if c.conn != nil {
		c.net.drop(c.conn)
		c.conn = nil
	}
}

// send writes what stands in c.out.
func (c *Conn) send(now time.Time) error {
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

// ErrSilent says that the connection ended without a byte of an answer, as when an idle one was closed under our request.
var ErrSilent = errors.New("the connection ended without an answer")

// read waits for one answer.
func (c *Conn) read() (Answer, error) {
	ended := false
	for {
		if c.w > c.r || ended {
			a, n, err := c.parser.parse(c.in[c.r:c.w], ended)
			if err != nil {
				return Answer{}, err
			}
			if n > 0 {
				c.r += n
				return a, nil
			}
		}
		if err := c.fill(); err == io.EOF {
			if c.w == c.r {
				return Answer{}, ErrSilent
			}
			ended = true
		} else if err != nil {
			return Answer{}, err
		}
	}
}

// more tells whether bytes of a further answer are here already.
func (c *Conn) more() bool { return c.w > c.r }

func (c *Conn) fill() error {
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

// Exchange sends the request that build appends, now, and reads the answer, which is good until the next call. sent says that the server may have received the request.
func (c *Conn) Exchange(ctx context.Context, now time.Time, build func(dst []byte) []byte) (a Answer, sent bool, err error) {
	fresh, err := c.connect(ctx, now)
	if err != nil {
		return a, false, fmt.Errorf("no connection: %w", err)
	}
	c.out = build(c.out[:0])
	if err = c.send(now); err == nil {
		a, err = c.read()
	}
	if err != nil {
		c.Drop()
		if err == ErrSilent && fresh {
			err = errCut
		}
		return a, true, err
	}
	if a.Close {
		c.Drop()
	}
	return a, true, nil
}
