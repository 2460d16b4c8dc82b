package token

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

// Routes adds the room's operations, and the key set for services that verify access tokens themselves.
func (s *Service) Routes(srv *web.Server) {
	const tag = "administration"
	srv.Handle("GET /.well-known/jwks.json", http.HandlerFunc(s.serveJWKS))
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/signing-keys", ID: "listSigningKeys", Tag: tag, Roles: levee.RoleAdministrator, Limit: limit.Read,
		Errors: []int{503}, Summary: "The keys that sign access tokens, newest first"}, listing.New[keyView](listing.Spec{Name: "signing-keys", Whole: true}), s.getKeys)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/signing-keys", ID: "rollSigningKey", Tag: tag, Status: 201, Roles: levee.RoleAdministrator,
		Limit: limit.Write, Fresh: true, BodyMax: 4 << 10, Errors: []int{409, 503}, Summary: "Make the next key that signs access tokens",
		Description: "It is published now and signs later, so that services that cache the key set know it by then; the one before stays known until its last token has expired."}, s.postKey)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/signing-keys/{kid}/retire", ID: "retireSigningKey", Tag: tag, Roles: levee.RoleAdministrator,
		Limit: limit.Write, Fresh: true, BodyMax: 4 << 10, Errors: []int{404, 409, 503}, Summary: "Take a key out of use; another takes its place",
		Description: "With withdraw, for a key that has leaked, whatever it signed is refused within a second on all nodes."}, s.retireKey)
}

// jwksMaxAge is how long the key set may be cached. It is well under the usual Config.KeyLead, so that a key is known before it signs.
const jwksMaxAge = "public, max-age=300"

func (s *Service) serveJWKS(w http.ResponseWriter, r *http.Request) {
	body := s.JWKS()
	sum := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", jwksMaxAge)
	h.Set("ETag", tag)
	h.Set("Access-Control-Allow-Origin", "*") // public keys, read without a credential
	for _, given := range strings.Split(strings.Join(r.Header.Values("If-None-Match"), ","), ",") {
		if given = strings.TrimPrefix(strings.TrimSpace(given), "W/"); given == tag || given == "*" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	_, _ = w.Write(body) // the caller has gone: nobody to tell
}

type keyView struct {
	ID          string     `json:"kid"`
	Algorithm   string     `json:"algorithm" enum:"RS256,EdDSA"`
	State       string     `json:"state" enum:"published,signing,retired,gone" doc:"published: known, does not sign yet; retired: signs no more, its tokens are good until they expire; gone: its tokens are refused"`
	MadeAt      *time.Time `json:"made_at,omitempty" doc:"Absent for the key that comes from the house's secret"`
	SignsAt     *time.Time `json:"signs_at,omitempty"`
	RetiresAt   *time.Time `json:"retires_at,omitempty" doc:"Absent while no other key waits to take its place"`
	GoneAt      *time.Time `json:"gone_at,omitempty"`
	WithdrawnAt *time.Time `json:"withdrawn_at,omitempty" doc:"When what it had signed was refused before its time"`
}

func viewKey(k Key) keyView {
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	return keyView{ID: k.ID, Algorithm: string(k.Algorithm), State: string(k.State), MadeAt: when(k.MadeAt), SignsAt: when(k.SignsAt),
		RetiresAt: when(k.RetiresAt), GoneAt: when(k.GoneAt), WithdrawnAt: when(k.WithdrawnAt)}
}

func (s *Service) getKeys(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[keyView], error) {
	list, err := s.Keys(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]keyView, len(list))
	for i, k := range list {
		views[i] = viewKey(k)
	}
	return listing.Whole(views), nil
}

type rollRequest struct {
	Body struct {
		Algorithm string `json:"algorithm,omitempty" enum:"RS256,EdDSA" doc:"Default: the configuration's"`
		Now       bool   `json:"now,omitempty" doc:"Sign with it at once; a key that waits already is taken. Services that cache the key set must read it again when they meet a key that they do not know."`
	}
}

type keyAnswer struct{ Body keyView }

func (s *Service) postKey(ctx context.Context, in *rollRequest) (*keyAnswer, error) {
	k, err := s.Roll(ctx, Rolling{Algorithm: Algorithm(in.Body.Algorithm), Now: in.Body.Now})
	if err != nil {
		return nil, err
	}
	return &keyAnswer{viewKey(k)}, nil
}

type retireRequest struct {
	ID   string `path:"kid" maxLength:"64"`
	Body struct {
		Withdraw bool `json:"withdraw,omitempty" doc:"It has leaked: refuse at once what it signed"`
	}
}

func (s *Service) retireKey(ctx context.Context, in *retireRequest) (*keyAnswer, error) {
	k, err := s.Retire(ctx, in.ID, in.Body.Withdraw)
	if err != nil {
		return nil, err
	}
	return &keyAnswer{viewKey(k)}, nil
}
