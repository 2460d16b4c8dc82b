package deploy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/deploy"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/backends"
)

// files are all that is shipped here, by name.
func files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"nginx.conf", "compose.yaml", "Dockerfile", "levee.service", "kubernetes/*.yaml", "../docs/operate.md", "../docs/beyond.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v, no such file", pattern, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(text)
		}
	}
	return all
}

// What a person types in front of these files, and what is the program's own.
var notKeys = []string{"LEVEE_PORT", "LEVEE_PUBLIC_URL", "LEVEE_TAG", "LEVEE_PASSWORD", "LEVEE_TOKEN", "LEVEE_SECTION__KEY"}

var (
	variable = regexp.MustCompile(`LEVEE_[A-Z][A-Z0-9_]*`)
	dotted   = regexp.MustCompile(`\b(?:http|live|node|database|redis_server|sale|catalog|limits|order|identity|admission|notify|payment|log)\.[a-z]+[a-z_.]*[a-z]\b`)
)

// unknownKeys returns what a text names that the program has no key for.
func unknownKeys(text string) (unknown []string) {
	known := map[string]bool{}
	for _, line := range app.Keys() {
		key, _, _ := strings.Cut(line, " ")
		known[key] = true
	}
	for _, name := range variable.FindAllString(text, -1) {
		key := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "LEVEE_")), "__", ".")
		if !known[key] && !slices.Contains(notKeys, name) && !strings.HasPrefix(name, "LEVEE_TEST_") {
			unknown = append(unknown, name)
		}
	}
	for _, key := range dotted.FindAllString(text, -1) {
		if !known[key] {
			unknown = append(unknown, key)
		}
	}
	return unknown
}

func TestKeysExist(t *testing.T) {
	for name, text := range files(t) {
		if unknown := unknownKeys(text); len(unknown) > 0 {
			t.Errorf("%s names what levee config --keys does not have: %q", name, unknown)
		}
	}
	if got := unknownKeys("LEVEE_HTTP__ADR and http.trusted_proxys, not LEVEE_HTTP__ADDR"); len(got) != 2 {
		t.Errorf("of two misspelt keys %q were found", got)
	}
}

var setting = regexp.MustCompile(`(?m)^\s*(?:Environment=|ENV )?(LEVEE_[A-Z0-9_]+)[:=] ?"?([^"\s#]+)`)

// What the files set is a configuration that the program takes; only its secrets' files and what a shell fills in are put in here.
func TestSettingsAreTaken(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	texts := files(t)
	for _, name := range []string{"compose.yaml", "kubernetes/levee.yaml"} {
		environ := []string{"LEVEE_SECRET_FILE=" + secret, "LEVEE_DATABASE__PASSWORD_FILE=" + secret, "LEVEE_REDIS_SERVER__PASSWORD_FILE=" + secret}
		for _, m := range setting.FindAllStringSubmatch(texts[name], -1) {
			value := m[2]
			if strings.HasSuffix(m[1], "_FILE") {
				continue
			}
			if _, usual, ok := strings.Cut(value, ":-"); ok {
				value = strings.TrimSuffix(usual, "}")
			}
			environ = append(environ, m[1]+"="+value)
		}
		if len(environ) < 9 {
			t.Errorf("%s: only %q were found", name, environ)
		}
		cfg, err := app.ReadConfig("", environ)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if cfg.Mode != "distributed" || len(cfg.HTTP.TrustedProxies) != 1 || cfg.HTTP.Addr != ":8080" {
			t.Errorf("%s gives %s", name, cfg.Show())
		}
	}
}

// Kubernetes puts LEVEE_PORT, LEVEE_SERVICE_HOST and more into the environment for a Service named levee, and those are no keys.
func TestNoServiceLinks(t *testing.T) {
	text := files(t)["kubernetes/levee.yaml"]
	if n := strings.Count(text, "kind: Deployment"); n == 0 || strings.Count(text, "enableServiceLinks: false") != n {
		t.Errorf("not all of the %d Deployments switch service links off", n)
	}
	if _, err := app.ReadConfig("", []string{"LEVEE_PORT=tcp://10.0.0.1:80"}); err == nil {
		t.Error("such a variable is taken by now: the line is of no use")
	}
}

var probe = regexp.MustCompile(`(?:httpGet: \{path: |http://127\.0\.0\.1)(/[a-z0-9/]+)`)

// Probes ask for pages that the house has, and the operations that nginx repeats are those whose answers are kept.
func TestPagesExist(t *testing.T) {
	h := apptest.Start(t)
	// The shop's page answers 200 to every path that is no other: a probe of such a path would be well for ever.
	says := func(path string) bool {
		answer := h.Visitor.Do("GET", path, nil)
		return answer.Status == http.StatusOK && strings.HasPrefix(answer.Header.Get("Content-Type"), "application/json")
	}
	seen := 0
	for name, text := range files(t) {
		for _, m := range probe.FindAllStringSubmatch(text, -1) {
			if seen++; !says(m[1]) {
				t.Errorf("%s asks for %s, which says nothing of the house", name, m[1])
			}
		}
	}
	if seen < 7 {
		t.Errorf("only %d probes were found", seen)
	}
	if says("/livez") {
		t.Error("a page that is not there is taken for one")
	}

	text, err := h.App.Web.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name string } `json:"parameters"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	patterns := repeated(t)
	keeps := 0
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		for method, operation := range document.Paths[path] {
			kept := false
			for _, p := range operation.Parameters {
				kept = kept || p.Name == "Idempotency-Key"
			}
			concrete := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "x_1")
			matched := slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(strings.ToUpper(method) + " " + concrete) })
			if kept != matched {
				t.Errorf("%s %s: keeps its answers under the key: %v; nginx repeats it: %v", strings.ToUpper(method), path, kept, matched)
			}
			if kept {
				keeps++
			}
		}
	}
	if keeps < 10 {
		t.Errorf("only %d operations that keep their answers were found", keeps)
	}
}

// repeated are the patterns of nginx.conf for what may be sent twice.
func repeated(t *testing.T) (patterns []*regexp.Regexp) {
	t.Helper()
	for _, m := range regexp.MustCompile(`"~(\^POST .*)" 1;`).FindAllStringSubmatch(files(t)["nginx.conf"], -1) {
		patterns = append(patterns, regexp.MustCompile(m[1]))
	}
	if len(patterns) < 5 {
		t.Fatalf("%d patterns", len(patterns))
	}
	return patterns
}

// examine has nginx check a configuration.
func examine(t *testing.T, text string) (said string, err error) {
	t.Helper()
	path, err := backends.Nginx(t.Context())
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "-t", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr",
		"-g", "pid "+filepath.Join(dir, "pid")+";").CombinedOutput()
	return string(out), err
}

func TestNginxTakesItsFile(t *testing.T) {
	dir := t.TempDir()
	given := deploy.Nginx{Listen: "127.0.0.1:28080", Nodes: []string{"127.0.0.1:1", "127.0.0.1:2"}, Dir: dir}
	plain, err := given.Conf()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(plain, "server 127.0.0.1:") != 2 || strings.Contains(plain, "levee-1") {
		t.Errorf("the nodes are not those that were given:\n%s", plain)
	}
	given.TLS, given.Certificate, given.Key = "127.0.0.1:28443", filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	writeCertificate(t, given.Certificate, given.Key)
	secure, err := given.Conf()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"plain": plain, "with TLS": secure} {
		said, err := examine(t, text)
		if err != nil || strings.Contains(said, "[warn]") && !strings.Contains(said, "super-user") {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
	}
	if said, err := examine(t, strings.Replace(plain, "least_conn;", "most_conn;", 1)); err == nil {
		t.Errorf("a broken file is taken: %s", said)
	}
}

func writeCertificate(t *testing.T, certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.example"}, NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: signed}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// seconds reads a time of one of the files.
func seconds(t *testing.T, text, pattern string) time.Duration {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s is not there", pattern)
	}
	value := m[1]
	if !strings.ContainsAny(value, "smh") {
		value += "s"
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The times of the files stand in the order in which they must: nobody in front gives up, or kills, before what is behind it is done.
func TestTimes(t *testing.T) {
	texts := files(t)
	const stop = 30 * time.Second // app.stopLimit
	const idle, request, bulk, beat, hold = 90 * time.Second, 15 * time.Second, 2 * time.Minute, 18 * time.Second, 2 * time.Second
	nginx, k := texts["nginx.conf"], texts["kubernetes/levee.yaml"]
	for what, ok := range map[string]bool{
		"systemd waits for the stop":         seconds(t, texts["levee.service"], `TimeoutStopSec=(\d+)`) > stop,
		"compose waits for the stop":         seconds(t, texts["compose.yaml"], `\*?node\n(?s:.*?)stop_grace_period: (\d+s)`) > stop,
		"Kubernetes waits for preStop, stop": seconds(t, k, `terminationGracePeriodSeconds: (\d+)`) > stop+seconds(t, k, `\[sleep, "(\d+)"\]`),
		"nginx closes idle connections":      seconds(t, nginx, `keepalive_timeout (\d+s);\s+# shorter`) < idle,
		"a purchase is answered":             seconds(t, nginx, `(?s)location @purchase.*?proxy_read_timeout (\d+s)`) > 2*hold,
		"what is kept is answered":           seconds(t, nginx, `(?s)location @repeatable.*?proxy_read_timeout (\d+s)`) > request,
		"an import is answered":              seconds(t, nginx, `proxy_read_timeout    (\d+s);`) > bulk,
		"live connections are not cut":       seconds(t, nginx, `(?s)/events\$.*?proxy_read_timeout (\d+s)`) > 3*beat,
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
}

func TestSystemdTakesItsUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	verify := func(text string) string {
		path := filepath.Join(t.TempDir(), "levee.service")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
		said := ""
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "levee.service") { // of the machine's own units it may say what it likes
				said += line
			}
		}
		if said == "" && err != nil && len(out) == 0 {
			said = fmt.Sprint(err)
		}
		return said
	}
	text := strings.ReplaceAll(files(t)["levee.service"], "/usr/local/bin/levee", "/bin/true")
	if said := verify(text); said != "" {
		t.Error(said)
	}
	if said := verify(text + "\n[Service]\nTimeoutStopSec=soon\n"); said == "" {
		t.Error("a broken unit is taken")
	}
}
