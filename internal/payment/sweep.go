package payment

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/schedule"
)

const (
	sweepEvery   = time.Second
	sweepBatch   = 100
	sweepWorkers = 8
	callTimeout  = 10 * time.Second // of all that is asked and booked about one attempt or refund
)

// Work returns the room's timed work: asking about attempts of which nothing was heard, and refunds.
func (s *Service) Work() []schedule.Work {
	// A pool of their own: a provider that answers slowly must not hold up everybody else's jobs.
	o := job.Options{Pool: "payment", Timeout: 2 * time.Minute}
	return []schedule.Work{
		schedule.Every("payment.ask", sweepEvery, o, s.AskDue).If(func(ctx context.Context) (bool, error) {
			due, err := dueAttempts(db.Primary(ctx), s.db.Query, s.clock(), 1)
			return len(due) > 0, err
		}),
		schedule.Every("payment.refund", sweepEvery, o, s.RefundDue).If(func(ctx context.Context) (bool, error) {
			due, err := dueRefunds(db.Primary(ctx), s.db.Query, s.clock(), 1)
			return len(due) > 0, err
		}),
	}
}

// AskDue asks the providers about started attempts of which nothing was heard. An attempt whose provider cannot be asked is
// asked about again later, for as long as it takes.
func (s *Service) AskDue(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "payment.AskDue()")
	return sweep(ctx, func() ([]Attempt, error) { return dueAttempts(db.Primary(ctx), s.db.Query, s.clock(), sweepBatch) }, s.askOne)
}

func (s *Service) askOne(ctx context.Context, a Attempt) error {
	var claimed bool
	err := s.db.Tx(ctx, "payment.ask_claim", func(ctx context.Context, tx *db.Tx) (err error) {
		claimed, err = claimAttempt(ctx, tx, a, s.clock().Add(backoff(a.asked+1, firstAsk, mostAsk)))
		return err
	})
	if err != nil || !claimed {
		return err
	}
	if _, err := s.askAbout(ctx, a); err != nil {
		s.log.WarnContext(ctx, "a payment provider could not be asked, it is asked again", "payment", int64(a.ID), "times", a.asked+1, "err", err)
	}
	return nil
}

// RefundDue tries the refunds that are due.
func (s *Service) RefundDue(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "payment.RefundDue()")
	return sweep(ctx, func() ([]Refund, error) { return dueRefunds(db.Primary(ctx), s.db.Query, s.clock(), sweepBatch) }, s.tryRefund)
}

// sweep runs do for each thing that is due, until nothing is. One that fails stops none of the others, but the sweep ends with
// its batch: what do could not put off would be found again at once.
func sweep[T any](ctx context.Context, due func() ([]T, error), do func(context.Context, T) error) error {
	ctx = levee.WithActor(ctx, levee.System)
	for {
		list, err := due()
		if err != nil || len(list) == 0 {
			return err
		}
		failed := make([]error, len(list))
		var g errgroup.Group
		g.SetLimit(sweepWorkers)
		for i, one := range list {
			g.Go(func() error {
				ctx, stop := context.WithTimeout(ctx, callTimeout)
				defer stop()
				failed[i] = do(ctx, one)
				return nil
			})
		}
		if err := errors.Join(append(failed, g.Wait())...); err != nil || len(list) < sweepBatch {
			return err
		}
	}
}
