package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// program is a server under measurement: this house or a peer.
type program struct {
	path, dir, addr string
	args, env       []string
	ready, says     string // a path that answers, with this in it, when the program is ready
	log             string // file for what it prints; none if empty
	cmd             *exec.Cmd
}

// start starts the program and waits until it is ready.
func (p *program) start(ctx context.Context) error {
	p.cmd = exec.CommandContext(ctx, p.path, p.args...)
	p.cmd.Dir, p.cmd.Env = p.dir, append(os.Environ(), p.env...)
	if p.log != "" {
		out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer out.Close() // the program has its own
		p.cmd.Stdout, p.cmd.Stderr = out, out
	}
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		return err
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + p.addr + p.ready)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && (resp.StatusCode < 300 || p.ready == "/") && bytes.Contains(text, []byte(p.says)) {
			return nil
		}
	}
	return fmt.Errorf("%s was not ready within two minutes\n%s", p.path, p.tail())
}

func (p *program) tail() []byte {
	text, _ := os.ReadFile(p.log)
	return text[max(0, len(text)-2000):]
}

// kill is SIGKILL. It returns when the process is gone.
func (p *program) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
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

// quiet is the environment of every node: brakes that a generator on one address would meet are off.
func quiet() []string {
	env := []string{"LEVEE_LOG__LEVEL=warn", "LEVEE_IDENTITY__ACCESS_TTL=1h", "LEVEE_PAYMENT__SANDBOX__ENABLED=true"}
	for _, name := range []string{"PURCHASE", "WRITE", "READ", "SIGN_IN"} {
		env = append(env, "LEVEE_LIMITS__RATES__"+name+"=off")
	}
	return env
}

// house is the nodes under measurement.
type house struct {
	dir   string
	env   []string
	nodes []*program
	token string
	sale  string // that rehearsals copy
}

// node adds a node, not started yet.
func (h *house) node(command, data string) *program {
	path, err := filepath.Abs(*binary)
	if err != nil {
		path = *binary
	}
	p := &program{path: path, addr: "127.0.0.1:" + freePort(), env: h.env, ready: "/readyz", log: data + ".log"}
	p.args = []string{command, "--data", data, "--addr", p.addr}
	h.nodes = append(h.nodes, p)
	return p
}

// startHouse starts one node with an environment, and makes an operator and a sale that rehearsals copy.
func startHouse(ctx context.Context, env ...string) (_ *house, err error) {
	h := &house{env: append(quiet(), env...)}
	if h.dir, err = os.MkdirTemp("", "levee-bench-"); err != nil {
		return nil, err
	}
	if err = h.grow(ctx); err == nil {
		err = h.furnish()
	}
	if err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

// grow starts one more node.
func (h *house) grow(ctx context.Context) error {
	return h.node("serve", filepath.Join(h.dir, fmt.Sprintf("node-%d", len(h.nodes)))).start(ctx)
}

var setupCode = regexp.MustCompile(`POST /v1/setup\): (\S+)`)

func (h *house) furnish() error {
	var code [][]byte
	for deadline := time.Now().Add(10 * time.Second); code == nil; time.Sleep(50 * time.Millisecond) {
		if code = setupCode.FindSubmatch(h.nodes[0].tail()); code == nil && time.Now().After(deadline) {
			return fmt.Errorf("the house printed no setup code:\n%s", h.nodes[0].tail())
		}
	}
	const password = "quiet-levee-at-dusk-41"
	if err := h.call("POST", "/v1/setup", map[string]any{"code": string(code[1]), "name": "keeper", "password": password}, nil); err != nil {
		return err
	}
	if err := h.signIn("keeper", password); err != nil {
		return err
	}
	money := func(minor int) map[string]any { return map[string]any{"amount": minor, "currency": "CNY"} }
	var made struct {
		ID   string
		SKUs []struct{ ID string }
	}
	if err := h.call("POST", "/v1/products", map[string]any{"code": "LAMP", "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": "LAMP-1", "price": money(9900), "on_hand": 1_000_000}}}, &made); err != nil {
		return err
	}
	now := time.Now()
	if err := h.call("POST", "/v1/sales", map[string]any{"title": "Lamps", "sku": made.SKUs[0].ID, "price": money(4900), "units": 1000, "per_buyer": 1,
		"starts_at": now.Add(-time.Second), "ends_at": now.Add(24 * time.Hour)}, &made); err != nil {
		return err
	}
	h.sale = made.ID
	return h.call("POST", "/v1/sales/"+h.sale+"/acts", map[string]any{"act": "schedule", "reason": "measurement"}, nil)
}

func (h *house) signIn(name, password string) error {
	var grant struct {
		AccessToken string `json:"access_token"`
	}
	h.token = ""
	err := h.call("POST", "/v1/sessions", map[string]any{"name": name, "password": password}, &grant)
	h.token = grant.AccessToken
	return err
}

// stop ends all nodes in order, and kills what has not ended by then.
func (h *house) stop() {
	for _, p := range h.nodes {
		if p.cmd == nil {
			continue
		}
		_ = p.cmd.Process.Signal(os.Interrupt)
		hard := time.AfterFunc(40*time.Second, func() { _ = p.cmd.Process.Kill() })
		_ = p.cmd.Wait()
		hard.Stop()
	}
	_ = os.RemoveAll(h.dir)
}

func (h *house) addrs() (list []string) {
	for _, p := range h.nodes {
		list = append(list, p.addr)
	}
	return list
}

// call asks the first node; into may be nil, or a *[]byte for the answer as it is.
func (h *house) call(method, path string, body, into any) error {
	return h.callAt(h.nodes[0].addr, method, path, body, into)
}

func (h *house) callAt(addr, method, path string, body, into any) error {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://"+addr+path, r)
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
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// crowd is a rehearsal and each of its buyers' purchase as bytes.
type crowd struct {
	sale     string
	requests [][]byte
}

// crowd makes a rehearsal with units and buyers, and waits until every node sells it.
func (h *house) crowd(units, buyers int) (*crowd, error) {
	var copied struct{ ID string }
	err := h.call("POST", "/v1/sales/"+h.sale+"/rehearsals", map[string]any{"units": units, "per_buyer": 1, "starts_in_ms": 0, "lasts_seconds": 3600}, &copied)
	if err != nil {
		return nil, err
	}
	var lines []byte
	if err := h.call("POST", "/v1/sales/"+copied.ID+"/rehearsal-buyers", map[string]any{"buyers": buyers}, &lines); err != nil {
		return nil, err
	}
	c := &crowd{sale: copied.ID, requests: make([][]byte, 0, buyers)}
	for line := range bytes.Lines(lines) {
		var b struct{ Token, Admission string }
		if err := json.Unmarshal(line, &b); err != nil {
			return nil, err
		}
		c.requests = append(c.requests, fmt.Appendf(nil, "POST /v1/sales/%s/purchases HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nLevee-Admission: %s\r\n"+
			"Idempotency-Key: bench\r\nContent-Length: 0\r\n\r\n", c.sale, h.nodes[0].addr, b.Token, b.Admission))
	}
	for _, p := range h.nodes {
		var view struct{ Phase string }
		for deadline := time.Now().Add(10 * time.Second); view.Phase != "open"; time.Sleep(20 * time.Millisecond) {
			if err := h.callAt(p.addr, "GET", "/v1/sales/"+c.sale, nil, &view); err != nil && !strings.Contains(err.Error(), "answered 404") {
				return nil, err
			}
			if view.Phase != "open" && time.Now().After(deadline) {
				return nil, errors.New("a rehearsal was not open on every node within 10 s")
			}
		}
	}
	return c, nil
}

// rest waits until the nodes have nothing left to do: each takes less than a tenth of a core for a second. After a crowd has
// bought they relay what happened, which takes the cores that the next measurement needs.
func (h *house) rest() error {
	used := func() (seconds float64, err error) {
		for _, p := range h.nodes {
			var text []byte
			if err := h.callAt(p.addr, "GET", "/metrics", nil, &text); err != nil {
				return 0, err
			}
			for line := range strings.Lines(string(text)) {
				if value, ok := strings.CutPrefix(line, "process_cpu_seconds_total "); ok {
					s, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
					if err != nil {
						return 0, err
					}
					seconds += s
				}
			}
		}
		return seconds, nil
	}
	before, err := used()
	for deadline := time.Now().Add(2 * time.Minute); err == nil && time.Now().Before(deadline); {
		time.Sleep(time.Second)
		var now float64
		if now, err = used(); err == nil && now-before < 0.1*float64(len(h.nodes)) {
			return nil
		}
		before = now
	}
	if err == nil {
		err = errors.New("the nodes were still at work two minutes after the crowd")
	}
	return err
}

// refusals measures, in turn because a machine's speed drifts, what the house and the constant at limit refuse in a second: one unit, ten
// thousand signed-in buyers, again and again. all is what the house answered in all rounds.
func (h *house) refusals(limit string, length time.Duration) (refused, floor float64, all tally, err error) {
	losers, err := h.crowd(1, 10_000)
	if err != nil {
		return 0, 0, all, err
	}
	for i := range h.nodes { // each once on each node: tokens are verified, the switch is shut
		if _, err := send(h.addrs()[i:i+1], losers.requests, 64, 0); err != nil {
			return 0, 0, all, err
		}
	}
	all.status = map[int]int{}
	var a, b []float64
	for range 3 {
		ours, err := send(h.addrs(), losers.requests, 64, length)
		if err != nil {
			return 0, 0, all, err
		}
		constant, err := send([]string{limit}, losers.requests, 64, length)
		if err != nil {
			return 0, 0, all, err
		}
		for status, n := range ours.status {
			all.status[status] += n
		}
		all.odd = ours.odd
		a, b = append(a, float64(ours.status[409])/ours.took.Seconds()), append(b, constant.rate())
	}
	return median(a), median(b), all, nil
}

// paced sends purchases that all win at a rate to the first node, and returns p50 and p99 of how long after its intended moment each was
// answered, with how many were not answered with an order.
func (h *house) paced(rate float64, length time.Duration) (string, error) {
	n := int(rate*length.Seconds()) + 1
	c, err := h.crowd(n, n)
	if err != nil {
		return "", err
	}
	took, others, err := pace(h.nodes[0].addr, c.requests, 256, rate)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%.1f ms, %.1f ms", quantile(took, 0.5).Seconds()*1e3, quantile(took, 0.99).Seconds()*1e3)
	if others > 0 {
		text += fmt.Sprintf(" (%d of %d without an order)", others, n)
	}
	return text, nil
}
