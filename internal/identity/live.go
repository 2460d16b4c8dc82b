package identity

import (
	"sync"
	"sync/atomic"

	"levee"
	"levee/internal/platform/obs"
)

// live is what this process knows about one session at this moment. Every cached credential of the session points to the
// same live, so one store ends them all.
type live struct {
	// bits is 0 while unknown, else stateOpen or stateEnded; the roles stand above rolesShift.
	bits atomic.Uint64
	// seen is when a cookie session was last used, flushed the newest time that SQL has; microseconds.
	seen    atomic.Int64
	flushed atomic.Int64

	version int64 // of the user row the roles came from; guarded by the shard's lock
	until   int64 // no cached credential that points here is good from then on; guarded by the shard's lock
}

const (
	stateOpen  = 1
	stateEnded = 2
	stateMask  = 3
	rolesShift = 8
)

// minSweep is the size under which a shard is not worth a sweep.
const minSweep = 64

// registry holds the live of each session that a cached credential may point to. Its protocol closes the race between
// somebody who reads a session from SQL and somebody who ends it there:
//
//	reader: hold, then read SQL, then learn        ender: commit, then end
//
// Either the reader's hold came before end, then end reaches the held state and learn cannot undo it; or it came after,
// then the read began after the commit and sees it. Roles are ordered by the user row's version in the same way.
type registry struct {
	now    obs.Clock
	shards [64]liveShard
}

type liveShard struct {
	mu      sync.Mutex // guards m, sweepAt and the fields of each live that say so
	m       map[int64]*live
	sweepAt int // size at which expired states are dropped; twice the size after the last sweep, so the cost is amortised
}

func newRegistry(now obs.Clock) *registry {
	r := &registry{now: now}
	for i := range r.shards {
		r.shards[i].m, r.shards[i].sweepAt = map[int64]*live{}, minSweep
	}
	return r
}

func (r *registry) shard(session int64) *liveShard {
	// The low bits of an id are its sequence number, the next ones the worker's: both are mixed in.
	return &r.shards[(uint64(session)*0x9E3779B97F4A7C15)>>58]
}

// hold returns the session's state, made unknown if it was not there, and keeps it until the given time at least.
func (r *registry) hold(session, until int64) *live {
	shard := r.shard(session)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	l := shard.m[session]
	if l == nil {
		if len(shard.m) >= shard.sweepAt {
			shard.sweep(r.now().UnixMicro())
		}
		l = &live{}
		shard.m[session] = l
	}
	l.until = max(l.until, until)
	return l
}

// sweep drops what no credential can point to any more. A dropped state becomes unknown, so that should the clock have
// been stepped, a credential that still points to it is read anew instead of missing a later end.
func (s *liveShard) sweep(now int64) {
	for session, l := range s.m {
		if l.until < now {
			l.bits.Store(0)
			delete(s.m, session)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.m))
}

// learn stores what SQL said about an open session, unless something newer is known; the state then stays as it is, and
// when that is unknown the caller has to start again from hold.
func (r *registry) learn(session int64, l *live, roles levee.Roles, version, seen int64) {
	shard := r.shard(session)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.m[session] != l || l.bits.Load()&stateMask == stateEnded || version < l.version {
		return
	}
	l.version = version
	l.bits.Store(stateOpen | uint64(roles)<<rolesShift)
	if seen > l.seen.Load() {
		l.seen.Store(seen)
		l.flushed.Store(seen)
	}
}

// end closes the sessions for this process. Called after the commit that ended them.
func (r *registry) end(sessions ...int64) {
	for _, session := range sessions {
		shard := r.shard(session)
		shard.mu.Lock()
		if l := shard.m[session]; l != nil {
			l.bits.Store(stateEnded)
		}
		shard.mu.Unlock()
	}
}

// forget makes the state unknown: whoever has a credential that points to it reads SQL anew. Called after the commit that changed
// what SQL says.
func (r *registry) forget(session int64) {
	shard := r.shard(session)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if l := shard.m[session]; l != nil {
		l.bits.Store(0)
		delete(shard.m, session)
	}
}

// setRoles gives open sessions of a user their new roles. Called after the commit that changed them.
func (r *registry) setRoles(roles levee.Roles, version int64, sessions ...int64) {
	for _, session := range sessions {
		shard := r.shard(session)
		shard.mu.Lock()
		if l := shard.m[session]; l != nil && version > l.version {
			l.version = version
			if l.bits.Load()&stateMask == stateOpen {
				l.bits.Store(stateOpen | uint64(roles)<<rolesShift)
			}
		}
		shard.mu.Unlock()
	}
}

// unflushed returns up to n cookie sessions whose last use is newer than SQL knows.
func (r *registry) unflushed(n int) []seenSession {
	var list []seenSession
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		for session, l := range shard.m {
			if len(list) == n {
				break
			}
			if at := l.seen.Load(); at > l.flushed.Load() && l.bits.Load()&stateMask == stateOpen {
				list = append(list, seenSession{session: session, at: at, state: l})
			}
		}
		shard.mu.Unlock()
	}
	return list
}

// seenSession is a session's last use, on its way to SQL.
type seenSession struct {
	session, at int64
	state       *live
}

func (r *registry) len() int {
	n := 0
	for i := range r.shards {
		r.shards[i].mu.Lock()
		n += len(r.shards[i].m)
		r.shards[i].mu.Unlock()
	}
	return n
}
