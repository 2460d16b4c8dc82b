package bridge

import (
	"path"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/obs"
)

// Config says which broker and what is carried. The zero value is a bridge that is off.
type Config struct {
	// URL names the broker: redis://[USER@]HOST[:PORT][/NUMBER], nats://[USER@]HOST[:PORT],…, kafka://[USER@]HOST[:PORT],… or
	// amqp://[USER@]HOST[:PORT][/VHOST]; with an s at the end of the scheme (rediss, natss, kafkas, amqps) the connection is encrypted. At most 32
	// hosts. A password has no place in it. Default: none, the bridge is off.
	URL string
	// Password of the user; for nats:// without a user, its token. At most 4,096 bytes. Default: none.
	Password obs.Secret
	// SASL is how the user of kafka:// signs in: plain, scram-sha-256 or scram-sha-512. Default plain.
	SASL string
	// CA is the path of a PEM file with the certificates that may have signed the broker's, of at most 1 MiB. Default: those of the system.
	CA string
	// Cert and Key are the paths of this side's certificate and its key, PEM, for a broker that asks for one. Default: none.
	Cert, Key string
	// Source is this house's name in every message that goes out (CloudEvents' "source"), 1 to 128 bytes: "shop.example/levee". With the id it makes a
	// message unique, so two houses on one broker must differ in it. Needed.
	Source string
	// Out chooses the events that go out: "PATTERN=TOPIC" each, such as "order.*=shop.{event}" or "*=shop-events". * stands for any text,
	// {event} for the event's name. The first pattern that fits decides. TOPIC is a stream of Redis, a subject of NATS (some stream of
	// JetStream must take it), a topic of Kafka, a routing key of AMQP (the name of a queue when Exchange is empty). Default: none.
	Out []string
	// In chooses what comes in: "TOPIC=EVENT", or "TOPIC" when the messages name their event (CloudEvents' "type"). TOPIC is a stream of
	// Redis, a subject of NATS, a topic of Kafka, a queue of AMQP. Default: none.
	In []string
	// Group is this house's name among the readers of a topic (consumer group, durable consumer), 1 to 64 of a-z, 0-9, '-' and '_'. All
	// nodes have the same. A new one begins with the oldest message that the broker has. Default "levee".
	Group string
	// Exchange of AMQP to which events go. Default: the broker's default exchange, where the routing key is a queue's name.
	Exchange string
	// Replicas is how many replicas of Redis must have an event before it counts as delivered (WAIT), 0 to 8. Default 0.
	Replicas int
	// Timeout is the longest that the broker may take for a batch of events or to connect, from 100 ms to 1 minute. Default 5 s.
	Timeout time.Duration
	// MaxMessage is the most bytes of an incoming message that are looked at, from 1 KiB to 8 MiB; a longer one is parked. Default 1 MiB.
	MaxMessage int
	// Window is how long a repeated message is known as such, from 1 minute to 90 days. It costs some 100 bytes a message. Default 7 days.
	Window time.Duration
	// ParkedMax is how many messages of each direction are kept parked, from 10 to 1,000,000. Beyond, the oldest incoming one is
	// forgotten; an outgoing one holds up its event name instead. Default 10,000.
	ParkedMax int
}

const routesMax = 64

// settled is a Config that was checked, with its defaults.
type settled struct {
	Config
	to  broker.Target
	out []routeOut
	in  []routeIn
}

type routeOut struct{ pattern, topic string }

// fits reports whether the pattern chooses the event.
func (r routeOut) fits(name string) bool {
	ok, _ := path.Match(r.pattern, name) // names hold no slash, so * is any text
	return ok
}

type routeIn struct{ topic, event string }

// settle returns the config checked, or CodeInvalid about its first wrong field.
func (c Config) settle() (s settled, err error) {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	def(&c.Timeout, 5*time.Second)
	def(&c.Window, 7*24*time.Hour)
	if c.Group == "" {
		c.Group = "levee"
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = 1 << 20
	}
	if c.ParkedMax == 0 {
		c.ParkedMax = 10_000
	}
	s.Config = c
	s.to = broker.Target{URL: c.URL, Password: c.Password, SASL: c.SASL, CA: c.CA, Cert: c.Cert, Key: c.Key, Source: c.Source, Group: c.Group,
		Exchange: c.Exchange, Replicas: c.Replicas, Timeout: c.Timeout}
	if err := s.to.Check(); err != nil {
		return s, err
	}
	switch {
	case c.Timeout < 100*time.Millisecond || c.Timeout > time.Minute:
		return s, levee.Invalid("bridge.timeout", "from 100ms to 1m", c.Timeout)
	case c.MaxMessage < 1<<10 || c.MaxMessage > 8<<20:
		return s, levee.Invalid("bridge.max_message", "from 1024 to 8388608", c.MaxMessage)
	case c.Window < time.Minute || c.Window > 90*24*time.Hour:
		return s, levee.Invalid("bridge.window", "from 1m to 2160h", c.Window)
	case c.ParkedMax < 10 || c.ParkedMax > 1_000_000:
		return s, levee.Invalid("bridge.parked_max", "from 10 to 1000000", c.ParkedMax)
	case len(c.Out) > routesMax || len(c.In) > routesMax:
		return s, levee.Invalid("bridge.out, bridge.in", "at most 64 lines each", max(len(c.Out), len(c.In)))
	}
	for _, line := range c.Out {
		pattern, topic, ok := strings.Cut(line, "=")
		if _, err := path.Match(pattern, ""); !ok || pattern == "" || topic == "" || err != nil || strings.ContainsAny(pattern, `[]\/?`) {
			return s, levee.Invalid("bridge.out", "lines PATTERN=TOPIC, such as order.*=shop.{event}", line)
		}
		s.out = append(s.out, routeOut{pattern, topic})
	}
	for _, line := range c.In {
		topic, name, _ := strings.Cut(line, "=")
		if topic == "" {
			return s, levee.Invalid("bridge.in", "lines TOPIC or TOPIC=EVENT", line)
		}
		s.in = append(s.in, routeIn{topic, name})
	}
	return s, nil
}
