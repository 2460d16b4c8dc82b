package app_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

// administrator signs in somebody who may change limits.
func administrator(t *testing.T, h *apptest.House) *apptest.Client {
	t.Helper()
	_, err := h.App.Rooms.Identity.Create(levee.WithActor(t.Context(), levee.System),
		identity.NewUser{Name: "administrator", Password: obs.Secret(apptest.Password), Roles: levee.RoleAdministrator}, identity.Origin{})
	if err != nil && levee.CodeOf(err) != levee.CodeConflict {
		t.Fatal(err)
	}
	return h.SignIn(t, "administrator")
}

func readRate(cfg *app.Config) { cfg.Limits.Rates["read"] = "100/h" }

// An administrator changes a rate: callers see it in the next answer's headers, what they asked before counts, and the trail has it. Who set
// it far too low can take it back.
func TestLimitsAtRunTime(t *testing.T) {
	h := apptest.Start(t, readRate)
	boss := administrator(t, h)
	ask := func() *apptest.Answer { return h.Customer.Do("GET", "/v1/products", nil) }
	a := ask().Want(200)
	if got := a.Header.Get("RateLimit-Policy") + " " + a.Header.Get("RateLimit"); got != `"read";q=100;w=3600 "read";r=99;t=3600` {
		t.Error(got)
	}
	for _, who := range []*apptest.Client{h.Visitor, h.Customer, h.Operator} {
		if got := who.Do("PUT", "/v1/limits/read", map[string]any{"rate": "off"}, "If-Match: *").Status; got != http.StatusUnauthorized && got != http.StatusForbidden {
			t.Errorf("somebody else changes limits: %d", got)
		}
	}
	boss.Do("PUT", "/v1/limits/read", map[string]any{"rate": "0/s"}, "If-Match: *").WantError(422, levee.CodeInvalid).Contains("body.rate", "5/day")
	boss.Do("PUT", "/v1/limits/sleep", map[string]any{"rate": "5/d"}, "If-Match: *").WantError(404, levee.CodeNotFound)

	var view struct {
		Name, Scope, Rate, Configured, Away string
		Exact                               bool
		ChangedBy                           string    `json:"changed_by"`
		ChangedAt                           time.Time `json:"changed_at"`
	}
	boss.Do("PUT", "/v1/limits/read", map[string]any{"rate": "3/day"}, "If-Match: *").Want(200).Into(&view)
	if view.Rate != "3/d" || view.Configured != "100/h" || view.Scope != "address" || !view.Exact || view.Away != "open" ||
		!strings.HasPrefix(view.ChangedBy, "usr_") || view.ChangedAt.IsZero() {
		t.Errorf("%+v", view)
	}
	a = ask().Want(200)
	if got := a.Header.Get("RateLimit-Policy") + " " + a.Header.Get("RateLimit"); got != `"read";q=3;w=86400 "read";r=1;t=86400` {
		t.Errorf("%s: the one before does not count", got)
	}
	ask().Want(200)
	if a = ask(); a.Status != 429 || a.Header.Get("Retry-After") == "" || a.Header.Get("RateLimit") == "" {
		t.Errorf("%d %v", a.Status, a.Header)
	}
	if list := string(boss.Do("GET", "/v1/limits", nil).Want(200).Body); !strings.Contains(list, `"sms_house"`) || !strings.Contains(list, `"3/d"`) {
		t.Error(list)
	}
	boss.Do("DELETE", "/v1/limits/read", nil).Want(200).Contains(`"rate":"100/h"`)
	ask().Want(200)
	trail := string(boss.Do("GET", "/v1/audit", nil).Want(200).Body)
	if !strings.Contains(trail, `"limit.set"`) || !strings.Contains(trail, `"limit.reset"`) || !strings.Contains(trail, `"limit":"read","rate":"3/d"`) {
		t.Error(trail)
	}
}

// Three nodes on one database and one Redis go by a new rate soon, together.
func TestLimitsAtRunTimeOnThreeNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	dir := t.TempDir()
	nodes := make([]*apptest.House, 3)
	for i := range nodes {
		nodes[i] = apptest.StartNode(t, dir, readRate)
	}
	boss := administrator(t, nodes[0])
	began := time.Now()
	boss.Do("PUT", "/v1/limits/read", map[string]any{"rate": "6/d"}, "If-Match: *").Want(200)
	for _, h := range nodes {
		for h.App.Rooms.Throttle.Limits.Rate(limit.Read).String() != "6/d" {
			if time.Since(began) > 30*time.Second {
				t.Fatal("a node never followed")
			}
			time.Sleep(time.Millisecond)
		}
	}
	t.Logf("the nodes followed after %v", time.Since(began)) // by which clock they look is throttle's to test
	allowed := 0
	for i := range 30 {
		if nodes[i%3].Visitor.Do("GET", "/v1/products", nil).Status == 200 {
			allowed++
		}
	}
	if allowed != 6 {
		t.Errorf("three nodes allowed %d of 30, want 6", allowed)
	}
}
