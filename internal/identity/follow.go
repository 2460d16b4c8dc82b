package identity

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// The measures of Run.
const (
	followEvery = 500 * time.Millisecond
	// followOverlap is how far back each look goes again: it covers nodes whose clocks differ and transactions that commit late.
	followOverlap = time.Minute
	followPage    = 1000
)

// Run keeps this process true to what other processes of the house commit, until ctx ends: sessions that they ended are refused here
// within a second, and roles that they changed act here within a second. It reads the database twice a second and writes nothing. A
// house of one process needs none of it, and then Run only waits.
func (s *Service) Run(ctx context.Context) error {
	if !s.shared {
		<-ctx.Done()
		return nil
	}
	f := follower{since: s.now()}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.follow(ctx, &f); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "what other nodes changed of sessions and roles cannot be read; it is tried again", "err", err)
			}
		}
	}
}

// follower is how far Run has got.
type follower struct {
	since time.Time              // when the last look that succeeded began
	users map[levee.UserID]int64 // the versions of accounts that it saw, so that the overlap costs nothing
}

// follow takes in what was committed since the last look. What it finds a second time changes nothing.
func (s *Service) follow(ctx context.Context, f *follower) error {
	ctx = db.Primary(ctx)
	began := s.now()
	from := f.since.Add(-followOverlap)
	for at, after := from.UnixMicro(), int64(0); ; {
		page, err := endedSessions(ctx, s.db.Query, at, after, followPage)
		if err != nil {
			return err
		}
		for _, e := range page {
			s.live.end(e.session)
			at, after = e.at, e.session
		}
		if len(page) < followPage {
			break
		}
	}
	seen := map[levee.UserID]int64{}
	for at, after := from.UnixMicro(), int64(0); ; {
		page, err := changedUsers(ctx, s.db.Query, at, after, followPage)
		if err != nil {
			return err
		}
		for _, u := range page {
			if f.users[u.ID] < u.Version {
				if err := s.followUser(ctx, u); err != nil {
					return err
				}
			}
			seen[u.ID] = u.Version
			at, after = u.UpdatedAt.UnixMicro(), int64(u.ID)
		}
		if len(page) < followPage {
			break
		}
	}
	f.since, f.users = began, seen
	return nil
}

// followUser does here what change does after its commit on the node where it ran.
func (s *Service) followUser(ctx context.Context, u User) error {
	sessions, err := unendedSessions(ctx, s.db.Query, u.ID)
	if err != nil {
		return err
	}
	if u.Disabled {
		s.live.end(append(sessions, int64(u.ID))...)
		return nil
	}
	s.live.setRoles(u.Roles, u.Version, sessions...)
	s.live.forget(int64(u.ID))
	return nil
}
