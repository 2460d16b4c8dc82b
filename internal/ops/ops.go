// Package ops is the machinery of the house as its administrators see it: background jobs, schedules and events, shown, stopped, let go on and
// tried again. It owns no tables and decides nothing itself: platform/job, platform/schedule and platform/event do. What it adds is who may, the
// trail, and that arguments are shown without what is secret in them.
package ops

import (
	"context"
	"log/slog"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/schedule"
)

// Audit writes an act of the context's actor into the trail, in the caller's transaction. Before and after are values that encode to JSON.
type Audit func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error

// Deps are what the room is built from.
type Deps struct {
	DB        *db.DB
	Sealer    *id.Sealer
	Obs       *obs.Obs
	Jobs      *job.Jobs
	Schedules *schedule.Schedules
	Events    *event.Bus
	Audit     Audit
}

// Service is the room, made by New.
type Service struct {
	Deps
	clock obs.Clock
	log   *slog.Logger
}

// New makes the room.
func New(d Deps) *Service { return &Service{Deps: d, clock: d.Obs.Clock, log: d.Obs.Named("ops")} }

// act does something to the machinery. The trail has it before it is done: what is done and not told would be worse than what is told and, with the
// process dying between, not done. An act that is refused stands there too, as it was asked for.
func (s *Service) act(ctx context.Context, what, subject string, before, after any, do func(ctx context.Context) error) error {
	err := s.DB.Tx(ctx, "ops.act", func(ctx context.Context, tx *db.Tx) error { return s.Audit(ctx, tx, what, subject, before, after) })
	if err != nil {
		return err
	}
	return do(ctx)
}

// masked is a JSON text without what is secret in it. What is no JSON is not shown at all.
func masked(text string) any {
	if text == "" {
		return nil
	}
	clean, err := obs.CleanJSON([]byte(text))
	if err != nil {
		return "(no JSON)"
	}
	return clean
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
