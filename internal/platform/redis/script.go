package redis

import (
	"context"

	goredis "github.com/redis/go-redis/v9"
)

// Script is a Lua program that runs on the server as one step. Its text should come from an embedded .lua file, check all
// arguments before its first write, since nothing undoes a write, and use only the keys that it is given, all of one hash tag.
type Script struct{ script *goredis.Script }

// NewScript makes a script of its text. Nothing is sent.
func NewScript(text string) *Script { return &Script{goredis.NewScript(text)} }

// Run runs the script with Config.Timeout. Only its digest is sent; a server that does not know it gets the text and runs it. Errors are
// those of UniversalClient.
func (s *Script) Run(ctx context.Context, c *Client, keys []string, args ...any) *goredis.Cmd {
	return s.script.Run(ctx, c.calls, keys, args...)
}

// RunFast is Run over Fast: for hot scripts that many goroutines run at once.
func (s *Script) RunFast(ctx context.Context, c *Client, keys []string, args ...any) *goredis.Cmd {
	return s.script.Run(ctx, c.fast, keys, args...)
}

// RunOn is Run over another client of the same house, such as Patient or one of Apart.
func (s *Script) RunOn(ctx context.Context, u goredis.UniversalClient, keys []string, args ...any) *goredis.Cmd {
	return s.script.Run(ctx, u, keys, args...)
}
