package deploy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/deploy"
	"levee/internal/platform/backends"
)

// balance runs nginx with the file that is shipped in front of nodes and returns its address.
func balance(t *testing.T, nodes ...string) (base string) {
	t.Helper()
	addr, err := backends.TakeAddress()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(addr.Free)
	p, err := deploy.Nginx{Listen: addr.String(), Nodes: nodes}.Start(t.Context(), nil)
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return "http://" + addr.String()
}

// asked is what a node got.
type asked struct {
	mu       sync.Mutex
	requests []string
	header   http.Header // of the last one
}

func (a *asked) add(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, r.Method+" "+r.URL.Path+" "+string(body))
	a.header = r.Header.Clone()
}

func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.requests
	a.requests = nil
	return list
}

func send(t *testing.T, method, url, body, key string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	r.Header.Set("X-Real-IP", "203.0.113.9")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

// One node takes each request and goes away without an answer; the other one answers. What may be repeated reaches both and is answered,
// what may not reaches one, and its caller is told to look.
func TestWhatIsRepeated(t *testing.T) {
	var all asked
	dies := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.add(r)
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = c.Close()
		}
	}))
	defer dies.Close()
	lives := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.add(r)
		w.Header().Set("Etag", `"strong"`)
		fmt.Fprint(w, strings.Repeat("answer ", 1000))
	}))
	defer lives.Close()
	for _, c := range []struct {
		method, path, key string
		repeated          bool
	}{
		{"GET", "/v1/sales", "", true},
		{"PUT", "/v1/sales/sal_1", "", true},
		{"POST", "/v1/sales/sal_1/purchases", "k", true},
		{"POST", "/v1/sales/sal_1/purchases", "", false},
		{"POST", "/v1/orders/ord_1/payments", "k", true},
		{"POST", "/v1/sessions", "k", false},
		{"POST", "/v1/sessions", "", false},
		{"PATCH", "/v1/products/prd_1", "k", false},
	} {
		// A new nginx each time, which knows of no failure yet. Which node is asked first is its affair: what may not be repeated
		// is sent until it met the node that dies.
		base := balance(t, dies.Listener.Addr().String(), lives.Listener.Addr().String())
		met := false
		for range 40 { // each time one of two that are drawn
			answer, text := send(t, c.method, base+c.path, "the body", c.key)
			got := all.take()
			switch {
			case answer.StatusCode == 200 && strings.HasPrefix(text, "answer"):
				if len(got) == 2 {
					met = true
					if got[0] != got[1] || got[0] != c.method+" "+c.path+" the body" {
						t.Errorf("the nodes were asked %q", got)
					}
					if !c.repeated {
						t.Errorf("%v was sent twice", c)
					}
				}
			case answer.StatusCode == 503 && answer.Header.Get("Retry-After") == "1" && strings.Contains(text, `"error":"timeout"`) &&
				answer.Header.Get("Content-Type") == "application/problem+json" && len(got) == 1:
				met = true
				if c.repeated {
					t.Errorf("%v was not sent to the node that lives: %s", c, text)
				}
			default:
				t.Errorf("%v: %s %v %.200s, nodes asked %q", c, answer.Status, answer.Header, text, got)
			}
			if met {
				break
			}
		}
		if !met {
			t.Errorf("%v never met the node that dies", c)
		}
	}
	// Callers' own words about where they come from are dropped; entity tags and bodies arrive as they are.
	base := balance(t, lives.Listener.Addr().String())
	answer, _ := send(t, "GET", base+"/v1/sales", "", "")
	if got := all.header; got.Get("X-Forwarded-For") != "127.0.0.1" || got.Get("X-Real-Ip") != "" || got.Get("X-Forwarded-Proto") != "http" || got.Get("Connection") != "" {
		t.Errorf("the node was told %v", got)
	}
	if answer.Header.Get("Etag") != `"strong"` || answer.Uncompressed {
		t.Errorf("the answer came with %v", answer.Header)
	}
	for _, path := range []string{"/metrics", "/readyz"} {
		if answer, _ := send(t, "GET", base+path, "", ""); answer.StatusCode != 404 {
			t.Errorf("%s is open to the world: %s", path, answer.Status)
		}
	}
}

// When no node is there, callers are told when to come back, in the house's own form.
func TestNoNode(t *testing.T) {
	base := balance(t, "127.0.0.1:1", "127.0.0.1:2")
	answer, text := send(t, "POST", base+"/v1/sales/sal_1/purchases", "", "k")
	if answer.StatusCode != 503 || answer.Header.Get("Retry-After") != "1" || !strings.Contains(text, "same Idempotency-Key") {
		t.Errorf("%s %v %s", answer.Status, answer.Header, text)
	}
}

// An event is there when it was sent, not when a buffer is full; a WebSocket gets through.
func TestLiveConnections(t *testing.T) {
	next := make(chan struct{})
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade")
			w.WriteHeader(http.StatusSwitchingProtocols)
			c, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			line, _ := rw.ReadString('\n')
			_, _ = io.WriteString(c, "heard "+line)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream") // without X-Accel-Buffering: the file must do it alone
		for range 2 {
			fmt.Fprint(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer node.Close()
	base := balance(t, node.Listener.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", base+"/v1/sales/sal_1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewReader(answer.Body)
	for range 2 { // each is read before the next is sent
		if line, err := lines.ReadString('\n'); err != nil || line != "data: 1\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = lines.ReadString('\n')
		next <- struct{}{}
	}
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "GET /v1/notices/events HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	back := bufio.NewReader(c)
	answer, err = http.ReadResponse(back, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", answer, err)
	}
	fmt.Fprint(c, "words\n")
	if line, err := back.ReadString('\n'); line != "heard words\n" {
		t.Errorf("%q, %v", line, err)
	}
}
