package lock

import (
	"context"
	"errors"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdLease is a lease of etcd that keys of this process share.
type etcdLease struct {
	mu    sync.Mutex // held over a call, so that of many who need it one asks; guards what follows
	id    clientv3.LeaseID
	until time.Time // it lasts at least so long
	used  time.Time
}

// leaseFor is the TTL in seconds of the lease for holders whose own is ttl: at least twice that, in powers of two, so that a process has few of them.
func leaseFor(ttl time.Duration) int64 {
	seconds := uint64((ttl + time.Second - 1) / time.Second)
	return 2*int64(1)<<bits.Len64(seconds-1) + 2
}

// lease returns the shared lease with a TTL in seconds, which lasts for need and half a second at the least. The first to ask makes it.
func (c *cluster) lease(ctx context.Context, seconds int64, need time.Duration) (clientv3.LeaseID, error) {
	c.mu.Lock()
	l := c.leases[seconds]
	if l == nil {
		l = &etcdLease{}
		c.leases[seconds] = l
	}
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = time.Now()
	if l.id != 0 && l.until.Sub(l.used) > need+etcdMargin {
		return l.id, nil
	}
	if l.id != 0 {
		if err := c.keep(ctx, l); err == nil || !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return l.id, err
		}
	}
	ctx, cancel := etcdCtx(ctx)
	defer cancel()
	asked := time.Now()
	a, err := c.client.Grant(ctx, seconds)
	if err != nil {
		return 0, err
	}
	l.id, l.until = a.ID, asked.Add(time.Duration(a.TTL)*time.Second)
	id := l.id
	c.task(func() { c.keepUp(l, id, time.Duration(seconds)*time.Second) })
	return id, nil
}

// standing returns the lease of those who wait if this process has one, without asking etcd; else 0.
func (c *cluster) standing() clientv3.LeaseID {
	id, rest := c.waiting()
	if rest < etcdMargin {
		return 0
	}
	return id
}

// waiting returns the lease of those who wait and how long it lasts at the least. 0: there is none, or it is being asked for.
func (c *cluster) waiting() (id clientv3.LeaseID, rest time.Duration) {
	c.mu.Lock()
	l := c.leases[etcdWaits]
	c.mu.Unlock()
	if l == nil || !l.mu.TryLock() {
		return 0, 0
	}
	defer l.mu.Unlock()
	return l.id, time.Until(l.until)
}

// early grants without asking etcd. The caller knows that nobody stands before the request any more, and nobody ever enters there: it holds for as long as its key
// stands, which hangs on the lease waits and on nothing else, as those behind do not count the time of who waits. So the grant is for what is left of that lease,
// until renew has told etcd. What is not told in time is over, and its key goes. false: the lease is another one by now, or ends too soon.
func (c *cluster) early(q *request, base string, waits clientv3.LeaseID) (g grant, ok bool) {
	asked := time.Now() // the end of the lease is no earlier than rest after it
	id, rest := c.waiting()
	if rest -= etcdMargin; id != waits || id == 0 || rest < etcdMargin {
		return g, false
	}
	c.mu.Lock()
	known := c.base == base // else etcd was set up anew
	c.mu.Unlock()
	fence, err := etcdFence(base, q.created)
	if err != nil || !known {
		return g, false
	}
	g = grant{fence: fence, asked: asked, ttl: min(q.ttl, rest), waited: true, early: true}
	q.debt = &debt{timer: time.AfterFunc(g.ttl, func() {
		if c.began() {
			defer c.tasks.Done()
			c.giveUp(q, false)
		}
	})}
	c.earlies.Add(1)
	return g, true
}

// debt is what etcd is to be told of an early grant.
type debt struct {
	paid  atomic.Bool
	timer *time.Timer // has the key go when it is not told in time
}

// pay notes that etcd has been told; false: too late.
func (q *request) pay() bool { return q.debt == nil || q.debt.paid.Swap(true) || q.debt.timer.Stop() }

// keep makes the lease last its whole TTL again. The caller holds its mu.
func (c *cluster) keep(ctx context.Context, l *etcdLease) error {
	ctx, cancel := etcdCtx(ctx)
	defer cancel()
	asked := time.Now()
	a, err := c.client.KeepAliveOnce(ctx, l.id)
	switch {
	case err == nil:
		l.until = asked.Add(time.Duration(a.TTL) * time.Second)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		l.id = 0
	}
	return err
}

// keepUp keeps a lease alive while there is use for it.
func (c *cluster) keepUp(l *etcdLease, id clientv3.LeaseID, ttl time.Duration) {
	for {
		select {
		case <-c.run.Done():
			return
		case <-time.After(ttl / 4):
		}
		l.mu.Lock()
		switch idle := time.Since(l.used); {
		case l.id != id:
		case idle > max(2*ttl, 10*time.Second):
			l.id = 0 // what still hangs on it is of holders who are not renewed
		default:
			_ = c.keep(c.run, l) // tried again in time; the next to need it learns it first
		}
		over := l.id != id
		l.mu.Unlock()
		if over {
			return
		}
	}
}

// forgetLease is called when etcd does not know a lease.
func (c *cluster) forgetLease(id clientv3.LeaseID) {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.leases))
	c.mu.Unlock()
	for _, l := range all {
		l.mu.Lock()
		if l.id == id {
			l.id = 0
		}
		l.mu.Unlock()
	}
}

// etcdEvent is a key put, or deleted (kv is nil).
type etcdEvent struct {
	key      string
	revision int64
	kv       *mvccpb.KeyValue
	at       time.Time
}

// etcdLog events of a name are remembered at the most.
const etcdLog = 512

// hearing hears what happens to the keys of one name, for all of this process who wait for it. It goes on for a while after the last one, since names that
// are waited for once often are so again.
type hearing struct {
	cancel context.CancelFunc

	mu    sync.Mutex // guards what follows
	ears  map[*etcdEar]struct{}
	log   []etcdEvent
	since int64 // what happened after this revision is in the log; 0: nothing is heard yet
	idle  *time.Timer
}

// etcdEar is one who waits.
type etcdEar struct {
	h    *hearing
	c    *cluster
	name string
	own  string        // its key
	call chan struct{} // that there is something to hear

	key string // whose end it waits for; "": all before it. Guarded by h.mu
}

func (c *cluster) listen(q *request) *etcdEar {
	e := &etcdEar{c: c, name: q.name, own: c.key(q), call: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hearings[q.name]
	if h == nil {
		ctx, cancel := context.WithCancel(c.run)
		h = &hearing{cancel: cancel, ears: map[*etcdEar]struct{}{}}
		c.hearings[q.name] = h
		c.tasks.Add(1) // an acquisition is counted already, so close has not come past it
		go func() {
			defer c.tasks.Done()
			defer cancel()
			c.hear(ctx, h, c.folder(q.name))
		}()
	}
	e.h = h
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ears[e] = struct{}{}
	if h.idle != nil {
		h.idle.Stop()
	}
	return e
}

func (e *etcdEar) leave() {
	h := e.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if delete(h.ears, e); len(h.ears) > 0 {
		return
	}
	h.idle = time.AfterFunc(etcdLinger, func() {
		e.c.mu.Lock()
		defer e.c.mu.Unlock()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.ears) == 0 && e.c.hearings[e.name] == h {
			delete(e.c.hearings, e.name)
			h.cancel()
		}
	})
}

// wake says that there is something to hear. The caller holds h.mu.
func (e *etcdEar) wake() {
	select {
	case e.call <- struct{}{}:
	default:
	}
}

// minds reports whether what happens to a key is the ear's business. The caller holds h.mu.
func (e *etcdEar) minds(key string) bool { return e.key == "" || e.key == key || e.own == key }

// points says what the ear waits for, as its view has it, and wakes it when something has happened there since.
func (e *etcdEar) points(v *view) {
	h := e.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.key = ""; len(v.before) == 1 {
		e.key = v.before[0].key
	}
	if h.since == 0 {
		return
	}
	missed := v.revision < h.since
	for i := range h.log {
		missed = missed || h.log[i].revision > v.revision && e.minds(h.log[i].key)
	}
	if missed {
		e.wake()
	}
}

// hears brings the view up to date with what was heard; its revision is 0 when it has to be read anew. false: the own key, made at created, is gone.
func (e *etcdEar) hears(v *view, created int64) bool {
	h := e.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since == 0 || v.revision == 0 {
		return true
	}
	if v.revision < h.since {
		v.revision = 0
		return true
	}
	for i := range h.log {
		ev := &h.log[i]
		if ev.revision <= v.revision {
			continue
		}
		if ev.key == e.own && ev.kv == nil && ev.revision > created {
			return false
		}
		v.apply(*ev)
	}
	if n := len(h.log); n > 0 {
		v.revision = max(v.revision, h.log[n-1].revision)
	}
	return true
}

// hear is one life of a hearing. The client itself goes on where it was after a connection broke.
func (c *cluster) hear(ctx context.Context, h *hearing, folder string) {
	for ctx.Err() == nil {
		watched, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for a := range c.client.Watch(watched, folder, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
			if err := a.Err(); err != nil {
				if ctx.Err() == nil {
					c.log.Warn("who waits for a lock is not called for the moment and looks instead", "error", err)
				}
				break
			}
			h.take(&a)
		}
		stop()
		h.mu.Lock()
		h.since, h.log = 0, nil
		h.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(2 * deafLook):
		}
	}
}

func (h *hearing) take(a *clientv3.WatchResponse) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.Created {
		h.since, h.log = a.Header.Revision, h.log[:0]
		for e := range h.ears {
			e.wake() // what it has seen may be older
		}
	}
	for _, ev := range a.Events {
		e := etcdEvent{key: string(ev.Kv.Key), revision: ev.Kv.ModRevision, at: now}
		if ev.Type == mvccpb.PUT {
			e.kv = ev.Kv
		}
		if len(h.log) == etcdLog {
			h.since = h.log[etcdLog/2-1].revision
			h.log = append(h.log[:0], h.log[etcdLog/2:]...)
		}
		h.log = append(h.log, e)
		for ear := range h.ears {
			if ear.minds(e.key) {
				ear.wake()
			}
		}
	}
}
