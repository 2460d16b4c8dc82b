package payment

import (
	"context"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// gateway is one provider. Its methods talk to the outside: never call them within a transaction.
type gateway interface {
	// Name is the provider's name in paths and rows, at most 32 bytes.
	Name() string
	// Start returns where to send the payer. The same charge gives the same address.
	Start(ctx context.Context, c charge) (redirect string, err error)
	// ParseNotification checks that a notification's body is signed by the provider and meant for our merchant number, and reads
	// it. CodeForbidden when it is not, CodeMalformed when it cannot be read.
	ParseNotification(body []byte) (notice, error)
	// Query asks what became of a payment and, when refund is not "", of that refund. An error means: not known.
	Query(ctx context.Context, payment, refund string) (trade, refundStatus, error)
	// Refund tells the provider to give a payment's money back. The refund's number makes it happen once however often it is
	// told. An error means: not known whether it happened.
	Refund(ctx context.Context, r refundCall) (refundStatus, error)
}

// charge is what a payer is asked for.
type charge struct {
	payment, order       string // public ids
	subject              string
	amount               levee.Money
	at, payBy            time.Time
	notifyURL, returnURL string
}

type refundCall struct {
	payment, refund string
	amount          levee.Money
	reason          string
}

type tradeStatus uint8

const (
	tradeUnknown tradeStatus = iota // the provider has never seen it: the payer did not get that far
	tradeWaiting
	tradePaid
	tradeFailed
	tradeClosed // unpaid and over, or paid and given back
)

// trade is a payment as its provider sees it.
type trade struct {
	status         tradeStatus
	payment, order string
	ref            string // the provider's number
	amount         levee.Money
	at             time.Time
}

// notice is one verified notification.
type notice struct {
	id string
	trade
}

type refundStatus uint8

const (
	refundUnknown refundStatus = iota // the provider has never seen it
	refundDone
	refundRefused // for good
)

// providerFree is the provider of orders that cost nothing. It is never offered and never called from outside.
const providerFree = "free"

type free struct{}

func (free) Name() string                                  { return providerFree }
func (free) Start(context.Context, charge) (string, error) { return "", nil }
func (free) ParseNotification([]byte) (notice, error) {
	return notice{}, levee.E(levee.CodeForbidden, "this provider notifies nobody")
}
func (free) Query(context.Context, string, string) (trade, refundStatus, error) {
	return trade{}, refundUnknown, nil
}
func (free) Refund(context.Context, refundCall) (refundStatus, error) { return refundDone, nil }

const (
	guardFailures = 5                // calls that fail one after the other before the provider counts as away
	guardPause    = 10 * time.Second // then nobody waits for it; after the pause one call tries again
)

// guard keeps hundreds of expiries from each waiting for a provider that is away.
type guard struct {
	gateway
	clock obs.Clock

	mu      sync.Mutex // guards what follows
	failed  int
	retryAt time.Time
}

func (g *guard) call(fn func() error) error {
	g.mu.Lock()
	if now := g.clock(); g.failed >= guardFailures {
		if now.Before(g.retryAt) {
			left := g.retryAt.Sub(now)
			g.mu.Unlock()
			return levee.E(levee.CodeUnavailable, "the payment provider does not answer").After(left)
		}
		g.retryAt = now.Add(guardPause) // this call tries, the others go on failing fast
	}
	g.mu.Unlock()
	err := fn()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.failed = 0
		return nil
	}
	if g.failed++; g.failed >= guardFailures {
		g.retryAt = g.clock().Add(guardPause)
	}
	return err
}
