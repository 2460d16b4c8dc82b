package redis

import (
	"context"
	"strconv"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// State is what a person who looks after a server wants to know of it.
type State struct {
	Server
	// Unfit is why the house cannot use the server, with CodeInvalid, which says what to set; nil when it can.
	Unfit error
	// Ahead is how far its clock is ahead of the caller's, known to within Within.
	Ahead, Within time.Duration
	// Sentinels tells whether it was found by asking sentinels; MinReplicas whether it refuses writes that no replica gets
	// (min-replicas-to-write).
	Sentinels, MinReplicas bool
	// WriteFailed tells that its log or snapshot could not be written the last time.
	WriteFailed bool
	// MemoryUsed is in bytes.
	MemoryUsed int64
}

// clockTries is how often a clock is read: the reading with the shortest journey counts.
const clockTries = 5

// Examine asks the server, or each primary of a cluster, about itself. Unlike Open it refuses none. CodeInvalid when the config is wrong; any other
// error says that a server does not answer, beside what those said that did.
func Examine(ctx context.Context, cfg Config, now func() time.Time) ([]State, error) {
	logging.Disable()
	at, err := cfg.address()
	if err != nil {
		return nil, err
	}
	u, err := cfg.filled().client(at, patientTimeout, patientConns)
	if err != nil {
		return nil, err
	}
	defer u.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*patientTimeout)
	defer cancel()
	cluster, ok := u.(*goredis.ClusterClient)
	if !ok {
		s, err := examine(ctx, u, at, at.hosts[0], now)
		if err != nil {
			return nil, err
		}
		return []State{s}, nil
	}
	var mu sync.Mutex // of all
	var all []State
	err = cluster.ForEachMaster(ctx, func(ctx context.Context, n *goredis.Client) error {
		s, err := examine(ctx, n, at, n.Options().Addr, now)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, s)
		return nil
	})
	return all, err
}

func examine(ctx context.Context, n goredis.Cmdable, at address, where string, now func() time.Time) (s State, err error) {
	info, err := ask(ctx, n)
	if err != nil {
		return s, err
	}
	s.Server = serverOf(info, where)
	s.Unfit = s.fit(at.kind == "cluster")
	s.Sentinels = at.kind == "sentinel"
	_, s.MinReplicas = info["min_slaves_good_slaves"] // said only where such a number is set
	s.WriteFailed = info["aof_last_write_status"] == "err" || info["aof_last_bgrewrite_status"] == "err" || info["rdb_last_bgsave_status"] == "err"
	s.MemoryUsed, _ = strconv.ParseInt(info["used_memory"], 10, 64)
	for i := range clockTries {
		before := now()
		theirs, err := n.Time(ctx).Result()
		took := now().Sub(before)
		if err != nil {
			return s, err
		}
		if within := took / 2; i == 0 || within < s.Within {
			s.Ahead, s.Within = theirs.Sub(before.Add(within)), within
		}
	}
	return s, nil
}
