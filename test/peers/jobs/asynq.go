package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"
)

const asynqConcurrency = 64

type asynqQueue struct {
	at      asynq.RedisClientOpt
	client  *asynq.Client
	inspect *asynq.Inspector
	redis   *goredis.Client
}

func openAsynq(_ context.Context, s spec) (queue, error) {
	at := asynq.RedisClientOpt{Addr: s.Redis, DB: s.RedisDB, PoolSize: 80}
	return &asynqQueue{at, asynq.NewClient(at), asynq.NewInspector(at), goredis.NewClient(&goredis.Options{Addr: s.Redis, DB: s.RedisDB})}, nil
}

func (q *asynqQueue) batch() int { return 1 }

func (q *asynqQueue) put(ctx context.Context, ts []task) error {
	for _, t := range ts {
		text, err := json.Marshal(t)
		if err != nil {
			return err
		}
		var o []asynq.Option
		if t.Due != 0 {
			o = append(o, asynq.ProcessAt(time.Unix(0, t.Due)))
		}
		if _, err := q.client.EnqueueContext(ctx, asynq.NewTask("bench", text), o...); err != nil {
			return err
		}
	}
	return nil
}

func (q *asynqQueue) run(_ context.Context, f work) (func(), error) {
	s := asynq.NewServer(q.at, asynq.Config{Concurrency: asynqConcurrency, LogLevel: asynq.FatalLevel})
	err := s.Start(asynq.HandlerFunc(func(ctx context.Context, at *asynq.Task) error {
		var t task
		if err := json.Unmarshal(at.Payload(), &t); err != nil {
			return err
		}
		retried, _ := asynq.GetRetryCount(ctx)
		return f(ctx, t, retried+1)
	}))
	return s.Shutdown, err
}

func (q *asynqQueue) settle(ctx context.Context) error { return untilNone(ctx, q) }

// untilNone asks until no job is left.
func untilNone(ctx context.Context, q queue) error {
	for {
		n, err := q.left(ctx)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *asynqQueue) left(context.Context) (int, error) {
	i, err := q.inspect.GetQueueInfo("default")
	if err != nil && strings.Contains(err.Error(), "does not exist") {
		return 0, nil // before the first job; 0.26.0 gives no asynq.ErrQueueNotFound here
	}
	if err != nil {
		return 0, err
	}
	return i.Pending + i.Active + i.Scheduled + i.Retry, nil
}

func (q *asynqQueue) size(ctx context.Context) (int64, error) { return redisMemory(ctx, q.redis) }

// redisMemory is what the server has allocated.
func redisMemory(ctx context.Context, c *goredis.Client) (int64, error) {
	text, err := c.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, "used_memory:"); ok {
			return strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return 0, fmt.Errorf("Redis tells no used_memory")
}

func (q *asynqQueue) close() {
	_ = q.client.Close()
	_ = q.inspect.Close()
	_ = q.redis.Close()
}
