package bridge

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// The environment that makes this test program a broker, or a house that kills itself.
const (
	serveKind = "LEVEE_BRIDGE_SERVE"
	serveAddr = "LEVEE_BRIDGE_ADDR"
	serveDir  = "LEVEE_BRIDGE_DIR"
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(serveKind) != "":
		err = serve(os.Getenv(serveKind), os.Getenv(serveAddr), os.Getenv(serveDir))
	case os.Getenv(victimDir) != "":
		err = victim()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is a broker until it is told to end, or killed.
func serve(kind, addr, dir string) error {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, _ := strconv.Atoi(p)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	switch kind {
	case "nats":
		s, err := server.NewServer(&server.Options{Host: host, Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
		if err != nil {
			return err
		}
		s.Start()
		<-end
		s.Shutdown()
		s.WaitForShutdown()
	case "kafka":
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir), kfake.SyncWrites(), kfake.DefaultNumPartitions(4),
			kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
		if err != nil {
			return err
		}
		<-end
		c.Close()
	}
	return nil
}

// started is a broker of a test: the real program, which can be killed.
type started struct {
	kind, url string
	direct    string // HOST:PORT past the proxy
	proxy     *backends.Proxy
	kill      func() error
	restart   func(ctx context.Context) error
}

var kinds = []string{"redis", "nats", "kafka", "amqp"}

var rabbit = struct {
	sync.Mutex // one test at a time has it: it takes ten seconds to start one
	s          *backends.RabbitMQServer
}{}

// start starts a broker with a proxy in front of it.
func start(t *testing.T, kind string) *started {
	t.Helper()
	ctx := t.Context()
	s := &started{kind: kind}
	check := func(err error) {
		t.Helper()
		if err != nil && backends.MaySkip(err) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	switch kind {
	case "redis":
		r, err := backends.StartRedis(ctx, backends.RedisOptions{AOF: true})
		check(err)
		t.Cleanup(func() { _ = r.Close() })
		s.direct, s.kill, s.restart = r.Addr(), r.Kill, r.Restart
	case "amqp":
		rabbit.Lock()
		t.Cleanup(rabbit.Unlock)
		if rabbit.s == nil {
			var err error
			rabbit.s, err = backends.StartRabbitMQ(context.Background())
			check(err)
		}
		if !rabbit.s.Running() {
			check(rabbit.s.Restart(ctx))
		}
		s.direct, s.kill, s.restart = rabbit.s.Addr(), rabbit.s.Kill, rabbit.s.Restart
	default:
		a, err := backends.TakeAddress()
		check(err)
		t.Cleanup(a.Free)
		p, err := backends.StartProgram(ctx, backends.ProgramOptions{Name: kind, Path: os.Args[0], Args: []string{"-test.run=^$"},
			Env: append(os.Environ(), serveKind+"="+kind, serveAddr+"="+a.String(), serveDir+"="+filepath.Join(t.TempDir(), kind)),
			Ready: func(ctx context.Context) error {
				c, err := net.DialTimeout("tcp", a.String(), time.Second)
				if err == nil {
					err = c.Close()
				}
				return err
			}})
		check(err)
		t.Cleanup(func() { _ = p.Close() })
		s.direct, s.kill, s.restart = a.String(), p.Kill, p.Restart
	}
	var err error
	s.proxy, err = backends.StartProxy(ctx, s.direct)
	check(err)
	t.Cleanup(func() { _ = s.proxy.Close() })
	s.url = kind + "://" + s.proxy.Addr
	return s
}

// noted goes out.
type noted struct {
	Key int64
	N   int
	Pad string `json:",omitempty"`
}

func (noted) EventName() string { return "test.noted.v1" }
func (n noted) EventKey() int64 { return n.Key }

// other goes out, too.
type other struct {
	Key int64
	N   int
}

func (other) EventName() string { return "test.other.v1" }
func (o other) EventKey() int64 { return o.Key }

// heard comes in.
type heard struct {
	Key int64
	N   int
}

func (heard) EventName() string { return "test.heard.v1" }
func (h heard) EventKey() int64 { return h.Key }

// house is what a bridge stands on, for tests and for victims.
type house struct {
	d    *db.DB
	ids  *id.Generator
	o    *obs.Obs
	bus  *event.Bus
	b    *Bridge
	stop func()
}

const effectSchema = `CREATE TABLE effect (at BIGINT NOT NULL PRIMARY KEY, event_key BIGINT NOT NULL, n BIGINT NOT NULL);`

// openHouse opens all of it, migrated, with a listener that writes down what came in. Nothing runs yet.
func openHouse(ctx context.Context, dir string, dbc db.Config, cfg Config, o *obs.Obs, change func(b *Bridge)) (_ *house, err error) {
	h := &house{o: o}
	if h.d, err = db.Open(ctx, dbc, o); err != nil {
		return nil, err
	}
	if _, err = h.d.Migrate(ctx, schemas()); err != nil {
		return nil, err
	}
	if h.ids, err = id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o); err != nil {
		return nil, err
	}
	h.bus = event.Open(h.d, h.ids, o)
	if h.b, err = Open(Deps{DB: h.d, IDs: h.ids, Bus: h.bus, Obs: o, Out: []Type{Of[noted](), Of[other]()}, In: []Type{Of[heard]()}}, cfg); err != nil {
		return nil, err
	}
	if change != nil {
		change(h.b)
	}
	err = h.bus.Register(append(h.b.Listeners(), event.Listen("effect", func(ctx context.Context, tx *db.Tx, e heard) error {
		at, err := h.ids.Next()
		if err == nil {
			_, err = tx.Exec(ctx, `INSERT INTO effect (at, event_key, n) VALUES (?, ?, ?)`, at, e.Key, e.N)
		}
		return err
	}))...)
	return h, err
}

// run starts the bus and the bridge.
func (h *house) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.bus.Run(ctx) })
	wg.Go(func() { _ = h.b.Run(ctx) })
	h.stop = func() {
		cancel()
		wg.Wait()
	}
}

func (h *house) close() {
	if h.stop != nil {
		h.stop()
	}
	_ = h.ids.Close()
	_ = h.d.Close()
}
