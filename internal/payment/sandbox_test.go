package payment

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/order"
)

func get(t *testing.T, address, languages string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	must(t, err)
	r.Header.Set("Accept-Language", languages)
	a, err := http.DefaultClient.Do(r)
	must(t, err)
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	must(t, err)
	return a.StatusCode, a.Header, string(body)
}

func TestSandboxPage(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 123456))
	_, page := h.start(o)
	for languages, want := range map[string]string{"": "Waiting for your payment", "zh": "等待支付", "fr,zh-TW;q=0.5,en": "等待支付", "de": "Waiting", "en-GB": "Waiting"} {
		status, header, body := get(t, page, languages)
		if status != 200 || !strings.Contains(body, want) || !strings.Contains(body, "1234.56 CNY") {
			t.Errorf("%q: %d\n%s", languages, status, body)
		}
		if strings.Contains(body, "Tea <b>") || !strings.Contains(body, "Tea &lt;b&gt;") {
			t.Error("what people wrote is not escaped")
		}
		policy := header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("policy %q", policy)
		}
	}
	if _, _, body := get(t, page+"&lang=zh-CN", "en"); !strings.Contains(body, `<html lang="zh-CN">`) || !strings.Contains(body, "超时支付") {
		t.Errorf("the payer's own choice of language is ignored:\n%s", body)
	}
	for name, change := range map[string]func(url.Values){
		"cheaper":        func(q url.Values) { q.Set(fieldAmount, "1") },
		"later":          func(q url.Values) { q.Set(fieldExpire, "99999999999999") },
		"told elsewhere": func(q url.Values) { q.Set(fieldNotify, "http://evil.example/") },
		"back elsewhere": func(q url.Values) { q.Set(fieldReturn, "javascript:alert(1)") },
		"unsigned":       func(q url.Values) { q.Del(fieldSign) },
		"twice":          func(q url.Values) { q.Add(fieldAmount, "1") },
		"another method": func(q url.Values) { q.Set(fieldMethod, methodRefund) },
	} {
		u, err := url.Parse(page)
		must(t, err)
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		status, _, body := get(t, u.String(), "en")
		if status != http.StatusForbidden || strings.Contains(body, "<form") || !strings.Contains(body, "not valid") {
			t.Errorf("%s: %d\n%s", name, status, body)
		}
		r, err := http.PostForm(u.String(), url.Values{"action": {"pay"}})
		must(t, err)
		must(t, r.Body.Close())
		if r.StatusCode != http.StatusForbidden {
			t.Errorf("%s: paid with %s", name, r.Status)
		}
	}
	r, err := http.PostForm(page, url.Values{"action": {"steal"}})
	must(t, err)
	must(t, r.Body.Close())
	if r.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("an act that is none: %s", r.Status)
	}
	if body := h.press(page, "late"); !strings.Contains(body, "right after the deadline") {
		t.Errorf("after pressing late:\n%s", body)
	}
	if body := h.press(page, "pay"); !strings.Contains(body, "Paid.") || strings.Contains(body, "<button") {
		t.Errorf("after pressing pay:\n%s", body)
	}
	if body := h.press(page, "fail"); !strings.Contains(body, "Paid.") {
		t.Errorf("a paid payment failed:\n%s", body)
	}
	late := h.buy(h.sku(1, 1))
	_, page = h.start(late)
	h.clock.Step(30 * time.Minute)
	if body := h.press(page, "pay"); !strings.Contains(body, "over") {
		t.Errorf("paid after the deadline:\n%s", body)
	}
	if trade, err := sandboxTradeOf(t.Context(), h.DB.Query, mustQuery(t, page).Get(fieldPayment), ""); err != nil || trade.state != sandboxWaiting {
		t.Errorf("%+v %v", trade, err)
	}
}

func mustQuery(t *testing.T, address string) url.Values {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	return u.Query()
}

// TestProviderThatLies puts something between us and the provider: what it alters, invents or repeats is not believed.
func TestProviderThatLies(t *testing.T) {
	h := open(t)
	paid, unpaid := h.buy(h.sku(1, 50)), h.buy(h.sku(1, 50))
	a, page := h.start(paid)
	h.press(page, "pay")
	b, _ := h.start(unpaid)
	g := h.payments.gateways["test"].gateway
	public := func(a Attempt) string { return h.Sealer.Seal(levee.KindPayment, int64(a.ID)) }
	honest := h.provider.Config.Handler
	var lie func(answer url.Values) string
	var kept string // an honest answer about the paid payment
	h.provider.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		rec := httptest.NewRecorder()
		honest.ServeHTTP(rec, r)
		answer, _ := url.ParseQuery(rec.Body.String())
		_, _ = io.WriteString(w, lie(answer))
	})
	lie = func(answer url.Values) string { kept = answer.Encode(); return kept }
	if got, _, err := g.Query(t.Context(), public(a), ""); err != nil || got.status != tradePaid {
		t.Fatalf("the control: %+v %v", got, err)
	}
	for name, l := range map[string]func(answer url.Values) string{
		"says paid":         func(v url.Values) string { v.Set(fieldStatus, statusSuccess); return v.Encode() },
		"says nothing":      func(url.Values) string { return "" },
		"old answer":        func(url.Values) string { return kept },
		"not a form":        func(url.Values) string { return "%%%" },
		"too long":          func(v url.Values) string { return v.Encode() + "&x=" + strings.Repeat("a", maxForm) },
		"unsigned":          func(v url.Values) string { v.Del(fieldSign); return v.Encode() },
		"refund is through": func(v url.Values) string { v.Set(fieldRefund, refundSuccess); return v.Encode() },
	} {
		lie = l
		if got, r, err := g.Query(t.Context(), public(b), "rfd_x"); levee.CodeOf(err) != levee.CodeUnavailable || got.status == tradePaid || r == refundDone {
			t.Errorf("%s: believed: %+v %v %v", name, got, r, err)
		}
		if _, err := g.Refund(t.Context(), refundCall{payment: public(b), refund: "rfd_x", amount: b.Amount}); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("%s: a refund is believed: %v", name, err)
		}
	}
}

// TestSandboxRefusesForgedRequests: the provider's side of the bargain.
func TestSandboxRefusesForgedRequests(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 500))
	a, page := h.start(o)
	h.press(page, "pay")
	keys, err := openSandboxKeys(keyDir())
	must(t, err)
	send := func(path string, form url.Values) int {
		r, err := http.PostForm(h.provider.URL+path, form)
		must(t, err)
		must(t, r.Body.Close())
		return r.StatusCode
	}
	form := func() url.Values {
		return url.Values{
			fieldMethod: {methodRefund}, fieldMerchant: {"levee"}, fieldNonce: {"n"}, fieldRequest: {"r1"}, fieldCurrency: {"CNY"}, fieldAmount: {"500"},
			fieldPayment: {h.Sealer.Seal(levee.KindPayment, int64(a.ID))},
		}
	}
	unsigned, foreign, query := form(), form(), form()
	foreign.Set(fieldMerchant, "neighbour")
	must(t, sign(keys.merchant, foreign))
	query.Set(fieldMethod, methodQuery)
	must(t, sign(keys.merchant, query))
	self := form()
	must(t, sign(keys.provider, self))
	for name, f := range map[string]url.Values{"unsigned": unsigned, "foreign merchant": foreign, "a question as refund": query, "wrong key": self} {
		if got := send("/refund", f); got != http.StatusForbidden {
			t.Errorf("%s: %d", name, got)
		}
	}
	for _, c := range []struct { // in this order: before the whole is refunded nothing bad passes, after it only its repetition
		name   string
		change func(url.Values)
		status string
	}{
		{"more than paid", func(f url.Values) { f.Set(fieldAmount, "501") }, refundRejected},
		{"nothing", func(f url.Values) { f.Set(fieldAmount, "0") }, refundRejected},
		{"negative", func(f url.Values) { f.Set(fieldAmount, "-1") }, refundRejected},
		{"other currency", func(f url.Values) { f.Set(fieldCurrency, "JPY") }, refundRejected},
		{"no number", func(f url.Values) { f.Set(fieldRequest, "") }, refundRejected},
		{"unknown payment", func(f url.Values) { f.Set(fieldPayment, "pay_x") }, refundRejected},
		{"the whole", func(url.Values) {}, refundSuccess},
		{"told again", func(url.Values) {}, refundSuccess},
		{"told again with another amount", func(f url.Values) { f.Set(fieldAmount, "499") }, refundRejected},
		{"another number", func(f url.Values) { f.Set(fieldRequest, "r2") }, refundRejected},
	} {
		f := form()
		c.change(f)
		if got, err := h.sandbox.refund(t.Context(), f); got != c.status || err != nil {
			t.Errorf("%s: %s %v, want %s", c.name, got, err, c.status)
		}
	}
}

// TestSandboxRun lets the provider run by itself, and stops it.
func TestSandboxRun(t *testing.T) {
	h := open(t)
	told, inner := make(chan struct{}, 100), h.shop.Config.Handler
	h.shop.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r)
		told <- struct{}{}
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.sandbox.Run(ctx) }()
	var wg sync.WaitGroup
	orders := make([]order.Order, 5)
	sku := h.sku(5, 10)
	for i := range orders {
		orders[i] = h.buy(sku)
		_, page := h.start(orders[i])
		wg.Go(func() { h.press(page, "pay") })
	}
	wg.Wait()
	for range orders {
		<-told
	}
	for _, o := range orders {
		if h.order(o.ID) != order.StatePaid {
			t.Errorf("order is %v", h.order(o.ID))
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	h.settle()
	h.audited()
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 4 {
		wg.Go(func() {
			key, err := openKey(filepath.Join(dir, "k.pem"))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[key.N.String()] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("four processes made %d keys", len(seen))
	}
	info, err := os.Stat(filepath.Join(dir, "k.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left behind: %v %v", files, err)
	}
	for name, text := range map[string]string{"empty": "", "junk": "hello", "not a key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := openKey(path); err == nil {
			t.Errorf("%s was taken for a key", name)
		}
	}
}

// FuzzNotification: whatever the body, nothing panics, and nothing that is not signed is believed.
func FuzzNotification(f *testing.F) {
	keys, err := openSandboxKeys(keyDir())
	if err != nil {
		f.Fatal(err)
	}
	g := newSandboxGateway(SandboxConfig{Merchant: "levee"}, keys)
	good := url.Values{
		fieldMethod: {methodNotify}, fieldMerchant: {"levee"}, fieldNotifyID: {"1"}, fieldPayment: {"pay_x"}, fieldOrder: {"ord_x"},
		fieldStatus: {statusSuccess}, fieldAmount: {"1"}, fieldCurrency: {"CNY"}, fieldPaidAt: {"1"},
	}
	if err := sign(keys.provider, good); err != nil {
		f.Fatal(err)
	}
	text := good.Encode()
	for _, seed := range []string{"", text, text + "&", text + "&amount=2", strings.Replace(text, "amount=1", "amount=2", 1), "a;b", "%", "sign=&sign_type=RSA2", "=&=", text[1:]} {
		f.Add([]byte(seed))
	}
	want := canonical(text)
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := g.ParseNotification(body)
		if err == nil && canonical(string(body)) != want {
			t.Errorf("believed: %q: %+v", body, n)
		}
		if err != nil && levee.CodeOf(err) == levee.CodeInternal {
			t.Errorf("%q: %v", body, err)
		}
	})
}

// canonical is a form in its one spelling, without the signature's own: a signature may be spelt in more than one way.
func canonical(text string) string {
	form, err := url.ParseQuery(text)
	if err != nil {
		return "?"
	}
	form.Del(fieldSign)
	return form.Encode()
}
