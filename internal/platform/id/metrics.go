package id

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are one generator's figures, told apart by space and worker number.
type metrics struct {
	reg    *prometheus.Registry
	all    []prometheus.Collector
	writes prometheus.Histogram
	failed prometheus.Counter
}

func newMetrics(reg *prometheus.Registry, g *Generator, space string) *metrics {
	label := prometheus.Labels{"space": space, "worker": strconv.Itoa(g.Worker())}
	m := &metrics{
		reg: reg,
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_id_horizon_write_seconds", ConstLabels: label,
			Help:    "Time to make a new id horizon durable.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 8),
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_id_horizon_failures_total", ConstLabels: label,
			Help: "Id horizons that could not be written.",
		}),
	}
	ahead := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_id_ahead_seconds", ConstLabels: label,
		Help: "How far the last id given lies ahead of the clock; negative when idle.",
	}, g.aheadOfClock)
	for _, c := range []prometheus.Collector{m.writes, m.failed, ahead} {
		// Two generators of one worker number can only meet here when file locks do not work; ids must not hang on figures.
		if reg.Register(c) == nil {
			m.all = append(m.all, c)
		}
	}
	return m
}

func (m *metrics) wrote(d time.Duration, err error) {
	if err != nil {
		m.failed.Inc()
		return
	}
	m.writes.Observe(d.Seconds())
}

func (m *metrics) close() {
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
