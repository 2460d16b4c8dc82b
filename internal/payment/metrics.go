package payment

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	received      *prometheus.CounterVec // by what the money did
	notifications *prometheus.CounterVec // by provider and what became of them
	refunds       *prometheus.CounterVec // by how they ended
	calls         *prometheus.HistogramVec
}

func newMetrics(r *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_payment_received_total", Help: "Payments booked, by provider and outcome (paid, revived, already_paid, too_late)."},
			[]string{"provider", "outcome"}),
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_payment_notifications_total", Help: "Notifications of providers, by what became of them (handled, repeated, refused, failed)."},
			[]string{"provider", "result"}),
		refunds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_payment_refunds_total", Help: "Refunds by how a try ended (done, refused, failed)."}, []string{"provider", "result"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "levee_payment_provider_call_seconds", Help: "Calls to providers.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}}, []string{"provider", "call", "result"}),
	}
	for _, c := range []prometheus.Collector{m.received, m.notifications, m.refunds, m.calls} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
