package count

import (
	"context"
	_ "embed"
	"errors"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/redis"
)

var (
	//go:embed take.lua
	takeText string
	//go:embed clean.lua
	cleanText string
	//go:embed cleanboard.lua
	cleanBoardText string
	//go:embed loadboard.lua
	loadBoardText string
	//go:embed rebuild.lua
	rebuildText string

	takeScript, cleanScript, cleanBoardScript = redis.NewScript(takeText), redis.NewScript(cleanText), redis.NewScript(cleanBoardText)
	loadBoardScript, rebuildScript            = redis.NewScript(loadBoardText), redis.NewScript(rebuildText)
)

const (
	writeLease   = 5 * time.Second // of a lane, for who writes it: others spare themselves the work
	rebuildLease = time.Minute     // of a board that is counted anew; its walk renews it
	takeMost     = 500             // names of a lane in one round
	roundsMost   = 40
)

// flush writes this node's own book and what Redis has.
func (r *remote) flush(ctx context.Context) error {
	err := r.book.write(ctx)
	if !r.client.Healthy() {
		return errors.Join(err, levee.E(levee.CodeUnavailable, "what Redis holds cannot be written: it is away"))
	}
	// What waited for Redis goes there first.
	for at := range r.lanes {
		l := &r.lanes[at]
		l.mu.Lock()
		due := !l.busy && (l.next != nil || l.doubt != nil)
		if due {
			l.busy = true
		}
		l.mu.Unlock()
		for due {
			due = r.round(at)
		}
	}
	r.mu.Lock()
	later := make([]key, 0, len(r.tell))
	for k := range r.tell {
		if later = append(later, k); len(later) == 10_000 {
			break
		}
	}
	r.mu.Unlock()
	if len(later) > 0 {
		r.moved(ctx, later)
	}
	for range roundsMost {
		n, e := r.writeRound(ctx)
		if e != nil {
			return errors.Join(err, e)
		}
		if n == 0 {
			break
		}
	}
	return err
}

// taken is what a round writes of a lane.
type taken struct {
	lane     int
	turn     int64
	counters []key
	boards   []key
	fronts   []front // of counters
	places   []place
	scores   []string // of places, as Redis says them
	written  bool
}

// writeRound writes some of all lanes that have something, and returns how many names those were.
func (r *remote) writeRound(ctx context.Context) (n int, err error) {
	var lanes []*taken
	for at, cmd := range r.pipe(ctx, takeScript, laneCount, func(at int) ([]string, []any) {
		return []string{r.dirty(at), r.laneKey(at, "write")}, []any{r.node, writeLease.Milliseconds(), takeMost}
	}) {
		names, err := cmd.StringSlice()
		if err != nil {
			return 0, err
		}
		if len(names) == 0 {
			continue
		}
		t := &taken{lane: at}
		for _, name := range names {
			if board, k, ok := splitName(name); ok && board {
				t.boards = append(t.boards, k)
			} else if ok {
				t.counters = append(t.counters, k)
			}
		}
		lanes, n = append(lanes, t), n+len(names)
	}
	if n == 0 {
		return 0, nil
	}
	defer func() {
		r.pipe(context.WithoutCancel(ctx), leaveScript, len(lanes), func(i int) ([]string, []any) {
			return []string{r.laneKey(lanes[i].lane, "write")}, []any{r.node}
		})
	}()
	// The turns before what Redis has: what was read before another's writing must not be written after it.
	turns, err := r.store.turns(ctx)
	if err != nil {
		return 0, err
	}
	for _, t := range lanes {
		t.turn = turns[t.lane]
		if err := r.readTaken(ctx, t); err != nil {
			return 0, err
		}
	}
	for rest := lanes; len(rest) > 0; {
		part, size := 0, 0
		for part < len(rest) && size < batchMost {
			size += len(rest[part].counters) + len(rest[part].places)
			part++
		}
		if err := r.writeTaken(ctx, rest[:part]); err != nil {
			return 0, err
		}
		rest = rest[part:]
	}
	return n, nil
}

// readTaken reads what Redis has of the names taken.
func (r *remote) readTaken(ctx context.Context, t *taken) error {
	p := r.client.UniversalClient().Pipeline()
	cmds := make([]*goredis.SliceCmd, len(t.counters))
	for i, k := range t.counters {
		cmds[i] = p.HMGet(ctx, r.at("v", k), "b", "c", "e", "v", "i")
	}
	members := make([]*goredis.StringSliceCmd, len(t.boards))
	for i, k := range t.boards {
		members[i] = p.SRandMemberN(ctx, r.at("d", k), takeMost)
	}
	_, _ = p.Exec(ctx) // errors are in the commands
	t.fronts = make([]front, len(cmds))
	for i, c := range cmds {
		vs, err := c.Result()
		if err != nil {
			return err
		}
		f := &t.fronts[i]
		f.c, _ = integer(vs[1])
		f.e, _ = integer(vs[2])
		f.i, _ = integer(vs[4])
	}
	var scores []*goredis.FloatCmd
	p = r.client.UniversalClient().Pipeline()
	for i, c := range members {
		ms, err := c.Result()
		if err != nil {
			return err
		}
		for _, m := range ms {
			t.places = append(t.places, place{key: t.boards[i], member: m})
			scores = append(scores, p.ZScore(ctx, r.at("z", t.boards[i]), m))
		}
	}
	if len(scores) == 0 {
		return nil
	}
	_, _ = p.Exec(ctx)
	t.scores = make([]string, len(scores))
	for i, c := range scores {
		s, err := c.Result()
		switch {
		case errors.Is(err, goredis.Nil):
			t.places[i].gone = true
		case err != nil:
			return err
		default:
			t.places[i].score, t.scores[i] = int64(s), strconv.FormatFloat(s, 'f', 0, 64)
		}
	}
	return nil
}

// writeTaken writes lanes to SQL and tells Redis.
func (r *remote) writeTaken(ctx context.Context, lanes []*taken) error {
	var after map[key]row
	if err := r.store.tx(ctx, "count.write", func(ctx context.Context, tx *db.Tx) error {
		var cs []counted
		var ps []place
		for _, t := range lanes { // by rising number: one order of locks
			var err error
			if t.written, err = r.store.takeTurnTx(ctx, tx, t.lane, t.turn); err != nil {
				return err
			}
			if !t.written {
				continue
			}
			for i, k := range t.counters {
				if t.fronts[i].e != 0 { // else it is gone
					cs = append(cs, counted{k, t.fronts[i].e, t.fronts[i].c})
				}
			}
			ps = append(ps, t.places...)
		}
		if err := r.store.countTx(ctx, tx, cs); err != nil {
			return err
		}
		var err error
		if after, err = r.store.readTx(ctx, tx, cs); err != nil {
			return err
		}
		return r.store.placeTx(ctx, tx, ps)
	}); err != nil {
		return err
	}
	for _, t := range lanes {
		if !t.written {
			continue // another node wrote it
		}
		r.metrics.written.Add(float64(len(t.counters) + len(t.places)))
		for _, c := range r.pipe(ctx, cleanScript, len(t.counters), func(i int) ([]string, []any) {
			k, f := t.counters[i], t.fronts[i]
			return []string{r.at("v", k), r.dirty(t.lane)}, []any{dirtyName(false, k), f.e, f.c, f.i, after[k].n - f.c, r.fresh()}
		}) {
			if err := c.Err(); err != nil {
				return err // what is not told is written again, which changes nothing
			}
		}
		if err := r.cleanBoards(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (r *remote) cleanBoards(ctx context.Context, t *taken) error {
	for _, k := range t.boards {
		args := []any{dirtyName(true, k), r.fresh()}
		for i, p := range t.places {
			if p.key == k {
				args = append(args, p.member, t.scores[i])
			}
		}
		if err := cleanBoardScript.Run(ctx, r.client, []string{r.at("z", k), r.at("d", k), r.at("m", k), r.dirty(t.lane)}, args...).Err(); err != nil {
			return err
		}
	}
	return nil
}

// loadBoard sees to it that Redis has a board; one loads it for all.
func (r *remote) loadBoard(ctx context.Context, k key, most int) error {
	token := strconv.FormatInt(number(), 36)
	u := r.client.UniversalClient()
	lease, temp := r.at("l", k), r.at("t", k)+":"+token
	for end := time.Now().Add(loadLease + time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		ok, err := u.SetNX(ctx, lease, token, loadLease).Result()
		if err != nil {
			return err
		}
		if !ok {
			if n, err := u.Exists(ctx, r.at("m", k)).Result(); err != nil || n == 1 {
				return err
			}
			continue
		}
		es, err := r.store.board(ctx, k, 0, most)
		if err != nil {
			return err
		}
		r.metrics.loads.Add(float64(len(es)))
		if err := r.fill(ctx, temp, es); err != nil {
			return err
		}
		done, err := loadBoardScript.Run(ctx, r.client, []string{r.at("z", k), r.at("m", k), lease, temp}, token, r.fresh()).Int()
		if err != nil || done == 1 {
			return err
		}
	}
	return levee.E(levee.CodeUnavailable, "the board cannot be loaded").After(time.Second)
}

// fill makes a set under a name that nobody reads and that goes by itself.
func (r *remote) fill(ctx context.Context, temp string, es []Entry) error {
	for from := 0; from < len(es); from += 500 {
		p := r.client.UniversalClient().Pipeline()
		var zs []goredis.Z
		for _, e := range es[from:min(from+500, len(es))] {
			zs = append(zs, goredis.Z{Score: float64(e.Score), Member: e.Member})
		}
		p.ZAdd(ctx, temp, zs...)
		p.Expire(ctx, temp, time.Minute)
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *remote) top(ctx context.Context, b *Board, name string, offset, n int) (es []Entry, err error) {
	k := key{b.kind, name}
	for range 3 {
		p := r.client.UniversalClient().Pipeline()
		mark := p.Exists(ctx, r.at("m", k))
		list := p.ZRevRangeWithScores(ctx, r.at("z", k), int64(offset), int64(offset+n-1))
		_, err = p.Exec(ctx)
		if err == nil && mark.Val() == 1 {
			for _, z := range list.Val() {
				es = append(es, Entry{z.Member.(string), int64(z.Score)})
			}
			return es, nil
		}
		if err == nil {
			err = r.loadBoard(ctx, k, b.most)
		}
		if away(err) {
			return r.store.board(ctx, k, offset, min(n, b.most-offset))
		}
		if err != nil {
			return nil, err
		}
	}
	return r.store.board(ctx, k, offset, min(n, b.most-offset))
}

func (r *remote) rank(ctx context.Context, b *Board, name, member string) (rank int, score int64, ok bool, err error) {
	k := key{b.kind, name}
	for range 3 {
		p := r.client.UniversalClient().Pipeline()
		mark := p.Exists(ctx, r.at("m", k))
		at, with := p.ZRevRank(ctx, r.at("z", k), member), p.ZScore(ctx, r.at("z", k), member)
		_, err = p.Exec(ctx)
		if (err == nil || errors.Is(err, goredis.Nil)) && mark.Val() == 1 {
			if at.Err() != nil || with.Err() != nil {
				return 0, 0, false, nil
			}
			return int(at.Val()), int64(with.Val()), true, nil
		}
		if err == nil || errors.Is(err, goredis.Nil) {
			err = r.loadBoard(ctx, k, b.most)
		}
		if away(err) {
			break
		}
		if err != nil {
			return 0, 0, false, err
		}
	}
	es, err := r.store.board(ctx, k, 0, b.most)
	for i, e := range es {
		if e.Member == member {
			return i, e.Score, true, err
		}
	}
	return 0, 0, false, err
}

func (r *remote) rebuild(ctx context.Context, b *Board, name string, walk Walk) (d Drift, err error) {
	k := key{b.kind, name}
	token := strconv.FormatInt(number(), 36)
	since, temp := r.at("r", k), r.at("n", k)+":"+token
	if err := r.loadBoard(ctx, k, b.most); err != nil {
		return d, err
	}
	began, err := beginRebuild.Run(ctx, r.client, []string{since}, token, rebuildLease.Milliseconds()).Int()
	if err != nil {
		return d, err
	}
	if began == 0 {
		return d, levee.E(levee.CodeConflict, "the board is being rebuilt already")
	}
	defer func() {
		if err != nil {
			_ = endRebuild.Run(context.WithoutCancel(ctx), r.client, []string{since, temp}, token).Err()
		}
	}()
	renewed := time.Now()
	truth := map[string]int64{}
	put := putInto(truth, b.most)
	if err := walk(ctx, func(member string, score int64) error {
		if time.Since(renewed) > rebuildLease/5 {
			renewed = time.Now()
			if kept, err := renewRebuild.Run(ctx, r.client, []string{since}, token, rebuildLease.Milliseconds()).Int(); err != nil || kept == 0 {
				return errors.Join(err, levee.E(levee.CodeConflict, "another rebuild of the board has begun; this one ends"))
			}
		}
		return put(member, score)
	}); err != nil {
		return d, err
	}
	es := highest(truth, b.most)
	if err := r.fill(ctx, temp, es); err != nil {
		return d, err
	}
	lane := laneOf(k)
	found, err := rebuildScript.RunOn(ctx, r.client.Patient(), []string{r.at("z", k), r.at("d", k), r.at("m", k), r.dirty(lane), since, temp},
		token, dirtyName(true, k), b.most, r.fresh()).Int64Slice()
	if err != nil {
		return d, err
	}
	if len(found) != 3 {
		return d, levee.E(levee.CodeConflict, "the rebuild took longer than its lease, and another may have begun")
	}
	return Drift{Keys: int(found[0]), Differ: int(found[1]), Sum: found[2]}, nil
}

var (
	leaveScript = redis.NewScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1`)
	beginRebuild = redis.NewScript(`if redis.call('HSETNX', KEYS[1], 't', ARGV[1]) == 0 then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)
	endRebuild = redis.NewScript(`redis.call('DEL', KEYS[2])
if redis.call('HGET', KEYS[1], 't') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1`)
	renewRebuild = redis.NewScript(`if redis.call('HGET', KEYS[1], 't') == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0`)
)
