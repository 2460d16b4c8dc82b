package backends

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
)

func do(t *testing.T, s *RedisServer, args ...any) any {
	t.Helper()
	answer, err := s.Do(t.Context(), args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return answer
}

func startRedis(t *testing.T, o RedisOptions) *RedisServer {
	t.Helper()
	s, err := StartRedis(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func TestRedisIsShared(t *testing.T) {
	s, err := Redis(t.Context())
	must(t, err)
	again, err := Redis(t.Context())
	must(t, err)
	if s != again {
		t.Error("the second call gave another server")
	}
	do(t, s, "PING")
}

func TestRedisKillRestartPause(t *testing.T) {
	ctx := t.Context()
	for _, aof := range []bool{true, false} {
		t.Run(fmt.Sprintf("aof=%v", aof), func(t *testing.T) {
			s := startRedis(t, RedisOptions{AOF: aof, Settings: map[string]string{"maxmemory": "50mb"}})
			if m := pairs(do(t, s, "CONFIG", "GET", "maxmemory*")); m["maxmemory"] != "52428800" || m["maxmemory-policy"] != "noeviction" {
				t.Errorf("the configuration is %v", m)
			}
			do(t, s, "SET", "k", "v")
			must(t, s.Kill())
			if _, err := s.Do(ctx, "PING"); err == nil {
				t.Error("a killed server answers")
			}
			before := s.URL()
			must(t, s.Restart(ctx))
			if s.URL() != before {
				t.Errorf("the restarted server is at %s, was at %s", s.URL(), before)
			}
			// The control is the other of the two runs: the same kill, without a file.
			if got := do(t, s, "GET", "k"); aof != (got == "v") {
				t.Errorf("after a kill the key is %v", got)
			}
			do(t, s, "SET", "k", "v")
			must(t, s.RestartEmpty(ctx))
			if got := do(t, s, "DBSIZE"); got != int64(0) {
				t.Errorf("a server restarted empty has %v keys", got)
			}
			must(t, s.Pause())
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			if _, err := s.Do(short, "PING"); err == nil {
				t.Error("a paused server answers")
			}
			must(t, s.Resume())
			do(t, s, "PING")
			must(t, s.Close())
			if err := s.Restart(ctx); err == nil {
				t.Error("a closed server can be restarted")
			}
			if exists(s.dir) {
				t.Errorf("%s is left after Close", s.dir)
			}
		})
	}
}

func TestRedisRefusesBadOptions(t *testing.T) {
	ctx := t.Context()
	bad := RedisOptions{Settings: map[string]string{"--save": ""}}
	_, one := StartRedis(ctx, bad)
	_, two := StartSentinel(ctx, SentinelOptions{DownAfter: time.Millisecond})
	_, three := StartCluster(ctx, ClusterOptions{NodeTimeout: time.Hour})
	_, four := StartCluster(ctx, ClusterOptions{Redis: bad})
	_, five := StartSentinel(ctx, SentinelOptions{Redis: bad})
	for i, err := range []error{one, two, three, four, five} {
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 {
			t.Errorf("%d: %v", i, err)
		}
	}
	_, err := StartRedis(ctx, RedisOptions{Settings: map[string]string{"no-such-setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("an unknown setting gave %v", err)
	}
	for _, given := range []string{"", "127.0.0.1:1", "http://127.0.0.1:1", "redis://"} {
		if _, err := namedRedis(ctx, given); err == nil || !strings.Contains(err.Error(), "LEVEE_TEST_REDIS must be") {
			t.Errorf("%q gave %v", given, err)
		}
	}
}

func TestSentinelsPromoteAfterAKill(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g, err := StartSentinel(ctx, SentinelOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	hosts, name, _ := strings.Cut(strings.TrimPrefix(g.URL(), "redis+sentinel://"), "/")
	c := goredis.NewFailoverClient(&goredis.FailoverOptions{MasterName: name, SentinelAddrs: strings.Split(hosts, ","), MaxRetries: -1})
	defer c.Close()
	must(t, c.Set(ctx, "before", 1, 0).Err())
	must(t, c.Wait(ctx, 1, time.Second).Err())
	old, err := g.Primary(ctx)
	must(t, err)
	if old != g.Nodes[0] {
		t.Fatal("the primary is not the first node")
	}
	begin := time.Now()
	must(t, old.Kill())
	next, err := g.Promoted(ctx, old)
	must(t, err)
	t.Logf("promoted %v after the kill", time.Since(begin).Round(time.Millisecond))
	if took := time.Since(begin); next != g.Nodes[1] || took > 15*time.Second {
		t.Errorf("promoted after %v", took)
	}
	eventually(t, 5*time.Second, "a client writes to the new primary", func() error { return c.Set(ctx, "after", 1, 0).Err() })
	if got := do(t, next, "GET", "before"); got != "1" {
		t.Errorf("the replica had %v of what was replicated", got)
	}
	// The old one comes back, is told what it is now, and can be promoted again.
	must(t, old.Restart(ctx))
	eventually(t, 20*time.Second, "the old primary follows", func() error { return linked(ctx, old) })
	if got := do(t, old, "GET", "after"); got != "1" {
		t.Errorf("the old primary has %v of what was written after it", got)
	}
	back, err := g.Promote(ctx)
	must(t, err)
	if back != old {
		t.Error("the promotion promoted nobody else")
	}
	t.Logf("all took %v", time.Since(begin).Round(time.Millisecond))
}

// slotOf is the hash of Redis Cluster: CRC-16/XMODEM, modulo the slots.
func slotOf(key string) int {
	crc := uint16(0)
	for _, b := range []byte(key) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % clusterSlots
}

func TestClusterAnswersOnAllSlotsAndSurvivesAMaster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g, err := StartCluster(ctx, ClusterOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: strings.Split(strings.TrimPrefix(g.URL(), "redis+cluster://"), ",")})
	defer c.Close()
	if got := do(t, g.Nodes[0], "CLUSTER", "KEYSLOT", "levee"); got != int64(slotOf("levee")) {
		t.Fatalf("the test computes slot %d, Redis %v", slotOf("levee"), got)
	}
	keys := make([]string, clusterSlots)
	for n, left := 0, clusterSlots; left > 0; n++ {
		key := fmt.Sprint("k", n)
		if s := slotOf(key); keys[s] == "" {
			keys[s], left = key, left-1
		}
	}
	all := func(what string, f func(goredis.Pipeliner, string)) error {
		for from := 0; from < len(keys); from += 2048 {
			p := c.Pipeline()
			for _, key := range keys[from : from+2048] {
				f(p, key)
			}
			if _, err := p.Exec(ctx); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		return nil
	}
	must(t, all("SET", func(p goredis.Pipeliner, key string) { p.Set(ctx, key, 1, 0) }))
	masters, err := g.Masters(ctx)
	must(t, err)
	if len(masters) != clusterMasters {
		t.Fatalf("%d masters", len(masters))
	}
	for i, m := range masters {
		if got := do(t, m, "DBSIZE").(int64); got < clusterSlots/clusterMasters-1 || got > clusterSlots/clusterMasters+1 {
			t.Errorf("master %d has %d of the slots", i, got)
		}
		do(t, m, "WAIT", 1, 1000)
	}
	begin := time.Now()
	must(t, g.Nodes[1].Kill())
	must(t, g.Promoted(ctx, g.Nodes[4]))
	must(t, g.Settled(ctx))
	t.Logf("all slots are served again %v after the kill of a master", time.Since(begin).Round(time.Millisecond))
	eventually(t, 5*time.Second, "every slot answers", func() error {
		c.ReloadState(ctx) // the client itself looks again only every ten seconds
		return all("GET", func(p goredis.Pipeliner, key string) { p.Get(ctx, key) })
	})
	must(t, g.Nodes[1].Restart(ctx))
	eventually(t, 10*time.Second, "the old master follows", func() error { return linked(ctx, g.Nodes[1]) })
	begin = time.Now()
	must(t, g.Promote(ctx, g.Nodes[1]))
	t.Logf("promoted by order after %v", time.Since(begin).Round(time.Millisecond))
	must(t, g.Nodes[0].Kill())
	must(t, g.Promote(ctx, g.Nodes[3])) // does not wait for the cluster to see that the master is gone
}
