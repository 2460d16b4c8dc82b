package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5/static"
	"github.com/swaggest/swgui/v5emb"

	"levee"
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

// links lists what may be read without knowing an id, as far as the actor may.
func (s *Server) links(a levee.Actor) linksBody {
	b := linksBody{Version: apiVersion, Links: []link{
		{"self", "/v1", "This page"},
		{"service-desc", pathDocument, "The OpenAPI document"},
		{"service-doc", pathDocs, "The document to browse and try"},
		{"health", "/healthz", "Whether the server runs"},
		{"status", "/readyz", "Whether it takes requests"},
	}}
	for _, r := range s.routes {
		if r.Method == http.MethodGet && !r.Hidden && !strings.Contains(r.Path, "{") && r.Path != "/v1" && s.permit(a, r) == nil {
			b.Links = append(b.Links, link{r.ID, r.Path, r.Summary})
		}
	}
	return b
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

// root is the page of the house when there is one and a browser asks; else the links that a visitor may follow.
func (s *Server) root(w http.ResponseWriter, r *http.Request) {
	if s.home != nil && strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Add("Vary", "Accept")
		s.home.ServeHTTP(w, r)
		return
	}
	if accept := r.Header["Accept"]; !acceptable(accept, []string{"application/json"}) {
		WriteError(w, r, errNotAcceptable(accept, []string{"application/json"}))
		return
	}
	w.Header().Add("Vary", "Accept")
	WriteJSON(w, r, http.StatusOK, s.links(levee.Actor{}))
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

// docsPage is Swagger UI with all of its files inside this program. Its page is made once; its policy allows its two inline
// scripts by their hashes, and nothing from elsewhere.
func (s *Server) docsPage() http.Handler {
	ui := v5emb.NewHandlerWithConfig(swgui.Config{
		Title: s.parts.Title, SwaggerJSON: pathDocument, BasePath: pathDocs + "/",
		SettingsUI: map[string]string{"tryItOutEnabled": "true", "displayRequestDuration": "true", "defaultModelsExpandDepth": "0"},
	})
	rendered := pageWriter{header: http.Header{}}
	ui.ServeHTTP(&rendered, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: pathDocs}})
	page := rendered.body.Bytes()
	policy := []string{"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; " +
		"img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'" + scriptHashes(page)}
	tag := ETag(page)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Content-Security-Policy"] = policy
		h["Cache-Control"] = []string{"no-cache"}
		asset := r.PathValue("asset")
		if asset == "" {
			if NotModified(w, r, tag) {
				return
			}
			h["Content-Type"] = []string{"text/html; charset=utf-8"}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(page))
			return
		}
		if !isAsset(asset) {
			WriteError(w, r, errNoRoute(r))
			return
		}
		h["Cache-Control"] = []string{"public, max-age=3600"}
		ui.ServeHTTP(w, r)
	})
}

// pageWriter takes a page that is made once.
type pageWriter struct {
	header http.Header
	body   bytes.Buffer
}

func (p *pageWriter) Header() http.Header         { return p.header }
func (p *pageWriter) WriteHeader(int)             {}
func (p *pageWriter) Write(b []byte) (int, error) { return p.body.Write(b) }

func isAsset(name string) bool {
	for _, n := range []string{name, name + ".gz"} {
		if f, err := static.FS.Open(n); err == nil {
			info, err := f.Stat()
			_ = f.Close() // read from memory
			return err == nil && !info.IsDir()
		}
	}
	return false
}

// scriptHashes lists the hashes of a page's inline scripts as sources of a content security policy.
func scriptHashes(page []byte) string {
	var b strings.Builder
	for rest := page; ; {
		_, after, ok := bytes.Cut(rest, []byte("<script>"))
		if !ok {
			return b.String()
		}
		script, tail, _ := bytes.Cut(after, []byte("</script>"))
		sum := sha256.Sum256(script)
		b.WriteString(" 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'")
		rest = tail
	}
}
