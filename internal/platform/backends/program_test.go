//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package backends

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAProgramLivesManyLives(t *testing.T) {
	ctx := t.Context()
	a, err := TakeAddress()
	must(t, err)
	defer a.Free()
	if _, port, err := net.SplitHostPort(a.String()); err != nil || port == "0" {
		t.Errorf("the address is %s", a)
	}
	p, err := PrepareProgram(ProgramOptions{Name: "sh", Path: "/bin/sh", Env: []string{"GREETING=hello"},
		Args: []string{"-c", `trap 'echo bye; exit 3' TERM; echo "$GREETING $PWD"; while :; do echo beat >>beats; sleep 0.01; done`}})
	must(t, err)
	defer p.Close()
	p.options.Ready = func(context.Context) error {
		_, err := os.Stat(filepath.Join(p.Dir(), "beats"))
		return err
	}
	beats := func() int {
		text, err := os.ReadFile(filepath.Join(p.Dir(), "beats"))
		must(t, err)
		return strings.Count(string(text), "\n")
	}
	goesOn := func(on bool) {
		t.Helper()
		before := beats()
		for end := time.Now().Add(5 * time.Second); on && beats() == before && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if !on {
			time.Sleep(100 * time.Millisecond)
		}
		if (beats() > before) != on {
			t.Errorf("it went from %d to %d beats, and should go on: %v", before, beats(), on)
		}
	}
	if p.Running() {
		t.Error("it runs before it was started")
	}
	must(t, p.Restart(ctx))
	goesOn(true)
	must(t, p.Pause())
	goesOn(false)
	must(t, p.Resume())
	goesOn(true)
	if err := p.Start(); err == nil {
		t.Error("it was started twice")
	}
	must(t, p.Kill())
	goesOn(false)
	if p.Running() {
		t.Error("it runs after Kill")
	}
	must(t, p.Start())
	goesOn(true)
	if err := p.End(ctx); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("it ended with %v", err)
	}
	if log := p.Log(); strings.Count(log, "hello "+p.Dir()) != 2 || strings.Count(log, "bye") != 1 {
		t.Errorf("its log is %q", log)
	}
	p.SetArgs("-c", "exit 4")
	must(t, os.Remove(filepath.Join(p.Dir(), "beats")))
	if err := p.Restart(ctx); err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("a program that ends before it is ready: %v", err)
	}
	must(t, p.Close())
	if _, err := os.Stat(p.Dir()); !errors.Is(err, os.ErrNotExist) || p.Start() == nil {
		t.Errorf("after Close its folder is there (%v) or it can be started", err)
	}
}
