package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// build builds the program, with an overlay if one is given.
func build(t testing.TB, overlay string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "levee")
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	args := []string{"build", "-o", bin}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, "levee/cmd/levee")...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return bin
}

var program = flag.String("chaos.bin", "", "a levee that is built already")

var builtOnce struct {
	sync.Mutex
	bin string
}

// built is the program as it is, built once for all tests. TestMain removes it.
func built(t testing.TB) string {
	t.Helper()
	if *program != "" {
		return *program
	}
	builtOnce.Lock()
	defer builtOnce.Unlock()
	if builtOnce.bin != "" {
		return builtOnce.bin
	}
	dir, err := os.MkdirTemp("", "levee-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "levee")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "levee/cmd/levee").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, errors.Join(errors.New(string(text)), os.RemoveAll(dir)))
	}
	builtOnce.bin = bin
	return bin
}

func TestMain(m *testing.M) {
	code := m.Run()
	if builtOnce.bin != "" {
		if err := os.RemoveAll(filepath.Dir(builtOnce.bin)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// house is a data folder and the process that serves it, if one is alive.
type house struct {
	bin, dir, base, addr string
	env                  []string
	log                  *os.File // stdout and stderr of all its lives
	life                 *life
	asker                *http.Client // for /readyz: a line of its own
}

// life is one process.
type life struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
}

// newHouse prepares a house in dir. Its process, if one lives at the test's end, is killed and waited for.
func newHouse(t testing.TB, bin, dir string, settings ...string) *house {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "levee.log"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{bin: bin, dir: dir, addr: addr, base: "http://" + addr, log: log,
		asker: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "LEVEE_") {
			h.env = append(h.env, e)
		}
	}
	h.env = append(h.env, "LEVEE_PAYMENT__SANDBOX__ENABLED=true", "LEVEE_IDENTITY__HASH_MEMORY=8192", "LEVEE_IDENTITY__HASH_TIME=1",
		"LEVEE_IDENTITY__ACCESS_TTL=1h", "LEVEE_LOG__LEVEL=warn", "LEVEE_ADMISSION__ADMISSION_FOR=2h", "LEVEE_SALE__RECONCILE_EVERY=1s")
	for _, name := range []string{"SIGN_IN", "SIGN_IN_ACCOUNT", "SIGN_UP", "WRITE", "PURCHASE", "READ", "ADMISSION", "ADMISSION_ADDRESS", "POLL"} {
		h.env = append(h.env, "LEVEE_LIMITS__RATES__"+name+"=off")
	}
	h.env = append(h.env, settings...)
	t.Cleanup(func() {
		if h.life != nil {
			h.kill()
		}
		h.asker.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the last of its log:\n%s", h.tail(4000))
		}
		log.Close()
	})
	return h
}

// start begins a life.
func (h *house) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(h.bin, "serve", "--data", h.dir, "--addr", h.addr)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = filepath.Dir(h.log.Name()), h.env, h.log, h.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &life{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = cmd.Wait()
	}()
	h.life = l
}

// awaitReady returns when /readyz says so.
func (h *house) awaitReady(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 60*time.Second)
	defer stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+"/readyz", nil)
		if err != nil {
			return err
		}
		if a, err := h.asker.Do(req); err == nil {
			io.Copy(io.Discard, a.Body)
			a.Body.Close()
			if a.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-h.life.done:
			return fmt.Errorf("the house ended by itself before it was ready: %v\n%s", h.life.err, h.tail(4000))
		case <-ctx.Done():
			return fmt.Errorf("the house was not ready in time\n%s", h.tail(4000))
		case <-time.After(time.Millisecond):
		}
	}
}

// up starts a life and returns how long it took from exec to ready.
func (h *house) up(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	h.start(t)
	if err := h.awaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// kill ends the life at once (SIGKILL).
func (h *house) kill() {
	_ = h.life.cmd.Process.Kill() // fails only if it is dead already
	<-h.life.done
	h.life = nil
}

// stop ends the life in order (SIGTERM) and fails the test unless it says that all went well.
func (h *house) stop(t testing.TB) {
	t.Helper()
	began := time.Now()
	if err := h.life.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	select {
	case <-h.life.done:
	case <-time.After(40 * time.Second):
		t.Fatalf("the house did not stop\n%s", h.tail(4000))
	}
	if h.life.err != nil {
		t.Errorf("an orderly stop ended with %v after %v\n%s", h.life.err, time.Since(began), h.tail(3000))
	}
	h.life = nil
}

// doctor examines the folder of a house that is not running.
func (h *house) doctor(t testing.TB) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.bin, "doctor", "--data", h.dir)
	cmd.Env, cmd.Dir = h.env, filepath.Dir(h.log.Name())
	text, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(text), "All is well.") {
		t.Errorf("levee doctor: %v\n%s", err, text)
	}
}

func (h *house) tail(n int) string {
	text, err := os.ReadFile(h.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}

var setupCode = regexp.MustCompile(`POST /v1/setup\): (\S+)`)

// code is what its latest start printed.
func (h *house) code(t testing.TB) string {
	t.Helper()
	all := setupCode.FindAllStringSubmatch(h.tail(1<<20), -1)
	if len(all) == 0 {
		t.Fatalf("the house printed no setup code:\n%s", h.tail(4000))
	}
	return all[len(all)-1][1]
}

// sickness returns the lines of the log in which the house itself says that something is wrong with its books.
func (h *house) sickness() (lines []string) {
	for line := range strings.Lines(h.tail(1 << 30)) {
		for _, bad := range []string{"do not balance", "a gate differed", "panic", "fatal error"} {
			if strings.Contains(line, bad) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return lines
}
