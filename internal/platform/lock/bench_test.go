package lock

import (
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// What a pair of Acquire and Release costs without contention. "raw" is the least that a lock in Redis can be: SET NX PX, and a script that
// compares and deletes.
func BenchmarkPair(b *testing.B) {
	pairs := func(b *testing.B, l *Locks) {
		ctx := b.Context()
		b.ReportAllocs()
		for b.Loop() {
			s, err := l.Acquire(ctx, "bench")
			if err == nil {
				err = s.Release(ctx)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("memory", func(b *testing.B) { pairs(b, openLocks(b)) })
	b.Run("redis", func(b *testing.B) {
		l, r := openRemote(b, redisConfig(b))
		pairs(b, l)
		stats(b, r.client.UniversalClient())
	})
	b.Run("raw", func(b *testing.B) {
		_, r := openRemote(b, redisConfig(b))
		c := goredis.NewClient(&goredis.Options{Addr: r.client.UniversalClient().(*goredis.Client).Options().Addr})
		defer c.Close()
		del := goredis.NewScript(`if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) else return 0 end`)
		for b.Loop() {
			token := newToken()
			if err := c.SetNX(b.Context(), "raw", token, time.Minute).Err(); err != nil {
				b.Fatal(err)
			}
			if err := del.Run(b.Context(), c, []string{"raw"}, token).Err(); err != nil {
				b.Fatal(err)
			}
		}
		stats(b, c)
	})
}

func stats(b *testing.B, c goredis.UniversalClient) {
	text, err := c.Info(b.Context(), "commandstats").Result()
	if err == nil && testing.Verbose() {
		b.Log(text)
	}
	_ = c.ConfigResetStat(b.Context()).Err()
}
