package bridge

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	published, received, repeated, parked, failures *prometheus.CounterVec
	forgotten                                       prometheus.Counter
	waiting, lag                                    *prometheus.GaugeVec
}

func newMetrics(r *prometheus.Registry) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_bridge_" + name, Help: help}, labels))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return obs.Register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "levee_bridge_" + name, Help: help}, []string{"event"}))
	}
	return &metrics{
		published: counter("published_total", "Events that the broker has acknowledged.", "event"),
		received:  counter("received_total", "Messages of the broker that became events.", "topic"),
		repeated:  counter("repeated_total", "Messages of the broker that had come before.", "topic"),
		parked:    counter("parked_total", "Messages parked for a person.", "direction"),
		failures:  counter("failures_total", "Attempts to carry that failed and are made again.", "direction", "of"),
		forgotten: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_bridge_parked_forgotten_total",
			Help: "Parked incoming messages that were given up for newer ones."})),
		waiting: gauge("waiting_events", "Events that wait to go out, counted up to 100,000, on the node that carries."),
		lag:     gauge("lag_seconds", "How long the oldest event that waits to go out has waited, on the node that carries."),
	}
}
