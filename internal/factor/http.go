package factor

import (
	"context"
	"encoding/json"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/web"
)

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	own := func(method, path, id, summary string, status int, fresh bool, errs ...int) web.Route {
		r := web.Route{Method: method, Path: path, ID: id, Tag: "accounts", Summary: summary, Status: status, Fresh: fresh, InPerson: true, Limit: limit.Write,
			Roles: levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator, BodyMax: bodyMax, Errors: errs}
		if method == "GET" {
			r.Limit = limit.Read
		}
		return r
	}
	second := func(path, id, summary string, status int, errs ...int) web.Route {
		return web.Route{Method: "POST", Path: path, ID: id, Tag: "accounts", Summary: summary, Status: status, Limit: limit.SignIn, BodyMax: bodyMax, Errors: errs}
	}
	r := second("/v1/sessions/second-factor", "signInSecond", "Go on with a sign-in by a second factor", 201, 401, 403, 409, 410, 429, 503)
	r.Description = "After a sign-in was answered with second_factor_required: its challenge, and one answer. 410: begin the sign-in anew."
	web.Add(srv, r, s.postSecond)
	r = second("/v1/sessions/second-factor/enrolment", "enrolAtSignIn", "Set up an application for codes, where a sign-in waits for that", 200, 410)
	r.Description = "Its first code then goes on with the sign-in. Asked again it makes another secret, and that one counts."
	web.Add(srv, r, s.postEnrolment)
	web.Add(srv, own("GET", "/v1/me/factors", "getFactors", "One's own second factors", 200, false), s.getFactors)
	web.Add(srv, own("POST", "/v1/me/totp", "beginTOTP", "Make a secret for an application that shows codes", 200, true), s.postTOTP)
	web.Add(srv, own("POST", "/v1/me/totp/confirmation", "confirmTOTP", "Let the application count, by its first code", 200, true, 410, 422), s.postConfirmation)
	web.Add(srv, own("DELETE", "/v1/me/totp", "removeTOTP", "Take the application away", 204, true, 404, 409), s.deleteTOTP)
	r = own("POST", "/v1/me/recovery-codes", "renewRecoveryCodes", "Make ten new recovery codes; those of before are good no more", 200, true, 409)
	r.Description = "They are shown this once."
	web.Add(srv, r, s.postRecovery)
	web.Add(srv, own("POST", "/v1/me/passkeys/options", "beginPasskey", "What the browser is asked with to make a passkey", 200, true, 409), s.postOptions)
	web.Add(srv, own("POST", "/v1/me/passkeys", "addPasskey", "Keep a passkey that the browser made", 201, true, 409, 410, 422), s.postPasskey)
	web.Add(srv, own("DELETE", "/v1/me/passkeys/{id}", "removePasskey", "Take a passkey away", 204, true, 404, 409), s.deletePasskey)
	web.Add(srv, own("POST", "/v1/me/step-up/options", "beginStepUp", "What the browser is asked with to prove oneself again by passkey", 200, false, 409), s.postStepUpOptions)
	r = own("POST", "/v1/me/step-up", "stepUp", "Prove again that it is oneself, for dangerous acts of the next minutes", 200, false, 409, 410, 422, 429, 503)
	r.Description = "One of password, code and assertion; a password counts only for an account without a second factor."
	web.Add(srv, r, s.postStepUp)
	r = web.Route{Method: "DELETE", Path: "/v1/users/{id}/factors", ID: "resetFactors", Tag: "administration", Status: 200, Roles: levee.RoleAdministrator,
		Others: levee.AccountsOfOthers, Fresh: true, Limit: limit.Write, Errors: []int{404, 409}, Summary: "Take all second factors of an account away and end its sessions"}
	web.Add(srv, r, s.deleteFactors)
}

// bodyMax holds a passkey's answer with room.
const bodyMax = 64 << 10

// Credential is a browser's PublicKeyCredential as its toJSON gives it.
type credential = map[string]any

func text(c credential) []byte {
	if len(c) == 0 {
		return nil
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic("factor: " + err.Error()) // it came as JSON
	}
	return b
}

type secondRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Challenge string     `json:"challenge" maxLength:"100" doc:"From the data of second_factor_required"`
		Code      string     `json:"code,omitempty" maxLength:"20" doc:"That the application shows"`
		Recovery  string     `json:"recovery_code,omitempty" maxLength:"40" doc:"Used up by this"`
		Assertion credential `json:"assertion,omitempty" doc:"A passkey's answer: PublicKeyCredential.toJSON()"`
		Cookie    bool       `json:"cookie,omitempty" doc:"true: for a browser; the session is a cookie and no token is shown"`
	}
}

func (s *Service) postSecond(ctx context.Context, in *secondRequest) (*identity.GrantAnswer, error) {
	kind := identity.SessionToken
	if in.Body.Cookie {
		kind = identity.SessionCookie
	}
	g, err := s.SignIn(ctx, Answer{Challenge: obs.Secret(in.Body.Challenge), Code: obs.Secret(in.Body.Code), Recovery: obs.Secret(in.Body.Recovery),
		Assertion: text(in.Body.Assertion)}, kind, identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, err
	}
	a := s.Identity.Granted(ctx, g)
	a.Location = a.Body.Session.Links.Self
	return a, nil
}

type enrolRequest struct {
	Body struct {
		Challenge string `json:"challenge" maxLength:"100" doc:"From the data of second_factor_required, where enrol is among the methods"`
	}
}

type enrolmentView struct {
	Challenge string    `json:"challenge" doc:"To be sent with the first code"`
	Secret    string    `json:"secret" doc:"In base32, for who types it"`
	URI       string    `json:"uri" doc:"otpauth://totp/…, for a QR code"`
	ExpiresAt time.Time `json:"expires_at"`
}

type enrolmentAnswer struct {
	CacheControl string `header:"Cache-Control"`
	Body         enrolmentView
}

func enrolment(e Enrolment, err error) (*enrolmentAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &enrolmentAnswer{CacheControl: "no-store", Body: enrolmentView{e.Challenge.Reveal(), e.Secret.Reveal(), e.URI.Reveal(), e.Expires}}, nil
}

func (s *Service) postEnrolment(ctx context.Context, in *enrolRequest) (*enrolmentAnswer, error) {
	return enrolment(s.Enrol(ctx, obs.Secret(in.Body.Challenge)))
}

func (s *Service) postTOTP(ctx context.Context, _ *struct{}) (*enrolmentAnswer, error) {
	return enrolment(s.BeginTOTP(ctx))
}

type passkeyView struct {
	ID        string     `json:"id" doc:"Public id, psk_…"`
	Name      string     `json:"name"`
	CreatedAt time.Time  `json:"created_at"`
	UsedAt    *time.Time `json:"used_at,omitempty"`
	ClonedAt  *time.Time `json:"cloned_at,omitempty" doc:"When its counter went back and it was refused: there may be a copy of it"`
}

func (s *Service) view(p Passkey) passkeyView {
	v := passkeyView{ID: s.Sealer.Seal(levee.KindPasskey, p.ID), Name: p.Name, CreatedAt: p.CreatedAt}
	if !p.UsedAt.IsZero() {
		v.UsedAt = &p.UsedAt
	}
	if !p.ClonedAt.IsZero() {
		v.ClonedAt = &p.ClonedAt
	}
	return v
}

type factorsView struct {
	Body struct {
		TOTP           bool          `json:"totp" doc:"Whether an application shows codes"`
		TOTPAt         *time.Time    `json:"totp_at,omitempty" doc:"Since when"`
		Passkeys       []passkeyView `json:"passkeys" nullable:"false"`
		Recovery       int           `json:"recovery_codes" doc:"That are not used yet"`
		Required       bool          `json:"required" doc:"Whether the account must have a second factor"`
		Password       bool          `json:"password" doc:"Whether the account has a password"`
		PasskeysUsable bool          `json:"passkeys_usable" doc:"Whether the house has an address that passkeys can be bound to"`
	}
}

func (s *Service) getFactors(ctx context.Context, _ *struct{}) (*factorsView, error) {
	f, err := s.Own(ctx)
	if err != nil {
		return nil, err
	}
	out := &factorsView{}
	b := &out.Body
	b.TOTP, b.Recovery, b.Required, b.Password, b.PasskeysUsable = f.TOTP, f.Recovery, f.Required, f.Passworded, s.keys != nil
	if f.TOTP {
		b.TOTPAt = &f.TOTPAt
	}
	b.Passkeys = make([]passkeyView, len(f.Passkeys))
	for i, p := range f.Passkeys {
		b.Passkeys[i] = s.view(p)
	}
	return out, nil
}

type confirmRequest struct {
	Body struct {
		Challenge string `json:"challenge" maxLength:"100"`
		Code      string `json:"code" maxLength:"20"`
	}
}

type recoveryAnswer struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Codes []string `json:"recovery_codes" nullable:"false" doc:"Shown this once; empty when the account has some already"`
	}
}

func recovery(codes []string, err error) (*recoveryAnswer, error) {
	if err != nil {
		return nil, err
	}
	out := &recoveryAnswer{CacheControl: "no-store"}
	out.Body.Codes = append([]string{}, codes...)
	return out, nil
}

func (s *Service) postConfirmation(ctx context.Context, in *confirmRequest) (*recoveryAnswer, error) {
	return recovery(s.ConfirmTOTP(ctx, obs.Secret(in.Body.Challenge), in.Body.Code))
}

func (s *Service) postRecovery(ctx context.Context, _ *struct{}) (*recoveryAnswer, error) {
	return recovery(s.RenewRecovery(ctx))
}

func (s *Service) deleteTOTP(ctx context.Context, _ *struct{}) (*struct{}, error) {
	return nil, s.RemoveTOTP(ctx)
}

type optionsAnswer struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Challenge string         `json:"challenge" doc:"To be sent with the browser's answer"`
		PublicKey map[string]any `json:"public_key" doc:"For PublicKeyCredential.parseCreationOptionsFromJSON or parseRequestOptionsFromJSON"`
		ExpiresAt time.Time      `json:"expires_at"`
	}
}

func options(challenge obs.Secret, key map[string]any, expires time.Time, err error) (*optionsAnswer, error) {
	if err != nil {
		return nil, err
	}
	out := &optionsAnswer{CacheControl: "no-store"}
	out.Body.Challenge, out.Body.PublicKey, out.Body.ExpiresAt = challenge.Reveal(), key, expires
	return out, nil
}

func (s *Service) postOptions(ctx context.Context, _ *struct{}) (*optionsAnswer, error) {
	return options(s.BeginPasskey(ctx))
}

func (s *Service) postStepUpOptions(ctx context.Context, _ *struct{}) (*optionsAnswer, error) {
	return options(s.AskPasskey(ctx))
}

type passkeyRequest struct {
	Body struct {
		Challenge  string     `json:"challenge" maxLength:"100"`
		Name       string     `json:"name" minLength:"1" maxLength:"60" doc:"To tell it from others"`
		Credential credential `json:"credential" doc:"What the browser made: PublicKeyCredential.toJSON()"`
	}
}

type passkeyAnswer struct {
	CacheControl string `header:"Cache-Control"`
	Body         struct {
		Passkey passkeyView `json:"passkey"`
		Codes   []string    `json:"recovery_codes" nullable:"false" doc:"Shown this once; empty when the account has some already"`
	}
}

func (s *Service) postPasskey(ctx context.Context, in *passkeyRequest) (*passkeyAnswer, error) {
	p, codes, err := s.AddPasskey(ctx, obs.Secret(in.Body.Challenge), in.Body.Name, text(in.Body.Credential))
	if err != nil {
		return nil, err
	}
	out := &passkeyAnswer{CacheControl: "no-store"}
	out.Body.Passkey, out.Body.Codes = s.view(p), append([]string{}, codes...)
	return out, nil
}

type passkeyPath struct {
	ID string `path:"id" doc:"Public id, psk_…" maxLength:"64"`
}

func (s *Service) deletePasskey(ctx context.Context, in *passkeyPath) (*struct{}, error) {
	id, err := s.Sealer.Open(levee.KindPasskey, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.RemovePasskey(ctx, id)
}

type stepUpRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Password  string     `json:"password,omitempty" maxLength:"128"`
		Code      string     `json:"code,omitempty" maxLength:"20" doc:"That the application shows"`
		Challenge string     `json:"challenge,omitempty" maxLength:"100" doc:"With an assertion"`
		Assertion credential `json:"assertion,omitempty" doc:"A passkey's answer: PublicKeyCredential.toJSON()"`
	}
}

type stepUpView struct {
	Body struct {
		FreshUntil time.Time `json:"fresh_until" doc:"Until when this session may do what is dangerous"`
	}
}

func (s *Service) postStepUp(ctx context.Context, in *stepUpRequest) (*stepUpView, error) {
	until, err := s.StepUp(ctx, obs.Secret(in.Body.Password), Answer{Challenge: obs.Secret(in.Body.Challenge), Code: obs.Secret(in.Body.Code),
		Assertion: text(in.Body.Assertion)}, identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, err
	}
	out := &stepUpView{}
	out.Body.FreshUntil = until.UTC()
	return out, nil
}

type accountPath struct {
	ID string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
}

type resetView struct {
	Body struct {
		Ended int `json:"sessions_ended"`
	}
}

func (s *Service) deleteFactors(ctx context.Context, in *accountPath) (*resetView, error) {
	user, err := s.Sealer.Open(levee.KindUser, in.ID)
	if err != nil {
		return nil, err
	}
	out := &resetView{}
	out.Body.Ended, err = s.Reset(ctx, levee.UserID(user))
	return out, err
}
