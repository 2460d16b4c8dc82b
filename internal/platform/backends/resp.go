package backends

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// A client of Redis for the few commands that set servers up: one connection, no retries, no pool, and no words on the process's log
// about servers that are down on purpose, which is where the product's client library writes them.

const (
	redisTimeout = 2 * time.Second // of one command
	answerLimit  = 1 << 20         // bytes of one string, elements of one list
)

type redisConn struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialRedis(ctx context.Context, addr string) (*redisConn, error) {
	d := net.Dialer{Timeout: redisTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &redisConn{conn, bufio.NewReader(conn)}, nil
}

func (c *redisConn) close() { _ = c.conn.Close() }

// redisError is an answer that says no.
type redisError string

func (e redisError) Error() string { return string(e) }

// do sends one command and reads its answer: string, int64, nil or []any of these; a refusal is an error.
func (c *redisConn) do(ctx context.Context, args ...any) (any, error) {
	end := time.Now().Add(redisTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	if err := errors.Join(ctx.Err(), c.conn.SetDeadline(end)); err != nil {
		return nil, err
	}
	command := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		s := fmt.Sprint(a)
		command = fmt.Appendf(command, "$%d\r\n%s\r\n", len(s), s)
	}
	if _, err := c.conn.Write(command); err != nil {
		return nil, err
	}
	answer, err := c.read(0)
	if err != nil {
		return nil, err
	}
	if refused, ok := answer.(redisError); ok {
		return nil, refused
	}
	return answer, nil
}

func (c *redisConn) read(depth int) (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' || depth > 8 {
		return nil, fmt.Errorf("an answer that is not Redis's: %q", line)
	}
	kind, rest := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return redisError(rest), nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("an answer that is not Redis's: %q", line)
	}
	switch {
	case kind == ':':
		return n, nil
	case n == -1:
		return nil, nil
	case n < 0 || n > answerLimit:
		return nil, fmt.Errorf("an answer of %d bytes or elements, the limit is %d", n, answerLimit)
	case kind == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, err
		}
		return string(b[:n]), nil
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			if list[i], err = c.read(depth + 1); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("an answer of an unknown kind: %q", line)
}

// redisDo sends one command over a connection of its own.
func redisDo(ctx context.Context, addr string, args ...any) (any, error) {
	c, err := dialRedis(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.do(ctx, args...)
}

func ping(ctx context.Context, addr string) error {
	_, err := redisDo(ctx, addr, "PING")
	return err
}
