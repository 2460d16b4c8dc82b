// Package ui carries the two faces of the house, the shop's and the operators', built by npm into dist and embedded, and serves them.
//
// It owns the pages' files, how long browsers keep them, and the policy under which they run. It does not own anything that they
// show: that comes from the API. A program built without them says so on a page of its own.
package ui

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// policy is the content security policy of every page: nothing from elsewhere, nothing inline, no string ever becomes code or
// markup. "vue" is the Trusted Types policy by which Vue makes its own templates, "levee-worker" the one that lets the storefront start
// its worker file and no other script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; " +
	"worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types vue levee-worker"

const consolePrefix = "/console"

// file is one embedded file with what was compressed beforehand.
type file struct {
	kind         string
	etag         string
	plain        []byte
	gzip, brotli []byte // nil where there is none
}

// face is one app.
type face struct {
	files map[string]*file // by path without a leading slash
}

// Handler serves the storefront at / and the console at /console/. Paths that are no file get the app's index, which routes them by
// itself; a missing asset is 404. It answers GET and HEAD only and holds no state.
func Handler() http.Handler { return serve(dist) }

// serve is Handler for the pages in a file system.
func serve(pages fs.FS) http.Handler {
	store, console := load(pages, "dist/storefront"), load(pages, "dist/console")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Security-Policy"] = []string{policy} // on every answer, so that none is forgotten
		f, name := store, r.URL.Path
		if inside, ok := strings.CutPrefix(name, consolePrefix); ok && (inside == "" || inside[0] == '/') {
			if inside == "" {
				http.Redirect(w, r, consolePrefix+"/", http.StatusMovedPermanently)
				return
			}
			f, name = console, inside
		}
		f.serve(w, r, strings.TrimPrefix(path.Clean(name), "/"))
	})
}

// Built tells whether the pages are in this program.
func Built() bool {
	_, err := fs.Stat(dist, "dist/storefront/index.html")
	return err == nil
}

func load(pages fs.FS, dir string) *face {
	f := &face{files: map[string]*file{}}
	_ = fs.WalkDir(pages, dir, func(name string, d fs.DirEntry, err error) error { // a folder that is not there has no files
		if err != nil || d.IsDir() {
			return nil
		}
		ext := path.Ext(name)
		text, err := fs.ReadFile(pages, name)
		if err != nil {
			return nil
		}
		name = strings.TrimPrefix(name, dir+"/")
		switch ext {
		case ".gz":
			f.file(strings.TrimSuffix(name, ext)).gzip = text
		case ".br":
			f.file(strings.TrimSuffix(name, ext)).brotli = text
		default:
			sum := sha256.Sum256(text)
			e := f.file(name)
			e.plain, e.etag, e.kind = text, `"`+hex.EncodeToString(sum[:12])+`"`, mime.TypeByExtension(ext)
			if e.kind == "" {
				e.kind = "application/octet-stream"
			}
		}
		return nil
	})
	for name, e := range f.files {
		if e.etag == "" { // compressed forms of a file that is not there
			delete(f.files, name)
		}
	}
	return f
}

func (f *face) file(name string) *file {
	e := f.files[name]
	if e == nil {
		e = &file{}
		f.files[name] = e
	}
	return e
}

func (f *face) serve(w http.ResponseWriter, r *http.Request, name string) {
	h := w.Header()
	h["Cache-Control"] = []string{"no-cache"} // kept, but asked for each time
	e := f.files[name]
	switch {
	case e != nil && strings.HasPrefix(name, "assets/"):
		h["Cache-Control"] = []string{"public, max-age=31536000, immutable"} // the name changes with the content
	case e == nil && strings.HasPrefix(name, "assets/"):
		h["Content-Type"] = []string{"text/plain; charset=utf-8"}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("There is no such file. The page is older than the server: load it again.\n"))
		return
	case e == nil:
		e = f.files["index.html"]
	}
	if e == nil {
		notBuilt(w)
		return
	}
	h["Content-Type"] = []string{e.kind}
	h["Vary"] = append(h["Vary"], "Accept-Encoding")
	body, tag := e.plain, e.etag
	switch encoding := acceptedEncoding(r.Header.Get("Accept-Encoding")); {
	case encoding == "br" && e.brotli != nil:
		body, tag = e.brotli, strings.TrimSuffix(e.etag, `"`)+`-br"`
		h["Content-Encoding"] = []string{"br"}
	case encoding != "" && e.gzip != nil:
		body, tag = e.gzip, strings.TrimSuffix(e.etag, `"`)+`-gz"`
		h["Content-Encoding"] = []string{"gzip"}
	}
	h["Etag"] = []string{tag}
	if match := r.Header.Get("If-None-Match"); match != "" && strings.Contains(match, tag) {
		h.Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if r.Method != http.MethodHead {
		_, _ = bytes.NewReader(body).WriteTo(w) // a visitor who is gone does not matter
	}
}

// acceptedEncoding returns "br", "gzip" or "": the best that the browser takes. One with q=0 is refused; other weights are not
// compared, since both are there and the smaller one is wanted.
func acceptedEncoding(accept string) (best string) {
	for part := range strings.SplitSeq(accept, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if q := strings.TrimSpace(params); q == "q=0" || q == "q=0.0" || q == "q=0.00" || q == "q=0.000" {
			continue
		}
		switch strings.TrimSpace(name) {
		case "br":
			return "br"
		case "gzip":
			best = "gzip"
		}
	}
	return best
}

func notBuilt(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = []string{"text/html; charset=utf-8"}
	h["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write([]byte(`<!doctype html><html lang="en"><meta charset="utf-8"><title>Levee</title>
<h1>The pages are not built</h1>
<p>This program was built without its pages. The API works: see <a href="/docs">/docs</a>.</p>
<p>To build them: <code>make ui build</code> (it needs Node 20 and npm).</p>
<p lang="zh">网页尚未构建；接口可用，见 <a href="/docs">/docs</a>。构建命令：<code>make ui build</code>。</p></html>
`))
}
