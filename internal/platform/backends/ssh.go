package backends

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshTool is OpenSSH's server. Its package also installs a service, on the well-known port, so it is never installed: where it is missing the
// package is unpacked into a folder of this process.
var sshTool = tool{"OpenSSH's server", []string{"sshd"}, []string{"openssh-server"}, ""}

// sshLibraries are what it needs beside the base system; they are installed, where they are missing.
var sshLibraries = tool{server: "what OpenSSH's server needs", packages: []string{"libwrap0", "libgssapi-krb5-2", "libkrb5-3", "libcom-err2"}}

// SSHServer is one OpenSSH server on a free port, run as the user who runs the tests, or as nobody where that is root. This user alone may log
// in, by a key, to have connections forwarded. Its methods may be called by several goroutines.
type SSHServer struct {
	k    *keeper
	dir  string
	port *port
	user string
	lock *os.File // says that the folder is in use

	mu      sync.Mutex // guards what follows
	process *process
	host    ssh.PublicKey
	closed  bool
}

// StartSSH starts an OpenSSH server. ctx bounds the start only; it runs until Close or the end of this process.
func StartSSH(ctx context.Context) (*SSHServer, error) {
	k, err := theKeeper()
	if err != nil {
		return nil, err
	}
	s := &SSHServer{k: k}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s.user = me.Username
	if asNobody() {
		s.user = "nobody"
	}
	// A folder that nobody can reach: those of the other servers are closed to all but root.
	if s.dir, s.lock, err = newFolder(os.TempDir()); err != nil {
		return nil, err
	}
	k.tell("folder " + s.dir)
	if s.port, err = takePort(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting OpenSSH: %w", err), s.Close())
	}
	return s, nil
}

func (s *SSHServer) path(name string) string { return filepath.Join(s.dir, name) }

// prepare writes keys and configuration.
func (s *SSHServer) prepare() error {
	client, err := writeSSHKey(s.path("client"))
	if err != nil {
		return err
	}
	if s.host, err = writeSSHKey(s.path("host")); err != nil {
		return err
	}
	// Without PAM an account without a password counts as locked.
	config := strings.Join([]string{
		"ListenAddress 127.0.0.1", fmt.Sprintf("Port %d", s.port.number), "HostKey " + s.path("host"), "AuthorizedKeysFile " + s.path("authorized"),
		"PidFile none", "UsePAM yes", "StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PubkeyAuthentication yes",
		"PermitRootLogin prohibit-password", "AllowUsers " + s.user, "AllowTcpForwarding local", "X11Forwarding no", "PermitTTY no", "LogLevel INFO",
		"MaxStartups 100", "",
	}, "\n")
	err = errors.Join(os.WriteFile(s.path("authorized"), ssh.MarshalAuthorizedKey(client), 0o600), os.WriteFile(s.path("config"), []byte(config), 0o600))
	return errors.Join(err, s.own("", "authorized", "config", "host"))
}

// asNobody reports whether the server must run as another user: one that runs as root needs a user and a folder that its package makes.
func asNobody() bool { return os.Geteuid() == 0 }

const nobodyID = 65534

// own gives files of the folder to the user whom the server runs as.
func (s *SSHServer) own(names ...string) (err error) {
	for _, name := range names {
		if asNobody() {
			err = errors.Join(err, os.Chown(s.path(name), nobodyID, nobodyID))
		}
	}
	return err
}

// writeSSHKey makes a key.
func writeSSHKey(path string) (ssh.PublicKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	return signer.PublicKey(), os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// start starts the process. The caller holds mu, or is the only one who knows the server.
func (s *SSHServer) start(ctx context.Context) error {
	path, err := s.program(ctx)
	if err != nil {
		return err
	}
	args := []string{path, "-D", "-e", "-f", s.path("config")}
	if asNobody() {
		if path, err = exec.LookPath("setpriv"); err != nil {
			return fmt.Errorf("%w: setpriv (util-linux), to run OpenSSH as nobody: %w", ErrMissing, err)
		}
		id := fmt.Sprint(nobodyID)
		args = append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups"}, args...)
	}
	p, err := s.k.start("sshd", path, args, s.dir, s.path("log"))
	if err != nil {
		return err
	}
	err = p.ready(ctx, startTimeout, func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.Addr())
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		p.kill()
		return err
	}
	s.process = p
	return nil
}

// unpacked is the program out of its package, once it was fetched.
var unpacked struct {
	sync.Mutex
	program []byte
}

// program returns the server's path.
func (s *SSHServer) program(ctx context.Context) (string, error) {
	if p := sshTool.look(); p != "" {
		return p, nil
	}
	path := s.path("sshd")
	if exists(path) { // started again
		return path, nil
	}
	unpacked.Lock()
	defer unpacked.Unlock()
	if unpacked.program == nil {
		var err error
		if unpacked.program, err = unpackSSH(ctx, s.path("package")); err != nil {
			return "", fmt.Errorf("%w: %s is not installed (no %s found) and cannot be fetched from here: %w. Install it from your system's packages "+
				"(Debian: openssh-server)", ErrMissing, sshTool.server, sshTool.files[0], err)
		}
	}
	if err := os.WriteFile(path, unpacked.program, 0o755); err != nil {
		return "", err
	}
	err := runs(ctx, path)
	if err != nil && install(ctx, sshLibraries) == nil {
		err = runs(ctx, path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s was fetched and does not run here: %w", ErrMissing, sshTool.server, err)
	}
	return path, nil
}

// runs tells whether the server finds its libraries: else the system's loader ends it with 127.
func runs(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, path, "-t", "-f", os.DevNull).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() != 127 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unpackSSH fetches the package into a folder that it makes, and returns the program.
func unpackSSH(ctx context.Context, dir string) ([]byte, error) {
	if os.Getenv("LEVEE_TEST_INSTALL") == "no" {
		return nil, errors.New("LEVEE_TEST_INSTALL=no forbids it")
	}
	ctx, cancel := context.WithTimeout(ctx, installPatience)
	defer cancel()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%s is missing: fetching %s, not installing it (LEVEE_TEST_INSTALL=no forbids this)\n", sshTool.server, sshTool.packages[0])
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	download := []string{"apt-get", "-q", "download", sshTool.packages[0]}
	if run(download...) != nil {
		_ = run("apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "update") // root only; the next line says what is wrong
		if err := run(download...); err != nil {
			return nil, err
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return nil, fmt.Errorf("%d packages came", len(debs))
	}
	if err := run("dpkg-deb", "-x", debs[0], "."); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "usr", "sbin", "sshd"))
}

// Addr is the server's HOST:PORT.
func (s *SSHServer) Addr() string { return s.port.addr() }

// User is who may log in.
func (s *SSHServer) User() string { return s.user }

// KeyFile is the file of the user's key.
func (s *SSHServer) KeyFile() string { return s.path("client") }

// HostKey is the key that the server shows, in the form of authorized_keys: after a host's name it is a line of known_hosts.
func (s *SSHServer) HostKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.host)))
}

// RotateHostKey gives the server a new host key and restarts it. Connections that are open go on.
func (s *SSHServer) RotateHostKey(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the server is closed")
	}
	var err error
	if s.host, err = writeSSHKey(s.path("host")); err != nil {
		return err
	}
	if err := s.own("host"); err != nil {
		return err
	}
	s.process.kill()
	return s.start(ctx)
}

// Close ends the server. Connections that are open end with their clients.
func (s *SSHServer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.process.kill()
	if s.port != nil {
		s.port.free()
	}
	return errors.Join(os.RemoveAll(s.dir), s.lock.Close())
}
