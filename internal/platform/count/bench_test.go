package count

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/platformtest"
	"levee/internal/platform/redis"
)

// BenchmarkCounts measures beside what Redis itself does for INCRBY and GET, through the pool and through pipelines. 1,000 keys, written to
// SQL every second meanwhile.
func BenchmarkCounts(b *testing.B) {
	for _, callers := range []int{1, 64} {
		run := func(name string, op func(name string) error) {
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) {
				if callers > 1 {
					b.SetParallelism(callers / 2) // for two processors
				}
				var next atomic.Int64
				one := func() {
					if err := op(strconv.FormatInt(next.Add(1)%1000, 10)); err != nil {
						b.Error(err)
					}
				}
				if callers == 1 {
					for b.Loop() {
						one()
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							one()
						}
					})
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
			})
		}
		rc := platformtest.Redis(b, b.TempDir())
		client, err := redis.Open(background, rc, quiet(b))
		must(b, err)
		u := client.UniversalClient()
		run("bare INCRBY", func(n string) error { return u.IncrBy(background, client.Key("b:"+n), 1).Err() })
		run("bare INCRBY, pipelines", func(n string) error { return client.Fast().IncrBy(background, client.Key("b:"+n), 1).Err() })
		run("bare GET", func(n string) error { return u.Get(background, client.Key("b:"+n)).Err() })
		run("bare GET, pipelines", func(n string) error { return client.Fast().Get(background, client.Key("b:"+n)).Err() })
		must(b, client.Close())
		for _, shared := range []bool{true, false} {
			h := newHouse(b, shared)
			h.cfg = Config{Every: time.Second}
			c := h.node()
			stop := make(chan struct{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
						_ = c.Flush(background)
					}
				}
			}()
			k, hot := c.Counter("k"), c.Board("hot", 1000)
			where := map[bool]string{true: "redis", false: "memory"}[shared]
			run(where+" Add", func(n string) error { return k.Add(background, n, 1) })
			run(where+" Get", func(n string) error { _, err := k.Get(background, n); return err })
			run(where+" Board.Incr", func(n string) error { return hot.Incr(background, "all", n, 1) })
			run(where+" Board.Top(10)", func(string) error { _, err := hot.Top(background, "all", 0, 10); return err })
			close(stop)
			<-done
		}
	}
}
