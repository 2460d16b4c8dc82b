package app_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

const lendSecret = "it-is-0123456789abcdef0123456789abcdef"

// borrow asks a house for ids as a program does.
func borrow(t *testing.T, h *apptest.House, query string) (ids []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", h.Base+"/v1/ids?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+lendSecret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	var v struct{ IDs []string }
	if err != nil || res.StatusCode != 200 || json.Unmarshal(body, &v) != nil {
		t.Errorf("%s: %v %d %.300s", query, err, res.StatusCode, body)
	}
	return v.IDs
}

// Two nodes (on the embedded tier one) lend to many programs at once, and number their own things meanwhile: every id is given once.
func TestHousesLendIDs(t *testing.T) {
	dir := t.TempDir()
	lends := func(c *app.Config) { c.Lend.Clients = obs.Secret("billing:" + lendSecret) }
	houses := []*apptest.House{apptest.StartIn(t, dir, lends)}
	if platformtest.Distributed() {
		houses = append(houses, apptest.StartIn(t, dir, lends))
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 4 {
		for _, query := range []string{"count=1000", "count=100&layout=js53", "count=7&tag=invoice"} {
			wg.Go(func() {
				for range 10 {
					ids := borrow(t, houses[i%len(houses)], query)
					mu.Lock()
					for _, id := range ids {
						if key := query[len(query)-7:] + id; seen[key] {
							t.Errorf("%s %s was given twice", query, id)
						} else {
							seen[key] = true
						}
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if len(seen) != 4*10*(1000+100+7) {
		t.Errorf("%d ids", len(seen))
	}
	// An operator's token is no program's secret, and a program's secret opens nothing else.
	houses[0].Operator.Do("GET", "/v1/ids", nil).Want(http.StatusUnauthorized)
	program := *houses[0].Operator
	program.Token = lendSecret
	program.Do("GET", "/v1/me", nil).Want(http.StatusUnauthorized)
}

// With ids = "redis:" or "etcd://…" the house keeps its worker numbers there.
func TestIDsElsewhere(t *testing.T) {
	s, err := backends.Etcd(t.Context())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	stores := []string{s.URL()}
	if platformtest.Distributed() {
		stores = append(stores, "redis:")
	}
	for _, ids := range stores {
		h := apptest.Start(t, func(c *app.Config) {
			c.IDs, c.Etcd.Prefix = ids, fmt.Sprintf("test/%s/", strings.ToLower(strings.NewReplacer("/", "-").Replace(t.Name())))
		})
		h.NewCustomer(t, "somebody")
	}
	for _, bad := range []app.Config{{IDs: "etcd://"}, {IDs: "etcd://u:secret@h:1"}, {IDs: "redis:"}, {IDs: "zookeeper:"}, {Mode: "distributed", DB: "mysql://u@h:1/d", Redis: "redis://h:1", IDs: "file:",
		Secret: obs.Secret(strings.Repeat("00", 32))}} {
		bad.Data = t.TempDir()
		if _, err := app.New(t.Context(), bad, io.Discard); levee.CodeOf(err) != levee.CodeInvalid || strings.Contains(err.Error(), "secret") {
			t.Errorf("ids = %q: %v", bad.IDs, err)
		}
	}
}
