// Command backends starts private servers for tests, benches and rehearsals, and stops them again: see help, below.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"levee/internal/platform/backends"
)

const help = `Private servers for tests, benches and rehearsals, on free ports of 127.0.0.1 and in temporary folders.

  go run ./tools/backends up [WHAT...]                 start, print how to reach them, stop at Ctrl-C
  go run ./tools/backends exec [WHAT...] -- COMMAND... start, run the command with the servers in its environment, stop;
                                                       the exit code is the command's
  go run ./tools/backends check                        say which servers can be had on this machine, installing what is missing

WHAT, "mysql redis" when nothing is said:
  mysql               one MariaDB server
  mysql-replicas=N    a MariaDB primary with N replicas (0 to 5) that really replicate
  redis               one Redis server
  sentinel            a Redis primary with a replica and three sentinels
  cluster             a Redis cluster of three masters with a replica each
  durable             data on disk, forced to it at each commit (MariaDB) or each second (Redis): for benches

The environment of COMMAND, and what "up" prints:
  LEVEE_TEST_MYSQL            mysql://root@127.0.0.1:PORT/
  LEVEE_TEST_MYSQL_REPLICAS   the replicas' URLs with commas between, when there are any
  LEVEE_TEST_REDIS            redis://127.0.0.1:PORT, redis+sentinel://... or redis+cluster://...
A server that is named in LEVEE_TEST_MYSQL or LEVEE_TEST_REDIS already is used and not started.

Programs that are missing are installed with apt-get where that is possible without asking (root, or sudo without a password);
LEVEE_TEST_INSTALL=no forbids it. The servers end with this command, also when it is killed.
`

func main() {
	code, err := run(os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "backends:", err)
	}
	os.Exit(code)
}

// Exit codes of this command itself; those above 2 are the command's that exec ran.
const (
	codeFailed = 1
	codeUsage  = 2
)

type usageError struct{ message string }

func (e usageError) Error() string { return e.message + "; see `go run ./tools/backends help`" }

func run(args []string, out, log io.Writer) (int, error) {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		fmt.Fprint(out, help)
		return 0, nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var code int
	var err error
	switch args[0] {
	case "up":
		err = up(ctx, args[1:], out, log)
	case "exec":
		code, err = execute(ctx, args[1:], log)
	case "check":
		err = check(ctx, args[1:], out)
	default:
		err = usageError{fmt.Sprintf("the first word must be up, exec, check or help, got %q", args[0])}
	}
	switch {
	case errors.As(err, new(usageError)):
		code = codeUsage
	case err != nil && code == 0:
		code = codeFailed
	}
	return code, err
}

// wanted is what the words on the command line ask for.
type wanted struct {
	mysql, durable bool
	replicas       int
	redis          string // "", redis, sentinel, cluster
}

func parse(words []string) (w wanted, err error) {
	for _, word := range words {
		name, value, has := strings.Cut(word, "=")
		switch {
		case word == "mysql":
			w.mysql = true
		case name == "mysql-replicas" && has:
			w.mysql = true
			if w.replicas, err = strconv.Atoi(value); err != nil {
				return w, usageError{fmt.Sprintf("mysql-replicas must be a number from 0 to 5, got %q", value)}
			}
		case word == "redis" || word == "sentinel" || word == "cluster":
			if w.redis != "" && w.redis != word {
				return w, usageError{fmt.Sprintf("redis, sentinel and cluster are one choice, got %s and %s", w.redis, word)}
			}
			w.redis = word
		case word == "durable":
			w.durable = true
		default:
			return w, usageError{fmt.Sprintf("WHAT must be of mysql, mysql-replicas=N, redis, sentinel, cluster and durable, got %q", word)}
		}
	}
	if !w.mysql && w.redis == "" {
		w.mysql, w.redis = true, "redis"
	}
	return w, nil
}

// started is what runs; environment has the lines NAME=VALUE for whoever uses it.
type started struct {
	environment []string
	lines       []string // for people
	close       []func() error
}

func (s *started) stop(log io.Writer) {
	for _, c := range s.close {
		if err := c(); err != nil {
			fmt.Fprintln(log, "backends: stopping:", err)
		}
	}
}

func (s *started) add(what string, begin time.Time, lines ...string) {
	took := time.Since(begin).Round(time.Millisecond)
	s.lines = append(s.lines, fmt.Sprintf("%s (ready after %v)", what, took))
	for _, l := range lines {
		s.lines = append(s.lines, "  "+l)
	}
}

func start(ctx context.Context, w wanted, log io.Writer) (_ *started, err error) {
	s := &started{}
	defer func() {
		if err != nil {
			s.stop(log)
		}
	}()
	begin := time.Now()
	if given := os.Getenv("LEVEE_TEST_MYSQL"); w.mysql && given != "" {
		if _, err := backends.MySQL(ctx); err != nil {
			return nil, err
		}
		s.add("MySQL: the server named in LEVEE_TEST_MYSQL", begin)
	} else if w.mysql {
		m, err := backends.StartMySQL(ctx, backends.MySQLOptions{Replicas: w.replicas, Durable: w.durable})
		if err != nil {
			return nil, err
		}
		s.close = append(s.close, m.Close)
		lines := []string{"primary  " + m.URL()}
		s.environment = append(s.environment, "LEVEE_TEST_MYSQL="+m.URL())
		var replicas []string
		for _, r := range m.Replicas {
			lines = append(lines, "replica  "+r.URL())
			replicas = append(replicas, r.URL())
		}
		if len(replicas) > 0 {
			s.environment = append(s.environment, "LEVEE_TEST_MYSQL_REPLICAS="+strings.Join(replicas, ","))
		}
		s.add("MariaDB", begin, lines...)
	}
	begin = time.Now()
	if w.redis == "" {
		return s, nil
	}
	if given := os.Getenv("LEVEE_TEST_REDIS"); given != "" {
		if _, err := backends.Redis(ctx); err != nil {
			return nil, err
		}
		s.add("Redis: the server named in LEVEE_TEST_REDIS", begin)
		return s, nil
	}
	options := backends.RedisOptions{Durable: w.durable, AOF: w.durable}
	var url string
	var lines []string
	list := func(kind string, servers []*backends.RedisServer) {
		for _, r := range servers {
			lines = append(lines, kind+"  "+r.URL())
		}
	}
	switch w.redis {
	case "sentinel":
		g, err := backends.StartSentinel(ctx, backends.SentinelOptions{Redis: options})
		if err != nil {
			return nil, err
		}
		s.close = append(s.close, g.Close)
		url = g.URL()
		list("node    ", g.Nodes)
		list("sentinel", g.Sentinels)
	case "cluster":
		c, err := backends.StartCluster(ctx, backends.ClusterOptions{Redis: options})
		if err != nil {
			return nil, err
		}
		s.close = append(s.close, c.Close)
		url = c.URL()
		list("node    ", c.Nodes)
	default:
		r, err := backends.StartRedis(ctx, options)
		if err != nil {
			return nil, err
		}
		s.close = append(s.close, r.Close)
		url = r.URL()
	}
	s.environment = append(s.environment, "LEVEE_TEST_REDIS="+url)
	s.add("Redis", begin, append([]string{url}, lines...)...)
	return s, nil
}

func up(ctx context.Context, words []string, out, log io.Writer) error {
	w, err := parse(words)
	if err != nil {
		return err
	}
	s, err := start(ctx, w, log)
	if err != nil {
		return err
	}
	defer s.stop(log)
	for _, l := range s.lines {
		fmt.Fprintln(out, l)
	}
	fmt.Fprintln(out)
	for _, e := range s.environment {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(out, "export %s='%s'\n", name, value)
	}
	fmt.Fprintln(out, "\nCtrl-C stops them and removes their data.")
	<-ctx.Done()
	return nil
}

func execute(ctx context.Context, words []string, log io.Writer) (int, error) {
	at := slices.Index(words, "--")
	if at < 0 || at == len(words)-1 {
		return 0, usageError{"exec needs a command after --"}
	}
	w, err := parse(words[:at])
	if err != nil {
		return 0, err
	}
	command := words[at+1:]
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 127, fmt.Errorf("the command cannot be run: %w", err)
	}
	s, err := start(ctx, w, log)
	if err != nil {
		return 0, err
	}
	defer s.stop(log)
	for _, l := range s.lines {
		fmt.Fprintln(log, l)
	}
	cmd := exec.Command(path, command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), s.environment...)
	// Ctrl-C at a terminal reaches the command too, which is in our group; what reaches only us is handed on. The servers stay until
	// the command has ended by itself.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 126, fmt.Errorf("the command cannot be run: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGTERM {
				_ = cmd.Process.Signal(sig)
			}
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return codeFailed, err
			}
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return cmd.ProcessState.ExitCode(), nil
		}
	}
}

func check(ctx context.Context, words []string, out io.Writer) error {
	if len(words) > 0 {
		return usageError{fmt.Sprintf("check takes no words, got %q", words[0])}
	}
	var all error
	no := func(err error) {
		fmt.Fprintln(out, "no:", err)
		all = errors.New("not every backend can be had")
	}
	for _, what := range []wanted{{mysql: true, replicas: 1}, {redis: "redis"}, {redis: "sentinel"}, {redis: "cluster"}} {
		s, err := start(ctx, what, io.Discard)
		if err != nil {
			no(err)
			continue
		}
		fmt.Fprintln(out, "yes:", strings.Join(s.lines, "\n  "))
		s.stop(io.Discard)
	}
	for _, what := range others {
		begin := time.Now()
		if err := what.try(ctx); err != nil {
			no(err)
			continue
		}
		fmt.Fprintf(out, "yes: %s (ready and stopped after %v)\n", what.name, time.Since(begin).Round(time.Millisecond))
	}
	return all
}

// others are the servers that tests start by themselves and this command does not offer.
var others = []struct {
	name string
	try  func(ctx context.Context) error
}{
	{"etcd", func(ctx context.Context) error {
		return tried(backends.StartEtcd(ctx, backends.EtcdOptions{}))
	}},
	{"RabbitMQ", func(ctx context.Context) error { return tried(backends.StartRabbitMQ(ctx)) }},
	{"OpenSSH", func(ctx context.Context) error { return tried(backends.StartSSH(ctx)) }},
	{"an S3 server", func(ctx context.Context) error { return tried(backends.StartS3(ctx)) }},
	{"nginx", func(ctx context.Context) error {
		_, err := backends.Nginx(ctx)
		return err
	}},
}

func tried(s io.Closer, err error) error {
	if err != nil {
		return err
	}
	return s.Close()
}
