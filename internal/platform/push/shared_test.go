package push

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/redis"
)

var names atomic.Int64

func newName() string { return fmt.Sprintf("push-test-%d-%d:", time.Now().UnixNano(), names.Add(1)) }

func sharedRedis(t testing.TB) string {
	t.Helper()
	s, err := backends.Redis(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.URL()
}

func connect(t testing.TB, url, prefix string) *redis.Client {
	t.Helper()
	c, err := redis.Open(context.Background(), redis.Config{URL: url, Prefix: prefix, Timeout: 500 * time.Millisecond}, quiet()) // no outage on a busy machine, and soon enough one where a test makes it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openNode(t testing.TB, cfg Config, c *redis.Client) *Hub {
	t.Helper()
	h, err := OpenShared(cfg, c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newNode(t testing.TB, cfg Config, c *redis.Client, configure ...func(*httptest.Server)) *house {
	t.Helper()
	return serve(t, openNode(t, cfg, c), configure...)
}

// pair is two nodes of a house whose links to Redis can be broken one by one.
type pair struct {
	server  *backends.RedisServer
	proxies [2]*backends.Proxy
	clients [2]*redis.Client
	nodes   [2]*house
	prefix  string
}

func newPair(t testing.TB, cfg Config) *pair {
	t.Helper()
	s, err := backends.StartRedis(context.Background(), backends.RedisOptions{AOF: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p := &pair{server: s, prefix: newName()}
	for i := range p.nodes {
		if p.proxies[i], err = backends.StartProxy(context.Background(), s.URL()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.proxies[i].Close() })
		url, err := p.proxies[i].URL(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		p.clients[i] = connect(t, url, p.prefix)
		p.nodes[i] = newNode(t, cfg, p.clients[i])
	}
	return p
}

func (p *pair) do(t testing.TB, args ...any) any {
	t.Helper()
	v, err := p.server.Do(context.Background(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// frames reads until a frame of the text comes, and returns the texts; a reset is "reset".
func frames(t testing.TB, r reader, last string) (all []string, at string) {
	t.Helper()
	for {
		m := mustNext(t, r)
		switch {
		case m.Kind == kindReset:
			all = append(all, "reset")
		case m.Kind == "" || m.Kind == "ping":
			continue
		default:
			all = append(all, string(m.Data))
		}
		if all[len(all)-1] == last {
			return all, m.ID
		}
	}
}

func same(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// What is said on one node is heard on both, once and in order, and a reader may go on at the other.
func TestNodesAreOneHub(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		if !shared.Load() {
			t.Skip("one hub is one node")
		}
		p := newPair(t, Config{})
		a, b := p.nodes[0], p.nodes[1]
		ra, rb := dial(a, "", "x", "y"), dial(b, "", "x")
		mustNext(t, ra)
		mustNext(t, rb)
		a.Publish("x", "n", []byte("1"))
		got, _ := frames(t, rb, "1")
		b.Publish("x", "n", []byte("2"))
		b.Publish("y", "n", []byte("3"))
		b.Publish("z", "n", []byte("4"))
		b.Publish("x", "n", []byte("5"))
		all, atA := frames(t, ra, "5")
		same(t, "on the first", all, "1", "2", "3", "5")
		rest, atB := frames(t, rb, "5")
		same(t, "on the second", append(got, rest...), "1", "2", "5")
		if atA != atB {
			t.Errorf("one frame has the positions %s and %s", atA, atB)
		}
		ra.stop()
		rb.stop()
		for i := range 5 {
			p.nodes[i%2].Publish("x", "n", fmt.Append(nil, 6+i))
			a.heard(t, int64(6+i))
		}
		b.heard(t, 10)
		all, _ = frames(t, dial(b, atA, "x", "y"), "10")
		if len(all) != 5 || all[0] == "reset" {
			t.Errorf("at the other node came %v", all)
		}
		// A node that begins later knows what was said before.
		late := newNode(t, Config{}, connect(t, p.server.URL(), p.prefix))
		until(t, "the newcomer has read the log", func() bool { return late.head() == a.head() })
		all, _ = frames(t, dial(late, atA, "x", "y"), "10")
		if len(all) != 5 || all[0] == "reset" {
			t.Errorf("at the new node came %v", all)
		}
	})
}

// A connection that breaks for less than a second costs nobody a frame and nobody a reset.
func TestShortCutsAreNotSeen(t *testing.T) {
	p := newPair(t, Config{History: 4096})
	a, b := p.nodes[0], p.nodes[1]
	r, err := b.sse(t.Context(), "", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	mustNext(t, r)
	const n = 2000
	go func() {
		for i := range n {
			a.Publish("x", "n", fmt.Append(nil, i))
			if i%50 == 0 {
				p.proxies[i/50%2].ResetPeer()
				time.Sleep(20 * time.Millisecond)
			}
			if i == n/2 {
				p.proxies[1].Down()
				time.Sleep(400 * time.Millisecond)
				_ = p.proxies[1].Up()
			}
		}
	}()
	all, _ := frames(t, r, fmt.Sprint(n-1))
	for i, s := range all {
		if s != fmt.Sprint(i) {
			t.Fatalf("frame %d is %s", i, s)
		}
	}
	if len(all) != n {
		t.Errorf("%d frames", len(all))
	}
}

// Whoever may have missed something is told, while he listens and when he comes back; and afterwards he hears again.
func TestFaultsReset(t *testing.T) {
	for name, fault := range map[string]func(t *testing.T, p *pair){
		"the server restarts": func(t *testing.T, p *pair) {
			if err := p.server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := p.server.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"the server comes back empty": func(t *testing.T, p *pair) {
			if err := p.server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := p.server.RestartEmpty(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"somebody empties it":      func(t *testing.T, p *pair) { p.do(t, "FLUSHALL") },
		"the log is thrown away":   func(t *testing.T, p *pair) { p.do(t, "DEL", p.prefix+"{push}:meta") },
		"the end of the log goes":  func(t *testing.T, p *pair) { p.do(t, "HSET", p.prefix+"{push}:meta", "offset", "1") },
		"the epoch is another one": func(t *testing.T, p *pair) { p.do(t, "HSET", p.prefix+"{push}:meta", "epoch", "00000000000000aa") },
		"one was cut off for too long": func(t *testing.T, p *pair) {
			p.proxies[1].Down()
			p.nodes[0].Publish("x", "n", []byte(`"missed"`))
			p.nodes[0].heard(t, 2)
			p.do(t, "XTRIM", p.prefix+"{push}:log", "MAXLEN", "0")
			p.nodes[0].Publish("y", "n", []byte(`"missed"`))
			_ = p.proxies[1].Up()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{})
			a, b := p.nodes[0], p.nodes[1]
			r, err := b.sse(t.Context(), "", "x", "q")
			if err != nil {
				t.Fatal(err)
			}
			defer r.stop()
			mustNext(t, r)
			a.Publish("x", "n", []byte("1"))
			_, before := frames(t, r, "1")
			began := time.Now()
			fault(t, p)
			all, _ := frames(t, r, "reset")
			same(t, "live", all, "reset")
			t.Logf("told after %v", time.Since(began))
			until(t, "both are at one again", func() bool {
				a.Publish("noise", "n", nil)
				return a.head() == b.head() && !a.link.isAlone() && !b.link.isAlone()
			})
			a.Publish("x", "n", []byte("2"))
			all, after := frames(t, r, "2")
			if all[0] == "reset" && name != "somebody empties it" && len(all) > 3 {
				t.Errorf("told again and again: %v", all)
			}
			back, err := b.sse(t.Context(), before, "x")
			if err != nil {
				t.Fatal(err)
			}
			defer back.stop()
			if m := mustNext(t, back); m.Kind != kindReset {
				t.Errorf("came back with the old position to %+v", m)
			}
			for _, h := range p.nodes {
				r, err := h.sse(t.Context(), after, "x")
				if err != nil {
					t.Fatal(err)
				}
				defer r.stop()
				if m := mustNext(t, r); m.Kind == kindReset {
					t.Errorf("the new position is not known: %+v", m)
				}
			}
		})
	}
}

// With Redis away, readers hear what is said on their own node, at once after the first second; nothing blocks; and when it is back all are told
// to read anew, once each, also those of a node that was never cut off.
func TestRedisAway(t *testing.T) {
	p := newPair(t, Config{})
	a, b := p.nodes[0], p.nodes[1]
	ra, err := a.sse(t.Context(), "", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer ra.stop()
	rb, err := b.sse(t.Context(), "", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer rb.stop()
	mustNext(t, ra)
	mustNext(t, rb)
	for _, silent := range []bool{false, true} {
		for _, both := range []bool{true, false} {
			t.Run(fmt.Sprintf("silent %v both %v", silent, both), func(t *testing.T) {
				cut := p.proxies[:]
				if !both {
					cut = cut[1:] // the second node alone
				}
				for _, proxy := range cut {
					if silent {
						proxy.Silence(true)
					} else {
						proxy.Down()
					}
				}
				began := time.Now()
				b.Publish("x", "n", []byte("1"))
				all, _ := frames(t, rb, "1")
				same(t, "alone", all, "1")
				if d := time.Since(began); d > 10*time.Second {
					t.Errorf("the first frame took %v", d)
				}
				began = time.Now()
				for i := range 1000 {
					b.Publish("x", "n", fmt.Append(nil, 2+i))
				}
				// Entering is tried again all the time, and holds publishers up for a call's time at most.
				if d := time.Since(began); d > 20*time.Second { // one call's time each would be eight minutes
					t.Errorf("1000 frames took %v", d)
				}
				if !both {
					a.Publish("x", "n", []byte(`"here"`))
					all, _ := frames(t, ra, `"here"`)
					same(t, "on the node that is not cut off", all, `"here"`)
				}
				all, _ = frames(t, rb, "1001")
				if len(all) != 1000 {
					t.Errorf("%d frames came", len(all))
				}
				for _, proxy := range cut {
					if err := proxy.Heal(); err != nil {
						t.Fatal(err)
					}
				}
				all, _ = frames(t, rb, "reset")
				same(t, "back", all, "reset")
				all, _ = frames(t, ra, "reset")
				same(t, "back, on the other node", all, "reset")
				// A busy machine may lose the other one once more, and tell so; then it is quiet.
				for again := 2; ; again-- {
					until(t, "together", func() bool { return !a.link.isAlone() && !b.link.isAlone() && a.head() == b.head() })
					time.Sleep(100 * time.Millisecond)
					a.Publish("x", "n", []byte(`"end"`))
					onB, _ := frames(t, rb, `"end"`)
					onA, _ := frames(t, ra, `"end"`)
					if again > 0 && (len(onA) == 2 && onA[0] == "reset" || len(onB) == 2 && onB[0] == "reset") {
						continue
					}
					same(t, "after it", onB, `"end"`)
					same(t, "after it, on the other node", onA, `"end"`)
					break
				}
			})
		}
	}
}

// The log stays within its bounds, whatever is published, and says truly how large it is. A batch that is sent again is not heard again.
func TestLogIsBounded(t *testing.T) {
	c := connect(t, sharedRedis(t), newName())
	u := c.UniversalClient()
	keys := []string{c.Key("{push}:meta"), c.Key("{push}:log"), c.Key("{push}:sent:n")}
	epoch := "0123456789abcdef"
	reply, err := enterScript.Run(t.Context(), c, keys[:2], epoch, "0").Slice()
	if err != nil || reply[0] != epoch || reply[1] != int64(1) || reply[2] != int64(1) {
		t.Fatal(reply, err)
	}
	if again, err := enterScript.Run(t.Context(), c, keys[:2], "ffffffffffffffff", "0").Slice(); err != nil || again[0] != epoch {
		t.Fatal(again, err)
	}
	const most, mostBytes = 100, 20_000
	rng := rand.New(rand.NewPCG(1, 2))
	number, want := 1, int64(1)
	for range 300 {
		n := 1 + rng.IntN(40)
		args := []any{epoch, "n", number, most, mostBytes}
		for range n {
			args = append(args, "topic", "kind", strings.Repeat("x", rng.IntN(400)))
		}
		number, want = number+n, want+int64(n)
		for range 2 {
			if at, err := publishScript.Run(t.Context(), c, keys, args...).Int64(); err != nil || at != want {
				t.Fatalf("offset %d, want %d: %v", at, want, err)
			}
		}
		all, err := u.XRange(t.Context(), keys[1], "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for i, e := range all {
			if e.Values["t"] != nil {
				sum += len(e.Values["t"].(string)) + len(e.Values["k"].(string)) + len(e.Values["d"].(string)) + 64
			}
			if id := fmt.Sprintf("%d-0", want-int64(len(all)-1-i)); e.ID != id {
				t.Fatalf("entry %d has the id %s, want %s", i, e.ID, id)
			}
		}
		counted, err := u.HGet(t.Context(), keys[0], "bytes").Int()
		if err != nil || counted != sum || sum > mostBytes || len(all) > most {
			t.Fatalf("%d entries of %d bytes, counted as %d: %v", len(all), sum, counted, err)
		}
	}
	if at, err := publishScript.Run(t.Context(), c, keys, "another-epoch-xx", "n", 1, most, mostBytes, "t", "k", "d").Int64(); err != nil || at != -1 {
		t.Errorf("another epoch was taken: %d, %v", at, err)
	}
	if left, err := u.TTL(t.Context(), keys[2]).Result(); err != nil || left <= 0 {
		t.Errorf("the sender's number lives for %v, %v", left, err)
	}
	if err := publishScript.Run(t.Context(), c, keys, epoch, "n", "x", most, mostBytes).Err(); err == nil {
		t.Error("a number that is none was taken")
	}
}

// A log that cannot be written does not make readers read anew all the time, and frames go on here.
func TestBrokenLog(t *testing.T) {
	p := newPair(t, Config{})
	a := p.nodes[0]
	r, err := a.sse(t.Context(), "", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	mustNext(t, r)
	p.do(t, "XADD", p.prefix+"{push}:log", "1000000-0", "a", "b") // ids of ours are smaller from now on
	a.Publish("x", "n", []byte("1"))
	all, _ := frames(t, r, "1")
	if len(all) > 3 {
		t.Errorf("%v", all)
	}
	until(t, "the log is begun anew", func() bool { return !a.link.isAlone() && a.head().offset < 1_000_000 && a.head() == p.nodes[1].head() })
	a.Publish("x", "n", []byte("2"))
	if all, _ = frames(t, r, "2"); len(all) > 3 {
		t.Errorf("%v", all)
	}
}

// A full Redis refuses frames; they reach the readers of their own node, and all when there is room again.
func TestFullRedis(t *testing.T) {
	p := newPair(t, Config{})
	a := p.nodes[0]
	r, err := a.sse(t.Context(), "", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	mustNext(t, r)
	p.do(t, "CONFIG", "SET", "maxmemory", "1")
	a.Publish("x", "n", []byte("1"))
	all, _ := frames(t, r, "1")
	same(t, "full", all, "1")
	p.do(t, "CONFIG", "SET", "maxmemory", "0")
	all, _ = frames(t, r, "reset")
	same(t, "room again", all, "reset")
}

// houseWorld is what is true over two nodes: each topic has a number that only grows, told by one node.
type houseWorld struct {
	mu sync.Mutex
	n  map[string]int
}

func (w *houseWorld) say(h *Hub, topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n[topic]++
	h.Publish(topic, "n", fmt.Appendf(nil, `{"topic":%q,"n":%d}`, topic, w.n[topic]))
}

func (w *houseWorld) read() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := map[string]int{}
	for k, v := range w.n {
		c[k] = v
	}
	return c
}

// wandering plays readers who go from node to node on bad networks while Redis is cut off, silenced, restarted and emptied. It returns
// the faults that readers saw in their copies while it lasted, and those that were left at the end.
func wandering(t *testing.T, seed uint64, deaf bool, length time.Duration) (faults []string, resets, resumes int) {
	p := newPair(t, Config{History: 32, Heartbeat: 20 * time.Millisecond, QueuePerConn: 256})
	w := &houseWorld{n: map[string]int{}}
	topics := []string{"a", "b", "c", "d"}
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	reading, done := context.WithCancel(t.Context())
	defer done()
	var tellers, readers sync.WaitGroup
	var mu sync.Mutex
	type copyOf struct {
		mine []string
		have map[string]int
	}
	var copies []*copyOf
	for i := range 6 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		c := &copyOf{mine: topics[i%3 : i%3+2], have: w.read()}
		copies = append(copies, c)
		readers.Go(func() {
			last, fresh := "", true
			for reading.Err() == nil {
				left := 1 + rng.IntN(60)
				if ctx.Err() != nil {
					left = 1 << 30 // at the end everybody stays
				}
				wire := &wire{left: left}
				wire.got = func(m message) {
					mu.Lock()
					defer mu.Unlock()
					was, _ := parsePosition(last)
					is, ok := parsePosition(m.ID)
					if !ok || is.epoch == was.epoch && m.Kind == "n" && is.offset <= was.offset {
						faults = append(faults, fmt.Sprintf("%+v came after %q", m, last))
					}
					last = m.ID
					switch m.Kind {
					case kindHello, kindHeartbeat:
						if fresh {
							c.have, fresh = w.read(), false
						}
						return
					case kindReset:
						resets++
						if !deaf {
							c.have = w.read()
						}
						return
					}
					var d struct {
						Topic string
						N     int
					}
					if err := json.Unmarshal(m.Data, &d); err != nil {
						t.Error(err)
					}
					if d.N > c.have[d.Topic]+1 {
						faults = append(faults, fmt.Sprintf("reader %d has %s up to %d and got %d", i, d.Topic, c.have[d.Topic], d.N))
					}
					c.have[d.Topic] = max(c.have[d.Topic], d.N)
				}
				cut, cancel := context.WithTimeout(reading, time.Duration(20+rng.IntN(400))*time.Millisecond)
				if ctx.Err() != nil {
					cancel()
					cut, cancel = context.WithCancel(reading)
				}
				err := p.nodes[rng.IntN(2)].listen(cut, wire, last, c.mine...)
				cancel()
				if err != nil && reading.Err() == nil {
					mu.Lock()
					resumes++
					mu.Unlock()
				}
			}
		})
	}
	for i := range topics {
		tellers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 100+uint64(i)))
			for ctx.Err() == nil {
				w.say(p.nodes[i%2].Hub, topics[i])
				time.Sleep(time.Duration(rng.IntN(8)) * time.Millisecond)
			}
		})
	}
	tellers.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 200))
		for ctx.Err() == nil {
			time.Sleep(time.Duration(50+rng.IntN(300)) * time.Millisecond)
			proxy := p.proxies[rng.IntN(2)]
			long := time.Duration(rng.IntN(2500)) * time.Millisecond
			switch rng.IntN(8) {
			case 0, 1:
				proxy.ResetPeer()
			case 2:
				proxy.Down()
				time.Sleep(long)
			case 3:
				proxy.Silence(true)
				time.Sleep(long)
			case 4:
				proxy.DropAnswers(true)
				time.Sleep(long)
			case 5:
				_ = p.server.Pause()
				time.Sleep(long)
				_ = p.server.Resume()
			case 6:
				_ = p.server.Kill()
				time.Sleep(long / 2)
				_ = p.server.Restart(context.Background())
			case 7:
				p.do(t, "FLUSHALL")
			}
			if err := proxy.Heal(); err != nil {
				t.Error(err)
			}
		}
	})
	tellers.Wait()
	// One more word on each topic, and everybody must end up with the truth.
	until(t, "the nodes are at one", func() bool {
		return !p.nodes[0].link.isAlone() && !p.nodes[1].link.isAlone() && p.nodes[0].head().epoch == p.nodes[1].head().epoch
	})
	time.Sleep(2 * checkEvery)
	for i, topic := range topics {
		w.say(p.nodes[i%2].Hub, topic)
	}
	truth := w.read()
	wrong := func() (all []string) {
		mu.Lock()
		defer mu.Unlock()
		for i, c := range copies {
			for _, topic := range c.mine {
				if c.have[topic] != truth[topic] {
					all = append(all, fmt.Sprintf("reader %d is left with %s at %d of %d", i, topic, c.have[topic], truth[topic]))
				}
			}
		}
		return all
	}
	for end := time.Now().Add(5 * time.Second); len(wrong()) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	faults = append(faults, wrong()...)
	done()
	readers.Wait()
	return faults, resets, resumes
}

func TestWanderingReadersMissNothing(t *testing.T) {
	rounds, length := 2, 6*time.Second
	if testing.Short() {
		rounds, length = 1, 4*time.Second
	}
	allResets, allResumes := 0, 0
	for seed := range uint64(rounds) {
		faults, resets, resumes := wandering(t, seed, false, length)
		allResets, allResumes = allResets+resets, allResumes+resumes
		if len(faults) > 0 {
			t.Errorf("seed %d: %d faults, the first: %s", seed, len(faults), faults[0])
		}
	}
	t.Logf("%d reconnects, %d resets", allResumes, allResets)
	if allResets == 0 || allResumes < allResets {
		t.Error("either nobody was reset or nobody was resumed: the histories prove nothing")
	}
}

// The same histories must notice readers who do not heed resets.
func TestWanderingReadersWhoIgnoreResetsAreFound(t *testing.T) {
	faults, _, _ := wandering(t, 1, true, 6*time.Second)
	t.Logf("%d faults", len(faults))
	if len(faults) == 0 {
		t.Error("no gap was found: this test could not find a real one either")
	}
}
