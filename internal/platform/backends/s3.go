package backends

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// The S3 server of the tests: Versity's gateway (Apache-2.0), which keeps a bucket's objects as files of a folder and checks signatures itself. It is
// built from its module, apart from this one's requirements.
const (
	gatewayModule  = "github.com/versity/versitygw/cmd/versitygw"
	gatewayVersion = "v1.8.0"

	// buildPatience: a first build takes some minutes on a slow machine.
	buildPatience = 20 * time.Minute
)

// S3Server is one private S3-compatible server with one bucket. Its methods may be called by several goroutines.
type S3Server struct {
	// URL is its address, http://127.0.0.1:PORT; Bucket is there already.
	URL, Bucket string
	// AccessKey and SecretKey are its credentials, made anew for each server.
	AccessKey, SecretKey string

	program *Program
	address *Address
}

// StartS3 starts a server, and builds its program first where this machine has not yet: that needs the go command and a module proxy. ctx bounds
// the start only; it runs until Close or the end of this process.
func StartS3(ctx context.Context) (*S3Server, error) {
	path, err := gateway(ctx)
	if err != nil {
		return nil, err
	}
	s := &S3Server{Bucket: "levee-test", AccessKey: "test" + rand.Text()[:16], SecretKey: rand.Text() + rand.Text()}
	if s.address, err = TakeAddress(); err != nil {
		return nil, err
	}
	s.URL = "http://" + s.address.String()
	s.program, err = PrepareProgram(ProgramOptions{
		Name: "versitygw", Path: path,
		Env: append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKey, "ROOT_SECRET_ACCESS_KEY="+s.SecretKey, "LC_ALL=C"),
		Ready: func(ctx context.Context) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/", nil)
			if err != nil {
				return err
			}
			a, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			return a.Body.Close() // a refusal: nothing was signed
		},
	})
	if err != nil {
		s.address.Free()
		return nil, err
	}
	// What a bucket is to this server is a folder. What belongs to an object is in attributes of its file, so that both appear at once; where
	// the file system has none it is kept beside, and then a reader may see one object's bytes with another's metadata for a moment.
	data, beside := filepath.Join(s.program.Dir(), "data"), filepath.Join(s.program.Dir(), "beside")
	for _, dir := range []string{filepath.Join(data, s.Bucket), beside} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	args := []string{"--quiet", "--port", s.address.String(), "posix"}
	if !hasAttributes(data) {
		args = append(args, "--sidecar", beside)
	}
	s.program.SetArgs(append(args, data)...)
	if err := s.program.Restart(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the S3 server: %w", err), s.Close())
	}
	return s, nil
}

// Addr is HOST:PORT.
func (s *S3Server) Addr() string { return s.address.String() }

// Kill ends the server as a crash does; its folder and address stay for Restart.
func (s *S3Server) Kill() error { return s.program.Kill() }

// Restart starts it again with what it keeps.
func (s *S3Server) Restart(ctx context.Context) error { return s.program.Restart(ctx) }

// Pause stops it in its tracks: connections stay open, nobody answers.
func (s *S3Server) Pause() error { return s.program.Pause() }

// Resume lets a paused server go on.
func (s *S3Server) Resume() error { return s.program.Resume() }

// Close ends the server and removes what it keeps.
func (s *S3Server) Close() error {
	if s == nil || s.program == nil {
		return nil
	}
	err := s.program.Close()
	s.address.Free()
	return err
}

var sharedS3 shared[S3Server]

// S3 returns the server that the tests of this process share. Each test uses a prefix of its own.
func S3(ctx context.Context) (*S3Server, error) { return sharedS3.get(ctx, StartS3) }

var building sync.Mutex // one build at a time in this process; a lock in the cache folder keeps the others out

// lockBuild waits for this process's turn.
func lockBuild(ctx context.Context, name string) (*os.File, error) {
	for {
		lock, err := lockFile(name)
		if lock != nil || err != nil {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another process that builds the S3 server: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// gateway returns the path of the server's program: in the cache folder under its version, built where it is not there.
func gateway(ctx context.Context) (string, error) {
	cache, err := openCache()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "versitygw-"+gatewayVersion)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	building.Lock()
	defer building.Unlock()
	lock, err := lockBuild(ctx, path+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path, nil
	}
	missing := func(err error) error {
		return fmt.Errorf("%w: the S3 server of the tests is not there and cannot be built from here: %w. Build it with `go install %s@%s` and put it at %s",
			ErrMissing, err, gatewayModule, gatewayVersion, path)
	}
	if os.Getenv("LEVEE_TEST_INSTALL") == "no" {
		return "", missing(errors.New("LEVEE_TEST_INSTALL=no forbids it"))
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		return "", missing(errors.New("there is no go command in PATH"))
	}
	dir, err := os.MkdirTemp(cache, "building-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(os.Stderr, "the S3 server of the tests is missing: building %s@%s (LEVEE_TEST_INSTALL=no forbids this)\n", gatewayModule, gatewayVersion)
	ctx, cancel := context.WithTimeout(ctx, buildPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "install", "-trimpath", "-ldflags=-s -w", gatewayModule+"@"+gatewayVersion)
	cmd.Dir = dir // outside of any module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		said := strings.TrimSpace(string(out))
		if lines := strings.Split(said, "\n"); len(lines) > 5 {
			said = strings.Join(lines[len(lines)-5:], "\n")
		}
		return "", missing(fmt.Errorf("go install: %w: %s", err, said))
	}
	built, err := filepath.Glob(filepath.Join(dir, "versitygw*"))
	if err != nil || len(built) != 1 {
		return "", missing(errors.New("go install left no program"))
	}
	return path, os.Rename(built[0], path) // whole, as another process may look for it
}
