package web

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"levee"
)

// ETag makes a strong entity tag of what tells two versions of a thing apart: its id and version, or its bytes.
func ETag(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			fmt.Fprintf(h, "%d:", len(p))
			h.Write(p)
		default:
			s := fmt.Sprint(p)
			fmt.Fprintf(h, "%d:%s", len(s), s)
		}
	}
	return `"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:15]) + `"`
}

// Conditional is embedded in the input of a typed handler that answers conditional requests.
type Conditional struct {
	IfMatch     string `header:"If-Match" maxLength:"1000" doc:"Do it only while the thing's entity tag is one of these"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"1000" doc:"Answer 304 when the thing's entity tag is one of these"`
}

// NotModified returns an error that answers 304 with the tag when the caller has it already, else nil.
func (c Conditional) NotModified(etag string) error {
	if c.IfNoneMatch == "" || !tagListed(c.IfNoneMatch, etag, true) {
		return nil
	}
	return &withStatus{
		err: levee.E(levee.CodeConflict, "not modified"), status: http.StatusNotModified, header: http.Header{"Etag": {etag}},
	}
}

// Match returns an error that answers 412 when the caller names tags in If-Match and etag is not among them, else nil: so that
// nobody overwrites what he has not seen.
func (c Conditional) Match(etag string) error {
	if c.IfMatch == "" || tagListed(c.IfMatch, etag, false) {
		return nil
	}
	err := refuse(levee.CodeConflict, "header.If-Match", etag, c.IfMatch, "it has been changed since it was read; read it again")
	return &withStatus{err: err, status: http.StatusPreconditionFailed}
}

// NotModified sets the tag on a raw handler's answer, and answers 304 when the caller of a GET or HEAD has it already: true.
func NotModified(w http.ResponseWriter, r *http.Request, etag string) bool {
	w.Header()["Etag"] = []string{etag}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	for _, line := range r.Header["If-None-Match"] {
		if tagListed(line, etag, true) {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

// tagListed reports whether a list of entity tags (RFC 9110, 8.8.3) holds etag; weak also when either is weak.
func tagListed(list, etag string, weak bool) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for rest := list; ; {
		rest = strings.TrimLeft(rest, " \t,")
		isWeak := strings.HasPrefix(rest, "W/")
		tag := strings.TrimPrefix(rest, "W/")
		if len(tag) < 2 || tag[0] != '"' {
			return false
		}
		end := strings.IndexByte(tag[1:], '"')
		if end < 0 {
			return false
		}
		if tag[:end+2] == strings.TrimPrefix(etag, "W/") && (weak || !isWeak && !strings.HasPrefix(etag, "W/")) {
			return true
		}
		rest = tag[end+2:]
	}
}
