package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// The suite: one list of promises, kept over every broker.

func throughProxy(addr string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, addr)
	}
}

// forEach runs a test over every broker, each started new.
func forEach(t *testing.T, test func(t *testing.T, s *started)) {
	for _, kind := range kinds {
		if testing.Short() && kind == "amqp" {
			continue // it takes ten seconds to start
		}
		t.Run(kind, func(t *testing.T) { test(t, start(t, kind)) })
	}
}

// All goes out, in order per key, as CloudEvents that another program can read, and nothing stays behind.
func TestOut(t *testing.T) {
	forEach(t, func(t *testing.T, s *started) {
		topic := s.newTopic(t)
		h := newHouse(t, s, Config{Out: []string{"test.*=" + topic}}, nil)
		const many = 1000
		h.emit(t, 0, many, 20)
		all := s.read(t, topic, 10*time.Second, allOf(many))
		ns, _ := firsts(all)
		if lost, disorder := audit(ns, many); lost+disorder > 0 {
			t.Errorf("%d lost, %d out of order", lost, disorder)
		}
		g := all[0]
		if g.ce.SpecVersion != "1.0" || g.ce.Source != "test/house" || g.ce.Type != "test.noted.v1" || g.ce.DataType != "application/json" {
			t.Errorf("the envelope is %+v", g.ce)
		}
		if at, err := time.Parse(time.RFC3339Nano, g.ce.Time); err != nil || time.Since(at) > time.Minute || time.Since(at) < -time.Second {
			t.Errorf("the time is %q", g.ce.Time)
		}
		ids := map[string]bool{}
		for _, g := range all {
			ids[g.ce.ID] = true
			if s.kind != "amqp" && g.id != g.ce.ID || g.ce.Subject != fmt.Sprint(g.n.Key) || g.ce.Partition != g.ce.Subject || g.key != "" && s.kind != "amqp" && g.key != g.ce.Subject {
				t.Fatalf("header id %s, key %q, envelope %+v, data %+v", g.id, g.key, g.ce, g.n)
			}
		}
		if len(ids) != many {
			t.Errorf("%d ids for %d events", len(ids), many)
		}
		until(t, "the queue is empty", 5*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_out`) == 0 })
	})
}

// Connections are cut again and again, and the broker is killed: nothing is lost, and what comes first comes in order.
func TestOutUnderFaults(t *testing.T) {
	forEach(t, func(t *testing.T, s *started) {
		topic := s.newTopic(t)
		h := newHouse(t, s, Config{Out: []string{"*=" + topic}, Timeout: time.Second}, nil)
		const many = 1600
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(5+rand.IntN(60)) * time.Millisecond):
					s.proxy.ResetPeer()
				}
			}
		})
		for n := 0; n < many; n += 20 {
			if h.emit(t, n, n+20, 7); n == many/2 {
				if err := s.kill(); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(15 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		if err := s.restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		until(t, "the queue is empty", time.Minute, func() bool {
			return h.count(t, `SELECT COUNT(*) FROM bridge_out`)+h.count(t, `SELECT COUNT(*) FROM event_outbox`) == 0
		})
		ns, repeated := firsts(s.read(t, topic, 3*time.Second, allOf(many)))
		lost, disorder := audit(ns, many)
		t.Logf("%d came again", repeated)
		if lost+disorder > 0 {
			t.Errorf("%d lost, %d out of order", lost, disorder)
		}
	})
}

// A broker that is away costs rows: nothing waits for it, the log says so once, the lag shows, and afterwards all goes out at once.
func TestBrokerAway(t *testing.T) {
	forEach(t, func(t *testing.T, s *started) {
		topic := s.newTopic(t)
		s.proxy.Down()
		var log safeBuffer
		o, err := obs.Open(obs.Config{Level: "info", Format: "json"}, &log)
		if err != nil {
			t.Fatal(err)
		}
		h := newHouseAt(t, s, t.TempDir(), o, Config{Out: []string{"*=" + topic}, Timeout: 500 * time.Millisecond}, nil)
		const many = 3000
		h.emit(t, 0, many, 50)
		until(t, "all wait", 20*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_out`) == many })
		until(t, "the status says why", 20*time.Second, func() bool {
			lags, err := h.b.Lags(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return lags[0].Error != "" && lags[0].Waiting == many && lags[0].Oldest > 0
		})
		time.Sleep(time.Second)
		if err := s.proxy.Up(); err != nil {
			t.Fatal(err)
		}
		ns, _ := firsts(s.read(t, topic, 20*time.Second, allOf(many)))
		if lost, disorder := audit(ns, many); lost+disorder > 0 {
			t.Errorf("%d lost, %d out of order", lost, disorder)
		}
		until(t, "the queue is empty", 5*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_out`) == 0 })
		h.stop()
		text := log.String()
		if away, back := strings.Count(text, "the broker is away"), strings.Count(text, "the broker is there again"); away != 1 || back != 1 {
			t.Errorf("%d lines that it is away, %d that it is back:\n%s", away, back, text)
		}
	})
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func eventBody(source, id string, e heard) string {
	data, _ := json.Marshal(e)
	body, _ := json.Marshal(cloudEvent{SpecVersion: "1.0", ID: id, Source: source, Type: e.EventName(), Data: data})
	return string(body)
}

// Messages of every form become events, in order per key and once each, whatever is repeated; what cannot be read is parked and holds up nothing.
func TestIn(t *testing.T) {
	forEach(t, func(t *testing.T, s *started) {
		topic := s.newTopic(t)
		const many = 600
		var ms []sent
		for n := range many {
			e := heard{Key: int64(n % 9), N: n}
			key := fmt.Sprint(e.Key)
			structured := sent{key, map[string]string{"content-type": "application/cloudevents+json"}, eventBody("other/program", fmt.Sprint("id", n), e)}
			switch {
			case n%7 == 3: // no content type
				structured.header = nil
			case n%7 == 5: // binary mode
				structured = sent{key, map[string]string{"ce_id": fmt.Sprint("id", n), "ce_source": "other/program", "ce_type": e.EventName(), "ce_specversion": "1.0",
					"content-type": "application/json"}, fmt.Sprintf(`{"Key":%d,"N":%d}`, e.Key, e.N)}
			}
			ms = append(ms, structured)
			if n%10 == 0 {
				ms = append(ms, structured) // repeated by its sender
			}
			if n%50 == 0 { // a message that nobody can read
				bad := []string{"", "no json", "\xff\xfe\x00", `{"specversion":"1.0","id":"x%[1]d","source":"y","type":"test.unknown.v1","data":{}}`,
					`{"specversion":"2.0","id":"x2%[1]d","source":"y","type":"test.heard.v1","data":{}}`, eventBody("s", "nodata", heard{})[:40],
					`{"specversion":"1.0","id":"x3%[1]d","source":"y","type":"test.heard.v1","data":{"Key":"text"}}`, strings.Repeat("x", 150_000)}[n/50%8]
				ms = append(ms, sent{key, nil, strings.ReplaceAll(bad, "%[1]d", fmt.Sprint(n))})
			}
		}
		s.send(t, topic, ms...)
		h := newHouse(t, s, Config{In: []string{topic}, MaxMessage: 100_000}, nil)
		until(t, "all have their effect", 30*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM effect`) >= many })
		until(t, "the unreadable are parked", 10*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_parked`) >= 12 })
		time.Sleep(200 * time.Millisecond)
		ns := h.effects(t)
		if lost, disorder := audit(ns, many); lost+disorder > 0 || len(ns) != many {
			t.Errorf("%d lost, %d out of order, %d effects of %d", lost, disorder, len(ns), many)
		}
		ps, err := h.b.Parked(t.Context(), 0, 100)
		if err != nil || len(ps) != 12 {
			t.Errorf("%d parked, want 12 (%v)", len(ps), err)
		}
		for _, p := range ps {
			if p.Reason == "" || p.Out || p.Topic != topic {
				t.Errorf("parked: %+v", p)
			}
		}
		// A new start is given nothing twice.
		h.stop()
		h.run()
		s.send(t, topic, sent{"1", nil, eventBody("other/program", "last", heard{Key: 1, N: many})})
		until(t, "the last one comes", 20*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM effect WHERE n = ?`, many) == 1 })
		if n := h.count(t, `SELECT COUNT(*) FROM effect`); n != many+1 {
			t.Errorf("%d effects, want %d", n, many+1)
		}
	})
}

// Incoming messages while connections are cut and the broker is killed: each has its effect once, in order per key.
func TestInUnderFaults(t *testing.T) {
	forEach(t, func(t *testing.T, s *started) {
		topic := s.newTopic(t)
		h := newHouse(t, s, Config{In: []string{topic + "=test.heard.v1"}, Timeout: time.Second}, nil)
		const many = 900
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(50+rand.IntN(300)) * time.Millisecond):
					s.proxy.ResetPeer()
				}
			}
		})
		for n := 0; n < many; n += 100 {
			var ms []sent
			for i := n; i < n+100; i++ {
				ms = append(ms, sent{fmt.Sprint(i % 5), nil, eventBody("p", fmt.Sprint(i), heard{Key: int64(i % 5), N: i})})
			}
			s.send(t, topic, ms...)
			if n == 400 {
				if err := s.kill(); err != nil {
					t.Fatal(err)
				}
				if err := s.restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		until(t, "all have their effect", time.Minute, func() bool { return h.count(t, `SELECT COUNT(*) FROM effect`) >= many })
		ns := h.effects(t)
		if lost, disorder := audit(ns, many); lost+disorder > 0 || len(ns) != many {
			t.Errorf("%d lost, %d out of order, %d effects of %d", lost, disorder, len(ns), many)
		}
	})
}

// An event that the broker refuses for ever is parked and holds up nothing; a topic that is not there holds up its own events only.
func TestRefused(t *testing.T) {
	for _, kind := range []string{"nats", "kafka"} { // the others have no limit that an event could reach
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			topic := s.newTopic(t)
			h := newHouse(t, s, Config{Out: []string{"*=" + topic}}, nil)
			h.emit(t, 0, 10, 1)
			if err := h.d.Tx(t.Context(), "emit", func(ctx context.Context, tx *db.Tx) error {
				return h.bus.Emit(ctx, tx, noted{Key: 0, N: 10, Pad: strings.Repeat("x", 240<<10)})
			}); err != nil {
				t.Fatal(err)
			}
			h.emit(t, 11, 20, 1)
			until(t, "it is parked", 20*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_parked WHERE direction = 1`) == 1 })
			ns, _ := firsts(s.read(t, topic, 5*time.Second, allOf(19)))
			if lost, disorder := audit(ns, 20); lost != 1 || disorder != 0 {
				t.Errorf("%d lost, %d out of order", lost, disorder)
			}
			ps, err := h.b.Parked(t.Context(), 0, 10)
			if err != nil || len(ps) != 1 || ps[0].Event != "test.noted.v1" || !ps[0].Out {
				t.Fatalf("%+v, %v", ps, err)
			}
			if err := h.b.Retry(t.Context(), ps[0].ID); err != nil {
				t.Fatal(err)
			}
			until(t, "it is parked again", 20*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_parked`) == 1 })
			if err := h.b.Discard(t.Context(), ps[0].ID); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func missingKinds() int {
	if testing.Short() {
		return 1
	}
	return 2
}

// A topic that the site has not made yet: the events wait and go when it is there.
func TestMissingTopic(t *testing.T) {
	for _, kind := range []string{"nats", "amqp"}[:missingKinds()] { // Redis makes streams, and whether Kafka makes topics is its own setting
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			missing, there := fmt.Sprintf("missing%d", time.Now().UnixNano()), s.newTopic(t)
			h := newHouse(t, s, Config{Out: []string{"test.noted.v1=" + missing, "*=" + there}}, nil)
			const many = 300
			for n := range many {
				if err := h.d.Tx(t.Context(), "emit", func(ctx context.Context, tx *db.Tx) error {
					return h.bus.EmitMany(ctx, tx, noted{Key: int64(n % 3), N: n}, other{Key: int64(n % 3), N: n})
				}); err != nil {
					t.Fatal(err)
				}
			}
			ns, _ := firsts(s.read(t, there, 5*time.Second, allOf(many)))
			if lost, disorder := audit(ns, many); lost+disorder > 0 {
				t.Errorf("beside it %d lost, %d out of order", lost, disorder)
			}
			until(t, "the status says why, and none is lost", 20*time.Second, func() bool {
				lags, err := h.b.Lags(t.Context())
				if err != nil || lags[0].Waiting > many {
					t.Fatal(lags, err)
				}
				return strings.Contains(lags[0].Error, "no such topic") && lags[0].Waiting == many && lags[1].Waiting == 0
			})
		})
	}
}

// Two bridges at once, as when a node wakes up that was thought dead: what comes first comes in order all the same.
func TestTwoAtOnce(t *testing.T) {
	s := start(t, "redis")
	topic := s.newTopic(t)
	h := newHouse(t, s, Config{Out: []string{"*=" + topic}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	other, err := Open(h.b.d, Config{URL: s.url, Source: "test/house", Out: []string{"*=" + topic}})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = other.Run(ctx) })
	const many = 2000
	h.emit(t, 0, many, 11)
	ns, repeated := firsts(s.read(t, topic, 10*time.Second, allOf(many)))
	cancel()
	wg.Wait()
	if lost, disorder := audit(ns, many); lost+disorder > 0 {
		t.Errorf("%d lost, %d out of order", lost, disorder)
	}
	t.Logf("%d came again", repeated)
}

const tenMinutes = 600_000 << 22 // in ids

// The rows of a name have rising ids, also where another node, whose clock is ahead, wrote some before.
func TestOrderOverClocks(t *testing.T) {
	s := start(t, "redis")
	topic := s.newTopic(t)
	s.proxy.Down()
	h := newHouse(t, s, Config{Out: []string{"*=" + topic}}, nil)
	h.emit(t, 0, 3, 1)
	until(t, "they wait", 5*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_out`) == 3 })
	// As if a node whose clock is ten minutes ahead had delivered the third.
	if err := h.d.Tx(t.Context(), "ahead", func(ctx context.Context, tx *db.Tx) error {
		var last int64
		if err := tx.QueryRow(ctx, `SELECT MAX(id) FROM bridge_out`).Scan(&last); err != nil {
			return err
		}
		if at := id.TimeOf(last + tenMinutes).Sub(id.TimeOf(last)); at != 10*time.Minute {
			return fmt.Errorf("ten minutes are %v", at)
		}
		_, err := tx.Exec(ctx, `UPDATE bridge_out SET id = ? WHERE id = ?`, last+tenMinutes, last)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h.emit(t, 3, 6, 1)
	until(t, "all wait", 5*time.Second, func() bool { return h.count(t, `SELECT COUNT(*) FROM bridge_out`) == 6 })
	if err := s.proxy.Up(); err != nil {
		t.Fatal(err)
	}
	ns, _ := firsts(s.read(t, topic, 10*time.Second, allOf(6)))
	if lost, disorder := audit(ns, 6); lost+disorder > 0 {
		t.Errorf("%d lost, %d out of order: %v", lost, disorder, ns)
	}
}
