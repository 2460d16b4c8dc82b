// Package listen takes connections, not more at once than there is room for.
package listen

import (
	"net"
	"sync"
	"time"
)

// Bounded lets at most n connections of a TCP listener be open at once.
func Bounded(l net.Listener, n int) net.Listener {
	return &boundedListener{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

// boundedListener lets the kernel queue connections beyond the most, instead of running out of file descriptors.
type boundedListener struct {
	net.Listener
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	tcp := c.(*net.TCPConn) //nolint:errcheck // the listener is a TCP one
	// A caller who vanished without a word is noticed even on a stream that sends nothing.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4})
	return &boundedConn{TCPConn: tcp, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// boundedConn is a TCP connection in all but its end: net/http closes one side first, and sends files without copying.
type boundedConn struct {
	*net.TCPConn
	release func()
}

func (c *boundedConn) Close() error {
	err := c.TCPConn.Close()
	c.release()
	return err
}
