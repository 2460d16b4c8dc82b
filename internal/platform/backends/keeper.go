package backends

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// keeper owns what must not outlive this process: child processes and folders.
//
// Three things end them, because each has a hole. The kernel kills a child when the thread that started it ends (Linux only, so all
// children are started by one thread that never ends). A watchdog, a shell in a session of its own, reads a pipe whose other end only
// this process holds: when the process ends for whatever reason, the pipe ends, and the watchdog kills what is left and removes the
// folders. And whoever starts next removes folders whose lock nobody holds.
type keeper struct {
	memory string // folder on a memory file system when there is room, else the same as disk
	disk   string // folder in the temp folder of the system

	starts chan func() // run by the thread that never ends
	locks  []*os.File  // held until the process ends: they tell others that the folders are in use

	mu       sync.Mutex
	watchdog io.Writer   // guarded by mu; nil when the watchdog could not be started
	guard    *os.Process // the watchdog itself
	number   atomic.Int64
}

const (
	folderPrefix = "levee-backends-"
	roomWanted   = 2 << 30 // bytes free on the memory file system before data goes there
	youngFolder  = 10 * time.Second

	pausePatience = 10 * time.Second
)

// fastFolder is where servers run whose data may be lost; tests leave it out.
var fastFolder = memoryFolder

var theKeeper = sync.OnceValues(newKeeper)

func newKeeper() (*keeper, error) {
	k := &keeper{starts: make(chan func())}
	go func() {
		// Never unlocked and never left: were this thread to end, the kernel would take its children for orphans.
		runtime.LockOSThread()
		for start := range k.starts {
			start()
		}
	}()
	bases := []string{os.TempDir()}
	if free, err := freeBytes(fastFolder); err == nil && free >= roomWanted {
		bases = append(bases, fastFolder)
	}
	for _, base := range bases {
		removeStale(base)
		dir, lock, err := newFolder(base)
		if err != nil {
			if len(k.locks) > 0 {
				break // the memory file system is a luxury
			}
			return nil, fmt.Errorf("making a folder for private servers: %w", err)
		}
		k.locks = append(k.locks, lock)
		if k.disk == "" {
			k.disk = dir
		}
		k.memory = dir
	}
	if err := k.watch(); err != nil {
		k.cleanup()
		return nil, fmt.Errorf("starting the watchdog of private servers: %w", err)
	}
	k.tell("folder " + k.disk)
	if k.memory != k.disk {
		k.tell("folder " + k.memory)
	}
	return k, nil
}

func (k *keeper) cleanup() {
	_ = os.RemoveAll(k.disk)
	_ = os.RemoveAll(k.memory)
}

// folder makes a new folder for one server.
func (k *keeper) folder(durable bool) (string, error) {
	base := k.memory
	if durable {
		base = k.disk
	}
	// Short, because a unix socket's path has at most 104 bytes on some systems.
	dir := filepath.Join(base, fmt.Sprint(k.number.Add(1)))
	return dir, os.Mkdir(dir, 0o700)
}

// watchdogScript kills the groups and removes the folders it was told of once its input ends. Only words of this file reach it: numbers,
// and folders made by newFolder.
const watchdogScript = `
groups=" "; folders=
while read -r what value; do
	case $what in
	start) groups="$groups$value ";;
	end) case $groups in *" $value "*) groups="${groups%% $value *} ${groups#* $value }";; esac;;
	folder) folders="$folders$value
";;
	esac
done
for g in $groups; do kill -9 -"$g" 2>/dev/null; done
printf %s "$folders" | while read -r f; do
	case $f in */` + folderPrefix + `*) rm -rf -- "$f" || { sleep 1; rm -rf -- "$f"; };; esac
done
`

func (k *keeper) watch() error {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = sessionAttributes()
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	k.watchdog, k.guard = pipe, cmd.Process
	return nil
}

func (k *keeper) tell(line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A watchdog that was killed is not an error here: the kernel's part still stands.
	_, _ = io.WriteString(k.watchdog, line+"\n")
}

// process is one child.
type process struct {
	name string // for messages
	log  string // path of what it says
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
}

// start starts a child whose output goes to the file log. It leads a group of its own, so that Ctrl-C at a terminal reaches the
// test and not its servers.
func (k *keeper) start(name, path string, args []string, dir, log string) (*process, error) {
	return k.startWith(name, path, args, dir, log, append(os.Environ(), "TMPDIR="+dir, "LC_ALL=C"))
}

func (k *keeper) startWith(name, path string, args []string, dir, log string, env []string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	// Files, never the test's own output: `go test` waits until the last holder of its pipe has ended.
	cmd := &exec.Cmd{Path: path, Args: args, Dir: dir, Stdout: out, Stderr: out, SysProcAttr: childAttributes()}
	cmd.Env = env
	started := make(chan error)
	k.starts <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	k.tell(fmt.Sprintf("start %d", cmd.Process.Pid))
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		k.tell(fmt.Sprintf("end %d", cmd.Process.Pid))
		close(p.done)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	if p == nil || !p.running() {
		return
	}
	_ = signalGroup(p.cmd.Process.Pid, signalKill)
	<-p.done
}

// stop asks the process to end by itself, and kills it when it has not after the patience given.
func (p *process) stop(ctx context.Context, patience time.Duration) {
	if p == nil || !p.running() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = signalGroup(p.cmd.Process.Pid, signalResume) // a paused process hears nothing
	_ = signalGroup(p.cmd.Process.Pid, signalEnd)
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
	}
}

// ready waits until try succeeds. It gives up when the process ends, the context ends or the patience is over, with what the
// process last said.
func (p *process) ready(ctx context.Context, patience time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		if last = try(ctx); last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it answered (%v); it said: %s", p.name, p.err, p.said())
		case <-ctx.Done():
			return fmt.Errorf("%s did not answer in time: %w (last: %w); it said: %s", p.name, ctx.Err(), last, p.said())
		case <-time.After(4 * time.Millisecond):
		}
	}
}

// said returns the last lines of the log.
func (p *process) said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}

// newFolder makes a folder in base and locks it. The lock is held until the process ends.
func newFolder(base string) (string, *os.File, error) {
	for range 5 {
		dir, err := os.MkdirTemp(base, folderPrefix+"*")
		if err != nil {
			return "", nil, err
		}
		lock, err := lockFile(filepath.Join(dir, "lock"))
		if err != nil {
			_ = os.RemoveAll(dir)
			return "", nil, err
		}
		if lock != nil {
			return dir, lock, nil
		}
		// Another process took the folder for a stale one: let it have it.
	}
	return "", nil, errors.New("every new folder was taken for a stale one at once")
}

// removeStale removes the folders in base whose owner is gone, with what still runs in them. It touches this user's folders only.
func removeStale(base string) {
	found, _ := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !mine(info) || time.Since(info.ModTime()) < youngFolder && !exists(filepath.Join(dir, "lock")) {
			continue
		}
		if filepath.Base(dir) == filepath.Base(cacheFolder()) {
			continue
		}
		lock, err := lockFile(filepath.Join(dir, "lock"))
		if err != nil || lock == nil {
			continue // in use
		}
		killInside(dir)
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// killInside kills what runs with its working folder inside dir. It sees processes where the system shows them under /proc.
func killInside(dir string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		at, err := os.Readlink(link)
		if err != nil || at != dir && !strings.HasPrefix(at, dir+"/") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(link, "/proc/%d/cwd", &pid); err == nil && pid > 1 {
			_ = signalGroup(pid, signalKill)
		}
	}
}

// pause stops the process in its tracks, and returns when it stands, or lets it go on.
func (p *process) pause(on bool) error {
	if p == nil || !p.running() {
		return errors.New("the server is not running")
	}
	pid := p.cmd.Process.Pid
	if !on {
		return signalGroup(pid, signalResume)
	}
	if err := signalGroup(pid, signalPause); err != nil {
		return err
	}
	for end := time.Now().Add(pausePatience); !stopped(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s did not stop within %v of its signal", p.name, pausePatience)
		}
	}
	return nil
}
