package limit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

var (
	//go:embed take.lua
	takeText string
	//go:embed refund.lua
	refundText string

	takeScript, refundScript = redis.NewScript(takeText), redis.NewScript(refundText)
)

// remote is the driver that keeps the charges in Redis, for all nodes together. A decision is one script: whoever comes at the same moment on
// whichever node, charges are counted one after another, and by one clock, that of the Redis server, in microseconds. Each key ends by
// itself when it says the same as no key.
//
// While Redis is away, each node decides by its share of the rate: what it allows is counted by the memory driver all the time, so that
// an outage does not hand out fresh allowances.
type remote struct {
	client *redis.Client
	local  *memory
	log    *slog.Logger
	clock  func() time.Time // nil: that of the server; a test's own
	away   [nameCount]prometheus.Counter
	shares [nameCount]atomic.Pointer[share]
	busy   atomic.Int64 // callers of the script now
	told   atomic.Int64 // when the last refusal of the script itself was logged, in Unix seconds
}

// share is the part of a limit that a node may allow on its own.
type share struct {
	nodes int
	of    *class
	class class
}

// closedRetry is what callers of a closed limit are told to wait: Redis may be back any moment.
const closedRetry = time.Second

// OpenShared makes limits that all nodes of a house share over Redis, with the same decisions as Open's. Config.Keys then bounds only what each node
// remembers for the time when Redis is away; keys in Redis take about as much, and go when they say nothing any more.
//
// When Redis is away, nothing waits for it. Each limit then does what its Away says: it goes by this node's share of the rate by the number of
// nodes last heard (AwayOpen, AwayShare), or refuses (AwayClosed).
func OpenShared(cfg Config, client *redis.Client, o *obs.Obs) (_ *Limits, err error) {
	defer levee.Wrap(&err, "limit.OpenShared")
	l, keys, err := newLimits(cfg, o)
	if err != nil {
		return nil, err
	}
	r := &remote{client: client, local: newMemory(keys, o), log: o.Named("limit")}
	away := obs.Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_limit_alone_total", Help: "Decisions made without Redis because it was away: by a node's own share, or refused.",
	}, []string{"name"}))
	for _, n := range Names() {
		r.away[n] = away.WithLabelValues(n.String())
	}
	l.driver = r
	return l, nil
}

// fewCallers is how many ask at once without gathering: a caller who is alone gains nothing by waiting for others.
const fewCallers = 2

// ask runs the script; the calls of many share pipelines.
func (r *remote) ask(ctx context.Context, keys []string, args []any) ([]int64, error) {
	defer r.busy.Add(-1)
	if r.busy.Add(1) <= fewCallers {
		return takeScript.Run(ctx, r.client, keys, args...).Int64Slice()
	}
	return takeScript.RunFast(ctx, r.client, keys, args...).Int64Slice()
}

// answer reads one of the script's answers, of four numbers.
func answer(c *class, n []int64) Decision {
	return Decision{OK: n[0] == 1, Limit: c.rate.Most(), Remaining: int(n[1]), Reset: micros(n[2]), RetryAfter: micros(n[3])}
}

func (r *remote) take(ctx context.Context, c *class, key string) Decision {
	n, err := r.ask(ctx, []string{r.key(c, key)}, r.args(c))
	if err == nil && len(n) == 4 {
		d := answer(c, n)
		if d.OK {
			r.mirror(ctx, c, key)
		}
		return d
	}
	r.tell(err)
	r.away[c.name].Inc()
	d, s := r.alone(c)
	if s == nil {
		return d
	}
	return r.local.take(ctx, &s.class, key)
}

// mirror counts what Redis allowed in this node's memory, for the time when Redis is away.
func (r *remote) mirror(ctx context.Context, c *class, key string) {
	if s := r.share(c); c.away != AwayClosed && !s.class.rate.off() {
		r.local.take(ctx, &s.class, key)
	}
}

// alone returns the share by which the limit goes without Redis, or nil and the refusal.
func (r *remote) alone(c *class) (Decision, *share) {
	if c.away == AwayClosed {
		return Decision{Away: true, RetryAfter: closedRetry}, nil
	}
	s := r.share(c)
	if s.class.rate.off() { // no share is left for this node
		return Decision{Limit: c.rate.Most(), Reset: c.rate.Per, RetryAfter: min(c.rate.every(), time.Minute)}, nil
	}
	return Decision{}, s
}

func (r *remote) takeAll(ctx context.Context, asks []ask, out []Decision) {
	if r.client.Cluster() {
		r.takeEach(ctx, asks, out)
		return
	}
	keys := make([]string, len(asks))
	args := make([]any, 1, 1+6*len(asks))
	for i, a := range asks {
		keys[i] = r.key(a.class, a.key)
		one := r.args(a.class)
		args[0] = one[0]
		args = append(args, one[1:]...)
	}
	n, err := r.ask(ctx, keys, args)
	if err != nil || len(n) != 4*len(asks) {
		r.tell(err)
		r.decideAlone(asks, out)
		return
	}
	var all outcome
	for i, a := range asks {
		out[i] = answer(a.class, n[4*i:])
		all.add(a.class, out[i])
	}
	for i, a := range asks {
		if out[i].OK && all.charges(a.class) {
			r.mirror(ctx, a.class, a.key)
		}
	}
}

// takeEach is takeAll where each key is on a server of its own: what was charged is given back when another refuses.
func (r *remote) takeEach(ctx context.Context, asks []ask, out []Decision) {
	var all outcome
	for i, a := range asks {
		out[i] = r.take(ctx, a.class, a.key)
		all.add(a.class, out[i])
	}
	for i, a := range asks {
		if out[i].OK && !all.charges(a.class) {
			r.refund(ctx, a.class, a.key)
			out[i].Remaining++
		}
	}
}

// decideAlone is takeAll without Redis.
func (r *remote) decideAlone(asks []ask, out []Decision) {
	var (
		local [AsksMax]ask
		at    [AsksMax]int
		found [AsksMax]Decision
	)
	n := 0
	var all outcome
	for i, a := range asks {
		r.away[a.class.name].Inc()
		d, s := r.alone(a.class)
		if out[i] = d; s != nil {
			local[n], at[n] = ask{&s.class, a.key}, i
			n++
		} else {
			all = outcome{refused: true, other: true}
		}
	}
	r.local.decide(local[:n], found[:n], all)
	for i := range n {
		out[at[i]] = found[i]
	}
}

func (r *remote) refund(ctx context.Context, c *class, key string) {
	if s := r.share(c); c.away != AwayClosed && !s.class.rate.off() {
		r.local.refund(ctx, &s.class, key)
	}
	// What is lost here stays charged: against the caller, and for no longer than the rate's time.
	if err := refundScript.RunFast(ctx, r.client, []string{r.key(c, key)}, r.args(c)...).Err(); err != nil {
		r.tell(err)
	}
}

// key is the script's key. It holds a digest, not what people typed, is short, and cannot be aimed at a part of a cluster.
func (r *remote) key(c *class, key string) string {
	sum := sha256.Sum256([]byte(key))
	return r.client.Key("limit:{" + c.name.String() + ":" + base64.RawURLEncoding.EncodeToString(sum[:16]) + "}")
}

// args are those of the scripts for one key.
func (r *remote) args(c *class) []any {
	if r.clock == nil {
		return c.args
	}
	args := slices.Clone(c.args)
	args[0] = r.clock().UnixMicro()
	return args
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// share returns this node's part of the limit by the number of nodes now.
func (r *remote) share(c *class) *share {
	nodes := r.client.Nodes()
	s := r.shares[c.name].Load()
	if s == nil || s.nodes != nodes || s.of != c {
		s = &share{nodes: nodes, of: c, class: class{name: c.name, away: c.away, rate: c.rate.share(nodes, c.away != AwayOpen)}}
		r.shares[c.name].Store(s)
	}
	return s
}

// share returns the part of a rate that one of so many nodes may allow. Down rounds it down, to none if need be.
func (r Rate) share(nodes int, down bool) Rate {
	up := nodes - 1
	if down {
		up = 0
	}
	part := Rate{Count: (r.Count + up) / nodes, Per: r.Per, Burst: (r.Burst + up) / nodes}
	if r.Burst != 0 && part.Burst == 0 {
		part.Count = 0
	}
	return part
}

// tell logs what only a defect brings about; that Redis is away is told by platform/redis.
func (r *remote) tell(err error) {
	if levee.CodeOf(err) == levee.CodeUnavailable || levee.CodeOf(err) == levee.CodeTimeout || errors.Is(err, context.Canceled) || err == nil {
		return
	}
	now := time.Now().Unix()
	if last := r.told.Load(); now-last >= 60 && r.told.CompareAndSwap(last, now) {
		r.log.Error("a limit could not be asked for in Redis; this node goes by its own share", "error", err)
	}
}
