//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package backends

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A test that needs a process of its own runs this binary again with TEST_HELPER set: it starts what is asked for, says so, and waits to be killed
// or, when told, ends in order.
func TestMain(m *testing.M) {
	if what := os.Getenv("TEST_HELPER"); what != "" {
		os.Exit(helper(what))
	}
	os.Exit(m.Run())
}

func fatal(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	return 1
}

// state is what a helper says of itself in one line of JSON.
type state struct {
	Folders  []string // of the keeper
	Children []int
	Watchdog int
	Took     time.Duration // of the start
	MySQL    string
}

// helper runs in a process of its own: it starts what the words ask for, says so, and waits for the end of its input.
func helper(what string) int {
	ctx := context.Background()
	var s state
	var processes []*process
	begin := time.Now()
	for _, word := range strings.Fields(what) {
		switch word {
		case "no-kernel":
			kernelKills = false
		case "alone": // in the folder of the environment only, where no other test that starts cleans up
			fastFolder = ""
		case "mysql":
			m, err := StartMySQL(ctx, MySQLOptions{Replicas: 1})
			if err != nil {
				return fatal("%v", err)
			}
			s.MySQL = m.URL()
			processes = append(processes, m.process, m.Replicas[0].process)
		case "durable":
			m, err := StartMySQL(ctx, MySQLOptions{Durable: true})
			if err != nil {
				return fatal("%v", err)
			}
			processes = append(processes, m.process)
		case "redis":
			r, err := StartRedis(ctx, RedisOptions{})
			if err != nil {
				return fatal("%v", err)
			}
			processes = append(processes, r.process)
		case "paused":
			r, err := StartRedis(ctx, RedisOptions{})
			if err == nil {
				err = r.Pause()
			}
			if err != nil {
				return fatal("%v", err)
			}
			processes = append(processes, r.process)
		case "sentinel":
			g, err := StartSentinel(ctx, SentinelOptions{})
			if err != nil {
				return fatal("%v", err)
			}
			for _, r := range append(g.Nodes, g.Sentinels...) {
				processes = append(processes, r.process)
			}
		case "threads":
			// Threads that end while the children run: the trap of a death signal that is bound to a thread. A goroutine that ends while
			// it is locked to its thread takes the thread with it.
			for range 50 {
				done := make(chan struct{})
				go func() { runtime.LockOSThread(); close(done) }()
				<-done
			}
			time.Sleep(100 * time.Millisecond)
		default:
			return fatal("unknown word %q", word)
		}
	}
	s.Took = time.Since(begin)
	k, err := theKeeper()
	if err != nil {
		return fatal("%v", err)
	}
	s.Folders, s.Watchdog = []string{k.disk, k.memory}, k.guard.Pid
	for _, p := range processes {
		if !p.running() {
			return fatal("%s has ended: %v", p.name, p.err)
		}
		s.Children = append(s.Children, p.cmd.Process.Pid)
	}
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return fatal("%v", err)
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return 0 // without closing anything
}

// another starts a helper and returns when it has said its state. leave ends its input, as its orderly end.
func another(t *testing.T, what string, environment ...string) (s state, cmd *exec.Cmd, leave func()) {
	t.Helper()
	s, cmd, leave, err := begin(what, environment...)
	must(t, err)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return s, cmd, leave
}

func begin(what string, environment ...string) (s state, cmd *exec.Cmd, leave func(), err error) {
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "TEST_HELPER="+what), environment...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return s, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return s, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return s, nil, nil, err
	}
	if err := json.NewDecoder(out).Decode(&s); err != nil {
		_ = cmd.Process.Kill()
		return s, nil, nil, fmt.Errorf("the helper %q said nothing: %w (%v)", what, err, cmd.Wait())
	}
	return s, cmd, func() { _ = in.Close() }, nil
}

// alive says whether a process runs; one that has ended and waits for its parent to notice does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

func (s state) left(folders bool) error {
	for _, pid := range s.Children {
		if alive(pid) {
			return fmt.Errorf("process %d is left", pid)
		}
	}
	for _, dir := range s.Folders {
		if folders && exists(dir) {
			return fmt.Errorf("folder %s is left", dir)
		}
	}
	return nil
}

func (s state) check(t *testing.T) {
	t.Helper()
	for _, pid := range s.Children {
		if !alive(pid) {
			t.Fatalf("the control: process %d does not run", pid)
		}
	}
	for _, dir := range s.Folders {
		if !exists(dir) {
			t.Fatalf("the control: there is no folder %s", dir)
		}
	}
	if len(s.Children) == 0 || !alive(s.Watchdog) {
		t.Fatalf("the control: %+v", s)
	}
}

// shortDir is a folder of the test's own; the path of a socket in it may not be long.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "lv")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func needProc(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("looks at processes under /proc")
	}
}

func TestNothingIsLeftOfAKilledProcess(t *testing.T) {
	needProc(t)
	s, cmd, _ := another(t, "mysql redis paused sentinel durable threads")
	s.check(t)
	must(t, cmd.Process.Kill())
	killed := time.Now()
	eventually(t, 10*time.Second, "everything is gone", func() error { return s.left(true) })
	t.Logf("%d processes and their folders are gone %v after the kill", len(s.Children), time.Since(killed).Round(time.Millisecond))
	if alive(s.Watchdog) {
		eventually(t, 2*time.Second, "the watchdog is gone", func() error {
			if alive(s.Watchdog) {
				return fmt.Errorf("process %d is left", s.Watchdog)
			}
			return nil
		})
	}
}

func TestNothingIsLeftOfAProcessThatEndsWithoutClosing(t *testing.T) {
	needProc(t)
	s, cmd, leave := another(t, "mysql redis")
	s.check(t)
	leave()
	must(t, cmd.Wait())
	eventually(t, 10*time.Second, "everything is gone", func() error { return s.left(true) })
}

// Each of the two ways in which children end is enough for the processes.
func TestTheWatchdogAloneEndsTheChildren(t *testing.T) {
	needProc(t)
	s, cmd, _ := another(t, "no-kernel mysql paused")
	s.check(t)
	must(t, cmd.Process.Kill())
	eventually(t, 10*time.Second, "everything is gone", func() error { return s.left(true) })

	// The control: with neither of the two, they are left.
	s, cmd, _ = another(t, "alone no-kernel redis", "TMPDIR="+shortDir(t))
	s.check(t)
	must(t, syscall.Kill(s.Watchdog, syscall.SIGKILL))
	must(t, cmd.Process.Kill())
	time.Sleep(500 * time.Millisecond)
	if s.left(false) == nil {
		t.Error("the control: something else ended the children, and this test shows nothing")
	}
	// Until somebody starts again: what runs in a stale folder goes with it.
	removeStale(filepath.Dir(s.Folders[0]))
	removeStale(filepath.Dir(s.Folders[1]))
	eventually(t, 2*time.Second, "everything is gone", func() error { return s.left(true) })
}

func TestTheKernelAloneEndsTheChildrenAndTheNextStartRemovesTheFolders(t *testing.T) {
	needProc(t)
	place := "TMPDIR=" + shortDir(t)
	s, cmd, _ := another(t, "alone mysql redis threads", place)
	s.check(t)
	must(t, syscall.Kill(s.Watchdog, syscall.SIGKILL))
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // until then it may hold its locks, although its children are gone
	eventually(t, 5*time.Second, "the processes are gone", func() error { return s.left(false) })
	if s.left(true) == nil {
		t.Fatal("the control: the folders are gone without anybody who removed them")
	}
	used, _, _ := another(t, "alone redis", place)
	eventually(t, 5*time.Second, "the folders are gone", func() error { return s.left(true) })
	// A start spares what is in use.
	removeStale(filepath.Dir(used.Folders[0]))
	removeStale(filepath.Dir(used.Folders[1]))
	used.check(t)
}

func TestManyProcessesStartAtOnceWithAnEmptyCache(t *testing.T) {
	needProc(t)
	base, err := os.MkdirTemp("", "lb")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	type result struct {
		s   state
		err error
	}
	const n = 3
	results := make(chan result, n)
	together := make(chan struct{}) // all run until the last one has started
	var wg, up sync.WaitGroup
	up.Add(n)
	for range n {
		wg.Go(func() {
			s, cmd, leave, err := begin("mysql redis", "TMPDIR="+base)
			up.Done()
			<-together
			if err == nil {
				var m *MySQLServer
				if m, err = namedMySQL(context.Background(), s.MySQL, ""); err == nil {
					err = m.admin.Close()
				}
				leave()
				_ = cmd.Wait()
			}
			results <- result{s, err}
		})
	}
	up.Wait()
	close(together)
	wg.Wait()
	addresses := map[string]bool{}
	for range n {
		r := <-results
		if r.err != nil {
			t.Errorf("one of them: %v", r.err)
		}
		addresses[r.s.MySQL] = true
		t.Logf("started in %v", r.s.Took.Round(time.Millisecond))
	}
	if len(addresses) != n {
		t.Errorf("%d processes have %d addresses", n, len(addresses))
	}
	found, err := filepath.Glob(filepath.Join(base, folderPrefix+"cache-*", "*"))
	must(t, err)
	archives := 0
	for _, f := range found {
		if strings.HasSuffix(f, ".tar") {
			archives++
		} else if filepath.Base(f) != "lock" {
			t.Errorf("%s is left in the cache", f)
		}
	}
	if archives != 1 {
		t.Errorf("the cache has %v, want one archive", found)
	}

	archive := found[0]
	for _, f := range found {
		if strings.HasSuffix(f, ".tar") {
			archive = f
		}
	}

	// With the cache filled nothing is made again; and a broken archive is.
	first, err := os.Stat(archive)
	must(t, err)
	same := func() bool {
		now, err := os.Stat(archive)
		return err == nil && os.SameFile(first, now)
	}
	s, cmd, leave := another(t, "mysql", "TMPDIR="+base)
	if !same() {
		t.Error("the archive was made anew although it was good")
	}
	t.Logf("from the cache: %v for a primary and a replica", s.Took.Round(time.Millisecond))
	leave()
	must(t, cmd.Wait())
	must(t, os.Truncate(archive, 100_000))
	s, cmd, leave = another(t, "mysql", "TMPDIR="+base)
	s.check(t)
	// Not by its identity: the new one may have the number of the file that was removed for it.
	if now, err := os.Stat(archive); err != nil || now.Size() <= 100_000 {
		t.Errorf("the broken archive is still there: %v, %v", now, err)
	}
	leave()
	must(t, cmd.Wait())
	eventually(t, 5*time.Second, "everything is gone", func() error { return s.left(true) })
}

func TestTheCacheOfAnotherUserIsRefused(t *testing.T) {
	base := t.TempDir()
	t.Setenv("TMPDIR", base)
	must(t, os.Mkdir(cacheFolder(), 0o700))
	if _, err := openCache(); err != nil {
		t.Fatalf("the control: a good folder gave %v", err)
	}
	must(t, os.Chmod(cacheFolder(), 0o777))
	if _, err := openCache(); err == nil {
		t.Error("a folder that everybody can write to is used")
	}
	must(t, os.Remove(cacheFolder()))
	elsewhere := t.TempDir()
	must(t, os.Symlink(elsewhere, cacheFolder()))
	if _, err := openCache(); err == nil {
		t.Error("a link is followed")
	}
	// Nor does cleaning follow links, or touch what has no lock and is young.
	link, young := filepath.Join(base, folderPrefix+"1"), filepath.Join(base, folderPrefix+"2")
	must(t, os.WriteFile(filepath.Join(elsewhere, "keep"), nil, 0o600))
	must(t, os.Symlink(elsewhere, link))
	must(t, os.Mkdir(young, 0o700))
	old := filepath.Join(base, folderPrefix+"3")
	must(t, os.Mkdir(old, 0o700))
	long := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(old, long, long))
	removeStale(base)
	if !exists(filepath.Join(elsewhere, "keep")) || !exists(young) {
		t.Error("cleaning removed what it must not")
	}
	if exists(old) {
		t.Error("cleaning left a folder whose owner is gone")
	}
}

func TestAMissingProgramIsInstalledOrNamed(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	keep := sbin
	sbin = nil
	t.Cleanup(func() { sbin = keep })
	_, err := redisTool.find(t.Context())
	for _, want := range []string{"redis-server", "apt-get install redis-tools", "LEVEE_TEST_REDIS"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without anything the error is %v, want %q in it", err, want)
		}
	}
	if err == nil || !strings.Contains(err.Error(), ErrMissing.Error()) {
		t.Errorf("the error does not say that the backend is missing: %v", err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	// An apt-get that installs: it writes down what it was asked for.
	script := "#!/bin/sh\necho \"$@\" >>" + bin + "/asked\ncase \"$*\" in *install*) printf '#!/bin/sh\\n' >" + bin + "/redis-server; /bin/chmod +x " + bin + "/redis-server;; esac\n"
	must(t, os.WriteFile(filepath.Join(bin, "apt-get"), []byte(script), 0o700))
	must(t, os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\nshift\n[ \"$1\" = true ] && exit 0\nshift\nexec \"$@\"\n"), 0o700))
	t.Setenv("LEVEE_TEST_INSTALL", "no")
	if _, err := redisTool.find(t.Context()); err == nil || exists(filepath.Join(bin, "asked")) {
		t.Errorf("it was installed although that was forbidden: %v", err)
	}
	t.Setenv("LEVEE_TEST_INSTALL", "")
	p, err := redisTool.find(t.Context())
	if err != nil || p != filepath.Join(bin, "redis-server") {
		t.Fatalf("found %q, %v", p, err)
	}
	asked, err := os.ReadFile(filepath.Join(bin, "asked"))
	must(t, err)
	if !strings.Contains(string(asked), "install --no-install-recommends redis-tools") {
		t.Errorf("apt-get was asked for %q", asked)
	}
	must(t, os.Remove(p))
	must(t, os.WriteFile(filepath.Join(bin, "apt-get"), []byte("#!/bin/sh\nexit 100\n"), 0o700))
	if _, err := redisTool.find(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 100") {
		t.Errorf("an apt-get that fails gave %v", err)
	}
}

func TestPortsAreKeptWhileTheServerIsDown(t *testing.T) {
	taken := map[int]bool{}
	var all []*port
	for range 300 {
		p, err := takePort()
		must(t, err)
		all = append(all, p)
		if taken[p.number] {
			t.Fatalf("port %d is given out twice", p.number)
		}
		taken[p.number] = true
	}
	for _, p := range all {
		p.free()
	}
}
