// Package federation owns sign-in through third parties: which providers there are, the way to one of them and back, and whose account a
// provider's subject is. A provider is any that speaks OpenID Connect (code flow with PKCE), or WeChat by its QR code.
//
// It does not own accounts and sessions: identity makes them. An account and a subject are joined in two ways only: the account was made for
// the subject at its first sign-in, or its owner, signed in, went to the provider and linked it. What a provider calls somebody, his name,
// e-mail address or phone number, never joins anything.
package federation

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/schedule"
	"levee/internal/trail"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the room's tables.
func Schema() db.Schema { return db.Schema{Owner: "federation", FS: schemaFS} }

// The kinds of providers.
const (
	kindOIDC   = "oidc"
	kindWeChat = "wechat"
)

const (
	maxProviders = 20
	maxText      = 190 // bytes of issuer, subject, client id
	maxLabel     = 40
)

// Config of the room. The zero value: nobody signs in through others.
type Config struct {
	// Providers are the third parties, by names of 1 to 30 of a-z, 0-9 and '-', at most 20. The name stands in the address to which a
	// provider sends people back: PUBLIC_URL/sign-in/NAME/callback, which is to be registered there.
	Providers map[string]Provider
	// Insecure lists hosts, such as 127.0.0.1, at which a provider may be reached by plain http. Who sits between can then sign in as
	// anybody whom that provider knows.
	Insecure []string
}

// Provider is a third party that says who somebody is.
type Provider struct {
	// Kind is "oidc" for OpenID Connect, or "wechat" for WeChat's QR sign-in of web sites.
	Kind string
	// Label is what people know it by, 1 to 40 characters. Default: the name; for wechat, WeChat.
	Label string
	// Issuer of an OpenID provider, exactly as its metadata says it: an https address. Its /.well-known/openid-configuration is read when the
	// first person comes, and every hour.
	Issuer string
	// ClientID is what the provider knows this house by: the client id, or WeChat's app id. ClientSecret belongs to it: the client secret, which a
	// public client of OpenID Connect does not have, or WeChat's app secret, which is needed.
	ClientID     string
	ClientSecret obs.Secret
	// Scopes that an OpenID provider is asked for. Default: openid profile. More than openid changes only what a new account is called.
	Scopes []string
	// Pages and API are where WeChat's QR page and its API are. Default: https://open.weixin.qq.com and https://api.weixin.qq.com. Others are for
	// tests and for a relay of one's own.
	Pages, API string
}

var providerName = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?$`)

// Validate returns CodeInvalid with the first key that is out of its bounds.
func (c Config) Validate() error {
	if len(c.Providers) > maxProviders {
		return levee.Invalid("federation.providers", fmt.Sprintf("at most %d", maxProviders), len(c.Providers))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		if !providerName.MatchString(name) {
			return levee.Invalid("federation.providers", "names of 1 to 30 of a-z, 0-9 and '-'", name)
		}
		if err := c.Providers[name].check("federation.providers."+name+".", c.Insecure); err != nil {
			return err
		}
	}
	return nil
}

func (p Provider) check(prefix string, insecure []string) error {
	bad := func(field, allowed, given string) error {
		return levee.Invalid(prefix+field, allowed, levee.Shorten(given, 80))
	}
	var unwanted [][2]string
	switch p.Kind {
	case kindOIDC:
		if !reachable(p.Issuer, insecure) || len(p.Issuer) > maxText || strings.ContainsAny(p.Issuer, "?#") {
			return bad("issuer", "an https address of at most 190 bytes without '?' and '#', or an http address of a host in federation.insecure", p.Issuer)
		}
		unwanted = [][2]string{{"pages", p.Pages}, {"api", p.API}}
	case kindWeChat:
		for _, f := range [][2]string{{"pages", p.Pages}, {"api", p.API}} {
			if f[1] != "" && !reachable(f[1], insecure) {
				return bad(f[0], "an https address, or an http address of a host in federation.insecure", f[1])
			}
		}
		if p.ClientSecret == "" {
			return bad("client_secret", "the app secret that WeChat gave", "")
		}
		unwanted = [][2]string{{"issuer", p.Issuer}, {"scopes", strings.Join(p.Scopes, " ")}}
	default:
		return bad("kind", `"oidc" or "wechat"`, p.Kind)
	}
	for _, f := range unwanted {
		if f[1] != "" {
			return bad(f[0], fmt.Sprintf("left out with kind %q", p.Kind), f[1])
		}
	}
	if p.ClientID == "" || len(p.ClientID) > maxText-len(wechatOpenID) {
		return bad("client_id", "what the provider knows this house by, at most 180 bytes", p.ClientID)
	}
	if len([]rune(p.Label)) > maxLabel || strings.ContainsFunc(p.Label, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return bad("label", "1 to 40 characters on one line", p.Label)
	}
	if len(p.Scopes) > 0 && !slices.Contains(p.Scopes, "openid") || strings.ContainsAny(strings.Join(p.Scopes, ""), " \t\r\n") {
		return bad("scopes", "words, openid among them", strings.Join(p.Scopes, ", "))
	}
	return nil
}

// reachable reports whether an address is one that may be asked: by https, or by http on a host for which that was allowed.
func reachable(address string, insecure []string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http" && slices.Contains(insecure, u.Hostname()))
}

// Deps is what the room is built from.
type Deps struct {
	DB       *db.DB
	Obs      *obs.Obs
	Identity *identity.Service
	Trail    *trail.Service
	Config   Config
	// PublicURL is where people reach the house's pages.
	PublicURL string
	// OtherWayTx tells whether somebody can sign in to his account without any third party, within the caller's transaction.
	OtherWayTx func(ctx context.Context, tx *db.Tx, user levee.UserID) (bool, error)
}

// Service is the room. Its methods may be called from any number of goroutines.
type Service struct {
	Deps
	log       *slog.Logger
	providers map[string]*provider
	metrics   *metrics
}

// provider is one that is configured.
type provider struct {
	name, kind, label string
	issuers           []string // whose subjects it vouches for
	driver
}

// driver speaks to one kind of provider.
type driver interface {
	// address is where a browser is sent.
	address(ctx context.Context, a *attempt, state, back string) (string, error)
	// prove learns from a provider's answer who came.
	prove(ctx context.Context, a *attempt, in Answer, back string) (person, error)
}

// person is who a provider says that somebody is.
type person struct {
	keys   []key  // the surest first
	name   string // what he would like to be called; unchecked
	called string // how he recognises which of his accounts there it is
}

// key is a subject within whom it is unique.
type key struct{ issuer, subject string }

// New builds the room. It panics on a Config that Validate refuses: app checks it before.
func New(d Deps) *Service {
	if err := d.Config.Validate(); err != nil {
		panic("federation.New: " + err.Error())
	}
	s := &Service{Deps: d, log: d.Obs.Named("federation"), providers: map[string]*provider{}, metrics: newMetrics(d.Obs.Metrics)}
	web := newCaller()
	for name, p := range d.Config.Providers {
		one := &provider{name: name, kind: p.Kind, label: p.Label}
		if p.Kind == kindWeChat {
			one.driver, one.issuers = newWeChat(p, web, s.log), []string{wechatUnion, wechatOpenID + p.ClientID}
			one.label = orElse(p.Label, "WeChat")
		} else {
			one.driver, one.issuers = newOIDC(p, d.Config.Insecure, web, d.Obs.Clock, s.log), []string{p.Issuer}
			one.label = orElse(p.Label, name)
		}
		s.providers[name] = one
	}
	return s
}

func orElse(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

// ProviderInfo is a third party as people see it.
type ProviderInfo struct{ Name, Kind, Label string }

// List returns the providers in the order of their names. It asks for no right.
func (s *Service) List() (list []ProviderInfo) {
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		list = append(list, ProviderInfo{Name: name, Kind: s.providers[name].kind, Label: s.providers[name].label})
	}
	return list
}

func (s *Service) provider(name string) (*provider, error) {
	if p := s.providers[name]; p != nil {
		return p, nil
	}
	return nil, levee.Invalid("provider", "one of those that GET /v1/providers lists", name)
}

// back is where a provider sends people back to: a page, which hands the answer to the API.
func (s *Service) back(p *provider) string { return s.PublicURL + "/sign-in/" + p.name + "/callback" }

// Origin is where a request came from.
type Origin = identity.Origin

func recordTx(ctx context.Context, tx *db.Tx, t *trail.Service, action string, user levee.UserID, before, after any, from Origin) error {
	return t.RecordTx(ctx, tx, trail.Act{Action: action, Kind: levee.KindUser, Subject: int64(user), Before: before, After: after,
		Address: from.Address, RequestID: from.RequestID})
}

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{schedule.Every("federation.prune", 10*time.Minute, job.Options{}, s.Prune)}
}
