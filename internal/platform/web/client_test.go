package web

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"levee"
	"levee/internal/platform/problem"
)

func TestClientAddress(t *testing.T) {
	s := newSite(t, Config{TrustedProxies: []string{"10.0.0.0/8", "127.0.0.1", "2001:db8:1::/48"}})
	for _, c := range []struct {
		peer    string
		forward []string
		want    string
	}{
		{"203.0.113.5:1", nil, "203.0.113.5"},
		{"203.0.113.5:1", []string{"198.51.100.1"}, "203.0.113.5"}, // no proxy of ours: not believed
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"6.6.6.6, 198.51.100.1"}, "198.51.100.1"}, // the left was written by the caller
		{"10.0.0.1:1", []string{"6.6.6.6", "198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"198.51.100.1", "10.0.0.2 , 127.0.0.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"10.0.0.9, 10.0.0.2"}, "10.0.0.9"}, // all ours: the farthest
		{"10.0.0.1:1", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"unknown"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"unknown, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"10.0.0.1:1", []string{","}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"2001:db8::7"}, "2001:db8::7"},
		{"10.0.0.1:1", []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"10.0.0.1:1", []string{"[2001:db8::7]:443"}, "2001:db8::7"},
		{"10.0.0.1:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"10.0.0.1:1", []string{strings.Repeat("10.0.0.3, ", 1000) + "10.0.0.2"}, "10.0.0.3"},
		{"[::ffff:10.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[2001:db8:1::5]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"@", []string{"198.51.100.1"}, "invalid IP"}, // a Unix socket
	} {
		r := httptest.NewRequest("PUT", "/v1/secrets", strings.NewReader(`{"title":"a"}`))
		r.RemoteAddr = c.peer
		r.Header["X-Forwarded-For"] = c.forward
		r.Header.Set("X-Real-Ip", "6.6.6.6")
		r.Header.Set("Forwarded", "for=6.6.6.6")
		r.Header.Set("Authorization", "Bearer operator")
		s.do(r).want(t, 200, fmt.Sprintf(`"client":%q`, c.want))
	}
}

func TestLocalOnly(t *testing.T) {
	s := newSite(t, Config{})
	for _, c := range []struct {
		peer    string
		headers []string
		status  int
	}{
		{"127.0.0.1:5", nil, 200},
		{"[::1]:5", nil, 200},
		{"192.0.2.1:5", nil, 401},
		{"192.0.2.1:5", auth("buyer"), 403},
		{"192.0.2.1:5", auth("old"), 401},
		{"192.0.2.1:5", auth("operator"), 200},
		{"192.0.2.1:5", []string{"X-Forwarded-For", "127.0.0.1"}, 401},
		// A proxy on this machine that was not declared brings the whole world.
		{"127.0.0.1:5", []string{"X-Forwarded-For", "203.0.113.5"}, 401},
		{"127.0.0.1:5", []string{"Forwarded", "for=203.0.113.5"}, 401},
		{"127.0.0.1:5", []string{"X-Real-Ip", "203.0.113.5"}, 401},
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.RemoteAddr = c.peer
		for i := 0; i+1 < len(c.headers); i += 2 {
			r.Header.Set(c.headers[i], c.headers[i+1])
		}
		a := s.do(r).want(t, c.status)
		if c.status == 200 && !strings.Contains(a.body, `levee_web_requests_total{class="4xx",route="GET /metrics"}`) && c.peer != "127.0.0.1:5" && c.peer != "[::1]:5" {
			t.Errorf("no counts in %.300s", a.body)
		}
	}
}

func TestSecureCookies(t *testing.T) {
	for _, c := range []struct {
		cfg   Config
		peer  string
		proto string
		want  bool
	}{
		{Config{}, "192.0.2.1:1", "", false},
		{Config{}, "192.0.2.1:1", "https", false}, // anybody can write that
		{Config{TrustedProxies: []string{"192.0.2.1"}}, "192.0.2.1:1", "https", true},
		{Config{TrustedProxies: []string{"192.0.2.1"}}, "192.0.2.1:1", "http", false},
		{Config{PublicURL: "https://shop.example"}, "192.0.2.1:1", "", true},
		{Config{PublicURL: "http://shop.example"}, "192.0.2.1:1", "", false},
		{Config{CookieSecure: "always"}, "192.0.2.1:1", "", true},
		{Config{CookieSecure: "never", PublicURL: "https://shop.example"}, "192.0.2.1:1", "", false},
	} {
		s := newSite(t, c.cfg)
		r := httptest.NewRequest("PUT", "/v1/secrets", strings.NewReader(`{"title":"a"}`))
		r.RemoteAddr = c.peer
		r.Header.Set("Authorization", "Bearer operator")
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		a := s.do(r).want(t, 200, fmt.Sprintf(`"secure":%v`, c.want))
		if (a.Header.Get("Strict-Transport-Security") != "") != strings.HasPrefix(c.cfg.PublicURL, "https:") {
			t.Errorf("%+v: HSTS %q", c.cfg, a.Header.Get("Strict-Transport-Security"))
		}
	}
}

func TestConditional(t *testing.T) {
	s := newSite(t, Config{})
	for _, c := range []struct {
		header, value string
		status        int
	}{
		{"If-None-Match", `"v1"`, 304},
		{"If-None-Match", `W/"v1"`, 304},
		{"If-None-Match", `"v0", "v1"`, 304},
		{"If-None-Match", `"v0",W/"v1" `, 304},
		{"If-None-Match", `*`, 304},
		{"If-None-Match", `"v2"`, 200},
		{"If-None-Match", `v1`, 200},
		{"If-None-Match", `"v1`, 200},
		{"If-Match", `"v1"`, 200},
		{"If-Match", `*`, 200},
		{"If-Match", `W/"v1"`, 412}, // a weak tag does not say that nothing has changed
		{"If-Match", `"v0"`, 412},
		{"If-Match", `"v0", "v1"`, 200},
	} {
		a := s.ask("GET", "/v1/wishes/1", "", c.header, c.value).want(t, c.status)
		if c.status != 412 && a.Header.Get("ETag") != `"v1"` {
			t.Errorf("%s %s: ETag %q", c.header, c.value, a.Header.Get("ETag"))
		}
		if c.status == 304 && (a.body != "" || a.Header.Get("Content-Type") != "") {
			t.Errorf("304 with %q %q", a.Header.Get("Content-Type"), a.body)
		}
		if c.status == 412 {
			if p := s.checkProblem(a); p.Errors[0].Field != "header.If-Match" {
				t.Errorf("%+v", p)
			}
		}
	}
	if ETag("ab", "c") == ETag("a", "bc") || ETag([]byte("a")) != ETag("a") || ETag(1, "x") != ETag("1", "x") || len(ETag()) < 10 {
		t.Error("tags are mixed up")
	}
	doc := s.ask("GET", "/v1/openapi.json", "").want(t, 200)
	s.ask("GET", "/v1/openapi.json", "", "If-None-Match", doc.Header.Get("ETag")).want(t, 304)
	rec := httptest.NewRecorder()
	post := httptest.NewRequest("POST", "/", nil)
	post.Header.Set("If-None-Match", "*")
	if NotModified(rec, post, `"v"`) {
		t.Error("a POST is not modified")
	}
}

// TestProblemOutsideOfLevee: an error of the room's own type keeps its code through wrapping.
func TestWrappedErrors(t *testing.T) {
	err := fmt.Errorf("a: %w", fmt.Errorf("b: %w", levee.Invalid("body.x", "small", "big")))
	rec := httptest.NewRecorder()
	problem.NewFixed(err).Write(rec, httptest.NewRequest("GET", "/", nil))
	status, body := rec.Code, rec.Body.String()
	if status != 422 || !strings.Contains(body, `"field":"body.x","allowed":"small","given":"big"`) {
		t.Errorf("%d %s", status, body)
	}
	rec = httptest.NewRecorder()
	if problem.NewFixed(http.ErrBodyNotAllowed).Write(rec, httptest.NewRequest("GET", "/", nil)); rec.Code != 500 {
		t.Error(rec.Code)
	}
}
