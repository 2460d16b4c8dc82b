package web

import (
	"mime"
	"strconv"
	"strings"

	"levee"
)

// maxRanges bounds the media ranges of an Accept header that are looked at.
const maxRanges = 32

// acceptable reports whether the Accept header lines allow at least one of the media types (type/subtype, no parameters). No
// header, or one with nothing in it, allows all. Each type goes by its most specific range; q=0 forbids it. A range with the
// parameter version, other than 1, is for another version of the API and allows nothing.
func acceptable(lines []string, types []string) bool {
	switch {
	case len(lines) == 0:
		return true
	case len(lines) == 1 && (lines[0] == "*/*" || lines[0] == "application/json" && len(types) > 0 && types[0] == "application/json"):
		return true
	}
	var ranges []mediaRange
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.Trim(part, " \t")
			if part == "" {
				continue
			}
			if len(ranges) == maxRanges {
				return matchAny(ranges, types)
			}
			if m, ok := parseRange(part); ok {
				ranges = append(ranges, m)
			}
		}
	}
	if len(ranges) == 0 {
		return strings.Trim(strings.Join(lines, ""), " \t,") == ""
	}
	return matchAny(ranges, types)
}

type mediaRange struct {
	major, minor string
	q            float64
}

func parseRange(s string) (mediaRange, bool) {
	mt, params, err := mime.ParseMediaType(s)
	if err != nil {
		return mediaRange{}, false
	}
	major, minor, ok := strings.Cut(mt, "/")
	if !ok || major == "" || minor == "" || (major == "*" && minor != "*") {
		return mediaRange{}, false
	}
	m := mediaRange{major, minor, 1}
	if q, ok := params["q"]; ok {
		m.q, err = strconv.ParseFloat(q, 64)
		if err != nil || !(m.q >= 0 && m.q <= 1) {
			return mediaRange{}, false
		}
	}
	if v, ok := params["version"]; ok && v != apiVersion {
		m.q = 0
	}
	return m, true
}

func matchAny(ranges []mediaRange, types []string) bool {
	for _, t := range types {
		major, minor, _ := strings.Cut(t, "/")
		best, q := -1, 0.0
		for _, m := range ranges {
			rank := -1
			switch {
			case m.major == major && m.minor == minor:
				rank = 2
			case m.major == major && m.minor == "*":
				rank = 1
			case m.major == "*":
				rank = 0
			}
			if rank > best || (rank == best && rank >= 0 && m.q > q) {
				best, q = rank, m.q
			}
		}
		if best >= 0 && q > 0 {
			return true
		}
	}
	return false
}

func errNotAcceptable(lines, types []string) error {
	list := strings.Join(types, ", ")
	return refuse(levee.CodeNotAcceptable, "header.Accept", list, strings.Join(lines, ", "), "this is answered as %s, which Accept does not allow", list)
}

// mediaType is the media type of a Content-Type header without its parameters, lower case; "" when there is none or it is broken.
func mediaType(contentType string) string {
	if contentType == "application/json" {
		return contentType
	}
	mt, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") && (isJSON(mt) || mt == formType) {
		return "" // neither is ever anything else
	}
	return mt
}

func isJSON(mt string) bool {
	return mt == "application/json" || (strings.HasPrefix(mt, "application/") && strings.HasSuffix(mt, "+json"))
}

func errMedia(given string, allowed []string) error {
	list := strings.Join(allowed, ", ")
	given = levee.Shorten(strings.ToValidUTF8(given, "\uFFFD"), 80)
	return refuse(levee.CodeUnsupportedMedia, "header.Content-Type", list, given, "the body must be %s, got %q", list, given)
}
