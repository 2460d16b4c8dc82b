package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, in string
		status   int
		body     string
		rest     string // what belongs to the next answer
		close    bool
		retry    time.Duration
		err      error
		more     bool // not whole yet
	}{
		{name: "content-length", in: "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhelloHTTP", status: 201, body: "hello", rest: "HTTP", retry: -1},
		{name: "no reason", in: "HTTP/1.1 409\r\ncontent-length:0\r\n\r\n", status: 409, retry: -1},
		{name: "retry", in: "HTTP/1.1 503 x\r\nRetry-After: 3 \r\nContent-Length: 0\r\n\r\n", status: 503, retry: 3 * time.Second},
		{name: "retry nonsense", in: "HTTP/1.1 503 x\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n", status: 503, retry: -1},
		{name: "retry at a time that is past", in: "HTTP/1.1 503 x\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n", status: 503},
		{name: "chunked", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\nnext", status: 200, body: "hello!", rest: "next", retry: -1},
		{name: "100-continue", in: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok", retry: -1},
		{name: "no body", in: "HTTP/1.1 204 No Content\r\n\r\nx", status: 204, rest: "x", retry: -1},
		{name: "close", in: "HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 0\r\n\r\n", status: 200, close: true, retry: -1},
		{name: "HTTP/1.0", in: "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, close: true, retry: -1},
		{name: "until the end needs the end", in: "HTTP/1.1 200 OK\r\n\r\nhello", more: true},
		{name: "half a head", in: "HTTP/1.1 200 OK\r\nContent-Le", more: true},
		{name: "half a body", in: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", more: true},
		{name: "half a chunk", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", more: true},
		{name: "only an interim answer", in: "HTTP/1.1 100 Continue\r\n\r\n", more: true},
		{name: "nothing", more: true},
		{name: "garbage", in: "SSH-2.0-OpenSSH\r\n", err: errAnswer},
		{name: "HTTP/2", in: "HTTP/2 200 OK\r\n\r\n", err: errAnswer},
		{name: "two lengths", in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", err: errAnswer},
		{name: "length and chunks", in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", err: errAnswer},
		{name: "signed length", in: "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na", err: errAnswer},
		{name: "unknown coding", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", err: errAnswer},
		{name: "bare line feed", in: "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", err: errAnswer},
		{name: "folded line", in: "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", err: errAnswer},
		{name: "no name", in: "HTTP/1.1 200 OK\r\n: a\r\n\r\n", err: errAnswer},
		{name: "no colon", in: "HTTP/1.1 200 OK\r\nContent-Length 0\r\n\r\n", err: errAnswer},
		{name: "control character", in: "HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", err: errAnswer},
		{name: "chunk without end", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", err: errAnswer},
		{name: "chunk size that is none", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", err: errAnswer},
		{name: "chunks in HTTP/1.0", in: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", err: errAnswer},
		{name: "other protocol", in: "HTTP/1.1 101 Switching Protocols\r\n\r\n", err: errAnswer},
		{name: "huge body", in: "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", err: errTooLarge},
		{name: "huge chunk", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7ffffff\r\n", err: errTooLarge},
		{name: "huge head", in: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", maxHead+1), err: errTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p parser
			a, n, err := p.parse([]byte(c.in), false)
			if !errors.Is(err, c.err) || c.more != (n == 0 && err == nil) {
				t.Fatalf("took %d bytes, %v", n, err)
			}
			if err != nil || c.more {
				return
			}
			if a.Status != c.status || string(a.Body) != c.body || a.Close != c.close || a.RetryAfter != c.retry || c.in[n:] != c.rest {
				t.Errorf("%+v, body %q, rest %q", a, a.Body, c.in[n:])
			}
		})
	}
	var p parser
	if a, n, err := p.parse([]byte("HTTP/1.1 200 OK\r\n\r\nhello"), true); err != nil || n == 0 || string(a.Body) != "hello" || !a.Close {
		t.Errorf("until the end: %q %v", a.Body, err)
	}
	if _, _, err := p.parse([]byte("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), true); err != errCut {
		t.Errorf("a cut body: %v", err)
	}
}

// FuzzParse holds the parser against net/http: what we accept, it accepts too and reads as the same; an answer is the same however
// its bytes arrive; and nothing makes it panic or read past its end.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "\x00\xff", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 \r\nTransfer-Encoding: chunked\r\n\r\n1;0\r\n0\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, ended bool) {
		var p parser
		a, n, err := p.parse(in, ended)
		if err != nil || n == 0 {
			return
		}
		if n > len(in) || len(a.Body) > maxBody {
			t.Fatalf("took %d of %d bytes, body %d", n, len(in), len(a.Body))
		}
		body := string(a.Body)
		if !ended {
			for k := range n {
				var q parser
				if _, m, err := q.parse(in[:k], false); m != 0 || err != nil {
					t.Fatalf("the first %d of %d bytes are taken for %d, %v", k, n, m, err)
				}
			}
		}
		r := bufio.NewReader(bytes.NewReader(in[:n]))
		for {
			theirs, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("we read status %d and body %q, net/http says %v", a.Status, body, err)
			}
			if theirs.StatusCode < 200 {
				continue
			}
			text, err := io.ReadAll(theirs.Body)
			if err != nil || theirs.StatusCode != a.Status || string(text) != body {
				t.Fatalf("we read %d %q, net/http %d %q %v", a.Status, body, theirs.StatusCode, text, err)
			}
			return
		}
	})
}

// BenchmarkParse is the parser on a refusal as the house gives it.
func BenchmarkParse(b *testing.B) {
	in := []byte("HTTP/1.1 409 Conflict\r\nCache-Control: no-store\r\nContent-Length: 160\r\nContent-Type: application/problem+json\r\n" +
		"X-Content-Type-Options: nosniff\r\nDate: Fri, 21 Nov 2025 05:00:00 GMT\r\n\r\n" + strings.Repeat("x", 160))
	var p parser
	for b.Loop() {
		if _, n, err := p.parse(in, false); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}
