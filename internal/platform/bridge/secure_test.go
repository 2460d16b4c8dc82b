package bridge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"

	"levee/internal/platform/backends"
	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/obs"
)

// authority makes a certificate authority's file, a server's side of TLS, and a client's certificate and key.
func authority(t *testing.T) (ca, cert, key string, serving *tls.Config) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	sign := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootDER, err := x509.CreateCertificate(rand.Reader, sign, sign, &root.PublicKey, root)
	must(err)
	issue := func(serial int64, use x509.ExtKeyUsage) ([]byte, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{use}}, sign, &k.PublicKey, root)
		must(err)
		return der, k
	}
	serverDER, serverKey := issue(2, x509.ExtKeyUsageServerAuth)
	clientDER, clientKey := issue(3, x509.ExtKeyUsageClientAuth)
	clientKeyDER, err := x509.MarshalECPrivateKey(clientKey)
	must(err)
	pool := x509.NewCertPool()
	rootCert, err := x509.ParseCertificate(rootDER)
	must(err)
	pool.AddCert(rootCert)
	serving = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{serverDER}, PrivateKey: serverKey}}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12}
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", clientDER), write("key.pem", "EC PRIVATE KEY", clientKeyDER), serving
}

// wrap puts TLS before a server that speaks without, and returns its address.
func wrap(t *testing.T, serving *tls.Config, upstream string) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", serving)
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
				up, err := net.Dial("tcp", upstream)
				if err != nil {
					return
				}
				defer up.Close()
				go func() {
					_, _ = io.Copy(up, c)
					_ = up.Close()
				}()
				_, _ = io.Copy(c, up)
			}()
		}
	}()
	return l.Addr().String()
}

// Over TLS with certificates on both sides, and with a user and a password: the right ones are let in, others are not.
func TestSecure(t *testing.T) {
	ca, cert, key, serving := authority(t)
	const password = "p@ss:/word#?"
	connect := func(t *testing.T, cfg Config) error {
		t.Helper()
		cfg.Source, cfg.Timeout = "me", 3*time.Second
		s, err := cfg.settle()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), s.Timeout)
		defer cancel()
		d, err := s.to.Open(ctx)
		if err != nil {
			return err
		}
		defer d.Close()
		errs := []error{nil}
		d.Publish(ctx, "secure", []*broker.Message{{ID: "1", Key: "1", Name: "n", Body: []byte("{}")}}, errs)
		if errs[0] != nil && cfg.URL[:4] != "nats" && cfg.URL[:4] != "amqp" { // these have no such topic
			return errs[0]
		}
		return nil
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			var addr, user string
			sasl := ""
			switch kind {
			case "redis":
				r, err := backends.StartRedis(t.Context(), backends.RedisOptions{Settings: map[string]string{"user": "carrier on >" + password + " ~* &* +@all"}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = r.Close() })
				addr, user = wrap(t, serving, r.Addr()), "carrier"
			case "nats":
				s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, TLSConfig: serving, TLSVerify: true,
					TLSTimeout: 5, Username: "carrier", Password: password})
				if err != nil {
					t.Fatal(err)
				}
				s.Start()
				t.Cleanup(s.Shutdown)
				if !s.ReadyForConnections(10 * time.Second) {
					t.Fatal("the server is not ready")
				}
				addr, user = s.Addr().String(), "carrier"
			case "kafka":
				a, err := backends.TakeAddress()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(a.Free)
				_, p, _ := net.SplitHostPort(a.String())
				port, _ := strconv.Atoi(p)
				c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.TLS(serving), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "carrier", password),
					kfake.SeedTopics(1, "secure"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.Close)
				addr, user, sasl = a.String(), "carrier", "scram-sha-256"
			case "amqp":
				if testing.Short() {
					t.Skip("it takes ten seconds to start")
				}
				addr, user = wrap(t, serving, start(t, "amqp").direct), "guest"
			}
			right := Config{URL: kind + "s://" + user + "@" + addr, Password: password, CA: ca, Cert: cert, Key: key, SASL: sasl}
			if kind == "amqp" {
				right.Password = "guest"
			}
			if err := connect(t, right); err != nil {
				t.Errorf("the right ones: %v", err)
			}
			for name, change := range map[string]func(c *Config){
				"another password":           func(c *Config) { c.Password = obs.Secret("wrong") },
				"no certificate of the root": func(c *Config) { c.CA = "" },
				"no certificate of ours":     func(c *Config) { c.Cert, c.Key = "", "" },
				"no TLS":                     func(c *Config) { c.URL, c.CA, c.Cert, c.Key = kind+"://"+user+"@"+addr, "", "", "" },
			} {
				cfg := right
				change(&cfg)
				if err := connect(t, cfg); err == nil {
					t.Errorf("%s: let in", name)
				}
			}
		})
	}
}
