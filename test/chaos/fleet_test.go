package chaos

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/backends"
)

var nodesWanted = flag.Int("chaos.nodes", 3, "how many nodes a fleet has")

// Leases are short, so that a node that sleeps through them does not hold a run up. downAfter is how long a primary may be silent before the
// sentinels replace it: one second is what operators set who want to be back within five; below that, a slow machine fails over by itself.
const (
	nodeLease   = time.Second
	gateLease   = 3 * time.Second
	leasesSlept = 4500 * time.Millisecond // longer than both, the gate's with the half that is added for clocks
	downAfter   = time.Second
)

// The shapes of Redis that a fleet may stand on.
const (
	single   = "single"
	sentinel = "sentinel"
	cluster  = "cluster"
)

// fleet is several nodes of one house behind nginx, with a MariaDB and a Redis of their own. Between each node and each backend lies a proxy
// that can cut or slow that one link; clients of sentinels and clusters are told addresses by the servers and go past proxies, so only
// a single Redis has those.
type fleet struct {
	shape string
	env   []string // of every node
	db    *backends.MySQLServer
	dbURL string

	single   *backends.RedisServer
	sentinel *backends.RedisSentinel
	cluster  *backends.RedisCluster

	nodes []*member
	front *backends.Program // nginx
	base  string            // of nginx

	call     *caller
	operator string // token
	sale     string // what is rehearsed
	sku      string

	redisMu sync.Mutex // one fault of Redis at a time
	dbMu    sync.Mutex // likewise of MariaDB
	close   []func() error
}

// member is one node and its links.
type member struct {
	number      int
	addr        *backends.Address
	program     *backends.Program
	dbLink      *backends.Proxy
	redisLink   *backends.Proxy // nil unless Redis is a single server
	mu          sync.Mutex      // one fault at a time
	asker       *http.Client
	ahead       atomic.Int64 // seconds, as its clock was set last
	env         []string
	lost, heard int // bytes of its log that were looked at
}

// needBackends skips where the servers cannot be had.
func needBackends(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case backends.MaySkip(err):
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// newFleet starts everything, makes an operator, a product and a sale, and ends it all with the test.
func newFleet(t testing.TB, bin, shape string, settings ...string) *fleet {
	t.Helper()
	ctx := t.Context()
	f := &fleet{shape: shape}
	t.Cleanup(func() {
		for i := len(f.close) - 1; i >= 0; i-- {
			if err := f.close[i](); err != nil {
				t.Error(err)
			}
		}
	})
	_, err := backends.Nginx(ctx)
	needBackends(t, err)
	var starts sync.WaitGroup
	var dbErr, redisErr error
	starts.Go(func() {
		if f.db, dbErr = backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true, Settings: map[string]string{"innodb-buffer-pool-size": "256M"}}); dbErr == nil {
			f.dbURL, _, dbErr = f.db.NewDatabase(ctx)
		}
	})
	var redisURL string
	starts.Go(func() { redisURL, redisErr = f.startRedis(ctx) })
	starts.Wait()
	if f.db != nil {
		f.close = append(f.close, f.db.Close)
	}
	needBackends(t, dbErr)
	needBackends(t, redisErr)
	must(t, f.environment(redisURL, settings))
	for n := range *nodesWanted {
		m, err := f.newMember(ctx, bin, n)
		must(t, err)
		f.nodes = append(f.nodes, m)
		if n == 0 { // it makes the schema
			must(t, m.program.Restart(ctx))
		}
	}
	f.each(t, f.nodes[1:], func(m *member) error { return m.program.Restart(ctx) })
	must(t, f.startFront(ctx))
	f.furnish(t)
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) startRedis(ctx context.Context) (url string, err error) {
	// What was answered survives a kill unless a fault comes back empty.
	o := backends.RedisOptions{AOF: true}
	switch f.shape {
	case sentinel:
		if f.sentinel, err = backends.StartSentinel(ctx, backends.SentinelOptions{Redis: o, DownAfter: downAfter}); err != nil {
			return "", err
		}
		f.close = append(f.close, f.sentinel.Close)
		return f.sentinel.URL(), nil
	case cluster:
		if f.cluster, err = backends.StartCluster(ctx, backends.ClusterOptions{Redis: o}); err != nil {
			return "", err
		}
		f.close = append(f.close, f.cluster.Close)
		return f.cluster.URL(), nil
	}
	if f.single, err = backends.StartRedis(ctx, o); err != nil {
		return "", err
	}
	f.close = append(f.close, f.single.Close)
	return f.single.URL(), nil
}

// environment is what every node is told; where it differs stands in newMember.
func (f *fleet) environment(redisURL string, settings []string) error {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "LEVEE_") {
			f.env = append(f.env, e)
		}
	}
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i) ^ 0x5a
	}
	f.env = append(f.env, "LEVEE_MODE=distributed", "LEVEE_SECRET="+hex.EncodeToString(secret), "LEVEE_REDIS="+redisURL,
		"LEVEE_NODE__LEASE="+nodeLease.String(), "LEVEE_SALE__GATE_LEASE="+gateLease.String(), "LEVEE_SALE__RECONCILE_EVERY=5s",
		"LEVEE_HTTP__TRUSTED_PROXIES=127.0.0.1", "LEVEE_PAYMENT__SANDBOX__ENABLED=true", "LEVEE_IDENTITY__HASH_MEMORY=8192",
		"LEVEE_IDENTITY__HASH_TIME=1", "LEVEE_IDENTITY__ACCESS_TTL=1h", "LEVEE_LOG__LEVEL=warn", "LEVEE_ADMISSION__ADMISSION_FOR=2h")
	if f.shape == cluster {
		f.env = append(f.env, "LEVEE_GATE_BUCKETS=3") // one on each master
	}
	for _, name := range []string{"SIGN_IN", "SIGN_IN_ACCOUNT", "SIGN_UP", "WRITE", "PURCHASE", "READ", "ADMISSION", "ADMISSION_ADDRESS", "POLL"} {
		f.env = append(f.env, "LEVEE_LIMITS__RATES__"+name+"=off")
	}
	f.env = append(f.env, settings...)
	return nil
}

// newMember prepares a node and its links; it does not start it.
func (f *fleet) newMember(ctx context.Context, bin string, number int) (*member, error) {
	m := &member{number: number, asker: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{}}}
	f.close = append(f.close, func() error { m.asker.CloseIdleConnections(); return nil })
	var err error
	if m.addr, err = backends.TakeAddress(); err != nil {
		return nil, err
	}
	f.close = append(f.close, func() error { m.addr.Free(); return nil })
	if m.dbLink, err = backends.StartProxy(ctx, f.db.Addr()); err != nil {
		return nil, err
	}
	f.close = append(f.close, m.dbLink.Close)
	url, err := m.dbLink.URL(f.dbURL)
	if err != nil {
		return nil, err
	}
	// A server that does not answer for three seconds is lost: the defaults of 5 s and 10 s would only make runs longer.
	m.env = append(append([]string{}, f.env...), "LEVEE_DB="+url+"?connect_timeout=2s&answer_timeout=3s", fmt.Sprintf("LEVEE_NODE__NAME=node-%d", number), "CHAOS_CLOCK="+clockFile)
	if f.single != nil {
		if m.redisLink, err = backends.StartProxy(ctx, f.single.Addr()); err != nil {
			return nil, err
		}
		f.close = append(f.close, m.redisLink.Close)
		m.env = append(m.env, "LEVEE_REDIS=redis://"+m.redisLink.Addr)
	}
	m.program, err = backends.PrepareProgram(backends.ProgramOptions{Name: "levee", Path: bin, Args: []string{"serve", "--addr", m.addr.String()},
		Env: m.env, Ready: m.ready})
	if err == nil {
		f.close = append(f.close, m.program.Close)
	}
	return m, err
}

// ready fails unless the node says that it is.
func (m *member) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr.String()+"/readyz", nil)
	if err != nil {
		return err
	}
	a, err := m.asker.Do(req)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("node %d is not ready: %d", m.number, a.StatusCode)
	}
	return nil
}

func (f *fleet) each(t testing.TB, nodes []*member, do func(*member) error) {
	t.Helper()
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, m := range nodes {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	must(t, errors.Join(errs...))
}

// furnish makes the first account, a product, and the sale whose copies are sold.
func (f *fleet) furnish(t testing.TB) {
	t.Helper()
	f.call = newCaller(f.base)
	f.close = append(f.close, func() error { f.call.http.CloseIdleConnections(); return nil })
	code := setupCode.FindStringSubmatch(f.nodes[0].program.Log())
	if code == nil {
		t.Fatalf("the first node printed no setup code: %s", f.nodes[0].program.Log())
	}
	// The code is good on the node that printed it only.
	first := caller{base: "http://" + f.nodes[0].addr.String(), http: f.call.http}
	first.must(t, 201, "POST", "/v1/setup", "", map[string]any{"code": code[1], "name": "keeper", "password": password}, nil)
	f.signIn(t)
	var p struct{ SKUs []struct{ ID string } }
	f.call.must(t, 201, "POST", "/v1/products", f.operator, map[string]any{"code": "LAMP", "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": "LAMP-1", "price": money(9900), "on_hand": stockAll}}}, &p)
	f.sku = p.SKUs[0].ID
	var v struct{ ID string }
	f.call.must(t, 201, "POST", "/v1/sales", f.operator, map[string]any{"title": "Lamps", "sku": f.sku, "price": money(4900), "units": 1000,
		"per_buyer": 1, "starts_at": time.Now().Add(-time.Second), "ends_at": time.Now().Add(24 * time.Hour)}, &v)
	f.call.must(t, 201, "POST", "/v1/sales/"+v.ID+"/acts", f.operator, map[string]any{"act": "schedule", "reason": "test"}, nil)
	f.sale = v.ID
}

func (f *fleet) signIn(t testing.TB) {
	t.Helper()
	var g struct {
		Token string `json:"access_token"`
	}
	f.call.must(t, 201, "POST", "/v1/sessions", "", map[string]any{"name": "keeper", "password": password}, &g)
	f.operator = g.Token
}

// heal ends every fault of every link and process. Whoever put one there ends his own as well; this is for what a failed run left.
func (f *fleet) heal(ctx context.Context) error {
	var err error
	for _, m := range f.nodes {
		err = errors.Join(err, m.dbLink.Heal())
		if m.redisLink != nil {
			err = errors.Join(err, m.redisLink.Heal())
		}
		if !m.program.Running() {
			err = errors.Join(err, m.program.Restart(ctx))
		}
	}
	return err
}

// well waits until every node says that it is ready.
func (f *fleet) well(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for _, m := range f.nodes {
		for {
			err := m.ready(ctx)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("not within a minute after the last fault: %w", err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// account asks one node, past nginx.
func (f *fleet) account(ctx context.Context, m *member, sale string) (a account, err error) {
	at := caller{base: "http://" + m.addr.String(), http: f.call.http}
	r, err := at.do(ctx, "GET", "/v1/sales/"+sale+"/account", f.operator, nil)
	if err == nil && r.status != http.StatusOK {
		err = fmt.Errorf("node %d: the account is answered %d: %.200s", m.number, r.status, r.body)
	}
	if err == nil {
		err = decode(r.body, &a)
	}
	return a, err
}

// doctor has the program examine the house beside its nodes.
func (f *fleet) doctor(ctx context.Context, bin string) error {
	p, err := backends.PrepareProgram(backends.ProgramOptions{Name: "levee", Path: bin, Args: []string{"doctor"}, Env: f.nodes[0].env})
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Start(); err != nil {
		return err
	}
	err = p.Wait(ctx)
	// What wants to be looked at is there for sure: nodes that were killed have fallen silent.
	if said := p.Log(); err != nil || !strings.Contains(said, "All is well.") && !strings.Contains(said, "It works") {
		return fmt.Errorf("levee doctor: %w\n%s", err, said)
	}
	return nil
}

// sickness returns the lines that nodes wrote since the last call in which they say that something is wrong.
func (f *fleet) sickness() (lines []string) {
	for _, m := range f.nodes {
		log := m.program.Log()
		for line := range strings.Lines(log[min(m.heard, len(log)):]) {
			for _, bad := range []string{"do not balance", "a gate differed", "panic", "fatal error", "DATA RACE", "a part of the house failed"} {
				if strings.Contains(line, bad) {
					lines = append(lines, fmt.Sprintf("node %d: %s", m.number, strings.TrimSpace(line)))
				}
			}
		}
		m.heard = len(log)
	}
	return lines
}

// tails is what the nodes said last.
func (f *fleet) tails(n int) string {
	var b strings.Builder
	for _, m := range f.nodes {
		log := m.program.Log()
		fmt.Fprintf(&b, "\n--- node %d\n%s", m.number, log[max(0, len(log)-n):])
	}
	return b.String()
}
