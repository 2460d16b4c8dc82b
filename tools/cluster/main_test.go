package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/internal/platform/backends"
)

func TestUsage(t *testing.T) {
	var out, log strings.Builder
	if code := run(t.Context(), nil, &out, &log); code != 0 || out.String() != help {
		t.Errorf("without words: %d, %s", code, out.String())
	}
	for _, words := range []string{"down", "up now", "up --nodes 0", "up --nodes x", "upgrade", "upgrade --before a"} {
		if code := run(t.Context(), strings.Fields(words), io.Discard, io.Discard); code != 2 {
			t.Errorf("%q: exit code %d, want 2", words, code)
		}
	}
}

// build builds the two programs of the test.
func build(t *testing.T) (cluster, levee string) {
	t.Helper()
	dir := t.TempDir()
	cluster, levee = filepath.Join(dir, "cluster"), filepath.Join(dir, "levee")
	for path, what := range map[string]string{cluster: "levee/tools/cluster", levee: "levee/cmd/levee"} {
		if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, what).CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", what, err, text)
		}
	}
	return cluster, levee
}

// freeAddr is an address that is free now, below the range of outgoing connections' ports.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := backends.TakeAddress()
	if err != nil {
		t.Fatal(err)
	}
	defer addr.Free()
	return addr.String()
}

type running struct {
	cmd   *exec.Cmd
	said  string   // until it was ready
	ports []string // of all that it started
	dirs  []string
}

var (
	address = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	logPath = regexp.MustCompile(`its log (\S+)/log`)
)

func startUp(t *testing.T, cluster, levee, addr, data string) *running {
	t.Helper()
	r := &running{cmd: exec.Command(cluster, "up", "--addr", addr, "--data", data, "--levee", levee)}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := &strings.Builder{}
	r.cmd.Stderr = log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		r.said += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "Stop with") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			r.ports = address.FindAllString(r.said, -1)
			for _, m := range logPath.FindAllStringSubmatch(r.said, -1) {
				r.dirs = append(r.dirs, m[1])
			}
			return r
		}
	}
	_ = r.cmd.Wait()
	t.Fatalf("it did not become ready: %s%s", r.said, log)
	return nil
}

// gone waits until nothing of a run is left: no port answers, no folder is there.
func (r *running) gone(t *testing.T, how string) {
	t.Helper()
	if len(r.ports) < 6 || len(r.dirs) != 3 {
		t.Fatalf("%d addresses and %d folders in %s", len(r.ports), len(r.dirs), r.said)
	}
	left := func() string {
		for _, p := range r.ports {
			if c, err := net.DialTimeout("tcp", p, time.Second); err == nil {
				_ = c.Close()
				return p
			}
		}
		for _, d := range r.dirs {
			if _, err := os.Stat(d); err == nil {
				return d
			}
		}
		return ""
	}
	deadline := time.Now().Add(15 * time.Second)
	for what := left(); what != ""; what = left() {
		if time.Now().After(deadline) {
			t.Fatalf("%s left %s", how, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

var passwords = regexp.MustCompile(`password (\S+)`)

// A cluster that is stopped or killed leaves nothing, and the next one on its folder has the same sign-ins.
func TestUpAndGone(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB, Redis, nodes and nginx, twice")
	}
	if _, err := backends.Nginx(t.Context()); err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	cluster, levee := build(t)
	addr, data := freeAddr(t), t.TempDir()
	first := startUp(t, cluster, levee, addr, data)
	// The page or, without Node, the links: nginx hands on what a node says, with its headers.
	answer, err := http.Get("http://" + addr + "/v1/sales")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != 200 || !strings.Contains(string(text), `"open"`) || answer.Header.Get("X-Request-Id") == "" {
		t.Errorf("through nginx: %s %v %s", answer.Status, answer.Header, text)
	}
	// The control of gone: while it runs, something is there.
	if c, err := net.Dial("tcp", first.ports[0]); err != nil {
		t.Error("a cluster that runs does not answer:", err)
	} else {
		_ = c.Close()
	}
	if second, err := exec.Command(cluster, "up", "--addr", addr, "--data", data, "--levee", levee).CombinedOutput(); err == nil || !strings.Contains(string(second), "--addr") {
		t.Errorf("a second one at the same address: %v, %s", err, second)
	}
	_ = first.cmd.Process.Kill()
	_ = first.cmd.Wait()
	first.gone(t, "kill -9")

	again := startUp(t, cluster, levee, addr, data)
	if a, b := passwords.FindAllString(first.said, -1), passwords.FindAllString(again.said, -1); len(a) != 3 || strings.Join(a, ",") != strings.Join(b, ",") {
		t.Errorf("sign-ins %v, then %v", a, b)
	}
	_ = again.cmd.Process.Signal(syscall.SIGINT)
	if err := again.cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C it ended with %v", err)
	}
	again.gone(t, "Ctrl-C")
	if _, err := os.Stat(filepath.Join(data, "environment")); err == nil {
		t.Error("the addresses of servers that are gone are still noted down")
	}
}
