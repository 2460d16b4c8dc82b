package phone

import (
	"context"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

type sendingView struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Enabled   bool     `json:"enabled" doc:"Whether codes are sent at all"`
		Countries []string `json:"countries" nullable:"false" doc:"Calling codes of the countries that they are sent to, without +"`
	}
}

type askRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Phone   string `json:"phone" maxLength:"32" doc:"With country code, or of the house's own country"`
		Purpose string `json:"purpose" enum:"sign_in,bind" doc:"sign_in: for POST /v1/sessions/phone; bind: for PUT /v1/me/phone of the account that asks"`
	}
}

type askedView struct {
	CacheControl string `header:"Cache-Control"`
	Location     string `header:"Location" doc:"Where the code is used"`
	Body         struct {
		Request    string    `json:"request" doc:"Needed beside the code, which is good for nobody who has not got this"`
		ExpiresAt  time.Time `json:"expires_at"`
		RetryAfter int64     `json:"retry_after" doc:"Seconds until another code can be asked for"`
	}
}

type signInRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Phone   string `json:"phone" maxLength:"32"`
		Code    string `json:"code" maxLength:"16" doc:"Six digits"`
		Request string `json:"request" maxLength:"64" doc:"What POST /v1/phone-codes answered"`
		Cookie  bool   `json:"cookie,omitempty" doc:"true: for a browser; the session is a cookie and no token is shown"`
	}
}

type bindRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Phone   string `json:"phone" maxLength:"32"`
		Code    string `json:"code" maxLength:"16" doc:"Six digits"`
		Request string `json:"request" maxLength:"64" doc:"What POST /v1/phone-codes answered"`
	}
}

type boundView struct {
	Body struct {
		Phone string `json:"phone" doc:"E.164, +8613800138000"`
	}
}

// Routes adds the room's operations.
func (s *Service) Routes(w *web.Server) {
	const tag = "accounts"
	web.Add(w, web.Route{Method: "GET", Path: "/v1/phone-codes", ID: "getPhoneCodes", Tag: tag, Status: 200, Limit: limit.Read,
		Summary: "Whether codes are sent by SMS, and to which countries"},
		func(context.Context, *struct{}) (*sendingView, error) {
			out := &sendingView{CacheControl: "no-cache"}
			out.Body.Enabled, out.Body.Countries = s.sender != nil, s.cfg.Countries
			return out, nil
		})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/phone-codes", ID: "askPhoneCode", Tag: tag, Status: 202, Limit: limit.Write, InPerson: true,
		Summary: "Have a code sent by SMS", BodyMax: 4 << 10, Errors: []int{401, 403, 404, 429, 503},
		Description: "The code has six digits and is good once, for five minutes and five tries, with what this answers and for its purpose alone. It is the " +
			"same answer whether an account has the number or not. The number's earlier code for the purpose is good no more."},
		func(ctx context.Context, in *askRequest) (*askedView, error) {
			a, err := s.Ask(ctx, Purpose(in.Body.Purpose), in.Body.Phone, identity.From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			out := &askedView{CacheControl: "no-store", Location: "/v1/sessions/phone"}
			if Purpose(in.Body.Purpose) == ForBind {
				out.Location = "/v1/me/phone"
			}
			out.Body.Request, out.Body.ExpiresAt = a.Request.Reveal(), a.ExpiresAt.UTC()
			out.Body.RetryAfter = int64((a.RetryAfter + time.Second - 1) / time.Second)
			return out, nil
		})
	web.Add(w, web.Route{Method: "POST", Path: "/v1/sessions/phone", ID: "signInByPhone", Tag: tag, Status: 201, Limit: limit.SignIn,
		Summary: "Sign in, or up, with a code that was sent by SMS", BodyMax: 4 << 10, Errors: []int{401, 403, 429, 503},
		Description: "Where no account has proven the number a new one is made. A number that somebody merely typed at sign-up opens nothing: it moves to who proves it."},
		func(ctx context.Context, in *signInRequest) (*identity.GrantAnswer, error) {
			kind := identity.SessionToken
			if in.Body.Cookie {
				kind = identity.SessionCookie
			}
			g, err := s.SignIn(ctx, SignIn{Phone: in.Body.Phone, Code: in.Body.Code, Request: obs.Secret(in.Body.Request), Kind: kind}, identity.From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			a := s.Identity.Granted(ctx, g)
			a.Location = a.Body.Session.Links.Self
			return a, nil
		})
	web.Add(w, web.Route{Method: "PUT", Path: "/v1/me/phone", ID: "bindPhone", Tag: tag, Status: 200, Limit: limit.Write, Fresh: true,
		Roles: levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator, Summary: "Put a phone number on one's account, with a code that was sent there",
		BodyMax: 4 << 10, Errors: []int{409, 429, 503}},
		func(ctx context.Context, in *bindRequest) (*boundView, error) {
			number, err := s.Bind(ctx, in.Body.Phone, in.Body.Code, obs.Secret(in.Body.Request), identity.From(ctx, in.UserAgent))
			if err != nil {
				return nil, problem.InBody(err)
			}
			out := &boundView{}
			out.Body.Phone = number
			return out, nil
		})
}
