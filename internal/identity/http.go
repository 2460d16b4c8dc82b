package identity

import (
	"context"
	"net/http"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

// The names of the session cookie. With the prefix a browser accepts it only over TLS, from this very host and for all of its
// paths, so neither a neighbour nor a page on plain HTTP can plant one.
const (
	cookieSecure = "__Host-levee"
	cookiePlain  = "levee"
)

func cookieName(ctx context.Context) string {
	if web.SecureCookies(ctx) {
		return cookieSecure
	}
	return cookiePlain
}

// setCookie returns the Set-Cookie header that gives the browser its session, or takes it away when value is "".
func (s *Service) setCookie(ctx context.Context, value obs.Secret) string {
	c := http.Cookie{Name: cookieName(ctx), Value: value.Reveal(), Path: "/", HttpOnly: true, Secure: web.SecureCookies(ctx),
		SameSite: http.SameSiteLaxMode, MaxAge: int(s.cfg.SessionTTL.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	return c.String()
}

// Authenticate returns who asks, by the Authorization header or else by the session cookie; the zero Actor is a visitor. A
// bearer token that is not good is CodeUnauthenticated, so that a program learns of it at once. A cookie that is not good makes
// a visitor: browsers go on sending it, and a visitor may read the shop and sign in again. The routes that give credentials do
// not look at the Authorization header, where clients often leave the very token that they come to replace.
func (s *Service) Authenticate(r *http.Request) (levee.Actor, error) {
	headers := r.Header["Authorization"]
	if len(headers) > 0 && !givesCredentials(r) {
		scheme, token, _ := strings.Cut(headers[0], " ")
		if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") {
			return levee.Actor{}, levee.E(levee.CodeUnauthenticated, "the Authorization header must be one: Bearer <access token>")
		}
		return s.AuthenticateToken(token)
	}
	cookies := r.CookiesNamed(cookieName(r.Context()))
	if len(cookies) != 1 { // two of one name: somebody planted one, and it cannot be told which
		return levee.Actor{}, nil
	}
	actor, err := s.AuthenticateCookie(r.Context(), cookies[0].Value)
	if levee.CodeOf(err) == levee.CodeUnauthenticated {
		return levee.Actor{}, nil
	}
	return actor, err
}

func givesCredentials(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	path := r.URL.Path
	return path == "/v1/sessions" || strings.HasPrefix(path, "/v1/sessions/") || path == "/v1/tokens/refresh" || path == "/v1/setup" || path == "/v1/password-resets"
}

// From says where a request came from, for this room's operations and those of rooms that call it; agent is its User-Agent.
func From(ctx context.Context, agent string) Origin {
	return Origin{Address: web.ClientIP(ctx), Agent: agent, RequestID: web.RequestID(ctx)}
}

type link struct {
	Self string `json:"self"`
}

type userView struct {
	ID             string    `json:"id" doc:"Public id, usr_…"`
	Name           string    `json:"name,omitempty"`
	Phone          string    `json:"phone,omitempty" doc:"E.164, +8613800138000"`
	Roles          []string  `json:"roles"`
	Disabled       bool      `json:"disabled"`
	DisabledReason string    `json:"disabled_reason,omitempty"`
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`
	Links          link      `json:"links"`
}

func (s *Service) viewUser(u User) userView {
	id := s.sealer.Seal(levee.KindUser, int64(u.ID))
	return userView{ID: id, Name: u.Name, Phone: u.Phone, Roles: s.permits.Names(u.Roles), Disabled: u.Disabled, DisabledReason: u.DisabledReason,
		CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt, Links: link{Self: "/v1/users/" + id}}
}

type sessionView struct {
	ID        string    `json:"id" doc:"Public id, ses_…"`
	Kind      string    `json:"kind" enum:"cookie,token"`
	Current   bool      `json:"current" doc:"Whether this request was made with it"`
	Address   string    `json:"address" doc:"Where it was last refreshed or began"`
	Agent     string    `json:"agent" doc:"What the client called itself"`
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at" doc:"Last use, not exact to the minute"`
	ExpiresAt time.Time `json:"expires_at"`
	Links     link      `json:"links"`
}

func (s *Service) viewSession(v Session, current int64) sessionView {
	kind := "token"
	if v.Kind == SessionCookie {
		kind = "cookie"
	}
	id := s.sealer.Seal(levee.KindSession, v.ID)
	return sessionView{ID: id, Kind: kind, Current: v.ID == current, Address: v.Address, Agent: v.Agent, CreatedAt: v.CreatedAt,
		SeenAt: v.SeenAt, ExpiresAt: v.ExpiresAt, Links: link{Self: "/v1/sessions/" + id}}
}

type signUpRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Name     string   `json:"name,omitempty" doc:"2 to 40 letters, digits, '.', '_' or '-'; unique without case"`
		Phone    string   `json:"phone,omitempty" doc:"With country code, or of the house's own country"`
		Password string   `json:"password" minLength:"8" maxLength:"128" doc:"8 to 128 characters, hard to guess"`
		Roles    []string `json:"roles,omitempty" doc:"Only from who may give them" maxItems:"32"`
	}
}

func (s *Service) newUser(r *signUpRequest) (NewUser, error) {
	roles, err := s.parseRoles(r.Body.Roles)
	return NewUser{Name: r.Body.Name, Phone: r.Body.Phone, Password: obs.Secret(r.Body.Password), Roles: roles}, err
}

type createdUser struct {
	Location string `header:"Location"`
	Body     userView
}

func (s *Service) created(u User) *createdUser {
	v := s.viewUser(u)
	return &createdUser{Location: v.Links.Self, Body: v}
}

type signInRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Name     string `json:"name,omitempty" doc:"Or phone"`
		Phone    string `json:"phone,omitempty" doc:"Or name"`
		Password string `json:"password"`
		Cookie   bool   `json:"cookie,omitempty" doc:"true: for a browser; the session is a cookie and no token is shown"`
	}
}

type grantView struct {
	User    userView    `json:"user"`
	Session sessionView `json:"session"`
	// The rest is absent for a cookie session.
	TokenType    string     `json:"token_type,omitempty" doc:"Bearer"`
	AccessToken  string     `json:"access_token,omitempty"`
	ExpiresIn    int64      `json:"expires_in,omitempty" doc:"Seconds that the access token is good for"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
	RefreshToken string     `json:"refresh_token,omitempty" doc:"Good once; POST /v1/tokens/refresh gives the next"`
}

// GrantView is exported for answers that say more than a grant.
type GrantView = grantView

// GrantAnswer is what every way of signing in answers.
type GrantAnswer struct {
	SetCookie    string `header:"Set-Cookie"`
	CacheControl string `header:"Cache-Control"`
	Location     string `header:"Location"`
	Body         grantView
}

// Granted shows a grant, for this room's routes and for those of others that end in SignInProven.
func (s *Service) Granted(ctx context.Context, g Grant) *GrantAnswer {
	a := &GrantAnswer{CacheControl: "no-store", Body: grantView{User: s.viewUser(g.User), Session: s.viewSession(g.Session, g.Session.ID)}}
	if g.Cookie != "" {
		a.SetCookie = s.setCookie(ctx, g.Cookie)
		return a
	}
	expires := g.AccessExpires.UTC()
	a.Body.TokenType, a.Body.AccessToken, a.Body.RefreshToken = "Bearer", g.AccessToken.Reveal(), g.RefreshToken.Reveal()
	a.Body.ExpiresAt, a.Body.ExpiresIn = &expires, max(0, int64(expires.Sub(s.now())/time.Second))
	return a
}

type refreshRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		RefreshToken string `json:"refresh_token"`
	}
}

type sessionPath struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"Public id, or current" maxLength:"64"`
}

type agentOnly struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
}

// signedOut takes the cookie away, if the session that ended was the browser's own.
type signedOut struct {
	SetCookie string `header:"Set-Cookie"`
}

type endedView struct {
	Body struct {
		Ended int `json:"sessions_ended"`
	}
}

// UserView is exported because the document knows the fields of what is embedded by an exported name only.
type UserView = userView

type meView struct {
	Body struct {
		UserView
		Permissions []string `json:"permissions" nullable:"false" doc:"Names of the operations that one may use beside those that are for anybody, and of abilities"`
		Session     string   `json:"session,omitempty" doc:"Public id of the session that asks; none with a foreign token"`
	}
}

type passwordRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Current  string `json:"current" minLength:"1" maxLength:"128" doc:"The password so far"`
		Password string `json:"password" minLength:"8" maxLength:"128" doc:"The new one: 8 to 128 characters, hard to guess"`
	}
}

type setupRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Code     string `json:"code" doc:"The one-time code that the program printed at its start" maxLength:"64"`
		Name     string `json:"name"`
		Password string `json:"password"`
	}
}

type setupView struct {
	Body struct {
		Needed bool `json:"needed" doc:"Whether the house waits for its first administrator"`
	}
}

// anyAccount are the roles of everybody who is signed in.
const anyAccount = allRoles

// Routes adds the room's operations.
func (s *Service) Routes(w *web.Server) {
	web.Add(w, web.Route{Method: "POST", Path: "/v1/users", ID: "createUser", Tag: "accounts", Status: 201, Limit: limit.Write, Fresh: true,
		Summary: "Sign up; an administrator may also give roles", BodyMax: 16 << 10, Errors: []int{409, 429, 503}},
		func(ctx context.Context, in *signUpRequest) (*createdUser, error) {
			user, err := s.newUser(in)
			if err != nil {
				return nil, problem.InBody(err)
			}
			make := s.SignUp
			if levee.ActorFrom(ctx).May(levee.AccountsCreate) {
				make = s.Create
			}
			u, err := make(ctx, user, From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			return s.created(u), nil
		})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/sessions", ID: "signIn", Tag: "accounts", Status: 201, Limit: limit.SignIn,
		Summary: "Sign in", BodyMax: 16 << 10, Errors: []int{401, 403, 429, 503}},
		func(ctx context.Context, in *signInRequest) (*GrantAnswer, error) {
			kind := SessionToken
			if in.Body.Cookie {
				kind = SessionCookie
			}
			g, err := s.SignIn(ctx, SignIn{Name: in.Body.Name, Phone: in.Body.Phone, Password: obs.Secret(in.Body.Password), Kind: kind},
				From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			a := s.Granted(ctx, g)
			a.Location = a.Body.Session.Links.Self
			return a, nil
		})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/tokens/refresh", ID: "refreshToken", Tag: "accounts", Status: 200, Limit: limit.Write,
		Summary: "Replace a refresh token and get a new access token", BodyMax: 16 << 10, Errors: []int{401, 503},
		Description: "Within the grace time the same token gives the same successor. Later, a token that was replaced ends its session."},
		func(ctx context.Context, in *refreshRequest) (*GrantAnswer, error) {
			g, err := s.Refresh(ctx, obs.Secret(in.Body.RefreshToken), From(ctx, in.UserAgent))
			if err != nil {
				return nil, err
			}
			return s.Granted(ctx, g), nil
		})
	listing.Add(w, web.Route{Method: "GET", Path: "/v1/sessions", ID: "listSessions", Tag: "accounts", Status: 200, Limit: limit.Read,
		Summary: "One's own open sessions", Roles: anyAccount, InPerson: true}, listing.New[sessionView](listing.Spec{Name: "sessions", Whole: true}),
		func(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[sessionView], error) {
			list, err := s.Sessions(ctx)
			if err != nil {
				return nil, err
			}
			views := make([]sessionView, len(list))
			for i, v := range list {
				views[i] = s.viewSession(v, levee.ActorFrom(ctx).Session)
			}
			return listing.Whole(views), nil
		})
	web.Add(w, web.Route{Method: "DELETE", Path: "/v1/sessions", ID: "endOtherSessions", Tag: "accounts", Status: 200, Limit: limit.Write,
		Summary: "End all one's sessions but this one", Roles: anyAccount, InPerson: true},
		func(ctx context.Context, in *agentOnly) (*endedView, error) {
			n, err := s.EndOtherSessions(ctx, From(ctx, in.UserAgent))
			if err != nil {
				return nil, err
			}
			out := &endedView{}
			out.Body.Ended = n
			return out, nil
		})
	web.Add(w, web.Route{Method: "DELETE", Path: "/v1/sessions/{id}", ID: "endSession", Tag: "accounts", Status: 204, Limit: limit.Write,
		Summary: "Sign out (current), or end another of one's sessions", Roles: anyAccount, InPerson: true, Errors: []int{404}}, s.handleEndSession)
	web.Add(w, web.Route{Method: "GET", Path: "/v1/me", ID: "getMe", Tag: "accounts", Status: 200, Limit: limit.Read,
		Summary: "One's own account", Roles: anyAccount},
		func(ctx context.Context, _ *struct{}) (*meView, error) {
			actor := levee.ActorFrom(ctx)
			if err := requireAccount(actor); err != nil {
				return nil, err
			}
			u, err := s.ByID(ctx, actor.User)
			if err != nil {
				return nil, err
			}
			out := &meView{}
			out.Body.Permissions = s.permits.Granted(actor.Roles)
			if out.Body.UserView = s.viewUser(u); actor.Session != 0 {
				out.Body.Session = s.sealer.Seal(levee.KindSession, actor.Session)
			}
			return out, nil
		})
	web.Add(w, web.Route{Method: "PUT", Path: "/v1/me/password", ID: "changePassword", Tag: "accounts", Status: 200, Limit: limit.Write,
		Summary: "Change one's password; one's other sessions end", Roles: anyAccount, InPerson: true, BodyMax: 16 << 10, Errors: []int{409, 429, 503}},
		func(ctx context.Context, in *passwordRequest) (*endedView, error) {
			n, err := s.ChangePassword(ctx, obs.Secret(in.Body.Current), obs.Secret(in.Body.Password), From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			out := &endedView{}
			out.Body.Ended = n
			return out, nil
		})
	web.Add(w, web.Route{Method: "GET", Path: "/v1/setup", ID: "getSetup", Tag: "accounts", Status: 200, Limit: limit.Read,
		Summary: "Whether the first administrator is still missing"},
		func(ctx context.Context, _ *struct{}) (*setupView, error) {
			needed, err := s.SetupNeeded(ctx)
			out := &setupView{}
			out.Body.Needed = needed
			return out, err
		})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/setup", ID: "setUp", Tag: "accounts", Status: 201, Limit: limit.SignIn,
		Summary: "Make the first administrator with the one-time code", BodyMax: 16 << 10, Errors: []int{401, 409, 410}},
		func(ctx context.Context, in *setupRequest) (*createdUser, error) {
			u, err := s.Setup(ctx, obs.Secret(in.Body.Code), NewUser{Name: in.Body.Name, Password: obs.Secret(in.Body.Password)},
				From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			return s.created(u), nil
		})
	s.personalRoutes(w)
	s.adminRoutes(w)
	s.sessionAdminRoutes(w)
}

func (s *Service) handleEndSession(ctx context.Context, in *sessionPath) (*signedOut, error) {
	actor := levee.ActorFrom(ctx)
	id := actor.Session
	if in.ID != "current" {
		var err error
		if id, err = s.sealer.Open(levee.KindSession, in.ID); err != nil {
			return nil, err
		}
	}
	if id != actor.Session {
		return nil, s.EndSession(ctx, id, From(ctx, in.UserAgent))
	}
	if err := s.SignOut(ctx); err != nil {
		return nil, err
	}
	return &signedOut{SetCookie: s.setCookie(ctx, "")}, nil
}
