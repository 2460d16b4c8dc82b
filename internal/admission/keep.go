package admission

import (
	"context"
	"time"
)

const (
	// saveEvery is how far behind the kept state may be.
	saveEvery = time.Second
	// aheadLeast and aheadMost bound how far the horizon is moved at once.
	aheadLeast, aheadMost = 1 << 12, 1 << 16
	// shownAfter is how long the places of a sale that is over stay in memory, for the numbers that operators see.
	shownAfter = 10 * time.Minute
	// keptAfter is how long the rows of a sale that is over are kept, should nobody have forgotten it.
	keptAfter = 24 * time.Hour
	// pruneEvery is how often such rows are looked for, and restEvery how often a keeper at rest looks for sales that are over.
	pruneEvery, restEvery = time.Hour, time.Minute
)

// keepLoop reads, draws and writes: all that touches the disk, so that nobody who waits in line waits for it.
func (s *Service) keepLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for saved, pruned := s.now()-time.Hour, s.now()-pruneEvery; ; {
		if s.now()-pruned >= pruneEvery {
			pruned = s.now()
			if err := s.prune(ctx); err != nil {
				s.failed(ctx, "waiting rooms of sales that are over could not be deleted", err)
			}
		}
		full := s.now()-saved >= saveEvery
		if full {
			saved = s.now()
		}
		s.resting.Store(true) // whatever changes from here on wakes us
		s.mu.Lock()
		gone := s.gone
		s.gone = nil
		s.mu.Unlock()
		for i, sale := range gone {
			if err := s.deleteRoom(ctx, sale); err != nil {
				s.mu.Lock()
				s.gone = append(s.gone, gone[i:]...)
				s.mu.Unlock()
				s.failed(ctx, "the places of a sale that is over could not be deleted; it is tried again", err)
				break
			}
		}
		some := len(gone) > 0
		for _, r := range *s.rooms.Load() {
			some = s.keep(ctx, r, full) || some
		}
		if some {
			s.resting.Store(false)
			timer.Reset(saveEvery)
		} else {
			timer.Reset(restEvery) // or until somebody comes
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wakeKeeper:
		}
	}
}

func (s *Service) failed(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		s.metrics.failures.Inc()
		s.log.Error(what, "err", err)
	}
}

// keep does what one room needs of the disk; full: also what can wait for a second. It reports whether to look again by itself.
func (s *Service) keep(ctx context.Context, r *room, full bool) bool {
	w := r.window.Load()
	r.mu.Lock()
	loaded, drawing := r.q != nil, r.toDraw
	r.mu.Unlock()
	if since := s.Obs.Clock().Sub(w.Ends); since >= 0 && !loaded {
		return false
	} else if since >= shownAfter {
		if err := s.save(ctx, r, w, 0); err != nil {
			s.failed(ctx, "a waiting room could not be saved; it is tried again", err)
			return true
		}
		r.mu.Lock()
		r.q, r.toDraw = nil, nil
		r.mu.Unlock()
		return false
	}
	if !loaded {
		if !w.Policy.Room || w.Draw {
			return false
		}
		if err := s.load(ctx, r, w); err != nil {
			s.failed(ctx, "a waiting room could not be loaded; it is tried again", err)
			return true
		}
	}
	if drawing != nil {
		if err := s.draw(ctx, r, w, drawing); err != nil {
			s.failed(ctx, "the lots of a waiting room could not be drawn; it is tried again", err)
		}
		return true
	}
	r.mu.Lock()
	now := s.now()
	to, move := r.q.reach(r.ahead)
	if move {
		if now-r.moved < time.Second {
			r.ahead = min(2*r.ahead, aheadMost)
		} else if now-r.moved > 10*time.Second {
			r.ahead = max(r.ahead/2, aheadLeast)
		}
		r.moved = now
		to, _ = r.q.reach(r.ahead)
	} else {
		to = r.q.horizon
	}
	again := r.q.size() > 0 || r.q.held > 0 || len(r.q.done.dirty) > 0 || s.rowOf(r.q, w, to) != r.written
	r.mu.Unlock()
	if move || full {
		if err := s.save(ctx, r, w, to); err != nil {
			s.failed(ctx, "a waiting room could not be saved; it is tried again", err)
			return true
		}
	}
	return again
}

// load brings a room to where the life before stood, or opens a new one.
func (s *Service) load(ctx context.Context, r *room, w *Window) error {
	m, old, err := s.remembered(ctx, w.Sale, s.Obs.Clock())
	if err != nil {
		return err
	}
	q := newQueue(queueTerms{turnFor: s.Config.TurnFor, tokenFor: s.Config.AdmissionFor, keepFor: s.Config.KeepFor,
		gatherFor: s.Config.GatherFor, placesMax: s.Config.PlacesMax}, w.Policy.Order)
	now := s.now()
	if old {
		if m.given <= 1 && m.served == 0 && m.drawn < 0 {
			m.order = w.Policy.Order // nobody had a number yet
		}
		q.recall(m, now)
		s.log.Info("a waiting room is open again", "sale", w.Public, "expected", q.ghosts, "served", q.served, "tokens", q.phantoms)
	}
	q.paced = now
	// The horizon is on disk before the first number is given.
	to, _ := q.reach(aheadLeast)
	row := s.rowOf(q, w, to)
	if err := s.saveRow(ctx, w.Sale, row, nil); err != nil {
		return err
	}
	q.horizon = to
	r.mu.Lock()
	r.q, r.written = q, row
	r.mu.Unlock()
	wake(s.wakePacer)
	return nil
}

// rowOf is what stands in SQL of a queue, whose lock is held.
func (s *Service) rowOf(q *queue, w *Window, horizon uint32) savedRow {
	row := savedRow{order: q.order, horizon: max(horizon, q.horizon), given: q.next, served: q.served, tokens: q.tokens + q.phantoms,
		drawn: int64(q.drawn), ends: w.Ends.UnixMicro()}
	if row.tokens > 0 {
		row.tokensUntil = int64(q.latest) * 1_000_000
	}
	return row
}

// save writes a room's state with a horizon, which holds from then on. It writes nothing when nothing has changed.
func (s *Service) save(ctx context.Context, r *room, w *Window, horizon uint32) error {
	r.mu.Lock()
	q := r.q
	row := s.rowOf(q, w, horizon)
	same := row == r.written && len(q.done.dirty) == 0
	var blocks map[uint32][]uint64
	if !same {
		blocks = make(map[uint32][]uint64, len(q.done.dirty))
		const words = doneBlock / 64
		for b := range q.done.dirty {
			blocks[b] = append([]uint64(nil), q.done.words[b*words:(b+1)*words]...)
		}
		q.done.dirty = nil
	}
	r.mu.Unlock()
	if same {
		return nil
	}
	stored := row
	stored.updatedAt = s.Obs.Clock().UnixMicro()
	err := s.saveRow(ctx, w.Sale, stored, blocks)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if q.done.dirty == nil {
			q.done.dirty = map[uint32]struct{}{}
		}
		for b := range blocks {
			q.done.dirty[b] = struct{}{}
		}
		return err
	}
	r.written = row
	q.horizon = max(q.horizon, row.horizon)
	q.admitLate()
	return nil
}

// draw puts those who were there before the opening into their order: sorted and written without the room's lock, so that those
// who come meanwhile, and all other rooms, wait for nothing.
func (s *Service) draw(ctx context.Context, r *room, w *Window, list []lot) error {
	began := time.Now()
	for i := range list {
		list[i].lot = s.lotOf(w.Sale, list[i].buyer)
	}
	sortLots(list)
	if err := s.saveLots(ctx, w.Sale, list); err != nil {
		return err
	}
	r.mu.Lock()
	q := r.q
	row := s.rowOf(q, w, uint32(len(list))+1+r.ahead)
	r.mu.Unlock()
	row.given, row.drawn = uint32(len(list))+1, int64(len(list))
	if err := s.saveRow(ctx, w.Sale, row, nil); err != nil {
		return err
	}
	r.mu.Lock()
	q.horizon = max(q.horizon, row.horizon)
	q.finish(list)
	r.toDraw, r.written = nil, savedRow{}
	r.mu.Unlock()
	wake(s.wakePacer)
	s.log.Info("lots are drawn", "sale", w.Public, "places", len(list), "took", time.Since(began))
	return nil
}

// close writes where each line stands, with the horizon at the next number: an orderly stop leaves no gap. No number is given
// after it.
func (s *Service) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, r := range *s.rooms.Load() {
		r.mu.Lock()
		q, w := r.q, r.window.Load()
		if q == nil || q.drawing || !s.term.Load().Held() { // of a term that is over nothing may be written
			r.q = nil
			r.mu.Unlock()
			continue
		}
		q.horizon = q.next
		r.mu.Unlock()
		if err := s.save(ctx, r, w, q.next); err != nil {
			s.log.Error("a waiting room could not be saved at the end; a few turns may be called again", "sale", w.Public, "err", err)
		}
		r.mu.Lock()
		r.q = nil
		r.mu.Unlock()
	}
}

// prune deletes what is kept of sales that were over a day ago.
func (s *Service) prune(ctx context.Context) error {
	sales, err := s.overSince(ctx, s.Obs.Clock().Add(-keptAfter))
	if err != nil {
		return err
	}
	for _, sale := range sales {
		if r := s.roomOf(sale); r != nil && r.window.Load().Ends.After(s.Obs.Clock().Add(-keptAfter)) {
			continue // its end was moved
		}
		if err := s.deleteRoom(ctx, sale); err != nil {
			return err
		}
	}
	return nil
}
