package bastion

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// line is the TCP connection to the bastion, which counts what comes.
type line struct {
	net.Conn
	heard atomic.Int64 // reads that brought something
}

// Read reads.
func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.heard.Add(1)
	}
	return n, err
}

// carry gives a connection inside of the tunnel what SSH has not: deadlines, and a Close that ends a Read at once, also when the other
// side is silent. The user holds one end of a pipe that has both, and two goroutines carry between its other end and the tunnel.
func (t *Tunnel) carry(inner net.Conn) (net.Conn, error) {
	near, far := net.Pipe()
	up := func() {
		_, _ = io.Copy(inner, far)
		_ = far.Close()
		_ = inner.Close() // after what was written
	}
	down := func() {
		_, _ = io.Copy(far, inner)
		_ = far.Close()
	}
	if !t.spawn(up) || !t.spawn(down) {
		_, _, _ = near.Close(), far.Close(), inner.Close()
		return nil, errClosed()
	}
	return &conn{near}, nil
}

// conn is the user's end.
type conn struct{ net.Conn }

// Write writes. To a connection that is lost it is net.ErrClosed, and 0 if no byte has left.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	return n, err
}
