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
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/backends"
)

// person is one who buys, with what he was told.
type person struct {
	token, admission string
	order            string    // "" until he was told of one
	told             time.Time // when that was
	refused          bool      // told that all is sold
}

// crowd presses in one sale and remembers what everybody was told.
type crowd struct {
	base, sale string
	units      int

	mu     sync.Mutex // guards people and next
	people []*person
	next   int
}

const pressRate = 100 // a second

// talk sends one request and returns its status and body.
func talk(ctx context.Context, method, url, token string, body any, headers ...string) (int, []byte, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

// gather makes a rehearsal of a sale with people who may buy one unit each; there are more of them than units.
func gather(t *testing.T, base, password string, units, people int) *crowd {
	t.Helper()
	call := func(path, token string, body, into any) []byte {
		t.Helper()
		status, text, err := talk(t.Context(), "POST", base+path, token, body, "Idempotency-Key", "gather"+path)
		if err != nil || status > 299 {
			t.Fatalf("%s: %d %v %s", path, status, err, text)
		}
		if into != nil {
			if err := json.Unmarshal(text, into); err != nil {
				t.Fatal(err)
			}
		}
		return text
	}
	var session struct {
		Token string `json:"access_token"`
	}
	call("/v1/sessions", "", map[string]any{"name": "operator", "password": password}, &session)
	sale, err := (&cluster{address: strings.TrimPrefix(base, "http://")}).openSale(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var copied struct{ ID string }
	call("/v1/sales/"+sale+"/rehearsals", session.Token, map[string]any{"units": units, "per_buyer": 1, "starts_in_ms": 0, "lasts_seconds": 3600,
		"pay_within_seconds": 3600}, &copied)
	c := &crowd{base: base, sale: copied.ID, units: units}
	for line := range bytes.Lines(call("/v1/sales/"+copied.ID+"/rehearsal-buyers", session.Token, map[string]any{"buyers": people, "ttl_seconds": 7200}, nil)) {
		var p struct{ Token, Admission string }
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		c.people = append(c.people, &person{token: p.Token, admission: p.Admission})
	}
	if len(c.people) != people {
		t.Fatalf("%d people came", len(c.people))
	}
	return c
}

// ask presses once for a person: always with the same key. It returns the status of an answer that says nothing definite.
func (c *crowd) ask(ctx context.Context, p *person) (status int) {
	status, text, err := talk(ctx, "POST", c.base+"/v1/sales/"+c.sale+"/purchases", p.token, nil, "Idempotency-Key", "mine", "Levee-Admission", p.admission)
	var v struct{ Order, Error string }
	if err != nil || json.Unmarshal(text, &v) != nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case status == http.StatusCreated && v.Order != "":
		p.order, p.told = v.Order, time.Now()
		return 0
	case v.Error == "sold_out":
		p.refused = true
		return 0
	}
	return status
}

// sell lets people come, each once, until ctx ends or nobody is left.
func (c *crowd) sell(ctx context.Context) {
	var pressing sync.WaitGroup
	defer pressing.Wait()
	tick := time.NewTicker(time.Second / pressRate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.mu.Lock()
		if c.next == len(c.people) {
			c.mu.Unlock()
			return
		}
		p := c.people[c.next]
		c.next++
		c.mu.Unlock()
		pressing.Go(func() { c.ask(context.WithoutCancel(ctx), p) })
	}
}

// orders returns what was told before a moment, by person.
func (c *crowd) orders(before time.Time) map[*person]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := map[*person]string{}
	for _, p := range c.people {
		if p.order != "" && p.told.Before(before) {
			told[p] = p.order
		}
	}
	return told
}

// finish has everybody ask, also those who had an order, until each knows. The error says what is not as it must be: what was told before must be
// told again, nothing may be sold twice and nothing may be left over.
func (c *crowd) finish(ctx context.Context, kept map[*person]string) (said string, err error) {
	for _, p := range c.people {
		p.order, p.refused = "", false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ask := func(people []*person) {
		ahead := make(chan *person)
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for p := range ahead {
					for c.ask(ctx, p); p.order == "" && !p.refused && ctx.Err() == nil; c.ask(ctx, p) {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		for _, p := range people {
			ahead <- p
		}
		close(ahead)
		asking.Wait()
	}
	// Those who had an order first: had it been lost, the rest would buy what is theirs.
	var had, others []*person
	for _, p := range c.people {
		if kept[p] != "" {
			had = append(had, p)
		} else {
			others = append(others, p)
		}
	}
	ask(had)
	ask(others)
	lost, unknown, have := 0, 0, map[string]bool{}
	for _, p := range c.people {
		switch {
		case p.order != "":
			have[p.order] = true
		case !p.refused:
			unknown++
		}
		if kept[p] != "" && p.order != kept[p] {
			lost++
		}
	}
	said = fmt.Sprintf("%d orders told before, %d of them are gone; now %d of %d units are sold to %d people, %d of whom do not know", len(kept), lost,
		len(have), c.units, len(c.people), unknown)
	if lost > 0 || unknown > 0 || len(have) != c.units {
		err = errors.New(said)
	}
	return said, err
}

// finished fails the test unless all is as it must be.
func (c *crowd) finished(t *testing.T, kept map[*person]string) {
	t.Helper()
	said, err := c.finish(t.Context(), kept)
	if err != nil {
		t.Error(err)
	}
	t.Log(said)
}

// sh runs a command as a person types it.
func sh(t *testing.T, environ []string, line string) (said string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", line)
	cmd.Env = append(os.Environ(), environ...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustSh(t *testing.T, environ []string, line string) string {
	t.Helper()
	said, err := sh(t, environ, line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, said)
	}
	return said
}

// script takes the commands of docs/operate.md that stand in the block beginning with "# name", so that what is tried here is what people are
// told to type.
func script(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```sh\n# "+name+"\n")
	lines, _, ended := strings.Cut(rest, "```\n")
	if !found || !ended {
		t.Fatalf("docs/operate.md has no block of commands that begins with %q", "# "+name)
	}
	return lines
}

func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
}

// A dump that was taken while the house sold is restored on a new server beside an empty Redis: with the binary log nothing is lost, without it
// what was told after the dump. In either case the sale goes on, and no unit is sold twice.
func TestRestore(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB, Redis, nodes and nginx, and restores twice")
	}
	needPrograms(t, "mariadb", "mariadb-dump", "mariadb-binlog")
	if _, err := backends.Nginx(t.Context()); err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	_, levee := build(t)
	c, err := start(t.Context(), levee, freeAddr(t), t.TempDir(), 2, 0)
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer c.stop()
	accounts, err := c.accounts()
	if err != nil {
		t.Fatal(err)
	}
	people := gather(t, "http://"+c.address, accounts["operator"], 1000, 1200)
	backup := t.TempDir()

	// People buy; the dump is taken among them, and then every node dies.
	selling, stop := context.WithCancel(t.Context())
	var sold sync.WaitGroup
	sold.Go(func() { people.sell(selling) })
	time.Sleep(3 * time.Second)
	server := func(s *backends.MySQLServer) []string {
		host, port, err := net.SplitHostPort(s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		return []string{"DB_HOST=" + host, "DB_PORT=" + port, "DB_USER=root", "BACKUP=" + backup}
	}
	before := time.Now()
	mustSh(t, server(c.mysql), script(t, "dump"))
	took := time.Since(before)
	time.Sleep(2 * time.Second)
	for _, n := range c.nodes {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	sold.Wait()
	early, all := people.orders(before), people.orders(time.Now())
	if len(early) < 50 || len(all) < len(early)+50 || len(all) > people.units-100 {
		t.Fatalf("%d were told before the dump and %d in all: nothing would be proved", len(early), len(all))
	}
	t.Logf("the dump took %v; %d orders were told before it, %d in all", took.Round(time.Millisecond), len(early), len(all))

	// What the old machine's disk still has.
	data, err := c.mysql.QueryString(t.Context(), "SELECT @@datadir")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.mysql.Kill(); err != nil {
		t.Fatal(err)
	}
	old, oldRedis := c.mysql, c.redis
	defer old.Close()
	defer oldRedis.Close()

	restore := func(t *testing.T, binlog, emptyRedis bool) {
		ctx := t.Context()
		fresh, err := backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true, Settings: map[string]string{"max_connections": "500"}})
		if err != nil {
			t.Fatal(err)
		}
		c.mysql, c.dbURL = fresh, fresh.URL()+database
		t.Cleanup(func() { _ = fresh.Close() })
		mustSh(t, server(fresh), script(t, "restore"))
		if binlog {
			mustSh(t, append(server(fresh), "OLD="+data), script(t, "replay"))
		}
		c.redis = oldRedis
		if emptyRedis {
			if c.redis, err = backends.StartRedis(ctx, backends.RedisOptions{Durable: true, AOF: true}); err != nil {
				t.Fatal(err)
			}
			started := c.redis
			t.Cleanup(func() { _ = started.Close() })
		}
		for i := range c.nodes {
			if err := c.startNode(ctx, i, "serve"); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			for _, n := range c.nodes {
				if err := n.End(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
		c.examined(t)
		kept := early
		if binlog {
			kept = all
		}
		people.finished(t, kept)
		c.examined(t)
	}
	t.Run("dump and binary log", func(t *testing.T) { restore(t, true, true) })
	t.Run("dump alone", func(t *testing.T) {
		restore(t, false, true)
		// The control: what was told after the dump is not in it, and so the first part has restored something.
		lost := 0
		for p, order := range all {
			if p.order != order {
				lost++
			}
		}
		if lost == 0 || lost > len(all)-len(early) {
			t.Errorf("%d of %d orders told after the dump are gone", lost, len(all)-len(early))
		}
	})
	// Redis that was left as it was is ahead of the restored ledger: it is loaded anew, without anybody's help.
	t.Run("dump alone, Redis as it was", func(t *testing.T) { restore(t, false, false) })
}

// silent is what the doctor says of the nodes that ran when the dump was taken; it is the one thing that it may say.
var silent = regexp.MustCompile(`(?m)^WARN   nodes: node-\d at \S+ has fallen silent\n       do: .*\n`)

// examined has levee doctor look at the house: all must be well but the dump's own nodes.
func (c *cluster) examined(t *testing.T) {
	t.Helper()
	said, err := sh(t, c.environment(), c.levee+" doctor")
	rest := silent.ReplaceAllString(said, "")
	if err != nil || strings.Contains(rest, "WARN") || strings.Contains(rest, "WRONG") || !strings.Contains(rest, "sale ") || !strings.Contains(rest, "nodes") && rest == said {
		t.Fatalf("levee doctor: %v\n%s", err, said)
	}
}

// A copy of SQLite's file that was taken while the house sold holds every order that was told before.
func TestRestoreSQLite(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the program three times")
	}
	needPrograms(t, "sqlite3")
	_, levee := build(t)
	addr, err := backends.TakeAddress()
	if err != nil {
		t.Fatal(err)
	}
	defer addr.Free()
	dir := t.TempDir()
	serve := func(command, data, wait string) *backends.Program {
		var p *backends.Program
		p, err := backends.PrepareProgram(backends.ProgramOptions{Name: "levee", Path: levee, Args: []string{command, "--data", data, "--addr", addr.String()},
			Ready: func(ctx context.Context) error {
				if !strings.Contains(p.Log(), wait) {
					return fmt.Errorf("it has not said %q", wait)
				}
				return get(ctx, "http://"+addr.String()+"/readyz", nil)
			}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	data := filepath.Join(dir, "data")
	demo := serve("demo", data, "Stop with Ctrl-C.")
	accounts, err := (&cluster{data: data}).accounts()
	if err != nil {
		t.Fatal(err)
	}
	people := gather(t, "http://"+addr.String(), accounts["operator"], 600, 800)
	selling, stop := context.WithCancel(t.Context())
	var sold sync.WaitGroup
	sold.Go(func() { people.sell(selling) })
	time.Sleep(2 * time.Second)
	before := time.Now()
	backup := filepath.Join(dir, "backup")
	if err := os.Mkdir(backup, 0o700); err != nil {
		t.Fatal(err)
	}
	environ := []string{"DATA=" + data, "BACKUP=" + backup}
	mustSh(t, environ, script(t, "copy"))
	time.Sleep(time.Second)
	if err := demo.Kill(); err != nil {
		t.Fatal(err)
	}
	stop()
	sold.Wait()
	early, all := people.orders(before), people.orders(time.Now())
	if len(early) < 50 || len(all) < len(early)+30 {
		t.Fatalf("%d were told before the copy and %d in all: nothing would be proved", len(early), len(all))
	}
	said := mustSh(t, nil, levee+" doctor --data "+backup)
	if !strings.Contains(said, "All is well.") {
		t.Errorf("levee doctor of the copy: %s", said)
	}
	again := serve("serve", backup, "Levee serves at")
	people.finished(t, early)
	if err := again.End(t.Context()); err != nil {
		t.Error(err)
	}
	if said := mustSh(t, nil, levee+" doctor --data "+backup); !strings.Contains(said, "All is well.") {
		t.Errorf("levee doctor of the restored house: %s", said)
	}
}

// The control of both: a house that forgets orders, sells too much, or leaves something over is told of.
func TestFinishFinds(t *testing.T) {
	var mu sync.Mutex
	told, forgets, stock := map[string]string{}, false, 2
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		who := r.Header.Get("Authorization")
		if told[who] == "" && len(told) == stock {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"error":"sold_out"}`)
			return
		}
		if told[who] == "" || forgets {
			told[who] = fmt.Sprintf("ord_%s_%d", who, time.Now().UnixNano())
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"order":%q}`, told[who])
	}))
	defer server.Close()
	c := &crowd{base: server.URL, sale: "sal_1", units: 2, people: []*person{{token: "a"}, {token: "b"}, {token: "c"}}}
	c.sell(t.Context())
	kept := c.orders(time.Now())
	if said, err := c.finish(t.Context(), kept); err != nil || len(kept) != 2 {
		t.Fatalf("a true house: %s, %v", said, err)
	}
	c.units = 3
	if said, err := c.finish(t.Context(), kept); err == nil {
		t.Error("a unit that is left over is not missed:", said)
	}
	c.units, stock = 2, 3
	if said, err := c.finish(t.Context(), kept); err == nil {
		t.Error("a unit too many is not seen:", said)
	}
	c.units, stock, forgets = 3, 3, true
	if said, err := c.finish(t.Context(), kept); err == nil {
		t.Error("orders that are gone are not missed:", said)
	}
}
