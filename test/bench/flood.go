package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	floodRate    = 5000.0 // sign-ins a second
	besideRate   = 400.0  // requests a second beside them
	floodConns   = 256
	floodRunning = time.Second // before what is beside it is looked at
)

// floodRows measures what a flood of sign-ins with wrong passwords, each of another name, does to everybody else: signed-in reads at a steady pace,
// alone and beside it, each from the moment at which it was meant to be sent.
func (h *house) floodRows(ctx context.Context) ([]row, error) {
	addr, length := h.addrs()[0], time.Duration(*seconds)*time.Second
	reads := make([][]byte, int(besideRate*length.Seconds()))
	for i := range reads {
		reads[i] = []byte("GET /v1/me HTTP/1.1\r\nHost: levee\r\nAuthorization: Bearer " + h.token + "\r\n\r\n")
	}
	idle, _, err := pace(addr, reads, 32, besideRate)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var f flood
	var work sync.WaitGroup
	var flooded error
	work.Go(func() { flooded = f.run(ctx, addr) })
	time.Sleep(floodRunning)
	beside, _, err := pace(addr, reads, 32, besideRate)
	cancel()
	work.Wait()
	if err := errors.Join(err, flooded); err != nil {
		return nil, err
	}
	p99, quiet := quantile(beside, .99), quantile(idle, .99)
	return []row{{fmt.Sprintf("p99 of reads by signed-in people, %.0f a second, beside %.0f sign-ins a second with wrong passwords (%.0f answered 401, %.0f shed with 503; p50 %v)",
		besideRate, f.rate(&f.sent), f.rate(&f.refused), f.rate(&f.shed), quantile(beside, .5).Round(10*time.Microsecond)),
		p99.Round(10 * time.Microsecond).String(), fmt.Sprintf("nobody signs in: %v", quiet.Round(10*time.Microsecond)), fmt.Sprintf("%.2f", float64(p99)/float64(quiet)), "≤ 2.0"}}, nil
}

// flood is sign-ins that fail, sent each at its moment.
type flood struct {
	sent, refused, shed atomic.Int64
	took                time.Duration
}

func (f *flood) rate(n *atomic.Int64) float64 { return float64(n.Load()) / f.took.Seconds() }

func (f *flood) run(ctx context.Context, addr string) error {
	var next atomic.Int64
	started := time.Now()
	errs := make([]error, floodConns)
	var work sync.WaitGroup
	for i := range floodConns {
		work.Go(func() {
			l, err := dial(addr)
			if err != nil {
				errs[i] = err
				return
			}
			defer l.conn.Close()
			for ctx.Err() == nil {
				n := next.Add(1)
				if wait := time.Until(started.Add(time.Duration(float64(n) / floodRate * 1e9))); wait > 0 {
					time.Sleep(wait)
				}
				body := fmt.Sprintf(`{"name":"nobody-%d","password":"a-wrong-password-%d"}`, n, n)
				status, err := l.ask(fmt.Appendf(nil, "POST /v1/sessions HTTP/1.1\r\nHost: levee\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
				if err != nil {
					errs[i] = err
					return
				}
				f.sent.Add(1)
				switch status {
				case 401:
					f.refused.Add(1)
				case 503:
					f.shed.Add(1)
				default:
					errs[i] = fmt.Errorf("a sign-in was answered %d: %s", status, l.body)
					return
				}
			}
		})
	}
	work.Wait()
	f.took = time.Since(started)
	return errors.Join(errs...)
}
