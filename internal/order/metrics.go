package order

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	created   prometheus.Counter
	steps     *prometheus.CounterVec // by the state it led to
	late      *prometheus.CounterVec // money that came for an order which was not waiting for it, by outcome
	postponed prometheus.Counter
	expired   prometheus.Counter
}

func newMetrics(r *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		created: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_order_created_total", Help: "Orders made and committed."}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_order_steps_total", Help: "Steps of orders, by the state they led to."}, []string{"to"}),
		late: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_order_late_payments_total", Help: "Payments for orders that no longer waited for one, by outcome."}, []string{"outcome"}),
		postponed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_order_expiries_postponed_total", Help: "Expiries put off because the provider could not be asked."}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_order_expired_total", Help: "Orders cancelled because they were not paid in time."}),
	}
	for _, c := range []prometheus.Collector{m.created, m.steps, m.late, m.postponed, m.expired} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
