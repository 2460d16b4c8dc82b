package ui

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// pages are two small faces as npm builds them.
func pages() fstest.MapFS {
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		"dist/.keep":                                  text(""),
		"dist/secret.txt":                             text("not of a face"),
		"dist/storefront/index.html":                  text("<!doctype html><title>shop</title>"),
		"dist/storefront/index.html.gz":               text("index gz"),
		"dist/storefront/index.html.br":               text("index br"),
		"dist/storefront/favicon.svg":                 text("<svg/>"),
		"dist/storefront/assets/entry-1a2b3c4d.js":    text("shop()"),
		"dist/storefront/assets/entry-1a2b3c4d.js.gz": text("shop gz"),
		"dist/storefront/assets/entry-1a2b3c4d.js.br": text("shop br"),
		"dist/storefront/assets/only-5e6f.css.gz":     text("a form of nothing"),
		"dist/storefront/assets/font-77.woff2":        text("font"),
		"dist/console/index.html":                     text("<!doctype html><title>console</title>"),
		"dist/console/assets/entry-9f8e7d6c.js":       text("console()"),
	}
}

// get asks a handler; headers are "Name: value".
func get(t *testing.T, h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "http://shop.test/", nil)
	r.URL.Path = path // as a client may write it: not cleaned by a URL parser
	for _, text := range headers {
		name, value, _ := strings.Cut(text, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestEachPathGetsItsFile(t *testing.T) {
	h := serve(pages())
	const shop, console = "<!doctype html><title>shop</title>", "<!doctype html><title>console</title>"
	const html, js = "text/html; charset=utf-8", "text/javascript; charset=utf-8"
	const forever, ask = "public, max-age=31536000, immutable", "no-cache"
	for _, c := range []struct {
		path, kind, keep, body string
	}{
		{"/", html, ask, shop},
		{"/index.html", html, ask, shop},
		{"/favicon.svg", "image/svg+xml", ask, "<svg/>"},
		{"/sales/sal_1234", html, ask, shop}, // the app routes it
		{"/orders/", html, ask, shop},
		{"/assetsy", html, ask, shop},
		{"/consoles", html, ask, shop}, // begins like the console, and is not
		{"/assets/entry-1a2b3c4d.js", js, forever, "shop()"},
		{"/assets/font-77.woff2", "", forever, "font"},
		{"/console/", html, ask, console},
		{"/console/sales/sal_1/live", html, ask, console},
		{"/console/assets/entry-9f8e7d6c.js", js, forever, "console()"},
	} {
		w := get(t, h, "GET", c.path)
		if w.Code != 200 || w.Body.String() != c.body || w.Header().Get("Cache-Control") != c.keep {
			t.Errorf("%s: %d %q, kept %q", c.path, w.Code, w.Body, w.Header().Get("Cache-Control"))
		}
		if got := w.Header().Get("Content-Type"); c.kind != "" && got != c.kind || got == "" {
			t.Errorf("%s is of the kind %q, not %q", c.path, got, c.kind)
		}
		if w.Header().Get("Vary") != "Accept-Encoding" || w.Header().Get("Etag") == "" {
			t.Errorf("%s: a cache between cannot tell its forms apart: %v", c.path, w.Header())
		}
	}
}

// An asset that is gone is 404 and never the index: a browser that takes markup for a script says nothing that helps anybody.
func TestMissingAssetsAreNotTheIndex(t *testing.T) {
	h := serve(pages())
	for _, path := range []string{"/assets/entry-old.js", "/assets/", "/assets/entry-1a2b3c4d.js.map", "/console/assets/entry-1a2b3c4d.js",
		"/assets/entry-1a2b3c4d.js.gz", "/assets/only-5e6f.css", "/console/../assets/nothing.js"} {
		w := get(t, h, "GET", path)
		if path == "/assets/" { // the folder itself: path.Clean takes the slash, so it is no asset
			if w.Code != 200 || !strings.Contains(w.Body.String(), "shop") {
				t.Errorf("%s: %d %q", path, w.Code, w.Body)
			}
			continue
		}
		if w.Code != 404 || strings.Contains(w.Body.String(), "<") || w.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d, kept %q: %q", path, w.Code, w.Header().Get("Cache-Control"), w.Body)
		}
	}
}

// Nothing outside of the faces' folders is reached, however the path is written.
func TestNoPathLeavesItsFace(t *testing.T) {
	h := serve(pages())
	for _, path := range []string{"/../secret.txt", "/../../dist/secret.txt", "/assets/../../secret.txt", "//secret.txt", "/./../secret.txt",
		"/console/../secret.txt", "/console/../../secret.txt", "/console/assets/../../../secret.txt", `/..\secret.txt`, "/%2e%2e/secret.txt",
		"/\x00", "/assets/\x00/../../secret.txt", "/.keep", "/storefront/index.html", strings.Repeat("/..", 500) + "/secret.txt"} {
		w := get(t, h, "GET", path)
		if strings.Contains(w.Body.String(), "not of a face") || w.Code == 200 && !strings.Contains(w.Body.String(), "<title>") {
			t.Errorf("%q: %d %q", path, w.Code, w.Body)
		}
	}
}

func TestTheSmallestAcceptedForm(t *testing.T) {
	h := serve(pages())
	const path = "/assets/entry-1a2b3c4d.js"
	for accept, want := range map[string]string{
		"":                              "",
		"identity":                      "",
		"gzip":                          "gzip",
		"gzip, deflate, br, zstd":       "br",
		"br":                            "br",
		" br ;q=1.0 , gzip":             "br",
		"br;q=0, gzip":                  "gzip",
		"br;q=0.000,gzip;q=0":           "",
		"gzip;q=0.5":                    "gzip",
		"deflate":                       "",
		"brotli, gzipped":               "",
		"*":                             "",
		strings.Repeat("x,", 4000) + "": "",
	} {
		w := get(t, h, "GET", path, "Accept-Encoding: "+accept)
		body := map[string]string{"": "shop()", "gzip": "shop gz", "br": "shop br"}[want]
		if w.Code != 200 || w.Header().Get("Content-Encoding") != want || w.Body.String() != body {
			t.Errorf("%.60q: %d, encoded %q, %q", accept, w.Code, w.Header().Get("Content-Encoding"), w.Body)
		}
		if got := w.Header().Get("Content-Type"); got != "text/javascript; charset=utf-8" {
			t.Errorf("%.60q: the form changed the kind to %q", accept, got)
		}
	}
	if w := get(t, h, "GET", "/favicon.svg", "Accept-Encoding: br, gzip"); w.Header().Get("Content-Encoding") != "" || w.Body.String() != "<svg/>" {
		t.Errorf("a file without compressed forms goes out as it is: %v %q", w.Header(), w.Body)
	}
}

func TestNotModified(t *testing.T) {
	h := serve(pages())
	tags := map[string]string{}
	for _, accept := range []string{"", "gzip", "br"} {
		w := get(t, h, "GET", "/", "Accept-Encoding: "+accept)
		tags[accept] = w.Header().Get("Etag")
	}
	if tags[""] == tags["gzip"] || tags["gzip"] == tags["br"] || tags[""] == tags["br"] {
		t.Fatalf("different bytes have one tag: %v", tags)
	}
	for _, c := range []struct {
		accept, match string
		want          int
	}{
		{"br", tags["br"], 304},
		{"br", "W/" + tags["br"], 304},
		{"br", `"other", ` + tags["br"], 304},
		{"br", tags["gzip"], 200},
		{"", tags["br"], 200},
		{"gzip", `"other"`, 200},
		{"gzip", strings.Trim(tags["gzip"], `"`), 200}, // without its quotes it is no tag
	} {
		w := get(t, h, "GET", "/", "Accept-Encoding: "+c.accept, "If-None-Match: "+c.match)
		if w.Code != c.want {
			t.Errorf("%s with %s: %d, want %d", c.match, c.accept, w.Code, c.want)
		}
		if w.Code == 304 && (w.Body.Len() != 0 || w.Header().Get("Etag") != tags[c.accept] || w.Header().Get("Vary") == "" || w.Header().Get("Content-Length") != "") {
			t.Errorf("%s: a 304 has its tag and no body: %v %q", c.match, w.Header(), w.Body)
		}
	}
	changed := pages()
	changed["dist/storefront/index.html"].Data = []byte("<!doctype html><title>new shop</title>")
	if w := get(t, serve(changed), "GET", "/", "If-None-Match: "+tags[""]); w.Code != 200 {
		t.Error("a page that changed is not modified")
	}
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	srv := httptest.NewServer(serve(pages()))
	defer srv.Close()
	for _, path := range []string{"/", "/sales/sal_1", "/assets/entry-1a2b3c4d.js", "/assets/none.js", "/console/"} {
		headers := map[string]http.Header{}
		for _, method := range []string{"GET", "HEAD"} {
			req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "br") // one of our own, so that the client does not ask for gzip and unpack it
			resp, err := srv.Client().Transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || (len(body) == 0) != (method == "HEAD") {
				t.Errorf("%s %s has a body of %d bytes: %v", method, path, len(body), err)
			}
			resp.Body.Close()
			resp.Header.Del("Date")
			headers[method] = resp.Header
		}
		if diff := cmp.Diff(headers["GET"], headers["HEAD"]); diff != "" {
			t.Errorf("%s: HEAD and GET differ:\n%s", path, diff)
		}
	}
}

// Every answer carries the policy, whatever it is: the pages, a missing file, a redirect, and the page that says there are none.
func TestThePolicyIsOnEveryAnswer(t *testing.T) {
	for name, h := range map[string]http.Handler{"built": serve(pages()), "not built": serve(fstest.MapFS{})} {
		for _, path := range []string{"/", "/console", "/console/", "/assets/none.js", "/assets/entry-1a2b3c4d.js", "/favicon.svg", "/any"} {
			w := get(t, h, "GET", path)
			if got := w.Header()["Content-Security-Policy"]; len(got) != 1 || got[0] != policy {
				t.Errorf("%s %s (%d): %q", name, path, w.Code, got)
			}
		}
	}
	for _, must := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "require-trusted-types-for 'script'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
		if !strings.Contains(policy, must) {
			t.Errorf("the policy lost %q", must)
		}
	}
	for _, never := range []string{"unsafe", "*", "http:", "https:"} {
		if strings.Contains(policy, never) {
			t.Errorf("the policy allows %q", never)
		}
	}
}

func TestConsoleWithoutItsSlash(t *testing.T) {
	if w := get(t, serve(pages()), "GET", "/console"); w.Code != 301 || w.Header().Get("Location") != "/console/" {
		t.Errorf("%d to %q", w.Code, w.Header().Get("Location"))
	}
}

// A program without pages says so, on every path that would be a page, and is not kept by anybody.
func TestNotBuilt(t *testing.T) {
	h := serve(fstest.MapFS{"dist/.keep": &fstest.MapFile{}})
	for _, path := range []string{"/", "/sales/sal_1", "/console/", "/index.html"} {
		w := get(t, h, "GET", path)
		if w.Code != 503 || w.Header().Get("Cache-Control") != "no-store" || !strings.Contains(w.Body.String(), "make ui build") {
			t.Errorf("%s: %d, kept %q: %q", path, w.Code, w.Header().Get("Cache-Control"), w.Body)
		}
		if strings.Contains(w.Body.String(), "<script") || strings.Contains(w.Body.String(), "style=") {
			t.Errorf("%s breaks its own policy: %s", path, w.Body)
		}
	}
	if w := get(t, h, "GET", "/assets/entry.js"); w.Code != 404 {
		t.Errorf("an asset of pages that are not built: %d", w.Code)
	}
}
