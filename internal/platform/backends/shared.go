package backends

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
)

// shared is a server that a process starts at most once. A start that failed is not tried again: a hundred tests would each wait for it.
type shared[T any] struct {
	mu    sync.Mutex
	value *T
	err   error
}

func (s *shared[T]) get(ctx context.Context, start func(context.Context) (*T, error)) (*T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.value != nil || s.err != nil {
		return s.value, s.err
	}
	value, err := start(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.err = err
		}
		return nil, err
	}
	s.value = value
	return value, nil
}

var (
	sharedMySQL shared[MySQLServer]
	sharedRedis shared[RedisServer]
)

// MySQL returns the server that the tests of this process share: the one named in LEVEE_TEST_MYSQL, else one that is started at the first
// call and ends with the process. Each test makes a database of its own there.
func MySQL(ctx context.Context) (*MySQLServer, error) {
	return sharedMySQL.get(ctx, func(ctx context.Context) (*MySQLServer, error) {
		if given := os.Getenv("LEVEE_TEST_MYSQL"); given != "" {
			return namedMySQL(ctx, given, os.Getenv("LEVEE_TEST_MYSQL_PASSWORD"))
		}
		return StartMySQL(ctx, MySQLOptions{})
	})
}

const mysqlForm = "mysql://USER@HOST:PORT/ with the password, if any, in LEVEE_TEST_MYSQL_PASSWORD"

func namedMySQL(ctx context.Context, given, password string) (*MySQLServer, error) {
	u, err := url.Parse(given)
	if err != nil {
		return nil, fmt.Errorf("LEVEE_TEST_MYSQL must be %s", mysqlForm) // the error would repeat what may be a secret
	}
	if _, has := u.User.Password(); has || u.Scheme != "mysql" || u.User.Username() == "" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("LEVEE_TEST_MYSQL must be %s, got %s", mysqlForm, u.Redacted())
	}
	s := &MySQLServer{addr: u.Host, user: u.User.Username(), password: password}
	if s.admin, err = openSQL("tcp", u.Host, s.user, password); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	if err := s.admin.PingContext(ctx); err != nil {
		_ = s.admin.Close()
		return nil, fmt.Errorf("the server named in LEVEE_TEST_MYSQL does not answer: %w", err)
	}
	return s, nil
}

// Redis returns the server that the tests of this process share: the one named in LEVEE_TEST_REDIS, else one that is started at the first
// call and ends with the process. Each test uses a key prefix of its own.
func Redis(ctx context.Context) (*RedisServer, error) {
	return sharedRedis.get(ctx, func(ctx context.Context) (*RedisServer, error) {
		if given := os.Getenv("LEVEE_TEST_REDIS"); given != "" {
			return namedRedis(ctx, given)
		}
		return StartRedis(ctx, RedisOptions{})
	})
}

func namedRedis(ctx context.Context, given string) (*RedisServer, error) {
	u, err := url.Parse(given)
	if err != nil || u.Host == "" || u.Scheme != "redis" && u.Scheme != "redis+sentinel" && u.Scheme != "redis+cluster" {
		return nil, errors.New("LEVEE_TEST_REDIS must be redis://HOST:PORT, redis+sentinel://HOST:PORT,…/NAME or redis+cluster://HOST:PORT,…")
	}
	s := &RedisServer{url: given, addr: strings.Split(u.Host, ",")[0]}
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	if err := ping(ctx, s.addr); err != nil {
		return nil, fmt.Errorf("the server named in LEVEE_TEST_REDIS does not answer: %w", err)
	}
	return s, nil
}
