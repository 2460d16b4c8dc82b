package cache

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

// register adds the cache's metrics. Hits and misses are read from the cache's own striped counters when the page is made:
// one counter that all readers change would cost as much as the read.
func (c *Cache[K, V]) register(r prometheus.Registerer) {
	labels := prometheus.Labels{"cache": c.cfg.Name}
	newest(r, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_cache_hits_total", Help: "Reads answered from a copy, absence included.", ConstLabels: labels,
	}, func() float64 { return float64(c.counts.Snapshot().Hits) }))
	newest(r, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_cache_misses_total", Help: "Reads that began a load or waited for one.", ConstLabels: labels,
	}, func() float64 {
		slow := c.slow.Load() // first, so that the difference is never below zero
		return float64(c.counts.Snapshot().Misses - slow)
	}))
	newest(r, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_cache_evictions_total", Help: "Copies pushed out by others before their time.", ConstLabels: labels,
	}, func() float64 { return float64(c.counts.Snapshot().Evictions) }))
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_entries_count", Help: "Copies kept, with those that have expired and are not yet cleared.", ConstLabels: labels,
	}, func() float64 { return float64(c.entries.EstimatedSize()) }))
	c.negative = obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_cache_absent_total", Help: "Reads answered with: there is no such thing.",
	}, []string{"cache"})).WithLabelValues(c.cfg.Name)
	loads := obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "levee_cache_load_seconds", Help: "Time of loads by result (ok, error); absence is ok.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 4, 9), // 50 µs to 3.3 s
	}, []string{"cache", "result"}))
	c.ok, c.fail = loads.WithLabelValues(c.cfg.Name, "ok"), loads.WithLabelValues(c.cfg.Name, "error")
}

// newest registers a metric that reads from one cache, in place of an older cache's of the same name.
func newest(r prometheus.Registerer, c prometheus.Collector) {
	r.Unregister(c)
	r.MustRegister(c)
}

// logger hands the library's complaints to our log.
type logger struct{ log *slog.Logger }

func (l logger) Warn(ctx context.Context, msg string, err error) {
	l.log.WarnContext(ctx, msg, "error", err)
}

func (l logger) Error(ctx context.Context, msg string, err error) {
	l.log.ErrorContext(ctx, msg, "error", err)
}
