package backends

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// ProgramOptions says what [StartProgram] starts.
type ProgramOptions struct {
	// Name is for messages, Path the file to run, Args what follows its name.
	Name, Path string
	Args       []string
	// Env is the whole environment, "NAME=VALUE" each; the environment of this process when nil. TMPDIR is set to the program's folder.
	Env []string
	// Ready is asked until it returns nil, for a minute at most, at the start and after each Restart. Nil: it is ready at once.
	Ready func(context.Context) error
	// Patience is how long Restart and End wait for an orderly end before they kill. 30 s when zero.
	Patience time.Duration
	// Durable puts the folder on disk instead of in memory: for benches.
	Durable bool
}

// Program is any other process that must not outlive this one, such as a node of the house or what stands in front of it, with a folder of
// its own. Its methods may be called by several goroutines. The zero value stands for one that somebody else runs: it is left alone.
type Program struct {
	options ProgramOptions
	k       *keeper
	dir     string

	mu      sync.Mutex // start and stop; guards what follows
	process *process
	closed  bool
}

// PrepareProgram makes the folder of a program and does not start it.
func PrepareProgram(o ProgramOptions) (*Program, error) {
	k, err := theKeeper()
	if err != nil {
		return nil, err
	}
	if o.Patience == 0 {
		o.Patience = stopTimeout
	}
	p := &Program{options: o, k: k}
	p.options.Args, p.options.Env = slices.Clone(o.Args), slices.Clone(o.Env)
	p.dir, err = k.folder(o.Durable)
	return p, err
}

// StartProgram starts a program and returns when it is ready. ctx bounds the start only; it runs until Close or the end of this process.
func StartProgram(ctx context.Context, o ProgramOptions) (*Program, error) {
	p, err := PrepareProgram(o)
	if err != nil {
		return nil, err
	}
	if err := p.Restart(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Dir is the program's folder: it runs there, and it is removed by Close.
func (p *Program) Dir() string { return p.dir }

// SetArgs changes the arguments of the next start.
func (p *Program) SetArgs(args ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.options.Args = slices.Clone(args)
}

// Log is what the program has written to its two outputs, in all its lives.
func (p *Program) Log() string {
	text, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Said is the end of Log, some lines for a message.
func (p *Program) Said() string { return (&process{log: filepath.Join(p.dir, "log")}).said() }

// Running reports whether the process is there, paused or not.
func (p *Program) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process != nil && p.process.running()
}

func (p *Program) own() error {
	if p.k == nil {
		return errForeign
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return fmt.Errorf("%s is closed", p.options.Name)
	}
	return nil
}

// Start starts the process, which must not be running, and does not wait until it is ready.
func (p *Program) Start() error {
	if err := p.own(); err != nil {
		return err
	}
	defer p.mu.Unlock()
	return p.start()
}

func (p *Program) start() (err error) {
	if p.process != nil && p.process.running() {
		return fmt.Errorf("%s runs already", p.options.Name)
	}
	env := p.options.Env
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, "TMPDIR=") })
	p.process, err = p.k.startWith(p.options.Name, p.options.Path, append([]string{p.options.Name}, p.options.Args...), p.dir,
		filepath.Join(p.dir, "log"), append(env, "TMPDIR="+p.dir))
	return err
}

// Restart starts the process, after an orderly stop when it still runs, and returns when it is ready.
func (p *Program) Restart(ctx context.Context) error {
	if err := p.own(); err != nil {
		return err
	}
	defer p.mu.Unlock()
	p.process.stop(ctx, p.options.Patience)
	if err := p.start(); err != nil {
		return err
	}
	if p.options.Ready == nil {
		return nil
	}
	if err := p.process.ready(ctx, startTimeout, p.options.Ready); err != nil {
		p.process.kill()
		return err
	}
	return nil
}

// Kill ends the process at once (SIGKILL) and returns when it is gone. Its folder stays.
func (p *Program) Kill() error {
	if err := p.own(); err != nil {
		return err
	}
	defer p.mu.Unlock()
	p.process.kill()
	return nil
}

// End asks the process to end (SIGTERM), kills it when it has not after the patience, and says how it ended: nil is exit code 0.
func (p *Program) End(ctx context.Context) error {
	if err := p.own(); err != nil {
		return err
	}
	defer p.mu.Unlock()
	if p.process == nil {
		return nil
	}
	p.process.stop(ctx, p.options.Patience)
	return p.process.err
}

// Wait returns when the process has ended by itself, and says how: nil is exit code 0. Nothing else may start it meanwhile.
func (p *Program) Wait(ctx context.Context) error {
	p.mu.Lock()
	process := p.process
	p.mu.Unlock()
	if process == nil {
		return fmt.Errorf("%s was not started", p.options.Name)
	}
	select {
	case <-process.done:
		return process.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pause stops the process in its tracks (SIGSTOP) and returns when it stands: connections stay open, nobody answers.
func (p *Program) Pause() error { return p.signal(true) }

// Resume lets a paused process go on.
func (p *Program) Resume() error { return p.signal(false) }

func (p *Program) signal(pause bool) error {
	if err := p.own(); err != nil {
		return err
	}
	defer p.mu.Unlock()
	return p.process.pause(pause)
}

// Close kills the process and removes its folder.
func (p *Program) Close() error {
	if p == nil || p.k == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.process.kill()
	return os.RemoveAll(p.dir)
}

// Address is a HOST:PORT of 127.0.0.1 that no other user of this package is given until Free: for a program that is stopped and must come
// back where it was.
type Address struct{ port *port }

// TakeAddress takes a free one.
func TakeAddress() (*Address, error) {
	p, err := takePort()
	if err != nil {
		return nil, err
	}
	return &Address{p}, nil
}

// String is HOST:PORT.
func (a *Address) String() string { return a.port.addr() }

// Free gives the address back.
func (a *Address) Free() { a.port.free() }

// Debian has no package of the bare program: its service comes along, and is not started by the installation.
var nginxTool = tool{"nginx", []string{"nginx"}, []string{"nginx-light"}, ""}

// Nginx returns the path of the nginx program; Debian's nginx-light is installed when it is missing and that is possible.
func Nginx(ctx context.Context) (string, error) { return nginxTool.find(ctx) }

// Debian's package makes a cluster of its own, too, which is not started by the installation.
var postgresTool = tool{"PostgreSQL", []string{"postgres"}, []string{"postgresql"}, ""}

// Debian keeps the programs of each version in a folder of its own.
const postgresFolders = "/usr/lib/postgresql/*/bin"

// Postgres returns the path of PostgreSQL's server; Debian's postgresql is installed when it is missing and that is possible. No part of the
// house stands on it: it is here for the peers that do.
func Postgres(ctx context.Context) (string, error) { return postgresTool.find(ctx) }
