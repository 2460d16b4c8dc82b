package schedule

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// Why a firing gives no job.
const (
	reasonLate   = "late"
	reasonMerged = "merged"
	reasonBusy   = "busy"
)

type metrics struct {
	fired, skipped *prometheus.CounterVec
	manual         prometheus.Counter
	late           prometheus.Histogram
	next, ahead    prometheus.Gauge
	stuck          prometheus.Gauge
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		fired: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_schedule_fired_total",
			Help: "Jobs that schedules gave on this node, by the kind of job."}, []string{"job"})),
		skipped: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_schedule_skipped_total",
			Help: "Firings that gave no job: late (beyond the grace), merged (with another that was due), busy (as many jobs as may wait or run)."},
			[]string{"reason"})),
		manual: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_schedule_triggered_total",
			Help: "Jobs that were given by hand."})),
		late: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "levee_schedule_late_seconds",
			Help: "From the time of a firing to the commit of its job.", Buckets: prometheus.ExponentialBuckets(0.000625, 2, 18)})),
		next: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_schedule_next_timestamp_seconds",
			Help: "The next firing of all schedules, in seconds since 1970; 0: there is none."})),
		ahead: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_schedule_clock_ahead_seconds",
			Help: "What this node's clock is ahead of the one that counts for schedules, the database's."})),
		stuck: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_schedule_stuck_entries",
			Help: "Schedules that are due and that this node cannot fire; its log says why."})),
	}
	for _, reason := range []string{reasonLate, reasonMerged, reasonBusy} {
		m.skipped.WithLabelValues(reason)
	}
	return m
}
