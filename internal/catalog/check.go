package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
)

// newDriftGauge registers the number that an alert should stand on.
func newDriftGauge(r prometheus.Registerer) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "levee_catalog_drifts_count",
		Help: "SKUs whose stock was not the sum of their movements when it was last checked (at most 100 are counted). Not 0 is a defect."})
	r.MustRegister(g)
	return g
}

// Jobs returns the room's timed work: once a day stock is compared with its ledger.
func (s *Service) Jobs() []job.Registration {
	o := job.Options{Timeout: 10 * time.Minute, MaxAttempts: 3}
	return []job.Registration{job.Every("catalog.check_stock", 24*time.Hour, o, s.checkStock)}
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
