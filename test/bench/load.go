package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// pin keeps the generator, this process, on the last core until release is called; servers are started outside of that and may use every
// core. So each server has the same generator beside it, which cannot take more than one core from it. With one core there is nothing to pin.
func pin() (release func(), err error) {
	n := runtime.NumCPU()
	if n < 2 {
		return func() {}, nil
	}
	set := func(cores string) error {
		out, err := exec.Command("taskset", "-a", "-c", "-p", cores, strconv.Itoa(os.Getpid())).CombinedOutput()
		if err != nil {
			return fmt.Errorf("taskset: %w %s", err, out)
		}
		return nil
	}
	if err := set(strconv.Itoa(n - 1)); err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(1)
	return func() {
		runtime.GOMAXPROCS(n)
		if err := set("0-" + strconv.Itoa(n-1)); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}, nil
}

func median(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }

func quantile(v []time.Duration, q float64) time.Duration {
	slices.Sort(v)
	return v[int(q*float64(len(v)-1))]
}

// tally of one run.
type tally struct {
	status map[int]int
	took   time.Duration
	odd    string // an answer that was neither an order nor a refusal, if there was one
}

func (t tally) rate() float64 {
	n := 0
	for _, c := range t.status {
		n += c
	}
	return float64(n) / t.took.Seconds()
}

// won is how many purchases were answered with an order, in a second.
func (t tally) won() float64 { return float64(t.status[201]) / t.took.Seconds() }

// away tells, for a row, how many were answered 503: nothing taken, try again. A node whose cores are taken by others finds its servers slow.
func (t tally) away() string {
	if t.status[503] == 0 {
		return ""
	}
	return fmt.Sprintf("; %d answered 503", t.status[503])
}

// only reports an answer that was neither an order nor a refusal, nor one of the others that are named.
func (t tally) only(what string, others ...int) error {
	for status := range t.status {
		if status != 201 && status != 409 && !slices.Contains(others, status) {
			return fmt.Errorf("%s: %d answers had the status %d: %s", what, t.status[status], status, t.odd)
		}
	}
	return nil
}

// send sends each request once over so many connections (length 0), or all of them in turn for that long. Connections are spread evenly
// over the addresses.
func send(addrs []string, requests [][]byte, connections int, length time.Duration) (tally, error) {
	var next atomic.Int64
	var mu sync.Mutex
	total := tally{status: map[int]int{}}
	errs := make(chan error, connections)
	started := time.Now()
	var wg sync.WaitGroup
	for i := range connections {
		wg.Go(func() {
			l, err := dial(addrs[i%len(addrs)])
			if err != nil {
				errs <- err
				return
			}
			defer l.conn.Close()
			mine, odd := map[int]int{}, ""
			for {
				n := next.Add(1) - 1
				if length == 0 && n >= int64(len(requests)) || length > 0 && time.Since(started) > length {
					break
				}
				status, err := l.ask(requests[n%int64(len(requests))])
				if err != nil {
					errs <- err
					return
				}
				if mine[status]++; status != 201 && status != 409 {
					odd = string(l.body)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if odd != "" {
				total.odd = odd
			}
			for s, n := range mine {
				total.status[s] += n
			}
		})
	}
	wg.Wait()
	total.took = time.Since(started)
	select {
	case err := <-errs:
		return total, err
	default:
		return total, nil
	}
}

// pace sends each request at its own moment, whatever the answers, and returns how long after that moment each answer was there. others is how
// many of the answers were not an order.
func pace(addr string, requests [][]byte, connections int, rate float64) (took []time.Duration, others int64, err error) {
	var next, odd atomic.Int64
	took = make([]time.Duration, len(requests))
	errs := make(chan error, connections)
	started := time.Now().Add(10 * time.Millisecond)
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			l, err := dial(addr)
			if err != nil {
				errs <- err
				return
			}
			defer l.conn.Close()
			for {
				n := next.Add(1) - 1
				if n >= int64(len(requests)) {
					return
				}
				meant := started.Add(time.Duration(float64(n) / rate * 1e9))
				if wait := time.Until(meant); wait > 0 {
					time.Sleep(wait)
				}
				status, err := l.ask(requests[n])
				if err != nil {
					errs <- err
					return
				}
				if status != 201 {
					odd.Add(1)
				}
				took[n] = time.Since(meant)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, 0, err
	default:
		return took, odd.Load(), nil
	}
}

// line is a keep-alive connection that speaks as little HTTP as it needs, so that the generator takes little of the cores.
type line struct {
	conn net.Conn
	in   *bufio.Reader
	body []byte // of the last answer, until the next one
}

func dial(addr string) (*line, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &line{conn: c, in: bufio.NewReaderSize(c, 4096)}, nil
}

func (l *line) ask(request []byte) (status int, err error) {
	if _, err := l.conn.Write(request); err != nil {
		return 0, err
	}
	head, err := l.in.ReadSlice('\n')
	if err != nil || len(head) < 12 {
		return 0, fmt.Errorf("a broken answer %q: %w", head, err)
	}
	status = int(head[9]-'0')*100 + int(head[10]-'0')*10 + int(head[11]-'0')
	length := 0
	for {
		h, err := l.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(h) <= 2 {
			break
		}
		if len(h) > 16 && (h[0] == 'C' || h[0] == 'c') && bytes.EqualFold(h[:15], []byte("content-length:")) {
			for _, d := range bytes.TrimSpace(h[15:]) {
				length = length*10 + int(d-'0')
			}
		}
	}
	l.body = slices.Grow(l.body[:0], length)[:length]
	_, err = io.ReadFull(l.in, l.body)
	return status, err
}
