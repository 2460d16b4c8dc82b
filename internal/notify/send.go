package notify

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// The sender's measures.
const (
	fetchMost  = 256 // deliveries read ahead for a webhook
	judgedMost = 512 // results that may wait to be written down
	wakeAfter  = 3   // failures in a row after which a success wakes the others
	wakeChunk  = 500
	probeMost  = time.Minute     // between two tries at a failing webhook, each with another delivery if there are
	stopGrace  = 2 * time.Second // for requests under way when the term ends, and for writing down what came of them
	longestNap = time.Minute     // a net under bells and timers
)

// lane sends one webhook's deliveries. One goroutine reads what is ready, starts requests and has written down what came of them:
// while one batch commits, the next gathers. Nobody else touches its fields but hook, bell and now.
type lane struct {
	s    *Service
	id   levee.WebhookID
	hook atomic.Pointer[webhook]
	bell chan struct{} // capacity 1: something is ready, or the webhook was changed
	now  atomic.Bool   // with the bell: somebody wants to see it tried, however long it has been failing

	queue   []Delivery                // read and not started, the longest waiting first
	flight  map[levee.DeliveryID]bool // started, or ended and not written down; true: while the webhook was failing
	more    bool                      // SQL may have ready ones that are not in queue
	due     time.Time                 // of the next failed one; zero: none
	probe   time.Time                 // while failing: not before then
	probes  int64                     // that failed since it is failing
	health  health                    // as in SQL
	running int                       // requests under way
	results chan result               // capacity Parallel: whoever sends never waits
	judged  []result                  // ended, and not being written down yet
	writing []result                  // being written down
	wrote   chan struct{}             // capacity 1: writing is over
	wakes   bool                      // once it is written down, the failed ones may go again
	cancel  context.CancelFunc        // ends the lane
	warned  bool                      // that the webhook is failing was logged
}

// health is how the attempts of a webhook went.
type health struct {
	failures                            int64
	failingSince, succeededAt, failedAt time.Time
	lastError                           string
}

type result struct {
	d        Delivery
	at       time.Time
	duration time.Duration
	answer   answer
	err      error
	void     bool // not sent, or cut off by the end of the term: it never was
}

func (r *result) ok() bool { return r.err == nil && r.answer.status >= 200 && r.answer.status < 300 }

// laneLoop keeps one lane for each webhook until ctx ends, and waits for them.
func (s *Service) laneLoop(ctx context.Context) {
	var lanes sync.WaitGroup
	for ctx.Err() == nil {
		if err := s.refreshHooks(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the webhooks cannot be read; what was last known of them is used", "err", err)
		} else {
			s.matchLanes(ctx, &lanes)
		}
		rest(ctx, s.changed, s.poll(longestNap))
	}
	s.mu.Lock()
	clear(s.lanes)
	s.mu.Unlock()
	lanes.Wait()
}

// matchLanes starts lanes of new webhooks, ends those of deleted ones, and tells the others what was changed.
func (s *Service) matchLanes(ctx context.Context, lanes *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[levee.WebhookID]bool{}
	for _, w := range *s.hooks.Load() {
		there[w.ID] = true
		if l := s.lanes[w.ID]; l != nil {
			if old := l.hook.Swap(w); !old.UpdatedAt.Equal(w.UpdatedAt) || old.secret != w.secret {
				l.now.Store(true)
				ring(l.bell)
			}
			continue
		}
		l := &lane{s: s, id: w.ID, bell: make(chan struct{}, 1), flight: map[levee.DeliveryID]bool{}, more: true,
			results: make(chan result, s.cfg.Parallel), wrote: make(chan struct{}, 1),
			health: health{w.Failures, w.FailingSince, w.SucceededAt, w.FailedAt, w.LastError}}
		l.hook.Store(w)
		var laneCtx context.Context
		laneCtx, l.cancel = context.WithCancel(ctx)
		s.lanes[w.ID] = l
		lanes.Go(func() {
			defer l.cancel()
			l.run(laneCtx)
		})
	}
	for id, l := range s.lanes {
		if !there[id] {
			l.cancel()
			delete(s.lanes, id)
		}
	}
}

// wakeLane tells a webhook's lane that something is ready; now, that somebody waits to see it tried.
func (s *Service) wakeLane(id levee.WebhookID, now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[id]; l != nil {
		if now {
			l.now.Store(true)
		}
		ring(l.bell)
	}
}

func (l *lane) run(ctx context.Context) {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	for ctx.Err() == nil {
		if err := l.start(requests); err != nil {
			l.s.log.ErrorContext(ctx, "a webhook's deliveries cannot be read; it is tried again", "webhook", int64(l.id), "err", err)
			rest(ctx, nil, time.Second)
		}
		l.write(requests)
		t := time.NewTimer(l.nap())
		select {
		case r := <-l.results:
			l.end(r)
		case <-l.wrote:
			l.written(ctx)
		case <-l.bell:
			if l.more = true; l.now.Swap(false) {
				l.probe = time.Time{}
			}
		case <-t.C:
			l.more = true
		case <-ctx.Done():
		}
		t.Stop()
	}
	stop := time.AfterFunc(stopGrace, cut)
	defer stop.Stop()
	for l.running > 0 || l.writing != nil || l.judged != nil {
		l.write(requests)
		select {
		case r := <-l.results:
			l.end(r)
		case <-l.wrote:
			l.writing = nil
		}
	}
}

func (l *lane) failing() bool { return l.health.failures >= int64(l.s.cfg.FailingAfter) }

// nap is how long there is nothing to do unless a bell rings.
func (l *lane) nap() time.Duration {
	next := l.due
	if l.failing() && (len(l.queue) > 0 || l.more || !next.IsZero()) && next.Before(l.probe) {
		next = l.probe
	}
	longest := l.s.poll(longestNap)
	if next.IsZero() || l.running >= l.room() {
		return longest
	}
	return min(max(next.Sub(l.s.clock()), time.Millisecond), longest)
}

// room is how many requests may be under way: one while the webhook is failing, so that a receiver that is away is not flooded with
// what it cannot take, nor each delivery's attempts used up on it.
func (l *lane) room() int {
	if l.failing() {
		return 1
	}
	return l.s.cfg.Parallel
}

// start begins as many requests as there is room for.
func (l *lane) start(ctx context.Context) error {
	hook := l.hook.Load()
	if !hook.Enabled {
		l.queue, l.due, l.more = nil, time.Time{}, false
		return nil
	}
	for l.running < l.room() && len(l.judged) < judgedMost {
		if l.failing() && l.s.clock().Before(l.probe) {
			return nil
		}
		if len(l.queue) == 0 {
			if !l.more {
				return nil
			}
			if err := l.fetch(ctx); err != nil || len(l.queue) == 0 {
				return err
			}
		}
		d := l.queue[0]
		if l.queue = l.queue[1:]; l.failing() { // until the next try, which may be long, others may be parked or come first
			l.queue, l.more = nil, true
		}
		l.flight[d.ID] = l.failing()
		l.running++
		go func() { l.results <- l.s.attempt(ctx, hook, d) }()
	}
	return nil
}

// fetch reads what is ready and notes when the next failed one is due.
func (l *lane) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.s.cfg.Timeout)
	defer cancel()
	now := l.s.clock()
	fresh, failed, err := readReady(ctx, l.s.db.Query, l.id, now, fetchMost+len(l.flight))
	if err != nil {
		return err
	}
	list := append(fresh, failed...)
	if !l.failing() || l.probes%2 == 0 {
		// The longest waiting first, so that neither kind holds up the other. But where every second try at a failing webhook is not
		// for what was never tried, a few deliveries that fail for reasons of their own would take all the tries there are.
		slices.SortStableFunc(list, func(a, b Delivery) int { return a.DueAt.Compare(b.DueAt) })
	}
	if l.due, err = nextDue(ctx, l.s.db.QueryRow, l.id); err != nil {
		return err
	}
	if !l.due.After(now) { // it is in the list, or under way
		l.due = time.Time{}
	}
	l.more = len(list) >= fetchMost
	for _, d := range list {
		if _, under := l.flight[d.ID]; !under {
			l.queue = append(l.queue, d)
		}
	}
	return nil
}

// attempt sends one delivery once.
func (s *Service) attempt(stop context.Context, hook *webhook, d Delivery) (r result) {
	r = result{d: d, at: s.clock()}
	began := time.Now()
	defer func() {
		r.duration = time.Since(began)
		if stop.Err() != nil && !r.ok() {
			r.void = true
		}
	}()
	ctx, cancel := context.WithTimeout(stop, s.cfg.Timeout)
	defer cancel()
	body, err := s.body(ctx, &d)
	if err != nil {
		s.log.ErrorContext(ctx, "the body of a delivery cannot be made", "delivery", int64(d.ID), "err", err)
		r.err = levee.E(levee.CodeInternal, "the body could not be made; the house's log says why")
		return r
	}
	secrets, err := s.secrets(hook, r.at)
	if err == nil {
		err = s.guard.checkURL("url", hook.URL) // the list of exceptions may be shorter than when it was made
	}
	if err != nil {
		r.err = err
		return r
	}
	id := s.sealer.Seal(levee.KindDelivery, int64(d.ID))
	s.fault()
	if !s.term.Load().Held() {
		r.void = true
		return r
	}
	r.answer, r.err = s.post(ctx, hook.URL, map[string]string{
		"Webhook-Id": id, "Webhook-Timestamp": strconv.FormatInt(r.at.Unix(), 10), "Webhook-Signature": sign(secrets, id, r.at, body)}, body)
	return r
}

// pause is how long to wait after so many failures (from 1): doubled each time, with a tenth of spread either way.
func (c *Config) pause(failures int64) time.Duration {
	d := c.RetryMost
	if n := failures - 1; n < 30 && c.RetryFirst<<n < d {
		d = c.RetryFirst << n
	}
	return d - d/10 + rand.N(d/5+1)
}

// end takes in what came of requests: this one and all that ended by now.
func (l *lane) end(r result) {
	for {
		l.running--
		if r.void {
			delete(l.flight, r.d.ID)
		} else {
			l.wakes = l.wakes || r.ok() && l.health.failures >= wakeAfter
			l.judged = append(l.judged, l.judge(r))
		}
		select {
		case r = <-l.results:
		default:
			return
		}
	}
}

// write has what is judged written down, one batch at a time.
func (l *lane) write(ctx context.Context) {
	if l.writing != nil || len(l.judged) == 0 {
		return
	}
	rs, h := l.judged, l.health
	l.writing, l.judged = rs, nil
	go func() {
		defer func() { l.wrote <- struct{}{} }()
		for {
			err := l.s.tx(ctx, "notify.settle", func(ctx context.Context, tx *db.Tx) error { return l.writeTx(ctx, tx, rs, h) })
			if levee.CodeOf(err) == levee.CodeConflict { // another node keeps it, and sends them again
				l.cancel()
				return
			}
			if err == nil {
				return
			}
			l.s.log.ErrorContext(ctx, "what became of deliveries cannot be written down; it is tried again", "webhook", int64(l.id), "err", err)
			if !rest(ctx, nil, time.Second) {
				return // the term ends: the next sends them again
			}
		}
	}()
}

// written lets go of what was written down: what waited behind it may be ready now.
func (l *lane) written(ctx context.Context) {
	for _, r := range l.writing {
		delete(l.flight, r.d.ID)
	}
	l.writing, l.more = nil, true
	if l.wakes && len(l.judged) == 0 {
		l.wakes = false
		if err := l.wakeAll(ctx); err != nil {
			l.s.log.WarnContext(ctx, "the waiting deliveries of a webhook that answers again wait for their own time", "webhook", int64(l.id), "err", err)
		}
	}
}

// judge counts a result in: the delivery's new state and the webhook's health.
func (l *lane) judge(r result) result {
	s, d, h := l.s, &r.d, &l.health
	d.Attempts++
	d.TriedAt, d.Status = r.at, r.answer.status
	now := s.clock()
	s.metrics.seconds.Observe(r.duration.Seconds())
	if r.ok() {
		d.state = stateDelivered
		if l.warned {
			s.log.Info("a webhook answers again", "webhook", int64(l.id), "failures", h.failures)
			l.warned = false
		}
		l.probes, h.failures, h.failingSince, h.succeededAt = 0, 0, time.Time{}, now
		s.metrics.attempts.WithLabelValues("delivered").Inc()
		return r
	}
	h.failures++
	h.failedAt = now
	if h.failingSince.IsZero() {
		h.failingSince = now
	}
	if h.lastError = "answered " + strconv.Itoa(r.answer.status); r.err != nil {
		h.lastError = failure(r.err)
	}
	d.state = stateFailed
	d.DueAt = now.Add(max(s.cfg.pause(int64(d.Attempts)), min(r.answer.retryAfter, s.cfg.RetryMost)))
	label := "failed"
	if !now.Before(d.GiveUpAt) {
		d.state, label = stateParked, "parked"
	}
	s.metrics.attempts.WithLabelValues(label).Inc()
	if l.failing() {
		l.queue = nil
		if l.flight[d.ID] { // those that were under way when it began to fail say nothing new
			l.probes++
		}
		l.probe = now.Add(min(s.cfg.pause(l.probes+1), probeMost))
		if !l.warned {
			s.log.Warn("a webhook is failing: one delivery at a time is tried until it answers", "webhook", int64(l.id), "failures", h.failures, "last", h.lastError)
			l.warned = true
		}
	}
	return r
}

func (l *lane) writeTx(ctx context.Context, tx *db.Tx, rs []result, h health) error {
	now := l.s.clock()
	rows := make([][]any, 0, len(rs))
	for i := range rs {
		r := &rs[i]
		there, err := l.finish(ctx, tx, &r.d, now)
		if err == nil && !there {
			there, err = noteTry(ctx, tx, &r.d)
		}
		if err != nil {
			return err
		}
		if !there { // deleted with its webhook
			continue
		}
		text := ""
		if r.err != nil {
			text = failure(r.err)
		}
		rows = append(rows, []any{int64(r.d.ID), int64(r.d.Attempts), r.at.UnixMicro(), r.duration.Microseconds(), int64(r.answer.status), r.answer.text, text})
	}
	if err := tx.InsertRows(ctx, "notify_attempt", attemptColumns, rows); err != nil {
		return err
	}
	return updateHealth(ctx, tx, l.id, h)
}

func (l *lane) finish(ctx context.Context, tx *db.Tx, d *Delivery, now time.Time) (bool, error) {
	if d.state == stateFailed {
		return postpone(ctx, tx, d)
	}
	return finish(ctx, tx, d, d.state, now)
}

// wakeAll makes all failed deliveries due: the receiver answers again, so they need not wait for their own time. None is tried
// sooner than the first pause after its last try, so that one which fails for reasons of its own is not tried in a loop.
func (l *lane) wakeAll(ctx context.Context) error {
	l.probe = time.Time{}
	for {
		now := l.s.clock()
		list, err := sleepers(ctx, l.s.db.Query, l.id, now.Add(l.s.cfg.RetryFirst), wakeChunk)
		if err != nil || len(list) == 0 {
			return errors.Join(err)
		}
		err = l.s.tx(ctx, "notify.wake", func(ctx context.Context, tx *db.Tx) error {
			for i := range list {
				due := list[i].TriedAt.Add(l.s.cfg.RetryFirst)
				if due.Before(now) {
					due = now
				}
				if err := hasten(ctx, tx, list[i].ID, due); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(list) < wakeChunk {
			return err
		}
	}
}
