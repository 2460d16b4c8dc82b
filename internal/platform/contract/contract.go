// Package contract holds what a house answers against the OpenAPI document that it serves.
//
// It owns the reading of the document (operations, parameters, schemas) and the judgement of an answer: whether its status, media
// type, headers and body are what the document says. The checks bear the names that schemathesis gave them, so that the findings of
// both can be laid side by side. It is for tests: it owns no request, and knows nothing of what an operation does.
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"levee"
)

// Document is an OpenAPI 3.1 document, read. It may be used by many at once.
type Document struct {
	Operations []*Operation // sorted by path and method

	root     map[string]any
	mu       sync.Mutex // guards what follows; the compiler is not for many at once
	compiler *jsonschema.Compiler
	loosened map[string]*Schema // what chosen made, by its original's place
}

// Operation is one method of one path.
type Operation struct {
	ID, Method, Path string
	Parameters       []Parameter
	Bodies           map[string]*Schema // by media type
	BodyRequired     bool
	Responses        map[int]*Response
	Roles            []string // who may use it; none: anybody
	Links            []Link
	segments         []string
}

// Parameter is one that a request may carry outside of its body.
type Parameter struct {
	In, Name string
	Required bool
	List     bool // may be given several times
	Schema   *Schema
}

// Response is what the document says of one status.
type Response struct {
	Content map[string]*Schema // by media type; empty: no body. A nil schema allows every body of its type
	Headers []Parameter
}

// Link says which operation an answer leads to, and which part of the body goes into which of its path's parameters.
type Link struct {
	Operation  string
	Parameters map[string]string // as in "$response.body#/id"
}

// Schema is one JSON Schema of the document.
type Schema struct {
	// Raw is the schema as it stands in the document, a reference followed.
	Raw map[string]any

	d        *Document
	pointer  string
	once     sync.Once
	compiled *jsonschema.Schema
	err      error
}

const resource = "document.json"

// Parse reads a document. What it cannot read is CodeInvalid.
func Parse(text []byte) (_ *Document, err error) {
	defer levee.Wrap(&err, "contract.Parse")
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, levee.Invalid("document", "JSON", err)
	}
	d := &Document{compiler: jsonschema.NewCompiler()}
	d.root, _ = parsed.(map[string]any) //nolint:errcheck // looked at below
	if v, _ := d.root["openapi"].(string); !strings.HasPrefix(v, "3.1.") {
		return nil, levee.Invalid("document.openapi", "3.1.x", v)
	}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(resource, parsed); err != nil {
		return nil, err
	}
	paths := object(d.root["paths"])
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := object(paths[path])
		for _, method := range []string{"get", "post", "put", "patch", "delete", "head", "options", "trace"} {
			if item[method] != nil {
				d.Operations = append(d.Operations, d.operation(path, method, object(item[method])))
			}
		}
	}
	return d, nil
}

func object(v any) map[string]any { m, _ := v.(map[string]any); return m }
func text(v any) string           { s, _ := v.(string); return s }
func list(v any) []any            { l, _ := v.([]any); return l }
func truth(v any) bool            { b, _ := v.(bool); return b }

// escape is one step of a JSON pointer.
func escape(step string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
}

func (d *Document) operation(path, method string, raw map[string]any) *Operation {
	at := "/paths/" + escape(path) + "/" + method
	op := &Operation{ID: text(raw["operationId"]), Method: strings.ToUpper(method), Path: path, Responses: map[int]*Response{},
		Bodies: map[string]*Schema{}, segments: strings.Split(path, "/")}
	for _, r := range list(raw["x-roles"]) {
		op.Roles = append(op.Roles, text(r))
	}
	for i, p := range list(raw["parameters"]) {
		p, at := d.follow(object(p), at+"/parameters/"+strconv.Itoa(i))
		op.Parameters = append(op.Parameters, Parameter{In: text(p["in"]), Name: text(p["name"]), Required: truth(p["required"]),
			List: truth(p["explode"]) && text(object(p["schema"])["type"]) == "array", Schema: d.Schema(object(p["schema"]), at+"/schema")})
	}
	if raw["requestBody"] != nil {
		b, at := d.follow(object(raw["requestBody"]), at+"/requestBody")
		op.BodyRequired = truth(b["required"])
		op.Bodies = d.content(b, at)
	}
	for status, r := range object(raw["responses"]) {
		n, err := strconv.Atoi(status)
		if err != nil {
			continue // default and 2XX say nothing that could be held against an answer
		}
		r, at := d.follow(object(r), at+"/responses/"+status)
		resp := &Response{Content: d.content(r, at)}
		for _, name := range slices.Sorted(maps.Keys(object(r["headers"]))) {
			h, at := d.follow(object(object(r["headers"])[name]), at+"/headers/"+escape(name))
			resp.Headers = append(resp.Headers, Parameter{In: "header", Name: name, Required: truth(h["required"]), Schema: d.Schema(object(h["schema"]), at+"/schema")})
		}
		for _, name := range slices.Sorted(maps.Keys(object(r["links"]))) {
			l, _ := d.follow(object(object(r["links"])[name]), "")
			link := Link{Operation: text(l["operationId"]), Parameters: map[string]string{}}
			for p, from := range object(l["parameters"]) {
				link.Parameters[p] = text(from)
			}
			op.Links = append(op.Links, link)
		}
		op.Responses[n] = resp
	}
	return op
}

func (d *Document) content(of map[string]any, at string) map[string]*Schema {
	all := map[string]*Schema{}
	for mt, m := range object(of["content"]) {
		all[mt] = nil
		if s := object(object(m)["schema"]); s != nil {
			all[mt] = d.Schema(s, at+"/content/"+escape(mt)+"/schema")
		}
	}
	return all
}

// follow follows a reference.
func (d *Document) follow(v map[string]any, at string) (map[string]any, string) {
	for range 10 {
		ref, ok := v["$ref"].(string)
		if !ok {
			break
		}
		at = strings.TrimPrefix(ref, "#")
		v = d.root
		for _, step := range strings.Split(at, "/")[1:] {
			v = object(v[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)])
		}
	}
	return v, at
}

// Schema returns a schema that stands in the document, or nil for none. An inner one of a schema is asked for by its value alone.
func (d *Document) Schema(raw map[string]any, pointer string) *Schema {
	if raw == nil {
		return nil
	}
	raw, pointer = d.follow(raw, pointer)
	return &Schema{Raw: raw, d: d, pointer: pointer}
}

// Inner returns the schema of a property or of a list's items: step is "properties/NAME" or "items".
func (s *Schema) Inner(step ...string) *Schema {
	raw, at := s.Raw, s.pointer
	for _, name := range step {
		raw, at = object(raw[name]), at+"/"+escape(name)
	}
	return s.d.Schema(raw, at)
}

// Validate tells what of v, as jsonschema.UnmarshalJSON reads it, is not as the schema says. The schema allows no field that it does not
// name, unless it says so itself.
func (s *Schema) Validate(v any) error {
	s.once.Do(func() {
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		s.compiled, s.err = s.d.compiler.Compile(resource + "#" + s.pointer)
	})
	if s.err != nil {
		return fmt.Errorf("the schema itself: %w", s.err)
	}
	return s.compiled.Validate(v)
}

// chosen is the schema of a list of which fields= shows parts: its items lack what was not asked for. No schema of OpenAPI can say that, for it hangs
// on the question.
func (s *Schema) chosen() *Schema {
	item := s.Inner("properties", "items", "items")
	if item == nil || item.Raw == nil {
		return s
	}
	less := maps.Clone(item.Raw)
	delete(less, "required")
	props := maps.Clone(object(s.Raw["properties"]))
	items := maps.Clone(object(props["items"]))
	items["items"], props["items"] = less, items
	whole := maps.Clone(s.Raw)
	whole["properties"] = props
	return s.d.loose(s.pointer, whole)
}

// loose compiles a schema that does not stand in the document, and keeps it by the place of the one that it was made from.
func (d *Document) loose(pointer string, raw map[string]any) *Schema {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.loosened[pointer]; known != nil {
		return known
	}
	copied := maps.Clone(d.root)
	copied["loosened"] = raw
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	s := &Schema{Raw: raw, d: d, pointer: pointer}
	s.once.Do(func() {
		if s.err = c.AddResource(resource, copied); s.err == nil {
			s.compiled, s.err = c.Compile(resource + "#/loosened")
		}
	})
	if d.loosened == nil {
		d.loosened = map[string]*Schema{}
	}
	d.loosened[pointer] = s
	return s
}

// Find returns the operation that a request is for, and the values of its path's parameters. It returns the methods of the path instead
// where the path is known and the method is not; HEAD is GET's.
func (d *Document) Find(method, path string) (op *Operation, values map[string]string, others []string) {
	segments := strings.Split(path, "/")
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var best *Operation
	for _, o := range d.Operations {
		if !o.matches(segments) {
			continue
		}
		switch {
		case best == nil || o.literal() > best.literal():
			best, others, op = o, []string{o.Method}, nil
		case o.Path == best.Path:
			others = append(others, o.Method)
		default:
			continue
		}
		if o.Method == method {
			op = o
		}
	}
	if op == nil {
		return nil, nil, others
	}
	values = map[string]string{}
	for i, s := range op.segments {
		if strings.HasPrefix(s, "{") {
			values[strings.Trim(s, "{}")] = segments[i]
		}
	}
	return op, values, nil
}

func (o *Operation) matches(segments []string) bool {
	if len(segments) != len(o.segments) {
		return false
	}
	for i, s := range o.segments {
		if strings.HasPrefix(s, "{") && segments[i] != "" || s == segments[i] {
			continue
		}
		return false
	}
	return true
}

// literal counts the segments that are no parameters: the path with more of them is the nearer one.
func (o *Operation) literal() (n int) {
	for _, s := range o.segments {
		if !strings.HasPrefix(s, "{") {
			n++
		}
	}
	return n
}

// Named returns the operation of a name, or nil.
func (d *Document) Named(id string) *Operation {
	for _, o := range d.Operations {
		if o.ID == id {
			return o
		}
	}
	return nil
}

// Decode reads JSON as Validate wants it.
func Decode(b []byte) (any, error) { return jsonschema.UnmarshalJSON(bytes.NewReader(b)) }

// Plain makes a value of Go what Validate wants: as if it had been sent.
func Plain(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test gave what is no JSON
	}
	plain, _ := Decode(b)
	return plain
}
