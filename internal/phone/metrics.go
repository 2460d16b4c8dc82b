package phone

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct{ asked, messages, used *prometheus.CounterVec }

func newMetrics(r *prometheus.Registry) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	return &metrics{
		asked: counter("levee_phone_asked_total", "Codes by SMS that were asked for, by purpose and result (ok, limited).", "purpose", "result"),
		messages: counter("levee_phone_messages_total", "Messages by what the provider said: ok, number, limited, refused, again (it is tried again), "+
			"unclear (nobody knows), late (the code was too old).", "result"),
		used: counter("levee_phone_used_total", "Codes that were shown, by purpose and result (ok, wrong).", "purpose", "result"),
	}
}
