package id

import (
	"context"
	_ "embed"

	"levee/internal/platform/redis"
)

//go:embed giveback.lua
var giveBackText string

var giveBackScript = redis.NewScript(giveBackText)

// redisSource counts in one key per tag, which holds the last number taken.
type redisSource struct{ client *redis.Client }

func (s redisSource) key(tag string) string { return s.client.Key("id:segment:{" + tag + "}") }

func (s redisSource) take(ctx context.Context, tag string, n int64) (int64, error) {
	last, err := s.client.UniversalClient().IncrBy(ctx, s.key(tag), n).Result()
	return last - n + 1, err
}

func (s redisSource) giveBack(ctx context.Context, tag string, first, end int64) error {
	return giveBackScript.Run(ctx, s.client, []string{s.key(tag)}, first-1, end-1).Err()
}
