package push

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"levee"
)

// conn is one listener: a queue between the dispatcher, which never waits, and the goroutine that writes to the network.
type conn struct {
	hub     *Hub
	client  string
	request *http.Request      // that began it
	cancel  context.CancelFunc // cuts the connection, a blocked write too
	places  []place            // the topics; an index is guarded by its topic's lock
	wake    chan struct{}

	mu    sync.Mutex // guards what follows
	from  int64      // frames up to this serial are not for this connection
	has   position   // nor those up to this position, which its reader has from another node
	queue []*frame
	since time.Time // when the oldest frame of the queue was put in
	slow  bool      // cut off for being slow
	pong  *string   // an answer owed to a ping message
}

// mark is a place in the stream of a hub: by its own count, and as the world sees it.
type mark struct {
	serial int64
	at     position
}

type place struct {
	topic *topic
	index int
}

func newConn(h *Hub, cancel context.CancelFunc) *conn {
	return &conn{hub: h, cancel: cancel, wake: make(chan struct{}, 1), from: math.MaxInt64}
}

// start lets the frames after the serial and the position in.
func (c *conn) start(from int64, has position) {
	c.mu.Lock()
	c.from, c.has = from, has
	c.mu.Unlock()
}

// push queues a frame, or cuts the connection off when its reader is too far behind. It never waits for the network.
func (c *conn) push(f *frame, now time.Time) {
	c.mu.Lock()
	has := f.at.epoch == c.has.epoch && f.at.offset <= c.has.offset && f.kind != kindReset
	if f.serial <= c.from || has || c.slow {
		c.mu.Unlock()
		return
	}
	n := len(c.queue)
	if f.kind == kindReset {
		// What waits is of no use to a reader who is told to read anew. He hears of it once, on however many topics.
		clear(c.queue)
		c.queue = append(c.queue[:0], f)
		c.since, c.from = now, f.serial
		c.mu.Unlock()
		c.signal()
		return
	}
	if n >= c.hub.cfg.QueuePerConn && (now.Sub(c.since) >= slowAfter || n >= hardQueue*c.hub.cfg.QueuePerConn) {
		c.slow = true
		c.queue = nil
		c.mu.Unlock()
		c.hub.metrics.slow.Inc()
		c.cancel()
		return
	}
	if n == 0 {
		c.since = now
	}
	c.queue = append(c.queue, f)
	c.mu.Unlock()
	if n == 0 {
		c.signal()
	}
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take exchanges the queue for an empty one, made of the slice that the last take returned.
func (c *conn) take(old []*frame) (frames []*frame, pong *string) {
	clear(old)
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(old) > 2*c.hub.cfg.QueuePerConn {
		old = nil // a burst's slice is not kept
	}
	frames, c.queue = c.queue, old[:0]
	pong, c.pong = c.pong, nil
	return frames, pong
}

// waiting reports whether there is anything to write.
func (c *conn) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) > 0 || c.pong != nil
}

// owe notes down the answer to a ping message. A reader who sends faster than he reads gets only the last one.
func (c *conn) owe(id string) {
	c.mu.Lock()
	c.pong = &id
	c.mu.Unlock()
	c.signal()
}

// transport is how frames get to one reader. Its methods are called by one goroutine, except interrupt, which may come at
// any time and makes a blocked and every later send fail.
type transport interface {
	send(frames []*frame) error
	note(kind string, at position) error // the hub's own frames
	pong(id string) error
	beat() error // a sign of life beyond the heartbeat's note
	interrupt()
}

// What ends a connection, beside errors of the network.
var (
	errClosing = errors.New("the hub closes")
	errAged    = errors.New("the connection is old enough")
)

// pump writes to one reader until ctx or the hub ends, the reader goes, or the connection is old. All frames published
// before the hub began to close have been written when it returns errClosing.
func (h *Hub) pump(ctx context.Context, c *conn, t transport, names []string, last *position) error {
	from, missed, reset := h.subscribe(c, names, last)
	defer h.unsubscribe(c)

	// The first position that a reader hears is that of what he has, in case he is cut off before he gets the rest.
	kind, at := kindHello, from.at
	switch {
	case reset:
		h.metrics.resets.Inc()
		kind = kindReset
	case len(missed) > 0:
		at = *last
	}
	if err := t.note(kind, at); err != nil {
		return err
	}
	if len(missed) > 0 {
		h.metrics.resumed.Inc()
		if err := h.deliver(t, missed); err != nil {
			return err
		}
		missed = nil
	}

	beat := time.NewTimer(spread(h.cfg.Heartbeat))
	defer beat.Stop()
	end := time.Now().Add(spread(h.cfg.MaxAge))
	closing := h.closing
	ends := false
	var frames []*frame
	var pong *string
	for {
		frames, pong = c.take(frames)
		if len(frames) > 0 {
			if err := h.deliver(t, frames); err != nil {
				return err
			}
		}
		if pong != nil {
			if err := t.pong(*pong); err != nil {
				return err
			}
		}
		if len(frames) > 0 || pong != nil {
			continue
		}
		if ends {
			return errClosing
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-closing:
			// Nothing is published any more, and all that was stands in the queue: one more turn empties it.
			closing, ends = nil, true
		case now := <-beat.C:
			if now.After(end) {
				return errAged
			}
			// The order matters: what was dispatched before an empty queue was seen has been written.
			at := from.at
			if d := h.dispatched.Load(); d.serial > from.serial && (d.at.epoch != at.epoch || d.at.offset > at.offset) {
				at = d.at
			}
			if !c.waiting() {
				if err := t.note(kindHeartbeat, at); err != nil {
					return err
				}
			}
			if err := t.beat(); err != nil {
				return err
			}
			beat.Reset(spread(h.cfg.Heartbeat))
		}
	}
}

func (h *Hub) deliver(t transport, frames []*frame) error {
	if err := t.send(frames); err != nil {
		return err
	}
	h.metrics.delivered.Add(float64(len(frames)))
	return nil
}

// spread returns d ±20%, so that what began together does not go on together.
func spread(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}

func sortFrames(fs []*frame) {
	slices.SortFunc(fs, func(a, b *frame) int { return cmp.Compare(a.at.offset, b.at.offset) })
}

// sameHost is the ordinary rule of browsers: a page may listen to the host that it came from.
func sameHost(r *http.Request) bool {
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

func asError(err error) *levee.Error {
	var e *levee.Error
	errors.As(err, &e)
	return e
}
