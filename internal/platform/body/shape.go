package body

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// kind is what a JSON value is, or what may stand in a place.
type kind uint8

const (
	kindAny kind = iota
	kindNull
	kindBool
	kindNumber
	kindInt
	kindUint
	kindString
	kindBytes
	kindTime
	kindArray
	kindObject
)

// Shape says what may stand in a place, as encoding/json would fill the Go type that it was made from.
type Shape struct {
	kind     kind
	bits     int               // of a number
	nullable bool              // null is fine
	fields   map[string]*Shape // of a struct; nil for a map
	elem     *Shape            // of a list or a map
}

var (
	shapesMu  sync.RWMutex // guards shapes
	shapes    = map[reflect.Type]*Shape{}
	shapeFrom = struct{ json, text, time reflect.Type }{
		reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](), reflect.TypeFor[time.Time](),
	}
)

// Of returns the shape of a type. It is made once.
func Of(t reflect.Type) *Shape {
	shapesMu.RLock()
	s := shapes[t]
	shapesMu.RUnlock()
	if s != nil {
		return s
	}
	building := map[reflect.Type]*Shape{}
	s = buildShape(t, building)
	shapesMu.Lock() // published when whole: a recursive type's shape is seen by nobody before
	defer shapesMu.Unlock()
	if there := shapes[t]; there != nil {
		return there
	}
	shapes[t] = s
	return s
}

func buildShape(t reflect.Type, building map[reflect.Type]*Shape) *Shape {
	if s := building[t]; s != nil {
		return s
	}
	s := &Shape{}
	building[t] = s
	p := reflect.PointerTo(t)
	switch {
	case t.Kind() == reflect.Pointer:
		*s = *buildShape(t.Elem(), building) // of a struct still being built too: its map is shared and fills later
		s.nullable = true
		return s
	case t == shapeFrom.time:
		s.kind = kindTime
		return s
	case t.Implements(shapeFrom.json), p.Implements(shapeFrom.json):
		s.kind, s.nullable = kindAny, true
		return s
	case t.Implements(shapeFrom.text), p.Implements(shapeFrom.text):
		s.kind = kindString
		return s
	}
	switch t.Kind() {
	case reflect.Bool:
		s.kind = kindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.kind, s.bits = kindInt, t.Bits()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		s.kind, s.bits = kindUint, t.Bits()
	case reflect.Float32, reflect.Float64:
		s.kind, s.bits = kindNumber, t.Bits()
	case reflect.String:
		s.kind = kindString
	case reflect.Slice:
		s.nullable = true
		if t.Elem().Kind() == reflect.Uint8 {
			s.kind = kindBytes
			break
		}
		s.kind, s.elem = kindArray, buildShape(t.Elem(), building)
	case reflect.Array:
		s.kind, s.elem = kindArray, buildShape(t.Elem(), building)
	case reflect.Map:
		s.kind, s.nullable, s.elem = kindObject, true, buildShape(t.Elem(), building)
	case reflect.Struct:
		s.kind, s.fields = kindObject, map[string]*Shape{}
		addFields(s.fields, t, building)
	default: // interfaces take anything; what encoding/json cannot fill it refuses itself
		s.kind, s.nullable = kindAny, true
	}
	return s
}

// addFields adds the JSON fields of a struct; an embedded struct's fields give way to those outside it.
func addFields(fields map[string]*Shape, t reflect.Type, building map[reflect.Type]*Shape) {
	var embedded []reflect.Type
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			et := f.Type
			if et.Kind() == reflect.Pointer {
				et = et.Elem()
			}
			if et.Kind() == reflect.Struct {
				embedded = append(embedded, et)
				continue
			}
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if slices.Contains(strings.Split(options, ","), "string") {
			fields[name] = &Shape{kind: kindAny, nullable: true} // a number in quotes; encoding/json checks it
			continue
		}
		fields[name] = buildShape(f.Type, building)
	}
	for _, et := range embedded {
		inner := map[string]*Shape{}
		addFields(inner, et, building)
		for name, s := range inner {
			if fields[name] == nil {
				fields[name] = s
			}
		}
	}
}

// takes reports whether a value of this kind may stand here. Ranges are checked apart.
func (s *Shape) takes(k kind) bool {
	switch {
	case s.kind == kindAny:
		return true
	case k == kindNull:
		return s.nullable
	case k == kindNumber:
		return s.kind == kindNumber || s.kind == kindInt || s.kind == kindUint
	case k == kindString:
		return s.kind == kindString || s.kind == kindBytes || s.kind == kindTime
	}
	return s.kind == k
}

// Field returns the shape of an object's field and whether there may be such a field.
func (s *Shape) Field(key []byte) (*Shape, bool) {
	if s == nil || s.kind != kindObject {
		return nil, true
	}
	if s.fields == nil {
		return s.elem, true
	}
	child, ok := s.fields[string(key)]
	return child, ok
}

func (s *Shape) Item() *Shape {
	if s == nil {
		return nil
	}
	return s.elem
}

func (s *Shape) Names() string {
	if len(s.fields) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(s.fields)), ", ")
}

func (s *Shape) floatBits() int {
	if s == nil || s.bits == 0 {
		return 64
	}
	return s.bits
}

// TimeForm tells people how a time is written.
const TimeForm = "a time such as 2026-01-31T18:00:00Z (RFC 3339)"

// allowed says in words what may stand here.
func (s *Shape) allowed() string {
	switch s.kind {
	case kindBool:
		return "true or false"
	case kindNumber:
		return "a number"
	case kindInt:
		return fmt.Sprintf("an integer from %d to %d", int64(math.MinInt64)>>(64-s.bits), int64(math.MaxInt64)>>(64-s.bits))
	case kindUint:
		return fmt.Sprintf("an integer from 0 to %d", uint64(math.MaxUint64)>>(64-s.bits))
	case kindString:
		return "a string"
	case kindBytes:
		return "a string in base64"
	case kindTime:
		return TimeForm
	case kindArray:
		return "a list"
	case kindObject:
		return "an object"
	}
	return "any value"
}

// Zero is the JSON of what stands in a place from which the value was taken away: nothing of its kind. False: there is no such value, because an
// object lacks what it needs.
func (s *Shape) Zero() (string, bool) {
	switch s.kind {
	case kindBool:
		return "false", true
	case kindNumber, kindInt, kindUint:
		return "0", true
	case kindString, kindBytes:
		return `""`, true
	case kindArray:
		return "[]", true
	case kindAny:
		return "null", true
	}
	return "", false
}
