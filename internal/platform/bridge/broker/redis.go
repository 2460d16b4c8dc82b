package broker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisDriver: a topic is a stream. Events go out in one MULTI for each batch, so all of it is stored in order or nothing.
//
// Every node of a house reads as the same consumer of the group. So what one had been given and did not acknowledge before it died is given
// to the next one at once, before anything newer, and the order holds.
type redisDriver struct {
	s *Target
	c *goredis.Client
}

const redisConsumer = "bridge"

// quiet keeps the library from writing to standard error on its own; whatever matters comes back as an error.
var quiet = sync.OnceFunc(logging.Disable)

func openRedis(ctx context.Context, s *Target) (Broker, error) {
	quiet()
	number, _ := strconv.Atoi(s.path)
	o := &goredis.Options{
		Addr: s.hosts[0], Username: s.user, Password: s.Password.Reveal(), DB: number, ClientName: "levee-bridge", DisableIdentity: true,
		Protocol: 2, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries: -1, DialerRetries: 1, DialTimeout: s.Timeout, ReadTimeout: s.Timeout, WriteTimeout: s.Timeout, ContextTimeoutEnabled: true, PoolSize: 4,
		Dialer: s.over(s.dialer()),
	}
	d := &redisDriver{s: s, c: goredis.NewClient(o)}
	if err := d.c.Ping(ctx).Err(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *redisDriver) Close() { _ = d.c.Close() }

func (d *redisDriver) Atomic() bool { return true }

func (d *redisDriver) Publish(ctx context.Context, topic string, ms []*Message, errs []error) {
	one := d.c.Conn() // WAIT asks about the writes of its own connection
	defer one.Close()
	_, err := one.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		for _, m := range ms {
			values := []any{"id", m.ID, "key", m.Key, "type", m.Name}
			for _, h := range m.headers() {
				values = append(values, h[0], h[1])
			}
			p.XAdd(ctx, &goredis.XAddArgs{Stream: topic, Values: append(values, "body", m.Body)})
		}
		return nil
	})
	if err == nil && d.s.Replicas > 0 {
		var n int
		if n, err = one.Do(ctx, "WAIT", d.s.Replicas, (d.s.Timeout * 3 / 4).Milliseconds()).Int(); err == nil && n < d.s.Replicas {
			err = fmt.Errorf("%d replicas have the events, bridge.replicas asks for %d", n, d.s.Replicas)
		}
	}
	for i := range errs {
		errs[i] = err
	}
}

func (d *redisDriver) Consume(ctx context.Context, topic string, take func(context.Context, []*Message) error) error {
	err := d.c.XGroupCreateMkStream(ctx, topic, d.s.Group, "0").Err()
	if err != nil && !strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return err
	}
	if err := take(ctx, nil); err != nil {
		return err
	}
	from := "0" // what was given and not acknowledged; then ">", what is new
	for ctx.Err() == nil {
		found, err := d.c.XReadGroup(ctx, &goredis.XReadGroupArgs{Group: d.s.Group, Consumer: redisConsumer, Streams: []string{topic, from},
			Count: BatchMax, Block: d.s.Timeout / 2}).Result()
		if err == goredis.Nil { // nothing came meanwhile
			continue
		}
		if err != nil {
			return err
		}
		var ids []string
		var ms []*Message
		for _, stream := range found {
			for _, e := range stream.Messages {
				ids = append(ids, e.ID)
				if e.Values != nil { // else it was trimmed out of the stream before it was acknowledged
					ms = append(ms, redisMessage(topic, e))
				}
			}
		}
		if len(ids) == 0 {
			from = ">"
			continue
		}
		if err := take(ctx, ms); err != nil {
			return err
		}
		if err := d.c.XAck(ctx, topic, d.s.Group, ids...).Err(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// redisMessage reads an entry: its body is the field "body", else "data" or "payload".
func redisMessage(topic string, e goredis.XMessage) *Message {
	m := &Message{Topic: topic, Place: e.ID, Header: map[string]string{}}
	body := ""
	for _, field := range []string{"payload", "data", "body"} {
		if v, ok := e.Values[field].(string); ok {
			body = v
		}
	}
	for k, v := range e.Values {
		if text, ok := v.(string); ok && len(text) <= 1<<10 {
			m.Header[strings.ToLower(k)] = text
		}
	}
	m.ID, m.Body = m.Header["id"], []byte(body)
	return m
}
