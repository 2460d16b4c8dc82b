package notify

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	heard    *prometheus.CounterVec // by type
	notices  prometheus.Counter
	written  prometheus.Counter
	attempts *prometheus.CounterVec // by what came of them
	seconds  prometheus.Histogram
	dropped  prometheus.Counter
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		heard: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_notify_heard_total", Help: "Facts heard, by type; a batch of orders is one."}, []string{"type"}),
		notices: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_notify_notices_total", Help: "Notices written for users."}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_notify_deliveries_total", Help: "Deliveries written for webhooks."}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_notify_attempts_total", Help: "Attempts to deliver, by result (delivered, failed, parked)."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_notify_attempt_seconds", Help: "Time of an attempt.", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_notify_dropped_total", Help: "Facts that could not be written out after many tries; the log has them as errors."}),
	}
	r.MustRegister(m.heard, m.notices, m.written, m.attempts, m.seconds, m.dropped)
	return m
}
