package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/problem"
)

// site is a server with some operations, asked through its handler; url is set when it also listens.
type site struct {
	*Server
	t   testing.TB
	o   *obs.Obs
	d   *db.DB
	log *logs
}

// logs keeps what is logged.
type logs struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// events returns the logged lines whose msg is this.
func (l *logs) events(msg string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(l.b.String()) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == msg {
			out = append(out, m)
		}
	}
	return out
}

// tokens are the bearer tokens and cookies that the tests' Authenticate knows.
var tokens = map[string]levee.Actor{
	"buyer":    {User: 11, Roles: levee.RoleCustomer},
	"other":    {User: 12, Roles: levee.RoleCustomer},
	"operator": {User: 13, Roles: levee.RoleOperator},
}

func testAuthenticate(r *http.Request) (levee.Actor, error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if c, err := r.Cookie("levee"); token == "" && err == nil {
		token = c.Value
	}
	if token == "" {
		return levee.Actor{}, nil
	}
	if token == "down" {
		return levee.Actor{}, levee.E(levee.CodeUnavailable, "accounts are away").After(7 * time.Second)
	}
	a, ok := tokens[token]
	if !ok {
		return levee.Actor{}, levee.E(levee.CodeUnauthenticated, "the token has expired")
	}
	return a, nil
}

type wishItem struct {
	SKU      string `json:"sku" minLength:"3" maxLength:"40"`
	Quantity int32  `json:"quantity" minimum:"1"`
}

type wish struct {
	Title    string     `json:"title" minLength:"1" maxLength:"20"`
	Kind     string     `json:"kind,omitempty" enum:"gift,own"`
	Quantity int32      `json:"quantity,omitempty" minimum:"1" maximum:"10"`
	Big      int64      `json:"big,omitempty"`
	Small    int32      `json:"small,omitempty"`
	Urgent   bool       `json:"urgent,omitempty"`
	Tags     []string   `json:"tags,omitempty" maxItems:"3"`
	Items    []wishItem `json:"items,omitempty"`
	Password string     `json:"password,omitempty" minLength:"8"`
	When     *time.Time `json:"when,omitempty"`
}

type wishOutput struct {
	Location string `header:"Location"`
	Body     wish
}

// newSite makes a server with one operation of each kind.
func newSite(t testing.TB, cfg Config, change ...func(*Parts)) *site {
	t.Helper()
	l := &logs{}
	o, err := obs.Open(obs.Config{Level: "debug", Format: "json"}, l)
	if err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), database(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		_ = o.Close(context.Background())
	})
	if _, err := d.Migrate(t.Context(), []db.Schema{once.Schema()}); err != nil {
		t.Fatal(err)
	}
	lim, err := limit.Open(limit.Config{Rates: map[string]string{"sign_up": "2/h"}}, o)
	if err != nil {
		t.Fatal(err)
	}
	p := Parts{Obs: o, Limits: lim, DB: d, Authenticate: testAuthenticate, Title: "Test", Version: "1.2.3"}
	for _, f := range change {
		f(&p)
	}
	s, err := New(cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	st := &site{Server: s, t: t, o: o, d: d, log: l}
	st.addRoutes()
	return st
}

type failInput struct {
	Code string `path:"code"`
}

func (s *site) addRoutes() {
	Add(s.Server, Route{Method: "POST", Path: "/v1/wishes", ID: "createWish", Tag: "wishes", Summary: "Wish", Status: 201, Idempotent: true},
		func(ctx context.Context, in *struct{ Body wish }) (*wishOutput, error) {
			return &wishOutput{Location: "/v1/wishes/1", Body: in.Body}, nil
		})
	Add(s.Server, Route{Method: "GET", Path: "/v1/wishes", ID: "listWishes", Tag: "wishes", Summary: "All wishes", Limit: limit.Read},
		func(_ context.Context, in *struct {
			Limit int32    `query:"limit" minimum:"1" maximum:"100" default:"20"`
			Small int16    `query:"small"`
			Tags  []string `query:"tags,explode"`
			Since string   `header:"Since" maxLength:"5"`
		}) (*struct{ Body []wish }, error) {
			return &struct{ Body []wish }{make([]wish, 0)}, nil
		})
	Add(s.Server, Route{Method: "GET", Path: "/v1/wishes/{id}", ID: "getWish", Tag: "wishes"},
		func(_ context.Context, in *struct {
			ID string `path:"id"`
			Conditional
		}) (*struct {
			ETag string `header:"ETag"`
			Body wish
		}, error) {
			if in.ID != "1" {
				return nil, levee.E(levee.CodeNotFound, "there is no such wish")
			}
			if err := in.NotModified(`"v1"`); err != nil {
				return nil, err
			}
			if err := in.Match(`"v1"`); err != nil {
				return nil, err
			}
			return &struct {
				ETag string `header:"ETag"`
				Body wish
			}{`"v1"`, wish{Title: "a"}}, nil
		})
	Add(s.Server, Route{Method: "DELETE", Path: "/v1/wishes/{id}", ID: "deleteWish", Roles: levee.RoleCustomer | levee.RoleOperator},
		func(_ context.Context, in *failInput2) (*struct{}, error) { return nil, nil })
	Add(s.Server, Route{Method: "PUT", Path: "/v1/secrets", ID: "putSecret", Roles: levee.RoleOperator, Limit: limit.Write},
		func(ctx context.Context, in *struct{ Body wish }) (*struct{ Body map[string]any }, error) {
			a := levee.ActorFrom(ctx)
			return &struct{ Body map[string]any }{map[string]any{"user": int64(a.User), "client": ClientIP(ctx).String(), "secure": SecureCookies(ctx)}}, nil
		})
	Add(s.Server, Route{Method: "POST", Path: "/v1/accounts", ID: "signUp", Limit: limit.SignUp},
		func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
	Add(s.Server, Route{Method: "GET", Path: "/v1/fail/{code}", ID: "fail"},
		func(ctx context.Context, in *failInput) (*struct{ Body map[string]any }, error) {
			return failAs(ctx, in.Code)
		})
	s.Raw(Route{Method: "POST", Path: "/v1/raw", ID: "rawJSON", Idempotent: true, Timeout: time.Second},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var v wish
			if err := ReadJSON(r, 0, &v); err != nil {
				WriteError(w, r, err)
				return
			}
			WriteJSON(w, r, 201, v)
		}), RawDoc{Request: wish{}, Responses: map[int]any{201: wish{}}})
	s.Raw(Route{Method: "GET", Path: "/v1/stream", ID: "stream", Timeout: -1}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}), RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: ""}})
	s.Raw(Route{Method: "PUT", Path: "/v1/upload", ID: "upload", BodyMax: 2000}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			WriteError(w, r, bodyError(err))
			return
		}
		WriteJSON(w, r, 200, n)
	}), RawDoc{RequestTypes: []string{"application/octet-stream"}})
	Add(s.Server, Route{Method: "POST", Path: "/v1/files", ID: "createFile", BodyMax: 4000},
		func(_ context.Context, in *struct {
			RawBody huma.MultipartFormFiles[struct {
				File huma.FormFile `form:"file" contentType:"text/plain" required:"true"`
				Name string        `form:"name" minLength:"2"`
			}]
		}) (*struct{ Body map[string]any }, error) {
			f := in.RawBody.Data()
			b, err := io.ReadAll(f.File)
			return &struct{ Body map[string]any }{map[string]any{"name": f.Name, "size": len(b)}}, err
		})
	s.Handle("GET /page", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		fmt.Fprint(w, "<p>page</p>")
	}))
}

type failInput2 struct {
	ID string `path:"id"`
}

// failAs fails in the way that is asked for.
func failAs(ctx context.Context, how string) (*struct{ Body map[string]any }, error) {
	switch how {
	case "panic":
		panic("a secret of the inside")
	case "abort":
		panic(http.ErrAbortHandler)
	case "plain":
		return nil, errors.New("dial tcp 10.0.0.7: a secret of the inside")
	case "deadline":
		<-ctx.Done()
		return nil, fmt.Errorf("asking: %w", ctx.Err())
	case "unencodable":
		return &struct{ Body map[string]any }{map[string]any{"f": func() {}}}, nil
	case "data":
		return nil, levee.E(levee.CodeNotOpen, "not before noon").With("starts_at", "2026-01-01T12:00:00Z")
	case "baddata":
		return nil, levee.E(levee.CodeNotOpen, "not before noon").With("f", func() {})
	case "retry":
		return nil, fmt.Errorf("deep: %w", levee.E(levee.CodeUnavailable, "come back").After(2500*time.Millisecond))
	}
	return nil, levee.E(levee.Code(how), "it is %s", how).Because(errors.New("a secret of the inside"))
}

// answered is an answer read to its end.
type answered struct {
	*http.Response
	body string
}

// ask sends a request through the handler; headers are name, value pairs.
func (s *site) ask(method, target, body string, headers ...string) answered {
	s.t.Helper()
	var r *http.Request
	if body == "" {
		r = httptest.NewRequest(method, target, http.NoBody)
		r.ContentLength = 0
	} else {
		r = httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "-" {
			r.Header.Del(headers[i])
			continue
		}
		r.Header[http.CanonicalHeaderKey(headers[i])] = append(r.Header[http.CanonicalHeaderKey(headers[i])][:0:0], headers[i+1])
	}
	return s.do(r)
}

func (s *site) do(r *http.Request) answered {
	s.t.Helper()
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, r)
	res := rec.Result()
	a := answered{res, rec.Body.String()}
	s.checkAlways(a)
	return a
}

// checkAlways holds for every answer.
func (s *site) checkAlways(a answered) {
	s.t.Helper()
	for _, h := range []string{"X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy", "X-Request-Id", "X-Frame-Options"} {
		if a.Header.Get(h) == "" {
			s.t.Errorf("%d has no header %s", a.StatusCode, h)
		}
	}
	if strings.Contains(a.body, "secret of the inside") {
		s.t.Errorf("the inside leaks: %s", a.body)
	}
	if a.StatusCode >= 400 && a.body != "" {
		s.checkProblem(a)
	}
}

// checkProblem holds an error against the schema in the document.
func (s *site) checkProblem(a answered) problem.Details {
	s.t.Helper()
	if ct := a.Header.Get("Content-Type"); ct != problem.Type {
		s.t.Errorf("%d is answered as %q: %s", a.StatusCode, ct, a.body)
	}
	var v any
	var p problem.Details
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		s.t.Fatalf("%v in %q", err, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		s.t.Fatal(err)
	}
	schemas := s.api.OpenAPI().Components.Schemas
	schema := schemas.Map()["Problem"]
	if schema == nil {
		s.t.Fatal("the document has no schema Problem")
	}
	var res huma.ValidateResult
	huma.Validate(schemas, schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, &res)
	for _, err := range res.Errors {
		s.t.Errorf("%v in %s", err, a.body)
	}
	if !slices.Contains(problem.Codes(), levee.Code(p.Code)) || p.Status != a.StatusCode || p.Title != http.StatusText(p.Status) && a.Header.Get("Content-Language") != "zh" ||
		p.Type != "urn:levee:error:"+p.Code || p.Detail == "" || p.RequestID != a.Header.Get("X-Request-Id") {
		s.t.Errorf("%d is described as %s", a.StatusCode, a.body)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		s.t.Errorf("an error may be cached: %q", a.Header.Get("Cache-Control"))
	}
	return p
}

// want fails the test unless the answer has this status and all of these texts.
func (a answered) want(t testing.TB, status int, texts ...string) answered {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%d, want %d: %s", a.StatusCode, status, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			t.Errorf("%q is missing in %s", text, a.body)
		}
	}
	return a
}

func auth(who string) []string { return []string{"Authorization", "Bearer " + who} }

func TestStatuses(t *testing.T) {
	s := newSite(t, Config{BodyMax: 1 << 10})
	good := `{"title":"tea"}`
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		texts                    []string
	}{
		{"created", "POST", "/v1/wishes", good, nil, 201, []string{`"title":"tea"`}},
		{"list", "GET", "/v1/wishes?limit=5&tags=a&tags=b", "", nil, 200, []string{"[]"}},
		{"no content", "DELETE", "/v1/wishes/1", "", auth("buyer"), 204, nil},
		{"HEAD is GET", "HEAD", "/v1/wishes", "", nil, 200, nil},
		{"broken JSON", "POST", "/v1/wishes", `{"title":`, nil, 400, []string{"malformed", "body.title", "a value"}},
		{"no body", "POST", "/v1/wishes", "", nil, 400, []string{"malformed", "nothing", "application/json"}},
		{"no body, raw", "POST", "/v1/raw", "", nil, 400, []string{"malformed", "empty"}},
		{"bad key", "POST", "/v1/wishes", good, []string{"Idempotency-Key", "a b"}, 400, []string{"malformed", "header.Idempotency-Key", "visible ASCII", "a b"}},
		{"broken query", "GET", "/v1/wishes?limit=%zz", "", nil, 400, []string{"malformed", "percent-encoded"}},
		{"no account", "PUT", "/v1/secrets", good, nil, 401, []string{"unauthenticated", "sign in"}},
		{"bad token", "PUT", "/v1/secrets", good, auth("old"), 401, []string{"unauthenticated", "expired"}},
		{"bad token, open route", "GET", "/v1/wishes", "", auth("old"), 401, []string{"unauthenticated"}},
		{"bad cookie, open route", "GET", "/v1/wishes", "", []string{"Cookie", "levee=old"}, 200, nil},
		{"bad cookie", "PUT", "/v1/secrets", good, []string{"Cookie", "levee=old"}, 401, []string{"unauthenticated"}},
		{"wrong role", "PUT", "/v1/secrets", good, auth("buyer"), 403, []string{"forbidden", "operator"}},
		{"right role", "PUT", "/v1/secrets", good, auth("operator"), 200, []string{`"user":13`}},
		{"401 before the body is read", "PUT", "/v1/secrets", `{"broken`, nil, 401, nil},
		{"403 before the body is read", "PUT", "/v1/secrets", strings.Repeat("x", 5000), auth("buyer"), 403, nil},
		{"accounts away", "PUT", "/v1/secrets", good, auth("down"), 503, []string{"unavailable"}},
		{"no such path", "GET", "/v1/nothing", "", nil, 404, []string{"not_found", "/v1/nothing"}},
		{"no such path outside", "GET", "/nothing", "", nil, 404, []string{"not_found"}},
		{"no such thing", "GET", "/v1/wishes/2", "", nil, 404, []string{"not_found", "no such wish"}},
		{"no such method", "PATCH", "/v1/wishes", good, nil, 405, []string{"method_not_allowed", "GET, HEAD, POST, OPTIONS"}},
		{"TRACE", "TRACE", "/v1/wishes", "", nil, 405, []string{"method_not_allowed"}},
		{"method of nobody", "BREW", "/v1/wishes/1", "", nil, 405, []string{"GET, HEAD, DELETE, OPTIONS"}},
		{"page, wrong method", "POST", "/page", good, nil, 405, []string{"GET, HEAD, OPTIONS"}},
		{"not acceptable", "GET", "/v1/wishes", "", []string{"Accept", "text/html"}, 406, []string{"not_acceptable", "header.Accept", "application/json", "text/html"}},
		{"not acceptable, before the handler", "GET", "/v1/fail/panic", "", []string{"Accept", "image/png"}, 406, nil},
		{"other version", "GET", "/v1/wishes", "", []string{"Api-Version", "2"}, 406, []string{"header.Api-Version"}},
		{"this version", "GET", "/v1/wishes", "", []string{"Api-Version", "1"}, 200, nil},
		{"other version in Accept", "GET", "/v1/wishes", "", []string{"Accept", "application/json; version=2"}, 406, nil},
		{"too large", "POST", "/v1/wishes", `{"title":"` + strings.Repeat("x", 2000) + `"}`, nil, 413, []string{"too_large", "1024"}},
		{"too large, raw", "POST", "/v1/raw", `{"title":"` + strings.Repeat("x", 2000) + `"}`, nil, 413, []string{"too_large", "1024"}},
		{"largest", "POST", "/v1/wishes", `{"title":"tea"` + strings.Repeat(" ", 1024-15) + `}`, nil, 201, nil},
		{"one more", "POST", "/v1/wishes", `{"title":"tea"` + strings.Repeat(" ", 1025-15) + `}`, nil, 413, nil},
		{"largest upload", "PUT", "/v1/upload", strings.Repeat("x", 2000), nil, 200, []string{"2000"}},
		{"too large upload", "PUT", "/v1/upload", strings.Repeat("x", 2001), nil, 413, nil},
		{"XML", "POST", "/v1/wishes", "<a/>", []string{"Content-Type", "application/xml"}, 415, []string{"unsupported_media_type", "header.Content-Type", "application/json", "application/xml"}},
		{"text", "POST", "/v1/raw", good, []string{"Content-Type", "text/plain"}, 415, []string{"application/json"}},
		{"UTF-16", "POST", "/v1/wishes", good, []string{"Content-Type", "application/json; charset=utf-16"}, 415, nil},
		{"broken media type", "POST", "/v1/wishes", good, []string{"Content-Type", ";;"}, 415, nil},
		{"charset", "POST", "/v1/wishes", good, []string{"Content-Type", "application/json; charset=UTF-8"}, 201, nil},
		{"+json", "POST", "/v1/wishes", good, []string{"Content-Type", "application/vnd.levee+json"}, 201, nil},
		{"no media type", "POST", "/v1/wishes", good, []string{"Content-Type", "-"}, 201, nil},
		{"not allowed value", "POST", "/v1/wishes", `{"title":""}`, nil, 422, []string{"invalid", "body.title", "of length \\u003e= 1"}},
		{"unknown query", "GET", "/v1/wishes?limt=3", "", nil, 422, []string{"query.limt", "limit, small, tags"}},
		{"query twice", "GET", "/v1/wishes?limit=3&limit=4", "", nil, 422, []string{"query.limit", "once"}},
		{"query of another type", "GET", "/v1/wishes?limit=x", "", nil, 422, []string{"query.limit", "an integer", `"given":"x"`}},
		{"query out of range", "GET", "/v1/wishes?limit=101", "", nil, 422, []string{"query.limit", "100", "101"}},
		{"query wraps around", "GET", "/v1/wishes?small=65537", "", nil, 422, []string{"query.small", "32767", "65537"}},
		{"query beyond 64 bits", "GET", "/v1/wishes?limit=99999999999999999999", "", nil, 422, []string{"query.limit"}},
		{"header too long", "GET", "/v1/wishes", "", []string{"Since", "yesterday"}, 422, []string{"header.Since", "5", "yesterday"}},
		{"query where there is none", "GET", "/v1/wishes/1?x=1", "", nil, 422, []string{"query.x", "no parameters"}},
		{"unknown query, raw", "POST", "/v1/raw?x=1", good, nil, 422, []string{"query.x"}},
		{"panic", "GET", "/v1/fail/panic", "", nil, 500, []string{"internal error"}},
		{"no code", "GET", "/v1/fail/plain", "", nil, 500, []string{"internal error"}},
		{"unknown code", "GET", "/v1/fail/brand_new", "", nil, 500, []string{`"error":"internal"`, "internal error"}},
		{"answer that is no JSON", "GET", "/v1/fail/unencodable", "", nil, 500, []string{"internal error"}},
		{"data", "GET", "/v1/fail/data", "", nil, 409, []string{`"data":{"starts_at":"2026-01-01T12:00:00Z"}`}},
		{"data that is no JSON", "GET", "/v1/fail/baddata", "", nil, 409, []string{"noon"}},
		{"retry", "GET", "/v1/fail/retry", "", nil, 503, []string{"come back"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			a := s.ask(c.method, c.path, c.body, c.headers...).want(t, c.status, c.texts...)
			switch c.status {
			case 401:
				if h := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(h, "Bearer ") {
					t.Errorf("WWW-Authenticate %q", h)
				}
			case 405:
				if a.Header.Get("Allow") == "" {
					t.Error("no Allow")
				}
			case 204:
				if a.body != "" {
					t.Errorf("204 with %q", a.body)
				}
			}
		})
	}
	s.t = t
	if got := s.ask("GET", "/v1/fail/retry", "").Header.Get("Retry-After"); got != "3" {
		t.Errorf("Retry-After %q, want the next whole second", got)
	}
	if n := len(s.log.events("handler panicked")); n != 2 { // one panics itself, one answers what is no JSON
		t.Errorf("%d panics logged", n)
	}
}

// TestEveryCode holds the table against the list in package levee: a code that was forgotten would be answered as 500.
func TestEveryCode(t *testing.T) {
	s := newSite(t, Config{})
	for _, code := range problem.Codes() {
		status := problem.Status(code)
		a := s.ask("GET", "/v1/fail/"+string(code), "").want(t, status)
		if p := s.checkProblem(a); p.Code != string(code) {
			t.Errorf("%s is answered as %s", code, p.Code)
		}
		if retry := a.Header.Get("Retry-After"); (status == 503 || status == 429) != (retry != "") {
			t.Errorf("%s: Retry-After %q", code, retry)
		}
	}
	if problem.Status("brand_new") != 500 {
		t.Error("an unknown code is no 500")
	}
}

// TestCodesAreWhole reads the list of codes from the source, so that a new one cannot be forgotten here.
func TestCodesAreWhole(t *testing.T) {
	for _, c := range codesInSource(t) {
		if !slices.Contains(problem.Codes(), c) {
			t.Errorf("%s has no status", c)
		}
	}
}

func TestTimeout(t *testing.T) {
	s := newSite(t, Config{RequestTimeout: 20 * time.Millisecond})
	s.ask("GET", "/v1/fail/deadline", "").want(t, 503, `"error":"timeout"`, "longer")
}

func TestPanicAfterFirstByteCutsTheConnection(t *testing.T) {
	s := newSite(t, Config{})
	s.Handle("GET /half", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "half of")
		_ = http.NewResponseController(w).Flush()
		panic("in the middle")
	}))
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	res, err := http.Get(srv.URL + "/half")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("half an answer was taken for a whole: %q", b)
	}
	if len(s.log.events("handler panicked")) != 1 {
		t.Error("the panic was not logged")
	}
	if res, err := http.Get(srv.URL + "/v1/fail/abort"); err == nil {
		res.Body.Close()
		t.Error("an aborted answer came through")
	}
}

func TestThrottle(t *testing.T) {
	s := newSite(t, Config{})
	for i, want := range []int{204, 204, 429, 429} {
		a := s.ask("POST", "/v1/accounts", "")
		a.want(t, want)
		if p := a.Header.Get("RateLimit-Policy"); p != `"sign_up";q=2;w=3600` {
			t.Errorf("%d: policy %q", i, p)
		}
		left := []string{"1", "0", "0", "0"}[i]
		if got := a.Header.Get("RateLimit"); got != `"sign_up";r=`+left+`;t=3600` {
			t.Errorf("%d: %q, want %s remaining", i, got, left)
		}
		if retry := a.Header.Get("Retry-After"); (want == 429) != (retry != "") {
			t.Errorf("%d: Retry-After %q with %d", i, retry, want)
		}
	}
	// By address: a token does not buy more.
	s.ask("POST", "/v1/accounts", "", auth("buyer")...).want(t, 429)
	r := httptest.NewRequest("POST", "/v1/accounts", nil)
	r.RemoteAddr = "203.0.113.9:1"
	s.do(r).want(t, 204)
}

// Brakes that an operator pulls are asked beside the route's own limit, as one step: who is refused by one uses up none.
func TestThrottleByBrakes(t *testing.T) {
	s := newSite(t, Config{})
	pull := func(rates string, r limit.Rate, more ...limit.Name) {
		t.Helper()
		changed := map[limit.Name]limit.Rate{}
		for _, n := range more {
			changed[n] = r
		}
		if err := s.parts.Limits.Set(changed); err != nil {
			t.Fatal(rates, err)
		}
	}
	pull("route", limit.Rate{Count: 1, Per: time.Hour}, limit.Route)
	a := s.ask("POST", "/v1/accounts", "").want(t, 204)
	if got, want := a.Header.Get("RateLimit"), `"sign_up";r=1;t=3600, "route";r=0;t=3600`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := a.Header.Get("RateLimit-Policy"), `"sign_up";q=2;w=3600, "route";q=1;w=3600`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r := httptest.NewRequest("POST", "/v1/accounts", nil)
	r.RemoteAddr = "203.0.113.9:1" // whoever asks: the route is braked for all
	if a := s.do(r).want(t, 429); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	pull("none", limit.Rate{})
	r = httptest.NewRequest("POST", "/v1/accounts", nil)
	r.RemoteAddr = "203.0.113.9:1"
	a = s.do(r).want(t, 204) // what the brake refused was not charged to the address
	if got := a.Header.Get("RateLimit"); got != `"sign_up";r=1;t=3600` {
		t.Errorf("%q", got)
	}
}

func TestLimitKeys(t *testing.T) {
	s := newSite(t, Config{})
	c := &call{s: s.Server, client: peerAddr(&http.Request{RemoteAddr: "[2001:db8::1]:5"})}
	byAddress := c.limitKey(limit.Write)
	c.actor = levee.Actor{User: 7}
	if c.limitKey(limit.Write) == byAddress || c.limitKey(limit.SignIn) != byAddress {
		t.Error("a user's limit and an address's are mixed up")
	}
}

func TestOneEventPerRequest(t *testing.T) {
	s := newSite(t, Config{})
	s.ask("PUT", "/v1/secrets", `{"title":"a"}`, append(auth("operator"), "X-Request-Id", "forged")...).want(t, 200)
	s.ask("GET", "/v1/nothing%0D%0AINJECTED", "")
	s.ask("GET", "/v1/fail/plain", "").want(t, 500)
	events := s.log.events("request")
	if len(events) != 3 {
		t.Fatalf("%d events", len(events))
	}
	e := events[0]
	for key, want := range map[string]any{"method": "PUT", "route": "PUT /v1/secrets", "status": 200.0, "user": 13.0, "level": "INFO", "part": "web"} {
		if e[key] != want {
			t.Errorf("%s is %v, want %v", key, e[key], want)
		}
	}
	if e["bytes"].(float64) == 0 || e["request_id"] == "forged" || e["request_id"] == "" || e["duration"] == nil || e["client"] == nil {
		t.Errorf("%v", e)
	}
	if events[1]["route"] != "unmatched" || events[1]["path"] == nil || events[1]["code"] != "not_found" {
		t.Errorf("%v", events[1])
	}
	if events[2]["level"] != "ERROR" || !strings.Contains(fmt.Sprint(events[2]["err"]), "10.0.0.7") {
		t.Errorf("an internal error is not logged in full: %v", events[2])
	}
}

func TestRequestIDOfTrustedProxy(t *testing.T) {
	s := newSite(t, Config{TrustedProxies: []string{"192.0.2.1"}}) // where httptest's requests come from
	for id, taken := range map[string]bool{"abc-1.2_X": true, "": false, "a b": false, "a\"b": false, strings.Repeat("x", 65): false, "é": false} {
		got := s.ask("GET", "/v1/time", "", "X-Request-Id", id).Header.Get("X-Request-Id")
		if (got == id) != taken || got == "" {
			t.Errorf("%q became %q", id, got)
		}
	}
	if RequestID(t.Context()) != "" || ClientIP(t.Context()).IsValid() || KeyFrom(t.Context()) != "" || SecureCookies(t.Context()) {
		t.Error("outside of a request there is something")
	}
}

func TestFastHook(t *testing.T) {
	s := newSite(t, Config{})
	s.Fast(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/gone" {
			return false
		}
		problem.NewFixed(levee.E(levee.CodeSoldOut, "every unit is taken")).Write(w, r)
		return true
	})
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/v1/gone", nil))
	if rec.Code != 409 || !strings.Contains(rec.Body.String(), "sold_out") || strings.Contains(rec.Body.String(), "request_id") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	r := httptest.NewRequest("GET", "/v1/gone", nil)
	r.Header.Set("Accept-Language", "zh-CN")
	s.Handler().ServeHTTP(rec, r)
	if !strings.Contains(rec.Body.String(), "已售罄") {
		t.Errorf("in Chinese: %s", rec.Body)
	}
	s.ask("GET", "/v1/wishes", "").want(t, 200)
	if n := len(s.log.events("request")); n != 1 {
		t.Errorf("%d events", n)
	}
	// Errors can be written from the hook too, where there is no request of the pipeline.
	rec = httptest.NewRecorder()
	WriteError(rec, httptest.NewRequest("GET", "/", nil), levee.E(levee.CodeEnded, "over"))
	if rec.Code != 410 || rec.Header().Get("Content-Type") != problem.Type {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
}

func TestConfigRefused(t *testing.T) {
	o := obs.Test(t)
	for _, c := range []struct {
		cfg    Config
		fields []string
	}{
		{Config{BodyMax: 12}, []string{"http.body_max", "1024", "12"}},
		{Config{BodyMax: -1}, []string{"http.body_max"}},
		{Config{HeaderMax: 1 << 30}, []string{"http.header_max"}},
		{Config{MaxConns: 1}, []string{"http.max_conns"}},
		{Config{RequestTimeout: -time.Second}, []string{"http.request_timeout"}},
		{Config{IdleTimeout: 1}, []string{"http.idle_timeout"}},
		{Config{CookieSecure: "maybe"}, []string{"http.cookie_secure", "auto", "maybe"}},
		{Config{PublicURL: "shop.example"}, []string{"http.public_url", "https://", "shop.example"}},
		{Config{PublicURL: "https://u:p@shop.example"}, []string{"http.public_url"}},
		{Config{TrustedProxies: []string{"10.0.0.0/33"}}, []string{"http.trusted_proxies", "10.0.0.0/33"}},
		{Config{TrustedProxies: []string{"all"}}, []string{"http.trusted_proxies"}},
		{Config{CORSOrigins: []string{"*"}}, []string{"http.cors_origins", "*"}},
		{Config{CORSOrigins: []string{"null"}}, []string{"http.cors_origins"}},
		{Config{CORSOrigins: []string{"https://*.example"}}, []string{"http.cors_origins"}},
		{Config{CORSOrigins: []string{"https://shop.example/"}}, []string{"http.cors_origins"}},
		{Config{CORSOrigins: []string{"https://Shop.example"}}, []string{"http.cors_origins"}},
	} {
		_, err := New(c.cfg, Parts{Obs: o})
		if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c.cfg, err)
			continue
		}
		for _, f := range c.fields {
			if !strings.Contains(err.Error(), f) {
				t.Errorf("%v does not name %s", err, f)
			}
		}
	}
	if _, err := New(Config{}, Parts{}); err == nil {
		t.Error("a server without obs")
	}
}

// TestMistakesPanic: what is wrong in a route is found when the program starts, not when somebody calls.
func TestMistakesPanic(t *testing.T) {
	h := http.NotFoundHandler()
	for name, f := range map[string]func(s *Server){
		"lower case method": func(s *Server) { s.Raw(Route{Method: "get", Path: "/x", ID: "x"}, h, RawDoc{}) },
		"no slash":          func(s *Server) { s.Raw(Route{Method: "GET", Path: "x", ID: "x"}, h, RawDoc{}) },
		"no id":             func(s *Server) { s.Raw(Route{Method: "GET", Path: "/x"}, h, RawDoc{}) },
		"id twice": func(s *Server) {
			s.Raw(Route{Method: "GET", Path: "/x", ID: "x"}, h, RawDoc{})
			s.Raw(Route{Method: "GET", Path: "/y", ID: "x"}, h, RawDoc{})
		},
		"path twice": func(s *Server) {
			s.Raw(Route{Method: "GET", Path: "/x", ID: "x"}, h, RawDoc{})
			s.Raw(Route{Method: "GET", Path: "/x", ID: "y"}, h, RawDoc{})
		},
		"body beyond all bounds": func(s *Server) { s.Raw(Route{Method: "PUT", Path: "/x", ID: "x", BodyMax: 1 << 40}, h, RawDoc{}) },
		"error with a body": func(s *Server) {
			s.Raw(Route{Method: "GET", Path: "/x", ID: "x"}, h, RawDoc{Responses: map[int]any{404: ""}})
		},
		"sealed": func(s *Server) {
			s.Handler()
			s.Raw(Route{Method: "GET", Path: "/x", ID: "x"}, h, RawDoc{})
		},
	} {
		s, err := New(Config{}, Parts{Obs: obs.Test(t)})
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s passed", name)
				}
			}()
			f(s)
		}()
	}
}

func TestRoutes(t *testing.T) {
	s := newSite(t, Config{})
	lines := s.Routes()
	if !slices.IsSorted(lines) {
		t.Error("not sorted")
	}
	var some []string
	for _, l := range lines {
		if strings.Contains(l, "Wish") {
			some = append(some, l)
		}
	}
	if d := cmp.Diff([]string{
		"DELETE /v1/wishes/{id} deleteWish customer,operator,administrator,product_administrator,order_administrator",
		"GET /v1/wishes listWishes anybody",
		"GET /v1/wishes/{id} getWish anybody",
		"POST /v1/wishes createWish anybody",
	}, some); d != "" {
		t.Error(d)
	}
}

func TestLevelOfQuietRoutes(t *testing.T) {
	s := newSite(t, Config{})
	if err := s.o.SetLevel("info"); err != nil {
		t.Fatal(err)
	}
	s.ask("GET", "/v1/time", "").want(t, 200)
	s.ask("GET", "/healthz", "").want(t, 200)
	if e := s.log.events("request"); len(e) != 0 {
		t.Errorf("%v", e)
	}
	s.ask("GET", "/v1", "").want(t, 200)
	if e := s.log.events("request"); len(e) != 1 || e[0]["level"] != slog.LevelInfo.String() {
		t.Errorf("%v", e)
	}
}

// database is a fresh one of the tier under test. (platformtest, which has this for rooms, stands on this package.)
func database(t testing.TB) db.Config {
	t.Helper()
	twice := os.Getenv("LEVEE_TEST_RUN_TWICE") == "1"
	if os.Getenv("LEVEE_TEST_TIER") != "distributed" {
		return db.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "http.db"), RunTwice: twice}
	}
	server, err := backends.MySQL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url, drop, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	return db.Config{URL: url, Password: obs.Secret(server.Password()), Writers: 16, Readers: 4, RunTwice: twice}
}
