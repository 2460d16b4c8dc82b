package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"levee"
)

func TestFramesArrive(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{})
		r := dial(h, "", "a", "b", "a")
		hello := mustNext(t, r)
		if p, ok := parsePosition(hello.ID); !ok || hello.Kind != "" || p.offset != h.base {
			t.Errorf("first came %+v", hello)
		}
		h.Publish("a", "stock.changed", []byte(`{ "left" : 5,`+"\r\n"+` "note":"a\nb <é>" }`))
		h.Publish("c", "not.for.us", []byte(`1`))
		h.Publish("b", "plain", []byte("two\nlines: not \xff JSON"))
		h.Publish("a", "empty", nil)
		var got []string
		for range 3 {
			m := mustNext(t, r)
			p, _ := parsePosition(m.ID)
			got = append(got, fmt.Sprintf("%d %s %s", p.offset-h.base, m.Kind, m.Data))
		}
		want := []string{
			`1 stock.changed {"left":5,"note":"a\nb <é>"}`,
			`3 plain "two\nlines: not ` + "\uFFFD" + ` JSON"`,
			`4 empty null`,
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

func TestPublishRefusesDefects(t *testing.T) {
	h := newHouse(t, Config{})
	for _, c := range []struct {
		topic, kind string
		size        int
	}{
		{"", "k", 1},
		{strings.Repeat("t", 191), "k", 1},
		{"t", "", 1},
		{"t", strings.Repeat("k", 65), 1},
		{"t", "two\nlines", 1},
		{"t", `quote"`, 1},
		{"t", "Big", 1},
		{"t", "reset", 1},
		{"t", "hello", 1},
		{"t", "heartbeat", 1},
		{"t", "pong", 1},
		{"t", "k", maxData + 1},
	} {
		before := value(h.metrics.invalid)
		h.Publish(c.topic, c.kind, make([]byte, c.size))
		if value(h.metrics.invalid) != before+1 {
			t.Errorf("%+v was published", c)
		}
	}
}

func TestResumeWithoutGap(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{History: 8})
		r := dial(h, "", "a", "b")
		mustNext(t, r)
		h.Publish("a", "n", []byte("1"))
		last := mustNext(t, r).ID
		r.stop()
		for i := range 10 {
			h.Publish([]string{"a", "b", "c"}[i%3], "n", fmt.Append(nil, i+2))
		}
		r = dial(h, last, "a", "b")
		if hello := mustNext(t, r); hello.ID != last {
			t.Errorf("before the missed frames the position is %q, want %q", hello.ID, last)
		}
		h.Publish("b", "n", []byte("12"))
		var got []string
		for range 8 {
			got = append(got, string(mustNext(t, r).Data))
		}
		if d := cmp.Diff([]string{"2", "3", "5", "6", "8", "9", "11", "12"}, got); d != "" {
			t.Error(d)
		}
	})
}

func TestLostHistoryResets(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{History: 4})
		for i := range 10 {
			h.Publish("a", "n", fmt.Append(nil, i))
		}
		h.heard(t, 10)
		other := newHouse(t, Config{})
		at := func(epoch uint64, offset int64) string { return position{epoch, h.base + offset}.String() }
		for name, c := range map[string]struct {
			last  string
			topic string
			reset bool
		}{
			"within":             {at(h.epoch, 6), "a", false},
			"at the end":         {at(h.epoch, 10), "a", false},
			"one too old":        {at(h.epoch, 5), "a", true},
			"from the start":     {at(h.epoch, 0), "a", true},
			"from the future":    {at(h.epoch, 11), "a", !shared.Load()}, // of another node it may be true
			"from a far future":  {at(h.epoch, 1_000_000), "a", true},
			"another life":       {at(other.epoch, 6), "a", true},
			"not a position":     {"7", "a", true},
			"something bad":      {"<script>", "a", true},
			"a topic never used": {at(h.epoch, 0), "zzz", false},
		} {
			t.Run(name, func(t *testing.T) {
				r := dial(h, c.last, c.topic)
				first := mustNext(t, r)
				if (first.Kind == kindReset) != c.reset {
					t.Fatalf("first came %+v", first)
				}
				if c.reset && first.ID != h.head().String() {
					t.Errorf("the position after a reset is %q", first.ID)
				}
			})
		}
	})
}

// With no room for all topics, the silent ones lose their history, and their readers are told.
func TestHistoryIsBounded(t *testing.T) {
	h := newHouse(t, Config{HistoryBytes: 64 << 10})
	h.Publish("old", "n", []byte("1"))
	for i := range 5000 {
		h.Publish(fmt.Sprint("user-", i), "n", []byte(`{"some":"data"}`))
	}
	h.mu.Lock()
	var sum int64
	for _, tp := range h.topics {
		sum += topicCost
		for _, f := range tp.ring {
			sum += f.cost()
		}
	}
	if sum != h.bytes || h.bytes > 64<<10 || len(h.topics) != h.recent.Len() || len(h.topics) < 30 {
		t.Errorf("%d topics with %d bytes, counted as %d", len(h.topics), sum, h.bytes)
	}
	h.mu.Unlock()
	for _, c := range []struct {
		topic string
		since int64
		reset bool
	}{
		{"old", 0, true},
		{"user-0", 1, true},
		{"user-0", 5001, false}, // nothing was said since
		{"user-4999", 5000, false},
		{"never-used", 1, true}, // it may have been, and forgotten
	} {
		r, err := h.sse(t.Context(), position{h.epoch, c.since}.String(), c.topic)
		if err != nil {
			t.Fatal(err)
		}
		if first := mustNext(t, r); (first.Kind == kindReset) != c.reset {
			t.Errorf("%+v: %+v", c, first)
		}
		r.stop()
	}
	// One frame may not burst it either.
	h.Publish("large", "n", []byte(`"`+strings.Repeat("x", maxData-2)+`"`))
	h.mu.Lock()
	if h.bytes > 64<<10 {
		t.Errorf("%d bytes", h.bytes)
	}
	h.mu.Unlock()
}

func TestTopicsAreForgotten(t *testing.T) {
	h := newHouse(t, Config{History: -1})
	var rs []*sseReader
	for i := range 50 {
		r, err := h.sse(t.Context(), "", fmt.Sprint("t", i%7), fmt.Sprint("t", (i+1)%7))
		if err != nil {
			t.Fatal(err)
		}
		mustNext(t, r)
		rs = append(rs, r)
	}
	h.Publish("t3", "n", nil)
	for _, r := range rs {
		r.stop()
	}
	until(t, "the topics go", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.topics) == 0
	})
	r, err := h.sse(t.Context(), position{h.epoch, 0}.String(), "t1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	if m := mustNext(t, r); m.Kind != kindReset {
		t.Errorf("without history came %+v", m)
	}
}

// A reader who stops reading is cut off; nobody else notices, least of all the publisher.
func TestSlowReaderIsCutOff(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{QueuePerConn: 8, WriteTimeout: 5 * time.Minute, History: 8}, func(s *httptest.Server) {
			s.Config.ConnState = func(c net.Conn, st http.ConnState) {
				if tcp, ok := c.(*net.TCPConn); ok && st == http.StateNew {
					_ = tcp.SetWriteBuffer(4 << 10)
				}
			}
			// The default client's receive buffers grow to megabytes.
			s.Listener = &smallBuffers{s.Listener}
		})
		slow := dial(h, "", "a")
		first := mustNext(t, slow)
		good := dial(h, "", "a")
		mustNext(t, good)
		seen := make(chan int, 1<<16)
		go func() {
			defer close(seen)
			for {
				m, err := good.next()
				if err != nil {
					return
				}
				var n int
				if _, err := fmt.Sscanf(string(m.Data), `{"n":%d`, &n); err == nil {
					seen <- n
				}
			}
		}()
		pad := strings.Repeat("x", 30<<10)
		var longest time.Duration
		n := 0
		for ; value(h.metrics.slow) == 0 && n < 20_000; n++ {
			began := time.Now()
			h.Publish("a", "n", fmt.Appendf(nil, `{"n":%d,"pad":%q}`, n, pad))
			longest = max(longest, time.Since(began))
			select {
			case got := <-seen: // the good one is given the time to read
				if got != n {
					t.Fatalf("the good reader got %d, want %d", got, n)
				}
			case <-time.After(patience):
				t.Fatal("the good reader was held up")
			}
		}
		t.Logf("cut off after %d frames; the longest Publish took %v", n, longest)
		if longest > 10*time.Second { // it waits for nobody; the write that stands may take five minutes
			t.Errorf("Publish took %v", longest)
		}
		until(t, "the slow one goes, although its write may take five minutes", func() bool { return h.Conns() == 1 })
		if got := value(h.metrics.slow); got != 1 {
			t.Errorf("%v were slow", got)
		}
		// It may come back, and is told that it missed too much.
		slow.stop()
		if m := mustNext(t, dial(h, first.ID, "a")); m.Kind != kindReset {
			t.Errorf("came back to %+v", m)
		}
		good.stop()
		for range seen {
		}
	})
}

type smallBuffers struct{ net.Listener }

func (l *smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(4 << 10)
	}
	return c, err
}

// A burst is no reason to be cut off: readers who read are not slow because a thousand frames came at once.
func TestBurstIsNotSlow(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{QueuePerConn: 64})
		r := dial(h, "", "a")
		mustNext(t, r)
		const n = hardQueue * 64
		for i := range n {
			h.Publish("a", "n", fmt.Append(nil, i))
		}
		for i := range n {
			if m := mustNext(t, r); string(m.Data) != fmt.Sprint(i) {
				t.Fatalf("got %s, want %d", m.Data, i)
			}
		}
	})
}

func TestLimits(t *testing.T) {
	h := newHouse(t, Config{MaxConns: 4, MaxPerClient: 2, Client: func(r *http.Request) string { return r.URL.Query().Get("who") }})
	get := func(path string) (*http.Response, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
		return resp, cancel
	}
	refusal := func(path string, status int, code levee.Code) {
		t.Helper()
		resp, _ := get(path)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != status || !strings.Contains(string(body), `"`+string(code)+`"`) || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, resp.Header)
		}
	}
	var cancels []context.CancelFunc
	for i, who := range []string{"ann", "ann", "", ""} {
		resp, cancel := get("/sse?t=a&who=" + who)
		if resp.StatusCode != 200 {
			t.Fatalf("connection %d: %d", i, resp.StatusCode)
		}
		cancels = append(cancels, cancel)
		if i == 1 {
			refusal("/sse?t=a&who=ann", 429, levee.CodeTooManyRequests)
			refusal("/ws?t=a&who=ann", 429, levee.CodeTooManyRequests)
		}
	}
	if h.Conns() != 4 {
		t.Errorf("%d connections", h.Conns())
	}
	refusal("/sse?t=a&who=bob", 503, levee.CodeUnavailable)
	refusal("/ws?t=a&who=bob", 503, levee.CodeUnavailable)
	cancels[0]()
	until(t, "a place becomes free", func() bool { return h.Conns() == 3 })
	if resp, _ := get("/sse?t=a&who=ann"); resp.StatusCode != 200 {
		t.Errorf("the free place is not given: %d", resp.StatusCode)
	}
	for _, c := range cancels {
		c()
	}
}

func TestRefusals(t *testing.T) {
	h := newHouse(t, Config{})
	own := h.url
	allowed := newHouse(t, Config{Origin: func(r *http.Request) bool { return r.Header.Get("Origin") == "https://shop.example" }})
	many := strings.Repeat("&t=x", 33)
	for _, c := range []struct {
		house        *house
		name, method string
		path, origin string
		want         int
	}{
		{h, "no origin", "GET", "/sse?t=a", "", 200},
		{h, "own origin", "GET", "/sse?t=a", own, 200},
		{h, "foreign origin", "GET", "/sse?t=a", "https://evil.example", 403},
		{h, "null origin", "GET", "/sse?t=a", "null", 403},
		{h, "own host as a prefix", "GET", "/sse?t=a", own + ".evil.example", 403},
		{h, "own host as a user", "GET", "/sse?t=a", own + "@evil.example", 403},
		{h, "broken origin", "GET", "/sse?t=a", "http://[::", 403},
		{allowed, "listed origin", "GET", "/sse?t=a", "https://shop.example", 200},
		{allowed, "unlisted origin", "GET", "/sse?t=a", own, 403},
		{h, "socket, foreign origin", "GET", "/ws?t=a", "https://evil.example", 403},
		{h, "socket, no upgrade", "GET", "/ws?t=a", own, 426},
		{h, "POST", "POST", "/sse?t=a", "", 405},
		{h, "HEAD", "HEAD", "/sse?t=a", "", 405},
		{h, "no topic", "GET", "/sse", "", 400},
		{h, "no topic", "GET", "/ws", "", 400},
		{h, "empty topic", "GET", "/sse?t=", "", 400},
		{h, "long topic", "GET", "/sse?t=" + strings.Repeat("a", 191), "", 400},
		{h, "many topics", "GET", "/sse?" + many, "", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, c.method, c.house.url+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			resp, err := c.house.srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("status %d, want %d", resp.StatusCode, c.want)
			}
			if c.want == 405 && resp.Header.Get("Allow") != "GET" {
				t.Error("no Allow header")
			}
			if c.want == 200 && (resp.Header.Get("Content-Type") != "text/event-stream" ||
				!strings.Contains(resp.Header.Get("Cache-Control"), "no-cache")) {
				t.Errorf("headers %v", resp.Header)
			}
		})
	}
	foreign := http.Header{"Origin": {"https://evil.example"}}
	_, _, err := websocket.Dial(t.Context(), h.url+"/ws?t=a", &websocket.DialOptions{HTTPHeader: foreign})
	if err == nil {
		t.Error("a foreign page got a socket")
	}
	until(t, "all are gone", func() bool { return h.Conns()+allowed.Conns() == 0 })
}

// plainWriter is what a careless handler in between makes of a writer: it can do nothing but write.
type plainWriter struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *plainWriter) Header() http.Header         { return w.header }
func (w *plainWriter) WriteHeader(s int)           { w.status = s }
func (w *plainWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

func TestWriterThatCannotFlush(t *testing.T) {
	h := newHouse(t, Config{})
	w := &plainWriter{header: http.Header{"X-Request-Id": {"r1"}}}
	h.ServeSSE(w, httptest.NewRequest("GET", "/", nil), "a")
	if w.status != 500 || w.header.Get("Content-Type") != "application/problem+json" || w.header.Get("X-Request-Id") != "r1" ||
		w.header.Get("Connection") != "" || strings.Contains(w.body.String(), "flush") {
		t.Errorf("%d %v %s", w.status, w.header, w.body.String())
	}
	w = &plainWriter{header: http.Header{}}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	h.ServeWebSocket(w, r, "a")
	if w.status < 500 {
		t.Errorf("a socket on a writer that cannot hijack: %d %s", w.status, w.body.String())
	}
}

// Close sends out what was published before it, to every reader, and says goodbye.
func TestCloseDrains(t *testing.T) {
	drivers(t, func(t *testing.T) {
		h := newHouse(t, Config{})
		var rs []reader
		for i := range 40 {
			var r reader
			var err error
			if i%2 == 0 {
				r, err = h.sse(t.Context(), "", "a")
			} else {
				r, err = h.ws(t.Context(), "", "a")
			}
			if err != nil {
				t.Fatal(err)
			}
			mustNext(t, r)
			rs = append(rs, r)
		}
		const n = 500
		for i := range n {
			h.Publish("a", "n", fmt.Append(nil, i))
		}
		ends := make(chan error, len(rs))
		for _, r := range rs {
			go func() {
				defer r.stop()
				for i := range n {
					if m, err := r.next(); err != nil || string(m.Data) != fmt.Sprint(i) {
						ends <- fmt.Errorf("frame %d: %s, %w", i, m.Data, err)
						return
					}
				}
				_, err := r.next()
				if err != io.EOF && websocket.CloseStatus(err) != websocket.StatusGoingAway {
					ends <- fmt.Errorf("the end: %w", err)
					return
				}
				ends <- nil
			}()
		}
		if err := h.close(t, patience); err != nil {
			t.Error(err)
		}
		for range rs {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
		h.Publish("a", "n", nil) // does nothing, and does not hang
		r, err := h.sse(t.Context(), "", "a")
		if err != nil {
			t.Fatal(err)
		}
		defer r.stop()
		if r.status != 503 {
			t.Errorf("a closed hub answers %d", r.status)
		}
		if err := h.close(t, time.Second); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// A reader who does not read cannot hold up the end for longer than the house allows.
func TestCloseCutsWhoDoesNotRead(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		h := newHouse(t, Config{WriteTimeout: 5 * time.Minute, QueuePerConn: 4096}, func(s *httptest.Server) {
			s.Listener = &smallBuffers{s.Listener}
		})
		r := dial(h, "", "a")
		mustNext(t, r)
		pad := []byte(`"` + strings.Repeat("x", 60<<10) + `"`)
		for range 400 { // more than any socket's buffers
			h.Publish("a", "n", pad)
		}
		began := time.Now()
		err := h.close(t, 50*time.Millisecond)
		if levee.CodeOf(err) != levee.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(began); d > 20*time.Second { // the write that stands may take five minutes
			t.Errorf("Close took %v", d)
		}
		if h.Conns() != 0 {
			t.Errorf("%d connections are left", h.Conns())
		}
	})
}

func TestOpenAndCloseUnderLoad(t *testing.T) {
	drivers(t, func(t *testing.T) {
		rounds := 20
		if shared.Load() {
			rounds = 4 // each leaves thousands of frames to send at the end
		}
		for round := range rounds {
			h := newHouse(t, Config{History: 4})
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			for i := range 8 {
				wg.Go(func() {
					for ctx.Err() == nil {
						var r reader
						var err error
						if i%2 == 0 {
							r, err = h.sse(ctx, "", "a", fmt.Sprint(i))
						} else {
							r, err = h.ws(ctx, "", "a", fmt.Sprint(i))
						}
						if err != nil {
							return
						}
						for range i {
							if _, err := r.next(); err != nil {
								break
							}
						}
						r.stop()
					}
				})
				wg.Go(func() {
					for ctx.Err() == nil {
						h.Publish("a", "n", nil)
						h.Publish(fmt.Sprint(i), "n", nil)
						time.Sleep(50 * time.Microsecond) // eight that never pause leave a small machine no time for the connections
					}
				})
			}
			until(t, "some frames", func() bool { return value(h.metrics.delivered) > float64(20*(1+round)) })
			if err := h.close(t, patience); err != nil {
				t.Error(err)
			}
			cancel()
			wg.Wait()
		}
	})
}

func TestValidate(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{
		{QueuePerConn: -1}, {QueuePerConn: 5000}, {MaxConns: -1}, {MaxPerClient: 2_000_000}, {Heartbeat: time.Millisecond},
		{WriteTimeout: time.Hour}, {MaxAge: time.Millisecond}, {History: -2}, {HistoryBytes: 1},
	} {
		if err := c.Validate(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
		if n, _ := c.normal(); n.Validate() != nil {
			t.Errorf("%+v is not made good: %+v", c, n)
		}
	}
}
