package listing

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/web"
)

// desk is a server with the list of things at /v1/things, in front of a database.
type desk struct {
	t    *testing.T
	db   *db.DB
	base string
	// told is what the audit trail was told; refuse makes it fail.
	told   []string
	refuse error
	broken func(page int) error // fails a page of an export
	pages  int
}

type thingsView struct {
	Page[thingView]
	Red int `json:"red"`
}

func newDesk(t *testing.T, d *db.DB, key []byte) *desk {
	k := &desk{t: t, db: d}
	srv, err := web.New(web.Config{}, web.Parts{Obs: obs.Test(t), ListKey: key,
		Authenticate: func(r *http.Request) (levee.Actor, error) {
			switch r.Header.Get("Authorization") {
			case "operator":
				return levee.Actor{User: 1, Roles: levee.RoleOperator}, nil
			case "customer":
				return levee.Actor{User: 2, Roles: levee.RoleCustomer}, nil
			}
			return levee.Actor{}, nil
		},
		Exported: func(_ context.Context, list, query string) error {
			k.told = append(k.told, list+"?"+query)
			return k.refuse
		}})
	if err != nil {
		t.Fatal(err)
	}
	Add(srv, web.Route{Method: "GET", Path: "/v1/shelves/{shelf}/things", ID: "listThings"}, things(0),
		func(ctx context.Context, in *struct {
			Shelf string `path:"shelf"`
		}, q *Query) (*thingsView, error) {
			if k.pages++; k.broken != nil {
				if err := k.broken(k.pages); err != nil {
					return nil, err
				}
			}
			f, err := Rows(ctx, d.Query, q, thingColumns, "list_thing", scanThing)
			if err != nil {
				return nil, err
			}
			return &thingsView{Page: *Show(q, f, func(x thing) thingView {
				return thingView{ID: x.id, Title: x.title, Kind: x.kind, Score: x.score, Note: x.note, inner: "secret"}
			}), Red: 7}, nil
		})
	Add(srv, web.Route{Method: "GET", Path: "/v1/few", ID: "listFew"}, New[thingView](Spec{Name: "few", Whole: true}),
		func(context.Context, *struct{}, *Query) (*Page[thingView], error) {
			return Whole([]thingView{{ID: 1}}), nil
		})
	at := httptest.NewServer(srv.Handler())
	t.Cleanup(at.Close)
	k.base = at.URL
	return k
}

func (k *desk) get(path string, status int, headers ...string) (string, http.Header) {
	k.t.Helper()
	r, err := http.NewRequestWithContext(k.t.Context(), http.MethodGet, k.base+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		return string(text) + " (cut off)", a.Header
	}
	if a.StatusCode != status {
		k.t.Fatalf("%s: %d, want %d: %s", path, a.StatusCode, status, text)
	}
	return string(text), a.Header
}

var linkForm = regexp.MustCompile(`<([^>]+)>; rel="(\w+)"`)

func links(h http.Header) map[string]string {
	list := map[string]string{}
	for _, m := range linkForm.FindAllStringSubmatch(h.Get("Link"), -1) {
		list[m[2]] = m[1]
	}
	return list
}

const shelf = "/v1/shelves/a/things"

func TestPagesOverHTTP(t *testing.T) {
	d := database(t)
	var all []thing
	for i := range 25 {
		all = append(all, thing{id: int64(i + 1), title: fmt.Sprintf("thing %02d", i), kind: "red", score: int64(i % 3)})
	}
	insert(t, d, all...)
	k := newDesk(t, d, nil)
	type answer struct {
		Items []map[string]any
		Next  string
		Total *int
		Red   int
	}
	read := func(path string) (a answer, h http.Header) {
		t.Helper()
		text, h := k.get(path, 200)
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatal(err)
		}
		return a, h
	}
	// Along next to the end, and along prev back: with what was asked besides, in each way of paging.
	for _, begin := range []string{"?limit=10&sort=score&kind=red", "?page=1&per_page=10&sort=score&kind=red", "?offset=0&limit=10&sort=score&kind=red"} {
		var forth, back []float64
		number := func(a answer) (list []float64) {
			for _, i := range a.Items {
				list = append(list, i["id"].(float64)) //nolint:errcheck // a number
			}
			return list
		}
		path, last := shelf+begin, ""
		for path != "" {
			a, h := read(path)
			forth, last = append(forth, number(a)...), path
			l := links(h)
			for rel, to := range l {
				if u, err := url.Parse(to); err != nil || u.Query().Get("sort") != "score" || u.Query().Get("kind") != "red" || u.Path != shelf {
					t.Errorf("%s is %s", rel, to)
				}
			}
			if (a.Next == "") != (l["next"] == "") || l["first"] == "" || l["last"] == "" {
				t.Errorf("%s: next %q, links %v", path, a.Next, l)
			}
			path = l["next"]
		}
		for path = last; path != ""; {
			a, h := read(path)
			back = append(number(a), back...)
			path = links(h)["prev"]
		}
		if len(forth) != 25 || !slices.Equal(forth, back) {
			t.Errorf("%s: forth %v, back %v", begin, forth, back)
		}
		if a, _ := read(links(second(k.get(shelf+begin, 200)))["last"]); !slices.Equal(number(a), forth[15:]) {
			t.Errorf("%s: the last page has %v", begin, number(a))
		}
	}
	if a, _ := read(shelf + "?meta=total&limit=1&score=1"); a.Total == nil || *a.Total != 8 || a.Red != 7 {
		t.Errorf("%+v", a)
	}
	if a, _ := read(shelf); a.Total != nil || len(a.Items) != 20 {
		t.Errorf("%+v", a)
	}
	// Parts of rows.
	a, h := read(shelf + "?fields=title,id&limit=1")
	if text, _ := k.get(shelf+"?fields=title,id&limit=1", 200); !strings.Contains(text, `{"title":"thing 24","id":25}`) || a.Next == "" || a.Red != 7 || links(h)["next"] == "" {
		t.Error(text)
	}
	for _, name := range []string{"inner", "secret", "Title", "flag", "id.x", "*"} {
		if text, _ := k.get(shelf+"?fields="+name, 422); strings.Contains(text, `"secret"`) && name != "secret" {
			t.Errorf("fields=%s shows %s", name, text)
		}
	}
	// A cursor of another shelf, and one of another house.
	next, _ := read(shelf + "?limit=1")
	k.get("/v1/shelves/b/things?limit=1&cursor="+next.Next, 422)
	newDesk(t, d, []byte("another house's key")).get(shelf+"?limit=1&cursor="+next.Next, 422)
	// Nodes of one house share the key.
	one, other := newDesk(t, d, make([]byte, 32)), newDesk(t, d, make([]byte, 32))
	text, _ := one.get(shelf+"?limit=1", 200)
	var shared answer
	if err := json.Unmarshal([]byte(text), &shared); err != nil {
		t.Fatal(err)
	}
	other.get(shelf+"?limit=1&cursor="+shared.Next, 200)
	// A handful knows parts, and no more.
	if text, h := k.get("/v1/few?fields=id", 200); !strings.Contains(text, `[{"id":1}]`) || h.Get("Link") != "" {
		t.Error(text)
	}
	for _, unknown := range []string{"limit=1", "cursor=x", "export=csv", "sort=id"} {
		if text, _ := k.get("/v1/few?"+unknown, 422); !strings.Contains(text, "fields") {
			t.Error(text)
		}
	}
}

func second[A, B any](_ A, b B) B { return b }

func TestExport(t *testing.T) {
	d := database(t)
	formulas := []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u200b=1", "\u00a0=1", "＝1", "＋1", "－1", "＠1", "|calc", "%0A=1", `=HYPERLINK("http://x","y")`, "=cmd|' /C calc'!A0"}
	plain := []string{"a", "a=1", "1-1", "", "a,b", `say "x"`, "two\nlines", "苹果", "'quoted", " a"}
	var all []thing
	for i, text := range append(slices.Clone(formulas), plain...) {
		if text == "" {
			text = " "
		}
		all = append(all, thing{id: int64(i + 1), title: text, kind: "red", score: int64(-i), note: &text})
	}
	for i := range 2500 { // more than two parts
		all = append(all, thing{id: int64(1000 + i), title: "many", kind: "blue"})
	}
	insert(t, d, all...)
	k := newDesk(t, d, nil)
	for _, c := range []struct{ who, query, accept string }{{"operator", "?export=csv&kind=red&sort=id", "*/*"}, {"operator", "?kind=red&sort=id", "text/csv"}} {
		k.told = nil
		text, h := k.get(shelf+c.query, 200, "Authorization", c.who, "Accept", c.accept)
		if h.Get("Content-Type") != "text/csv; charset=utf-8" || h.Get("Content-Disposition") != `attachment; filename="things.csv"` {
			t.Errorf("%v", h)
		}
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil || len(rows) != 1+len(formulas)+len(plain) || strings.Join(rows[0], ",") != "id,title,kind,score,note" {
			t.Fatalf("%d rows, %v: %s", len(rows), err, text)
		}
		for i, row := range rows[1:] {
			want := strings.ReplaceAll(all[i].title, "\r\n", "\n")
			if i < len(formulas) {
				want = "'" + want
			}
			if row[1] != want || row[4] != want || row[3] != fmt.Sprint(-i) {
				t.Errorf("row %d is %q, want %q", i, row, want)
			}
		}
		if len(k.told) != 1 || k.told[0] != "things"+c.query {
			t.Errorf("the trail was told %q", k.told)
		}
	}
	// Page after page, no row twice.
	k.pages = 0
	text, _ := k.get(shelf+"?export=csv&fields=id&sort=-score", 200, "Authorization", "operator")
	if lines := strings.Split(strings.TrimSpace(text), "\n"); len(lines) != len(all)+1 || k.pages != 3 || lines[0] != "id" {
		t.Errorf("%d lines on %d pages", len(lines), k.pages)
	} else if slices.Sort(lines); len(slices.Compact(lines)) != len(all)+1 {
		t.Error("a row came twice")
	}
	// Not for everybody, and not without the trail.
	k.told = nil
	k.get(shelf+"?export=csv", 403, "Authorization", "customer")
	k.get(shelf, 403, "Accept", "text/csv")
	k.get("/v1/few", 406, "Accept", "text/csv", "Authorization", "operator")
	if len(k.told) != 0 {
		t.Errorf("the trail was told %q", k.told)
	}
	k.refuse = levee.E(levee.CodeUnavailable, "no trail")
	if text, _ := k.get(shelf+"?export=csv", 503, "Authorization", "operator"); strings.Contains(text, "many") {
		t.Error(text)
	}
	k.refuse = nil
	// What breaks on the way is no shorter file.
	k.pages, k.broken = 0, func(page int) error {
		if page == 2 {
			return errors.New("the disk is gone")
		}
		return nil
	}
	if text, _ := k.get(shelf+"?export=csv", 200, "Authorization", "operator"); !strings.HasSuffix(text, "(cut off)") {
		t.Error("half a list looks whole")
	}
	k.broken = func(int) error { return levee.E(levee.CodeUnavailable, "away") }
	k.get(shelf+"?export=csv", 503, "Authorization", "operator")
}
