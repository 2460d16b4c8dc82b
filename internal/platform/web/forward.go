package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"levee"
	"levee/internal/platform/origin"
)

// Nodes lets a request reach the one node that keeps what it is about (Route.Kept).
type Nodes struct {
	// Keeper returns where the keeper can be reached (host:port) and whether that is this node; false: nobody keeps it just now.
	Keeper func(name string) (address string, self, known bool)
	// Key is the nodes' common secret, 32 bytes.
	Key origin.Key
}

// forwarder takes requests to other nodes.
type forwarder struct {
	Nodes
	proxy httputil.ReverseProxy
}

type targetKey struct{}

func newForwarder(s *Server, n Nodes) *forwarder {
	f := &forwarder{Nodes: n}
	f.proxy = httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			c := callOf(p.In.Context())
			p.Out.URL.Scheme = "http"
			p.Out.URL.Host, _ = p.In.Context().Value(targetKey{}).(string)
			p.Out.Host = p.In.Host
			p.Out.Header.Del("X-Forwarded-For")
			p.Out.Header.Set(origin.Header, f.Key.Vouch(s.clock(), c.client, c.secure, p.Out))
			p.Out.Header.Set("X-Request-Id", c.id)
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: 60 * time.Second, ResponseHeaderTimeout: s.cfg.RequestTimeout,
			DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, DisableCompression: true},
		ModifyResponse: func(r *http.Response) error {
			for _, h := range s.fixed { // this node's own stand there already
				r.Header.Del(h.name)
			}
			r.Header.Del("X-Request-Id")
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
				WriteError(w, r, errTooLarge(large.Limit, -1))
				return
			}
			WriteError(w, r, levee.E(levee.CodeUnavailable, "the node that keeps this cannot be reached; ask again in a second").After(time.Second).Because(err))
		},
	}
	return f
}

// elsewhere answers the request if another node keeps what its route is about.
func (s *Server) elsewhere(c *call, r *http.Request, name string) bool {
	f := s.forward
	if f == nil {
		return false
	}
	address, self, known := f.Keeper(name)
	switch {
	case known && self:
		return false
	case !known || c.forwarded: // it was sent here by a node that thinks so: one of us is a second behind
		WriteError(c, r, levee.E(levee.CodeUnavailable, "this is moving to another node; ask again in a second").After(time.Second))
		return true
	}
	if r.ContentLength > c.route.bodyMax {
		WriteError(c, r, errTooLarge(c.route.bodyMax, r.ContentLength))
		return true
	}
	delete(c.Header(), "Cache-Control") // the keeper says
	r.Body = http.MaxBytesReader(c.ResponseWriter, r.Body, c.route.bodyMax)
	s.metrics.forwarded.Inc()
	f.proxy.ServeHTTP(c, r.WithContext(context.WithValue(c, targetKey{}, address)))
	return true
}
