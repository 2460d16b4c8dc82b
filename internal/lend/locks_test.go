package lend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/lock"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/web"
)

// bureau is some nodes that lend locks over one store.
type bureau struct {
	t     *testing.T
	p     *platformtest.Platform
	nodes []*desk
	log   bytes.Buffer
}

// desk is a node.
type desk struct {
	s     *Service
	locks *lock.Locks
	http  *httptest.Server
}

var leaseKey = bytes.Repeat([]byte{7}, 32)

func openBureau(t *testing.T, nodes int) *bureau {
	t.Helper()
	b := &bureau{t: t, p: platformtest.New(t, lock.Schema())}
	for range nodes {
		b.nodes = append(b.nodes, b.open(func(o *obs.Obs) (*lock.Locks, error) { return lock.OpenSQL(lock.Config{}, b.p.DB, nil, o) }))
	}
	return b
}

func (b *bureau) open(store func(o *obs.Obs) (*lock.Locks, error)) *desk {
	b.t.Helper()
	o := &obs.Obs{Log: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: obs.Test(b.t).Metrics, Clock: b.p.Obs.Clock}
	d := &desk{}
	var err error
	must := func() {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	d.locks, err = store(o)
	must()
	d.s, err = New(Deps{Obs: o, Locks: d.locks, LeaseKey: leaseKey, Config: Config{Clients: "shop:" + secretA + " till:" + secretB}})
	must()
	srv, err := web.New(web.Config{}, web.Parts{Obs: o, DB: b.p.DB, Title: "test", Version: "0", Authenticate: func(r *http.Request) (levee.Actor, error) {
		if Takes(r) {
			return levee.Actor{}, nil
		}
		return levee.Actor{}, levee.E(levee.CodeUnauthenticated, "not for this test")
	}})
	must()
	d.s.Routes(srv)
	d.http = httptest.NewServer(srv.Handler())
	b.t.Cleanup(d.stop)
	return d
}

// stop ends the node as an orderly stop does: leases stay.
func (d *desk) stop() {
	d.http.Close()
	_ = d.locks.Close()
}

type lease struct {
	Lease       string
	Fence       uint64
	ExpiresInMS int64 `json:"expires_in_ms"`
	Links       struct{ Self string }
}

// ask sends a request and returns the status, the body, and the seconds of Retry-After.
func (d *desk) ask(ctx context.Context, secret, method, path, body string) (status int, text, retry string, err error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.http.URL+path, r)
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), res.Header.Get("Retry-After"), err
}

func (b *bureau) want(d *desk, secret, method, path, body string, status int) lease {
	b.t.Helper()
	got, text, retry, err := d.ask(b.t.Context(), secret, method, path, body)
	if err != nil || got != status || (status == 409 || status == 503) != (retry != "") {
		b.t.Fatalf("%s %.60s %s: %d %.500s (Retry-After %q) %v, want %d", method, path, body, got, text, retry, err, status)
	}
	var l lease
	if status < 300 && status != 204 {
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			b.t.Fatalf("%s: %v", text, err)
		}
	}
	return l
}

const leasesPath = "/v1/locks/till-7/leases"

func TestLocks(t *testing.T) {
	b := openBureau(t, 2)
	one, two := b.nodes[0], b.nodes[1]
	l := b.want(one, secretA, "POST", leasesPath, `{"ttl_ms":2000}`, 201)
	if !strings.HasPrefix(l.Lease, leasePrefix) || l.Fence == 0 || l.Fence >= 1<<53 || l.ExpiresInMS < 1000 || l.ExpiresInMS > 2000 || l.Links.Self != leasesPath+"/"+l.Lease {
		t.Errorf("%+v", l)
	}
	b.want(two, secretB, "POST", leasesPath, `{}`, 409)
	b.want(two, secretB, "POST", leasesPath, `{"wait_ms":50}`, 409)
	// Nobody else's: another program, another lock, a lease that somebody made up or changed.
	b.want(one, secretB, "DELETE", l.Links.Self, "", 404)
	b.want(one, secretB, "POST", l.Links.Self+"/renewals", "", 404)
	b.want(one, secretA, "DELETE", "/v1/locks/till-8/leases/"+l.Lease, "", 404)
	middle := len(l.Lease) / 2
	for _, bad := range []string{"x", leasePrefix, leasePrefix + "AAAA", l.Lease[:len(l.Lease)-2], l.Lease + "AA", l.Lease[:middle] + "A" + l.Lease[middle+1:], l.Lease[:middle] + "B" + l.Lease[middle+1:], leasePrefix + strings.Repeat("A", 500)} {
		if bad != l.Lease {
			b.want(one, secretA, "DELETE", leasesPath+"/"+bad, "", 404)
		}
	}
	b.want(one, "wrong", "DELETE", l.Links.Self, "", 401)
	b.want(one, "wrong", "POST", leasesPath, "{}", 401)
	// Any node renews it and takes it back.
	if r := b.want(two, secretA, "POST", l.Links.Self+"/renewals", "", 200); r.Fence != l.Fence || r.Lease != l.Lease || r.ExpiresInMS < 1000 || r.ExpiresInMS > 2000 {
		t.Errorf("renewed: %+v, was %+v", r, l)
	}
	b.want(two, secretA, "DELETE", l.Links.Self, "", 204)
	b.want(one, secretA, "DELETE", l.Links.Self, "", 410)
	b.want(one, secretA, "POST", l.Links.Self+"/renewals", "", 410)
	next := b.want(one, secretB, "POST", leasesPath, "{}", 201)
	if next.Fence <= l.Fence {
		t.Errorf("fence %d after %d", next.Fence, l.Fence)
	}
	b.want(one, secretA, "DELETE", l.Links.Self, "", 410)
	b.want(one, secretB, "DELETE", next.Links.Self, "", 204)
	// Readers and places.
	r1 := b.want(one, secretA, "POST", leasesPath, `{"shared":true}`, 201)
	r2 := b.want(two, secretB, "POST", leasesPath, `{"shared":true}`, 201)
	b.want(one, secretB, "POST", leasesPath, `{}`, 409)
	b.want(one, secretA, "DELETE", r1.Links.Self, "", 204)
	b.want(one, secretB, "DELETE", r2.Links.Self, "", 204)
	p1 := b.want(one, secretA, "POST", leasesPath, `{"permits":2}`, 201)
	b.want(one, secretA, "POST", leasesPath, `{"permits":2}`, 201)
	b.want(one, secretA, "POST", leasesPath, `{"permits":2}`, 409)
	b.want(two, secretA, "DELETE", p1.Links.Self, "", 204)
	b.want(one, secretA, "POST", leasesPath, `{"permits":2}`, 201)
	if said := b.log.String(); strings.Contains(said, secretA) {
		t.Error("a secret is in the log")
	}
}

// What a program does not renew ends, and the one who waits gets it; the old lease is over for good.
func TestLeaseRunsOut(t *testing.T) {
	b := openBureau(t, 2)
	began := time.Now() // before the lease, whose answer a busy machine may bring late
	l := b.want(b.nodes[0], secretA, "POST", leasesPath, `{"ttl_ms":400}`, 201)
	next := b.want(b.nodes[1], secretB, "POST", leasesPath, `{"wait_ms":30000}`, 201)
	if d := time.Since(began); d < 300*time.Millisecond || d > 20*time.Second || next.Fence <= l.Fence {
		t.Errorf("after %v, fence %d after %d", d, next.Fence, l.Fence)
	}
	b.want(b.nodes[0], secretA, "POST", l.Links.Self+"/renewals", "", 410)
	b.want(b.nodes[0], secretA, "DELETE", l.Links.Self, "", 410)
	b.want(b.nodes[1], secretB, "DELETE", next.Links.Self, "", 204)
	// No renewal goes beyond max_hold_ms.
	l = b.want(b.nodes[0], secretA, "POST", leasesPath, `{"ttl_ms":2000,"max_hold_ms":4000}`, 201)
	for began = time.Now(); ; time.Sleep(100 * time.Millisecond) {
		status, text, _, err := b.nodes[1].ask(t.Context(), secretA, "POST", l.Links.Self+"/renewals", "")
		if status == 410 && time.Since(began) > 2500*time.Millisecond { // it was renewed; two seconds are more than a busy machine looks elsewhere
			break
		}
		if err != nil || status != 200 || time.Since(began) > 20*time.Second {
			t.Fatalf("after %v: %d %s %v", time.Since(began), status, text, err)
		}
	}
	b.want(b.nodes[0], secretA, "POST", leasesPath, `{}`, 201)
}

// A node stops between a lease and its release: another process, which has never seen it, takes it back.
func TestLeaseOutlivesItsNode(t *testing.T) {
	b := openBureau(t, 1)
	l := b.want(b.nodes[0], secretA, "POST", leasesPath, `{"ttl_ms":60000}`, 201)
	b.nodes[0].stop()
	again := b.open(func(o *obs.Obs) (*lock.Locks, error) { return lock.OpenSQL(lock.Config{}, b.p.DB, nil, o) })
	b.want(again, secretB, "POST", leasesPath, `{}`, 409)
	b.want(again, secretA, "POST", l.Links.Self+"/renewals", "", 200)
	b.want(again, secretA, "DELETE", l.Links.Self, "", 204)
	b.want(again, secretB, "POST", leasesPath, `{}`, 201)
}

// Who goes away while he waits holds nothing, and holds up nobody.
func TestWaiterGone(t *testing.T) {
	b := openBureau(t, 1)
	d := b.nodes[0]
	l := b.want(d, secretA, "POST", leasesPath, `{}`, 201)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if status, text, _, err := d.ask(ctx, secretB, "POST", leasesPath, `{"wait_ms":30000,"ttl_ms":60000}`); err == nil {
			t.Errorf("%d %s", status, text)
		}
		cancel()
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until the node has noticed
		d.s.waiting.mu.Lock()
		n := len(d.s.waiting.by)
		d.s.waiting.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the node still waits for who is gone")
		}
	}
	b.want(d, secretA, "DELETE", l.Links.Self, "", 204)
	l = b.want(d, secretA, "POST", leasesPath, `{}`, 201)
	// Gone in the moment of the grant: what was granted is given back.
	gone, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := d.s.take(cancelled{gone}, "till", "till-7", time.Minute)
		result <- err
	}()
	time.Sleep(100 * time.Millisecond)
	b.want(d, secretA, "DELETE", l.Links.Self, "", 204)
	if err := <-result; err == nil {
		t.Error("who is gone got a lease")
	}
	b.want(d, secretA, "POST", leasesPath, `{}`, 201)
}

// cancelled ends for those who ask, and not for those who wait for it: as if it ended with the grant.
type cancelled struct{ context.Context }

func (cancelled) Err() error { return context.Canceled }

func (c cancelled) Done() <-chan struct{} { return nil }

// Those who wait are told soon when the node stops, and they are not without end.
func TestWaitingEnds(t *testing.T) {
	b := openBureau(t, 1)
	d := b.nodes[0]
	b.want(d, secretA, "POST", leasesPath, `{"ttl_ms":60000}`, 201)
	for range waitingMost {
		if !d.s.waiting.enter("till") {
			t.Fatal("not as many as may be")
		}
	}
	b.want(d, secretB, "POST", leasesPath, `{"wait_ms":1000}`, 503)
	b.want(d, secretB, "POST", leasesPath, `{}`, 409)
	b.want(d, secretA, "POST", leasesPath, `{"wait_ms":20}`, 409) // another program is not concerned
	for range waitingMost {
		d.s.waiting.leave("till")
	}
	if len(d.s.waiting.by) != 0 {
		t.Errorf("%v are left", d.s.waiting.by)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = d.s.Run(ctx) })
	time.AfterFunc(200*time.Millisecond, cancel)
	began := time.Now()
	b.want(d, secretB, "POST", leasesPath, `{"wait_ms":60000}`, 503)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

func TestBadLockRequests(t *testing.T) {
	b := openBureau(t, 1)
	d := b.nodes[0]
	for body, field := range map[string]string{
		`{"wait_ms":-1}`: "wait_ms", `{"wait_ms":60001}`: "wait_ms", `{"ttl_ms":99}`: "ttl_ms", `{"ttl_ms":3600001}`: "ttl_ms", `{"max_hold_ms":99}`: "max_hold_ms", `{"max_hold_ms":604800001}`: "max_hold_ms",
		`{"permits":0}`: "permits", `{"permits":1001}`: "permits", `{"permits":2,"shared":true}`: "permits", `{"nonsense":1}`: "nonsense", `{"ttl_ms":"1000"}`: "ttl_ms", `{"ttl_ms":1e30}`: "ttl_ms",
	} {
		status, text, _, err := d.ask(t.Context(), secretA, "POST", leasesPath, body)
		if err != nil || status != 422 && status != 400 || !strings.Contains(text, field) {
			t.Errorf("%s: %d %.400s %v", body, status, text, err)
		}
	}
	for _, name := range []string{"%20", "a%20b", "a%2Fb", "-a", "%00", "%FF", "a%7Bb", strings.Repeat("a", 129)} {
		if status, text, _, err := d.ask(t.Context(), secretA, "POST", "/v1/locks/"+name+"/leases", `{}`); err != nil || status != 422 || !strings.Contains(text, "path.name") {
			t.Errorf("%.40s: %d %.400s %v", name, status, text, err)
		}
	}
	if status, _, _, _ := d.ask(t.Context(), secretA, "POST", leasesPath, `{"x":"`+strings.Repeat("a", 2000)+`"}`); status != 413 {
		t.Errorf("a large body: %d", status)
	}
	long := strings.Repeat("a", 128)
	l := b.want(d, secretA, "POST", "/v1/locks/"+long+"/leases", `{"permits":1000}`, 201)
	b.want(d, secretA, "DELETE", "/v1/locks/"+long+"/leases/"+l.Lease, "", 204)
	if len(l.Lease) > 600 {
		t.Errorf("an id of %d bytes", len(l.Lease))
	}
}

// Over HTTP, many programs at many nodes: one at a time, and fences that rise.
func TestManyPrograms(t *testing.T) {
	b := openBureau(t, 2)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards last, count
	inside, last, count := 0, uint64(0), 0
	for i := range 6 {
		wg.Go(func() {
			secret := []string{secretA, secretB}[i%2]
			for range 5 {
				status, text, _, err := b.nodes[i%2].ask(t.Context(), secret, "POST", leasesPath, `{"wait_ms":30000,"ttl_ms":30000}`)
				var l lease
				if err != nil || status != 201 || json.Unmarshal([]byte(text), &l) != nil {
					t.Errorf("%d %s %v", status, text, err)
					return
				}
				mu.Lock()
				inside++
				count++
				if inside != 1 || l.Fence <= last {
					t.Errorf("%d inside, fence %d after %d", inside, l.Fence, last)
				}
				last = l.Fence
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				inside--
				mu.Unlock()
				if status, text, _, err := b.nodes[(i+1)%2].ask(t.Context(), secret, "DELETE", l.Links.Self, ""); err != nil || status != 204 {
					t.Errorf("%d %s %v", status, text, err)
				}
			}
		})
	}
	wg.Wait()
	if count != 30 {
		t.Error(fmt.Sprint(count, " grants"))
	}
}
