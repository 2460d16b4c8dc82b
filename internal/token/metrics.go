package token

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// metrics shows whether signatures hold up refreshes, and how old the key is.
type metrics struct{ shed prometheus.Counter }

func newMetrics(r *prometheus.Registry, s *Service) *metrics {
	m := &metrics{shed: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "levee_token_sign_shed_total", Help: "Access tokens that were not made because too many callers waited for a signature."}))}
	gauge := func(name, help string, value func() float64) {
		obs.Register[prometheus.GaugeFunc](r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("levee_token_sign_waiting_count", "Callers that wait for a signature or have one made.", func() float64 { return float64(s.waiting.Load()) })
	gauge("levee_token_key_age_seconds", "How long the key that signs access tokens has been signing; 0 while none does.", func() float64 {
		r, now := s.ring.Load(), s.now()
		if r == nil {
			return 0
		}
		if k := r.signer(now); k != nil && k != r.house {
			return now.Sub(k.signs).Seconds()
		}
		return 0
	})
	return m
}
