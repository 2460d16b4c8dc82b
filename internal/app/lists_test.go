package app_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"levee"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

// TestListsRefuseTheUnknown walks the lists of the document, which are all that answer items: each refuses an unknown parameter and an unknown part of its rows, and says what it knows.
func TestListsRefuseTheUnknown(t *testing.T) {
	h := apptest.Start(t)
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ Name, In string }
			Roles       []string `json:"x-roles"`
			Responses   map[string]struct {
				Content map[string]struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
		Components struct {
			Schemas map[string]struct{ Properties map[string]json.RawMessage }
		}
	}
	h.Visitor.Do("GET", "/v1/openapi.json", nil).Want(200).Into(&doc)
	system := levee.WithActor(t.Context(), levee.System)
	if _, err := h.App.Rooms.Identity.Create(system,
		identity.NewUser{Name: "administrator", Password: obs.Secret(apptest.Password), Roles: levee.RoleAdministrator}, identity.Origin{}); err != nil {
		t.Fatal(err)
	}
	boss := h.SignIn(t, "administrator")
	sku := makeProduct(h, "LAMP", 10)
	sale := makeSale(h, sku, 2, nil)
	var order struct{ ID string }
	h.Customer.Do("POST", "/v1/orders", map[string]any{"lines": []any{map[string]any{"sku": sku, "quantity": 1}}}).Want(201).Into(&order)
	var hook struct{ ID string }
	h.Operator.Do("POST", "/v1/webhooks", map[string]any{"url": "https://example.com/hook", "events": []string{"*"}}).Want(201).Into(&hook)
	var me struct{ ID string }
	h.Customer.Do("GET", "/v1/me", nil).Want(200).Into(&me)
	paths := map[string]string{"/v1/skus/{id}/movements": sku, "/v1/orders/{id}/payments": order.ID, "/v1/webhooks/{id}/deliveries": hook.ID,
		"/v1/orders/{id}/timeline": order.ID, "/v1/sales/{sale}/acts": sale, "/v1/sales/{sale}/ledger": sale, "/v1/sales/{sale}/line": sale, "/v1/users/{id}/sessions": me.ID}
	seen := 0
	for path, methods := range doc.Paths {
		get, ok := methods["get"]
		if !ok {
			continue
		}
		var names []string
		for _, p := range get.Parameters {
			if p.In == "query" {
				names = append(names, p.Name)
			}
		}
		answer := get.Responses["200"].Content["application/json"].Schema.Ref
		if _, list := doc.Components.Schemas[answer[strings.LastIndexByte(answer, '/')+1:]].Properties["items"]; !list {
			continue
		}
		if !slices.Contains(names, "fields") {
			t.Errorf("%s answers items and does not keep the contract of lists", get.OperationID)
			continue
		}
		seen++
		t.Run(get.OperationID, func(t *testing.T) {
			at := path
			if id := paths[path]; id != "" {
				at = strings.NewReplacer("{id}", id, "{sale}", id).Replace(path)
			}
			who := h.Operator
			if len(get.Roles) > 0 && !slices.Contains(get.Roles, "operator") {
				who = boss
			}
			and := "?"
			if path == "/v1/parked-events" {
				and = "?listener=x&"
			}
			refused := who.Do("GET", at+and+"colour=red", nil).WantError(422, levee.CodeInvalid).Contains("query.colour")
			for _, name := range names {
				refused.Contains(name)
			}
			who.Do("GET", at+and+"fields=password", nil).WantError(422, levee.CodeInvalid).Contains("query.fields")
			var page struct{ Items []map[string]json.RawMessage }
			who.Do("GET", strings.TrimSuffix(at+and, "?"), nil).Want(200).Into(&page)
			if page.Items == nil {
				t.Error("it has no items")
			}
			if !slices.Contains(names, "cursor") {
				return
			}
			who.Do("GET", at+and+"limit=101", nil).WantError(422, levee.CodeInvalid).Contains("query.limit")
			who.Do("GET", at+and+"cursor=abc", nil).WantError(422, levee.CodeInvalid).Contains("query.cursor")
			if !slices.Contains(names, "export") {
				return
			}
			who.Do("GET", at+and+"export=csv", nil).Want(200)
			h.Visitor.Do("GET", at+and+"export=csv", nil).Want(401, 403)
			var trail struct{ Items []struct{ Action string } }
			boss.Do("GET", "/v1/audit?action=list.export&limit=1", nil).Want(200).Into(&trail)
			if len(trail.Items) != 1 {
				t.Error("the trail does not know of the export")
			}
		})
	}
	if seen < 27 {
		t.Errorf("the document has %d lists", seen)
	}
}
