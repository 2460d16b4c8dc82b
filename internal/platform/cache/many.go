package cache

import (
	"context"
	crand "crypto/rand"
	"slices"
	"time"

	"levee"
)

// Many is what a load of many keys returns for one of them.
type Many[V any] struct {
	Value   V
	Version int64 // at least 1
}

// LoadMany reads the values and versions of keys from SQL, and leaves out those that do not exist. It must not call the cache that
// calls it.
type LoadMany[K comparable, V any] func(ctx context.Context, keys []K) (map[K]Many[V], error)

// getManyMost is how many keys one GetMany may ask for.
const getManyMost = 1000

// GetMany returns the values of up to 1000 keys, read from the second level in one round trip (in a cluster one to each server) and
// from SQL with one call of load, which gets the keys that are wanted, and a second one for those that a replica was behind with. Keys
// that do not exist are left out. It promises what Get promises, Strict included, but does not wait for loads that others have under way. More
// keys are CodeInvalid.
func (s *Shared[K, V]) GetMany(ctx context.Context, keys []K, load LoadMany[K, V]) (map[K]V, error) {
	if len(keys) > getManyMost {
		return nil, levee.Invalid("keys", "up to 1000", len(keys))
	}
	g := &group[K, V]{s: s, out: make(map[K]V, len(keys)), strict: s.remote != nil && isStrict(ctx), age: s.age.Load(), since: map[K]uint64{}, plans: map[K]plan{}}
	missing := g.known(keys)
	if len(missing) > 0 && s.filter != nil {
		missing = s.existing(ctx, missing)
	}
	if len(missing) == 0 {
		return g.out, nil
	}
	missing, err := g.second(ctx, missing, load)
	if err != nil || len(missing) == 0 {
		return g.out, err
	}
	if err := g.load(ctx, missing, load); err != nil {
		return nil, err
	}
	return g.out, nil
}

// existing leaves out what the filter is sure of.
func (s *Shared[K, V]) existing(ctx context.Context, keys []K) []K {
	gone := func(k K) bool { return !s.filter.may(k) }
	if s.remote != nil && (!slices.ContainsFunc(keys, gone) || s.caughtUp(ctx) != nil) {
		return keys
	}
	before := len(keys)
	keys = slices.DeleteFunc(keys, gone)
	s.m.filtered.Add(float64(before - len(keys)))
	return keys
}

// group is one GetMany.
type group[K comparable, V any] struct {
	s      *Shared[K, V]
	out    map[K]V
	strict bool
	age    uint64
	since  map[K]uint64
	plans  map[K]plan
}

// known takes what the first level has, and returns the other keys, each once.
func (g *group[K, V]) known(keys []K) (missing []K) {
	s := g.s
	away := s.remote != nil && s.remote.away.Load()
	for _, k := range keys {
		if _, twice := g.since[k]; twice {
			continue
		}
		sh := s.shard(k)
		sh.mu.Lock()
		g.since[k] = sh.buried
		sh.mu.Unlock()
		e, ok := s.first.GetIfPresent(k)
		if ok && !g.strict && !e.buried && (away || e.age == g.age && s.clock.NowNano() < e.until) {
			if e.absent == nil {
				g.out[k] = e.value
			}
			continue
		}
		missing = append(missing, k)
		p := plan{primary: g.strict, owner: s.me}
		if ok && e.buried {
			p.floor = e.version
		}
		g.plans[k] = p
	}
	return missing
}

func (g *group[K, V]) take(k K, e versioned[V], keep bool) {
	if e.age = g.age; keep {
		g.s.put(k, e, g.since[k])
	}
	if e.absent == nil {
		g.out[k] = e.value
	}
}

// second takes what the second level has, and returns the keys of which it has nothing.
func (g *group[K, V]) second(ctx context.Context, keys []K, load LoadMany[K, V]) (missing []K, err error) {
	s := g.s
	if s.remote == nil {
		return keys, nil
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		if names[i], err = s.codec.key(k); err != nil {
			return nil, err
		}
	}
	list, at, e, err := s.remote.getMany(ctx, names)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	now := s.clock.NowNano()
	var old []K // past their soft end
	for i, k := range keys {
		p := g.plans[k]
		p.key, p.away = names[i], err != nil
		if err == nil {
			s.worth.asks.Add(1)
			if copied, ok := s.codec.read(list[i]); ok && copied.version >= p.floor {
				s.m.second.Inc()
				s.worth.hits.Add(1)
				s.hot.add(k, 1, now)
				g.take(k, copied, true)
				if list[i].soft.Before(time.Now()) && !g.strict {
					old = append(old, k)
				}
				continue
			}
			if list[i].kind == kindTombstone {
				s.m.tombstones.Inc()
			}
			p.epoch, p.begin, p.floor = e, at[i], max(p.floor, list[i].version)
			p.primary = p.primary || s.young(e)
		}
		g.plans[k] = p
		missing = append(missing, k)
	}
	if len(old) > 0 {
		s.renewMany(ctx, old, load)
	}
	return missing, nil
}

// load reads from SQL, and those of which a replica was behind a second time from the primary.
func (g *group[K, V]) load(ctx context.Context, keys []K, load LoadMany[K, V]) error {
	s := g.s
	primary := g.plans[keys[0]].primary // as of all the others: strict, or the epoch is young
	for len(keys) > 0 {
		rows, err := g.read(ctx, keys, primary, load)
		if err != nil {
			return err
		}
		var behind []K
		copies := make([]versioned[V], 0, len(keys))
		var sent []*filling
		var sentFor []int
		var loaded []K
		for _, k := range keys {
			p := g.plans[k]
			row, ok := rows[k]
			e := versioned[V]{value: row.Value, version: row.Version}
			if !ok {
				e.absent = errGone
			}
			if e.version < p.floor && !primary && s.cfg.Primary != nil {
				s.m.behind.Inc()
				behind = append(behind, k)
				continue
			}
			if e.absent != nil {
				e.version = p.floor
			} else if e.version < 1 {
				return levee.Invalid("version", "at least 1", e.version)
			}
			f, keep := s.filling(p, &e)
			if f != nil {
				sent, sentFor = append(sent, f), append(sentFor, len(loaded))
			} else {
				g.take(k, e, keep)
			}
			loaded, copies = append(loaded, k), append(copies, e)
		}
		if len(sent) > 0 {
			taken, err := s.remote.fillMany(ctx, g.plans[loaded[sentFor[0]]].epoch, sent, s.oldest())
			for i, at := range sentFor {
				g.take(loaded[at], copies[at], s.stored(taken[i], err))
			}
		}
		keys, primary = behind, true
	}
	return nil
}

// read calls the caller's function within the bounds.
func (g *group[K, V]) read(ctx context.Context, keys []K, primary bool, load LoadMany[K, V]) (rows map[K]Many[V], err error) {
	s := g.s
	end, err := s.budget.begin(ctx, g.plans[keys[0]].away)
	if err != nil {
		if levee.CodeOf(err) == levee.CodeUnavailable {
			s.m.shed.Inc()
		}
		return nil, err
	}
	defer end()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.MaxLoad)
	defer cancel()
	if primary && s.cfg.Primary != nil {
		ctx = s.cfg.Primary(ctx)
	}
	rows, err = load(ctx, slices.Clone(keys))
	s.m.load(time.Since(began), err)
	return rows, err
}

// renewMany loads keys in the background with one call, as far as nobody else does.
func (s *Shared[K, V]) renewMany(ctx context.Context, keys []K, load LoadMany[K, V]) {
	select {
	case s.renewals <- struct{}{}:
	default:
		return
	}
	if s.ctx.Err() != nil || s.worth.idle.Load() {
		<-s.renewals
		return
	}
	s.background(ctx, func(ctx context.Context) {
		g := &group[K, V]{s: s, out: map[K]V{}, age: s.age.Load(), since: map[K]uint64{}, plans: map[K]plan{}}
		names := make([]string, len(keys))
		for i, k := range keys {
			sh := s.shard(k)
			sh.mu.Lock()
			g.since[k] = sh.buried
			sh.mu.Unlock()
			var err error
			if names[i], err = s.codec.key(k); err != nil {
				return
			}
		}
		owner := crand.Text()
		list, at, granted, e, err := s.remote.leaseMany(ctx, names, owner, s.cfg.MaxLoad)
		if err != nil {
			return
		}
		var ours []K
		for i, k := range keys {
			if granted[i] {
				g.plans[k] = plan{key: names[i], owner: owner, epoch: e, begin: at[i], floor: list[i].version, primary: s.young(e)}
				ours = append(ours, k)
			}
		}
		if len(ours) == 0 {
			return
		}
		// A lease that is not given back, because the load failed, ends by itself.
		if g.load(ctx, ours, load) == nil {
			s.m.renewed.Add(float64(len(ours)))
		}
	})
}
