package line

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	steps *prometheus.CounterVec // entries by the state they came to
	draw  prometheus.Histogram
}

func newMetrics(r *prometheus.Registry) *metrics {
	return &metrics{
		steps: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_line_steps_total", Help: "Entries of waiting lists and draws, by the state they came to."}, []string{"to"})),
		draw: obs.Register[prometheus.Histogram](r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_line_draw_seconds", Help: "Time from the freezing of a draw's entries to its published results.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}})),
	}
}
