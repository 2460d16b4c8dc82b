package push

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"levee"
)

const (
	// maxMessage is the most bytes of a reader's message: a ping with its id.
	maxMessage = 512
	// maxPingID is the most bytes of a ping's id.
	maxPingID = 64
	// messageEvery and messageBurst bound how often a reader may send.
	messageEvery = 100 * time.Millisecond
	messageBurst = 20
)

// ServeWebSocket upgrades the request and sends the same frames as ServeSSE, each as a text message of JSON:
//
//	{"id":"<position>","kind":"…","data":…}
//
// The hub's own kinds are hello or reset (first), heartbeat (all with the position, without data) and pong. The reader comes
// back with the query parameter last_event_id. He may send {"kind":"ping","id":"…"}, 20 at once and 10 a second, and gets
// {"kind":"pong","id":"…"}; anything else ends the connection with status 1008 (1009 beyond 512 bytes). Refusals are those
// of ServeSSE; a request that is no upgrade is answered with 426 and the like.
func (h *Hub) ServeWebSocket(w http.ResponseWriter, r *http.Request, topics ...string) {
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

	hw := &hijackWriter{ResponseWriter: w}
	ws, err := websocket.Accept(hw, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // enter has asked about the Origin
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		h.metrics.refused.WithLabelValues("handshake").Inc()
		return // Accept has answered
	}
	t := &wsTransport{ws: ws, nc: hw.conn, timeout: h.cfg.WriteTimeout, pongWait: h.cfg.Heartbeat, cancel: cancel}
	undo := interruptOn(ctx, t)
	defer undo()
	h.metrics.ws.Inc()
	defer h.metrics.ws.Dec()

	ws.SetReadLimit(maxMessage)
	var reading sync.WaitGroup
	var violation error
	reading.Go(func() {
		defer cancel()
		violation = t.read(c)
	})
	err = h.pump(ctx, c, t, names, since(r))
	switch {
	case errors.Is(err, errClosing), errors.Is(err, errAged):
		// The peer's answer is waited for at most 5 s; the end of ctx cuts that short.
		_ = t.arm()
		_ = ws.Close(websocket.StatusGoingAway, "come back with your last id")
	default:
		_ = ws.CloseNow() // the peer is gone, or too slow to hear a word of farewell
	}
	reading.Wait()
	t.pings.Wait()
	h.log.Debug("a stream ended", "transport", "websocket", "reason", err, "violation", violation)
}

type wsTransport struct {
	ws       *websocket.Conn
	nc       *corkConn
	timeout  time.Duration
	pongWait time.Duration
	cancel   context.CancelFunc
	pings    sync.WaitGroup
	pinging  atomic.Bool

	mu  sync.Mutex // guards cut, and the order of the two kinds of deadlines
	cut bool
}

// arm sets the deadline of the next write. It goes to the socket itself: a context with a deadline would cost a timer for
// each message.
func (t *wsTransport) arm() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return context.Canceled
	}
	return t.nc.SetWriteDeadline(time.Now().Add(t.timeout))
}

func (t *wsTransport) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut = true
	_ = t.nc.SetDeadline(time.Unix(1, 0)) // fails only when it is closed already
}

func (t *wsTransport) send(frames []*frame) error {
	if err := t.arm(); err != nil {
		return err
	}
	t.nc.cork(len(frames) > 1)
	for _, f := range frames {
		if err := t.ws.Write(context.Background(), websocket.MessageText, f.ws()); err != nil {
			return err
		}
	}
	return t.nc.uncork()
}

func (t *wsTransport) note(kind string, at position) error {
	return t.text(struct {
		ID   string `json:"id"`
		Kind string `json:"kind"`
	}{at.String(), kind})
}

func (t *wsTransport) pong(id string) error {
	return t.text(struct {
		Kind string `json:"kind"`
		ID   string `json:"id"`
	}{kindPong, id})
}

func (t *wsTransport) text(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := t.arm(); err != nil {
		return err
	}
	return t.ws.Write(context.Background(), websocket.MessageText, b)
}

// beat asks the peer for a sign of life. One that does not answer within a heartbeat is gone.
func (t *wsTransport) beat() error {
	if !t.pinging.CompareAndSwap(false, true) {
		return nil // the last one is still waited for, and ends the connection by itself
	}
	t.pings.Go(func() {
		defer t.pinging.Store(false)
		ctx, stop := context.WithTimeout(context.Background(), t.pongWait)
		defer stop()
		if t.ws.Ping(ctx) != nil {
			t.cancel()
		}
	})
	return nil
}

// read takes the reader's messages until the connection ends, and tells what rule he broke, if any.
func (t *wsTransport) read(c *conn) error {
	allowance, last := float64(messageBurst), time.Now()
	for {
		kind, r, err := t.ws.Reader(context.Background())
		if err != nil {
			return nil
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil
		}
		now := time.Now()
		allowance = min(messageBurst, allowance+float64(now.Sub(last))/float64(messageEvery))
		last = now
		if allowance--; allowance < 0 {
			return t.violated("too many messages")
		}
		if kind != websocket.MessageText {
			return t.violated("only text messages are taken")
		}
		id, err := parseMessage(b)
		if err != nil {
			return t.violated(err.Error())
		}
		c.owe(id)
	}
}

// violated ends the connection with status 1008 and the reason. It is called by the reading goroutine, so nothing is read
// meanwhile but the peer's answer.
func (t *wsTransport) violated(reason string) error {
	c := t.cancel
	defer c()
	_ = t.ws.Close(websocket.StatusPolicyViolation, levee.Shorten(reason, 100))
	return errors.New(reason)
}

// parseMessage reads a reader's message and returns the id of the ping. Its errors are fit to be shown.
func parseMessage(b []byte) (id string, err error) {
	if len(b) > maxMessage {
		return "", errors.New("a message is too long")
	}
	var m struct {
		Kind string `json:"kind"`
		ID   string `json:"id"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if d.Decode(&m) != nil {
		return "", errors.New(`a message must be {"kind":"ping","id":"..."}`)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("a message must be one JSON value")
	}
	if m.Kind != "ping" {
		return "", errors.New("the only kind of message is ping")
	}
	if len(m.ID) > maxPingID {
		return "", errors.New("the id of a ping has at most 64 bytes")
	}
	return m.ID, nil
}

// hijackWriter puts a corkConn between the WebSocket library and the socket.
type hijackWriter struct {
	http.ResponseWriter
	conn *corkConn
}

func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.conn = &corkConn{Conn: nc}
	// A small buffer: frames are mostly small, large ones pass by it, and there are many connections.
	return w.conn, bufio.NewReadWriter(rw.Reader, bufio.NewWriterSize(w.conn, 1024)), nil
}

// corkConn gathers the messages of one burst into one write.
type corkConn struct {
	net.Conn
	mu     sync.Mutex
	corked bool
	buf    []byte
}

const (
	corkMost = 64 << 10 // written out beyond this
	corkKeep = 4 << 10  // a larger buffer is not kept
)

func (c *corkConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.corked {
		return c.Conn.Write(b)
	}
	c.buf = append(c.buf, b...)
	if len(c.buf) >= corkMost {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// cork begins a burst.
func (c *corkConn) cork(on bool) {
	c.mu.Lock()
	c.corked = on
	c.mu.Unlock()
}

// uncork ends a burst and writes it.
func (c *corkConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	return c.flush()
}

// flush is called with mu held.
func (c *corkConn) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buf)
	if cap(c.buf) > corkKeep {
		c.buf = nil
	}
	c.buf = c.buf[:0]
	return err
}
