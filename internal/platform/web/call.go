package web

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/origin"
)

// call is one request under way. It is the request's context itself and wraps the answer: one allocation for all of it. It is
// not reused, because a handler may leave its context with something that outlives the request.
type call struct {
	context.Context // grows while the request goes through the pipeline, before the handler sees it
	http.ResponseWriter

	s            *Server
	r            *http.Request // as the router sees it
	route        *route        // nil until the router has found it
	id           string
	start        time.Time
	peer, client netip.Addr
	actor        levee.Actor
	key          string // Idempotency-Key
	seen         string // If-Match, where a patch was made of what has this entity tag
	body         error  // why the body could not be read
	err          error  // what was answered as a problem
	code         levee.Code
	status       int // announced; sent when wrote
	bytes        int64
	wrote        bool
	hijacked     bool
	secure       bool
	forwarded    bool // by another node of the house
	told         atomic.Bool
	span         trace.Span
	lines        [4]string // values of the headers below, which need a slice each
}

// The places in lines.
const (
	lineID = iota
	lineLength
	linePolicy
	lineState
)

// setLine sets a header to one value, without a slice of its own. The name must be in its canonical form.
func (c *call) setLine(name string, place int, value string) {
	c.lines[place] = value
	c.Header()[name] = c.lines[place : place+1 : place+1]
}

type callKey struct{}

// Value makes the call its own value, so that it is found also below contexts that others derive from it.
func (c *call) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// callOf returns the call of a request's context, or nil outside of one (a test, a job, the fast hook).
func callOf(ctx context.Context) *call {
	if c, ok := ctx.(*call); ok {
		return c
	}
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// RequestID returns the id that this request's log lines and problem details carry, or "" outside of a request.
func RequestID(ctx context.Context) string {
	if c := callOf(ctx); c != nil {
		return c.id
	}
	return ""
}

// ClientIP returns where the request comes from, seen through the trusted proxies. It is invalid outside of a request and for a
// connection without an IP address.
func ClientIP(ctx context.Context) netip.Addr {
	if c := callOf(ctx); c != nil {
		return c.client
	}
	return netip.Addr{}
}

// KeyFrom returns the request's Idempotency-Key, checked, or "". It is there for routes with Idempotent set.
func KeyFrom(ctx context.Context) string {
	if c := callOf(ctx); c != nil {
		return c.key
	}
	return ""
}

// SecureCookies reports whether cookies set in the answer to this request must be Secure.
func SecureCookies(ctx context.Context) bool {
	c := callOf(ctx)
	return c != nil && c.secure
}

// WriteHeader announces the status. It is sent with the first byte of the body or at the end, so that a failure before either
// can still become a problem. Informational statuses are sent at once.
func (c *call) WriteHeader(status int) {
	if c.wrote || c.hijacked || c.status != 0 {
		return
	}
	if status < 200 {
		c.ResponseWriter.WriteHeader(status)
		if status != http.StatusSwitchingProtocols {
			return
		}
		c.wrote = true
	}
	c.status = status
}

func (c *call) send() {
	if c.wrote || c.hijacked {
		return
	}
	c.wrote = true
	if c.status == 0 {
		c.status = http.StatusOK
	}
	c.mark()
	c.ResponseWriter.WriteHeader(c.status)
}

// Write sends a part of the body, and the status before it.
func (c *call) Write(b []byte) (int, error) {
	c.send()
	n, err := c.ResponseWriter.Write(b)
	c.bytes += int64(n)
	return n, err
}

// FlushError sends what was written so far.
func (c *call) FlushError() error {
	c.send()
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// Flush is FlushError for those who ask for an http.Flusher.
func (c *call) Flush() { _ = c.FlushError() }

// Hijack hands the connection over (WebSocket).
func (c *call) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err == nil {
		c.hijacked = true
		if c.status == 0 {
			c.status = http.StatusSwitchingProtocols
		}
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach deadlines.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// requestIDMax bounds an id taken over from a proxy.
const requestIDMax = 64

func newRequestID() string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	var b [16]byte // 80 random bits: never two alike in a log
	for i := range 2 {
		n := rand.Uint64()
		for j := range 8 {
			b[i*8+j] = digits[n&31]
			n >>= 5
		}
	}
	return string(b[:])
}

func usableRequestID(id string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	return len(id) > 0 && len(id) <= requestIDMax && strings.Trim(id, letters) == ""
}

// ServeHTTP takes one request through: fast hook, id, address, headers, CORS, CSRF, and then the route, which see. What panics
// below is answered as 500 when nothing was sent yet; else the connection is cut, so that half an answer is not taken for a whole.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.fast != nil && s.fast(w, r) {
		return
	}
	c := &call{Context: r.Context(), ResponseWriter: w, s: s, start: time.Now(), peer: peerAddr(r)}
	c.client = s.clientAddr(r, c.peer)
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && usableRequestID(ids[0]) && s.trusted(c.peer) {
		c.id = ids[0]
	} else {
		c.id = newRequestID()
	}
	c.secure = s.secure(r, c.peer)
	if s.forward != nil && r.Header[origin.Header] != nil {
		if client, secure, ok := s.forward.Key.Vouched(s.clock(), r); ok {
			c.client, c.secure, c.forwarded = client, secure, true
			if ids := r.Header["X-Request-Id"]; len(ids) == 1 && usableRequestID(ids[0]) {
				c.id = ids[0]
			}
		}
	}
	s.run(c, r)
}

// run takes a request through whose caller is known.
func (s *Server) run(c *call, r *http.Request) {
	s.metrics.inflight.Inc()
	if s.tracer != nil {
		s.startSpan(c, r)
	}
	s.follow(c, r)
	r = r.WithContext(c)
	c.r = r
	defer c.finish(r)

	h := c.Header()
	for i := range s.fixed {
		h[s.fixed[i].name] = s.fixed[i].value
	}
	c.setLine("X-Request-Id", lineID, c.id)
	if len(s.origins) > 0 && s.cors(c, r) {
		return
	}
	if err := s.checkCrossSite(r); err != nil {
		WriteError(c, r, err)
		return
	}
	s.mux.ServeHTTP(c, r)
}

func (s *Server) startSpan(c *call, r *http.Request) {
	ctx := c.Context
	if r.Header["Traceparent"] != nil && s.trusted(c.peer) {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	c.Context, c.span = s.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
}

// finish is deferred: it sends what was announced, counts, and logs the request's one event.
func (c *call) finish(r *http.Request) {
	abort := false
	if p := recover(); p != nil {
		if p == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
			abort = true
		} else {
			abort = c.panicked(r, p)
		}
	}
	if !abort {
		c.send()
	}
	took := time.Since(c.start)
	s := c.s
	s.metrics.inflight.Dec()
	rt := c.route
	if rt == nil {
		rt = s.api.unmatched
	}
	class := c.status / 100
	if class > 5 || class < 0 {
		class = 0
	}
	rt.counted.class[class].Inc()
	if rt.Timeout >= 0 { // how long a stream was open says nothing about how fast we are
		rt.counted.seconds.Observe(took.Seconds())
	}
	c.logEvent(r, rt, took)
	c.witness(rt)
	if c.span != nil {
		c.endSpan(rt)
	}
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// Told says that the context's request was told of, by a room that knew more about it than its route.
func Told(ctx context.Context) {
	if c := callOf(ctx); c != nil {
		c.told.Store(true)
	}
}

// witnessTime is how long the witness may take: the caller has his answer.
const witnessTime = 5 * time.Second

func (c *call) witness(rt *route) {
	refused := c.status == http.StatusForbidden
	changed := c.status < 300 && rt.Roles != 0 && !rt.Roles.Has(levee.RoleCustomer) && c.r.Method != http.MethodGet && c.r.Method != http.MethodHead &&
		!rt.Reads && !c.told.Load()
	if c.s.parts.Witness == nil || !c.actor.SignedIn() || !refused && !changed {
		return
	}
	o := Outcome{Route: rt.ID, Refused: refused}
	for _, name := range pathNames(rt.Path) {
		if v := c.r.PathValue(name); strings.Contains(v, "_") {
			o.Subject = v
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c), witnessTime)
	defer cancel()
	c.s.parts.Witness(ctx, o)
}

// pathNames returns the names in a route's path.
func pathNames(path string) (names []string) {
	for _, part := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

// panicked logs a panic and answers it when that is still possible. It reports whether the connection must be cut.
func (c *call) panicked(r *http.Request, p any) (abort bool) {
	c.s.metrics.panics.Inc()
	c.s.log.LogAttrs(r.Context(), slog.LevelError, "handler panicked", slog.Any("panic", p), slog.String("request_id", c.id),
		slog.String("stack", string(debug.Stack())))
	if c.wrote || c.hijacked {
		return true
	}
	h := c.Header()
	for name := range h {
		if !slices.ContainsFunc(c.s.fixed, func(f line) bool { return f.name == name }) {
			delete(h, name) // what the handler meant for another answer
		}
	}
	c.setLine("X-Request-Id", lineID, c.id)
	c.status = 0
	WriteError(c, r, levee.E(levee.CodeInternal, "internal error"))
	return false
}

func (c *call) logEvent(r *http.Request, rt *route, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case c.status >= 500 && c.code != levee.CodeUnavailable && c.code != levee.CodeNotWarmed:
		level = slog.LevelError
	case c.status >= 500:
		level = slog.LevelWarn
	case rt.Quiet:
		level = slog.LevelDebug
	}
	log := c.s.log
	if !log.Enabled(c, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("method", levee.Shorten(r.Method, 16)), slog.String("route", rt.name))
	if rt == c.s.api.unmatched {
		attrs = append(attrs, slog.String("path", levee.Shorten(r.URL.Path, 200)))
	}
	attrs = append(attrs, slog.Int("status", c.status), slog.Duration("duration", took), slog.Int64("bytes", c.bytes),
		slog.String("request_id", c.id), slog.String("client", c.client.String()))
	if c.actor.SignedIn() {
		attrs = append(attrs, slog.Int64("user", int64(c.actor.User)))
	}
	if c.code != "" {
		attrs = append(attrs, slog.String("code", string(c.code)))
	}
	if c.err != nil && (c.status >= 500 || log.Enabled(c, slog.LevelDebug)) {
		attrs = append(attrs, slog.String("err", c.err.Error()))
	}
	log.LogAttrs(c, level, "request", attrs...)
}

func (c *call) endSpan(rt *route) {
	c.span.SetName(rt.name)
	c.span.SetAttributes(attribute.Int("http.response.status_code", c.status), attribute.String("http.route", rt.name),
		attribute.String("request_id", c.id))
	if c.status >= 500 {
		c.span.SetStatus(codes.Error, string(c.code))
	}
	c.span.End()
}

// limitKey is whose requests are counted together.
func (c *call) limitKey(n limit.Name) string {
	who := limit.Caller{Actor: c.actor, Address: c.client}
	switch n.Scope() {
	case limit.ByRoute:
		who.Route = c.route.name
	case limit.BySale:
		who.Sale = c.r.PathValue("sale")
	}
	return n.Key(who)
}

// clientGone reports whether err only says that the caller has left, so that there is nobody to answer.
func (c *call) clientGone(err error) bool {
	return errors.Is(err, context.Canceled) && errors.Is(c.Context.Err(), context.Canceled)
}
