package admission

import (
	"context"
	"encoding/json"
	"math"
	"time"
)

const (
	// tickEvery is the grain of the pace while somebody waits: at 100 a second, five at a time.
	tickEvery = 50 * time.Millisecond
	// tellEvery is the least time between two events of a line.
	tellEvery = time.Second
)

// paceLoop admits. While nobody waits and nothing runs out it sleeps.
func (s *Service) paceLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for told := s.now(); ; {
		busy := false
		for _, r := range *s.rooms.Load() {
			busy = s.tick(r) || busy
		}
		if now := s.now(); now-told >= tellEvery {
			told = now
			for _, r := range *s.rooms.Load() {
				s.tell(r)
			}
		}
		if busy {
			timer.Reset(tickEvery)
		} else {
			timer.Reset(tellEvery) // for what the last act left to tell; Enter wakes us sooner
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wakePacer:
		}
	}
}

// admitting reports whether the window lets people in at this moment.
func (w *Window) admitting(wall time.Time) bool {
	return w.Open && !w.Draw && !wall.Before(w.Opens) && wall.Before(w.Ends)
}

// tick moves one line up, and reports whether it needs the next tick soon.
func (s *Service) tick(r *room) (busy bool) {
	w := r.window.Load()
	wall := s.Obs.Clock()
	r.mu.Lock()
	idle := s.queue(r) == nil || (r.q.size() == 0 && len(r.q.deadlines) == 0 && r.q.phantoms == 0 && !r.q.drawing &&
		(r.q.order != OrderRandom || r.q.drawn >= 0))
	r.mu.Unlock()
	if idle {
		return false
	}
	var free int64 = math.MaxInt64
	open := w.admitting(wall)
	if open && w.Free != nil {
		free = w.Free() // of another room: without our lock
	}
	started := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q == nil {
		return false
	}
	s.step(r, w, wall, free)
	s.metrics.tick.Observe(time.Since(started).Seconds())
	return r.q.size() > 0 || len(r.q.deadlines) > 0 || r.q.phantoms > 0 || r.q.drawing
}

// step does what is due in a room whose lock is held.
func (s *Service) step(r *room, w *Window, wall time.Time, free int64) {
	q := r.q
	r.free = free
	s.openDraw(r, w, wall)
	q.pace(s.now(), w.admitting(wall) && free > 0, w.Policy.PerSecond, slots(w.Policy.Multiple, free))
	if _, move := q.reach(r.ahead); move {
		wake(s.wakeKeeper)
	}
}

// slots is how many may be admitted and unspent at once.
func slots(multiple int32, free int64) int64 {
	if free > math.MaxInt64/int64(max(multiple, 1)) {
		return math.MaxInt64
	}
	return free * int64(multiple)
}

// openDraw hands those who were there before the opening over to be drawn. Called with the room's lock held.
func (s *Service) openDraw(r *room, w *Window, wall time.Time) {
	q := r.q
	if q.order != OrderRandom || q.drawn >= 0 || q.drawing || wall.Before(w.Opens) {
		return
	}
	r.toDraw = q.freeze()
	wake(s.wakeKeeper)
}

// lineEvent is what pages are told once a second.
type lineEvent struct {
	Served    uint32  `json:"served"`
	Waiting   int     `json:"waiting"`
	PerSecond float64 `json:"per_second"`
	Open      bool    `json:"open"`
}

// tell publishes a line's numbers when they have changed.
func (s *Service) tell(r *room) {
	w := r.window.Load()
	wall := s.Obs.Clock()
	r.mu.Lock()
	if r.q == nil {
		r.mu.Unlock()
		return
	}
	e := s.lineOf(r, w, wall)
	same := e == r.told
	r.told = e
	r.mu.Unlock()
	if same {
		return
	}
	body, err := json.Marshal(e)
	if err != nil {
		s.log.Error("a line's numbers cannot be told", "err", err)
		return
	}
	s.Push.Publish(topicOf(w.Public), "line", body)
}

func topicOf(public string) string { return "queue:" + public }

// lineOf is called with the room's lock held.
func (s *Service) lineOf(r *room, w *Window, wall time.Time) lineEvent {
	rate := r.q.rate.over(s.now(), 10)
	return lineEvent{Served: r.q.served, Waiting: r.q.size(), PerSecond: rate, Open: w.admitting(wall) && r.free > 0}
}
