package listing

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/platformtest"
)

// thing is a row of the tests' table.
type thing struct {
	id, score int64
	title     string
	kind      string
	flag      bool
	at        time.Time
	note      *string
}

type thingView struct {
	ID    int64   `json:"id"`
	Title string  `json:"title"`
	Kind  string  `json:"kind"`
	Score int64   `json:"score"`
	Note  *string `json:"note,omitempty"`
	inner string
}

var kinds = map[string]any{"red": int64(1), "green": int64(2), "blue": int64(3)}

const thingColumns = "id, score, title, kind, flag, at, note"

func things(scanMost int) *List[thingView] {
	return New[thingView](Spec{Name: "things", ScanMost: scanMost, Export: true, Order: "-id", Unique: "id",
		Fields: []Field{
			{Name: "id", Type: Number, Column: "id"},
			{Name: "score", Type: Number, Column: "score"},
			{Name: "title", Column: "title", Contains: true},
			{Name: "kind", Type: Choice, Column: "kind", Choices: []string{"red", "green", "blue"}, Stored: kinds, Scans: true},
			{Name: "flag", Type: Bool, Column: "flag", Scans: true},
			{Name: "at", Type: Time, Column: "at", Scans: true},
			{Name: "note", Column: "note", Nullable: true, Contains: true, Scans: true},
		},
		Search: []string{"title", "note"},
		Keys:   []Key{{Name: "id", Column: "id"}, {Name: "score", Column: "score"}, {Name: "title", Column: "title", Text: true}}})
}

func database(t *testing.T) *db.DB {
	return platformtest.New(t, db.Schema{Owner: "list", FS: fstest.MapFS{"schema/0001_list.sql": {Data: []byte(`CREATE TABLE list_thing (
	id BIGINT NOT NULL PRIMARY KEY,
	score BIGINT NOT NULL,
	title VARCHAR(190) NOT NULL,
	kind SMALLINT NOT NULL,
	flag SMALLINT NOT NULL,
	at BIGINT NOT NULL,
	note VARCHAR(190)
);
CREATE INDEX list_thing_score ON list_thing (score, id);
CREATE INDEX list_thing_title ON list_thing (title, id);
`)}}}).DB
}

func insert(t testing.TB, d *db.DB, all ...thing) {
	t.Helper()
	rows := make([][]any, len(all))
	for i, x := range all {
		flag := int64(0)
		if x.flag {
			flag = 1
		}
		var note any
		if x.note != nil {
			note = *x.note
		}
		rows[i] = []any{x.id, x.score, x.title, kinds[x.kind], flag, x.at.UnixMicro(), note}
	}
	err := d.Tx(t.Context(), "test.insert", func(ctx context.Context, tx *db.Tx) error {
		return tx.InsertRows(ctx, "list_thing", strings.Split(thingColumns, ", "), rows)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func scanThing(row Row) (x thing, err error) {
	var kind, flag, at int64
	var note db.NullString
	err = row.Scan(&x.id, &x.score, &x.title, &kind, &flag, &at, &note)
	for name, n := range kinds {
		if n == kind {
			x.kind = name
		}
	}
	if x.flag, x.at = flag == 1, time.UnixMicro(at).UTC(); note.Valid {
		x.note = &note.String
	}
	return x, err
}

func page(t testing.TB, d *db.DB, l *List[thingView], v url.Values) (*Query, *Found[thing]) {
	t.Helper()
	q, err := l.Ask(v.Encode())
	if err != nil {
		t.Fatalf("%s: %v", v.Encode(), err)
	}
	f, err := Rows(t.Context(), d.Query, q, thingColumns, "list_thing", scanThing)
	if err != nil {
		t.Fatalf("%s: %v", v.Encode(), err)
	}
	return q, f
}

func ids(rows []thing) []int64 {
	list := make([]int64, len(rows))
	for i, r := range rows {
		list[i] = r.id
	}
	return list
}

// nasty are texts that SQL, LIKE or a spreadsheet might take for more than text.
var nasty = []string{"a", "A", "ab", "ABBA", "ä", "苹果", "苹", "%", "_", "a%b", "a_b", "axb", "'", "''", `"`, `\`, `\'`, "a\\", "x ", " x", "x", "x\t", "; DROP TABLE list_thing; --",
	"' OR '1'='1", "') OR 1=1 --", "\" OR \"\"=\"", "1) UNION SELECT 1,2,3,4,5,6,7 --", "%27%20OR%201=1", "/*", "*/", "?", "$1", ":a", "@@version", "\n", "😀", "＝1+1", "\u200b"}

func random(r *rand.Rand, n int) (all []thing) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		x := thing{id: int64(i + 1), score: r.Int64N(7) - 3, title: nasty[r.IntN(len(nasty))], kind: []string{"red", "green", "blue"}[r.IntN(3)], flag: r.IntN(4) == 0,
			at: begin.Add(time.Duration(r.IntN(50)) * time.Second)}
		if r.IntN(3) > 0 {
			note := nasty[r.IntN(len(nasty))] + nasty[r.IntN(len(nasty))]
			x.note = &note
		}
		all = append(all, x)
	}
	return all
}

// oracle is the contract in plain Go.
func oracle(all []thing, v url.Values) (list []thing) {
	compare := func(op string, a, b int64) bool {
		switch op {
		case "gt":
			return a > b
		case "gte":
			return a >= b
		case "lt":
			return a < b
		case "lte":
			return a <= b
		}
		return a == b
	}
	for _, x := range all {
		ok := true
		for name := range v {
			text := v.Get(name)
			field, op, _ := strings.Cut(name, "__")
			number := map[string]int64{"id": x.id, "score": x.score, "at": x.at.UnixMicro()}
			words := map[string]*string{"title": &x.title, "note": x.note, "kind": &x.kind}
			_, isNumber := number[field]
			word, isWord := words[field]
			switch {
			case op == "in" && isNumber:
				ok = ok && slices.Contains(strings.Split(text, ","), strconv.FormatInt(number[field], 10))
			case op == "in" && isWord:
				ok = ok && word != nil && slices.Contains(strings.Split(text, ","), *word)
			case op == "contains":
				ok = ok && word != nil && strings.Contains(*word, text)
			case op == "isnull":
				ok = ok && (word == nil) == (text == "true")
			case field == "at":
				moment, _ := time.Parse(time.RFC3339, text)
				ok = ok && compare(op, number[field], moment.UnixMicro())
			case isNumber:
				n, _ := strconv.ParseInt(text, 10, 64)
				ok = ok && compare(op, number[field], n)
			case isWord:
				ok = ok && word != nil && *word == text
			case field == "flag":
				ok = ok && x.flag == (text == "true")
			case field == "q":
				ok = ok && (strings.Contains(x.title, text) || x.note != nil && strings.Contains(*x.note, text))
			}
		}
		if ok {
			list = append(list, x)
		}
	}
	order := strings.Split(v.Get("sort"), ",")
	if v.Has("sortby") {
		order = strings.Split(v.Get("sortby"), ",")
		directions := strings.Split(v.Get("order"), ",")
		for i := range order {
			if directions[min(i, len(directions)-1)] == "desc" {
				order[i] = "-" + order[i]
			}
		}
	} else if !v.Has("sort") {
		order = []string{"-id"}
	}
	order = append(order, strings.TrimSuffix(order[len(order)-1], strings.TrimPrefix(order[len(order)-1], "-"))+"id")
	slices.SortFunc(list, func(a, b thing) int {
		for _, key := range order {
			bare, desc := strings.CutPrefix(key, "-")
			c := map[string]int{"id": cmp.Compare(a.id, b.id), "score": cmp.Compare(a.score, b.score), "title": cmp.Compare(a.title, b.title)}[bare]
			if desc {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return list
}

// question draws filters and an order.
func question(r *rand.Rand) url.Values {
	v := url.Values{}
	text := func() string { return nasty[r.IntN(len(nasty))] }
	number := func() string { return strconv.Itoa(r.IntN(9) - 4) }
	moment := func() string {
		return time.Date(2026, 1, 1, 0, 0, r.IntN(52), 0, time.UTC).In(time.FixedZone("", 3600*(r.IntN(5)-2))).Format(time.RFC3339)
	}
	for range r.IntN(4) {
		switch r.IntN(12) {
		case 0:
			v.Set("score"+[]string{"", "__gt", "__gte", "__lt", "__lte"}[r.IntN(5)], number())
		case 1:
			v.Set("score__in", number()+","+number()+","+number())
		case 2:
			v.Set("title", text())
		case 3:
			v.Set("title__contains", text())
		case 4:
			v.Set("note__contains", text())
		case 5:
			v.Set("note__isnull", strconv.FormatBool(r.IntN(2) == 0))
		case 6:
			v.Set("kind", []string{"red", "green", "blue"}[r.IntN(3)])
		case 7:
			v.Set("kind__in", "red,blue")
		case 8:
			v.Set("flag", strconv.FormatBool(r.IntN(2) == 0))
		case 9:
			v.Set("at"+[]string{"", "__gt", "__gte", "__lt", "__lte"}[r.IntN(5)], moment())
		case 10:
			v.Set("q", text())
		case 11:
			v.Set("id__gte", strconv.Itoa(r.IntN(200)))
		}
	}
	keys := []string{"id", "score", "title"}
	r.Shuffle(3, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	keys = keys[:1+r.IntN(3)]
	switch r.IntN(4) {
	case 0:
		var directions []string
		for range keys {
			directions = append(directions, []string{"asc", "desc"}[r.IntN(2)])
		}
		v.Set("sortby", strings.Join(keys, ","))
		v.Set("order", strings.Join(directions, ","))
	case 1, 2:
		for i := range keys {
			if r.IntN(2) == 0 {
				keys[i] = "-" + keys[i]
			}
		}
		v.Set("sort", strings.Join(keys, ","))
	}
	return v
}

// TestModel asks random questions in every way of paging and compares with the oracle: the same rows in the same order, on the engine of the tier.
func TestModel(t *testing.T) {
	d := database(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	all := random(r, 200)
	insert(t, d, all...)
	questions := 400
	if platformtest.Distributed() {
		questions = 150
	}
	for n := range questions {
		scanMost := []int{0, 7, 60}[n%3]
		l := things(scanMost)
		v := question(r)
		want := ids(oracle(all, v))
		fail := func(how string, got []int64) {
			t.Helper()
			t.Fatalf("seed %d, %s with ScanMost %d, %s:\ngot  %v\nwant %v", seed, v.Encode(), scanMost, how, got, want)
		}
		limit := 1 + r.IntN(100)
		v.Set("limit", strconv.Itoa(limit))

		var got []int64
		for turn := 0; ; turn++ {
			q, f := page(t, d, l, v)
			if len(f.Rows) > limit || turn > 2000 {
				t.Fatalf("seed %d, %s: %d rows on page %d", seed, v.Encode(), len(f.Rows), turn)
			}
			got = append(got, ids(f.Rows)...)
			if f.next == nil {
				break
			}
			v.Set("cursor", f.Next(q))
		}
		if !slices.Equal(got, want) {
			fail("by cursor", got)
		}

		// From the end back to the beginning.
		got = nil
		q, _ := page(t, d, l, without(v, "cursor"))
		v.Set("cursor", l.seal.seal(q.bound, position{back: true}))
		for {
			q, f := page(t, d, l, v)
			got = append(ids(f.Rows), got...)
			if f.previous == nil {
				break
			}
			v.Set("cursor", l.seal.seal(q.bound, *f.previous))
		}
		if v.Del("cursor"); !slices.Equal(got, want) {
			fail("backwards", got)
		}

		// And by counting. What no index serves may end a page early, and then goes on by cursor; without a bound it is exact.
		if scanMost == 0 {
			v.Set("meta", "total")
			offset := r.IntN(len(want) + 3)
			v.Set("offset", strconv.Itoa(offset))
			_, f := page(t, d, l, v)
			from := min(offset, len(want))
			if !slices.Equal(ids(f.Rows), want[from:min(from+limit, len(want))]) {
				fail("offset "+v.Get("offset"), ids(f.Rows))
			}
			if f.total != int64(len(want)) || f.least {
				t.Fatalf("seed %d, %s: total %d, want %d", seed, v.Encode(), f.total, len(want))
			}
			number := 1 + r.IntN(4)
			v = without(v, "limit", "offset", "meta")
			v.Set("per_page", strconv.Itoa(limit))
			v.Set("page", strconv.Itoa(number))
			_, f = page(t, d, l, v)
			from = min((number-1)*limit, len(want))
			if !slices.Equal(ids(f.Rows), want[from:min(from+limit, len(want))]) {
				fail("page "+v.Get("page"), ids(f.Rows))
			}
		}
	}
}

func without(v url.Values, names ...string) url.Values {
	less := url.Values{}
	for name, values := range v {
		if !slices.Contains(names, name) {
			less[name] = values
		}
	}
	return less
}

// TestPagesWhileOthersWrite: a thousand rows come and go while somebody pages: he meets no row twice, and each that was there all along once.
func TestPagesWhileOthersWrite(t *testing.T) {
	for _, order := range []string{"-id", "score", "-title,score"} {
		t.Run(order, func(t *testing.T) {
			d := database(t)
			r := rand.New(rand.NewPCG(rand.Uint64(), 2))
			l := things(0)
			stay := random(r, 300)
			for i := range stay {
				stay[i].id = stay[i].id * 10
			}
			insert(t, d, stay...)
			next, seen, mortal := int64(10_001), map[int64]bool{}, []int64(nil)
			v := url.Values{"sort": {order}, "limit": {"10"}}
			for changes := 0; ; {
				q, f := page(t, d, l, v)
				for _, x := range f.Rows {
					if seen[x.id] {
						t.Fatalf("row %d twice", x.id)
					}
					seen[x.id] = true
				}
				if f.next == nil {
					if changes < 1000 {
						t.Fatalf("only %d changes", changes)
					}
					break
				}
				v.Set("cursor", f.Next(q))
				var fresh []thing
				for range 20 {
					x := random(r, 1)[0]
					x.id = next
					if r.IntN(2) == 0 {
						x.id = (next-10_000)*10 + 5
					}
					next++
					fresh = append(fresh, x)
				}
				insert(t, d, fresh...)
				for _, x := range fresh {
					mortal = append(mortal, x.id)
				}
				err := d.Tx(t.Context(), "test.delete", func(ctx context.Context, tx *db.Tx) error {
					for i := range 20 {
						if _, err := tx.Exec(ctx, "DELETE FROM list_thing WHERE id = ?", mortal[i]); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				mortal, changes = mortal[20:], changes+40
			}
			for _, x := range stay {
				if !seen[x.id] {
					t.Errorf("row %d was skipped", x.id)
				}
			}
		})
	}
}

// TestInjection puts texts that want to be SQL into every parameter: they are refused, or are text.
func TestInjection(t *testing.T) {
	d := database(t)
	r := rand.New(rand.NewPCG(3, 3))
	all := random(r, 60)
	insert(t, d, all...)
	l := things(0)
	for _, name := range l.names {
		for _, text := range nasty {
			v := url.Values{name: {text}}
			if name == "order" {
				v.Set("sortby", "id")
			}
			q, err := l.Ask(v.Encode())
			if err != nil {
				if levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), "query."+name) {
					t.Errorf("%s=%q: %v", name, text, err)
				}
				continue
			}
			f, err := Rows(t.Context(), d.Query, q, thingColumns, "list_thing", scanThing)
			if err != nil {
				t.Errorf("%s=%q: %v", name, text, err)
				continue
			}
			if want := ids(oracle(all, v)); !slices.Equal(ids(f.Rows), want[:min(len(want), 20)]) {
				t.Errorf("%s=%q: got %v, want %v", name, text, ids(f.Rows), want)
			}
		}
	}
	if _, f := page(t, d, l, url.Values{"limit": {"100"}}); len(f.Rows) != len(all) {
		t.Errorf("%d rows are left of %d", len(f.Rows), len(all))
	}
}

// TestScanIsBounded: a filter that no index serves looks at ScanMost rows a page, and says where it goes on.
func TestScanIsBounded(t *testing.T) {
	d := database(t)
	var all []thing
	for i := range 100 {
		all = append(all, thing{id: int64(i + 1), title: fmt.Sprint("t", i), kind: "red", flag: i == 0})
	}
	insert(t, d, all...)
	l, v, pages := things(30), url.Values{"flag": {"true"}}, 0
	for {
		q, f := page(t, d, l, v)
		if pages++; f.next == nil {
			if len(f.Rows) != 1 || f.Rows[0].id != 1 {
				t.Errorf("the last page has %v", ids(f.Rows))
			}
			break
		}
		if len(f.Rows) != 0 {
			t.Fatalf("page %d has %v", pages, ids(f.Rows))
		}
		v.Set("cursor", f.Next(q))
	}
	if pages != 4 {
		t.Errorf("%d pages, want 4: 30 rows each of 100", pages)
	}
}

// TestOrdersUseIndexes: no usual order, nor one by a key with an index, is sorted by the engine, on the first page and behind a cursor.
func TestOrdersUseIndexes(t *testing.T) {
	d := database(t)
	r := rand.New(rand.NewPCG(4, 4))
	insert(t, d, random(r, 3000)...)
	for _, sort := range []string{"-id", "id", "score", "-score", "title", "-title", "score,-title"} {
		l := things(0)
		v := url.Values{"sort": {sort}}
		q, f := page(t, d, l, v)
		for _, cursor := range []string{"", f.Next(q)} {
			if v.Del("cursor"); cursor != "" {
				v.Set("cursor", cursor)
			}
			q, err := l.Ask(v.Encode())
			if err != nil {
				t.Fatal(err)
			}
			read, sorting := platformtest.Explaining(t, d)
			if _, err := Rows(t.Context(), read, q, thingColumns, "list_thing", scanThing); err != nil {
				t.Fatal(err)
			}
			if plan := sorting(); (plan != "") != (sort == "score,-title") { // the control: no index serves it
				t.Errorf("sort=%s, cursor %t: %s", sort, cursor != "", plan)
			}
		}
	}
}
