package web

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCORS(t *testing.T) {
	s := newSite(t, Config{CORSOrigins: []string{"https://good.example", "http://localhost:5173"}})
	for origin, good := range map[string]bool{
		"https://good.example":          true,
		"http://localhost:5173":         true,
		"http://good.example":           false,
		"https://good.example:444":      false,
		"https://good.example.evil.com": false,
		"https://evilgood.example":      false,
		"https://sub.good.example":      false,
		"https://GOOD.example":          false, // browsers send lower case
		"null":                          false,
		"*":                             false,
		"":                              false,
	} {
		a := s.ask("GET", "/v1/wishes", "", "Origin", origin).want(t, 200)
		if got := a.Header.Get("Access-Control-Allow-Origin"); (got != "") != good || (good && got != origin) {
			t.Errorf("%q is answered with %q", origin, got)
		}
		if (a.Header.Get("Access-Control-Allow-Credentials") != "") != good || (a.Header.Get("Access-Control-Expose-Headers") != "") != good {
			t.Errorf("%q: %v", origin, a.Header)
		}
		if !strings.Contains(strings.Join(a.Header.Values("Vary"), ","), "Origin") {
			t.Errorf("%q: a cache may mix up origins: %v", origin, a.Header["Vary"])
		}
		pre := s.ask("OPTIONS", "/v1/wishes/1", "", "Origin", origin, "Access-Control-Request-Method", "DELETE").want(t, 204)
		if got := pre.Header.Get("Access-Control-Allow-Methods"); (got == "GET, HEAD, DELETE, OPTIONS") != good || (got != "") != good {
			t.Errorf("%q: preflight allows %q", origin, got)
		}
		if (pre.Header.Get("Access-Control-Allow-Headers") != "") != good {
			t.Errorf("%q: %v", origin, pre.Header)
		}
		// Errors are readable for good origins too, else their pages cannot say what is wrong.
		miss := s.ask("GET", "/v1/wishes/2", "", "Origin", origin).want(t, 404)
		if (miss.Header.Get("Access-Control-Allow-Origin") != "") != good {
			t.Errorf("%q: %v", origin, miss.Header)
		}
	}
	s.ask("OPTIONS", "/v1/nothing", "", "Origin", "https://good.example", "Access-Control-Request-Method", "GET").want(t, 404)
	// Two Origin lines are no browser.
	r := httptest.NewRequest("GET", "/v1/wishes", nil)
	r.Header["Origin"] = []string{"https://good.example", "https://evil.example"}
	if got := s.do(r).Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Error(got)
	}
}

func TestNoCORSByDefault(t *testing.T) {
	s := newSite(t, Config{})
	a := s.ask("GET", "/v1/wishes", "", "Origin", "https://good.example").want(t, 200)
	if a.Header.Get("Access-Control-Allow-Origin") != "" || a.Header.Get("Vary") != "" {
		t.Errorf("%v", a.Header)
	}
	if a := s.ask("OPTIONS", "/v1/wishes", "").want(t, 204); a.Header.Get("Allow") != "GET, HEAD, POST, OPTIONS" {
		t.Errorf("%v", a.Header)
	}
	// The document alone may be read from anywhere: it is the same for everybody.
	if a := s.ask("GET", "/v1/openapi.json", "").want(t, 200); a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%v", a.Header)
	}
}

// TestCSRF: a browser that another site drives sends the visitor's cookie; what changes something is refused then.
func TestCSRF(t *testing.T) {
	s := newSite(t, Config{CORSOrigins: []string{"https://good.example"}, PublicURL: "https://shop.example"})
	cookie := []string{"Cookie", "levee=operator"}
	for _, c := range []struct {
		name    string
		headers []string
		refused bool
	}{
		{"same origin", []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://shop.example"}, false},
		{"by hand", []string{"Sec-Fetch-Site", "none"}, false},
		{"cross-site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, true},
		{"same-site sibling", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://blog.shop.example"}, true},
		{"allowed origin", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://good.example"}, false},
		{"look-alike", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://good.example.evil.com"}, true},
		{"null origin", []string{"Sec-Fetch-Site", "cross-site", "Origin", "null"}, true},
		{"old browser, foreign", []string{"Origin", "https://evil.example"}, true},
		{"old browser, null", []string{"Origin", "null"}, true},
		{"old browser, our public address", []string{"Origin", "https://shop.example"}, false},
		{"old browser, host", []string{"Origin", "http://example.com"}, false}, // httptest's Host
		{"no browser", nil, false},
		{"cross-site with a token", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example", "Authorization", "Bearer operator"}, false},
		{"cross-site with basic", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example", "Authorization", "Basic b3A6eA=="}, true},
		{"cross-site with an empty token", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example", "Authorization", "Bearer "}, true},
	} {
		for _, m := range []struct {
			method, path, body string
			ok                 int
		}{
			{"PUT", "/v1/secrets", `{"title":"a"}`, 200},
			{"DELETE", "/v1/wishes/1", "", 204},
			{"POST", "/v1/wishes", `{"title":"a"}`, 201}, // also where no account is needed: signing in is such a route
		} {
			t.Run(c.name+" "+m.method, func(t *testing.T) {
				s.t = t
				headers := append(append([]string{}, cookie...), c.headers...)
				if strings.HasPrefix(fmt.Sprint(c.headers), "[Sec") && strings.Contains(fmt.Sprint(c.headers), "Bearer operator") {
					headers = c.headers
				}
				a := s.ask(m.method, m.path, m.body, headers...)
				if c.refused {
					a.want(t, 403, "forbidden", "another site")
				} else {
					a.want(t, m.ok)
				}
				// Reading is never refused: it changes nothing, and its answer stays with the browser.
				if g := s.ask("GET", "/v1/wishes", "", c.headers...); g.StatusCode == 403 {
					t.Errorf("GET is refused: %s", g.body)
				}
			})
		}
	}
	s.t = t
	// A form that a foreign page sends as text/plain, to pass for JSON.
	s.ask("PUT", "/v1/secrets", `{"title":"a"}`, "Cookie", "levee=operator", "Content-Type", "text/plain").want(t, 415)
}
