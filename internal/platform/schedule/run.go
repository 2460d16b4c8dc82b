package schedule

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/when"
)

const (
	batch     = 64                     // schedules that are fired in one transaction
	pageRows  = 512                    // rows that are read at a time
	queueRows = 2048                   // rows that are held in memory
	closeBy   = 20 * time.Millisecond  // before a firing no look is begun
	lookPause = 2 * time.Millisecond   // between looks that others ring for
	again     = 100 * time.Millisecond // until rows are looked at that another node had locked
	pruneEach = time.Hour
	stuckFor  = time.Minute // until a schedule is tried again whose job was refused
)

// errDead is the end of a node that was killed by a test.
var errDead = errors.New("killed")

// runner is a Run under way.
type runner struct {
	s        *Schedules
	queue    []*row // what comes up to horizon, in order of next
	horizon  int64
	loaded   time.Time // monotonic, as those that follow
	reload   time.Time // when the queue is to be read again
	wanted   bool      // it is to be read now
	prunes   time.Time
	seen     look // the last at which nothing was left that was due
	last     look // the last one
	stuck    map[string]stuck
	triggers map[string]when.Trigger // by text
}

// Run fires schedules until ctx ends. Any number of processes run it over one database; one of them once at a time. It first writes what is
// declared. While the database is away it goes on trying. It fails with CodeInvalid for a declaration of a kind that is not registered.
func (s *Schedules) Run(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "schedule.Run")
	r := &runner{s: s, stuck: map[string]stuck{}, triggers: map[string]when.Trigger{}}
	declared := false
	failing := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.bell:
			r.wanted = true
		}
		var wait time.Duration
		var err error
		if !declared {
			err = s.writeDeclared(ctx)
			declared = err == nil
		} else {
			wait, err = r.step(ctx)
		}
		switch {
		case err == nil && failing:
			s.log.InfoContext(ctx, "schedules are fired again")
			failing = false
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errDead) || levee.CodeOf(err) == levee.CodeInvalid:
			return err
		default:
			if !failing {
				s.log.ErrorContext(ctx, "schedules cannot be fired", "err", err)
			}
			failing, wait, r.wanted = true, s.cfg.Poll, true
		}
		timer.Reset(wait)
	}
}

// stuck is a schedule that this process cannot fire: until it is changed, or for a while.
type stuck struct {
	version int64
	until   time.Time // monotonic; zero: for ever
}

// step looks once, fires one batch of what is due, and tells how long there is nothing to do.
func (r *runner) step(ctx context.Context) (time.Duration, error) {
	s := r.s
	now, err := s.micros(ctx)
	if err != nil {
		return 0, err
	}
	mono := time.Now()
	r.notice(ctx, now, mono)
	if r.mustLoad(now, mono) {
		if err := r.load(ctx, mono); err != nil {
			return 0, err
		}
		if now, err = s.micros(ctx); err != nil {
			return 0, err
		}
		mono = time.Now()
	}
	n := 0
	for n < len(r.queue) && n < batch && r.queue[n].next <= now {
		n++
	}
	if n > 0 {
		plans := make([]plan, n)
		for i, row := range r.queue[:n] {
			plans[i] = row.planned(now, r.seen.cutoff(row.grace, now, mono))
		}
		r.queue = r.queue[n:]
		return 0, r.fire(ctx, plans)
	}
	if len(r.queue) == 0 && r.horizon <= now {
		r.wanted = true // there is more than was read
		return lookPause, nil
	}
	r.seen = look{now, mono}
	if mono.After(r.prunes) {
		r.prunes = mono.Add(pruneEach)
		if n, err := s.prune(ctx, now-s.cfg.Keep.Microseconds()); err != nil || n > 0 {
			r.prunes = mono.Add(s.cfg.Poll)
			return 0, err
		}
	}
	wait := time.Until(r.reload)
	if len(r.queue) > 0 {
		if now, err = s.micros(ctx); err != nil {
			return 0, err
		}
		first := time.Duration(r.queue[0].next-now) * time.Microsecond
		if wait < 0 && first < closeBy {
			wait = first
		}
		wait = min(wait, first)
	}
	return max(wait, 0), nil
}

// mustLoad tells whether it is time to read. What is due in a moment comes before, unless reading is wanted or long overdue.
func (r *runner) mustLoad(now int64, mono time.Time) bool {
	if r.wanted {
		r.reload = r.loaded.Add(lookPause)
		return !mono.Before(r.reload)
	}
	near := len(r.queue) > 0 && r.queue[0].next > now && r.queue[0].next < now+closeBy.Microseconds()
	return !mono.Before(r.reload) && (!near || mono.After(r.loaded.Add(2*r.s.cfg.Poll)))
}

// notice logs when the clock that counts was set.
func (r *runner) notice(ctx context.Context, now int64, mono time.Time) {
	if !r.last.mono.IsZero() {
		step := time.Duration(now-r.last.now)*time.Microsecond - mono.Sub(r.last.mono)
		if step > time.Second {
			r.s.log.WarnContext(ctx, "the clock that counts for schedules leapt ahead: what it left out is fired now, as each schedule says", "by", step)
		} else if step < -time.Second {
			r.s.log.WarnContext(ctx, "the clock that counts for schedules was set back: nothing is fired until it has caught up", "by", -step)
		}
	}
	r.last = look{now, mono}
}

// load reads what comes until after the next look.
func (r *runner) load(ctx context.Context, mono time.Time) error {
	s := r.s
	if s.clock.ask != nil && s.clock.age() >= askEvery {
		if err := s.clock.sync(ctx); err != nil {
			return err
		}
	}
	now, err := s.micros(ctx)
	if err != nil {
		return err
	}
	s.m.ahead.Set(s.clock.own().Sub(time.UnixMicro(now)).Seconds())
	r.queue, r.horizon = r.queue[:0:0], now+2*s.cfg.Poll.Microseconds()
	left := map[string]stuck{}
	for after, name := int64(0), ""; ; {
		page, err := s.page(ctx, after, name, r.horizon, pageRows)
		if err != nil {
			return err
		}
		for _, row := range page {
			if was, ok := r.stuck[row.name]; ok && was.version == row.version && (was.until.IsZero() || mono.Before(was.until)) {
				left[row.name] = was
			} else if r.ready(row); row.fault == "" {
				r.queue = append(r.queue, row)
			} else {
				left[row.name] = stuck{version: row.version}
				s.log.ErrorContext(ctx, "a schedule cannot be fired by this node", "schedule", row.name, "because", row.fault)
			}
			after, name = row.next, row.name
		}
		if len(page) < pageRows {
			break
		}
		if len(r.queue) >= queueRows {
			r.horizon = after
			break
		}
	}
	r.stuck = left
	s.m.stuck.Set(float64(len(left)))
	first := int64(0)
	if len(r.queue) > 0 {
		first = r.queue[0].next
	} else if first, err = s.earliest(ctx); err != nil {
		return err
	}
	s.m.next.Set(float64(first) / 1e6)
	r.loaded, r.reload, r.wanted = mono, mono.Add(s.cfg.Poll), false
	return nil
}

// ready reads a row's trigger and says what keeps this process from firing it.
func (r *runner) ready(row *row) {
	t, ok := r.triggers[row.text]
	if !ok {
		var err error
		if t, err = when.Parse(row.text); err != nil {
			row.fault = "its trigger cannot be read: " + err.Error()
			return
		}
		if len(r.triggers) >= 10*queueRows {
			clear(r.triggers)
		}
		r.triggers[row.text] = t
	}
	row.trigger = t
	if !r.s.kinds[row.kind] {
		row.fault = "no kind of job " + strconv.Quote(row.kind) + " is registered here"
	}
}

// outcome is what a transaction did about a plan.
type outcome struct {
	jobs  []int64 // given
	last  int64   // for which time
	busy  int64   // firings left out because of MaxLive
	stand stand   // where the row stood
	there bool    // it could be read: it is there, and nobody else has locked it
	ours  bool    // and it stood where the plan begins
}

// why names what was skipped; "" when nothing was.
func (o *outcome) why(p plan) string {
	switch {
	case o.busy > 0:
		return reasonBusy
	case p.late > 0:
		return reasonLate
	case p.merged > 0:
		return reasonMerged
	}
	return ""
}

// fire carries out plans; where one of many fails, each alone.
func (r *runner) fire(ctx context.Context, plans []plan) error {
	s := r.s
	s.ask(ctx, plans)
	outcomes, err := s.fireTx(ctx, plans)
	if err != nil {
		if code := levee.CodeOf(err); ctx.Err() != nil || code == levee.CodeUnavailable || errors.Is(err, errDead) {
			return err
		}
		if len(plans) > 1 {
			for _, p := range plans {
				if err := r.fire(ctx, []plan{p}); err != nil {
					return err
				}
			}
			return nil
		}
		row := plans[0].r
		r.stuck[row.name] = stuck{row.version, time.Now().Add(stuckFor)}
		s.log.ErrorContext(ctx, "a schedule cannot be fired by this node", "schedule", row.name, "because", err)
		return nil
	}
	if s.seam.dies("committed") {
		return errDead
	}
	now, err := s.micros(ctx)
	if err != nil {
		return err
	}
	for i, p := range plans {
		o := outcomes[i]
		switch {
		case o.ours:
			r.done(ctx, p, o, now)
			r.push(p.r, p.next)
		case o.there && o.stand.version == p.r.version:
			r.push(p.r, o.stand.next) // another node was faster
		case o.there:
			r.wanted = true
		default:
			if soon := time.Now().Add(again); soon.Before(r.reload) {
				r.reload = soon
			}
		}
	}
	return nil
}

// push puts a row back to where it is due next, unless that is beyond what the queue holds.
func (r *runner) push(moved *row, at int64) {
	if at == 0 || at > r.horizon {
		return
	}
	moved.next = at
	i, _ := slices.BinarySearchFunc(r.queue, moved, func(x, y *row) int { return cmp.Or(cmp.Compare(x.next, y.next), cmp.Compare(x.name, y.name)) })
	r.queue = slices.Insert(r.queue, i, moved)
}

// done counts and logs what a plan of ours came to.
func (r *runner) done(ctx context.Context, p plan, o outcome, now int64) {
	s := r.s
	if n := len(o.jobs); n > 0 {
		s.m.fired.WithLabelValues(p.r.kind).Add(float64(n))
		s.tell(Notice{p.r.name, Fired, int64(n), timeOf(o.last), o.jobs[n-1]})
	}
	for _, at := range p.fire[:len(o.jobs)] {
		s.m.late.Observe(max(float64(now-at)/1e6, 0))
	}
	if p.idle != 0 {
		s.m.late.Observe(max(float64(now-p.idle)/1e6, 0))
	}
	level := slog.LevelWarn
	if _, ours := s.work[p.r.kind]; ours {
		level = slog.LevelDebug // the next firing does what these would have done
	}
	at := timeOf(p.r.next)
	for _, skip := range []struct {
		n            int64
		reason, text string
	}{
		{p.late, reasonLate, "firings were skipped: they came later than the schedule's grace"},
		{p.merged, reasonMerged, "firings were merged: several were due at once"},
		{o.busy, reasonBusy, "firings were skipped: as many jobs of the schedule as may wait or run"},
	} {
		if skip.n > 0 {
			s.m.skipped.WithLabelValues(skip.reason).Add(float64(skip.n))
			s.log.Log(ctx, level, skip.text, "schedule", p.r.name, "firings", skip.n, "or_more", p.more, "since", at)
			s.tell(Notice{p.r.name, skip.reason, skip.n, at, 0})
		}
	}
}

func (s *Schedules) tell(n Notice) {
	if s.hear != nil {
		s.hear(n)
	}
}

// fireTx carries out plans in one transaction: moves each row on from where it was seen, and gives its jobs.
func (s *Schedules) fireTx(ctx context.Context, plans []plan) (outcomes []outcome, err error) {
	if s.seam.dies("planned") {
		return nil, errDead
	}
	now, err := s.micros(ctx)
	if err != nil {
		return nil, err
	}
	return outcomes, s.db.Tx(ctx, "schedule.fire", func(ctx context.Context, tx *db.Tx) error {
		outcomes = make([]outcome, len(plans))
		stands, err := s.standTx(ctx, tx, plans)
		if err != nil {
			return err
		}
		for i, p := range plans {
			o := &outcomes[i]
			o.stand, o.there = stands[p.r.name]
			if o.ours = o.stand == (stand{p.r.next, p.r.version}) || s.seam.unfenced; !o.ours {
				continue
			}
			if err := s.giveTx(ctx, tx, p, o); err != nil {
				return err
			}
			if o.ours, err = s.moveTx(ctx, tx, p, o, now); err != nil {
				return err
			}
			if !o.ours {
				return errors.New("a schedule was changed while it was locked") // undo its jobs
			}
		}
		if s.seam.dies("done") {
			return errDead
		}
		return nil
	})
}

// giveTx enqueues the jobs of a plan, as many as may be.
func (s *Schedules) giveTx(ctx context.Context, tx *db.Tx, p plan, o *outcome) error {
	free := len(p.fire)
	if p.r.maxLive != Unlimited && free > 0 {
		live, err := s.jobs.LiveTx(ctx, tx, source+p.r.name)
		if err != nil {
			return err
		}
		free = min(free, max(p.r.maxLive-live, 0))
	}
	if o.busy = int64(len(p.fire) - free); o.busy > 0 && s.work[p.r.kind].kind != nil {
		if err := s.jobs.HastenTx(ctx, tx, source+p.r.name); err != nil {
			return err
		}
	}
	for _, at := range p.fire[:free] {
		options := []job.Option{job.From(source + p.r.name), job.Unique(source + p.r.name + "@" + strconv.FormatInt(at, 10))}
		if s.seam.unfenced {
			options = options[:1]
		}
		args, err := argsAt(p.r.name, p.r.args, at)
		if err != nil {
			return err
		}
		id, err := s.jobs.EnqueueRawTx(ctx, tx, p.r.kind, args, options...)
		if err != nil {
			return err
		}
		o.jobs, o.last = append(o.jobs, id), at
	}
	return nil
}
