package federation

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// metrics counts how ways to third parties end.
type metrics struct {
	answers *prometheus.CounterVec // by provider and reason
}

func newMetrics(r *prometheus.Registry) *metrics {
	return &metrics{answers: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_federation_answers_total", Help: "Answers of third parties that people came back with, by provider and how they ended."},
		[]string{"provider", "result"}))}
}
