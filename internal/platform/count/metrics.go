package count

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	adds, failed, written, alone, loads prometheus.Counter
	waiting                             prometheus.Gauge
	flush                               prometheus.Histogram
	differ, unsure                      *prometheus.GaugeVec
	drift                               *prometheus.GaugeVec
}

func newMetrics(r *prometheus.Registry) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	gauges := func(name, help string) *prometheus.GaugeVec {
		return obs.Register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"kind"}))
	}
	return &metrics{
		adds:    counter("levee_count_changes_total", "Changes of counters and boards."),
		failed:  counter("levee_count_write_failures_total", "Writings to SQL that failed and are tried again."),
		written: counter("levee_count_rows_written_total", "Rows that were written to SQL."),
		alone:   counter("levee_count_alone_total", "Changes that a process took by itself because Redis was away."),
		loads:   counter("levee_count_loads_total", "Keys that were read from SQL."),
		waiting: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_count_waiting_keys",
			Help: "Keys of which this process itself holds changes that are not in SQL yet."})),
		flush: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "levee_count_write_seconds",
			Help: "Time of a writing.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)})),
		differ: gauges("levee_count_drift_keys", "Keys that the last correction found wrong."),
		drift:  gauges("levee_count_drift_sum", "Sum of the differences, without their signs, that the last correction found."),
		unsure: gauges("levee_count_unsure_keys", "Keys that changed so often that the last correction left them as they were."),
	}
}
