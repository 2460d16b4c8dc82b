package admission

import (
	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/platform/obs"
)

type metrics struct {
	entered     prometheus.Counter
	tokensGiven prometheus.Counter
	refused     [refusedKinds]prometheus.Counter
	challenges  [2]prometheus.Counter // work, picture
	answers     [2]prometheus.Counter // right, wrong
	failures    prometheus.Counter
	pictures    prometheus.Histogram
	tick        prometheus.Histogram
}

func newMetrics(o *obs.Obs, s *Service) *metrics {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_admission_refused_total", Help: "Who got neither a token nor a place, by why."}, []string{"why"})
	challenges := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_admission_challenges_total", Help: "Challenges given, by kind."}, []string{"kind"})
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_admission_answers_total", Help: "Answers to challenges, by result."}, []string{"result"})
	m := &metrics{
		entered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_admission_entered_total", Help: "Places given in waiting rooms."}),
		tokensGiven: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_admission_tokens_total", Help: "Admission tokens given, repetitions not counted."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_admission_store_failures_total", Help: "Reads and writes of waiting rooms that failed and are tried again."}),
		pictures: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_admission_picture_seconds", Help: "Time to draw one picture.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 10)}),
		tick: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "levee_admission_tick_seconds", Help: "Time of one step of one waiting room.", Buckets: prometheus.ExponentialBuckets(0.000002, 4, 10)}),
	}
	for i, name := range refusedNames {
		m.refused[i] = refused.WithLabelValues(name)
	}
	m.challenges[0], m.challenges[1] = challenges.WithLabelValues(BrakeWork), challenges.WithLabelValues(BrakePicture)
	m.answers[0], m.answers[1] = answers.WithLabelValues("right"), answers.WithLabelValues("wrong")
	sum := func(f func(q *queue) float64) func() float64 {
		return func() (total float64) {
			for _, r := range *s.rooms.Load() {
				r.mu.Lock()
				if r.q != nil {
					total += f(r.q)
				}
				r.mu.Unlock()
			}
			return total
		}
	}
	gauge := func(name, help string, f func(q *queue) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, sum(f))
	}
	counter := func(name, help string, f func(q *queue) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, sum(f))
	}
	o.Metrics.MustRegister(m.entered, m.tokensGiven, m.failures, m.pictures, m.tick, refused, challenges, answers,
		gauge("levee_admission_waiting", "People who wait now, in all waiting rooms.", func(q *queue) float64 { return float64(q.size()) }),
		gauge("levee_admission_places", "Places that are kept now.", func(q *queue) float64 { return float64(len(q.places)) }),
		gauge("levee_admission_slots", "Turns called and tokens unspent now.", func(q *queue) float64 { return float64(q.held) }),
		gauge("levee_admission_expected", "People who were in line before a restart and are not back.", func(q *queue) float64 { return float64(q.ghosts) }),
		counter("levee_admission_admitted", "Turns called, of the sales that are open now.", func(q *queue) float64 { return float64(q.admitted) }),
		counter("levee_admission_missed", "Turns that nobody picked up, of the sales that are open now.", func(q *queue) float64 { return float64(q.missed) }),
		counter("levee_admission_left", "Places given up, of the sales that are open now.", func(q *queue) float64 { return float64(q.left) }),
		counter("levee_admission_restored", "Places brought back by a ticket or lot, of the sales that are open now.", func(q *queue) float64 { return float64(q.restored) }),
		counter("levee_admission_unspent", "Tokens that expired unspent, of the sales that are open now.", func(q *queue) float64 { return float64(q.expired) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "levee_admission_challenges_remembered", Help: "Answered challenges that are remembered."},
			func() float64 { return float64(s.tried.size()) }),
	)
	return m
}
