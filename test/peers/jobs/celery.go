package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"levee"
	"levee/internal/platform/backends"
)

//go:embed celery/*.py celery/requirements.txt
var celeryFiles embed.FS

// python is a virtual environment with Celery and the bench's scripts, in a folder that ends with the program.
type python struct {
	folder *backends.Program // only its folder is used
	path   string
}

// openPython makes the environment; it asks the package registry that this machine's pip is set up for.
func openPython(ctx context.Context) (_ *python, err error) {
	p := &python{}
	if p.folder, err = backends.PrepareProgram(backends.ProgramOptions{Name: "python", Durable: true}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.folder.Close())
		}
	}()
	files, err := celeryFiles.ReadDir("celery")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := celeryFiles.ReadFile("celery/" + f.Name())
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(p.folder.Dir(), f.Name()), text, 0o600); err != nil {
			return nil, err
		}
	}
	venv := filepath.Join(p.folder.Dir(), "venv")
	p.path = filepath.Join(venv, "bin", "python")
	for _, command := range [][]string{
		{"python3", "-m", "venv", "--without-pip", venv},
		{"python3", "-m", "pip", "--python", p.path, "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--no-deps",
			"-r", filepath.Join(p.folder.Dir(), "requirements.txt")},
	} {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.WaitDelay = 5 * time.Second
		if said, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w; it said: %s", command[0], err, levee.Shorten(string(said), 1000))
		}
	}
	return p, nil
}

func (p *python) version(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, p.path, "-c",
		"import platform,celery,kombu,redis;print(celery.__version__,'kombu',kombu.__version__,'redis-py',redis.__version__,'Python',platform.python_version())").Output()
	if err != nil {
		return err.Error()
	}
	return string(text[:len(text)-1])
}
