package catalog

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"levee"
	"levee/internal/platform/web"
)

// site is the room behind a server without rate limits. Who asks says so in the header Test-Role.
type site struct {
	*shop
	t   testing.TB
	url string
}

func serve(t *testing.T) *site {
	t.Helper()
	h := open(t, Config{ImportBytes: 1 << 20})
	srv, err := web.New(web.Config{}, web.Parts{Obs: h.p.Obs, DB: h.p.DB, Title: "test", Version: "0",
		Authenticate: func(r *http.Request) (levee.Actor, error) {
			switch r.Header.Get("Test-Role") {
			case "operator":
				return levee.Actor{User: 7, Roles: levee.RoleOperator}, nil
			case "customer":
				return levee.Actor{User: 8, Roles: levee.RoleCustomer}, nil
			}
			return levee.Actor{}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	h.Routes(srv)
	s := httptest.NewServer(srv.Handler())
	t.Cleanup(s.Close)
	return &site{shop: h, t: t, url: s.URL}
}

type answer struct {
	*http.Response
	body string
}

// ask sends one request; headers are name, value pairs.
func (s *site) ask(role, method, path string, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Test-Role", role)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{w, string(b)}
}

// want checks the status and what the body holds; a word that begins with ! must not be in it.
func (a answer) want(t testing.TB, status int, words ...string) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	for _, w := range words {
		if not, ok := strings.CutPrefix(w, "!"); ok == strings.Contains(a.body, not) || !ok && !strings.Contains(a.body, w) {
			t.Errorf("%s %s: %q in %s", a.Request.Method, a.Request.URL.Path, w, a.body)
		}
	}
	return a
}

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

const teaJSON = `{"code":"tea","title":"<b>Tea</b>","description":"green","state":"on_sale","skus":[
	{"code":"tea-1","name":"100 g","price":{"amount":1900,"currency":"CNY"},"on_hand":5}]}`

func TestHTTPProducts(t *testing.T) {
	s := serve(t)
	s.ask("", "POST", "/v1/products", teaJSON).want(t, 401, "unauthenticated")
	s.ask("customer", "POST", "/v1/products", teaJSON).want(t, 403, "forbidden")
	key := []string{"Idempotency-Key", "make-tea-1"}
	made := s.ask("operator", "POST", "/v1/products", teaJSON, key...).want(t, 201, `"code":"tea"`, `"version":1`, `"amount":1900`, `"on_hand":5`)
	again := s.ask("operator", "POST", "/v1/products", teaJSON, key...).want(t, 201)
	var p, p2 productView
	made.into(t, &p)
	again.into(t, &p2)
	if p.ID != p2.ID || !strings.HasPrefix(p.ID, "prd_") || made.Header.Get("Location") != "/v1/products/"+p.ID {
		t.Errorf("%q and %q at %q", p.ID, p2.ID, made.Header.Get("Location"))
	}
	s.ask("operator", "POST", "/v1/products", teaJSON).want(t, 409, "conflict", "tea")
	s.ask("operator", "POST", "/v1/products", `{"title":"x","skus":[{"code":"c","price":{"amount":-1,"currency":"CNY"}}]}`).want(t, 422, "amount")
	s.ask("operator", "POST", "/v1/products", `{"titel":"x"}`).want(t, 422, "titel")

	self := p.Links.Self
	got := s.ask("", "GET", self, "").want(t, 200, `"description":"green"`)
	tag := got.Header.Get("ETag")
	if tag == "" {
		t.Fatal("no ETag")
	}
	s.ask("", "GET", self, "", "If-None-Match", tag).want(t, 304)
	s.ask("operator", "POST", "/v1/skus/"+p.SKUs[0].ID+"/movements", `{"delta":-2,"note":"lost"}`).want(t, 201, `"on_hand":3`)
	s.ask("", "GET", self, "", "If-None-Match", tag).want(t, 200, `"on_hand":3`)

	s.ask("", "PATCH", self, `{"version":1,"title":"Mine"}`).want(t, 401)
	s.ask("customer", "PATCH", self, `{"version":1,"title":"Mine"}`).want(t, 403)
	s.ask("operator", "PATCH", self, `{"title":"no version"}`).want(t, 428, "If-Match")
	s.ask("operator", "PATCH", self, `{"version":1,"title":"Black tea"}`).want(t, 200, "Black tea", `"version":2`)
	s.ask("operator", "PATCH", self, `{"version":1,"title":"Lost tea"}`).want(t, 409, `"error":"conflict"`, `"version":2`)
	s.ask("", "GET", self, "").want(t, 200, "Black tea", "!Lost")

	sku := "/v1/skus/" + p.SKUs[0].ID
	s.ask("", "GET", sku, "").want(t, 200, "tea-1")
	s.ask("operator", "PATCH", sku, `{"version":1,"price":{"amount":2000,"currency":"CNY"}}`).want(t, 200, "2000")
	s.ask("operator", "POST", self+"/skus", `{"code":"tea-2","price":{"amount":1,"currency":"CNY"}}`).want(t, 201, "tea-2")
	s.ask("operator", "POST", self+"/skus", `{"code":"tea-2","price":{"amount":1,"currency":"CNY"}}`).want(t, 409, "tea-2")
	s.ask("operator", "POST", sku+"/movements", `{"delta":-4}`).want(t, 409, "out_of_stock")
	s.ask("operator", "POST", sku+"/movements", `{"delta":0}`).want(t, 422, "delta")
	s.ask("customer", "GET", sku+"/movements", "").want(t, 403)
	page := s.ask("operator", "GET", sku+"/movements?limit=1", "").want(t, 200, `"delta":-2`, "lost", "usr_")
	var ledger struct{ Next string }
	page.into(t, &ledger)
	s.ask("operator", "GET", sku+"/movements?limit=1&after="+ledger.Next, "").want(t, 200, `"delta":5`, "create")

	s.ask("", "GET", "/v1/products?prefix=black", "").want(t, 200, "Black tea", "!green")
	s.ask("", "GET", "/v1/products?after=nonsense", "").want(t, 422, "after")
	s.ask("operator", "PATCH", self, `{"version":2,"state":"withdrawn"}`).want(t, 200)
	s.ask("", "GET", self, "").want(t, 410, "gone")
	s.ask("", "GET", sku, "").want(t, 410, "gone")
	s.ask("operator", "GET", self, "").want(t, 200, "withdrawn")
	s.ask("", "GET", "/v1/products", "").want(t, 200, "!Black")

	// An id of another kind, a number and a forged one are all the same nothing.
	for _, id := range []string{"1", p.SKUs[0].ID, "prd_" + strings.Repeat("0", 26), "%00"} {
		s.ask("operator", "GET", "/v1/products/"+id, "").want(t, 404, "not_found")
	}
}

func TestHTTPPictures(t *testing.T) {
	s := serve(t)
	var p productView
	s.ask("operator", "POST", "/v1/products", teaJSON).want(t, 201).into(t, &p)
	data := string(pngOf(t, 20, 10))
	path := p.Links.Self + "/pictures?alt=a+cup"
	s.ask("", "POST", path, data, "Content-Type", "image/png").want(t, 401)
	made := s.ask("operator", "POST", path, data, "Content-Type", "text/html").want(t, 201, "image/png", "a cup")
	var c pictureView
	made.into(t, &c)
	s.ask("operator", "POST", path, "<svg/>", "Content-Type", "image/png").want(t, 415)
	long := strings.Repeat("a", MaxName+1)
	s.ask("operator", "POST", p.Links.Self+"/pictures?alt="+long, data, "Content-Type", "image/png").want(t, 422, `"query.alt"`)
	s.ask("operator", "POST", path, "--x\r\nContent-Disposition: form-data; name=\"alt\"\r\n\r\n"+long+"\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n"+
		data+"\r\n--x--\r\n", "Content-Type", "multipart/form-data; boundary=x").want(t, 422, `"body.alt"`)
	s.ask("operator", "POST", path, data+strings.Repeat("x", MaxPicture), "Content-Type", "image/png").want(t, 413)
	got := s.ask("", "GET", c.Links.Self, "").want(t, 200)
	if got.body != data || got.Header.Get("Content-Type") != "image/png" || got.Header.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.Contains(got.Header.Get("Content-Security-Policy"), "sandbox") || !strings.HasPrefix(got.Header.Get("Cache-Control"), "public") {
		t.Errorf("%d bytes, %v", len(got.body), got.Header)
	}
	s.ask("", "GET", c.Links.Self, "", "If-None-Match", got.Header.Get("ETag")).want(t, 304)
	s.ask("", "GET", c.Links.Self, "", "If-None-Match", `"other"`).want(t, 200)
	s.ask("", "GET", p.Links.Self, "").want(t, 200, c.ID)
	s.ask("", "DELETE", c.Links.Self, "").want(t, 401)
	s.ask("operator", "DELETE", c.Links.Self, "").want(t, 204)
	s.ask("", "GET", c.Links.Self, "").want(t, 404)
}

func TestHTTPBulk(t *testing.T) {
	s := serve(t)
	file := bigCSV(6)
	const path = "/v1/products/import"
	csv := []string{"Content-Type", "text/csv; charset=utf-8"}
	s.ask("", "POST", path, file, csv...).want(t, 401)
	s.ask("customer", "POST", path, file, csv...).want(t, 403)
	s.ask("operator", "POST", path, file, "Content-Type", "application/vnd.ms-excel").want(t, 415, "text/csv")
	s.ask("operator", "POST", path+"?mode=some", file, csv...).want(t, 422, "all or partial")
	s.ask("operator", "POST", path, strings.Repeat("x", 1<<20+1), csv...).want(t, 413)
	bad := strings.Replace(file, ",CNY,", ",yuan,", 1)
	s.ask("operator", "POST", path, bad, csv...).want(t, 422, "line[2].currency", "ISO 4217", `"given":"yuan"`)
	s.ask("", "GET", "/v1/products", "").want(t, 200, "!Product number")
	s.ask("operator", "POST", path+"?mode=partial", bad, csv...).want(t, 200, `"failed":1`, `"line":2`, `"skus_created":5`)
	s.ask("operator", "POST", path, file, csv...).want(t, 200, `"failed":0`, `"skus_created":1`, `"products_created":0`, `"errors":[]`)
	s.ask("", "GET", "/v1/products/export", "").want(t, 401)
	for format, media := range map[string]string{"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"} {
		got := s.ask("operator", "GET", "/v1/products/export?format="+format, "").want(t, 200, "S-000005")
		if got.Header.Get("Content-Type") != media || !strings.Contains(got.Header.Get("Content-Disposition"), "products."+format) {
			t.Errorf("%v", got.Header)
		}
		s.ask("operator", "POST", path+"?stock=set", got.body, "Content-Type", strings.SplitN(media, ";", 2)[0]).
			want(t, 200, `"skus_changed":0`, `"stock_changed":0`, `"products_changed":0`)
	}
	got := s.ask("operator", "GET", "/v1/products/export?bom=true", "").want(t, 200)
	if !bytes.HasPrefix([]byte(got.body), []byte("\xef\xbb\xbfproduct_code")) {
		t.Errorf("begins with %q", got.body[:20])
	}
	s.ask("operator", "POST", path, got.body, csv...).want(t, 200, `"failed":0`)
	s.ask("operator", "GET", "/v1/products/export?format=xls", "").want(t, 422, "csv or jsonl")
}
