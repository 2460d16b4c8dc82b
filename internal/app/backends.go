package app

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"levee"
	"levee/internal/gate"
	"levee/internal/platform/blob"
	"levee/internal/platform/cache"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/filelock"
	"levee/internal/platform/flow"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/permit"
	"levee/internal/platform/push"
	"levee/internal/platform/redis"
	"levee/internal/platform/schedule"
	"levee/internal/platform/web"
)

// backends are the platform's parts, opened.
type backends struct {
	obs       *obs.Obs
	db        *db.DB
	redis     *redis.Client // nil: no part is in Redis
	ids       *id.Generator
	etcd      *id.Etcd // nil: no part is in etcd
	lent      lent
	sealer    *id.Sealer
	limits    *limit.Limits
	permits   *permit.Table
	events    *event.Bus
	jobs      *job.Jobs
	flows     *flow.Flows
	schedules *schedule.Schedules
	push      *push.Hub
	files     *blob.Store // nil: no files are kept
	nodes     *node.Nodes
	secrets   keys
	tokenKey  ed25519.PrivateKey
	tokenSeal []byte
	admitKey  []byte
	drawKey   []byte
	hookKey   []byte
	nodeKey   []byte
	listKey   []byte
	leaseKey  []byte
	trailKey  []byte
	phoneKey  []byte
	factorKey []byte

	// drivers tells which driver each part got, for the lines at start.
	drivers [][2]string
	close   []func(context.Context) error
}

// openBackends is the one switch: it alone reads the driver lines of the config. What it opened before a failure is closed.
func openBackends(ctx context.Context, cfg *Config, o *obs.Obs) (_ *backends, err error) {
	b := &backends{obs: o, permits: permit.New()}
	defer func() {
		if err != nil {
			_ = b.shut(context.WithoutCancel(ctx))
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o750); err != nil {
		return nil, levee.E(levee.CodeUnavailable, "the data folder cannot be made").Because(err)
	}
	if b.secrets, err = cfg.openSecret(); err != nil {
		return nil, err
	}
	if b.db, err = db.Open(ctx, cfg.Database, o); err != nil {
		return nil, err
	}
	b.use("db", cfg.DB, func(context.Context) error { return b.db.Close() })
	if cfg.Redis != "" {
		if b.redis, err = redis.Open(ctx, cfg.RedisServer, o); err != nil {
			return nil, err
		}
		b.use("redis", cfg.Redis, func(context.Context) error { return b.redis.Close() })
	}
	if err := b.openIDs(ctx, cfg); err != nil {
		return nil, err
	}
	if err := b.openLocks(ctx, cfg); err != nil {
		return nil, err
	}
	switch cfg.Limit {
	case "memory:":
		if b.limits, err = limit.Open(cfg.Limits, o); err != nil {
			return nil, err
		}
	case "redis:":
		if b.limits, err = limit.OpenShared(cfg.Limits, b.redis, o); err != nil {
			return nil, err
		}
	default:
		return nil, levee.Invalid("limit", `"memory:" or "redis:"`, cfg.Limit)
	}
	b.use("limit", cfg.Limit, nil)
	cfg.Live.Fail = web.WriteError
	if err := cfg.Live.Validate(); err != nil {
		return nil, err
	}
	switch cfg.Push {
	case "memory:":
		b.push = push.Open(cfg.Live, o)
	case "redis:":
		if b.push, err = push.OpenShared(cfg.Live, b.redis, o); err != nil {
			return nil, err
		}
	default:
		return nil, levee.Invalid("push", `"memory:" or "redis:"`, cfg.Push)
	}
	b.use("push", cfg.Push, b.push.Close)
	if err := b.openFiles(cfg); err != nil {
		return nil, err
	}
	b.use("gate", cfg.Gate, nil) // opened by the room that sells, one for each sale
	b.events = event.Open(b.db, b.ids, o, cfg.Event)
	b.jobs = job.Open(b.db, b.ids, o)
	if err := b.jobs.Configure(job.Config{Node: cfg.Node.Name, Alone: !cfg.distributed()}); err != nil { // see holdFile
		return nil, err
	}
	if b.flows, err = flow.Open(flow.Config{}, b.db, b.ids, b.jobs, o); err != nil {
		return nil, err
	}
	if b.schedules, err = schedule.Open(schedule.Config{}, b.db, b.jobs, o); err != nil {
		return nil, err
	}
	if b.redis != nil {
		connect(b.redis, "event", b.events.Connect)
		connect(b.redis, "job", b.jobs.Connect)
		connect(b.redis, "schedule", b.schedules.Connect)
	}
	b.use("event, job, flow, schedule", "sql", nil)
	return b, b.deriveKeys()
}

// holdFile keeps other processes from serving from the same database file: gates, limits and waiting rooms lie in this process's memory, and what
// was running when another one died is taken back at once. The kernel gives the lock back however the process ends.
func (b *backends) holdFile(cfg *Config) error {
	path := strings.TrimPrefix(cfg.DB, "sqlite:")
	f, err := os.OpenFile(path+".serving", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	b.close = slices.Insert(b.close, 0, func(context.Context) error { return f.Close() }) // the last to be closed
	switch ok, err := filelock.Try(f); {
	case err != nil:
		return fmt.Errorf("lock %s.serving: %w", path, err)
	case !ok:
		return levee.E(levee.CodeConflict, "another Levee serves from %s: stop it first, or give this one a folder of its own (--data)", path)
	}
	return nil
}

// openFiles opens the store of uploaded files. One that is away is no reason not to start: nothing is sold from it.
func (b *backends) openFiles(cfg *Config) error {
	key, err := b.secrets.derive("links to files")
	if err != nil {
		return err
	}
	cfg.Files.Fail = web.WriteError
	switch dir, folder := strings.CutPrefix(cfg.Blob, folderOf); {
	case folder:
		b.files, err = blob.OpenFolder(dir, cfg.Files, key, b.obs)
	case cfg.Blob == "s3:":
		b.files, err = blob.OpenS3(cfg.Files, key, b.obs)
	}
	b.use("blob", cfg.Blob, nil)
	return err
}

// hostName names this process among those of the house, for people.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	return levee.Shorten(name, 160) + ":" + strconv.Itoa(os.Getpid())
}

// openNodes makes this process one of the house's nodes, once it is known where it can be reached. Nodes whose keys differ would not know
// each other's ids and tokens: the second one does not start.
func (b *backends) openNodes(ctx context.Context, cfg *Config, addr net.Addr) (err error) {
	n := cfg.Node
	n.Version = Version
	if n.Name == "" {
		n.Name = hostName()
	}
	switch {
	case !cfg.distributed():
		if n.Address != "" {
			return levee.Invalid("node.address", `empty with mode = "embedded": there is one node`, n.Address)
		}
	case n.Address == "":
		if n.Address, err = reachable(addr); err != nil {
			return err
		}
	}
	if b.nodes, err = node.Open(b.db, n, b.obs); err != nil || !cfg.distributed() {
		return err
	}
	mark, err := markOf(b.secrets)
	if err != nil {
		return err
	}
	return b.nodes.Agree(ctx, aboutSecret, mark)
}

// reachable is where other machines find a listener: its own address, or, where it listens on all of them, this machine's first.
func reachable(addr net.Addr) (string, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String(), nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && !ip.IP.IsLoopback() {
			return net.JoinHostPort(ip.IP.String(), strconv.Itoa(tcp.Port)), nil
		}
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port)), nil
}

// gates makes the gates of sales that nodes share; nil where one process sells.
func (b *backends) gates(cfg *Config) func(sale levee.SaleID, waitingMax int) *gate.Gate {
	if cfg.Gate != "redis:" {
		return nil
	}
	// The node's number, not its name: a process that is started again must not take its predecessor's takings for its own.
	me := strconv.FormatInt(b.nodes.Self().ID, 36)
	return func(sale levee.SaleID, waitingMax int) *gate.Gate {
		return gate.NewRedis(b.redis, sale, me, waitingMax, cfg.GateBuckets)
	}
}

// bell lets a room's bell ring on the other nodes; nil where there are none.
func (b *backends) bell(cfg *Config) func(name string, wake func()) (ring func()) {
	if !cfg.distributed() {
		return nil
	}
	return b.redis.Bell
}

// spread carries what a room tells its like on the other nodes; nil where there are none.
func (b *backends) spread(cfg *Config, name string) func(hear func([]byte)) (publish func([]byte)) {
	if !cfg.distributed() {
		return nil
	}
	return func(hear func([]byte)) (publish func([]byte)) { return b.redis.Bus(name, hear, func() {}) }
}

// bus is how caches tell other nodes what changed; nil where there is no Redis.
func (b *backends) bus() cache.Bus {
	if b.redis == nil {
		return nil
	}
	return b.redis.Bus
}

// connect lets a part's bell ring on the other nodes, too.
func connect(c *redis.Client, name string, join func(ring func()) (wake func())) {
	var ring atomic.Pointer[func()]
	wake := join(func() {
		if r := ring.Load(); r != nil {
			(*r)()
		}
	})
	r := c.Bell(name, wake)
	ring.Store(&r)
}

func (b *backends) use(part, driver string, shut func(context.Context) error) {
	b.drivers = append(b.drivers, [2]string{part, driver})
	if shut != nil {
		b.close = append(b.close, shut)
	}
}

func (b *backends) deriveKeys() (err error) {
	secrets := b.secrets
	seal, err := secrets.derive("public ids")
	if err != nil {
		return err
	}
	if b.sealer, err = id.NewSealer(seal); err != nil {
		return err
	}
	seed, err := secrets.derive("access tokens")
	if err != nil {
		return err
	}
	b.tokenKey = ed25519.NewKeyFromSeed(seed)
	if b.tokenSeal, err = secrets.derive("signing keys at rest"); err != nil {
		return err
	}
	if b.admitKey, err = secrets.derive("admission tokens"); err != nil {
		return err
	}
	if b.drawKey, err = secrets.derive("draw seeds"); err != nil {
		return err
	}
	if b.hookKey, err = secrets.derive("webhook secrets"); err != nil {
		return err
	}
	if b.leaseKey, err = secrets.derive("lent leases"); err != nil {
		return err
	}
	if b.trailKey, err = secrets.derive("audit trail"); err != nil {
		return err
	}
	if b.phoneKey, err = secrets.derive("codes by SMS"); err != nil {
		return err
	}
	if b.factorKey, err = secrets.derive("second factors at rest"); err != nil {
		return err
	}
	if b.listKey, err = secrets.derive("cursors of lists"); err != nil {
		return err
	}
	b.nodeKey, err = secrets.derive("requests between nodes")
	return err
}

// shut closes what was opened, last first, and returns the first error.
func (b *backends) shut(ctx context.Context) (first error) {
	for i := len(b.close) - 1; i >= 0; i-- {
		if err := b.close[i](ctx); err != nil && first == nil {
			first = err
		}
	}
	b.close = nil
	return first
}
