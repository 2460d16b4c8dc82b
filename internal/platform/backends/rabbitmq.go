package backends

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee"
)

// Debian has no package of the bare program: its service comes along, and is not started by the installation.
var (
	rabbitTool = tool{"RabbitMQ", []string{"rabbitmq-server"}, []string{"rabbitmq-server"}, ", or name a running server in LEVEE_TEST_AMQP"}
	epmdTool   = tool{"Erlang", []string{"epmd"}, []string{"rabbitmq-server"}, ", or name a running RabbitMQ in LEVEE_TEST_AMQP"}
)

// The packages' own program runs as whoever calls it; the one in PATH changes to the service's user first.
const rabbitProgram = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// RabbitMQServer is one RabbitMQ process, with the port mapper that Erlang needs beside it, or one that somebody else runs
// (LEVEE_TEST_AMQP), which only Addr and URL are for. Durable queues survive Kill with what was confirmed.
type RabbitMQServer struct {
	*Program
	mapper *Program
	addr   string
	own    []*Address // its ports; none of a server that somebody else runs
}

// StartRabbitMQ starts a private server, whose user is guest with the password guest. ctx bounds the start only; the server runs until Close
// or the end of this process.
func StartRabbitMQ(ctx context.Context) (*RabbitMQServer, error) {
	path, err := rabbitTool.find(ctx)
	if err != nil {
		return nil, err
	}
	if exists(rabbitProgram) {
		path = rabbitProgram
	}
	epmd, err := epmdTool.find(ctx)
	if err != nil {
		return nil, err
	}
	s := &RabbitMQServer{}
	if err := s.launch(ctx, path, epmd); err != nil {
		return nil, fmt.Errorf("starting RabbitMQ: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// launch takes the ports and starts mapper and server.
func (s *RabbitMQServer) launch(ctx context.Context, path, epmd string) error {
	var ports []string
	for range 3 {
		a, err := TakeAddress()
		if err != nil {
			return err
		}
		s.own = append(s.own, a)
		_, port, _ := net.SplitHostPort(a.String())
		ports = append(ports, port)
	}
	s.addr = s.own[0].String()
	var err error
	// A mapper of its own: the one that the server would start by itself stays behind as a daemon.
	if s.mapper, err = StartProgram(ctx, ProgramOptions{Name: "epmd", Path: epmd, Args: []string{"-address", "127.0.0.1", "-port", ports[1]},
		Ready: func(ctx context.Context) error { return reach(ctx, s.own[1].String()) }}); err != nil {
		return err
	}
	home, err := os.MkdirTemp(s.mapper.Dir(), "rabbit*") // it goes with the mapper's folder, and is known before the server's environment is
	if err != nil {
		return err
	}
	env := append(os.Environ(), "HOME="+home, "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT="+ports[1], "RABBITMQ_NODENAME=levee"+ports[0]+"@localhost",
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", "RABBITMQ_NODE_PORT="+ports[0], "RABBITMQ_DIST_PORT="+ports[2], "RABBITMQ_LOGS=-",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 1:1 +sbwt none")
	for name, file := range map[string]string{"MNESIA_BASE": "data", "LOG_BASE": "log", "ENABLED_PLUGINS_FILE": "plugins", "CONFIG_FILE": "config",
		"CONF_ENV_FILE": "env", "PID_FILE": "pid", "GENERATED_CONFIG_DIR": "generated"} {
		env = append(env, "RABBITMQ_"+name+"="+filepath.Join(home, file))
	}
	s.Program, err = StartProgram(ctx, ProgramOptions{Name: "rabbitmq", Path: path, Env: env,
		Ready: func(ctx context.Context) error { return greetAMQP(ctx, s.addr) }})
	return err
}

func reach(ctx context.Context, addr string) error {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// greetAMQP sends the protocol's header and waits for the first frame of the answer.
func greetAMQP(ctx context.Context, addr string) error {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "AMQP\x00\x00\x09\x01"); err != nil {
		return err
	}
	var frame [1]byte
	if _, err := io.ReadFull(c, frame[:]); err != nil {
		return err
	}
	if frame[0] != 1 { // a method: connection.start
		return fmt.Errorf("the answer begins with %d, not with a method of AMQP 0-9-1", frame[0])
	}
	return nil
}

var sharedRabbitMQ shared[RabbitMQServer]

// RabbitMQ returns the server that the tests of this process share: the one named in LEVEE_TEST_AMQP, else one that is started at the first
// call and ends with the process. Each test uses queues of its own.
func RabbitMQ(ctx context.Context) (*RabbitMQServer, error) {
	return sharedRabbitMQ.get(ctx, func(ctx context.Context) (*RabbitMQServer, error) {
		given := os.Getenv("LEVEE_TEST_AMQP")
		if given == "" {
			return StartRabbitMQ(ctx)
		}
		addr, ok := strings.CutPrefix(given, "amqp://")
		if !ok || strings.ContainsAny(addr, "@/?#") {
			return nil, levee.Invalid("LEVEE_TEST_AMQP", "amqp://HOST:PORT", "another form")
		}
		if err := greetAMQP(ctx, addr); err != nil {
			return nil, fmt.Errorf("the server named in LEVEE_TEST_AMQP does not answer: %w", err)
		}
		return &RabbitMQServer{Program: &Program{}, addr: addr}, nil
	})
}

// URL is how the product is told of this server: amqp://127.0.0.1:PORT.
func (s *RabbitMQServer) URL() string { return "amqp://" + s.addr }

// Addr is the server's HOST:PORT.
func (s *RabbitMQServer) Addr() string { return s.addr }

// Close ends the server and removes its data. It does nothing to a server that somebody else runs.
func (s *RabbitMQServer) Close() error {
	if s == nil {
		return nil
	}
	err := s.Program.Close() // of nil, too
	if s.mapper != nil {
		err = errors.Join(err, s.mapper.Close())
	}
	for _, a := range s.own {
		a.Free()
	}
	return err
}
