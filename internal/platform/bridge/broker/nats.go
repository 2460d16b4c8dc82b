package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsDriver: a topic is a subject that a stream of JetStream takes. The message's id goes with it as Nats-Msg-Id, so the server itself drops what
// comes twice within the stream's window for that.
type natsDriver struct {
	s  *Target
	c  *nats.Conn
	js jetstream.JetStream
}

// ackWait is after which time the server gives a message again that was not acknowledged.
const ackWait = 5 * time.Second

type natsDialer struct {
	ctx context.Context
	s   *Target
}

// Dial implements nats.CustomDialer.
func (d natsDialer) Dial(network, addr string) (net.Conn, error) {
	return d.s.dialer()(d.ctx, network, addr)
}

func openNATS(ctx context.Context, s *Target) (Broker, error) {
	// No reconnection: it would send what comes next and leave a gap where the old connection ended.
	options := []nats.Option{nats.NoReconnect(), nats.Timeout(s.Timeout), nats.Name("levee-bridge"), nats.SetCustomDialer(natsDialer{ctx, s}),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(s.Timeout)}
	switch {
	case s.user != "":
		options = append(options, nats.UserInfo(s.user, s.Password.Reveal()))
	case s.Password != "":
		options = append(options, nats.Token(s.Password.Reveal()))
	}
	scheme := "nats://"
	if s.tls != nil {
		scheme = "tls://"
		options = append(options, nats.Secure(s.tls))
	}
	c, err := nats.Connect(scheme+strings.Join(s.hosts, ","+scheme), options...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(c, jetstream.WithPublishAsyncMaxPending(8*PublishMax))
	if err != nil {
		c.Close()
		return nil, err
	}
	return &natsDriver{s: s, c: c, js: js}, nil
}

func (d *natsDriver) Close() { d.c.Close() }

func (d *natsDriver) Atomic() bool { return false }

func (d *natsDriver) Publish(ctx context.Context, topic string, ms []*Message, errs []error) {
	futures := make([]jetstream.PubAckFuture, len(ms))
	for i, m := range ms {
		msg := nats.NewMsg(topic)
		msg.Data = m.Body
		for _, h := range m.headers() {
			msg.Header.Set(h[0], h[1])
		}
		// Ids are a house's own: another one on the same stream may have the same.
		futures[i], errs[i] = d.js.PublishMsgAsync(msg, jetstream.WithMsgID(d.s.Source+"/"+m.ID), jetstream.WithRetryAttempts(0))
		errs[i] = natsError(errs[i])
	}
	for i, f := range futures {
		if errs[i] != nil {
			continue
		}
		select {
		case <-f.Ok():
		case err := <-f.Err():
			errs[i] = natsError(err)
		case <-ctx.Done():
			errs[i] = ctx.Err()
		}
	}
}

// natsError tells what is for ever and what is the topic's own fault from what may end.
func natsError(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload), errors.As(err, &api) && api.ErrorCode == 10054: // message size exceeds maximum allowed
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders), errors.As(err, &api):
		return fmt.Errorf("%w, or it takes nothing now: %w", ErrMissing, err)
	}
	return err
}

func (d *natsDriver) Consume(ctx context.Context, topic string, take func(context.Context, []*Message) error) error {
	limited, cancel := context.WithTimeout(ctx, d.s.Timeout)
	defer cancel()
	name, err := d.js.StreamNameBySubject(limited, topic)
	if err != nil {
		return fmt.Errorf("no stream takes the subject %s: %w", topic, err)
	}
	c, err := d.consumer(limited, name, topic)
	if err != nil {
		return err
	}
	// What another node was given and did not acknowledge comes again when its time is over. Until then nothing newer is taken: it would overtake.
	for end := time.Now().Add(ackWait + time.Second); ; {
		limited, cancel := context.WithTimeout(ctx, d.s.Timeout)
		info, err := c.Info(limited)
		cancel()
		if err != nil {
			return err
		}
		if info.NumAckPending == 0 || time.Now().After(end) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := take(ctx, nil); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if d.c.IsClosed() {
			return errors.Join(nats.ErrConnectionClosed, d.c.LastError())
		}
		got, err := d.fetch(ctx, c)
		if err != nil {
			return err
		}
		if len(got) == 0 {
			continue
		}
		ms := make([]*Message, len(got))
		for i, m := range got {
			ms[i] = natsMessage(name, topic, m)
		}
		if err := take(ctx, ms); err != nil {
			return err
		}
		for _, m := range got {
			if err := m.Ack(); err != nil {
				return err
			}
		}
		limited, cancel := context.WithTimeout(ctx, d.s.Timeout)
		err = d.c.FlushWithContext(limited)
		cancel()
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// consumer returns the house's durable consumer of the subject, made at the first time.
func (d *natsDriver) consumer(ctx context.Context, stream, topic string) (jetstream.Consumer, error) {
	sum := sha256.Sum256([]byte(topic))
	durable := d.s.Group + "-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, topic) + "-" + hex.EncodeToString(sum[:4])
	c, err := d.js.Consumer(ctx, stream, durable)
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return c, err
	}
	return d.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: durable, FilterSubject: topic, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: BatchMax, DeliverPolicy: jetstream.DeliverAllPolicy})
}

// fetch waits for a first message, then takes what else is there.
func (d *natsDriver) fetch(ctx context.Context, c jetstream.Consumer) (got []jetstream.Msg, err error) {
	limited, cancel := context.WithTimeout(ctx, d.s.Timeout)
	defer cancel()
	first, err := c.Next(jetstream.FetchContext(limited))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, err
	}
	got = append(got, first)
	more, err := c.FetchNoWait(BatchMax - 1)
	if err != nil {
		return nil, err
	}
	for m := range more.Messages() {
		got = append(got, m)
	}
	return got, more.Error()
}

func natsMessage(stream, topic string, m jetstream.Msg) *Message {
	out := &Message{Topic: topic, Body: m.Data(), Header: map[string]string{}}
	for k := range m.Headers() {
		out.Header[strings.ToLower(k)] = m.Headers().Get(k)
	}
	out.ID = out.Header["nats-msg-id"]
	if meta, err := m.Metadata(); err == nil {
		out.Place = stream + "/" + strconv.FormatUint(meta.Sequence.Stream, 10)
	}
	return out
}
