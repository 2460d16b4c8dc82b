package phone

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// sender hands messages to who delivers them. It talks to the outside: never call it within a transaction.
type sender interface {
	// Send gives a code's message to the provider, once. A *refusal says what became of it; after any other error nobody knows.
	Send(ctx context.Context, phone string, code obs.Secret) error
}

// refusal is a provider's word that it did not take a message, or the certainty that none reached it.
type refusal struct {
	// kind is one of the results in the metrics: number (it cannot get messages), limited (the provider's own limits for it) or refused.
	kind string
	// again: the same message may be taken later.
	again bool
	// said is what the provider called it and in which of its requests. It holds no number and no code.
	said string
}

// Error says what the provider called it.
func (r *refusal) Error() string { return "the SMS provider did not take the message: " + r.said }

// console is the sender of development.
type console struct{ log *slog.Logger }

// Send writes the code into the log, within the text: as a value the log would hide it.
func (c console) Send(ctx context.Context, phone string, code obs.Secret) error {
	c.log.WarnContext(ctx, fmt.Sprintf("SMS of development to %s: the code is %s", handle.Mask(phone), code.Reveal()))
	return nil
}

// message is what the job that sends a code knows of it. The rest is read when it is sent, so that queues and their history hold no number.
type message struct {
	Request string `json:"request"`
}

// sendBefore is how long a code must be good for when it is sent: a message takes some seconds, and its reader types.
const sendBefore = time.Minute

// pause is how long a message waits that the provider did not take.
func pause(attempt int) time.Duration { return min(time.Second<<min(attempt-1, 10), 30*time.Second) }

// deliver sends a code's message while the code is good and nobody has replaced it. It is given to the provider at most once: what it may have taken,
// because its answer was lost or this process died, is not sent again. Who gets none asks for another code.
func (s *Service) deliver(ctx context.Context, m message) (err error) {
	defer levee.Wrap(&err, "phone.deliver")
	if s.sender == nil {
		return nil // the configuration has changed since
	}
	var c record
	var found, waiting bool
	err = s.DB.Tx(ctx, "phone.give", func(ctx context.Context, tx *db.Tx) (err error) {
		c, found, waiting, err = takeMessage(ctx, tx, s.DB.Dialect(), m.Request)
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case !found:
		return nil
	case !waiting:
		return s.sent(ctx, c, "unclear", nil)
	case s.Obs.Clock().After(c.expires.Add(-sendBefore)):
		return s.sent(ctx, c, "late", nil)
	}
	sealed, err := base64.RawStdEncoding.DecodeString(c.sealed)
	if err == nil {
		sealed, err = s.seal.Open(nil, nil, sealed, []byte(c.request))
	}
	if err != nil { // the house has another secret since
		return s.sent(ctx, c, "refused", nil)
	}
	switch err := s.sender.Send(ctx, c.phone, obs.Secret(sealed)).(type) {
	case nil:
		return s.sent(ctx, c, "ok", nil)
	case *refusal:
		if !err.again {
			return s.sent(ctx, c, err.kind, err)
		}
		s.metrics.messages.WithLabelValues("again").Inc()
		back := s.DB.Tx(context.WithoutCancel(ctx), "phone.put_back", func(ctx context.Context, tx *db.Tx) error {
			return putMessageBack(ctx, tx, c.request)
		})
		if back != nil {
			return back
		}
		return err
	default:
		return s.sent(ctx, c, "unclear", err)
	}
}

// sent notes what became of a message for good.
func (s *Service) sent(ctx context.Context, c record, result string, why error) error {
	s.metrics.messages.WithLabelValues(result).Inc()
	if result != "ok" {
		s.log.WarnContext(ctx, "a code by SMS did not go out, or nobody knows", "result", result, "phone", handle.Mask(c.phone), "error", why)
	}
	return s.DB.Tx(context.WithoutCancel(ctx), "phone.sent", func(ctx context.Context, tx *db.Tx) error { return eraseMessage(ctx, tx, c.request) })
}
