package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"levee"
)

// serving is the part of a server that listens.
type serving struct {
	mu       sync.Mutex // guards listener
	listener net.Listener
}

// Listen takes the server's address, so that callers may already queue; Run serves them. It returns the address,
// with the port that was taken when the configured one is 0. An address that cannot be had is CodeUnavailable.
func (s *Server) Listen() (_ net.Addr, err error) {
	defer levee.Wrap(&err, "web.Listen(%s)", s.cfg.Addr)
	s.serving.mu.Lock()
	defer s.serving.mu.Unlock()
	if s.serving.listener != nil {
		return s.serving.listener.Addr(), nil
	}
	l, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return nil, levee.E(levee.CodeUnavailable, "cannot listen on %s: choose another address (http.addr) or stop what holds it", s.cfg.Addr).Because(err)
	}
	s.serving.listener = &boundedListener{Listener: l, slots: make(chan struct{}, s.cfg.MaxConns), closed: make(chan struct{})}
	return l.Addr(), nil
}

// Run serves until ctx ends, then drains: readiness turns false, streams end, no connection is accepted, and requests under way
// get DrainTimeout to finish. It returns nil after an orderly stop, and an error when serving failed or requests had to be cut.
func (s *Server) Run(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "web.Run")
	if _, err := s.Listen(); err != nil {
		return err
	}
	s.Handler() // no route can be added from here on
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.cfg.ReadHeaderTimeout,
		ReadTimeout:       s.cfg.RequestTimeout + s.bodyGrace,
		WriteTimeout:      s.cfg.RequestTimeout + s.bodyGrace + s.writeGrace,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    s.cfg.HeaderMax,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what callers do to their own connections
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.metrics.conns.Inc()
			case http.StateClosed, http.StateHijacked:
				s.metrics.conns.Dec()
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.serving.listener) }()
	s.log.Info("listening", "addr", s.serving.listener.Addr().String())
	select {
	case err := <-served:
		s.beginDrain()
		return fmt.Errorf("serving ended by itself: %w", err)
	case <-ctx.Done():
	}
	s.beginDrain()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err = srv.Shutdown(drain)
	if err != nil {
		err = fmt.Errorf("requests were cut after %v: %w", s.cfg.DrainTimeout, errors.Join(err, srv.Close()))
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func (s *Server) beginDrain() {
	s.draining.Store(true)
	s.stop()
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
