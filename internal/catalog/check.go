package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/platform/schedule"
)

// newDriftGauge registers the number that an alert should stand on.
func newDriftGauge(r prometheus.Registerer) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_catalog_drifts_count",
		Help: "SKUs whose stock was not the sum of their movements when it was last checked (at most 100 are counted). Not 0 is a defect."})
	r.MustRegister(g)
	return g
}

// Work returns the room's timed work: once a day stock is compared with its ledger, and while it differs each hour.
func (s *Service) Work() []schedule.Work {
	o := job.Options{Timeout: 10 * time.Minute, Backoff: func(int) time.Duration { return time.Hour }}
	return []schedule.Work{schedule.Every("catalog.check_stock", 24*time.Hour, o, s.checkStock)}
}

// Listeners returns nil: the catalog follows nobody.
func (s *Service) Listeners() []event.Listener { return nil }

func (s *Service) checkStock(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "catalog.checkStock()")
	found, err := s.Drifts(ctx)
	if err != nil {
		return err
	}
	s.drifts.Set(float64(len(found)))
	if len(found) > 0 {
		return fmt.Errorf("%d SKUs have another stock than their ledger; the first: %+v", len(found), found[0])
	}
	return nil
}
