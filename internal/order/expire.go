package order

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/schedule"
)

const (
	expireEvery   = time.Second
	expireBatch   = 200              // orders looked at per scan
	expireWorkers = 16               // providers asked and orders cancelled at the same time; their transactions share commits
	askTimeout    = 10 * time.Second // for one answer of the provider
	askAgain      = 30 * time.Second // pause after a provider could not answer, or a cancellation failed
)

// Work returns the room's timed work: the expiry of unpaid orders, once a second.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{
		schedule.Every("order.expire", expireEvery, job.Options{Pool: "order", Timeout: 2 * time.Minute}, func(ctx context.Context) error {
			_, err := s.ExpireDue(ctx)
			return err
		}).If(func(ctx context.Context) (bool, error) {
			due, err := dueOrders(db.Primary(ctx), s.db.Query, s.clock(), 1)
			return len(due) > 0, err
		}),
	}
}

// ExpireDue cancels the orders whose deadline has passed and returns how many. Each is asked about at the provider first; one
// that cannot be asked about is put off by half a minute, at most Config.Grace beyond its deadline. An order that is paid
// meanwhile is left alone. It ends when nothing is due; an error means that the database would not even put an order off.
func (s *Service) ExpireDue(ctx context.Context) (cancelled int, err error) {
	defer levee.Wrap(&err, "order.ExpireDue()")
	ctx = levee.WithActor(ctx, levee.System)
	for {
		now := s.clock()
		due, err := dueOrders(db.Primary(ctx), s.db.Query, now, expireBatch)
		if err != nil || len(due) == 0 {
			return cancelled, err
		}
		done := make([]bool, len(due))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(expireWorkers)
		for i, d := range due {
			g.Go(func() (err error) {
				done[i], err = s.expire(gctx, d, now)
				return err
			})
		}
		err = g.Wait()
		for _, d := range done {
			if d {
				cancelled++
			}
		}
		if err != nil || len(due) < expireBatch {
			return cancelled, err
		}
	}
}

// expire settles one overdue order and reports whether it was cancelled.
func (s *Service) expire(ctx context.Context, d dueOrder, now time.Time) (bool, error) {
	if paid, err := s.askProvider(ctx, d.id); err != nil {
		if last := d.payBy.Add(s.cfg.Grace); now.Before(last) {
			s.log.WarnContext(ctx, "an unpaid order is kept because the payment provider could not be asked", "order", int64(d.id), "err", err)
			s.metrics.postponed.Inc()
			return false, s.postpone(ctx, d, minTime(now.Add(askAgain), last))
		}
		s.log.ErrorContext(ctx, "an unpaid order is cancelled although the payment provider could not be asked", "order", int64(d.id), "err", err)
	} else if paid {
		// It has left StateCreated by now, and this changes nothing. If it has not, the scan must not find it again at once.
		return false, s.postpone(ctx, d, now.Add(askAgain))
	}
	var cancelled bool
	err := s.db.Tx(ctx, "order.expire", func(ctx context.Context, tx *db.Tx) error {
		cancelled = false
		o, err := s.lockTx(ctx, tx, d.id)
		if err != nil || o.State != StateCreated {
			return err
		}
		cancelled = true
		return s.cancelTx(ctx, tx, o, levee.System, "not paid in time")
	})
	switch {
	case err == nil:
		if cancelled {
			s.metrics.expired.Inc()
		}
		return cancelled, nil
	case ctx.Err() != nil:
		return false, err
	}
	// One order whose cancellation fails must not stop those behind it.
	s.log.ErrorContext(ctx, "an unpaid order could not be cancelled, it is tried again", "order", int64(d.id), "err", err)
	return false, s.postpone(ctx, d, now.Add(askAgain))
}

func (s *Service) askProvider(ctx context.Context, id levee.OrderID) (bool, error) {
	if s.ask == nil {
		return false, nil
	}
	ctx, stop := context.WithTimeout(ctx, askTimeout)
	defer stop()
	return s.ask(ctx, id)
}

// postpone moves the next look at an order to the given time. An order that is no longer waiting is left alone.
func (s *Service) postpone(ctx context.Context, d dueOrder, to time.Time) error {
	return s.db.Tx(ctx, "order.postpone", func(ctx context.Context, tx *db.Tx) error {
		return updateDue(ctx, tx, d, to)
	})
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
