// Package web owns how the house is asked over HTTP: routing, the API document, errors as problem details, limits, who is
// asking and from where, idempotency, and the order in which all of these are applied.
//
// It does not own any operation of the business: rooms add theirs by Add and Raw. It knows no account: Authenticate is given.
package web

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/origin"
	"levee/internal/platform/permit"
)

// Config of the server. The zero value serves this machine alone, on port 8080.
type Config struct {
	// Addr is the host and port to listen on; port 0 takes a free one. Default 127.0.0.1:8080.
	Addr string
	// BodyMax is the most bytes of a request's body, from 1 KiB to 1 GiB, where a route does not say otherwise. Default 1 MiB.
	// Each request may hold this much memory, some three times over while it is read.
	BodyMax int64
	// HeaderMax is the most bytes of a request's line and headers, from 4 KiB to 1 MiB. Default 16 KiB.
	HeaderMax int
	// ReadHeaderTimeout is how long a caller may take to send his headers. Default 5 s. Too long, and slow callers hold
	// connections; too short, and far mobile phones are cut off.
	ReadHeaderTimeout time.Duration
	// RequestTimeout is how long a request may take, where a route does not say otherwise; its body must arrive within 5 s
	// more. Default 15 s.
	RequestTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request. Default 90 s; behind a proxy it must be longer than the
	// proxy's, else the proxy meets closed connections.
	IdleTimeout time.Duration
	// DrainTimeout is how long requests may go on after the stop was asked for. Default 20 s.
	DrainTimeout time.Duration
	// TrustedProxies are the addresses (CIDR or single) whose X-Forwarded-For and X-Forwarded-Proto are believed. Default none.
	// An address too many lets its owner pretend to be anybody; one too few makes all callers look like the proxy.
	TrustedProxies []string
	// CORSOrigins are the origins (https://shop.example) of other sites whose pages may call the API and read its answers, also
	// with the visitor's cookies. Default none.
	CORSOrigins []string
	// PublicURL is how the world reaches this server (https://shop.example). Default empty: whatever a caller used. An https
	// address makes browsers remember to use only https for this host (HSTS).
	PublicURL string
	// CookieSecure is auto, always or never: whether cookies are only for https. Default auto: when PublicURL is https or the
	// request came by TLS. "never" over the open network lets sessions be overheard.
	CookieSecure string
	// MaxConns is the most connections at once, from 16 to 1,000,000; more wait in the kernel's queue. Default 50,000. Each
	// takes a file descriptor and some 10 to 20 KiB.
	MaxConns int
}

// bodyGrace is how much longer than the request's time its body may take: so that a slow body is told apart from slow work.
const bodyGrace = 5 * time.Second

// writeGrace is how long, after the request's time, its answer may take to be fetched.
const writeGrace = 15 * time.Second

// Authenticate tells who is asking. The zero actor and nil mean a visitor. CodeUnauthenticated means a credential that is
// wrong, expired or revoked.
type Authenticate func(r *http.Request) (levee.Actor, error)

// Parts are what the server is made of.
type Parts struct {
	Obs    *obs.Obs
	Limits *limit.Limits // nil: nothing is limited
	DB     *db.DB        // nil: Ready alone decides
	// Authenticate is asked before the body is read. Nil: everybody is a visitor.
	Authenticate Authenticate
	// Witness is told of each request of somebody who is signed in that was refused as forbidden, and of each that operators or
	// administrators alone may send, that may change something, succeeded here and that no room told of (Told). Nil: nobody is told.
	Witness func(ctx context.Context, o Outcome)
	// Fresh is an error unless the actor has proven himself a moment ago; routes that are Fresh ask it. Nil: nobody is asked to.
	Fresh func(ctx context.Context, a levee.Actor) error
	// Permits says who may use which operation; the server adds its operations. Nil: as each Route says.
	Permits *permit.Table
	// Nodes is how requests reach the node that keeps what they are about. Without a Keeper every route is answered here.
	Nodes Nodes
	// ListKey seals the cursors of lists. Nil: a key of this process, so that no other node and no later start takes them.
	ListKey []byte
	// Exported writes into the audit trail that a list is exported. Nil: no list can be.
	Exported func(ctx context.Context, list, query string) error
	// Ready tells why this node should get no requests now. Nil: the database answers.
	Ready          func(ctx context.Context) error
	Title, Version string
}

// Outcome is how a request ended, for Witness.
type Outcome struct {
	Route   string // the operation's id
	Refused bool   // it was forbidden
	// Subject is the last of the path's values that may be a public id, or "".
	Subject string
}

// Server routes requests. Routes are added first (Add, Raw, Handle, Fast); then Handler, Listen or Run seals it.
type Server struct {
	cfg      Config
	parts    Parts
	log      *slog.Logger
	clock    obs.Clock
	tracer   trace.Tracer // nil: nothing is traced
	metrics  *metrics
	api      *api
	mux      *http.ServeMux
	routes   []*route
	pages    []string          // patterns of what is no operation
	refused  map[string]bool   // patterns that stand in the router only to be refused
	byName   map[string]*route // by "POST /v1/orders"
	versions []string          // of the API that some route has
	fast     func(http.ResponseWriter, *http.Request) bool
	home     http.Handler

	forward *forwarder // nil: there are no other nodes

	bodyGrace, writeGrace time.Duration

	proxies []netip.Prefix
	origins map[string]bool
	csrf    *http.CrossOriginProtection
	fixed   []line // on every answer

	seal     sync.Once
	sealed   atomic.Bool
	document []byte

	serving  serving
	draining atomic.Bool
	stopping context.Context // ends when draining begins
	stop     context.CancelFunc
}

// line is a header with its value, as a map of headers takes it.
type line struct {
	name  string
	value []string
}

// New makes a server. What is wrong in cfg is CodeInvalid, naming the field.
func New(cfg Config, p Parts) (_ *Server, err error) {
	defer levee.Wrap(&err, "web.New")
	if p.Obs == nil {
		return nil, levee.Invalid("parts.obs", "set", "nothing")
	}
	if cfg, err = cfg.normal(); err != nil {
		return nil, err
	}
	if p.Permits == nil {
		p.Permits = permit.New()
	}
	if p.Title == "" {
		p.Title = "Levee"
	}
	if p.Version == "" {
		p.Version = "0"
	}
	s := &Server{
		cfg: cfg, parts: p, log: p.Obs.Named("web"), clock: p.Obs.Clock, metrics: newMetrics(p.Obs.Metrics),
		mux: http.NewServeMux(), bodyGrace: bodyGrace, writeGrace: writeGrace, origins: map[string]bool{}, byName: map[string]*route{}, refused: map[string]bool{}, csrf: http.NewCrossOriginProtection(),
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if _, off := p.Obs.Tracer.(noop.Tracer); !off && p.Obs.Tracer != nil {
		s.tracer = p.Obs.Tracer
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	if s.proxies, err = origin.Parse("http.trusted_proxies", cfg.TrustedProxies); err != nil {
		return nil, err
	}
	for _, o := range cfg.CORSOrigins {
		if err = checkOrigin("http.cors_origins", o); err != nil {
			return nil, err
		}
		s.origins[o] = true
		if err = s.csrf.AddTrustedOrigin(o); err != nil {
			return nil, levee.Invalid("http.cors_origins", originForm, o).Because(err)
		}
	}
	if cfg.PublicURL != "" {
		u, err := url.Parse(cfg.PublicURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, levee.Invalid("http.public_url", "an address such as https://shop.example", cfg.PublicURL)
		}
		if err := s.csrf.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
			return nil, levee.Invalid("http.public_url", "an address such as https://shop.example", cfg.PublicURL).Because(err)
		}
	}
	s.fixed = s.fixedHeaders()
	if p.Nodes.Keeper != nil {
		if len(p.Nodes.Key) != 32 {
			return nil, levee.Invalid("parts.nodes.key", "32 bytes", len(p.Nodes.Key))
		}
		s.forward = newForwarder(s, p.Nodes)
	}
	s.api = newAPI(s)
	return s, nil
}

func (c Config) normal() (Config, error) {
	if c.Addr == "" {
		c.Addr = "127.0.0.1:8080"
	}
	if err := within("http.body_max", &c.BodyMax, 1<<10, 1<<20, 1<<30); err != nil {
		return c, err
	}
	headerMax, conns := int64(c.HeaderMax), int64(c.MaxConns)
	if err := within("http.header_max", &headerMax, 4<<10, 16<<10, 1<<20); err != nil {
		return c, err
	}
	if err := within("http.max_conns", &conns, 16, 50_000, 1_000_000); err != nil {
		return c, err
	}
	c.HeaderMax, c.MaxConns = int(headerMax), int(conns)
	for _, d := range []struct {
		field string
		value *time.Duration
		usual time.Duration
	}{
		{"http.read_header_timeout", &c.ReadHeaderTimeout, 5 * time.Second},
		{"http.request_timeout", &c.RequestTimeout, 15 * time.Second},
		{"http.idle_timeout", &c.IdleTimeout, 90 * time.Second},
		{"http.drain_timeout", &c.DrainTimeout, 20 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.usual
		}
		if *d.value < 10*time.Millisecond || *d.value > time.Hour {
			return c, levee.Invalid(d.field, "from 10ms to 1h", *d.value)
		}
	}
	switch c.CookieSecure {
	case "":
		c.CookieSecure = "auto"
	case "auto", "always", "never":
	default:
		return c, levee.Invalid("http.cookie_secure", "auto, always or never", c.CookieSecure)
	}
	return c, nil
}

func within(field string, value *int64, least, usual, most int64) error {
	if *value == 0 {
		*value = usual
	}
	if *value < least || *value > most {
		return levee.Invalid(field, fmt.Sprintf("from %d to %d", least, most), *value)
	}
	return nil
}

const originForm = "origins such as https://shop.example, without a path"

// checkOrigin refuses what a browser never sends as an Origin, and the origins that stand for many: * and null.
func checkOrigin(field, o string) error {
	u, err := url.Parse(o)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Contains(u.Host, "*") ||
		o != strings.ToLower(u.Scheme+"://"+u.Host) {
		return levee.Invalid(field, originForm, o)
	}
	return nil
}

// fixedHeaders are the headers of every answer. Pages that need more than the policy of an API set their own.
func (s *Server) fixedHeaders() []line {
	h := []line{
		{"X-Content-Type-Options", []string{"nosniff"}},
		{"X-Frame-Options", []string{"DENY"}},
		{"Content-Security-Policy", []string{"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"}},
		{"Referrer-Policy", []string{"strict-origin-when-cross-origin"}},
		{"Cross-Origin-Opener-Policy", []string{"same-origin"}},
		{"Cross-Origin-Resource-Policy", []string{"same-origin"}},
		{"Permissions-Policy", []string{"camera=(), geolocation=(), microphone=(), payment=(), usb=()"}},
	}
	if strings.HasPrefix(s.cfg.PublicURL, "https:") {
		h = append(h, line{"Strict-Transport-Security", []string{"max-age=31536000"}})
	}
	if len(s.origins) > 0 {
		h = append(h, line{"Vary", []string{"Origin"}})
	}
	return h
}

// Fast adds a hook that runs before everything else; true means that it has answered. What it answers carries only the headers
// that it sets, and is neither counted nor logged here.
func (s *Server) Fast(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mustBeOpen("Fast")
	s.fast = f
}

// Handle adds a page or another handler that is no operation of the API: it is not in the document, asks for no account and has
// no limit. The pattern is one of http.ServeMux. The pattern "/" takes every GET that nothing else answers, outside /v1.
func (s *Server) Handle(pattern string, h http.Handler) {
	s.mustBeOpen("Handle")
	if pattern == "/" {
		s.home = h
		return
	}
	s.mux.Handle(pattern, s.plain(pattern, false, h))
}

// OnShutdown adds a function that is called when the server begins to drain: to end what would not end by itself.
func (s *Server) OnShutdown(f func()) { context.AfterFunc(s.stopping, f) }

// Handler seals the server and returns its handler.
func (s *Server) Handler() http.Handler {
	s.seal.Do(func() {
		s.addBuiltin()
		s.sealed.Store(true)
	})
	return s
}

func (s *Server) mustBeOpen(what string) {
	if s.sealed.Load() {
		panic("web: " + what + " after the server was sealed by Handler or Run")
	}
}

// Routes lists the operations as lines "POST /v1/orders createOrder customer", with fresh at the end of those that are, sorted: for a golden file that shows each change
// of who may do what.
func (s *Server) Routes() []string {
	var lines []string
	for _, r := range s.routes {
		who := "anybody"
		if r.Roles != 0 {
			d, _, _ := s.parts.Permits.Find(cmp.Or(r.ID, r.name))
			who = strings.Join(d.Default.Names(), ",")
		}
		if r.Fresh {
			who += " fresh"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s", r.Method, r.Path, r.ID, who))
	}
	slices.Sort(lines)
	return lines
}

// Patterns lists all that the router knows, as lines "POST /v1/orders", sorted: operations, hidden ones and pages.
func (s *Server) Patterns() []string {
	all := slices.Clone(s.pages)
	for _, r := range s.routes {
		all = append(all, r.name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// OpenAPI returns the document of the operations added so far, as JSON.
func (s *Server) OpenAPI() ([]byte, error) {
	return marshalDocument(s.api.OpenAPI())
}
