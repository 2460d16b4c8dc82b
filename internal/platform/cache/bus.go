package cache

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// Bus joins the named channel between the nodes, over which messages may be lost. hear gets the other nodes' messages; lost is called
// when some may have been missed, after each (re)connect too. publish must not block. It is redis.Client.Bus.
type Bus func(name string, hear func(payload []byte), lost func()) (publish func(payload []byte))

const (
	// busKeys is how many keys one message names; who changes more in a millisecond has everything forgotten.
	busKeys = 500
	// busBytes is the most of one message.
	busBytes = 128 << 10
)

// told is a message: what another node has changed.
type told[K comparable] struct {
	All  bool `json:"all,omitempty"`
	Keys []K  `json:"keys,omitempty"`
}

// teller gathers what the other nodes must hear, and sends it once a millisecond at most.
type teller[K comparable] struct {
	publish func([]byte)
	sent    prometheus.Counter

	mu      sync.Mutex // guards the rest
	keys    map[K]struct{}
	all     bool
	waiting bool // a message is on its way
}

// connect joins the bus. K must come back from JSON as it went, else it panics: that is a bug of whoever chose the type.
func (c *Cache[K, V]) connect(o *obs.Obs) {
	_ = newCodec[K, struct{}]()
	messages := obs.Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_cache_messages_total", Help: "Messages between nodes: sent, heard, or lost (copies were forgotten because some may have been missed).",
	}, []string{"cache", "kind"}))
	heard, lost := messages.WithLabelValues(c.cfg.Name, "heard"), messages.WithLabelValues(c.cfg.Name, "lost")
	t := &teller[K]{keys: map[K]struct{}{}, sent: messages.WithLabelValues(c.cfg.Name, "sent")}
	t.publish = c.cfg.Bus("cache:"+c.cfg.Name, func(payload []byte) {
		heard.Inc()
		var m told[K]
		// What cannot be read, from a newer build say, may mean anything.
		if err := json.Unmarshal(payload, &m); err != nil || m.All {
			c.forgetAll()
			return
		}
		c.forget(m.Keys)
	}, func() {
		lost.Inc()
		c.forgetAll()
	})
	c.teller = t
}

func (t *teller[K]) tell(all bool, keys ...K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		t.keys[k] = struct{}{}
	}
	if t.all = t.all || all || len(t.keys) > busKeys; t.all {
		clear(t.keys)
	}
	if !t.waiting && (t.all || len(t.keys) > 0) {
		t.waiting = true
		time.AfterFunc(apart, t.send)
	}
}

func (t *teller[K]) send() {
	t.mu.Lock()
	m := told[K]{All: t.all}
	for k := range t.keys {
		m.Keys = append(m.Keys, k)
	}
	t.all, t.waiting = false, false
	clear(t.keys)
	t.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil || len(text) > busBytes || bytes.Contains(text, []byte(mangled)) { // keys that are no UTF-8 look alike
		text = []byte(`{"all":true}`)
	}
	t.publish(text)
	t.sent.Inc()
}
