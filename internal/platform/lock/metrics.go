package lock

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// metrics are told apart by driver only: names of locks are without end.
type metrics struct {
	grants, lost, renewals, failures prometheus.Counter
	refused                          *prometheus.CounterVec
	held                             prometheus.Gauge
	waits                            prometheus.Observer
}

func newMetrics(reg *prometheus.Registry, kind string) *metrics {
	label := prometheus.Labels{"driver": kind}
	count := func(name, help string) prometheus.Counter {
		return obs.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_lock_" + name, Help: help, ConstLabels: label}))
	}
	return &metrics{
		grants:   count("grants_total", "Leases granted."),
		lost:     count("lost_total", "Leases that ended before they were given back."),
		renewals: count("renewals_total", "Renewals that the store accepted."),
		failures: count("renewal_failures_total", "Renewals that got no answer; each is tried again until the lease ends."),
		refused: obs.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_lock_refused_total", ConstLabels: label,
			Help: "Acquisitions without a lease, by reason: held (TryAcquire), timeout, cancelled, away, closed, invalid (not with this driver).",
		}, []string{"reason"})),
		held: obs.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "levee_lock_held_count", Help: "Leases held by this process.", ConstLabels: label,
		})),
		waits: obs.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_lock_wait_seconds", Help: "Time that granted requests had to wait; those granted at once are not counted.", ConstLabels: label,
			Buckets: prometheus.ExponentialBuckets(100e-6, 4, 10), // 100 µs to 26 s
		})),
	}
}
