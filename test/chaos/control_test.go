package chaos

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var control = flag.Bool("chaos.control", false, "build broken engines and see that they are caught (a minute of compiling)")

// fault is a change of the source that makes a liar of the program.
type fault struct{ file, old, new string }

// overlay writes the changed sources beside the tree, which stays as it is, and returns the file for go build.
func overlay(t *testing.T, faults ...fault) string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "levee").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir, replaced := t.TempDir(), map[string]string{}
	for _, f := range faults {
		path := filepath.Join(strings.TrimSpace(string(root)), filepath.FromSlash(f.file))
		from := path
		if replaced[path] != "" {
			from = replaced[path]
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), f.old) != 1 {
			t.Fatalf("%s does not hold this text once any more; say anew how it is broken:\n%s", f.file, f.old)
		}
		to := filepath.Join(dir, strings.ReplaceAll(f.file, "/", "_"))
		if err := os.WriteFile(to, []byte(strings.Replace(string(text), f.old, f.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		replaced[path] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// caught runs a broken program until the audit finds what it should, and fails the test if it does not.
func caught(t *testing.T, most int, want string, faults ...fault) {
	t.Helper()
	if !*control {
		t.Skip("needs -chaos.control")
	}
	r := newRun(t, build(t, overlay(t, faults...)))
	r.crowd.start(24)
	wrong := r.lives(t, most, want)
	r.crowd.halt()
	r.report(t)
	r.house.kill()
	if len(wrong) == 0 {
		t.Fatalf("the broken engine was not caught as %q in %d kills; otherwise:%s", want, r.killed, few(r.crowd.wrong))
	}
	t.Logf("caught after %d kills:%s", r.killed, few(wrong))
}

// An engine that tells buyers before the commit: a kill in between, and somebody was told a lie. Its disk is slow, because what
// SQLite gave to the kernel outlives a kill, and on a fast machine that takes less than a tenth of a millisecond.
func TestControlAnswersBeforeTheCommit(t *testing.T) {
	caught(t, 30, "SQL does not hold it", fault{"internal/platform/db/writer.go",
		"\tbefore := time.Now()\n\tif _, err := w.commit.ExecContext(background, nil); err != nil {",
		`	early := true
	for _, t := range w.group {
		early = early && t.name == "sale.settle"
	}
	if early {
		for _, t := range w.group {
			if t.err == nil {
				for _, f := range t.inOrder {
					f()
				}
			}
		}
		w.tell()
		time.Sleep(3 * time.Millisecond)
	}
	before := time.Now()
	if _, err := w.commit.ExecContext(background, nil); err != nil {`})
}

// An engine that remembers keys in memory only: after a restart the same key buys again.
func TestControlForgetsKeys(t *testing.T) {
	caught(t, 30, "for the same key", fault{"internal/sale/store.go", "\t\tif r.key == key {\n\t\t\treturn r, true, nil", "\t\tif false {\n\t\t\treturn r, true, nil"},
		fault{"internal/sale/settle.go", "\t\t\tif r.key == t.key {", "\t\t\tif false {"})
}

// An engine that begins with a gate as full as on the first day, and whose SQL does not look at the stock again.
func TestControlOversells(t *testing.T) {
	caught(t, 30, "oversold", fault{"internal/sale/settle.go", "\t\tcase units+int64(t.quantity) > stock.Remaining:", "\t\tcase false:"},
		fault{"internal/sale/store.go", `"UPDATE sale_stock SET remaining=remaining-?, reserved=reserved+? WHERE sale_id=? AND remaining>=?",
		units, units, sale, units)`, `"UPDATE sale_stock SET remaining=remaining-?, reserved=reserved+? WHERE sale_id=?",
		units, units, sale)`},
		fault{"internal/sale/recover.go", "l.gate.load(stock.Remaining, v.PerBuyer, holdings)", "l.gate.load(stock.Offered, v.PerBuyer, holdings)"})
}
