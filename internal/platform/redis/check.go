package redis

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
)

// The oldest version whose scripts and streams are what the house uses.
const oldestMajor, oldestMinor = 6, 2

// Server is what a server says about itself.
type Server struct {
	Address string
	Version string
	// Policy is what it does when its memory is full (maxmemory-policy); MemoryMax the bytes at which it is, 0 for never.
	Policy    string
	MemoryMax int64
	// AppendOnly tells whether each write is in a log on its disk (appendonly); Snapshots whether it has ever saved a snapshot.
	AppendOnly, Snapshots bool
	Primary, Cluster      bool
	Replicas              int
}

// Servers returns what the server, or each primary of a cluster, says about itself. CodeUnavailable when one does not answer.
func (c *Client) Servers(ctx context.Context) ([]Server, error) {
	ctx, cancel := context.WithTimeout(ctx, patientTimeout)
	defer cancel()
	cluster, ok := c.patient.(*goredis.ClusterClient)
	if !ok {
		s, err := describe(ctx, c.patient, c.at.hosts[0])
		return []Server{s}, err
	}
	found := make(chan Server, 1000)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, n *goredis.Client) error {
		s, err := describe(ctx, n, n.Options().Addr)
		found <- s
		return err
	})
	close(found)
	var all []Server
	for s := range found {
		all = append(all, s)
	}
	return all, err
}

func describe(ctx context.Context, n goredis.Cmdable, address string) (Server, error) {
	info, err := ask(ctx, n)
	if err != nil {
		return Server{}, err
	}
	return serverOf(info, address), nil
}

// ask returns what a server says about itself, by its names.
func ask(ctx context.Context, n goredis.Cmdable) (map[string]string, error) {
	text, err := n.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			info[k] = v
		}
	}
	return info, nil
}

func serverOf(info map[string]string, address string) Server {
	s := Server{
		Address: address, Version: info["redis_version"], Policy: info["maxmemory_policy"],
		AppendOnly: info["aof_enabled"] == "1", Primary: info["role"] == "master", Cluster: info["cluster_enabled"] == "1",
	}
	s.MemoryMax, _ = strconv.ParseInt(info["maxmemory"], 10, 64)
	s.Replicas, _ = strconv.Atoi(info["connected_slaves"])
	saves, _ := strconv.ParseInt(info["rdb_saves"], 10, 64) // since 7.0
	s.Snapshots = saves > 0
	return s
}

// check refuses servers on which the house would lose what it must not.
func (c *Client) check(ctx context.Context) error {
	began := time.Now()
	servers, err := c.Servers(ctx)
	if err != nil {
		var answered goredis.Error
		if asAnswer(err, &answered) && strings.Contains(err.Error(), "cluster support disabled") {
			return levee.Invalid("redis", "redis://… for this server, which is no cluster", "redis+cluster://")
		}
		if levee.CodeOf(err) != levee.CodeUnavailable {
			err = levee.E(levee.CodeUnavailable, "redis cannot be asked about itself").Because(err)
		}
		return err
	}
	if len(servers) == 0 {
		return levee.E(levee.CodeUnavailable, "the cluster has no primary")
	}
	for _, s := range servers {
		if err := s.fit(c.at.kind == "cluster"); err != nil {
			return err
		}
		if !s.AppendOnly {
			c.log.Warn("redis keeps no log of its writes: after a crash it comes back without the last of them, or empty; "+
				"sales stop for seconds until they are loaded again. Set appendonly yes", "server", s.Address)
		}
		c.log.Info("redis is reached", "server", s.Address, "version", s.Version, "policy", s.Policy, "append_only", s.AppendOnly,
			"replicas", s.Replicas, "took", time.Since(began))
	}
	return nil
}

// fit says why the house cannot use the server, with CodeInvalid.
func (s Server) fit(cluster bool) error {
	major, minor, _ := strings.Cut(s.Version, ".")
	minor, _, _ = strings.Cut(minor, ".")
	m, errMajor := strconv.Atoi(major)
	n, errMinor := strconv.Atoi(minor)
	switch {
	case errMajor != nil || errMinor != nil || m < oldestMajor || m == oldestMajor && n < oldestMinor:
		return levee.Invalid("redis version", "6.2 or later", levee.Shorten(s.Version, 20))
	case s.Cluster && !cluster:
		return levee.Invalid("redis", "redis+cluster://… for this server, which is part of a cluster", "redis://")
	case !s.Primary:
		return levee.Invalid("redis", "the address of a primary (this server is a replica), or redis+sentinel:// to follow it", s.Address)
	case s.Policy != "noeviction" && !strings.HasPrefix(s.Policy, "volatile-"):
		return levee.Invalid("maxmemory-policy", "noeviction or one of volatile-… (redis.conf: maxmemory-policy noeviction): any other throws away "+
			"keys of running sales when memory is full", s.Policy)
	}
	return nil
}

func asAnswer(err error, target *goredis.Error) bool { return errors.As(err, target) }
