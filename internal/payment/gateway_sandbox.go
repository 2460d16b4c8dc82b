package payment

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"levee"
)

// providerSandbox is the name of the provider that moves no money.
const providerSandbox = "test"

// The field names and values of the test provider's forms. Every signed form says what it is for, so that none can be used in
// another's place; every answer repeats the question's nonce.
const (
	fieldMethod   = "method"
	fieldMerchant = "merchant"
	fieldPayment  = "out_trade_no"
	fieldOrder    = "order_no"
	fieldTrade    = "trade_no"
	fieldStatus   = "trade_status"
	fieldAmount   = "amount" // in the minor unit
	fieldCurrency = "currency"
	fieldPaidAt   = "paid_at" // milliseconds since 1970
	fieldRequest  = "out_request_no"
	fieldRefund   = "refund_status"
	fieldSubject  = "subject"
	fieldReason   = "reason"
	fieldExpire   = "time_expire" // milliseconds since 1970
	fieldTime     = "timestamp"   // milliseconds since 1970
	fieldNotify   = "notify_url"
	fieldReturn   = "return_url"
	fieldNotifyID = "notify_id"
	fieldNonce    = "nonce"

	methodPay    = "pay"
	methodQuery  = "query"
	methodRefund = "refund"
	methodNotify = "notify"
	methodAnswer = "answer"

	statusNotExist = "NOT_EXIST"
	statusWaiting  = "WAITING"
	statusSuccess  = "SUCCESS"
	statusFailed   = "FAILED"
	statusClosed   = "CLOSED"

	refundNotExist = "NOT_EXIST"
	refundSuccess  = "SUCCESS"
	refundRejected = "REFUSED"

	formType   = "application/x-www-form-urlencoded"
	maxForm    = 64 << 10 // bytes of any form
	maxNotifyI = 190      // bytes of a notification's id
)

// sandboxGateway is the merchant's side of the test provider.
type sandboxGateway struct {
	cfg      SandboxConfig
	key      *rsa.PrivateKey // ours
	provider *rsa.PublicKey
	client   *http.Client
}

func newSandboxGateway(cfg SandboxConfig, keys sandboxKeys) *sandboxGateway {
	return &sandboxGateway{
		cfg: cfg, key: keys.merchant, provider: &keys.provider.PublicKey,
		client: &http.Client{
			Timeout:       5 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Name is "test".
func (g *sandboxGateway) Name() string { return providerSandbox }

// Start signs the address of the provider's page. The signature has no random part, so the same charge gives the same address.
func (g *sandboxGateway) Start(_ context.Context, c charge) (string, error) {
	form := url.Values{
		fieldMethod: {methodPay}, fieldMerchant: {g.cfg.Merchant}, fieldPayment: {c.payment}, fieldOrder: {c.order}, fieldSubject: {c.subject},
		fieldAmount: {decimal(c.amount.Minor)}, fieldCurrency: {c.amount.Currency}, fieldTime: {millis(c.at)}, fieldExpire: {millis(c.payBy)},
		fieldNotify: {c.notifyURL}, fieldReturn: {c.returnURL},
	}
	if err := sign(g.key, form); err != nil {
		return "", err
	}
	return g.cfg.URL + "/pay?" + form.Encode(), nil
}

// ParseNotification reads a notification.
func (g *sandboxGateway) ParseNotification(body []byte) (n notice, err error) {
	form, err := parseSigned(g.provider, body)
	if err != nil {
		return n, err
	}
	if form.Get(fieldMethod) != methodNotify || form.Get(fieldMerchant) != g.cfg.Merchant {
		return n, levee.E(levee.CodeForbidden, "the notification is not for this merchant")
	}
	if n.trade, err = readTrade(form); err != nil {
		return n, err
	}
	if n.id = form.Get(fieldNotifyID); n.id == "" || len(n.id) > maxNotifyI {
		return n, levee.E(levee.CodeMalformed, "the notification has no id")
	}
	return n, nil
}

// Query asks the provider.
func (g *sandboxGateway) Query(ctx context.Context, payment, refund string) (t trade, r refundStatus, err error) {
	form := url.Values{fieldMethod: {methodQuery}, fieldPayment: {payment}}
	if refund != "" {
		form.Set(fieldRequest, refund)
	}
	answer, err := g.call(ctx, "/query", form)
	if err != nil {
		return t, r, err
	}
	if t, err = readTrade(answer); err != nil {
		return t, r, err
	}
	if refund == "" {
		return t, refundUnknown, nil
	}
	r, err = readRefund(answer)
	return t, r, err
}

// Refund tells the provider.
func (g *sandboxGateway) Refund(ctx context.Context, c refundCall) (refundStatus, error) {
	answer, err := g.call(ctx, "/refund", url.Values{
		fieldMethod: {methodRefund}, fieldPayment: {c.payment}, fieldRequest: {c.refund}, fieldAmount: {decimal(c.amount.Minor)},
		fieldCurrency: {c.amount.Currency}, fieldReason: {c.reason},
	})
	if err != nil {
		return refundUnknown, err
	}
	return readRefund(answer)
}

// call sends a signed form and returns the provider's signed answer to exactly this form.
func (g *sandboxGateway) call(ctx context.Context, path string, form url.Values) (url.Values, error) {
	nonce := rand.Text()
	form.Set(fieldNonce, nonce)
	form.Set(fieldMerchant, g.cfg.Merchant)
	if err := sign(g.key, form); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.cfg.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", formType)
	response, err := g.client.Do(request)
	if err != nil {
		return nil, away(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxForm+1))
	if err != nil {
		return nil, away(err)
	}
	if response.StatusCode != http.StatusOK || len(body) > maxForm {
		return nil, away(levee.E(levee.CodeUnavailable, "status %d with %d bytes", response.StatusCode, len(body)))
	}
	answer, err := parseSigned(g.provider, body)
	if err != nil {
		return nil, away(err)
	}
	if answer.Get(fieldMethod) != methodAnswer || answer.Get(fieldNonce) != nonce || answer.Get(fieldPayment) != form.Get(fieldPayment) {
		return nil, away(levee.E(levee.CodeForbidden, "the answer is not for this question"))
	}
	return answer, nil
}

func away(err error) error {
	return levee.E(levee.CodeUnavailable, "the payment provider gave no clear answer").After(10 * time.Second).Because(err)
}

func readTrade(form url.Values) (t trade, err error) {
	t = trade{payment: form.Get(fieldPayment), order: form.Get(fieldOrder), ref: form.Get(fieldTrade)}
	switch form.Get(fieldStatus) {
	case statusNotExist:
		return t, nil
	case statusWaiting:
		t.status = tradeWaiting
	case statusSuccess:
		t.status = tradePaid
	case statusFailed:
		t.status = tradeFailed
	case statusClosed:
		t.status = tradeClosed
	default:
		return t, levee.E(levee.CodeMalformed, "the status %q is not known", levee.Shorten(form.Get(fieldStatus), 40))
	}
	if len(t.ref) > maxNotifyI {
		return t, levee.E(levee.CodeMalformed, "the provider's number is too long")
	}
	t.amount.Currency = form.Get(fieldCurrency)
	if t.amount.Minor, err = readNumber(form, fieldAmount, math.MaxInt64); err != nil {
		return t, err
	}
	if t.status == tradePaid {
		at, err := readNumber(form, fieldPaidAt, maxMillis)
		if err != nil {
			return t, err
		}
		t.at = time.UnixMilli(at).UTC()
	}
	return t, nil
}

func readRefund(form url.Values) (refundStatus, error) {
	switch form.Get(fieldRefund) {
	case refundNotExist:
		return refundUnknown, nil
	case refundSuccess:
		return refundDone, nil
	case refundRejected:
		return refundRefused, nil
	}
	return refundUnknown, levee.E(levee.CodeMalformed, "the refund status %q is not known", levee.Shorten(form.Get(fieldRefund), 40))
}

// maxMillis is the end of the year 9999.
const maxMillis = 253_402_300_799_999

func readNumber(form url.Values, field string, most int64) (int64, error) {
	n, err := strconv.ParseInt(form.Get(field), 10, 64)
	if err != nil || n < 0 || n > most || decimal(n) != form.Get(field) {
		return 0, levee.E(levee.CodeMalformed, "the field %s is not a whole number in range", field)
	}
	return n, nil
}

func decimal(n int64) string    { return strconv.FormatInt(n, 10) }
func millis(t time.Time) string { return decimal(t.UnixMilli()) }
