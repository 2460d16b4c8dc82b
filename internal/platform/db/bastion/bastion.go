// Package bastion carries connections to a database through an SSH server that stands before it: one SSH connection, checked against known
// host keys, with as many connections inside as are asked for. It makes the SSH connection when one is needed and makes it again after it
// broke; what a broken one carried is lost, as with any broken connection. It knows nothing of databases.
package bastion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"levee"
)

// Config says where the bastion is and how both sides prove who they are. There is no way to leave the check of the host's key out.
type Config struct {
	// Address is user@host or user@host:port; the port is 22 if left out.
	Address string
	// KeyFile is the user's private key without a passphrase (OpenSSH or PEM form), in a file that not everybody may read. It is read at
	// each connection, so it may be replaced.
	KeyFile string
	// KnownHosts is a file in the form of ~/.ssh/known_hosts with the bastion's host keys, hashed names too, that not everybody may write.
	// It is read at each connection: a new key is added there before the old one goes. Certificates of hosts are not looked at.
	KnownHosts string
}

const (
	// connectFor bounds one try to connect: TCP, keys and login.
	connectFor = 10 * time.Second
	// keepEvery is how long a connection may be silent before it is asked whether it lives, keepFor how long it may be silent after that.
	keepEvery = 3 * time.Second
	keepFor   = 3 * time.Second
	// After a failed try, and after a connection that broke before settled was over, the error answers for those who come during a pause,
	// so that a bastion in trouble is not stormed. The pause doubles from pauseMin to pauseMax, give or take a quarter.
	pauseMin = 250 * time.Millisecond
	pauseMax = 2 * time.Second
	settled  = 10 * time.Second
)

// Tunnel is a bastion in use. It is safe for use by many goroutines.
type Tunnel struct {
	cfg        Config
	user, addr string
	log        *slog.Logger

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex // guards all that follows
	closed   bool
	client   *ssh.Client // nil: none lives
	since    time.Time   // when client began
	try      *try        // nil: nobody connects
	failures int         // in a row
	pause    time.Time   // until then err answers
	err      error       // why the last try failed or the last connection broke
}

// try is one attempt to connect that many may wait for.
type try struct {
	done   chan struct{}
	client *ssh.Client
	err    error
}

// Open checks the config and reads both files; it connects to nothing. Faults are CodeInvalid and name the field as db.bastion….
func Open(cfg Config, log *slog.Logger) (*Tunnel, error) {
	const form = "user@host or user@host:port, without a password"
	user, host, ok := strings.Cut(cfg.Address, "@")
	if strings.Contains(user, ":") {
		return nil, levee.Invalid("db.bastion", form, "…@"+host)
	}
	addr := host
	if _, _, err := net.SplitHostPort(host); err != nil {
		addr = net.JoinHostPort(strings.Trim(host, "[]"), "22")
	}
	name, port, err := net.SplitHostPort(addr)
	if n, e := strconv.Atoi(port); !ok || user == "" || strings.ContainsAny(host, "@ /") || err != nil || e != nil || n < 1 || n > 65535 || name == "" {
		return nil, levee.Invalid("db.bastion", form, cfg.Address)
	}
	t := &Tunnel{cfg: cfg, user: user, addr: addr, log: log}
	if _, err := t.config(); err != nil {
		return nil, err
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// config reads both files.
func (t *Tunnel) config() (*ssh.ClientConfig, error) {
	text, err := read("db.bastion_key_file", t.cfg.KeyFile, "the user's private key", 0o007, "that not everybody may read (chmod 600)")
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, levee.Invalid("db.bastion_key_file", "a key without a passphrase (ssh-keygen -p takes it off a copy)", t.cfg.KeyFile)
	} else if err != nil {
		return nil, levee.Invalid("db.bastion_key_file", "a private key in OpenSSH or PEM form", t.cfg.KeyFile).Because(err)
	}
	_, err = read("db.bastion_known_hosts", t.cfg.KnownHosts, "the bastion's host keys, as `"+t.keyscan()+"` prints them: the check cannot be left out",
		0o002, "that not everybody may write (chmod 644)")
	if err != nil {
		return nil, err
	}
	check, err := knownhosts.New(t.cfg.KnownHosts)
	if err != nil {
		return nil, levee.Invalid("db.bastion_known_hosts", "a file in the form of known_hosts", t.cfg.KnownHosts).Because(err)
	}
	return &ssh.ClientConfig{
		User: t.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyAlgorithms: t.hostKeyKinds(check),
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			return t.judge(check(host, remote, key), key)
		},
	}, nil
}

// read reads a file whose mode has none of the bits of refused.
func read(field, path, what string, refused os.FileMode, instead string) ([]byte, error) {
	if path == "" {
		return nil, levee.Invalid(field, "a file with "+what, "")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, levee.Invalid(field, "a file that can be read, with "+what, path).Because(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&refused != 0 { // the bits mean nothing there
		return nil, levee.Invalid(field, "a file "+instead, fmt.Sprintf("%s with %04o", path, info.Mode().Perm()))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, levee.Invalid(field, "a file that can be read, with "+what, path).Because(err)
	}
	return text, nil
}

// keyscan is the command that prints the bastion's host keys.
func (t *Tunnel) keyscan() string {
	host, port, _ := net.SplitHostPort(t.addr)
	return "ssh-keyscan -p " + port + " " + host
}

// hostKeyKinds are the kinds of keys that the file has for this host: a server that has others too must show one of these. All kinds
// when the file knows none, so that the error can say which key the host shows.
func (t *Tunnel) hostKeyKinds(check ssh.HostKeyCallback) (kinds []string) {
	rsa := []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256} // what an RSA key signs with; SHA-1 no more
	unfit, _ := errors.AsType[*knownhosts.KeyError](check(t.addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{}))
	if unfit == nil || len(unfit.Want) == 0 {
		return append([]string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521}, rsa...)
	}
	for _, known := range unfit.Want {
		kind := []string{known.Key.Type()}
		if kind[0] == ssh.KeyAlgoRSA {
			kind = rsa
		}
		if !slices.Contains(kinds, kind[0]) {
			kinds = append(kinds, kind...)
		}
	}
	return kinds
}

// noKey is a key that no file knows.
type noKey struct{}

// Type is the name of no key.
func (noKey) Type() string { return "none" }

// Marshal is empty.
func (noKey) Marshal() []byte { return nil }

// Verify fails.
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// judge says in words what is wrong with a host's key. Any error of the check stays one.
func (t *Tunnel) judge(err error, key ssh.PublicKey) error {
	if err == nil {
		return nil
	}
	shown := key.Type() + " " + ssh.FingerprintSHA256(key)
	if _, ok := errors.AsType[*knownhosts.RevokedError](err); ok {
		return levee.E(levee.CodeForbidden, "the bastion %s shows the host key %s, which %s revokes", t.addr, shown, t.cfg.KnownHosts)
	}
	unfit, ok := errors.AsType[*knownhosts.KeyError](err)
	switch {
	case !ok:
		return levee.E(levee.CodeForbidden, "the host key %s of the bastion %s cannot be checked", shown, t.addr).Because(err)
	case len(unfit.Want) > 0:
		return levee.E(levee.CodeForbidden, "the bastion %s shows the host key %s, which is not the one that %s has for it: somebody may stand in between. "+
			"Only if the host's owner confirms this new fingerprint, add the line that `%s` prints to the file", t.addr, shown, t.cfg.KnownHosts, t.keyscan())
	}
	return levee.E(levee.CodeForbidden, "the bastion %s shows the host key %s, and %s has none for it. "+
		"If the host's owner confirms this fingerprint, add the line that `%s` prints to the file", t.addr, shown, t.cfg.KnownHosts, t.keyscan())
}

// Close ends the SSH connection and all that it carries, and waits until both are gone.
func (t *Tunnel) Close() {
	t.mu.Lock()
	t.closed = true
	c := t.client
	t.mu.Unlock()
	t.stop()
	if c != nil {
		_ = c.Close()
	}
	t.wg.Wait()
}

func errClosed() error { return levee.E(levee.CodeUnavailable, "the tunnel is closed") }

// spawn starts a goroutine that Close waits for, and reports whether there was still time.
func (t *Tunnel) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.wg.Go(f)
	}
	return !t.closed
}

// DialContext connects to an address as the bastion sees it. ctx bounds the wait. CodeUnavailable when the bastion cannot be reached in
// time, or may not or cannot reach the address; CodeForbidden when it is not who it should be or does not let the user in; CodeInvalid
// when a file is not good any more.
func (t *Tunnel) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	for again := true; ; again = false {
		c, err := t.living(ctx)
		if err != nil {
			return nil, err
		}
		inner, err := t.dial(ctx, c, network, addr)
		if err == nil {
			return t.carry(inner)
		}
		if ctx.Err() != nil {
			return nil, t.late(ctx)
		}
		if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
			hint := "is that the database's address as the bastion sees it?"
			if refused.Reason == ssh.Prohibited {
				hint = "its sshd_config needs AllowTcpForwarding yes or local, and PermitOpen must not leave the address out"
			}
			return nil, levee.E(levee.CodeUnavailable, "the bastion %s does not connect to %s: %s (%s); %s",
				t.addr, addr, refused.Reason, levee.Shorten(refused.Message, 100), hint)
		}
		t.lost(c, err)
		if !again {
			return nil, levee.E(levee.CodeUnavailable, "the connection to the bastion %s broke", t.addr).Because(err)
		}
	}
}

func (t *Tunnel) late(ctx context.Context) error {
	return levee.E(levee.CodeUnavailable, "the bastion %s did not answer in time", t.addr).Because(ctx.Err())
}

// dial is the library's Dial with a context, in a goroutine that Close waits for.
func (t *Tunnel) dial(ctx context.Context, c *ssh.Client, network, addr string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	answers := make(chan answer)
	if !t.spawn(func() {
		conn, err := c.Dial(network, addr)
		select {
		case answers <- answer{conn, err}:
		case <-ctx.Done(): // nobody waits any more
			if err == nil {
				_ = conn.Close()
			}
		}
	}) {
		return nil, errClosed()
	}
	select {
	case a := <-answers:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// living returns the SSH connection, and makes it if there is none. Whoever comes meanwhile waits for the same try.
func (t *Tunnel) living(ctx context.Context) (*ssh.Client, error) {
	t.mu.Lock()
	switch {
	case t.closed:
		t.mu.Unlock()
		return nil, errClosed()
	case t.client != nil:
		c := t.client
		t.mu.Unlock()
		return c, nil
	case t.try == nil && time.Now().Before(t.pause):
		err := t.err
		t.mu.Unlock()
		return nil, err
	case t.try == nil:
		a := &try{done: make(chan struct{})}
		t.try = a
		t.wg.Go(func() { t.connect(a) })
	}
	a := t.try
	t.mu.Unlock()
	select {
	case <-a.done:
		return a.client, a.err
	case <-ctx.Done():
		return nil, t.late(ctx)
	}
}

// connect is one try; it belongs to nobody's context but the tunnel's.
func (t *Tunnel) connect(a *try) {
	ctx, cancel := context.WithTimeout(t.ctx, connectFor)
	defer cancel()
	c, line, err := t.handshake(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		if c != nil {
			_ = c.Close()
		}
		c, err = nil, errClosed()
	}
	switch {
	case err == nil:
		t.client, t.since = c, time.Now()
		t.log.Info("connected to the bastion", "bastion", t.addr)
		t.wg.Go(func() { t.keep(c, line) })
	case !t.closed:
		if t.err == nil || t.err.Error() != err.Error() {
			t.log.Warn("the bastion cannot be used", "bastion", t.addr, "error", err)
		}
		t.failedWith(err)
	}
	t.try, a.client, a.err = nil, c, err
	close(a.done)
}

// failedWith begins a pause. The caller holds mu.
func (t *Tunnel) failedWith(err error) {
	most := min(pauseMin<<min(t.failures, 8), pauseMax)
	t.pause, t.err = time.Now().Add(most*3/4+rand.N(most/2)), err
	t.failures++
}

// handshake makes an SSH connection, over the line that it returns too.
func (t *Tunnel) handshake(ctx context.Context) (*ssh.Client, *line, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, nil, err
	}
	raw, err := (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, nil, levee.E(levee.CodeUnavailable, "the bastion %s cannot be reached", t.addr).Because(err)
	}
	l := &line{Conn: raw}
	unhook := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, channels, requests, err := ssh.NewClientConn(l, t.addr, cfg)
	if !unhook() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return ssh.NewClient(c, channels, requests), l, nil
	}
	_ = raw.Close()
	coded, judged := errors.AsType[*levee.Error](err)
	unlike, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err)
	switch {
	case judged:
	case strings.Contains(err.Error(), "unable to authenticate"): // the library has no type for it
		coded = levee.E(levee.CodeForbidden, "the bastion %s does not let %s in with the key of %s: is its public half among the user's "+
			"authorized_keys there?", t.addr, t.user, t.cfg.KeyFile).Because(err)
	case ok && unlike.What == "host key":
		coded = levee.E(levee.CodeForbidden, "the bastion %s has none of the kinds of host keys that %s has for it. If the host's owner "+
			"confirms them, add the lines that `%s` prints to the file", t.addr, t.cfg.KnownHosts, t.keyscan()).Because(err)
	default:
		coded = levee.E(levee.CodeUnavailable, "the bastion %s does not speak SSH with us", t.addr).Because(err)
	}
	return nil, nil, coded
}

// keep asks a connection that is silent whether it lives, until it does not. All that comes is a sign of life: an answer may wait behind
// much else.
func (t *Tunnel) keep(c *ssh.Client, l *line) {
	ended := make(chan error, 1)
	t.wg.Go(func() { ended <- c.Wait() })
	tick := time.NewTicker(keepEvery / 10)
	defer tick.Stop()
	quiet, heard := time.Now(), l.heard.Load() // since when nothing came
	var asked time.Time                        // zero: not since then
	for {
		select {
		case err := <-ended:
			t.lost(c, err)
			return
		case <-tick.C:
		}
		switch h := l.heard.Load(); {
		case h != heard:
			quiet, heard, asked = time.Now(), h, time.Time{}
		case asked.IsZero() && time.Since(quiet) > keepEvery:
			asked = time.Now()
			t.wg.Go(func() { _, _, _ = c.SendRequest("keepalive@openssh.com", true, nil) }) // a refusal is an answer
		case !asked.IsZero() && time.Since(asked) > keepFor:
			t.lost(c, fmt.Errorf("no answer within %v", keepFor))
			<-ended
			return
		}
	}
}

// lost gives a connection up; the next who needs one has it made.
func (t *Tunnel) lost(c *ssh.Client, why error) {
	_ = c.Close() // ends all that it carries, so that nobody waits for an answer that cannot come
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != c {
		return
	}
	t.client = nil
	if t.closed {
		return
	}
	t.log.Warn("the connection to the bastion is lost; it is made again when it is needed", "bastion", t.addr, "error", why)
	if time.Since(t.since) > settled {
		t.failures, t.err = 0, nil
		return
	}
	t.failedWith(levee.E(levee.CodeUnavailable, "the connection to the bastion %s broke", t.addr).Because(why))
}
