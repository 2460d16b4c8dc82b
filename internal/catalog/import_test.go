package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
)

func (h *shop) export(t testing.TB, f Format) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := h.Export(operator(t.Context()), &b, f); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (h *shop) load(t testing.TB, o ImportOptions, src string) ImportResult {
	t.Helper()
	res, err := h.Import(operator(t.Context()), strings.NewReader(src), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// awkward are products whose texts every format has to carry.
var awkward = []NewProduct{
	{Code: "=cmd|' /C calc'!A0", Title: "=1+1", Description: "-2\n\"three\", four\n\n", State: OnSale, SKUs: []NewSKU{
		{Code: "+1", Name: "@SUM(A1)", Price: yuan(0)}, {Code: "-1", Name: "'-quoted", Price: yuan(MaxPrice), OnHand: MaxOnHand}}},
	{Code: "苹果", Title: "＝苹果, \"新\" 😀", Description: "\tindented\n  and blanks  ", State: OnSale, SKUs: []NewSKU{
		{Code: `"`, Name: "<script>alert(1)</script> & \u2028", Price: levee.Money{Minor: 5, Currency: "USD"}, OnHand: 7}}},
	{Code: "empty", Title: "'", Description: "''=x"},
	{Code: strings.Repeat("c", MaxCode), Title: strings.Repeat("字", MaxTitle), Description: strings.Repeat("\"", MaxDescription)},
}

func TestRoundTrip(t *testing.T) {
	a := open(t, Config{})
	ctx := operator(t.Context())
	for _, n := range awkward {
		if _, err := a.Create(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	old := a.lamp(t, "old", 2)
	if _, err := a.Update(ctx, old.ID, ProductChange{Version: 1, State: ptr(Withdrawn)}); err != nil {
		t.Fatal(err)
	}
	csv, jsonl := a.export(t, CSV), a.export(t, JSONL)
	noFormulas(t, csv)
	for _, f := range []Format{CSV, JSONL} {
		t.Run(string(f), func(t *testing.T) {
			text := map[Format]string{CSV: csv, JSONL: jsonl}[f]
			b := open(t, Config{})
			res := b.load(t, ImportOptions{Format: f}, text)
			if d := cmp.Diff(ImportResult{Lines: 6, ProductsCreated: 5, SKUsCreated: 4}, res); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(csv, b.export(t, CSV)); d != "" {
				t.Errorf("CSV after the trip: %s", d)
			}
			if d := cmp.Diff(jsonl, b.export(t, JSONL)); d != "" {
				t.Errorf("JSON Lines after the trip: %s", d)
			}
			// Again, as a spreadsheet saves it, and with the stock: nothing is different, so nothing is touched.
			if f == CSV {
				text = "\ufeff" + text
			}
			if d := cmp.Diff(ImportResult{Lines: 6}, b.load(t, ImportOptions{Format: f, SetStock: true}, text)); d != "" {
				t.Errorf("the same file again: %s", d)
			}
			if found, err := b.Drifts(ctx); err != nil || len(found) > 0 {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

func TestImportChanges(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	p := h.lamp(t, "lamp", 10)
	k := p.SKUs[0].ID
	if _, err := h.ByID(ctx, p.ID); err != nil { // into the caches
		t.Fatal(err)
	}
	if _, err := h.SKUByID(ctx, k); err != nil {
		t.Fatal(err)
	}
	file := head + "lamp,Lantern,bright,on_sale,lamp-1,,2500,CNY,4\nlamp,Lantern,bright,on_sale,lamp-2,big,3500,CNY,6\n"
	if d := cmp.Diff(ImportResult{Lines: 2, ProductsChanged: 1, SKUsCreated: 1, SKUsChanged: 1}, h.load(t, ImportOptions{Format: CSV}, file)); d != "" {
		t.Error(d)
	}
	got, err := h.ByID(ctx, p.ID)
	if err != nil || got.Title != "Lantern" || got.Version != 2 || len(got.SKUs) != 2 || got.SKUs[0].OnHand != 10 || got.SKUs[0].Price != yuan(2500) {
		t.Errorf("%+v, %v; stock that exists must stay", got, err)
	}
	if sku, err := h.SKUByID(ctx, k); err != nil || sku.Title != "Lantern" {
		t.Errorf("the SKU shows %q, %v", sku.Title, err)
	}
	if d := cmp.Diff(ImportResult{Lines: 2, StockChanged: 1}, h.load(t, ImportOptions{Format: CSV, SetStock: true}, file)); d != "" {
		t.Error(d)
	}
	if n, err := h.OnHand(ctx, k); err != nil || n != 4 {
		t.Errorf("%d on hand, %v; want 4", n, err)
	}
	list, err := h.moved(ctx, k)
	if err != nil || len(list) != 2 || list[0].Delta != -6 || list[0].Reason != ReasonImport || list[0].Actor != 7 {
		t.Errorf("ledger %+v, %v", list, err)
	}
	if err := h.balanced(ctx, k, 4); err != nil {
		t.Error(err)
	}
	// A SKU that the file does not name shows its product's new title too.
	if sku, err := h.SKUByID(ctx, k); err != nil || sku.Title != "Lantern" {
		t.Fatalf("the SKU shows %q, %v", sku.Title, err)
	}
	h.load(t, ImportOptions{Format: CSV}, head+"lamp,Torch,,on_sale,,,,,\n")
	if sku, err := h.SKUByID(ctx, k); err != nil || sku.Title != "Torch" {
		t.Errorf("the SKU shows %q, %v", sku.Title, err)
	}
}

func TestImportRefuses(t *testing.T) {
	h := open(t, Config{ImportBytes: 100_000, ImportRows: 50})
	ctx := operator(t.Context())
	h.lamp(t, "lamp", 10)
	h.lamp(t, "other", 10)
	before := h.export(t, CSV)
	good := "new,New,,on_sale,new-1,,100,CNY,5\n"
	for name, c := range map[string]struct {
		src   string
		code  levee.Code
		field levee.Field
	}{
		"bad line": {head + good + "x,X,,draft,x-1,,1.5,CNY,\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].price_minor", Allowed: "a whole number of minor units, 0 to 1000000000000", Given: "1.5"}},
		"SKU twice": {head + good + "new,New,,on_sale,new-1,,100,CNY,5\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].sku_code", Allowed: "a code that is not in the file before (line 2 has it)", Given: "new-1"}},
		"two titles": {head + good + "new,Newer,,on_sale,new-2,,100,CNY,5\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].title", Allowed: `the same as on line 2 for this product ("New")`, Given: "Newer"}},
		"two states": {head + good + "new,New,,draft,new-2,,100,CNY,5\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].state", Allowed: `the same as on line 2 for this product ("on_sale")`, Given: "draft"}},
		"another product's SKU": {head + good + "lamp,Lamp lamp,,on_sale,other-1,,1,CNY,\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].sku_code", Allowed: "a code that no other product uses", Given: "other-1"}},
		"a new product's too": {head + good + "newer,N,,on_sale,other-1,,1,CNY,\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].sku_code", Allowed: "a code that no other product uses", Given: "other-1"}},
		"back to draft": {head + good + "lamp,Lamp lamp,,draft,lamp-1,,1,CNY,\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].state", Allowed: "on_sale or withdrawn for a product that is on_sale", Given: "draft"}},
		"nothing to sell": {head + good + "bare,Bare,,on_sale,,,,,\n", levee.CodeInvalid,
			levee.Field{Field: "line[3].state", Allowed: "draft or withdrawn for a product without a SKU", Given: "on_sale"}},
		"too many lines": {bigCSV(51), levee.CodeTooLarge, levee.Field{}},
		"too many bytes": {head + good + strings.Repeat("\n", 100_000), levee.CodeTooLarge, levee.Field{}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Import(ctx, strings.NewReader(c.src), ImportOptions{Format: CSV})
			wantCode(t, err, c.code)
			var e *levee.Error
			if c.field.Field != "" && errors.As(err, &e) {
				if d := cmp.Diff([]levee.Field{c.field}, e.Fields); d != "" {
					t.Error(d)
				}
			}
			if after := h.export(t, CSV); after != before {
				t.Errorf("a refused import changed something: %s", cmp.Diff(before, after))
			}
		})
	}
	_, err := h.Import(ctx, iotest.TimeoutReader(strings.NewReader(bigCSV(40))), ImportOptions{Format: CSV})
	if err == nil { // strings.Reader may give all at once; the second read then fails
		t.Error("a body that was cut off was imported")
	}
	_, err = h.Import(ctx, strings.NewReader(""), ImportOptions{Format: "xml"})
	wantCode(t, err, levee.CodeInvalid, "csv or jsonl")
}

func TestImportReportsManyErrors(t *testing.T) {
	h := open(t, Config{})
	_, err := h.Import(operator(t.Context()), strings.NewReader(head+strings.Repeat("x\n", 5000)), ImportOptions{Format: CSV})
	var e *levee.Error
	if !errors.As(err, &e) || len(e.Fields) != keptErrors || e.Data["failed"] != 5000 || e.Data["lines"] != 5000 {
		t.Errorf("%v", err)
	}
}

func TestImportPartial(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	h.lamp(t, "lamp", 10)
	lines := strings.SplitAfter(bigCSV(1300), "\n")
	lines[7] = "P-000003,Product number 3,\"open\n"            // eats its own line's end: lines 8 and 9 of the file
	lines[100] = strings.Replace(lines[100], "CNY", "yuan", 1) // line 101
	lines = append(lines, "lamp,Lamp lamp,,draft,lamp-1,,1,CNY,\n", "bare,Bare,,on_sale,,,,,\n", "lamp,Lamp lamp,,draft,lamp-9,,1,CNY,\n")
	res, err := h.Import(ctx, strings.NewReader(strings.Join(lines, "")), ImportOptions{Format: CSV, Partial: true})
	if err != nil {
		t.Fatal(err)
	}
	var where []string
	for _, e := range res.Errors {
		where = append(where, fmt.Sprintf("%d %s", e.Line, e.Field))
	}
	want := []string{"8 line", "101 currency", "1302 state", "1304 state", "1303 state"}
	if d := cmp.Diff(want, where); d != "" {
		t.Errorf("%s\n%v", d, res.Errors)
	}
	if res.Failed != 5 || res.Lines != 1303 || res.SKUsCreated != 1298 || res.ProductsCreated != 650 {
		t.Errorf("%+v", res)
	}
	if n, err := h.Export(ctx, io.Discard, CSV); err != nil || n != 1299 {
		t.Errorf("%d lines exported, %v", n, err)
	}
	if found, err := h.Drifts(ctx); err != nil || len(found) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestOneImportAtATime(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	r, w := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := h.Import(ctx, r, ImportOptions{Format: CSV}); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.WriteString(w, head); err != nil { // returns when the first import has read it
		t.Fatal(err)
	}
	_, err := h.Import(ctx, strings.NewReader(head), ImportOptions{Format: CSV})
	wantCode(t, err, levee.CodeUnavailable)
	_ = w.Close()
	wg.Wait()
	h.load(t, ImportOptions{Format: CSV}, bigCSV(2))
}

// TestImportAmongOthers imports prices and counts while a crowd buys and operators edit the same products: no unit and no edit is lost.
func TestImportAmongOthers(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	const n = 20
	h.load(t, ImportOptions{Format: CSV}, bigCSV(n))
	var ids []levee.ProductID
	var skus []levee.SKUID
	list, _, err := h.listed(ctx, "limit=100")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		ids = append(ids, p.ID)
		skus = append(skus, skuIDs(p.SKUs)...)
	}
	var wg sync.WaitGroup
	ctx2, stop := context.WithCancel(ctx)
	edits := make([]int64, len(ids))
	for i, id := range ids {
		wg.Go(func() {
			for ctx2.Err() == nil && edits[i] < 200 {
				p, err := h.ByID(ctx, id)
				if err != nil {
					t.Error(err)
					return
				}
				text := p.Description + "."
				_, err = h.Update(ctx, id, ProductChange{Version: p.Version, Description: &text})
				switch levee.CodeOf(err) {
				case "":
					edits[i]++
				case levee.CodeConflict:
				default:
					t.Error(err)
				}
			}
		})
	}
	for _, k := range skus {
		wg.Go(func() {
			for ctx2.Err() == nil {
				err := h.tx(ctx, func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 1, "order", "") })
				if err != nil && levee.CodeOf(err) != levee.CodeOutOfStock {
					t.Error(err)
				}
			}
		})
	}
	var imported int64
	for i := range 30 {
		src := strings.ReplaceAll(bigCSV(n), "variant", "round "+decimal(i)+" variant")
		res, err := h.Import(ctx, strings.NewReader(src), ImportOptions{Format: CSV, SetStock: true})
		if err != nil {
			t.Fatal(err)
		}
		imported += int64(res.ProductsChanged)
	}
	stop()
	wg.Wait()
	if found, err := h.Drifts(ctx); err != nil || len(found) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
	// Each change that was acknowledged raised a version by one: a change that was overwritten unseen would be missing.
	var raised, edited int64
	for i, id := range ids {
		p, err := h.ByID(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		raised, edited = raised+p.Version-1, edited+edits[i]
	}
	if raised != edited+imported || edited == 0 || imported == 0 {
		t.Errorf("versions were raised %d times by %d edits and %d imported changes", raised, edited, imported)
	}
	// Without the others it goes through, and then nothing is left to do.
	h.load(t, ImportOptions{Format: CSV, SetStock: true}, bigCSV(n))
	if d := cmp.Diff(ImportResult{Lines: n}, h.load(t, ImportOptions{Format: CSV, SetStock: true}, bigCSV(n))); d != "" {
		t.Error(d)
	}
}

// BenchmarkImport measures the largest import: how long it takes, and how long a buyer's transaction waits for the writer meanwhile.
func BenchmarkImport(b *testing.B) {
	const rows = 100_000
	src := bigCSV(rows)
	for _, c := range []struct {
		name  string
		o     ImportOptions
		old   bool // the rows are there, with other prices
		wants ImportResult
	}{
		{"new/all", ImportOptions{Format: CSV}, false, ImportResult{Lines: rows, ProductsCreated: rows / 2, SKUsCreated: rows}},
		{"new/partial", ImportOptions{Format: CSV, Partial: true}, false, ImportResult{Lines: rows, ProductsCreated: rows / 2, SKUsCreated: rows}},
		{"prices/all", ImportOptions{Format: CSV}, true, ImportResult{Lines: rows, SKUsChanged: rows}},
		{"prices/partial", ImportOptions{Format: CSV, Partial: true}, true, ImportResult{Lines: rows, SKUsChanged: rows}},
		{"same", ImportOptions{Format: CSV, SetStock: true}, true, ImportResult{Lines: rows}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				h := open(b, Config{})
				text := src
				if c.old {
					h.load(b, ImportOptions{Format: CSV}, src)
					if c.name != "same" {
						text = strings.ReplaceAll(src, ",CNY,", "0,CNY,")
					}
				}
				stop := h.worstWait(b)
				b.StartTimer()
				res := h.load(b, c.o, text)
				b.StopTimer()
				b.ReportMetric(float64(stop().Milliseconds()), "wait-ms")
				if d := cmp.Diff(c.wants, res); d != "" {
					b.Error(d)
				}
				b.StartTimer()
			}
		})
	}
}

// worstWait writes something small again and again, as a buyer would, until it is stopped, and tells the longest that it took.
func (h *shop) worstWait(t testing.TB) (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(operator(t.Context()))
	var longest time.Duration
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			from := time.Now()
			_ = h.tx(ctx, func(context.Context, *db.Tx) error { return nil })
			longest = max(longest, time.Since(from))
		}
	})
	return func() time.Duration {
		cancel()
		wg.Wait()
		return longest
	}
}
