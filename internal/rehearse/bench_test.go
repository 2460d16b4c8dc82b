package rehearse

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/report"
	"levee/internal/wire"
)

// The generator's cost is measured as processor time of this process alone, with the server in another one, so that what else the
// machine does is not counted.

const serveVariable = "LEVEE_REHEARSE_BENCH_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		serveConstant()
		return
	}
	os.Exit(m.Run())
}

// serveConstant is a net/http server that refuses everybody, until its standard input ends.
func serveConstant() {
	h := newHouse(0, 1)
	refusal := []byte(`{"type":"urn:levee:error:sold_out","title":"Conflict","status":409,"detail":"every unit is taken; one may come back until the sale ends","error":"sold_out"}`)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/sales/sal_2/purchases", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = []string{"application/problem+json"}
		w.Header()["Cache-Control"] = []string{"no-store"}
		w.WriteHeader(409)
		w.Write(refusal)
	})
	mux.Handle("/", h.mux)
	url := h.listen(mux)
	fmt.Println(url)
	io.Copy(io.Discard, os.Stdin)
}

func constantServer(b *testing.B) string {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

const benchConnections = 64

func costOf(b *testing.B, requests uint64, cpu time.Duration, length time.Duration) {
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(requests), "cpu-ns/request")
	b.ReportMetric(float64(requests)/length.Seconds(), "requests/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNetHTTP is what a generator on net/http's client costs.
func BenchmarkNetHTTP(b *testing.B) {
	url := constantServer(b)
	token, admission := "Bearer "+strings.Repeat("t", 300), strings.Repeat("a", 54)
	for b.Loop() {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchConnections, DisableCompression: true}}
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		var wg sync.WaitGroup
		var mu sync.Mutex
		requests := uint64(0)
		start, cpu := time.Now(), processTime()
		for range benchConnections {
			wg.Go(func() {
				n := uint64(0)
				for ctx.Err() == nil {
					r, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/sales/sal_2/purchases", nil)
					r.Header.Set("Authorization", token)
					r.Header.Set("Levee-Admission", admission)
					r.Header.Set("Idempotency-Key", fmt.Sprint("press-", n))
					resp, err := client.Do(r)
					if err != nil {
						break
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					n++
				}
				mu.Lock()
				requests += n
				mu.Unlock()
			})
		}
		wg.Wait()
		cancel()
		costOf(b, requests, processTime()-cpu, time.Since(start))
		client.CloseIdleConnections()
	}
}

// BenchmarkLoop is the bare closed loop.
func BenchmarkLoop(b *testing.B) {
	url := constantServer(b)
	for _, depth := range []int{1, 8} {
		b.Run(fmt.Sprint("depth=", depth), func(b *testing.B) {
			who := newBuyer("usr_1", strings.Repeat("t", 300), strings.Repeat("a", 54))
			phrases := newPhrases("house", "sal_2", 1, false)
			for b.Loop() {
				network, err := wire.NewNetwork(url, nil)
				if err != nil {
					b.Fatal(err)
				}
				var answers, others atomic.Uint64
				loop := wire.Loop{Net: network, Connections: benchConnections, Depth: depth, Timeout: time.Minute,
					Request: func(dst []byte, n uint64) []byte { return phrases.cheapest(dst, &who, n) },
					Answer: func(_ int, _ uint64, a *wire.Answer, _, _ time.Time) {
						if answers.Add(1); a.Status != 409 {
							others.Add(1)
						}
					},
					Lost: func(int, uint64, time.Time) { others.Add(1) }}
				start, cpu := time.Now(), processTime()
				if err := loop.Run(b.Context(), start.Add(time.Second)); err != nil || others.Load() > 0 {
					b.Fatal(err, others.Load())
				}
				costOf(b, answers.Load(), processTime()-cpu, time.Since(start))
				network.Cut()
			}
		})
	}
}

// BenchmarkMax is a whole rehearsal in closed mode: with people, measuring and audit.
func BenchmarkMax(b *testing.B) {
	url := constantServer(b)
	for b.Loop() {
		r, err := Run(b.Context(), Config{Server: url, User: "o", Password: "right", Sale: "sal_1", Max: true, Buyers: 50_000, Connections: benchConnections,
			Duration: time.Second, Quiet: true}, io.Discard)
		if err != nil || !r.OK() {
			b.Fatal(err, r.Audit)
		}
		costOf(b, report.Total(r.Answers), time.Duration(r.GeneratorCPU*1e9), time.Duration(r.CameFor*1e9))
	}
}

// BenchmarkOpen is a whole rehearsal at a rate.
func BenchmarkOpen(b *testing.B) {
	url := constantServer(b)
	for b.Loop() {
		r, err := Run(b.Context(), Config{Server: url, User: "o", Password: "right", Sale: "sal_1", Rate: 5000, Connections: benchConnections,
			Duration: 2 * time.Second, Quiet: true}, io.Discard)
		if err != nil || !r.OK() {
			b.Fatal(err, r.Audit)
		}
		costOf(b, report.Total(r.Answers), time.Duration(r.GeneratorCPU*1e9), time.Duration(r.CameFor*1e9))
		late, _ := r.Latency("generator_lateness")
		b.ReportMetric(late.P50*1000, "late-p50-µs")
		b.ReportMetric(late.P99*1000, "late-p99-µs")
	}
}
