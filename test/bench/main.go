// Command bench measures what docs/performance.md tells: each figure beside its limit, in one run on one machine.
//
// It builds and starts the real server as a process of its own and sends requests over loopback from this one, on the same cores,
// so the figures include the generator. Run it alone: make bench.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	binary   = flag.String("levee", "bin/levee", "the built program")
	page     = flag.String("write", "", "write the table into this page, between its two marks")
	part     = flag.String("part", "all", "what to measure: all, engine or http")
	seconds  = flag.Int("seconds", 5, "length of each timed part")
	constant = flag.String("constant", "", "serve a constant on this address instead (the limit that refusals are set beside)")
)

func main() {
	flag.Parse()
	if *constant != "" {
		serveConstant(*constant)
		return
	}
	if err := measure(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row of the table: a figure, its limit, and the goal for their ratio.
type row struct{ what, figure, limit, ratio, goal string }

func measure(ctx context.Context) error {
	var rows []row
	if *part != "http" {
		inside, err := insideRows(ctx)
		if err != nil {
			return err
		}
		rows = append(rows, inside...)
	}
	if *part != "engine" {
		h, err := startHouse(ctx)
		if err != nil {
			return err
		}
		defer h.stop()
		over, err := h.rows(ctx)
		if err != nil {
			return err
		}
		rows = append(rows, over...)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s on %s (%d cores), %s, generator on the same cores, with `make bench`.\n\n",
		time.Now().UTC().Format("2006-01-02"), processor(), runtime.NumCPU(), runtime.Version())
	b.WriteString("| measure | figure | limit in the same run | ratio | goal |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.what, r.figure, r.limit, r.ratio, r.goal)
	}
	fmt.Print(b.String())
	if *page == "" {
		return nil
	}
	return writePage(*page, b.String())
}

const beginMark, endMark = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"

func writePage(path, table string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks %q and %q", path, beginMark, endMark)
	}
	return os.WriteFile(path, []byte(before+beginMark+table+endMark+after), 0o644)
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(.*)$`)

// insideRows runs the engine's own benchmarks: the gate, its memory, committed purchases, and a start with a million buyers.
func insideRows(ctx context.Context) ([]row, error) {
	figures := map[string]float64{}
	for _, b := range []struct{ room, name, times string }{{"gate", "Gate$", "3000000x"}, {"gate", "GateMemory$", "3x"}, {"sale", "Orders$", "300000x"},
		{"sale", "LoadGate$", "3x"}, {"sale", "Growth$", "100000x"}} {
		out, err := exec.CommandContext(ctx, "go", "test", "./internal/"+b.room, "-run", "^$", "-bench", "^Benchmark"+b.name, "-benchtime", b.times).Output()
		if err != nil {
			return nil, fmt.Errorf("go test -bench %s: %w\n%s", b.name, err, out)
		}
		for _, m := range benchLine.FindAllStringSubmatch(string(out), -1) {
			figures[m[1]], _ = strconv.ParseFloat(m[2], 64)
			for _, unit := range []string{"orders/s", "bytes/buyer"} {
				if _, after, ok := strings.Cut(m[3], "\t"); ok && strings.Contains(after, unit) {
					fields := strings.Fields(after)
					if i := slices.Index(fields, unit); i > 0 {
						figures[m[1]+" "+unit], _ = strconv.ParseFloat(fields[i-1], 64)
					}
				}
			}
		}
	}
	gate, bare := 1e3/figures["Gate/gate"], 1e3/figures["Gate/mutex_and_map"]
	orders, rows := figures["Orders/engine,_512_buyers_at_once orders/s"], figures["Orders/bare_rows,_100_a_transaction orders/s"]
	small, large := figures["Growth/1000_units"], figures["Growth/100000_units"]
	return []row{
		{"gate decisions that take, with their settlement's accounting", fmt.Sprintf("%.1f M/s", gate), fmt.Sprintf("mutex and map: %.1f M/s", bare), fmt.Sprintf("%.2f", gate/bare), "≥ 0.7"},
		{"gate decisions, sold out", fmt.Sprintf("%.0f M/s", 1e3/figures["Gate/gate,_sold_out"]), "–", "–", "–"},
		{"committed purchases in process, 512 buyers at once", fmt.Sprintf("%.0f k/s", orders/1e3), fmt.Sprintf("the same rows, 100 a transaction: %.0f k/s", rows/1e3), fmt.Sprintf("%.2f", orders/rows), "≥ 0.6"},
		{"memory of the gate per buyer who took", fmt.Sprintf("%.0f bytes", figures["GateMemory bytes/buyer"]), "–", "–", "≤ 64 bytes"},
		{"loading a gate with 1 M buyers", fmt.Sprintf("%.2f s", figures["LoadGate"]/1e9), "–", "–", "< 2 s"},
		{"cost per purchase, stock and crowd 100 times larger", fmt.Sprintf("%.1f µs", large/1e3), fmt.Sprintf("%.1f µs", small/1e3), fmt.Sprintf("%.2f", large/small), "0.8 to 1.2"},
	}, nil
}

// house is the server under measurement.
type house struct {
	cmd   *exec.Cmd
	dir   string
	addr  string
	token string
	sale  string
}

func startHouse(ctx context.Context) (*house, error) {
	dir, err := os.MkdirTemp("", "levee-bench-")
	if err != nil {
		return nil, err
	}
	h := &house{dir: dir, addr: "127.0.0.1:" + freePort()}
	h.cmd = exec.CommandContext(ctx, *binary, "demo", "--data", filepath.Join(dir, "data"), "--addr", h.addr)
	h.cmd.Env = append(os.Environ(), "LEVEE_LOG__LEVEL=warn", "LEVEE_LIMITS__RATES__PURCHASE=off", "LEVEE_LIMITS__RATES__WRITE=off")
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	if err := h.enter(); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "18080"
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (h *house) stop() {
	_ = h.cmd.Process.Signal(os.Interrupt)
	_ = h.cmd.Wait()
	_ = os.RemoveAll(h.dir)
}

// enter waits for the demonstration's sales and signs the operator in.
func (h *house) enter() error {
	deadline := time.Now().Add(30 * time.Second)
	for h.sale == "" {
		if time.Now().After(deadline) {
			return errors.New("the server did not become ready within 30 s")
		}
		time.Sleep(200 * time.Millisecond)
		text, err := os.ReadFile(filepath.Join(h.dir, "data", "accounts.json"))
		if err != nil {
			continue
		}
		accounts := map[string]string{}
		if json.Unmarshal(text, &accounts) != nil {
			continue
		}
		var grant struct {
			AccessToken string `json:"access_token"`
		}
		if h.call("POST", "/v1/sessions", map[string]any{"name": "operator", "password": accounts["operator"]}, &grant) != nil {
			continue
		}
		h.token = grant.AccessToken
		var list struct{ Sales []struct{ ID, Phase string } }
		if h.call("GET", "/v1/sales?live=true", nil, &list) != nil {
			continue
		}
		if len(list.Sales) == 3 {
			h.sale = list.Sales[2].ID
		}
	}
	return nil
}

func (h *house) call(method, path string, body, into any) error {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://"+h.addr+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s answered %d: %s", method, path, resp.StatusCode, text)
	}
	if raw, ok := into.(*[]byte); ok {
		*raw = text
		return nil
	}
	return json.Unmarshal(text, into)
}

// crowd makes a rehearsal with units and buyers, and returns each buyer's request as bytes.
func (h *house) crowd(units, buyers int) ([][]byte, error) {
	var copied struct{ ID string }
	err := h.call("POST", "/v1/sales/"+h.sale+"/rehearsals", map[string]any{"units": units, "per_buyer": 1, "starts_in_ms": 0, "lasts_seconds": 3600}, &copied)
	if err != nil {
		return nil, err
	}
	var lines []byte
	if err := h.call("POST", "/v1/sales/"+copied.ID+"/rehearsal-buyers", map[string]any{"buyers": buyers}, &lines); err != nil {
		return nil, err
	}
	requests := make([][]byte, 0, buyers)
	for line := range bytes.Lines(lines) {
		var b struct{ Token, Admission string }
		if err := json.Unmarshal(line, &b); err != nil {
			return nil, err
		}
		requests = append(requests, fmt.Appendf(nil, "POST /v1/sales/%s/purchases HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nLevee-Admission: %s\r\n"+
			"Idempotency-Key: bench\r\nContent-Length: 0\r\n\r\n", copied.ID, h.addr, b.Token, b.Admission))
	}
	return requests, nil
}

func (h *house) rows(ctx context.Context) ([]row, error) {
	length := time.Duration(*seconds) * time.Second
	// Refusals: one unit, ten thousand signed-in buyers, again and again.
	losers, err := h.crowd(1, 10_000)
	if err != nil {
		return nil, err
	}
	if _, err := send(h.addr, losers, 64, 0); err != nil { // each once: tokens are verified, the switch is shut
		return nil, err
	}
	limitAddr := "127.0.0.1:" + freePort()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	limit := exec.CommandContext(ctx, self, "-constant", limitAddr)
	if err := limit.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = limit.Process.Kill(); _ = limit.Wait() }()
	time.Sleep(300 * time.Millisecond)
	var refused, floor []float64
	for range 3 { // in turn, because a machine's speed drifts
		a, err := send(h.addr, losers, 64, length)
		if err != nil {
			return nil, err
		}
		b, err := send(limitAddr, losers, 64, length)
		if err != nil {
			return nil, err
		}
		refused, floor = append(refused, a.rate()), append(floor, b.rate())
	}
	r, f := median(refused), median(floor)
	rows := []row{{"sold-out refusals over HTTP, signed-in buyers", fmt.Sprintf("%.0f k/s", r/1e3), fmt.Sprintf("bare net/http, a constant: %.0f k/s", f/1e3), fmt.Sprintf("%.2f", r/f), "≥ 0.85, ≥ 90 k/s"}}

	mixed, err := h.crowd(20_000, 400_000)
	if err != nil {
		return nil, err
	}
	m, err := send(h.addr, mixed, 256, 0)
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{fmt.Sprintf("mixed attempts over HTTP: 400,000 buyers, 20,000 units (%d won)", m.status[201]), fmt.Sprintf("%.0f k/s", m.rate()/1e3), "–", "–", "≥ 60 k/s"})

	winners, err := h.crowd(200_000, 200_000)
	if err != nil {
		return nil, err
	}
	w, err := send(h.addr, winners, 512, 0)
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{fmt.Sprintf("committed purchases over HTTP (%d of 200,000 won)", w.status[201]), fmt.Sprintf("%.1f k/s", float64(w.status[201])/w.took.Seconds()/1e3), "–", "–", "≥ 20 k/s"})

	half := float64(w.status[201]) / w.took.Seconds() / 2
	paced, err := h.crowd(int(half*length.Seconds())+1, int(half*length.Seconds())+1)
	if err != nil {
		return nil, err
	}
	p, err := pace(h.addr, paced, 256, half)
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{fmt.Sprintf("p50 and p99 of a purchase at half of that rate (%.1f k/s), from the intended moment", half/1e3),
		fmt.Sprintf("%.1f ms, %.1f ms", quantile(p, 0.5).Seconds()*1e3, quantile(p, 0.99).Seconds()*1e3), "–", "–", "p99 ≤ 25 ms"})
	for what, t := range map[string]tally{"mixed": m, "winners": w} {
		for status := range t.status {
			if status != 201 && status != 409 {
				return nil, fmt.Errorf("%s: %d answers had the status %d", what, t.status[status], status)
			}
		}
	}
	return rows, nil
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
}

func (t tally) rate() float64 {
	n := 0
	for _, c := range t.status {
		n += c
	}
	return float64(n) / t.took.Seconds()
}

// send sends each request once over so many connections (length 0), or all of them in turn for that long.
func send(addr string, requests [][]byte, connections int, length time.Duration) (tally, error) {
	var next atomic.Int64
	var mu sync.Mutex
	total := tally{status: map[int]int{}}
	errs := make(chan error, connections)
	started := time.Now()
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			l, err := dial(addr)
			if err != nil {
				errs <- err
				return
			}
			defer l.conn.Close()
			mine := map[int]int{}
			for {
				n := next.Add(1) - 1
				if length == 0 && n >= int64(len(requests)) || length > 0 && n%64 == 0 && time.Since(started) > length {
					break
				}
				if length > 0 && time.Since(started) > length {
					break
				}
				status, err := l.ask(requests[n%int64(len(requests))])
				if err != nil {
					errs <- err
					return
				}
				mine[status]++
			}
			mu.Lock()
			defer mu.Unlock()
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

// pace sends each request at its own moment, whatever the answers, and returns how long after that moment each answer was there.
func pace(addr string, requests [][]byte, connections int, rate float64) ([]time.Duration, error) {
	var next atomic.Int64
	took := make([]time.Duration, len(requests))
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
				if _, err := l.ask(requests[n]); err != nil {
					errs <- err
					return
				}
				took[n] = time.Since(meant)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return took, nil
	}
}

// line is a keep-alive connection that speaks as little HTTP as it needs, so that the generator takes little of the cores.
type line struct {
	conn net.Conn
	in   *bufio.Reader
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
	_, err = l.in.Discard(length)
	return status, err
}

// serveConstant answers every request with the bytes of a refusal: the least that a net/http server can do.
func serveConstant(addr string) {
	body := []byte(`{"type":"urn:levee:error:sold_out","title":"Conflict","status":409,"detail":"every unit is taken; one may come back until the sale ends","error":"sold_out"}`)
	kind, length := []string{"application/problem+json"}, []string{strconv.Itoa(len(body))}
	err := http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"], h["Content-Length"] = kind, length
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write(body)
	}))
	fmt.Fprintln(os.Stderr, err)
}
