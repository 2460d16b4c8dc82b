package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

// chief signs an administrator in.
func chief(t *testing.T, h *apptest.House) *apptest.Client {
	t.Helper()
	_, err := h.App.Rooms.Identity.Create(levee.WithActor(t.Context(), levee.System),
		identity.NewUser{Name: "chief", Password: obs.Secret(apptest.Password), Roles: levee.RoleCustomer | levee.RoleAdministrator}, identity.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	return h.SignIn(t, "chief")
}

func personal(t *testing.T, who *apptest.Client, scopes ...string) (p struct{ ID, Token string }) {
	t.Helper()
	who.Do("POST", "/v1/me/tokens", map[string]any{"name": "export", "scopes": scopes, "expires_at": time.Now().Add(time.Hour)}).Want(201).Into(&p)
	return p
}

// TestPersonalTokensOverHTTP: a token reaches what its scopes cover and its owner may, and never what gives a way in.
func TestPersonalTokensOverHTTP(t *testing.T) {
	h := apptest.Start(t)
	admin := chief(t, h)
	as := func(token string) *apptest.Client {
		c := h.Visitor.At(h.Base)
		c.Token = token
		return c
	}
	p := personal(t, h.Customer, "getMe", "orders:read")
	who := as(p.Token)
	who.Do("GET", "/v1/me", nil).Want(200)
	who.Do("GET", "/v1/orders", nil).Want(200)
	who.Do("GET", "/v1/notices", nil).WantError(403, levee.CodeForbidden)
	who.Do("POST", "/v1/orders", map[string]any{"lines": []any{}}).WantError(403, levee.CodeForbidden)

	// Whatever it is called: all of the administrator's rights, and no way in.
	all := as(personal(t, admin, "accounts:all", "administration:all").Token)
	all.Do("GET", "/v1/users", nil).Want(200)
	var me struct{ ID string }
	all.Do("GET", "/v1/me", nil).Want(200).Into(&me)
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/v1/me/tokens", nil},
		{"POST", "/v1/me/tokens", map[string]any{"name": "x", "scopes": []string{"getMe"}, "expires_at": time.Now().Add(time.Hour)}},
		{"DELETE", "/v1/me/tokens/" + p.ID, nil},
		{"PUT", "/v1/me/password", map[string]any{"current": apptest.Password, "password": "something else 7"}},
		{"POST", "/v1/users", map[string]any{"name": "mallory", "password": apptest.Password, "roles": []string{"administrator"}}},
		{"PUT", "/v1/users/" + me.ID + "/roles", map[string]any{"roles": []string{"administrator"}}},
		{"PUT", "/v1/users/" + me.ID + "/password", map[string]any{"password": "something else 7"}},
		{"POST", "/v1/users/" + me.ID + "/password-resets", nil},
		{"POST", "/v1/signing-keys", map[string]any{}},
		{"GET", "/v1/sessions", nil},
		{"DELETE", "/v1/sessions", nil},
	} {
		if a := all.Do(c.method, c.path, c.body); a.Status != 403 {
			t.Errorf("%s %s with a personal token: %d %s", c.method, c.path, a.Status, a.Body)
		}
	}
	// Signing in looks at no token: it needs the password.
	all.Do("POST", "/v1/sessions", map[string]any{"name": "chief", "password": "wrong-wrong-7"}).WantError(401, levee.CodeUnauthenticated)

	for _, scope := range []string{"nothing", "orders", "orders:write", "changePassword", "listUsers", "", "administration:all "} {
		a := h.Customer.Do("POST", "/v1/me/tokens", map[string]any{"name": "x", "scopes": []string{scope}, "expires_at": time.Now().Add(time.Hour)})
		if a.WantError(422, levee.CodeInvalid); !bytes.Contains(a.Body, []byte("body.scopes[0]")) {
			t.Errorf("%q: %s", scope, a.Body)
		}
	}
	h.Customer.Do("GET", "/v1/me/tokens", nil).Want(200).Contains(p.ID, "orders:read")
	if list := h.Customer.Do("GET", "/v1/me/tokens", nil); bytes.Contains(list.Body, []byte(p.Token[30:60])) {
		t.Error("the token is shown again")
	}
	admin.Do("GET", "/v1/audit?action=token.created", nil).Want(200).Contains(p.ID, "orders:read")
	h.Customer.Do("DELETE", "/v1/me/tokens/"+p.ID, nil).Want(204)
	who.Do("GET", "/v1/me", nil).WantError(401, levee.CodeUnauthenticated)
}

// TestPasswordResetOverHTTP: an administrator's link works once, and shows its token in no part of the address that a server sees.
func TestPasswordResetOverHTTP(t *testing.T) {
	h := apptest.Start(t)
	admin := chief(t, h)
	var me struct{ ID string }
	h.Customer.Do("GET", "/v1/me", nil).Want(200).Into(&me)
	var reset struct{ Token, URL string }
	admin.Do("POST", "/v1/users/"+me.ID+"/password-resets", nil).Want(201).Into(&reset)
	if reset.URL != h.Base+"/reset#"+reset.Token {
		t.Errorf("%q", reset.URL)
	}
	h.Visitor.Do("POST", "/v1/password-resets", map[string]any{"token": reset.Token, "password": "short"}).WantError(422, levee.CodeInvalid)
	h.Visitor.Do("POST", "/v1/password-resets", map[string]any{"token": reset.Token, "password": "a quite new one 5"}).Want(200).Contains(`"sessions_ended":1`)
	h.Visitor.Do("POST", "/v1/password-resets", map[string]any{"token": reset.Token, "password": "a quite new one 6"}).WantError(410, levee.CodeGone)
	h.Customer.Do("GET", "/v1/me", nil).WantError(401, levee.CodeUnauthenticated)
	h.Visitor.Do("POST", "/v1/sessions", map[string]any{"name": "customer", "password": "a quite new one 5"}).Want(201)
	var sessions struct {
		Items []struct{ ID, Links any }
	}
	admin.Do("GET", "/v1/users/"+me.ID+"/sessions", nil).Want(200).Into(&sessions)
	if len(sessions.Items) != 1 {
		t.Fatalf("%+v", sessions)
	}
	admin.Do("DELETE", fmt.Sprintf("/v1/users/%s/sessions/%v", me.ID, sessions.Items[0].ID), nil).Want(204)
	admin.Do("DELETE", "/v1/users/"+me.ID+"/sessions", nil).Want(200).Contains(`"sessions_ended":0`)
}

// TestTokensOnThreeNodes: what is given on one node is good on all, and what ends on one ends on all, while every node has it in its cache.
func TestTokensOnThreeNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	dir := t.TempDir()
	nodes := make([]*apptest.House, 3)
	for i := range nodes {
		nodes[i] = apptest.StartNode(t, dir)
	}
	admin := chief(t, nodes[0])
	everywhere := func(what string, status int, tokens ...string) {
		t.Helper()
		for i, n := range nodes {
			for _, token := range tokens {
				who := n.Visitor.At(n.Base)
				who.Token = token
				start := time.Now()
				eventually(t, fmt.Sprintf("%s on node %d", what, i), func() bool { return who.Do("GET", "/v1/me", nil).Status == status })
				t.Logf("%s: node %d after %v", what, i, time.Since(start).Round(time.Millisecond))
			}
		}
	}
	people := 0
	somebody := func() (c *apptest.Client, id, token string) {
		people++
		c = nodes[people%3].NewCustomer(t, fmt.Sprintf("person%d", people))
		token = personal(t, c, "getMe").Token
		everywhere("good", 200, c.Token, token)
		var me struct{ ID string }
		c.Do("GET", "/v1/me", nil).Want(200).Into(&me)
		return c, me.ID, token
	}
	_, id, token := somebody()
	c, _, _ := somebody()
	admin.At(nodes[1].Base).Do("POST", "/v1/users/"+id+"/disable", map[string]any{"reason": "test"}).Want(200)
	everywhere("disabled", 401, token)
	c.At(nodes[2].Base).Do("DELETE", "/v1/sessions/current", nil).Want(204)
	everywhere("signed out", 401, c.Token)
	c, id, token = somebody()
	admin.At(nodes[2].Base).Do("DELETE", "/v1/users/"+id+"/sessions", nil).Want(200)
	everywhere("ended by an administrator", 401, c.Token, token)
	c, id, _ = somebody()
	for _, n := range nodes {
		c.At(n.Base).Do("GET", "/v1/users", nil).Want(403)
	}
	admin.Do("PUT", "/v1/users/"+id+"/roles", map[string]any{"roles": []string{"customer", "administrator"}}).Want(200)
	for i, n := range nodes {
		eventually(t, fmt.Sprintf("new roles on node %d", i), func() bool { return c.At(n.Base).Do("GET", "/v1/users", nil).Status == 200 })
	}

	// A key that leaked: rolled and withdrawn on one node, refused on all.
	c, _, _ = somebody()
	var keys struct {
		Items []struct{ KID, State string }
	}
	admin.Do("GET", "/v1/signing-keys", nil).Want(200).Into(&keys)
	if len(keys.Items) != 1 {
		t.Fatalf("three nodes made %d keys", len(keys.Items))
	}
	admin.Do("POST", "/v1/signing-keys/"+keys.Items[0].KID+"/retire", map[string]any{"withdraw": true}).Want(200)
	everywhere("withdrawn", 401, c.Token)

	// Fifty refreshes at once over three nodes: one successor.
	var grant struct {
		RefreshToken string `json:"refresh_token"`
	}
	eventually(t, "the next key signs", func() bool {
		a := nodes[0].Visitor.Do("POST", "/v1/sessions", map[string]any{"name": "customer", "password": apptest.Password})
		return a.Status == http.StatusCreated && json.Unmarshal(a.Body, &grant) == nil
	})
	for _, n := range nodes {
		eventually(t, "the next key signs on every node", func() bool {
			return n.Visitor.Do("POST", "/v1/sessions", map[string]any{"name": "operator", "password": apptest.Password}).Status == http.StatusCreated
		})
	}
	var mu sync.Mutex
	successors := map[string]int{}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			var next struct {
				RefreshToken string `json:"refresh_token"`
			}
			nodes[i%3].Visitor.Do("POST", "/v1/tokens/refresh", map[string]any{"refresh_token": grant.RefreshToken}).Want(200).Into(&next)
			mu.Lock()
			defer mu.Unlock()
			successors[next.RefreshToken]++
		})
	}
	wg.Wait()
	if len(successors) != 1 {
		t.Errorf("%d successors of one token", len(successors))
	}
}
