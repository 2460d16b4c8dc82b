package app_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
)

// TestAPIDoc runs each example of the documents, in their order, against a house. A block http holds a request, an empty line, the body if there is one and
// another empty line, then the answer: its status, headers that it must have, and JSON of which every member must be there. {name} stands for what an answer has
// shown in that place before, or shows now for the first time; … for anything.
func TestAPIDoc(t *testing.T) {
	for name, least := range map[string]int{"api.md": 25, "from-drf.md": 9} {
		t.Run(name, func(t *testing.T) {
			doc, err := os.ReadFile("../../docs/" + name)
			if err != nil {
				t.Fatal(err)
			}
			h := apptest.Start(t, func(c *app.Config) { c.HTTP.CORSOrigins = []string{"https://app.example"} })
			known := map[string]string{"operator": h.Operator.Token, "customer": h.Customer.Token, "administrator": administrator(t, h).Token, "password": apptest.Password}
			blocks := regexp.MustCompile("(?s)```http\n(.*?)\n```").FindAllSubmatch(doc, -1)
			if len(blocks) < least {
				t.Fatalf("only %d examples were found", len(blocks))
			}
			for _, b := range blocks {
				if !runExample(t, h, string(b[1]), known) {
					return // those that follow build on it
				}
			}
		})
	}
}

var variable = regexp.MustCompile(`\{([a-z_]+)\}`)

func runExample(t *testing.T, h *apptest.House, text string, known map[string]string) bool {
	t.Helper()
	at := regexp.MustCompile(`(?m)^\d{3}$`).FindAllStringIndex(text, -1)
	if len(at) == 0 {
		t.Errorf("no status in\n%s", text)
		return false
	}
	status := at[len(at)-1]
	request, answer := strings.TrimSpace(text[:status[0]]), text[status[0]:]
	request = variable.ReplaceAllStringFunc(request, func(v string) string {
		if s, ok := known[v[1:len(v)-1]]; ok {
			return s
		}
		return v
	})
	head, body, hasBody := strings.Cut(request, "\n\n")
	lines := strings.Split(head, "\n")
	method, path, _ := strings.Cut(lines[0], " ")
	var in any
	headers := append([]string{"Idempotency-Key: "}, lines[1:]...)
	if hasBody {
		if strings.Contains(head, "multipart/") {
			body = strings.ReplaceAll(body, "\n", "\r\n") + "\r\n"
		}
		in = body
	}
	a := h.Visitor.Do(method, path, in, headers...)
	want := strings.SplitN(answer, "\n", 2)
	ok := true
	fail := func(format string, args ...any) {
		t.Helper()
		ok = false
		t.Errorf("%s\nanswered %d %s\n%v\n%s", request, a.Status, fmt.Sprintf(format, args...), a.Header, a.Body)
	}
	if fmt.Sprint(a.Status) != want[0] {
		fail("instead of %s", want[0])
		return false
	}
	if len(want) == 1 {
		return true
	}
	rest := want[1]
	for rest != "" && !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, "[") {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		name, value, _ := strings.Cut(line, ": ")
		if !same(value, a.Header.Get(name), known) {
			fail("with another header %s than %q", name, value)
		}
	}
	if rest == "" {
		return ok
	}
	var wanted, got any
	if err := json.Unmarshal([]byte(rest), &wanted); err != nil {
		t.Errorf("%v in the example's answer %s", err, rest)
		return false
	}
	if err := json.Unmarshal(a.Body, &got); err != nil {
		fail("which is no JSON: %v", err)
		return false
	}
	if at := differs("", wanted, got, known); at != "" {
		fail("with another %s than %s", at, rest)
	}
	return ok
}

// same compares a text of an example with what came, and remembers what a name stands for when it is met first.
func same(want, got string, known map[string]string) bool {
	if want == "…" {
		return got != ""
	}
	if m := variable.FindStringSubmatch(want); m != nil && m[0] == want {
		if s, ok := known[m[1]]; ok {
			return s == got
		}
		known[m[1]] = got
		return got != ""
	}
	return want == got
}

// differs returns where got lacks what is wanted.
func differs(at string, want, got any, known map[string]string) string {
	switch want := want.(type) {
	case map[string]any:
		m, ok := got.(map[string]any)
		if !ok {
			return at
		}
		for name, v := range want {
			if d := differs(at+"."+name, v, m[name], known); d != "" {
				return d
			}
		}
		return ""
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return at
		}
		for i, v := range want {
			if d := differs(fmt.Sprintf("%s[%d]", at, i), v, list[i], known); d != "" {
				return d
			}
		}
		return ""
	case string:
		if s, ok := got.(string); ok && same(want, s, known) {
			return ""
		}
		return at
	}
	if !reflect.DeepEqual(want, got) {
		return at
	}
	return ""
}

// openAPI is the house's own description.
func openAPI(t *testing.T, h *apptest.House) (doc struct {
	Paths map[string]map[string]struct {
		OperationID string                            `json:"operationId"`
		RequestBody *struct{ Content map[string]any } `json:"requestBody"`
		Responses   map[string]struct {
			Headers map[string]any
			Content map[string]any
		}
	}
}) {
	t.Helper()
	h.Visitor.Do("GET", "/v1/openapi.json", nil).Want(200).Into(&doc)
	if len(doc.Paths) < 50 {
		t.Fatalf("%d paths", len(doc.Paths))
	}
	return doc
}

// TestMethodsOnRoutes sweeps every method over every route: what a path does not know is 405 with Allow, OPTIONS lists the very methods that it knows, HEAD is there
// wherever GET is and has no body, TRACE is refused.
func TestMethodsOnRoutes(t *testing.T) {
	h := apptest.Start(t)
	boss := administrator(t, h)
	paths := openAPI(t, h).Paths
	for path, ops := range paths {
		target := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "x")
		var has []string
		for _, m := range []string{"get", "head", "post", "put", "patch", "delete"} {
			// A fixed path that lies within another's pattern has its own methods alone.
			if _, ok := ops[m]; ok || m == "head" && ops["get"].OperationID != "" {
				has = append(has, strings.ToUpper(m))
			}
		}
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PURGE"} {
			if slices.Contains(has, m) {
				continue
			}
			a := boss.Do(m, target, nil)
			if a.Status != http.StatusMethodNotAllowed || a.Header.Get("Allow") == "" || slices.Contains(strings.Split(a.Header.Get("Allow"), ", "), m) {
				t.Errorf("%s %s: %d, Allow %q", m, target, a.Status, a.Header.Get("Allow"))
			}
		}
		o := boss.Do("OPTIONS", target, nil).Want(204)
		if got := strings.Split(o.Header.Get("Allow"), ", "); !slices.Equal(got, append(has, "OPTIONS")) {
			t.Errorf("OPTIONS %s allows %v, the document has %v", target, got, has)
		}
		if ops["get"].OperationID == "" {
			continue
		}
		head := boss.Do("HEAD", target, nil)
		if len(head.Body) > 0 {
			t.Errorf("HEAD %s has a body", target)
		}
		if _, stream := ops["get"].Responses["200"].Content["text/event-stream"]; stream {
			continue
		}
		if get := boss.Do("GET", target, nil); get.Status != head.Status || get.Header.Get("Content-Type") != head.Header.Get("Content-Type") {
			t.Errorf("%s: GET is %d %s, HEAD %d %s", target, get.Status, get.Header.Get("Content-Type"), head.Status, head.Header.Get("Content-Type"))
		}
	}
}

// TestCrawl follows every link of the root, as each caller: all can be read, nothing that is another's is shown, and what is not shown is refused.
func TestCrawl(t *testing.T) {
	h := apptest.Start(t)
	boss := administrator(t, h)
	type links struct{ Links []struct{ Rel, Href string } }
	hrefs := func(c *apptest.Client, path string) (all []string) {
		var l links
		c.Do("GET", path, nil, "Accept: application/json").Want(200).Into(&l)
		for _, one := range l.Links {
			all = append(all, one.Href)
		}
		return all
	}
	needs := map[string]bool{"/v1/ids": true} // a program's secret
	shown := hrefs(boss, "/")
	for name, who := range map[string]*apptest.Client{"visitor": h.Visitor, "customer": h.Customer, "operator": h.Operator, "administrator": boss} {
		mine := hrefs(who, "/")
		if again := hrefs(who, "/v1"); !slices.Equal(mine, again) {
			t.Errorf("%s: / has %v, /v1 %v", name, mine, again)
		}
		for _, href := range shown {
			ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
			r, _ := http.NewRequestWithContext(ctx, "GET", h.Base+href, nil)
			if who.Token != "" {
				r.Header.Set("Authorization", "Bearer "+who.Token)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = bufio.NewReader(resp.Body).Peek(0)
			_ = resp.Body.Close() // a stream is not read to its end
			done()
			refused := resp.StatusCode == 401 || resp.StatusCode == 403
			switch {
			case needs[href]:
			case slices.Contains(mine, href) && resp.StatusCode != 200:
				t.Errorf("%s is shown %s and answered %d", name, href, resp.StatusCode)
			case !slices.Contains(mine, href) && !refused:
				t.Errorf("%s is not shown %s and answered %d", name, href, resp.StatusCode)
			}
		}
	}
}

// TestAcceptedHasLocation: what is documented as 202 names what to follow.
func TestAcceptedHasLocation(t *testing.T) {
	h, n := apptest.Start(t), 0
	for path, ops := range openAPI(t, h).Paths {
		for m, op := range ops {
			if r, ok := op.Responses["202"]; ok {
				if n++; r.Headers["Location"] == nil || r.Content["application/json"] == nil {
					t.Errorf("%s %s answers 202 without saying where it goes on: %v", m, path, r)
				}
			}
		}
	}
	if n < 7 {
		t.Errorf("only %d operations are documented with 202", n)
	}
}

// TestNoLostUpdate: of two who have read the same, on each resource that guards itself, the second is refused, whatever body he sends; what needs no tag is refused without one.
func TestNoLostUpdate(t *testing.T) {
	h := apptest.Start(t, func(c *app.Config) { c.Notify.AllowHosts = []string{"127.0.0.1"} })
	boss := administrator(t, h)
	var product struct {
		ID   string
		SKUs []struct{ ID string }
	}
	h.Operator.Do("POST", "/v1/products", map[string]any{"title": "Tea", "code": "lost-1", "skus": []any{map[string]any{"code": "lost-s", "price": map[string]any{"amount": 5, "currency": "CNY"}, "on_hand": 9}}}).
		Want(201).Into(&product)
	now := time.Now().UTC()
	terms := func(title string) map[string]any {
		return map[string]any{"title": title, "sku": product.SKUs[0].ID, "price": map[string]any{"amount": 4, "currency": "CNY"}, "units": 3, "per_buyer": 1,
			"starts_at": now.Add(time.Hour), "ends_at": now.Add(2 * time.Hour)}
	}
	var sale, hook struct{ ID string }
	h.Operator.Do("POST", "/v1/sales", terms("A")).Want(201).Into(&sale)
	h.Operator.Do("POST", "/v1/webhooks", map[string]any{"url": "https://hooks.example/x", "events": []string{"*"}}).Want(201).Into(&hook)
	boss.Do("POST", "/v1/schedules", map[string]any{"name": "lost", "kind": "identity.prune", "trigger": "every 24h"}).Want(201, 422)
	var schedules struct{ Items []struct{ Name string } }
	boss.Do("GET", "/v1/schedules", nil).Want(200).Into(&schedules)
	const merge, ops = "application/merge-patch+json", "application/json-patch+json"
	for _, c := range []struct {
		who          *apptest.Client
		path, method string
		first, other any
		patch        string // a member to patch with, where patches are taken
	}{
		{h.Operator, "/v1/products/" + product.ID, "PATCH", map[string]any{"title": "One"}, map[string]any{"title": "Two"}, "title"},
		{h.Operator, "/v1/skus/" + product.SKUs[0].ID, "PATCH", map[string]any{"name": "One"}, map[string]any{"name": "Two"}, "name"},
		{h.Operator, "/v1/sales/" + sale.ID, "PUT", terms("One"), terms("Two"), ""},
		{h.Operator, "/v1/webhooks/" + hook.ID, "PATCH", map[string]any{"description": "One"}, map[string]any{"description": "Two"}, "description"},
		{boss, "/v1/schedules/" + schedules.Items[0].Name, "PATCH", map[string]any{"note": "One"}, map[string]any{"note": "Two"}, "note"},
		{boss, "/v1/limits/poll", "PUT", map[string]any{"rate": "7/s"}, map[string]any{"rate": "8/s"}, ""},
	} {
		seen := c.who.Do("GET", c.path, nil).Want(200).Header.Get("ETag")
		if seen == "" {
			t.Errorf("%s has no ETag", c.path)
			continue
		}
		c.who.Do(c.method, c.path, c.other).WantError(428, levee.CodePreconditionRequired)
		first := c.who.Do(c.method, c.path, c.first, "If-Match: "+seen).Want(200)
		c.who.Do(c.method, c.path, c.other, "If-Match: "+seen).WantError(412, levee.CodeConflict)
		if c.patch != "" {
			body := fmt.Sprintf(`{%q:"Lost"}`, c.patch)
			list := fmt.Sprintf(`[{"op":"replace","path":"/%s","value":"Lost"}]`, c.patch)
			c.who.Do(c.method, c.path, body, "If-Match: "+seen, "Content-Type: "+merge).WantError(412, levee.CodeConflict)
			c.who.Do(c.method, c.path, list, "If-Match: "+seen, "Content-Type: "+ops).WantError(412, levee.CodeConflict)
			c.who.Do(c.method, c.path, body, "Content-Type: "+merge).WantError(428, levee.CodePreconditionRequired)
		}
		after := c.who.Do("GET", c.path, nil).Want(200)
		if bytes.Contains(after.Body, []byte("Two")) || bytes.Contains(after.Body, []byte("Lost")) || bytes.Contains(after.Body, []byte("8/s")) {
			t.Errorf("%s: lost: %s", c.path, after.Body)
		}
		if tag := first.Header.Get("ETag"); tag == "" || tag == seen {
			t.Errorf("%s: after the change the tag is %q, before it %q", c.path, tag, seen)
		}
		if c.patch != "" { // the answer's own tag is good for the next change, in each form
			tag := after.Header.Get("ETag")
			a := c.who.Do(c.method, c.path, fmt.Sprintf(`{%q:"Merged"}`, c.patch), "If-Match: "+tag, "Content-Type: "+merge).Want(200).Contains("Merged")
			tag = a.Header.Get("ETag")
			c.who.Do(c.method, c.path, fmt.Sprintf(`[{"op":"test","path":"/%[1]s","value":"Merged"},{"op":"replace","path":"/%[1]s","value":"Listed"}]`, c.patch), "If-Match: "+tag, "Content-Type: "+ops).
				Want(200).Contains("Listed")
		}
		// Many who have seen the same at once: one wins.
		if c.method == "PATCH" {
			tag := c.who.Do("GET", c.path, nil).Want(200).Header.Get("ETag")
			statuses := make(chan int)
			for i := range 8 {
				go func() {
					statuses <- c.who.Do(c.method, c.path, fmt.Sprintf(`{%q:"Racer %d"}`, c.patch, i), "If-Match: "+tag).Status
				}()
			}
			won := 0
			for range 8 {
				switch s := <-statuses; s {
				case 200:
					won++
				case 412, 409:
				default:
					t.Errorf("%s: a racer was answered %d", c.path, s)
				}
			}
			if won != 1 {
				t.Errorf("%s: %d of those who saw the same won", c.path, won)
			}
		}
	}
	// Stock that moves makes another tag, but spoils no edit.
	p := "/v1/products/" + product.ID
	seen := h.Operator.Do("GET", p, nil).Header.Get("ETag")
	h.Operator.Do("POST", "/v1/skus/"+product.SKUs[0].ID+"/movements", map[string]any{"delta": -1}).Want(201)
	if now := h.Operator.Do("GET", p, nil, "If-None-Match: "+seen).Want(200).Header.Get("ETag"); now == seen {
		t.Error("the tag does not see the stock")
	}
	h.Operator.Do("PATCH", p, map[string]any{"title": "Still mine"}, "If-Match: "+seen).Want(200)
	h.Operator.Do("PATCH", p, map[string]any{"title": "By version", "version": 1}).WantError(409, levee.CodeConflict)
}
