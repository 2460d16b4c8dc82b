package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// shop is one sale's gate under test, as its nodes see it.
type shop struct {
	nodes    []*Gate
	observer *Gate     // sees what the nodes see, and takes nothing
	faults   []*faults // of each node; nil in memory
	store    *store    // nil in memory
}

// driver makes shops. One suite runs on every driver.
type driver struct {
	name string
	open func(t testing.TB, nodes, waitingMax int) *shop
}

// drivers are memory always, and Redis on the distributed tier.
func drivers(t testing.TB) []driver {
	list := []driver{{"memory", func(_ testing.TB, _, waitingMax int) *shop {
		g := NewMemory(waitingMax)
		return &shop{nodes: []*Gate{g}, observer: g}
	}}}
	if redisWanted() {
		for _, count := range []int{1, 2, 8} {
			name := "redis"
			if count > 1 {
				name = fmt.Sprintf("redis, %d buckets", count)
			}
			list = append(list, driver{name, func(t testing.TB, nodes, waitingMax int) *shop {
				return openShared(t, testServer(t), nodes, waitingMax, ofTheHouse, count)
			}})
		}
	}
	return list
}

func redisWanted() bool {
	return os.Getenv("LEVEE_TEST_TIER") == "distributed" || os.Getenv("LEVEE_TEST_REDIS") != ""
}

// needRedis ends a test that is of Redis alone where the tier has none.
func needRedis(t testing.TB) {
	if !redisWanted() {
		t.Skip("of the distributed tier: LEVEE_TEST_TIER=distributed")
	}
}

var saleNumber atomic.Int64

func init() { saleNumber.Store(time.Now().UnixNano()) }

// openShared opens the gate of a new sale on a server.
func openShared(t testing.TB, url string, nodes, waitingMax int, texts scripts, count int) *shop {
	t.Helper()
	sale := levee.SaleID(saleNumber.Add(1))
	h := &shop{}
	for n := range nodes {
		c := client(t, url, n+1)
		h.nodes, h.faults = append(h.nodes, newGate(c.Client, texts, sale, fmt.Sprintf("node-%d", n), waitingMax, count)), append(h.faults, c.faults)
	}
	c := client(t, url, 0)
	h.observer = newGate(c.Client, texts, sale, "observer", waitingMax, count)
	h.store = &store{c: c.UniversalClient()}
	for _, b := range h.observer.buckets.all() {
		h.store.keys = append(h.store.keys, b.keys...)
		for _, s := range []*redis.Script{texts.take, texts.follow, texts.load, texts.move} { // so that an armed fault meets a script that is known
			if err := s.Run(context.Background(), c.Client, b.keys).Err(); err == nil || !strings.HasPrefix(err.Error(), "ERR") {
				t.Fatalf("a script took a call without arguments, or failed otherwise than by saying so: %v", err)
			}
		}
	}
	if count > 1 {
		h.store.keys = append(h.store.keys, h.observer.buckets.base+"shape")
	}
	t.Cleanup(func() { h.store.empty() })
	return h
}

// connected is a node's connection, which is kept for the next test.
type connected struct {
	*redis.Client
	faults *faults
}

var (
	clientsMu sync.Mutex // guards clients
	clients   = map[string]connected{}
)

func client(t testing.TB, url string, number int) connected {
	t.Helper()
	clientsMu.Lock()
	defer clientsMu.Unlock()
	name := fmt.Sprintf("%s#%d", url, number)
	if c, ok := clients[name]; ok {
		return c
	}
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	c := connected{faults: &faults{}}
	// Longer than in the house, so that a machine that is busy with other tests loses no calls but those that a test loses.
	if c.Client, err = redis.Open(context.Background(), redis.Config{URL: url, Prefix: "gatetest:", Timeout: 3 * time.Second}, o); err != nil {
		t.Fatal(err)
	}
	c.UniversalClient().AddHook(c.faults)
	clients[name] = c
	return c
}

// faults makes calls of a node fail: a script that is next, or one of those after it, does what was armed.
type faults struct {
	mu   sync.Mutex // guards what follows
	next int32      // what is armed
	skip int        // calls that it lets pass
	what [2]int     // scripts that it is for
	hit  hit
}

// hit is a call that failed. A script is told by how many keys it has.
type hit struct {
	kind   int32
	script int
	place  int // of the bucket
}

const (
	faultNone   int32 = iota
	faultBefore       // the request is lost
	faultAfter        // the reply is lost
	faultTwice        // the request is carried out twice, as by a client that tries again
	faultDial         // there was no connection
)

const (
	moveKeys   = 1
	takeKeys   = 3
	followKeys = 4
)

var errLost = &net.OpError{Op: "read", Net: "tcp", Err: io.EOF}

func (f *faults) arm(kind int32, skip int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next, f.skip, f.hit = kind, skip, hit{place: -1}
}

// of says which scripts what is armed is for.
func (f *faults) of(script int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.what = [2]int{script, moveKeys}
}

// was tells, once, which call failed.
func (f *faults) was() hit {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.hit
	f.hit = hit{place: -1}
	return was
}

// meet tells what happens to a call.
func (f *faults) meet(cmd goredis.Cmder) int32 {
	args := cmd.Args()
	if !strings.HasPrefix(cmd.Name(), "eval") || len(args) < 4 {
		return faultNone
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	keys, _ := args[2].(int)
	if f.next == faultNone || keys != f.what[0] && keys != f.what[1] {
		return faultNone
	}
	if f.skip--; f.skip >= 0 {
		return faultNone
	}
	f.hit = hit{kind: f.next, script: keys}
	if parts := strings.Split(args[3].(string), "."); len(parts) > 1 {
		f.hit.place, _ = strconv.Atoi(parts[1])
	}
	f.next = faultNone
	return f.hit.kind
}

func (f *faults) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (f *faults) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		switch f.meet(cmd) {
		case faultBefore:
			cmd.SetErr(errLost)
		case faultAfter:
			_ = next(ctx, cmd)
			cmd.SetErr(errLost)
		case faultTwice:
			_ = next(ctx, cmd)
			return next(ctx, cmd)
		case faultDial:
			cmd.SetErr(&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")})
		default:
			return next(ctx, cmd)
		}
		return cmd.Err()
	}
}

func (f *faults) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

// store is the sale's keys as Redis has them: the state of a replica that lags is an earlier snapshot of them.
type store struct {
	c    goredis.UniversalClient
	keys []string
}

func (s *store) snapshot(t testing.TB) []string {
	t.Helper()
	out := make([]string, len(s.keys))
	for i, key := range s.keys {
		v, err := s.c.Dump(context.Background(), key).Result()
		if err != nil && err != goredis.Nil {
			t.Fatal(err)
		}
		out[i] = v
	}
	return out
}

func (s *store) restore(t testing.TB, snapshot []string) { s.restorePart(t, snapshot, 0, len(s.keys)) }

// restorePart puts the keys from first to before last back.
func (s *store) restorePart(t testing.TB, snapshot []string, first, last int) {
	t.Helper()
	for i, key := range s.keys[:last] {
		if i < first {
			continue
		}
		s.c.Del(context.Background(), key)
		if snapshot[i] != "" {
			if err := s.c.Restore(context.Background(), key, 0, snapshot[i]).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (s *store) empty() { s.emptyPart(0, len(s.keys)) }

func (s *store) emptyPart(first, last int) {
	for _, key := range s.keys[first:last] { // one by one: in a cluster they are not all in one place
		s.c.Del(context.Background(), key)
	}
}

// testServer is the Redis that the tests of this process share.
func testServer(t testing.TB) string {
	t.Helper()
	s, err := backends.Redis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.URL()
}
