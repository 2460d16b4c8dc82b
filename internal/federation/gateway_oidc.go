package federation

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"levee"
	"levee/internal/foreign"
	"levee/internal/platform/obs"
)

const (
	metadataTTL   = time.Hour        // how long an issuer's metadata are believed
	metadataPause = 30 * time.Second // the least time between two reads that failed, once they were read
	metadataRetry = time.Second      // the same until then
)

// metadata of an OpenID provider (OpenID Connect Discovery 1.0, section 3; RFC 8414; RFC 9207).
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorize     string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Keys          string   `json:"jwks_uri"`
	TokenAuth     []string `json:"token_endpoint_auth_methods_supported"`
	IssuerInReply bool     `json:"authorization_response_iss_parameter_supported"`
	tokens        *foreign.Issuer
}

// oidc is an OpenID provider (OpenID Connect Core 1.0, section 3.1; PKCE by RFC 7636 with S256). Its ID tokens are read by foreign, which knows what a good
// token of another issuer is, and bounds how often keys are read.
type oidc struct {
	cfg      Provider
	insecure []string
	caller   *caller
	now      obs.Clock
	log      *slog.Logger

	mu          sync.Mutex // guards what follows; held while metadata are read, so that one reads them for all
	read, tried time.Time
	known       *metadata
}

func newOIDC(cfg Provider, insecure []string, c *caller, now obs.Clock, log *slog.Logger) *oidc {
	return &oidc{cfg: cfg, insecure: insecure, caller: c, now: now, log: log}
}

// metadata returns the provider's, read anew every hour. Those that cannot be read anew are kept.
func (o *oidc) metadata(ctx context.Context) (*metadata, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if o.known != nil && now.Sub(o.read).Abs() < metadataTTL {
		return o.known, nil
	}
	pause := metadataPause
	if o.known == nil {
		pause = metadataRetry
	}
	if o.tried.IsZero() || now.Sub(o.tried).Abs() >= pause {
		o.tried = now
		m, err := o.discover(context.WithoutCancel(ctx)) // it is read for others too
		if err != nil {
			o.log.WarnContext(ctx, "the metadata of an OpenID provider cannot be read; those known are kept", "issuer", o.cfg.Issuer, "error", err)
		} else {
			if o.known != nil && o.known.Keys == m.Keys {
				m.tokens = o.known.tokens
			} else {
				m.tokens = foreign.New(foreign.Config{Issuer: m.Issuer, Audience: o.cfg.ClientID, Keys: m.Keys, Insecure: o.insecure}, o.now, o.log)
			}
			o.known, o.read = m, now
		}
	}
	if o.known == nil {
		return nil, &fault{ReasonAway, "the provider's metadata could not be read"}
	}
	return o.known, nil
}

func (o *oidc) discover(ctx context.Context) (*metadata, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(o.cfg.Issuer, "/")+"/.well-known/openid-configuration", http.NoBody)
	if err != nil {
		return nil, err
	}
	m := &metadata{}
	status, err := o.caller.json(r, m)
	switch {
	case err != nil:
		return nil, err
	case status != http.StatusOK:
		return nil, fmt.Errorf("answered %d", status)
	case m.Issuer != o.cfg.Issuer: // section 4.3: exactly
		return nil, errors.New("they are of another issuer")
	}
	for name, address := range map[string]string{"authorization_endpoint": m.Authorize, "token_endpoint": m.Token, "jwks_uri": m.Keys} {
		if !reachable(address, o.insecure) {
			return nil, fmt.Errorf("%s is not an address that may be asked", name)
		}
	}
	return m, nil
}

func (o *oidc) address(ctx context.Context, a *attempt, state, back string) (string, error) {
	m, err := o.metadata(ctx)
	if err != nil {
		return "", err
	}
	scopes := o.cfg.Scopes
	if len(scopes) == 0 {
		scopes = []string{"openid", "profile"}
	}
	u, err := url.Parse(m.Authorize)
	if err != nil {
		return "", err
	}
	challenge := sha256.Sum256([]byte(a.verifier))
	q := u.Query()
	for name, value := range map[string]string{"response_type": "code", "client_id": o.cfg.ClientID, "redirect_uri": back, "scope": strings.Join(scopes, " "),
		"state": state, "nonce": a.nonce, "code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256"} {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// tokenReply is what a token endpoint answers (RFC 6749, sections 5.1 and 5.2).
type tokenReply struct {
	Access  string `json:"access_token"`
	ID      string `json:"id_token"`
	Type    string `json:"token_type"`
	Problem string `json:"error"`
}

func (o *oidc) prove(ctx context.Context, a *attempt, in Answer, back string) (person, error) {
	m, err := o.metadata(ctx)
	if err != nil {
		return person{}, err
	}
	// RFC 9207: who came back from another provider than the one he was sent to has a code that must not be shown to this one.
	if in.Issuer != "" && in.Issuer != o.cfg.Issuer || in.Issuer == "" && m.IssuerInReply {
		return person{}, &fault{ReasonAnswer, "the answer is of another issuer, or does not say of which"}
	}
	reply, err := o.swap(ctx, m, a, in.Code, back)
	if err != nil {
		return person{}, err
	}
	return o.believe(m, a, reply)
}

// swap gives the code for tokens.
func (o *oidc) swap(ctx context.Context, m *metadata, a *attempt, code, back string) (reply tokenReply, err error) {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {back}, "code_verifier": {a.verifier}}
	// Without a word on it, Basic is what every provider takes (Discovery, section 3).
	basic := o.cfg.ClientSecret != "" && (len(m.TokenAuth) == 0 || slices.Contains(m.TokenAuth, "client_secret_basic"))
	if !basic {
		form.Set("client_id", o.cfg.ClientID)
		if o.cfg.ClientSecret != "" {
			form.Set("client_secret", o.cfg.ClientSecret.Reveal())
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return reply, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	if basic {
		r.SetBasicAuth(url.QueryEscape(o.cfg.ClientID), url.QueryEscape(o.cfg.ClientSecret.Reveal())) // RFC 6749, section 2.3.1
	}
	status, err := o.caller.json(r, &reply)
	switch {
	case err != nil:
		return reply, &fault{ReasonAway, "the token endpoint: " + err.Error()}
	case status >= 500 || status == http.StatusTooManyRequests:
		return reply, &fault{ReasonAway, fmt.Sprintf("the token endpoint answered %d", status)}
	case reply.Problem == "invalid_grant":
		return reply, &fault{ReasonCode, "the token endpoint does not take the code"}
	case status != http.StatusOK || reply.Problem != "":
		return reply, &fault{ReasonRefused, fmt.Sprintf("the token endpoint answered %d: %s", status, word(reply.Problem))}
	case reply.ID == "":
		return reply, &fault{ReasonAnswer, "the token endpoint gave no ID token"}
	}
	return reply, nil
}

// believe holds the ID token against what was asked for (Core, section 3.1.3.7): besides signature, issuer, audience and times, which foreign checks, that it was
// made for this client and this attempt, and for the access token beside it.
func (o *oidc) believe(m *metadata, a *attempt, reply tokenReply) (person, error) {
	t, err := m.tokens.Verify(reply.ID)
	if levee.CodeOf(err) == levee.CodeUnavailable {
		return person{}, &fault{ReasonAway, "the provider's keys cannot be read"}
	} else if err != nil {
		return person{}, &fault{ReasonAnswer, "the ID token is no good"}
	}
	text := func(claim string) string { s, _ := t.Claims[claim].(string); return s }
	party, named := t.Claims["azp"]
	audience, several := t.Claims["aud"].([]any)
	_, issued := t.Claims["iat"].(float64)
	access, bound := t.Claims["at_hash"]
	switch {
	case !equal(text("nonce"), a.nonce):
		return person{}, &fault{ReasonAnswer, "the ID token has another nonce"}
	case named && party != o.cfg.ClientID, several && len(audience) > 1 && !named:
		return person{}, &fault{ReasonAnswer, "the ID token was made for another party"}
	case !issued:
		return person{}, &fault{ReasonAnswer, "the ID token does not say when it was made"}
	case bound && access != accessHash(t.Algorithm, reply.Access):
		return person{}, &fault{ReasonAnswer, "the ID token was made with another access token"}
	}
	who := person{keys: []key{{o.cfg.Issuer, t.Subject}}}
	for _, claim := range []string{"preferred_username", "nickname", "name"} {
		if said := text(claim); said != "" {
			who.name, who.called = orElse(who.name, said), said
		}
	}
	who.called = clean(who.called)
	return who, nil
}

// accessHash is an access token's at_hash (Core, section 3.1.3.6): the left half of its hash by the signature's algorithm; SHA-512 with Ed25519.
func accessHash(algorithm, access string) string {
	sum := sha256.Sum256([]byte(access))
	half := sum[:len(sum)/2]
	if algorithm == "EdDSA" {
		long := sha512.Sum512([]byte(access))
		half = long[:len(long)/2]
	}
	return base64.RawURLEncoding.EncodeToString(half)
}
