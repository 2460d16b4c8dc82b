package access

import (
	"context"
	"fmt"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/permit"
)

// Resource is something that roles are allowed, and who may.
type Resource struct {
	permit.Resource
	// Roles may; DefaultRoles would if nobody had changed it. Both are names, and empty for one that is open.
	Roles, DefaultRoles []string
	// Gone says that the program has it no more; its grants are kept should it come back.
	Gone bool
	// By and At say who last changed it; zero when nobody did.
	By levee.UserID
	At time.Time
}

// Resources lists the resources, those of the program first in its order, then those that are gone. CodeUnavailable when SQL is away.
func (s *Service) Resources(ctx context.Context) (all []Resource, err error) {
	defer levee.Wrap(&err, "access.Resources")
	rows, err := readResources(db.Primary(ctx), s.DB.Query)
	if err != nil {
		return nil, err
	}
	there := map[string]resourceRow{}
	for _, r := range rows {
		there[r.name] = r
	}
	for _, p := range s.Permits.Resources() {
		all = append(all, s.resource(p, there[p.Name]))
		delete(there, p.Name)
	}
	for _, r := range rows {
		if _, gone := there[r.name]; gone {
			v := s.resource(permit.Resource{Name: r.name, Category: r.category, Method: r.method, Route: r.route, Default: r.defaults}, r)
			v.Gone = true
			all = append(all, v)
		}
	}
	return all, nil
}

func (s *Service) resource(p permit.Resource, r resourceRow) Resource {
	v := Resource{Resource: p, Roles: []string{}, DefaultRoles: []string{}, By: r.by, At: r.at}
	if !p.Open {
		v.Roles, v.DefaultRoles = s.Permits.Names(r.allowed&s.Permits.Known()), p.Default.Names()
	}
	return v
}

// Allow lets exactly these roles use a resource. It acts on this node when it returns and on the others within a second, for all who are signed
// in. CodeNotFound for the resource, CodeInvalid for a role that is not there; CodeConflict for a resource that is for anybody and without the
// administrators, who may everything; CodeForbidden where it would give what the actor himself may not.
func (s *Service) Allow(ctx context.Context, resource string, roles []string) (r Resource, err error) {
	defer levee.Wrap(&err, "access.Allow(%s)", levee.Shorten(resource, 60))
	return s.alter(ctx, resource, func(w *world, _ levee.Roles) (levee.Roles, error) {
		var set levee.Roles
		for i, name := range roles {
			role, ok := w.role(name)
			if !ok {
				return 0, levee.Invalid(fmt.Sprintf("roles[%d]", i), "the name of a role", name)
			}
			set |= role
		}
		return set, nil
	})
}

// Grant lets one role more use a resource, or with allowed false one less. Otherwise it is as Allow; CodeNotFound also for the role.
func (s *Service) Grant(ctx context.Context, resource, role string, allowed bool) (r Resource, err error) {
	defer levee.Wrap(&err, "access.Grant(%s, %s, %v)", levee.Shorten(resource, 60), levee.Shorten(role, 40), allowed)
	return s.alter(ctx, resource, func(w *world, now levee.Roles) (levee.Roles, error) {
		one, ok := w.role(role)
		switch {
		case !ok:
			return 0, levee.E(levee.CodeNotFound, "there is no role %q", levee.Shorten(role, 40))
		case allowed:
			return now | one, nil
		}
		return now &^ one, nil
	})
}

func (s *Service) alter(ctx context.Context, resource string, to func(w *world, now levee.Roles) (levee.Roles, error)) (r Resource, err error) {
	err = s.change(ctx, func(w *world) error {
		roles, err := to(w, w.resources[resource].allowed)
		if err != nil {
			return err
		}
		if err := w.allow(resource, roles); err != nil {
			return err
		}
		p, _, _ := s.Permits.Find(resource)
		r = s.resource(p, w.resources[resource])
		return nil
	})
	return r, err
}

// Because is one of somebody's roles, and whether it allows the resource.
type Because struct {
	Role   string
	Allows bool
}

// Explanation is why somebody may use a resource, or why not.
type Explanation struct {
	Resource permit.Resource
	User     identity.User // zero for visitors
	Allowed  bool
	Roles    []Because
	// Others, where the resource is about things that belong to somebody, is whether he also reaches those of other people; his own he always
	// does. OthersBy are the roles that would let him.
	Others   bool
	OthersBy []string
	// Missing says what he lacks: account, enabled, role; "" when he may.
	Missing string
	// Enough are the roles any one of which would do.
	Enough []string
}

// Explain answers why a user may use a resource or why not; user 0 is a visitor. It goes by the table by which this node judges requests.
// CodeNotFound for a resource that the program does not have, and for an account that is not there or that the actor does not reach.
func (s *Service) Explain(ctx context.Context, user levee.UserID, resource string) (e Explanation, err error) {
	defer levee.Wrap(&err, "access.Explain(%d, %s)", user, levee.Shorten(resource, 60))
	p, i, ok := s.Permits.Find(resource)
	if !ok {
		return e, levee.E(levee.CodeNotFound, "there is no resource %q", levee.Shorten(resource, 60))
	}
	e.Resource = p
	if user != 0 {
		if e.User, err = s.Identity.ByID(ctx, user); err != nil {
			return e, err
		}
	}
	allowed := s.Permits.Allowed(i)
	for bit := range permit.MaxRoles {
		if role := levee.Roles(1) << bit; e.User.Roles.Has(role) {
			e.Roles = append(e.Roles, Because{s.Permits.Names(role)[0], p.Open || allowed.Has(role)})
		}
	}
	e.Enough = s.Permits.Names(allowed)
	switch {
	case p.Open:
		e.Enough = []string{}
	case user == 0:
		e.Missing = "account"
	case !s.Permits.May(i, e.User.Roles):
		e.Missing = "role"
	}
	if e.User.Disabled {
		e.Missing = "enabled"
	}
	e.Allowed = e.Missing == ""
	if p.Others != levee.NoAbility {
		_, o, _ := s.Permits.Find(p.Others.String())
		e.Others, e.OthersBy = e.Allowed && s.Permits.May(o, e.User.Roles), s.Permits.Names(s.Permits.Allowed(o))
	}
	return e, nil
}

// Permissions lists what an account may beside what is for anybody: the names of operations and abilities. CodeNotFound for one that is not
// there or that the actor does not reach. A disabled account may nothing.
func (s *Service) Permissions(ctx context.Context, user levee.UserID) (u identity.User, names []string, err error) {
	defer levee.Wrap(&err, "access.Permissions(%d)", user)
	if u, err = s.Identity.ByID(ctx, user); err != nil || u.Disabled {
		return u, []string{}, err
	}
	return u, s.Permits.Granted(u.Roles), nil
}
