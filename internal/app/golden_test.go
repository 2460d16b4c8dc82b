package app_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/platformtest"
)

var update = flag.Bool("update", false, "write the goldens anew")

// The maps of the house. A change that shows in one of them is meant to be seen by whoever reviews it.
func TestGoldens(t *testing.T) {
	h := apptest.Start(t)
	schema, err := h.App.DumpSchema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !platformtest.Distributed() { // the map is SQLite's; db proves that a schema means the same on both
		golden(t, "schema.golden.sql", schema)
	}
	golden(t, "routes.golden", strings.Join(h.App.Web.Routes(), "\n")+"\n")
	var events strings.Builder
	for _, e := range h.App.Events() {
		fmt.Fprintln(&events, e.Name, e.Listeners)
	}
	for _, j := range h.App.Jobs() {
		fmt.Fprintln(&events, "job", j.Name)
	}
	golden(t, "events.golden", events.String())
	golden(t, "config.golden", strings.Join(app.Keys(), "\n")+"\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make generate writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what the house is (make generate writes it anew):\n%s", name, diff)
	}
}
