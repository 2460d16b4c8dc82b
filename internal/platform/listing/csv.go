package listing

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// column is one column of an export: a part of the view that is no struct itself.
type column struct {
	name string // price.amount
	top  string // price: as fields= names it
	path []int  // of reflect, through embedded structs and pointers
}

var timeType = reflect.TypeFor[time.Time]()

// columnsOf lists the parts of a view as its JSON names them. Fields that JSON does not show are not among them.
func columnsOf(t reflect.Type) (list []column) {
	var walk func(t reflect.Type, prefix, top string, path []int)
	walk = func(t reflect.Type, prefix, top string, path []int) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" || !f.IsExported() && !f.Anonymous {
				continue
			}
			inner := f.Type
			for inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			at := append(append([]int{}, path...), i)
			if f.Anonymous && name == "" && inner.Kind() == reflect.Struct {
				walk(inner, prefix, top, at)
				continue
			}
			if name == "" {
				name = f.Name
			}
			of := top
			if of == "" {
				of = name
			}
			if inner.Kind() == reflect.Struct && inner != timeType && !inner.Implements(reflect.TypeFor[json.Marshaler]()) {
				walk(inner, prefix+name+".", of, at)
				continue
			}
			list = append(list, column{prefix + name, of, at})
		}
	}
	walk(t, "", "", nil)
	return list
}

// cell is the text of one part of a row: nothing for what is absent, JSON for what is a list.
func (c column) cell(row reflect.Value) (string, error) {
	v := row
	for _, i := range c.path {
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return "", nil
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return "", nil
		}
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		return calm(v.String()), nil
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10), nil
	case reflect.Float32, reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'f', -1, 64), nil
	}
	if t, ok := v.Interface().(time.Time); ok {
		return t.UTC().Format(time.RFC3339Nano), nil
	}
	text, err := json.Marshal(v.Interface())
	if err != nil {
		return "", fmt.Errorf("column %s: %w", c.name, err)
	}
	return calm(string(text)), nil
}

// calm puts an apostrophe before text that a spreadsheet would run as a formula: the characters of OWASP's "CSV Injection", their full-width
// forms, and those behind spaces that a spreadsheet takes away.
func calm(s string) string {
	inner := strings.TrimLeftFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
	})
	r, _ := utf8.DecodeRuneInString(inner)
	if strings.ContainsRune("=+-@|%＝＋－＠｜％", r) && inner != "" || s != "" && strings.ContainsRune("\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}
