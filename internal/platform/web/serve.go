package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"levee"
	"levee/internal/platform/listen"
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
	s.serving.listener = listen.Bounded(l, s.cfg.MaxConns)
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
