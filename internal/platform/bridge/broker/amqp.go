package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// amqpDriver: a topic out is a routing key, a topic in is a queue. Messages are persistent and mandatory, and count as delivered when the broker
// confirms them: it confirms what a durable queue has written, and returns what no queue takes.
type amqpDriver struct {
	s   *Target
	raw net.Conn
	c   *amqp.Connection
	ch  *amqp.Channel

	mu      sync.Mutex // one batch at a time: what comes back is told apart by it
	returns chan amqp.Return
}

func openAMQP(ctx context.Context, s *Target) (Broker, error) {
	d := &amqpDriver{s: s}
	vhost := "/"
	if s.path != "" {
		vhost, _ = url.PathUnescape(s.path)
	}
	user := s.user
	if user == "" {
		user = "guest"
	}
	password := s.Password.Reveal()
	if s.user == "" && password == "" {
		password = "guest"
	}
	cfg := amqp.Config{
		Vhost: vhost, Heartbeat: 5 * time.Second, TLSClientConfig: s.tls, SASL: []amqp.Authentication{&amqp.PlainAuth{Username: user, Password: password}},
		Properties: amqp.Table{"connection_name": "levee-bridge"},
		Dial: func(network, addr string) (net.Conn, error) {
			c, err := s.dialer()(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			d.raw = c
			return c, c.SetDeadline(time.Now().Add(s.Timeout)) // of the greeting; the library takes it away afterwards
		},
	}
	scheme := "amqp://"
	if s.tls != nil {
		scheme = "amqps://"
		t := s.tls.Clone()
		t.ServerName, _, _ = net.SplitHostPort(s.hosts[0])
		cfg.TLSClientConfig = t
	}
	var err error
	if d.c, err = amqp.DialConfig(scheme+s.hosts[0]+"/", cfg); err != nil {
		return nil, err
	}
	if d.ch, err = d.c.Channel(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// close cuts the connection: an orderly end would wait for a broker that may not answer. What was published is confirmed or in doubt by now.
func (d *amqpDriver) Close() {
	_ = d.raw.SetDeadline(time.Now().Add(100 * time.Millisecond))
	_ = d.c.CloseDeadline(time.Now().Add(100 * time.Millisecond))
	_ = d.raw.Close()
}

func (d *amqpDriver) Atomic() bool { return false }

func (d *amqpDriver) Publish(ctx context.Context, topic string, ms []*Message, errs []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fail := func(from int, err error) {
		for i := from; i < len(errs); i++ {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	if d.returns == nil {
		if err := d.ch.Confirm(false); err != nil {
			fail(0, err)
			return
		}
		d.returns = d.ch.NotifyReturn(make(chan amqp.Return, PublishMax))
	}
	// The library writes without a deadline, and a broker that is short of memory stops reading.
	defer context.AfterFunc(ctx, func() { _ = d.raw.SetDeadline(time.Now()) })()
	confirms := make([]*amqp.DeferredConfirmation, len(ms))
	for i, m := range ms {
		headers := amqp.Table{}
		for _, h := range m.headers() {
			headers[h[0]] = h[1]
		}
		var err error
		confirms[i], err = d.ch.PublishWithDeferredConfirm(d.s.Exchange, topic, true, false, amqp.Publishing{
			ContentType: ContentType, DeliveryMode: amqp.Persistent, MessageId: m.ID, Type: m.Name, AppId: d.s.Source, Headers: headers, Body: m.Body})
		if err != nil {
			fail(i, err)
			break
		}
	}
	for i, c := range confirms {
		if c == nil || errs[i] != nil {
			continue
		}
		ok, err := c.WaitContext(ctx)
		switch {
		case err != nil:
			errs[i] = err
		case !ok:
			errs[i] = fmt.Errorf("%w, or it takes nothing now: the broker refused a message", ErrMissing)
		}
	}
	// A message that no queue takes comes back, and is confirmed after that.
	for {
		select {
		case r, open := <-d.returns:
			if !open {
				fail(0, errors.New("the channel was closed"))
				return
			}
			for i, m := range ms {
				if m.ID == r.MessageId && errs[i] == nil {
					errs[i] = fmt.Errorf("%w: %s for routing key %s", ErrMissing, r.ReplyText, topic)
				}
			}
		default:
			return
		}
	}
}

func (d *amqpDriver) Consume(ctx context.Context, topic string, take func(context.Context, []*Message) error) error {
	defer context.AfterFunc(ctx, func() { _ = d.raw.SetDeadline(time.Now()) })()
	if err := d.ch.Qos(BatchMax, 0, false); err != nil {
		return err
	}
	in, err := d.ch.Consume(topic, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("queue %s: %w", topic, err)
	}
	closed := d.c.NotifyClose(make(chan *amqp.Error, 1))
	if err := take(ctx, nil); err != nil {
		return err
	}
	for {
		var first amqp.Delivery
		var open bool
		select {
		case first, open = <-in:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !open {
			select {
			case e := <-closed:
				if e != nil {
					return e
				}
			default:
			}
			return errors.New("the broker ended the reading: the queue is gone or the connection was cut")
		}
		ms, last := []*Message{amqpMessage(topic, first)}, first
		linger := time.NewTimer(2 * time.Millisecond) // a transaction for each message would be the slower way
	more:
		for len(ms) < BatchMax {
			select {
			case next, open := <-in:
				if !open {
					break more
				}
				ms, last = append(ms, amqpMessage(topic, next)), next
			case <-linger.C:
				break more
			}
		}
		linger.Stop()
		if err := take(ctx, ms); err != nil {
			return err
		}
		if err := last.Ack(true); err != nil {
			return err
		}
	}
}

func amqpMessage(topic string, d amqp.Delivery) *Message {
	m := &Message{Topic: topic, ID: d.MessageId, Body: d.Body, Header: map[string]string{}}
	for k, v := range d.Headers {
		switch v := v.(type) {
		case string:
			m.Header[strings.ToLower(k)] = v
		case int64:
			m.Header[strings.ToLower(k)] = strconv.FormatInt(v, 10)
		}
	}
	m.Header["content-type"] = d.ContentType
	return m
}
