// Command compat holds the triggers of internal/platform/when against APScheduler: it installs that package from PyPI into a virtual environment, lets it
// compute the firings of random triggers (firings.py), and runs the package's test on them.
//
//	go run ./tools/compat                     10,000 triggers of 100 firings and 1,000 of 1,000
//	go run ./tools/compat -write              writes the vectors that the test uses otherwise, and their zones
//
// It needs Python 3.9 or later with venv and pip, and a registry that pip reaches.
package main

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What is compared with. APScheduler takes the zones from tzdata, and so do we here.
var packages = []string{"apscheduler==3.11.3", "tzdata==2026.6", "tzlocal==5.4.5"}

const part = "internal/platform/when"

var (
	triggers = flag.Int("triggers", 10_000, "random triggers of 100 firings")
	long     = flag.Int("long", 1_000, "random triggers of 1,000 firings")
	seed     = flag.Int64("seed", time.Now().UnixNano()%1_000_000, "of the random triggers")
	write    = flag.Bool("write", false, "write the recorded vectors (4,000 triggers of 100 firings) and their zones anew, by their own seed")
	venv     = flag.String("venv", "", "a folder for the virtual environment, kept (default: a temporary one)")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "compat")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if *venv == "" {
		*venv = filepath.Join(dir, "venv")
	}
	python := filepath.Join(*venv, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		if err := do(nil, "python3", "-m", "venv", *venv); err != nil {
			return fmt.Errorf("python3 -m venv: %w (Debian has it in the package python3-venv)", err)
		}
	}
	if err := do(nil, python, append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check"}, packages...)...); err != nil {
		return err
	}
	var out bytes.Buffer
	ask := exec.Command(python, "-c", "import os, tzdata; print(os.path.join(os.path.dirname(tzdata.__file__), 'zoneinfo'))")
	ask.Stdout, ask.Stderr = &out, os.Stderr
	if err := ask.Run(); err != nil {
		return err
	}
	zones := strings.TrimSpace(out.String())
	compare := func(seed int64, triggers, firings int, args ...string) error {
		file := filepath.Join(dir, "vectors.jsonl.gz")
		fmt.Printf("compat: %d random triggers of %d firings, seed %d\n", triggers, firings, seed)
		err := do([]string{"PYTHONTZPATH="}, python, "tools/compat/firings.py", strconv.FormatInt(seed, 10), strconv.Itoa(triggers), strconv.Itoa(firings), file)
		if err != nil {
			return err
		}
		args = append([]string{"test", "-count=1", "-v", "-run", "^TestFiringsEqualAPScheduler$", "./" + part, "-args", "-when.vectors", file}, args...)
		return do([]string{"ZONEINFO=" + zones}, "go", args...)
	}
	if *write {
		data, err := filepath.Abs(filepath.Join(part, "testdata"))
		if err != nil {
			return err
		}
		if err := writeZones(zones, filepath.Join(data, "zoneinfo.zip")); err != nil {
			return err
		}
		return compare(20261121, 4_000, 100, "-when.mark", filepath.Join(data, "apscheduler.jsonl.gz"))
	}
	if err := compare(*seed, *triggers, 100); err != nil || *long == 0 {
		return err
	}
	return compare(*seed+1, *long, 1_000)
}

func do(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// zonesKept are the zones of firings.py and those of the package's other tests.
var zonesKept = []string{"Africa/Cairo", "Africa/Casablanca", "America/Havana", "America/New_York", "America/Santiago", "Asia/Beirut", "Asia/Shanghai", "Atlantic/Azores",
	"Australia/Lord_Howe", "Europe/Berlin", "Europe/London", "Pacific/Apia", "Pacific/Chatham"}

// writeZones keeps zones in the form that Go's ZONEINFO reads: a zip file without compression.
func writeZones(from, to string) error {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range zonesKept {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}
