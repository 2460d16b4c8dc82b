// Package header reads what request headers say: which media types and languages a caller takes, which version of the API he
// means, which entity tags he knows.
//
// It owns no HTTP and no answer: it is given the lines of a header and says what stands in them.
package header

import (
	"mime"
	"strconv"
	"strings"
)

// maxRanges bounds the ranges of an Accept or Accept-Language header that are looked at.
const maxRanges = 32

// Acceptable reports whether the Accept header lines allow at least one of the media types (type/subtype, no parameters). No
// header, or one with nothing in it, allows all. Each type goes by its most specific range; q=0 forbids it. A range with the
// parameter version, other than version, is for another version of the API and allows nothing.
func Acceptable(lines []string, version string, types []string) bool {
	switch {
	case len(lines) == 0:
		return true
	case len(lines) == 1 && (lines[0] == "*/*" || lines[0] == "application/json" && len(types) > 0 && types[0] == "application/json"):
		return true
	}
	ranges, given := readAccept(lines)
	if len(ranges) == 0 {
		return !given
	}
	return matchAny(ranges, version, types)
}

// Versions lists the versions of the API that the Accept header lines ask for by the parameter version, most wanted first. It is
// empty when no range has one, and when another range takes any version: then the header does not decide.
func Versions(lines []string) (versions []string) {
	named := false
	for _, line := range lines {
		named = named || strings.Contains(line, "version")
	}
	if !named {
		return nil
	}
	ranges, _ := readAccept(lines)
	var best []mediaRange
	for _, m := range ranges {
		switch {
		case m.q == 0:
		case m.version == "":
			return nil
		default:
			i := len(best)
			for i > 0 && best[i-1].q < m.q {
				i--
			}
			best = append(best[:i], append([]mediaRange{m}, best[i:]...)...)
		}
	}
	for _, m := range best {
		versions = append(versions, m.version)
	}
	return versions
}

type mediaRange struct {
	major, minor, version string
	q                     float64
}

// readAccept reads the ranges that are well formed; given says whether anything stands in the lines at all.
func readAccept(lines []string) (ranges []mediaRange, given bool) {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.Trim(part, " \t")
			if part == "" {
				continue
			}
			given = true
			if len(ranges) == maxRanges {
				return ranges, true
			}
			if m, ok := parseRange(part); ok {
				ranges = append(ranges, m)
			}
		}
	}
	return ranges, given
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
	m := mediaRange{major, minor, params["version"], 1}
	if q, ok := params["q"]; ok {
		if m.q, ok = weight(q); !ok {
			return mediaRange{}, false
		}
	}
	return m, true
}

// weight reads the value of a parameter q: from 0 to 1.
func weight(s string) (float64, bool) {
	q, err := strconv.ParseFloat(s, 64)
	return q, err == nil && q >= 0 && q <= 1
}

func matchAny(ranges []mediaRange, version string, types []string) bool {
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
			if m.version != "" && m.version != version {
				m.q = 0
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

// MediaType is the media type of a Content-Type header without its parameters, lower case; "" when there is none, when it is broken, or when
// it names another encoding than UTF-8 for what has no other: JSON and forms.
func MediaType(contentType string) string {
	if contentType == "application/json" {
		return contentType
	}
	mt, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") && (IsJSON(mt) || mt == "application/x-www-form-urlencoded") {
		return ""
	}
	return mt
}

// IsJSON reports whether a media type is JSON by its name.
func IsJSON(mt string) bool {
	return mt == "application/json" || (strings.HasPrefix(mt, "application/") && strings.HasSuffix(mt, "+json"))
}
