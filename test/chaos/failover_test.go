package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"levee/internal/platform/backends"
	"levee/internal/rehearse"
)

var failoverRate = flag.Float64("chaos.failover.rate", 300, "purchases a second in TestFailover")

const (
	failoverWithin = 5 * time.Second // from the kill of the primary to the next order
	failoverLag    = 60 * time.Millisecond
)

// The primary of Redis is killed in mid-sale in front of a replica that lags. Every buyer gets the order that he asks for, nobody loses one that
// he was told of, and the sale goes on within five seconds. Beside it, in the same servers at the same moment, a seller that trusts Redis
// alone loses orders that it has told and sells units twice: the negative control.
func TestFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB, Redis with sentinels, nginx and three nodes")
	}
	f := newFleet(t, built(t), sentinel)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	const late = 20
	lasts, killAt := 6*time.Second, 1500*time.Millisecond
	if full() {
		lasts, killAt = 15*time.Second, 5*time.Second
	}
	buyers := int(*failoverRate * lasts.Seconds())
	units := int64(2 * buyers) // everybody can have one
	p := &pulse{more: make(chan struct{}, 1)}
	peer := newPeer(t, f.sentinel, buyers*2/3)
	var killed, promoted time.Time
	var failed error
	var drill sync.WaitGroup
	var copied string
	f.signIn(t)
	f.sickness()
	report, err := rehearse.Run(ctx, rehearse.Config{Server: f.base, User: "keeper", Password: password, Sale: f.sale, Units: units, PerBuyer: 1,
		Buyers: buyers, Rate: *failoverRate, Late: late, Duration: lasts, Connections: 128, Patience: time.Minute, Settle: time.Minute, Quiet: true, Seed: 1,
		Watch: rehearse.Watch{
			Begin: func(copy string) {
				copied = copy
				p.began = time.Now()
				drill.Go(func() { peer.sell(ctx, 0.8*float64(peer.units)/(lasts-time.Second).Seconds()) })
				drill.Go(func() {
					wait(ctx, killAt)
					promoted, failed = f.failOver(ctx, failoverLag, 500*time.Millisecond, func() { killed = time.Now() })
				})
			},
			Ordered: p.beat,
			Calm: func(ctx context.Context) error {
				drill.Wait()
				if err := errors.Join(failed, f.well(ctx)); err != nil {
					return err
				}
				_, err := f.calm(ctx, copied, units)
				return err
			},
		}}, io.Discard)
	drill.Wait()
	if err != nil || failed != nil {
		t.Fatalf("%v\n%v\n%s", err, failed, f.tails(2000))
	}
	back, ok := p.pauseAt(killed)
	t.Logf("the sentinels (down-after %v) had another primary after %v; the first order %v after the kill, the longest time without one %v; "+
		"%d orders told, %d replies lost, %d × 503", downAfter, promoted.Sub(killed).Round(time.Millisecond), back.Round(time.Millisecond),
		p.pauseAmong(buyers-late).Round(time.Millisecond), report.Outcomes["ordered"], report.Answers["lost"], report.Answers["busy"])
	for _, c := range report.Audit {
		if c.Verdict == rehearse.Broken {
			t.Errorf("%s: %s %s", c.Name, c.Facts, few(c.Findings))
		}
	}
	if report.Outcomes["ordered"] != uint64(buyers) {
		t.Errorf("%d buyers came for %d units, and the last words are %v", buyers, units, report.Outcomes)
	}
	if wrong := append(f.ledger(ctx, int64(buyers)), f.sickness()...); len(wrong) > 0 {
		t.Errorf("the books:%s", few(wrong))
	}
	if !ok || p.pauseAmong(buyers-late) > failoverWithin {
		t.Errorf("no order for %v, promised within %v", p.pauseAmong(buyers-late), failoverWithin)
	}
	lost, told, err := peer.audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the control, which trusts Redis alone: %d units, %d buyers told yes, %d of them are in no book, %d units sold twice", peer.units, told, lost, told-peer.units)
	if lost == 0 || told <= peer.units {
		t.Error("the control lost nothing, so the fail-over proved nothing")
	}
}

// peer sells as many do it: a script in Redis takes a unit and notes the order, and the buyer is told what Redis said.
type peer struct {
	units int
	redis *goredis.Client
	next  atomic.Int64
	mu    sync.Mutex
	told  []string
}

const (
	peerStock  = "peer:stock"
	peerOrders = "peer:orders"
)

var peerTake = goredis.NewScript(`
if redis.call("HEXISTS", KEYS[2], ARGV[1]) == 1 then return 1 end
if tonumber(redis.call("GET", KEYS[1]) or "0") < 1 then return 0 end
redis.call("DECR", KEYS[1])
redis.call("HSET", KEYS[2], ARGV[1], 1)
return 1`)

func newPeer(t testing.TB, g *backends.RedisSentinel, units int) *peer {
	t.Helper()
	logging.Disable() // it says what it likes on standard error
	var addrs []string
	for _, s := range g.Sentinels {
		addrs = append(addrs, s.Addr())
	}
	p := &peer{units: units, redis: goredis.NewFailoverClient(&goredis.FailoverOptions{MasterName: backends.MasterName, SentinelAddrs: addrs,
		DialTimeout: 500 * time.Millisecond, ReadTimeout: 500 * time.Millisecond, MaxRetries: -1})}
	t.Cleanup(func() { p.redis.Close() })
	must(t, p.redis.Set(t.Context(), peerStock, units, 0).Err())
	return p
}

// sell lets buyers come at a rate until all is sold. A buyer asks again with his number until he has an answer.
func (p *peer) sell(ctx context.Context, rate float64) {
	const workers = 16
	var work sync.WaitGroup
	every := time.Duration(workers / rate * float64(time.Second))
	for i := range workers {
		work.Go(func() {
			wait(ctx, every*time.Duration(i)/workers) // not all at once
			tick := time.NewTicker(every)
			defer tick.Stop()
			for ctx.Err() == nil {
				who := fmt.Sprint(p.next.Add(1))
				for {
					got, err := peerTake.Run(ctx, p.redis, []string{peerStock, peerOrders}, who).Int()
					if err == nil && got == 0 {
						return // sold out
					}
					if err == nil {
						p.mu.Lock()
						p.told = append(p.told, who)
						p.mu.Unlock()
						break
					}
					if ctx.Err() != nil {
						return
					}
					wait(ctx, 20*time.Millisecond)
				}
				<-tick.C
			}
		})
	}
	work.Wait()
}

// audit looks for what was told in the only book there is.
func (p *peer) audit(ctx context.Context) (lost, told int, err error) {
	book, err := p.redis.HGetAll(ctx, peerOrders).Result()
	for _, who := range p.told {
		if book[who] == "" {
			lost++
		}
	}
	return lost, len(p.told), err
}
