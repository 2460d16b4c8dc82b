package push

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reg *prometheus.Registry
	all []prometheus.Collector

	sse, ws                             prometheus.Gauge
	published, delivered, slow          prometheus.Counter
	resets, resumed, invalid, forgotten prometheus.Counter
	turns                               prometheus.Counter
	refused                             *prometheus.CounterVec
}

func newMetrics(reg *prometheus.Registry, h *Hub) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_push_" + name, Help: help})
	}
	conns := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "levee_push_connections", Help: "Live connections."}, []string{"transport"})
	m := &metrics{
		reg:       reg,
		sse:       conns.WithLabelValues("sse"),
		ws:        conns.WithLabelValues("websocket"),
		published: counter("published_frames_total", "Frames passed on to the listeners of this node."),
		delivered: counter("delivered_frames_total", "Frames written to connections."),
		slow:      counter("slow_connections_total", "Connections cut because their reader fell behind."),
		resets:    counter("resets_total", "Readers who came back too late for what they missed."),
		resumed:   counter("resumes_total", "Readers who came back and got what they missed."),
		invalid:   counter("invalid_frames_total", "Frames not sent because topic, kind or size was out of bounds."),
		turns:     counter("turns_total", "Times that all readers were told to read anew, because frames may have been missed."),
		forgotten: counter("forgotten_topics_total", "Topics whose history was dropped for want of room."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_push_refused_connections_total", Help: "Connections refused, by reason.",
		}, []string{"reason"}),
	}
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "levee_push_history_bytes", Help: "Memory of the history, estimated."},
		func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(h.bytes)
		})
	topics := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "levee_push_topics", Help: "Topics with listeners or history."},
		func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(len(h.topics))
		})
	alone := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_push_alone", Help: "1 while frames reach this node's readers alone, because Redis is away.",
	}, func() float64 {
		if h.link != nil && h.link.isAlone() {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{
		conns, m.published, m.delivered, m.slow, m.resets, m.resumed, m.invalid, m.forgotten, m.turns, m.refused, size, topics, alone,
	} {
		// A second hub on one registry goes without figures.
		if reg.Register(c) == nil {
			m.all = append(m.all, c)
		}
	}
	return m
}

func (m *metrics) close() {
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
