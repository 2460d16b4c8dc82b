package push

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var sample = []byte(`{"sale":"sal_2cqszkqsetydrwrjrqrjs8g8ce","left":1234,"at":"2026-05-01T12:00:00Z","state":"open","waiting":120000}`)

func BenchmarkPublishToNobody(b *testing.B) {
	h := Open(Config{}, quiet())
	defer h.Close(context.Background())
	b.ReportAllocs()
	for b.Loop() {
		h.Publish("a", "n", sample)
	}
}

func BenchmarkPublishToManyTopics(b *testing.B) {
	h := Open(Config{}, quiet())
	defer h.Close(context.Background())
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprint("user-", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		h.Publish(names[i%len(names)], "n", sample)
		i++
	}
}

// sink counts what would go to the network.
type sink struct {
	ready, frames *atomic.Int64
	full          chan struct{} // gets a value with each conns-th frame
	conns         int64
	encode        func(f *frame) []byte
}

func (s *sink) send(frames []*frame) error {
	for _, f := range frames {
		if len(s.encode(f)) == 0 {
			return errCut
		}
		if s.frames.Add(1)%s.conns == 0 {
			s.full <- struct{}{}
		}
	}
	return nil
}
func (s *sink) note(string, position) error { s.ready.Add(1); return nil }
func (s *sink) pong(string) error           { return nil }
func (s *sink) beat() error                 { return nil }
func (s *sink) interrupt()                  {}

// Per delivery: the cost of the hub alone, with the network taken away; encoded once, and for comparison by each connection.
func BenchmarkFanOutTo1000(b *testing.B) {
	for _, c := range []struct {
		name   string
		encode func(f *frame) []byte
	}{
		{"EncodedOnce", (*frame).sse},
		{"EncodedByEach", func(f *frame) []byte {
			g := frame{at: f.at, kind: f.kind, data: f.data}
			return g.sse()
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			const conns = 1000
			h := Open(Config{QueuePerConn: 4096, Heartbeat: 5 * time.Minute}, quiet())
			var ready, frames atomic.Int64
			full := make(chan struct{}, 16)
			ctx, cancel := context.WithCancel(context.Background())
			var ended sync.WaitGroup
			for range conns {
				ended.Go(func() {
					_ = h.pump(ctx, newConn(h, cancel), &sink{&ready, &frames, full, conns, c.encode}, []string{"a"}, nil)
				})
			}
			until(b, "all listen", func() bool { return ready.Load() == conns })
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += 8 * conns {
				for range 8 {
					h.Publish("a", "n", sample)
				}
				for range 8 {
					<-full
				}
			}
			b.StopTimer()
			cancel()
			ended.Wait()
			_ = h.Close(context.Background())
		})
	}
}

// Per delivery over the loopback to readers who only count, in bursts of ten frames.
func BenchmarkDeliveryTo500(b *testing.B) {
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, c := range []struct {
		name, request string
		braces        int // in one frame
	}{
		{"SSE", "GET /sse?t=a HTTP/1.1\r\nHost: x\r\n\r\n", 1},
		{"WebSocket", "GET /ws?t=a HTTP/1.1\r\nHost: x\r\n" + upgrade + "\r\n", 2},
	} {
		b.Run(c.name, func(b *testing.B) {
			const conns, burst = 500, 10
			h := newHouse(b, Config{QueuePerConn: 4096, Heartbeat: 5 * time.Minute})
			var braces atomic.Int64
			full := make(chan struct{}, 16)
			for range conns {
				nc, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
				if err != nil {
					b.Fatal(err)
				}
				defer nc.Close()
				if _, err := nc.Write([]byte(c.request)); err != nil {
					b.Fatal(err)
				}
				r := bufio.NewReaderSize(nc, 16<<10)
				for answer := ""; !strings.Contains(answer, "id"); { // the first frame
					answer, err = r.ReadString('-')
					if err != nil {
						b.Fatal(err)
					}
				}
				if c.braces == 2 {
					if _, err := r.ReadString('}'); err != nil {
						b.Fatal(err)
					}
				}
				go func() {
					buf := make([]byte, 16<<10)
					whole := int64(conns * burst * c.braces)
					for {
						n, err := r.Read(buf)
						if err != nil {
							return
						}
						k := int64(bytes.Count(buf[:n], []byte("{")))
						if now := braces.Add(k); now/whole != (now-k)/whole {
							full <- struct{}{}
						}
					}
				}()
			}
			b.ResetTimer()
			for i := 0; i < b.N; i += burst * conns {
				for range burst {
					h.Publish("a", "n", sample)
				}
				<-full
			}
			b.StopTimer()
		})
	}
}
