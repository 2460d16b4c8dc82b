package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/problem"
)

func codesInSource(t *testing.T) (codes []levee.Code) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../../error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.HasPrefix(v.Names[0].Name, "Code") {
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				codes = append(codes, levee.Code(s))
			}
		}
		return true
	})
	if len(codes) < 20 {
		t.Fatalf("only %d codes found", len(codes))
	}
	return codes
}

// bodies are refused by typed and raw routes alike, with the same status, field and words.
var bodies = []struct {
	name, body string
	status     int
	field      string
	texts      []string
}{
	{"two keys", `{"title":"a","title":"b"}`, 400, "body.title", []string{"twice"}},
	{"two keys, one escaped", `{"title":"a","\u0074itle":"b"}`, 400, "body.title", []string{"twice"}},
	{"two keys, deep", `{"title":"a","items":[{"sku":"abc","quantity":1},{"sku":"abc","sku":"d","quantity":1}]}`, 400, "body.items[1].sku", []string{"twice"}},
	{"another case", `{"Title":"a","title":"b"}`, 422, "body.Title", []string{"known fields", "items", "title"}},
	{"unknown", `{"title":"a","price":1}`, 422, "body.price", []string{"known fields", "kind"}},
	{"unknown, deep", `{"title":"a","items":[{"sku":"abc","quantity":1,"price":2}]}`, 422, "body.items[0].price", []string{"quantity, sku"}},
	{"garbage after", `{"title":"a"} x`, 400, "body", []string{"nothing after"}},
	{"two values", `{"title":"a"}{"title":"b"}`, 400, "body", []string{"nothing after"}},
	{"trailing comma", `{"title":"a",}`, 400, "body", []string{"double quotes"}},
	{"comment", `{"title":"a"/**/}`, 400, "body", nil},
	{"single quotes", `{'title':'a'}`, 400, "body", []string{"double quotes"}},
	{"cut off", `{"title":"a"`, 400, "body", []string{"the end"}},
	{"cut off in a string", `{"title":"a`, 400, "body.title", nil},
	{"cut off in an escape", `{"title":"a\`, 400, "body.title", nil},
	{"only spaces", " \n ", 400, "body", []string{"empty"}},
	{"NaN", `{"title":NaN}`, 400, "body.title", nil},
	{"leading zero", `{"title":"a","quantity":01}`, 400, "body", nil},
	{"plus", `{"title":"a","quantity":+1}`, 400, "body.quantity", nil},
	{"byte order mark", "\uFEFF{\"title\":\"a\"}", 400, "body", nil},
	{"broken UTF-8", "{\"title\":\"a\xff\"}", 400, "body.title", []string{"UTF-8"}},
	{"control character", "{\"title\":\"a\x01\"}", 400, "body.title", []string{"control"}},
	{"lone surrogate", `{"title":"\ud800"}`, 400, "body.title", []string{"surrogate"}},
	{"unknown escape", `{"title":"\x41"}`, 400, "body.title", []string{"escape"}},
	{"too deep", `{"title":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, 400, "body", []string{"64"}},
	{"far too deep", strings.Repeat("[", 100_000), 400, "body", []string{"64"}},
	{"wrong type, then cut off", `{"title":5,"items":[`, 400, "body.items[0]", []string{"the end"}},
	{"a list", `[]`, 422, "body", []string{"an object"}},
	{"a string", `"x"`, 422, "body", []string{"an object"}},
	{"null", `null`, 422, "body", nil},
	{"another type", `{"title":5}`, 422, "body.title", []string{"a string", `"5"`}},
	{"number as a string", `{"title":"a","quantity":"5"}`, 422, "body.quantity", []string{"an integer"}},
	{"fraction", `{"title":"a","quantity":1.5}`, 422, "body.quantity", []string{"an integer", "1.5"}},
	{"beyond 32 bits", `{"title":"a","small":2147483648}`, 422, "body.small", []string{"2147483647", "2147483648"}},
	{"beyond 64 bits", `{"title":"a","big":9223372036854775808}`, 422, "body.big", []string{"9223372036854775807"}},
	{"far beyond", `{"title":"a","big":1e999}`, 422, "body.big", nil},
	{"no bool", `{"title":"a","urgent":"yes"}`, 422, "body.urgent", []string{"true or false", "yes"}},
	{"no list", `{"title":"a","tags":"x"}`, 422, "body.tags", []string{"a list"}},
	{"wrong item", `{"title":"a","tags":["x",7]}`, 422, "body.tags[1]", []string{"a string", `"7"`}},
	{"no time", `{"title":"a","when":"noon"}`, 422, "body.when", []string{"RFC 3339", "noon"}},
}

func TestRefusedBodies(t *testing.T) {
	s := newSite(t, Config{})
	for _, path := range []string{"/v1/wishes", "/v1/raw"} {
		for _, c := range bodies {
			t.Run(path+" "+c.name, func(t *testing.T) {
				s.t = t
				a := s.ask("POST", path, c.body).want(t, c.status, c.texts...)
				p := s.checkProblem(a)
				if len(p.Errors) == 0 || p.Errors[0].Field != c.field || p.Errors[0].Allowed == "" || !strings.Contains(p.Detail, c.field) {
					t.Errorf("want field %s in %s", c.field, a.body)
				}
			})
		}
	}
	s.t = t
}

// TestConstraints are those that only a typed route checks.
func TestConstraints(t *testing.T) {
	s := newSite(t, Config{})
	for _, c := range []struct {
		body, field, allowed, given string
	}{
		{`{}`, "body.title", "given", "nothing"},
		{`{"title":"a","kind":"loan"}`, "body.kind", `one of "gift, own"`, "loan"},
		{`{"title":"a","quantity":11}`, "body.quantity", "a number <= 10", "11"},
		{`{"title":"a","quantity":10000000}`, "body.quantity", "a number <= 10", "10000000"},
		{`{"title":"a","items":[{"sku":"ab","quantity":1}]}`, "body.items[0].sku", "of length >= 3", "ab"},
		{`{"title":"a","items":[{"sku":"abc"}]}`, "body.items[0].quantity", "given", "nothing"},
		{`{"title":"a","tags":["1","2","3","4"]}`, "body.tags", "a list of length <= 3", "a list of 4"},
		{`{"title":"a","password":"hunter2"}`, "body.password", "of length >= 8", "[redacted]"},
	} {
		a := s.ask("POST", "/v1/wishes", c.body).want(t, 422, `"error":"invalid"`)
		p := s.checkProblem(a)
		if d := cmp.Diff([]problem.Field{{Field: c.field, Allowed: c.allowed, Given: c.given}}, p.Errors); d != "" {
			t.Errorf("%s: %s", c.body, d)
		}
	}
	p := s.checkProblem(s.ask("POST", "/v1/wishes", `{"title":"","quantity":0,"kind":"x"}`))
	if len(p.Errors) != 3 || !strings.Contains(p.Detail, "and 2 more") {
		t.Errorf("not all at once: %+v", p)
	}
	if strings.Contains(s.ask("POST", "/v1/raw", `{"title":"a","password":5}`).body, `"5"`) {
		t.Error("a password is repeated")
	}
}

func TestDepth(t *testing.T) {
	s := newSite(t, Config{})
	type open struct {
		Any any `json:"any"`
	}
	Add(s.Server, Route{Method: "POST", Path: "/v1/open", ID: "open"}, echo[open])
	nest := func(open, closing string, n int) string {
		return `{"any":` + strings.Repeat(open, n) + "1" + strings.Repeat(closing, n) + `}`
	}
	s.ask("POST", "/v1/open", nest("[", "]", body.MaxDepth-1)).want(t, 200)
	s.ask("POST", "/v1/open", nest("[", "]", body.MaxDepth)).want(t, 400, "64")
	s.ask("POST", "/v1/open", nest(`{"a":`, "}", body.MaxDepth)).want(t, 400, "64")
	s.ask("POST", "/v1/open", nest(`[`, "]", 200_000)).want(t, 400, "64")
	s.ask("POST", "/v1/open", strings.Repeat("[", 500_000)).want(t, 400, "64")
	var v open
	if err := decodeJSON([]byte(nest("[", "]", body.MaxDepth)), &v); levee.CodeOf(err) != levee.CodeMalformed {
		t.Error(err)
	}
}

func TestManyKeysAndFields(t *testing.T) {
	s := newSite(t, Config{})
	var b strings.Builder
	b.WriteString(`{"title":"a"`)
	for i := range 30_000 {
		fmt.Fprintf(&b, `,"k%d":1`, i)
	}
	start := time.Now()
	p := s.checkProblem(s.ask("POST", "/v1/wishes", b.String()+"}").want(t, 422))
	if len(p.Errors) != maxFields {
		t.Errorf("%d errors", len(p.Errors))
	}
	s.ask("POST", "/v1/wishes", b.String()+`,"k29999":1}`).want(t, 400, "twice")
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v: quadratic", d)
	}
}

func TestForm(t *testing.T) {
	s := newSite(t, Config{})
	type flat struct {
		Title  string   `json:"title" minLength:"1"`
		Count  int32    `json:"count,omitempty" maximum:"9"`
		Urgent bool     `json:"urgent,omitempty"`
		Tags   []string `json:"tags,omitempty"`
	}
	Add(s.Server, Route{Method: "POST", Path: "/v1/flat", ID: "flat"}, echo[flat])
	form := func(body string) answered { return s.ask("POST", "/v1/flat", body, "Content-Type", formType) }
	for body, want := range map[string]string{
		"title=tea":                                     `{"title":"tea"}`,
		"title=tea+%26+milk&count=3&urgent=on":          `{"title":"tea \u0026 milk","count":3,"urgent":true}`,
		"title=%22%7D&tags=a&tags=b":                    `{"title":"\"}","tags":["a","b"]}`,
		"title=tea&count=":                              `{"title":"tea"}`,
		"title=%E8%8C%B6&urgent=false&tags=x%2Cy%0D%0A": `{"title":"茶","tags":["x,y\r\n"]}`,
	} {
		if a := form(body).want(t, 200); a.body != want {
			t.Errorf("%s became %s, want %s", body, a.body, want)
		}
	}
	for body, c := range map[string]struct {
		status int
		field  string
	}{
		"title=a&title=b":     {400, "body.title"},
		"title=a&count=x":     {422, "body.count"},
		"title=a&count=1,2":   {422, "body.count"},
		"title=a&count=99":    {422, "body.count"},
		"title=a&count=%203":  {422, "body.count"},
		"title=a&urgent=yes":  {422, "body.urgent"},
		"title=a&price=1":     {422, "body.price"},
		"title=":              {422, "body.title"},
		"title=%zz":           {400, "body"},
		`{"title":"a"}`:       {422, `body.{"title":"a"}`},
		"title=a&tags[]=1":    {422, "body.tags[]"},
		"title=a;count=1":     {400, "body"},
		"title=a&Title=b":     {422, "body.Title"},
		"title=a&count=1e400": {422, "body.count"},
	} {
		p := s.checkProblem(form(body).want(t, c.status))
		if len(p.Errors) == 0 || p.Errors[0].Field != c.field {
			t.Errorf("%s: want %s in %+v", body, c.field, p)
		}
	}
	// A body that nests has no form.
	s.ask("POST", "/v1/wishes", "title=a", "Content-Type", formType).want(t, 415, "application/json")
}

func TestMultipart(t *testing.T) {
	s := newSite(t, Config{})
	send := func(name string, size int, cut bool) answered {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		if err := w.WriteField("name", name); err != nil {
			t.Fatal(err)
		}
		f, err := w.CreateFormFile("file", "a.txt")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, strings.Repeat("x", size))
		if !cut {
			w.Close()
		}
		r := httptest.NewRequest("POST", "/v1/files", &b)
		r.Header.Set("Content-Type", w.FormDataContentType())
		return s.do(r)
	}
	send("tea", 100, false).want(t, 200, `"size":100`)
	send("t", 100, false).want(t, 422, "form.name")
	send("tea", 5000, false).want(t, 413, "4000")
	send("tea", 100, true).want(t, 422, "multipart")
	s.ask("POST", "/v1/files", `{}`).want(t, 415, "multipart/form-data")
}

func TestExactNumbers(t *testing.T) {
	s := newSite(t, Config{})
	for _, path := range []string{"/v1/wishes", "/v1/raw"} {
		for _, n := range []string{"9007199254740993", "9223372036854775807", "-9223372036854775808"} {
			s.ask("POST", path, `{"title":"a","big":`+n+`}`).want(t, 201, `"big":`+n)
		}
	}
}

type every struct {
	I8   int8            `json:"i8"`
	U16  uint16          `json:"u16"`
	F32  float32         `json:"f32"`
	P    *int            `json:"p"`
	M    map[string]int8 `json:"m"`
	B    []byte          `json:"b"`
	A    any             `json:"a"`
	Raw  json.RawMessage `json:"raw"`
	T    time.Time       `json:"t"`
	Q    int             `json:"q,string"`
	Self *every          `json:"self"`
	Many []every         `json:"many"`
	Skip string          `json:"-"`
	Dash string          `json:"-,"`
	Two  [2]int          `json:"two"`
	Name string
	Embedded
	hidden int
}

type Embedded struct {
	In   bool   `json:"in"`
	Name string // hidden by the outer one
}

func TestShapes(t *testing.T) {
	for body, field := range map[string]string{
		`{"i8":127,"u16":65535,"f32":1.5,"p":null,"m":{"x":1},"b":"aGk=","a":[1,{}],"raw":{"x":[1]},"t":"2026-01-02T03:04:05Z","q":"7"}`: "",
		`{"self":{"self":{"i8":1}},"many":[{"many":[]}],"-":"x","two":[1,2],"Name":"n","in":true}`:                                       "",
		`{"m":null,"b":null,"a":null,"raw":null,"self":null,"many":null}`:                                                                "",
		`{"i8":128}`:                "body.i8",
		`{"i8":-129}`:               "body.i8",
		`{"u16":-1}`:                "body.u16",
		`{"u16":65536}`:             "body.u16",
		`{"f32":1e39}`:              "body.f32",
		`{"p":1.5}`:                 "body.p",
		`{"m":{"x":1,"y":200}}`:     "body.m.y",
		`{"m":{"x":1,"x":2}}`:       "body.m.x",
		`{"b":"###"}`:               "body.b",
		`{"i8":null}`:               "body.i8",
		`{"t":null}`:                "body.t",
		`{"self":{"self":{"i":1}}}`: "body.self.self.i",
		`{"many":[{},{"i8":"x"}]}`:  "body.many[1].i8",
		`{"Skip":"x"}`:              "body.Skip",
		`{"hidden":1}`:              "body.hidden",
		`{"name":"n"}`:              "body.name",
		`{"raw":{"x":1,"x":2}}`:     "body.raw.x",
		`{"a":1e999}`:               "body.a",
	} {
		var v every
		err := decodeJSON([]byte(body), &v)
		if (field == "") != (err == nil) {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if err == nil {
			var std every
			if err := json.Unmarshal([]byte(body), &std); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(v, std) {
				t.Errorf("%s: %+v, want %+v", body, v, std)
			}
			continue
		}
		if e := fieldsOf(err); len(e) == 0 || e[0].Field != field {
			t.Errorf("%s: %v, want field %s", body, err, field)
		}
	}
	if err := decodeJSON([]byte("{}"), every{}); err == nil {
		t.Error("no pointer")
	}
}

type pickyWord string

func (p *pickyWord) UnmarshalText(b []byte) error {
	if *p = pickyWord(b); *p != "yes" {
		return errors.New("a secret of the inside")
	}
	return nil
}

// TestOwnReaders: a type that reads itself may refuse; its words are for the log.
func TestOwnReaders(t *testing.T) {
	s := newSite(t, Config{})
	type body struct {
		Word pickyWord `json:"word"`
	}
	Add(s.Server, Route{Method: "POST", Path: "/v1/picky", ID: "picky"}, echo[body])
	s.ask("POST", "/v1/picky", `{"word":"yes"}`).want(t, 200)
	s.ask("POST", "/v1/picky", `{"word":"no"}`).want(t, 422, "not allowed where it stands")
	var v body
	if err := decodeJSON([]byte(`{"word":"no"}`), &v); levee.CodeOf(err) != levee.CodeInvalid {
		t.Error(err)
	}
}

func TestReadJSONLimits(t *testing.T) {
	for _, c := range []struct {
		max, announced int64
		body           string
		code           levee.Code
	}{
		{10, -1, `{"in":true}`, levee.CodeTooLarge},
		{11, -1, `{"in":true}`, ""},
		{10, 11, `{"in":true}`, levee.CodeTooLarge},
		{0, 11, `{"in":true}`, ""},
	} {
		r := httptest.NewRequest("POST", "/", io.NopCloser(strings.NewReader(c.body)))
		r.ContentLength = c.announced
		var v Embedded
		if err := ReadJSON(r, c.max, &v); levee.CodeOf(err) != c.code {
			t.Errorf("%+v: %v", c, err)
		}
	}
	r := httptest.NewRequest("POST", "/", http.NoBody)
	if err := ReadJSON(r, 9, new(Embedded)); levee.CodeOf(err) != levee.CodeMalformed {
		t.Error(err)
	}
}

func fieldsOf(err error) []levee.Field {
	return describeFields(err)
}

func describeFields(err error) (out []levee.Field) {
	for _, f := range problem.Of(err).Errors {
		out = append(out, levee.Field(f))
	}
	return out
}

// FuzzReadJSON: what is accepted, encoding/json accepts and reads alike; what it refuses is refused; errors always name a field
// and never show a whole body.
func FuzzReadJSON(f *testing.F) {
	for _, c := range bodies {
		f.Add([]byte(c.body))
	}
	f.Add([]byte(`{"i8":127,"m":{"x":1},"self":{"many":[{}]},"b":"aGk=","t":"2026-01-02T03:04:05Z","two":[1,2,3]}`))
	f.Add([]byte(`{"Name":"\ud83d\ude00\u0000","a":{"":[-0.0e-5,null]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, std every
		err := decodeJSON(data, &got)
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		stdErr := dec.Decode(&std)
		if err == nil {
			if stdErr != nil {
				t.Fatalf("%q is accepted; encoding/json says %v", data, stdErr)
			}
			if !reflect.DeepEqual(got, std) {
				t.Fatalf("%q is read as %+v, by encoding/json as %+v", data, got, std)
			}
		} else {
			code := levee.CodeOf(err)
			if code != levee.CodeMalformed && code != levee.CodeInvalid {
				t.Fatalf("%q: %v", data, err)
			}
			if e := fieldsOf(err); len(e) == 0 || e[0].Field == "" || e[0].Allowed == "" || len(err.Error()) > 1000 {
				t.Fatalf("%q: %v", data, err)
			}
		}
		if (body.Check(data, nil) == nil) && !json.Valid(data) {
			t.Fatalf("%q is no JSON", data)
		}
		// What is encoded is read by encoding/json, and the same either way.
		var v any
		if json.Unmarshal(data, &v) == nil {
			ours, err := marshalJSON(v)
			theirs, stdErr := json.Marshal(v)
			var back any
			if (err == nil) != (stdErr == nil) || json.Unmarshal(ours, &back) != nil || !reflect.DeepEqual(v, back) || bytes.ContainsAny(ours, "<>&") {
				t.Fatalf("%q is written as %s, by encoding/json as %s", data, ours, theirs)
			}
		}
	})
}

// FuzzForm: a form becomes JSON that passes, or is refused by name.
func FuzzForm(f *testing.F) {
	f.Add("title=a&quantity=3&tags=x&tags=y&urgent=on")
	f.Add("title=%22%00&quantity=-0")
	f.Fuzz(func(t *testing.T, form string) {
		type flat struct {
			Title string   `json:"title"`
			N     int32    `json:"n"`
			F     float64  `json:"f"`
			On    bool     `json:"on"`
			Tags  []string `json:"tags"`
		}
		buf := bytes.NewBufferString(form)
		shape := body.Of(reflect.TypeFor[flat]())
		if err := body.FromForm(buf, shape); err != nil {
			if len(fieldsOf(err)) == 0 {
				t.Fatal(err)
			}
			return
		}
		if err := body.Check(buf.Bytes(), shape); err != nil {
			t.Fatalf("%q became %s: %v", form, buf, err)
		}
	})
}
