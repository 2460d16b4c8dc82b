package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/header"
	"levee/internal/platform/problem"
)

// A caller names the version of the API by the path (/v1/orders), by the header Api-Version, by the parameter version of Accept, or by the
// query. Who names it elsewhere may leave it out of the path; who names it twice must say the same.
const (
	headerVersion = "Api-Version"
	queryVersion  = "version"
)

// Ending says how an operation goes. All times are of the server's clock.
type Ending struct {
	// Deprecated is when it became, or becomes, one that should not be used any more (RFC 9745). Required.
	Deprecated time.Time
	// Sunset is when it goes: from then on it is answered 410 (RFC 8594). Zero: that is not decided.
	Sunset time.Time
	// Successor is the path of what takes its place; "": nothing does.
	Successor string
}

func (e *Ending) headers() []line {
	h := []line{{"Deprecation", []string{"@" + strconv.FormatInt(e.Deprecated.Unix(), 10)}}}
	if !e.Sunset.IsZero() {
		h = append(h, line{"Sunset", []string{e.Sunset.UTC().Format(http.TimeFormat)}})
	}
	if e.Successor != "" {
		h = append(h, line{"Link", []string{"<" + e.Successor + `>; rel="successor-version"`}})
	}
	return h
}

// ended tells the caller that the route goes, and answers him when it is gone.
func (s *Server) ended(c *call, r *http.Request) bool {
	h := c.Header()
	for _, l := range c.route.ending {
		h[l.name] = l.value
	}
	e := c.route.Ends
	if e.Sunset.IsZero() || s.clock().Before(e.Sunset) {
		return false
	}
	err := levee.E(levee.CodeGone, "this operation ended at %s", e.Sunset.UTC().Format(time.RFC3339))
	if e.Successor != "" {
		err.Message += "; use " + e.Successor
	}
	WriteError(c, r, err)
	return true
}

// versionOf reads the version that a path begins with: 1 of /v1/orders.
func versionOf(path string) (version string, ok bool) {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	version, ok = strings.CutPrefix(first, "v")
	if !ok || version == "" || strings.Trim(version, "0123456789") != "" {
		return "", false
	}
	return version, true
}

func versioned(path string) bool {
	_, ok := versionOf(path)
	return ok
}

// namesVersion reports whether a request may name a version beside its path: the cheap question of every request.
func namesVersion(r *http.Request) bool {
	if r.URL.RawQuery != "" || r.Header[headerVersion] != nil {
		return true
	}
	accept := r.Header["Accept"]
	return len(accept) > 1 || len(accept) == 1 && len(accept[0]) > len("application/json")
}

// checkVersion refuses a request that names another version than its path.
func (s *Server) checkVersion(path string, r *http.Request) error {
	_, err := s.namedVersion(path, r)
	return err
}

// namedVersion returns the version that the request names; have is what its path names, "" for nothing. CodeNotAcceptable: there is no such
// version; CodeMalformed: two places name two versions.
func (s *Server) namedVersion(have string, r *http.Request) (version string, err error) {
	version, by := have, "the path"
	name := func(field string, given ...string) error {
		known := slices.DeleteFunc(slices.Clone(given), func(v string) bool { return !slices.Contains(s.versions, v) })
		switch {
		case len(known) == 0:
			all := strings.Join(s.versions, ", ")
			return problem.Refuse(levee.CodeNotAcceptable, field, all, given[0], "there is no version %q of the API, only %s", levee.Shorten(given[0], 20), all)
		case version != "" && !slices.Contains(known, version):
			return problem.Refuse(levee.CodeMalformed, field, version, known[0], "%s says version %s of the API, %s says %s; say it once, or the same", by, version, field, known[0])
		case version == "":
			version, by = known[0], field
		}
		return nil
	}
	for _, v := range r.Header[headerVersion] {
		if err := name("header."+headerVersion, v); err != nil {
			return "", err
		}
	}
	if strings.Contains(r.URL.RawQuery, queryVersion) && !(s.queriesVersion(r)) {
		q, _ := url.ParseQuery(r.URL.RawQuery) // what is broken in it is refused where it is read
		for _, v := range q[queryVersion] {
			if err := name("query."+queryVersion, v); err != nil {
				return "", err
			}
		}
	}
	if vs := header.Versions(r.Header["Accept"]); len(vs) > 0 {
		if err := name("header.Accept", vs...); err != nil {
			return "", err
		}
	}
	return version, nil
}

// queriesVersion reports whether the request's route has a parameter version of its own, which then means that.
func (s *Server) queriesVersion(r *http.Request) bool {
	rt := callOf(r.Context()).route
	if rt == nil {
		return false
	}
	_, own := rt.query[queryVersion]
	return own
}

// byNamedVersion answers a request whose path names no version, where it names one elsewhere and that version has such a path.
func (s *Server) byNamedVersion(w http.ResponseWriter, r *http.Request) bool {
	if versioned(r.URL.Path) || !namesVersion(r) {
		return false
	}
	version, err := s.namedVersion("", r)
	look := version
	switch {
	case err != nil:
		look = s.versions[len(s.versions)-1]
	case version == "":
		return false
	}
	at := *r.URL
	at.Path = "/v" + look + at.Path
	if at.RawPath != "" {
		at.RawPath = "/v" + look + at.RawPath
	}
	there := *r
	there.URL = &at
	if len(s.allowedMethods(&there)) == 0 {
		return false
	}
	c := callOf(r.Context())
	c.Header().Add("Vary", "Accept, "+headerVersion)
	if err != nil {
		WriteError(w, r, err)
		return true
	}
	c.r = &there
	s.mux.ServeHTTP(w, &there)
	return true
}
