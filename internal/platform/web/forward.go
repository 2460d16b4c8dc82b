package web

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"levee"
)

// Nodes lets a request reach the one node that keeps what it is about (Route.Kept).
type Nodes struct {
	// Keeper returns where the keeper can be reached (host:port) and whether that is this node; false: nobody keeps it just now.
	Keeper func(name string) (address string, self, known bool)
	// Key is the nodes' common secret, 32 bytes: it vouches for who asked, so that a node believes another without being told
	// its address, and nobody else.
	Key []byte
}

// headerNode carries a forwarded request's origin: "milliseconds client-address https|http signature".
const headerNode = "Levee-Node"

// nodeFor is how long a forwarded request's signature is good: nodes' clocks may differ by as much.
const nodeFor = time.Minute

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
			p.Out.Header.Set(headerNode, f.vouch(s.clock(), c.client, c.secure, p.Out))
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

// vouch signs where a request comes from.
func (f *forwarder) vouch(now time.Time, client netip.Addr, secure bool, r *http.Request) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	text := strconv.FormatInt(now.UnixMilli(), 10) + " " + client.String() + " " + scheme
	return text + " " + f.sign(text, r)
}

func (f *forwarder) sign(text string, r *http.Request) string {
	mac := hmac.New(sha256.New, f.Key)
	mac.Write([]byte("levee node\n" + text + "\n" + r.Method + "\n" + r.URL.RequestURI()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// vouched reads what another node says of a request; ok is false for what no node has signed.
func (f *forwarder) vouched(now time.Time, r *http.Request) (client netip.Addr, secure, ok bool) {
	lines := r.Header[headerNode]
	if len(lines) != 1 || len(lines[0]) > 200 {
		return client, false, false
	}
	text, signature, found := cutLast(lines[0])
	if !found || subtle.ConstantTimeCompare([]byte(signature), []byte(f.sign(text, r))) != 1 {
		return client, false, false
	}
	parts := strings.Split(text, " ")
	if len(parts) != 3 {
		return client, false, false
	}
	ms, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || now.Sub(time.UnixMilli(ms)).Abs() > nodeFor {
		return client, false, false
	}
	client, err = netip.ParseAddr(parts[1])
	return client, parts[2] == "https", err == nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
