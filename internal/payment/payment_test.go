package payment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/catalog"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

var (
	buyer    = levee.Actor{User: 1001, Roles: levee.RoleCustomer}
	other    = levee.Actor{User: 1002, Roles: levee.RoleCustomer}
	operator = levee.Actor{User: 1003, Roles: levee.RoleOperator}
)

// keys of all tests, made once: an RSA key takes a tenth of a second.
var keyDir = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "levee-payment-keys")
	if err != nil {
		panic(err)
	}
	if _, err := openSandboxKeys(dir); err != nil {
		panic(err)
	}
	return dir
})

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(keyDir())
	os.Exit(code)
}

// house is both sides: the shop, and the provider behind an address of its own.
type house struct {
	*platformtest.Platform
	t        testing.TB
	catalog  *catalog.Service
	orders   *order.Service
	payments *Service
	sandbox  *Sandbox
	clock    *obs.StepClock
	shop     *httptest.Server // takes the notifications
	provider *httptest.Server
}

func open(t testing.TB) *house {
	t.Helper()
	p := platformtest.New(t, catalog.Schema(), order.Schema(), Schema())
	h := &house{Platform: p, t: t, clock: &obs.StepClock{}}
	h.catalog = catalog.New(catalog.Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: p.Obs, Events: p.Events})
	var err error
	h.orders, err = order.Open(order.Deps{
		DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: p.Obs, Events: p.Events, Jobs: p.Jobs, Catalog: h.catalog, Clock: h.clock.Now})
	must(t, err)
	mux := http.NewServeMux()
	h.shop = httptest.NewServer(mux)
	t.Cleanup(h.shop.Close)
	h.provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.sandbox.ServeHTTP(w, r) }))
	t.Cleanup(h.provider.Close)
	d := Deps{
		DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: p.Obs, Events: p.Events, Orders: h.orders, Clock: h.clock.Now,
		Config: Config{PublicURL: h.shop.URL, Sandbox: SandboxConfig{Enabled: true, URL: h.provider.URL, Dir: keyDir()}},
	}
	h.payments, err = New(d)
	must(t, err)
	h.sandbox, err = NewSandbox(d)
	must(t, err)
	mux.Handle("POST /v1/payment-notifications/{provider}", h.payments.notifyHandler())
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) sku(stock int64, price int64) levee.SKUID {
	h.t.Helper()
	n, err := h.IDs.Next()
	must(h.t, err)
	p, err := h.catalog.Create(h.t.Context(), catalog.NewProduct{
		Title: "Tea <b>", State: catalog.OnSale, SKUs: []catalog.NewSKU{{Code: fmt.Sprint(n), Price: levee.Money{Minor: price, Currency: "CNY"}, OnHand: stock}}})
	must(h.t, err)
	return p.SKUs[0].ID
}

func (h *house) tx(fn func(ctx context.Context, tx *db.Tx) error) error {
	return h.DB.Tx(h.t.Context(), "test", fn)
}

func (h *house) buy(sku levee.SKUID) order.Order {
	h.t.Helper()
	var o order.Order
	must(h.t, h.tx(func(ctx context.Context, tx *db.Tx) (err error) {
		o, err = h.orders.BuyTx(ctx, tx, buyer.User, []order.Want{{SKU: sku, Quantity: 1}})
		return err
	}))
	return o
}

// start begins to pay an order and returns the attempt and the provider's page.
func (h *house) start(o order.Order) (Attempt, string) {
	h.t.Helper()
	a, page, err := h.begin(buyer, o.ID, "test")
	must(h.t, err)
	return a, page
}

// begin is Start without a key.
func (h *house) begin(who levee.Actor, id levee.OrderID, provider string) (a Attempt, page string, err error) {
	known, err := attemptsOf(h.t.Context(), h.DB.Query, id)
	must(h.t, err)
	err = h.tx(func(ctx context.Context, tx *db.Tx) error {
		started, err := h.payments.startTx(ctx, tx, who, id, provider, known)
		if err == nil {
			a = *started
		}
		return err
	})
	if err == nil {
		page, err = h.payments.redirect(h.t.Context(), who, a)
	}
	return a, page, err
}

// another begins a second attempt beside a started one, as a buyer at two providers can.
func (h *house) another(o order.Order) (Attempt, string) {
	h.t.Helper()
	must(h.t, h.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE payment_attempt SET state = 3 WHERE order_id = ? AND state = 1", int64(o.ID))
		return err
	}))
	return h.start(o)
}

// press is what the payer does on the provider's page; the notification is not sent yet.
func (h *house) press(page, action string) string {
	h.t.Helper()
	r, err := http.PostForm(page, url.Values{"action": {action}})
	must(h.t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(h.t, err)
	if r.StatusCode != http.StatusOK {
		h.t.Fatalf("pressing %s: %s\n%s", action, r.Status, body)
	}
	return string(body)
}

// deliver lets the provider send what is due now.
func (h *house) deliver() {
	h.t.Helper()
	must(h.t, h.sandbox.deliver(h.t.Context()))
}

func (h *house) order(id levee.OrderID) order.State {
	h.t.Helper()
	o, err := h.orders.ByID(h.t.Context(), levee.System, id)
	must(h.t, err)
	return o.State
}

func (h *house) attempt(id levee.PaymentID) (Attempt, []Refund) {
	h.t.Helper()
	a, refunds, err := h.payments.ByID(h.t.Context(), levee.System, id)
	must(h.t, err)
	return a, refunds
}

func (h *house) stock(sku levee.SKUID) (n int64) {
	h.t.Helper()
	must(h.t, h.DB.QueryRow(h.t.Context(), "SELECT on_hand FROM catalog_sku WHERE id = ?", int64(sku)).Scan(&n))
	return n
}

// expire lets the unpaid orders expire.
func (h *house) expire() int {
	h.t.Helper()
	n, err := h.orders.ExpireDue(h.t.Context())
	must(h.t, err)
	return n
}

// settle lets everything that is due happen, for some minutes.
func (h *house) settle() {
	h.t.Helper()
	for range 12 {
		h.deliver()
		for _, due := range []func(context.Context) error{h.payments.AskDue, h.payments.RefundDue} {
			if err := due(h.t.Context()); err != nil && !errors.Is(err, errCrash) {
				h.t.Error(err)
			}
		}
		h.clock.Step(75 * time.Second)
	}
}

// audit compares the provider's books with ours and with the orders, and returns what is wrong. After everything has settled:
// the provider holds exactly the money of the orders that are paid, and gave back each other payment exactly once.
func (h *house) audit() (bad []string) {
	h.t.Helper()
	type books struct{ paid, returned int64 }
	provider := map[string]books{}
	must(h.t, each(h.t.Context(), h.DB.Query, func(rows *db.Rows) error {
		var payment string
		var b books
		var state int64
		err := rows.Scan(&payment, &b.paid, &state, &b.returned)
		if state != int64(sandboxPaid) {
			b.paid = 0
		}
		provider[payment] = b
		return err
	}, `SELECT out_trade_no, amount_minor, state, (SELECT COALESCE(SUM(r.amount_minor), 0) FROM payment_sandbox_refund r WHERE r.trade_id = t.id)`+
		` FROM payment_sandbox_trade t`))
	held := map[levee.OrderID]int64{}
	list, err := listAttempts(h.t.Context(), h.DB.Query, ` ORDER BY id`)
	must(h.t, err)
	for _, a := range list {
		if a.Provider == providerFree {
			continue
		}
		b := provider[h.Sealer.Seal(levee.KindPayment, int64(a.ID))]
		held[a.Order] += b.paid - b.returned
		want := books{}
		switch a.State {
		case StatePaid:
			want = books{a.Amount.Minor, 0}
		case StateRefunded:
			want = books{a.Amount.Minor, a.Amount.Minor}
		case StateRefunding:
			bad = append(bad, fmt.Sprintf("payment %d is still refunding", a.ID))
			continue
		}
		if b != want {
			bad = append(bad, fmt.Sprintf("payment %d is %v for %d, the provider has %+v", a.ID, a.State, a.Amount.Minor, b))
		}
	}
	for id, money := range held {
		o, err := h.orders.ByID(h.t.Context(), levee.System, id)
		must(h.t, err)
		want := int64(0)
		if o.State == order.StatePaid || o.State == order.StateShipped || o.State == order.StateDone {
			want = o.Total.Minor
		}
		if money != want {
			bad = append(bad, fmt.Sprintf("order %d is %v and costs %d, the provider holds %d for it", id, o.State, o.Total.Minor, money))
		}
	}
	drifts, err := h.catalog.Drifts(h.t.Context())
	must(h.t, err)
	for _, d := range drifts {
		bad = append(bad, fmt.Sprintf("stock and ledger differ: %+v", d))
	}
	return bad
}

func (h *house) audited() {
	h.t.Helper()
	for _, b := range h.audit() {
		h.t.Error(b)
	}
}

func TestPayAtTheProvider(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 1234))
	a, page := h.start(o)
	if a.State != StateStarted || a.Amount != o.Total || !a.PayBy.Equal(o.PayBy) {
		t.Errorf("got %+v", a)
	}
	if again, same := h.start(o); again.ID != a.ID || same != page {
		t.Errorf("a second start gave another attempt or address")
	}
	h.press(page, "pay")
	if h.order(o.ID) != order.StateCreated {
		t.Error("paid before anybody told us")
	}
	h.deliver()
	got, _ := h.attempt(a.ID)
	if h.order(o.ID) != order.StatePaid || got.State != StatePaid || !got.PaidOrder || got.ProviderRef == "" {
		t.Errorf("order %v, attempt %+v", h.order(o.ID), got)
	}
	_, _, err := h.begin(buyer, o.ID, "test")
	if levee.CodeOf(err) != levee.CodeAlreadyPaid {
		t.Errorf("paying again: %v", err)
	}
	h.press(page, "pay") // the page is still open in another tab
	h.settle()
	h.audited()
}

func TestStartRefuses(t *testing.T) {
	h := open(t)
	sku := h.sku(9, 100)
	o := h.buy(sku)
	cancelled := h.buy(sku)
	must(t, h.orders.Cancel(t.Context(), cancelled.ID, buyer, "no"))
	for name, c := range map[string]struct {
		who      levee.Actor
		id       levee.OrderID
		provider string
		code     levee.Code
	}{
		"visitor":            {levee.Actor{}, o.ID, "test", levee.CodeUnauthenticated},
		"other":              {other, o.ID, "test", levee.CodeNotFound},
		"operator":           {operator, o.ID, "test", levee.CodeNotFound},
		"rehearsal":          {levee.Actor{User: buyer.User, Rehearsal: true}, o.ID, "alipay", levee.CodeForbidden},
		"no such order":      {buyer, 99, "test", levee.CodeNotFound},
		"no such provider":   {buyer, o.ID, "gold", levee.CodeInvalid},
		"free is no choice":  {buyer, o.ID, "free", levee.CodeInvalid},
		"cancelled":          {buyer, cancelled.ID, "test", levee.CodePaymentDeadlineOver},
		"no provider at all": {buyer, o.ID, "", levee.CodeInvalid},
	} {
		if _, page, err := h.begin(c.who, c.id, c.provider); levee.CodeOf(err) != c.code || page != "" {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	for range maxAttempts - 1 {
		h.another(o)
	}
	h.another(o)
	must(t, h.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE payment_attempt SET state = 3 WHERE order_id = ?", int64(o.ID))
		return err
	}))
	if _, _, err := h.begin(buyer, o.ID, "test"); levee.CodeOf(err) != levee.CodeLimitReached {
		t.Errorf("attempt %d: %v", maxAttempts+1, err)
	}
	h.clock.Step(30 * time.Minute)
	if _, _, err := h.begin(buyer, o.ID, "test"); levee.CodeOf(err) != levee.CodePaymentDeadlineOver {
		t.Errorf("at the deadline: %v", err)
	}
}

func TestFreeOrder(t *testing.T) {
	h := open(t)
	sku := h.sku(1, 0)
	o := h.buy(sku)
	a, page := h.start(o)
	if a.State != StatePaid || page != "" || h.order(o.ID) != order.StatePaid {
		t.Errorf("attempt %+v, page %q, order %v", a, page, h.order(o.ID))
	}
	if _, err := h.payments.RefundOrder(t.Context(), operator, o.ID, "sorry"); err != nil {
		t.Error(err)
	}
	h.settle()
	if h.order(o.ID) != order.StateRefunded || h.stock(sku) != 1 {
		t.Errorf("order %v, stock %d", h.order(o.ID), h.stock(sku))
	}
	h.audited()
}

// TestHostileNotifications sends everything that is not a true notification: nothing may change, and the true one works after.
func TestHostileNotifications(t *testing.T) {
	h := open(t)
	o, mine := h.buy(h.sku(1, 5000)), h.buy(h.sku(1, 1))
	a, _ := h.start(o)
	cheap, _ := h.start(mine)
	public := func(k levee.Kind, n int64) string { return h.Sealer.Seal(k, n) }
	true_ := func() url.Values {
		return url.Values{
			fieldMethod: {methodNotify}, fieldMerchant: {"levee"}, fieldNotifyID: {"n1"}, fieldTime: {millis(h.clock.Now())},
			fieldPayment: {public(levee.KindPayment, int64(a.ID))}, fieldOrder: {public(levee.KindOrder, int64(o.ID))}, fieldTrade: {"900"},
			fieldStatus: {statusSuccess}, fieldAmount: {"5000"}, fieldCurrency: {"CNY"}, fieldPaidAt: {millis(h.clock.Now())},
		}
	}
	keys, err := openSandboxKeys(keyDir())
	must(t, err)
	stranger, err := openKey(filepath.Join(t.TempDir(), "stranger.pem"))
	must(t, err)
	signed := func(change func(url.Values)) string {
		form := true_()
		change(form)
		must(t, sign(keys.provider, form))
		return form.Encode()
	}
	set := func(field, value string) string { return signed(func(f url.Values) { f.Set(field, value) }) }
	after := func(change func(url.Values)) string { // altered after it was signed
		form := true_()
		must(t, sign(keys.provider, form))
		change(form)
		return form.Encode()
	}
	forged := true_()
	must(t, sign(stranger, forged))
	ours := true_()
	must(t, sign(keys.merchant, ours))
	for name, c := range map[string]struct {
		body string
		code levee.Code
	}{
		"empty":                   {"", levee.CodeForbidden},
		"unsigned":                {true_().Encode(), levee.CodeForbidden},
		"no form":                 {"%zz;a=1", levee.CodeMalformed},
		"json":                    {`{"trade_status":"SUCCESS"}`, levee.CodeForbidden},
		"signed by a stranger":    {forged.Encode(), levee.CodeForbidden},
		"signed with our own key": {ours.Encode(), levee.CodeForbidden},
		"amount altered":          {after(func(f url.Values) { f.Set(fieldAmount, "1") }), levee.CodeForbidden},
		"status altered":          {after(func(f url.Values) { f.Set(fieldStatus, statusClosed) }), levee.CodeForbidden},
		"payment altered":         {after(func(f url.Values) { f.Set(fieldPayment, public(levee.KindPayment, int64(cheap.ID))) }), levee.CodeForbidden},
		"field added":             {after(func(f url.Values) { f.Set("x", "1") }), levee.CodeForbidden},
		"field removed":           {after(func(f url.Values) { f.Del(fieldCurrency) }), levee.CodeForbidden},
		"field twice":             {after(func(f url.Values) { f.Add(fieldAmount, "5000") }), levee.CodeMalformed},
		"signature cut":           {after(func(f url.Values) { f.Set(fieldSign, f.Get(fieldSign)[:100]) }), levee.CodeForbidden},
		"signature of nothing":    {after(func(f url.Values) { f.Set(fieldSign, "") }), levee.CodeForbidden},
		"another way of signing":  {after(func(f url.Values) { f.Set(fieldSignType, "NONE") }), levee.CodeForbidden},
		"fields joined":           {after(func(f url.Values) { f.Del(fieldCurrency); f.Set(fieldAmount, "5000&currency=CNY") }), levee.CodeForbidden},
		"another merchant":        {set(fieldMerchant, "neighbour"), levee.CodeForbidden},
		"an answer, no notice":    {set(fieldMethod, methodAnswer), levee.CodeForbidden},
		"wrong amount":            {set(fieldAmount, "1"), levee.CodeInvalid},
		"one too much":            {set(fieldAmount, "5001"), levee.CodeInvalid},
		"wrong currency":          {set(fieldCurrency, "JPY"), levee.CodeInvalid},
		"another order":           {set(fieldOrder, public(levee.KindOrder, int64(mine.ID))), levee.CodeInvalid},
		"another payment":         {set(fieldPayment, public(levee.KindPayment, int64(cheap.ID))), levee.CodeInvalid},
		"no such payment":         {set(fieldPayment, public(levee.KindPayment, 12345)), levee.CodeNotFound},
		"an order as payment":     {set(fieldPayment, public(levee.KindOrder, int64(a.ID))), levee.CodeNotFound},
		"amount with a sign":      {set(fieldAmount, "+5000"), levee.CodeMalformed},
		"amount with a point":     {set(fieldAmount, "5000.0"), levee.CodeMalformed},
		"amount with zeros":       {set(fieldAmount, "05000"), levee.CodeMalformed},
		"amount beyond 63 bits":   {set(fieldAmount, "18446744073709556616"), levee.CodeMalformed},
		"negative amount":         {set(fieldAmount, "-5000"), levee.CodeMalformed},
		"a status nobody knows":   {set(fieldStatus, "PAID_MAYBE"), levee.CodeMalformed},
		"no notification id":      {set(fieldNotifyID, ""), levee.CodeMalformed},
		"an endless id":           {set(fieldNotifyID, strings.Repeat("n", 191)), levee.CodeMalformed},
		"paid without a time":     {set(fieldPaidAt, ""), levee.CodeMalformed},
		"sixty-five fields":       {signedMany(t, h), levee.CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if err := h.payments.Notify(t.Context(), "test", []byte(c.body)); levee.CodeOf(err) != c.code {
				t.Errorf("got %v, want code %s", err, c.code)
			}
			r, err := http.Post(h.shop.URL+"/v1/payment-notifications/test", formType, strings.NewReader(c.body))
			must(t, err)
			defer r.Body.Close()
			if body, err := io.ReadAll(r.Body); err != nil || string(body) != "failure" || r.StatusCode == 200 {
				t.Errorf("the provider was answered %s %q %v", r.Status, body, err)
			}
		})
	}
	for _, provider := range []string{"free", "nobody", ""} {
		if err := h.payments.Notify(t.Context(), provider, []byte(signed(func(url.Values) {}))); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("provider %q: %v", provider, err)
		}
	}
	for _, id := range []levee.PaymentID{a.ID, cheap.ID} {
		if got, _ := h.attempt(id); got.State != StateStarted {
			t.Errorf("payment %d is %v", id, got.State)
		}
	}
	var marks int
	must(t, h.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM payment_notification").Scan(&marks))
	if h.order(o.ID) != order.StateCreated || h.order(mine.ID) != order.StateCreated || marks != 0 {
		t.Errorf("orders are %v and %v, %d notifications had an effect", h.order(o.ID), h.order(mine.ID), marks)
	}
	// The control: the same form, signed and not altered, does pay.
	must(t, h.payments.Notify(t.Context(), "test", []byte(signed(func(url.Values) {}))))
	if h.order(o.ID) != order.StatePaid {
		t.Error("the true notification did nothing")
	}
}

func signedMany(t *testing.T, h *house) string {
	t.Helper()
	form := url.Values{}
	for i := range maxFields + 1 {
		form.Set(fmt.Sprint("f", i), "1")
	}
	form.Set(fieldSignType, signType)
	form.Set(fieldSign, "x")
	return form.Encode()
}

// TestReplay sends a true notification fifty times at once, and fifty with other ids that say the same.
func TestReplay(t *testing.T) {
	h := open(t)
	sku := h.sku(1, 700)
	o := h.buy(sku)
	a, page := h.start(o)
	h.press(page, "pay")
	trades, err := listSandboxTrades(t.Context(), h.DB.Query, "")
	must(t, err)
	var wg sync.WaitGroup
	for i := range 100 {
		trade := trades[0]
		if i >= 50 {
			trade.notifyID += int64(i)
		}
		body, err := h.sandbox.notification(trade)
		must(t, err)
		wg.Go(func() {
			if err := h.payments.Notify(t.Context(), "test", []byte(body)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	h.deliver()
	steps, err := h.orders.Timeline(t.Context(), buyer, o.ID)
	must(t, err)
	got, refunds := h.attempt(a.ID)
	if len(steps) != 2 || got.State != StatePaid || len(refunds) != 0 {
		t.Errorf("%d steps, attempt %v, %d refunds", len(steps), got.State, len(refunds))
	}
	h.settle()
	h.audited()
}

// TestAuditControl shows that the audit sees what the other tests rely on it to see.
func TestAuditControl(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 700))
	_, page := h.start(o)
	h.press(page, "pay")
	if len(h.audit()) == 0 {
		t.Error("money at the provider that the order knows nothing of is not seen")
	}
	h.settle()
	h.audited()
	for name, harm := range map[string]string{
		"an order shipped for nothing": "UPDATE order_head SET state = 7",
		"money given back twice":       "INSERT INTO payment_sandbox_refund SELECT 1, 'x', id, 700, 0 FROM payment_sandbox_trade",
	} {
		err := h.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, harm)
			return err
		})
		must(t, err)
		if len(h.audit()) == 0 {
			t.Errorf("%s is not seen", name)
		}
	}
}

// TestPaidTwice: two tabs, two payments. One pays the order, the other goes back by itself, once.
func TestPaidTwice(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 900))
	first, page1 := h.start(o)
	second, page2 := h.another(o)
	h.press(page1, "pay")
	h.press(page2, "pay")
	h.settle()
	paid := 0
	for _, id := range []levee.PaymentID{first.ID, second.ID} {
		a, refunds := h.attempt(id)
		switch {
		case a.State == StatePaid && a.PaidOrder && len(refunds) == 0:
			paid++
		case a.State == StateRefunded && !a.PaidOrder && len(refunds) == 1 && refunds[0].State == RefundDone && !refunds[0].ForOrder:
		default:
			t.Errorf("attempt %+v with %+v", a, refunds)
		}
	}
	if paid != 1 || h.order(o.ID) != order.StatePaid {
		t.Errorf("%d payments pay an order that is %v", paid, h.order(o.ID))
	}
	h.audited()
}

// TestLateMoney: the payer pays two seconds after the deadline.
func TestLateMoney(t *testing.T) {
	late := func(h *house, sku levee.SKUID) (order.Order, Attempt) {
		o := h.buy(sku)
		a, page := h.start(o)
		h.press(page, "late")
		h.clock.Step(30 * time.Minute)
		if n := h.expire(); n != 1 || h.order(o.ID) != order.StateCancelled {
			h.t.Fatalf("%d expired, order %v", n, h.order(o.ID))
		}
		return o, a
	}
	t.Run("revived", func(t *testing.T) {
		h := open(t)
		sku := h.sku(1, 300)
		o, _ := late(h, sku)
		h.settle()
		if h.order(o.ID) != order.StatePaid || h.stock(sku) != 0 {
			t.Errorf("order %v, stock %d", h.order(o.ID), h.stock(sku))
		}
		h.audited()
	})
	t.Run("refunded once", func(t *testing.T) {
		h := open(t)
		sku := h.sku(1, 300)
		o, a := late(h, sku)
		h.buy(sku) // the unit is gone
		h.sandbox.SetFaults(Faults{Duplicate: 49})
		h.settle()
		got, refunds := h.attempt(a.ID)
		if h.order(o.ID) != order.StateCancelled || got.State != StateRefunded || len(refunds) != 1 || h.stock(sku) != 0 {
			t.Errorf("order %v, attempt %v, %d refunds, stock %d", h.order(o.ID), got.State, len(refunds), h.stock(sku))
		}
		h.audited()
	})
}

// TestPayAndExpireAtOnce races notifications against the expiry, hundreds of times, with the provider asked in between.
func TestPayAndExpireAtOnce(t *testing.T) {
	h := open(t)
	const races = 200
	sku := h.sku(races, 10)
	orders := make([]order.Order, races)
	bodies := make([]string, races)
	for i := range orders {
		orders[i] = h.buy(sku)
		_, page := h.start(orders[i])
		h.press(page, "late")
	}
	h.clock.Step(30*time.Minute + sandboxLateBy)
	h.sandbox.SetFaults(Faults{Lose: races}) // they are paid, and their notifications are sent by hand below
	for range races/sandboxBatch + 1 {
		h.deliver()
	}
	trades, err := listSandboxTrades(t.Context(), h.DB.Query, " ORDER BY id")
	must(t, err)
	for i, trade := range trades {
		bodies[i], err = h.sandbox.notification(trade)
		must(t, err)
	}
	body := map[levee.OrderID]string{}
	for i, o := range orders { // trades are in the order of the orders
		body[o.ID] = bodies[i]
	}
	// In the moment in which the expiry asks about an order its notification sets out, and somebody else wants the unit.
	var wg sync.WaitGroup
	var bought, turn atomic.Int64
	h.orders.AskProvider(func(_ context.Context, id levee.OrderID) (bool, error) {
		begun := make(chan struct{})
		wg.Go(func() {
			close(begun)
			if err := h.payments.Notify(t.Context(), "test", []byte(body[id])); err != nil {
				t.Error(err)
			}
		})
		n := turn.Add(1)
		if n%2 == 0 {
			<-begun // half of the notifications get a head start
		}
		if n%4 < 2 {
			wg.Go(func() {
				err := h.tx(func(ctx context.Context, tx *db.Tx) error {
					_, err := h.orders.BuyTx(ctx, tx, other.User, []order.Want{{SKU: sku, Quantity: 1}})
					return err
				})
				if err == nil {
					bought.Add(1)
				} else if levee.CodeOf(err) != levee.CodeOutOfStock {
					t.Error(err)
				}
			})
		}
		return false, nil
	})
	cancelled := h.expire()
	wg.Wait()
	h.settle()
	paid, tooLate := 0, 0
	for _, o := range orders {
		switch h.order(o.ID) {
		case order.StatePaid:
			paid++
		case order.StateCancelled:
			tooLate++
		default:
			t.Errorf("order %d is %v", o.ID, h.order(o.ID))
		}
	}
	t.Logf("%d cancelled by the expiry, %d paid in the end, %d refunded, %d units bought by others", cancelled, paid, tooLate, bought.Load())
	if got := h.stock(sku); got != int64(races-paid)-bought.Load() {
		t.Errorf("stock is %d with %d paid and %d bought", got, paid, bought.Load())
	}
	h.audited()
}

// TestExpiryAsks: the notification is lost, the provider is asked before the order is cancelled.
func TestExpiryAsks(t *testing.T) {
	h := open(t)
	sku := h.sku(2, 100)
	paid, unpaid := h.buy(sku), h.buy(sku)
	_, page := h.start(paid)
	h.press(page, "pay")
	a, _ := h.start(unpaid) // he never opened the page
	h.clock.Step(30 * time.Minute)
	if n := h.expire(); n != 1 {
		t.Errorf("%d expired", n)
	}
	if h.order(paid.ID) != order.StatePaid || h.order(unpaid.ID) != order.StateCancelled || h.stock(sku) != 1 {
		t.Errorf("orders %v and %v, stock %d", h.order(paid.ID), h.order(unpaid.ID), h.stock(sku))
	}
	h.clock.Step(2 * time.Hour)
	h.settle()
	if got, _ := h.attempt(a.ID); got.State != StateClosed || got.askAt != 0 {
		t.Errorf("an attempt that nobody followed is %v, asked again at %d", got.State, got.askAt)
	}
	h.audited()
}

// TestProviderDown: nothing is cancelled while the provider cannot be asked; it is found paid when it is back.
func TestProviderDown(t *testing.T) {
	h := open(t)
	sku := h.sku(40, 100)
	var orders []order.Order
	for range 40 {
		o := h.buy(sku)
		_, page := h.start(o)
		h.press(page, "pay")
		orders = append(orders, o)
	}
	h.sandbox.SetFaults(Faults{Down: true})
	h.clock.Step(31 * time.Minute)
	var asked atomic.Int64
	inner := h.provider.Config.Handler
	h.provider.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		inner.ServeHTTP(w, r)
	})
	for range 30 {
		if n := h.expire(); n != 0 {
			t.Fatalf("%d cancelled without an answer", n)
		}
		h.clock.Step(time.Second)
	}
	if n := asked.Load(); n == 0 || n > 100 {
		t.Errorf("the provider that is away was asked %d times in 30 s for 40 orders", n)
	}
	h.sandbox.SetFaults(Faults{})
	for range 3 { // at first one call finds out that it is back, and the others do not wait
		h.clock.Step(time.Minute)
		if n := h.expire(); n != 0 {
			t.Errorf("%d cancelled although they are paid", n)
		}
	}
	for _, o := range orders {
		if h.order(o.ID) != order.StatePaid {
			t.Fatalf("order is %v", h.order(o.ID))
		}
	}
	h.settle()
	h.audited()
}

func TestLostAndDelayedNotifications(t *testing.T) {
	h := open(t)
	h.sandbox.SetFaults(Faults{Lose: 3, Delay: 5 * time.Second})
	o := h.buy(h.sku(1, 100))
	_, page := h.start(o)
	h.press(page, "pay")
	h.deliver()
	if h.sandbox.fault(nil).Lose != 3 {
		t.Error("sent before its delay")
	}
	for range 4 {
		if h.order(o.ID) != order.StateCreated {
			t.Fatal("paid by a lost notification")
		}
		h.clock.Step(6 * time.Second)
		h.deliver()
	}
	if h.order(o.ID) != order.StatePaid {
		t.Error("the provider did not repeat its notification")
	}
	// The shop is away: the provider repeats until it hears the one word.
	o = h.buy(h.sku(1, 100))
	_, page = h.start(o)
	h.press(page, "pay")
	inner := h.shop.Config.Handler
	var refused atomic.Int64
	h.shop.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch refused.Add(1) {
		case 1:
			w.WriteHeader(http.StatusBadGateway)
		case 2:
			_, _ = io.WriteString(w, "success\n") // not exactly the word
		case 3:
			panic(http.ErrAbortHandler)
		default:
			inner.ServeHTTP(w, r)
		}
	})
	for range 8 {
		h.clock.Step(10 * time.Second)
		h.deliver()
	}
	if h.order(o.ID) != order.StatePaid || refused.Load() != 4 {
		t.Errorf("order %v after %d notifications", h.order(o.ID), refused.Load())
	}
	h.audited()
}

func TestFailedPaymentCanBeTriedAgain(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 100))
	a, page := h.start(o)
	h.press(page, "fail")
	h.deliver()
	if got, _ := h.attempt(a.ID); got.State != StateFailed {
		t.Errorf("attempt is %v", got.State)
	}
	b, page := h.start(o)
	if b.ID == a.ID || b.Number != 2 {
		t.Errorf("the second attempt is %+v", b)
	}
	h.press(page, "pay")
	h.deliver()
	if h.order(o.ID) != order.StatePaid {
		t.Errorf("order is %v", h.order(o.ID))
	}
	h.audited()
}

func (h *house) paid(sku levee.SKUID) (order.Order, Attempt) {
	h.t.Helper()
	o := h.buy(sku)
	a, page := h.start(o)
	h.press(page, "pay")
	h.deliver()
	if h.order(o.ID) != order.StatePaid {
		h.t.Fatalf("order is %v", h.order(o.ID))
	}
	return o, a
}

func TestRefund(t *testing.T) {
	ctx := context.Background()
	t.Run("lost reply", func(t *testing.T) { // carried out, and nobody heard of it
		h := open(t)
		sku := h.sku(1, 800)
		o, a := h.paid(sku)
		h.sandbox.SetFaults(Faults{LoseReplies: 1})
		_, err := h.payments.RefundOrder(ctx, operator, o.ID, "broken")
		must(t, err)
		must(t, h.payments.RefundDue(ctx))
		got, refunds := h.attempt(a.ID)
		if got.State != StateRefunding || h.order(o.ID) != order.StateRefunding || refunds[0].State != RefundPending || refunds[0].LastError == "" {
			t.Errorf("after a lost reply: %v, %v, %+v", got.State, h.order(o.ID), refunds)
		}
		if err := h.orders.Ship(ctx, o.ID, operator, "SF", "1"); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("goods leave while their money goes back: %v", err)
		}
		var asked, told int
		inner := h.provider.Config.Handler
		h.provider.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/refund") {
				told++
			} else {
				asked++
			}
			inner.ServeHTTP(w, r)
		})
		h.settle()
		if asked != 1 || told != 0 {
			t.Errorf("asked %d times, told again %d times", asked, told)
		}
		got, _ = h.attempt(a.ID)
		if got.State != StateRefunded || h.order(o.ID) != order.StateRefunded || h.stock(sku) != 1 {
			t.Errorf("in the end: %v, %v, stock %d", got.State, h.order(o.ID), h.stock(sku))
		}
		h.audited()
	})
	t.Run("lost question", func(t *testing.T) { // the provider was away: it never heard of it
		h := open(t)
		o, a := h.paid(h.sku(1, 800))
		h.sandbox.SetFaults(Faults{Down: true})
		_, err := h.payments.RefundOrder(ctx, operator, o.ID, "broken")
		must(t, err)
		for range 5 {
			must(t, h.payments.RefundDue(ctx))
			h.clock.Step(11 * time.Minute)
		}
		h.sandbox.SetFaults(Faults{})
		h.settle()
		if got, _ := h.attempt(a.ID); got.State != StateRefunded || h.order(o.ID) != order.StateRefunded {
			t.Errorf("%v, %v", got.State, h.order(o.ID))
		}
		h.audited()
	})
	t.Run("twenty at once", func(t *testing.T) {
		h := open(t)
		o, a := h.paid(h.sku(1, 800))
		var wg sync.WaitGroup
		var won atomic.Int64
		for range 20 {
			wg.Go(func() {
				switch _, err := h.payments.RefundOrder(ctx, operator, o.ID, "broken"); levee.CodeOf(err) {
				case "":
					won.Add(1)
				case levee.CodeConflict:
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for range 20 {
			wg.Go(func() {
				if err := h.payments.RefundDue(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		h.settle()
		if _, refunds := h.attempt(a.ID); won.Load() != 1 || len(refunds) != 1 || refunds[0].Tries != 1 {
			t.Errorf("%d won, refunds %+v", won.Load(), refunds)
		}
		h.audited()
	})
	t.Run("refused for good", func(t *testing.T) {
		h := open(t)
		sku := h.sku(1, 800)
		o, a := h.paid(sku)
		h.sandbox.SetFaults(Faults{Refuse: true})
		_, err := h.payments.RefundOrder(ctx, operator, o.ID, "broken")
		must(t, err)
		h.settle()
		got, refunds := h.attempt(a.ID)
		if got.State != StatePaid || h.order(o.ID) != order.StatePaid || refunds[0].State != RefundRefused || h.stock(sku) != 0 {
			t.Errorf("%v, %v, %+v", got.State, h.order(o.ID), refunds)
		}
		h.audited()
		h.sandbox.SetFaults(Faults{})
		must(t, h.tx(func(ctx context.Context, tx *db.Tx) error { // by its payment, which is the same thing
			_, err := h.payments.RefundPaymentTx(ctx, tx, operator, a.ID, "broken, once more")
			return err
		}))
		h.settle()
		if got, refunds := h.attempt(a.ID); got.State != StateRefunded || len(refunds) != 2 || h.order(o.ID) != order.StateRefunded {
			t.Errorf("%v, %v, %+v", got.State, h.order(o.ID), refunds)
		}
		h.audited()
	})
	t.Run("late money refused for good, then by hand", func(t *testing.T) {
		h := open(t)
		sku := h.sku(1, 800)
		o := h.buy(sku)
		a, page := h.start(o)
		h.press(page, "pay")
		must(t, h.orders.Cancel(ctx, o.ID, buyer, "no")) // he paid and cancelled at the same time
		h.sandbox.SetFaults(Faults{Refuse: true})
		h.settle()
		if got, refunds := h.attempt(a.ID); got.State != StatePaid || len(refunds) != 1 || h.order(o.ID) != order.StateCancelled {
			t.Errorf("%v, %v, %+v", got.State, h.order(o.ID), refunds)
		}
		h.sandbox.SetFaults(Faults{})
		_, err := h.payments.RefundOrder(ctx, operator, o.ID, "by hand")
		must(t, err)
		h.settle()
		if got, _ := h.attempt(a.ID); got.State != StateRefunded || h.order(o.ID) != order.StateCancelled || h.stock(sku) != 1 {
			t.Errorf("%v, %v, stock %d", got.State, h.order(o.ID), h.stock(sku))
		}
		h.audited()
	})
	t.Run("who and when", func(t *testing.T) {
		h := open(t)
		sku := h.sku(3, 800)
		o, a := h.paid(sku)
		fresh := h.buy(sku)
		for name, c := range map[string]struct {
			who  levee.Actor
			id   levee.OrderID
			why  string
			code levee.Code
		}{
			"buyer":     {buyer, o.ID, "x", levee.CodeForbidden},
			"visitor":   {levee.Actor{}, o.ID, "x", levee.CodeForbidden},
			"unpaid":    {operator, fresh.ID, "x", levee.CodeConflict},
			"unknown":   {operator, 7, "x", levee.CodeNotFound},
			"no reason": {operator, o.ID, " ", levee.CodeInvalid},
		} {
			if _, err := h.payments.RefundOrder(ctx, c.who, c.id, c.why); levee.CodeOf(err) != c.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		err := h.tx(func(ctx context.Context, tx *db.Tx) error {
			_, err := h.payments.RefundPaymentTx(ctx, tx, buyer, a.ID, "x")
			return err
		})
		if levee.CodeOf(err) != levee.CodeForbidden {
			t.Errorf("a buyer refunds a payment: %v", err)
		}
		must(t, h.orders.Ship(ctx, o.ID, operator, "SF", "1"))
		must(t, h.orders.Complete(ctx, o.ID, operator))
		if _, err := h.payments.RefundOrder(ctx, operator, o.ID, "x"); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("a finished order: %v", err)
		}
		h.audited()
	})
}

var errCrash = errors.New("crash")

// TestFailBetweenSteps fails at each point in turn, once, on the way from the payment to the money's return, and lets everything
// be repeated as it would be after a restart: in the end the books agree.
func TestFailBetweenSteps(t *testing.T) {
	scenario := func(t *testing.T, nth int) (points []string, reached bool) {
		h := open(t)
		sku := h.sku(3, 800)
		var mu sync.Mutex // guards points and reached: a provider's repeats may come side by side
		h.payments.failAt = func(point string) error {
			mu.Lock()
			defer mu.Unlock()
			points = append(points, point)
			if len(points) == nth {
				reached = true
				return errCrash
			}
			return nil
		}
		kept, back := h.buy(sku), h.buy(sku)
		late := h.buy(sku)
		_, page1 := h.start(kept)
		_, page2 := h.start(back)
		a3, page3 := h.start(late)
		h.press(page1, "pay")
		h.press(page2, "pay")
		h.press(page3, "pay")
		must(t, h.orders.Cancel(t.Context(), late.ID, buyer, "no"))
		h.deliver()
		h.settle()
		for h.order(back.ID) != order.StateRefunding {
			if _, err := h.payments.RefundOrder(t.Context(), operator, back.ID, "broken"); err != nil && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
		}
		h.settle()
		if h.order(kept.ID) != order.StatePaid || h.order(back.ID) != order.StateRefunded || h.order(late.ID) != order.StateCancelled {
			t.Errorf("orders are %v, %v, %v", h.order(kept.ID), h.order(back.ID), h.order(late.ID))
		}
		if a, refunds := h.attempt(a3.ID); a.State != StateRefunded || len(refunds) != 1 {
			t.Errorf("the late payment is %v with %d refunds", a.State, len(refunds))
		}
		if h.stock(sku) != 2 {
			t.Errorf("stock is %d", h.stock(sku))
		}
		h.audited()
		return points, reached
	}
	all, _ := scenario(t, 0)
	seen := map[string]bool{}
	for _, p := range all {
		seen[p] = true
	}
	if len(seen) < 9 {
		t.Errorf("only the points %v were passed", all)
	}
	for nth := 1; nth <= len(all); nth++ {
		t.Run(fmt.Sprintf("%02d %s", nth, all[nth-1]), func(t *testing.T) {
			if _, reached := scenario(t, nth); !reached {
				t.Error("the point was not reached")
			}
		})
	}
	// A crash between the provider's answer to a question and our books: the question is asked again.
	h := open(t)
	o := h.buy(h.sku(1, 5))
	_, page := h.start(o)
	h.press(page, "pay")
	h.sandbox.SetFaults(Faults{Lose: 1000})
	h.clock.Step(time.Minute)
	h.payments.failAt = func(string) error { return errCrash }
	must(t, h.payments.AskDue(t.Context()))
	if h.order(o.ID) != order.StateCreated {
		t.Fatal("booked in spite of the crash")
	}
	h.payments.failAt = nil
	h.clock.Step(time.Minute)
	must(t, h.payments.AskDue(t.Context()))
	if h.order(o.ID) != order.StatePaid {
		t.Error("not asked again")
	}
}

func TestWhoMaySee(t *testing.T) {
	h := open(t)
	o := h.buy(h.sku(1, 1))
	a, _ := h.start(o)
	for _, who := range []levee.Actor{other, {}} {
		if _, _, err := h.payments.ByID(t.Context(), who, a.ID); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("%v: %v", who, err)
		}
		if _, err := h.payments.ByOrder(t.Context(), who, o.ID); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("%v: %v", who, err)
		}
	}
	list, err := h.payments.ByOrder(t.Context(), buyer, o.ID)
	if err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{PublicURL: "shop.example"}, {PublicURL: "ftp://shop"}, {PublicURL: "http://shop?x=1"}, {ReturnPath: "//evil.example"},
		{ReturnPath: "orders"}, {Sandbox: SandboxConfig{URL: "javascript:alert(1)"}},
	} {
		if _, err := c.normal(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
	c, err := Config{PublicURL: "https://shop.example/"}.normal()
	if diff := cmp.Diff(Config{
		PublicURL: "https://shop.example", ReturnPath: "/orders/{order}",
		Sandbox: SandboxConfig{URL: "https://shop.example/test-provider", Dir: "data/sandbox", Merchant: "levee"},
	}, c); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
