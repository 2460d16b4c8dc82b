package web

import (
	"fmt"
	"net/http"
	"strings"

	"levee"
	"levee/internal/platform/header"
	"levee/internal/platform/problem"
)

// ETag makes a strong entity tag of what tells two versions of a thing apart: its id and version, or its bytes.
func ETag(parts ...any) string { return `"` + header.Digest(parts...) + `"` }

// Tag makes the entity tag of a thing that can be changed (Precondition): the version of what can be changed, a number or a Digest, and
// behind a dot what else the answer shows, if anything. So a caller has the thing anew when any of it differs, while a change is refused
// only for what the change may overwrite: stock that is sold spoils nobody's new title.
func Tag(version any, rest ...any) string {
	if len(rest) == 0 {
		return `"` + fmt.Sprint(version) + `"`
	}
	return `"` + fmt.Sprint(version) + "." + header.Digest(rest...) + `"`
}

// Digest is a version of what has no number of its own: a short name of all that can be changed of it.
func Digest(parts ...any) string { return header.Digest(parts...) }

// Precondition is embedded in the input of a handler that changes what others may be changing too. Where it is, a request without it is
// answered 428, unless its body says which version it is about: so that nobody overwrites what he has not seen.
type Precondition struct {
	IfMatch string `header:"If-Match" maxLength:"1000" doc:"Do it only while this is the thing's entity tag, of which what stands before a dot counts; * for whatever there is"`
}

// Seen returns a function that judges the version that stands, in the transaction of the change: nil when the caller has seen it, else an
// error that answers 412, or 428 when he does not say what he has seen. otherwise says that the body tells it.
func (p Precondition) Seen(otherwise bool) func(version any) error {
	return func(version any) error {
		switch {
		case p.IfMatch != "" && versionListed(p.IfMatch, fmt.Sprint(version)), p.IfMatch == "" && otherwise:
			return nil
		case p.IfMatch == "":
			return errNoPrecondition()
		}
		err := problem.Refuse(levee.CodeConflict, "header.If-Match", Tag(version), p.IfMatch, "it has been changed since it was read; read it again")
		return problem.With(err, http.StatusPreconditionFailed, nil)
	}
}

func errNoPrecondition() error {
	return problem.Refuse(levee.CodePreconditionRequired, "header.If-Match", "the entity tag of what was read, or *", "nothing",
		"say in If-Match which version you have seen: the ETag of the answer that you read")
}

func tagVersion(tag string) string {
	version, _, _ := strings.Cut(strings.Trim(tag, `"`), ".")
	return version
}

// versionListed reports whether a list of entity tags has one, not weak, whose part before the dot is version.
func versionListed(list, version string) (found bool) {
	header.Tags(list, func(tag string, weak bool) bool {
		found = tag == "*" || !weak && tagVersion(tag) == version
		return !found
	})
	return found
}

// Conditional is embedded in the input of a typed handler that answers conditional requests.
type Conditional struct {
	IfMatch     string `header:"If-Match" maxLength:"1000" doc:"Do it only while the thing's entity tag is one of these"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"1000" doc:"Answer 304 when the thing's entity tag is one of these"`
}

// NotModified returns an error that answers 304 with the tag when the caller has it already, else nil.
func (c Conditional) NotModified(etag string) error {
	if c.IfNoneMatch == "" || !header.Listed(c.IfNoneMatch, etag, true) {
		return nil
	}
	return problem.With(levee.E(levee.CodeConflict, "not modified"), http.StatusNotModified, http.Header{"Etag": {etag}})

}

// Match returns an error that answers 412 when the caller names tags in If-Match and etag is not among them, else nil: so that
// nobody overwrites what he has not seen.
func (c Conditional) Match(etag string) error {
	if c.IfMatch == "" || header.Listed(c.IfMatch, etag, false) {
		return nil
	}
	err := problem.Refuse(levee.CodeConflict, "header.If-Match", etag, c.IfMatch, "it has been changed since it was read; read it again")
	return problem.With(err, http.StatusPreconditionFailed, nil)
}

// NotModified sets the tag on a raw handler's answer, and answers 304 when the caller of a GET or HEAD has it already: true.
func NotModified(w http.ResponseWriter, r *http.Request, etag string) bool {
	w.Header()["Etag"] = []string{etag}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	for _, line := range r.Header["If-None-Match"] {
		if header.Listed(line, etag, true) {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}
