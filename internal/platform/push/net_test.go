package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Thousands of real connections of both kinds get every frame once and in order.
func TestThousandsOfReaders(t *testing.T) {
	sse, ws, frames := 2400, 800, 40
	if testing.Short() {
		sse, ws = 300, 100
	}
	h := newHouse(t, Config{})
	var ready, done sync.WaitGroup
	ready.Add(sse + ws)
	start := make(chan struct{}, 32) // dial a few at a time
	for i := range sse + ws {
		done.Go(func() {
			start <- struct{}{}
			var r reader
			var err error
			if i < sse {
				r, err = h.sse(t.Context(), "", "all", fmt.Sprint("user-", i))
			} else {
				r, err = h.ws(t.Context(), "", "all", fmt.Sprint("user-", i))
			}
			if err == nil {
				_, err = r.next()
			}
			<-start
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer r.stop()
			for n := range frames {
				m, err := r.next()
				for err == nil && (m.Kind == "" || m.Kind == "ping") {
					m, err = r.next() // that was a heartbeat
				}
				if err != nil || string(m.Data) != fmt.Sprint(n) {
					t.Errorf("reader %d, frame %d: %s, %v", i, n, m.Data, err)
					return
				}
			}
			m, err := r.next()
			for err == nil && (m.Kind == "" || m.Kind == "ping") {
				m, err = r.next()
			}
			if err != nil || string(m.Data) != fmt.Sprintf(`"only for %d"`, i) {
				t.Errorf("reader %d: %s, %v", i, m.Data, err)
			}
		})
	}
	ready.Wait()
	if t.Failed() {
		return
	}
	if h.Conns() != sse+ws {
		t.Errorf("%d connections", h.Conns())
	}
	began := time.Now()
	var longest time.Duration
	for n := range frames {
		b := time.Now()
		h.Publish("all", "n", fmt.Append(nil, n))
		longest = max(longest, time.Since(b))
	}
	for i := range sse + ws {
		h.Publish(fmt.Sprint("user-", i), "n", fmt.Appendf(nil, `"only for %d"`, i))
	}
	published := time.Since(began)
	done.Wait()
	took := time.Since(began)
	t.Logf("%d readers, %d deliveries in %v (%.0f/s); publishing took %v, the longest of the common ones %v",
		sse+ws, (sse+ws)*(frames+1), took, float64((sse+ws)*(frames+1))/took.Seconds(), published, longest)
	until(t, "all are gone", func() bool { return h.Conns() == 0 })
}

func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		// A peer has a heartbeat's time for his answer, which on a busy machine may not be too short; it is longer than the timeouts anyway.
		h := newHouse(t, Config{Heartbeat: 300 * time.Millisecond}, func(s *httptest.Server) {
			s.Config.WriteTimeout = 60 * time.Millisecond
			s.Config.ReadTimeout = 60 * time.Millisecond
		})
		r := dial(h, "", "a")
		for range 4 {
			mustNext(t, r)
		}
	})
}

func TestOldConnectionsEnd(t *testing.T) {
	transports(t, func(t *testing.T, dial func(*house, string, ...string) reader) {
		// The first beat finds it old: with a ping under way, its answer would meet a closed connection, which resets it before the farewell is read.
		h := newHouse(t, Config{Heartbeat: 300 * time.Millisecond, MaxAge: 100 * time.Millisecond})
		r := dial(h, "", "a")
		for {
			if _, err := r.next(); err != nil {
				if _, ws := r.(*wsReader); ws && websocket.CloseStatus(err) != websocket.StatusGoingAway {
					t.Errorf("it ended by %v", err)
				}
				break
			}
		}
		until(t, "it is gone", func() bool { return h.Conns() == 0 })
	})
}

func TestHTTP2(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 10 * time.Millisecond}, func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{}
	})
	var rs []*sseReader
	for range 20 {
		r, err := h.sse(t.Context(), "", "a")
		if err != nil {
			t.Fatal(err)
		}
		mustNext(t, r)
		rs = append(rs, r)
	}
	h.Publish("a", "n", []byte("1"))
	for _, r := range rs {
		for {
			if m := mustNext(t, r); m.Kind == "n" {
				break
			}
		}
		r.stop()
	}
	until(t, "all are gone", func() bool { return h.Conns() == 0 })
}

// A peer that vanished without a word is noticed, since it answers no ping.
func TestDeadPeer(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 20 * time.Millisecond, WriteTimeout: 5 * time.Minute})
	c, _, err := websocket.Dial(t.Context(), h.url+"/ws?t=a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	// It is not read from, so the library answers no ping either.
	until(t, "it is served", func() bool { return h.Conns() == 1 })
	until(t, "it is gone", func() bool { return h.Conns() == 0 })
}

func TestLivingPeerStays(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 300 * time.Millisecond}) // the time that it has for its answer, also on a busy machine
	r, err := h.ws(t.Context(), "", "a")
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		if m := mustNext(t, r); m.Kind != "" || m.ID == "" {
			t.Errorf("got %+v", m)
		}
	}
	r.stop()
}

func TestMessagesOfReaders(t *testing.T) {
	h := newHouse(t, Config{})
	dial := func(t *testing.T) *websocket.Conn {
		r, err := h.ws(t.Context(), "", "a")
		if err != nil {
			t.Fatal(err)
		}
		mustNext(t, r)
		t.Cleanup(r.stop)
		return r.c
	}
	t.Run("ping", func(t *testing.T) {
		c := dial(t)
		for _, id := range []string{"", "7", `quote " and é`, strings.Repeat("x", 64)} {
			b, _ := json.Marshal(map[string]string{"kind": "ping", "id": id})
			if err := c.Write(t.Context(), websocket.MessageText, b); err != nil {
				t.Fatal(err)
			}
			m := mustNext(t, &wsReader{c})
			if m.Kind != kindPong || m.ID != id {
				t.Errorf("got %+v", m)
			}
		}
	})
	for name, c := range map[string]struct {
		kind websocket.MessageType
		text string
		want websocket.StatusCode
	}{
		"not JSON":      {websocket.MessageText, "hello", websocket.StatusPolicyViolation},
		"empty":         {websocket.MessageText, "", websocket.StatusPolicyViolation},
		"other kind":    {websocket.MessageText, `{"kind":"subscribe","id":"a"}`, websocket.StatusPolicyViolation},
		"unknown field": {websocket.MessageText, `{"kind":"ping","topic":"a"}`, websocket.StatusPolicyViolation},
		"two values":    {websocket.MessageText, `{"kind":"ping"}{"kind":"ping"}`, websocket.StatusPolicyViolation},
		"long id":       {websocket.MessageText, `{"kind":"ping","id":"` + strings.Repeat("x", 65) + `"}`, websocket.StatusPolicyViolation},
		"binary":        {websocket.MessageBinary, `{"kind":"ping"}`, websocket.StatusPolicyViolation},
		"too long":      {websocket.MessageText, strings.Repeat(" ", 513), websocket.StatusMessageTooBig},
		"much too long": {websocket.MessageText, strings.Repeat(" ", 5<<20), websocket.StatusMessageTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t)
			_ = conn.Write(t.Context(), c.kind, []byte(c.text)) // may be cut off in the middle
			_, err := (&wsReader{conn}).next()
			// After a very long message the socket is closed with unread data in it, and the status may be lost with it.
			if got := websocket.CloseStatus(err); err == nil || got != c.want && len(c.text) < 1<<20 {
				t.Errorf("closed with %v (%v), want %v", got, err, c.want)
			}
		})
	}
	t.Run("flood", func(t *testing.T) {
		c := dial(t)
		go func() {
			for c.Write(context.Background(), websocket.MessageText, []byte(`{"kind":"ping"}`)) == nil {
			}
		}()
		for {
			if _, err := (&wsReader{c}).next(); err != nil {
				if got := websocket.CloseStatus(err); got != websocket.StatusPolicyViolation {
					t.Errorf("closed with %v (%v)", got, err)
				}
				break
			}
		}
	})
	until(t, "all are gone", func() bool { return h.Conns() == 0 })
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{
		"", "-", "0000000000000000-0", "0123456789abcdef-1", "0123456789ABCDEF-1", "0123456789abcdef-01", "0123456789abcdef--1",
		"ffffffffffffffff-9223372036854775807", "ffffffffffffffff-9223372036854775808", "ffffffffffffffff-99999999999999999999",
		"0123456789abcdef-", "0123456789abcdef 1", "0123456789abcdeg-1", "\x000123456789abcde-1", "0123456789abcdef-1\n", "17",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := parsePosition(s)
		if ok && (p.String() != s || p.offset < 0) {
			t.Errorf("%q reads as %+v, which is written %q", s, p, p)
		}
		if !ok && p.String() == s && p.offset >= 0 {
			t.Errorf("%q is refused", s)
		}
	})
}

func TestPositionRoundTrip(t *testing.T) {
	for _, p := range []position{{}, {1, 1}, {1<<64 - 1, 1<<63 - 1}, {0xabcdef, 100}} {
		if got, ok := parsePosition(p.String()); !ok || got != p {
			t.Errorf("%+v: %+v, %v", p, got, ok)
		}
	}
	for _, s := range []string{"", "0123456789abcdef-", "0123456789abcdef-9223372036854775808", "0123456789abcdef-00", "0123456789ABCDEF-1"} {
		if p, ok := parsePosition(s); ok {
			t.Errorf("%q reads as %+v", s, p)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		`{"kind":"ping"}`, `{"kind":"ping","id":"1"}`, `{"kind":"ping","id":1}`, `{"kind":"ping","id":"\ud800"}`, `{"KIND":"ping"}`,
		`{"kind":"pong"}`, `[]`, `null`, ``, `{"kind":"ping"} `, `{"kind":"ping"},`, `{"kind":"ping"}{}`, "{\"kind\":\"ping\",\"id\":\"\xff\"}",
		strings.Repeat("[", 600), strings.Repeat(`{"kind":`, 60),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseMessage(b)
		if err != nil {
			if id != "" || !utf8.ValidString(err.Error()) || len(err.Error()) > 123 {
				t.Errorf("%q: %q, %q", b, id, err)
			}
			return
		}
		if len(id) > maxPingID || !utf8.ValidString(id) || !json.Valid(b) ||
			!bytes.Contains(b, []byte("ping")) && !bytes.Contains(b, []byte(`\u`)) {
			t.Errorf("%q is taken as a ping with id %q", b, id)
		}
	})
}

// Whatever is published, each transport carries one frame of the same content: no data can begin another event.
func FuzzFrame(f *testing.F) {
	for _, s := range []string{
		`{}`, ``, "null", " [1,\r\n 2]\n", "text", "a\nb\r\nc\n\nevent: reset\ndata: x\n\n", "\xff\xfe", "\u2028", `"\u0000"`,
		`{"a":1}{"b":2}`, "\n", "\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fr := &frame{at: position{1, 2}, kind: "k", data: oneLine(data)}
		if !json.Valid(fr.data) || !utf8.Valid(fr.data) {
			t.Fatalf("%q becomes %q", data, fr.data)
		}
		sse, found := bytes.CutPrefix(fr.sse(), []byte("id: 0000000000000001-2\nevent: k\ndata: "))
		sse, ended := bytes.CutSuffix(sse, []byte("\n\n"))
		if !found || !ended || bytes.ContainsAny(sse, "\r\n") {
			t.Errorf("%q becomes the event %q", data, fr.sse())
		}
		var m message
		if err := json.Unmarshal(fr.ws(), &m); err != nil || m.ID != "0000000000000001-2" || m.Kind != "k" {
			t.Errorf("%q becomes the message %q: %v", data, fr.ws(), err)
		}
		if !bytes.Equal(m.Data, sse) {
			t.Errorf("over SSE %q, over WebSocket %q", sse, m.Data)
		}
		if json.Valid(data) && utf8.Valid(data) {
			var a, b any
			if json.Unmarshal(data, &a) != nil || json.Unmarshal(sse, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%q becomes %q", data, sse)
			}
		}
	})
}
