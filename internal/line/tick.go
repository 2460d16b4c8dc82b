package line

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/schedule"
	"levee/internal/sale"
)

// Jobs returns the room's background work.
func (s *Service) Jobs() []job.Registration { return []job.Registration{s.follow} }

// Work returns the room's timed work: once a second every line that is alive is moved on. That decides draws whose time has
// come, ends lines with their sales, and is the net under sale.OnFree.
func (s *Service) Work() []schedule.Work {
	o := job.Options{Pool: "line", Timeout: 10 * time.Minute}
	return []schedule.Work{schedule.Every("line.tick", time.Second, o, s.Tick).If(func(ctx context.Context) (bool, error) {
		heads, err := s.alive(ctx)
		return len(heads) > 0, err
	})}
}

// Tick moves every line on. One that fails does not stop the others; it is tried again with the next tick.
func (s *Service) Tick(ctx context.Context) error {
	heads, err := s.alive(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if p := s.book.of(h.sale); p == nil || p.at() < h.seq {
			s.heard()
		}
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
	if !h.inOrder() {
		if h.drawn == 0 || s.Obs.Clock().Before(v.DrawAt) {
			return nil
		}
		return s.runDraw(ctx, h.sale)
	}
	if !h.waits || !gives(v, s.Obs.Clock()) {
		return nil
	}
	return s.giveRest(ctx, followArgs{h.sale})
}

// finish ends what still waits in the line of a sale that is over.
func (s *Service) finish(ctx context.Context, of levee.SaleID) error {
	for done := false; !done; {
		err := s.DB.Tx(ctx, "line.over", func(ctx context.Context, tx *db.Tx) error {
			h, found, err := s.headTx(ctx, tx, of)
			if done = err != nil || !found || h.state == headOver; done {
				return err
			}
			left, err := hopefulTx(ctx, tx, of, overAtOnce)
			if err != nil {
				return err
			}
			for i := range left {
				e := &left[i]
				was := e.State
				e.State = StateOver
				if err := s.toldTx(ctx, tx, &h, e, was); err != nil {
					return err
				}
			}
			if done = len(left) < overAtOnce; !done {
				return nil
			}
			tx.AfterCommit(func() {
				if p := s.book.of(of); p != nil {
					s.endLine(of, p)
				}
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
