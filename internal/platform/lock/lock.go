package lock

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// Config sets what a call does not say itself. The zero value is usable.
type Config struct {
	// TTL is how long a name stays taken when its holder dies, from 100 ms to 1 h. Default 10 s. See the option TTL.
	TTL time.Duration
	// MaxHold is how long a lease is renewed at most, from 100 ms to 168 h. Default 10 min. See the option MaxHold.
	MaxHold time.Duration
}

func (c Config) normal() (Config, error) {
	if c.TTL == 0 {
		c.TTL = ttlDefault
	}
	if c.MaxHold == 0 {
		c.MaxHold = holdDefault
	}
	switch {
	case c.TTL < ttlMin || c.TTL > ttlMax:
		return c, levee.Invalid("lock.ttl", ttlForm, c.TTL)
	case c.MaxHold < ttlMin || c.MaxHold > holdMax:
		return c, levee.Invalid("lock.max_hold", holdForm, c.MaxHold)
	}
	return c, nil
}

// Locks hands out leases. It is made by Open, OpenRedis or OpenSQL and safe for concurrent use.
type Locks struct {
	cfg    Config
	driver driver
	log    *slog.Logger
	m      *metrics
	base   time.Time // of the local deadlines

	tickets tickets // of the memory driver

	run    context.Context // of renewals and of releases that are tried again
	stop   context.CancelFunc
	mu     sync.Mutex // orders the end and the growth of tasks
	closed atomic.Bool
	tasks  sync.WaitGroup
}

// Open makes locks for the goroutines of this process alone. A lease ends with MaxHold; there is nobody to renew it for. The fence comes from one
// counter for all names, which starts at the wall clock's microseconds: it rises over restarts unless the clock was put back, or the
// process before gave more than a million grants a second in all its life. A config that is out of bounds is CodeInvalid.
func Open(cfg Config, o *obs.Obs) (_ *Locks, err error) {
	defer levee.Wrap(&err, "lock.Open")
	return open(cfg, o, "memory", func(*Locks) (driver, error) { return newMemory(), nil })
}

// open makes the part of the locks that all drivers share.
func open(cfg Config, o *obs.Obs, kind string, make func(*Locks) (driver, error)) (*Locks, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	l := &Locks{cfg: cfg, log: o.Named("lock"), m: newMetrics(o.Metrics, kind), base: time.Now()}
	l.run, l.stop = context.WithCancel(context.Background())
	if l.driver, err = make(l); err != nil {
		l.stop()
		return nil, err
	}
	return l, nil
}

// Close ends calls that wait (CodeUnavailable) and renewals. Leases that were not given back end by themselves within their TTL.
func (l *Locks) Close() error {
	l.mu.Lock()
	over := l.closed.Swap(true)
	l.mu.Unlock()
	if over {
		return nil
	}
	l.stop()
	err := l.driver.close()
	l.tasks.Wait()
	levee.Wrap(&err, "lock.Close")
	return err
}

// begin counts a task that Close waits for; false: it is too late for one.
func (l *Locks) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.tasks.Add(1)
	return true
}

// Acquire waits for its turn and returns the lease of the name. The deadline of ctx is the longest that it waits (none: for ever); ctx says
// nothing about how long the lease lasts, but the lease's context carries its values. First come, first served.
//
// A name is 1 to 190 bytes of printable ASCII without space and braces. With a context of a lease (Lease.Context, or one made from it) that holds the
// name already, it returns at once a second lease of the same place: the place is given back with the last of them. A place that
// is held with Shared or Permits cannot be raised to a stricter one that way (CodeInvalid).
//
// CodeInvalid: name or options are out of bounds. CodeTimeout: the deadline passed first. The cause of ctx: it was cancelled.
// CodeUnavailable: the store is away; it may then stay taken for as long as the TTL. CodeGone: ctx is of a lease that is lost.
func (l *Locks) Acquire(ctx context.Context, name string, opts ...Option) (*Lease, error) {
	return l.acquire(ctx, name, false, opts)
}

// TryAcquire is Acquire without waiting: CodeConflict (ErrHeld) when no place is free now, or others wait for it.
func (l *Locks) TryAcquire(ctx context.Context, name string, opts ...Option) (*Lease, error) {
	return l.acquire(ctx, name, true, opts)
}

// Do calls fn while it holds the name, and gives it back afterwards, also when fn panics. ctx bounds the waiting and the work: the context of fn ends
// with ctx or with the lease, whichever comes first. fence is the lease's. Errors are those of fn, those of Acquire, and CodeGone (ErrLost) when
// the lease had ended before fn did: then its work may have met another holder's. That the store was away when the lease
// was given back is no error if fn ended in time.
func (l *Locks) Do(ctx context.Context, name string, fn func(ctx context.Context, fence uint64) error, opts ...Option) (err error) {
	s, err := l.acquire(ctx, name, false, opts)
	if err != nil {
		return err
	}
	work, cancel := context.WithCancelCause(s.Context())
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer func() {
		held := s.Held()
		stop()
		cancel(nil)
		gone := s.Release(ctx)
		if held && levee.CodeOf(gone) == levee.CodeUnavailable {
			gone = nil
		}
		if err == nil {
			err = gone
		} else if gone != nil {
			err = both{err, gone}
		}
	}()
	return fn(work, s.Fence())
}

// both is an error of the work beside the loss of its lease. The work's is the one that its code comes from.
type both struct{ work, lease error }

// Error shows both.
func (b both) Error() string { return b.work.Error() + "; " + b.lease.Error() }

// Unwrap returns both.
func (b both) Unwrap() []error { return []error{b.work, b.lease} }

func (l *Locks) acquire(ctx context.Context, name string, try bool, opts []Option) (*Lease, error) {
	o, err := l.cfg.options(name, opts)
	if err != nil {
		return nil, err
	}
	outer, _ := ctx.Value(leaseKey{}).(*Lease)
	for outer != nil && outer.Context().Err() != nil {
		if cause := context.Cause(ctx); cause != nil && cause == context.Cause(outer.Context()) {
			return nil, levee.E(levee.CodeGone, "the lease of the lock %q, under which this is done, has ended", outer.name).Because(cause)
		}
		outer = outer.outer // ctx was made to outlast it
	}
	s := &Lease{l: l, name: name, parent: ctx, outer: outer}
	if o.names == nil {
		if s.h, err = l.place(ctx, outer, &s.own, name, &o, try); err != nil {
			return nil, err
		}
		return s, nil
	}
	for _, n := range o.names {
		h, err := l.place(ctx, outer, &hold{}, n, &o, try)
		if err != nil {
			_ = s.Release(ctx)
			return nil, err
		}
		s.more = append(s.more, h)
		if n == name {
			s.h = h
		}
	}
	return s, nil
}

// place takes a place in one name, or a share of the one that an outer lease holds.
func (l *Locks) place(ctx context.Context, outer *Lease, h *hold, name string, o *options, try bool) (*hold, error) {
	for s := outer; s != nil; s = s.outer {
		there := s.find(name)
		if there == nil || there.l != l {
			continue
		}
		if o.limit < there.r.limit {
			return nil, levee.Invalid("permits", "no stricter than what the context's own lease holds of this name", o.limit)
		}
		if there.again() {
			return there, nil
		}
	}
	began := time.Now()
	err := ctx.Err()
	if l.closed.Load() {
		err = errClosed
	}
	if err != nil {
		err, why := failed(ctx, name, err)
		l.m.refused.WithLabelValues(why).Inc()
		return nil, err
	}
	h.l, h.refs = l, 1
	h.r = request{name: name, limit: o.limit, ttl: o.ttl, hold: o.hold, try: try, began: began}
	g, err := l.driver.acquire(ctx, &h.r)
	if err != nil {
		if l.closed.Load() {
			err = errClosed
		}
		err, why := failed(ctx, name, err)
		l.m.refused.WithLabelValues(why).Inc()
		return nil, err
	}
	h.begin(g)
	l.m.grants.Inc()
	l.m.held.Inc()
	if g.waited {
		l.m.waits.Observe(time.Since(began).Seconds())
	}
	if g.asked != began && !h.held() { // granted, and the answer came too late
		_ = h.end(ctx, nil)
		err, why := failed(ctx, name, errLate)
		l.m.refused.WithLabelValues(why).Inc()
		return nil, err
	}
	return h, nil
}
