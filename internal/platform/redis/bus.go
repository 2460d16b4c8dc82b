package redis

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

const (
	// beatEvery is the time between two signs of life on each bus. A lost message is noticed by the next one.
	beatEvery = time.Second
	// deafAfter is how long a node waits for its own sign of life to come back before it connects anew.
	deafAfter = 2500 * time.Millisecond
	// newcomerFor is how long after a subscription an unknown sender is taken for one who was there before it.
	newcomerFor = 3 * beatEvery
	// peerFor is how long a silent sender is remembered, peersMax how many of one bus.
	peerFor  = time.Minute
	peersMax = 1000
	// The most that waits to be sent, in messages and bytes. What comes then is dropped, and the others are told.
	outMax, outBytesMax = 8192, 16 << 20
	// payloadMax is the most bytes of one message.
	payloadMax = 256 << 10
	batchMax   = 256
	nodesBus   = "nodes"
)

// A message is a kind, the sender, his count of messages on this bus, and the payload. A beat carries the count of the last message.
const (
	headLen     = 1 + 8 + 8
	kindMessage = 'm'
	kindBeat    = 'b'
)

// radio is the node's one connection for the messages of all its buses, and the line of what it has to say.
type radio struct {
	c       *Client
	id      [8]byte
	hearing atomic.Bool
	nodes   atomic.Int64
	wake    chan struct{}
	told    bool // that nothing is heard; the listener's alone

	mu       sync.Mutex // guards what follows, and each bus' count
	buses    map[string]*bus
	out      []outgoing
	outBytes int
	sub      *goredis.PubSub // nil between two connections
	closed   bool
}

type outgoing struct {
	bus     *bus
	kind    byte
	count   uint64
	payload []byte
}

// bus is one named channel.
type bus struct {
	name, channel string
	hear          func([]byte)
	lost          func()
	count         uint64      // of our last message
	rung          atomic.Bool // a bell's ring waits to be sent

	own atomic.Int64 // when our own beat or message was last heard, or subscribed for, in nanoseconds since radioEpoch

	// What follows is the listener's alone.
	since  time.Time // of the subscription
	second bool      // a second call of lost is due, newcomerFor after the subscription
	peers  map[[8]byte]*peer
}

type peer struct {
	count uint64
	heard time.Time
}

var radioEpoch = time.Now()

func newRadio(c *Client, id [8]byte) *radio {
	r := &radio{c: c, id: id, wake: make(chan struct{}, 1), buses: map[string]*bus{}}
	r.nodes.Store(1)
	r.add(nodesBus, func([]byte) {}, func() {})
	return r
}

// Bus joins the named channel, over which the house's nodes tell each other what may be lost. hear gets each message of the other
// nodes, those of one node in the order in which it sent them. lost is called when messages may have been missed: after each (re)connect, the
// first included, and when a sender's count has a gap. It comes no later than about four seconds after the loss, once Redis answers
// again; while it does not, Hearing is false and nothing is called. A message may still come after the lost that stands for it.
//
// hear and lost are called by one goroutine for all buses and must not wait. publish sends to the other nodes, never blocks and may be called by many
// goroutines; payload (at most 256 KiB) may be reused afterwards. What cannot be sent is told to the others as lost.
// A name is joined once by a client: a second time panics. A bus ends with the client.
func (c *Client) Bus(name string, hear func(payload []byte), lost func()) (publish func(payload []byte)) {
	b := c.radio.add(name, hear, lost)
	c.radio.tune(b)
	sent := c.metrics.sent.WithLabelValues(name)
	return func(payload []byte) {
		sent.Inc()
		c.radio.say(b, bytes.Clone(payload))
	}
}

// Bell is a Bus without payload, to wake the other nodes: ring never blocks, and rings that wait to be sent are one. wake is called when another
// node rang, and whenever a ring may have been missed. It must not wait.
func (c *Client) Bell(name string, wake func()) (ring func()) {
	b := c.radio.add(name, func([]byte) { wake() }, wake)
	c.radio.tune(b)
	sent := c.metrics.sent.WithLabelValues(name)
	return func() {
		if b.rung.CompareAndSwap(false, true) {
			sent.Inc()
			c.radio.say(b, nil)
		}
	}
}

func (r *radio) add(name string, hear func([]byte), lost func()) *bus {
	b := &bus{name: name, channel: r.c.Key("bus:" + name), hear: hear, lost: lost}
	b.own.Store(int64(time.Since(radioEpoch)))
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.buses[b.channel]; there {
		panic("redis: the bus " + name + " is joined twice")
	}
	r.buses[b.channel] = b
	return b
}

// tune adds a bus to the connection, if there is one; a new connection subscribes to all anyway.
func (r *radio) tune(b *bus) {
	r.mu.Lock()
	sub := r.sub
	r.mu.Unlock()
	if sub != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patientTimeout)
		defer cancel()
		if sub.Subscribe(ctx, b.channel) != nil {
			_ = sub.Close() // the listener connects anew
		}
	}
}

// say puts a message into the line.
func (r *radio) say(b *bus, payload []byte) {
	r.mu.Lock()
	b.count++
	m := outgoing{b, kindMessage, b.count, payload}
	fits := !r.closed && len(r.out) < outMax && r.outBytes+len(payload) <= outBytesMax && len(payload) <= payloadMax
	if fits {
		r.out = append(r.out, m)
		r.outBytes += len(payload)
	}
	r.mu.Unlock()
	if !fits {
		// The count goes on without it, so the others see a gap.
		b.rung.Store(false)
		r.c.log.Error("a message to the other nodes is dropped: too large, or too many wait", "bus", b.name, "bytes", len(payload))
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// speak sends what stands in the line, and the beats, until ctx ends.
func (r *radio) speak(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		beat := false
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-tick.C:
			beat = true
		}
		r.mu.Lock()
		out := r.out
		r.out, r.outBytes = nil, 0
		if beat {
			for _, b := range r.buses {
				out = append(out, outgoing{b, kindBeat, b.count, nil})
			}
		}
		r.mu.Unlock()
		for len(out) > 0 {
			n := min(len(out), batchMax)
			r.send(ctx, out[:n])
			out = out[n:]
		}
	}
}

// send publishes a batch. What fails is not sent again: the next beat tells the others that there was something.
func (r *radio) send(ctx context.Context, batch []outgoing) {
	pipe := r.c.calls.Pipeline()
	for _, m := range batch {
		if m.kind == kindMessage {
			m.bus.rung.Store(false) // before it is sent: a ring from now on stands for work that this one may not show
		}
		text := make([]byte, headLen, headLen+len(m.payload))
		text[0] = m.kind
		copy(text[1:], r.id[:])
		binary.BigEndian.PutUint64(text[9:], m.count)
		pipe.Publish(ctx, m.bus.channel, append(text, m.payload...))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		r.c.log.Debug("messages to the other nodes may not have been sent", "count", len(batch), "error", err)
	}
}

// listen keeps the subscription until ctx ends.
func (r *radio) listen(ctx context.Context) {
	for ctx.Err() == nil {
		r.session(ctx)
		r.hearing.Store(false)
		select {
		case <-ctx.Done():
		case <-time.After(probeOpen):
		}
	}
}

// session is one life of the subscription.
func (r *radio) session(ctx context.Context) {
	if !r.c.Healthy() && r.c.probe(ctx) != nil {
		return // nobody is there to subscribe at
	}
	sub := r.c.patient.Subscribe(ctx)
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		_ = sub.Close()
		return
	}
	var channels []string
	for ch, b := range r.buses {
		channels = append(channels, ch)
		b.own.Store(int64(time.Since(radioEpoch)))
	}
	r.sub = sub
	r.mu.Unlock()
	ends, end := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { // a receive that waits cannot be interrupted but by closing
		defer close(watched)
		r.listenFor(ends, sub)
	}()
	defer func() {
		end()
		<-watched
		r.mu.Lock()
		r.sub = nil
		r.mu.Unlock()
		_ = sub.Close()
	}()
	if err := sub.Subscribe(ctx, channels...); err != nil {
		r.tell(err)
		return
	}
	confirmed := 0
	for {
		got, err := sub.Receive(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.tell(err)
			}
			return
		}
		switch m := got.(type) {
		case *goredis.Subscription:
			if b := r.bus(m.Channel); b != nil && m.Kind == "subscribe" {
				b.begin(r.c.Cluster())
				r.miss(b)
				if confirmed++; confirmed >= len(channels) {
					r.hearing.Store(true)
					r.told = false
				}
			}
		case *goredis.Message:
			if b := r.bus(m.Channel); b != nil {
				r.take(b, m.Payload)
			}
		}
	}
}

// tell logs once that nothing is heard, until something is.
func (r *radio) tell(err error) {
	if !r.told {
		r.told = true
		r.c.log.Warn("the messages of other nodes are not heard for the moment", "error", err)
	}
}

// listenFor closes the subscription at ctx's end, or when our own beats no longer come back over it.
func (r *radio) listenFor(ctx context.Context, sub *goredis.PubSub) {
	began := time.Now()
	tick := time.NewTicker(deafAfter / 5)
	defer tick.Stop()
	defer func() { _ = sub.Close() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(began) < deafAfter {
			continue
		}
		r.mu.Lock()
		deaf := ""
		for _, b := range r.buses {
			if time.Since(radioEpoch)-time.Duration(b.own.Load()) > deafAfter {
				deaf = b.name
			}
		}
		r.mu.Unlock()
		if deaf != "" {
			r.c.log.Warn("our own messages do not come back: the subscription is made anew", "bus", deaf)
			return
		}
	}
}

func (r *radio) bus(channel string) *bus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buses[channel]
}

// begin notes a new subscription.
func (b *bus) begin(cluster bool) {
	b.since, b.peers = time.Now(), map[[8]byte]*peer{}
	// Between the nodes of a cluster messages are lost without a connection of ours breaking. One lost right after the subscription, from a sender whose
	// count we do not know yet, shows nowhere.
	b.second = cluster
	b.own.Store(int64(time.Since(radioEpoch)))
}

func (r *radio) miss(b *bus) {
	r.c.metrics.lost.WithLabelValues(b.name).Inc()
	b.lost()
}

// take reads one message.
func (r *radio) take(b *bus, text string) {
	if len(text) < headLen {
		return // not of this house
	}
	now := time.Now()
	var from [8]byte
	copy(from[:], text[1:])
	count := binary.BigEndian.Uint64([]byte(text[9:headLen]))
	if b.second && now.Sub(b.since) > newcomerFor {
		b.second = false
		r.miss(b)
	}
	if from == r.id {
		b.own.Store(int64(time.Since(radioEpoch)))
		if text[0] == kindBeat {
			r.census(b, now)
		}
		return
	}
	p := b.peers[from]
	last := count
	if text[0] == kindMessage {
		last-- // what he must have said before
	}
	switch {
	case p == nil:
		if len(b.peers) >= peersMax {
			clear(b.peers)
			last = ^uint64(0)
		}
		p = &peer{}
		b.peers[from] = p
		if last > 0 && now.Sub(b.since) > newcomerFor {
			r.miss(b)
		}
	case last > p.count:
		r.miss(b)
	}
	p.heard = now
	p.count = max(p.count, count)
	if text[0] == kindMessage {
		r.c.metrics.heard.WithLabelValues(b.name).Inc()
		b.hear([]byte(text[headLen:]))
	}
}

// census forgets senders that fell silent, and counts the nodes.
func (r *radio) census(b *bus, now time.Time) {
	nodes := 1
	for id, p := range b.peers {
		switch silent := now.Sub(p.heard); {
		case silent > peerFor:
			delete(b.peers, id)
		case silent < 5*beatEvery:
			nodes++
		}
	}
	if b.name == nodesBus && now.Sub(b.since) > 2*beatEvery {
		r.nodes.Store(int64(nodes))
	}
}

// shut ends a receive that waits.
func (r *radio) shut() {
	r.mu.Lock()
	r.closed = true
	sub := r.sub
	r.mu.Unlock()
	if sub != nil {
		_ = sub.Close()
	}
}
