package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/obs"
)

// Target says which broker, and as whom it is spoken to. bridge.Config explains the fields; all are given, also those that have defaults there.
type Target struct {
	URL                     string
	Password                obs.Secret
	SASL                    string
	CA, Cert, Key           string
	Source, Group, Exchange string
	Replicas                int
	Timeout                 time.Duration
	// Dial is another way to the broker, for tests. Nil: the usual.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	kind  string // redis, nats, kafka, amqp
	user  string
	hosts []string
	path  string // number of Redis, vhost of AMQP
	tls   *tls.Config
}

const (
	hostsMax, urlMax, passwordMax, caMax = 32, 4096, 4096, 1 << 20
	topicMax                             = 200
)

const urlForm = "redis://, nats://, kafka:// or amqp:// (rediss, natss, kafkas or amqps for TLS), then [USER@]HOST[:PORT], without a password, which has a field of its own"

var defaultPorts = map[string]string{"redis": "6379", "nats": "4222", "kafka": "9092", "amqp": "5672", "amqps": "5671"}

// openers by the scheme of the URL.
var openers = map[string]func(ctx context.Context, s *Target) (Broker, error){
	"redis": openRedis,
	"nats":  openNATS,
	"kafka": openKafka,
	"amqp":  openAMQP,
}

// Kind is redis, nats, kafka or amqp, once Check has passed.
func (s *Target) Kind() string { return s.kind }

// Hosts are HOST:PORT each, once Check has passed.
func (s *Target) Hosts() []string { return s.hosts }

// Open connects. Check must have passed.
func (s *Target) Open(ctx context.Context) (Broker, error) { return openers[s.kind](ctx, s) }

// Check reads the URL and the certificates. CodeInvalid about the first field that is wrong, by its name in the configuration.
func (s *Target) Check() (err error) {
	if err := s.parseURL(s.URL); err != nil {
		return err
	}
	secure := strings.HasPrefix(s.URL, s.kind+"s:")
	switch {
	case len(s.Password) > passwordMax:
		return levee.Invalid("bridge.password", "at most 4096 bytes", strconv.Itoa(len(s.Password))+" bytes")
	case s.SASL != "" && s.kind != "kafka":
		return levee.Invalid("bridge.sasl", "set for kafka:// alone", s.SASL)
	case s.SASL != "" && s.SASL != "plain" && s.SASL != "scram-sha-256" && s.SASL != "scram-sha-512":
		return levee.Invalid("bridge.sasl", "plain, scram-sha-256 or scram-sha-512", s.SASL)
	case s.kind == "kafka" && s.Password != "" && s.user == "":
		return levee.Invalid("bridge.url", "with a user, for kafka:// with a password", "no user")
	case !secure && s.CA+s.Cert+s.Key != "":
		return levee.Invalid("bridge.ca, bridge.cert, bridge.key", "set for rediss, natss, kafkas and amqps alone", s.kind+"://")
	case (s.Cert == "") != (s.Key == ""):
		return levee.Invalid("bridge.cert, bridge.key", "both or none", "one")
	case s.Source == "" || len(s.Source) > 128 || !printable(s.Source):
		return levee.Invalid("bridge.source", "1 to 128 bytes without blanks, another one for each house on the broker", s.Source)
	case len(s.Group) > 64 || strings.Trim(s.Group, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
		return levee.Invalid("bridge.group", "1 to 64 of a-z, 0-9, '-' and '_'", s.Group)
	case s.Exchange != "" && (s.kind != "amqp" || len(s.Exchange) > 127 || !printable(s.Exchange)):
		return levee.Invalid("bridge.exchange", "set for amqp:// alone, at most 127 bytes without blanks", s.Exchange)
	case s.Replicas < 0 || s.Replicas > 8 || s.Replicas > 0 && s.kind != "redis":
		return levee.Invalid("bridge.replicas", "from 0 to 8, for redis:// alone", s.Replicas)
	}
	if secure {
		s.tls, err = s.secure()
	}
	return err
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// CheckTopic refuses, with CodeInvalid about the field, what one of the brokers would refuse or understand in another way.
func (s *Target) CheckTopic(field, topic string) error {
	if len(topic) > topicMax || !printable(topic) || strings.ContainsAny(topic, "*>{}") || s.kind == "nats" && strings.Contains("."+topic+".", "..") ||
		s.kind == "kafka" && strings.ContainsFunc(topic, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		}) {
		return levee.Invalid(field, "topics of 1 to 200 bytes without blanks, *, > and other braces than {event}, as "+s.kind+" takes them", topic)
	}
	return nil
}

// parseURL reads a URL by hand: net/url knows no list of hosts, and its errors quote what may be a password.
func (s *Target) parseURL(u string) error {
	if len(u) > urlMax {
		return levee.Invalid("bridge.url", urlForm, strconv.Itoa(len(u))+" bytes")
	}
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return levee.Invalid("bridge.url", urlForm, "a text without ://")
	}
	if s.kind = scheme; openers[scheme] == nil {
		s.kind = strings.TrimSuffix(scheme, "s")
	}
	refuse := func(what string) error { return levee.Invalid("bridge.url", urlForm, scheme+"://, "+what) }
	if openers[s.kind] == nil {
		return levee.Invalid("bridge.url", urlForm, levee.Shorten(scheme, 20)+"://…")
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 { // the last one, because a password may hold anything
		s.user, rest = rest[:at], rest[at+1:]
		if s.user == "" || len(s.user) > 128 || !printable(s.user) || strings.ContainsAny(s.user, ":/@") {
			return refuse("with a password, or a user that is empty, too long or has blanks")
		}
	}
	if strings.ContainsAny(rest, "?#") {
		return refuse("with ? or #") // which may hold a password
	}
	hosts, tail, _ := strings.Cut(rest, "/")
	s.path = tail
	port := defaultPorts[s.kind]
	if scheme == "amqps" {
		port = defaultPorts["amqps"]
	}
	for h := range strings.SplitSeq(hosts, ",") {
		host, p, err := net.SplitHostPort(h)
		if err != nil {
			host, p = strings.Trim(h, "[]"), port
		}
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 || host == "" || len(host) > 253 || !printable(host) {
			return refuse("host " + levee.Shorten(h, 40))
		}
		s.hosts = append(s.hosts, net.JoinHostPort(host, p))
	}
	n, err := strconv.Atoi(tail)
	switch {
	case len(s.hosts) > hostsMax || len(s.hosts) > 1 && (s.kind == "redis" || s.kind == "amqp"):
		return refuse(strconv.Itoa(len(s.hosts)) + " hosts")
	case tail == "" || s.kind == "amqp" && len(tail) <= 128 && printable(tail):
	case s.kind != "redis" || err != nil || n < 0 || n > 1023 || strconv.Itoa(n) != tail:
		return refuse("path /" + levee.Shorten(tail, 40))
	}
	return nil
}

// secure makes the client's side of TLS.
func (s *Target) secure() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		info, err := os.Stat(s.CA)
		if err != nil {
			return nil, levee.Invalid("bridge.ca", "a PEM file that can be read", s.CA).Because(err)
		}
		if info.Size() > caMax {
			return nil, levee.Invalid("bridge.ca", "at most 1 MiB", info.Size())
		}
		text, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, levee.Invalid("bridge.ca", "a PEM file that can be read", s.CA).Because(err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, levee.Invalid("bridge.ca", "a PEM file with a certificate", s.CA)
		}
	}
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, levee.Invalid("bridge.cert, bridge.key", "PEM files of a certificate and its key", s.Cert).Because(err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// dialer is how drivers reach the broker.
func (s *Target) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if s.Dial != nil {
		return s.Dial
	}
	return (&net.Dialer{Timeout: s.Timeout, KeepAlive: 15 * time.Second}).DialContext
}

// over puts TLS over a dialer when the URL asks for it, with the name of the host that is dialled.
func (s *Target) over(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	if s.tls == nil {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		t := s.tls.Clone()
		t.ServerName, _, _ = net.SplitHostPort(addr)
		secure := tls.Client(c, t)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return secure, nil
	}
}
