package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"levee"
	"levee/internal/platform/backends"
)

// postgresServer is a private PostgreSQL that waits for the disk at each commit.
type postgresServer struct {
	*backends.Program
	own *backends.Address
}

// startPostgres starts one. It runs until close or the end of this process.
func startPostgres(ctx context.Context) (_ *postgresServer, err error) {
	server, err := backends.Postgres(ctx)
	if err != nil {
		return nil, err
	}
	if server, err = filepath.EvalSymlinks(server); err != nil { // its other programs lie beside it
		return nil, err
	}
	s := &postgresServer{}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("starting PostgreSQL: %w", err)
		}
	}()
	if s.own, err = backends.TakeAddress(); err != nil {
		return nil, err
	}
	as, uid, err := postgresUser()
	if err != nil {
		return nil, err
	}
	command := append(slices.Clone(as), server)
	s.Program, err = backends.PrepareProgram(backends.ProgramOptions{Name: "postgres", Path: command[0], Durable: true, Patience: 5 * time.Second,
		Ready: s.answers})
	if err != nil {
		return nil, err
	}
	if as != nil { // the folder is the server's, and it must get there
		if err := errors.Join(os.Chown(s.Dir(), uid, -1), os.Chmod(filepath.Dir(s.Dir()), 0o711)); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(s.Dir(), "data")
	create := append(slices.Clone(as), filepath.Join(filepath.Dir(server), "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	cmd := exec.CommandContext(ctx, create[0], create[1:]...)
	cmd.Dir = s.Dir()
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w; it said: %s", err, levee.Shorten(string(said), 1000))
	}
	_, port, _ := net.SplitHostPort(s.own.String())
	args := append(command[1:], "-D", data)
	for _, given := range []string{"listen_addresses=127.0.0.1", "port=" + port, "unix_socket_directories=", "max_connections=200",
		"dynamic_shared_memory_type=mmap", "shared_buffers=512MB", "fsync=on", "synchronous_commit=on"} {
		args = append(args, "-c", given)
	}
	s.SetArgs(args...)
	return s, s.Restart(ctx)
}

// postgresUser is how its programs are started by root, whom they refuse to run for; nil for anybody else.
func postgresUser() (as []string, uid int, err error) {
	if os.Geteuid() != 0 {
		return nil, 0, nil
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		return nil, 0, errors.New("it does not run as root, and there is no setpriv to run it as another")
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, 0, err
	}
	uid, err = strconv.Atoi(u.Uid)
	return []string{setpriv, "--reuid=" + u.Uid, "--regid=" + u.Gid, "--clear-groups", "--pdeathsig=KILL"}, uid, err
}

func (s *postgresServer) answers(ctx context.Context) error { return s.exec(ctx, "SELECT 1") }

// exec does one statement in the database that is always there.
func (s *postgresServer) exec(ctx context.Context, text string) error {
	c, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	_, err = c.Exec(ctx, text)
	return err
}

// url names a database for a client.
func (s *postgresServer) url(database string) string {
	return "postgres://postgres@" + s.own.String() + "/" + database + "?sslmode=disable"
}

func (s *postgresServer) close() {
	if s == nil {
		return
	}
	if s.Program != nil {
		_ = s.End(context.Background()) // in order, so that the system keeps no shared memory of it; how it ended is nobody's concern
		_ = s.Program.Close()
	}
	if s.own != nil {
		s.own.Free()
	}
}
