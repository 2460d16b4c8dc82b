package deploy_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/obs"
)

var (
	rule       = regexp.MustCompile(`- alert: (\S+)\n\s+expr: (.*)\n`)
	row        = regexp.MustCompile("(?m)^\\| (Levee\\w+) \\| `(.*)` \\| .+ \\|$")
	metric     = regexp.MustCompile(`\b(?:levee|process|go)_[a-z0-9_]*[a-z0-9]\b`)
	selector   = regexp.MustCompile(`\b((?:levee|process|go)_[a-z0-9_]*[a-z0-9])\{([^}]*)\}`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
	label      = regexp.MustCompile(`([a-z_]+)\s*=`)
	described  = regexp.MustCompile(`fqName: "([^"]+)".*constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)
	labelOrNot = regexp.MustCompile(`[a-z_]+`)
)

// described by the one who scrapes, not by the node.
var scraped = []string{"job", "instance", "le"}

// registered returns the labels of every metric that a house has, also of those that have not counted anything yet.
func registered(o *obs.Obs) map[string][]string {
	all := map[string][]string{}
	descs := make(chan *prometheus.Desc)
	go func() { o.Metrics.Describe(descs); close(descs) }()
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			continue
		}
		labels := all[m[1]]
		for _, pair := range strings.Split(m[2], ",") {
			name, _, _ := strings.Cut(pair, "=")
			labels = append(labels, name)
		}
		for _, name := range strings.Split(m[3], ",") {
			labels = append(labels, strings.TrimPrefix(name, "c(")) // a constrained label is shown so
		}
		all[m[1]] = labels
	}
	return all
}

// base is a metric's name without what a histogram puts behind it.
func base(name string, known map[string][]string) string {
	if known[name] == nil {
		for _, end := range []string{"_bucket", "_sum", "_count"} {
			if short, ok := strings.CutSuffix(name, end); ok && known[short] != nil {
				return short
			}
		}
	}
	return name
}

// wrong returns what a text names that the house does not have.
func wrong(text string, known map[string][]string) (list []string) {
	var labels []string // of all that the text names
	for _, name := range metric.FindAllString(text, -1) {
		if of, ok := known[base(name, known)]; !ok {
			list = append(list, name)
		} else {
			labels = append(labels, of...)
		}
	}
	for _, m := range selector.FindAllStringSubmatch(text, -1) {
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(known[base(m[1], known)], l[1]) && !slices.Contains(scraped, l[1]) {
				list = append(list, m[1]+"{"+l[1]+"}")
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(text, -1) {
		for _, l := range labelOrNot.FindAllString(m[1], -1) {
			if !slices.Contains(labels, l) && !slices.Contains(scraped, l) {
				list = append(list, "by ("+l+")")
			}
		}
	}
	return list
}

// alerts returns the rules by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range rule.FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = m[2]
	}
	if n := strings.Count(string(text), "alert:"); n != len(all) || n < 10 {
		t.Fatalf("%d of %d alerts could be read", len(all), n)
	}
	return all
}

// Alerts stand on metrics and labels that a node has, and the page says the same as the file.
func TestAlerts(t *testing.T) {
	rules, page := alerts(t), files(t)["../docs/operate.md"]
	rows := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		rows[m[1]] = m[2]
	}
	if !maps.Equal(rules, rows) {
		for name := range rules {
			if rows[name] != rules[name] {
				t.Errorf("%s is %q in alerts.yaml and %q in operate.md", name, rules[name], rows[name])
			}
		}
		for name := range rows {
			if rules[name] == "" {
				t.Errorf("operate.md has the alert %s, alerts.yaml has not", name)
			}
		}
	}
	if testing.Short() {
		t.Skip("the metrics are those of a node of several, on MariaDB and Redis")
	}
	h := apptest.StartNode(t, t.TempDir())
	known := registered(h.App.Obs)
	if len(known) < 80 {
		t.Fatalf("only %d metrics are registered", len(known))
	}
	for _, text := range append(slices.Collect(maps.Values(rules)), page) {
		if list := wrong(text, known); len(list) > 0 {
			t.Errorf("%.60q names what no node has: %q", text, list)
		}
	}
	// The control: each kind of mistake is found.
	for _, mistake := range []string{"rate(levee_redis_ups[1m])", `levee_redis_errors_total{why="timeout"}`, "sum by (shop) (levee_redis_up)", "levee_db_commit_second_bucket"} {
		if list := wrong(mistake, known); len(list) != 1 {
			t.Errorf("of %s only %q is found", mistake, list)
		}
	}
	if list := wrong(`sum by (le) (rate(levee_db_commit_seconds_bucket{job="levee"}[1m]))`, known); len(list) > 0 {
		t.Errorf("a right one is refused: %q", list)
	}
	// What the alerts compare by value is shown so.
	answer := h.Visitor.Do("GET", "/metrics", nil).Want(200)
	for _, shown := range []string{`outcome="dead"`, `verdict="away"`, `class="5xx"`, "levee_redis_up 1", "levee_redis_hearing 1"} {
		answer.Contains(shown)
	}
	// Every check of the doctor is explained.
	d := app.Doctor{Config: h.App.Config, DiskFloor: 1}
	found, err := d.Examine(t.Context())
	if err != nil || len(found) < 10 {
		t.Fatalf("the doctor looked at %d things: %v", len(found), err)
	}
	for _, f := range found {
		if !strings.Contains(page, fmt.Sprintf("| `%s`", f.Check)) {
			t.Errorf("operate.md does not explain the doctor's check %q", f.Check)
		}
	}
}

// Prometheus itself takes the rules, where it can be had.
func TestPrometheusTakesAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool")
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "alerts.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	broken := filepath.Join(t.TempDir(), "alerts.yaml")
	if err := os.WriteFile(broken, []byte("groups: [{name: a, rules: [{alert: A, expr: 'rate('}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", broken).CombinedOutput(); err == nil {
		t.Errorf("broken rules are taken: %s", out)
	}
}

var tomlBlock = regexp.MustCompile("(?s)```toml\n(.*?)```")

// The lines that make a house distributed are lines that the program takes.
func TestPageIsTaken(t *testing.T) {
	blocks := tomlBlock.FindAllStringSubmatch(files(t)["../docs/operate.md"], -1)
	if len(blocks) == 0 {
		t.Fatal("no configuration was found")
	}
	for _, b := range blocks {
		path := filepath.Join(t.TempDir(), "levee.toml")
		if err := os.WriteFile(path, []byte(b[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := app.ReadConfig(path, []string{"LEVEE_SECRET=" + strings.Repeat("ab", 32)})
		if err != nil || cfg.Mode != "distributed" {
			t.Errorf("%s: %v, mode %q", b[1], err, cfg.Mode)
		}
	}
}
