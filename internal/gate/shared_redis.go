package gate

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/redis"
)

//go:embed take.lua
var takeText string

//go:embed follow.lua
var followText string

//go:embed load.lua
var loadText string

//go:embed move.lua
var moveText string

// scripts are what runs in Redis.
type scripts struct{ take, follow, load, move *redis.Script }

var ofTheHouse = scripts{redis.NewScript(takeText), redis.NewScript(followText), redis.NewScript(loadText), redis.NewScript(moveText)}

// runTake runs the script; its answer is the epoch and a verdict for each.
func (s *shared) runTake(batch []*asked, room int) (epoch uint64, verdicts []Verdict, err error) {
	args := make([]any, 0, 3+5*len(batch))
	args = append(args, s.node, room, int(s.limit.Load()))
	// One string for all arguments: pieces of it cost nothing.
	buf := make([]byte, 0, 48*len(batch))
	ends := make([]int, 0, 4*len(batch))
	for _, r := range batch {
		buf = strconv.AppendInt(buf, int64(r.ID), 36)
		ends = append(ends, len(buf))
		buf = strconv.AppendInt(buf, int64(r.Buyer), 36)
		ends = append(ends, len(buf))
		buf = strconv.AppendInt(buf, int64(r.Quantity), 10)
		ends = append(ends, len(buf))
		buf = strconv.AppendInt(buf, r.Key, 36)
		ends = append(ends, len(buf))
	}
	all, at := string(buf), 0
	for i, r := range batch {
		for _, end := range ends[4*i : 4*i+4] {
			args = append(args, all[at:end])
			at = end
		}
		checked := "0"
		if r.Checked {
			checked = "1"
		}
		args = append(args, checked)
	}
	text, err := s.scripts.take.Run(context.Background(), s.c, s.keys[:earlyKey], args...).Text()
	if err != nil {
		return 0, nil, err
	}
	verdicts = make([]Verdict, len(batch))
	if text == "cold" {
		for i := range verdicts {
			verdicts[i] = Cold
		}
		return 0, verdicts, nil
	}
	number, digits, _ := strings.Cut(text, " ")
	epoch, err = strconv.ParseUint(number, 10, 64)
	if err != nil || len(digits) != len(batch) {
		return 0, nil, errAnswer
	}
	for i := range verdicts {
		verdicts[i] = Verdict(digits[i] - '0')
		if verdicts[i] > Full {
			return 0, nil, errAnswer
		}
	}
	return epoch, verdicts, nil
}

// tell runs follow.lua.
func (s *shared) tell(movements []Movement, lost []gone, won []Win) error {
	_, err := s.told(movements, lost, won)
	return err
}

func (s *shared) told(movements []Movement, lost []gone, won []Win) (freed int64, err error) {
	args := []any{len(movements)}
	for i := range movements {
		m := &movements[i]
		args = append(args, m.Seq, m.Free, len(m.Won), len(m.Holdings))
		for _, w := range m.Won {
			args = append(args, name(w.ID), name(w.Buyer), int(w.Quantity))
		}
		for _, c := range m.Holdings {
			args = append(args, name(c.Buyer), int(c.Units))
		}
	}
	args = append(args, len(lost))
	for _, l := range lost {
		keep := "0"
		if l.keep {
			keep = "1"
		}
		args = append(args, name(l.id), keep)
	}
	args = append(args, len(won))
	for _, w := range won {
		args = append(args, name(w.ID), name(w.Buyer), int(w.Quantity), w.Seq)
	}
	switch v, err := s.scripts.follow.Run(context.Background(), s.c, s.keys, args...).Result(); {
	case err != nil:
		return 0, away(err)
	case v == "cold":
		return 0, errCold
	case v == "early":
		return 0, errTooEarly
	default:
		n, ok := v.(int64)
		if !ok {
			return 0, away(errAnswer)
		}
		return n, nil
	}
}

// loading is one load of a gate, or of one bucket of it: a table is filled beside the one in use, and put into place in one step.
type loading struct {
	*shared
	token       string
	lock, table string
	above       string // the gate's lock, where this is one of several buckets
}

func (s *shared) loading(token string) *loading {
	return &loading{shared: s, token: token, lock: s.base + "loading", table: s.base + "load:" + token}
}

func newToken() string {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // it never fails
	return hex.EncodeToString(secret[:])
}

func (l *loading) begin(ctx context.Context) error {
	got, err := l.c.Patient().SetNX(ctx, l.lock, l.token, loadLife).Result()
	if err != nil {
		return away(err)
	}
	if !got {
		return levee.E(levee.CodeConflict, "another node is loading the gate").After(time.Second)
	}
	return nil
}

func (l *loading) step(ctx context.Context, keys []string, args ...any) error {
	args = append([]any{l.token, loadLife.Milliseconds()}, args...)
	v, err := l.scripts.load.RunOn(ctx, l.c.Patient(), append([]string{l.lock}, keys...), args...).Text()
	switch {
	case err != nil:
		return away(err)
	case v != "ok":
		return levee.E(levee.CodeConflict, "the gate's lock was lost while it was being loaded").After(time.Second)
	}
	return nil
}

func (l *loading) fill(ctx context.Context, holdings []Holding) error {
	args := make([]any, 0, 1+2*loadWidth)
	for part := range slices.Chunk(holdings, loadWidth) {
		args = append(args[:0], "fill")
		for _, h := range part {
			args = append(args, name(h.Buyer), int(h.Quantity))
		}
		if err := l.step(ctx, []string{l.table}, args...); err != nil {
			return err
		}
		if l.above != "" {
			if err := l.c.Patient().PExpire(ctx, l.above, loadLife).Err(); err != nil {
				return away(err)
			}
		}
	}
	return nil
}

// end puts the table of so many buyers into place. Some of what remains may be on its way to other buckets: the place and units of each.
func (l *loading) end(ctx context.Context, buyers int, st State, sent ...any) error {
	args := append([]any{"switch", buyers, st.Seq, st.Remaining, int(st.PerBuyer)}, sent...)
	return l.step(ctx, append([]string{l.table}, l.keys...), args...)
}

// merged adds up the holdings of each buyer.
func merged(list []Holding) []Holding {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Holding) int {
		switch {
		case a.Buyer < b.Buyer:
			return -1
		case a.Buyer > b.Buyer:
			return 1
		}
		return 0
	})
	n := 0
	for _, h := range list {
		if n > 0 && list[n-1].Buyer == h.Buyer {
			list[n-1].Quantity += h.Quantity
			continue
		}
		list[n] = h
		n++
	}
	return list[:n]
}

// part is what one bucket says of itself at one moment.
type part struct {
	Numbers
	generation string // of its load
	moved      int64  // units that it sent to other buckets, without those that it got
}

func (s *shared) numbers(ctx context.Context) (n part, err error) {
	var head *goredis.MapStringStringCmd
	var buyers *goredis.IntCmd
	var early *goredis.StringSliceCmd
	_, err = s.c.UniversalClient().TxPipelined(ctx, func(p goredis.Pipeliner) error {
		head = p.HGetAll(ctx, s.keys[headKey])
		buyers = p.HLen(ctx, s.keys[buyersKey])
		early = p.ZRange(ctx, s.keys[earlyKey], 0, maxMissing-1)
		return nil
	})
	if err != nil {
		return n, away(err)
	}
	defer s.clear()
	fields := head.Val()
	var values [2]int64
	for i, field := range []string{"unsettled", "applied"} {
		text, ok := fields[field]
		if !ok {
			return part{}, nil
		}
		if values[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return n, away(errAnswer)
		}
	}
	state, err := parseState(fields)
	if err != nil {
		return n, away(err)
	}
	n.Numbers = Numbers{Warm: true, Remaining: state.remaining, Unsettled: values[0], Applied: values[1], Epoch: state.epoch, Buyers: int(buyers.Val())}
	n.generation = state.generation
	for i := range state.out {
		n.moved += state.out[i] - state.in[i]
	}
	next := n.Applied + 1
	for _, text := range early.Val() {
		seq, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return n, away(errAnswer)
		}
		for ; next < seq && len(n.Missing) < maxMissing; next++ {
			n.Missing = append(n.Missing, next)
		}
		next = seq + 1
	}
	return n, nil
}

func (s *shared) sendHelds(batch []*heldAsk) error {
	names := make([]string, len(batch))
	for i, r := range batch {
		names[i] = name(r.buyer)
	}
	values, err := s.c.UniversalClient().HMGet(context.Background(), s.keys[buyersKey], names...).Result()
	if err == nil && len(values) != len(batch) {
		err = errAnswer
	}
	for i, r := range batch {
		if err != nil {
			r.err = away(err)
		} else if text, ok := values[i].(string); ok {
			units, _, _ := strings.Cut(text, " ")
			units = strings.TrimSuffix(units, "!")
			n, bad := strconv.ParseInt(units, 10, 32)
			if r.units, r.known = int32(n), true; bad != nil {
				r.err = away(errAnswer)
			}
		}
		r.done <- struct{}{}
	}
	return err
}

// scan reads one page of the pending takings that are older than lease by the server's clock; a negative lease reads all.
func (s *shared) scan(ctx context.Context, cursor uint64, lease time.Duration) (list []Attempt, next uint64, err error) {
	var now *goredis.TimeCmd
	var page *goredis.ScanCmd
	_, err = s.c.UniversalClient().Pipelined(ctx, func(p goredis.Pipeliner) error {
		page = p.HScan(ctx, s.keys[pendingKey], cursor, "", scanWidth)
		if lease >= 0 {
			now = p.Time(ctx)
		}
		return nil
	})
	if err != nil {
		return nil, 0, away(err)
	}
	fields, next := page.Val()
	for i := 0; i+1 < len(fields); i += 2 {
		a, err := parsePending(fields[i], fields[i+1])
		if err != nil {
			return nil, 0, away(err)
		}
		if lease < 0 || now.Val().Sub(a.At) >= lease {
			list = append(list, a)
		}
	}
	return list, next, nil
}

func parsePending(id, log string) (a Attempt, err error) {
	parts := strings.SplitN(log, " ", 6)
	if len(parts) != 6 {
		return a, errAnswer
	}
	var values [5]int64
	for i, text := range append([]string{id}, parts[:4]...) {
		base := 36
		if i == 2 || i == 4 {
			base = 10
		}
		if values[i], err = strconv.ParseInt(text, base, 64); err != nil {
			return a, errAnswer
		}
	}
	return Attempt{ID: levee.ReservationID(values[0]), Buyer: levee.UserID(values[1]), Quantity: int32(values[2]), Key: values[3],
		At: time.UnixMilli(values[4]), Checked: parts[4] == "1"}, nil
}

func (s *shared) pending(ctx context.Context) ([]Attempt, error) {
	seen := map[levee.ReservationID]Attempt{} // a scan may show the same entry twice
	for cursor := uint64(0); ; {
		list, next, err := s.scan(ctx, cursor, -1)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			seen[a.ID] = a
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	all := make([]Attempt, 0, len(seen))
	for _, a := range seen {
		all = append(all, a)
	}
	return all, nil
}

// overdue goes on where the last call stopped, so that a long log is read over several calls.
func (s *shared) overdue(ctx context.Context, lease time.Duration, most int) (all []Attempt, err error) {
	s.mu.Lock()
	cursor := s.cursor
	s.mu.Unlock()
	seen := map[levee.ReservationID]bool{}
	for range overdueMost {
		list, next, err := s.scan(ctx, cursor, max(lease, 0))
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if len(all) < most && !seen[a.ID] {
				seen[a.ID] = true
				all = append(all, a)
			}
		}
		if cursor = next; cursor == 0 || len(all) == most {
			break
		}
	}
	s.mu.Lock()
	s.cursor = cursor
	s.mu.Unlock()
	return all, nil
}
