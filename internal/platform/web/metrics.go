package web

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	inflight  prometheus.Gauge
	panics    prometheus.Counter
	forwarded prometheus.Counter
	conns     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		requests: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_web_requests_total", Help: "Requests by route and class of status (2xx).",
		}, []string{"route", "class"})),
		seconds: obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "levee_web_request_seconds", Help: "Time from the request's headers to the end of its answer, by route.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15},
		}, []string{"route"})),
		inflight: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "levee_web_inflight_requests", Help: "Requests being answered now.",
		})),
		panics: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_web_panics_total", Help: "Handlers that panicked.",
		})),
		forwarded: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_web_forwarded_total", Help: "Requests that were taken to the node that keeps what they are about.",
		})),
		conns: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "levee_web_connections_current", Help: "Open connections.",
		})),
	}
}

// routeMetrics are the counters of one route, looked up once.
type routeMetrics struct {
	class   [6]prometheus.Counter
	seconds prometheus.Observer
}

func (m *metrics) route(name string) routeMetrics {
	rm := routeMetrics{seconds: m.seconds.WithLabelValues(name)}
	for i, class := range [...]string{"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		rm.class[i] = m.requests.WithLabelValues(name, class)
	}
	return rm
}
