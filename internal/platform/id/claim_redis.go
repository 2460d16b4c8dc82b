package id

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/redis"
)

//go:embed claim.lua
var claimText string

var claimScript = redis.NewScript(claimText)

const (
	// redisMost is how far ahead of the server's clock a horizon may be granted. Config.Ahead is well below it, so that ids can run ahead.
	redisMost = 10 * time.Second
	// redisMargin is by how much the clock of a server may be behind that of the one which it replaces.
	redisMargin = 2 * time.Second
)

// redisStore keeps worker numbers in a hash. claim.lua says how.
type redisStore struct {
	client *redis.Client
	key    string
	cfg    Config
	layout []any // the arguments that say what a tick is
	margin time.Duration
	clock  func() time.Time // nil: that of the server; a test's own
}

func openRedis(ctx context.Context, cfg Config) (store, error) {
	l := cfg.Layout
	s := &redisStore{client: cfg.Redis, key: cfg.Redis.Key("id:{space:" + cfg.Space + "}"), cfg: cfg,
		layout: []any{l.String(), l.Epoch.UnixMilli(), l.Unit.Milliseconds(), redisMost.Milliseconds()}, margin: redisMargin}
	_, err := s.rows(ctx) // tells of another layout
	return s, err
}

func (s *redisStore) run(ctx context.Context, what string, args ...any) ([]any, error) {
	now := ""
	if s.clock != nil {
		now = strconv.FormatInt(s.clock().UnixMilli(), 10)
	}
	all := append(append([]any{what}, s.layout...), s.margin.Milliseconds(), now)
	all = append(all, args...)
	answer, err := claimScript.Run(ctx, s.client, []string{s.key}, all...).Slice()
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 {
		return nil, errors.New("an empty answer of the script")
	}
	switch answer[0] {
	case "layout":
		return nil, otherLayout(s.cfg, fmt.Sprint(answer[1]))
	case "stolen":
		return nil, errStolen
	case "mute":
		return nil, levee.E(levee.CodeInvalid, "this Redis does not say which process it is (INFO server: run_id), so that a loss of its data would go "+
			"unnoticed; keep the worker numbers in the database or in etcd")
	}
	return answer, nil
}

func (s *redisStore) rows(ctx context.Context) ([]workerRow, error) {
	answer, err := s.run(ctx, "rows")
	if err != nil {
		return nil, err
	}
	fields, _ := answer[1].([]any)
	var all []workerRow
	for i := 0; i+1 < len(fields); i += 2 {
		name, _ := fields[i].(string)
		text, _ := fields[i+1].(string)
		number, ok := strings.CutPrefix(name, "w")
		worker, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		r := workerRow{worker: worker} // turn 0 with what another hand has written: left out
		if parts := strings.SplitN(text, " ", 4); len(parts) == 4 {
			r.owner = parts[0]
			r.horizon, _ = strconv.ParseInt(parts[1], 10, 64)
			r.turn, _ = strconv.ParseInt(parts[2], 10, 64)
		}
		if r.owner == noOwner {
			r.owner = ""
		}
		all = append(all, r)
	}
	return all, nil
}

// noOwner stands in a row that was given back.
const noOwner = "-"

func (s *redisStore) take(ctx context.Context, at workerRow, owner, node string) (bool, int64, error) {
	was := at.owner
	if was == "" {
		was = noOwner
	}
	answer, err := s.run(ctx, "take", at.worker, at.turn, was, owner, node)
	if err != nil || answer[0] != "won" {
		return false, 0, err
	}
	floor, err := number(answer, 1)
	return err == nil, floor, err
}

func (s *redisStore) raise(ctx context.Context, worker int, owner string, horizon int64) (g grant, err error) {
	answer, err := s.run(ctx, "raise", worker, owner, horizon)
	if err != nil {
		return g, err
	}
	if g.horizon, err = number(answer, 1); err == nil {
		g.from, err = number(answer, 2)
	}
	return g, err
}

func (s *redisStore) free(ctx context.Context, worker int, owner string, first int64) error {
	_, err := s.run(ctx, "free", worker, owner, first)
	return err
}

func number(answer []any, at int) (int64, error) {
	if at >= len(answer) {
		return 0, levee.E(levee.CodeInternal, "a short answer of the script")
	}
	text, _ := answer[at].(string)
	return strconv.ParseInt(text, 10, 64)
}
