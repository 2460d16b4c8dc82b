package federation

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

// The names of the cookie that binds an attempt to its browser; see identity's for why there are two. No request that another site makes a browser send
// has it: the page to which a provider sends people back hands the answer to the API.
const (
	cookieSecure = "__Host-levee-attempt"
	cookiePlain  = "levee-attempt"
)

func cookieName(ctx context.Context) string {
	if web.SecureCookies(ctx) {
		return cookieSecure
	}
	return cookiePlain
}

// everybody are the roles of who has an account.
const everybody = levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator

// timeout covers three calls of a provider, each of which may take callLimit.
const timeout = 20 * time.Second

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	const tag = "accounts"
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/providers", ID: "listProviders", Tag: tag, Limit: limit.Read,
		Summary: "Third parties through which one can sign in"}, listing.New[providerView](listing.Spec{Name: "providers", Whole: true}),
		func(context.Context, *struct{}, *listing.Query) (*listing.Page[providerView], error) {
			views := []providerView{}
			for _, p := range s.List() {
				views = append(views, providerView(p))
			}
			return listing.Whole(views), nil
		})
	begin := func(path, id, summary string, l limit.Name) web.Route {
		return web.Route{Method: "POST", Path: path, ID: id, Tag: tag, Status: 201, Limit: l, Timeout: timeout, BodyMax: 16 << 10, Errors: []int{422, 503},
			Summary: summary, Description: "Sets a cookie that is good for ten minutes: the browser that gets it must be the one that comes back. The provider " +
				"sends people back to /sign-in/{provider}/callback."}
	}
	finish := func(path, id, summary string, l limit.Name) web.Route {
		return web.Route{Method: "POST", Path: path, ID: id, Tag: tag, Status: 201, Limit: l, Timeout: timeout, BodyMax: 64 << 10, Errors: []int{403, 409, 410, 422, 503},
			Summary: summary, Description: "Takes what the provider put into the address to which it sent the browser back. The reason of a refusal: " +
				"over (this attempt is unknown here, used, too old, or begun elsewhere), denied, code, answer, away, refused, linked, other."}
	}
	web.Add(srv, begin("/v1/sign-in-attempts", "beginSignIn", "Begin to sign in through a third party", limit.SignIn),
		func(ctx context.Context, in *beginRequest) (*begunAnswer, error) {
			return s.begun(ctx)(s.BeginSignIn(ctx, in.Body.Provider, in.Body.ReturnTo))
		})
	web.Add(srv, finish("/v1/sessions/federated", "signInFederated", "Sign in with a third party's answer, whose state begins with sign", limit.SignIn), s.postSession)
	r := begin("/v1/me/link-attempts", "beginLink", "Begin to link a third party to one's account", limit.Write)
	r.Roles, r.Fresh = everybody, true // and with it the end, which needs what the beginning gave
	web.Add(srv, r, func(ctx context.Context, in *beginRequest) (*begunAnswer, error) {
		return s.begun(ctx)(s.BeginLink(ctx, in.Body.Provider, in.Body.ReturnTo))
	})
	r = finish("/v1/me/links", "link", "Link one's account with a third party's answer, whose state begins with link", limit.Write)
	r.Roles, r.InPerson = everybody, true
	web.Add(srv, r, s.postLink)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/me/links", ID: "listLinks", Tag: tag, Roles: everybody, InPerson: true, Limit: limit.Read,
		Summary: "Third parties that are linked to one's account"}, listing.New[linkView](listing.Spec{Name: "links", Whole: true}), s.getLinks)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/me/links/{provider}", ID: "unlink", Tag: tag, Status: 204, Roles: everybody, Fresh: true, Limit: limit.Write,
		Errors: []int{404, 409}, Summary: "Take a third party from one's account", Description: "409 with the reason last: it is the last way to sign in."},
		func(ctx context.Context, in *linkPath) (*struct{}, error) {
			return nil, s.Unlink(ctx, in.Provider, identity.From(ctx, in.UserAgent))
		})
}

type providerView struct {
	Name  string `json:"name"`
	Kind  string `json:"kind" enum:"oidc,wechat"`
	Label string `json:"label"`
}

type beginRequest struct {
	Body struct {
		Provider string `json:"provider" maxLength:"30"`
		ReturnTo string `json:"return_to,omitempty" maxLength:"500" doc:"Path of this house to which it leads; default /"`
	}
}

type begunAnswer struct {
	SetCookie    string `header:"Set-Cookie"`
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Address   string    `json:"address" doc:"Where to send the browser"`
		ExpiresAt time.Time `json:"expires_at"`
	}
}

func (s *Service) begun(ctx context.Context) func(Begun, error) (*begunAnswer, error) {
	return func(b Begun, err error) (*begunAnswer, error) {
		if err != nil {
			return nil, problem.InBody(err)
		}
		c := http.Cookie{Name: cookieName(ctx), Value: b.Browser.Reveal(), Path: "/", HttpOnly: true, Secure: web.SecureCookies(ctx),
			SameSite: http.SameSiteStrictMode, MaxAge: int(attemptTTL.Seconds())}
		out := &begunAnswer{SetCookie: c.String(), CacheControl: "no-store"}
		out.Body.Address, out.Body.ExpiresAt = b.Address, b.Expires
		return out, nil
	}
}

type finishRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Provider string `json:"provider" maxLength:"30" doc:"The one at whose callback the browser is"`
		State    string `json:"state" maxLength:"2048"`
		Code     string `json:"code,omitempty" maxLength:"2048"`
		Issuer   string `json:"iss,omitempty" maxLength:"2048" doc:"RFC 9207"`
		Error    string `json:"error,omitempty" maxLength:"2048"`
	}
}

func (in *finishRequest) answer(ctx context.Context) Answer {
	a := Answer{Provider: in.Body.Provider, State: in.Body.State, Code: in.Body.Code, Issuer: in.Body.Issuer, Error: in.Body.Error}
	_, r := web.Exchange(ctx)
	if found := r.CookiesNamed(cookieName(ctx)); len(found) == 1 { // two of one name: somebody planted one, and it cannot be told which
		a.Browser = obs.Secret(found[0].Value)
	}
	return a
}

type sessionAnswer struct {
	SetCookie    string `header:"Set-Cookie"`
	CacheControl string `header:"Cache-Control"`
	Location     string `header:"Location"`
	Body         struct {
		identity.GrantView
		ReturnTo string `json:"return_to" doc:"Path of this house that was asked for at the begin"`
		New      bool   `json:"new_account" doc:"The account was made by this sign-in"`
	}
}

func (s *Service) postSession(ctx context.Context, in *finishRequest) (*sessionAnswer, error) {
	got, err := s.SignIn(ctx, in.answer(ctx), identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, problem.InBody(err)
	}
	granted := s.Identity.Granted(ctx, got.Grant)
	out := &sessionAnswer{SetCookie: granted.SetCookie, CacheControl: granted.CacheControl, Location: granted.Body.Session.Links.Self}
	out.Body.GrantView, out.Body.ReturnTo, out.Body.New = granted.Body, got.ReturnTo, got.New
	return out, nil
}

type linkView struct {
	Provider string    `json:"provider"`
	Label    string    `json:"label"`
	Called   string    `json:"called,omitempty" doc:"How the provider called one when it was linked"`
	LinkedAt time.Time `json:"linked_at"`
	Usable   bool      `json:"usable" doc:"One can sign in by it: the house still has the provider"`
}

func viewLink(l Link) linkView {
	return linkView{Provider: l.Provider, Label: l.Label, Called: l.Called, LinkedAt: l.At, Usable: l.Usable}
}

type linkedAnswer struct {
	Location string `header:"Location"`
	Body     struct {
		Link     linkView `json:"link"`
		ReturnTo string   `json:"return_to" doc:"Path of this house that was asked for at the begin"`
	}
}

func (s *Service) postLink(ctx context.Context, in *finishRequest) (*linkedAnswer, error) {
	got, err := s.FinishLink(ctx, in.answer(ctx), identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, problem.InBody(err)
	}
	out := &linkedAnswer{Location: "/v1/me/links"}
	out.Body.Link, out.Body.ReturnTo = viewLink(got.Link), got.ReturnTo
	return out, nil
}

func (s *Service) getLinks(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[linkView], error) {
	all, err := s.Links(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]linkView, len(all))
	for i, l := range all {
		views[i] = viewLink(l)
	}
	return listing.Whole(views), nil
}

type linkPath struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Provider  string `path:"provider" maxLength:"190"`
}
