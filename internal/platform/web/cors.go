package web

import (
	"net/http"
	"strings"

	"levee"
)

var (
	corsTrue    = []string{"true"}
	corsHeaders = []string{"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Api-Version, " +
		"Levee-Admission, Levee-Marker, Prefer"}
	corsExpose = []string{"ETag, Location, Link, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, " +
		"Idempotency-Replayed, Levee-Marker"}
	corsMaxAge = []string{"600"} // ten minutes: a changed list reaches browsers soon, and few requests pay twice
)

// cors lets pages of the allowed origins read the answer, and answers their preflights: true. Others get no such header, and
// their browser keeps the answer from them.
func (s *Server) cors(c *call, r *http.Request) (answered bool) {
	origin := r.Header["Origin"]
	if len(origin) != 1 || !s.origins[origin[0]] {
		return false
	}
	h := c.Header()
	h["Access-Control-Allow-Origin"] = origin
	h["Access-Control-Allow-Credentials"] = corsTrue
	if r.Method != http.MethodOptions || r.Header["Access-Control-Request-Method"] == nil {
		h["Access-Control-Expose-Headers"] = corsExpose
		return false
	}
	allowed := s.allowedMethods(r)
	if len(allowed) == 0 {
		return false
	}
	h["Access-Control-Allow-Methods"] = []string{strings.Join(allowed, ", ")}
	h["Allow"] = h["Access-Control-Allow-Methods"]
	h["Access-Control-Allow-Headers"] = corsHeaders
	h["Access-Control-Max-Age"] = corsMaxAge
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	c.route = s.api.preflight
	c.WriteHeader(http.StatusNoContent)
	return true
}

// checkCrossSite refuses requests that change something and that another site made a browser send with the visitor's cookies.
// A bearer token is no cookie: no browser adds it by itself. Programs that are no browser send neither Origin nor
// Sec-Fetch-Site and pass.
func (s *Server) checkCrossSite(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if a := r.Header["Authorization"]; len(a) == 1 && len(a[0]) > 7 && strings.EqualFold(a[0][:7], "bearer ") {
		return nil
	}
	if err := s.csrf.Check(r); err != nil {
		return levee.E(levee.CodeForbidden, "this request came from another site (%s); only pages of this site and of the allowed origins may send it",
			levee.Shorten(r.Header.Get("Origin"), 80)).Because(err)
	}
	return nil
}
