package notify

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkHear is what the listeners cost inside the writer that purchases wait for: batches of 256 new orders.
func BenchmarkHear(b *testing.B) {
	h := newHouse(b)
	quiet(b, h)
	h.order("sale", b.N)
	b.ResetTimer()
	h.hear()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
}

// BenchmarkWrite turns what was heard into notices and deliveries.
func BenchmarkWrite(b *testing.B) {
	for _, hooks := range []int{0, 1, 3} {
		for _, source := range []string{"sale", sourceRehearsal} {
			b.Run(fmt.Sprintf("%s/webhooks=%d", source, hooks), func(b *testing.B) {
				h := newHouse(b)
				quiet(b, h)
				for range hooks {
					h.hook(shopURL, "order.*")
				}
				h.order(source, b.N)
				h.hear()
				b.ResetTimer()
				for {
					rows, err := readHeard(context.Background(), h.DB.Query, heardPage)
					h.must(err)
					if len(rows) == 0 {
						break
					}
					h.must(h.writeOut(context.Background(), rows, map[int64]int{}))
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
			})
		}
	}
}

// BenchmarkSend is the whole way of a delivery from SQL over HTTP to a receiver next door and back to SQL.
func BenchmarkSend(b *testing.B) {
	for _, hooks := range []int{1, 4} {
		b.Run(fmt.Sprintf("webhooks=%d", hooks), func(b *testing.B) {
			var n atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				n.Add(1)
				w.WriteHeader(http.StatusNoContent)
			}))
			defer srv.Close()
			h := newHouse(b, func(c *Config) { c.AllowHosts = []string{"127.0.0.1"} })
			quiet(b, h)
			h.Service.post = newPoster(h.Service)
			for i := range hooks {
				h.hook(fmt.Sprintf("%s/%d", srv.URL, i), "order.*")
			}
			each := b.N/hooks + 1
			h.order("sale", each)
			h.hear()
			rows, err := readHeard(context.Background(), h.DB.Query, 100_000)
			h.must(err)
			h.must(h.writeOut(context.Background(), rows, map[int64]int{}))
			b.ResetTimer()
			h.runQuietly()
			for n.Load() < int64(each*hooks) {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			b.ReportMetric(float64(n.Load())/b.Elapsed().Seconds(), "deliveries/s")
			h.stop()
		})
	}
}

// quiet keeps a benchmark from logging each step.
func quiet(b *testing.B, h *house) {
	b.Helper()
	if err := h.Obs.SetLevel("error"); err != nil {
		b.Fatal(err)
	}
}
