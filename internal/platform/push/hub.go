package push

import (
	"container/list"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

const (
	// maxTopics is the most topics of one connection; maxTopic the most bytes of a topic's name.
	maxTopics = 32
	maxTopic  = 190
	// maxData is the most bytes of one frame's data. What is larger should be fetched by those whom it concerns.
	maxData = 64 << 10
	// maxPending bounds the frames noted down and not yet fanned out. Beyond it Publish waits for the fan-out, which waits
	// for nobody: it is bound by processor time alone.
	maxPending = 16 << 10
	// topicCost is what a topic with history is counted as in the history's budget.
	topicCost = 512
	// slowAfter is how old the oldest waiting frame of a full queue must be before its reader counts as slow. A reader of a
	// burst that overtook his goroutine is not slow. hardQueue times the queue cuts him off at any age.
	slowAfter = time.Second
	hardQueue = 16
	// forceWait is how long Close waits, after it has cut the connections, for their handlers to return.
	forceWait = 2 * time.Second
)

// Config says how many may listen and how much is kept for them. The zero value is usable.
type Config struct {
	// QueuePerConn is how many frames may wait for one connection for longer than a second; 64 when 0, allowed 1 to 4096. A
	// reader who is further behind is cut off, at once at 16 times as many. Smaller cuts readers on shaky networks; larger
	// keeps more memory for those who are gone.
	QueuePerConn int
	// MaxConns is the most connections at once; 50,000 when 0, allowed 1 to 1,000,000. One costs about 28 KB and a file
	// descriptor. Beyond it new ones get CodeUnavailable.
	MaxConns int
	// MaxPerClient is the most connections at once of one client, as Client tells them apart; 100 when 0, allowed 1 to
	// 1,000,000. Beyond it new ones get CodeTooManyRequests. Without Client there is no such limit.
	MaxPerClient int
	// Heartbeat is the time between signs of life, spread by ±20%; 15 s when 0, allowed 10 ms to 5 min. Longer than the
	// idle limit of a proxy in between, and it cuts quiet connections.
	Heartbeat time.Duration
	// WriteTimeout is the longest that one write to a connection may take; 10 s when 0, allowed 10 ms to 5 min.
	WriteTimeout time.Duration
	// MaxAge ends connections after this time, spread by ±20%, so that those who may no longer listen are asked again when
	// they come back, as clients do by themselves; 1 h when 0, allowed 100 ms to 7 days.
	MaxAge time.Duration
	// History is how many frames are kept for each topic; 64 when 0, allowed -1 (none: each lost connection is a reset) to
	// 4096.
	History int
	// HistoryBytes bounds the history of all topics together; 64 MiB when 0, allowed 64 KiB to 16 GiB. Beyond it the topics
	// that were silent longest lose theirs.
	HistoryBytes int64
	// Origin says whether a page of the request's Origin may listen with the reader's cookies. Nil: only pages of the host
	// that the request names. Requests without Origin, which do not come from foreign pages, are not asked about.
	Origin func(r *http.Request) bool
	// Client names whom a connection counts for, such as an address or an account. "" is not counted. Nil: nobody is.
	Client func(r *http.Request) string
	// Fail answers a refused request. Nil: a small problem document.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// Validate names the first field that is out of its bounds, with CodeInvalid.
func (c Config) Validate() error {
	_, err := c.normal()
	return err
}

// normal fills in defaults. A field out of bounds gets its default too, and the first of them is told by the error.
func (c Config) normal() (Config, error) {
	var first error
	bound := func(name string, v *int64, def, least, most int64) {
		if *v == 0 {
			*v = def
		}
		if *v < least || *v > most {
			if first == nil {
				first = levee.Invalid("push."+name, "from "+strconv.FormatInt(least, 10)+" to "+strconv.FormatInt(most, 10), *v)
			}
			*v = def
		}
	}
	count := func(name string, v *int, def, least, most int64) {
		w := int64(*v)
		bound(name, &w, def, least, most)
		*v = int(w)
	}
	span := func(name string, v *time.Duration, def, least, most time.Duration) {
		if *v == 0 {
			*v = def
		}
		if *v < least || *v > most {
			if first == nil {
				first = levee.Invalid("push."+name, "from "+least.String()+" to "+most.String(), *v)
			}
			*v = def
		}
	}
	count("queue_per_conn", &c.QueuePerConn, 64, 1, 4096)
	count("max_conns", &c.MaxConns, 50_000, 1, 1_000_000)
	count("max_per_client", &c.MaxPerClient, 100, 1, 1_000_000)
	span("heartbeat", &c.Heartbeat, 15*time.Second, 10*time.Millisecond, 5*time.Minute)
	span("write_timeout", &c.WriteTimeout, 10*time.Second, 10*time.Millisecond, 5*time.Minute)
	span("max_age", &c.MaxAge, time.Hour, 100*time.Millisecond, 7*24*time.Hour)
	count("history", &c.History, 64, -1, 4096)
	bound("history_bytes", &c.HistoryBytes, 64<<20, 64<<10, 16<<30)
	if c.Origin == nil {
		c.Origin = sameHost
	}
	if c.Fail == nil {
		c.Fail = fail
	}
	return c, first
}

// Hub is where publishers and listeners meet. All methods may be called by many goroutines at once.
type Hub struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	link    *link // to the hubs of the other nodes, or nil

	// dispatched is the last frame up to which every one stands in the queues of its listeners.
	dispatched atomic.Pointer[frame]

	mu      sync.Mutex // guards what follows, and topic.refs, topic.ring, topic.lost, topic.elem
	room    *sync.Cond // pending has room again
	topics  map[string]*topic
	recent  *list.List // topics with history, the latest published at the front
	bytes   int64      // cost of all history
	epoch   uint64
	offset  int64 // of the last frame published
	serial  int64 // of the last frame or turn, over all epochs
	lost    int64 // the highest offset that a forgotten topic had
	pending []*frame
	taking  bool // frames; false once Close has begun

	wake    chan struct{} // to the dispatcher: there is work, or publishing has ended
	done    chan struct{} // the dispatcher has ended
	closing chan struct{} // everything published is in the queues: connections send it and end

	connMu  sync.Mutex // guards what follows
	conns   map[*conn]struct{}
	clients map[string]int
	closed  bool
	empty   chan struct{} // closed when the last connection ends after closed was set
}

// topic is one name and those who listen to it.
type topic struct {
	name string
	refs int // connections that listen or are about to
	ring []*frame
	next int // where the next frame goes once the ring is full
	lost int64
	elem *list.Element

	mu   sync.Mutex // guards subs, and each listener's place in it
	subs []*conn
}

// Open starts a hub and its one goroutine; Close ends them. A field of cfg that is out of bounds is logged and replaced by
// its default: call Validate first.
func Open(cfg Config, o *obs.Obs) *Hub {
	h := newHub(cfg, o)
	go h.dispatch()
	return h
}

func newHub(cfg Config, o *obs.Obs) *Hub {
	cfg, err := cfg.normal()
	h := &Hub{
		cfg:     cfg,
		log:     o.Named("push"),
		epoch:   rand.Uint64(), // tells lives of the hub apart; it protects nothing
		topics:  map[string]*topic{},
		recent:  list.New(),
		taking:  true,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		closing: make(chan struct{}),
		conns:   map[*conn]struct{}{},
		clients: map[string]int{},
		empty:   make(chan struct{}),
	}
	if err != nil {
		h.log.Error("a setting is out of bounds; its default is used", "error", err)
	}
	h.room = sync.NewCond(&h.mu)
	h.dispatched.Store(&frame{at: position{epoch: h.epoch}})
	h.metrics = newMetrics(o.Metrics, h)
	return h
}

// Publish sends a frame to all who listen to the topic and keeps it in the topic's history. It waits for no reader. data is
// sent as it is when it is JSON, as a JSON string when not, and may be reused after the call. kind becomes the event's name:
// 1 to 64 of a-z, 0-9, '.', '_' and '-', and none of hello, heartbeat, reset and pong. A frame with another kind, a topic of
// no or more than 190 bytes, or data over 64 KiB is a defect of the caller: it is logged, counted and not sent. Frames of one
// publisher arrive in order. After Close nothing is sent.
func (h *Hub) Publish(topic, kind string, data []byte) {
	if len(topic) == 0 || len(topic) > maxTopic || !validKind(kind) || len(data) > maxData {
		h.metrics.invalid.Inc()
		h.log.Error("a frame is not sent: topic, kind or size is out of bounds",
			"topic", levee.Shorten(topic, maxTopic), "kind", levee.Shorten(kind, 64), "bytes", len(data))
		return
	}
	f := &frame{kind: kind, data: oneLine(data)}
	if h.link != nil {
		h.link.publish(topic, f)
		return
	}
	h.accept(topic, f)
}

// accept gives the frame the next position and passes it to those who listen here.
func (h *Hub) accept(topic string, f *frame) {
	h.mu.Lock()
	for len(h.pending) >= maxPending && h.taking {
		h.room.Wait()
	}
	if !h.taking {
		h.mu.Unlock()
		return
	}
	h.offset++
	h.serial++
	f.serial, f.at = h.serial, position{epoch: h.epoch, offset: h.offset}
	f.topic = h.keep(topic, f)
	h.pending = append(h.pending, f)
	first := len(h.pending) == 1
	h.mu.Unlock()
	h.metrics.published.Inc()
	if first {
		h.signal()
	}
}

// keep puts the frame into its topic's history and returns the topic, or nil when nobody listens and nothing is kept. Called
// with mu held.
func (h *Hub) keep(name string, f *frame) *topic {
	t := h.topics[name]
	if h.cfg.History < 0 {
		if t == nil {
			h.lost = f.at.offset
			return nil
		}
		t.lost = f.at.offset
		return t
	}
	if t == nil {
		t = h.newTopic(name)
	}
	if t.elem == nil {
		t.elem = h.recent.PushFront(t)
		h.bytes += topicCost
	} else {
		h.recent.MoveToFront(t.elem)
	}
	if len(t.ring) < h.cfg.History {
		t.ring = append(t.ring, f)
	} else {
		old := t.ring[t.next]
		t.lost = old.at.offset
		h.bytes -= old.cost()
		t.ring[t.next] = f
		t.next = (t.next + 1) % len(t.ring)
	}
	h.bytes += f.cost()
	for h.bytes > h.cfg.HistoryBytes && h.recent.Len() > 0 {
		h.forget(h.recent.Back().Value.(*topic))
	}
	return t
}

// newTopic makes a topic. What a forgotten one of the same name may have held counts as lost. Called with mu held.
func (h *Hub) newTopic(name string) *topic {
	t := &topic{name: name, lost: h.lost}
	h.topics[name] = t
	return t
}

// forget drops a topic's history, and the topic when nobody listens. Called with mu held.
func (h *Hub) forget(t *topic) {
	for _, f := range t.ring {
		t.lost = max(t.lost, f.at.offset)
		h.bytes -= f.cost()
	}
	h.bytes -= topicCost
	h.recent.Remove(t.elem)
	t.ring, t.next, t.elem = nil, 0, nil
	h.metrics.forgotten.Inc()
	h.drop(t)
}

// drop removes a topic that nobody listens to and that has no history. Called with mu held.
func (h *Hub) drop(t *topic) {
	if t.refs == 0 && t.elem == nil {
		h.lost = max(h.lost, t.lost)
		delete(h.topics, t.name)
	}
}

func (h *Hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// dispatch fans out what is pending, in order, until publishing has ended and nothing is left.
func (h *Hub) dispatch() {
	defer close(h.done)
	var batch []*frame
	for {
		h.mu.Lock()
		clear(batch)
		batch, h.pending = h.pending, batch[:0]
		more := h.taking
		h.room.Broadcast()
		h.mu.Unlock()
		if len(batch) == 0 {
			if !more {
				return
			}
			<-h.wake
			continue
		}
		now := time.Now()
		for _, f := range batch {
			if f.kind == kindReset && !f.silent {
				h.tellTurn(f, now)
			}
			if f.topic != nil {
				f.topic.mu.Lock()
				for _, c := range f.topic.subs {
					c.push(f, now)
				}
				f.topic.mu.Unlock()
			}
		}
		h.dispatched.Store(batch[len(batch)-1])
	}
}

// subscribe makes c a listener of the topics and returns where its live frames begin, and what it missed since the given
// position: the frames, or reset when they are not all known any more. No frame is in both, none is in neither.
func (h *Hub) subscribe(c *conn, names []string, since *position) (from mark, missed []*frame, reset bool) {
	h.mu.Lock()
	for _, name := range names {
		t := h.topics[name]
		if t == nil {
			t = h.newTopic(name)
		}
		t.refs++
		c.places = append(c.places, place{topic: t})
	}
	h.mu.Unlock()

	// Until start, c takes no frame. The topics' locks are not taken under mu, because the dispatcher holds them long.
	for i := range c.places {
		t := c.places[i].topic
		t.mu.Lock()
		c.places[i].index = len(t.subs)
		t.subs = append(t.subs, c)
		t.mu.Unlock()
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	from = mark{h.serial, position{epoch: h.epoch, offset: h.offset}}
	if since != nil && h.link != nil && since.epoch == h.epoch && since.offset > h.offset && since.offset-h.offset <= logFrames {
		// He has heard more at another node than this one has yet.
		from.at = *since
		c.start(from.serial, *since)
		return from, nil, false
	}
	c.start(from.serial, position{})
	if since == nil {
		return from, nil, false
	}
	if since.epoch != h.epoch || since.offset > h.offset {
		return from, nil, true
	}
	for i := range c.places { // whose indexes are not ours to read here
		t := c.places[i].topic
		if since.offset < t.lost {
			return from, nil, true
		}
		for _, f := range t.ring {
			if f.at.offset > since.offset {
				missed = append(missed, f)
			}
		}
	}
	sortFrames(missed)
	return from, missed, false
}

func (h *Hub) unsubscribe(c *conn) {
	for i := range c.places {
		t := c.places[i].topic
		t.mu.Lock()
		at, end := c.places[i].index, len(t.subs)-1
		moved := t.subs[end]
		t.subs[at], t.subs[end] = moved, nil
		t.subs = t.subs[:end]
		for j := range moved.places {
			if moved.places[j].topic == t {
				moved.places[j].index = at
			}
		}
		if cap(t.subs) > 64 && len(t.subs) < cap(t.subs)/4 {
			t.subs = append(make([]*conn, 0, cap(t.subs)/2), t.subs...)
		}
		t.mu.Unlock()
	}
	h.mu.Lock()
	for i := range c.places {
		t := c.places[i].topic
		t.refs--
		h.drop(t)
	}
	h.mu.Unlock()
}

// enter counts a connection in, or says why not.
func (h *Hub) enter(r *http.Request, c *conn) error {
	if r.Header.Get("Origin") != "" && !h.cfg.Origin(r) {
		h.metrics.refused.WithLabelValues("origin").Inc()
		return levee.E(levee.CodeForbidden, "pages of another site may not listen here")
	}
	if h.cfg.Client != nil {
		c.client = h.cfg.Client(r)
	}
	c.request = r
	h.connMu.Lock()
	defer h.connMu.Unlock()
	switch {
	case h.closed:
		h.metrics.refused.WithLabelValues("closing").Inc()
		return levee.E(levee.CodeUnavailable, "the service is stopping").After(5 * time.Second)
	case len(h.conns) >= h.cfg.MaxConns:
		h.metrics.refused.WithLabelValues("full").Inc()
		return levee.E(levee.CodeUnavailable, "too many are listening").After(spread(30 * time.Second))
	case c.client != "" && h.clients[c.client] >= h.cfg.MaxPerClient:
		h.metrics.refused.WithLabelValues("client").Inc()
		return levee.E(levee.CodeTooManyRequests, "at most %d live connections are allowed at once", h.cfg.MaxPerClient).
			After(spread(30 * time.Second))
	}
	h.conns[c] = struct{}{}
	if c.client != "" {
		h.clients[c.client]++
	}
	return nil
}

func (h *Hub) leave(c *conn) {
	h.connMu.Lock()
	defer h.connMu.Unlock()
	delete(h.conns, c)
	if c.client != "" {
		if h.clients[c.client]--; h.clients[c.client] == 0 {
			delete(h.clients, c.client)
		}
	}
	if h.closed && len(h.conns) == 0 {
		close(h.empty)
	}
}

// Conns returns the number of connections that are served now.
func (h *Hub) Conns() int {
	h.connMu.Lock()
	defer h.connMu.Unlock()
	return len(h.conns)
}

// Close takes no more connections and frames, sends out what was published, ends the connections in the way of their
// transport and waits for their handlers. When ctx ends first, what is left is cut, and the error has CodeTimeout. Calls
// after the first wait for the same end.
func (h *Hub) Close(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "push.Close")
	h.connMu.Lock()
	first := !h.closed
	h.closed = true
	if first && len(h.conns) == 0 {
		close(h.empty)
	}
	h.connMu.Unlock()
	if first {
		if h.link != nil {
			h.link.close(ctx)
		}
		h.mu.Lock()
		h.taking = false
		h.room.Broadcast()
		h.mu.Unlock()
		h.signal()
		<-h.done
		h.metrics.close()
		close(h.closing)
	}
	<-h.closing
	select {
	case <-h.empty:
		return nil
	case <-ctx.Done():
	}
	h.connMu.Lock()
	left := len(h.conns)
	for c := range h.conns {
		c.cancel()
	}
	h.connMu.Unlock()
	wait := time.NewTimer(forceWait)
	defer wait.Stop()
	select {
	case <-h.empty:
	case <-wait.C:
	}
	if left == 0 {
		return nil
	}
	return levee.E(levee.CodeTimeout, "%d live connections had to be cut", left).Because(context.Cause(ctx))
}

// topicsOf checks the topics of one connection and leaves out repetitions.
func topicsOf(names []string) ([]string, error) {
	if len(names) == 0 || len(names) > maxTopics {
		return nil, levee.Invalid("topics", "1 to 32 topics", len(names))
	}
	var out []string
next:
	for _, n := range names {
		if len(n) == 0 || len(n) > maxTopic {
			return nil, levee.Invalid("topic", "1 to 190 bytes", len(n))
		}
		for _, o := range out {
			if o == n {
				continue next
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// since returns the position with which a client comes back: nil for a new one, and one that no hub knows for a position
// that cannot be read. The query parameter serves browsers' WebSockets, which can set no header.
func since(r *http.Request) *position {
	s := r.Header.Get("Last-Event-ID")
	if s == "" {
		s = r.URL.Query().Get("last_event_id")
	}
	if s == "" {
		return nil
	}
	p, ok := parsePosition(s)
	if !ok {
		return &position{offset: 1<<63 - 1}
	}
	return &p
}
