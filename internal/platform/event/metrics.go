package event

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	emitted, delivered, failed, parked *prometheus.CounterVec
	lag                                prometheus.Histogram
	spent                              *prometheus.HistogramVec
	held                               prometheus.Gauge
}

func newMetrics(r *prometheus.Registry) *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_event_" + name, Help: help}, []string{label}))
	}
	return &metrics{
		emitted:   counter("emitted_total", "Events written to the outbox, including those rolled back later.", "event"),
		delivered: counter("delivered_total", "Deliveries that committed.", "listener"),
		failed:    counter("failed_total", "Attempts of a delivery that failed.", "listener"),
		parked:    counter("parked_total", "Deliveries given up after the last attempt.", "listener"),
		lag: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "levee_event_lag_seconds",
			Help: "From the emission of an event to the commit of its last delivery.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)})),
		spent: obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "levee_event_listener_seconds",
			Help: "Time in a listener's function, which holds the database's writer.", Buckets: prometheus.ExponentialBuckets(0.00001, 10, 6)},
			[]string{"listener"})),
		held: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_event_held_events",
			Help: "Events that the relay holds in memory because a delivery of theirs is under way or waits for its next attempt."})),
	}
}
