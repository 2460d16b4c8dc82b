package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto"
	"github.com/dtm-labs/rockscache"
	gocache "github.com/eko/gocache/lib/v4/cache"
	"github.com/eko/gocache/lib/v4/store"
	gocacheredis "github.com/eko/gocache/store/redis/v4"
	gocacheristretto "github.com/eko/gocache/store/ristretto/v4"
	"github.com/maypok86/otter/v2"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/viccon/sturdyc"

	"levee/internal/platform/cache"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// contestants are, in this order: ours, others of two levels, others of one, and bare maps as limits. Each is set up as its own page shows, with
// lifetimes long enough that none ends while it is measured.
var contestants = []contestant{
	{name: "levee `cache.NewShared`", make: ours},
	{name: "levee `cache.New` (process)", make: process, near: true},
	{name: "gocache 4.2.0, chain of ristretto and Redis", make: chain},
	{name: "sturdyc 1.1.5 over Redis", make: sturdy},
	{name: "rueidis 1.0.79, client-side caching, JSON", make: tracking},
	{name: "rockscache 0.1.1, strong (no first level)", make: rocks, far: true},
	{name: "limit: otter 2.4.0 bare", make: bare, near: true},
	{name: "limit: `sync.Map`", make: plain, near: true},
}

var background = context.Background()

func ours(url string, load func(int) (row, error)) (node, error) {
	o, err := obs.Open(obs.Config{}, io.Discard)
	if err != nil {
		return node{}, err
	}
	c, err := redis.Open(background, redis.Config{URL: url, Timeout: 2 * time.Second}, o)
	if err != nil {
		return node{}, err
	}
	s := cache.NewShared[int, row](cache.SharedConfig{Config: cache.Config{Name: "bench", TTL: time.Minute}, MaxLoad: time.Minute}, c, o)
	read := func(_ context.Context, k int) (row, int64, error) {
		r, err := load(k)
		return r, r.Version, err
	}
	strict := cache.Strict(background)
	past := func(k int) (row, error) { return s.Get(strict, k, read) }
	return node{
		get:    func(k int) (row, error) { return s.Get(background, k, read) },
		second: past, strict: past,
		change: func(k int, v int64) error { return s.Invalidate(background, cache.Change[int]{Key: k, Version: v}) },
		close:  func() { s.Close(); _ = c.Close() },
	}, nil
}

func process(_ string, load func(int) (row, error)) (node, error) {
	o, err := obs.Open(obs.Config{}, io.Discard)
	if err != nil {
		return node{}, err
	}
	c := cache.New[int, row](cache.Config{Name: "bench"}, o)
	read := func(_ context.Context, k int) (row, error) { return load(k) }
	return node{get: func(k int) (row, error) { return c.Get(background, k, read) }, close: func() {}}, nil
}

func dial(url string) (*goredis.Client, error) {
	o, err := goredis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	return goredis.NewClient(o), nil
}

func chain(url string, load func(int) (row, error)) (node, error) {
	c, err := dial(url)
	if err != nil {
		return node{}, err
	}
	r, err := ristretto.NewCache(&ristretto.Config{NumCounters: 1e6, MaxCost: 1e5, BufferItems: 64, IgnoreInternalCost: true})
	if err != nil {
		return node{}, err
	}
	// Redis gives texts back and keeps nothing else, so both levels hold JSON, and each hit is decoded.
	far := gocache.New[any](gocacheredis.NewRedis(c, store.WithExpiration(time.Hour)))
	near := gocache.New[any](gocacheristretto.NewRistretto(r, store.WithExpiration(time.Minute), store.WithCost(1)))
	fill := func(_ context.Context, key any) (any, []store.Option, error) {
		k, err := strconv.Atoi(key.(string))
		if err != nil {
			return nil, nil, err
		}
		v, err := load(k)
		if err != nil {
			return nil, nil, err
		}
		text, err := json.Marshal(v)
		return string(text), nil, err
	}
	both, one := gocache.NewLoadable[any](fill, gocache.NewChain[any](near, far)), gocache.NewLoadable[any](fill, far)
	read := func(from *gocache.LoadableCache[any]) func(k int) (row, error) {
		return func(k int) (v row, err error) {
			got, err := from.Get(background, strconv.Itoa(k))
			if err != nil {
				return v, err
			}
			text, ok := got.(string)
			if !ok {
				return v, errors.New("no text")
			}
			return v, json.Unmarshal([]byte(text), &v)
		}
	}
	return node{
		get: read(both), second: read(one),
		change: func(k int, _ int64) error { return both.Delete(background, strconv.Itoa(k)) },
		close:  func() { r.Close(); _ = c.Close() },
	}, nil
}

// shelf is Redis as sturdyc asks for it.
type shelf struct{ c *goredis.Client }

func (s shelf) Get(ctx context.Context, k string) ([]byte, bool) {
	b, err := s.c.Get(ctx, k).Bytes()
	return b, err == nil
}
func (s shelf) Set(ctx context.Context, k string, v []byte) { s.c.Set(ctx, k, v, time.Hour) }
func (s shelf) GetBatch(ctx context.Context, keys []string) map[string][]byte {
	got := map[string][]byte{}
	for _, k := range keys {
		if b, ok := s.Get(ctx, k); ok {
			got[k] = b
		}
	}
	return got
}
func (s shelf) SetBatch(ctx context.Context, list map[string][]byte) {
	for k, v := range list {
		s.Set(ctx, k, v)
	}
}

func sturdy(url string, load func(int) (row, error)) (node, error) {
	c, err := dial(url)
	if err != nil {
		return node{}, err
	}
	set := func(ttl time.Duration) *sturdyc.Client[row] {
		return sturdyc.New[row](100_000, 64, ttl, 10, sturdyc.WithDistributedStorage(shelf{c}), sturdyc.WithNoContinuousEvictions())
	}
	both, one := set(time.Minute), set(time.Microsecond) // in which the first level has always ended
	read := func(from *sturdyc.Client[row]) func(k int) (row, error) {
		return func(k int) (row, error) {
			return from.GetOrFetch(background, strconv.Itoa(k), func(context.Context) (row, error) { return load(k) })
		}
	}
	return node{
		get: read(both), second: read(one),
		change: func(k int, _ int64) error {
			err := c.Del(background, strconv.Itoa(k)).Err()
			both.Delete(strconv.Itoa(k))
			return err
		},
		close: func() { _ = c.Close() },
	}, nil
}

func tracking(url string, load func(int) (row, error)) (node, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{strings.Split(strings.TrimPrefix(url, "redis://"), "/")[0]}})
	if err != nil {
		return node{}, err
	}
	read := func(get func(key string) rueidis.RedisResult) func(k int) (row, error) {
		return func(k int) (v row, err error) {
			key := strconv.Itoa(k)
			got := get(key)
			if rueidis.IsRedisNil(got.Error()) {
				if v, err = load(k); err != nil {
					return v, err
				}
				text, err := json.Marshal(v)
				if err != nil {
					return v, err
				}
				return v, c.Do(background, c.B().Set().Key(key).Value(string(text)).Ex(time.Hour).Build()).Error()
			}
			return v, got.DecodeJSON(&v)
		}
	}
	return node{
		get: read(func(key string) rueidis.RedisResult {
			return c.DoCache(background, c.B().Get().Key(key).Cache(), time.Minute)
		}),
		second: read(func(key string) rueidis.RedisResult { return c.Do(background, c.B().Get().Key(key).Build()) }),
		change: func(k int, _ int64) error { return c.Do(background, c.B().Del().Key(strconv.Itoa(k)).Build()).Error() },
		close:  c.Close,
	}, nil
}

func rocks(url string, load func(int) (row, error)) (node, error) {
	c, err := dial(url)
	if err != nil {
		return node{}, err
	}
	o := rockscache.NewDefaultOptions()
	o.StrongConsistency = true
	r := rockscache.NewClient(c, o)
	read := func(k int) (v row, err error) {
		text, err := r.Fetch(strconv.Itoa(k), time.Hour, func() (string, error) {
			v, err := load(k)
			if err != nil {
				return "", err
			}
			text, err := json.Marshal(v)
			return string(text), err
		})
		if err != nil {
			return v, err
		}
		return v, json.Unmarshal([]byte(text), &v)
	}
	return node{
		get: read, second: read,
		change: func(k int, _ int64) error { return r.TagAsDeleted(strconv.Itoa(k)) },
		close:  func() { _ = c.Close() },
	}, nil
}

func bare(_ string, load func(int) (row, error)) (node, error) {
	c, err := otter.New(&otter.Options[int, row]{MaximumSize: keys, ExpiryCalculator: otter.ExpiryWriting[int, row](time.Hour)})
	if err != nil {
		return node{}, err
	}
	return node{get: func(k int) (row, error) {
		if v, ok := c.GetIfPresent(k); ok {
			return v, nil
		}
		v, err := load(k)
		c.Set(k, v)
		return v, err
	}, close: func() {}}, nil
}

func plain(_ string, load func(int) (row, error)) (node, error) {
	var m sync.Map
	return node{get: func(k int) (row, error) {
		if v, ok := m.Load(k); ok {
			return v.(row), nil
		}
		v, err := load(k)
		m.Store(k, v)
		return v, err
	}, close: func() {}}, nil
}
