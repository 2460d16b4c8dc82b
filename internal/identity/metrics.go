package identity

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// metrics counts what an operator needs to see in a login flood or when tokens start to fail.
type metrics struct {
	signIns   *prometheus.CounterVec // by result: ok, refused, limited, disabled, second_factor
	refreshes *prometheus.CounterVec // by result: rotated, grace, refused, reused
	checks    *prometheus.CounterVec // signature checks by result: ok, refused; cached verifications are not counted
	hash      prometheus.Histogram
	shed      prometheus.Counter
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_identity_sign_ins_total", Help: "Sign-in attempts by result."}, []string{"result"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_identity_refreshes_total", Help: "Refresh attempts by result."}, []string{"result"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_identity_token_checks_total", Help: "Credentials that were not in the cache, by result."}, []string{"result"}),
		hash: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_identity_hash_seconds", Help: "Time of one password hash, waiting not counted.",
			Buckets: []float64{.01, .02, .04, .08, .16, .32, .64, 1.28}}),
		shed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_identity_hash_shed_total", Help: "Password checks refused because the queue was full."}),
	}
	m.signIns, m.refreshes, m.checks = obs.Register(r, m.signIns), obs.Register(r, m.refreshes), obs.Register(r, m.checks)
	m.hash, m.shed = obs.Register(r, m.hash), obs.Register(r, m.shed)
	return m
}

func (m *metrics) watch(r *prometheus.Registry, s *Service) {
	gauge := func(name, help string, value func() float64) {
		obs.Register[prometheus.GaugeFunc](r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("levee_identity_hash_waiting_count", "Callers that wait for a password hash.",
		func() float64 { return float64(s.hasher.waiting.Load()) })
	gauge("levee_identity_verified_tokens_count", "Access tokens in the cache of verified ones.",
		func() float64 { return float64(s.tokens.Len()) })
	gauge("levee_identity_live_sessions_count", "Sessions whose state is kept in memory.",
		func() float64 { return float64(s.live.len()) })
}
