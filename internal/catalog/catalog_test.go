package catalog

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/platformtest"
)

// shop is a catalog on a platform of its own.
type shop struct {
	*Service
	p *platformtest.Platform
	// audited are the acts that the audit trail was told of and that were committed.
	mu      sync.Mutex
	audited []string
}

func open(t testing.TB, c Config) *shop {
	t.Helper()
	h := &shop{p: platformtest.New(t, Schema())}
	h.Service = New(Deps{DB: h.p.DB, IDs: h.p.IDs, Sealer: h.p.Sealer, Obs: h.p.Obs, Events: h.p.Events, Config: c,
		Audit: func(_ context.Context, tx *db.Tx, act, subject string, before, after any) error {
			tx.AfterCommit(func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.audited = append(h.audited, act)
			})
			return nil
		}})
	return h
}

func operator(ctx context.Context) context.Context {
	return levee.WithActor(ctx, levee.Actor{User: 7, Roles: levee.RoleOperator})
}

// listed reads one page, and the cursor of the next.
func (h *shop) listed(ctx context.Context, question string) ([]Product, string, error) {
	q, err := h.Ask(question)
	if err != nil {
		return nil, "", err
	}
	found, err := h.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	return found.Rows, found.Next(q), nil
}

func yuan(minor int64) levee.Money { return levee.Money{Minor: minor, Currency: "CNY"} }

// lamp makes a product on sale with one SKU of this stock.
func (h *shop) lamp(t testing.TB, code string, stock int64) Product {
	t.Helper()
	p, err := h.Create(operator(t.Context()), NewProduct{Code: code, Title: "Lamp " + code, State: OnSale,
		SKUs: []NewSKU{{Code: code + "-1", Price: yuan(1999), OnHand: stock}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantCode(t testing.TB, err error, code levee.Code, words ...string) {
	t.Helper()
	if levee.CodeOf(err) != code {
		t.Fatalf("got %v, want code %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestProductLife(t *testing.T) {
	h := open(t, Config{})
	ctx, visitor := operator(t.Context()), t.Context()
	p, err := h.Create(ctx, NewProduct{Title: "  Tea set\t", Description: "six cups\r\nand a pot", SKUs: []NewSKU{
		{Code: "TEA-RED", Name: "red", Price: yuan(9900), OnHand: 5}, {Code: "TEA-BLUE", Name: "blue", Price: yuan(9900)}}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Title != "Tea set" || p.Description != "six cups\nand a pot" || p.State != Draft || p.Version != 1 || p.Code != h.productName(p.ID) {
		t.Errorf("created %+v", p)
	}
	got, err := h.ByID(ctx, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("what Create returned is not what is kept: %s", d)
	}

	_, err = h.Shown(visitor, p.ID)
	wantCode(t, err, levee.CodeNotFound)
	if _, err := h.Shown(ctx, p.ID); err != nil {
		t.Errorf("an operator may not see a draft: %v", err)
	}
	p, err = h.Update(ctx, p.ID, ProductChange{Version: 1, State: ptr(OnSale)})
	if err != nil {
		t.Fatal(err)
	}
	if shown, err := h.Shown(visitor, p.ID); err != nil || shown.State != OnSale || shown.SKUs[0].State != OnSale {
		t.Errorf("put on sale, a visitor sees %+v, %v", shown, err)
	}
	_, err = h.Update(ctx, p.ID, ProductChange{Version: 1, Title: ptr("Lost")})
	wantCode(t, err, levee.CodeConflict, "version 2", "you saw 1")
	_, err = h.Update(ctx, p.ID, ProductChange{Version: 2, State: ptr(Draft)})
	wantCode(t, err, levee.CodeConflict, "on_sale", "draft")

	k := p.SKUs[0].ID
	if _, err := h.SKUByID(ctx, k); err != nil {
		t.Fatal(err)
	}
	if p, err = h.Update(ctx, p.ID, ProductChange{Version: 2, Title: ptr("Tea for six")}); err != nil {
		t.Fatal(err)
	}
	if sku, err := h.SKUByID(ctx, k); err != nil || sku.Title != "Tea for six" || sku.OnHand != 5 {
		t.Errorf("the SKU shows %+v, %v after its product's title changed", sku, err)
	}
	if _, err := h.UpdateSKU(ctx, k, SKUChange{Version: 1, Price: ptr(yuan(8800))}); err != nil {
		t.Fatal(err)
	}
	_, err = h.UpdateSKU(ctx, k, SKUChange{Version: 1, Price: ptr(yuan(1))})
	wantCode(t, err, levee.CodeConflict, "version 2")
	_, err = h.UpdateSKU(ctx, k, SKUChange{Version: 2, Code: ptr("TEA-BLUE")})
	wantCode(t, err, levee.CodeConflict, "TEA-BLUE", "taken")
	if shown, err := h.Shown(visitor, p.ID); err != nil || shown.SKUs[0].Price != yuan(8800) {
		t.Errorf("the price a visitor sees is %v, %v", shown.SKUs[0].Price, err)
	}

	if _, err := h.Update(ctx, p.ID, ProductChange{Version: 3, State: ptr(Withdrawn)}); err != nil {
		t.Fatal(err)
	}
	_, err = h.Shown(visitor, p.ID)
	wantCode(t, err, levee.CodeGone)
	_, err = h.ShownSKU(visitor, k)
	wantCode(t, err, levee.CodeGone)
	if _, err := h.Update(ctx, p.ID, ProductChange{Version: 4}); err != nil {
		t.Fatal(err)
	}
	want := []string{"product.create", "product.update", "product.update", "sku.update", "product.update"}
	if d := cmp.Diff(want, h.audited); d != "" {
		t.Errorf("the audit trail: %s", d)
	}
}

func TestCreateRefuses(t *testing.T) {
	h := open(t, Config{})
	h.lamp(t, "taken", 1)
	sku := func(f func(*NewSKU)) NewProduct {
		k := NewSKU{Code: "x", Price: yuan(1)}
		f(&k)
		return NewProduct{Title: "T", SKUs: []NewSKU{k}}
	}
	for name, c := range map[string]struct {
		in    NewProduct
		code  levee.Code
		words string
	}{
		"no title":          {NewProduct{Title: " \t "}, levee.CodeInvalid, "title must be 1 to 150"},
		"long title":        {NewProduct{Title: strings.Repeat("字", 151)}, levee.CodeInvalid, "title"},
		"NUL in title":      {NewProduct{Title: "a\x00b"}, levee.CodeInvalid, `a\\x00b`},
		"not UTF-8":         {NewProduct{Title: "T", Description: "\xff"}, levee.CodeInvalid, "description"},
		"long description":  {NewProduct{Title: "T", Description: strings.Repeat("x", 20_001)}, levee.CodeInvalid, "description"},
		"unknown state":     {NewProduct{Title: "T", State: "sold"}, levee.CodeInvalid, "draft, on_sale or withdrawn"},
		"new and withdrawn": {NewProduct{Title: "T", State: Withdrawn}, levee.CodeInvalid, "state"},
		"nothing to sell":   {NewProduct{Title: "T", State: OnSale}, levee.CodeConflict, "without a SKU"},
		"product code":      {NewProduct{Title: "T", Code: "taken"}, levee.CodeConflict, "taken"},
		"SKU code":          {sku(func(k *NewSKU) { k.Code = "taken-1" }), levee.CodeConflict, "taken-1"},
		"no SKU code":       {sku(func(k *NewSKU) { k.Code = "" }), levee.CodeInvalid, "code"},
		"negative price":    {sku(func(k *NewSKU) { k.Price.Minor = -1 }), levee.CodeInvalid, "price.amount"},
		"huge price":        {sku(func(k *NewSKU) { k.Price.Minor = MaxPrice + 1 }), levee.CodeInvalid, "price.amount"},
		"currency":          {sku(func(k *NewSKU) { k.Price.Currency = "cny" }), levee.CodeInvalid, "price.currency"},
		"negative stock":    {sku(func(k *NewSKU) { k.OnHand = -1 }), levee.CodeInvalid, "on_hand"},
		"same SKU twice":    {NewProduct{Title: "T", SKUs: []NewSKU{{Code: "x", Price: yuan(1)}, {Code: "x", Price: yuan(1)}}}, levee.CodeConflict, "taken"},
		"too many SKUs":     {NewProduct{Title: "T", SKUs: make([]NewSKU, MaxSKUs+1)}, levee.CodeInvalid, "skus"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Create(operator(t.Context()), c.in)
			wantCode(t, err, c.code, c.words)
		})
	}
	list, _, err := h.listed(operator(t.Context()), "")
	if err != nil || len(list) != 1 {
		t.Errorf("%d products, %v; refused ones must leave nothing", len(list), err)
	}
}

func TestList(t *testing.T) {
	h := open(t, Config{})
	ctx, visitor := operator(t.Context()), t.Context()
	titles := []string{"apple", "Apricot", "APPLE pie", "banana", "Äpfel", "ap%le", "苹果", "苹果汁"}
	for i, title := range titles {
		_, err := h.Create(ctx, NewProduct{Code: "p" + decimal(i), Title: title, State: OnSale, SKUs: []NewSKU{{Code: decimal(i), Price: yuan(1)}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Create(ctx, NewProduct{Code: "draft", Title: "apple draft"}); err != nil {
		t.Fatal(err)
	}
	// all walks through the pages, two products each.
	all := func(ctx context.Context, filters url.Values) (got []string) {
		t.Helper()
		filters.Set("limit", "2")
		for {
			list, next, err := h.listed(ctx, filters.Encode())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list {
				got = append(got, p.Title)
			}
			if next == "" {
				return got
			}
			filters.Set("cursor", next)
		}
	}
	for _, c := range []struct {
		ctx    context.Context
		prefix string
		state  State
		want   []string
	}{
		{visitor, "", "", []string{"苹果汁", "苹果", "ap%le", "Äpfel", "banana", "APPLE pie", "Apricot", "apple"}},
		{visitor, "", Draft, nil},
		{visitor, "AP", "", []string{"ap%le", "apple", "APPLE pie", "Apricot"}},
		{visitor, "appl", "", []string{"apple", "APPLE pie"}},
		{visitor, "ap%", "", []string{"ap%le"}},
		{visitor, "苹", "", []string{"苹果", "苹果汁"}},
		{visitor, "ä", "", []string{"Äpfel"}},
		{visitor, "zebra", "", nil},
		{ctx, "appl", "", []string{"apple", "apple draft", "APPLE pie"}},
		{ctx, "", Draft, []string{"apple draft"}},
	} {
		filters := url.Values{}
		if c.prefix != "" {
			filters.Set("prefix", c.prefix)
		}
		if c.state != "" {
			filters.Set("state", string(c.state))
		}
		if d := cmp.Diff(c.want, all(c.ctx, filters)); d != "" {
			t.Errorf("prefix %q, state %q: %s", c.prefix, c.state, d)
		}
	}
	_, _, err := h.listed(visitor, "prefix=a%00")
	wantCode(t, err, levee.CodeInvalid, "prefix")
	_, _, err = h.listed(visitor, "state=sold")
	wantCode(t, err, levee.CodeInvalid, "state")

	// A cached list never shows what was withdrawn since.
	list, _, err := h.listed(visitor, "prefix=banana")
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if _, err := h.Update(ctx, list[0].ID, ProductChange{Version: 1, State: ptr(Withdrawn)}); err != nil {
		t.Fatal(err)
	}
	if list, _, err := h.listed(visitor, "prefix=banana"); err != nil || len(list) != 0 {
		t.Errorf("withdrawn and still listed: %v, %v", list, err)
	}
	// And what is new is in it at once, whoever made it.
	h.lamp(t, "new", 1)
	if list, _, err := h.listed(visitor, "prefix=lamp"); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	h.lamp(t, "newer", 1)
	if list, _, err := h.listed(visitor, "prefix=lamp"); err != nil || len(list) != 2 {
		t.Errorf("%d listed, want 2; %v", len(list), err)
	}
	h.load(t, ImportOptions{Format: CSV}, head+"newest,Lamp by file,,on_sale,n-1,,1,CNY,\n")
	if list, _, err := h.listed(visitor, "prefix=lamp"); err != nil || len(list) != 3 {
		t.Errorf("%d listed, want 3; %v", len(list), err)
	}
}

// TestReadsSeeCommits holds the caches to the promise that a read that begins after a commit sees it, while others read all the time.
func TestReadsSeeCommits(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	p := h.lamp(t, "lamp", 1000)
	k := p.SKUs[0].ID
	ctx2, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx2.Err() == nil {
				_, _ = h.ByID(ctx2, p.ID)
				_, _ = h.SKUByID(ctx2, k)
			}
		})
	}
	defer readers.Wait()
	defer stop()
	for i := range int64(100) {
		title := "title " + decimal(i)
		if _, err := h.Update(ctx, p.ID, ProductChange{Version: i + 1, Title: &title}); err != nil {
			t.Fatal(err)
		}
		err := h.DB.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error { return h.TakeTx(ctx, tx, k, 1, "order", "o") })
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.ByID(ctx, p.ID)
		if err != nil || got.Title != title || got.SKUs[0].OnHand != 999-i {
			t.Fatalf("after %d: title %q, %d on hand, %v", i, got.Title, got.SKUs[0].OnHand, err)
		}
		sku, err := h.SKUByID(ctx, k)
		if err != nil || sku.Title != title || sku.OnHand != 999-i || sku.Version != 1 {
			t.Fatalf("after %d: SKU %+v, %v", i, sku, err)
		}
	}
}

func TestEvents(t *testing.T) {
	h := open(t, Config{})
	ctx := operator(t.Context())
	var mu sync.Mutex // guards seen
	seen := map[levee.ProductID]int{}
	err := h.Events.Register(event.Listen("test.follow", func(_ context.Context, tx *db.Tx, e ProductsChanged) error {
		tx.AfterCommit(func() {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range e.Products {
				seen[id]++
			}
		})
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	p := h.lamp(t, "lamp", 1)
	if _, err := h.Update(ctx, p.ID, ProductChange{Version: 1, Title: ptr("Lantern")}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Update(ctx, p.ID, ProductChange{Version: 1, Title: ptr("refused")}); err == nil {
		t.Fatal("a stale change was taken")
	}
	if _, err := h.Import(ctx, strings.NewReader(bigCSV(1200)), ImportOptions{Format: CSV}); err != nil {
		t.Fatal(err)
	}
	if err := h.Events.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if seen[p.ID] != 2 || len(seen) != 601 {
		t.Errorf("%d events of the product, %d products in all; want 2 and 601", seen[p.ID], len(seen))
	}
}

func TestConfigDefaults(t *testing.T) {
	got := Config{}.normal()
	want := Config{Entries: 20_000, TTL: 5 * time.Minute, PictureEntries: 64, ImportBytes: 20 << 20, ImportRows: 100_000}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestListsUseIndexes: no page of a list that grows makes the engine sort what it chooses from.
func TestListsUseIndexes(t *testing.T) {
	h := open(t, Config{})
	k := h.lamp(t, "lamp", 10).SKUs[0].ID
	read, sorting := platformtest.Explaining(t, h.p.DB)
	for _, question := range []string{"", "sort=id", "sort=title", "sort=-title", "sort=code", "prefix=la", "state=on_sale", "q=a", "title__contains=a"} {
		q, err := h.Ask(question)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listProducts(t.Context(), read, q); err != nil {
			t.Fatal(err)
		}
	}
	q, err := h.ledger.Ask("reason=create")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := movements(t.Context(), read, k, q); err != nil {
		t.Fatal(err)
	}
	if plans := sorting(); plans != "" {
		t.Error(plans)
	}
}
