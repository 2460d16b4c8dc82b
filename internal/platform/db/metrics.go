package db

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// metrics are shared by all databases opened over one registry.
type metrics struct {
	commitSeconds prometheus.Histogram
	members       prometheus.Histogram
	rolledBack    prometheus.Counter
	failed        prometheus.Counter
	reruns        prometheus.Counter
	unknown       prometheus.Counter
	queue         prometheus.Gauge
	checkpoint    prometheus.Histogram
	pause         prometheus.Histogram
	wal           prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	seconds := prometheus.ExponentialBuckets(0.00005, 2, 16) // 50 µs to 1.6 s
	return &metrics{
		commitSeconds: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_db_commit_seconds", Help: "Time of one COMMIT, with its flush of the disk.", Buckets: seconds})),
		members: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_db_commit_members", Help: "Transactions in one commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)})),
		rolledBack: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_db_rolled_back_total", Help: "Transactions whose function failed."})),
		failed: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_db_failed_groups_total", Help: "Groups (MySQL: transactions) that could not be begun or committed."})),
		reruns: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_db_reruns_total", Help: "Transactions run again on MySQL after a deadlock, a lock's timeout or a lost connection."})),
		unknown: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_db_unknown_commits_total", Help: "Commits on MySQL whose answer was lost."})),
		queue: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "levee_db_queue_transactions", Help: "Transactions waiting for a writer, seen at the last commit (MySQL: at the last wait)."})),
		checkpoint: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_db_checkpoint_seconds", Help: "Time of one checkpoint beside the writer.", Buckets: seconds})),
		pause: obs.Register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_db_checkpoint_pause_seconds", Help: "Time that the writer stood still for a checkpoint's end.", Buckets: seconds})),
		wal: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "levee_db_wal_pages", Help: "Pages in the write-ahead log, seen at the last checkpoint."})),
	}
}
