package line

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/sale"
)

// Jobs returns the room's timed work: once a second every line that is alive is moved on. That decides draws whose time has
// come, ends lines with their sales, and is the net under sale.OnFree.
func (s *Service) Jobs() []job.Registration {
	return []job.Registration{
		s.follow,
		job.Every("line.tick", time.Second, job.Options{Pool: "line", Timeout: 10 * time.Minute}, s.Tick),
	}
}

// Tick moves every line on. One that fails does not stop the others; it is tried again with the next tick.
func (s *Service) Tick(ctx context.Context) error {
	heads, err := s.alive(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if err := s.advance(ctx, h); err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.log.Error("a line could not be moved on; it is tried again", "sale", s.saleRef(h.sale), "err", err)
		}
	}
	return nil
}

func (s *Service) advance(ctx context.Context, h head) error {
	v, err := s.Sales.ByID(ctx, h.sale)
	if err != nil {
		return err
	}
	if v.State == sale.StateEnded {
		return s.finish(ctx, h.sale)
	}
	if h.draw {
		d, found, err := drawOf(ctx, s.DB, h.sale)
		if err != nil || !found {
			return err
		}
		if d.state != drawDone {
			if s.Obs.Clock().Before(v.DrawAt) {
				return nil
			}
			return s.runDraw(ctx, h.sale)
		}
	}
	if p := s.book.of(h.sale); !gives(v, s.Obs.Clock()) || p != nil && p.counts().Waiting == 0 {
		return nil
	}
	return s.giveRest(ctx, followArgs{h.sale})
}

// finish ends what still waits in the line of a sale that is over.
func (s *Service) finish(ctx context.Context, of levee.SaleID) error {
	for done := false; !done; {
		err := s.DB.Tx(ctx, "line.over", func(ctx context.Context, tx *db.Tx) error {
			left, err := hopefulTx(ctx, tx, of, overAtOnce)
			if err != nil {
				return err
			}
			for i := range left {
				e := &left[i]
				was := e.State
				e.State = StateOver
				if err := s.toldTx(ctx, tx, e, was); err != nil {
					return err
				}
			}
			if done = len(left) < overAtOnce; !done {
				return nil
			}
			tx.AfterCommit(func() {
				s.announce(of)
				s.book.set(of, nil)
			})
			return s.endHeadTx(ctx, tx, of)
		})
		if err != nil {
			return err
		}
		if err := s.step("finish.batch"); err != nil {
			return err
		}
	}
	s.log.Info("a line is over with its sale", "sale", s.saleRef(of))
	return nil
}

// Run publishes the counts of the lines that changed, at most once a second each, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for of, p := range s.book.all() {
				if c, changed := p.takeChanged(); changed {
					s.publish(of, c)
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// announce tells the pages of a sale at once how its line is now: its draw is decided, or it is over.
func (s *Service) announce(of levee.SaleID) {
	if p := s.book.of(of); p != nil {
		c, _ := p.takeChanged()
		s.publish(of, c)
	}
}
