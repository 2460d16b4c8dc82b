package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/wire"
)

const lendSecret = "it-is-0123456789abcdef0123456789abcdef"

// overHTTP measures the real program, over loopback, from this process: both share the cores.
func (b *bench) overHTTP(ctx context.Context) error {
	binary := filepath.Join(b.dir, "levee")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/levee")
	build.Dir = root()
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	addr, err := backends.TakeAddress()
	if err != nil {
		return err
	}
	defer addr.Free()
	p, err := backends.StartProgram(ctx, backends.ProgramOptions{Name: "levee", Path: binary, Args: []string{"serve", "--addr", addr.String(), "--data", filepath.Join(b.dir, "data")},
		Env: []string{"LEVEE_LEND__CLIENTS=bench:" + lendSecret, "LEVEE_LEND__WORKERS=4", "LEVEE_LOG__LEVEL=warn"},
		Ready: func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr.String()+"/readyz", nil)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(req)
			if err == nil {
				_ = res.Body.Close()
				if res.StatusCode != 200 {
					err = errors.New(res.Status)
				}
			}
			return err
		}})
	if err != nil {
		return err
	}
	defer p.Close()
	network, err := wire.NewNetwork("http://"+addr.String(), func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
	})
	if err != nil {
		return err
	}
	for _, q := range []struct {
		query, accept string
		each          float64
	}{{"count=1", "application/json", 1}, {"count=1000", "application/json", 1000}, {"count=1000", "text/plain", 1000}, {"count=10000", "text/plain", 10_000}} {
		rate := [2]float64{}
		for i, connections := range []int{1, 16} {
			for range 3 {
				var good, bad, lost atomic.Int64
				l := wire.Loop{Net: network, Connections: connections, Depth: 1, Timeout: 5 * time.Second,
					Request: func(dst []byte, _ uint64) []byte {
						return fmt.Appendf(dst, "GET /v1/ids?%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nAccept: %s\r\n\r\n", q.query, network.Host(), lendSecret, q.accept)
					},
					Answer: func(_ int, _ uint64, a *wire.Answer, _, _ time.Time) {
						if a.Status == 200 {
							good.Add(1)
						} else {
							bad.Add(1)
						}
					},
					Lost: func(int, uint64, time.Time) { lost.Add(1) }}
				begun := time.Now()
				if err := l.Run(ctx, begun.Add(3*b.each)); err != nil {
					return err
				}
				if bad.Load()+lost.Load() > 0 {
					return fmt.Errorf("%s: %d answers were not 200, %d were lost; it said: %s", q.query, bad.Load(), lost.Load(), p.Said())
				}
				rate[i] = max(rate[i], float64(good.Load())*q.each/time.Since(begun).Seconds())
			}
		}
		form := "JSON"
		if strings.HasPrefix(q.accept, "text") {
			form = "text"
		}
		b.add(fmt.Sprintf("**levee** over HTTP, %s, %s (1 and 16 connections)", q.query, form), number(1e9/rate[0]), number(1e9/rate[1]), number(max(rate[0], rate[1])/1e6), "–", "as strict", "as strict")
	}
	return nil
}
