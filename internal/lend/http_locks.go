package lend

import (
	"context"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/lock"
	"levee/internal/platform/web"
)

func (s *Service) lockRoutes(srv *web.Server) {
	const tag = "locks"
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/locks/{name}/leases", ID: "takeLock", Tag: tag, Status: 201, Quiet: true, BodyMax: 1 << 10, Timeout: waitMost + 10*time.Second,
		Errors: []int{401, 404, 409, 422, 503}, Summary: "Take a lock, for programs",
		Description: "For programs that lend.clients names, with Authorization: Bearer SECRET. First come, first served; 409 when it is not free within wait_ms. No process " +
			"holds the lease: it ends ttl_ms after it was taken or last renewed, or when it is given back. Who was paused for longer works on beside the next holder, " +
			"so let what is protected remember the highest fence and refuse lower ones, before the first read. What a lost answer gave ends by its ttl_ms."}, s.postLease)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/locks/{name}/leases/{lease}/renewals", ID: "renewLock", Tag: tag, Quiet: true,
		Errors: []int{401, 404, 410, 422, 503}, Summary: "Renew a lease for its ttl_ms from now",
		Description: "Any node renews it, up to ends_at. 410: it is over, and another may hold the lock. Renew when a third of ttl_ms has passed, so that two renewals may fail."}, s.postRenewal)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/locks/{name}/leases/{lease}", ID: "releaseLock", Tag: tag, Status: 204, Quiet: true,
		Errors: []int{401, 404, 410, 422, 503}, Summary: "Give a lease back",
		Description: "410: it was over before, and what was done since may have met another holder's work."}, s.deleteLease)
}

type leaseView struct {
	Lease       string    `json:"lease" doc:"For renewals and for giving it back: only this program may, at any node"`
	Name        string    `json:"name"`
	Fence       uint64    `json:"fence" doc:"Higher with every grant of this lock; below 2^53"`
	ExpiresInMS int64     `json:"expires_in_ms" doc:"How long it lasts without a renewal, counted from when this answer was sent"`
	EndsAt      time.Time `json:"ends_at" doc:"It is not renewed beyond"`
	Links       leaseLink `json:"links"`
}

type leaseLink struct {
	Self string `json:"self"`
}

func (s *Service) viewLease(program string, t lock.Ticket) leaseView {
	v := leaseView{Lease: s.seal(program, t), Name: strings.TrimPrefix(t.Name, lockPrefix), Fence: t.Fence, ExpiresInMS: max(0, time.Until(t.Expires).Milliseconds()), EndsAt: t.Ends.UTC()}
	v.Links.Self = "/v1/locks/" + v.Name + "/leases/" + v.Lease
	return v
}

type takeInput struct {
	Authorization string `header:"Authorization" maxLength:"8192" doc:"Bearer and the program's secret"`
	Name          string `path:"name" minLength:"1" maxLength:"128" pattern:"^[A-Za-z0-9][A-Za-z0-9._:-]*$" doc:"Letters, digits and ._:- with a letter or digit first"`
	Body          struct {
		WaitMS    int64 `json:"wait_ms,omitempty" minimum:"0" maximum:"60000" doc:"How long to wait for one's turn; 0, the default: not at all"`
		TTLMS     int64 `json:"ttl_ms,omitempty" minimum:"100" maximum:"3600000" default:"10000" doc:"How long it lasts without a renewal"`
		MaxHoldMS int64 `json:"max_hold_ms,omitempty" minimum:"100" maximum:"604800000" default:"600000" doc:"How long it is renewed at most"`
		Shared    bool  `json:"shared,omitempty" doc:"A read lock: up to 1,000 holders, and none that is not shared beside them"`
		Permits   int   `json:"permits,omitempty" minimum:"1" maximum:"1000" default:"1" doc:"One of so many places; all who use the lock should say the same number"`
	}
}

type leaseOutput struct {
	Location string `header:"Location"`
	Body     leaseView
}

func (s *Service) postLease(ctx context.Context, in *takeInput) (*leaseOutput, error) {
	program, err := s.callerBy(in.Authorization)
	if err != nil {
		return nil, err
	}
	b := &in.Body
	opts := []lock.Option{lock.TTL(time.Duration(b.TTLMS) * time.Millisecond), lock.MaxHold(time.Duration(b.MaxHoldMS) * time.Millisecond), lock.Permits(b.Permits)}
	if b.Shared {
		if b.Permits != 1 {
			return nil, levee.Invalid("body.permits", "left out with shared", b.Permits)
		}
		opts = append(opts, lock.Shared())
	}
	t, err := s.take(ctx, program, in.Name, time.Duration(b.WaitMS)*time.Millisecond, opts...)
	if err != nil {
		s.leases.WithLabelValues(program, "refused").Inc()
		return nil, err
	}
	s.leases.WithLabelValues(program, "granted").Inc()
	v := s.viewLease(program, t)
	return &leaseOutput{v.Links.Self, v}, nil
}

type leaseInput struct {
	Authorization string `header:"Authorization" maxLength:"8192" doc:"Bearer and the program's secret"`
	Name          string `path:"name" minLength:"1" maxLength:"128" pattern:"^[A-Za-z0-9][A-Za-z0-9._:-]*$" doc:"Letters, digits and ._:- with a letter or digit first"`
	Lease         string `path:"lease" maxLength:"600" doc:"As it was given"`
}

type renewalOutput struct{ Body leaseView }

func (s *Service) postRenewal(ctx context.Context, in *leaseInput) (*renewalOutput, error) {
	program, err := s.callerBy(in.Authorization)
	if err != nil {
		return nil, err
	}
	t, err := s.unseal(program, in.Name, in.Lease)
	if err != nil {
		return nil, err
	}
	if t, err = s.Locks.Renew(ctx, t); err != nil {
		return nil, s.goneOr(err, program, in.Name)
	}
	return &renewalOutput{s.viewLease(program, t)}, nil
}

func (s *Service) deleteLease(ctx context.Context, in *leaseInput) (*struct{}, error) {
	program, err := s.callerBy(in.Authorization)
	if err != nil {
		return nil, err
	}
	t, err := s.unseal(program, in.Name, in.Lease)
	if err != nil {
		return nil, err
	}
	return nil, s.goneOr(s.Locks.GiveBack(ctx, t), program, in.Name)
}

// goneOr says of a lost lease what its program calls it.
func (s *Service) goneOr(err error, program, name string) error {
	if levee.CodeOf(err) == levee.CodeGone {
		s.leases.WithLabelValues(program, "lost").Inc()
		return levee.E(levee.CodeGone, "the lease of the lock %q is over; another may hold it", name).Because(err)
	}
	return err
}
