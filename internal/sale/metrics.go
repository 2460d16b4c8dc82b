package sale

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	verdicts   [verdictFull + 1]prometheus.Counter
	outcomes   *prometheus.CounterVec
	batch      prometheus.Histogram
	seconds    prometheus.Histogram
	imbalances prometheus.Counter
	repairs    prometheus.Counter
	fast       prometheus.Counter

	refusedFast atomic.Int64 // since the last line in the log
}

func newMetrics(o *obs.Obs) *metrics {
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
		fast: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_sale_refused_fast_total", Help: "Attempts refused by the switch alone."}),
	}
	for v, name := range [...]string{verdictTaken: "taken", verdictSoldOut: "sold_out", verdictKnown: "known", verdictLimit: "limit_reached",
		verdictRunning: "running", verdictCold: "not_warmed", verdictFull: "full"} {
		m.verdicts[v] = verdicts.WithLabelValues(name)
	}
	o.Metrics.MustRegister(verdicts, m.outcomes, m.batch, m.seconds, m.imbalances, m.repairs, m.fast)
	return m
}

func (m *metrics) settled(batch []*taking, took time.Duration) {
	var won, again, refused float64
	for _, t := range batch {
		switch {
		case t.result.existing != 0:
			again++
		case t.result.err != nil:
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

// flushRefusals writes one line for all that the switch refused since the last one: a line each would cost more than the
// refusals do.
func (m *metrics) flushRefusals(log *slog.Logger) {
	if n := m.refusedFast.Swap(0); n > 0 {
		m.fast.Add(float64(n))
		log.Debug("attempts refused by the switch", "attempts", n)
	}
}
