package cache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"levee/internal/platform/obs"
)

// sharedMetrics are what a cache of two levels counts.
type sharedMetrics struct {
	second, absent, stale, behind, refused, shed, waited, renewed, large, lost, heard, tombstones, filtered prometheus.Counter
	samples                                                                                                 *prometheus.CounterVec
	ok, fail                                                                                                prometheus.Observer
}

func (m *sharedMetrics) load(d time.Duration, err error) {
	if err != nil {
		m.fail.Observe(d.Seconds())
		return
	}
	m.ok.Observe(d.Seconds())
}

func (s *Shared[K, V]) register(r prometheus.Registerer) {
	count := func(name, help string) prometheus.Counter {
		return obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"cache"})).WithLabelValues(s.cfg.Name)
	}
	s.m.absent = count("levee_cache_absent_total", "Reads answered with: there is no such thing.")
	s.m.second = count("levee_cache_second_hits_total", "Reads answered from Redis.")
	s.m.stale = count("levee_cache_stale_total", "Reads answered from a copy past its time, because Redis or the database did not answer.")
	s.m.behind = count("levee_cache_behind_total", "Loads that a replica answered with an older version than is known, and the primary then.")
	s.m.refused = count("levee_cache_refused_total", "Loaded values that Redis did not take, because it had something newer or the load took too long.")
	s.m.shed = count("levee_cache_shed_total", "Reads refused to spare the database.")
	s.m.waited = count("levee_cache_waits_total", "Pauses in which another process was loading the key.")
	s.m.renewed = count("levee_cache_renewed_total", "Values loaded in the background before their end.")
	s.m.large = count("levee_cache_large_total", "Values that Redis is not given, because they are too large or no UTF-8: kept in this process alone.")
	s.m.lost = count("levee_cache_lost_total", "Moments in which messages of other nodes may have been lost: the first level was read again.")
	s.m.heard = count("levee_cache_heard_total", "Changes heard of over the messages, this node's own included.")
	s.m.tombstones = count("levee_cache_tombstones_total", "Reads of the second level that found that the key was changed, and nothing loaded since.")
	s.m.filtered = count("levee_cache_filtered_total", "Reads of ids that were never given away, answered by the filter.")
	s.m.samples = obs.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_cache_samples_total",
		Help: "Reads that were looked into a second later, by result: ok, stale (still served, and the primary had something newer), ahead (newer than the primary), error.",
	}, []string{"cache", "result"}))
	loads := obs.Register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "levee_cache_load_seconds", Help: "Time of loads by result (ok, error); absence is ok.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 4, 9), // 50 µs to 3.3 s
	}, []string{"cache", "result"}))
	s.m.ok, s.m.fail = loads.WithLabelValues(s.cfg.Name, "ok"), loads.WithLabelValues(s.cfg.Name, "error")

	labels := prometheus.Labels{"cache": s.cfg.Name}
	newest(r, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_cache_hits_total", Help: "Reads answered from a copy, absence included.", ConstLabels: labels,
	}, func() float64 { return float64(s.counts.Snapshot().Hits) }))
	newest(r, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_cache_misses_total", Help: "Reads that began a load or waited for one.", ConstLabels: labels,
	}, func() float64 { return float64(s.counts.Snapshot().Misses) }))
	newest(r, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "levee_cache_evictions_total", Help: "Copies pushed out by others before their time.", ConstLabels: labels,
	}, func() float64 { return float64(s.counts.Snapshot().Evictions) }))
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_entries_count", Help: "Copies kept, with those that have expired and are not yet cleared.", ConstLabels: labels,
	}, func() float64 { return float64(s.first.EstimatedSize()) }))
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_hot_count", Help: "Keys that each get more than a 64th of this node's reads.", ConstLabels: labels,
	}, func() float64 { return float64(len(s.Hot())) }))
	if s.filter != nil {
		newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "levee_cache_filter_count", Help: "Ids in the filter; 0 while it lets everything through.", ConstLabels: labels,
		}, func() float64 {
			if now := s.filter.now.Load(); now != nil {
				return float64(now.count.Load())
			}
			return 0
		}))
	}
	if s.remote == nil {
		return
	}
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_unfilled_count", Help: "1 while the second level is not filled, because hardly anything was found there.", ConstLabels: labels,
	}, func() float64 {
		if s.worth.idle.Load() {
			return 1
		}
		return 0
	}))
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_away_count", Help: "1 while Redis is not asked because it does not answer.", ConstLabels: labels,
	}, func() float64 {
		if s.remote.away.Load() {
			return 1
		}
		return 0
	}))
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_owed_count", Help: "Changes that Redis has not taken yet.", ConstLabels: labels,
	}, func() float64 {
		s.sender.mu.Lock()
		defer s.sender.mu.Unlock()
		return float64(len(s.sender.owed))
	}))
	newest(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "levee_cache_heartbeat_age_seconds", Help: "Time since this node last heard itself over the messages between nodes.", ConstLabels: labels,
	}, func() float64 { return (time.Since(s.clock.begin) - time.Duration(s.heard.Load())).Seconds() }))
}

// payload returns the text of a published message.
func payload(message any) (string, bool) {
	m, ok := message.(*goredis.Message)
	if !ok {
		return "", false
	}
	return m.Payload, true
}
