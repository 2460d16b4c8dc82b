package contract

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The checks of an answer alone. Their names are schemathesis'.
const (
	ServerError = "not_a_server_error"
	Status      = "status_code_conformance"
	ContentType = "content_type_conformance"
	Headers     = "response_headers_conformance"
	Body        = "response_schema_conformance"
	Allow       = "allow_header_conformance"
)

const problemType = "application/problem+json"

// Answer is what came back for a request.
type Answer struct {
	Method, Path string
	Query        string // as it stands behind the question mark
	Status       int
	Header       http.Header
	Body         []byte
	Cut          bool // Body is not all of it: a stream, or something that was left unread
}

// Breach is one way in which an answer is not what the document says.
type Breach struct {
	Check     string // one of the names above
	Operation string // or method and path, where the document knows none
	What      string
}

func (b Breach) String() string { return b.Check + ": " + b.Operation + ": " + b.What }

// Judge returns each way in which an answer is not what the document says. What is outside of /v1 is not the document's.
func (d *Document) Judge(a Answer) (found []Breach) {
	op, _, others := d.Find(a.Method, a.Path)
	name := a.Method + " " + a.Path
	if op != nil {
		name = op.ID
	}
	breach := func(check, format string, args ...any) {
		found = append(found, Breach{check, name, fmt.Sprintf(format, args...)})
	}
	if a.Status == http.StatusInternalServerError {
		breach(ServerError, "answered 500: %s", shorten(a.Body))
	}
	switch {
	case op != nil:
		resp := op.Responses[a.Status]
		if resp == nil {
			breach(Status, "answered %d, which is not documented: %s", a.Status, shorten(a.Body))
			return found
		}
		d.judgeBody(a, resp, breach)
		judgeHeaders(a, resp, breach)
	case others != nil && a.Method == http.MethodOptions:
		if a.Status != http.StatusNoContent {
			breach(Status, "answered %d to OPTIONS, not 204", a.Status)
		}
		judgeAllow(a, others, breach)
	case others != nil:
		if a.Status != http.StatusMethodNotAllowed {
			breach("unsupported_method", "answered %d to a method that the path does not have, not 405", a.Status)
			return found
		}
		judgeAllow(a, others, breach)
		d.judgeProblem(a, breach)
	case strings.HasPrefix(a.Path, "/v1/") && a.Path != "/v1/openapi.json":
		if a.Status < 400 {
			breach(Status, "answered %d where the document has no operation", a.Status)
			return found
		}
		d.judgeProblem(a, breach)
	}
	return found
}

type report func(check, format string, args ...any)

func (d *Document) judgeBody(a Answer, resp *Response, breach report) {
	header := a.Header.Get("Content-Type")
	if len(resp.Content) == 0 {
		if len(a.Body) > 0 {
			breach(ContentType, "%d has a body of %s, the document says none", a.Status, header)
		}
		return
	}
	mt, _, err := mime.ParseMediaType(header)
	if err != nil {
		breach(ContentType, "%d has the Content-Type %q, the document says %s", a.Status, header, types(resp.Content))
		return
	}
	schema, ok := resp.Content[mt]
	if !ok {
		breach(ContentType, "%d is %s, the document says %s", a.Status, mt, types(resp.Content))
		return
	}
	if schema == nil || a.Cut || a.Method == http.MethodHead || !isJSON(mt) {
		return
	}
	if query(a).Get("fields") != "" && a.Status == http.StatusOK {
		schema = schema.chosen()
	}
	judgeJSON(a, schema, breach)
}

// query reads what was asked for; what is not well formed was refused.
func query(a Answer) url.Values {
	v, _ := url.ParseQuery(a.Query)
	return v
}

func judgeJSON(a Answer, schema *Schema, breach report) {
	if !utf8.Valid(a.Body) {
		breach(Body, "%d is not UTF-8", a.Status)
		return
	}
	v, err := Decode(a.Body)
	if err != nil {
		breach(Body, "%d is no JSON (%v): %s", a.Status, err, shorten(a.Body))
		return
	}
	if err := schema.Validate(v); err != nil {
		breach(Body, "%d: %s in %s", a.Status, oneLine(err), shorten(a.Body))
	}
}

func judgeHeaders(a Answer, resp *Response, breach report) {
	for _, h := range resp.Headers {
		values := a.Header.Values(h.Name)
		if len(values) == 0 {
			if h.Required {
				breach(Headers, "%d lacks the header %s", a.Status, h.Name)
			}
			continue
		}
		for _, v := range values {
			if err := h.Schema.Validate(typed(h.Schema, v)); err != nil {
				breach(Headers, "%d has %s: %q: %s", a.Status, h.Name, v, oneLine(err))
			}
		}
	}
}

// typed reads a header or a parameter as its schema's type.
func typed(s *Schema, v string) any {
	switch text(s.Raw["type"]) {
	case "integer", "number", "boolean":
		if plain, err := Decode([]byte(v)); err == nil {
			return plain
		}
	}
	return v
}

// judgeAllow holds Allow against the document: its methods, HEAD beside GET, and OPTIONS.
func judgeAllow(a Answer, methods []string, breach report) {
	want := append(slices.Clone(methods), http.MethodOptions)
	if slices.Contains(methods, http.MethodGet) {
		want = append(want, http.MethodHead)
	}
	given := strings.Split(strings.ReplaceAll(a.Header.Get("Allow"), " ", ""), ",")
	slices.Sort(want)
	slices.Sort(given)
	if !slices.Equal(want, given) {
		breach(Allow, "Allow is %q, the document's methods are %s", a.Header.Get("Allow"), strings.Join(want, ", "))
	}
}

// judgeProblem holds a refusal that belongs to no operation against the one form of all refusals.
func (d *Document) judgeProblem(a Answer, breach report) {
	if mt, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")); mt != problemType {
		breach(ContentType, "%d is %q, not %s", a.Status, a.Header.Get("Content-Type"), problemType)
		return
	}
	schema := d.Schema(map[string]any{"$ref": "#/components/schemas/Problem"}, "")
	if schema.Raw == nil || a.Cut || a.Method == http.MethodHead {
		return
	}
	judgeJSON(a, schema, breach)
}

func isJSON(mt string) bool { return mt == "application/json" || strings.HasSuffix(mt, "+json") }

func types(content map[string]*Schema) string {
	var all []string
	for mt := range content {
		all = append(all, mt)
	}
	slices.Sort(all)
	return strings.Join(all, " or ")
}

func oneLine(err error) string {
	text := err.Error()
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		text = rest // the first line names the schema's place in the document
	}
	return strings.Join(strings.Fields(text), " ")
}

func shorten(b []byte) string {
	const most = 300
	if len(b) <= most {
		return string(b)
	}
	return string(b[:most]) + "… (" + strconv.Itoa(len(b)) + " bytes)"
}
