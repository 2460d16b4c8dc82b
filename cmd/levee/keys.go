package main

import (
	"net/http"
	"net/url"
	"time"

	"levee"
)

type keysCmd struct {
	List   keysListCmd   `cmd:"" help:"List the keys that sign access tokens, newest first."`
	Roll   keysRollCmd   `cmd:"" help:"Make the next key: published now, signing later."`
	Retire keysRetireCmd `cmd:"" help:"Take a key out of use; another takes its place."`
}

// signingKey is a key as the server shows it.
type signingKey struct {
	KID         string     `json:"kid"`
	Algorithm   string     `json:"algorithm"`
	State       string     `json:"state"`
	SignsAt     *time.Time `json:"signs_at"`
	RetiresAt   *time.Time `json:"retires_at"`
	GoneAt      *time.Time `json:"gone_at"`
	WithdrawnAt *time.Time `json:"withdrawn_at"`
}

func (c *remote) showKeys(env *common, keys ...signingKey) error {
	t := newColumns(env, "KEY", "ALGORITHM", "STATE", "SIGNS FROM", "RETIRES", "GONE")
	for _, k := range keys {
		gone := k.GoneAt
		if k.WithdrawnAt != nil {
			gone = k.WithdrawnAt
		}
		t.row(k.KID, k.Algorithm, k.State, at(k.SignsAt), at(k.RetiresAt), at(gone))
	}
	return t.end()
}

type keysListCmd struct{ remote }

func (c *keysListCmd) Run(env *common) error {
	return c.with(env, func(s *caller) error {
		if c.JSON {
			return s.show("/v1/signing-keys")
		}
		var list struct{ Items []signingKey }
		if err := s.call(env.ctx, http.MethodGet, "/v1/signing-keys", nil, &list); err != nil {
			return err
		}
		return c.showKeys(env, list.Items...)
	})
}

type keysRollCmd struct {
	remote
	Algorithm string `enum:",RS256,EdDSA" default:"" help:"RS256 or EdDSA. Default: token.algorithm of the server's configuration."`
	Now       bool   `help:"Sign with it at once: services that cache the key set must read it again when they meet a key that they do not know."`
}

func (c *keysRollCmd) Run(env *common) error {
	body := map[string]any{"now": c.Now}
	if c.Algorithm != "" {
		body["algorithm"] = c.Algorithm
	}
	return c.with(env, func(s *caller) error { return c.post(s, "/v1/signing-keys", body) })
}

type keysRetireCmd struct {
	remote
	Key      string `arg:"" help:"The key's id (levee keys list)."`
	Withdraw bool   `help:"It has leaked: refuse at once, on all nodes, what it signed."`
}

func (c *keysRetireCmd) Run(env *common) error {
	if c.Key == "" || len(c.Key) > 64 {
		return levee.Invalid("KEY", "a key's id", levee.Shorten(c.Key, 64))
	}
	return c.with(env, func(s *caller) error {
		return c.post(s, "/v1/signing-keys/"+url.PathEscape(c.Key)+"/retire", map[string]any{"withdraw": c.Withdraw})
	})
}

// post does something to a key and shows it.
func (c *remote) post(s *caller, path string, body any) error {
	var k signingKey
	if err := s.call(s.env.ctx, http.MethodPost, path, body, &k); err != nil {
		return err
	}
	return c.showKeys(s.env, k)
}
