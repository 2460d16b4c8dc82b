package backends

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee"
)

// Debian has no package of the bare program: its service comes along, and is not started by the installation.
var etcdTool = tool{"etcd", []string{"etcd"}, []string{"etcd-server"}, ", or name a running server in LEVEE_TEST_ETCD"}

// EtcdOptions says what [StartEtcd] starts. The zero value is one member whose data lies in memory where there is room.
type EtcdOptions struct {
	// Durable puts the folder on disk instead of in memory: for benches. The server forces each write out in either case, so what was
	// answered survives Kill.
	Durable bool
	// Settings are further flags, without their dashes: {"auto-compaction-retention": "1"}.
	Settings map[string]string
}

// EtcdServer is one etcd process, a cluster of one member, or one that somebody else runs (LEVEE_TEST_ETCD), which only Addr and URL are for.
type EtcdServer struct {
	*Program
	addr string
	own  []*Address // its ports; none of a server that somebody else runs
}

// StartEtcd starts a private server. ctx bounds the start only; the server runs until Close or the end of this process.
func StartEtcd(ctx context.Context, o EtcdOptions) (*EtcdServer, error) {
	for name, value := range o.Settings {
		if !settingName.MatchString(name) {
			return nil, levee.Invalid("Settings", "names of flags, such as auto-compaction-retention", name)
		}
		if strings.ContainsAny(value, "\n\x00") {
			return nil, levee.Invalid("Settings."+name, "one line", value)
		}
	}
	path, err := etcdTool.find(ctx)
	if err != nil {
		return nil, err
	}
	// Somebody who keeps to no lock may still take a port before the server does.
	for range 3 {
		var s *EtcdServer
		if s, err = prepareEtcd(path, o); err != nil {
			break
		}
		if err = s.Restart(ctx); err == nil {
			return s, nil
		}
		_ = s.Close()
		if ctx.Err() != nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, fmt.Errorf("starting etcd: %w", err)
}

// prepareEtcd makes folder and ports only.
func prepareEtcd(path string, o EtcdOptions) (*EtcdServer, error) {
	s := &EtcdServer{}
	for range 2 {
		a, err := TakeAddress()
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.own = append(s.own, a)
	}
	s.addr = s.own[0].String()
	var err error
	s.Program, err = PrepareProgram(ProgramOptions{Name: "etcd", Path: path, Durable: o.Durable,
		Ready: func(ctx context.Context) error { return etcdHealthy(ctx, s.addr) }})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	client, peer := "http://"+s.addr, "http://"+s.own[1].String()
	args := []string{"--name=one", "--data-dir=" + s.data(), "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=one=" + peer, "--log-level=warn"}
	for name, value := range o.Settings {
		args = append(args, "--"+name+"="+value)
	}
	s.SetArgs(args...)
	return s, nil
}

func (s *EtcdServer) data() string { return filepath.Join(s.Dir(), "data") }

// etcdHealthy asks the server whether it has a leader and takes writes.
func etcdHealthy(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	if _, err := fmt.Fprintf(c, "GET /health HTTP/1.0\r\nHost: %s\r\n\r\n", addr); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(c, 1<<16))
	if err != nil {
		return err
	}
	if !strings.Contains(string(answer), `"health":"true"`) {
		return fmt.Errorf("etcd is not healthy: %q", levee.Shorten(string(answer), 200))
	}
	return nil
}

var sharedEtcd shared[EtcdServer]

// Etcd returns the server that the tests of this process share: the one named in LEVEE_TEST_ETCD, else one that is started at the first call
// and ends with the process. Each test uses a key prefix of its own.
func Etcd(ctx context.Context) (*EtcdServer, error) {
	return sharedEtcd.get(ctx, func(ctx context.Context) (*EtcdServer, error) {
		if given := os.Getenv("LEVEE_TEST_ETCD"); given != "" {
			return namedEtcd(ctx, given)
		}
		return StartEtcd(ctx, EtcdOptions{})
	})
}

func namedEtcd(ctx context.Context, given string) (*EtcdServer, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "etcd" || u.Port() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("LEVEE_TEST_ETCD must be etcd://HOST:PORT")
	}
	if err := etcdHealthy(ctx, u.Host); err != nil {
		return nil, fmt.Errorf("the server named in LEVEE_TEST_ETCD does not answer: %w", err)
	}
	return &EtcdServer{Program: &Program{}, addr: u.Host}, nil
}

// URL is how the product is told of this server: etcd://127.0.0.1:PORT.
func (s *EtcdServer) URL() string { return "etcd://" + s.addr }

// Addr is the server's HOST:PORT, the endpoint for a client of etcd.
func (s *EtcdServer) Addr() string { return s.addr }

// RestartEmpty kills the server when it still runs, and starts it again without any of its data.
func (s *EtcdServer) RestartEmpty(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.data()); err != nil {
		return err
	}
	return s.Restart(ctx)
}

// Close ends the server and removes its data. It does nothing to a server that somebody else runs.
func (s *EtcdServer) Close() error {
	if s == nil {
		return nil
	}
	err := s.Program.Close()
	for _, a := range s.own {
		a.Free()
	}
	return err
}
