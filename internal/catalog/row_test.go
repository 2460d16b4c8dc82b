package catalog

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"levee"
)

const head = "product_code,title,description,state,sku_code,sku_name,price_minor,currency,on_hand\n"

// bigCSV makes a file of n lines, two SKUs to a product.
func bigCSV(n int) string {
	var b strings.Builder
	b.WriteString(head)
	for i := range n {
		fmt.Fprintf(&b, "P-%06d,Product number %d,A thing that somebody may want to have,on_sale,S-%06d,variant %d,%d,CNY,%d\n",
			i/2, i/2, i, i%2, 100+i, 10+i%7)
	}
	return b.String()
}

func parseAll(t testing.TB, f Format, src string) ([]Row, problems) {
	t.Helper()
	p := problems{lines: map[int]bool{}}
	rows, _, err := parse(f, src, 1000, &p)
	if err != nil {
		t.Fatal(err)
	}
	return rows, p
}

func TestCSVReads(t *testing.T) {
	lamp := Row{Line: 2, ProductCode: "L", Title: "Lamp", Description: "d", State: OnSale, SKUCode: "L1", SKUName: "red", Price: yuan(100), OnHand: 3, Counted: true}
	with := func(f func(*Row)) Row { r := lamp; f(&r); return r }
	for name, c := range map[string]struct {
		src  string
		want []Row
	}{
		"plain":               {head + "L,Lamp,d,on_sale,L1,red,100,CNY,3\n", []Row{lamp}},
		"no line end":         {head + "L,Lamp,d,on_sale,L1,red,100,CNY,3", []Row{lamp}},
		"CRLF":                {strings.ReplaceAll(head+"L,Lamp,d,on_sale,L1,red,100,CNY,3\n", "\n", "\r\n"), []Row{lamp}},
		"byte order mark":     {"\ufeff" + head + "L,Lamp,d,on_sale,L1,red,100,CNY,3\n", []Row{lamp}},
		"all quoted":          {head + `"L","Lamp","d","on_sale","L1","red","100","CNY","3"` + "\r\n", []Row{lamp}},
		"quoted header":       {`"product_code","title","description","state","sku_code","sku_name","price_minor","currency","on_hand"` + "\nL,Lamp,d,on_sale,L1,red,100,CNY,3\n", []Row{lamp}},
		"other order":         {"currency,sku_code,price_minor,state,title,product_code,sku_name,description\nCNY,L1,100,on_sale,Lamp,L,red,d\n", []Row{with(func(r *Row) { r.OnHand, r.Counted = 0, false })}},
		"empty lines":         {head + "\n\r\n\nL,Lamp,d,on_sale,L1,red,100,CNY,3\n\n", []Row{with(func(r *Row) { r.Line = 5 })}},
		"quotes in quotes":    {head + "L,\"La\"\"mp\"\"\",d,on_sale,L1,red,100,CNY,3\n", []Row{with(func(r *Row) { r.Title = `La"mp"` })}},
		"lines in quotes":     {head + "L,Lamp,\"a\r\nb\n,c\",on_sale,L1,red,100,CNY,3\nM,Mug,,draft,,,,,\n", []Row{with(func(r *Row) { r.Description = "a\nb\n,c" }), {Line: 5, ProductCode: "M", Title: "Mug", State: Draft}}},
		"without a count":     {head + "L,Lamp,d,on_sale,L1,red,100,CNY,\n", []Row{with(func(r *Row) { r.OnHand, r.Counted = 0, false })}},
		"without a SKU":       {head + "L,Lamp,d,draft,,,,,\n", []Row{{Line: 2, ProductCode: "L", Title: "Lamp", Description: "d", State: Draft}}},
		"guarded formula":     {head + "L,'=SUM(A1),'-d,on_sale,L1,'+1,100,CNY,3\n", []Row{with(func(r *Row) { r.Title, r.Description, r.SKUName = "=SUM(A1)", "-d", "+1" })}},
		"apostrophe of ours":  {head + "L,''=x,'tis,on_sale,L1,',100,CNY,3\n", []Row{with(func(r *Row) { r.Title, r.Description, r.SKUName = "'=x", "'tis", "'" })}},
		"unguarded formula":   {head + "L,=1+1,@x,on_sale,L1,red,100,CNY,3\n", []Row{with(func(r *Row) { r.Title, r.Description = "=1+1", "@x" })}},
		"blanks around title": {head + "L, Lamp ,d,on_sale,L1,red,100,CNY,3\n", []Row{lamp}},
		"header only":         {head, nil},
	} {
		t.Run(name, func(t *testing.T) {
			rows, p := parseAll(t, CSV, c.src)
			if len(p.list) > 0 {
				t.Fatalf("refused: %v", p.list)
			}
			if d := cmp.Diff(c.want, rows); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCSVRefuses(t *testing.T) {
	row := func(s string) string { return head + s + "\n" }
	for name, c := range map[string]struct {
		src  string
		want []string // what each error says
	}{
		"nothing":            {"", []string{`line 1: line must be the names of the columns: product_code,`}},
		"only a mark":        {"\ufeff", []string{`line 1: line must be the names of the columns`}},
		"UTF-16":             {"\xff\xfep\x00r\x00", []string{`line 1: line must be UTF-8 text, got "UTF-16 text"`}},
		"missing column":     {"product_code,title\nL,Lamp\n", []string{`line 1: description must be a column of the file, got "no such column"`}},
		"unknown column":     {"product_code,price\n", []string{`line 1: line must be columns named product_code, title`}},
		"column twice":       {strings.Replace(head, "title", "title,title", 1), []string{`line 1: title must be a column that is there once`}},
		"semicolons":         {strings.ReplaceAll(head, ",", ";"), []string{`separated by commas, got "product_code;title`}},
		"million columns":    {strings.Repeat("title,", 1_000_000), []string{`line 1: title`, `at most 9 columns, got "1000001 columns"`}},
		"million fields":     {row(strings.Repeat(",", 1_000_000)), []string{`line 2: line must be 9 fields, as in the first line, got "1000001 fields"`}},
		"too few fields":     {row("L,Lamp"), []string{`line 2: line must be 9 fields, as in the first line, got "2 fields"`}},
		"open quote":         {row(`L,"Lamp,d,on_sale,L1,red,100,CNY,3`), []string{`line 2: line must be text with a closing quote`}},
		"quote in the midst": {row(`L,La"mp,d,on_sale,L1,red,100,CNY,3`), []string{`line 2: line must be text in quotes when it holds a quote, which is then doubled, got "La\""`}},
		"text after quote":   {row(`L,"Lamp"x,d,on_sale,L1,red,100,CNY,3`), []string{`line 2: line must be a comma or a line end after the closing quote, got "x,d`}},
		"goes on after it":   {row("L,\"Lamp\"x\nM,Mug,,sold,,,,,\nN"), []string{`line 2: line`, `line 3: state must be draft, on_sale or withdrawn, got "sold"`, `line 4: line`}},
		"NUL":                {row("L,La\x00mp,d,on_sale,L1,red,100,CNY,3"), []string{`line 2: title must be 1 to 150 characters of UTF-8 text without control characters, got "La\\x00mp"`}},
		"not UTF-8":          {row("L,Lamp,\xff\xfe,on_sale,L1,red,100,CNY,3"), []string{`line 2: description must be at most 20000 bytes of UTF-8 text`}},
		"escape sequence":    {row("L,\x1b[31mred,d,on_sale,L1,red,100,CNY,3"), []string{`got "\\x1b[31mred"`}},
		"lone CR":            {row("L,La\rmp,d,on_sale,L1,red,100,CNY,3"), []string{`line 2: title must be 1 to 150`}},
		"huge title":         {row("L," + strings.Repeat("x", 1<<20) + ",d,on_sale,L1,red,100,CNY,3"), []string{`line 2: title must be 1 to 150 characters`}},
		"huge description":   {row("L,Lamp," + strings.Repeat("x", 1<<20) + ",on_sale,L1,red,100,CNY,3"), []string{`line 2: description must be at most 20000 bytes`}},
		"every field":        {row("  ,,\x01,sold," + strings.Repeat("s", 65) + "," + strings.Repeat("n", 151) + ",x,yuan,-1"), []string{"line 2: product_code", "line 2: title", "line 2: description", "line 2: state", "line 2: sku_code", "line 2: sku_name", "line 2: price_minor", "line 2: currency", "line 2: on_hand"}},
		"price":              {row("L,Lamp,d,on_sale,L1,red,99.50,CNY,3"), []string{`line 2: price_minor must be a whole number of minor units, 0 to 1000000000000, got "99.50"`}},
		"no price":           {row("L,Lamp,d,on_sale,L1,red,,CNY,3"), []string{`line 2: price_minor`}},
		"price overflow":     {row("L,Lamp,d,on_sale,L1,red,9223372036854775808,CNY,3"), []string{`line 2: price_minor must be a whole number of minor units, 0 to 1000000000000, got "9223372036854775808"`}},
		"price over the top": {row("L,Lamp,d,on_sale,L1,red,1000000000001,CNY,3"), []string{`line 2: price_minor`}},
		"negative price":     {row("L,Lamp,d,on_sale,L1,red,-1,CNY,3"), []string{`line 2: price_minor`}},
		"signed price":       {row("L,Lamp,d,on_sale,L1,red,+1,CNY,3"), []string{`line 2: price_minor`}},
		"exponent":           {row("L,Lamp,d,on_sale,L1,red,1E+05,CNY,3"), []string{`line 2: price_minor`}},
		"other digits":       {row("L,Lamp,d,on_sale,L1,red,１２,CNY,3"), []string{`line 2: price_minor`}},
		"stock overflow":     {row("L,Lamp,d,on_sale,L1,red,1,CNY,1000000001"), []string{`line 2: on_hand must be a whole number of units, 0 to 1000000000, got "1000000001"`}},
		"stock without SKU":  {row("L,Lamp,d,draft,,,,,3"), []string{`line 2: on_hand must be empty on a line without sku_code, got "3"`}},
		"currency":           {row("L,Lamp,d,on_sale,L1,red,1,RMB¥,3"), []string{`line 2: currency must be an ISO 4217 code of three capital letters, got "RMB¥"`}},
	} {
		t.Run(name, func(t *testing.T) {
			rows, p := parseAll(t, CSV, c.src)
			if len(rows) > 0 {
				t.Errorf("taken: %+v", rows)
			}
			if name == "million columns" {
				p.list = []RowError{p.list[0], p.list[len(p.list)-1]}
			}
			if len(p.list) != len(c.want) {
				t.Fatalf("%d errors, want %d: %v", len(p.list), len(c.want), p.list)
			}
			for i, w := range c.want {
				if s := p.list[i].String(); !strings.Contains(s, w) {
					t.Errorf("%s\ndoes not say\n%s", s, w)
				}
				if len(p.list[i].Given) > 300 {
					t.Errorf("%d bytes are shown", len(p.list[i].Given))
				}
			}
		})
	}
}

func TestJSONLRefuses(t *testing.T) {
	good := `{"product_code":"L","title":"Lamp","description":"d","state":"on_sale","sku_code":"L1","sku_name":"red","price_minor":100,"currency":"CNY","on_hand":3}`
	rows, p := parseAll(t, JSONL, "\ufeff\n  "+good+"\r\n\n"+`{"state":"draft","title":"M\u00fcg","product_code":"M"}`)
	want := []Row{{Line: 2, ProductCode: "L", Title: "Lamp", Description: "d", State: OnSale, SKUCode: "L1", SKUName: "red", Price: yuan(100), OnHand: 3, Counted: true},
		{Line: 4, ProductCode: "M", Title: "Müg", State: Draft}}
	if d := cmp.Diff(want, rows); d != "" || len(p.list) > 0 {
		t.Fatalf("%s %v", d, p.list)
	}
	change := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("no %s in the line", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	for name, c := range map[string]struct{ src, want string }{
		"not JSON":           {"product_code,title", `line 1: line must be one JSON object`},
		"cut off":            {good[:50], `line 1: line must be one JSON object`},
		"a list":             {"[" + good + "]", `line 1: line must be one JSON object`},
		"a number":           {"1", `line 1: line must be one JSON object`},
		"two objects":        {good + good, `line 1: line must be one JSON object and nothing after it`},
		"trailing comma":     {good + ",", `line 1: line must be one JSON object and nothing after it`},
		"unknown name":       {change(`"title"`, `"headline"`), `line 1: line must be names among product_code`},
		"other case":         {change(`"title"`, `"Title"`), `got "Title"`},
		"name twice":         {change(`"description":"d"`, `"title":"Lamp"`), `line 1: title must be there once`},
		"missing title":      {change(`"title":"Lamp",`, ``), `line 1: title must be 1 to 150`},
		"text for a number":  {change(`100`, `"100"`), `line 1: price_minor must be a number without quotes, got "100"`},
		"number for text":    {change(`"Lamp"`, `5`), `line 1: title must be text in quotes, got "5"`},
		"null":               {change(`"Lamp"`, `null`), `line 1: title must be text in quotes, got "<nil>"`},
		"null number":        {change(`:3}`, `:null}`), `line 1: on_hand must be a number, got "<nil>"`},
		"nested":             {change(`"Lamp"`, `{"a":1}`), `line 1: title must be text in quotes, got "{"`},
		"true":               {change(`:3}`, `:true}`), `line 1: on_hand must be a number, got "true"`},
		"fraction":           {change(`100`, `99.5`), `line 1: price_minor must be a whole number of minor units, 0 to 1000000000000, got "99.5"`},
		"exponent":           {change(`100`, `1e2`), `line 1: price_minor`},
		"overflow":           {change(`100`, `9223372036854775808`), `line 1: price_minor`},
		"negative":           {change(`100`, `-1`), `line 1: price_minor`},
		"not UTF-8":          {change(`Lamp`, "La\xffmp"), `line 1: line must be UTF-8 text`},
		"escaped NUL":        {change(`Lamp`, `La\u0000mp`), `got "La\\x00mp"`},
		"half a pair":        {change(`Lamp`, `La\ud800mp`), `line 1: title must be text without halves of surrogate pairs`},
		"huge line":          {change(`Lamp`, strings.Repeat("x", 200_000)), `line 1: line must be at most 128192 bytes`},
		"huge title":         {change(`Lamp`, strings.Repeat("x", 100_000)), `line 1: title`},
		"deep":               {strings.Repeat("[", 100_000), `line 1: line must be one JSON object`},
		"UTF-16":             {"\xfe\xff\x00{", `line 1: line must be UTF-8 text, got "UTF-16 text"`},
		"price without SKU":  {`{"product_code":"M","title":"M","state":"draft","price_minor":0}`, `line 1: price_minor must be empty on a line without sku_code, got "0"`},
		"formula is no text": {change(`Lamp`, `\t=1`), ``},
	} {
		t.Run(name, func(t *testing.T) {
			rows, p := parseAll(t, JSONL, c.src+"\n")
			if c.want == "" {
				if len(rows) != 1 || rows[0].Title != "=1" {
					t.Errorf("%+v, %v", rows, p.list)
				}
				return
			}
			if len(rows) > 0 || len(p.list) != 1 || !strings.Contains(p.list[0].String(), c.want) {
				t.Errorf("rows %+v, errors %v; want %q", rows, p.list, c.want)
			}
		})
	}
}

func TestTooManyLines(t *testing.T) {
	p := problems{lines: map[int]bool{}}
	_, _, err := parse(CSV, bigCSV(11), 10, &p)
	wantCode(t, err, levee.CodeTooLarge, "at most 10 lines")
	_, _, err = parse(JSONL, strings.Repeat("x\n", 11), 10, &p)
	wantCode(t, err, levee.CodeTooLarge, "at most 10 lines")
	if rows, n, err := parse(CSV, bigCSV(10), 10, &p); err != nil || n != 10 || len(rows) != 10 {
		t.Errorf("%d lines, %d rows, %v", n, len(rows), err)
	}
}

func TestGuard(t *testing.T) {
	for _, s := range []string{"", "a", "'", "''", "'a", "=1", "'=1", "''=1", "+", "-", "@", "\tx", "\rx", "\nx", "＝1", "＋1", "－1", "＠1", "a=1", " =1"} {
		g := guard(s)
		if startsFormula(g) {
			t.Errorf("%q is written as %q: a spreadsheet runs it", s, g)
		}
		if back := unguard(g); back != s {
			t.Errorf("%q came back as %q", s, back)
		}
	}
}

// write writes rows as an export does.
func write(t testing.TB, f Format, rows []Row) string {
	t.Helper()
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if f == CSV {
		writeCSVHeader(w)
	}
	for i := range rows {
		var err error
		if f == CSV {
			err = writeCSV(w, &rows[i])
		} else {
			err = writeJSONL(e, &rows[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// holds checks what every parse must keep, whatever the bytes: each error names a line and what would be allowed; nothing shown harms a
// terminal; each row keeps the rules, and comes back the same from both formats.
func holds(t *testing.T, f Format, src string) {
	p := problems{lines: map[int]bool{}}
	rows, lines, err := parse(f, src, 1000, &p)
	if err != nil {
		if levee.CodeOf(err) != levee.CodeTooLarge {
			t.Fatal(err)
		}
		return
	}
	if len(rows)+len(p.lines) < lines {
		t.Fatalf("%d lines, %d rows and %d bad lines: something was lost in silence", lines, len(rows), len(p.lines))
	}
	for _, e := range p.list {
		if e.Line < 1 || e.Line > strings.Count(src, "\n")+1 || e.Field == "" || e.Allowed == "" {
			t.Fatalf("an error that does not help: %+v", e)
		}
		if !utf8.ValidString(e.Given) || !plain(e.Given, false) {
			t.Fatalf("shown as it came: %q", e.Given)
		}
	}
	for _, r := range rows {
		if r.ProductCode == "" || r.Title == "" || !r.State.valid() || !plain(r.Title, false) || !plain(r.Description, true) ||
			r.Price.Minor < 0 || r.Price.Minor > MaxPrice || r.OnHand < 0 || r.OnHand > MaxOnHand {
			t.Fatalf("taken against the rules: %+v", r)
		}
	}
	for _, back := range []Format{CSV, JSONL} {
		text := write(t, back, rows)
		again, p := parseAll(t, back, text)
		if len(p.list) > 0 {
			t.Fatalf("what was written as %s is refused: %v\n%s", back, p.list, text)
		}
		for i := range again {
			again[i].Line = rows[i].Line
		}
		if d := cmp.Diff(rows, again); d != "" {
			t.Fatalf("not the same after %s: %s", back, d)
		}
		if back == CSV {
			noFormulas(t, text)
		}
	}
}

// noFormulas reads a CSV file as another program does and looks for cells that a spreadsheet would run.
func noFormulas(t *testing.T, text string) {
	t.Helper()
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatalf("another reader refuses our file: %v\n%s", err, text)
	}
	for _, rec := range records {
		for _, cell := range rec {
			if startsFormula(cell) {
				t.Fatalf("a spreadsheet would run %q", cell)
			}
		}
	}
}

// agrees compares our reader with the one of the standard library where both promise the same.
func agrees(t *testing.T, src string) {
	if strings.Contains(src, "\r") {
		return // the library changes line ends inside of fields
	}
	lib := csv.NewReader(strings.NewReader(src))
	lib.FieldsPerRecord = -1
	want, libErr := lib.ReadAll()
	var got [][]string
	r := &csvReader{src: src, line: 1}
	refused := false
	for {
		rec, ok := r.next(1 << 20)
		if !ok {
			break
		}
		refused = refused || rec.wrong != ""
		if rec.line < 1 || rec.count != len(rec.fields) && rec.wrong == "" {
			t.Fatalf("record %+v", rec)
		}
		got = append(got, rec.fields)
	}
	if refused != (libErr != nil) {
		t.Fatalf("we refuse: %v; the library: %v", refused, libErr)
	}
	if !refused {
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	}
}

func FuzzCSV(f *testing.F) {
	for _, s := range []string{
		"", head, "\ufeff" + head, bigCSV(3), strings.ReplaceAll(bigCSV(3), "\n", "\r\n"),
		head + "L,\"La\"\"mp\n\",'=1,on_sale,L1,'-,100,CNY,3\nM,Mug,,draft,,,,,\n",
		head + "L,\"Lamp\"x\nM,M\"ug\n\"\n", head + "L,La\x00mp,\xff,sold,L1,red,9223372036854775808,cny,-1\n",
		"title,title,x;y\n", head + strings.Repeat(",", 40), "\"\"\"\",\"\n", "a,\"\r\n\",\r\n\r\r\n", head + "=,+,-,draft,,,,,",
		head + "a,''＝b,'\"c,withdrawn,@d,\"\t\",0,AAA,\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		holds(t, CSV, src)
		holds(t, CSV, head+src)
		agrees(t, src)
	})
}

func FuzzJSONL(f *testing.F) {
	for _, s := range []string{
		"", "{}", "\ufeff{}\n\n[]", `{"product_code":"L","title":"Lamp","state":"on_sale","sku_code":"L1","price_minor":100,"currency":"CNY","on_hand":3}`,
		`{"product_code":"L","title":"=Lamp \ud83d\ude00 \u2028","description":"\"a\\\n\t'","state":"draft"}`,
		`{"title":"\ud800"}`, `{"title":"a","title":"b"}`, `{"Title":null}`, "{\"title\":\"\xff\"}", `{"price_minor":1e400}`, `{"on_hand":{}}`, "[[[[", `{"title":"\u0000"}{}`,
		`{"product_code":"'=1","title":"''","state":"withdrawn","sku_code":"-","sku_name":"'","price_minor":0,"currency":"ZZZ"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		holds(t, JSONL, src)
		// Each line that we take, the library takes for the same.
		rows, _ := parseAll(t, JSONL, strings.ReplaceAll(src, "\n", " "))
		for _, r := range rows {
			var j jsonRow
			if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.ReplaceAll(src, "\n", " "), "\ufeff")), &j); err != nil {
				t.Fatalf("the library refuses %q: %v", src, err)
			}
			if strings.TrimSpace(j.Title) != r.Title || j.State != r.State || j.PriceMinor != nil && *j.PriceMinor != r.Price.Minor {
				t.Fatalf("we read %+v, the library %+v", r, j)
			}
		}
	})
}
