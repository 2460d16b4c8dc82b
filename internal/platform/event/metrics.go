package event

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	emitted                    *prometheus.CounterVec
	delivered, failed, parked  *prometheus.CounterVec
	lag, spent                 *prometheus.HistogramVec
	held                       prometheus.Gauge
	waiting, oldest, now, left *prometheus.GaugeVec
	listeners                  sync.Map // name → *counted
}

// counted is what is measured of one listener in this process.
type counted struct {
	delivered, failed, parked prometheus.Counter
	lag, spent                prometheus.Observer
	rate                      rate
}

func newMetrics(r *prometheus.Registry) *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "levee_event_" + name, Help: help}, []string{label}))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return obs.Register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "levee_event_" + name, Help: help}, []string{"listener"}))
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "levee_event_" + name, Help: help, Buckets: buckets}, []string{"listener"}))
	}
	return &metrics{
		emitted:   counter("emitted_total", "Events written to the outbox, including those rolled back later.", "event"),
		delivered: counter("delivered_total", "Deliveries that committed.", "listener"),
		failed:    counter("failed_total", "Attempts of a delivery that failed.", "listener"),
		parked:    counter("parked_total", "Deliveries given up after the last attempt.", "listener"),
		lag: histogram("lag_seconds", "From the emission of an event, or from its copy for a replay, to the commit of its delivery.",
			prometheus.ExponentialBuckets(0.001, 4, 10)),
		spent: histogram("listener_seconds", "Time in a listener's function, which holds the database's writer.", prometheus.ExponentialBuckets(0.00001, 10, 6)),
		held: obs.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_event_held_events",
			Help: "Events that the relay holds in memory because a delivery of theirs is under way or waits for its next attempt."})),
		waiting: gauge("waiting", "Events that the listener has yet to handle, of those emitted. The node that relays has it, once in 15 s."),
		oldest:  gauge("oldest_seconds", "Age of the oldest of them."),
		now:     gauge("parked", "Deliveries that are parked now."),
		left:    gauge("replay_left", "Numbers of the log that a listener which is behind has yet to go."),
	}
}

func (m *metrics) of(listener string) *counted {
	if c, ok := m.listeners.Load(listener); ok {
		return c.(*counted)
	}
	c, _ := m.listeners.LoadOrStore(listener, &counted{
		delivered: m.delivered.WithLabelValues(listener), failed: m.failed.WithLabelValues(listener), parked: m.parked.WithLabelValues(listener),
		lag: m.lag.WithLabelValues(listener), spent: m.spent.WithLabelValues(listener),
	})
	return c.(*counted)
}

// rate is a count a second, over about the last minute.
type rate struct {
	mu   sync.Mutex
	per  float64
	last time.Time
}

const rateOver = 60.0 // seconds

func (r *rate) add(n int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decay(now)
	r.per += float64(n) / rateOver
}

func (r *rate) get(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.decay(now)
	return r.per
}

func (r *rate) decay(now time.Time) {
	if !r.last.IsZero() {
		r.per *= math.Exp(-max(now.Sub(r.last).Seconds(), 0) / rateOver)
	}
	r.last = now
}

// gauges writes what the tables say into the metrics, as long as the term lasts.
func (t *term) gauges(ctx context.Context) error {
	m := t.b.m
	clear := func() {
		for _, g := range []*prometheus.GaugeVec{m.waiting, m.oldest, m.now, m.left} {
			g.Reset()
		}
	}
	defer clear()
	t.b.pause(ctx, time.Second) // a term that only drains need not read
	for ctx.Err() == nil {
		s, err := t.b.Stats(ctx)
		if err == nil {
			clear()
			for _, l := range s.Listeners {
				m.waiting.WithLabelValues(l.Name).Set(float64(l.Waiting))
				m.oldest.WithLabelValues(l.Name).Set(l.Oldest.Seconds())
				m.now.WithLabelValues(l.Name).Set(float64(l.Parked))
				m.left.WithLabelValues(l.Name).Set(float64(max(l.Replay.Head-l.Replay.At, 0)))
			}
		} else if ctx.Err() == nil {
			t.b.log.WarnContext(ctx, "the state of the listeners could not be read", "err", err)
		}
		t.b.pause(ctx, gaugesEvery)
	}
	return nil
}

const gaugesEvery = 15 * time.Second
