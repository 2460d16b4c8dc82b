package backends

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrMissing is in every error about a server that is not installed and could not be installed.
var ErrMissing = errors.New("backend is missing")

// MaySkip says whether a test may skip because of the error: only when the server is not to be had on this machine, outside of CI, and
// when nobody asked for the distributed tier with LEVEE_TEST_TIER. A server that is there and does not start is always a failure.
func MaySkip(err error) bool {
	return errors.Is(err, ErrMissing) && os.Getenv("CI") == "" && os.Getenv("LEVEE_TEST_TIER") == ""
}

// tool is a program of a server.
type tool struct {
	server   string
	files    []string // its program under its names, the wanted one first
	packages []string // of Debian
	instead  string   // what else would do, for a message
}

// Debian's packages of the bare programs: those that also install a service would start one, on the well-known port, on the machine of
// whoever runs the tests.
var (
	mariadbTool = tool{"MariaDB", []string{"mariadbd"}, []string{"mariadb-server-core", "mariadb-client-core"}, ", or name a running server in LEVEE_TEST_MYSQL"}
	installTool = tool{"MariaDB", []string{"mariadb-install-db"}, []string{"mariadb-server-core", "mariadb-client-core"}, ", or name a running server in LEVEE_TEST_MYSQL"}
	// Redis is one program that looks at the name it was called by; Debian's redis-tools has it without the service.
	redisTool = tool{"Redis", []string{"redis-server", "redis-check-rdb"}, []string{"redis-tools"}, ", or name a running server in LEVEE_TEST_REDIS"}
)

// noService keeps a package's scripts from starting its service, with systemd and without.
var noService = []string{"SYSTEMD_OFFLINE=1", "RUNLEVEL=1"}

var installing sync.Mutex // one apt-get at a time in this process; apt's own lock does the rest

// find returns the path of the tool's program, and installs its packages when it is missing and that is possible.
func (t tool) find(ctx context.Context) (string, error) {
	if p := t.look(); p != "" {
		return p, nil
	}
	installing.Lock()
	defer installing.Unlock()
	if p := t.look(); p != "" {
		return p, nil
	}
	err := install(ctx, t)
	if err != nil {
		return "", fmt.Errorf("%w: %s is not installed (no %s found) and cannot be installed from here: %w. Install it with `apt-get install %s`, "+
			"or from your system's packages%s", ErrMissing, t.server, t.files[0], err, strings.Join(t.packages, " "), t.instead)
	}
	if p := t.look(); p != "" {
		return p, nil
	}
	return "", fmt.Errorf("%w: %s was installed and still there is no %s in PATH or in %s", ErrMissing, t.server, t.files[0], strings.Join(sbin, ", "))
}

// Folders of servers that a user's PATH often lacks.
var sbin = []string{"/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"}

func (t tool) look() string {
	versions, _ := filepath.Glob(postgresFolders)
	for _, file := range t.files {
		if p, err := exec.LookPath(file); err == nil {
			return p
		}
		for _, dir := range slices.Concat(sbin, versions) {
			if p, err := exec.LookPath(filepath.Join(dir, file)); err == nil {
				return p
			}
		}
	}
	return ""
}

const installPatience = 5 * time.Minute

func install(ctx context.Context, t tool) error {
	if os.Getenv("LEVEE_TEST_INSTALL") == "no" {
		return errors.New("LEVEE_TEST_INSTALL=no forbids it")
	}
	apt, err := exec.LookPath("apt-get")
	if runtime.GOOS != "linux" || err != nil {
		return errors.New("this is no Debian: there is no apt-get")
	}
	ctx, cancel := context.WithTimeout(ctx, installPatience)
	defer cancel()
	command := []string{apt, "-q", "-y", "-o", "DPkg::Lock::Timeout=120"}
	if os.Geteuid() != 0 {
		if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
			return errors.New("that needs root, or sudo without a password")
		}
		command = slices.Concat([]string{"sudo", "-n", "DEBIAN_FRONTEND=noninteractive"}, noService, command)
	}
	fmt.Fprintf(os.Stderr, "%s is missing: installing %s (LEVEE_TEST_INSTALL=no forbids this)\n", t.server, strings.Join(t.packages, " "))
	run := func(args ...string) error {
		all := append(append([]string{}, command...), args...)
		cmd := exec.CommandContext(ctx, all[0], all[1:]...)
		cmd.Env = slices.Concat(os.Environ(), []string{"DEBIAN_FRONTEND=noninteractive"}, noService)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		return cmd.Run()
	}
	wanted := append([]string{"install", "--no-install-recommends"}, t.packages...)
	if run(wanted...) == nil {
		return nil
	}
	if err := run("update"); err != nil {
		return fmt.Errorf("apt-get update: %w", err)
	}
	if err := run(wanted...); err != nil {
		return fmt.Errorf("apt-get install: %w", err)
	}
	return nil
}
