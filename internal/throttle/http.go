package throttle

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

// Routes adds the room's operations. They have no limit themselves: who set one too low must be able to take it back.
func (s *Service) Routes(srv *web.Server) {
	const tag = "administration"
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/limits", ID: "listLimits", Tag: tag, Roles: levee.RoleAdministrator,
		Summary: "All limits and their rates"}, listing.New[limitView](listing.Spec{Name: "limits", Whole: true}), s.getLimits)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/limits/{name}", ID: "getLimit", Tag: tag, Roles: levee.RoleAdministrator,
		Errors: []int{404, 503}, Summary: "One limit and its rate"}, s.getLimit)
	web.Add(srv, web.Route{Method: "PUT", Path: "/v1/limits/{name}", ID: "setLimit", Tag: tag, Roles: levee.RoleAdministrator, BodyMax: 4 << 10,
		Errors: []int{404, 422, 503}, Summary: "Give a limit another rate, at once and on all nodes",
		Description: "Every node goes by it within a second. What was counted stays counted. It outlives restarts, until it is reset."}, s.putLimit)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/limits/{name}", ID: "resetLimit", Tag: tag, Roles: levee.RoleAdministrator, Status: 200,
		Errors: []int{404, 503}, Summary: "Give a limit the rate of the configuration again"}, s.deleteLimit)
}

type limitView struct {
	Name       string     `json:"name"`
	Scope      string     `json:"scope" enum:"address,user,token,account,route,sale,house" doc:"Whose requests are counted together; an IPv6 address by its /64"`
	Rate       string     `json:"rate" doc:"What counts now: 5/d, 10/s burst 20, off"`
	Configured string     `json:"configured" doc:"What the configuration, or else the program, says"`
	Exact      bool       `json:"exact" doc:"No span of the rate's time ever sees more than its count; else it is a bucket that refills evenly"`
	Away       string     `json:"away" enum:"open,share,closed" doc:"What it does while Redis is away: the node's share of the rate rounded up or down, or refuse"`
	ChangedBy  string     `json:"changed_by,omitempty" doc:"Who set the rate; absent when nobody did"`
	ChangedAt  *time.Time `json:"changed_at,omitempty"`
}

func (s *Service) view(l Limit) limitView {
	v := limitView{Name: l.Name.String(), Scope: l.Name.Scope().String(), Rate: l.Rate.String(), Configured: l.Configured.String(),
		Exact: l.Rate.Exact(), Away: s.Limits.WhenAway(l.Name).String()}
	if !l.At.IsZero() {
		v.ChangedBy, v.ChangedAt = s.Sealer.Seal(levee.KindUser, int64(l.By)), &l.At
	}
	return v
}

func (s *Service) getLimits(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[limitView], error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]limitView, len(all))
	for i, l := range all {
		views[i] = s.view(l)
	}
	return listing.Whole(views), nil
}

type limitPath struct {
	Name string `path:"name" maxLength:"40"`
}

type limitAnswer struct {
	ETag string `header:"ETag"`
	Body limitView
}

// version changes with what a change can change.
func version(l Limit) string { return web.Digest(l.Name, l.Rate, l.Configured, l.By, l.At.UnixMicro()) }

func (s *Service) getLimit(ctx context.Context, in *struct {
	Name string `path:"name" maxLength:"40"`
	web.Conditional
}) (*limitAnswer, error) {
	n, err := named(in.Name)
	if err != nil {
		return nil, err
	}
	out, err := s.answer(s.ByName(ctx, n))
	if err != nil {
		return nil, err
	}
	if err := in.NotModified(out.ETag); err != nil {
		return nil, err
	}
	return out, nil
}

type limitRequest struct {
	Name string `path:"name" maxLength:"40"`
	web.Precondition
	Body struct {
		Rate string `json:"rate" minLength:"1" maxLength:"64" doc:"A count per time such as 5/day, 20/s, 5/15m, with a burst: 10/s burst 20; or off"`
	}
}

func (s *Service) putLimit(ctx context.Context, in *limitRequest) (*limitAnswer, error) {
	n, err := named(in.Name)
	if err != nil {
		return nil, err
	}
	r, err := limit.ParseRate(in.Body.Rate)
	if err != nil {
		var e *levee.Error
		if errors.As(err, &e) {
			e.Fields[0].Field = "body.rate"
		}
		return nil, err
	}
	seen := in.Seen(false)
	return s.answer(s.Set(ctx, n, r, func(l Limit) error { return seen(version(l)) }))
}

func (s *Service) deleteLimit(ctx context.Context, in *limitPath) (*limitAnswer, error) {
	n, err := named(in.Name)
	if err != nil {
		return nil, err
	}
	return s.answer(s.Reset(ctx, n))
}

func named(name string) (limit.Name, error) {
	n, ok := limit.ParseName(name)
	if !ok {
		return n, levee.E(levee.CodeNotFound, "there is no limit %q", levee.Shorten(name, 40))
	}
	return n, nil
}

func (s *Service) answer(l Limit, err error) (*limitAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &limitAnswer{ETag: web.Tag(version(l)), Body: s.view(l)}, nil
}
