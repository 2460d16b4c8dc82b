package redis

import (
	"context"
	"testing"
	"time"

	"levee/internal/platform/backends"
)

// server is a Redis of the test's own.
type server struct {
	t testing.TB
	s *backends.RedisServer
}

func startServer(t testing.TB) *server {
	t.Helper()
	s, err := backends.StartRedis(context.Background(), backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &server{t, s}
}

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) url() string  { return s.s.URL() }
func (s *server) addr() string { return s.s.Addr() }
func (s *server) start()       { s.t.Helper(); s.must(s.s.Restart(context.Background())) }
func (s *server) kill()        { s.t.Helper(); s.must(s.s.Kill()) }
func (s *server) pause()       { s.t.Helper(); s.must(s.s.Pause()) }
func (s *server) resume()      { s.t.Helper(); s.must(s.s.Resume()) }

// do runs a command on the server itself.
func (s *server) do(args ...any) {
	s.t.Helper()
	_, err := s.s.Do(context.Background(), args...)
	s.must(err)
}

// proxy stands between a client and a server.
type proxy struct {
	t testing.TB
	p *backends.Proxy
}

func startProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	p, err := backends.StartProxy(context.Background(), upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return &proxy{t, p}
}

func (p *proxy) url() string { return "redis://" + p.p.Addr }

// cut closes all connections; new ones are let in unless the proxy is down.
func (p *proxy) cut() { p.p.ResetPeer() }

// set refuses connections, swallows what runs over them, or does neither.
func (p *proxy) set(down, silent bool) {
	p.t.Helper()
	switch {
	case down:
		p.p.Down()
	case silent:
		p.p.Silence(true)
	default:
		if err := p.p.Heal(); err != nil {
			p.t.Fatal(err)
		}
	}
}

const patience = 20 * time.Second

// until waits for what other goroutines bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
