package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"levee"
	"levee/internal/platform/obs"
)

const (
	// etcdWaits is the TTL of the lease, in seconds, that keeps the keys of those of one process who wait: they go that long after its death.
	etcdWaits = 3
	// etcdCall bounds one call where the caller's ctx has a later end, or none.
	etcdCall = 3 * time.Second
	// etcdLook is how often one who waits looks though he has heard nothing.
	etcdLook = 2 * time.Second
	// etcdLinger is how long a name is listened to after the last one who waited for it.
	etcdLinger = 5 * time.Second
	// etcdMargin is how much of a lease of etcd nothing is built on: clocks run at rates that differ, and a leader that was cut off may answer for a moment.
	etcdMargin = 500 * time.Millisecond
	// etcdForever is the TTL of an entry that goes with its lease alone.
	etcdForever = 100 * 365 * 24 * time.Hour
)

// cluster is the driver that keeps places in etcd: a key for each request, PREFIXlock/{NAME}/TOKEN, in the order of their create revisions. A request holds
// as soon as fewer stand before it than its limit and each of theirs. As nobody ever enters before it, that stays so: there is nothing to hand over, only
// to find out.
//
// Who waits for the name alone and hears the key before his go knows that he holds, without asking, if that one was the first: then nobody is left, and an old
// piece of news stays true. etcd is told in the background (early).
//
// A key says "h" of one who holds or thinks so, with its TTL, or "w" of one who waits; and "first" of one who holds alone, of whom etcd has seen that nobody stands
// before him. Leases of etcd only clear up after the dead: those of
// holders last longer than the TTL, which those behind measure by themselves, from when they saw the key change last; so it counts in milliseconds
// (etcd knows seconds, from 2 on), and no two clocks are compared. Each process has a lease for all that wait, and a few for holders by the length of their TTL:
// one for each request would cost two more writes.
type cluster struct {
	client *clientv3.Client
	prefix string
	log    *slog.Logger
	run    context.Context
	stop   context.CancelFunc
	watch  // what tries have seen

	mu       sync.Mutex // guards what follows
	closed   bool
	tasks    sync.WaitGroup
	base     string // what the fences of this store begin at, in decimal; "": not read yet
	leases   map[int64]*etcdLease
	hearings map[string]*hearing

	earlies atomic.Int64 // grants that were made without asking
}

// OpenEtcd makes locks that all processes share over etcd, as durable as what etcd has answered and as available as its majority. prefix is put before each key. client
// is not closed by Close; it should have DialKeepAliveTime set, so that a dead connection is noticed.
//
// First come, first served over all processes, in the order in which etcd took the requests. The fence is the revision of that moment after a number that the store keeps since
// its first use, that time's microseconds: it rises over crashes, restarts and changes of the leader, and also when etcd was set up anew without its
// data, unless the clock was put back. After a restore of an old backup it may fall; such a thing needs another prefix.
//
// Who waits is called by the release. No two clocks are compared: a holder is dead when one who waits has seen it stand still for its TTL. TryAcquire finds a dead
// holder's name free when this process has tried before, at least a TTL ago; or after about twice its TTL, up to four times, when its process has died too. Of a
// name with Shared or Permits each acquisition reads all who are there: hundreds are fine, thousands are dear.
func OpenEtcd(cfg Config, client *clientv3.Client, prefix string, o *obs.Obs) (_ *Locks, err error) {
	defer levee.Wrap(&err, "lock.OpenEtcd")
	if len(prefix) > 64 || strings.Trim(prefix, "abcdefghijklmnopqrstuvwxyz0123456789-_.:/") != "" {
		return nil, levee.Invalid("etcd.prefix", "up to 64 of a-z, 0-9, '-', '_', '.', ':' and '/'", levee.Shorten(strings.ToValidUTF8(prefix, "?"), 80))
	}
	return open(cfg, o, "etcd", func(l *Locks) (driver, error) { return newCluster(client, prefix, l.log), nil })
}

func newCluster(client *clientv3.Client, prefix string, log *slog.Logger) *cluster {
	c := &cluster{client: client, prefix: prefix + "lock/", log: log, leases: map[int64]*etcdLease{}, hearings: map[string]*hearing{}}
	c.seen = map[string]map[string]sighting{}
	c.run, c.stop = context.WithCancel(context.Background())
	return c
}

// folder is what all keys of a name begin with. A name has no braces, so none is the beginning of another.
func (c *cluster) folder(name string) string { return c.prefix + "{" + name + "}/" }

func (c *cluster) key(q *request) string { return c.folder(q.name) + q.token }

func (c *cluster) baseKey() string { return c.prefix + "base" }

// opView reads what a view is made of. With created, only keys from before it.
func (c *cluster) opView(q *request, created int64) clientv3.Op {
	opts := []clientv3.OpOption{clientv3.WithPrefix()}
	if q.limit == 1 {
		opts = clientv3.WithLastCreate()
	}
	if created > 0 {
		opts = append(opts, clientv3.WithMaxCreateRev(created-1))
	}
	return clientv3.OpGet(c.folder(q.name), opts...)
}

// etcdCtx bounds a call.
func etcdCtx(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(clientv3.WithRequireLeader(ctx), etcdCall)
}

// etcdFence makes the fence of a create revision.
func etcdFence(base string, created int64) (uint64, error) {
	b, err := strconv.ParseInt(base, 10, 64)
	if err != nil || b < 0 || b+created >= 1<<53 {
		return 0, fmt.Errorf("the key of the fences' base says %q", levee.Shorten(base, 40))
	}
	return uint64(b + created), nil
}

// readBase returns what fences begin at; the first one ever to ask sets it.
func (c *cluster) readBase(ctx context.Context) (string, error) {
	c.mu.Lock()
	base := c.base
	c.mu.Unlock()
	if base != "" {
		return base, nil
	}
	ctx, cancel := etcdCtx(ctx)
	defer cancel()
	fresh := strconv.FormatInt(time.Now().UnixMicro(), 10)
	a, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(c.baseKey()), "=", 0)).Then(clientv3.OpPut(c.baseKey(), fresh)).
		Else(clientv3.OpGet(c.baseKey())).Commit()
	if err != nil {
		return "", err
	}
	if base = fresh; !a.Succeeded {
		base = string(a.Responses[0].GetResponseRange().Kvs[0].Value)
	}
	c.setBase(base)
	return base, nil
}

func (c *cluster) setBase(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = base
}

// noteLost looks what a failed call says of leases; it reports whether trying again at once is worth while.
func (c *cluster) noteLost(err error, ids ...clientv3.LeaseID) bool {
	if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return false
	}
	for _, id := range ids {
		c.forgetLease(id)
	}
	return true
}

func (c *cluster) acquire(ctx context.Context, q *request) (g grant, err error) {
	if !c.began() {
		return g, errClosed
	}
	defer c.tasks.Done()
	for try := range 100 { // beyond the first, only where the place in the queue was lost
		if try > 0 {
			select {
			case <-ctx.Done():
				return g, ctx.Err()
			case <-time.After(time.Duration(try) * 10 * time.Millisecond):
			}
		}
		q.token, q.created = newToken(), 0
		if q.try {
			g, err = c.tryOnce(ctx, q)
		} else {
			g, err = c.enter(ctx, q, c.standing())
		}
		if !errors.Is(err, errAgain) {
			break
		}
	}
	if err != nil && c.run.Err() != nil {
		err = errClosed
	}
	return g, err
}

// errAgain: the request has to be made anew.
var errAgain = errors.New("lock: what etcd knew is gone; it has to be asked anew")

// tryOnce asks for a place that is free now. It leaves no trace when there is none.
func (c *cluster) tryOnce(ctx context.Context, q *request) (grant, error) {
	for {
		base, err := c.readBase(ctx)
		if err != nil {
			return grant{}, err
		}
		lease, err := c.lease(ctx, leaseFor(q.ttl), q.ttl)
		if err != nil {
			return grant{}, err
		}
		folder, key := c.folder(q.name), c.key(q)
		free := clientv3.Compare(clientv3.CreateRevision(folder).WithPrefix(), "=", 0)
		if q.limit > 1 {
			try, cancel := etcdCtx(ctx)
			a, err := c.client.Do(try, c.opView(q, 0))
			cancel()
			if err != nil {
				return grant{}, err
			}
			var v view
			v.see(a.Get().Header.Revision, a.Get().Kvs, time.Now())
			if !v.enters(q.limit) {
				if c.buried(ctx, q, &v) {
					continue
				}
				return grant{}, errHeld
			}
			// Nobody has come since.
			free = clientv3.Compare(clientv3.CreateRevision(folder).WithPrefix(), "<", v.revision+1)
		}
		asked := time.Now()
		try, cancel := etcdCtx(ctx)
		a, err := c.client.Txn(try).If(clientv3.Compare(clientv3.Value(c.baseKey()), "=", base), free).
			Then(clientv3.OpPut(key, q.etcdValue('h', q.ttl), clientv3.WithLease(lease))).
			Else(clientv3.OpGet(c.baseKey()), clientv3.OpGet(key), c.opView(q, 0)).Commit()
		cancel()
		switch {
		case err != nil && c.noteLost(err, lease):
			continue
		case err != nil:
			c.giveUp(q, true)
			return grant{}, err
		case a.Succeeded:
			return c.granted(q, base, a.Header.Revision, asked, false)
		}
		if c.otherBase(base, a.Responses[0].GetResponseRange().Kvs) {
			continue
		}
		if own := a.Responses[1].GetResponseRange().Kvs; len(own) > 0 { // the client sent it twice, and the first answer was lost
			return c.granted(q, base, own[0].CreateRevision, asked, false)
		}
		var v view
		v.see(a.Header.Revision, a.Responses[2].GetResponseRange().Kvs, time.Now())
		if q.limit == 1 && !c.buried(ctx, q, &v) {
			return grant{}, errHeld
		}
	}
}

// buried removes one of those in the way whom this process has seen stand still for too long; it reports whether it did.
func (c *cluster) buried(ctx context.Context, q *request, v *view) bool {
	s := state{}
	for i := range v.before {
		b := &v.before[i]
		e := entry{token: b.key, beat: b.modified, ttl: b.ttl}
		if !b.holds {
			e.ttl = etcdForever
		}
		s.entries = append(s.entries, e)
	}
	c.bury(q.name, &s, time.Now())
	for i := range v.before {
		if s.find(v.before[i].key) == nil {
			return c.remove(ctx, &v.before[i]) == nil
		}
	}
	return false
}

// remove deletes a key that has not changed since it was seen.
func (c *cluster) remove(ctx context.Context, s *stander) error {
	ctx, cancel := etcdCtx(ctx)
	defer cancel()
	_, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(s.key), "=", s.modified)).Then(clientv3.OpDelete(s.key)).Commit()
	return err
}

// otherBase takes note of a base that is not what we took it for; kvs is what a read of its key has found.
func (c *cluster) otherBase(base string, kvs []*mvccpb.KeyValue) bool {
	if len(kvs) > 0 && string(kvs[0].Value) == base {
		return false
	}
	c.setBase("")
	return true
}

func (c *cluster) granted(q *request, base string, created int64, asked time.Time, waited bool) (grant, error) {
	q.created = created
	fence, err := etcdFence(base, created)
	if err != nil {
		c.giveUp(q, false)
		return grant{}, err
	}
	return grant{fence: fence, asked: asked, ttl: q.ttl, waited: waited}, nil
}

// terms are what a grant of the request stands on: the base of its fence, and the lease that clears up after it.
func (c *cluster) terms(ctx context.Context, q *request) (base string, lease clientv3.LeaseID, err error) {
	if base, err = c.readBase(ctx); err == nil {
		lease, err = c.lease(ctx, leaseFor(q.ttl), q.ttl)
	}
	return base, lease, err
}

// enter puts the request behind all that are there, and waits for its turn; waits is the lease for who waits, 0: there is none yet.
func (c *cluster) enter(ctx context.Context, q *request, waits clientv3.LeaseID) (grant, error) {
	base, lease, err := c.terms(ctx, q)
	if err != nil {
		return grant{}, err
	}
	key := c.key(q)
	asked := time.Now()
	fresh := []clientv3.Cmp{clientv3.Compare(clientv3.Value(c.baseKey()), "=", base), clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}
	enters, refused := clientv3.OpPut(key, q.etcdValue('h', q.ttl), clientv3.WithLease(lease)), clientv3.OpGet(c.baseKey())
	try, cancel := etcdCtx(ctx)
	txn := c.client.Txn(try)
	if q.limit > 1 {
		txn = txn.If(fresh...).Then(c.opView(q, 0), enters).Else(refused)
	} else { // who does not get it stands in the queue at once, if this process has what it stands on
		behind := []clientv3.Op{}
		if waits != 0 {
			behind = append(behind, c.opView(q, 0), clientv3.OpPut(key, q.etcdValue('w', q.ttl), clientv3.WithLease(waits)))
		}
		free := clientv3.Compare(clientv3.CreateRevision(c.folder(q.name)).WithPrefix(), "=", 0)
		txn = txn.If(append(fresh, free)...).Then(enters).Else(clientv3.OpTxn(fresh, behind, []clientv3.Op{refused}))
	}
	a, err := txn.Commit()
	cancel()
	if err != nil {
		if c.noteLost(err, lease, waits) {
			return grant{}, errAgain
		}
		c.giveUp(q, true)
		return grant{}, err
	}
	q.created = a.Header.Revision
	said, done := a.Responses, a.Succeeded
	if q.limit == 1 && !done {
		inner := said[0].GetResponseTxn()
		said, done = inner.Responses, inner.Succeeded
	}
	switch {
	case !done:
		if !c.otherBase(base, said[0].GetResponseRange().Kvs) { // it is there already: the client sent it twice
			c.giveUp(q, false)
		}
		return grant{}, errAgain
	case q.limit == 1 && a.Succeeded:
		return c.granted(q, base, q.created, asked, false)
	case q.limit == 1 && waits == 0:
		if waits, err = c.lease(ctx, etcdWaits, 0); err != nil {
			return grant{}, err
		}
		return c.enter(ctx, q, waits)
	}
	var v view
	v.see(q.created, said[0].GetResponseRange().Kvs, time.Now())
	if v.enters(q.limit) {
		return c.granted(q, base, q.created, asked, false)
	}
	g, err := c.wait(ctx, q, &v, base, waits)
	if err != nil && !errors.Is(err, errAgain) {
		c.giveUp(q, false)
	}
	return g, err
}

// wait stands in the queue, behind whom v says; waits is the lease that the key of an exclusive one hangs on.
func (c *cluster) wait(ctx context.Context, q *request, v *view, base string, waits clientv3.LeaseID) (grant, error) {
	lease, err := c.lease(ctx, etcdWaits, 0)
	if err != nil {
		return grant{}, err
	}
	ear := c.listen(q)
	defer ear.leave()
	if q.limit > 1 { // it has entered as one who thinks that he holds
		own := clientv3.Compare(clientv3.CreateRevision(ear.own), "=", q.created)
		try, cancel := etcdCtx(ctx)
		a, err := c.client.Txn(try).If(own).Then(clientv3.OpPut(ear.own, q.etcdValue('w', q.ttl), clientv3.WithLease(lease)), c.opView(q, q.created)).Commit()
		cancel()
		switch {
		case err != nil && c.noteLost(err, lease):
			c.giveUp(q, false)
			return grant{}, errAgain
		case err != nil:
			return grant{}, err
		case !a.Succeeded:
			return grant{}, errAgain
		}
		v.see(a.Header.Revision, a.Responses[1].GetResponseRange().Kvs, time.Now())
	}
	doubt := q.limit > 1 // that the key still says "w" and hangs on waits
	for {
		fails := false
		switch {
		case !v.enters(q.limit):
		case q.limit == 1 && !v.sure:
			v.revision = 0
		default:
			if !doubt {
				if g, ok := c.early(q, base, waits); ok {
					return g, nil
				}
			}
			g, err := c.claim(ctx, q, v)
			if err == nil || errors.Is(err, errAgain) {
				return g, err
			}
			fails = !errors.Is(err, errHeld)
			doubt = doubt || fails // the claim may have been carried out: then those behind count from there
		}
		one, next := v.dead(time.Now())
		if one != nil && !fails {
			if fails = c.remove(ctx, one) != nil; !fails {
				v.revision = 0
			}
		}
		if v.revision == 0 && !fails {
			switch err := c.look(ctx, q, v); {
			case errors.Is(err, errAgain):
				return grant{}, err
			case err == nil:
				continue
			}
			fails = true
		}
		next = min(next, etcdLook)
		if fails {
			next = 4 * deafLook // it stands in the queue: it waits on, as long as the caller wants
		}
		ear.points(v)
		called, err := stand(ctx, c.run, ear.call, next)
		if err != nil {
			return grant{}, err
		}
		if !called && (fails || next == etcdLook) {
			v.revision = 0
		}
		if !ear.hears(v, q.created) {
			return grant{}, errAgain
		}
	}
}

// look reads the view anew.
func (c *cluster) look(ctx context.Context, q *request, v *view) error {
	if _, err := c.lease(ctx, etcdWaits, 0); err != nil { // it is kept while it is asked for
		return err
	}
	ctx, cancel := etcdCtx(ctx)
	defer cancel()
	a, err := c.client.Txn(ctx).Then(clientv3.OpGet(c.key(q), clientv3.WithKeysOnly()), c.opView(q, q.created)).Commit()
	if err != nil {
		return err
	}
	if own := a.Responses[0].GetResponseRange().Kvs; len(own) == 0 || own[0].CreateRevision != q.created {
		return errAgain
	}
	v.see(a.Header.Revision, a.Responses[1].GetResponseRange().Kvs, time.Now())
	return nil
}

// claim turns one who waits into one who holds, in the same step in which it is seen that his turn has come. errHeld: it has not.
func (c *cluster) claim(ctx context.Context, q *request, v *view) (grant, error) {
	base, lease, err := c.terms(ctx, q)
	if err != nil {
		return grant{}, err
	}
	key := c.key(q)
	all := []clientv3.Cmp{clientv3.Compare(clientv3.Value(c.baseKey()), "=", base), clientv3.Compare(clientv3.CreateRevision(key), "=", q.created)}
	if q.limit == 1 { // the view is of the last one alone
		all = append(all, clientv3.Compare(clientv3.CreateRevision(c.folder(q.name)).WithPrefix(), ">", q.created-1))
	}
	asked := time.Now()
	try, cancel := etcdCtx(ctx)
	defer cancel()
	a, err := c.client.Txn(try).If(all...).Then(clientv3.OpPut(key, q.etcdValue('h', q.ttl), clientv3.WithLease(lease))).
		Else(clientv3.OpGet(c.baseKey()), clientv3.OpGet(key, clientv3.WithKeysOnly()), c.opView(q, q.created)).Commit()
	switch {
	case err != nil:
		c.noteLost(err, lease)
		return grant{}, err
	case a.Succeeded:
		return c.granted(q, base, q.created, asked, true)
	case len(a.Responses[1].GetResponseRange().Kvs) == 0:
		return grant{}, errAgain
	case c.otherBase(base, a.Responses[0].GetResponseRange().Kvs):
		return grant{}, errors.New("the fences have another base")
	}
	v.see(a.Header.Revision, a.Responses[2].GetResponseRange().Kvs, time.Now())
	return grant{}, errHeld
}

// giveUp takes the request out. unsure: its own call may still be on its way and be carried out after what is said here, so it is said again.
func (c *cluster) giveUp(q *request, unsure bool) {
	key := c.key(q)
	drop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
		defer cancel()
		_, err := c.client.Delete(ctx, key)
		return err
	}
	err := drop()
	if err == nil && !unsure {
		return
	}
	c.task(func() {
		// A request that has come to a server is carried out within its 7 s or not at all.
		for _, pause := range []time.Duration{againEvery, time.Second, 2 * time.Second, 8 * time.Second} {
			for {
				select {
				case <-c.run.Done():
					return
				case <-time.After(pause):
				}
				if err := drop(); err == nil {
					break
				}
			}
			if !unsure {
				return
			}
		}
	})
}

func (c *cluster) renew(ctx context.Context, q *request, ttl time.Duration) error {
	lease, err := c.lease(ctx, leaseFor(q.ttl), q.ttl)
	if err != nil {
		return err
	}
	key := c.key(q)
	a, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", q.created)).
		Then(clientv3.OpPut(key, q.etcdValue('h', ttl), clientv3.WithLease(lease))).Commit()
	switch {
	case err != nil:
		c.noteLost(err, lease)
	case !a.Succeeded || q.created == 0 || !q.pay():
		err = errGone
	}
	return err
}

func (c *cluster) release(ctx context.Context, q *request) error {
	key := c.key(q)
	a, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", q.created)).Then(clientv3.OpDelete(key)).Commit()
	if err == nil && (!a.Succeeded || q.created == 0) {
		err = errGone
	}
	if err == nil {
		q.pay()
	}
	return err
}

// began counts an acquisition that close waits for; false: it is too late for one.
func (c *cluster) began() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.tasks.Add(1)
	}
	return !c.closed
}

func (c *cluster) task(f func()) {
	if c.began() {
		go func() {
			defer c.tasks.Done()
			f()
		}()
	}
}

func (c *cluster) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.tasks.Wait()
	return nil
}
