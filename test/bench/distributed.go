package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"levee/internal/platform/backends"
)

// servers are what the distributed tier stands on: data on disk, each commit forced to it (MariaDB) or each second (Redis).
type servers struct {
	mysql *backends.MySQLServer
	redis *backends.RedisServer
}

func startServers(ctx context.Context) (s servers, stop func(), err error) {
	if s.mysql, err = backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true}); err != nil {
		return s, nil, err
	}
	if s.redis, err = startRedis(ctx); err != nil {
		return s, nil, errors.Join(err, s.mysql.Close())
	}
	return s, func() { warn(s.redis.Close()); warn(s.mysql.Close()) }, nil
}

func startRedis(ctx context.Context) (*backends.RedisServer, error) {
	return backends.StartRedis(ctx, backends.RedisOptions{AOF: true, Durable: true})
}

func warn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// some is n, or a tenth of it in a small run.
func some(n int) int {
	if *small {
		return n / 10
	}
	return n
}

func measureDistributed(ctx context.Context) error {
	s, stop, err := startServers(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if *tier == "distributed" {
		var rows []row
		orders := 0.0 // in process, per second: the limit of what HTTP can commit
		if *part != "http" {
			inside, settled, err := s.insideRows(ctx)
			if err != nil {
				return err
			}
			rows, orders = inside, settled
		}
		if *part != "engine" {
			over, err := s.nodeRows(ctx, orders)
			if err != nil {
				return err
			}
			rows = append(rows, over...)
		}
		if err := publish("bench-distributed", " MariaDB forces each commit to the disk (flush_log_at_trx_commit and sync_binlog 1), Redis its log each second; "+
			"over HTTP the generator is pinned to the last core with taskset, the servers may use every core.", figures(rows)); err != nil {
			return err
		}
	}
	if len(peers) == 0 {
		return nil
	}
	return measurePeers(ctx, s)
}

// insideRows measures the gate and the settlement in process. settled is orders per second.
func (s servers) insideRows(ctx context.Context) (rows []row, settled float64, err error) {
	f := map[string]float64{}
	env := []string{"LEVEE_TEST_TIER=distributed", "LEVEE_TEST_MYSQL=" + s.mysql.URL(), "LEVEE_TEST_REDIS=" + s.redis.URL()}
	for _, callers := range []int{64, 512} {
		name := fmt.Sprintf("RedisGate/%d_callers,_batches", callers)
		if err := goBench(ctx, f, "gate", strings.Replace(name, "/", "$/^", 1)+"$", strconv.Itoa(some(600_000))+"x", env...); err != nil {
			return nil, 0, err
		}
		width := min(128, callers/3) // three calls are under way at once, of at most 128 attempts
		least, err := s.scriptRate(ctx, minimal, width)
		if err != nil {
			return nil, 0, err
		}
		text, err := os.ReadFile("internal/gate/take.lua")
		if err != nil {
			return nil, 0, fmt.Errorf("run this from the root of the house: %w", err)
		}
		same, err := s.scriptRate(ctx, string(text), width)
		if err != nil {
			return nil, 0, err
		}
		got := f[name+" takes/s"]
		rows = append(rows, row{fmt.Sprintf("takes at the Redis gate, %d callers", callers), thousands(got), fmt.Sprintf("redis-benchmark, %d a call, same script: %s; a script of its commands alone: %s",
			width, thousands(same), thousands(least)), fmt.Sprintf("%.2f; %.2f", got/same, got/least), "≥ 0.8 of the same script"})
	}
	for _, b := range []string{"Orders$/^engine,_512_", "Orders$/^bare_rows"} {
		if err := goBench(ctx, f, "sale", b, strconv.Itoa(some(100_000))+"x", env...); err != nil {
			return nil, 0, err
		}
	}
	orders, bare := f["Orders/engine,_512_buyers_at_once orders/s"], f["Orders/bare_rows,_100_a_transaction orders/s"]
	return append(rows, row{"committed purchases in process on MariaDB, memory gate, 512 buyers at once", thousands(orders),
		"the same rows, 100 a transaction, one connection: " + thousands(bare), fmt.Sprintf("%.2f", orders/bare), "≥ 0.6"}), orders, nil
}

// minimal has the commands of internal/gate/take.lua for attempts that all win, and nothing else: it decides nothing.
const minimal = `redis.call('HMGET', KEYS[1], 'remaining', 'unsettled', 'limit', 'epoch')
local who, pending, buyers = {}, {}, {}
for i = 4, #ARGV, 5 do
	who[#who + 1] = ARGV[i + 1]
	pending[#pending + 1], pending[#pending + 2] = ARGV[i], ARGV[i + 3]
	buyers[#buyers + 1], buyers[#buyers + 2] = ARGV[i + 1], ARGV[i]
end
redis.call('HMGET', KEYS[2], unpack(who))
redis.call('TIME')
redis.call('HSET', KEYS[3], unpack(pending))
redis.call('HSET', KEYS[2], unpack(buyers))
redis.call('HSET', KEYS[1], 'remaining', '1', 'unsettled', '1')
return '1'`

// scriptRate is how many attempts a second redis-benchmark gets through a script that takes width of them in a call.
func (s servers) scriptRate(ctx context.Context, script string, width int) (float64, error) {
	sha, err := s.redis.Do(ctx, "SCRIPT", "LOAD", script)
	if err != nil {
		return 0, err
	}
	base := "{bench" + rand.Text()[:6] + "}:"
	keys := []string{base + "head", base + "buyers", base + "pending"}
	defer func() { _, err := s.redis.Do(ctx, "UNLINK", keys[0], keys[1], keys[2]); warn(err) }()
	if _, err := s.redis.Do(ctx, "HSET", keys[0], "remaining", "1000000000000", "unsettled", "0", "limit", "1", "epoch", "e"); err != nil {
		return 0, err
	}
	host, port, err := net.SplitHostPort(s.redis.Addr())
	if err != nil {
		return 0, err
	}
	args := []string{"-h", host, "-p", port, "-c", "50", "-P", strconv.Itoa(max(1, 64/width)), "-r", "2000000000", "-n", strconv.Itoa(some(600_000) / width), "--csv",
		"evalsha", fmt.Sprint(sha), "3", keys[0], keys[1], keys[2], "node-0", "1000000", "1"}
	for range width {
		args = append(args, "r__rand_int__", "1__rand_int__", "1", "1y2p0ij32e8e7", "0")
	}
	out, err := exec.CommandContext(ctx, "redis-benchmark", args...).Output()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Split(lines[len(lines)-1], `","`)
	if len(fields) < 2 {
		return 0, fmt.Errorf("redis-benchmark said %q", out)
	}
	calls, err := strconv.ParseFloat(fields[1], 64)
	if err != nil || !strings.HasPrefix(lines[len(lines)-1], `"evalsha`) {
		return 0, fmt.Errorf("redis-benchmark said %q: %w", out, err)
	}
	if n, err := s.redis.Do(ctx, "HLEN", keys[2]); err != nil || n == int64(0) {
		return 0, fmt.Errorf("redis-benchmark took nothing: %v %w", n, err) // an error's answer counts as one for it
	}
	return calls * float64(width), nil
}

// cluster starts the first node of a new house on a database of its own, and on redis.
func cluster(ctx context.Context, mysql *backends.MySQLServer, redis *backends.RedisServer) (h *house, drop func(), err error) {
	database, drop, err := mysql.NewDatabase(ctx)
	if err != nil {
		return nil, nil, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	h, err = startHouse(ctx, "LEVEE_MODE=distributed", "LEVEE_DB="+database, "LEVEE_REDIS="+redis.URL(), "LEVEE_SECRET="+hex.EncodeToString(secret))
	if err != nil {
		drop()
	}
	return h, drop, err
}

// nodeRows measures 1, 2 and 3 nodes over HTTP. inside is what one process commits in a second without HTTP, 0 if that was not measured.
func (s servers) nodeRows(ctx context.Context, inside float64) (rows []row, err error) {
	h, drop, err := cluster(ctx, s.mysql, s.redis)
	if err != nil {
		return nil, err
	}
	defer drop()
	defer h.stop()
	limit, stop, err := startConstant(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	var bought, refused []row
	var late row
	length := time.Duration(*seconds) * time.Second
	for n := 1; n <= 3; n++ {
		if n > 1 {
			if err := h.grow(ctx); err != nil {
				return nil, err
			}
		}
		nodes := fmt.Sprintf("%d nodes", n)
		if n == 1 {
			nodes = "1 node"
		}
		winners, err := h.crowd(some(50_000), some(50_000))
		if err != nil {
			return nil, err
		}
		release, err := pin()
		if err != nil {
			return nil, err
		}
		w, err := send(h.addrs(), winners.requests, 512, 0)
		if err == nil {
			err = w.only("winners", 503)
		}
		refuse := func(name string) (lost float64) {
			if err != nil {
				return 0
			}
			var floor float64
			var l tally
			if lost, floor, l, err = h.refusals(limit, length/2); err == nil {
				err = l.only("losers", 503)
			}
			if err == nil {
				refused = append(refused, row{"sold-out refusals over HTTP, " + name + l.away(), thousands(lost), "bare net/http, a constant: " + thousands(floor),
					fmt.Sprintf("%.2f", lost/floor), "≥ 0.85"})
			}
			return lost
		}
		if n == 1 {
			refuse("1 node, while it still relays what the crowd bought")
		}
		if err == nil {
			err = h.rest()
		}
		lost := refuse(nodes)
		if err == nil && n == 1 {
			half := w.won() / 2
			late = row{fmt.Sprintf("p50 and p99 of a purchase at half of one node's rate (%s), from the intended moment", thousands(half)), "", "–", "–", "p99 ≤ 50 ms"}
			late.figure, err = h.paced(half, length)
		}
		release()
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", nodes, err, h.nodes[0].tail())
		}
		r := row{fmt.Sprintf("committed purchases over HTTP, %s (%d of %d won%s)", nodes, w.status[201], len(winners.requests), w.away()), thousands(w.won()), "–", "–", "–"}
		if inside > 0 {
			r.limit, r.ratio = "in process: "+thousands(inside), fmt.Sprintf("%.2f", w.won()/inside)
		}
		bought = append(bought, r)
		fmt.Fprintf(os.Stderr, "bench: %s: %.0f orders/s, %.0f refusals/s\n", nodes, w.won(), lost)
	}
	return append(append(bought, late), refused...), nil
}
