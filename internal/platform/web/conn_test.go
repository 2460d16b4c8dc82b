package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"levee"
)

// running is a site that listens.
type running struct {
	*site
	addr string
	stop context.CancelFunc
	done chan error
}

// run starts the site; it is stopped, and must stop cleanly, at the test's end or by halt.
func (s *site) run() *running {
	s.t.Helper()
	addr, err := s.Listen()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{site: s, addr: addr.String(), stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	s.t.Cleanup(func() {
		if r.stop != nil {
			if err := r.halt(); err != nil {
				s.t.Error(err)
			}
		}
	})
	return r
}

func (r *running) halt() error {
	r.stop()
	r.stop = nil
	return <-r.done
}

// dial opens a connection that waits at most ten seconds for anything.
func (r *running) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// raw sends bytes and reads one answer.
func (r *running) raw(text string) (answered, *bufio.Reader, net.Conn) {
	r.t.Helper()
	c := r.dial()
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	b := bufio.NewReader(c)
	res, err := http.ReadResponse(b, nil)
	if err != nil {
		r.t.Fatalf("%v after %.60q", err, text)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answered{res, string(body)}, b, c
}

const impatient = 100 * time.Millisecond

// newImpatient is a site that gives callers little time.
func newImpatient(t *testing.T) *running {
	s := newSite(t, Config{Addr: "127.0.0.1:0", ReadHeaderTimeout: impatient, RequestTimeout: impatient, MaxConns: 16, BodyMax: 1 << 10})
	s.bodyGrace = impatient
	s.writeGrace = impatient
	return s.run()
}

func TestSlowCallers(t *testing.T) {
	r := newImpatient(t)
	t.Run("headers", func(t *testing.T) {
		c := r.dial()
		fmt.Fprint(c, "GET /v1/wishes HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	})
	for _, path := range []string{"/v1/wishes", "/v1/raw"} {
		for name, body := range map[string]string{
			"body":         "Content-Length: 100\r\n\r\n{\"title\":",
			"chunked body": "Transfer-Encoding: chunked\r\n\r\n9\r\n{\"title\":\r\n",
		} {
			t.Run(path+" "+name, func(t *testing.T) {
				r.t = t
				a, _, c := r.raw("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + body)
				a.want(t, 408, `"error":"timeout"`, "in time")
				r.checkProblem(a)
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the connection stays open: %v", err)
				}
			})
		}
	}
	r.t = t
	t.Run("more connections than there are places", func(t *testing.T) {
		for range 40 { // they hold all places until their time is up
			fmt.Fprint(r.dial(), "GET / HTTP/1.1\r\n")
		}
		res, err := http.Get("http://" + r.addr + "/v1/wishes")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Error(res.StatusCode)
		}
	})
}

func TestBrokenFraming(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0", BodyMax: 1 << 10})
	r := s.run()
	for _, path := range []string{"/v1/wishes", "/v1/raw"} {
		for _, c := range []struct {
			name, rest string
			closeAfter bool
			status     int
		}{
			{"no chunk size", "Transfer-Encoding: chunked\r\n\r\nzz\r\n", false, 400},
			{"huge chunk size", "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx", false, 400},
			{"chunk too long", "Transfer-Encoding: chunked\r\n\r\n1\r\nxxxx\r\n0\r\n\r\n", false, 400},
			{"cut off", "Content-Length: 50\r\n\r\n{\"title\":", true, 400},
			{"cut off in a chunk", "Transfer-Encoding: chunked\r\n\r\n20\r\n{", true, 400},
			{"announced too large", "Content-Length: 99999999\r\n\r\n", false, 413},
			{"chunked too large", "Transfer-Encoding: chunked\r\n\r\n800\r\n" + strings.Repeat("x", 0x800) + "\r\n0\r\n\r\n", false, 413},
			{"good chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"tit\r\n8\r\nle\":\"a\"}\r\n0\r\n\r\n", false, 201},
		} {
			t.Run(path+" "+c.name, func(t *testing.T) {
				s.t = t
				conn := r.dial()
				fmt.Fprint(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+c.rest)
				if c.closeAfter {
					if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				a := answered{res, string(body)}.want(t, c.status)
				if c.status >= 400 {
					r.checkProblem(a)
				}
			})
		}
	}
	s.t = t
	if a, _, _ := r.raw("GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat("x", 40<<10) + "\r\n\r\n"); a.StatusCode != 431 {
		t.Errorf("%d", a.StatusCode)
	}
	if a, _, _ := r.raw("POST /v1/wishes HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}"); a.StatusCode != 400 {
		t.Errorf("%d", a.StatusCode)
	}
}

// TestBodyIsNotAskedFor: who is refused need not send his body.
func TestBodyIsNotAskedFor(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0"})
	r := s.run()
	head := "PUT /v1/secrets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\nExpect: 100-continue\r\n"
	if a, _, _ := r.raw(head + "\r\n"); a.StatusCode != 401 {
		t.Errorf("%d: the body was asked for", a.StatusCode)
	}
	if a, _, _ := r.raw(head + "Authorization: Bearer operator\r\n\r\n" + `{"title":"a"}`); a.StatusCode != 100 {
		t.Errorf("%d", a.StatusCode)
	}
}

func TestStop(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0"})
	entered, release := make(chan struct{}), make(chan struct{})
	s.Handle("GET /slow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		fmt.Fprint(w, "done")
	}))
	var stopped bool
	ended := make(chan struct{})
	s.OnShutdown(func() { stopped = true; close(ended) })
	r := s.run()
	get := func(path string) (answered, error) {
		res, err := http.Get("http://" + r.addr + path)
		if err != nil {
			return answered{}, err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return answered{res, string(b)}, err
	}
	if a, err := get("/readyz"); err != nil || a.StatusCode != 200 {
		t.Fatal(a, err)
	}
	stream, err := http.Get("http://" + r.addr + "/v1/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	slow := make(chan string, 1)
	go func() {
		a, err := get("/slow")
		slow <- fmt.Sprint(a.body, err)
	}()
	<-entered
	r.stop()
	<-ended
	if b, err := io.ReadAll(stream.Body); err != nil || !strings.Contains(string(b), "hello") {
		t.Errorf("the stream did not end in order: %q %v", b, err)
	}
	// Not ready any more, while requests under way go on.
	s.ask("GET", "/readyz", "").want(t, 503, "stopping")
	s.ask("GET", "/healthz", "").want(t, 200)
	close(release)
	if got := <-slow; got != "done<nil>" {
		t.Errorf("a request under way was cut: %s", got)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.stop = nil
	if !stopped {
		t.Error("OnShutdown was not called")
	}
	if _, err := get("/healthz"); err == nil {
		t.Error("it still listens")
	}
}

func TestStopCutsWhatDoesNotEnd(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0", DrainTimeout: 50 * time.Millisecond})
	entered := make(chan struct{})
	s.Handle("GET /stuck", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	r := s.run()
	go func() {
		if res, err := http.Get("http://" + r.addr + "/stuck"); err == nil {
			res.Body.Close()
		}
	}()
	<-entered
	if err := r.halt(); err == nil || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("%v", err)
	}
}

func TestListenRefused(t *testing.T) {
	r := newSite(t, Config{Addr: "127.0.0.1:0"}).run()
	s := newSite(t, Config{Addr: r.addr})
	if _, err := s.Listen(); levee.CodeOf(err) != levee.CodeUnavailable || !strings.Contains(err.Error(), r.addr) {
		t.Errorf("%v", err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("it runs")
	}
	again, err := r.Listen()
	if err != nil || again.String() != r.addr {
		t.Errorf("%v %v", again, err)
	}
}

// TestServingEndsByItself: when the listener dies under it, Run says so instead of waiting for ever.
func TestServingEndsByItself(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0"})
	r := s.run()
	if err := s.serving.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-r.done; err == nil {
		t.Error("nil")
	}
	r.stop = nil
}

// TestStreamsAreNotTimed: a stream lives longer than the time of a request.
func TestStreamsAreNotTimed(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0", ReadHeaderTimeout: impatient, RequestTimeout: impatient, BodyMax: 1 << 10})
	s.bodyGrace, s.writeGrace = impatient, impatient
	more := make(chan struct{})
	s.Raw(Route{Method: "GET", Path: "/v1/ticks", ID: "ticks", Timeout: -1}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 2 {
			fmt.Fprintln(w, "tick")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-more:
			case <-r.Context().Done():
				fmt.Fprintln(w, "cut")
			}
		}
	}), RawDoc{Produces: []string{"text/plain"}})
	r := s.run()
	res, err := http.Get("http://" + r.addr + "/v1/ticks")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	if l, err := lines.ReadString('\n'); l != "tick\n" {
		t.Fatal(l, err)
	}
	for range 3 { // each takes all the time that a request and its answer have
		a, _, _ := r.raw("POST /v1/wishes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		a.want(t, 408)
	}
	more <- struct{}{}
	if l, err := lines.ReadString('\n'); l != "tick\n" {
		t.Fatal(l, err)
	}
	more <- struct{}{}
}

func TestWebSocket(t *testing.T) {
	s := newSite(t, Config{})
	s.Raw(Route{Method: "GET", Path: "/v1/socket", ID: "socket", Timeout: -1, Roles: levee.RoleCustomer},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			kind, b, err := c.Read(r.Context())
			if err == nil {
				err = c.Write(r.Context(), kind, append([]byte("echo "), b...))
			}
			if err != nil {
				t.Error(err)
			}
			_ = c.Close(websocket.StatusNormalClosure, "")
		}), RawDoc{Responses: map[int]any{101: nil}, Produces: []string{"application/json"}})
	ended := make(chan struct{}, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Handler().ServeHTTP(w, r)
		ended <- struct{}{}
	}))
	defer srv.Close()
	addr := strings.Replace(srv.URL, "http", "ws", 1) + "/v1/socket"
	if _, res, err := websocket.Dial(t.Context(), addr, nil); err == nil || res.StatusCode != 401 {
		t.Fatal("no account, and a socket")
	}
	<-ended
	c, _, err := websocket.Dial(t.Context(), addr, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer buyer"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(t.Context()); err != nil || string(b) != "echo hi" {
		t.Fatal(string(b), err)
	}
	_, _, _ = c.Read(t.Context()) // its close
	<-ended
	if e := s.log.events("request"); len(e) != 2 || e[1]["status"] != 101.0 {
		t.Errorf("%v", e)
	}
}

func TestBodyDeadline(t *testing.T) {
	s := newSite(t, Config{})
	if d := s.bodyDeadline(1 << 20); d != 20*time.Second {
		t.Error(d)
	}
	if d := s.bodyDeadline(20 << 20); d != 320*time.Second {
		t.Error(d)
	}
}

// TestClientLeaves: a caller who hangs up is not a failure of ours.
func TestClientLeaves(t *testing.T) {
	s := newSite(t, Config{Addr: "127.0.0.1:0"})
	entered, left := make(chan struct{}), make(chan struct{})
	Add(s.Server, Route{Method: "GET", Path: "/v1/wait", ID: "wait"}, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		close(entered)
		<-ctx.Done()
		defer close(left)
		return nil, fmt.Errorf("waiting: %w", ctx.Err())
	})
	r := s.run()
	c := r.dial()
	fmt.Fprint(c, "GET /v1/wait HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	c.Close()
	<-left
	if err := r.halt(); err != nil {
		t.Fatal(err)
	}
	e := s.log.events("request")
	if len(e) != 1 || e[0]["status"] != 499.0 || e[0]["level"] != "INFO" {
		t.Errorf("%v", e)
	}
}
