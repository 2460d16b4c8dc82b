package chaos

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/backends"
)

var (
	onlyFaults = flag.String("chaos.only", "", "draw only faults whose name begins with one of these, with commas between")
	mostFaults = flag.Int("chaos.faults", 4, "the most faults in a run of several nodes; at least one is drawn, two where this allows")
)

// trouble is one fault of a plan. When it comes is said in units sold, not in seconds: so it comes in the middle of the selling however fast
// the machine is, and a seed means the same on each.
type trouble struct {
	at    float64 // share of the units that were told to buyers
	kind  string
	node  int           // which node, link, or master of a cluster
	lasts time.Duration // how long it is down, away, slow or asleep
	late  time.Duration // of a slow link or a replica that lags
	mode  string        // of a cut
}

func (x trouble) String() string {
	words := []string{}
	if strings.HasPrefix(x.kind, "node.") || strings.HasPrefix(x.kind, "link.") || x.mode == "master" {
		words = append(words, strconv.Itoa(x.node))
	}
	if x.mode != "" && x.mode != "master" {
		words = append(words, x.mode)
	}
	if x.late > 0 {
		words = append(words, x.late.String())
	}
	if x.lasts > 0 {
		words = append(words, x.lasts.String())
	}
	return fmt.Sprintf("%s(%s)@%.0f%%", x.kind, strings.Join(words, ","), 100*x.at)
}

// kindOf is a kind of fault: what it does until it is over, and what is drawn for it.
type kindOf struct {
	name           string
	weight         int
	shapes         string // "" is every shape
	least, most    time.Duration
	lateLo, lateHi time.Duration
	modes          []string
	do             func(ctx context.Context, f *fleet, x trouble) error
}

// What a plan is drawn from.
var kindsOf = []kindOf{
	{name: "node.kill", weight: 4, least: 0, most: 1500 * time.Millisecond, do: killNode},
	{name: "node.kill.all", weight: 1, least: 0, most: 500 * time.Millisecond, do: killAll},
	{name: "node.sleep", weight: 3, least: leasesSlept, most: leasesSlept + 1500*time.Millisecond, do: sleepNode},
	{name: "node.doze", weight: 1, least: 200 * time.Millisecond, most: 1500 * time.Millisecond, do: sleepNode},
	{name: "node.clock", weight: 2, least: time.Second, most: 6 * time.Second, lateLo: time.Second, lateHi: 6 * time.Second, modes: []string{"ahead", "behind"}, do: stepClock},
	{name: "db.kill", weight: 2, least: 0, most: time.Second, do: killDB},
	{name: "db.restart", weight: 1, do: restartDB},
	{name: "link.db.cut", weight: 2, least: 300 * time.Millisecond, most: 4 * time.Second, modes: []string{"down", "silence", "answers", "reset"}, do: cutDB},
	{name: "link.db.slow", weight: 1, least: time.Second, most: 3 * time.Second, lateLo: 20 * time.Millisecond, lateHi: 150 * time.Millisecond, do: slowDB},
	{name: "redis.kill", weight: 3, shapes: single, least: 0, most: 1500 * time.Millisecond, modes: []string{"aof", "empty"}, do: killRedis},
	{name: "redis.hang", weight: 1, shapes: single, least: 300 * time.Millisecond, most: 3 * time.Second, do: hangRedis},
	{name: "link.redis.cut", weight: 2, shapes: single, least: 300 * time.Millisecond, most: 4 * time.Second, modes: []string{"down", "silence", "answers", "reset"}, do: cutRedis},
	{name: "link.redis.slow", weight: 1, shapes: single, least: time.Second, most: 3 * time.Second, lateLo: 5 * time.Millisecond, lateHi: 120 * time.Millisecond, do: slowRedis},
	{name: "redis.failover", weight: 5, shapes: sentinel, least: 0, most: 500 * time.Millisecond, lateLo: 20 * time.Millisecond, lateHi: 400 * time.Millisecond, do: failOver},
	{name: "redis.promote", weight: 2, shapes: sentinel, do: promote},
	{name: "redis.sleep", weight: 2, shapes: sentinel, least: 4 * time.Second, most: 6 * time.Second, do: sleepPrimary},
	{name: "redis.empty", weight: 1, shapes: sentinel + cluster, least: 0, most: 500 * time.Millisecond, modes: []string{"master"}, do: emptyPair},
	{name: "redis.failover", weight: 4, shapes: cluster, least: 0, most: 500 * time.Millisecond, modes: []string{"master"}, do: killMaster},
	{name: "redis.promote", weight: 2, shapes: cluster, modes: []string{"master"}, do: promoteNode},
}

// draw makes a seed's plan for a shape. The same seed makes the same one.
func draw(seed uint64, shape string, nodes, most int, only string) []trouble {
	dice := rand.New(rand.NewPCG(seed, 0xc4a05))
	between := func(a, b, grain time.Duration) time.Duration {
		if b <= a {
			return a
		}
		return (a + time.Duration(dice.Int64N(int64(b-a)+1))).Round(grain)
	}
	var can []kindOf
	for _, k := range kindsOf {
		wanted := only == ""
		for name := range strings.SplitSeq(only, ",") {
			wanted = wanted || strings.HasPrefix(k.name, name)
		}
		if wanted && (k.shapes == "" || strings.Contains(k.shapes, shape)) {
			can = append(can, k)
		}
	}
	total := 0
	for _, k := range can {
		total += k.weight
	}
	if total == 0 || most < 1 {
		return nil
	}
	n := min(most, 2+dice.IntN(max(1, most-1)))
	plan := make([]trouble, 0, n)
	for range n {
		k, at := can[0], dice.IntN(total)
		for _, k = range can {
			if at -= k.weight; at < 0 {
				break
			}
		}
		x := trouble{kind: k.name, at: 0.02 + 0.9*dice.Float64(), node: dice.IntN(nodes), lasts: between(k.least, k.most, 10*time.Millisecond),
			late: between(k.lateLo, k.lateHi, time.Millisecond)}
		if len(k.modes) > 0 {
			x.mode = k.modes[dice.IntN(len(k.modes))]
		}
		if x.mode == "master" {
			x.node = dice.IntN(3)
		}
		if len(plan) > 0 && dice.IntN(4) == 0 { // together with the one before
			x.at = plan[len(plan)-1].at
		}
		plan = append(plan, x)
	}
	slices.SortStableFunc(plan, func(a, b trouble) int { return cmp.Compare(a.at, b.at) })
	return plan
}

func (x trouble) do(ctx context.Context, f *fleet) error {
	for _, k := range kindsOf {
		if k.name == x.kind && (k.shapes == "" || strings.Contains(k.shapes, f.shape)) {
			return k.do(ctx, f, x)
		}
	}
	return fmt.Errorf("there is no fault %s", x.kind)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func killNode(ctx context.Context, f *fleet, x trouble) error {
	m := f.nodes[x.node]
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.program.Kill()
	wait(ctx, x.lasts)
	return errors.Join(err, f.revive(ctx, m))
}

// revive starts a node and waits until it is ready. A node whose database is away at its start says so and ends, as it should: whoever
// runs it starts it again.
func (f *fleet) revive(ctx context.Context, m *member) error {
	for end := time.Now().Add(time.Minute); ; {
		short, stop := context.WithTimeout(ctx, 20*time.Second)
		err := m.program.Restart(short)
		stop()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		wait(ctx, 200*time.Millisecond)
	}
}

func killAll(ctx context.Context, f *fleet, x trouble) error {
	errs := make([]error, len(f.nodes))
	var all sync.WaitGroup
	for i := range f.nodes {
		all.Go(func() {
			x := x
			x.node = i
			errs[i] = killNode(ctx, f, x)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func sleepNode(ctx context.Context, f *fleet, x trouble) error {
	m := f.nodes[x.node]
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.program.Pause(); err != nil {
		return err
	}
	wait(ctx, x.lasts)
	return m.program.Resume()
}

// stepClock sets a node's clock by whole seconds, and back.
func stepClock(ctx context.Context, f *fleet, x trouble) error {
	m := f.nodes[x.node]
	by := int(x.late / time.Second)
	if x.mode == "behind" {
		by = -by
	}
	err := m.setClock(by)
	wait(ctx, 100*time.Millisecond)
	if off, known := m.clockOff(ctx); known && err == nil && (off-time.Duration(m.ahead.Load())*time.Second).Abs() > time.Second {
		err = fmt.Errorf("node %d was set %d s ahead and is %v ahead: the fault has lost its teeth", m.number, m.ahead.Load(), off)
	}
	wait(ctx, x.lasts)
	return errors.Join(err, m.setClock(0))
}

func killDB(ctx context.Context, f *fleet, x trouble) error {
	f.dbMu.Lock()
	defer f.dbMu.Unlock()
	err := f.db.Kill()
	wait(ctx, x.lasts)
	return errors.Join(err, f.db.Restart(ctx))
}

func restartDB(ctx context.Context, f *fleet, _ trouble) error {
	f.dbMu.Lock()
	defer f.dbMu.Unlock()
	return f.db.Restart(ctx)
}

// cut cuts a link: its address refuses (down), swallows everything (silence) or every answer (answers), or what is open breaks (reset).
func cut(ctx context.Context, p *backends.Proxy, x trouble) (err error) {
	switch x.mode {
	case "down":
		p.Down()
	case "silence":
		err = p.Silence(true)
	case "answers":
		err = p.DropAnswers(true)
	default:
		p.ResetPeer()
		return nil
	}
	wait(ctx, x.lasts)
	return errors.Join(err, p.Heal())
}

func slow(ctx context.Context, p *backends.Proxy, x trouble) error {
	err := p.Latency(x.late, x.late/2)
	wait(ctx, x.lasts)
	return errors.Join(err, p.Heal())
}

func cutDB(ctx context.Context, f *fleet, x trouble) error {
	return cut(ctx, f.nodes[x.node].dbLink, x)
}
func slowDB(ctx context.Context, f *fleet, x trouble) error {
	return slow(ctx, f.nodes[x.node].dbLink, x)
}
func cutRedis(ctx context.Context, f *fleet, x trouble) error {
	return cut(ctx, f.nodes[x.node].redisLink, x)
}
func slowRedis(ctx context.Context, f *fleet, x trouble) error {
	return slow(ctx, f.nodes[x.node].redisLink, x)
}

func killRedis(ctx context.Context, f *fleet, x trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	err := f.single.Kill()
	wait(ctx, x.lasts)
	if x.mode == "empty" {
		return errors.Join(err, f.single.RestartEmpty(ctx))
	}
	return errors.Join(err, f.single.Restart(ctx))
}

func hangRedis(ctx context.Context, f *fleet, x trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	err := f.single.Pause()
	wait(ctx, x.lasts)
	return errors.Join(err, f.single.Resume())
}

// pair is the primary that the sentinels name, and the other one.
func (f *fleet) pair(ctx context.Context) (primary, replica *backends.RedisServer, err error) {
	if primary, err = f.sentinel.Primary(ctx); err != nil {
		return nil, nil, err
	}
	for _, n := range f.sentinel.Nodes {
		if n != primary {
			replica = n
		}
	}
	return primary, replica, nil
}

// behind lets the replica follow through a link that is late, until end is called: what is in flight then is lost.
func behind(ctx context.Context, primary, replica *backends.RedisServer, late time.Duration) (end func() error, err error) {
	link, err := backends.StartProxy(ctx, primary.Addr())
	if err != nil {
		return nil, err
	}
	if err := follow(ctx, replica, link.Addr); err != nil {
		return nil, errors.Join(err, link.Close())
	}
	return link.Close, link.Latency(late, 0)
}

// follow makes a server the replica of an address and waits until it is in step. The sentinels would do the same, after ten seconds.
func follow(ctx context.Context, replica *backends.RedisServer, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if _, err := replica.Do(ctx, "REPLICAOF", host, port); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; wait(ctx, 10*time.Millisecond) {
		info, err := replica.Do(ctx, "INFO", "replication")
		if text, _ := info.(string); strings.Contains(text, "master_link_status:up\r\n") && strings.Contains(text, "master_port:"+port+"\r\n") {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("a replica did not follow %s within 30 s: %w %v", addr, err, info)
		}
	}
}

// failOver kills the primary in front of a replica that lags; the sentinels promote the replica, and the old primary becomes its replica.
func failOver(ctx context.Context, f *fleet, x trouble) error {
	_, err := f.failOver(ctx, x.late, x.lasts, nil)
	return err
}

// failOver returns when the new primary takes writes; killed is called at the moment of the kill.
func (f *fleet) failOver(ctx context.Context, late, down time.Duration, killed func()) (promoted time.Time, err error) {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	primary, replica, err := f.pair(ctx)
	if err != nil {
		return promoted, err
	}
	end, err := behind(ctx, primary, replica, late)
	if err != nil {
		return promoted, err
	}
	wait(ctx, 2*late+100*time.Millisecond)
	if killed != nil {
		killed()
	}
	// The link first: while the primary is dying, what it has sent must not arrive.
	if err := errors.Join(end(), primary.Kill()); err != nil {
		return promoted, err
	}
	next, err := f.sentinel.Promoted(ctx, primary)
	if err != nil {
		return promoted, err
	}
	promoted = time.Now()
	wait(ctx, down)
	return promoted, f.demote(ctx, primary, next)
}

// demote starts a primary of old as the replica of its successor.
func (f *fleet) demote(ctx context.Context, old, next *backends.RedisServer) error {
	if err := old.Restart(ctx); err != nil {
		return err
	}
	return errors.Join(follow(ctx, old, next.Addr()), f.sentinel.Settled(ctx))
}

func promote(ctx context.Context, f *fleet, _ trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	if _, err := f.sentinel.Promote(ctx); err != nil {
		return err
	}
	return f.sentinel.Settled(ctx)
}

// sleepPrimary stops the primary in its tracks for longer than the sentinels wait. When it wakes, it takes itself for the primary until the
// sentinels tell it otherwise.
func sleepPrimary(ctx context.Context, f *fleet, x trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	primary, _, err := f.pair(ctx)
	if err != nil {
		return err
	}
	if err := primary.Pause(); err != nil {
		return err
	}
	wait(ctx, x.lasts)
	if err := primary.Resume(); err != nil {
		return err
	}
	return f.sentinel.Settled(ctx)
}

// emptyPair kills a primary together with its replica, and both come back with nothing.
func emptyPair(ctx context.Context, f *fleet, x trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	if f.shape == sentinel {
		primary, replica, err := f.pair(ctx)
		if err != nil {
			return err
		}
		err = errors.Join(replica.Kill(), primary.Kill())
		wait(ctx, x.lasts)
		err = errors.Join(err, primary.RestartEmpty(ctx), replica.RestartEmpty(ctx))
		if err != nil {
			return err
		}
		// The sentinels may have begun to promote the replica, or not.
		return f.sentinel.Settled(ctx)
	}
	pair := []*backends.RedisServer{f.cluster.Nodes[x.node], f.cluster.Nodes[x.node+3]}
	err := errors.Join(pair[0].Kill(), pair[1].Kill())
	wait(ctx, x.lasts)
	return errors.Join(err, pair[0].RestartEmpty(ctx), pair[1].RestartEmpty(ctx), f.cluster.Settled(ctx))
}

// ofPair is the master and the replica of one part of a cluster's slots.
func (f *fleet) ofPair(ctx context.Context, number int) (master, replica *backends.RedisServer, err error) {
	a, b := f.cluster.Nodes[number], f.cluster.Nodes[number+3]
	masters, err := f.cluster.Masters(ctx)
	if err == nil && slices.Contains(masters, b) {
		a, b = b, a
	}
	return a, b, err
}

func killMaster(ctx context.Context, f *fleet, x trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	master, replica, err := f.ofPair(ctx, x.node)
	if err != nil {
		return err
	}
	if err := errors.Join(master.Kill(), f.cluster.Promoted(ctx, replica)); err != nil {
		return err
	}
	wait(ctx, x.lasts)
	return errors.Join(master.Restart(ctx), f.cluster.Settled(ctx))
}

func promoteNode(ctx context.Context, f *fleet, x trouble) error {
	f.redisMu.Lock()
	defer f.redisMu.Unlock()
	_, replica, err := f.ofPair(ctx, x.node)
	if err != nil {
		return err
	}
	return errors.Join(f.cluster.Promote(ctx, replica), f.cluster.Settled(ctx))
}

// A seed means one plan, other seeds mean others, and every kind of fault comes up.
func TestPlansAreOfTheirSeed(t *testing.T) {
	for _, shape := range []string{single, sentinel, cluster} {
		seen, plans := map[string]bool{}, map[string]bool{}
		for seed := range uint64(400) {
			plan := draw(seed, shape, 3, 4, "")
			if again := draw(seed, shape, 3, 4, ""); !slices.Equal(plan, again) {
				t.Fatalf("%s, seed %d: %v and then %v", shape, seed, plan, again)
			}
			if len(plan) < 2 || len(plan) > 4 {
				t.Errorf("%d faults: %v", len(plan), plan)
			}
			plans[fmt.Sprint(plan)] = true
			for _, x := range plan {
				seen[x.kind] = true
			}
		}
		want := 0
		names := map[string]bool{}
		for _, k := range kindsOf {
			if (k.shapes == "" || strings.Contains(k.shapes, shape)) && !names[k.name] {
				names[k.name] = true
				want++
			}
		}
		if len(seen) != want || len(plans) < 395 {
			t.Errorf("%s: %d kinds of %d came up in 400 seeds, and %d different plans", shape, len(seen), want, len(plans))
		}
		for _, x := range draw(1, shape, 3, 4, "node.kill") {
			if !strings.HasPrefix(x.kind, "node.kill") {
				t.Errorf("drawn in spite of -chaos.only: %v", x)
			}
		}
	}
}
