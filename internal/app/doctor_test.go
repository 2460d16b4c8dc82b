package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/app"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

// ward is a house of two nodes on servers of its own, in which faults are planted.
type ward struct {
	t     *testing.T
	mysql *backends.MySQLServer
	redis *backends.RedisServer
	cfg   app.Config // of a machine beside the nodes
}

func newWard(t *testing.T) *ward {
	t.Helper()
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	w := &ward{t: t}
	var err error
	if w.mysql, err = backends.StartMySQL(t.Context(), backends.MySQLOptions{Replicas: 1, Durable: true}); err == nil {
		t.Cleanup(func() { _ = w.mysql.Close() })
		w.redis, err = backends.StartRedis(t.Context(), backends.RedisOptions{AOF: true})
	}
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.redis.Close() })
	w.sql("CREATE DATABASE levee")
	w.cfg = app.Config{Mode: "distributed", Data: t.TempDir(), DB: w.mysql.URL() + "levee", Redis: w.redis.URL(), Secret: obs.Secret(strings.Repeat("ab", 32))}
	w.cfg.Log.Level = "error"
	w.cfg.Node.Lease = time.Second
	w.cfg.Database.Readers, w.cfg.Database.Writers = 4, 8
	w.cfg.Database.Replicas = []string{w.mysql.Replicas[0].URL() + "levee"}
	w.cfg.HTTP.TrustedProxies = []string{"127.0.0.1"}
	for i := range 2 {
		w.node(fmt.Sprint("node", i), nil)
	}
	return w
}

func (w *ward) sql(statement string) {
	w.t.Helper()
	if err := w.mysql.Exec(context.Background(), statement); err != nil {
		w.t.Fatal(statement, err)
	}
}

func (w *ward) set(name, value string) {
	w.t.Helper()
	if _, err := w.redis.Do(context.Background(), "CONFIG", "SET", name, value); err != nil {
		w.t.Fatal(err)
	}
}

// node starts a node until stop, or the end of the test.
func (w *ward) node(name string, change func(*app.Config)) (stop func()) {
	w.t.Helper()
	cfg := w.cfg
	cfg.Data, cfg.Node.Name, cfg.HTTP.Addr = w.t.TempDir(), name, "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	a, err := app.New(w.t.Context(), cfg, io.Discard)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	over := false
	stop = func() {
		if over {
			return
		}
		over = true
		cancel()
		<-done
		_ = a.Close(context.Background())
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *ward) examine(t *testing.T, change func(*app.Doctor)) []app.Finding {
	t.Helper()
	d := app.Doctor{Config: w.cfg, DiskFloor: 1}
	if change != nil {
		change(&d)
	}
	found, err := d.Examine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sick returns what is not well, as "state check: what was said".
func sick(found []app.Finding) (list []string) {
	for _, f := range found {
		if f.State != app.FindingOK {
			list = append(list, f.State+" "+f.Check+": "+f.Said)
			if f.Do == "" {
				list = append(list, f.Check+": nothing is said of what to do")
			}
		}
	}
	return list
}

func TestDoctor(t *testing.T) {
	w := newWard(t)
	eventually(t, "a healthy house is well", func() bool { return len(sick(w.examine(t, nil))) == 0 })
	if found := w.examine(t, nil); len(found) < 12 || !slices.ContainsFunc(found, func(f app.Finding) bool { return f.Check == "nodes" && strings.HasPrefix(f.Said, "2 live") }) {
		t.Errorf("it looked at %+v", found)
	}
	replica := w.mysql.Replicas[0]
	own := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name        string
		plant, cure func()
		change      func(*app.Doctor)
		want        string // the one finding, as sick gives it; several with | between
	}{
		{name: "loose commits", plant: func() { w.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2") },
			cure: func() { w.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1") }, want: "wrong commits are on disk: innodb_flush_log_at_trx_commit is 2"},
		{name: "loose binlog", plant: func() { w.sql("SET GLOBAL sync_binlog = 0") }, cure: func() { w.sql("SET GLOBAL sync_binlog = 1") },
			want: "wrong commits are on disk: sync_binlog is 0"},
		{name: "few connections", plant: func() { w.sql("SET GLOBAL max_connections = 47") }, cure: func() { w.sql("SET GLOBAL max_connections = 500") },
			want: "wrong connections: max_connections is 47; 3 nodes of 16 connections need 48"},
		{name: "enough connections", plant: func() { w.sql("SET GLOBAL max_connections = 48") }, cure: func() { w.sql("SET GLOBAL max_connections = 500") }},
		{name: "collation", plant: func() {
			w.sql("ALTER TABLE levee.web_answer CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
		}, cure: func() {
			w.sql("ALTER TABLE levee.web_answer CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin")
		}, want: "wrong collation: web_answer (utf8mb4_general_ci)"},
		{name: "eviction", plant: func() { w.set("maxmemory-policy", "allkeys-lru") }, cure: func() { w.set("maxmemory-policy", "noeviction") },
			want: "wrong redis can be used:"},
		{name: "no log", plant: func() { w.set("appendonly", "no") }, cure: func() { w.set("appendonly", "yes") }, want: "warn redis keeps its data:"},
		{name: "full memory", plant: func() { w.set("maxmemory", "1mb") }, cure: func() { w.set("maxmemory", "0") }, want: "warn memory of Redis:"},
		{name: "lagging replica", plant: func() { own(replica.StopReplication(context.Background())) },
			cure: func() {
				own(replica.StartReplication(context.Background()))
				own(replica.CatchUp(context.Background()))
			}, want: "wrong replica 1: "},
		{name: "slow replica, allowed", plant: func() { own(replica.Lag(context.Background(), time.Second)) },
			cure: func() { own(replica.Lag(context.Background(), 0)) }},
		{name: "writable replica", plant: func() { own(replica.Exec(context.Background(), "SET GLOBAL read_only = 0")) },
			cure: func() { own(replica.Exec(context.Background(), "SET GLOBAL read_only = 1")) }, want: "warn replica 1: "},
		{name: "replica away", plant: func() { own(replica.Kill()) }, cure: func() {
			own(replica.Restart(context.Background()))
			own(replica.Exec(context.Background(), "SET GLOBAL read_only = 1"))
		}, want: "wrong replica 1: "},
		{name: "another secret", change: func(d *app.Doctor) { d.Config.Secret = obs.Secret(strings.Repeat("cd", 32)) }, want: "wrong secret: "},
		{name: "clock ahead", change: func(d *app.Doctor) { d.Clock = func() time.Time { return time.Now().Add(-8 * time.Second) } },
			want: "wrong clock of the database: 8|wrong clocks of the nodes: that of node|wrong clocks of the nodes: that of node|wrong clock of Redis: 8"},
		{name: "clock behind", change: func(d *app.Doctor) { d.Clock = func() time.Time { return time.Now().Add(8 * time.Second) } },
			want: "wrong clock of the database: |wrong clocks of the nodes: that of node|wrong clocks of the nodes: that of node|wrong clock of Redis: "},
		{name: "clock a little ahead", change: func(d *app.Doctor) { d.Clock = func() time.Time { return time.Now().Add(-4 * time.Second) } }},
		{name: "clock, short lease", change: func(d *app.Doctor) {
			d.Config.Sale.GateLease = 6 * time.Second
			d.Clock = func() time.Time { return time.Now().Add(-4 * time.Second) }
		}, want: "wrong clock of the database: |wrong clocks of the nodes: that of node|wrong clocks of the nodes: that of node|wrong clock of Redis: "},
		{name: "disk", change: func(d *app.Doctor) { d.DiskFloor = 1 << 60 }, want: "wrong disk: only "},
		{name: "no proxies", change: func(d *app.Doctor) { d.Config.HTTP.TrustedProxies = nil }, want: "warn trusted proxies: "},
		{name: "silent node", plant: func() {
			w.sql("INSERT INTO levee.node_member (id, name, address, version, beat, started_at) VALUES (7, 'gone', '127.0.0.1:1', 'dev', 5, 1)")
		}, cure: func() { w.sql("DELETE FROM levee.node_member WHERE id = 7") }, want: "warn nodes: gone at 127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.plant != nil {
				c.plant()
			}
			got := sick(w.examine(t, c.change))
			if c.cure != nil {
				c.cure()
			}
			var want []string
			if c.want != "" {
				want = strings.Split(c.want, "|")
			}
			if !slices.EqualFunc(got, want, strings.HasPrefix) {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
	t.Run("unreachable node", func(t *testing.T) {
		defer w.node("hidden", func(c *app.Config) { c.Node.Address = "127.0.0.1:1" })()
		eventually(t, "it is seen", func() bool {
			got := sick(w.examine(t, nil))
			return len(got) == 1 && strings.HasPrefix(got[0], "wrong nodes: hidden lives, but not at 127.0.0.1:1")
		})
	})
	t.Run("two versions", func(t *testing.T) {
		before := app.Version
		app.Version = "v9"
		stop := w.node("newer", nil)
		app.Version = before
		defer stop()
		eventually(t, "it is seen", func() bool {
			got := sick(w.examine(t, nil))
			return len(got) == 1 && strings.HasPrefix(got[0], "warn nodes: they run different versions: ") && strings.Contains(got[0], "v9")
		})
	})
	for name, change := range map[string]func([]byte) []byte{
		// The capability "found rows" of the client's first packet is bit 1 of its first byte.
		"wrong transactions: an UPDATE tells how many rows it changed": func(p []byte) []byte { return p },
		"wrong transactions: a node sets tx_isolation": func(p []byte) []byte {
			return bytes.Replace(p, []byte("ISOLATION LEVEL SERIALIZABLE"), []byte("ISOLATION LEVEL READ COMMITTED"), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			through := meddle(t, w.mysql.Addr(), strings.Contains(name, "UPDATE"), change)
			got := sick(w.examine(t, func(d *app.Doctor) { d.Config.DB = "mysql://root@" + through + "/levee" }))
			if len(got) != 1 || !strings.HasPrefix(got[0], name) {
				t.Errorf("found %q", got)
			}
		})
	}
	t.Run("nothing there", func(t *testing.T) { // last: the nodes do not like it either
		if err := w.redis.Kill(); err != nil {
			t.Fatal(err)
		}
		found := w.examine(t, nil)
		if got := sick(found); len(got) != 1 || !strings.HasPrefix(got[0], "wrong redis: ") || !app.Away(found) || len(found) < 10 {
			t.Errorf("without Redis: %q of %d findings", got, len(found))
		}
		if err := w.mysql.Kill(); err != nil {
			t.Fatal(err)
		}
		found = w.examine(t, nil)
		if got := sick(found); len(got) != 2 || !strings.HasPrefix(got[0], "wrong database server: ") || len(found) != 4 {
			t.Errorf("without both: %q of %d findings", got, len(found))
		}
	})
}

// meddle is a proxy of the kind that changes what clients ask for: it hands each packet of the client on as changed, and without the
// capability "found rows" if so told.
func meddle(t *testing.T, server string, unfound bool, change func([]byte) []byte) (addr string) {
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
			go func() {
				defer c.Close()
				s, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer s.Close()
				go func() { _, _ = io.Copy(c, s); _ = c.Close() }()
				for first := true; ; first = false {
					head := make([]byte, 4)
					if _, err := io.ReadFull(c, head); err != nil {
						return
					}
					body := make([]byte, int(head[0])|int(head[1])<<8|int(head[2])<<16)
					if _, err := io.ReadFull(c, body); err != nil {
						return
					}
					if first && unfound {
						body[0] &^= 2
					}
					body = change(body)
					n := len(body)
					if _, err := s.Write(append([]byte{byte(n), byte(n >> 8), byte(n >> 16), head[3]}, body...)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestDoctorSentinels(t *testing.T) {
	w := newWard(t)
	for wants, settings := range map[string]map[string]string{
		"warn redis fails over: ": nil,
		"":                        {"min-replicas-to-write": "1"},
	} {
		g, err := backends.StartSentinel(t.Context(), backends.SentinelOptions{Redis: backends.RedisOptions{AOF: true, Settings: settings}})
		if err != nil {
			t.Fatal(err)
		}
		got := sick(w.examine(t, func(d *app.Doctor) { d.Config.Redis = g.URL() }))
		if wants == "" && len(got) != 0 || wants != "" && (len(got) != 1 || !strings.HasPrefix(got[0], wants)) {
			t.Errorf("%v: found %q", settings, got)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDoctorCluster(t *testing.T) {
	w := newWard(t)
	c, err := backends.StartCluster(t.Context(), backends.ClusterOptions{Redis: backends.RedisOptions{AOF: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	look := func() []app.Finding { return w.examine(t, func(d *app.Doctor) { d.Config.Redis = c.URL() }) }
	found := look()
	if got := sick(found); len(got) != 0 {
		t.Errorf("a whole cluster: %q", got)
	}
	masters := 0
	for _, f := range found {
		if f.Check == "redis fails over" {
			masters++
		}
	}
	if masters != 3 {
		t.Errorf("%d of three masters were looked at: %+v", masters, found)
	}
	all, err := c.Masters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if !slices.Contains(all, n) {
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	eventually(t, "it is seen", func() bool {
		got := sick(look())
		return len(got) == 1 && strings.HasPrefix(got[0], "warn redis fails over: ")
	})
}

// Behind a bastion the doctor goes the way that the nodes go.
func TestDoctorBastion(t *testing.T) {
	w := newWard(t)
	s, err := backends.StartSSH(t.Context())
	if backends.MaySkip(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p, err := backends.StartProxy(t.Context(), s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	host, port, _ := strings.Cut(p.Addr, ":")
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte("["+host+"]:"+port+" "+s.HostKey()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	through := func(d *app.Doctor) {
		d.Config.Database.Bastion, d.Config.Database.BastionKeyFile, d.Config.Database.BastionKnownHosts = s.User()+"@"+p.Addr, s.KeyFile(), known
	}
	eventually(t, "a healthy house is well", func() bool { return len(sick(w.examine(t, through))) == 0 })
	if err := s.RotateHostKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := sick(w.examine(t, through))
	if len(got) != 1 || !strings.HasPrefix(got[0], "wrong database server: ") || !strings.Contains(got[0], "somebody may stand in between") {
		t.Errorf("with another host key: %q", got)
	}
	eventually(t, "no SSH connection is left", func() bool { return p.Connections() == 0 })
}

// The certificate is that of whoever answers at the public address.
func TestDoctorCertificate(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name, host  string
		from, until time.Time
		known       bool
		want        string
	}{
		{"good", "127.0.0.1", now.Add(-time.Hour), now.Add(60 * 24 * time.Hour), true, ""},
		{"ends soon", "127.0.0.1", now.Add(-time.Hour), now.Add(10 * 24 * time.Hour), true, "warn certificate: "},
		{"expired", "127.0.0.1", now.Add(-48 * time.Hour), now.Add(-time.Hour), true, "wrong certificate: that of"},
		{"expired and self-signed", "127.0.0.1", now.Add(-48 * time.Hour), now.Add(-time.Hour), false, "wrong certificate: that of"},
		{"self-signed", "127.0.0.1", now.Add(-time.Hour), now.Add(60 * 24 * time.Hour), false, "wrong certificate: that of"},
		{"another name", "10.9.8.7", now.Add(-time.Hour), now.Add(60 * 24 * time.Hour), true, "wrong certificate: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(c.host)}, NotBefore: c.from, NotAfter: c.until,
				IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
			raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
			if err != nil {
				t.Fatal(err)
			}
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }()
				}
			}()
			d := app.Doctor{Config: app.Config{Data: t.TempDir()}, DiskFloor: 1}
			d.Config.HTTP.PublicURL = "https://" + l.Addr().String()
			if c.known {
				signed, err := x509.ParseCertificate(raw)
				if err != nil {
					t.Fatal(err)
				}
				d.Roots = x509.NewCertPool()
				d.Roots.AddCert(signed)
			}
			found, err := d.Examine(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := sick(found)
			if c.want == "" && (len(got) != 0 || len(found) != 3) || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
				t.Errorf("found %+v", found)
			}
			t.Log(found[len(found)-1].Said)
		})
	}
}
