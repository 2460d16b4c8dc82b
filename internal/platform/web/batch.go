package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/header"
	"levee/internal/platform/limit"
	"levee/internal/platform/patch"
	"levee/internal/platform/problem"
)

const (
	pathBatch = "/v1/batch"
	// batchMax is the most requests of a batch, batchAnswer the most bytes of all its answers' bodies together.
	batchMax    = 50
	batchAnswer = 4 << 20
)

type batchPart struct {
	ID      string            `json:"id,omitempty" maxLength:"64" doc:"Comes back with the answer"`
	Method  string            `json:"method" enum:"GET,HEAD,POST,PUT,PATCH,DELETE"`
	Path    string            `json:"path" minLength:"1" maxLength:"2000" doc:"With its query: /v1/orders?limit=5"`
	Headers map[string]string `json:"headers,omitempty" maxProperties:"20" doc:"Those that are not the batch's own: who asks, from where and in which language is the same for all"`
	Body    json.RawMessage   `json:"body,omitempty" doc:"As JSON"`
}

type batchInput struct {
	Body struct {
		Requests    []batchPart `json:"requests" minItems:"1" maxItems:"50" nullable:"false"`
		StopOnError bool        `json:"stop_on_error,omitempty" doc:"Leave out what follows the first answer of 400 or above; it is answered 424"`
	}
}

type batchAnswerPart struct {
	ID      string            `json:"id,omitempty"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers" nullable:"false"`
	Body    json.RawMessage   `json:"body,omitempty" doc:"Absent when the answer has none"`
	Omitted bool              `json:"omitted,omitempty" doc:"The body did not fit into the batch's answer any more; what was asked for was done all the same"`
}

type batchOutput struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
	Body      struct {
		Responses []batchAnswerPart `json:"responses" nullable:"false" doc:"In the order of the requests"`
	}
}

// batchTakes are the headers that a part may bring, batchGives those of its answer that are shown.
var (
	batchTakes = []string{"Accept", "Api-Version", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Levee-Admission", "Prefer"}
	batchGives = []string{"Accept-Patch", "Allow", "Content-Language", "Content-Type", "Deprecation", "Etag", "Idempotency-Replayed", "Link", "Location", "Ratelimit",
		"Ratelimit-Policy", "Retry-After", "Sunset", "Www-Authenticate", "X-Request-Id"}
	batchInherits = []string{"Authorization", "Cookie", "Accept-Language", "User-Agent", headerMarker}
)

func (s *Server) addBatch() {
	Add(s, Route{Method: http.MethodPost, Path: pathBatch, ID: "batch", Tag: "about", Summary: "Several requests in one", Limit: limit.Read, Timeout: time.Minute,
		Description: "Up to 50 requests, one after the other, each as if it had come by itself: what its sender may do, its limits, its checks. " +
			"What one of them does stands, whatever becomes of the others. No streams, files or batches."}, s.batch)
}

// batch runs the parts in their order. All are looked at before the first is run.
func (s *Server) batch(ctx context.Context, in *batchInput) (*batchOutput, error) {
	outer := callOf(ctx)
	parts := make([]*http.Request, len(in.Body.Requests))
	for i := range in.Body.Requests {
		var err error
		if parts[i], err = s.batchRequest(outer, fmt.Sprintf("body.requests[%d]", i), &in.Body.Requests[i]); err != nil {
			return nil, err
		}
	}
	out := &batchOutput{}
	left, failed, marker := batchAnswer, -1, ""
	for i, r := range parts {
		asked := &in.Body.Requests[i]
		if failed >= 0 && in.Body.StopOnError {
			out.Body.Responses = append(out.Body.Responses, outer.notRun(asked.ID, failed))
			continue
		}
		if marker != "" { // it reads what those before it wrote
			r.Header[headerMarker] = []string{marker}
		}
		rec := &recorder{header: http.Header{}, left: left}
		s.runPart(ctx, outer, i, rec, r)
		left = rec.left
		if rec.status >= 400 && failed < 0 {
			failed = i
		}
		if lines := rec.header[headerMarker]; len(lines) > 0 {
			marker = lines[0]
		}
		for _, text := range rec.header["Set-Cookie"] {
			if cookie, err := http.ParseSetCookie(text); err == nil && cookie.Name != cookieMarker {
				out.SetCookie = append(out.SetCookie, *cookie)
			}
		}
		out.Body.Responses = append(out.Body.Responses, rec.answer(asked.ID))
	}
	if marker != "" {
		Wrote(ctx)
	}
	return out, nil
}

// batchRequest makes the request of a part; field is where it stands in the batch.
func (s *Server) batchRequest(outer *call, field string, p *batchPart) (*http.Request, error) {
	u, err := url.ParseRequestURI(p.Path)
	if err != nil || u.Host != "" || u.Scheme != "" || !versioned(u.Path) {
		return nil, levee.Invalid(field+".path", "a path of the API such as /v1/orders?limit=5", p.Path)
	}
	r := &http.Request{Method: p.Method, URL: u, RequestURI: p.Path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Host: outer.r.Host,
		RemoteAddr: outer.r.RemoteAddr, TLS: outer.r.TLS, Body: http.NoBody}
	_, pattern := s.mux.Handler(r)
	rt := s.byName[pattern]
	switch {
	case pattern == "/": // there is no such operation, as its answer will say
	case rt == nil, rt.timeout < 0, rt.Path == pathBatch, !slices.Contains(rt.produces, "application/json"), rt.op != nil && rt.op.RequestBody != nil && !rt.takes("application/json"):
		return nil, levee.Invalid(field+".path", "an operation that takes and answers JSON: no stream, no file, no batch", p.Method+" "+p.Path)
	}
	for _, name := range batchInherits {
		if lines := outer.r.Header[name]; lines != nil {
			r.Header[name] = lines
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Headers)) {
		canonical, value := http.CanonicalHeaderKey(name), p.Headers[name]
		if !slices.Contains(batchTakes, canonical) {
			return nil, levee.Invalid(field+".headers."+levee.Shorten(name, 40), "one of "+strings.Join(batchTakes, ", "), name)
		}
		if len(value) > 2000 || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) || r.Header[canonical] != nil {
			return nil, levee.Invalid(field+".headers."+name, "one line of at most 2000 bytes, given once", value)
		}
		r.Header[canonical] = []string{value}
	}
	if len(p.Body) > 0 {
		mt := header.MediaType(r.Header.Get("Content-Type"))
		switch {
		case r.Header["Content-Type"] == nil:
			r.Header["Content-Type"] = jsonTypes
		case !header.IsJSON(mt):
			return nil, levee.Invalid(field+".headers.Content-Type", "application/json, "+patch.MergeType+" or "+patch.JSONType, r.Header.Get("Content-Type"))
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(p.Body)), int64(len(p.Body))
	}
	return r, nil
}

// runPart takes a part through the whole pipeline, as the request of the batch's own sender.
func (s *Server) runPart(ctx context.Context, outer *call, i int, rec *recorder, r *http.Request) {
	c := &call{Context: ctx, ResponseWriter: rec, s: s, start: time.Now(), peer: outer.peer, client: outer.client, secure: outer.secure,
		id: outer.id + "." + strconv.Itoa(i)}
	defer func() {
		if p := recover(); p != nil { // an answer that broke off in its middle
			*rec = recorder{header: http.Header{"Content-Type": []string{problem.Type}}, left: rec.left}
			told := problem.Of(levee.E(levee.CodeInternal, "internal error"))
			told.RequestID = c.id
			rec.WriteHeader(told.Status)
			_, _ = rec.Write(told.Encode())
		}
	}()
	s.run(c, r)
}

// notRun answers a part that was left out because the one with the number failed had failed.
func (c *call) notRun(id string, failed int) batchAnswerPart {
	err := levee.E(levee.CodeConflict, "request %d of the batch failed, so this one was not run", failed)
	p := c.problemFor(c.r, problem.With(err, http.StatusFailedDependency, nil))
	c.err, c.code = nil, "" // it is not the batch's own
	return batchAnswerPart{ID: id, Status: p.Status, Headers: map[string]string{"Content-Type": problem.Type}, Body: p.Encode()}
}

// recorder takes the answer of a part, as much as there is room for.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
	left   int // bytes that may still be kept
	over   bool
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if len(b) > r.left {
		r.over = true
	}
	if !r.over {
		r.left -= len(b)
		r.body.Write(b)
	}
	return len(b), nil
}

func (r *recorder) answer(id string) batchAnswerPart {
	a := batchAnswerPart{ID: id, Status: r.status, Headers: map[string]string{}, Omitted: r.over}
	for _, name := range batchGives {
		if lines := r.header[name]; len(lines) > 0 {
			a.Headers[name] = strings.Join(lines, ", ")
		}
	}
	switch body := r.body.Bytes(); {
	case r.over || len(body) == 0:
	case header.IsJSON(header.MediaType(r.header.Get("Content-Type"))) && json.Valid(body):
		a.Body = body
	default:
		a.Body, _ = json.Marshal(string(body)) // a string never fails
	}
	return a
}
