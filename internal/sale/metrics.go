package sale

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/gate"
	"levee/internal/platform/obs"
)

type metrics struct {
	verdicts   [gate.Away + 1]prometheus.Counter
	outcomes   *prometheus.CounterVec
	batch      prometheus.Histogram
	seconds    prometheus.Histogram
	imbalances prometheus.Counter
	repairs    prometheus.Counter
}

// newMetrics registers the room's metrics. fast tells how many attempts the switches have refused.
func newMetrics(o *obs.Obs, fast func() float64) *metrics {
	verdicts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_sale_gate_verdicts_total", Help: "Decisions of the gate by verdict."}, []string{"verdict"})
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_sale_settled_total", Help: "Settled purchases by outcome."}, []string{"outcome"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_sale_settle_purchases", Help: "Purchases in one settlement.", Buckets: prometheus.ExponentialBuckets(1, 2, 13)}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_sale_settle_seconds", Help: "Time of one settlement with its commit.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 14)}),
		imbalances: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_sale_imbalances_total", Help: "Reconciliations that found books which do not balance. Must stay 0."}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_sale_gate_repairs_total", Help: "Gates that differed from SQL and were loaded anew."}),
	}
	refused := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_sale_refused_fast_total", Help: "Attempts refused by the switch alone."}, fast)
	for v, name := range [...]string{gate.Taken: "taken", gate.SoldOut: "sold_out", gate.Known: "known", gate.OverLimit: "limit_reached",
		gate.Running: "running", gate.Cold: "not_warmed", gate.Full: "full", gate.Away: "away"} {
		m.verdicts[v] = verdicts.WithLabelValues(name)
	}
	o.Metrics.MustRegister(verdicts, m.outcomes, m.batch, m.seconds, m.imbalances, m.repairs, refused)
	return m
}

func (m *metrics) settled(batch []*gate.Taking, took time.Duration) {
	var won, again, refused float64
	for _, t := range batch {
		switch {
		case t.Result.Existing != 0:
			again++
		case t.Result.Err != nil:
			refused++
		default:
			won++
		}
	}
	m.outcomes.WithLabelValues("won").Add(won)
	m.outcomes.WithLabelValues("repeated").Add(again)
	m.outcomes.WithLabelValues("refused").Add(refused)
	m.batch.Observe(float64(len(batch)))
	m.seconds.Observe(took.Seconds())
}
