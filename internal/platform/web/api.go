package web

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/header"
	"levee/internal/platform/patch"
	"levee/internal/platform/problem"
)

// huma's settings for the process are made here once: nothing else in the house uses it.
func init() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false
	huma.NewError = func(status int, msg string, _ ...error) huma.StatusError {
		return &problem.Details{Status: status, Title: http.StatusText(status), Detail: msg}
	}
	huma.NewErrorWithContext = fromHuma
}

// api is huma's, with what the pipeline has decided already taken from it: negotiation, reading and checking of the body.
type api struct {
	huma.API
	s         *Server
	adding    *route // the one that huma.Register is working on
	unmatched *route // what logs and metrics say of requests that no route takes
	preflight *route
	page      *route
}

func newAPI(s *Server) *api {
	a := &api{s: s}
	for _, r := range []struct {
		to   **route
		name string
	}{{&a.unmatched, "unmatched"}, {&a.preflight, "OPTIONS"}, {&a.page, "/"}} {
		*r.to = &route{name: r.name, counted: s.metrics.route(r.name)}
	}
	config := huma.Config{
		OpenAPI: newDocument(s.parts.Title, s.parts.Version, s.cfg.PublicURL, a.schemaName),
		Formats: map[string]huma.Format{"application/json": {
			Marshal:   func(w io.Writer, v any) error { return a.Marshal(w, "", v) },
			Unmarshal: unmarshalJSON,
		}},
		DefaultFormat: "application/json",
	}
	a.API = huma.NewAPI(config, (*adapter)(a))
	return a
}

// Negotiate is decided before the handler runs.
func (a *api) Negotiate(string) (string, error) { return "application/json", nil }

// Marshal encodes the whole answer before its first byte is sent, so that a failure can still be told.
func (a *api) Marshal(w io.Writer, _ string, v any) error {
	b, err := marshalJSON(v)
	if err != nil {
		panic(fmt.Errorf("encoding the answer: %w", err)) // huma would send this text after the status; so it becomes a 500
	}
	if c, ok := w.(*call); ok {
		c.setLine("Content-Length", lineLength, strconv.Itoa(len(b)))
	}
	_, _ = w.Write(b) // the caller may have left
	return nil
}

// Unmarshal reads a body that body.Check has passed.
func (a *api) Unmarshal(_ string, data []byte, v any) error { return unmarshalJSON(data, v) }

// adapter mounts huma's operations behind the pipeline.
type adapter api

func (a *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.s.mux.ServeHTTP(w, r) }

func (a *adapter) Handle(op *huma.Operation, handle func(huma.Context)) {
	rt := a.adding
	rt.learn(op)
	a.s.mount(rt, func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r.Context())
		ctx := &bodyContext{humaContext: humago.NewContext(op, r, w), c: c}
		if rt.consumes != nil && r.Body != http.NoBody {
			if rt.schema == nil && slices.Contains(rt.consumes, multipartType) {
				r.Body = &noteBody{http.MaxBytesReader(c.ResponseWriter, r.Body, rt.bodyMax), c}
			} else {
				buf := buffers.Get().(*bytes.Buffer) //nolint:errcheck // the pool holds nothing else
				defer putBuffer(buf)
				err := rt.readTyped(c, buf, r)
				if err == nil {
					err = (*api)(a).refuseNull(rt.schema, buf.Bytes())
				}
				if err != nil {
					WriteError(c, r, err)
					return
				}
				ctx.body.Reset(buf.Bytes())
				ctx.data = buf.Bytes()
			}
		}
		handle(ctx)
	})
}

const (
	formType      = "application/x-www-form-urlencoded"
	multipartType = "multipart/form-data"
)

// learn takes from a finished operation what the pipeline must know.
func (rt *route) learn(op *huma.Operation) {
	rt.op = op
	rt.query, rt.filled = map[string]bool{}, map[string]bool{}
	for _, p := range op.Parameters {
		if p.In == "query" {
			rt.query[p.Name], rt.filled[p.Name] = p.Explode != nil && *p.Explode, needsValue(p.Schema)
		}
	}
	if op.RequestBody == nil {
		return
	}
	rt.required = op.RequestBody.Required
	for mt := range op.RequestBody.Content {
		rt.consumes = append(rt.consumes, mt)
	}
	slices.Sort(rt.consumes)
	if m := op.RequestBody.Content["application/json"]; m != nil {
		rt.schema = m.Schema
		if rt.bodyType != nil {
			rt.shape = body.Of(rt.bodyType)
		}
	}
}

// readTyped reads the body of a typed operation and checks it as far as its schema does not: what is left for huma is one JSON
// value, well formed and unambiguous.
func (rt *route) readTyped(c *call, buf *bytes.Buffer, r *http.Request) error {
	if err := readBody(buf, r, rt.bodyMax); err != nil {
		return err
	}
	if buf.Len() == 0 || rt.schema == nil {
		return nil
	}
	if ct := r.Header["Content-Type"]; len(ct) > 0 && ct[0] != "application/json" {
		var err error
		switch mt := header.MediaType(ct[0]); mt {
		case formType:
			err = body.FromForm(buf, rt.shape)
		case multipartType:
			err = body.FromMultipart(buf, ct[0], rt.shape)
		case patch.MergeType, patch.JSONType:
			err = rt.readPatch(c, buf, r, mt)
		}
		if err != nil {
			return err
		}
	}
	return body.Check(buf.Bytes(), nil)
}

type humaContext = huma.Context // so that the field's name is not the method's

// bodyContext is huma's view of a request whose body has been read already.
type bodyContext struct {
	humaContext
	c    *call
	body bytes.Reader
	data []byte
}

// Header hides the body's media type, which the pipeline has judged: what huma reads is JSON. A patch's If-Match is the tag of what it was
// applied to.
func (b *bodyContext) Header(name string) string {
	switch {
	case name == "Content-Type" && b.c.route.schema != nil:
		return ""
	case name == "If-Match" && b.c.seen != "":
		return b.c.seen
	}
	return b.humaContext.Header(name)
}

func (b *bodyContext) BodyReader() io.Reader           { return &b.body }
func (b *bodyContext) SetReadDeadline(time.Time) error { return nil } // the pipeline has set it
func (b *bodyContext) BodyWriter() io.Writer           { return b.c }
func (b *bodyContext) Unwrap() huma.Context            { return b.humaContext }

// fromHuma turns what huma found wrong with a request into our problem.
func fromHuma(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
	c := callOf(ctx.Context())
	b, _ := ctx.(*bodyContext)
	p := c.problemFor(c.r, c.judge(b, status, msg, errs))
	p.WriteHeaders(c.Header())
	return p
}

func (c *call) judge(b *bodyContext, status int, msg string, errs []error) error {
	if c.body != nil {
		return c.body
	}
	var fields []levee.Field
	for _, err := range errs {
		d, ok := err.(*huma.ErrorDetail) //nolint:errorlint // huma gives its own, bare
		switch {
		case !ok && levee.CodeOf(err) != levee.CodeInternal:
			return err // a Resolver's own
		case !ok:
			return fmt.Errorf("%s: %w", msg, err)
		case b != nil && d.Location == "body" && b.data != nil && d.Value == string(b.data):
			// The schema let it pass, the Go type did not: a number out of its range. Say which.
			if err := body.Check(b.data, c.route.shape); err != nil {
				return err
			}
			return errValue(err)
		}
		fields = append(fields, c.fieldOf(d))
	}
	code := levee.CodeInvalid
	switch status {
	case http.StatusBadRequest:
		code = levee.CodeMalformed
		if len(fields) == 0 { // huma's only other reason
			fields = []levee.Field{{Field: "body", Allowed: strings.Join(c.route.consumes, " or "), Given: "nothing"}}
		}
	case http.StatusUnprocessableEntity:
	default:
		return fmt.Errorf("huma: %d %s", status, msg)
	}
	if len(fields) == 0 {
		return fmt.Errorf("huma: %d %s", status, msg)
	}
	for i := range fields {
		fields[i].Given = body.Showable(fields[i].Field, fields[i].Given)
	}
	e := levee.E(code, "%s must be %s, got %q", fields[0].Field, fields[0].Allowed, fields[0].Given)
	if len(fields) > 1 {
		e.Message += fmt.Sprintf(" (and %d more)", len(fields)-1)
	}
	if len(fields) > maxFields {
		fields = fields[:maxFields]
	}
	e.Fields = fields
	return e
}

// maxFields bounds the refused fields that one answer lists.
const maxFields = 20

// fieldOf puts huma's words into ours: which field, what is allowed, what was given.
func (c *call) fieldOf(d *huma.ErrorDetail) levee.Field {
	f := levee.Field{Field: d.Location, Given: given(d.Value)}
	m := d.Message
	if name, ok := strings.CutPrefix(m, "expected required property "); ok {
		name = strings.TrimSuffix(name, " to be present")
		return levee.Field{Field: d.Location + "." + name, Allowed: "given", Given: "nothing"}
	}
	switch {
	case strings.HasPrefix(m, "required ") && strings.HasSuffix(m, " parameter is missing"):
		f.Allowed, f.Given = "given", "nothing"
	case m == "unexpected property":
		f.Given = d.Location[strings.LastIndexByte(d.Location, '.')+1:]
		f.Allowed = "one of the known fields: " + c.route.namesAt(d.Location)
	case strings.HasPrefix(m, "invalid date/time"):
		f.Allowed = body.TimeForm
	default:
		f.Allowed = body.Worded(m)
	}
	return f
}

func given(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	case map[string]any:
		return "an object"
	}
	return fmt.Sprint(v)
}

// namesAt lists the fields known where the last step of location stands.
func (rt *route) namesAt(location string) string {
	s := rt.shape
	steps := strings.Split(strings.TrimPrefix(location, "body."), ".")
	for _, step := range steps[:len(steps)-1] {
		name, rest, _ := strings.Cut(step, "[")
		s, _ = s.Field([]byte(name))
		for range strings.Count(rest, "]") {
			s = s.Item()
		}
	}
	if s == nil {
		return "none"
	}
	return s.Names()
}

// boundParameters writes the range of a parameter narrower than 64 bits into its schema: huma reads it with 64 and cuts it.
func boundParameters(op *huma.Operation, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			boundParameters(op, f.Type)
			continue
		}
		for _, in := range []string{"path", "query", "header", "cookie"} {
			name, _, _ := strings.Cut(f.Tag.Get(in), ",")
			if name == "" {
				continue
			}
			for _, p := range op.Parameters {
				if p.In == in && p.Name == name && p.Schema != nil {
					boundSchema(p.Schema, f.Type)
				}
			}
		}
	}
}

func boundSchema(s *huma.Schema, t reflect.Type) {
	var least, most float64
	switch t.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		most = float64(uint64(1)<<(t.Bits()-1) - 1)
		least = -most - 1
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		most = float64(uint64(1)<<t.Bits() - 1)
	default:
		return
	}
	if s.Minimum == nil && s.ExclusiveMinimum == nil {
		s.Minimum = &least
	}
	if s.Maximum == nil && s.ExclusiveMaximum == nil {
		s.Maximum = &most
	}
	s.PrecomputeMessages()
}
