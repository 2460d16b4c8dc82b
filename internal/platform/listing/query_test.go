package listing

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"levee"
)

// TestRefusals: each wrong question is refused with a name, what is allowed, and what was given.
func TestRefusals(t *testing.T) {
	l := things(0)
	many := strings.TrimSuffix(strings.Repeat("1,", maxIn+1), ",")
	for question, want := range map[string][3]string{
		"colour=red":                        {"query.colour", "at__gt", "colour"},
		"score__contains=1":                 {"query.score__contains", "score__gte", ""},
		"title__isnull=true":                {"query.title__isnull", "note__isnull", ""},
		"flag__in=true":                     {"query.flag__in", "flag", ""},
		"flag=1":                            {"query.flag", "true or false", "1"},
		"kind=pink":                         {"query.kind", "red, green, blue", "pink"},
		"kind__in=red,pink":                 {"query.kind__in", "red, green, blue", "pink"},
		"score=1.5":                         {"query.score", "whole number", "1.5"},
		"score=9223372036854775808":         {"query.score", "whole number", ""},
		"score__in=" + many:                 {"query.score__in", "at most 50", "51"},
		"at=yesterday":                      {"query.at", "RFC 3339", "yesterday"},
		"at=0001-01-01T00:00:00Z":           {"query.at", "RFC 3339", ""},
		"title=":                            {"query.title", "some text", ""},
		"title=" + strings.Repeat("x", 201): {"query.title", "at most 200 bytes", ""},
		"title=%00":                         {"query.title", "NUL", ""},
		"title=%ff":                         {"query.title", "UTF-8", ""},
		"q=":                                {"query.q", "from 1 to 200", ""},
		"title=a&title=b":                   {"query.title", "once", "2 times"},
		"sort=colour":                       {"query.sort", "id, score, title", "colour"},
		"sort=":                             {"query.sort", "id, score, title", ""},
		"sort=id,id":                        {"query.sort", "each once", "id"},
		"sort=id,-id":                       {"query.sort", "each once", "-id"},
		"sort=id,score,title,id":            {"query.sort", "at most 3", "4"},
		"sort=id&sortby=id":                 {"query.sort", "left out", ""},
		"order=asc":                         {"query.order", "sortby", ""},
		"sortby=id&order=up":                {"query.order", "asc or desc", "up"},
		"sortby=id,score&order=asc,asc,asc": {"query.order", "(2)", ""},
		"sortby=-id":                        {"query.sortby", "without signs", "-id"},
		"limit=0":                           {"query.limit", "from 1 to 100", "0"},
		"limit=101":                         {"query.limit", "from 1 to 100", "101"},
		"limit=ten":                         {"query.limit", "from 1 to 100", "ten"},
		"offset=-1":                         {"query.offset", "from 0", "-1"},
		"offset=10001":                      {"query.offset", "cursor", "10001"},
		"offset=99999999999999999":          {"query.offset", "cursor", ""},
		"page=0":                            {"query.page", "from 1", "0"},
		"page=102&per_page=100":             {"query.page", "cursor", "102"},
		"per_page=101":                      {"query.per_page", "from 1 to 100", "101"},
		"page=1&limit=10":                   {"query.limit", "left out", ""},
		"page=1&offset=10":                  {"query.offset", "left out", ""},
		"page=1&cursor=x":                   {"query.cursor", "left out", ""},
		"offset=0&cursor=x":                 {"query.offset", "left out", ""},
		"cursor=x&after=x":                  {"query.after", "left out", ""},
		"cursor=x":                          {"query.cursor", "next of an earlier page", "x"},
		"after=":                            {"query.after", "next of an earlier page", ""},
		"meta=count":                        {"query.meta", "total", "count"},
		"fields=secret":                     {"query.fields", "id, title, kind, score, note", "secret"},
		"fields=inner":                      {"query.fields", "id, title", "inner"},
		"fields=id,id":                      {"query.fields", "each once", "id"},
		"fields=":                           {"query.fields", "id, title", ""},
		"include=all":                       {"query.include", "fields", "include"},
		"export=pdf":                        {"query.export", "csv", "pdf"},
		"export=csv&limit=5":                {"query.limit", "left out of an export", "5"},
		"export=csv&cursor=x":               {"query.cursor", "next of an earlier page", ""},
	} {
		_, err := l.Ask(question)
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 {
			t.Errorf("%s: %v", question, err)
			continue
		}
		if f := e.Fields[0]; f.Field != want[0] || !strings.Contains(f.Allowed, want[1]) || !strings.Contains(f.Given, want[2]) {
			t.Errorf("%s: %+v, want %q", question, f, want)
		}
	}
	for _, fine := range []string{"", "limit=100&offset=10000", "page=101&per_page=100", "page=100&per_page=100", "sortby=id,score&order=desc", "sort=-score,title&q=x&meta=total", "score__in=1,2,-3"} {
		if _, err := l.Ask(fine); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
}

// TestCursorsAreBound: a cursor goes with the list, path, filters and order that it was made for, and with no change of itself.
func TestCursorsAreBound(t *testing.T) {
	l := things(0)
	ask := func(path, question string) (*Query, error) {
		v, err := url.ParseQuery(question)
		if err != nil {
			t.Fatal(err)
		}
		return l.parse(path, v, false)
	}
	q, err := ask("/a", "kind=red&sort=title")
	if err != nil {
		t.Fatal(err)
	}
	made := position{keys: []any{"苹果", int64(-7)}}
	c := l.seal.seal(q.bound, made)
	if got, err := ask("/a", "kind=red&sort=title&limit=7&fields=id&cursor="+c); err != nil || fmt.Sprint(*got.at) != fmt.Sprint(made) {
		t.Fatalf("%v, %v", got, err)
	}
	if strings.Contains(c, "苹果") || c == l.seal.seal(q.bound, position{back: true, keys: made.keys}) {
		t.Error("the cursor shows its keys, or not its direction")
	}
	for _, other := range []string{"kind=blue&sort=title", "sort=title", "kind=red&sort=-title", "kind=red", "kind=red&flag=true&sort=title", "kind=red&sort=title&q=x"} {
		if _, err := ask("/a", other+"&cursor="+c); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s takes it: %v", other, err)
		}
	}
	if _, err := ask("/b", "kind=red&sort=title&cursor="+c); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("another path takes it: %v", err)
	}
	stranger := newSealer(make([]byte, 32))
	if _, err := ask("/a", "kind=red&sort=title&cursor="+stranger.seal(q.bound, made)); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("one sealed with another key is taken: %v", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(c)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			bad := append([]byte(nil), raw...)
			bad[i] ^= 1 << bit
			if _, err := l.seal.open(q.bound, base64.RawURLEncoding.EncodeToString(bad), []bool{true, false}); err == nil {
				t.Fatalf("bit %d of byte %d may be changed", bit, i)
			}
		}
	}
	for n := range len(raw) {
		if _, err := l.seal.open(q.bound, base64.RawURLEncoding.EncodeToString(raw[:n]), []bool{true, false}); err == nil {
			t.Fatalf("the first %d bytes are taken", n)
		}
	}
	for _, wrong := range [][]bool{{false, false}, {true}, {true, false, false}, {true, true}} {
		if _, err := l.seal.open(q.bound, c, wrong); err == nil {
			t.Errorf("keys of other kinds take it: %v", wrong)
		}
	}
}

func FuzzCursor(f *testing.F) {
	s := newSealer(make([]byte, 32))
	f.Add(s.seal("x", position{keys: []any{int64(1), "a"}}))
	f.Add("")
	f.Fuzz(func(t *testing.T, c string) {
		p, err := s.open("x", c, []bool{false, true})
		if err == nil && s.seal("x", p) != c {
			t.Errorf("%q opens as %v, which is sealed otherwise", c, p)
		}
	})
}
