package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

// call is a transaction of the driver on its way to etcd.
type call string

const (
	callEnter   call = "enter"
	callClaim   call = "claim"
	callRenew   call = "renew"
	callRelease call = "release"
	callOther   call = "other"
)

// meddler is a client of etcd whose calls a test holds back, loses, or whose answers it loses.
type meddler struct {
	clientv3.KV
	before func(call) error // an error: it was never sent
	after  func(call) error // an error: its answer was lost
	deaf   atomic.Bool      // no lease is kept alive, and no key deleted
}

var errMeddled = errors.New("a test's fault")

func (m *meddler) Txn(ctx context.Context) clientv3.Txn {
	return &meddled{Txn: m.KV.Txn(ctx), m: m, kind: callOther}
}

func (m *meddler) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	if m.deaf.Load() {
		return nil, errMeddled
	}
	return m.KV.Delete(ctx, key, opts...)
}

type meddledLease struct {
	clientv3.Lease
	m *meddler
}

func (l meddledLease) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	if l.m.deaf.Load() {
		return nil, errMeddled
	}
	return l.Lease.KeepAliveOnce(ctx, id)
}

type meddled struct {
	clientv3.Txn
	m    *meddler
	kind call
}

func (t *meddled) If(all ...clientv3.Cmp) clientv3.Txn {
	t.Txn = t.Txn.If(all...)
	return t
}

func (t *meddled) Then(ops ...clientv3.Op) clientv3.Txn {
	if len(ops) == 1 && ops[0].IsPut() {
		t.kind = callRenew
	} else if len(ops) == 1 && ops[0].IsDelete() {
		t.kind = callRelease
	}
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t *meddled) Else(ops ...clientv3.Op) clientv3.Txn {
	switch {
	case t.kind == callRenew && len(ops) == 1 && ops[0].IsTxn():
		t.kind = callEnter
	case t.kind == callRenew && len(ops) == 3:
		t.kind = callClaim
	default:
		t.kind = callOther
	}
	t.Txn = t.Txn.Else(ops...)
	return t
}

func (t *meddled) Commit() (*clientv3.TxnResponse, error) {
	if t.m.before != nil {
		if err := t.m.before(t.kind); err != nil {
			return nil, err
		}
	}
	a, err := t.Txn.Commit()
	if t.m.after != nil {
		if lost := t.m.after(t.kind); lost != nil {
			return nil, lost
		}
	}
	return a, err
}

// queue is a name over etcd with nodes that share nothing else.
type queue struct {
	t      *testing.T
	name   string
	folder string
	prefix string
	addr   string
	etcd   *clientv3.Client
	nodes  []*Locks
	m      *meddler // of nodes[1]
}

func newQueue(t *testing.T, nodes int) *queue {
	t.Parallel()
	addr, prefix := etcdShared(t)
	q := &queue{t: t, name: newName(), prefix: prefix, addr: addr, etcd: etcdClient(t, addr)}
	q.folder = prefix + "lock/{" + q.name + "}/"
	for i := range nodes {
		c := etcdClient(t, addr)
		if i == 1 {
			q.m = &meddler{KV: c.KV}
			c.KV, c.Lease = q.m, meddledLease{c.Lease, q.m}
		}
		l, err := OpenEtcd(Config{}, c, prefix, obs.Test(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		q.nodes = append(q.nodes, l)
	}
	return q
}

func (q *queue) cluster(i int) *cluster { return q.nodes[i].driver.(*cluster) }

// keys are the values in the name's folder, in the order of the queue.
func (q *queue) keys() (all []string) {
	q.t.Helper()
	a, err := q.etcd.Get(q.t.Context(), q.folder, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		q.t.Fatal(err)
	}
	for _, kv := range a.Kvs {
		all = append(all, string(kv.Value))
	}
	return all
}

// until waits for what is to come.
func (q *queue) until(what string, ok func() bool) {
	q.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			q.t.Fatalf("%s has not come; the keys are %q", what, q.keys())
		}
	}
}

type granted struct {
	s   *Lease
	err error
	at  time.Time
}

// stands puts a request of a node into the queue as its n-th, and returns when that node hears what happens.
func (q *queue) stands(ctx context.Context, i, n int, opts ...Option) <-chan granted {
	q.t.Helper()
	got := make(chan granted, 1)
	go func() {
		s, err := q.nodes[i].Acquire(ctx, q.name, opts...)
		got <- granted{s, err, time.Now()}
	}()
	q.until("a place in the queue", func() bool { return len(q.keys()) == n })
	q.until("an ear", func() bool {
		c := q.cluster(i)
		c.mu.Lock()
		h := c.hearings[q.name]
		c.mu.Unlock()
		if h == nil {
			return false
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.since > 0
	})
	return got
}

func (q *queue) get(got <-chan granted) granted {
	q.t.Helper()
	select {
	case g := <-got:
		if g.err != nil {
			q.t.Fatal(g.err)
		}
		return g
	case <-time.After(20 * time.Second):
		q.t.Fatalf("nothing was granted; the keys are %q", q.keys())
	}
	return granted{}
}

// soon waits for what a call says.
func (q *queue) soon(c <-chan struct{}) {
	q.t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		q.t.Fatal("a call has not come")
	}
}

func (q *queue) earlies(i int, want int64) {
	q.t.Helper()
	if n := q.cluster(i).earlies.Load(); n != want {
		q.t.Errorf("%d grants without asking, not %d", n, want)
	}
}

// Who hears that the first has gone holds; etcd is told at once, and the lease then lasts for its TTL.
func TestEarlyGrant(t *testing.T) {
	q := newQueue(t, 2)
	last := uint64(0)
	held := acquire(t, q.nodes[0], q.name)
	for i := range 6 {
		got := q.stands(t.Context(), 1-i%2, 2)
		if held.Fence() <= last {
			t.Errorf("fence %d after %d", held.Fence(), last)
		}
		last = held.Fence()
		release(t, held)
		held = q.get(got).s
		if d := held.left(); d <= 0 || d > ttlDefault {
			t.Errorf("it lasts for %v", d)
		}
		q.until("the word to etcd", func() bool { k := q.keys(); return len(k) == 1 && k[0] == "h 1 10000 first" })
		q.until("the whole TTL", func() bool { return held.left() > etcdWaits*time.Second })
	}
	q.earlies(0, 3)
	q.earlies(1, 3)
	release(t, held)
	if k := q.keys(); len(k) > 0 {
		t.Errorf("%q stays", k)
	}
}

// That somebody has gone says nothing if he was not the first.
func TestEarlyGrantNeedsTheFirst(t *testing.T) {
	q := newQueue(t, 3)
	held := acquire(t, q.nodes[0], q.name)
	ctx, cancel := context.WithCancel(t.Context())
	between := q.stands(ctx, 2, 2)
	got := q.stands(t.Context(), 1, 3)
	cancel()
	if g := <-between; !errors.Is(g.err, context.Canceled) {
		t.Fatal(g.err)
	}
	q.until("his end", func() bool { return len(q.keys()) == 2 })
	select {
	case g := <-got:
		t.Fatalf("granted beside the holder: %v", g.err)
	case <-time.After(300 * time.Millisecond):
	}
	q.earlies(1, 0)
	release(t, held)
	release(t, q.get(got).s)
	q.earlies(1, 1)
}

// Between the early grant and the word to etcd nothing but the lease of those who wait keeps the next one out. The process stands still then: neither is the word sent,
// nor the lease kept, nor the key deleted.
func TestEarlyGrantEndsBeforeTheLeaseOfWaiters(t *testing.T) {
	q := newQueue(t, 3)
	q.m.before = func(c call) error {
		if q.m.deaf.Load() {
			return errMeddled
		}
		return nil
	}
	held := acquire(t, q.nodes[0], q.name)
	got := q.stands(t.Context(), 1, 2)
	q.m.deaf.Store(true)
	release(t, held)
	g := q.get(got)
	q.earlies(1, 1)
	alive := lastAlive(g.s)
	next := q.get(q.stands(t.Context(), 2, 2))
	if g.s.Held() || g.s.Context().Err() == nil {
		t.Error("two hold it")
	}
	if ended := <-alive; ended.After(next.at) {
		t.Errorf("it was alive %v after the next one got it", ended.Sub(next.at))
	}
	if next.s.Fence() <= g.s.Fence() {
		t.Errorf("fence %d after %d", next.s.Fence(), g.s.Fence())
	}
	if err := g.s.Release(t.Context()); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	q.m.deaf.Store(false)
	if !next.s.Held() {
		t.Error("who was late took the place of the next one")
	}
	release(t, next.s)
}

// The TTL bounds an early grant as any other; and though its holder never comes back and its process lives on, the place is free after it.
func TestEarlyGrantEndsWithItsTTL(t *testing.T) {
	q := newQueue(t, 3)
	q.m.before = func(c call) error {
		if c == callRenew {
			return errMeddled
		}
		return nil
	}
	const ttl = 400 * time.Millisecond
	held := acquire(t, q.nodes[0], q.name)
	got := q.stands(t.Context(), 1, 2, TTL(ttl))
	next := q.stands(t.Context(), 2, 3)
	release(t, held)
	g := q.get(got)
	q.earlies(1, 1)
	if d := g.s.left(); d > ttl {
		t.Errorf("it lasts for %v", d)
	}
	alive := lastAlive(g.s)
	n := q.get(next)
	if d := n.at.Sub(g.at); d > ttl+time.Second {
		t.Errorf("the next one waited for %v", d)
	}
	if ended := <-alive; ended.After(n.at) || ended.Sub(g.at) > ttl {
		t.Errorf("it was alive %v after its grant, %v before the next one's", ended.Sub(g.at), n.at.Sub(ended))
	}
	if cause := context.Cause(g.s.Context()); !errors.Is(cause, ErrLost) {
		t.Error(cause)
	}
	if err := g.s.Release(t.Context()); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	release(t, n.s)
}

// A hold that MaxHold does not let be renewed is told to etcd all the same: one that hangs is passed over.
func TestEarlyGrantOfTheWholeHold(t *testing.T) {
	q := newQueue(t, 3)
	const ttl = 600 * time.Millisecond
	held := acquire(t, q.nodes[0], q.name)
	got := q.stands(t.Context(), 1, 2, TTL(ttl), MaxHold(ttl))
	release(t, held)
	g := q.get(got)
	q.earlies(1, 1)
	q.until("the word to etcd", func() bool {
		k := q.keys()
		return len(k) == 1 && strings.HasPrefix(k[0], "h 1 ") && strings.HasSuffix(k[0], " first")
	})
	n := q.get(q.stands(t.Context(), 2, 2))
	if d := n.at.Sub(g.at); g.s.Held() || d > ttl+time.Second {
		t.Errorf("the next one waited for %v, held: %v", d, g.s.Held())
	}
	release(t, n.s)
}

// Who hears with the end of the first that his own key is gone as well stands behind anew.
func TestEarlyGrantNeedsItsOwnKey(t *testing.T) {
	q := newQueue(t, 2)
	held := acquire(t, q.nodes[0], q.name)
	got := q.stands(t.Context(), 1, 2)
	if _, err := q.etcd.Delete(t.Context(), q.folder, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	g := q.get(got)
	time.Sleep(100 * time.Millisecond)
	if k := q.keys(); len(k) != 1 || !g.s.Held() {
		t.Errorf("held: %v, keys %q", g.s.Held(), k)
	}
	q.earlies(1, 0)
	release(t, g.s)
	if err := held.Release(t.Context()); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
}

// Given back before etcd was told: the word comes too late and brings nothing back, whichever of the two is carried out first.
func TestReleaseBeforeTheWord(t *testing.T) {
	for _, first := range []call{callRelease, callRenew} {
		t.Run(string(first)+" first", func(t *testing.T) {
			q := newQueue(t, 3)
			let, sent, came := make(chan struct{}), make(chan struct{}, 8), make(chan struct{}, 8)
			q.m.before = func(c call) error {
				if c == callRenew {
					sent <- struct{}{}
					if first == callRelease {
						<-let
					}
				}
				return nil
			}
			q.m.after = func(c call) error {
				if c == callRenew {
					came <- struct{}{}
					if first == callRenew {
						<-let // carried out, and not answered
					}
				}
				return nil
			}
			held := acquire(t, q.nodes[0], q.name)
			got := q.stands(t.Context(), 1, 2)
			release(t, held)
			g := q.get(got)
			q.earlies(1, 1)
			q.soon(sent)
			if first == callRenew {
				q.soon(came)
			}
			release(t, g.s)
			if k := q.keys(); len(k) > 0 {
				t.Errorf("after the release %q stays", k)
			}
			next, err := q.nodes[2].TryAcquire(t.Context(), q.name)
			if err != nil {
				t.Fatal(err)
			}
			close(let)
			if first == callRelease {
				q.soon(came)
			}
			time.Sleep(50 * time.Millisecond)
			if k := q.keys(); len(k) != 1 {
				t.Errorf("after the word %q are there", k)
			}
			if g.s.Held() {
				t.Error("held after it was given back")
			}
			release(t, next)
			if k := q.keys(); len(k) > 0 {
				t.Errorf("%q stays", k)
			}
		})
	}
}

// A key that may say "h" already ages in the eyes of those behind. So after a claim without an answer there is no grant but by a claim.
func TestNoEarlyGrantAfterAClaimInDoubt(t *testing.T) {
	q := newQueue(t, 2)
	var claims atomic.Int64
	q.m.after = func(c call) error {
		if c == callClaim && claims.Add(1) == 1 {
			q.forge(1, func(l *etcdLease) { l.until = time.Now().Add(etcdWaits * time.Second) })
			return errMeddled
		}
		return nil
	}
	held := acquire(t, q.nodes[0], q.name)
	got := q.stands(t.Context(), 1, 2)
	q.forge(1, func(l *etcdLease) { l.until = time.Now() }) // it ends too soon to build on
	release(t, held)
	g := q.get(got)
	q.earlies(1, 0)
	if n := claims.Load(); n != 2 {
		t.Errorf("%d claims", n)
	}
	release(t, g.s)
}

// forge changes what a node knows of its lease for those who wait.
func (q *queue) forge(i int, change func(l *etcdLease)) {
	c := q.cluster(i)
	c.mu.Lock()
	l := c.leases[etcdWaits]
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// The end of another lease than that of the own key says nothing, nor do fences of a store that was set up anew; then etcd is asked.
func TestNoEarlyGrantOnForeignKnowledge(t *testing.T) {
	for what, forge := range map[string]func(q *queue){
		"another lease": func(q *queue) {
			var old clientv3.LeaseID
			q.forge(1, func(l *etcdLease) { old = l.id })
			q.cluster(1).forgetLease(old)
			if id, err := q.cluster(1).lease(q.t.Context(), etcdWaits, 0); err != nil || id == old {
				q.t.Fatal(id, err)
			}
		},
		"another base": func(q *queue) { q.cluster(1).setBase("7") },
	} {
		t.Run(what, func(t *testing.T) {
			q := newQueue(t, 2)
			held := acquire(t, q.nodes[0], q.name)
			got := q.stands(t.Context(), 1, 2)
			forge(q)
			release(t, held)
			g := q.get(got)
			q.earlies(1, 0)
			if g.s.Fence() <= held.Fence() {
				t.Errorf("fence %d after %d", g.s.Fence(), held.Fence())
			}
			release(t, g.s)
		})
	}
}

// A ticket is renewed by nobody here: etcd is told before it is handed out.
func TestEarlyGrantOfATicket(t *testing.T) {
	for _, how := range []string{"", "away", "late"} {
		t.Run(how, func(t *testing.T) {
			away := how == "away"
			q := newQueue(t, 2)
			q.m.after = func(c call) error {
				if c == callRenew && how == "late" { // its key is gone by then
					time.Sleep((etcdWaits + 1) * time.Second)
				}
				return nil
			}
			q.m.before = func(c call) error {
				if away && (c == callRenew || c == callRelease) {
					return errMeddled
				}
				return nil
			}
			held := acquire(t, q.nodes[0], q.name)
			type result struct {
				ticket Ticket
				err    error
			}
			got := make(chan result, 1)
			go func() {
				k, err := q.nodes[1].Hold(t.Context(), q.name)
				got <- result{k, err}
			}()
			q.until("a place in the queue", func() bool { return len(q.keys()) == 2 })
			time.Sleep(150 * time.Millisecond)
			release(t, held)
			r := <-got
			q.earlies(1, 1)
			if how != "" {
				if levee.CodeOf(r.err) != levee.CodeUnavailable {
					t.Error(r.err)
				}
				q.until("the end of what nobody has", func() bool { return len(q.keys()) == 0 })
				return
			}
			if r.err != nil {
				t.Fatal(r.err)
			}
			if d := time.Until(r.ticket.Expires); d < ttlDefault/2 {
				t.Errorf("it lasts for %v", d)
			}
			if k := q.keys(); len(k) != 1 || k[0] != "h 1 10000 first" {
				t.Errorf("%q", k)
			}
			if err := q.nodes[0].GiveBack(t.Context(), r.ticket); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who was not told what happened in between, since etcd has forgotten it, reads it.
func TestEarlyGrantAfterCompaction(t *testing.T) {
	server, err := backends.StartEtcd(t.Context(), backends.EtcdOptions{})
	had(t, err)
	defer server.Close()
	proxy, err := backends.StartProxy(t.Context(), server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	direct, through := openEtcd(t, server.Addr(), "c/"), openEtcd(t, proxy.Addr, "c/")
	c := etcdClient(t, server.Addr())
	for range 3 {
		held := acquire(t, direct, "a")
		got := make(chan granted, 1)
		go func() {
			s, err := through.Acquire(t.Context(), "a")
			got <- granted{s, err, time.Now()}
		}()
		time.Sleep(300 * time.Millisecond)
		proxy.Down()
		release(t, held)
		var a *clientv3.PutResponse
		for range 5 {
			if a, err = c.Put(t.Context(), "elsewhere", "x"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Compact(t.Context(), a.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		if err := proxy.Up(); err != nil {
			t.Fatal(err)
		}
		select {
		case g := <-got:
			if g.err != nil || g.s.Fence() <= held.Fence() {
				t.Fatal(g.err)
			}
			release(t, g.s)
		case <-time.After(15 * time.Second):
			t.Fatal("nothing was granted")
		}
	}
}

// The mark is read over by releases that do not know it, and their keys are read without it.
func TestMarkOfTheFirst(t *testing.T) {
	for _, c := range []struct {
		state byte
		limit int
		first bool
	}{{'h', 1, true}, {'w', 1, false}, {'h', 2, false}} {
		q := request{limit: c.limit}
		text := q.etcdValue(c.state, 1500*time.Millisecond)
		var state string
		var limit, ms int
		n, err := fmt.Sscanf(text, "%s %d %d", &state, &limit, &ms) // as they read it
		if n != 3 || err != nil || state != string(c.state) || limit != c.limit || ms != 1500 {
			t.Errorf("%q is read as %q, %d, %d: %v", text, state, limit, ms, err)
		}
		for _, s := range []string{text, strings.TrimSuffix(text, " first")} {
			if got := standerOf(keyValue(s), time.Now()); got.first != (c.first && s == text) || got.limit != c.limit || got.ttl != 1500*time.Millisecond || got.holds != (c.state == 'h') {
				t.Errorf("%q: %+v", s, got)
			}
		}
	}
	for _, s := range []string{"", "first", "h first", "h 1 first", "w 1 100 first", "h 2 100 first", "h 1 100 firsts", "h 1 100 x first", "h 0 100 first", "h 1 -1 first", "h 1 999999999 first"} {
		if standerOf(keyValue(s), time.Now()).first {
			t.Errorf("%q is taken for the first", s)
		}
	}
}

func keyValue(s string) *mvccpb.KeyValue { return &mvccpb.KeyValue{Key: []byte("k"), Value: []byte(s)} }
