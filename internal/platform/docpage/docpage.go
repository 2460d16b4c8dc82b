// Package docpage is the page on which people browse the API's document and try its operations: Swagger UI, with all of its files inside this
// program.
package docpage

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5/static"
	"github.com/swaggest/swgui/v5emb"
)

// Docs is the page, made once, with what it needs.
type Docs struct {
	Page   []byte
	Policy []string // its content security policy: its two inline scripts by their hashes, and nothing from elsewhere
	Assets http.Handler
}

// New makes the page for the document at a path; base is where the page itself is served.
func New(title, base, document string) *Docs {
	ui := v5emb.NewHandlerWithConfig(swgui.Config{
		Title: title, SwaggerJSON: document, BasePath: base + "/",
		SettingsUI: map[string]string{"tryItOutEnabled": "true", "displayRequestDuration": "true", "defaultModelsExpandDepth": "0"},
	})
	rendered := pageWriter{header: http.Header{}}
	ui.ServeHTTP(&rendered, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: base}})
	page := rendered.body.Bytes()
	return &Docs{Page: page, Assets: ui, Policy: []string{"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; " +
		"img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'" + scriptHashes(page)}}
}

// pageWriter takes a page that is made once.
type pageWriter struct {
	header http.Header
	body   bytes.Buffer
}

func (p *pageWriter) Header() http.Header         { return p.header }
func (p *pageWriter) WriteHeader(int)             {}
func (p *pageWriter) Write(b []byte) (int, error) { return p.body.Write(b) }

// Has reports whether there is such an asset.
func Has(name string) bool {
	for _, n := range []string{name, name + ".gz"} {
		if f, err := static.FS.Open(n); err == nil {
			info, err := f.Stat()
			_ = f.Close() // read from memory
			return err == nil && !info.IsDir()
		}
	}
	return false
}

// scriptHashes lists the hashes of a page's inline scripts as sources of a content security policy.
func scriptHashes(page []byte) string {
	var b strings.Builder
	for rest := page; ; {
		_, after, ok := bytes.Cut(rest, []byte("<script>"))
		if !ok {
			return b.String()
		}
		script, tail, _ := bytes.Cut(after, []byte("</script>"))
		sum := sha256.Sum256(script)
		b.WriteString(" 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'")
		rest = tail
	}
}
