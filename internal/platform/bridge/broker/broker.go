// Package broker speaks to a message broker that a site has already: Redis streams, NATS JetStream, Kafka or AMQP 0-9-1 (RabbitMQ).
//
// It owns the connections and what each broker means by "safe" and "in order". It does not own what is sent, what becomes of it, or what is tried
// again: that is package bridge's. It makes no topics, streams, queues or exchanges, only a reader's own mark (consumer group, durable
// consumer).
package broker

import (
	"context"
	"errors"
)

// Broker is one connection. It is given up after the first error other than ErrRefused and ErrMissing: no broker here connects again by
// itself, so what was sent on a connection and not acknowledged is known to be in doubt as a whole.
type Broker interface {
	// Publish sends messages of one topic, at most PublishMax, and sets errs, one for each: nil when the broker has it safe. When ctx ends the
	// rest fails.
	Publish(ctx context.Context, topic string, ms []*Message, errs []error)
	// Atomic reports whether Publish stores all or nothing, in order. Else a call must have one message of a key at most, where nothing of a
	// key may overtake what failed before it.
	Atomic() bool
	// Consume calls take with what the group was not given yet, in the topic's order, at most BatchMax messages at a time, and acknowledges them
	// after it has returned nil. A call without messages says that the broker has answered. Its own errors, and take's, end it; it never
	// returns nil.
	Consume(ctx context.Context, topic string, take func(ctx context.Context, ms []*Message) error) error
	// Close ends the connection at once.
	Close()
}

// Limits of one call.
const (
	BatchMax   = 256
	PublishMax = 500
)

var (
	// ErrRefused is in the error of a message that the broker will never take.
	ErrRefused = errors.New("the broker refuses the message")
	// ErrMissing is in the error of a message whose topic is not there or takes nothing now: the connection is good for others.
	ErrMissing = errors.New("the broker has no such topic")
)

// Message is what goes over a broker.
type Message struct {
	Topic  string
	ID     string            // out: unique within Target.Source. In: what the broker's own fields say, or ""
	Key    string            // out: what orders it
	Name   string            // out: what it is
	Header map[string]string // in: names in small letters
	Body   []byte
	Place  string // in: where it stands in the broker, the same at every delivery; "" when the broker has no such thing
}

// What every message goes out with, where the broker has headers.
const (
	ContentType = "application/cloudevents+json"
	HeaderID    = "levee-event-id"
)

func (m *Message) headers() [][2]string {
	return [][2]string{{"content-type", ContentType}, {HeaderID, m.ID}}
}
