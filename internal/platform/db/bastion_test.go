package db

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

// behind is a database server with replicas that is reached through a real OpenSSH server, and a proxy before that to break the tunnel.
type behind struct {
	t     *testing.T
	mysql *backends.MySQLServer
	ssh   *backends.SSHServer
	proxy *backends.Proxy
	known string // the file
	cfg   Config
}

func startBehind(t *testing.T, replicas int) *behind {
	t.Helper()
	b := &behind{t: t, mysql: startServer(t, backends.MySQLOptions{Replicas: replicas}), known: filepath.Join(t.TempDir(), "known_hosts")}
	var err error
	if b.ssh, err = backends.StartSSH(ctx); backends.MaySkip(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.ssh.Close() })
	if b.proxy, err = backends.StartProxy(ctx, b.ssh.Addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.proxy.Close() })
	b.knows(b.ssh.HostKey())
	b.cfg = onServer(t, b.mysql)
	b.cfg.Bastion, b.cfg.BastionKeyFile, b.cfg.BastionKnownHosts = b.ssh.User()+"@"+b.proxy.Addr, b.ssh.KeyFile(), b.known
	for _, r := range b.mysql.Replicas {
		b.cfg.Replicas = append(b.cfg.Replicas, strings.Replace(b.cfg.URL, b.mysql.Addr(), r.Addr(), 1))
	}
	return b
}

// knows writes the file of host keys.
func (b *behind) knows(keys ...string) {
	b.t.Helper()
	host, port, _ := strings.Cut(b.proxy.Addr, ":")
	text := ""
	for _, k := range keys {
		text += "[" + host + "]:" + port + " " + k + "\n"
	}
	if err := os.WriteFile(b.known, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// TestBastion: writers, readers and a replica through one SSH connection.
func TestBastion(t *testing.T) {
	b := startBehind(t, 1)
	const password = "carried-by-the-tunnel-4711"
	for _, q := range []string{"CREATE USER through@'%' IDENTIFIED BY '" + password + "'", "GRANT ALL ON *.* TO through@'%'"} {
		if err := b.mysql.Exec(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	b.cfg.Password = secret(password)
	for _, url := range []*string{&b.cfg.URL, &b.cfg.Replicas[0]} {
		*url = strings.Replace(*url, "root@", "through@", 1)
	}
	var logged bytes.Buffer // read after Close
	o, err := obs.Open(obs.Config{Level: "debug"}, &logged)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(ctx, b.cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = d.Close()
		}
	}()
	mustExec(t, d, testTable)
	waitUsable(t, d, 1)
	mustExec(t, d, "INSERT INTO test_row (id, n) VALUES (1, 0)")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					_, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = 1")
					return err
				}); err != nil {
					t.Error(err)
				}
				if err := d.QueryRow(ctx, "SELECT n FROM test_row WHERE id = 1").Scan(new(int)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if id := where(t, d, Using(ctx, OnReplica)); id != serverID(t, b.mysql.Replicas[0]) {
		t.Errorf("a read for the replica went to server %d", id)
	}
	inside, err := b.mysql.QueryString(ctx, "SELECT COUNT(*) FROM information_schema.processlist WHERE db IS NOT NULL")
	if err != nil {
		t.Fatal(err)
	}
	if n := b.proxy.Connections(); n != 1 {
		t.Errorf("%d SSH connections carry %s of the database", n, inside)
	}
	t.Logf("one SSH connection carries %s of the database", inside)
	var n int
	if err := d.QueryRow(ctx, "SELECT n FROM test_row WHERE id = 1").Scan(&n); err != nil || n != 160 {
		t.Errorf("%d, %v", n, err)
	}
	// A statement that takes too long ends in time, though SSH knows no deadlines.
	short := b.cfg
	short.URL, short.Replicas, short.BusyTimeout = short.URL+"?answer_timeout=2s", nil, time.Second
	slow := open(t, short)
	begun := time.Now()
	err = slow.QueryRow(ctx, "SELECT SLEEP(60)").Scan(new(int))
	if took := time.Since(begun); err == nil || took > 40*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	// Neither password nor key is logged, also not with a tunnel that breaks.
	b.proxy.ResetPeer()
	_ = d.Ping(ctx)
	closed = true
	_ = d.Close() // says that connections are lost already
	if err := o.Close(ctx); err != nil {
		t.Error(err)
	}
	key, err := os.ReadFile(b.ssh.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(logged.String(), "connected to the bastion") {
		t.Errorf("the log says nothing of the bastion: %s", logged.String())
	}
	for _, s := range append(strings.Split(strings.TrimSpace(string(key)), "\n"), password) {
		if strings.Contains(logged.String(), s) {
			t.Errorf("a secret of %d bytes is logged", len(s))
		}
	}
	// What the bastion cannot reach.
	nowhere := b.cfg
	nowhere.Replicas, nowhere.URL = nil, "mysql://root@127.0.0.1:1/x"
	_, err = Open(ctx, nowhere, quiet(t))
	wantCode(t, err, levee.CodeUnavailable, "the bastion "+b.proxy.Addr+" does not connect to 127.0.0.1:1")
}

// TestBastionHostKey: a bastion that shows another key than the file has is not used, and the error says what to do; a key that is
// rotated is taken as soon as the file has it, without a restart.
func TestBastionHostKey(t *testing.T) {
	b := startBehind(t, 0)
	first := b.ssh.HostKey()
	d := open(t, b.cfg)
	ask := func() error {
		short, cancel := context.WithTimeout(ctx, 8*time.Second)
		defer cancel()
		return d.QueryRow(short, "SELECT 1").Scan(new(int))
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if err := b.ssh.RotateHostKey(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Errorf("the connection that stands: %v", err)
	}
	b.proxy.ResetPeer()
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		wantCode(t, ask(), levee.CodeUnavailable)
	}
	_, err := Open(ctx, b.cfg, quiet(t))
	wantCode(t, err, levee.CodeUnavailable, "somebody may stand in between", b.known, "SHA256:", "ssh-keyscan -p")
	b.knows(first, b.ssh.HostKey()) // the old and the new
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = ask(); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Errorf("after the file has the new key: %v", err)
	}
	for _, c := range []struct {
		what   string
		change func(c *Config)
		code   levee.Code
		says   string
	}{
		{"no known hosts", func(c *Config) { c.BastionKnownHosts = "" }, levee.CodeInvalid, "db.bastion_known_hosts"},
		{"no key", func(c *Config) { c.BastionKeyFile = "" }, levee.CodeInvalid, "db.bastion_key_file"},
		{"no bastion", func(c *Config) { c.Bastion = "" }, levee.CodeInvalid, "db.bastion must be given"},
		{"a host that the file has not", func(c *Config) { c.Bastion = b.ssh.User() + "@" + b.ssh.Addr() }, levee.CodeUnavailable, "ssh-keyscan"},
		{"somebody else", func(c *Config) { c.Bastion = "nobodyatall@" + b.proxy.Addr }, levee.CodeUnavailable, "does not let nobodyatall in"},
		{"sqlite", func(c *Config) { c.URL, c.Writers, c.Readers, c.Password = "sqlite:x.db", 0, 0, "" }, levee.CodeInvalid, "db.bastion"},
	} {
		cfg := b.cfg
		c.change(&cfg)
		d, err := Open(ctx, cfg, quiet(t))
		if err == nil {
			_ = d.Close()
			t.Errorf("%s: taken", c.what)
			continue
		}
		if levee.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// TestBastionBreaks: the tunnel is killed and silenced under load; it is made again, nothing that was answered is lost, and nothing is done
// twice.
func TestBastionBreaks(t *testing.T) {
	b := startBehind(t, 0)
	b.cfg.BusyTimeout = time.Second
	d := tested{mysql: true}.with(t, b.cfg)
	for id := range 4 {
		mustExec(t, d, "INSERT INTO test_row (id, n) VALUES (?, 0)", id)
	}
	var done, unknown, failed [4]atomic.Int64
	var last atomic.Int64 // when something was last done
	var op atomic.Int64   // each transaction's own row, which it cannot make twice
	op.Store(100)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for id := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				own := op.Add(1)
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					if _, err := tx.Exec(ctx, "INSERT INTO test_row (id, n) VALUES (?, 0)", own); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = ?", id)
					return err
				})
				switch {
				case err == nil:
					done[id].Add(1)
					last.Store(time.Now().UnixMilli())
				case OutcomeUnknown(err):
					unknown[id].Add(1)
				case levee.CodeOf(err) == levee.CodeUnavailable:
					failed[id].Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	again := func(what string, within time.Duration) {
		t.Helper()
		begun := time.Now()
		for from := begun.UnixMilli(); last.Load() <= from; time.Sleep(5 * time.Millisecond) {
			if time.Since(begun) > within {
				t.Errorf("%s: nothing is done for %v", what, within)
				return
			}
		}
		t.Logf("%s: work goes on after %v", what, time.Since(begun).Round(time.Millisecond))
	}
	for range 5 {
		time.Sleep(150 * time.Millisecond)
		b.proxy.ResetPeer()
		again("killed", 5*time.Second)
	}
	b.proxy.Down()
	time.Sleep(time.Second)
	if err := b.proxy.Up(); err != nil {
		t.Fatal(err)
	}
	again("away for a second", 5*time.Second)
	if err := b.proxy.Silence(true); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second) // the silent connection is given up by its keep-alive
	if err := b.proxy.Heal(); err != nil {
		t.Fatal(err)
	}
	again("silent for eight seconds", 15*time.Second)
	close(stop)
	wg.Wait()
	var sum int64
	for id := range 4 {
		var n int64
		if err := d.QueryRow(ctx, "SELECT n FROM test_row WHERE id = ?", id).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if least, most := done[id].Load(), done[id].Load()+unknown[id].Load(); n < least || n > most {
			t.Errorf("row %d holds %d, and %d were answered, %d are unknown", id, n, least, most-least)
		}
		sum += n
	}
	if rows := one[int64](t, d, "SELECT COUNT(*) FROM test_row WHERE id > 100"); rows != sum {
		t.Errorf("%d transactions are there, and they did %d times what each does once", rows, sum)
	}
	t.Logf("%d done; unknown %d, refused %d", sum, unknown[0].Load()+unknown[1].Load()+unknown[2].Load()+unknown[3].Load(),
		failed[0].Load()+failed[1].Load()+failed[2].Load()+failed[3].Load())
	if n := b.proxy.Connections(); n != 1 {
		t.Errorf("%d SSH connections", n)
	}
}
