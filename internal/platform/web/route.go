package web

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/db"
	"levee/internal/platform/header"
	"levee/internal/platform/limit"
	"levee/internal/platform/permit"
	"levee/internal/platform/problem"
)

// Route is one operation of the API.
type Route struct {
	Method, Path string // the path as http.ServeMux reads it: /v1/orders/{id}
	// ID is the operation's name in the document and in clients made from it; unique.
	ID                        string
	Summary, Tag, Description string
	// Roles that may use it, any of them, until an administrator says otherwise (Parts.Permits). 0: anybody, also visitors, always.
	Roles levee.Roles
	// InPerson keeps personal access tokens out, whatever their scope: for what only somebody who signed in may do.
	InPerson bool
	// Fresh is InPerson, and asks Parts.Fresh besides: for what is dangerous in the hands of who found an open session. Visitors pass, where
	// they may use it at all.
	Fresh bool
	// Others is the ability that reaching a thing of somebody else takes, where the operation is about a thing that belongs to somebody. The
	// room's rules ask for it; here it stands for who wants to know why he may not.
	Others levee.Ability
	// Status of the usual answer. Default 200, or 204 without a body.
	Status int
	// Limit that each request is charged to: by user or by address, as the limit says.
	Limit limit.Name
	// BodyMax is the most bytes of the body. Default Config.BodyMax.
	BodyMax int64
	// Idempotent declares the Idempotency-Key header; KeyFrom has it.
	Idempotent bool
	// Errors are further statuses to document, beyond those that follow from the rest.
	Errors []int
	// Timeout of the whole request. Default Config.RequestTimeout; negative: none (streams, sockets), and the request's context
	// ends when the server begins to drain.
	Timeout time.Duration
	// Quiet logs the request at debug only, unless it failed in us (5xx): for routes that are asked thousands of times a second.
	Quiet bool
	// Kept names what one node at a time keeps and this operation needs: where that is another node, the request goes there.
	Kept string
	// Replica lets the handler's reads go to a replica of the database: what it answers may be db.Config.ReplicaLag old, but never
	// lacks what the asker's own session wrote. For lists and pages that decide nothing and that nobody is told to look at again.
	Replica bool
	// Reads says of a POST that it changes nothing.
	Reads bool
	// Query are parameters that the handler reads itself; CSV tells that it answers as text/csv too. For platform/listing.
	Query []Param
	CSV   bool
	// Hidden keeps it out of the document.
	Hidden bool
	// Ends says that the operation is on its way out. Nil: it stays.
	Ends *Ending
	// Current is set on a PATCH that also takes patches of a document (RFC 7396, RFC 6902): it returns what the operation may change, as it
	// stands, as a value of the body's type, and the thing's entity tag (Tag). The id is the path's last parameter. The input must
	// embed Precondition.
	Current func(ctx context.Context, id string) (doc any, tag string, err error)
}

// RawDoc documents a raw route by hand. The pipeline goes by it too: a body that is not JSON where Request says JSON is 415, an
// unknown query parameter 422, an Accept that allows none of Produces 406. What else a body may be, the handler judges.
type RawDoc struct {
	Request      any               // a value of the body's type; nil: no JSON body
	RequestTypes []string          // the body's media types; default application/json with Request, else no body is expected
	Needed       bool              // a body must come
	Responses    map[int]any       // status to a value of the body's type; nil: no body
	Produces     []string          // media types of the answers; default application/json
	RefusalTypes []string          // of refusals that the handler writes itself, beside problem details: for callers that wait for a word
	Path         map[string]string // path parameter to what it means
	Query        map[string]string // query parameter to what it means; others are refused, also when it is empty
	Headers      map[string]string // request header to what it means
	Forms        map[string]string // parameter to the regular expression that its values match; the handler sees to it
	Upload       *UploadDoc        // the body is a file
}

// route is a Route with what the pipeline needs to know at each request.
type route struct {
	Route
	name     string // of logs and metrics: "POST /v1/orders"
	permit   permit.Index
	ready    levee.Roles // who may when nobody changed it; 0: everybody
	counted  routeMetrics
	bodyMax  int64
	timeout  time.Duration
	produces []string
	consumes []string        // media types of the body; nil: none is expected
	query    map[string]bool // known query parameters, true for lists; nil: not checked
	filled   map[string]bool // those of them that cannot be empty
	op       *huma.Operation
	schema   *huma.Schema // of the JSON body
	shape    *body.Shape
	required bool   // a body must come
	guarded  bool   // its input has a Precondition
	version  string // of the API, by the path; "" for what has none
	ending   []line // of an answer of what Ends
	private  bool   // an operation of the API: its answers are for the caller alone unless the handler says otherwise
	inType   string
	outType  string
	in       reflect.Type
	bodyType reflect.Type
}

// Add adds an operation with a typed handler. The input's fields carry huma's tags: path, query, header and cookie for
// parameters, Body for the body (JSON or form), RawBody for uploads; the output's are headers, Status and Body. Constraints in
// tags are checked before the handler runs, and stand in the document. What the handler returns as an error is answered as
// problem details by its code. A contradiction in the route or types is a bug and panics.
func Add[I, O any](s *Server, r Route, h func(ctx context.Context, in *I) (*O, error)) {
	rt := s.newRoute(r)
	in, out := reflect.TypeFor[I](), reflect.TypeFor[O]()
	rt.in, rt.inType, rt.outType = in, in.Name(), out.Name()
	rt.guarded = in.Kind() == reflect.Struct && hasField(in, "Precondition")
	switch {
	case r.Current != nil && !rt.guarded:
		panic(fmt.Sprintf("web: %s takes patches, so its input must embed Precondition", r.ID))
	case r.Status == http.StatusAccepted && !hasField(out, "Location"):
		panic(fmt.Sprintf("web: %s answers 202, so its output must have the header Location: what to follow", r.ID))
	}
	if f, ok := in.FieldByName("Body"); ok {
		rt.bodyType = f.Type
	}
	for _, t := range []reflect.Type{in, out} {
		if f, ok := t.FieldByName("Body"); ok {
			mustBeNamed(r.ID, f.Type, map[reflect.Type]bool{})
		}
	}
	rt.produces = []string{"application/json"}
	if r.CSV {
		rt.produces = append(rt.produces, "text/csv")
	}
	op := huma.Operation{
		Method: r.Method, Path: r.Path, OperationID: r.ID, Summary: r.Summary, Description: r.Description, DefaultStatus: r.Status,
		Hidden: r.Hidden, Deprecated: r.Ends != nil, MaxBodyBytes: -1, BodyReadTimeout: time.Second, // both are the pipeline's
	}
	if r.Tag != "" {
		op.Tags = []string{r.Tag}
	}
	for _, p := range r.Query {
		op.Parameters = append(op.Parameters, p.document())
	}
	s.api.adding = rt
	defer func() { s.api.adding = nil }()
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			c := callOf(ctx)
			WriteError(c, c.r, err)
			return nil, nil //nolint:nilnil // answered
		}
		return out, nil
	})
}

func hasField(t reflect.Type, name string) bool {
	_, ok := t.FieldByName(name)
	return ok
}

// Raw adds an operation that reads its request and writes its answer itself: hot routes, streams, uploads. It passes the same
// pipeline as the others, and is documented by hand.
func (s *Server) Raw(r Route, h http.Handler, doc RawDoc) {
	rt := s.newRoute(r)
	s.api.documentRaw(rt, doc)
	s.mount(rt, func(w http.ResponseWriter, req *http.Request) {
		if req.ContentLength != 0 {
			c := callOf(req.Context())
			if req.ContentLength > rt.bodyMax {
				WriteError(w, req, errTooLarge(rt.bodyMax, req.ContentLength))
				return
			}
			req.Body = http.MaxBytesReader(c.ResponseWriter, req.Body, rt.bodyMax)
		}
		h.ServeHTTP(w, req)
	})
}

func (s *Server) newRoute(r Route) *route {
	s.mustBeOpen("Add or Raw")
	switch {
	case r.Method == "" || r.Method != strings.ToUpper(r.Method):
		panic(fmt.Sprintf("web: the method of %q must be upper case, got %q", r.Path, r.Method))
	case !strings.HasPrefix(r.Path, "/"):
		panic(fmt.Sprintf("web: the path of %q must begin with a slash, got %q", r.ID, r.Path))
	case r.ID == "" && !r.Hidden:
		panic(fmt.Sprintf("web: %s %s has no ID", r.Method, r.Path))
	case r.BodyMax < 0 || r.BodyMax > 1<<30:
		panic(fmt.Sprintf("web: BodyMax of %s must be from 0 to 1 GiB, got %d", r.ID, r.BodyMax))
	}
	for _, other := range s.routes {
		if other.ID == r.ID && r.ID != "" {
			panic(fmt.Sprintf("web: two operations are called %q", r.ID))
		}
	}
	r.InPerson = r.InPerson || r.Fresh
	rt := &route{Route: r, name: r.Method + " " + r.Path, bodyMax: r.BodyMax, timeout: r.Timeout, private: true}
	if rt.bodyMax == 0 {
		rt.bodyMax = s.cfg.BodyMax
	}
	if rt.timeout == 0 {
		rt.timeout = s.cfg.RequestTimeout
	}
	rt.counted = s.metrics.route(rt.name)
	resource := permit.Operation(cmp.Or(r.ID, rt.name), r.Tag, r.Method, r.Path, r.Summary, r.Roles, r.Others)
	rt.permit, rt.ready = s.parts.Permits.Add(resource), resource.Default
	if version, ok := versionOf(r.Path); ok {
		if rt.version = version; !slices.Contains(s.versions, version) {
			s.versions = append(s.versions, version)
		}
	}
	if r.Ends != nil {
		rt.ending = r.Ends.headers()
	}
	s.byName[rt.name] = rt
	return rt
}

// mount puts a handler behind the pipeline of its route.
func (s *Server) mount(rt *route, h http.HandlerFunc) {
	s.routes = append(s.routes, rt)
	s.mux.HandleFunc(rt.name, func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r.Context())
		c.route = rt
		if rt.private {
			c.Header()["Cache-Control"] = privateOnly
		}
		if rt.ending != nil && s.ended(c, r) {
			return
		}
		if rt.Kept != "" && s.elsewhere(c, r, rt.Kept) {
			return
		}
		if err := s.admit(c, r); err != nil {
			WriteError(c, r, err)
			return
		}
		if cancel := c.limitTime(r); cancel != nil {
			defer cancel()
		}
		if rt.Replica { // from here on: who asks and what he may do was read from the primary
			c.Context = db.Using(c.Context, db.OnReplica)
		}
		if rt.timeout < 0 && r.Method == http.MethodHead && rt.produces[0] == "text/event-stream" { // a stream has no end, and here nobody reads it
			c.Header()["Content-Type"] = rt.produces[:1]
			return
		}
		h(w, r)
	})
}

// plain puts a page behind as much of the pipeline as it needs.
func (s *Server) plain(pattern string, quiet bool, h http.Handler) http.Handler {
	s.pages = append(s.pages, pattern)
	rt := &route{Route: Route{Quiet: quiet}, name: pattern, bodyMax: s.cfg.BodyMax, timeout: s.cfg.RequestTimeout, counted: s.metrics.route(pattern)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r.Context())
		c.route = rt
		if r.ContentLength != 0 {
			r.Body = http.MaxBytesReader(c.ResponseWriter, r.Body, rt.bodyMax)
		}
		if cancel := c.limitTime(r); cancel != nil {
			defer cancel()
		}
		h.ServeHTTP(w, r)
	})
}

// admit is what a request must pass before its body is read: version, who asks, what he may do, how often, what he can read
// and what he sends.
func (s *Server) admit(c *call, r *http.Request) error {
	rt := c.route
	if rt.version != "" && namesVersion(r) {
		if err := s.checkVersion(rt.version, r); err != nil {
			return err
		}
	}
	if err := s.authenticate(c, r); err != nil {
		return err
	}
	if err := s.permit(c.actor, rt); err != nil {
		return err
	}
	if err := inScope(c, rt); err != nil {
		return err
	}
	if rt.Limit != limit.None && s.parts.Limits != nil {
		if err := s.throttle(c, rt.Limit); err != nil {
			return err
		}
	}
	if rt.Fresh && c.actor.SignedIn() && s.parts.Fresh != nil {
		if err := s.parts.Fresh(c, c.actor); err != nil {
			return err
		}
	}
	if accept := r.Header["Accept"]; accept != nil && len(rt.produces) > 0 && !header.Acceptable(accept, rt.version, rt.produces) {
		return errNotAcceptable(accept, rt.produces)
	}
	if rt.consumes != nil && r.ContentLength != 0 {
		if ct := r.Header["Content-Type"]; len(ct) > 0 && !rt.takes(header.MediaType(ct[0])) {
			return errMedia(ct[0], rt.consumes)
		}
	}
	if rt.Idempotent {
		var err error
		if c.key, err = IdempotencyKey(r, false); err != nil {
			return err
		}
	}
	if r.URL.RawQuery != "" && rt.query != nil {
		return rt.checkQuery(r.URL.RawQuery)
	}
	return nil
}

func (s *Server) authenticate(c *call, r *http.Request) error {
	if s.parts.Authenticate == nil {
		return nil
	}
	actor, err := s.parts.Authenticate(r)
	if err != nil {
		// A browser sends a cookie that has run out to every route, also to the one that gives it a new one: for what visitors
		// may do, it makes him a visitor. Who sends a token in so many words is told that it is no good.
		if c.route.Roles == 0 && r.Header["Authorization"] == nil && levee.CodeOf(err) == levee.CodeUnauthenticated {
			return nil
		}
		return err
	}
	c.actor = actor
	if actor != (levee.Actor{}) {
		c.Context = levee.WithActor(c.Context, actor)
	}
	return nil
}

func (s *Server) permit(a levee.Actor, rt *route) error {
	if rt.Roles == 0 || a.SignedIn() && s.parts.Permits.May(rt.permit, a.Roles) {
		return nil
	}
	return s.refusal(a, rt.permit)
}

// refusal tells somebody who may not use a resource what is missing.
func (s *Server) refusal(a levee.Actor, i permit.Index) error {
	if !a.SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	return levee.E(levee.CodeForbidden, "this is for %s", strings.Join(s.parts.Permits.Names(s.parts.Permits.Allowed(i)), " or "))
}

// inScope keeps a personal access token to the operations that it is for. Where visitors may ask it holds as well: an operation may do more for
// somebody with roles than for a visitor.
func inScope(c *call, rt *route) error {
	switch s := c.actor.Scope; {
	case s == nil:
		return nil
	case rt.InPerson:
		return levee.E(levee.CodeForbidden, "this needs a sign-in; a personal access token cannot do it")
	case !s.Allows(rt.ID, rt.Tag, rt.reads()):
		return levee.E(levee.CodeForbidden, "the token's scopes do not cover %s", rt.ID).With("scope", rt.ID)
	}
	return nil
}

// reads reports whether an operation changes nothing.
func (rt *route) reads() bool { return rt.Method == http.MethodGet || rt.Method == http.MethodHead }

// ScopeFault says what is wrong with a word of a personal access token's scope (levee.NewScope) for somebody with these roles: "" for a word that covers an
// operation that he may use with such a token.
func (s *Server) ScopeFault(word string, roles levee.Roles) string {
	scope, known := levee.NewScope([]string{word}), false
	for _, rt := range s.routes {
		if !scope.Allows(rt.ID, rt.Tag, rt.reads()) {
			continue
		}
		if known = true; !rt.InPerson && (rt.Roles == 0 || s.parts.Permits.May(rt.permit, roles)) {
			return ""
		}
	}
	if known {
		return "something that your account may do, and that does not need a sign-in"
	}
	return "an operation's id, or a category with :read or :all"
}

// throttle charges the request to its route's limit and, as one step with it, to the brakes that an operator has pulled, and tells the
// caller where he stands.
func (s *Server) throttle(c *call, n limit.Name) error {
	l := s.parts.Limits
	var state [64]byte
	if !l.On(limit.Token) && !l.On(limit.Route) && !l.On(limit.Sale) {
		d := l.Allow(c, n, c.limitKey(n))
		if d.Limit > 0 {
			c.setLine("Ratelimit-Policy", linePolicy, l.Policy(n))
			c.setLine("Ratelimit", lineState, string(d.AppendState(state[:0], n)))
		}
		return d.Err()
	}
	asks := append(make([]limit.Ask, 0, 4), limit.Ask{Name: n, Key: c.limitKey(n)}, limit.Ask{Name: limit.Route, Key: c.limitKey(limit.Route)})
	if c.actor.SignedIn() {
		asks = append(asks, limit.Ask{Name: limit.Token, Key: c.limitKey(limit.Token)})
	}
	if c.r.PathValue("sale") != "" {
		asks = append(asks, limit.Ask{Name: limit.Sale, Key: c.limitKey(limit.Sale)})
	}
	ds := l.AllowAll(c, asks...)
	policy, items := make([]byte, 0, 96), state[:0]
	for i, d := range ds {
		if d.Limit > 0 {
			if len(items) > 0 {
				policy, items = append(policy, ", "...), append(items, ", "...)
			}
			policy, items = append(policy, l.Policy(asks[i].Name)...), d.AppendState(items, asks[i].Name)
		}
	}
	if len(items) > 0 {
		c.setLine("Ratelimit-Policy", linePolicy, string(policy))
		c.setLine("Ratelimit", lineState, string(items))
	}
	return ds.Err()
}

// checkQuery refuses parameters that the route does not know, and a single one that is given twice: what is silently ignored
// is what people take for working.
func (rt *route) checkQuery(raw string) error {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return problem.Refuse(levee.CodeMalformed, "query", "name=value&name=value, percent-encoded", raw, "the query is not well formed").Because(err)
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if name == queryVersion && rt.version != "" && !rt.query[name] {
			continue
		}
		field := "query." + levee.Shorten(strings.ToValidUTF8(name, "\uFFFD"), 60)
		list, known := rt.query[name]
		switch {
		case !known && len(rt.query) == 0:
			return levee.Invalid(field, "left out: there are no parameters here", name)
		case !known:
			return levee.Invalid(field, "one of the known parameters: "+strings.Join(slices.Sorted(maps.Keys(rt.query)), ", "), name)
		case !list && len(q[name]) > 1:
			return levee.Invalid(field, "given once", strconv.Itoa(len(q[name]))+" times")
		case rt.filled[name] && slices.Contains(q[name], ""):
			return levee.Invalid(field, "given with a value, or left out", "nothing")
		}
	}
	return nil
}

// limitTime puts the route's time limit on the request: on its context and, where it is not the server's own, on the connection.
func (c *call) limitTime(r *http.Request) context.CancelFunc {
	rt := c.route
	if rt.timeout < 0 {
		rc := http.NewResponseController(c.ResponseWriter)
		_ = rc.SetReadDeadline(time.Time{}) // fails only where there is no connection (a test's recorder)
		_ = rc.SetWriteDeadline(time.Time{})
		ctx, cancel := context.WithCancel(c.Context)
		unhook := context.AfterFunc(c.s.stopping, cancel)
		c.Context = ctx
		return func() { unhook(); cancel() }
	}
	usual := c.s.cfg.RequestTimeout
	size := rt.bodyMax
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength)
	}
	if read := c.s.bodyDeadline(size); rt.timeout > usual || (r.ContentLength != 0 && read > usual+c.s.bodyGrace) {
		rc := http.NewResponseController(c.ResponseWriter)
		whole := max(read, rt.timeout+c.s.bodyGrace)
		_ = rc.SetReadDeadline(c.start.Add(whole))
		_ = rc.SetWriteDeadline(c.start.Add(whole + rt.timeout + c.s.writeGrace))
	}
	ctx, cancel := context.WithTimeout(c.Context, rt.timeout)
	c.Context = ctx
	return cancel
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
}

// allowedMethods lists the methods that the path of r knows, OPTIONS among them; none for a path that is not there.
func (s *Server) allowedMethods(r *http.Request) []string {
	var allowed []string
	probe := http.Request{URL: r.URL, Host: r.Host}
	for _, m := range methods {
		probe.Method = m
		if _, pattern := s.mux.Handler(&probe); pattern != "" && pattern != "/" && !s.refused[pattern] {
			allowed = append(allowed, m)
		}
	}
	if allowed != nil {
		allowed = append(allowed, http.MethodOptions)
	}
	return allowed
}

// fallback answers what no route takes: 404, 405 with Allow, OPTIONS, or the page that takes the rest.
func (s *Server) fallback(w http.ResponseWriter, r *http.Request) {
	c := callOf(r.Context())
	allowed := s.allowedMethods(r)
	switch {
	case len(allowed) == 0 && s.byNamedVersion(w, r):
	case len(allowed) == 0 && s.home != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) && !versioned(r.URL.Path):
		c.route = s.api.page
		s.home.ServeHTTP(w, r)
	case len(allowed) == 0:
		WriteError(w, r, s.errNoRoute(r))
	case r.Method == http.MethodOptions:
		c.route = s.api.preflight
		if slices.Contains(allowed, http.MethodPatch) {
			s.offerPatches(w, r)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		w.WriteHeader(http.StatusNoContent)
	default:
		WriteError(w, r, errMethod(r, allowed))
	}
}
