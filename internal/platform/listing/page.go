package listing

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
)

// Page is a list's answer; a room's answer embeds it where it tells more.
type Page[V any] struct {
	Items        []V    `json:"items" nullable:"false"`
	Next         string `json:"next,omitempty" doc:"Give it as cursor to get the next page; absent on the last"`
	Total        *int64 `json:"total,omitempty" doc:"Rows on all pages, with meta=total"`
	TotalIsLeast bool   `json:"total_is_least,omitempty" doc:"There are at least so many: counting ends at 100,000"`

	next, previous *position
}

func (p *Page[V]) listed() *Page[V] { return p }

// Show makes the answer of what was read, each row shown by view.
func Show[T, V any](q *Query, f *Found[T], view func(T) V) *Page[V] {
	p := &Page[V]{Items: make([]V, len(f.Rows)), Next: f.Next(q), next: f.next, previous: f.previous}
	for i, row := range f.Rows {
		p.Items[i] = view(row)
	}
	if q.total {
		total := f.total
		p.Total, p.TotalIsLeast = &total, f.least
	}
	return p
}

// Next is the cursor of the next page, or "" on the last.
func (f *Found[T]) Next(q *Query) string {
	if f.next == nil {
		return ""
	}
	return q.spec.seal.seal(q.bound, *f.next)
}

// With is the page with other rows in place of its own: read more fully, or some of them left out.
func With[T, U any](f *Found[T], rows []U) *Found[U] {
	return &Found[U]{Rows: rows, next: f.next, previous: f.previous, total: f.total, least: f.least}
}

// Rest makes the answer of a Forward list. next is the key behind which the next page begins, an int64 or a string; nil on the last.
func Rest[V any](q *Query, items []V, next any) *Page[V] {
	p := &Page[V]{Items: items}
	if next != nil {
		p.next = &position{keys: []any{next}}
		p.Next = q.spec.seal.seal(q.bound, *p.next)
	}
	return p
}

// Whole makes the answer of a list that is one page.
func Whole[V any](items []V) *Page[V] { return &Page[V]{Items: items} }

// links writes the Link header (RFC 8288): the pages around this one, with all that was asked besides.
func (q *Query) links(u *url.URL, next, previous *position) string {
	if q.spec.Whole {
		return ""
	}
	var b strings.Builder
	to := func(rel string, set func(v url.Values)) {
		v := u.Query()
		for _, name := range []string{"cursor", "after", "offset", "page"} {
			v.Del(name)
		}
		set(v)
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString("<" + u.EscapedPath())
		if len(v) > 0 {
			b.WriteString("?" + v.Encode())
		}
		b.WriteString(`>; rel="` + rel + `"`)
	}
	// A cursor goes with limit, not with per_page.
	at := func(p *position) func(v url.Values) {
		return func(v url.Values) {
			if v.Has("per_page") {
				v.Set("limit", v.Get("per_page"))
				v.Del("per_page")
			}
			v.Set("cursor", q.spec.seal.seal(q.bound, *p))
		}
	}
	skip := func(rows int) func(v url.Values) {
		return func(v url.Values) {
			if q.paged {
				v.Set("page", strconv.Itoa(rows/q.Limit+1))
			} else if rows > 0 {
				v.Set("offset", strconv.Itoa(rows))
			}
		}
	}
	counted := q.paged || q.offset > 0
	to("first", skip(0))
	if previous != nil {
		if counted {
			to("prev", skip(max(q.offset-q.Limit, 0)))
		} else {
			to("prev", at(previous))
		}
	}
	if next != nil {
		if counted && q.offset+q.Limit <= MaxOffset && !q.scans() {
			to("next", skip(q.offset+q.Limit))
		} else {
			to("next", at(next))
		}
	}
	if !q.spec.Forward {
		to("last", at(&position{back: true}))
	}
	return b.String()
}

// scans reports whether a page may end early, so that counting rows does not tell where the next one begins.
func (q *Query) scans() bool {
	for _, c := range q.where {
		if c.scans && q.spec.ScanMost > 0 {
			return true
		}
	}
	return false
}

// project keeps of each item only the fields that were asked for, in the order in which they were.
func project(answer any, fields []string) (any, error) {
	whole, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(whole, &top); err != nil {
		return nil, err
	}
	var items []map[string]json.RawMessage
	if err := json.Unmarshal(top["items"], &items); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteByte('[')
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('{')
		comma := false
		for _, name := range fields {
			value, ok := item[name]
			if !ok {
				continue
			}
			if comma {
				b.WriteByte(',')
			}
			b.WriteString(strconv.Quote(name)) // a name of a Go tag
			b.WriteByte(':')
			b.Write(value)
			comma = true
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
	top["items"] = b.Bytes()
	return top, nil
}
