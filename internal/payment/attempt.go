package payment

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/web"
)

const (
	maxAttempts = 20               // of one order: who needs more is playing
	firstAsk    = 30 * time.Second // after the start; a notification is faster when all is well
	mostAsk     = 10 * time.Minute // between two questions about one attempt
	closeAfter  = time.Hour        // past the deadline an attempt that the provider still calls unpaid is closed
)

// Start begins to pay an order and returns the attempt and where to send the payer; an order that costs nothing is paid at
// once, and there is nowhere to send him. A started attempt at the same provider is used again. For the order's buyer: it does
// not exist for others (CodeNotFound). CodeAlreadyPaid, CodePaymentDeadlineOver or CodeConflict when the order does not wait
// for money; CodeInvalid for a provider that is not offered; CodeForbidden for a buyer of a rehearsal. The same key answers
// with the first attempt again.
func (s *Service) Start(ctx context.Context, actor levee.Actor, id levee.OrderID, provider, key string) (
	_ Attempt, redirect string, err error) {
	defer levee.Wrap(&err, "payment.Start(%d)", id)
	request := struct {
		Order    levee.OrderID
		Provider string
	}{id, provider}
	// Read before the transaction, as a hint: in it, it would lock the end of the index into which every new payment goes.
	known, err := attemptsOf(db.Primary(ctx), s.db.Query, id)
	if err != nil {
		return Attempt{}, "", err
	}
	a, err := web.Once(levee.WithActor(ctx, actor), s.db, "payment.start", key, request, func(ctx context.Context, tx *db.Tx) (*Attempt, error) {
		return s.startTx(ctx, tx, actor, id, provider, known)
	})
	if err != nil {
		return Attempt{}, "", err
	}
	redirect, err = s.redirect(ctx, actor, *a)
	return *a, redirect, err
}

// redirect is where the payer of a started attempt goes, the same address each time; "" when he has no business there any more.
func (s *Service) redirect(ctx context.Context, actor levee.Actor, a Attempt) (string, error) {
	g := s.gateways[a.Provider]
	if g == nil || a.State != StateStarted {
		return "", nil
	}
	o, err := s.orders.ByID(ctx, actor, a.Order)
	if err != nil {
		return "", err
	}
	return g.Start(ctx, s.charge(a, o))
}

// sourceRehearsal is the source of orders that were bought in a rehearsal.
const sourceRehearsal = "rehearsal"

var errRehearsal = levee.E(levee.CodeForbidden, "orders of a rehearsal are paid at the test provider only, where no money moves")

// startTx is Start in a transaction. known are the order's attempts as they were a moment ago.
func (s *Service) startTx(ctx context.Context, tx *db.Tx, actor levee.Actor, id levee.OrderID, provider string, known []Attempt) (*Attempt, error) {
	switch {
	case !actor.SignedIn():
		return nil, levee.E(levee.CodeUnauthenticated, "sign in to pay")
	case actor.Rehearsal && provider != providerSandbox:
		return nil, errRehearsal
	case s.gateways[provider] == nil || provider == providerFree:
		return nil, levee.Invalid("body.provider", "one of "+strings.Join(s.Providers(), ", "), provider)
	}
	if err := s.orders.LockTx(ctx, tx, id); err != nil {
		return nil, err
	}
	o, err := s.orders.ByIDTx(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	now := s.clock()
	switch {
	case o.Buyer != actor.User:
		return nil, levee.E(levee.CodeNotFound, "there is no such order")
	case o.Source == sourceRehearsal && provider != providerSandbox: // an operator's, who took part by hand
		return nil, errRehearsal
	case o.State == order.StateCancelled:
		return nil, levee.E(levee.CodePaymentDeadlineOver, "the order is cancelled, it cannot be paid any more").With("state", o.State.String())
	case o.State != order.StateCreated:
		return nil, levee.E(levee.CodeAlreadyPaid, "the order is %s, it needs no payment", o.State).With("state", o.State.String())
	case !now.Before(o.PayBy):
		return nil, levee.E(levee.CodePaymentDeadlineOver, "the order had to be paid by %s", o.PayBy.Format(time.RFC3339))
	}
	a, fresh, err := s.attemptTx(ctx, tx, o, provider, known, now)
	if db.IsUnique(err) { // one was started since known was read; none can be while the order is locked
		if known, err = attemptsOf(ctx, tx.Query, id); err == nil {
			a, fresh, err = s.attemptTx(ctx, tx, o, provider, known, now)
		}
	}
	switch {
	case db.IsUnique(err):
		return nil, levee.E(levee.CodeUnavailable, "another payment of this order was started in the same moment").After(time.Second).Because(err)
	case err != nil:
		return nil, err
	case fresh && a.Provider == providerFree:
		return &a, s.receiveTx(ctx, tx, &a, trade{status: tradePaid, amount: a.Amount, at: a.CreatedAt})
	}
	return &a, nil
}

// attemptTx returns the started attempt at a provider among the known ones, or writes a new one. The unique index refuses the new
// one's number where an attempt is not among those known.
func (s *Service) attemptTx(ctx context.Context, tx *db.Tx, o order.Order, provider string, known []Attempt, now time.Time) (a Attempt, fresh bool, err error) {
	for _, k := range known {
		if k.State != StateStarted || k.Provider != provider {
			continue
		}
		if a, err = s.lockTx(ctx, tx, k.ID); err != nil || a.State == StateStarted { // it may have ended since
			return a, false, err
		}
	}
	if len(known) >= maxAttempts {
		return a, false, levee.E(levee.CodeLimitReached, "the order was tried to be paid %d times", len(known))
	}
	number, err := s.ids.Next()
	if err != nil {
		return a, false, err
	}
	at := fromMicro(now.UnixMicro())
	a = Attempt{
		ID: levee.PaymentID(number), Order: o.ID, Number: len(known) + 1, Buyer: o.Buyer, Provider: provider, State: StateStarted, Amount: o.Total,
		PayBy: o.PayBy, CreatedAt: at, UpdatedAt: at, askAt: now.Add(firstAsk).UnixMicro(),
	}
	if o.Total.Minor == 0 {
		a.Provider = providerFree
	}
	return a, true, insertAttempt(ctx, tx, a)
}

func (s *Service) charge(a Attempt, o order.Order) charge {
	subject := o.Lines[0].Title
	if len(o.Lines) > 1 {
		subject += " …"
	}
	public := s.sealer.Seal(levee.KindOrder, int64(o.ID))
	return charge{
		payment: s.sealer.Seal(levee.KindPayment, int64(a.ID)), order: public, subject: subject, amount: a.Amount, at: a.CreatedAt, payBy: a.PayBy,
		notifyURL: s.cfg.PublicURL + "/v1/payment-notifications/" + url.PathEscape(a.Provider),
		returnURL: s.cfg.PublicURL + strings.ReplaceAll(s.cfg.ReturnPath, "{order}", public),
	}
}

// Notify takes a provider's notification. No error means: answer the provider that it need not be sent again. CodeNotFound for
// an unknown provider or payment, CodeForbidden for a bad signature or a foreign merchant, CodeMalformed for a body that cannot
// be read, CodeInvalid for one that does not agree with our books; in all of these nothing was changed.
func (s *Service) Notify(ctx context.Context, provider string, body []byte) (err error) {
	defer levee.Wrap(&err, "payment.Notify(%s)", provider)
	g := s.gateways[provider]
	if g == nil || provider == providerFree {
		return levee.E(levee.CodeNotFound, "there is no such payment provider")
	}
	result := "failed"
	defer func() {
		if code := levee.CodeOf(err); code != "" && code != levee.CodeInternal && code != levee.CodeUnavailable {
			result = "refused"
		}
		s.metrics.notifications.WithLabelValues(provider, result).Inc()
	}()
	n, err := g.ParseNotification(body)
	if err != nil {
		return err
	}
	id, err := s.sealer.Open(levee.KindPayment, n.payment)
	if err != nil {
		return notFound()
	}
	number, err := s.ids.Next()
	if err != nil {
		return err
	}
	var fresh bool
	err = s.db.Tx(levee.WithActor(ctx, levee.System), "payment.notify", func(ctx context.Context, tx *db.Tx) error {
		// The order is locked before its payments, here as everywhere. That it is this payment's order is looked at below.
		if o, err := s.sealer.Open(levee.KindOrder, n.order); err == nil {
			if err := s.orders.LockTx(ctx, tx, levee.OrderID(o)); err != nil {
				return err
			}
		}
		a, err := s.lockTx(ctx, tx, levee.PaymentID(id))
		if err != nil {
			return err
		}
		if err := s.agrees(a, provider, n.trade); err != nil {
			return err
		}
		fresh, err = insertNotification(ctx, tx, s.db.Dialect(), number, provider, n, a.ID, s.clock())
		if err != nil || !fresh {
			return err
		}
		if err := s.fault("notify.after_mark"); err != nil {
			return err
		}
		return s.applyTx(ctx, tx, &a, n.trade)
	})
	switch {
	case err != nil:
		if levee.CodeOf(err) == levee.CodeInvalid {
			s.log.ErrorContext(ctx, "a signed notification does not agree with our books", "payment", id, "provider", provider, "err", err)
		}
	case fresh:
		result = "handled"
	default:
		result = "repeated"
	}
	return err
}

func (s *Service) lockTx(ctx context.Context, tx *db.Tx, id levee.PaymentID) (Attempt, error) {
	return loadAttempt(ctx, tx.Query, id, s.db.Dialect().ForUpdate())
}

// agrees compares what the provider says about a payment with our own row: a signature proves who speaks, not what was paid.
func (s *Service) agrees(a Attempt, provider string, t trade) error {
	public := s.sealer.Seal(levee.KindPayment, int64(a.ID))
	switch {
	case a.Provider != provider:
		return levee.Invalid("provider", a.Provider, provider)
	case t.payment != public:
		return levee.Invalid("payment", public, t.payment)
	case t.order != s.sealer.Seal(levee.KindOrder, int64(a.Order)):
		return levee.Invalid("order", "the order of this payment", t.order)
	case t.amount.Currency != a.Amount.Currency:
		return levee.Invalid("currency", a.Amount.Currency, t.amount.Currency)
	case t.amount.Minor != a.Amount.Minor:
		return levee.Invalid("amount", "the amount of this payment", t.amount.Minor)
	}
	return nil
}

// applyTx brings an attempt to what its provider says about it. It may be told the same any number of times, in any order.
func (s *Service) applyTx(ctx context.Context, tx *db.Tx, a *Attempt, t trade) error {
	now := s.clock()
	switch t.status {
	case tradePaid:
		if a.State == StateStarted || a.State == StateFailed || a.State == StateClosed {
			return s.receiveTx(ctx, tx, a, t)
		}
	case tradeFailed, tradeClosed:
		to := StateFailed
		if t.status == tradeClosed {
			to = StateClosed
		}
		if a.State == StateStarted { // a paid one is called closed once it was given back
			_, err := moveAttempt(ctx, tx, a, to, now)
			return err
		}
	}
	return nil
}

var errMoved = levee.E(levee.CodeConflict, "the payment was changed by somebody else in the same moment")

// receiveTx books money that came and lets the order say what it does. What it does not pay goes back from here.
func (s *Service) receiveTx(ctx context.Context, tx *db.Tx, a *Attempt, t trade) error {
	if t.ref != "" {
		a.ProviderRef = t.ref
	}
	moved, err := moveAttempt(ctx, tx, a, StatePaid, s.clock())
	if err == nil && !moved {
		err = errMoved
	}
	if err != nil {
		return err
	}
	if err := s.fault("receive.after_attempt"); err != nil {
		return err
	}
	outcome, err := s.orders.MarkPaidTx(ctx, tx, a.Order, order.PaidBy{Payment: a.ID, At: t.at})
	if err != nil {
		return err
	}
	if err := s.fault("receive.after_order"); err != nil {
		return err
	}
	switch outcome {
	case order.OutcomePaid, order.OutcomeRevived:
		a.PaidOrder = true
		err = markPaidOrder(ctx, tx, a.ID)
	case order.OutcomeAlreadyPaid:
		err = s.returnTx(ctx, tx, a, levee.System, "the order was paid twice", false)
	case order.OutcomeTooLate:
		err = s.returnTx(ctx, tx, a, levee.System, "the money came after the order was cancelled", false)
	default:
		err = errors.New("order gave no outcome for a payment")
	}
	if err != nil {
		return err
	}
	if err := s.fault("receive.after_outcome"); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.metrics.received.WithLabelValues(a.Provider, outcome.String()).Inc() })
	return s.events.Emit(ctx, tx, Received{
		Payment: a.ID, Order: a.Order, Buyer: a.Buyer, Amount: a.Amount, Outcome: outcome.String(), At: t.at.UTC(),
	})
}

// ask is order's question before an unpaid order is cancelled: has it been paid after all? What the provider says is booked
// before it answers. An error means that nobody knows.
func (s *Service) ask(ctx context.Context, id levee.OrderID) (paid bool, err error) {
	defer levee.Wrap(&err, "payment.ask(%d)", id)
	attempts, err := attemptsOf(db.Primary(ctx), s.db.Query, id)
	if err != nil {
		return false, err
	}
	var unknown error
	for _, a := range attempts {
		if a.State != StateStarted {
			continue
		}
		t, err := s.askAbout(ctx, a)
		unknown = errors.Join(unknown, err)
		if err == nil && t.status == tradePaid {
			paid = true
		}
	}
	if paid {
		return true, nil // whatever else is unknown is found out by AskDue
	}
	return false, unknown
}

// askAbout asks the provider about a started attempt and books the answer.
func (s *Service) askAbout(ctx context.Context, a Attempt) (trade, error) {
	t, _, err := s.query(ctx, a, "")
	if err != nil {
		return t, err
	}
	now := s.clock()
	if (t.status == tradeUnknown || t.status == tradeWaiting) && now.After(a.PayBy.Add(closeAfter)) {
		t.status = tradeClosed
	}
	if t.status == tradeUnknown || t.status == tradeWaiting {
		return t, nil
	}
	if err := s.fault("ask.after_answer"); err != nil {
		return t, err
	}
	return t, s.db.Tx(levee.WithActor(ctx, levee.System), "payment.asked", func(ctx context.Context, tx *db.Tx) error {
		if err := s.orders.LockTx(ctx, tx, a.Order); err != nil {
			return err
		}
		a, err := s.lockTx(ctx, tx, a.ID)
		if err != nil {
			return err
		}
		return s.applyTx(ctx, tx, &a, t)
	})
}

// query asks the provider about an attempt, and refuses an answer that does not agree with our books.
func (s *Service) query(ctx context.Context, a Attempt, refund string) (t trade, r refundStatus, err error) {
	g := s.gateways[a.Provider]
	if g == nil {
		return t, r, levee.E(levee.CodeUnavailable, "the payment provider %q is not set up any more", a.Provider)
	}
	err = s.called(g, "query", func() (err error) {
		t, r, err = g.Query(ctx, s.sealer.Seal(levee.KindPayment, int64(a.ID)), refund)
		return err
	})
	if err == nil && t.status != tradeUnknown {
		if err = s.agrees(a, a.Provider, t); err != nil {
			s.log.ErrorContext(ctx, "a provider's signed answer does not agree with our books", "payment", int64(a.ID), "err", err)
		}
	}
	return t, r, err
}

// called makes one call to a provider, unless the provider is known to be away.
func (s *Service) called(g *guard, call string, fn func() error) error {
	return g.call(func() error {
		began := s.clock()
		err := fn()
		result := "ok"
		if err != nil {
			result = "error"
		}
		s.metrics.calls.WithLabelValues(g.Name(), call, result).Observe(s.clock().Sub(began).Seconds())
		return err
	})
}
