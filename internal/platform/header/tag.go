package header

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// Digest is a short name of what the parts hold together: 20 characters that stand in an entity tag as they are. Bytes count as bytes, all
// else as fmt.Sprint writes it.
func Digest(parts ...any) string {
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
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:15])
}

// Tags calls yield with each entity tag of a list (RFC 9110, 8.8.3), its quotes included and W/ taken off, until yield returns false. It
// stops at what is no tag. The list "*" has one tag: *.
func Tags(list string, yield func(tag string, weak bool) bool) {
	if strings.Trim(list, " \t") == "*" {
		yield("*", false)
		return
	}
	for rest := list; ; {
		rest = strings.TrimLeft(rest, " \t,")
		weak := strings.HasPrefix(rest, "W/")
		tag := strings.TrimPrefix(rest, "W/")
		if len(tag) < 2 || tag[0] != '"' {
			return
		}
		end := strings.IndexByte(tag[1:], '"')
		if end < 0 || !yield(tag[:end+2], weak) {
			return
		}
		rest = tag[end+2:]
	}
}

// Listed reports whether a list of entity tags holds etag; weak also when either is weak.
func Listed(list, etag string, weak bool) (found bool) {
	strong := strings.TrimPrefix(etag, "W/")
	Tags(list, func(tag string, isWeak bool) bool {
		found = tag == "*" || tag == strong && (weak || !isWeak && strong == etag)
		return !found
	})
	return found
}

// Idempotency reads the value of an Idempotency-Key: 1 to 128 visible ASCII characters, bare or as an sf-string (RFC 9651), as the draft of
// the header has it; both mean the same key.
func Idempotency(v string) (string, bool) {
	v = strings.Trim(v, " \t")
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		var b strings.Builder
		inner := v[1 : len(v)-1]
		for i := 0; i < len(inner); i++ {
			c := inner[i]
			if c == '"' {
				return "", false
			}
			if c == '\\' {
				if i++; i == len(inner) || (inner[i] != '"' && inner[i] != '\\') {
					return "", false
				}
				c = inner[i]
			}
			b.WriteByte(c)
		}
		v = b.String()
	}
	if len(v) == 0 || len(v) > IdempotencyMax {
		return "", false
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] > '~' {
			return "", false
		}
	}
	return v, true
}

// IdempotencyMax is the most characters of an Idempotency-Key.
const IdempotencyMax = 128
