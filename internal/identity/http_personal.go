package identity

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
	"levee/internal/token"
)

type personalView struct {
	ID        string     `json:"id" doc:"Public id, tok_…"`
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	UsedAt    *time.Time `json:"used_at,omitempty" doc:"Last use, not exact to the hour; absent: never"`
	Links     link       `json:"links"`
}

// PersonalView lets the document see the fields of the view where it is embedded.
type PersonalView = personalView

func (s *Service) viewPersonal(p token.Personal) personalView {
	id := s.sealer.Seal(levee.KindToken, p.ID)
	v := personalView{ID: id, Name: p.Name, Scopes: p.Scopes, CreatedAt: p.CreatedAt, ExpiresAt: p.ExpiresAt, Links: link{Self: "/v1/me/tokens/" + id}}
	if !p.UsedAt.IsZero() {
		v.UsedAt = &p.UsedAt
	}
	return v
}

type personalRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Name      string    `json:"name" doc:"What you call it: 1 to 100 characters"`
		Scopes    []string  `json:"scopes" minItems:"1" maxItems:"50" doc:"What it may be used for: ids of operations (listOrders), or categories: orders:read for what only reads, orders:all for all of it"`
		ExpiresAt time.Time `json:"expires_at" doc:"A minute to a year from now"`
	}
}

type personalCreated struct {
	CacheControl string `header:"Cache-Control"`
	Location     string `header:"Location"`
	Body         struct {
		PersonalView
		Token string `json:"token" doc:"The token itself, lvp_…; it is shown this once"`
	}
}

type personalPath struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, tok_…" maxLength:"64"`
}

// personalRoutes adds personal access tokens. None of these can be used with one.
func (s *Service) personalRoutes(w *web.Server) {
	s.scopeFault = w.ScopeFault
	listing.Add(w, web.Route{Method: "GET", Path: "/v1/me/tokens", ID: "listMyTokens", Tag: "accounts", Status: 200, Limit: limit.Read, Roles: anyAccount,
		InPerson: true, Summary: "One's own personal access tokens"},
		listing.New[personalView](listing.Spec{Name: "tokens", Whole: true}),
		func(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[personalView], error) {
			list, err := s.PersonalTokens(ctx)
			if err != nil {
				return nil, err
			}
			views := make([]personalView, len(list))
			for i, p := range list {
				views[i] = s.viewPersonal(p)
			}
			return listing.Whole(views), nil
		})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/me/tokens", ID: "createMyToken", Tag: "accounts", Status: 201, Limit: limit.Write, Roles: anyAccount,
		Fresh: true, BodyMax: 64 << 10, Errors: []int{409}, Summary: "Make a personal access token for a program",
		Description: "It may be used for what its scopes cover, as far as your roles allow it when it is used. It is shown once."},
		func(ctx context.Context, in *personalRequest) (*personalCreated, error) {
			p, text, err := s.CreatePersonal(ctx, token.Personal{Name: in.Body.Name, Scopes: in.Body.Scopes, ExpiresAt: in.Body.ExpiresAt}, From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			out := &personalCreated{CacheControl: "no-store"}
			out.Body.PersonalView, out.Body.Token = s.viewPersonal(p), text.Reveal()
			out.Location = out.Body.Links.Self
			return out, nil
		})
	web.Add(w, web.Route{Method: "DELETE", Path: "/v1/me/tokens/{id}", ID: "revokeMyToken", Tag: "accounts", Status: 204, Limit: limit.Write, Roles: anyAccount,
		InPerson: true, Errors: []int{404}, Summary: "Revoke a personal access token, on all nodes within a second"},
		func(ctx context.Context, in *personalPath) (*struct{}, error) {
			id, err := s.sealer.Open(levee.KindToken, in.ID)
			if err != nil {
				return nil, err
			}
			return nil, s.RevokePersonal(ctx, id, From(ctx, in.UserAgent))
		})
}

type resetCreated struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Token     string    `json:"token" doc:"Good once: POST /v1/password-resets takes it with the new password"`
		URL       string    `json:"url" format:"uri" doc:"The page on which its bearer sets the password; the token stands behind #, which no server sees"`
		ExpiresAt time.Time `json:"expires_at"`
	}
}

type resetRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Token    string `json:"token" maxLength:"100"`
		Password string `json:"password" doc:"The new one: 8 to 128 characters, hard to guess"`
	}
}

type userSessionPath struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
	Session   string `path:"session" doc:"Public id, ses_…" maxLength:"64"`
}

// sessionAdminRoutes adds what administrators do about other people's sessions and passwords.
func (s *Service) sessionAdminRoutes(w *web.Server) {
	admin := func(method, path, id, summary string, status int, errs ...int) web.Route {
		return web.Route{Method: method, Path: path, ID: id, Summary: summary, Tag: "administration", Status: status, Roles: levee.RoleAdministrator,
			Others: levee.AccountsOfOthers, Limit: limit.Write, Errors: errs}
	}
	listing.Add(w, admin("GET", "/v1/users/{id}/sessions", "listUserSessions", "An account's open sessions, newest first", 200, 404),
		listing.New[sessionView](listing.Spec{Name: "sessions", Whole: true}),
		func(ctx context.Context, in *userPath, _ *listing.Query) (*listing.Page[sessionView], error) {
			user, err := s.sealer.Open(levee.KindUser, in.ID)
			if err != nil {
				return nil, err
			}
			list, err := s.SessionsOf(ctx, levee.UserID(user))
			if err != nil {
				return nil, err
			}
			views := make([]sessionView, len(list))
			for i, v := range list {
				views[i] = s.viewSession(v, levee.ActorFrom(ctx).Session)
				views[i].Links.Self = "/v1/users/" + in.ID + "/sessions/" + views[i].ID
			}
			return listing.Whole(views), nil
		})
	web.Add(w, admin("DELETE", "/v1/users/{id}/sessions", "endUserSessions", "End all sessions and personal access tokens of an account", 200, 404),
		func(ctx context.Context, in *enableRequest) (*endedView, error) {
			user, err := s.sealer.Open(levee.KindUser, in.ID)
			if err != nil {
				return nil, err
			}
			out := &endedView{}
			out.Body.Ended, err = s.EndSessionsOf(ctx, levee.UserID(user), From(ctx, in.UserAgent))
			return out, err
		})
	web.Add(w, admin("DELETE", "/v1/users/{id}/sessions/{session}", "endUserSession", "End one session of an account", 204, 404),
		func(ctx context.Context, in *userSessionPath) (*struct{}, error) {
			user, err := s.sealer.Open(levee.KindUser, in.ID)
			if err != nil {
				return nil, err
			}
			session, err := s.sealer.Open(levee.KindSession, in.Session)
			if err != nil {
				return nil, err
			}
			return nil, s.EndSessionOf(ctx, levee.UserID(user), session, From(ctx, in.UserAgent))
		})
	reset := admin("POST", "/v1/users/{id}/password-resets", "createPasswordReset", "Make a link with which an account's owner sets a new password", 201, 404, 409)
	reset.Fresh = true
	reset.Description = "The link is good once, for an hour; an earlier one is good no more."
	web.Add(w, reset, func(ctx context.Context, in *enableRequest) (*resetCreated, error) {
		user, err := s.sealer.Open(levee.KindUser, in.ID)
		if err != nil {
			return nil, err
		}
		text, expires, err := s.CreatePasswordReset(ctx, levee.UserID(user), From(ctx, in.UserAgent))
		if err != nil {
			return nil, err
		}
		out := &resetCreated{CacheControl: "no-store"}
		out.Body.Token, out.Body.ExpiresAt = text.Reveal(), expires
		out.Body.URL = s.publicURL + "/reset#" + text.Reveal()
		return out, nil
	})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/password-resets", ID: "resetPassword", Tag: "accounts", Status: 200, Limit: limit.SignIn,
		InPerson: true, BodyMax: 16 << 10, Errors: []int{410, 429, 503}, Summary: "Set a new password with a link that an administrator made; all sessions end"},
		func(ctx context.Context, in *resetRequest) (*endedView, error) {
			out := &endedView{}
			var err error
			out.Body.Ended, err = s.ResetPassword(ctx, obs.Secret(in.Body.Token), obs.Secret(in.Body.Password), From(ctx, in.UserAgent))
			return out, problem.InBody(err)
		})
}
