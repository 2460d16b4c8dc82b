package identity

import (
	"context"
	"fmt"
	"strings"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

// parseRoles reads the names of roles; none gives 0.
func (s *Service) parseRoles(names []string) (roles levee.Roles, err error) {
	for i, name := range names {
		role, ok := s.permits.Role(name)
		if !ok {
			return 0, levee.Invalid(fmt.Sprintf("roles[%d]", i), "one of "+strings.Join(s.permits.Names(s.permits.Known()), ", "), name)
		}
		roles |= role
	}
	return roles, nil
}

type userPath struct {
	ID string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
}

type userAnswer struct{ Body userView }

type disableRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
	Body      struct {
		Reason string `json:"reason" doc:"Why, for the other administrators; 1 to 500 characters"`
	}
}

type enableRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
}

type rolesRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
	Body      struct {
		Roles []string `json:"roles" doc:"All roles that the account has from now on" minItems:"1" maxItems:"32"`
	}
}

type setPasswordRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
	Body      struct {
		Password string `json:"password" doc:"8 to 128 characters, hard to guess"`
	}
}

// adminRoutes adds what only administrators may do.
func (s *Service) adminRoutes(w *web.Server) {
	admin := func(method, path, id, summary string, status int, errs ...int) web.Route {
		r := web.Route{Method: method, Path: path, ID: id, Summary: summary, Tag: "administration", Status: status,
			Roles: levee.RoleAdministrator, Limit: limit.Write, BodyMax: 16 << 10, Errors: errs}
		if method == "GET" {
			r.Limit = limit.Read
		}
		if strings.HasPrefix(path, "/v1/users") {
			r.Others = levee.AccountsOfOthers
		}
		return r
	}
	// What gives somebody a way in, or more rights, is not for a program's token.
	fresh := func(r web.Route) web.Route { r.Fresh = true; return r }
	listing.Add(w, admin("GET", "/v1/users", "listUsers", "Accounts, newest first", 200), s.users, s.handleListUsers)
	web.Add(w, admin("GET", "/v1/users/{id}", "getUser", "One account", 200, 404),
		func(ctx context.Context, in *userPath) (*userAnswer, error) {
			return s.onUser(in.ID, func(id levee.UserID) (User, error) { return s.ByID(ctx, id) })
		})
	web.Add(w, fresh(admin("POST", "/v1/users/{id}/disable", "disableUser", "Shut an account and end its sessions at once", 200, 404, 409)),
		func(ctx context.Context, in *disableRequest) (*userAnswer, error) {
			return s.onUser(in.ID, func(id levee.UserID) (User, error) {
				return s.Disable(ctx, id, in.Body.Reason, From(ctx, in.UserAgent))
			})
		})
	web.Add(w, admin("POST", "/v1/users/{id}/enable", "enableUser", "Open a disabled account again", 200, 404),
		func(ctx context.Context, in *enableRequest) (*userAnswer, error) {
			return s.onUser(in.ID, func(id levee.UserID) (User, error) { return s.Enable(ctx, id, From(ctx, in.UserAgent)) })
		})
	web.Add(w, fresh(admin("PUT", "/v1/users/{id}/roles", "setRoles", "Give an account other roles; they act at once", 200, 404, 409)),
		func(ctx context.Context, in *rolesRequest) (*userAnswer, error) {
			roles, err := s.parseRoles(in.Body.Roles)
			if err != nil {
				return nil, problem.InBody(err)
			}
			return s.onUser(in.ID, func(id levee.UserID) (User, error) {
				return s.SetRoles(ctx, id, roles, From(ctx, in.UserAgent))
			})
		})
	web.Add(w, fresh(admin("PUT", "/v1/users/{id}/password", "setPassword", "Give an account a new password and end its sessions", 204, 404, 503)),
		func(ctx context.Context, in *setPasswordRequest) (*struct{}, error) {
			id, err := s.sealer.Open(levee.KindUser, in.ID)
			if err != nil {
				return nil, err
			}
			return nil, problem.InBody(s.SetPassword(ctx, levee.UserID(id), obs.Secret(in.Body.Password), From(ctx, in.UserAgent)))
		})
}

// onUser opens the public id and shows what act returns.
func (s *Service) onUser(public string, act func(id levee.UserID) (User, error)) (*userAnswer, error) {
	id, err := s.sealer.Open(levee.KindUser, public)
	if err != nil {
		return nil, err
	}
	u, err := act(levee.UserID(id))
	if err != nil {
		return nil, problem.InBody(err)
	}
	return &userAnswer{Body: s.viewUser(u)}, nil
}

// after reads the cursor of a list.
func (s *Service) after(kind levee.Kind, public string) (int64, error) {
	if public == "" {
		return 0, nil
	}
	id, err := s.sealer.Open(kind, public)
	if err != nil {
		return 0, levee.Invalid("query.after", "the next of an earlier page", public)
	}
	return id, nil
}

func (s *Service) handleListUsers(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[userView], error) {
	found, err := s.List(ctx, q)
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, s.viewUser), nil
}
