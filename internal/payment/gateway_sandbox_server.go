package payment

import (
	"context"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

const (
	sandboxTick     = 250 * time.Millisecond // between two looks for late payers and notifications that are due
	sandboxLateBy   = 2 * time.Second        // after the deadline a late payer pays
	sandboxFirst    = time.Second            // pause after the first notification that was not answered well, doubled each time
	sandboxMost     = 5 * time.Minute
	sandboxTries    = 60 // then the merchant is told no more: about four hours
	sandboxBatch    = 64
	sandboxParallel = 8
)

// Faults are what the test provider is told to do wrong. The zero value does everything right.
type Faults struct {
	Lose        int           // that many next notifications are counted as sent and never arrive
	Duplicate   int           // each notification is sent that many times more, all at once
	Delay       time.Duration // from the payment to its first notification
	LoseReplies int           // that many next questions and refunds are carried out, and the line is cut before the answer
	Down        bool          // questions and refunds answer 503 and do nothing
	Refuse      bool          // refunds are refused for good
}

// Sandbox is the test provider itself: a payment page for people, notifications that are repeated until the merchant answers
// "success", and signed questions and refunds. It keeps its own books and shares nothing with the rest of the room but the
// database and the public keys. Several nodes of a house are one provider: the books and keys are in SQL. It is an http.Handler, mounted by the app with its prefix stripped or served elsewhere.
type Sandbox struct {
	db       *db.DB
	ids      *id.Generator
	clock    obs.Clock
	log      *slog.Logger
	merchant string
	theirs   *rsa.PublicKey
	key      *rsa.PrivateKey
	client   *http.Client
	mux      *http.ServeMux
	wake     chan struct{} // capacity 1

	mu     sync.Mutex // guards faults
	faults Faults
}

// NewSandbox builds the test provider on d's database, ids, clock and Config.Sandbox.
func NewSandbox(d Deps) (_ *Sandbox, err error) {
	defer levee.Wrap(&err, "payment.NewSandbox")
	cfg, err := d.Config.normal()
	if err != nil {
		return nil, err
	}
	keys, err := sandboxKeysOf(context.Background(), d, cfg.Sandbox.Dir)
	if err != nil {
		return nil, err
	}
	if d.Clock == nil {
		d.Clock = d.Obs.Clock
	}
	b := &Sandbox{
		db: d.DB, ids: d.IDs, clock: d.Clock, log: d.Obs.Named("payment.sandbox"), merchant: cfg.Sandbox.Merchant,
		theirs: &keys.merchant.PublicKey, key: keys.provider, mux: http.NewServeMux(), wake: make(chan struct{}, 1),
		client: &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	b.mux.HandleFunc("GET /pay", b.getPay)
	b.mux.HandleFunc("POST /pay", b.postPay)
	b.mux.HandleFunc("POST /query", b.postQuery)
	b.mux.HandleFunc("POST /refund", b.postRefund)
	return b, nil
}

// ServeHTTP answers payers and the merchant.
func (b *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.mux.ServeHTTP(w, r) }

// SetFaults changes what goes wrong from now on.
func (b *Sandbox) SetFaults(f Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
}

// fault reads the faults; spend may use some of them up.
func (b *Sandbox) fault(spend func(f *Faults)) Faults {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.faults
	if spend != nil {
		spend(&b.faults)
	}
	return now
}

// Run sends notifications and lets late payers pay until ctx ends.
func (b *Sandbox) Run(ctx context.Context) error {
	tick := time.NewTicker(sandboxTick)
	defer tick.Stop()
	for {
		if err := b.deliver(ctx); err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "the test provider could not look for its notifications", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-tick.C:
		}
	}
}

// sandboxCharge is a payment link that was signed by the merchant.
type sandboxCharge struct {
	payment, order, subject, notifyURL, returnURL string
	amount                                        levee.Money
	payBy                                         time.Time
}

// charge reads the payment link of a request.
func (b *Sandbox) charge(r *http.Request) (*sandboxCharge, error) {
	form, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, levee.E(levee.CodeMalformed, "the link is not readable").Because(err)
	}
	form.Del("lang") // chosen by the payer, after the merchant signed
	if err := verify(b.theirs, form); err != nil {
		return nil, err
	}
	if form.Get(fieldMethod) != methodPay || form.Get(fieldMerchant) != b.merchant {
		return nil, errSignature
	}
	c := &sandboxCharge{
		payment: form.Get(fieldPayment), order: form.Get(fieldOrder), subject: form.Get(fieldSubject), notifyURL: form.Get(fieldNotify),
		returnURL: form.Get(fieldReturn), amount: levee.Money{Currency: form.Get(fieldCurrency)},
	}
	if c.amount.Minor, err = readNumber(form, fieldAmount, maxMillis); err != nil {
		return nil, err
	}
	until, err := readNumber(form, fieldExpire, maxMillis)
	c.payBy = time.UnixMilli(until).UTC()
	return c, err
}

func (b *Sandbox) getPay(w http.ResponseWriter, r *http.Request) {
	c, err := b.charge(r)
	if err != nil {
		b.showPage(w, r, http.StatusForbidden, nil, sandboxTrade{}, false)
		return
	}
	t, err := sandboxTradeOf(db.Primary(r.Context()), b.db.Query, c.payment, "")
	if err != nil {
		b.broken(w, r, err)
		return
	}
	b.showPage(w, r, http.StatusOK, c, t, false)
}

// postPay carries out what the payer pressed. Pressing twice changes nothing.
func (b *Sandbox) postPay(w http.ResponseWriter, r *http.Request) {
	c, err := b.charge(r)
	if err != nil {
		b.showPage(w, r, http.StatusForbidden, nil, sandboxTrade{}, false)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	action := r.PostFormValue("action")
	t, err := b.press(r.Context(), c, action)
	switch {
	case levee.CodeOf(err) == levee.CodeInvalid:
		b.showPage(w, r, http.StatusUnprocessableEntity, c, t, false)
	case err != nil:
		b.broken(w, r, err)
	default:
		b.showPage(w, r, http.StatusOK, c, t, action == "late" && t.state == sandboxWaiting)
	}
}

// press is a payer's act: "pay", "fail" or "late".
func (b *Sandbox) press(ctx context.Context, c *sandboxCharge, action string) (t sandboxTrade, err error) {
	if action != "pay" && action != "fail" && action != "late" {
		return t, levee.Invalid("action", "pay, fail or late", action)
	}
	tradeID, err := b.ids.Next()
	if err != nil {
		return t, err
	}
	notifyID, err := b.ids.Next()
	if err != nil {
		return t, err
	}
	err = b.db.Tx(ctx, "payment.sandbox_pay", func(ctx context.Context, tx *db.Tx) (err error) {
		if t, err = sandboxTradeOf(ctx, tx.Query, c.payment, b.db.Dialect().ForUpdate()); err != nil {
			return err
		}
		if t.id == 0 {
			t = sandboxTrade{
				id: tradeID, payment: c.payment, order: c.order, notifyURL: c.notifyURL, amount: c.amount,
				state: sandboxWaiting, expireAt: c.payBy.UnixMicro(),
			}
			if err := insertSandboxTrade(ctx, tx, t); err != nil {
				return err
			}
		}
		now := b.clock()
		switch {
		case t.state != sandboxWaiting || !now.Before(c.payBy) && action == "pay":
			return nil
		case action == "late":
			payAt := c.payBy
			if now.After(payAt) {
				payAt = now
			}
			return laterSandboxTrade(ctx, tx, t.id, payAt.Add(sandboxLateBy))
		}
		to := sandboxPaid
		if action == "fail" {
			to = sandboxClosed
		}
		_, err = endSandboxTrade(ctx, tx, t.id, to, notifyID, now, now.Add(b.fault(nil).Delay))
		t.state = to
		tx.AfterCommit(b.nudge)
		return err
	})
	return t, err
}

func (b *Sandbox) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// question reads a signed request of the merchant; false: it was answered already.
func (b *Sandbox) question(w http.ResponseWriter, r *http.Request, method string) (url.Values, bool) {
	if b.fault(nil).Down {
		http.Error(w, "down for maintenance", http.StatusServiceUnavailable)
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		http.Error(w, "body not readable", http.StatusBadRequest)
		return nil, false
	}
	form, err := parseSigned(b.theirs, body)
	if err != nil || form.Get(fieldMethod) != method || form.Get(fieldMerchant) != b.merchant {
		http.Error(w, "signature missing or wrong", http.StatusForbidden)
		return nil, false
	}
	return form, true
}

func (b *Sandbox) postQuery(w http.ResponseWriter, r *http.Request) {
	form, ok := b.question(w, r, methodQuery)
	if !ok {
		return
	}
	t, err := sandboxTradeOf(db.Primary(r.Context()), b.db.Query, form.Get(fieldPayment), "")
	if err != nil {
		b.broken(w, r, err)
		return
	}
	answer := b.tell(t)
	answer.Set(fieldPayment, form.Get(fieldPayment))
	if request := form.Get(fieldRequest); request != "" {
		trade, _, found, err := sandboxRefundOf(db.Primary(r.Context()), b.db.Query, request)
		if err != nil {
			b.broken(w, r, err)
			return
		}
		answer.Set(fieldRefund, refundNotExist)
		if found && trade == t.id {
			answer.Set(fieldRefund, refundSuccess)
		}
	}
	b.answer(w, r, form, answer)
}

// tell is a trade in the fields of a form.
func (b *Sandbox) tell(t sandboxTrade) url.Values {
	if t.id == 0 {
		return url.Values{fieldStatus: {statusNotExist}}
	}
	form := url.Values{
		fieldPayment: {t.payment}, fieldOrder: {t.order}, fieldTrade: {decimal(t.id)},
		fieldAmount: {decimal(t.amount.Minor)}, fieldCurrency: {t.amount.Currency},
	}
	switch {
	case t.state == sandboxPaid:
		form.Set(fieldStatus, statusSuccess)
		form.Set(fieldPaidAt, millis(fromMicro(t.paidAt)))
	case t.state == sandboxClosed:
		form.Set(fieldStatus, statusFailed)
	case b.clock().UnixMicro() >= t.expireAt:
		form.Set(fieldStatus, statusClosed)
	default:
		form.Set(fieldStatus, statusWaiting)
	}
	return form
}

// postRefund gives money back, once per number.
func (b *Sandbox) postRefund(w http.ResponseWriter, r *http.Request) {
	form, ok := b.question(w, r, methodRefund)
	if !ok {
		return
	}
	status, err := b.refund(r.Context(), form)
	if err != nil {
		b.broken(w, r, err)
		return
	}
	b.answer(w, r, form, url.Values{fieldPayment: {form.Get(fieldPayment)}, fieldRefund: {status}})
}

func (b *Sandbox) refund(ctx context.Context, form url.Values) (status string, err error) {
	amount, err := readNumber(form, fieldAmount, maxMillis)
	if err != nil {
		return refundRejected, nil
	}
	number, err := b.ids.Next()
	if err != nil {
		return "", err
	}
	err = b.db.Tx(ctx, "payment.sandbox_refund", func(ctx context.Context, tx *db.Tx) error {
		status = refundRejected
		t, err := sandboxTradeOf(ctx, tx.Query, form.Get(fieldPayment), b.db.Dialect().ForUpdate())
		if err != nil || t.state != sandboxPaid || b.fault(nil).Refuse {
			return err
		}
		request := form.Get(fieldRequest)
		trade, before, found, err := sandboxRefundOf(ctx, tx.Query, request)
		if err != nil {
			return err
		}
		if found {
			if trade == t.id && before == amount {
				status = refundSuccess // told again
			}
			return nil
		}
		sum, err := sandboxRefunded(ctx, tx.Query, t.id)
		if err != nil || request == "" || amount == 0 || form.Get(fieldCurrency) != t.amount.Currency || amount > t.amount.Minor-sum {
			return err
		}
		status = refundSuccess
		return insertSandboxRefund(ctx, tx, number, request, t.id, amount, b.clock())
	})
	return status, err
}

// answer signs and sends what the merchant asked for, or cuts the line if it was told to.
func (b *Sandbox) answer(w http.ResponseWriter, r *http.Request, question, answer url.Values) {
	lost := b.fault(func(f *Faults) { f.LoseReplies = max(0, f.LoseReplies-1) }).LoseReplies > 0
	if lost {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			b.log.DebugContext(r.Context(), "the test provider cuts the line", "err", conn.Close())
			return
		}
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	answer.Set(fieldMethod, methodAnswer)
	answer.Set(fieldNonce, question.Get(fieldNonce))
	if err := sign(b.key, answer); err != nil {
		b.broken(w, r, err)
		return
	}
	w.Header().Set("Content-Type", formType)
	w.Header().Set("Cache-Control", "no-store")
	if _, err := io.WriteString(w, answer.Encode()); err != nil {
		b.log.DebugContext(r.Context(), "the merchant did not wait for the answer", "err", err)
	}
}

func (b *Sandbox) broken(w http.ResponseWriter, r *http.Request, err error) {
	b.log.ErrorContext(r.Context(), "the test provider failed", "path", r.URL.Path, "err", err)
	http.Error(w, "the test provider failed", http.StatusInternalServerError)
}

// deliver lets late payers pay and tells the merchant what is due.
func (b *Sandbox) deliver(ctx context.Context) error {
	late, err := lateSandboxTrades(db.Primary(ctx), b.db.Query, b.clock(), sandboxBatch)
	if err != nil {
		return err
	}
	for _, t := range late {
		notifyID, err := b.ids.Next()
		if err != nil {
			return err
		}
		err = b.db.Tx(ctx, "payment.sandbox_late", func(ctx context.Context, tx *db.Tx) error {
			now := b.clock()
			_, err := endSandboxTrade(ctx, tx, t.id, sandboxPaid, notifyID, now, now.Add(b.fault(nil).Delay))
			return err
		})
		if err != nil {
			return err
		}
	}
	due, err := untoldSandboxTrades(db.Primary(ctx), b.db.Query, b.clock(), sandboxBatch)
	if err != nil || len(due) == 0 {
		return err
	}
	var mine []sandboxTrade // those that no other node was faster with
	err = b.db.Tx(ctx, "payment.sandbox_tell", func(ctx context.Context, tx *db.Tx) error {
		mine = nil
		for _, t := range due {
			next := b.clock().Add(backoff(int(t.tries)+1, sandboxFirst, sandboxMost)).UnixMicro()
			if t.tries+1 >= sandboxTries {
				next = 0
			}
			first, err := tellSandboxTrade(ctx, tx, t, next)
			if err != nil {
				return err
			}
			if first {
				mine = append(mine, t)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	told := make([]bool, len(mine))
	var g errgroup.Group
	g.SetLimit(sandboxParallel)
	for i, t := range mine {
		f := b.fault(func(f *Faults) { f.Lose = max(0, f.Lose-1) })
		if f.Lose > 0 {
			continue
		}
		g.Go(func() error {
			told[i] = b.notify(ctx, t, 1+f.Duplicate)
			return nil
		})
	}
	return errors.Join(g.Wait(), b.db.Tx(ctx, "payment.sandbox_told", func(ctx context.Context, tx *db.Tx) error {
		for i, t := range mine {
			if told[i] {
				if err := toldSandboxTrade(ctx, tx, t); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// notify sends one notification, so many times at once, and reports whether the merchant took it.
func (b *Sandbox) notify(ctx context.Context, t sandboxTrade, times int) bool {
	body, err := b.notification(t)
	if err != nil {
		b.log.ErrorContext(ctx, "the test provider could not sign", "err", err)
		return false
	}
	taken := make([]bool, times)
	var g errgroup.Group
	for i := range times {
		g.Go(func() error {
			err := b.send(ctx, t.notifyURL, body)
			if taken[i] = err == nil; err != nil {
				b.log.InfoContext(ctx, "the merchant did not take a notification of the test provider, it is sent again", "err", err)
			}
			return nil
		})
	}
	if g.Wait() != nil {
		return false
	}
	for _, ok := range taken {
		if ok {
			return true
		}
	}
	return false
}

// notification is a trade as a signed body.
func (b *Sandbox) notification(t sandboxTrade) (string, error) {
	form := b.tell(t)
	form.Set(fieldMethod, methodNotify)
	form.Set(fieldMerchant, b.merchant)
	form.Set(fieldNotifyID, decimal(t.notifyID))
	form.Set(fieldTime, millis(b.clock()))
	err := sign(b.key, form)
	return form.Encode(), err
}

func (b *Sandbox) send(ctx context.Context, to, body string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", formType)
	response, err := b.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64))
	if err != nil {
		return err
	}
	if string(answer) != "success" || response.StatusCode != http.StatusOK {
		return levee.E(levee.CodeUnavailable, "status %d, answer %q", response.StatusCode, answer)
	}
	return nil
}
