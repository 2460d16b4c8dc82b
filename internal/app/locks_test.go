package app_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// askLock asks a house about a lock as a program does.
func askLock(t *testing.T, h *apptest.House, method, path, body string) (status int, self string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.Base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+lendSecret)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	var v struct{ Links struct{ Self string } }
	if err != nil || len(text) > 0 && json.Unmarshal(text, &v) != nil {
		t.Fatalf("%s %s: %v %.300s", method, path, err, text)
	}
	return res.StatusCode, v.Links.Self
}

// A lease of one node is known to the next one, and a house that was stopped in between.
func TestHousesLendLocks(t *testing.T) {
	kinds := map[string]string{"default": ""}
	if platformtest.Distributed() {
		kinds["sql"] = "sql:"
	}
	s, err := backends.Etcd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kinds["etcd"] = s.URL()
	for kind, where := range kinds {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			if platformtest.Distributed() { // the house's database lasts as long as its first user's test
				platformtest.MySQL(t, dir, app.Schemas()...)
			}
			lends := func(c *app.Config) {
				c.Lend.Clients, c.Locks = obs.Secret("billing:"+lendSecret), where
				c.Etcd.Prefix = strings.ToLower(strings.ReplaceAll(dir, "_", "-"))[max(0, len(dir)-60):] + "/"
			}
			const path = "/v1/locks/day-end/leases"
			self := ""
			t.Run("before the restart", func(t *testing.T) { // its houses stop with its end
				first := apptest.StartIn(t, dir, lends)
				status, link := askLock(t, first, "POST", path, `{"ttl_ms":600000}`)
				if self = link; status != 201 {
					t.Fatal(status)
				}
				if platformtest.Distributed() {
					if status, _ := askLock(t, apptest.StartIn(t, dir, lends), "POST", path, `{}`); status != 409 {
						t.Errorf("at the second node: %d", status)
					}
				}
			})
			third := apptest.StartIn(t, dir, lends)
			if status, _ := askLock(t, third, "POST", path, `{"wait_ms":100}`); status != 409 {
				t.Errorf("after a restart: %d", status)
			}
			for _, one := range []struct {
				method, path string
				want         int
			}{{"POST", self + "/renewals", 200}, {"DELETE", self, 204}, {"DELETE", self, 410}, {"POST", path, 201}} {
				body := ""
				if one.path == path {
					body = "{}"
				}
				if status, _ := askLock(t, third, one.method, one.path, body); status != one.want {
					t.Errorf("%s %s: %d, want %d", one.method, one.path, status, one.want)
				}
			}
			// An operator's token is no program's secret.
			third.Operator.Do("POST", path, map[string]any{}).Want(http.StatusUnauthorized)
		})
	}
}

func TestLocksLine(t *testing.T) {
	for _, bad := range []app.Config{{Locks: "redis:"}, {Locks: "x"}, {Locks: "etcd://a:1", IDs: "etcd://b:1"}} {
		bad.Data = t.TempDir()
		if _, err := app.New(t.Context(), bad, io.Discard); levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), "locks") {
			t.Errorf("%+v: %v", bad.Locks, err)
		}
	}
}
