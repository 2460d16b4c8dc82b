package bastion

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"levee"
	"levee/internal/platform/backends"
)

// host is a real OpenSSH server with a proxy before it, and an echo behind it.
type host struct {
	ssh    *backends.SSHServer
	proxy  *backends.Proxy
	target net.Listener
	reach  atomic.Int64 // connections that came to target
	cfg    Config
}

func start(t *testing.T) *host {
	t.Helper()
	h := &host{}
	var err error
	if h.ssh, err = backends.StartSSH(t.Context()); backends.MaySkip(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.ssh.Close() })
	if h.proxy, err = backends.StartProxy(t.Context(), h.ssh.Addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.proxy.Close() })
	h.target = listen(t, func(c net.Conn) {
		h.reach.Add(1)
		_, _ = io.Copy(c, c)
		_ = c.Close()
	})
	h.cfg = Config{Address: h.ssh.User() + "@" + h.proxy.Addr, KeyFile: h.ssh.KeyFile(), KnownHosts: write(t, h.line("", h.ssh.HostKey()), 0o600)}
	return h
}

// line is one of known_hosts.
func (h *host) line(marker, key string) string {
	name, port, _ := strings.Cut(h.proxy.Addr, ":")
	return marker + "[" + name + "]:" + port + " " + key + "\n"
}

func (h *host) dial(ctx context.Context, tun *Tunnel) (net.Conn, error) {
	return tun.DialContext(ctx, "tcp", h.target.Addr().String())
}

// echo proves that a connection carries.
func echo(t *testing.T, c net.Conn, err error) {
	t.Helper()
	if err == nil {
		if _, err = c.Write([]byte("hello")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 5))
		}
	}
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

func listen(t *testing.T, each func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go each(c)
		}
	}()
	return l
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

func opened(t *testing.T, cfg Config) *Tunnel {
	t.Helper()
	tun, err := Open(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tun.Close)
	return tun
}

// someKey is a key pair: the private half's file text and the public one's line.
func someKey(t *testing.T, passphrase string) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p)))
}

// TestFilesAndAddress: what Open refuses, and what it says.
func TestFilesAndAddress(t *testing.T) {
	private, public := someKey(t, "")
	locked, _ := someKey(t, "hush-hush")
	good := Config{Address: "u@h.example:2222", KeyFile: write(t, private, 0o600), KnownHosts: write(t, "[h.example]:2222 "+public+"\n", 0o644)}
	for address, addr := range map[string]string{
		"u@h.example:2222": "h.example:2222", "u@h": "h:22", "u@10.0.0.1": "10.0.0.1:22", "u@::1": "[::1]:22", "u@[::1]": "[::1]:22", "u@[::1]:24": "[::1]:24",
	} {
		cfg := good
		cfg.Address = address
		if tun := opened(t, cfg); tun.addr != addr || tun.user != "u" {
			t.Errorf("%s is %s, %s", address, tun.user, tun.addr)
		}
	}
	for _, c := range []struct {
		what   string
		change func(*Config)
		says   []string
	}{
		{"no user", func(c *Config) { c.Address = "h" }, []string{"db.bastion ", "user@host"}},
		{"an empty user", func(c *Config) { c.Address = "@h" }, []string{"user@host"}},
		{"no host", func(c *Config) { c.Address = "u@" }, []string{"user@host"}},
		{"a URL", func(c *Config) { c.Address = "ssh://u@h" }, []string{"user@host"}},
		{"two users", func(c *Config) { c.Address = "u@v@h" }, []string{"user@host"}},
		{"a port that is none", func(c *Config) { c.Address = "u@h:99999" }, []string{"user@host"}},
		{"a password", func(c *Config) { c.Address = "u:topsecret@h" }, []string{"without a password"}},
		{"no key", func(c *Config) { c.KeyFile = "" }, []string{"db.bastion_key_file", "private key"}},
		{"no such key", func(c *Config) { c.KeyFile += ".none" }, []string{"db.bastion_key_file", "can be read", ".none", "no such file"}},
		{"a folder for a key", func(c *Config) { c.KeyFile = filepath.Dir(c.KeyFile) }, []string{"db.bastion_key_file"}},
		{"a key with a passphrase", func(c *Config) { c.KeyFile = write(t, locked, 0o600) }, []string{"db.bastion_key_file", "without a passphrase", "ssh-keygen -p"}},
		{"a key that all may read", func(c *Config) { c.KeyFile = write(t, private, 0o644) }, []string{"db.bastion_key_file", "chmod 600", "0644"}},
		{"another file for a key", func(c *Config) { c.KeyFile = write(t, public, 0o600) }, []string{"db.bastion_key_file", "OpenSSH or PEM"}},
		{"no known hosts", func(c *Config) { c.KnownHosts = "" }, []string{"db.bastion_known_hosts", "ssh-keyscan -p 2222 h.example", "cannot be left out"}},
		{"no such known hosts", func(c *Config) { c.KnownHosts += ".none" }, []string{"db.bastion_known_hosts", "ssh-keyscan -p 2222 h.example"}},
		{"known hosts that all may write", func(c *Config) { c.KnownHosts = write(t, "", 0o666) }, []string{"db.bastion_known_hosts", "chmod 644", "0666"}},
		{"known hosts that are none", func(c *Config) { c.KnownHosts = write(t, "what is this\n", 0o600) }, []string{"db.bastion_known_hosts", "form of known_hosts"}},
	} {
		cfg := good
		c.change(&cfg)
		tun, err := Open(cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			tun.Close()
			t.Errorf("%s: taken", c.what)
			continue
		}
		if levee.CodeOf(err) != levee.CodeInvalid || strings.Contains(err.Error(), "topsecret") || strings.Contains(err.Error(), private[40:80]) {
			t.Errorf("%s: %v", c.what, err)
		}
		for _, says := range c.says {
			if runtime.GOOS != "windows" && !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v does not say %q", c.what, err, says)
			}
		}
	}
}

// TestHostKey: the host's key is checked, nothing goes through to a host that fails, and the error says what to do.
func TestHostKey(t *testing.T) {
	h := start(t)
	_, other := someKey(t, "")
	right := h.ssh.HostKey()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(right))
	if err != nil {
		t.Fatal(err)
	}
	shown := ssh.FingerprintSHA256(key)
	name, port, _ := strings.Cut(h.proxy.Addr, ":")
	keyscan := "ssh-keyscan -p " + port + " " + name
	const rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDB8+FMq5BVmSpb+CI0LZEnDMh9ldvPzPVQ/f/6fzM2ZBY4rXsvI6mNOSiGyASgl0qRbAVQPqC4s5dJ1NkKPwT8uvqyQaJZkVU2BLWHYBIi0a5m8nWB3PVsHVlw0bPBTrCr1hEBiGnBFlkqvO8tJ1Fn+NoGb8i0lJ9lgx8BH0Bb4w=="
	for _, c := range []struct {
		what, known string
		says        []string // nil: let through
	}{
		{"the right key", h.line("", right), nil},
		{"the right key among others", h.line("", other) + h.line("", right), nil},
		{"an empty file", "", []string{shown, keyscan, "has none for it"}},
		{"the key for another port", name + " " + right + "\n", []string{shown, keyscan, "has none for it"}},
		{"another key", h.line("", other), []string{shown, keyscan, "somebody may stand in between"}},
		{"a revoked key", h.line("", right) + "@revoked * " + right + "\n", []string{shown, "revokes"}},
		{"a key of another kind", h.line("", rsa), []string{keyscan, "none of the kinds"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			cfg := h.cfg
			cfg.KnownHosts = write(t, c.known, 0o600)
			tun := opened(t, cfg)
			before := h.reach.Load()
			conn, err := h.dial(t.Context(), tun)
			if c.says == nil {
				echo(t, conn, err)
				return
			}
			if levee.CodeOf(err) != levee.CodeForbidden || h.reach.Load() != before {
				t.Fatalf("%v", err)
			}
			for _, says := range append(c.says, cfg.KnownHosts, h.proxy.Addr) {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%v does not say %q", err, says)
				}
			}
		})
	}
}

// TestWhoIsLetIn: a user and a key that the host does not take, and an address that it does not reach.
func TestWhoIsLetIn(t *testing.T) {
	h := start(t)
	private, _ := someKey(t, "")
	for _, c := range []struct {
		what, addr string
		change     func(*Config)
		code       levee.Code
		says       []string
	}{
		{"another key", "", func(c *Config) { c.KeyFile = write(t, private, 0o600) }, levee.CodeForbidden, []string{"does not let " + h.ssh.User() + " in", "authorized_keys"}},
		{"another user", "", func(c *Config) { c.Address = "nobodyatall@" + h.proxy.Addr }, levee.CodeForbidden, []string{"does not let nobodyatall in"}},
		{"nobody there", "127.0.0.1:1", func(*Config) {}, levee.CodeUnavailable, []string{"does not connect to 127.0.0.1:1", "as the bastion sees it"}},
	} {
		cfg := h.cfg
		c.change(&cfg)
		tun := opened(t, cfg)
		if c.addr == "" {
			c.addr = h.target.Addr().String()
		}
		_, err := tun.DialContext(t.Context(), "tcp", c.addr)
		if levee.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), private[40:80]) {
				t.Errorf("%s: %v does not say %q", c.what, err, says)
			}
		}
	}
	if n := h.reach.Load(); n != 0 {
		t.Errorf("%d came through", n)
	}
}

// TestOneForAll: one SSH connection for all who come at once, the first time and after it broke.
func TestOneForAll(t *testing.T) {
	h := start(t)
	tun := opened(t, h.cfg)
	for range 3 {
		var wg sync.WaitGroup
		conns := make(chan net.Conn, 30)
		for range 30 {
			wg.Go(func() {
				c, err := h.dial(t.Context(), tun)
				for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); c, err = h.dial(t.Context(), tun) {
					time.Sleep(10 * time.Millisecond) // the pause after a connection that broke young
				}
				if err != nil {
					t.Error(err)
					return
				}
				conns <- c
			})
		}
		wg.Wait()
		close(conns)
		if n := h.proxy.Connections(); n != 1 {
			t.Errorf("%d SSH connections", n)
		}
		var all []net.Conn
		for c := range conns {
			echo(t, c, nil)
			all = append(all, c)
		}
		h.proxy.ResetPeer()
		for _, c := range all { // what was carried ends, and soon
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a connection whose tunnel broke: %v", err)
			}
			if n, err := c.Write([]byte{1}); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("a connection whose tunnel broke takes %d bytes: %v", n, err)
			}
		}
	}
}

// TestNoStorm: a host in trouble sees few tries, whoever asks how often.
func TestNoStorm(t *testing.T) {
	t.Parallel()
	private, public := someKey(t, "")
	var tries atomic.Int64
	l := listen(t, func(c net.Conn) {
		tries.Add(1)
		_ = c.Close()
	})
	tun := opened(t, Config{Address: "u@" + l.Addr().String(), KeyFile: write(t, private, 0o600), KnownHosts: write(t, "* "+public+"\n", 0o600)})
	var asked atomic.Int64
	var wg sync.WaitGroup
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		for range 16 {
			wg.Go(func() {
				if _, err := tun.DialContext(t.Context(), "tcp", "127.0.0.1:1"); levee.CodeOf(err) != levee.CodeUnavailable {
					t.Error(err)
				}
				asked.Add(1)
				time.Sleep(time.Millisecond)
			})
		}
		wg.Wait()
	}
	// Tries at 0, 0.25, 0.75 and 1.75 s, each pause give or take a quarter.
	if n := tries.Load(); n < 3 || n > 6 || asked.Load() < 1000 {
		t.Errorf("%d tries for %d who asked", n, asked.Load())
	}
}

// TestContext: who waits for a host that says nothing waits no longer than he wants, and Close does not wait for the host either.
func TestContext(t *testing.T) {
	t.Parallel()
	private, public := someKey(t, "")
	l := listen(t, func(net.Conn) {})
	tun := opened(t, Config{Address: "u@" + l.Addr().String(), KeyFile: write(t, private, 0o600), KnownHosts: write(t, "* "+public+"\n", 0o600)})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := tun.DialContext(ctx, "tcp", "127.0.0.1:1")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), l.Addr().String()+" did not answer in time") || time.Since(begun) > 8*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	tun.Close()
	if took := time.Since(begun); took > 9*time.Second {
		t.Errorf("Close took %v", took)
	}
	if _, err := tun.DialContext(t.Context(), "tcp", "127.0.0.1:1"); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Error(err)
	}
}

// TestDeadlines: SSH has none, and what it carries has, also when the host is silent; then the connection is given up and made again.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	h := start(t)
	tun := opened(t, h.cfg)
	c, err := h.dial(t.Context(), tun)
	echo(t, c, err)
	within := func(what string, most time.Duration, do func() error, want error) {
		t.Helper()
		begun := time.Now()
		if err := do(); !errors.Is(err, want) || time.Since(begun) > most {
			t.Errorf("%s: %v after %v", what, err, time.Since(begun))
		}
	}
	read := func() error { _, err := c.Read(make([]byte, 1)); return err }
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	within("a read", 2*time.Second, read, os.ErrDeadlineExceeded)
	_ = c.SetReadDeadline(time.Time{})
	echo(t, c, nil) // as with TCP it can be used further
	time.AfterFunc(50*time.Millisecond, func() { _ = c.SetReadDeadline(time.Now()) })
	within("a deadline set while somebody reads", 2*time.Second, read, os.ErrDeadlineExceeded)
	_ = c.SetReadDeadline(time.Time{})

	if err := h.proxy.Silence(true); err != nil {
		t.Fatal(err)
	}
	silent := time.Now()
	_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	within("a read from a silent host", 2*time.Second, read, os.ErrDeadlineExceeded)
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	within("much written to a silent host", 3*time.Second, func() error { _, err := c.Write(make([]byte, 64<<20)); return err }, os.ErrDeadlineExceeded)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	within("a dial through a silent host", 2*time.Second, func() error { _, err := h.dial(ctx, tun); return err }, context.DeadlineExceeded)
	_ = c.SetDeadline(time.Time{})
	time.AfterFunc(50*time.Millisecond, func() { _ = c.Close() })
	within("a read that Close ends", 2*time.Second, read, io.ErrClosedPipe)

	// The keep-alive finds out, and not before its time.
	lives := func() bool {
		tun.mu.Lock()
		defer tun.mu.Unlock()
		return tun.client != nil
	}
	for lives() && time.Since(silent) < 30*time.Second {
		time.Sleep(20 * time.Millisecond)
	}
	if took := time.Since(silent); lives() || took < keepEvery {
		t.Errorf("a silent host was given up after %v", took)
	} else {
		t.Logf("a silent host was given up after %v", took)
	}
	if err := h.proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err = h.dial(t.Context(), tun); err == nil || time.Now().After(end) {
			break
		}
	}
	echo(t, c, err)
	// An idle connection answers and stays.
	if testing.Short() {
		return
	}
	time.Sleep(keepEvery + keepFor + time.Second)
	if echo(t, c, nil); h.proxy.Connections() != 1 {
		t.Error("an idle connection was made again")
	}
}

// TestCloseLeavesNothing: no goroutine outlives Close, with connections in use, left open, and under way.
func TestCloseLeavesNothing(t *testing.T) {
	h := start(t)
	tun := opened(t, h.cfg)
	for range 5 {
		c, err := h.dial(t.Context(), tun)
		echo(t, c, err)
		go func() { _, _ = c.Read(make([]byte, 1)) }()
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if c, err := h.dial(t.Context(), tun); err == nil {
				_ = c.Close()
			}
		})
	}
	mine := func() (n int) {
		stack := make([]byte, 4<<20)
		for g := range strings.SplitSeq(string(stack[:runtime.Stack(stack, true)]), "\n\n") {
			if strings.Contains(g, "bastion.(*Tunnel)") || strings.Contains(g, "x/crypto/ssh.") {
				n++
			}
		}
		return n
	}
	if mine() < 10 {
		t.Error("the count of goroutines sees nothing")
	}
	tun.Close()
	wg.Wait()
	end := time.Now().Add(5 * time.Second)
	for mine() > 0 && time.Now().Before(end) { // the library's own end a moment after their connection
		time.Sleep(5 * time.Millisecond)
	}
	if n := mine(); n > 0 {
		t.Errorf("%d goroutines are left", n)
	}
	end = time.Now().Add(5 * time.Second)
	for h.proxy.Connections() > 0 && time.Now().Before(end) {
		time.Sleep(5 * time.Millisecond)
	}
	if n := h.proxy.Connections(); n > 0 {
		t.Errorf("%d SSH connections are left", n)
	}
}
