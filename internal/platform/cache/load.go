package cache

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"levee"
)

// flight is a copy in the making, for which others wait.
type flight[V any] struct {
	done chan struct{}
	e    versioned[V]
	err  error
	left bool // whoever made it gave up: another begins anew
}

// join waits for the copy that is being made, or makes it. What a change was heard of is no flight to join any more, so whoever comes
// after the change waits for nothing that was read before it.
func (s *Shared[K, V]) join(ctx context.Context, k K, load Load[K, V]) (e versioned[V], err error) {
	sh := s.shard(k)
	for {
		sh.mu.Lock()
		f, ok := sh.flights[k]
		if !ok {
			f = &flight[V]{done: make(chan struct{}), left: true}
			sh.flights[k] = f
			since := sh.buried
			sh.mu.Unlock()
			s.fly(ctx, k, f, since, load)
			return f.e, f.err
		}
		sh.mu.Unlock()
		select {
		case <-f.done:
			if !f.left {
				return f.e, shared(f.err)
			}
		case <-ctx.Done():
			return e, ctx.Err()
		}
	}
}

// shared returns an error that another may have too, and each may change.
func shared(err error) error {
	var e *levee.Error
	if errors.As(err, &e) {
		return clone(err)
	}
	return err
}

// fly makes the flight's copy. A load that panics ends the flight all the same.
func (s *Shared[K, V]) fly(ctx context.Context, k K, f *flight[V], since uint64, load Load[K, V]) {
	defer func() {
		sh := s.shard(k)
		sh.mu.Lock()
		if sh.flights[k] == f {
			delete(sh.flights, k)
		}
		sh.mu.Unlock()
		close(f.done)
	}()
	var keep bool
	f.e, keep, f.err = s.fetch(ctx, k, false, load)
	f.left = f.err != nil && ctx.Err() != nil
	if f.err == nil && keep {
		s.put(k, f.e, since)
	}
}

// strictly is Get for Strict. It joins nothing: whatever is under way in this process may have begun before a change that it must see.
func (s *Shared[K, V]) strictly(ctx context.Context, k K, load Load[K, V]) (versioned[V], error) {
	sh := s.shard(k)
	sh.mu.Lock()
	since := sh.buried
	sh.mu.Unlock()
	e, keep, err := s.fetch(ctx, k, true, load)
	if err == nil && keep {
		s.put(k, e, since)
	}
	return e, err
}

// fetch gets a copy from the second level, or from SQL. keep is false for what the second level has something newer of.
func (s *Shared[K, V]) fetch(ctx context.Context, k K, strict bool, load Load[K, V]) (e versioned[V], keep bool, err error) {
	age := s.age.Load() // before anything is read
	plan := plan{primary: strict, owner: s.me}
	if there, ok := s.first.GetEntryQuietly(k); ok && there.Value.buried {
		plan.floor = there.Value.version // this node's own change
	}
	if s.remote != nil {
		key, err := s.codec.key(k)
		if err != nil {
			return e, false, err
		}
		plan.key = key
		found, soft, ok, err := s.second(ctx, &plan)
		switch {
		case ctx.Err() != nil:
			return e, false, ctx.Err()
		case err != nil:
			plan.away, plan.epoch = true, nil
		case ok:
			found.age = age
			s.m.second.Inc()
			s.sampled(ctx, k, &found, 1, load)
			if soft.Before(time.Now()) && !strict {
				s.renew(ctx, k, load)
			}
			return found, found.version >= plan.floor, nil
		}
	}
	e, keep, err = s.load(ctx, k, plan, load)
	e.age = age
	return e, keep, err
}

// plan is what a load has to heed.
type plan struct {
	key     string
	floor   int64  // the least version that is new enough
	primary bool   // replicas are not asked
	away    bool   // the second level does not answer
	epoch   *epoch // in which the copy is stored; nil: it is not
	begin   int64  // the server's time in ms before the load
	owner   string // of the lease
	leased  bool   // the lease is ours
}

// second asks the second level, and waits for another process that is loading the key. When ok is false the caller loads, and plan says
// how.
func (s *Shared[K, V]) second(ctx context.Context, plan *plan) (copied versioned[V], soft time.Time, ok bool, err error) {
	usable := func(f stored) bool {
		if f.version >= plan.floor { // else it is on its way to being replaced
			copied, ok = s.codec.read(f)
			soft = f.soft
		}
		return ok
	}
	found, e, err := s.remote.get(ctx, plan.key)
	if err != nil {
		return copied, soft, false, err
	}
	s.worth.asks.Add(1)
	if usable(found) {
		s.worth.hits.Add(1)
		return copied, soft, true, nil
	}
	if found.kind == kindTombstone {
		s.m.tombstones.Inc()
	}
	if s.worth.idle.Load() { // what is loaded is not stored, so there is nobody to wait for
		plan.epoch, plan.floor = e, max(plan.floor, found.version)
		plan.primary = plan.primary || s.young(e)
		return copied, soft, false, nil
	}
	plan.owner = crand.Text()
	length := min(leaseMost, s.cfg.MaxLoad)
	until := time.Now().Add(length)
	for pause := 2 * time.Millisecond; ; pause *= 2 {
		found, plan.leased, plan.begin, e, err = s.remote.lease(ctx, plan.key, plan.owner, length, false)
		if err != nil || usable(found) {
			return copied, soft, ok, err
		}
		plan.epoch, plan.floor = e, max(plan.floor, found.version)
		if plan.leased || found.kind == kindValue || found.kind == kindAbsent || time.Now().After(until) {
			break
		}
		s.m.waited.Inc()
		select {
		case <-ctx.Done():
			return copied, soft, false, ctx.Err()
		case <-time.After(pause + rand.N(pause)):
		}
	}
	plan.primary = plan.primary || s.young(e)
	return copied, soft, false, nil
}

// young reports whether an epoch before this one may have known of changes that a replica does not show yet: that is lost.
func (s *Shared[K, V]) young(e *epoch) bool { return time.Since(e.began) < s.grave() }

// load reads from SQL: from wherever the caller's context leads, and from the primary when that was behind the second level. The copy
// is stored in the second level, which refuses it when it has something newer.
func (s *Shared[K, V]) load(ctx context.Context, k K, plan plan, load Load[K, V]) (e versioned[V], keep bool, err error) {
	stored := false
	if plan.leased {
		defer func() {
			if !stored {
				s.remote.release(ctx, plan.epoch, plan.key, plan.owner)
			}
		}()
	}
	end, err := s.budget.begin(ctx, plan.away)
	if err != nil {
		if levee.CodeOf(err) == levee.CodeUnavailable {
			s.m.shed.Inc()
		}
		return e, false, err
	}
	defer end()
	began := time.Now()
	e, err = s.read(ctx, k, plan.primary, load)
	if err == nil && e.version < plan.floor && !plan.primary && s.cfg.Primary != nil {
		s.m.behind.Inc()
		e, err = s.read(ctx, k, true, load)
	}
	s.m.load(time.Since(began), err)
	if err != nil {
		return e, false, err
	}
	if e.absent != nil {
		e.version = plan.floor // the primary, or a replica that is not behind, has no row, or none any more
	}
	keep, stored = s.store(ctx, plan, &e)
	return e, keep, nil
}

// store stores a copy in the second level, and reports whether the first may keep it, and whether it was sent.
func (s *Shared[K, V]) store(ctx context.Context, plan plan, e *versioned[V]) (keep, sent bool) {
	f, keep := s.filling(plan, e)
	if f == nil {
		return keep, false
	}
	taken, err := s.remote.fill(ctx, plan.epoch, f, s.oldest())
	return s.stored(taken, err), true
}

// filling makes what is sent to the second level; nil for what is not, of which keep says whether the first level may have it.
func (s *Shared[K, V]) filling(plan plan, e *versioned[V]) (f *filling, keep bool) {
	keep = e.version >= plan.floor
	if plan.epoch == nil || s.worth.idle.Load() {
		return nil, keep
	}
	soft, life := s.spread(s.cfg.Soft), s.spread(s.cfg.Hard)
	if e.absent != nil {
		soft, life = s.cfg.NegativeTTL, s.spread(s.cfg.NegativeTTL)
	}
	text, err := s.codec.write(e, time.Now().Add(soft))
	if err != nil {
		return nil, false // a float that is not a number, say: it is not kept anywhere
	}
	if len(text.body) > bodyMost || strings.Contains(text.body, mangled) {
		s.m.large.Inc()
		return nil, keep
	}
	return &filling{plan.key, text, max(life, time.Millisecond), plan.begin, plan.owner}, true
}

func (s *Shared[K, V]) stored(taken bool, err error) (keep bool) {
	if err == nil && !taken {
		s.m.refused.Inc()
	}
	return err == nil && taken
}

// oldest is how long ago a load may have begun whose result is stored.
func (s *Shared[K, V]) oldest() time.Duration { return s.grave() - s.cfg.MaxLag }

// read calls the caller's function. Absence is a copy too, of version 0.
func (s *Shared[K, V]) read(ctx context.Context, k K, primary bool, load Load[K, V]) (e versioned[V], err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.MaxLoad)
	defer cancel()
	if primary && s.cfg.Primary != nil {
		ctx = s.cfg.Primary(ctx)
	}
	e.value, e.version, err = load(ctx, k)
	if levee.CodeOf(err) == levee.CodeNotFound {
		var none V
		e.value, e.version, e.absent, err = none, 0, clone(err), nil
	}
	if err == nil && e.absent == nil && e.version < 1 {
		err = levee.Invalid("version", "at least 1", e.version)
	}
	return e, err
}

// renew loads a key in the background, unless somebody does, here or elsewhere, or enough others are being loaded.
func (s *Shared[K, V]) renew(ctx context.Context, k K, load Load[K, V]) {
	select {
	case s.renewals <- struct{}{}:
	default:
		return
	}
	sh := s.shard(k)
	sh.mu.Lock()
	_, busy := sh.renewing[k]
	if busy = busy || s.ctx.Err() != nil; !busy {
		sh.renewing[k] = struct{}{}
	}
	since := sh.buried
	sh.mu.Unlock()
	if busy {
		<-s.renewals
		return
	}
	s.background(ctx, func(ctx context.Context) {
		defer func() {
			sh.mu.Lock()
			delete(sh.renewing, k)
			sh.mu.Unlock()
		}()
		plan, ok := s.renewal(ctx, k)
		if !ok {
			return
		}
		age := s.age.Load()
		e, keep, err := s.load(ctx, k, plan, load)
		if e.age = age; err == nil && keep {
			s.m.renewed.Inc()
			s.put(k, e, since)
		}
	})
}

// background runs a load that nobody waits for, and gives back its place among the renewals.
func (s *Shared[K, V]) background(ctx context.Context, load func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.MaxLoad)
	unhook := context.AfterFunc(s.ctx, cancel)
	s.tasks.Go(func() {
		defer func() {
			s.caught(recover())
			unhook()
			cancel()
			<-s.renewals
		}()
		load(ctx)
	})
}

// caught logs the panic of a load that nobody waits for, which would end the process.
func (s *Shared[K, V]) caught(bug any) {
	if bug != nil {
		s.log.Error("a load in the background panicked", "panic", bug, "stack", string(debug.Stack()))
	}
}

// renewal asks to be the one who loads a key anew. Nobody waits for that one, so the lease lasts as long as the load may.
func (s *Shared[K, V]) renewal(ctx context.Context, k K) (p plan, ok bool) {
	if there, ok := s.first.GetEntryQuietly(k); ok && there.Value.buried {
		p.floor = there.Value.version
	}
	if s.remote == nil {
		return p, true
	}
	if s.worth.idle.Load() {
		return p, false
	}
	key, err := s.codec.key(k)
	if err != nil {
		return p, false
	}
	p.key, p.owner = key, crand.Text()
	found, granted, begin, e, err := s.remote.lease(ctx, key, p.owner, s.cfg.MaxLoad, true)
	if err != nil || !granted {
		return p, false
	}
	p.leased, p.begin, p.epoch = true, begin, e
	p.floor = max(p.floor, found.version)
	p.primary = s.young(e)
	return p, true
}
