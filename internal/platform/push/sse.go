package push

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"levee"
)

// ServeSSE answers a GET with a stream of server-sent events of the topics, until the reader goes, falls behind or has been
// served for MaxAge, the request's context ends, or the hub closes. Who may hear these topics is the caller's to check.
//
// A reader who comes back with Last-Event-ID (or the query parameter last_event_id) first gets what he missed, or one event
// "reset" when that is no longer known. Data is always JSON. It is refused with CodeForbidden for a foreign Origin,
// CodeUnavailable when the hub is full or stops, CodeTooManyRequests for a client with too many connections, and CodeInvalid
// for no topic, or more than 32.
func (h *Hub) ServeSSE(w http.ResponseWriter, r *http.Request, topics ...string) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		h.cfg.Fail(w, r, levee.E(levee.CodeMethodNotAllowed, "a stream is asked for with GET"))
		return
	}
	names, err := topicsOf(topics)
	if err != nil {
		h.cfg.Fail(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := newConn(h, cancel)
	if err := h.enter(r, c); err != nil {
		h.cfg.Fail(w, r, err)
		return
	}
	defer h.leave(c)

	t := &sseTransport{w: w, rc: http.NewResponseController(w), timeout: h.cfg.WriteTimeout}
	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-cache, no-transform") // a proxy that compresses would hold events back
	head.Set("X-Accel-Buffering", "no")                 // nginx would too
	if r.ProtoMajor == 1 {
		// The deadlines of the stream would stay with the connection and meet the next request.
		head.Set("Connection", "close")
	}
	_ = t.rc.SetReadDeadline(time.Time{}) // a limit on the reading of requests is not one on streams; not all writers have it
	if err := t.arm(); err == nil {
		err = t.rc.Flush()
		if errors.Is(err, http.ErrNotSupported) {
			for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", "Connection"} {
				head.Del(name)
			}
			h.cfg.Fail(w, r, fmt.Errorf("push.ServeSSE: a handler in between cannot flush: %w", err))
			return
		}
	}
	undo := interruptOn(ctx, t)
	defer undo()
	h.metrics.sse.Inc()
	defer h.metrics.sse.Dec()
	err = h.pump(ctx, c, t, names, since(r))
	h.log.Debug("a stream ended", "transport", "sse", "reason", err)
}

// interruptOn interrupts the transport when ctx ends. The returned function ends the watch and waits for an interrupt under
// way, since a transport may not be touched once its handler has returned.
func interruptOn(ctx context.Context, t transport) (undo func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		t.interrupt()
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

type sseTransport struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	buf     []byte

	mu  sync.Mutex // guards cut, and the order of the two kinds of deadlines
	cut bool
}

// arm sets the deadline of the next write.
func (t *sseTransport) arm() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return context.Canceled
	}
	err := t.rc.SetWriteDeadline(time.Now().Add(t.timeout))
	if errors.Is(err, http.ErrNotSupported) {
		return nil // the server's own limit has to do
	}
	return err
}

func (t *sseTransport) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut = true
	_ = t.rc.SetWriteDeadline(time.Unix(1, 0)) // without support the server's own limit has to do
}

func (t *sseTransport) send(frames []*frame) error {
	if err := t.arm(); err != nil {
		return err
	}
	for _, f := range frames {
		if _, err := t.w.Write(f.sse()); err != nil {
			return err
		}
	}
	return t.rc.Flush()
}

// note writes the hub's own frames. The welcome has no data and so is not shown to the page, but its id counts as the last one.
func (t *sseTransport) note(kind string, at position) error {
	b := t.buf[:0]
	if kind != kindHeartbeat {
		// How long a browser waits before it comes back, spread over 1 to 4 s for a crowd that lost its connections at once.
		b = fmt.Appendf(b, "retry: %d\n", 1000+rand.IntN(3000))
	}
	b = append(b, "id: "...)
	b = at.append(b)
	switch kind {
	case kindReset:
		b = append(b, "\nevent: reset\ndata: null"...)
	case kindHeartbeat:
		// With data, so that a page sees it: a connection that looks open and carries nothing is dead.
		b = append(b, "\nevent: ping\ndata: null"...)
	}
	b = append(b, "\n\n"...)
	t.buf = b
	if err := t.arm(); err != nil {
		return err
	}
	if _, err := t.w.Write(b); err != nil {
		return err
	}
	return t.rc.Flush()
}

// pong is never owed: this reader cannot send.
func (t *sseTransport) pong(string) error { return nil }

// beat has nothing to add to the heartbeat's note.
func (t *sseTransport) beat() error { return nil }
