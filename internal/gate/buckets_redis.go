package gate

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// look asks every bucket for its state.
func (k *buckets) look(ctx context.Context, list []*bucket) []state {
	states := make([]state, len(list))
	_ = each(list, func(i int, b *bucket) error {
		fields, err := k.c.UniversalClient().HGetAll(ctx, b.keys[headKey]).Result()
		if err == nil && len(fields) > 0 {
			states[i], err = parseState(fields)
		}
		if err != nil {
			states[i].err = away(err)
		}
		return nil
	})
	return states
}

func parseState(fields map[string]string) (s state, err error) {
	s.warm, s.generation = true, fields["generation"]
	for field, text := range fields {
		var to *int64
		var epoch int64
		switch {
		case field == "remaining":
			to = &s.remaining
		case field == "epoch":
			to = &epoch
		case strings.HasPrefix(field, "in"):
			to = placeOf(&s.in, field[2:])
		case strings.HasPrefix(field, "out"):
			to = placeOf(&s.out, field[3:])
		default:
			continue
		}
		if to == nil {
			return s, errAnswer
		}
		if *to, err = strconv.ParseInt(text, 10, 64); err != nil {
			return s, errAnswer
		}
		s.epoch += uint64(epoch)
	}
	return s, nil
}

func placeOf(sums *[BucketsMax]int64, place string) *int64 {
	if n, err := strconv.Atoi(place); err == nil && n >= 0 && n < len(sums) {
		return &sums[n]
	}
	return nil
}

// move runs move.lua: its sum, and what is free after it. errOther where the bucket is of another load.
func (b *bucket) move(ctx context.Context, generation string, other int, step string, number int64) (sum, remaining int64, err error) {
	text, err := b.scripts.move.Run(ctx, b.c, b.keys[:buyersKey], generation, other, step, number).Text()
	switch {
	case err != nil:
		return 0, 0, away(err)
	case text == "cold":
		return 0, 0, errCold
	case text == "other":
		return 0, 0, errOther
	}
	first, second, _ := strings.Cut(text, " ")
	sum, err = strconv.ParseInt(first, 10, 64)
	remaining, err2 := strconv.ParseInt(second, 10, 64)
	if err = errors.Join(err, err2); err != nil {
		return 0, 0, away(errAnswer)
	}
	return sum, remaining, nil
}

// shape reads how many buckets the gate has by its last load. A gate that was never loaded has one.
func (k *buckets) shape(ctx context.Context) (int, error) {
	text, err := k.c.UniversalClient().Get(ctx, k.base+"shape").Result()
	if errors.Is(err, goredis.Nil) {
		return 1, nil
	}
	if err != nil {
		return 0, away(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > BucketsMax {
		return 0, away(errAnswer)
	}
	return n, nil
}

// load loads all buckets. One lock is for the gate, and each bucket has its own, by which its scripts know who may write.
func (k *buckets) load(ctx context.Context, st State) error {
	gate := newShared(k.gate, k.c, k.scripts, k.base, k.node, &k.limit).loading(newToken())
	if err := gate.begin(ctx); err != nil {
		return err
	}
	shape, err := k.shape(ctx)
	if err == nil && shape != k.want {
		err = k.reshape(ctx, gate, shape)
	}
	list := k.all()
	if err == nil && len(list) != k.want {
		list = k.become(k.want)
	}
	holdings := merged(st.Holdings)
	switch {
	case err != nil:
	case len(list) == 1: // its lock is the gate's
		if err = gate.fill(ctx, holdings); err == nil {
			err = gate.end(ctx, len(holdings), st)
		}
	default:
		err = k.loadAll(ctx, gate, list, holdings, st)
	}
	if err == nil {
		k.limit.Store(st.PerBuyer)
	}
	return err
}

// reshape ends the gate of another number of buckets, before any unit is in the new one: two that live would sell all units twice.
func (k *buckets) reshape(ctx context.Context, gate *loading, shape int) error {
	if shape > 1 {
		for place := range shape {
			old := newShared(k.gate, k.c, k.scripts, k.c.Key("{"+tagOf(k.sale, shape, place)+"}:"), k.node, &k.limit)
			if err := k.c.Patient().Unlink(ctx, append(old.keys, old.base+"loading")...).Err(); err != nil {
				return away(err)
			}
		}
	}
	return gate.step(ctx, append([]string{k.base + "shape"}, gate.keys...), "shape", k.want)
}

// loadAll fills all tables and then puts them into place: the first bucket last, for it gets all units, and the others get theirs from it.
// Until then they have none, so no unit is in two places however a load is cut; and as long as not all are of one load, none is "sold out".
func (k *buckets) loadAll(ctx context.Context, gate *loading, list []*bucket, holdings []Holding, st State) (err error) {
	parts := make([][]Holding, len(list))
	for _, h := range holdings {
		i := bucketOf(h.Buyer, len(list))
		parts[i] = append(parts[i], h)
	}
	loads := make([]*loading, len(list))
	for i, b := range list {
		loads[i] = b.loading(gate.token)
		loads[i].above = gate.lock
	}
	defer func() {
		// A failed one does not keep the next one waiting; what was filled lives no longer than the lock would have.
		if release(ctx, gate); err != nil {
			for _, l := range loads {
				release(ctx, l)
			}
		}
	}()
	err = each(list, func(i int, _ *bucket) error {
		if err := loads[i].begin(ctx); err != nil {
			return err
		}
		return loads[i].fill(ctx, parts[i])
	})
	if err != nil {
		return err
	}
	if got, err := k.c.Patient().Get(ctx, gate.lock).Result(); err != nil || got != gate.token {
		return away(errors.Join(err, errors.New("the gate's lock was lost while it was being loaded")))
	}
	nothing := State{Seq: st.Seq, PerBuyer: st.PerBuyer}
	err = each(list[1:], func(i int, _ *bucket) error { return loads[i+1].end(ctx, len(parts[i+1]), nothing) })
	if err != nil {
		return err
	}
	// They are short now of what is taken and not settled. That is theirs, and of the rest a fair part.
	states := k.look(ctx, list)
	rest := st.Remaining
	for _, s := range states[1:] {
		if s.err != nil {
			return s.err
		}
		rest += min(s.remaining, 0)
	}
	if n, err := list[0].numbers(ctx); err == nil && n.Warm {
		rest -= n.Unsettled
	}
	var sent []any
	for i, s := range states[1:] {
		if units := max(rest, 0)/int64(len(list)) + max(-s.remaining, 0); units > 0 {
			sent = append(sent, i+1, units)
		}
	}
	if err := loads[0].end(ctx, len(parts[0]), st, sent...); err != nil {
		return err
	}
	_, err = k.level(ctx, list)
	return err
}

// release lets a load's lock go if it is still held.
func release(ctx context.Context, l *loading) {
	if got, err := l.c.Patient().Get(ctx, l.lock).Result(); err == nil && got == l.token {
		_ = l.c.Patient().Del(ctx, l.lock).Err()
	}
}

func (k *buckets) forget(ctx context.Context, after time.Duration) error {
	return each(k.all(), func(i int, b *bucket) error {
		_, err := k.c.UniversalClient().TxPipelined(ctx, func(p goredis.Pipeliner) error {
			for _, key := range b.keys {
				p.PExpire(ctx, key, after)
			}
			return nil
		})
		if err == nil && i == 0 && len(k.all()) > 1 {
			err = k.c.UniversalClient().PExpire(ctx, k.base+"shape", after).Err()
		}
		if err != nil {
			return away(err)
		}
		return nil
	})
}
