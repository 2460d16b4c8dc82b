package body

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"

	"levee"
)

// Formable reports whether a body of this shape can also be sent as a form: an object of plain values and lists of them.
func (s *Shape) Formable() bool {
	if s == nil || s.kind != kindObject || s.fields == nil {
		return false
	}
	for _, f := range s.fields {
		if f.kind == kindArray {
			f = f.elem
		}
		switch f.kind {
		case kindBool, kindNumber, kindInt, kindUint, kindString, kindTime:
		default:
			return false
		}
	}
	return true
}

// FromForm turns a form in buf into the JSON that means the same for a body of this shape: numbers and truth values by the
// field's type, repeated names as a list. A name given twice for a single value is refused, as is an unknown one.
func FromForm(buf *bytes.Buffer, want *Shape) error {
	form, err := url.ParseQuery(buf.String())
	if err != nil {
		return refuse(levee.CodeMalformed, "body", "name=value&name=value, percent-encoded", "", "the body is not a well formed form").Because(err)
	}
	out, err := fromValues(form, want)
	if err != nil {
		return err
	}
	buf.Reset()
	buf.Write(out)
	return nil
}

// fromValues writes fields of a form as the JSON that means the same for a body of this shape.
func fromValues(form url.Values, want *Shape) (out []byte, err error) {
	out = append(make([]byte, 0, 256), '{')
	for _, name := range slices.Sorted(maps.Keys(form)) {
		field := "body." + levee.Shorten(strings.ToValidUTF8(name, "\uFFFD"), 60)
		f, known := want.Field([]byte(name))
		values := form[name]
		switch {
		case !known:
			return nil, levee.Invalid(field, "one of the known fields: "+want.Names(), name)
		case f.kind != kindArray && len(values) > 1:
			return nil, refuse(levee.CodeMalformed, field, "once", "twice", "%s is given twice", field)
		case f.kind != kindArray && values[0] == "" && f.kind != kindString:
			continue // what a browser sends for an input that was left empty
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = appendString(out, name)
		out = append(out, ':')
		item := f
		if f.kind == kindArray {
			item = f.elem
			out = append(out, '[')
		}
		for i, v := range values {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendPlain(out, field, item, v); err != nil {
				return nil, err
			}
		}
		if f.kind == kindArray {
			out = append(out, ']')
		}
	}
	return append(out, '}'), nil
}

func appendPlain(out []byte, field string, want *Shape, v string) ([]byte, error) {
	switch want.kind {
	case kindBool:
		switch v {
		case "true", "on": // "on" is what a checkbox sends
			return append(out, "true"...), nil
		case "false":
			return append(out, "false"...), nil
		}
		return nil, invalidAt(field, want.allowed(), v)
	case kindInt, kindUint, kindNumber:
		if err := Check([]byte(v), want); err != nil || strings.TrimSpace(v) != v {
			return nil, invalidAt(field, want.allowed(), v)
		}
		return append(out, v...), nil
	}
	return appendString(out, v), nil
}

func appendString(out []byte, s string) []byte {
	b, _ := json.Marshal(strings.ToValidUTF8(s, "\uFFFD")) // a string never fails
	return append(out, b...)
}
