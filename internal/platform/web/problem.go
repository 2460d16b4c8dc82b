package web

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"levee"
	"levee/internal/platform/header"
	"levee/internal/platform/problem"
	"levee/internal/platform/speech"
)

// statusClientGone is logged when the caller left before he was answered; nobody sees it.
const statusClientGone = 499

// problemFor is problem.Of, for the request: with its id and the headers that its status needs, and noted for the log.
func (c *call) problemFor(r *http.Request, err error) *problem.Details {
	p := problem.Of(err)
	p.RequestID = c.id
	for i := range p.Errors {
		p.Errors[i].Field = c.route.locate(p.Errors[i].Field)
	}
	p.SayIn(header.Language(r.Header["Accept-Language"], speech.Languages...))
	if p.Status != http.StatusNotModified {
		c.err, c.code = err, levee.Code(p.Code)
	}
	if p.Status == http.StatusUnauthorized {
		challenge := `Bearer realm="levee"`
		switch {
		case p.Code == string(levee.CodeStepUp):
			challenge += `, error="insufficient_user_authentication"` // RFC 9470: the token is good
		case r.Header["Authorization"] != nil && p.Code != string(levee.CodeSecondFactor):
			challenge += `, error="invalid_token"`
		}
		p.SetHeader("WWW-Authenticate", challenge)
	}
	return p
}

// WriteError answers a request with err as problem details. Errors without a code, and those with CodeInternal, are shown as
// "internal error" and logged in full. It works outside of a server too (the fast hook, a test): then nothing is logged.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	if c != nil && c.clientGone(err) {
		c.err, c.status = err, statusClientGone
		return
	}
	var p *problem.Details
	if c != nil {
		p = c.problemFor(r, err)
	} else {
		p = problem.Of(err)
		p.SayIn("en")
	}
	p.Write(w)
}

var (
	jsonTypes   = []string{"application/json"}
	noStore     = []string{"no-store"}
	privateOnly = []string{"private, no-store"}
)

// WriteJSON answers a request with v as JSON. A value that cannot be encoded is answered as an internal error.
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := marshalJSON(v)
	if err != nil {
		WriteError(w, r, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	h := w.Header()
	h["Content-Type"] = jsonTypes
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// Errors of the router itself.
func (s *Server) errNoRoute(r *http.Request) error {
	if v, ok := versionOf(r.URL.Path); ok && !slices.Contains(s.versions, v) {
		v = levee.Shorten(v, 20)
		return problem.Refuse(levee.CodeNotFound, "path", "/v"+strings.Join(s.versions, ", /v"), "/v"+v, "there is no version %q of the API, only %s", v, strings.Join(s.versions, ", "))
	}
	return levee.E(levee.CodeNotFound, "there is nothing at %s", levee.Shorten(strings.ToValidUTF8(r.URL.Path, "\uFFFD"), 120))
}

func errMethod(r *http.Request, allowed []string) error {
	list := strings.Join(allowed, ", ")
	e := problem.Refuse(levee.CodeMethodNotAllowed, "method", list, r.Method, "%s is not allowed here, only %s", levee.Shorten(r.Method, 16), list)
	return problem.With(e, http.StatusMethodNotAllowed, http.Header{"Allow": {list}})
}
