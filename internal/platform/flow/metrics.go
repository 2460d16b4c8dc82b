package flow

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	started      prometheus.Counter
	ended, steps *prometheus.CounterVec
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		started: obs.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "levee_flow_started_total", Help: "Flows that were started on this node."})),
		ended: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_flow_ended_total",
			Help: "Flows that are over, by how they ended, on the node that wrote it."}, []string{"outcome"})),
		steps: obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_flow_steps_total",
			Help: "Steps of flows that are over, by how they ended; dead: it waits for a person."}, []string{"outcome"})),
	}
	for _, s := range []State{Done, Failed, Cancelled} {
		m.ended.WithLabelValues(string(s))
	}
	for _, s := range []State{Done, Failed, Cancelled, Dead, Skipped} {
		m.steps.WithLabelValues(string(s))
	}
	return m
}
