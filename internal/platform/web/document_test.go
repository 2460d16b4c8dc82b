package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"levee"
)

type node = map[string]any

// TestDocument walks the document as a reader would: every reference leads somewhere, every operation and path parameter is
// there, every error is a problem.
func TestDocument(t *testing.T) {
	s := newSite(t, Config{PublicURL: "https://shop.example"})
	a := s.ask("GET", "/v1/openapi.json", "").want(t, 200)
	var doc node
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc["openapi"] != "3.1.0" || doc["info"].(node)["title"] != "Test" || doc["info"].(node)["version"] != "1.2.3" {
		t.Errorf("%v", doc["info"])
	}
	if !strings.Contains(a.body, "https://shop.example") || strings.Contains(a.body, "$schema") {
		t.Error("servers are missing, or the $schema hook is on")
	}
	for _, ref := range regexp.MustCompile(`"\$ref": "([^"]+)"`).FindAllStringSubmatch(a.body, -1) {
		at := any(doc)
		for _, step := range strings.Split(strings.TrimPrefix(ref[1], "#/"), "/") {
			at = at.(node)[step]
			if at == nil {
				t.Fatalf("%s leads nowhere", ref[1])
			}
		}
	}
	ids := map[string]bool{}
	for path, item := range doc["paths"].(node) {
		for method, op := range item.(node) {
			op := op.(node)
			name := strings.ToUpper(method) + " " + path
			id, _ := op["operationId"].(string)
			if id == "" || ids[id] {
				t.Errorf("%s: operationId %q", name, id)
			}
			ids[id] = true
			var params []string
			for _, p := range asList(op["parameters"]) {
				if p.(node)["in"] == "path" {
					params = append(params, p.(node)["name"].(string))
					if p.(node)["required"] != true {
						t.Errorf("%s: %v", name, p)
					}
				}
			}
			if want := pathParams(path); !slices.Equal(params, want) {
				t.Errorf("%s has path parameters %v", name, params)
			}
			responses := op["responses"].(node)
			usual := 0
			for status, r := range responses {
				switch {
				case status == "default":
					t.Errorf("%s has a default answer", name)
				case status[0] >= '4':
					if ref, _ := r.(node)["$ref"].(string); ref != "#/components/responses/Problem"+status {
						t.Errorf("%s: %s is %v", name, status, r)
					}
				case status != "304":
					usual++
				}
			}
			if usual != 1 || responses["500"] == nil || responses["503"] == nil || responses["406"] == nil {
				t.Errorf("%s: %v", name, responses)
			}
		}
	}
	for _, line := range s.Routes() {
		if id := strings.Fields(line)[2]; !ids[id] {
			t.Errorf("%s is not in the document", line)
		}
	}
	put := doc["paths"].(node)["/v1/secrets"].(node)["put"].(node)
	for _, status := range []string{"200", "400", "401", "403", "406", "408", "413", "415", "422", "429", "500", "503"} {
		if put["responses"].(node)[status] == nil {
			t.Errorf("putSecret has no %s", status)
		}
	}
	if !strings.Contains(fmt.Sprint(put["security"], put["x-roles"]), "bearer") || !strings.Contains(fmt.Sprint(put["x-roles"]), "operator") {
		t.Errorf("%v %v", put["security"], put["x-roles"])
	}
	get := doc["paths"].(node)["/v1/wishes/{id}"].(node)["get"].(node)["responses"].(node)
	if get["304"] == nil || get["412"] == nil || get["404"] == nil {
		t.Errorf("%v", get)
	}
	post := doc["paths"].(node)["/v1/wishes"].(node)["post"].(node)
	if !strings.Contains(fmt.Sprint(post["parameters"]), "Idempotency-Key") {
		t.Error("Idempotency-Key is not documented")
	}
	if s2 := newSite(t, Config{PublicURL: "https://shop.example"}); s2.ask("GET", "/v1/openapi.json", "").body != a.body {
		t.Error("the document is not the same each time")
	}
	raw := doc["paths"].(node)["/v1/raw"].(node)["post"].(node)
	if !strings.Contains(fmt.Sprint(raw["requestBody"]), "#/components/schemas/Wish") {
		t.Errorf("%v", raw["requestBody"])
	}
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

// TestProblemSchemaHasTeeth: the check that all error tests use refuses what is no problem.
func TestProblemSchemaHasTeeth(t *testing.T) {
	s := newSite(t, Config{})
	s.Handler()
	schemas := s.api.OpenAPI().Components.Schemas
	for _, bad := range []node{
		{}, {"error": "x"}, {"type": "t", "title": "t", "status": "404", "detail": "d", "error": "e"},
		{"type": "t", "title": "t", "status": 404.0, "detail": "d", "error": "e", "stack": "s"},
		{"type": "t", "title": "t", "status": 404.0, "detail": "d", "error": "e", "errors": []any{node{"field": "f"}}},
	} {
		var res huma.ValidateResult
		huma.Validate(schemas, schemas.Map()["Problem"], huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, bad, &res)
		if len(res.Errors) == 0 {
			t.Errorf("%v passes", bad)
		}
	}
}

func TestSchemaNames(t *testing.T) {
	a := &api{}
	a.adding = &route{Route: Route{ID: "createOrder"}, inType: "createInput", outType: "createOutput"}
	type local struct{}
	for _, c := range []struct {
		t    reflect.Type
		hint string
		want string
	}{
		{reflect.TypeFor[wish](), "", "Wish"},
		{reflect.TypeFor[*wish](), "", "Wish"},
		{reflect.TypeFor[levee.Money](), "", "Money"},
		{reflect.TypeFor[http.Header](), "", "HttpHeader"},
		{reflect.TypeFor[json.Decoder](), "", "JsonDecoder"},
		{reflect.TypeFor[bytes.Buffer](), "", "BytesBuffer"},
		{reflect.TypeFor[generic[bytes.Buffer]](), "", "GenericBytesBuffer"},
		{reflect.TypeFor[struct{}](), "createInputBody", "CreateOrderRequest"},
		{reflect.TypeFor[struct{}](), "createOutputBody", "CreateOrderResponse"},
		{reflect.TypeFor[struct{}](), "createOrderRequest", "CreateOrderRequest"},
		{reflect.TypeFor[struct{}](), "linesItem", "CreateOrderLinesItem"},
		{reflect.TypeFor[local](), "", "Local"},
	} {
		if got := a.schemaName(c.t, c.hint); got != c.want {
			t.Errorf("%v (%s) is called %s, want %s", c.t, c.hint, got, c.want)
		}
	}
}

type generic[T any] struct{ V T }

func TestDocsPage(t *testing.T) {
	s := newSite(t, Config{})
	page := s.ask("GET", "/docs", "", "Accept", "text/html").want(t, 200, "swagger-ui", "/v1/openapi.json")
	csp := page.Header.Get("Content-Security-Policy")
	if strings.Contains(csp, "http:") || strings.Contains(csp, "https:") || strings.Contains(csp, "unsafe-eval") ||
		strings.Count(csp, "'sha256-") != strings.Count(page.body, "<script>") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("%s", csp)
	}
	if strings.Contains(regexp.MustCompile(`script-src[^;]*`).FindString(csp), "unsafe-inline") {
		t.Errorf("%s", csp)
	}
	if strings.Contains(page.body, `src="http`) || strings.Contains(page.body, `href="http`) || strings.Contains(page.body, `src="//`) {
		t.Error("the page loads from elsewhere")
	}
	assets := regexp.MustCompile(`(?:src|href)="(/docs/[^"]+)"`).FindAllStringSubmatch(page.body, -1)
	if len(assets) < 4 {
		t.Fatalf("%v", assets)
	}
	for _, asset := range assets {
		for _, encoding := range []string{"gzip", "identity"} {
			a := s.ask("GET", asset[1], "", "Accept-Encoding", encoding).want(t, 200)
			if len(a.body) < 100 || a.Header.Get("Content-Type") == "" || (a.Header.Get("Content-Encoding") == "gzip" && encoding != "gzip") {
				t.Errorf("%s: %d bytes, %v", asset[1], len(a.body), a.Header)
			}
		}
	}
	s.ask("GET", "/docs/", "").want(t, 200, "swagger-ui")
	s.ask("GET", "/docs", "", "If-None-Match", page.Header.Get("ETag")).want(t, 304)
	for _, path := range []string{"/docs/nothing.js", "/docs/embed.go/x", "/docs/..%2fweb.go", "/docs/%2e%2e/x", "/docs/a%00b"} {
		s.ask("GET", path, "").want(t, 404)
	}
	s.ask("POST", "/docs", "{}").want(t, 405)
}

func TestLinks(t *testing.T) {
	s := newSite(t, Config{})
	Add(s.Server, Route{Method: "GET", Path: "/v1/inner", ID: "listInner", Roles: levee.RoleOperator},
		func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
	hrefs := func(a answered) (out []string) {
		var b linksBody
		if err := json.Unmarshal([]byte(a.body), &b); err != nil {
			t.Fatal(err)
		}
		for _, l := range b.Links {
			out = append(out, l.Href)
		}
		return out
	}
	visitor := hrefs(s.ask("GET", "/v1", "").want(t, 200))
	operator := hrefs(s.ask("GET", "/v1", "", auth("operator")...).want(t, 200))
	if slices.Contains(visitor, "/v1/inner") || !slices.Contains(operator, "/v1/inner") {
		t.Errorf("%v, %v", visitor, operator)
	}
	root := s.ask("GET", "/", "").want(t, 200)
	if !slices.Equal(hrefs(root), visitor) {
		t.Error("/ and /v1 differ")
	}
	for _, href := range visitor { // every link leads somewhere
		if !strings.Contains(href, "stream") {
			s.ask("GET", href, "").want(t, 200)
		}
	}
	if !slices.Contains(visitor, "/v1/wishes") {
		t.Errorf("%v", visitor)
	}
	s.ask("GET", "/", "", "Accept", "image/png").want(t, 406)
}

func TestHomePage(t *testing.T) {
	s := newSite(t, Config{})
	s.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "home "+r.URL.Path) }))
	browser := []string{"Accept", "text/html,*/*;q=0.8"}
	for path, want := range map[string]string{"/": "home /", "/shop/tea": "home /shop/tea"} {
		if a := s.ask("GET", path, "", browser...).want(t, 200); a.body != want {
			t.Error(a.body)
		}
	}
	s.ask("GET", "/", "").want(t, 200, `"links"`)
	s.ask("GET", "/v1/nothing", "", browser...).want(t, 404, "not_found")
	s.ask("POST", "/shop/tea", "{}").want(t, 404)
	s.ask("POST", "/v1/time", "{}").want(t, 405)
}

func TestHealthAndReadiness(t *testing.T) {
	ready := error(nil)
	s := newSite(t, Config{}, func(p *Parts) { p.Ready = func(context.Context) error { return ready } })
	s.ask("GET", "/healthz", "").want(t, 200, "ok")
	s.ask("GET", "/readyz", "").want(t, 200, "ready")
	ready = fmt.Errorf("dial tcp 10.0.0.7: a secret of the inside")
	s.ask("GET", "/readyz", "").want(t, 503, "not ready")
	s.ask("GET", "/healthz", "").want(t, 200)
	ready = levee.E(levee.CodeUnavailable, "three sales are not warmed yet")
	s.ask("GET", "/readyz", "").want(t, 503, "not warmed")

	d := newSite(t, Config{})
	d.ask("GET", "/readyz", "").want(t, 200)
}

func TestTime(t *testing.T) {
	s := newSite(t, Config{})
	a := s.ask("GET", "/v1/time", "").want(t, 200, `"unix_ms":`)
	if !regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z"`).MatchString(a.body) || a.Header.Get("Cache-Control") != "private, no-store" {
		t.Errorf("%s %v", a.body, a.Header)
	}
}

// TestNoTestTools: net/http/httptest in the program would put a flag of its own on the command line.
func TestNoTestTools(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skip(err) // no toolchain where the compiled test runs
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "net/http/httptest") {
			t.Error(filepath.Base(line))
		}
	}
}
