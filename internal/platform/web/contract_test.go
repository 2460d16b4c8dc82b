package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/problem"
)

// two is a site with a second version of one operation, and one thing that can be changed.
func two(t *testing.T, change ...func(*Parts)) *site {
	s := newSite(t, Config{}, change...)
	said := func(version string) func(context.Context, *struct{}) (*struct{ Body string }, error) {
		return func(context.Context, *struct{}) (*struct{ Body string }, error) {
			return &struct{ Body string }{version}, nil
		}
	}
	Add(s.Server, Route{Method: "GET", Path: "/v1/moon", ID: "moon1"}, said("one"))
	Add(s.Server, Route{Method: "GET", Path: "/v2/moon", ID: "moon2"}, said("two"))
	return s
}

// TestVersions is the matrix: every way to name a version beside every path.
func TestVersions(t *testing.T) {
	s := two(t)
	s.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the shop") }))
	for _, path := range []string{"", "1", "2", "9"} {
		for _, head := range []string{"", "1", "2", "9"} {
			for _, accept := range []string{"", "1", "2", "9"} {
				for _, query := range []string{"", "1", "2", "9"} {
					target := "/moon"
					if path != "" {
						target = "/v" + path + target
					}
					if query != "" {
						target += "?version=" + query
					}
					var headers []string
					if head != "" {
						headers = append(headers, "Api-Version", head)
					}
					if accept != "" {
						headers = append(headers, "Accept", "application/json; version="+accept)
					}
					named := map[string]bool{}
					unknown := false
					for _, v := range []string{head, accept, query} {
						named[v] = v != ""
						unknown = unknown || v == "9"
					}
					delete(named, "")
					want, body := 200, ""
					all := map[string]bool{}
					for v := range named {
						all[v] = true
					}
					if path != "" {
						all[path] = true
					}
					switch {
					case path == "9":
						want = 404
					case len(all) == 0:
						body = "the shop"
					case unknown:
						want = 406
					case len(all) > 1:
						want = 400
					case all["1"]:
						body = `"one"`
					default:
						body = `"two"`
					}
					if unknown && len(all) > 1 && path != "9" { // which is told first is no promise
						if got := s.ask("GET", target, "", headers...).StatusCode; got != 406 && got != 400 {
							t.Errorf("%s %v: %d", target, headers, got)
						}
						continue
					}
					got := s.ask("GET", target, "", headers...)
					if got.StatusCode != want || body != "" && strings.TrimSpace(got.body) != body {
						t.Errorf("%s %v: %d %s, want %d %s", target, headers, got.StatusCode, got.body, want, body)
					}
				}
			}
		}
	}
	s.ask("POST", "/moon", "", "Api-Version", "1").want(t, 405)
	s.ask("GET", "/mars", "", "Api-Version", "9").want(t, 200, "the shop") // no version has it
	s.ask("GET", "/v1/moon?version=1&version=2", "").want(t, 400, "query.version")
	s.ask("GET", "/v1/moon", "", "Accept", "application/json; version=2, application/json; version=1; q=0.5").want(t, 200)
}

// TestEnding: an operation that goes says so, and is gone from the minute on, by the house's clock.
func TestEnding(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newSite(t, Config{}, func(p *Parts) {
		p.Obs.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	sunset := now.Add(time.Hour)
	Add(s.Server, Route{Method: "GET", Path: "/v1/old", ID: "old", Ends: &Ending{Deprecated: now.Add(-time.Hour), Sunset: sunset, Successor: "/v2/new"}},
		func(context.Context, *struct{}) (*struct{ Body string }, error) {
			return &struct{ Body string }{"still"}, nil
		})
	a := s.ask("GET", "/v1/old", "").want(t, 200, "still")
	for name, want := range map[string]string{"Deprecation": "@1893452400", "Sunset": "Tue, 01 Jan 2030 01:00:00 GMT", "Link": `</v2/new>; rel="successor-version"`} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	mu.Lock()
	now = sunset
	mu.Unlock()
	a = s.ask("GET", "/v1/old", "").want(t, 410, `"error":"gone"`, "/v2/new")
	if a.Header.Get("Sunset") == "" {
		t.Error("what is gone does not say since when")
	}
	s.ask("GET", "/v1/old", "", "Accept-Language", "zh").want(t, 410, "请改用 /v2/new")
}

// TestChinese: what a schema, the body's reader and the router refuse is said in Chinese to its end.
func TestChinese(t *testing.T) {
	s := newSite(t, Config{})
	ask := []struct {
		method, path, body string
		headers            []string
	}{
		{"POST", "/v1/wishes", `{}`, nil}, {"POST", "/v1/wishes", `{"title":""}`, nil}, {"POST", "/v1/wishes", `{"title":"` + strings.Repeat("a", 21) + `"}`, nil},
		{"POST", "/v1/wishes", `{"title":"a","kind":"x"}`, nil}, {"POST", "/v1/wishes", `{"title":"a","quantity":0}`, nil}, {"POST", "/v1/wishes", `{"title":"a","quantity":99}`, nil},
		{"POST", "/v1/wishes", `{"title":"a","tags":["1","2","3","4"]}`, nil}, {"POST", "/v1/wishes", `{"title":1}`, nil}, {"POST", "/v1/wishes", `{"title":"a","urgent":"x"}`, nil},
		{"POST", "/v1/wishes", `{"title":"a","items":{}}`, nil}, {"POST", "/v1/wishes", `{"title":"a","items":[1]}`, nil}, {"POST", "/v1/wishes", `{"title":"a","when":"x"}`, nil},
		{"POST", "/v1/wishes", `{"title":"a","small":99999999999}`, nil}, {"POST", "/v1/wishes", `{"title":"a","extra":1}`, nil}, {"POST", "/v1/wishes", `{"title"`, nil},
		{"POST", "/v1/wishes", `{"title":"a","title":"b"}`, nil}, {"POST", "/v1/wishes", `a=b`, []string{"Content-Type", formType}}, {"POST", "/v1/wishes", `x`, []string{"Content-Type", "text/plain"}},
		{"GET", "/v1/wishes?limit=x", "", nil}, {"GET", "/v1/wishes?limit=1000", "", nil}, {"GET", "/v1/wishes?what=1", "", nil}, {"GET", "/v1/nothing", "", nil},
		{"PATCH", "/v1/wishes", "", nil}, {"GET", "/v1/wishes", "", []string{"Accept", "text/html"}}, {"GET", "/v1/wishes", "", []string{"Api-Version", "7"}},
		{"POST", "/v1/wishes", `{"title":"a"}`, []string{"Idempotency-Key", "a b"}}, {"DELETE", "/v1/wishes/1", "", nil}, {"POST", "/v1/batch", `{"requests":[{"method":"GET","path":"x"}]}`, nil},
	}
	for _, c := range ask {
		en := s.ask(c.method, c.path, c.body, c.headers...)
		zh := s.ask(c.method, c.path, c.body, append(c.headers, "Accept-Language", "zh-CN,zh;q=0.9,en;q=0.8")...)
		var e, z problem.Details
		if json.Unmarshal([]byte(en.body), &e) != nil || json.Unmarshal([]byte(zh.body), &z) != nil {
			t.Fatalf("%s %s: %s / %s", c.method, c.path, en.body, zh.body)
		}
		if l := zh.Header.Get("Content-Language"); l != "zh" {
			t.Errorf("%s %s %s is said in %q: %s", c.method, c.path, c.body, l, zh.body)
		}
		if z.Title == e.Title || z.Detail == e.Detail || z.Code != e.Code || z.Status != e.Status || len(z.Errors) != len(e.Errors) {
			t.Errorf("%s\n%s", en.body, zh.body)
		}
		for i := range z.Errors {
			if z.Errors[i].Field != e.Errors[i].Field || z.Errors[i].Given != e.Errors[i].Given {
				t.Errorf("fields and what was given are no words: %s", zh.body)
			}
		}
		if !strings.Contains(strings.Join(zh.Header["Vary"], ","), "Accept-Language") || en.Header.Get("Content-Language") != "en" {
			t.Errorf("%v", zh.Header)
		}
	}
}

type note struct {
	Title string   `json:"title" minLength:"1" maxLength:"20"`
	Text  string   `json:"text,omitempty" maxLength:"20"`
	Tags  []string `json:"tags,omitempty" maxItems:"3"`
	Stars int      `json:"stars,omitempty" maximum:"5"`
	Place *struct {
		City string `json:"city"`
	} `json:"place,omitempty"`
}

type notePatch struct {
	Title *string   `json:"title,omitempty" minLength:"1" maxLength:"20"`
	Text  *string   `json:"text,omitempty" maxLength:"20"`
	Tags  *[]string `json:"tags,omitempty" maxItems:"3"`
	Stars *int      `json:"stars,omitempty" maximum:"5"`
	Place *struct {
		City string `json:"city"`
	} `json:"place,omitempty"`
}

// notes is a site with one note that can be changed. between runs while a patch is being made, after the note was read.
func notes(t *testing.T) (s *site, n *note, version *int, between *func()) {
	s = newSite(t, Config{})
	var mu sync.Mutex
	n, version, between = &note{Title: "a", Text: "b"}, new(int), new(func())
	current := func(_ context.Context, id string) (any, string, error) {
		mu.Lock()
		defer mu.Unlock()
		if id != "1" {
			return nil, "", levee.E(levee.CodeNotFound, "there is no such thing")
		}
		tags := append([]string{}, n.Tags...)
		doc, tag := notePatch{Title: &n.Title, Text: &n.Text, Tags: &tags, Stars: &n.Stars, Place: n.Place}, Tag(*version, n.Stars)
		raw, _ := json.Marshal(doc)
		var copied notePatch
		_ = json.Unmarshal(raw, &copied)
		if *between != nil {
			defer (*between)()
		}
		return copied, tag, nil
	}
	Add(s.Server, Route{Method: "PATCH", Path: "/v1/notes/{id}", ID: "patchNote", Current: current}, func(_ context.Context, in *struct {
		ID string `path:"id"`
		Precondition
		Body notePatch
	}) (*struct {
		ETag string `header:"ETag"`
		Body note
	}, error) {
		mu.Lock()
		defer mu.Unlock()
		if err := in.Seen(false)(*version); err != nil {
			return nil, err
		}
		b := in.Body
		if b.Title != nil {
			n.Title = *b.Title
		}
		if b.Text != nil {
			n.Text = *b.Text
		}
		if b.Tags != nil {
			n.Tags = *b.Tags
		}
		if b.Stars != nil {
			n.Stars = *b.Stars
		}
		if b.Place != nil {
			n.Place = b.Place
		}
		*version++
		return &struct {
			ETag string `header:"ETag"`
			Body note
		}{Tag(*version, n.Stars), *n}, nil
	})
	return s, n, version, between
}

func TestPatches(t *testing.T) {
	s, n, version, between := notes(t)
	const merge, ops = "application/merge-patch+json", "application/json-patch+json"
	for _, c := range []struct {
		name, kind, match, body string
		status                  int
		want                    []string
	}{
		{"plain", "application/json", `*`, `{"title":"plain"}`, 200, []string{`"title":"plain"`, `"text":"b"`}},
		{"plain without a precondition", "application/json", ``, `{"title":"plain"}`, 428, []string{"precondition_required", "header.If-Match"}},
		{"merge", merge, `*`, `{"title":"merged","text":null}`, 200, []string{`"title":"merged"`}},
		{"merge, what may not be taken away", merge, `*`, `{"title":null}`, 422, []string{"body.title"}},
		{"merge, an object that is not there", merge, `*`, `{"place":null}`, 200, nil},
		{"merge into nothing", merge, `*`, `{"place":{"city":"Rome"}}`, 200, []string{`"city":"Rome"`}},
		{"merge inside", merge, `*`, `{"place":{"city":"Oslo"}}`, 200, []string{`"city":"Oslo"`}},
		{"merge, an object taken away", merge, `*`, `{"place":null}`, 422, []string{"body.place", "left in"}},
		{"merge, too long", merge, `*`, `{"title":"` + strings.Repeat("x", 30) + `"}`, 422, []string{"body.title"}},
		{"merge, unknown", merge, `*`, `{"colour":1}`, 422, []string{"body.colour"}},
		{"merge, wrong type", merge, `*`, `{"title":7}`, 422, []string{"body.title"}},
		{"merge, no object", merge, `*`, `[1]`, 400, []string{"body"}},
		{"merge, broken", merge, `*`, `{"title"`, 400, []string{"not JSON"}},
		{"merge, twice the same", merge, `*`, `{"title":"a","title":"b"}`, 400, []string{"given twice"}},
		{"merge without a precondition", merge, ``, `{"title":"x"}`, 428, nil},
		{"merge, an old tag", merge, `"77"`, `{"title":"x"}`, 412, nil},
		{"merge, a weak tag", merge, `W/"VERSION"`, `{"title":"x"}`, 412, nil},
		{"merge, a good tag of another rest", merge, `"0", "VERSION.other"`, `{"stars":3}`, 200, []string{`"stars":3`}},
		{"ops", ops, `*`, `[{"op":"test","path":"/stars","value":3},{"op":"add","path":"/tags/-","value":"t"},{"op":"copy","from":"/title","path":"/text"},{"op":"remove","path":"/stars"}]`, 200, []string{`"tags":["t"]`, `"text":"merged"`}},
		{"ops, a test that fails", ops, `*`, `[{"op":"replace","path":"/title","value":"never"},{"op":"test","path":"/stars","value":4}]`, 409, []string{`body[1]`, `"conflict"`}},
		{"ops, nowhere", ops, `*`, `[{"op":"replace","path":"/nowhere","value":1}]`, 422, []string{`body[0]`}},
		{"ops, negative index", ops, `*`, `[{"op":"remove","path":"/tags/-1"}]`, 422, []string{`body[0]`}},
		{"ops, the schema of what comes out", ops, `*`, `[{"op":"add","path":"/tags","value":["1","2","3","4"]}]`, 422, []string{"body.tags"}},
		{"ops, unknown place", ops, `*`, `[{"op":"add","path":"/colour","value":1}]`, 422, []string{"body.colour"}},
		{"ops, unknown kind", ops, `*`, `[{"op":"twist","path":"/title"}]`, 400, []string{"body[0].op"}},
		{"ops, no value", ops, `*`, `[{"op":"add","path":"/title"}]`, 400, []string{"body[0].value"}},
		{"ops, null value", ops, `*`, `[{"op":"replace","path":"/title","value":null}]`, 422, []string{"body.title"}},
		{"ops, no path", ops, `*`, `[{"op":"remove"}]`, 400, []string{"body[0].path"}},
		{"ops, a number for a path", ops, `*`, `[{"op":"remove","path":7}]`, 400, []string{"body[0].path"}},
		{"ops, the whole", ops, `*`, `[{"op":"replace","path":"","value":[1]}]`, 422, nil},
		{"ops, no list", ops, `*`, `{"op":"remove","path":"/title"}`, 400, nil},
		{"ops, null", ops, `*`, `null`, 400, []string{"a list of operations"}},
		{"ops, a null in the list", ops, `*`, `[null]`, 400, nil},
		{"ops, as many as may", ops, `*`, `[` + strings.Repeat(`{"op":"test","path":"/title","value":"merged"},`, 99) + `{"op":"test","path":"/title","value":"merged"}]`, 200, nil},
		{"ops, one too many", ops, `*`, `[` + strings.Repeat(`{"op":"test","path":"/title","value":"merged"},`, 100) + `{"op":"test","path":"/title","value":"merged"}]`, 422, []string{"at most 100"}},
		{"nothing changes", merge, `*`, `{}`, 200, []string{`"title":"merged"`}},
		{"another kind of JSON patch elsewhere", "application/xml", `*`, `<a/>`, 415, nil},
	} {
		before := *n
		headers := []string{"Content-Type", c.kind}
		if c.match != "" {
			headers = append(headers, "If-Match", strings.ReplaceAll(c.match, "VERSION", fmt.Sprint(*version)))
		}
		a := s.ask("PATCH", "/v1/notes/1", c.body, headers...)
		if a.StatusCode != c.status {
			t.Errorf("%s: %d %s", c.name, a.StatusCode, a.body)
		}
		for _, w := range c.want {
			if !strings.Contains(a.body, w) {
				t.Errorf("%s: no %q in %s", c.name, w, a.body)
			}
		}
		if a.StatusCode >= 400 && fmt.Sprint(before) != fmt.Sprint(*n) {
			t.Errorf("%s was refused and changed the note: %+v", c.name, *n)
		}
	}
	s.ask("PATCH", "/v1/notes/2", `{"title":"x"}`, "Content-Type", merge, "If-Match", "*").want(t, 404)
	s.ask("POST", "/v1/wishes", `[]`, "Content-Type", ops).want(t, 415) // a patch is not just any JSON

	// Somebody changes it between the moment in which the patch is made and the one in which it is kept: even "*" does not undo him.
	*between = func() { n.Title, *between = "his", nil; *version++ }
	s.ask("PATCH", "/v1/notes/1", `[{"op":"test","path":"/title","value":"merged"},{"op":"replace","path":"/title","value":"mine"}]`, "Content-Type", ops, "If-Match", "*").want(t, 412)
	if n.Title != "his" {
		t.Errorf("lost: %+v", *n)
	}
	a := s.ask("OPTIONS", "/v1/notes/1", "").want(t, 204)
	if got := a.Header.Get("Accept-Patch"); !strings.Contains(got, merge) || !strings.Contains(got, ops) {
		t.Errorf("Accept-Patch is %q", got)
	}
}

// TestForms: JSON, a form and a multipart form that say the same are answered the same.
func TestFormsAgree(t *testing.T) {
	s := newSite(t, Config{})
	type flat struct {
		Title string   `json:"title" minLength:"1" maxLength:"20"`
		Count int32    `json:"count,omitempty" minimum:"1" maximum:"10"`
		Glad  bool     `json:"glad,omitempty"`
		Tags  []string `json:"tags,omitempty" maxItems:"2"`
	}
	Add(s.Server, Route{Method: "POST", Path: "/v1/flat", ID: "flat"}, func(_ context.Context, in *struct{ Body flat }) (*struct{ Body flat }, error) {
		return &struct{ Body flat }{in.Body}, nil
	})
	for _, c := range []struct {
		json   string
		fields [][2]string
		status int
	}{
		{`{"title":"a b&c","count":3,"glad":true,"tags":["x","y"]}`, [][2]string{{"title", "a b&c"}, {"count", "3"}, {"glad", "true"}, {"tags", "x"}, {"tags", "y"}}, 200},
		{`{"title":"茶"}`, [][2]string{{"title", "茶"}}, 200},
		{`{"title":""}`, [][2]string{{"title", ""}}, 422},
		{`{"title":"a","count":11}`, [][2]string{{"title", "a"}, {"count", "11"}}, 422},
		{`{"title":"a","tags":["1","2","3"]}`, [][2]string{{"title", "a"}, {"tags", "1"}, {"tags", "2"}, {"tags", "3"}}, 422},
		{`{"title":"a","colour":"red"}`, [][2]string{{"title", "a"}, {"colour", "red"}}, 422},
		{`{"title":"a","title":"b"}`, [][2]string{{"title", "a"}, {"title", "b"}}, 400},
	} {
		form := make([]string, len(c.fields))
		var multi bytes.Buffer
		w := multipart.NewWriter(&multi)
		for i, f := range c.fields {
			form[i] = f[0] + "=" + strings.NewReplacer("&", "%26", " ", "+").Replace(f[1])
			if err := w.WriteField(f[0], f[1]); err != nil {
				t.Fatal(err)
			}
		}
		_ = w.Close()
		answers := []answered{s.ask("POST", "/v1/flat", c.json), s.ask("POST", "/v1/flat", strings.Join(form, "&"), "Content-Type", formType),
			s.ask("POST", "/v1/flat", multi.String(), "Content-Type", w.FormDataContentType())}
		for _, a := range answers {
			var p, first problem.Details
			_, _ = json.Unmarshal([]byte(a.body), &p), json.Unmarshal([]byte(answers[0].body), &first)
			if a.StatusCode != c.status || c.status == 200 && a.body != answers[0].body || fmt.Sprint(p.Errors) != fmt.Sprint(first.Errors) {
				t.Errorf("%s: %d %s, as JSON %s", c.json, a.StatusCode, a.body, answers[0].body)
			}
		}
	}
	var withFile bytes.Buffer
	w := multipart.NewWriter(&withFile)
	_ = w.WriteField("title", "a")
	part, _ := w.CreateFormFile("picture", "a.png")
	_, _ = io.WriteString(part, "png")
	_ = w.Close()
	s.ask("POST", "/v1/flat", withFile.String(), "Content-Type", w.FormDataContentType()).want(t, 422, "no file is taken")
	s.ask("POST", "/v1/flat", "--x\r\nbroken", "Content-Type", "multipart/form-data; boundary=x").want(t, 400)
	s.ask("POST", "/v1/flat", "x", "Content-Type", "multipart/form-data").want(t, 400, "boundary")
	s.ask("POST", "/v1/wishes", withFile.String(), "Content-Type", w.FormDataContentType()).want(t, 415) // it has lists of objects
}

func TestBatch(t *testing.T) {
	s := newSite(t, Config{})
	var order []string
	Add(s.Server, Route{Method: "POST", Path: "/v1/steps/{name}", ID: "step", Roles: levee.RoleCustomer | levee.RoleOperator, Status: 201},
		func(ctx context.Context, in *struct {
			Name string `path:"name"`
			Lang string `header:"Accept-Language"`
		}) (*struct {
			Location string `header:"Location"`
			Body     map[string]any
		}, error) {
			order = append(order, in.Name)
			return &struct {
				Location string `header:"Location"`
				Body     map[string]any
			}{"/v1/steps/" + in.Name, map[string]any{"user": int64(levee.ActorFrom(ctx).User), "client": ClientIP(ctx).String(), "request": RequestID(ctx)}}, nil
		})
	Add(s.Server, Route{Method: "GET", Path: "/v1/large", ID: "large"}, func(context.Context, *struct{}) (*struct{ Body string }, error) {
		return &struct{ Body string }{strings.Repeat("x", 3<<20)}, nil
	})
	run := func(status int, body string, headers ...string) (out struct{ Responses []batchAnswerPart }) {
		t.Helper()
		a := s.ask("POST", "/v1/batch", body, headers...).want(t, status)
		if status == 200 {
			if err := json.Unmarshal([]byte(a.body), &out); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	out := run(200, `{"requests":[
		{"id":"1","method":"POST","path":"/v1/steps/a"},
		{"id":"2","method":"GET","path":"/v1/wishes?limit=1000"},
		{"id":"3","method":"POST","path":"/v1/wishes","body":{"title":"w"},"headers":{"Idempotency-Key":"k"}},
		{"id":"4","method":"PUT","path":"/v1/secrets","body":{"title":"w"}},
		{"id":"5","method":"GET","path":"/v1/nothing"},
		{"id":"6","method":"GET","path":"/v1/fail/panic"},
		{"id":"7","method":"GET","path":"/v1/wishes/1","headers":{"If-None-Match":"\"v1\""}},
		{"id":"8","method":"PATCH","path":"/v1/wishes"},
		{"id":"9","method":"POST","path":"/v1/steps/b"}]}`, "Authorization", "Bearer buyer")
	var got []string
	for _, r := range out.Responses {
		got = append(got, fmt.Sprintf("%s:%d", r.ID, r.Status))
	}
	if want := "[1:201 2:422 3:201 4:403 5:404 6:500 7:304 8:405 9:201]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
	if fmt.Sprint(order) != "[a b]" {
		t.Errorf("run as %v", order)
	}
	var first struct {
		User            int64
		Client, Request string
	}
	_ = json.Unmarshal(out.Responses[0].Body, &first)
	if first.User != 11 || first.Client != "192.0.2.1" || !strings.HasSuffix(first.Request, ".0") || out.Responses[0].Headers["Location"] != "/v1/steps/a" {
		t.Errorf("%+v %v", first, out.Responses[0].Headers)
	}
	if out.Responses[7].Headers["Allow"] == "" || out.Responses[7].Headers["Content-Type"] != problem.Type {
		t.Errorf("%v", out.Responses[7])
	}
	if run(200, `{"requests":[{"method":"POST","path":"/v1/steps/c"}]}`).Responses[0].Status != 401 {
		t.Error("a visitor's part ran")
	}

	order = nil
	out = run(200, `{"stop_on_error":true,"requests":[{"method":"POST","path":"/v1/steps/a"},{"method":"GET","path":"/v1/nothing"},{"id":"x","method":"POST","path":"/v1/steps/b"}]}`,
		"Authorization", "Bearer buyer")
	if len(out.Responses) != 3 || out.Responses[2].Status != 424 || out.Responses[2].ID != "x" || fmt.Sprint(order) != "[a]" {
		t.Errorf("%+v ran %v", out, order)
	}

	order = nil
	for _, bad := range []string{
		`{"method":"POST","path":"/v1/batch","body":{"requests":[]}}`, `{"method":"POST","path":"/v1/batch/"}`, `{"method":"GET","path":"/v1/stream"}`, `{"method":"PUT","path":"/v1/upload"}`, `{"method":"POST","path":"/v1/files"}`,
		`{"method":"GET","path":"/page"}`, `{"method":"GET","path":"/"}`, `{"method":"GET","path":"/metrics"}`, `{"method":"GET","path":"http://other.example/v1/wishes"}`, `{"method":"GET","path":"//other.example/v1/wishes"}`,
		`{"method":"GET","path":"v1/wishes"}`, `{"method":"GET","path":"/v1/openapi.json"}`, `{"method":"TRACE","path":"/v1/wishes"}`, `{"method":"GET","path":"/v1/wishes","headers":{"Authorization":"Bearer operator"}}`,
		`{"method":"GET","path":"/v1/wishes","headers":{"X-Forwarded-For":"10.0.0.1"}}`, `{"method":"GET","path":"/v1/wishes","headers":{"cookie":"levee=operator"}}`, `{"method":"GET","path":"/v1/wishes","headers":{"Accept":"a\r\nb"}}`,
		`{"method":"POST","path":"/v1/wishes","body":{"title":"a"},"headers":{"Content-Type":"text/plain"}}`,
	} {
		a := s.ask("POST", "/v1/batch", `{"requests":[{"method":"POST","path":"/v1/steps/a"},`+bad+`]}`, "Authorization", "Bearer buyer")
		if a.StatusCode != 422 && !(strings.Contains(bad, "/v1/batch/") && a.StatusCode == 200) || strings.Contains(a.body, `"status":201`) && a.StatusCode == 422 {
			t.Errorf("%s: %d %s", bad, a.StatusCode, a.body)
		}
	}
	if len(order) > 1 { // only beside the part that names no operation
		t.Errorf("parts of refused batches ran: %v", order)
	}
	part := `{"method":"GET","path":"/v1/time"}`
	if n := len(run(200, `{"requests":[`+strings.Repeat(part+",", 49)+part+`]}`).Responses); n != 50 {
		t.Error(n)
	}
	run(422, `{"requests":[`+strings.Repeat(part+",", 50)+part+`]}`)
	run(422, `{"requests":[]}`)

	out = run(200, `{"requests":[{"method":"GET","path":"/v1/large"},{"method":"GET","path":"/v1/large"},{"method":"GET","path":"/v1/time"}]}`)
	if r := out.Responses; r[0].Omitted || len(r[0].Body) < 3<<20 || !r[1].Omitted || r[1].Body != nil || r[1].Status != 200 || r[2].Omitted {
		t.Errorf("%v %v %v", r[0].Omitted, r[1].Omitted, r[2].Omitted)
	}
}

// TestBatchLimits: each part is charged to its own limit, as if it had come by itself.
func TestBatchLimits(t *testing.T) {
	s := newSite(t, Config{})
	part := `{"method":"POST","path":"/v1/accounts"}`
	a := s.ask("POST", "/v1/batch", `{"requests":[`+part+","+part+","+part+`]}`).want(t, 200)
	var out struct{ Responses []batchAnswerPart }
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatal(err)
	}
	if r := out.Responses; r[0].Status != 204 || r[1].Status != 204 || r[2].Status != 429 || r[2].Headers["Retry-After"] == "" {
		t.Errorf("%+v", out)
	}
}

// TestHeadOfStreams: nobody reads the body of an answer to HEAD, so a stream's ends at once.
func TestHeadOfStreams(t *testing.T) {
	a := newSite(t, Config{}).ask("HEAD", "/v1/stream", "").want(t, 200)
	if a.Header.Get("Content-Type") != "text/event-stream" || a.body != "" {
		t.Errorf("%v %q", a.Header, a.body)
	}
}

func TestAcceptedNeedsLocation(t *testing.T) {
	s := newSite(t, Config{})
	defer func() {
		if recover() == nil {
			t.Error("an operation that answers 202 and says nothing to follow was taken")
		}
	}()
	Add(s.Server, Route{Method: "POST", Path: "/v1/later", ID: "later", Status: 202}, func(context.Context, *struct{}) (*struct{ Body string }, error) { return nil, nil })
}
