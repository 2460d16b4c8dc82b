package web

import (
	"slices"
	"strings"

	"levee"
	"levee/internal/platform/header"
	"levee/internal/platform/patch"
	"levee/internal/platform/problem"
)

func errNotAcceptable(lines, types []string) error {
	list := strings.Join(types, ", ")
	return problem.Refuse(levee.CodeNotAcceptable, "header.Accept", list, strings.Join(lines, ", "), "this is answered as %s, which Accept does not allow", list)
}

func errMedia(given string, allowed []string) error {
	list := strings.Join(allowed, ", ")
	given = levee.Shorten(strings.ToValidUTF8(given, "\uFFFD"), 80)
	return problem.Refuse(levee.CodeUnsupportedMedia, "header.Content-Type", list, given, "the body must be %s, got %q", list, given)
}

// takes reports whether the body may be of this media type. Every kind of JSON is JSON, but a patch is only what says how another
// document changes.
func (rt *route) takes(mt string) bool {
	return slices.Contains(rt.consumes, mt) ||
		header.IsJSON(mt) && mt != patch.MergeType && mt != patch.JSONType && slices.Contains(rt.consumes, "application/json")
}
