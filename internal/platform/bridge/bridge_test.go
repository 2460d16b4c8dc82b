package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// fake is a broker that stores what it is given but for some messages, as a cluster does whose leader changes.
type fake struct {
	stored []string
	fails  func(m *broker.Message) error
	calls  int
}

func (f *fake) Atomic() bool { return false }
func (f *fake) Close()       {}
func (f *fake) Consume(context.Context, string, func(context.Context, []*broker.Message) error) error {
	return errors.New("not here")
}

func (f *fake) Publish(_ context.Context, _ string, ms []*broker.Message, errs []error) {
	f.calls++
	for i, m := range ms {
		if errs[i] = f.fails(m); errs[i] == nil {
			f.stored = append(f.stored, m.Key+"/"+m.ID)
		}
	}
}

// What failed holds back the rest of its key, and of its key alone. The control publishes the messages of a key all at once: then some overtake.
func TestWaves(t *testing.T) {
	run := func(unordered bool) (f *fake, overtaken int) {
		flaky := map[string]bool{"a/2": true, "b/0": true, "c/5": true}
		f = &fake{fails: func(m *broker.Message) error {
			if k := m.Key + "/" + m.ID; flaky[k] {
				delete(flaky, k)
				return errors.New("the leader changes")
			}
			return nil
		}}
		b := &Bridge{seam: seam{unordered: unordered}}
		b.cfg.Timeout = time.Second
		var waiting []*broker.Message
		for n := range 8 {
			for _, k := range []string{"a", "b", "c", "d"} {
				waiting = append(waiting, &broker.Message{Key: k, ID: fmt.Sprint(n)})
			}
		}
		for rounds := 0; len(waiting) > 0 && rounds < 100; rounds++ {
			errs := b.publish(t.Context(), f, "t", waiting)
			var rest []*broker.Message
			for i, e := range errs {
				if e != nil {
					rest = append(rest, waiting[i])
				}
			}
			waiting = rest
		}
		if len(waiting) > 0 {
			t.Fatalf("%d were never published", len(waiting))
		}
		next := map[string]int{}
		for _, s := range f.stored {
			k, n, _ := strings.Cut(s, "/")
			if fmt.Sprint(next[k]) != n {
				overtaken++
			}
			next[k]++
		}
		return f, overtaken
	}
	if f, n := run(false); n != 0 || f.calls > 32 {
		t.Errorf("%d overtook, %d calls: %v", n, f.calls, f.stored)
	}
	if _, n := run(true); n == 0 {
		t.Error("the control: nothing overtook, so the check cannot see what it is there for")
	}
}

func ready() Config {
	return Config{URL: "nats://localhost", Source: "me", Out: []string{"*=x.{event}"}}
}

func deps(t *testing.T) Deps {
	p := platformtest.New(t, Schema())
	return Deps{DB: p.DB, IDs: p.IDs, Bus: p.Events, Obs: p.Obs, Out: []Type{Of[noted]()}, In: []Type{Of[heard]()}}
}

// Every wrong value is refused with its field's name, and no refusal repeats a password.
func TestConfig(t *testing.T) {
	d := deps(t)
	if _, err := Open(d, ready()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field  string
		change func(c *Config)
	}{
		{"bridge.url", func(c *Config) { c.URL = "localhost" }},
		{"bridge.url", func(c *Config) { c.URL = "http://localhost" }},
		{"bridge.url", func(c *Config) { c.URL = "nats://u:hunter2@localhost" }},
		{"bridge.url", func(c *Config) { c.URL = "nats://localhost?password=hunter2" }},
		{"bridge.url", func(c *Config) { c.URL = "nats://localhost:99999" }},
		{"bridge.url", func(c *Config) { c.URL = "nats://" }},
		{"bridge.url", func(c *Config) { c.URL = "redis://a,b" }},
		{"bridge.url", func(c *Config) { c.URL = "redis://a/x" }},
		{"bridge.url", func(c *Config) { c.URL = "kafka://a/b" }},
		{"bridge.url", func(c *Config) { c.URL = "kafka://" + strings.Repeat("a,", 40) + "a" }},
		{"bridge.url", func(c *Config) { c.URL = strings.Repeat("a", 5000) }},
		{"bridge.url", func(c *Config) { c.URL, c.Password = "kafka://a", "hunter2" }},
		{"bridge.password", func(c *Config) { c.Password = obs.Secret(strings.Repeat("hunter2", 1000)) }},
		{"bridge.sasl", func(c *Config) { c.SASL = "plain" }},
		{"bridge.sasl", func(c *Config) { c.URL, c.SASL = "kafka://a", "gssapi" }},
		{"bridge.ca", func(c *Config) { c.CA = "x" }},
		{"bridge.ca", func(c *Config) { c.URL, c.CA = "natss://a", "/nowhere.pem" }},
		{"bridge.cert", func(c *Config) { c.URL, c.Cert = "natss://a", "x" }},
		{"bridge.source", func(c *Config) { c.Source = "" }},
		{"bridge.source", func(c *Config) { c.Source = "a b" }},
		{"bridge.group", func(c *Config) { c.Group = "A B" }},
		{"bridge.exchange", func(c *Config) { c.Exchange = "x" }},
		{"bridge.replicas", func(c *Config) { c.Replicas = 1 }},
		{"bridge.timeout", func(c *Config) { c.Timeout = time.Millisecond }},
		{"bridge.max_message", func(c *Config) { c.MaxMessage = 1 }},
		{"bridge.window", func(c *Config) { c.Window = time.Second }},
		{"bridge.parked_max", func(c *Config) { c.ParkedMax = 1 }},
		{"bridge.out", func(c *Config) { c.Out = []string{"test.*"} }},
		{"bridge.out", func(c *Config) { c.Out = []string{"[=x"} }},
		{"bridge.out", func(c *Config) { c.Out = []string{"order.*=x"} }},
		{"bridge.out", func(c *Config) { c.Out = []string{"*=x.*"} }},
		{"bridge.out", func(c *Config) { c.Out = []string{"*=x..y"} }},
		{"bridge.out", func(c *Config) { c.URL, c.Out = "kafka://a", []string{"*=x/y"} }},
		{"bridge.out", func(c *Config) { c.Out = make([]string, 65) }},
		{"bridge.in", func(c *Config) { c.In = []string{"=x"} }},
		{"bridge.in", func(c *Config) { c.In = []string{"t=test.unknown.v1"} }},
		{"bridge.in", func(c *Config) { c.In = []string{"t", "t"} }},
	} {
		cfg := ready()
		c.change(&cfg)
		_, err := Open(d, cfg)
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || !strings.HasPrefix(e.Fields[0].Field, c.field) {
			t.Errorf("%s: %v", c.field, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats a password: %v", c.field, err)
		}
	}
	// The same event both ways would run in a circle.
	d.In = append(d.In, Of[noted]())
	cfg := ready()
	cfg.In = []string{"t=test.noted.v1"}
	if _, err := Open(d, cfg); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a circle: %v", err)
	}
}

// Without a URL nothing is listened to, opened or carried.
func TestOff(t *testing.T) {
	b, err := Open(deps(t), Config{Out: []string{"nonsense"}})
	if err != nil || b.On() || len(b.Listeners()) != 0 {
		t.Fatalf("%v, on %t", err, b.On())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// A message is what its envelope says; its id is the sender's, else the broker's, else the place where it stands.
func TestRead(t *testing.T) {
	in := &intake{topic: "t", types: map[string]Type{"test.heard.v1": Of[heard]()}}
	fixed := &intake{topic: "t", event: "test.heard.v1", types: in.types}
	for _, c := range []struct {
		in             *intake
		m              broker.Message
		source, id     string
		reason         string // part of it; "": it is read
		deduplicatable bool
	}{
		{in, broker.Message{Body: []byte(eventBody("s", "1", heard{N: 7}))}, "s", "1", "", true},
		{fixed, broker.Message{Body: []byte(`{"N":7}`), Place: "p"}, "topic:t", "at:p", "", true},
		{fixed, broker.Message{Body: []byte(`{"N":7}`), ID: "i", Place: "p"}, "topic:t", "i", "", true},
		{fixed, broker.Message{Body: []byte(`{"N":7}`)}, "topic:t", "", "", false},
		{in, broker.Message{Body: []byte(`{"N":7}`), Place: "p"}, "topic:t", "at:p", "names no event", true},
		{in, broker.Message{Body: []byte(`{"N":7}`), Header: map[string]string{"cloudevents:id": "b", "cloudevents:source": "s", "cloudevents:type": "test.heard.v1"}}, "s", "b", "", true},
		{in, broker.Message{Body: []byte(`{"N":7}`), Header: map[string]string{"ce-id": "b", "ce-source": "s", "ce-type": "test.heard.v1", "ce-specversion": "0.3"}}, "s", "b", "version", true},
		{in, broker.Message{Body: []byte(`{"specversion":"1.0","id":"1","source":"s","type":"test.heard.v1","data_base64":"eyJOIjo3fQ=="}`)}, "s", "1", "", true},
		{in, broker.Message{Body: []byte(`{"specversion":"1.0","id":"1","source":"s","type":"test.heard.v1","data_base64":"!"}`)}, "s", "1", "base64", true},
		{in, broker.Message{Body: []byte(`{"specversion":"1.0","id":"1","source":"s","type":"test.heard.v1"}`)}, "s", "1", "no data", true},
		{in, broker.Message{Body: []byte(`{"specversion":"1.0","source":"s","type":"test.heard.v1"}`), Place: "p"}, "topic:t", "at:p", "lacks", true},
		{in, broker.Message{Body: []byte(strings.Repeat("x", 2000)), Place: "p"}, "topic:t", "at:p", "2000 bytes", true},
		{fixed, broker.Message{Body: []byte(`"text"`), Place: "p"}, "topic:t", "at:p", "not those of", true},
	} {
		c.m.Topic = "t"
		a := c.in.read(&c.m, 1000)
		if a.source != c.source || a.id != c.id || (a.ev == nil) != (c.reason != "") || !strings.Contains(a.reason, c.reason) || (a.digest != "") != c.deduplicatable {
			t.Errorf("%s: %+v", c.m.Body[:min(80, len(c.m.Body))], a)
		}
		if a.ev != nil && a.ev.(heard).N != 7 {
			t.Errorf("%s: %+v", c.m.Body, a.ev)
		}
	}
}

// The parked messages are bounded, can be taken once more, and notes of messages are forgotten after the window.
func TestParked(t *testing.T) {
	d := deps(t)
	clock := obs.NewStepClock(time.Now())
	cfg := ready()
	cfg.In, cfg.ParkedMax, cfg.Window = []string{"t"}, 10, time.Hour
	b, err := Open(d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.clock = clock.Now
	count := func(query string) (n int) {
		t.Helper()
		if err := d.DB.QueryRow(db.Primary(t.Context()), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for n := range 25 {
		m := &broker.Message{Topic: "t", Body: []byte(fmt.Sprintf(`{"Key":1,"N":%d}`, n)), Place: fmt.Sprint(n)}
		if n == 20 {
			m.Body = []byte("\xff")
		}
		if _, err := b.take(t.Context(), b.in[0], []*broker.Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	ps, err := b.Parked(t.Context(), 0, 100)
	if err != nil || len(ps) != 10 || ps[0].Data != `{"Key":1,"N":15}` || ps[9].Data != `{"Key":1,"N":24}` {
		t.Fatalf("%v: %+v", err, ps)
	}
	if err := b.Retry(t.Context(), ps[5].ID); levee.CodeOf(err) != levee.CodeConflict {
		t.Errorf("data that are not whole: %v", err)
	}
	if err := b.Retry(t.Context(), ps[0].ID); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("it names no event still: %v", err)
	}
	b.in[0].event = "test.heard.v1" // as after a change of the config
	if err := b.Retry(t.Context(), ps[0].ID); err != nil {
		t.Error(err)
	}
	if err := b.Retry(t.Context(), ps[0].ID); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("again: %v", err)
	}
	if n := count(`SELECT COUNT(*) FROM event_outbox WHERE name = 'test.heard.v1'`); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if err := b.Discard(t.Context(), ps[1].ID); err != nil {
		t.Error(err)
	}
	if err := b.Discard(t.Context(), ps[1].ID); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("again: %v", err)
	}
	if n := count(`SELECT COUNT(*) FROM bridge_seen`); n != 25 {
		t.Errorf("%d notes, want 25", n)
	}
	clock.Step(time.Minute)
	if n, err := b.forgetSome(t.Context(), clock.Now().Add(-cfg.Window)); n != 0 || err != nil {
		t.Errorf("%d notes forgotten early, %v", n, err)
	}
	clock.Step(time.Hour)
	if n, err := b.forgetSome(t.Context(), clock.Now().Add(-cfg.Window)); n != 25 || err != nil {
		t.Errorf("%d notes forgotten, want 25, %v", n, err)
	}
	if n := count(`SELECT COUNT(*) FROM bridge_seen`); n != 0 {
		t.Errorf("%d notes left", n)
	}
}

// Outgoing events are never given up for room: when as many as allowed are parked, the next one waits.
func TestParkedOutIsFull(t *testing.T) {
	d := deps(t)
	cfg := ready()
	cfg.ParkedMax = 10
	b, err := Open(d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Bus.Register(b.Listeners()...); err != nil {
		t.Fatal(err)
	}
	b.pub.d = &fake{fails: func(*broker.Message) error { return fmt.Errorf("%w: too large", broker.ErrRefused) }}
	emit := func(n int) {
		t.Helper()
		if err := d.DB.Tx(t.Context(), "emit", func(ctx context.Context, tx *db.Tx) error {
			for i := range n {
				if err := d.Bus.Emit(ctx, tx, noted{Key: int64(i), N: i}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := d.Bus.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	emit(10)
	if n, err := b.flush(t.Context(), b.out[0]); n != 10 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	emit(1)
	if _, err := b.flush(t.Context(), b.out[0]); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("%v", err)
	}
	if n, _, err := b.waiting(t.Context(), "test.noted.v1"); n != 1 || err != nil {
		t.Errorf("%d wait, %v", n, err)
	}
}

// An event that rolls back is not carried, and one whose name no pattern chooses has no listener.
func TestChosen(t *testing.T) {
	d := deps(t)
	d.Out = append(d.Out, Of[heard]())
	cfg := ready()
	cfg.Out = []string{"test.n*=x"}
	b, err := Open(d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Bus.Register(b.Listeners()...); err != nil {
		t.Fatal(err)
	}
	if k := d.Bus.Events(); len(k) != 1 || k[0].Name != "test.noted.v1" || k[0].Listeners[0] != "bridge/test.noted.v1" {
		t.Errorf("%+v", k)
	}
	undo := errors.New("undo")
	for _, result := range []error{undo, nil} {
		if err := d.DB.Tx(t.Context(), "emit", func(ctx context.Context, tx *db.Tx) error {
			return errors.Join(d.Bus.Emit(ctx, tx, noted{Key: 5, N: 1, Pad: "<&>"}), d.Bus.Emit(ctx, tx, heard{Key: 5}), result)
		}); !errors.Is(err, result) {
			t.Fatal(err)
		}
	}
	if err := d.Bus.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := b.readOut(t.Context(), "test.noted.v1")
	if err != nil || len(rows) != 1 || rows[0].key != 5 {
		t.Fatalf("%v, %v", rows, err)
	}
	var back noted
	if err := json.Unmarshal(rows[0].data, &back); err != nil || back.Pad != "<&>" {
		t.Errorf("%s, %v", rows[0].data, err)
	}
}

// The pages by which waiting events are read are bounded in rows and bytes.
func TestPage(t *testing.T) {
	d := deps(t)
	b, err := Open(d, ready())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.DB.Tx(t.Context(), "fill", func(ctx context.Context, tx *db.Tx) error {
		for n := range 60 {
			if err := b.enqueue(ctx, tx, "test.noted.v1", 1, []byte(`"`+strings.Repeat("x", 200<<10)+`"`)); err != nil {
				return fmt.Errorf("%d: %w", n, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	rows, err := b.readOut(t.Context(), "test.noted.v1")
	if err != nil || len(rows) < 5 || len(rows)*200<<10 > pageBytes+512<<10 {
		t.Errorf("%d rows of 200 KiB, %v", len(rows), err)
	}
}

// The listeners of a house's events and the events that come in are the bus's; what it refuses is parked alone.
func TestRefusedByTheBus(t *testing.T) {
	d := deps(t)
	d.In = []Type{Of[odd]()}
	cfg := ready()
	cfg.In = []string{"t=test.odd.v1"}
	b, err := Open(d, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var ms []*broker.Message
	for n := range 5 {
		ms = append(ms, &broker.Message{Topic: "t", Place: fmt.Sprint(n), Body: []byte(fmt.Sprintf(`{"N":%d}`, n))})
	}
	if n, err := b.take(t.Context(), b.in[0], ms); n != 5 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	ps, err := b.Parked(t.Context(), 0, 10)
	if err != nil || len(ps) != 1 || ps[0].Data != `{"N":3}` {
		t.Errorf("%+v, %v", ps, err)
	}
}

// odd is an event without a name when N is 3.
type odd struct{ N int }

func (o odd) EventName() string {
	if o.N == 3 {
		return ""
	}
	return "test.odd.v1"
}
func (odd) EventKey() int64 { return 1 }

var _ event.Event = odd{}

// A file that is no certificate is told from one that is missing.
func TestCertificates(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Config{{CA: text}, {Cert: text, Key: text}} {
		c.URL, c.Source = "amqps://localhost", "me"
		if _, err := c.settle(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%v", err)
		}
	}
}

// A message that is delivered twice becomes one event; the control, which does not look, makes two.
func TestRepeated(t *testing.T) {
	for want, blind := range map[int]bool{1: false, 2: true} {
		d := deps(t)
		cfg := ready()
		cfg.In = []string{"t"}
		b, err := Open(d, cfg)
		if err != nil {
			t.Fatal(err)
		}
		b.seam.blind = blind
		for range 2 {
			if _, err := b.take(t.Context(), b.in[0], []*broker.Message{{Topic: "t", Body: []byte(eventBody("s", "1", heard{Key: 1}))}}); err != nil {
				t.Fatal(err)
			}
		}
		var n int
		if err := d.DB.QueryRow(db.Primary(t.Context()), `SELECT COUNT(*) FROM event_outbox`).Scan(&n); err != nil || n != want {
			t.Errorf("blind %t: %d events, want %d (%v)", blind, n, want, err)
		}
	}
}
