package limit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

var prefixes atomic.Int64

// connect opens a client for one house; two with the same house are two nodes of it. It is patient, because a server that is slow on a busy
// machine is away for the limits, and these tests are not about that.
func connect(t testing.TB, url, house string) *redis.Client {
	t.Helper()
	return connectFor(t, url, house, 5*time.Second)
}

// connectFor is connect with the longest that a call may take; 0 for the default.
func connectFor(t testing.TB, url, house string, timeout time.Duration) *redis.Client {
	t.Helper()
	c, err := redis.Open(context.Background(), redis.Config{URL: url, Prefix: house, Timeout: timeout}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func house() string { return fmt.Sprintf("limit-test-%d-%d:", time.Now().UnixNano(), prefixes.Add(1)) }

func shared(t testing.TB) string {
	t.Helper()
	s, err := backends.Redis(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.URL()
}

func openShared(t testing.TB, c *redis.Client, rates map[string]string) (*Limits, *obs.Obs) {
	t.Helper()
	o := obs.Test(t)
	l, err := OpenShared(Config{Rates: rates}, c, o)
	if err != nil {
		t.Fatal(err)
	}
	return l, o
}

func openRemote(t testing.TB, rate string) (*Limits, *obs.StepClock) { return remotes(t)(rate) }

// remotes returns a function that opens limits on a Redis without charges.
func remotes(t testing.TB) func(rate string) (*Limits, *obs.StepClock) {
	name := house()
	c := connect(t, shared(t), name)
	return func(rate string) (*Limits, *obs.StepClock) {
		ctx := context.Background()
		if old, err := c.UniversalClient().Keys(ctx, name+"*").Result(); err != nil {
			t.Fatal(err)
		} else if len(old) > 0 {
			for _, k := range old {
				c.UniversalClient().Del(ctx, k)
			}
		}
		l, _ := openShared(t, c, map[string]string{"write": rate})
		clock := &obs.StepClock{}
		l.driver.(*remote).clock = clock.Now
		return l, clock
	}
}

// look makes the key's clock be read and charges nothing. A key that is not there has nothing to read.
func look(t *rapid.T, l *Limits, key string) {
	r := l.driver.(*remote)
	c := l.classes[Write].Load()
	if err := lookScript.Run(context.Background(), r.client, []string{r.key(c, key)}, r.args(c)...).Err(); err != nil {
		t.Fatal(err)
	}
}

var lookScript = redis.NewScript(`
local kept, now = redis.call('GET', KEYS[1]), tonumber(ARGV[1])
if kept then
  local state = cmsgpack.unpack(kept)
  if now < state[1] then
    state[2] = state[2] + state[1] - now
  end
  state[1] = now
  redis.call('SET', KEYS[1], cmsgpack.pack(state), 'KEEPTTL')
end
return 1`)

// A crowd on two nodes gets exactly what the rate says, by the server's own clock.
func TestNodesShareALimit(t *testing.T) {
	name := house()
	url := shared(t)
	var nodes []*Limits
	for range 2 {
		l, o := openShared(t, connect(t, url, name), map[string]string{"write": "5/d", "poll": "10/d burst 5", "read": "1000/d"})
		nodes = append(nodes, l)
		t.Cleanup(func() {
			if n := metric(t, o, "levee_limit_alone_total"); n != 0 {
				t.Errorf("%v decisions were made without Redis", n)
			}
		})
	}
	for limit, want := range map[Name]int64{Write: 5, Poll: 5, Read: 1000} {
		if got := storm(nodes, limit, 1000+int(want)); got != want {
			t.Errorf("%v: %d allowed on two nodes, want %d", limit, got, want)
		}
	}
	nodes[0].Refund(t.Context(), Write, "k")
	if got := storm(nodes, Write, 100); got != 1 {
		t.Errorf("%d allowed after one refund on the other node", got)
	}
	if d := nodes[1].Allow(t.Context(), Write, "k"); d.OK || d.RetryAfter > 24*time.Hour || d.RetryAfter < 23*time.Hour {
		t.Errorf("%+v", d)
	}
}

// storm asks many times at once, in turn on each node, and counts what was allowed.
func storm(nodes []*Limits, name Name, times int) int64 { return stormKey(nodes, name, "k", times) }

// The same test must find limits that do not share: each node's own memory, and reading before writing.
func TestNodesThatDoNotShareAreFound(t *testing.T) {
	var own []*Limits
	for range 2 {
		l, err := Open(Config{Rates: map[string]string{"write": "5/d"}}, obs.Test(t))
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, l)
	}
	if got := storm(own, Write, 1000); got == 5 {
		t.Error("two memories allowed as many as one limit: this test could not find a fault")
	}
	c := connect(t, shared(t), house())
	read := &sync.WaitGroup{}
	read.Add(2 * 5)
	careless := &Limits{driver: &careless{c: c, read: read}}
	for n := range careless.classes {
		careless.classes[n].Store(own[0].classes[n].Load())
	}
	if got := storm([]*Limits{careless, careless}, Write, 1000); got == 5 {
		t.Error("reading before writing allowed no more than the limit: this test could not find a fault")
	}
}

// careless is the throttle that many houses have: it reads, thinks and writes. Its first callers all read before any
// of them writes, so that the fault does not hang on the mood of the scheduler.
type careless struct {
	c     *redis.Client
	calls atomic.Int64
	read  *sync.WaitGroup // of the first ten callers: twice what the limit allows
}

func (r *careless) take(ctx context.Context, c *class, key string) Decision {
	u := r.c.UniversalClient()
	n, _ := u.Get(ctx, r.c.Key(key)).Int()
	if r.calls.Add(1) <= 2*5 {
		r.read.Done()
		r.read.Wait()
	}
	if n >= c.rate.Count {
		return Decision{}
	}
	u.Set(ctx, r.c.Key(key), n+1, time.Hour)
	return Decision{OK: true}
}

func (r *careless) takeAll(ctx context.Context, asks []ask, out []Decision) {
	for i, a := range asks {
		out[i] = r.take(ctx, a.class, a.key)
	}
}
func (r *careless) refund(context.Context, *class, string) {}

// Nothing that is kept in Redis stays, and nothing that people typed is in it.
func TestKeysHaveLifetimes(t *testing.T) {
	name := house()
	c := connect(t, shared(t), name)
	l, _ := openShared(t, c, map[string]string{"write": "5/s", "poll": "10/s burst 20", "sign_in_account": "3/m"})
	for i := range 50 {
		l.Allow(t.Context(), Write, fmt.Sprint("visitor-", i))
		l.Allow(t.Context(), Poll, fmt.Sprint("visitor-", i))
		l.Allow(t.Context(), SignInAccount, fmt.Sprintf("ann-%d@example.com", i))
		l.Refund(t.Context(), Poll, fmt.Sprint("visitor-", i))
	}
	l.Allow(t.Context(), SignInAccount, "ann-0@example.com")
	l.Refund(t.Context(), SignInAccount, "ann-0@example.com")
	u := c.UniversalClient()
	all, err := u.Keys(t.Context(), name+"*").Result()
	if err != nil || len(all) != 100 {
		t.Fatalf("%d keys, want 50 of write and 50 of sign_in_account: %v", len(all), err)
	}
	for _, k := range all {
		left, err := u.PTTL(t.Context(), k).Result()
		if err != nil || left <= 0 || left > time.Minute {
			t.Errorf("%s lives for %v, %v", k, left, err)
		}
		text, err := u.Get(t.Context(), k).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, typed := range []string{"visitor", "ann", "example"} {
			if contains(k, typed) || contains(text, typed) {
				t.Errorf("%s shows what people typed", k)
			}
		}
	}
	time.Sleep(1100 * time.Millisecond)
	if all, _ = u.Keys(t.Context(), name+"limit:{write:*").Result(); len(all) != 0 {
		t.Errorf("%d keys are left after their time", len(all))
	}
}

func contains(s, sub string) bool {
	for i := 0; i+len(sub) <= len(s); i++ {
		if s[i:i+len(sub)] == sub {
			return true
		}
	}
	return false
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		rate     string
		nodes    int
		down, up string
	}{
		{"10/15m", 1, "10/15m", "10/15m"},
		{"10/15m", 3, "3/15m", "4/15m"},
		{"10/15m", 20, "off", "1/15m"},
		{"200/s burst 400", 3, "66/s burst 133", "67/s burst 134"},
		{"5/s burst 2", 3, "off", "2/s burst 1"},
	} {
		r, err := ParseRate(c.rate)
		if err != nil {
			t.Fatal(err)
		}
		if down, up := r.share(c.nodes, true), r.share(c.nodes, false); down.String() != c.down || up.String() != c.up {
			t.Errorf("%s of %d nodes: %v and %v, want %s and %s", c.rate, c.nodes, down, up, c.down, c.up)
		}
	}
}

// While Redis is away each node goes by its share: together no more than the rate for what is strict, and what was charged before counts.
// Nothing waits for Redis, and afterwards the charges in Redis count again.
func TestRedisAway(t *testing.T) {
	s, err := backends.StartRedis(t.Context(), backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	name := house()
	p, err := backends.StartProxy(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	url, err := p.URL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	rates := map[string]string{"sign_in_account": "9/d", "poll": "9/d", "import": "2/d"}
	var clients []*redis.Client
	var nodes []*Limits
	for range 3 {
		c := connectFor(t, url, name, 500*time.Millisecond) // by default a busy machine may lose the answer to a charge
		l, _ := openShared(t, c, rates)
		clients, nodes = append(clients, c), append(nodes, l)
	}
	wait(t, "the nodes know each other", func() bool {
		return clients[0].Nodes() == 3 && clients[1].Nodes() == 3 && clients[2].Nodes() == 3
	})
	ask := func(l *Limits, n Name, key string, times int) (ok int) {
		for range times {
			if l.Allow(context.Background(), n, key).OK {
				ok++
			}
		}
		return ok
	}
	if got := ask(nodes[0], SignInAccount, "used", 20); got != 9 {
		t.Fatalf("%d allowed", got)
	}
	for kind, fault := range map[string]func(){"refused": p.Down, "hanging": func() { p.Silence(true) }} {
		fault()
		began := time.Now()
		strict, open, none := 0, 0, 0
		for i, l := range nodes {
			strict += ask(l, SignInAccount, kind, 30)
			open += ask(l, Poll, kind, 30)
			none += ask(l, Import, kind, 30)
			if got := ask(l, SignInAccount, "used", 10); i == 0 && got != 0 {
				t.Errorf("%s: the outage gave %d fresh tries on the node that had used them up", kind, got)
			}
		}
		if strict != 9 || open != 9 || none != 0 {
			t.Errorf("%s: three nodes allowed %d of 9 strict, %d of 9 open and %d of 2 strict, which is fewer than nodes", kind, strict, open, none)
		}
		if d := time.Since(began); d > 30*time.Second { // if each waited for its time it would be two minutes and a half
			t.Errorf("%s: 300 decisions took %v", kind, d)
		}
		d := nodes[0].Allow(t.Context(), Import, kind)
		if d.OK || d.RetryAfter <= 0 || d.Err() == nil {
			t.Errorf("%+v", d)
		}
		if err := p.Heal(); err != nil {
			t.Fatal(err)
		}
		wait(t, "Redis is back", func() bool { return clients[0].Healthy() && clients[1].Healthy() && clients[2].Healthy() })
		time.Sleep(200 * time.Millisecond)
		if got := ask(nodes[1], SignInAccount, "used", 20); got != 0 {
			t.Errorf("%s: Redis forgot: %d allowed", kind, got)
		}
		if got := ask(nodes[2], SignInAccount, "new-"+kind, 20); got != 9 {
			t.Errorf("%s: %d allowed after the outage", kind, got)
		}
	}
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func BenchmarkAllowShared(b *testing.B) {
	c := connect(b, shared(b), house())
	l, _ := openShared(b, c, map[string]string{"write": "100/s", "poll": "10/s burst 20"})
	for _, name := range []Name{Write, Poll} {
		for _, callers := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("%v/%d", l.Rate(name), callers), func(b *testing.B) {
				b.SetParallelism((callers + 1) / 2)
				var next atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					key := fmt.Sprint("user-", next.Add(1))
					for i := 0; pb.Next(); i++ {
						l.Allow(context.Background(), name, fmt.Sprint(key, i%100))
					}
				})
			})
		}
	}
}
