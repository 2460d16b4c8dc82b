// Package web owns how the house is asked over HTTP: routing, the API document, errors as problem details, limits, identity of
// the caller, idempotency, and the order in which all of these are applied.
//
// It does not own any operation of the business: rooms add theirs by Add and Raw. It knows no account: Authenticate is given.
package web

import (
	"context"
	"embed"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

type Config struct {
	Addr                                                         string
	BodyMax                                                      int64
	HeaderMax                                                    int
	ReadHeaderTimeout, RequestTimeout, IdleTimeout, DrainTimeout time.Duration
	TrustedProxies, CORSOrigins                                  []string
	PublicURL                                                    string
	CookieSecure                                                 string // auto|always|never
	MaxConns                                                     int
}

type Authenticate func(r *http.Request) (levee.Actor, error)

type Parts struct {
	Obs            *obs.Obs
	Limits         *limit.Limits
	DB             *db.DB
	Authenticate   Authenticate                    // nil: everybody is a visitor
	Ready          func(ctx context.Context) error // nil: the database answers
	Title, Version string
}

type Server struct {
	api huma.API
	mux *http.ServeMux
}

type Route struct {
	Method, Path, ID, Summary, Tag string
	Description                    string
	Roles                          levee.Roles
	Status                         int
	Limit                          limit.Name
	BodyMax                        int64
	Idempotent                     bool
	Errors                         []int
	Timeout                        time.Duration // 0: the server's RequestTimeout; negative: none (streams, sockets)
	Quiet                          bool          // logged at debug unless it failed with 5xx
	Hidden                         bool          // not in the document
}

// RawDoc documents a raw route.
type RawDoc struct {
	Request     any               // a value of the request body's type; nil: no body
	RequestType string            // its media type; default application/json
	Responses   map[int]any       // status -> a value of the body's type; nil: no body
	Produces    []string          // media types of the answers; default application/json
	Query       map[string]string // query parameter -> what it means
	Headers     map[string]string // request header -> what it means
}

func New(cfg Config, p Parts) (*Server, error) { return &Server{mux: http.NewServeMux()}, nil }

func Add[I, O any](s *Server, r Route, h func(ctx context.Context, in *I) (*O, error)) {}

func (s *Server) Raw(r Route, h http.Handler, doc RawDoc) {}

func (s *Server) Fast(f func(w http.ResponseWriter, r *http.Request) bool) {}

func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// OnShutdown is called when the server begins to drain.
func (s *Server) OnShutdown(f func()) {}

func (s *Server) Handler() http.Handler                                   { return s.mux }
func (s *Server) Listen() (net.Addr, error)                               { return nil, nil }
func (s *Server) Run(ctx context.Context) error                           { <-ctx.Done(); return nil }
func (s *Server) StatusOf(c levee.Code) int                               { return 500 }
func (s *Server) Routes() []string                                        { return nil }
func (s *Server) OpenAPI() ([]byte, error)                                { return nil, nil }
func WriteError(w http.ResponseWriter, r *http.Request, err error)        {}
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) {}
func ReadJSON(r *http.Request, max int64, v any) error                    { return nil }
func RequestID(ctx context.Context) string                                { return "" }
func ClientIP(ctx context.Context) netip.Addr                             { return netip.Addr{} }

// IdempotencyKey reads the request's Idempotency-Key.
func IdempotencyKey(r *http.Request, required bool) (string, error) { return "", nil }

// KeyFrom is the valid Idempotency-Key of a typed handler's request, or "".
func KeyFrom(ctx context.Context) string { return "" }

// Problem is the status and body of the answer to err, without a request id.
func Problem(err error) (status int, body []byte) { return 0, nil }

// SecureCookies reports whether cookies set in the answer to this request must be Secure.
func SecureCookies(ctx context.Context) bool { return false }

//go:embed schema/*.sql
var schemaFS embed.FS

func Schema() db.Schema { return db.Schema{Owner: "web", FS: schemaFS} }

func Once[O any](ctx context.Context, d *db.DB, route, key string, body any, fn func(ctx context.Context, tx *db.Tx) (*O, error)) (*O, error) {
	return nil, nil
}

// Prune deletes answers older than before and returns how many.
func Prune(ctx context.Context, d *db.DB, before time.Time) (int64, error) { return 0, nil }

// ETag makes a strong entity tag of the parts.
func ETag(parts ...any) string { return "" }

// Conditional is embedded in the input of a typed handler that answers conditional requests.
type Conditional struct {
	IfMatch     string `header:"If-Match" doc:"Do it only while the thing's entity tag is one of these"`
	IfNoneMatch string `header:"If-None-Match" doc:"Answer 304 when the thing's entity tag is one of these"`
}

// NotModified returns an error that answers 304 when the caller already has etag, else nil.
func (c Conditional) NotModified(etag string) error { return nil }

// Match returns an error that answers 412 when the caller's If-Match does not name etag, else nil.
func (c Conditional) Match(etag string) error { return nil }

// NotModified answers 304 for a raw handler and reports whether it did; it sets ETag in either case.
func NotModified(w http.ResponseWriter, r *http.Request, etag string) bool { return false }

// Money is an amount as the world sees it.
type Money struct {
	Amount   int64  `json:"amount" doc:"In the currency's minor unit (cent, fen)"`
	Currency string `json:"currency" doc:"ISO 4217" minLength:"3" maxLength:"3"`
}

// MoneyOf shows m.
func MoneyOf(m levee.Money) Money { return Money{m.Minor, m.Currency} }
