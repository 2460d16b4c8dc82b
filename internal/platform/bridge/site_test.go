package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// The other side of the broker, through the libraries themselves and past the proxy: what a site's other programs see.

func schemas() []db.Schema {
	return []db.Schema{event.Schema(), Schema(), {Owner: "test", FS: fstest.MapFS{"schema/0001_effect.sql": {Data: []byte(effectSchema)}}}}
}

var topics atomic.Int64

// newTopic makes a topic on the broker that takes messages.
func (s *started) newTopic(t *testing.T) string {
	t.Helper()
	topic := fmt.Sprintf("t%d.%d", topics.Add(1), time.Now().UnixNano())
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch s.kind {
	case "nats":
		c, err := nats.Connect(s.direct)
		must(err)
		defer c.Close()
		js, err := jetstream.New(c)
		must(err)
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S" + strconv.FormatInt(topics.Add(1), 10) + "_" + strconv.FormatInt(time.Now().UnixNano(), 10), Subjects: []string{topic},
			MaxMsgSize: 200 << 10})
		must(err)
	case "kafka":
		c, err := kgo.NewClient(kgo.SeedBrokers(s.direct))
		must(err)
		defer c.Close()
		r := kmsg.NewPtrCreateTopicsRequest()
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, 4, 1
		size := "204800"
		rt.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "max.message.bytes", Value: &size}}
		r.Topics = append(r.Topics, rt)
		_, err = r.RequestWith(ctx, c)
		must(err)
	case "amqp":
		c, err := amqp.Dial("amqp://guest:guest@" + s.direct)
		must(err)
		defer c.Close()
		ch, err := c.Channel()
		must(err)
		_, err = ch.QueueDeclare(topic, true, false, false, false, nil)
		must(err)
	}
	return topic
}

// got is a message as another program reads it.
type got struct {
	id, key string
	ce      cloudEvent
	n       noted
}

// read reads messages of the topic, from the oldest on, until done says so or nothing has come for a while.
func (s *started) read(t *testing.T, topic string, patience time.Duration, done func(all []got) bool) (all []got) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(id, key string, body []byte) bool {
		g := got{id: id, key: key}
		must(json.Unmarshal(body, &g.ce))
		must(json.Unmarshal(g.ce.Data, &g.n))
		all = append(all, g)
		return !done(all)
	}
	if done(nil) {
		return nil
	}
	switch s.kind {
	case "redis":
		c := goredis.NewClient(&goredis.Options{Addr: s.direct})
		defer c.Close()
		for from := "0"; ; {
			found, err := c.XRead(ctx, &goredis.XReadArgs{Streams: []string{topic, from}, Count: 500, Block: patience}).Result()
			if err == goredis.Nil {
				return all
			}
			must(err)
			for _, m := range found[0].Messages {
				from = m.ID
				if !add(m.Values["levee-event-id"].(string), m.Values["key"].(string), []byte(m.Values["body"].(string))) {
					return all
				}
			}
		}
	case "nats":
		c, err := nats.Connect(s.direct)
		must(err)
		defer c.Close()
		js, err := jetstream.New(c)
		must(err)
		stream, err := js.StreamNameBySubject(ctx, topic)
		must(err)
		cons, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
		must(err)
		for {
			m, err := cons.Next(jetstream.FetchMaxWait(patience))
			if err != nil {
				return all
			}
			if !add(m.Headers().Get("levee-event-id"), "", m.Data()) {
				return all
			}
		}
	case "kafka":
		c, err := kgo.NewClient(kgo.SeedBrokers(s.direct), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		must(err)
		defer c.Close()
		for {
			limited, cancel := context.WithTimeout(ctx, patience)
			f := c.PollFetches(limited)
			cancel()
			if f.NumRecords() == 0 {
				return all
			}
			for _, r := range f.Records() {
				if !add(string(r.Headers[1].Value), string(r.Key), r.Value) {
					return all
				}
			}
		}
	case "amqp":
		c, err := amqp.Dial("amqp://guest:guest@" + s.direct)
		must(err)
		defer c.Close()
		ch, err := c.Channel()
		must(err)
		in, err := ch.Consume(topic, "", true, false, false, false, nil)
		must(err)
		for {
			select {
			case m := <-in:
				if !add(m.MessageId, m.Headers["levee-event-id"].(string), m.Body) {
					return all
				}
			case <-time.After(patience):
				return all
			}
		}
	}
	return all
}

// sent is a message as another program sends it.
type sent struct {
	key    string
	header map[string]string
	body   string
}

// send sends messages to the topic.
func (s *started) send(t *testing.T, topic string, ms ...sent) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch s.kind {
	case "redis":
		c := goredis.NewClient(&goredis.Options{Addr: s.direct})
		defer c.Close()
		_, err := c.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for _, m := range ms {
				values := []any{"body", m.body}
				for k, v := range m.header {
					values = append(values, k, v)
				}
				p.XAdd(ctx, &goredis.XAddArgs{Stream: topic, Values: values})
			}
			return nil
		})
		must(err)
	case "nats":
		c, err := nats.Connect(s.direct)
		must(err)
		defer c.Close()
		js, err := jetstream.New(c)
		must(err)
		for _, m := range ms {
			msg := nats.NewMsg(topic)
			msg.Data = []byte(m.body)
			for k, v := range m.header {
				msg.Header.Set(k, v)
			}
			_, err := js.PublishMsgAsync(msg)
			must(err)
		}
		<-js.PublishAsyncComplete()
	case "kafka":
		c, err := kgo.NewClient(kgo.SeedBrokers(s.direct))
		must(err)
		defer c.Close()
		var rs []*kgo.Record
		for _, m := range ms {
			r := &kgo.Record{Topic: topic, Key: []byte(m.key), Value: []byte(m.body)}
			for k, v := range m.header {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
			}
			rs = append(rs, r)
		}
		must(c.ProduceSync(ctx, rs...).FirstErr())
	case "amqp":
		c, err := amqp.Dial("amqp://guest:guest@" + s.direct)
		must(err)
		defer c.Close()
		ch, err := c.Channel()
		must(err)
		must(ch.Confirm(false))
		var last *amqp.DeferredConfirmation
		for _, m := range ms {
			p := amqp.Publishing{Body: []byte(m.body), Headers: amqp.Table{}, DeliveryMode: amqp.Persistent, ContentType: m.header["content-type"]}
			for k, v := range m.header {
				p.Headers[k] = v
			}
			last, err = ch.PublishWithDeferredConfirm("", topic, true, false, p)
			must(err)
		}
		if !last.Wait() {
			t.Fatal("not confirmed")
		}
	}
}

// newHouse opens a house over a broker, with one way out and one in, and runs it. Over Kafka its connections take the way through the proxy:
// the broker tells its own address.
func newHouse(t *testing.T, s *started, cfg Config, change func(b *Bridge)) *house {
	t.Helper()
	return newHouseAt(t, s, t.TempDir(), obs.Test(t), cfg, change)
}

func newHouseAt(t *testing.T, s *started, dir string, o *obs.Obs, cfg Config, change func(b *Bridge)) *house {
	t.Helper()
	cfg.URL, cfg.Source = s.url, "test/house"
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	h, err := openHouse(t.Context(), dir, platformtest.Config(t, dir, schemas()...), cfg, o, func(b *Bridge) {
		if s.kind == "kafka" {
			b.cfg.to.Dial = throughProxy(s.proxy.Addr)
		}
		if change != nil {
			change(b)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	h.run()
	return h
}

// emit emits events first to last of keys in turn, a few in a transaction.
func (h *house) emit(t *testing.T, first, last, keys int) {
	t.Helper()
	for n := first; n < last; {
		start := n
		err := h.d.Tx(t.Context(), "emit", func(ctx context.Context, tx *db.Tx) error {
			var es []event.Event
			for n = start; n < min(start+20, last); n++ {
				es = append(es, noted{Key: int64(n % keys), N: n})
			}
			return h.bus.EmitMany(ctx, tx, es...)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (h *house) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	if err := h.d.QueryRow(db.Primary(t.Context()), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// until waits for a condition.
func until(t *testing.T, what string, patience time.Duration, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// firsts is what came for the first time, in the order of its coming.
func firsts(all []got) (ns []noted, repeated int) {
	seen := map[int]bool{}
	for _, g := range all {
		if seen[g.n.N] {
			repeated++
			continue
		}
		seen[g.n.N] = true
		ns = append(ns, g.n)
	}
	return ns, repeated
}

// audit compares what came with 0 to many-1: how many are missing, and how many came before an earlier one of their key.
func audit(ns []noted, many int) (lost, disorder int) {
	seen, last := map[int]bool{}, map[int64]int{}
	for _, n := range ns {
		if before, ok := last[n.Key]; ok && n.N < before {
			disorder++
		}
		last[n.Key] = n.N
		seen[n.N] = true
	}
	for n := range many {
		if !seen[n] {
			lost++
		}
	}
	return lost, disorder
}

// allOf ends a reading when so many different ones are there.
func allOf(many int) func([]got) bool {
	seen := map[int]bool{}
	return func(all []got) bool {
		if len(all) > 0 {
			seen[all[len(all)-1].n.N] = true
		}
		return len(seen) >= many
	}
}

// effects is what the listener of incoming events wrote, in its order.
func (h *house) effects(t *testing.T) (ns []noted) {
	t.Helper()
	rows, err := h.d.Query(db.Primary(t.Context()), `SELECT event_key, n FROM effect ORDER BY at`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var n noted
		if err := rows.Scan(&n.Key, &n.N); err != nil {
			t.Fatal(err)
		}
		ns = append(ns, n)
	}
	return ns
}
