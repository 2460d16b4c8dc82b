package job

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// How a run can end.
const (
	outcomeDone        = "done"
	outcomeRetry       = "retry"
	outcomeDead        = "dead"
	outcomeSnoozed     = "snoozed"
	outcomeInterrupted = "interrupted"
	outcomeLost        = "lost"
	outcomeCancelled   = "cancelled"
)

type metrics struct {
	enqueued, finished *prometheus.CounterVec
	seconds            *prometheus.HistogramVec
	late               *prometheus.HistogramVec
	running            *prometheus.GaugeVec
	rescued            prometheus.Counter
	stuck              prometheus.Counter
	dropped            prometheus.Counter

	kinds sync.Map // name → *kindMetrics
}

// kindMetrics are those of one kind, looked up once.
type kindMetrics struct {
	enqueued prometheus.Counter
	// enqueuedOne counts one; made once, for AfterCommit: a transaction that is run again must not count twice.
	enqueuedOne func()
	seconds     prometheus.Observer
	outcomes    map[string]prometheus.Counter
}

func (k *kindMetrics) finished(outcome string) prometheus.Counter { return k.outcomes[outcome] }

func newMetrics(r *prometheus.Registry) *metrics {
	return &metrics{
		enqueued: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_job_enqueued_total",
			Help: "Jobs added, counted after the commit."}, []string{"job"})),
		finished: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_job_finished_total",
			Help: "Runs that ended, by how: done, retry, dead, snoozed, interrupted (the process stopped), lost (the lease was), cancelled."},
			[]string{"job", "outcome"})),
		seconds: obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "levee_job_run_seconds",
			Help: "Time in a job's function.", Buckets: prometheus.ExponentialBuckets(0.0005, 5, 9)}, []string{"job"})),
		late: obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "levee_job_late_seconds",
			Help: "From the time a job was due to its start.", Buckets: prometheus.ExponentialBuckets(0.0005, 5, 9)}, []string{"pool"})),
		running: obs.Register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "levee_job_running_jobs",
			Help: "Slots in use."}, []string{"pool"})),
		rescued: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_job_rescued_total",
			Help: "Jobs whose lease ran out and that were taken back."})),
		stuck: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_job_stuck_total",
			Help: "Runs that did not return long after their timeout; each keeps a goroutine."})),
		dropped: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_job_events_dropped_total",
			Help: "Events that a slow listener did not get."})),
	}
}

func (m *metrics) kind(name string) *kindMetrics {
	if k, ok := m.kinds.Load(name); ok {
		return k.(*kindMetrics)
	}
	enqueued := m.enqueued.WithLabelValues(name)
	k := &kindMetrics{enqueued: enqueued, enqueuedOne: enqueued.Inc, seconds: m.seconds.WithLabelValues(name),
		outcomes: map[string]prometheus.Counter{}}
	for _, o := range []string{outcomeDone, outcomeRetry, outcomeDead, outcomeSnoozed, outcomeInterrupted, outcomeLost, outcomeCancelled} {
		k.outcomes[o] = m.finished.WithLabelValues(name, o)
	}
	m.kinds.Store(name, k)
	return k
}
