package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"levee"
)

// What stands here keeps the server to what its document says, where the libraries below it would be more lenient.

// refuseNull refuses a null where the schema has another type. For huma, null is a field that was left out.
func (a *api) refuseNull(s *huma.Schema, data []byte) error {
	if !bytes.Contains(data, []byte("null")) {
		return nil
	}
	var v any
	if json.Unmarshal(data, &v) != nil {
		return nil // judged elsewhere
	}
	return a.refuseNullAt("body", s, v)
}

func (a *api) refuseNullAt(field string, s *huma.Schema, v any) error {
	if s != nil && s.Ref != "" {
		s = a.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref)
	}
	if s == nil || s.Type == "" {
		return nil
	}
	switch v := v.(type) {
	case nil:
		if !s.Nullable {
			return levee.Invalid(field, "of its type, or left out", "null")
		}
	case map[string]any:
		for name, x := range v {
			p := s.Properties[name]
			if p == nil {
				p, _ = s.AdditionalProperties.(*huma.Schema)
			}
			if err := a.refuseNullAt(field+"."+name, p, x); err != nil {
				return err
			}
		}
	case []any:
		for i, x := range v {
			if err := a.refuseNullAt(fmt.Sprintf("%s[%d]", field, i), s.Items, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// mustBeNamed panics where a body's type embeds a type that is not exported: it would be sent, but huma leaves it out of the document.
func mustBeNamed(op string, t reflect.Type, seen map[reflect.Type]bool) {
	for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map}, t.Kind()) {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return
	}
	seen[t] = true
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && !f.IsExported() && f.Type.Kind() == reflect.Struct && f.Tag.Get("json") == "" {
			panic(fmt.Sprintf("web: %s embeds %s in a body: the document would not know its fields. Embed an exported alias of it", op, f.Name))
		}
		if f.IsExported() {
			mustBeNamed(op, f.Type, seen)
		}
	}
}

// needsValue reports whether a query parameter of this schema cannot be empty: "?limit=" is no number.
func needsValue(s *huma.Schema) bool {
	switch {
	case s == nil || s.Type == huma.TypeArray:
		return false
	case s.Type != huma.TypeString || s.Format == "date-time" || s.MinLength != nil && *s.MinLength > 0:
		return true
	case len(s.Enum) > 0:
		return !slices.Contains(s.Enum, any(""))
	case s.Pattern != "":
		ok, err := regexp.MatchString(s.Pattern, "")
		return err == nil && !ok
	}
	return false
}

// locations are what a refused field's name begins with.
var locations = []string{"body", "query", "path", "header", "cookie", "method"}

// locate says where a refused field stands, for rules that know its name only: code of a body that has one is body.code.
func (rt *route) locate(field string) string {
	root := func(f string) string { return f[:len(f)-len(strings.TrimLeft(f, "abcdefghijklmnopqrstuvwxyz_"))] }
	if rt == nil || slices.Contains(locations, root(field)) {
		return field
	}
	for _, f := range []string{field, field[strings.IndexByte(field, '.')+1:]} { // schedule.kind is what its room calls the body's kind
		name := root(f)
		if rt.shape != nil {
			if _, ok := rt.shape.Field([]byte(name)); ok {
				return "body." + f
			}
		}
		if _, ok := rt.query[name]; ok {
			return "query." + f
		}
		if slices.Contains(pathParams(rt.Path), name) {
			return "path." + f
		}
	}
	return field
}

// keepToPaths refuses, on a path of its own, the methods that only another path with a parameter in its place has: without it DELETE
// /v1/products/export would delete the product "export", and Allow would list it.
func (s *Server) keepToPaths() {
	for _, rt := range slices.Clone(s.routes) {
		path := rt.Path
		for _, name := range pathParams(path) {
			path = strings.ReplaceAll(strings.ReplaceAll(path, "{"+name+"}", "x"), "{"+name+"...}", "x")
		}
		for _, m := range methods {
			own := m + " " + rt.Path
			_, pattern := s.mux.Handler(&http.Request{Method: m, URL: &url.URL{Path: path}})
			if pattern == "" || pattern == own || s.refused[own] || m == http.MethodHead {
				continue
			}
			s.refused[own] = true
			s.mux.HandleFunc(own, s.fallback)
		}
	}
}
