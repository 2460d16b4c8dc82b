// Package body knows what a request's body may look like: JSON and forms, against the shape of the Go type that will be filled.
//
// It owns no HTTP: it is given bytes and says what is wrong with them, in words that name the field, what is allowed and what was given.
package body

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/obs"
)

// MaxDepth is how deep a body may nest: ours nest 4 deep, and each level costs stack in every reader.
const MaxDepth = 64

// Check reads a body once and refuses what encoding/json lets pass: a key given twice, keys in another case, unknown keys,
// what stands after the value, broken UTF-8, lone surrogates, deep nesting. With a shape it checks types and ranges too; nil
// takes any value. Broken JSON and a key given twice are CodeMalformed, the rest CodeInvalid. Each error names the field.
func Check(data []byte, want *Shape) error {
	s := scanners.Get().(*scanner) //nolint:errcheck // the pool holds nothing else
	s.data, s.pos, s.path, s.keys = data, 0, s.path[:0], s.keys[:0]
	err := s.document(want)
	if s.data = nil; err == nil && cap(s.keys) <= 64 { // a pooled one holds little of the bodies it has seen
		scanners.Put(s)
	}
	return err
}

var scanners = sync.Pool{New: func() any { return &scanner{path: make([]step, 0, MaxDepth), keys: make([][]byte, 0, 32)} }}

type scanner struct {
	data []byte
	pos  int
	path []step
	keys [][]byte // of the objects that are open, innermost last
}

// step is one key or index on the way to where the scanner is.
type step struct {
	key   []byte
	index int // -1 for a key
}

// where is the path of the value that is being read.
func (s *scanner) where() string {
	var b strings.Builder
	b.WriteString("body")
	for _, st := range s.path {
		if st.index >= 0 {
			fmt.Fprintf(&b, "[%d]", st.index)
		} else {
			b.WriteByte('.')
			b.WriteString(levee.Shorten(strings.ToValidUTF8(string(st.key), "\uFFFD"), 60))
		}
	}
	return b.String()
}

func (s *scanner) broken(expected string) error {
	given := "the end"
	if s.pos < len(s.data) {
		given = strings.ToValidUTF8(string(s.data[s.pos:min(s.pos+12, len(s.data))]), "\uFFFD")
	}
	at := s.where()
	return refuse(levee.CodeMalformed, at, expected, given, "the body is not JSON at byte %d (%s): expected %s, got %q", s.pos, at, expected, given)
}

func (s *scanner) invalid(allowed string, given []byte) error {
	return invalidAt(s.where(), allowed, string(given))
}

// invalidAt is levee.Invalid, but does not repeat what is secret.
func invalidAt(field, allowed, given string) error {
	return levee.Invalid(field, allowed, Showable(field, given))
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) document(want *Shape) error {
	s.space()
	if s.pos == len(s.data) {
		return refuse(levee.CodeMalformed, "body", "JSON", "", "the body is empty; it must be JSON")
	}
	if err := s.value(want); err != nil {
		return err
	}
	s.space()
	if s.pos < len(s.data) {
		return s.broken("nothing after the value")
	}
	return nil
}

func (s *scanner) value(want *Shape) error {
	if s.pos == len(s.data) {
		return s.broken("a value")
	}
	from := s.pos
	switch c := s.data[s.pos]; {
	case c == '{':
		if want != nil && !want.takes(kindObject) {
			return s.invalid(want.allowed(), []byte("an object"))
		}
		return s.object(want)
	case c == '[':
		if want != nil && !want.takes(kindArray) {
			return s.invalid(want.allowed(), []byte("a list"))
		}
		return s.array(want)
	case c == '"':
		raw, plain, err := s.str()
		if err != nil {
			return err
		}
		if want != nil {
			return s.checkString(want, raw, plain)
		}
		return nil
	case c == '-' || '0' <= c && c <= '9':
		if err := s.number(); err != nil {
			return err
		}
		return s.checkNumber(want, s.data[from:s.pos])
	case c == 't':
		return s.literal("true", want, kindBool)
	case c == 'f':
		return s.literal("false", want, kindBool)
	case c == 'n':
		return s.literal("null", want, kindNull)
	}
	return s.broken("a value")
}

func (s *scanner) literal(word string, want *Shape, is kind) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return s.broken("a value")
	}
	s.pos += len(word)
	if want != nil && !want.takes(is) {
		return s.invalid(want.allowed(), []byte(word))
	}
	return nil
}

func (s *scanner) object(want *Shape) error {
	if len(s.path) == MaxDepth {
		return s.tooDeep()
	}
	first := len(s.keys)
	var many map[string]bool // takes over from the list when there are many keys
	s.pos++
	s.space()
	if s.pos < len(s.data) && s.data[s.pos] == '}' {
		s.pos++
		return nil
	}
	for {
		if s.pos == len(s.data) || s.data[s.pos] != '"' {
			return s.broken("a key in double quotes")
		}
		raw, plain, err := s.str()
		if err != nil {
			return err
		}
		key := raw
		if !plain {
			key = unescape(raw)
		}
		s.path = append(s.path, step{key, -1})
		if seen(s.keys[first:], many, key) {
			return refuse(levee.CodeMalformed, s.where(), "once", "twice", "%s is given twice", s.where())
		}
		switch {
		case many != nil:
			many[string(key)] = true
		case len(s.keys)-first < 16:
			s.keys = append(s.keys, key)
		default:
			many = map[string]bool{string(key): true}
			for _, k := range s.keys[first:] {
				many[string(k)] = true
			}
		}
		child, known := want.Field(key)
		if !known {
			return s.invalid("one of the known fields: "+want.Names(), key)
		}
		s.space()
		if s.pos == len(s.data) || s.data[s.pos] != ':' {
			return s.broken("a colon")
		}
		s.pos++
		s.space()
		if err := s.value(child); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
		s.space()
		switch {
		case s.pos < len(s.data) && s.data[s.pos] == ',':
			s.pos++
			s.space()
		case s.pos < len(s.data) && s.data[s.pos] == '}':
			s.pos++
			s.keys = s.keys[:first]
			return nil
		default:
			return s.broken("a comma or }")
		}
	}
}

func seen(list [][]byte, many map[string]bool, key []byte) bool {
	if many != nil {
		return many[string(key)]
	}
	for _, k := range list {
		if bytes.Equal(k, key) {
			return true
		}
	}
	return false
}

func (s *scanner) array(want *Shape) error {
	if len(s.path) == MaxDepth {
		return s.tooDeep()
	}
	s.pos++
	s.space()
	if s.pos < len(s.data) && s.data[s.pos] == ']' {
		s.pos++
		return nil
	}
	child := want.Item()
	for i := 0; ; i++ {
		s.path = append(s.path, step{nil, i})
		if err := s.value(child); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
		s.space()
		switch {
		case s.pos < len(s.data) && s.data[s.pos] == ',':
			s.pos++
			s.space()
		case s.pos < len(s.data) && s.data[s.pos] == ']':
			s.pos++
			return nil
		default:
			return s.broken("a comma or ]")
		}
	}
}

func (s *scanner) tooDeep() error {
	return refuse(levee.CodeMalformed, "body", fmt.Sprintf("at most %d levels", MaxDepth), "more", "the body nests more than %d deep", MaxDepth)
}

// str reads a string and returns what stands between its quotes, and whether that holds no escapes.
func (s *scanner) str() (raw []byte, plain bool, err error) {
	s.pos++
	from := s.pos
	plain = true
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			raw = s.data[from:s.pos]
			s.pos++
			return raw, plain, nil
		case c == '\\':
			plain = false
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, s.broken("no control character in a string")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			r, n := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && n == 1 {
				return nil, false, s.broken("valid UTF-8")
			}
			s.pos += n
		}
	}
	return nil, false, s.broken("the end of a string")
}

func (s *scanner) escape() error {
	if s.pos+1 >= len(s.data) {
		s.pos = len(s.data)
		return s.broken("the end of a string")
	}
	switch s.data[s.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	case 'u':
		r, ok := hex4(s.data[s.pos:])
		if !ok {
			return s.broken(`four hexadecimal digits after \u`)
		}
		if !utf16.IsSurrogate(r) {
			s.pos += 6
			return nil
		}
		low, ok := hex4(s.data[min(s.pos+6, len(s.data)):])
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return s.broken("both halves of a surrogate pair")
		}
		s.pos += 12
		return nil
	}
	return s.broken("an escape that JSON knows")
}

// hex4 reads \uXXXX at the start of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 32)
	return rune(n), err == nil
}

// unescape resolves the escapes of a string that str has passed.
func unescape(raw []byte) []byte {
	var s string
	_ = json.Unmarshal(append(append([]byte(`"`), raw...), '"'), &s) // has been checked
	return []byte(s)
}

// digits skips digits and reports whether there was at least one.
func (s *scanner) digits() bool {
	from := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > from
}

func (s *scanner) number() error {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.data) && s.data[s.pos] == '0' {
		s.pos++
	} else if !s.digits() {
		return s.broken("a digit")
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		s.pos++
		if !s.digits() {
			return s.broken("a digit")
		}
	}
	if s.pos < len(s.data) && (s.data[s.pos] == 'e' || s.data[s.pos] == 'E') {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		if !s.digits() {
			return s.broken("a digit")
		}
	}
	return nil
}

func (s *scanner) checkNumber(want *Shape, text []byte) error {
	if want != nil && !want.takes(kindNumber) {
		return s.invalid(want.allowed(), text)
	}
	switch {
	case want == nil || want.kind == kindAny || want.kind == kindNumber:
		if len(text) > 18 || bytes.ContainsAny(text, "eE") { // shorter ones always fit
			if _, err := strconv.ParseFloat(string(text), want.floatBits()); err != nil {
				return s.invalid("a number that fits into 64 bits", text)
			}
		}
	case want.kind == kindInt:
		if _, err := strconv.ParseInt(string(text), 10, want.bits); err != nil {
			return s.invalid(want.allowed(), text)
		}
	case want.kind == kindUint:
		if _, err := strconv.ParseUint(string(text), 10, want.bits); err != nil {
			return s.invalid(want.allowed(), text)
		}
	}
	return nil
}

func (s *scanner) checkString(want *Shape, raw []byte, plain bool) error {
	if !want.takes(kindString) {
		return s.invalid(want.allowed(), append(append([]byte(`"`), raw...), '"'))
	}
	if want.kind != kindBytes && want.kind != kindTime {
		return nil
	}
	if !plain {
		raw = unescape(raw)
	}
	var err error
	if want.kind == kindTime {
		_, err = time.Parse(time.RFC3339, string(raw))
	} else {
		_, err = base64.StdEncoding.DecodeString(string(raw))
	}
	if err != nil {
		return s.invalid(want.allowed(), raw)
	}
	return nil
}

// refuse makes an error about one field.
func refuse(code levee.Code, field, allowed, given, format string, args ...any) *levee.Error {
	e := levee.E(code, format, args...)
	e.Fields = []levee.Field{{Field: field, Allowed: allowed, Given: given}}
	return e
}

// Showable keeps secrets out of answers, which end up in other people's logs.
func Showable(field, given string) string {
	last := field[strings.LastIndexByte(field, '.')+1:]
	if i := strings.IndexByte(last, '['); i >= 0 {
		last = last[:i]
	}
	if given != "" && obs.Redact(last) {
		return "[redacted]"
	}
	return levee.Shorten(strings.ToValidUTF8(given, "\uFFFD"), 80)
}
