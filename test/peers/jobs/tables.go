package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/test/table"
)

const none = "–"

// tables puts the figures into words.
func (b *bench) tables(ctx context.Context, list []contestant, results []result) string {
	var through, idles, timers, crashes, settings [][]string
	for i, c := range list {
		r := results[i]
		or := func(s string) string {
			if s == none && r.failed {
				return "failed"
			}
			return s
		}
		if c.through {
			through = append(through, []string{c.name, or(rate(r.through, "put")), or(rate(r.through, "run")), or(rate(r.through, "through")), rate(r.through, "batch")})
		}
		if c.idle {
			idles = append(idles, []string{c.name, or(times(r.idle)), or(times(r.other))})
		}
		if c.timers {
			more := none
			if r.node != nil && r.alone != nil {
				more = bytes(max(r.node["rss"]-r.alone["rss"], 0))
			}
			cpu := none
			if r.node != nil {
				cpu = fmt.Sprintf("%.1f → %.1f", r.alone["cpu"], r.node["cpu"])
			}
			kept := none
			if r.fill != nil {
				kept = bytes(r.fill["size"])
			}
			look := none
			if v, ok := r.node["look"]; ok {
				look = ms(v)
			}
			early := ""
			if v, ok := r.node["min"]; ok && v < 0 {
				early = fmt.Sprintf(" (up to %s **early**)", ms(-v))
			}
			timers = append(timers, []string{c.name, count(r.fill["n"]), or(rate(r.fill, "put")), or(kept), or(more), or(cpu), look, or(times(r.node)) + early})
		}
		if c.crash {
			crashes = append(crashes, []string{c.name, or(dash(r.crash)), dash(r.attempt)})
		}
		settings = append(settings, []string{c.name, b.engineVersion(ctx, c), b.storeVersion(ctx, c), c.how})
	}
	var t strings.Builder
	if b.on("throughput") {
		fmt.Fprintf(&t, "No-op jobs a second. \"Put\" is %d callers, a job a call, no worker; \"run\" those jobs from the start of the workers until none is left; "+
			"\"put to done\" both at the same time, from the first call until none is left; \"in batches\" the same with 500 jobs a call.\n\n%s\n", singleCallers,
			table.Markdown([]string{"engine", "put", "run", "put to done", "put to done, in batches"}, through))
	}
	if b.on("idle") {
		fmt.Fprintf(&t, "An idle worker, from the call that puts a job to the start of its function, p50 / p99.\n\n%s\n",
			table.Markdown([]string{"engine", "put by the process that runs it", "put by another process"}, idles))
	}
	if b.on("timers") {
		fmt.Fprintf(&t, "Jobs of tomorrow, and beside them %s that are due within %g s. Memory and CPU are of the process that runs jobs, with them less without them, while nothing is due.\n\n%s\n",
			count(float64(b.o.due)), b.o.spread.Seconds(), table.Markdown([]string{"engine", "jobs of tomorrow", "put/s", "kept in the store", "memory of a node", "idle CPU, ms/s",
				"a look that finds nothing", "late p50 / p99"}, timers))
	}
	if b.on("crash") {
		fmt.Fprintf(&t, "A worker killed (-9) in the middle of a job, a new one started at once.\n\n%s\n",
			table.Markdown([]string{"engine", "the job runs again after", "attempts used up"}, crashes))
	}
	t.WriteString("What was measured:\n\n" + table.Markdown([]string{"engine", "version", "store", "settings"}, settings))
	return t.String()
}

func dash(s string) string {
	if s == "" {
		return none
	}
	return s
}

func rate(f figures, name string) string {
	v, ok := f[name]
	if !ok {
		return none
	}
	return count(v)
}

func times(f figures) string {
	if f["n"] == 0 {
		return none
	}
	return ms(f["p50"]) + " / " + ms(f["p99"])
}

func ms(v float64) string {
	switch a := math.Abs(v); {
	case a < 0.1:
		return fmt.Sprintf("%.0f µs", v*1000)
	case a < 10:
		return fmt.Sprintf("%.2f ms", v)
	case a < 1000:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.2f s", v/1000)
}

func count(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.3g M", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1f k", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}

func bytes(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }

func (b *bench) engineVersion(ctx context.Context, c contestant) string {
	switch c.engine {
	case "levee":
		return "this commit"
	case "asynq":
		return versionOf("github.com/hibiken/asynq")
	case "river-sqlite":
		return versionOf("github.com/riverqueue/river") + ", riversqlite " + versionOf("github.com/riverqueue/river/riverdriver/riversqlite") + ", modernc.org/sqlite " + versionOf("modernc.org/sqlite")
	case "river-postgres":
		return versionOf("github.com/riverqueue/river") + ", riverpgxv5 " + versionOf("github.com/riverqueue/river/riverdriver/riverpgxv5")
	}
	return b.python.version(ctx)
}

func (b *bench) storeVersion(ctx context.Context, c contestant) string {
	switch c.store {
	case "mysql":
		v := "?"
		if url, drop, err := b.mysql.NewDatabase(ctx); err == nil {
			defer drop()
			v = mysqlVersion(ctx, url, b.mysql.Password())
		}
		return v + ", innodb_flush_log_at_trx_commit=1, sync_binlog=1, buffer pool 512 MB"
	case "postgres":
		v := "?"
		if conn, err := pgx.Connect(ctx, b.postgres.url("postgres")); err == nil {
			defer conn.Close(ctx)
			_ = conn.QueryRow(ctx, "SHOW server_version").Scan(&v)
		}
		return "PostgreSQL " + strings.Fields(v)[0] + ", " + ofPostgres
	case "redis":
		return "Redis " + redisVersion(ctx, b.redis.Addr()) + ", " + ofRedis + "each second"
	case "redis-always":
		return "Redis " + redisVersion(ctx, b.always.Addr()) + ", " + ofRedis + "always"
	}
	return ofSQLite
}

func redisVersion(ctx context.Context, addr string) string {
	c := goredis.NewClient(&goredis.Options{Addr: addr})
	defer c.Close()
	text, _ := c.Info(ctx, "server").Result()
	_, rest, _ := strings.Cut(text, "redis_version:")
	v, _, _ := strings.Cut(rest, "\r\n")
	return v
}

// mysqlVersion asks the server that a URL of the house names.
func mysqlVersion(ctx context.Context, url, password string) string {
	v := "?"
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		return v
	}
	if d, err := db.Open(ctx, db.Config{URL: url, Password: obs.Secret(password)}, o); err == nil {
		_ = d.QueryRow(ctx, "SELECT VERSION()").Scan(&v)
		_ = d.Close()
	}
	return v
}
