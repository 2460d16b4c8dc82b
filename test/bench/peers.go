package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"levee/internal/platform/backends"
)

// The work of each program: one unit for the first ten thousand of sixty thousand buyers, once to the end, and once until it is killed.
const (
	peerUnits       = 10_000 // what one of the peers always sells
	peerBuyers      = 60_000
	peerConnections = 64
	killAfter       = 5_000 // buyers who were told that they won
)

// contender is a program that sells to a crowd, begun anew: with an empty database, an empty Redis and a sale of peerUnits.
type contender interface {
	// server is the process; kill and start are a crash and the start after it.
	server() *program
	// attempts returns one purchase for each buyer.
	attempts() ([][]byte, error)
	// judge reads the answer to buyer n: under which name his order must be in the database, "" if he was not told that he won.
	judge(n, status int, body []byte) (told string)
	// orders counts the orders in the program's own database by those names.
	orders(ctx context.Context) (map[string]int, error)
	close()
}

// known are the programs that can be driven, by their names; a peer has a folder in which it was built.
var known = map[string]struct {
	where string // its public address and the commit that docs/performance.md speaks of
	begin func(ctx context.Context, s servers, folder string) (contender, error)
}{
	"hm-dianping-go":     {"github.com/wengyuechuan/hm-dianping-go 4c96ace658ba", beginDianping},
	"not_golang_contest": {"github.com/pcristin/not_golang_contest 601c19e17396", beginContest},
}

func peerNames() []string { return slices.Sorted(maps.Keys(known)) }

// peerFlags is name to folder.
type peerFlags map[string]string

func (p peerFlags) String() string { return "" }

// Set reads NAME=FOLDER.
func (p peerFlags) Set(text string) error {
	name, folder, ok := strings.Cut(text, "=")
	if _, is := known[name]; !ok || !is {
		return fmt.Errorf("must be NAME=FOLDER with a name of %s", strings.Join(peerNames(), ", "))
	}
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(folder, "server")); err != nil {
		return fmt.Errorf("the folder must hold the program, built, as the file server: %w", err)
	}
	p[name] = folder
	return nil
}

func measurePeers(ctx context.Context, s servers) error {
	type entry struct {
		name  string
		begin func() (contender, error)
	}
	list := []entry{
		{"Levee, embedded", func() (contender, error) { return beginLevee(ctx, servers{}) }},
		{"Levee, distributed, one node", func() (contender, error) { return beginLevee(ctx, s) }},
	}
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		k := known[name]
		list = append(list, entry{k.where, func() (contender, error) { return k.begin(ctx, s, peers[name]) }})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| program | attempts a second | told that they won | orders in its database, of %d units | told before `kill -9` | orders of these lost |\n| --- | --- | --- | --- | --- | --- |\n", peerUnits)
	for _, e := range list {
		whole, err := duel(ctx, e.begin, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		killed, err := duel(ctx, e.begin, killAfter)
		if err != nil {
			return fmt.Errorf("%s, killed: %w", e.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %+v, killed: %+v\n", e.name, whole, killed)
		fmt.Fprintf(&b, "| %s | %s | %d%s | %d%s | %d | %s |\n", e.name, whole.rate(), whole.told, whole.losses(), whole.found, whole.doubles(), killed.told, killed.share())
	}
	return publish("bench-peers", fmt.Sprintf(" %d buyers at %d connections, %d units, one each, against the same generator, pinned to the last core; the program, its database and its Redis "+
		"begun anew for each run; kill -9 of the program alone, at the %dth buyer who was told that he won, then started again and left until its database was calm.",
		peerBuyers, peerConnections, peerUnits, killAfter), b.String())
}

// outcome of one run.
type outcome struct {
	answered, told int
	failed         int // answers of 500 and more
	took           time.Duration
	found, twice   int // orders in the database, and how many of them are not a buyer's first
	lost           int // told, and without an order
}

func (o outcome) rate() string {
	text := thousands(float64(o.answered) / o.took.Seconds())
	if o.failed > 0 {
		text += fmt.Sprintf(" (%d with an error)", o.failed)
	}
	return text
}

func (o outcome) losses() string {
	if o.lost == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d of them without an order)", o.lost)
}

func (o outcome) doubles() string {
	if o.twice == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d a second one)", o.twice)
}

func (o outcome) share() string {
	if o.lost == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.0f %%)", o.lost, 100*float64(o.lost)/float64(o.told))
}

// duel begins a program anew, drives it, kills it when so many were told that they won (0: never), and compares what was told with what is there.
func duel(ctx context.Context, begin func() (contender, error), killAt int) (o outcome, err error) {
	c, err := begin()
	if err != nil {
		return o, err
	}
	defer c.close()
	requests, err := c.attempts()
	if err != nil {
		return o, err
	}
	release, err := pin()
	if err != nil {
		return o, err
	}
	o, told, err := drive(c, requests, killAt)
	release()
	if err != nil {
		return o, err
	}
	if killAt > 0 {
		if c.server().cmd != nil {
			return o, fmt.Errorf("only %d of %d buyers were told that they won: it was not killed", o.told, killAt)
		}
		if err := c.server().start(ctx); err != nil {
			return o, err
		}
	}
	orders, err := calm(ctx, c)
	if err != nil {
		return o, err
	}
	for _, n := range orders {
		o.found += n
		o.twice += n - 1
	}
	for _, name := range told {
		if orders[name] == 0 {
			o.lost++
		}
	}
	return o, nil
}

// drive lets each buyer try once, and returns the names of those who were told that they won. It stops early when the program was killed.
func drive(c contender, requests [][]byte, killAt int) (o outcome, told []string, err error) {
	var next, won, done, failed atomic.Int64
	var killed atomic.Bool
	var mu sync.Mutex
	errs := make(chan error, peerConnections)
	addr := c.server().addr
	started := time.Now()
	var wg sync.WaitGroup
	for range peerConnections {
		wg.Go(func() {
			l, err := dial(addr)
			if err != nil {
				errs <- err
				return
			}
			defer l.conn.Close()
			var mine []string
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, mine...)
			}()
			for n := next.Add(1) - 1; n < int64(len(requests)); n = next.Add(1) - 1 {
				status, err := l.ask(requests[n])
				if err != nil {
					if !killed.Load() {
						errs <- fmt.Errorf("buyer %d: %w", n, err)
					}
					return
				}
				if name := c.judge(int(n), status, l.body); name != "" {
					mine = append(mine, name)
					if won.Add(1) == int64(killAt) {
						killed.Store(true)
						c.server().kill()
					}
				}
				if done.Add(1); status >= 500 {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	o = outcome{answered: int(done.Load()), told: len(told), failed: int(failed.Load()), took: time.Since(started)}
	select {
	case err = <-errs:
	default:
	}
	return o, told, err
}

// calm waits until the orders have not changed for five seconds: what a program settles after its answers shall count.
func calm(ctx context.Context, c contender) (orders map[string]int, err error) {
	since, last := time.Now(), -1
	for deadline := since.Add(3 * time.Minute); time.Since(since) < 5*time.Second; time.Sleep(500 * time.Millisecond) {
		if orders, err = c.orders(ctx); err != nil {
			return nil, err
		}
		sum := 0
		for _, n := range orders {
			sum += n
		}
		if sum != last {
			since, last = time.Now(), sum
		}
		if time.Now().After(deadline) {
			return nil, errors.New("its database was not calm within three minutes")
		}
	}
	return orders, nil
}

// between returns what stands between two texts, "" if they do not stand there.
func between(body []byte, before, after string) string {
	_, rest, ok := bytes.Cut(body, []byte(before))
	inside, _, ok2 := bytes.Cut(rest, []byte(after))
	if !ok || !ok2 {
		return ""
	}
	return string(inside)
}

// levee is this house: a rehearsal, whose orders are as real as others for the engine.
type levee struct {
	*house
	*crowd
	end []func()
}

// beginLevee begins one node: on MySQL and a Redis of its own, or embedded if there is no MySQL.
func beginLevee(ctx context.Context, s servers) (contender, error) {
	l := &levee{}
	var err error
	if s.mysql == nil {
		l.house, err = startHouse(ctx)
	} else {
		var redis *backends.RedisServer
		if redis, err = startRedis(ctx); err != nil {
			return nil, err
		}
		l.end = append(l.end, func() { warn(redis.Close()) })
		var drop func()
		if l.house, drop, err = cluster(ctx, s.mysql, redis); err == nil {
			l.end = append(l.end, drop)
		}
	}
	if err == nil {
		l.end = append(l.end, l.house.stop)
		l.crowd, err = l.house.crowd(peerUnits, peerBuyers)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *levee) server() *program            { return l.nodes[0] }
func (l *levee) attempts() ([][]byte, error) { return l.requests, nil }
func (l *levee) close() {
	for _, end := range slices.Backward(l.end) {
		end()
	}
}

func (l *levee) judge(_, status int, body []byte) string {
	if status != 201 {
		return ""
	}
	if order := between(body, `"order":"`, `"`); order != "" {
		return order
	}
	return "an order without a number"
}

// orders walks the operator's list of the sale's orders, which is read from SQL.
func (l *levee) orders(context.Context) (map[string]int, error) {
	found := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Items []struct{ ID string }
			Next  string
		}
		if err := l.call("GET", "/v1/orders?limit=100&sale="+l.crowd.sale+cursor, nil, &page); err != nil {
			return nil, err
		}
		for _, o := range page.Items {
			found[o.ID]++
		}
		if cursor = "&cursor=" + page.Next; page.Next == "" {
			return found, nil
		}
	}
}

// stranger is what peers have in common.
type stranger struct {
	*program
	end []func()
}

func (s *stranger) server() *program { return s.program }
func (s *stranger) close() {
	s.kill()
	for _, end := range slices.Backward(s.end) {
		end()
	}
}

// beginStranger makes a Redis and a folder for a peer, which was built as the file server in another folder.
func beginStranger(ctx context.Context, folder string) (s *stranger, redis *backends.RedisServer, dir string, err error) {
	if redis, err = startRedis(ctx); err != nil {
		return nil, nil, "", err
	}
	if dir, err = os.MkdirTemp("", "levee-bench-peer-"); err != nil {
		return nil, nil, "", errors.Join(err, redis.Close())
	}
	port := freePort()
	s = &stranger{program: &program{path: filepath.Join(folder, "server"), dir: folder, addr: "127.0.0.1:" + port, ready: "/health"}}
	s.end = append(s.end, func() { warn(redis.Close()); _ = os.RemoveAll(dir) })
	_, port, _ = strings.Cut(redis.Addr(), ":")
	return s, redis, dir, nil
}

// number is the names of buyers as numbers from 1.
func number(n int) string { return strconv.Itoa(n + 1) }

// dianping: a script in Redis takes stock and writes a stream, three consumers write its entries into MySQL. A buyer who won is told so before
// there is an order; its rows have no number that he was told, so buyers are compared.
type dianping struct {
	*stranger
	mysql    *backends.MySQLServer
	database string
	voucher  string
	key      []byte
}

func beginDianping(ctx context.Context, s servers, folder string) (contender, error) {
	x, redis, dir, err := beginStranger(ctx, folder)
	if err != nil {
		return nil, err
	}
	d := &dianping{stranger: x, mysql: s.mysql, key: []byte("a key for this run")}
	if err := d.begin(ctx, redis, dir); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dianping) begin(ctx context.Context, redis *backends.RedisServer, dir string) error {
	where, drop, err := d.mysql.NewDatabase(ctx)
	if err != nil {
		return err
	}
	d.end = append(d.end, drop)
	u, err := url.Parse(where)
	if err != nil {
		return err
	}
	d.database = strings.Trim(u.Path, "/")
	_, port, _ := strings.Cut(d.addr, ":")
	redisHost, redisPort, _ := strings.Cut(redis.Addr(), ":")
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"server":   map[string]any{"port": port, "mode": "release"},
		"database": map[string]any{"host": u.Hostname(), "port": u.Port(), "username": u.User.Username(), "password": d.mysql.Password(), "dbname": d.database, "charset": "utf8mb4"},
		"redis":    map[string]any{"host": redisHost, "port": redisPort, "db": 0},
		"jwt":      map[string]any{"secret": string(d.key), "expire_time": 86400},
	})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "application.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	// It makes its tables itself, all but this one.
	if err := d.mysql.Exec(ctx, "CREATE TABLE "+d.database+".tb_seckill_voucher (voucher_id BIGINT UNSIGNED NOT NULL PRIMARY KEY, stock BIGINT NOT NULL, "+
		"create_time DATETIME(3) NOT NULL, begin_time DATETIME(3) NOT NULL, end_time DATETIME(3) NOT NULL, update_time DATETIME(3) NOT NULL)"); err != nil {
		return err
	}
	d.args, d.env = []string{"-config", file}, []string{"GIN_MODE=release"}
	if err := d.start(ctx); err != nil {
		return err
	}
	var made struct {
		Success bool
		Data    struct{ VoucherID int }
	}
	h := &house{nodes: []*program{d.program}}
	begin := time.Now().Add(time.Second)
	err = h.call("POST", "/api/voucher/seckill", map[string]any{"shopId": 1, "title": "Lamp", "payValue": 9900, "actualValue": 4900, "stock": peerUnits,
		"beginTime": begin, "endTime": begin.Add(time.Hour)}, &made)
	if err != nil || !made.Success {
		return fmt.Errorf("the voucher was not made: %w", err)
	}
	d.voucher = strconv.Itoa(made.Data.VoucherID)
	time.Sleep(time.Until(begin))
	return nil
}

func (d *dianping) attempts() ([][]byte, error) {
	requests := make([][]byte, peerBuyers)
	encode := base64.RawURLEncoding.EncodeToString
	head, now := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)), time.Now().Unix()
	for n := range requests {
		token := head + "." + encode(fmt.Appendf(nil, `{"userId":%s,"iss":"hm-dianping","iat":%d,"nbf":%d,"exp":%d}`, number(n), now, now, now+86400))
		mac := hmac.New(sha256.New, d.key)
		mac.Write([]byte(token))
		requests[n] = fmt.Appendf(nil, "POST /api/voucher-order/seckill/%s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s.%s\r\nContent-Length: 0\r\n\r\n", d.voucher, token, encode(mac.Sum(nil)))
	}
	return requests, nil
}

func (d *dianping) judge(n, status int, body []byte) string {
	if status == 200 && bytes.Contains(body, []byte(`"success":true`)) {
		return number(n)
	}
	return ""
}

func (d *dianping) orders(ctx context.Context) (map[string]int, error) {
	text, err := d.mysql.QueryString(ctx, "SET STATEMENT group_concat_max_len=16000000 FOR SELECT GROUP_CONCAT(user_id SEPARATOR '\n') FROM "+d.database+".tb_voucher_order")
	return countLines(text), err
}

func countLines(text string) map[string]int {
	found := map[string]int{}
	for _, line := range strings.Fields(text) {
		found[line]++
	}
	return found
}

// contest: counters in Redis, a checkout code for a buyer who won, a channel in memory that leads to PostgreSQL. He is told that he won when he
// gets the code, and the checkout is what is looked for: the purchase that the code is for cannot be driven under load, because all codes of one
// second are the same. It begins a sale of ten thousand at its first start and at each full hour.
type contest struct {
	*stranger
	postgres string // URL
}

func beginContest(ctx context.Context, _ servers, folder string) (contender, error) {
	if left := time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)); left < 2*time.Minute {
		time.Sleep(left + time.Second)
	}
	x, redis, dir, err := beginStranger(ctx, folder)
	if err != nil {
		return nil, err
	}
	c := &contest{stranger: x}
	address, stop, err := startPostgres(ctx, dir)
	if err == nil {
		c.end = append(c.end, stop)
		_, port, _ := strings.Cut(c.addr, ":")
		c.postgres = address
		c.env = []string{"PORT=" + port, "REDIS_URL=" + redis.Addr(), "POSTGRES_URL=" + address, "TZ=UTC"}
		c.says = `"is_active":true`
		err = c.start(ctx)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *contest) attempts() ([][]byte, error) {
	requests := make([][]byte, peerBuyers)
	for n := range requests {
		requests[n] = fmt.Appendf(nil, "POST /checkout?user_id=%s&id=1 HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n", number(n))
	}
	return requests, nil
}

func (c *contest) judge(n, status int, _ []byte) string {
	if status == 201 {
		return number(n)
	}
	return ""
}

func (c *contest) orders(ctx context.Context) (map[string]int, error) {
	out, err := exec.CommandContext(ctx, "psql", c.postgres, "-AtXc", "SELECT user_id FROM checkout_attempts WHERE code IS NOT NULL").Output()
	return countLines(string(out)), err
}

// startPostgres starts a private PostgreSQL with its defaults (each commit is forced to the disk), which must not be run by root, and returns a
// database's URL.
func startPostgres(ctx context.Context, dir string) (address string, stop func(), err error) {
	data, port := filepath.Join(dir, "postgres"), freePort()
	run := func(args ...string) error {
		if path, err := exec.LookPath(args[0]); err == nil {
			args[0] = path
		} else if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + args[0]); len(found) > 0 { // where Debian has it
			args[0] = found[len(found)-1]
		}
		if os.Geteuid() == 0 {
			args = append([]string{"runuser", "-u", "postgres", "--"}, args...)
		}
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", nil, err
	}
	if os.Geteuid() == 0 {
		if out, err := exec.CommandContext(ctx, "chown", "postgres", dir, data).CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("chown: %w %s", err, out)
		}
	}
	if err := run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"); err != nil {
		return "", nil, err
	}
	if err := run("pg_ctl", "-D", data, "-w", "-t", "60", "-l", filepath.Join(data, "log"), "-o", "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -p "+port, "start"); err != nil {
		return "", nil, err
	}
	ctx = context.WithoutCancel(ctx)
	return "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable", func() { warn(run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")) }, nil
}
