package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"levee/internal/platform/contract"
)

type pair struct{ name, value string }

// request is one request, in parts, so that it can be made smaller.
type request struct {
	op      *contract.Operation
	actor   string
	method  string
	path    map[string]string
	query   []pair
	headers []pair
	media   string
	tree    any    // of a JSON or form body; nil with raw
	raw     []byte // of any other
	hasBody bool
}

func (r request) clone() request {
	r.path, r.query, r.headers, r.tree = maps.Clone(r.path), slices.Clone(r.query), slices.Clone(r.headers), clone(r.tree)
	return r
}

func (r request) url() string {
	p := r.op.Path
	for name, v := range r.path {
		p = strings.ReplaceAll(p, "{"+name+"}", strings.ReplaceAll(url.PathEscape(v), ".", "%2E"))
	}
	var q []string
	for _, x := range r.query {
		q = append(q, url.QueryEscape(x.name)+"="+url.QueryEscape(x.value))
	}
	if len(q) > 0 {
		p += "?" + strings.Join(q, "&")
	}
	return p
}

func (r request) body() []byte {
	switch {
	case !r.hasBody:
		return nil
	case r.raw != nil:
		return r.raw
	case r.media == formType:
		return []byte(form(r.tree))
	case r.media == multipartType:
		return r.multipart()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r.tree); err != nil {
		panic(err) // the maker made what is no JSON
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

const (
	formType, multipartType = "application/x-www-form-urlencoded", "multipart/form-data"
	mergeType, patchType    = "application/merge-patch+json", "application/json-patch+json"
	boundary                = "contract-7Kq2m9Zr4x"
)

// file is what the part file of a multipart form holds.
type file struct {
	media string
	bytes []byte
}

// MarshalJSON shows it as schemas call it: a text.
func (f file) MarshalJSON() ([]byte, error) { return json.Marshal(f.media) }

// multipart writes a flat object as a multipart form, the file last.
func (r request) multipart() []byte {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part := func(head textproto.MIMEHeader, content []byte) {
		p, err := w.CreatePart(head)
		if err == nil {
			_, err = p.Write(content)
		}
		if err != nil {
			panic(err) // into memory
		}
	}
	if err := w.SetBoundary(boundary); err != nil {
		panic(err) // it is a constant
	}
	o, _ := r.tree.(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(o)) {
		values, several := o[name].([]any)
		if !several {
			values = []any{o[name]}
		}
		for _, v := range values {
			if _, ok := v.(file); !ok {
				part(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + name + `"`}}, []byte(fmt.Sprint(v)))
			}
		}
	}
	if f, ok := o["file"].(file); ok {
		part(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="file"`}, "Content-Type": {f.media}}, f.bytes)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// contentType is the header of the body.
func (r request) contentType() string {
	if r.media == multipartType {
		return r.media + "; boundary=" + boundary
	}
	return r.media
}

func (r request) header(name string) (value string, ok bool) {
	for _, h := range r.headers {
		if h.name == name {
			return h.value, true
		}
	}
	return "", false
}

// form writes a flat object as a form.
func form(tree any) string {
	v := url.Values{}
	o, _ := tree.(map[string]any)
	for name, x := range o {
		if l, ok := x.([]any); ok {
			for _, y := range l {
				v.Add(name, fmt.Sprint(y))
			}
			continue
		}
		v.Add(name, fmt.Sprint(x))
	}
	return v.Encode()
}

// curl is the line that sends the request by hand; TOKEN stands for the actor's.
func (r request) curl(base string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	line := "curl -i -X " + r.method
	if r.actor != visitor {
		line += ` -H "Authorization: Bearer $` + strings.ToUpper(r.actor) + `"`
	}
	for _, h := range r.headers {
		line += " -H " + quote(h.name+": "+h.value)
	}
	if r.media != "" {
		line += " -H " + quote("Content-Type: "+r.contentType())
	}
	if b := r.body(); b != nil {
		if len(b) > 2000 {
			b = append(bytes.Clone(b[:2000]), "…"...)
		}
		line += " --data-binary " + quote(string(b))
	}
	return line + " " + quote(base+r.url())
}

// client keeps no cookies and follows nothing.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}, Timeout: time.Minute,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// send sends the request and reads the answer; a stream only to its head.
func (r request) send(ctx context.Context, base, token string) (contract.Answer, error) {
	b := r.body()
	var reader io.Reader
	if b != nil {
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, base+r.url(), reader)
	if err != nil {
		return contract.Answer{}, err
	}
	if r.media != "" {
		req.Header.Set("Content-Type", r.contentType())
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range r.headers {
		req.Header.Add(h.name, h.value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return contract.Answer{}, err
	}
	defer resp.Body.Close()
	a := contract.Answer{Method: r.method, Path: req.URL.EscapedPath(), Query: req.URL.RawQuery, Status: resp.StatusCode, Header: resp.Header}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		a.Cut = true
		return a, nil
	}
	a.Body, err = io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return a, err
}

// problem is what a refusal says of itself.
type problem struct {
	Code   string                            `json:"error"`
	Errors []struct{ Field, Allowed string } `json:"errors"`
	Detail string                            `json:"detail"`
}

func problemOf(a contract.Answer) (p problem) {
	_ = json.Unmarshal(a.Body, &p) // what is no problem says nothing
	return p
}
