package redis

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	reg               *prometheus.Registry
	own               []prometheus.Collector // that read from this client
	command, pipeline prometheus.Observer
	errors            *prometheus.CounterVec
	trips             prometheus.Counter
	sent, heard, lost *prometheus.CounterVec
}

func newMetrics(reg *prometheus.Registry, c *Client) *metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return obs.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_redis_" + name, Help: help}, []string{label}))
	}
	seconds := obs.Register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "levee_redis_call_seconds", Help: "Time of calls that were let through, by kind (command, pipeline).",
		Buckets: prometheus.ExponentialBuckets(50e-6, 3, 10), // 50 µs to 1 s
	}, []string{"kind"}))
	m := &metrics{
		reg: reg, command: seconds.WithLabelValues("command"), pipeline: seconds.WithLabelValues("pipeline"),
		errors: counters("errors_total", "Calls without use, by reason: timeout, network, server (it cannot serve), breaker (not tried).", "reason"),
		trips: obs.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_redis_trips_total", Help: "How often a server was found to be away.",
		})),
		sent:  counters("bus_sent_total", "Messages to other nodes.", "bus"),
		heard: counters("bus_heard_total", "Messages of other nodes.", "bus"),
		lost:  counters("bus_lost_total", "Times that messages of other nodes may have been missed.", "bus"),
	}
	gauge := func(name, help string, read func() float64) {
		g := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "levee_redis_" + name, Help: help}, read)
		if reg.Register(g) == nil { // a second client on one registry goes without
			m.own = append(m.own, g)
		}
	}
	truth := func(f func() bool) func() float64 {
		return func() float64 {
			if f() {
				return 1
			}
			return 0
		}
	}
	gauge("up", "1 while Redis answers.", truth(c.Healthy))
	gauge("hearing", "1 while the messages of other nodes come in.", truth(c.Hearing))
	gauge("nodes_count", "Processes of the house, as heard.", func() float64 { return float64(c.Nodes()) })
	gauge("connections_count", "Connections for calls.", func() float64 { return float64(c.calls.PoolStats().TotalConns) })
	gauge("connections_idle_count", "Connections for calls that nobody uses.", func() float64 { return float64(c.calls.PoolStats().IdleConns) })
	return m
}

func (m *metrics) close() {
	for _, c := range m.own {
		m.reg.Unregister(c)
	}
}
