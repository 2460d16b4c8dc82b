package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// kafkaDriver: a topic is a topic, the event's key the record's, so the events of a key are in one partition. The producer is idempotent and
// waits for all replicas in sync.
type kafkaDriver struct {
	s       *Target
	options []kgo.Opt
	c       *kgo.Client
}

func openKafka(ctx context.Context, s *Target) (Broker, error) {
	d := &kafkaDriver{s: s, options: []kgo.Opt{kgo.SeedBrokers(s.hosts...), kgo.ClientID("levee-bridge"), kgo.Dialer(s.over(s.dialer())),
		kgo.RequestTimeoutOverhead(s.Timeout), kgo.RetryTimeout(s.Timeout)}}
	if s.user != "" {
		user, password := s.user, s.Password.Reveal()
		switch s.SASL {
		case "scram-sha-256":
			d.options = append(d.options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha256Mechanism()))
		case "scram-sha-512":
			d.options = append(d.options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism()))
		default:
			d.options = append(d.options, kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()))
		}
	}
	c, err := kgo.NewClient(append(d.options, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordDeliveryTimeout(max(s.Timeout, time.Second)), kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(8*PublishMax), kgo.UnknownTopicRetries(0), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	if err != nil {
		return nil, err
	}
	if err := c.Ping(ctx); err != nil {
		c.Close()
		return nil, err
	}
	d.c = c
	return d, nil
}

func (d *kafkaDriver) Close() { d.c.CloseAllowingRebalance() }

func (d *kafkaDriver) Atomic() bool { return false }

func (d *kafkaDriver) Publish(ctx context.Context, topic string, ms []*Message, errs []error) {
	done := make(chan struct{}, len(ms))
	for i, m := range ms {
		r := &kgo.Record{Topic: topic, Key: []byte(m.Key), Value: m.Body}
		for _, h := range m.headers() {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
		}
		d.c.Produce(ctx, r, func(_ *kgo.Record, err error) {
			errs[i] = kafkaError(err)
			done <- struct{}{}
		})
	}
	// Each is called back: with an answer, or when its time to be delivered is over.
	for range ms {
		<-done
	}
}

func kafkaError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.InvalidTopicException), errors.Is(err, kerr.TopicAuthorizationFailed),
		errors.Is(err, kerr.NotEnoughReplicas), errors.Is(err, kerr.NotEnoughReplicasAfterAppend):
		return fmt.Errorf("%w, or it takes nothing now: %w", ErrMissing, err)
	}
	return err
}

func (d *kafkaDriver) Consume(ctx context.Context, topic string, take func(context.Context, []*Message) error) error {
	c, err := kgo.NewClient(append(d.options, kgo.ConsumerGroup(d.s.Group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(4<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.FetchMaxWait(time.Second),
		kgo.RebalanceTimeout(30*time.Second), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second))...)
	if err != nil {
		return err
	}
	defer c.CloseAllowingRebalance()
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, d.s.Timeout)
		fetches := c.PollRecords(limited, BatchMax)
		cancel()
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				failed = errors.Join(failed, err)
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if failed != nil {
			return failed
		}
		records := fetches.Records()
		ms := make([]*Message, len(records))
		for i, r := range records {
			ms[i] = kafkaMessage(r)
		}
		if err := take(ctx, ms); err != nil {
			return err
		}
		if len(records) > 0 {
			limited, cancel := context.WithTimeout(ctx, d.s.Timeout)
			err := c.CommitRecords(limited, records...)
			cancel()
			if err != nil {
				return err
			}
		} else if err := c.Ping(ctx); err != nil { // the client would go on trying in silence
			return err
		}
		c.AllowRebalance()
	}
	return ctx.Err()
}

func kafkaMessage(r *kgo.Record) *Message {
	m := &Message{Topic: r.Topic, Body: r.Value, Header: map[string]string{},
		Place: r.Topic + "/" + strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)}
	for _, h := range r.Headers {
		m.Header[strings.ToLower(h.Key)] = string(h.Value)
	}
	return m
}
