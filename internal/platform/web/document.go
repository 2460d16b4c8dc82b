package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/header"
	"levee/internal/platform/limit"
	"levee/internal/platform/patch"
	"levee/internal/platform/problem"
)

const schemaPrefix = "#/components/schemas/"

func newDocument(title, version, publicURL string, namer func(reflect.Type, string) string) *huma.OpenAPI {
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: title, Version: version,
			Description: "Errors are problem details (RFC 9457) that carry a word in `error`, in English or, by Accept-Language, in Chinese. Ids are " +
				"opaque strings, times RFC 3339 in UTC, amounts integers in the currency's minor unit. The version stands in the path; it may also be " +
				"named by the header Api-Version, by Accept: application/json; version=1, or by the parameter version. Lengths count characters; a text can also be refused for its length in " +
				"bytes of UTF-8 or for control characters, and the refusal says so.",
		},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry(schemaPrefix, func(t reflect.Type, hint string) string {
				switch t { // by their own names they would say nothing
				case reflect.TypeFor[problem.Details]():
					return "Problem"
				case reflect.TypeFor[problem.Field]():
					return "ProblemField"
				}
				return namer(t, hint)
			}),
			Responses: map[string]*huma.Response{},
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT"},
				"cookie": {Type: "apiKey", In: "cookie", Name: "__Host-levee", Description: "The session of a browser"},
			},
		},
	}
	if publicURL != "" {
		doc.Servers = []*huma.Server{{URL: publicURL}}
	}
	return doc
}

// schemaName names a type in the document by its package and name: orderView of package order is OrderView, itemView is
// OrderItemView. So two rooms may each have an itemView. Types without a name are called by their operation.
func (a *api) schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Name() == "" {
		rt := a.adding
		if rt == nil {
			return pascal(hint)
		}
		switch hint {
		case rt.inType + "Body", rt.ID + "Request":
			return pascal(rt.ID) + "Request"
		case rt.outType + "Body", rt.ID + "Response":
			return pascal(rt.ID) + "Response"
		}
		return pascal(rt.ID) + pascal(hint)
	}
	var b strings.Builder
	full := t.PkgPath() + "." + t.Name()
	for part := range strings.FieldsFuncSeq(full, func(r rune) bool { return r == '[' || r == ']' || r == ',' || r == '*' }) {
		part = part[strings.LastIndexByte(part, '/')+1:]
		pkg, name, ok := strings.Cut(part, ".")
		if !ok {
			pkg, name = "", part
		}
		if pkg == "web" || pkg == "levee" || strings.HasPrefix(strings.ToLower(name), strings.ToLower(pkg)) {
			pkg = ""
		}
		b.WriteString(pascal(pkg))
		b.WriteString(pascal(name))
	}
	return b.String()
}

func pascal(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

// DocumentOperation completes what huma has made of a typed operation, and adds it to the document.
func (a *api) DocumentOperation(op *huma.Operation) {
	rt := a.adding
	boundParameters(op, rt.in)
	if op.RequestBody != nil {
		if m := op.RequestBody.Content["application/json"]; m != nil && rt.bodyType != nil && body.Of(rt.bodyType).Formable() {
			op.RequestBody.Content[formType] = &huma.MediaType{Schema: m.Schema}
			op.RequestBody.Content[multipartType] = &huma.MediaType{Schema: m.Schema}
		}
		if m := op.RequestBody.Content["application/json"]; m != nil && rt.Current != nil {
			op.RequestBody.Content[patch.MergeType] = &huma.MediaType{Schema: m.Schema}
			op.RequestBody.Content[patch.JSONType] = &huma.MediaType{Schema: a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[[]patchOperation](), true, "")}
		}
	}
	if ok := op.Responses["200"]; rt.CSV && ok != nil {
		ok.Content["text/csv"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	a.describe(rt, op)
	if !rt.Hidden {
		a.OpenAPI().AddOperation(op)
	}
}

// describe adds what follows from the route: parameters, headers, errors, who may use it.
func (a *api) describe(rt *route, op *huma.Operation) {
	delete(op.Responses, "default")
	if rt.Idempotent {
		a.addParam(op, "header", "Idempotency-Key", "Makes the request safe to repeat: the same key with the same body gets the first answer again, "+
			"another body 422. 1 to 128 visible ASCII characters, of which enough must be random. Kept at least a day", header.IdempotencyMax)
	}
	errs := map[int]bool{http.StatusNotAcceptable: true, http.StatusInternalServerError: true, http.StatusServiceUnavailable: true,
		http.StatusBadRequest: true, http.StatusUnprocessableEntity: true} // a query that nobody asked for
	if op.RequestBody != nil {
		errs[http.StatusRequestTimeout], errs[http.StatusRequestEntityTooLarge], errs[http.StatusUnsupportedMediaType] = true, true, true
	}
	if rt.Roles != 0 {
		errs[http.StatusUnauthorized], errs[http.StatusForbidden] = true, true
		op.Security = []map[string][]string{{"bearer": {}}, {"cookie": {}}}
		op.Extensions = map[string]any{"x-roles": rt.ready.Names()}
	} else {
		op.Security = []map[string][]string{{}, {"bearer": {}}, {"cookie": {}}}
		errs[http.StatusUnauthorized] = true // a token that is no good
	}
	if rt.Limit != limit.None {
		errs[http.StatusTooManyRequests] = true
	}
	if strings.Contains(rt.Path, "{") {
		errs[http.StatusNotFound] = true
	}
	for _, p := range op.Parameters {
		switch {
		case p.In == "header" && strings.EqualFold(p.Name, "If-None-Match"):
			op.Responses["304"] = &huma.Response{Description: "Not modified since the caller's entity tag"}
		case p.In == "header" && strings.EqualFold(p.Name, "If-Match"):
			errs[http.StatusPreconditionFailed] = true
		}
	}
	if rt.Idempotent {
		errs[http.StatusConflict] = true
	}
	switch rt.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		errs[http.StatusForbidden] = true // from another site
	}
	if rt.guarded {
		errs[http.StatusPreconditionRequired] = true
	}
	if rt.Current != nil {
		errs[http.StatusConflict] = true // a patch whose test does not hold
	}
	if rt.Ends != nil {
		errs[http.StatusGone] = true
	}
	for _, status := range rt.Errors {
		errs[status] = true
	}
	for status := range errs {
		if status < 300 { // another success, with the body of the usual one
			usual := *op.Responses[strconv.Itoa(op.DefaultStatus)]
			usual.Description = http.StatusText(status)
			op.Responses[strconv.Itoa(status)] = &usual
			continue
		}
		if status < 400 {
			op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status)}
			continue
		}
		op.Responses[strconv.Itoa(status)] = a.problemResponse(status)
	}
	for status, resp := range op.Responses {
		if resp.Ref == "" && status[0] == '2' {
			resp.Headers = maps.Clone(resp.Headers)
			a.addHeaders(rt, resp)
			if status == "202" && resp.Headers["Location"] == nil {
				resp.Headers["Location"] = &huma.Param{Schema: &huma.Schema{Type: huma.TypeString}, Description: "What to follow"}
			}
		}
	}
}

func (a *api) addHeaders(rt *route, resp *huma.Response) {
	if resp.Headers == nil {
		resp.Headers = map[string]*huma.Param{}
	}
	text := &huma.Schema{Type: huma.TypeString}
	resp.Headers["X-Request-Id"] = &huma.Param{Schema: text, Required: true, Description: "Under which the server's log knows this request"}
	if rt.Limit != limit.None {
		resp.Headers["RateLimit"] = &huma.Param{Schema: text, Description: `Where the caller stands in each limit: "write";r=39;t=1 is 39 more now, and all again in 1 s`}
		resp.Headers["RateLimit-Policy"] = &huma.Param{Schema: text, Description: `Each limit: "write";q=40;w=2 is 40 at once, which come again in 2 s`}
	}
	if rt.Idempotent {
		resp.Headers["Idempotency-Replayed"] = &huma.Param{Schema: text, Description: `"true" when this is the first answer again`}
	}
}

func (a *api) addParam(op *huma.Operation, in, name, what string, maxLength int) {
	for _, p := range op.Parameters {
		if p.In == in && strings.EqualFold(p.Name, name) {
			return
		}
	}
	s := &huma.Schema{Type: huma.TypeString}
	if maxLength > 0 {
		s.MaxLength = &maxLength
	}
	op.Parameters = append(op.Parameters, &huma.Param{In: in, Name: name, Description: what, Schema: s, Required: in == "path"})
}

func (a *api) problemResponse(status int) *huma.Response {
	components := a.OpenAPI().Components
	name := fmt.Sprintf("Problem%d", status)
	if components.Responses[name] == nil {
		r := &huma.Response{
			Description: http.StatusText(status),
			Content: map[string]*huma.MediaType{
				problem.Type: {Schema: components.Schemas.Schema(reflect.TypeFor[problem.Details](), true, "Problem")},
			},
		}
		text := &huma.Schema{Type: huma.TypeString}
		switch status {
		case http.StatusUnauthorized:
			r.Headers = map[string]*huma.Param{"WWW-Authenticate": {Schema: text, Required: true}}
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			r.Headers = map[string]*huma.Param{"Retry-After": {Schema: &huma.Schema{Type: huma.TypeInteger}, Required: true, Description: "Seconds to wait"}}
		}
		components.Responses[name] = r
	}
	return &huma.Response{Ref: "#/components/responses/" + name}
}

// documentRaw makes the operation of a raw route and tells the pipeline what follows from it.
func (a *api) documentRaw(rt *route, doc RawDoc) {
	a.adding = rt
	defer func() { a.adding = nil }()
	registry := a.OpenAPI().Components.Schemas
	rt.produces = doc.Produces
	if len(rt.produces) == 0 {
		rt.produces = []string{"application/json"}
	}
	op := &huma.Operation{
		Method: rt.Method, Path: rt.Path, OperationID: rt.ID, Summary: rt.Summary, Description: rt.Description,
		DefaultStatus: rt.Status, Responses: map[string]*huma.Response{}, Deprecated: rt.Ends != nil,
	}
	if rt.Tag != "" {
		op.Tags = []string{rt.Tag}
	}
	for in, params := range map[string]map[string]string{"path": doc.Path, "query": doc.Query, "header": doc.Headers} {
		for _, name := range slices.Sorted(maps.Keys(params)) {
			a.addParam(op, in, name, params[name], 0)
		}
	}
	for _, name := range pathParams(rt.Path) {
		a.addParam(op, "path", name, "", 0)
	}
	for _, p := range op.Parameters {
		p.Schema.Pattern = doc.Forms[p.Name]
	}
	slices.SortStableFunc(op.Parameters, func(x, y *huma.Param) int { return strings.Compare(y.In, x.In) }) // the map has no order
	if doc.Request != nil || doc.RequestTypes != nil {
		types := doc.RequestTypes
		if types == nil {
			types = []string{"application/json"}
		}
		op.RequestBody = &huma.RequestBody{Required: doc.Needed, Content: map[string]*huma.MediaType{}}
		for _, mt := range types {
			m := &huma.MediaType{}
			if doc.Request != nil {
				m.Schema = registry.Schema(reflect.TypeOf(doc.Request), true, rt.ID+"Request")
			}
			op.RequestBody.Content[mt] = m
		}
	}
	if doc.Upload != nil {
		op.RequestBody = doc.Upload.body(registry, rt.ID)
	}
	if len(doc.Responses) == 0 {
		status := rt.Status
		if status == 0 {
			status = http.StatusOK
		}
		doc.Responses = map[int]any{status: nil}
	}
	for status, body := range doc.Responses {
		if status >= 400 {
			panic(fmt.Sprintf("web: %s documents %d as a body of its own; put it into Errors", rt.ID, status))
		}
		r := &huma.Response{Description: http.StatusText(status)}
		if status != http.StatusNoContent && status != http.StatusNotModified {
			r.Content = map[string]*huma.MediaType{}
			for _, mt := range rt.produces {
				r.Content[mt] = &huma.MediaType{}
				if body != nil {
					r.Content[mt].Schema = registry.Schema(reflect.TypeOf(body), true, rt.ID+"Response")
				}
			}
		}
		op.Responses[strconv.Itoa(status)] = r
	}
	a.describe(rt, op)
	for _, mt := range doc.RefusalTypes {
		for status, r := range op.Responses {
			if status[0] == '4' || status[0] == '5' {
				both := *a.OpenAPI().Components.Responses["Problem"+status]
				both.Content = maps.Clone(both.Content)
				both.Content[mt] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
				*r = both
			}
		}
	}
	rt.learn(op)
	if !rt.takes("application/json") {
		rt.consumes = nil // the handler judges what it reads: it may take many types, or go by the bytes
	}
	if !rt.Hidden {
		a.OpenAPI().AddOperation(op)
	}
}

func pathParams(path string) []string {
	var names []string
	for {
		_, rest, ok := strings.Cut(path, "{")
		if !ok {
			return names
		}
		name, after, _ := strings.Cut(rest, "}")
		if name = strings.TrimSuffix(name, "..."); name != "$" {
			names = append(names, name)
		}
		path = after
	}
}

// marshalDocument writes the document in a stable order, indented: it is read by people too, and compared.
func marshalDocument(doc *huma.OpenAPI) (_ []byte, err error) {
	defer levee.Wrap(&err, "web.OpenAPI")
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
