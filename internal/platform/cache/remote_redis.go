package cache

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/redis"
)

//go:embed fill.lua
var fillText string

//go:embed bury.lua
var buryText string

//go:embed lease.lua
var leaseText string

//go:embed release.lua
var releaseText string

//go:embed epoch.lua
var epochText string

//go:embed peek.lua
var peekText string

//go:embed announce.lua
var announceText string

//go:embed announced.lua
var announcedText string

var (
	fillScript, buryScript   = redis.NewScript(fillText), redis.NewScript(buryText)
	leaseScript, epochScript = redis.NewScript(leaseText), redis.NewScript(epochText)
	releaseScript            = redis.NewScript(releaseText)
	announceScript           = redis.NewScript(announceText)
	announcedScript          = redis.NewScript(announcedText)
	fillEach, buryEach       = goredis.NewScript(fillText), goredis.NewScript(buryText)
	peekEach, leaseEach      = goredis.NewScript(peekText), goredis.NewScript(leaseText)
)

// epoch is one life of what the server keeps. Its name stands in every key, so what a server forgot when it was emptied, restarted or
// replaced by a replica that lagged cannot be mistaken for what it still knows: all of it is out of sight.
type epoch struct {
	name   string
	key    string    // where the server keeps the name
	prefix string    // of the keys of values
	began  time.Time // not before the server began it; a fence that was there before it is gone
}

// remote is the second level as one cache sees it: what is asked of Redis, and which epoch the answer belongs to.
type remote struct {
	c    *redis.Client
	name string

	// A server that took another's place is reached by connections made after it did. So an answer is trusted when no
	// connection was made since the server's epoch was last looked up; else it is looked up again, before the answer is used.
	dials   atomic.Uint64
	checked atomic.Uint64
	epoch   atomic.Pointer[epoch]
	mu      sync.Mutex // held during a look-up: one at a time
	changed func()     // called when the epoch is another

	away  atomic.Bool // Redis is not asked until the keeper got an answer
	fails atomic.Int32

	readers atomic.Int32 // reads under way
}

// failsMost is how many calls in a row may fail before Redis is left alone.
const failsMost = 3

var errAway = levee.E(levee.CodeUnavailable, "the cache's second level is away")

// newRemote does not talk to Redis yet.
func newRemote(c *redis.Client, name string, changed func()) *remote {
	r := &remote{c: c, name: name, changed: changed}
	r.dials.Store(1) // not checked yet
	switch u := c.UniversalClient().(type) {
	case *goredis.ClusterClient:
		// A cluster makes a client for each of its servers, some before this.
		u.OnNewNode(func(node *goredis.Client) { node.AddHook(watcher{r}) })
		_ = u.ForEachShard(context.Background(), func(_ context.Context, node *goredis.Client) error {
			node.AddHook(watcher{r})
			return nil
		})
	default:
		u.AddHook(watcher{r})
	}
	return r
}

// watcher counts the connections that are made.
type watcher struct{ r *remote }

func (w watcher) DialHook(next goredis.DialHook) goredis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		w.r.dials.Add(1) // before anyone can use it
		return conn, err
	}
}
func (watcher) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook { return next }
func (watcher) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

// do calls fn with the epoch, and again when the epoch turned out to be another by the time that fn was done. Errors are
// CodeUnavailable while Redis is away.
func (r *remote) do(ctx context.Context, fn func(e *epoch) error) error {
	if r.away.Load() {
		return clone(errAway)
	}
	return r.try(ctx, fn)
}

// try is do, also while Redis is left alone: for the keeper, who finds out whether that is over.
func (r *remote) try(ctx context.Context, fn func(e *epoch) error) error {
	for range 4 {
		e, err := r.settled(ctx)
		if err != nil {
			return err
		}
		err = fn(e)
		r.note(ctx, err)
		if err != nil {
			return err
		}
		now, err := r.settled(ctx)
		if err != nil {
			return err
		}
		if now == e {
			return nil
		}
	}
	return levee.E(levee.CodeUnavailable, "Redis is changing over").After(time.Second)
}

// settled returns the epoch, after looking it up when a connection was made since the last time.
func (r *remote) settled(ctx context.Context) (*epoch, error) {
	for range 4 {
		if e := r.epoch.Load(); e != nil && r.dials.Load() == r.checked.Load() {
			return e, nil
		}
		if err := r.check(ctx, ifNeeded); err != nil {
			return nil, err
		}
	}
	// A pool that grows makes connections all the time; each look-up was after the answer that it is about.
	return r.epoch.Load(), nil
}

// how an epoch is looked up.
const (
	ifNeeded = iota // not when somebody else did since this call began
	always
	anew // begins another in any case, which puts all that is stored out of sight of all nodes
)

// check looks up the epoch.
func (r *remote) check(ctx context.Context, how int) error {
	before := r.dials.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if how == ifNeeded && r.epoch.Load() != nil && r.checked.Load() >= before {
		return nil
	}
	dials := r.dials.Load()
	id, err := r.identity(ctx)
	if err == nil {
		err = r.enter(ctx, id, how == anew)
	}
	r.note(ctx, err)
	if err != nil {
		return err
	}
	r.checked.Store(dials)
	return nil
}

func (r *remote) enter(ctx context.Context, id string, begin bool) error {
	var name [6]byte
	_, _ = rand.Read(name[:]) // it never fails
	force := "0"
	if begin {
		force = "1"
	}
	began := time.Now()
	key := r.c.Key("cache:{" + r.name + "}:epoch:" + id)
	answer, err := epochScript.Run(ctx, r.c, []string{key}, hex.EncodeToString(name[:]), force).Slice()
	if err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	got, _ := answer[0].(string)
	age, _ := answer[1].(int64)
	if old := r.epoch.Load(); old != nil && old.name == got {
		return nil
	}
	if r.epoch.Swap(&epoch{name: got, key: key, prefix: r.c.Key("cache:" + r.name + ":" + got + ":{"), began: began.Add(-time.Duration(age) * time.Millisecond)}) != nil {
		r.changed()
	}
	return nil
}

// identity names the process, or processes, that keep our keys: a server that restarts or is replaced has another.
func (r *remote) identity(ctx context.Context) (string, error) {
	u, ok := r.c.UniversalClient().(*goredis.ClusterClient)
	if !ok {
		return runID(ctx, r.c.UniversalClient())
	}
	u.ReloadState(ctx)
	var mu sync.Mutex // guards ids
	var ids []string
	err := u.ForEachMaster(ctx, func(ctx context.Context, node *goredis.Client) error {
		id, err := runID(ctx, node)
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
		return err
	})
	slices.Sort(ids)
	return short(strings.Repeat(" ", 200) + strings.Join(ids, " ")), err
}

func runID(ctx context.Context, c goredis.Cmdable) (string, error) {
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return "", fmt.Errorf("info: %w", err)
	}
	_, rest, ok := strings.Cut(info, "run_id:")
	if !ok {
		return "", levee.E(levee.CodeUnavailable, "Redis does not say which process it is")
	}
	id, _, _ := strings.Cut(rest, "\r\n")
	return id, nil
}

// note counts failures in a row, and leaves Redis alone after a few.
func (r *remote) note(ctx context.Context, err error) {
	switch {
	case err == nil || errors.Is(err, goredis.Nil):
		r.fails.Store(0)
	case ctx.Err() != nil: // the caller gave up, which says nothing of Redis
	default:
		if r.fails.Add(1) >= failsMost {
			r.away.Store(true)
		}
	}
}

// keys returns a key's value key and its lease, in one slot of a cluster, for which the braces are.
func (r *remote) keys(e *epoch, key string) []string {
	value := e.prefix + short(key) + "}"
	return []string{value, value + ":lease"}
}

// get reads one value. A missing one is the zero stored. It is do without its closure: this is what is done most.
func (r *remote) get(ctx context.Context, key string) (s stored, e *epoch, err error) {
	if r.away.Load() {
		return s, nil, clone(errAway)
	}
	key = short(key) + "}"
	for range 4 {
		if e, err = r.settled(ctx); err != nil {
			return s, nil, err
		}
		text, err := r.read(ctx, e.prefix+key)
		if r.note(ctx, err); err != nil && !errors.Is(err, goredis.Nil) {
			return s, nil, err
		}
		if now, err := r.settled(ctx); err != nil {
			return s, nil, err
		} else if now == e {
			return parseStored(text), e, nil
		}
	}
	return s, nil, levee.E(levee.CodeUnavailable, "Redis is changing over").After(time.Second)
}

// fewReaders is up to how many reads at a time each has a connection to itself. Sharing pipelines is several times as fast for many callers,
// and slower for a few.
const fewReaders = 4

func (r *remote) read(ctx context.Context, key string) (string, error) {
	defer r.readers.Add(-1)
	if r.readers.Add(1) <= fewReaders {
		return r.c.UniversalClient().Get(ctx, key).Result()
	}
	return r.c.Fast().Get(ctx, key).Result()
}

// getMany reads many values with one round trip to each server. at are the servers' times in ms.
func (r *remote) getMany(ctx context.Context, keys []string) (list []stored, at []int64, e *epoch, err error) {
	err = r.do(ctx, func(now *epoch) error {
		e, list, at = now, make([]stored, len(keys)), make([]int64, len(keys))
		if r.c.Cluster() { // whose servers each have a clock
			answers, err := r.each(ctx, peekEach, peekText, len(keys), func(i int) ([]string, []any) { return r.keys(now, keys[i])[:1], nil })
			for i, a := range answers {
				if got, _ := a.([]any); len(got) == 2 {
					text, _ := got[0].(string)
					at[i], _ = got[1].(int64)
					list[i] = parseStored(text)
				}
			}
			return err
		}
		cmds := make([]*goredis.StringCmd, len(keys))
		p := r.c.UniversalClient().Pipeline()
		clock := p.Time(ctx)
		for i, k := range keys {
			cmds[i] = p.Get(ctx, r.keys(now, k)[0])
		}
		if _, err := p.Exec(ctx); err != nil && !errors.Is(err, goredis.Nil) {
			return err
		}
		for i, c := range cmds {
			text, err := c.Result()
			if err != nil && !errors.Is(err, goredis.Nil) {
				return err
			}
			list[i], at[i] = parseStored(text), clock.Val().UnixMilli()
		}
		return nil
	})
	return list, at, e, err
}

// each runs a script once for each of many keys, in pipelines that the client sends to the servers of their slots. The text is sent only to those
// that do not know it. The first error ends it.
func (r *remote) each(ctx context.Context, script *goredis.Script, text string, n int, args func(i int) (keys []string, args []any)) ([]any, error) {
	answers, cmds := make([]any, n), make([]*goredis.Cmd, n)
	for begin := 0; begin < n; begin += pipeMost {
		end := min(begin+pipeMost, n)
		p := r.c.UniversalClient().Pipeline()
		for i := begin; i < end; i++ {
			keys, with := args(i)
			cmds[i] = p.EvalSha(ctx, script.Hash(), keys, with...)
		}
		_, _ = p.Exec(ctx) // each command has its error
		again := r.c.UniversalClient().Pipeline()
		var unknown []int
		for i := begin; i < end; i++ {
			if goredis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
				keys, with := args(i)
				unknown = append(unknown, i)
				cmds[i] = again.Eval(ctx, text, keys, with...)
			}
		}
		if len(unknown) > 0 {
			_, _ = again.Exec(ctx)
		}
		for i := begin; i < end; i++ {
			if err := cmds[i].Err(); err != nil {
				return answers, err
			}
			answers[i] = cmds[i].Val()
		}
	}
	return answers, nil
}

// pipeMost is how many scripts go in one pipeline.
const pipeMost = 500

// lease reads a value and, when there is none or with renew, asks to be the one who loads it. begin is the server's time in ms.
func (r *remote) lease(ctx context.Context, key, owner string, length time.Duration, renew bool) (s stored, granted bool, begin int64, e *epoch, err error) {
	ask := "0"
	if renew {
		ask = "1"
	}
	err = r.do(ctx, func(now *epoch) error {
		e = now
		answer, err := leaseScript.RunFast(ctx, r.c, r.keys(now, key), owner, length.Milliseconds(), ask).Slice()
		if err != nil {
			return err
		}
		text, _ := answer[0].(string)
		got, _ := answer[1].(int64)
		begin, _ = answer[2].(int64)
		s, granted = parseStored(text), got == 1
		return nil
	})
	return s, granted, begin, e, err
}

// leaseMany asks to be the one who loads each of many keys anew.
func (r *remote) leaseMany(ctx context.Context, keys []string, owner string, length time.Duration) (list []stored, at []int64, granted []bool, e *epoch, err error) {
	err = r.do(ctx, func(now *epoch) error {
		e, list, at, granted = now, make([]stored, len(keys)), make([]int64, len(keys)), make([]bool, len(keys))
		answers, err := r.each(ctx, leaseEach, leaseText, len(keys), func(i int) ([]string, []any) {
			return r.keys(now, keys[i]), []any{owner, length.Milliseconds(), "1"}
		})
		for i, a := range answers {
			if got, _ := a.([]any); len(got) == 3 {
				text, _ := got[0].(string)
				ours, _ := got[1].(int64)
				at[i], _ = got[2].(int64)
				list[i], granted[i] = parseStored(text), ours == 1
			}
		}
		return err
	})
	return list, at, granted, e, err
}

// filling is what a load returned, on its way to Redis.
type filling struct {
	key   string
	text  stored
	life  time.Duration
	begin int64 // the server's time in ms before the load
	owner string
}

func (f *filling) args(oldest time.Duration) []any {
	text := f.text.String()
	return []any{text[:versionDigits], text, f.life.Milliseconds(), f.begin, oldest.Milliseconds(), f.owner}
}

// fill stores what was loaded in the epoch in which its load began, and gives the lease back. It reports whether it was taken.
func (r *remote) fill(ctx context.Context, e *epoch, f *filling, oldest time.Duration) (bool, error) {
	if r.away.Load() {
		return false, clone(errAway)
	}
	n, err := fillScript.Run(ctx, r.c, r.keys(e, f.key), f.args(oldest)...).Int()
	r.note(ctx, err)
	return n == 1, err
}

// fillMany is fill for many, with one round trip to each server for every few hundred.
func (r *remote) fillMany(ctx context.Context, e *epoch, list []*filling, oldest time.Duration) ([]bool, error) {
	taken := make([]bool, len(list))
	if r.away.Load() {
		return taken, clone(errAway)
	}
	answers, err := r.each(ctx, fillEach, fillText, len(list), func(i int) ([]string, []any) {
		return r.keys(e, list[i].key), list[i].args(oldest)
	})
	for i, a := range answers {
		n, _ := a.(int64)
		taken[i] = n == 1
	}
	r.note(ctx, err)
	return taken, err
}

// release gives a lease back whose load brought nothing to store.
func (r *remote) release(ctx context.Context, e *epoch, key, owner string) {
	if r.away.Load() {
		return
	}
	// One that is not given back ends by itself.
	r.note(ctx, releaseScript.Run(context.WithoutCancel(ctx), r.c, r.keys(e, key)[1:], owner).Err())
}

// bury puts tombstones for many keys and tells the nodes; with announce, the filters too. It is done when every one of them is in the
// present epoch. do is r.do or r.try.
func (r *remote) bury(ctx context.Context, list []burial, life time.Duration, announce bool, do func(context.Context, func(*epoch) error) error) error {
	return do(ctx, func(e *epoch) error {
		if announce {
			keys := make([]string, len(list))
			for i, b := range list {
				keys[i] = b.key
			}
			if err := r.noteMade(ctx, e, keys); err != nil {
				return err
			}
		}
		_, err := r.each(ctx, buryEach, buryText, len(list), func(i int) ([]string, []any) {
			b := list[i]
			s := stored{kind: kindTombstone, version: b.version, soft: time.UnixMilli(0), shape: strings.Repeat("0", shapeDigits)}.String()
			return r.keys(e, b.key)[:1], []any{s[:versionDigits], s, life.Milliseconds(), r.channel(), fmt.Sprintf("%d %s", b.version, b.key)}
		})
		return err
	})
}

// burial is one key and the version that it was changed to.
type burial struct {
	key     string
	version int64
}

func (r *remote) channel() string { return r.c.Key("cache:" + r.name + ":buried") }

// announcedMost is how many announcements are kept: a node that has missed more fills its filter anew.
const announcedMost = 20_000

func (r *remote) madeKeys(e *epoch) []string {
	list := r.c.Key("cache:{" + r.name + "}:made:" + e.name)
	return []string{list, list + ":count", e.key}
}

// announce notes keys that are about to be made. It is done when they are noted in the present epoch.
func (r *remote) announce(ctx context.Context, keys []string) error {
	return r.do(ctx, func(e *epoch) error { return r.noteMade(ctx, e, keys) })
}

func (r *remote) noteMade(ctx context.Context, e *epoch, keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), pipeMost)
		args := []any{announcedMost, e.name}
		for _, k := range keys[:n] {
			args = append(args, k)
		}
		if done, err := announceScript.Run(ctx, r.c, r.madeKeys(e), args...).Int(); err != nil || done == 0 {
			return r.strayed(ctx, e, err)
		}
		keys = keys[n:]
	}
	return nil
}

// strayed looks up the epoch when err says nothing, because the server was emptied. Whoever called does so again: the epoch is another.
func (r *remote) strayed(ctx context.Context, e *epoch, err error) error {
	if err == nil {
		err = r.check(ctx, always)
	}
	if err == nil && r.epoch.Load() == e {
		err = levee.E(levee.CodeUnavailable, "Redis is changing over").After(time.Second)
	}
	return err
}

// announced is what was announced since.
type announced struct {
	epoch string
	total int64
	keys  []string
	hole  bool // and not all of it is known any more
}

func (r *remote) announcedSince(ctx context.Context, epochName string, seen int64) (got announced, err error) {
	err = r.do(ctx, func(e *epoch) error {
		got = announced{epoch: e.name}
		known := seen
		if e.name != epochName {
			known = -1
		}
		answer, err := announcedScript.RunFast(ctx, r.c, r.madeKeys(e), known, e.name).Slice()
		if err != nil {
			return err
		}
		total, _ := answer[0].(string)
		if total == "" {
			return r.strayed(ctx, e, nil)
		}
		if got.total, err = strconv.ParseInt(total, 10, 64); err != nil {
			return err
		}
		list, ok := answer[1].([]any)
		got.hole = !ok
		for _, k := range list {
			text, _ := k.(string)
			got.keys = append(got.keys, text)
		}
		return nil
	})
	return got, err
}
