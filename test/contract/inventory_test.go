package contract

import (
	"slices"
	"testing"
)

// outside of the document on purpose, with the reason.
var outside = map[string]string{
	"GET /":                      "the page of the house, or for programs the links of GET /v1",
	"GET /docs":                  "pages that show the document",
	"GET /healthz":               "for whoever watches the process: one word",
	"GET /readyz":                "for whoever sends it requests: one word",
	"GET /metrics":               "for Prometheus, in its own form",
	"GET /v1/openapi.json":       "the document itself",
	"GET /.well-known/jwks.json": "keys, in the form of RFC 7517",
	"/test-provider/":            "the test provider's pages: another system in real life",
}

// TestInventory: the router knows nothing that the document does not, and the document nothing that the router does not.
func TestInventory(t *testing.T) {
	s := open(t)
	patterns := s.house.App.Web.Patterns()
	var documented []string
	for _, op := range s.doc.Operations {
		pattern := op.Method + " " + op.Path
		documented = append(documented, pattern)
		if !slices.Contains(patterns, pattern) {
			t.Errorf("the document has %s, the router does not", pattern)
		}
	}
	for _, p := range patterns {
		switch reason := outside[p]; {
		case slices.Contains(documented, p) && reason != "":
			t.Errorf("%s is documented, and listed as outside of the document", p)
		case !slices.Contains(documented, p) && reason == "":
			t.Errorf("the router knows %s, the document does not: document it, or say why not", p)
		}
	}
	for p := range outside {
		if !slices.Contains(patterns, p) {
			t.Errorf("%s is listed as outside of the document, and is not there", p)
		}
	}
}
