package count

import (
	"context"
	_ "embed"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

var (
	//go:embed add.lua
	addText string
	//go:embed load.lua
	loadText string
	//go:embed moved.lua
	movedText string
	//go:embed set.lua
	setText string

	addScript, loadScript, movedScript, setScript = redis.NewScript(addText), redis.NewScript(loadText), redis.NewScript(movedText), redis.NewScript(setText)
)

const (
	// laneCount is how many hash tags the keys are spread over: a lane is one slot, and what is to be written of it is known there. All
	// nodes need the same.
	laneCount = 16
	loadLease = 3 * time.Second // how long others wait for who loads a key
	untold    = 100_000         // keys that are told to Redis later, at most
)

// remote is the driver that keeps totals in Redis, for all nodes. A counter is a hash: c is what was counted in its life e, b what SQL has
// without that; b + c is the total. What has changed is in its lane's set until it is in SQL.
//
// A node sends its changes in numbered batches, one at a time for each lane, and Redis takes each number once: a batch whose answer was lost is sent
// again under its number, before any other. While Redis is away changes of counters go to SQL by the node itself (book), those of boards wait.
type remote struct {
	client  *redis.Client
	store   *store
	book    *book
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	node    string // this process as a sender
	lanes   [laneCount]lane
	tasks   sync.WaitGroup
	// fault, in tests, is called before a batch in doubt is sent again.
	fault func(l *lane, b *sending)

	mu      sync.Mutex
	tell    map[key]struct{}      // guarded by mu: SQL has changed and Redis does not know
	loading map[key]chan struct{} // guarded by mu
	ended   uint64                // guarded by mu: how many loads have ended
}

// OpenShared keeps totals in Redis, for all nodes of a house. A node that is killed loses nothing that it has counted. Redis that is killed and keeps
// nothing loses what was added in the last Config.Every; with appendonly nothing, or what its disk lost. A fail-over loses what the new primary had not
// got. In none of these is anything counted twice, but for a batch whose answer was lost in the instant before Redis lost everything (docs/counts.md).
// While Redis is away a node counts by itself and writes to SQL every Config.Every; killed then, it loses what Open says.
func OpenShared(d *db.DB, cfg Config, client *redis.Client, o *obs.Obs) (_ *Counts, err error) {
	defer levee.Wrap(&err, "count.OpenShared")
	c, err := newCounts(d, cfg, o)
	if err != nil {
		return nil, err
	}
	r := &remote{client: client, store: c.store, cfg: c.cfg, log: c.log, metrics: c.metrics, node: strconv.FormatInt(number(), 36),
		tell: map[key]struct{}{}, loading: map[key]chan struct{}{}}
	r.book = newBook(c.store, c.cfg.Keys, c.metrics)
	r.book.told = r.joinTx
	c.driver, c.boards, c.flush = r, r, r.flush
	return c, nil
}

func laneOf(k key) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(k.kind + "\x00" + k.name))
	return int(h.Sum64() % laneCount)
}

func (r *remote) laneKey(lane int, what string) string {
	return r.client.Key("{count:" + strconv.Itoa(lane) + "}:" + what)
}

func (r *remote) seen(lane int) string  { return r.laneKey(lane, "seen:"+r.node) }
func (r *remote) dirty(lane int) string { return r.laneKey(lane, "dirty") }
func (r *remote) at(what string, k key) string {
	return r.laneKey(laneOf(k), what+":"+k.kind+":"+k.name)
}

func dirtyName(board bool, k key) string {
	if board {
		return "b\x00" + k.kind + "\x00" + k.name
	}
	return "c\x00" + k.kind + "\x00" + k.name
}

// fresh is a lifetime, spread so that keys of one moment do not end in one.
func (r *remote) fresh() int64 {
	return (r.cfg.Fresh - time.Duration(rand.Int64N(int64(r.cfg.Fresh)/10+1))).Milliseconds()
}

func away(err error) bool { return levee.CodeOf(err) == levee.CodeUnavailable }

func (r *remote) add(ctx context.Context, k key, n int64) error {
	return r.send(ctx, target{key: k}, replayed{n: n})
}

func (r *remote) change(ctx context.Context, b *Board, name, member string, n int64, set bool) error {
	return r.send(ctx, target{key{b.kind, name}, member, b.most}, replayed{n, set})
}

func (r *remote) set(ctx context.Context, k key, n int64) error {
	keys := []string{r.at("v", k), r.dirty(laneOf(k))}
	for range 10 {
		done, err := setScript.Run(ctx, r.client, keys, dirtyName(false, k), n, number()).Int()
		if err != nil || done == 1 {
			return err
		}
		if _, err := r.get(ctx, k.kind, []string{k.name}); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return levee.E(levee.CodeUnavailable, "the total cannot be loaded").After(time.Second)
}

// joinTx has whoever reads next ask SQL.
func (r *remote) joinTx(tx *db.Tx, keys []key) {
	tx.AfterCommit(func() { r.moved(context.Background(), keys) })
}

// moved tells Redis that SQL was changed beside it, now or when it is back.
func (r *remote) moved(ctx context.Context, keys []key) {
	cmds := make([]*goredis.Cmd, len(keys))
	var later []key
	if len(keys) == 1 {
		cmds[0] = movedScript.RunFast(ctx, r.client, r.movedKeys(keys[0]), dirtyName(false, keys[0]))
	} else {
		cmds = r.pipe(ctx, movedScript, len(keys), func(i int) ([]string, []any) { return r.movedKeys(keys[i]), []any{dirtyName(false, keys[i])} })
	}
	for i, c := range cmds {
		if c.Err() != nil {
			later = append(later, keys[i])
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		delete(r.tell, k)
	}
	for _, k := range later {
		if len(r.tell) < untold {
			r.tell[k] = struct{}{}
		}
	}
}

func (r *remote) movedKeys(k key) []string {
	return []string{r.at("v", k), r.at("l", k), r.dirty(laneOf(k))}
}

// pipe runs a script many times in one round trip; a server that does not know it is told first.
func (r *remote) pipe(ctx context.Context, s *redis.Script, n int, each func(i int) ([]string, []any)) []*goredis.Cmd {
	cmds := make([]*goredis.Cmd, n)
	var wg sync.WaitGroup
	// The fast client makes pipelines of what comes together.
	const together = 64
	for from := 0; from < n; from += together {
		for i := from; i < min(from+together, n); i++ {
			wg.Go(func() {
				keys, args := each(i)
				cmds[i] = s.RunFast(ctx, r.client, keys, args...)
			})
		}
		wg.Wait()
	}
	return cmds
}

func integer(v any) (int64, bool) {
	s, ok := v.(string)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// front is what Redis has of a counter.
type front struct {
	b, c, e, v, i int64
	known         bool // b is
}

// fronts reads counters in one round trip.
func (r *remote) fronts(ctx context.Context, kind string, names []string) ([]front, error) {
	fields := []string{"b", "c", "e", "v", "i"}
	cmds := make([]*goredis.SliceCmd, len(names))
	if len(names) == 1 {
		cmds[0] = r.client.Fast().HMGet(ctx, r.at("v", key{kind, names[0]}), fields...)
	} else {
		p := r.client.UniversalClient().Pipeline()
		for i, n := range names {
			cmds[i] = p.HMGet(ctx, r.at("v", key{kind, n}), fields...)
		}
		_, _ = p.Exec(ctx) // errors are in the commands
	}
	out := make([]front, len(names))
	for i, c := range cmds {
		vs, err := c.Result()
		if err != nil {
			return nil, err
		}
		f := &out[i]
		f.b, f.known = integer(vs[0])
		f.c, _ = integer(vs[1])
		f.e, _ = integer(vs[2])
		f.v, _ = integer(vs[3])
		f.i, _ = integer(vs[4])
	}
	return out, nil
}

// with is the total of what SQL and Redis have together, when SQL was read first.
func (f front) with(s row) int64 {
	if f.e != 0 && s.epoch == f.e {
		return s.n + f.c - s.applied
	}
	return s.n + f.c
}

func (r *remote) get(ctx context.Context, kind string, names []string) (map[string]int64, error) {
	out := make(map[string]int64, len(names))
	for try := 0; ; try++ {
		r.mu.Lock()
		ended := r.ended
		r.mu.Unlock()
		fs, err := r.fronts(ctx, kind, names)
		if away(err) {
			return r.fromSQL(ctx, kind, out, names)
		}
		if err != nil {
			return nil, err
		}
		var miss []string
		for i, f := range fs {
			if f.known {
				out[names[i]] = f.b + f.c
			} else {
				miss = append(miss, names[i])
			}
		}
		if len(miss) == 0 {
			return out, nil
		}
		if try >= 2 {
			ended = anyEnd
		}
		rest, err := r.load(ctx, kind, miss, out, ended, try >= 3)
		if err != nil || len(rest) == 0 {
			return out, err
		}
		names = rest
	}
}

// fromSQL reads what Redis would know.
func (r *remote) fromSQL(ctx context.Context, kind string, out map[string]int64, names []string) (map[string]int64, error) {
	own := r.book.own(kind, names)
	rows, err := r.store.rows(ctx, kind, names)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		out[n] = rows[n].n + own[n]
	}
	return out, nil
}

// anyEnd lets a load begin whatever has ended since Redis was asked.
const anyEnd = ^uint64(0)

// load reads keys from SQL that nobody else reads now, puts them into Redis, and returns those that others do read, after a moment; and all when
// other loads than ended have ended, as they may have put these there since Redis was asked. With all it reads every key, and does not put there what
// others read.
func (r *remote) load(ctx context.Context, kind string, names []string, out map[string]int64, ended uint64, all bool) (rest []string, err error) {
	var mine []string
	var wait chan struct{}
	done := make(chan struct{})
	r.mu.Lock()
	if ended != anyEnd && r.ended != ended {
		r.mu.Unlock()
		return names, nil
	}
	for _, n := range names {
		k := key{kind, n}
		if ch, ok := r.loading[k]; ok && !all {
			wait, rest = ch, append(rest, n)
			continue
		} else if !ok {
			r.loading[k] = done
		}
		mine = append(mine, n)
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.ended++
		for _, n := range mine {
			if k := (key{kind, n}); r.loading[k] == done {
				delete(r.loading, k)
			}
		}
		r.mu.Unlock()
		close(done)
	}()
	if len(mine) > 0 {
		left, err := r.loadMine(ctx, kind, mine, out, all)
		if err != nil {
			return nil, err
		}
		if len(left) > 0 { // another node's
			rest = append(rest, left...)
			time.Sleep(5 * time.Millisecond)
		}
	}
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return rest, nil
}

func (r *remote) loadMine(ctx context.Context, kind string, names []string, out map[string]int64, all bool) (rest []string, err error) {
	token := strconv.FormatInt(number(), 36)
	p := r.client.UniversalClient().Pipeline()
	granted := make([]*goredis.BoolCmd, len(names))
	for i, n := range names {
		granted[i] = p.SetNX(ctx, r.at("l", key{kind, n}), token, loadLease) //nolint:staticcheck // SET NX by its short name
	}
	_, _ = p.Exec(ctx) // errors are in the commands
	var mine []string
	for i, n := range names {
		ok, err := granted[i].Result()
		if err != nil && !away(err) {
			return nil, err
		}
		if ok || all || err != nil {
			mine = append(mine, n)
		} else {
			rest = append(rest, n)
		}
	}
	if len(mine) == 0 {
		return rest, nil
	}
	rows, err := r.store.rows(ctx, kind, mine)
	if err != nil {
		return nil, err
	}
	r.metrics.loads.Add(float64(len(mine)))
	fs, err := r.fronts(ctx, kind, mine)
	if away(err) {
		_, err = r.fromSQL(ctx, kind, out, mine)
		return rest, err
	}
	if err != nil {
		return nil, err
	}
	for i, n := range mine {
		out[n] = fs[i].with(rows[n])
	}
	for _, cmd := range r.pipe(ctx, loadScript, len(mine), func(i int) ([]string, []any) {
		k, s := key{kind, mine[i]}, rows[mine[i]]
		return r.movedKeys(k), []any{token, s.n, s.epoch, -s.applied, r.fresh(), dirtyName(false, k)}
	}) {
		if err := cmd.Err(); err != nil && !away(err) {
			return nil, err
		}
	}
	return rest, nil
}

// exactWithin is how long SQL and Redis may be read apart: far shorter than a key that was written stays.
const exactWithin = 500 * time.Millisecond

func (r *remote) exact(ctx context.Context, kind string, names []string) (map[string]exact, error) {
	for range 20 {
		began := time.Now()
		rows, err := r.store.rows(ctx, kind, names)
		if err != nil {
			return nil, err
		}
		fs, err := r.fronts(ctx, kind, names)
		if err != nil {
			return nil, err
		}
		if time.Since(began) > exactWithin {
			continue
		}
		own := r.book.own(kind, names)
		out := make(map[string]exact, len(names))
		for i, n := range names {
			s := rows[n]
			out[n] = exact{fs[i].with(s) + own[n], mark{fs[i].e, fs[i].v, s.ver}}
		}
		return out, nil
	}
	return nil, levee.E(levee.CodeUnavailable, "the database and Redis are too slow to be compared")
}

func splitName(dirty string) (board bool, k key, ok bool) {
	parts := strings.SplitN(dirty, "\x00", 3)
	if len(parts) != 3 {
		return false, key{}, false
	}
	return parts[0] == "b", key{parts[1], parts[2]}, true
}
