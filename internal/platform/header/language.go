package header

import "strings"

// Language returns which of the languages on offer the Accept-Language lines want most, by their weights and then by their order in the header
// (RFC 9110, 12.5.4; a range en takes en-GB, and a range zh-Hant-TW takes zh: rather the language in another script than another language).
// The first on offer is the usual one: it is returned when there is no header, when nothing on offer is wanted, and for *.
func Language(lines []string, offered ...string) string {
	if len(lines) == 0 {
		return offered[0]
	}
	best, most, seen := offered[0], 0.0, 0
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			if seen++; seen > maxRanges {
				return best
			}
			tag, params, weighed := strings.Cut(part, ";")
			q := 1.0
			if weighed {
				name, value, _ := strings.Cut(strings.Trim(params, " \t"), "=")
				var ok bool
				if q, ok = weight(strings.Trim(value, " \t")); !ok || strings.Trim(name, " \t") != "q" && strings.Trim(name, " \t") != "Q" {
					continue
				}
			}
			primary, _, _ := strings.Cut(strings.Trim(tag, " \t"), "-")
			for _, o := range offered {
				if q > most && (strings.EqualFold(primary, o) || primary == "*") {
					best, most = o, q
					break
				}
			}
		}
	}
	return best
}
