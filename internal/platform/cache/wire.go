package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"levee"
)

// What stands in Redis under a key: version, kind, soft end, shape of the type, and the value as JSON.
//
//	0000000000000000005V1763720000000c0ffee00{"Title":"Kettle"}
//
// The version comes first and has a fixed length, so that scripts compare it as text: a Lua number holds 53 bits.
const (
	versionDigits = 19
	softDigits    = 13
	shapeDigits   = 8
	headLength    = versionDigits + 1 + softDigits + shapeDigits
)

// kinds of what is stored.
const (
	kindValue     = 'V'
	kindAbsent    = 'N' // there is no such thing
	kindTombstone = 'T' // changed to this version; whoever wants the value loads it
)

// stored is a text of Redis taken apart.
type stored struct {
	kind    byte // 0: nothing is there
	version int64
	soft    time.Time // after it the value is loaded anew in the background
	shape   string
	body    string
}

func (s stored) String() string {
	soft := min(max(s.soft.UnixMilli(), 0), 9_999_999_999_999)
	return fmt.Sprintf("%019d%c%013d%s%s", s.version, s.kind, soft, s.shape, s.body)
}

// parseStored takes a text apart. What it does not understand counts as nothing.
func parseStored(text string) stored {
	if len(text) < headLength {
		return stored{}
	}
	version, err := strconv.ParseInt(text[:versionDigits], 10, 64)
	if err != nil || version < 0 {
		return stored{}
	}
	rest := text[versionDigits+1:]
	soft, err := strconv.ParseInt(rest[:softDigits], 10, 64)
	if err != nil {
		return stored{}
	}
	return stored{
		kind: text[versionDigits], version: version, soft: time.UnixMilli(soft),
		shape: rest[softDigits : softDigits+shapeDigits], body: rest[softDigits+shapeDigits:],
	}
}

// absence is a CodeNotFound as it is stored. The cause is for one log only and stays behind.
type absence struct {
	Message string
	Fields  []levee.Field  `json:",omitempty"`
	Data    map[string]any `json:",omitempty"`
}

// codec turns keys and values into text and back.
type codec[K comparable, V any] struct{ shape string }

// newCodec panics when K or V would not come back from JSON as they went: that is a bug of whoever chose the type.
func newCodec[K comparable, V any]() codec[K, V] {
	k, v := reflect.TypeFor[K](), reflect.TypeFor[V]()
	var text strings.Builder
	for _, t := range []reflect.Type{k, v} {
		if err := survives(t, &text, nil); err != nil {
			panic(fmt.Sprintf("cache: %v cannot be kept in Redis: %v", t, err))
		}
	}
	var key strings.Builder
	if _ = survives(k, &key, nil); strings.Contains(key.String(), "float") {
		panic(fmt.Sprintf("cache: %v is no key: a number that is none (NaN) is not equal to itself", k))
	}
	sum := sha256.Sum256([]byte(text.String()))
	return codec[K, V]{shape: hex.EncodeToString(sum[:shapeDigits/2])}
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// survives writes a type's shape and returns why its values would lose something on their way through JSON, if they would.
func survives(t reflect.Type, shape *strings.Builder, above []reflect.Type) error {
	for _, a := range above {
		if a == t {
			shape.WriteString("recursive ")
			return nil
		}
	}
	above = append(above, t)
	if t.Implements(marshaler) {
		shape.WriteString(t.String() + " ")
		return nil
	}
	shape.WriteString(t.Kind().String() + " ")
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return survives(t.Elem(), shape, above)
	case reflect.Map:
		if err := survives(t.Key(), shape, above); err != nil {
			return err
		}
		return survives(t.Elem(), shape, above)
	case reflect.Struct:
		for f := range t.Fields() {
			tag := f.Tag.Get("json")
			if !f.IsExported() || tag == "-" {
				return fmt.Errorf("field %s of %v is not written", f.Name, t)
			}
			shape.WriteString(f.Name + "/" + tag + ":")
			if err := survives(f.Type, shape, above); err != nil {
				return err
			}
		}
		shape.WriteString("; ")
	case reflect.Interface, reflect.Func, reflect.Chan, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Uintptr:
		return fmt.Errorf("%v has no text of its own", t)
	}
	return nil
}

// keyMost is the longest text of a key. It goes to all nodes with each change.
const keyMost = 8 << 10

// mangled is how JSON writes what is no UTF-8. It stands for many different bytes, so keys with it would be taken for each other.
const mangled = `\ufffd`

// key writes a key as text, no two keys alike. A string that is no UTF-8 becomes x and its bytes in hexadecimal.
func (c codec[K, V]) key(k K) (string, error) {
	raw, err := json.Marshal(k)
	text := string(raw)
	if err == nil && strings.Contains(text, mangled) {
		if s := reflect.ValueOf(k); s.Kind() == reflect.String {
			text = "x" + hex.EncodeToString([]byte(s.String()))
		} else if back, e := c.parseKey(text); e != nil || back != k {
			err = errors.New("it holds what is no UTF-8")
		}
	}
	if err != nil {
		return "", levee.Invalid("key", "what JSON brings back whole", "another one").Because(err)
	}
	if len(text) > keyMost {
		return "", levee.Invalid("key", "up to 8192 bytes as JSON", strconv.Itoa(len(text))+" bytes")
	}
	return text, nil
}

func (codec[K, V]) parseKey(text string) (k K, err error) {
	if raw, ok := strings.CutPrefix(text, "x"); ok {
		bytes, err := hex.DecodeString(raw)
		if v := reflect.ValueOf(&k).Elem(); err == nil && v.Kind() == reflect.String {
			v.SetString(string(bytes))
		}
		return k, err
	}
	err = json.Unmarshal([]byte(text), &k)
	return k, err
}

// nameMost is the longest name of a cache.
const nameMost = 64

// isName reports whether a text may be a cache's name: it stands in metrics and in the names of keys.
func isName(s string) bool {
	return s != "" && len(s) <= nameMost && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.:/, ", r))
	}) < 0
}

// named makes a name of any text, no two alike.
func named(s string) string {
	if isName(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "name-" + hex.EncodeToString(sum[:8])
}

// write makes what is stored of a copy.
func (c codec[K, V]) write(e *versioned[V], soft time.Time) (stored, error) {
	s := stored{kind: kindValue, version: e.version, soft: soft, shape: c.shape}
	var body any = e.value
	if e.absent != nil {
		s.kind, body = kindAbsent, absence{e.absent.Message, e.absent.Fields, e.absent.Data}
	}
	text, err := json.Marshal(body)
	s.body = string(text)
	return s, err
}

// read makes a copy of what is stored; ok is false when there is no value of this build's shape.
func (c codec[K, V]) read(s stored) (e versioned[V], ok bool) {
	e.version = s.version
	switch {
	case s.kind == kindValue && s.shape == c.shape:
		return e, json.Unmarshal([]byte(s.body), &e.value) == nil
	case s.kind == kindAbsent:
		var a absence
		if json.Unmarshal([]byte(s.body), &a) != nil {
			return e, false
		}
		e.absent = &levee.Error{Code: levee.CodeNotFound, Message: a.Message, Fields: a.Fields, Data: a.Data}
		return e, true
	}
	return e, false
}

// short returns a key's text when it is short enough for a key in Redis, else its digest.
func short(text string) string {
	if len(text) <= 200 && !strings.ContainsAny(text, "{}") {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "#" + hex.EncodeToString(sum[:16])
}
