package push

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

const patience = 20 * time.Second

// TestMain fails the whole suite when a goroutine of the package outlives its hub.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines are left:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines that still run this package's code, after giving those that are ending time to.
func leaked() string {
	var left string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); runtime.Gosched() {
		buf := make([]byte, 8<<20)
		left = ""
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "levee/internal/platform/push.") && !strings.Contains(g, "push.leaked") && !strings.Contains(g, "testing.") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
	}
	return left[:min(len(left), 3000)]
}

func quiet() *obs.Obs {
	return &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now}
}

// houses counts those that are open: tests of this package do not run beside each other.
var houses atomic.Int64

// shared makes newHouse open hubs that share a log in Redis, each house its own.
var shared atomic.Bool

// house is a hub behind a real server: /sse and /ws listen to the topics named by ?t=.
type house struct {
	*Hub
	base int64 // the offset before the first frame
	url  string
	srv  *httptest.Server
	done bool
}

func newHouse(t testing.TB, cfg Config, configure ...func(*httptest.Server)) *house {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if shared.Load() {
		return newNode(t, cfg, connect(t, sharedRedis(t), newName()), configure...)
	}
	return serve(t, Open(cfg, quiet()), configure...)
}

// serve puts a hub behind a server.
func serve(t testing.TB, hub *Hub, configure ...func(*httptest.Server)) *house {
	t.Helper()
	houses.Add(1)
	h := &house{Hub: hub, base: hub.head().offset}
	mux := http.NewServeMux()
	mux.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) { h.ServeSSE(w, r, r.URL.Query()["t"]...) })
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { h.ServeWebSocket(w, r, r.URL.Query()["t"]...) })
	h.srv = httptest.NewUnstartedServer(mux)
	for _, c := range configure {
		c(h.srv)
	}
	if h.srv.TLS != nil {
		h.srv.StartTLS()
	} else {
		h.srv.Start()
	}
	h.url = h.srv.URL
	t.Cleanup(func() {
		if !h.done {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = h.Close(ctx) // clients of the test may still be there
		}
		h.srv.Close()
		if n := h.Conns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		if houses.Add(-1) > 0 {
			return // the last one looks
		}
		if left := leaked(); left != "" {
			t.Errorf("goroutines are left:\n%s", left)
		}
	})
	return h
}

func (h *house) close(t testing.TB, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	h.done = true
	return h.Close(ctx)
}

// message is a frame as a reader sees it; an SSE event that shows only an id has no kind.
type message struct {
	ID   string          `json:"id"`
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data"`
}

// reader is a client of either transport.
type reader interface {
	next() (message, error)
	stop()
}

type sseReader struct {
	body   *bufio.Reader
	close  func()
	header http.Header
	status int
}

func (r *sseReader) stop() { r.close() }

// next reads an event as the specification says, and is strict about what the hub has no reason to send.
func (r *sseReader) next() (m message, err error) {
	for {
		line, err := r.body.ReadString('\n')
		if err != nil {
			return m, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return m, nil
		}
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			return m, fmt.Errorf("strange line %q", line)
		}
		switch name {
		case "id":
			m.ID = value
		case "event":
			m.Kind = value
		case "data":
			if m.Data != nil {
				return m, fmt.Errorf("data of several lines")
			}
			m.Data = json.RawMessage(value)
		case "retry":
		default:
			return m, fmt.Errorf("strange field %q", line)
		}
	}
}

type wsReader struct{ c *websocket.Conn }

func (r *wsReader) stop() { _ = r.c.CloseNow() }
func (r *wsReader) next() (m message, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, b, err := r.c.Read(ctx)
		if err != nil {
			return m, err
		}
		m = message{}
		if err := json.Unmarshal(b, &m); err != nil {
			return m, err
		}
		if m.Kind != kindHello && m.Kind != kindHeartbeat {
			return m, nil
		}
		m.Kind = "" // as over SSE
		return m, nil
	}
}

func query(last string, topics []string) string {
	return url.Values{"t": topics, "last_event_id": {last}}.Encode()
}

func (h *house) sse(ctx context.Context, last string, topics ...string) (*sseReader, error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/sse?"+query("", topics), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := h.srv.Client().Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	return &sseReader{
		body: bufio.NewReader(resp.Body), header: resp.Header, status: resp.StatusCode,
		close: func() { cancel(); _ = resp.Body.Close() },
	}, nil
}

func (h *house) ws(ctx context.Context, last string, topics ...string) (*wsReader, error) {
	c, _, err := websocket.Dial(ctx, h.url+"/ws?"+query(last, topics), &websocket.DialOptions{HTTPClient: h.srv.Client()})
	if err != nil {
		return nil, err
	}
	return &wsReader{c}, nil
}

// heard waits until the hub has passed on so many frames since it was opened.
func (h *house) heard(t testing.TB, frames int64) {
	t.Helper()
	until(t, "frames come back over the log", func() bool { return h.head().offset >= h.base+frames })
}

// transports runs a test over both, on each driver.
func transports(t *testing.T, test func(t *testing.T, dial func(h *house, last string, topics ...string) reader)) {
	sse := func(t *testing.T) {
		test(t, func(h *house, last string, topics ...string) reader {
			r, err := h.sse(t.Context(), last, topics...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.stop)
			return r
		})
	}
	ws := func(t *testing.T) {
		test(t, func(h *house, last string, topics ...string) reader {
			r, err := h.ws(t.Context(), last, topics...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.stop)
			return r
		})
	}
	drivers(t, func(t *testing.T) {
		t.Run("sse", sse)
		t.Run("websocket", ws)
	})
}

// drivers runs a test with hubs of both kinds.
func drivers(t *testing.T, test func(t *testing.T)) {
	t.Run("memory", test)
	t.Run("redis", func(t *testing.T) {
		shared.Store(true)
		defer shared.Store(false)
		test(t)
	})
}

func mustNext(t testing.TB, r reader) message {
	t.Helper()
	type result struct {
		m   message
		err error
	}
	got := make(chan result, 1)
	go func() {
		m, err := r.next()
		got <- result{m, err}
	}()
	select {
	case g := <-got:
		if g.err != nil {
			t.Fatal(g.err)
		}
		return g.m
	case <-time.After(patience):
		r.stop()
		t.Fatal("nothing came")
		return message{}
	}
}

// until waits for what other goroutines bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// value reads a counter.
func value(c prometheus.Collector) float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		return -1
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}
