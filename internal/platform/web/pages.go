package web

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"levee"
	"levee/internal/platform/docpage"
	"levee/internal/platform/header"
)

const (
	pathDocument = "/v1/openapi.json"
	pathDocs     = "/docs"
)

// readyTimeout is how long readiness may take to find out: proxies ask every few seconds and give up soon.
const readyTimeout = 3 * time.Second

// addBuiltin adds what every server answers, when all rooms have added theirs.
func (s *Server) addBuiltin() {
	Add(s, Route{Method: http.MethodGet, Path: "/v1", ID: "getLinks", Tag: "about", Summary: "Where to go from here",
		Description: "Links to all lists that the caller may read, and to what describes the API."}, s.getLinks)
	Add(s, Route{Method: http.MethodGet, Path: "/v1/time", ID: "getTime", Tag: "about", Summary: "The server's clock",
		Description: "For countdowns: a sale opens by this clock, not by the caller's.", Quiet: true}, s.getTime)
	s.addBatch()
	s.linkOperations()
	doc, err := s.OpenAPI()
	if err != nil {
		panic(err) // a type in a route that is no JSON: a bug of this build, seen by the first test that starts it
	}
	s.document = doc
	tag := ETag(doc)
	s.mux.Handle("GET "+pathDocument, s.plain("GET "+pathDocument, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Cache-Control"] = []string{"no-cache"} // kept, but asked for each time
		w.Header()["Access-Control-Allow-Origin"] = []string{"*"}
		w.Header()["Cross-Origin-Resource-Policy"] = []string{"cross-origin"}
		if NotModified(w, r, tag) {
			return
		}
		w.Header()["Content-Type"] = jsonTypes
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.document))
	})))
	docs := s.docsPage()
	s.mux.Handle("GET "+pathDocs, s.plain("GET "+pathDocs, false, docs))
	s.mux.Handle("GET "+pathDocs+"/{asset...}", s.plain("GET "+pathDocs, false, docs))
	s.mux.Handle("GET /{$}", s.plain("GET /", false, http.HandlerFunc(s.root)))
	s.mux.Handle("GET /healthz", s.plain("GET /healthz", true, http.HandlerFunc(s.health)))
	s.mux.Handle("GET /readyz", s.plain("GET /readyz", true, http.HandlerFunc(s.ready)))
	s.mux.Handle("GET /metrics", s.plain("GET /metrics", true, http.HandlerFunc(s.serveMetrics)))
	s.keepToPaths()
	s.mux.HandleFunc("/", s.fallback)
}

type link struct {
	Rel   string `json:"rel" doc:"What it is: the operation's name, or a word such as docs"`
	Href  string `json:"href" format:"uri-reference"`
	Title string `json:"title,omitempty"`
}

type linksBody struct {
	Version string `json:"version" doc:"Of the API"`
	Links   []link `json:"links"`
}

type linksOutput struct {
	Body linksBody
}

func (s *Server) getLinks(ctx context.Context, _ *struct{}) (*linksOutput, error) {
	return &linksOutput{s.links(levee.ActorFrom(ctx))}, nil
}

// links lists what may be read without knowing an id or a parameter, as far as the actor may.
func (s *Server) links(a levee.Actor) linksBody {
	b := linksBody{Version: s.versions[len(s.versions)-1], Links: []link{
		{"self", "/v1", "This page"},
		{"service-desc", pathDocument, "The OpenAPI document"},
		{"service-doc", pathDocs, "The document to browse and try"},
		{"health", "/healthz", "Whether the server runs"},
		{"status", "/readyz", "Whether it takes requests"},
	}}
	for _, r := range s.routes {
		if r.Method == http.MethodGet && !r.Hidden && !strings.Contains(r.Path, "{") && r.Path != "/v1" && !r.needsQuery() && s.permit(a, r) == nil {
			b.Links = append(b.Links, link{r.ID, r.Path, r.Summary})
		}
	}
	return b
}

// needsQuery reports whether the operation cannot be asked without some parameter in its query.
func (rt *route) needsQuery() bool {
	return rt.op != nil && slices.ContainsFunc(rt.op.Parameters, func(p *huma.Param) bool { return p.In == "query" && p.Required })
}

type timeOutput struct {
	Body struct {
		Time time.Time `json:"time" doc:"UTC, to the microsecond"`
		Unix int64     `json:"unix_ms" doc:"The same in milliseconds since 1970"`
	}
}

func (s *Server) getTime(context.Context, *struct{}) (*timeOutput, error) {
	var out timeOutput
	now := s.clock().UTC().Truncate(time.Microsecond)
	out.Body.Time, out.Body.Unix = now, now.UnixMilli()
	return &out, nil
}

// root is the page of the house when there is one and a browser asks; else the links that the caller may follow.
func (s *Server) root(w http.ResponseWriter, r *http.Request) {
	if s.home != nil && strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Add("Vary", "Accept")
		s.home.ServeHTTP(w, r)
		return
	}
	if accept := r.Header["Accept"]; !header.Acceptable(accept, "", []string{"application/json"}) {
		WriteError(w, r, errNotAcceptable(accept, []string{"application/json"}))
		return
	}
	c := callOf(r.Context())
	if err := s.authenticate(c, r); err != nil {
		WriteError(w, r, err)
		return
	}
	w.Header().Add("Vary", "Accept")
	w.Header()["Cache-Control"] = privateOnly
	WriteJSON(w, r, http.StatusOK, s.links(c.actor))
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = noStore
	WriteJSON(w, r, http.StatusOK, map[string]string{"status": "ok"})
}

// ready says whether this node should get requests. Why not is for the log: the page is open to all.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	err := error(nil)
	switch {
	case s.draining.Load():
		err = levee.E(levee.CodeUnavailable, "the server is stopping").After(time.Second)
	case s.parts.Ready != nil:
		err = s.parts.Ready(ctx)
	case s.parts.DB != nil:
		err = s.parts.DB.Ping(ctx)
	}
	if err != nil {
		if levee.CodeOf(err) != levee.CodeUnavailable {
			err = levee.E(levee.CodeUnavailable, "the server is not ready").After(time.Second).Because(err)
		}
		WriteError(w, r, err)
		return
	}
	w.Header()["Cache-Control"] = noStore
	WriteJSON(w, r, http.StatusOK, map[string]string{"status": "ready"})
}

// serveMetrics is for this machine, and for who has the ability: numbers tell a competitor how a sale goes.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	c := callOf(r.Context())
	if !c.local(r) {
		if err := s.authenticate(c, r); err != nil {
			WriteError(w, r, err)
			return
		}
		if !c.actor.May(levee.MetricsRead) {
			_, i, _ := s.parts.Permits.Find(levee.MetricsRead.String())
			WriteError(w, r, s.refusal(c.actor, i))
			return
		}
	}
	w.Header()["Cache-Control"] = noStore
	s.parts.Obs.MetricsHandler().ServeHTTP(w, r)
}

// docsPage is the document to browse and try.
func (s *Server) docsPage() http.Handler {
	d := docpage.New(s.parts.Title, pathDocs, pathDocument)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Content-Security-Policy"] = d.Policy
		h["Cache-Control"] = []string{"no-cache"}
		asset := r.PathValue("asset")
		switch {
		case asset == "":
			if NotModified(w, r, ETag(d.Page)) {
				return
			}
			h["Content-Type"] = []string{"text/html; charset=utf-8"}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.Page))
		case !docpage.Has(asset):
			WriteError(w, r, s.errNoRoute(r))
		default:
			h["Cache-Control"] = []string{"public, max-age=3600"}
			d.Assets.ServeHTTP(w, r)
		}
	})
}
