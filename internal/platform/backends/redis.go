package backends

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"levee"
)

// RedisOptions says what [StartRedis] starts. The zero value is a server that keeps nothing on disk.
type RedisOptions struct {
	// AOF keeps an append-only file, written at each command and forced to the disk every second. What was answered survives Kill.
	AOF bool
	// Durable puts the folder on disk instead of in memory: for benches.
	Durable bool
	// Settings are added to the server's configuration: {"maxmemory": "10mb"}.
	Settings map[string]string
}

// RedisServer is one Redis process: a server or a sentinel, or one that somebody else runs (LEVEE_TEST_REDIS). Its methods may be called
// by several goroutines.
type RedisServer struct {
	addr, url string

	// The rest is empty for a server that somebody else runs.
	k        *keeper
	dir      string
	sentinel bool
	options  RedisOptions
	port     *port
	bus      *port // of a cluster's node

	mu      sync.Mutex // start and stop; guards what follows
	process *process
	closed  bool
}

func (o RedisOptions) check() error {
	for name, value := range o.Settings {
		if !settingName.MatchString(name) {
			return levee.Invalid("Settings", "names of settings, such as maxmemory", name)
		}
		if strings.ContainsAny(value, "\n\x00") {
			return levee.Invalid("Settings."+name, "one line", value)
		}
	}
	return nil
}

// StartRedis starts a private server. ctx bounds the start only; the server runs until Close or the end of this process.
func StartRedis(ctx context.Context, o RedisOptions) (*RedisServer, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s, err := newRedis(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("starting Redis: %w", err)
	}
	return s, nil
}

// newRedis makes folder and port and starts the process.
func newRedis(ctx context.Context, o RedisOptions) (*RedisServer, error) {
	var err error
	// Somebody who keeps to no lock may still take the port before the server does.
	for range 3 {
		var s *RedisServer
		if s, err = prepareRedis(o); err != nil {
			return nil, err
		}
		if err = s.configure(); err == nil {
			err = s.start(ctx)
		}
		if err == nil {
			return s, nil
		}
		_ = s.Close()
		if ctx.Err() != nil || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	return nil, err
}

// prepareRedis makes folder and port only: the members of a group must know each other's address before they start.
func prepareRedis(o RedisOptions) (*RedisServer, error) {
	k, err := theKeeper()
	if err != nil {
		return nil, err
	}
	s := &RedisServer{k: k, options: o}
	s.options.Settings = maps.Clone(o.Settings)
	if s.dir, err = k.folder(o.Durable); err != nil {
		return nil, err
	}
	if s.port, err = takePort(); err != nil {
		_ = s.Close()
		return nil, err
	}
	s.addr = s.port.addr()
	s.url = "redis://" + s.addr
	return s, nil
}

// configure writes the configuration, once: sentinels, and primaries by order of sentinels, write into it later.
func (s *RedisServer) configure(extra ...string) error {
	lines := []string{
		"bind 127.0.0.1", fmt.Sprintf("port %d", s.port.number), "dir " + s.dir, "daemonize no", "logfile \"\"", "set-proc-title no",
		"timeout 0", "tcp-keepalive 60",
	}
	if s.bus != nil {
		lines = append(lines, fmt.Sprintf("cluster-port %d", s.bus.number))
	}
	if !s.sentinel {
		lines = append(lines, "save \"\"", "maxmemory-policy noeviction", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "repl-timeout 5")
		if s.options.AOF {
			lines = append(lines, "appendonly yes", "appendfsync everysec")
		} else {
			lines = append(lines, "appendonly no")
		}
	}
	lines = append(lines, extra...)
	if !s.sentinel {
		for _, name := range slices.Sorted(maps.Keys(s.options.Settings)) {
			lines = append(lines, name+" "+s.options.Settings[name])
		}
	}
	return os.WriteFile(s.config(), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

func (s *RedisServer) config() string { return filepath.Join(s.dir, "redis.conf") }

// start starts the process on its folder and port. The caller holds mu, or is the only one who knows the server.
func (s *RedisServer) start(ctx context.Context) error {
	path, err := redisTool.find(ctx)
	if err != nil {
		return err
	}
	name, args := "redis-server", []string{"redis-server", s.config()}
	if s.sentinel {
		name, args = "redis-sentinel", append(args, "--sentinel")
	}
	p, err := s.k.start(name, path, args, s.dir, filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	if err := p.ready(ctx, startTimeout, func(ctx context.Context) error { return ping(ctx, s.addr) }); err != nil {
		p.kill()
		return err
	}
	s.process = p
	return nil
}

// Do sends one command to the server, for what a test wants to see or set: Do(ctx, "CONFIG", "SET", "maxmemory", "1mb"). The answer is a
// string, an int64, nil or a []any of these; it must come within two seconds.
func (s *RedisServer) Do(ctx context.Context, args ...any) (any, error) {
	return redisDo(ctx, s.addr, args...)
}

// URL is how the product is told of this server: redis://127.0.0.1:PORT.
func (s *RedisServer) URL() string { return s.url }

// Addr is the server's HOST:PORT; of a group that was named in the environment, its first one's.
func (s *RedisServer) Addr() string { return s.addr }

func (s *RedisServer) own() error {
	if s.k == nil {
		return errForeign
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("the server is closed")
	}
	return nil
}

// Kill ends the server as a crash does (SIGKILL) and returns when it is gone. Its folder and its port stay for Restart.
func (s *RedisServer) Kill() error {
	if err := s.own(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.process.kill()
	return nil
}

// Restart starts the server again on its folder and port, after an orderly stop when it still runs. Its data is there again only with AOF.
func (s *RedisServer) Restart(ctx context.Context) error { return s.restart(ctx, false) }

// RestartEmpty starts the server again without any of its data.
func (s *RedisServer) RestartEmpty(ctx context.Context) error { return s.restart(ctx, true) }

func (s *RedisServer) restart(ctx context.Context, empty bool) error {
	if err := s.own(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if empty {
		s.process.kill()
		for _, data := range []string{"dump.rdb", "appendonlydir", "appendonly.aof"} {
			if err := os.RemoveAll(filepath.Join(s.dir, data)); err != nil {
				return err
			}
		}
	} else {
		s.process.stop(ctx, stopTimeout)
	}
	return s.start(ctx)
}

// Pause stops the server in its tracks (SIGSTOP): connections stay open, nobody answers.
func (s *RedisServer) Pause() error { return s.signal(true) }

// Resume lets a paused server go on.
func (s *RedisServer) Resume() error { return s.signal(false) }

func (s *RedisServer) signal(pause bool) error {
	if err := s.own(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	return s.process.pause(pause)
}

// Close ends the server and removes its data. It does nothing to a server that somebody else runs.
func (s *RedisServer) Close() error {
	if s == nil || s.k == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.process.kill()
	s.port.free()
	s.bus.free()
	return os.RemoveAll(s.dir)
}
