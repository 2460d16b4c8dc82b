package gate

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"levee"
	"levee/internal/platform/backends"
)

// BenchmarkRedisGate sets takes through this client beside redis-benchmark that runs the same script, pipelined, with one attempt for each
// call and with as many as a full batch has. Nothing is settled, so both write alike.
func BenchmarkRedisGate(b *testing.B) {
	needRedis(b)
	server, err := backends.Redis(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	open := func(b *testing.B) *shop {
		h := openShared(b, server.URL(), 1, 1<<30, ofTheHouse, 1)
		if err := h.nodes[0].Load(b.Context(), State{Remaining: 1 << 40, PerBuyer: 1}); err != nil {
			b.Fatal(err)
		}
		return h
	}
	for _, width := range []int{1, 16, takeWidth} {
		b.Run(fmt.Sprintf("redis-benchmark of %d attempts a call", width), func(b *testing.B) {
			h := open(b)
			c := h.observer.buckets.all()[0].c.UniversalClient()
			sha, err := c.ScriptLoad(b.Context(), takeText).Result()
			if err != nil {
				b.Fatal(err)
			}
			host, port, _ := strings.Cut(server.Addr(), ":")
			args := []string{"-h", host, "-p", port, "-c", "50", "-P", strconv.Itoa(max(1, 64/width)), "-r", "2000000000", "-n", strconv.Itoa(max(1, b.N/width)), "--csv",
				"evalsha", sha, "3"}
			args = append(args, h.observer.buckets.all()[0].keys[:earlyKey]...)
			args = append(args, "node-0", "1000000", "1")
			for range width {
				args = append(args, "r__rand_int__", "1__rand_int__", "1", "1y2p0ij32e8e7", "0")
			}
			b.ResetTimer()
			out, err := exec.Command("redis-benchmark", args...).Output()
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			fields := strings.Split(lines[len(lines)-1], `","`)
			if len(fields) < 2 {
				b.Fatalf("redis-benchmark said %q", out)
			}
			perSecond, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(perSecond*float64(width), "takes/s")
		})
	}
	for _, callers := range []int{2, 64, 512} {
		for _, way := range []string{"batches", "auto-pipeline", "batches, settled"} {
			b.Run(fmt.Sprintf("%d callers, %s", callers, way), func(b *testing.B) {
				h := open(b)
				g := h.nodes[0]
				stop := make(chan struct{})
				var settler sync.WaitGroup
				settler.Go(func() {
					seq := int64(0)
					for {
						select {
						case <-g.Wake():
							for batch := g.Next(256); batch != nil; batch = g.Next(256) {
								if way == "batches, settled" {
									seq++
									g.Settle(context.Background(), batch, seq)
								}
								for _, t := range batch {
									t.Free()
								}
								g.recycle(batch)
							}
						case <-stop:
							return
						}
					}
				})
				var n, failed atomic.Int64
				b.SetParallelism((callers + 1) / 2)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					base := levee.UserID(n.Add(1) << 40)
					ctx := context.Background()
					for pb.Next() {
						base++
						if way != "auto-pipeline" {
							if _, v, _ := g.Take(ctx, Attempt{ID: levee.ReservationID(base), Buyer: base, Quantity: 1, Key: 1 << 60}); v != Taken {
								failed.Add(1)
							}
							continue
						}
						who := name(base)
						v, err := ofTheHouse.take.RunFast(ctx, g.buckets.all()[0].c, g.buckets.all()[0].keys[:earlyKey], "node-0", 1000000, 1, who, who, 1, "1y2p0ij32e8e7", "0").Text()
						if err != nil || !strings.HasSuffix(v, " 0") {
							failed.Add(1)
						}
					}
				})
				b.StopTimer()
				close(stop)
				settler.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "takes/s")
				if failed.Load() > 0 {
					b.Fatalf("%d of %d takes failed", failed.Load(), b.N)
				}
			})
		}
	}
}

// BenchmarkRedisBuckets takes on a cluster of three masters, with all in one bucket and with a bucket for each master. It shows what buckets
// are for where each master has a core of its own, and the callers have others.
func BenchmarkRedisBuckets(b *testing.B) {
	needRedis(b)
	cluster, err := backends.StartCluster(b.Context(), backends.ClusterOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	for _, count := range []int{1, 3} {
		b.Run(fmt.Sprintf("%d of 3 masters", count), func(b *testing.B) {
			h := openShared(b, cluster.URL(), 1, 1<<30, ofTheHouse, count)
			g := h.nodes[0]
			if err := g.Load(b.Context(), State{Remaining: 1 << 40, PerBuyer: 1}); err != nil {
				b.Fatal(err)
			}
			stop := make(chan struct{})
			var drain sync.WaitGroup
			drain.Go(func() {
				for {
					select {
					case <-g.Wake():
						for batch := g.Next(256); batch != nil; batch = g.Next(256) {
							for _, t := range batch {
								t.Free()
							}
							g.recycle(batch)
						}
					case <-stop:
						return
					}
				}
			})
			var n, failed atomic.Int64
			b.SetParallelism(512)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				base := levee.UserID(n.Add(1) << 40)
				for pb.Next() {
					base++
					if _, v, _ := g.Take(context.Background(), Attempt{ID: levee.ReservationID(base), Buyer: base, Quantity: 1, Key: 1 << 60}); v != Taken {
						failed.Add(1)
					}
				}
			})
			b.StopTimer()
			close(stop)
			drain.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "takes/s")
			if failed.Load() > 0 {
				b.Fatalf("%d of %d takes failed", failed.Load(), b.N)
			}
		})
	}
}

// BenchmarkRedisHeld asks what buyers hold, as every loser does behind a shut switch.
func BenchmarkRedisHeld(b *testing.B) {
	needRedis(b)
	h := openShared(b, testServer(b), 1, 1<<20, ofTheHouse, 1)
	b.SetParallelism(256)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		base := levee.UserID(n.Add(1) << 40)
		for pb.Next() {
			base++
			if _, _, err := h.nodes[0].Held(context.Background(), base); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "asked/s")
}

// BenchmarkRedisMemory reports what Redis keeps for a buyer who won, and how long the load of a million takes.
func BenchmarkRedisMemory(b *testing.B) {
	needRedis(b)
	h := openShared(b, testServer(b), 1, 1<<20, ofTheHouse, 1)
	const buyers = 1_000_000
	list := make([]Holding, buyers)
	for i := range list {
		list[i] = Holding{Buyer: levee.UserID(1<<61 + i*4099), Quantity: 1}
	}
	for b.Loop() {
		if err := h.observer.Load(b.Context(), State{Seq: 1, Remaining: 10, PerBuyer: 2, Holdings: list}); err != nil {
			b.Fatal(err)
		}
	}
	bytes, err := h.store.c.MemoryUsage(b.Context(), h.store.keys[buyersKey], 10000).Result()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(bytes)/buyers, "bytes/buyer")
}
